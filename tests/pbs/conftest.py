"""The doors to each PBS as a fixture, and the logs of the shared sites in the report of a test that fails."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.pbs import DIALECTS, DOORS, Door, door, real_name, shared_logs

HERE = Path(__file__).parent
TEST_TIMEOUT = 240  # seconds; a test may wait for several jobs, one after the other, on a busy machine
REAL_TEST_TIMEOUT = 900  # the same where states lag behind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test here may hang; and what a PBS does takes its time."""
    seconds = REAL_TEST_TIMEOUT if real_name() else TEST_TIMEOUT
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What asks for `pbs` is run on each, and what asks for the `site` behind it on stand-ins."""
    if "pbs" in metafunc.fixturenames:
        ours = DIALECTS if "site" in metafunc.fixturenames else DOORS
        real = real_name()
        metafunc.parametrize("pbs", [real] if real else ours, indirect=True, scope="module")


@pytest.fixture(scope="module")
def pbs(request: pytest.FixtureRequest) -> Iterator[Door]:
    """One PBS after the other, its commands on PATH."""
    with door(request.param) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the stand-ins have done, below a failed test."""
    report = yield
    if report.failed and shared_logs():
        report.sections.append(("the stand-ins' logs", shared_logs()))
    return report
