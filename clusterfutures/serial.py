"""The executor that has no workers: each call runs where it is made.

For the debugger, which then stops in the task itself, and for the tests of programs that are given executors.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from itertools import count, islice
from typing import Any, Optional, TypeVar

from clusterfutures.errors import DependencyFailed, InitializerFailed, twin_of
from clusterfutures.options import (
    check_executor,
    check_initargs,
    job_options,
    patience,
    task_options,
    whole_number,
)

T = TypeVar("T")


class SerialFuture(Future[T]):
    """The future of a call that is over: it has what a :class:`~clusterfutures.ClusterFuture` has.

    What there is not (worker, node, job, the peak of its memory) is None, and what the call printed has gone
    where all output of this program goes.
    """

    attempt = 0
    exit_code = 0
    queue_time = 0.0
    name: Optional[str] = None
    worker: Optional[str] = None
    node: Optional[str] = None
    job_id: Optional[str] = None
    peak_memory: Optional[int] = None

    def __init__(self, task: int) -> None:
        super().__init__()
        self.task = task
        self.pid = os.getpid()
        self.wall_time = 0.0
        self.cpu_time = 0.0

    @property
    def state(self) -> str:
        """One of "RUNNING" and "FINISHED"."""
        return str(self._state)

    def result(self, timeout: Optional[float] = None) -> T:
        """As `Future.result`; an exception whose truth value is false is raised as well."""
        error = self.exception(timeout)
        if error is None:
            return super().result()
        try:
            raise error
        finally:
            del self, error  # no cycle through this frame

    def kill(self) -> bool:
        """False: the call is over."""
        return False

    def stdout(self) -> str:
        """Nothing: it was not caught."""
        return ""

    def stderr(self) -> str:
        """Nothing: it was not caught."""
        return ""

    def run(self, call: Callable[[], T]) -> None:
        """Make the call, and keep what comes of it."""
        self.set_running_or_notify_cancel()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            value = call()
        except KeyboardInterrupt:  # Ctrl-C is for the program, of which the call is a part here
            raise
        except BaseException as error:  # the call's, SystemExit too: for whoever asks for the result
            self._note_cost(wall, cpu)
            self.set_exception(error)
        else:
            self._note_cost(wall, cpu)
            self.set_result(value)

    def _note_cost(self, wall: float, cpu: float) -> None:
        self.wall_time, self.cpu_time = time.perf_counter() - wall, time.process_time() - cpu


class SerialExecutor(Executor):
    """The interface of all executors, in this process and thread: for debugging, and for tests.

    ``submit`` makes the call before it returns; nothing is pickled, and function, arguments and result are
    the very objects.  ``map`` does the same for all of its items, or for `buffersize` of them and then for
    one for each result that is taken; the first that fails is the last that runs.

    Parameters
    ----------
    initializer, initargs : callable and tuple, optional
        Called once, before the first call.  If it raises, the executor is broken.
    max_workers, mp_context, max_tasks_per_child, mem, time, retries, ... : optional
        What any other executor of this package takes: checked, and without effect.

    Raises
    ------
    OptionError
        For an option that is unknown or cannot be read. ValueError and TypeError as ProcessPoolExecutor does.

    Examples
    --------
    >>> from clusterfutures import SerialExecutor
    >>> with SerialExecutor() as ex:
    ...     list(ex.map(pow, [2, 3], [10, 10]))
    [1024, 59049]
    """

    def __init__(
        self,
        max_workers: Optional[int] = None,
        mp_context: object = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: Optional[int] = None,
        **options: Any,
    ) -> None:
        options["max_tasks_per_child"] = max_tasks_per_child
        task_options(options)
        workers = 1 if max_workers is None else max_workers
        self._max_workers = check_executor(options, workers, initializer, cluster=True).max_workers
        self._initializer, self._initargs = initializer, check_initargs(initargs)
        self._initializing = threading.RLock()
        self._broken: Optional[InitializerFailed] = None
        self._closed = False
        self._numbers = count()

    # -- tasks ----------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> SerialFuture[T]:
        """Call ``fn(*args, **kwargs)``, and return a future that is done.

        Futures among the arguments, also inside lists, tuples and dictionaries, are waited for and replaced
        by their results.  Raises RuntimeError after `shutdown`, and InitializerFailed once the initializer
        has failed.

        >>> with SerialExecutor() as ex:
        ...     parts = [ex.submit(pow, 10, n) for n in range(3)]
        ...     ex.submit(sum, parts).result()
        111
        """
        if self._broken is not None:
            raise twin_of(self._broken)
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

        def call() -> T:
            self._initialize()
            return fn(*_with_results(args), **_with_results(kwargs))

        future: SerialFuture[T] = SerialFuture(next(self._numbers))
        future.run(call)
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: int = 1,
        buffersize: Optional[int] = None,
    ) -> Iterator[T]:
        """The results of ``fn(a, b, ...)`` for each row of the zipped `iterables`, in order.

        `timeout` and `chunksize` have no effect: there is nothing to wait for.
        """
        return self.starmap(fn, zip(*iterables), timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    def starmap(
        self,
        fn: Callable[..., T],
        /,
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: Optional[float] = None,
        chunksize: int = 1,
        buffersize: Optional[int] = None,
    ) -> Iterator[T]:
        """The results of ``fn(*args)`` for each `args` of `iterable`, in order; else as :meth:`map`."""
        whole_number("chunksize", chunksize, least=1)
        patience("timeout", timeout)
        if buffersize is not None:
            whole_number("buffersize", buffersize, least=1)
        futures = self._until_one_fails(fn, iterable)
        return _results(deque(islice(futures, buffersize)), futures)

    def _until_one_fails(
        self, fn: Callable[..., T], rows: Iterable[Iterable[Any]]
    ) -> Iterator[SerialFuture[T]]:
        for row in rows:
            future = self.submit(fn, *row)
            yield future
            if future.exception() is not None:
                return

    def _initialize(self) -> None:
        with self._initializing:
            initializer, self._initializer = self._initializer, None
            if initializer is None:
                return
            try:
                initializer(*self._initargs)
            except Exception as error:
                self._broken = InitializerFailed(f"the initializer failed: {error!r}")
                raise self._broken from error

    def options(self, **options: Any) -> SerialExecutor:
        """The same executor: whatever can be asked for some tasks is checked, and without effect.

        Raises OptionError for an option that is unknown or cannot be read.
        """
        task_options(options)
        job_options(options, cluster=True)
        return self

    # -- what workers there are -----------------------------------------------------------------

    @property
    def active_workers(self) -> int:
        """One, which is this process; none after `shutdown`."""
        return 0 if self._closed else 1

    def wait_for_workers(self, count: int, timeout: Optional[float] = None) -> bool:
        """True: there is nothing to wait for.  Raises ValueError for more than `max_workers`."""
        patience("timeout", timeout)
        if whole_number("count", count, least=0) > self._max_workers:
            raise ValueError(f"{count} workers are more than max_workers={self._max_workers}; see scale()")
        return True

    def scale(self, count: int) -> None:
        """Set `max_workers`, which has no effect."""
        self._max_workers = whole_number("count", count, least=1)

    def flush(self) -> None:
        """Return: everything submitted so far is done."""

    @property
    def script(self) -> str:
        """Says that there is none."""
        return self.explain()

    def explain(self) -> str:
        """Says that there is no job."""
        return "# Nothing is submitted: each call runs in this process, when it is made."

    def dry_run(self) -> str:
        """Says that there is no scheduler."""
        return "there is no scheduler to ask: each call runs in this process"

    # -- the end --------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Make no more calls; those that were made are done."""
        self._closed = True

    def terminate_workers(self) -> None:
        """As `shutdown`."""
        self.shutdown()

    def kill_workers(self) -> None:
        """As `shutdown`."""
        self.shutdown()


def _results(done: deque[SerialFuture[T]], more: Iterator[SerialFuture[T]]) -> Iterator[T]:
    """The results of those that are `done`; after each, one `more` is run."""
    while done:
        yield done.popleft().result()
        done.extend(islice(more, 1))


def _with_results(value: Any) -> Any:
    """`value` with results in place of futures.  What has none in it is not copied."""
    if isinstance(value, Future):
        return _result_of(value)
    if type(value) in (list, tuple):
        items = [_with_results(item) for item in value]
        same = all(new is old for new, old in zip(items, value))
        return value if same else type(value)(items)
    if type(value) is dict:
        found = {key: _with_results(item) for key, item in value.items()}
        return value if all(found[key] is value[key] for key in value) else found
    return value


def _result_of(parent: Future[Any]) -> Any:
    try:
        error = parent.exception()
    except CancelledError:
        raise DependencyFailed("a future among the arguments was cancelled", repr(parent)) from None
    if error is not None:
        raise DependencyFailed(f"a future among the arguments failed: {error!r}", repr(parent)) from error
    return parent.result()
