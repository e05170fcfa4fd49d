"""What the tests of endings have in common, whatever ends the jobs: see ``tests/slurm`` and ``tests/pbs``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from clusterfutures import WorkerLost
from clusterfutures.executor import ClusterExecutor
from clusterfutures.futures import ClusterFuture
from tests import local_work as work
from tests.pbs.door import LIMIT
from tests.support import wait_until

Executor = TypeVar("Executor", bound=ClusterExecutor)
Error = TypeVar("Error", bound=WorkerLost)


class Mode(NamedTuple):
    """A way to use a batch system, by what its executor is asked for."""

    name: str
    options: Mapping[str, Any]


POOL = Mode("pool", {})
JOBS = Mode("jobs", {"job_per_task": True})
POOL_POLLING = Mode("pool-polling", {"doorbell": False})
JOBS_POLLING = Mode("jobs-polling", {"job_per_task": True, "doorbell": False})
ALL = (POOL, JOBS, POOL_POLLING, JOBS_POLLING)


def each(*modes: Mode) -> list[Any]:
    """Parameters for a test that is run in each of these."""
    return [pytest.param(mode, id=mode.name) for mode in modes]


BOTH = each(POOL, JOBS)


@contextmanager
def making(
    executor_class: Callable[..., Executor], folder: Path, **usual: Any
) -> Iterator[Callable[..., Executor]]:
    """``make(mode, max_workers=2, **options)``: an executor that is shut down in the end.

    Its run directory is in `folder`, and `usual` are its options unless it is given others.
    """
    made: list[Executor] = []

    def make(mode: Mode, max_workers: int = 2, **options: Any) -> Executor:
        defaults = {"run_dir": folder / f"run{len(made)}", "keep": "never", **usual}
        made.append(executor_class(max_workers, **{**defaults, **mode.options, **options}))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown(cancel_futures=True)


def begun(log: str, count: int = 1) -> None:
    """Wait until so many tasks have said in `log` that they run."""
    wait_until(lambda: len(work.notes(log)) >= count, LIMIT, lambda: work.notes(log))


def lost(future: ClusterFuture[Any], *kinds: type[Error]) -> Error:
    """The error, of one of these very kinds, of a task whose worker died while it ran.

    What is known of any such is there.
    """
    error = future.exception(LIMIT)
    assert isinstance(error, kinds) and type(error) in kinds, repr(error)
    assert error.worker and error.worker in str(error)
    assert error.pid
    assert error.job_id and error.job_id == future.job_id
    assert error.node and error.node == future.node
    assert error.log_path and error.log_path in str(error)
    return error


def goes_on(executor: ClusterExecutor) -> None:
    """The executor can be used as before."""
    assert executor.submit(abs, -1).result(LIMIT) == 1


class Outage(NamedTuple):
    """How to have a batch system stop answering, and answer again; its commands that ask and submit."""

    stop: Callable[[], None]
    start: Callable[[], None]
    asks: str
    submits: str


def outlast(
    make: Callable[..., ClusterExecutor],
    outage: Outage,
    folder: Path,
    gate: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What runs goes on, what is submitted meanwhile runs later; and the log says it once.

    `gate` is a file that lets the tasks go on once it exists.
    """
    executors, logs = [make(POOL, 1), make(JOBS, 2)], [str(folder / "pool"), str(folder / "jobs")]

    def submit(number: int) -> list[ClusterFuture[Any]]:
        return [
            executor.submit(work.note_and_wait, log, number, str(gate))
            for executor, log in zip(executors, logs)
        ]

    with caplog.at_level(logging.DEBUG, "clusterfutures"):
        before = submit(0)
        for log in logs:
            begun(log)
        outage.stop()
        after = submit(1)
        wait_until(lambda: len(warnings(caplog, "changes nothing")) == 2, LIMIT, lambda: caplog.messages)
        wait_until(lambda: len(failed(caplog, outage.asks)) >= 2, LIMIT, lambda: caplog.messages)
        wait_until(lambda: failed(caplog, outage.submits), LIMIT, lambda: caplog.messages)
        gate.touch()
        assert [future.result(LIMIT) for future in before] == [0, 0]
        outage.start()
        assert [future.result(LIMIT) for future in after] == [1, 1]
        for executor in executors:
            executor.shutdown()
    assert len(warnings(caplog, "changes nothing")) == 2, "one for each executor"
    assert len(warnings(caplog, "no new job yet")) == 1
    assert [sorted(work.notes(log)) for log in logs] == [["0", "1"]] * 2, "each has run once"


def warnings(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    """The warnings so far that have these words in them."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.message for record in records if words in record.message]


def failed(caplog: pytest.LogCaptureFixture, program: str) -> list[str]:
    """The calls of a command that have failed, as the log has them."""
    return [text for text in caplog.messages if f"'{program}'" in text and not text.endswith("ended with 0")]
