"""Runs on machines that see late what the others have written."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest

from clusterfutures import RunInUse, reattach, watch
from tests import local_work
from tests.drivers import Driver
from tests.lying import NODES, Machines, work
from tests.lying.conftest import AN_HOUR
from tests.one_file_scheduler import ShellExecutor
from tests.support import wait_until

LIMIT = 50.0  # seconds; whatever takes longer hangs, or waits for a cache

MODES = pytest.mark.parametrize(
    "jobs",
    [pytest.param(False, id="pool"), pytest.param(True, id="job_per_task", marks=pytest.mark.long)],
)

Shell = Callable[..., ShellExecutor]


@pytest.fixture
def shell(lying: Machines, bell: bool) -> Shell:
    """``shell(max_workers=2, **options)``: an executor whose run directory is where the machines meet."""
    numbers = itertools.count()

    def make(max_workers: int = 2, **options: Any) -> ShellExecutor:
        name = f"{os.environ['PYTEST_CURRENT_TEST'].split('::')[-1].split()[0]}.{next(numbers)}"
        python = lying.on_a_node(sys.executable)
        return ShellExecutor(
            max_workers, run_dir=lying.here / name, python=python, doorbell=bell, keep="never", **options
        )

    return make


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that lets tasks go on once it exists; at the end of the test it does."""
    path = tmp_path / "open"
    yield path
    path.touch()


def test_the_lie_is_real(lying: Machines) -> None:
    """Else the tests here would show nothing."""
    mine, theirs = lying.here, lying.node(0)
    assert not (mine / "new").exists()
    (theirs / "new").touch()
    assert "new" in os.listdir(mine), "a listing tells the truth"
    assert not (mine / "new").exists()
    (theirs / "grows").touch()
    assert (mine / "grows").stat().st_size == 0
    (theirs / "grows").write_text("grown")
    assert (mine / "grows").stat().st_size == 0


@MODES
def test_results_errors_and_deaths(lying: Machines, shell: Shell, jobs: bool, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    nodes = [work.place(str(lying.node(number))) for number in range(NODES)]
    assert work.place(str(lying.here)) not in nodes
    with shell(job_per_task=jobs) as ex:
        ex.submit(local_work.note, notes, "short").result(LIMIT)
        assert local_work.notes(notes) == ["short"], "a job that had ended before it was seen ran once"
        assert ex.submit(work.place, str(lying.here)).result(LIMIT) in nodes
        assert list(ex.map(abs, range(-4, 0), timeout=LIMIT)) == [4, 3, 2, 1]
        assert isinstance(ex.submit(divmod, 1, 0).exception(LIMIT), ZeroDivisionError)
        printed, lost = ex.submit(print, "seen"), ex.submit(os._exit, 3)
        lost.exception(LIMIT)
        assert lost.exit_code == 3
        assert (printed.result(LIMIT), printed.stdout()) == (None, "seen\n")


@pytest.mark.long
@MODES
def test_what_rings_is_found_without_looking(
    lying: Machines, jobs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver looks at no file unless somebody rings; in other tests, looking might hide a dumb bell."""
    for name in ("SAFETY_LOOK", "SAFETY_LISTING", "NEWCOMERS", "RECALL_LOOK", "MUTE_AFTER"):
        monkeypatch.setattr(watch, name, AN_HOUR)
    python, run = lying.on_a_node(sys.executable), lying.here / f"rung.{jobs}"
    with ShellExecutor(2, run_dir=run, python=python, keep="never", job_per_task=jobs) as ex:
        futures = [ex.submit(abs, -n) for n in range(4)]
        assert [future.result(LIMIT) for future in futures] == [0, 1, 2, 3]
        assert ex.submit(pow, 2, 3).result(LIMIT) == 8


@pytest.mark.long
@pytest.mark.timeout(120)
@MODES
class TestRuns:
    """What goes beyond that, where the caches never expire."""

    def test_buffers(self, shell: Shell, jobs: bool) -> None:
        data = os.urandom(1 << 19)
        with shell(job_per_task=jobs) as ex:
            futures = [ex.submit(bytes, PickleBuffer(data)) for _ in range(2)]
            assert [future.result(LIMIT) for future in futures] == [data, data]

    def test_a_task_that_waits_is_cancelled(
        self, shell: Shell, jobs: bool, tmp_path: Path, gate: Path
    ) -> None:
        notes = str(tmp_path / "notes")
        with shell(1, job_per_task=jobs) as ex:
            held = ex.submit(local_work.note_and_wait, notes, "held", str(gate))
            wait_until(lambda: local_work.notes(notes), LIMIT)
            waits = ex.submit(local_work.note, notes, "never")
            assert waits.cancel()
            gate.touch()
            assert held.result(LIMIT) == "held"
        assert local_work.notes(notes) == ["held"]

    def test_retries_go_on_from_the_checkpoint(self, lying: Machines, shell: Shell, jobs: bool) -> None:
        with shell(1, job_per_task=jobs, retries=2) as ex:
            places = ex.submit(work.go_on, 3, str(lying.here)).result(LIMIT)
        assert len(places) == 3
        assert len(set(places)) == (NODES if jobs else 1), "the next job is on another node"

    def test_another_driver(
        self, lying: Machines, bell: bool, tmp_path: Path, gate: Path, jobs: bool
    ) -> None:
        """The first one is on a node; this one has looked at the run before, and been refused."""
        run = lying.here / f"killed.{bell}.{jobs}"
        text = f"""
ex = ShellExecutor(2, run_dir={str(run)!r}, keep="always", **options)
wait([ex.submit(pow, 2, 3)])
running = [ex.submit(work.note_and_wait, log, n, gate) for n in range(2)]
begun(2)
rest = [ex.submit(work.note_and_wait, log, n, gate) for n in range(2, 4)]
ex.flush()
work.note(log, "submitted")
signal.pause()
"""
        python = lying.on_a_node(sys.executable)
        options = {"python": python, "doorbell": bell, "job_per_task": jobs}
        with Driver(ShellExecutor, tmp_path, text, within=lying.on_a_node(), **options) as driver:
            driver.wait_for("submitted")
            with pytest.raises(RunInUse):
                reattach(run)
        with reattach(run) as ex:
            gate.touch()
            assert [future.result(LIMIT) for future in ex.futures] == [8, 0, 1, 2, 3]
            assert ex.submit(abs, -1).result(LIMIT) == 1
        assert sorted(local_work.notes(driver.log)) == ["0", "1", "2", "3", "submitted"], "each ran once"
