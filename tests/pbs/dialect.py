"""What differs between TORQUE and OpenPBS, as the rest of the stand-in sees it."""

from __future__ import annotations

import os
import pwd
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Optional

from tests.pbs.jobs import SERVER, Dependency, Job, Request
from tests.pbs.units import format_time, parse_size, parse_time
from tests.support import MARK

Option = tuple[str, str]
"""An option of a command, without its dash, and its value."""

WALLTIME = 3600.0  # seconds, for a job that does not ask

SIZES = ("mem", "pmem", "vmem", "pvmem", "file")
TIMES = ("walltime", "cput", "pcput")
NUMBERS = ("ncpus", "procs", "nice", "ngpus", "mpiprocs", "ompthreads")


class Refused(Exception):
    """A command ends with an exit code and with what it says on standard error."""

    def __init__(self, code: int, error: str) -> None:
        super().__init__(error)
        self.code = code
        self.error = error


class Call(NamedTuple):
    """How a command was called: its name and words, where, with which environment, and by whom."""

    command: str
    words: list[str]
    directory: str
    environ: dict[str, str]
    uid: int

    @property
    def user(self) -> str:
        return pwd.getpwuid(self.uid).pw_name


class Answer(NamedTuple):
    """How a command ends."""

    code: int = 0
    out: str = ""
    error: str = ""


class Manners(NamedTuple):
    """How a server treats its jobs."""

    executes: str
    """The line that a job's login shell is given; {} stands for the script."""
    exceeded: Mapping[str, int]
    """The exit status of a job that has exceeded its ``walltime`` or, where somebody looks, its ``mem``."""
    dependency_status: Optional[int]
    """That of a job that is removed because it depends on something that did not happen."""
    slot_holds: bool
    """Whether the elements of an array that wait for its throttle are held."""
    arrays_have_status: bool
    """Whether an array as a whole has an exit status: that of the element which ended last."""
    kept_with_array: bool
    """Whether an element is remembered for as long as its array."""
    by_environment: bool
    """Whether processes belong to a job also by PBS_JOBID in their environment."""
    jammed_by: int
    """The server does not answer for a while when it is given a larger array."""
    gentle: bool
    """Whether what a job leaves running is asked to end (SIGTERM) before it is killed."""
    spools_nothing: bool
    """Whether what is to go to /dev/null is kept on the node while the job runs."""


class Settings(NamedTuple):
    """How a site is set up, see `tests.pbs.Site`; times are in seconds."""

    directory: str
    dialect: str
    slots: int
    lag: float
    keep: float
    kill_delay: float
    max_array: int
    max_queued: int
    refuses_root: bool
    history: bool


class Room(NamedTuple):
    """What a job takes: CPUs, bytes of memory that it may use, and whether the site can ever have it."""

    cpus: int = 1
    memory: Optional[int] = None
    fits: bool = True


class Dialect(ABC):
    """Words, texts and numbers of one kind of PBS; it knows nothing of processes.

    `queue` is the one queue, `options` what each command takes, as getopt wants it; `dependencies` are the
    conditions of ``-W depend``.
    """

    queue: str
    manners: Manners
    options: Mapping[str, str]
    dependencies: Sequence[str] = ("after", "afterok", "afternotok", "afterany")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # Submission

    def request(self, call: Call, options: Sequence[Option], script: bytes, name: str) -> Request:
        """What is to be run: `options` are those of the script, then those of the command line.

        Raises `Refused`.
        """
        chosen = dict(options)
        asked, attributes = self.asked(options)
        name = chosen.get("N", name)
        self.check_name(name)
        self.check_attributes(attributes)
        if chosen.get("q", self.queue).partition("@")[0] != self.queue:
            raise self.unknown_queue()
        resources = self.resources(asked)
        room = self.room(resources)
        array, throttle = self.array(chosen, attributes)
        return Request(
            owner=call.user,
            name=name,
            script=script,
            arguments=" ".join(call.words),
            directory=chosen.get("w", call.directory),
            queue=self.queue,
            resources=resources,
            variables={**self.origin(call), **_variables(chosen, call.environ)},
            inherited={MARK: call.environ[MARK]} if MARK in call.environ else {},
            submitted=time.time(),
            walltime=parse_time(resources["walltime"]),
            memory=room.memory,
            cpus=room.cpus,
            fits=room.fits,
            indices=array,
            throttle=throttle,
            held="h" in chosen,
            after=self._after(chosen),
            priority=self._priority(chosen),
            depend=self._depend(attributes),
            output=_path(chosen.get("o")),
            error=_path(chosen.get("e")),
            join=chosen.get("j", "n"),
            keep=chosen.get("k", "n"),
            mail=chosen.get("m", "a"),
            account=chosen.get("A"),
            rerunnable=chosen.get("r", "y") == "y",
            shell=chosen.get("S", "/bin/bash"),
            start_in=chosen.get("d"),
        )

    def asked(self, options: Sequence[Option]) -> tuple[dict[str, str], dict[str, str]]:
        """All that -l asks for and all that -W sets; a later word replaces an earlier one."""
        resources: dict[str, str] = {}
        attributes: dict[str, str] = {}
        for option, text in options:
            if option in ("l", "W"):
                # A comma separates what is followed by a name and "="; others belong to a value.
                pairs = re.split(r",(?=\w+=)", text)
                wanted = resources if option == "l" else attributes
                wanted.update((name, value) for name, _, value in (pair.partition("=") for pair in pairs))
        return resources, attributes

    def checked(self, asked: Mapping[str, str], known: Sequence[str]) -> dict[str, str]:
        """The same, its times as PBS writes them.  Raises `Refused` for what is unknown or no value."""
        found = {}
        for name, text in asked.items():
            if name not in known:
                raise self.unknown_resource(name)
            try:
                found[name] = _normal(name, text)
            except ValueError as error:
                raise self.bad_resource(name) from error
        return found

    @abstractmethod
    def resources(self, asked: Mapping[str, str]) -> dict[str, str]:
        """All resources of a job that has asked for these.  Raises `Refused`."""

    @abstractmethod
    def room(self, resources: Mapping[str, str]) -> Room:
        """What they come to.  Raises `Refused`."""

    @abstractmethod
    def array(
        self, chosen: Mapping[str, str], attributes: Mapping[str, str]
    ) -> tuple[Optional[tuple[int, ...]], int]:
        """The indices of an array, None if it is none, and its throttle.  Raises `Refused`."""

    @abstractmethod
    def origin(self, call: Call) -> dict[str, str]:
        """The variables that say where a job comes from."""

    @abstractmethod
    def check_name(self, name: str) -> None:
        """Raise `Refused` if no job can have this name."""

    @abstractmethod
    def check_attributes(self, attributes: Mapping[str, str]) -> None:
        """Raise `Refused` for what -W cannot set."""

    def check_parents(self, unknown: Sequence[str]) -> None:
        """Raise `Refused` if a job cannot depend on these, which do not exist."""
        return

    @abstractmethod
    def new_throttle(self, chosen: Mapping[str, str], attributes: Mapping[str, str]) -> Optional[int]:
        """The throttle that options of qalter give an array."""

    # Refusals

    @abstractmethod
    def bad_value(self, option: str) -> Refused:
        """An option of qsub has a value that it cannot have."""

    @abstractmethod
    def unknown_queue(self) -> Refused:
        """There is no such queue."""

    @abstractmethod
    def unknown_resource(self, name: str) -> Refused:
        """There is no such resource."""

    @abstractmethod
    def bad_resource(self, name: str) -> Refused:
        """A resource cannot have that value."""

    @abstractmethod
    def queue_full(self, owner: str) -> Refused:
        """The user has as many jobs as a user can have."""

    @abstractmethod
    def no_script(self, path: str, error: OSError) -> Refused:
        """The script cannot be read."""

    @abstractmethod
    def root(self) -> Refused:
        """Root submits no jobs here."""

    @abstractmethod
    def unknown(self, command: str, operand: str) -> Refused:
        """A command other than qstat is given a job that does not exist."""

    @abstractmethod
    def finished(self, command: str, job: Job) -> Refused:
        """A command other than qstat is given a job that has ended."""

    # Jobs by their ids

    def keys(self, operand: str) -> list[str]:
        """The ids of jobs that an operand of a command means, with the server's name."""
        return [operand if "." in operand else f"{operand}.{SERVER}"]

    def operands(self, options: Sequence[Option], operands: Sequence[str]) -> Sequence[str]:
        """The operands that a command other than qsub and qstat has after its options are considered."""
        return operands

    def deletes_nothing(self, jobs: Sequence[Job]) -> bool:
        """Whether qdel for these together says that all is well, and does nothing."""
        return False

    # Running

    @abstractmethod
    def environment(self, job: Job) -> Mapping[str, str]:
        """The variables of a job that has got its CPUs, beside those that it was submitted with."""

    def limits(self, job: Job) -> list[str]:
        """Lines for the shell that starts a job, which limit what it can use."""
        return []

    def output_path(self, job: Job, stream: str) -> str:
        """Where the job's ``o``utput or ``e``rrors are to go."""
        asked = job.request.output if stream == "o" else job.request.error
        path = self.usual_name(job, stream) if asked is None else self.element_path(job, asked)
        return os.path.join(job.request.directory, path)

    @abstractmethod
    def usual_name(self, job: Job, stream: str) -> str:
        """The name of the file if nobody has chosen one."""

    @abstractmethod
    def element_path(self, job: Job, path: str) -> str:
        """What becomes of a chosen path in an element of an array."""

    # Comments on jobs

    @abstractmethod
    def waiting(self, job: Job) -> str:
        """On one that finds no room."""

    @abstractmethod
    def started(self, job: Job) -> str:
        """On one that is being started, or an array of which the first element is."""

    @abstractmethod
    def ended(self, job: Job, last: Job) -> str:
        """On one that has ended; `last` is the job itself, or the element of it that has ended last."""

    # Parts of a request

    def _after(self, chosen: Mapping[str, str]) -> float:
        text = chosen.get("a")
        if text is None:
            return 0.0
        now = datetime.now()
        date, _, seconds = text.partition(".")
        full = now.strftime("%Y%m%d%H%M")[: max(0, 12 - len(date))] + date
        try:
            return datetime.strptime(f"{full}{seconds or '00'}", "%Y%m%d%H%M%S").timestamp()
        except ValueError as error:
            raise self.bad_value("a") from error

    def _priority(self, chosen: Mapping[str, str]) -> int:
        text = chosen.get("p", "0")
        if not re.fullmatch(r"[+-]?\d{1,4}", text):
            raise self.bad_value("p")
        return int(text)

    def _depend(self, attributes: Mapping[str, str]) -> tuple[Dependency, ...]:
        found = []
        for part in filter(None, attributes.get("depend", "").split(",")):
            kind, *operands = part.split(":")
            if kind not in self.dependencies or not operands:
                raise self.bad_value("W")
            found.append(Dependency(kind, tuple(key for operand in operands for key in self.keys(operand))))
        return tuple(found)


def _normal(name: str, text: str) -> str:
    if name in TIMES:
        return format_time(parse_time(text))
    if name in SIZES:
        parse_size(text)
    elif name in NUMBERS:
        int(text)
    return text


def _path(text: Optional[str]) -> Optional[str]:
    """A path without the host before it, since there is but one."""
    return None if text is None else re.sub(r"^[\w.-]*:", "", text)


def _variables(chosen: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """What -V and -v add."""
    found = dict(environ) if "V" in chosen else {}
    for match in re.finditer(r"""(\w+)(?:=("[^"]*"|'[^']*'|[^,]*))?(?:,|$)""", chosen.get("v", "")):
        name, value = match.groups()
        found[name] = environ.get(name, "") if value is None else value.strip("'\"")
    return found
