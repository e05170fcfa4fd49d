"""The executor for clusters that run Slurm."""

from __future__ import annotations

from typing import Any

from clusterfutures.executor import ClusterExecutor
from clusterfutures.schedulers.slurm import SlurmScheduler


class SlurmExecutor(ClusterExecutor):
    """`concurrent.futures.ProcessPoolExecutor` whose workers are Slurm jobs.

    The workers are submitted as job arrays while tasks wait for them, and each runs one task after the other
    until there are no more, until it was idle for `idle_timeout`, or until its wall time nears.

    Parameters
    ----------
    max_workers : int, optional
        Workers at a time, at most. Default: 16.
    mp_context : object, optional
        Accepted and ignored: workers are fresh interpreters on other machines.
    initializer, initargs : callable and tuple, optional
        Called in each worker before its first task. If it raises, the executor is broken.
    max_tasks_per_child : int, optional
        A worker is replaced, within its job, after so many tasks.
    partition, account, qos, time, mem, cores, gpus, ... : optional
        What each worker needs and where it queues; the page "Options" of the documentation has them all. Only
        what is given is passed on, so that the site's defaults and your ``SBATCH_*`` variables hold.
    workers_per_job : int
        Workers that share one job, for sites that hand out whole nodes; `cores`, `mem` and `gpus` remain
        those of one worker. Default 1.
    idle_timeout : float or timedelta
        Seconds after which jobs that have nothing to do end; None: never. Default 300.
    arrays : bool
        False: submit each job by itself, for sites that forbid job arrays.
    host : str, optional
        The name or address under which nodes reach this machine. Default: all of its addresses are tried.
    retries, timeout, run_dir, keep, python, setup, env, cwd, doorbell, orphan, orphan_timeout
        As for `LocalExecutor`, except that the default run directory is a fresh one in ``.clusterfutures``
        below the working directory, which nodes must see under the same path, and that the default of
        `orphan_timeout` is 600 seconds, or 60 for those whose connection to this process has closed.

    Raises
    ------
    OptionError
        For an option that is unknown or cannot be read. ValueError and TypeError as ProcessPoolExecutor does.
    RunDirectoryError
        If the run's directory cannot be made, or belongs to somebody else or to another run.

    A submission that Slurm refuses raises `SubmissionError`, from the futures and from further submissions.

    Examples
    --------
    ::

        with SlurmExecutor(max_workers=50, cores=4, mem="8G", time="2h", partition="day") as ex:
            misfits = list(ex.map(misfit, stations))
    """

    def _make_scheduler(self, options: dict[str, Any]) -> SlurmScheduler:
        return SlurmScheduler(cluster=options.get("cluster"), arrays=options.get("arrays", True))
