"""The run directory: where it is, who may use it, when it goes, and what a full disk does."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfutures import LocalExecutor, OutcomeNotWritten, RunDirectoryError, WorkerLost, WorkerStartError
from clusterfutures import watch as watching
from clusterfutures.logs import Frame, LogReader
from clusterfutures.records import GIVEN, TASKS, WAITING, Batch, Task, Waiting
from tests import file_faults
from tests import local_work as work
from tests.endings import POOL, making
from tests.filesystems import TOO_LARGE, failing, filled, quota, tmpfs
from tests.support import ScriptResult, wait_until

LIMIT = 30.0  # seconds; whatever takes longer hangs
HOUR = 3600.0
ROOT = os.geteuid() == 0


def written(pool: LocalExecutor) -> tuple[set[int], dict[int, list[int]]]:
    """The numbers of the tasks on disk, and of those that wait what they wait for."""
    tasks: set[int] = set()
    waiting: dict[int, list[int]] = {}
    for kind, body in _records(pool.run_dir):
        if kind == TASKS:
            batch = Batch.unpack(body)
            tasks.update(range(batch.first, batch.first + len(batch.bodies)))
        elif kind == WAITING:
            task = Waiting.unpack(body)
            waiting[task.number] = list(task.parents)
        elif kind == GIVEN:
            tasks.add(Task.unpack(body).number)
    return tasks, waiting


def _records(run_dir: str) -> Iterator[Frame]:
    """Of the journal, and of the inboxes, where lone calls are."""
    inboxes = {(path.parent, "in") for path in Path(run_dir, "jobs").glob("**/in.*")}
    for directory, stem in [(Path(run_dir), "tasks"), *sorted(inboxes)]:
        reader = LogReader(str(directory), stem, shared=False)
        yield from reader.read()
        reader.close()


class TestJournal:
    """What was submitted is on disk, whatever becomes of it."""

    def test_flush(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell) as pool:
            futures = [
                pool.submit(work.note_and_wait, str(tmp_path / "log"), n, str(gate)) for n in range(500)
            ]
            pool.flush()
            assert written(pool)[0] == {*range(500)}
            row = pool.map(abs, range(2000))
            pool.flush()
            assert written(pool)[0] == {*range(2500)}
            gate.touch()
            wait(futures, LIMIT)
            assert list(row) == [*range(2000)]

    def test_soon_without_flush(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """A tenth of a second is promised: no interval is waited for, since here each of them is an hour."""
        log = str(tmp_path / "log")
        with LocalExecutor(1, doorbell=bell) as pool:
            tasks = [pool.submit(work.note_and_wait, log, 0, str(gate))]
            wait_until(lambda: work.notes(log), LIMIT)
            watch = pool._session._watch
            assert watch is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(watching, "SAFETY_LOOK", HOUR)
                patch.setattr(watching, "RECALL_LOOK", HOUR)
                patch.setattr(watching, "LONGEST_POLL", {False: HOUR})
                patch.setattr(watch, "_pause", HOUR)
                wait_until(lambda: watch._timeout == HOUR, LIMIT, lambda: watch._timeout)
                patch.setattr(watching, "CHORE_INTERVAL", HOUR)
                for number in range(1, 5):
                    tasks.append(pool.submit(work.note_and_wait, log, number, str(gate)))
                    wait_until(lambda: number in written(pool)[0], LIMIT, lambda: written(pool))  # noqa: B023
                row = pool.map(abs, range(2000))
                wait_until(lambda: len(written(pool)[0]) == 2005, LIMIT, lambda: written(pool))
            gate.touch()
            watch.wake()
            assert [task.result(LIMIT) for task in tasks] == [*range(5)]
            assert list(row) == [*range(2000)]

    def test_tasks_that_wait_name_their_parents(self, bell: bool) -> None:
        foreign: Future[int] = Future()
        with LocalExecutor(1, doorbell=bell) as pool:
            parent = pool.submit(work.same, 1)
            child = pool.submit(work.total, parent, [foreign])
            pool.flush()
            assert child.task is not None
            assert written(pool)[1] == {child.task: [0 + 1, 0]}, "numbers plus one; 0 is one of elsewhere"
            foreign.set_result(2)
            assert child.result(LIMIT) == 3

    def test_flush_of_nothing(self, bell: bool) -> None:
        pool = LocalExecutor(1, doorbell=bell)
        pool.flush()
        pool.submit(abs, 1).result(LIMIT)
        pool.shutdown()
        pool.flush()


class TestPlace:
    """`run_dir`, given or not."""

    def test_by_default(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell) as one, LocalExecutor(1, doorbell=bell) as two:
            assert one.run_dir != two.run_dir
            for pool in (one, two):
                assert os.path.dirname(pool.run_dir) == tempfile.gettempdir()
                assert os.stat(pool.run_dir).st_mode & 0o777 == 0o700
                about = json.loads(Path(pool.run_dir, "run.json").read_text())
                assert about["pid"] == os.getpid()

    def test_given_as_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with LocalExecutor(1, run_dir=Path("deep", "er")) as pool:
            assert pool.run_dir == str(tmp_path / "deep" / "er")
            monkeypatch.chdir("/")
            assert pool.submit(abs, -1).result(LIMIT) == 1

    def test_that_is_empty(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        with LocalExecutor(1, run_dir=tmp_path) as pool:
            assert pool.run_dir == str(tmp_path)
            assert tmp_path.stat().st_mode & 0o777 == 0o700
            assert pool.submit(abs, -1).result(LIMIT) == 1

    def test_is_closed_to_others(self, tmp_path: Path, bell: bool) -> None:
        old = os.umask(0)
        try:
            with LocalExecutor(1, doorbell=bell, run_dir=tmp_path / "run") as pool:
                pool.submit(np.sum, np.zeros(100_000)).result(LIMIT)
                found = [path for path in (tmp_path / "run").rglob("*") if not path.is_socket()]
                loose = [str(path) for path in found if path.stat().st_mode & 0o022]
        finally:
            os.umask(old)
        assert len(found) > 10
        assert loose == []

    def test_hostile(self, bell: bool, hostile_tmp_path: Path) -> None:
        path = hostile_tmp_path / "run {index}"
        with LocalExecutor(1, doorbell=bell, run_dir=path, setup="true", keep="always") as pool:
            assert pool.submit(work.context).result(LIMIT)[0].run_dir == str(path)
            future = pool.submit(work.print_everywhere, "x")
            future.result(LIMIT)
            assert "write x" in future.stdout()
        assert [each.name for each in hostile_tmp_path.iterdir()] == ["run {index}"], (
            "nothing was made beside it"
        )

    def test_not_of_this_encoding(self, tmp_path: Path, bell: bool) -> None:
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
        with LocalExecutor(1, doorbell=bell, run_dir=path) as pool:
            assert pool.submit(work.context).result(LIMIT)[0].run_dir == path

    def test_too_long_for_a_socket(self, tmp_path: Path, bell: bool) -> None:
        path = tmp_path.joinpath(*["long" * 40] * 4)
        before = {*Path("/tmp").glob("cf-*")}
        with LocalExecutor(2, doorbell=bell, run_dir=path) as pool:
            assert list(pool.map(abs, range(300), timeout=LIMIT)) == [*range(300)]
            assert len({*Path("/tmp").glob("cf-*")} - before) <= 1
        wait_until(lambda: not {*Path("/tmp").glob("cf-*")} - before, LIMIT, "the socket's directory to go")


# What is imported late has to be there before the other user needs it, who may not read the packages.
NOT_WRITABLE = """\
import os, sys
from clusterfutures import LocalExecutor, RunDirectoryError

def refusal(path):
    try:
        LocalExecutor(1, run_dir=path)
    except RunDirectoryError as error:
        return error

refusal("/dev/null/run")
if os.geteuid() == 0:
    os.setuid(12345)
error = refusal(sys.argv[1] + "/run")
print(error.path)
print(error)
"""


class TestRefused:
    """Directories that are not taken."""

    def check(self, path: object, *words: str) -> None:
        with pytest.raises(RunDirectoryError) as caught:
            LocalExecutor(1, run_dir=path)
        assert isinstance(caught.value, OSError)
        assert caught.value.path == str(path)
        for word in (str(path), *words):
            assert word in str(caught.value)

    def test_of_another_run(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run") as pool:
            self.check(tmp_path / "run", "another run")
            assert pool.submit(abs, -1).result(LIMIT) == 1

    def test_of_a_finished_run(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always"):
            pass
        self.check(tmp_path / "run", "another run")
        assert (tmp_path / "run" / "run.json").exists()

    def test_not_empty(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        self.check(tmp_path, "not empty")
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        self.check(tmp_path / "file", "not a directory")
        self.check(tmp_path / "file" / "run")
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.skipif(not ROOT, reason="only root can give directories away")
    def test_of_another_user(self, tmp_path: Path) -> None:
        path = tmp_path / "theirs"
        path.mkdir()
        os.chown(path, 12345, 12345)
        self.check(path, "belongs to user 12345")
        assert list(path.iterdir()) == []

    def test_not_writable(self, run: Callable[..., ScriptResult]) -> None:
        """Root may write everywhere, so there the program becomes another user."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            os.chmod(folder, 0o555)
            result = run(NOT_WRITABLE, folder).check()
            os.chmod(folder, 0o700)
        path, text = result.stdout.splitlines()
        assert path == f"{folder}/run"
        assert path in text
        assert "Permission denied" in text

    def test_read_only(self, tmp_path: Path) -> None:
        with tmpfs(tmp_path / "disk", "ro") as disk:
            self.check(disk / "run", "Read-only")

    def test_full(self, disk: Path) -> None:
        with filled(disk):
            self.check(disk / "run", "No space left")
        with LocalExecutor(1, run_dir=disk / "run") as pool:
            assert pool.submit(abs, -1).result(LIMIT) == 1, "the first try left nothing behind"

    def test_changed_by_somebody_else_meanwhile(self, tmp_path: Path) -> None:
        pool = LocalExecutor(1, run_dir=tmp_path / "run")
        (tmp_path / "run").chmod(0o777)
        error = pool.submit(abs, -1).exception(LIMIT)
        assert isinstance(error, WorkerStartError)
        assert "open to others" in str(error)
        pool.shutdown()


class TestKeep:
    """When the directory goes and when it stays."""

    @pytest.mark.parametrize("keep", ["failed", "always", "never"])
    @pytest.mark.parametrize("ending", ["well", "exception", "death", "cancelled", "unused"])
    def test_after_a_run(self, keep: str, ending: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, "clusterfutures")
        with LocalExecutor(1, keep=keep) as pool:
            if ending == "exception":
                pool.submit(work.fail, "x").exception(LIMIT)
            elif ending == "death":
                pool.submit(os._exit, 3).exception(LIMIT)
            elif ending == "cancelled":
                assert pool.submit(work.total, Future()).cancel()
            elif ending == "well":
                pool.submit(abs, -1).result(LIMIT)
        failed = ending in ("exception", "death")
        stays = keep == "always" or (keep == "failed" and failed)
        gc.collect()
        wait_until(lambda: os.path.exists(pool.run_dir) == stays, LIMIT, lambda: os.path.exists(pool.run_dir))
        told = [record.getMessage() for record in caplog.records]
        assert [pool.run_dir in text for text in told] == ([True] if failed and stays else [])

    def test_until_no_future_needs_it(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            futures = [pool.submit(print, n) for n in range(3)]
        kept = futures.pop()
        del futures
        gc.collect()
        assert os.path.exists(pool.run_dir)
        assert kept.stdout() == "2\n"
        del kept
        gc.collect()
        assert not os.path.exists(pool.run_dir)

    def test_failed_map(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell) as pool, pytest.raises(TypeError):
            list(pool.map(abs, [1, "x", 3], timeout=LIMIT))
        gc.collect()
        assert os.path.exists(pool.run_dir)

    def test_success_after_a_retry(self, tmp_path: Path) -> None:
        with LocalExecutor(1, retries=1) as pool:
            assert pool.submit(work.attempts, str(tmp_path / "log"), 1).result(LIMIT) == 1
        gc.collect()
        assert not os.path.exists(pool.run_dir)

    def test_exception_in_the_body(self) -> None:
        with pytest.raises(KeyError), LocalExecutor(1) as pool:
            pool.submit(abs, 1).result(LIMIT)
            raise KeyError
        gc.collect()
        assert os.path.exists(pool.run_dir), "a run that was ended is no run that ended well"

    def test_forgotten_executor(self, bell: bool) -> None:
        pool = LocalExecutor(1, doorbell=bell)
        run_dir = pool.run_dir
        assert pool.submit(abs, -1).result(LIMIT) == 1
        del pool
        gc.collect()
        wait_until(lambda: not os.path.exists(run_dir), LIMIT, "the directory of a forgotten executor to go")

    def test_at_the_interpreters_end(self, run: Callable[..., ScriptResult], bell: bool) -> None:
        result = run(
            f"""\
from clusterfutures import LocalExecutor
ex = LocalExecutor(1, doorbell={bell})
kept = ex.submit(abs, -1)
print(ex.run_dir)
"""
        ).check()
        assert result.stderr == ""
        assert not os.path.exists(result.stdout.strip())

    def test_failed_at_the_interpreters_end(self, run: Callable[..., ScriptResult], bell: bool) -> None:
        result = run(
            f"""\
from clusterfutures import LocalExecutor
ex = LocalExecutor(1, doorbell={bell})
kept = ex.submit(abs, "x")
print(ex.run_dir)
"""
        )
        run_dir = result.stdout.strip()
        assert os.path.exists(run_dir)
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.report()
        assert run_dir in lines[0]
        assert result.returncode == 0

    def test_a_fork_removes_nothing(self, run: Callable[..., ScriptResult]) -> None:
        result = run(
            """\
import os, sys
from clusterfutures import LocalExecutor
ex = LocalExecutor(1)
future = ex.submit(abs, -1)
future.result()
ex.shutdown()
pid = os.fork()
if pid == 0:
    del future
    sys.exit(0)
os.waitpid(pid, 0)
print(os.path.exists(ex.run_dir))
"""
        ).check()
        assert result.stdout == "True\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of a few megabytes."""
    with tmpfs(tmp_path / "disk") as path:
        yield path


@pytest.fixture
def crowded(disk: Path, bell: bool) -> Iterator[LocalExecutor]:
    """A pool of two workers that are there, on the small disk."""
    with LocalExecutor(2, doorbell=bell, run_dir=disk / "run", keep="never") as pool:
        assert pool.wait_for_workers(2, LIMIT)
        yield pool


class TestFullDisk:
    """A write that fails costs its own task only."""

    def check_alive(self, pool: LocalExecutor) -> None:
        assert pool.submit(abs, -2).result(LIMIT) == 2
        assert list(pool.map(abs, range(50), timeout=LIMIT)) == [*range(50)]

    def test_task(self, crowded: LocalExecutor) -> None:
        error = crowded.submit(len, b"x" * TOO_LARGE).exception(LIMIT)
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOSPC
        self.check_alive(crowded)

    def test_item_of_a_map(self, crowded: LocalExecutor) -> None:
        self.check_alive(crowded)
        results = crowded.map(len, [b"1", b"x" * TOO_LARGE], timeout=LIMIT)
        assert next(results) == 1
        with pytest.raises(OSError, match="No space left"):
            next(results)
        self.check_alive(crowded)

    def test_function(self, crowded: LocalExecutor) -> None:
        block = b"x" * TOO_LARGE
        error = crowded.submit(lambda: len(block)).exception(LIMIT)
        assert isinstance(error, OSError)
        self.check_alive(crowded)

    def test_outcome(self, crowded: LocalExecutor) -> None:
        error = crowded.submit(bytes, TOO_LARGE).exception(LIMIT)
        assert type(error) is OutcomeNotWritten
        assert isinstance(error, OSError)
        assert (error.errno, error.strerror is not None) == (errno.ENOSPC, True)
        assert "could not be written" in str(error)
        self.check_alive(crowded)
        assert crowded.submit(bytes, 1000).result(LIMIT) == bytes(1000)

    def test_outcomes_of_a_map(self, crowded: LocalExecutor) -> None:
        sizes = [1, 10, TOO_LARGE, 100, 1000]
        results = crowded.map(bytes, sizes, timeout=LIMIT)
        assert [len(next(results)), len(next(results))] == [1, 10]
        with pytest.raises(OutcomeNotWritten):
            next(results)
        self.check_alive(crowded)

    def test_buffer(self, crowded: LocalExecutor) -> None:
        error = crowded.submit(np.sum, np.zeros(TOO_LARGE // 8)).exception(LIMIT)
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOSPC
        assert [path for path in Path(crowded.run_dir, "buffers").rglob("*") if path.is_file()] == []
        assert crowded.submit(np.sum, np.ones(20_000)).result(LIMIT) == 20_000
        self.check_alive(crowded)

    def test_buffer_in_a_map(self, crowded: LocalExecutor) -> None:
        results = crowded.map(np.sum, [np.ones(3), np.zeros(TOO_LARGE // 8)], timeout=LIMIT)
        assert next(results) == 3
        with pytest.raises(OSError, match="No space left"):
            next(results)
        self.check_alive(crowded)

    def test_value_of_a_parent(self, crowded: LocalExecutor) -> None:
        foreign: Future[bytes] = Future()
        future = crowded.submit(len, foreign)
        foreign.set_result(b"x" * TOO_LARGE)
        assert isinstance(future.exception(LIMIT), OSError)
        self.check_alive(crowded)

    def test_no_room_at_all(self, crowded: LocalExecutor, disk: Path) -> None:
        with filled(disk):
            futures = [crowded.submit(work.same, "x" * 1000) for _ in range(200)]
            assert not wait(futures, LIMIT).not_done
            errors = [error for error in (future.exception(0) for future in futures) if error is not None]
            assert errors, "there cannot have been room for all of them"
            assert all(isinstance(error, OSError) for error in errors)
        self.check_alive(crowded)

    def test_worker_dies_when_there_is_no_room(
        self, crowded: LocalExecutor, disk: Path, tmp_path: Path
    ) -> None:
        log, gate = str(tmp_path / "log"), tmp_path / "open"
        gate.unlink(missing_ok=True)
        future = crowded.submit(work.note_and_wait, log, 0, str(gate))
        wait_until(lambda: work.notes(log) and future.pid, LIMIT)
        assert future.pid is not None
        with filled(disk):
            os.kill(future.pid, 9)
            wait([future], 2.0)  # it may be told only when there is room to tell it
        assert isinstance(future.exception(LIMIT), (WorkerLost, OSError))
        self.check_alive(crowded)

    def test_shutdown_when_there_is_no_room(
        self, disk: Path, bell: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        pool = LocalExecutor(2, doorbell=bell, run_dir=disk / "run", keep="never")
        assert pool.wait_for_workers(2, LIMIT)
        assert pool.submit(abs, -1).result(LIMIT) == 1
        with filled(disk):
            pool.shutdown()
        assert "thread failed" not in caplog.text
        assert pool.active_workers == 0

    def test_specification(self, disk: Path, bell: bool) -> None:
        pool = LocalExecutor(1, doorbell=bell, run_dir=disk / "run", keep="never")
        with filled(disk):
            try:
                error = pool.submit(abs, -1).exception(LIMIT)
            except OSError as raised:
                error = raised
            assert isinstance(error, (OSError, WorkerStartError))
        pool.shutdown()


@pytest.fixture
def make(tmp_path: Path, bell: bool) -> Iterator[file_faults.Make]:
    """Makes executors that are shut down after the test; what has lost its driver is patient for a second."""
    with making(LocalExecutor, tmp_path, doorbell=bell, orphan_timeout=1.0) as found:
        yield partial(found, POOL)


def test_file_size_limit_of_the_workers(make: file_faults.Make) -> None:
    file_faults.limit_on_file_size(make)


def test_used_up_quota(tmp_path: Path) -> None:
    with quota(tmp_path / "disk") as limited, making(LocalExecutor, tmp_path) as make:
        file_faults.used_up_quota(partial(make, POOL), limited)


def test_read_only_while_tasks_run(make: file_faults.Make, bell: bool, tmp_path: Path, gate: Path) -> None:
    """Without a bell nobody can say why the outcome of a task does not come: the task is lost."""
    with failing(tmp_path / "disk") as disk:
        error = file_faults.read_only(make, disk, str(tmp_path / "log"), gate)
    if bell:
        file_faults.not_written(error, errno.EROFS)
    else:
        assert type(error) is WorkerLost


def test_file_size_limit_of_the_driver(run: Callable[..., ScriptResult], bell: bool) -> None:
    result = run(
        f"""\
import errno, resource
from clusterfutures import LocalExecutor
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with LocalExecutor(1, doorbell={bell}, keep="never") as ex:
    error = ex.submit(len, b"x" * 200_000).exception(30)
    print(isinstance(error, OSError), errno.errorcode[error.errno])
    print([ex.submit(abs, -n).result(30) for n in range(3)])
"""
    ).check()
    assert result.stdout.splitlines() == ["True EFBIG", "[0, 1, 2]"]


def test_what_is_damaged_is_refused_not_loaded(tmp_path: Path, bell: bool) -> None:
    log, gate = str(tmp_path / "log"), tmp_path / "open"
    with LocalExecutor(1, doorbell=bell, keep="never") as pool:
        first = pool.submit(work.note_and_wait, log, 0, str(gate))
        wait_until(lambda: work.notes(log), LIMIT)
        array = np.ones(100_000)
        future: Future[Any] = pool.submit(np.sum, array)
        [path] = [path for path in Path(pool.run_dir, "buffers").rglob("*") if path.is_file()]
        path.write_bytes(bytes(array.nbytes))
        gate.touch()
        assert first.result(LIMIT) == 0
        error = future.exception(LIMIT)
        assert "does not have the content" in str(error)
        assert pool.submit(abs, -1).result(LIMIT) == 1
