"""Somebody else on this machine, and a place that he can get at."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.security import others


@pytest.fixture
def as_other() -> Callable[[Callable[[], object]], str]:
    """``as_other(work)``: what `work` returns, or raises, as text, if another user does it."""
    others.require()
    return others.run_as_other


@pytest.fixture
def commons() -> Iterator[Path]:
    """A directory that everybody may write to, as bad as they come: without a sticky bit."""
    path = Path(tempfile.mkdtemp(prefix="cfcommons-", dir="/tmp"))  # pytest's own are closed to others
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)
