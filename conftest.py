"""For every test, and every example in the documentation: where they leave their files."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.slurm.cluster import Cluster


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which executors the contract suite runs on; the names are in tests/contract/executors.py."""
    parser.addoption(
        "--executors",
        default="everyday",
        help="run the contract suite on these executors, separated by commas; 'everyday' (the default) are "
        "those that need no service, 'all' is every one",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what Slurm had to say, below a failed test, if there is one."""
    report = yield
    slurm = sys.modules.get("tests.slurm")
    if slurm is not None:
        slurm.show_logs(report)
    return report


@pytest.fixture(scope="session")
def slurm() -> Cluster:
    """The Slurm that the tests share, started by the first who asks for it, in ``SLURM_CONF``."""
    from tests.slurm import shared

    return shared()


@pytest.fixture(scope="session", autouse=True)
def temporary_files_with_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever a test leaves for its user to look at is thrown away with pytest's own directories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield
