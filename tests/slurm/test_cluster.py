"""The test cluster itself: a Slurm as sites have it, which leaves no trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slurm
from tests.slurm import Cluster, cgroups, show_logs
from tests.slurm import cluster as cluster_module
from tests.support import REPOSITORY, processes_left, run_command, wait_until

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _installed() -> None:
    slurm.require()


@pytest.fixture
def queue(cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster, whose jobs are cancelled after the test."""
    yield cluster
    cluster.cancel_all()
    cluster.idle()


def traces(directory: Path) -> list[str]:
    """What still shows that there was a cluster in `directory`: files, control groups, processes."""
    found = [str(path) for path in cgroups.MOUNTED.glob(f"*/{directory.name}")]
    found += [str(directory)] if directory.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            texts += [os.fsencode(os.readlink(entry)) for entry in (process / "fd").iterdir()]
        except OSError:  # it has just ended
            continue
        if process.name != str(os.getpid()) and any(bytes(directory) in text for text in texts):
            found.append(f"{process.name} {texts[0]!r}")
    return found


def test_every_node_runs_jobs(queue: Cluster, tmp_path: Path) -> None:
    jobs = [
        queue.submit(f"echo $SLURMD_NODENAME > '{tmp_path}/{node}'", f"--nodelist={node}")
        for node in queue.nodes
    ]
    for job_id, node in zip(jobs, queue.nodes):
        queue.wait_state(job_id, ["COMPLETED"])
        assert (tmp_path / node).read_text() == f"{node}\n"
    assert queue.nodes == ["n1", "n2"]


def test_accounting_knows_how_a_job_ended(queue: Cluster) -> None:
    job_id = queue.submit("exit 3")
    queue.wait_state(job_id, ["FAILED"])

    def record() -> str:
        return queue.query("sacct", "-n", "-X", "-P", "-j", job_id, "-o", "State,ExitCode,Account")

    wait_until(lambda: record() == "FAILED|3:0|science", describe=record, interval=0.1)


def test_using_too_much_memory_is_the_end_of_a_job(queue: Cluster) -> None:
    if not queue.limits_memory:
        pytest.skip("limiting memory takes root and control groups of version 1")
    job_id = queue.submit(f"{sys.executable} -c 'bytearray(200 << 20)'", "--mem=50M")
    queue.wait_state(job_id, ["OUT_OF_MEMORY"])


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--qos=few", "--array=0-4"], "QOSMaxSubmitJobPerUserLimit"),
        (["--account=nobody"], "Invalid account"),
        (["--constraint=blue"], "Invalid feature"),
        (["--partition=short", "--mem=9000M"], "Memory specification can not be satisfied"),
        (["--array=0-1001"], "Invalid job array specification"),
    ],
)
def test_what_a_site_forbids_is_refused(queue: Cluster, options: list[str], refusal: str) -> None:
    result = queue.run("sbatch", "--wrap=true", *options)
    assert result.returncode == 1
    assert refusal in result.stderr


def test_jobs_make_room_for_others(queue: Cluster) -> None:
    cancelled, requeued = (
        queue.submit("sleep 600", f"--partition={partition}", f"--nodelist={node}", "--cpus-per-task=4")
        for partition, node in [("kill", "n1"), ("low", "n2")]
    )
    for job_id in (cancelled, requeued):
        queue.wait_state(job_id, ["RUNNING"])
    urgent = queue.submit("sleep 600", "--partition=high", "--nodes=2", "--cpus-per-task=4")
    queue.wait_state(urgent, ["RUNNING"])
    queue.wait_state(cancelled, ["PREEMPTED"])
    queue.wait_state(requeued, ["PENDING"])


def test_a_node_has_gpus_to_give(queue: Cluster, tmp_path: Path) -> None:
    script = f"echo $CUDA_VISIBLE_DEVICES > '{tmp_path}/given'"
    job_id = queue.submit(script, "--gres=gpu:2")
    queue.wait_state(job_id, ["COMPLETED"])
    assert (tmp_path / "given").read_text() == "0,1\n"


def test_a_job_survives_the_daemons_that_started_it(queue: Cluster, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job_id = queue.submit(f"until [ -e '{go}' ]; do sleep 0.1; done", "--nodelist=n1")
    queue.wait_state(job_id, ["RUNNING"])
    queue.stop_controller()
    assert "Unable to contact slurm controller" in queue.run("squeue").stderr
    queue.start_controller()
    queue.stop_accounting()
    assert queue.run("sacct").returncode != 0
    queue.start_accounting()
    queue.kill_node("n1", jobs=False)
    queue.start_node("n1")
    assert queue.states(job_id) == ["RUNNING"]
    go.touch()
    queue.wait_state(job_id, ["COMPLETED"])


def test_daemons_are_no_leftovers_of_the_tests(cluster: Cluster) -> None:
    names = re.compile("slurm|munge|maria|guard")
    assert [line for line in processes_left() if names.search(line)] == []
    assert "slurmctld.log" in cluster.logs()


def test_the_report_of_a_failure_has_the_logs_of_all_that_run(cluster: Cluster) -> None:
    failure = pytest.TestReport("here", ("here", 1, ""), {}, "failed", "what went wrong", "call")
    show_logs(failure)
    [(title, text)] = failure.sections
    assert title == "Slurm's logs"
    assert "slurmctld.log" in text
    assert cluster.logs().splitlines()[0] in text.splitlines()


def test_a_job_dies_with_its_node(tmp_path: Path) -> None:
    strays = "(setsid env -i sleep 600 & echo $! > pids); env -i sleep 600 & echo $! >> pids; wait"
    with Cluster(accounting=False, SlurmdTimeout=3, MessageTimeout=3) as cluster:
        options = ["--nodelist=n1", f"--chdir={tmp_path}"]
        lost = cluster.submit(strays, "--no-requeue", *options)
        kept = cluster.submit("sleep 600", *options)
        for job_id in (lost, kept):
            cluster.wait_state(job_id, ["RUNNING"])
        pids = tmp_path / "pids"
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        cluster.kill_node("n1")
        assert [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()] == []
        cluster.wait_state(lost, ["NODE_FAIL"])
        cluster.wait_state(kept, ["PENDING"])
        cluster.start_node("n1")
        assert cluster.node_state("n1") == "idle"
        assert cluster.run("sacct").returncode != 0
        assert "JobState=NODE_FAIL" in cluster.query("scontrol", "-o", "show", "job", lost)


def test_two_clusters_side_by_side(queue: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "of somebody else")
    with Cluster(accounting=False, nodes=1) as other:
        other.activate()
        assert os.environ["SLURM_CONF"] == str(other.directory / "slurm.conf")
        jobs = {cluster: cluster.submit("sleep 600", "--nodelist=n1") for cluster in (queue, other)}
        for cluster, job_id in jobs.items():
            cluster.wait_state(job_id, ["RUNNING"])
        other.cancel_all()
        other.idle()
        assert queue.states(jobs[queue]) == ["RUNNING"]
    assert os.environ["SLURM_CONF"] == "of somebody else"
    assert traces(other.directory) == []
    assert queue.states(jobs[queue]) == ["RUNNING"]


def sleepers(directory: Path) -> int:
    """How many processes of the cluster are nothing but `sleep`."""
    return sum("b'sleep" in trace for trace in traces(directory))


OWNER = """
import sys, time
from tests.slurm import Cluster
from tests.slurm.test_cluster import sleepers
from tests.support import wait_until
with Cluster(accounting=False, nodes=1) as cluster:
    held = cluster.directory / "held"  # by which a process is recognised that is found in no other way
    job_id = cluster.submit(f"exec 9> {held}; setsid env -i sleep 600 & sleep 600")
    wait_until(lambda: sleepers(cluster.directory) == 2, interval=0.1)
    cluster.query("scontrol", "suspend", job_id)
    print(cluster.directory, flush=True)
    time.sleep(600)
"""


def test_nothing_outlives_an_owner_that_is_killed() -> None:
    command = [sys.executable, "-c", OWNER]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        assert sleepers(directory) == 2
        owner.kill()
    wait_until(lambda: not traces(directory), describe=lambda: traces(directory), interval=0.1)


def test_one_can_be_started_by_hand(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.slurm", "--no-accounting", "--nodes=1"]
    told = ""

    def ready() -> bool:
        nonlocal told
        told = "".join(path.read_text() for path in tmp_path.glob("*.out"))
        return "Ctrl-C" in told

    result = run_command(command, tmp_path, cwd=REPOSITORY, interrupt_when=ready).check()
    match = re.match(r"export SLURM_CONF=(.*)/slurm.conf\n", result.stdout)
    assert match is not None
    assert traces(Path(match[1])) == []


def test_without_slurm_a_laptop_skips_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "SEARCH", "/nowhere")
    assert "slurmctld" in slurm.missing()
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install mariadb-server munge slurm-wlm"):
        slurm.require()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install"):
        slurm.require()


def test_wall_time_ends(queue: Cluster) -> None:
    # the last one here: Slurm has looked when its controller started, and looks again half a minute later
    job_id = queue.submit("sleep 600")
    queue.wait_state(job_id, ["RUNNING"])
    queue.expire(job_id)
    queue.wait_state(job_id, ["TIMEOUT"], timeout=45)
