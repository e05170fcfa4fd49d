"""A scheduler that is one file (`tests.one_file_scheduler`) carries the contract, in both modes."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import (
    JobCancelled,
    OptionError,
    SubmissionError,
    TaskKilled,
    WorkerLost,
    WorkerStartError,
    current_task,
    get_executor,
    register,
    registry,
)
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.states import JobState
from tests import one_file_scheduler
from tests.contract import work
from tests.one_file_scheduler import ShellExecutor, ShellScheduler
from tests.support import REPOSITORY, check_no_process_left, wait_until

pytestmark = pytest.mark.long

LIMIT = 40.0  # seconds; whatever takes longer hangs

MODES = pytest.mark.parametrize("job_per_task", [False, True], ids=["pool", "job_per_task"])


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture(autouse=True)
def by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The executor has a name; what it writes is thrown away."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.chdir(tmp_path)
    register("shell", ShellExecutor)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[work.Gate]:
    """Open at the end of the test, so that no task is held for longer."""
    folder = tmp_path / "gate"
    folder.mkdir()
    gate = work.Gate(folder)
    yield gate
    gate.open()


def shell(max_workers: int = 2, **options: Any) -> ShellExecutor:
    """The executor by its name."""
    executor = get_executor("shell", max_workers=max_workers, **options)
    assert isinstance(executor, ShellExecutor)
    return executor


@MODES
class TestExecutor:
    """What a user sees."""

    def test_results(self, job_per_task: bool) -> None:
        with shell(job_per_task=job_per_task) as ex:
            future = ex.submit(current_task)
            assert list(ex.map(pow, [2, 3], [10, 10])) == [1024, 59049]
            task = future.result(LIMIT)
        assert task is not None and task.job_id == future.job_id

    def test_an_error_of_the_task(self, job_per_task: bool) -> None:
        with shell(job_per_task=job_per_task, keep="never") as ex:
            future = ex.submit(work.fail, "mine")
            with pytest.raises(ValueError, match="mine"):
                future.result(LIMIT)
            assert ex.submit(abs, -1).result(LIMIT) == 1

    @pytest.mark.parametrize(
        ("death", "seen"), [(work.exit_3, (3, None)), (work.kill_self, (None, "SIGKILL"))]
    )
    def test_a_worker_that_dies(
        self, job_per_task: bool, death: Callable[[], None], seen: tuple[int | None, str | None]
    ) -> None:
        with shell(job_per_task=job_per_task, keep="never") as ex:
            lost, fine = ex.submit(death), ex.submit(abs, -1)
            error = lost.exception(LIMIT)
            assert isinstance(error, WorkerLost)
            assert (error.exit_code, error.signal) == seen
            assert error.job_id == lost.job_id
            assert fine.result(LIMIT) == 1

    def test_a_task_that_waits_is_cancelled(self, job_per_task: bool, gate: work.Gate) -> None:
        with shell(1, job_per_task=job_per_task) as ex:
            held = ex.submit(gate.hold, "held")
            wait_until(gate.arrived, LIMIT)
            waits = ex.submit(gate.mark, "never")
            assert waits.cancel()
            gate.open()
            assert held.result(LIMIT) == "held"
        assert gate.arrived() == ["held"]

    def test_a_task_that_runs_is_killed(self, job_per_task: bool, gate: work.Gate) -> None:
        with shell(1, job_per_task=job_per_task, keep="never") as ex:
            held = ex.submit(gate.hold)
            wait_until(gate.arrived, LIMIT)
            assert held.kill()
            assert isinstance(held.exception(LIMIT), TaskKilled)

    def test_an_option_that_it_lacks(self, job_per_task: bool) -> None:
        with pytest.raises(OptionError, match="mem: a shell has no such option"):
            shell(job_per_task=job_per_task, mem="8G")
        with shell(job_per_task=job_per_task) as ex, pytest.raises(OptionError, match="cores: "):
            ex.options(cores=2)

    def test_a_setup_that_fails(self, job_per_task: bool) -> None:
        with shell(1, job_per_task=job_per_task, setup="echo no such thing; exit 9", keep="never") as ex:
            error = ex.submit(abs, -1).exception(LIMIT)
        assert isinstance(error, WorkerStartError)
        assert "no such thing" in str(error)

    def test_what_would_be_submitted(self, job_per_task: bool) -> None:
        with shell(job_per_task=job_per_task, setup="ulimit -c 0") as ex:
            assert "nohup bash" in ex.explain()
            assert "\nulimit -c 0\n" in ex.explain()
            assert ex.dry_run() == "it would start at once"
        unreadable = shell(job_per_task=job_per_task, setup="if")
        with unreadable, pytest.raises(SubmissionError, match="bash cannot read the script"):
            unreadable.dry_run()


def test_a_job_of_the_pool_has_many_tasks() -> None:
    with shell(1) as ex:
        futures = [ex.submit(work.pid_of) for _ in range(3)]
        assert len({(future.result(LIMIT), future.job_id) for future in futures}) == 1


def test_a_job_of_its_own_has_one_task(gate: work.Gate) -> None:
    with shell(2, job_per_task=True) as ex:
        futures = [ex.submit(gate.hold, number) for number in range(4)]
        wait_until(lambda: gate.arrived() == ["0", "1"], LIMIT, gate.arrived)
        wait_until(lambda: [future.running() for future in futures] == [True, True, False, False], LIMIT)
        gate.open()
        assert [future.result(LIMIT) for future in futures] == list(range(4))
    assert len({future.job_id for future in futures}) == len({future.pid for future in futures}) == 4


def test_a_job_that_somebody_kills(gate: work.Gate) -> None:
    with shell(1, keep="never") as ex:
        held = ex.submit(gate.hold)
        wait_until(gate.arrived, LIMIT)
        ex._session.scheduler.cancel([held.job_id or ""])
        assert isinstance(held.exception(LIMIT), JobCancelled)


def test_these_modules_are_all_that_it_needs() -> None:
    source = Path(one_file_scheduler.__file__).read_text(encoding="utf-8")
    modules = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if module and module.startswith("clusterfutures")}
    page = (REPOSITORY / "docs" / "adding.rst").read_text(encoding="utf-8")
    assert "clusterfutures.schedulers.base" in ours
    assert [module for module in ours if f"``{module}``" not in page] == []


class TestScheduler:
    """The port by itself."""

    @pytest.fixture
    def scheduler(self) -> ShellScheduler:
        return ShellScheduler()

    @staticmethod
    def request(folder: Path, *argv: str, elements: int = 1) -> JobRequest:
        return JobRequest(
            job=0,
            name="test",
            argv=list(argv),
            elements=elements,
            script=str(folder / "script.sh"),
            log=str(folder / f"{INDEX}.log"),
            cwd=str(folder),
            environment={"COLOUR": "blue green", "HOME": None},
            setup="",
            resources={},
        )

    @staticmethod
    def end_of(scheduler: ShellScheduler, job_id: str) -> JobStatus:
        wait_until(lambda: scheduler.poll([job_id])[job_id].state.ended, LIMIT)
        return scheduler.poll([job_id])[job_id]

    def test_elements_know_who_they_are(self, scheduler: ShellScheduler, hostile_tmp_path: Path) -> None:
        text = 'echo "$0 $1 $2 $COLOUR ${HOME-none}"; pwd'
        request = self.request(hostile_tmp_path, "sh", "-c", text, INDEX, RESTART, JOB_ID, elements=2)
        ids = scheduler.submit(request)
        assert len(set(ids)) == 2
        for index, job_id in enumerate(ids):
            assert self.end_of(scheduler, job_id) == JobStatus(JobState.COMPLETED, exit_code=0)
            said = (hostile_tmp_path / f"{index}.log").read_text(encoding="utf-8")
            assert said == f"{index} 0 {job_id} blue green none\n{hostile_tmp_path}\n"

    @pytest.mark.parametrize(
        ("text", "status"),
        [
            ("exit 3", JobStatus(JobState.FAILED, exit_code=3)),
            ("kill -KILL $$", JobStatus(JobState.FAILED, signal=signal.SIGKILL)),
        ],
    )
    def test_how_a_job_has_ended(
        self, scheduler: ShellScheduler, tmp_path: Path, text: str, status: JobStatus
    ) -> None:
        (job_id,) = scheduler.submit(self.request(tmp_path, "sh", "-c", text))
        assert self.end_of(scheduler, job_id) == status

    def test_a_job_is_ended_with_all_of_it(self, scheduler: ShellScheduler, tmp_path: Path) -> None:
        request = self.request(tmp_path, "sh", "-c", "sleep 300 & echo $! >child; wait")
        (job_id,) = scheduler.submit(request)
        child = tmp_path / "child"
        wait_until(lambda: child.exists() and child.read_text().strip(), LIMIT)
        assert scheduler.poll([job_id]) == {job_id: JobStatus(JobState.RUNNING)}
        scheduler.cancel([job_id])
        scheduler.cancel([job_id])
        assert scheduler.poll([job_id]) == {job_id: JobStatus(JobState.CANCELLED)}
        wait_until(lambda: not work.is_alive(int(child.read_text())), LIMIT)

    def test_a_job_that_it_does_not_know(self, scheduler: ShellScheduler) -> None:
        assert scheduler.poll([str(os.getpid())]) == {}
        scheduler.cancel([])

    def test_a_script_that_cannot_be_written(self, scheduler: ShellScheduler, tmp_path: Path) -> None:
        with pytest.raises(SubmissionError, match="cannot start a job"):
            scheduler.submit(self.request(tmp_path / "missing", "true"))
