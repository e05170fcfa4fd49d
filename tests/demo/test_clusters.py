"""The whole demo on Slurm and on the stand-in for TORQUE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.conftest import Ran

pytestmark = pytest.mark.long


@pytest.fixture(params=["slurm", "torque"])
def executor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The name of an executor whose scheduler is there; in a directory of the test's own."""
    from tests import pbs, slurm

    monkeypatch.chdir(tmp_path)
    if request.param == "slurm":
        cluster = slurm.shared()
        yield request.param
        cluster.idle()
    else:
        with pbs.door("torque") as door:
            yield request.param
            door.idle()


def test_all_pairs(executor: str, demo: Callable[..., Ran]) -> None:
    ran = demo("--option", "max_workers=2", "--option", "mem=600M", executor=executor)
    assert ran.code == 0, ran
    assert "11 pairs of 3 events: 11 done, 0 failed, 0 missing" in ran.out
    assert "right: all 11 known delays were recovered" in ran.out
    assert "job " in ran.page
