"""What a worker or a supervisor has to do with its driver: an inbox, an outbox, and a bell.

The logs are the truth; the doorbell only says when to look.  Without one (switched off, no route, gone)
the inbox is looked at in intervals that grow while nothing happens.
"""

from __future__ import annotations

import os
import time

from clusterfutures.light import NamedTuple
from clusterfutures.line import Line
from clusterfutures.logs import CorruptRecord, frame, parse
from clusterfutures.spool import publish, read_own
from clusterfutures.wire import Identity, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from clusterfutures.logs import Frame
    from clusterfutures.spool import RunDirectory, WorkerRef

GREW = 1
"""Doorbell record: my log has grown, up to segment `b`; on a shared file system those before it are whole."""
LOOK = 3
"""Doorbell record: look at your inbox; nothing is said of what is in it."""
LOST = 2
"""Doorbell record: the outcome of task `b`, attempt `a`, could not be written; `c` is the errno."""

WORKER = 1
SUPERVISOR = 2

SHORTEST_POLL = 0.001
LONGEST_POLL = {False: 0.05, True: 0.5}  # seconds; on a shared file system every look costs its server
SAFETY_POLL = 2.0  # with a bell, in case it was not heard
RECONNECT = 5.0
CLOSED_TIMEOUT = 60.0  # seconds after which a driver that hung up, and cannot be reached again, is gone


class Lease(NamedTuple):
    """The driver's sign of life: a number that changes, and where its doorbell is ('' for none)."""

    counter: int
    address: str

    def write(self, run: RunDirectory) -> None:
        """Publish it."""
        body = os.fsencode(f"{self.counter}\n{self.address}")
        publish(run.driver, frame(1, body), sync=run.shared)

    @classmethod
    def read(cls, run: RunDirectory) -> Lease:
        """The lease as it stands; OSError or CorruptRecord if there is none to be read."""
        frames, _ = parse(read_own(run.driver))
        if not frames:
            raise CorruptRecord(f"{run.driver} is cut short")
        counter, _, address = os.fsdecode(frames[0].body).partition("\n")
        return cls(int(counter), address)


class Link:
    """One end of the conversation with the driver, in the process that is `ref`.

    It calls the driver's doorbell as it is made; with `call` False only when something is to be heard, for
    those that say what they have to say by files and have somebody else ring.
    """

    def __init__(
        self, run: RunDirectory, ref: WorkerRef, orphan_timeout: float, *, call: bool = True
    ) -> None:
        self._run = run
        self._ref = ref
        self._inbox = run.inbox_reader(ref)
        self.outbox = run.outbox_writer(ref)
        self._pause = SHORTEST_POLL
        self._line: Line | None = None
        self._lease = Lease(-1, "")
        self._orphan_timeout = orphan_timeout
        self._met = False  # there was a bell that worked, once
        self._heard = time.monotonic()
        self._tried = -RECONNECT
        if call:
            self._connect()

    def _connect(self) -> None:
        self._tried = time.monotonic()
        try:
            lease = Lease.read(self._run)
        except (OSError, ValueError, CorruptRecord):
            return  # not there yet, or being replaced: the next look will tell
        if lease.counter != self._lease.counter:
            self._heard = self._tried
        self._lease = lease
        if lease.address and (self._line is None or self._line.dead):
            self._line = self._call(lease.address)

    def _call(self, address: str) -> Line | None:
        role = WORKER if self._ref.slot >= 0 else SUPERVISOR
        slot, generation = max(self._ref.slot, 0), max(self._ref.generation, 0)
        identity = Identity(role, *self._ref[:3], slot, generation, os.getpid())
        try:
            return Line.start(address, self._run.key(), identity)
        except (OSError, ValueError):
            return None  # no key, no descriptor, no address that can be understood: there is polling

    def fileno(self) -> int:
        """The bell's descriptor, or -1: for a loop that waits for other things, too."""
        return self._line.fileno() if self._line is not None and not self._line.dead else -1

    @property
    def heard(self) -> bool:
        """Whether there is a bell that works."""
        return self._line is not None and self._line.ready

    def wait(self, timeout: float) -> list[Frame]:
        """What is new in the inbox; waits for a ring, or for the time to look, `timeout` seconds at most."""
        line = self._line
        if line is not None and line.ready:
            records = line.receive(timeout if timeout < SAFETY_POLL else SAFETY_POLL)
            self._heard, self._met = time.monotonic(), True
        else:
            records = self._wait_for_line(timeout)
        return self.look(complete(records))

    def _wait_for_line(self, timeout: float) -> list[Record]:
        """For the time to look, if there is no line, and meanwhile go on connecting one."""
        self._keep_contact()
        records: list[Record] = []
        if self._line is not None and not self._line.dead:
            records = self._line.receive(min(timeout, self._pause))
        else:
            time.sleep(min(timeout, self._pause))
        self._pause = min(self._pause * 1.5, LONGEST_POLL[self._run.shared])
        return records

    def look(self, upto: int = -1) -> list[Frame]:
        """What is new in the inbox, now."""
        if self._line is not None and not self._line.ready:
            _go_on(self._line)
        frames = self._inbox.read(upto)
        if frames:
            self._pause = SHORTEST_POLL
        return frames

    def ring(self) -> None:
        """Make the outbox visible, and tell the driver to look."""
        self.outbox.publish()
        line = self._line
        if line is not None:
            if not line.ready:
                _go_on(line)
            line.send(Record(GREW, 0, self.outbox.segment, self.outbox.end))

    def tell(self, kind: int, body: bytes) -> None:
        """Write one record to the outbox, and ring."""
        self.outbox.write(frame(kind, body))
        self.ring()

    def pause(self, quiet: float) -> float:
        """How long a loop of the caller's own may sleep before it looks again; `quiet` if there is a bell."""
        return quiet if self.heard else self._pause

    def report_lost(self, number: int, attempt: int, errno: int) -> bool:
        """Tell by bell alone that an outcome could not be written; False if there is no bell."""
        return self._line is not None and self._line.send(Record(LOST, attempt, number, errno))

    def _keep_contact(self) -> None:
        now = time.monotonic()
        if self.heard:
            self._heard = now
        elif now - self._tried > min(RECONNECT, self._orphan_timeout / 4):
            self._connect()

    def orphaned(self) -> bool:
        """Whether nothing was heard of the driver for `orphan_timeout` seconds of our own clock.

        Who has met it and lost the connection need not wait that long: the driver's address does not change,
        and it listens for as long as it lives.  But an `orphan_timeout` without end is meant.
        """
        self._keep_contact()
        timeout = self._orphan_timeout
        if self._met and timeout < float("inf"):
            timeout = min(timeout, CLOSED_TIMEOUT)
        return time.monotonic() - self._heard > timeout

    def abandon(self) -> None:
        """In a forked child: close the descriptors, and leave what they stand for to the parent."""
        self._inbox.close()
        self.outbox.abandon()
        if self._line is not None:
            self._line.close()

    def close(self) -> None:
        """Publish what is written, and close."""
        self.outbox.publish()
        self._inbox.close()
        self.outbox.abandon()
        if self._line is not None:
            self._line.close()


def complete(records: Iterable[Record]) -> int:
    """The last segment that is complete, as far as these records tell; -1 if none is known to be."""
    return max((record.b for record in records if record.kind == GREW), default=0) - 1


def _go_on(line: Line) -> None:
    """A connection that is being made needs a step now and then, also while a task takes its time."""
    try:
        line.receive(0)  # at once if it is dead
    except RuntimeError:
        pass  # the other thread is at it
