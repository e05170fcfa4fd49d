"""What the kinds of PBS have in common, and what each must say of itself.

One :class:`Dialect` per kind: :mod:`~clusterfutures.schedulers.pbs_torque`,
:mod:`~clusterfutures.schedulers.pbs_openpbs` and :mod:`~clusterfutures.schedulers.pbs_over_slurm`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, Optional

from clusterfutures.errors import OptionError
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.schedulers.pbs_client import Client
from clusterfutures.schedulers.pbs_options import Words
from clusterfutures.schedulers.pbs_status import Record
from clusterfutures.schedulers.slurm_status import NUMBER, portions

CARRIED = frozenset({"name", "modules"})
"""Options that a request carries elsewhere: in its name, in its setup lines."""


class JobId(NamedTuple):
    """The id of a job, "12.server", or of an element of an array, "12[3].server".

    `element` is None for what is none; `server` begins with a dot, or is empty.
    """

    number: str
    element: Optional[int]
    server: str

    @classmethod
    def parse(cls, text: str) -> Optional[JobId]:
        """The parts of an id of a job or an element; None if it is no such."""
        found = re.fullmatch(rf"(\d+)(?:\[({NUMBER})\])?(\.\S+)?", text)
        if found is None:
            return None
        return cls(found[1], int(found[2]) if found[2] else None, found[3] or "")

    @property
    def base(self) -> str:
        """What to ask for, to hear of it: the whole array, or the job."""
        return f"{self.number}{'' if self.element is None else '[]'}{self.server}"


class Dialect(ABC):
    """One kind of PBS: how it is asked for something, and what its answers mean."""

    name: ClassVar[str]
    """What the user calls it."""
    title: ClassVar[str]
    """What it is called in messages."""

    arrays: ClassVar[bool] = True
    """Whether the elements of an array can be told apart in its answers."""
    late: ClassVar[float] = 0.0
    """Seconds for which it may still be making the elements of an array that it has accepted."""
    array_option: ClassVar[str]
    """What makes an array of a job."""
    throttles = True
    """Whether it can be told how many elements of an array may run at a time."""
    index: ClassVar[str]
    """In a script, the element's index."""
    job_id: ClassVar[str] = "$PBS_JOBID"
    """In a script, the element's id."""

    nowhere: ClassVar[str] = "/dev/null"
    """What to give qsub as the file of a job's output, where it should deliver none."""
    notices: ClassVar[bool] = True
    """Whether it tells a job on its standard error why it is ended."""
    passes_environment: ClassVar[bool] = False
    """Whether jobs get the environment in which they were submitted."""
    imposed: ClassVar[tuple[str, ...]] = ()
    """Variables that it sets in each job, although nobody has asked for that."""

    flags: ClassVar[Mapping[str, Words]]
    """Options that are words for qsub."""
    listed: ClassVar[frozenset[str]]
    """Options that are a part of the one ``-l``."""
    advice: ClassVar[Mapping[str, str]] = {}
    """What to do in place of options that it does not have,"""
    otherwise: ClassVar[str] = "extra=[...] takes words for qsub itself"
    """and in place of all others."""
    names: ClassVar[tuple[str, str]]
    """What a job may be called: a pattern, and the same for people."""

    # -- submitting -----------------------------------------------------------------------------

    def options(self, resources: Mapping[str, Any]) -> list[str]:
        """Words for qsub for what was asked for, and nothing else.

        Raises :class:`OptionError` for what this dialect cannot express.
        """
        for name in resources:
            if name not in self.flags and name not in self.listed and name not in CARRIED:
                hint = self.advice.get(name, self.otherwise)
                raise OptionError(f"{name}: {self.title} has no such option; {hint}")
        words = []
        for name, value in resources.items():
            words += self.flags[name](value) if name in self.flags else []
        # One -l for everything: to Slurm's qsub, a second one replaces the first.
        items = ",".join(self._items(resources))
        return [*words, "-l", items] if items else words

    def _items(self, resources: Mapping[str, Any]) -> list[str]:
        items = self.resource_list(resources)
        for item in items:
            if "," in item:
                raise OptionError(f"{item}: PBS takes no comma here")
        return items + [word[2:].lstrip("=") for word in resources.get("extra", ()) if word.startswith("-l")]

    def check_array(self, resources: Mapping[str, Any]) -> None:  # noqa: B027
        """Raise :class:`OptionError` for options with which there can be no array."""

    @abstractmethod
    def resource_list(self, resources: Mapping[str, Any]) -> list[str]:
        """What to write behind ``-l``: "walltime=01:00:00" and so on."""

    def own_words(self, name: str, mark: str) -> list[str]:
        """Words for qsub that every job gets: its `name`, and what has its script read as it is meant.

        By `mark`, :meth:`marked` finds the job again.  Raises :class:`OptionError` for an impossible name.
        """
        pattern, people = self.names
        if not re.fullmatch(pattern, name):
            raise OptionError(f"name: {self.title} takes {people}, not {name!r}")
        # Without -S, it would be read by whatever shell the user logs in with.  Lines that begin with what
        # stands behind -C are options for qsub: with the mark begins none.
        return ["-N", name, "-S", "/bin/bash", "-C", mark]

    def quote(self, word: str) -> str:
        """`word` as qsub has to be given it to take it as it is."""
        return word

    # -- asking ---------------------------------------------------------------------------------

    def ask(self, client: Client, bases: Iterable[str]) -> dict[str, Record]:
        """What is known of these jobs and of all elements of these arrays, by as few commands as can be.

        Raises :class:`~clusterfutures.errors.SchedulerUnavailable` if there is no answer.
        """
        found: dict[str, Record] = {}
        for words in portions(bases):
            found.update(self.query(client, words))
        return found

    @abstractmethod
    def query(self, client: Client, bases: list[str]) -> dict[str, Record]:
        """The same by one command."""

    @abstractmethod
    def status(self, record: Record) -> JobStatus:
        """What is meant by what is said of a job."""

    @abstractmethod
    def marked(self, client: Client, marks: Mapping[str, str]) -> dict[str, str]:
        """The ids of jobs that are in the queue with these marks, by the mark; `marks` has their scripts.

        Raises :class:`~clusterfutures.errors.SchedulerUnavailable` if there is no answer.
        """

    # -- changing -------------------------------------------------------------------------------

    @abstractmethod
    def deletions(self, jobs: Iterable[JobId]) -> Iterator[list[str]]:
        """The words of the calls of qdel that end these jobs."""

    def throttling(self, base: str, elements: int) -> list[str]:
        """The words of qalter that let so many elements of the array `base` run at a time."""
        raise NotImplementedError


# ---- what is said of several jobs together ------------------------------------------------------


def index_ranges(indices: Iterable[int]) -> list[str]:
    """Indices as PBS writes several of them.

    >>> index_ranges([0, 1, 2, 7])
    ['0-2', '7']
    """
    runs: list[list[int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def with_marks(jobs: Mapping[str, Record], attribute: str, marks: Iterable[str]) -> dict[str, str]:
    """The ids of those with one of the `marks` among the words of their qsub, by the mark."""
    words = {word: job for job, record in jobs.items() for word in record.get(attribute, "").split()}
    return {mark: words[mark] for mark in marks if mark in words}


def by_base(jobs: Iterable[JobId]) -> dict[str, list[int]]:
    """The indices of elements by their array; an empty list for what is no element."""
    found: dict[str, list[int]] = {}
    for job in jobs:
        found.setdefault(job.base, []).extend([] if job.element is None else [job.element])
    return found
