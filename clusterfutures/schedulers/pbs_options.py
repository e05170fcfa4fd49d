"""The words for qsub that the kinds of PBS write alike, and how they divide a job into parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from clusterfutures.errors import OptionError
from clusterfutures.resources import format_mem

Words = Callable[[Any], list[str]]
"""Makes words for qsub of the checked value of an option (:mod:`clusterfutures.resources`)."""


def option(flag: str) -> Words:
    """An option whose value is a word of its own."""
    return lambda value: [flag, str(value)]


def queue(name: str) -> list[str]:
    """Words for one queue, which may be that of another server ("queue@server")."""
    if "," in name:
        raise OptionError(f"partition: PBS takes one queue, not {name!r}")
    return ["-q", name]


def begin(moment: str) -> list[str]:
    """Words for a time before which a job does not start; see the POSIX utility qsub.

    >>> begin("2026-11-21T13:30:10")
    ['-a', '202611211330.10']
    """
    iso = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", moment)
    if iso:
        moment = "".join(iso.groups()[:5]) + "." + iso[6]
    if not re.fullmatch(r"(\d\d){2,6}(\.\d\d)?", moment):
        raise OptionError(f"begin: PBS takes a datetime or [[[[CC]YY]MM]DD]hhmm[.SS], not {moment!r}")
    return ["-a", moment]


def priority(number: int) -> list[str]:
    """Words for a place in the queue."""
    if not -1024 <= number <= 1023:
        raise OptionError(f"priority: PBS takes -1024 to 1023, not {number}")
    return ["-p", str(number)]


def nice(steps: int) -> list[str]:
    """Words for so many steps back in the queue."""
    if not -1023 <= steps <= 1024:
        raise OptionError(f"nice: PBS takes -1023 to 1024, not {steps}")
    return ["-p", str(-steps)]


def hold(wanted: bool) -> list[str]:
    """Words for a job that starts when it is released (qrls)."""
    return ["-h"] if wanted else []


def requeue(wanted: bool) -> list[str]:
    """Words that say whether a job may be run anew."""
    return ["-r", "y" if wanted else "n"]


MAIL = {"BEGIN": "b", "END": "e", "FAIL": "a", "ALL": "abe", "NONE": "n"}


def mail(events: str) -> list[str]:
    """Words that say of which events mail is sent."""
    for event in events.split(","):
        if event not in MAIL:
            raise OptionError(f"mail: PBS sends mail of {', '.join(MAIL)}, and not of {event}")
    letters = {letter for event in events.split(",") for letter in MAIL[event]}
    return ["-m", "".join(sorted(letters))]


def extra(words: tuple[str, ...]) -> list[str]:
    """Those that the user gave; what comes behind ``-l`` goes where all other such does."""
    return [word for word in words if not word.startswith("-l")]


def dependency(kinds: Iterable[str], translate: Callable[[str, str], str]) -> Words:
    """Words for jobs to wait for, which `translate` gives the kind and id of each as "kind:id"."""

    def words(depends: str) -> list[str]:
        parts = []
        for part in depends.split(","):
            kind, *ids = part.split(":")
            if kind not in kinds or not ids:
                raise OptionError(f"depends: PBS has no {part!r}; it knows {', '.join(kinds)}")
            parts += [translate(kind, job) for job in ids]
        return ["-W", "depend=" + ",".join(parts)]

    return words


FLAGS: dict[str, Words] = {
    "partition": queue,
    "account": option("-A"),
    "begin": begin,
    "hold": hold,
    "nice": nice,
    "priority": priority,
    "requeue": requeue,
    "mail": mail,
    "mail_user": option("-M"),
    "stdout": option("-o"),
    "stderr": option("-e"),
    "extra": extra,
}
"""What TORQUE and OpenPBS write alike."""

ADVICE = {
    "cluster": "partition='queue@server' submits to another server",
    "exclude": "nodelist=, features= or another queue may do",
}


# ---- what a job may use -------------------------------------------------------------------------


class Chunks(NamedTuple):
    """A job as PBS sees it: so many equal parts, each on one node, of `tasks` tasks with `cores` CPUs."""

    number: int
    tasks: int
    cores: int

    @property
    def cpus(self) -> int:
        """Those of one part."""
        return self.tasks * self.cores


def chunks(resources: Mapping[str, Any]) -> Chunks:
    """The parts of a job.  Raises :class:`OptionError` where they would not be equal."""
    nodes, tasks, each = (resources.get(name) for name in ("nodes", "tasks", "tasks_per_node"))
    hosts = len(_hosts(resources))
    if isinstance(nodes, str):
        raise OptionError(f"nodes: PBS takes a number of nodes, not {nodes!r}")
    if nodes is not None and hosts > nodes:
        raise OptionError(f"nodelist: it names {hosts} nodes, and nodes={nodes}")
    count = nodes or max(hosts, (tasks or 1) // (each or 1), 1)
    each = each or max((tasks or 1) // count, 1)
    if tasks is not None and tasks != count * each:
        raise OptionError(f"tasks: {tasks} cannot be shared out evenly, {each} on each of {count} nodes")
    if count > 1 and not nodes and "mem" in resources:
        raise OptionError("mem: PBS would give so much to each task; say nodes= as well, or mem_per_cpu=")
    return Chunks(count, each, resources.get("cores", 1))


def parts(resources: Mapping[str, Any], of_each: Iterable[str], host: str) -> str:
    """All parts of a job, of which each has `of_each`; `host` is how the name of a node is written.

    >>> parts({"nodes": 3, "nodelist": "n1,n2"}, ["ppn=4"], "{}")
    'n1:ppn=4+n2:ppn=4+1:ppn=4'
    """
    hosts = _hosts(resources)
    heads = [host.format(name) for name in hosts]
    others = chunks(resources).number - len(hosts)
    heads += [str(others)] if others else []
    return "+".join(":".join([head, *of_each]) for head in heads)


def _hosts(resources: Mapping[str, Any]) -> list[str]:
    hosts = resources["nodelist"].split(",") if "nodelist" in resources else []
    for name in hosts:
        if not re.fullmatch(r"[\w.-]+", name):
            raise OptionError(f"nodelist: PBS takes names of single nodes, not {name!r}")
    return hosts


def walltime(limit: int) -> str:
    """A time in seconds as PBS writes it.

    >>> walltime(131400)
    '36:30:00'
    """
    minutes, second = divmod(limit, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02}:{minute:02}:{second:02}"


def size(number: int) -> str:
    """A size in bytes as PBS writes it.

    >>> size(3 * 2**29)
    '1536mb'
    """
    return format_mem(number).lower() + "b"


def features(expression: str) -> list[str]:
    """The names of features that a node must have, all of them.

    >>> features("ib&avx512")
    ['ib', 'avx512']
    """
    names = re.split("[&,]", expression)
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name):
            raise OptionError(f"features: PBS takes names that are joined by '&', not {expression!r}")
    return names
