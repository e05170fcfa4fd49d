"""Futures: states, cancelling, callbacks, exceptions, wait, as_completed, and what they keep alive."""

from __future__ import annotations

import concurrent.futures
import gc
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    as_completed,
    wait,
)

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make
from tests.contract.executors import Case, Trait
from tests.support import wait_until

# Tasks that no worker has begun: one worker held, and more behind it than a call queue takes.
QUEUED = 200


# --- states and cancelling --------------------------------------------------------------------------


def test_states_of_a_task_that_runs(executor: Executor, gate: work.Gate) -> None:
    future = executor.submit(gate.hold, "tag")
    wait_until(gate.arrived)
    wait_until(future.running)
    assert not future.done()
    assert "state=running" in repr(future)
    gate.open()
    assert future.result() == "tag"
    assert future.done() and not future.running()
    assert "state=finished returned str" in repr(future)


def test_state_of_a_task_that_failed(executor: Executor) -> None:
    future = executor.submit(work.fail)
    wait([future])
    assert future.done() and not future.cancelled()
    assert "state=finished raised ValueError" in repr(future)


def test_running_is_not_cancelled(executor: Executor, gate: work.Gate) -> None:
    future = executor.submit(gate.hold, "tag")
    wait_until(gate.arrived)
    wait_until(future.running)
    assert future.cancel() is False
    gate.open()
    assert future.result() == "tag"
    assert future.cancel() is False


def test_pending_is_cancelled(make: Make, gates: Gates) -> None:
    executor, gate, never = make(1), gates(), gates()
    held = executor.submit(gate.hold)
    wait_until(gate.arrived)
    queued = [executor.submit(never.mark, index) for index in range(QUEUED)]
    last = queued[-1]
    assert "state=pending" in repr(last)
    assert last.cancel() is True
    assert last.cancelled() and last.done() and not last.running()
    assert last.cancel() is True
    for call in (last.result, last.exception):
        with pytest.raises(CancelledError):
            call(timeout=0)
    gate.open()
    wait([held, *queued])
    assert str(QUEUED - 1) not in never.arrived()
    assert len(never.arrived()) == QUEUED - 1


def test_all_that_wait_can_be_cancelled(make: Make, gates: Gates) -> None:
    executor, gate, never = make(1), gates(), gates()
    held = executor.submit(gate.hold, "held")
    wait_until(gate.arrived)
    queued = [executor.submit(never.mark, index) for index in range(QUEUED)]
    cancelled = [future for future in queued if future.cancel()]
    assert len(cancelled) >= QUEUED // 2
    gate.open()
    assert held.result() == "held"
    wait(queued)
    survivors = {str(index) for index, future in enumerate(queued) if not future.cancelled()}
    assert set(never.arrived()) == survivors
    assert executor.submit(abs, -1).result() == 1


def test_cancelled_is_seen_by_wait_and_as_completed(make: Make, gate: work.Gate) -> None:
    executor = make(1)
    held = executor.submit(gate.hold)
    wait_until(gate.arrived)
    queued = [executor.submit(abs, -1) for _ in range(QUEUED)]
    assert queued[-1].cancel()
    # ProcessPoolExecutor tells those that wait only when the queue has come to it.
    gate.open()
    assert wait([queued[-1]], timeout=50).done == {queued[-1]}
    assert list(as_completed([queued[-1]], timeout=50)) == [queued[-1]]
    wait([held, *queued])


def test_cancel_from_another_thread_wakes_who_waits(make: Make, gate: work.Gate) -> None:
    executor = make(1)
    held = executor.submit(gate.hold)
    wait_until(gate.arrived)
    queued = [executor.submit(abs, -1) for _ in range(QUEUED)]
    seen: list[str] = []

    def wait_for_it() -> None:
        try:
            queued[-1].result(timeout=40)
        except CancelledError:
            seen.append("cancelled")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    assert queued[-1].cancel()
    thread.join(40)
    assert seen == ["cancelled"]
    gate.open()
    wait([held, *queued])


# --- timeouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_timeout_of_result_and_exception(
    executor: Executor, gate: work.Gate, timeout: float
) -> None:
    future = executor.submit(gate.hold, "tag")
    for call in (future.result, future.exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            call(timeout=timeout)
    gate.open()
    assert future.result(timeout=50) == "tag"
    assert future.result(timeout=0) == "tag"


# --- exceptions -------------------------------------------------------------------------------------


def printed(error: BaseException) -> str:
    """What a user sees of `error`."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_exception_is_raised_and_returned(executor: Executor) -> None:
    future = executor.submit(work.fail, "this one")
    with pytest.raises(ValueError, match="this one") as caught:
        future.result()
    assert future.exception() is caught.value
    assert caught.value.args == ("this one",)
    with pytest.raises(ValueError, match="this one"):
        future.result()


@pytest.mark.parametrize(
    "error",
    [
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "reason"),
        KeyboardInterrupt(),
        GeneratorExit(),
        CancelledError("raised by the task"),
        concurrent.futures.TimeoutError("raised by the task"),
        StopIteration("value"),
        AssertionError(),
        MemoryError(),
        RuntimeError,
    ],
    ids=repr,
)
def test_exceptions_of_many_types(executor: Executor, error: BaseException) -> None:
    future = executor.submit(work.raise_, error)
    found = future.exception(timeout=50)
    expected = error() if isinstance(error, type) else error
    assert type(found) is type(expected)
    assert found is not None and found.args == expected.args and str(found) == str(expected)
    assert not future.cancelled()


def test_sys_exit_ends_the_task_only(executor: Executor) -> None:
    error = executor.submit(work.sys_exit, 3).exception(timeout=50)
    assert isinstance(error, SystemExit) and error.code == 3
    assert executor.submit(abs, -1).result() == 1


def test_recursion_error(executor: Executor) -> None:
    with pytest.raises(RecursionError):
        executor.submit(work.recurse).result()
    assert executor.submit(abs, -1).result() == 1


def test_attributes_are_kept(executor: Executor) -> None:
    error = executor.submit(work.fail_with_attributes, 17).exception()
    assert isinstance(error, work.WithAttributes)
    assert error.code == 17 and error.args == ("attributed",)


def test_remote_traceback_is_printed(executor: Executor) -> None:
    with pytest.raises(KeyError) as caught:
        executor.submit(work.fail_deep).result()
    text = printed(caught.value)
    for expected in (
        "in fail_deep",
        "in innermost_frame_of_the_task",
        "# a comment that only the source line has",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("function", "attribute", "message"),
    [(work.fail_from_cause, "__cause__", "the cause"), (work.fail_in_handler, "__context__", "the context")],
)
def test_chained_exceptions(
    case: Case, executor: Executor, function: Callable[[], None], attribute: str, message: str
) -> None:
    with pytest.raises(ValueError, match="the effect") as caught:
        executor.submit(function).result()
    assert message in printed(caught.value)
    if case.has(Trait.KEEPS_CAUSES):
        chained = getattr(caught.value, attribute)
        assert isinstance(chained, OSError) and chained.args == (5, message)
        assert chained.__traceback__ is not None
        assert (caught.value.__cause__ is None) == (attribute == "__context__")
    else:
        assert type(caught.value.__cause__).__name__ == "_RemoteTraceback"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in 3.11")
def test_exception_group(executor: Executor) -> None:
    error = executor.submit(work.fail_with_group).exception()
    assert type(error).__name__ == "ExceptionGroup"
    parts = error.exceptions  # type: ignore[union-attr]
    assert [type(part) for part in parts] == [ValueError, KeyError]
    assert "in fail_with_group" in printed(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_notes(executor: Executor) -> None:
    error = executor.submit(work.fail_with_note).exception()
    assert error.__notes__ == ["a note from the worker"]  # type: ignore[union-attr]


def test_exception_that_is_false(case: Case, executor: Executor) -> None:
    future = executor.submit(work.raise_, work.Falsy("false"))
    if case.has(Trait.FALSY_ERRORS):
        assert isinstance(future.exception(), work.Falsy)
        with pytest.raises(work.Falsy):
            future.result()
    else:
        assert future.result() is None


# --- callbacks --------------------------------------------------------------------------------------


def test_callbacks_in_order_with_the_future(executor: Executor, gate: work.Gate) -> None:
    future, called = executor.submit(gate.hold, "tag"), []
    for index in range(5):
        future.add_done_callback(lambda done, index=index: called.append((index, done)))
    assert called == []
    gate.open()
    wait_until(lambda: len(called) == 5, describe=lambda: called)
    assert called == [(index, future) for index in range(5)]


def test_callback_sees_a_done_future(executor: Executor) -> None:
    seen: list[object] = []
    future = executor.submit(abs, -4)
    future.add_done_callback(lambda done: seen.append((done.done(), done.result(timeout=0))))
    wait_until(lambda: seen)
    assert seen == [(True, 4)]


def test_callback_of_a_done_future_is_called_at_once(executor: Executor) -> None:
    future, called = executor.submit(abs, -4), []
    future.result()
    future.add_done_callback(lambda done: called.append(threading.current_thread()))
    assert called == [threading.current_thread()]


def test_callback_of_a_failed_and_of_a_cancelled_future(make: Make, gate: work.Gate) -> None:
    executor, called = make(1), []
    failed = executor.submit(work.fail)
    failed.add_done_callback(called.append)
    wait_until(lambda: called == [failed], describe=lambda: called)
    held = executor.submit(gate.hold)
    wait_until(gate.arrived)
    queued = [executor.submit(abs, -1) for _ in range(QUEUED)]
    queued[-1].add_done_callback(called.append)
    assert queued[-1].cancel()
    assert called == [failed, queued[-1]]
    gate.open()
    wait([held, *queued])


def test_exception_in_a_callback_is_logged_and_harms_nobody(
    executor: Executor, gate: work.Gate, caplog: pytest.LogCaptureFixture
) -> None:
    future, called = executor.submit(gate.hold, "tag"), []
    future.add_done_callback(lambda done: work.fail("from the callback"))
    future.add_done_callback(called.append)
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        gate.open()
        wait_until(lambda: called == [future])
    assert "exception calling callback" in caplog.text and "from the callback" in caplog.text
    assert future.result() == "tag"
    assert executor.submit(abs, -1).result() == 1


def test_callback_that_submits(executor: Executor) -> None:
    followers: list[Future[int]] = []
    first = executor.submit(abs, -1)
    first.add_done_callback(lambda done: followers.append(executor.submit(abs, done.result() - 10)))
    wait_until(lambda: followers)
    assert followers[0].result(timeout=50) == 9


def test_callbacks_that_submit_a_chain(executor: Executor) -> None:
    ended, values = threading.Event(), []

    def go_on(done: Future[int]) -> None:
        values.append(done.result())
        if len(values) == 30:
            ended.set()
        else:
            executor.submit(work.multiply, done.result(), 2).add_done_callback(go_on)

    executor.submit(work.multiply, 1, 1).add_done_callback(go_on)
    assert ended.wait(50), values
    assert values == [2**index for index in range(30)]


# --- wait -------------------------------------------------------------------------------------------


def test_wait_for_all(executor: Executor) -> None:
    futures = [executor.submit(abs, -index) for index in range(10)]
    done, not_done = wait(futures, return_when=ALL_COMPLETED)
    assert done == set(futures) and not_done == set()


def test_wait_for_all_counts_failures(executor: Executor) -> None:
    futures = [executor.submit(work.fail), executor.submit(abs, -1)]
    assert wait(futures, timeout=50).done == set(futures)


def test_wait_for_the_first(executor: Executor, gate: work.Gate) -> None:
    held, quick = executor.submit(gate.hold), executor.submit(abs, -1)
    done, not_done = wait([held, quick], return_when=FIRST_COMPLETED, timeout=50)
    assert done == {quick} and not_done == {held}


def test_wait_for_the_first_when_one_is_done(executor: Executor, gate: work.Gate) -> None:
    quick = executor.submit(abs, -1)
    quick.result()
    held = executor.submit(gate.hold)
    done, not_done = wait([quick, held], return_when=FIRST_COMPLETED, timeout=50)
    assert done == {quick} and not_done == {held}


def test_wait_for_the_first_exception(executor: Executor, gate: work.Gate) -> None:
    held, quick = executor.submit(gate.hold), executor.submit(abs, -1)
    quick.result()
    failing = executor.submit(work.fail)
    done, not_done = wait([held, quick, failing], return_when=FIRST_EXCEPTION, timeout=50)
    assert done == {quick, failing} and not_done == {held}


def test_wait_for_the_first_exception_when_there_is_none(executor: Executor) -> None:
    futures = [executor.submit(abs, -index) for index in range(4)]
    done, not_done = wait(futures, return_when=FIRST_EXCEPTION, timeout=50)
    assert done == set(futures) and not_done == set()


def test_wait_for_the_first_exception_when_it_is_past(executor: Executor, gate: work.Gate) -> None:
    failed = executor.submit(work.fail)
    wait([failed])
    held = executor.submit(gate.hold)
    done, not_done = wait([failed, held], return_when=FIRST_EXCEPTION, timeout=50)
    assert done == {failed} and not_done == {held}


@pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_wait_that_times_out(executor: Executor, gate: work.Gate, return_when: str) -> None:
    held = executor.submit(gate.hold)
    done, not_done = wait([held], timeout=0.05, return_when=return_when)
    assert done == set() and not_done == {held}


def test_wait_for_duplicates(executor: Executor) -> None:
    future = executor.submit(abs, -1)
    assert wait([future, future], timeout=50).done == {future}


def test_wait_in_several_threads(executor: Executor, gate: work.Gate) -> None:
    held, seen = executor.submit(gate.hold, "tag"), []
    threads = [
        threading.Thread(target=lambda: seen.append(held.result(timeout=50))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(50)
    assert seen == ["tag"] * 5


# --- as_completed -----------------------------------------------------------------------------------


def test_as_completed_gives_each_once(executor: Executor) -> None:
    futures = [executor.submit(abs, -index) for index in range(20)]
    found = list(as_completed([*futures, *futures], timeout=50))
    assert len(found) == 20 and set(found) == set(futures)


def test_as_completed_in_order_of_completion(executor: Executor, gate: work.Gate) -> None:
    held = executor.submit(gate.hold)
    quick = executor.submit(abs, -1)
    completed = as_completed([held, quick], timeout=50)
    assert next(completed) is quick
    gate.open()
    assert next(completed) is held


def test_as_completed_gives_failures(executor: Executor) -> None:
    futures = [executor.submit(work.fail), executor.submit(abs, -1)]
    assert set(as_completed(futures, timeout=50)) == set(futures)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_as_completed_that_times_out(executor: Executor, gate: work.Gate, timeout: float) -> None:
    quick = executor.submit(abs, -1)
    quick.result()
    futures, found = [quick, executor.submit(gate.hold)], []
    with pytest.raises(concurrent.futures.TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        for future in as_completed(futures, timeout=timeout):
            found.append(future)
    assert found == [quick]


def test_as_completed_does_not_keep_what_it_gave(executor: Executor) -> None:
    futures = [executor.submit(work.make_token) for _ in range(5)]
    completed = as_completed(futures, timeout=50)
    futures.clear()
    for future in completed:
        reference = weakref.ref(future)
        del future
        gc.collect()
        # The thread that set the result may be on its way out of the future still.
        wait_until(lambda reference=reference: reference() is None)


# --- what is kept alive, and where ------------------------------------------------------------------


def test_argument_is_not_kept(executor: Executor) -> None:
    token = work.Token()
    reference = weakref.ref(token)
    future = executor.submit(work.identity, token)
    other = executor.submit(token.method)
    del token
    wait_until(lambda: gc.collect() is not None and reference() is None, describe="the argument to go")
    wait([future, other])


def test_result_is_not_kept(executor: Executor) -> None:
    future = executor.submit(work.make_token)
    reference = weakref.ref(future.result())
    assert reference() is not None
    del future
    wait_until(lambda: gc.collect() is not None and reference() is None, describe="the result to go")


def test_exception_is_not_kept(executor: Executor) -> None:
    future = executor.submit(work.fail_with_attributes, 1)
    reference = weakref.ref(future.exception())  # type: ignore[arg-type]
    try:
        future.result()
    except work.WithAttributes:
        assert reference() is not None
    del future
    wait_until(lambda: gc.collect() is not None and reference() is None, describe="the error to go")


def test_discarded_future_is_not_kept(executor: Executor) -> None:
    reference = weakref.ref(executor.submit(abs, -1))
    wait_until(lambda: gc.collect() is not None and reference() is None, describe="the future to go")


def test_callback_is_not_kept(executor: Executor) -> None:
    token = work.Token()
    reference = weakref.ref(token)
    future = executor.submit(abs, -1)
    future.add_done_callback(lambda done, token=token: token.method())
    future.result()
    del token, future
    wait_until(lambda: gc.collect() is not None and reference() is None, describe="the callback to go")


def test_nothing_is_kept_in_the_worker(make: Make) -> None:
    executor = make(1)
    assert executor.submit(work.remember, work.Token()).result() == 1
    assert isinstance(executor.submit(work.remember_result).result(), work.Token)
    assert isinstance(executor.submit(work.remember_error).exception(), ValueError)
    assert executor.submit(work.count_remembered_alive).result() == 0


def test_result_arrives_while_others_run(executor: Executor, gate: work.Gate) -> None:
    held = executor.submit(gate.hold)
    begun = time.monotonic()
    assert [executor.submit(abs, -index).result(timeout=50) for index in range(10)] == list(range(10))
    assert time.monotonic() - begun < 40
    assert not held.done()
