"""What the stand-in server knows of its jobs."""

from __future__ import annotations

import enum
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

SERVER = "head"  # the name at the end of every job's id
HOST = "localhost"  # the one node


class State(enum.Enum):
    """The states that both dialects have, by the letters that both use; FINISHED is ``C`` in TORQUE."""

    QUEUED = "Q"
    HELD = "H"
    WAITING = "W"  # for its time (-a)
    BEGUN = "B"  # an array of which something has run, in OpenPBS
    RUNNING = "R"
    EXITING = "E"
    FINISHED = "F"


ACTIVE = (State.RUNNING, State.EXITING)


class Dependency(NamedTuple):
    """One of the conditions of -W depend: a kind, such as ``afterok``, and the ids of the jobs it names."""

    kind: str
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return ":".join([self.kind, *self.ids])


class Request(NamedTuple):
    """What qsub was asked for.

    `indices` are those of an array's elements, None for a single job; at most `throttle` (0: all) run at a
    time.  `output` and `error` are paths without a host, None for the usual ones.  `memory` in bytes and
    `walltime` in seconds are limits; a job that does not `fit` never starts.  `after` is the time before
    which it waits.  `inherited` are variables that jobs get behind the back of PBS.
    """

    owner: str
    name: str
    script: bytes
    arguments: str
    directory: str
    queue: str
    resources: Mapping[str, str]
    variables: Mapping[str, str]
    inherited: Mapping[str, str]
    submitted: float
    walltime: float
    memory: Optional[int] = None
    cpus: int = 1
    fits: bool = True
    indices: Optional[tuple[int, ...]] = None
    throttle: int = 0
    held: bool = False
    after: float = 0.0
    priority: int = 0
    depend: tuple[Dependency, ...] = ()
    output: Optional[str] = None
    error: Optional[str] = None
    join: str = "n"
    keep: str = "n"
    mail: str = "a"
    account: Optional[str] = None
    rerunnable: bool = True
    shell: str = "/bin/bash"
    start_in: Optional[str] = None


class Usage(NamedTuple):
    """What a job has used: seconds of CPU, kilobytes of memory at most."""

    cpu: float = 0.0
    memory: int = 0
    virtual: int = 0


class Status(NamedTuple):
    """What changes in the life of a job, from the time `changed` on.

    `holds` are letters: ``u`` the user's, ``s`` for a dependency, ``l`` for an array's throttle.  `eligible`
    is since when nothing but room is missing.  `runs` counts its starts.
    """

    state: State
    changed: float
    holds: str = ""
    eligible: Optional[float] = None
    cpus: tuple[int, ...] = ()
    session: int = 0
    started: Optional[float] = None
    ended: Optional[float] = None
    exit_status: Optional[int] = None
    runs: int = 0
    comment: str = ""
    deleted: bool = False


class Job:
    """A single job, an array or an element of one."""

    def __init__(self, number: int, request: Request, array: Optional[Job] = None, index: int = 0) -> None:
        self.number = number
        self.request = request
        self.array = array
        self.index = index
        self.elements: list[Job] = []
        self.throttle = request.throttle
        self.walltime = request.walltime
        self.usage: Optional[Usage] = None  # until somebody has looked
        self.verdict = ""  # the limit that it has exceeded
        self.crashed = False  # its node was lost
        self.rerun = False  # it goes back to the queue when it has ended
        self._history = [Status(State.QUEUED, request.submitted)]

    @property
    def is_array(self) -> bool:
        return self.array is None and self.request.indices is not None

    @property
    def key(self) -> str:
        """The id without the server's name."""
        if self.is_array:
            return f"{self.number}[]"
        return f"{self.number}[{self.index}]" if self.array else str(self.number)

    @property
    def id(self) -> str:
        return f"{self.key}.{SERVER}"

    @property
    def status(self) -> Status:
        """How it is now."""
        return self._history[-1]

    def seen(self, when: float) -> Status:
        """How it was at that time; what is younger was as it began."""
        past = [status for status in self._history if status.changed <= when]
        return past[-1] if past else self._history[0]

    def change(self, **fields: Any) -> None:
        """From now on these fields of its status have other values."""
        new = self.status._replace(**fields)
        if new != self.status:
            self._history.append(new._replace(changed=time.time()))
