"""Cells of docs/faults.rst: workers and supervisors that stop or die, and jobs that are suspended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from clusterfutures import SlurmExecutor, TaskKilled, watch
from clusterfutures.allocation import Element
from clusterfutures.executor import Submitter
from clusterfutures.futures import ClusterFuture
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState
from tests import local_work as work
from tests import worker_faults as faults
from tests.conftest import gate, log
from tests.endings import JOBS, JOBS_POLLING, POOL, Mode, begun, each, goes_on, making
from tests.slurm import Cluster
from tests.support import wait_until
from tests.worker_faults import LIMIT

# Of all tests, and not those of `here`, which lets no job outlive a test: the jobs of a pool do.
__all__ = ["gate", "log"]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("nothing_left")]

Make = Callable[..., SlurmExecutor]
USUAL: dict[str, Any] = {"mem": "100M", "time": "10m"}
# Two workers below one supervisor, as LocalExecutor has them.
PAIR = Mode("pair", {"workers_per_job": 2})
PAIR_POLLING = Mode("pair-polling", {"workers_per_job": 2, "doorbell": False})


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Slurm is asked every second, however quiet it is."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("interval", "longest_interval"):
            patch.setattr(SlurmScheduler, name, 1.0)
        yield


@pytest.fixture
def make(here: Path, gate: Path) -> Iterator[Make]:
    """Makes executors that are shut down after the test, see `tests.endings.making`."""
    with making(SlurmExecutor, here, **USUAL) as found:
        yield found
        gate.touch()


@pytest.fixture(scope="class", params=each(PAIR, PAIR_POLLING))
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmExecutor]:
    """A pair of workers for a whole class of tests."""
    run_dir = tmp_path_factory.mktemp("run") / "run"
    with SlurmExecutor(2, run_dir=run_dir, keep="never", **USUAL, **request.param.options) as found:
        yield found


class TestWhileTasksRun:
    """One executor for all of it; it is as able after each test as before."""

    def test_worker_stopped(self, pool: SlurmExecutor, log: str) -> None:
        faults.worker_stopped(pool, log)

    def test_stopped_worker_killed(self, pool: SlurmExecutor, log: str, gate: Path) -> None:
        faults.stopped_worker_killed(pool, log, gate)

    def test_supervisor_stopped(self, pool: SlurmExecutor, log: str, gate: Path) -> None:
        faults.supervisor_stopped(pool, log, gate)

    def test_supervisor_killed_while_idle(self, pool: SlurmExecutor) -> None:
        faults.supervisor_killed_while_idle(pool)


def test_supervisor_killed_when_its_worker_is_just_forked(make: Make, tmp_path: Path) -> None:
    """The worker ends with it, and another one begins the task."""
    modes = (POOL, JOBS)
    executors = [make(mode, 1) for mode in modes]
    logs = [str(tmp_path / mode.name) for mode in modes]
    doors = [door_of(executor, WorkerRef(0, 0, 0, 0, 0)) for executor in executors]
    futures = [executor.submit(work.note_and_sleep, log, "ran", 0) for executor, log in zip(executors, logs)]
    families = [family(executor.run_dir) for executor in executors]
    for supervisor, _ in families:
        os.kill(supervisor, signal.SIGKILL)
    assert [future.result(LIMIT) for future in futures] == ["ran", "ran"]
    readers = [os.open(door, os.O_RDONLY | os.O_NONBLOCK) for door in doors]
    faults.all_gone(pid for pids in families for pid in pids)  # also where Slurm has not seen to that
    for reader in readers:
        os.close(reader)
    assert [work.notes(log) for log in logs] == [["ran"], ["ran"]]


def door_of(executor: SlurmExecutor, worker: WorkerRef) -> str:
    """A pipe in place of a file that a worker will open before all else: it waits until somebody reads."""
    run = RunDirectory(executor.run_dir, shared=True)
    run.make_home(worker)
    os.mkfifo(run.stdout(worker), 0o600)
    return run.stdout(worker)


def family(run_dir: str) -> tuple[int, int]:
    """The supervisor of a run and its only worker, once both are there."""

    def pairs() -> list[tuple[int, int]]:
        every = psutil.process_iter(["cmdline", "ppid"])
        found = [process for process in every if run_dir in (process.info["cmdline"] or [])]
        children = {process.info["ppid"]: process.pid for process in found}
        return [(process.pid, children[process.pid]) for process in found if process.pid in children]

    wait_until(pairs, LIMIT, interval=0.1)
    [pair] = pairs()
    return pair


def test_supervisor_stopped_at_the_end(make: Make, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is told to end its job."""
    executor = make(PAIR)
    future = executor.submit(abs, -1)
    assert future.result(LIMIT) == 1
    faults.stopped_supervisor_ended(executor, monkeypatch)
    cluster.wait_state(str(future.job_id), ["CANCELLED"])


class TestSuspended:
    """An administrator suspends jobs, or Slurm itself does for others that are more urgent."""

    TIMEOUT = 8.0  # seconds

    def test_for_longer_than_its_tasks_may_run(
        self, make: Make, cluster: Cluster, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody takes anybody for dead, not even when lines break; and no time passes for tasks."""
        monkeypatch.setattr(watch, "ACCOUNTING_GRACE", 1.0)
        modes = (JOBS, JOBS_POLLING, PAIR, PAIR_POLLING)
        executors = [make(mode, 2, orphan="kill", orphan_timeout=0.7 * self.TIMEOUT) for mode in modes]
        logs = [str(tmp_path / mode.name) for mode in modes]
        for pool in executors[2:]:
            assert pool.wait_for_workers(2, LIMIT)
        tasks = [two_tasks(executor, log, gate) for executor, log in zip(executors[:2], logs[:2])]
        began = time.monotonic()
        timed = [pool.options(timeout=self.TIMEOUT) for pool in executors[2:]]
        tasks += [two_tasks(pool, log, gate) for pool, log in zip(timed, logs[2:])]
        jobs = suspend(cluster, tasks)
        for executor in executors:
            hang_up(executor)
        for _, unwanted in tasks:
            assert unwanted.kill()
        time.sleep(max(began + self.TIMEOUT - time.monotonic(), 0.0))
        known = [element for executor in executors for element in elements(executor)]
        wait_until(lambda: {element.status.state for element in known} == {JobState.SUSPENDED}, LIMIT)
        assert not any(future.done() for both in tasks for future in both)
        for job in jobs:
            cluster.query("scontrol", "resume", job)
        for _, unwanted in tasks:
            assert type(unwanted.exception(LIMIT)) is TaskKilled
        assert not any(wanted.done() for wanted, _ in tasks)
        gate.touch()
        assert [wanted.result(LIMIT) for wanted, _ in tasks] == [0] * len(modes)
        assert [sorted(work.notes(log)) for log in logs] == [["0", "1"]] * len(modes), "once"
        for pool in executors[2:]:
            goes_on(pool)

    def test_at_the_end(
        self, make: Make, cluster: Cluster, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody waits for it when all is done: Slurm ends it."""
        monkeypatch.setattr(watch, "STOP_AFTER", 0.5)
        monkeypatch.setattr(watch, "CANCEL_AFTER", 1.0)
        executors = [make(mode) for mode in (PAIR, PAIR_POLLING)]
        tasks = [two_tasks(executor, str(tmp_path / str(n)), gate) for n, executor in enumerate(executors)]
        gate.touch()
        assert [future.result(LIMIT) for both in tasks for future in both] == [0, 1] * 2
        jobs = suspend(cluster, tasks)
        for executor in executors:
            executor.shutdown(wait=False)
        for executor in executors:
            executor.shutdown()
        faults.all_gone(future.pid for both in tasks for future in both)
        for job in jobs:
            cluster.wait_state(job, ["CANCELLED"])


def two_tasks(executor: Submitter, log: str, gate: Path) -> list[ClusterFuture[Any]]:
    """Tasks that run."""
    futures = [executor.submit(work.note_and_wait, log, number, str(gate)) for number in (0, 1)]
    begun(log, 2)
    return futures


def suspend(cluster: Cluster, tasks: list[list[ClusterFuture[Any]]]) -> list[str]:
    """Suspend the jobs of all these, and return them.  Slurm lets workers run for two more seconds."""
    futures = [future for group in tasks for future in group]
    wait_until(lambda: all(future.pid and future.job_id for future in futures), LIMIT)
    jobs = sorted({str(future.job_id) for future in futures})
    for job in jobs:
        cluster.query("scontrol", "suspend", job)
    wait_until(lambda: all(faults.stopped(future.pid or 0) for future in futures), LIMIT, interval=0.1)
    for job in jobs:
        assert cluster.states(job) == ["SUSPENDED"]
    return jobs


def elements(executor: SlurmExecutor) -> list[Element]:
    """The jobs of an executor, as it knows them."""
    found = executor._session._watch
    assert found is not None
    return list(found.allocation.elements.values())


def hang_up(executor: SlurmExecutor) -> None:
    """Break all of its lines."""
    found = executor._session._watch
    assert found is not None
    for peer in list(found._peers.values()):
        if peer.caller is not None:
            peer.caller.close()
