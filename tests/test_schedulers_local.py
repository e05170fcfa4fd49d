"""This machine as a scheduler: what is started, with which words, and how it is told to have ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures.errors import SubmissionError
from clusterfutures.schedulers import local
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.schedulers.local import LocalScheduler
from clusterfutures.states import JobState
from tests.support import wait_until

# Tells what it was started with, in a file named by its first argument, in the working directory.
TELL = """
import json, os, sys
with open(sys.argv[1], "w") as file:
    json.dump([sys.argv[2:], dict(os.environ), os.getsid(0) == os.getpid(), sys.stdin.read()], file)
"""
HOSTILE = "a 'b' \"c\" $HOME `id` ; exit 1 \\ \n * {index} {index"


@pytest.fixture
def scheduler(no_process_left: None) -> Iterator[LocalScheduler]:
    scheduler = LocalScheduler()
    yield scheduler
    scheduler.cancel(list(scheduler._processes))
    for process in scheduler._processes.values():
        process.wait(20)


def request(directory: Path, argv: list[str], **changes: Any) -> JobRequest:
    log = str(directory / f"{INDEX}.log")
    return JobRequest(0, "name", argv, 1, "", log, None, {}, "", {})._replace(**changes)


def end_of(scheduler: LocalScheduler, job_id: str) -> JobStatus:
    def status() -> JobStatus | None:
        found = scheduler.poll([job_id])[job_id]
        return found if found.state.ended else None

    found = wait_until(status)
    assert isinstance(found, JobStatus)
    return found


def told(directory: Path, name: str = "told") -> list[Any]:
    found: list[Any] = json.loads((directory / name).read_text())
    return found


@pytest.mark.parametrize("setup", ["", "true", "X=1; export X\n# a comment"])
def test_words_arrive_as_given(scheduler: LocalScheduler, hostile_tmp_path: Path, setup: str) -> None:
    words = [HOSTILE, "", "-c", "--", "$@", "*"]
    argv = [sys.executable, "-c", TELL, "told", *words]
    [job] = scheduler.submit(request(hostile_tmp_path, argv, cwd=str(hostile_tmp_path), setup=setup))
    assert end_of(scheduler, job) == JobStatus(JobState.COMPLETED, exit_code=0)
    found, environment, leads, stdin = told(hostile_tmp_path)
    assert found == words
    assert leads, "in a session of its own: Ctrl-C is for the driver"
    assert stdin == ""
    assert environment.get("X") == ("1" if "X=1" in setup else os.environ.get("X"))


def test_only_a_whole_part_is_the_index(scheduler: LocalScheduler, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", TELL, INDEX, INDEX, f"/run {INDEX}/x", "{index"]
    jobs = scheduler.submit(request(tmp_path, argv, elements=3, cwd=str(tmp_path)))
    assert len(set(jobs)) == 3
    for job in jobs:
        assert end_of(scheduler, job).state is JobState.COMPLETED
    for index in range(3):
        assert told(tmp_path, str(index))[0] == [str(index), f"/run {INDEX}/x", "{index"]


def test_an_element_is_never_started_again_and_its_id_is_its_own(
    scheduler: LocalScheduler, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", TELL, "told", RESTART, JOB_ID, f"{RESTART}{JOB_ID}"]
    [job] = scheduler.submit(request(tmp_path, argv, cwd=str(tmp_path)))
    end_of(scheduler, job)
    assert told(tmp_path)[0] == ["0", "", f"{RESTART}{JOB_ID}"]


def test_the_environment_is_changed_and_ours_is_not(
    scheduler: LocalScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CF_KEPT", "kept")
    monkeypatch.setenv("CF_GONE", "gone")
    changes = {"CF_GONE": None, "CF_NEW": HOSTILE, "CF_NEVER_THERE": None, "CF_EMPTY": ""}
    argv = [sys.executable, "-c", TELL, "told"]
    [job] = scheduler.submit(request(tmp_path, argv, environment=changes, cwd=str(tmp_path)))
    end_of(scheduler, job)
    environment = told(tmp_path)[1]
    assert environment["CF_KEPT"] == "kept"
    assert "CF_GONE" not in environment
    assert "CF_NEVER_THERE" not in environment
    assert (environment["CF_NEW"], environment["CF_EMPTY"]) == (HOSTILE, "")
    assert os.environ["CF_GONE"] == "gone"
    assert "CF_NEW" not in os.environ


@pytest.mark.parametrize("shell", [True, False], ids=["bash", "sh"])
def test_setup_lines_come_first(
    scheduler: LocalScheduler, tmp_path: Path, shell: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shell:
        monkeypatch.setattr(local.shutil, "which", lambda name: None)
    setup = "CF_A=1\nexport CF_A\ncd /"
    argv = [sys.executable, "-c", TELL, str(tmp_path / "told")]
    [job] = scheduler.submit(request(tmp_path, argv, setup=setup))
    assert end_of(scheduler, job).exit_code == 0
    assert told(tmp_path)[1]["CF_A"] == "1"


def test_a_failing_setup_line_ends_it(scheduler: LocalScheduler, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", TELL, str(tmp_path / "told")]
    setup = "echo begun\nls /nowhere/at/all\necho not reached"
    [job] = scheduler.submit(request(tmp_path, argv, setup=setup))
    status = end_of(scheduler, job)
    assert status.state is JobState.FAILED
    assert status.exit_code not in (0, None)
    text = (tmp_path / "0.log").read_text()
    assert "begun" in text
    assert "/nowhere/at/all" in text
    assert "not reached" not in text
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", JobStatus(JobState.COMPLETED, exit_code=0)),
        ("raise SystemExit(3)", JobStatus(JobState.FAILED, exit_code=3)),
        ("import os; os.kill(os.getpid(), 9)", JobStatus(JobState.FAILED, signal=9)),
    ],
)
def test_how_it_ended(scheduler: LocalScheduler, tmp_path: Path, code: str, expected: JobStatus) -> None:
    [job] = scheduler.submit(request(tmp_path, [sys.executable, "-c", code]))
    assert end_of(scheduler, job) == expected
    assert scheduler.poll([job]) == {job: expected}, "and is so when asked again"


def test_while_it_runs_and_when_it_is_cancelled(scheduler: LocalScheduler, tmp_path: Path) -> None:
    """The whole group goes: what the supervisor started, too."""
    argv = ["/bin/sh", "-c", "sleep 600 & echo $! > child; mv child told; wait"]
    [job] = scheduler.submit(request(tmp_path, argv, cwd=str(tmp_path)))
    assert scheduler.poll([job]) == {job: JobStatus(JobState.RUNNING)}
    wait_until((tmp_path / "told").exists)
    scheduler.cancel([job])
    assert end_of(scheduler, job) == JobStatus(JobState.FAILED, signal=signal.SIGKILL)
    scheduler.cancel([job])  # the fixture sees that the child has gone as well


def test_what_it_does_not_know(scheduler: LocalScheduler) -> None:
    assert scheduler.poll(["1", "x"]) == {}
    scheduler.cancel(["1", "x"])
    assert scheduler.poll([]) == {}


def test_what_it_prints_is_in_its_log(scheduler: LocalScheduler, tmp_path: Path) -> None:
    argv = ["/bin/sh", "-c", f"echo out {INDEX}; echo err >&2"]
    jobs = scheduler.submit(request(tmp_path, argv, elements=2))
    for job in jobs:
        end_of(scheduler, job)
    assert (tmp_path / "0.log").read_text() == f"out {INDEX}\nerr\n"
    assert (tmp_path / "1.log").exists()


def test_a_log_below_a_directory_that_is_called_as_the_index(
    scheduler: LocalScheduler, tmp_path: Path
) -> None:
    directory = tmp_path / INDEX
    directory.mkdir()
    jobs = scheduler.submit(request(directory, ["/bin/sh", "-c", "echo out"], elements=2))
    for job in jobs:
        end_of(scheduler, job)
    assert sorted(path.name for path in directory.iterdir()) == ["0.log", "1.log"]


@pytest.mark.parametrize("setup", ["", "CF_SETUP=done\nexport CF_SETUP"])
def test_what_is_explained_does_the_same(
    scheduler: LocalScheduler, hostile_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    monkeypatch.setenv("CF_GONE", "gone")
    argv = [sys.executable, "-c", TELL, "told", HOSTILE, INDEX, RESTART, JOB_ID]
    changes = {"CF_NEW": HOSTILE, "CF_GONE": None, "CF_EMPTY": ""}
    asked = request(hostile_tmp_path, argv, setup=setup, environment=changes, cwd=str(hostile_tmp_path))
    command = scheduler.explain(asked)
    assert not scheduler._processes, "nothing is started"
    subprocess.run(["/bin/sh", "-c", command], check=True, stdin=subprocess.DEVNULL, timeout=30)
    words, environment, _, _ = told(hostile_tmp_path)
    assert words == [HOSTILE, "0", "0", ""]
    assert (environment["CF_NEW"], environment["CF_EMPTY"]) == (HOSTILE, "")
    assert "CF_GONE" not in environment
    assert environment.get("CF_SETUP") == ("done" if setup else None)


def test_what_is_explained_names_the_working_directory(
    scheduler: LocalScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = scheduler.explain(request(tmp_path, ["/bin/pwd"]))
    found = subprocess.check_output(command, shell=True, cwd="/", text=True, timeout=30)
    assert found.strip() == str(tmp_path)


def test_whether_it_could_be_started(scheduler: LocalScheduler, tmp_path: Path) -> None:
    assert sys.executable in scheduler.test_only(request(tmp_path, [sys.executable, "-c", "1 / 0"]))
    assert not scheduler._processes, "nothing is started"
    with pytest.raises(SubmissionError, match="/nowhere/python3") as caught:
        scheduler.test_only(request(tmp_path, ["/nowhere/python3", "x"]))
    assert caught.value.command == ["/nowhere/python3", "x"]


def test_an_interpreter_that_is_missing(scheduler: LocalScheduler, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"python.*/nowhere/python3") as caught:
        scheduler.submit(request(tmp_path, ["/nowhere/python3", "x"]))
    assert caught.value.command == ["/nowhere/python3", "x"]
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_working_directory_that_is_missing(scheduler: LocalScheduler, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="cwd"):
        scheduler.submit(request(tmp_path, [sys.executable, "-c", ""], cwd="/nowhere"))


def test_workers_that_outlive_their_supervisor_are_swept(scheduler: LocalScheduler, tmp_path: Path) -> None:
    """In groups of their own, as workers are; and nobody else is touched."""
    code = (
        "import os, sys, time\n"
        "pid = os.fork()\n"
        "if pid == 0: os.setpgid(0, 0); time.sleep(600)\n"
        "open('pid', 'w').write(str(pid)); os.rename('pid', 'told'); time.sleep(600)\n"
    )
    [job] = scheduler.submit(request(tmp_path, [sys.executable, "-c", code], cwd=str(tmp_path)))
    told_path = tmp_path / "told"
    wait_until(told_path.exists)
    pid = int(told_path.read_text())
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        os.kill(int(job), signal.SIGKILL)
        end_of(scheduler, job)
        scheduler.sweep(job, [pid, stranger.pid, 2**22 + 1])
        assert not local._in_session(pid, int(job))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(20)
