"""What executors accept, and in which words they refuse the rest."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clusterfutures.errors import OptionError
from clusterfutures.options import (
    EXECUTOR_OPTIONS,
    TASK_OPTIONS,
    ExecutorOptions,
    check_executor,
    task_option,
)


def check(**options: Any) -> ExecutorOptions:
    return check_executor(options, 1, None)


def test_defaults() -> None:
    assert check() == ExecutorOptions(
        max_workers=1,
        max_tasks_per_child=None,
        run_dir=None,
        keep="failed",
        python=None,
        setup=[],
        env={},
        cwd=None,
        doorbell=True,
        orphan="drain",
        orphan_timeout=None,
        resources={},
        arrays=True,
        host=None,
        idle_timeout=None,
        workers_per_job=1,
        job_per_task=False,
        max_queued=math.inf,
    )


def test_none_is_the_default_of_whatever_has_none() -> None:
    nothing = ["cwd", "env", "max_tasks_per_child", "orphan_timeout", "python", "run_dir", "setup"]
    assert check(**dict.fromkeys(nothing)) == check()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("max_tasks_per_child", 1, 1),
        ("max_tasks_per_child", np.int64(7), 7),
        ("run_dir", "a b", "a b"),
        ("run_dir", Path("x/y"), "x/y"),
        ("keep", "never", "never"),
        ("python", "python3.11", ["python3.11"]),
        ("python", "apptainer exec 'my image.sif' python3", ["apptainer", "exec", "my image.sif", "python3"]),
        ("python", ["a b", Path("c d")], ["a b", "c d"]),
        ("python", Path("/opt/my env/bin/python"), ["/opt/my env/bin/python"]),
        ("setup", "module load x", ["module load x"]),
        ("setup", ("a", "b\nc"), ["a", "b\nc"]),
        ("env", {"A": "1", "B": None, "C D": ""}, {"A": "1", "B": None, "C D": ""}),
        ("cwd", Path("/"), "/"),
        ("doorbell", False, False),
        ("orphan", "kill", "kill"),
        ("orphan_timeout", 5, 5.0),
        ("orphan_timeout", 0.5, 0.5),
        ("orphan_timeout", np.float32(2), 2.0),
        ("orphan_timeout", timedelta(minutes=2), 120.0),
    ],
)
def test_accepted(name: str, given: Any, expected: Any) -> None:
    found = getattr(check(**{name: given}), name)
    assert found == expected
    assert type(found) is type(expected)


WORD = "must be a command"
REFUSED = [
    ("cwd", "", "must not be empty"),
    ("cwd", 5, "must be a path"),
    ("cwd", b"/tmp", "must be a path of text"),
    ("run_dir", "", "must not be empty"),
    ("run_dir", "a\0b", "must be a path of text"),
    ("run_dir", ["x"], "must be a path"),
    ("doorbell", "no", "must be True or False"),
    ("doorbell", 1, "must be True or False"),
    ("doorbell", None, "must be True or False"),
    ("env", ["A=1"], "must map names to values"),
    ("env", {"": "x"}, "cannot be the name"),
    ("env", {"A=B": "x"}, "cannot be the name"),
    ("env", {"A\0": "x"}, "cannot be the name"),
    ("env", {1: "x"}, "cannot be the name"),
    ("env", {"A": 1}, "must be text or None"),
    ("env", {"A": "x\0"}, "must be text or None"),
    ("keep", "sometimes", "must be one of 'failed', 'always', 'never'"),
    ("keep", True, "must be one of"),
    ("keep", None, "must be one of"),
    ("orphan", "Drain", "must be one of 'drain', 'kill', 'keep'"),
    ("orphan", [], "must be one of"),
    ("orphan_timeout", 0, "seconds above 0"),
    ("orphan_timeout", -1, "seconds above 0"),
    ("orphan_timeout", float("nan"), "seconds above 0"),
    ("orphan_timeout", float("inf"), "seconds above 0"),
    ("orphan_timeout", "30", "seconds above 0"),
    ("orphan_timeout", True, "seconds above 0"),
    ("orphan_timeout", timedelta(0), "seconds above 0"),
    ("python", "", WORD),
    ("python", [], WORD),
    ("python", "python 'unfinished", WORD),
    ("python", 3.11, WORD),
    ("python", [1], WORD),
    ("python", [b"python"], WORD),
    ("python", "py\0thon", WORD),
    ("python", [""], WORD),
    ("setup", 5, "must be shell lines"),
    ("setup", b"module load x", "must be shell lines"),
    ("setup", ["a", None], "must be shell lines"),
    ("setup", "a\0", "must be shell lines"),
]


@pytest.mark.parametrize(("name", "given", "words"), REFUSED)
def test_refused(name: str, given: Any, words: str) -> None:
    """The message names the option, what it must be, and, where it can, what was given."""
    with pytest.raises(OptionError) as caught:
        check(**{name: given})
    text = str(caught.value)
    assert name in text
    assert words in text
    assert isinstance(caught.value, ValueError)


def test_every_option_is_refused_by_some_test() -> None:
    others = {"retries", "timeout", "max_tasks_per_child"}
    assert {name for name, _, _ in REFUSED} | others == set(EXECUTOR_OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("retrys", "retries"), ("setp", "setup"), ("orphan_timout", "orphan_timeout"), ("rundir", "run_dir")],
)
def test_a_near_miss_is_told(wrong: str, right: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{wrong}'; did you mean '{right}'"):
        check(**{wrong: 1})


def test_what_is_nowhere_near_is_answered_with_the_list() -> None:
    with pytest.raises(OptionError) as caught:
        check(zzz=1)
    assert all(name in str(caught.value) for name in EXECUTOR_OPTIONS)


def test_an_unknown_option_goes_before_a_wrong_one() -> None:
    with pytest.raises(OptionError, match="unknown option 'kep'"):
        check(keep="sometimes", kep=1)


@pytest.mark.parametrize("value", ["2", 2.0, None, True, [1]])
@pytest.mark.parametrize("name", ["max_workers", "max_tasks_per_child"])
def test_counts_that_are_no_integers(name: str, value: Any) -> None:
    if name == "max_tasks_per_child" and value is None:
        return
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        count(name, value)


def count(name: str, value: Any) -> int | None:
    if name == "max_workers":
        return check_executor({}, value, None).max_workers
    return check(max_tasks_per_child=value).max_tasks_per_child


@pytest.mark.parametrize("value", [0, -1, np.int32(0)])
@pytest.mark.parametrize("name", ["max_workers", "max_tasks_per_child"])
def test_counts_that_are_too_small(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        count(name, value)


def test_counts_of_numpy_become_python_integers() -> None:
    for name in ("max_workers", "max_tasks_per_child"):
        assert type(count(name, np.uint8(3))) is int


def test_the_initializer_must_be_callable() -> None:
    check_executor({}, 1, print)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        check_executor({}, 1, "print")


def test_the_callers_environment_is_not_kept() -> None:
    given = {"A": "1"}
    found = check(env=given).env
    given["A"] = "2"
    assert found == {"A": "1"}


# ---- options of single tasks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("retries", None, 0),
        ("retries", 0, 0),
        ("retries", 3, 3),
        ("retries", np.int8(3), 3),
        ("timeout", None, 0.0),
        ("timeout", 2, 2.0),
        ("timeout", np.int64(2), 2.0),
        ("timeout", timedelta(milliseconds=1), 0.001),
    ],
)
def test_task_options(name: str, given: Any, expected: float) -> None:
    assert name in TASK_OPTIONS
    assert task_option(name, given) == expected


@pytest.mark.parametrize("value", [-1, 1.5, "1", True, []])
def test_wrong_retries(value: Any) -> None:
    with pytest.raises(OptionError, match="retries must be"):
        task_option("retries", value)


@pytest.mark.parametrize("value", [0, -1, float("nan"), "1 h", True, timedelta(-1)])
def test_wrong_timeouts(value: Any) -> None:
    with pytest.raises(OptionError, match="timeout must be a number of seconds above 0"):
        task_option("timeout", value)


def test_paths_are_taken_as_they_are() -> None:
    assert check(run_dir="~/$HOME").run_dir == "~/$HOME"
    assert check(cwd=os.curdir).cwd == os.curdir
