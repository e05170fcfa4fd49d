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
    CLUSTER_OPTIONS,
    CONTRACT,
    EXECUTOR_OPTIONS,
    IDLE_TIMEOUT,
    TASK_OPTIONS,
    ExecutorOptions,
    check_executor,
    check_initargs,
    job_options,
    patience,
    task_option,
    task_options,
)
from clusterfutures.resources import known_names
from clusterfutures.retries import Retries
from clusterfutures.specification import SLOTS


def check(**options: Any) -> ExecutorOptions:
    return check_executor(options, 1, None)


def check_cluster(**options: Any) -> ExecutorOptions:
    return check_executor(options, 1, None, cluster=True)


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


@pytest.mark.parametrize("value", [(), [], ("a",), ["a"], iter(["a"])], ids=repr)
def test_initargs(value: Any) -> None:
    assert check_initargs(value) in [(), ("a",)]


@pytest.mark.parametrize("value", [3, None, "ab", b"ab"])
def test_initargs_that_are_no_arguments(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^initargs must be a tuple of arguments, not {value!r}$"):
        check_initargs(value)


def test_the_callers_environment_is_not_kept() -> None:
    given = {"A": "1"}
    found = check(env=given).env
    given["A"] = "2"
    assert found == {"A": "1"}


# ---- options of clusters ------------------------------------------------------------------------


def test_defaults_of_a_cluster() -> None:
    assert check_cluster() == check()._replace(idle_timeout=IDLE_TIMEOUT)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("arrays", False, False),
        ("host", "login-3.cluster", "login-3.cluster"),
        ("host", "10.0.0.1", "10.0.0.1"),
        ("host", None, None),
        ("idle_timeout", 5, 5.0),
        ("idle_timeout", timedelta(minutes=2), 120.0),
        ("idle_timeout", None, None),
        ("job_per_task", True, True),
        ("max_queued", None, math.inf),
        ("workers_per_job", 16, 16),
        ("workers_per_job", np.int64(7), 7),
        ("workers_per_job", SLOTS, SLOTS),
    ],
)
def test_accepted_for_a_cluster(name: str, given: Any, expected: Any) -> None:
    found = getattr(check_cluster(**{name: given}), name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("given", [1, np.int16(300)])
def test_how_many_may_be_queued(given: Any) -> None:
    assert check_cluster(job_per_task=True, max_queued=given).max_queued == given


REFUSED_FOR_A_CLUSTER = [
    ("arrays", "no", "True or False"),
    ("arrays", None, "True or False"),
    ("host", "", "a name or an address"),
    ("host", 5, "a name or an address"),
    ("host", "a\nb", "a name or an address"),
    ("host", "a b", "a name or an address"),
    ("idle_timeout", 0, "seconds above 0"),
    ("idle_timeout", "5m", "seconds above 0"),
    ("job_per_task", 1, "True or False"),
    ("max_queued", 0, "greater than 0"),
    ("max_queued", "many", "an integer"),
    ("workers_per_job", 0, "greater than 0"),
    ("workers_per_job", "4", "an integer"),
    ("workers_per_job", 1.5, "an integer"),
    ("workers_per_job", True, "an integer"),
    ("workers_per_job", SLOTS + 1, f"at most {SLOTS}"),
]


@pytest.mark.parametrize(("name", "given", "words"), REFUSED_FOR_A_CLUSTER)
def test_refused_for_a_cluster(name: str, given: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{name} must be .*{words}"):
        check_cluster(**{name: given})


def test_every_option_of_a_cluster_is_refused_by_some_test() -> None:
    assert {name for name, _, _ in REFUSED_FOR_A_CLUSTER} == set(CLUSTER_OPTIONS)


def test_what_describes_a_job_is_checked_as_well() -> None:
    found = check_cluster(time="1h", mem="2G", cpus_per_task=4, setup="true")
    assert found.resources == {"time": 3600, "mem": 2 << 30, "cores": 4}
    assert found.setup == ["true"]
    with pytest.raises(OptionError, match=r"^mem must be"):
        check_cluster(mem="much")


@pytest.mark.parametrize(
    ("wrong", "right"), [("partitoin", "partition"), ("idle_timout", "idle_timeout"), ("kep", "keep")]
)
def test_a_near_miss_is_told_of_all_options_of_a_cluster(wrong: str, right: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{wrong}'; did you mean '{right}'"):
        check_cluster(**{wrong: 1})


@pytest.mark.parametrize("name", [*CLUSTER_OPTIONS, "partition", "mem"])
def test_one_machine_has_no_options_of_clusters(name: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{name}': it describes jobs on a cluster"):
        check(**{name: 1})


@pytest.mark.parametrize("name", ["time", "walltime", "cores", "job_name"])
def test_what_describes_jobs_is_not_taken_for_another_option(name: str) -> None:
    for refuse in (check, lambda **options: job_options(options, cluster=False)):
        with pytest.raises(OptionError, match=r"SlurmExecutor .* get_executor") as caught:
            refuse(**{name: "2h"})
        assert "did you mean" not in str(caught.value)


def test_names_mean_one_thing() -> None:
    assert not set(known_names()) & {*EXECUTOR_OPTIONS, *CLUSTER_OPTIONS}


def test_other_names_that_slurm_has() -> None:
    assert check_cluster(export={"A": "1"}, workdir="/") == check_cluster(env={"A": "1"}, cwd="/")


@pytest.mark.parametrize("names", [("export", "env"), ("env", "export")])
def test_one_option_by_two_names(names: tuple[str, str]) -> None:
    first, second = names
    with pytest.raises(OptionError, match="are the same option") as caught:
        check_cluster(**{first: {}, second: {}})
    assert "export" in str(caught.value)
    assert "env" in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"job_per_task": True, "workers_per_job": 2}, {"max_queued": 5}], ids="+".join
)
def test_options_that_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="job_per_task") as caught:
        check_cluster(**options)
    assert all(name in str(caught.value) for name in options)


# ---- options of single tasks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("retries", None, Retries(0)),
        ("retries", 0, Retries(0)),
        ("retries", 3, Retries(3)),
        ("retries", np.int8(3), Retries(3)),
        ("retries", Retries(3, delay=1), Retries(3, delay=1)),
        ("timeout", None, 0.0),
        ("timeout", 2, 2.0),
        ("timeout", np.int64(2), 2.0),
        ("timeout", timedelta(milliseconds=1), 0.001),
    ],
)
def test_task_options(name: str, given: Any, expected: object) -> None:
    assert name in TASK_OPTIONS
    assert task_option(name, given) == expected


def test_options_of_tasks() -> None:
    given = {"retries": 2, "timeout": timedelta(minutes=1), "mem": "2G", "walltime": "1h"}
    assert task_options(given) == {"retries": Retries(2), "timeout": 60.0}
    assert job_options(given, cluster=True) == {"mem": 2 << 30, "time": 3600}
    assert task_options({}) == job_options({}, cluster=False) == {}


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize(
    "name", sorted({*EXECUTOR_OPTIONS, *CONTRACT, "export", "workdir"} - {*TASK_OPTIONS})
)
def test_options_of_the_executor_are_none_of_single_tasks(name: str, cluster: bool) -> None:
    with pytest.raises(OptionError, match=f"^{name} is an option of the executor, not of single tasks$"):
        job_options({name: 1}, cluster)


@pytest.mark.parametrize("name", CLUSTER_OPTIONS)
def test_nor_are_those_of_a_cluster(name: str) -> None:
    with pytest.raises(OptionError, match=f"^{name} is an option of the executor"):
        job_options({name: 1}, cluster=True)


@pytest.mark.parametrize(("wrong", "right"), [("retrys", "retries"), ("walltim", "walltime")])
def test_a_near_miss_is_told_of_all_options_of_tasks(wrong: str, right: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{wrong}'; did you mean '{right}'"):
        job_options({wrong: 1}, cluster=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (0, 0.0), (-1, -1.0), (np.float32(0.5), 0.5)],
)
def test_patience(given: Any, expected: float | None) -> None:
    assert patience("timeout", given) == expected


@pytest.mark.parametrize("value", ["3", True, [3], 1j, timedelta(1)])
def test_patience_of_the_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^timeout must be a number of seconds or None, not "):
        patience("timeout", value)


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
