"""Which worker gets which tasks next: the pending tasks, the workers, and the dealing out between them.

Pure bookkeeping: nothing is written, sent or resolved here, and the caller holds the lock.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from clusterfutures.journal import Run
from clusterfutures.logs import LogWriter
from clusterfutures.obituary import Post
from clusterfutures.pace import Overhead
from clusterfutures.spool import WorkerRef

BUNDLE_RUNS = 64
PATIENCE = 0.05
"""Seconds that a task may run before the ones behind it are asked back for an idle worker."""


AHEAD = 0.1
"""Seconds that a task may take of which one is given ahead; longer ones wait for whoever is free first."""
PLENTY = 4
"""Pending tasks a worker, from which on one is given ahead."""


class Member:
    """A worker as the driver knows it."""

    __slots__ = (
        "assigned", "busy_until", "given", "inbox", "kind", "leaving", "post", "ready", "recalled", "ref",
        "since", "stderr", "stdout",
    )  # fmt: skip

    def __init__(self, ref: WorkerRef, inbox: LogWriter, post: Post, kind: int = 0) -> None:
        self.ref, self.inbox, self.post, self.kind = ref, inbox, post, kind
        self.assigned: deque[Run] = deque()
        self.given = 0  # tasks, in its whole life
        self.ready = self.leaving = self.recalled = False
        self.since = 0.0  # when it last got or finished a task
        self.busy_until = 0.0  # when it would be done by now if handing over cost nothing
        self.stdout = self.stderr = 0  # their ends after its last finished task

    def take(self, runs: Sequence[Run]) -> None:
        """It is handed these."""
        now = time.monotonic()
        if not self.assigned:
            self.since = self.busy_until = now
        for run in runs:
            run.began = now
            self.given += run.count
        self.assigned.extend(runs)

    def load(self) -> float:
        """Seconds of work that it is expected to have left; large if it cannot be told."""
        total = 0.0
        for run in self.assigned:
            seconds = run.pace.seconds
            total += (run.count - run.done) * seconds if seconds else 1e9
        return total


    def thin(self, target: float, plenty: bool) -> bool:
        """Whether it should have more although it is not idle: or else it would soon wait for us.

        While there is `plenty` to do, one task of up to AHEAD seconds is given ahead as well.
        """
        if self.load() < target / 2:
            return True
        return plenty and len(self.assigned) == 1 and self.load() < AHEAD

    @property
    def has_more_than_one(self) -> bool:
        """Whether tasks wait behind the one that it is at."""
        return sum(run.count - run.done for run in self.assigned) > 1

    @property
    def current(self) -> int:
        """The number of the task that it is at, -1 if it has none."""
        return self.assigned[0].first + self.assigned[0].done if self.assigned else -1

    def expect(self, number: int) -> Run | None:
        """The run that task `number` is the next of; None if it is not this worker's."""
        for run in self.assigned:
            if number == run.first + run.done:
                return run
        return None

    def account(self, run: Run, wall: float) -> None:
        """The next task of `run` is done, after `wall` seconds."""
        run.done += 1
        run.elapsed += wall
        self.busy_until += wall
        if run.done == run.count:
            self.assigned.remove(run)
            if self.assigned:  # the next one starts when this one ended, not when it was handed over
                self.assigned[0].began = max(self.assigned[0].began, run.began + run.elapsed)
            run.pace.observe(run.count, run.elapsed)


class Bundle:
    """Tasks for one worker; `cancelled` are the numbers of those that dropped out on the way."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.runs: list[Run] = []
        self.cancelled: list[int] = []


class Queue:
    """Pending tasks of one kind: for any worker of that kind."""

    def __init__(self) -> None:
        self.runs: deque[Run] = deque()
        self.tasks = 0

    def append(self, run: Run) -> None:
        """To do when everything before it is."""
        self.runs.append(run)
        self.tasks += run.count

    def push_front(self, run: Run) -> None:
        """To do before everything else."""
        self.runs.appendleft(run)
        self.tasks += run.count

    def cut(self, count: int) -> Run:
        """Take `count` tasks, at most, off the first run."""
        run = self.runs[0]
        self.tasks -= min(count, run.count)
        if count >= run.count:
            return self.runs.popleft()
        self.runs[0] = run.part(count, run.count - count)
        return run.part(0, count)

    def take_all(self) -> list[Run]:
        """Everything, which then is not here any more."""
        runs = list(self.runs)
        self.runs.clear()
        self.tasks = 0
        return runs


class Roster:
    """All workers of a run, and the tasks that none of them has.

    `max_tasks`: tasks that a worker may have in its life; 0 is no limit.
    """

    def __init__(self, max_tasks: int) -> None:
        self.members: dict[WorkerRef, Member] = {}
        self._queues = {0: Queue()}  # by kind; few runs have more than one
        self._resting: list[tuple[float, Run]] = []
        self.due = math.inf  # when the first of those that rest is to be tried again (monotonic clock)
        self.overhead = Overhead()
        self._max_tasks = max_tasks

    def _queue(self, kind: int) -> Queue:
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = Queue()
        return queue

    @property
    def pending(self) -> list[Run]:
        """Everything that no worker has, kind by kind."""
        return [run for queue in self._queues.values() for run in queue.runs]

    @property
    def busy(self) -> bool:
        """Whether anything is pending."""
        for queue in self._queues.values():  # noqa: SIM110 - asked at every turn, and `any` costs much more
            if queue.runs:
                return True
        return False

    def append(self, runs: Sequence[Run]) -> None:
        """More to do."""
        for run in runs:
            self._queue(run.policy.kind).append(run)

    def push_front(self, run: Run) -> None:
        """To do before everything else of its kind."""
        self._queue(run.policy.kind).push_front(run)

    def rest(self, run: Run, until: float) -> None:
        """To do first of all, but not before `until` (monotonic clock, seconds)."""
        self._let_rest([*self._resting, (until, run)])

    def _let_rest(self, resting: list[tuple[float, Run]]) -> None:
        self._resting = resting
        self.due = min((until for until, _ in resting), default=math.inf)

    def wake(self, now: float) -> None:
        """Whoever has rested for long enough is pending again."""
        if self.due > now:
            return
        for until, run in self._resting:
            if until <= now:
                self.push_front(run)
        self._let_rest([(until, run) for until, run in self._resting if until > now])

    @property
    def at_rest(self) -> int:
        """How many tasks rest."""
        return len(self._resting)  # each by itself: it has been lost alone

    def sift(self, keep: Callable[[Run], Iterable[Run]]) -> None:
        """Let `keep` say what stays of each run that no worker has, at its place."""
        for queue in self._queues.values():
            for run in queue.take_all():
                for part in keep(run):
                    queue.append(part)
        self._let_rest([(until, part) for until, run in self._resting for part in keep(run)])

    def take_all(self) -> list[Run]:
        """Everything that no worker has, which then is not here any more."""
        runs = [run for queue in self._queues.values() for run in queue.take_all()]
        runs += [run for _, run in self._resting]
        self._let_rest([])
        return runs

    def take(self, kind: int, count: int) -> list[Run]:
        """Up to so many pending tasks of a kind, each by itself."""
        queue = self._queue(kind)
        taken: list[Run] = []
        while queue.runs and len(taken) < count:
            taken.append(queue.cut(1))
        return taken

    def reclaim(self, number: int) -> Run | None:
        """Take a task that was put back by itself; None if it is not pending."""
        for queue in self._queues.values():
            for run in queue.runs:
                if (run.first, run.count) == (number, 1):
                    queue.runs.remove(run)
                    queue.tasks -= 1
                    return run
        return None

    def waiting(self) -> dict[int, int]:
        """How many tasks of each kind are pending."""
        return {kind: queue.tasks for kind, queue in self._queues.items()}

    def tasks(self) -> dict[int, int]:
        """How many tasks of each kind are pending, or assigned and not done."""
        tasks = self.waiting()
        for member in self.members.values():
            for run in member.assigned:
                tasks[run.policy.kind] = tasks.get(run.policy.kind, 0) + run.count - run.done
        return tasks

    def active(self) -> list[Member]:
        """Workers that can take tasks."""
        return [m for m in self.members.values() if m.ready and not m.leaving]

    def idle(self, kind: int) -> Member | None:
        """A worker that would start a task of this kind at once; None also if other tasks come first."""
        queue = self._queues.get(kind)
        if queue is not None and queue.runs:
            return None
        for member in self.members.values():
            free = member.ready and not (member.assigned or member.leaving or member.recalled)
            if free and member.kind == kind and (not self._max_tasks or member.given < self._max_tasks):
                return member
        return None

    def deal(self) -> list[Bundle]:
        """Bundles for whoever is idle or about to be."""
        bundles: list[Bundle] = []
        for kind, queue in self._queues.items():
            if queue.runs:
                bundles += self._deal(queue, [m for m in self.active() if m.kind == kind and not m.recalled])
        return bundles

    def _deal(self, queue: Queue, ready: list[Member]) -> list[Bundle]:
        bundles = []
        target = self.overhead.target
        plenty = queue.tasks > PLENTY * len(ready)
        idle = [m for m in ready if not m.assigned]
        busy = [m for m in ready if m.assigned]
        for member in chain(idle, (m for m in busy if m.thin(target, plenty))):
            # The last tasks are dealt out in ever smaller bundles, so that all workers end together.
            cap = max(self._least(queue.runs[0]), queue.tasks // (2 * len(ready)))
            if self._max_tasks:
                cap = min(cap, self._max_tasks - member.given)
            bundle = Bundle(member)
            self._fill(queue, bundle, target, cap)
            if bundle.runs or bundle.cancelled:
                member.take(bundle.runs)
                bundles.append(bundle)
            if not queue.runs:
                break
        return bundles

    def _least(self, run: Run) -> int:
        """Tasks that cost less than handing them over: to part them would gain nothing."""
        each = run.pace.seconds
        return max(int(self.overhead.seconds / each), 1) if each > 0.0 else 1

    def _fill(self, queue: Queue, bundle: Bundle, target: float, cap: int) -> None:
        """Take the next tasks, about `target` seconds of them and `cap` at most."""
        seconds, taken = 0.0, 0
        while queue.runs and taken < cap and len(bundle.runs) < BUNDLE_RUNS:
            run = queue.runs[0]
            each = run.pace.seconds
            if bundle.runs and not 0.0 < each <= target - seconds:
                break  # unknown or long ones travel alone
            part = queue.cut(min(run.pace.size(target - seconds), cap - taken))
            for kept in without(part, self._begin(bundle, part)):
                bundle.runs.append(kept)
                taken += kept.count
                seconds += kept.count * each
            if bundle.runs and each <= 0.0:
                break

    def _begin(self, bundle: Bundle, run: Run) -> list[int]:
        cancelled = run.sink.begin(run.first, run.count, bundle.member.post)
        bundle.cancelled += cancelled
        return cancelled

    def _idle_kinds(self) -> set[int]:
        """Kinds of which a worker is idle, though perhaps only for lack of a look."""
        return {m.kind for m in self.active() if not m.assigned}

    def uneven(self) -> bool:
        """Whether somebody is idle while somebody else of that kind has more than one task."""
        idle = self._idle_kinds()
        return bool(idle) and any(m.kind in idle and m.has_more_than_one for m in self.members.values())

    def recalls(self) -> list[Member]:
        """Who has tasks behind a long one while somebody else is idle and nothing is pending."""
        idle = {kind for kind in self._idle_kinds() if not self._queue(kind).runs}
        if not idle:
            return []
        limit = time.monotonic() - PATIENCE
        chosen = [
            m
            for m in self.members.values()
            if m.kind in idle and m.since < limit and not m.recalled and m.has_more_than_one
        ]
        for member in chosen:
            member.recalled = True
        return chosen

    def hand_back(self, member: Member, count: int) -> None:
        """`member` gives back the last `count` of what it was assigned, and is free for more."""
        member.recalled = False
        member.given -= count
        while count > 0 and member.assigned:
            run = member.assigned[-1]
            left = run.count - run.done
            if left <= count:
                member.assigned.pop()
                if left:
                    self.push_front(run.unfinished)
            else:
                self.push_front(run.part(run.count - count, count))
                run.count -= count
            count -= left

    def remove(self, ref: WorkerRef) -> list[Run]:
        """`ref` is dead; returns the runs that it leaves without outcomes, in order."""
        member = self.members.pop(ref, None)
        return [run.unfinished for run in member.assigned if run.done < run.count] if member else []

    def supervisors(self) -> dict[WorkerRef, list[Member]]:
        """The workers of each supervisor that can take tasks."""
        found: dict[WorkerRef, list[Member]] = {}
        for member in self.active():
            found.setdefault(member.ref.supervisor, []).append(member)
        return found

    def holder(self, number: int) -> Member | None:
        """Who was assigned task `number` and has not done it."""
        for member in self.members.values():
            for run in member.assigned:
                if run.first + run.done <= number < run.first + run.count:
                    return member
        return None


def without(run: Run, numbers: Sequence[int]) -> Iterator[Run]:
    """`run` less these of its tasks, in up to one more piece than there are holes."""
    if not numbers:
        yield run
        return
    at = run.first
    for number in [*numbers, run.first + run.count]:
        if number > at:
            yield run.part(at - run.first, number - at)
        at = number + 1


def share_out(wanted: dict[int, int], most: int) -> dict[int, int]:
    """At most `most` in all, to each no more than it wants, and nobody starved while others have plenty."""
    shares = dict.fromkeys(wanted, 0)
    hungry = [kind for kind, count in wanted.items() if count > 0]
    while most > 0 and hungry:
        each = max(most // len(hungry), 1)
        for kind in hungry[:most]:
            given = min(each, wanted[kind] - shares[kind])
            shares[kind] += given
            most -= given
        hungry = [kind for kind in hungry if shares[kind] < wanted[kind]]
    return shares
