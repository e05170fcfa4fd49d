"""The options of a job: what is read, in which form it comes out, and in which words the rest is refused."""

from __future__ import annotations

import ast
import math
import re
import signal
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfutures.errors import OptionError
from clusterfutures.options import EXECUTOR_OPTIONS
from clusterfutures.resources import (
    ELSEWHERE,
    GROUPS,
    MAIL,
    OPTIONS,
    check_resources,
    describe,
    format_mem,
    format_time,
    known_names,
)
from tests.support import REPOSITORY

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
HOUR, DAY = 3600, 86400


def check(name: str, value: Any) -> Any:
    """The normal form of one option, given by its neutral name."""
    return check_resources({name: value})[name]


def refusal(**options: Any) -> str:
    """The message with which `options` are refused."""
    with pytest.raises(OptionError) as caught:
        check_resources(options)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# ---- what is taken ------------------------------------------------------------------------------

TAKEN: list[tuple[str, Any, Any]] = [
    ("name", "misfit", "misfit"),
    ("name", " a 'b' \"c\" $d\n\té 日本 ", " a 'b' \"c\" $d\n\té 日本 "),
    ("comment", "-- `x` \\", "-- `x` \\"),
    ("comment", "byte \udcff of an argument", "byte \udcff of an argument"),
    ("partition", "day", "day"),
    ("partition", ["day", "night"], "day,night"),
    ("account", "seismo", "seismo"),
    ("qos", "long", "long"),
    ("reservation", ("a", "b"), "a,b"),
    ("cluster", "all", "all"),
    ("time", "2h", 2 * HOUR),
    ("mem", "8G", 8 * GIB),
    ("mem_per_cpu", "2G", 2 * GIB),
    ("cores", 4, 4),
    ("cores", "16", 16),
    ("cores", np.int64(4), 4),
    ("nodes", 2, 2),
    ("nodes", "2", 2),
    ("nodes", "2-4", "2-4"),
    ("nodes", "02-04", "2-4"),
    ("nodes", "3-3", "3-3"),
    ("tasks", 1, 1),
    ("tasks_per_node", np.uint8(8), 8),
    ("gpus", 2, 2),
    ("gpus", "2", 2),
    ("gpus", "a100:2", "a100:2"),
    ("gpus", "1g.5gb-x_2:12", "1g.5gb-x_2:12"),
    ("gres", "gpu:a100:2", "gpu:a100:2"),
    ("gres", ["nvme:1", "mps:50"], "nvme:1,mps:50"),
    ("licenses", ["matlab:1", "comsol"], "matlab:1,comsol"),
    ("features", "[ib|opa]&avx512*2", "[ib|opa]&avx512*2"),
    ("nodelist", "n[1-3,7]", "n[1-3,7]"),
    ("nodelist", (name for name in ("n1", "n2")), "n1,n2"),
    ("exclude", ["n1", "n2"], "n1,n2"),
    ("exclude", np.array(["n1", "n2"]), "n1,n2"),
    ("exclusive", True, True),
    ("exclusive", False, False),
    ("exclusive", "user", "user"),
    ("exclusive", "mcs", "mcs"),
    ("begin", "now+1hour", "now+1hour"),
    ("begin", "16:00", "16:00"),
    ("begin", datetime(2026, 11, 21, 13, 30, 5, 999999), "2026-11-21T13:30:05"),
    ("depends", 12, "afterok:12"),
    ("depends", "12", "afterok:12"),
    ("depends", np.int64(12), "afterok:12"),
    ("depends", ["12", 13], "afterok:12:13"),
    ("depends", "12_3", "afterok:12_3"),
    ("depends", "12_3;far", "afterok:12_3"),
    ("depends", ["12.srv", "12[].srv-1.edu", "12[3].srv"], "afterok:12.srv:12[].srv-1.edu:12[3].srv"),
    ("depends", "afterok:20:21?afterany:23", "afterok:20:21?afterany:23"),
    ("depends", "after:5+10", "after:5+10"),
    ("depends", "singleton", "singleton"),
    ("depends", "singleton,afterok:1", "singleton,afterok:1"),
    ("nice", 100, 100),
    ("nice", -100, -100),
    ("nice", "-100", -100),
    ("nice", 0, 0),
    ("priority", 500, 500),
    ("signal", "USR1@120", "USR1@120"),
    ("signal", "USR1", "USR1"),
    ("signal", "sigusr1@0", "USR1@0"),
    ("signal", "B:TERM@30", "TERM@30"),
    ("signal", ("USR1", 120), "USR1@120"),
    ("signal", ["SIGUSR2", "65535"], "USR2@65535"),
    ("signal", (signal.SIGUSR1, 120), "USR1@120"),
    ("signal", signal.SIGUSR2, "USR2"),
    ("signal", int(signal.SIGUSR2), "USR2"),
    ("signal", f"{int(signal.SIGUSR2)}@9", "USR2@9"),
    ("hold", True, True),
    ("hold", False, False),
    ("requeue", True, True),
    ("requeue", False, False),
    ("mail", "END,FAIL", "END,FAIL"),
    ("mail", "end, fail", "END,FAIL"),
    ("mail", ["end", "TIME_LIMIT_90"], "END,TIME_LIMIT_90"),
    ("mail", list(MAIL), ",".join(MAIL)),
    ("mail_user", "ada@example.org", "ada@example.org"),
    ("modules", "gcc/12", ("gcc/12",)),
    ("modules", " gcc/12  openmpi ", ("gcc/12", "openmpi")),
    ("modules", ["gcc/12", "-intel"], ("gcc/12", "-intel")),
    ("stdout", "logs/%j.out", "logs/%j.out"),
    ("stdout", Path("logs") / "a b", "logs/a b"),
    ("stderr", "a\nb", "a\nb"),
    ("extra", ["--switches=1"], ("--switches=1",)),
    ("extra", "-H --wckey='a b'", ("-H", "--wckey=a b")),
    ("extra", ("-lselect=1:ncpus=4", "--comment=a\nb"), ("-lselect=1:ncpus=4", "--comment=a\nb")),
]


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_taken(name: str, value: Any, expected: Any) -> None:
    found = check(name, value)
    assert found == expected
    assert type(found) is type(expected)  # a plain int, even of numpy's


def test_every_option_is_taken_by_some_test() -> None:
    assert {name for name, _, _ in TAKEN} == set(OPTIONS)


def test_a_datetime_with_a_zone_is_told_in_local_time() -> None:
    moment = datetime(2026, 11, 21, 13, 30, tzinfo=timezone(timedelta(hours=5)))
    told = datetime.fromisoformat(check("begin", moment))
    assert told.tzinfo is None
    assert told.timestamp() == moment.timestamp()


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_synonyms_give_the_neutral_name(option: Any) -> None:
    value = ast.literal_eval(option.example)
    expected = check_resources({option.name: value})
    assert list(expected) == [option.name], "the example of an option must be a value of it"
    for synonym in option.synonyms:
        assert check_resources({synonym: value}) == expected


def test_only_what_was_set_comes_out_and_in_the_order_of_the_table() -> None:
    unset: dict[str, Any] = {"exclude": [], "modules": (), "gres": set(), "gpus": None}
    found = check_resources({"walltime": "1h", **unset, "queue": "day", "cores": 2})
    assert list(found.items()) == [("partition", "day"), ("time", HOUR), ("cores", 2)]
    assert check_resources({}) == {}


# ---- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30:00", 1800),
        ("90:00", 5400),
        ("0:45", 45),
        ("2:00:00", 2 * HOUR),
        ("100:00:00", 100 * HOUR),
        ("1-12", DAY + 12 * HOUR),
        ("1-0", DAY),
        ("0-2", 2 * HOUR),
        ("1-12:30", DAY + 12 * HOUR + 1800),
        ("1-12:30:15", DAY + 12 * HOUR + 1815),
        ("90m", 5400),
        ("2h", 2 * HOUR),
        ("1d12h", DAY + 12 * HOUR),
        ("45s", 45),
        ("1d 2h 3m 4s", DAY + 2 * HOUR + 184),
        (" 1.5 h ", 5400),
        ("0.1s", 1),
        ("2.5s", 3),
        ("0d1h", HOUR),
        (timedelta(hours=2), 2 * HOUR),
        (timedelta(microseconds=1), 1),
        (timedelta(seconds=59, microseconds=1), 60),
        (timedelta(days=400), 400 * DAY),
    ],
)
def test_times(value: Any, seconds: int) -> None:
    assert check("time", value) == seconds


@pytest.mark.parametrize("value", [30, "30", " 30 ", 30.0, "1.5", 0, np.int64(30), Fraction(30)])
def test_a_bare_number_is_no_time(value: Any) -> None:
    """PBS and Slurm would read different times from it."""
    text = refusal(walltime=value)
    bare = str(value).strip()
    assert f"{bare} what?" in text
    assert f"'{bare}m' for minutes" in text and f"'{bare}s' for seconds" in text


NO_TIME: tuple[Any, ...] = (
    *("", " ", "soon", "h", "2x", "2h1d", "2h2h", "-2h", "+2h", "2H", "90M", "1e3s", "1,5h", "٣h", "²h"),
    *("1:2:3:4", "1-", "-1", "1-2-3", "1:", ":30", "1:-5", "1.5:00", "1:60", "1:75:00", "1:00:60", "1-24"),
    *("1-12:60", "0s", "0:00", "0-0", "2h\0", "9" * 5000 + "h", "UNLIMITED", "INFINITE"),
    *(timedelta(0), timedelta(-1), True, float("nan"), float("inf"), -30, b"2h", ["2h"]),
)


@given(st.integers(1, 10**8))
def test_times_come_back_as_they_were_written(seconds: int) -> None:
    assert check("time", format_time(seconds)) == seconds


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=10**6)))
def test_a_time_is_never_cut_and_gains_less_than_a_second(span: timedelta) -> None:
    found = timedelta(seconds=check("time", span))
    assert span <= found < span + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "00:00:01"), (3599, "00:59:59"), (7200, "02:00:00"), (DAY, "1-00:00:00"), (131400, "1-12:30:00")],
)
def test_a_time_is_written_as_slurm_does(seconds: int, text: str) -> None:
    assert format_time(seconds) == text


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("8G", 8 * GIB),
        ("500M", 500 * MIB),
        ("1.5T", 3 * TIB // 2),
        ("8GB", 8 * GIB),
        ("8GiB", 8 * GIB),
        ("2g", 2 * GIB),
        ("2gb", 2 * GIB),
        ("100 KiB", 100 * KIB),
        (" 1k ", KIB),
        ("0.1K", 103),
        ("0.3G", math.ceil(Fraction(3, 10) * GIB)),
    ],
)
def test_memory(value: str, size: int) -> None:
    assert check("mem", value) == size
    assert check("mem_per_cpu", value) == size


@pytest.mark.parametrize("value", [8, "8", " 8 ", 8.0, "1.5", 0, 2**33, np.int64(8)])
def test_a_bare_number_is_no_amount_of_memory(value: Any) -> None:
    text = refusal(memory=value)
    bare = str(value).strip()
    assert f"{bare} what?" in text
    assert f"'{bare}G' for gigabytes" in text
    assert f"'{bare}M' for megabytes, as Slurm" in text


NO_MEMORY: tuple[Any, ...] = (
    *("", " ", "much", "G", "8P", "8B", "8iB", "8Gib!", "8GG", "8G 8M", "-8G", "+8G", "0G", "0.0M", "1e3M"),
    *("1,5G", "٣G", "8\N{KELVIN SIGN}", "8G\0", "9" * 5000 + "G"),
    *(True, -8, float("nan"), timedelta(1), b"8G", ["8G"]),
)


@given(st.integers(1, 2**60))
def test_memory_comes_back_as_written_or_rounded_up_to_a_kilobyte(size: int) -> None:
    found = check("mem", format_mem(size))
    assert size <= found < size + KIB
    assert found % KIB == 0


@given(st.integers(1, 2**60))
def test_memory_is_written_in_the_largest_unit_that_it_fills(size: int) -> None:
    written = re.fullmatch(r"([1-9][0-9]*)([KMGT])", format_mem(size))
    assert written
    assert written[2] == "T" or int(written[1]) % 1024


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1K"), (KIB, "1K"), (KIB + 1, "2K"), (500 * MIB, "500M"), (3 * GIB // 2, "1536M"), (2**51, "2048T")],
)
def test_memory_is_written_as_slurm_takes_it(size: int, text: str) -> None:
    assert format_mem(size) == text


# ---- what is refused ----------------------------------------------------------------------------

NO_TEXT: tuple[Any, ...] = ("", "a\0b", "\ud800", b"a", 5, True, {"a": 1})
NO_LINE = (*NO_TEXT, "a\nb", "a\x1bb")
NO_NAMES = (*NO_LINE, [""], ["a", None], [["a"]], iter(()))
NO_INTEGER: tuple[Any, ...] = ("", "two", "²", "2.0", "9" * 5000, 2.0, True, [2])
NO_COUNT = (*NO_INTEGER, 0, -1, "0", "-1")

REFUSED: dict[str, tuple[Any, ...]] = {
    "name": NO_TEXT,
    "partition": NO_NAMES,
    "account": NO_LINE,
    "qos": NO_LINE,
    "reservation": NO_NAMES,
    "cluster": NO_NAMES,
    "comment": NO_TEXT,
    "time": NO_TIME,
    "cores": NO_COUNT,
    "mem": NO_MEMORY,
    "mem_per_cpu": NO_MEMORY,
    "nodes": (*NO_COUNT, "4-2", "0-2", "2-", "-2", "1-2-3", "2 - 4", (2, 4)),
    "tasks": NO_COUNT,
    "tasks_per_node": NO_COUNT,
    "gpus": (*NO_COUNT, "a100", "a100:0", "a100:", ":2", "a 100:2", "a100:2,v100:1", "a100=2", "a:b:2"),
    "gres": NO_NAMES,
    "licenses": NO_NAMES,
    "features": NO_LINE,
    "nodelist": NO_NAMES,
    "exclude": NO_NAMES,
    "exclusive": ("users", "True", 1, 0, ""),
    "begin": (*NO_LINE, timedelta(hours=1), datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))),
    "hold": ("yes", 1, 0, ""),
    "depends": (
        *("", "soon", "a:", "afterok: 1", "afterok:1\n", "1 2", ";far", "1_", "1[a]", -1, 1.5, True, b"1"),
        *(["afterok:1"], [None], iter(()), {"1": 2}),
    ),
    "nice": NO_INTEGER,
    "priority": (*NO_INTEGER, "TOP"),
    "signal": (
        *("", "@", "USR1@", "@120", "USR9@120", "R:USR1@120", "USR1@-1", "USR1@65536", "USR1@1@2", "USR1@2m"),
        *(("USR1", 1, 2), ("USR1", None), ("USR1", 1.5), iter(()), 0, 9999, True, 1.5, b"\n", {"USR1": 2}),
    ),
    "requeue": ("yes", 1, 0, ""),
    "mail": ("", "FINISH", ["END", ""], "END;FAIL", True, 5),
    "mail_user": NO_LINE,
    "modules": ("", "  ", ["gcc openmpi"], [""], ["a\n"], "a\0", 5, [5], {"gcc": 12}, iter(())),
    "stdout": NO_TEXT,
    "stderr": NO_TEXT,
    "extra": (
        *("", "switches=1", "--a 1", "--a='b", ["--a", "1"], ["-"], ["--"], ["---a"], ["--a\0"]),
        *(["--a=\ud800"], [5], 5, {"--a": 1}, iter(())),
    ),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_refused(name: str, value: Any) -> None:
    """Every refusal names the option, shows the value, and how to write one."""
    text = refusal(**{name: value})
    assert text.startswith(f"{name} must be ")
    assert repr(value) in text
    assert f"as in {name}={OPTIONS[name].example}" in text


def test_every_option_is_refused_by_some_test() -> None:
    assert set(REFUSED) == set(OPTIONS)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("name", "a\0", "NUL"),
        ("name", "\ud800", "surrogates not allowed"),
        ("queue", "a\nb", "line end"),
        ("time", "1:75:00", "the 75 in it must be below 60"),
        ("time", "0s", "above 0"),
        ("mem", "0G", "above 0"),
        ("mail", ["END", "FINISH"], "'FINISH' is none of NONE, BEGIN, END"),
        ("modules", ["gcc openmpi"], "'gcc openmpi' is not one name"),
        ("extra", "--switches 1", "'1' is no option; join an option and its value in one word"),
        ("depends", ["12", "soon"], "'soon' is no job id"),
        ("signal", "USR1@70000", "0 to 65535 seconds"),
    ],
)
def test_a_refusal_gives_a_reason_that_the_value_does_not_show(name: str, value: Any, reason: str) -> None:
    assert reason in refusal(**{name: value})


def test_a_refusal_uses_the_users_name_for_the_option() -> None:
    text = refusal(cpus_per_task="four")
    assert text.startswith("cpus_per_task must be") and "cpus_per_task=4" in text


ANYTHING = st.one_of(
    st.text(),
    st.text("0123456789.:-+ dhmsKMGTiB_@,[];", max_size=12),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(),
    st.timedeltas(),
    st.datetimes(timezones=st.sampled_from([None, timezone.utc, timezone(timedelta(hours=-12))])),
    st.lists(st.text(max_size=3) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(sorted(known_names())), ANYTHING)
def test_anything_is_read_or_refused(name: str, value: Any) -> None:
    """There is no other error; and the normal form is one that is read, but for bare seconds and bytes."""
    try:
        found = check_resources({name: value})
    except OptionError:
        return  # what it says is another test's business
    if not found.keys() & {"time", "mem", "mem_per_cpu"}:
        assert check_resources(found) == found


# ---- more than one option -----------------------------------------------------------------------


def test_two_names_of_one_option() -> None:
    text = refusal(walltime="1h", time="1h")
    assert text == "walltime and time are the same option: give one of them"
    assert check_resources({"walltime": "1h", "time": None}) == {"time": HOUR}


@pytest.mark.parametrize("gres", ["gpu:2", "gpu", "nvme:1,gpu:a100:2"])
def test_gpus_by_two_ways(gres: str) -> None:
    assert "gpus and gres both ask for GPUs" in refusal(gpus=1, gres=gres)
    assert check_resources({"gpus": 1, "gres": "nvme:1"}) == {"gpus": 1, "gres": "nvme:1"}
    assert check_resources({"gres": gres}) == {"gres": gres}


def test_memory_by_two_ways() -> None:
    assert refusal(memory="8G", mem_per_cpu="2G").startswith("memory and mem_per_cpu exclude each other")
    assert check_resources({"mem": "8G", "mem_per_cpu": None}) == {"mem": 8 * GIB}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("walltme", "walltime"), ("gpu", "gpus"), ("core", "cores"), ("node_list", "nodelist")],
)
def test_a_near_miss_is_told(wrong: str, right: str) -> None:
    assert refusal(**{wrong: 1}) == f"unknown option {wrong!r}; did you mean {right!r}?"


# ---- the table, and the page about it -----------------------------------------------------------


def test_a_name_belongs_to_one_option() -> None:
    names = [name for option in OPTIONS.values() for name in (option.name, *option.synonyms)]
    assert sorted(names) == sorted(set(names)) == sorted(known_names())
    assert not set(names) & {*EXECUTOR_OPTIONS, *ELSEWHERE}
    assert set(ELSEWHERE.values()) <= set(EXECUTOR_OPTIONS)


def test_the_description_has_every_option_in_its_columns() -> None:
    text = describe()
    lines = {line.split()[0].rstrip(","): line for line in text.splitlines() if line.startswith("  ")}
    assert list(lines) == list(OPTIONS)
    for option in OPTIONS.values():
        line = lines[option.name]
        assert all(re.search(rf"\b{synonym}\b", line) for synonym in option.synonyms)
        assert line.endswith(f"  {option.name}={option.example}")
    assert len({line.rindex(f"  {OPTIONS[name].help}  ") for name, line in lines.items()}) == 1
    assert len({line.index(f"  {name}=") for name, line in lines.items()}) == 1
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == list(GROUPS)


def page_rows() -> dict[str, list[str]]:
    """The rows of the tables in the page, by the option that the first cell names."""
    page = (REPOSITORY / "docs" / "options.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (.*)\n((?:     - ?.*\n?)+)", page, re.MULTILINE)
    cells = {first.strip("`"): re.findall(r"^     - ?(.*)$", rest, re.MULTILINE) for first, rest in rows}
    return {name: row for name, row in cells.items() if name in OPTIONS}


def test_the_page_lists_every_option_as_the_table_has_it() -> None:
    rows = page_rows()
    assert list(rows) == list(OPTIONS)
    for option in OPTIONS.values():
        also, meaning, example, slurm = rows[option.name]
        assert also == ", ".join(f"``{synonym}``" for synonym in option.synonyms), option.name
        assert meaning == option.help
        assert example == f"``{option.example}``"
        assert slurm, option.name
