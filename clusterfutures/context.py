"""`current_task()`: what a task can know about itself."""

from __future__ import annotations

import time

from clusterfutures.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from clusterfutures.checkpoint import Checkpoint
    from clusterfutures.worker import Worker


class TaskContext(NamedTuple):
    """The task that this process is running.

    Attributes: `run_dir`, the run's directory; `run_id`; `task`, its number in the run, from 0; `attempt`,
    from 0; `worker`, the name of the worker process; `job_id`, the scheduler's id of the job that the
    worker is in (on this machine, the supervisor's process id).  What changes while the task runs is asked
    for anew each time: `warned` and `time_left`.
    """

    run_dir: str
    run_id: str
    task: int
    attempt: int
    worker: str
    job_id: str

    @property
    def checkpoint(self) -> Checkpoint:
        """What this task saves for a further attempt at it, and what earlier attempts have saved."""
        from clusterfutures.checkpoint import Checkpoint

        return Checkpoint(self.run_dir, self.task, self.attempt)

    @property
    def warned(self) -> bool:
        """Whether SIGUSR1 or SIGUSR2 has announced the end of the job, as ``signal="USR1@120"`` has it sent.

        A handler of the task's own, set with `signal.signal`, is called in place of this.
        """
        worker = self._here()
        return worker is not None and worker.warned

    @property
    def time_left(self) -> Optional[float]:
        """Seconds until the wall time of the job is over; None if nobody has said (yet) or it has no end."""
        worker = self._here()
        if worker is None or not worker.ends:
            return None
        return max(worker.ends - time.monotonic(), 0.0)

    def _here(self) -> Optional[Worker]:
        """The worker, in its own process."""
        worker = _worker
        return worker if worker is not None and str(worker.ref) == self.worker else None


_worker: Optional[Worker] = None


def install(worker: Worker) -> None:
    """Make :func:`current_task` answer for `worker`, in its process."""
    global _worker
    _worker = worker


def current_task() -> Optional[TaskContext]:
    """The task that is running in this process, or None outside of a worker.

    Answers in every thread of the worker, as a worker runs one task at a time.

    >>> from clusterfutures import current_task
    >>> print(current_task())  # not in a worker
    None
    >>> from clusterfutures import LocalExecutor
    >>> with LocalExecutor(1) as ex:
    ...     task = ex.submit(current_task).result()
    >>> task.task, task.attempt, task.worker
    (0, 0, '0.0.0-0.0')
    """
    worker = _worker
    job = worker.current if worker is not None else None
    if worker is None or job is None or worker.forked:
        return None
    run, spec = worker.run_directory, worker.specification
    return TaskContext(run.path, spec.run_id, job.number, job.attempt, str(worker.ref), worker.job_id)
