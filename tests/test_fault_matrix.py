"""The cells of docs/faults.rst that no other module has, on one machine; and the page's own names."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest

from clusterfutures import LocalExecutor, WorkerLost, reattach
from clusterfutures.spool import RunDirectory
from tests import fault_work, file_faults, worker_faults
from tests import local_work as work
from tests.drivers import (
    ENDS,
    STOPPED,
    TERMINATED,
    Driver,
    cabled,
    interrupt_twice,
    killed,
    outlast_cut,
    outlast_flood,
)
from tests.support import REPOSITORY, check_no_process_left, wait_until
from tests.worker_faults import LIMIT, seen

# ---- processes --------------------------------------------------------------------------------------


class TestWorker:
    """It is killed while it writes, or stands still."""

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
    def test_killed_amid_an_outcome(self, bell: bool, log: str, part: float) -> None:
        with LocalExecutor(1, doorbell=bell, keep="never") as pool:
            assert type(pool.submit(fault_work.die_writing, f"{log}-a", part).exception(LIMIT)) is WorkerLost
            again = pool.options(retries=1).submit(fault_work.die_writing, f"{log}-b", part)
            assert again.result(LIMIT) == f"{log}-b"
            assert [len(work.notes(f"{log}-{each}")) for each in "ab"] == [1, 2]

    def test_killed_when_its_outcome_is_written(self, bell: bool, log: str) -> None:
        with LocalExecutor(1, doorbell=bell, keep="never") as pool:
            assert pool.submit(fault_work.die_writing, log, 1.0).result(LIMIT) == log
            assert pool.submit(abs, -1).result(LIMIT) == 1
            assert len(work.notes(log)) == 1

    def test_stopped(self, bell: bool, log: str) -> None:
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            worker_faults.worker_stopped(pool, log)

    def test_supervisor_stopped_for_a_while(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            worker_faults.supervisor_stopped(pool, log, gate)


class TestDriver:
    """It is stopped for longer than its workers wait for it, or ended in the usual way, or in a hurry."""

    @pytest.mark.parametrize(("orphan", "first"), [("drain", "0"), ("kill", "WorkerLost")])
    def test_stopped_until_its_workers_have_gone(self, tmp_path: Path, orphan: str, first: str) -> None:
        """By polling: a line that is open tells the workers that their driver lives."""
        silent = Driver(
            LocalExecutor, tmp_path, STOPPED, doorbell=False, orphan=orphan, orphan_timeout=1.0
        )
        with silent as driver:
            driver.wait_stopped()
            if orphan == "drain":
                driver.gate.touch()
            below = psutil.Process(driver.process.pid).children(recursive=True)
            wait_until(lambda: all(map(gone, below)), LIMIT, lambda: below)
            driver.gate.touch()
            driver.process.send_signal(signal.SIGCONT)
            assert driver.end().check().stdout.split() == [first, "1", "2"]
            assert sorted(work.notes(driver.log)) == ["0", "1", "2"], "none ran twice"

    def test_sigterm(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """It is the end of the driver and no other's: the task that runs is finished, the rest is kept."""
        by = signal.SIGTERM
        run = killed(LocalExecutor, tmp_path, TERMINATED, by=by, doorbell=bell, orphan_timeout=0.5)
        gate.touch()
        check_no_process_left()
        with reattach(run) as pool:
            assert [future.result(LIMIT) for future in pool.futures] == ["runs", 2]
        assert work.notes(str(tmp_path / "notes")) == ["runs"]

    @pytest.mark.parametrize("where", ENDS)
    def test_interrupted_twice(self, bell: bool, tmp_path: Path, where: str) -> None:
        """It does not wait for the end of its workers any more, which comes all the same."""
        ended = interrupt_twice(LocalExecutor, tmp_path, where, doorbell=bell)
        assert "KeyboardInterrupt" in ended.stderr, ended.report()
        check_no_process_left()


def gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


# ---- the doorbell -----------------------------------------------------------------------------------


class TestDoorbell:
    """What others do to it, while tasks run."""

    def test_flood_garbage_and_wrong_keys(self, gate: Path, log: str) -> None:
        with LocalExecutor(2, keep="never") as pool:
            outlast_flood(pool, 3, log, gate)

    def test_cut_while_tasks_run(self, gate: Path, log: str) -> None:
        with cabled() as cables, LocalExecutor(3, keep="never") as pool:
            outlast_cut(pool, cables, 4, log, gate)

    def test_its_place_is_taken(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        pool = LocalExecutor(1, keep="never", run_dir=tmp_path / "run")
        with pool, socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(RunDirectory(pool.run_dir, shared=False).bell)
            assert pool.submit(abs, -1).result(LIMIT) == 1
        (told,) = caplog.messages
        assert "no doorbell" in told


# ---- files ------------------------------------------------------------------------------------------


class TestFiles:
    """What becomes of the files of a run."""

    def test_run_directory_removed(self, bell: bool, tmp_path: Path, gate: Path, log: str) -> None:
        """What was submitted ends; what needs the directory again says so; nobody stays."""
        pool = LocalExecutor(2, doorbell=bell, keep="never", run_dir=tmp_path / "run")
        futures = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(4)]
        seen(log, 2)
        shutil.rmtree(pool.run_dir)
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == [0, 1, 2, 3]
        pool.shutdown()
        assert sorted(work.notes(log)) == ["0", "1", "2", "3"]
        check_no_process_left()

    def test_damaged_outcomes(self, tmp_path: Path) -> None:
        file_faults.damaged_outcomes(LocalExecutor, tmp_path, check_no_process_left, 4, orphan_timeout=0.5)

    def test_stale_files(self, bell: bool, tmp_path: Path) -> None:
        options = {"doorbell": bell, "orphan_timeout": 0.5}
        file_faults.stale_files(LocalExecutor, tmp_path, check_no_process_left, **options)


def test_clock_set_apart(bell: bool) -> None:
    if shutil.which("faketime") is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("needs faketime: apt-get install faketime")
    python = ["faketime", "-f", "+20m", sys.executable]
    with LocalExecutor(1, doorbell=bell, python=python, keep="never") as pool:
        future = pool.submit(time.time)
        assert future.result(LIMIT) - time.time() > 600
        assert future.wall_time is not None
        assert 0 <= future.wall_time < 600


# ---- the page ---------------------------------------------------------------------------------------

WHEN = {"started", "queued", "running", "written", "closing"}
NAME = re.compile(r"``([\w/]+)::(\w+)``")


def rows() -> list[list[str]]:
    """The rows of all tables of the page, each a list of its cells."""
    text = (REPOSITORY / "docs" / "faults.rst").read_text(encoding="utf-8")
    found = re.findall(r"(?m)^   \* -(.*(?:\n     .*)*)", text)
    return [[" ".join(cell.split()) for cell in re.split(r"(?m)^     -", row)] for row in found]


@cache
def functions(module: str) -> set[str]:
    """The names of the tests in a module below ``tests/``."""
    tree = ast.parse((REPOSITORY / "tests" / f"{module}.py").read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_cell_of_the_page_names_its_tests() -> None:
    table = [row for row in rows() if row[0] != "What breaks"]
    assert len(table) > 40
    for row in table:
        assert len(row) == 5, row
        assert row[1] in WHEN, row
        for cell in row[3:]:
            named = NAME.findall(cell)
            assert (cell == "none") != bool(named) and NAME.sub("", cell).strip(" ,") in ("", "none"), row
            for module, name in named:
                assert name in functions(module), f"{module}::{name}"
