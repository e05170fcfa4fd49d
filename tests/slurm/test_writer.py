"""The writer in Slurm's jobs, on two nodes: the same promises as between processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from clusterfutures import SlurmExecutor, WorkerLost
from clusterfutures.writing.lockcheck import check_locks
from clusterfutures.writing.onetime import once
from clusterfutures.writing.shards import ShardedWriter
from clusterfutures.writing.writer import SerialWriter
from tests import slurm_work, writer_work
from tests.slurm import Cluster
from tests.support import check_no_process_left

LIMIT = 60.0  # seconds; whatever takes longer hangs
NODES = ("n1", "n2")
TASKS = 100

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture
def executors(here: Path) -> Iterator[list[SlurmExecutor]]:
    """Four workers on each of the nodes."""
    options: dict[str, Any] = {"mem": "200M", "keep": "never"}
    with (
        SlurmExecutor(4, nodelist=NODES[0], **options) as first,
        SlurmExecutor(4, nodelist=NODES[1], **options) as second,
    ):
        yield [first, second]


def write(path: str, number: int, phase: str, options: dict[str, Any]) -> str:
    """A task: one entry with ten datasets; it may be killed in it.  The job it ran in."""
    given = writer_work.Crowd(path, "hdf5", 1, 1, 10, {}, options)
    if phase:
        writer_work.ALL_PHASES[phase]()
    writer_work.write_hdf5(given, number, 0, phase)
    return slurm_work.place().job


def do_once(folder: str, log: str) -> str:
    """A task: be the one that does it, or wait for that one.  The job it ran in."""
    with once("set up", folder) as mine:
        if mine:
            SerialWriter(log).append_line("done")
    return slurm_work.place().job


def records_in(path: Path) -> list[tuple[int, int]]:
    """Task and record of each dataset."""
    with h5py.File(path, "r") as file:
        values = [list(map(int, each[()])) for group in file.values() for each in group.values()]
    return sorted((task, record) for task, _, record in values)


@pytest.mark.parametrize("lease", [None, True])
def test_every_record_is_there_once(executors: list[SlurmExecutor], here: Path, lease: bool | None) -> None:
    path = here / "x.h5"
    options: dict[str, Any] = {"atomic": True, "lease": lease, "timeout": LIMIT}
    futures = [executors[n % 2].submit(write, str(path), n, "", options) for n in range(TASKS)]
    jobs = {future.result(LIMIT) for future in futures}
    assert len(jobs) >= 2
    assert records_in(path) == [(n, record) for n in range(TASKS) for record in range(10)]


@pytest.mark.parametrize("phase", ["has the lock", "half a record", "replacing", "releasing"])
def test_one_of_them_is_killed(executors: list[SlurmExecutor], here: Path, phase: str) -> None:
    path = here / "x.h5"
    options: dict[str, Any] = {"atomic": True, "timeout": LIMIT}
    phases = {7: phase}
    futures = [
        executors[n % 2].submit(write, str(path), n, phases.get(n, ""), options) for n in range(20)
    ]
    with pytest.raises(WorkerLost) as caught:
        futures[7].result(LIMIT)
    assert caught.value.signal == signal.SIGKILL.name
    for n, future in enumerate(futures):
        assert n == 7 or future.result(LIMIT)
    written = [n for n in range(20) if n != 7 or phase == "releasing"]
    assert records_in(path) == [(n, record) for n in written for record in range(10)]


def test_shards_of_two_nodes(executors: list[SlurmExecutor], here: Path) -> None:
    path = here / "x.h5"
    futures = [executors[n % 2].submit(writer_work.shard, str(path), n) for n in range(12)]
    for future in futures:
        future.result(LIMIT)
    assert ShardedWriter(path, open=h5py.File, mode="a").merge().folded == 12
    with h5py.File(path, "r") as file:
        assert sorted(int(each[()]) for each in file["shards"].values()) == list(range(12))


def test_once_on_two_nodes(executors: list[SlurmExecutor], here: Path) -> None:
    futures = [ex.submit(do_once, str(here / "notes"), str(here / "log")) for ex in executors * 4]
    assert len({future.result(LIMIT) for future in futures}) >= 2
    assert (here / "log").read_text() == "done\n"


def test_locks_are_checked_between_two_nodes(executors: list[SlurmExecutor], here: Path) -> None:
    results = [future.result(LIMIT) for future in [ex.submit(check_locks, here, LIMIT) for ex in executors]]
    assert [result.works for result in results] == [True, True]
    assert results[0].here == results[1].there
