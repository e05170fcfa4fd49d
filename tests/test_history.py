"""What a driver knew of a worker is what replaying the worker's logs gives."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfutures.futures import FutureSink
from clusterfutures.history import Account, Runs, Tasks
from clusterfutures.journal import Policy
from clusterfutures.logs import Frame, Location
from clusterfutures.payload import dumps_result
from clusterfutures.records import (
    AGAIN,
    ASSIGN,
    CALL,
    GIVEN,
    LEAVE,
    NUMBER,
    OUTCOME,
    OUTCOME_HEAD,
    POLICY,
    READY,
    RECALL,
    RETIRED,
    RETURNED,
    TASKS,
    Again,
    Assign,
    Batch,
    Ready,
    Task,
)

PLACE = Location(0, 0, 0)


class Pair:
    """A driver and a worker that exchange records by their rules, and each keeps its own account."""

    def __init__(self) -> None:
        self.inbox: list[Frame] = []
        self.outbox: list[Frame] = [Frame(READY, Ready(7, "12_3", "node").pack())]
        self.assigned: list[int] = []  # as the driver has it
        self.queue: list[int] = []  # as the worker has it
        self.read = self.heard = 0  # records of the inbox, by the worker; of the outbox, by the driver
        self.next = 0
        self.recalled = self.retired = False

    def assign(self, count: int) -> None:
        """The driver gives so many tasks, unless it waits for some to come back."""
        if self.recalled or self.retired:
            return
        if count == 1:
            task = Task(self.next, self.next % 3, 0.0, 0.0, CALL, PLACE, b"")
            self.inbox.append(Frame(GIVEN, task.pack()))
        else:
            assign = Assign(PLACE, self.next, 0, count, 0, 0.0)
            self.inbox.append(Frame(ASSIGN, assign.pack()))
        self.assigned += range(self.next, self.next + count)
        self.next += count

    def recall(self) -> None:
        """The driver asks for what was not begun."""
        if not self.recalled:
            self.recalled = True
            self.inbox.append(Frame(RECALL, b""))

    def look(self) -> None:
        """The worker reads the next record of its inbox."""
        if self.read == len(self.inbox):
            return
        kind, body = self.inbox[self.read]
        self.read += 1
        if kind == GIVEN:
            self.queue.append(Task.unpack(body).number)
        elif kind == ASSIGN:
            assign = Assign.unpack(body)
            self.queue += range(assign.first, assign.first + assign.tasks)
        elif kind == RECALL:
            self.outbox.append(Frame(RETURNED, NUMBER.pack(len(self.queue))))
            self.queue.clear()

    def work(self) -> None:
        """The worker does its next task."""
        if self.queue:
            head = OUTCOME_HEAD.pack(self.queue.pop(0), 0, 0, 0.0, 0.0, 0, 0, 0, 0, 0)
            self.outbox.append(Frame(OUTCOME, head))

    def hear(self) -> None:
        """The driver reads the next record of the outbox."""
        if self.heard == len(self.outbox):
            return
        kind, body = self.outbox[self.heard]
        self.heard += 1
        if kind == OUTCOME:
            self.assigned.remove(OUTCOME_HEAD.unpack(body)[0])
        elif kind == RETURNED:
            (count,) = NUMBER.unpack(body)
            del self.assigned[len(self.assigned) - count :]
            self.recalled = False


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 200))
def test_replay(choice: random.Random, steps: int) -> None:
    pair = Pair()
    actions = [pair.recall, pair.look, pair.look, pair.work, pair.work, pair.hear, pair.hear]
    for _ in range(steps):
        action = choice.choice([*actions, lambda: pair.assign(choice.randint(1, 4))])
        action()
    account = Account(pair.inbox, pair.outbox)
    while pair.heard < len(pair.outbox):  # what the driver had not read yet, the next one has
        pair.hear()
    assert list(account.left) == pair.assigned
    assert account.recalled == pair.recalled
    assert len(account.outcomes) == sum(kind == OUTCOME for kind, _ in pair.outbox)
    assert account.ready == Ready(7, "12_3", "node")
    assert not account.leaving


@pytest.mark.parametrize("left", [0, 3])
def test_who_leaves(left: int) -> None:
    told = Account([Frame(ASSIGN, Assign(PLACE, 0, 0, 5, 2, 0.0).pack()), Frame(LEAVE, b"")], [])
    assert told.leaving
    assert told.left == dict.fromkeys(range(5), 2)
    retired = Account(
        [Frame(ASSIGN, Assign(PLACE, 0, 0, 5, 2, 0.0).pack())],
        [Frame(RETIRED, NUMBER.pack(5 - left))],
    )
    assert retired.leaving
    assert list(retired.left) == [*range(left)]


def test_what_is_known_of_earlier_attempts() -> None:
    """Those that the journal knows of, and those that the scheduler has made of its own: these are free."""
    tasks = Tasks()
    for kind, body in (
        (TASKS, Batch(CALL, 0, (), (PLACE,), [b"a", b"b", b"c"]).pack()),
        (POLICY, dumps_result(tuple(Policy(timeout=2.0)))),
        (AGAIN, Again(1, 1, 0, 0.0, 0, "attempt 0: died").pack()),
        (AGAIN, Again(1, 2, 1, 60.0, 1, "attempt 1: preempt\u00e9").pack()),
    ):
        tasks.take(Frame(kind, body), PLACE)
    first, tried, last = Runs(tasks, FutureSink()).of([(0, 0), (1, 4), (2, 0)])
    assert (first.first, first.count, first.free, first.earlier, first.policy) == (0, 1, 0, (), Policy())
    assert (tried.attempt, tried.free, tried.policy.timeout) == (4, 3, 2.0)
    assert tried.earlier == ("attempt 0: died", "attempt 1: preempt\u00e9")
    assert (last.first, last.count, last.attempt, last.free) == (2, 1, 0, 0)
