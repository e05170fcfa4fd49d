"""Counting Slurm's commands: a directory of wrappers to put first on PATH."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct", "scontrol", "sinfo")
STATUS = ("squeue", "sacct", "scontrol", "sinfo")


class Wrappers:
    """Programs with the names of Slurm's, which note that they were called and then become these.

    `delay` is for how many seconds sbatch sleeps first, as one does that a busy slurmctld keeps waiting.
    """

    def __init__(self, directory: Path, delay: float = 0.0) -> None:
        self.directory = directory
        self._calls = directory / "calls"
        directory.mkdir()
        self._calls.touch()
        for name in COMMANDS:
            self._write(name, delay if name == "sbatch" else 0.0)

    def _write(self, name: str, delay: float) -> None:
        program = shutil.which(name)
        if program is None:
            return
        lines = ["#!/bin/sh", f"echo {name} >> {shlex.quote(str(self._calls))}"]
        lines += [f"sleep {delay:g}"] if delay else []
        wrapper = self.directory / name
        wrapper.write_text("\n".join([*lines, f'exec {shlex.quote(program)} "$@"', ""]), encoding="utf-8")
        wrapper.chmod(0o755)

    def count(self) -> Counter[str]:
        """Return how often each was called."""
        return Counter(self._calls.read_text(encoding="utf-8").split())
