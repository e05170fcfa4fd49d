"""What the error of a lost worker says: everything that is known, and nothing that is not."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfutures.errors import (
    JobCancelled,
    NodeFailed,
    OutOfMemory,
    Preempted,
    TaskKilled,
    TaskTimeout,
    TimeLimitReached,
    WorkerLost,
)
from clusterfutures.obituary import (
    BY_REASON,
    BY_STATE,
    TAIL_BYTES,
    TAIL_LINES,
    UNSEEN,
    Post,
    signal_name,
    tail,
    worker_lost,
)
from clusterfutures.records import (
    ASKED,
    MEMORY,
    ORPHANED,
    OWN,
    SITE,
    SITE_MEMORY,
    SITE_TIME,
    TIMED_OUT,
    Ended,
)
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState

REF = WorkerRef(2, 0, 0, 1, 3)
POST = Post(str(REF), 4711, "node7", "123_4")


@pytest.fixture
def run_directory(tmp_path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory(str(tmp_path), shared=False)
    run.make_home(REF)
    yield run
    run.close()


def status_of(code: str) -> int:
    """The status that waitpid gives for a real process."""
    command = [sys.executable, "-S", "-c", f"import os; {code}"]
    return os.waitpid(os.posix_spawn(sys.executable, command, os.environ), 0)[1]


@pytest.mark.parametrize(
    ("code", "signal", "exit_code", "words"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL", None, "killed by SIGKILL; the kernel's out-of-memory"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV", None, "killed by SIGSEGV"),
        ("os._exit(3)", None, 3, "exited with code 3"),
        ("os._exit(0)", None, 0, "exited with code 0"),
    ],
)
def test_how_it_died(
    run_directory: RunDirectory, code: str, signal: str | None, exit_code: int | None, words: str
) -> None:
    status = status_of(code)
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, status, 43, OWN), 42)
    assert type(error) is WorkerLost
    assert (error.signal, error.exit_code) == (signal, exit_code)
    text = str(error)
    for expected in (words, "task 42", str(REF), "4711", run_directory.stderr(REF)):
        assert expected in text
    assert ("out-of-memory" in text) == (signal == "SIGKILL")


def test_everything_known_is_an_attribute(run_directory: RunDirectory) -> None:
    Path(run_directory.stderr(REF)).write_text("one\ntwo\n")
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, 9, 1, OWN), 0)
    assert error.worker == str(REF)
    assert (error.pid, error.node, error.job_id) == (4711, "node7", "123_4")
    assert error.state is None
    assert error.log_path == run_directory.stderr(REF)
    assert error.stderr_tail == "one\ntwo"
    assert str(error).endswith("\n  | one\n  | two")


def test_nobody_saw_how(run_directory: RunDirectory) -> None:
    post = Post(str(REF), None, None, None)
    error = worker_lost(run_directory, REF, post, None, 5)
    assert type(error) is WorkerLost
    assert "supervisor is gone" in str(error)
    assert (error.signal, error.exit_code, error.pid) == (None, None, None)
    assert "pid None" not in str(error)


OWN_REASONS = [
    (ASKED, TaskKilled, "killed on request"),
    (TIMED_OUT, TaskTimeout, "longer than its timeout"),
    (ORPHANED, WorkerLost, "nothing had been heard of the driver"),
    (MEMORY, OutOfMemory, "reached its memory limit; ask for more mem"),
    (SITE_MEMORY, OutOfMemory, "ended at its memory limit; ask for more mem"),
    (SITE_TIME, TimeLimitReached, "reached its wall time; ask for more time"),
]


@pytest.mark.parametrize(("reason", "kind", "words"), OWN_REASONS)
def test_why_we_ended_it(
    run_directory: RunDirectory, reason: int, kind: type[WorkerLost], words: str
) -> None:
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, 9, 6, reason), 5)
    assert type(error) is kind
    assert words in str(error)
    assert "task 5" in str(error)
    assert "out-of-memory" not in str(error), "we know better"
    assert error.signal == "SIGKILL"


def test_a_timeout_is_caught_as_one(run_directory: RunDirectory) -> None:
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, 9, 6, TIMED_OUT), 5)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, TaskKilled)


def test_the_error_travels(run_directory: RunDirectory) -> None:
    Path(run_directory.stderr(REF)).write_text("last words\n")
    for reason in (OWN, ASKED, TIMED_OUT):
        error = worker_lost(run_directory, REF, POST, Ended(1, 3, 9, 6, reason), 5)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


# ---- what the scheduler says --------------------------------------------------------------------

STATES = [
    (JobState.OUT_OF_MEMORY, OutOfMemory, "ask for more mem"),
    (JobState.TIMEOUT, TimeLimitReached, "ask for more time"),
    (JobState.NODE_FAILED, NodeFailed, "its node failed"),
    (JobState.PREEMPTED, Preempted, "preempted"),
    (JobState.CANCELLED, JobCancelled, "not by this program"),
]
BY_SITE = Ended(1, 3, 15, 6, SITE)


def test_every_cause_has_a_test() -> None:
    assert {reason for reason, _, _ in OWN_REASONS} == set(BY_REASON)
    assert {state for state, _, _ in STATES} == set(BY_STATE)


@pytest.mark.parametrize("ended", [None, BY_SITE, Ended(1, 3, 9, 6, OWN)], ids=["unseen", "site", "own"])
@pytest.mark.parametrize(("state", "kind", "words"), STATES)
def test_the_scheduler_knows_why(
    run_directory: RunDirectory, state: JobState, kind: type[WorkerLost], words: str, ended: Ended | None
) -> None:
    error = worker_lost(run_directory, REF, POST, ended, 5, JobStatus(state, text="WORD by 7"))
    assert type(error) is kind
    assert error.state == "WORD by 7"
    for expected in (words, "WORD by 7", "task 5", "123_4", "node7"):
        assert expected in str(error)
    assert error.signal == (None if ended is None else signal_name(ended.status))


@pytest.mark.parametrize(("reason", "kind", "words"), OWN_REASONS)
def test_our_own_reason_goes_before_the_schedulers(
    run_directory: RunDirectory, reason: int, kind: type[WorkerLost], words: str
) -> None:
    status = JobStatus(JobState.CANCELLED, text="CANCELLED by 7")
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, 9, 6, reason), 5, status)
    assert type(error) is kind
    assert words in str(error)
    assert error.state == "CANCELLED by 7", "and that is known all the same"


def test_a_scheduler_of_few_words(run_directory: RunDirectory) -> None:
    error = worker_lost(run_directory, REF, POST, None, 5, JobStatus(JobState.TIMEOUT))
    assert error.state == JobState.TIMEOUT.value


def test_an_end_by_the_site_of_which_the_scheduler_does_not_say_why(run_directory: RunDirectory) -> None:
    error = worker_lost(run_directory, REF, POST, BY_SITE, 5)
    assert type(error) is WorkerLost
    assert "told to end, and the scheduler does not say why" in str(error)
    assert error.signal == "SIGTERM"
    assert error.state is None


@pytest.mark.parametrize(
    ("status", "signal", "exit_code"),
    [
        (JobStatus(JobState.FAILED, signal=7, text="FAILED"), "SIGBUS", None),
        (JobStatus(JobState.FAILED, exit_code=3, text="FAILED"), None, 3),
        (JobStatus(JobState.COMPLETED, exit_code=0, text="COMPLETED"), None, 0),
        (JobStatus(JobState.UNKNOWN, text="not known for 60 s"), None, None),
    ],
)
def test_an_end_that_only_the_scheduler_saw(
    run_directory: RunDirectory, status: JobStatus, signal: str | None, exit_code: int | None
) -> None:
    error = worker_lost(run_directory, REF, POST, None, 5, status)
    assert type(error) is WorkerLost
    assert (error.signal, error.exit_code, error.state) == (signal, exit_code, status.text)
    assert UNSEEN in str(error)
    assert status.text in str(error)


def test_how_the_worker_ended_goes_before_how_its_job_did(run_directory: RunDirectory) -> None:
    status = JobStatus(JobState.FAILED, exit_code=1, text="FAILED")
    error = worker_lost(run_directory, REF, POST, Ended(1, 3, 11, 6, OWN), 5, status)
    assert (error.signal, error.exit_code, error.state) == ("SIGSEGV", None, "FAILED")
    assert "killed by SIGSEGV" in str(error)


def test_a_node_that_only_the_scheduler_knows(run_directory: RunDirectory) -> None:
    status = JobStatus(JobState.NODE_FAILED, node="n13", text="NODE_FAIL")
    unknown = Post(str(REF), None, None, None)
    error = worker_lost(run_directory, REF, unknown, None, 5, status)
    assert error.node == "n13"
    assert "None" not in str(error)
    assert worker_lost(run_directory, REF, POST, None, 5, status).node == "node7", "it said so itself"


def test_what_the_scheduler_said_travels(run_directory: RunDirectory) -> None:
    for state, kind, _ in STATES:
        error = worker_lost(run_directory, REF, POST, BY_SITE, 5, JobStatus(state, text="WORD"))
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert vars(again) == vars(error)


# ---- last words ---------------------------------------------------------------------------------


def test_no_log_is_no_words(run_directory: RunDirectory) -> None:
    assert tail(run_directory.stderr(REF)) == ""
    assert tail(run_directory.path) == "", "a directory"
    error = worker_lost(run_directory, REF, POST, None, 5)
    assert error.stderr_tail == ""
    assert "Nothing on its standard error" in str(error)


def test_only_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    lines = tail(str(path)).splitlines()
    assert lines == [f"line {number}" for number in range(100_000 - TAIL_LINES, 100_000)]


def test_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x" * 10 * TAIL_BYTES)
    assert tail(str(path)) == "x" * TAIL_BYTES


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before \xff\xfe after\n")
    assert tail(str(path)).startswith("before ")
    assert tail(str(path)).endswith(" after")
    path.write_bytes("\u00fc".encode() * TAIL_BYTES + b"x")  # cut in the middle of a character
    assert tail(str(path)).endswith("\u00fcx")


def test_names_of_signals() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(15) == "SIGTERM"
    assert signal_name(63) != ""
    assert signal_name(999) == "signal 999"
