"""The options of executors: what they are called, what they may be, and what is wrong with them."""

from __future__ import annotations

import math
import operator
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from datetime import timedelta
from numbers import Real
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import OptionError
from clusterfutures.resources import ELSEWHERE, check_resources, known_names
from clusterfutures.retries import check_retries
from clusterfutures.specification import SLOTS

CONTRACT = ("max_workers", "mp_context", "initializer", "initargs")
"""What every executor takes beside its options."""

TASK_OPTIONS = ("retries", "timeout")
"""Options that can differ from task to task: ``ex.options(...)``."""

EXECUTOR_OPTIONS = (
    *TASK_OPTIONS,
    "cwd",
    "doorbell",
    "env",
    "keep",
    "max_tasks_per_child",
    "orphan",
    "orphan_timeout",
    "python",
    "run_dir",
    "setup",
)

CLUSTER_OPTIONS = ("arrays", "host", "idle_timeout", "job_per_task", "max_queued", "workers_per_job")
"""Options of executors whose jobs run on other machines, beside those that describe a job."""

IDLE_TIMEOUT = 300.0  # seconds

KEEP = ("failed", "always", "never")
ORPHAN = ("drain", "kill", "keep")


class ExecutorOptions(NamedTuple):
    """An executor's options, checked."""

    max_workers: int
    max_tasks_per_child: Optional[int]
    run_dir: Optional[str]
    keep: str
    python: Optional[list[str]]
    setup: list[str]
    env: dict[str, Optional[str]]
    cwd: Optional[str]
    doorbell: bool
    orphan: str
    orphan_timeout: Optional[float]
    resources: dict[str, Any]
    arrays: bool
    host: Optional[str]
    idle_timeout: Optional[float]
    workers_per_job: int
    job_per_task: bool
    max_queued: float


def check_executor(
    options: Mapping[str, Any], max_workers: object, initializer: object, cluster: bool = False
) -> ExecutorOptions:
    """Check what an executor was given; raises OptionError, or what ProcessPoolExecutor would raise.

    `cluster`: its jobs run on other machines, and the options that describe a job are known as well.
    """
    own, resources = _split(options, cluster)
    options = own
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    checked = ExecutorOptions(
        max_workers=whole_number("max_workers", max_workers, least=1),
        max_tasks_per_child=_max_tasks(options.get("max_tasks_per_child")),
        run_dir=_path("run_dir", options.get("run_dir")),
        keep=_choice("keep", options.get("keep", "failed"), KEEP),
        python=_command(options.get("python")),
        setup=_lines(options.get("setup")),
        env=_environment(options.get("env")),
        cwd=_path("cwd", options.get("cwd")),
        doorbell=_switch("doorbell", options.get("doorbell", True)),
        orphan=_choice("orphan", options.get("orphan", "drain"), ORPHAN),
        orphan_timeout=_seconds("orphan_timeout", options.get("orphan_timeout")),
        resources=resources,
        arrays=_switch("arrays", options.get("arrays", True)),
        host=_word("host", options.get("host")),
        idle_timeout=_seconds("idle_timeout", options.get("idle_timeout", IDLE_TIMEOUT if cluster else None)),
        workers_per_job=_workers_per_job(options.get("workers_per_job", 1)),
        job_per_task=_switch("job_per_task", options.get("job_per_task", False)),
        max_queued=_max_queued(options.get("max_queued")),
    )
    if checked.job_per_task and checked.workers_per_job > 1:
        raise OptionError("job_per_task and workers_per_job exclude each other: give one of them")
    if checked.max_queued < math.inf and not checked.job_per_task:
        raise OptionError("max_queued is for job_per_task=True: a pool has max_workers")
    return checked


def _split(options: Mapping[str, Any], cluster: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that this module knows, by their own names, and the checked ones that describe a job."""
    known = {*EXECUTOR_OPTIONS, *(CLUSTER_OPTIONS if cluster else ())}
    describing = known_names() if cluster else ()
    own: dict[str, Any] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        true_name = ELSEWHERE.get(name, name)
        if true_name in known:
            if true_name in own:
                raise OptionError(f"{given[true_name]} and {name} are the same option: give one of them")
            own[true_name], given[true_name] = value, name
        elif name not in describing:
            raise _refusal(name, (*known, *describing, *CONTRACT), cluster)
    return own, check_resources({name: options[name] for name in options if name in describing})


def _refusal(name: str, usable: Iterable[str], cluster: bool) -> OptionError:
    """The error for an option that cannot be given where the `usable` ones can."""
    if not cluster and name in (*CLUSTER_OPTIONS, *known_names()):
        return OptionError(
            f"unknown option {name!r}: it describes jobs on a cluster; SlurmExecutor and TorqueExecutor have "
            "it, and get_executor() takes it everywhere"
        )
    if ELSEWHERE.get(name, name) in (*CONTRACT, *EXECUTOR_OPTIONS, *CLUSTER_OPTIONS):
        return OptionError(f"{name} is an option of the executor, not of single tasks")
    return OptionError.unknown(name, usable)


def check_initargs(value: Any) -> tuple[Any, ...]:
    """The initializer's arguments; raises TypeError for what is no sequence of them, as is a lone text."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"initargs must be a tuple of arguments, not {value!r}")
    return tuple(value)


def whole_number(name: str, value: Any, least: int) -> int:
    """`value` if it is an integer of `least` or more; else TypeError or ValueError, as from the stdlib."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    number = operator.index(value)  # numpy's integers, too
    if number < least:
        bound = f"greater than {least - 1}" if least else "0 or more"
        raise ValueError(f"{name} must be {bound}, not {number}")
    return number


def patience(name: str, value: Any) -> Optional[float]:
    """The seconds that somebody will wait, perhaps none, or None: for ever; raises TypeError."""
    if isinstance(value, bool) or not (value is None or isinstance(value, Real)):
        raise TypeError(f"{name} must be a number of seconds or None, not {value!r}")
    return None if value is None else float(value)


def job_options(options: Mapping[str, Any], cluster: bool) -> dict[str, Any]:
    """Those of the options of some tasks that describe a job, checked.

    `name` is here that of the tasks and not of a job.  Raises OptionError for any other that is none of
    TASK_OPTIONS.  `cluster` is as in `check_executor`.
    """
    usable = (*TASK_OPTIONS, "name", *(known_names() if cluster else ()))
    for name in options:
        if name not in usable:
            raise _refusal(name, usable, cluster)
    of_tasks = (*TASK_OPTIONS, "name")
    return check_resources({name: value for name, value in options.items() if name not in of_tasks})


def task_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The TASK_OPTIONS among the options, checked."""
    return {name: task_option(name, options[name]) for name in TASK_OPTIONS if name in options}


def task_option(name: str, value: Any) -> Any:
    """The checked value of one of the TASK_OPTIONS; None is its default."""
    if name == "timeout":
        return _seconds(name, value) or 0.0
    return check_retries(value)


def task_name(value: Any) -> str:
    """The name that some tasks are given; None is none."""
    if value is not None and not isinstance(value, str):
        raise OptionError(f"name must be text, not {value!r}")
    return value or ""


def _max_tasks(value: Any) -> Optional[int]:
    if value is None:
        return None
    return whole_number("max_tasks_per_child", value, least=1)


def _workers_per_job(value: Any) -> int:
    count = whole_number("workers_per_job", value, least=1)
    if count > SLOTS:
        raise OptionError(f"workers_per_job must be at most {SLOTS}, not {count}")
    return count


def _max_queued(value: Any) -> float:
    return math.inf if value is None else whole_number("max_queued", value, least=1)


def _path(name: str, value: Any) -> Optional[str]:
    if value is None:
        return None
    try:
        path = os.fspath(value)
    except TypeError:
        raise OptionError(f"{name} must be a path, not {value!r}") from None
    if isinstance(path, bytes) or "\0" in path:
        raise OptionError(f"{name} must be a path of text, not {value!r}")
    if not path:
        raise OptionError(f"{name} must not be empty")
    return str(path)


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise OptionError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, not {value!r}")
    return value


def _word(name: str, value: Any) -> Optional[str]:
    if value is not None and (not isinstance(value, str) or not re.fullmatch(r"[!-~]+", value)):
        raise OptionError(f"{name} must be a name or an address, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> Optional[float]:
    try:
        seconds = patience(name, value.total_seconds() if isinstance(value, timedelta) else value)
    except TypeError:
        seconds = math.nan
    if seconds is not None and not 0 < seconds < math.inf:
        raise OptionError(f"{name} must be a number of seconds above 0, or a timedelta, not {value!r}")
    return seconds


def _command(value: Any) -> Optional[list[str]]:
    if value is None:
        return None
    words: list[Any]
    try:
        if isinstance(value, os.PathLike):
            value = [value]
        words = shlex.split(value) if isinstance(value, str) else [os.fspath(word) for word in value]
    except (TypeError, ValueError):
        words = []
    if not words or not words[0] or not all(isinstance(word, str) and "\0" not in word for word in words):
        hint = "'python3.11' or 'apptainer exec image.sif python3'"
        raise OptionError(f"python must be a command, as {hint}, not {value!r}")
    return words


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    many = isinstance(value, Iterable) and not isinstance(value, str)
    lines: list[Any] = list(value) if many else [value]
    if not all(isinstance(line, str) and "\0" not in line for line in lines):
        raise OptionError(f"setup must be shell lines, not {value!r}")
    return lines


def _environment(value: Any) -> dict[str, Optional[str]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"env must map names to values (None unsets), not be {value!r}")
    for name, content in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise OptionError(f"env: {name!r} cannot be the name of a variable")
        if content is not None and (not isinstance(content, str) or "\0" in content):
            raise OptionError(f"env: the value of {name} must be text or None, not {content!r}")
    return dict(value)
