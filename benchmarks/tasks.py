"""The functions that the workers run; importing this module is part of what is timed."""

from __future__ import annotations

import os
import time
from typing import Any

#: Names of files that do not exist: looking one up leaves it in a system call trace.
BEGIN, END, WORKER = (f"/clusterfutures-benchmark-{word}" for word in ("begin", "end", "worker"))


def noop(_item: Any = None) -> None:
    """Do nothing: what remains is the executor's own cost."""


def pause(seconds: float) -> None:
    """Stand for a task of that many seconds without taking the driver's processor."""
    time.sleep(seconds)


def worker_pid(seconds: float) -> int:
    """Return this worker's pid after a pause in which its neighbours take a task as well."""
    mark(WORKER)
    time.sleep(seconds)
    return os.getpid()


def mark(name: str) -> None:
    """Leave `name` in the system call trace, if there is one."""
    os.path.exists(name)


def touch(array: Any) -> tuple[int, int]:
    """Read one byte of every page of `array`; return their sum and `own_memory`."""
    return int(array[::4096].sum()), own_memory()


def own_memory() -> int:
    """Return the memory in bytes that this process alone costs (Linux; 0 elsewhere).

    That is private and anonymous. Private memory also counts pages of a file that nobody else
    happens to map, which are the file's cache; anonymous memory also counts what a forked process
    shares with its parent. The smaller of the two is the closest that the kernel tells.
    """
    anonymous = private = 0
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("Anonymous:"):
                    anonymous = int(line.split()[1]) * 1024
                elif line.startswith(("Private_Clean:", "Private_Dirty:")):
                    private += int(line.split()[1]) * 1024
    except FileNotFoundError:
        pass  # not Linux
    return min(anonymous, private)
