"""Whether a task that failed is tried again, and as what; and which node is not given any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple, Optional

from clusterfutures.errors import (
    JobCancelled,
    OptionError,
    OutOfMemory,
    Preempted,
    TaskKilled,
    TimeLimitReached,
    WorkerLost,
)
from clusterfutures.journal import Journal, Run
from clusterfutures.kinds import Kinds
from clusterfutures.nodes import LOSSES, Nodes

log = logging.getLogger("clusterfutures")

NO_FAULT_OF_THE_NODE = (OutOfMemory, TimeLimitReached, Preempted, JobCancelled, TaskKilled)


class Further(NamedTuple):
    """Another attempt: `run`, not before `until` (monotonic clock, seconds; 0 is at once)."""

    run: Run
    until: float


class Attempts:
    """What the attempts at the tasks of a run have come to; `kinds` are those of its tasks."""

    def __init__(self, journal: Journal, kinds: Kinds) -> None:
        self._journal, self._kinds = journal, kinds
        self.nodes = Nodes()

    def after(self, run: Run, error: BaseException) -> Optional[Further]:
        """The next attempt at the task of `run`, a single one, if its retries allow it after this `error`.

        The journal knows of it before anybody else does.
        """
        policy, retries = run.policy, run.policy.retries
        asked = {**self._kinds.needs(policy.kind), "timeout": policy.timeout}
        free, charged = retries.free(error, run.free), run.attempt - run.free
        if not free and not retries.allow(error, charged, asked):
            return None
        again = run.part(0, 1, run.attempt + 1)
        again.free += free
        again.earlier += (f"attempt {run.attempt}: {_in_a_line(error)}",)
        changes = retries.changes(error, asked)
        timeout = changes.pop("timeout", policy.timeout)
        kind = self._kinds.find(changes, policy.kind) if changes else policy.kind
        again.policy = policy._replace(timeout=timeout, kind=kind)
        pause = 0.0 if free else retries.pause(charged + 1)
        try:
            self._journal.again(again, pause)
        except OSError as refusal:
            log.warning("could not write that task %d is tried again: %s", run.first, refusal)
        return Further(again, time.monotonic() + pause if pause else 0.0)

    def blame(self, error: WorkerLost) -> bool:
        """Whether the node of this loss is left out from here on.

        It is if it loses one task after the other, before it has had them all.
        """
        node = error.node
        if node is None or isinstance(error, NO_FAULT_OF_THE_NODE):
            return False
        if not self.nodes.lost(node, time.monotonic()):
            return False
        try:
            self._kinds.leave_out(node)
        except OptionError as refusal:
            log.warning("node %s loses one task after the other, and cannot be left out: %s", node, refusal)
            return False
        log.warning(
            "node %s has lost %d tasks in a row, while others ended elsewhere: no further job is sent there",
            node,
            LOSSES,
        )
        return True


def told(earlier: Sequence[str]) -> str:
    """The earlier attempts at a task, for the text of its last error."""
    return "\n".join(["earlier attempts:", *(f"  {line}" for line in earlier)])


def _in_a_line(error: BaseException) -> str:
    """What ended an attempt, and where its log is if it had one of its own."""
    text = str(error)
    text = text.splitlines()[0] if text else ""
    if not isinstance(error, WorkerLost):
        return f"{type(error).__name__}: {text}"
    return text if error.log_path is None or error.log_path in text else f"{text} (log: {error.log_path})"
