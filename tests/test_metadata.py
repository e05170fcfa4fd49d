"""Files grow with the work and are not made anew: few metadata operations, however many tasks.

Audit hooks count them in every process of a run, so this does not depend on how fast the machine is.  Python
audits what opens, makes, renames, removes or lists a file; it does not audit `os.stat`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import REPOSITORY, ScriptResult

TASKS = 1000
AT_MOST = 99  # operations for so many tasks, in all processes together

# In each process: notes what it does in a file that is open already; to write is no metadata operation.
SITECUSTOMIZE = """\
import os, sys

log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
watched = {
    "open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.listdir",
    "os.scandir", "os.truncate", "os.chmod", "os.utime",
}

def note(event, args):
    if event in watched and isinstance(args[0], (str, bytes)):
        os.write(log, os.fsencode(f"{event} {os.fsdecode(args[0])}\\n"))

sys.addaudithook(note)
"""

# The marks are operations of their own, so they are in the file in order.
SCRIPT = """\
import os, sys
from concurrent.futures import wait
from clusterfutures import LocalExecutor

with LocalExecutor(2, doorbell={bell}) as ex:
    print(ex.run_dir)
    wait([ex.submit(abs, n) for n in range(50)])
    assert sum(ex.map(abs, range(50))) == 1225
    os.mkdir("submit")
    wait([ex.submit(abs, n) for n in range({tasks})])
    os.mkdir("map")
    assert sum(ex.map(abs, range({tasks}))) == sum(range({tasks}))
    os.mkdir("end")
"""


@pytest.mark.parametrize("bell", [True, False], ids=["bell", "polling"])
def test_few_for_a_thousand_tasks(run: Callable[..., ScriptResult], tmp_path: Path, bell: bool) -> None:
    site, log = tmp_path / "site", tmp_path / "log"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    env = {"PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}", "AUDIT_LOG": str(log)}
    run_dir = run(SCRIPT.format(bell=bell, tasks=TASKS), env=env).check().stdout.strip()
    lines = log.read_text().splitlines()
    begin, middle, end = (lines.index(f"os.mkdir {word}") for word in ("submit", "map", "end"))

    def counted(lines: list[str]) -> list[str]:
        # A supervisor without a bell looks for orders from time to time: that goes by the clock.
        orders = f"open {run_dir}/jobs/0/0.0/in.000000"
        return [line for line in lines if run_dir in line and line != orders]

    made = counted(lines[:begin])
    homes = (f"{run_dir}/jobs/0/0.0/{slot}.0" for slot in range(2))
    assert any({f"open {home}/in.000000", f"open {home}/out.000000"} <= {*made} for home in homes), "it hears"
    assert len(counted(lines[begin:middle])) <= AT_MOST
    assert len(counted(lines[middle:end])) <= AT_MOST
