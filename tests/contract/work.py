"""What the contract suite runs in workers; imported by driver and workers, so it imports little."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

GATE_TIMEOUT = 90.0


class Gate:
    """Holds tasks at a known place until the test lets them go on.

    Works through files in `directory`, since that is all that a worker of any executor shares with the
    test.  A test hands ``gate.hold`` to the executor, waits for ``gate.arrived()`` and calls ``open``.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = str(directory)

    def hold(self, tag: object = 0, result: object = None) -> Any:
        """In the task: say that it is here, wait for `open`, return `tag` (or `result` if given)."""
        self.mark(tag)
        deadline = time.monotonic() + GATE_TIMEOUT
        while not os.path.exists(os.path.join(self.directory, "open")):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened the gate of task {tag!r}")
            time.sleep(0.003)
        return tag if result is None else result

    def hold_then(self, function: Callable[..., Any], *args: Any) -> Any:
        """In the task: hold, then what `function` does."""
        self.hold(os.getpid())
        return function(*args)

    def mark(self, tag: object = 0) -> object:
        """In the task: leave a sign that it ran, and return `tag`."""
        with open(os.path.join(self.directory, f"tag-{tag}"), "w", encoding="utf-8"):
            return tag

    def arrived(self) -> list[str]:
        """The tags of the tasks that have come so far, sorted."""
        return sorted(name[4:] for name in os.listdir(self.directory) if name.startswith("tag-"))

    def open(self) -> None:
        """Let all go on, those that come later too."""
        with open(os.path.join(self.directory, "open"), "w", encoding="utf-8"):
            return


def identity(value: Any) -> Any:
    return value


def multiply(x: Any, y: Any) -> Any:
    return x * y


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def size(data: bytes) -> int:
    return len(data)


def zeros(length: int) -> bytes:
    return bytes(length)


def pid_of(_: object = None) -> int:
    return os.getpid()


def is_alive(pid: int) -> bool:
    """Whether a process `pid` exists and is no zombie."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def environment(name: str) -> str | None:
    return os.environ.get(name)


class Doubler:
    """A callable object, with methods of each kind."""

    def __init__(self, factor: int = 2) -> None:
        self.factor = factor

    def __call__(self, value: int) -> int:
        return self.factor * value

    def method(self, value: int) -> int:
        return self.factor * value

    @staticmethod
    def static(value: int) -> int:
        return 2 * value

    @classmethod
    def from_class(cls, value: int) -> int:
        return cls().factor * value


class Token:
    """Something that a weak reference can point to."""

    def method(self) -> None:
        return None


def make_token(_: object = None) -> Token:
    return Token()


_remembered: list[weakref.ref[Any]] = []


def remember(value: Any) -> int:
    """In a worker: keep a weak reference to the argument."""
    _remembered.append(weakref.ref(value))
    return len(_remembered)


def remember_result() -> Token:
    """In a worker: keep a weak reference to the result."""
    token = Token()
    remember(token)
    return token


def remember_error() -> None:
    """In a worker: keep a weak reference to a local variable of a task that fails."""
    token = Token()
    remember(token)
    raise ValueError("remembered")


def count_remembered_alive() -> int:
    """In a worker: how many of the remembered objects still exist."""
    gc.collect()
    return sum(reference() is not None for reference in _remembered)


# --- exceptions -----------------------------------------------------------------------------------


def fail(message: str = "from the worker") -> None:
    raise ValueError(message)


def fail_at(index: int, culprit: int) -> int:
    if index == culprit:
        raise ValueError(f"item {index}")
    return index


def fail_deep() -> None:
    innermost_frame_of_the_task()


def innermost_frame_of_the_task() -> None:
    raise KeyError("deep")  # a comment that only the source line has


def fail_from_cause() -> None:
    try:
        raise OSError(5, "the cause")
    except OSError as error:
        raise ValueError("the effect") from error


def fail_in_handler() -> None:
    try:
        raise OSError(5, "the context")
    except OSError:
        raise ValueError("the effect")  # noqa: B904 - the implicit context is what is tested


def fail_with_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])  # noqa: F821 - 3.11


def fail_with_note() -> None:
    error = ValueError("noted")
    error.add_note("a note from the worker")  # type: ignore[attr-defined,unused-ignore]
    raise error


def raise_(error: BaseException | type[BaseException]) -> None:
    raise error


def sys_exit(code: object = 3) -> None:
    sys.exit(code)  # type: ignore[arg-type]


def recurse() -> int:
    return 1 + recurse()


class WithAttributes(Exception):
    """Carries data as an attribute."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def fail_with_attributes(code: int) -> None:
    error = WithAttributes("attributed")
    error.code = code
    raise error


class Falsy(Exception):
    """An exception that is false, as one that counts its parts can be."""

    def __len__(self) -> int:
        return 0


class NeedsTwo(Exception):
    """What pickle cannot rebuild: it is called again with `args`, which is the message alone."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(f"needs {first} and {second}")


def fail_needing_two() -> None:
    raise NeedsTwo("this", "that")


class WithLock(Exception):
    """What pickle cannot take at all."""

    def __init__(self, message: str) -> None:
        import threading

        super().__init__(message)
        self.lock = threading.Lock()


def fail_with_lock() -> None:
    raise WithLock("locked in")


# --- objects that fail, or end the process, while they are pickled or loaded -----------------------


def _elsewhere(home: int, away: bool) -> bool:
    return (os.getpid() != home) == away


def _load(home: int, away: bool, act: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    if _elsewhere(home, away):
        return act(*args)
    return Rigged(home)


class Rigged:
    """Acts while it is pickled or loaded, in the driver (`home`) or away from it.

    `at` is "dump", "load", or "setstate"; `act` is called there with `args`.  With `away` it acts in a
    worker only, else in the driver only.
    """

    def __init__(
        self,
        home: int,
        at: str = "",
        away: bool = True,
        act: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
    ) -> None:
        self.home, self.at, self.away, self.act, self.args = home, at, away, act, args

    def __call__(self, *args: Any) -> str:
        return "called"

    def __reduce__(self) -> Any:
        if self.at == "dump" and self.act is not None and _elsewhere(self.home, self.away):
            self.act(*self.args)
        if self.at == "load":
            return _load, (self.home, self.away, self.act, self.args)
        return Rigged, (self.home,), self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.at == "setstate" and self.act is not None and _elsewhere(self.home, self.away):
            self.act(*self.args)


class RiggedError(Exception):
    """An exception that holds something rigged."""

    def __init__(self, message: str, held: Rigged) -> None:
        super().__init__(message, held)


def rigged(*args: Any) -> Rigged:
    """In a worker: a result that acts as told."""
    return Rigged(*args)


def fail_rigged(*args: Any) -> None:
    """In a worker: fail with an exception that acts as told."""
    raise RiggedError("rigged", Rigged(*args))


def boom(message: str = "boom") -> None:
    raise ArithmeticError(message)


# --- ways to die ------------------------------------------------------------------------------------


def exit_3() -> None:
    os._exit(3)


def exit_0() -> None:
    os._exit(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    _wait_for_the_signal()


def terminate_self() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    _wait_for_the_signal()


def segfault() -> None:
    import faulthandler
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.disable()
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def _wait_for_the_signal() -> None:
    time.sleep(30)
    raise AssertionError("a signal to oneself did not end the process")


DEATHS = {
    "exit-0": exit_0,
    "exit-3": exit_3,
    "SIGKILL": kill_self,
    "SIGTERM": terminate_self,
    "segfault": segfault,
}


def die_with(data: bytes, culprit: bool) -> bytes:
    """In a worker: return `data`, or die holding it."""
    if culprit:
        kill_self()
    return data


def die_saying(text: str) -> None:
    """In a worker: die with `text` as the last line on the standard error."""
    print(text, file=sys.stderr, flush=True)
    exit_3()


def kill_if(index: int, culprit: int) -> int:
    if index == culprit:
        kill_self()
    return index


def mark_and_kill_if(gate: Gate, index: int, culprit: int) -> int:
    gate.mark(index)
    return kill_if(index, culprit)


def large_then_kill(home: int, length: int) -> list[object]:
    """In a worker: a result of which `length` bytes are pickled before the worker dies of the rest."""
    return [bytes(length), Rigged(home, "dump", True, kill_self)]


# --- initializers -----------------------------------------------------------------------------------

_initialized: list[object] = []


def initialize(*values: object) -> None:
    _initialized.extend(values)


def initialized() -> list[object]:
    return list(_initialized)


def initialize_once_alive(path: str) -> None:
    """Works in the first worker that comes, fails in all later ones."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise ValueError("second worker") from None


# --- nested executors -------------------------------------------------------------------------------


def nested_threads(values: list[int]) -> list[int]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(abs, values))


def nested_case(name: str, values: list[int]) -> list[int]:
    """In a worker: map over an executor of the case called `name`."""
    from tests.contract.executors import CASES

    with CASES[name].make(1) as inner:
        return list(inner.map(abs, values))


def nested_closure(name: str, values: list[int]) -> list[int]:
    """In a worker: map a closure over an executor of the case called `name`."""
    from tests.contract.executors import CASES

    offset = 10
    with CASES[name].make(1) as inner:
        return list(inner.map(lambda value: value + offset, values))




# --- items of a map ---------------------------------------------------------------------------------


def call_or_hold(gate: Gate | None) -> object:
    """Return None at once, or hold at `gate` under a tag of its own."""
    if gate is None:
        return None
    gate.hold(time.monotonic_ns())
    return "held"


def call_or_fail(gate: Gate) -> object:
    """Hold at `gate` under a tag of its own; fail at the first, ``gate0``."""
    gate.hold(time.monotonic_ns())
    if gate.directory.endswith("gate0"):
        raise ValueError("first")
    return None


def ignore_sigterm_and_hold(gate: Gate) -> None:
    """In a worker: hold, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate.hold()


def mark_slowly(gate: Gate, tag: object) -> object:
    """In a worker: take a little longer than a program needs to end, then leave a mark."""
    time.sleep(0.1)
    return gate.mark(tag)


def nested_death(name: str) -> None:
    """In a worker: let a worker of an executor of the case called `name` die."""
    from tests.contract.executors import CASES

    with CASES[name].make(1) as inner:
        inner.submit(kill_self).result(timeout=40)
