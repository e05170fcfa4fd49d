"""How the driver hears of what others write, on a file system that shows names late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfutures.logs import LogReader
from tests.one_file_scheduler import ShellExecutor
from tests.support import check_no_process_left

LIMIT = 40.0  # seconds; whatever takes longer hangs


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no process of a job is left."""
    yield
    check_no_process_left()


def test_what_was_rung_for_needs_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that a client has kept may be half a minute old; the bell has said what is there."""
    with ShellExecutor(1, run_dir=tmp_path / "run") as executor:
        assert executor.submit(abs, -1).result(LIMIT) == 1
        monkeypatch.setattr(LogReader, "_listed", staticmethod(lambda path: False))
        worker = executor.submit(os.getpid).result(LIMIT)
        assert worker != os.getpid()
        assert list(executor.map(abs, range(-100, 0))) == [*range(100, 0, -1)]
        monkeypatch.undo()
