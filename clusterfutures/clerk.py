"""The thread that talks to the scheduler, whose commands may take a minute: nothing else waits for them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Optional


class Clerk:
    """Carries out calls one after the other; `then` is called with (result, error) in the clerk's thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._errands: queue.SimpleQueue[Optional[Callable[[], None]]] = queue.SimpleQueue()
        self._thread: Optional[threading.Thread] = None

    def do(
        self, then: Callable[[Any, Optional[Exception]], None], call: Callable[..., Any], *args: Any
    ) -> None:
        """Have `call(*args)` done."""

        def errand() -> None:
            try:
                result = call(*args)
            except Exception as error:  # whatever the command did wrong is for `then` to judge
                then(None, error)
            else:
                then(result, None)

        self._errands.put(errand)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            errand = self._errands.get()
            if errand is None:
                return
            errand()

    def close(self) -> None:
        """Let the thread end once it has done what it was asked for."""
        self._errands.put(None)
