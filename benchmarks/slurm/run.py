"""Measure SlurmExecutor and its peers side by side on a private Slurm, and print one table.

    python benchmarks/slurm/run.py                      everything that is installed
    python benchmarks/slurm/run.py --quick              a smoke test of less than a minute
    python benchmarks/slurm/run.py --only jobs --peers bare,slurm-jobs --repeat 3
    python benchmarks/slurm/run.py --write              keep the result in docs/benchmarks/

The cluster is that of the tests (`tests.slurm`), started for the run: two nodes of four CPUs, both on this
machine.  As in ``benchmarks/run.py``, every measurement is a process of its own and repetitions are
interleaved; the queue is empty before each.

The peers come with ``pip install clusterfutures[bench-slurm]``, except for
clusterfutures 0.5, which has our name::

    pip install --no-deps --target older clusterfutures==0.5
    python benchmarks/slurm/run.py --older older
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[0] = str(ROOT)  # run as a script, Python looks only beside it

from benchmarks.run import GRACE, end_processes, last_line, names, positive  # noqa: E402
from benchmarks.scenarios import MARK, Job, Report  # noqa: E402
from benchmarks.slurm import table  # noqa: E402
from benchmarks.slurm.commands import STATUS, Wrappers  # noqa: E402
from benchmarks.slurm.peers import OLDER, OURS, PEERS  # noqa: E402
from benchmarks.slurm.scenarios import SCENARIOS, Scenario  # noqa: E402
from benchmarks.table import value_of  # noqa: E402
from tests.slurm.cluster import Cluster, advice, missing  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; exit with a message where it makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=f"scenarios: {', '.join(SCENARIOS)}; peers: {', '.join(PEERS)}",
    )
    parser.add_argument("--only", type=names(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--peers", type=names(PEERS), help="(all; with --quick, those without packages)")
    parser.add_argument("--repeat", type=positive, help="repetitions (each scenario's own number)")
    parser.add_argument("--workers", type=positive, default=4, help="workers of a pool (4)")
    parser.add_argument("--timeout", type=positive, default=300, help="seconds a measurement (300)")
    parser.add_argument("--quick", action="store_true", help="tiny counts, one repetition")
    parser.add_argument("--older", type=Path, metavar="DIR", help="where clusterfutures 0.5 is installed")
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=ROOT / "docs" / "benchmarks" / f"{time.strftime('%Y-%m-%d')}-slurm.rst",
        help="also write the table there (docs/benchmarks/DATE-slurm.rst)",
    )
    options = parser.parse_args(arguments)
    options.peers = options.peers or (OURS if options.quick else list(PEERS))
    return options


def plan(options: argparse.Namespace) -> list[Job]:
    """Return the measurements in their order: by scenario, then repetition, then peer."""
    jobs = []
    for name in options.only:
        scenario = SCENARIOS[name]
        for _ in range(options.repeat or (1 if options.quick else scenario.repeats)):
            for key in scenario.peers:
                if key in options.peers:
                    jobs.append(Job(name, key, count(scenario, key, options), options.workers, options.quick))
    return jobs


def count(scenario: Scenario, key: str, options: argparse.Namespace) -> int:
    """Return how many tasks a peer gets in a scenario."""
    if options.quick:
        return scenario.smallest
    return max(int(scenario.count * PEERS[key].share), 1) if scenario.shared else scenario.count


def measure(job: Job, cluster: Cluster, timeout: float) -> Report:
    """Run one job in a process of its own; return its measures, or why there are none."""
    if PEERS[job.peer].version() is None:
        return Report(job.count, {}, "not installed")
    scratch = Path(tempfile.mkdtemp(prefix="cfb-"))
    try:
        return run_child(job, scratch, timeout)
    finally:
        cluster.cancel_all()
        cluster.idle()
        shutil.rmtree(scratch, ignore_errors=True)


def run_child(job: Job, scratch: Path, timeout: float) -> Report:
    """Start the measurement process in `scratch`, wait for it, and end whatever it left behind."""
    scenario = SCENARIOS[job.scenario]
    answer, log, marked = scratch / "answer", scratch / "log", uuid.uuid4().hex
    wrappers = Wrappers(scratch / "bin", scenario.delay) if scenario.counted or scenario.delay else None
    command = [sys.executable, "-m", "benchmarks.slurm.child", json.dumps(asdict(job)), str(answer)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=environment(job, scratch, marked, wrappers),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        try:
            process.wait(timeout)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        left = end_processes(marked, 0.0 if late else GRACE)
        process.wait()
    if not answer.exists():
        return Report(job.count, {}, f"no result in {timeout:g} s" if late else last_line(log))
    report = Report(**json.loads(answer.read_text(encoding="utf-8")))
    if wrappers is not None and scenario.counted and not report.reason:
        report = replace(report, measures={**counted(wrappers), **report.measures})
    remark = f"had not ended after {timeout:g} s" if late else f"{left} processes left behind" * bool(left)
    return replace(report, remark=remark)


def counted(wrappers: Wrappers) -> dict[str, float]:
    """Return how often Slurm's commands were called: sbatch, then all that ask, then the rest."""
    calls = wrappers.count()
    asking = sum(calls.pop(name, 0) for name in STATUS)
    return {"sbatch": calls.pop("sbatch", 0), "that ask for states": asking, **calls}


def environment(job: Job, scratch: Path, marked: str, wrappers: Wrappers | None) -> dict[str, str]:
    """Return a measurement's environment: our modules, the peers' programs, a place, the mark."""
    modules = [str(ROOT), *([os.environ[OLDER]] if job.peer == "older" else [])]
    programs = [str(wrappers.directory)] if wrappers else []
    programs += [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ours = {"PYTHONPATH": os.pathsep.join(modules), "PATH": os.pathsep.join(programs)}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **ours, "TMPDIR": str(scratch), MARK: marked}


def run(options: argparse.Namespace, cluster: Cluster) -> str:
    """Measure everything that was asked for; return the page."""
    reports: table.Reports = {}
    jobs = plan(options)
    for number, job in enumerate(jobs, start=1):
        earlier = reports.setdefault((job.scenario, job.peer), [])
        if earlier and earlier[-1].reason:
            continue  # it will not do better the second time
        report = measure(job, cluster, options.timeout)
        earlier.append(report)
        shown = report.reason or f"{value_of(report):.4g} {SCENARIOS[job.scenario].unit}"
        print(f"{number}/{len(jobs)} {job.scenario} {job.peer}: {shown}", file=sys.stderr)
    version = cluster.query("sinfo", "--version")
    return table.render(reports, options, f"{version}, {len(cluster.nodes)} nodes of 4 CPUs on this machine")


def main(arguments: list[str]) -> int:
    """Measure, print, and write where asked; return the exit code, zero whatever the peers did."""
    options = parse(arguments)
    if missing():
        sys.exit(advice())
    if options.older:
        os.environ[OLDER] = str(options.older.resolve())
    with Cluster(nodes=2, cpus=4) as cluster:
        cluster.activate()
        text = run(options, cluster)
    print(text, end="")
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
