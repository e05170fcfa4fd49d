"""A job for each task: elements of arrays carry their task with them, and run on without the driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

from clusterfutures.allocation import GATHER_AT_MOST, Allocation, Element, Events, Recipe
from clusterfutures.history import JobPast
from clusterfutures.journal import Run
from clusterfutures.schedulers.base import JobStatus, Scheduler
from clusterfutures.specification import Specification
from clusterfutures.spool import START, RunDirectory, WorkerRef
from clusterfutures.states import JobState
from clusterfutures.submissions import Submission


class Offer(NamedTuple):
    """Where tasks come from: `take` gives up to so many of a kind for a job.

    `put_back` takes those of a job again, `submitted` is told the ids of its elements.  `requeued` is told
    that a worker-to-be will make a further attempt at a task, and says whether that is needed.
    """

    take: Callable[[int, int, int], list[Run]]
    put_back: Callable[[int], None]
    submitted: Callable[[int, list[str]], None]
    requeued: Callable[[WorkerRef, str, int, int], bool]


class TaskJobs(Allocation):
    """Submits waiting tasks as arrays.

    The scheduler's throttle holds for one array; so each gets its part of `max_workers`, and what an array
    that comes to its end leaves over is given to the next one.  `max_queued` bounds the elements that are
    submitted and not over yet.
    """

    # Who cancels a queued job has its task fail, which is not submitted again.
    planned = (*Allocation.planned, JobState.CANCELLED)

    def __init__(
        self,
        run: RunDirectory,
        scheduler: Scheduler,
        recipes: Sequence[Recipe],
        events: Events,
        offer: Offer,
        max_queued: float,
    ) -> None:
        super().__init__(run, scheduler, recipes, events)
        self._offer, self._max_queued = offer, max_queued
        self._max_workers = 0
        self._throttles: dict[int, int] = {}  # by job number; 0: none
        self._carried: dict[tuple[int, int], tuple[int, int]] = {}  # by job, element: task, its first attempt
        self._waiting = 0  # tasks, when last asked
        self._grew = 0.0  # when there were last more of them

    # -- submitting -----------------------------------------------------------------------------

    def _miss(self, wanted: Mapping[int, int], most: int) -> int:
        """So many tasks of each kind wait for a job; submits one for some of them if it is time."""
        if most != self._max_workers:
            self._max_workers = most
            self._loosen()
        waiting = sum(wanted.values())
        if waiting > self._waiting:
            self._grew = time.monotonic()
        self._waiting = waiting
        room = min(self._max_queued - len(self.elements), self._desk.most)
        if not self._scheduler.throttles:
            room = min(room, self._room_to_run())
        if waiting and room >= 1 and self._room_to_run() > 0 and self._is_time():
            kind = next(kind for kind, tasks in wanted.items() if tasks)
            self._submit(kind, min(wanted[kind], int(room)))
        return waiting

    def _is_time(self) -> bool:
        """Whether a whole array waits, or no task has come for a moment."""
        now = time.monotonic()
        self._missed_since = self._missed_since or now
        if self._waiting >= self._desk.most:
            return self._desk.ready
        settled = now - self._grew >= self._recipes[0].gather or now - self._missed_since >= GATHER_AT_MOST
        return settled and not self._desk.wait

    def _prepare(self, kind: int, workers: int) -> Optional[Submission]:
        job = len(self._kinds)
        runs = self._offer.take(kind, workers, job)
        if not runs:  # they were cancelled meanwhile
            return None
        room = self._room_to_run()
        throttle = 0 if len(runs) <= room else room
        tasks = b"".join(run.assignment() for run in runs)
        specification = self._recipes[kind].specification._replace(workers=1, tasks=tasks, throttle=throttle)
        submission = self._write(kind, specification, 1, [1] * len(runs))
        if submission is None:
            self._offer.put_back(job)
            return None
        self._throttles[job] = throttle
        self._carried.update({(job, index): (run.first, run.attempt) for index, run in enumerate(runs)})
        return submission._replace(request=submission.request._replace(throttle=throttle))

    def _hand_over(self, submission: Submission, ids: list[str]) -> None:
        job = submission.request.job
        self._offer.submitted(job, ids)
        for index, job_id in enumerate(ids):
            supervisor = WorkerRef(job, index)
            inbox = self._run.inbox_writer(supervisor)
            self.elements[supervisor] = Element(supervisor, job_id, inbox, submission.kind, 1)

    def _refused(self, submission: Submission, error: Exception) -> None:
        job = submission.request.job
        del self._throttles[job]
        self._offer.put_back(job)
        super()._refused(submission, error)

    def _resume(self, element: Element) -> None:
        """The job has its task with it, and starts with the next attempt at it."""
        number, attempt = self._carried[element.ref.job, element.ref.element]
        worker = element.ref._replace(slot=0, generation=0)
        if not self._offer.requeued(worker, element.job_id, number, attempt + element.ref.restart):
            self.withdraw([element.ref])

    def _restore_job(self, job: JobPast, specification: Specification, ids: Sequence[str]) -> None:
        """Its elements have their tasks with them, and need not be told anything."""
        self._throttles[job.number] = specification.throttle
        for index, past in job.supervisors.items():
            task = job.tasks[index]
            self._carried[job.number, index] = task.first, task.attempt
            inbox = self._run.inbox_writer(past.ref)
            inbox.go_on_after(past.inbox)
            element = Element(past.ref, ids[index], inbox, specification.kind, 1)
            element.inherited = True
            self.elements[past.ref] = element

    def _ended(self, element: Element, status: JobStatus) -> None:
        super()._ended(element, status)
        self._carried.pop((element.ref.job, element.ref.element), None)

    # -- the throttle ---------------------------------------------------------------------------

    def _live(self) -> dict[int, int]:
        live: dict[int, int] = {}
        for ref, element in self.elements.items():
            if element.idle:
                continue
            live[ref.job] = live.get(ref.job, 0) + 1
        return live

    def _room_to_run(self) -> int:
        """How many more elements could run, were all to run that may."""
        taken = sum(min(n, self._throttles.get(job) or n) for job, n in self._live().items())
        return self._max_workers - taken

    def _loosen(self) -> None:
        """Give the room that has come about to arrays that could use it."""
        room = self._room_to_run()
        for job, live in self._live().items():
            throttle = self._throttles.get(job, 0)
            more = min(room, live - throttle)
            if throttle and more > 0:
                room -= more
                self._throttles[job] = throttle + more
                element = next(element for ref, element in self.elements.items() if ref.job == job)
                self._clerk.do(self._note_failure, self._scheduler.throttle, element.job_id, throttle + more)

    def worker_ended(self, supervisor: WorkerRef) -> None:
        """Its only one: the job is as good as over, and another may run."""
        element = self.elements.get(supervisor)
        if element is not None:
            element.idle = True

    def lone_worker(self, supervisor: WorkerRef) -> Optional[WorkerRef]:
        """The one that has the task."""
        return supervisor._replace(slot=0, generation=0)

    def was_busy(self, worker: WorkerRef) -> bool:
        """Whether it has claimed its own."""
        return (worker.job, worker.element) in self._carried and self._run.claimed(worker) == START

    # -- what pools do, and this does not ---------------------------------------------------------

    def surplus(self, wanted: Mapping[int, int]) -> dict[int, int]:
        """None: each has its task."""
        return {}

    def shrink(self, workers: int) -> None:
        """Nothing: those that run finish their task, and fewer are let in after them."""

    def let_go(self) -> None:
        """Elements end by themselves."""
        self.closed = True
