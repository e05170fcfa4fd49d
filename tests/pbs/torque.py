"""TORQUE 6.1, as it shows itself to its users.

Texts and numbers are those of real servers where some were at hand, else those of its source code.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Optional

from tests.pbs.dialect import NUMBERS, SIZES, TIMES, WALLTIME, Call, Dialect, Manners, Option, Refused, Room
from tests.pbs.jobs import HOST, SERVER, Job
from tests.pbs.units import format_time, minute, parse_indices, parse_size

BAD_VALUE = """\
[qsub: illegal -{} value]

usage: qsub [-a date_time] [-A account_string] [-b secs]
    [-c [ none | {{ enabled | periodic | shutdown |
    depth=<int> | dir=<path> | interval=<minutes>}}... ]
    [-C directive_prefix] [-d path] [-D path]
    [-e path] [-h] [-I] [-j oe|eo|n] [-k {{oe}}] [-K <kill delay seconds>]
    [-l resource_list] [-m n|{{abe}}] [-M user_list] [-N jobname] [-o path]
    [-p priority] [-P proxy_user [-J <jobid]] [-q queue] [-r y|n]
    [-S path] [-t number_to_submit] [-T type]  [-u user_list] [-w] path
    [-W additional_attributes] [-v variable_list] [-V ] [-x] [-X] [-z] [script]
"""

NO_NODES = (
    "Job exceeds queue resource limits MSG=cannot locate feasible nodes (nodes file is empty, all systems "
    "are busy, or no nodes have the requested feature)"
)

FEATURES = ("fast",)  # of the one node
GPUS = 2
MAX_INDEX = 99999

RESOURCES = (
    *(name for name in (*SIZES, *TIMES, *NUMBERS) if name not in ("ngpus", "mpiprocs", "ompthreads")),
    "nodes",
    "nodect",
    *("advres", "arch", "feature", "gpus", "gres", "host", "naccesspolicy", "nodeset", "opsys", "other"),
    *("partition", "qos", "size", "software"),
)

ATTRIBUTES = ("depend", "group_list", "interactive", "job_radix", "stagein", "stageout", "umask", "x")


def _submit_error(code: int, text: str) -> Refused:
    return Refused(code, f"qsub: submit error ({text})")


class Torque(Dialect):
    """The dialect with -t, XML and completed jobs that are kept for a while."""

    queue = "batch"
    manners = Manners(
        executes="{}",
        exceeded={"walltime": -11},
        dependency_status=271,
        slot_holds=True,
        arrays_have_status=False,
        kept_with_array=False,
        by_environment=True,
        jammed_by=10000,
        gentle=True,
        spools_nothing=False,
    )
    options: Mapping[str, str] = MappingProxyType(
        {
            "qsub": "a:A:b:c:C:d:D:e:EfF:hi:Ij:J:k:K:l:L:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:Xxz",
            "qstat": "acCeE:filn1pqrstu:xGMQRBW:",
            "qdel": "ab:cm:pW:t:",
            "qhold": "h:t:",
            "qrls": "h:t:",
            "qrerun": "fm:",
            "qalter": "a:A:c:e:h:j:k:l:m:M:N:o:p:q:r:S:t:u:v:W:",
        }
    )
    dependencies = (
        *Dialect.dependencies,
        *("afterstartarray", "afterokarray", "afternotokarray", "afteranyarray"),
    )

    # Submission

    def resources(self, asked: Mapping[str, str]) -> dict[str, str]:
        found = {"walltime": format_time(WALLTIME), "nodes": "1", **self.checked(asked, RESOURCES)}
        found["nodect"] = str(sum(count for count, _, _ in _nodes(found["nodes"])))
        return found

    def room(self, resources: Mapping[str, str]) -> Room:
        cpus = 0
        for count, cores, fits in _nodes(resources["nodes"]):
            cpus += count * cores
            if not fits or count > 1:
                raise _submit_error(190, NO_NODES)
        cpus = max(cpus, *(int(resources.get(name, 0)) for name in ("procs", "ncpus")))
        if cpus > self.settings.slots:
            raise _submit_error(190, NO_NODES)
        return Room(cpus)

    def array(
        self, chosen: Mapping[str, str], attributes: Mapping[str, str]
    ) -> tuple[Optional[tuple[int, ...]], int]:
        if "t" not in chosen:
            return None, 0
        text, _, throttle = chosen["t"].partition("%")
        try:
            indices = parse_indices(text)
            limit = int(throttle or 0)
        except ValueError as error:
            raise _submit_error(235, "Bad Job Array Request") from error
        if ":" in text or not indices or max(indices) > MAX_INDEX:
            raise _submit_error(235, "Bad Job Array Request")
        if len(indices) > self.settings.max_array:
            reason = f"Requested array size too large, limit is {self.settings.max_array}"
            raise _submit_error(235, f"Bad Job Array Request MSG={reason}")
        return indices, limit

    def origin(self, call: Call) -> dict[str, str]:
        copied = {
            f"PBS_O_{name}": call.environ[name]
            for name in ("HOME", "LOGNAME", "PATH", "MAIL", "SHELL", "LANG")
            if name in call.environ
        }
        return {
            "PBS_O_QUEUE": self.queue,
            **copied,
            "PBS_O_WORKDIR": call.directory,
            "PBS_O_HOST": SERVER,
            "PBS_O_SERVER": SERVER,
        }

    def check_name(self, name: str) -> None:
        if not re.fullmatch(r"[!-~]{1,256}", name):
            raise self.bad_value("N")

    def check_attributes(self, attributes: Mapping[str, str]) -> None:
        if set(attributes).difference(ATTRIBUTES):
            raise _submit_error(154, "Undefined attribute ")

    def check_parents(self, unknown: Sequence[str]) -> None:
        raise _submit_error(208, "Invalid Job Dependency")

    def new_throttle(self, chosen: Mapping[str, str], attributes: Mapping[str, str]) -> Optional[int]:
        return int(chosen["t"].lstrip("%")) if "t" in chosen else None

    # Refusals

    def bad_value(self, option: str) -> Refused:
        return Refused(2, BAD_VALUE.format(option))

    def unknown_queue(self) -> Refused:
        return _submit_error(172, "Unknown queue MSG=requested queue not found")

    def unknown_resource(self, name: str) -> Refused:
        return _submit_error(189, f"Unknown resource type  Resource_List.{name}")

    def bad_resource(self, name: str) -> Refused:
        return _submit_error(168, f"Illegal attribute or resource value for Resource_List.{name}")

    def queue_full(self, owner: str) -> Refused:
        return _submit_error(
            228,
            "Maximum number of jobs already in queue for user MSG=total number of current user's jobs "
            f"exceeds the queue limit: user {owner}@{HOST}, queue {self.queue}",
        )

    def no_script(self, path: str, error: OSError) -> Refused:
        return Refused(1, f"qsub: script file '{path}' cannot be loaded - {error.strerror}")

    def root(self) -> Refused:
        return Refused(1, "qsub can not be run as root")

    def unknown(self, command: str, operand: str) -> Refused:
        if command == "qdel":
            return Refused(153, f"qdel: nonexistent job id: {operand}")
        return Refused(153, f"{command}: Unknown Job Id Error {self.keys(operand)[0]}")

    def finished(self, command: str, job: Job) -> Refused:
        complaint = "Request invalid for state of job MSG=invalid state for job - COMPLETE"
        return Refused(170, f"{command}: {complaint} {job.id}")

    def operands(self, options: Sequence[Option], operands: Sequence[str]) -> Sequence[str]:
        """With ``-t 1-3``, these elements of the arrays."""
        ranges = dict(options).get("t", "%")
        if ranges.startswith("%"):  # qalter's new throttle
            return operands
        indices = parse_indices(ranges)
        return [operand.replace("[]", f"[{index}]") for operand in operands for index in indices]

    # Running

    def environment(self, job: Job) -> Mapping[str, str]:
        request = job.request
        return {
            **({"PBS_ARRAYID": str(job.index)} if job.array else {}),
            "LOGNAME": request.owner,
            "USER": request.owner,
            "PBS_JOBNAME": job_name(job),
            "PBS_JOBID": job.id,
            "PBS_QUEUE": request.queue,
            "PBS_JOBCOOKIE": f"{job.number:032X}",
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "PBS_MOMPORT": "15003",
            "PBS_NUM_NODES": "1",
            "PBS_NUM_PPN": str(request.cpus),
            "PBS_NP": str(request.cpus),
            "PBS_WALLTIME": str(int(request.walltime)),
            "PBS_VERSION": "TORQUE-6.1.3",
            "PBS_ENVIRONMENT": "PBS_BATCH",
        }

    def limits(self, job: Job) -> list[str]:
        sizes = [job.request.resources[name] for name in ("mem", "pmem") if name in job.request.resources]
        if not sizes:
            return []
        kilobytes = min(map(parse_size, sizes)) >> 10
        return [f"ulimit -d {kilobytes}", f"ulimit -v {kilobytes}"]

    def usual_name(self, job: Job, stream: str) -> str:
        element = f"-{job.index}" if job.array else ""
        return f"{job.request.name}.{stream}{job.number}{element}"

    def element_path(self, job: Job, path: str) -> str:
        return f"{path}-{job.index}" if job.array and path != "/dev/null" else path

    def waiting(self, job: Job) -> str:
        return job.status.comment

    def started(self, job: Job) -> str:
        return f"Job started on {minute(time.time())}"

    def ended(self, job: Job, last: Job) -> str:
        return job.status.comment


def _nodes(text: str) -> Iterator[tuple[int, int, bool]]:
    """For each part of ``-l nodes``: nodes, CPUs on each, and whether there are nodes of that kind."""
    for part in text.split("+"):
        count, *properties = part.split(":")
        cores, fits = 1, count.isdigit() or count == HOST
        for word in properties:
            name, _, value = word.partition("=")
            if name == "ppn" and value.isdigit():
                cores = int(value)
            elif name == "gpus" and value.isdigit():
                fits = fits and int(value) <= GPUS
            else:
                fits = fits and word in FEATURES
        yield int(count) if count.isdigit() else 1, cores, fits


def job_name(job: Job) -> str:
    """Elements have names of their own."""
    return f"{job.request.name}-{job.index}" if job.array else job.request.name
