"""The benchmark on Slurm runs, counts what it says it counts, and sets it beside the targets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from benchmarks.scenarios import Report
from benchmarks.slurm import run, table
from benchmarks.slurm.commands import COMMANDS, Wrappers
from benchmarks.slurm.peers import PEERS
from benchmarks.slurm.scenarios import SCENARIOS, Target
from benchmarks.slurm.slurmctld import Ends, cpu_seconds, seconds
from tests import slurm
from tests.slurm import Cluster
from tests.support import REPOSITORY
from tests.test_benchmarks import numbers, read_table

pytestmark = pytest.mark.long

OURS, BARE = "SlurmExecutor, job_per_task", "bare sbatch"
CALLS = "commands to Slurm, pool"

LOG = """\
[2026-11-20T10:00:41.125] _job_complete: JobId=23_197(221) WEXITSTATUS 0
[2026-11-20T10:00:41.125] _job_complete: JobId=23_197(221) done
[2026-11-20T10:00:41.627] _job_complete: JobId=23_199(23) done
[2026-11-20T10:00:41.630] sched: Allocate JobId=24 NodeList=n1 #CPUs=1 Partition=main
[2026-11-20T10:00:42.250] _job_complete: JobId=24 done
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a quick run of some scenarios printed; the file that it was told to write says the same."""
    slurm.require()
    written = tmp_path_factory.mktemp("benchmark") / "docs" / "page.rst"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "slurm" / "run.py"), "--quick"]
    command += ["--only", "jobs,commands-pool", "--write", str(written), "--timeout", "20"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    assert written.read_text(encoding="utf-8") == done.stdout
    return done.stdout


def test_who_takes_no_package_has_a_number(page: str) -> None:
    rows = numbers(page)
    assert [row["remarks"] for row in rows.values() if row["median"] == "-"] == []
    assert {who for what, who in rows if what == "one-task jobs"} == {OURS, BARE}


def test_ratios_are_to_bare_jobs(page: str) -> None:
    rows = numbers(page)
    ours, bare = (rows["one-task jobs", who] for who in (OURS, BARE))
    assert bare["ratio"] == "1.00"
    assert float(ours["ratio"]) == pytest.approx(float(ours["median"]) / float(bare["median"]), rel=0.02)
    assert "CPU ms per job" in ours["remarks"] and "CPU ms per job" in bare["remarks"]


def test_a_pool_calls_sbatch_once(page: str) -> None:
    assert {row["median"] for (what, _), row in numbers(page).items() if what == CALLS} == {"1"}


def test_targets_are_shown_beside_what_was_measured(page: str) -> None:
    rows = read_table(page, ["what", "target", "measured", "reached"])
    assert [row["reached"] for row in rows if row["what"] == CALLS] == ["yes"]
    beside = {row["target"]: row["measured"] for row in rows if row["what"] == "one-task jobs"}
    assert beside["at most 1.15 x bare sbatch --array"].endswith("x bare sbatch")
    assert beside["ahead of submitit"] == "nothing to compare with"


def test_reached_is_about_the_target_s_own_measure() -> None:
    reports = {
        ("jobs", "bare"): [Report(8, {"seconds": 4.0, "CPU": 1.0}), Report(8, {}, "broke down")],
        ("jobs", "slurm-jobs"): [Report(8, {"seconds": s, "CPU": 3.0}) for s in (5.0, 4.4, 4.0)],
    }
    beside = Target("at most 1.15 x", 1.15, "slurm-jobs", "bare")
    assert table.reached(reports, "jobs", beside) == ("1.100 x bare sbatch", "yes")
    absolute = Target("little CPU", 2.0, "slurm-jobs", measure="CPU")
    assert table.reached(reports, "jobs", absolute) == ("3 s for all", "no")
    assert table.reached(reports, "death", Target("under 5 s", 5.0)) == ("no number", "no")


def test_every_scenario_s_peers_are_known() -> None:
    for scenario in SCENARIOS.values():
        asked = {peer for target in scenario.targets for peer in (target.peer, target.reference) if peer}
        assert asked | {scenario.reference} <= set(scenario.peers) <= set(PEERS)


def test_repetitions_are_interleaved() -> None:
    options = run.parse(["--only", "jobs", "--repeat", "2", "--peers", "slurm-jobs,bare"])
    assert [job.peer for job in run.plan(options)] == ["bare", "slurm-jobs"] * 2
    assert {job.count for job in run.plan(options)} == {200}


def test_ends_are_read_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log").mkdir()
    log = tmp_path / "log" / "slurmctld.log"
    log.write_text("[2026-11-20T09:00:00.000] _job_complete: JobId=22 done\n")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    ends = Ends()
    with log.open("a") as file:
        file.write(LOG)
    ends.wait(3)
    assert ends.jobs == {"23", "24"}
    assert ends.last == datetime(2026, 11, 20, 10, 0, 42, 250000).timestamp()


def test_times_of_sacct() -> None:
    assert [seconds(text) for text in ("00:00.021", "01:02:03", "1-00:00:01")] == [0.021, 3723.0, 86401.0]


def test_ends_and_cpu_of_real_jobs(cluster: Cluster) -> None:
    before = time.time()
    ends = Ends()
    busy = "while :; do :; done"
    array = cluster.submit(f"timeout 0.5 sh -c {busy!r}; true", "--array=0-1")
    ends.wait(2)
    assert ends.jobs == {array}
    assert before < ends.last < time.time() + 1
    assert 0.1 < cpu_seconds(ends.jobs, 2) < 10


def test_commands_are_counted(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = Wrappers(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{wrappers.directory}{os.pathsep}{os.environ['PATH']}")
    assert cluster.query("squeue", "--noheader", "--format=%i %T") == ""
    for _ in range(2):
        assert cluster.run("scontrol", "show", "job", "999999").returncode == 1
    assert wrappers.count() == {"squeue": 1, "scontrol": 2}
    assert {path.name for path in wrappers.directory.iterdir()} == {*COMMANDS, "calls"}
