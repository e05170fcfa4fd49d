"""Dealing out: every task is in exactly one place at any time, and nobody idles while tasks wait."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clusterfutures import attempts, crew, dispatch, logs, payload, roster
from clusterfutures.dispatch import Dispatcher
from clusterfutures.errors import (
    NodeFailed,
    OutOfMemory,
    Preempted,
    TaskKilled,
    TaskTimeout,
    WorkerLost,
)
from clusterfutures.futures import ClusterFuture, Row
from clusterfutures.journal import Policy, Run
from clusterfutures.kinds import Kinds
from clusterfutures.logs import Location, LogReader, LogWriter
from clusterfutures.nodes import LOSSES
from clusterfutures.obituary import Post
from clusterfutures.pace import SHORTEST, Pace
from clusterfutures.records import (
    ASKED,
    ASSIGN,
    CALL,
    FUNCTION,
    GIVEN,
    ITEM,
    LEAVE,
    OUTCOME_HEAD,
    OWN,
    POLICY,
    RECALL,
    RETURNED_VALUE,
    SECONDS,
    SITE,
    TASKS,
    TIME_LEFT,
    TIMED_OUT,
    Assign,
    Cost,
    Ended,
    Task,
)
from clusterfutures.retries import FREE_RERUNS, Retries, check_retries
from clusterfutures.roster import AHEAD, BUNDLE_RUNS, PATIENCE, Bundle, Member, Roster, share_out, without
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState
from tests.support import wait_until

PLACE = Location(0, 0, 10)
COST = Cost(1e-6, 0.0, 0, 0, 0, 0, 0)


class Sink:
    """Counts what is begun; `cancelled` are tasks that drop out then."""

    def __init__(self) -> None:
        self.cancelled: set[int] = set()
        self.begun: list[int] = []

    def begin(self, first: int, count: int, post: Post) -> list[int]:
        numbers = range(first, first + count)
        self.begun += [n for n in numbers if n not in self.cancelled]
        return [n for n in numbers if n in self.cancelled]


class Clock:
    """Stands in for `time` in the roster and the dispatcher."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (attempts, crew, dispatch, roster):
        monkeypatch.setattr(module, "time", clock)
    return clock


def worker(number: int, generation: int = 0) -> WorkerRef:
    return WorkerRef(0, 0, 0, number, generation)


def a_pace(seconds: float, largest: int = 1 << 30) -> Pace:
    pace = Pace()
    pace.observe(largest, seconds * largest)
    return pace


class Table:
    """A roster with workers, and tasks numbered on."""

    def __init__(self, workers: int, max_tasks: int = 0) -> None:
        self.roster = Roster(max_tasks)
        self.sink = Sink()
        self.members = [self.member(worker(number)) for number in range(workers)]
        self.next = 0

    def member(self, ref: WorkerRef) -> Member:
        inbox = LogWriter("nowhere", "in", shared=False)
        member = self.roster.members[ref] = Member(ref, inbox, Post(str(ref), None, None, None))
        member.ready = True
        return member

    def add(self, count: int, pace: Pace) -> Run:
        policy: Any = Policy()
        run = Run(PLACE, 0, self.next, count, self.sink, policy, pace)  # type: ignore[arg-type]
        self.roster.append([run])
        self.next += count
        return run

    def deal(self) -> list[tuple[int, int]]:
        """Who got how many."""
        return [
            (bundle.member.ref.slot, sum(run.count for run in bundle.runs)) for bundle in self.roster.deal()
        ]


def numbers(runs: Any) -> list[int]:
    """The unfinished tasks of these runs, in order."""
    return [n for run in runs for n in range(run.first + run.done, run.first + run.count)]


def finish(member: Member, wall: float = 0.001) -> int:
    number = member.current
    run = member.expect(number)
    assert run is not None
    member.account(run, wall)
    return number


# ---- dealing ------------------------------------------------------------------------------------


def test_unknown_tasks_travel_alone() -> None:
    table = Table(3)
    table.add(10, Pace())
    assert table.deal() == [(0, 1), (1, 1), (2, 1)]
    assert table.deal() == [], "nothing queues behind a task of which nothing is known"
    assert table.sink.begun == [0, 1, 2]
    finish(table.members[1])
    assert table.deal()[0][0] == 1


def test_idle_workers_come_before_those_that_run_low() -> None:
    table = Table(3)
    pace = a_pace(SHORTEST / 10)
    table.add(2, pace)
    assert table.deal() == [(0, 1), (1, 1)]
    table.add(100, pace)
    assert [slot for slot, _ in table.deal()] == [2, 0, 1]


def test_workers_with_enough_get_nothing() -> None:
    table = Table(2)
    pace = a_pace(SHORTEST / 3)
    table.add(12, pace)
    assert table.deal() == [(0, 3), (1, 2)]
    assert table.deal() == []
    finish(table.members[0], SHORTEST / 3)
    assert table.deal() == []
    finish(table.members[0], SHORTEST / 3)
    assert table.deal() == [(0, 1)], "below half of the target it is asked to prepare more"


def test_while_there_is_plenty_one_bundle_is_given_ahead() -> None:
    for seconds, ahead in ((SHORTEST / 10, 10), (AHEAD / 2, 1), (2 * AHEAD, 0)):
        table = Table(2)
        table.add(1000, a_pace(seconds))
        first = table.deal()
        assert [slot for slot, _ in first] == [0, 1]
        assert table.deal() == ([(0, ahead), (1, ahead)] if ahead else [])
        assert table.deal() == []


def test_the_last_tasks_are_not_parted_where_that_costs_more_than_they_do() -> None:
    table = Table(2)
    table.roster.overhead.seconds = 1e-3
    table.add(100, a_pace(1e-5))
    assert [count for _, count in table.deal()] == [100]


def test_the_last_tasks_come_in_ever_smaller_bundles() -> None:
    table = Table(2)
    table.roster.overhead.seconds = 1e-6  # no more than a task: parting them costs nothing
    table.add(100, a_pace(1e-6))
    sizes = []
    while table.roster.pending:
        for member in table.members:
            while member.assigned:
                finish(member, 1e-6)
        sizes += [count for _, count in table.deal()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 25
    assert sizes[-1] == 1
    assert sum(sizes) == 100


def test_long_tasks_never_share_a_bundle() -> None:
    table = Table(1)
    for seconds in (0.001, 1.0, 0.001):
        table.add(2, a_pace(seconds))
    bundles = []
    while table.roster.pending:
        bundles.append(table.deal())
        while table.members[0].assigned:
            run = table.members[0].assigned[0]
            finish(table.members[0], run.pace.seconds)
    firsts = [count for [(_, count)] in bundles]
    begun = list(itertools.accumulate(firsts, initial=0))
    for long in (2, 3):
        assert long in begun
        assert long + 1 in begun


def test_a_bundle_has_a_limited_number_of_runs() -> None:
    table = Table(1)
    pace = a_pace(1e-6)
    for _ in range(10 * BUNDLE_RUNS):
        table.add(1, pace)
    [bundle] = table.roster.deal()
    assert len(bundle.runs) == BUNDLE_RUNS


def test_not_ready_leaving_and_recalled_workers_get_nothing() -> None:
    table = Table(4)
    table.members[0].ready = False
    table.members[1].leaving = True
    table.members[2].recalled = True
    table.add(10, Pace())
    assert table.deal() == [(3, 1)]
    assert [m.ref.slot for m in table.roster.active()] == [2, 3]


@pytest.mark.parametrize("max_tasks", [1, 3])
def test_no_worker_gets_more_than_its_life_allows(max_tasks: int) -> None:
    table = Table(2, max_tasks)
    table.add(100, a_pace(1e-6))
    given = {0: 0, 1: 0}
    for _ in range(20):
        for slot, count in table.deal():
            given[slot] += count
        for member in table.members:
            while member.assigned:
                finish(member)
    assert given == {0: max_tasks, 1: max_tasks}
    assert len(numbers(table.roster.pending)) == 100 - 2 * max_tasks


def test_what_is_handed_back_may_be_given_again() -> None:
    table = Table(1, 4)
    table.add(100, a_pace(1e-6))
    assert table.deal() == [(0, 4)]
    table.roster.hand_back(table.members[0], 3)
    assert table.members[0].given == 1
    finish(table.members[0])
    assert table.deal() == [(0, 3)]


def test_cancelled_tasks_drop_out_on_the_way() -> None:
    table = Table(1)
    table.sink.cancelled = {0, 3, 4, 9}
    table.add(10, a_pace(1e-6))
    found: list[int] = []
    cancelled: list[int] = []
    while table.roster.pending:
        for bundle in table.roster.deal():
            found += numbers(bundle.runs)
            cancelled += bundle.cancelled
        while table.members[0].assigned:
            finish(table.members[0])
    assert found == table.sink.begun == [1, 2, 5, 6, 7, 8]
    assert cancelled == [0, 3, 4, 9]


def test_a_bundle_of_nothing_but_cancelled_tasks_is_told() -> None:
    table = Table(1)
    table.sink.cancelled = {0}
    table.add(1, Pace())
    [bundle] = table.roster.deal()
    assert (bundle.runs, bundle.cancelled) == ([], [0])
    assert not table.members[0].assigned


@pytest.mark.parametrize(
    ("holes", "expected"),
    [
        ([], [(10, 5)]),
        ([10], [(11, 4)]),
        ([14], [(10, 4)]),
        ([12], [(10, 2), (13, 2)]),
        ([10, 11, 13], [(12, 1), (14, 1)]),
        ([10, 11, 12, 13, 14], []),
    ],
)
def test_a_run_with_holes(holes: list[int], expected: list[tuple[int, int]]) -> None:
    run = Run(PLACE, 3, 10, 5, None, Policy(), Pace(), 2)  # type: ignore[arg-type]
    pieces = list(without(run, holes))
    assert [(piece.first, piece.count) for piece in pieces] == expected
    assert all(piece.start - piece.first == 3 - 10 and piece.attempt == 2 for piece in pieces)


# ---- taking back --------------------------------------------------------------------------------


def test_unequal_loads_are_evened_out(clock: Clock) -> None:
    table = Table(2)
    table.members[1].ready = False
    table.add(10, a_pace(1e-6))
    while table.roster.pending:
        table.deal()
    table.members[1].ready = True
    assert table.roster.uneven()
    assert table.roster.recalls() == [], "it may be done with them in a moment"
    clock.now += 2 * PATIENCE
    assert table.roster.recalls() == [table.members[0]]
    assert table.roster.recalls() == [], "asked once"
    table.roster.hand_back(table.members[0], len(numbers(table.members[0].assigned)) - 1)
    assert table.deal()[0][0] == 1
    assert numbers(table.members[0].assigned)[0] == 0
    assert sorted(place_of_each(table.roster)) == list(range(10))


def test_reasons_to_recall_nobody(clock: Clock) -> None:
    table = Table(2)
    table.add(2, Pace())
    table.deal()
    clock.now += 2 * PATIENCE
    assert table.roster.recalls() == [], "everybody is busy"
    finish(table.members[1])
    assert table.roster.recalls() == [], "one task each cannot be shared"
    table.add(1, Pace())
    assert table.roster.recalls() == [], "there is something to do"


def test_finishing_a_task_shows_that_a_worker_moves_on(clock: Clock) -> None:
    table = Table(2)
    table.members[1].ready = False
    table.add(4, a_pace(1e-6))
    while table.roster.pending:
        table.deal()
    table.members[1].ready = True
    clock.now += 2 * PATIENCE
    finish(table.members[0])
    table.members[0].since = clock.now  # as the dispatcher does for a batch of outcomes
    assert table.roster.recalls() == []


def test_handing_back_keeps_the_order() -> None:
    table = Table(1)
    pace = a_pace(1e-6)
    for _ in range(5):
        table.add(4, pace)
    table.add(100, pace)
    table.deal()
    member = table.members[0]
    held = numbers(member.assigned)
    assert len(held) > 20
    finish(member)
    finish(member)
    table.roster.hand_back(member, len(held) - 3)
    assert numbers(member.assigned) == [2]
    assert numbers(table.roster.pending) == list(range(3, 120))
    assert member.given == 3


def test_handing_back_nothing_frees_the_worker() -> None:
    table = Table(1)
    table.add(1, Pace())
    table.deal()
    table.members[0].recalled = True
    table.roster.hand_back(table.members[0], 0)
    assert not table.members[0].recalled
    assert numbers(table.members[0].assigned) == [0]


def test_a_dead_worker_leaves_what_it_did_not_finish() -> None:
    table = Table(2)
    table.add(20, a_pace(1e-6))
    table.deal()
    member = table.members[0]
    held = numbers(member.assigned)
    finish(member)
    assert table.roster.holder(held[-1]) is member
    assert table.roster.holder(held[0]) is None
    assert numbers(table.roster.remove(member.ref)) == held[1:]
    assert table.roster.remove(member.ref) == []
    assert table.roster.holder(held[-1]) is None


def test_load_and_current() -> None:
    table = Table(1)
    member = table.members[0]
    assert (member.load(), member.current, member.expect(0)) == (0.0, -1, None)
    table.add(8, a_pace(0.001))
    table.deal()
    assert member.load() == pytest.approx(0.001 * len(numbers(member.assigned)))
    finish(member)
    assert member.current == 1
    assert member.expect(0) is None
    assert member.expect(2) is None


def place_of_each(roster: Roster) -> list[int]:
    found = numbers(roster.pending)
    for member in roster.members.values():
        found += numbers(member.assigned)
    return found


# ---- any history --------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Workers come, work, hand back and die in any order; the model knows where each task must be."""

    @initialize(max_tasks=st.sampled_from([0, 0, 1, 5]))
    def start(self, max_tasks: int) -> None:
        self.max_tasks = max_tasks
        self.table = Table(0, max_tasks)
        self.clock = Clock()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(roster, "time", self.clock)
        self.paces = [Pace(), a_pace(1e-5), a_pace(SHORTEST / 3), a_pace(1.0)]
        self.done: list[int] = []
        self.dropped: list[int] = []
        self.lost: list[int] = []
        self.workers = 0

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def some(self, data: st.DataObject, busy: bool = False) -> Member | None:
        members = [m for m in self.table.roster.members.values() if m.assigned or not busy]
        return data.draw(st.sampled_from(members)) if members else None

    @rule(count=st.integers(1, 40), pace=st.integers(0, 3))
    def submit(self, count: int, pace: int) -> None:
        self.table.add(count, self.paces[pace])

    @rule()
    def join(self) -> None:
        if len(self.table.roster.members) < 4:
            self.table.member(worker(self.workers))
            self.workers += 1

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        pending = [n for n in numbers(self.table.roster.pending) if n not in self.table.sink.begun]
        if pending:
            self.table.sink.cancelled.add(data.draw(st.sampled_from(pending)))

    @rule()
    def deal(self) -> None:
        before = numbers(self.table.roster.pending)
        ready = [m for m in self.table.roster.active() if not m.recalled]
        idle = [m for m in ready if not m.assigned and self.may_take(m)]
        bundles = self.table.roster.deal()
        taken = 0
        for bundle in bundles:
            self.check(bundle)
            self.dropped += bundle.cancelled
            first, taken = taken, taken + len(numbers(bundle.runs)) + len(bundle.cancelled)
            mine = before[first:taken]
            assert sorted(mine) == sorted(numbers(bundle.runs) + bundle.cancelled), "first come, first served"
            assert numbers(bundle.runs) == [n for n in mine if n not in bundle.cancelled]
        if taken < len(before):
            assert all(m.assigned or m in [b.member for b in bundles] for m in idle)

    def may_take(self, member: Member) -> bool:
        return not self.max_tasks or member.given < self.max_tasks

    def check(self, bundle: Bundle) -> None:
        member = bundle.member
        assert member.ready
        assert not member.leaving
        assert not member.recalled
        assert not self.max_tasks or member.given <= self.max_tasks
        tasks = numbers(bundle.runs)
        assert not self.table.sink.cancelled.intersection(tasks)
        if len(tasks) > 1:
            assert all(run.pace.seconds > 0 for run in bundle.runs)

    @rule(data=st.data(), count=st.integers(1, 10), wall=st.sampled_from([1e-6, 1e-3, 1.0]))
    def work(self, data: st.DataObject, count: int, wall: float) -> None:
        member = self.some(data, busy=True)
        for _ in range(count):
            if member is not None and member.assigned:
                self.done.append(finish(member, wall))

    @rule(seconds=st.sampled_from([0.0, PATIENCE / 2, 2 * PATIENCE]))
    def recall(self, seconds: float) -> None:
        self.clock.now += seconds
        for member in self.table.roster.recalls():
            assert not self.table.roster.pending
            assert len(numbers(member.assigned)) > 1

    @rule(data=st.data(), started=st.integers(0, 3))
    def hand_back(self, data: st.DataObject, started: int) -> None:
        asked = [m for m in self.table.roster.members.values() if m.recalled]
        if asked:
            member = data.draw(st.sampled_from(asked))
            held = numbers(member.assigned)
            back = max(len(held) - started, 0)
            pending = numbers(self.table.roster.pending)
            self.table.roster.hand_back(member, back)
            assert numbers(member.assigned) == held[: len(held) - back]
            assert numbers(self.table.roster.pending) == held[len(held) - back :] + pending

    @rule(data=st.data(), culprit=st.booleans())
    def die(self, data: st.DataObject, culprit: bool) -> None:
        member = self.some(data)
        if member is not None:
            left = self.table.roster.remove(member.ref)
            for run in reversed(left):
                self.table.roster.push_front(run)
            if culprit and left:
                # What the dispatcher does: the task that killed its worker is taken out.
                self.lost.append(numbers(left)[0])
                first, *rest = self.table.roster.take_all()
                self.table.roster.append([*without(first, self.lost[-1:]), *rest])

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = self.some(data)
        if member is not None:
            member.leaving = True

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def every_task_is_in_one_place(self) -> None:
        places = place_of_each(self.table.roster) + self.done + self.dropped + self.lost
        assert sorted(places) == list(range(self.table.next))
        assert self.table.roster.waiting() == {0: len(numbers(self.table.roster.pending))}


Histories.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


# ---- a worker's end, as the dispatcher settles it -----------------------------------------------


class Driver:
    """A dispatcher whose workers are played by the test."""

    def __init__(self, directory: Path) -> None:
        self.run = RunDirectory(str(directory), shared=False)
        self.kinds = Kinds({"mem": 100 << 10}, lambda needs: None)
        self.dispatcher = Dispatcher(
            self.run, 8, 0, False, lambda ref, inbox: None, lambda: None, self.kinds
        )
        self.function = self.dispatcher.journal.function(len)

    def submit(self, count: int, retries: int | Retries = 0, **policy: Any) -> list[ClusterFuture[Any]]:
        chosen = Policy(check_retries(retries), **policy)
        return [self.dispatcher.add(CALL, self.function, b"\x80", [], chosen) for _ in range(count)]

    def join(self, number: int, job: int = 0, kind: int = 0, node: str = "node") -> WorkerRef:
        ref = worker(number)._replace(job=job)
        post = Post(str(ref), 4711, node, "job")
        self.run.make_home(ref)
        self.dispatcher.crew.joined(ref, post, kind)
        self.dispatcher.ready(ref, post, kind)
        return ref

    def told(self, ref: WorkerRef) -> list[int]:
        """The kinds of all records that were written to a worker."""
        return [kind for kind, _ in self.run.inbox_reader(ref).read()]

    def time_left(self, ref: WorkerRef) -> list[float]:
        """What the worker was told of its wall time."""
        frames = self.run.inbox_reader(ref).read()
        return [SECONDS.unpack(body)[0] for kind, body in frames if kind == TIME_LEFT]

    def assigned(self, ref: WorkerRef) -> list[tuple[int, int]]:
        """Every task that the worker was ever assigned, with its attempt."""
        tasks: list[tuple[int, int]] = []
        for kind, body in self.run.inbox_reader(ref).read():
            if kind == GIVEN:
                tasks.append(Task.unpack(body)[:2])
            elif kind == ASSIGN:
                order = Assign.unpack(body)
                tasks += [(order.first + i, order.attempt) for i in range(order.tasks)]
        return tasks

    def finish(self, ref: WorkerRef, number: int, attempt: int = 0) -> None:
        head = OUTCOME_HEAD.pack(number, attempt, RETURNED_VALUE, *COST)
        self.dispatcher.outcomes(ref, [head + payload.dumps_result(number)])
        self.dispatcher.deliver()

    def serve(self, ref: WorkerRef, count: int) -> list[tuple[int, int]]:
        """Have a new worker do `count` tasks; returns them with their attempts."""
        done = 0
        while done < count:
            self.dispatcher.pump()
            given = self.assigned(ref)
            assert len(given) > done, f"nothing to do after {given}"
            for number, attempt in given[done:]:
                self.finish(ref, number, attempt)
            done = len(given)
        return self.assigned(ref)

    def load(self, ref: WorkerRef, count: int) -> list[ClusterFuture[Any]]:
        """Give one worker `count` tasks that it has not started."""
        for _ in range(3):
            [first] = self.submit(1)
            self.dispatcher.pump()
            self.finish(ref, self.assigned(ref)[-1][0])
            assert first.result(10) == first.task
        futures = self.submit(count)
        for _ in range(count):
            self.dispatcher.pump()
        tasks = [future.task for future in futures]
        assert [number for number, _ in self.assigned(ref)[-count:]] == tasks
        return futures


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path)
    yield driver
    driver.dispatcher.journal.close()
    driver.run.close()


def killed(task: int, reason: int = OWN) -> Ended:
    return Ended(0, 0, 9, task + 1, reason)


def test_only_the_running_task_of_a_dead_worker_fails(driver: Driver) -> None:
    first, second = driver.join(0), worker(1)
    futures = driver.load(first, 7)
    culprit = futures[0].task
    assert culprit is not None
    driver.dispatcher.ended(first, killed(culprit), culprit)
    error = futures[0].exception(10)
    assert type(error) is WorkerLost
    assert (error.signal, error.pid, error.worker) == ("SIGKILL", 4711, str(first))
    driver.join(1)
    assert driver.serve(second, 6) == [(future.task, 0) for future in futures[1:]], "never tried before"
    assert [future.result(10) for future in futures[1:]] == [future.task for future in futures[1:]]
    assert driver.dispatcher.unfinished == 0


@pytest.mark.parametrize("position", [0, 1, 3, 6])
def test_a_culprit_anywhere_in_a_bundle(driver: Driver, position: int) -> None:
    """Even if outcomes before it were lost: exactly the culprit fails, exactly the others run again."""
    ref = driver.join(0)
    futures = driver.load(ref, 7)
    culprit = futures[position].task
    assert culprit is not None
    driver.dispatcher.ended(ref, killed(culprit), culprit)
    assert isinstance(futures[position].exception(10), WorkerLost)
    second = driver.join(1)
    rest = [future.task for future in futures if future is not futures[position]]
    assert driver.serve(second, len(rest)) == [(number, 0) for number in rest]
    assert not wait(futures, 10).not_done


def test_an_outcome_that_was_read_wins_over_the_death(driver: Driver) -> None:
    [future] = driver.submit(1)
    ref = driver.join(0)
    driver.dispatcher.pump()
    driver.finish(ref, 0)
    driver.dispatcher.ended(ref, killed(0), 0)
    assert future.result(10) == 0
    driver.dispatcher.ended(ref, killed(0), 0)
    driver.finish(ref, 0)
    assert driver.dispatcher.unfinished == 0


def test_retries_are_new_attempts_and_stale_outcomes_do_not_count(driver: Driver) -> None:
    [future] = driver.submit(1, retries=2)
    for attempt in range(3):
        ref = driver.join(attempt)
        driver.dispatcher.pump()
        assert driver.assigned(ref) == [(0, attempt)]
        driver.finish(ref, 0, attempt + 1)
        assert not future.done(), "an outcome of an attempt that is not the current one"
        driver.dispatcher.ended(ref, killed(0), 0)
    assert isinstance(future.exception(10), WorkerLost)
    assert future.attempt == 2


@pytest.mark.parametrize(("reason", "kind"), [(ASKED, TaskKilled), (TIMED_OUT, TaskTimeout)])
def test_the_reason_of_the_end_makes_the_error(driver: Driver, reason: int, kind: type) -> None:
    [future] = driver.submit(1)
    ref = driver.join(0)
    driver.dispatcher.pump()
    driver.dispatcher.ended(ref, killed(0, reason), 0)
    assert type(future.exception(10)) is kind


def test_what_is_killed_on_request_is_not_tried_again(driver: Driver) -> None:
    [future] = driver.submit(1, retries=5)
    ref = driver.join(0)
    driver.dispatcher.pump()
    driver.dispatcher.ended(ref, killed(0, ASKED), 0)
    assert isinstance(future.exception(10), TaskKilled)


def test_a_worker_that_dies_idle_harms_nobody(driver: Driver) -> None:
    ref = driver.join(0)
    futures = driver.load(ref, 3)
    driver.dispatcher.ended(ref, Ended(0, 0, 9, 0, OWN), None)
    assert not any(future.done() for future in futures)
    second = driver.join(1)
    driver.dispatcher.pump()
    assert driver.assigned(second)[0][0] == futures[0].task


def test_a_disk_that_is_full_when_a_worker_dies(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = driver.join(0)
    futures = driver.load(ref, 2)
    culprit = futures[0].task
    assert culprit is not None

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(logs.os, "pwrite", full)
        driver.dispatcher.ended(ref, killed(culprit), culprit)
    assert isinstance(futures[0].exception(10), WorkerLost)
    second = driver.join(1)
    driver.dispatcher.pump()
    assert driver.assigned(second)[0][0] == futures[1].task


def test_who_is_uneven_is_asked_to_hand_back(driver: Driver, clock: Clock) -> None:
    ref = driver.join(0)
    futures = driver.load(ref, 4)
    second = driver.join(1)
    driver.dispatcher.pump()
    clock.now += 2 * PATIENCE
    driver.dispatcher.pump()
    kinds = [kind for kind, _ in driver.run.inbox_reader(ref).read()]
    assert kinds[-1] == RECALL
    assert kinds.count(RECALL) == 1
    driver.dispatcher.crew.returned(ref, 3)
    driver.dispatcher.pump()
    assert driver.assigned(second)[0][0] == futures[1].task


# ---- what the site does -------------------------------------------------------------------------

PREEMPTED = JobStatus(JobState.PREEMPTED, text="PREEMPTED")
NODE_FAILED = JobStatus(JobState.NODE_FAILED, text="NODE_FAIL")


def lose(driver: Driver, attempt: int, status: JobStatus | None, ended: Ended | None = None) -> None:
    """A new worker is given task 0 and is lost with it."""
    ref = driver.join(attempt)
    driver.dispatcher.pump()
    assert driver.assigned(ref) == [(0, attempt)]
    driver.dispatcher.ended(ref, ended, 0, status)


def test_what_the_site_plans_is_free_of_charge(driver: Driver) -> None:
    [future] = driver.submit(1)
    for attempt in range(FREE_RERUNS):
        lose(driver, attempt, PREEMPTED)
        assert not future.done()
    assert driver.dispatcher.unfinished == 1
    ref = driver.join(FREE_RERUNS)
    assert driver.serve(ref, 1) == [(0, FREE_RERUNS)]
    assert future.result(10) == 0
    assert future.attempt == FREE_RERUNS


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_even_what_is_free_has_an_end(driver: Driver, retries: int) -> None:
    [future] = driver.submit(1, retries=retries)
    for attempt in range(FREE_RERUNS + retries):
        lose(driver, attempt, PREEMPTED)
        assert not future.done()
    lose(driver, FREE_RERUNS + retries, PREEMPTED)
    assert isinstance(future.exception(10), Preempted)
    assert future.attempt == FREE_RERUNS + retries


def test_free_attempts_and_charged_ones_are_counted_apart(driver: Driver) -> None:
    [future] = driver.submit(1, retries=2)
    for attempt, status in enumerate([PREEMPTED, None, PREEMPTED, NODE_FAILED, None]):
        lose(driver, attempt, status)
        assert not future.done()
    lose(driver, 5, None)
    assert type(future.exception(10)) is WorkerLost


def test_a_node_that_fails_is_free_of_charge_for_who_may_be_retried(driver: Driver) -> None:
    [future] = driver.submit(1)
    lose(driver, 0, NODE_FAILED)
    assert isinstance(future.exception(10), NodeFailed)


# ---- another attempt under other conditions -----------------------------------------------------


def test_growth_makes_another_kind(driver: Driver) -> None:
    [future] = driver.submit(1, retries=Retries(3, grow={"mem": 2}, ceiling={"mem": "300K"}))
    out = JobStatus(JobState.OUT_OF_MEMORY, text="OUT_OF_MEMORY")
    for attempt, needs in enumerate([100, 200, 300]):
        ref = driver.join(attempt, kind=attempt)
        driver.dispatcher.pump()
        assert driver.assigned(ref) == [(0, attempt)]
        assert driver.kinds.needs(attempt) == {"mem": needs << 10}
        driver.dispatcher.ended(ref, None, 0, out)
    error = future.exception(10)
    assert isinstance(error, OutOfMemory)
    assert len(error.earlier) == 2


def test_a_kind_of_its_own_is_wanted_workers_for(driver: Driver) -> None:
    driver.submit(1, retries=Retries(1, grow={"mem": 2}))
    lose(driver, 0, JobStatus(JobState.OUT_OF_MEMORY, text="OUT_OF_MEMORY"))
    assert driver.dispatcher.wanted() == {0: 0, 1: 1}


def test_rest_before_the_next_attempt(driver: Driver, clock: Clock) -> None:
    driver.submit(1, retries=Retries(2, delay=10, backoff=3))
    for attempt, pause in enumerate([10, 30]):
        lose(driver, attempt, None)
        assert driver.dispatcher.patience == pause
        assert driver.dispatcher.wanted() == {0: 0}
        clock.now += pause - 1
        driver.dispatcher.pump()
        assert driver.dispatcher.wanted() == {0: 0}
        clock.now += 1
        assert driver.dispatcher.stirring
        driver.dispatcher.pump()
        assert driver.dispatcher.wanted() == {0: 1}
        assert driver.dispatcher.patience == float("inf")


def test_nothing_is_due_once_all_that_rests_is_dropped(driver: Driver, clock: Clock) -> None:
    """Else the watching thread would never sleep again."""
    [future] = driver.submit(1, retries=Retries(2, delay=10))
    lose(driver, 0, None)
    driver.dispatcher.close(cancel=True)
    assert future.done()
    assert driver.dispatcher.patience == float("inf")


def test_a_node_that_loses_task_after_task_is_left_out(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """Once tasks have ended elsewhere; who is on it gets no more tasks, and who comes there is sent away."""
    good = driver.join(0, node="good")
    driver.submit(1)
    driver.serve(good, 1)
    driver.dispatcher.ended(good, Ended(0, 0, 0, 0, OWN), None)
    driver.submit(1, retries=9)
    for attempt in range(LOSSES):
        assert "exclude" not in driver.kinds.needs(0)
        ref = driver.join(1 + attempt, node="bad")
        driver.dispatcher.pump()
        assert driver.assigned(ref) == [(1, attempt)]
        staying = driver.join(10 + attempt, node="bad" if attempt == LOSSES - 1 else "elsewhere")
        driver.dispatcher.ended(ref, killed(1), 1)
        if attempt < LOSSES - 1:
            driver.dispatcher.ended(staying, Ended(0, 0, 0, 0, OWN), None)
    assert driver.kinds.needs(0) == {"mem": 100 << 10, "exclude": "bad"}
    assert "node bad has lost 3 tasks in a row" in caplog.text
    assert driver.told(staying)[-1] == LEAVE
    assert driver.dispatcher.shuns("bad", 0)
    assert not driver.dispatcher.shuns("good", 0)


def test_a_node_is_not_blamed_where_all_fail(driver: Driver) -> None:
    driver.submit(10, retries=9)
    for number in range(2 * LOSSES):
        ref = driver.join(number, node=f"n{number % 2}")
        driver.dispatcher.pump()
        driver.dispatcher.ended(ref, killed(driver.assigned(ref)[0][0]), driver.assigned(ref)[0][0])
    assert driver.kinds.needs(0) == {"mem": 100 << 10}


def test_what_was_killed_on_request_is_not_run_again_at_no_charge(driver: Driver) -> None:
    [future] = driver.submit(1)
    lose(driver, 0, PREEMPTED, killed(0, ASKED))
    assert type(future.exception(10)) is TaskKilled


def test_a_dead_worker_waits_for_its_reason_and_gets_nothing(driver: Driver) -> None:
    ref = driver.join(0)
    futures = driver.load(ref, 2)
    driver.dispatcher.crew.excuse(ref)
    driver.dispatcher.crew.excuse(worker(9))
    assert driver.dispatcher.crew.active() == 0
    before = driver.told(ref)
    driver.submit(1)
    driver.dispatcher.pump()
    driver.dispatcher.crew.dismiss(0)
    assert driver.told(ref) == before
    assert not any(future.done() for future in futures)
    culprit = futures[0].task
    assert culprit is not None
    driver.dispatcher.ended(ref, killed(culprit, SITE), culprit, PREEMPTED)
    assert not futures[0].done(), "run again"
    assert driver.serve(driver.join(1), 3)[0] == (culprit, 1)
    assert [future.result(10) for future in futures] == [future.task for future in futures]


# ---- the end of the wall time -------------------------------------------------------------------


def test_who_hands_back_and_leaves_gets_nothing_more(driver: Driver) -> None:
    ref = driver.join(0)
    futures = driver.load(ref, 4)
    driver.dispatcher.crew.returned(ref, 3, leaves=True)
    before = driver.told(ref)
    driver.dispatcher.pump()
    driver.dispatcher.crew.dismiss(0)
    assert driver.told(ref) == before, "it leaves already"
    assert driver.dispatcher.crew.active() == 0
    second = driver.join(1)
    assert driver.serve(second, 3) == [(future.task, 0) for future in futures[1:]]
    first = futures[0].task
    assert first is not None
    driver.finish(ref, first)
    assert [future.result(10) for future in futures] == [future.task for future in futures]
    assert driver.dispatcher.unfinished == 0


def test_what_it_was_given_while_it_said_so_is_not_lost(driver: Driver) -> None:
    """It counts from the end of what it has read; what came later is found when it has left."""
    ref = driver.join(0)
    futures = driver.load(ref, 4)
    late = driver.submit(2)
    driver.dispatcher.pump()
    driver.dispatcher.pump()
    driver.dispatcher.crew.returned(ref, 4, leaves=True)
    driver.dispatcher.ended(ref, Ended(0, 0, 0, 0, OWN), None)
    second = driver.join(1)
    served = driver.serve(second, 6)
    assert sorted(served) == [(future.task, 0) for future in (*futures, *late)]
    assert driver.dispatcher.unfinished == 0


def test_workers_are_told_how_long_they_have(driver: Driver, clock: Clock) -> None:
    """As a duration, each from the moment when it is told."""
    first, other = driver.join(0), driver.join(0, job=1)
    driver.dispatcher.crew.set_end(first.supervisor, clock.now + 600)
    assert driver.time_left(first) == [600]
    clock.now += 50
    second = driver.join(1)
    assert driver.time_left(second) == [550]
    driver.dispatcher.crew.set_end(first.supervisor, clock.now + 100)
    assert driver.time_left(first) == [600, 100]
    assert driver.time_left(second) == [550, 100]
    driver.dispatcher.forget(first.supervisor, JobStatus(JobState.COMPLETED))
    assert driver.time_left(driver.join(2)) == []
    assert driver.time_left(other) == []


def test_one_that_is_not_ready_is_told_when_it_is(driver: Driver, clock: Clock) -> None:
    ref = worker(0)
    post = Post(str(ref), None, None, None)
    driver.run.make_home(ref)
    driver.dispatcher.crew.joined(ref, post)
    driver.dispatcher.crew.set_end(ref.supervisor, clock.now + 600)
    clock.now += 10
    driver.dispatcher.ready(ref, post)
    assert driver.time_left(ref)[-1] == 590


# ---- who is idle --------------------------------------------------------------------------------


def test_jobs_that_are_idle_for_long_are_let_go(driver: Driver, clock: Clock) -> None:
    idle = [driver.join(0), driver.join(1)]
    busy = driver.join(0, job=1)
    driver.dispatcher.demand(3)
    assert driver.dispatcher.wanted() == {0: 3}
    driver.submit(3)
    driver.dispatcher.pump()
    clock.now += 100
    for ref in idle:
        driver.finish(ref, driver.assigned(ref)[0][0])
    assert driver.dispatcher.crew.dismiss_idle(60) == []
    clock.now += 61
    assert driver.dispatcher.crew.dismiss_idle(60) == [WorkerRef(0)]
    assert [driver.told(ref)[-1] for ref in idle] == [LEAVE, LEAVE]
    assert LEAVE not in driver.told(busy)
    assert driver.dispatcher.wanted() == {0: 1}, "what was asked for in advance was not needed"
    assert driver.dispatcher.crew.active() == 1
    assert driver.dispatcher.crew.dismiss_idle(60) == [], "once"
    driver.finish(busy, driver.assigned(busy)[0][0])
    clock.now += 61
    assert driver.dispatcher.crew.dismiss_idle(60) == [busy.supervisor]


def test_a_job_with_one_busy_worker_stays(driver: Driver, clock: Clock) -> None:
    driver.join(0)
    driver.join(1)
    driver.submit(1)
    driver.dispatcher.pump()
    clock.now += 1000
    assert driver.dispatcher.crew.dismiss_idle(60) == []


def test_a_worker_that_has_just_come_is_not_idle_for_long(driver: Driver, clock: Clock) -> None:
    clock.now += 1000
    ref = driver.join(0)
    assert driver.dispatcher.crew.dismiss_idle(60) == []
    clock.now += 61
    assert driver.dispatcher.crew.dismiss_idle(60) == [ref.supervisor]


def test_while_there_is_something_to_do_nobody_is_let_go(driver: Driver, clock: Clock) -> None:
    ref = driver.join(0)
    clock.now += 1000
    driver.submit(1)
    driver.dispatcher.flush()
    assert driver.dispatcher.crew.dismiss_idle(60) == []
    driver.dispatcher.pump()
    assert driver.assigned(ref) == [(0, 0)]


# ---- workers of several kinds -------------------------------------------------------------------


def test_tasks_are_for_workers_of_their_kind(driver: Driver) -> None:
    large = driver.kinds.find({"mem": 200 << 10}, 0)
    plain = driver.join(0)
    [first] = driver.submit(1, kind=large)
    driver.dispatcher.pump()
    assert driver.assigned(plain) == []
    assert driver.dispatcher.wanted() == {0: 0, large: 1}
    [second] = driver.submit(1)
    assert driver.serve(plain, 1) == [(second.task, 0)]
    assert driver.serve(driver.join(0, job=1, kind=large), 1) == [(first.task, 0)]


def test_who_waits_for_another_kind_is_idle_all_the_same(driver: Driver, clock: Clock) -> None:
    """The other kind's job may lie in the queue for hours."""
    ref = driver.join(0)
    driver.submit(1, kind=driver.kinds.find({"mem": 200 << 10}, 0))
    driver.dispatcher.pump()
    clock.now += 61
    assert driver.dispatcher.crew.dismiss_idle(60) == [ref.supervisor]


@given(
    wanted=st.dictionaries(st.integers(0, 9), st.integers(0, 30), max_size=6),
    most=st.integers(0, 60),
)
def test_shares_are_fair(wanted: dict[int, int], most: int) -> None:
    shares = share_out(wanted, most)
    assert set(shares) == set(wanted)
    assert all(0 <= shares[kind] <= wanted[kind] for kind in wanted), "nobody gets what it does not want"
    assert sum(shares.values()) == min(most, sum(wanted.values())), "and nothing is left over"
    hungry = [kind for kind in wanted if wanted[kind]]
    if most >= len(hungry):
        assert all(shares[kind] for kind in hungry), "nobody starves"
    short = [kind for kind in wanted if shares[kind] < wanted[kind]]
    assert all(shares[kind] >= most // len(hungry) for kind in short)


# ---- a lone call --------------------------------------------------------------------------------


def everything(reader: LogReader) -> list[int]:
    kinds = [kind for kind, _ in reader.read()]
    reader.close()
    return kinds


def test_a_lone_call_is_written_once(driver: Driver) -> None:
    ref = driver.join(0)
    [future] = driver.submit(1, timeout=7.5)
    assert future.running(), "nobody else had to do anything"
    assert (future.worker, future.pid) == (str(ref), 4711)
    [(kind, body)] = driver.run.inbox_reader(ref).read()
    assert kind == GIVEN
    assert Task.unpack(body) == (0, 0, 7.5, 0.0, CALL, driver.function.place, b"\x80")
    assert everything(LogReader(driver.run.path, "tasks", shared=False)) == [FUNCTION, POLICY]
    driver.finish(ref, 0)
    assert future.result(10) == 0


def test_a_lone_call_of_a_dead_worker_goes_to_another(driver: Driver) -> None:
    first = driver.join(0)
    [future] = driver.submit(1)
    driver.dispatcher.ended(first, killed(-1), None)
    second = driver.join(1)
    assert driver.serve(second, 1) == [(0, 0)]
    assert future.result(10) == 0


def test_a_lone_call_that_is_tried_again_says_so(driver: Driver) -> None:
    first = driver.join(0)
    [future] = driver.submit(1, retries=1)
    driver.dispatcher.ended(first, killed(0), 0)
    second = driver.join(1)
    assert driver.serve(second, 1) == [(0, 1)]
    assert future.result(10) == 0
    assert future.attempt == 1


@pytest.mark.parametrize("why", ["busy", "leaving", "recalled", "too few", "too large"])
def test_what_is_no_lone_call_goes_through_the_journal(driver: Driver, why: str) -> None:
    ref = driver.join(0)
    member = driver.dispatcher.crew.members()[0]
    body = b"\x80" * (1 << 20 if why == "too large" else 1)
    if why == "busy":
        driver.submit(1)
    elif why == "too few":
        driver.dispatcher.add_items(Row(lambda: None), ITEM, driver.function, [b"\x80"], Policy())
    else:
        member.leaving, member.recalled = why == "leaving", why == "recalled"
    before = driver.assigned(ref)
    future = driver.dispatcher.add(CALL, driver.function, body, [], Policy())
    assert not future.running()
    assert driver.assigned(ref) == before
    driver.dispatcher.flush()
    assert TASKS in everything(LogReader(driver.run.path, "tasks", shared=False))


def test_a_disk_that_is_full_when_a_lone_call_is_made(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = driver.join(0)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(logs.os, "pwrite", full)
        [future] = driver.submit(1)
    error = future.exception(10)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    [future] = driver.submit(1)
    assert driver.serve(ref, 1) == [(1, 0)]
    assert future.result(10) == 1
    assert driver.dispatcher.unfinished == 0


@pytest.mark.parametrize("full", [False, True])
def test_a_worker_that_dies_while_it_is_given_a_lone_call(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The watching thread must not close the inbox under the writer: its descriptor may be another file's."""
    ref = driver.join(0)
    driver.submit(1)
    driver.finish(ref, 0)
    watching = threading.Thread(target=driver.dispatcher.ended, args=(ref, killed(-1), None))
    write = LogWriter.write

    def write_slowly(inbox: LogWriter, data: bytes) -> Location:
        watching.start()
        wait_until(lambda: not driver.dispatcher.crew.members())
        watching.join(0.05)
        assert inbox._fd >= 0, "closed under the writer"
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(inbox, data)

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "write", write_slowly)
        [future] = driver.submit(1)
    watching.join(10)
    assert not future.done()
    assert driver.serve(driver.join(1), 1) == [(1, 0)]
    assert future.result(10) == 1
    assert driver.dispatcher.unfinished == 0


def test_who_waits_for_a_cancelled_task_is_told_when_everything_fails(driver: Driver) -> None:
    """Even if it was cancelled so late that no turn has dropped it."""
    futures = driver.submit(3)
    driver.dispatcher.pump()
    assert futures[1].cancel()
    driver.dispatcher.fail_all(RuntimeError("no worker"), broken=True)
    assert not wait(futures, 10).not_done
    assert [future.state for future in futures] == ["FINISHED", "CANCELLED", "FINISHED"]
    assert driver.dispatcher.unfinished == 0
