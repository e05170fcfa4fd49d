"""Everything that can fail while functions, arguments, results and exceptions are pickled or loaded.

Three things must hold each time: the future ends with an error that says what was wrong, no other task is
harmed, and the pool goes on, or, where an executor promises less, ends with BrokenProcessPool.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from tests.contract import work
from tests.contract.checks import Make, needs
from tests.contract.executors import Case, Trait

HOME = os.getpid()

# (how it is rigged, what it does then): see work.Rigged.
IN_DRIVER = False
IN_WORKER = True


def rigged(at: str, away: bool, act: Callable[..., Any] = work.boom, *args: Any) -> work.Rigged:
    return work.Rigged(HOME, at, away, act, args)


def said(error: BaseException | None) -> str:
    """All that the printed error says."""
    assert error is not None
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def check_alone(executor: Executor, future: Future[Any], neighbours: list[Future[int]]) -> str:
    """`future` failed, and nothing else did; returns what the error says."""
    error = future.exception(timeout=50)
    assert isinstance(error, Exception) and not isinstance(error, BrokenProcessPool), said(error)
    assert [neighbour.result(timeout=50) for neighbour in neighbours] == [1] * len(neighbours)
    assert executor.submit(abs, -2).result(timeout=50) == 2
    return said(error)


def check_broken(executor: Executor, future: Future[Any]) -> None:
    """`future` failed and took the pool along, as ProcessPoolExecutor has it."""
    assert isinstance(future.exception(timeout=50), BrokenProcessPool)
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, -2)


def check(case: Case, make: Make, function: Callable[..., Any], *args: Any) -> str:
    """What the error says; empty where the whole pool broke, as it may without ONE_TASK_LOST."""
    executor = make(2)
    before = [executor.submit(abs, -1) for _ in range(3)]
    for neighbour in before:
        neighbour.result(timeout=50)
    future = executor.submit(function, *args)
    if not case.has(Trait.ONE_TASK_LOST):
        check_broken(executor, future)
        return ""
    return check_alone(executor, future, before + [executor.submit(abs, -1) for _ in range(3)])


# --- on the way out ---------------------------------------------------------------------------------


def test_argument_that_cannot_be_pickled(case: Case, executor: Executor) -> None:
    neighbours = [executor.submit(abs, -1) for _ in range(3)]
    future = executor.submit(work.capture, 1, 2, threading.Lock())
    text = check_alone(executor, future, neighbours)
    assert "pickle" in text and "lock" in text
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "argument 3" in text or "argument 2" in text
        assert "capture" in text


def test_keyword_that_cannot_be_pickled(case: Case, executor: Executor) -> None:
    future = executor.submit(work.capture, 1, harmless=2, culprit=threading.Lock())
    text = check_alone(executor, future, [])
    assert "pickle" in text and "lock" in text
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "'culprit'" in text and "'harmless'" not in text


def test_argument_whose_reduce_raises(executor: Executor) -> None:
    future = executor.submit(work.identity, rigged("dump", IN_DRIVER))
    assert "ArithmeticError: boom" in check_alone(executor, future, [])


def test_function_whose_reduce_raises(executor: Executor) -> None:
    future = executor.submit(rigged("dump", IN_DRIVER))
    assert "ArithmeticError: boom" in check_alone(executor, future, [])


def test_function_that_cannot_be_pickled(executor: Executor) -> None:
    future = executor.submit(threading.Lock().acquire)
    assert "pickle" in check_alone(executor, future, [])


def test_argument_nested_too_deeply(executor: Executor) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    future = executor.submit(work.identity, nested)
    error = future.exception(timeout=50)
    assert "recursion" in said(error).lower()
    while nested:  # what is nested so deeply is also taken down by recursion, unless by hand
        nested = nested.pop()
    assert executor.submit(abs, -2).result(timeout=50) == 2


def test_sys_exit_while_an_argument_is_pickled(case: Case, executor: Executor) -> None:
    needs(case, Trait.EXIT_IN_PICKLING)
    # It is the caller's own and may pass through, or it fails the task; nothing else may come of it.
    try:
        future = executor.submit(work.identity, rigged("dump", IN_DRIVER, work.sys_exit))
    except SystemExit:
        pass
    else:
        assert isinstance(future.exception(timeout=50), BaseException)
    assert executor.submit(abs, -2).result(timeout=50) == 2


def test_unpicklable_among_many(executor: Executor) -> None:
    futures = [
        executor.submit(work.identity, threading.Lock() if index % 7 == 3 else index)
        for index in range(50)
    ]
    for index, future in enumerate(futures):
        if index % 7 == 3:
            assert "pickle" in said(future.exception(timeout=50))
        else:
            assert future.result(timeout=50) == index


def test_shutdown_after_an_unpicklable_argument(case: Case, make: Make) -> None:
    needs(case, Trait.NO_WAIT)
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    future = executor.submit(work.identity, rigged("dump", IN_DRIVER))
    executor.shutdown(wait=False)
    assert "boom" in said(future.exception(timeout=50))


# --- in the worker, before the call -----------------------------------------------------------------


@pytest.mark.parametrize("at", ["load", "setstate"])
def test_argument_that_cannot_be_loaded(case: Case, make: Make, at: str) -> None:
    text = check(case, make, work.identity, rigged(at, IN_WORKER))
    assert "boom" in text or not case.has(Trait.ONE_TASK_LOST)


@pytest.mark.parametrize("at", ["load", "setstate"])
def test_function_that_cannot_be_loaded(case: Case, make: Make, at: str) -> None:
    text = check(case, make, rigged(at, IN_WORKER))
    assert "boom" in text or not case.has(Trait.ONE_TASK_LOST)


def test_system_exit_while_an_argument_is_loaded(case: Case, make: Make) -> None:
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    future = executor.submit(work.identity, rigged("load", IN_WORKER, work.sys_exit))
    error = future.exception(timeout=50)
    if case.has(Trait.ONE_TASK_LOST):
        assert "SystemExit" in said(error) or isinstance(error, SystemExit)
        assert executor.submit(abs, -2).result(timeout=50) == 2
    else:
        assert isinstance(error, BrokenProcessPool)


def test_wrong_number_of_arguments(executor: Executor) -> None:
    future = executor.submit(work.multiply, 1, 2, 3)
    with pytest.raises(TypeError, match="multiply"):
        future.result(timeout=50)


# --- in the worker, after the call ------------------------------------------------------------------


def test_result_that_cannot_be_pickled(case: Case, executor: Executor) -> None:
    neighbours = [executor.submit(abs, -1) for _ in range(3)]
    text = check_alone(executor, executor.submit(threading.Lock), neighbours)
    assert "pickle" in text and "lock" in text


def test_generator_as_a_result(executor: Executor) -> None:
    text = check_alone(executor, executor.submit(iter_of_a_generator), [])
    assert "pickle" in text and "generator" in text


def iter_of_a_generator() -> Any:
    return (index for index in range(3))


def test_result_whose_reduce_raises(case: Case, executor: Executor) -> None:
    future = executor.submit(work.rigged, HOME, "dump", IN_WORKER, work.boom)
    text = check_alone(executor, future, [])
    assert "ArithmeticError" in text and "boom" in text
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "Rigged" in text


def test_system_exit_while_a_result_is_pickled(executor: Executor) -> None:
    future = executor.submit(work.rigged, HOME, "dump", IN_WORKER, work.sys_exit)
    error = future.exception(timeout=50)
    assert "SystemExit" in said(error)
    assert executor.submit(abs, -2).result(timeout=50) == 2


def test_exception_that_cannot_be_pickled(case: Case, executor: Executor) -> None:
    future = executor.submit(fail_with_lock)
    text = check_alone(executor, future, [])
    assert "lock" in text
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "WithLock" in text and "locked in" in text and "in fail_with_lock" in text


def fail_with_lock() -> None:
    raise work.WithLock("locked in")


def test_exception_whose_reduce_raises(case: Case, executor: Executor) -> None:
    future = executor.submit(work.fail_rigged, HOME, "dump", IN_WORKER, work.boom)
    text = check_alone(executor, future, [])
    if case.has(Trait.NAMES_THE_CULPRIT):
        assert "RiggedError" in text and "in fail_rigged" in text
    else:
        assert "boom" in text


# --- in the driver, on the way back -----------------------------------------------------------------


@pytest.mark.parametrize("at", ["load", "setstate"])
def test_result_that_cannot_be_loaded(case: Case, make: Make, at: str) -> None:
    text = check(case, make, work.rigged, HOME, at, IN_DRIVER, work.boom)
    if case.has(Trait.ONE_TASK_LOST):
        assert "ArithmeticError" in text and "boom" in text


def test_system_exit_while_a_result_is_loaded(case: Case, make: Make) -> None:
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    future = executor.submit(work.rigged, HOME, "load", IN_DRIVER, work.sys_exit)
    if case.has(Trait.ONE_TASK_LOST):
        assert "SystemExit" in said(future.exception(timeout=50))
        assert executor.submit(abs, -2).result(timeout=50) == 2
    else:
        check_broken(executor, future)


def test_exception_that_cannot_be_loaded(case: Case, make: Make) -> None:
    text = check(case, make, work.fail_rigged, HOME, "load", IN_DRIVER, work.boom)
    if case.has(Trait.ONE_TASK_LOST):
        assert "RiggedError" in text and "in fail_rigged" in text


def test_exception_whose_init_needs_other_arguments(case: Case, make: Make) -> None:
    text = check(case, make, work.fail_needing_two)
    if case.has(Trait.ONE_TASK_LOST):
        assert "NeedsTwo" in text and "needs this and that" in text and "in fail_needing_two" in text


def test_result_is_of_the_drivers_own_class(executor: Executor) -> None:
    # A class that is pickled by reference must be the driver's own class when it is back.
    token = executor.submit(work.make_token).result()
    assert type(token) is work.Token
