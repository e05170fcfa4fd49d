"""How jobs end under PBS: each ending really produced, told on the future that it hit, and no other.

In both modes, a pool of workers and a job for each task; what depends on who rings also without the doorbell.
On every `tests.pbs.Door`: the stand-ins, Debian's commands over Slurm, or a real server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import (
    JobCancelled,
    NodeFailed,
    OutcomeNotWritten,
    OutOfMemory,
    SubmissionError,
    TimeLimitReached,
    TorqueExecutor,
    WorkerLost,
    WorkerStartError,
    watch,
)
from clusterfutures.schedulers.pbs import PbsScheduler
from tests import local_work as work
from tests import slurm
from tests.contract.executors import PBS_OPTIONS
from tests.endings import (
    ALL,
    BOTH,
    JOBS,
    JOBS_POLLING,
    POOL,
    POOL_POLLING,
    Mode,
    Outage,
    begun,
    each,
    goes_on,
    lost,
    making,
    outlast,
)
from tests.filesystems import tmpfs
from tests.pbs import Door, Site
from tests.pbs.door import LIMIT
from tests.pbs.work import hold_bytes_for, kill_parent
from tests.support import REPOSITORY, check_no_process_left, outcomes, wait_until

pytestmark = pytest.mark.long

Make = Callable[..., TorqueExecutor]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(pbs: Door) -> Iterator[None]:
    """At the end of the module: no job, and no process of one."""
    others = pbs.unfinished()
    yield
    pbs.idle(others)
    check_no_process_left()


@pytest.fixture(scope="module", autouse=True)
def eager(pbs: Door) -> Iterator[None]:
    """A PBS of our own is asked every second, however quiet it is; a real one as often as users ask."""
    with pytest.MonkeyPatch.context() as patch:
        for name in () if pbs.real else ("interval", "longest_interval"):
            patch.setattr(PbsScheduler, name, 1.0)
        yield


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes executors that are shut down after the test, see `tests.endings.making`."""
    with making(TorqueExecutor, tmp_path, **PBS_OPTIONS) as found:
        yield found


@pytest.fixture(scope="class", params=each(*ALL))
def executor(
    request: pytest.FixtureRequest, pbs: Door, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorqueExecutor]:
    """In every mode, one of two workers for a whole class of tests."""
    mode: Mode = request.param
    run_dir = tmp_path_factory.mktemp("run") / mode.name
    with TorqueExecutor(2, run_dir=run_dir, keep="never", **PBS_OPTIONS, **mode.options) as found:
        yield found


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A file for `local_work.note`."""
    return str(tmp_path / "notes")


@pytest.fixture
def gate(make: object, tmp_path: Path) -> Iterator[Path]:
    """A file that lets tasks go on once it exists; at the end of the test it does, before any shutdown."""
    path = tmp_path / "open"
    yield path
    path.touch()


def told(pbs: Door, kind: type[WorkerLost]) -> tuple[type[WorkerLost], ...]:
    """How the end may be told that only the server can know: as `kind` if it is sure to remember it."""
    return (kind,) if pbs.tells else (kind, WorkerLost)


class TestWhileItRuns:
    """One executor for all of it, so that each ending is also a test of how it goes on after the last one."""

    def test_exit_code_and_signal(self, executor: TorqueExecutor) -> None:
        futures = [executor.submit(work.same, 1), executor.submit(os._exit, 3)]
        futures += [executor.submit(work.die, signal.SIGKILL), executor.submit(work.same, 2)]
        error = lost(futures[1], WorkerLost)
        assert (error.exit_code, error.signal, error.stderr_tail) == (3, None, "")
        error = lost(futures[2], WorkerLost)
        assert (error.exit_code, error.signal, error.stderr_tail) == (None, "SIGKILL", "last words")
        assert [futures[0].result(LIMIT), futures[3].result(LIMIT)] == [1, 2]

    def test_the_supervisor_is_killed(self, executor: TorqueExecutor, pbs: Door) -> None:
        error = lost(executor.submit(kill_parent), WorkerLost)
        assert error.signal == "SIGKILL" or not pbs.tells
        goes_on(executor)

    def test_qdel(self, executor: TorqueExecutor, pbs: Door, log: str) -> None:
        future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
        begun(log)
        pbs.delete(str(future.job_id))
        error = lost(future, *told(pbs, JobCancelled))
        assert "not by this program" in str(error) or not pbs.tells
        goes_on(executor)


class TestLimits:
    """More is used than was asked for."""

    @pytest.mark.parametrize("mode", BOTH)
    def test_memory(self, pbs: Door, make: Make, mode: Mode) -> None:
        if pbs.name == "torque-slurm" and not (pbs.real or slurm.shared().limits_memory):
            pytest.skip("limiting memory takes root and control groups of version 1")
        executor = make(mode, 1, mem="500mb")
        future = executor.submit(hold_bytes_for, 700 << 20, LIMIT / 4 if pbs.real else work.LONG)
        error = future.exception(LIMIT)
        if error is None and pbs.real:
            pytest.skip("this server lets jobs use more memory than they have asked for")
        # TORQUE limits what a process can get; so the task itself hears of it.
        kinds: list[type[BaseException]] = [MemoryError if pbs.name == "torque" else OutOfMemory]
        kinds += [MemoryError, *told(pbs, OutOfMemory)] if pbs.real else []
        assert type(error) in kinds, repr(error)
        assert executor.submit(work.hold_bytes, 1 << 20).result(LIMIT) == 1 << 20

    def test_wall_time(self, pbs: Door, make: Make, tmp_path: Path) -> None:
        """In every mode together, since some servers look for such jobs once a minute."""
        futures = []
        for mode in ALL:
            log = str(tmp_path / mode.name)
            futures.append(make(mode, 1, time="1m").submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        if pbs.site is not None:
            for future in futures:
                pbs.site.expire_job(str(future.job_id))
        for future in futures:
            # Debian's qstat does not say it, but from when to when a job ran.
            kinds = (TimeLimitReached,) if pbs.name == "torque-slurm" else told(pbs, TimeLimitReached)
            lost(future, *kinds)


class TestQueue:
    """It ends before it starts."""

    def test_a_worker_that_somebody_deletes_is_replaced(self, pbs: Door, make: Make) -> None:
        before = pbs.unfinished()
        future = make(POOL, 1, hold=True).submit(abs, -1)
        first = one_more(pbs, before)
        pbs.delete(first)
        pbs.query("qrls", one_more(pbs, {*before, first}))
        assert future.result(LIMIT) == 1

    def test_a_task_that_somebody_deletes_is_cancelled(self, pbs: Door, make: Make) -> None:
        remembered(pbs)
        before = pbs.unfinished()
        executor = make(JOBS, 3, hold=True)
        futures = [executor.submit(abs, -n) for n in range(3)]
        wait_until(lambda: all(future.job_id for future in futures), LIMIT)
        pbs.delete(*(str(future.job_id) for future in futures[:2]))
        for future in futures[:2]:
            error = future.exception(LIMIT)
            assert type(error) is JobCancelled, repr(error)
            assert "had not begun" in str(error)
            assert error.job_id == future.job_id
            assert (error.pid, error.exit_code, error.signal) == (None, None, None)
        for job_id in pbs.unfinished() - before:
            pbs.query("qrls", job_id)
        assert futures[2].result(LIMIT) == 2

    @pytest.mark.parametrize("mode", BOTH)
    def test_what_can_never_start_is_not_waited_for(
        self, pbs: Door, make: Make, tmp_path: Path, mode: Mode
    ) -> None:
        """The job that it depends on fails, once it waits for that."""
        if pbs.name == "torque-slurm":
            pytest.skip("Slurm keeps such a job in the queue, and Debian's qstat does not say why it waits")
        if mode is JOBS:
            remembered(pbs)
        before = pbs.unfinished()
        fail = tmp_path / "fail"
        failing = make(JOBS, 1, setup=f"until [ -e '{fail}' ]; do sleep 1; done; exit 1").submit(abs, -1)
        parent = one_more(pbs, before)
        future = make(mode, 1, depends=f"afterok:{parent}").submit(abs, -1)
        one_more(pbs, {*before, parent})
        fail.touch()
        error = future.exception(LIMIT)
        assert isinstance(error, WorkerStartError if mode is POOL else JobCancelled), repr(error)
        if mode is JOBS:
            assert f"it waited for afterok:{parent}" in str(error)
        assert isinstance(failing.exception(LIMIT), WorkerStartError)


def remembered(pbs: Door) -> None:
    """Skip the test where finished jobs are forgotten: a task whose job is gone is submitted again there."""
    if pbs.real and not pbs.tells:
        pytest.skip("this server soon forgets jobs: nobody knows that one has ended which had not begun")


def one_more(pbs: Door, before: set[str]) -> str:
    """The id of the one job of ours that has not ended, once there is one beside those `before`."""
    wait_until(lambda: pbs.unfinished() - before, LIMIT, interval=0.1)
    [job_id] = pbs.unfinished() - before
    return job_id


class TestStart:
    """It cannot start, or not as it should."""

    @pytest.mark.parametrize(
        ("mode", "options", "code", "words"),
        [
            (POOL, {"setup": "echo no licence today >&2; exit 7"}, 7, "no licence today"),
            (JOBS, {"python": "/opt/none/bin/python"}, 127, "/opt/none/bin/python"),
        ],
        ids=["setup-pool", "python-jobs"],
    )
    def test_a_job_that_fails(
        self, pbs: Door, make: Make, mode: Mode, options: dict[str, str], code: int, words: str
    ) -> None:
        executor = make(mode, **options)
        futures = [executor.submit(abs, -1), executor.submit(abs, -2)]
        for future in futures:
            with pytest.raises(WorkerStartError, match=words) as caught:
                future.result(LIMIT)
            assert f"exit code {code}" in str(caught.value) or not pbs.tells
        with pytest.raises(WorkerStartError, match=words):
            executor.submit(abs, -1)

    @pytest.mark.parametrize("mode", BOTH)
    def test_a_refused_submission(self, pbs: Door, make: Make, mode: Mode) -> None:
        executor = make(mode, queue="nowhere")
        futures = [executor.submit(abs, -1), executor.submit(abs, -2)]
        for future in futures:
            error = future.exception(LIMIT)
            assert isinstance(error, SubmissionError)
            assert error.command[0] == "qsub" and "nowhere" in error.command
            assert error.exit_code
            assert "queue" in error.stderr or pbs.name == "torque-slurm", "which says it on standard output"
            assert "queue" in str(error) or "partition" in str(error)
        with pytest.raises(SubmissionError):
            executor.submit(abs, -1)


class TestDisk:
    """No room for what a task has to say."""

    @pytest.fixture
    def disk(self, pbs: Door, tmp_path: Path) -> Iterator[Path]:
        """A file system of 4 MiB that every node sees."""
        if pbs.real:
            pytest.skip("the nodes of a real server do not see what is mounted here")
        with tmpfs(tmp_path / "disk") as found:
            yield found

    @pytest.mark.parametrize("mode", BOTH)
    def test_that_is_full(self, disk: Path, make: Make, mode: Mode) -> None:
        executor = make(mode, run_dir=disk / "run")
        with pytest.raises(OutcomeNotWritten, match="No space left"):
            executor.submit(bytes, 8 << 20).result(LIMIT)
        # Not at the same time: while the first one tries, there is no room for anybody.
        assert executor.submit(bytes, 8).result(LIMIT) == bytes(8)


class TestRequeue:
    """The server starts it anew, under the same id."""

    @pytest.mark.parametrize("mode", each(*ALL))
    def test_it_runs_again_at_no_charge(
        self, pbs: Door, make: Make, log: str, gate: Path, mode: Mode
    ) -> None:
        future = make(mode, 1, retries=0).submit(work.note_and_wait, log, "runs", str(gate))
        begun(log)
        before = future.job_id
        requeue(pbs, str(before))
        begun(log, 2)
        gate.touch()
        assert future.result(LIMIT) == "runs"
        assert (future.attempt, future.job_id) == (1, before)
        assert work.notes(log) == ["runs"] * 2, "once more, and no more than that"


def requeue(pbs: Door, job_id: str) -> None:
    """Have a running job put back into the queue, from which it starts again."""
    if pbs.name == "torque-slurm" and not pbs.real:
        slurm.shared().requeue(job_id)  # Slurm itself would have it wait for two minutes
        return
    done = pbs.run("qrerun", job_id)
    if done.returncode and pbs.real:
        pytest.skip(f"users may not requeue jobs here: {done.stderr}")
    assert done.returncode == 0, done.stderr


DRIVER = """
import json, sys
from clusterfutures import TorqueExecutor
from tests.pbs.work import hand_in

place, options = sys.argv[1], json.loads(sys.argv[2])
with TorqueExecutor(2, run_dir=place + "/run", orphan="drain", orphan_timeout=5, **options) as executor:
    list(executor.map(hand_in, [place + "/a", place + "/b"]))
"""


class TestDriver:
    """It is killed without a chance to tidy up: its jobs finish what they run, write it, and leave."""

    @pytest.mark.parametrize("mode", each(*ALL))
    def test_that_is_killed(self, pbs: Door, tmp_path: Path, mode: Mode) -> None:
        before = pbs.unfinished()
        script = tmp_path / "driver.py"
        script.write_text(DRIVER)
        driver = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), json.dumps({**PBS_OPTIONS, **mode.options})],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
        places = [tmp_path / "a", tmp_path / "b"]
        try:
            for place in places:
                begun(str(place))
        finally:
            driver.kill()
            driver.wait()
        for place in places:
            place.with_name(f"{place.name}.open").touch()
        pbs.idle(before)
        assert outcomes(tmp_path / "run") == 2


# ---- what only stand-ins can do -----------------------------------------------------------------


@pytest.fixture
def site(pbs: Door) -> Site:
    """The stand-in behind the door."""
    if pbs.site is None:
        pytest.skip("only with a stand-in can this be done")
    return pbs.site


@contextmanager
def another(site: Site, **settings: Any) -> Iterator[Site]:
    """A site of the same dialect, of the test's own, in place of `site`."""
    with Site(site.dialect, **settings) as found:
        found.activate()
        yield found
        found.deactivate()


class TestNode:
    """The node is gone."""

    def test_that_comes_back(self, site: Site, make: Make, tmp_path: Path) -> None:
        futures = []
        for mode in ALL:
            log = str(tmp_path / mode.name)
            futures.append(make(mode, 1).submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        for future in futures:
            site.crash_node(str(future.job_id))
        for future in futures:
            error = lost(future, NodeFailed)
            assert error.state is not None and "exit status -4" in error.state

    def test_that_does_not(
        self, site: Site, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An administrator has the server forget its jobs."""
        monkeypatch.setattr(PbsScheduler, "grace", 2.0)
        executors, futures = [make(mode, 1) for mode in ALL], []
        for executor, mode in zip(executors, ALL):
            log = str(tmp_path / mode.name)
            futures.append(executor.submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        for future in futures:
            site.purge_job(str(future.job_id))
        for future in futures:
            assert "does not know it any more" in str(lost(future, WorkerLost))
        for executor in executors:
            goes_on(executor)


class TestSites:
    """How they may be set up."""

    @pytest.mark.parametrize("mode", BOTH)
    def test_a_limit_on_jobs_is_waited_for(self, site: Site, make: Make, mode: Mode) -> None:
        with another(site, max_queued=4):
            executor = make(mode, 6)
            futures = [executor.submit(work.same, n) for n in range(6)]
            assert [future.result(LIMIT) for future in futures] == [*range(6)]
            executor.shutdown()

    @pytest.mark.parametrize("mode", each(POOL, JOBS_POLLING))
    def test_finished_jobs_are_forgotten_at_once(
        self, site: Site, make: Make, log: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What their workers wrote is what counts, and all that is known."""
        monkeypatch.setattr(PbsScheduler, "grace", 1.0)
        monkeypatch.setattr(watch, "ACCOUNTING_GRACE", 2.0)
        with another(site, history=False) as forgetful:
            executor = make(mode)
            assert list(executor.map(work.same, range(5), timeout=LIMIT)) == [*range(5)]
            assert lost(executor.submit(os._exit, 3), WorkerLost).exit_code == 3
            lost(executor.submit(kill_parent), WorkerLost)
            future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
            begun(log)
            forgetful.run("qdel", str(future.job_id))
            lost(future, WorkerLost)
            goes_on(executor)
            executor.shutdown()
            failing = make(mode, setup="echo no licence today >&2; exit 7")
            with pytest.raises(WorkerStartError, match="no licence today"):
                failing.submit(abs, -1).result(LIMIT)

    @pytest.mark.parametrize("mode", each(POOL_POLLING, JOBS))
    def test_a_limit_of_which_only_the_jobs_own_log_tells(
        self, site: Site, make: Make, log: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """TORQUE writes it nowhere if the job's output goes there."""
        monkeypatch.setattr(PbsScheduler, "grace", 1.0)
        monkeypatch.setattr(watch, "ACCOUNTING_GRACE", 2.0)
        with another(site, history=False) as forgetful:
            own_output = {"stderr": str(Path(log).with_name("errors"))} if site.dialect == "torque" else {}
            executor = make(mode, 1, **own_output)
            future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
            begun(log)
            forgetful.expire_job(str(future.job_id))
            lost(future, TimeLimitReached)
            executor.shutdown()

    @pytest.mark.parametrize("mode", each(POOL_POLLING, JOBS))
    def test_states_are_late(self, site: Site, make: Make, log: str, mode: Mode) -> None:
        with another(site, lag=3.0) as slow:
            executor = make(mode)
            assert list(executor.map(work.same, range(5), timeout=LIMIT)) == [*range(5)]
            future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
            begun(log)
            slow.query("qdel", str(future.job_id))
            lost(future, JobCancelled)
            goes_on(executor)
            executor.shutdown()

    def test_a_server_that_is_down_for_a_while(
        self, site: Site, make: Make, tmp_path: Path, gate: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with another(site) as own:
            outlast(make, Outage(own.stop_server, own.start_server, "qstat", "qsub"), tmp_path, gate, caplog)
