"""What the tests run in workers."""

from __future__ import annotations

import os
import time

from clusterfutures import ShardedWriter, current_task, once
from tests.local_work import note
from tests.local_work import notes as noted
from tests.support import wait_until


def place(path: str) -> int:
    """Which of the mounts is at `path` where the task runs."""
    return os.stat(path).st_dev


def go_on(upto: int, path: str) -> list[int]:
    """Add the place to those of earlier attempts; the worker dies until there are so many."""
    task = current_task()
    assert task is not None
    places: list[int] = task.checkpoint.load(default=[])
    places.append(place(path))
    task.checkpoint.save(places)
    if len(places) < upto:
        os._exit(1)
    return places


def write_shard(path: str, number: int) -> int:
    """A file of the task's own."""
    with ShardedWriter(path) as file:
        file.write(f"{number}\n")
    return number


def do_once(key: str, notes: str, tasks: int) -> bool:
    """Whether it was for this task to do; that one lets the `tasks` look whether it is done before it is."""
    note(notes, key)
    with once(key) as mine:
        if mine:
            wait_until(lambda: len(noted(notes)) == tasks)
            time.sleep(0.5)
        return mine
