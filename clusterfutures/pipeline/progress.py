"""A bar that shows how far a run has come: tqdm's, from the extra ``progress``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Optional

LOGGER = logging.getLogger("clusterfutures")

INTERVAL = 1.0
"""Seconds between two counts, which may have to look at very many futures, or into many directories."""


class Progress:
    """How many pairs are done, failed and running, and the time that is left.

    Parameters
    ----------
    total, kept : int
        All pairs, and how many of them an earlier run has computed.
    running : callable
        Counts the tasks that run now.
    written : callable
        Counts the pairs that are over although the task that they belong to is not.
    show : bool, optional
        None: if standard error is a terminal.  True needs tqdm (ImportError); without it, None says so in the
        log.
    """

    def __init__(
        self,
        total: int,
        kept: int,
        running: Callable[[], int],
        written: Callable[[], int],
        show: Optional[bool] = None,
    ) -> None:
        self._running = running
        self._written = written
        self._over = self._shown = kept
        self._failed = 0
        self._counted_at = 0.0
        self._bar = _bar(total, kept, show)

    def add(self, failed: bool) -> None:
        """One more pair is over."""
        self._over += 1
        self._failed += failed
        self.refresh()

    def refresh(self) -> None:
        """Count anew what is over and what is running, if that was not done just now."""
        if self._bar is None or time.monotonic() - self._counted_at < INTERVAL:
            return
        self._counted_at = time.monotonic()
        self._show()

    def close(self) -> None:
        """Leave the bar as it is at the end."""
        if self._bar is not None:
            self._show()
            self._bar.close()

    def _show(self) -> None:
        assert self._bar is not None
        over = max(self._shown, self._over + self._written())
        self._bar.set_postfix_str(f"{self._failed} failed, {self._running()} running", refresh=False)
        self._bar.update(over - self._shown)
        self._bar.refresh()
        self._shown = over


def _bar(total: int, kept: int, show: Optional[bool]) -> Any:
    """The bar; None for none."""
    if show is False or (show is None and not _on_terminal()):
        return None
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        if show:
            raise
        LOGGER.info("no progress bar without tqdm: pip install clusterfutures[progress]")
        return None
    return tqdm(total=total, initial=kept, unit="pair", file=sys.stderr, dynamic_ncols=True)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
