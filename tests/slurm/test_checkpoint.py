"""A task that is stopped by the wall time goes on where it was."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SlurmExecutor, current_task
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


@pytest.mark.parametrize("job_per_task", [False, True], ids=["pool", "jobs"])
def test_after_the_wall_time(cluster: Cluster, tmp_path: Path, job_per_task: bool) -> None:
    log = str(tmp_path / "log")
    with SlurmExecutor(
        1, mem="100M", time="10m", signal="USR1@60", retries=1, job_per_task=job_per_task
    ) as ex:
        task = ex.submit(saves_when_warned, log)
        wait_until(lambda: local_work.notes(log), LIMIT)
        (job,) = cluster.queue()
        cluster.query("scontrol", "update", f"JobId={job}", "EndTime=now+50")
        wait_until(lambda: "saved" in local_work.notes(log), LIMIT, lambda: local_work.notes(log))
        cluster.expire(job)
        assert task.result(LIMIT) == ["warned in attempt", 0]
        assert task.attempt == 1


def test_the_time_that_is_left(cluster: Cluster) -> None:
    def left() -> Any:
        task = current_task()
        assert task is not None
        wait_until(lambda: task.time_left is not None, LIMIT)
        return task.time_left

    with SlurmExecutor(1, mem="100M", time="10m") as ex:
        assert 0 < ex.submit(left).result(LIMIT) <= 600
