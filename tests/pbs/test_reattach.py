"""A program that is killed, and another one that goes on with its jobs: on each PBS."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfutures import TorqueExecutor, reattach
from clusterfutures.schedulers.pbs import PbsScheduler
from tests import local_work as work
from tests.contract.executors import PBS_OPTIONS
from tests.drivers import killed
from tests.pbs import Door
from tests.pbs.door import LIMIT
from tests.support import check_no_process_left, wait_until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def nothing_left(pbs: Door) -> Iterator[None]:
    """At the end of the module: no job, and no process of one."""
    others = pbs.unfinished()
    yield
    pbs.idle(others)
    check_no_process_left()


@pytest.fixture(autouse=True)
def eager(pbs: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PBS of our own is asked every second, however quiet it is; a real one as often as users ask."""
    for name in () if pbs.real else ("interval", "longest_interval"):
        monkeypatch.setattr(PbsScheduler, name, 1.0)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that lets tasks go on once it exists; at the end of the test it does."""
    path = tmp_path / "open"
    yield path
    path.touch()


@pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
def test_running_queued_and_finished(pbs: Door, tmp_path: Path, gate: Path, jobs: bool) -> None:
    """What ran goes on in its job and is not run twice; the rest follows."""
    run = killed(
        TorqueExecutor,
        tmp_path,
        """
wait([ex.submit(pow, 2, 5)])
futures = [ex.submit(work.note_and_wait, log, n, gate) for n in range(3)]
begun(2)
ex.flush()
""",
        **PBS_OPTIONS,
        job_per_task=jobs,
    )
    with reattach(run) as ex:
        assert isinstance(ex, TorqueExecutor)
        assert ex.futures[0].result(LIMIT) == 32
        assert sum(future.running() for future in ex.futures[1:]) >= 2
        gate.touch()
        assert [future.result(LIMIT) for future in ex.futures[1:]] == [0, 1, 2]
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert sorted(work.notes(str(tmp_path / "notes"))) == ["0", "1", "2"]


def test_killed_behind_a_submission(pbs: Door, tmp_path: Path, gate: Path) -> None:
    """Before it could note the job's id: the job is found, and is there once."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "qsub"
    wrapper.write_text(f'#!/bin/sh\n{shutil.which("qsub")} "$@"; kill -9 $PPID\n')
    wrapper.chmod(0o755)
    run = killed(
        TorqueExecutor,
        tmp_path,
        """
for n in range(2):
    ex.submit(work.note_and_wait, log, n, gate)
ex.flush()
signal.pause()
""",
        f"{tmp_path / 'bin'}:",
        **PBS_OPTIONS,
        job_per_task=True,
    )
    assert not (run / "jobs" / "0" / "ids").exists()
    with reattach(run) as ex:
        wait_until(lambda: len(work.notes(str(tmp_path / "notes"))) == 2, LIMIT)
        gate.touch()
        assert [future.result(LIMIT) for future in ex.futures] == [0, 1]
    assert (run / "jobs" / "0" / "ids").read_text().split()
    assert sorted(work.notes(str(tmp_path / "notes"))) == ["0", "1"]
