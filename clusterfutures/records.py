"""What processes tell each other: every record of the logs, and its bytes.

A record is a named tuple with a struct.  Nothing here is a pickle, except the opaque bodies that
:mod:`clusterfutures.payload` makes.
"""

from __future__ import annotations

from itertools import accumulate
from struct import Struct, pack, unpack_from

from clusterfutures.light import NamedTuple
from clusterfutures.logs import Location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# -- kinds of records in the journal (driver)
TASKS = 1  # a batch of tasks
FUNCTION = 2  # one pickled function
WAITING = 3  # a task that waits for others
CANCELLED = 4  # task numbers that will never run
RUN = 5  # how the executor was made, and where: what another driver goes on with
KIND = 6  # what the jobs for one kind of tasks need
POLICY = 7  # how some tasks are treated; numbered from 1 in the order of these records
GONE = 8  # a supervisor, and how its job ended
AGAIN = 9  # a task that is to be tried again, and why

# -- in an inbox (driver -> worker or supervisor)
ASSIGN = 10  # run these tasks
GIVEN = 16  # run this one, which is here and not in the journal: a lone call
RECALL = 11  # hand back what has not been started
LEAVE = 12  # finish what is assigned, then exit
WANT = 13  # supervisor: have so many workers
KILL = 14  # supervisor: end this worker, or this task of it
STOP = 15  # supervisor: end everything now
TIME_LEFT = 17  # this many seconds of wall time are left

# -- in an outbox (worker -> driver)
OUTCOME = 20
RETURNED = 21  # the number of assigned tasks handed back, from the end
READY = 22  # the initializer is done
BROKEN = 23  # the initializer, or the start, failed: an error follows
RETIRED = 24  # as RETURNED; and the worker leaves, since what it hands back would not end in its wall time

# -- in a supervisor's outbox (supervisor -> driver)
STARTED = 30
ENDED = 31
GAVE_UP = 32  # workers die before they are ready: text follows

# -- how a task's body is to be called
CALL = 0  # (args, kwargs)
ITEM = 1  # one argument
STAR = 2  # a tuple of arguments
UNREADABLE = 3  # not at all: the journal's record is damaged, and the body says how


_new = tuple.__new__  # half of what calling a named tuple's class costs

_BATCH = Struct("<BQIII")
_PLACE = Struct("<QQQ")


class Batch(NamedTuple):
    """Consecutive tasks that stand in the journal together.

    `first` is the number of the first; `functions` gives where each task's function stands, as an index
    into `places`; `policy` numbers the record that says how they are treated.
    """

    style: int
    first: int
    functions: Sequence[int]
    places: Sequence[Location]
    bodies: list[bytes] | BodySlices
    policy: int = 0

    def pack(self) -> bytes:
        """The record's body."""
        count, places = len(self.bodies), self.places
        head = _BATCH.pack(self.style, self.first, count, len(places), self.policy)
        table = b"".join([_PLACE.pack(*place) for place in places])
        lengths = pack(f"<{count}Q", *map(len, self.bodies))
        functions = pack(f"<{count}I", *self.functions) if len(places) > 1 else b""
        return b"".join([head, table, lengths, functions, *self.bodies])

    @classmethod
    def unpack(cls, data: bytes) -> Batch:
        """The batch that `data` holds; its bodies are cut out lazily by :class:`BodySlices`."""
        style, first, count, n_places, policy = _BATCH.unpack_from(data)
        at = _BATCH.size
        places = [Location(*_PLACE.unpack_from(data, at + i * _PLACE.size)) for i in range(n_places)]
        at += n_places * _PLACE.size
        lengths = unpack_from(f"<{count}Q", data, at)
        at += 8 * count
        functions: Sequence[int]
        if n_places > 1:
            functions = unpack_from(f"<{count}I", data, at)
            at += 4 * count
        else:
            functions = bytes(count)
        return cls(style, first, functions, places, BodySlices(data, at, lengths), policy)


class BodySlices:
    """The bodies of an unpacked batch, cut out when a slice of them is asked for."""

    def __init__(self, data: bytes, start: int, lengths: Sequence[int]) -> None:
        self._data = data
        self._ends = list(accumulate(lengths, initial=start))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, part: slice) -> list[bytes]:
        data, ends = self._data, self._ends[part.start : part.stop + 1]
        return [data[begin:end] for begin, end in zip(ends, ends[1:])]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self[0 : len(self)])


_ASSIGN = Struct("<QQQQIIIdd")


class Assign(NamedTuple):
    """Run so many `tasks` of the batch at `place`, from its item `start` on, which is task number `first`.

    `timeout` in seconds ends the worker if one of them takes longer; 0 is none.  `expected` is how many
    seconds one of them will probably take; 0 if nobody knows.
    """

    place: Location
    first: int
    start: int
    tasks: int
    attempt: int
    timeout: float
    expected: float = 0.0

    def pack(self) -> bytes:
        """The record's body."""
        return _ASSIGN.pack(*self.place, *self[1:])

    @classmethod
    def unpack(cls, data: bytes) -> Assign:
        """The inverse of :meth:`pack`."""
        fields = _ASSIGN.unpack_from(data)
        return cls(Location(*fields[:3]), *fields[3:])


ASSIGN_SIZE = _ASSIGN.size
"""Bytes of a packed :class:`Assign`."""


_TASK = Struct("<QIddBQQQI")


class Task(NamedTuple):
    """One task, ready to be run: `function` is where its function stands, the rest as in :class:`Assign`.

    Its record also has the number of its policy, for a driver that finds it there; workers pass over it.
    """

    number: int
    attempt: int
    timeout: float
    expected: float
    style: int
    function: Location
    body: bytes

    def pack(self, policy: int = 0) -> bytes:
        """The record's body."""
        return _TASK.pack(*self[:5], *self.function, policy) + self.body

    @classmethod
    def unpack(cls, data: bytes) -> Task:
        """The inverse of :meth:`pack`."""
        fields = _TASK.unpack_from(data)
        return _new(cls, (*fields[:5], _new(Location, fields[5:8]), data[_TASK.size :]))

    @staticmethod
    def policy_in(data: bytes) -> int:
        """The number of the policy in the body of such a record."""
        return int(_TASK.unpack_from(data)[8])


class Cost(NamedTuple):
    """What a task cost, and where its output stands in the worker's log.

    `wall` and `cpu` in seconds (user and system, children included), `peak_memory` in bytes: the
    largest resident size of the process since the bundle that the task came in was begun; the others
    are byte offsets.
    """

    wall: float
    cpu: float
    peak_memory: int
    stdout_begin: int
    stderr_begin: int
    stdout_end: int
    stderr_end: int


RETURNED_VALUE = 0
RAISED = 1

OUTCOME_HEAD = Struct("<QIBddQQQQQ")
"""What became of a task: number, attempt, status (RETURNED_VALUE or RAISED), and the fields of :class:`Cost`.

The pickled value or error follows.
"""


_STARTED = Struct("<IIQ")


class Started(NamedTuple):
    """A supervisor started a worker."""

    slot: int
    generation: int
    pid: int

    def pack(self) -> bytes:
        """The record's body."""
        return _STARTED.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Started:
        """The inverse of :meth:`pack`."""
        return cls(*_STARTED.unpack(data))


class Ready(NamedTuple):
    """A worker can take tasks: its process id, its job's id, and the name of its node."""

    pid: int
    job_id: str
    node: str

    def pack(self) -> bytes:
        """The record's body."""
        return f"{self.pid} {self.job_id} {self.node}".encode("utf-8", "surrogateescape")

    @classmethod
    def unpack(cls, data: bytes) -> Ready:
        """The inverse of :meth:`pack`."""
        pid, job_id, node = data.decode("utf-8", "surrogateescape").split(" ", 2)
        return cls(int(pid), job_id, node)


_ENDED = Struct("<IIIQB")


class Ended(NamedTuple):
    """A worker ended: `status` as waitpid gives it, `task` the number + 1 of what it was running, else 0.

    `reason` says why the supervisor ended it, or what it saw: OWN (nothing), ASKED, TIMED_OUT, MEMORY,
    ORPHANED, or one of BY_SITE.
    """

    slot: int
    generation: int
    status: int
    task: int
    reason: int

    def pack(self) -> bytes:
        """The record's body."""
        return _ENDED.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Ended:
        """The inverse of :meth:`pack`."""
        return cls(*_ENDED.unpack(data))


OWN = 0
ASKED = 1
TIMED_OUT = 2
SITE = 3  # the supervisor itself was told to end, by whoever owns the job: the scheduler knows why
MEMORY = 4  # the kernel killed it for its memory
SITE_TIME = 5  # as SITE, and the job's own log says that it is for its wall time or CPU time
SITE_MEMORY = 6  # the same for its memory
ORPHANED = 7  # the supervisor ended it, since nothing was heard of the driver
BY_SITE = (SITE, SITE_TIME, SITE_MEMORY)


_KILL = Struct("<IIQI")


class Kill(NamedTuple):
    """End the worker in a slot: whatever it does (`task` 0) or only while it runs task number `task` - 1."""

    slot: int
    generation: int
    task: int
    signal: int

    def pack(self) -> bytes:
        """The record's body."""
        return _KILL.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Kill:
        """The inverse of :meth:`pack`."""
        return cls(*_KILL.unpack(data))


SECONDS = Struct("<d")
"""The body of TIME_LEFT."""

NUMBER = Struct("<Q")
"""The body of WANT, RETURNED, RETIRED and CANCELLED records: one number."""


_WAITING = Struct("<QBQQQII")


class Waiting(NamedTuple):
    """A task that waits.

    `parents` are the numbers of the tasks that it waits for, plus one; 0 stands for a future of elsewhere.
    """

    number: int
    style: int
    function: Location
    parents: Sequence[int]
    body: bytes
    policy: int = 0

    def pack(self) -> bytes:
        """The record's body."""
        head = _WAITING.pack(self.number, self.style, *self.function, self.policy, len(self.parents))
        return head + pack(f"<{len(self.parents)}Q", *self.parents) + self.body

    @classmethod
    def unpack(cls, data: bytes) -> Waiting:
        """The inverse of :meth:`pack`."""
        number, style, *place, policy, count = _WAITING.unpack_from(data)
        parents = unpack_from(f"<{count}Q", data, _WAITING.size)
        return cls(number, style, Location(*place), parents, data[_WAITING.size + 8 * count :], policy)


_GONE = Struct("<III")


class Gone(NamedTuple):
    """The supervisor of an element's start has ended; `status`, pickled, is what the scheduler says of it."""

    job: int
    element: int
    restart: int
    status: bytes

    def pack(self) -> bytes:
        """The record's body."""
        return _GONE.pack(*self[:3]) + self.status

    @classmethod
    def unpack(cls, data: bytes) -> Gone:
        """The inverse of :meth:`pack`."""
        job, element, restart = _GONE.unpack_from(data)
        return cls(job, element, restart, data[_GONE.size :])


_AGAIN = Struct("<QIIdI")


class Again(NamedTuple):
    """A task is tried again, as attempt number `attempt`; `free` of those before cost no retry.

    It rests for `pause` seconds first.  `policy` numbers the record that says how it is treated from here on,
    and `why` is a line about the attempt before.
    """

    number: int
    attempt: int
    free: int
    pause: float
    policy: int
    why: str

    def pack(self) -> bytes:
        """The record's body."""
        return _AGAIN.pack(*self[:5]) + self.why.encode("utf-8", "surrogatepass")

    @classmethod
    def unpack(cls, data: bytes) -> Again:
        """The inverse of :meth:`pack`."""
        number, attempt, free, pause, policy = _AGAIN.unpack_from(data)
        why = data[_AGAIN.size :].decode("utf-8", "surrogatepass")
        return cls(number, attempt, free, pause, policy, why)


BOUND = 2
"""The first byte of a task's body that has the results of other tasks with it; a payload begins otherwise."""
_COUNT = Struct("<I")


def bind(body: bytes, values: Sequence[bytes]) -> bytes:
    """A task's body together with the pickled values of the futures that it waited for."""
    lengths = pack(f"<{len(values)}Q", *map(len, values))
    return b"".join([bytes((BOUND,)), _COUNT.pack(len(values)), lengths, *values, body])


def unbind(body: bytes) -> tuple[bytes, Sequence[bytes]]:
    """The inverse of :func:`bind`."""
    (count,) = _COUNT.unpack_from(body, 1)
    at = 1 + _COUNT.size
    lengths = unpack_from(f"<{count}Q", body, at)
    slices = BodySlices(body, at + 8 * count, lengths)
    start = at + 8 * count + sum(lengths)
    return body[start:], slices[0:count]
