"""Workers that die: in every phase of a task, in several ways, with much or little in flight."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from clusterfutures import watch
from tests.contract import work
from tests.contract.checks import Gates, Make, needs, start_workers
from tests.contract.executors import Case, Trait
from tests.support import wait_until

HOME = os.getpid()


def phases(die: Callable[[], None]) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """For each phase of a task, what to submit so that its worker dies just then."""
    return {
        "load argument": (work.identity, (work.Rigged(HOME, "load", True, die),)),
        "load function": (work.Rigged(HOME, "setstate", True, die), ()),
        "call": (die, ()),
        "dump result": (work.rigged, (HOME, "dump", True, die)),
        "dump exception": (work.fail_rigged, (HOME, "dump", True, die)),
    }


PHASES = list(phases(work.kill_self))


def check_after_death(case: Case, executor: Executor, culprit: Future[Any]) -> None:
    """What must be true once the worker of `culprit` has died."""
    error = culprit.exception(timeout=50)
    assert isinstance(error, BrokenProcessPool)
    if case.has(Trait.ONE_TASK_LOST):
        assert type(error).__name__ == "WorkerLost"
        assert [executor.submit(abs, -index).result(timeout=50) for index in range(4)] == [*range(4)]
        assert list(executor.map(abs, range(4), timeout=50)) == [*range(4)]
    else:
        with pytest.raises(BrokenProcessPool):
            executor.submit(abs, -1)


@pytest.mark.parametrize("death", work.DEATHS)
def test_during_the_call(case: Case, make: Make, death: str) -> None:
    executor = make(2)
    check_after_death(case, executor, executor.submit(work.DEATHS[death]))


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "call"])
def test_in_another_phase(case: Case, make: Make, phase: str) -> None:
    function, args = phases(work.kill_self)[phase]
    executor = make(2)
    check_after_death(case, executor, executor.submit(function, *args))


@pytest.mark.parametrize("phase", ["load argument", "dump result"])
@pytest.mark.parametrize("death", ["exit-0", "segfault"])
def test_another_death_in_another_phase(case: Case, make: Make, phase: str, death: str) -> None:
    function, args = phases(work.DEATHS[death])[phase]
    executor = make(1)
    check_after_death(case, executor, executor.submit(function, *args))


def test_error_tells_why(case: Case, make: Make) -> None:
    needs(case, Trait.ONE_TASK_LOST)
    executor = make(1)
    killed: Any = executor.submit(work.kill_self).exception(timeout=50)
    assert killed.signal == "SIGKILL" and killed.exit_code is None
    assert "SIGKILL" in str(killed) and str(killed.pid) in str(killed)
    left: Any = executor.submit(work.die_saying, "the last words").exception(timeout=50)
    assert left.exit_code == 3 and left.signal is None and left.pid != killed.pid
    assert "the last words" in left.stderr_tail and "the last words" in str(left)


def test_idle_worker_killed(case: Case, make: Make) -> None:
    executor = make(1)
    pid = executor.submit(work.pid_of).result()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not work.is_alive(pid))
    if case.has(Trait.ONE_TASK_LOST):
        new_pid = executor.submit(work.pid_of).result(timeout=50)
        assert new_pid not in (pid, os.getpid())
        return
    with pytest.raises(BrokenProcessPool):
        for _ in range(1000):  # until its manager thread has noticed
            executor.submit(abs, -1).result(timeout=50)


def test_every_worker_killed_while_idle(case: Case, make: Make, gate: work.Gate) -> None:
    executor = make(2)
    pids = start_workers(executor, gate)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if case.has(Trait.ONE_TASK_LOST):
        futures = [executor.submit(abs, -index) for index in range(20)]
        assert [future.result(timeout=50) for future in futures] == list(range(20))
    wait_until(lambda: not any(work.is_alive(pid) for pid in pids))


def test_neighbour_that_runs(case: Case, make: Make, gates: Gates) -> None:
    executor, gate = make(2), gates()
    start_workers(executor, gates())
    neighbour = executor.submit(gate.hold, "neighbour")
    wait_until(gate.arrived)
    culprit = executor.submit(work.kill_self)
    assert isinstance(culprit.exception(timeout=50), BrokenProcessPool)
    gate.open()
    if case.has(Trait.ONE_TASK_LOST):
        assert neighbour.result(timeout=50) == "neighbour"
    else:
        assert isinstance(neighbour.exception(timeout=50), BrokenProcessPool)


@pytest.mark.parametrize("max_workers", [1, 2])
def test_tasks_queued_behind_it(case: Case, make: Make, gate: work.Gate, max_workers: int) -> None:
    executor = make(max_workers)
    before = [executor.submit(abs, -1) for _ in range(10)]
    wait(before)
    culprit = executor.submit(gate.hold_then, work.kill_self)
    after = [executor.submit(work.multiply, index, 2) for index in range(50)]
    gate.open()
    assert isinstance(culprit.exception(timeout=50), BrokenProcessPool)
    if case.has(Trait.ONE_TASK_LOST):
        assert [future.result(timeout=50) for future in after] == [2 * i for i in range(50)]
    else:
        assert not wait(after, timeout=50).not_done
        for future in after:
            assert isinstance(future.exception(), (BrokenProcessPool, type(None)))
    assert [future.result() for future in before] == [1] * 10


def test_one_after_the_other(case: Case, make: Make) -> None:
    needs(case, Trait.ONE_TASK_LOST)
    executor = make(2)
    futures = [executor.submit(work.kill_self if i % 3 == 0 else work.pid_of) for i in range(15)]
    for index, future in enumerate(futures):
        if index % 3 == 0:
            assert isinstance(future.exception(timeout=50), BrokenProcessPool)
        else:
            assert future.result(timeout=50) != HOME


def test_in_a_map(case: Case, make: Make) -> None:
    executor = make(2)
    results = executor.map(work.kill_if, range(10), [6] * 10, timeout=50, chunksize=1)
    found = []
    with pytest.raises(BrokenProcessPool):
        for result in results:
            found.append(result)
    if case.has(Trait.ONE_TASK_LOST):
        assert found == list(range(6))
        assert list(executor.map(abs, range(10), timeout=50)) == list(range(10))
    else:
        assert found == list(range(len(found)))


def test_within_a_chunk_of_a_map(case: Case, make: Make, gate: work.Gate) -> None:
    executor = make(1)
    results = executor.map(work.mark_and_kill_if, [gate] * 10, range(10), [6] * 10, chunksize=10)
    found = []
    with pytest.raises(BrokenProcessPool):
        for result in results:
            found.append(result)
    # What was finished before counts, where tasks report one by one.
    assert found == (list(range(6)) if case.has(Trait.ERROR_AT_ITEM) else [])


@pytest.mark.parametrize("megabytes", [0.5, 3])
def test_much_data_in_flight(case: Case, make: Make, megabytes: float) -> None:
    needs(case, Trait.CRASH_AMID_DATA)
    executor = make(2)
    data = os.urandom(1024) * int(megabytes * 1024)
    futures = [executor.submit(work.die_with, data, index == 5) for index in range(16)]
    assert not wait(futures, timeout=50).not_done
    assert isinstance(futures[5].exception(), BrokenProcessPool)
    if case.has(Trait.ONE_TASK_LOST):
        assert all(f.result() == data for i, f in enumerate(futures) if i != 5)


def test_while_a_large_result_is_pickled(case: Case, make: Make) -> None:
    executor = make(2)
    culprit = executor.submit(work.large_then_kill, HOME, 3_000_000)
    check_after_death(case, executor, culprit)


@pytest.mark.parametrize("wait_for_it", [True, False])
@pytest.mark.parametrize("attempt", range(3))
def test_racing_a_shutdown(case: Case, make: Make, wait_for_it: bool, attempt: int) -> None:
    if not wait_for_it:
        needs(case, Trait.NO_WAIT)
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    futures = [executor.submit(work.kill_self), *(executor.submit(abs, -1) for _ in range(attempt * 5))]
    executor.shutdown(wait=wait_for_it)
    assert not wait(futures, timeout=50).not_done
    assert isinstance(futures[0].exception(), BrokenProcessPool)
    for future in futures[1:]:
        assert isinstance(future.exception(), (BrokenProcessPool, type(None)))


def test_shutdown_just_after_a_death(
    case: Case, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker that takes the dead one's place comes while all are sent away, and must hear of it too.
    needs(case, Trait.ONE_TASK_LOST)
    monkeypatch.setattr(watch, "STOP_AFTER", 1000.0)  # the last resort: without it a worker would stay
    for _ in range(8):
        executor = make(2)
        assert isinstance(executor.submit(work.kill_self).exception(timeout=50), BrokenProcessPool)
        executor.shutdown(wait=True)


def test_after_shutdown(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(1)
    culprit = executor.submit(gate.hold_then, work.kill_self)
    after = [executor.submit(abs, -1) for _ in range(5)]
    wait_until(gate.arrived)
    executor.shutdown(wait=False)
    gate.open()
    assert isinstance(culprit.exception(timeout=50), BrokenProcessPool)
    assert [future.result(timeout=50) for future in after] == [1] * 5


def test_cancelling_while_a_worker_dies(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.CRASH_AMID_CANCEL)
    executor = make(1)
    culprit = executor.submit(gate.hold_then, work.kill_self)
    queued = [executor.submit(abs, -1) for _ in range(100)]
    wait_until(gate.arrived)
    gate.open()
    cancelled = [future for future in queued if future.cancel()]
    assert isinstance(culprit.exception(timeout=50), BrokenProcessPool)
    assert not wait(queued, timeout=50).not_done
    assert all(future.cancelled() for future in cancelled)


def test_callback_of_a_lost_task_that_submits(case: Case, make: Make) -> None:
    needs(case, Trait.SUBMIT_AFTER_CRASH)
    executor, followers = make(1), []
    lost = executor.submit(work.kill_self)
    lost.add_done_callback(lambda done: followers.append(executor.submit(abs, -1)))
    assert isinstance(lost.exception(timeout=50), BrokenProcessPool)
    wait_until(lambda: followers)
    assert followers[0].result(timeout=50) == 1
