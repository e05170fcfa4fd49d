"""The journal: every function and task of a run, written before anybody acts on it."""

from __future__ import annotations

import pickle
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from clusterfutures import payload
from clusterfutures.logs import Location, frame
from clusterfutures.pace import Pace
from clusterfutures.records import (
    ASSIGN,
    CANCELLED,
    FUNCTION,
    GIVEN,
    NUMBER,
    TASKS,
    WAITING,
    Assign,
    Batch,
    Task,
    Waiting,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clusterfutures.futures import Sink
    from clusterfutures.spool import RunDirectory

BATCH_TASKS = 1024
BATCH_BYTES = 1 << 20
_NOWHERE = Location(0, 0, 0)


class Policy(NamedTuple):
    """How a task is treated: `retries` after a lost worker, `timeout` in seconds (0: none).

    `kind` numbers the recipes of workers: tasks with other needs are of another kind.
    """

    retries: int = 0
    timeout: float = 0.0
    kind: int = 0


class Function(NamedTuple):
    """A function of this run: where its pickle stands, and how long it takes."""

    place: Location
    pace: Pace


class Fresh(NamedTuple):
    """Consecutive tasks that are not written yet; all of one function."""

    first: int
    style: int
    function: Function
    bodies: list[bytes]
    sink: Sink
    policy: Policy


class Run:
    """Consecutive tasks of one function, written in one batch of the journal, that nobody has done yet.

    `start` is the index of the first in its batch; `done` counts outcomes once they are assigned; `free` are
    those of the earlier attempts that cost no retry.  `began` and `elapsed` tell when the next of them
    started (monotonic clock, seconds).  A lone call is in no batch: it has its `call` here (style, place of
    the function, arguments), and is written into its worker's inbox as a whole.
    """

    __slots__ = (
        "attempt", "began", "call", "count", "done", "elapsed", "first", "free", "pace", "place", "policy",
        "sink", "start",
    )  # fmt: skip

    def __init__(
        self, place: Location, start: int, first: int, count: int, sink: Sink, policy: Policy, pace: Pace,
        attempt: int = 0, call: tuple[int, Location, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.place, self.start, self.first, self.count = place, start, first, count
        self.sink, self.policy, self.pace, self.attempt = sink, policy, pace, attempt
        self.call = call
        self.done = self.free = 0
        self.began = self.elapsed = 0.0

    @classmethod
    def lone(
        cls, number: int, style: int, function: Function, body: bytes, sink: Sink, policy: Policy
    ) -> Run:
        """One task that is not in the journal."""
        call = (style, function.place, body)
        return cls(_NOWHERE, 0, number, 1, sink, policy, function.pace, 0, call)

    def part(self, skip: int, count: int, attempt: int | None = None) -> Run:
        """`count` of its tasks, from the one behind the first `skip` on."""
        part = Run(
            self.place, self.start + skip, self.first + skip, count, self.sink, self.policy, self.pace,
            self.attempt if attempt is None else attempt, self.call,
        )  # fmt: skip
        part.free = self.free
        return part

    def order(self) -> bytes:
        """The frame that has a worker run it."""
        if self.call is None:
            return frame(ASSIGN, self.assignment())
        task = Task(self.first, self.attempt, self.policy.timeout, self.pace.seconds, *self.call)
        return frame(GIVEN, task.pack())

    def assignment(self) -> bytes:
        """The body of the record that has a worker run it."""
        timeout, expected = self.policy.timeout, self.pace.seconds
        return Assign(
            self.place, self.first, self.start, self.count, self.attempt, timeout, expected
        ).pack()

    @property
    def unfinished(self) -> Run:
        """What has no outcome yet."""
        return self.part(self.done, self.count - self.done)


class Journal:
    """Writes functions and tasks; one writer at a time, its callers see to that for tasks."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._log = run.tasks()
        self._lock = threading.Lock()  # the log: functions come from any thread
        self._by_digest: dict[bytes, Function] = {}
        self._by_id: dict[int, tuple[weakref.ref[Any], Function]] = {}

    def function(self, fn: Callable[..., Any]) -> Function:
        """Where `fn` stands; writes it if its like is not there yet.

        Raises TaskPicklingError, or OSError if it cannot be written.
        """
        known = self._by_id.get(id(fn))
        if known is not None and known[0]() is fn:
            return known[1]
        data = payload.dumps_function(fn, self._run.keep_buffer)
        function = self._store(data)
        if _by_reference(fn, data):
            # Its pickle is its name: that cannot change behind our back as a closure's content can.
            self._by_id[id(fn)] = (weakref.ref(fn), function)
        return function

    def _store(self, data: bytes) -> Function:
        digest = _digest(data)
        with self._lock:
            function = self._by_digest.get(digest)
            if function is None:
                function = Function(self._log.write(frame(FUNCTION, data)), Pace())
                self._by_digest[digest] = function
        return function

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Location:
        """Write one call without a function: the initializer's arguments."""
        body = payload.dumps_call(args, kwargs, self._run.keep_buffer, None, "the initializer")
        with self._lock:
            return self._log.write(frame(FUNCTION, body))

    def write(self, fresh: Sequence[Fresh]) -> list[Run]:
        """Write these tasks, as few records in one go.  Raises OSError, and has then written none."""
        batches = list(_batches(fresh))
        frames = [frame(TASKS, _pack(batch)) for batch in batches]
        with self._lock:
            place = self._log.write(b"".join(frames))
        runs: list[Run] = []
        offset = place.offset
        for batch, data in zip(batches, frames):
            runs += _runs(batch, Location(place.segment, offset, len(data)))
            offset += len(data)
        return runs

    def waiting(
        self, number: int, style: int, function: Function, body: bytes, parents: Sequence[int]
    ) -> None:
        """Write a task that waits for others."""
        record = Waiting(number, style, function.place, parents, body)
        with self._lock:
            self._log.write(frame(WAITING, record.pack()))

    def cancelled(self, numbers: Sequence[int]) -> None:
        """Write that these will never run."""
        if numbers:
            with self._lock:
                self._log.write(frame(CANCELLED, b"".join(map(NUMBER.pack, numbers))))

    def keep(self, content: memoryview) -> str:
        """Store a large buffer; returns its digest."""
        return self._run.keep_buffer(content)

    def publish(self) -> None:
        """Make what was written visible on other machines."""
        with self._lock:
            self._log.publish()

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            self._log.abandon()  # what was to be seen was published


def _digest(data: bytes) -> bytes:
    from hashlib import sha256

    return sha256(data).digest()


def _by_reference(fn: Callable[..., Any], data: bytes) -> bool:
    """Whether the pickle `data` of `fn` is but its module and name: then the C pickler makes the same."""
    if isinstance(fn, types.BuiltinFunctionType):
        if not (fn.__self__ is None or isinstance(fn.__self__, types.ModuleType)):
            return False  # a method of some object, which is in the pickle
    elif not isinstance(fn, (types.FunctionType, type)):
        return False
    try:
        return pickle.dumps(fn, 5) == data
    except Exception:  # it has no name to be found by: then it went by value
        return False


def _batches(fresh: Sequence[Fresh]) -> list[list[Fresh]]:
    """Group what can stand in one record: consecutive numbers called in the same style."""
    batches: list[list[Fresh]] = []
    expected, style, tasks, size = -1, -1, 0, 0
    for item in fresh:
        length = sum(map(len, item.bodies))
        fits = tasks + len(item.bodies) <= BATCH_TASKS and size + length <= BATCH_BYTES
        if item.first == expected and item.style == style and fits:
            batches[-1].append(item)
        else:
            batches.append([item])
            tasks = size = 0
        expected, style = item.first + len(item.bodies), item.style
        tasks += len(item.bodies)
        size += length
    return batches


def _pack(batch: Sequence[Fresh]) -> bytes:
    if len(batch) == 1:
        only = batch[0]
        return Batch(only.style, only.first, (), (only.function.place,), only.bodies).pack()
    places: dict[Location, int] = {}
    functions: list[int] = []
    bodies: list[bytes] = []
    for item in batch:
        index = places.setdefault(item.function.place, len(places))
        functions += [index] * len(item.bodies)
        bodies += item.bodies
    return Batch(batch[0].style, batch[0].first, functions, list(places), bodies).pack()


def _runs(batch: Sequence[Fresh], place: Location) -> list[Run]:
    """The batch as runs: neighbours that share function, sink and policy are one."""
    runs: list[Run] = []
    start = 0
    last: Fresh | None = None
    for item in batch:
        count = len(item.bodies)
        if last is not None and item[2] is last[2] and item[4] is last[4] and item[5] is last[5]:
            runs[-1].count += count
        else:
            runs.append(Run(place, start, item.first, count, item.sink, item.policy, item.function.pace))
        start += count
        last = item
    return runs


__all__ = ["Fresh", "Function", "Journal", "Policy", "Run"]
