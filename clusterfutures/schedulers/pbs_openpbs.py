"""OpenPBS, as of 23.06, and PBS Pro."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterfutures.errors import OptionError
from clusterfutures.schedulers import pbs_options as pbs
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.schedulers.pbs_client import Client
from clusterfutures.schedulers.pbs_dialect import Dialect, JobId, by_base, index_ranges, with_marks
from clusterfutures.schedulers.pbs_status import (
    COMMON_ENDINGS,
    Ending,
    Meanings,
    Record,
    node,
    read_text,
    status,
    unfolded,
)
from clusterfutures.schedulers.slurm_status import portions
from clusterfutures.states import JobState

MEANINGS = Meanings(
    states={
        "Q": JobState.PENDING,
        "H": JobState.PENDING,
        "W": JobState.PENDING,  # waits for its time, or for files to be staged in
        "T": JobState.PENDING,  # on its way to another queue
        "M": JobState.UNKNOWN,  # is at another server now
        "R": JobState.RUNNING,
        "E": JobState.ENDING,  # its files are being copied, or a site's epilogue takes its time
        "S": JobState.SUSPENDED,
        "U": JobState.SUSPENDED,  # its node's owner is at the keyboard
        "X": JobState.COMPLETED,  # an element of an array that has not ended yet
        "F": JobState.COMPLETED,
    },
    endings={
        **COMMON_ENDINGS,
        -24: Ending(JobState.FAILED, "it used more CPUs than it had"),
        -25: Ending(JobState.FAILED, "it used more CPUs than it had"),
        -26: Ending(JobState.OUT_OF_MEMORY, "over its vmem"),
        -27: Ending(JobState.OUT_OF_MEMORY, "over its mem"),
        -28: Ending(JobState.TIMEOUT, "over its cput"),
        -29: Ending(JobState.TIMEOUT, "over its walltime"),
    },
)

EXCEEDED = {
    "walltime": JobState.TIMEOUT,
    "cput": JobState.TIMEOUT,
    "mem": JobState.OUT_OF_MEMORY,
    "vmem": JobState.OUT_OF_MEMORY,
}
"""What has ended a job that "exceeded resource ..." by its comment; older versions have no codes for it."""

SUBJOB_COMMENTS = {
    "Subjob finished": JobState.COMPLETED,
    "Subjob failed": JobState.FAILED,
    "Subjob terminated": JobState.CANCELLED,
}
"""All that a server remembers of some elements that have ended; the rest of the record is their array's.

With history, an element that has run has a record of its own.
"""

DELETED = re.compile(r"terminated by \S+")
"""A part of the comment of jobs for which there was a qdel, as soon as there was."""

HELD = "too many failed attempts to run"
"""A part of the comment of jobs that are held for good, as no node could start them."""

NO_HISTORY = "not configured to maintain job history"

KINDS = (
    *("after", "afterok", "afternotok", "afterany", "before", "beforeok", "beforenotok", "beforeany"),
    *("on", "runone"),
)


def _depends(kind: str, job: str) -> str:
    if "[]" in job and kind in ("afterok", "afternotok"):
        raise OptionError(
            f"depends: OpenPBS takes the last element's exit code for that of the whole array {job}, so that "
            f"{kind} would be a lie; afterany:{job} waits for its end"
        )
    return f"{kind}:{job}"


FLAGS = {**pbs.FLAGS, "depends": pbs.dependency(KINDS, _depends)}
ADVICE = {**pbs.ADVICE, "reservation": "the queue of a reservation has its name: partition='R123'"}


class OpenPbs(Dialect):
    """Arrays by -J, select=...:ncpus=..., history."""

    name = "openpbs"
    title = "OpenPBS"
    array_option = "-J"
    index = "$PBS_ARRAY_INDEX"
    nowhere = "localhost:/dev/null"  # without a host, the node would copy it to ours, by scp
    imposed = ("OMP_NUM_THREADS",)
    flags = FLAGS
    listed = frozenset(
        {"time", "cores", "mem", "mem_per_cpu", "nodes", "tasks", "tasks_per_node", "gpus", "gres"}
        | {"features", "nodelist", "exclusive"}
    )
    advice = ADVICE
    names = "[A-Za-z0-9_+.-]{1,230}", "up to 230 letters, digits and -_+."

    def __init__(self, throttles: bool = True) -> None:
        """`throttles`: there is "%2" in "-J 0-9%2"; from 2021 on there is."""
        self.throttles = throttles
        self._history = True  # until it says that it keeps none

    def own_words(self, name: str, mark: str) -> list[str]:
        """In the foreground: else qsub leaves a process for a minute, to be quicker the next time."""
        return [*super().own_words(name, mark), "-f"]

    def check_array(self, resources: Mapping[str, Any]) -> None:
        """Its arrays can always be run anew."""
        if resources.get("requeue") is False:
            raise OptionError("requeue: OpenPBS has no arrays that it may not run anew; try arrays=False")

    def resource_list(self, resources: Mapping[str, Any]) -> list[str]:
        """Chunks and where to place them."""
        items = []
        if "time" in resources:
            items.append(f"walltime={pbs.walltime(resources['time'])}")
        if resources.keys() & (self.listed - {"time"}):
            items.append("select=" + pbs.parts(resources, self._of_each(resources), "1:host={}"))
            items += self._place(resources)
        return items

    @staticmethod
    def _of_each(resources: Mapping[str, Any]) -> list[str]:
        """The resources of each chunk."""
        chunks = pbs.chunks(resources)
        found = []
        if resources.keys() & {"cores", "tasks", "tasks_per_node"}:
            found.append(f"ncpus={chunks.cpus}")
        if resources.keys() & {"tasks", "tasks_per_node"}:
            found.append(f"mpiprocs={chunks.tasks}")
        if "mem" in resources:
            found.append(f"mem={pbs.size(resources['mem'])}")
        if "mem_per_cpu" in resources:
            found.append(f"mem={pbs.size(resources['mem_per_cpu'] * chunks.cpus)}")
        gpus = resources.get("gpus")
        if isinstance(gpus, str):
            raise OptionError(f"gpus: OpenPBS knows no types of GPUs, as in {gpus!r}; gres= takes resources")
        found += [f"ngpus={gpus}"] if gpus else []
        found += [_custom(item) for item in resources.get("gres", "").split(",") if item]
        wanted = pbs.features(resources["features"]) if "features" in resources else []
        return found + [f"{name}=True" for name in wanted]

    @staticmethod
    def _place(resources: Mapping[str, Any]) -> list[str]:
        exclusive = resources.get("exclusive", False)
        if not isinstance(exclusive, bool):
            raise OptionError(f"exclusive: OpenPBS takes True or False, not {exclusive!r}")
        words = ["scatter"] if (resources.get("nodes") or 1) > 1 else []
        words += ["excl"] if exclusive else []
        return ["place=" + ":".join(words)] if words else []

    def query(self, client: Client, bases: list[str]) -> dict[str, Record]:
        """``qstat -f``, with -t for the elements of arrays and -x for what has ended."""
        if self._history:
            done = client.query("-x", "-f", "-t", *bases)
            if NO_HISTORY not in done.stderr:
                return read_text(unfolded(done.stdout))
            self._history = False
        return read_text(unfolded(client.query("-f", "-t", *bases).stdout))

    def status(self, record: Record) -> JobStatus:
        """By OpenPBS' letters and codes, and its comments."""
        comment = record.get("comment", "")
        if node(record) is None:
            # An element that has not run, or is nearly forgotten: it is shown with its array's exit status.
            record = {name: value for name, value in record.items() if name != "exit_status"}
        found = status(record, MEANINGS)
        if found.state.ended:
            never_ran = self._history and comment == "Subjob finished"
            return found if never_ran else _explained(found, comment)
        if found.state is JobState.PENDING and HELD in comment:
            return found._replace(hopeless=f"{comment}; OpenPBS holds it")
        deleted = DELETED.search(comment)
        if found.state is JobState.RUNNING and deleted:  # its end may be noticed ten seconds later
            return found._replace(ends_as=JobState.CANCELLED, text=f"{found.text}, {deleted[0]}")
        return found

    def marked(self, client: Client, marks: Mapping[str, str]) -> dict[str, str]:
        """Looked for among all jobs of the server."""
        listed = read_text(unfolded(client.query("-f").stdout))
        return with_marks(listed, "submit_arguments", marks)

    def deletions(self, jobs: Iterable[JobId]) -> Iterator[list[str]]:
        """Elements by ranges, all together."""
        words = []
        for base, indices in by_base(jobs).items():
            words += [base.replace("[]", f"[{part}]") for part in index_ranges(indices)] or [base]
        return portions(words)

    def throttling(self, base: str, elements: int) -> list[str]:
        """The array's own limit."""
        return ["-W", f"max_run_subjobs={elements}", base]


def _explained(found: JobStatus, comment: str) -> JobStatus:
    """How a job has ended, if its comment says more of that than its exit code."""
    exceeded = re.search(r"exceeded resource (\w+)", comment)
    if exceeded and exceeded[1] in EXCEEDED:
        state = EXCEEDED[exceeded[1]]
        text = f"{found.text}: over its {exceeded[1]}"
        return found if found.state is state else JobStatus(state, node=found.node, text=text)
    deleted = DELETED.search(comment)
    if deleted:  # a supervisor that is told to end does so with a code of its own
        return JobStatus(JobState.CANCELLED, node=found.node, text=f"{found.text}: {deleted[0]}")
    if comment in SUBJOB_COMMENTS:
        return JobStatus(SUBJOB_COMMENTS[comment], text=comment)
    return found


def _custom(item: str) -> str:
    """A resource that the site has made up, as "name=number", from "name" or "name:number"."""
    found = re.fullmatch(r"(\w+)(?::(\d+))?", item)
    if found is None:
        raise OptionError(f"gres: OpenPBS takes name:number, not {item!r}")
    return f"{found[1]}={found[2] or 1}"
