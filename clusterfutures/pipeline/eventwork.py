"""What a pipeline's tasks do: the set-up of an event, its pairs, or all of it on the cores of one job.

No task raises what the user's functions raise: each outcome is written to the pipeline's directory as soon as
it is there, and travels as the bytes that were written, which every executor can carry.
"""

from __future__ import annotations

import logging
import pickle
import platform
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import lru_cache, partial
from typing import Any, NamedTuple, Optional

import cloudpickle

from clusterfutures.context import current_task
from clusterfutures.cpus import usable_cpus
from clusterfutures.local import LocalExecutor
from clusterfutures.payload import dumps_error, dumps_result
from clusterfutures.pipeline.codes import Code
from clusterfutures.pipeline.eventlog import LogStyle, event_log
from clusterfutures.pipeline.kept import Kept, Record
from clusterfutures.share import THREADS
from clusterfutures.spool import publish, read_own

LOGGER = logging.getLogger("clusterfutures.pipeline")


class Work(NamedTuple):
    """What all tasks of a run are given: the directory, what is to be called, and how it is logged."""

    directory: str
    fingerprint: str
    function: Callable[..., Any]
    setup: Optional[Callable[[str], Any]]
    config: dict[str, Any]
    style: LogStyle
    separator: str


class Caught(NamedTuple):
    """An exception, pickled, and the text of its traceback."""

    error: bytes
    traceback: str


def caught(error: BaseException) -> Caught:
    """The exception in a form that travels and is kept."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return Caught(_pickled_error(error, text), text)


def _pickled(value: Any) -> bytes:
    """A value as it is kept.

    Workers of this package know which classes of their ``__main__`` are those of the driver.  Any other
    process has the driver's own, or finds them by name, as pickle does.
    """
    if current_task() is None:
        try:
            return pickle.dumps(value, 5)
        except Exception:  # of the user's classes: any; what follows can do more, or says what is wrong
            pass
    return dumps_result(value)


def _pickled_error(error: BaseException, text: str) -> bytes:
    """The same for an exception; in the form of `dumps_error`, for `loads_error`."""
    if current_task() is None:
        try:
            data = pickle.dumps(error, 5)
            pickle.loads(data)  # many can be pickled and not be made again
            return pickle.dumps((type(error).__qualname__, text, data), 5)
        except Exception:  # as above
            pass
    return dumps_error(error)


# Pairs -----------------------------------------------------------------------------------------------------


def run_pairs(work: Work, codes: list[Code], setup_path: str) -> list[bytes]:
    """Call the function for each of these pairs of one event; the records of what came of it."""
    return [_run_pair(work, code, setup_path) for code in codes]


def _run_pair(work: Work, code: Code, setup_path: str) -> bytes:
    kept = Kept(work.directory)
    with event_log(kept.log(code.event), code.write(work.separator), work.style):
        began = time.perf_counter()
        try:
            shared = () if work.setup is None else (load_setup(setup_path),)
            body, text = _pickled(work.function(code, *shared, **work.config)), None
        except (Exception, SystemExit) as error:  # of the user's function: any
            LOGGER.exception("failed")
            body, text = caught(error)
        seconds = time.perf_counter() - began
        LOGGER.info("took %.3f s on %s", seconds, platform.node())
        record = Record(
            work.fingerprint, code.event, code.station, body, text, seconds, platform.node()
        )
        return kept.write(record)


def lose_pair(work: Work, code: Code, why: BaseException) -> bytes:
    """Note that a pair failed for a reason outside of it, as a worker that was lost; its record."""
    return fail_pair(work, code, lose(work, code.event, code.write(work.separator), why))


def lose(work: Work, event: str, name: str, why: BaseException) -> Caught:
    """Log that the task of an event or a pair called `name` did not return, and catch why."""
    with event_log(Kept(work.directory).log(event), name, work.style):
        LOGGER.error("lost: %r", why)
    return caught(why)


def fail_pair(work: Work, code: Code, why: Caught) -> bytes:
    """Keep it as the outcome of a pair; its record."""
    record = Record(work.fingerprint, code.event, code.station, why.error, why.traceback, 0.0, "")
    return Kept(work.directory).write(record)


# Set-up ----------------------------------------------------------------------------------------------------


def set_up(work: Work, event: str, setup_path: str) -> Optional[Caught]:
    """Call an event's set-up and publish its value for the tasks of the event; what it raised, if it did."""
    assert work.setup is not None
    with event_log(Kept(work.directory).log(event), event, work.style):
        try:
            publish(setup_path, cloudpickle.dumps(work.setup(event)), sync=True)
        except (Exception, SystemExit) as error:  # of the user's function: any
            LOGGER.exception("the set-up failed")
            return caught(error)
    return None


@lru_cache(maxsize=1)
def load_setup(path: str) -> Any:
    """The value of a set-up; read once by each process as long as it works on one event.

    Raises PermissionError for a file that another user can have written.
    """
    return pickle.loads(read_own(path))


# A whole event ---------------------------------------------------------------------------------------------


def run_event(work: Work, codes: list[Code], setup_path: str, at_once: Optional[int]) -> list[bytes]:
    """Do the set-up of an event and its pairs, `at_once` of them (None: one for each core of the job)."""
    failed = set_up(work, codes[0].event, setup_path) if work.setup is not None else None
    if failed is not None:
        return [fail_pair(work, code, failed) for code in codes]
    cores = usable_cpus()
    processes = min(len(codes), at_once or cores)
    if processes == 1:
        return run_pairs(work, codes, setup_path)
    threads = {name: str(max(1, cores // processes)) for name in THREADS}
    with LocalExecutor(processes, keep="never", orphan="kill", env=threads) as ex:
        futures = [ex.submit(partial(run_pairs, work), [code], setup_path) for code in codes]
        return [_record_of(work, code, future) for code, future in zip(codes, futures)]


def _record_of(work: Work, code: Code, future: Future[list[bytes]]) -> bytes:
    try:
        return future.result()[0]
    except (Exception, CancelledError) as error:  # whatever ended the worker
        return lose_pair(work, code, error)
