"""What a task and its future can do with LocalExecutor beyond the contract of `concurrent.futures`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from clusterfutures import (
    DependencyFailed,
    LocalExecutor,
    OptionError,
    RemoteError,
    SlurmExecutor,
    TaskKilled,
    TaskPicklingError,
    TaskTimeout,
    TorqueExecutor,
    View,
    WorkerLost,
    current_task,
)
from tests import local_work as work
from tests.contract.work import Rigged, boom, rigged
from tests.support import ScriptResult, wait_until

LIMIT = 30.0  # seconds; whatever takes longer hangs


@pytest.fixture(scope="module")
def pool(bell: bool) -> Iterator[LocalExecutor]:
    """Two workers, shared by the module: a test leaves them idle."""
    with LocalExecutor(2, doorbell=bell, keep="never") as executor:
        executor.wait_for_workers(2, LIMIT)
        yield executor


def running(future: Future[Any], log: str, count: int = 1) -> None:
    """Wait until `count` tasks have noted that they run, the one of `future` among them."""
    wait_until(lambda: len(work.notes(log)) >= count and future.running(), LIMIT, lambda: work.notes(log))


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def bundled(pool: LocalExecutor, function: Callable[..., Any], *args: Any) -> None:
    """Have `function` measured as a short one, so that its next tasks travel in bundles."""
    for _ in range(4):
        wait([pool.submit(function, *args) for _ in range(100)], LIMIT)


class TestErrors:
    """Exceptions and what cannot travel."""

    def test_remote_traceback_is_in_the_formatted_one(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.fail_with_cause).exception(LIMIT)
        assert type(error) is work.Mishap
        assert error.code == 7
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        for line in ("local_work.py", "in fail_with_cause", 'raise Mishap("the second one", 7)'):
            assert line in text
        assert "ValueError: the first one" in text
        assert type(error.__cause__) is ValueError
        assert "in fail" in "".join(traceback.format_tb(error.__cause__.__traceback__))

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
    def test_group(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.fail_in_group).exception(LIMIT)
        assert [type(each) for each in error.exceptions] == [ValueError, KeyError]  # type: ignore[union-attr]
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))  # type: ignore[union-attr]
        assert "fail_in_group" in text
        assert "ValueError: one" in text

    def test_that_cannot_be_pickled(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.fail_unpicklably).exception(LIMIT)
        assert type(error) is RemoteError
        assert error.type_name == "tests.local_work.StickyError"
        assert "in fail_unpicklably" in error.text
        assert "cannot travel" in str(error)

    def test_result_that_cannot_be_pickled(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.Sticky).exception(LIMIT)
        assert type(error) is TaskPicklingError
        assert "Sticky" in str(error)
        assert "sticky things stay where they are" in str(error)

    def test_result_that_cannot_be_unpickled_is_named(self, pool: LocalExecutor) -> None:
        future = pool.submit(rigged, os.getpid(), "setstate", False, boom)
        results = pool.map(
            rigged, [os.getpid()] * 2, ["", "setstate"], [False] * 2, [None, boom], timeout=LIMIT
        )
        assert type(next(results)) is Rigged
        with pytest.raises(TaskPicklingError) as caught:
            next(results)
        for error in (future.exception(LIMIT), caught.value):
            assert type(error) is TaskPicklingError
            assert type(error.__cause__) is ArithmeticError
            for words in ("tests.contract.work.Rigged", "cannot be unpickled here", "boom"):
                assert words in str(error)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
    def test_argument_that_cannot_be_unpickled_is_told(self, pool: LocalExecutor) -> None:
        argument = Rigged(os.getpid(), "setstate", True, boom)
        parent = pool.submit(rigged, os.getpid(), "setstate", True, boom)
        for future in (
            pool.submit(work.same, argument),
            pool.submit(work.total, 1, here=argument),
            pool.submit(work.same, parent),
        ):
            error = future.exception(LIMIT)
            assert type(error) is ArithmeticError
            assert getattr(error, "__notes__", []) == [  # once, in the last one as well
                "(raised while the arguments of the task were unpickled)"
            ]
        assert not hasattr(pool.submit(work.fail, "of its own").exception(LIMIT), "__notes__")

    def test_argument_that_cannot_be_pickled_is_named(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.total, 1, here=work.Sticky()).exception(LIMIT)
        assert type(error) is TaskPicklingError
        assert "here" in str(error)

    def test_item_that_cannot_be_pickled_costs_no_other_its_result(self, pool: LocalExecutor) -> None:
        results = pool.map(work.same, [1, work.Sticky(), 3], timeout=LIMIT)
        assert next(results) == 1
        with pytest.raises(TaskPicklingError):
            next(results)


def test_arguments_are_what_they_were_when_submitted(pool: LocalExecutor, log: str, gate: Path) -> None:
    blockers = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(2)]
    argument = {"list": [1, 2], "array": np.zeros(100_000)}
    future = pool.submit(work.same, argument)
    items = pool.map(work.same, [argument], timeout=LIMIT)
    argument["list"].append(3)  # type: ignore[union-attr]
    argument["array"][0] = 9
    gate.touch()
    wait(blockers, LIMIT)
    for seen in (future.result(LIMIT), next(items)):
        assert seen["list"] == [1, 2]
        assert seen["array"][0] == 0


def test_global_that_an_initializer_sets_in_main(run: Callable[..., ScriptResult], bell: bool) -> None:
    result = run(
        f"""\
from clusterfutures import LocalExecutor
model = None
def begin(value):
    global model, calls
    model, calls = value, 0
def ask():
    global calls
    calls += 1
    return model, calls
if __name__ == "__main__":
    with LocalExecutor(1, None, begin, ("loaded",), doorbell={bell}) as ex:
        print([ex.submit(ask).result() for _ in range(3)], model)
        print(ex.submit(lambda: (model, calls)).result())
"""
    ).check()
    assert result.stdout.splitlines() == [
        "[('loaded', 1), ('loaded', 2), ('loaded', 3)] None",
        "('loaded', 3)",
    ]
    assert result.stderr == "", "nothing is printed when all is well"


class TestStarmap:
    """`starmap`."""

    def test_results_in_order(self, pool: LocalExecutor) -> None:
        rows = [(2, n) for n in range(300)]
        assert list(pool.starmap(pow, rows, timeout=LIMIT)) == [2**n for n in range(300)]

    def test_rows_of_any_kind_and_length(self, pool: LocalExecutor) -> None:
        rows = iter([[1], (1, 2), range(4), {5: "a", 6: "b"}])
        assert list(pool.starmap(work.total, rows, timeout=LIMIT)) == [1, 3, 6, 11]

    def test_row_that_is_none(self, pool: LocalExecutor) -> None:
        with pytest.raises(TypeError):
            list(pool.starmap(work.total, [3], timeout=LIMIT))  # type: ignore[list-item]

    def test_with_buffersize_and_options(self, pool: LocalExecutor) -> None:
        view = pool.options(retries=1)
        assert sum(view.starmap(pow, ((n, 2) for n in range(100)), buffersize=7)) == 328350


class TestFuturesAsArguments:
    """A task waits for the futures among its arguments."""

    def test_anywhere_in_the_arguments(self, pool: LocalExecutor) -> None:
        one, two, three = (pool.submit(work.same, n) for n in (1, 2, 3))
        future = pool.submit(work.total, one, [two, (one, {"x": three})], key={"y": [one]})
        assert future.result(LIMIT) == 8

    def test_chain(self, pool: LocalExecutor) -> None:
        future: Future[Any] = pool.submit(work.same, 0)
        for _ in range(60):
            future = pool.submit(work.total, future, 1)
        assert future.result(LIMIT) == 60

    def test_no_worker_is_blocked(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        parent = pool.submit(work.note_and_wait, log, 5, str(gate))
        children = [pool.submit(work.total, parent, n) for n in range(10)]
        assert pool.submit(work.same, "free").result(LIMIT) == "free"
        assert not any(child.done() or child.running() for child in children)
        gate.touch()
        assert [child.result(LIMIT) for child in children] == [5 + n for n in range(10)]

    def test_that_failed(self, pool: LocalExecutor) -> None:
        error = pool.submit(work.total, [pool.submit(work.fail, "first")]).exception(LIMIT)
        assert type(error) is DependencyFailed
        assert type(error.__cause__) is ValueError
        assert "first" in str(error)

    def test_failure_goes_down_a_chain(self, pool: LocalExecutor) -> None:
        first = pool.submit(work.fail, "first")
        second = pool.submit(work.total, first)
        error = pool.submit(work.total, second).exception(LIMIT)
        assert type(error) is type(error.__cause__) is DependencyFailed  # type: ignore[union-attr]

    def test_that_is_cancelled(self, pool: LocalExecutor) -> None:
        foreign: Future[int] = Future()
        future = pool.submit(work.total, foreign)
        assert foreign.cancel()
        error = future.exception(LIMIT)
        assert type(error) is DependencyFailed
        assert "cancelled" in str(error)

    def test_dependent_that_is_cancelled(self, pool: LocalExecutor) -> None:
        foreign: Future[int] = Future()
        future = pool.submit(work.total, foreign)
        assert future.cancel()
        assert future in wait([future], LIMIT).done
        foreign.set_result(1)
        assert pool.submit(work.same, 4).result(LIMIT) == 4

    def test_of_another_executor(self, pool: LocalExecutor) -> None:
        with ThreadPoolExecutor(1) as threads, LocalExecutor(1) as other:
            parents = [threads.submit(pow, 2, 5), other.submit(pow, 2, 6)]
            assert pool.submit(work.total, parents).result(LIMIT) == 96

    def test_in_items_of_a_map(self, pool: LocalExecutor) -> None:
        parents = [pool.submit(work.same, n) for n in range(5)]
        items = [1, parents[2], [parents[3], 1], parents[4], 7]
        assert list(pool.map(work.total, items, timeout=LIMIT)) == [1, 2, 4, 4, 7]
        assert list(pool.map(work.total, parents, items, timeout=LIMIT)) == [1, 3, 6, 7, 11]

    def test_failed_one_in_an_item_of_a_map(self, pool: LocalExecutor) -> None:
        results = pool.map(work.same, [1, pool.submit(work.fail, "no"), 3], timeout=LIMIT)
        assert next(results) == 1
        with pytest.raises(DependencyFailed):
            next(results)

    def test_whose_results_are_large(self, pool: LocalExecutor) -> None:
        parent = pool.submit(np.arange, 200_000)
        sums = [pool.submit(np.sum, parent) for _ in range(3)]
        assert {int(each.result(LIMIT)) for each in sums} == {199_999 * 100_000}
        assert pool.submit(work.total, [parent, parent]).exception(LIMIT) is None

    def test_result_that_cannot_be_pickled_here(self, pool: LocalExecutor) -> None:
        foreign: Future[Any] = Future()
        future = pool.submit(work.total, foreign)
        foreign.set_result(work.Sticky())
        assert isinstance(future.exception(LIMIT), TaskPicklingError)

    def test_shutdown_waits_for_dependents(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell) as executor:
            first = executor.submit(time.sleep, 0.05)
            future = executor.submit(work.same, [first])
        assert future.result(0) == [None]

    def test_shutdown_that_cancels(self, bell: bool) -> None:
        foreign: Future[int] = Future()
        executor = LocalExecutor(1, doorbell=bell)
        future = executor.submit(work.total, foreign)
        executor.shutdown(cancel_futures=True)
        assert future.cancelled()
        foreign.set_result(1)


class TestOptions:
    """`options` gives a view with other options."""

    def test_unknown_one_gets_a_suggestion(self, pool: LocalExecutor) -> None:
        with pytest.raises(OptionError, match="unknown option 'retrys'; did you mean 'retries'"):
            pool.options(retrys=2)
        with pytest.raises(OptionError, match="'zzz'; the options are: name, retries, timeout"):
            pool.options(zzz=2)

    @pytest.mark.parametrize(
        "options",
        [
            {"retries": -1}, {"retries": 1.5}, {"retries": "2"}, {"retries": True}, {"timeout": 0},
            {"timeout": -1}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"timeout": "1h"},
            {"timeout": timedelta(0)},
        ],
    )  # fmt: skip
    def test_bad_value(self, pool: LocalExecutor, options: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match=next(iter(options))):
            pool.options(**options)
        with pytest.raises(OptionError, match=next(iter(options))):
            LocalExecutor(1, **options)

    @pytest.mark.parametrize("kind", [LocalExecutor, SlurmExecutor, TorqueExecutor])
    @pytest.mark.parametrize("initargs", [3, "ab", None])
    def test_bad_initargs(self, kind: Any, initargs: object, tmp_path: Path) -> None:
        options = {} if kind is not TorqueExecutor else {"dialect": "torque"}
        run_dir = tmp_path / "run"
        with pytest.raises(TypeError, match=f"initargs must be a tuple of arguments, not {initargs!r}"):
            kind(1, initializer=print, initargs=initargs, run_dir=run_dir, **options)
        assert not run_dir.exists()

    def test_views_of_views(self, pool: LocalExecutor, log: str) -> None:
        view = pool.options(retries=2).options(timeout=LIMIT)
        assert view.submit(work.attempts, log, 2).result(LIMIT) == 2
        assert pool.submit(work.attempts, log, 1).exception(LIMIT) is not None

    def test_a_view_is_the_executor_in_all_else(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell, keep="never") as executor:
            view = executor.options(retries=1)
            assert isinstance(view, View)
            assert view._max_workers == 2
            assert view.run_dir == executor.run_dir
            assert view.wait_for_workers(2, LIMIT)
            assert view.active_workers == executor.active_workers == 2
            view.scale(3)
            assert view._max_workers == executor._max_workers == 3
            view.flush()
            assert view.explain() == executor.explain()

    @pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
    def test_a_view_ends_the_workers(self, bell: bool, log: str, method: str) -> None:
        with LocalExecutor(1, doorbell=bell, keep="never") as executor:
            future = executor.submit(work.note_and_sleep, log, 0, work.LONG)
            running(future, log)
            getattr(executor.options(retries=1), method)()
            assert isinstance(future.exception(LIMIT), WorkerLost)
            with pytest.raises(RuntimeError, match="shutdown"):
                executor.submit(abs, -1)

    @pytest.mark.parametrize("timeout", ["3", True])
    def test_bad_patience(self, pool: LocalExecutor, timeout: Any) -> None:
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            pool.wait_for_workers(1, timeout)

    def test_one_of_the_executor_is_told(self, pool: LocalExecutor) -> None:
        with pytest.raises(OptionError, match="keep is an option of the executor, not of single tasks"):
            pool.options(keep="never")
        with pytest.raises(OptionError, match="unknown option 'mem': it describes jobs on a cluster"):
            pool.options(mem="8G")

    def test_retries_of_the_executor(self, bell: bool, log: str) -> None:
        with LocalExecutor(1, doorbell=bell, retries=1) as executor:
            future = executor.submit(work.attempts, log, 1)
            assert future.result(LIMIT) == future.attempt == 1
            lost = executor.options(retries=0).submit(work.attempts, log, 1)
            assert isinstance(lost.exception(LIMIT), WorkerLost)
            assert lost.attempt == 0

    def test_retries_are_counted(self, pool: LocalExecutor, log: str) -> None:
        future = pool.options(retries=2).submit(work.attempts, log, 5)
        assert type(future.exception(LIMIT)) is WorkerLost
        assert work.notes(log) == ["0", "1", "2"]
        assert future.attempt == 2

    def test_retries_in_a_map(self, pool: LocalExecutor, tmp_path: Path) -> None:
        logs = [str(tmp_path / str(n)) for n in range(12)]
        view = pool.options(retries=1)
        assert list(view.map(work.attempts, logs, [n % 4 == 0 for n in range(12)], timeout=LIMIT)) == [
            int(n % 4 == 0) for n in range(12)
        ]

    def test_exceptions_are_not_retried(self, pool: LocalExecutor) -> None:
        future = pool.options(retries=3).submit(work.fail, "once")
        assert type(future.exception(LIMIT)) is ValueError
        assert future.attempt == 0

    def test_timeouts_are_retried(self, pool: LocalExecutor, log: str) -> None:
        future = pool.options(retries=1, timeout=2.0).submit(work.attempts_in_time, log, 1)
        assert future.result(LIMIT) == 1
        assert work.notes(log) == ["0", "1"]


class TestTimeout:
    """`options(timeout=)` ends a running task."""

    def test_neighbours_live(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        neighbour = pool.submit(work.note_and_wait, log, "neighbour", str(gate))
        running(neighbour, log)
        late = pool.options(timeout=timedelta(seconds=0.2)).submit(
            work.note_and_sleep, log, "late", work.LONG
        )
        error = late.exception(LIMIT)
        assert type(error) is TaskTimeout
        assert isinstance(error, (TaskKilled, TimeoutError, BrokenProcessPool))
        assert "timeout" in str(error)
        assert neighbour.running()
        gate.touch()
        assert neighbour.result(LIMIT) == "neighbour"

    def test_in_a_map(self, pool: LocalExecutor) -> None:
        results = pool.options(timeout=2.0).map(time.sleep, [0, 0, work.LONG, 0, 0], timeout=LIMIT)
        assert [next(results), next(results)] == [None, None]
        with pytest.raises(TaskTimeout):
            next(results)

    def test_task_that_holds_the_interpreter(self, pool: LocalExecutor) -> None:
        future = pool.options(timeout=0.2).submit(pow, 7, 10**9)  # one long call into C
        assert type(future.exception(LIMIT)) is TaskTimeout

    def test_that_is_not_reached(self, pool: LocalExecutor) -> None:
        assert pool.wait_for_workers(2, LIMIT)
        view = pool.options(timeout=LIMIT)
        assert list(view.map(abs, range(500))) == [*range(500)]
        assert pool.active_workers == 2


class TestKill:
    """`kill` ends a task."""

    def test_of_a_running_one(self, pool: LocalExecutor, log: str, tmp_path: Path, gate: Path) -> None:
        neighbour = pool.submit(work.note_and_wait, str(tmp_path / "other"), 1, str(gate))
        future = pool.submit(work.with_grandchild, log)
        running(future, log)
        grandchild = int(work.notes(log)[0])
        assert future.kill()
        error = future.exception(LIMIT)
        assert type(error) is TaskKilled
        assert not isinstance(error, TaskTimeout)
        assert error.signal == "SIGKILL"
        assert future.state == "FINISHED"
        wait_until(lambda: gone(grandchild), LIMIT, lambda: grandchild)
        assert not neighbour.done()
        gate.touch()
        assert neighbour.result(LIMIT) == 1

    def test_is_no_reason_for_a_retry(self, pool: LocalExecutor, log: str) -> None:
        future = pool.options(retries=5).submit(work.note_and_sleep, log, 0, work.LONG)
        running(future, log)
        assert future.kill()
        assert type(future.exception(LIMIT)) is TaskKilled
        assert work.notes(log) == ["0"]

    def test_of_a_pending_one(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        foreign: Future[int] = Future()
        waiting = pool.submit(work.total, foreign)
        assert waiting.kill()
        assert waiting.cancelled()
        foreign.set_result(1)

    def test_of_one_behind_another_in_a_bundle(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell) as executor:
            bundled(executor, work.note_and_wait, os.devnull, 0, __file__)
            futures = [
                executor.submit(work.note_and_wait, log, n, str(gate) if n in (0, 3) else __file__)
                for n in range(6)
            ]
            victim = futures[3]
            running(victim, log)  # it counts as running from the start of its bundle on
            assert work.notes(log) == ["0"]
            assert victim.kill()
            assert not futures[0].done()
            # The gate stays shut, so the victim cannot end by itself; the one in front makes way.
            assert futures[0].kill()
            assert {type(futures[n].exception(LIMIT)) for n in (0, 3)} == {TaskKilled}
            assert [futures[n].result(LIMIT) for n in (1, 2, 4, 5)] == [1, 2, 4, 5]

    def test_of_a_done_one(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.same, 1)
        assert future.result(LIMIT) == 1
        assert not future.kill()
        assert future.result(0) == 1

    def test_of_one_that_was_never_submitted(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.same, work.Sticky())
        assert not future.kill()
        assert type(future.exception(0)) is TaskPicklingError

    def test_twice(self, pool: LocalExecutor, log: str) -> None:
        future = pool.submit(work.note_and_sleep, log, 0, work.LONG)
        running(future, log)
        assert future.kill()
        future.kill()
        assert type(future.exception(LIMIT)) is TaskKilled
        assert not future.kill()
        assert pool.submit(work.same, 2).result(LIMIT) == 2


class TestKnowledge:
    """What a future knows of its task."""

    def test_before_during_and_after(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell) as executor:
            first = executor.submit(work.note_and_wait, log, "first", str(gate))
            second = executor.submit(work.context)
            running(first, log)
            assert (first.state, second.state) == ("RUNNING", "PENDING")
            assert first.pid is not None
            assert psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE
            assert (first.worker, first.node) == (first.worker, socket.gethostname())
            unknown = (second.pid, second.worker, second.node, second.queue_time, second.wall_time)
            assert unknown == (None,) * 5
            gate.touch()
            task, pid = second.result(LIMIT)
        assert (second.pid, second.worker, second.job_id) == (pid, task.worker, task.job_id)
        assert (second.state, second.exit_code, second.task) == ("FINISHED", 0, task.task)

    def test_pid_is_always_known(self, bell: bool) -> None:
        for _ in range(8 if bell else 2):
            with LocalExecutor(2, doorbell=bell) as executor:
                futures = [executor.submit(os.getpid) for _ in range(4)]
                assert [future.result(LIMIT) for future in futures] == [future.pid for future in futures]

    def test_cancelled(self, pool: LocalExecutor) -> None:
        foreign: Future[int] = Future()
        future = pool.submit(work.total, foreign)
        assert future.cancel()
        assert future.state == "CANCELLED"

    def test_times(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        bundled(pool, work.note_and_wait, os.devnull, 0, __file__)  # others queue behind it, too
        blockers = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(2)]
        running(blockers[1], log, 2)
        began = time.monotonic()
        sleeping, busy = pool.submit(time.sleep, 0.1), pool.submit(work.spin, 0.1)
        waited_from = time.monotonic()
        wait_until(lambda: time.monotonic() - waited_from > 0.2)  # it is told to some milliseconds
        gate.touch()
        wait([sleeping, busy], LIMIT)
        elapsed = time.monotonic() - began
        for future in (sleeping, busy):
            assert future.queue_time is not None
            assert future.wall_time is not None
            assert 0.1 <= future.queue_time <= elapsed
            assert 0.1 <= future.wall_time <= elapsed
        assert sleeping.cpu_time is not None
        assert busy.cpu_time is not None
        assert sleeping.cpu_time < 0.09
        assert 0.09 < busy.cpu_time <= elapsed

    def test_peak_memory(self, pool: LocalExecutor) -> None:
        size = 100 << 20
        large = pool.submit(work.hold_bytes, size)
        assert large.result(LIMIT) == size
        assert large.peak_memory is not None
        assert size < large.peak_memory < 3 * size
        if Path("/proc/self/clear_refs").exists():  # elsewhere it is the peak of the process
            # What comes right behind it may belong to the same bundle.
            assert [pool.submit(abs, n).result(LIMIT) for n in range(4)] == [0, 1, 2, 3]
            small = [pool.submit(time.sleep, 0.01) for _ in range(4)]
            assert [each.exception(LIMIT) for each in small] == [None] * 4
            assert all((each.peak_memory or size) < size for each in small)

    def test_of_a_lost_task(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.die, signal.SIGKILL)
        error = future.exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert future.pid == error.pid
        assert future.wall_time is None
        assert future.exit_code is None


class TestOutput:
    """`stdout()` and `stderr()`."""

    def test_of_each_task(self, pool: LocalExecutor) -> None:
        futures = [pool.submit(work.print_everywhere, tag) for tag in ("a", "b", "\u00fc\u4e16")]
        for future, tag in zip(futures, ("a", "b", "\u00fc\u4e16")):
            future.result(LIMIT)
            assert future.stdout().splitlines() == [f"print {tag}", f"write {tag}", f"child {tag}"]
            assert future.stderr().splitlines() == [
                f"error {tag}",
                f"write error {tag}",
                f"child error {tag}",
            ]

    def test_of_a_bundle(self, pool: LocalExecutor) -> None:
        futures = [pool.submit(print, n) for n in range(300)]
        wait(futures, LIMIT)
        assert [future.stdout() for future in futures] == [f"{n}\n" for n in range(300)]

    def test_of_a_running_task(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        future = pool.submit(work.print_and_wait, log, str(gate))
        running(future, log)
        assert (future.stdout(), future.stderr()) == ("so far\n", "errors so far\n")
        gate.touch()
        future.result(LIMIT)
        assert (future.stdout(), future.stderr()) == ("so far\n", "errors so far\n")

    def test_of_a_pending_task(self, pool: LocalExecutor) -> None:
        foreign: Future[int] = Future()
        future = pool.submit(print, foreign)
        assert (future.stdout(), future.stderr()) == ("", "")
        foreign.set_result(1)
        future.result(LIMIT)
        assert future.stdout() == "1\n"

    def test_of_a_lost_task(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.die, signal.SIGKILL)
        assert isinstance(future.exception(LIMIT), WorkerLost)
        assert (future.stdout(), future.stderr()) == ("", "last words\n")

    def test_without_an_end_of_line(self, pool: LocalExecutor) -> None:
        futures = [pool.submit(print, "x", end="") for _ in range(3)]
        wait(futures, LIMIT)
        assert [future.stdout() for future in futures] == ["x", "x", "x"]

    def test_after_the_end_of_the_executor(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell) as executor:
            future = executor.submit(print, "kept")
        assert future.stdout() == "kept\n"


class TestCurrentTask:
    """`current_task()`."""

    def test_outside_of_a_worker(self) -> None:
        assert current_task() is None

    def test_in_a_worker(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.context)
        task, pid = future.result(LIMIT)
        assert task.run_dir == pool.run_dir
        assert (task.task, task.attempt, task.worker) == (future.task, 0, future.worker)
        assert int(task.job_id) == psutil.Process(pid).ppid()
        assert task.run_id in Path(pool.run_dir, "run.json").read_text()

    def test_in_a_thread_and_in_a_fork_of_it(self, pool: LocalExecutor) -> None:
        future = pool.submit(work.context_in_thread)
        task, _ = future.result(LIMIT)
        assert task.task == future.task
        assert pool.submit(work.context_in_fork).result(LIMIT) is False

    def test_numbers_within_a_map(self, pool: LocalExecutor) -> None:
        tasks = [task.task for task, _ in pool.map(lambda _: work.context(), range(20), timeout=LIMIT)]
        assert tasks == list(range(tasks[0], tasks[0] + 20))


def test_callables_of_all_kinds(pool: LocalExecutor) -> None:
    offset = 3
    function = lambda x: x + offset
    assert pool.submit(function, 4).result(LIMIT) == 7
    assert list(pool.map(function, range(3), timeout=LIMIT)) == [3, 4, 5]
    offset = 5
    assert pool.submit(function, 4).result(LIMIT) == 9, "a closure is what it is when it is submitted"


def test_from_many_threads_at_once(pool: LocalExecutor) -> None:
    results: dict[int, int] = {}

    def use(number: int) -> None:
        parents = [pool.submit(work.same, n) for n in range(20)]
        results[number] = sum(pool.map(abs, range(100), timeout=LIMIT)) + pool.submit(
            work.total, parents
        ).result(LIMIT)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert results == dict.fromkeys(range(4), 4950 + 190)


def append(items: Any, item: int) -> int:
    items.append(item)
    return len(items)


@pytest.mark.parametrize("doorbell", [True, False], ids=["bell", "polling"])
def test_proxies_of_a_manager_connect(doorbell: bool) -> None:
    """A worker knows the program's authkey, without which a manager refuses it."""
    with multiprocessing.Manager() as manager:
        items = manager.list()
        with LocalExecutor(1, doorbell=doorbell) as pool:
            assert pool.submit(append, items, 5).result(LIMIT) == 1
        assert list(items) == [5]
