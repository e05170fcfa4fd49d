"""A scheduler in one file: this machine, without a queue.

It shows what a new scheduler has to bring, and that this is all: the page "Adding a scheduler" reads it from
here, and ``tests/test_one_file_scheduler.py`` runs the executor on it.  A job is a shell that `nohup` has put
into the background.  It is known by its process group, survives the program that has started it, and leaves
its exit code in a file beside its script.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from clusterfutures.errors import OptionError, SubmissionError
from clusterfutures.executor import ClusterExecutor
from clusterfutures.schedulers.base import JobRequest, JobStatus, Scheduler
from clusterfutures.schedulers.command import run
from clusterfutures.schedulers.script import Variables, render
from clusterfutures.states import JobState

# For bash, with a script and an index.  The job stays in the process group of this shell, $$, for which run()
# has made a session.  It has no share in the shell's output, to the end of which run() reads.
START = """
nohup bash -c 'bash "$1" "$2" "$3"; echo $? >"$1.$2.exit"' job "$1" "$2" $$ </dev/null >/dev/null 2>&1 &
echo $$
"""

# What a script that START runs knows of itself.
VARIABLES = Variables(element="$1", restart="0", job_id="$2")


class ShellScheduler(Scheduler):
    """Starts each element at once, in the background of a shell."""

    name = "shell"
    interval = 0.5
    closing_interval = 0.05
    longest_interval = 2.0
    grace = 0.0

    def __init__(self) -> None:
        self._exits: dict[str, str] = {}  # the files with the exit codes, by job id
        self._cancelled: set[str] = set()

    def check(self, resources: Mapping[str, Any]) -> None:
        """Refuse whatever would need a queue, or somebody who keeps to limits."""
        for name in resources.keys() - {"name", "modules"}:
            raise OptionError(f"{name}: a shell has no such option")

    def submit(self, request: JobRequest) -> list[str]:
        """Write the script, and start a shell with it for each element."""
        script = render(request, VARIABLES, request.log)
        try:
            with open(request.script, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(script)
            return [self._start(request.script, index) for index in range(request.elements)]
        except OSError as error:
            raise SubmissionError(f"cannot start a job: {error}") from error

    def _start(self, script: str, index: int) -> str:
        argv = _command(script, index)
        done = run(argv)
        if done.code:
            raise SubmissionError(f"bash refused the job: {done.stderr}", argv, done.code, done.stderr)
        job_id = done.stdout.strip()
        self._exits[job_id] = f"{script}.{index}.exit"
        return job_id

    def adopt(self, request: JobRequest, ids: Optional[list[str]]) -> list[str]:
        """Of what another process has started, all that is needed is where it leaves its exit code."""
        ids = super().adopt(request, ids)
        for index, job_id in enumerate(ids):
            self._exits[job_id] = f"{request.script}.{index}.exit"
        return ids

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Kill their process groups; workers notice that their supervisor is gone."""
        for job_id in job_ids:
            if self._status(job_id).state is JobState.RUNNING:
                self._cancelled.add(job_id)
                _kill(job_id)

    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        """Look for their exit codes, and for their processes."""
        return {job_id: self._status(job_id) for job_id in job_ids if job_id in self._exits}

    def _status(self, job_id: str) -> JobStatus:
        if job_id in self._cancelled:
            return JobStatus(JobState.CANCELLED)
        alive = _is_alive(job_id)
        code = _exit_code(self._exits[job_id])  # read last: a job that has just gone has left it
        if code is None:
            return JobStatus(JobState.RUNNING) if alive else JobStatus(JobState.FAILED, text="killed")
        if code > 128:
            return JobStatus(JobState.FAILED, signal=code - 128)
        return JobStatus(JobState.FAILED if code else JobState.COMPLETED, exit_code=code)

    def explain(self, request: JobRequest) -> str:
        """The command for the first element, and the script."""
        script = render(request, VARIABLES, request.log)
        return f"# The command:\n{shlex.join(_command(request.script, 0))}\n\n# The script:\n{script}"

    def test_only(self, request: JobRequest) -> str:
        """What bash says of the script without running it: nothing, if it can read it."""
        argv = ["bash", "-n"]
        done = run(argv, stdin=render(request, VARIABLES, request.log))
        if done.code:
            raise SubmissionError(f"bash cannot read the script: {done.stderr}", argv, done.code, done.stderr)
        return "it would start at once"


class ShellExecutor(ClusterExecutor):
    """`concurrent.futures.ProcessPoolExecutor` whose workers are in jobs of a `ShellScheduler`."""

    def _make_scheduler(self, options: dict[str, Any]) -> ShellScheduler:
        return ShellScheduler()


def _command(script: str, index: int) -> list[str]:
    return ["bash", "-c", START, "start", script, str(index)]


def _kill(job_id: str) -> None:
    try:
        os.killpg(int(job_id), signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended by itself


def _is_alive(job_id: str) -> bool:
    try:
        os.killpg(int(job_id), 0)
    except ProcessLookupError:
        return False
    return True


def _exit_code(path: str) -> Optional[int]:
    """What is in the file; None while there is nothing."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (FileNotFoundError, ValueError):
        return None
