"""Pool workers whose driver was killed outright: they finish what they run, write it, and leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import Cluster
from tests.support import REPOSITORY, outcomes, wait_until

pytestmark = pytest.mark.long

DRIVER = """
import sys
from clusterfutures import SlurmExecutor
from tests.slurm.test_orphans import work

bell, orphan, place = sys.argv[1:4]
with SlurmExecutor(
    2, mem="100M", time="5m", run_dir=place + "/run", orphan=orphan, orphan_timeout=5, doorbell=bell == "bell"
) as executor:
    list(executor.map(work, [place + "/a", place + "/b"]))
"""


def work(path: str) -> str:
    """Say that it has begun, and end when it is let; run on a node."""
    Path(path).write_text(str(os.getpid()))
    wait_until(Path(path + ".open").exists, 60)
    return path


@pytest.mark.parametrize("bell", ["bell", "polling"])
@pytest.mark.parametrize("orphan", ["drain", "kill"])
def test_they_leave(cluster: Cluster, tmp_path: Path, bell: str, orphan: str) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), bell, orphan, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        begun = [tmp_path / "a", tmp_path / "b"]
        wait_until(lambda: all(path.exists() for path in begun), 50)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    if orphan == "kill":
        cluster.idle(50)
        assert outcomes(tmp_path / "run") == 0
        return
    for path in begun:
        path.with_name(path.name + ".open").touch()
    cluster.idle(50)
    assert outcomes(tmp_path / "run") == 2
