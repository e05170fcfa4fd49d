"""A file that was cut short or has rotted is not there yet, or corrupt: never a crash, never a wrong value.

The files are those that a run has left, cut at each byte, and with each of their bits flipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterfutures import LocalExecutor, payload, spool
from clusterfutures.link import Lease
from clusterfutures.logs import FRAME_HEAD, CorruptRecord, Frame, Location, LogReader, frame
from clusterfutures.pipeline.kept import Record, seal, unseal
from clusterfutures.records import FUNCTION
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory

LIMIT = 30.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """What a few small tasks have left."""
    path = tmp_path_factory.mktemp("damage") / "run"
    with LocalExecutor(1, run_dir=path, keep="always") as pool:
        assert pool.submit(pow, 2, 10).result(LIMIT) == 1024
        assert list(pool.map(abs, (-1,))) == [1]
    return RunDirectory(str(path), shared=False)


def damages(path: Path) -> Iterator[tuple[str, int]]:
    """Damage the file in one way after the other, and tell how and at which byte; make it whole again."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(content)):
            place = bit // 8
            os.pwrite(file.fileno(), bytes([content[place] ^ 1 << bit % 8]), place)
            yield "flip", place
            os.pwrite(file.fileno(), content[place : place + 1], place)
        for place in reversed(range(len(content))):
            os.ftruncate(file.fileno(), place)
            yield "cut", place
        os.pwrite(file.fileno(), content, 0)


def private(path: Path, content: bytes) -> Path:
    """A file with this content that nobody else can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def refuses(read: Callable[[], object], path: Path) -> None:
    """Every damage to the file is found by `read`."""
    good = read()
    for damage in damages(path):
        with pytest.raises((CorruptRecord, OSError)):
            print(damage, read())
    assert read() == good


# ---- logs -----------------------------------------------------------------------------------------


def read(directory: Path) -> tuple[list[Frame], bool]:
    """All that can be read of the log there once its writer is dead, and whether more should follow."""
    reader = LogReader(str(directory), "log", shared=False)
    try:
        return reader.read(final=True), reader.suspect
    finally:
        reader.close()


@pytest.mark.parametrize("name", ["0.0/in", "0.0/out", "0.0/0.0/in", "0.0/0.0/out"])
def test_logs(run: RunDirectory, tmp_path: Path, name: str) -> None:
    """Inboxes and outboxes of the supervisor and of the worker."""
    copy = private(tmp_path / "log.000000", Path(run.job(0), f"{name}.000000").read_bytes())
    whole, suspect = read(tmp_path)
    assert not suspect
    ends = [0]
    for record in whole:
        ends.append(ends[-1] + FRAME_HEAD + len(record.body))
    for damage in damages(copy):
        frames, suspect = read(tmp_path)
        before = sum(end <= damage[1] for end in ends) - 1  # the records that end before the damage
        assert frames == whole[:before], damage
        assert suspect == (damage[0] == "flip" or damage[1] not in ends), damage


def test_tasks(run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of the journal, which is read at its place."""
    monkeypatch.setattr(spool, "GRACE", {False: -1.0})
    reader = LogReader(run.path, "tasks", shared=False)
    body = next(record.body for record in reader.read() if record.kind == FUNCTION)
    reader.close()
    content = frame(FUNCTION, body)
    journal = private(tmp_path / "tasks.000000", content)
    copy = RunDirectory(str(tmp_path), shared=False)
    refuses(lambda: copy.read_task(Location(0, 0, len(content))), journal)
    copy.close()


# ---- whole files ----------------------------------------------------------------------------------


def test_specifications(run: RunDirectory) -> None:
    run.make_job(7)
    Specification("id", False, 1, 0, None, [], "drain", 60.0).write(run, 7)
    refuses(lambda: Specification.read(run, 7), Path(run.specification(7)))


def test_leases(run: RunDirectory) -> None:
    refuses(lambda: Lease.read(run), Path(run.driver))


def test_buffers(tmp_path: Path) -> None:
    content = bytes(range(48))
    digest = RunDirectory(str(tmp_path), shared=False).keep_buffer(memoryview(content))

    def fetch() -> bytes:
        return bytes(RunDirectory(str(tmp_path), shared=False).fetch_buffer(digest, len(content), True))

    refuses(fetch, Path(RunDirectory(str(tmp_path), shared=False).buffer(digest)))


def test_results_of_a_pipeline(tmp_path: Path) -> None:
    record = Record("print", "event", "station", payload.dumps_result(0.5), None, 1.0, "host")
    path = private(tmp_path / "result", seal(record))
    for damage in damages(path):
        assert unseal(path.read_bytes()) is None, damage
    assert unseal(path.read_bytes()) == record
