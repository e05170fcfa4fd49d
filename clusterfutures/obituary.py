"""Why a worker died: from what is known to the error that its task raises."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Optional

from clusterfutures.errors import (
    JobCancelled,
    NodeFailed,
    OutOfMemory,
    Preempted,
    TaskKilled,
    TaskTimeout,
    TimeLimitReached,
    WorkerLost,
)
from clusterfutures.records import ASKED, MEMORY, ORPHANED, SITE, SITE_MEMORY, SITE_TIME, TIMED_OUT
from clusterfutures.states import JobState

if TYPE_CHECKING:
    from clusterfutures.records import Ended
    from clusterfutures.schedulers.base import JobStatus
    from clusterfutures.spool import RunDirectory, WorkerRef

BY_STATE: dict[JobState, tuple[type[WorkerLost], str]] = {
    JobState.OUT_OF_MEMORY: (OutOfMemory, "the job was ended at its memory limit; ask for more mem"),
    JobState.TIMEOUT: (TimeLimitReached, "the job reached its wall time; ask for more time"),
    JobState.NODE_FAILED: (NodeFailed, "its node failed"),
    JobState.PREEMPTED: (Preempted, "the job was preempted"),
    JobState.CANCELLED: (JobCancelled, "the job was cancelled, not by this program"),
}
"""What only the scheduler knows."""

BY_REASON: dict[int, tuple[type[WorkerLost], str]] = {
    ORPHANED: (WorkerLost, "nothing had been heard of the driver for the orphan timeout, and it was ended"),
    TIMED_OUT: (TaskTimeout, "it took longer than its timeout and was killed"),
    ASKED: (TaskKilled, "it was killed on request"),
    MEMORY: (OutOfMemory, "the kernel killed it because the job reached its memory limit; ask for more mem"),
    SITE_TIME: BY_STATE[JobState.TIMEOUT],
    SITE_MEMORY: BY_STATE[JobState.OUT_OF_MEMORY],
}
"""What a supervisor itself knows of why a worker died."""

UNSEEN = "its supervisor is gone and did not report how it ended"

TAIL_BYTES = 4096
TAIL_LINES = 20


class Post:
    """Who runs a task: for reading by whoever asks the future."""

    __slots__ = ("job_id", "node", "pid", "worker")

    def __init__(
        self, worker: str, pid: Optional[int], node: Optional[str], job_id: Optional[str]
    ) -> None:
        self.worker, self.pid, self.node, self.job_id = worker, pid, node, job_id


def tail(path: str) -> str:
    """The last lines of a log, '' if there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def signal_name(number: int) -> str:
    """The name of a signal: SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def worker_lost(
    run: RunDirectory,
    ref: WorkerRef,
    post: Post,
    ended: Optional[Ended],
    task: int,
    status: Optional[JobStatus] = None,
    begun: bool = True,
) -> WorkerLost:
    """The error for task number `task`, which the worker was running, or had not `begun`.

    `ended` is how its supervisor saw it end, None if nobody did; `status` what the scheduler says of the job.
    """
    log = run.stderr(ref) if begun else run.element_log(ref.job, ref.element)
    known: dict[str, Any] = {
        "worker": post.worker,
        "pid": post.pid,
        "node": post.node,
        "job_id": post.job_id,
        "log_path": log,
        "stderr_tail": tail(log),
    }
    kind, reason = _cause(ended, status, known)
    who = f"worker {post.worker}" + (f" (pid {post.pid})" if post.pid is not None else "")
    who += f" of job {post.job_id}" if status is not None and post.job_id else ""
    who += f" on {known['node']}" if status is not None and known["node"] else ""
    if issubclass(kind, TaskKilled):
        text = f"task {task} was ended, on {who}: {reason}"
    elif not begun:
        text = f"task {task} had not begun, on {who}: {reason}"
    else:
        text = f"lost {who} while it ran task {task}: {reason}"
    return kind(text + _last_words(known["stderr_tail"], log), **known)


def _cause(
    ended: Optional[Ended], status: Optional[JobStatus], known: dict[str, Any]
) -> tuple[type[WorkerLost], str]:
    """The kind of error, and the reason in words; adds to what is `known`."""
    if status is not None:
        known["state"] = status.text or status.state.value
        known["node"] = known["node"] or status.node
    if ended is None and status is not None:
        known["exit_code"] = status.exit_code
        known["signal"] = signal_name(status.signal) if status.signal else None
    own = _ending(ended.status, known) if ended is not None else ""
    if ended is not None and ended.reason in BY_REASON:
        return BY_REASON[ended.reason]
    if status is not None:
        kind, reason = BY_STATE.get(status.state, (WorkerLost, own or UNSEEN))
        return kind, f"{reason} (the scheduler says: {known['state']})"
    if ended is None:
        return WorkerLost, UNSEEN
    if ended.reason == SITE:
        return WorkerLost, "its job was told to end, and the scheduler does not say why"
    return WorkerLost, own


def _ending(status: int, known: dict[str, Any]) -> str:
    if os.WIFSIGNALED(status):
        name = known["signal"] = signal_name(os.WTERMSIG(status))
        hint = "; the kernel's out-of-memory killer sends this" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    known["exit_code"] = os.WEXITSTATUS(status)
    return f"it exited with code {known['exit_code']} in the middle of the task"


def _last_words(text: str, log: str) -> str:
    if not text.strip():
        return f"\nNothing on its standard error ({log})."
    indented = "\n".join("  | " + line for line in text.splitlines())
    return f"\nLast lines of its standard error ({log}):\n{indented}"
