"""Jobs come when workers are wanted and go when they are not, whatever the scheduler answers, and when."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clusterfutures import allocation, submissions
from clusterfutures.allocation import (
    DRIFT,
    FAILED_STARTS,
    GATHER,
    WORRY,
    Allocation,
    Element,
    Events,
    Recipe,
)
from clusterfutures.errors import (
    SchedulerUnavailable,
    SubmissionError,
    SubmitLimitReached,
    WorkerStartError,
)
from clusterfutures.records import KILL, NUMBER, STOP, WANT, Kill
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus, Scheduler
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.states import JobState
from clusterfutures.submissions import GROWTH_INTERVAL, MAX_ELEMENTS, PATIENCE

PLENTY = 10_000  # workers, at most, where a test is not about that

PENDING = JobStatus(JobState.PENDING, text="PENDING (Resources)")
RUNNING = JobStatus(JobState.RUNNING, text="RUNNING")
SUSPENDED = JobStatus(JobState.SUSPENDED, text="SUSPENDED")
UNKNOWN = JobStatus(JobState.UNKNOWN, text="SOMETHING_NEW")
FAILED = JobStatus(JobState.FAILED, exit_code=3, text="FAILED")
CANCELLED = JobStatus(JobState.CANCELLED, text="CANCELLED by 0")
COMPLETED = JobStatus(JobState.COMPLETED, exit_code=0)
HOPELESS = JobStatus(JobState.PENDING, text="PENDING (BadConstraints)", hopeless="no node is large enough")

DOWN = SchedulerUnavailable("slurmctld does not answer")
FULL = SubmitLimitReached("QOSMaxSubmitJobPerUserLimit")

NOTHING: tuple[int, int] = (WANT, 0)


class Clock:
    """Stands in for `time` in the allocation."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Question(NamedTuple):
    ids: list[str]
    max_age: float


class Script(Scheduler):
    """Answers what the test says; an element's id is that of its job and its index, as "100_2"."""

    name = "script"
    interval = 10.0
    closing_interval = 1.0
    longest_interval = 60.0
    grace = 30.0

    def __init__(self) -> None:
        self.requests: list[JobRequest] = []
        self.refusals: deque[Exception] = deque()  # of the next submissions
        self.known: dict[str, JobStatus] = {}
        self.down: Exception | None = None
        self.questions: list[Question] = []
        self.cancelled: list[list[str]] = []
        self.largest = 1 << 30

    @property
    def max_array(self) -> int:
        return self.largest

    def submit(self, request: JobRequest) -> list[str]:
        self.requests.append(request)
        if self.refusals:
            raise self.refusals.popleft()
        ids = [f"{100 + request.job}_{index}" for index in range(request.elements)]
        self.known.update(dict.fromkeys(ids, PENDING))
        return ids

    def cancel(self, job_ids: Iterable[str]) -> None:
        self.cancelled.append(list(job_ids))
        if self.down is not None:
            raise self.down

    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        self.questions.append(Question(list(job_ids), max_age))
        if self.down is not None:
            raise self.down
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}

    def explain(self, request: JobRequest) -> str:
        raise NotImplementedError

    def test_only(self, request: JobRequest) -> str:
        raise NotImplementedError


class World:
    """An allocation and everything around it; the test itself is the watching thread."""

    def __init__(self, directory: Path, clock: Clock, per_job: int = 1, **recipe: Any) -> None:
        self.run = RunDirectory(str(directory), shared=False)
        self.clock = clock
        self.scheduler = Script()
        self.heard: set[WorkerRef] = set()  # supervisors that have said something
        self.specification = Specification("run", False, 1, 0, None, [], "drain", 600.0)
        self.recipe = Recipe(
            name="name",
            argv=["python", "boot"],
            cwd="/somewhere",
            environment={"A": "1"},
            setup="true",
            resources={"mem": 1},
            specification=self.specification,
            per_job=per_job,
        )._replace(**recipe)
        self.posted: deque[Callable[[], None]] = deque()
        self.rung: list[WorkerRef] = []
        self.broken: list[BaseException] = []
        self.came: list[WorkerRef] = []
        self.gone: list[tuple[WorkerRef, JobStatus]] = []
        self.ending: list[tuple[WorkerRef, JobStatus]] = []
        self.timed: list[tuple[WorkerRef, float]] = []
        events = Events(
            self.posted.append,
            lambda ref, inbox: self.rung.append(ref),
            self.broken.append,
            lambda element: self.came.append(element.ref),
            self._gone,
            lambda element, status: self.ending.append((element.ref, status)),
            lambda element: self.timed.append((element.ref, element.ends)),
            self.heard.__contains__,
        )
        self.on_gone: Callable[[Element], None] = lambda element: None
        self.recipes = [self.recipe]
        self.allocation = Allocation(self.run, self.scheduler, self.recipes, events)

    def _gone(self, element: Element, status: JobStatus) -> None:
        self.gone.append((element.ref, status))
        self.on_gone(element)

    # -- time -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The clerk does what it was asked to, and the allocation hears of it."""
        self._wait_for_the_clerk()
        while self.posted:
            while self.posted:
                self.posted.popleft()()
            self._wait_for_the_clerk()

    def _wait_for_the_clerk(self) -> None:
        done = threading.Event()
        self.allocation._clerk.do(lambda *_: done.set(), int)
        assert done.wait(20), "the clerk hangs"

    def later(self, seconds: float) -> None:
        self.clock.now += seconds

    def want(self, workers: int, most: int = PLENTY) -> None:
        self.allocation.want({0: workers}, most)

    def turn(self, workers: int, seconds: float = GROWTH_INTERVAL, most: int = PLENTY) -> None:
        """So many are wanted; and `seconds` later still."""
        self.want(workers, most)
        self.later(seconds)
        self.want(workers, most)
        self.settle()

    def answer(self, *statuses: JobStatus | None) -> None:
        """Ask now: the elements that are there are in these states, in order; None is not known any more."""
        for element, status in zip(self.allocation.elements.values(), statuses):
            self.scheduler.known.pop(element.job_id, None)
            if status is not None:
                self.scheduler.known[element.job_id] = status
        self.allocation.ask(at_once=True)
        self.settle()

    # -- looking ----------------------------------------------------------------------------------

    def over(self) -> bool:
        """Whether nothing is left to be waited for."""
        return self.allocation.empty

    @property
    def capacity(self) -> int:
        return self.allocation.capacity(0)

    @property
    def refs(self) -> list[WorkerRef]:
        return list(self.allocation.elements)

    @property
    def sizes(self) -> list[int]:
        """Elements of each request so far."""
        return [request.elements for request in self.scheduler.requests]

    def told(self, ref: WorkerRef) -> list[tuple[int, Any]]:
        """Everything that a supervisor was ever told."""
        found: list[tuple[int, Any]] = []
        for kind, body in self.run.inbox_reader(ref).read():
            if kind == WANT:
                found.append((kind, NUMBER.unpack(body)[0]))
            elif kind == KILL:
                found.append((kind, Kill.unpack(body)))
            else:
                found.append((kind, body))
        return found

    def workers(self) -> dict[WorkerRef, int]:
        """How many workers each supervisor starts with, or was told to have."""
        found = {}
        for ref in self.refs:
            wants = [number for kind, number in self.told(ref) if kind == WANT]
            found[ref] = wants[-1] if wants else Specification.read(self.run, ref.job).workers
        return found

    def close(self) -> None:
        """End it; its thread must end, too."""
        self.allocation.close()
        thread = self.allocation._clerk._thread
        if thread is not None:
            thread.join(20)
            assert not thread.is_alive()
        for element in self.allocation.elements.values():
            element.inbox.abandon()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (allocation, submissions):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def make_world(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(per_job: int = 1, **recipe: Any) -> World:
        worlds.append(World(tmp_path, clock, per_job, **recipe))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One worker a job."""
    return make_world()


# ---- submitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "per_job", "wants"),
    [
        (1, 1, [1]),
        (3, 1, [1, 1, 1]),
        (3, 4, [3]),
        (4, 4, [4]),
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4, 1]),
    ],
)
def test_one_array_for_all_that_is_wanted(
    make_world: Callable[..., World], wanted: int, per_job: int, wants: list[int]
) -> None:
    world = make_world(per_job)
    world.turn(wanted)
    assert world.sizes == [len(wants)]
    assert list(world.workers().values()) == wants
    assert world.refs == world.came == [WorkerRef(0, index) for index in range(len(wants))]
    assert world.capacity == wanted
    short = [ref for ref, want in zip(world.refs, wants) if want != wants[0]]
    assert world.rung == short, "only who has fewer than the others must be told"


def test_what_is_asked_of_the_scheduler(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=2)
    world.turn(3)
    [request] = world.scheduler.requests
    assert request == JobRequest(
        job=0,
        name="name",
        argv=["python", "boot", world.run.path, "0", INDEX, RESTART, JOB_ID],
        elements=2,
        script=world.run.script(0),
        log=world.run.element_log(0, INDEX),
        cwd="/somewhere",
        environment={"A": "1"},
        setup="true",
        resources={"mem": 1},
        tag="run",
    )
    assert Specification.read(world.run, 0) == world.specification._replace(workers=2, elements=2)
    assert os.path.isdir(os.path.dirname(request.log)), "the scheduler must be able to write the log"


def test_what_comes_together_is_one_job(world: World) -> None:
    world.want(1)
    assert not world.scheduler.requests
    world.later(GATHER / 2)
    world.want(2)
    world.settle()
    assert not world.scheduler.requests
    assert 0 < world.allocation.patience <= GATHER
    world.later(GATHER / 2)
    world.want(5)
    world.settle()
    assert world.sizes == [5]
    assert world.allocation.patience == float("inf")


def test_what_need_not_be_gathered_starts_at_once(make_world: Callable[..., World]) -> None:
    world = make_world(gather=0.0)
    world.want(1)
    world.settle()
    assert world.sizes == [1]


def test_one_submission_at_a_time(world: World) -> None:
    world.want(2)
    world.later(GATHER)
    world.want(2)  # now the clerk has it
    for wanted in (2, 5, 9):
        world.later(100)
        world.want(wanted)
        assert not world.allocation.empty
    world.settle()
    assert world.sizes == [2]
    assert world.capacity == 2
    world.turn(9)
    assert world.sizes == [2, 7]
    assert world.refs == [WorkerRef(0, 0), WorkerRef(0, 1), *(WorkerRef(1, index) for index in range(7))]


def test_workers_on_their_way_count(world: World) -> None:
    world.want(2)
    assert world.capacity == 0
    world.later(GATHER)
    world.want(2)
    assert world.capacity == 2
    world.settle()
    assert world.capacity == 2


def test_not_more_than_one_job_in_a_while(world: World) -> None:
    world.turn(1)
    world.turn(2, GROWTH_INTERVAL / 2)
    assert world.sizes == [1]
    assert world.allocation.patience < GROWTH_INTERVAL
    world.turn(3, GROWTH_INTERVAL / 2)
    assert world.sizes == [1, 2]


def test_jobs_that_are_there_grow_first(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=4)
    world.turn(2)
    assert world.workers() == {WorkerRef(0): 2}
    world.turn(4)
    assert world.sizes == [1]
    assert world.told(WorkerRef(0)) == [(WANT, 4)]
    assert world.rung == [WorkerRef(0)]
    world.turn(9)
    assert list(world.workers().values()) == [4, 4, 1]
    assert world.told(WorkerRef(0)) == [(WANT, 4)], "it is full"


def test_no_more_than_is_wanted(world: World) -> None:
    world.turn(3)
    for wanted in (3, 2, 0, 3):
        world.turn(wanted, 100)
    assert world.sizes == [3]
    assert all(world.told(ref) == [] for ref in world.refs), "fewer ends nobody by itself"


def test_arrays_have_a_limit(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (allocation, submissions):
        monkeypatch.setattr(module, "MAX_ELEMENTS", 3)
    world = make_world(per_job=2)
    for _ in range(4):
        world.turn(15)
    assert world.sizes == [3, 3, 2]
    assert sum(world.workers().values()) == world.capacity == 15


def test_nothing_is_gathered_for_what_is_not_wanted_any_more(world: World) -> None:
    world.want(1)
    world.want(0)
    assert world.allocation.patience == float("inf")
    world.later(100)
    world.want(2)
    world.settle()
    assert not world.scheduler.requests, "what is wanted now is gathered anew"


# ---- refusals -----------------------------------------------------------------------------------


def test_a_refusal_is_told_as_it_is(world: World) -> None:
    refusal = SubmissionError("invalid partition", ["sbatch"], 1, "no such thing")
    world.scheduler.refusals.append(refusal)
    world.turn(3)
    assert world.broken == [refusal]
    assert world.capacity == 0
    assert world.allocation.empty


def test_a_scheduler_that_fails_in_another_way(world: World) -> None:
    failure = ValueError("cannot be parsed")
    world.scheduler.refusals.append(failure)
    world.turn(3)
    [error] = world.broken
    assert type(error) is WorkerStartError
    assert error.__cause__ is failure
    assert "cannot be parsed" in str(error)
    assert world.capacity == 0


def test_no_room_for_the_specification(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Specification, "write", full)
    world.turn(3)
    [error] = world.broken
    assert isinstance(error, WorkerStartError)
    assert isinstance(error.__cause__, OSError)
    assert os.strerror(errno.ENOSPC) in str(error)
    assert not world.scheduler.requests
    assert world.capacity == 0
    assert world.allocation.empty


def test_a_limit_on_submissions_halves_them(world: World) -> None:
    world.scheduler.refusals.extend([FULL, FULL])
    world.turn(8)
    assert world.sizes == [8]
    assert world.capacity == 0, "nobody is on the way"
    world.turn(8)
    world.turn(8)
    assert world.sizes == [8, 4, 2]
    assert world.capacity == 2
    assert not world.broken


def test_what_was_accepted_may_be_twice_as_much_the_next_time(world: World) -> None:
    world.scheduler.refusals.extend([FULL, FULL, FULL])
    for _ in range(7):
        world.turn(8)
    assert world.sizes == [8, 4, 2, 1, 2, 4, 1]
    assert world.capacity == 8


def test_where_not_even_one_is_taken_it_waits(world: World) -> None:
    first, most = PATIENCE
    world.scheduler.refusals.extend([FULL] * 20)
    for _ in range(3):
        world.turn(4)
    assert world.sizes == [4, 2, 1]
    world.turn(4, first / 2)
    assert world.sizes == [4, 2, 1]
    assert 0 < world.allocation.patience <= first
    world.turn(4, first / 2)
    assert world.sizes == [4, 2, 1, 1]
    world.turn(4, first)
    assert world.sizes == [4, 2, 1, 1], "ever longer"
    for _ in range(5):
        world.turn(4, most)
    assert world.sizes == [4, 2, 1, 1, *[1] * 5], "but not too long"
    assert not world.broken
    world.scheduler.refusals.clear()
    world.turn(4, most)
    assert world.capacity == 1


def test_arrays_are_as_large_as_the_site_allows(world: World) -> None:
    world.scheduler.largest = 3
    for _ in range(4):
        world.turn(8)
    assert world.sizes == [3, 3, 2], "none was refused"
    assert world.capacity == 8
    assert not world.broken


def test_one_element_is_no_array(world: World) -> None:
    world.scheduler.largest = 0
    world.turn(1)
    assert world.sizes == [1]


def test_an_unreachable_scheduler_is_given_the_same_again(world: World) -> None:
    """It may have taken it: only the very same request can find out."""
    first, _ = PATIENCE
    world.scheduler.refusals.extend([DOWN, DOWN])
    world.turn(3)
    assert world.capacity == 3, "they may be on the way"
    world.turn(3, first / 2)
    assert len(world.scheduler.requests) == 1
    world.turn(3, first)
    assert len(world.scheduler.requests) == 2
    world.turn(3, 2 * first)
    one, *others = world.scheduler.requests
    assert others == [one, one]
    assert world.capacity == 3
    assert world.refs == [WorkerRef(0, index) for index in range(3)]
    assert not world.broken


def test_one_that_answers_again_is_asked_soon(world: World) -> None:
    """However long it was silent: a job that nobody knows of may be running."""
    world.turn(1)
    world.answer(RUNNING)
    world.scheduler.refusals.extend([DOWN] * 5)
    world.scheduler.down = DOWN
    for pause in (GROWTH_INTERVAL, *(PATIENCE[0] * 2**n for n in range(4))):
        world.turn(2, pause)
    assert len(world.scheduler.requests) == 6
    world.answer(RUNNING)  # there is none
    world.turn(2, GROWTH_INTERVAL)
    assert len(world.scheduler.requests) == 6
    world.scheduler.down = None
    world.answer(RUNNING)
    world.turn(2, GROWTH_INTERVAL)
    assert len(world.scheduler.requests) == 7
    assert world.capacity == 2


def test_what_is_wanted_meanwhile_comes_after_what_may_be_there(world: World) -> None:
    first, _ = PATIENCE
    world.scheduler.refusals.append(DOWN)
    world.turn(2)
    world.turn(5, first)
    assert world.sizes == [2, 2]
    assert world.capacity == 2
    world.turn(5)
    assert world.sizes == [2, 2, 3]
    assert world.capacity == 5
    assert [request.job for request in world.scheduler.requests] == [0, 0, 1]


def test_an_unreachable_scheduler_that_then_refuses(world: World) -> None:
    first, _ = PATIENCE
    world.scheduler.refusals.extend([DOWN, FULL])
    world.turn(4)
    world.turn(5, first)
    assert world.sizes == [4, 4]
    assert world.capacity == 0
    world.turn(5)
    assert world.sizes == [4, 4, 2]


# ---- fewer --------------------------------------------------------------------------------------


def test_the_youngest_go_first(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=4)
    world.turn(10)
    world.allocation.shrink(10)
    world.allocation.shrink(12)
    assert list(world.workers().values()) == [4, 4, 2]
    world.allocation.shrink(5)
    assert list(world.workers().values()) == [4, 1, 0]
    assert world.capacity == 5
    world.turn(7)
    assert list(world.workers().values()) == [4, 3, 0]
    assert world.sizes == [3]


def test_fewer_while_more_are_on_their_way(world: World) -> None:
    world.want(5)
    world.later(GATHER)
    world.want(5)
    world.allocation.shrink(2)
    world.settle()
    world.allocation.shrink(2)
    assert sum(world.workers().values()) == 2


def test_there_is_never_more_than_room_for(make_world: Callable[..., World]) -> None:
    """Those count, too, that are leaving and have not left."""
    world = make_world(per_job=2)
    world.turn(9, most=6)
    assert world.capacity == 6
    first, second, _ = world.refs
    world.answer(RUNNING, RUNNING, RUNNING)
    world.allocation.ready(first)
    world.allocation.retire(first)
    world.allocation.retire(second)
    world.turn(9, 100, most=6)
    assert world.sizes == [3]
    assert world.allocation.patience == float("inf"), "there is nothing to wait for but their end"
    world.answer(COMPLETED, RUNNING, RUNNING)
    world.turn(9, most=6)
    assert world.sizes == [3, 1]
    assert world.capacity == 4


def test_one_that_is_let_go_counts_for_nothing(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=2)
    world.turn(4)
    first, second = world.refs
    world.allocation.retire(first)
    world.allocation.retire(first)
    assert world.told(first) == [NOTHING]
    assert world.capacity == 2
    world.turn(4)
    assert world.told(first) == [NOTHING]
    assert world.told(second) == []
    assert world.sizes == [2, 1], "others come in its place"
    world.allocation.retire(WorkerRef(7))


def test_workers_of_one_that_is_let_go_get_no_tasks(world: World) -> None:
    world.turn(2)
    first, second = world.refs
    world.allocation.retire(first)
    assert not world.allocation.serves(first)
    assert world.allocation.serves(second)
    assert world.allocation.serves(WorkerRef(7)), "nothing is known against it"


def test_superfluous_ones_leave_the_queue(world: World) -> None:
    world.turn(4)
    world.answer(RUNNING, PENDING, PENDING, PENDING)
    assert world.allocation.cancel_waiting(0, 2) == 2
    world.settle()
    assert world.scheduler.cancelled == [["100_3", "100_2"]], "the youngest, in one call"
    assert world.capacity == 2
    world.allocation.cancel_waiting(0, 5)
    world.settle()
    assert world.scheduler.cancelled[1:] == [["100_1"]]
    world.answer(RUNNING, CANCELLED, CANCELLED, CANCELLED)
    assert world.refs == [WorkerRef(0, 0)]
    assert not world.broken, "these are no failed starts"


def test_jobs_of_more_workers_than_are_superfluous_stay(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=4)
    world.turn(6)
    world.answer(PENDING, PENDING)
    assert world.allocation.cancel_waiting(0, 1) == 0
    world.settle()
    assert world.scheduler.cancelled == []
    assert world.allocation.cancel_waiting(0, 3) == 2, "of which it has two"
    world.settle()
    assert world.scheduler.cancelled == [["100_1"]]
    assert world.capacity == 4


def test_what_has_started_since_the_last_answer_is_not_superfluous(world: World) -> None:
    world.turn(2)
    world.answer(PENDING, PENDING)
    world.heard.add(WorkerRef(0, 1))
    world.allocation.cancel_waiting(0, 1)
    world.settle()
    assert world.scheduler.cancelled == [["100_0"]]


def withdraw(world: World, *supervisors: WorkerRef) -> None:
    """As the watching thread does: each turn, with those that are new."""
    world.allocation.withdraw(supervisors)
    assert 0 < world.allocation.patience <= GATHER
    world.later(GATHER)
    world.allocation.withdraw(())
    world.settle()


def test_those_that_nobody_needs_are_withdrawn(world: World) -> None:
    world.turn(3)
    world.allocation.withdraw([WorkerRef(0, 0)])
    world.settle()
    assert world.scheduler.cancelled == []
    withdraw(world, WorkerRef(0, 2), WorkerRef(5, 0))
    assert world.scheduler.cancelled == [["100_0", "100_2"]], "what comes together is one call"
    assert world.capacity == 1
    assert world.allocation.patience == float("inf")
    withdraw(world, WorkerRef(0, 0), WorkerRef(0, 1))
    assert world.scheduler.cancelled[1:] == [["100_1"]], "once"
    world.answer(CANCELLED, CANCELLED, CANCELLED)
    assert world.allocation.empty
    assert not world.broken


def test_what_is_not_there_yet_is_withdrawn_when_it_is(world: World) -> None:
    first, _ = PATIENCE
    world.scheduler.refusals.append(DOWN)
    world.turn(2)
    world.allocation.withdraw([WorkerRef(0, 1)])
    world.later(GATHER)
    world.allocation.withdraw([])
    world.settle()
    assert world.scheduler.cancelled == []
    assert world.allocation.patience > first / 2, "there is nothing to do until then"
    world.turn(2, first)
    world.allocation.withdraw([])
    world.settle()
    assert world.scheduler.cancelled == [["100_1"]]


# ---- workers of several kinds -------------------------------------------------------------------


@pytest.fixture
def kinds(world: World) -> World:
    """Plain workers are of kind 0; those of kind 1 have more memory, and two of them a job."""
    world.recipes.append(world.recipe._replace(resources={"mem": 2}, per_job=2))
    for _ in range(2):
        world.allocation.want({0: 2, 1: 4}, PLENTY)
        world.later(GROWTH_INTERVAL)
        world.allocation.want({0: 2, 1: 4}, PLENTY)
        world.settle()
    return world


def test_each_kind_has_jobs_of_its_own(kinds: World) -> None:
    assert [(request.elements, request.resources) for request in kinds.scheduler.requests] == [
        (2, {"mem": 1}),
        (2, {"mem": 2}),
    ]
    assert [kinds.allocation.kind_of(job) for job in (0, 1)] == [0, 1]
    assert list(kinds.workers().values()) == [1, 1, 2, 2]
    assert (kinds.allocation.capacity(0), kinds.allocation.capacity(1)) == (2, 4)
    assert kinds.allocation.surplus({0: 1, 1: 6}) == {0: 1, 1: -2}


def test_jobs_grow_for_their_own_kind(kinds: World) -> None:
    kinds.allocation.shrink(4)
    assert list(kinds.workers().values()) == [1, 1, 2, 0]
    kinds.allocation.want({0: 3, 1: 3}, PLENTY)
    assert list(kinds.workers().values()) == [1, 1, 2, 1]
    kinds.later(GROWTH_INTERVAL)
    kinds.allocation.want({0: 3, 1: 3}, PLENTY)
    kinds.settle()
    assert kinds.sizes == [2, 2, 1]
    assert kinds.allocation.kind_of(2) == 0


def test_jobs_of_the_right_kind_leave_the_queue(kinds: World) -> None:
    kinds.answer(PENDING, PENDING, PENDING, PENDING)
    kinds.allocation.cancel_waiting(0, 1)
    kinds.allocation.cancel_waiting(1, 3)
    kinds.settle()
    assert kinds.scheduler.cancelled == [["100_1"], ["101_1"]]
    assert (kinds.allocation.capacity(0), kinds.allocation.capacity(1)) == (1, 2)


def test_all_kinds_together_have_so_much_room(kinds: World) -> None:
    kinds.allocation.want({0: 4, 1: 4}, 7)
    kinds.later(GROWTH_INTERVAL)
    kinds.allocation.want({0: 4, 1: 4}, 7)
    kinds.settle()
    assert kinds.sizes == [2, 2, 1]


# ---- what the scheduler says --------------------------------------------------------------------


def test_an_element_that_has_ended(world: World) -> None:
    world.turn(2)
    first, second = world.refs
    world.allocation.ready(second)
    world.answer(RUNNING, FAILED)
    assert world.gone == [(second, FAILED)]
    assert world.refs == [first]
    assert world.capacity == 1
    assert not world.broken
    world.turn(2)
    assert world.sizes == [2, 1], "another one comes in its place"


def test_an_element_that_is_not_known_for_a_while(world: World) -> None:
    world.turn(1)
    [ref] = world.refs
    world.answer(RUNNING)
    for _ in range(3):
        world.answer(None)
        world.later(world.scheduler.grace / 4)
    assert world.refs == [ref]
    world.answer(RUNNING)
    world.later(world.scheduler.grace / 2)
    world.answer(None)
    world.later(world.scheduler.grace * 3 / 4)
    world.answer(RUNNING)
    assert world.refs == [ref]
    assert not world.gone


def test_at_the_end_an_element_that_is_not_known_is_not_waited_for(world: World) -> None:
    world.turn(1)
    world.answer(RUNNING)
    world.allocation.let_go()
    world.answer(None)
    assert not world.allocation.empty, "one answer may be wrong"
    world.later(world.scheduler.closing_interval)
    world.answer(None)
    assert world.allocation.empty


def test_an_element_that_is_not_known_any_more(world: World) -> None:
    world.turn(2)
    first, second = world.refs
    for ref in (first, second):
        world.allocation.ready(ref)
    world.answer(RUNNING, None)
    world.later(world.scheduler.grace + 1)
    world.answer(RUNNING, None)
    assert world.refs == [first]
    [(gone, status)] = world.gone
    assert gone == second
    assert status.state is JobState.UNKNOWN
    assert "does not know it" in status.text


@pytest.mark.parametrize("down", [False, True])
def test_absence_begins_when_it_is_first_seen(world: World, down: bool) -> None:
    """Not when the element was last seen: questions may be far apart, or have gone unanswered."""
    world.turn(1)
    world.answer(RUNNING)
    world.scheduler.down = DOWN if down else None
    for _ in range(3):
        world.later(world.scheduler.grace)
        if down:
            world.answer(RUNNING)
    world.scheduler.down = None
    world.answer(None)
    assert world.refs == [WorkerRef(0)]


@pytest.mark.parametrize("failure", [DOWN, ValueError("cannot be parsed")])
def test_no_answer_changes_nothing(
    world: World, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.turn(2)
    world.answer(RUNNING, RUNNING)
    before = [vars(element).copy() for element in world.allocation.elements.values()]
    world.scheduler.down = failure
    with caplog.at_level(logging.WARNING, logger="clusterfutures"):
        world.later(100)
        world.answer(FAILED, None)
    assert [vars(element) for element in world.allocation.elements.values()] == before
    assert str(failure) in caplog.text
    assert not world.gone
    world.scheduler.down = None
    world.answer(RUNNING, FAILED)
    assert world.refs == [WorkerRef(0, 0)]


def test_an_unknown_state_changes_nothing(world: World) -> None:
    world.turn(1)
    world.answer(RUNNING)
    for _ in range(5):
        world.later(world.scheduler.grace)
        world.answer(UNKNOWN)
    assert world.refs == [WorkerRef(0)]
    assert not world.gone


def test_one_that_can_never_start(world: World) -> None:
    world.turn(2)
    world.answer(HOPELESS, PENDING)
    assert world.scheduler.cancelled == [["100_0"]]
    assert not world.broken, "not before it is gone"
    world.answer(CANCELLED, PENDING)
    [error] = world.broken
    assert isinstance(error, WorkerStartError)
    assert "no node is large enough" in str(error)


def test_one_that_can_never_start_is_cancelled_once(world: World) -> None:
    world.turn(1)
    for _ in range(3):
        world.answer(HOPELESS)
    assert world.scheduler.cancelled == [["100_0"]]


# ---- jobs that come to nothing ------------------------------------------------------------------


def test_failed_starts_in_a_row_are_enough(world: World) -> None:
    for number in range(FAILED_STARTS):
        assert not world.broken
        world.turn(1)
        Path(world.run.element_log(number, 0)).write_text(f"no module {number}\n")
        world.answer(FAILED._replace(node="n1"))
    [error] = world.broken
    assert isinstance(error, WorkerStartError)
    for words in ("no module 2", "exit code 3", "FAILED", "job 102_0"):
        assert words in str(error)
    assert "no module 1" not in str(error)
    assert (error.job_id, error.node, error.state) == ("102_0", "n1", "FAILED")
    assert (error.exit_code, error.signal, error.stderr_tail) == (3, None, "no module 2")
    assert error.log_path == world.run.element_log(2, 0)


def test_a_ready_worker_forgives_failed_starts(world: World) -> None:
    for _ in range(3):
        for _ in range(FAILED_STARTS - 1):
            world.turn(1)
            world.answer(FAILED)
        world.turn(1)
        world.allocation.ready(world.refs[0])
        world.answer(FAILED)
    assert not world.broken


def test_how_many_failed_starts_are_enough(make_world: Callable[..., World]) -> None:
    world = make_world(failed_starts=1)
    world.turn(1)
    world.answer(JobStatus(JobState.FAILED, signal=9))
    [error] = world.broken
    assert isinstance(error, WorkerStartError)
    assert (error.exit_code, error.signal, error.state) == (None, "SIGKILL", "failed")
    assert "signal 9" in str(error)
    assert world.run.element_log(0, 0) in str(error), "where nothing was written"


def test_an_end_without_exit_code_is_told_without_one(make_world: Callable[..., World]) -> None:
    world = make_world(failed_starts=1)
    world.turn(1)
    world.answer(CANCELLED)
    assert "CANCELLED by 0" in str(world.broken[0])
    assert "None" not in str(world.broken[0])


@pytest.mark.parametrize("how", ["closed", "retired", "waiting", "ready"])
def test_ends_that_are_no_failed_starts(make_world: Callable[..., World], how: str) -> None:
    world = make_world(failed_starts=1)
    world.turn(1)
    [ref] = world.refs
    world.answer(PENDING)
    if how == "closed":
        world.allocation.let_go()
    elif how == "retired":
        world.allocation.retire(ref)
    elif how == "waiting":
        world.allocation.cancel_waiting(0, 1)
    else:
        world.allocation.ready(ref)
    world.answer(CANCELLED)
    assert world.allocation.empty
    assert not world.broken


def test_a_supervisor_that_gives_up(world: World) -> None:
    world.turn(2)
    ref = WorkerRef(0, 1)
    home = world.run.make_home(WorkerRef(0, 1, 0, 0, 0))
    Path(home, "stderr").write_text("a library is missing\n")
    world.allocation.gave_up(ref, "3 workers in a row")
    [error] = world.broken
    assert isinstance(error, WorkerStartError)
    assert "3 workers in a row" in str(error)
    assert "a library is missing" in str(error)
    assert (error.job_id, error.stderr_tail) == ("100_1", "a library is missing")
    assert error.log_path == str(Path(home, "stderr"))


def test_giving_up_after_good_workers_is_no_reason_to_end(world: World) -> None:
    world.turn(1)
    [ref] = world.refs
    world.allocation.ready(ref)
    world.allocation.gave_up(ref, "3 workers in a row")
    world.answer(COMPLETED)
    world.allocation.gave_up(ref, "3 workers in a row")
    assert not world.broken
    world.turn(1)
    assert world.sizes == [1, 1]
    world.allocation.let_go()
    world.allocation.gave_up(WorkerRef(1), "3 workers in a row")
    assert not world.broken


def test_giving_up_may_be_the_last_word(make_world: Callable[..., World]) -> None:
    """Its end may be known before its outbox was read to the end."""
    world = make_world(failed_starts=1)
    world.turn(1)
    world.on_gone = lambda element: world.allocation.gave_up(element.ref, "3 workers in a row")
    world.answer(COMPLETED)
    assert "3 workers in a row" in str(world.broken[0])


def test_the_id_of_a_job_is_the_schedulers(world: World) -> None:
    world.turn(1)
    world.allocation.elements[WorkerRef(0)].job_id = "100;far"
    assert world.allocation.id_of(WorkerRef(0), "100") == "100;far"
    assert world.allocation.id_of(WorkerRef(0), None) is None, "where a job has none for its tasks to know"
    assert world.allocation.id_of(WorkerRef(7), "107") == "107"


def test_being_ready_may_be_the_last_word(make_world: Callable[..., World]) -> None:
    world = make_world(failed_starts=1)
    world.turn(1)
    world.on_gone = lambda element: world.allocation.ready(element.ref)
    world.answer(COMPLETED)
    assert not world.broken


# ---- started anew -------------------------------------------------------------------------------


def counted(status: JobStatus, restarts: int) -> JobStatus:
    """As a scheduler says it that counts how often it has started an element anew."""
    return status._replace(restarts=restarts)


def ids(history: list[JobStatus]) -> str:
    return "-".join(status.state.name + str(status.restarts).replace("None", "") for status in history)


@pytest.mark.parametrize(
    ("history", "restart"),
    [
        ([RUNNING, PENDING], 1),
        ([SUSPENDED, PENDING], 1),
        ([PENDING, RUNNING, PENDING], 1),
        ([counted(RUNNING, 0), counted(PENDING, 1)], 1),
        ([counted(RUNNING, 0), counted(RUNNING, 1)], 1),
        ([counted(RUNNING, 0), counted(RUNNING, 3)], 3),
        ([counted(PENDING, 0), counted(PENDING, 1)], 1),
        ([counted(PENDING, 0), counted(RUNNING, 2)], 2),
        ([counted(RUNNING, 1)], 1),
    ],
    ids=lambda value: ids(value) if isinstance(value, list) else str(value),
)
def test_what_is_put_back_into_the_queue_is_another_supervisor(
    make_world: Callable[..., World], history: list[JobStatus], restart: int
) -> None:
    world = make_world(per_job=3)
    world.turn(2)
    old, new = WorkerRef(0), WorkerRef(0, 0, restart)
    for status in history[:-1]:
        world.answer(status)
    assert world.refs == [old]
    world.answer(history[-1])
    assert world.refs == [new]
    [(gone, status)] = world.gone
    assert gone == old
    assert status.state is JobState.PREEMPTED, "what it did is done again, at no charge"
    assert world.came[-1] == new
    assert world.told(new) == [(WANT, 2)]
    assert world.allocation.elements[new].job_id == "100_0"
    assert world.capacity == 2
    assert not world.broken
    for state in (RUNNING, RUNNING, SUSPENDED, RUNNING):
        world.answer(state._replace(restarts=history[-1].restarts and restart))
    assert world.refs == [new]


@pytest.mark.parametrize(
    "history",
    [
        [PENDING, RUNNING, RUNNING],
        [PENDING, PENDING, RUNNING],
        [RUNNING, SUSPENDED, RUNNING],
        [UNKNOWN, PENDING, RUNNING],
        [counted(PENDING, 0), counted(RUNNING, 0), counted(SUSPENDED, 0), counted(RUNNING, 0)],
        [counted(RUNNING, 0), counted(PENDING, 0), counted(RUNNING, 0)],
    ],
    ids=ids,
)
def test_what_goes_its_way_is_the_same_supervisor(world: World, history: list[JobStatus]) -> None:
    world.turn(1)
    for status in history:
        world.answer(status)
    assert world.refs == [WorkerRef(0)]
    assert not world.gone


def test_a_state_that_is_not_known_hides_no_restart(world: World) -> None:
    world.turn(1)
    for status in (RUNNING, UNKNOWN, PENDING):
        world.answer(status)
    assert world.refs == [WorkerRef(0, 0, 1)]


def test_a_later_start_calls_before_the_scheduler_says_so(world: World) -> None:
    world.turn(2)
    world.answer(RUNNING, RUNNING)
    for ref in (WorkerRef(0, 0), WorkerRef(5, 0, 9), WorkerRef(0, 7, 1)):
        world.allocation.restarted(ref)
    assert not world.gone
    later = WorkerRef(0, 0, 2)
    world.allocation.restarted(later)
    assert world.refs == [WorkerRef(0, 1), later]
    assert [(ref, status.state) for ref, status in world.gone] == [(WorkerRef(0, 0), JobState.PREEMPTED)]
    world.allocation.restarted(WorkerRef(0, 0, 1))
    assert world.refs == [WorkerRef(0, 1), later], "an earlier one that is late"


@pytest.mark.parametrize(
    "answers",
    [
        [RUNNING, RUNNING],
        [PENDING, RUNNING],
        [counted(RUNNING, 1)],
        [counted(RUNNING, 0), counted(RUNNING, 1)],
        [counted(RUNNING, 0), counted(PENDING, 1), counted(RUNNING, 1)],
        [counted(FAILED, 0), counted(RUNNING, 1)],
    ],
    ids=ids,
)
def test_a_start_that_was_heard_of_is_not_taken_for_another(world: World, answers: list[JobStatus]) -> None:
    """However late the answers are that tell of it, and of what was before it."""
    world.turn(1)
    world.answer(RUNNING)
    later = WorkerRef(0, 0, 1)
    world.allocation.restarted(later)
    world.allocation.restarted(later)
    for answer in answers:
        world.answer(answer)
    assert world.refs == [later]
    assert [ref for ref, _ in world.gone] == [WorkerRef(0)]


def test_an_answer_about_an_earlier_start_is_not_about_the_later_one(world: World) -> None:
    world.turn(1)
    world.answer(RUNNING)
    world.scheduler.known["100_0"] = FAILED
    world.allocation.ask(at_once=True)
    later = WorkerRef(0, 0, 1)
    world.allocation.restarted(later)
    world.settle()
    assert world.refs == [later]
    assert [ref for ref, _ in world.gone] == [WorkerRef(0)]


@pytest.mark.parametrize("end", [counted(COMPLETED, 2), COMPLETED, None], ids=["told", "not-told", "gone"])
def test_a_start_that_nobody_saw_is_the_one_that_has_ended(world: World, end: JobStatus | None) -> None:
    """It was put back, began and ended between two questions: what it wrote lies in its own directory."""
    world.turn(1)
    world.answer(RUNNING)
    later = WorkerRef(0, 0, 2)
    for ref in (WorkerRef(0, 0, 1), later):
        world.run.make_home(ref)
    world.answer(end)
    if end is None:
        assert world.refs == [WorkerRef(0)], "first it is given time"
        world.later(world.scheduler.grace)
        world.answer(None)
    assert [ref for ref, _ in world.gone] == [WorkerRef(0), later]
    assert world.gone[0][1].state is JobState.PREEMPTED
    assert world.came[-1] == later
    assert not world.refs


def test_one_that_was_let_go_stays_so_when_it_is_started_anew(world: World) -> None:
    world.turn(2)
    world.answer(RUNNING, RUNNING)
    world.allocation.retire(WorkerRef(0, 1))
    world.answer(RUNNING, PENDING)
    later = WorkerRef(0, 1, 1)
    assert world.told(later) == [NOTHING]
    assert world.capacity == 1


# ---- wall time ----------------------------------------------------------------------------------


def test_the_end_of_the_wall_time_is_told_when_it_moves(world: World) -> None:
    world.turn(1)
    [ref] = world.refs

    def learn(seconds: float | None) -> None:
        world.answer(RUNNING._replace(time_left=seconds))

    learn(None)
    assert not world.timed
    learn(600)
    end = world.clock.now + 600
    assert world.timed == [(ref, end)]
    world.later(100)
    learn(500)
    learn(500 + 0.9 * DRIFT)
    learn(500 - 0.9 * DRIFT)
    assert world.timed == [(ref, end)], "what it says moves a little each time"
    learn(3500)
    assert world.timed[1:] == [(ref, end + 3000)]
    learn(0)
    assert world.timed[2:] == [(ref, world.clock.now)]
    learn(None)
    learn(None)
    assert world.timed[3:] == [(ref, float("inf"))], "somebody has taken the limit away"


def test_the_end_of_the_wall_time_is_put_off_while_the_job_is_suspended(world: World) -> None:
    world.turn(1)
    world.answer(RUNNING._replace(time_left=600.0))
    world.later(300)
    world.answer(SUSPENDED._replace(time_left=500.0))
    assert [end for _, end in world.timed] == [world.clock.now + 300, world.clock.now + 500]


def test_a_job_that_waits_has_no_end_yet(world: World) -> None:
    world.turn(1)
    world.answer(PENDING._replace(time_left=600.0))
    assert not world.timed


# ---- when to ask --------------------------------------------------------------------------------


def asked(world: World) -> int:
    """Have it ask, if it is time; returns how often it has asked by now."""
    world.allocation.ask()
    world.settle()
    return len(world.scheduler.questions)


def test_all_jobs_in_one_question(world: World) -> None:
    world.turn(2)
    world.turn(3)
    assert asked(world) == 1
    assert world.scheduler.questions[0].ids == ["100_0", "100_1", "101_0"]


def test_nothing_is_asked_about_nothing(world: World) -> None:
    assert asked(world) == 0
    world.turn(1)
    world.answer(COMPLETED)
    world.later(1000)
    assert asked(world) == 1


def gaps(world: World, count: int) -> list[float]:
    """Seconds, in steps of a half, between the next questions."""
    found = []
    for _ in range(count):
        before, gap = len(world.scheduler.questions), 0.0
        while not world.allocation._asking and len(world.scheduler.questions) == before:
            world.later(0.5)
            gap += 0.5
            world.allocation.ask()
        world.settle()
        found.append(gap)
    return found


def test_questions_become_rare_while_nothing_changes(world: World) -> None:
    scheduler = world.scheduler
    world.turn(1)
    asked(world)
    found = gaps(world, 15)
    assert found == sorted(found)
    assert found[0] <= scheduler.interval
    assert found[-2:] == [scheduler.longest_interval] * 2
    ages = [question.max_age for question in scheduler.questions[1:]]
    assert all(0 < age < gap for age, gap in zip(ages, found)), "what another has asked in between is as good"


def test_after_news_questions_are_frequent_again(world: World) -> None:
    scheduler = world.scheduler
    world.turn(1)
    scheduler.known["100_0"] = RUNNING
    gaps(world, 15)
    scheduler.known["100_0"] = RUNNING._replace(text="RUNNING (otherwise)")
    assert gaps(world, 3)[1:] == [scheduler.interval, 1.5 * scheduler.interval]
    scheduler.known.clear()
    gaps(world, 1)
    scheduler.known["100_0"] = SUSPENDED
    assert gaps(world, 2)[1] <= scheduler.interval


def test_a_fresh_start_is_looked_after(world: World) -> None:
    """Should it fail, nobody rings."""
    scheduler = world.scheduler
    world.turn(1)
    asked(world)
    soon = 2 * scheduler.closing_interval
    assert gaps(world, 1)[0] <= soon, "submitted"
    gaps(world, 15)
    scheduler.known["100_0"] = RUNNING
    assert gaps(world, 2)[1] <= soon, "started"
    gaps(world, 15)
    world.turn(2)
    assert gaps(world, 2)[1] <= soon, "one more submitted"


def test_once_some_have_started_the_others_are_not_looked_after(world: World) -> None:
    """Jobs that come and go all the time would have the scheduler asked all the time."""
    scheduler = world.scheduler
    world.turn(1)
    asked(world)
    [ref] = world.allocation.elements
    world.allocation.ready(ref)
    gaps(world, 15)
    world.turn(2)
    for state in (PENDING, RUNNING):
        scheduler.known["101"] = state
        assert min(gaps(world, 3)) >= scheduler.interval


def test_a_supervisor_that_fell_silent_is_asked_after(world: World) -> None:
    world.turn(1)
    gaps(world, 15)
    world.allocation.worried = True
    before = len(world.scheduler.questions)
    assert set(gaps(world, 3)) == {WORRY * world.scheduler.interval}
    ages = [question.max_age for question in world.scheduler.questions[before:]]
    assert max(ages) < WORRY * world.scheduler.interval, "an older answer would be no news"


def test_urgent_questions_do_not_make_the_others_rare(world: World) -> None:
    world.turn(1)
    gaps(world, 3)
    [before] = gaps(world, 1)
    world.allocation.urgent = True
    gaps(world, 20)
    world.allocation.urgent = False
    assert gaps(world, 2)[1] <= 2.5 * before


def test_what_is_ending_has_not_ended(world: World) -> None:
    world.turn(1)
    [ref] = world.refs
    ending = JobStatus(JobState.ENDING, text="COMPLETING")
    world.answer(ending)
    assert world.allocation.is_ending(ref)
    assert not (world.gone or world.ending)
    world.answer(ending._replace(ends_as=JobState.TIMEOUT))
    assert [(found, status.state) for found, status in world.ending] == [(ref, JobState.TIMEOUT)]
    assert not world.gone
    world.answer(JobStatus(JobState.TIMEOUT))
    assert [found for found, _ in world.gone] == [ref]
    assert not world.allocation.is_ending(ref)


def test_how_it_will_end_may_be_known_while_it_runs(world: World) -> None:
    world.turn(1)
    [ref] = world.refs
    doomed = RUNNING._replace(ends_as=JobState.CANCELLED)
    world.answer(doomed)
    assert [(found, status.state) for found, status in world.ending] == [(ref, JobState.CANCELLED)]
    world.allocation.let_go()
    world.answer(doomed)
    assert not world.gone, "it still runs"
    assert not world.over()


def test_what_is_ending_is_not_waited_for_at_the_end(world: World) -> None:
    world.turn(2)
    world.heard.update(world.refs)
    world.allocation.let_go()
    world.answer(RUNNING, JobStatus(JobState.ENDING))
    assert not world.over()
    world.answer(JobStatus(JobState.ENDING, ends_as=JobState.CANCELLED))
    assert world.over()
    assert [status.state for _, status in world.gone] == [JobState.ENDING, JobState.CANCELLED]


@pytest.mark.parametrize("how", ["urgent", "closed"])
def test_questions_are_frequent_while_somebody_waits(world: World, how: str) -> None:
    world.turn(1)
    asked(world)
    if how == "urgent":
        world.allocation.urgent = True
        assert world.allocation.patience == world.scheduler.closing_interval
    else:
        world.allocation.let_go()
    before = asked(world)
    for number in range(1, 4):
        world.later(world.scheduler.closing_interval)
        assert asked(world) == before + number
    assert world.scheduler.questions[-1].max_age == 0, "no stale answer will do"


def test_a_question_at_once(world: World) -> None:
    world.turn(1)
    before = asked(world)
    world.allocation.ask(at_once=True)
    world.settle()
    assert world.scheduler.questions[before:] == [Question(["100_0"], 0.0)]


def test_no_question_before_the_last_is_answered(world: World) -> None:
    world.turn(1)
    for _ in range(5):
        world.later(1000)
        world.allocation.ask(at_once=True)
    world.settle()
    assert len(world.scheduler.questions) == 1
    world.allocation.ask(at_once=True)
    world.settle()
    assert len(world.scheduler.questions) == 2


# ---- ending -------------------------------------------------------------------------------------


def test_all_are_let_go(make_world: Callable[..., World]) -> None:
    world = make_world(per_job=2)
    world.turn(3)
    world.allocation.shrink(2)
    first, second = world.refs
    before = world.told(second)
    assert before[-1] == NOTHING
    world.allocation.let_go()
    assert world.told(first) == [NOTHING]
    assert world.told(second) == before, "it was told already"
    world.turn(5, 100)
    assert world.sizes == [2], "and nobody comes any more"


def test_all_are_stopped(world: World) -> None:
    world.turn(2)
    world.answer(RUNNING, RUNNING)
    world.allocation.stop()
    for ref in world.refs:
        assert world.told(ref) == [(STOP, b"")]
    assert world.rung == world.refs
    world.turn(5, 100)
    assert world.sizes == [2]


def test_one_that_was_heard_of_is_stopped_though_the_last_answer_is_older(world: World) -> None:
    world.turn(1)
    world.answer(PENDING)
    [ref] = world.refs
    world.heard.add(ref)
    world.allocation.stop()
    assert world.told(ref) == [(STOP, b"")]


def test_all_are_cancelled_in_one_call(world: World) -> None:
    world.turn(2)
    world.turn(3)
    world.allocation.cancel()
    world.settle()
    assert world.scheduler.cancelled == [["100_0", "100_1", "101_0"]]
    assert all(element.cancelled for element in world.allocation.elements.values())
    assert len(world.refs) == 3, "they are not gone until the scheduler says so"


def test_nothing_is_cancelled_where_there_is_nothing(world: World) -> None:
    world.allocation.cancel()
    world.allocation.cancel_silent()
    world.turn(1)
    world.heard.update(world.refs)
    world.allocation.cancel_silent()
    world.settle()
    assert world.scheduler.cancelled == []


def test_those_that_were_never_heard_of_are_cancelled(world: World) -> None:
    world.turn(3)
    world.heard.add(WorkerRef(0, 1))
    world.allocation.cancel_silent()
    world.settle()
    assert world.scheduler.cancelled == [["100_0", "100_2"]]
    assert world.allocation.closed


def test_a_cancellation_that_fails_is_no_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.turn(1)
    world.scheduler.down = DOWN
    with caplog.at_level(logging.WARNING, logger="clusterfutures"):
        world.allocation.cancel()
        world.settle()
    assert str(DOWN) in caplog.text
    world.scheduler.down = None
    world.answer(CANCELLED)
    assert world.allocation.empty


@pytest.mark.parametrize("accepted", [False, True])
def test_the_end_comes_while_a_submission_is_under_way(world: World, accepted: bool) -> None:
    """Nobody has heard of these, so they cannot be told; yet they may wait in the queue for days."""
    if not accepted:
        world.scheduler.refusals.append(FULL)
    world.want(2)
    world.later(GATHER)
    world.want(2)
    world.allocation.let_go()
    world.allocation.cancel_silent()
    assert not world.over()
    world.settle()
    assert world.scheduler.cancelled == ([["100_0", "100_1"]] if accepted else [])
    world.answer(CANCELLED, CANCELLED)
    assert world.over()
    assert not world.broken


def test_the_end_comes_while_a_submission_is_put_off(world: World) -> None:
    """The scheduler may have taken it: that is found out, and then it is cancelled."""
    world.scheduler.refusals.append(DOWN)
    world.turn(2)
    world.allocation.let_go()
    for _ in range(3):
        assert not world.over()
        if world.refs:
            break
        world.turn(0, PATIENCE[1])
    world.settle()
    assert world.scheduler.cancelled == [["100_0", "100_1"]]
    world.answer(CANCELLED, CANCELLED)
    assert world.over()


@pytest.mark.parametrize("with_clerk", [False, True])
def test_what_gets_no_answer_is_given_up_in_the_end(world: World, with_clerk: bool) -> None:
    first, _ = PATIENCE
    world.scheduler.refusals.extend([DOWN, DOWN])
    world.turn(2)
    world.allocation.let_go()
    world.later(first)
    if with_clerk:
        world.want(0)
    world.allocation.give_up()
    world.settle()
    assert world.over()
    world.turn(0, PATIENCE[1])
    assert len(world.scheduler.requests) == 1 + with_clerk, "nobody asks any more"


def test_one_worker_or_one_task_is_killed(world: World) -> None:
    world.turn(2)
    worker = WorkerRef(0, 1, 0, 3, 2)
    world.allocation.kill(worker, 0, 15)
    world.allocation.kill(worker, 8, 9)
    world.allocation.kill(WorkerRef(4, 0, 0, 0, 0), 0, 9)
    assert world.told(worker.supervisor) == [(KILL, Kill(3, 2, 0, 15)), (KILL, Kill(3, 2, 8, 9))]
    assert world.told(WorkerRef(0, 0)) == []
    assert world.rung == [worker.supervisor] * 2


def test_with_a_full_disk_the_scheduler_is_told_instead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.turn(2)
    world.answer(RUNNING, RUNNING)

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        world.allocation.retire(WorkerRef(0, 1))
        world.settle()
        assert world.scheduler.cancelled == [], "while the run goes on it is no reason to end jobs"
        world.allocation.stop()
        world.settle()
    assert set(chain.from_iterable(world.scheduler.cancelled)) == {"100_0", "100_1"}
    assert world.rung == [], "there is nothing to read"


# ---- any history --------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Whatever is wanted, answered and lost, in any order: in the end, everybody wanted is there."""

    @initialize(per_job=st.integers(1, 3))
    def start(self, per_job: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        for module in (allocation, submissions):
            self.patch.setattr(module, "time", self.clock)
            self.patch.setattr(module, "MAX_ELEMENTS", 3)
        self.world = World(Path(tempfile.mkdtemp()), self.clock, per_job, failed_starts=1000)
        self.world.recipes.append(self.world.recipe)
        self.wanted = {0: 0, 1: 0}

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.check_the_end()
        finally:
            self.world.close()
            self.patch.undo()

    def check_the_end(self) -> None:
        """With a scheduler that does what it should, all that are wanted come."""
        self.world.scheduler.refusals.clear()
        for _ in range(25):
            self.world.settle()
            self.turn(PATIENCE[1])
        self.world.settle()
        for kind, wanted in self.wanted.items():
            assert self.world.allocation.capacity(kind) >= wanted
            elements = self.world.allocation.elements.values()
            there = sum(element.want for element in elements if element.kind == kind and not element.leaving)
            assert there >= wanted, "these are not promises"
        assert not self.world.broken

    def turn(self, seconds: float) -> None:
        for _ in range(2):
            self.world.allocation.want(self.wanted, PLENTY)
            self.clock.now += seconds

    @rule(
        workers=st.tuples(st.integers(0, 12), st.integers(0, 3)),
        seconds=st.sampled_from([GATHER, GROWTH_INTERVAL, *PATIENCE]),
        refusal=st.sampled_from([None, None, DOWN, FULL]),
    )
    def want(self, workers: tuple[int, int], seconds: float, refusal: Exception | None) -> None:
        if refusal is not None:
            self.world.scheduler.refusals.append(refusal)
        self.wanted = dict(enumerate(workers))
        self.turn(seconds)

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @rule(workers=st.integers(0, 3))
    def shrink(self, workers: int) -> None:
        self.wanted = {0: workers, 1: 0}
        self.world.allocation.shrink(workers)

    @rule(data=st.data(), how=st.sampled_from(["retire", "end", "requeue", "call", "cancel"]))
    def lose(self, data: st.DataObject, how: str) -> None:
        world = self.world
        if not world.refs:
            return
        ref = data.draw(st.sampled_from(world.refs))
        job_id = world.allocation.elements[ref].job_id
        if how == "retire":
            world.allocation.retire(ref)
        elif how == "call":
            world.allocation.restarted(ref._replace(restart=ref.restart + 1))
        elif how == "cancel":
            for kind, surplus in world.allocation.surplus(self.wanted).items():
                world.allocation.cancel_waiting(kind, surplus)
        else:
            world.scheduler.known[job_id] = RUNNING
            world.allocation.ask(at_once=True)
            world.settle()
            world.scheduler.known[job_id] = FAILED if how == "end" else PENDING
            world.allocation.ask(at_once=True)

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "world"):
            return
        own = self.world.allocation
        for element in own.elements.values():
            assert 0 <= element.want <= self.world.recipe.per_job
        refs = [ref[:2] for ref in own.elements]
        assert len(refs) == len(set(refs)), "one start of each element"


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestHistories = Histories.TestCase


def test_the_largest_array_is_what_most_sites_allow() -> None:
    assert MAX_ELEMENTS <= 1001, "MaxArraySize of Slurm, unless configured otherwise"
