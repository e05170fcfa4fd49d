"""Further attempts on a real Slurm: with more memory, and on another node."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import OutOfMemory, Retries, SlurmExecutor, WorkerLost, current_task
from tests import local_work
from tests.slurm import Cluster

LIMIT = 50.0  # seconds; whatever takes longer hangs
MODES = [pytest.param({}, id="pool"), pytest.param({"job_per_task": True}, id="jobs")]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


def fills(log: str, megabytes: int) -> tuple[int, str]:
    """The attempt that had so much memory; notes each."""
    task = current_task()
    assert task is not None
    local_work.note(log, task.attempt)
    block = b"x" * (megabytes << 20)
    assert len(block) == megabytes << 20
    return task.attempt, task.job_id


def dies_on(node: str) -> tuple[int, str]:
    """The attempt that was not on `node`, and where it was; all others kill their worker."""
    task = current_task()
    assert task is not None
    here = os.environ["SLURMD_NODENAME"]
    if here == node:
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(LIMIT)
    return task.attempt, here


@pytest.mark.parametrize("mode", MODES)
def test_with_more_memory(tmp_path: Path, mode: dict[str, Any]) -> None:
    """The first attempt has too little, and so has the second; the third has enough."""
    log = str(tmp_path / "log")
    retries = Retries(3, grow={"mem": 2}, ceiling={"mem": "400M"})
    with SlurmExecutor(1, mem="80M", time="10m", retries=retries, keep="never", **mode) as ex:
        attempt, _job = ex.submit(fills, log, 200).result(LIMIT)
        assert attempt == 2
        hopeless = ex.options(retries=Retries(9, grow={"mem": 3}, ceiling={"mem": "100M"}))
        error = hopeless.submit(fills, str(tmp_path / "hopeless"), 200).exception(LIMIT)
    assert isinstance(error, OutOfMemory)
    assert len(error.earlier) == 1  # at the ceiling it is told
    assert local_work.notes(log) == ["0", "1", "2"]


@pytest.mark.parametrize("mode", MODES)
def test_on_another_node(cluster: Cluster, mode: dict[str, Any]) -> None:
    """Which is taken from the error of the first attempt."""
    bad, good = cluster.nodes
    with SlurmExecutor(1, mem="80M", retries=0, nodelist=bad, keep="never", **mode) as ex:
        error = ex.submit(dies_on, bad).exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert error.node == bad
    with SlurmExecutor(2, mem="80M", cores=4, keep="never", **mode) as ex:  # each has a node of its own
        view = ex.options(retries=Retries(1, exclude=True))
        found = [view.submit(dies_on, bad) for _ in range(3)]
        assert {future.result(LIMIT)[1] for future in found} == {good}


def test_a_bad_node_does_not_eat_the_queue(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """Each task that it gets, it loses; the others end on the good one."""
    bad, good = cluster.nodes
    with SlurmExecutor(2, mem="80M", cores=4, keep="never", retries=5) as ex:
        assert ex.wait_for_workers(2, LIMIT)
        found = list(ex.map(dies_on_slowly, [(bad, n) for n in range(40)], timeout=LIMIT))
        assert {where for _, where in found} == {good}
        assert f"node {bad} has lost 3 tasks in a row" in caplog.text
        assert bad in ex.options(time="5m").explain()


def dies_on_slowly(item: tuple[str, int]) -> tuple[int, str]:
    """The same, in a tenth of a second, so that both nodes get some."""
    time.sleep(0.1)
    return dies_on(item[0])
