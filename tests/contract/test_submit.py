"""submit: what can be called with what, what comes back, and how the pool is constructed."""

from __future__ import annotations

import functools
import math
import multiprocessing
import operator
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make, needs
from tests.contract.executors import Case, Trait
from tests.support import wait_until


def test_result_of_a_function(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, Future)
    assert future.result() == 256
    assert future.exception() is None
    assert future.done() and not future.running() and not future.cancelled()


def test_keywords(executor: Executor) -> None:
    assert executor.submit(work.multiply, 2, y=8).result() == 16


def test_keywords_that_submit_itself_could_mean(executor: Executor) -> None:
    future = executor.submit(work.capture, 1, self=2, fn=3, args=4, kwargs=5, timeout=6, future=7)
    expected = {"self": 2, "fn": 3, "args": 4, "kwargs": 5, "timeout": 6, "future": 7}
    assert future.result() == ((1,), expected)


def test_function_is_positional(executor: Executor) -> None:
    with pytest.raises(TypeError):
        executor.submit(fn=work.capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit(arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "argument", "expected"),
    [
        (math.sqrt, 9, 3.0),
        (str, 12, "12"),
        (functools.partial(operator.mul, 3), 4, 12),
        (operator.itemgetter(1), (5, 6), 6),
        ([1, 2, 3].count, 2, 1),
        (work.Doubler(3), 4, 12),
        (work.Doubler(3).method, 4, 12),
        (work.Doubler.static, 4, 8),
        (work.Doubler.from_class, 4, 8),
    ],
    ids=["builtin", "type", "partial", "getter", "bound-c", "object", "bound", "static", "class"],
)
def test_callables(
    executor: Executor, function: Callable[..., object], argument: object, expected: object
) -> None:
    assert executor.submit(function, argument).result() == expected


@pytest.mark.parametrize(
    "value",
    [None, False, 0, "", (), [], {}, float("inf"), b"\x00\n\xff", "ü世\n\x00", {"a": [1, {2}]}, Ellipsis],
    ids=repr,
)
def test_values_travel_both_ways(executor: Executor, value: object) -> None:
    assert executor.submit(work.identity, value).result() == value
    assert executor.submit(work.capture, value, key=value).result() == ((value,), {"key": value})


def test_an_exception_object_may_be_a_result(executor: Executor) -> None:
    result = executor.submit(work.identity, ValueError("returned")).result()
    assert isinstance(result, ValueError) and result.args == ("returned",)


def test_large_argument_and_result(executor: Executor) -> None:
    data = os.urandom(1 << 20) * 5
    assert executor.submit(work.size, data).result() == len(data)
    assert executor.submit(work.identity, data).result() == data


def test_lambda_and_closure(case: Case, executor: Executor) -> None:
    factor = 7
    future = executor.submit(lambda value: factor * value, 6)
    if case.has(Trait.ANY_CALLABLE):
        assert future.result() == 42
    else:
        assert isinstance(future.exception(), Exception)
        assert executor.submit(abs, -1).result() == 1


def test_argument_changed_after_submit(case: Case, executor: Executor, gates: Gates) -> None:
    gate = gates()
    holds = [executor.submit(gate.hold, index) for index in range(2)]
    values = [1]
    futures = [executor.submit(work.identity, values) for _ in range(10)]
    values.append(2)
    gate.open()
    wait(holds)
    results = [future.result() for future in futures]
    if case.has(Trait.PICKLES_IN_SUBMIT):
        assert results == [[1]] * 10
    else:
        # Pickled by a thread, some time later: those beyond the call queue see the change.
        assert results[-1] == [1, 2]


def test_many_more_tasks_than_workers(executor: Executor) -> None:
    futures = [executor.submit(work.multiply, index, 2) for index in range(500)]
    assert [future.result() for future in futures] == [2 * index for index in range(500)]


def test_work_is_done_elsewhere_and_by_all_workers(executor: Executor, gates: Gates) -> None:
    gate = gates()
    both = [executor.submit(gate.hold_then, work.pid_of) for _ in range(2)]
    wait_until(lambda: len(gate.arrived()) == 2, describe=gate.arrived)
    gate.open()
    pids = {future.result() for future in both}
    assert len(pids) == 2 and os.getpid() not in pids


def test_is_an_executor(executor: Executor) -> None:
    assert isinstance(executor, Executor)


def test_max_workers_attribute(make: Make) -> None:
    assert make(3)._max_workers == 3  # type: ignore[attr-defined]


def test_max_workers_by_default(case: Case, make: Make) -> None:
    executor = make(None)
    if case.service:
        assert executor._max_workers == 16, "as documented"  # type: ignore[attr-defined]
    else:
        cores = os.cpu_count()
        assert cores is not None
        assert 1 <= executor._max_workers <= cores  # type: ignore[attr-defined]
    assert executor.submit(abs, -1).result() == 1


@pytest.mark.parametrize("number", [0, -1, "2"])
def test_max_workers_that_make_no_sense(make: Make, number: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        make(number)


def test_positions_are_those_of_the_process_pool(case: Case, make: Make) -> None:
    executor = make(1, case.context, work.initialize, ("first", "second"))
    assert executor.submit(work.initialized).result() == ["first", "second"]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_any_context_is_accepted(make: Make, method: str) -> None:
    executor = make(1, mp_context=multiprocessing.get_context(method))
    assert executor.submit(abs, -2).result() == 2


def test_unknown_option(make: Make) -> None:
    with pytest.raises((TypeError, ValueError), match="max_wrokers"):
        make(2, max_wrokers=2)


def test_max_tasks_per_child_gives_fresh_processes(case: Case, make: Make) -> None:
    if not case.has(Trait.MAX_TASKS):
        with pytest.raises((ValueError, TypeError)):
            make(1, max_tasks_per_child=3)
        return
    executor = make(1, max_tasks_per_child=3)
    pids = [executor.submit(work.pid_of).result() for _ in range(7)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_max_tasks_per_child_with_many_waiting(case: Case, make: Make) -> None:
    needs(case, Trait.MAX_TASKS_BURST)
    executor = make(2, max_tasks_per_child=2, initializer=work.initialize, initargs=("set",))
    futures = [executor.submit(work.pid_of) for _ in range(11)]
    pids = [future.result() for future in futures]
    assert all(pids.count(pid) <= 2 for pid in pids), pids
    assert executor.submit(work.initialized).result() == ["set"]


def test_max_tasks_per_child_and_map(case: Case, make: Make) -> None:
    needs(case, Trait.MAX_TASKS_BURST)
    executor = make(1, max_tasks_per_child=3)
    assert list(executor.map(abs, range(-8, 0))) == list(range(8, 0, -1))


def test_max_tasks_per_child_and_early_shutdown(case: Case, make: Make) -> None:
    needs(case, Trait.MAX_TASKS)
    executor = make(3, max_tasks_per_child=1)
    futures = [executor.submit(work.multiply, index, index) for index in range(6)]
    executor.shutdown()
    assert [future.result(timeout=0) for future in futures] == [i * i for i in range(6)]


@pytest.mark.parametrize("number", [0, -1, "3"])
def test_max_tasks_per_child_that_makes_no_sense(make: Make, number: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        make(1, max_tasks_per_child=number)


def test_from_several_threads(executor: Executor) -> None:
    results: dict[int, list[int]] = {}

    def submit_many(base: int) -> None:
        futures = [executor.submit(work.multiply, base, index) for index in range(40)]
        results[base] = [future.result() for future in futures]

    threads = [threading.Thread(target=submit_many, args=(base,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert results == {base: [base * index for index in range(40)] for base in range(8)}
