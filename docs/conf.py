"""Sphinx configuration; build with ``sphinx-build docs docs/_build``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # document the checkout, whatever is installed

from clusterfutures._version import __version__  # noqa: E402 - found through the line above

project = "clusterfutures"
author = "clusterfutures developers"
copyright = f"2026, {author}"
release = __version__
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
napoleon_google_docstring = False  # LocalExecutor's parameters are in NumPy's form, all else is plain text
exclude_patterns = ["_build"]
default_role = "code"  # `name` in a docstring means what it means in a comment
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports = ["h5py", "matplotlib", "obspy"]  # of the extra "demo", whose modules are described

html_theme = "furo"
html_title = f"clusterfutures {release}"
