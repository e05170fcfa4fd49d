"""The cells of docs/faults.rst that no other module has, on one machine; and the page's own names."""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest

from clusterfutures import LocalExecutor, TaskTimeout, WorkerLost, reattach, session
from clusterfutures.doorbell import Doorbell
from clusterfutures.line import Line
from clusterfutures.link import Lease
from clusterfutures.spool import RunDirectory
from clusterfutures.wire import Identity
from tests import fault_work
from tests import local_work as work
from tests.drivers import killed
from tests.support import REPOSITORY, ScriptResult, check_no_process_left, wait_until

LIMIT = 30.0  # seconds; whatever takes longer hangs


def seen(log: str, count: int) -> None:
    """Wait until so many lines were noted."""
    wait_until(lambda: len(work.notes(log)) >= count, LIMIT, lambda: work.notes(log))


def stopped(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


# ---- processes --------------------------------------------------------------------------------------


class TestWorker:
    """It is killed while it writes, or stands still."""

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
    def test_killed_amid_an_outcome(self, bell: bool, log: str, part: float) -> None:
        with LocalExecutor(1, doorbell=bell, keep="never") as pool:
            assert type(pool.submit(fault_work.die_writing, f"{log}-a", part).exception(LIMIT)) is WorkerLost
            again = pool.options(retries=1).submit(fault_work.die_writing, f"{log}-b", part)
            assert again.result(LIMIT) == f"{log}-b"
            assert [len(work.notes(f"{log}-{each}")) for each in "ab"] == [1, 2]

    def test_killed_when_its_outcome_is_written(self, bell: bool, log: str) -> None:
        with LocalExecutor(1, doorbell=bell, keep="never") as pool:
            assert pool.submit(fault_work.die_writing, log, 1.0).result(LIMIT) == log
            assert pool.submit(abs, -1).result(LIMIT) == 1
            assert len(work.notes(log)) == 1

    def test_stopped(self, bell: bool, log: str) -> None:
        """For good, it is ended by the time limit of its task; for a while, nothing comes of it."""
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            lasting = pool.options(timeout=0.3).submit(fault_work.stop, log)
            assert type(lasting.exception(LIMIT)) is TaskTimeout
            passing = pool.submit(fault_work.stop, log)
            seen(log, 2)
            pid = int(work.notes(log)[1])
            wait_until(lambda: stopped(pid), LIMIT)
            assert [pool.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]
            assert not passing.done()
            os.kill(pid, signal.SIGCONT)
            assert passing.result(LIMIT) is None

    def test_supervisor_stopped_for_a_while(self, bell: bool, log: str, gate: Path) -> None:
        """Results need no supervisor; what else has happened is told when it goes on."""
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            assert pool.wait_for_workers(2, LIMIT)
            doomed = pool.submit(work.note_and_wait, log, 0, str(gate))
            seen(log, 1)
            assert doomed.pid is not None
            supervisor = psutil.Process(doomed.pid).ppid()
            os.kill(supervisor, signal.SIGSTOP)
            try:
                assert [pool.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]
                os.kill(doomed.pid, signal.SIGKILL)
                assert not doomed.done()
            finally:
                os.kill(supervisor, signal.SIGCONT)
            assert type(doomed.exception(LIMIT)) is WorkerLost


STOPPED = """\
import os, signal, sys
from clusterfutures import LocalExecutor, WorkerLost
from tests import local_work as work
from tests.support import wait_until
log, gate, orphan = sys.argv[1:]
with LocalExecutor(1, doorbell=False, keep="never", orphan=orphan, orphan_timeout=1) as ex:
    futures = [ex.submit(work.note_and_wait, log, n, gate) for n in range(3)]
    wait_until(lambda: work.notes(log))
    work.note(log + "-pids", f"{os.getpid()} {futures[0].pid}")
    os.kill(os.getpid(), signal.SIGSTOP)
    for future in futures:
        error = future.exception()
        print("lost" if isinstance(error, WorkerLost) else future.result())
"""

TERMINATED = """\
ex.options(name="runs").submit(work.note_and_wait, log, "runs", gate)
begun(1)
ex.submit(abs, -2)
ex.flush()
"""


class TestDriver:
    """It is stopped for longer than its workers wait for it, or ended in the usual way."""

    @pytest.mark.parametrize(("orphan", "first"), [("drain", "0"), ("kill", "lost")])
    def test_stopped_until_its_workers_have_gone(
        self, run: Callable[..., ScriptResult], log: str, gate: Path, orphan: str, first: str
    ) -> None:
        """By polling: a line that is open tells the workers that their driver lives."""

        def let_go_on() -> None:
            seen(f"{log}-pids", 2)
            driver, worker = map(int, work.notes(f"{log}-pids"))
            wait_until(lambda: stopped(driver), LIMIT)
            if orphan == "drain":
                gate.touch()
            wait_until(lambda: not psutil.pid_exists(worker) or is_zombie(worker), LIMIT)
            gate.touch()
            os.kill(driver, signal.SIGCONT)

        helper = threading.Thread(target=let_go_on)
        helper.start()
        try:
            result = run(STOPPED, log, str(gate), orphan).check()
        finally:
            helper.join(LIMIT)
        assert result.stdout.split() == [first, "1", "2"]
        assert sorted(work.notes(log)) == ["0", "1", "2"], "none ran twice"

    def test_sigterm(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """It is the end of the driver and no other's: the task that runs is finished, the rest is kept."""
        by = signal.SIGTERM
        run = killed(LocalExecutor, tmp_path, TERMINATED, by=by, doorbell=bell, orphan_timeout=0.5)
        gate.touch()
        check_no_process_left()
        with reattach(run) as pool:
            assert [future.result(LIMIT) for future in pool.futures] == ["runs", 2]
        assert work.notes(str(tmp_path / "notes")) == ["runs"]


def is_zombie(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


# ---- the doorbell -----------------------------------------------------------------------------------


class Cable:
    """Stands before a Unix socket and passes on what comes, until it is cut: then nothing gets through.

    As with a cable that is pulled out, neither side hears of that.
    """

    def __init__(self, path: str, target: str) -> None:
        self.cut = False
        self._target = target
        self._ends: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                below, _ = self._listener.accept()
            except OSError:
                return
            above = socket.socket(socket.AF_UNIX)
            above.connect(self._target)
            self._ends += [below, above]
            for source, sink in ((below, above), (above, below)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                if not self.cut:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all of it, as a machine on the way that is switched off."""
        for each in (self._listener, *self._ends):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class TestDoorbell:
    """What others do to it, while tasks run."""

    def test_flood_garbage_and_wrong_keys(self, tmp_path: Path, gate: Path, log: str) -> None:
        randomness = random.Random(7)
        with LocalExecutor(2, keep="never", run_dir=tmp_path / "run") as pool:
            held = pool.submit(work.note_and_wait, log, 0, str(gate))
            seen(log, 1)
            path = RunDirectory(pool.run_dir, shared=False).bell
            address = Lease.read(RunDirectory(pool.run_dir, shared=False)).address
            over = threading.Event()

            def flood() -> None:
                while not over.is_set():
                    with socket.socket(socket.AF_UNIX) as stranger, suppress(OSError):
                        stranger.connect(path)
                        stranger.sendall(randomness.randbytes(randomness.randrange(1, 5000)))
                    forger = Line.start(address, randomness.randbytes(32), Identity(1, 0, 0, 0, 0, 0, 1))
                    forger.receive(0.001)
                    forger.close()

            thread = threading.Thread(target=flood)
            thread.start()
            try:
                assert [pool.submit(abs, -n).result(LIMIT) for n in range(50)] == [*range(50)]
                assert list(pool.map(abs, range(1000), timeout=LIMIT)) == [*range(1000)]
            finally:
                over.set()
                thread.join()
            gate.touch()
            assert held.result(LIMIT) == 0

    def test_cut_while_tasks_run(
        self, tmp_path: Path, gate: Path, log: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Outcomes and new tasks are found by looking; and when the line breaks for good, too."""
        cables: list[Cable] = []

        class Behind(Doorbell):
            """Tells the workers the address of a cable to it."""

            def __init__(self, key: bytes, *, path: str) -> None:
                super().__init__(key, path=path)
                cables.append(Cable(f"{path}-cable", path))
                self.address += "-cable"

        monkeypatch.setattr(session, "Doorbell", Behind)
        with LocalExecutor(1, keep="never", run_dir=tmp_path / "run") as pool:
            running = pool.submit(work.note_and_wait, log, 0, str(gate))
            seen(log, 1)
            (cable,) = cables
            watch = pool._session._watch
            assert watch is not None
            wait_until(lambda: not watch._mute, LIMIT, "the worker's call")
            cable.cut = True
            gate.touch()
            assert running.result(LIMIT) == 0
            cable.close()
            assert [pool.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]

    def test_its_place_is_taken(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pool = LocalExecutor(1, keep="never", run_dir=tmp_path / "run")
        with pool, socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(RunDirectory(pool.run_dir, shared=False).bell)
            assert pool.submit(abs, -1).result(LIMIT) == 1
        (told,) = caplog.messages
        assert "no doorbell" in told


# ---- files ------------------------------------------------------------------------------------------


class TestFiles:
    """What becomes of the files of a run."""

    def test_run_directory_removed(self, bell: bool, tmp_path: Path, gate: Path, log: str) -> None:
        """What was submitted ends; what needs the directory again says so; nobody stays."""
        pool = LocalExecutor(2, doorbell=bell, keep="never", run_dir=tmp_path / "run")
        futures = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(4)]
        seen(log, 2)
        shutil.rmtree(pool.run_dir)
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == [0, 1, 2, 3]
        pool.shutdown()
        assert sorted(work.notes(log)) == ["0", "1", "2", "3"]
        check_no_process_left()

    def test_damaged_outcomes(self, tmp_path: Path) -> None:
        """Cut or with a flipped bit, at any place: what is whole counts, the rest is run again."""
        run = killed(
            LocalExecutor,
            tmp_path,
            """
ex.scale(1)
wait([ex.options(retries=3).submit(pow, 2, n) for n in range(4)])
""",
            orphan_timeout=0.5,
        )
        check_no_process_left()
        (outbox,) = run.glob("jobs/0/0.0/0.0/out.000000")
        size, randomness = outbox.stat().st_size, random.Random(7)
        for number in range(4):
            copy = tmp_path / f"copy{number}"
            shutil.copytree(run, copy, ignore=shutil.ignore_patterns("bell"))
            copy.chmod(0o700)
            damage(copy / outbox.relative_to(run), randomness.randrange(size), cut=number % 2 == 0)
            with reattach(copy) as pool:
                assert [future.result(LIMIT) for future in pool.futures] == [1, 2, 4, 8]

    def test_stale_files(self, bell: bool, tmp_path: Path) -> None:
        """Whatever an interrupted write has left behind is passed over, in the run and when it goes on."""
        text = "assert ex.submit(abs, -1).result(60) == 1\nex.submit(abs, -2)\nex.flush()"
        run = killed(LocalExecutor, tmp_path, text, doorbell=bell, orphan_timeout=0.5)
        check_no_process_left()
        files = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith("lease.")]
        for path in files:  # leases are written in place
            for name in (f"{path}.1.abcdef12.part", f"{path}.part"):
                Path(name).write_bytes(b"half of it")
        with reattach(run) as pool:
            assert [future.result(LIMIT) for future in pool.futures] == [1, 2]
            assert pool.submit(abs, -3).result(LIMIT) == 3


def damage(path: Path, place: int, cut: bool) -> None:
    """Cut a file at `place`, or flip a bit there."""
    if cut:
        os.truncate(path, place)
        return
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def test_clock_set_apart(bell: bool) -> None:
    if shutil.which("faketime") is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("needs faketime: apt-get install faketime")
    python = ["faketime", "-f", "+20m", sys.executable]
    with LocalExecutor(1, doorbell=bell, python=python, keep="never") as pool:
        future = pool.submit(time.time)
        assert future.result(LIMIT) - time.time() > 600
        assert future.wall_time is not None
        assert 0 <= future.wall_time < 600


# ---- the page ---------------------------------------------------------------------------------------

WHEN = {"started", "queued", "running", "written", "closing"}
NAME = re.compile(r"``([\w/]+)::(\w+)``")


def rows() -> list[list[str]]:
    """The rows of all tables of the page, each a list of its cells."""
    text = (REPOSITORY / "docs" / "faults.rst").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^   \* -(.*(?:\n     .*)*)", text)
    return [[" ".join(cell.split()) for cell in re.split(r"(?m)^     -", row)] for row in found]


@cache
def functions(module: str) -> set[str]:
    """The names of the tests in a module below ``tests/``."""
    tree = ast.parse((REPOSITORY / "tests" / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_cell_of_the_page_names_its_tests() -> None:
    table = [row for row in rows() if row[0] != "What breaks"]
    assert len(table) > 40
    for row in table:
        assert len(row) == 5, row
        assert row[1] in WHEN, row
        for cell in row[3:]:
            named = NAME.findall(cell)
            assert cell in ("open", "none") or NAME.sub("", cell).strip(" ,") == "", row
            for module, name in named:
                assert name in functions(module), f"{module}::{name}"
