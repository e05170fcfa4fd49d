"""A lease on a directory: a lock between nodes whose kernels know nothing of each other's locks.

Each holder makes a file, ``lease.N``, of the next generation, which only one process can (an exclusive
create), and rewrites it while it holds the lease.  It is over when its holder has written that into it, or
has not rewritten it for its timeout, as measured by the clock of the one who waits: clocks are not compared.
Names are never used again while they could matter, and none is moved or replaced, so that nobody can end a
generation that it did not look at.

What no lease can do is stop its holder.  One that stood still for longer than its timeout (a suspended
process, a node that lost its file server) is superseded; it learns that from `Lease.lost`, which lists the
directory.  Between that look and what it does next is a window.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from typing import Any, Optional

LOGGER = logging.getLogger("clusterfutures.writing")

BEATS = 5
"""How often a lease is rewritten in its timeout."""

KEPT = 3
"""Generations that stay: one who lists late must find that it is late."""

RECORD = 512
"""The bytes of a record: a file that never changes its size has none that could be seen late."""


def write_record(path: str, record: dict[str, Any], flags: int = 0, mode: int = 0o666) -> None:
    """Write a small record in one piece and in place; `flags` are added to those of os.open.

    `mode` is that of a new file.  Raises what opening and writing raise (OSError).
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode)
    try:
        os.pwrite(fd, json.dumps(record).encode().ljust(RECORD), 0)
    finally:
        os.close(fd)


def read_record(path: str) -> dict[str, Any]:
    """What `write_record` wrote; empty if nothing is there, or nothing that can be read."""
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def remove(path: str) -> None:
    """Remove a file that another process may have removed before."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Lease:
    """The lease on `directory`; one object for one holding of it.

    `timeout`: seconds after which a silent holder has lost it.  `node`: what distinguishes this kernel and
    mount from others, if a lock of that kernel is held, too; then a lease of the same node that is not over
    was left by a process that died.  Empty otherwise.

    Attributes: `seal`, what the previous holder said of its work at the end (str or None).
    """

    mode = 0o666
    """Of the files, less the umask."""

    def __init__(self, directory: str, timeout: float, node: str) -> None:
        self._directory = directory
        self._timeout = timeout
        self._node = node
        self._generation = 0
        self._sight: tuple[int, dict[str, Any], float] = (0, {}, 0.0)
        self._ended = threading.Event()
        self._heart: Optional[threading.Thread] = None
        self._beats = 0
        self.seal: Optional[str] = None

    def try_acquire(self) -> bool:
        """Whether the lease is ours now.  Raises OSError if the directory cannot be used."""
        latest = self._latest()
        if latest and not self._is_over(latest):
            return False
        path = self._path(latest + 1)
        try:
            write_record(path, self._record("held"), os.O_CREAT | os.O_EXCL, self.mode)
        except FileExistsError:
            return False
        # Whoever listed late has just made a name that had been used, and a fresh list shows it.
        if self._latest() != latest + 1:
            remove(path)
            return False
        self._generation = latest + 1
        self._remove_old()
        self._live()
        return True

    def _live(self) -> None:
        """Have it rewritten for as long as it is held."""
        self._heart = threading.Thread(target=self._keep, name="clusterfutures lease", daemon=True)
        self._heart.start()

    def lost(self) -> bool:
        """Whether somebody else holds, or has held, the lease since it was ours."""
        return self._latest() != self._generation

    def release(self, seal: str) -> None:
        """End it and leave `seal` to the next holder; nothing happens if it was lost."""
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        if not self.lost():
            write_record(self._path(self._generation), self._record("released", seal=seal))

    def _is_over(self, generation: int) -> bool:
        record = read_record(self._path(generation))
        self.seal = None
        if record.get("state") == "released":
            self.seal = record.get("seal")
            return True
        if self._node and record.get("node") == self._node:
            return True
        now = time.monotonic()
        if self._sight[:2] != (generation, record):
            self._sight = (generation, record, now)
        if now < self._sight[2] + float(record.get("timeout", self._timeout)):
            return False
        LOGGER.warning("the lease on %s was not renewed; taking it from %s", self._directory, record)
        return True

    def _keep(self) -> None:
        while not self._ended.wait(self._timeout / BEATS):
            try:
                self.beat()
            except OSError as error:  # the next beat may succeed; if none does, `lost` says so
                LOGGER.warning("cannot renew the lease on %s: %s", self._directory, error)

    def beat(self) -> None:
        """Rewrite it, as a sign of life.  Raises OSError if that cannot be done."""
        self._beats += 1
        write_record(self._path(self._generation), self._record("held", beat=self._beats))

    def _record(self, state: str, **more: Any) -> dict[str, Any]:
        return {"state": state, "timeout": self._timeout, "node": self._node, "pid": os.getpid(), **more}

    def _generations(self) -> list[int]:
        names = [name[6:] for name in os.listdir(self._directory) if name.startswith("lease.")]
        return [int(name) for name in names if name.isdecimal()]  # others are no business of ours

    def _latest(self) -> int:
        return max(self._generations(), default=0)

    def _remove_old(self) -> None:
        for generation in self._generations():
            if generation <= self._generation - KEPT:
                remove(self._path(generation))

    def _path(self, generation: int) -> str:
        return os.path.join(self._directory, f"lease.{generation}")
