"""What Slurm itself knows of the jobs that were run: when they ended, and what CPU time they took.

The end is read from slurmctld's log, which tells it to the millisecond and costs the machine nothing; squeue,
asked often enough, would slow down what is measured.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

#: "[2026-11-20T10:00:41.626] _job_complete: JobId=23_198(222) done", and "JobId=24 done" without an array.
ENDED = re.compile(rb"^\[(\S+)\] _job_complete: JobId=(\d+)(_\d+\(\d+\))? done$", re.MULTILINE)

LOOK = 0.05  # seconds between two looks at the log
ACCOUNTING = 15.0  # seconds until slurmdbd must know what slurmctld knows


class Ends:
    """The ends of jobs from now on; ``SLURM_CONF`` names a cluster of `tests.slurm`.

    `last` is when the latest one ended, as `time.time` tells it; `jobs` are the ids of those that have ended,
    without the indices of array elements.
    """

    def __init__(self) -> None:
        self._log = Path(os.environ["SLURM_CONF"]).parent / "log" / "slurmctld.log"
        self._read_to = self._log.stat().st_size
        self._count = 0
        self.last = 0.0
        self.jobs: set[str] = set()

    def wait(self, count: int) -> None:
        """Return when `count` jobs and array elements have ended since this was made."""
        while True:
            self._read()
            if self._count >= count:
                return
            time.sleep(LOOK)

    def _read(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._read_to)
            text, newline, _ = file.read().rpartition(b"\n")  # the last line may be half of one
        self._read_to += len(text + newline)
        for match in ENDED.finditer(text):
            self._count += 1
            self.jobs.add(match[2].decode())
            self.last = datetime.fromisoformat(match[1].decode()).timestamp()


def cpu_seconds(jobs: Iterable[str], count: int) -> float:
    """Return the CPU time of jobs with `count` elements in all, from accounting, which may be a little late.

    That is the time of the script and all that it has started, without slurmd's own.
    """
    words = ["--noheader", "--parsable2", "--format=JobID,TotalCPU,End", f"--jobs={','.join(jobs)}"]
    deadline = time.monotonic() + ACCOUNTING
    while True:
        printed = subprocess.run(["sacct", *words], stdout=subprocess.PIPE, text=True, check=True).stdout
        rows = [line.split("|") for line in printed.splitlines()]
        steps = [cpu for name, cpu, end in rows if "." in name and end != "Unknown"]
        if sum(name.endswith(".batch") for name, _, end in rows if end != "Unknown") >= count:
            return sum(map(seconds, steps))
        if time.monotonic() > deadline:
            raise TimeoutError(f"sacct knows {len(steps)} steps of {count} jobs")
        time.sleep(0.5)


def seconds(text: str) -> float:
    """Read a time as sacct prints it.

    >>> seconds("00:00.021"), seconds("1-02:00:03")
    (0.021, 93603.0)
    """
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total + 86400 * int(days or 0)
