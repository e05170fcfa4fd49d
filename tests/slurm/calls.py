"""What is asked of Slurm: commands on PATH that write down how they were called, and then do it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("sbatch", "squeue", "scancel", "sacct", "scontrol")

_WORD, _CALL = "\x1f", "\x1e"  # what ends a word, and a call

_SCRIPT = """\
#!/bin/sh
printf '%s\\037' {program} "$@" '\x1e' >>{log}
{real} "$@"
code=$?
while [ -e {held} ]; do sleep 0.05; done
exit $code
"""


class Calls:
    """Every call of one of PROGRAMS from where `path` is PATH: by drivers, and by jobs that they submit."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "calls"
        self.path = f"{directory}:{os.environ['PATH']}"
        for program in PROGRAMS:
            wrapper = directory / program
            paths = {"log": self._log, "held": self._held(program), "real": shutil.which(program)}
            quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
            text = _SCRIPT.format(program=program, **quoted)
            wrapper.write_text(text, encoding="utf-8")
            wrapper.chmod(0o755)

    @contextmanager
    def held(self, program: str) -> Iterator[None]:
        """Within this, the command does its work, but ends when this has ended."""
        self._held(program).touch()
        try:
            yield
        finally:
            self._held(program).unlink()

    def _held(self, program: str) -> Path:
        return self._log.with_name(f"{program}.held")

    def of(self, program: str) -> list[list[str]]:
        """The words of each call of `program` so far, without its name."""
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        calls = [call.split(_WORD)[:-1] for call in text.split(_CALL + _WORD)]
        return [words for name, *words in filter(None, calls) if name == program]

    def count(self, program: str) -> int:
        """How often it was called."""
        return len(self.of(program))

    def arrays(self) -> list[int]:
        """How many elements each submitted job had."""
        return [_elements(words) for words in self.of("sbatch")]


def _elements(words: list[str]) -> int:
    for word in words:
        if word.startswith("--array=0-"):
            return int(word[len("--array=0-") :].partition("%")[0]) + 1
    return 1
