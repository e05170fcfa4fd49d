"""A job for each task: elements of arrays carry their task with them, and run on without the driver."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from clusterfutures.allocation import MAX_ELEMENTS, Allocation, Element, Events, Recipe, Submission
from clusterfutures.journal import Run
from clusterfutures.schedulers.base import Scheduler
from clusterfutures.spool import RunDirectory, WorkerRef

GATHER_AT_MOST = 1.0  # seconds for which tasks that keep coming are gathered into one array


class Offer(NamedTuple):
    """Where tasks come from: `take` gives up to so many, `put_back` takes them again.

    `queued` is told which are submitted: worker-to-be, the id of its job, task.
    """

    take: Callable[[int], list[Run]]
    put_back: Callable[[list[Run]], None]
    queued: Callable[[list[tuple[WorkerRef, str, Run]]], None]


class TaskJobs(Allocation):
    """Submits waiting tasks as arrays, of which `max_workers` elements run at a time.

    The scheduler's throttle holds for one array; so each gets its part of `max_workers`, and what an array
    that comes to its end leaves over is given to the next one.  `max_queued` bounds the elements that are
    submitted and not over yet.
    """

    def __init__(
        self,
        run: RunDirectory,
        scheduler: Scheduler,
        recipe: Recipe,
        events: Events,
        offer: Offer,
        max_workers: Callable[[], int],
        max_queued: float = math.inf,
    ) -> None:
        super().__init__(run, scheduler, recipe, events)
        self._offer, self._max_workers, self._max_queued = offer, max_workers, max_queued
        self._throttles: dict[int, int] = {}  # by job number; 0: none
        self._tasks: dict[int, list[Run]] = {}  # of jobs that are being submitted
        self._waiting = 0  # tasks, when last asked
        self._grew = 0.0  # when there were last more of them

    # -- submitting -----------------------------------------------------------------------------

    def want(self, workers: int) -> None:
        """So many tasks wait for a job."""
        now = time.monotonic()
        if workers > self._waiting or not workers:
            self._grew = now
        self._waiting = workers
        room = min(self._max_queued - len(self.elements), MAX_ELEMENTS, self._most)
        if self.closed and not workers:
            return
        if self._put_off is not None:
            workers = max(workers, 1)
        if workers and not self._with_clerk and room >= 1 and self._room_to_run() > 0 and self._due():
            self._missed_since = 0.0
            self._submit(min(workers, int(room)))

    def _due(self) -> bool:
        now = time.monotonic()
        self._missed_since = self._missed_since or now
        if now < self._submitted_at + self._pause:
            return False
        complete = self._waiting >= min(MAX_ELEMENTS, self._most)
        settled = now - self._grew >= self._recipe.gather or now - self._missed_since >= GATHER_AT_MOST
        return complete or settled

    def _prepare(self, workers: int) -> Optional[Submission]:
        runs = self._offer.take(workers)
        if not runs:
            return None
        job, self._jobs = self._jobs, self._jobs + 1
        specification = self._recipe.specification._replace(
            workers=1, tasks=b"".join(run.assignment() for run in runs)
        )
        room = self._room_to_run()
        throttle = 0 if len(runs) <= room else room
        request = self._recipe.request(self._run, job, len(runs))._replace(throttle=throttle)
        try:
            self._run.make_job(job)
            specification.write(self._run, job)
        except OSError as error:
            self._offer.put_back(runs)
            self._break(f"cannot write the job's specification: {error}", error)
            return None
        self._tasks[job], self._throttles[job] = runs, throttle
        return Submission(request, 1, [1] * len(runs))

    def _hand_over(self, submission: Submission, ids: list[str]) -> None:
        job = submission.request.job
        refs = [WorkerRef(job, index, 0, 0, 0) for index in range(len(ids))]
        self._offer.queued(list(zip(refs, ids, self._tasks.pop(job))))
        for ref, job_id in zip(refs, ids):
            supervisor = ref.supervisor
            inbox = self._run.inbox_writer(supervisor)
            self.elements[supervisor] = Element(supervisor, job_id, inbox, 1)

    def _done_with(self, submission: Submission) -> None:
        super()._done_with(submission)
        left = self._tasks.pop(submission.request.job, None)
        if left is not None:
            self._throttles.pop(submission.request.job)
            self._offer.put_back(left)

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
        return self._max_workers() - taken

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

    # -- what pools do, and this does not ---------------------------------------------------------

    def shrink(self, workers: int) -> None:
        """Nothing: those that run finish their task, and fewer are let in after them."""

    def let_go(self) -> None:
        """Elements end by themselves."""
        self.closed = True
