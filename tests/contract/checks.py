"""What the test modules share beside fixtures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

import pytest

from tests.contract import work
from tests.contract.executors import Case, Trait
from tests.support import wait_until

Make = Callable[..., Executor]
Gates = Callable[[], work.Gate]


SCRIPT_HEADER = """\
import os, signal, sys, threading, time
from tests.contract import work
from tests.contract.executors import CASES
from tests.support import wait_until
case = CASES[{name!r}]
make = case.make
"""


def script_header(case: Case) -> str:
    """The first lines of a test script: they tell it which executor it runs on."""
    return SCRIPT_HEADER.format(name=case.name)


def needs(case: Case, trait: Trait) -> None:
    """Skip the test, saying why, on an executor that lacks `trait` and has nothing else to test."""
    if not case.has(trait):
        pytest.skip(f"{case.name} lacks: {trait.value} ({case.lacks.get(trait, 'as documented')})")


def start_workers(executor: Executor, gate: work.Gate, count: int = 2) -> list[int]:
    """Have `count` workers at work at the same time; returns their pids, all idle again.

    ProcessPoolExecutor needs it before a worker dies: with spawn it can miss the death of a process that
    it has just started, because its manager thread waits for those it knew before.
    """
    futures = [executor.submit(gate.hold_then, work.pid_of) for _ in range(count)]
    wait_until(lambda: len(gate.arrived()) == count, 50, describe=gate.arrived)
    gate.open()
    pids = [future.result(timeout=50) for future in futures]
    assert len(set(pids)) == count
    return pids
