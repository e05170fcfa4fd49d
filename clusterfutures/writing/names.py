"""Names of files for what users call as they like."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

LONGEST = 150
"""Characters of a key that become a file name; a longer one is replaced by its digest."""


def file_name(key: str) -> str:
    """The name for a key, another one for each; without a suffix."""
    name = quote(key, safe="")
    return name if len(name) <= LONGEST else hashlib.sha256(key.encode()).hexdigest()
