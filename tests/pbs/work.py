"""What the tests run in PBS' jobs, beside `tests.local_work`; workers import it, so it imports little."""

from __future__ import annotations

import os
import signal
import time

from tests.local_work import LONG, note_and_wait


def kill_parent() -> None:
    """Kill the supervisor, and so this worker."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(LONG)


def hold_bytes_for(count: int, seconds: float) -> int:
    """Have `count` bytes in memory for so long."""
    block = b"\1" * count
    time.sleep(seconds)
    return len(block)


def hand_in(path: str) -> str:
    """Say that it has begun, and end when it is let."""
    note_and_wait(path, "runs", path + ".open")
    return path
