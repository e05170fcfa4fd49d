"""What the tests of an extra need.  Without it they are skipped, and fail where .ci/run has installed it."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

VARIABLE = "CLUSTERFUTURES_TEST_EXTRAS"
"""In the environment where all extras are installed."""


def needed(name: str) -> Any:
    """The module called `name`."""
    return import_module(name) if os.environ.get(VARIABLE) else pytest.importorskip(name)
