"""The version, in one place: for setup.cfg, the documentation and ``clusterfutures.__version__``.

A module of its own, so that setuptools reads it without importing the package, whose dependencies
are not there yet while it is being built.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.6.0.dev0"
