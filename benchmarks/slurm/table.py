"""The result as a page, in the form of `benchmarks.table`."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Sequence

from benchmarks.scenarios import Report
from benchmarks.slurm.peers import PEERS
from benchmarks.slurm.scenarios import SCENARIOS, Target
from benchmarks.table import heading, number, processor, remarks, simple_table, value_of

Reports = dict[tuple[str, str], list[Report]]


def median_of(reports: Reports, scenario: str, peer: str, measure: str | None = None) -> float | None:
    """Return the median of a peer's measure, by default the first, None where it has no number."""
    good = [each for each in reports.get((scenario, peer), []) if not each.reason]
    values = [value_of(each) if measure is None else each.measures[measure] for each in good]
    return statistics.median(values) if values else None


def render(reports: Reports, options: argparse.Namespace, slurm: str) -> str:
    """Return the page: where it was measured, the targets, then every number.

    `slurm` describes the cluster.
    """
    parts = [heading(f"Benchmarks of {time.strftime('%Y-%m-%d')}, on Slurm", "=")]
    parts += [surroundings(reports, options, slurm)]
    parts += [heading("Targets", "-"), targets(reports)]
    parts += [heading("All numbers", "-"), numbers(reports)]
    return "\n\n".join(parts) + "\n"


def surroundings(reports: Reports, options: argparse.Namespace, slurm: str) -> str:
    """Return what the numbers depend on: machine, cluster, Python, versions, and how it was run."""
    used = dict.fromkeys(peer for _, peer in reports)
    versions = [f"{PEERS[key].package} {PEERS[key].version()}" for key in used if PEERS[key].package]
    kind = "a quick run, too small to compare" if options.quick else "a full run"
    lines = [
        f"* {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        f"* {slurm}",
        f"* {platform.python_implementation()} {platform.python_version()}, "
        + ", ".join(dict.fromkeys(versions)),
        f"* pools of {options.workers} workers, {kind}, load average {os.getloadavg()[0]:.1f} at its end",
    ]
    return "\n".join(lines)


def targets(reports: Reports) -> str:
    """Return the table of the targets: what is asked for, what was measured."""
    rows = [
        [scenario.title, target.words, *reached(reports, name, target)]
        for name, scenario in SCENARIOS.items()
        for target in scenario.targets
        if (name, target.peer) in reports
    ]
    return simple_table(["what", "target", "measured", "reached"], rows)


def reached(reports: Reports, name: str, target: Target) -> tuple[str, str]:
    """Return what was measured in the target's own terms, and whether that reaches it."""
    ours = median_of(reports, name, target.peer, target.measure)
    if ours is None:
        return "no number", "no"
    if target.reference is None:
        unit = SCENARIOS[name].unit.partition(",")[0]
        return f"{number(ours)} {unit}", "yes" if ours <= target.limit else "no"
    base = median_of(reports, name, target.reference, target.measure)
    if base is None:
        return "nothing to compare with", "-"
    shown = f"{ours / base:.3f} x {PEERS[target.reference].title}"
    return shown, "yes" if ours / base <= target.limit else "no"


def numbers(reports: Reports) -> str:
    """Return the table of everything that was measured."""
    columns = ["what", "executor", "median", "spread", "ratio", "runs", "remarks"]
    rows = []
    for (name, peer), found in reports.items():
        scenario = SCENARIOS[name]
        base = median_of(reports, name, scenario.reference)
        rows.append([f"{scenario.title}: {scenario.unit}", *row(peer, found, base)])
    return simple_table(columns, rows)


def row(peer: str, found: Sequence[Report], base: float | None) -> list[str]:
    """Return one executor's cells in one scenario; ratios are to `base`."""
    good = [report for report in found if not report.reason]
    if not good:
        return [PEERS[peer].title, "-", "-", "-", "-", found[-1].reason]
    values = [value_of(report) for report in good]
    middle = statistics.median(values)
    return [
        PEERS[peer].title,
        number(middle),
        f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else "-",
        f"{middle / base:.2f}" if base else "-",
        f"{len(values)} x {good[-1].count}",
        remarks(found),
    ]
