"""Nothing is unpickled that another user can have written, wherever something is unpickled.

Each place is given a file that somebody else has got at, in each of the ways in which that can be, with a
pickle in it that would leave a trace.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import LocalExecutor, payload, spool
from clusterfutures.checkpoint import Checkpoint
from clusterfutures.errors import RunDirectoryError
from clusterfutures.functions import Functions
from clusterfutures.link import Lease
from clusterfutures.logs import Frame, Location, LogReader, frame
from clusterfutures.pipeline import eventwork
from clusterfutures.pipeline.codes import Code
from clusterfutures.pipeline.kept import Kept, Record, seal
from clusterfutures.records import FUNCTION, OUTCOME
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef, make_folder
from tests.security.others import OTHER

LIMIT = 30.0


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Where a pickle that was loaded leaves its trace."""
    return tmp_path / "trace"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run directory in good order, for which nobody waits long."""
    monkeypatch.setattr(spool, "GRACE", {False: -1.0})
    path = tmp_path / "run"
    path.mkdir(0o700)
    return RunDirectory(str(path), shared=False)


# ---- what somebody else can have done to a file ---------------------------------------------------


def given_away(path: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, OTHER, OTHER)


def opened_to_the_group(path: str) -> None:
    os.chmod(path, 0o620)


def opened_to_all(path: str) -> None:
    os.chmod(path, 0o602)


def linked(path: str) -> None:
    """The file is this user's own, and private: but one that lies elsewhere."""
    os.rename(path, path + ".elsewhere")
    os.symlink(path + ".elsewhere", path)


def linked_hard(path: str) -> None:
    os.link(path, path + ".elsewhere")


def made_a_pipe(path: str) -> None:
    """To open one that nobody writes to would wait for ever."""
    os.unlink(path)
    os.mkfifo(path, 0o600)


WAYS = {
    given_away: "belongs to user",
    opened_to_the_group: "is open to others",
    opened_to_all: "is open to others",
    linked: "symbolic link",
    linked_hard: "hard link",
    made_a_pipe: "not of the kind expected",
}


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """What is done to a file."""
    found: Callable[[str], None] = request.param
    return found


# ---- where something is unpickled -----------------------------------------------------------------

Place = Callable[[RunDirectory, Bomb], "tuple[str, Callable[[], object]]"]
"""Writes a file with the pickle of a bomb; returns its path, and what reads it in good faith."""


def private(path: str, content: bytes) -> str:
    make_folder(os.path.dirname(path))
    Path(path).touch(mode=0o600)
    Path(path).write_bytes(content)
    return path


def an_outbox(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By the driver; it is the same for inboxes, by workers and supervisors."""
    home = run.home(WorkerRef(0, 0, 0, 0, 0))
    reader = LogReader(home, "out", shared=False)
    path = private(f"{home}/out.000000", frame(OUTCOME, payload.dumps_result(bomb)))
    return path, lambda: [payload.loads_result(body) for _, body in reader.read(final=True)]


def an_outbox_between_machines(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    home = run.home(WorkerRef(0, 0, 0, 0, 0))
    reader = LogReader(home, "out", shared=True)
    path = private(f"{home}/out.000000", frame(OUTCOME, payload.dumps_result(bomb)))
    return path, lambda: [payload.loads_result(body) for _, body in reader.read(0)]


def the_journal(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By a worker: functions, tasks, the initializer."""
    content = frame(FUNCTION, payload.dumps_result(bomb))
    path = private(f"{run.path}/tasks.000000", content)
    return path, lambda: Functions(run).get(Location(0, 0, len(content)))


def a_buffer(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By a worker: an array, or definitions of ``__main__``."""
    content = payload.dumps_result(bomb)
    digest = run.keep_buffer(memoryview(content))
    reader = RunDirectory(run.path, shared=False)
    return run.buffer(digest), lambda: payload.loads_result(reader.fetch_buffer(digest, len(content), True))


def a_specification(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By a supervisor."""
    path = private(run.specification(0), frame(1, payload.dumps_result((bomb,) * 10)))
    return path, lambda: Specification.read(run, 0)


def a_checkpoint(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By a task."""
    checkpoint = Checkpoint(run.path, 7, 0)
    checkpoint.save(bomb)
    return f"{run.checkpoints(7)}/0", checkpoint.load


def the_set_up_of_an_event(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By a task of a pipeline."""
    path = private(f"{run.path}/setup.pickle", payload.dumps_result(bomb))
    eventwork.load_setup.cache_clear()
    return path, lambda: eventwork.load_setup(path)


def a_result_of_a_pipeline(run: RunDirectory, bomb: Bomb) -> tuple[str, Callable[[], object]]:
    """By the program that goes on with what is done."""
    kept = Kept(run.path)
    record = Record("print", "event", "station", payload.dumps_result(bomb), None, 1.0, "host")
    path = private(kept._result(Code("event", "station")), seal(record))
    return path, lambda: kept.outcomes([Code("event", "station")], {"print"})


PLACES: list[Place] = [
    an_outbox,
    an_outbox_between_machines,
    the_journal,
    a_buffer,
    a_specification,
    a_checkpoint,
    the_set_up_of_an_event,
    a_result_of_a_pipeline,
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_it_would_be_loaded(run: RunDirectory, trace: Path, place: Place) -> None:
    """As long as nobody else has got at it; or the next test would prove nothing."""
    _, read = place(run, Bomb(trace))
    with contextlib.suppress(TypeError):  # once they went off, bombs are no specification
        read()
    assert trace.exists()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_it_is_refused(run: RunDirectory, trace: Path, place: Place, way: Callable[[str], None]) -> None:
    path, read = place(run, Bomb(trace))
    way(path)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises((PermissionError, RunDirectoryError)) as caught:
        read()
    assert path in str(caught.value)
    assert any(words in str(caught.value) for words in WAYS.values())
    assert len(os.listdir("/dev/fd")) == before, "what was opened to look at it is closed"
    assert not trace.exists()


def test_nor_are_the_key_and_the_lease_believed(run: RunDirectory, way: Callable[[str], None]) -> None:
    """No pickles, but whoever wrote them would be taken for the driver."""
    for path, content, read in (
        (run.secret, bytes(32), run.key),
        (run.driver, frame(1, b"1\ntcp:127.0.0.1:1"), lambda: Lease.read(run)),
    ):
        private(path, content)
        assert read()
        way(path)
        with pytest.raises(PermissionError, match="refusing it"):
            read()


# ---- run directories ------------------------------------------------------------------------------


def test_a_run_directory_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "run").symlink_to("real")
    with pytest.raises(RunDirectoryError, match="is not a directory"):
        LocalExecutor(1, run_dir=tmp_path / "run")
    assert os.listdir(tmp_path / "real") == []


def test_something_put_into_an_open_directory_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing directory may be open to others until it is taken."""
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(0o777)
    chmod = os.chmod

    def late(target: str, mode: int) -> None:
        (path / "jobs").mkdir()
        chmod(target, mode)

    monkeypatch.setattr(os, "chmod", late)
    with pytest.raises(RunDirectoryError, match="not empty"):
        LocalExecutor(1, run_dir=path)
    assert os.listdir(path) == ["jobs"]


def test_others_may_look_at_what_they_cannot_write(run: RunDirectory) -> None:
    """As the results of a pipeline that were opened to colleagues."""
    path = private(f"{run.path}/log.000000", frame(OUTCOME, b"body"))
    os.chmod(path, 0o644)
    reader = LogReader(run.path, "log", shared=False)
    assert reader.read(final=True) == [Frame(OUTCOME, b"body")]
    reader.close()
