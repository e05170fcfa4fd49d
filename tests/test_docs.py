"""The programs in README.rst and docs/ do what they are shown for.

pytest itself runs the ``>>>`` examples (setup.cfg says where). Here run the whole programs: every
block of Python that is not such an example, as a script of its own. A block that cannot run here
says why in a comment above it: ``.. not run: needs a Slurm cluster``.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import REPOSITORY, run_script

PAGES = [REPOSITORY / "README.rst", *sorted((REPOSITORY / "docs").rglob("*.rst"))]


class Block(NamedTuple):
    """A block of Python in a page: the page, its line there, its text."""

    page: Path
    line: int
    text: str

    @property
    def label(self) -> str:
        """What pytest calls it."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The Python programs in a page, without those that a comment exempts with a reason."""
    found = []
    source = page.read_text(encoding="utf-8")
    pattern = r"(?m)^(\.\. not run: \S.*\n\n)?\.\. code-block:: python\n((?:[ ]+\S.*\n|\n)+)"
    for match in re.finditer(pattern, source):
        text = textwrap.dedent(re.sub(r"(?m)^ +:[a-z-]+:.*\n", "", match[2])).strip("\n")
        if not match[1] and ">>>" not in text:
            found.append(Block(page, source.count("\n", 0, match.start()) + 1, text + "\n"))
    return found


PROGRAMS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.label)
def test_program_in_the_documentation(block: Block, tmp_path: Path) -> None:
    done = run_script(block.text, tmp_path).check()
    assert done.stdout.strip(), "a program that is shown should print something"


def test_programs_are_found() -> None:
    assert {block.page.name for block in PROGRAMS} >= {"README.rst", "quickstart.rst"}


def test_block_is_exempted_only_with_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(
        ".. not run: needs a cluster\n\n.. code-block:: python\n\n   a = 1\n\n"
        ".. not run:\n\n.. code-block:: python\n   :name: n\n\n   b = 2\n\n   c = 3\n\ntext\n"
    )
    assert [(block.line, block.text) for block in blocks(page)] == [(9, "b = 2\n\nc = 3\n")]
