"""initializer and initargs: run once in each worker before its first task; what follows if they fail."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make, needs
from tests.contract.executors import Case, Trait
from tests.support import ScriptResult, wait_until

Script = Callable[..., ScriptResult]


def test_runs_before_the_first_task(make: Make) -> None:
    executor = make(1, initializer=work.initialize, initargs=("a", 2))
    assert executor.submit(work.initialized).result() == ["a", 2]


def test_runs_once_in_each_worker(make: Make, gates: Gates) -> None:
    gate = gates()
    executor = make(2, initializer=work.initialize, initargs=("x",))
    held = [executor.submit(gate.hold_then, work.initialized) for _ in range(2)]
    wait_until(lambda: len(gate.arrived()) == 2, describe=gate.arrived)
    gate.open()
    assert [future.result() for future in held] == [["x"], ["x"]]
    assert {tuple(executor.submit(work.initialized).result()) for _ in range(10)} == {("x",)}


def test_without_arguments(make: Make) -> None:
    executor = make(1, initializer=work.initialize)
    assert executor.submit(work.initialized).result() == []


def test_that_is_not_callable(make: Make) -> None:
    with pytest.raises(TypeError, match="initializer"):
        make(1, initializer="no function")


def test_that_is_a_closure(case: Case, make: Make) -> None:
    needs(case, Trait.ANY_CALLABLE)
    value = "enclosed"
    executor = make(1, initializer=lambda: work.initialize(value))
    assert executor.submit(work.initialized).result() == ["enclosed"]


def test_that_raises(case: Case, make: Make) -> None:
    executor = make(2, initializer=work.fail, initargs=("cannot initialize",))
    error = first_error(executor)
    assert isinstance(error, BrokenProcessPool)
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, -1).result(timeout=50)
    if case.has(Trait.INITIALIZER_CAUSE):
        assert isinstance(error.__cause__, ValueError) and error.__cause__.args == ("cannot initialize",)
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        assert "raise ValueError(message)" in text


def first_error(executor: Executor) -> BaseException | None:
    """How the first task fails; some executors refuse it at once, some fail its future."""
    try:
        return executor.submit(abs, -1).exception(timeout=50)
    except BrokenProcessPool as error:
        return error


def test_that_raises_fails_all_that_wait(make: Make) -> None:
    executor = make(2, initializer=work.fail, initargs=("cannot initialize",))
    futures = []
    for index in range(30):
        try:
            futures.append(executor.submit(abs, index))
        except BrokenProcessPool:
            break
    assert not wait(futures, timeout=50).not_done
    assert all(isinstance(future.exception(), BrokenProcessPool) for future in futures)


def test_map_after_one_that_raises(make: Make) -> None:
    executor = make(1, initializer=work.fail, initargs=("cannot initialize",))
    with pytest.raises(BrokenProcessPool):
        list(executor.map(abs, range(10), timeout=50))


def test_that_calls_sys_exit(make: Make) -> None:
    executor = make(1, initializer=work.sys_exit, initargs=(3,))
    assert isinstance(first_error(executor), BrokenProcessPool)


@pytest.mark.parametrize("death", ["exit-0", "exit-3", "SIGKILL", "segfault"])
def test_that_ends_the_process(make: Make, death: str) -> None:
    # Whatever starts workers must not go on and on with one that always dies.
    executor = make(1, initializer=work.DEATHS[death])
    assert isinstance(first_error(executor), BrokenProcessPool)
    with pytest.raises(BrokenProcessPool):
        executor.submit(abs, -1).result(timeout=50)


def test_that_fails_in_a_later_worker(case: Case, make: Make, tmp_path: Path) -> None:
    needs(case, Trait.MAX_TASKS_BURST)
    executor = make(
        1,
        initializer=work.initialize_once_alive,
        initargs=(str(tmp_path / "first"),),
        max_tasks_per_child=1,
    )
    assert executor.submit(abs, -1).result(timeout=50) == 1
    assert isinstance(first_error(executor), BrokenProcessPool)


def test_arguments_that_cannot_be_pickled(case: Case, make: Make) -> None:
    if not case.has(Trait.INITARGS_TRAVEL):
        executor = make(1, initializer=work.initialize, initargs=(threading.Lock(),))
        assert executor.submit(abs, -1).result() == 1
        return
    with pytest.raises(Exception, match=r"pickle.*lock") as caught:
        executor = make(1, initializer=work.initialize, initargs=(threading.Lock(),))
        executor.submit(abs, -1).result(timeout=50)
    assert not isinstance(caught.value, TimeoutError)


def test_arguments_that_cannot_be_loaded(case: Case, make: Make) -> None:
    needs(case, Trait.INITARGS_TRAVEL)
    rigged = work.Rigged(os.getpid(), "load", True, work.boom)
    executor = make(1, initializer=work.initialize, initargs=(rigged,))
    error = first_error(executor)
    assert isinstance(error, BrokenProcessPool)
    if case.has(Trait.INITIALIZER_CAUSE):
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        assert "ArithmeticError" in text and "boom" in text


def test_shutdown_while_it_fails(make: Make) -> None:
    executor = make(2, initializer=work.fail, initargs=("cannot initialize",))
    try:
        future = executor.submit(abs, -1)
    except BrokenProcessPool:
        return
    executor.shutdown(wait=True)
    assert future.done()


def test_global_of_main_is_seen_by_its_tasks(script: Script) -> None:
    script(
        """
model = None

def load(value):
    global model
    model = value

def use(factor):
    return model * factor

def replace(value):
    global model
    model = value

if __name__ == "__main__":
    with make(1, initializer=load, initargs=(7,)) as executor:
        assert executor.submit(use, 6).result() == 42
        assert list(executor.map(use, range(3))) == [0, 7, 14]
        executor.submit(replace, 2).result()
        assert executor.submit(use, 6).result() == 12
"""
    ).check()
