"""Fixtures for all tests: hostile paths, scripts run in processes of their own, a check for leftovers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import (
    MARK,
    MARK_VALUE,
    ScriptResult,
    check_no_process_left,
    run_script,
    wait_until,
)

__all__ = ["wait_until"]

# A name that breaks whatever is put into a shell, a format string or a list of words unquoted.
HOSTILE_NAME = "sp ace 'single' \"double\" ; echo owned > here; $HOME `id` %s {0} \n \\ \u00fc\u4e16 -rf"

# With the doorbell, and by looking at files alone; the latter is for CI.
BELL_AND_POLLING = [
    pytest.param(True, id="bell"),
    pytest.param(False, id="polling", marks=pytest.mark.long),
]


def pytest_configure(config: pytest.Config) -> None:
    """Mark everything that the tests will start; see :func:`tests.support.processes_left`."""
    os.environ[MARK] = MARK_VALUE
    # A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start with them.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def hostile_tmp_path(tmp_path: Path) -> Path:
    """An empty directory whose name has spaces, quotes, shell syntax, a newline and non-ASCII."""
    path = tmp_path / HOSTILE_NAME.replace("/", "")
    path.mkdir()
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., ScriptResult]:
    """``run(text, *arguments, **options)``: a script as ``__main__``; see `tests.support.run_script`."""

    def run_in_tmp_path(text: str, *arguments: str, **options: object) -> ScriptResult:
        return run_script(text, tmp_path, *arguments, **options)

    return run_in_tmp_path


@pytest.fixture(scope="module", params=BELL_AND_POLLING)
def bell(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With the doorbell and without; when a module is done with either, nothing may be left of it."""
    yield request.param
    check_no_process_left()


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file for `local_work.note`, and for whatever else notes that it runs."""
    return str(tmp_path / "notes")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that lets tasks go on once it exists; at the end of the test it does."""
    path = tmp_path / "open"
    yield path
    path.touch()


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fail the test that uses it if a process that it started is still there after it."""
    yield
    check_no_process_left()
