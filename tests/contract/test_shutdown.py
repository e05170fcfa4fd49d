"""shutdown in every order, `with`, deletion, and terminate_workers / kill_workers."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make, needs, start_workers
from tests.contract.executors import Case, Trait
from tests.support import wait_until

PENDING = 100


def check_refused(executor: Executor) -> None:
    """It takes no more work and says so in the standard way."""
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, -1)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.map(abs, [-1])


def check_gone(pids: list[int]) -> None:
    """The workers' processes end."""
    wait_until(lambda: not any(work.is_alive(pid) for pid in pids), 30)


def test_submit_after_shutdown(make: Make) -> None:
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown()
    check_refused(executor)


def test_unused(make: Make) -> None:
    executor = make(2)
    executor.shutdown()
    check_refused(executor)


def test_twice(make: Make) -> None:
    executor = make(1)
    future = executor.submit(abs, -1)
    executor.shutdown()
    executor.shutdown()
    executor.shutdown(wait=False)
    executor.shutdown(wait=True, cancel_futures=True)
    assert future.result(timeout=0) == 1


def test_waits_for_all_work(make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(work.multiply, index, 2) for index in range(PENDING)]
    executor.shutdown(wait=True)
    assert [future.result(timeout=0) for future in futures] == [2 * i for i in range(PENDING)]


def test_ends_the_workers(make: Make, gate: work.Gate) -> None:
    executor = make(2)
    pids = start_workers(executor, gate)
    executor.shutdown(wait=True)
    check_gone(pids)


def test_ends_the_workers_without_waiting(make: Make, gate: work.Gate) -> None:
    executor = make(2)
    pids = start_workers(executor, gate)
    executor.shutdown(wait=False)
    check_gone(pids)


def test_at_once_after_submitting(make: Make) -> None:
    # A pool that is ended before its first worker is up still owes the results.
    executor = make(2)
    futures = [executor.submit(abs, -1) for _ in range(5)]
    executor.shutdown(wait=True)
    assert [future.result(timeout=0) for future in futures] == [1] * 5


def test_results_of_a_map_after_it(make: Make) -> None:
    executor = make(2)
    results = executor.map(abs, range(-50, 0))
    executor.shutdown()
    assert list(results) == list(range(50, 0, -1))


def test_without_waiting(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(1)
    held = executor.submit(gate.hold, "held")
    pending = [executor.submit(abs, -1) for _ in range(PENDING)]
    wait_until(gate.arrived)
    executor.shutdown(wait=False)
    assert not held.done()
    check_refused(executor)
    gate.open()
    assert held.result(timeout=50) == "held"
    assert [future.result(timeout=50) for future in pending] == [1] * PENDING


def test_without_waiting_and_then_waiting(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(1)
    held = executor.submit(gate.hold_then, work.pid_of)
    wait_until(gate.arrived)
    executor.shutdown(wait=False)
    gate.open()
    executor.shutdown(wait=True)
    check_gone([held.result(timeout=0)])


def test_cancels_what_is_pending(make: Make, gates: Gates) -> None:
    executor, gate, marks = make(1), gates(), gates()
    held = executor.submit(gate.hold, "held")
    pending = [executor.submit(marks.mark, index) for index in range(PENDING)]
    wait_until(gate.arrived)
    thread = threading.Thread(target=executor.shutdown, kwargs={"cancel_futures": True})
    thread.start()
    wait_until(lambda: sum(future.cancelled() for future in pending) >= PENDING // 2)
    assert thread.is_alive() and not held.done()
    gate.open()
    thread.join(50)
    assert not thread.is_alive()
    assert held.result(timeout=0) == "held"
    assert all(future.done() for future in pending)
    ran = {str(index) for index, future in enumerate(pending) if not future.cancelled()}
    assert set(marks.arrived()) == ran
    assert all(future.exception() is None for future in pending if not future.cancelled())


def test_cancels_without_waiting(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(1)
    held = executor.submit(gate.hold, "held")
    pending = [executor.submit(abs, -1) for _ in range(PENDING)]
    wait_until(gate.arrived)
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: sum(future.cancelled() for future in pending) >= PENDING // 2)
    gate.open()
    assert held.result(timeout=50) == "held"
    assert not wait(pending, timeout=50).not_done


def test_cancels_what_a_first_shutdown_left(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(1)
    held = executor.submit(gate.hold, "held")
    pending = [executor.submit(abs, -1) for _ in range(PENDING)]
    wait_until(gate.arrived)
    executor.shutdown(wait=False)
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: sum(future.cancelled() for future in pending) >= PENDING // 2)
    gate.open()
    assert held.result(timeout=50) == "held"


def test_one_cancelled_just_before(case: Case, make: Make) -> None:
    needs(case, Trait.CANCEL_THEN_SHUTDOWN)
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    executor.submit(abs, -1).cancel()
    executor.shutdown(wait=True)


def test_in_another_thread_while_waiting(make: Make, gate: work.Gate) -> None:
    executor = make(1)
    held = executor.submit(gate.hold, "held")
    wait_until(gate.arrived)
    thread = threading.Thread(target=executor.shutdown)
    thread.start()
    gate.open()
    assert held.result(timeout=50) == "held"
    thread.join(50)
    assert not thread.is_alive()


def test_in_several_threads_at_once(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor, errors = make(2), []
    futures = [executor.submit(gate.hold, index) for index in range(4)]

    def shut_down() -> None:
        try:
            executor.shutdown()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=shut_down) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(50)
    assert errors == [] and not any(thread.is_alive() for thread in threads)
    assert [future.result(timeout=0) for future in futures] == list(range(4))


def test_racing_those_who_submit(make: Make) -> None:
    executor = make(2)
    accepted: list[Future[int]] = []
    refusals: list[RuntimeError] = []

    def submit_until_refused() -> None:
        for _ in range(100_000):
            try:
                accepted.append(executor.submit(abs, -1))
            except RuntimeError as error:
                refusals.append(error)
                return
            time.sleep(0)

    threads = [threading.Thread(target=submit_until_refused) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 30)
    executor.shutdown(wait=True)
    for thread in threads:
        thread.join(50)
    assert len(refusals) == 3 and "shutdown" in str(refusals[0])
    # What was accepted is done, whatever came in between.
    assert [future.result(timeout=50) for future in accepted] == [1] * len(accepted)


@pytest.mark.parametrize("wait_there", [False, True])
def test_from_a_callback(case: Case, make: Make, wait_there: bool) -> None:
    if wait_there:
        needs(case, Trait.SHUTDOWN_IN_CALLBACK)
    executor, left = make(1), threading.Event()

    def shut_down(done: Future[int]) -> None:
        executor.shutdown(wait=wait_there)
        left.set()

    future = executor.submit(abs, -1)
    future.add_done_callback(shut_down)
    assert future.result(timeout=50) == 1
    assert left.wait(50)
    check_refused(executor)


def test_from_a_callback_with_work_pending(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.NO_WAIT)
    executor, left = make(1), threading.Event()

    def shut_down(done: Future[object]) -> None:
        executor.shutdown(wait=False)
        left.set()

    first = executor.submit(gate.hold)
    first.add_done_callback(shut_down)
    rest = [executor.submit(abs, -1) for _ in range(20)]
    gate.open()
    assert left.wait(50)
    assert [future.result(timeout=50) for future in rest] == [1] * 20


def test_submitting_from_a_callback_after_it(make: Make, gate: work.Gate) -> None:
    executor, seen = make(1), []

    def submit_again(done: Future[object]) -> None:
        try:
            seen.append(executor.submit(abs, -1))
        except RuntimeError as error:
            seen.append(error)

    first = executor.submit(gate.hold)
    first.add_done_callback(submit_again)
    wait_until(gate.arrived)
    thread = threading.Thread(target=executor.shutdown)
    thread.start()
    wait_until(lambda: refuses(executor))
    gate.open()
    thread.join(50)
    assert len(seen) == 1 and isinstance(seen[0], RuntimeError)


def refuses(executor: Executor) -> bool:
    try:
        executor.submit(abs, -1)
    except RuntimeError:
        return True
    return False


# --- with -------------------------------------------------------------------------------------------


def test_with_waits(make: Make, gate: work.Gate) -> None:
    with make(2) as executor:
        pids = start_workers(executor, gate)
        futures = [executor.submit(work.multiply, index, 2) for index in range(50)]
    assert [future.result(timeout=0) for future in futures] == [2 * index for index in range(50)]
    check_refused(executor)
    check_gone(pids)


def test_with_gives_itself(make: Make) -> None:
    executor = make(1)
    with executor as entered:
        assert entered is executor


def test_exception_in_the_body(case: Case, make: Make, gates: Gates) -> None:
    gate, marks = gates(), gates()
    with pytest.raises(LookupError, match="from the body"):  # noqa: SIM117 - the order matters
        with make(1) as executor:
            held = executor.submit(gate.hold, "held")
            pending = [executor.submit(marks.mark, index) for index in range(PENDING)]
            wait_until(gate.arrived)
            if not case.has(Trait.BODY_ERROR_CANCELS):
                gate.open()  # it will wait for all of them
            raise LookupError("from the body")
    assert held.done() and all(future.done() for future in pending)
    if case.has(Trait.BODY_ERROR_CANCELS):
        assert len(marks.arrived()) < PENDING // 2
        assert sum(future.cancelled() for future in pending) > PENDING // 2
    else:
        assert held.result() == "held" and len(marks.arrived()) == PENDING
    check_refused(executor)


def test_exception_in_the_body_of_a_view(case: Case, make: Any, gates: Gates) -> None:
    """A view's ``with`` is that of its executor."""
    needs(case, Trait.BODY_ERROR_CANCELS)
    gate, marks = gates(), gates()
    executor = make(1)
    with pytest.raises(LookupError, match="from the body"):  # noqa: SIM117 - the order matters
        with executor.options(retries=1) as view:
            held = view.submit(gate.hold, "held")
            pending = [view.submit(marks.mark, index) for index in range(PENDING)]
            wait_until(gate.arrived)
            raise LookupError("from the body")
    # The gate is still shut: who is done was ended, and was not retried.
    assert isinstance(held.exception(timeout=0), BrokenProcessPool)
    assert all(future.done() for future in pending)
    assert len(marks.arrived()) < PENDING // 2
    check_refused(executor)
    check_refused(view)


# --- deletion ---------------------------------------------------------------------------------------


def test_deleted_with_work_pending(make_unkept: Make) -> None:
    executor = make_unkept(2)
    futures = [executor.submit(work.multiply, index, 2) for index in range(30)]
    del executor
    gc.collect()
    assert [future.result(timeout=50) for future in futures] == [2 * index for index in range(30)]


def test_deleted_while_a_map_goes_on(make_unkept: Make) -> None:
    executor = make_unkept(2)
    results = executor.map(abs, range(-30, 0))
    del executor
    gc.collect()
    assert list(results) == list(range(30, 0, -1))


def test_deleted_when_idle_ends_the_workers(make_unkept: Make, gate: work.Gate) -> None:
    executor = make_unkept(2)
    pids = start_workers(executor, gate)
    del executor
    wait_until(lambda: gc.collect() is not None and not any(work.is_alive(pid) for pid in pids))


def test_deleted_in_a_cycle(make_unkept: Make, gate: work.Gate) -> None:
    executor: Any = make_unkept(2)
    pids = start_workers(executor, gate)
    executor.myself = executor
    del executor
    wait_until(lambda: gc.collect() is not None and not any(work.is_alive(pid) for pid in pids))


def test_a_view_keeps_its_executor(case: Case, make_unkept: Any) -> None:
    needs(case, Trait.BODY_ERROR_CANCELS)
    view = make_unkept(1).options(retries=1)
    gc.collect()
    assert view.submit(abs, -1).result(timeout=50) == 1
    view.shutdown()


@pytest.fixture
def make_unkept(case: Case, gates: object) -> Make:
    """A factory that keeps no reference to what it makes."""
    return case.make


# --- ending what runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_the_workers(case: Case, make: Make, gates: Gates, method: str) -> None:
    executor: Any = make(2)
    if not case.has(Trait.STOPS_WORKERS):
        assert not hasattr(executor, method)
        return
    gate = gates()
    pids = start_workers(executor, gates())
    held = [executor.submit(gate.hold, index) for index in range(2)]
    wait_until(lambda: len(gate.arrived()) == 2, describe=gate.arrived)
    pending = [executor.submit(abs, -1) for _ in range(PENDING)]
    getattr(executor, method)()
    check_gone(pids)
    assert not wait([*held, *pending], timeout=50).not_done
    assert all(isinstance(future.exception(), BrokenProcessPool) for future in held)
    for future in pending:
        assert future.cancelled() or isinstance(future.exception(), BrokenProcessPool)
    check_refused(executor)
    executor.shutdown(wait=True)


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
@pytest.mark.parametrize("before", ["unused", "idle", "shut down"])
def test_ending_workers_that_do_nothing(case: Case, make: Make, method: str, before: str) -> None:
    needs(case, Trait.STOPS_WORKERS)
    executor: Any = make(1)
    if before != "unused":
        executor.submit(abs, -1).result()
    if before == "shut down":
        executor.shutdown()
    getattr(executor, method)()
    check_refused(executor)


def test_ending_stubborn_workers(case: Case, make: Make, gate: work.Gate) -> None:
    needs(case, Trait.STOPS_WORKERS)
    executor: Any = make(1)
    held = executor.submit(work.ignore_sigterm_and_hold, gate)
    wait_until(gate.arrived)
    executor.kill_workers()
    assert isinstance(held.exception(timeout=50), BrokenProcessPool)


def test_shutdown_is_called_with_keywords_only_for_cancelling(make: Make) -> None:
    executor: Callable[..., Any] = make(1).shutdown
    with pytest.raises(TypeError):
        executor(True, True)
