"""The shared cluster as a fixture, and its logs in the report of a test that fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.slurm import Cluster, shared, shared_logs


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The `shared` cluster; a test leaves it as it was, without jobs and with all of its daemons."""
    return shared()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what Slurm had to say, below a failed test."""
    report = yield
    if report.failed and shared_logs():
        report.sections.append(("Slurm's logs", shared_logs()))
    return report
