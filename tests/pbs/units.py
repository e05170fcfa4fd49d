"""How PBS writes times, sizes and the indices of arrays."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
WORD = 8  # bytes


def parse_time(text: str) -> float:
    """The seconds of ``90``, ``1:30`` or ``1:00:00``; ValueError for anything else."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", text):
        raise ValueError(text)
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def format_time(seconds: float) -> str:
    """As hours, minutes and seconds: ``01:00:00``."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def parse_size(text: str) -> int:
    """The bytes of ``8gb``, ``512m`` or ``2kw``; ValueError for anything else."""
    match = re.fullmatch(r"(\d+)([kmgt]?)([bw]?)", text.lower())
    if match is None:
        raise ValueError(text)
    return int(match[1]) * FACTORS[match[2]] * (WORD if match[3] == "w" else 1)


def ctime(when: float) -> str:
    """As in ``Fri Nov 20 11:55:11 2026``, whatever the locale."""
    return time.asctime(time.localtime(when))


def minute(when: float) -> str:
    """As PBS writes it in comments: ``Fri Nov 20 at 11:55``."""
    return f"{ctime(when)[:10]} at {ctime(when)[11:16]}"


def parse_indices(text: str) -> tuple[int, ...]:
    """The indices of ``0-9``, ``0-9:2``, ``1,3,5-7``; ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match is None:
            raise ValueError(text)
        first = int(match[1])
        found += range(first, int(match[2] or first) + 1, int(match[3] or 1))
    return tuple(found)


def format_indices(indices: Sequence[int]) -> str:
    """The shortest way to write increasing indices: ``0-1,3``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
