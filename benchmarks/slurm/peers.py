"""One small adapter per executor that can use Slurm, as in `benchmarks.peers`."""

# ruff: noqa: D102 - the methods are documented where Peer declares them
from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any, ClassVar

from benchmarks import peers
from benchmarks.peers import Function, Peer
from benchmarks.slurm.slurmctld import Ends

#: Names the directory that clusterfutures 0.5 was installed in.
OLDER = "CLUSTERFUTURES_OLDER"


class Slurm(peers.Local):
    """The executor that all this is about: a pool, each of whose workers is an element of a job array."""

    title = "SlurmExecutor"

    def load(self) -> None:
        self.library = importlib.import_module("clusterfutures")
        _ = self.library.SlurmExecutor

    def open(self, workers: int) -> None:
        self.pool = self.library.SlurmExecutor(workers, **self.options)

    def abandon(self) -> None:
        """End the workers, and what they have not started."""
        self.pool.shutdown(cancel_futures=True)


class SlurmPolling(Slurm):
    """The same where nodes cannot reach the driver: there are only files."""

    title = "SlurmExecutor, doorbell off"
    options: ClassVar[dict[str, Any]] = {"doorbell": False}


class SlurmJobs(Slurm):
    """The same with a job for each task."""

    title = "SlurmExecutor, job_per_task"
    options: ClassVar[dict[str, Any]] = {"job_per_task": True}


class Bare(Peer):
    """No executor and no results: ``sbatch --wrap 'python -c pass'``, whatever the function is."""

    title = "bare sbatch"

    @classmethod
    def version(cls) -> str | None:
        return ""

    def open(self, workers: int) -> None:
        pass

    def submit(self, function: Function, *args: Any) -> Any:
        return BareJob(1)

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        count = len(list(items))
        BareJob(count, f"--array=0-{count - 1}").result()
        return range(count)

    def close(self) -> None:
        pass


class BareJob:
    """A job that does nothing, or an array of them."""

    def __init__(self, count: int, *options: str) -> None:
        self._ends, self._count = Ends(), count
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = ["sbatch", *options, "--wrap", f"{sys.executable} -c pass"]
        subprocess.run(command, env=environ, check=True)

    def result(self) -> None:
        """Wait for the end of all."""
        self._ends.wait(self._count)


class DaskJobqueue(peers.Dask):
    """A dask scheduler in the driver, its workers in jobs."""

    title = "dask-jobqueue"
    package = "dask-jobqueue"
    share = 1.0

    def load(self) -> None:
        super().load()
        self.jobqueue = importlib.import_module("dask_jobqueue")

    def open(self, workers: int) -> None:
        self.cluster = self.jobqueue.SLURMCluster(
            cores=1,
            processes=1,
            memory="1GB",
            interface="lo",
            python=sys.executable,
            scheduler_options={"dashboard_address": None},
        )
        self.cluster.scale(jobs=workers)
        self.pool = self.library.Client(self.cluster)


class ParslSlurm(peers.Parsl):
    """parsl's HighThroughputExecutor with one worker in each of its blocks."""

    share = 1.0

    def load(self) -> None:
        super().load()
        self.providers = importlib.import_module("parsl.providers")

    def open(self, workers: int) -> None:
        provider = self.providers.SlurmProvider(
            init_blocks=workers, min_blocks=workers, max_blocks=workers, exclusive=False
        )
        executor = self.executors.HighThroughputExecutor(
            address="127.0.0.1", max_workers_per_node=1, provider=provider
        )
        config = self.config.Config(
            executors=[executor], run_dir=tempfile.mkdtemp(prefix="parsl-"), usage_tracking=0
        )
        self.pool = self.library.ParslPoolExecutor(config)


class Submitit(Peer):
    """A job for each task; its futures ask the file system once a second."""

    title = "submitit"
    package = "submitit"
    share = 0.1

    def load(self) -> None:
        self.library = importlib.import_module("submitit")

    def open(self, workers: int) -> None:
        self.pool = self.library.AutoExecutor(folder=tempfile.mkdtemp(prefix="submitit-"), cluster="slurm")
        self.pool.update_parameters(slurm_array_parallelism=workers)

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        return (job.result() for job in self.pool.map_array(function, list(items)))

    def close(self) -> None:
        pass


class Older(Peer):
    """This project's last release before it was begun anew; its module is ``cfut``."""

    title = "clusterfutures 0.5"
    share = 0.01

    @classmethod
    def version(cls) -> str | None:
        place = os.environ.get(OLDER, "")
        found = importlib.metadata.distributions(name="clusterfutures", path=[place])
        return next((str(each.version) for each in found), None)

    def load(self) -> None:
        self.library = importlib.import_module("cfut")

    def open(self, workers: int) -> None:
        self.pool = self.library.SlurmExecutor()


PEERS: dict[str, type[Peer]] = {
    "slurm": Slurm,
    "slurm-polling": SlurmPolling,
    "slurm-jobs": SlurmJobs,
    "local": peers.Local,
    "bare": Bare,
    "dask": DaskJobqueue,
    "parsl": ParslSlurm,
    "submitit": Submitit,
    "older": Older,
}

#: Those that take no third party's package.
OURS = ["slurm", "slurm-polling", "slurm-jobs", "local", "bare"]
