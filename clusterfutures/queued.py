"""Tasks that lie in jobs of their own, which the scheduler will start some time.

Such a job runs without the driver.  So whether its task is started or cancelled is settled between the two
by who is the first to claim it, which is one exclusive creation of a file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Optional

from clusterfutures.futures import FutureSink
from clusterfutures.journal import Run
from clusterfutures.obituary import Post
from clusterfutures.roster import Member, Roster
from clusterfutures.spool import CANCEL, RunDirectory, WorkerRef

log = logging.getLogger("clusterfutures")

PORTION = 64  # tasks that are taken at a time: a fraction of a millisecond


class QueuedTasks:
    """The workers-to-be of such jobs, by the number of their task.

    Part of the dispatcher, whose `lock`, `roster` and `futures` it shares; `cancelled` has it look for tasks
    that were cancelled.
    """

    def __init__(
        self,
        run: RunDirectory,
        lock: threading.Lock,
        roster: Roster,
        futures: FutureSink,
        cancelled: Callable[[], None],
    ) -> None:
        self._run, self._lock, self._roster, self._futures = run, lock, roster, futures
        self._cancelled = cancelled
        self._members: dict[int, Member] = {}
        self._unneeded: list[WorkerRef] = []

    def __len__(self) -> int:
        return len(self._members)

    # -- into jobs (watching thread) ------------------------------------------------------------

    def take(self, kind: int, count: int, job: int) -> list[Run]:
        """Up to `count` pending tasks of a kind, each for a worker-to-be: the elements of `job`, in order."""
        runs: list[Run] = []
        while len(runs) < count:
            elements = range(len(runs), min(len(runs) + PORTION, count))
            # Made without the lock, for which whoever submits may be waiting.
            members = [self._member(WorkerRef(job, element, 0, 0, 0)) for element in elements]
            with self._lock:
                taken = self._roster.take(kind, len(members))
                for member, run in zip(members, taken):
                    self._enter(member, run)
            runs += taken
            if len(taken) < len(members):
                break
        return runs

    def put_back(self, job: int) -> None:
        """What was taken for `job` has none after all."""
        with self._lock:
            for member in reversed([m for m in self._members.values() if m.ref.job == job]):
                self.lost(member)
                for run in self._roster.remove(member.ref):
                    self._roster.push_front(run)

    def submitted(self, job: int, ids: Sequence[str]) -> None:
        """What was taken for `job` is in the queue; `ids` are those of its elements."""
        with self._lock:
            members = list(self._members.values())
        # Without the lock: who among them begins or is lost meanwhile is told in this thread, too.
        for member in members:
            if member.ref.job == job:
                self._posted(member, ids[member.ref.element])

    def requeued(self, ref: WorkerRef, job_id: str, number: int, attempt: int) -> bool:
        """The job of task `number` starts anew; whether its worker-to-be `ref` has an attempt to make.

        What was lost, or never begun, is pending again by now; what is done or given up is not.
        """
        with self._lock:
            run = self._roster.reclaim(number)
            if run is None:
                return False
            again = run.part(0, 1, attempt)
            again.free += attempt - run.attempt
            member = self._member(ref)
            self._enter(member, again)
            self._posted(member, job_id)
        self._cancelled()  # it may have been, meanwhile
        return True

    def _member(self, ref: WorkerRef) -> Member:
        member = Member(ref, self._run.inbox_writer(ref), Post(str(ref), None, None, None))
        member.leaving = True  # nothing else is for it
        return member

    def _enter(self, member: Member, run: Run) -> None:
        member.assigned.append(run)
        self._members[run.first] = self._roster.members[member.ref] = member

    def restore(self, member: Member) -> None:
        """A worker-to-be of another driver of the run, whose task is in the queue."""
        self._members[member.current] = member
        self._tell(member)

    def _posted(self, member: Member, job_id: str) -> None:
        member.post = Post(str(member.ref), None, None, job_id)
        self._tell(member)

    def _tell(self, member: Member) -> None:
        """Its future knows the job that it waits for."""
        future = self._futures.futures.get(member.current)
        if future is not None:
            future._post = member.post

    # -- out of them (lock held) ----------------------------------------------------------------

    def started(self, member: Member) -> None:
        """A worker says that it has claimed its task, and begins."""
        if self._members.pop(member.current, None) is not None:
            run = member.assigned[0]
            run.began = member.since
            run.sink.begin(run.first, 1, member.post)

    def lost(self, member: Member) -> None:
        """A worker is gone, started or not."""
        self._members.pop(member.current, None)

    # -- cancelled before they started (any thread) ---------------------------------------------

    def may_cancel(self, number: Optional[int]) -> bool:
        """Whether a task can still be cancelled; if so, a job that has it will not start it any more."""
        with self._lock:
            member = self._members.get(number) if number is not None else None
        return member is None or self._claim(member)

    def withdraw(self) -> list[int]:
        """Drop tasks that were cancelled; returns their numbers."""
        with self._lock:
            unwanted = [m for m in self._members.values() if m.assigned[0].sink.sweeps(m.current)]
        # A future is cancelled by who has claimed it.  The items of a map are cancelled all together, and
        # those that have been claimed by their workers go on.
        chosen = [m for m in unwanted if self._claim(m) or m.assigned[0].sink is self._futures]
        numbers = []
        with self._lock:
            for run in self._drop(chosen):
                run.sink.sweep(run.first, 1)
                numbers.append(run.first)
        return numbers

    def withdraw_all(self) -> list[Run]:
        """Drop everything that has not started; returns the tasks, which are then nobody's."""
        with self._lock:
            everybody = list(self._members.values())
        chosen = [member for member in everybody if self._claim(member)]
        with self._lock:
            return self._drop(chosen)

    def unneeded(self) -> list[WorkerRef]:
        """Supervisors whose jobs have nothing to do any more; told once."""
        with self._lock:
            found, self._unneeded = self._unneeded, []
        return found

    def _claim(self, member: Member) -> bool:
        """Whether `member` will never start, because we were the first to say so; may take a while."""
        try:
            return self._run.claim(member.ref, CANCEL)
        except OSError as error:
            log.warning("cannot settle whether task %d is to start: %s", member.current, error)
            return False

    def _drop(self, members: Iterable[Member]) -> list[Run]:
        """Forget those of `members` that are still here; returns their tasks."""
        dropped = [m for m in members if self._members.pop(m.current, None) is not None]
        self._unneeded += [member.ref.supervisor for member in dropped]
        return [run for member in dropped for run in self._roster.remove(member.ref)]
