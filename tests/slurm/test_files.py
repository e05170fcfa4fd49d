"""Cells of docs/faults.rst: what happens to the files of a run, on the real Slurm."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from clusterfutures import (
    OutcomeNotWritten,
    RunDirectoryError,
    SlurmExecutor,
    WorkerLost,
    WorkerStartError,
    reattach,
    watch,
)
from tests import file_faults, filesystems
from tests import local_work as work
from tests.endings import BOTH, JOBS, POOL, Mode, begun, making, warnings
from tests.pbs.door import LIMIT
from tests.slurm import Cluster
from tests.support import check_no_process_left, wait_until

pytestmark = pytest.mark.long

Make = Callable[..., SlurmExecutor]
USUAL = {"mem": "100M", "time": "10m"}


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture
def make(here: Path, gate: Path) -> Iterator[Make]:
    """Makes executors that are shut down after the test, see `tests.endings.making`."""
    with making(SlurmExecutor, here, **USUAL) as found:
        yield found
        gate.touch()


@pytest.fixture
def all_ended(cluster: Cluster) -> Callable[[], None]:
    """Ends the jobs of a program that has died."""

    def end() -> None:
        cluster.cancel_all()
        cluster.idle()

    return end


def test_directories_that_are_refused(make: Make, here: Path) -> None:
    """Somebody else's, a read-only one, and one on a full disk; the last one is taken when there is room."""

    def refused(run_dir: Path, words: str) -> None:
        with pytest.raises(RunDirectoryError, match=words) as caught:
            make(POOL, run_dir=run_dir)
        assert caught.value.path == str(run_dir)
        assert str(run_dir) in str(caught.value)

    with filesystems.tmpfs(here / "readable", "ro") as disk:
        refused(disk / "run", "Read-only file system")
    with filesystems.tmpfs(here / "full") as disk:
        with filesystems.filled(disk):
            refused(disk / "run", "No space left")
        make(POOL, run_dir=disk / "run").shutdown()
    (here / "theirs").mkdir()
    os.chown(here / "theirs", 12345, 12345)
    refused(here / "theirs", "belongs to user 12345")


def test_changed_while_the_job_is_queued(
    make: Make, cluster: Cluster, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When it starts, the disk is full: an error says so.  Or its files are of an older format: another runs.

    A job that is for one task takes it before it has to write anything: the task is lost with it.
    """
    blocker = cluster.submit("sleep 600", "--nodelist=n1", "--cpus-per-task=4")
    cluster.wait_state(blocker, ["RUNNING"])
    with filesystems.tmpfs(here / "disk") as disk:
        modes = (POOL, JOBS)
        full = [make(mode, 1, nodelist="n1", run_dir=disk / mode.name, keep="always") for mode in modes]
        old = [make(mode, 1, nodelist="n1") for mode in modes]
        futures = [executor.submit(abs, -1) for executor in (*full, *old)]
        wait_until(lambda: len(cluster.queue()) == 1 + len(futures), LIMIT, cluster.queue)
        for executor in old:
            path = Path(executor.run_dir, "jobs", "0", "spec")
            spec = bytearray(path.read_bytes())
            spec[2] -= 1
            path.write_bytes(spec)
        with filesystems.filled(disk):
            cluster.query("scancel", blocker)
            errors = [future.exception(LIMIT) for future in futures]
            for executor in full:
                executor.shutdown()
    assert [type(error) for error in errors] == [WorkerStartError, WorkerLost, type(None), type(None)]
    assert "No space left" in str(errors[0])
    assert len(warnings(caplog, "CorruptRecord: no valid record")) == len(old)


@pytest.mark.parametrize("mode", BOTH)
def test_full_disk(make: Make, here: Path, mode: Mode) -> None:
    """What does not fit fails with that, all else goes on; and with no byte left it still ends."""
    with filesystems.tmpfs(here / "disk") as disk:
        executor = make(mode, run_dir=disk / "run")
        error = executor.submit(len, bytes(filesystems.TOO_LARGE)).exception(LIMIT)
        assert isinstance(error, OSError) and error.errno == errno.ENOSPC, repr(error)
        outcome = executor.submit(bytes, filesystems.TOO_LARGE).exception(LIMIT)
        file_faults.not_written(outcome, errno.ENOSPC)
        assert executor.submit(bytes, 1000).result(LIMIT) == bytes(1000)
        with filesystems.filled(disk):
            executor.shutdown()
        assert executor.active_workers == 0


@pytest.mark.parametrize("mode", BOTH)
def test_used_up_quota(make: Make, here: Path, mode: Mode) -> None:
    with filesystems.quota(here / "disk") as limited:
        file_faults.used_up_quota(partial(make, mode), limited)


@pytest.mark.parametrize("mode", BOTH)
def test_limit_on_file_size(make: Make, mode: Mode) -> None:
    file_faults.limit_on_file_size(partial(make, mode))


@pytest.mark.parametrize("mode", BOTH)
def test_read_only_while_tasks_run(make: Make, here: Path, mode: Mode, log: str, gate: Path) -> None:
    with filesystems.failing(here / "disk") as disk:
        error = file_faults.read_only(partial(make, mode), disk, log, gate)
    file_faults.not_written(error, errno.EROFS)


@pytest.mark.parametrize("mode", BOTH)
def test_run_directory_removed(
    make: Make, mode: Mode, log: str, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every task says so, none is run a second time, and the directory is not made again."""
    monkeypatch.setattr(watch, "STOP_AFTER", 1.0)  # idle workers cannot be told to leave
    executor = make(mode, keep="always")
    futures = [executor.submit(work.note_and_wait, log, n, str(gate)) for n in range(4)]
    begun(log, 2)
    shutil.rmtree(executor.run_dir)
    gate.touch()
    for error in (future.exception(LIMIT) for future in futures):
        assert isinstance(error, (OutcomeNotWritten, FileNotFoundError, WorkerStartError)), repr(error)
        assert "No such file or directory" in str(error)
    executor.shutdown()
    notes = work.notes(log)
    assert len(notes) == len({*notes})
    assert not os.path.exists(executor.run_dir)


def test_damaged_outcomes(here: Path, all_ended: Callable[[], None]) -> None:
    file_faults.damaged_outcomes(SlurmExecutor, here, all_ended, 2, **USUAL)


def test_stale_files(here: Path, all_ended: Callable[[], None]) -> None:
    file_faults.stale_files(SlurmExecutor, here, all_ended, **USUAL)


def test_run_of_an_older_format(make: Make) -> None:
    executor = make(POOL, keep="always")
    executor.shutdown()
    about = Path(executor.run_dir, "run.json")
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 0}))
    with pytest.raises(RunDirectoryError, match="format is 0"):
        reattach(executor.run_dir)
