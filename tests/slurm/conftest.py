"""The shared cluster, and a place to work there, as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import Cluster, shared
from tests.slurm.calls import Calls
from tests.support import check_no_process_left

HERE = Path(__file__).parent
TEST_TIMEOUT = 180  # a test may wait for several jobs, one after the other, on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test here may hang; and what Slurm does takes its time."""
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The `shared` cluster; a test leaves it as it was, without jobs and with all of its daemons."""
    return shared()


@pytest.fixture(scope="module")
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """At the end of the module: no job, and no process of one."""
    yield
    try:
        cluster.idle()
    finally:
        cluster.cancel_all()
    check_no_process_left()


@pytest.fixture
def here(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, which no job may fill with its logs; and no job may stay behind."""
    monkeypatch.chdir(tmp_path)
    # A busy machine may stop a loop of submissions for a while, which would end the array there.
    monkeypatch.setattr("clusterfutures.executor.GATHER", 1.0)
    yield tmp_path
    try:
        cluster.idle()
    finally:
        cluster.cancel_all()
    assert not list(tmp_path.rglob("slurm-*.out"))


@pytest.fixture
def calls(here: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """All that is asked of Slurm in the test, and in its jobs."""
    (here / "bin").mkdir()
    calls = Calls(here / "bin")
    monkeypatch.setenv("PATH", calls.path)
    return calls


@pytest.fixture
def log(here: Path) -> str:
    """A file for `local_work.note`."""
    return str(here / "notes")


@pytest.fixture
def gate(here: Path) -> Iterator[Path]:
    """A file that lets tasks go on once it exists; at the end of the test it does."""
    path = here / "open"
    yield path
    path.touch()
