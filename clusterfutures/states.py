"""States of jobs, the same for every scheduler."""

from __future__ import annotations

from enum import Enum


class JobState(Enum):
    """What a scheduler says of a job.  UNKNOWN is neither success nor failure: it changes nothing."""

    PENDING = "pending"  # in the queue
    RUNNING = "running"  # has an allocation
    SUSPENDED = "suspended"  # has one, and is stopped in it
    ENDING = "ending"  # its end has begun: processes may still be alive, or the scheduler cleans up after it
    COMPLETED = "completed"  # ended by itself with exit code 0
    FAILED = "failed"  # ended by itself with another exit code, or by a signal
    CANCELLED = "cancelled"  # ended by somebody
    OUT_OF_MEMORY = "out of memory"  # ended by the kernel for its memory
    TIMEOUT = "time limit"  # ended by the scheduler for its wall time
    NODE_FAILED = "node failed"  # lost with its node
    PREEMPTED = "preempted"  # ended for a job that goes first
    UNKNOWN = "unknown"  # the scheduler does not say, or in words that we do not know

    @property
    def ended(self) -> bool:
        """Whether the job is over for good."""
        return self not in _LIVE


_LIVE = frozenset(
    {JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.ENDING, JobState.UNKNOWN}
)
