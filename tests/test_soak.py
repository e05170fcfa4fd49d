"""A short soak, see `tests.soak`; ``python -m tests.soak --minutes 10`` is a long one."""

from __future__ import annotations

import pytest

from tests import soak
from tests.conftest import BELL_AND_POLLING


@pytest.mark.parametrize("doorbell", BELL_AND_POLLING)
def test_nothing_is_lost_doubled_or_left(doorbell: bool) -> None:
    soak.soak(7, 100, doorbell)


def test_a_failure_names_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "WAVE", 10)
    monkeypatch.setattr(soak, "gives", lambda value: lambda future: False)
    with pytest.raises(AssertionError, match=r"seed 9, doorbell=True: task \d+"):
        soak.soak(9, 10, True)
