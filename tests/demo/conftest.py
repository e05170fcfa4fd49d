"""ObsPy and what else the extra ``demo`` brings; and a run of the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from clusterfutures import cli
from tests.extras import needed

HERE = Path(__file__).parent
TEST_TIMEOUT = 180  # s; ObsPy's import alone may take a tenth of that on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """ObsPy, and what it imports, have warnings of their own."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest.fixture
def extra() -> None:
    """What the extra installs is there."""
    for name in ("obspy", "h5py", "matplotlib"):
        needed(name)


class Ran(NamedTuple):
    """How the command has ended: its exit code, what it printed on each stream, its directory."""

    code: int
    out: str
    err: str
    output: Path

    @property
    def page(self) -> str:
        """The text of the HTML page."""
        return (self.output / "index.html").read_text(encoding="utf-8")


@pytest.fixture
def demo(extra: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """``demo(*words)``: run ``clusterfutures demo`` with these words, by default in this process alone."""

    def run(*words: str, executor: str = "serial") -> Ran:
        output = tmp_path / "output"
        code = cli.main(["demo", "--executor", executor, "--output", str(output), *words])
        return Ran(code, *capsys.readouterr(), output)

    return run
