"""The way to a real server, tried on a stand-in that tells nothing of itself: slow, somebody's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pbs import DIALECTS, Site, require
from tests.pbs.door import VARIABLE
from tests.support import REPOSITORY, ScriptResult, run_command

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def _on_linux() -> None:
    require()


def run_tests(site: Site, tmp_path: Path, wanted: str, *words: str) -> ScriptResult:
    """Run tests on the commands of `site` as on those of a real server."""
    options = ["-p", "no:cacheprovider", f"--basetemp={tmp_path}/base"]
    command = [sys.executable, "-m", "pytest", *options, *words]
    environ = {**site.environ, VARIABLE: wanted}
    return run_command(command, tmp_path, cwd=REPOSITORY, env=environ, timeout=150)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_suites_run_on_what_is_there(dialect: str, tmp_path: Path) -> None:
    suites = ["tests/contract/test_initializer.py", "tests/pbs/test_endings.py"]
    chosen = ["-v", "-m", "", "-k", "that_raises or TestStart"]
    with Site(dialect, lag=1.0) as site:
        done = run_tests(site, tmp_path, "auto", *chosen, *suites).check()
        site.idle()
    for name in ("test_a_refused_submission[{}-pool]", "test_that_raises[{}]"):
        assert f"{name.format(dialect)} PASSED" in done.stdout, done.report()
    assert "local" not in done.stdout


@pytest.mark.parametrize("wanted", ["openpbs", "pbs"])
def test_another_one_is_not_taken_for_it(wanted: str, tmp_path: Path) -> None:
    with Site("torque") as site:
        done = run_tests(site, tmp_path, wanted, "tests/contract/test_map.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.report()
    assert f"{VARIABLE} is '{wanted}'; the PBS on PATH is 'torque'" in done.stderr
