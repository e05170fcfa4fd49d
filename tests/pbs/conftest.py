"""The logs of the shared sites in the report of a test that fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.pbs import shared_logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the stand-ins have done, below a failed test."""
    report = yield
    if report.failed and shared_logs():
        report.sections.append(("the stand-ins' logs", shared_logs()))
    return report
