"""Measure LocalExecutor and its peers side by side and print one table.

    python benchmarks/run.py                      everything that is installed
    python benchmarks/run.py --quick              a smoke test of a few minutes
    python benchmarks/run.py --only map --peers local,fork,joblib --repeat 5
    python benchmarks/run.py --write              keep the result in docs/benchmarks/

Every measurement is a process of its own, with a time limit. Repetitions are interleaved (A B A
B), so that a slow minute of the machine hits every peer alike. What a peer cannot do stands in
the table in words. The peers come with ``pip install clusterfutures[bench]``; the columns are
explained in `table.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python looks only beside it

from benchmarks import table, trace  # noqa: E402
from benchmarks.peers import DEFAULT_PEERS, PEERS  # noqa: E402
from benchmarks.scenarios import MARK, SCENARIOS, Job, Report, processes_of  # noqa: E402

#: Seconds that a pool is given to end its processes after its driver has ended.
GRACE = 5.0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; exit with a message where it makes no sense."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=f"scenarios: {', '.join(SCENARIOS)}; peers: {', '.join(PEERS)}",
    )
    parser.add_argument("--only", type=names(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--peers", type=names(PEERS), default=DEFAULT_PEERS)
    parser.add_argument("--repeat", type=positive, default=3, help="repetitions (3)")
    parser.add_argument("--workers", type=positive, default=2, help="worker processes (2)")
    parser.add_argument("--timeout", type=positive, default=120, help="seconds a measurement (120)")
    parser.add_argument("--quick", action="store_true", help="tiny counts, one repetition")
    parser.add_argument(
        "--write",
        nargs="?",
        type=Path,
        const=ROOT / "docs" / "benchmarks" / f"{time.strftime('%Y-%m-%d')}.rst",
        help="also write the table there (docs/benchmarks/DATE.rst)",
    )
    return parser.parse_args(arguments)


def names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Return a reader of comma-separated names that refuses the unknown."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r} among {', '.join(known)}")
        return chosen

    return read


def positive(text: str) -> int:
    """Read a whole number above zero."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def measure(job: Job, timeout: float) -> Report:
    """Run one job in a process of its own; return its measures, or why there are none."""
    scenario = SCENARIOS[job.scenario]
    peer = PEERS[job.peer]
    if peer.version() is None:
        return Report(job.count, {}, "not installed")
    if scenario.counted and shutil.which("strace") is None:
        return Report(job.count, {}, "needs strace")
    scratch = Path(tempfile.mkdtemp(prefix="cfb-"))
    try:
        report = run_child(job, scratch, timeout)
        if scenario.counted and not report.reason:
            report = replace(report, measures=scenario.counted(scratch / "trace", job))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def run_child(job: Job, scratch: Path, timeout: float) -> Report:
    """Start the measurement process in `scratch`, wait for it, and end whatever it left behind."""
    answer, log = scratch / "answer", scratch / "log"
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(job)), str(answer)]
    if SCENARIOS[job.scenario].counted:
        command = trace.strace_command("strace", scratch / "trace") + command
    marked = uuid.uuid4().hex
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=scratch,
            env=environment(scratch, marked),
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
        why = f"no result in {timeout:g} s" if late else last_line(log)
        return Report(job.count, {}, why)
    report = Report(**json.loads(answer.read_text(encoding="utf-8")))
    remarks = [f"{left} processes left behind"] if left and not late else []
    remarks += [f"had not ended after {timeout:g} s"] if late else []
    return replace(report, remark=", ".join(remarks))


def environment(scratch: Path, marked: str) -> dict[str, str]:
    """Return a measurement's environment: our modules, the peers' programs, a place, the mark."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ours = {"PYTHONPATH": path, "PATH": programs, "TMPDIR": str(scratch), MARK: marked}
    return {**os.environ, **ours}


def end_processes(marked: str, grace: float) -> int:
    """Give a measurement's processes `grace` seconds to end, kill the rest; return how many."""
    deadline = time.monotonic() + grace
    left = list(processes_of(marked))
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = list(processes_of(marked))
    count = len(left)
    while left:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended meanwhile
        time.sleep(0.05)
        left = list(processes_of(marked))
    return count


def last_line(log: Path) -> str:
    """Return the last line that a process wrote, for want of a better reason."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "ended without a word")


def plan(options: argparse.Namespace) -> list[Job]:
    """Return the measurements in their order: by scenario, then repetition, then peer."""
    jobs = []
    for name in options.only:
        scenario = SCENARIOS[name]
        repetitions = 1 if options.quick else options.repeat * scenario.repeats or 1
        for _ in range(repetitions):
            for key in options.peers:
                share = PEERS[key].share if scenario.shared else 1.0
                count = scenario.smallest if options.quick else max(int(scenario.count * share), 1)
                jobs.append(Job(name, key, count, options.workers, options.quick))
    return jobs


def main(arguments: list[str]) -> int:
    """Measure, print, and write where asked; return the exit code, zero whatever the peers did."""
    options = parse(arguments)
    reports: dict[tuple[str, str], list[Report]] = {}
    jobs = plan(options)
    for number, job in enumerate(jobs, start=1):
        earlier = reports.setdefault((job.scenario, job.peer), [])
        if earlier and earlier[-1].reason:
            continue  # it will not do better the second time
        report = measure(job, options.timeout)
        earlier.append(report)
        shown = report.reason or f"{table.value_of(report):.4g} {SCENARIOS[job.scenario].unit}"
        print(f"{number}/{len(jobs)} {job.scenario} {job.peer}: {shown}", file=sys.stderr)
    text = table.render(reports, options)
    print(text, end="")
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
