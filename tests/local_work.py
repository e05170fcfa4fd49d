"""What the tests of LocalExecutor run in workers; workers import it, so it imports little."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

# Long against every bound that the tests wait for: a task that lasts so long was ended, never finished.
LONG = 300.0


class Mishap(Exception):
    """An exception whose arguments are not those of its `__init__`."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} ({code})")
        self.code = code


class Sticky:
    """Something that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("sticky things stay where they are")


class StickyError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.held = Sticky()


def note(path: str, text: object) -> None:
    """Append a line to the file at `path`, in one system call: lines of several processes do not mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def notes(path: str) -> list[str]:
    """The lines noted so far."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def note_and_sleep(path: str, text: object, seconds: float) -> object:
    """Say that the task runs, take `seconds`, return `text`."""
    note(path, text)
    time.sleep(seconds)
    return text


def note_pids_and_sleep(path: str, seconds: float = LONG, stubborn: bool = False) -> None:
    """Say who runs the task and who stands over that, and take `seconds`; `stubborn`: despite SIGTERM."""
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(path, f"{os.getpid()} {os.getppid()}")
    time.sleep(seconds)


def note_and_wait(path: str, text: object, until: str) -> object:
    """Say that the task runs, and return `text` once the file `until` exists."""
    note(path, text)
    deadline = time.monotonic() + LONG
    while not os.path.exists(until):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody made {until}")
        time.sleep(0.002)
    return text


def spin(seconds: float) -> float:
    """Use the CPU for so long, on its clock and on the wall's; returns the CPU time that it took."""
    begin, began = time.process_time(), time.perf_counter()
    while time.process_time() - begin < seconds or time.perf_counter() - began < seconds:
        pass
    return time.process_time() - begin


def hold_bytes(count: int) -> int:
    """Have `count` bytes in memory, really."""
    block = b"\1" * count
    return len(block)


def print_everywhere(tag: str) -> None:
    """Write to both streams, through Python, through the descriptors, and from a process of its own."""
    print(f"print {tag}")
    os.write(1, f"write {tag}\n".encode())
    print(f"error {tag}", file=sys.stderr)
    os.write(2, f"write error {tag}\n".encode())
    subprocess.run(["/bin/sh", "-c", f"echo child {tag}; echo child error {tag} >&2"], check=True)


def print_and_wait(path: str, until: str) -> None:
    """Write something, then wait: it is to be seen before the task ends."""
    print("so far")
    os.write(2, b"errors so far\n")
    note_and_wait(path, "printed", until)


def die(number: int, path: str = "") -> None:
    """Be killed by signal `number`, having said so; once only if a `path` is given to remember it."""
    if path:
        note(path, os.getpid())
        if len(notes(path)) > 1:
            return
    sys.stderr.write("last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), number)
    time.sleep(LONG)


def die_if(value: int, culprit: int) -> int:
    """`value`; but the worker that gets the `culprit` is killed."""
    if value == culprit:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(LONG)
    return value


def attempts(path: str, failures: int) -> int:
    """The attempt at which it succeeds, after so many deaths of its worker; notes each attempt."""
    from clusterfutures import current_task

    task = current_task()
    assert task is not None
    note(path, task.attempt)
    if task.attempt < failures:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.attempt


def attempts_in_time(path: str, failures: int) -> int:
    """The same, by sleeping past the timeout instead of dying."""
    from clusterfutures import current_task

    task = current_task()
    assert task is not None
    note(path, task.attempt)
    time.sleep(LONG if task.attempt < failures else 0)
    return task.attempt


def with_grandchild(path: str) -> None:
    """Start a process that would outlive the task, note its pid, and wait for it."""
    child = subprocess.Popen(["sleep", str(int(LONG))])
    note(path, child.pid)
    child.wait()


def context() -> Any:
    """What the task knows about itself."""
    from clusterfutures import current_task

    return current_task(), os.getpid()


def worker_of(_: object) -> Any:
    """The name of the worker that has this item."""
    return context()[0].worker


def context_in_thread() -> Any:
    """The same, asked from another thread of the worker."""
    import threading

    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(context()))
    thread.start()
    thread.join()
    return found[0]


def context_in_fork() -> bool:
    """Whether a process that the task forks believes to be the task."""
    from clusterfutures import current_task

    pid = os.fork()
    if pid == 0:
        os._exit(1 if current_task() is not None else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def total(*args: Any, **kwargs: Any) -> Any:
    """The sum of all numbers in the arguments, however deep."""
    return sum(_numbers([args, kwargs]))


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _numbers(each)
    else:
        yield value


def fail(text: str) -> None:
    raise ValueError(text)


def fail_with_cause() -> None:
    try:
        fail("the first one")
    except ValueError as error:
        raise Mishap("the second one", 7) from error


def fail_in_group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])  # noqa: F821  (3.11)


def fail_unpicklably() -> None:
    raise StickyError("cannot travel")


def add_in_place(array: Any, value: float) -> Any:
    """Change the argument; returns the sum of its first elements before and after."""
    before = float(array[0])
    array += value
    return before, float(array[0]), os.getpid()


def try_to_change(array: Any) -> tuple[bool, str]:
    """Whether the argument can be written, and what trying says."""
    try:
        array[0] = 1
    except ValueError as error:
        return bool(array.flags.writeable), str(error)
    return bool(array.flags.writeable), "changed"


def same(value: Any) -> Any:
    return value


def private_bytes(array: Any) -> int:
    """Read all of `array`; returns how many bytes this process then has that no file backs."""
    array.sum()
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        lines = [line.split() for line in file]
    return 1024 * sum(int(words[1]) for words in lines if words[0] == "Anonymous:")


def where() -> dict[str, Any]:
    """The worker's surroundings."""
    return {"cwd": os.getcwd(), "env": dict(os.environ), "python": sys.executable, "path": sys.path}


_left_open: list[Any] = []


def write_and_leave_open(text: str, binary: str) -> int:
    """Write to two files that stay open, and unflushed; returns how many are open by now."""
    _left_open.extend([open(text, "w", encoding="utf-8"), open(binary, "wb")])  # noqa: SIM115 - on purpose
    _left_open[0].write("said")
    _left_open[1].write(b"said")
    return len(_left_open)


def make_closure(value: int) -> Any:
    """What only cloudpickle can send."""
    return lambda: value
