"""The options that describe a job to a scheduler: what it may use, where and when it queues.

One table for all schedulers, and nothing in it is about a particular one.  Each option has a neutral name,
synonyms (what Slurm and PBS call it), and a kind; the kind's check turns what the user gave into the one form
that every scheduler renders from, and the check's own docstring says which.  :func:`check_resources` applies
the table.  A scheduler refuses what it cannot express itself, by name.

The forms of time and memory are those of ``sbatch`` (its manual page, ``--time`` and ``--mem``), and more.
"""

from __future__ import annotations

import math
import operator
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple, Union

from clusterfutures.errors import OptionError

ELSEWHERE = {"export": "env", "workdir": "cwd"}
"""Slurm's names for options that are not about a job's resources but every executor's."""

EXCLUSIVE = ("user", "mcs")
"""With whom an exclusive job may share its nodes: the same user's jobs, those of the same security label."""

MAIL = (
    *("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT"),
    *("TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS"),
)
"""What mail can be about."""


class Kind(NamedTuple):
    """What a value may be: in words that follow "must be", and the check.

    The check returns the value in its normal form.  It raises ValueError, TypeError or OverflowError, with
    or without a reason, for what it cannot read.
    """

    words: str
    check: Callable[[Any], Any]


class Option(NamedTuple):
    """An option of a job.

    `example` is a value as it stands in Python source; `help` is what it means, in a few words.
    """

    name: str
    synonyms: tuple[str, ...]
    kind: Kind
    help: str
    example: str


# ---- checks: the normal form of each kind -------------------------------------------------------


def _text(value: Any) -> str:
    """Any text that can be a word of a command."""
    if not isinstance(value, str) or not value:
        raise ValueError
    if "\0" in value:
        raise ValueError("no command can be given a NUL character")
    os.fsencode(value)  # nor a lone surrogate: it raises UnicodeEncodeError, a ValueError
    return value


def _line(value: Any) -> str:
    """Text without control characters: names of things that an administrator has set up."""
    text = _text(value)
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("it holds a line end or another control character")
    return text


def _names(value: Any) -> str:
    """Names, joined by commas."""
    return ",".join(map(_line, _items(value)))


def _path(value: Any) -> str:
    """A path, or a pattern of paths."""
    return _text(os.fspath(value))


def _switch(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError
    return value


def _integer(value: Any) -> int:
    """An integer.  Its digits as text are one too: files and command lines have nothing else."""
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", value):
            raise ValueError
        return int(value)
    return operator.index(value)  # numpy's integers, too


def _count(value: Any) -> int:
    """An integer of 1 or more."""
    number = _integer(value)
    if number < 1:
        raise ValueError
    return number


def _nodes(value: Any) -> Union[int, str]:
    """An integer of 1 or more, or "least-most" as text."""
    between = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", value) if isinstance(value, str) else None
    if not between:
        return _count(value)
    least, most = map(int, between.groups())
    if not 1 <= least <= most:
        raise ValueError
    return f"{least}-{most}"


def _gpus(value: Any) -> Union[int, str]:
    """An integer of 1 or more, or "type:count" as text."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]+:[1-9][0-9]{0,8}", value):
        return value
    return _count(value)


def _exclusive(value: Any) -> Union[bool, str]:
    """True, False (as if it were not given), or one of EXCLUSIVE."""
    if isinstance(value, str) and value in EXCLUSIVE:
        return value
    return _switch(value)


def _modules(value: Any) -> tuple[str, ...]:
    """The names of environment modules, in order."""
    names = _items(value.split() if isinstance(value, str) else value)
    for name in map(_line, names):
        if name.split() != [name]:
            raise ValueError(f"{name!r} is not one name")
    return tuple(names)


def _extra(value: Any) -> tuple[str, ...]:
    """Words for the submit command, each an option of its own."""
    words = _items(shlex.split(value) if isinstance(value, str) else value)
    for word in map(_text, words):
        if not re.match(r"--?[A-Za-z]", word):
            raise ValueError(f"{word!r} is no option; join an option and its value in one word")
    return tuple(words)


def _begin(value: Any) -> str:
    """A time in ISO form, in local time and whole seconds; or text as the scheduler takes it."""
    if not isinstance(value, datetime):
        return _line(value)
    local = value.astimezone() if value.tzinfo else value  # schedulers know no zones
    return local.replace(tzinfo=None).isoformat(timespec="seconds")


def _depends(value: Any) -> str:
    """A dependency as Slurm writes it: "type:job:job,type:job"."""
    if isinstance(value, str) and re.fullmatch(r"singleton\S*|[a-z]+:\S+", value):
        return _line(value)
    return "afterok:" + ":".join(map(_job_id, _items(value)))


def _job_id(value: Any) -> str:
    """A job's id: "12", an array's element "12_3" or "12[3].server", an array "12[].server"."""
    job = str(value).partition(";")[0]  # sbatch prints "12;cluster"; a dependency takes the number alone
    if not re.fullmatch(r"[0-9]+(_[0-9]+|\[[0-9]*\])?(\.[A-Za-z][\w.-]*)?", job, re.ASCII):
        raise ValueError(f"{value!r} is no job id")
    return job


def _mail(value: Any) -> str:
    """Some of MAIL, joined by commas."""
    kinds = [kind.strip() for kind in _names(value).upper().split(",")]
    for kind in kinds:
        if kind not in MAIL:
            raise ValueError(f"{kind!r} is none of {', '.join(MAIL)}")
    return ",".join(kinds)


def _signal(value: Any) -> str:
    """A signal's name without SIG, and "@seconds" if the time was given."""
    which, *when = value.split("@") if isinstance(value, str) else _items(value)
    name = _signal_name(which)
    if not when:
        return name
    if len(when) > 1:
        raise ValueError
    seconds = _integer(when[0])
    if not 0 <= seconds <= 65535:
        raise ValueError("the time is 0 to 65535 seconds")
    return f"{name}@{seconds}"


def _signal_name(value: Any) -> str:
    if isinstance(value, str):
        # Slurm's "B:", to signal the batch shell, is what is done anyway: the supervisor is in its place.
        value = value.upper().removeprefix("B:").removeprefix("SIG")
        if f"SIG{value}" in signal.Signals.__members__:
            return str(value)
    return signal.Signals(_integer(value)).name.removeprefix("SIG")


def _items(value: Any) -> list[Any]:
    """The items of a list, at least one, or a lone value as the only one."""
    lone = isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable)
    items = [value] if lone else list(value)
    if not items:
        raise ValueError("it is empty")
    return items


# ---- time and memory ----------------------------------------------------------------------------

_SECONDS = (86400, 3600, 60, 1)
"""In a day, an hour, a minute, a second."""

_LIMITS = (math.inf, 24, 60, 60)
"""What the same may not reach behind a larger one."""

_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)"

_CLOCK = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?")
"""As Slurm writes a time: M:S, H:M:S, D-H, D-H:M, D-H:M:S."""

_SPAN = re.compile(r"\s*".join(rf"(?:{_NUMBER}\s*{unit})?" for unit in "dhms"))
"""As people write it: 1d12h, 90m, 1.5h, 1h 30m."""

_SIZE = re.compile(rf"{_NUMBER}\s*([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)


def _time(value: Any) -> int:
    """Seconds, rounded up, above 0."""
    if isinstance(value, timedelta):
        seconds = -(-value // timedelta(seconds=1))
    else:
        text = _with_unit(value, "'{0}m' for minutes, as Slurm would read it, or '{0}s' for seconds, as PBS")
        seconds = _seconds(text)
    if seconds <= 0:
        raise ValueError("it is not above 0")
    return seconds


def _seconds(text: str) -> int:
    clock = _CLOCK.fullmatch(text)
    if clock:
        numbers = [int(number) for number in clock.groups() if number]
        # With days they are counted from the left (D-H), else from the right (M:S).
        start = 0 if clock[1] else len(_SECONDS) - len(numbers)
        for number, limit in zip(numbers[1:], _LIMITS[start + 1 :]):
            if number >= limit:
                raise ValueError(f"the {number} in it must be below {limit}")
        return sum(number * unit for number, unit in zip(numbers, _SECONDS[start:]))
    span = _SPAN.fullmatch(text)
    if not span or not text:
        raise ValueError
    return math.ceil(sum(Fraction(number) * unit for number, unit in zip(span.groups(), _SECONDS) if number))


def _mem(value: Any) -> int:
    """Bytes, rounded up, above 0."""
    text = _with_unit(value, "'{0}G' for gigabytes, or '{0}M' for megabytes, as Slurm would read it")
    size = _SIZE.fullmatch(text)
    if not size:
        raise ValueError
    number, unit = size.groups()
    found = math.ceil(Fraction(number) * (1 << 10 * ("KMGT".index(unit.upper()) + 1)))
    if not found:
        raise ValueError("it is not above 0")
    return found


def _with_unit(value: Any, advice: str) -> str:
    """`value` without blanks around it, if it is text and more than a bare number."""
    text = str(value).strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
        raise ValueError(f"{text} what? Write {advice.format(text)}")
    if not isinstance(value, str):
        raise ValueError
    return text


def format_time(seconds: int) -> str:
    """A time in seconds as Slurm writes it.

    >>> format_time(5400), format_time(131400)
    ('01:30:00', '1-12:30:00')
    """
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{days}-{clock}" if days else clock


def format_mem(size: int) -> str:
    """A size in bytes as Slurm writes it: whole, in the largest of K, M, G and T that it fills exactly.

    What is no multiple of 1024 is rounded up: a job must not get less than it asked for.

    >>> format_mem(8 * 2**30), format_mem(3 * 2**29), format_mem(1025)
    ('8G', '1536M', '2K')
    """
    number = -(-size // 1024)
    unit = "K"
    for larger in "MGT":
        if number % 1024:
            break
        number //= 1024
        unit = larger
    return f"{number}{unit}"


# ---- the table ----------------------------------------------------------------------------------

TEXT = Kind("text", _text)
LINE = Kind("text in one line", _line)
NAMES = Kind("a name, or a list of names", _names)
PATH = Kind("a path, perhaps with the scheduler's own patterns", _path)
SWITCH = Kind("True or False", _switch)
INTEGER = Kind("an integer", _integer)
COUNT = Kind("an integer of 1 or more", _count)
NODES = Kind("a number of nodes, or its range", _nodes)
GPUS = Kind("a number of GPUs, or a type and a number", _gpus)
TIME = Kind("a time with units, a timedelta or D-HH:MM:SS", _time)
MEMORY = Kind("an amount of memory with its unit", _mem)
SHARE = Kind("True, False, " + " or ".join(map(repr, EXCLUSIVE)), _exclusive)
MOMENT = Kind("a datetime, or text as the scheduler takes it", _begin)
DEPENDENCY = Kind("a job's id, a list of them, or text as Slurm writes it", _depends)
MAILS = Kind("a list of what to be told of", _mail)
SIGNAL = Kind("a signal, perhaps with seconds", _signal)
MODULES = Kind("names of modules", _modules)
EXTRA = Kind("a list of options that start with '-'", _extra)

GROUPS: dict[str, tuple[Option, ...]] = {
    "Its name and queue": (
        Option("name", ("job_name",), TEXT, "name in the queue", '"misfit"'),
        Option("partition", ("queue",), NAMES, "partition or queue", '"day"'),
        Option("account", (), LINE, "account that is charged", '"seismo"'),
        Option("qos", (), LINE, "quality of service", '"long"'),
        Option("reservation", (), NAMES, "reservation to run in", '"workshop"'),
        Option("cluster", ("clusters",), NAMES, "cluster to submit to, if not this one", '"north"'),
        Option("comment", (), TEXT, "remark kept with the job", '"second try"'),
    ),
    "What it may use": (
        Option("time", ("walltime",), TIME, "time limit", '"2h"'),
        Option("cores", ("cpus", "cpus_per_task"), COUNT, "CPUs of each task", "4"),
        Option("mem", ("memory",), MEMORY, "memory on each node", '"8G"'),
        Option("mem_per_cpu", (), MEMORY, "memory for each CPU", '"2G"'),
        Option("nodes", (), NODES, "number of nodes", '"2-4"'),
        Option("tasks", ("ntasks",), COUNT, "number of tasks, as of mpirun", "16"),
        Option("tasks_per_node", ("ntasks_per_node",), COUNT, "tasks on each node", "8"),
        Option("gpus", (), GPUS, "GPUs on each node", '"a100:2"'),
        Option("gres", (), NAMES, "generic resources of each node", '"nvme:1"'),
        Option("licenses", (), NAMES, "licenses", '"matlab:1"'),
    ),
    "On which nodes": (
        Option("features", ("constraint",), LINE, "features that nodes must have", '"ib&avx512"'),
        Option("nodelist", (), NAMES, "nodes that must be among them", '["n1", "n2"]'),
        Option("exclude", (), NAMES, "nodes that must not", '["n3", "n[7-9]"]'),
        Option("exclusive", (), SHARE, "no other jobs on its nodes", "True"),
    ),
    "When it starts": (
        Option("begin", (), MOMENT, "not before", '"now+1hour"'),
        Option("hold", (), SWITCH, "not before somebody releases it", "True"),
        Option("depends", ("dependency",), DEPENDENCY, "jobs that must end well first", "[1234, 1235]"),
        Option("nice", (), INTEGER, "step back in the queue by so much", "100"),
        Option("priority", (), INTEGER, "priority, where one may choose it", "500"),
    ),
    "When it ends": (
        Option("signal", (), SIGNAL, "warning, so many seconds before", '"USR1@120"'),
        Option("requeue", (), SWITCH, "queue it again after a lost node", "False"),
        Option("mail", ("mail_type",), MAILS, "send mail of these events", '["END", "FAIL"]'),
        Option("mail_user", (), LINE, "whom to send it to", '"ada@example.org"'),
    ),
    "In the job": (
        Option("modules", (), MODULES, "environment modules to load", '["gcc/12", "openmpi"]'),
        Option("stdout", ("output",), PATH, "file for its output", '"logs/%j.out"'),
        Option("stderr", ("error",), PATH, "file for its errors", '"logs/%j.err"'),
    ),
    "All else": (Option("extra", (), EXTRA, "options for the submit command", '["--switches=1"]'),),
}
"""The options, under headings for a help text."""

OPTIONS = {option.name: option for group in GROUPS.values() for option in group}
"""The options by their neutral names."""

_BY_NAME = {name: option for option in OPTIONS.values() for name in (option.name, *option.synonyms)}


RIVALS = (("mem", "mem_per_cpu"), ("gpus", "gres"))
"""Two ways to ask for the same."""


# ---- applying it --------------------------------------------------------------------------------


def check_resources(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the user set, under neutral names, in normal form and in the order of the table.

    None and an empty list mean "not set".  Raises OptionError, in the user's words, for an option that is
    unknown or cannot be read, is given under two names, or contradicts another one.

    >>> check_resources({"walltime": "1d12h", "memory": "1.5G", "gpus": None})
    {'time': 129600, 'mem': 1610612736}
    """
    given: dict[str, str] = {}
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _BY_NAME:
            raise OptionError.unknown(name, known_names())
        if value is None or (isinstance(value, (list, tuple, set, frozenset)) and not value):
            continue
        option = _BY_NAME[name]
        if option.name in given:
            raise OptionError(f"{given[option.name]} and {name} are the same option: give one of them")
        given[option.name] = name
        found[option.name] = _checked(option, name, value)
    _refuse_contradictions(found, given)
    return {name: found[name] for name in OPTIONS if name in found}


def _checked(option: Option, name: str, value: Any) -> Any:
    """The normal form of `value`, which the user gave as `name`."""
    try:
        return option.kind.check(value)
    except (TypeError, ValueError, OverflowError) as error:
        reason = f": {error}" if str(error) else ""
        raise OptionError(
            f"{name} must be {option.kind.words}, as in {name}={option.example}, not {value!r}{reason}"
        ) from error


def _refuse_contradictions(found: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise OptionError for options that exclude each other; `given` has the user's names for them."""
    if "mem" in found and "mem_per_cpu" in found:
        raise OptionError(f"{given['mem']} and {given['mem_per_cpu']} exclude each other: give one of them")
    gres = found.get("gres", "").split(",")
    if "gpus" in found and any(resource.split(":")[0] == "gpu" for resource in gres):
        raise OptionError("gpus and gres both ask for GPUs: let one of them do it")


def changed(resources: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Checked resources with checked changes; what one of those excludes is dropped.

    >>> changed({"mem": 2**30, "cores": 2}, {"mem_per_cpu": 2**29})
    {'cores': 2, 'mem_per_cpu': 536870912}
    """
    dropped = {rival for pair in RIVALS for name, rival in (pair, pair[::-1]) if name in changes}
    found = {**{name: value for name, value in resources.items() if name not in dropped}, **changes}
    return {name: found[name] for name in OPTIONS if name in found}


def excluded(resources: Mapping[str, Any]) -> list[str]:
    """The names in the option `exclude` of checked resources; a scheduler's pattern is one, as it stands.

    >>> excluded({"exclude": "n1,n2"})
    ['n1', 'n2']
    """
    return [name for name in resources.get("exclude", "").split(",") if name]


def excluding(resources: Mapping[str, Any], node: str) -> dict[str, Any]:
    """The change to checked resources that keeps a job away from one node more.

    >>> excluding({"exclude": "n1"}, "n2")
    {'exclude': 'n1,n2'}
    """
    names = excluded(resources)
    return {"exclude": ",".join([*names, *([node] if node not in names else [])])}


def known_names() -> tuple[str, ...]:
    """Every name of every option, synonyms included."""
    return tuple(_BY_NAME)


def describe() -> str:
    """All options as a help text: names, meaning and an example, in aligned columns."""
    rows = {option.name: ", ".join((option.name, *option.synonyms)) for option in OPTIONS.values()}
    left = max(map(len, rows.values()))
    middle = max(len(option.help) for option in OPTIONS.values())
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += ["", title] if lines else [title]
        for option in group:
            example = f"{option.name}={option.example}"
            lines.append(f"  {rows[option.name]:<{left}}  {option.help:<{middle}}  {example}")
    return "\n".join(lines)
