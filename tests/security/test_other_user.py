"""What another user of the same machine can do to a run: nothing."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import LocalExecutor, SlurmExecutor, TorqueExecutor, payload, reattach, wire
from clusterfutures.doorbell import Doorbell, Event
from clusterfutures.line import Line
from clusterfutures.logs import frame
from clusterfutures.records import BROKEN, STARTED, Started
from clusterfutures.wire import Identity
from tests.security.others import OTHER
from tests.support import MARK_VALUE

LIMIT = 30.0

AsOther = Callable[[Callable[[], object]], str]


@pytest.fixture
def pool(commons: Path) -> Iterator[LocalExecutor]:
    """An executor at work, whose run directory lies where everybody can get at it."""
    with LocalExecutor(1, run_dir=commons / "run", keep="always") as pool:
        assert pool.submit(abs, -1).result(LIMIT) == 1
        yield pool


# ---- the run directory ----------------------------------------------------------------------------


def attempts(run: str, names: list[str]) -> Iterator[tuple[str, Callable[[], object]]]:
    """What one could try to do to a run directory with files of these names."""
    theirs = f"{run}-theirs"
    Path(theirs).touch()
    yield "list", lambda: os.listdir(run)
    yield "enter", lambda: os.chdir(run)
    yield "open to all", lambda: os.chmod(run, 0o777)
    yield "make a file", lambda: Path(run, "mine").touch()
    yield "make a directory", lambda: os.mkdir(f"{run}/jobs/1")
    yield "sit on a socket's path", lambda: socket.socket(socket.AF_UNIX).bind(f"{run}/bell2")
    for name in names:
        path = f"{run}/{name}"
        yield f"read {name}", lambda path=path: Path(path).read_bytes()  # type: ignore[misc]
        yield f"write {name}", lambda path=path: Path(path).write_bytes(b"")  # type: ignore[misc]
        yield f"remove {name}", lambda path=path: os.unlink(path)  # type: ignore[misc]
        yield f"replace {name}", lambda path=path: os.rename(theirs, path)  # type: ignore[misc]
        yield f"look at {name}", lambda path=path: os.stat(path)  # type: ignore[misc]
        yield f"link {name}", lambda path=path: os.link(path, f"{run}-link")  # type: ignore[misc]
        yield f"connect to {name}", lambda path=path: socket.socket(socket.AF_UNIX).connect(path)  # type: ignore[misc]


def test_the_run_directory_is_closed(as_other: AsOther, pool: LocalExecutor) -> None:
    run = Path(pool.run_dir)
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    assert {"key", "bell", "driver", "jobs/0/spec", "jobs/0/0.0/0.0/out.000000"} <= {*names}

    def succeeded() -> list[str]:
        found = []
        for what, attempt in attempts(pool.run_dir, names):
            with contextlib.suppress(PermissionError):
                attempt()
                found.append(what)
        return found

    assert as_other(succeeded) == "[]"
    assert "belongs to user" in as_other(partial(reattach, pool.run_dir))
    assert pool.submit(abs, -2).result(LIMIT) == 2


def test_what_is_short_enough_for_a_socket_is_closed_too(
    as_other: AsOther, commons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run directory with a long path has its socket elsewhere."""
    made: list[str] = []
    make = Doorbell.__init__

    def watched(bell: Doorbell, key: bytes, **where: Any) -> None:
        made.append(where["path"])
        make(bell, key, **where)

    monkeypatch.setattr(Doorbell, "__init__", watched)
    with LocalExecutor(1, run_dir=commons / ("long" * 30)) as pool:
        assert pool.submit(abs, -1).result(LIMIT) == 1
        [path] = made
        assert not path.startswith(str(commons))
        info = os.stat(os.path.dirname(path))
        assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o700, os.geteuid())
        for attempt in (
            lambda: socket.socket(socket.AF_UNIX).connect(path),
            lambda: os.rename(os.path.dirname(path), f"{commons}/mine"),
            lambda: os.listdir(os.path.dirname(path)),
        ):
            assert as_other(attempt).startswith("PermissionError")


def test_a_socket_in_an_open_directory(as_other: AsOther, commons: Path) -> None:
    """Where everybody may enter, the socket's own mode keeps others out; the path may be taken already."""
    bell = Doorbell(bytes(32), path=str(commons / "bell"))
    try:
        found = as_other(lambda: socket.socket(socket.AF_UNIX).connect(str(commons / "bell")))
        assert found.startswith("PermissionError")
    finally:
        bell.close()
    assert as_other(lambda: socket.socket(socket.AF_UNIX).bind(str(commons / "bell"))) == "None"
    with pytest.raises(OSError, match="in use"):
        Doorbell(bytes(32), path=str(commons / "bell"))


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("doorbell", [True, False])
def test_a_run_directory_that_was_exchanged(
    as_other: AsOther, commons: Path, tmp_path: Path, doorbell: bool
) -> None:
    """By whoever may write to the directory above: nothing of what is his is loaded."""
    pool = LocalExecutor(1, run_dir=commons / "run", keep="always", doorbell=doorbell)
    worker = "run/jobs/0/0.0/0.0"
    files = {
        "run/key": bytes(32),
        "run/jobs/0/0.0/out.000000": frame(STARTED, Started(0, 0, 1).pack()),
        f"{worker}/out.000000": frame(BROKEN, payload.dumps_result(Bomb(str(tmp_path / "trace")))),
    }

    def exchange() -> None:
        os.chdir(commons)
        os.rename("run", "old")
        os.makedirs(worker)
        for path, content in files.items():
            Path(path).write_bytes(content)
        os.chmod("run/key", 0o600)

    assert as_other(exchange) == "None"
    try:
        error = pool.submit(abs, -1).exception(LIMIT)
    except OSError as problem:  # found while it is submitted
        error = problem
    assert isinstance(error, (OSError, BrokenProcessPool)), error
    assert f"belongs to user {OTHER}" in f"{error} {error.__cause__}"
    pool.shutdown()
    for process in pool._session.scheduler._processes.values():  # type: ignore[attr-defined]
        process.wait(LIMIT)  # the driver has given up, and looks after nobody
    assert not (tmp_path / "trace").exists()
    shutil.rmtree(commons / "run")


# ---- the key --------------------------------------------------------------------------------------


def shapes(key: bytes) -> list[bytes]:
    """The key as somebody might write it down, and parts of that."""
    forms = [key, key.hex().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key)]
    forms += [repr(key)[2:-1].encode(), repr(list(key)).encode(), str(int.from_bytes(key, "big")).encode()]
    return [form[2:16] for form in forms]


def told_by_the_system() -> dict[str, bytes]:
    """All command lines and environments of this machine."""
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            for name in ("cmdline", "environ"):
                found[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    return found


def its_processes(pool: LocalExecutor) -> list[int]:
    """The worker and its supervisor."""
    return [pool.submit(work).result(LIMIT) for work in (os.getpid, os.getppid)]


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="looks into /proc")
def test_the_key_is_in_no_command_line_and_no_environment(pool: LocalExecutor) -> None:
    key = Path(pool.run_dir, "key").read_bytes()
    told = told_by_the_system()
    for pid in its_processes(pool):
        assert MARK_VALUE.encode() in told[f"/proc/{pid}/environ"], "what is there is found"
    assert [name for name, text in told.items() if any(form in text for form in shapes(key))] == []


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="looks into /proc")
def test_nor_could_another_user_read_them_or_end_them(as_other: AsOther, pool: LocalExecutor) -> None:
    for pid in (os.getpid(), *its_processes(pool)):
        assert as_other(partial(os.kill, pid, signal.SIGTERM)).startswith("PermissionError")
        for name in ("environ", "mem"):
            found = as_other(partial(os.open, f"/proc/{pid}/{name}", os.O_RDONLY))
            assert found.startswith("PermissionError"), (pid, name)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: SlurmExecutor(2, **options),
        lambda **options: TorqueExecutor(2, dialect="torque", **options),
        lambda **options: TorqueExecutor(2, dialect="openpbs", **options),
    ],
    ids=["slurm", "torque", "openpbs"],
)
def test_nor_is_it_in_what_is_submitted(make: Callable[..., Any], tmp_path: Path) -> None:
    with make(run_dir=tmp_path / "run") as ex:
        key = (tmp_path / "run" / "key").read_bytes()
        text = os.fsencode(ex.explain())
        assert b"bootstrap.py" in text, "the command and the script"
        assert [form for form in shapes(key) if form in text] == []


# ---- the doorbell on the network ------------------------------------------------------------------


def test_a_doorbell_lets_nobody_in_without_the_key(as_other: AsOther) -> None:
    """What one can say without it; replays, forgeries and those in between are in tests/test_doorbell.py."""
    bell = Doorbell(os.urandom(32), host="127.0.0.1")
    port = int(bell.address.rpartition(":")[2])
    identity = Identity(1, pid=1)

    def knock() -> list[int]:
        """How many bytes came back to each of these."""
        heard = []
        guess = wire.Guest(wire.check_key(bytes(32)), wire.IDENTITY.pack(*identity))
        for words in (b"", b"GET / HTTP/1.1\r\n\r\n", guess.hello, guess.hello + bytes(wire._PROOF)):
            hung_up_on = contextlib.suppress(OSError)
            with socket.create_connection(("127.0.0.1", port), LIMIT) as sock, hung_up_on:
                sock.sendall(words)
                sock.shutdown(socket.SHUT_WR)
                heard.append(len(sock.recv(4096)))
        line = Line.start(bell.address, bytes(32), identity)
        end = time.monotonic() + LIMIT
        while not line.dead and time.monotonic() < end:
            line.receive(0.1)
        return [*heard, line.ready]

    answers: list[str] = []
    events: list[Event] = []
    thread = threading.Thread(target=lambda: answers.append(as_other(knock)))
    thread.start()
    try:
        deadline = time.monotonic() + 2 * LIMIT
        while thread.is_alive() and time.monotonic() < deadline:
            events += bell.poll(0.05)
    finally:
        bell.close()
        thread.join()
    assert events == [], "nobody was let in"
    *counts, ready = answers[0].strip("[]").split(", ")
    assert ready == "False"
    assert {*counts} <= {"0", str(wire._CHALLENGE)}
