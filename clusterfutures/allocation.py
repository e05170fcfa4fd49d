"""The jobs of a run: started when workers are wanted, told how many to have, and seen to their end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Optional

from clusterfutures.clerk import Clerk
from clusterfutures.errors import (
    SchedulerUnavailable,
    SubmissionError,
    SubmitLimitReached,
    WorkerStartError,
)
from clusterfutures.logs import LogWriter, frame
from clusterfutures.obituary import tail
from clusterfutures.records import KILL, NUMBER, STOP, WANT, Kill
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus, Scheduler
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState

log = logging.getLogger("clusterfutures")

GROWTH_INTERVAL = 1.0  # seconds between two submissions, however fast tasks come in
GATHER = 0.05  # seconds in which tasks that come together add to one submission
DRIFT = 3.0  # seconds by which the end of a wall time must have moved to be worth telling
PATIENCE = (5.0, 60.0)  # seconds until a submission that was put off is tried again: at first, at most
FAILED_STARTS = 3  # jobs in a row that end before a worker of theirs was ready
MAX_ELEMENTS = 1000  # of one job: what most sites allow, and not too many for a directory


class Recipe(NamedTuple):
    """How the jobs of a run are made.

    A job has up to `per_job` workers; `failed_starts` jobs in a row that come to nothing end the run.
    A job is submitted `gather` seconds after it was first wanted, so that it can be for all that is wanted.
    """

    name: str
    argv: list[str]
    cwd: Optional[str]
    environment: dict[str, Optional[str]]
    setup: str
    resources: Mapping[str, Any]
    specification: Specification
    per_job: int
    failed_starts: int = FAILED_STARTS
    gather: float = GATHER

    def elements(self, workers: int) -> int:
        """How many elements a job for so many workers has."""
        return min(math.ceil(workers / self.per_job), MAX_ELEMENTS)

    def request(self, run: RunDirectory, job: int, elements: int) -> JobRequest:
        """The job with this number, in a form that a scheduler takes."""
        return JobRequest(
            job=job,
            name=self.name,
            argv=[*self.argv, run.path, str(job), INDEX, RESTART, JOB_ID],
            elements=elements,
            script=run.script(job),
            log=run.element_log(job, INDEX),
            cwd=self.cwd,
            environment=self.environment,
            setup=self.setup,
            resources=self.resources,
            tag=self.specification.run_id,
        )


class Submission(NamedTuple):
    """A job on its way to the scheduler: its elements begin with `each` workers, then have `wants`."""

    request: JobRequest
    each: int
    wants: list[int]


class Element:
    """One supervisor, as the driver knows it."""

    def __init__(self, ref: WorkerRef, job_id: str, inbox: LogWriter, want: int) -> None:
        self.ref, self.job_id, self.inbox = ref, job_id, inbox
        self.want = want
        self.idle = False  # it has done the task that it was made for
        self.leaving = False  # it gets no more workers, and ends with those that it has
        self.cancelled = False  # by us
        self.gave_up = ""
        self.status = JobStatus(JobState.UNKNOWN)
        self.known = time.monotonic()  # when the scheduler last knew it
        self.ends = 0.0  # when its wall time does, on our clock; 0 for never, or not known yet

    @property
    def log_of(self) -> tuple[int, int]:
        """Job and element, as the name of its log has them."""
        return self.ref.job, self.ref.element


class Events(NamedTuple):
    """What an allocation tells of; all of it in the watching thread.

    `post` has a call made there.  `ring` is called with a supervisor after something was written to its
    inbox; `broken` with an error when no worker can be had; `came` and `gone` with an element that was
    submitted or has ended, the latter with what the scheduler says of it; `timed` with one whose end by
    wall time has become known, or another.
    """

    post: Callable[[Callable[[], None]], None]
    ring: Callable[[WorkerRef, LogWriter], None]
    broken: Callable[[BaseException], None]
    came: Callable[[Element], None]
    gone: Callable[[Element, JobStatus], None]
    timed: Callable[[Element], None]


class Allocation:
    """Keeps as many workers in jobs as are wanted.

    Belongs to the watching thread; what the clerk brings back is posted there.
    """

    def __init__(self, run: RunDirectory, scheduler: Scheduler, recipe: Recipe, events: Events) -> None:
        self._run, self._scheduler, self._recipe, self._events = run, scheduler, recipe, events
        self._clerk = Clerk("clusterfutures-clerk")
        self.elements: dict[WorkerRef, Element] = {}
        self.alive: set[WorkerRef] = set()  # supervisors with a worker that was ready, once
        self._jobs = 0
        self._submitting = 0  # workers
        self._with_clerk = False  # a submission is
        self._put_off: Optional[Submission] = None  # one that may or may not have been accepted
        self._pause = 0.0  # until the next try, if the last one was put off
        self._most = MAX_ELEMENTS  # elements that the scheduler takes at a time
        self._submitted_at = -math.inf
        self._missed_since = 0.0  # when workers were first wanted that nobody was asked for
        self._failed_starts = 0
        self._asking = False
        self._asked = 0.0
        self._interval = scheduler.interval
        self.urgent = False  # somebody waits for the reason why a worker died
        self.closed = False

    @property
    def empty(self) -> bool:
        """Whether no job is left, in any state."""
        return not self.elements and not self._with_clerk

    # -- growing and shrinking ------------------------------------------------------------------

    def want(self, workers: int) -> None:
        """Have at least so many."""
        if self.closed or workers <= 0:
            return
        missing = workers - self.capacity
        for element in self.elements.values() if missing > 0 else ():
            more = min(missing, self._recipe.per_job - element.want)
            if more > 0 and not element.leaving:
                missing -= more
                self._set_want(element, element.want + more)
        if missing <= 0:
            self._missed_since = 0.0
        elif not self._with_clerk and self._due():
            self._missed_since = 0.0
            self._submit(missing)

    def _due(self) -> bool:
        """Whether it is time to submit: not for each task by itself, not once a moment."""
        now = time.monotonic()
        self._missed_since = self._missed_since or now
        again = self._submitted_at + max(GROWTH_INTERVAL, self._pause)
        return now >= max(self._missed_since + self._recipe.gather, again)

    @property
    def patience(self) -> float:
        """Seconds until it may be time to :meth:`want` or :meth:`ask` again."""
        if self._missed_since:
            return max(self._recipe.gather / 2, 0.01)
        return self._scheduler.closing_interval if self.urgent else math.inf

    def shrink(self, workers: int) -> None:
        """Have no more than so many once the present ones have left."""
        surplus = sum(element.want for element in self.elements.values()) - workers
        # The youngest first: they are the most likely ones to be still in the queue.
        for element in reversed(list(self.elements.values())):
            less = min(surplus, element.want)
            if less > 0:
                surplus -= less
                self._set_want(element, element.want - less)

    def retire(self, supervisor: WorkerRef) -> None:
        """Let one go: it ends when its workers have left, and counts for nothing from now on."""
        element = self.elements.get(supervisor)
        if element is not None and not element.leaving:
            element.leaving = True
            self._set_want(element, 0)

    def retired(self, supervisor: WorkerRef) -> None:
        """A worker of this job leaves since its wall time is nearly over: the others soon will."""
        element = self.elements.get(supervisor)
        if element is not None:
            element.leaving = True

    @property
    def capacity(self) -> int:
        """How many workers there are, or will be without further submissions."""
        staying = sum(element.want for element in self.elements.values() if not element.leaving)
        return staying + self._submitting

    def cancel_waiting(self, surplus: int) -> None:
        """Take elements with up to so many workers, which have not been heard of yet, out of the queue."""
        chosen = []
        for element in reversed(list(self.elements.values())):
            waits = element.status.state is JobState.PENDING and not element.leaving
            if waits and element.want <= surplus:
                surplus -= element.want
                element.leaving = True
                chosen.append(element)
        self._cancel(chosen)

    def _set_want(self, element: Element, workers: int) -> None:
        element.want = workers
        self._send(element, frame(WANT, NUMBER.pack(workers)))

    # -- submitting -----------------------------------------------------------------------------

    def _submit(self, workers: int) -> None:
        submission = self._put_off
        if submission is None:
            submission = self._prepare(workers)
            if submission is None:
                return
            self._submitting += sum(submission.wants)
        self._with_clerk = True

        def then(ids: Any, error: Optional[Exception]) -> None:
            self._events.post(lambda: self._submitted(submission, ids, error))

        self._clerk.do(then, self._scheduler.submit, submission.request)

    def _prepare(self, workers: int) -> Optional[Submission]:
        recipe = self._recipe
        elements = min(recipe.elements(workers), self._most)
        each = min(recipe.per_job, workers)
        wants = [each] * (elements - 1) + [min(workers - (elements - 1) * each, each)]
        job, self._jobs = self._jobs, self._jobs + 1
        try:
            self._run.make_job(job)
            recipe.specification._replace(workers=each).write(self._run, job)
        except OSError as error:
            self._break(f"cannot write the job's specification: {error}", error)
            return None
        return Submission(recipe.request(self._run, job, elements), each, wants)

    def _submitted(
        self, submission: Submission, ids: Optional[list[str]], error: Optional[Exception]
    ) -> None:
        self._with_clerk = False
        self._submitted_at = time.monotonic()
        if ids is None:
            self._refused(submission, error)
            return
        self._hand_over(submission, ids)
        self._done_with(submission)
        self._pause, self._most = 0.0, MAX_ELEMENTS
        log.debug("submitted job %s for %d workers", ids[0], sum(submission.wants))
        if self.closed:
            self.stop()

    def _hand_over(self, submission: Submission, ids: list[str]) -> None:
        for index, (job_id, want) in enumerate(zip(ids, submission.wants)):
            ref = WorkerRef(submission.request.job, index)
            inbox = self._run.inbox_writer(ref)
            element = self.elements[ref] = Element(ref, job_id, inbox, submission.each)
            if want != submission.each:
                self._set_want(element, want)
            self._events.came(element)

    def _done_with(self, submission: Submission) -> None:
        self._put_off = None
        self._submitting -= sum(submission.wants)

    def _refused(self, submission: Submission, error: Optional[Exception]) -> None:
        if isinstance(error, SchedulerUnavailable):
            self._put_off = submission  # it may have been accepted: the same once more finds out
            self._wait_before_the_next(error)
            return
        self._done_with(submission)
        if isinstance(error, SubmitLimitReached):
            self._most = max(1, len(submission.wants) // 2)
            self._wait_before_the_next(error)
        elif isinstance(error, SubmissionError):
            self._events.broken(error)
        else:
            self._break(f"no worker could be started: {error}", error)

    def _wait_before_the_next(self, error: Exception) -> None:
        first, most = PATIENCE
        self._pause = min(max(first, 2 * self._pause), most)
        log.warning("no new job yet, trying again in %.0f s: %s", self._pause, error)

    def _break(self, text: str, cause: Optional[BaseException] = None) -> None:
        error = WorkerStartError(text)
        error.__cause__ = cause
        self._events.broken(error)

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, at_once: bool = False) -> None:
        """Ask the scheduler about all jobs, if it is time."""
        now = time.monotonic()
        hurried = self.closed or self.urgent
        interval = self._scheduler.closing_interval if hurried else self._interval
        if self._asking or not self.elements or (now - self._asked < interval and not at_once):
            return
        self._asking, self._asked = True, now
        elements = list(self.elements.values())

        def then(found: Any, error: Optional[Exception]) -> None:
            self._events.post(lambda: self._answered(elements, found, error))

        # At its own time, an answer that another executor got just before is as good.
        max_age = 0.0 if hurried or at_once else 0.9 * self._interval
        self._clerk.do(then, self._scheduler.poll, [element.job_id for element in elements], max_age)

    def _answered(
        self, asked: list[Element], found: Optional[dict[str, JobStatus]], error: Optional[Exception]
    ) -> None:
        self._asking = False
        if found is None:
            log.warning("the scheduler did not answer, which changes nothing: %s", error)
            return
        changed = False
        for element in asked:
            if element.ref in self.elements:
                changed |= self._learn(element, found.get(element.job_id))
        self._loosen()
        longest = self._scheduler.longest_interval
        self._interval = self._scheduler.interval if changed else min(self._interval * 1.5, longest)

    def _loosen(self) -> None:
        """What ended may make room for more."""

    def _learn(self, element: Element, status: Optional[JobStatus]) -> bool:
        """Take note of what the scheduler says of an element; returns whether that is news."""
        now = time.monotonic()
        if status is None:
            if now - element.known > self._scheduler.grace:
                text = f"the scheduler has not known it for {self._scheduler.grace:.0f} s"
                self._ended(element, JobStatus(JobState.UNKNOWN, text=text))
            return True
        before, element.status, element.known = element.status, status, now
        if before.state is not status.state and status.state is JobState.RUNNING:
            self._events.came(element)  # if nobody has heard of it before
        if status.time_left is not None and abs(now + status.time_left - element.ends) > DRIFT:
            element.ends = now + status.time_left
            self._events.timed(element)
        if status.state.ended:
            self._ended(element, status)
        elif status.hopeless:
            element.gave_up = f"it can never start: {status.hopeless}"
            self._cancel([element])
        elif _restarted(before, status):
            self._start_anew(element, element.ref.restart + 1, status)
        return (before.state, before.text) != (status.state, status.text)

    def _ended(self, element: Element, status: JobStatus) -> None:
        del self.elements[element.ref]
        self._events.gone(element, status)
        element.inbox.abandon()
        if element.ref not in self.alive and not (self.closed or element.leaving):
            self._failed_starts += 1
            why = self._why(element, status)
            log.warning("job %s ended before a worker was ready: %s", element.job_id, why)
            if self._failed_starts >= self._recipe.failed_starts or element.gave_up:
                self._break(f"no worker could be started: {why}")

    def _why(self, element: Element, status: JobStatus) -> str:
        path = self._run.element_log(*element.log_of)
        how = f"exit code {status.exit_code}" if status.signal is None else f"signal {status.signal}"
        how += f" ({status.text})" if status.text else ""
        said = tail(path).strip() or f"nothing was written to {path}"
        why = element.gave_up or f"job {element.job_id}, which should start them, ended with {how}"
        return f"{why}\n{said}"

    def ready(self, supervisor: WorkerRef) -> None:
        """A worker of this supervisor is ready: jobs like this one can be started."""
        self.alive.add(supervisor)
        self._failed_starts = 0

    def worker_ended(self, supervisor: WorkerRef) -> None:
        """A worker of this supervisor has ended."""

    def gave_up(self, ref: WorkerRef, reason: str) -> None:
        """A supervisor says that its workers die before they are ready."""
        element = self.elements.get(ref)
        if element is not None and not self.closed:
            home = WorkerRef(*ref[:3], 0, 0)
            element.gave_up = f"{reason}\n{tail(self._run.stderr(home))}"
            if ref not in self.alive:
                self._break(f"no worker could be started: {element.gave_up}")

    # -- elements that the scheduler starts anew ------------------------------------------------

    def restarted(self, supervisor: WorkerRef) -> None:
        """A supervisor calls; if it is a later start of an element that is known, the earlier one is dead."""
        for element in self.elements.values():
            same = element.ref[:2] == supervisor[:2]
            if same and element.ref.restart < supervisor.restart:
                self._start_anew(element, supervisor.restart, element.status)
                return

    def _start_anew(self, element: Element, restart: int, status: JobStatus) -> None:
        log.info("job %s was put back into the queue by the scheduler: %s", element.job_id, status.text)
        del self.elements[element.ref]
        self._events.gone(element, JobStatus(JobState.PREEMPTED, text=f"requeued: {status.text}"))
        element.inbox.abandon()
        ref = element.ref._replace(restart=restart)
        again = self.elements[ref] = Element(ref, element.job_id, self._run.inbox_writer(ref), element.want)
        again.status, again.leaving = status, element.leaving
        self._set_want(again, element.want)
        self._events.came(again)

    # -- ending ---------------------------------------------------------------------------------

    def kill(self, worker: WorkerRef, task: int, signal: int) -> None:
        """End a worker (`task` 0), or only task number `task` - 1 of it."""
        element = self.elements.get(worker.supervisor)
        if element is not None:
            self._send(element, frame(KILL, Kill(worker.slot, worker.generation, task, signal).pack()))

    def let_go(self) -> None:
        """No worker is to be replaced any more."""
        self.closed = True
        for element in self.elements.values():
            if element.want:
                self._set_want(element, 0)

    def stop(self) -> None:
        """End everything that runs."""
        self.closed = True
        for element in self.elements.values():
            if element.status.state is not JobState.PENDING:
                self._send(element, frame(STOP, b""))

    def cancel_silent(self, heard: Callable[[WorkerRef], bool]) -> None:
        """End jobs that nothing was heard of yet: they cannot hear either."""
        self.closed = True
        self._cancel([element for element in self.elements.values() if not heard(element.ref)])

    def cancel(self) -> None:
        """Have the scheduler end the jobs: for when a supervisor does not obey."""
        self._cancel(self.elements.values())

    def withdraw(self, supervisors: Iterable[WorkerRef]) -> None:
        """Take these out of the queue, since nobody needs them any more."""
        chosen = [self.elements[ref] for ref in supervisors if ref in self.elements]
        for element in chosen:
            element.leaving = True
        self._cancel(chosen)

    def _cancel(self, elements: Iterable[Element]) -> None:
        chosen = list(elements)
        for element in chosen:
            element.cancelled = True
        if chosen:
            ids = [element.job_id for element in chosen]
            self._clerk.do(self._note_failure, self._scheduler.cancel, ids)

    @staticmethod
    def _note_failure(_: Any, error: Optional[Exception]) -> None:
        if error is not None:
            log.warning("the scheduler did not do as it was told: %s", error)

    def close(self) -> None:
        """Let the clerk go."""
        self._clerk.close()

    def _send(self, element: Element, data: bytes) -> None:
        try:
            self._run.make_home(element.ref)
            element.inbox.write(data)
            element.inbox.publish()
        except OSError as error:
            # With a full disk nothing can be said; ending the job says it all the same.
            log.warning("could not write to the inbox of %s: %s", element.ref, error)
            if self.closed:
                self.cancel()
            return
        self._events.ring(element.ref, element.inbox)


def _restarted(before: JobStatus, now: JobStatus) -> bool:
    """Whether an element that ran was put back into the queue, or has even been started again."""
    if before.state not in (JobState.RUNNING, JobState.SUSPENDED):
        return False
    return now.state is JobState.PENDING or bool(before.begun and now.begun and before.begun != now.begun)
