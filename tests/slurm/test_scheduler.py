"""The Slurm scheduler on a real Slurm: that words mean what `tests/test_schedulers_slurm.py` says they do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clusterfutures.errors import SchedulerUnavailable, SubmissionError, SubmitLimitReached
from clusterfutures.schedulers import command, poller, script
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.schedulers.command import Completed
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.states import JobState
from tests.slurm import Cluster
from tests.support import wait_until

pytestmark = pytest.mark.long

TELL = """
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))
"""
WAIT = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may ask again at once; what it costs to ask is not its subject."""
    monkeypatch.setattr(poller, "LEAST_AGE", -1.0)


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, whose jobs are cancelled after the test."""
    yield cluster
    cluster.cancel_all()
    cluster.idle()


@pytest.fixture
def scheduler(queue: Cluster) -> SlurmScheduler:
    return SlurmScheduler()


def request(directory: Path, argv: list[str], elements: int = 1, **changes: Any) -> JobRequest:
    base = JobRequest(
        job=0,
        name="test",
        argv=argv,
        elements=elements,
        script=str(directory / "job.sh"),
        log=str(directory / f"{INDEX}.log"),
        cwd=str(directory),
        environment={},
        setup="",
        resources={"mem": 100 << 20},
        tag="run7",
    )
    return base._replace(**changes)


def when(
    scheduler: SlurmScheduler, ids: Sequence[str], *states: JobState, timeout: float = 30
) -> dict[str, JobStatus]:
    """What the scheduler says once all of these jobs are in one of these states."""
    found: dict[str, JobStatus] = {}

    def there() -> bool:
        found.update(scheduler.poll(ids))
        return found.keys() >= set(ids) and all(status.state in states for status in found.values())

    wait_until(there, timeout, describe=lambda: found, interval=0.1)
    return found


def end_of(scheduler: SlurmScheduler, ids: Sequence[str]) -> dict[str, JobStatus]:
    return when(scheduler, ids, *(state for state in JobState if state.ended))


def told(path: Path) -> tuple[list[str], dict[str, str], str]:
    words, environ, cwd = json.loads(path.read_text())
    return words, environ, cwd


class TestSubmission:
    @pytest.mark.parametrize("arrays", [True, False])
    def test_elements(self, queue: Cluster, tmp_path: Path, arrays: bool) -> None:
        scheduler = SlurmScheduler(arrays=arrays)
        code = "import sys; print(*sys.argv[1:]); sys.exit(int(sys.argv[1]))"
        argv = [sys.executable, "-c", code, INDEX, RESTART, JOB_ID]
        ids = scheduler.submit(request(tmp_path, argv, 3))
        assert [("_" in job_id) for job_id in ids] == 3 * [arrays]
        found = end_of(scheduler, ids)
        assert [found[job_id].exit_code for job_id in ids] == [0, 1, 2]
        assert {status.node for status in found.values()} <= set(queue.nodes)
        assert [found[job_id].restarts for job_id in ids] == [0, 0, 0]
        for index, job_id in enumerate(ids):
            assert (tmp_path / f"{index}.log").read_text() == f"{index} 0 {job_id}\n"

    @pytest.mark.parametrize("backslash", [True, False])
    def test_hostile_words(
        self, scheduler: SlurmScheduler, hostile_tmp_path: Path, backslash: bool
    ) -> None:
        """In paths, names, the environment; only without a backslash can sbatch itself open the log."""
        name = hostile_tmp_path.name + " %a %% %j \r\n" + ("\\" if backslash else "")
        directory = hostile_tmp_path.parent / (name if backslash else name.replace("\\", ""))
        directory.mkdir()
        wanted = request(
            directory,
            [sys.executable, "-c", TELL, name, "", "--", "*"],
            2,
            name=name,
            environment={"CF_TEST": name, "CF_GONE": None},
            setup="true\n",
            resources={"comment": name},
        )
        ids = scheduler.submit(wanted)
        found = end_of(scheduler, ids)
        assert [found[job_id].exit_code for job_id in ids] == [0, 0]
        for index in range(2):
            words, environ, cwd = told(directory / f"{index}.log")
            assert words == [name, "", "--", "*"]
            assert environ["CF_TEST"] == name
            assert cwd == str(directory)
        assert sorted(path.name for path in directory.iterdir()) == ["0.log", "1.log", "job.sh"]

    def test_the_job_that_the_driver_runs_in_is_not_theirs(
        self, scheduler: SlurmScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outer = {
            "SLURM_JOB_ID": "1",
            "SLURM_ARRAY_TASK_ID": "5",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_MEM_PER_NODE": "999999999",
            "SLURM_NTASKS": "64",
            "SLURM_TIME_FORMAT": "relative",
            "SQUEUE_FORMAT": "%j",
            "SQUEUE_STATES": "SUSPENDED",
            "SQUEUE_USERS": "nobody",
            "SACCT_FORMAT": "user",
            "SCANCEL_STATE": "SUSPENDED",
            "SBATCH_ERROR": str(tmp_path / "err.%j"),
            "SBATCH_WAIT": "1",
        }
        for name, value in outer.items():
            monkeypatch.setenv(name, value)
        ids = scheduler.submit(request(tmp_path, [sys.executable, "-c", TELL, INDEX]))
        assert end_of(scheduler, ids)[ids[0]].exit_code == 0
        words, environ, _ = told(tmp_path / "0.log")
        assert words == ["0"]
        assert {name for name in outer if environ.get(name) == outer[name]} == set()
        waiting = scheduler.submit(request(tmp_path, WAIT))
        when(scheduler, waiting, JobState.RUNNING)
        scheduler.cancel(waiting)
        assert end_of(scheduler, waiting)[waiting[0]].state is JobState.CANCELLED

    def test_what_the_site_presets_holds(
        self, scheduler: SlurmScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SBATCH_PARTITION", "high")
        monkeypatch.setenv("SBATCH_EXPORT", "NONE")
        wanted = request(tmp_path, [sys.executable, "-c", TELL], environment={"CF_TEST": "1"})
        ids = scheduler.submit(wanted)
        assert end_of(scheduler, ids)[ids[0]].exit_code == 0
        environ = told(tmp_path / "0.log")[1]
        assert environ["SLURM_JOB_PARTITION"] == "high"
        assert environ["CF_TEST"] == "1"
        assert "SBATCH_PARTITION" not in environ

    def test_options(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        asked = {
            "time": 5400,
            "cores": 2,
            "mem": 200 << 20,
            "gpus": 1,
            "features": "slow",
            "nice": 7,
            "requeue": False,
            "signal": "USR1@60",
            "mail": "NONE",
            "exclude": "n1",
            "exclusive": False,
            "extra": ("--switches=1",),
        }
        ids = scheduler.submit(request(tmp_path, WAIT, resources=asked))
        assert when(scheduler, ids, JobState.RUNNING)[ids[0]].node == "n2"
        left = scheduler.poll(ids)[ids[0]].time_left
        assert left is not None
        assert 5000 < left <= 5400
        facts = queue.query("scontrol", "-o", "show", "job", ids[0])
        for fact in ("CPUs/Task=2", "MinMemoryNode=200M", "Nice=7", "Requeue=0", "TresPerNode=gres:gpu:1"):
            assert f" {fact} " in f"{facts} "
        assert " Comment=clusterfutures run7 " in facts

    def test_the_limit_of_arrays(self, scheduler: SlurmScheduler) -> None:
        assert scheduler.max_array == 1001

    def test_throttle(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        ids = scheduler.submit(request(tmp_path, WAIT, 3, throttle=1))

        def one_runs() -> bool:
            found = scheduler.poll(ids)
            waiting = [status for status in found.values() if "JobArrayTaskLimit" in status.text]
            return [found[ids[0]].state, len(waiting)] == [JobState.RUNNING, 2]

        wait_until(one_runs, describe=lambda: scheduler.poll(ids), interval=0.1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("resources", "words", "kind"),
        [
            ({"partition": "nope"}, "Invalid partition name", SubmissionError),
            ({"features": "nope"}, "Invalid feature specification", SubmissionError),
            ({"account": "nope"}, "Invalid account", SubmissionError),
            ({"qos": "nope"}, "Invalid qos", SubmissionError),
            ({"mem": 1 << 50}, "Memory specification can not be satisfied", SubmissionError),
            ({"extra": ("--no-such-option",)}, "unrecognized option", SubmissionError),
            ({"extra": ("--array=0-20000",)}, "Invalid job array specification", SubmissionError),
            ({"qos": "few", "extra": ("--array=0-9",)}, "QOSMaxSubmitJobPerUserLimit", SubmitLimitReached),
            ({"account": "tiny", "extra": ("--array=0-9",)}, "AssocMaxSubmitJobLimit", SubmitLimitReached),
        ],
    )
    def test_what_slurm_does_not_take(
        self, scheduler: SlurmScheduler, tmp_path: Path, resources: Mapping[str, Any], words: str, kind: type
    ) -> None:
        with pytest.raises(SubmissionError, match=words) as caught:
            scheduler.submit(request(tmp_path, ["true"], resources=resources))
        assert type(caught.value) is kind
        assert caught.value.command[0] == "sbatch"
        assert caught.value.exit_code
        assert words in caught.value.stderr

    def test_asking_first(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["true"], 2)
        assert scheduler.test_only(wanted).startswith("Job ")
        with pytest.raises(SubmissionError, match="Invalid feature"):
            scheduler.test_only(wanted._replace(resources={"features": "nope"}))
        assert queue.query("squeue", "-h") == ""

    def test_none_of_many(self, queue: Cluster, tmp_path: Path) -> None:
        scheduler = SlurmScheduler(arrays=False)
        wanted = request(tmp_path, WAIT, 6, resources={"qos": "few"})
        with pytest.raises(SubmitLimitReached):
            scheduler.submit(wanted)
        queue.idle()

    def test_a_dependency_that_can_never_be(self, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        first = scheduler.submit(request(tmp_path, ["true"]))
        end_of(scheduler, first)
        later = request(tmp_path, ["true"], 2, resources={"depends": f"afternotok:{first[0]}"})
        self.is_hopeless(scheduler, later, "DependencyNeverSatisfied")

    def test_a_time_limit_that_is_too_long(self, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        too_long = request(tmp_path, ["true"], resources={"partition": "short", "time": 6000})
        self.is_hopeless(scheduler, too_long, "PartitionTimeLimit")

    def is_hopeless(self, scheduler: SlurmScheduler, wanted: JobRequest, reason: str) -> None:
        ids = scheduler.submit(wanted)
        why = wait_until(lambda: scheduler.poll(ids)[ids[-1]].hopeless, interval=0.1)
        assert str(why).startswith(f"{reason}: ")
        assert scheduler.poll(ids)[ids[-1]].state is JobState.PENDING


class TestEndings:
    @pytest.mark.parametrize(
        ("changes", "state", "exit_code", "signal"),
        [
            ({"argv": ["sh", "-c", "exit 3"]}, JobState.FAILED, 3, None),
            ({"argv": ["sh", "-c", "kill -9 $$"]}, JobState.FAILED, None, 9),
            ({"argv": ["sh", "-c", "kill -TERM $$"]}, JobState.FAILED, None, 15),
            ({"setup": "(exit 7)"}, JobState.FAILED, 7, None),
            ({"argv": ["/nowhere/python3"]}, JobState.FAILED, 127, None),
            ({"cwd": "/nowhere"}, JobState.FAILED, script.NO_WORKING_DIRECTORY, None),
            ({"log": "/nowhere/at/all.log"}, JobState.FAILED, None, None),
            ({"log": "/no\\where/at/all.log"}, JobState.FAILED, script.NO_RUN_DIRECTORY, None),
        ],
        ids=["exit", "kill", "term", "setup", "python", "cwd", "log", "own log"],
    )
    def test_by_itself(
        self,
        scheduler: SlurmScheduler,
        tmp_path: Path,
        changes: dict[str, Any],
        state: JobState,
        exit_code: int | None,
        signal: int | None,
    ) -> None:
        ids = scheduler.submit(request(tmp_path, ["true"])._replace(**changes))
        status = end_of(scheduler, ids)[ids[0]]
        assert (status.state, status.exit_code, status.signal) == (state, exit_code, signal)
        assert scheduler.poll(ids)[ids[0]] == status
        if "log" in changes:
            assert "run directory is not visible on the node" in status.text

    def test_too_much_memory(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        if not queue.limits_memory:
            pytest.skip("limiting memory takes root and control groups of version 1")
        ids = scheduler.submit(request(tmp_path, [sys.executable, "-c", "bytearray(400 << 20)"]))
        status = end_of(scheduler, ids)[ids[0]]
        assert (status.state, status.exit_code, status.signal) == (JobState.OUT_OF_MEMORY, None, None)

    def test_the_time_limit(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        ids = scheduler.submit(request(tmp_path, WAIT, resources={"time": 3600}))
        when(scheduler, ids, JobState.RUNNING)
        queue.expire(ids[0])
        # Slurm looks for such jobs twice a minute.
        status = when(scheduler, ids, JobState.TIMEOUT, timeout=50)[ids[0]]
        assert (status.exit_code, status.signal) == (None, None)

    def test_preemption(self, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        where = {"nodelist": "n1", "exclusive": True}
        low = scheduler.submit(request(tmp_path, WAIT, resources={"partition": "kill", **where}))
        when(scheduler, low, JobState.RUNNING)
        high = scheduler.submit(request(tmp_path, ["true"], resources={"partition": "high", **where}))
        assert end_of(scheduler, low)[low[0]].state is JobState.PREEMPTED
        end_of(scheduler, high)

    def test_it_comes_again(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        """Under the same id, with the same log, and it knows."""
        argv = ["sh", "-c", 'echo "$@"; sleep 600', "sh", INDEX, RESTART, JOB_ID]
        ids = scheduler.submit(request(tmp_path, argv, 2))
        when(scheduler, ids, JobState.RUNNING)
        log = tmp_path / "1.log"
        wait_until(log.exists)
        queue.query("scontrol", "requeue", ids[1])
        # Once all of it has ended, Slurm waits for two minutes, until its credential has expired.
        queue.wait_state(ids[1], ["PENDING"])
        found = scheduler.poll(ids)
        assert found[ids[1]].state is JobState.PENDING
        assert [found[job_id].restarts for job_id in ids] == [0, 1]
        queue.query("scontrol", "update", f"JobId={ids[1]}", "StartTime=now+2")
        wait_until(lambda: f"1 1 {ids[1]}\n" in log.read_text(), describe=log.read_text, interval=0.1)
        assert log.read_text().startswith(f"1 0 {ids[1]}\n"), "appended to what the first one wrote"
        assert when(scheduler, ids, JobState.RUNNING)[ids[1]].restarts == 1


class TestCancel:
    def test_what_runs_and_what_waits(self, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        running = scheduler.submit(request(tmp_path, WAIT, 4))
        waiting = scheduler.submit(request(tmp_path, WAIT, 6, resources={"extra": ("--hold",)}))
        when(scheduler, running, JobState.RUNNING)
        scheduler.cancel([*running[:2], *waiting[1:4]])
        gone = end_of(scheduler, [*running[:2], *waiting[1:4]])
        assert {status.state for status in gone.values()} == {JobState.CANCELLED}
        left = scheduler.poll([*running[2:], waiting[0], *waiting[4:]])
        assert [left[job].state for job in running[2:]] == 2 * [JobState.RUNNING]
        assert [left[job].state for job in [waiting[0], *waiting[4:]]] == 3 * [JobState.PENDING]
        scheduler.cancel(waiting)
        assert {status.state for status in end_of(scheduler, waiting).values()} == {JobState.CANCELLED}

    def test_what_is_over_or_was_never_there(self, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        ids = scheduler.submit(request(tmp_path, ["true"], 2))
        end_of(scheduler, ids)
        scheduler.cancel([*ids, "999999", "999999_1", "999999_2"])
        assert scheduler.poll(["999999"]) == {}
        assert scheduler.poll(["999999", "999998_3", ids[0]]).keys() == {ids[0]}


class TestDisturbances:
    def test_a_lost_answer(self, queue: Cluster, tmp_path: Path) -> None:
        """The job was accepted, and nobody has heard of it: it is found, not submitted a second time."""
        calls: list[str] = []

        def run(argv: Sequence[str], **options: Any) -> Completed:
            calls.append(argv[0])
            done = command.run(argv, **options)
            if calls.count("sbatch") == 1 and argv[0] == "sbatch":
                raise TimeoutError("sbatch did not end")
            return done

        scheduler = SlurmScheduler(run)
        directory = tmp_path / "a (b) c\nd"
        directory.mkdir()
        wanted = request(directory, WAIT, 3, resources={"comment": "of the user's own"})
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(wanted)
        ids = scheduler.submit(wanted)
        assert calls == ["sbatch", "squeue"]
        when(scheduler, ids, JobState.RUNNING)
        assert len(queue.query("squeue", "-h", "-r").splitlines()) == 3

    def test_a_controller_that_is_down(
        self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path
    ) -> None:
        ids = scheduler.submit(request(tmp_path, WAIT))
        when(scheduler, ids, JobState.RUNNING)
        wanted = request(tmp_path, ["true"], script=str(tmp_path / "other.sh"))
        queue.stop_controller()
        try:
            for call in (scheduler.poll, scheduler.cancel):
                with pytest.raises(SchedulerUnavailable):
                    call(ids)
            with pytest.raises(SchedulerUnavailable):
                scheduler.submit(wanted)
        finally:
            queue.start_controller()
        assert scheduler.poll(ids)[ids[0]].state is JobState.RUNNING
        end_of(scheduler, scheduler.submit(wanted))

    def test_accounts_that_are_away(self, queue: Cluster, scheduler: SlurmScheduler, tmp_path: Path) -> None:
        queue.stop_accounting()
        try:
            ids = scheduler.submit(request(tmp_path, ["sh", "-c", "exit 3"]))
            assert end_of(scheduler, ids)[ids[0]].exit_code == 3
        finally:
            queue.start_accounting()


class TestWithoutAccounts:
    @pytest.fixture
    def bare(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
        """A cluster that keeps no accounts, and whose prolog fails on its second node."""
        prolog = '#!/bin/sh\n[ "$SLURMD_NODENAME" = n1 ]\n'
        path = cluster.directory / "prolog"
        path.write_text(prolog)
        path.chmod(0o755)
        with Cluster(accounting=False, Prolog=path) as bare:
            monkeypatch.setitem(os.environ, "SLURM_CONF", bare.environ["SLURM_CONF"])
            yield bare

    def test_endings(self, bare: Cluster, tmp_path: Path) -> None:
        scheduler = SlurmScheduler()
        on = {"nodelist": "n1"}
        argv = ["sh", "-c", 'exit "$1"', "sh", INDEX]
        ids = scheduler.submit(request(tmp_path, argv, 3, name="a\nJobState=X b", resources=on))
        found = end_of(scheduler, ids)
        assert [found[job_id].exit_code for job_id in ids] == [0, 1, 2]
        killed = scheduler.submit(request(tmp_path, ["sh", "-c", "kill -9 $$"], resources=on))
        assert end_of(scheduler, killed)[killed[0]].signal == 9
        held = scheduler.submit(request(tmp_path, ["true"], 2, resources={**on, "extra": ("--hold",)}))
        scheduler.cancel(held[:1])
        wait_until(lambda: scheduler.poll(held).keys() == {held[1]}, interval=0.1)
        failing = scheduler.submit(request(tmp_path, ["true"], resources={"nodelist": "n2"}))

        def why() -> str:
            return scheduler.poll(failing)[failing[0]].hopeless

        assert "prolog" in str(wait_until(why, interval=0.1))
