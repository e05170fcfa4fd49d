"""The result as text that reads well in a terminal and is valid reStructuredText.

Columns: the median over the repetitions; their smallest and largest; the median as a multiple of
that of the executor that the target compares with; repetitions x tasks in each; further measures
of the last repetition, or in words why there is no number.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.scenarios import SCENARIOS, Report, Scenario

Reports = dict[tuple[str, str], list[Report]]
OURS = "local"


def value_of(report: Report) -> float:
    """Return a report's first measure, the one that is compared."""
    return next(iter(report.measures.values()))


def median_of(reports: Reports, scenario: str, peer: str | None) -> float | None:
    """Return a peer's median in a scenario, None where it has no number."""
    if peer is None:
        return None
    values = [value_of(each) for each in reports.get((scenario, peer), []) if not each.reason]
    return statistics.median(values) if values else None


def render(reports: Reports, options: argparse.Namespace) -> str:
    """Return the page: where it was measured, the targets, then every number."""
    parts = [heading(f"Benchmarks of {time.strftime('%Y-%m-%d')}", "="), surroundings(options)]
    if any(peer == OURS for _, peer in reports):
        parts += [heading("Targets", "-"), targets(reports)]
    parts += [heading("All numbers", "-"), numbers(reports)]
    return "\n\n".join(parts) + "\n"


def heading(text: str, line: str) -> str:
    """Return a section title."""
    return f"{text}\n{line * len(text)}"


def surroundings(options: argparse.Namespace) -> str:
    """Return what the numbers depend on: machine, Python, versions, and how it was run."""
    listed = []
    for key in options.peers:
        package = PEERS[key].package
        if package:
            listed.append(f"{package} {PEERS[key].version() or '(not installed)'}")
    kind = "a quick run, too small to compare" if options.quick else "a full run"
    listed += filter(None, [revision()])
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        f"* {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"* {python}, {', '.join(dict.fromkeys(listed)) or 'no further libraries'}",
        f"* {options.workers} workers, {kind}, load average {os.getloadavg()[0]:.1f} at its end",
    ]
    return "\n".join(lines)


def revision() -> str:
    """Return the name of what was measured in the history, empty outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return f"revision {done.stdout.strip()}" if done.returncode == 0 else ""


def processor() -> str:
    """Return the processor's name as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.machine()


def targets(reports: Reports) -> str:
    """Return the table of the targets: what is asked for, what was measured."""
    rows = []
    for name, scenario in SCENARIOS.items():
        if (name, OURS) in reports:
            rows.append([scenario.title, scenario.target, *reached(reports, name, scenario)])
    return simple_table(["what", "target", "measured", "reached"], rows)


def reached(reports: Reports, name: str, scenario: Scenario) -> tuple[str, str]:
    """Return what was measured in the target's own terms, and whether that reaches it."""
    ours = median_of(reports, name, OURS)
    base = median_of(reports, name, scenario.reference)
    if ours is None:
        return "no number", "no"
    if scenario.reference is None:
        measured, shown = ours, f"{number(ours)} {scenario.unit}"
    elif base is None:
        return f"{number(ours)} {scenario.unit}", "nothing to compare with"
    else:
        measured, shown = ours / base, f"{ours / base:.3f} x {PEERS[scenario.reference].title}"
    if scenario.limit == float("inf"):
        return shown, "no limit set"
    return shown, "yes" if measured <= scenario.limit else "no"


def numbers(reports: Reports) -> str:
    """Return the table of everything that was measured."""
    columns = ["what", "executor", "median", "spread", "ratio", "runs", "remarks"]
    rows = []
    for (name, peer), found in reports.items():
        scenario = SCENARIOS[name]
        rows.append([f"{scenario.title}: {scenario.unit}", *row(reports, name, peer, found)])
    return simple_table(columns, rows)


def row(reports: Reports, name: str, peer: str, found: Sequence[Report]) -> list[str]:
    """Return one executor's cells in one scenario."""
    good = [report for report in found if not report.reason]
    middle = median_of(reports, name, peer)
    if middle is None:
        return [PEERS[peer].title, "-", "-", "-", "-", found[-1].reason]
    values = [value_of(report) for report in good]
    base = median_of(reports, name, SCENARIOS[name].reference)
    return [
        PEERS[peer].title,
        number(middle),
        f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else "-",
        f"{middle / base:.2f}" if base else "-",
        f"{len(values)} x {good[-1].count}",
        remarks(found),
    ]


def remarks(found: Sequence[Report]) -> str:
    """Return the further measures, and what else there is to know."""
    last = next(report for report in reversed(found) if not report.reason)
    further = list(last.measures.items())[1:]
    words = [f"{name} {number(value)}" for name, value in further]
    words += dict.fromkeys(part for each in found for part in (each.remark, each.reason) if part)
    return ", ".join(words) or "-"


def number(value: float) -> str:
    """Return a number with three digits or all those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def simple_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a reStructuredText "simple table": columns as wide as their widest cells."""
    widths = [max(len(line[index]) for line in (columns, *rows)) for index in range(len(columns))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
        for line in (columns, *rows)
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])
