"""One question to the scheduler for everybody in this process who has jobs there."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Optional

from clusterfutures.errors import SchedulerUnavailable, twin_of
from clusterfutures.schedulers.base import JobStatus

LEAST_AGE = 0.5
"""Seconds for which every answer is good enough: a hundred workers that die together are one question."""
FORGET = 600.0
"""Seconds after which a job that nobody asked for any more is not asked for either."""


class SharedPoller:
    """Asks for all jobs that anybody has asked for lately, and keeps the answer for the others.

    `ask` is called with the ids of jobs that are not known to have ended, never twice at a time, and
    returns what is known of them; it may raise :class:`SchedulerUnavailable`.  Any thread may call `poll`.
    """

    def __init__(self, ask: Callable[[list[str]], dict[str, JobStatus]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._wanted: dict[str, float] = {}  # when somebody last asked for it
        self._known: dict[str, JobStatus] = {}
        self._covered: set[str] = set()  # what the last question was about
        self._asked = -math.inf
        self._error: Optional[SchedulerUnavailable] = None  # what came of it, if it failed

    def poll(self, job_ids: Iterable[str], max_age: float) -> dict[str, JobStatus]:
        """What is known of these jobs, by a question not more than `max_age` seconds ago.

        Raises :class:`SchedulerUnavailable` if that question failed.
        """
        ids = list(job_ids)
        oldest = time.monotonic() - max(max_age, LEAST_AGE)
        with self._lock:
            now = time.monotonic()
            self._wanted.update(dict.fromkeys(ids, now))
            live = [job_id for job_id in ids if not self._ended(job_id)]
            if live:
                if self._asked < oldest or not self._covered.issuperset(live):
                    self._refresh(now)
                if self._error is not None:
                    raise twin_of(self._error) from self._error
            age = now - self._asked
            return {job_id: _aged(self._known[job_id], age) for job_id in ids if job_id in self._known}

    def _ended(self, job_id: str) -> bool:
        return job_id in self._known and self._known[job_id].state.ended

    def _refresh(self, now: float) -> None:
        self._wanted = {job_id: at for job_id, at in self._wanted.items() if now - at < FORGET}
        ended = {job_id: self._known[job_id] for job_id in self._wanted if self._ended(job_id)}
        live = [job_id for job_id in self._wanted if job_id not in ended]
        try:
            self._known = {**ended, **self._ask(live)}
            self._error = None
        except SchedulerUnavailable as error:
            self._error = error
        self._asked, self._covered = now, set(live)


def _aged(status: JobStatus, age: float) -> JobStatus:
    """What was true `age` seconds ago, as it is now."""
    if status.time_left is None:
        return status
    return status._replace(time_left=max(status.time_left - age, 0.0))
