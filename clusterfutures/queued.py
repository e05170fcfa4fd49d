"""Tasks that lie in jobs of their own, which the scheduler will start some time.

Such a job runs without the driver.  So whether its task is started or cancelled is settled between the two
by who is the first to claim it, which is one exclusive creation of a file.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from clusterfutures.journal import Run
from clusterfutures.obituary import Post
from clusterfutures.roster import Member
from clusterfutures.spool import RunDirectory, WorkerRef

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("clusterfutures")


class QueuedTasks:
    """The workers-to-be of such jobs, by the number of their task; the caller holds its lock.

    Only :meth:`claim` may be called without it, since it waits for the file system.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._members: dict[int, Member] = {}
        self._unneeded: list[WorkerRef] = []

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, ref: WorkerRef, run: Run) -> Member:
        """The task of `run` is going to be submitted."""
        member = Member(ref, self._run.inbox_writer(ref), Post(str(ref), None, None, None))
        member.leaving = True  # nothing else is for it
        member.assigned.append(run)
        self._members[run.first] = member
        return member

    def started(self, member: Member) -> None:
        """A worker says that it has claimed its task, and begins."""
        if self._members.pop(member.current, None) is not None:
            run = member.assigned[0]
            run.began = member.since
            run.sink.begin(run.first, 1, member.post)

    def lost(self, member: Member) -> None:
        """A worker is gone, started or not."""
        self._members.pop(member.current, None)

    def find(self, number: int) -> Member | None:
        """Who is to run task `number`; None if it is not queued in a job of its own, or not any more."""
        return self._members.get(number)

    def all(self) -> list[Member]:
        """Everybody who has not started, as far as is known."""
        return list(self._members.values())

    def unwanted(self) -> list[Member]:
        """Those whose task somebody has cancelled."""
        return [m for m in self._members.values() if m.assigned[0].sink.sweeps(m.current)]

    def claim(self, member: Member) -> bool:
        """Whether `member` will never start, because we were the first to say so."""
        try:
            return self._run.claim(member.ref)
        except OSError as error:
            log.warning("cannot settle whether task %d is to start: %s", member.current, error)
            return False

    def drop(self, members: Iterable[Member]) -> list[Member]:
        """These are not needed; returns those that were there still."""
        dropped = [m for m in members if self._members.pop(m.current, None) is not None]
        self._unneeded += [member.ref.supervisor for member in dropped]
        return dropped

    def take_unneeded(self) -> list[WorkerRef]:
        """The supervisors of all that were dropped since this was last asked."""
        found, self._unneeded = self._unneeded, []
        return found
