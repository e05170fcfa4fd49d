"""The workers of a run: who there is, who takes tasks, and what they are told.

One lock for what is known of them and of the tasks that they have, `lock`, held for microseconds; one for the
thread that writes to their inboxes, `io`, which is taken first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from clusterfutures.logs import LogWriter, frame
from clusterfutures.obituary import Post
from clusterfutures.records import LEAVE, RECALL, SECONDS, TIME_LEFT
from clusterfutures.roster import Member, Roster
from clusterfutures.spool import RunDirectory, WorkerRef

log = logging.getLogger("clusterfutures")


class Crew:
    """The workers that are not known to be dead, in a `roster` together with the tasks that nobody has.

    `ring` is called with a worker after something was written to its inbox.
    """

    def __init__(
        self, run: RunDirectory, roster: Roster, ring: Callable[[WorkerRef, LogWriter], None]
    ) -> None:
        self._run, self._roster, self._ring = run, roster, ring
        self._ends: dict[WorkerRef, float] = {}  # when the wall time of a supervisor's job does
        self.demand = 0  # how many there shall be even if there is nothing to do
        self.renew_locks()

    def renew_locks(self) -> None:
        """In a fork: no lock can be relied on."""
        self.lock = threading.Lock()
        self.io = threading.Lock()
        self.changed = threading.Condition(self.lock)  # the number of active workers

    # -- who there is ---------------------------------------------------------------------------

    def joined(self, ref: WorkerRef, post: Post, kind: int = 0) -> None:
        """A worker for tasks of a kind was started."""
        with self.lock:
            if ref not in self._roster.members:
                self._roster.members[ref] = Member(ref, self._run.inbox_writer(ref), post, kind)

    def excuse(self, ref: WorkerRef) -> None:
        """A worker is dead, and will be reported as such once it is known why."""
        with self.lock:
            member = self._roster.members.get(ref)
            if member is not None:
                member.leaving = True

    def returned(self, ref: WorkerRef, count: int, leaves: bool = False) -> None:
        """A worker hands back the last `count` tasks that it was assigned, and perhaps `leaves`."""
        with self.lock:
            member = self._roster.members.get(ref)
            if member is not None:
                member.leaving = member.leaving or leaves
                self._roster.hand_back(member, count)

    def task_at(self, ref: WorkerRef) -> Optional[int]:
        """The first task of a worker that has no outcome: they are done in order.  None if there is none."""
        with self.lock:
            member = self._roster.members.get(ref)
            return member.current if member is not None and member.assigned else None

    def members(self) -> list[Member]:
        """Every worker that is not known to be dead."""
        with self.lock:
            return list(self._roster.members.values())

    def active(self) -> int:
        """How many can take tasks."""
        with self.lock:
            return len(self._roster.active())

    @property
    def uneven(self) -> bool:
        """Whether tasks wait behind others while a worker is idle."""
        with self.lock:
            return self._roster.uneven()

    def pids(self, refs: Iterable[WorkerRef]) -> list[int]:
        """The process ids of these workers, where they are known."""
        with self.lock:
            found = [self._roster.members[ref].post.pid for ref in refs if ref in self._roster.members]
        return [pid for pid in found if pid is not None]

    # -- letting them go ------------------------------------------------------------------------

    def dismiss(self, count: int) -> None:
        """Let workers go, idle ones first, until at most `count` stay."""
        if len(self._roster.members) <= count:
            return
        with self.io:
            with self.lock:
                staying = [m for m in self._roster.members.values() if not m.leaving]
                staying.sort(key=lambda m: len(m.assigned))
                leaving = _let_go(staying[: max(len(staying) - count, 0)])
            for member in leaving:
                self._tell(member, LEAVE, b"")

    def dismiss_idle(self, timeout: float) -> list[WorkerRef]:
        """Let those go that are idle for `timeout` seconds together with all others of their supervisor."""
        limit = time.monotonic() - timeout
        with self.lock:
            idle = [
                supervisor
                for supervisor, members in self._roster.supervisors().items()
                if not self._roster.waiting().get(members[0].kind)
                and all(not m.assigned and m.since < limit for m in members)
            ]
            if idle:
                self.demand = 0  # what was asked for in advance was not needed
        return [supervisor for supervisor in idle if self.dismiss_all(supervisor)]

    def dismiss_surplus(self, kind: int, count: int) -> list[WorkerRef]:
        """Let `count` workers of a kind go, and those that share a job with them; idle ones first."""
        with self.lock:
            groups = [
                (sum(len(m.assigned) for m in members), supervisor, len(members))
                for supervisor, members in self._roster.supervisors().items()
                if members[0].kind == kind
            ]
        chosen = []
        for _, supervisor, size in sorted(groups):
            if count > 0 and self.dismiss_all(supervisor):
                count -= size
                chosen.append(supervisor)
        return chosen

    def dismiss_node(self, node: Optional[str]) -> None:
        """Let all workers on a node go, and those that share a job with them."""
        for supervisor in {m.ref.supervisor for m in self.members() if m.post.node == node}:
            self.dismiss_all(supervisor)

    def dismiss_all(self, supervisor: WorkerRef) -> bool:
        """Let all workers of a supervisor go once they have done what they have; whether there were any."""
        with self.io:
            with self.lock:
                leaving = _let_go(self._roster.supervisors().get(supervisor, []))
            for member in leaving:
                self._tell(member, LEAVE, b"")
        return bool(leaving)

    # -- what they are told ---------------------------------------------------------------------

    def set_end(self, supervisor: WorkerRef, ends: float) -> None:
        """The wall time of a supervisor's job will be over at `ends` (monotonic clock, seconds)."""
        self._ends[supervisor] = ends
        self.tell_end([m for m in self.members() if m.ready and m.ref.supervisor == supervisor])

    def forget_end(self, supervisor: WorkerRef) -> None:
        """A supervisor is gone."""
        self._ends.pop(supervisor, None)

    def tell_end(self, members: Sequence[Member]) -> None:
        """As a duration: clocks of nodes differ.  Who gets no further task may save the state of this one."""
        for member in members:
            ends = self._ends.get(member.ref.supervisor)
            if ends is not None:
                with self.io:
                    self._tell(member, TIME_LEFT, SECONDS.pack(ends - time.monotonic()))

    def _tell(self, member: Member, kind: int, body: bytes) -> None:
        """Write a record that its worker can do without: the end of its job says the same in the end."""
        try:
            self.send(member, frame(kind, body))
        except OSError as error:
            log.warning("could not write to the inbox of worker %s: %s", member.ref, error)

    def recall(self, member: Member) -> None:
        """Ask a worker for the tasks that it has not begun; `io` held."""
        try:
            self.send(member, frame(RECALL, b""))
        except OSError as error:
            member.recalled = False  # its tasks go on waiting where they are; the next turn tries again
            log.warning("could not ask worker %s for its tasks: %s", member.ref, error)

    def send(self, member: Member, data: bytes) -> None:
        """Write to the inbox of a worker; `io` held.  Raises OSError if that cannot be."""
        member.inbox.write(data)
        member.inbox.publish()
        self._ring(member.ref, member.inbox)


def _let_go(members: list[Member]) -> list[Member]:
    for member in members:
        member.leaving = True
    return members
