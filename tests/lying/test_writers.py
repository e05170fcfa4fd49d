"""Writers on machines that see late what the others have written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SerialWriter, ShardedWriter
from tests.lying import NODES, Machines, machines, work
from tests.one_file_scheduler import ShellExecutor
from tests.support import check_no_process_left

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

LIMIT = 50.0  # seconds; whatever takes longer hangs
TASKS = 4
CACHES = 10.0


@pytest.fixture(scope="module")
def late(can_lie: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines whose caches hold for ten seconds: a turn at a file waits for them, as it must."""
    with machines(tmp_path_factory.mktemp("late"), CACHES) as found:
        yield found
        check_no_process_left()


def shell(where: Machines, name: str, **options: Any) -> ShellExecutor:
    """Jobs for single tasks, on all nodes."""
    python = where.on_a_node(sys.executable)
    return ShellExecutor(
        TASKS, run_dir=where.here / name, python=python, job_per_task=True, keep="never", **options
    )


def test_a_line_from_every_machine(late: Machines) -> None:
    """From executors with the doorbell and without, side by side: at worst each turn waits for the caches."""
    writer = SerialWriter(late.here / "log.txt")
    tasks = [f"{name} {number}" for name in ("bell", "polling") for number in range(NODES)]
    with shell(late, "bell") as rung, shell(late, "polling", doorbell=False) as looking:
        writer.append_line("driver 1")
        futures = [
            (rung if line.startswith("bell") else looking).submit(writer.append_line, line) for line in tasks
        ]
        writer.append_line("driver 2")
        for future in futures:
            future.result(LIMIT + CACHES * len(tasks))
        writer.append_line("driver 3")
    lines = (late.folder / "real" / "log.txt").read_text().splitlines()
    assert sorted(lines) == sorted([*tasks, "driver 1", "driver 2", "driver 3"])


def test_shards_are_merged_elsewhere(late: Machines, bell: bool) -> None:
    path = str(late.here / f"merged.{bell}.txt")
    shards = ShardedWriter(path)
    assert shards.merge().folded == 0
    with shell(late, f"shards.{bell}", doorbell=bell) as ex:
        futures = [ex.submit(work.write_shard, path, number) for number in range(TASKS)]
        assert [future.result(LIMIT) for future in futures] == list(range(TASKS))
    assert shards.merge().folded == TASKS
    assert sorted((late.folder / "real" / os.path.basename(path)).read_text().split()) == list("0123")


def test_one_task_of_all_nodes(lying: Machines, tmp_path: Path, bell: bool) -> None:
    notes = str(tmp_path / "notes")
    with shell(lying, f"once.{bell}", doorbell=bell) as ex:
        futures = [ex.submit(work.do_once, "this", notes, TASKS) for _ in range(TASKS)]
        mine = [future.result(LIMIT) for future in futures]
    assert sorted(mine) == [False] * (TASKS - 1) + [True]
