"""Do locks on this file system reach other nodes?  Only two nodes that try can tell."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from typing import NamedTuple, Optional, Union

import filelock

from clusterfutures.writing.leases import read_record, write_record
from clusterfutures.writing.locks import has_flock

FOLDER = "clusterfutures-lock-check"
PAUSE = 0.05


class LockCheck(NamedTuple):
    """What `check_locks` found.

    Attributes: `works`, whether the one was kept out while the other held the lock, and let in afterwards;
    `here` and `there`, the host and process of both; `problem`, what went wrong in words, or "".
    """

    works: bool
    here: str
    there: str
    problem: str

    def __str__(self) -> str:
        verdict = "locks work" if self.works else f"locks do NOT work ({self.problem}); say lease=True"
        return f"between {self.here} and {self.there}: {verdict}"


def check_locks(directory: Union[str, os.PathLike[str]], timeout: float = 60.0) -> LockCheck:
    """Whether locks in `directory` work between two nodes; to be called on both of them, at about one time.

    On Slurm, for example::

        srun -N2 -n2 python -c "import clusterfutures as c; print(c.check_locks('/scratch/me'))"

    Both calls return the same verdict, each from its side.  A check of one node with itself says nothing
    about others.

    `timeout`: seconds to wait for each answer of the other one.  TimeoutError if it does not come; OSError
    if the directory cannot be written.
    """
    folder = os.path.join(os.fspath(directory), FOLDER)
    meeting = _Meeting(folder, timeout)
    try:
        return _hold(meeting) if meeting.is_first else _try(meeting)
    except TimeoutError:
        shutil.rmtree(folder, ignore_errors=True)  # the other one will find nobody, either
        raise


class _Meeting:
    """Two processes that talk through names in a directory, which a listing shows soonest."""

    def __init__(self, folder: str, timeout: float) -> None:
        self.folder = folder
        self._timeout = timeout
        self.here = f"{socket.gethostname()} (process {os.getpid()})"
        self._token = secrets.token_hex(8)
        self.is_first = self._wait_for(self._take_seat, "a seat: two others are at it") == "first"
        # All that is said has the token of the second one in its name: nobody answers somebody's ghost.
        self._word = "" if self.is_first else self._token

    def meet(self) -> str:
        """Wait for the other one; who it is."""
        if self.is_first:
            name = self._wait_for(lambda: self._listed("second."), "somebody on another node to call it, too")
            self._word = name.partition(".")[2]
            self.say("hello")
        else:
            name = f"{self.hear('hello')}.{self._word}"
        path = os.path.join(self.folder, name)
        return self._wait_for(lambda: read_record(path).get("who"), "the other one's name")

    def say(self, word: str) -> None:
        """Make `word` known."""
        path = os.path.join(self.folder, f"{word}.{self._word}")
        write_record(path, {"who": self.here}, os.O_CREAT)

    def hear(self, *words: str) -> str:
        """Wait until the other one has said one of these; which."""
        return self._wait_for(
            lambda: next((word for word in words if self._listed(f"{word}.{self._word}")), None),
            f"the other one to say {' or '.join(words)!r}; after a killed check, remove {self.folder}",
        )

    def _take_seat(self) -> Optional[str]:
        os.makedirs(self.folder, exist_ok=True)
        try:
            write_record(os.path.join(self.folder, "first"), {}, os.O_CREAT | os.O_EXCL)
            return "first"
        except FileExistsError:
            pass
        # Several may want to be the second: the name is the seat's, the token comes after it.
        try:
            write_record(os.path.join(self.folder, "taken"), {}, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return None
        write_record(os.path.join(self.folder, f"second.{self._token}"), {"who": self.here}, os.O_CREAT)
        return "second"

    def _listed(self, start: str) -> Optional[str]:
        return next((name for name in os.listdir(self.folder) if name.startswith(start)), None)

    def _wait_for(self, look: Callable[[], Optional[str]], what: str) -> str:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                seen = look()
            except FileNotFoundError:  # the other one gave up, or a former check is being removed
                seen = None
            if seen is not None:
                return seen
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.folder}: waited {self._timeout:.0f} s for {what}")
            time.sleep(PAUSE)


def _hold(meeting: _Meeting) -> LockCheck:
    there = meeting.meet()
    path = os.path.join(meeting.folder, "lock")
    supported = has_flock(path)
    lock = filelock.FileLock(path, thread_local=False) if supported else None
    if lock is not None:
        lock.acquire(blocking=False)
    meeting.say("held" if supported else "unsupported")
    during = meeting.hear("got-it", "kept-out")
    if lock is not None:
        lock.release()
    meeting.say("released")
    after = meeting.hear("got-it-then", "kept-out-then")
    shutil.rmtree(meeting.folder, ignore_errors=True)
    return _verdict(meeting.here, there, supported, during == "kept-out", after == "got-it-then")


def _try(meeting: _Meeting) -> LockCheck:
    there = meeting.meet()
    path = os.path.join(meeting.folder, "lock")
    supported = meeting.hear("held", "unsupported") == "held" and has_flock(path)
    kept_out = supported and not _can_lock(path)
    meeting.say("kept-out" if kept_out else "got-it")
    meeting.hear("released")
    let_in = supported and _can_lock(path)
    meeting.say("got-it-then" if let_in else "kept-out-then")
    return _verdict(meeting.here, there, supported, kept_out, let_in)


def _can_lock(path: str) -> bool:
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    lock.release()
    return True


def _verdict(here: str, there: str, supported: bool, kept_out: bool, let_in: bool) -> LockCheck:
    if not supported:
        problem = "the file system has no flock"
    elif not kept_out:
        problem = "both had it at the same time"
    elif not let_in:
        problem = "it was released, and not to be had"
    else:
        problem = ""
    return LockCheck(not problem, here, there, problem)
