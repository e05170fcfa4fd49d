"""The jobs of a run: started when workers are wanted, told how many to have, and seen to their end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from clusterfutures.clerk import Clerk
from clusterfutures.errors import SubmissionError, SubmitLimitReached, WorkerStartError
from clusterfutures.history import JobPast, Past
from clusterfutures.logs import LogWriter, frame
from clusterfutures.obituary import signal_name, tail
from clusterfutures.records import KILL, NUMBER, STOP, WANT, Kill
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus, Scheduler
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState
from clusterfutures.submissions import MAX_ELEMENTS, Submission, Submissions, TooLarge
from clusterfutures.worker import Marker

log = logging.getLogger("clusterfutures")

GATHER = 0.05  # seconds in which tasks that come together add to one submission
GATHER_AT_MOST = 1.0  # seconds for which what keeps coming is gathered
WORRY = 0.4  # of the usual interval, between questions while a supervisor is silent
DRIFT = 3.0  # seconds by which the end of a wall time must have moved to be worth telling
FAILED_STARTS = 3  # jobs in a row that end before a worker of theirs was ready


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


class Element:
    """One supervisor, as the driver knows it."""

    def __init__(self, ref: WorkerRef, job_id: str, inbox: LogWriter, kind: int, want: int) -> None:
        self.ref, self.job_id, self.inbox = ref, job_id, inbox
        self.kind, self.want = kind, want
        self.idle = False  # it has done the task that it was made for
        self.staying = 0  # workers, at most, that it still has while it is leaving
        self.leaving = False  # it gets no more workers, and ends with those that it has
        self.cancelled = False  # by us
        self.inherited = False  # from another driver: what it ended of is not for us to judge
        self.gave_up = ""
        self.status = JobStatus(JobState.UNKNOWN)
        self.missed = 0.0  # since when the scheduler does not know it; 0 if it does
        self.ends = math.inf  # when its wall time does, on our clock, as far as is known

    @property
    def log_of(self) -> tuple[int, int]:
        """Job and element, as the name of its log has them."""
        return self.ref.job, self.ref.element


class Events(NamedTuple):
    """What an allocation tells of; all of it in the watching thread.

    `post` has a call made there.  `ring` is called with a supervisor after something was written to its
    inbox; `broken` with an error when no worker can be had; `came` and `gone` with an element that was
    submitted or has ended, the latter with what the scheduler says of it; `ending` with one of which is known
    how it will have ended; `timed` with one whose end by wall time has become known, or another.  `heard` is
    asked whether a supervisor has said anything yet.
    """

    post: Callable[[Callable[[], None]], None]
    ring: Callable[[WorkerRef, LogWriter], None]
    broken: Callable[[BaseException], None]
    came: Callable[[Element], None]
    gone: Callable[[Element, JobStatus], None]
    ending: Callable[[Element, JobStatus], None]
    timed: Callable[[Element], None]
    heard: Callable[[WorkerRef], bool]


class Allocation:
    """Keeps as many workers in jobs as are wanted.

    Belongs to the watching thread; what the clerk brings back is posted there.  Tasks of one kind are run by
    the workers of one recipe: `recipes` has them by the kind's number.
    """

    planned: tuple[JobState, ...] = (JobState.PREEMPTED, JobState.NODE_FAILED)
    """Ends that say nothing of whether a worker can be started."""

    def __init__(
        self, run: RunDirectory, scheduler: Scheduler, recipes: Sequence[Recipe], events: Events
    ) -> None:
        self._run, self._scheduler, self._recipes, self._events = run, scheduler, recipes, events
        self._clerk = Clerk("clusterfutures-clerk")
        self._desk = Submissions(self._clerk, scheduler, events.post, self._accepted, self._refused)
        self._kinds: list[int] = []  # of each job
        self.elements: dict[WorkerRef, Element] = {}
        self.alive: set[WorkerRef] = set()  # supervisors with a worker that was ready, once
        self._missed_since = 0.0  # when workers were first wanted that nobody was asked for
        self._unneeded: dict[WorkerRef, float] = {}  # to be withdrawn: since when
        self._failed_starts: set[int] = set()  # jobs in a row that came to nothing
        self._starts: dict[int, dict[int, int]] = {}  # the last one by job and element, if looked for
        self._asking = False
        self._answers = True  # the scheduler did, the last time
        self._asked = 0.0
        self._interval = scheduler.interval
        self.urgent = False  # somebody waits for the reason why a worker died
        self.worried = False  # a supervisor has fallen silent
        self.closed = False

    @property
    def empty(self) -> bool:
        """Whether no job is left, in any state."""
        return not self.elements and self._desk.current is None

    def kind_of(self, job: int) -> int:
        """The kind of tasks that a job is for."""
        return self._kinds[job]

    def id_of(self, supervisor: WorkerRef, own: Optional[str]) -> Optional[str]:
        """The id of a job that calls itself `own`, if anything: it need not know its cluster's name."""
        element = self.elements.get(supervisor)
        return element.job_id if own and element is not None else own

    # -- growing and shrinking ------------------------------------------------------------------

    def want(self, workers: Mapping[int, int], most: int) -> None:
        """Have at least so many of each kind, and `most` in all."""
        self._desk.retry()
        missing = 0 if self.closed else self._miss(workers, most)
        if not missing:
            self._missed_since = 0.0

    def _miss(self, wanted: Mapping[int, int], most: int) -> int:
        """Have missing workers started in a job, else submit one; returns how many were missing."""
        total = 0
        for kind, workers in wanted.items():
            missing = self._grow(kind, workers - self.capacity(kind))
            missing = min(missing, self._room(most)) if missing > 0 else 0
            if missing > 0:
                total += missing
                if self._is_time():
                    self._missed_since = 0.0
                    self._submit(kind, missing)
        return total

    def _room(self, most: int) -> int:
        """How many workers there may be beside the present ones, those included that are leaving."""
        present = sum(map(self.capacity, range(len(self._recipes))))
        return most - present - sum(element.staying for element in self.elements.values())

    def _grow(self, kind: int, missing: int) -> int:
        """Have jobs that can take more workers start them; returns how many are missing still."""
        for element in self.elements.values() if missing > 0 else ():
            more = min(missing, self._recipes[kind].per_job - element.want)
            if more > 0 and element.kind == kind and not element.leaving:
                missing -= more
                self._set_want(element, element.want + more)
        return missing

    def _is_time(self) -> bool:
        """Whether it is time to submit: not for each task by itself, not once a moment."""
        now = time.monotonic()
        self._missed_since = self._missed_since or now
        return now >= self._missed_since + self._recipes[0].gather and not self._desk.wait

    @property
    def patience(self) -> float:
        """Seconds until it may be time to :meth:`want` or :meth:`ask` again."""
        asking = self._scheduler.closing_interval if self.urgent else math.inf
        asking = min(asking, max(self._until_withdrawal, 0.01))
        if not self._missed_since and self._desk.current is None:
            return asking
        gathered = self._missed_since + self._recipes[0].gather - time.monotonic()
        return min(asking, max(gathered, self._desk.wait, 0.01))

    def capacity(self, kind: int) -> int:
        """How many workers of a kind there are, or will be without further submissions."""
        staying = sum(e.want for e in self.elements.values() if e.kind == kind and not e.leaving)
        current = self._desk.current
        return staying + (sum(current.wants) if current is not None and current.kind == kind else 0)

    def surplus(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """How many more workers of each kind there are than wanted; negative where some are missing."""
        return {kind: self.capacity(kind) - workers for kind, workers in wanted.items()}

    def shrink(self, workers: int) -> None:
        """Have no more than so many once the present ones have left."""
        staying = [element for element in self.elements.values() if not element.leaving]
        surplus = sum(element.want for element in staying) - workers
        # The youngest first: they are the most likely ones to be still in the queue.
        for element in reversed(staying) if surplus > 0 else ():
            less = min(surplus, element.want)
            if less > 0:
                surplus -= less
                self._set_want(element, element.want - less)

    def retire(self, supervisor: WorkerRef) -> None:
        """Let one go: it ends when its workers have left, and counts for nothing from now on."""
        element = self.elements.get(supervisor)
        if element is not None and not element.leaving:
            element.leaving, element.staying = True, element.want
            self._set_want(element, 0)

    def serves(self, supervisor: WorkerRef) -> bool:
        """Whether the workers of this one may be given tasks."""
        element = self.elements.get(supervisor)
        return element is None or not element.leaving

    def cancel_waiting(self, kind: int, surplus: int) -> int:
        """Take jobs with up to so many workers, which nothing was heard of yet, out of the queue.

        Returns with how many.
        """
        chosen: list[Element] = []
        for element in reversed(list(self.elements.values())):
            waits = element.status.state is JobState.PENDING and not self._events.heard(element.ref)
            if waits and not element.leaving and element.kind == kind and element.want <= surplus:
                surplus -= element.want
                element.leaving = True
                chosen.append(element)
        self._cancel(chosen)
        return sum(element.want for element in chosen)

    def _set_want(self, element: Element, workers: int) -> None:
        element.want = workers
        self._send(element, frame(WANT, NUMBER.pack(workers)))

    # -- submitting -----------------------------------------------------------------------------

    def _submit(self, kind: int, workers: int) -> None:
        submission = self._prepare(kind, workers)
        if submission is not None:
            self._desk.hand_in(submission)

    def _prepare(self, kind: int, workers: int) -> Optional[Submission]:
        recipe = self._recipes[kind]
        elements = min(recipe.elements(workers), self._desk.most)
        each = min(recipe.per_job, workers)
        wants = [each] * (elements - 1) + [min(workers - (elements - 1) * each, each)]
        return self._write(kind, recipe.specification._replace(workers=each), each, wants)

    def _write(
        self, kind: int, specification: Specification, each: int, wants: list[int]
    ) -> Optional[Submission]:
        """What is to be submitted, once its supervisors can read what they have to know."""
        job = len(self._kinds)
        self._kinds.append(kind)
        try:
            self._run.make_job(job)
            specification._replace(kind=kind, elements=len(wants)).write(self._run, job)
        except OSError as error:
            self._break(f"cannot write the job's specification: {error}", error)
            return None
        return Submission(self._recipes[kind].request(self._run, job, len(wants)), kind, each, wants)

    def _accepted(self, submission: Submission, ids: list[str]) -> None:
        self._note_ids(submission, ids)
        self._watch_closely()
        log.debug("submitted job %s for %d workers", ids[0], sum(submission.wants))
        before = set(self.elements)
        self._hand_over(submission, ids)
        if self.closed:  # it came too late to hear of that otherwise
            self._cancel([element for ref, element in self.elements.items() if ref not in before])

    def _hand_over(self, submission: Submission, ids: list[str]) -> None:
        for index, (job_id, want) in enumerate(zip(ids, submission.wants)):
            ref = WorkerRef(submission.request.job, index)
            inbox = self._run.inbox_writer(ref)
            element = self.elements[ref] = Element(ref, job_id, inbox, submission.kind, submission.each)
            if want != submission.each:
                self._set_want(element, want)
            if not self._run.shared:
                self._events.came(element)  # elsewhere it may wait for hours, and looking costs the server

    def _note_ids(self, submission: Submission, ids: list[str]) -> None:
        try:
            self._run.note_ids(submission.request.job, ids)
        except OSError as error:  # another driver would have to ask for them
            log.warning("could not write the ids of job %d: %s", submission.request.job, error)

    def _refused(self, submission: Submission, error: Exception) -> None:
        self._note_ids(submission, [])
        if isinstance(error, (SubmitLimitReached, TooLarge)):
            return  # with less, or later, it will be accepted
        if isinstance(error, SubmissionError):
            self._events.broken(error)
        else:
            self._break(f"no worker could be started: {error}", error)

    def _break(self, text: str, cause: Optional[BaseException] = None) -> None:
        error = WorkerStartError(text)
        error.__cause__ = cause
        self._events.broken(error)

    # -- jobs of another driver of this run -----------------------------------------------------

    def restore(self, past: Past) -> None:
        """Take over its jobs; what may live is an element again, of which the scheduler is asked."""
        self.alive.update(worker.ref.supervisor for worker in past.workers if worker.account.ready)
        for job in past.jobs:
            self._kinds.append(job.specification.kind if job.specification is not None else 0)
            if job.specification is not None and job.ids:
                request = self._recipes[job.specification.kind].request(self._run, job.number, len(job.ids))
                self._scheduler.adopt(request, job.ids)
                self._restore_job(job, job.specification, job.ids)

    def _restore_job(self, job: JobPast, specification: Specification, ids: Sequence[str]) -> None:
        for index, past in job.supervisors.items():
            inbox = self._run.inbox_writer(past.ref)
            inbox.go_on_after(past.inbox)
            element = Element(past.ref, ids[index], inbox, specification.kind, past.want)
            element.inherited = True
            self.elements[past.ref] = element
            self._resume(element)

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, at_once: bool = False) -> None:
        """Ask the scheduler about all jobs, if it is time."""
        now = time.monotonic()
        hurried = self.closed or self.urgent
        interval = self._scheduler.closing_interval if hurried else self._interval
        if self.worried:
            interval = min(interval, WORRY * self._scheduler.interval)
        if self._asking or not self.elements or (now - self._asked < interval and not at_once):
            return
        self._asking, self._asked = True, now
        elements = list(self.elements.values())

        def then(found: Any, error: Optional[Exception]) -> None:
            self._events.post(lambda: self._answered(elements, found, error))

        # At its own time, an answer that another executor got just before is as good.
        max_age = 0.0 if hurried or at_once else 0.9 * interval
        self._clerk.do(then, self._scheduler.poll, [element.job_id for element in elements], max_age)

    def _answered(
        self, asked: list[Element], found: Optional[dict[str, JobStatus]], error: Optional[Exception]
    ) -> None:
        self._asking = False
        if found is None:
            if self._answers:
                log.warning("the scheduler does not answer, which changes nothing: %s", error)
            self._answers = False
            return
        if not self._answers:
            log.info("the scheduler answers again")
            self._desk.hurry()
        self._answers = True
        self._starts.clear()
        changed = False
        for element in asked:
            if element.ref in self.elements:
                changed |= self._learn(element, found.get(element.job_id))
        self._loosen()
        if not (self.urgent or self.closed):
            scheduler = self._scheduler
            longest = scheduler.interval if changed else scheduler.longest_interval
            self._interval = min(self._interval * 1.5, longest)

    def _loosen(self) -> None:
        """What ended may make room for more."""

    def _watch_closely(self) -> None:
        """A job has been submitted, or starts: should that fail, nobody rings.  Once some have, most will."""
        if not self.alive:
            self._interval = self._scheduler.closing_interval

    def _learn(self, element: Element, status: Optional[JobStatus]) -> bool:
        """Take note of what the scheduler says of an element; returns whether that is news."""
        if status is None:
            self._miss_one(element)
            return True
        now = time.monotonic()
        before, element.missed = element.status, 0.0
        if status.state is JobState.UNKNOWN or _is_older(status, element.ref.restart):
            return False  # it says nothing, or is from before the last start
        element.status = status
        if before.state is not status.state and status.state is JobState.RUNNING:
            if not self._events.heard(element.ref):
                self._watch_closely()
            self._events.came(element)
        if status.state in (JobState.RUNNING, JobState.SUSPENDED):  # while it is, its end is put off
            self._note_end(element, math.inf if status.time_left is None else now + status.time_left)
        if status.state.ended:
            self._ended(self._last_start(element, status), status)
        elif status.hopeless and not element.cancelled:
            element.gave_up = f"it can never start: {status.hopeless}"
            self._cancel([element])
        elif (restart := _restart(element.ref.restart, before, status)) is not None:
            self._start_anew(element, restart, status)
        elif status.state is JobState.ENDING or status.ends_as is not None:
            self._ending(element, status)
        return (before.state, before.text) != (status.state, status.text)

    def _miss_one(self, element: Element) -> None:
        now = time.monotonic()
        element.missed = element.missed or now
        # At the end nothing more is awaited from it: many servers forget a job as soon as it has ended.
        grace = self._scheduler.closing_interval if self.closed else self._scheduler.grace
        if now - element.missed >= grace:
            status = JobStatus(JobState.UNKNOWN, text="the scheduler does not know it any more")
            self._ended(self._last_start(element, status), status)

    def _ending(self, element: Element, status: JobStatus) -> None:
        outlook = status if status.ends_as is None else status._replace(state=status.ends_as)
        if self.closed and status.state is JobState.ENDING:
            self._ended(element, outlook)  # how long a site cleans up after it is not waited for
        elif status.ends_as is not None:
            self._events.ending(element, outlook)

    def is_ending(self, supervisor: WorkerRef) -> bool:
        """Whether the scheduler will tell later how a job has ended: it answers, and has not seen the end."""
        element = self.elements.get(supervisor)
        shown = (JobState.RUNNING, JobState.ENDING)  # some nodes notice an end ten seconds later
        return self._answers and element is not None and element.status.state in shown

    def _note_end(self, element: Element, ends: float) -> None:
        if ends != element.ends and not abs(ends - element.ends) <= DRIFT:
            element.ends = ends
            self._events.timed(element)

    def _ended(self, element: Element, status: JobStatus) -> None:
        self._events.gone(element, status)
        self.elements.pop(element.ref, None)
        element.inbox.abandon()
        if element.ref in self.alive or self.closed or element.leaving or element.inherited:
            return
        if status.state in self.planned and not element.gave_up:
            return
        self._failed_starts.add(element.ref.job)
        why = self._why(element, status)
        log.warning("job %s ended before a worker was ready: %s", element.job_id, why)
        if len(self._failed_starts) >= self._recipes[element.kind].failed_starts or element.gave_up:
            self._give_up_starting(element.kind, self._start_error(element, status, why))

    def _give_up_starting(self, kind: int, error: WorkerStartError) -> None:
        """That is the end of the run, unless there are workers that go on without more of them."""
        if any(element.kind == kind and element.ref in self.alive for element in self.elements.values()):
            self._failed_starts.clear()
            self._desk.hold(error)
        else:
            self._events.broken(error)

    def _why(self, element: Element, status: JobStatus) -> str:
        path = self._run.element_log(*element.log_of)
        said = tail(path).strip() or f"nothing was written to {path}"
        if element.gave_up:
            return f"{element.gave_up}\n{said}"
        how = [] if status.exit_code is None else [f"exit code {status.exit_code}"]
        how += [] if status.signal is None else [f"signal {status.signal}"]
        how += [status.text] if status.text else []
        return f"job {element.job_id}, which should start them, has ended: {', '.join(how)}\n{said}"

    def _start_error(self, element: Element, status: JobStatus, why: str) -> WorkerStartError:
        path = self._run.element_log(*element.log_of)
        return WorkerStartError(
            f"no worker could be started: {why}",
            job_id=element.job_id,
            node=status.node,
            state=status.text or status.state.value,
            exit_code=status.exit_code,
            signal=None if status.signal is None else signal_name(status.signal),
            stderr_tail=tail(path),
            log_path=path,
        )

    def ready(self, supervisor: WorkerRef) -> None:
        """A worker of this supervisor is ready: jobs like this one can be started."""
        self.alive.add(supervisor)
        self._failed_starts.clear()

    def is_idle(self, ref: WorkerRef) -> bool:
        """Whether this supervisor has no worker any more, and will have none: it has said everything."""
        element = self.elements.get(ref)
        return element is not None and element.idle

    def worker_ended(self, supervisor: WorkerRef) -> None:
        """A worker of this supervisor has ended."""

    def lone_worker(self, supervisor: WorkerRef) -> Optional[WorkerRef]:
        """The worker for which this supervisor rings, if it is made for one; None where each has a bell."""
        return None

    def was_busy(self, worker: WorkerRef) -> bool:
        """Whether a worker that nobody saw end was at a task."""
        return Marker.read(self._run.markers(worker.supervisor), worker.slot)

    def begun(self) -> list[WorkerRef]:
        """Of all that wait, those that have begun: one listing a job tells, and no look at each."""
        jobs = {ref.job for ref in self.elements if not self._events.heard(ref)}
        return [ref for job in jobs for ref in self._begun(job)]

    def _begun(self, job: int) -> list[WorkerRef]:
        try:
            return self._run.begun(job)
        except OSError as error:
            log.warning("cannot see which elements of job %d have begun: %s", job, error)
            return []

    def gave_up(self, ref: WorkerRef, reason: str) -> None:
        """A supervisor says that its workers die before they are ready."""
        element = self.elements.get(ref)
        if element is not None and not self.closed:
            path = self._run.stderr(WorkerRef(*ref[:3], 0, 0))
            said = tail(path)
            element.gave_up = f"{reason}\n{said}"
            if ref not in self.alive:
                text = f"no worker could be started: {element.gave_up}"
                known = {"job_id": element.job_id, "stderr_tail": said, "log_path": path}
                self._events.broken(WorkerStartError(text, **known))

    # -- elements that the scheduler starts anew ------------------------------------------------

    def restarted(self, supervisor: WorkerRef) -> None:
        """A supervisor calls; if it is a later start of an element that is known, the earlier one is dead."""
        if supervisor in self.elements:
            return
        for element in self.elements.values():
            if element.ref[:2] == supervisor[:2] and element.ref.restart < supervisor.restart:
                # Answers that are on their way may be about the earlier one: begin without a state.
                self._start_anew(element, supervisor.restart, JobStatus(JobState.UNKNOWN))
                return

    def _last_start(self, element: Element, status: JobStatus) -> Element:
        """The element as it was started last, perhaps without our notice: what was written then counts."""
        last = status.restarts
        if last is None and not self.closed:  # as from accounts, which do not tell it
            last = self._last_seen(element.ref)
        if last is None or last <= element.ref.restart or element.cancelled:
            return element
        return self._start_anew(element, last, status)

    def _last_seen(self, ref: WorkerRef) -> int:
        """The last start of an element that has left a directory; a job is listed once for each answer."""
        if ref.job not in self._starts:
            begun = sorted(self._begun(ref.job))
            self._starts[ref.job] = {other.element: other.restart for other in begun}
        return self._starts[ref.job].get(ref.element, 0)

    def _start_anew(self, element: Element, restart: int, status: JobStatus) -> Element:
        log.info("job %s was put back into the queue by the scheduler: %s", element.job_id, status.text)
        self._events.gone(element, JobStatus(JobState.PREEMPTED, text=f"requeued: {status.text}"))
        del self.elements[element.ref]
        element.inbox.abandon()
        ref = element.ref._replace(restart=restart)
        inbox = self._run.inbox_writer(ref)
        again = self.elements[ref] = Element(ref, element.job_id, inbox, element.kind, element.want)
        again.status, again.leaving = status, element.leaving
        self._resume(again)
        self._events.came(again)
        return again

    def _resume(self, element: Element) -> None:
        """Have an element that starts anew go on as before."""
        self._set_want(element, element.want)

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
            if element.status.state is not JobState.PENDING or self._events.heard(element.ref):
                self._send(element, frame(STOP, b""))

    def cancel_silent(self) -> None:
        """End jobs that nothing was heard of yet: they cannot hear either."""
        self.closed = True
        self._cancel([e for e in self.elements.values() if not (e.cancelled or self._events.heard(e.ref))])

    def cancel(self) -> None:
        """Have the scheduler end the jobs: for when a supervisor does not obey."""
        self._cancel(self.elements.values())

    def withdraw(self, supervisors: Sequence[WorkerRef]) -> None:
        """Take these out of the queue, since nobody needs them any more: all that come in a row at once."""
        self._unneeded.update(dict.fromkeys(supervisors, time.monotonic()))
        if self._until_withdrawal > 0.0:
            return
        chosen = [self.elements[ref] for ref in self._unneeded if ref in self.elements]
        self._unneeded.clear()
        for element in chosen:
            element.leaving = True
        self._cancel(element for element in chosen if not element.cancelled)

    @property
    def _until_withdrawal(self) -> float:
        """Seconds to wait for more that come in the same row; without end if there is nothing to do."""
        # What is on its way to the scheduler can be taken back when it has arrived.
        if not self._unneeded or self._desk.current is not None:
            return math.inf
        first, last = next(iter(self._unneeded.values())), next(reversed(self._unneeded.values()))
        return min(last + self._recipes[0].gather, first + GATHER_AT_MOST) - time.monotonic()

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

    def give_up(self) -> None:
        """Do not wait for what cannot be ended."""
        self._desk.give_up()

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
            if self.closed and not element.cancelled:
                self._cancel([element])
            return
        self._events.ring(element.ref, element.inbox)


def _is_older(status: JobStatus, restart: int) -> bool:
    """Whether an answer is from before the start that this supervisor came with."""
    return status.restarts is not None and status.restarts < restart


def _restart(restart: int, before: JobStatus, now: JobStatus) -> Optional[int]:
    """The number of an element's present start, if it is another one than it was."""
    if now.restarts is not None:
        return now.restarts if now.restarts > restart else None
    # A scheduler that does not count: what ran and is in the queue again was put back.
    ran = before.state in (JobState.RUNNING, JobState.SUSPENDED, JobState.ENDING)
    requeued = now.state is JobState.PENDING and ran
    return restart + 1 if requeued else None
