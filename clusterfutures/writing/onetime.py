"""A thing that one task of a run does, and for which the others wait."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional, Union

from clusterfutures.context import current_task
from clusterfutures.writing.locks import Lock
from clusterfutures.writing.names import file_name
from clusterfutures.writing.writer import look_for


@contextmanager
def once(
    key: str,
    directory: Optional[Union[str, os.PathLike[str]]] = None,
    timeout: Optional[float] = None,
) -> Iterator[bool]:
    """Have a thing done by exactly one task of a run; gives True to that one, and False to all others.

    >>> import tempfile; folder = tempfile.mkdtemp()
    >>> for _ in range(3):
    ...     with once("greeting", folder) as mine:
    ...         if mine:
    ...             print("hello")
    hello

    The others wait until it is done: until the block of the one with True has ended.  If that ends with an
    exception, or its process dies, another one gets True.

    `key` names the thing.  `directory` is where it is noted that it was done, by default the run's, so that
    a new run does it anew; outside of a task it has to be given (an executor's `run_dir` is that of its
    tasks, whose notes are in ``once`` there).  `timeout`: seconds to wait, None: for ever.

    Raises LockTimeout, which tells who is at it; ValueError without a directory outside of a task.
    """
    folder = _folder(directory)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, file_name(key) + ".once")
    done = os.path.join(path, "done")
    if os.path.exists(done):
        yield False
        return
    with Lock(path).hold(timeout) as hold:
        # Listed, as the name may have been looked up here before it was there; a list may be old, too.
        look_for(done)
        if "done" in os.listdir(path):
            yield False
            return
        yield True
        hold.check()
        os.close(os.open(done, os.O_WRONLY | os.O_CREAT, 0o666))


def _folder(directory: Optional[Union[str, os.PathLike[str]]]) -> str:
    if directory is not None:
        return os.path.abspath(os.fspath(directory))
    task = current_task()
    if task is None:
        raise ValueError("once() outside of a task needs a directory")
    return os.path.join(task.run_dir, "once")
