"""The examples of the pages on clusters run on the tests' own Slurm, and leave nothing beside the pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pbs import shared

ON_SLURM = {"cluster.rst", "endings.rst"}
ON_PBS = {"pbs.rst"}


@pytest.fixture(autouse=True)
def cluster_of_the_page(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start it for a page that needs it; skip the page, or fail it in CI, where it is not installed."""
    if request.node.path.name in ON_SLURM:
        request.getfixturevalue("slurm")
        monkeypatch.chdir(tmp_path)
    if request.node.path.name in ON_PBS:
        for name, value in shared("openpbs").environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
