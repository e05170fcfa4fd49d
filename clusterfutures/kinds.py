"""The kinds of tasks in a run: tasks that need other workers are of another kind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from clusterfutures.resources import changed, excluded, excluding


class Kinds:
    """What the workers for each kind need, in checked options of a job; kind 0 is the executor's own.

    `check` is the scheduler's: it raises OptionError for what cannot be had.  `changed`, once set, is called
    with a kind and its needs whenever those are new, before anybody gets its number.
    """

    def __init__(self, needs: Mapping[str, Any], check: Callable[[Mapping[str, Any]], None]) -> None:
        self._lock = threading.Lock()
        self._needs = [dict(needs)]
        self._check = check
        self.changed: Callable[[int, Mapping[str, Any]], None] = lambda kind, needs: None

    def restore(self, needs: Mapping[int, Mapping[str, Any]]) -> None:
        """Go on with those of an earlier driver."""
        for kind in sorted(needs):
            self._needs[kind : kind + 1] = [dict(needs[kind])]

    def __len__(self) -> int:
        return len(self._needs)

    def needs(self, kind: int) -> Mapping[str, Any]:
        """What the workers for tasks of a kind need."""
        return self._needs[kind]

    def find(self, changes: Mapping[str, Any], of: int) -> int:
        """The kind of tasks that need workers as those of kind `of`, with these changes."""
        needs = changed(self._needs[of], changes)
        self._check(needs)
        with self._lock:
            if needs not in self._needs:
                self.changed(len(self._needs), needs)
                self._needs.append(needs)
            return self._needs.index(needs)

    def avoids(self, node: str, kind: int) -> bool:
        """Whether no worker for tasks of a kind is to be on `node`, of those left out one by one."""
        return node in excluded(self._needs[kind])

    def leave_out(self, node: str) -> None:
        """From here on no worker is to be on `node`.  Raises OptionError where a job cannot be told so."""
        with self._lock:
            without = [changed(needs, excluding(needs, node)) for needs in self._needs]
            for needs in without:
                self._check(needs)
            for kind, needs in enumerate(without):
                self.changed(kind, needs)
                self._needs[kind] = needs

    def abandon(self) -> None:
        """In a fork: the lock may be held by a thread that does not exist here."""
        self._lock = threading.Lock()
