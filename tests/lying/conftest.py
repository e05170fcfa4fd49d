"""Fixtures: the machines, and what the contract suite's tests need here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.conftest import BELL_AND_POLLING
from tests.contract.conftest import executor, gate, gates, make, shared_pool
from tests.contract.executors import OWN_TRAITS, Case
from tests.lying import Machines, machines
from tests.support import check_no_process_left

__all__ = ["executor", "gate", "gates", "make", "shared_pool"]

# Whoever waits for a cache to expire waits for longer than any test.
AN_HOUR = 3600.0


@pytest.fixture(scope="session")
def can_lie() -> None:
    """Skip where there can be no such mounts."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this machine has no FUSE")
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("only root can give a process mounts of its own")
    if shutil.which("bindfs") is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("needs bindfs: apt-get install bindfs")


@pytest.fixture(scope="module")
def lying(can_lie: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Machines whose caches never expire."""
    with machines(tmp_path_factory.mktemp("lying"), AN_HOUR) as found:
        yield found
        check_no_process_left()


@pytest.fixture(scope="module", params=BELL_AND_POLLING)
def bell(request: pytest.FixtureRequest) -> bool:
    """With the doorbell and without."""
    found: bool = request.param
    return found


@pytest.fixture(scope="module")
def case(lying: Machines, bell: bool) -> Iterator[Case]:
    """An executor whose run directories are where the machines meet."""
    options = {"python": lying.on_a_node(sys.executable), "doorbell": bell}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(lying.here))
        yield Case("lying", "tests.one_file_scheduler:ShellExecutor", OWN_TRAITS, options, service="shell")
        check_no_process_left()
