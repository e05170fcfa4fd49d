"""What befalls programs that use an executor: they are killed, stopped, interrupted, cut off and shouted at.

The tests of the fault matrix on one machine and on clusters have these scenarios in common.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional
from unittest import mock

import psutil

from clusterfutures import TaskKilled, WorkerLost, session
from clusterfutures.doorbell import Doorbell
from clusterfutures.executor import ClusterExecutor
from clusterfutures.futures import ClusterFuture
from clusterfutures.line import Line, _parse
from clusterfutures.link import Lease
from clusterfutures.records import STOP
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.wire import Identity, session_on
from tests import local_work as work
from tests.support import REPOSITORY, ScriptResult, wait_until

LIMIT = 120.0  # seconds; whatever takes longer hangs

# ---- programs ---------------------------------------------------------------------------------------

# What each of them begins with.
BEGINNING = """
import os, signal, sys, threading, time
from concurrent.futures import Future, wait
from clusterfutures import Retries, current_task, watch
from {module} import {name}
from tests import local_work as work
from tests.support import wait_until

place, options = sys.argv[1], eval(sys.argv[2])
log, gate = place + "/notes", place + "/open"

def twice(n):
    return 2 * n

def begun(count):
    wait_until(lambda: len(work.notes(log)) >= count, 60)

ex = {name}(2, run_dir=place + "/run", keep="always", **options)
"""
END = "\nos.kill(os.getpid(), signal.{})\n"


class Driver:
    """A program that has an executor `ex` of this kind, and does `text`; a context manager, which ends it.

    `place` is where it notes what it does, and where the file ``open`` lets its tasks go on; `path` comes
    before PATH, and the words `within` before the command, which they become.
    """

    def __init__(
        self,
        kind: type[ClusterExecutor],
        place: Path,
        text: str,
        path: str = "",
        within: Sequence[str] = (),
        **options: object,
    ) -> None:
        self.run, self.log, self.gate = place / "run", str(place / "notes"), place / "open"
        self._said = [place / "stdout", place / "stderr"]
        script = place / "driver.py"
        script.write_text(BEGINNING.format(module=kind.__module__, name=kind.__name__) + text, "utf-8")
        with self._said[0].open("wb") as out, self._said[1].open("wb") as err:
            self.process = subprocess.Popen(
                [*within, sys.executable, str(script), str(place), repr(options)],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": path + os.environ["PATH"]},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, note: str) -> None:
        """Wait until it, or one of its tasks, has noted this."""
        wait_until(lambda: note in work.notes(self.log) or self._has_ended(), LIMIT, self._so_far)
        assert note in work.notes(self.log), self._so_far()

    def wait_stopped(self) -> None:
        """Wait until it has stopped itself."""
        process = psutil.Process(self.process.pid)
        wait_until(
            lambda: process.status() == psutil.STATUS_STOPPED or self._has_ended(), LIMIT, self._so_far
        )
        assert not self._has_ended(), self._so_far()

    def end(self) -> ScriptResult:
        """Wait for its end; how that was, and what it has said."""
        wait_until(self._has_ended, LIMIT, self._so_far)
        return self._result()

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def _result(self) -> ScriptResult:
        said = [path.read_text("utf-8", "replace") for path in self._said]
        return ScriptResult(self.process.returncode, *said)

    def _so_far(self) -> str:
        return f"{work.notes(self.log)} {self._result().report()}"


def killed(
    kind: type[ClusterExecutor],
    place: Path,
    text: str,
    path: str = "",
    by: signal.Signals = signal.SIGKILL,
    **options: object,
) -> Path:
    """Run such a program until it is killed, by itself if nobody else does it; the directory of its run."""
    with Driver(kind, place, text + END.format(by.name), path, **options) as driver:
        ended = driver.end()
    assert ended.returncode == -by, ended.report()
    return driver.run


# One task runs and one has not begun when the program is ended.
TERMINATED = """
ex.options(name="runs").submit(work.note_and_wait, log, "runs", gate)
begun(1)
ex.submit(abs, -2)
ex.flush()
"""

# The first of three runs when it stops, on a worker that has called if there is a doorbell.  It says what has
# come of them when it goes on.
STOPPED = """
from tests.drivers import connected
ex.scale(1)
futures = [ex.submit(work.note_and_wait, log, n, gate) for n in range(3)]
begun(1)
if options.get("doorbell", True):
    connected(ex, 2)
os.kill(os.getpid(), signal.SIGSTOP)
for future in futures:
    error = future.exception()
    print(future.result() if error is None else type(error).__name__)
ex.shutdown()
"""

# The first of two runs, and has said who runs it, when the program begins to close, of which it tells.
CLOSING = """
def tell():
    wait_until(lambda: ex._session.dispatcher.closing, 60)
    work.note(log, "closing")

threading.Thread(target=tell, daemon=True).start()
ex.scale(1)
for n in range(2):
    ex.submit(work.note_pids_and_sleep, log)
begun(2)
"""

# Where a program can be when it waits for its executor's end.
ENDS = {"shutdown": "ex.shutdown()", "with": "with ex:\n    pass", "exit": ""}


def interrupt_twice(kind: type[ClusterExecutor], place: Path, where: str, **options: Any) -> ScriptResult:
    """Interrupt a program while it closes, and again while it waits for the end of what it runs; how it ends.

    If it went on waiting, it would wait for ever: the supervisor stands still until it has ended.
    """
    patience = "watch.CANCEL_AFTER = work.LONG\n"  # else the scheduler would be asked to end the job
    with Driver(kind, place, patience + CLOSING + ENDS[where], **options) as driver:
        driver.wait_for("closing")
        supervisor = int(work.notes(driver.log)[1])
        os.kill(supervisor, signal.SIGSTOP)
        try:
            driver.process.send_signal(signal.SIGINT)
            wait_until(lambda: _told_to_stop(driver.run), LIMIT, "the order to end")
            driver.process.send_signal(signal.SIGINT)
            return driver.end()
        finally:
            os.kill(supervisor, signal.SIGCONT)


def _told_to_stop(run: Path) -> bool:
    """Whether the first supervisor of a run is to end all that it has started."""
    reader = RunDirectory(str(run), shared=True).inbox_reader(WorkerRef(0, 0))
    try:
        return any(frame.kind == STOP for frame in reader.read(final=True))
    finally:
        reader.close()


# ---- the doorbell -----------------------------------------------------------------------------------

Passing = tuple[bytes, bytes]
"""What is passed on of something that was said, and what is sent back to who has said it."""


def faithful(data: bytes) -> Passing:
    """As it was said."""
    return data, b""


def replayed(data: bytes) -> Passing:
    """All of it twice."""
    return 2 * data, b""


def changed(data: bytes) -> Passing:
    """With one bit flipped."""
    return bytes([data[0] ^ 1]) + data[1:], b""


def reflected(data: bytes) -> Passing:
    """To who has said it."""
    return b"", data


class Reordered:
    """What was said first comes after what was said second."""

    def __init__(self) -> None:
        self._first = b""

    def __call__(self, data: bytes) -> Passing:
        first, self._first = self._first, data
        return (data + first if first else b""), b""


class Cable:
    """Stands before a doorbell, and passes on what is said to and by those who call at its `address`.

    `forge` makes of what a caller says what is passed on, given also the number of the call; `calls` counts
    them.
    """

    def __init__(self, target: str) -> None:
        self.forge: Callable[[int, bytes], Passing] = lambda _, data: faithful(data)
        self.calls = 0
        self._is_cut = False
        ((self._family, self._target), *_) = _parse(target)
        self._listener = socket.socket(self._family)
        self._listener.bind(("127.0.0.1", 0) if self._family == socket.AF_INET else f"{self._target}-cable")
        self._listener.listen()
        place = self._listener.getsockname()
        self.address = f"unix:{place}" if isinstance(place, str) else "tcp:{}:{}".format(*place)
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def cut(self) -> None:
        """From now on nothing gets through, and neither side hears of that, nor of the end of the other."""
        self._is_cut = True

    def close(self) -> None:
        """End all calls, as a machine on the way that is switched off."""
        self._shut(self._listener)
        self._accepting.join()
        for end in self._ends:
            self._shut(end)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._ends):
            each.close()

    @staticmethod
    def _shut(sock: socket.socket) -> None:
        with suppress(OSError):  # the other side was faster
            sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                below, _ = self._listener.accept()
            except OSError:  # it is closed
                return
            above = socket.socket(self._family)
            self._ends += [below, above]
            try:
                above.connect(self._target)
            except OSError:  # nobody is there any more
                self._shut(below)
                continue
            number, self.calls = self.calls, self.calls + 1
            for source, sink, up in ((below, above, True), (above, below, False)):
                thread = threading.Thread(target=self._pass, args=(number, source, sink, up))
                self._threads.append(thread)
                thread.start()

    def _pass(self, number: int, source: socket.socket, sink: socket.socket, up: bool) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                onward, back = self.forge(number, data) if up else faithful(data)
                if not self._is_cut:
                    sink.sendall(onward)
                    source.sendall(back)
        if not self._is_cut:
            self._shut(sink)


@contextmanager
def cabled() -> Iterator[list[Cable]]:
    """Within it, whatever executor is made has its doorbell behind a cable; gives the cables."""
    cables: list[Cable] = []

    class Behind(Doorbell):
        def __init__(
            self, key: bytes, *, path: Optional[str] = None, host: Optional[str] = None, port: int = 0
        ) -> None:
            super().__init__(key, path=path, host=host, port=port)
            cables.append(Cable(self.address))
            self.address = cables[-1].address

    with mock.patch.object(session, "Doorbell", Behind):
        try:
            yield cables
        finally:
            for cable in cables:
                cable.close()


@contextmanager
def flooded(address: str) -> Iterator[None]:
    """Within it, strangers call this doorbell all the time, with garbage and with keys of their own."""
    randomness = random.Random(7)
    family, where = _parse(address)[0]
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            magic = randomness.choice([b"", session_on(family).magic])
            with socket.socket(family) as stranger, suppress(OSError):
                stranger.connect(where)
                stranger.sendall(magic + randomness.randbytes(randomness.randrange(1, 5000)))
            forger = Line.start(address, randomness.randbytes(32), Identity(1, 0, 0, 0, 0, 0, 1))
            forger.receive(0.001)
            forger.close()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def connected(pool: ClusterExecutor, lines: int) -> None:
    """Wait until there are so many lines to the doorbell of this executor."""
    watch = pool._session._watch
    assert watch is not None
    assert watch.bell is not None
    bell = watch.bell
    wait_until(lambda: len(bell._lines) - len(bell._strangers) == lines, LIMIT, lambda: bell)


def outlast_cut(pool: ClusterExecutor, cables: list[Cable], lines: int, log: str, gate: Path) -> None:
    """Cut off an executor for three from its workers, who have so many lines to it.

    Whatever they do or are told is found by looking; and so it is when the lines break for good, later.
    """
    ends = pool.submit(work.note_and_wait, log, "ends", str(gate))
    dies = pool.submit(work.note_pids_and_sleep, f"{log}-pids")
    is_killed = pool.submit(work.note_and_sleep, log, "is-killed", work.LONG)
    wait_until(lambda: len(work.notes(log)) + len(work.notes(f"{log}-pids")) == 4, LIMIT)
    connected(pool, lines)
    (cable,) = cables
    cable.cut()
    os.kill(int(work.notes(f"{log}-pids")[0]), signal.SIGKILL)
    assert type(dies.exception(LIMIT)) is WorkerLost
    assert is_killed.kill()
    assert type(is_killed.exception(LIMIT)) is TaskKilled
    gate.touch()
    assert ends.result(LIMIT) == "ends"
    assert pool.submit(abs, -1).result(LIMIT) == 1
    cable.close()
    futures = [pool.submit(abs, -n) for n in range(3)]
    assert [future.result(LIMIT) for future in futures] == [0, 1, 2]
    assert sorted(work.notes(log)) == ["ends", "is-killed"], "none ran twice"


def outlast_flood(pool: ClusterExecutor, lines: int, log: str, gate: Path) -> None:
    """Flood the doorbell of an executor for two: what runs goes on, and the second worker gets through.

    Then there are so many lines.
    """
    held = pool.submit(work.note_and_wait, log, "held", str(gate))
    wait_until(lambda: work.notes(log), LIMIT)
    with flooded(Lease.read(RunDirectory(pool.run_dir, shared=False)).address):
        assert pool.wait_for_workers(2, LIMIT)
        assert [pool.submit(abs, -n).result(LIMIT) for n in range(50)] == [*range(50)]
        assert list(pool.map(abs, range(1000), timeout=LIMIT)) == [*range(1000)]
        connected(pool, lines)
    gate.touch()
    assert held.result(LIMIT) == "held"


def outlast_forgeries(pool: ClusterExecutor, cables: list[Cable], log: str, gate: Path) -> None:
    """Forge what the four workers of one job say, each in another way: such lines end, and are made again."""

    def all_run(number: int) -> list[ClusterFuture[object]]:
        """A task on each worker, which waits for the gate of this number."""
        futures = [pool.submit(work.note_and_wait, log, number, f"{gate}{number}") for _ in range(4)]
        wait_until(lambda: work.notes(log).count(str(number)) == 4, LIMIT, lambda: work.notes(log))
        return futures

    def all_end(number: int, futures: list[ClusterFuture[object]]) -> None:
        Path(f"{gate}{number}").touch()
        assert [future.result(LIMIT) for future in futures] == [number] * 4

    futures = all_run(0)
    connected(pool, 5)
    (cable,) = cables
    before = cable.calls
    forgeries = iter((replayed, changed, reflected, Reordered()))
    ways: dict[int, Callable[[bytes], Passing]] = {}

    def forge(call: int, data: bytes) -> Passing:
        if call not in ways:
            ways[call] = next(forgeries, faithful) if call < before else faithful
        return ways[call](data)

    cable.forge = forge
    all_end(0, futures)
    all_end(1, all_run(1))  # a second message, for the one that is to come after it
    wait_until(lambda: cable.calls >= before + 4, LIMIT, lambda: cable.calls)
    connected(pool, 5)
    calls = cable.calls
    all_end(2, all_run(2))
    assert cable.calls == calls, "the new lines are good"
