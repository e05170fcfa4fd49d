"""A program that is interrupted, or fails in its `with` block: nothing of it stays on the cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import local_work
from tests.slurm import Cluster
from tests.support import ScriptResult, check_no_process_left

pytestmark = pytest.mark.long

PROGRAM = """
import subprocess, sys
from clusterfutures import SlurmExecutor, executor
from tests import local_work
from tests.support import wait_until

executor.GATHER = 1.0  # a busy machine may stop a loop of submissions for a while, which would end the array
log, how = sys.argv[1:]
options = {"mem": "100M", "keep": "never"}


def queued():
    return len(subprocess.run(["squeue", "-h", "-r"], stdout=subprocess.PIPE).stdout.splitlines())


pool = SlurmExecutor(2, begin="now+1hour", **options)
with pool, SlurmExecutor(1, job_per_task=True, **options) as jobs:
    futures = [jobs.submit(local_work.note_and_sleep, log, n, local_work.LONG) for n in range(3)]
    pool.submit(abs, -1)
    wait_until(lambda: local_work.notes(log) and queued() == 4, interval=0.2)
    if how == "error":
        raise KeyError("a mistake")
    local_work.note(log, "ready")
    futures[0].result()
"""


@pytest.mark.parametrize(("how", "said"), [("error", "KeyError"), ("Ctrl-C", "KeyboardInterrupt")])
def test_nothing_stays(
    cluster: Cluster, run: Callable[..., ScriptResult], tmp_path: Path, how: str, said: str
) -> None:
    """What runs is ended, what waits is taken out of the queue, in both modes."""
    log = str(tmp_path / "notes")
    interrupt = (lambda: "ready" in local_work.notes(log)) if how == "Ctrl-C" else None
    ended = run(PROGRAM, log, how, interrupt_when=interrupt)
    assert ended.returncode, ended.report()
    assert said in ended.stderr, ended.report()
    assert cluster.queue("-t", "pending,running") == []
    cluster.idle()
    check_no_process_left()
    assert set(local_work.notes(log)) - {"ready"} == {"0"}, "no other one has begun"
