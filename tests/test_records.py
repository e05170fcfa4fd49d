"""Every record comes back from its bytes as it was, at the limits of its fields, too."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfutures import payload
from clusterfutures.logs import Location
from clusterfutures.records import (
    NUMBER,
    OUTCOME_HEAD,
    Again,
    Assign,
    Batch,
    Cost,
    Ended,
    Kill,
    Ready,
    Started,
    Task,
    Waiting,
    bind,
    unbind,
)

U8, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
SECONDS = st.floats(0, allow_infinity=False)
PLACES = st.builds(Location, U64, U64, U64)
BODIES = st.lists(st.binary(max_size=40), max_size=30)


@given(st.data(), U8, U64, st.lists(PLACES, min_size=1, max_size=4, unique=True), BODIES)
def test_batches(
    data: st.DataObject, style: int, first: int, places: list[Location], bodies: list[bytes]
) -> None:
    indexes = st.integers(0, len(places) - 1)
    functions = data.draw(st.lists(indexes, min_size=len(bodies), max_size=len(bodies)))
    found = Batch.unpack(Batch(style, first, functions, places, bodies).pack())
    assert (found.style, found.first) == (style, first)
    assert list(found.places) == places
    assert list(found.functions) == functions
    assert list(found.bodies) == bodies
    assert len(found.bodies) == len(bodies)


@given(BODIES, st.data())
def test_slices_of_a_batch(bodies: list[bytes], data: st.DataObject) -> None:
    place = Location(0, 0, 0)
    found = Batch.unpack(Batch(0, 0, [0] * len(bodies), [place], bodies).pack())
    start = data.draw(st.integers(0, len(bodies)))
    stop = data.draw(st.integers(start, len(bodies)))
    assert found.bodies[start:stop] == bodies[start:stop]


def test_a_repacked_batch_is_the_same() -> None:
    place = [Location(1, 2, 3), Location(4, 5, 6)]
    data = Batch(2, 7, [0, 1, 0], place, [b"a", b"", b"ccc"]).pack()
    found = Batch.unpack(data)
    assert found._replace(bodies=list(found.bodies)).pack() == data


@given(PLACES, U64, st.tuples(U32, U32, U32), SECONDS)
def test_assignments(place: Location, first: int, counts: tuple[int, int, int], timeout: float) -> None:
    record = Assign(place, first, *counts, timeout)
    assert Assign.unpack(record.pack()) == record


@given(U64, U32, SECONDS, SECONDS, U8, PLACES, st.binary(max_size=100))
def test_lone_calls(
    number: int, attempt: int, timeout: float, expected: float, style: int, function: Location, body: bytes
) -> None:
    record = Task(number, attempt, timeout, expected, style, function, body)
    found = Task.unpack(record.pack(7))
    assert found == record
    assert Task.policy_in(record.pack(7)) == 7
    assert type(found.function) is Location


@given(U32, U32, U64)
def test_started(slot: int, generation: int, pid: int) -> None:
    record = Started(slot, generation, pid)
    assert Started.unpack(record.pack()) == record


@given(U32, U32, U32, U64, U8)
def test_ended(slot: int, generation: int, status: int, task: int, reason: int) -> None:
    record = Ended(slot, generation, status, task, reason)
    assert Ended.unpack(record.pack()) == record


@given(U32, U32, U64, U32)
def test_kills(slot: int, generation: int, task: int, number: int) -> None:
    record = Kill(slot, generation, task, number)
    assert Kill.unpack(record.pack()) == record


@given(U64, U8, PLACES, st.lists(U64, max_size=10), st.binary(max_size=100), U32)
def test_waiting_tasks_can_be_read_back(
    number: int, style: int, function: Location, parents: list[int], body: bytes, policy: int
) -> None:
    record = Waiting(number, style, function, tuple(parents), body, policy)
    assert Waiting.unpack(record.pack()) == record


@given(U64, U32, U8, st.builds(Cost, SECONDS, SECONDS, U64, U64, U64, U64, U64))
def test_heads_of_outcomes(number: int, attempt: int, status: int, cost: Cost) -> None:
    data = OUTCOME_HEAD.pack(number, attempt, status, *cost)
    assert OUTCOME_HEAD.unpack_from(data + b"value") == (number, attempt, status, *cost)


@pytest.mark.parametrize("number", [0, 1, 2**64 - 1])
def test_numbers(number: int) -> None:
    assert NUMBER.unpack(NUMBER.pack(number)) == (number,)


@given(st.binary(max_size=60), st.lists(st.binary(max_size=60), max_size=5))
def test_bound_bodies(body: bytes, values: list[bytes]) -> None:
    found, found_values = unbind(bind(body, values))
    assert (found, list(found_values)) == (body, values)


def store(content: memoryview) -> str:
    raise AssertionError("nothing here is large")


@pytest.mark.parametrize("value", [None, lambda: 2, os.getpid, b"\x02", [b"\x02"] * 3, object])
def test_no_pickled_body_looks_bound(value: object) -> None:
    assert payload.dumps_item(value, store)[:1] != b"\x02"
    assert payload.dumps_call((value,), {}, store)[:1] != b"\x02"


@given(U64, st.sampled_from(["123", "123_4", "1234[7].server"]), st.sampled_from(["n1", "a b", "\udcff", ""]))
def test_ready(pid: int, job_id: str, node: str) -> None:
    record = Ready(pid, job_id, node)
    assert Ready.unpack(record.pack()) == record


@given(U64, U32, U32, SECONDS, U32, st.text())
def test_further_attempts(number: int, attempt: int, free: int, pause: float, policy: int, why: str) -> None:
    record = Again(number, attempt, free, pause, policy, why)
    assert Again.unpack(record.pack()) == record
