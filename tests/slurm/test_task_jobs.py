"""A job for each task: few submissions, as many at once as allowed, and none that runs although cancelled."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SlurmExecutor, WorkerLost, payload
from clusterfutures.allocation import Allocation
from clusterfutures.futures import ClusterFuture
from clusterfutures.records import OUTCOME, OUTCOME_HEAD, RETURNED_VALUE
from clusterfutures.spool import RunDirectory, WorkerRef
from tests import local_work, slurm_work
from tests.slurm import Cluster
from tests.slurm.calls import Calls
from tests.support import ScriptResult, check_no_process_left, wait_until

LIMIT = 40.0  # seconds; whatever takes longer hangs

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


def jobs(max_workers: int = 4, **options: Any) -> SlurmExecutor:
    """An executor of small jobs, one for each task."""
    return SlurmExecutor(max_workers, **{"mem": "100M", "job_per_task": True, **options})


def wait_for_notes(log: str, count: int) -> None:
    """Wait until so many lines are in the file."""
    wait_until(lambda: len(local_work.notes(log)) >= count, LIMIT, lambda: local_work.notes(log))


class TestSubmissions:
    """How many jobs there are, and how many commands that takes."""

    def test_a_map_is_one_array(self, calls: Calls) -> None:
        with jobs(3) as ex:
            places = list(ex.map(slurm_work.place, range(8)))
        assert calls.arrays() == [8]
        assert len({place.pid for place in places}) == len({place.job for place in places}) == 8

    def test_a_loop_of_submits_is_one_array(self, calls: Calls) -> None:
        with jobs(3) as ex:
            futures = [ex.submit(abs, -n) for n in range(8)]
            assert [future.result(LIMIT) for future in futures] == list(range(8))
        assert calls.arrays() == [8]
        names = [(future.job_id or "").partition("_") for future in futures]
        assert len({array for array, _, _ in names}) == 1
        assert [index for _, _, index in names] == [str(n) for n in range(8)]

    def test_a_single_one_is_no_array(self, calls: Calls) -> None:
        with jobs() as ex:
            future = ex.submit(slurm_work.place)
            assert future.result(LIMIT).job == future.job_id
        assert calls.arrays() == [1]

    def test_thousands(self, cluster: Cluster, calls: Calls) -> None:
        with jobs(5000, begin="now+1hour") as ex:
            futures = [ex.submit(abs, n) for n in range(2500)]
            wait_until(lambda: len(cluster.queue()) == 2500, LIMIT, lambda: len(cluster.queue()), 0.5)
            assert calls.arrays() == [1000, 1000, 500]
            ex.shutdown(cancel_futures=True)
            assert all(future.cancelled() for future in futures)
            assert not cluster.queue()
        assert calls.count("scancel") == 1

    def test_different_jobs_are_different_arrays(self, calls: Calls) -> None:
        with jobs(4) as ex:
            large = ex.options(mem="150M")
            futures = [one.submit(slurm_work.place) for one in (ex, large, ex, large)]
            assert len({future.result(LIMIT).job for future in futures}) == 4
        assert calls.arrays() == [2, 2]
        assert ["--mem=100M" in words for words in calls.of("sbatch")] == [True, False]
        assert ["--mem=150M" in words for words in calls.of("sbatch")] == [False, True]

    def test_as_many_as_may_be_in_the_queue(
        self, cluster: Cluster, calls: Calls, log: str, gate: Path
    ) -> None:
        with jobs(4, max_queued=3) as ex:
            results = ex.map(local_work.note_and_wait, [log] * 8, range(8), [str(gate)] * 8)
            wait_for_notes(log, 3)
            assert len(cluster.queue()) == 3
            gate.touch()
            assert list(results) == list(range(8))
        assert sum(calls.arrays()) == 8
        assert max(calls.arrays()) == 3

    def test_as_many_as_an_array_may_have(self, calls: Calls) -> None:
        with Cluster(accounting=False, nodes=1, MaxArraySize=6) as small:
            small.activate()
            with jobs(20) as ex:
                assert list(ex.map(abs, range(14))) == list(range(14))
        assert calls.arrays() == [6, 6, 2]


class TestWidth:
    """`max_workers` is how many run at the same time, over all arrays."""

    def test_no_more_at_a_time(self, calls: Calls, log: str) -> None:
        with jobs(2) as ex:
            futures = [ex.submit(slurm_work.take_time, log, 0.5, n) for n in range(3)]
            wait_for_notes(log, 1)
            futures += [ex.submit(slurm_work.take_time, log, 0.5, n) for n in range(3, 6)]
            assert [future.result(LIMIT) for future in futures] == list(range(6))
        assert len(calls.arrays()) > 1
        assert slurm_work.most_at_once(log) <= 2

    def test_scale(self, here: Path, calls: Calls) -> None:
        with jobs(1) as ex:
            futures = [ex.submit(slurm_work.meet, str(here), n, 3) for n in range(3)]
            wait_for_notes(str(here / "here"), 1)
            ex.scale(3)
            assert len({future.result(LIMIT).job for future in futures}) == 3
        assert calls.arrays() == [3]

    def test_what_one_array_leaves_the_next_one_takes(
        self, here: Path, calls: Calls, log: str, gate: Path
    ) -> None:
        with jobs(3) as ex:
            first = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(2)]
            wait_for_notes(log, 2)
            second = [ex.submit(slurm_work.meet, str(here), n, 3) for n in range(4)]
            wait_for_notes(str(here / "here"), 1)
            assert calls.arrays() == [2, 4]
            assert local_work.notes(str(here / "here")) == ["0"]
            gate.touch()
            assert len({future.result(LIMIT).job for future in second}) == 4
            assert [future.result(LIMIT) for future in first] == [0, 1]
        assert calls.arrays() == [2, 4]


class TestCancel:
    """What was cancelled before it started never runs."""

    def test_many_queued(self, cluster: Cluster, calls: Calls, log: str, gate: Path) -> None:
        with jobs(1) as ex:
            futures = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(40)]
            wait_for_notes(log, 1)
            assert [future.cancel() for future in futures] == [False] + [True] * 39
            wait_until(lambda: len(cluster.queue()) == 1, LIMIT, lambda: cluster.queue(), 0.1)
            gate.touch()
            assert futures[0].result(LIMIT) == 0
        assert local_work.notes(log) == ["0"]
        assert calls.count("scancel") == 1

    def test_while_they_start(self, log: str) -> None:
        chance = random.Random(7)
        kept: dict[int, ClusterFuture[object]] = {}
        with jobs(8) as ex:
            for first in range(0, 50, 10):
                numbers = range(first, first + 10)
                futures = {n: ex.submit(local_work.note_and_sleep, log, n, 0) for n in numbers}
                for n in chance.sample(numbers, 10):
                    time.sleep(chance.uniform(0.0, 0.25))
                    if not futures[n].cancel():
                        kept[n] = futures[n]
                wait(kept.values(), LIMIT)
        assert {n: future.result(0) for n, future in kept.items()} == {n: n for n in kept}
        assert sorted(map(int, local_work.notes(log))) == sorted(kept)

    def test_while_it_is_being_submitted(self, cluster: Cluster, calls: Calls, log: str) -> None:
        with jobs(begin="now+3") as ex, calls.held("sbatch"):
            future = ex.submit(local_work.note, log, "ran")
            wait_until(lambda: cluster.queue(), LIMIT)
            assert future.cancel()
            cluster.idle()
        assert local_work.notes(log) == []

    def test_after_it_has_begun_unheard_of(self, calls: Calls, log: str) -> None:
        with jobs() as ex:
            with calls.held("sbatch"):
                future = ex.submit(local_work.note_and_sleep, log, "ran", 0)
                wait_for_notes(log, 1)
                assert not future.cancel()
            assert future.result(LIMIT) == "ran"

    def test_shutdown(self, cluster: Cluster, log: str, gate: Path) -> None:
        ex = jobs(1)
        futures = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(5)]
        wait_for_notes(log, 1)
        ex.shutdown(wait=False, cancel_futures=True)
        assert [future.cancelled() for future in futures] == [False] + [True] * 4
        wait_until(lambda: len(cluster.queue()) == 1, LIMIT, lambda: cluster.queue(), 0.1)
        gate.touch()
        ex.shutdown()
        assert futures[0].result(LIMIT) == 0
        assert local_work.notes(log) == ["0"]

    def test_closing_the_results_of_a_map(self, cluster: Cluster, log: str) -> None:
        with jobs(1) as ex:
            results: Any = ex.map(local_work.note_and_sleep, [log] * 20, range(20), [0.5] * 20)
            assert next(results) == 0
            results.close()
            wait_until(lambda: not cluster.queue(), LIMIT, lambda: cluster.queue(), 0.1)
            assert len(local_work.notes(log)) < 20
            assert ex.submit(abs, -1).result(LIMIT) == 1


class TestEnds:
    """Of workers, and of drivers."""

    def test_another_job_after_a_crash(self, calls: Calls, log: str) -> None:
        with jobs(retries=2) as ex:
            future = ex.submit(local_work.attempts, log, 1)
            assert future.result(LIMIT) == 1
            assert future.attempt == 1
        assert local_work.notes(log) == ["0", "1"]
        assert calls.arrays() == [1, 1]

    def test_requeue(self, cluster: Cluster, calls: Calls, log: str, gate: Path) -> None:
        with jobs() as ex:
            future = ex.submit(local_work.note_and_wait, log, "ran", str(gate))
            wait_for_notes(log, 1)
            job = future.job_id or ""
            cluster.requeue(job)
            wait_for_notes(log, 2)
            gate.touch()
            assert future.result(LIMIT) == "ran"
            assert future.job_id == job
        assert local_work.notes(log) == ["ran", "ran"]
        assert calls.arrays() == [1], "the job that was queued again has its task with it"

    def test_requeue_that_nobody_sees(
        self, cluster: Cluster, log: str, gate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It begins anew and ends between two questions, and rings nobody: its result is found."""
        with jobs(doorbell=False) as ex:
            future = ex.submit(local_work.note_and_wait, log, "ran", str(gate))
            wait_until(future.running, LIMIT)
            with monkeypatch.context() as patch:
                patch.setattr(Allocation, "ask", lambda self, at_once=False: None)
                job = future.job_id or ""
                cluster.requeue(job)
                wait_for_notes(log, 2)
                gate.touch()
                cluster.wait_state(job, ["COMPLETED"])
            assert future.result(LIMIT) == "ran"
            assert (future.attempt, future.job_id) == (1, job)

    def test_no_job_too_many_after_a_crash(self, calls: Calls) -> None:
        with jobs() as ex:
            futures = [ex.submit(local_work.die_if, n, 2) for n in range(4)]
            with pytest.raises(WorkerLost, match="SIGKILL") as caught:
                futures[2].result(LIMIT)
            others = futures[:2] + futures[3:]
            assert [future.result(LIMIT) for future in others] == [0, 1, 3]
        assert caught.value.signal == "SIGKILL"
        assert caught.value.job_id == futures[2].job_id
        assert calls.arrays() == [4]

    @pytest.mark.parametrize(("code", "end"), [(3, "FAILED|3:0"), (0, "FAILED|1:0")])
    def test_a_lost_task_is_a_failed_job(self, cluster: Cluster, code: int, end: str) -> None:
        with jobs() as ex:
            future = ex.submit(os._exit, code)
            with pytest.raises(WorkerLost) as caught:
                future.result(LIMIT)
        assert caught.value.exit_code == code
        words = ("--noheader", "--parsable2", "--allocations", "--format=State,ExitCode")

        def ended() -> str:
            return cluster.query("sacct", *words, f"--jobs={future.job_id}").strip()

        wait_until(lambda: ended() == end, LIMIT, ended, 0.2)

    def test_of_the_driver(
        self, cluster: Cluster, run: Callable[..., ScriptResult], log: str, gate: Path
    ) -> None:
        ended = run(DRIVER, log, str(gate))
        assert ended.returncode == -signal.SIGKILL, ended.report()
        gate.touch()
        cluster.idle()
        found = [outcome(Path(ended.stdout.strip()), element) for element in range(5)]
        assert found == [(n, f"task {n}") for n in range(5)]


DRIVER = """
import os, signal, sys
from clusterfutures import SlurmExecutor
from tests import local_work
from tests.support import wait_until

log, gate = sys.argv[1:]
ex = SlurmExecutor(2, mem="100M", job_per_task=True)
print(ex.run_dir, flush=True)
futures = [ex.submit(local_work.note_and_wait, log, f"task {n}", gate) for n in range(5)]
wait_until(lambda: local_work.notes(log))
os.kill(os.getpid(), signal.SIGKILL)
"""


def outcome(run_dir: Path, element: int) -> tuple[int, object]:
    """The number of the task that an element of the first job had, and what that has returned."""
    run = RunDirectory(str(run_dir), shared=True)
    frames = run.outbox_reader(WorkerRef(0, element, 0, 0, 0)).read(final=True)
    (body,) = [body for kind, body in frames if kind == OUTCOME]
    number, _, status, *_ = OUTCOME_HEAD.unpack_from(body)
    assert status == RETURNED_VALUE
    return number, payload.loads_result(body[OUTCOME_HEAD.size :])
