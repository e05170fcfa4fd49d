"""One small adapter per executor, so that a scenario is written once.

A peer that lacks a way to do something raises `Unsupported` with the words that the table shows.
Libraries are imported when their adapter opens: none has to be installed, and none disturbs
another.
"""

# ruff: noqa: D102 - the methods are documented where Peer declares them
from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable, ClassVar

from benchmarks.tasks import worker_pid

Function = Callable[..., Any]


class Unsupported(Exception):
    """This peer has no such thing; the message is what the table shows."""


class Peer:
    """An executor behind the few calls that the scenarios need.

    Class attributes: `title` is the name in the table; `package` the distribution whose version is
    printed, None for the standard library; `share` the part of a scenario's tasks that this peer
    is given, below one where it is so slow that all of them would take minutes.
    """

    title: ClassVar[str]
    package: ClassVar[str | None] = None
    share: ClassVar[float] = 1.0

    @classmethod
    def version(cls) -> str | None:
        """Return the version of the library, None where it is not installed."""
        if cls.package is None:
            return platform.python_version()
        try:
            return importlib.metadata.version(cls.package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def load(self) -> None:
        """Import the library, so that the import is not part of a timed construction."""

    def open(self, workers: int) -> None:
        """Construct the executor with that many worker processes."""
        raise NotImplementedError

    def submit(self, function: Function, *args: Any) -> Any:
        """Return a future of ``function(*args)``; it has ``result()``."""
        return self.pool.submit(function, *args)

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        """Return the results in order, as a user gets them who gives no further options."""
        results: Iterable[Any] = self.pool.map(function, items)
        return results

    def buffered_map(self, function: Function, items: Iterable[Any], buffersize: int) -> Iterable[Any]:
        """Return the results in order while reading at most about `buffersize` items ahead."""
        raise Unsupported("no buffersize")

    def close(self) -> None:
        """End the workers."""
        self.pool.shutdown()

    pool: Any = None


class Local(Peer):
    """The executor that all this is about."""

    title = "LocalExecutor"
    package = "clusterfutures"
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def version(cls) -> str | None:
        # the package beside this directory, which need not be installed
        try:
            return str(importlib.import_module("clusterfutures._version").__version__)
        except ImportError:
            return None

    def load(self) -> None:
        self.library = importlib.import_module("clusterfutures")
        _ = self.library.LocalExecutor

    def open(self, workers: int) -> None:
        self.pool = self.library.LocalExecutor(workers, **self.options)

    def buffered_map(self, function: Function, items: Iterable[Any], buffersize: int) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(function, items, buffersize=buffersize)
        return results


class LocalPolling(Local):
    """The same when nothing but files is left; polling makes it slow, not wrong."""

    title = "LocalExecutor, doorbell off"
    share = 0.1
    options: ClassVar[dict[str, Any]] = {"doorbell": False}


class ProcessPool(Peer):
    """The standard library's, as Linux starts it before Python 3.14."""

    title = "ProcessPoolExecutor, fork"
    share = 0.25
    method: ClassVar[str] = "fork"

    def open(self, workers: int) -> None:
        context = multiprocessing.get_context(self.method)
        self.pool = ProcessPoolExecutor(workers, mp_context=context)


class ProcessPoolSpawn(ProcessPool):
    """The standard library's with fresh interpreters, as ours are."""

    title = "ProcessPoolExecutor, spawn"
    method = "spawn"


class Loky(Peer):
    """ProcessPoolExecutor with cloudpickle and its own way of starting processes."""

    title = "loky"
    package = "loky"
    share = 0.25

    def load(self) -> None:
        self.library = importlib.import_module("loky")

    def open(self, workers: int) -> None:
        self.pool = self.library.ProcessPoolExecutor(max_workers=workers)


class Joblib(Peer):
    """joblib has no submit; its round trip is a call with one item inside an open pool."""

    title = "joblib"
    package = "joblib"

    def load(self) -> None:
        self.library = importlib.import_module("joblib")

    def open(self, workers: int) -> None:
        self.pool = self.library.Parallel(n_jobs=workers, return_as="generator")
        self.pool.__enter__()

    def submit(self, function: Function, *args: Any) -> Any:
        raise Unsupported("no submit")

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        delayed = self.library.delayed(function)
        results: Iterable[Any] = self.pool(delayed(item) for item in items)
        return results

    def buffered_map(self, function: Function, items: Iterable[Any], buffersize: int) -> Iterable[Any]:
        return self.map(function, items)  # reads its input as it goes: pre_dispatch bounds it

    def close(self) -> None:
        self.pool.__exit__(None, None, None)
        # its workers are kept for later calls and would hold up the end of the process
        importlib.import_module("joblib.externals.loky").get_reusable_executor().shutdown()


class Pebble(Peer):
    """A pool on bare pipes whose workers take tasks themselves."""

    title = "pebble"
    package = "pebble"
    share = 0.25

    def load(self) -> None:
        self.library = importlib.import_module("pebble")

    def open(self, workers: int) -> None:
        self.pool = self.library.ProcessPool(max_workers=workers)

    def submit(self, function: Function, *args: Any) -> Any:
        return self.pool.schedule(function, args=args)

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        results: Iterable[Any] = self.pool.map(function, items).result()
        return results

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Executorlib(Peer):
    """Workers in an allocation, reached over ZeroMQ."""

    title = "executorlib"
    package = "executorlib"
    share = 0.05

    def load(self) -> None:
        self.library = importlib.import_module("executorlib")

    def open(self, workers: int) -> None:
        self.pool = self.library.SingleNodeExecutor(
            max_workers=workers, block_allocation=True, hostname_localhost=True
        )


class Dask(Peer):
    """dask's scheduler and workers on this machine."""

    title = "dask.distributed"
    package = "distributed"
    share = 0.05

    def load(self) -> None:
        self.library = importlib.import_module("distributed")

    def open(self, workers: int) -> None:
        self.cluster = self.library.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        )
        self.pool = self.library.Client(self.cluster)

    def submit(self, function: Function, *args: Any) -> Any:
        return self.pool.submit(function, *args, pure=False)

    def map(self, function: Function, items: Iterable[Any]) -> Iterable[Any]:
        gathered: Iterable[Any] = self.pool.gather(self.pool.map(function, list(items), pure=False))
        return gathered

    def close(self) -> None:
        self.pool.close()
        self.cluster.close()


class Parsl(Peer):
    """parsl's HighThroughputExecutor behind its own concurrent.futures interface."""

    title = "parsl"
    package = "parsl"
    share = 0.05

    def load(self) -> None:
        self.library = importlib.import_module("parsl.concurrent")
        self.config = importlib.import_module("parsl.config")
        self.executors = importlib.import_module("parsl.executors")

    def open(self, workers: int) -> None:
        executor = self.executors.HighThroughputExecutor(
            address="127.0.0.1", max_workers_per_node=workers, cores_per_worker=1e-9
        )
        config = self.config.Config(
            executors=[executor], run_dir=tempfile.mkdtemp(prefix="parsl-"), usage_tracking=0
        )
        self.pool = self.library.ParslPoolExecutor(config)


PEERS: dict[str, type[Peer]] = {
    "local": Local,
    "local-polling": LocalPolling,
    "fork": ProcessPool,
    "spawn": ProcessPoolSpawn,
    "loky": Loky,
    "joblib": Joblib,
    "pebble": Pebble,
    "executorlib": Executorlib,
    "dask": Dask,
    "parsl": Parsl,
}

DEFAULT_PEERS = [key for key in PEERS if key != "local-polling"]


def warm_up(peer: Peer, workers: int) -> set[int]:
    """Run short tasks until every worker has had one; return the workers' pids.

    Gives up after a few rounds: a peer that starts fewer processes is measured as it is.
    """
    pids: set[int] = set()
    for round_number in range(8):
        seconds = 0.05 * 2 ** min(round_number, 3)
        try:
            futures = [peer.submit(worker_pid, seconds) for _ in range(2 * workers)]
            pids.update(future.result() for future in futures)
        except Unsupported:
            pids.update(peer.map(worker_pid, itertools.repeat(seconds, 2 * workers)))
        if len(pids - {os.getpid()}) >= workers:
            break
    return pids
