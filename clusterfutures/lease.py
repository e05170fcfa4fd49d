"""Who drives a run: one process at a time, on whatever machine.

The lease on a run directory is that of :mod:`clusterfutures.writing.leases`: who makes the file of the next
generation holds it, and rewrites it as a sign of life.  Here it also says which process holds it, so that on
the same machine a dead one is known at once.  Elsewhere it is watched for a while; clocks are not compared.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import RunInUse
from clusterfutures.processes import kernel, started
from clusterfutures.writing.leases import Lease, read_record

SILENCE = 90.0
"""Seconds without a sign of life after which a driver on another machine counts as dead.

It gives one every 15 s, and a network file system may show a file as it was a minute ago (acdirmax, nfs(5)).
"""
LOOK = 1.0  # seconds between looks at a lease that is watched
HELD, FINISHED, FAILED, DEAD = "held", "finished", "failed", "dead"


class Holder(NamedTuple):
    """The process that holds a lease: `started` says when, in a form that only its own machine can read."""

    host: str
    kernel: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Holder:
    """Who we are."""
    return Holder(socket.gethostname(), kernel(), os.getpid(), started(os.getpid()))


def is_alive(holder: Holder) -> Optional[bool]:
    """Whether that very process lives; None if it cannot be seen from here."""
    if holder.kernel != kernel():
        return None
    now = started(holder.pid)
    return bool(now) and now == holder.started


class Standing(NamedTuple):
    """What a run's lease says: its last holder (None: it never had one), and how it left the run.

    That is HELD, FINISHED, FAILED, or DEAD: nobody has ended it, and nobody holds it.
    """

    holder: Optional[Holder]
    state: str
    since: str


def standing(run_dir: str) -> Standing:
    """As the files say it, without waiting; raises OSError if the directory cannot be listed."""
    return DriverLease(run_dir).standing()


class DriverLease(Lease):
    """The lease of the process that drives a run."""

    mode = 0o600

    def __init__(self, run_dir: str) -> None:
        super().__init__(run_dir, SILENCE, node="")
        self._me = {"since": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **this_process()._asdict()}

    def _live(self) -> None:
        """The watching thread calls :meth:`beat`."""

    def lost(self) -> bool:
        """Whether another process has taken the run over; what was removed is nobody's."""
        return self._latest() > self._generation

    def take(self) -> None:
        """Hold the lease from now on.

        If it is another machine's, waits until it can be told whether its holder lives, up to SILENCE.
        Raises :class:`RunInUse` if it does, OSError if the directory cannot be used.
        """
        before = self._latest_record()
        while not self.try_acquire():
            holder = _holder(self._latest_record())
            if (holder is not None and is_alive(holder)) or self._latest_record() != before:
                raise in_use(self._directory)
            time.sleep(LOOK)

    def standing(self) -> Standing:
        """What there is at the moment."""
        record = self._latest_record()
        state = HELD if record.get("state") == "held" else str(record.get("seal") or FINISHED)
        return Standing(_holder(record), state, str(record.get("since", "")))

    @property
    def before(self) -> str:
        """How the run was found when the lease was taken: FINISHED, FAILED, or DEAD."""
        return self.seal or DEAD

    def _latest_record(self) -> dict[str, Any]:
        return read_record(self._path(self._latest()))

    def _is_over(self, generation: int) -> bool:
        record = read_record(self._path(generation))
        holder = _holder(record)
        if record.get("state") == "held" and holder is not None and is_alive(holder) is not None:
            return not is_alive(holder)
        return super()._is_over(generation)

    def _record(self, state: str, **more: Any) -> dict[str, Any]:
        return super()._record(state, **self._me, **more)


def in_use(run_dir: str) -> RunInUse:
    """The error for a run that somebody drives."""
    holder, _, since = standing(run_dir)
    who = "another process" if holder is None else str(holder)
    text = f"{run_dir} is in use by {who}, since {since}: end that first"
    if holder is None:
        return RunInUse(text, run_dir)
    return RunInUse(text, run_dir, holder.host, holder.pid, since)


def _holder(record: dict[str, Any]) -> Optional[Holder]:
    try:
        return Holder(*(record[name] for name in Holder._fields))
    except KeyError:
        return None
