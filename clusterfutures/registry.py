"""Executors by name, and which one this machine calls for.

A name is looked up among those that the program has registered, then those of this package, then the entry
points of installed packages, in the group :data:`GROUP`.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import OptionError
from clusterfutures.executor import Submitter, View
from clusterfutures.local import LocalExecutor
from clusterfutures.options import CLUSTER_OPTIONS, CONTRACT, check_executor
from clusterfutures.resources import known_names
from clusterfutures.retries import check_retries
from clusterfutures.schedulers.command import Completed, run
from clusterfutures.schedulers.pbs import recognised
from clusterfutures.schedulers.pbs_over_slurm import TorqueOverSlurm
from clusterfutures.serial import SerialExecutor
from clusterfutures.slurm import SlurmExecutor
from clusterfutures.torque import TorqueExecutor

log = logging.getLogger("clusterfutures")

VARIABLE = "CLUSTERFUTURES_EXECUTOR"
"""The environment variable that names an executor, where the program names none."""
GROUP = "clusterfutures.executors"
"""The group of entry points under which other packages offer theirs."""

VERSION_TELLERS = {"slurm": "sbatch", "torque": "qstat", "pbs": "qstat"}
"""What tells the version of what was found: the qsub of PBS has no word for that in common."""
PATIENCE = 10.0  # seconds for it

Factory = Callable[..., Executor]
"""Makes an executor of the options that it is given as keywords; a class of executors is one."""


# ---- one machine, and options that only a cluster has --------------------------------------------


class _Tolerant(Submitter):
    """Passes over what describes jobs, since it has none."""

    def options(self, **options: Any) -> View:
        """As of every other executor, without what describes a job."""
        name = {"name": options["name"]} if "name" in options else {}  # of tasks, not of a job
        return _TolerantView(self, super().options(**_without_jobs(options), **name)._policy)


class _TolerantView(_Tolerant, View):
    """What :meth:`_Tolerant.options` returns."""


class _TolerantLocal(_Tolerant, LocalExecutor):
    """A LocalExecutor for programs that were written for clusters as well."""


def _without_jobs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The checked `options` without those that only a cluster has."""
    rest = {name: value for name, value in options.items() if name not in CONTRACT}
    check_executor(rest, options.get("max_workers") or 1, options.get("initializer"), cluster=True)
    of_clusters = {*known_names(), *CLUSTER_OPTIONS}
    usable = {name: value for name, value in options.items() if name not in of_clusters}
    if "retries" in usable:
        usable["retries"] = check_retries(usable["retries"]).on_one_machine()
    return usable


def _here(kind: Factory, name: str) -> Factory:
    """Makes executors that use this machine alone, and says what they cannot use."""

    def make(**options: Any) -> Executor:
        usable = _without_jobs(options)
        if len(usable) < len(options):
            unused = ", ".join(option for option in options if option not in usable)
            log.info("the %s executor has no jobs, and no use for %s", name, unused)
        return kind(**usable)

    return make


# ---- names --------------------------------------------------------------------------------------

_OWN: dict[str, Factory] = {
    "slurm": SlurmExecutor,
    "torque": TorqueExecutor,
    "pbs": TorqueExecutor,
    "local": _here(_TolerantLocal, "local"),
    "serial": _here(SerialExecutor, "serial"),
}

_registered: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Have `get_executor` make what is called `name` by calling `factory` with the options.

    It takes the place of any other of that name, in this process.  Raises TypeError if it cannot be called.

    >>> from clusterfutures import SerialExecutor, get_executor, register
    >>> register("rehearsal", SerialExecutor)
    >>> with get_executor("rehearsal") as ex:
    ...     ex.submit(pow, 2, 5).result()
    32
    """
    if not callable(factory):
        raise TypeError(f"what makes executors must be callable, and {factory!r} is not")
    _registered[name] = factory


def names() -> list[str]:
    """All names that `get_executor` knows, sorted."""
    return sorted({*_registered, *_OWN, *_offered()})


def _offered() -> dict[str, EntryPoint]:
    """What installed packages offer; of several by the same name, the first one on ``sys.path``."""
    if sys.version_info >= (3, 10):
        found = list(entry_points(group=GROUP))
    else:
        found = list(entry_points().get(GROUP, ()))
    return {point.name: point for point in reversed(found)}


def _factory(name: str) -> Factory:
    """What makes the executor called `name`."""
    at_hand = {**_OWN, **_registered}
    if name in at_hand:
        return at_hand[name]
    offered = _offered()
    if name not in offered:
        raise _unknown(name)
    loaded: Factory = offered[name].load()
    return loaded


def _unknown(name: str, whence: str = "") -> OptionError:
    """The error for such a name; `whence` says where it came from."""
    known = names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return OptionError(f"unknown executor {name!r}{whence}{hint} There are: {', '.join(known)}")


def get_executor(name: Optional[str] = None, **options: Any) -> Executor:
    """An executor by its name, or the one that this machine calls for.

    `name` is "slurm", "torque" or "pbs", "local", "serial", or one that was added (:func:`register`, and
    entry points).  Without it, the environment variable ``CLUSTERFUTURES_EXECUTOR`` decides, and without
    that what :func:`detect` finds.  `options` are the executor's own, `max_workers` among them.  What only a
    cluster has, as `mem`, `time` and `partition`, is checked and passed over by "local" and "serial", also in
    ``ex.options(...)``.

    Raises OptionError for an unknown name, with the nearest one, and whatever the executor itself raises.

    >>> from clusterfutures import get_executor
    >>> with get_executor("local", max_workers=2, mem="8G", time="2h") as ex:
    ...     list(ex.map(pow, [2, 3], [10, 10]))
    [1024, 59049]
    """
    if name is not None:
        return _factory(name)(**options)
    choice = _choose(os.environ)
    log.info("the executor is %s: %s", choice.name, choice.reason)
    return _factory(choice.name)(**options)


# ---- what is here -------------------------------------------------------------------------------


class Detected(NamedTuple):
    """Which executor `get_executor` takes if the program names none; printed, it is one line.

    `name` is the executor's; `reason` says why it is this one.  `command` is the path of the command that
    submits its jobs, None if there is none, and `version` what it says of its version, "" if nothing.
    """

    name: str
    reason: str
    command: Optional[str] = None
    version: str = ""

    def __str__(self) -> str:
        what = ", ".join(part for part in (self.command, self.version) if part)
        return f"{self.name}: {self.reason}" + (f" ({what})" if what else "")


def detect(environ: Optional[Mapping[str, str]] = None) -> Detected:
    """What was found on this machine, and why `get_executor` takes it.

    `environ` stands in for ``os.environ``.  Raises OptionError if the variable names an unknown executor.

    >>> from clusterfutures import detect
    >>> print(detect({"PATH": ""}))
    local: neither sbatch nor qsub is on PATH
    """
    environ = os.environ if environ is None else environ
    choice = _choose(environ)
    teller = _which(VERSION_TELLERS.get(choice.name, ""), environ)
    if not choice.command or not teller:
        return choice
    done = _version(teller, environ)
    return _as_slurm(choice, done) if choice.name == "slurm" else _as_pbs(choice, done)


def _choose(environ: Mapping[str, str]) -> Detected:
    """What `environ` leads to, without calling anything."""
    sbatch, qsub = _which("sbatch", environ), _which("qsub", environ)
    name = environ.get(VARIABLE)
    if name:
        return _as_told(name, {"slurm": sbatch, "torque": qsub, "pbs": qsub})
    if sbatch:
        return Detected("slurm", "sbatch is on PATH", sbatch)
    if qsub:
        return Detected("torque", "qsub is on PATH, and sbatch is not", qsub)
    return Detected("local", "neither sbatch nor qsub is on PATH")


def _as_told(name: str, commands: Mapping[str, Optional[str]]) -> Detected:
    """The choice of the variable; `commands` are those that submit, where they were found."""
    if name not in names():
        raise _unknown(name, f" in {VARIABLE}")
    reason = f"{VARIABLE} says so"
    if name in commands and commands[name] is None:
        reason += ", but its commands are not on PATH"
    return Detected(name, reason, commands.get(name))


def _as_slurm(choice: Detected, done: Completed) -> Detected:
    lines = _lines(done)
    if done.code:
        return choice._replace(reason=f"{choice.reason}, but it does not work: {lines[-1]}")
    return choice._replace(version=lines[0])


def _as_pbs(choice: Detected, done: Completed) -> Detected:
    dialect = recognised(done)
    if dialect is None:
        return choice._replace(reason=f"{choice.reason}; which PBS it is, `qstat --version` does not tell")
    if isinstance(dialect, TorqueOverSlurm):
        return choice._replace(reason=f"{choice.reason}; it stands in front of Slurm")
    return choice._replace(reason=f"{choice.reason}; it is {dialect.title}", version=_lines(done)[0])


def _which(program: str, environ: Mapping[str, str]) -> Optional[str]:
    return shutil.which(program, path=environ.get("PATH", os.defpath))


def _version(path: str, environ: Mapping[str, str]) -> Completed:
    try:
        return run([path, "--version"], timeout=PATIENCE, environment=environ)
    except OSError as error:
        return Completed(-1, "", str(error))


def _lines(done: Completed) -> list[str]:
    """What it said, without what is empty; one line at least."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return lines or [f"nothing was said (exit code {done.code})"]
