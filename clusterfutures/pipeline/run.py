"""How a run of a pipeline goes::

run()                                       tasks (eventwork)
-----                                       -----------------
which pairs are kept (kept, fingerprint)
flat:    an event's set-up    ------------>  set_up      its value, to a file
each of its pairs    ------------>  run_pairs   outcome to a file, lines to the event's log
nested:  an event             ------------>  run_event   both, on the cores of its job
outcomes, as they come        <------------  the bytes of that file
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import ClusterFuturesError, OptionError
from clusterfutures.options import whole_number
from clusterfutures.pipeline import eventwork
from clusterfutures.pipeline.codes import (
    Code,
    Path,
    check_separator,
)
from clusterfutures.pipeline.eventlog import LogStyle
from clusterfutures.pipeline.eventwork import Caught, Work
from clusterfutures.pipeline.fingerprint import parts_of
from clusterfutures.pipeline.kept import Kept, unseal
from clusterfutures.pipeline.progress import Progress
from clusterfutures.pipeline.report import Failure, Outcome, Result

LOGGER = logging.getLogger("clusterfutures.pipeline")

REFRESH = 1.0
"""Seconds after which the bar counts anew what is running, although nothing has come back."""


class PairFailed(ClusterFuturesError):
    """A pair failed, and the pipeline was told to stop then; `__cause__` is the pair's own exception.

    Attributes: `code`; `failure`, its Failure.
    """

    def __init__(self, code: Code, failure: Failure) -> None:
        super().__init__(f"{code} failed: {failure.error!r}; see {failure.log}")
        self.code = code
        self.failure = failure

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.failure)


class Pipeline:
    """A function over pairs of an event and a station, and the directory with what came of them.

    Parameters
    ----------
    function : callable
        Called as ``function(code, **config)``, or with a `setup` as ``function(code, value, **config)``.
    codes : iterable of Code
        The pairs; those that come twice are computed once.
    directory : path
        Where results and logs are kept.  It is made, with all above it; on a cluster, all nodes must see it.
    setup : callable, optional
        Called as ``setup(event)`` once for each event that has pairs to compute.  Each of them gets the value
        from a file, so it must be picklable; a process reads it once and gives its pairs the same object.
    config : mapping, optional
        Keywords for the function.
    nested : bool
        False: each pair is a task.  True: each event is one, and its pairs run in processes on the cores of
        its job.
    max_events : int, optional
        Events that are under way at a time; None: all.
    max_stations : int, optional
        Pairs of an event that are under way at a time; None: all, and nested, one for each core of the job.
    on_change : {"raise", "recompute", "keep"}
        What to do where the directory has results of another function or configuration.
    on_error : {"keep", "raise"}
        Whether a pair that fails is a `Failure` in the result, or ends the run.
    log_level, log_format : int or str, str
        As in `logging`; ``%(code)s`` is the pair.
    separator : str
        Between event and station, where a code is logged.
    progress : bool, optional
        Whether there is a bar; None: on a terminal, if tqdm is there.

    Raises OptionError (a ValueError) for an option that cannot be read, TypeError for what is no Code.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        codes: Iterable[Code],
        directory: Path,
        *,
        setup: Optional[Callable[[str], Any]] = None,
        config: Optional[Mapping[str, Any]] = None,
        nested: bool = False,
        max_events: Optional[int] = None,
        max_stations: Optional[int] = None,
        on_change: str = "raise",
        on_error: str = "keep",
        log_level: int | str = logging.INFO,
        log_format: str = LogStyle().format,
        separator: str = "|",
        progress: Optional[bool] = None,
    ) -> None:
        self.codes = list(dict.fromkeys(map(_checked_code, codes)))
        self._function, self._setup, self._config = function, setup, dict(config or {})
        self._kept = Kept(directory)
        self._limits = Limits(nested, _limit("max_events", max_events), _limit("max_stations", max_stations))
        self._on_change = _one_of("on_change", on_change, ("raise", "recompute", "keep"))
        self._on_error = _one_of("on_error", on_error, ("keep", "raise"))
        self._style = _style(log_level, log_format)
        self._separator = check_separator(separator)
        self._progress = progress

    @property
    def directory(self) -> str:
        """Where results and logs are."""
        return self._kept.path

    def log(self, event: str) -> str:
        """The path of an event's log."""
        return self._kept.log(event)

    def result(self) -> Result:
        """What the directory has by now, also while it is computed elsewhere; `missing` has the rest.

        Of two computations whose results count (``on_change="keep"``) it does not tell which was whose.
        """
        return self._result(self._kept.outcomes(self.codes, self._kept.accepted()))

    def run(self, executor: Executor) -> Result:
        """Compute what is missing or failed, and return everything.

        Of two runs of one directory at a time, the second waits until the first is over.

        Raises PipelineChanged where that is to be raised, RunDirectoryError for a directory that is not the
        user's alone, PairFailed with ``on_error="raise"``, and what `submit` of the executor raises.
        However it ends, what was not started by then is cancelled, and what was computed is kept.
        """
        self._kept.make(dict.fromkeys(code.event for code in self.codes))
        with self._kept.alone():
            parts = parts_of(self._function, self._setup, self._config)
            own, accepted = self._kept.admit(parts, self._on_change)
            return self._complete(executor, own, self._kept.outcomes(self.codes, accepted))

    def _complete(self, executor: Executor, own: str, found: Mapping[Code, Outcome]) -> Result:
        """Compute what was not found; `own` is the fingerprint of what computes it."""
        outcomes = {code: outcome for code, outcome in found.items() if not outcome.failed}
        for code in found.keys() - outcomes.keys():  # what is there later is of this run
            self._kept.discard(code)
        todo = [code for code in self.codes if code not in outcomes]
        LOGGER.info("%s: %d pairs to compute, %d are kept", self.directory, len(todo), len(outcomes))
        work = Work(
            self._kept.path, own, self._function, self._setup, self._config, self._style, self._separator
        )
        run = Run(executor, work, self._limits, todo)
        progress = Progress(len(self.codes), len(outcomes), run.running, run.written, self._progress)
        try:
            for outcome in run.outcomes(progress.refresh):
                outcomes[outcome.code] = outcome
                progress.add(outcome.failed)
                if outcome.failed and self._on_error == "raise":
                    raise PairFailed(outcome.code, outcome.value) from outcome.value.error
        finally:
            run.cancel()
            progress.close()
        return self._result(outcomes)

    def _result(self, outcomes: Mapping[Code, Outcome]) -> Result:
        there = [outcomes[code] for code in self.codes if code in outcomes]
        return Result(there, [code for code in self.codes if code not in outcomes])


class Limits(NamedTuple):
    """Whether an event is one task, and how much is under way at a time; None for no limit."""

    nested: bool
    max_events: Optional[int]
    max_stations: Optional[int]


# A run -----------------------------------------------------------------------------------------------------


class Event:
    """An event of a run: the pairs that are not submitted yet, how many tasks are, what it had before."""

    def __init__(self, name: str, setup_path: str) -> None:
        self.name = name
        self.setup_path = setup_path
        self.waiting: deque[Code] = deque()
        self.open = 0
        self.kept = 0


class Step(NamedTuple):
    """A task of a run: the pairs that it brings the outcomes of, none for a set-up, and what is called."""

    event: Event
    codes: list[Code]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Run:
    """The tasks of one run on an executor, from the first to the last; used by one thread."""

    def __init__(self, executor: Executor, work: Work, limits: Limits, todo: Iterable[Code]) -> None:
        self._executor = executor
        self._work = work
        self._limits = limits
        self._kept = Kept(work.directory)
        self._events = deque(self._by_event(todo))
        self._ready: deque[Step] = deque()
        self._under_way: dict[Future[Any], Step] = {}
        self._back: SimpleQueue[Future[Any]] = SimpleQueue()

    def _by_event(self, todo: Iterable[Code]) -> list[Event]:
        events: dict[str, Event] = {}
        for code in todo:
            if code.event not in events:
                events[code.event] = Event(code.event, self._kept.setup(code.event))
            events[code.event].waiting.append(code)
        return list(events.values())

    def running(self) -> int:
        """How many tasks are running, as far as the executor tells."""
        return sum(future.running() for future in self._under_way)

    def written(self) -> int:
        """How many pairs of the events that are tasks are over.

        Files that were there before do not count, also if they are of another computation and are replaced.
        """
        if not self._limits.nested:
            return 0
        return sum(self._kept.count(step.event.name) - step.event.kept for step in self._under_way.values())

    def cancel(self) -> None:
        """Cancel what was not started."""
        for future in list(self._under_way):
            future.cancel()

    def outcomes(self, refresh: Callable[[], None]) -> Iterator[Outcome]:
        """Submit all tasks, and give the outcomes as they come; calls `refresh` while none does."""
        for _ in range(min(len(self._events), self._limits.max_events or len(self._events))):
            self._begin(self._events.popleft())
        while self._ready or self._under_way:
            # What has come back goes first: with an executor that runs each call in submit, all would else
            # be computed before the first outcome is seen.
            if self._ready and self._back.empty():
                self._submit(self._ready.popleft())
                continue
            try:
                future = self._back.get(timeout=REFRESH)
            except Empty:
                refresh()
                continue
            step = self._under_way.pop(future)
            yield from self._outcomes_of(step, future)
            self._go_on(step.event)

    # -- what is to be done next ----------------------------------------------------------------

    def _begin(self, event: Event) -> None:
        if self._limits.nested:
            codes = list(event.waiting)
            event.waiting.clear()
            event.kept = self._kept.count(event.name)
            self._add(event, codes, eventwork.run_event, codes, event.setup_path, self._limits.max_stations)
        elif self._work.setup is not None:
            self._add(event, [], eventwork.set_up, event.name, event.setup_path)
        else:
            self._fill(event)

    def _fill(self, event: Event) -> None:
        """Make tasks of the event's pairs, as many as may be under way."""
        limit = self._limits.max_stations
        while event.waiting and (limit is None or event.open < limit):
            codes = [event.waiting.popleft()]
            self._add(event, codes, eventwork.run_pairs, codes, event.setup_path)

    def _add(
        self, event: Event, codes: list[Code], function: Callable[..., Any], *arguments: object
    ) -> None:
        event.open += 1
        self._ready.append(Step(event, codes, function, arguments))

    def _go_on(self, event: Event) -> None:
        """One of the event's tasks is over."""
        event.open -= 1
        self._fill(event)
        if event.open == 0:
            self._kept.remove_setups(event.name)
            if self._events:
                self._begin(self._events.popleft())

    def _submit(self, step: Step) -> None:
        # What all tasks have in common belongs to the function: executors of this package store it once.
        function = partial(step.function, self._work)
        try:
            future = self._executor.submit(function, *step.arguments)
        except BrokenExecutor as error:  # the step has failed, and what is kept is still to be returned
            future = Future()
            future.set_exception(error)
        self._under_way[future] = step
        future.add_done_callback(self._back.put)

    # -- what has come back ---------------------------------------------------------------------

    def _outcomes_of(self, step: Step, future: Future[Any]) -> Iterator[Outcome]:
        try:
            value = future.result()
        except (Exception, CancelledError) as error:  # of the executor: any
            yield from self._lost(step, error)
            return
        if step.codes:
            yield from map(self._outcome, value)
        elif value is not None:
            yield from self._without_setup(step.event, value)

    def _lost(self, step: Step, error: BaseException) -> Iterator[Outcome]:
        """The outcomes of a task that did not return: those that it has written, and failures."""
        if not step.codes:
            name = step.event.name
            yield from self._without_setup(step.event, eventwork.lose(self._work, name, name, error))
        written = self._kept.outcomes(step.codes, {self._work.fingerprint})
        for code in step.codes:
            if code in written:
                yield written[code]
            else:
                yield self._outcome(eventwork.lose_pair(self._work, code, error))

    def _without_setup(self, event: Event, why: Caught) -> Iterator[Outcome]:
        codes = list(event.waiting)
        event.waiting.clear()
        for code in codes:
            yield self._outcome(eventwork.fail_pair(self._work, code, why))

    def _outcome(self, data: bytes) -> Outcome:
        record = unseal(data)
        assert record is not None, "a record came back that is not whole"
        return self._kept.outcome(record)


# Options ---------------------------------------------------------------------------------------------------


def _checked_code(code: Code) -> Code:
    if not isinstance(code, Code):
        raise TypeError(f"a pair is given as Code(event, station), not as {code!r}")
    return code


def _limit(name: str, value: Optional[int]) -> Optional[int]:
    return None if value is None else whole_number(name, value, least=1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
    return value


def _style(level: int | str, form: str) -> LogStyle:
    handler = logging.Handler()
    try:
        handler.setLevel(level)
        handler.setFormatter(logging.Formatter(form))
    except ValueError as error:
        raise OptionError(f"log_level and log_format must be as in logging: {error}") from error
    return LogStyle(handler.level, form)
