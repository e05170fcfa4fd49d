"""A short soak on a Slurm of its own; ``python -m tests.soak --executor slurm`` is a long one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import Cluster, require
from tests.soak import Round, soak

pytestmark = pytest.mark.long


@pytest.fixture
def own() -> Iterator[Cluster]:
    """Its daemons are killed, which the shared one's are not to be."""
    require()
    with Cluster(accounting=False) as found:
        found.activate()
        yield found


@pytest.mark.timeout(400)
def test_nothing_is_lost_doubled_or_left(own: Cluster, tmp_path: Path) -> None:
    for this in (Round(5, 60, slurm=True), Round(4, 12, slurm=True, jobs=True, doorbell=False)):
        place = tmp_path / str(this.seed)
        place.mkdir()
        soak(this, place, own)
