"""From tasks to inboxes, and from outcomes to futures: the one place with state.

A task is *fresh* (submitted, not yet written), *pending* (written, not assigned), *assigned* (in the inbox of
one worker) or settled.  Tasks that wait for futures are *waiting* until those are done, and then fresh.  The
driver alone assigns, so no two processes ever race for a task.

Two locks, those of the :class:`~clusterfutures.crew.Crew`: `lock` guards the state here, too, and is held for
microseconds; `io` is held by the one thread that writes to the logs, and is taken first.  Futures are
resolved with neither held, since that runs callbacks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Optional

from clusterfutures import payload
from clusterfutures.attempts import Attempts, told
from clusterfutures.crew import Crew
from clusterfutures.errors import (
    DependencyFailed,
    OutcomeNotWritten,
    RunDirectoryError,
    TaskKilled,
    twin_of,
)
from clusterfutures.futures import ClusterFuture, FutureSink, Piece, Printed, Raised, Row, Settled, Sink
from clusterfutures.history import Outcome, Past, Runs, Tasks, WorkerPast, fates
from clusterfutures.journal import BATCH_TASKS, Fresh, Function, Journal, Policy, Run
from clusterfutures.kinds import Kinds
from clusterfutures.logs import LogWriter
from clusterfutures.obituary import Post, worker_lost
from clusterfutures.queued import QueuedTasks
from clusterfutures.records import (
    OUTCOME_HEAD,
    RAISED,
    Cost,
    Ended,
)
from clusterfutures.roster import Member, Roster, share_out, without
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState
from clusterfutures.waiting import WaitingRoom

log = logging.getLogger("clusterfutures")
_new = tuple.__new__  # half of what calling a named tuple's class costs

LONE_BYTES = 1 << 16  # a lone call stays in memory until it is done, which larger ones should not


class Result(NamedTuple):
    """An outcome of task `number` of `run`: `cost` is a `Cost`, `data` a pickled value or error."""

    run: Run
    number: int
    status: int
    cost: tuple[Any, ...]
    ref: WorkerRef
    data: bytes


class Dispatcher:
    """All tasks of one run.

    `ring` is called with a worker after something was written to its inbox, `wake` when a thread other than
    the watching one has left work for it.  `kinds` are the kinds of tasks by what their workers need.
    """

    def __init__(
        self,
        run: RunDirectory,
        max_workers: int,
        max_tasks: int,
        job_per_task: bool,
        ring: Callable[[WorkerRef, LogWriter], None],
        wake: Callable[[], None],
        kinds: Kinds,
    ) -> None:
        self.run = run
        self.hold: Optional[object] = None  # keeps the run's directory; each future has it, too
        self.journal = Journal(run)
        self.max_workers = max_workers
        self._wake, self._kinds = wake, kinds
        self._next = 0
        self._fresh: list[Fresh] = []
        self._waiting = WaitingRoom(self.journal.keep, self._waited, self._waited_in_vain)
        self._roster = Roster(max_tasks)
        self.crew = Crew(run, self._roster, ring)
        self._attempts = Attempts(self.journal, kinds)
        self._futures = FutureSink()
        self.queued = self._make_queued()
        self._job_per_task = job_per_task
        self._doomed: dict[int, ClusterFuture[Any]] = {}  # to be killed
        self._settled: list[Settled] = []  # of the watching thread
        self._late: list[Run] = []  # written while everything was cancelled, or failed
        self._fate: Optional[BaseException] = None  # of those; None once `_dropping`: they are cancelled
        self._dropping = False
        self._sweep = False  # some pending futures may have been cancelled
        self.deaf = False  # no doorbell: the watching thread must be told that there is something to look for
        self.unfinished = 0
        self.failures = 0  # tasks that ended in an error
        self.closing = False
        self.broken: Optional[BaseException] = None

    def _make_queued(self) -> QueuedTasks:
        return QueuedTasks(self.run, self.crew.lock, self._roster, self._futures, self.note_cancelled)

    # -- submitting (any thread) ----------------------------------------------------------------

    def add(
        self, style: int, function: Function, body: bytes, parents: list[Future[Any]], policy: Policy
    ) -> ClusterFuture[Any]:
        """One task with a future."""
        future: ClusterFuture[Any] = ClusterFuture(self)
        if policy.name:
            future.name = policy.name
        if not parents and self._give(future, style, function, body, policy):
            return future
        with self.crew.lock:
            number = self._register(future)
            if not parents:
                self._append(number, style, function, body, policy)
        if parents:
            self._wait_for(Fresh(number, style, function, [body], self._futures, policy), parents)
        else:
            self._wake()
        return future

    def _register(self, future: ClusterFuture[Any]) -> int:
        """Number a task with a future; lock held."""
        number = future.task = self._enter(1)
        self._futures.futures[number] = future
        return number

    def _give(
        self, future: ClusterFuture[Any], style: int, function: Function, body: bytes, policy: Policy
    ) -> bool:
        """Hand a lone call straight to an idle worker: fastest without another thread.

        False if there is no such worker, or if somebody else is writing, who then will see to the call.
        """
        if len(body) > LONE_BYTES or not self.crew.io.acquire(False):
            return False
        try:
            with self.crew.lock:
                lone = not self._fresh and self.unfinished < len(self._roster.members)
                member = self._roster.idle(policy.kind) if lone else None
                if member is None:
                    return False
                number, known_as = self._register(future), self.journal.policy(policy)
                run = Run.lone(number, style, function, body, self._futures, policy, known_as)
                future._begin(member.post)
                member.take([run])
            if self.run.shared:
                self.journal.publish()  # the function, which may be new
            self._assign(member, [run])
        finally:
            self.crew.io.release()
        if self.deaf:
            self._wake()
        return True

    def _append(self, number: int, style: int, function: Function, body: bytes, policy: Policy) -> None:
        """One more fresh task; neighbours of a kind share one object, which spares the garbage collector."""
        last = self._fresh[-1] if self._fresh else None
        if (
            last is not None
            and last.function is function
            and last.sink is self._futures
            and last.policy is policy
            and last.first + len(last.bodies) == number
            and len(last.bodies) < BATCH_TASKS
        ):
            last.bodies.append(body)
        else:
            self._fresh.append(Fresh(number, style, function, [body], self._futures, policy))

    def add_items(
        self, row: Row, style: int, function: Function, bodies: list[bytes], policy: Policy
    ) -> None:
        """Items of a map, whose results go into `row`."""
        with self.crew.lock:
            first = self._enter(len(bodies))
            piece = row.piece(first, len(bodies))
            self._fresh.append(Fresh(first, style, function, bodies, piece, policy))
        self._wake()

    def add_waiting_item(
        self,
        row: Row,
        style: int,
        function: Function,
        body: bytes,
        parents: list[Future[Any]],
        policy: Policy,
    ) -> None:
        """An item of a map that has futures in it."""
        with self.crew.lock:
            number = self._enter(1)
            piece = row.piece(number, 1)
        self._wait_for(Fresh(number, style, function, [body], piece, policy), parents)

    def _enter(self, count: int) -> int:
        """Numbers for `count` tasks; returns the first."""
        if self.closing:
            self.check_open()
        number = self._next
        self._next += count
        self.unfinished += count
        return number

    def check_open(self) -> None:
        """Raise what `submit` raises when nothing more is taken."""
        if self.broken is not None:
            raise twin_of(self.broken)
        if self.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def flush(self) -> None:
        """Return when every task submitted so far is in the run directory."""
        with self.crew.io:
            self._write_fresh()
        self._settle_late()

    def note_cancelled(self) -> None:
        """Some future was cancelled."""
        self._sweep = True
        self._wake()

    # -- going on with the run of another driver ------------------------------------------------

    def restore(self, past: Past) -> list[ClusterFuture[Any]]:
        """Take over all tasks; returns their futures, in the order in which they were submitted.

        For a dispatcher that has done nothing yet.  What has an outcome is resolved; what a worker has that
        may live stays with it; what a dead one was at is lost; all else is pending, or waits.
        """
        found, runs = fates(past), Runs(past.tasks, self._futures)
        futures: list[ClusterFuture[Any]] = [ClusterFuture(self) for _ in range(found.tasks)]
        for number, future in enumerate(futures):
            future.task, future.name = number, past.tasks.name(number) or None
        self._futures.futures.update(enumerate(futures))
        self._next, self.unfinished = found.tasks, found.tasks - len(found.cancelled)
        for number in found.cancelled:
            self._futures.cancel(number, 1)
        for worker in past.workers:
            if not worker.dead:
                self._restore_member(worker, runs.of(found.kept[worker.ref]))
        self._restore_results(found.results, runs)
        for number in found.results:
            futures[number].queue_time = None  # nobody has written it down
        for number, attempt, worker in found.lost:
            (run,) = runs.of([(number, attempt)])
            self._lost(run, _member(self.run, worker), worker.ended, worker.status)
        for number in found.missing:
            text = f"task {number} had not been written when its driver ended, or cannot be read any more"
            self._fail(self._futures, [number], RunDirectoryError(text, self.run.path))
        self._roster.append(runs.of(found.pending))
        for run in runs.of(found.resting):
            self._roster.rest(run, time.monotonic() + past.tasks.again[run.first][-1].pause)
        for task in found.waiting:
            self._waiting.enter(runs.fresh(task), [_parent(futures, parent) for parent in task.parents])
        return futures

    def rerun(self, numbers: Sequence[int], tasks: Tasks) -> list[ClusterFuture[Any]]:
        """Submit these tasks of the run again, as further ones; returns their futures, in that order.

        One that never began, since what it waits for failed, waits for the further future of that.  Raises
        ValueError, and submits nothing, for what is no task, or cannot be run without others.
        """
        runs = Runs(tasks, self._futures)
        calls = {number: runs.call(number, self.run) for number in sorted(set(numbers))}
        for number, call in calls.items():
            for parent in call.parents:
                if parent not in calls:
                    what = "a future of elsewhere" if parent < 0 else f"task {parent}: rerun that as well"
                    raise ValueError(f"task {number} never began, and waits for {what}")
        futures: dict[int, ClusterFuture[Any]] = {}
        for number, (style, function, body, waits_for, policy) in calls.items():  # parents come first
            parents: list[Future[Any]] = [futures[parent] for parent in waits_for]
            futures[number] = self.add(style, function, body, parents, policy)
        return [futures[number] for number in numbers]

    def _restore_member(self, worker: WorkerPast, assigned: Sequence[Run]) -> None:
        """A worker that may live, with what it has not done yet."""
        member = _member(self.run, worker)
        member.inbox.go_on_after(worker.inbox)
        member.inbox.publish()  # what the other driver had no time for
        member.assigned.extend(assigned)
        member.since = time.monotonic()
        self._roster.members[worker.ref] = member
        if worker.lone and not worker.claimed:
            self.queued.restore(member)
            return
        for run in assigned:
            run.began = member.since
            run.sink.begin(run.first, run.count, member.post)

    def _restore_results(self, results: Mapping[int, Outcome], runs: Runs) -> None:
        """What was done is done; errors that were worth another attempt are so still."""
        settled: list[Settled] = []
        for number, found in results.items():
            (run,) = runs.of([(number, found.attempt)])
            _, _, status, *cost = OUTCOME_HEAD.unpack_from(found.body)
            result = Result(run, number, status, tuple(cost), found.worker, found.body[OUTCOME_HEAD.size :])
            if status == RAISED and run.policy.retries.on:
                self._raised(result, settled, set())
            else:
                self._settle(result, settled, set())
        self._settled += settled
        self.deliver()

    # -- waiting for futures --------------------------------------------------------------------

    def _wait_for(self, fresh: Fresh, parents: list[Future[Any]]) -> None:
        try:
            numbers = [self._number_of(parent) + 1 for parent in parents]
            first, style, function, bodies, _, policy = fresh
            self.journal.waiting(first, style, function, bodies[0], numbers, policy)
        except OSError as error:
            self._fail(fresh.sink, [fresh.first], error)
            return
        self._waiting.enter(fresh, parents)
        self._wake()  # to publish what was written

    def _number_of(self, future: Future[Any]) -> int:
        """The task number of a future of this run, -1 for any other."""
        if isinstance(future, ClusterFuture) and future._dispatcher is self and future.task is not None:
            return future.task
        return -1

    def _waited(self, fresh: Fresh) -> None:
        with self.crew.lock:
            self._fresh.append(fresh)
        self._wake()

    def _waited_in_vain(self, fresh: Fresh, error: BaseException) -> None:
        self._fail(fresh.sink, [fresh.first], error)

    # -- writing (one thread at a time) ---------------------------------------------------------

    def pump(self) -> None:
        """Write what is fresh, and assign what is pending to whoever can take it."""
        if self._fresh or self._sweep or self.unfinished:
            with self.crew.io:
                self._pump()
            self._settle_late()

    def _settle_late(self) -> None:
        """End what was being written when everything else was cancelled, or failed."""
        if not self._late:
            return
        with self.crew.lock:
            late, self._late = self._late, []
            if self._fate is None:
                self.unfinished -= sum(run.count for run in late)
        for run in late:
            if self._fate is None:
                run.sink.cancel(run.first, run.count)
            else:
                self._fail(run.sink, range(run.first, run.first + run.count), self._fate)

    def _pump(self) -> None:
        sweep = self._sweep
        if sweep:
            self._sweep = False  # first: what is cancelled from here on is for the next turn
        self._write_fresh()  # then: what was cancelled while it was fresh is swept as well
        withdrawn = self.queued.withdraw() if sweep and self.queued else []
        with self.crew.lock:
            self._roster.wake(time.monotonic())
            swept = withdrawn + (self._drop_cancelled() if sweep else [])
            bundles = [] if self._job_per_task else self._roster.deal()
            recalls = self._roster.recalls()
            for bundle in bundles:
                swept += bundle.cancelled
            self.unfinished -= len(swept)
        try:
            self.journal.cancelled(swept)
            self.journal.publish()
        except OSError as error:
            log.warning("could not write which tasks wait, were cancelled or are tried again: %s", error)
        for bundle in bundles:
            self._assign(bundle.member, bundle.runs)
        for member in recalls:
            self.crew.recall(member)

    def _write_fresh(self) -> None:
        with self.crew.lock:
            fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        try:
            runs = self.journal.write(fresh)
            self.journal.publish()
        except OSError:
            runs = self._write_singly(fresh)
        with self.crew.lock:
            if self._dropping:
                self._late += runs
            else:
                self._roster.append(runs)

    def _write_singly(self, fresh: Sequence[Fresh]) -> list[Run]:
        """They could not be written together; only those that cannot be written alone fail."""
        runs: list[Run] = []
        for item in fresh:
            for index, body in enumerate(item.bodies):
                try:
                    runs += self.journal.write([item._replace(first=item.first + index, bodies=[body])])
                    self.journal.publish()
                except OSError as error:
                    self._fail(item.sink, [item.first + index], error)
        return runs

    def _assign(self, member: Member, runs: Sequence[Run]) -> None:
        if not runs:
            return
        try:
            self.crew.send(member, b"".join([run.order() for run in runs]))
        except OSError as error:
            with self.crew.lock:
                if self._roster.members.get(member.ref) is not member:
                    return  # it died meanwhile, and what it had is pending again
                for run in runs:
                    member.assigned.remove(run)
            for run in runs:
                self._fail(run.sink, range(run.first, run.first + run.count), error)

    def _drop_cancelled(self) -> list[int]:
        gone: list[int] = []

        def keep(run: Run) -> Iterable[Run]:
            cancelled = run.sink.sweep(run.first, run.count)
            gone.extend(cancelled)
            return without(run, cancelled)

        self._roster.sift(keep)
        return gone + self._waiting.sweep()

    # -- what workers tell (watching thread) ----------------------------------------------------

    def ready(self, ref: WorkerRef, post: Post, kind: int = 0) -> None:
        """A worker, at `post`, can take tasks."""
        self.crew.joined(ref, post, kind)
        with self.crew.changed:
            member = self._roster.members[ref]
            member.post = post
            member.ready = True
            member.since = time.monotonic()
            if self.queued:
                self.queued.started(member)
            self.crew.changed.notify_all()
        self.crew.tell_end([member])

    def shuns(self, node: str, kind: int) -> bool:
        """Whether a pool's workers for tasks of a kind are not to stay on `node`."""
        return not self._job_per_task and self._kinds.avoids(node, kind)

    def forget(self, supervisor: WorkerRef, status: JobStatus) -> None:
        """A supervisor and its workers are gone; `status` is what the scheduler says of its job."""
        self.crew.forget_end(supervisor)
        if not (status.state.ended or status.state is JobState.UNKNOWN):
            return  # it was given up, and may still run
        if self._job_per_task and status.state is JobState.COMPLETED:
            return  # its outcome says the same
        try:
            self.journal.gone(supervisor, status)
        except OSError as error:
            log.warning("could not write that job %d is over: %s", supervisor.job, error)

    def outcomes(self, ref: WorkerRef, bodies: Iterable[bytes]) -> None:
        """Outcomes from a worker, in the order in which it wrote them."""
        settled: list[Settled] = []
        rows: set[Row] = set()
        doubtful: list[Result] = []
        with self.crew.lock:
            member = self._roster.members.get(ref)
            if member is None:
                return  # it was given up; its tasks are somebody else's
            for body in bodies:
                self._outcome(member, body, settled, rows, doubtful)
            member.since = time.monotonic()
            if member.post.node is not None:
                self._attempts.nodes.well(member.post.node, member.since)
            if not member.assigned:
                self._roster.overhead.observe(member.since - member.busy_until)
        for result in doubtful:
            self._raised(result, settled, rows)
        self._settled += settled
        for row in rows:
            row.arrived()

    def deliver(self) -> None:
        """Resolve the futures whose outcomes have come."""
        settled, self._settled = self._settled, []
        for item in settled:
            item.deliver()

    def _outcome(
        self,
        member: Member,
        body: bytes,
        settled: list[Settled],
        rows: set[Row],
        doubtful: list[Result],
    ) -> None:
        """One outcome; the hot path of the driver, lock held.

        Errors that may be worth another attempt are `doubtful`: to look at them runs the user's code.
        """
        head = OUTCOME_HEAD.unpack_from(body)
        number, attempt, status, wall = head[:4]
        cost = head[3:]
        run = member.assigned[0] if member.assigned else None
        if run is None or number != run.first + run.done:
            run = member.expect(number)
        if run is None or run.attempt != attempt:
            log.warning("worker %s: outcome of task %d, which it does not have", member.ref, number)
            return
        result = _new(Result, (run, number, status, cost, member.ref, body[OUTCOME_HEAD.size :]))
        if status == RAISED and run.policy.retries.on:
            doubtful.append(result._replace(run=run.part(run.done, 1)))
        else:
            self._settle(result, settled, rows)
        member.stdout, member.stderr = cost[-2:]
        member.account(run, wall)
        if self._doomed:
            self._doomed.pop(number, None)

    def _settle(self, result: Result, settled: list[Settled], rows: set[Row]) -> None:
        """A task is done; lock held."""
        run, number, status, cost, ref, data = result
        sink = run.sink
        if status == RAISED:
            self.failures += 1
        if type(sink) is Piece:
            sink.slots[number - sink.first] = Raised(data) if status == RAISED else data
            rows.add(sink.row)
        else:
            future = self._futures.futures.pop(number)
            future.attempt, future.exit_code = run.attempt, 0
            queued = run.began + run.elapsed - future._submitted
            future.queue_time = queued if queued > 0.0 else 0.0
            future._cost, future._ran_by = _new(Cost, cost), ref
            settled.append(Settled(future, status, data))
        self.unfinished -= 1

    def _raised(self, result: Result, settled: list[Settled], rows: set[Row]) -> None:
        """A task has raised what may be worth another attempt: its retries say whether it is."""
        run, error = result.run, payload.loads_error(result.data)
        if self._again(run, error):
            return
        if run.earlier:
            payload.note(error, told(run.earlier))
            result = result._replace(data=payload.dumps_error(error))
        with self.crew.lock:
            self._settle(result, settled, rows)

    def outcome_lost(self, number: int, errno: int) -> None:
        """A task ran, but its outcome could not be written."""
        import os

        with self.crew.lock:
            member = self._roster.holder(number)
            run = member.expect(number) if member is not None else None
            if member is None or run is None:
                return
            member.account(run, 0.0)
        text = f"the task ran, but its outcome could not be written: {os.strerror(errno)}"
        self._fail(run.sink, [number], OutcomeNotWritten(errno, text))

    def ended(
        self, ref: WorkerRef, ended: Optional[Ended], task: Optional[int], status: Optional[JobStatus] = None
    ) -> None:
        """A worker is dead, and all that it wrote was read; `task` is what it was running, if anything.

        `ended` is how its supervisor saw it end, `status` what the scheduler says of the job.
        """
        with self.crew.changed:
            member = self._roster.members.get(ref)
            if member is None:
                return
            self.queued.lost(member)
            lost: Optional[Run] = None
            for run in reversed(self._roster.remove(ref)):
                if task is not None and run.first <= task < run.first + run.count:
                    after = task + 1 - run.first
                    if after < run.count:
                        self._roster.push_front(run.part(after, run.count - after))
                    lost = run.part(after - 1, 1)
                    if after > 1:
                        self._roster.push_front(run.part(0, after - 1))
                else:
                    self._roster.push_front(run)
            self.crew.changed.notify_all()
        with self.crew.io:  # a thread that found the worker idle may be writing to it
            member.inbox.abandon()
        if lost is not None:
            self._lost(lost, member, ended, status)
        self._fail_doomed()

    def never_came(self, ref: WorkerRef, status: Optional[JobStatus]) -> None:
        """The job of a worker-to-be, if there was one, has ended before it started; `status` as in `ended`.

        Its task waits for another one; but who cancels a job that is for one task means that task.
        """
        with self.crew.lock:
            member = self._roster.members.get(ref)
            task = member.current if member is not None else None
        cancelled = status is not None and status.state is JobState.CANCELLED
        self.ended(ref, None, task if cancelled else None, status)

    def _lost(
        self, run: Run, member: Member, ended: Optional[Ended], status: Optional[JobStatus]
    ) -> None:
        """The task of `run`, a single one, is lost with its worker, which was running it or was to run it."""
        error = worker_lost(self.run, member.ref, member.post, ended, run.first, status, member.ready)
        log.info("%s", error)
        if self._attempts.blame(error):
            self.crew.dismiss_node(error.node)
        if self._again(run, error):
            return
        if run.earlier:
            error.earlier = list(run.earlier)
            error.args = (f"{error}\n{told(run.earlier)}",)
        with self.crew.lock:
            future = self._futures.futures.get(run.first)
            if run.sink is self._futures and future is not None:
                future.attempt, future.exit_code = run.attempt, error.exit_code
                future._printed = Printed(member.ref, (member.stdout, -1), (member.stderr, -1))
        self._fail(run.sink, [run.first], error)

    def _again(self, run: Run, error: BaseException) -> bool:
        """Have the task of `run`, a single one, tried again, if its retries allow it after this `error`."""
        further = self._attempts.after(run, error)
        if further is None:
            return False
        with self.crew.lock:
            if self.broken or self._dropping:
                return False
            if further.until:
                self._roster.rest(further.run, further.until)
            else:
                self._roster.push_front(further.run)
        return True

    # -- ending tasks ---------------------------------------------------------------------------

    def _fail(self, sink: Sink, numbers: Sequence[int], error: BaseException) -> None:
        """These tasks end with an error of ours."""
        settled = []
        with self.crew.lock:
            self.unfinished -= len(numbers)
            self.failures += len(numbers)
            for number in numbers:
                self._doomed.pop(number, None)
                settled.append(sink.fail(number, error))
        for item in settled:
            if item is not None:
                item.deliver()
        self._wake()

    def kill_task(self, future: ClusterFuture[Any]) -> bool:
        """Have a running task killed; False if it is done."""
        with self.crew.lock:
            if future.task not in self._futures.futures:
                return False
            self._doomed[future.task] = future
        self._wake()
        return True

    def doomed(self) -> list[tuple[WorkerRef, int]]:
        """Tasks to be killed, and who has them; asked for until they are gone, as one may not run yet."""
        self._fail_doomed()
        with self.crew.lock:
            found = []
            for number in self._doomed:
                member = self._roster.holder(number)
                if member is not None:
                    found.append((member.ref, number))
            return found

    def _fail_doomed(self) -> None:
        """Tasks to be killed that are nobody's: their worker died under another one, or they rest."""
        gone: list[int] = []

        def keep(run: Run) -> Iterable[Run]:
            doomed = [n for n in range(run.first, run.first + run.count) if n in self._doomed]
            gone.extend(doomed)
            return without(run, doomed)

        with self.crew.lock:
            if not self._doomed:
                return
            self._roster.sift(keep)
        for number in gone:
            self._fail(self._futures, [number], TaskKilled(f"task {number} was killed on request"))

    def close(self, cancel: bool) -> None:
        """Take nothing more; `cancel` what has not started."""
        with self.crew.changed:
            self.closing = True
            self.crew.changed.notify_all()
            if cancel:
                self._dropping = True
                fresh, self._fresh = self._fresh, []
                runs = self._roster.take_all()
                fresh += self._waiting.clear()
                todo = [(r.sink, r.first, r.count) for r in runs]
                todo += [(f.sink, f.first, len(f.bodies)) for f in fresh]
                self.unfinished -= sum(count for _, _, count in todo)
        if cancel:
            withdrawn = self.queued.withdraw_all()
            self.unfinished -= len(withdrawn)
            todo += [(run.sink, run.first, 1) for run in withdrawn]
            for sink, first, count in todo:
                sink.cancel(first, count)
        self._wake()

    def fail_all(self, error: BaseException, broken: bool) -> None:
        """Every task that is left ends with `error`; `broken`: and so does every further submission."""
        with self.crew.lock:
            if broken and self.broken is None:
                self.broken = error
                self.closing = True
            self._dropping, self._fate = True, error
            fresh, self._fresh = self._fresh, []
            runs = self._roster.take_all()
            for member in self._roster.members.values():
                runs += [run.unfinished for run in member.assigned]
                member.assigned.clear()
            fresh += self._waiting.clear()
            self.crew.changed.notify_all()
        for run in runs:
            self._fail(run.sink, range(run.first, run.first + run.count), error)
        for item in fresh:
            self._fail(item.sink, range(item.first, item.first + len(item.bodies)), error)

    # -- workers --------------------------------------------------------------------------------

    def wanted(self) -> dict[int, int]:
        """How many workers of each kind there should be: as many as tasks, and `max_workers` in all.

        Where each task has a job of its own: how many tasks of each kind wait for one.
        """
        with self.crew.lock:
            if self.broken is not None:
                return {}
            if self._job_per_task:
                return self._roster.waiting()
            tasks = self._tasks_by_kind()
            if not self.closing:
                tasks[0] = max(tasks.get(0, 0), self.crew.demand)
            return share_out(tasks, self.max_workers)

    def _tasks_by_kind(self) -> dict[int, int]:
        if len(self._kinds) == 1:  # nearly always, and then they need not be counted
            return {0: self.unfinished - len(self._waiting) - self._roster.at_rest}
        tasks = self._roster.tasks()
        for fresh in self._fresh:
            tasks[fresh.policy.kind] = tasks.get(fresh.policy.kind, 0) + len(fresh.bodies)
        return tasks

    @property
    def stirring(self) -> bool:
        """Whether there is anything to write, to assign, to kill or to end."""
        roster = self._roster
        return bool(
            self._fresh or roster.busy or self._sweep or self._doomed or self.closing or not self.patience
        )

    @property
    def patience(self) -> float:
        """Seconds until the next of the tasks that rest before another attempt is due; inf if none does."""
        due = self._roster.due
        return due if due == math.inf else max(due - time.monotonic(), 0.0)

    def demand(self, count: int) -> None:
        """Have `count` workers even if there is nothing to do."""
        self.crew.demand = max(self.crew.demand, count)
        self._wake()

    def wait_for_workers(self, count: int, timeout: Optional[float]) -> bool:
        """Wait until so many are active; False if they are not after `timeout` seconds."""
        with self.crew.changed:
            self.crew.changed.wait_for(lambda: self.closing or len(self._roster.active()) >= count, timeout)
            self.check_open()
            return len(self._roster.active()) >= count

    def abandon(self) -> None:
        """In a fork: no lock can be relied on, and nothing here is this process's any more."""
        self.crew.renew_locks()
        self._waiting.abandon()
        self.queued = self._make_queued()

    def printed(self, future: ClusterFuture[Any], stream: str) -> str:
        """What a task has written to "stdout" or "stderr"."""
        place = future._output() or self._printing(future)
        if place is None:
            return ""
        begin, end = place.stdout if stream == "stdout" else place.stderr
        path = self.run.stdout(place.worker) if stream == "stdout" else self.run.stderr(place.worker)
        try:
            with open(path, "rb") as file:
                file.seek(begin)
                return file.read(end - begin if end >= 0 else -1).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _printing(self, future: ClusterFuture[Any]) -> Optional[Printed]:
        """Where a task that runs now has written so far."""
        with self.crew.lock:
            member = self._roster.holder(future.task) if future.task is not None else None
            if member is None or member.current != future.task:
                return None
            return Printed(member.ref, (member.stdout, -1), (member.stderr, -1))


def _member(run: RunDirectory, worker: WorkerPast) -> Member:
    """A worker of the past."""
    account, ready = worker.account, worker.account.ready
    post = Post(str(worker.ref), worker.pid, None, worker.job_id)
    if ready is not None:
        post = Post(str(worker.ref), ready.pid, ready.node, ready.job_id)
    member = Member(worker.ref, run.inbox_writer(worker.ref), post, worker.kind)
    member.ready, member.recalled = ready is not None, account.recalled
    member.leaving = account.leaving or worker.lone
    member.given = len(account.outcomes) + len(account.left)
    if account.outcomes:
        member.stdout, member.stderr = OUTCOME_HEAD.unpack_from(account.outcomes[-1])[-2:]
    return member


def _parent(futures: Sequence[Future[Any]], number: int) -> Future[Any]:
    """The future that a task waits for, by its number in a record of such a task."""
    if number:
        return futures[number - 1]
    foreign: Future[Any] = Future()
    foreign.set_exception(DependencyFailed("it was no task of this run, and is gone with the driver"))
    return foreign
