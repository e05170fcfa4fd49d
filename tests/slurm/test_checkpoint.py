"""A task that is stopped by the wall time goes on where it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import Retries, SlurmExecutor, current_task
from tests import local_work
from tests.slurm import Cluster
from tests.support import wait_until

LIMIT = 50.0  # seconds; whatever takes longer hangs

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


def saves_when_warned(log: str) -> Any:
    """Wait for the warning, save what is left of the wall time, and go on until killed; then return it."""
    task = current_task()
    assert task is not None
    saved = task.checkpoint.load()
    if saved is not None:
        return saved
    local_work.note(log, "begun")
    wait_until(lambda: task.warned, LIMIT)
    task.checkpoint.save(["warned in attempt", task.attempt])
    local_work.note(log, "saved")
    time.sleep(local_work.LONG)
    return None


def said(log: str, word: str) -> None:
    """Wait until the task has noted a word."""
    wait_until(lambda: word in local_work.notes(log), LIMIT, lambda: local_work.notes(log))


def test_after_the_wall_time(cluster: Cluster, tmp_path: Path) -> None:
    """With more of it; both modes together, since Slurm looks for whom to warn, or end, twice a minute."""
    logs = [str(tmp_path / mode) for mode in ("pool", "jobs")]
    options: dict[str, Any] = {"mem": "100M", "time": "10m", "signal": "USR1@60"}
    options["retries"] = Retries(1, grow={"time": 1.5})
    with SlurmExecutor(1, **options) as pool, SlurmExecutor(1, job_per_task=True, **options) as jobs:
        tasks = [ex.submit(saves_when_warned, log) for ex, log in zip((pool, jobs), logs)]
        for log, task in zip(logs, tasks):
            said(log, "begun")
            cluster.query("scontrol", "update", f"JobId={task.job_id}", "EndTime=now+50")
        for log, task in zip(logs, tasks):
            said(log, "saved")
            cluster.expire(str(task.job_id))
        for task in tasks:
            assert task.result(LIMIT) == ["warned in attempt", 0]
            assert task.attempt == 1
            assert "TimeLimit=00:15:00" in cluster.query("scontrol", "show", "job", str(task.job_id))


def test_the_time_that_is_left(cluster: Cluster) -> None:
    def left() -> Any:
        task = current_task()
        assert task is not None
        wait_until(lambda: task.time_left is not None, LIMIT)
        return task.time_left

    options: dict[str, Any] = {"mem": "100M", "time": "10m"}
    with SlurmExecutor(1, **options) as pool, SlurmExecutor(1, job_per_task=True, **options) as jobs:
        for task in [ex.submit(left) for ex in (pool, jobs)]:
            assert 0 < task.result(LIMIT) <= 600
