"""Workers that are Slurm jobs: how many jobs for how much work, what ends them, and what each may use."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SlurmExecutor, TaskKilled, WorkerLost
from clusterfutures.futures import ClusterFuture
from tests import local_work, slurm_work
from tests.slurm import Cluster
from tests.slurm.calls import Calls
from tests.support import check_no_process_left, wait_until

LIMIT = 40.0  # seconds; whatever takes longer hangs

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


def pool(max_workers: int = 1, **options: Any) -> SlurmExecutor:
    """An executor of small workers."""
    return SlurmExecutor(max_workers, **{"mem": "100M", **options})


def blocked(ex: SlurmExecutor, log: str, gate: Path, count: int) -> list[ClusterFuture[Any]]:
    """So many tasks that have begun, and end when the gate is opened."""
    before = len(local_work.notes(log))
    futures = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(count)]
    wait_until(lambda: len(local_work.notes(log)) == before + count, LIMIT, lambda: local_work.notes(log))
    return futures


class TestJobs:
    """How many jobs there are, and when."""

    def test_all_workers_are_one_array(self, calls: Calls, log: str, gate: Path) -> None:
        with pool(3) as ex:
            futures = blocked(ex, log, gate, 3)
            names = {future.job_id or "" for future in futures}
            assert len(names) == 3
            assert len({name.partition("_")[0] for name in names}) == 1
            gate.touch()
        assert calls.arrays() == [3]

    def test_they_come_as_tasks_need_them(self, calls: Calls, log: str, gate: Path) -> None:
        with pool(3) as ex:
            assert ex.active_workers == 0
            futures = blocked(ex, log, gate, 1)
            assert calls.arrays() == [1]
            futures += blocked(ex, log, gate, 2)
            waits = ex.submit(abs, -1)
            assert calls.arrays() == [1, 2]
            assert not waits.done()
            gate.touch()
            assert waits.result(LIMIT) == 1
            assert [future.result(LIMIT) for future in futures] == [0, 0, 1]
        assert calls.arrays() == [1, 2]

    def test_many_small_tasks_are_few_commands(self, calls: Calls) -> None:
        began = time.monotonic()
        with pool(4) as ex:
            assert sum(ex.map(abs, range(10_000))) == sum(range(10_000))
        seconds = time.monotonic() - began
        assert calls.count("sbatch") <= 2
        assert calls.count("squeue") <= 3 + 2 * seconds, "they depend on the time, and not on the tasks"

    def test_idle_ones_go_and_come_again(self, cluster: Cluster) -> None:
        with pool(2, idle_timeout=1) as ex:
            first = {place.job for place in ex.map(slurm_work.place, range(8))}
            wait_until(lambda: not cluster.queue(), LIMIT, lambda: cluster.queue(), 0.1)
            assert ex.active_workers == 0
            assert ex.submit(slurm_work.place).result(LIMIT).job not in first

    def test_queued_ones_that_nobody_needs_any_more_are_withdrawn(
        self, cluster: Cluster, calls: Calls, log: str, gate: Path
    ) -> None:
        # Two fit on the two nodes, and a third one has to wait.
        with pool(3, mem="7000M", idle_timeout=1) as ex:
            futures = blocked(ex, log, gate, 2)
            superfluous = ex.submit(abs, -1)
            wait_until(lambda: len(cluster.queue()) == 3, LIMIT, lambda: cluster.queue(), 0.1)
            assert superfluous.cancel()
            wait_until(lambda: len(cluster.queue()) == 2, LIMIT, lambda: cluster.queue(), 0.1)
            assert calls.count("scancel") == 1
            gate.touch()
            assert [future.result(LIMIT) for future in futures] == [0, 1]

    def test_waiting_for_them(self, cluster: Cluster, calls: Calls) -> None:
        with pool(3) as ex:
            assert ex.wait_for_workers(2, LIMIT)
            assert ex.active_workers == 2
            assert len(cluster.queue()) == 2
        assert calls.arrays() == [2]

    def test_waiting_for_them_in_vain(self, calls: Calls) -> None:
        with pool(1, begin="now+1hour") as ex:
            assert not ex.wait_for_workers(1, 0.5)
            wait_until(lambda: calls.count("sbatch"), LIMIT)

    def test_scale(self, cluster: Cluster, calls: Calls, log: str, gate: Path) -> None:
        with pool(1) as ex:
            (busy,) = blocked(ex, log, gate, 1)
            more = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(2)]
            ex.scale(3)
            wait_until(lambda: len(local_work.notes(log)) == 3, LIMIT, lambda: local_work.notes(log))
            assert calls.arrays() == [1, 2]
            assert ex.active_workers == 3
            gate.touch()
            assert [future.result(LIMIT) for future in (busy, *more)] == [0, 0, 1]
            ex.scale(1)
            wait_until(lambda: len(cluster.queue()) == 1, LIMIT, lambda: cluster.queue(), 0.1)
            assert ex.active_workers == 1
            assert len({place.job for place in ex.map(slurm_work.place, range(20))}) == 1
        assert calls.arrays() == [1, 2]


class TestKinds:
    """Tasks that need other jobs than the rest."""

    def test_each_kind_has_workers_of_its_own(self, calls: Calls) -> None:
        with pool(2) as ex:
            large = ex.options(mem="150M", cores=2)
            places = [ex.submit(slurm_work.place).result(LIMIT) for _ in range(2)]
            others = [large.submit(slurm_work.place).result(LIMIT) for _ in range(2)]
            same = ex.options(mem="100M").submit(slurm_work.place).result(LIMIT)
        assert {place.job for place in places} == {same.job}
        assert len({place.job for place in others} - {same.job}) == 1
        assert {place.threads[0] for place in others} == {"2"}
        first, second = calls.of("sbatch")
        assert "--mem=100M" in first
        assert {"--mem=150M", "--cpus-per-task=2"} <= set(second)

    def test_the_number_of_workers_is_that_of_all_kinds(
        self, cluster: Cluster, calls: Calls, log: str, gate: Path
    ) -> None:
        with pool(2) as ex:
            small = blocked(ex, log, gate, 2)
            large = ex.options(mem="150M").submit(slurm_work.place)
            gate.touch()
            place = large.result(LIMIT)
            assert [future.result(LIMIT) for future in small] == [0, 1]
            assert place.job not in {(future.job_id or "") for future in small}
            # One of the others has left, idle as it was.
            assert len(cluster.queue("-t", "running,pending")) == 2
        assert calls.arrays() == [2, 1]


class TestSameJob:
    """What ends a worker does not end its place on the cluster."""

    def test_after_so_many_tasks(self, calls: Calls) -> None:
        with pool(1, max_tasks_per_child=2) as ex:
            places = list(ex.map(slurm_work.place, range(6)))
        assert len({place.pid for place in places}) == 3
        assert len({place.job for place in places}) == 1
        assert calls.arrays() == [1]

    def test_after_a_crash(self, calls: Calls) -> None:
        with pool(1) as ex:
            before = ex.submit(slurm_work.place).result(LIMIT)
            with pytest.raises(WorkerLost, match="SIGSEGV") as caught:
                ex.submit(local_work.die, signal.SIGSEGV).result(LIMIT)
            after = ex.submit(slurm_work.place).result(LIMIT)
        assert caught.value.signal == "SIGSEGV"
        assert before.pid != after.pid
        assert before.job == after.job == caught.value.job_id
        assert calls.arrays() == [1]

    def test_after_a_task_was_killed(self, calls: Calls, log: str, gate: Path) -> None:
        with pool(1) as ex:
            before = ex.submit(slurm_work.place).result(LIMIT)
            (task,) = blocked(ex, log, gate, 1)
            assert task.kill()
            with pytest.raises(TaskKilled):
                task.result(LIMIT)
            after = ex.submit(slurm_work.place).result(LIMIT)
        assert before.pid != after.pid
        assert before.job == after.job
        assert calls.arrays() == [1]


class TestShares:
    """What each worker may use."""

    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the user has not set follows what the job got."""
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    def test_workers_that_share_a_job(self, here: Path, calls: Calls) -> None:
        with pool(4, workers_per_job=2, cores=1, gpus=1, keep="always") as ex:
            futures = [ex.submit(slurm_work.meet, str(here), n, 4) for n in range(4)]
            places = [future.result(LIMIT) for future in futures]
            run_dir = Path(ex.run_dir)
        assert calls.arrays() == [2]
        (words,) = calls.of("sbatch")
        assert {"--cpus-per-task=2", "--gres=gpu:2", "--mem=200M"} <= set(words)
        assert len({place.pid for place in places}) == 4
        by_job = {place.job: [other for other in places if other.job == place.job] for place in places}
        assert len(by_job) == 2
        for one, other in by_job.values():
            assert {one.gpus, other.gpus} == {"0", "1"}
            if len(os.sched_getaffinity(0)) > 1:
                assert not set(one.cpus) & set(other.cpus)
        logs = [path.read_text() for path in run_dir.glob("jobs/0/*.0/*.0/stdout")]
        assert sorted(logs) == [f"task {n}\n" for n in range(4)]
        assert [future.stdout() for future in futures] == [f"task {n}\n" for n in range(4)]

    def test_as_many_threads_as_cores(self) -> None:
        with pool(1, cores=3) as ex:
            assert ex.submit(slurm_work.place).result(LIMIT).threads == ("3", "3", "3")

    def test_as_many_threads_as_the_user_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MKL_NUM_THREADS", "1")
        with pool(1, cores=3, env={"OMP_NUM_THREADS": "7"}) as ex:
            assert ex.submit(slurm_work.place).result(LIMIT).threads == ("7", "1", "3")

    def test_a_function_that_uses_all_nodes_of_its_job(self, calls: Calls) -> None:
        with pool(1, nodes=2, tasks=2) as ex:
            assert ex.submit(slurm_work.nodes_of_job).result(LIMIT) == ["n1", "n2"]
            assert ex.active_workers == 1
        assert calls.arrays() == [1]


class TestPlannedEnds:
    """Slurm says beforehand, or takes the job back: nothing is lost, and no retry is spent."""

    def test_wall_time(self, cluster: Cluster, calls: Calls, log: str) -> None:
        with pool(1, time="1m") as ex:
            # After the first one half of the minute is over, and another such would not fit in the rest.
            first = ex.submit(slurm_work.take_time, log, 30.0)
            others = [ex.submit(slurm_work.take_time, log, 0.1, n) for n in range(1, 4)]
            assert first.result(LIMIT) == 0
            assert [future.result(LIMIT) for future in others] == [1, 2, 3]
            assert {future.attempt for future in (first, *others)} == {0}
            assert len({future.job_id for future in others}) == 1
            assert others[0].job_id != first.job_id
        assert calls.arrays() == [1, 1]
        assert local_work.notes(log) == [f"{sign}{n}" for n in range(4) for sign in "+-"]
        assert cluster.states(first.job_id or "") == ["COMPLETED"]

    def test_requeue(self, cluster: Cluster, calls: Calls, log: str, gate: Path) -> None:
        with pool(1) as ex:
            (task,) = blocked(ex, log, gate, 1)
            (job,) = cluster.queue()
            cluster.requeue(job)
            wait_until(lambda: len(local_work.notes(log)) == 2, LIMIT, lambda: local_work.notes(log))
            gate.touch()
            assert task.result(LIMIT) == 0
            assert task.job_id == job
            assert ex.submit(slurm_work.place).result(LIMIT).job == job
        assert calls.arrays() == [1]

    def test_warning(self, cluster: Cluster, log: str) -> None:
        with pool(1, time="10m", signal="USR1@60") as ex:
            task = ex.submit(slurm_work.wait_for_warning, log)
            wait_until(lambda: local_work.notes(log), LIMIT)
            (job,) = cluster.queue()
            cluster.query("scontrol", "update", f"JobId={job}", "EndTime=now+50")
            assert task.result(LIMIT) == "SIGUSR1"
