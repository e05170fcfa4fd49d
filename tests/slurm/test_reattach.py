"""A program that is killed, and another one that goes on with its jobs: on the real Slurm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfutures import SlurmExecutor, WorkerLost, reattach
from tests import local_work as work
from tests.drivers import killed
from tests.slurm import Cluster
from tests.support import check_no_process_left, wait_until

LIMIT = 60.0  # seconds; whatever takes longer hangs

pytestmark = pytest.mark.long

SMALL = {"mem": "100M", "time": "5m"}


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture(params=["pool", "polling pool", "jobs"])
def options(request: pytest.FixtureRequest) -> dict[str, object]:
    """Both ways to use an allocation; the workers of a pool find the new driver by bell, or without."""
    return {"job_per_task": "jobs" in request.param, "doorbell": "polling" not in request.param}


def test_running_queued_and_finished(here: Path, gate: Path, options: dict[str, object]) -> None:
    """What ran goes on in its job and is not run twice; what waited in the queue or the driver follows."""
    run = killed(
        SlurmExecutor,
        here,
        """
done = ex.submit(pow, 2, 5)
wait([done])
futures = [ex.submit(work.note_and_wait, log, n, gate) for n in range(4)]
begun(2)
child = ex.options(name="sum").submit(sum, futures)
ex.flush()
""",
        **SMALL,
        **options,
    )
    submitted = sorted(os.listdir(run / "jobs"))
    with reattach(run) as ex:
        assert isinstance(ex, SlurmExecutor)
        assert ex.futures[0].result(LIMIT) == 32
        jobs = {future.job_id for future in ex.futures[1:5] if future.running()}
        assert len(jobs) == 2
        gate.touch()
        assert ex.futures["sum"].result(LIMIT) == 6
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert jobs <= {future.job_id for future in ex.futures[1:5]}
        if not options["job_per_task"]:
            assert sorted(os.listdir(run / "jobs")) == submitted, "the workers that are there do all of it"
    assert sorted(work.notes(str(here / "notes"))) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
def test_lost_while_nobody_looked(cluster: Cluster, here: Path, gate: Path, jobs: bool) -> None:
    """Jobs that were cancelled meanwhile are not waited for: their tasks are tried again, or fail."""
    run = killed(
        SlurmExecutor,
        here,
        """
ex.options(retries=1).submit(work.note_and_wait, log, 0, gate)
ex.submit(work.note_and_wait, log, 1, gate)
begun(2)
""",
        **SMALL,
        job_per_task=jobs,
    )
    cluster.cancel_all()
    cluster.idle()
    gate.touch()
    with reattach(run) as ex:
        assert ex.futures[0].result(LIMIT) == 0
        assert ex.futures[0].attempt == 1
        assert isinstance(ex.futures[1].exception(LIMIT), WorkerLost)
    assert sorted(work.notes(str(here / "notes"))) == ["0", "0", "1"]


@pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
def test_memory_that_has_grown_stays_so(here: Path, gate: Path, jobs: bool) -> None:
    """The second attempt had twice as much, and runs; the third has twice as much as that."""
    killed(
        SlurmExecutor,
        here,
        """
def hungry():
    attempt, mem = current_task().attempt, int(os.environ["SLURM_MEM_PER_NODE"])
    work.note(log, mem)
    if attempt == 1:
        work.note_and_wait(log, "waits", gate)
    if attempt < 2:
        work.hold_bytes(2 * mem << 20)
    raise ValueError(mem)

ex.options(retries=Retries(2, grow={"mem": 2}, ceiling={"mem": "1G"})).submit(hungry)
begun(3)
""",
        **{**SMALL, "mem": "60M"},
        job_per_task=jobs,
    )
    gate.touch()
    with reattach(here / "run") as ex:
        error = ex.futures[0].exception(LIMIT)
    assert isinstance(error, ValueError)
    assert error.args == (240,)
    assert work.notes(str(here / "notes")) == ["60", "120", "waits", "240"]


@pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_a_submission(here: Path, gate: Path, jobs: bool, when: str) -> None:
    """Between the intent and the note of the job's id: the job is found, or submitted, and is there once."""
    (here / "bin").mkdir()
    wrapper = here / "bin" / "sbatch"
    sbatch = shutil.which("sbatch")
    steps = {"before": "kill -9 $PPID", "after": f'{sbatch} "$@"; kill -9 $PPID'}
    wrapper.write_text(f"#!/bin/sh\n{steps[when]}\n")
    wrapper.chmod(0o755)
    run = killed(
        SlurmExecutor,
        here,
        """
for n in range(2):
    ex.submit(work.note_and_wait, log, n, gate)
ex.flush()
signal.pause()
""",
        f"{here / 'bin'}:",
        **SMALL,
        job_per_task=jobs,
    )
    assert not (run / "jobs" / "0" / "ids").exists()
    assert (run / "jobs" / "0" / "spec").exists()
    with reattach(run) as ex:
        wait_until(lambda: len(work.notes(str(here / "notes"))) == 2, LIMIT)
        gate.touch()
        assert [future.result(LIMIT) for future in ex.futures] == [0, 1]
    assert sorted(work.notes(str(here / "notes"))) == ["0", "1"]
    assert bool((run / "jobs" / "0" / "ids").read_text().split()) == (when == "after")
    assert (run / "jobs" / "1").exists() == (when == "before")


@pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
def test_put_back_while_nobody_looked(cluster: Cluster, here: Path, gate: Path, jobs: bool) -> None:
    """What Slurm has started anew, under the same id, is the next attempt, and not made a third time."""
    run = killed(
        SlurmExecutor,
        here,
        """
ex.options(retries=1).submit(work.note_and_wait, log, 0, gate)
begun(1)
""",
        **SMALL,
        job_per_task=jobs,
    )
    (job_id,) = (run / "jobs" / "0" / "ids").read_text().split()
    cluster.requeue(job_id)
    if jobs:
        wait_until(lambda: len(work.notes(str(here / "notes"))) == 2, LIMIT)
    with reattach(run) as ex:
        gate.touch()
        assert ex.futures[0].result(LIMIT) == 0
        assert (ex.futures[0].attempt, ex.futures[0].job_id) == (1, job_id)
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert work.notes(str(here / "notes")) == ["0", "0"]
