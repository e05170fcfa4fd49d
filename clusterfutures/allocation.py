"""The jobs of a run: started when workers are wanted, told how many to have, and seen to their end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from clusterfutures.clerk import Clerk
from clusterfutures.errors import WorkerStartError
from clusterfutures.logs import LogWriter, frame
from clusterfutures.obituary import tail
from clusterfutures.records import KILL, NUMBER, STOP, WANT, Kill
from clusterfutures.schedulers.base import INDEX, JobRequest, JobStatus, Scheduler
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef

log = logging.getLogger("clusterfutures")

class Recipe(NamedTuple):
    """How the jobs of a run are made."""

    name: str
    argv: list[str]
    cwd: Optional[str]
    environment: dict[str, Optional[str]]
    setup: str
    specification: Specification


class Element:
    """One supervisor, as the driver knows it."""

    def __init__(self, ref: WorkerRef, job_id: str, inbox: LogWriter, want: int) -> None:
        self.ref, self.job_id, self.inbox = ref, job_id, inbox
        self.want = want
        self.gave_up = ""


class Allocation:
    """Keeps as many workers in jobs as are wanted.

    Belongs to the watching thread; what the clerk brings back is put through `post`, which runs it there.
    `ring` is called with a supervisor after something was written to its inbox; `broken` with an error
    when no worker can be had; `came` and `gone` with an element that was submitted or has ended.
    """

    def __init__(
        self,
        run: RunDirectory,
        scheduler: Scheduler,
        recipe: Recipe,
        post: Callable[[Callable[[], None]], None],
        ring: Callable[[WorkerRef, LogWriter], None],
        broken: Callable[[BaseException], None],
        came: Callable[[Element], None],
        gone: Callable[[Element], None],
    ) -> None:
        self._run, self._scheduler, self._recipe = run, scheduler, recipe
        self._post, self._ring, self._broken = post, ring, broken
        self._came, self._gone = came, gone
        self._clerk = Clerk("clusterfutures-clerk")
        self.elements: dict[WorkerRef, Element] = {}
        self.alive: set[WorkerRef] = set()  # supervisors with a worker that was ready, once
        self._jobs = 0
        self._submitting = 0
        self._asking = False
        self._asked = 0.0
        self.closed = False

    @property
    def empty(self) -> bool:
        """Whether no job is left, in any state."""
        return not self.elements and not self._submitting

    def want(self, workers: int) -> None:
        """Have at least so many."""
        if self.closed or self._submitting or workers <= 0:
            return
        if not self.elements:
            self._submit(workers)
            return
        for element in self.elements.values():
            if element.want < workers:
                element.want = workers
                self._send(element, frame(WANT, NUMBER.pack(workers)))

    def shrink(self, workers: int) -> None:
        """Have no more than so many once the present ones have left."""
        for element in self.elements.values():
            if element.want > workers:
                element.want = workers
                self._send(element, frame(WANT, NUMBER.pack(workers)))

    def _submit(self, workers: int) -> None:
        job, self._jobs = self._jobs, self._jobs + 1
        ref = WorkerRef(job)
        recipe = self._recipe
        try:
            self._run.make_home(ref)
            recipe.specification._replace(workers=workers).write(self._run, job)
        except OSError as error:
            self._broken(_start_error(f"cannot write the job's specification: {error}", error))
            return
        request = JobRequest(
            job=job,
            name=recipe.name,
            argv=[*recipe.argv, self._run.path, str(job), INDEX, "0"],
            elements=1,
            logs=[self._run.element_log(job, 0)],
            cwd=recipe.cwd,
            environment=recipe.environment,
            setup=recipe.setup,
        )
        self._submitting += 1

        def then(ids: Any, error: Optional[Exception]) -> None:
            self._post(lambda: self._submitted(ref, workers, ids, error))

        self._clerk.do(then, self._scheduler.submit, request)

    def _submitted(
        self, ref: WorkerRef, workers: int, ids: Optional[list[str]], error: Optional[Exception]
    ) -> None:
        self._submitting -= 1
        if ids is None:
            self._broken(_start_error(f"no worker could be started: {error}", error))
            return
        element = self.elements[ref] = Element(ref, ids[0], self._run.inbox_writer(ref), workers)
        self._came(element)
        log.debug("job %s started for %d workers", ids[0], workers)
        if self.closed:
            self.stop()

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, at_once: bool = False) -> None:
        """Ask the scheduler about all jobs, if it is time."""
        now = time.monotonic()
        interval = self._scheduler.closing_interval if self.closed else self._scheduler.interval
        if self._asking or not self.elements or (now - self._asked < interval and not at_once):
            return
        self._asking, self._asked = True, now
        ids = [element.job_id for element in self.elements.values()]

        def then(found: Any, error: Optional[Exception]) -> None:
            self._post(lambda: self._answered(found, error))

        self._clerk.do(then, self._scheduler.poll, ids)

    def _answered(self, found: Optional[dict[str, JobStatus]], error: Optional[Exception]) -> None:
        self._asking = False
        if found is None:
            log.warning("the scheduler did not answer, which changes nothing: %s", error)
            return
        for element in list(self.elements.values()):
            status = found.get(element.job_id)
            if status is not None and status.state.ended:
                self._ended(element, status)

    def _ended(self, element: Element, status: JobStatus) -> None:
        del self.elements[element.ref]
        self._gone(element)
        element.inbox.abandon()
        if element.ref in self.alive or self.closed:
            return
        path = self._run.element_log(element.ref.job, element.ref.element)
        how = f"exit code {status.exit_code}" if status.signal is None else f"signal {status.signal}"
        text = tail(path).strip() or f"nothing was written to {path}"
        why = element.gave_up or f"the job that should start them ended with {how}"
        self._broken(_start_error(f"no worker could be started: {why}\n{text}"))

    def gave_up(self, ref: WorkerRef, reason: str) -> None:
        """A supervisor says that its workers die before they are ready."""
        element = self.elements.get(ref)
        if element is not None and not self.closed:
            home = WorkerRef(*ref[:3], 0, 0)
            element.gave_up = f"{reason}\n{tail(self._run.stderr(home))}"
            if ref not in self.alive:
                self._broken(_start_error(f"no worker could be started: {element.gave_up}"))

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
                element.want = 0
                self._send(element, frame(WANT, NUMBER.pack(0)))

    def stop(self) -> None:
        """End everything that runs."""
        self.closed = True
        for element in self.elements.values():
            self._send(element, frame(STOP, b""))

    def cancel_silent(self, heard: Callable[[WorkerRef], bool]) -> None:
        """End jobs that nothing was heard of yet: they cannot hear either."""
        self.closed = True
        self._cancel([e.job_id for e in self.elements.values() if not heard(e.ref)])

    def cancel(self) -> None:
        """Have the scheduler end the jobs: for when a supervisor does not obey."""
        self._cancel([element.job_id for element in self.elements.values()])

    def _cancel(self, ids: list[str]) -> None:
        if not ids:
            return

        def then(_: Any, error: Optional[Exception]) -> None:
            if error is not None:
                log.warning("could not cancel jobs %s: %s", ", ".join(ids), error)

        self._clerk.do(then, self._scheduler.cancel, ids)

    def close(self) -> None:
        """Let the clerk go."""
        self._clerk.close()

    def _send(self, element: Element, data: bytes) -> None:
        try:
            element.inbox.write(data)
            element.inbox.publish()
        except OSError as error:
            # With a full disk nothing can be said; ending the job says it all the same.
            log.warning("could not write to the inbox of %s: %s", element.ref, error)
            if self.closed:
                self.cancel()
            return
        self._ring(element.ref, element.inbox)


def _start_error(text: str, cause: Optional[BaseException] = None) -> WorkerStartError:
    error = WorkerStartError(text)
    error.__cause__ = cause
    return error
