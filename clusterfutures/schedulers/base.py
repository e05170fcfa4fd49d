"""The port to a scheduler: start jobs, end them, and ask after many of them at once.

Three methods that act, because that is all that schedulers have in common, and two that tell people what
would be done.  Asking is for many jobs together, so that its cost does not grow with their number.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

from clusterfutures.states import JobState

INDEX = "{index}"
"""A word of a command that stands for the element's own index; in a log's path, a part of it."""
RESTART = "{restart}"
"""A word that stands for how often the scheduler has started this element anew, under the same id."""
JOB_ID = "{job_id}"
"""A word that stands for the scheduler's id of the element; empty where a job has none of its own."""


class JobRequest(NamedTuple):
    """One array of identical supervisors to be started.

    `argv` is the command, in which the words INDEX, RESTART and JOB_ID stand for each element's own.  `log`
    is the file for what an element prints, with INDEX in it; `script` is where a batch script is left for
    people to read.  `environment` changes the inherited one (None unsets); `setup` are shell lines that come
    first.
    `resources` are checked options by their neutral names (:mod:`clusterfutures.resources`); at most
    `throttle` elements may run at a time (0: all).  `tag` is unique to the run, and finds its jobs again.
    """

    job: int
    name: str
    argv: list[str]
    elements: int
    script: str
    log: str
    cwd: Optional[str]
    environment: Mapping[str, Optional[str]]
    setup: str
    resources: Mapping[str, Any]
    throttle: int = 0
    tag: str = ""


class JobStatus(NamedTuple):
    """What the scheduler knows of one element.

    Exit code or signal number are None if it does not tell.  `text` is its own word and reason, as
    "PENDING (Resources)".  `time_left` is in seconds, None if it is not known or has no end.  `hopeless` is
    the reason for which it can never start.  `restarts` is how often it was started anew, None if that is not
    told.  `ends_as` is how one that is ENDING, or told to end, will have ended, None if that is not known.
    """

    state: JobState
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    node: Optional[str] = None
    text: str = ""
    time_left: Optional[float] = None
    hopeless: str = ""
    restarts: Optional[int] = None
    ends_as: Optional[JobState] = None


class Scheduler(ABC):
    """Starts, ends and asks after jobs.  Its methods may block; none is called in a user's thread."""

    name: str
    interval: float
    """Seconds between two polls while jobs run."""
    closing_interval: float
    """The same while somebody waits for them to end."""
    longest_interval: float
    """What `interval` grows to while the answers stay the same."""
    grace: float
    """Seconds for which the scheduler may not know a job that it was given, before that counts as gone."""

    def check(self, resources: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise OptionError for a checked option that this scheduler cannot express; may ask it who it is."""

    @property
    def throttles(self) -> bool:
        """Whether it lets only so many elements of an array run at a time, if asked to."""
        return False

    @property
    def max_array(self) -> int:
        """Elements that one job may have; asking may block."""
        return sys.maxsize

    @abstractmethod
    def submit(self, request: JobRequest) -> list[str]:
        """Start the job; returns the scheduler's id of each element.

        Raises :class:`~clusterfutures.errors.SubmissionError` if the scheduler refuses it, and
        :class:`~clusterfutures.errors.SchedulerUnavailable` if it does not answer: then the job may be there
        or not, and submitting the same request again finds out.
        """

    def adopt(self, request: JobRequest, ids: Optional[list[str]]) -> list[str]:
        """An earlier process of this run has submitted the job; returns the ids of its elements.

        From then on `poll` and `cancel` know them.  With None for `ids` it is not known whether it was
        accepted: then they are looked for by what is unique in the request, with '' for those that are not
        there.  May block.  Raises :class:`~clusterfutures.errors.SchedulerUnavailable` if there is no answer.

        The default is for schedulers that keep nothing in this process, and cannot look for jobs.
        """
        return [""] * request.elements if ids is None else ids

    @abstractmethod
    def cancel(self, job_ids: Iterable[str]) -> None:
        """End these elements, whatever they do; those that have ended already are no error."""

    def throttle(self, job_id: str, elements: int) -> None:  # noqa: B027
        """Let so many elements run at a time of the array that `job_id` is one of.

        Where a throttle cannot be changed, the array keeps the one that it has.
        """

    def sweep(self, job_id: str, pids: Iterable[int]) -> None:  # noqa: B027
        """An element has ended: see that these processes of it have, too.

        Most schedulers do that themselves, so the default is to do nothing.
        """

    @abstractmethod
    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        """The state of each element that the scheduler still knows.

        An answer may be `max_age` seconds old, if another executor of this process asked then.  Raises
        :class:`~clusterfutures.errors.SchedulerUnavailable` if there is none.
        """

    def script(self, request: JobRequest) -> str:
        """The batch script of the job; where there is none, what :meth:`explain` says."""
        return self.explain(request)

    @abstractmethod
    def explain(self, request: JobRequest) -> str:
        """How the job would be submitted: its script, if there is one, and the exact command."""

    @abstractmethod
    def test_only(self, request: JobRequest) -> str:
        """What the scheduler itself says of the job, which is not submitted.

        Raises :class:`~clusterfutures.errors.SubmissionError` if it would be refused.
        """
