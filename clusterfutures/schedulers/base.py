"""The port to a scheduler: start jobs, end them, and ask after many of them at once.

Three methods, because that is all that schedulers have in common; asking is for many jobs together, so that
its cost does not grow with their number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional

from clusterfutures.states import JobState

INDEX = "{index}"
"""A word of a command that stands for the element's own index."""


class JobRequest(NamedTuple):
    """One array of identical supervisors to be started.

    `argv` is the command, in which the word INDEX stands for each element's own.  `logs` are the files
    for what each element prints; `environment` changes the inherited one (None unsets); `setup` are shell
    lines that come first.
    """

    job: int
    name: str
    argv: list[str]
    elements: int
    logs: list[str]
    cwd: Optional[str]
    environment: Mapping[str, Optional[str]]
    setup: str


class JobStatus(NamedTuple):
    """What the scheduler knows of one element: exit code or signal number are None if it does not tell."""

    state: JobState
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    node: Optional[str] = None
    text: str = ""


class Scheduler(ABC):
    """Starts, ends and asks after jobs.  Its methods may block; none is called in a user's thread."""

    name: str
    interval: float
    """Seconds between two polls while jobs run."""
    closing_interval: float
    """The same while somebody waits for them to end."""

    @abstractmethod
    def submit(self, request: JobRequest) -> list[str]:
        """Start the job; returns the scheduler's id of each element.

        Raises :class:`~clusterfutures.errors.SubmissionError` if the scheduler refuses it.
        """

    @abstractmethod
    def cancel(self, job_ids: Iterable[str]) -> None:
        """End these elements, whatever they do; those that have ended already are no error."""

    def sweep(self, job_id: str, pids: Iterable[int]) -> None:  # noqa: B027
        """An element has ended: see that these processes of it have, too.

        Most schedulers do that themselves, so the default is to do nothing.
        """

    @abstractmethod
    def poll(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The state of each element that the scheduler still knows."""
