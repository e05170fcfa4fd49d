"""What tests of any part need: bounded waits, scripts run as a user runs them, a look for leftovers.

Imported by ``conftest.py``, which makes fixtures of it, and by test scripts, which must not import
pytest; hence a module of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent

# Everything that this test process starts inherits the mark, also what leaves its session or process
# group as daemons do; looking for the mark finds what a search among the children would miss.
MARK = "CLUSTERFUTURES_TEST_MARK"
MARK_VALUE = uuid.uuid4().hex

# What the standard library starts once for a process and ends with it.
STANDARD_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def wait_until(
    predicate: Callable[[], object],
    timeout: float = 30.0,
    describe: Callable[[], object] | str | None = None,
    interval: float = 0.005,
) -> object:
    """Call `predicate` until it returns something true, and return that.

    Raises AssertionError after `timeout` seconds, saying what was seen last: the value of `describe()`
    where it is callable (with its text where it is a str), else the last value of `predicate`.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = predicate()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            break
        time.sleep(interval)
    last = describe() if callable(describe) else seen
    label = describe if isinstance(describe, str) else getattr(predicate, "__name__", "condition")
    raise AssertionError(f"gave up after {timeout} s waiting for {label}; last seen: {last!r}")


class ScriptResult(NamedTuple):
    """How a script ended and what it wrote."""

    returncode: int
    stdout: str
    stderr: str

    def check(self, returncode: int = 0) -> ScriptResult:
        """Itself, if the script ended with `returncode` and without a word of an unhandled error."""
        assert self.returncode == returncode, self.report()
        for noise in ("Traceback (most recent call last)", "Exception ignored"):
            assert noise not in self.stderr, self.report()
        return self

    def report(self) -> str:
        """All of it, for the message of a failed assertion."""
        return f"exit {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def run_command(
    command: list[str],
    directory: Path,
    *,
    timeout: float = 45.0,
    stdin: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    interrupt_when: Callable[[], object] | None = None,
) -> ScriptResult:
    """Run `command` in a process group of its own and return how it ended.

    The output goes to files in `directory`: a pipe would also wait for whatever inherited it, and hide
    a process that was left behind.  `env` is added to the environment.  `interrupt_when`, once true,
    has SIGINT sent to the whole group, which is what Ctrl-C in a terminal does.  AssertionError after
    `timeout` seconds, with the output so far; the group is killed then.
    """
    number = uuid.uuid4().hex[:8]
    paths = [directory / f"{number}.{stream}" for stream in ("out", "err", "in")]
    paths[2].write_text(stdin, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})}
    with paths[0].open("wb") as out, paths[1].open("wb") as err, paths[2].open("rb") as given:
        process = subprocess.Popen(
            command,
            stdin=given,
            stdout=out,
            stderr=err,
            cwd=str(cwd or directory),
            env=environment,
            start_new_session=True,
        )
    try:
        if interrupt_when is not None:
            wait_until(lambda: interrupt_when() or process.poll() is not None, timeout)
            os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout)
        hung = False
    except subprocess.TimeoutExpired:
        hung = True
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    out_text, err_text = (p.read_text(encoding="utf-8", errors="replace") for p in paths[:2])
    result = ScriptResult(process.returncode, out_text, err_text)
    assert not hung, f"still running after {timeout} s; {result.report()}"
    return result


def run_script(text: str, directory: Path, *arguments: str, **options: object) -> ScriptResult:
    """Write `text` to a file in `directory` and run it as ``__main__``; see :func:`run_command`."""
    script = directory / f"script_{uuid.uuid4().hex[:8]}.py"
    script.write_text(text, encoding="utf-8")
    return run_command([sys.executable, str(script), *arguments], directory, **options)  # type: ignore[arg-type]


def outcomes(run: Path) -> int:
    """How many results lie in the run directory, in whichever worker's outbox."""
    from clusterfutures.logs import LogReader
    from clusterfutures.records import OUTCOME

    found = 0
    for home in filter(Path.is_dir, run.glob("jobs/*/*.*/*.*")):
        reader = LogReader(str(home), "out", shared=True)
        found += sum(frame.kind == OUTCOME for frame in reader.read(final=True))
        reader.close()
    return found


def processes_left() -> list[str]:
    """A line for each process that stems from this one and still exists (zombies too)."""
    import psutil

    below = {child.pid for child in psutil.Process().children(recursive=True)}
    lines = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            ours = process.pid in below or process.environ().get(MARK) == MARK_VALUE
            command = " ".join(process.cmdline()) if ours else ""
            status = process.status() if ours else ""
        except psutil.Error:  # it has just ended, or belongs to somebody else
            continue
        if ours and not any(helper in command for helper in STANDARD_HELPERS):
            lines.append(f"{process.pid} {status} {command}")
    return lines


def check_no_process_left(timeout: float = 20.0) -> None:
    """AssertionError if, after `timeout` seconds, something that this process started still exists.

    What is left is killed, so that one leak is reported once and not by every test after it.
    """
    try:
        wait_until(lambda: not processes_left(), timeout, describe=processes_left, interval=0.05)
    except AssertionError:
        for line in processes_left():
            try:
                os.kill(int(line.split()[0]), signal.SIGKILL)
            except ProcessLookupError:
                continue
        raise
