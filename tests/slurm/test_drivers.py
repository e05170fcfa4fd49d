"""Cells of docs/faults.rst: what befalls the driver, and its doorbell, while tasks run on Slurm."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SlurmExecutor, WorkerLost, reattach
from clusterfutures.schedulers.slurm import SlurmScheduler
from tests import local_work as work
from tests.drivers import (
    CLOSING,
    END,
    ENDS,
    LIMIT,
    STOPPED,
    TERMINATED,
    Driver,
    cabled,
    interrupt_twice,
    outlast_cut,
    outlast_flood,
    outlast_forgeries,
)
from tests.endings import JOBS, POOL, Mode
from tests.slurm import Cluster
from tests.support import check_no_process_left, outcomes, wait_until

pytestmark = pytest.mark.long

SMALL = {"mem": "100M", "time": "10m"}

Drive = Callable[..., Driver]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture
def drive(here: Path) -> Iterator[Drive]:
    """``drive(text, **options)``: start a `Driver` in a place of its own; several work side by side."""
    with ExitStack() as stack:

        def start(text: str, **options: Any) -> Driver:
            place = here / f"driver{len(list(here.iterdir()))}"
            place.mkdir()
            driver = Driver(SlurmExecutor, place, text, **{**SMALL, **options})
            stack.callback(driver.gate.touch)
            return stack.enter_context(driver)

        yield start


def jobs(driver: Driver) -> set[str]:
    """The ids of all jobs that it has submitted."""
    return {job for path in driver.run.glob("jobs/*/ids") for job in path.read_text().split()}


class TestDriver:
    """It is ended, or stands still."""

    def test_sigterm(self, cluster: Cluster, drive: Drive) -> None:
        """Workers finish what they run, or are ended if so wanted, and another driver has all the rest."""
        text = TERMINATED + END.format("SIGTERM")
        drain, kill = (drive(text, orphan=orphan, orphan_timeout=3.0) for orphan in ("drain", "kill"))
        drivers = (drain, kill, drive(text, **JOBS.options))
        for driver in drivers:
            ended = driver.end()
            assert ended.returncode == -signal.SIGTERM, ended.report()
            if driver is not kill:
                driver.gate.touch()
        cluster.idle(LIMIT)
        with ExitStack() as stack:
            for driver in drivers:
                first, second = stack.enter_context(reattach(driver.run)).futures
                assert second.result(LIMIT) == 2
                if driver is kill:
                    assert isinstance(first.exception(LIMIT), WorkerLost)
                else:
                    assert first.result(LIMIT) == "runs"
        assert [work.notes(driver.log) for driver in drivers] == [["runs"]] * 3

    def test_stopped(self, cluster: Cluster, drive: Drive) -> None:
        """For a while, nobody misses it; for long, those do whose line to it does not stay open by itself."""
        drain, kill = (
            drive(STOPPED, doorbell=False, orphan=orphan, orphan_timeout=4.0) for orphan in ("drain", "kill")
        )
        patient = drive(STOPPED, doorbell=False)
        heard = drive(STOPPED, orphan="kill", orphan_timeout=4.0)
        drivers = (drain, kill, patient, heard)
        for driver in drivers:
            driver.wait_stopped()
        first = [jobs(driver) for driver in drivers]
        drain.gate.touch()
        wait_until(lambda: not (first[0] | first[1]) & set(cluster.queue()), LIMIT, cluster.queue, 0.1)
        assert first[2] | first[3] <= set(cluster.queue())
        for driver in drivers:
            driver.gate.touch()
        wait_until(lambda: all(outcomes(driver.run) for driver in (drain, patient, heard)), LIMIT)
        assert outcomes(kill.run) == 0
        for driver in drivers:
            driver.process.send_signal(signal.SIGCONT)
        for driver in drivers:
            said = driver.end().check().stdout.split()
            assert said == ["WorkerLost" if driver is kill else "0", "1", "2"]
            assert sorted(work.notes(driver.log)) == ["0", "1", "2"], "none ran twice"
        again = [jobs(driver) != before for driver, before in zip(drivers, first)]
        assert again == [True, True, False, False], "whose workers had gone has had new ones"


class TestInterrupted:
    """Ctrl-C, when the program waits for its tasks already."""

    def test_once(self, cluster: Cluster, drive: Drive) -> None:
        """All that runs is ended, and what is queued as well."""
        ways = [(where, mode) for where in ENDS for mode in (POOL, JOBS)]
        drivers = [drive(CLOSING + ENDS[where], **mode.options) for where, mode in ways]
        for driver in drivers:
            driver.wait_for("closing")
            driver.process.send_signal(signal.SIGINT)
        for driver, (where, _) in zip(drivers, ways):
            ended = driver.end()
            if where != "exit":  # there is nobody any more to whom it could be raised
                assert ended.returncode == -signal.SIGINT, ended.report()
                assert ended.stderr.count("KeyboardInterrupt") == 1, ended.report()
            assert "Exception ignored" not in ended.stderr, ended.report()
            assert "thread failed" not in ended.stderr, ended.report()
        assert cluster.queue("-t", "pending,running") == []
        cluster.idle(LIMIT)
        check_no_process_left()
        assert [len(work.notes(driver.log)) for driver in drivers] == [3] * 6, "no other one has begun"

    @pytest.mark.parametrize("where", ENDS)
    def test_twice(self, cluster: Cluster, here: Path, where: str) -> None:
        """It does not wait for the end any more, which comes all the same."""
        ended = interrupt_twice(SlurmExecutor, here, where, **SMALL)
        assert "KeyboardInterrupt" in ended.stderr, ended.report()
        cluster.idle(LIMIT)
        check_no_process_left()


class TestDoorbell:
    """What is done to its line of TCP, while tasks run."""

    @pytest.fixture
    def options(self, here: Path, gate: Path) -> Iterator[dict[str, Any]]:
        """For an executor; at the end of the test its tasks are let go."""
        yield {**SMALL, "run_dir": here / "run", "keep": "never"}
        gate.touch()

    @pytest.mark.parametrize(("mode", "lines"), [(POOL, 6), (JOBS, 3)], ids=["pool", "jobs"])
    def test_cut_while_tasks_run(
        self,
        options: dict[str, Any],
        mode: Mode,
        lines: int,
        log: str,
        gate: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("interval", "longest_interval"):  # nothing but Slurm tells that a new job has begun
            monkeypatch.setattr(SlurmScheduler, name, 1.0)
        with cabled() as cables, SlurmExecutor(3, **{**options, **mode.options}) as pool:
            outlast_cut(pool, cables, lines, log, gate)

    def test_flood_garbage_and_wrong_keys(self, options: dict[str, Any], log: str, gate: Path) -> None:
        with SlurmExecutor(2, **options) as pool:
            outlast_flood(pool, 4, log, gate)

    def test_forged_messages(self, options: dict[str, Any], log: str, gate: Path) -> None:
        """They are replayed, changed, reflected and reordered, each on a line of its own."""
        with cabled() as cables, SlurmExecutor(4, workers_per_job=4, **options) as pool:
            outlast_forgeries(pool, cables, log, gate)
