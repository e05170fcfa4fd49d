"""Clusters as they are: odd names, drivers within jobs, sites' settings, and doors that are closed."""

from __future__ import annotations

import json
import logging
import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import JobCancelled, SlurmExecutor, SubmissionError
from tests import local_work, slurm_work
from tests.conftest import HOSTILE_NAME
from tests.slurm import Cluster
from tests.slurm.calls import Calls
from tests.slurm.configuration import NEIGHBOUR
from tests.support import REPOSITORY, check_no_process_left, wait_until

LIMIT = 40.0  # seconds; whatever takes longer hangs

MODES = [
    pytest.param({}, id="pool"),
    pytest.param({"job_per_task": True}, id="job-per-task"),
    pytest.param({"arrays": False}, id="no-arrays"),
]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]


@pytest.fixture(scope="module", autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module no process of a job is left."""
    yield
    check_no_process_left()


@pytest.fixture(scope="module")
def north(cluster: Cluster) -> Iterator[Cluster]:
    """A second cluster of the same site: both are in its accounts, which say where each is."""
    lines = (cluster.directory / "slurm.conf").read_text(encoding="utf-8").splitlines()
    both = (line.partition("=") for line in lines if line.startswith(("AuthInfo=", "AccountingStorage")))
    settings = {name: value for name, _, value in both}
    with Cluster(accounting=False, nodes=1, **{**settings, "ClusterName": NEIGHBOUR}) as found:
        yield found


def executor(max_workers: int = 2, **options: Any) -> SlurmExecutor:
    """An executor of small workers."""
    return SlurmExecutor(max_workers, **{"mem": "100M", **options})


class TestNames:
    """Whatever a path, a name or a value is made of, it arrives as given."""

    @pytest.mark.parametrize("mode", MODES)
    def test_hostile_ones_everywhere(
        self,
        cluster: Cluster,
        hostile_tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        log: str,
        mode: dict[str, Any],
    ) -> None:
        monkeypatch.chdir(hostile_tmp_path)
        monkeypatch.setenv("CF_INHERITED", HOSTILE_NAME)
        with executor(
            run_dir=hostile_tmp_path / "run",
            keep="always",
            name=HOSTILE_NAME,
            comment=HOSTILE_NAME,
            env={"CF_GIVEN": HOSTILE_NAME},
            **mode,
        ) as ex:
            gate = hostile_tmp_path / "gate"
            held = [ex.submit(local_work.note_and_wait, log, n, str(gate)) for n in range(2)]
            wait_until(lambda: len(local_work.notes(log)) == 2, LIMIT)
            for future in held:
                job = (future.job_id or "").partition("_")[0]
                assert cluster.query("squeue", "-h", "-r", "-j", job, "-o", "%j|").startswith(HOSTILE_NAME)
                assert cluster.query("squeue", "-h", "-r", "-j", job, "-o", "%k|").startswith(HOSTILE_NAME)
            gate.touch()
            found = ex.submit(local_work.where).result(LIMIT)
        assert found["cwd"] == str(hostile_tmp_path)
        assert found["env"]["CF_GIVEN"] == found["env"]["CF_INHERITED"] == HOSTILE_NAME
        # What the script and the interpreter say before the supervisor takes over: here, nothing at all.
        logs = list((hostile_tmp_path / "run").glob("jobs/*/*.log"))
        assert logs
        assert [path.read_text() for path in logs] == [""] * len(logs)

    def test_the_default_run_directory(self, here: Path) -> None:
        with executor() as ex:
            run_dir = Path(ex.run_dir)
            assert run_dir.parent == here / ".clusterfutures"
            assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
            assert ex.submit(abs, -1).result(LIMIT) == 1
        assert not run_dir.exists()
        assert not any((here / ".clusterfutures").iterdir())

    def test_the_run_directory_of_a_failed_run(self) -> None:
        with executor() as ex:
            future = ex.submit(local_work.fail, "on purpose")
            with pytest.raises(ValueError, match="on purpose"):
                future.result(LIMIT)
        assert Path(ex.run_dir).is_dir()


class TestSurroundings:
    """What is set around the driver."""

    def test_a_driver_in_a_job(self, cluster: Cluster, here: Path) -> None:
        (here / "driver.py").write_text(DRIVER, encoding="utf-8")
        hostile = {
            "PYTHONPATH": str(REPOSITORY),
            "SQUEUE_FORMAT": "%j",
            "SQUEUE_STATES": "completed",
            "SACCT_FORMAT": "user",
            "SLURM_TIME_FORMAT": "relative",
            "SLURM_BITSTR_LEN": "3",
            "SBATCH_WAIT": "1",
            "SBATCH_ARRAY_INX": "0-9",
        }
        command = ["env", *(f"{name}={value}" for name, value in hostile.items())]
        command += [sys.executable, str(here / "driver.py")]
        options = ("--output=driver.log", "--cpus-per-task=2", "--mem=300M", "--ntasks=2")
        job = cluster.submit(shlex.join(command), *options)
        cluster.idle(LIMIT)
        said = (here / "driver.log").read_text(encoding="utf-8")
        assert "}" in said, said
        found = json.loads(said.strip().rpartition("\n")[2])
        assert found["outer"] == job
        assert found["outer"] not in found["workers"]
        assert found["lost"] == "JobCancelled"
        assert found["theirs"]["SLURM_JOB_ID"] in found["workers"]
        assert found["theirs"]["SLURM_CPUS_PER_TASK"] == "1"
        assert "SLURM_NTASKS" not in found["theirs"], "it is the outer job that has two"
        assert found["theirs"].keys().isdisjoint(hostile.keys() - {"PYTHONPATH"})

    def test_the_users_own_settings_stay(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SBATCH_PARTITION", "high")
        with executor() as ex:
            assert ex.submit(os.getenv, "SLURM_JOB_PARTITION").result(LIMIT) == "high"
        with executor(partition="low") as ex:
            assert ex.submit(os.getenv, "SLURM_JOB_PARTITION").result(LIMIT) == "low"

    @pytest.mark.parametrize("mode", MODES[:2])
    def test_another_cluster(self, north: Cluster, log: str, mode: dict[str, Any]) -> None:
        """Its jobs are submitted there, asked after there, and cancelled there."""
        with executor(cluster=NEIGHBOUR, **mode) as ex:
            futures = [ex.submit(os.getenv, "SLURM_CLUSTER_NAME") for _ in range(3)]
            assert [future.result(LIMIT) for future in futures] == [NEIGHBOUR] * 3
            lost = ex.submit(local_work.note_and_sleep, log, "runs", local_work.LONG)
            wait_until(lambda: local_work.notes(log), LIMIT)
            job, _, where = str(lost.job_id).partition(";")
            assert where == NEIGHBOUR
            north.query("scancel", job)
            assert type(lost.exception(LIMIT)) is JobCancelled
            later = ex.options(begin="now+1hour").submit(abs, -1)
            wait_until(lambda: north.queue("-t", "pending"), LIMIT)
            assert later.cancel()
        north.idle()

    def test_what_the_user_wants_to_read(self, here: Path) -> None:
        pattern = here / "by %x" / "%a.txt"
        (here / "by mine").mkdir()
        with executor(2, name="mine", stdout=pattern, setup='echo "element $SLURM_ARRAY_TASK_ID"') as ex:
            assert ex.wait_for_workers(2, LIMIT)
        found = {path.name: path.read_text() for path in (here / "by mine").iterdir()}
        assert found == {"0.txt": "element 0\n", "1.txt": "element 1\n"}

    def test_no_arrays(self, calls: Calls, log: str) -> None:
        with executor(2, arrays=False) as ex:
            assert ex.wait_for_workers(2, LIMIT)
            assert len(set(ex.map(slurm_work.place, range(8)))) <= 2
        assert calls.arrays() == [1, 1]

    def test_no_arrays_and_a_job_for_each_task(self, calls: Calls, log: str) -> None:
        with executor(2, arrays=False, job_per_task=True) as ex:
            futures = [ex.submit(slurm_work.take_time, log, 0.5, n) for n in range(5)]
            assert [future.result(LIMIT) for future in futures] == list(range(5))
        assert calls.arrays() == [1] * 5
        assert slurm_work.most_at_once(log) <= 2


class TestOptions:
    """What was asked for, as Slurm itself tells of the job; the rest is in `test_scheduler`."""

    @pytest.fixture
    def reservation(self, cluster: Cluster) -> Iterator[str]:
        """The name of one that has all of a node for an hour."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        words = ("StartTime=now", "Duration=60", f"Users={user}", "Nodes=n1")
        cluster.query("scontrol", "create", "reservation", "ReservationName=course", *words)
        yield "course"
        cluster.idle()
        cluster.query("scontrol", "delete", "ReservationName=course")

    def test_by_their_other_names(self, cluster: Cluster, here: Path, reservation: str) -> None:
        begin = (datetime.now() + timedelta(minutes=30)).replace(microsecond=0)
        asked: dict[str, Any] = {
            "job_name": "misfit",
            "queue": "high",
            "account": "science",
            "qos": "few",
            "reservation": reservation,
            "comment": "second try",
            "walltime": timedelta(minutes=20),
            "cpus_per_task": 1,
            "mem_per_cpu": "50M",
            "nodes": "1-2",
            "ntasks": 2,
            "ntasks_per_node": 2,
            "gres": "gpu:1",
            "licenses": "matlab:1",
            "constraint": "fast|slow",
            "nodelist": ["n1"],
            "exclusive": "user",
            "begin": begin,
            "priority": 4321,
            "requeue": True,
            "mail_type": ["END", "FAIL"],
            "mail_user": "ada@example.org",
            "output": here / "%x.out",
            "error": here / "%x.err",
            "workdir": here,
            "export": {"CF_TEST": "1"},
        }
        with SlurmExecutor(1, **asked) as ex:
            future = ex.submit(abs, -1)
            wait_until(cluster.queue, LIMIT)
            [job] = cluster.queue()
            told = cluster.query("scontrol", "-o", "show", "job", job)
            assert future.cancel()
        for fact in (
            "JobName=misfit",
            "Partition=high",
            "Account=science",
            "QOS=few",
            "Reservation=course",
            "Comment=second try",
            "TimeLimit=00:20:00",
            "CPUs/Task=1",
            "MinMemoryCPU=50M",
            "NumNodes=1-2",
            "NumTasks=2",
            "NtasksPerN:B:S:C=2:0:*:*",
            "TresPerNode=gres:gpu:1",
            "Licenses=matlab:1",
            "Features=fast|slow",
            "ReqNodeList=n1",
            "OverSubscribe=USER",
            f"EligibleTime={begin.isoformat()}",
            "Priority=4321",
            "Requeue=1",
            "MailUser=ada@example.org",
            "MailType=END,FAIL",
            f"StdOut={here}/misfit.out",
            f"StdErr={here}/misfit.err",
            f"WorkDir={here}",
        ):
            assert f" {fact} " in f"{told} ", told


class TestDoorbell:
    """Without a way from the nodes to the driver, everything is found by looking."""

    @pytest.mark.parametrize("mode", MODES)
    def test_none(self, caplog: pytest.LogCaptureFixture, mode: dict[str, Any]) -> None:
        with caplog.at_level(logging.WARNING, "clusterfutures"), executor(doorbell=False, **mode) as ex:
            assert list(ex.map(abs, range(4))) == list(range(4))
            with pytest.raises(ValueError, match="on purpose"):
                ex.submit(local_work.fail, "on purpose").result(LIMIT)
        assert not [text for text in caplog.messages if "doorbell" in text]

    def test_out_of_reach(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # It listens, and the nodes are told an address that leads nowhere (RFC 5737).
        monkeypatch.setattr("clusterfutures.doorbell._own_addresses", lambda: ["192.0.2.1"])
        monkeypatch.setattr("clusterfutures.watch.MUTE_AFTER", 0.5)
        with caplog.at_level(logging.WARNING, "clusterfutures"), executor() as ex:
            assert list(ex.map(abs, range(4))) == list(range(4))
            wait_until(lambda: caplog.messages, LIMIT)
            assert list(ex.map(abs, range(4))) == list(range(4))
        (told,) = caplog.messages
        assert "doorbell" in told
        assert "192.0.2.1" in told

    def test_an_address_that_the_user_names(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("clusterfutures.doorbell._own_addresses", lambda: ["192.0.2.1"])
        with caplog.at_level(logging.WARNING, "clusterfutures"), executor(host="127.0.0.1") as ex:
            assert list(ex.map(abs, range(4))) == list(range(4))
            lease = Path(ex.run_dir, "driver").read_bytes()
        assert b"127.0.0.1" in lease and b"192.0.2.1" not in lease
        assert not caplog.messages

    def test_an_address_that_is_not_ours(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "clusterfutures"), executor(host="192.0.2.1") as ex:
            assert list(ex.map(abs, range(4))) == list(range(4))
        (told,) = caplog.messages
        assert "no doorbell" in told


class TestInterpreters:
    """How the workers' Python is found."""

    def test_through_another_command(self) -> None:
        with executor(python=f"env CF_WRAPPED=yes {shlex.quote(sys.executable)}") as ex:
            assert ex.submit(os.getenv, "CF_WRAPPED").result(LIMIT) == "yes"

    def test_a_script_with_an_odd_name(self, hostile_tmp_path: Path) -> None:
        wrapper = hostile_tmp_path / "my python"
        wrapper.write_text(f'#!/bin/sh\nCF_WRAPPED=yes exec {shlex.quote(sys.executable)} "$@"\n')
        wrapper.chmod(0o755)
        with executor(python=[str(wrapper)]) as ex:
            assert ex.submit(os.getenv, "CF_WRAPPED").result(LIMIT) == "yes"

    def test_modules(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As sites do it: `module` is a function of the shell, in the environment.
        monkeypatch.setenv("BASH_FUNC_module%%", '() { export CF_MODULES="$CF_MODULES$*;"\n}')
        with executor(modules=["python/3.11", "hdf5"], setup='export CF_SETUP="$CF_MODULES"') as ex:
            assert ex.submit(os.getenv, "CF_SETUP").result(LIMIT) == "load python/3.11;load hdf5;"


class TestBeforehand:
    """What can be known without a job."""

    @pytest.mark.parametrize("mode", MODES)
    def test_explain(self, calls: Calls, mode: dict[str, Any]) -> None:
        with executor(2, partition="high", time="90m", **mode) as ex:
            told, script = ex.explain(), ex.script
        assert "--partition=high" in told
        assert "--time=01:30:00" in told
        assert script.startswith("#!/bin/bash") and script in told
        assert "bootstrap.py" in script
        assert calls.count("sbatch") == 0

    @pytest.mark.parametrize("mode", MODES)
    def test_dry_run(self, cluster: Cluster, calls: Calls, mode: dict[str, Any]) -> None:
        with executor(2, **mode) as ex:
            assert "to start at" in ex.dry_run()
        (words,) = calls.of("sbatch")
        assert "--test-only" in words
        assert not cluster.query("squeue", "-h")

    def test_dry_run_of_what_cannot_be(self) -> None:
        with executor(partition="nowhere") as ex, pytest.raises(SubmissionError, match="partition") as caught:
            ex.dry_run()
        assert caught.value.exit_code == 1
        assert "nowhere" in " ".join(caught.value.command)
        assert "invalid partition" in caught.value.stderr

    @pytest.mark.parametrize("mode", MODES)
    def test_no_slurm_here(self, here: Path, mode: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch, executor(**mode) as ex:
            patch.setenv("PATH", str(here))
            with pytest.raises(SubmissionError, match=r"cannot start sbatch.*\n.*login node"):
                ex.submit(abs, 1).result(LIMIT)
            with pytest.raises(SubmissionError, match="cannot start sbatch"):
                ex.submit(abs, 1)


DRIVER = """
import json, os, subprocess, time
from clusterfutures import SlurmExecutor


def environment():
    time.sleep(0.1)
    return dict(os.environ)


def end_own_job():
    job = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}".format(**os.environ)
    subprocess.run(["scancel", job], check=True)
    time.sleep(300)


if __name__ == "__main__":
    with SlurmExecutor(2, mem="100M", cores=1) as ex:
        futures = [ex.submit(environment) for _ in range(4)]
        found = [future.result(40) for future in futures]
        lost = ex.submit(end_own_job).exception(40)
    print(json.dumps({
        "outer": os.environ["SLURM_JOB_ID"],
        "workers": sorted({env["SLURM_JOB_ID"] for env in found}),
        "theirs": {name: value for name, value in found[0].items() if name.startswith("S")},
        "lost": type(lost).__name__,
    }))
"""
