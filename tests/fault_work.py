"""What the tests of the fault matrix run in workers; workers import it, so it imports little."""

from __future__ import annotations

import os
import signal

from tests.local_work import note, notes


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
