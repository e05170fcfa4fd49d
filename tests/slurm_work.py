"""What the tests run in Slurm's jobs; workers import it, so it imports little."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import NamedTuple

from tests.local_work import LONG, note, notes


class Place(NamedTuple):
    """Where a task ran: the worker's process, its job by Slurm's own id, and what it may use there."""

    pid: int
    job: str
    cpus: tuple[int, ...]
    gpus: str
    threads: tuple[str, ...]


def place(_: object = None) -> Place:
    """Where this runs."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return Place(
        os.getpid(),
        os.environ["SLURM_JOB_ID"],
        tuple(sorted(os.sched_getaffinity(0))),
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        tuple(os.environ.get(name, "") for name in names),
    )


def meet(folder: str, number: int, others: int) -> Place:
    """Wait until as many tasks are in here at the same time; print and return where this one runs."""
    note(os.path.join(folder, "here"), number)
    deadline = time.monotonic() + LONG
    while len(notes(os.path.join(folder, "here"))) < others:
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come")
        time.sleep(0.01)
    print(f"task {number}")
    return place()


def take_time(path: str, seconds: float, number: int = 0) -> int:
    """Take so long, and note the beginning and the end of it."""
    note(path, f"+{number}")
    time.sleep(seconds)
    note(path, f"-{number}")
    return number


def most_at_once(path: str) -> int:
    """How many of these ran at the same time, by their own notes."""
    now = most = 0
    for line in notes(path):
        now += 1 if line.startswith("+") else -1
        most = max(most, now)
    return most


def nodes_of_job() -> list[str]:
    """The names of all nodes of this job, each told by a process there."""
    done = subprocess.run(
        ["srun", "sh", "-c", "echo $SLURMD_NODENAME"], check=True, capture_output=True, text=True
    )
    return sorted(done.stdout.split())


def wait_for_warning(path: str) -> str:
    """The name of the signal that comes."""
    caught: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: caught.append(number))
    note(path, "ready")
    deadline = time.monotonic() + LONG
    while not caught:
        if time.monotonic() > deadline:
            raise TimeoutError("no signal")
        time.sleep(0.01)
    return signal.Signals(caught[0]).name
