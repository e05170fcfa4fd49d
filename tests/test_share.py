"""Workers of one job: each has a part of its CPUs and GPUs, and nobody has another's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfutures.cpus import usable_cpus
from clusterfutures.share import GPUS, THREADS, part, take

CPUS = sorted(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def nothing_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests themselves may run in a job."""
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "PBS_NUM_PPN", "NCPUS"):
        monkeypatch.delenv(name, raising=False)


def in_child(call: Callable[[], Any]) -> Any:
    """What `call` returns (as JSON has it) in a fork of this process, which then is gone."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(call()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def taken(slot: int, slots: int, cores: int = 0, environment: Mapping[str, str] | None = None) -> Any:
    """The CPUs and variables that a worker has afterwards."""

    def call() -> Any:
        own = dict(environment or {})
        take(slot, slots, cores, own)
        return sorted(os.sched_getaffinity(0)), own

    return in_child(call)


# ---- parts --------------------------------------------------------------------------------------


@given(things=st.lists(st.integers(), unique=True, max_size=200), slots=st.integers(1, 64))
def test_parts_are_equal_and_disjoint(things: list[int], slots: int) -> None:
    parts = [part(things, slot, slots) for slot in range(slots)]
    together = [thing for one in parts for thing in one]
    if len(things) < slots:
        assert parts == [things] * slots, "too few for each to have one: they are everybody's"
    else:
        assert together == things[: len(together)], "in order, and none twice"
        assert {len(one) for one in parts} == {len(things) // slots}


@given(things=st.lists(st.integers(), max_size=20), slots=st.integers(1, 8), beyond=st.integers(0, 5))
def test_who_has_no_slot_shares_with_all(things: list[int], slots: int, beyond: int) -> None:
    assert part(things, slots + beyond, slots) == things


# ---- taking one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_cpus_are_dealt_out(slots: int) -> None:
    found = [taken(slot, slots)[0] for slot in range(slots)]
    assert found == [list(part(CPUS, slot, slots)) for slot in range(slots)]
    assert sorted(os.sched_getaffinity(0)) == CPUS, "those of the supervisor are as before"


def test_more_workers_than_cpus_share_them() -> None:
    slots = len(CPUS) + 1
    assert [taken(slot, slots)[0] for slot in range(slots)] == [CPUS] * slots


def test_a_part_of_a_part() -> None:
    """Of what the job was granted, not of what the machine has."""

    def call() -> list[int]:
        os.sched_setaffinity(0, CPUS[-1:])
        take(0, 1, 0, {})
        return sorted(os.sched_getaffinity(0))

    assert in_child(call) == CPUS[-1:]


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize(
    ("listed", "slots", "expected"),
    [
        ("0,1,2,3", 2, ["0,1", "2,3"]),
        ("0,1,2", 2, ["0", "1"]),
        ("3,1", 2, ["3", "1"]),
        ("GPU-8d1,MIG-a/1/0", 2, ["GPU-8d1", "MIG-a/1/0"]),
        ("0,1,", 2, ["0", "1"]),
        ("5", 2, ["5", "5"]),
        ("2,3", 1, ["2,3"]),
        ("", 2, ["", ""]),
    ],
)
def test_gpus_are_dealt_out(name: str, listed: str, slots: int, expected: list[str]) -> None:
    assert [taken(slot, slots, 1, {name: listed})[1][name] for slot in range(slots)] == expected


def test_where_no_gpus_are_named_none_are() -> None:
    _, environment = taken(0, 2)
    assert not set(GPUS) & set(environment)


@pytest.mark.parametrize("name", THREADS)
def test_threads_are_as_many_as_cpus(name: str) -> None:
    assert taken(0, 2, 3)[1][name] == "3"
    assert taken(0, 1)[1][name] == str(usable_cpus())
    assert taken(0, 1000)[1][name] == "1", "never none"
    for value in ("16", ""):
        assert taken(0, 2, 3, {name: value})[1][name] == value, "the user knows better"


def test_nothing_else_is_changed() -> None:
    _, environment = taken(0, 2, 3, {"HOME": "/x", "SLURM_JOB_ID": "1,2"})
    assert environment == {"HOME": "/x", "SLURM_JOB_ID": "1,2", **dict.fromkeys(THREADS, "3")}


def test_a_sandbox_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    take(1, 2, 4, environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "1", **dict.fromkeys(THREADS, "4")}


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    environment: dict[str, str] = {}
    take(1, 2, 4, environment)
    assert environment == dict.fromkeys(THREADS, "4")
