"""TORQUE, as of 6.1; and what its ancestors have of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clusterfutures.errors import OptionError, SchedulerUnavailable
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
    read_xml,
    status,
)
from clusterfutures.schedulers.slurm_status import portions
from clusterfutures.states import JobState

MEANINGS = Meanings(
    states={
        "Q": JobState.PENDING,
        "H": JobState.PENDING,  # held; so are the elements that wait for their array's limit
        "W": JobState.PENDING,  # waits for its time
        "T": JobState.PENDING,  # on its way to another queue
        "R": JobState.RUNNING,
        "E": JobState.ENDING,  # its files are being copied, or a site's epilogue takes its time
        "S": JobState.SUSPENDED,
        "C": JobState.COMPLETED,
    },
    endings={
        **COMMON_ENDINGS,
        -10: Ending(JobState.OUT_OF_MEMORY, "over its mem"),
        -11: Ending(JobState.TIMEOUT, "over its walltime"),
        -12: Ending(JobState.TIMEOUT, "over its cput"),
    },
)

OF_ARRAYS = {
    "after": "afterstartarray",
    "afterok": "afterokarray",
    "afternotok": "afternotokarray",
    "afterany": "afteranyarray",
}
"""What waiting for all elements of an array is called."""

KINDS = (*OF_ARRAYS, "before", "beforeok", "beforenotok", "beforeany", "on")

POLICIES = {True: ["naccesspolicy=singlejob"], "user": ["naccesspolicy=singleuser"], False: []}


def _depends(kind: str, job: str) -> str:
    return f"{OF_ARRAYS.get(kind, kind) if '[]' in job else kind}:{job}"


FLAGS = {**pbs.FLAGS, "depends": pbs.dependency(KINDS, _depends)}


class Torque(Dialect):
    """Arrays by -t, nodes=...:ppn=..., XML."""

    name = "torque"
    title = "TORQUE"
    array_option = "-t"
    index = "$PBS_ARRAYID"
    late = 60.0
    flags = FLAGS
    listed = frozenset(
        {"time", "cores", "mem", "mem_per_cpu", "nodes", "tasks", "tasks_per_node", "gpus", "gres"}
        | {"features", "nodelist", "exclusive", "qos", "reservation"}
    )
    advice = pbs.ADVICE
    names = "[!-~]{1,200}", "up to 200 printable characters and no blanks"

    def __init__(self) -> None:
        self._failed: set[str] = set()  # dependencies for which jobs were removed

    def resource_list(self, resources: Mapping[str, Any]) -> list[str]:
        """Nodes, and whatever its resource manager passes on to a scheduler such as Maui or Moab."""
        items = []
        if "time" in resources:
            items.append(f"walltime={pbs.walltime(resources['time'])}")
        if resources.keys() & {"cores", "nodes", "tasks", "tasks_per_node", "gpus", "features", "nodelist"}:
            items.append("nodes=" + pbs.parts(resources, self._of_each(resources), "{}"))
        if "mem" in resources:  # that of the whole job
            items.append(f"mem={pbs.size(resources['mem'] * pbs.chunks(resources).number)}")
        if "mem_per_cpu" in resources:
            items.append(f"pmem={pbs.size(resources['mem_per_cpu'])}")
        if "gres" in resources:
            items.append("gres=" + resources["gres"].replace(",", "+"))
        if "qos" in resources:
            items.append(f"qos={resources['qos']}")
        if "reservation" in resources:
            items.append(f"advres={resources['reservation']}")
        return items + self._policy(resources.get("exclusive", False))

    @staticmethod
    def _of_each(resources: Mapping[str, Any]) -> list[str]:
        """What stands behind each node's name or number."""
        found = []
        if resources.keys() & {"cores", "tasks", "tasks_per_node"}:
            found.append(f"ppn={pbs.chunks(resources).cpus}")
        gpus = resources.get("gpus")
        if isinstance(gpus, str):
            raise OptionError(f"gpus: TORQUE knows no types of GPUs, as in {gpus!r}; features= may do")
        found += [f"gpus={gpus}"] if gpus else []
        return found + (pbs.features(resources["features"]) if "features" in resources else [])

    @staticmethod
    def _policy(exclusive: object) -> list[str]:
        if exclusive not in POLICIES:
            raise OptionError(f"exclusive: TORQUE takes True, False or 'user', not {exclusive!r}")
        return POLICIES[exclusive]

    def query(self, client: Client, bases: list[str]) -> dict[str, Record]:
        """``qstat -x``, with -t for the elements of arrays: without it, an array's id means all jobs."""
        return self._read(client, "-t", "-x", *bases)

    def status(self, record: Record) -> JobStatus:
        """By TORQUE's letters and codes.

        A job whose dependency fails is removed; one that is submitted later with the same is held for ever.
        """
        found, depend = status(record, MEANINGS), record.get("depend", "")
        removed = found.state is JobState.CANCELLED and node(record) is None and "exit_status" in record
        if depend and removed:
            self._failed.add(depend)
        elif depend in self._failed and found.state is JobState.PENDING:
            return found._replace(hopeless=f"it waits for {depend}, which has failed; TORQUE holds it")
        return found

    def marked(self, client: Client, marks: Mapping[str, str]) -> dict[str, str]:
        """Looked for among all jobs of the server."""
        return with_marks(self._read(client, "-x"), "submit_args", marks)

    @staticmethod
    def _read(client: Client, *words: str) -> dict[str, Record]:
        try:
            return read_xml(client.query(*words).stdout)
        except ValueError as error:
            raise SchedulerUnavailable(f"qstat -x cannot be read: {error}") from error

    def deletions(self, jobs: Iterable[JobId]) -> Iterator[list[str]]:
        """A range is for one array; jobs by themselves go together."""
        single = []
        for base, indices in by_base(jobs).items():
            if indices:
                yield ["-t", ",".join(index_ranges(indices)), base]
            else:
                single.append(base)
        yield from portions(single)

    def throttling(self, base: str, elements: int) -> list[str]:
        """The array's slot limit."""
        return ["-t", f"%{elements}", base]
