"""The journal: every function and task of a run, written before anybody acts on it.

Beside them it has what another driver needs to go on (:mod:`clusterfutures.history`): how the executor was
made, what each kind of tasks needs, how tasks are treated, which are tried again,
which jobs have ended and how.
"""

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
    AGAIN,
    ASSIGN,
    CANCELLED,
    FUNCTION,
    GIVEN,
    GONE,
    KIND,
    NUMBER,
    POLICY,
    RUN,
    TASKS,
    WAITING,
    Again,
    Assign,
    Batch,
    Gone,
    Task,
    Waiting,
)
from clusterfutures.retries import NO_RETRIES, Retries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clusterfutures.futures import Sink
    from clusterfutures.logs import LogReader
    from clusterfutures.schedulers.base import JobStatus
    from clusterfutures.spool import RunDirectory, WorkerRef

BATCH_TASKS = 1024
BATCH_BYTES = 1 << 20
_NOWHERE = Location(0, 0, 0)


class Policy(NamedTuple):
    """How a task is treated: `retries`, and the `timeout` in seconds (0: none).

    `kind` numbers the recipes of workers: tasks with other needs are of another kind.  `name` is the user's
    own for them, '' for none.
    """

    retries: Retries = NO_RETRIES
    timeout: float = 0.0
    kind: int = 0
    name: str = ""


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
    those of the earlier attempts that cost no retry, `earlier` tells how they ended.  `began` and `elapsed`
    tell when the next of them started (monotonic clock, seconds).  A lone call is in no batch: it has its
    `call` here (style, place of the function, arguments; and its policy's number), and is written into its
    worker's inbox as a whole.
    """

    __slots__ = (
        "attempt", "began", "call", "count", "done", "earlier", "elapsed", "first", "free", "pace", "place",
        "policy", "sink", "start",
    )  # fmt: skip

    def __init__(
        self, place: Location, start: int, first: int, count: int, sink: Sink, policy: Policy, pace: Pace,
        attempt: int = 0, call: tuple[tuple[int, Location, bytes], int] | None = None,
    ) -> None:  # fmt: skip
        self.place, self.start, self.first, self.count = place, start, first, count
        self.sink, self.policy, self.pace, self.attempt = sink, policy, pace, attempt
        self.call = call
        self.done = self.free = 0
        self.began = self.elapsed = 0.0
        self.earlier: tuple[str, ...] = ()

    @classmethod
    def lone(
        cls, number: int, style: int, function: Function, body: bytes, sink: Sink, policy: Policy,
        known_as: int,
    ) -> Run:  # fmt: skip
        """One task that is not in the journal; its policy is `known_as` that number there."""
        call = ((style, function.place, body), known_as)
        return cls(_NOWHERE, 0, number, 1, sink, policy, function.pace, 0, call)

    def part(self, skip: int, count: int, attempt: int | None = None) -> Run:
        """`count` of its tasks, from the one behind the first `skip` on."""
        part = Run(
            self.place, self.start + skip, self.first + skip, count, self.sink, self.policy, self.pace,
            self.attempt if attempt is None else attempt, self.call,
        )  # fmt: skip
        part.free, part.earlier = self.free, self.earlier
        return part

    def order(self) -> bytes:
        """The frame that has a worker run it."""
        if self.call is None:
            return frame(ASSIGN, self.assignment())
        call, policy = self.call
        task = Task(self.first, self.attempt, self.policy.timeout, self.pace.seconds, *call)
        return frame(GIVEN, task.pack(policy))

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
        self._policies = 0
        self._policy_by_pickle = {_pickled(Policy()): 0}  # they are not hashable
        self._last_policy = (Policy(), 0)
        self._by_digest: dict[bytes, Function] = {}
        self._by_id: dict[int, tuple[weakref.ref[Any], Function]] = {}

    def go_on_after(self, reader: LogReader, policies: int) -> None:
        """Write behind what an earlier driver has written, which `reader` has read: so many `policies`."""
        self._log.go_on_after(reader)
        self._policies = policies

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
        frames = [frame(TASKS, _pack(batch, self.policy(batch[0].policy))) for batch in batches]
        with self._lock:
            place = self._log.write(b"".join(frames))
        runs: list[Run] = []
        offset = place.offset
        for batch, data in zip(batches, frames):
            runs += _runs(batch, Location(place.segment, offset, len(data)))
            offset += len(data)
        return runs

    def policy(self, policy: Policy) -> int:
        """The number of `policy`, from 1 on, 0 for the default; writes it if it is new.

        Raises OSError if it cannot be written.
        """
        last, number = self._last_policy
        if last is not policy:
            data = _pickled(policy)
            with self._lock:
                number = self._policy_by_pickle.get(data, -1)
                if number < 0:
                    self._log.write(frame(POLICY, data))
                    self._policies = number = self._policies + 1
                    self._policy_by_pickle[data] = number
            self._last_policy = (policy, number)
        return number

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write how the executor was made; plain data."""
        self._note(RUN, payload.dumps_result(dict(about)))

    def kind(self, kind: int, needs: Mapping[str, Any]) -> None:
        """Write what a kind of tasks needs from now on; plain data."""
        self._note(KIND, payload.dumps_result((kind, dict(needs))))

    def gone(self, supervisor: WorkerRef, status: JobStatus) -> None:
        """Write that a supervisor's job has ended, and how."""
        self._note(GONE, Gone(*supervisor[:3], payload.dumps_result(tuple(status))).pack())

    def _note(self, kind: int, body: bytes) -> None:
        with self._lock:
            self._log.write(frame(kind, body))

    def waiting(
        self,
        number: int,
        style: int,
        function: Function,
        body: bytes,
        parents: Sequence[int],
        policy: Policy = Policy(),  # noqa: B008 - it is a constant
    ) -> None:
        """Write a task that waits for others."""
        record = Waiting(number, style, function.place, parents, body, self.policy(policy))
        self._note(WAITING, record.pack())

    def again(self, run: Run, pause: float) -> None:
        """Write that the task of `run`, a single one, is tried again after `pause` seconds."""
        policy = self.policy(run.policy)
        record = Again(run.first, run.attempt, run.free, pause, policy, run.earlier[-1])
        self._note(AGAIN, record.pack())

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


def _pickled(policy: Policy) -> bytes:
    return payload.dumps_result(tuple(policy))


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
    """Group what can stand in one record: consecutive numbers that are called and treated alike."""
    batches: list[list[Fresh]] = []
    expected, style, tasks, size = -1, -1, 0, 0
    policy: Policy | None = None
    for item in fresh:
        length = sum(map(len, item.bodies))
        fits = tasks + len(item.bodies) <= BATCH_TASKS and size + length <= BATCH_BYTES
        if item.first == expected and item.style == style and item.policy == policy and fits:
            batches[-1].append(item)
        else:
            batches.append([item])
            tasks = size = 0
        expected, style, policy = item.first + len(item.bodies), item.style, item.policy
        tasks += len(item.bodies)
        size += length
    return batches


def _pack(batch: Sequence[Fresh], policy: int) -> bytes:
    if len(batch) == 1:
        only = batch[0]
        return Batch(only.style, only.first, (), (only.function.place,), only.bodies, policy).pack()
    places: dict[Location, int] = {}
    functions: list[int] = []
    bodies: list[bytes] = []
    for item in batch:
        index = places.setdefault(item.function.place, len(places))
        functions += [index] * len(item.bodies)
        bodies += item.bodies
    return Batch(batch[0].style, batch[0].first, functions, list(places), bodies, policy).pack()


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
