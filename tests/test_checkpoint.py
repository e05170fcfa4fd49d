"""What a task saves for the next attempt at it, and what it knows of the end of its job."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from clusterfutures import LocalExecutor, TaskContext, current_task
from clusterfutures.checkpoint import Checkpoint
from tests import local_work as work
from tests.one_file_scheduler import ShellExecutor, ShellScheduler
from tests.support import wait_until

LIMIT = 30.0  # seconds; whatever takes longer hangs


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalExecutor]:
    """One worker, shared by the module: a test leaves it idle."""
    with LocalExecutor(1, keep="never") as executor:
        yield executor


@pytest.fixture
def run_dir(tmp_path: Path) -> str:
    """A directory as private as a run's."""
    tmp_path.chmod(0o700)
    return str(tmp_path)


def here() -> TaskContext:
    """The running task."""
    task = current_task()
    assert task is not None
    return task


def steps(upto: int, deaths: dict[int, int]) -> tuple[int, list[int]]:
    """Count to `upto`, saving each step; dies at step `deaths[attempt]`.  Tells where each attempt began."""
    task = here()
    done, begun = task.checkpoint.load(default=(0, []))
    begun = [*begun, done]
    while done < upto:
        done += 1
        task.checkpoint.save((done, begun))
        if deaths.get(task.attempt) == done:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(LIMIT)
    return done, begun


class TestAttempts:
    """In real workers."""

    def test_the_next_attempt_goes_on(self, pool: LocalExecutor) -> None:
        task = pool.options(retries=2).submit(steps, 5, {0: 2, 1: 4})
        assert task.result(LIMIT) == (5, [0, 2, 4])
        assert task.attempt == 2

    def test_of_each_item_of_a_map(self, pool: LocalExecutor) -> None:
        found = list(pool.options(retries=1).map(steps, [2, 3, 4], [{}, {0: 2}, {0: 1}], timeout=LIMIT))
        assert found == [(2, [0]), (3, [0, 2]), (4, [0, 1])]

    def test_a_death_while_it_saves_leaves_the_state_before(self, pool: LocalExecutor) -> None:
        def dies_saving() -> Any:
            task = here()
            seen = task.checkpoint.load()
            if task.attempt:
                return seen
            task.checkpoint.save("first")
            os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            task.checkpoint.save("second")
            return None

        assert pool.options(retries=1).submit(dies_saving).result(LIMIT) == "first"

    def test_neighbours_have_their_own(self, pool: LocalExecutor) -> None:
        def saves(value: int) -> Any:
            before = here().checkpoint.load()
            here().checkpoint.save(value)
            return before, here().checkpoint.load()

        assert list(pool.map(saves, range(3), timeout=LIMIT)) == [(None, 0), (None, 1), (None, 2)]

    def test_what_cannot_be_pickled(self, pool: LocalExecutor) -> None:
        def saves() -> Any:
            checkpoint = here().checkpoint
            checkpoint.save([1])
            with pytest.raises(TypeError, match="pickle"):
                checkpoint.save(threading.Lock())
            return checkpoint.load()

        assert pool.submit(saves).result(LIMIT) == [1]

    def test_the_driver_can_look(self, pool: LocalExecutor) -> None:
        def saves() -> TaskContext:
            here().checkpoint.save({"step": 7})
            return here()

        assert pool.submit(saves).result(LIMIT).checkpoint.load() == {"step": 7}


class TestFiles:
    """Without workers."""

    def test_nothing_saved(self, run_dir: str) -> None:
        assert Checkpoint(run_dir, 3, 0).load() is None
        assert Checkpoint(run_dir, 3, 0).load(default=1) == 1
        Checkpoint(run_dir, 3, 0).remove()
        assert os.listdir(run_dir) == []

    def test_a_run_that_was_removed_is_not_made_again(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Checkpoint(str(tmp_path / "gone"), 3, 0).save("state")
        assert not (tmp_path / "gone").exists()

    def test_an_attempt_that_was_given_up_spoils_nothing(self, run_dir: str) -> None:
        given_up, now = Checkpoint(run_dir, 3, 0), Checkpoint(run_dir, 3, 1)
        given_up.save("old")
        assert now.load() == "old"
        now.save("new")
        given_up.save("from the grave")
        assert now.load() == "new"
        assert given_up.load() == "from the grave"

    def test_removed(self, run_dir: str) -> None:
        first, second = Checkpoint(run_dir, 3, 0), Checkpoint(run_dir, 3, 1)
        first.save(1)
        second.save(2)
        second.remove()
        assert second.load() is None

    @pytest.mark.parametrize(
        "spoil", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"?"]
    )
    def test_a_damaged_file_is_passed_over(self, run_dir: str, spoil: Any) -> None:
        Checkpoint(run_dir, 3, 0).save("whole")
        Checkpoint(run_dir, 3, 1).save("to be damaged")
        path = Path(run_dir, "checkpoints", "0", "3", "1")
        path.write_bytes(spoil(path.read_bytes()))
        assert Checkpoint(run_dir, 3, 2).load() == "whole"

    def test_what_another_user_may_have_written_is_refused(self, run_dir: str) -> None:
        Checkpoint(run_dir, 3, 0).save("mine")
        Path(run_dir, "checkpoints", "0", "3", "0").chmod(0o620)
        with pytest.raises(PermissionError, match="open to others"):
            Checkpoint(run_dir, 3, 1).load()

    def test_no_folder_grows_without_end(self, run_dir: str) -> None:
        for task in (0, 999, 1000, 123_456):
            Checkpoint(run_dir, task, 0).save(task)
        assert sorted(os.listdir(Path(run_dir, "checkpoints"))) == ["0", "1", "123"]

    def test_no_temporary_file_is_left(self, run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = Checkpoint(run_dir, 3, 0)
        checkpoint.save("first")

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save("second")
        assert os.listdir(Path(run_dir, "checkpoints", "0", "3")) == ["0"]
        assert checkpoint.load() == "first"


class TestTheEndOfTheJob:
    """What announces it."""

    @pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
    def test_a_warning_is_seen(self, tmp_path: Path, number: int) -> None:
        def waits(log: str) -> tuple[bool, bool]:
            before = here().warned
            work.note(log, os.getppid())
            wait_until(lambda: here().warned)
            return before, here().warned

        log = str(tmp_path / "log")
        with LocalExecutor(1, keep="never") as ex:
            task = ex.submit(waits, log)
            [supervisor] = wait_until(lambda: work.notes(log), LIMIT)  # type: ignore[misc]
            os.kill(int(supervisor), number)
            assert task.result(LIMIT) == (False, True)

    def test_outside_nothing_is_known(self, pool: LocalExecutor) -> None:
        task = pool.submit(current_task).result(LIMIT)
        assert task is not None
        assert (task.warned, task.time_left) == (False, None)

    @pytest.mark.parametrize("jobs", [False, True], ids=["pool", "jobs"])
    def test_the_time_is_what_the_scheduler_says(
        self, tmp_path: Path, jobs: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status = ShellScheduler._status

        def left() -> Optional[float]:
            wait_until(lambda: here().time_left is not None, LIMIT)
            return here().time_left

        monkeypatch.setattr(
            ShellScheduler, "_status", lambda self, job: status(self, job)._replace(time_left=3600.0)
        )
        with ShellExecutor(1, run_dir=tmp_path / "run", job_per_task=jobs) as ex:
            seconds = ex.submit(left).result(2 * LIMIT)
        assert seconds is not None
        assert 0 < seconds <= 3600

    def test_no_end_on_this_machine(self, pool: LocalExecutor) -> None:
        def left() -> Optional[float]:
            return here().time_left

        assert pool.submit(left).result(LIMIT) is None
