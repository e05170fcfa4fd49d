"""Nodes whose clock is minutes off: durations travel, times of day do not."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from clusterfutures import SlurmExecutor
from tests.slurm import Cluster

pytestmark = pytest.mark.long


@pytest.fixture(params=["-20m", "+20m"])
def other_clock(request: pytest.FixtureRequest) -> list[str]:
    """The interpreter, under a clock that is wrong by so much."""
    if shutil.which("faketime") is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("needs faketime: apt-get install faketime")
    return ["faketime", "-f", str(request.param), sys.executable]


@pytest.mark.parametrize(
    "options", [{}, {"job_per_task": True}, {"doorbell": False}], ids=["pool", "job-per-task", "polling"]
)
def test_work_goes_on(
    cluster: Cluster, tmp_path: Path, other_clock: list[str], options: dict[str, bool]
) -> None:
    with SlurmExecutor(
        2, time="5m", mem="200M", python=other_clock, run_dir=tmp_path / "run", **options
    ) as executor:
        futures = [executor.submit(time.time) for _ in range(4)]
        there = [future.result(50) for future in futures]
    assert all(600 < abs(clock - time.time()) < 1800 for clock in there), "the clock was wrong indeed"
    for future in futures:
        assert future.queue_time is not None
        assert 0 <= future.queue_time < 600
        assert future.wall_time is not None
        assert 0 <= future.wall_time < 600
