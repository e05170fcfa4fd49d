"""Who waits for a lock, in which order: a directory with one file for each of them.

The order serves fairness only.  Whoever has the lock was given it by the kernel or a lease; a queue that is
seen late or wrongly lets somebody in before its turn, and nobody in at the same time.

A ticket's number is one more than the largest that was there, so that no clocks are compared.  Its owner
rewrites it now and then; one that stays as it is belongs to a process that is gone, as does one of this host
whose process is not there.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import NamedTuple

from clusterfutures.writing.leases import remove

TOUCH = 5.0
"""Seconds after which a ticket is rewritten."""

SILENCE = 6 * TOUCH
"""Seconds without that after which its owner counts as gone."""

DOUBT = 0.05
"""Seconds for which the same one is the first before it is looked at whether it lives."""


class _Sight(NamedTuple):
    """What a ticket of somebody else contained, since when, and when it was last read (monotonic)."""

    content: bytes
    since: float
    read: float


def is_empty(queue: str) -> bool:
    """Whether nobody waits in the directory `queue`."""
    return not _tickets(queue)


class Ticket:
    """A place in the `queue`, a directory that is made if it is not there; `leave` gives it up."""

    def __init__(self, queue: str) -> None:
        os.makedirs(queue, exist_ok=True)
        self._queue = queue
        last = max((int(name.partition(".")[0]) for name in _tickets(queue)), default=0)
        self._host = socket.gethostname()
        self.name = f"{last + 1:012d}.{os.getpid()}.{secrets.token_hex(4)}.{self._host}"
        self._first, self._first_since = "", 0.0
        self._sights: dict[str, _Sight] = {}
        self._touches = 0
        self._touch(time.monotonic())

    def position(self) -> int:
        """How many come before this one."""
        now = time.monotonic()
        if now >= self._touched + TOUCH:
            self._touch(now)
        ahead = [name for name in _tickets(self._queue) if name < self.name]
        first = min(ahead, default="")
        if first != self._first:
            self._first, self._first_since = first, now
        # Only the first one can keep the others waiting.
        if first and now >= self._first_since + DOUBT and not self._lives(first, now):
            return len(ahead) - 1
        return len(ahead)

    def leave(self) -> None:
        """Give the place up; also if somebody else took this process for dead."""
        remove(os.path.join(self._queue, self.name))

    def _touch(self, now: float) -> None:
        self._touched = now
        self._touches += 1
        with open(os.path.join(self._queue, self.name), "wb") as file:
            file.write(b"%12d" % self._touches)

    def _lives(self, name: str, now: float) -> bool:
        """Whether the owner of another ticket does; if not, its ticket is removed."""
        _, pid, _, host = name.split(".", 3)
        alive = not (host == self._host and _is_gone(int(pid))) and self._speaks(name, now)
        if not alive:
            remove(os.path.join(self._queue, name))
        return alive

    def _speaks(self, name: str, now: float) -> bool:
        seen = self._sights.setdefault(name, _Sight(b"", now, now))
        if now < seen.read + TOUCH:
            return True
        try:
            with open(os.path.join(self._queue, name), "rb") as file:
                content = file.read()
        except OSError:
            return False  # it has just left
        since = now if content != seen.content else seen.since
        self._sights[name] = _Sight(content, since, now)
        return now < since + SILENCE


def _tickets(queue: str) -> list[str]:
    try:
        return [name for name in os.listdir(queue) if name[:1].isdigit()]  # and not what NFS leaves
    except FileNotFoundError:
        return []


def _is_gone(pid: int) -> bool:
    """Whether the process has ended, even if its parent has not asked how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # somebody else's
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    except (OSError, IndexError):  # not Linux, or just gone: the next look tells
        return False
