"""Programs that use an executor and are killed: for tests of what another one makes of their runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from clusterfutures.executor import ClusterExecutor
from tests.support import REPOSITORY

LIMIT = 120.0  # seconds that such a program may take

# What each of them begins with; it is killed, by itself if nobody else does it, where its own part ends.
BEGINNING = """
import os, signal, sys, time
from concurrent.futures import Future, wait
from clusterfutures import Retries, current_task
from {module} import {name}
from tests import local_work as work
from tests.support import wait_until

place, options = sys.argv[1], eval(sys.argv[2])
log, gate = place + "/notes", place + "/open"

def twice(n):
    return 2 * n

def begun(count):
    wait_until(lambda: len(work.notes(log)) >= count, 60)

ex = {name}(2, run_dir=place + "/run", keep="always", **options)
"""
END = "\nos.kill(os.getpid(), signal.{})\n"


def killed(
    kind: type[ClusterExecutor],
    place: Path,
    text: str,
    path: str = "",
    by: signal.Signals = signal.SIGKILL,
    **options: object,
) -> Path:
    """Run `text` with an executor `ex` of this kind until it is killed; returns the directory of its run.

    `place` is where it notes what it does, and where the file ``open`` lets its tasks go on; `path` comes
    before PATH.
    """
    script = place / "driver.py"
    beginning = BEGINNING.format(module=kind.__module__, name=kind.__name__)
    script.write_text(beginning + text + END.format(by.name), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": path + os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, str(script), str(place), repr(options)],
        env=environment,
        timeout=LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -by, done.stderr
    return place / "run"
