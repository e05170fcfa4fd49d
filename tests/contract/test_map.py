"""map: order, chunks, timeouts, back-pressure, and exceptions at the right item."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import re
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make, needs
from tests.contract.executors import Case, Trait
from tests.support import wait_until


@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 3}, {"chunksize": 100}], ids=str)
def test_same_as_the_builtin(executor: Executor, options: dict[str, int]) -> None:
    found = list(executor.map(pow, range(25), range(25), **options))
    assert found == list(map(pow, range(25), range(25)))


def test_one_iterable(executor: Executor) -> None:
    assert list(executor.map(abs, range(-300, 0))) == list(range(300, 0, -1))


def test_shortest_iterable_ends_it(executor: Executor) -> None:
    assert list(executor.map(pow, [2, 3, 4], itertools.count(1))) == [2, 9, 64]


def test_nothing_to_do(executor: Executor) -> None:
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(pow, [], [1, 2])) == []


def test_items_that_are_tuples_or_none(executor: Executor) -> None:
    items = [None, (), (1, 2), [3], {"a": 1}]
    assert list(executor.map(work.identity, items)) == items


def test_result_is_an_iterator(executor: Executor) -> None:
    results = executor.map(abs, [-1, -2])
    assert iter(results) is results
    assert next(results) == 1
    assert next(results) == 2
    with pytest.raises(StopIteration):
        next(results)


def test_order_is_that_of_the_items(executor: Executor, gate: work.Gate) -> None:
    # The first item ends last: the others must neither overtake it nor be lost.
    results = executor.map(work.call_or_hold, [gate, None, None], chunksize=1)
    wait_until(gate.arrived)
    assert executor.submit(abs, -1).result() == 1
    gate.open()
    assert list(results) == ["held", None, None]


def test_starts_without_being_iterated(executor: Executor, gate: work.Gate) -> None:
    results = executor.map(gate.mark, range(4))
    wait_until(lambda: len(gate.arrived()) == 4, describe=gate.arrived)
    assert list(results) == list(range(4))


def test_input_is_read_at_the_call_and_in_the_callers_thread(executor: Executor) -> None:
    readers = []

    def items() -> Iterator[int]:
        for index in range(20):
            readers.append(threading.current_thread())
            yield index

    results = executor.map(abs, items())
    assert readers == [threading.current_thread()] * 20
    assert list(results) == list(range(20))


def test_input_that_fails(executor: Executor) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(executor.map(abs, items()))
    assert executor.submit(abs, -1).result() == 1


@pytest.mark.parametrize("chunksize", [0, -1])
def test_bad_chunksize(executor: Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=chunksize)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("chunksize", "4"),
        ("chunksize", 2.5),
        ("buffersize", "4"),
        ("buffersize", 2.5),
        ("buffersize", True),
        ("timeout", "4"),
        ("timeout", [4]),
    ],
)
def test_options_of_the_wrong_type_are_named(case: Case, executor: Any, option: str, value: object) -> None:
    needs(case, Trait.NAMES_THE_CULPRIT)
    with pytest.raises(TypeError, match=f"^{option} must be .*, not {re.escape(repr(value))}$"):
        executor.map(abs, [1], **{option: value})


def test_exception_at_its_item(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exception_within_a_chunk(case: Case, executor: Executor) -> None:
    results = executor.map(work.fail_at, range(10), itertools.repeat(7), chunksize=5)
    found = []
    with pytest.raises(ValueError, match="item 7"):
        for result in results:
            found.append(result)
    # A chunk of ProcessPoolExecutor is one task: with one item all of it is lost.
    assert found == list(range(7 if case.has(Trait.ERROR_AT_ITEM) else 5))


def test_stop_iteration_does_not_end_it_silently(executor: Executor) -> None:
    with pytest.raises(RuntimeError) as caught:
        list(executor.map(work.raise_, [StopIteration("early")]))
    assert isinstance(caught.value.__cause__, StopIteration)


def test_unpicklable_item(case: Case, executor: Executor) -> None:
    results = executor.map(work.identity, [1, threading.Lock(), 3], chunksize=1)
    assert next(results) == 1
    with pytest.raises(Exception, match="pickle") as caught:
        next(results)
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "lock" in str(caught.value)
    assert executor.submit(abs, -1).result() == 1


def test_timeout(executor: Executor, gate: work.Gate) -> None:
    results = executor.map(gate.hold, range(1), timeout=0.2)
    begun = time.monotonic()
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    assert time.monotonic() - begun < 20


def test_timeout_counts_from_the_call(executor: Executor, gate: work.Gate) -> None:
    results = executor.map(work.identity, ["in time"], timeout=30)
    late = executor.map(gate.hold, range(1), timeout=0)
    assert next(results) == "in time"
    with pytest.raises(concurrent.futures.TimeoutError):
        next(late)


def test_timeout_that_is_long_enough(executor: Executor) -> None:
    assert list(executor.map(abs, [-1, -2], timeout=50)) == [1, 2]


def test_results_before_the_timeout_are_given(make: Make, gates: Gates) -> None:
    executor = make(2)
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    # On a busy machine the first results may come later than the first, short timeout.
    for timeout in (0.5, 5.0, 20.0):
        gate, found = gates(), []
        with pytest.raises(concurrent.futures.TimeoutError):
            items = [None, None, gate]
            for result in executor.map(work.call_or_hold, items, timeout=timeout, chunksize=1):
                found.append(result)
        gate.open()
        if found:
            break
    assert found == [None, None]


@pytest.mark.parametrize("how", ["close", "drop"])
def test_abandoned_early_cancels_the_rest(make: Make, gates: Gates, how: str) -> None:
    executor, first, rest = make(1), gates(), gates()
    results = executor.map(work.call_or_hold, [first] + [rest] * 300, chunksize=1)
    wait_until(first.arrived)
    first.open()
    assert next(results) == "held"
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    del results
    gc.collect()
    rest.open()
    executor.shutdown(wait=True)
    assert len(rest.arrived()) < 150


def test_exception_cancels_the_rest(make: Make, gates: Gates) -> None:
    executor, first, rest = make(1), gates(), gates()
    results = executor.map(work.call_or_fail, [first] + [rest] * 300, chunksize=1)
    wait_until(first.arrived)
    first.open()
    with pytest.raises(ValueError, match="first"):
        next(results)
    rest.open()
    executor.shutdown(wait=True)
    assert len(rest.arrived()) < 150


def test_results_are_freed_while_iterating(executor: Executor) -> None:
    for token in executor.map(work.make_token, range(10)):
        reference = weakref.ref(token)
        del token
        gc.collect()
        assert reference() is None


def test_results_of_chunks_are_freed_while_iterating(executor: Executor) -> None:
    alive: list[weakref.ref[work.Token]] = []
    for token in executor.map(work.make_token, range(20), chunksize=5):
        assert not [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(token))
        del token
        gc.collect()


def test_two_maps_at_once(executor: Executor) -> None:
    one, two = executor.map(abs, range(100)), executor.map(str, range(100))
    assert list(zip(one, two)) == [(index, str(index)) for index in range(100)]


@pytest.mark.parametrize("buffersize", [4, 100, 1000])
def test_buffersize_limits_what_is_read_ahead(case: Case, executor: Executor, buffersize: int) -> None:
    if not case.has(Trait.BUFFERSIZE):
        with pytest.raises(TypeError):
            executor.map(abs, [1], buffersize=1)  # type: ignore[call-arg,unused-ignore]
        return
    read = []

    def items() -> Iterator[int]:
        for index in itertools.count():
            read.append(index)
            yield index

    results = executor.map(abs, items(), buffersize=buffersize)  # type: ignore[call-arg,unused-ignore]
    assert len(read) == buffersize
    portion = max(1, buffersize // 16)
    for taken in range(1, buffersize + 2 * portion + 2):  # the first of the refilled items are taken, too
        assert next(results) == taken - 1
        assert taken + buffersize - portion <= len(read) <= taken + buffersize
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_buffersize_gives_everything(case: Case, executor: Executor, chunksize: int) -> None:
    needs(case, Trait.BUFFERSIZE)
    for buffersize in (1, 2, 7, 1000, None):
        options = {"buffersize": buffersize, "chunksize": chunksize}
        found = list(executor.map(pow, range(30), itertools.repeat(2), **options))
        assert found == [index**2 for index in range(30)]


def test_buffersize_and_exception(case: Case, executor: Executor) -> None:
    needs(case, Trait.BUFFERSIZE)
    results = executor.map(  # type: ignore[call-arg,unused-ignore]
        work.fail_at, itertools.count(), itertools.repeat(5), buffersize=3
    )
    found = []
    with pytest.raises(ValueError, match="item 5"):
        for result in results:
            found.append(result)
    assert found == list(range(5))


@pytest.mark.parametrize(("buffersize", "error"), [(0, ValueError), (-1, ValueError), ("1", TypeError)])
def test_bad_buffersize(case: Case, executor: Executor, buffersize: object, error: type[Exception]) -> None:
    needs(case, Trait.BUFFERSIZE)
    with pytest.raises(error, match="buffersize"):
        executor.map(abs, [1], buffersize=buffersize)  # type: ignore[call-arg,unused-ignore]


def test_buffersize_does_not_keep_what_was_taken(case: Case, executor: Executor) -> None:
    needs(case, Trait.BUFFERSIZE)
    options = {"buffersize": 3}
    for token in executor.map(work.make_token, range(10), **options):  # type: ignore[arg-type,unused-ignore]
        reference = weakref.ref(token)
        del token
        gc.collect()
        assert reference() is None
