"""What TORQUE's qstat shows: tables, text and XML."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping, Sequence
from typing import Optional, Union
from xml.sax.saxutils import escape

from tests.pbs.dialect import Refused
from tests.pbs.jobs import ACTIVE, HOST, SERVER, Job, State, Status
from tests.pbs.qstat import Attributes, Qstat, full_text, user_at_host
from tests.pbs.torque import MAX_INDEX, job_name
from tests.pbs.units import ctime, format_indices, format_time

JOBS = """\
Job ID                    Name             User            Time Use S Queue
------------------------- ---------------- --------------- -------- - -----
"""

QUEUES = """\
Queue              Max    Tot   Ena   Str   Que   Run   Hld   Wat   Trn   Ext T   Cpt
----------------   ---   ----    --    --   ---   ---   ---   ---   ---   --- -   ---
"""

TIMES = ("ctime", "etime", "mtime", "qtime", "start_time", "comp_time")


class TorqueQstat(Qstat):
    """Arrays are shown as a whole, and with -t by their elements instead."""

    unknown_job = (153, "Unknown Job Id Error")
    unknown_queue = (172, "Unknown queue MSG=cannot locate queue")

    def chosen(self, operand: str) -> list[Job]:
        elements = "t" in self.flags
        every = [job for job in self.jobs.values() if not (job.is_array if elements else job.array)]
        if self.is_queue(operand):
            return every
        (key,) = self.dialect.keys(operand)
        if "[]" in key and not elements:
            return every  # whatever was asked for
        job = self.job(key)
        return [element for element in job.elements if element.id in self.jobs] if job.is_array else [job]

    def shown(self, found: Sequence[Sequence[Job]]) -> str:
        if "x" in self.flags:  # a document for each operand, and none for no jobs
            return "".join(self._xml(part) for part in found if part)
        every = [job for part in found for job in part]
        if "f" in self.flags:
            return "".join(full_text(f"Job Id: {job.id}", _readable(self._attributes(job))) for job in every)
        return JOBS + "".join(map(self._line, every)) if every else ""

    def server(self) -> str:
        settings = self.dialect.settings
        attributes = {
            "server_state": "Active",
            "scheduling": "True",
            "default_queue": self.dialect.queue,
            **({"max_job_array_size": str(settings.max_array)} if settings.max_array < MAX_INDEX else {}),
            "keep_completed": str(int(settings.keep)),
            "pbs_version": "6.1.3",
        }
        return full_text(f"Server: {SERVER}", attributes)

    def queues(self) -> str:
        queue = self.dialect.queue
        if "f" in self.flags:
            return full_text(
                f"Queue: {queue}", {"queue_type": "Execution", "enabled": "True", "started": "True"}
            )
        count = self.count()
        numbers = [count[state] for state in (State.QUEUED, State.RUNNING, State.HELD, State.WAITING)]
        columns = "".join(f"{number:>6}" for number in [*numbers, 0, count[State.EXITING]])
        total = sum(count.values())
        return f"{QUEUES}{queue:<16} {0:>5} {total:>6}   yes   yes{columns} E {count[State.FINISHED]:>5}\n"

    def code(self, errors: Sequence[Refused]) -> int:
        return errors[0].code if errors else 0

    def _xml(self, part: Sequence[Job]) -> str:
        text = "".join(f"<Job><Job_Id>{job.id}</Job_Id>{_tags(self._attributes(job))}</Job>" for job in part)
        return f'<?xml version="1.0"?>\n<Data>{text}</Data>\n'

    def _line(self, job: Job) -> str:
        used = format_time(job.usage.cpu) if job.usage and self.status(job).started else "0"
        return (
            f"{job.id:<28} {job_name(job)[:16]:<16} {job.request.owner[:15]:<12} {used:>8} "
            f"{self._state(job)} {job.request.queue:<15}\n"
        )

    def _state(self, job: Job) -> str:
        state = self.status(job).state
        if state is State.BEGUN:
            states = {self.status(element).state for element in job.elements}
            return "R" if states.intersection(ACTIVE) else "Q" if State.QUEUED in states else "H"
        return "C" if state is State.FINISHED else state.value

    def _attributes(self, job: Job) -> Attributes:
        request, status = job.request, self.status(job)
        found: dict[str, Union[str, Mapping[str, str], None]] = {
            "Job_Name": job_name(job),
            "Job_Owner": user_at_host(job),
            "resources_used": self._used(job, status),
            "job_state": self._state(job),
            "queue": request.queue,
            "server": SERVER,
            "Account_Name": request.account,
            "Checkpoint": "u",
            "ctime": _seconds(request.submitted),
            "depend": ",".join(map(str, request.depend)) or None,
            "Error_Path": f"{SERVER}:{self.dialect.output_path(job, 'e')}",
            "exec_host": f"{HOST}/{format_indices(status.cpus)}" if status.cpus else None,
            "Hold_Types": status.holds or (None if job.array else "n"),
            "Join_Path": request.join,
            "Keep_Files": request.keep,
            "Mail_Points": request.mail,
            "mtime": _seconds(status.changed),
            "Output_Path": f"{SERVER}:{self.dialect.output_path(job, 'o')}",
            "Priority": str(request.priority),
            "qtime": _seconds(request.submitted),
            "Rerunable": str(request.rerunnable),
            "Resource_List": {**request.resources, "walltime": format_time(job.walltime)},
            "session_id": str(status.session) if status.session else None,
            "Variable_List": _variable_list(job),
            "euser": request.owner,
            "egroup": grp.getgrgid(pwd.getpwnam(request.owner).pw_gid).gr_name,
            "queue_type": "E",
            "comment": status.comment or None,
            "etime": _seconds(status.eligible),
            "exit_status": None if job.is_array or status.exit_status is None else str(status.exit_status),
            "submit_args": request.arguments,
            "job_array_id": str(job.index) if job.array else None,
            "start_time": _seconds(status.started),
            "Walltime": self._remaining(job, status),
            "start_count": str(status.runs) if status.started else None,
            "fault_tolerant": "False",
            "comp_time": _seconds(status.ended) if status.started else None,
            "job_radix": "0",
            "total_runtime": _total(status),
            "submit_host": SERVER,
            "init_work_dir": request.directory,
            "request_version": "1" if status.started else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _used(self, job: Job, status: Status) -> Optional[Mapping[str, str]]:
        if job.usage is None or status.started is None:
            return None
        return {
            "cput": format_time(job.usage.cpu),
            "vmem": f"{job.usage.virtual}kb",
            "walltime": format_time((status.ended or self.now) - status.started),
            "mem": f"{job.usage.memory}kb",
            "energy_used": "0",
        }

    def _remaining(self, job: Job, status: Status) -> Optional[Mapping[str, str]]:
        if status.state is not State.RUNNING or status.started is None:
            return None
        return {"Remaining": str(int(status.started + job.walltime - self.now))}


def _total(status: Status) -> Optional[str]:
    return f"{status.ended - status.started:f}" if status.started and status.ended else None


def _seconds(when: Optional[float]) -> Optional[str]:
    return None if when is None else str(int(when))


def _variable_list(job: Job) -> str:
    element = {"PBS_ARRAYID": str(job.index)} if job.array else {}
    return ",".join(f"{name}={value}" for name, value in {**element, **job.request.variables}.items())


def _readable(attributes: Attributes) -> Attributes:
    """The same with times as text has them."""
    return {
        name: ctime(int(value)) if name in TIMES and isinstance(value, str) else value
        for name, value in attributes.items()
    }


def _tags(attributes: Attributes) -> str:
    quotes = {'"': "&quot;", "'": "&apos;"}
    return "".join(
        f"<{name}>{escape(value, quotes) if isinstance(value, str) else _tags(value)}</{name}>"
        for name, value in attributes.items()
    )
