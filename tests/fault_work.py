"""What the tests of the fault matrix and the soak run in workers; workers import it, so it imports little."""

from __future__ import annotations

import os
import signal
import time

from tests.local_work import LONG, note, notes


def die_writing(path: str, part: float) -> str:
    """Return `path`, and be killed once `part` of what is written for that is written; but only once."""
    note(path, os.getpid())
    write = os.pwrite

    def torn(fd: int, data: bytes, place: int) -> int:
        write(fd, data[: int(len(data) * part)], place)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    if len(notes(path)) == 1:
        os.pwrite = torn  # type: ignore[assignment]
    return path


def stop(path: str) -> None:
    """Stop the worker, having noted who that is; it goes on if somebody lets it."""
    note(path, os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def step(path: str, number: int, act: str, seconds: float) -> int:
    """One task of the soak: note number, attempt and process, do what `act` says, return 7 times the number.

    `act`: "return", "raise" (ValueError), "die" (of SIGKILL), "die once" (at the first attempt), "wait" (for
    ever, nearly).
    """
    from clusterfutures import current_task

    task = current_task()
    assert task is not None
    note(path, f"{number}:{task.attempt}:{os.getpid()}")
    if act == "raise":
        raise ValueError(number)
    if act == "die" or (act == "die once" and task.attempt == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LONG if act == "wait" else seconds)
    return 7 * number
