"""Tasks that wait for futures among their arguments.

Nothing blocks meanwhile: the futures' callbacks count down, and the last one lets the task go.  A future that
failed or was cancelled fails the tasks that wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from clusterfutures import payload
from clusterfutures.errors import DependencyFailed
from clusterfutures.journal import Fresh
from clusterfutures.records import bind


class _Waiting:
    def __init__(self, fresh: Fresh, parents: Sequence[Future[Any]]) -> None:
        self.fresh = fresh
        self.parents = parents
        self.left = len(parents)


class WaitingRoom:
    """The tasks that wait, by number.

    `keep` stores a large buffer; `ready` is called with a task whose futures are done, `failed` with one that
    will never run, and why: both in whichever thread resolved the last future.
    """

    def __init__(
        self,
        keep: Callable[[memoryview], str],
        ready: Callable[[Fresh], None],
        failed: Callable[[Fresh, BaseException], None],
    ) -> None:
        self._keep, self._ready, self._failed = keep, ready, failed
        self._lock = threading.Lock()
        self._tasks: dict[int, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def enter(self, fresh: Fresh, parents: Sequence[Future[Any]]) -> None:
        """Have a single task wait for `parents`, whose values take the places of their placeholders."""
        with self._lock:
            self._tasks[fresh.first] = _Waiting(fresh, parents)
        for parent in parents:
            parent.add_done_callback(lambda _, number=fresh.first: self._one_done(number))  # type: ignore[misc]

    def sweep(self) -> list[int]:
        """Numbers of those that were cancelled while they waited, and are hereby gone."""
        with self._lock:
            gone = [n for n, waiting in self._tasks.items() if waiting.fresh.sink.sweep(n, 1)]
            for number in gone:
                del self._tasks[number]
        return gone

    def clear(self) -> list[Fresh]:
        """All that wait, who then do not any more."""
        with self._lock:
            tasks, self._tasks = self._tasks, {}
        return [waiting.fresh for waiting in tasks.values()]

    def _one_done(self, number: int) -> None:
        with self._lock:
            waiting = self._tasks.get(number)
            if waiting is None:
                return  # given up meanwhile
            waiting.left -= 1
            if waiting.left:
                return
            del self._tasks[number]
        fresh = waiting.fresh
        try:
            values = [self._value(parent) for parent in waiting.parents]
        except BaseException as error:  # a parent's value may raise anything when it is pickled
            self._failed(fresh, error)
        else:
            self._ready(fresh._replace(bodies=[bind(fresh.bodies[0], values)]))

    def _value(self, parent: Future[Any]) -> bytes:
        error = None if parent.cancelled() else parent.exception()
        if parent.cancelled() or error is not None:
            what = "was cancelled" if error is None else f"failed: {error!r}"
            raise DependencyFailed(f"a future among the arguments {what}", repr(parent)) from error
        return payload.dumps_item(parent.result(), self._keep)

    def abandon(self) -> None:
        """In a fork: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()
