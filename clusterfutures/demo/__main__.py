"""``python examples/misfit``: the same as ``clusterfutures demo``."""

from __future__ import annotations

import sys

from clusterfutures.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
