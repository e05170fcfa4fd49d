"""The executor for this machine."""

from __future__ import annotations

import tempfile
from typing import Any

from clusterfutures.cpus import usable_cpus
from clusterfutures.executor import ClusterExecutor
from clusterfutures.schedulers.local import LocalScheduler


class LocalExecutor(ClusterExecutor):
    """`concurrent.futures.ProcessPoolExecutor`, with its work on disk and workers that may die.

    Parameters
    ----------
    max_workers : int, optional
        Worker processes, at most; they are started as tasks need them. Default: the CPUs that this process
        may use (affinity, cgroup quota, what Slurm or PBS granted).
    mp_context : object, optional
        Accepted and ignored: workers are forked from a fresh interpreter that runs none of your code.
    initializer, initargs : callable and tuple, optional
        Called in each worker before its first task. If it raises, the executor is broken.
    max_tasks_per_child : int, optional
        A worker is replaced after so many tasks.
    retries : int
        How often a task is run again whose worker was lost or timed out. Default 0.
    timeout : float or timedelta, optional
        Seconds after which a running task is killed; it raises `TaskTimeout`. Default: none.
    run_dir : path, optional
        The run's directory, which must not exist or be empty. Default: a fresh one among temporary files.
    keep : {"failed", "always", "never"}
        Whether the run's directory stays after the run. "failed": if a task raised or a worker was lost.
    python : str or sequence of str, optional
        The workers' interpreter, of the same version as this one. Default: this one.
    setup : str or sequence of str, optional
        Shell lines to run before it, as ``"module load hdf5"``.
    env : mapping, optional
        Environment variables to set, or with None to unset, for the workers.
    cwd : path, optional
        Their working directory. Default: that of this process at the first submission.
    doorbell : bool
        False: find out by looking at files alone, never by socket. Slower, and otherwise the same.
    orphan : {"drain", "kill", "keep"}
        What the workers do when this process is gone: finish the running task and leave, be killed, or stay.
    orphan_timeout : float, optional
        Seconds until they do it. Default 60.

    Raises
    ------
    OptionError
        For an option that is unknown or cannot be read. ValueError and TypeError as ProcessPoolExecutor does.
    RunDirectoryError
        If the run's directory cannot be made, or belongs to somebody else or to another run.

    Examples
    --------
    >>> from clusterfutures import LocalExecutor
    >>> with LocalExecutor(max_workers=2) as ex:
    ...     list(ex.map(pow, [2, 3], [10, 10]))
    [1024, 59049]
    """

    _shared = False
    _orphan_timeout = 60.0

    def _make_scheduler(self, options: dict[str, Any]) -> LocalScheduler:
        return LocalScheduler()

    def _usual_workers(self) -> int:
        return usable_cpus()

    def _run_parent(self) -> str:
        return tempfile.gettempdir()
