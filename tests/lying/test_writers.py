"""Writers on machines that see late what the others have written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import SerialWriter, ShardedWriter
from tests.lying import Machines, machines, work
from tests.one_file_scheduler import ShellExecutor
from tests.support import check_no_process_left

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

LIMIT = 50.0  # seconds; whatever takes longer hangs
TASKS = 4


@pytest.fixture(scope="module")
def late(can_lie: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines whose caches hold for two seconds: a turn at a file waits for them, as it must."""
    with machines(tmp_path_factory.mktemp("late"), 2.0) as found:
        yield found
        check_no_process_left()


def shell(where: Machines, name: str, **options: Any) -> ShellExecutor:
    """Jobs for single tasks, on all nodes."""
    python = where.on_a_node(sys.executable)
    return ShellExecutor(
        TASKS, run_dir=where.here / name, python=python, job_per_task=True, keep="never", **options
    )


def test_a_line_from_every_machine(late: Machines) -> None:
    writer = SerialWriter(late.here / "log.txt")
    with shell(late, "lines") as ex:
        writer.append_line("0")
        futures = [ex.submit(writer.append_line, str(number)) for number in range(1, TASKS)]
        writer.append_line(str(TASKS))
        for future in futures:
            future.result(LIMIT)
        writer.append_line(str(TASKS + 1))
    text = (late.folder / "real" / "log.txt").read_text()
    assert sorted(text.split()) == [str(number) for number in range(TASKS + 2)]


def test_shards_are_merged_elsewhere(late: Machines) -> None:
    path = str(late.here / "merged.txt")
    shards = ShardedWriter(path)
    assert shards.merge().folded == 0
    with shell(late, "shards") as ex:
        futures = [ex.submit(work.write_shard, path, number) for number in range(TASKS)]
        assert [future.result(LIMIT) for future in futures] == list(range(TASKS))
    assert shards.merge().folded == TASKS
    assert sorted((late.folder / "real" / "merged.txt").read_text().split()) == list("0123")


def test_one_task_of_all_nodes(lying: Machines, tmp_path: Path) -> None:
    notes = str(tmp_path / "notes")
    with shell(lying, "once") as ex:
        futures = [ex.submit(work.do_once, "this", notes, TASKS) for _ in range(TASKS)]
        mine = [future.result(LIMIT) for future in futures]
    assert sorted(mine) == [False] * (TASKS - 1) + [True]
