"""Everything that this package raises by itself.

One root, :class:`ClusterFuturesError`; data are attributes, so that a program can act on them and need not
read the text.  What a *task* raised arrives as itself and is not in this list; what the scheduler, the
file system or the machine did to a task is.
"""

from __future__ import annotations

import copy
import difflib
import pickle
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Optional

__all__ = [
    "ClusterFuturesError",
    "DependencyFailed",
    "InitializerFailed",
    "JobCancelled",
    "NodeFailed",
    "OptionError",
    "OutOfMemory",
    "OutcomeNotWritten",
    "Preempted",
    "RemoteError",
    "RunDirectoryError",
    "RunInUse",
    "SchedulerUnavailable",
    "SubmissionError",
    "SubmitLimitReached",
    "TaskKilled",
    "TaskPicklingError",
    "TaskTimeout",
    "TimeLimitReached",
    "WorkerLost",
    "WorkerStartError",
]


class ClusterFuturesError(Exception):
    """The root of this package's own errors."""


class OptionError(ClusterFuturesError, ValueError):
    """An option that is unknown, contradicts another or cannot be read."""

    @classmethod
    def unknown(cls, name: str, known: Iterable[str]) -> OptionError:
        """The error for an option called `name`, with the nearest of the `known` ones."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the options are: {', '.join(known)}"
        return cls(f"unknown option {name!r}{hint}")


class RunDirectoryError(ClusterFuturesError, OSError):
    """A run directory that cannot be made, written or trusted.

    Attributes: `path`, the directory (str).
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class RunInUse(RunDirectoryError):
    """Another process drives the run: `reattach` while the program that made it lives, for one.

    Attributes, beside `path`: `host` (str), `pid` (int), `since` (str, its own local time), each of that
    process, None where it is not known.
    """

    def __init__(
        self,
        message: str,
        path: str = "",
        host: Optional[str] = None,
        pid: Optional[int] = None,
        since: Optional[str] = None,
    ) -> None:
        super().__init__(message, path)
        self.host, self.pid, self.since = host, pid, since


class TaskPicklingError(ClusterFuturesError, pickle.PicklingError):
    """A function, an argument or a result that cannot be pickled; the message names it."""


class RemoteError(ClusterFuturesError):
    """Stands for a remote exception or result that could not be pickled there or rebuilt here.

    Attributes: `type_name`, the qualified name of what it stands for; `text`, the remote traceback or
    whatever else is known of it as text.
    """

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text

    def __str__(self) -> str:
        return f"{self.type_name} (could not be carried over as itself)\n{self.text}"


class DependencyFailed(ClusterFuturesError):
    """A future among the arguments failed or was cancelled; `__cause__` is that future's error.

    Attributes: `parent`, the failed future's description (str).
    """

    def __init__(self, message: str, parent: str = "") -> None:
        super().__init__(message)
        self.parent = parent


class OutcomeNotWritten(ClusterFuturesError, OSError):
    """The task ran, but its outcome could not be written (disk full, quota, read-only ...).

    `errno` and `strerror` are the operating system's.
    """


class SchedulerUnavailable(ClusterFuturesError):
    """The scheduler does not answer.  Nothing is known to have changed."""


class InitializerFailed(ClusterFuturesError, BrokenProcessPool):
    """The initializer raised in a worker; `__cause__` is its own exception."""


class WorkerLost(ClusterFuturesError, BrokenProcessPool):
    """The worker died while it ran this task; except for `WorkerStartError`, all others live on.

    Attributes, each None where it is not known:

    - `worker` (str), `pid` (int), `node` (str), `job_id` (str);
    - `state` (str), the scheduler's word for how the job ended;
    - `exit_code` (int) or `signal` (str, as ``"SIGKILL"``);
    - `stderr_tail` (str), the last lines that the worker wrote to its standard error;
    - `log_path` (str), the file that those lines are from;
    - `earlier` (list of str): how the earlier attempts at the task ended, a line each.
    """

    def __init__(self, message: str, **known: Any) -> None:
        super().__init__(message)
        self.worker: Optional[str] = known.pop("worker", None)
        self.pid: Optional[int] = known.pop("pid", None)
        self.node: Optional[str] = known.pop("node", None)
        self.job_id: Optional[str] = known.pop("job_id", None)
        self.state: Optional[str] = known.pop("state", None)
        self.exit_code: Optional[int] = known.pop("exit_code", None)
        self.signal: Optional[str] = known.pop("signal", None)
        self.stderr_tail: str = known.pop("stderr_tail", "")
        self.log_path: Optional[str] = known.pop("log_path", None)
        self.earlier: list[str] = known.pop("earlier", [])
        if known:
            raise TypeError(f"unknown attributes {sorted(known)}")

    def __reduce__(self) -> Any:
        # The default would call the class with the message alone and lose nothing but order; being
        # explicit keeps the attributes when the error itself travels (nested executors).
        return (_rebuild_worker_lost, (type(self), str(self.args[0]), dict(self.__dict__)))


class WorkerStartError(WorkerLost):
    """No worker could be started, and nothing can be run any more.

    Its attributes are those of the job that should have started one, as far as there was such a job.
    """


class SubmissionError(WorkerStartError):
    """The scheduler refused a job.

    Attributes: `command` (list of str), `exit_code` (int or None), `stderr` (str).
    """

    def __init__(
        self,
        message: str,
        command: Optional[list[str]] = None,
        exit_code: Optional[int] = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message, exit_code=exit_code, stderr_tail=stderr)
        self.command = command or []
        self.stderr = stderr


class SubmitLimitReached(SubmissionError):
    """The scheduler takes no more jobs from this user at present; once some have ended it will."""


def twin_of(error: BaseException) -> BaseException:
    """A fresh exception like `error`: one object raised in many places would collect their tracebacks."""
    if not isinstance(error, ClusterFuturesError):
        return error
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin


def _rebuild_worker_lost(cls: type[WorkerLost], message: str, state: dict[str, Any]) -> WorkerLost:
    error = cls(message)
    error.__dict__.update(state)
    return error


class OutOfMemory(WorkerLost):
    """The worker was ended for using more memory than its limit."""


class TimeLimitReached(WorkerLost):
    """The job reached its wall time while it ran this task."""


class NodeFailed(WorkerLost):
    """The node was lost."""


class Preempted(WorkerLost):
    """The scheduler took the node back for another job."""


class JobCancelled(WorkerLost):
    """Somebody cancelled the job outside this program."""


class TaskKilled(WorkerLost):
    """The running task was ended on request: `Future.kill()`, `kill_workers()` or an aborted run."""


class TaskTimeout(TaskKilled, TimeoutError):
    """The task ran longer than its ``options(timeout=...)``."""
