"""What happens to workers and their supervisors in the fault matrix, wherever their processes run.

Each function takes an executor with two workers below one supervisor, on this machine, and leaves it so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

import psutil
import pytest

from clusterfutures import TaskKilled, TaskTimeout, WorkerLost, watch
from clusterfutures.executor import ClusterExecutor
from tests import fault_work
from tests import local_work as work
from tests.support import wait_until

LIMIT = 45.0  # seconds; whatever takes longer hangs


def seen(log: str, count: int) -> None:
    """Wait until so many lines were noted."""
    wait_until(lambda: len(work.notes(log)) >= count, LIMIT, lambda: work.notes(log))


def stopped(pid: int) -> bool:
    """Whether it stands still, by a signal or by the control group that it is in."""
    return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_DISK_SLEEP)


def gone(pid: int) -> bool:
    """Whether it has ended, perhaps without anybody's notice."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def all_gone(pids: Iterable[Optional[int]]) -> None:
    """Wait until all of these, as far as they are known, are gone."""
    known = [pid for pid in pids if pid is not None]
    wait_until(
        lambda: all(map(gone, known)), LIMIT, lambda: [psutil.Process(p) for p in known if not gone(p)], 0.02
    )


def supervisor_of(pool: ClusterExecutor) -> tuple[int, list[int]]:
    """The pid of the supervisor of two idle workers, and theirs."""
    assert pool.wait_for_workers(2, LIMIT)
    pid = psutil.Process(pool.submit(os.getpid).result(LIMIT)).ppid()
    return pid, [child.pid for child in psutil.Process(pid).children()]


def worker_stopped(pool: ClusterExecutor, log: str) -> None:
    """For good, it is ended by the time limit of its task; for a while, nothing comes of it."""
    lasting = pool.options(timeout=0.3).submit(fault_work.stop, f"{log}-lasting")
    assert type(lasting.exception(LIMIT)) is TaskTimeout
    passing = pool.submit(fault_work.stop, log)
    seen(log, 1)
    pid = int(work.notes(log)[0])
    wait_until(lambda: stopped(pid), LIMIT)
    assert [pool.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]
    assert not passing.done()
    os.kill(pid, signal.SIGCONT)
    assert passing.result(LIMIT) is None


def stopped_worker_killed(pool: ClusterExecutor, log: str, gate: Path) -> None:
    """`kill()` does not need it."""
    future = pool.submit(work.note_and_wait, log, 0, str(gate))
    seen(log, 1)
    wait_until(lambda: future.pid, LIMIT)
    assert future.pid is not None
    os.kill(future.pid, signal.SIGSTOP)
    assert future.kill()
    assert type(future.exception(LIMIT)) is TaskKilled


def supervisor_stopped(pool: ClusterExecutor, log: str, gate: Path) -> None:
    """Results need no supervisor; what else has happened is told, and done, when it goes on."""
    assert pool.wait_for_workers(2, LIMIT)
    doomed = pool.submit(work.note_and_wait, log, 0, str(gate))
    seen(log, 1)
    assert doomed.pid is not None
    supervisor = psutil.Process(doomed.pid).ppid()
    os.kill(supervisor, signal.SIGSTOP)
    try:
        assert [pool.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]
        unwanted = pool.submit(work.note_and_wait, log, 1, str(gate))
        seen(log, 2)
        assert unwanted.kill()
        os.kill(doomed.pid, signal.SIGKILL)
        assert not doomed.done()
        assert not unwanted.done()
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert type(doomed.exception(LIMIT)) is WorkerLost
    assert type(unwanted.exception(LIMIT)) is TaskKilled
    assert pool.wait_for_workers(2, LIMIT)


def supervisor_killed_while_idle(pool: ClusterExecutor) -> None:
    """It takes its workers along; and what is submitted before anybody has noticed moves on to others."""
    failures = pool._session.dispatcher.failures
    pid, workers = supervisor_of(pool)
    os.kill(pid, signal.SIGKILL)
    all_gone(workers)
    assert [pool.submit(abs, -n).result(LIMIT) for n in range(10)] == [*range(10)]
    assert supervisor_of(pool)[0] != pid
    assert pool._session.dispatcher.failures == failures, "nothing was lost"


def stopped_supervisor_ended(pool: ClusterExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hinder the end, which is the end of this executor."""
    monkeypatch.setattr(watch, "CANCEL_AFTER", 0.5)
    pid, workers = supervisor_of(pool)
    os.kill(pid, signal.SIGSTOP)
    pool._session.abort()  # as an exception in the body of a `with` does
    pool.shutdown()
    all_gone([pid, *workers])
