"""A worker's end of the conversation: what is written is found, bell or not, and so is a driver's death.

Clocks are wound by hand: `Clock` stands in for `time` in the link, and sleeping moves it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterfutures import link as module
from clusterfutures.doorbell import Doorbell
from clusterfutures.link import (
    CLOSED_TIMEOUT,
    GREW,
    LONGEST_POLL,
    LOST,
    RECONNECT,
    SAFETY_POLL,
    SHORTEST_POLL,
    SUPERVISOR,
    WORKER,
    Lease,
    Link,
)
from clusterfutures.logs import CorruptRecord, frame
from clusterfutures.spool import RunDirectory, WorkerRef, publish
from clusterfutures.wire import Record
from tests.support import wait_until

REF = WorkerRef(0, 3, 1, 2, 5)
KEY = bytes(range(32))


class Clock:
    """`time` with a hand that the test moves; `slept` has every sleep."""

    def __init__(self) -> None:
        self.now = 5000.0
        self.slept: list[float] = []
        self.at_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.at_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(params=[False, True], ids=["one-machine", "shared"])
def run_directory(request: pytest.FixtureRequest) -> Iterator[RunDirectory]:
    path = tempfile.mkdtemp(prefix="l")  # short: a Unix socket goes into it
    run = RunDirectory(path, shared=request.param)
    run.make_home(REF)
    publish(os.path.join(path, "key"), KEY, sync=False)
    yield run
    run.close()
    shutil.rmtree(path)


class Ends:
    """The driver's end of one worker's conversation, and the worker's."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.counter = 0
        self.inbox = run.inbox_writer(REF)
        self.outbox = run.outbox_reader(REF)
        self.bell: Doorbell | None = None
        self.links: list[Link] = []

    def lease(self) -> None:
        self.counter += 1
        address = self.bell.address if self.bell is not None else ""
        Lease(self.counter, address).write(self.run)

    def open_bell(self) -> None:
        name = os.path.join(self.run.path, f"bell{self.counter}")
        self.bell = Doorbell(KEY, path=name)

    def link(self, orphan_timeout: float = 60.0, ref: WorkerRef = REF) -> Link:
        link = Link(self.run, ref, orphan_timeout)
        self.links.append(link)
        return link

    def say(self, kind: int) -> None:
        self.inbox.write(frame(kind, b""))
        self.inbox.publish()

    def meet(self, link: Link) -> None:
        """Let the two sides of the bell prove themselves."""
        bell = self.bell
        assert bell is not None

        def met() -> bool:
            bell.poll(0)
            link.wait(0)
            return link.heard

        wait_until(met)

    def close(self) -> None:
        for link in self.links:
            link.close()
        self.inbox.close()
        self.outbox.close()
        if self.bell is not None:
            self.bell.close()


@pytest.fixture
def ends(run_directory: RunDirectory) -> Iterator[Ends]:
    ends = Ends(run_directory)
    yield ends
    ends.close()


# ---- the lease ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "tcp:[::1]:80", "unix:/tmp/a b\n\u00fc", "unix:/\udcff"])
def test_leases_come_back(run_directory: RunDirectory, address: str) -> None:
    Lease(7, address).write(run_directory)
    assert Lease.read(run_directory) == Lease(7, address)


def test_a_lease_that_cannot_be_read(run_directory: RunDirectory) -> None:
    with pytest.raises(FileNotFoundError):
        Lease.read(run_directory)
    Lease(7, "tcp:host:80").write(run_directory)
    content = Path(run_directory.driver).read_bytes()
    for cut in range(len(content)):
        Path(run_directory.driver).write_bytes(content[:cut])
        with pytest.raises(CorruptRecord):
            Lease.read(run_directory)


@pytest.mark.parametrize("content", [b"", b"nonsense", frame(1, b"no number\n"), frame(1, b"\xff")])
def test_a_damaged_lease_harms_nobody(ends: Ends, clock: Clock, content: bytes) -> None:
    Path(ends.run.driver).write_bytes(content)
    link = ends.link()
    ends.say(10)
    assert [one.kind for one in link.wait(1)] == [10]
    clock.now += RECONNECT + 1
    assert not link.orphaned()
    ends.lease()
    clock.now += 59
    assert not link.orphaned()


# ---- without a bell -----------------------------------------------------------------------------


def test_polling_slows_down_and_wakes_up(ends: Ends, clock: Clock) -> None:
    ends.lease()
    link = ends.link()
    for _ in range(40):
        assert link.wait(10) == []
    assert clock.slept[0] == SHORTEST_POLL
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == LONGEST_POLL[ends.run.shared]
    ends.say(10)
    assert [one.kind for one in link.wait(10)] == [10]
    link.wait(10)
    assert clock.slept[-1] == SHORTEST_POLL, "where something has come more may follow"


def test_no_wait_is_longer_than_allowed(ends: Ends, clock: Clock) -> None:
    link = ends.link()
    for _ in range(40):
        link.wait(0.004)
    assert max(clock.slept) == 0.004
    link.wait(0)
    assert clock.slept[-1] == 0


def test_what_comes_while_it_sleeps_is_seen_by_the_same_wait(ends: Ends, clock: Clock) -> None:
    link = ends.link()
    clock.at_sleep = lambda: ends.say(12)
    assert [one.kind for one in link.wait(1)] == [12]


def test_a_loop_of_the_callers_own(ends: Ends, clock: Clock) -> None:
    link = ends.link()
    assert link.fileno() == -1
    assert not link.heard
    assert link.pause(1.0) == SHORTEST_POLL
    link.wait(0)
    assert SHORTEST_POLL < link.pause(1.0) < 1.0


def test_telling_writes_and_shows_it(ends: Ends) -> None:
    link = ends.link()
    link.tell(22, b"body")
    assert ends.outbox.read() == [(22, b"body")]
    link.outbox.write(frame(20, b"more"))
    link.ring()
    assert ends.outbox.read() == [(20, b"more")]
    assert not link.report_lost(1, 0, 28), "nobody heard it"


# ---- who is an orphan ---------------------------------------------------------------------------


def pass_time(link: Link, clock: Clock, seconds: float, step: float = 1.0) -> None:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        link.orphaned()


def test_a_lease_that_does_not_change_makes_orphans(ends: Ends, clock: Clock) -> None:
    ends.lease()
    link = ends.link(orphan_timeout=60)
    pass_time(link, clock, 59)
    assert not link.orphaned()
    pass_time(link, clock, 2)
    assert link.orphaned()


def test_no_lease_at_all_makes_orphans(ends: Ends, clock: Clock) -> None:
    link = ends.link(orphan_timeout=60)
    pass_time(link, clock, 59)
    assert not link.orphaned()
    pass_time(link, clock, 2)
    assert link.orphaned()


def test_a_removed_run_directory_makes_orphans(ends: Ends, clock: Clock) -> None:
    ends.lease()
    link = ends.link(orphan_timeout=60)
    os.unlink(ends.run.driver)
    pass_time(link, clock, 61)
    assert link.orphaned()


@pytest.mark.parametrize("orphan_timeout", [600.0, float("inf")])
def test_who_has_met_a_driver_that_hangs_up_waits_a_minute(
    ends: Ends, clock: Clock, orphan_timeout: float
) -> None:
    ends.open_bell()
    ends.lease()
    link = ends.link(orphan_timeout)
    ends.meet(link)
    link.wait(0)
    assert ends.bell is not None
    ends.bell.close()
    wait_until(lambda: link.wait(0) == [] and not link.heard)
    pass_time(link, clock, CLOSED_TIMEOUT - 1)
    assert not link.orphaned()
    pass_time(link, clock, 2)
    assert link.orphaned() == (orphan_timeout == 600.0), "one without end is meant"


@pytest.mark.parametrize("orphan_timeout", [0.4, 5.0, 60.0, 600.0])
def test_a_lease_renewed_four_times_per_timeout_is_seen(
    ends: Ends, clock: Clock, orphan_timeout: float
) -> None:
    ends.lease()
    link = ends.link(orphan_timeout)
    for _ in range(20):
        pass_time(link, clock, orphan_timeout / 4, orphan_timeout / 50)
        assert not link.orphaned()
        ends.lease()
    pass_time(link, clock, 1.5 * orphan_timeout, orphan_timeout / 50)
    assert link.orphaned()


def test_a_lease_that_goes_backwards_is_a_sign_of_life(ends: Ends, clock: Clock) -> None:
    """Numbers are compared for change only: a driver that came back counts anew."""
    ends.counter = 1000
    ends.lease()
    link = ends.link()
    pass_time(link, clock, 50)
    ends.counter = 0
    ends.lease()
    pass_time(link, clock, 50)
    assert not link.orphaned()


def test_an_endless_timeout_makes_no_orphans(ends: Ends, clock: Clock) -> None:
    link = ends.link(orphan_timeout=float("inf"))
    pass_time(link, clock, 1e6, 1e5)
    assert not link.orphaned()


def test_waiting_looks_at_the_lease_too(ends: Ends, clock: Clock) -> None:
    ends.lease()
    link = ends.link(orphan_timeout=60)
    for _ in range(10_000):
        if clock.now - 5000 > 150:
            break
        if len(clock.slept) % 20 == 0:
            ends.lease()
        link.wait(1)
        assert not link.orphaned()
    assert clock.now - 5000 > 150


# ---- with a bell --------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", [REF, REF.supervisor])
def test_the_driver_learns_who_calls(ends: Ends, ref: WorkerRef) -> None:
    ends.run.make_home(ref)
    ends.open_bell()
    ends.lease()
    link = ends.link(ref=ref)
    bell = ends.bell
    assert bell is not None
    callers: list[object] = []

    def met() -> bool:
        callers.extend(event.line.identity for event in bell.poll(0) if event.opened)
        link.wait(0)
        return bool(callers and link.heard)

    wait_until(met)
    role = WORKER if ref.slot >= 0 else SUPERVISOR
    assert callers == [(role, *ref[:3], max(ref.slot, 0), max(ref.generation, 0), os.getpid())]


def test_ringing_both_ways(ends: Ends) -> None:
    ends.open_bell()
    ends.lease()
    link = ends.link()
    bell = ends.bell
    assert bell is not None
    line = None

    def met() -> bool:
        nonlocal line
        for event in bell.poll(0):
            line = event.line
        link.wait(0)
        return line is not None and link.heard

    wait_until(met)
    ends.say(10)
    line.ring(Record(GREW, 0, ends.inbox.segment, ends.inbox.end))  # type: ignore[attr-defined]
    assert [one.kind for one in link.wait(20)] == [10]

    link.tell(22, b"")
    assert link.report_lost(77, 3, 28)
    heard: list[Record] = []

    def rung() -> bool:
        heard.extend(event.record for event in bell.poll(0) if event.record is not None)
        return len(heard) == 2

    wait_until(rung, describe=lambda: heard)
    assert heard[0][:2] == (GREW, 0)
    assert heard[1] == Record(LOST, 3, 77, 28)
    assert ends.outbox.read(upto=heard[0].b - 1) == [(22, b"")]


def test_an_open_line_is_a_lease(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.open_bell()
    ends.lease()
    link = ends.link(orphan_timeout=60)
    ends.meet(link)
    clock = Clock()
    clock.now = module.time.monotonic()
    monkeypatch.setattr(module, "time", clock)
    pass_time(link, clock, 1000, 30)
    assert not link.orphaned()
    assert ends.bell is not None
    ends.bell.close()

    def hung_up() -> bool:
        link.wait(0)
        return not link.heard

    wait_until(hung_up)
    pass_time(link, clock, 59)
    assert not link.orphaned()
    pass_time(link, clock, 2)
    assert link.orphaned()


def test_a_line_that_broke_is_made_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", 0.01)
    ends.open_bell()
    ends.lease()
    link = ends.link()
    ends.meet(link)
    assert ends.bell is not None
    ends.bell.close()

    def hung_up() -> bool:
        link.wait(0)
        return not link.heard

    wait_until(hung_up)
    ends.say(10)
    assert [one.kind for one in link.wait(1)] == [10], "meanwhile by looking"
    ends.open_bell()
    ends.lease()
    ends.meet(link)


def test_with_a_bell_it_looks_rarely(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.open_bell()
    ends.lease()
    link = ends.link()
    ends.meet(link)
    asked: list[float] = []
    line = link._line
    assert line is not None
    monkeypatch.setattr(type(line), "receive", lambda self, timeout: asked.append(timeout) or [])
    link.wait(60)
    link.wait(0.5)
    assert asked == [SAFETY_POLL, 0.5]
    assert link.pause(1.0) == 1.0


def test_a_bell_that_does_not_answer_is_polled_past(ends: Ends, clock: Clock) -> None:
    ends.counter += 1
    Lease(ends.counter, "unix:/nowhere/at/all").write(ends.run)
    link = ends.link()
    ends.say(10)
    assert [one.kind for one in link.wait(1)] == [10]
    assert not link.heard


def test_a_key_that_is_gone_is_no_crash(ends: Ends, clock: Clock) -> None:
    """The run's directory may be removed while workers still look at it."""
    ends.open_bell()
    ends.lease()
    os.unlink(os.path.join(ends.run.path, "key"))
    link = ends.link(orphan_timeout=60)
    ends.say(10)
    assert [one.kind for one in link.wait(1)] == [10]
    pass_time(link, clock, 61)
    assert link.orphaned()


# ---- forks and ends -----------------------------------------------------------------------------


def test_a_fork_that_lets_go_harms_neither_log_nor_line(ends: Ends) -> None:
    ends.open_bell()
    ends.lease()
    link = ends.link()
    ends.meet(link)
    link.outbox.write(frame(20, b"before"))
    pid = os.fork()
    if pid == 0:
        link.abandon()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    link.tell(21, b"after")
    assert [one.kind for one in ends.outbox.read()] == [20, 21]
    assert ends.bell is not None
    events = ends.bell.poll(20)
    assert events, "the parent's line still rings"
    assert not any(event.closed for event in events)


def test_closing_publishes_and_leaves_no_descriptor(ends: Ends) -> None:
    ends.open_bell()
    ends.lease()
    before = len(os.listdir("/dev/fd"))
    link = Link(ends.run, REF, 60)
    ends.say(10)
    link.wait(0)
    link.outbox.write(frame(20, b""))
    link.close()
    assert [one.kind for one in ends.outbox.read()] == [20]
    ends.outbox.close()
    ends.inbox.close()
    assert len(os.listdir("/dev/fd")) <= before
