"""What the tests' pipelines compute; workers import it, so it imports little."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

from clusterfutures.pipeline.codes import Code
from tests.local_work import LONG, note

LOGGER = logging.getLogger("tests.pipeline")


class Awkward(Exception):
    """An exception that pickle writes and cannot make again."""

    def __init__(self, message: str, more: int) -> None:
        super().__init__(message)
        self.more = more


def misfit(code: Code, scale: float = 1.0) -> float:
    """The station's number, scaled."""
    return int(code.station[-1]) * scale


def noted(code: Code, log: str, bad: tuple[str, ...] = (), scale: float = 1.0) -> float:
    """Note the pair, and fail for the stations that are bad unless the file `log`.good is there."""
    note(log, str(code))
    if code.station in bad and not os.path.exists(f"{log}.good"):
        raise ValueError(f"no data for {code}")
    return misfit(code, scale)


def noted_with_setup(code: Code, shared: list[str], log: str) -> list[str]:
    """Note the pair, and return the set-up's value."""
    note(log, str(code))
    return [*shared, code.station]


class SetUp:
    """A set-up that notes the events in a file and fails for some."""

    def __init__(self, log: str, bad: tuple[str, ...] = ()) -> None:
        self.log = log
        self.bad = bad

    def __call__(self, event: str) -> list[str]:
        """What the pairs of the event get."""
        note(self.log, event)
        LOGGER.info("the set-up of %s", event)
        if event in self.bad:
            raise KeyError(event)
        return [event]


def talk(code: Code, lines: int) -> None:
    """Log so many lines, one of each level below CRITICAL for each."""
    for number in range(lines):
        LOGGER.debug("detail %d", number)
        LOGGER.info("line %d", number)
        time.sleep(0.001)  # so that others get between, if they can


def meet_and_talk(code: Code, barrier: threading.Barrier) -> None:
    """Log while other threads do."""
    barrier.wait(LONG)
    LOGGER.info("of %s", code)
    barrier.wait(LONG)


def fall(code: Code, log: str, bad: str) -> float:
    """End the process for one station unless the file `log`.good is there."""
    note(log, str(code))
    if code.station == bad and not os.path.exists(f"{log}.good"):
        os._exit(3)
    return misfit(code)


def fall_at_once(event: str) -> None:
    """A set-up that ends its process."""
    os._exit(3)


def odd(code: Code, way: str) -> Any:
    """Return or raise what is hard to carry."""
    if way == "value":
        return threading.Lock()
    if way == "error":
        raise Awkward("awkward", 1)
    if way == "local error":
        raise type("Local", (Exception,), {"lock": threading.Lock()})("made here")
    sys.exit("the end")


def hold(code: Code, log: str, gate: str) -> str:
    """Note the pair; all but the first station wait until the gate is open."""
    note(log, str(code))
    deadline = time.monotonic() + LONG
    while not code.station.endswith("0") and not os.path.exists(gate):
        if time.monotonic() > deadline:
            raise TimeoutError("the gate stayed shut")
        time.sleep(0.01)
    return code.station
