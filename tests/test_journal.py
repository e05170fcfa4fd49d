"""The journal: what it says is written is in the run directory, in few records, and can be read back."""

from __future__ import annotations

import errno
import gc
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfutures import journal as module
from clusterfutures import logs, payload
from clusterfutures.errors import TaskPicklingError
from clusterfutures.futures import FutureSink
from clusterfutures.journal import Fresh, Function, Journal, Policy, Run
from clusterfutures.logs import Frame, Location, LogReader
from clusterfutures.pace import Pace
from clusterfutures.records import CALL, CANCELLED, FUNCTION, ITEM, NUMBER, TASKS, WAITING, Batch
from clusterfutures.spool import RunDirectory

SINK, POLICY = FutureSink(), Policy()


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path), shared=False)


@pytest.fixture
def journal(run_directory: RunDirectory) -> Journal:
    return Journal(run_directory)


def everything(run: RunDirectory) -> list[Frame]:
    reader = LogReader(run.path, "tasks", shared=run.shared)
    frames = reader.read()
    reader.close()
    return frames


def bodies_of(run: RunDirectory, runs: list[Run]) -> dict[int, bytes]:
    """What a worker would find for each task number."""
    found = {}
    for one in runs:
        batch = Batch.unpack(run.read_task(one.place).body)
        for index in range(one.count):
            assert batch.first + one.start == one.first
            found[one.first + index] = batch.bodies[one.start + index : one.start + index + 1][0]
    return found


def a_function(number: int = 0) -> Function:
    return Function(Location(0, number, 10), Pace())


# ---- functions ----------------------------------------------------------------------------------


def test_equal_functions_are_written_once(journal: Journal, run_directory: RunDirectory) -> None:
    def closure(number: int) -> Callable[[], int]:
        return lambda: number

    first = journal.function(math.sqrt)
    assert journal.function(math.sqrt) is first
    assert journal.function(closure(1)) is journal.function(closure(1))
    assert journal.function(closure(2)) is not journal.function(closure(1))
    frames = everything(run_directory)
    assert [one.kind for one in frames] == [FUNCTION] * 3
    body = run_directory.read_task(first.place).body
    assert payload.loads_function(body, run_directory.fetch_buffer) is math.sqrt


def test_a_closure_whose_content_changed_is_another_function(
    journal: Journal, run_directory: RunDirectory
) -> None:
    content = [1]
    function = lambda: content[0]
    places = []
    for number in (1, 2, 1):
        content[0] = number
        places.append(journal.function(function).place)
    assert places[0] == places[2] != places[1]
    for place, number in zip(places, (1, 2, 1)):
        body = run_directory.read_task(place).body
        assert payload.loads_function(body, run_directory.fetch_buffer)() == number


class Scale:
    """A callable with a state."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, number: int) -> int:
        return self.factor * number

    def method(self, number: int) -> int:
        return self.factor * number


@pytest.mark.parametrize("method", [False, True])
def test_objects_and_bound_methods_are_what_they_are_now(
    journal: Journal, run_directory: RunDirectory, method: bool
) -> None:
    scale = Scale(2)
    for factor in (2, 3):
        scale.factor = factor
        place = journal.function(scale.method if method else scale).place
        body = run_directory.read_task(place).body
        assert payload.loads_function(body, run_directory.fetch_buffer)(10) == 10 * factor


def test_an_identity_that_was_used_before_misleads_nobody(
    journal: Journal, run_directory: RunDirectory
) -> None:
    """CPython gives a new object the place of an old one, so `id` alone would find the wrong function."""
    for number in range(200):
        function = eval(f"lambda: {number}")
        body = run_directory.read_task(journal.function(function).place).body
        assert payload.loads_function(body, run_directory.fetch_buffer)() == number
        del function
        gc.collect(0)


def test_what_cannot_be_pickled_is_named_and_writes_nothing(
    journal: Journal, run_directory: RunDirectory
) -> None:
    lock = threading.Lock()
    with pytest.raises(TaskPicklingError, match="holder"):

        def holder() -> object:
            return lock

        journal.function(holder)
    assert everything(run_directory) == []


def test_functions_from_many_threads(journal: Journal, run_directory: RunDirectory) -> None:
    functions = [eval(f"lambda: {number}") for number in range(20)]
    found: list[list[Function]] = []

    def write() -> None:
        found.append([journal.function(one) for one in functions])

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert all(a is b for other in found for a, b in zip(found[0], other))
    assert len(everything(run_directory)) == len(functions)


def test_the_initializers_call(journal: Journal, run_directory: RunDirectory) -> None:
    place = journal.call((1, "two"), {"three": 3})
    body = run_directory.read_task(place).body
    assert payload.loads_call(body, run_directory.fetch_buffer) == ((1, "two"), {"three": 3})


# ---- tasks --------------------------------------------------------------------------------------


def test_calls_that_follow_each_other_share_a_record(journal: Journal, run_directory: RunDirectory) -> None:
    function = a_function()
    fresh = [Fresh(n, CALL, function, (b"%d" % n,), SINK, POLICY) for n in range(500)]
    runs = journal.write(fresh)
    assert [one.kind for one in everything(run_directory)] == [TASKS]
    assert len(runs) == 1, "one function, one sink, one policy: dealt out as one"
    assert bodies_of(run_directory, runs) == {n: b"%d" % n for n in range(500)}


FRESH = st.lists(
    st.tuples(
        st.integers(0, 2),  # numbers left out before it
        st.sampled_from([CALL, ITEM]),
        st.integers(0, 2),  # function
        st.lists(st.binary(max_size=30), min_size=1, max_size=6),
        st.integers(0, 1),  # sink
        st.integers(0, 1),  # policy
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(rows=FRESH)
def test_every_task_can_be_found(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    run = RunDirectory(str(tmp_path_factory.mktemp("run")), shared=False)
    functions = [a_function(number) for number in range(3)]
    sinks, policies = [FutureSink(), FutureSink()], [Policy(), Policy(timeout=1.0)]
    fresh, number = [], 0
    for gap, style, function, bodies, sink, policy in rows:
        number += gap
        fresh.append(Fresh(number, style, functions[function], bodies, sinks[sink], policies[policy]))
        number += len(bodies)
    expected = {
        item.first + i: (item.style, item.function.place, body, item.sink, item.policy, item.function.pace)
        for item in fresh
        for i, body in enumerate(item.bodies)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_TASKS", 8)
        patch.setattr(module, "BATCH_BYTES", 100)
        journal = Journal(run)
        runs = journal.write(fresh)
        journal.close()
    found = {}
    for one in runs:
        batch = Batch.unpack(run.read_task(one.place).body)
        for i in range(one.count):
            at = one.start + i
            body = batch.bodies[at : at + 1][0]
            place = batch.places[batch.functions[at]]
            assert batch.first + at not in found
            found[batch.first + at] = (batch.style, place, body, one.sink, one.policy, one.pace)
    assert found == expected
    run.close()


def test_records_stay_of_a_readable_size(journal: Journal, run_directory: RunDirectory) -> None:
    function = a_function()
    size = module.BATCH_BYTES // 4
    journal.write([Fresh(n, CALL, function, (bytes(size),), SINK, POLICY) for n in range(20)])
    frames = everything(run_directory)
    assert len(frames) == 5
    assert max(len(one.body) for one in frames) < module.BATCH_BYTES + 10_000


def test_a_part_of_a_run() -> None:
    run = Run(Location(1, 2, 3), 10, 100, 20, SINK, POLICY, Pace(), 1)
    part = run.part(5, 7)
    assert (part.start, part.first, part.count, part.attempt) == (15, 105, 7, 1)
    assert run.part(0, 1, 2).attempt == 2
    run.done = 4
    rest = run.unfinished
    assert (rest.start, rest.first, rest.count, rest.done) == (14, 104, 16, 0)


@pytest.mark.parametrize("shared", [False, True])
def test_a_full_disk_writes_none_of_them(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SEGMENT_BYTES", 1000)
    run = RunDirectory(str(tmp_path), shared=shared)
    journal = Journal(run)
    function = a_function()
    real, room = os.pwrite, [0]

    def limited(fd: int, data: bytes, offset: int) -> int:
        count = min(len(data), room[0])
        if not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= count
        return real(fd, data[:count], offset)

    monkeypatch.setattr(os, "pwrite", limited)
    written: list[Run] = []
    for number in range(30):
        item = Fresh(number, CALL, function, (bytes(100),), SINK, POLICY)
        for enough in (number * 5, 1 << 20):
            room[0] = enough
            try:
                written += journal.write([item])
                break
            except OSError:
                continue
    room[0] = 1 << 20
    journal.publish()
    journal.close()
    firsts = [Batch.unpack(one.body).first for one in everything(run)]
    assert firsts == [one.first for one in written] == list(range(30))


def test_waiting_and_cancelled_tasks_are_written(journal: Journal, run_directory: RunDirectory) -> None:
    journal.waiting(7, CALL, a_function(), b"body", [3, 0])
    journal.cancelled([])
    journal.cancelled([7, 8])
    waiting, cancelled = everything(run_directory)
    assert waiting.kind == WAITING
    assert waiting.body.endswith(b"body")
    assert (cancelled.kind, cancelled.body) == (CANCELLED, NUMBER.pack(7) + NUMBER.pack(8))


def test_publishing_shows_it_to_other_machines(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path), shared=True)
    journal = Journal(run)
    runs = journal.write([Fresh(0, CALL, a_function(), (b"x",), SINK, POLICY)])
    assert everything(run) == []
    journal.publish()
    assert bodies_of(run, runs) == {0: b"x"}
