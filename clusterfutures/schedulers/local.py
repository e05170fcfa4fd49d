"""This machine as a scheduler: a job is a process."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Optional, Union

from clusterfutures.errors import SubmissionError
from clusterfutures.processes import arguments, everybody, started
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus, Scheduler
from clusterfutures.states import JobState

OWN_WORDS = 5  # at the end of a supervisor's command: the run's directory, and which element of which job
SWEPT_WITHIN = 1.0  # seconds to wait for killed processes to be gone


class Stranger:
    """A process that was started by a process before this one; its exit code is nobody's."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = started(pid)

    def poll(self) -> Optional[int]:
        """None while it lives."""
        return None if self._started and started(self.pid) == self._started else 0


class LocalScheduler(Scheduler):
    """Starts each element as a process in a session of its own, so that Ctrl-C reaches the driver alone."""

    name = "local"
    interval = 0.5
    closing_interval = 0.005  # asking costs a system call here
    longest_interval = 0.5
    grace = 0.0

    def __init__(self) -> None:
        self._processes: dict[str, Union[subprocess.Popen[bytes], Stranger]] = {}

    def submit(self, request: JobRequest) -> list[str]:
        """Start the processes; an id is a process id."""
        environment = _changed(request.environment)
        ids = []
        for index in range(request.elements):
            ids.append(self._start(_command(request, index), request, index, environment))
        return ids

    def adopt(self, request: JobRequest, ids: Optional[list[str]]) -> list[str]:
        """Look for the processes: those that are, or were, `ids`, or without these among all."""
        found = []
        for index in range(request.elements):
            candidates = everybody() if ids is None else [int(ids[index])] if ids[index] else []
            found.append(next((pid for pid in candidates if _is_element(pid, request, index)), 0))
        self._processes.update((str(pid), Stranger(pid)) for pid in found if pid)
        return [str(pid) if pid else "" for pid in found] if ids is None else ids

    def _start(
        self, command: list[str], request: JobRequest, index: int, environment: dict[str, str]
    ) -> str:
        log = str(index).join(request.log.rsplit(INDEX, 1))
        try:
            with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=request.cwd,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            what = "cwd" if request.cwd is not None and not os.path.isdir(request.cwd) else "python"
            text = f"no worker could be started: {what}: cannot start {command[0]!r}: {error}"
            raise SubmissionError(text, command) from error
        self._processes[str(process.pid)] = process
        return str(process.pid)

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Kill the processes' groups; their workers notice that the supervisor is gone."""
        for job_id in job_ids:
            process = self._processes.get(job_id)
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def sweep(self, job_id: str, pids: Iterable[int]) -> None:
        """Kill the groups of workers that outlive their supervisor, and see them dead."""
        killed = [pid for pid in pids if _in_session(pid, int(job_id))]
        for pid in killed:
            _kill_group(pid)
        deadline = time.monotonic() + SWEPT_WITHIN
        while any(_in_session(pid, int(job_id)) for pid in killed) and time.monotonic() < deadline:
            time.sleep(0.005)

    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        """Which of them still run, and how the others ended."""
        found = {}
        for job_id in job_ids:
            process = self._processes.get(job_id)
            code = None if process is None else process.poll()
            if isinstance(process, Stranger) and code is not None:
                del self._processes[job_id]  # nobody knows how it ended
            elif process is not None:
                found[job_id] = _status(code)
        return found

    def explain(self, request: JobRequest) -> str:
        """The command that is started."""
        words = ["env", "-C", request.cwd or os.getcwd()]
        for name, value in request.environment.items():
            words += ["-u", name] if value is None else []
        words += [f"{name}={value}" for name, value in request.environment.items() if value is not None]
        return shlex.join([*words, *_command(request, 0)])

    def test_only(self, request: JobRequest) -> str:
        """Whether there is such a program."""
        command = _command(request, 0)
        found = shutil.which(command[0])
        if found is None:
            raise SubmissionError(f"python: there is no program {command[0]!r}", command)
        return f"{found} can be started"


def _command(request: JobRequest, index: int) -> list[str]:
    own = {INDEX: str(index), RESTART: "0", JOB_ID: ""}
    command = [own.get(word, word) for word in request.argv]
    if request.setup:
        command = [*_shell(), "set -e\n" + request.setup + '\nexec "$@"', "setup", *command]
    return command


def _is_element(pid: int, request: JobRequest, index: int) -> bool:
    """Whether a process is this element's: the first of its session, with the words of the request."""
    own = {INDEX: str(index), RESTART: "0", JOB_ID: ""}
    words = [os.fsencode(own.get(word, word)) for word in request.argv[-OWN_WORDS:]]
    try:
        first = os.getsid(pid) == pid
    except OSError:
        return False
    return first and arguments(pid).replace(b"\0", b" ").strip().endswith(b" ".join(words).strip())


def _in_session(pid: int, session: int) -> bool:
    """Whether `pid` is that worker still, and neither gone nor a zombie that nobody has buried yet."""
    try:
        if os.getsid(pid) != session:
            return False
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:
        return True  # no /proc here: a zombie counts as alive, for as long as the sweep waits


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just gone by itself


def _status(code: Optional[int]) -> JobStatus:
    if code is None:
        return JobStatus(JobState.RUNNING)
    if code < 0:
        return JobStatus(JobState.FAILED, signal=-code)
    return JobStatus(JobState.FAILED if code else JobState.COMPLETED, exit_code=code)


def _changed(changes: Mapping[str, Optional[str]]) -> dict[str, str]:
    environment = dict(os.environ)
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    return environment


def _shell() -> list[str]:
    # `module` and `conda` are functions of bash on most sites; where there is none, POSIX must do.
    return [shutil.which("bash") or "/bin/sh", "-c"]
