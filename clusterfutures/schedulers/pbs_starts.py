"""How often the elements of jobs have begun, told by their scripts.

No PBS says in a job how often it was started before, and what qstat counts (run_count, start_count) are
attempts of the server, also those that never got as far as the script.  Driver and job must agree: so a
script takes the first number that no earlier start of its element has taken, as a directory beside its log,
and the driver counts these directories.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Optional

from clusterfutures.schedulers.base import INDEX, JobStatus
from clusterfutures.schedulers.script import quote
from clusterfutures.states import JobState

MOST = 100
"""Starts that are told apart."""


def expression(log: str) -> str:
    """For a script: how often the element `cf_index` has begun before; `log` has INDEX in it."""
    before, mark, after = log.rpartition(INDEX)
    path = f'{quote(before)}"$cf_index"{quote(after)}' if mark else quote(log)
    take = f"mkdir -m 700 {path}.$cf_start 2>/dev/null && break"
    return f"$(for cf_start in {{0..{MOST - 1}}}; do {take}; done; echo $cf_start)"


class Starts:
    """Knows the logs of elements by their ids, and what lies beside them."""

    def __init__(self) -> None:
        self._logs: dict[str, str] = {}
        self._told: dict[str, int] = {}  # the restarts of each that somebody was told of

    def note(self, log: str, ids: list[str]) -> None:
        """These are the elements of a request with this `log`, in order."""
        for index, job_id in enumerate(ids):
            self._logs[job_id] = str(index).join(log.rsplit(INDEX, 1))

    def counted(self, ids: Iterable[str], found: Mapping[str, JobStatus]) -> dict[str, JobStatus]:
        """What was found of these elements, with the number of restarts.

        A start of which nobody was told yet goes before an end, and before the silence of a server that has
        forgotten it.
        """
        known = {job_id: self._logs[job_id] for job_id in ids if job_id in self._logs}
        starts: dict[str, int] = {}
        for folder in set(map(os.path.dirname, known.values())):
            starts.update(_starts(folder))
        told = dict(found)
        for job_id, log in known.items():
            status = self._with_restarts(job_id, found.get(job_id), starts.get(log, 0))
            if status is not None:
                told[job_id] = status
        return told

    def _with_restarts(self, job_id: str, status: Optional[JobStatus], starts: int) -> Optional[JobStatus]:
        restarts = max(starts - 1, 0)
        if status is None or status.state.ended:
            if restarts <= self._told.get(job_id, 0):
                return status
            # It was put back, began and ended between two questions.  What it has written belongs to its
            # last start, and is looked for once that is known; that it has ended, the next answer says.
            node = None if status is None else status.node
            status = JobStatus(JobState.RUNNING, node=node, text="begun anew")
        elif status.state is JobState.PENDING and starts:
            # It has begun: either since that answer, or before it was put back into the queue.  That it had
            # been running tells the two apart.
            return status
        self._told[job_id] = restarts
        return status._replace(restarts=restarts)


def _starts(folder: str) -> dict[str, int]:
    """How often the elements with logs in this folder have begun, by their log."""
    try:
        names = os.listdir(folder)
    except OSError:  # it was removed, or is out of reach for the moment
        return {}
    found: dict[str, int] = {}
    for name in names:
        log, _, number = name.rpartition(".")
        if re.fullmatch("[0-9]{1,2}", number):
            path = os.path.join(folder, log)
            found[path] = max(found.get(path, 0), int(number) + 1)
    return found
