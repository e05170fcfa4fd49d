"""What OpenPBS's qstat shows: tables, text and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Optional, Union

from tests.pbs.dialect import Refused
from tests.pbs.jobs import ACTIVE, HOST, SERVER, Job, State, Status
from tests.pbs.openpbs import vnode
from tests.pbs.qstat import Attributes, Qstat, full_text, user_at_host
from tests.pbs.units import ctime, format_indices, format_time

VERSION = "23.06.06"

JOBS = """\
Job id            Name             User              Time Use S Queue
----------------  ---------------- ----------------  -------- - -----
"""

QUEUES = """\
Queue              Max   Tot Ena Str   Que   Run   Hld   Wat   Trn   Ext Type
---------------- ----- ----- --- --- ----- ----- ----- ----- ----- ----- ----
"""

SUBSTATES = {
    State.QUEUED: "10",
    State.WAITING: "30",
    State.BEGUN: "7",
    State.RUNNING: "42",
    State.EXITING: "51",
}

REPORT = 10.0  # seconds after which a job's node tells more of it


class OpenPbsQstat(Qstat):
    """Elements are shown with -t only, jobs that have ended with -x only, then all in JSON or text."""

    unknown_job = (153, "Unknown Job Id")
    unknown_queue = (170, "Unknown queue")

    def chosen(self, operand: str) -> list[Job]:
        history = "x" in self.flags
        if history and not self.dialect.settings.history:
            raise Refused(0, f"qstat: PBS is not configured to maintain job history {operand}")
        if self.is_queue(operand):
            every = [job for job in self.jobs.values() if "t" in self.flags or not job.array]
            return [job for job in every if history or not self._is_over(job)]
        found = []
        for key in self.dialect.keys(operand):
            job = self.job(key)
            if self._is_over(job) and not history:
                advice = "use -x or -H to obtain historical job information"
                raise Refused(35, f"qstat: {key} Job has finished, {advice}")
            found += [job, *(job.elements if "t" in self.flags else [])]
        return found

    def shown(self, found: Sequence[Sequence[Job]]) -> str:
        if self.flags.get("F") == "json":
            first = next((part for part in found if part), None)  # the others get lost
            if first is None:
                return self._document({})
            return self._document({"Jobs": {job.id: _typed(self._attributes(job)) for job in first}})
        every = [job for part in found for job in part]
        if "f" in self.flags:
            return "".join(map(self._text, every))
        return JOBS + "".join(map(self._line, every)) if every else ""

    def server(self) -> str:
        settings = self.dialect.settings
        attributes = {
            "server_state": "Active",
            "server_host": SERVER,
            "scheduling": "True",
            "default_queue": self.dialect.queue,
            "max_array_size": str(settings.max_array),
            "pbs_version": VERSION,
            "job_history_enable": str(settings.history),
            "job_history_duration": format_time(settings.keep),
        }
        if self.flags.get("F") == "json":
            return self._document({"Server": {SERVER: _typed(attributes)}})
        return full_text(f"Server: {SERVER}", attributes)

    def queues(self) -> str:
        queue = self.dialect.queue
        attributes = {"queue_type": "Execution", "enabled": "True", "started": "True"}
        if self.flags.get("F") == "json":
            return self._document({"Queue": {queue: _typed(attributes)}})
        if "f" in self.flags:
            return full_text(f"Queue: {queue}", attributes)
        count = self.count()
        del count[State.FINISHED]
        numbers = [count[state] for state in (State.QUEUED, State.RUNNING, State.HELD, State.WAITING)]
        columns = "".join(f"{number:>6}" for number in [*numbers, 0, count[State.EXITING]])
        return f"{QUEUES}{queue:<16} {0:>5} {sum(count.values()):>5} yes yes{columns} Exec\n"

    def code(self, errors: Sequence[Refused]) -> int:
        return errors[-1].code if errors else 0

    def _text(self, job: Job) -> str:
        variables = ",".join(f"{name}={value}" for name, value in job.request.variables.items())
        return full_text(f"Job Id: {job.id}", {**self._attributes(job), "Variable_List": variables})

    def _document(self, content: Mapping[str, object]) -> str:
        head = {"timestamp": int(self.now), "pbs_version": VERSION, "pbs_server": SERVER}
        return to_json({**head, **content}) + "\n"

    def _line(self, job: Job) -> str:
        used = format_time(job.usage.cpu) if job.usage and self.status(job).started else "0"
        return (
            f"{job.id:<17} {job.request.name[:16]:<16} {job.request.owner[:16]:<16}  {used:>8} "
            f"{self._state(job)} {job.request.queue:<5}\n"
        )

    def _is_over(self, job: Job) -> bool:
        """Whether it is history; elements are as soon as their whole array is."""
        return self.status(job.array or job).state is State.FINISHED

    def _state(self, job: Job) -> str:
        state = self.status(job).state
        if job.array is not None and state is State.FINISHED and not self._is_over(job):
            return "X"
        return state.value

    def _attributes(self, job: Job) -> Attributes:
        request, status = job.request, self.status(job)
        over = status.state is State.FINISHED
        age = 0.0 if status.started is None else (status.ended or self.now) - status.started
        home = f"{self.dialect.settings.directory}/home"
        found: dict[str, Union[str, Mapping[str, str], None]] = {
            "Job_Name": request.name,
            "Job_Owner": user_at_host(job),
            "resources_used": self._used(job, status),
            "job_state": self._state(job),
            "queue": request.queue,
            "server": SERVER,
            "Account_Name": request.account,
            "Checkpoint": None if job.array else "u",
            "ctime": ctime(request.submitted),
            "depend": ",".join(map(str, request.depend)) or None,
            "Error_Path": f"{HOST}:{self.dialect.output_path(job, 'e')}",
            "exec_host": _exec_host(status.cpus),
            "exec_vnode": vnode(job) if status.cpus else None,
            "Hold_Types": None if job.array else status.holds or "n",
            "Join_Path": request.join,
            "Keep_Files": request.keep,
            "Mail_Points": request.mail,
            "mtime": ctime(status.changed),
            "Output_Path": f"{HOST}:{self.dialect.output_path(job, 'o')}",
            "Priority": str(request.priority),
            "qtime": ctime(request.submitted),
            "Rerunable": str(request.rerunnable),
            "Resource_List": {**request.resources, "walltime": format_time(job.walltime)},
            "stime": _time(status.started),
            "obittime": _time(status.ended) if status.started else None,
            "session_id": str(status.session) if status.session and age > REPORT else None,
            "jobdir": home if status.session and (over or age > REPORT) else None,
            "substate": _substate(job, status),
            "Variable_List": request.variables,
            "comment": self._comment(job, status) or None,
            "etime": _time(status.eligible),
            "run_count": str(status.runs) if status.started and not job.is_array else None,
            "Stageout_status": "1" if over and status.started else None,
            "Exit_status": self._exit_status(job),
            "Submit_arguments": None if job.array else request.arguments,
            **self._of_array(job),
            "history_timestamp": str(int(status.ended)) if over and status.ended else None,
            "project": "_pbs_project_default",
            "Submit_Host": HOST,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _comment(self, job: Job, status: Status) -> str:
        if job.array is not None and status.state is State.FINISHED and status.started is None:
            return "Subjob finished"  # although it never began
        if status.deleted and status.state in ACTIVE:
            return self.dialect.ended(job, job)
        return status.comment

    def _exit_status(self, job: Job) -> Optional[str]:
        """An element that has not run shows that of its array, which is that of another element."""
        shown = job.array if job.array is not None and self.status(job).started is None else job
        status = self.status(shown)
        known = shown.is_array or status.state is State.FINISHED
        return str(status.exit_status) if known and status.exit_status is not None else None

    def _of_array(self, job: Job) -> dict[str, Optional[str]]:
        if job.array is not None:
            return {"array_id": job.array.id, "array_index": str(job.index)}
        if not job.is_array:
            return {}
        states = {element.index: self.status(element).state for element in job.elements}
        remaining = [index for index, state in states.items() if state not in (*ACTIVE, State.FINISHED)]
        ended = sum(state is State.FINISHED for state in states.values())
        counts = {
            "Queued": len(remaining),
            "Running": sum(state is State.RUNNING for state in states.values()),
            "Exiting": sum(state is State.EXITING for state in states.values()),
            "Expired": 0 if self._is_over(job) else ended,
        }
        first, second, *_, last = [*states, max(states)]
        step = f":{second - first}" if second - first > 1 else ""
        return {
            "array": "True",
            "array_state_count": " ".join(f"{name}:{count}" for name, count in counts.items()),
            "array_indices_submitted": f"{first}-{last}{step}",
            "array_indices_remaining": format_indices(remaining) or "-",
            "max_run_subjobs": str(job.throttle) if job.throttle else None,
        }

    def _used(self, job: Job, status: Status) -> Optional[Mapping[str, str]]:
        if job.usage is None or status.started is None:
            return None
        return {
            "cpupercent": "0",
            "cput": format_time(job.usage.cpu),
            "mem": f"{job.usage.memory}kb",
            "ncpus": str(job.request.cpus),
            "vmem": f"{job.usage.virtual}kb",
            "walltime": format_time((status.ended or self.now) - status.started),
        }


def _substate(job: Job, status: Status) -> str:
    if status.state is State.FINISHED:
        if status.deleted or status.exit_status is None:
            return "91"
        return "93" if status.exit_status else "92"
    if status.state is State.HELD:
        return "22" if "s" in status.holds else "20"
    if status.state is State.RUNNING and job.usage is None:
        return "41"  # just started
    return SUBSTATES[status.state]


def _exec_host(cpus: Sequence[int]) -> Optional[str]:
    if not cpus:
        return None
    return f"{HOST}/{cpus[0]}*{len(cpus)}" if len(cpus) > 1 else f"{HOST}/{cpus[0]}"


def _time(when: Optional[float]) -> Optional[str]:
    return None if when is None else ctime(when)


def _typed(attributes: Attributes) -> Mapping[str, object]:
    """Whatever can be read as JSON is taken for it, so that the value "007" becomes the number 7."""
    return {
        name: _value(value) if isinstance(value, str) else {key: _value(text) for key, text in value.items()}
        for name, value in attributes.items()
    }


def _value(text: str) -> object:
    if re.fullmatch(r"-?\d+\.?\d*([eE][+-]?\d+)?", text):
        return float(text)
    if text[:1] in tuple('"[{tfn'):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass
    return text


def to_json(value: object, depth: int = 0) -> str:
    """JSON as the library cJSON writes it."""
    if isinstance(value, Mapping):
        tabs = "\t" * (depth + 1)
        items = (f"{tabs}{json.dumps(key)}:\t{to_json(item, depth + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(items) + "\n" + "\t" * depth + "}"
    if isinstance(value, list):
        return "[" + ", ".join(to_json(item, depth + 1) for item in value) + "]"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.15g}"
    return json.dumps(value, ensure_ascii=False)
