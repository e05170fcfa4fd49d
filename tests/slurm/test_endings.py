"""How jobs end on the real Slurm: each ending really produced, told on the future that it hit, and no other.

In both modes, a pool of workers and a job for each task; what depends on who rings also without the doorbell.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clusterfutures import (
    JobCancelled,
    NodeFailed,
    OutOfMemory,
    SlurmExecutor,
    SubmissionError,
    TimeLimitReached,
    WorkerLost,
    WorkerStartError,
    watch,
)
from clusterfutures.futures import ClusterFuture
from clusterfutures.records import OUTCOME
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.spool import RunDirectory, WorkerRef
from tests import local_work as work
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
from tests.filesystems import needs_root
from tests.pbs.door import LIMIT
from tests.slurm import Cluster
from tests.slurm.cluster import AT_WORK
from tests.support import ScriptResult, run_command, wait_until

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("nothing_left")]

Make = Callable[..., SlurmExecutor]
USUAL: dict[str, Any] = {"mem": "100M", "time": "10m"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes executors that are shut down after the test, see `tests.endings.making`."""
    with making(SlurmExecutor, tmp_path, **USUAL) as found:
        yield found


@pytest.fixture(scope="class", params=each(*ALL))
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmExecutor]:
    """In every mode, one of two workers for a whole class of tests."""
    mode: Mode = request.param
    run_dir = tmp_path_factory.mktemp("run") / mode.name
    with SlurmExecutor(2, run_dir=run_dir, keep="never", **USUAL, **mode.options) as found:
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


def take_down(cluster: Cluster, node: str) -> None:
    """Say that a node is out of order, as its administrator can; its jobs are lost."""
    cluster.query("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")


def put_back(cluster: Cluster, node: str) -> None:
    """The same node is well again, and told so if Slurm, which asks it now and then, does not know yet.

    It may be shown as "mixed" although nothing runs there, until the next job does.
    """
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    cluster.wait_node(node, AT_WORK)


def start_now(cluster: Cluster, job_id: str, *changes: str) -> None:
    """Let a job start for which it is too early: what was put back into the queue waits for two minutes."""
    cluster.wait_state(job_id, ["PENDING"])
    cluster.query("scontrol", "update", f"JobId={job_id}", "StartTime=now+2", *changes)


class TestWhileItRuns:
    """One executor for all of it, so that each ending is also a test of how it goes on after the last one."""

    def test_exit_code_and_signal(self, executor: SlurmExecutor) -> None:
        futures = [executor.submit(work.same, 1), executor.submit(os._exit, 3)]
        futures += [executor.submit(work.die, signal.SIGSEGV), executor.submit(work.same, 2)]
        error = lost(futures[1], WorkerLost)
        assert (error.exit_code, error.signal, error.stderr_tail) == (3, None, "")
        assert futures[1].exit_code == 3
        error = lost(futures[2], WorkerLost)
        assert (error.exit_code, error.signal, error.stderr_tail) == (None, "SIGSEGV", "last words")
        assert "last words" in str(error)
        assert [futures[0].result(LIMIT), futures[3].result(LIMIT)] == [1, 2]

    def test_out_of_memory(self, executor: SlurmExecutor, cluster: Cluster) -> None:
        needs_memory_limits(cluster)
        futures = [executor.submit(work.hold_bytes, 300 << 20), executor.submit(work.hold_bytes, 1 << 20)]
        error = lost(futures[0], OutOfMemory)
        assert (error.exit_code, error.signal) == (None, "SIGKILL")
        assert "mem" in str(error)
        assert futures[1].result(LIMIT) == 1 << 20

    def test_out_of_memory_takes_the_supervisor_as_well(
        self, executor: SlurmExecutor, cluster: Cluster
    ) -> None:
        needs_memory_limits(cluster)
        error = lost(executor.submit(exhaust_both), OutOfMemory)
        assert error.state is not None and error.state.startswith("OUT_OF_MEMORY")

    def test_scancel(self, executor: SlurmExecutor, cluster: Cluster, log: str) -> None:
        future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
        begun(log)
        cluster.query("scancel", str(future.job_id))
        error = lost(future, JobCancelled)
        assert error.state is not None and error.state.startswith("CANCELLED")
        assert "not by this program" in str(error)

    def test_scancel_without_notice(self, executor: SlurmExecutor, cluster: Cluster, log: str) -> None:
        future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
        begun(log)
        cluster.query("scancel", "--signal=KILL", "--full", str(future.job_id))
        assert lost(future, JobCancelled).exit_code is None

    def test_a_result_that_is_there_is_a_result_whatever_the_job_ends_like(
        self, executor: SlurmExecutor, cluster: Cluster
    ) -> None:
        """A child of the task is killed at the memory limit: for Slurm the job is OUT_OF_MEMORY."""
        needs_memory_limits(cluster)
        future = executor.submit(work_with_a_greedy_child)
        assert future.result(LIMIT) == -signal.SIGKILL

    def test_a_result_that_nobody_has_read_when_the_job_is_cancelled(
        self, executor: SlurmExecutor, cluster: Cluster, log: str, tmp_path: Path, gate: Path
    ) -> None:
        go = threading.Event()
        second_gate = tmp_path / "second"
        try:
            # The callback keeps the thread busy that would read the other task's result.
            first = executor.submit(work.note_and_wait, log, "first", str(gate))
            first.add_done_callback(lambda _: go.wait(LIMIT))
            second = executor.submit(finish_and_stay, log, str(second_gate))
            begun(log, 2)
            gate.touch()
            wait_until(first.done, LIMIT)
            second_gate.touch()
            wait_until(lambda: written(executor, second, b"finished"), LIMIT)
            cluster.query("scancel", str(second.job_id))
            cluster.wait_state(str(second.job_id), ["CANCELLED"])
            assert not second.done()
        finally:
            go.set()
            second_gate.touch()
        assert second.result(LIMIT) == "finished"
        goes_on(executor)


def needs_memory_limits(cluster: Cluster) -> None:
    if not cluster.limits_memory:
        pytest.skip("limiting memory takes root and control groups of version 1")


def exhaust_both() -> None:
    """Use too much memory, so that the kernel chooses the supervisor first, and then this."""
    Path(f"/proc/{os.getppid()}/oom_score_adj").write_text("1000")
    hoard = []
    while True:
        hoard.append(b"\1" * (10 << 20))


def work_with_a_greedy_child() -> int:
    """How a child ended that used too much memory."""
    return subprocess.run([sys.executable, "-c", "bytearray(300 << 20)"], check=False).returncode


def finish_and_stay(log: str, until: str) -> str:
    """Return, but not from the job: in one of its own, the interpreter does not end."""
    import atexit
    import time

    atexit.register(time.sleep, work.LONG)
    work.note_and_wait(log, "second", until)
    return "finished"


def written(executor: SlurmExecutor, future: ClusterFuture[Any], result: bytes) -> bool:
    """Whether the worker of a task has written such a result for the driver."""
    assert future._post is not None
    ref = WorkerRef(*map(int, re.findall(r"\d+", future._post.worker)))
    reader = RunDirectory(executor.run_dir, shared=True).outbox_reader(ref)
    found = any(kind == OUTCOME and result in body for kind, body in reader.read())
    reader.close()
    return found


class TestSharedJob:
    """Several workers in one job."""

    def test_its_end_is_the_end_of_each(self, make: Make, cluster: Cluster, log: str) -> None:
        executor = make(POOL, 2, workers_per_job=2)
        futures = [executor.submit(work.note_and_sleep, log, n, work.LONG) for n in range(2)]
        begun(log, 2)
        assert futures[0].job_id == futures[1].job_id
        cluster.query("scancel", str(futures[0].job_id))
        workers = {lost(future, JobCancelled).worker for future in futures}
        assert len(workers) == 2
        goes_on(executor)


class TestTimeLimit:
    """The wall time ends while a task runs."""

    def test_in_every_mode(self, make: Make, cluster: Cluster, tmp_path: Path) -> None:
        """Together, since Slurm looks for such jobs twice a minute."""
        futures = []
        for mode in ALL:
            log = str(tmp_path / mode.name)
            futures.append(make(mode, 1).submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        for future in futures:
            cluster.expire(str(future.job_id))
        for future in futures:
            error = lost(future, TimeLimitReached)
            assert error.state is not None and error.state.startswith("TIMEOUT")
            assert "time" in str(error)


class TestPreemption:
    """Another job needs the node."""

    @pytest.mark.parametrize("partition", ["low", "kill"])
    def test_it_runs_again_at_no_charge(
        self, make: Make, cluster: Cluster, tmp_path: Path, gate: Path, partition: str
    ) -> None:
        """In partition low jobs are put back into the queue, in partition kill they are cancelled."""
        futures, logs = [], [str(tmp_path / node) for node in cluster.nodes]
        for mode, node, log in zip([POOL, JOBS], cluster.nodes, logs):
            executor = make(mode, 1, partition=partition, cores=4, nodelist=node, retries=0)
            futures.append(executor.submit(work.note_and_wait, log, "runs", str(gate)))
            begun(log)
        before = [str(future.job_id) for future in futures]
        urgent = cluster.submit("sleep 600", "--partition=high", "--nodes=2", "--cpus-per-task=4")
        cluster.wait_state(urgent, ["RUNNING"])
        if partition == "low":
            for job_id in before:
                start_now(cluster, job_id)
        cluster.query("scancel", urgent)
        for log in logs:
            begun(log, 2)
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == ["runs", "runs"]
        assert [future.attempt for future in futures] == [1, 1]
        same = [future.job_id == job_id for future, job_id in zip(futures, before)]
        assert same == [partition == "low"] * 2
        assert [work.notes(log) for log in logs] == [["runs"] * 2] * 2, "once more, and no more than that"


class TestNode:
    """The node is gone."""

    def test_without_requeue(self, make: Make, cluster: Cluster, tmp_path: Path) -> None:
        futures = []
        for mode in (POOL, JOBS, POOL_POLLING):
            log = str(tmp_path / mode.name)
            executor = make(mode, 1, nodelist="n1", requeue=False)
            futures.append(executor.submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        take_down(cluster, "n1")
        for future in futures:
            error = lost(future, NodeFailed)
            assert error.node == "n1"
            assert error.state is not None and error.state.startswith("NODE_FAIL")
        put_back(cluster, "n1")

    def test_with_requeue(self, make: Make, cluster: Cluster, tmp_path: Path, gate: Path) -> None:
        futures, logs = [], [str(tmp_path / mode.name) for mode in (POOL, JOBS)]
        for mode, log in zip([POOL, JOBS], logs):
            executor = make(mode, 1, nodelist="n1", requeue=True, retries=0)
            futures.append(executor.submit(work.note_and_wait, log, "runs", str(gate)))
            begun(log)
        take_down(cluster, "n1")
        for future in futures:
            start_now(cluster, str(future.job_id), "ReqNodeList=n2")
        for log in logs:
            begun(log, 2)
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == ["runs", "runs"]
        assert [(future.attempt, future.node) for future in futures] == [(1, "n2")] * 2
        assert [work.notes(log) for log in logs] == [["runs"] * 2] * 2
        put_back(cluster, "n1")


class TestQueue:
    """It ends before it starts."""

    def test_a_worker_that_somebody_cancels_is_replaced(self, make: Make, cluster: Cluster) -> None:
        executor = make(POOL, 1, begin="now+1hour")
        future = executor.submit(abs, -1)
        first = in_queue(cluster, [])
        cluster.query("scancel", first)
        start_now(cluster, in_queue(cluster, [first]))
        assert future.result(LIMIT) == 1

    def test_a_task_that_somebody_cancels_is_cancelled(self, make: Make, cluster: Cluster) -> None:
        executor = make(JOBS, 3, begin="now+1hour")
        futures = [executor.submit(abs, -n) for n in range(3)]
        wait_until(lambda: all(future.job_id for future in futures), LIMIT)
        for future in futures[:2]:
            cluster.query("scancel", str(future.job_id))
        start_now(cluster, str(futures[2].job_id))
        for future in futures[:2]:
            error = future.exception(LIMIT)
            assert type(error) is JobCancelled, repr(error)
            assert "had not begun" in str(error)
            assert error.job_id == future.job_id
            assert (error.node, error.pid, error.exit_code, error.signal) == (None, None, None, None)
        assert futures[2].result(LIMIT) == 2

    @pytest.mark.parametrize("mode", BOTH)
    def test_what_can_never_start_is_not_waited_for(self, make: Make, cluster: Cluster, mode: Mode) -> None:
        failed = cluster.submit("exit 1")
        cluster.wait_state(failed, ["FAILED"])
        executor = make(mode, depends=failed)
        futures = [executor.submit(abs, -1), executor.submit(abs, -2)]
        for future in futures:
            with pytest.raises(WorkerStartError, match=r"never start: DependencyNeverSatisfied: .* failed"):
                future.result(LIMIT)
        with pytest.raises(WorkerStartError, match="DependencyNeverSatisfied"):
            executor.submit(abs, -1)
        executor.shutdown()
        cluster.idle()

    def test_a_limit_that_no_job_can_keep(self, make: Make) -> None:
        with pytest.raises(WorkerStartError, match=r"PartitionTimeLimit: .* sinfo"):
            make(POOL, partition="short", time="10m").submit(abs, -1).result(LIMIT)


def in_queue(cluster: Cluster, before: list[str]) -> str:
    """The id of the one job that waits, once there is another one than `before`."""

    def waiting() -> set[str]:
        return {*cluster.query("squeue", "-h", "-t", "PD", "-o", "%i").split()}.difference(before)

    wait_until(waiting, LIMIT, interval=0.1)
    [job_id] = waiting()
    return job_id


class TestStart:
    """No worker comes of it."""

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            ({"setup": "echo no licence today >&2; exit 7"}, 7, "no licence today"),
            ({"python": "/opt/none/bin/python"}, 127, "/opt/none/bin/python"),
        ],
        ids=["setup", "python"],
    )
    def test_a_job_that_fails(self, make: Make, options: dict[str, str], code: int, words: str) -> None:
        executors = [make(mode, **options) for mode in (POOL, JOBS)]
        for executor, future in [(ex, ex.submit(abs, -n)) for ex in executors for n in (1, 2)]:
            error = future.exception(LIMIT)
            assert type(error) is WorkerStartError, repr(error)
            assert isinstance(error, WorkerLost)
            assert f"exit code {code}" in str(error) and words in str(error)
            assert (error.exit_code, error.signal) == (code, None)
            assert error.job_id and error.node in ("n1", "n2")
            assert error.state is not None and error.state.startswith("FAILED")
            assert words in error.stderr_tail
            assert error.log_path and words in Path(error.log_path).read_text()
            with pytest.raises(WorkerStartError, match=words):
                executor.submit(abs, -1)

    @pytest.mark.parametrize("mode", BOTH)
    def test_a_refused_submission(self, make: Make, mode: Mode) -> None:
        executor = make(mode, account="nobody")
        futures = [executor.submit(abs, -1), executor.submit(abs, -2)]
        for future in futures:
            error = future.exception(LIMIT)
            assert isinstance(error, SubmissionError)
            assert error.command[0] == "sbatch" and "--account=nobody" in error.command
            assert error.exit_code == 1
            assert "Invalid account" in error.stderr and "Invalid account" in str(error)
        with pytest.raises(SubmissionError, match="Invalid account"):
            executor.submit(abs, -1)

    @pytest.mark.parametrize("mode", BOTH)
    def test_a_limit_on_jobs_is_waited_for(self, make: Make, mode: Mode) -> None:
        """With QOS few, four jobs may be there at a time."""
        executor = make(mode, 6, qos="few")
        futures = [executor.submit(work.same, n) for n in range(6)]
        assert [future.result(LIMIT) for future in futures] == [*range(6)]

    @pytest.mark.parametrize(
        ("mode", "options"), [(POOL, {}), (JOBS, {"stdout": "/dev/null"})], ids=["log", "script"]
    )
    def test_a_run_directory_that_nodes_do_not_see(
        self, cluster: Cluster, tmp_path: Path, mode: Mode, options: dict[str, str]
    ) -> None:
        """The driver's is on a file system of its own, as if it were in /tmp on another machine."""
        options = {**mode.options, **options}
        result = with_own_disk(tmp_path / "own", NOT_SEEN.format(options=options), tmp_path).check()
        assert "WorkerStartError no worker could be started" in result.stdout
        assert "the run directory is not visible on the node; choose another with run_dir=" in result.stdout


NOT_SEEN = """
import sys
from clusterfutures import SlurmExecutor
if __name__ == "__main__":
    with SlurmExecutor(1, mem="100M", run_dir=sys.argv[1] + "/run", keep="never", **{options!r}) as executor:
        error = executor.submit(abs, -1).exception({limit})
        print(type(error).__name__, error)
""".replace("{limit}", str(LIMIT))


def with_own_disk(directory: Path, script: str, tmp_path: Path) -> ScriptResult:
    """Run a script for which, and for nobody else, a file system of its own is at `directory`."""
    needs_root()
    directory.mkdir()
    (tmp_path / "script.py").write_text(script)
    mount = 'mount -t tmpfs -o size=20m none "$1" && exec "$2" "$3" "$1"'
    words = ["sh", "-c", mount, "sh", str(directory), sys.executable, str(tmp_path / "script.py")]
    return run_command(["unshare", "--mount", "--propagation", "private", *words], tmp_path)


class Site(NamedTuple):
    """A cluster; while `fail` exists its prolog fails, while `hold` exists its epilog goes on."""

    cluster: Cluster
    fail: Path
    hold: Path


EPILOG = """\
#!/bin/sh
for second in 1 2 3 4 5 6 7 8 9; do
    [ -e '{hold}' ] || exit 0
    sleep 5
done
"""


@contextmanager
def site(folder: Path, **settings: Any) -> Iterator[Site]:
    """A Slurm of its own, in the environment."""
    programs = {"Prolog": "#!/bin/sh\n[ ! -e '{fail}' ]\n", "Epilog": EPILOG}
    for name, text in programs.items():
        (folder / name).write_text(text.format(fail=folder / "fail", hold=folder / "hold"))
        (folder / name).chmod(0o755)
        settings[name] = folder / name
    with Cluster(**settings) as cluster:
        cluster.activate()
        yield Site(cluster, folder / "fail", folder / "hold")


@pytest.fixture(scope="class")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Slurm that keeps no accounts, and soon notices that a node is dead."""
    folder = tmp_path_factory.mktemp("site")
    with site(folder, accounting=False, SlurmdTimeout=3, MessageTimeout=3) as found:
        yield found


class TestSlowEpilog:
    """A site that cleans up for long after each job; its accounts know at once how the job has ended."""

    def test_nobody_waits_for_it(self, make: Make, log: str, tmp_path: Path) -> None:
        with site(tmp_path, nodes=1) as slow:
            executor = make(POOL, 1)
            future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
            begun(log)
            slow.hold.touch()
            slow.cluster.query("scancel", str(future.job_id))
            lost(future, JobCancelled)
            assert slow.cluster.states(str(future.job_id)) == ["COMPLETING"]
            executor.shutdown()
            assert slow.cluster.states(str(future.job_id)) == ["COMPLETING"]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is asked every second, however quiet it is."""
    for name in ("interval", "longest_interval"):
        monkeypatch.setattr(SlurmScheduler, name, 1.0)


class TestBareSite:
    """Without accounts, squeue alone says how a job ended; and what can go wrong with a site."""

    def test_scancel(self, bare: Site, make: Make, log: str) -> None:
        executor = make(JOBS)
        future = executor.submit(work.note_and_sleep, log, "runs", work.LONG)
        begun(log)
        bare.cluster.query("scancel", str(future.job_id))
        lost(future, JobCancelled)
        goes_on(executor)

    @pytest.mark.usefixtures("eager")
    def test_a_node_that_dies(self, bare: Site, make: Make, tmp_path: Path) -> None:
        futures = []
        for mode in (POOL, JOBS, JOBS_POLLING):
            log = str(tmp_path / mode.name)
            executor = make(mode, 1, nodelist="n1", requeue=False)
            futures.append(executor.submit(work.note_and_sleep, log, "runs", work.LONG))
            begun(log)
        bare.cluster.kill_node("n1")
        for future in futures:
            assert lost(future, NodeFailed).node == "n1"
        bare.cluster.start_node("n1")

    def test_an_epilog_that_takes_its_time(
        self, bare: Site, make: Make, log: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only when it is over, Slurm tells how the job ended."""
        monkeypatch.setattr(watch, "ACCOUNTING_GRACE", 3.0)
        future = make(POOL, 1).submit(work.note_and_sleep, log, "runs", work.LONG)
        begun(log)
        bare.hold.touch()
        try:
            bare.cluster.query("scancel", str(future.job_id))
            bare.cluster.wait_state(str(future.job_id), ["COMPLETING"])
            with pytest.raises(TimeoutError):
                future.result(5)
        finally:
            bare.hold.unlink()
        lost(future, JobCancelled)

    def test_a_prolog_that_fails(self, bare: Site, make: Make) -> None:
        """On a node for each mode, since the first job there is the last."""
        nodes = bare.cluster.nodes
        bare.fail.touch()
        try:
            futures = [
                make(mode, 1, nodelist=node).submit(abs, -1) for mode, node in zip((POOL, JOBS), nodes)
            ]
            for future in futures:
                with pytest.raises(WorkerStartError, match=r"launch failed requeued held.*prolog") as caught:
                    future.result(LIMIT)
                assert caught.value.job_id
        finally:
            bare.fail.unlink()
            bare.cluster.query("scontrol", "update", f"NodeName={','.join(nodes)}", "State=RESUME")
        for node in nodes:
            bare.cluster.wait_node(node, ["idle"])

    @pytest.mark.usefixtures("eager")
    def test_a_controller_that_is_down_for_a_while(
        self,
        bare: Site,
        make: Make,
        tmp_path: Path,
        gate: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        outage = Outage(bare.cluster.stop_controller, bare.cluster.start_controller, "squeue", "sbatch")
        outlast(make, outage, tmp_path, gate, caplog)
