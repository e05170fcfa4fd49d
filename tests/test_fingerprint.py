"""What counts as a change of a function or of its configuration, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clusterfutures.pipeline.fingerprint import changes, digest_of, parts_of
from tests.support import REPOSITORY

SOURCE = """
import math
LIMIT = 3
BAND = (0.5, ("low", 2.0))
OPEN = (0.5, [2.0])
UNUSED = 4
PATHS = [1]
class Window:
    length = 2
def helper(x):
    return x + LIMIT
def width():
    return BAND, OPEN
def unused(x):
    return x
def misfit(code, scale=1):
    # a comment
    inner = [helper(x) for x in range(2)]
    return math.sqrt(scale) + Window.length, width()
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """The parts of the function `misfit` of a module with this source."""
    numbers = iter(range(100))

    def load(source: str) -> dict[str, str]:
        path = tmp_path / f"source{next(numbers)}.py"
        path.write_text(source)
        module = ModuleType("program")
        exec(compile(source, str(path), "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, "program", module)
        monkeypatch.setattr(module, "__file__", str(path), raising=False)
        return parts_of(module.misfit, None, {})

    return load


class TestFunctions:
    """Its source, and what it uses of its own module."""

    def test_its_parts_have_names(self, parts: Callable[[str], dict[str, str]]) -> None:
        assert list(parts(SOURCE)) == [
            "the function",
            "program.Window",
            "program.helper",
            "program.width",
            "program.BAND",
            "program.LIMIT",
        ]

    @pytest.mark.parametrize(
        ("old", "new", "changed"),
        [
            ("# a comment", "# another comment", []),
            ("x + LIMIT", "(x  +  LIMIT)", []),
            ("UNUSED = 4", "UNUSED = 5", []),
            ("PATHS = [1]", "PATHS = [2]", []),
            ("def unused(x):\n    return x", "def unused(x):\n    return 2 * x", []),
            ("LIMIT = 3", "LIMIT = 3.0", ["program.LIMIT"]),
            ('("low", 2.0)', '("low", 3.0)', ["program.BAND"]),
            ("(0.5, [2.0])", "(0.5, [3.0])", []),  # a list may be a cache
            ("x + LIMIT", "x - LIMIT", ["program.helper"]),
            ("length = 2", "length = 3", ["program.Window"]),
            ("math.sqrt(scale)", "math.exp(scale)", ["the function"]),
            ("scale=1", "scale=2", ["the function"]),
        ],
    )
    def test_what_is_a_change(
        self, parts: Callable[[str], dict[str, str]], old: str, new: str, changed: list[str]
    ) -> None:
        assert old in SOURCE
        assert changes(parts(SOURCE), parts(SOURCE.replace(old, new))) == changed

    def test_what_comes_from_around_it(self) -> None:
        def make(offset: Any) -> Callable[[], Any]:
            return lambda: offset

        assert digest_of(make(1)) == digest_of(make(1)) != digest_of(make(2))

    def test_one_that_contains_itself(self) -> None:
        def recurse(n: int) -> int:
            return n and recurse(n - 1)

        assert digest_of(recurse) == digest_of(recurse)

    def test_what_is_called_in_other_ways(self) -> None:
        class Adder:
            def __init__(self, n: int) -> None:
                self.n = n

            def __call__(self, x: int) -> int:
                return x + self.n

            def add(self, x: int) -> int:
                return x + self.n

        for make in (Adder, lambda n: Adder(n).add, lambda n: partial(pow, n), lambda n: partial(pow, exp=n)):
            assert digest_of(make(1)) == digest_of(make(1)) != digest_of(make(2))
        assert digest_of(len) == digest_of(len) != digest_of(sum)
        assert list(parts_of(partial(Adder(1).add, 2), Adder(1), {})) == ["the function", "the set-up"]

    def test_without_source(self) -> None:
        one, same, other = (
            eval(f"lambda x: [x {sign} 1 for x in range(3)]")  # what is defined at a prompt, too
            for sign in "++-"
        )
        assert digest_of(one) == digest_of(same) != digest_of(other)


@dataclass
class Settings:
    """As configurations are."""

    low: float
    names: Any = None


class TestValues:
    """Equal ones have equal digests, in every process, and others do not."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (1, 1.0),
            (1, True),
            ("1", b"1"),
            ([1, [2], 3], [1, [2, 3]]),
            ([1, 2], (1, 2)),
            ([1, 2], [2, 1]),
            ({"a": 1}, {"a": 2}),
            ({"a": 1}, {"b": 1}),
            ({1, 2}, {1, 3}),
            (Settings(1.0), Settings(2.0)),
            (Settings(1.0, {"x"}), Settings(1.0, {"y"})),
            (np.zeros(3), np.ones(3)),
            (np.zeros(4), np.zeros((2, 2))),
            (np.zeros(1, "f8"), np.zeros(1, "i8")),
            (Path("a"), Path("b")),
            (SimpleNamespace(a=1), SimpleNamespace(a=2)),
            (int, float),
            ("\ud800", "\ud801"),
        ],
    )
    def test_what_differs(self, one: Any, other: Any) -> None:
        assert digest_of(one) != digest_of(other)

    def test_what_is_equal(self) -> None:
        word = "".join(["w", "ord"])  # another object than the constant
        same = ["word", "word"]
        assert digest_of([word, "word"]) == digest_of(same)
        assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
        assert digest_of([same, same]) == digest_of([same, ["word", "word"]])
        assert digest_of(np.arange(3)) == digest_of(np.arange(3))
        assert digest_of(Path("a")) == digest_of(Path("a"))

    def test_one_that_contains_itself(self) -> None:
        def circle(value: int) -> list[Any]:
            items: list[Any] = [value]
            items.append(items)
            return items

        assert digest_of(circle(1)) == digest_of(circle(1)) != digest_of(circle(2))

    def test_what_has_no_content(self) -> None:
        assert digest_of([threading.Lock(), 1]) == digest_of([threading.Lock(), 1])
        assert digest_of([threading.Lock(), 1]) != digest_of([threading.Lock(), 2])

    @pytest.mark.parametrize("seed", ["1", "2"])
    def test_in_another_process(self, seed: str) -> None:
        module = "from clusterfutures.pipeline.fingerprint import *"
        text = "{'b': {'x', 'y', 'z'}, 'a': (1, 2.5, None, frozenset('abc'))}"
        done = subprocess.run(
            [sys.executable, "-c", f"{module}; print(digest_of({text}))"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == digest_of(eval(text))


def test_changes_have_names() -> None:
    before = parts_of(len, None, {"a": 1, "b": 2})
    after = parts_of(len, abs, {"a": 1, "b": 3, "c": 4})
    assert changes(before, before) == []
    assert changes(before, after) == ["config['b']", "the set-up", "config['c']"]
