"""The registry: which executors the contract suite runs on, and where each differs on purpose.

Adding an executor is one `Case` in `CASES`.  Test scripts import this module too, so it does not import
pytest.
"""

from __future__ import annotations

import enum
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, NamedTuple

__all__ = ["CASES", "Case", "Trait"]


class Trait(enum.Enum):
    """Where executors differ; a test of the matter tests both behaviours."""

    ONE_TASK_LOST = "what dies or cannot be loaded fails one task only, and the pool stays usable"
    PICKLES_IN_SUBMIT = "submit pickles in the caller's thread: later changes are not seen"
    ANY_CALLABLE = "lambdas, closures and functions of an interactive __main__ can be submitted"
    NAMES_THE_CULPRIT = "an error in pickling names the argument, or the type of the result"
    KEEPS_CAUSES = "a remote exception keeps its own __cause__ and __context__"
    FALSY_ERRORS = "an exception whose truth value is false is an exception all the same"
    ERROR_AT_ITEM = "map raises at the item that failed, whatever the chunk"
    BODY_ERROR_CANCELS = "an exception in the body of `with` cancels what has not started"
    INITIALIZER_CAUSE = "a failed initializer's own exception is the cause of the error"
    INITARGS_TRAVEL = "the initializer and its arguments are pickled"
    MAX_TASKS = "max_tasks_per_child is supported"
    MAX_TASKS_BURST = "max_tasks_per_child may be smaller than the number of tasks that wait"
    BUFFERSIZE = "map has buffersize"
    STOPS_WORKERS = "terminate_workers and kill_workers exist"
    CRASH_AMID_DATA = "a worker that dies while large payloads travel is noticed"
    CRASH_AMID_CANCEL = "who waits for a cancelled task is told, also when a worker dies meanwhile"
    EXIT_IN_PICKLING = "SystemExit while an argument is pickled ends no thread of the executor"
    NO_WAIT = "shutdown(wait=False) is safe with tasks unfinished, also if the program ends or a worker dies"
    SURVIVES_FORK = "in a forked child the executor refuses to work, and says so"
    NEW_AFTER_FORK = "a forked child can make an executor of its own although its parent has had one"
    LONG_TMPDIR = "the name of the directory for temporary files may be long"
    CANCEL_THEN_SHUTDOWN = "shutdown just after a task was cancelled returns"
    CRASH_THEN_EXIT = "the interpreter ends although a worker died"
    SUBMIT_AFTER_CRASH = "the done-callback of a lost task may submit"
    SHUTDOWN_IN_CALLBACK = "a done-callback may call shutdown(wait=True)"


class Case(NamedTuple):
    """An executor under test.

    `name` is its pytest id; `location` is ``module:class``; `traits` gives, for each trait that it has,
    the reason, `lacks` the same for those that it lacks where that needs one; `options` are always
    passed to the class; `start_method` names the multiprocessing context that it is given as
    `mp_context` (none where that is None); `service` is the batch system that it needs, if any: "slurm", or
    one of `tests.pbs.DOORS`.  Then it gets run directories that stay out of the working directory.
    """

    name: str
    location: str
    traits: Mapping[Trait, str]
    options: Mapping[str, Any] = {}
    start_method: str | None = None
    lacks: Mapping[Trait, str] = {}
    service: str = ""

    @property
    def executor_class(self) -> type[Executor]:
        """The class itself, imported when it is needed."""
        module, _, name = self.location.partition(":")
        found: type[Executor] = getattr(importlib.import_module(module), name)
        return found

    @property
    def context(self) -> Any:
        """A new multiprocessing context, or None."""
        return multiprocessing.get_context(self.start_method) if self.start_method else None

    def make(self, max_workers: int | None = 2, *args: Any, **options: Any) -> Executor:
        """A new executor; positions and keywords as in ProcessPoolExecutor."""
        if not args:
            options.setdefault("mp_context", self.context)
        if self.service:
            options.setdefault("run_dir", tempfile.mkdtemp(prefix="run-"))
        make: Any = self.executor_class
        executor: Executor = make(max_workers, *args, **{**self.options, **options})
        return executor

    def has(self, trait: Trait) -> bool:
        """Whether it has `trait`."""
        return trait in self.traits


def _standard_traits(start_method: str) -> dict[Trait, str]:
    """What ProcessPoolExecutor of this Python does with `start_method`."""
    traits = {}
    if start_method != "fork":
        traits[Trait.INITARGS_TRAVEL] = "a fresh interpreter gets them through a pipe"
        if sys.version_info >= (3, 11):
            traits[Trait.MAX_TASKS] = "new in 3.11, and refused with fork"
    if start_method != "forkserver":
        traits[Trait.NEW_AFTER_FORK] = traits[Trait.LONG_TMPDIR] = "workers are started by the program itself"
    if sys.version_info >= (3, 11, 4):
        traits[Trait.CANCEL_THEN_SHUTDOWN] = "mended in 3.11.4 (python/cpython#94440)"
    if sys.version_info >= (3, 12):
        traits[Trait.CRASH_AMID_DATA] = "mended in 3.12 (python/cpython#94777)"
    if sys.version_info >= (3, 14):
        traits[Trait.BUFFERSIZE] = "new in 3.14"
        traits[Trait.STOPS_WORKERS] = "new in 3.14"
        traits[Trait.FALSY_ERRORS] = "fixed in 3.14 (python/cpython#132063)"
    return traits


STANDARD_LACKS = {
    Trait.MAX_TASKS: "new in 3.11, and refused with fork",
    Trait.MAX_TASKS_BURST: "can deadlock, python/cpython#115634",
    Trait.CRASH_AMID_DATA: "can deadlock, python/cpython#94777",
    Trait.CANCEL_THEN_SHUTDOWN: "can hang, python/cpython#94440",
    Trait.CRASH_THEN_EXIT: "hangs now and then, seen with 3.9 and 3.13",
    Trait.SUBMIT_AFTER_CRASH: "deadlocks since 3.12, its manager thread holds the lock that submit wants",
    Trait.CRASH_AMID_CANCEL: "its manager thread dies of the cancelled future",
    Trait.EXIT_IN_PICKLING: "ends the thread that feeds the workers",
    Trait.NO_WAIT: "often hangs, python/cpython#83386",
    Trait.SHUTDOWN_IN_CALLBACK: "its thread cannot join itself",
    Trait.SURVIVES_FORK: "in the child, futures never end",
    Trait.NEW_AFTER_FORK: "the child takes its parent's fork server for its own: ChildProcessError",
    Trait.LONG_TMPDIR: "the fork server's socket is in it: OSError",
    Trait.BUFFERSIZE: "new in 3.14",
    Trait.STOPS_WORKERS: "new in 3.14",
}


def _standard(start_method: str) -> Case:
    return Case(
        name=f"process-{start_method}",
        location="concurrent.futures:ProcessPoolExecutor",
        traits=_standard_traits(start_method),
        start_method=start_method,
        lacks=STANDARD_LACKS,
    )


# What every executor of this package does by the same code, whatever the scheduler.
OWN_TRAITS = {
    Trait.ONE_TASK_LOST: "a task's fate is known one by one, through its own outcome",
    Trait.PICKLES_IN_SUBMIT: "what runs is what the arguments were",
    Trait.ANY_CALLABLE: "cloudpickle where pickle cannot",
    Trait.NAMES_THE_CULPRIT: "a user with forty arguments needs to know which",
    Trait.KEEPS_CAUSES: "tblib carries the chain, so nothing has to be put in its place",
    Trait.FALSY_ERRORS: "as in Python 3.14",
    Trait.ERROR_AT_ITEM: "a bundle reports each of its tasks",
    Trait.BODY_ERROR_CANCELS: "a program that failed must not leave jobs behind",
    Trait.INITIALIZER_CAUSE: "the initializer's traceback is what the user needs",
    Trait.INITARGS_TRAVEL: "workers are fresh interpreters",
    Trait.MAX_TASKS: "the supervisor starts a fresh process",
    Trait.MAX_TASKS_BURST: "the supervisor starts a fresh process",
    Trait.BUFFERSIZE: "as in Python 3.14, for every Python",
    Trait.STOPS_WORKERS: "as in Python 3.14, for every Python",
    Trait.CRASH_AMID_DATA: "payloads are files, nothing waits for a pipe to drain",
    Trait.CANCEL_THEN_SHUTDOWN: "a cancelled task is no work",
    Trait.CRASH_THEN_EXIT: "the interpreter waits for work, and dead workers have none",
    Trait.SUBMIT_AFTER_CRASH: "callbacks are called without a lock",
    Trait.CRASH_AMID_CANCEL: "whoever cancels also tells",
    Trait.EXIT_IN_PICKLING: "submit pickles in the caller's thread, where it is the caller's own",
    Trait.NO_WAIT: "the interpreter waits for submitted work and then ends",
    Trait.SURVIVES_FORK: "hooks and finalizers act in the process that made them only",
    Trait.NEW_AFTER_FORK: "there is nothing that two executors share",
    Trait.LONG_TMPDIR: "sockets are elsewhere then",
    Trait.SHUTDOWN_IN_CALLBACK: "no thread waits for itself",
}

# What a real PBS wants to be told beside, such as {"account": "physics", "arrays": false}.
PBS_OPTIONS: Mapping[str, Any] = json.loads(os.environ.get("CLUSTERFUTURES_TEST_PBS_OPTIONS", "{}"))


def _pbs(name: str) -> Case:
    """Its service has the same name; OpenPBS is asked for as today's sites do."""
    location = f"clusterfutures:{'PBSExecutor' if name == 'openpbs' else 'TorqueExecutor'}"
    return Case(name, location, OWN_TRAITS, PBS_OPTIONS, service=name)


CASES = {
    case.name: case
    for case in [
        *([_standard("fork")] if hasattr(os, "fork") else []),
        _standard("spawn"),
        *([_standard("forkserver")] if "forkserver" in multiprocessing.get_all_start_methods() else []),
        Case("local", "clusterfutures:LocalExecutor", OWN_TRAITS),
        Case("local-polling", "clusterfutures:LocalExecutor", OWN_TRAITS, {"doorbell": False}),
        Case("slurm", "clusterfutures:SlurmExecutor", OWN_TRAITS, service="slurm"),
        Case(
            "slurm-polling", "clusterfutures:SlurmExecutor", OWN_TRAITS, {"doorbell": False}, service="slurm"
        ),
        _pbs("torque"),
        _pbs("openpbs"),
        _pbs("torque-slurm"),  # Debian's Torque commands in front of Slurm
    ]
}

EVERYDAY = ("local",)
"""What the suite runs on unless told otherwise: ours, where no service is needed."""
