"""Why a worker died: from what is known to the error that its task raises."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Optional

from clusterfutures.errors import TaskKilled, TaskTimeout, WorkerLost
from clusterfutures.records import ASKED, TIMED_OUT

if TYPE_CHECKING:
    from clusterfutures.records import Ended
    from clusterfutures.spool import RunDirectory, WorkerRef

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
    run: RunDirectory, ref: WorkerRef, post: Post, ended: Optional[Ended], task: int
) -> WorkerLost:
    """The error for task number `task`, which the worker was running; `ended` None: nobody saw how."""
    log = run.stderr(ref)
    known: dict[str, Any] = {
        "worker": post.worker,
        "pid": post.pid,
        "node": post.node,
        "job_id": post.job_id,
        "log_path": log,
        "stderr_tail": tail(log),
    }
    kind, reason = WorkerLost, "its supervisor is gone and did not report how it ended"
    if ended is not None:
        reason = _ending(ended.status, known)
        if ended.reason == TIMED_OUT:
            kind, reason = TaskTimeout, "it took longer than its timeout and was killed"
        elif ended.reason == ASKED:
            kind, reason = TaskKilled, "it was killed on request"
    who = f"worker {post.worker}" + (f" (pid {post.pid})" if post.pid is not None else "")
    if kind is WorkerLost:
        text = f"lost {who} while it ran task {task}: {reason}"
    else:
        text = f"task {task} was ended, on {who}: {reason}"
    return kind(text + _last_words(known["stderr_tail"], log), **known)


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
