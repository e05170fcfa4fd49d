"""`concurrent.futures` on a batch cluster, and on the machine in front of you.

>>> from clusterfutures import LocalExecutor
>>> with LocalExecutor(max_workers=2) as ex:
...     ex.submit(pow, 2, 10).result()
1024

Names are loaded when they are used: a worker imports this package at its start, and needs few of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from clusterfutures._version import __version__
    from clusterfutures.checkpoint import Checkpoint
    from clusterfutures.context import TaskContext, current_task
    from clusterfutures.errors import (
        ClusterFuturesError,
        DependencyFailed,
        InitializerFailed,
        JobCancelled,
        NodeFailed,
        OptionError,
        OutcomeNotWritten,
        OutOfMemory,
        Preempted,
        RemoteError,
        RunDirectoryError,
        RunInUse,
        SchedulerUnavailable,
        SubmissionError,
        SubmitLimitReached,
        TaskKilled,
        TaskPicklingError,
        TaskTimeout,
        TimeLimitReached,
        WorkerLost,
        WorkerStartError,
    )
    from clusterfutures.executor import View
    from clusterfutures.futures import ClusterFuture
    from clusterfutures.local import LocalExecutor
    from clusterfutures.registry import Detected, detect, get_executor, register
    from clusterfutures.resume import reattach
    from clusterfutures.retries import Retries
    from clusterfutures.serial import SerialExecutor, SerialFuture
    from clusterfutures.slurm import SlurmExecutor
    from clusterfutures.torque import PBSExecutor, TorqueExecutor
    from clusterfutures.writing.lockcheck import LockCheck, check_locks
    from clusterfutures.writing.locks import LeaseLost, LockTimeout
    from clusterfutures.writing.onetime import once
    from clusterfutures.writing.shards import Merged, ShardedWriter
    from clusterfutures.writing.writer import SerialWriter

_HOME = {
    "__version__": "_version",
    "LocalExecutor": "local",
    "SlurmExecutor": "slurm",
    "PBSExecutor": "torque",
    "TorqueExecutor": "torque",
    "ClusterFuture": "futures",
    "View": "executor",
    "Retries": "retries",
    "reattach": "resume",
    "Checkpoint": "checkpoint",
    "TaskContext": "context",
    "current_task": "context",
    "SerialExecutor": "serial",
    "SerialFuture": "serial",
    "Detected": "registry",
    "detect": "registry",
    "get_executor": "registry",
    "register": "registry",
    "LockCheck": "writing.lockcheck",
    "check_locks": "writing.lockcheck",
    "LeaseLost": "writing.locks",
    "LockTimeout": "writing.locks",
    "once": "writing.onetime",
    "Merged": "writing.shards",
    "ShardedWriter": "writing.shards",
    "SerialWriter": "writing.writer",
}

__all__ = [
    "Checkpoint",
    "ClusterFuture",
    "ClusterFuturesError",
    "DependencyFailed",
    "Detected",
    "InitializerFailed",
    "JobCancelled",
    "LeaseLost",
    "LocalExecutor",
    "LockCheck",
    "LockTimeout",
    "Merged",
    "NodeFailed",
    "OptionError",
    "OutOfMemory",
    "OutcomeNotWritten",
    "PBSExecutor",
    "Preempted",
    "RemoteError",
    "Retries",
    "RunDirectoryError",
    "RunInUse",
    "SchedulerUnavailable",
    "SerialExecutor",
    "SerialFuture",
    "SerialWriter",
    "ShardedWriter",
    "SlurmExecutor",
    "SubmissionError",
    "SubmitLimitReached",
    "TaskContext",
    "TaskKilled",
    "TaskPicklingError",
    "TaskTimeout",
    "TimeLimitReached",
    "TorqueExecutor",
    "View",
    "WorkerLost",
    "WorkerStartError",
    "__version__",
    "check_locks",
    "current_task",
    "detect",
    "get_executor",
    "once",
    "reattach",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # which a worker, who needs no name of here, does without

    value = getattr(import_module(f"{__name__}.{_HOME.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
