"""The table of PBS's words in the page on options, held against the code."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest

from clusterfutures.errors import OptionError
from clusterfutures.resources import OPTIONS, check_resources
from clusterfutures.schedulers.pbs_dialect import CARRIED, Dialect
from clusterfutures.schedulers.pbs_openpbs import OpenPbs
from clusterfutures.schedulers.pbs_over_slurm import TorqueOverSlurm
from clusterfutures.schedulers.pbs_torque import Torque
from tests.support import REPOSITORY

PAGE = (REPOSITORY / "docs" / "options.rst").read_text(encoding="utf-8")
DIALECTS = (Torque(), OpenPbs(), TorqueOverSlurm())
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match("   ``[a-z_]+=.* [|] ", line)]


def literal(cell: str) -> str:
    found = re.fullmatch("``(.*)``", cell.strip())
    assert found is not None, cell
    return found[1]


def given(text: str) -> dict[str, Any]:
    """The options of a call, as they stand between its parentheses."""
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    return {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}


def words(dialect: Dialect, text: str) -> str:
    return " ".join(dialect.options(check_resources(given(text))))


def test_each_option_has_a_row() -> None:
    assert [next(iter(given(literal(row[0])))) for row in ROWS] == list(OPTIONS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: next(iter(given(literal(row[0])))))
def test_each_becomes_what_the_table_says(row: list[str]) -> None:
    option, *of_each = row
    text = literal(option)
    assert len(of_each) == len(DIALECTS)
    for dialect, cell in zip(DIALECTS, of_each):
        if next(iter(given(text))) in CARRIED:
            assert words(dialect, text) == "", "its words come from elsewhere"
        elif cell == "refused":
            with pytest.raises(OptionError, match=next(iter(given(text)))):
                words(dialect, text)
        else:
            assert words(dialect, text) == literal(cell)


def test_the_name_is_one_of_their_own_words() -> None:
    (row,) = [row for row in ROWS if row[0].startswith("   ``name=")]
    for dialect, cell in zip(DIALECTS, row[1:]):
        assert " ".join(dialect.own_words(given(literal(row[0]))["name"], "")[:2]) == literal(cell)


def test_the_example_of_several() -> None:
    found = re.search("``(cores=[^`]*)`` is\n``([^`]*)`` for OpenPBS", PAGE)
    assert found is not None
    assert words(OpenPbs(), found[1]) == found[2]
