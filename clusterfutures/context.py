"""`current_task()`: what a task can know about itself."""

from __future__ import annotations

from clusterfutures.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from clusterfutures.worker import Worker


class TaskContext(NamedTuple):
    """The task that this process is running.

    Attributes: `run_dir`, the run's directory; `run_id`; `task`, its number in the run, from 0; `attempt`,
    from 0; `worker`, the name of the worker process; `job_id`, the scheduler's id of the job that the
    worker is in (on this machine, the supervisor's process id).
    """

    run_dir: str
    run_id: str
    task: int
    attempt: int
    worker: str
    job_id: str


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
