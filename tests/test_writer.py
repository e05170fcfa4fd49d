"""The writer: whole records from many processes, whoever is killed; waiting in turn; leases; shards; once."""

from __future__ import annotations

import csv
import fcntl
import json
import logging
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import filelock
import h5py
import pytest

from clusterfutures import LocalExecutor
from clusterfutures.errors import ClusterFuturesError, OptionError
from clusterfutures.writing import leases, locks, tickets, writer
from clusterfutures.writing.lockcheck import check_locks
from clusterfutures.writing.locks import Holder, LeaseLost, Lock, LockTimeout, only_local
from clusterfutures.writing.onetime import once
from clusterfutures.writing.shards import ShardedWriter
from clusterfutures.writing.writer import SerialWriter
from tests import writer_work as work
from tests.support import REPOSITORY, check_no_process_left, wait_until

LIMIT = 50.0  # seconds; whatever takes longer hangs
CROWD_LIMIT = 170.0  # the same for a crowd, on a machine that others use, too


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """At the end of the module no process is left."""
    yield
    check_no_process_left()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5's variable is set by the writer; it is to be as it was afterwards."""
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "FALSE")


def start(**argument: Any) -> subprocess.Popen[str]:
    """`writer_work` as a program."""
    command = [sys.executable, "-m", "tests.writer_work", json.dumps(argument)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE)


def crowd(path: Path, way: str, **given: Any) -> dict[int, int]:
    """How the members of a `writer_work.Crowd` ended."""
    process = start(path=str(path), way=way, **given)
    out, _ = process.communicate(timeout=CROWD_LIMIT)
    assert process.returncode == 0
    return {int(member): code for member, code in json.loads(out).items()}


def records_in(path: Path) -> set[tuple[int, int, int]]:
    """Member, entry and record of all datasets; their values are right."""
    found = set()
    with h5py.File(path, "r") as file:
        for group in file.values():
            found |= {tuple(map(int, dataset[()])) for dataset in group.values()}
            assert len(group) == len([each for each in found if f"/{each[0]}" == group.name])
    return found


def entries_in(path: Path) -> list[tuple[int, int]]:
    """Member and entry of each line; the lines are whole."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        member, entry, rest = line.split(" ")
        assert rest == "x" * len(rest)
        found.append((int(member), int(entry)))
    return found


def held(path: Path, **options: Any) -> subprocess.Popen[str]:
    """A process that holds the lock at `path`, until there is a file called `gate`."""
    ready = path.with_name("ready")
    process = start(
        function="hold", path=str(path), ready=str(ready), gate=str(path.with_name("gate")), **options
    )
    wait_until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None
    return process


def end(process: subprocess.Popen[str], signal_number: int = signal.SIGKILL) -> None:
    process.send_signal(signal_number)
    process.communicate(timeout=LIMIT)


def end_at_gate(process: subprocess.Popen[str], gate: Path) -> None:
    gate.touch()
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


class TestReadyWays:
    """Lines, rows and JSON."""

    def test_lines(self, hostile_tmp_path: Path) -> None:
        log = SerialWriter(hostile_tmp_path / "log")
        log.append_line("one")
        log.append_line("two\n")
        log.append_line("")
        assert (hostile_tmp_path / "log").read_text() == "one\ntwo\n\n"

    def test_several_lines_at_once(self, tmp_path: Path) -> None:
        log = SerialWriter(tmp_path / "log")
        log.append_lines([])
        assert not (tmp_path / "log").exists()
        log.append_lines(["one", "two\n", ""])
        log.append_lines(str(number) for number in (3, 4))
        assert (tmp_path / "log").read_text() == "one\ntwo\n\n3\n4\n"

    def test_a_line_is_one_line(self, tmp_path: Path) -> None:
        log = SerialWriter(tmp_path / "log")
        with pytest.raises(ValueError, match="a newline within"):
            log.append_line("one\ntwo")
        with pytest.raises(ValueError, match="a newline within"):
            log.append_lines(["zero", "one\ntwo"])
        assert not (tmp_path / "log").exists()

    def test_after_a_file_without_a_last_newline(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("by hand")
        SerialWriter(tmp_path / "log").append_line("by program")
        assert (tmp_path / "log").read_text() == "by hand\nby program\n"

    def test_json(self, tmp_path: Path) -> None:
        values = [{"a": [1, None, "ü\n"]}, "text", 1.5]
        for value in values:
            SerialWriter(tmp_path / "log").append_json(value)
        assert [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()] == values

    def test_rows_get_their_header_once(self, tmp_path: Path) -> None:
        table = SerialWriter(tmp_path / "t.csv")
        table.append_row({"event": "a,b", "misfit": 1.5})
        table.append_row({"misfit": 2})
        table.append_row(["c\nd", 3])
        with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert rows == [["event", "misfit"], ["a,b", "1.5"], ["", "2"], ["c\nd", "3"]]

    def test_rows_with_a_header_of_their_own_or_none(self, tmp_path: Path) -> None:
        SerialWriter(tmp_path / "a.csv").append_row([1, 2], header=["x", "y"])
        SerialWriter(tmp_path / "a.csv").append_row({"y": 4, "x": 3}, header=["x", "y"])
        SerialWriter(tmp_path / "b.csv").append_row([1, 2])
        assert (tmp_path / "a.csv").read_text() == "x,y\n1,2\n3,4\n"
        assert (tmp_path / "b.csv").read_text() == "1,2\n"

    def test_a_row_with_an_unknown_column(self, tmp_path: Path) -> None:
        table = SerialWriter(tmp_path / "t.csv")
        table.append_row({"a": 1})
        with pytest.raises(KeyError, match="none for"):
            table.append_row({"a": 1, "b": 2})
        assert (tmp_path / "t.csv").read_text() == "a\n1\n"

    @pytest.mark.parametrize("atomic", [False, True])
    def test_what_fails_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
    ) -> None:
        log = SerialWriter(tmp_path / "log", atomic=atomic)
        log.append_line("one")

        def full(fd: int, data: Any, offset: int) -> int:
            if len(data) > 10:
                return original(fd, data[:10], offset)
            raise OSError(28, "No space left on device")

        original = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(writer.os, "pwrite", full)
            patch.setattr(leases, "write_record", lambda *args: None)
            patch.setattr(locks, "write_record", lambda *args: None)
            with pytest.raises(OSError, match="No space"):
                log.append_lines(["2" * 8, "3" * 8])
        assert (tmp_path / "log").read_text() == "one\n"


class Recorder:
    """Stands for what an opener returns, and notes what is done with it."""

    def __init__(self, path: str, notes: list[str], error: str = "") -> None:
        self._notes = notes
        self._error = error

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name not in {"commit", "flush", "sync", "close"}:
            raise AttributeError(name)

        def note() -> None:
            self._notes.append(name)
            if name == self._error:
                raise OSError(5, f"{name} failed")

        return note


class Dataset:
    """Stands for a `netCDF4.Dataset`, which cannot be closed twice."""

    def __init__(self, path: str) -> None:
        self.is_open = True

    def isopen(self) -> bool:
        return self.is_open

    def close(self) -> None:
        assert self.is_open
        self.is_open = False


class OnlyContext:
    """What can be entered and left, and not be closed."""

    def __init__(self, path: str, notes: list[Any]) -> None:
        self._notes = notes

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self._notes.append(kind)


class TestOpeners:
    """What is done with what they return."""

    def test_it_is_flushed_closed_and_synced_before_the_lock_is_let_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        notes: list[str] = []
        release = locks.Hold.release
        monkeypatch.setattr(writer, "sync", lambda path: notes.append("fsync"))
        monkeypatch.setattr(locks.Hold, "release", lambda self: (notes.append("release"), release(self)))
        with SerialWriter(tmp_path / "x", open=Recorder, notes=notes):
            notes.append("block")
        assert notes == ["block", "commit", "flush", "sync", "close", "fsync", "release"]

    def test_after_an_error_it_is_only_closed(self, tmp_path: Path) -> None:
        notes: list[str] = []
        with pytest.raises(ZeroDivisionError), SerialWriter(tmp_path / "x", open=Recorder, notes=notes):
            _ = 1 / 0
        assert notes == ["close"]

    @pytest.mark.parametrize("error", ["flush", "close"])
    def test_its_own_error_is_raised_and_the_lock_let_go(self, tmp_path: Path, error: str) -> None:
        for _ in range(2):
            with (
                pytest.raises(OSError, match=f"{error} failed"),
                SerialWriter(tmp_path / "x", open=Recorder, timeout=5, notes=[], error=error),
            ):
                pass

    def test_text_and_bytes(self, tmp_path: Path) -> None:
        with SerialWriter(tmp_path / "x") as file:
            file.write("ü")
        with SerialWriter(tmp_path / "x", mode="ab") as file:
            file.write(b"\xff")
        with SerialWriter(tmp_path / "x", mode="r", encoding="latin-1") as file:
            assert file.read() == "Ã¼ÿ"

    def test_the_user_may_have_closed_it(self, tmp_path: Path) -> None:
        for shared in (SerialWriter(tmp_path / "x"), SerialWriter(tmp_path / "x", open=Dataset)):
            with shared as given:
                given.close()
            with shared:
                pass

    def test_what_can_only_be_entered_is(self, tmp_path: Path) -> None:
        notes: list[Any] = []
        with SerialWriter(tmp_path / "x", open=OnlyContext, notes=notes) as given:
            assert given == "entered"
        with pytest.raises(KeyError), SerialWriter(tmp_path / "x", open=OnlyContext, notes=notes):
            raise KeyError
        assert notes == [None, KeyError]

    def test_hdf5(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x.h5", open=h5py.File, mode="a")
        with shared as file:
            file["a/b"] = [1, 2]
        with shared as file:
            assert list(file["a/b"]) == [1, 2]
            file["a/c"] = 3
            file.close()  # the user may
        with h5py.File(tmp_path / "x.h5", "r") as file:
            assert sorted(file["a"]) == ["b", "c"]

    def test_hdf5_does_not_lock(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x.h5", open=h5py.File, mode="a")
        with shared as file:
            file["a"] = 1
        with open(tmp_path / "x.h5", "rb") as reader:
            fcntl.flock(reader, fcntl.LOCK_SH)
            with pytest.raises(OSError, match="lock"):
                h5py.File(tmp_path / "x.h5", "a", locking=True)
            with shared as file:
                file["b"] = 2

    def test_hdf5_is_told_by_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HDF5_USE_FILE_LOCKING")
        with SerialWriter(tmp_path / "x"):
            assert "HDF5_USE_FILE_LOCKING" not in os.environ
        with SerialWriter(tmp_path / "x", open=Recorder, notes=[]):
            assert os.environ["HDF5_USE_FILE_LOCKING"] == "FALSE"

    def test_sqlite(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x.db", open=sqlite3.connect)
        with shared as db:
            db.execute("create table t (a)")
            db.execute("insert into t values (1)")
        with pytest.raises(ZeroDivisionError), shared as db:
            db.execute("insert into t values (2)")
            _ = 1 / 0
        with shared as db:
            assert db.execute("select a from t").fetchall() == [(1,)]

    def test_a_link_is_the_same_file(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "x")
        with SerialWriter(tmp_path / "link", atomic=True) as file:
            file.write("text")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "x").read_text() == "text"
        assert (tmp_path / "x.lock").is_dir()

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError), SerialWriter(tmp_path / "no" / "x"):
            pass


class TestAtomic:
    """A copy takes the file's place."""

    def test_others_see_all_or_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_text("old ")
        path.chmod(0o640)
        with SerialWriter(path, atomic=True) as file:
            file.write("new")
            file.flush()
            assert path.read_text() == "old "
        assert path.read_text() == "old new"
        assert path.stat().st_mode & 0o777 == 0o640

    def test_an_error_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_text("old")
        with pytest.raises(ZeroDivisionError), SerialWriter(path, atomic=True) as file:
            file.write("new")
            _ = 1 / 0
        assert path.read_text() == "old"
        assert not list((tmp_path / "x.lock").glob("copy-*"))

    def test_copies_of_the_dead_are_removed(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"victims": {"0": "closing"}, "options": {"atomic": True}}
        crowd(tmp_path / "x.h5", "hdf5", members=1, entries=2, **given)
        assert len(list((tmp_path / "x.h5.lock").glob("copy-*"))) == 1
        with SerialWriter(tmp_path / "x.h5", open=h5py.File, mode="a", atomic=True):
            pass
        assert not list((tmp_path / "x.h5.lock").glob("copy-*"))
        assert records_in(tmp_path / "x.h5") == {(0, 0, 0)}


@pytest.mark.timeout(180)
class TestCrowds:
    """Many real processes, one of them killed in each phase: each record is there once, or not at all."""

    def test_fifty_writers_of_hdf5(self, tmp_path: Path) -> None:
        phases = list(work.PHASES)
        victims = {str(3 * n): phase for n, phase in enumerate(phases)}
        ends = crowd(
            tmp_path / "x.h5",
            "hdf5",
            members=50,
            entries=3,
            records=14,
            victims=victims,
            options={"atomic": True},
        )
        assert {str(n) for n, code in ends.items() if code == -signal.SIGKILL} == set(victims)
        assert set(ends.values()) == {0, -signal.SIGKILL}
        found = records_in(tmp_path / "x.h5")
        survivors = {n for n, code in ends.items() if code == 0}
        assert found >= {(n, entry, r) for n in survivors for entry in range(3) for r in range(14)}
        for n, phase in enumerate(phases):
            whole = phases.index(phase) >= phases.index("replaced")
            expected = {(3 * n, entry, r) for entry in range(1 + whole) for r in range(14)}
            assert {each for each in found if each[0] == 3 * n} == expected, phase

    @pytest.mark.parametrize("phase", work.APPEND_PHASES)
    def test_a_killed_writer_of_lines(self, tmp_path: Path, phase: str) -> None:
        ends = crowd(tmp_path / "log", "line", members=4, entries=5, records=3000, victims={"1": phase})
        assert ends == {0: 0, 1: -signal.SIGKILL, 2: 0, 3: 0}
        SerialWriter(tmp_path / "log").append_line("9 9 ")
        found = entries_in(tmp_path / "log")
        expected = [(n, entry) for n in (0, 2, 3) for entry in range(5)]
        assert sorted(found) == sorted([*expected, (1, 0), (9, 9)])

    def test_rows_have_one_header(self, tmp_path: Path) -> None:
        victims = {"1": "undo noted", "3": "half a line"}
        ends = crowd(tmp_path / "x.csv", "row", members=8, entries=5, records=3000, victims=victims)
        assert {n for n, code in ends.items() if code} == {1, 3}
        SerialWriter(tmp_path / "x.csv").append_row({"entry": 9, "member": 9})
        first, *rows = (tmp_path / "x.csv").read_text().splitlines()
        assert first == "member,entry,text"
        survivors = [(n, entry) for n in (0, 2, 4, 5, 6, 7) for entry in range(5)]
        found = [tuple(map(int, row.split(",")[:2])) for row in rows]
        assert sorted(found) == sorted([*survivors, (1, 0), (3, 0), (9, 9)])

    def test_lines_of_many_megabytes(self, tmp_path: Path) -> None:
        size = 4 << 20
        victims = {"2": "half a line"}
        ends = crowd(tmp_path / "log", "line", members=5, entries=2, records=size, victims=victims)
        assert ends[2] == -signal.SIGKILL
        SerialWriter(tmp_path / "log").append_line("9 9 ")
        found = entries_in(tmp_path / "log")
        expected = [(n, entry) for n in (0, 1, 3, 4) for entry in range(2)]
        assert sorted(found) == sorted([*expected, (2, 0), (9, 9)])
        assert (tmp_path / "log").stat().st_size == 9 * (size + 1) + 5

    @pytest.mark.parametrize("phase", work.LEASE_PHASES)
    def test_with_a_lease(self, tmp_path: Path, phase: str) -> None:
        options = {"lease": True, "lease_timeout": 600}
        ends = crowd(
            tmp_path / "log", "line", members=5, entries=8, records=100, victims={"1": phase}, options=options
        )
        assert ends == {0: 0, 1: -signal.SIGKILL, 2: 0, 3: 0, 4: 0}
        found = entries_in(tmp_path / "log")
        assert len(found) == len(set(found))
        assert {each for each in found if each[0] != 1} == {(n, e) for n in (0, 2, 3, 4) for e in range(8)}

    def test_threads_share_a_writer(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x")

        def write(number: int) -> None:
            for entry in range(10):
                with shared as file:
                    file.write(f"{number} ")
                    file.flush()
                    file.write(f"{entry} \n")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sorted(entries_in(tmp_path / "x")) == [(n, e) for n in range(6) for e in range(10)]

    def test_tasks(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x")
        with LocalExecutor(2, keep="never") as ex:
            futures = [ex.submit(work.append_in_task, shared, number) for number in range(20)]
            shared.append_json({"number": 20})  # outside of a task, at the same time
            assert [future.result(LIMIT) for future in futures] == list(range(20))
        lines = (tmp_path / "x").read_text().splitlines()
        assert sorted(json.loads(line)["number"] for line in lines) == list(range(21))

    @pytest.mark.parametrize("kind", [SerialWriter, ShardedWriter])
    def test_pickled(self, tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        first = kind("x.h5", open=h5py.File, timeout=7, mode="a")
        with first as file:
            file["a"] = 1
        monkeypatch.chdir("/")
        second = pickle.loads(pickle.dumps(first))
        assert second.path == first.path == str(tmp_path / "x.h5")
        assert second.timeout == 7
        with second as file:
            file["b"] = 2

    def test_a_forked_child_lets_nothing_go(self, tmp_path: Path) -> None:
        script = (
            "import fcntl, os, sys\n"
            "from clusterfutures.writing.locks import Holder, Lock\n"
            "with Lock(sys.argv[1]).hold():\n"
            "    pid = os.fork()\n"
            "    if pid:\n"
            "        os.waitpid(pid, 0)\n"
            "        print(Holder.read(sys.argv[1] + '/holder').pid == os.getpid())\n"
            "        try:\n"
            "            with open(sys.argv[1] + '/kernel') as file:\n"
            "                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "        except BlockingIOError:\n"
            "            print('still held')\n"
            "if not pid:\n"
            "    os._exit(0)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "l")],
            cwd=REPOSITORY, text=True, capture_output=True, timeout=LIMIT,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("True\nstill held\n", "")


class TestWaiting:
    """In turn, not in silence, and not for the dead."""

    def test_in_the_order_of_coming(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "IMPATIENCE", 1e6)
        lock = Lock(str(tmp_path / "l"))
        queue = tmp_path / "l" / "queue"
        order: list[int] = []

        def come(number: int) -> None:
            with lock.hold(LIMIT):
                order.append(number)

        threads = []
        with lock.hold():
            for number in range(50):
                threads.append(threading.Thread(target=come, args=(number,)))
                threads[-1].start()
                wait_until(lambda: queue.is_dir() and len(list(queue.iterdir())) == len(threads))
        with lock.hold():  # who comes back is the last
            order.append(-1)
        for thread in threads:
            thread.join(LIMIT)
        assert order == [*range(50), -1]

    def test_timeout_tells_who_has_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_JOB_ID", "4711")
        process = held(tmp_path / "x.lock")
        with (
            pytest.raises(LockTimeout) as caught,
            SerialWriter(tmp_path / "x", timeout=0.05),
        ):
            pass
        end_at_gate(process, tmp_path / "gate")
        text, holder = str(caught.value), caught.value.held_by
        assert holder is not None
        assert (holder.pid, holder.host, holder.job) == (process.pid, socket.gethostname(), "4711")
        assert f"held by process {process.pid} on {socket.gethostname()} (job 4711) since 20" in text
        assert text.startswith(f"{tmp_path / 'x.lock'}: gave up after ")
        assert isinstance(caught.value, (filelock.Timeout, TimeoutError))
        assert isinstance(caught.value, ClusterFuturesError)
        assert caught.value.lock_file == str(tmp_path / "x.lock")
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.held_by, copy.lock_file) == (text, holder, caught.value.lock_file)
        assert not list((tmp_path / "x.lock" / "queue").iterdir())

    def test_zero_is_one_try(self, tmp_path: Path) -> None:
        process = held(tmp_path / "l")
        with pytest.raises(LockTimeout), Lock(str(tmp_path / "l")).hold(0):
            pass
        end_at_gate(process, tmp_path / "gate")
        with Lock(str(tmp_path / "l")).hold(0):
            pass

    def test_it_is_told_after_a_while(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(locks, "FIRST_WORD", 0.01)
        monkeypatch.setattr(locks, "WARNING_AFTER", 1e6)
        process = held(tmp_path / "l")
        caplog.set_level(logging.INFO, "clusterfutures.writing")

        def levels() -> set[int]:
            return {record.levelno for record in caplog.records}

        def wait() -> None:
            with Lock(str(tmp_path / "l")).hold(LIMIT):
                pass

        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_until(lambda: levels() == {logging.INFO}, describe=levels)
        monkeypatch.setattr(locks, "WARNING_AFTER", 0.0)
        wait_until(lambda: levels() == {logging.INFO, logging.WARNING}, describe=levels)
        assert f"held by process {process.pid} on" in caplog.text
        end_at_gate(process, tmp_path / "gate")
        waiter.join(LIMIT)

    def test_a_killed_holder_blocks_nobody(self, tmp_path: Path) -> None:
        end(held(tmp_path / "l"))
        with Lock(str(tmp_path / "l")).hold(LIMIT) as hold:
            assert hold.previous is not None
            assert hold.previous.host == socket.gethostname()
        with Lock(str(tmp_path / "l")).hold(LIMIT) as hold:
            assert hold.previous is None

    def test_a_thread_that_holds_it_is_told(self, tmp_path: Path) -> None:
        shared = SerialWriter(tmp_path / "x")
        with shared, pytest.raises(RuntimeError, match="would wait for itself"), shared:
            pass
        with shared as file:
            file.write("and it can be used again")


class TestTickets:
    """The order in which they wait."""

    def test_positions(self, tmp_path: Path) -> None:
        queue = str(tmp_path / "queue")
        assert tickets.is_empty(queue)
        three = [tickets.Ticket(queue) for _ in range(3)]
        assert [ticket.position() for ticket in three] == [0, 1, 2]
        three[0].leave()
        three[0].leave()
        assert [ticket.position() for ticket in three[1:]] == [0, 1]

    def test_of_a_dead_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tickets, "DOUBT", 0.0)
        child = subprocess.Popen(["true"])
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
        gone = tmp_path / f"000000000001.{child.pid}.0123abcd.{socket.gethostname()}"
        gone.touch()
        ticket = tickets.Ticket(str(tmp_path))
        assert ticket.position() == 0
        assert not gone.exists()
        child.wait()
        gone.touch()
        assert ticket.position() == 0

    def test_of_a_silent_one_elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr(tickets.time, "monotonic", lambda: now[0])
        other = tmp_path / "000000000001.1.0123abcd.elsewhere"
        other.touch()
        ticket = tickets.Ticket(str(tmp_path))
        own = tmp_path / ticket.name
        for words in (b"", b"1", b"2"):
            other.write_bytes(words)
            before = own.read_bytes()
            for _ in range(3):
                now[0] += tickets.TOUCH
                assert ticket.position() == 1
            assert own.read_bytes() != before, "so that others do not take this one for dead"
        now[0] += tickets.SILENCE
        assert ticket.position() == 0
        assert not other.exists()


NODE = "another kernel"


class TestLease:
    """What stands in for the kernel's lock between nodes."""

    @pytest.fixture
    def lock(self, tmp_path: Path) -> Lock:
        return Lock(str(tmp_path / "l"), str(tmp_path / "x"), lease=True, lease_timeout=600)

    def test_one_after_another(self, lock: Lock) -> None:
        for _ in range(6):
            with lock.hold(LIMIT) as hold:
                hold.check()
        assert sorted(os.listdir(lock.path)) == ["holder", "kernel", "lease.4", "lease.5", "lease.6", "mode"]

    def test_a_holder_on_another_node_is_waited_for(self, lock: Lock, tmp_path: Path) -> None:
        lease = leases.Lease(lock.path, 600, NODE)
        os.makedirs(lock.path)
        assert lease.try_acquire()
        with pytest.raises(LockTimeout), lock.hold(0.05):
            pass
        lease.release(locks.seal_of(str(tmp_path / "x")))
        with lock.hold(LIMIT):
            pass

    def test_a_dead_holder_of_this_node(self, tmp_path: Path, lock: Lock) -> None:
        end(held(tmp_path / "l", lease=True, lease_timeout=600))
        with lock.hold(LIMIT) as hold:
            assert hold.previous is not None

    def test_a_dead_holder_of_another_node(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        end(held(tmp_path / "l", lease=True, lease_timeout=600, node=NODE))
        lock = Lock(str(tmp_path / "l"), lease=True, lease_timeout=0.001)
        real = time.monotonic
        ahead = [0.0]
        monkeypatch.setattr(leases.time, "monotonic", lambda: real() + ahead[0])
        with pytest.raises(LockTimeout), lock.hold(0.05):
            pass  # its own timeout counts, and not that of who waits
        seen = leases.Lease(lock.path, 1, "")
        assert not seen.try_acquire()
        ahead[0] = 601.0
        assert seen.try_acquire()
        assert "was not renewed" in caplog.text
        seen.release("")

    def test_a_living_one_renews_it(self, tmp_path: Path) -> None:
        lease = leases.Lease(str(tmp_path), 0.05, NODE)
        assert lease.try_acquire()
        first = leases.read_record(str(tmp_path / "lease.1"))
        wait_until(lambda: leases.read_record(str(tmp_path / "lease.1")) not in ({}, first))
        lease.release("")
        assert leases.read_record(str(tmp_path / "lease.1"))["state"] == "released"

    @pytest.mark.parametrize("atomic", [False, True])
    def test_one_that_was_given_away_is_noticed(self, tmp_path: Path, atomic: bool) -> None:
        shared = SerialWriter(tmp_path / "x", lease=True, atomic=atomic)
        with pytest.raises(LeaseLost), shared as file:
            file.write("text")
            (tmp_path / "x.lock" / "lease.2").touch()
            (tmp_path / "x.lock" / "holder").write_text("another one's")
        assert (tmp_path / "x").exists() is not atomic
        assert (tmp_path / "x.lock" / "holder").read_text() == "another one's"
        assert not list((tmp_path / "x.lock").glob("copy-*"))

    def test_who_lists_late_gets_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for generation in (5, 6, 7):
            leases.write_record(str(tmp_path / f"lease.{generation}"), {"state": "released"}, os.O_CREAT)
        late = leases.Lease(str(tmp_path), 600, "")
        real = os.listdir
        lists = [["lease.3"]]
        monkeypatch.setattr(leases.os, "listdir", lambda path: lists.pop() if lists else real(path))
        leases.write_record(str(tmp_path / "lease.3"), {"state": "released"}, os.O_CREAT)
        assert not late.try_acquire()
        assert not (tmp_path / "lease.4").exists()

    def test_the_file_is_seen_as_it_was_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = str(tmp_path / "x")
        seals = ["absent", "1 2", "3 4", "5 6"]
        monkeypatch.setattr(locks, "seal_of", lambda path: seals.pop(0))
        locks.see_as_sealed(path, "3 4")
        assert seals == ["5 6"]
        locks.see_as_sealed(path, None)
        monkeypatch.setattr(locks, "seal_of", lambda path: "changed by hand")
        monkeypatch.setattr(locks, "SEE_TIMEOUT", 0.0)
        locks.see_as_sealed(path, "3 4")
        assert "changed without its lock" in caplog.text

    def test_the_seal(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        assert locks.seal_of(str(path)) == "absent"
        path.write_text("abc")
        assert locks.seal_of(str(path)) == f"3 {path.stat().st_mtime_ns}"

    def test_all_nodes_do_the_same(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = str(tmp_path / "l")
        with Lock(path, lease=True).hold(LIMIT):
            assert os.path.exists(f"{path}/lease.1")
        with Lock(path).hold(LIMIT):  # as the first one did
            assert os.path.exists(f"{path}/lease.2")
        with pytest.raises(OptionError, match="made for 'lease'"), Lock(path, lease=False).hold():
            pass
        monkeypatch.setattr(locks, "only_local", lambda path: "Lustre, mounted without flock")
        other = str(tmp_path / "other")
        with Lock(other, lease=False).hold(LIMIT):
            pass
        with pytest.raises(OptionError, match="Lustre, mounted without flock"), Lock(other).hold():
            pass

    def test_without_any_flock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locks, "has_flock", lambda path: False)
        with pytest.raises(OptionError, match="has no flock"), Lock(str(tmp_path / "a"), lease=False).hold():
            pass
        with Lock(str(tmp_path / "l")).hold(LIMIT):
            assert leases.read_record(str(tmp_path / "l" / "lease.1"))["node"] == ""
            assert not (tmp_path / "l" / "kernel").exists()

    @pytest.mark.parametrize(("number", "known"), [(38, False), (95, False), (37, False), (11, True)])
    def test_what_flock_answers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, known: bool
    ) -> None:
        def refuse(fd: int, how: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        assert locks.has_flock(str(tmp_path / "l")) is known


MOUNTS = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
2 1 0:40 / /home rw - nfs4 server:/home rw,vers=4.2,local_lock=none
3 1 0:41 / /old rw - nfs server:/old rw,vers=3,local_lock=all
4 1 0:42 / /lus/good rw,flock - lustre mgs:/l rw,flock
5 1 0:43 / /lus/local rw - lustre mgs:/l rw,localflock
6 1 0:44 / /bee rw - beegfs beegfs_nodev rw,cfgFile={configuration}
7 1 0:45 / /with\\040space rw - cifs //server/x rw,nobrl
8 1 0:46 / /ssh rw - fuse.sshfs host: rw
9 1 0:47 / /gluster rw - fuse.glusterfs host:/v rw
10 1 0:48 / /gpfs rw - gpfs gpfs0 rw
11 2 0:49 / /home/scratch rw - lustre mgs:/l rw
"""


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/tmp/x", ""),
        ("/home/user", ""),
        ("/homes/user", ""),
        ("/old/x", "NFS, mounted with local locks"),
        ("/lus/good/x", ""),
        ("/lus/local", "Lustre, mounted without flock"),
        ("/home/scratch/x", "Lustre, mounted without flock"),
        ("/with space/x", "SMB, mounted with nobrl"),
        ("/ssh/x", "fuse.sshfs, which may keep locks to itself"),
        ("/gluster/x", ""),
        ("/gpfs/x", ""),
    ],
)
def test_what_mount_options_tell(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    assert only_local(path, str(tmp_path / "mounts")) == reason


@pytest.mark.parametrize(("setting", "good"), [("true", True), ("false", False), (None, False)])
def test_what_beegfs_is_configured_for(tmp_path: Path, setting: str | None, good: bool) -> None:
    configuration = tmp_path / "client.conf"
    if setting:
        configuration.write_text(f"connAuth = 1\ntuneUseGlobalFileLocks = {setting}\n")
    (tmp_path / "mounts").write_text(MOUNTS.format(configuration=configuration))
    expected = "" if good else "BeeGFS without tuneUseGlobalFileLocks"
    assert only_local("/bee/x", str(tmp_path / "mounts")) == expected


def test_without_a_table_of_mounts(tmp_path: Path) -> None:
    assert only_local("/", str(tmp_path / "none")) == ""


class TestShards:
    """Each task its own file, put together in the end."""

    def values(self, path: Path) -> dict[str, int]:
        with h5py.File(path, "r") as file:
            assert all(list(file[f"{name}/value"]) == [int(name)] * 3 for name in file["shards"])
            return {name: int(each[()]) for name, each in file["shards"].items()}

    def test_they_come_together(self, tmp_path: Path) -> None:
        path = tmp_path / "x.h5"
        sharded = ShardedWriter(path, open=h5py.File, mode="a")
        assert sharded.merge().folded == 0
        with h5py.File(path, "w") as file:
            file["kept"] = 1
            file["1/value"] = "is replaced"
            file.attrs["by"] = "hand"
        for number in range(4):
            work.shard(str(path), number)
        with sharded as file:
            file.attrs["by"] = "shard"
        assert sharded.merge() == (5, [])
        assert sharded.merge() == (0, [])
        assert self.values(path) == {str(n): n for n in range(4)}
        with h5py.File(path, "r") as file:
            assert file["kept"][()] == 1
            assert file.attrs["by"] == "shard"
        assert os.listdir(tmp_path / "x.h5.shards") == []

    def test_unfinished_ones_are_told(self, tmp_path: Path) -> None:
        sharded = ShardedWriter(tmp_path / "x.txt")
        with sharded as file:
            file.write("one")
            merged = sharded.merge()
            assert merged.folded == 0
            assert [os.path.basename(path)[:5] for path in merged.unfinished] == ["part-"]
        with pytest.raises(ZeroDivisionError), sharded as file:
            _ = 1 / 0
        assert sharded.merge() == (1, [])

    @pytest.mark.parametrize("phase", work.MERGE_PHASES)
    def test_a_merge_can_be_killed(self, tmp_path: Path, phase: str) -> None:
        path = tmp_path / "x.h5"
        for number in range(3):
            work.shard(str(path), number)
        assert ShardedWriter(path, open=h5py.File, mode="a").merge().folded == 3
        for number in range(3, 6):
            work.shard(str(path), number)
        process = start(function="merge_and_die", path=str(path), phase=phase)
        process.communicate(timeout=LIMIT)
        assert process.returncode == -signal.SIGKILL
        assert set(self.values(path)) >= {"0", "1", "2"}
        ShardedWriter(path, open=h5py.File, mode="a").merge()
        assert self.values(path) == {str(n): n for n in range(6)}
        assert os.listdir(tmp_path / "x.h5.shards") == []

    @pytest.mark.parametrize("phase", ["intent written", "replaced", "removing"])
    def test_lines_do_not_come_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
    ) -> None:
        sharded = ShardedWriter(tmp_path / "x.csv")
        for number in range(3):
            with sharded as file:
                file.write(f"number\n{number}")

        class Killed(BaseException):
            pass

        def die() -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(work, "kill", die)
            for name in ("_write_intent", "replace", "remove"):  # to be put back afterwards
                patch.setattr(work.shards, name, getattr(work.shards, name))
            work.MERGE_PHASES[phase]()
            with pytest.raises(Killed):
                sharded.merge()
        SerialWriter(tmp_path / "x.csv").append_row([7])
        sharded.merge()
        lines = (tmp_path / "x.csv").read_text().split()
        assert sorted(line for line in lines if line != "number") == ["0", "1", "2", "7"]
        assert os.listdir(tmp_path / "x.csv.shards") == []

    def test_a_header_comes_once(self, tmp_path: Path) -> None:
        for mode, content in (("a", "a,b\n{}"), ("ab", b"a,b\n1\n")):
            path = tmp_path / f"{mode}.csv"
            sharded = ShardedWriter(path, open=open, mode=mode)
            for _ in range(3):
                with sharded as file:
                    file.write(content)
            sharded.merge()
            assert path.read_text().count("a,b\n") == 1
            assert len(path.read_text().splitlines()) == 4

    def test_a_fold_of_ones_own(self, tmp_path: Path) -> None:
        def attach(db: sqlite3.Connection, path: str) -> None:
            with sqlite3.connect(path) as shard:
                rows = shard.execute("select a from t").fetchall()
            shard.close()
            db.execute("create table if not exists t (a)")
            db.executemany("insert into t values (?)", rows)

        sharded = ShardedWriter(tmp_path / "x.db", open=sqlite3.connect, fold=attach)
        for number in range(3):
            with sharded as db:
                db.execute("create table t (a)")
                db.execute("insert into t values (?)", [number])
        assert sharded.merge().folded == 3
        with SerialWriter(tmp_path / "x.db", open=sqlite3.connect) as db:
            assert db.execute("select a from t order by a").fetchall() == [(0,), (1,), (2,)]

    def test_a_format_that_nobody_told_how_to_fold(self, tmp_path: Path) -> None:
        sharded = ShardedWriter(tmp_path / "x.db", open=sqlite3.connect)
        with sharded as db:
            db.execute("create table t (a)")
        with pytest.raises(TypeError, match="say fold="):
            sharded.merge()
        assert not (tmp_path / "x.db").exists()
        assert len(os.listdir(tmp_path / "x.db.shards")) == 1

    def test_a_fold_that_fails_changes_nothing(self, tmp_path: Path) -> None:
        def fail(target: Any, path: str) -> None:
            target.write("half")
            raise KeyError(path)

        path = tmp_path / "x.txt"
        path.write_text("old\n")
        with ShardedWriter(path) as file:
            file.write("new\n")
        with pytest.raises(KeyError):
            ShardedWriter(path, fold=fail).merge()
        assert path.read_text() == "old\n"
        assert ShardedWriter(path).merge().folded == 1
        assert path.read_text() == "old\nnew\n"


def do_once(key: str, directory: str | None, log: str) -> bool:
    """A task: note that it was this one that did it."""
    with once(key, directory, LIMIT) as mine:
        if mine:
            SerialWriter(log).append_line("done")
        return mine


class TestOnce:
    """One does it, the others wait."""

    @pytest.mark.parametrize("key", ["config", "a/b\n../../x", "k" * 300])
    def test_one_of_many_threads(self, tmp_path: Path, key: str) -> None:
        results: list[bool] = []

        def run() -> None:
            results.append(do_once(key, str(tmp_path / "notes"), str(tmp_path / "log")))

        threads = [threading.Thread(target=run) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert sorted(results) == [False] * 4 + [True]
        assert (tmp_path / "log").read_text() == "done\n"
        assert len(os.listdir(tmp_path / "notes")) == 1

    def test_the_others_wait(self, tmp_path: Path) -> None:
        with once("key", tmp_path):
            with pytest.raises(LockTimeout):
                threaded(lambda: once("key", tmp_path, timeout=0.05).__enter__())
            assert threaded(lambda: do_once("other", str(tmp_path), str(tmp_path / "log")))

    def test_who_fails_has_not_done_it(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), once("key", tmp_path):
            _ = 1 / 0
        with once("key", tmp_path) as mine:
            assert mine

    def test_another_one_does_it_for_the_dead(self, tmp_path: Path) -> None:
        end(held(tmp_path / "key.once"))
        with once("key", tmp_path, LIMIT) as mine:
            assert mine
        with once("key", tmp_path, LIMIT) as mine:
            assert not mine

    def test_a_node_that_is_late_to_see_it_looks_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with once("key", tmp_path):
            pass
        real = os.listdir
        changed: list[str] = []  # what tells an NFS client that it has to ask
        note = lambda **options: changed.append(options["dir"]) or nullcontext()
        monkeypatch.setattr(writer.tempfile, "NamedTemporaryFile", note)
        monkeypatch.setattr(os, "listdir", lambda path: real(path) if changed else [])
        monkeypatch.setattr(os.path, "exists", lambda path: False)
        with once("key", tmp_path, LIMIT) as mine:
            assert not mine
        assert changed == [str(tmp_path / "key.once")]

    def test_tasks_of_a_run(self, tmp_path: Path) -> None:
        for _ in range(2):  # each run does it anew
            with LocalExecutor(2, keep="never") as ex:
                futures = [ex.submit(do_once, "key", None, str(tmp_path / "log")) for _ in range(6)]
                assert sorted(future.result(LIMIT) for future in futures) == [False] * 5 + [True]
        assert (tmp_path / "log").read_text() == "done\ndone\n"

    def test_outside_of_a_task(self) -> None:
        with pytest.raises(ValueError, match="needs a directory"), once("key"):
            pass


def threaded(function: Callable[[], Any]) -> Any:
    """What `function` returns or raises in a thread of its own."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(), None))
        except Exception as error:  # handed on
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def checked(*directories: Path) -> list[str]:
    """What two processes that check at the same time print."""
    script = "import sys; from clusterfutures import check_locks; print(check_locks(sys.argv[1], 40))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(directory)], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE
        )
        for directory in directories
    ]
    return [process.communicate(timeout=LIMIT)[0] for process in processes]


class TestCheck:
    """Two that try."""

    def test_where_locks_work(self, tmp_path: Path) -> None:
        lines = checked(tmp_path, tmp_path)
        assert all(line.endswith(": locks work\n") for line in lines), lines
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("can_lock", "problem"),
        [
            ([True, True], "both had it at the same time"),
            ([False, False], "it was released, and not to be had"),
            ([False, True], ""),
        ],
    )
    def test_verdicts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_lock: list[bool], problem: str
    ) -> None:
        monkeypatch.setattr("clusterfutures.writing.lockcheck._can_lock", lambda path: can_lock.pop(0))
        results: list[Any] = []
        other = threading.Thread(target=lambda: results.append(check_locks(tmp_path, LIMIT)))
        other.start()
        results.append(check_locks(tmp_path, LIMIT))
        other.join(LIMIT)
        assert [result.problem for result in results] == [problem] * 2
        assert [result.works for result in results] == [not problem] * 2

    def test_nobody_comes(self, tmp_path: Path) -> None:
        with pytest.raises(TimeoutError, match="somebody on another node"):
            check_locks(tmp_path, 0.1)
        assert not list(tmp_path.iterdir())


def test_the_benchmark() -> None:
    command = [sys.executable, "benchmarks/writer.py", "--quick", "--seconds", "0.05"]
    done = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert [row[:2] for row in rows] == [
        [str(contenders), way] for contenders in (1, 10, 50) for way in ("filelock", "Lock", "append_line")
    ]
    assert all(float(cell) >= 0 for row in rows for cell in row[2:] if cell != "-")


def test_holder_in_words() -> None:
    holder = Holder("n1", 12, None, 0.0)
    assert str(holder) == "process 12 on n1 since 1970-01-01 00:00:00 UTC"
    assert str(holder._replace(job="7")) == "process 12 on n1 (job 7) since 1970-01-01 00:00:00 UTC"


CACHED = "attr_timeout=10,entry_timeout=10,negative_timeout=10"


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[Path]]:
    """One directory, mounted twice by a file system that shows what the other did ten seconds late."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this machine has no FUSE")
    if shutil.which("bindfs") is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("needs bindfs: apt-get install bindfs")
    (tmp_path / "real").mkdir()
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.mkdir()
        subprocess.run(["bindfs", "-o", CACHED, str(tmp_path / "real"), str(path)], check=True)
    yield paths
    for path in paths:
        subprocess.run(["fusermount", "-u", str(path)], check=True)


@pytest.mark.long
@pytest.mark.timeout(300)
class TestLateFileSystem:
    """Two mounts whose kernels' locks mean nothing to each other, and that see each other's files late."""

    def test_the_check_finds_out(self, mounts: list[Path]) -> None:
        assert all("both had it" in line for line in checked(*mounts))

    @pytest.mark.parametrize("atomic", [False, True])
    def test_records_are_there_once(self, mounts: list[Path], atomic: bool) -> None:
        options = {"atomic": atomic, "lease_timeout": 20}
        processes = [
            start(path=str(path / "log"), way="line", members=3, entries=2, records=50, options=options)
            for path in mounts
        ]
        for process in processes:
            out, _ = process.communicate(timeout=280)
            assert json.loads(out) == {"0": 0, "1": 0, "2": 0}
        found = entries_in(mounts[0].parent / "real" / "log")
        assert sorted(found) == sorted(2 * [(n, e) for n in range(3) for e in range(2)])

    def test_a_holder_that_dies_on_the_other_mount(self, mounts: list[Path]) -> None:
        process = held(mounts[0] / "l", lease_timeout=12)
        with pytest.raises(LockTimeout), Lock(str(mounts[1] / "l"), lease_timeout=12).hold(1):
            pass
        end(process)
        with Lock(str(mounts[1] / "l"), lease_timeout=12).hold(120) as hold:
            assert hold.previous is not None
