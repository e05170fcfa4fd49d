"""The executor for clusters that run TORQUE, OpenPBS or PBS Pro."""

from __future__ import annotations

from typing import Any

from clusterfutures.executor import ClusterExecutor
from clusterfutures.schedulers.pbs import PbsScheduler


class TorqueExecutor(ClusterExecutor):
    """`concurrent.futures.ProcessPoolExecutor` whose workers are jobs of a PBS; also called `PBSExecutor`.

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
    dialect : {"torque", "openpbs", "slurm"}, optional
        Which PBS this is; "openpbs" is PBS Pro as well, and "slurm" means Debian's Torque commands in front
        of it. Default: what ``qstat --version`` tells.
    queue, account, time, mem, cores, gpus, ... : optional
        What each worker needs and where it queues; the page "Options" of the documentation has them all. Only
        what is given is passed on, so that the site's defaults hold.
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
        As for `SlurmExecutor`. Jobs get this program's environment, and beside it what PBS sets in each job.

    Raises
    ------
    OptionError
        For an option that is unknown, cannot be read, or that this PBS does not have. ValueError and
        TypeError as ProcessPoolExecutor does.
    SubmissionError
        If there is no PBS here, or one that cannot be told from ``qstat --version``.
    RunDirectoryError
        If the run's directory cannot be made, or belongs to somebody else or to another run.

    A submission that PBS refuses raises `SubmissionError`, from the futures and from further submissions.

    Examples
    --------
    ::

        with TorqueExecutor(max_workers=20, cores=4, mem="8G", time="2h", queue="batch") as ex:
            misfits = list(ex.map(misfit, stations))
    """

    def _make_scheduler(self, options: dict[str, Any]) -> PbsScheduler:
        return PbsScheduler(dialect=options.pop("dialect", None), arrays=options.get("arrays", True))


PBSExecutor = TorqueExecutor
