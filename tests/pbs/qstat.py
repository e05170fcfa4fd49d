"""What qstat shows, as far as both dialects agree."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Union

from tests.pbs.dialect import Answer, Dialect, Option, Refused
from tests.pbs.jobs import HOST, Job, State, Status

Attributes = Mapping[str, Union[str, Mapping[str, str]]]
"""What ``qstat -f`` shows, in its order: values, and groups of values such as Resource_List."""

LINE = 78  # columns


class Qstat(ABC):
    """One call of qstat; `jobs` are all that the server remembers, by their ids.

    It shows how they were a while ago, which is the site's lag.
    """

    unknown_job: tuple[int, str]
    """The exit code and the complaint for an id that does not exist."""
    unknown_queue: tuple[int, str]
    """The same for what is neither an id nor the queue."""

    def __init__(self, dialect: Dialect, options: Sequence[Option], jobs: Mapping[str, Job]) -> None:
        self.dialect = dialect
        self.flags = dict(options)
        self.jobs = jobs
        self.now = time.time()

    def answer(self, operands: Sequence[str]) -> Answer:
        """What it prints; each operand is asked for by itself, whatever becomes of the others."""
        if "B" in self.flags:
            return Answer(0, self.server())
        found: list[list[Job]] = []
        errors: list[Refused] = []
        for operand in operands or [""]:
            try:
                found.append([job for job in self.chosen(operand) if self._is_wanted(job)])
            except Refused as refusal:
                errors.append(refusal)
        out = self.queues() if "Q" in self.flags and not errors else self.shown(found)
        return Answer(self.code(errors), out, "".join(f"{refusal.error}\n" for refusal in errors))

    def status(self, job: Job) -> Status:
        """How the job was."""
        return job.seen(self.now - self.dialect.settings.lag)

    def job(self, key: str) -> Job:
        """The job with this id.  Raises `Refused`."""
        if key not in self.jobs:
            code, complaint = self.unknown_job
            raise Refused(code, f"qstat: {complaint} {key}")
        return self.jobs[key]

    def is_queue(self, operand: str) -> bool:
        """Whether an operand stands for all jobs, and is no id.  Raises `Refused` if it is neither."""
        if operand not in ("", self.dialect.queue) and not operand[0].isdigit():
            code, complaint = self.unknown_queue
            raise Refused(code, f"qstat: {complaint} {operand}")
        return not operand[:1].isdigit()

    def count(self) -> Counter[State]:
        """How many jobs are in each state."""
        return Counter(self.status(job).state for job in self.jobs.values() if not job.is_array)

    def _is_wanted(self, job: Job) -> bool:
        return self.flags.get("u", job.request.owner) == job.request.owner

    @abstractmethod
    def chosen(self, operand: str) -> list[Job]:
        """The jobs that an operand means, all of them if it is empty.  Raises `Refused`."""

    @abstractmethod
    def shown(self, found: Sequence[Sequence[Job]]) -> str:
        """The jobs of each operand that was found."""

    @abstractmethod
    def server(self) -> str:
        """With -B: the server."""

    @abstractmethod
    def queues(self) -> str:
        """With -Q: the queue."""

    @abstractmethod
    def code(self, errors: Sequence[Refused]) -> int:
        """The exit code."""


def full_text(title: str, attributes: Attributes) -> str:
    """One object as ``qstat -f`` prints it."""
    lines = [title]
    for name, value in attributes.items():
        if isinstance(value, str):
            lines.append(_wrapped(name, value))
        else:
            lines += [_wrapped(f"{name}.{key}", text) for key, text in value.items()]
    return "\n".join(lines) + "\n\n"


def user_at_host(job: Job) -> str:
    """As in Job_Owner."""
    return f"{job.request.owner}@{HOST}"


def _wrapped(name: str, value: str) -> str:
    """A long value is broken at its commas, and anywhere if what is between two does not fit in a line."""
    text = f"    {name} = "
    column = len(name) + 7
    for number, part in enumerate(filter(None, value.split(","))):
        if number:
            text += ","
            column += 1
        if column + len(part) < LINE:
            text += part
            column += len(part)
            continue
        if number:
            text += "\n\t"
            column = 9
        for letter in part:
            text += letter
            column += 1
            if column > LINE:
                text += "\n\t"
                column = 8
    return text
