"""OpenPBS 23.06 (and so PBS Pro), as it shows itself to its users.

Texts and numbers are those of real servers where some were at hand, else those of its source code.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Optional

from tests.pbs.dialect import WALLTIME, Call, Dialect, Manners, Refused, Room
from tests.pbs.jobs import HOST, Job, State
from tests.pbs.units import format_time, minute, parse_indices, parse_size

USAGE = """\
usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-v variable_list] [-V ]
\t[-W otherattributes=value...] [-z] [script | -- command [arg1 ...]]
       qsub --version"""

GPUS = 2  # of the one node

# What is asked for by the chunk, or for the whole job if nothing is asked for by the chunk.
OF_CHUNKS = ("arch", "host", "mem", "mpiprocs", "ncpus", "ngpus", "ompthreads", "vmem", "vnode")
OF_JOBS = (
    *("cput", "file", "max_walltime", "min_walltime", "nice", "nodect", "nodes", "pcput", "place", "pmem"),
    *("pvmem", "select", "site", "software", "soft_walltime", "walltime"),
)

ATTRIBUTES = (
    *("block", "depend", "group_list", "interactive", "max_run_subjobs", "release_nodes_on_stageout"),
    *("run_count", "sandbox", "stagein", "stageout", "tolerate_node_failures", "umask"),
)

INDEX = "^array_index^"

# A held array of at least so many elements is not deleted together with other jobs.
LARGE = 1000


class Chunk(NamedTuple):
    """A part of ``-l select``: how often, and what."""

    times: int
    resources: Mapping[str, str]

    def total(self, name: str) -> int:
        return self.times * int(self.resources.get(name, 0))


class OpenPbs(Dialect):
    """The dialect with -J, JSON and a history of jobs."""

    queue = "workq"
    manners = Manners(
        executes="exec {}",
        exceeded={"walltime": -29, "mem": -27},
        dependency_status=None,
        slot_holds=False,
        arrays_have_status=True,
        kept_with_array=True,
        by_environment=False,
        jammed_by=sys.maxsize,
        gentle=False,
        spools_nothing=True,
    )
    options: Mapping[str, str] = MappingProxyType(
        {
            "qsub": "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:v:VW:XzG",
            "qstat": "ainpqrstwxu:fGHJMQEBW:T1F:D:",
            "qdel": "W:x",
            "qhold": "h:",
            "qrls": "h:",
            "qrerun": "W:",
            "qalter": "a:A:c:e:h:j:k:l:m:M:N:o:p:P:r:R:S:u:W:",
        }
    )

    # Submission

    def resources(self, asked: Mapping[str, str]) -> dict[str, str]:
        found = self.checked(asked, (*OF_CHUNKS, *OF_JOBS))
        found.setdefault("walltime", format_time(WALLTIME))
        if {"select", "place"}.intersection(found):
            self._check_places(found)
            found.setdefault("place", "free")
        else:
            found.update(_select(found))
        chunks = self._chunks(found["select"])
        found["nodect"] = str(sum(chunk.times for chunk in chunks))
        for name in ("ncpus", "ngpus", "mpiprocs"):
            total = sum(chunk.total(name) for chunk in chunks)
            if total:
                found[name] = str(total)
        return dict(sorted(found.items()))

    def room(self, resources: Mapping[str, str]) -> Room:
        chunks = self._chunks(resources["select"])
        cpus = sum(chunk.total("ncpus") for chunk in chunks)
        sizes = [chunk.times * parse_size(chunk.resources.get("mem", "0")) for chunk in chunks]
        spread = "scatter" in resources["place"] and sum(chunk.times for chunk in chunks) > 1
        gpus = sum(chunk.total("ngpus") for chunk in chunks)
        return Room(cpus, sum(sizes) or None, cpus <= self.settings.slots and gpus <= GPUS and not spread)

    def array(
        self, chosen: Mapping[str, str], attributes: Mapping[str, str]
    ) -> tuple[Optional[tuple[int, ...]], int]:
        if "J" not in chosen:
            return None, 0
        text, _, throttle = chosen["J"].partition("%")
        throttle = throttle or attributes.get("max_run_subjobs", "0")
        match = re.fullmatch(r"(\d+)-(\d+)(:[1-9]\d*)?", text)
        if match is None or int(match[1]) >= int(match[2]) or not throttle.isdigit():
            raise self.bad_value("J")
        if chosen.get("r") == "n":
            raise Refused(2, f"qsub: cannot submit non-rerunable Array Job\n{USAGE}")
        indices = parse_indices(text)
        if len(indices) > self.settings.max_array:
            raise Refused(3, "qsub: Array job exceeds server or queue size limit")
        return indices, int(throttle)

    def origin(self, call: Call) -> dict[str, str]:
        copied = {
            f"PBS_O_{name}": call.environ[name]
            for name in ("HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL")
            if name in call.environ
        }
        return {
            **copied,
            "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
            "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "",
            "PBS_O_WORKDIR": call.directory,
            "PBS_O_SYSTEM": "Linux",
            "PBS_O_QUEUE": self.queue,
            "PBS_O_HOST": HOST,
        }

    def check_name(self, name: str) -> None:
        if len(name) > 230:
            raise Refused(2, "qsub: Job name is too long ")
        if not re.fullmatch(r"[A-Za-z0-9_+.-]+", name):
            raise self.bad_value("N")

    def check_attributes(self, attributes: Mapping[str, str]) -> None:
        for name in attributes:
            if name not in ATTRIBUTES:
                raise Refused(154, f"qsub: Undefined attribute  {name}")

    def new_throttle(self, chosen: Mapping[str, str], attributes: Mapping[str, str]) -> Optional[int]:
        return int(attributes["max_run_subjobs"]) if "max_run_subjobs" in attributes else None

    def _check_places(self, asked: Mapping[str, str]) -> None:
        if "nodes" in asked:
            raise Refused(6, "qsub: Cannot be used with select or place: nodes")
        for name in OF_CHUNKS:
            if name in asked:
                text = '"-lresource=" cannot be used with "select" or "place", resource is'
                raise Refused(5, f"qsub: {text}: {name}")
        if "select" not in asked:
            raise Refused(7, 'qsub: Cannot have "place" without "select"')

    def _chunks(self, text: str) -> list[Chunk]:
        chunks = []
        for part in text.split("+"):
            words = part.split(":")
            times = int(words.pop(0)) if words[0].isdigit() else 1
            asked = dict(word.partition("=")[::2] for word in words)
            for name in asked:
                if name not in OF_CHUNKS:
                    raise Refused(187, f"qsub: Unknown resource: {name}")
            chunks.append(Chunk(times, {"ncpus": "1", **self.checked(asked, OF_CHUNKS)}))
        return chunks

    # Refusals

    def bad_value(self, option: str) -> Refused:
        return Refused(2, f"qsub: illegal -{option} value\n{USAGE}")

    def unknown_queue(self) -> Refused:
        return Refused(170, "qsub: Unknown queue")

    def unknown_resource(self, name: str) -> Refused:
        return Refused(187, f"qsub: Unknown resource Resource_List.{name}")

    def bad_resource(self, name: str) -> Refused:
        return Refused(166, f"qsub: Illegal attribute or resource value Resource_List.{name}")

    def queue_full(self, owner: str) -> Refused:
        return Refused(38, f"qsub: would exceed queue {self.queue}'s per-user limit")

    def no_script(self, path: str, error: OSError) -> Refused:
        return Refused(1, f"qsub: script file:: {error.strerror}")

    def root(self) -> Refused:
        return Refused(175, "qsub: Bad UID for job execution")

    def unknown(self, command: str, operand: str) -> Refused:
        return Refused(153, f"{command}: Unknown Job Id {self.keys(operand)[0]}")

    def finished(self, command: str, job: Job) -> Refused:
        if job.array is not None and job.array.status.state is not State.FINISHED:
            return Refused(55, f"{command}: Request invalid for finished array subjob {job.id}")
        return Refused(35, f"{command}: Job has finished {job.id}")

    def keys(self, operand: str) -> list[str]:
        """With a range, ``12[1-3]``, several."""
        (key,) = super().keys(operand)
        match = re.fullmatch(r"(\d+)\[([\d,:-]*-[\d,:-]*)\]\.(.+)", key)
        if match is None:
            return [key]
        return [f"{match[1]}[{index}].{match[3]}" for index in parse_indices(match[2])]

    def deletes_nothing(self, jobs: Sequence[Job]) -> bool:
        return len(jobs) > 1 and any(
            len(job.elements) >= LARGE and job.status.state is State.HELD for job in jobs
        )

    # Running

    def environment(self, job: Job) -> Mapping[str, str]:
        request = job.request
        threads = request.resources.get("ompthreads", str(request.cpus))
        return {
            "LOGNAME": request.owner,
            "USER": request.owner,
            "PBS_JOBNAME": request.name,
            "PBS_JOBID": job.id,
            "PBS_QUEUE": request.queue,
            "PBS_JOBCOOKIE": f"{job.number:032X}",
            "PBS_JOBDIR": f"{self.settings.directory}/home",
            "PBS_NODENUM": "0",
            "PBS_TASKNUM": "1",
            "PBS_MOMPORT": "15003",
            "OMP_NUM_THREADS": threads,
            "NCPUS": str(request.cpus),
            "PBS_ENVIRONMENT": "PBS_BATCH",
            "ENVIRONMENT": "BATCH",
            **({"PBS_ACCOUNT": request.account} if request.account else {}),
            **({"PBS_ARRAY_INDEX": str(job.index), "PBS_ARRAY_ID": job.array.id} if job.array else {}),
        }

    def usual_name(self, job: Job, stream: str) -> str:
        element = f".{job.index}" if job.array else f".{INDEX}" if job.is_array else ""
        return f"{job.request.name}.{stream}{job.number}{element}"

    def element_path(self, job: Job, path: str) -> str:
        return path.replace(INDEX, str(job.index)) if job.array else path

    # Comments on jobs

    def waiting(self, job: Job) -> str:
        request = job.request
        if request.fits:
            return "Not Running: Insufficient amount of resource: ncpus"
        needed = f"(R: {request.cpus} A: {self.settings.slots} T: {self.settings.slots})"
        return f"Can Never Run: Insufficient amount of resource: ncpus {needed}"

    def started(self, job: Job) -> str:
        begun = "Job Array Began" if job.is_array else "Job run"
        place = "" if job.is_array else f" on {vnode(job)}"
        return f"{begun} at {minute(time.time())}{place}"

    def ended(self, job: Job, last: Job) -> str:
        if job.status.started is None:
            return job.status.comment
        if last.verdict:
            how = f"exceeded resource {last.verdict}"
        elif last.status.deleted:
            how = f"terminated by {job.request.owner}@{HOST}"
        else:
            how = "failed" if last.status.exit_status else "finished"
        return f"{job.status.comment} and {how}"


def _select(asked: Mapping[str, str]) -> dict[str, str]:
    """The ``select`` and ``place`` of a job that has not asked for chunks."""
    if "nodes" in asked:
        count, *words = asked["nodes"].split(":")
        cores = next((word[len("ppn=") :] for word in words if word.startswith("ppn=")), "1")
        return {"select": f"{count}:ncpus={cores}:mpiprocs={cores}", "place": "scatter"}
    chunk = {"ncpus": "1", **{name: asked[name] for name in OF_CHUNKS if name in asked}}
    return {
        "select": ":".join(["1", *(f"{name}={value}" for name, value in sorted(chunk.items()))]),
        "place": "pack",
    }


def vnode(job: Job) -> str:
    """What a job has of the node."""
    memory = f"mem={job.request.memory >> 10}kb:" if job.request.memory else ""
    return f"({HOST}:{memory}ncpus={job.request.cpus})"
