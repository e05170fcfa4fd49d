"""``python -m clusterfutures``: the command line, where the script of that name is not on PATH."""

from __future__ import annotations

import sys

from clusterfutures.cli import main

if __name__ == "__main__":
    sys.exit(main())
