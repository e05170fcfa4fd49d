"""One log file for each event, to which the records of a pair go in one piece."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from clusterfutures.writing.writer import SerialWriter


class LogStyle(NamedTuple):
    """What is logged, and how: a level and a format as in :mod:`logging`."""

    level: int = logging.INFO
    format: str = "%(asctime)s %(levelname)-7s %(code)s %(name)s: %(message)s"


class Collector(logging.Handler):
    """Keeps the lines of what one thread logs; the records have the attribute `code`."""

    def __init__(self, code: str, style: LogStyle) -> None:
        super().__init__(style.level)
        self.setFormatter(logging.Formatter(style.format))
        self.lines: list[str] = []
        self._code = code
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, if it is of this thread: others may be at work on other pairs."""
        if record.thread == self._thread:
            own = copy.copy(record)
            own.code = self._code
            self.lines += self.format(own).split("\n")


@contextmanager
def event_log(path: str, code: str, style: LogStyle) -> Iterator[None]:
    """Append what this thread logs in the block to the file at `path`, at the end and in one piece.

    OSError if it cannot be written.
    """
    collector = Collector(code, style)
    logging.getLogger().addHandler(collector)
    try:
        with _lowered(style.level):
            yield
    finally:
        logging.getLogger().removeHandler(collector)
        if collector.lines:
            SerialWriter(path).append_lines(collector.lines)


_levels: list[int] = []
"""The root logger's own level, while it is lowered, and those that threads have asked for."""
_lowering = threading.Lock()


@contextmanager
def _lowered(level: int) -> Iterator[None]:
    """Have the root logger pass on what has this level, for as long as any thread asks for it."""
    root = logging.getLogger()
    with _lowering:
        _levels.extend([level] if _levels else [root.level, level])
        root.setLevel(min(_levels))
    try:
        yield
    finally:
        with _lowering:
            _levels.pop(_levels.index(level, 1))
            root.setLevel(min(_levels))
            if len(_levels) == 1:
                _levels.clear()
