"""Retries: the policy by itself, and what comes of it in real runs."""

from __future__ import annotations

import pickle
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import (
    ClusterFuture,
    JobCancelled,
    LocalExecutor,
    NodeFailed,
    OptionError,
    OutOfMemory,
    Preempted,
    RemoteError,
    Retries,
    TaskKilled,
    TaskTimeout,
    TimeLimitReached,
    WorkerLost,
    current_task,
)
from clusterfutures.retries import FREE_RERUNS, NO_RETRIES, check_retries
from tests import local_work as work
from tests.support import wait_until

GIB = 2**30


class TestWhich:
    """After which errors there is another attempt, and who pays for it."""

    @pytest.mark.parametrize(
        "error", [WorkerLost, OutOfMemory, TimeLimitReached, TaskTimeout, JobCancelled, NodeFailed, Preempted]
    )
    def test_lost_workers_count(self, error: type[WorkerLost]) -> None:
        policy = Retries(2)
        assert [policy.allow(error(""), charged, {}) for charged in range(4)] == [True, True, False, False]
        assert not NO_RETRIES.allow(error(""), 0, {})

    def test_what_was_killed_on_request_stays_dead(self) -> None:
        assert not Retries(2).allow(TaskKilled(""), 0, {})

    @pytest.mark.parametrize(
        ("on", "error", "again"),
        [
            ((), OSError(), False),
            (OSError, OSError(), True),
            (OSError, ConnectionResetError(), True),
            (ConnectionError, OSError(), False),
            ((ValueError, OSError), OSError(), True),
            ([ValueError, OSError], ValueError(), True),
            (BaseException, KeyboardInterrupt(), True),
        ],
    )
    def test_own_exceptions_only_where_named(self, on: Any, error: BaseException, again: bool) -> None:
        assert Retries(1, on=on).allow(error, 0, {}) is again
        assert not Retries(1, on=on).allow(error, 1, {})

    @pytest.mark.parametrize(
        ("error", "times", "free"),
        [
            (Preempted, 0, True),
            (Preempted, 3, True),
            (NodeFailed, 0, False),
            (NodeFailed, 1, True),
            (OutOfMemory, 3, False),
            (WorkerLost, 3, False),
        ],
    )
    def test_free_of_charge(self, error: type[WorkerLost], times: int, free: bool) -> None:
        policy = Retries(times)
        assert policy.free(error(""), 0) is free
        assert policy.free(error(""), FREE_RERUNS - 1) is free
        assert not policy.free(error(""), FREE_RERUNS)


class TestDelay:
    """How long to wait."""

    def test_none(self) -> None:
        assert [Retries(3).pause(charged) for charged in (1, 2, 3)] == [0, 0, 0]

    def test_longer_each_time_up_to_a_limit(self) -> None:
        policy = Retries(9, delay=1, backoff=3, max_delay=20)
        assert [policy.pause(charged) for charged in (1, 2, 3, 4, 5)] == [1, 3, 9, 20, 20]

    def test_far_beyond_any_number(self) -> None:
        assert Retries(10**6, delay=1, backoff=10, max_delay=60).pause(10**6) == 60


class TestGrowth:
    """What the next attempt asks for."""

    @pytest.mark.parametrize(
        ("error", "name", "asked", "more"),
        [
            (OutOfMemory, "mem", 4 * GIB, 8 * GIB),
            (OutOfMemory, "mem_per_cpu", GIB + 1, 2 * GIB + 2),
            (TimeLimitReached, "time", 61, 122),
            (TaskTimeout, "timeout", 0.75, 1.5),
        ],
    )
    def test_of_what_ended_it(
        self, error: type[WorkerLost], name: str, asked: float, more: float
    ) -> None:
        policy = Retries(1, grow={name: 2})
        assert policy.changes(error(""), {name: asked}) == {name: more}

    def test_of_nothing_else(self) -> None:
        policy = Retries(1, grow={"mem": 2, "time": 1.5})
        asked = {"mem": GIB, "time": 61}
        assert policy.changes(TimeLimitReached(""), asked) == {"time": 92}
        assert policy.changes(WorkerLost(""), asked) == {}
        assert policy.changes(OSError(), asked) == {}
        assert Retries(1).changes(OutOfMemory(""), asked) == {}

    def test_up_to_the_ceiling_and_no_further(self) -> None:
        policy = Retries(9, grow={"mem": 2, "time": 2}, ceiling={"mem": "3G", "time": "2h"})
        assert policy.changes(OutOfMemory(""), {"mem": 2 * GIB}) == {"mem": 3 * GIB}
        assert policy.allow(OutOfMemory(""), 0, {"mem": 2 * GIB})
        assert not policy.allow(OutOfMemory(""), 0, {"mem": 3 * GIB})
        assert policy.changes(TimeLimitReached(""), {"time": 5000}) == {"time": 7200}
        assert policy.allow(WorkerLost(""), 0, {"mem": 3 * GIB})  # which had another reason

    def test_never_less(self) -> None:
        """Also where more was asked for than the ceiling to begin with."""
        policy = Retries(1, grow={"mem": 2}, ceiling={"mem": "1G"})
        assert policy.changes(OutOfMemory(""), {"mem": 2 * GIB}) == {"mem": 2 * GIB}

    def test_needs_something_to_grow_from(self) -> None:
        with pytest.raises(OptionError, match="grow mem, but from what"):
            Retries(1, grow={"mem": 2}).check({"time": 60})
        Retries(1, grow={"mem": 2}).check({"mem": GIB})


class TestExclude:
    """Staying away from the node that lost the task."""

    def test_the_node_is_added(self) -> None:
        policy = Retries(1, exclude=True)
        assert policy.changes(WorkerLost("", node="n2"), {}) == {"exclude": "n2"}
        assert policy.changes(WorkerLost("", node="n2"), {"exclude": "n1"}) == {"exclude": "n1,n2"}
        assert policy.changes(WorkerLost("", node="n2"), {"exclude": "n2"}) == {"exclude": "n2"}

    def test_only_for_lost_workers_of_known_nodes(self) -> None:
        assert Retries(1, exclude=True).changes(WorkerLost(""), {}) == {}
        assert Retries(1, exclude=True, on=OSError).changes(OSError(), {}) == {}
        assert Retries(1).changes(WorkerLost("", node="n2"), {}) == {}


class TestRefusals:
    """What cannot be meant is said at once."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"times": -1}, "retries must be a number"),
            ({"times": True}, "retries must be a number"),
            ({"times": "3"}, "retries must be a number"),
            ({"on": "OSError"}, "exception classes"),
            ({"on": OSError()}, "exception classes"),
            ({"delay": -1}, "delay must be a number of 0 or more"),
            ({"delay": "1m"}, "delay must be a number"),
            ({"backoff": 0.5}, "backoff must be a number of 1 or more"),
            ({"max_delay": float("inf")}, "max_delay must be a number"),
            ({"grow": {"memm": 2}}, "did you mean 'mem'"),
            ({"grow": {"mem": 0.5}}, "1 or more"),
            ({"grow": 2}, "factors by name"),
            ({"ceiling": {"mem": "1G"}}, "names mem, which does not grow"),
            ({"grow": {"mem": 2}, "ceiling": {"mem": 3}}, "mem must be"),
            ({"grow": {"timeout": 2}, "ceiling": {"timeout": "1h"}}, "number of 0 or more"),
            ({"exclude": "n1"}, "True or False"),
        ],
    )
    def test_in_the_words_of_the_user(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(OptionError, match=words):
            Retries(**options)

    def test_the_option_takes_both_forms(self) -> None:
        assert check_retries(None) == NO_RETRIES
        assert check_retries(3) == Retries(3)
        policy = Retries(2, on=OSError)
        assert check_retries(policy) is policy
        with pytest.raises(OptionError, match="Retries"):
            check_retries("3")


def test_it_travels_and_shows_what_was_given() -> None:
    policy = Retries(2, on=OSError, grow={"mem": 2.0}, ceiling={"mem": "1G"})
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert repr(Retries(2, delay=1)) == "Retries(times=2, delay=1.0)"
    assert policy != Retries(2)


# -- in real runs -------------------------------------------------------------------------------------------

LIMIT = 30.0  # seconds; whatever takes longer hangs
NOTES = sys.version_info >= (3, 11)  # errors can have notes


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalExecutor]:
    """Two workers, shared by the module: a test leaves them idle."""
    with LocalExecutor(2, keep="never") as executor:
        yield executor


def fails(log: str, failures: int, kind: type[BaseException] = ConnectionError) -> int:
    """Its attempt, after so many that raise; notes when each began (monotonic clock, seconds)."""
    task = current_task()
    assert task is not None
    work.note(log, time.monotonic())
    if task.attempt < failures:
        raise kind(f"attempt {task.attempt}")
    return task.attempt


class TestOwnExceptions:
    """What the function raises."""

    def test_are_tried_again_where_named(self, pool: LocalExecutor, log: str) -> None:
        task = pool.options(retries=Retries(2, on=OSError)).submit(fails, log, 2)
        assert task.result(LIMIT) == 2
        assert task.attempt == 2
        assert len(work.notes(log)) == 3

    def test_are_raised_where_not(self, pool: LocalExecutor, log: str) -> None:
        task = pool.options(retries=Retries(2, on=ValueError)).submit(fails, log, 1)
        with pytest.raises(ConnectionError, match="attempt 0"):
            task.result(LIMIT)
        assert len(work.notes(log)) == 1

    def test_the_last_one_is_raised_and_tells_of_the_others(self, pool: LocalExecutor, log: str) -> None:
        task = pool.options(retries=Retries(2, on=OSError)).submit(fails, log, 9)
        with pytest.raises(ConnectionError, match="attempt 2") as caught:
            task.result(LIMIT)
        notes = "".join(getattr(caught.value, "__notes__", []))
        assert ("attempt 1: ConnectionError: attempt 1" in notes) is NOTES
        assert ("attempt 0: ConnectionError: attempt 0" in notes) is NOTES
        assert "in fails" in "".join(traceback.format_exception(None, caught.value, caught.tb))

    def test_in_a_map(self, pool: LocalExecutor, tmp_path: Path) -> None:
        logs = [str(tmp_path / str(n)) for n in range(6)]
        view = pool.options(retries=Retries(2, on=OSError))
        found = view.map(fails, logs, [0, 1, 2, 0, 1, 2], timeout=LIMIT)
        assert list(found) == [0, 1, 2, 0, 1, 2]
        assert [len(work.notes(log)) for log in logs] == [1, 2, 3, 1, 2, 3]

    def test_one_that_cannot_be_rebuilt_is_no_reason(self, pool: LocalExecutor, log: str) -> None:
        def raises() -> None:
            work.note(log, "begun")

            class Odd(OSError):
                def __reduce__(self) -> Any:
                    return _never, ()

            raise Odd

        with pytest.raises(RemoteError, match="Odd"):
            pool.options(retries=Retries(2, on=OSError)).submit(raises).result(LIMIT)
        assert work.notes(log) == ["begun"]


def _never() -> None:
    raise ArithmeticError("never")


class TestLostWorkers:
    """Whose worker died."""

    def test_the_last_error_tells_of_the_earlier_attempts(self, pool: LocalExecutor, log: str) -> None:
        task = pool.options(retries=2).submit(work.attempts, log, 9)
        error = task.exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert len(error.earlier) == 2
        assert all(f"attempt {n}: lost worker" in line for n, line in enumerate(error.earlier))
        logs = [line.rpartition("(log: ")[2].rstrip(")") for line in error.earlier]
        assert len({*logs, error.log_path}) == 3, "each attempt has its own"
        assert all(Path(log).is_file() for log in logs)
        assert str(error).endswith("\n".join(f"  {line}" for line in error.earlier))

    def test_the_first_tells_of_none(self, pool: LocalExecutor, log: str) -> None:
        error = pool.submit(work.attempts, log, 9).exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert error.earlier == []
        assert "earlier" not in str(error)

    def test_who_kills_every_worker_takes_nobody_along(self, pool: LocalExecutor, log: str) -> None:
        bad = pool.options(retries=3).submit(work.attempts, log, 99)
        good = list(pool.map(abs, range(-50, 0), timeout=LIMIT))
        assert isinstance(bad.exception(LIMIT), WorkerLost)
        assert good == list(range(50, 0, -1))
        assert pool.submit(abs, -1).result(LIMIT) == 1

    def test_a_longer_timeout(self, pool: LocalExecutor) -> None:
        """The first attempt takes longer than its timeout, the second would as well."""
        policy = Retries(1, grow={"timeout": 100})

        def sleeps() -> int:
            task = current_task()
            assert task is not None
            time.sleep(2.0 if task.attempt else LIMIT)
            return task.attempt

        assert pool.options(retries=policy, timeout=1.0).submit(sleeps).result(LIMIT) == 1


class TestRest:
    """Between two attempts."""

    @pytest.fixture
    def resting(self, log: str) -> Iterator[tuple[LocalExecutor, ClusterFuture[int]]]:
        """A task that has failed once, and rests before its next attempt for longer than any test lasts."""
        executor = LocalExecutor(1, keep="never")
        task = executor.options(retries=Retries(1, on=OSError, delay=3600)).submit(fails, log, 9)
        wait_until(lambda: executor._session.dispatcher._roster.at_rest, LIMIT)
        yield executor, task
        executor.shutdown(cancel_futures=True)

    def test_it_is_not_shorter_than_asked(self, pool: LocalExecutor, log: str) -> None:
        retries = Retries(2, on=OSError, delay=0.2, backoff=2)
        assert pool.options(retries=retries).submit(fails, log, 2).result(LIMIT) == 2
        first, second, third = map(float, work.notes(log))
        assert second - first >= 0.2
        assert third - second >= 0.4

    def test_others_run_meanwhile(self, resting: tuple[LocalExecutor, ClusterFuture[int]]) -> None:
        executor, task = resting
        assert executor.submit(abs, -1).result(LIMIT) == 1
        assert task.running()
        assert not task.cancel()
        task.kill()
        with pytest.raises(TaskKilled):
            task.result(LIMIT)

    def test_it_can_be_cut_short(self, resting: tuple[LocalExecutor, ClusterFuture[int]]) -> None:
        executor, task = resting
        executor.shutdown(cancel_futures=True)
        assert task.done()
        executor.kill_workers()

    def test_the_end_waits_for_it(self, log: str) -> None:
        with LocalExecutor(1, keep="never", retries=Retries(1, on=OSError, delay=0.5)) as executor:
            task = executor.submit(fails, log, 1)
        assert task.result(0) == 1

    def test_a_cancelled_map_forgets_it(self, log: str) -> None:
        with LocalExecutor(1, keep="never", retries=Retries(1, on=OSError, delay=3600)) as executor:
            found = executor.map(fails, [log, log], [0, 9])
            assert next(found) == 0
            wait_until(lambda: executor._session.dispatcher._roster.at_rest, LIMIT)
            found.close()  # type: ignore[attr-defined]


class TestOptions:
    """What executors take."""

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"retries": Retries(1, grow={"mem": 2})}, "grow mem, but from what.*on a cluster"),
            ({"retries": Retries(1, grow={"timeout": 2})}, "grow timeout, but from what"),
            ({"retries": Retries(1, exclude=True)}, "one node only"),
            ({"retries": "3"}, "Retries"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, tmp_path: Path, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(OptionError, match=words):
            LocalExecutor(1, run_dir=tmp_path / "run", **options)
        assert not (tmp_path / "run").exists()
        with LocalExecutor(1) as executor, pytest.raises(OptionError, match=words):
            executor.options(**options)

    def test_of_the_executor_and_of_some_tasks(self, log: str, tmp_path: Path) -> None:
        with LocalExecutor(1, keep="never", retries=Retries(1, on=OSError), timeout=60) as executor:
            assert executor.submit(fails, log, 1).result(LIMIT) == 1
            other = executor.options(retries=0).submit(fails, str(tmp_path / "other"), 1)
            with pytest.raises(ConnectionError):
                other.result(LIMIT)
