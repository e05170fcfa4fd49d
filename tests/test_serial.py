"""SerialExecutor: the interface of the others, where and when it is called."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from clusterfutures import (
    ClusterFuture,
    DependencyFailed,
    InitializerFailed,
    LocalExecutor,
    OptionError,
    SerialExecutor,
    current_task,
)
from tests.contract import work
from tests.support import ScriptResult


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def arguments(called: Callable[..., Any]) -> list[tuple[str, object, object]]:
    found = inspect.signature(called).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


class TestInterface:
    """A program for one of the others runs on it."""

    def test_it_has_what_the_others_have(self) -> None:
        # There is no directory, since nothing is written: so nothing to reattach to or to run again from.
        assert public(LocalExecutor) - public(SerialExecutor) == {"run_dir", "futures", "rerun"}

    @pytest.mark.parametrize("name", ["submit", "map", "starmap", "options", "scale", "shutdown"])
    def test_it_is_called_like_the_others(self, name: str) -> None:
        assert arguments(getattr(SerialExecutor, name)) == arguments(getattr(LocalExecutor, name))

    def test_it_is_made_like_the_others(self) -> None:
        assert arguments(SerialExecutor) == arguments(LocalExecutor)

    def test_its_futures_have_what_those_of_the_others_have(self) -> None:
        with SerialExecutor() as ex:
            future = ex.submit(abs, -1)
        assert public(ClusterFuture) - public(future) == set()

    def test_what_can_be_asked_without_work(self) -> None:
        ex = SerialExecutor(3)
        assert ex._max_workers == 3
        assert ex.active_workers == 1
        assert ex.wait_for_workers(3, timeout=0)
        with pytest.raises(ValueError, match="see scale"):
            ex.wait_for_workers(4)
        ex.scale(4)
        assert ex.wait_for_workers(4)
        ex.flush()
        assert "Nothing is submitted" in ex.explain()
        assert "no scheduler" in ex.dry_run()
        ex.shutdown()
        assert ex.active_workers == 0

    @pytest.mark.parametrize("end", ["shutdown", "terminate_workers", "kill_workers"])
    def test_nothing_runs_after_its_end(self, end: str) -> None:
        ex = SerialExecutor()
        done = ex.submit(abs, -1)
        getattr(ex, end)()
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.submit(abs, -1)
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.map(abs, [-1])
        assert done.result() == 1


class TestOptions:
    """Those of every other executor are checked, and have no effect."""

    def test_of_the_executor(self) -> None:
        with SerialExecutor(mem="8G", walltime="2h", queue="day", retries=2, keep="never") as ex:
            assert ex.submit(abs, -1).result() == 1

    def test_of_some_tasks(self) -> None:
        with SerialExecutor() as ex:
            large = ex.options(mem="32G", retries=2, timeout=60).options(cores=2)
            assert large.submit(abs, -1).result() == 1
            assert list(large.map(abs, [-1, -2])) == [1, 2]

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"tiem": "2h"}, "did you mean 'time'"),
            ({"mem": 8}, "8 what"),
            ({"retries": -1}, "retries"),
            ({"mem": "1G", "memory": "2G"}, "the same option"),
        ],
    )
    def test_what_is_wrong_is_refused(self, options: dict[str, Any], complaint: str) -> None:
        with pytest.raises(OptionError, match=complaint):
            SerialExecutor(**options)
        with SerialExecutor() as ex, pytest.raises(OptionError, match=complaint):
            ex.options(**options)

    def test_what_others_refuse_with_other_errors(self) -> None:
        with pytest.raises(ValueError, match="max_workers"):
            SerialExecutor(0)
        with pytest.raises(ValueError, match="max_tasks_per_child"):
            SerialExecutor(max_tasks_per_child=0)
        with pytest.raises(TypeError, match="initializer"):
            SerialExecutor(initializer="no function")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="initargs must be a tuple of arguments, not 'ab'"):
            SerialExecutor(initializer=print, initargs="ab")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            SerialExecutor().wait_for_workers(1, "3")  # type: ignore[arg-type]

    def test_options_of_the_executor_are_none_of_single_tasks(self) -> None:
        with SerialExecutor() as ex, pytest.raises(OptionError, match="keep is an option of the executor"):
            ex.options(keep="never")


class TestSubmit:
    """The call is made here and now."""

    def test_it_runs_before_submit_returns_in_this_thread(self) -> None:
        with SerialExecutor() as ex:
            future = ex.submit(lambda: (os.getpid(), threading.get_ident()))
            assert future.done()
        assert future.result() == (os.getpid(), threading.get_ident())

    def test_nothing_is_pickled_or_copied(self) -> None:
        given, lock = [1, [2]], threading.Lock()
        with SerialExecutor() as ex:
            future = ex.submit(lambda a, b, **more: (a, b, more["c"]), given, lock, c={"d": given})
        first, second, third = future.result()
        assert first is given and second is lock and third["d"] is given

    def test_keywords_of_any_name(self) -> None:
        with SerialExecutor() as ex:
            assert ex.submit(work.capture, 1, fn=2, self=3).result() == ((1,), {"fn": 2, "self": 3})

    def test_what_the_future_knows(self) -> None:
        with SerialExecutor() as ex:
            futures = [ex.submit(sum, range(n)) for n in range(2)]
        assert [future.task for future in futures] == [0, 1]
        assert futures[1].state == "FINISHED"
        assert futures[1].pid == os.getpid()
        assert (futures[1].attempt, futures[1].exit_code, futures[1].queue_time) == (0, 0, 0.0)
        assert futures[1].wall_time > 0.0 and futures[1].cpu_time >= 0.0
        assert futures[1].worker is futures[1].node is futures[1].job_id is futures[1].peak_memory is None
        assert not futures[1].cancel() and not futures[1].kill()

    def test_output_goes_where_all_output_goes(self, capsys: pytest.CaptureFixture[str]) -> None:
        with SerialExecutor() as ex:
            future = ex.submit(print, "from the task")
        assert capsys.readouterr().out == "from the task\n"
        assert future.stdout() == future.stderr() == ""

    def test_a_task_may_submit(self) -> None:
        with SerialExecutor() as ex:
            assert ex.submit(lambda n: ex.submit(abs, n).result(), -1).result() == 1

    def test_the_standard_functions_take_its_futures(self) -> None:
        seen: list[Future[int]] = []
        with SerialExecutor() as ex:
            future = ex.submit(abs, -1)
            future.add_done_callback(seen.append)
            assert wait([future], timeout=0).done == {future}
        assert seen == [future]

    def test_in_an_event_loop(self) -> None:
        async def call() -> int:
            return await asyncio.get_running_loop().run_in_executor(SerialExecutor(), abs, -1)

        assert asyncio.run(call()) == 1

    def test_there_is_no_worker_to_ask_for_its_task(self) -> None:
        with SerialExecutor() as ex:
            assert ex.submit(current_task).result() is None


class TestErrors:
    """They are kept for whoever asks for the result."""

    def test_the_error_is_the_very_one_with_its_frames(self) -> None:
        error = ValueError("mine")
        with SerialExecutor() as ex:
            future = ex.submit(work.raise_, error)
        assert future.exception() is error
        with pytest.raises(ValueError, match="mine"):
            future.result()
        assert "raise_" in [frame.name for frame in traceback.extract_tb(error.__traceback__)]

    def test_what_is_no_function(self) -> None:
        with SerialExecutor() as ex:
            assert isinstance(ex.submit(3).exception(), TypeError)  # type: ignore[arg-type]

    def test_an_exit_is_an_error(self) -> None:
        with SerialExecutor() as ex:
            assert isinstance(ex.submit(work.sys_exit, 3).exception(), SystemExit)

    def test_an_error_that_is_false_is_raised(self) -> None:
        with SerialExecutor() as ex, pytest.raises(work.Falsy):
            ex.submit(work.raise_, work.Falsy()).result()

    def test_ctrl_c_is_for_the_program(self) -> None:
        with SerialExecutor() as ex, pytest.raises(KeyboardInterrupt):
            ex.submit(work.raise_, KeyboardInterrupt())

    def test_an_error_in_the_body(self) -> None:
        with pytest.raises(ValueError, match="in the body"), SerialExecutor() as ex:
            raise ValueError("in the body")
        assert ex.active_workers == 0


class TestMap:
    """Items run at once, as far as the buffer goes, up to the first that fails."""

    def test_results_are_in_order(self) -> None:
        with SerialExecutor() as ex:
            assert list(ex.map(divmod, [7, 8, 9], [2, 3, 4])) == [(3, 1), (2, 2), (2, 1)]
            assert list(ex.map(abs, [-1, -2], timeout=0, chunksize=5)) == [1, 2]
            assert list(ex.starmap(pow, iter([(2, 5), [3, 2]]))) == [32, 9]
            assert list(ex.map(abs, [])) == list(ex.map(abs)) == []

    def test_it_runs_without_being_asked_for_results(self) -> None:
        ran: list[int] = []
        with SerialExecutor() as ex:
            ex.map(ran.append, range(3))
        assert ran == [0, 1, 2]

    def test_a_buffer_is_filled_and_kept_full(self) -> None:
        ran: list[int] = []
        taken = iter(range(10))
        with SerialExecutor() as ex:
            results = ex.map(lambda n: ran.append(n) or n, taken, buffersize=3)
            assert ran == [0, 1, 2]
            assert next(results) == 0
            assert next(results) == 1
            assert ran == [0, 1, 2, 3]
            assert list(results) == list(range(2, 10))
        assert ran == list(range(10))

    @pytest.mark.parametrize("buffersize", [None, 1, 3, 100])
    def test_the_first_that_fails_is_the_last(self, buffersize: int | None) -> None:
        ran: list[int] = []

        def fail_at_two(n: int) -> int:
            ran.append(n)
            return work.fail_at(n, 2)

        with SerialExecutor() as ex:
            results = ex.map(fail_at_two, range(10), buffersize=buffersize)
            assert [next(results), next(results)] == [0, 1]
            with pytest.raises(ValueError, match="item 2"):
                next(results)
            assert list(results) == []
        assert ran == [0, 1, 2]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"chunksize": 0}, ValueError),
            ({"chunksize": "4"}, TypeError),
            ({"timeout": "4"}, TypeError),
            ({"buffersize": 0}, ValueError),
            ({"buffersize": 1.5}, TypeError),
        ],
    )
    def test_what_is_wrong_is_refused_at_once(
        self, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with SerialExecutor() as ex, pytest.raises(error):
            ex.map(abs, [-1], **options)


class TestFuturesAsArguments:
    """They are replaced by their results."""

    def test_anywhere_in_lists_tuples_and_dictionaries(self) -> None:
        with SerialExecutor() as ex:
            one = ex.submit(abs, -1)
            future = ex.submit(work.capture, one, [one, (one, 2)], c={"d": [one]})
        assert future.result() == ((1, [1, (1, 2)]), {"c": {"d": [1]}})

    def test_of_another_executor(self) -> None:
        with LocalExecutor(1) as other, SerialExecutor() as ex:
            assert ex.submit(sum, [other.submit(abs, -1), other.submit(abs, -2)]).result() == 3

    def test_for_another_executor(self) -> None:
        with LocalExecutor(1) as other, SerialExecutor() as ex:
            assert other.submit(sum, [ex.submit(abs, -1), ex.submit(abs, -2)]).result() == 3

    def test_one_that_failed(self) -> None:
        error = ValueError("mine")
        with SerialExecutor() as ex:
            future = ex.submit(abs, ex.submit(work.raise_, error))
        with pytest.raises(DependencyFailed, match="mine") as caught:
            future.result()
        assert caught.value.__cause__ is error

    def test_one_that_was_cancelled(self) -> None:
        cancelled: Future[int] = Future()
        cancelled.cancel()
        with SerialExecutor() as ex, pytest.raises(DependencyFailed, match="was cancelled"):
            ex.submit(abs, cancelled).result()


class TestInitializer:
    """It runs once, here, before the first call."""

    def test_once_and_first(self) -> None:
        order: list[str] = []
        with SerialExecutor(initializer=order.append, initargs=("initializer",)) as ex:
            assert order == []
            ex.submit(order.append, "first")
            ex.submit(order.append, "second")
        assert order == ["initializer", "first", "second"]

    def test_one_that_fails_breaks_the_executor(self) -> None:
        ran: list[int] = []
        ex = SerialExecutor(initializer=work.fail, initargs=("broken",))
        future = ex.submit(ran.append, 1)
        with pytest.raises(InitializerFailed, match="broken") as caught:
            future.result()
        assert isinstance(caught.value, BrokenProcessPool)
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(InitializerFailed, match="broken"):
            ex.submit(ran.append, 2)
        assert ran == []

    def test_one_that_submits(self) -> None:
        results: list[int] = []
        ex = SerialExecutor(initializer=lambda: results.append(ex.submit(abs, -1).result()))
        ex.submit(abs, -2)
        assert results == [1]


def test_the_debugger_stops_in_the_task(run: Callable[..., ScriptResult]) -> None:
    text = (
        "from clusterfutures import SerialExecutor\n"
        "def task(value):\n"
        "    breakpoint()\n"
        "    return value\n"
        "with SerialExecutor() as ex:\n"
        "    print('result', ex.submit(task, 42).result())\n"
    )
    done = run(text, stdin="p value + 1\ncontinue\n", env={"PYTHONBREAKPOINT": "pdb.set_trace"}).check()
    assert "43" in done.stdout
    assert "result 42" in done.stdout
