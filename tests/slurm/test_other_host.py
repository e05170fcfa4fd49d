"""A driver on one login node, and another one on the next: who drives the run cannot be seen from there.

The other login node is this machine under another name, with process numbers of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clusterfutures import RunInUse, SlurmExecutor, cli, reattach
from clusterfutures.writing.leases import read_record, write_record
from tests import local_work as work
from tests.support import REPOSITORY, wait_until

pytestmark = pytest.mark.long

LIMIT = 60.0  # seconds; whatever takes longer hangs
HOST = "login-2"
SIGN = 4.0  # seconds from one sign of life of the driver to the next

PROGRAM = f"""
import signal, sys
from clusterfutures import SlurmExecutor
from tests import local_work as work

place = sys.argv[1]
options = {{"mem": "100M", "time": "10m", "orphan_timeout": {4 * SIGN}, "keep": "always"}}
ex = SlurmExecutor(2, run_dir=place + "/run", **options)
for number in range(3):
    ex.submit(work.note_and_wait, place + "/notes", number, place + "/open")
signal.pause()
"""


ON_IT = [
    *("unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"),
    *("sh", "-c", f'hostname {HOST} && exec "$@"', "sh"),
]
"""What comes before a command."""


@pytest.fixture
def another_host() -> None:
    """Skip where this one cannot be given another name."""
    if shutil.which("unshare") is None:
        pytest.skip("another host is made by unshare, of Linux")
    if subprocess.run([*ON_IT, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("only root can make another host of this one")


@contextmanager
def on_the_other_host(place: Path) -> Iterator[None]:
    """The program runs there, and is killed in the end."""
    script = place / "driver.py"
    script.write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([*ON_IT, sys.executable, str(script), str(place)], env=environment)
    try:
        yield
    finally:
        process.kill()
        process.wait(LIMIT)


@pytest.mark.usefixtures("another_host")
def test_a_run_from_there(here: Path, gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While its program lives it is left alone; once nothing is heard of it, it goes on here."""
    run, log = here / "run", str(here / "notes")
    with on_the_other_host(here):
        wait_until(lambda: len(work.notes(log)) == 2, LIMIT)
        with pytest.raises(RunInUse, match=f"in use by process 1 on {HOST}") as caught:
            reattach(run)
        assert (caught.value.host, caught.value.pid) == (HOST, 1)
        assert cli.main(["runs", str(run)]) == 0
        assert capsys.readouterr().out.startswith("elsewhere ")
        assert cli.main(["clean", "--dead", str(run)]) == 1
        assert f"in use by process 1 on {HOST}" in capsys.readouterr().out
        assert len(work.notes(log)) == 2, "its workers did not notice"
    lease = str(run / "lease.1")
    write_record(lease, {**read_record(lease), "timeout": 1.0})  # a minute and a half by itself
    with reattach(run) as ex:
        assert isinstance(ex, SlurmExecutor)
        jobs = {future: future.job_id for future in ex.futures if future.running()}
        assert len(jobs) == 2
        gate.touch()
        assert [future.result(LIMIT) for future in ex.futures] == [0, 1, 2]
        assert {future: future.job_id for future in jobs} == jobs
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert sorted(work.notes(log)) == ["0", "1", "2"], "each ran once"
