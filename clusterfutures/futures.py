"""Where outcomes go: a `Future` for each `submit`, and for `map` a row of results without futures.

Two hundred thousand `Future` objects would cost more than the tasks of a `map`; a row needs one list slot an
item, and the results are unpickled where they are consumed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, NoReturn, Optional, Protocol, TypeVar, Union, overload

from clusterfutures import payload
from clusterfutures.records import RAISED

if TYPE_CHECKING:
    from clusterfutures.dispatch import Dispatcher
    from clusterfutures.obituary import Post
    from clusterfutures.records import Cost
    from clusterfutures.spool import WorkerRef

T = TypeVar("T")

log = logging.getLogger("clusterfutures")


class Printed:
    """Where a task's output stands: byte ranges of its worker's two logs."""

    __slots__ = ("stderr", "stdout", "worker")

    def __init__(self, worker: WorkerRef, stdout: tuple[int, int], stderr: tuple[int, int]) -> None:
        self.worker, self.stdout, self.stderr = worker, stdout, stderr


class ClusterFuture(Future[T]):
    """A `concurrent.futures.Future` that also knows where its task runs and what it cost.

    All of the following are None until they are known:

    - `task` (int): the task's number in its run; `attempt` (int): how often it was run before;
    - `name` (str): the one that ``options(name=...)`` gave it;
    - `worker` (str), `node` (str), `job_id` (str), `pid` (int): who runs it, from its start on;
    - `queue_time`, `wall_time`, `cpu_time` (seconds): from `submit` to the start, and what the
      function took; CPU time includes finished child processes.  Below a millisecond the wall time is
      given for both;
    - `peak_memory` (bytes): the largest resident size of its process since the bundle of tasks
      that it came in was begun;
    - `exit_code` (int): 0 if the task ended by itself, else that of its worker.

    >>> from clusterfutures import LocalExecutor
    >>> with LocalExecutor(1) as ex:
    ...     future = ex.submit(print, "from the worker")
    >>> future.stdout().strip(), future.attempt, future.exit_code
    ('from the worker', 0, 0)

    >>> with LocalExecutor(1) as ex:
    ...     future = ex.submit(time.sleep, 0.2)
    >>> future.queue_time > 0, future.wall_time >= 0.2, future.cpu_time < future.wall_time
    (True, True, True)
    >>> print(future.worker, "on", future.node)
    0.0.0-0.0 on ...
    """

    task: Optional[int] = None
    name: Optional[str] = None
    attempt: int = 0
    exit_code: Optional[int] = None
    queue_time: Optional[float] = None
    _post: Optional[Post] = None
    _ran_by: Optional[WorkerRef] = None
    _cost: Optional[Cost] = None
    _printed: Optional[Printed] = None  # of a task that was lost

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._hold = dispatcher.hold
        self._submitted = time.monotonic()

    def _begin(self, post: Post) -> None:
        """It starts at `post` before anybody has seen it, and could have cancelled it."""
        self._post = post
        self._state = "RUNNING"

    @property
    def worker(self) -> Optional[str]:
        """The worker that runs it, by name."""
        return self._post.worker if self._post else None

    @property
    def pid(self) -> Optional[int]:
        """The worker's process id, on its node."""
        return self._post.pid if self._post else None

    @property
    def node(self) -> Optional[str]:
        """The node that the worker is on."""
        return self._post.node if self._post else None

    @property
    def job_id(self) -> Optional[str]:
        """The scheduler's id of the worker's job."""
        return self._post.job_id if self._post else None

    @property
    def wall_time(self) -> Optional[float]:
        """Seconds that the function took."""
        return self._cost.wall if self._cost else None

    @property
    def cpu_time(self) -> Optional[float]:
        """Seconds of CPU that the function took."""
        return self._cost.cpu if self._cost else None

    @property
    def peak_memory(self) -> Optional[int]:
        """Bytes that the process held at its largest."""
        return self._cost.peak_memory if self._cost else None

    @property
    def state(self) -> str:
        """One of "PENDING", "RUNNING", "CANCELLED" and "FINISHED".

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     done, waits = ex.submit(abs, -1), ex.submit(abs, Future())
        ...     done.result(), done.state, waits.state, waits.cancel(), waits.state
        (1, 'FINISHED', 'PENDING', True, 'CANCELLED')
        """
        state: str = self._state
        return "CANCELLED" if state.startswith("CANCELLED") else state

    def result(self, timeout: Optional[float] = None) -> T:
        """As `Future.result`; an exception whose truth value is false is raised as well."""
        error = self.exception(timeout)
        if error is None:
            return self._result  # type: ignore[return-value]
        try:
            raise error
        finally:
            del self, error  # no cycle through this frame

    def cancel(self) -> bool:
        """Cancel the task unless it has started, as `Future.cancel`."""
        if self._state == "PENDING" and not self._dispatcher.queued.may_cancel(self.task):
            return False
        done = super().cancel()
        if done:
            self._dispatcher.note_cancelled()
        return done

    def kill(self) -> bool:
        """End the task: cancel it if it has not started, else kill its worker while it runs this very task.

        Other tasks of the worker run elsewhere.  The future then raises
        :class:`~clusterfutures.errors.TaskKilled`.  Returns False if the task is done already.

        >>> import time
        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1, keep="never") as ex:
        ...     ex.submit(time.sleep, 3600).kill()
        True
        """
        if self.cancel():
            return True
        return not self.done() and self._dispatcher.kill_task(self)

    def _output(self) -> Optional[Printed]:
        """Where what it has written stands, once it has ended."""
        if self._ran_by is None or self._cost is None:
            return self._printed
        return Printed(self._ran_by, self._cost[3::2], self._cost[4::2])

    def stdout(self) -> str:
        """What the task has written to standard output, so far or in all."""
        return self._dispatcher.printed(self, "stdout")

    def stderr(self) -> str:
        """What the task has written to standard error, so far or in all.

        >>> import os
        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     future = ex.submit(os.write, 2, b"12 picks are doubtful")
        >>> future.stderr()
        '12 picks are doubtful'
        """
        return self._dispatcher.printed(self, "stderr")


class Futures(Sequence["ClusterFuture[Any]"]):
    """The futures of a run, in the order in which its tasks were submitted, and by the user's own names.

    Of several tasks with one name it is the last.

    >>> from clusterfutures import LocalExecutor
    >>> LocalExecutor(1).futures
    <0 futures>
    """

    def __init__(self, futures: Sequence[ClusterFuture[Any]]) -> None:
        self._futures = futures
        self._by_name = {future.name: future for future in futures if future.name}

    def __len__(self) -> int:
        return len(self._futures)

    @overload
    def __getitem__(self, which: Union[int, str]) -> ClusterFuture[Any]: ...

    @overload
    def __getitem__(self, which: slice) -> Sequence[ClusterFuture[Any]]: ...

    def __getitem__(
        self, which: Union[int, str, slice]
    ) -> Union[ClusterFuture[Any], Sequence[ClusterFuture[Any]]]:
        if isinstance(which, str):
            if which not in self._by_name:
                raise KeyError(f"no task was named {which!r}; `names` has those that were")
            return self._by_name[which]
        return self._futures[which]

    @property
    def names(self) -> list[str]:
        """The names that there are, in the order of their tasks."""
        return list(self._by_name)

    def _ipython_key_completions_(self) -> list[str]:
        """What IPython and Jupyter offer after ``futures["``."""
        return self.names

    def __repr__(self) -> str:
        return f"<{len(self)} futures>"


class Settled:
    """A future's outcome on its way out of the lock: a pickled value or error, or an error of our own."""

    __slots__ = ("body", "error", "future", "status")

    def __init__(
        self,
        future: ClusterFuture[Any],
        status: int = RAISED,
        body: bytes = b"",
        error: Optional[BaseException] = None,
    ) -> None:
        self.future, self.status, self.body, self.error = future, status, body, error

    def deliver(self) -> None:
        """Resolve the future and run its callbacks; nothing that one does can end this thread."""
        try:
            self._resolve()
        except InvalidStateError:
            log.warning("a future was resolved by somebody else: %r", self.future)
        except BaseException:  # a callback may raise what `Future` does not catch, as SystemExit
            log.exception("a callback of %r raised", self.future)

    def _resolve(self) -> None:
        future, error = self.future, self.error
        value: Any = None
        if error is None:
            try:
                if self.status == RAISED:
                    error = payload.loads_error(self.body)
                else:
                    value = _value(self.body)
            except BaseException as problem:  # a result's own __setstate__ may raise SystemExit, too
                error = problem
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
            # Breaks the cycle future -> exception -> frame -> self.
            self.error = error = None


def _value(body: bytes) -> Any:
    """What a task has returned; raises TaskPicklingError, which names what is in it, if it cannot be had."""
    try:
        return payload.loads_result(body)
    except Exception as problem:  # of the user's classes: any
        from clusterfutures.errors import TaskPicklingError

        names = ", ".join(payload.names_in(body))
        of = f", made of {names}," if names else ""
        text = f"the task returned, but its result{of} cannot be unpickled here: {problem!r}"
        raise TaskPicklingError(text) from problem


class Failed:
    """In a row of results: an error of our own instead of an outcome."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Raised:
    """In a row of results: a pickled error."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


Slot = Union[None, bytes, Raised, Failed]


class Sink(Protocol):
    """What gets the outcomes of a run of consecutive tasks."""

    def begin(self, first: int, count: int, post: Post) -> list[int]:
        """These tasks are about to start, at `post`; returns those that were cancelled before."""

    def fail(self, number: int, error: BaseException) -> Optional[Settled]:
        """Task `number` ends with an error of ours; what is returned is delivered outside of the lock."""

    def sweep(self, first: int, count: int) -> list[int]:
        """Those of these pending tasks that were cancelled, and are hereby gone."""

    def sweeps(self, number: int) -> bool:
        """Whether this pending task was cancelled."""

    def cancel(self, first: int, count: int) -> None:
        """These tasks will never run.  Called without locks, since callbacks run."""


class FutureSink:
    """The futures of the tasks that were submitted one by one, by number."""

    def __init__(self) -> None:
        self.futures: dict[int, ClusterFuture[Any]] = {}

    def begin(self, first: int, count: int, post: Post) -> list[int]:
        """Set them running."""
        futures = self.futures
        cancelled = []
        for number in range(first, first + count):
            future = futures[number]
            future._post = post
            # One that was taken from another worker is running already.
            if future._state != "RUNNING" and not future.set_running_or_notify_cancel():
                cancelled.append(number)
                del futures[number]
        return cancelled

    def sweeps(self, number: int) -> bool:
        """Whether its future was cancelled."""
        return self.futures[number].cancelled()

    def sweep(self, first: int, count: int) -> list[int]:
        """Those of these pending tasks that were cancelled, and are hereby gone."""
        futures = self.futures
        cancelled = [n for n in range(first, first + count) if futures[n].cancelled()]
        for number in cancelled:
            futures.pop(number).set_running_or_notify_cancel()  # tells `wait` and `as_completed`
        return cancelled

    def fail(self, number: int, error: BaseException) -> Optional[Settled]:
        """The future gets the error."""
        future = self.futures.pop(number)
        # Whoever waits for one that was cancelled a moment ago has not been told yet.
        if future._state in ("PENDING", "CANCELLED") and not future.set_running_or_notify_cancel():
            return None
        return Settled(future, error=error) if not future.cancelled() else None

    def cancel(self, first: int, count: int) -> None:
        """Cancel the futures."""
        for number in range(first, first + count):
            future = self.futures.pop(number)
            if Future.cancel(future):
                future.set_running_or_notify_cancel()
            else:  # it was tried before: too late to be cancelled, and it will not be tried again
                future.set_exception(CancelledError())


class Piece:
    """Consecutive items of one `map`, and the slots for their results."""

    __slots__ = ("first", "row", "slots")

    def __init__(self, row: Row, first: int, count: int) -> None:
        self.row = row
        self.first = first
        self.slots: list[Slot] = [None] * count

    def begin(self, first: int, count: int, post: Post) -> list[int]:
        """Items have no futures: they are cancelled all together or not at all."""
        return self.sweep(first, count)

    def fail(self, number: int, error: BaseException) -> Optional[Settled]:
        """The item's slot gets the error."""
        self.slots[number - self.first] = Failed(error)
        self.row.arrived()
        return None

    def sweeps(self, number: int) -> bool:
        """Whether the iterator over the results was closed."""
        return self.row.cancelled

    def sweep(self, first: int, count: int) -> list[int]:
        """All of them, once the iterator over the results was closed."""
        return list(range(first, first + count)) if self.row.cancelled else []

    def cancel(self, first: int, count: int) -> None:
        """Each item's slot says so."""
        for index in range(first - self.first, first - self.first + count):
            self.slots[index] = Failed(CancelledError())
        self.row.arrived()


class Row:
    """The results of one `map`, in the order of its items; `on_close` is called when nobody wants more."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._pieces: deque[Piece] = deque()
        self._changed = threading.Condition()
        self._on_close = on_close
        self.cancelled = False

    def piece(self, first: int, count: int) -> Piece:
        """Room for more items, whose tasks are numbered from `first`."""
        piece = Piece(self, first, count)
        self._pieces.append(piece)
        return piece

    def failed(self, error: BaseException) -> None:
        """An item that never became a task."""
        self.piece(-1, 1).slots[0] = Failed(error)

    def arrived(self) -> None:
        """Some slot was filled."""
        with self._changed:
            self._changed.notify_all()

    def results(self, deadline: Optional[float], refill: Optional[Callable[[], None]]) -> Iterator[Any]:
        """Yield the items' results in order; raises the item's exception in its place.

        `refill` is called after each, to submit further items.  Raises TimeoutError when `deadline`
        (monotonic clock) has passed.
        """
        pieces = self._pieces
        try:
            while pieces:
                piece = pieces[0]
                for index in range(len(piece.slots)):
                    slot = piece.slots[index]
                    if slot is None:
                        slot = self._await(piece.slots, index, deadline)
                    piece.slots[index] = None  # results are freed while the caller iterates
                    if type(slot) is not bytes:
                        _raise(slot)
                    yield _value(slot)
                    del slot
                    if refill is not None:
                        refill()
                pieces.popleft()
        finally:
            self.cancelled = True
            pieces.clear()
            self._on_close()

    def _await(self, slots: list[Slot], index: int, deadline: Optional[float]) -> Slot:
        with self._changed:
            while slots[index] is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise _timeout()
                self._changed.wait(left)
        return slots[index]


def _timeout() -> BaseException:
    # Before Python 3.11 this is not the built-in one, and callers catch the module's.
    from concurrent.futures import TimeoutError as ConcurrentTimeoutError

    return ConcurrentTimeoutError()


def _raise(slot: Slot) -> NoReturn:
    if isinstance(slot, Raised):
        error: BaseException = payload.loads_error(slot.body)
    else:
        assert isinstance(slot, Failed)
        error = slot.error
    try:
        raise error
    finally:
        del error, slot  # no cycle through this frame
