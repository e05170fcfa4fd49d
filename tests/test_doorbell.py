"""The doorbell: who gets through, what arrives, and what all others cannot do to those who did.

An attacker here has everything but the key: it can connect, listen in, sit on the port, and stand
between the two sides (:class:`Between`).
"""

from __future__ import annotations

import contextlib
import hmac
import os
import pickle
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterfutures import doorbell, wire
from clusterfutures.doorbell import Caller, Doorbell, Event
from clusterfutures.line import Line, _parse
from clusterfutures.wire import Identity, Record
from tests.security import examples
from tests.support import REPOSITORY, ScriptResult, wait_until

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
ME = Identity(role=1, job=2, index=3, incarnation=4, slot=5, generation=6, pid=7)
LARGEST = Record(2**8 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1)
KINDS = ("unix", "tcp", "unix-poll", "tcp-poll")
"""Kinds of socket, on epoll or on what macOS has."""


# ---- helpers ------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for a Unix socket, and hostile all the same."""
    directory = Path(tempfile.mkdtemp(prefix="b 'l%s\n"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def cleanup() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


class Ends:
    """Makes both ends, closes them with the test."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self.place = place
        self._stack = stack

    def bell(self, kind: str = "unix", key: bytes = KEY) -> Doorbell:
        if kind.startswith("unix"):
            bell = Doorbell(key, path=str(self.place / f"s{len(os.listdir(self.place))}"))
        else:
            bell = Doorbell(key, host="127.0.0.1")
        self._stack.callback(bell.close)
        return bell

    def line(self, address: str, key: bytes = KEY, who: Identity = ME, **options: float) -> Line:
        line = Line.start(address, key, who, **options)
        self._stack.callback(line.close)
        return line

    def pair(self, kind: str = "unix") -> tuple[Doorbell, Caller, Line]:
        bell = self.bell(kind)
        line = self.line(bell.address)
        return bell, meet(bell, line)[0], line

    def raw(self, address: str) -> socket.socket:
        """A connection to `address` without any manners."""
        scheme, _, rest = address.partition(":")
        sock = socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET)
        self._stack.callback(sock.close)
        sock.settimeout(20)
        sock.connect(rest if scheme == "unix" else ("127.0.0.1", int(rest.rpartition(":")[2])))
        return sock

    def listener(self, backlog: int = 16) -> socket.socket:
        """A TCP listener that is no doorbell."""
        sock = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._stack.callback(sock.close)
        sock.settimeout(20)
        return sock

    def child(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """A Python process; `script` finds both ends, `os` and `sys` imported."""
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os, sys\n{IMPORT}\n{script}", *arguments],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process


IMPORT = """
from clusterfutures.doorbell import Doorbell
from clusterfutures.line import Line
from clusterfutures.wire import Identity
"""


@pytest.fixture
def ends(place: Path, cleanup: contextlib.ExitStack) -> Ends:
    return Ends(place, cleanup)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name.endswith("poll"):
        monkeypatch.delattr(select, "epoll", raising=False)
    return name


def meet(bell: Doorbell, *lines: Line) -> list[Caller]:
    """Drive both ends until every line has been let in."""
    events: list[Event] = []

    def all_in() -> bool:
        events.extend(bell.poll(0.002))
        for line in lines:
            line.receive(0)
        return len(events) >= len(lines) and all(line.ready for line in lines)

    wait_until(all_in, describe=lambda: (events, lines), interval=0)
    assert [event.opened for event in events] == [True] * len(lines)
    return [event.line for event in events]


def events_of(bell: Doorbell, count: int) -> list[Event]:
    """The next `count` events, however many polls they take."""
    events: list[Event] = []

    def enough() -> bool:
        events.extend(bell.poll(1))
        return len(events) >= count

    wait_until(enough, describe=lambda: (len(events), events[-3:]), interval=0)
    assert len(events) == count
    return events


def heard(line: Line, count: int) -> list[Record]:
    """The next `count` records, however many calls they take."""
    records: list[Record] = []

    def enough() -> bool:
        records.extend(line.receive(1))
        return len(records) >= count or line.dead

    wait_until(enough, describe=lambda: (len(records), records[-3:], line), interval=0)
    assert len(records) == count
    return records


def works(bell: Doorbell, caller: Caller, line: Line, number: int = 1) -> bool:
    """Whether one record goes each way and nothing else happens."""
    assert caller.ring(Record(1, number))
    assert heard(line, 1) == [Record(1, number)]
    assert line.send(Record(2, number))
    (event,) = events_of(bell, 1)
    return event.line is caller and event.record == Record(2, number)


def until_dead(line: Line, bell: Doorbell | None = None) -> list[Event]:
    """Drive `line` (and `bell`) until it is dead; the events meanwhile."""
    events: list[Event] = []

    def dead() -> bool:
        if bell is not None:
            events.extend(bell.poll(0.002))
        assert line.receive(0.01) == []
        return line.dead

    wait_until(dead, describe=lambda: line, interval=0)
    return events


def hung_up(sock: socket.socket) -> bool:
    """Whether the other side has ended `sock`; what it said before is read and forgotten."""
    sock.setblocking(False)
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@contextlib.contextmanager
def polled(bell: Doorbell) -> Iterator[list[Event]]:
    """A thread that polls without a timeout; closes the doorbell at the end."""
    events: list[Event] = []

    def loop() -> None:
        while not bell.closed:
            events.extend(bell.poll(None))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield events
    finally:
        bell.close()
        thread.join(20)
    assert not thread.is_alive()


class Between:
    """A stranger on the way: a line connects to it, it to the doorbell, and decides what passes."""

    def __init__(self, ends: Ends, bell: Doorbell) -> None:
        listener = ends.listener()
        self.line = ends.line(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        self.below = ends._stack.enter_context(listener.accept()[0])
        self.below.settimeout(20)
        self.above = ends.raw(bell.address)
        self.bell = bell
        self.said: list[bytes] = []

    def introduce(self) -> Caller:
        """Pass the handshake on unchanged, and note what the line said."""
        self.line.receive(0.01)
        self.said.append(self.below.recv(4096))
        self.above.sendall(self.said[0])
        wait_until(lambda: self.bell.poll(0.01) or readable(self.above), interval=0)
        self.below.sendall(self.above.recv(4096))
        wait_until(lambda: self.line.receive(0.01) or self.line.ready, interval=0)
        self.said.append(self.below.recv(4096))
        self.above.sendall(self.said[1])
        (event,) = events_of(self.bell, 1)
        assert event.opened
        return event.line

    def frame_up(self, record: Record) -> bytes:
        """What the line sends for `record`; it gets no further."""
        assert self.line.send(record)
        return self.below.recv(4096)

    def frame_down(self, caller: Caller, record: Record) -> bytes:
        """What the doorbell sends for `record`; it gets no further."""
        assert caller.ring(record)
        return self.above.recv(4096)


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# ---- records ------------------------------------------------------------------------------------


class TestRecord:
    def test_fields(self) -> None:
        record = Record(1, 2, c=4)
        assert (record.kind, record.a, record.b, record.c) == (1, 2, 0, 4)
        assert repr(record) == "Record(kind=1, a=2, b=0, c=4)"
        assert record == Record(1, 2, 0, 4) != Record(1, 2, 0, 5)
        assert pickle.loads(pickle.dumps(record)) == record

    def test_identity(self) -> None:
        assert ME.role == 1
        assert (ME.job, ME.index, ME.incarnation, ME.slot, ME.generation, ME.pid) == tuple(range(2, 8))
        assert repr(ME).startswith("Identity(role=1, job=2, index=3, ")
        copy = pickle.loads(pickle.dumps(ME))
        assert copy == ME
        assert type(copy) is Identity

    @pytest.mark.parametrize("bad", [Record(256), Record(0, 2**32), Record(0, 0, -1), Record(0, 0, 0, 2**64)])
    def test_one_that_does_not_fit_harms_nothing(self, ends: Ends, bad: Record) -> None:
        bell, caller, line = ends.pair()
        with pytest.raises(ValueError, match="does not fit the wire"):
            caller.ring(bad)
        with pytest.raises(ValueError, match="does not fit the wire"):
            line.send(bad)
        assert works(bell, caller, line)

    def test_identity_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="does not fit the wire"):
            Line.start("tcp:127.0.0.1:1", KEY, Identity(-1))


@examples(100)
@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"k" * 64, b"")
@example(b"k" * 65, b"m")
def test_mac_is_hmac(key: bytes, message: bytes) -> None:
    assert wire.Mac(key)(message) == hmac.new(key, message, "sha256").digest()


# ---- what goes through --------------------------------------------------------------------------


class TestRoundTrip:
    def test_both_ways(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        assert caller.identity == ME
        assert caller.ring(LARGEST)
        assert line.receive(20) == [LARGEST]
        assert line.send(LARGEST)
        (event,) = bell.poll(20)
        assert (event.line, event.record, event.opened, event.closed) == (
            caller,
            LARGEST,
            False,
            False,
        )
        for number in range(20):
            assert works(bell, caller, line, number)

    def test_what_arrives_together_is_returned_together(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        records = [Record(1, number) for number in range(100)]
        assert caller._session is not None
        size = len(records) * caller._session.size
        assert all(caller.ring(record) for record in records)
        wait_until(lambda: len(line._sockets()[0].recv(2 * size, socket.MSG_PEEK)) == size)
        assert line.receive(20) == records
        assert all(line.send(record) for record in records)
        wait_until(lambda: len(caller._sock.recv(2 * size, socket.MSG_PEEK)) == size)
        assert [event.record for event in bell.poll(20)] == records

    @pytest.mark.parametrize("host", ["", "localhost", "::1", "0.0.0.0"])
    def test_listening_elsewhere(self, ends: Ends, host: str) -> None:
        try:
            bell = Doorbell(KEY, host=host)
        except OSError as error:
            pytest.skip(f"cannot listen on {host!r}: {error}")
        ends._stack.callback(bell.close)
        assert "0.0.0.0" not in bell.address
        line = ends.line(bell.address)
        assert works(bell, *meet(bell, line), line)

    def test_a_fixed_port_can_be_used_again(self, ends: Ends) -> None:
        bell, _caller, line = ends.pair("tcp")
        port = int(bell.address.rpartition(":")[2])
        bell.close()
        until_dead(line)
        again = Doorbell(KEY, host="127.0.0.1", port=port)
        assert again.address == bell.address
        again.close()

    def test_first_address_that_proves_itself_wins(self, ends: Ends) -> None:
        silent, refusing = ends.listener(), ends.listener()
        ports = [sock.getsockname()[1] for sock in (silent, refusing)]
        refusing.close()
        bell = ends.bell("tcp")
        good = bell.address.rpartition(":")[2]
        candidates = ",".join(f"127.0.0.1:{port}" for port in (*ports, good, good))
        line = ends.line(f"tcp:{candidates}")
        (caller,) = meet(bell, line)
        assert works(bell, caller, line)
        line.close()
        assert [event.closed for event in events_of(bell, 1)] == [True]
        assert bell.poll(0.05) == []

    def test_fileno_tells_when_to_receive(self, ends: Ends) -> None:
        bell = ends.bell("tcp")
        line = ends.line(bell.address)
        number = line.fileno()

        def step() -> bool:
            bell.poll(0.002)
            if select.select([number], [], [], 0)[0]:
                line.receive(0)
            return line.ready

        wait_until(step, interval=0)
        assert line.fileno() == number
        callers = list(bell._lines.values())
        wait_until(lambda: bell.poll(0.01) or not bell._strangers, interval=0)
        assert callers[0].ring(Record(1))
        wait_until(lambda: select.select([number], [], [], 0)[0])
        assert line.receive(0) == [Record(1)]
        assert select.select([number], [], [], 0)[0] == []
        line.close()
        assert line.fileno() == -1

    def test_many_lines(self, ends: Ends) -> None:
        count = 1000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = 3 * count + 200
        if hard != resource.RLIM_INFINITY and hard < needed:
            pytest.skip(f"needs {needed} descriptors, {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
        ends._stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        bell = ends.bell("tcp")
        lines: list[Line] = []
        callers: list[Caller] = []
        for start in range(0, count, 50):  # fewer than the strangers that may wait at a time
            who = [Identity(1, index=start + number) for number in range(50)]
            lines += [ends.line(bell.address, who=one) for one in who]
            callers += meet(bell, *lines[start:])
        assert sorted(caller.identity.index for caller in callers) == list(range(count))
        assert all(caller.ring(Record(1, caller.identity.index)) for caller in callers)
        assert [heard(line, 1)[0].a for line in lines] == list(range(count))
        assert all(line.send(Record(2, number)) for number, line in enumerate(lines))
        answers = events_of(bell, count)
        assert all(e.record == Record(2, e.line.identity.index) for e in answers)

    def test_a_crowd_gets_in(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody of it is dropped, and there is no waiting for a place that is already free."""
        monkeypatch.setattr(doorbell, "_STRANGER_GRACE", 100.0)
        monkeypatch.setattr(doorbell, "_HANDSHAKE_TIME", 100.0)
        bell = ends.bell("tcp")
        crowd = 3 * doorbell._STRANGERS
        lines = [ends.line(bell.address, who=Identity(1, index=n)) for n in range(crowd)]
        with polled(bell) as events:
            wait_until(
                lambda: [line.receive(0) for line in lines] and all(line.ready for line in lines),
                describe=lambda: (len(events), [line for line in lines if not line.ready]),
            )
            wait_until(lambda: len(events) == crowd, describe=lambda: len(events))
        assert {event.line.identity.index for event in events} == set(range(crowd))

    def test_only_records_on_a_network_are_sealed(self, ends: Ends, kind: str) -> None:
        """As it is on the wire: nothing is spent where the kernel carries the bytes itself."""
        _bell, caller, line = ends.pair(kind)
        record = Record(1, 2, 3, 4)
        plain = struct.pack("<BIQQ", *record)
        assert caller.ring(record)
        wait_until(lambda: readable(line._sockets()[0]))
        found = line._sockets()[0].recv(4096, socket.MSG_PEEK)
        assert found[: len(plain)] == plain
        assert len(found) - len(plain) == (0 if kind.startswith("unix") else wire._TAG)

    def test_tcp_options(self, ends: Ends) -> None:
        _bell, caller, line = ends.pair("tcp")
        for sock in (caller._sock, line._sockets()[0]):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_KEEPIDLE"):
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


# ---- who does not get through -------------------------------------------------------------------


class TestStrangers:
    def test_line_with_another_key(self, ends: Ends, kind: str) -> None:
        bell = ends.bell(kind)
        line = ends.line(bell.address, OTHER_KEY)
        assert until_dead(line, bell) == []
        assert not line.ready
        assert not line.send(Record(1))

    def test_proof_with_another_key(self, ends: Ends) -> None:
        """A caller that does not care whether the driver is genuine."""
        bell = ends.bell("tcp")
        sock = ends.raw(bell.address)
        guest = wire.Guest(wire.Mac(OTHER_KEY), wire.IDENTITY.pack(*ME))
        sock.sendall(guest.hello)
        wait_until(lambda: bell.poll(0.01) or readable(sock), interval=0)
        nonce = sock.recv(4096)[: wire._NONCE]
        said = guest.hello + nonce + wire.IDENTITY.pack(*ME)
        sock.sendall(wire.IDENTITY.pack(*ME) + wire.Mac(OTHER_KEY)(b"worker" + said))
        wait_until(lambda: bell.poll(0.01) or hung_up(sock), interval=0)
        assert bell.poll(0.05) == []

    def test_handshake_of_yesterday(self, ends: Ends) -> None:
        bell = ends.bell("tcp")
        between = Between(ends, bell)
        between.introduce()
        thief = ends.raw(bell.address)
        thief.sendall(b"".join(between.said))
        assert wait_until(lambda: bell.poll(0.01) or hung_up(thief), interval=0) is True
        slow = ends.raw(bell.address)
        slow.sendall(between.said[0])
        wait_until(lambda: bell.poll(0.01) or readable(slow), interval=0)
        slow.sendall(between.said[1])
        assert wait_until(lambda: bell.poll(0.01) or hung_up(slow), interval=0) is True
        assert bell.poll(0.05) == []

    def test_hello_with_something_behind_it(self, ends: Ends) -> None:
        """Nobody knows what to say next before the challenge is there."""
        bell = ends.bell("tcp")
        sock = ends.raw(bell.address)
        sock.sendall(wire.Sealed.magic + bytes(wire._NONCE + 1))
        wait_until(lambda: bell.poll(0.01) or readable(sock), interval=0)
        assert sock.recv(4096) == b""

    def squat(self, ends: Ends, answer: Callable[[bytes], bytes]) -> Line:
        """A line to a server that answers hello so; returned once it has decided."""
        squatter = ends.listener()
        line = ends.line(f"tcp:127.0.0.1:{squatter.getsockname()[1]}")
        line.receive(0)
        with squatter.accept()[0] as sock:
            sock.settimeout(20)
            sock.sendall(answer(sock.recv(4096)))
            wait_until(lambda: line.receive(0.01) or line.dead or line.ready, interval=0)
            assert line.dead
            assert sock.recv(4096) == b""  # it was told nothing
        return line

    def test_squatter_with_garbage(self, ends: Ends) -> None:
        self.squat(ends, lambda hello: os.urandom(wire._CHALLENGE))

    def test_squatter_with_a_mirror(self, ends: Ends) -> None:
        self.squat(ends, lambda hello: hello + hello)

    def test_squatter_that_hangs_up(self, ends: Ends) -> None:
        squatter = ends.listener()
        line = ends.line(f"tcp:127.0.0.1:{squatter.getsockname()[1]}")
        squatter.accept()[0].close()
        until_dead(line)

    def test_squatter_with_a_challenge_of_yesterday(self, ends: Ends) -> None:
        bell = ends.bell("tcp")
        spy = ends.raw(bell.address)
        spy.sendall(wire.Sealed.magic + bytes(wire._NONCE))
        wait_until(lambda: bell.poll(0.01) or readable(spy), interval=0)
        recorded = spy.recv(4096)
        assert len(recorded) == wire._CHALLENGE
        self.squat(ends, lambda hello: recorded)

    def test_squatter_that_adds_a_record(self, ends: Ends) -> None:
        """A genuine challenge, relayed, with something behind it."""
        host = wire.Host(wire.Mac(KEY))
        self.squat(ends, lambda hello: host.feed(hello) + bytes(wire.Sealed.size))

    @pytest.mark.parametrize("key", [b"", b"short", "text" * 8])
    def test_short_key(self, key: bytes, place: Path) -> None:
        with pytest.raises((ValueError, TypeError)) as caught:
            Doorbell(key, path=str(place / "s"))
        assert "short" not in str(caught.value)
        assert os.listdir(place) == []

    def test_the_key_is_not_shown(self, ends: Ends) -> None:
        secret = b"correct horse battery staple 1234"
        bell = ends.bell("tcp", secret)
        line = ends.line(bell.address, secret)
        (caller,) = meet(bell, line)
        line.close()
        shown = repr([bell, line, caller, *events_of(bell, 1), vars(bell), vars(line)])
        assert "horse" not in shown
        assert secret.hex() not in shown
        assert bell.address in shown


class TestBetween:
    """On the wire of a line that has been let in."""

    @pytest.fixture
    def between(self, ends: Ends) -> Between:
        return Between(ends, ends.bell("tcp"))

    def refused_above(self, between: Between, *frames: bytes) -> list[Event]:
        """The events until the doorbell has closed the line, without that one."""
        for frame in frames:
            between.above.sendall(frame)
        events: list[Event] = []
        wait_until(
            lambda: events.extend(between.bell.poll(1)) or (events and events[-1].closed),
            describe=lambda: events,
            interval=0,
        )
        wait_until(lambda: hung_up(between.above))
        return events[:-1]

    def refused_below(self, between: Between, *frames: bytes) -> None:
        for frame in frames:
            between.below.sendall(frame)
        until_dead(between.line)

    def test_passed_on(self, between: Between) -> None:
        caller = between.introduce()
        between.above.sendall(between.frame_up(Record(1)))
        assert [event.record for event in events_of(between.bell, 1)] == [Record(1)]
        between.below.sendall(between.frame_down(caller, Record(2)))
        assert between.line.receive(20) == [Record(2)]

    def test_byte_by_byte(self, between: Between) -> None:
        caller = between.introduce()
        up, down = between.frame_up(Record(1)), between.frame_down(caller, Record(2))
        for place in range(wire.Sealed.size):
            assert between.bell.poll(0) == []
            assert between.line.receive(0) == []
            between.above.sendall(up[place : place + 1])
            between.below.sendall(down[place : place + 1])
        assert [event.record for event in events_of(between.bell, 1)] == [Record(1)]
        assert heard(between.line, 1) == [Record(2)]

    def test_replay(self, between: Between) -> None:
        caller = between.introduce()
        up, down = between.frame_up(Record(1)), between.frame_down(caller, Record(2))
        between.above.sendall(up)
        assert len(events_of(between.bell, 1)) == 1
        between.below.sendall(down)
        assert between.line.receive(20) == [Record(2)]
        assert self.refused_above(between, up) == []
        self.refused_below(between, down)

    def test_reorder(self, between: Between) -> None:
        caller = between.introduce()
        first, second = between.frame_up(Record(1)), between.frame_up(Record(2))
        assert self.refused_above(between, second, first) == []
        assert not caller.ring(Record(1))

    def test_reorder_below(self, between: Between) -> None:
        caller = between.introduce()
        first, second = (between.frame_down(caller, Record(kind)) for kind in (1, 2))
        self.refused_below(between, second, first)

    def test_omission(self, between: Between) -> None:
        between.introduce()
        between.frame_up(Record(1))
        assert self.refused_above(between, between.frame_up(Record(2))) == []

    def test_reflection(self, between: Between) -> None:
        caller = between.introduce()
        up, down = between.frame_up(Record(1)), between.frame_down(caller, Record(1))
        assert self.refused_above(between, down) == []
        self.refused_below(between, up)

    def test_splice(self, between: Between, ends: Ends) -> None:
        """A record of another connection between the same two."""
        other = Between(ends, between.bell)
        caller, other_caller = between.introduce(), other.introduce()
        between.frame_up(Record(1))
        between.frame_down(caller, Record(1))
        up, down = other.frame_up(Record(1)), other.frame_down(other_caller, Record(1))
        assert self.refused_above(between, up) == []
        self.refused_below(between, down)
        assert not other.line.dead

    def test_half_a_record_and_the_end(self, between: Between) -> None:
        between.introduce()
        frame = between.frame_up(Record(1))
        between.above.sendall(frame[:-1])
        assert between.bell.poll(0.05) == []
        between.above.close()
        assert [event.closed for event in events_of(between.bell, 1)] == [True]

    def test_tampering_with_each_byte(self) -> None:
        for place in range(wire.Sealed.size):
            for bit in (1, 128):
                ours, theirs = sessions()
                frame = bytearray(ours.pack(Record(1, 2, 3, 4)))
                frame[place] ^= bit
                with pytest.raises(wire.Forged):
                    theirs.unpack(bytes(frame))

    def test_tampering_with_each_byte_of_the_handshake(self) -> None:
        sizes = (wire._HELLO, wire._CHALLENGE, wire._PROOF)
        for message, size in enumerate(sizes):
            for place in range(size):
                host, guest = handshake(tamper=(message, place, 1))
                assert host.session is None
                assert guest.session is None or message == 2  # it knows the driver by then
        host, guest = handshake()
        assert host.identity == ME
        assert guest.session is not None


def handshake(
    tamper: tuple[int, int, int] = (-1, 0, 0),
) -> tuple[wire.Host, wire.Guest]:
    """A handshake in memory, in which `tamper` (message, place, bits) is changed on the way."""
    host = wire.Host(wire.Mac(KEY))
    guest = wire.Guest(wire.Mac(KEY), wire.IDENTITY.pack(*ME))

    def carry(number: int, data: bytes) -> bytes:
        message, place, bits = tamper
        if message != number or place >= len(data):
            return data
        return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]

    with contextlib.suppress(wire.Forged):
        challenge = host.feed(carry(0, guest.hello))
        host.feed(carry(2, guest.feed(carry(1, challenge))))
    return host, guest


def sessions() -> tuple[wire.Session, wire.Session]:
    """The two ends of a session: the driver's and the worker's."""
    host, guest = handshake()
    assert host.session is not None
    assert guest.session is not None
    return host.session, guest.session


# ---- noise: bytes of any kind in either parser --------------------------------------------------

CHUNKS = st.lists(st.binary(max_size=150), max_size=6)


class TestFuzz:
    @examples(100)
    @given(CHUNKS, st.booleans())
    @example([b"GET / HTTP/1.1\r\n\r\n"], False)
    def test_host(self, chunks: list[bytes], after_hello: bool) -> None:
        host = wire.Host(wire.Mac(KEY))
        if after_hello:
            host.feed(wire.Sealed.magic + bytes(wire._NONCE))
        with contextlib.suppress(wire.Forged):
            for chunk in chunks:
                host.feed(chunk)
        assert host.session is None
        assert host.identity is None

    @examples(100)
    @given(CHUNKS)
    def test_guest(self, chunks: list[bytes]) -> None:
        guest = wire.Guest(wire.Mac(KEY), wire.IDENTITY.pack(*ME))
        with contextlib.suppress(wire.Forged):
            for chunk in chunks:
                assert guest.feed(chunk) == b""
        assert guest.session is None

    @examples(100)
    @given(CHUNKS)
    def test_session(self, chunks: list[bytes]) -> None:
        _, session = sessions()
        with contextlib.suppress(wire.Forged):
            for chunk in chunks:
                assert session.unpack(chunk) == []

    @examples(100)
    @given(
        st.integers(0, 2),
        st.integers(0, 63),
        st.integers(1, 255),
    )
    def test_changed_handshake(self, message: int, place: int, bits: int) -> None:
        host, guest = handshake(tamper=(message, place, bits))
        size = (len(guest.hello), wire._CHALLENGE, wire._PROOF)[message]
        assert (host.session is None) == (place < size)

    @examples(100)
    @given(
        st.lists(
            st.builds(
                Record,
                st.integers(0, 2**8 - 1),
                st.integers(0, 2**32 - 1),
                st.integers(0, 2**64 - 1),
                st.integers(0, 2**64 - 1),
            )
        ),
        st.integers(1, 100),
    )
    def test_any_records_in_any_pieces(self, records: list[Record], size: int) -> None:
        ours, theirs = sessions()
        stream = b""
        for record in records:
            stream += ours.pack(record)
            ours.sent += 1
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [record for piece in pieces for record in theirs.unpack(piece)] == records

    def test_noise_over_sockets(self, ends: Ends) -> None:
        bell, caller, line = ends.pair("tcp")

        @examples(40)
        @given(CHUNKS)
        def noise(chunks: list[bytes]) -> None:
            with contextlib.closing(ends.raw(bell.address)) as sock:
                with contextlib.suppress(ConnectionError):
                    for chunk in chunks:
                        sock.sendall(chunk)
                assert bell.poll(0) == []

        noise()
        wait_until(lambda: bell.poll(0.01) or not bell._strangers)
        assert works(bell, caller, line)

    @examples(100)
    @given(
        st.text(max_size=60).map("tcp:".__add__)
        | st.tuples(st.ip_addresses(), st.integers()).map(lambda pair: f"tcp:{pair[0]}:{pair[1]}")
    )
    def test_addresses(self, address: str) -> None:
        try:
            candidates = _parse(address)
        except ValueError:
            return
        assert candidates
        for family, (_, port) in candidates:
            assert family in (socket.AF_INET, socket.AF_INET6)
            assert 0 < port < 65536


# ---- floods, crowds, lack of everything ---------------------------------------------------------


class TestDefence:
    def test_flood_of_garbage(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "_STRANGER_GRACE", 0.05)
        bell, caller, line = ends.pair("tcp")
        stop = threading.Event()
        sent = [0]

        def flood() -> None:
            held: list[socket.socket] = []
            while not stop.is_set():
                sock = ends.raw(bell.address)
                held.append(sock)
                with contextlib.suppress(OSError):
                    sock.sendall((wire.Sealed.magic + os.urandom(20), b"\0" * 4096)[sent[0] % 2])
                sent[0] += 1
                if len(held) > 300:
                    held.pop(0).close()
            for sock in held:
                sock.close()

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            rounds = 0
            while sent[0] < 400 or rounds < 200:
                assert works(bell, caller, line, rounds)
                assert len(bell._strangers) <= doorbell._STRANGERS
                rounds += 1
                assert rounds < 200_000, sent
        finally:
            stop.set()
            thread.join(20)
        late = ends.line(bell.address)
        (second,) = meet(bell, late)
        assert works(bell, second, late)

    def test_flood_on_an_admitted_line_leaves_the_others_alone(self, ends: Ends) -> None:
        bell, caller, line = ends.pair()
        noisy = ends.line(bell.address)
        meet(bell, noisy)
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set() and noisy.send(Record(9)):
                pass

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for number in range(20):
                assert line.send(Record(2, number))
                mine: list[Event] = []
                wait_until(
                    lambda mine=mine: (
                        mine.extend(event for event in bell.poll(1) if event.line is caller) or mine
                    ),
                    interval=0,
                )
                assert [event.record for event in mine] == [Record(2, number)]
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()

    @pytest.mark.parametrize("drip", [b"", wire.Sealed.magic, wire.Sealed.magic + b"1234567"])
    def test_slow_handshake(self, ends: Ends, monkeypatch: pytest.MonkeyPatch, drip: bytes) -> None:
        bell, caller, line = ends.pair("tcp")
        monkeypatch.setattr(doorbell, "_HANDSHAKE_TIME", 0.3)
        with polled(bell) as events:
            sock = ends.raw(bell.address)
            for number in drip:
                sock.sendall(bytes([number]))
            wait_until(lambda: hung_up(sock))
            assert events == []
            assert line.send(Record(1))
            wait_until(lambda: events)
            assert caller.ring(Record(2))
            assert heard(line, 1) == [Record(2)]

    def test_drip_does_not_buy_time(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "_HANDSHAKE_TIME", 0.3)
        bell = ends.bell("tcp")
        with polled(bell) as events:
            sock = ends.raw(bell.address)
            drops = iter(wire.Sealed.magic + bytes(wire._NONCE - 1))

            def drip() -> bool:
                with contextlib.suppress(OSError, StopIteration):
                    sock.setblocking(True)
                    sock.send(bytes([next(drops)]))
                return hung_up(sock)

            wait_until(drip, interval=0.05)
            assert next(drops, None) is not None, "it came to the end of its hello"
            assert events == []

    def test_too_many_strangers(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doorbell, "_STRANGER_GRACE", 0.1)
        monkeypatch.setattr(doorbell, "_HANDSHAKE_TIME", 50.0)
        bell = ends.bell("tcp")
        with polled(bell):
            socks = [ends.raw(bell.address) for _ in range(doorbell._STRANGERS + 5)]
            wait_until(lambda: all(hung_up(sock) for sock in socks[:5]))
            assert not any(hung_up(sock) for sock in socks[5:])
            line = ends.line(bell.address)
            wait_until(lambda: line.receive(0.01) or line.ready, interval=0)

    def test_no_descriptors_left(self, run: Callable[..., ScriptResult]) -> None:
        run(NO_DESCRIPTORS).check()

    @pytest.mark.skipif(not hasattr(select, "epoll"), reason="counts epoll's descriptor")
    def test_no_descriptors_to_begin_with(self, run: Callable[..., ScriptResult]) -> None:
        run(NO_DESCRIPTORS_AT_ALL).check()

    def test_accept_that_fails_otherwise_does_not_spin(
        self, ends: Ends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bell, caller, line = ends.pair("tcp")
        calls: list[float] = []

        class Broken:
            family = socket.AF_INET

            def __init__(self, listener: object) -> None:
                self.listener = listener

            def __getattr__(self, name: str) -> object:
                return getattr(self.listener, name)

            def _accept(self) -> object:
                calls.append(time.monotonic())
                raise OSError(12, "no memory")

        whole = bell._listener
        monkeypatch.setattr(bell, "_listener", Broken(whole))
        ends.raw(bell.address)
        assert bell.poll(0.7) == []
        assert 1 <= len(calls) <= 8
        assert works(bell, caller, line)
        monkeypatch.setattr(bell, "_listener", whole)
        late = ends.line(bell.address)
        assert works(bell, *meet(bell, late), late)

    def test_one_that_cannot_be_watched(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        bell, caller, line = ends.pair("tcp")

        def full(fd: int, mask: int) -> None:
            raise OSError(28, "no space left for watches")

        monkeypatch.setattr(bell._poller, "add", full)
        late = ends.line(bell.address)
        assert until_dead(late, bell) == []
        assert works(bell, caller, line)

    def test_slow_reader(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        caller._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        count = 0
        while caller.ring(Record(1, count)):
            count += 1
            assert count < 10_000_000
        assert not caller.ring(Record(1, count))
        records: list[Record] = []

        def read() -> bool:
            assert bell.poll(0) == []  # which sends the rest of the last one
            records.extend(line.receive(0.01))
            return len(records) >= count

        wait_until(read, describe=lambda: (len(records), count), interval=0)
        assert [record.a for record in records] == list(range(count))
        wait_until(lambda: bell.poll(0.01) or caller.ring(Record(3)), interval=0)
        assert heard(line, 1) == [Record(3)]
        assert works(bell, caller, line)

    def test_slow_driver(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("clusterfutures.line.STALL", 0.2)
        bell, _caller, line = ends.pair()
        count = 0
        while line.send(Record(1, count)):
            count += 1
            assert count < 10_000_000
        assert line.dead
        assert not line.send(Record(1))
        events = events_of(bell, count + 1)
        assert [event.record.a for event in events[:-1] if event.record] == list(range(count))
        assert events[-1].closed

    def test_slow_driver_that_comes_back(self, ends: Ends) -> None:
        """A full buffer is waited for."""
        bell, _caller, line = ends.pair()
        count = 3000
        seen: list[Event] = []
        thread = threading.Thread(target=lambda: [line.send(Record(1, number)) for number in range(count)])
        thread.start()
        wait_until(
            lambda: seen.extend(bell.poll(0.01)) or len(seen) >= count,
            describe=lambda: len(seen),
            interval=0,
        )
        thread.join(20)
        assert [event.record.a for event in seen if event.record] == list(range(count))


class Stingy:
    """A socket that takes a few bytes at a time, as one with an almost full buffer does."""

    def __init__(self, sock: object, *takes: int) -> None:
        self._sock = sock
        self._takes = list(takes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def send(self, data: bytes, flags: int = 0) -> int:
        size = self._takes.pop(0) if self._takes else len(data)
        if size == 0:
            raise BlockingIOError
        return int(self._sock.send(data[:size], flags))  # type: ignore[attr-defined]


class TestPartialSend:
    def test_of_the_driver(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        caller._sock = Stingy(caller._sock, 10, 0, 5, 0)  # type: ignore[assignment]
        assert caller.ring(Record(1))
        assert not caller.ring(Record(2))  # of which nothing leaves
        wait_until(lambda: bell.poll(0.01) or not caller._unsent, interval=0)
        assert heard(line, 1) == [Record(1)]
        bell.poll(0)
        assert works(bell, caller, line)

    def test_of_the_driver_as_the_line_is_dropped(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        bell, caller, line = ends.pair()

        def gone(fd: int, mask: int) -> None:
            raise FileNotFoundError

        monkeypatch.setattr(bell._poller, "change", gone)
        caller._sock = Stingy(caller._sock, 10)  # type: ignore[assignment]
        assert caller.ring(Record(1))
        assert caller.ring(Record(2))
        assert heard(line, 2) == [Record(1), Record(2)]

    def test_of_the_driver_finished_by_the_next(self, ends: Ends) -> None:
        _bell, caller, line = ends.pair()
        caller._sock = Stingy(caller._sock, wire.Session.size - 1)  # type: ignore[assignment]
        assert caller.ring(Record(1))
        assert line.receive(0.02) == []
        assert caller.ring(Record(2))
        assert heard(line, 2) == [Record(1), Record(2)]

    def test_leaves_nothing_spinning(self, ends: Ends, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        bell, caller, line = ends.pair(kind)
        caller._sock = Stingy(caller._sock, 10)  # type: ignore[assignment]
        assert caller.ring(Record(1))
        wait_until(lambda: bell.poll(0.01) or not caller._unsent, interval=0)
        assert heard(line, 1) == [Record(1)]
        waits: list[str] = []
        wait = wire.Poller.wait

        def counting(poller: wire.Poller, seconds: float | None) -> list[tuple[int, int]]:
            waits.append("bell" if poller is bell._poller else "line")
            return wait(poller, seconds)

        monkeypatch.setattr(wire.Poller, "wait", counting)
        assert bell.poll(0) == []  # for the wake that made it look again
        assert bell.poll(0.2) == []
        assert line.receive(0.2) == []
        assert len(waits) < 10

    def test_of_the_line(self, ends: Ends) -> None:
        bell, caller, line = ends.pair()
        assert line._live is not None
        line._live = (Stingy(line._live[0], 1, 0, wire.Session.size - 2, 0), line._live[1])  # type: ignore[assignment]
        assert line.send(Record(1))
        assert [event.record for event in events_of(bell, 1)] == [Record(1)]
        assert works(bell, caller, line)


NO_DESCRIPTORS = """
import os, resource, socket, time
from clusterfutures.doorbell import Doorbell
from clusterfutures.line import Line
from clusterfutures.wire import Identity, Record

bell = Doorbell(b"k" * 32, host="127.0.0.1")
port = int(bell.address.rpartition(":")[2])
line = Line.start(bell.address, b"k" * 32, Identity(1))
caller = None
while caller is None or not line.ready:
    for event in bell.poll(0.01):
        caller = event.line
    line.receive(0)

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
callers = [socket.socket() for _ in range(20)]
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for sock in callers:
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))

def good_line_works(number):
    assert caller.ring(Record(1, number))
    assert line.receive(20) == [Record(1, number)]
    assert line.send(Record(2, number))
    events = bell.poll(20)
    assert [event.record for event in events] == [Record(2, number)], events

end = time.monotonic() + 30
while bell.turned_away < 20 and time.monotonic() < end:
    good_line_works(bell.turned_away)
assert bell.turned_away == 20, bell.turned_away
assert [sock.recv(1) for sock in callers] == [b""] * 20

# Not even the spare one: the caller waits, the others are served, and nothing spins.
os.close(bell._spare)
bell._spare = None
hoard.append(os.open(os.devnull, os.O_RDONLY))
callers[0].close()
callers[0] = socket.socket()
callers[0].connect(("127.0.0.1", port))
before, start = time.process_time(), time.monotonic()
while time.monotonic() < start + 1:
    assert bell.poll(0.5) == []
assert time.process_time() - before < 0.5, time.process_time() - before
good_line_works(1)

# The pause ends in the moment before there are descriptors again.
bell._come_forward()
assert bell.poll(0) == []
for fd in hoard:
    os.close(fd)
late = Line.start(bell.address, b"k" * 32, Identity(2))
opened = []
while not opened and time.monotonic() < end:
    opened = bell.poll(0.01)
    late.receive(0)
assert opened and opened[0].line.identity == Identity(2), opened
assert bell._spare is not None
for sock in callers:
    sock.close()
late.close()
line.close()
bell.close()
"""

NO_DESCRIPTORS_AT_ALL = """
import os, resource
from clusterfutures.doorbell import Doorbell
from clusterfutures.line import Line
from clusterfutures.wire import Identity

key = b"k" * 32
bells = [Doorbell(key, path="first"), Doorbell(key, host="127.0.0.1")]
resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
hoard = []
try:
    while True:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for free in range(7):
    for bell in bells:
        line = Line.start(bell.address, key, Identity(1))
        assert line.receive(0) == []
        assert line.dead == (free < 2), (free, line)  # epoll and the socket
        line.close()
    try:
        Doorbell(key, path="second").close()
    except OSError:
        assert free < 5, free
    assert not os.path.exists("second")
    os.close(hoard.pop())
for bell in bells:
    bell.close()
assert free == 6
"""


# ---- addresses where nobody is ------------------------------------------------------------------


class TestNobodyThere:
    def test_refused(self, ends: Ends) -> None:
        listener = ends.listener()
        port = listener.getsockname()[1]
        listener.close()
        until_dead(ends.line(f"tcp:127.0.0.1:{port}"))

    def test_no_such_path(self, ends: Ends, place: Path) -> None:
        assert ends.line(f"unix:{place / 'absent'}").dead
        (place / "file").touch()
        assert ends.line(f"unix:{place / 'file'}").dead
        assert ends.line(f"unix:/{'x' * 300}").dead

    def test_listener_that_never_answers(self, ends: Ends) -> None:
        listener = ends.listener()
        line = ends.line(f"tcp:127.0.0.1:{listener.getsockname()[1]}", patience=1.0)
        assert line.receive(0) == []
        assert not line.dead
        assert line.receive(None) == []  # also without a timeout there is an end
        assert line.dead

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full backlog refuses")
    def test_black_hole(self, ends: Ends) -> None:
        """Nothing comes back at all, as behind a firewall that drops packets."""
        listener = ends.listener(backlog=0)
        for _ in range(4):
            sock = ends._stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        before = time.monotonic()
        line = ends.line(f"tcp:127.0.0.1:{listener.getsockname()[1]}", patience=0.4)
        assert time.monotonic() - before < 10
        assert not line.dead
        assert not line.ready
        assert not line.send(Record(1))
        until_dead(line)

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "unix:",
            "tcp:",
            "tcp:host",
            "tcp:localhost:1",
            "tcp::1",
            "tcp:1.2.3.4:0",
            "tcp:1.2.3.4:65536",
            "tcp:1.2.3.4:1,",
            "tcp:1.2.3.4:\xb2",
            "x:y:1",
        ],
    )
    def test_not_an_address(self, address: str) -> None:
        with pytest.raises(ValueError, match="address"):
            Line.start(address, KEY, ME)


# ---- the ends of it -----------------------------------------------------------------------------

CALL = """
line = Line.start(sys.argv[1], bytes(range(32)), Identity(1, pid=os.getpid()))
while not line.dead:
    for record in line.receive(None):
        line.send(record)
"""

SERVE = """
bell = Doorbell(bytes(range(32)), host="127.0.0.1")
print(bell.address, flush=True)
while True:
    bell.poll(None)
"""


class TestEnds:
    def test_death_of_the_worker(self, ends: Ends, kind: str) -> None:
        bell = ends.bell(kind)
        child = ends.child(CALL, bell.address)
        (opened,) = events_of(bell, 1)
        assert opened.line.identity.pid == child.pid
        assert opened.line.ring(Record(5))
        assert [event.record for event in events_of(bell, 1)] == [Record(5)]
        child.kill()
        (closed,) = events_of(bell, 1)
        assert closed.closed
        assert closed.line is opened.line
        assert not opened.line.ring(Record(6))

    def test_death_of_the_driver(self, ends: Ends) -> None:
        child = ends.child(SERVE)
        assert child.stdout is not None
        line = ends.line(child.stdout.readline().strip())
        wait_until(lambda: line.receive(0.01) or line.ready, interval=0)
        child.kill()
        until_dead(line)
        assert not line.send(Record(1))

    def test_close_by_the_line(self, ends: Ends, kind: str) -> None:
        bell, _caller, line = ends.pair(kind)
        line.send(Record(1))
        line.close()
        line.close()
        assert line.dead
        assert not line.ready
        assert line.receive(None) == []
        events = events_of(bell, 2)
        assert events[0].record == Record(1)
        assert events[1].closed
        assert bell.poll(0.02) == []

    def test_close_by_the_caller(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        assert caller.ring(Record(1))
        caller.close()
        caller.close()
        assert not caller.ring(Record(2))
        assert line.receive(20) == [Record(1)]
        until_dead(line)
        (event,) = events_of(bell, 1)
        assert event.closed
        assert event.line is caller
        caller.close()
        assert bell.poll(0.02) == []

    def test_close_of_the_bell(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        bell.close()
        bell.close()
        assert bell.poll(None) == []
        assert not caller.ring(Record(1))
        until_dead(line)
        caller.close()
        bell.wake()
        late = ends.line(bell.address)
        until_dead(late)

    def test_close_of_the_bell_ends_a_poll(self, ends: Ends, kind: str) -> None:
        bell, _caller, line = ends.pair(kind)
        with polled(bell):
            wait_until(lambda: bell._sleeping)
        until_dead(line)

    def test_close_of_the_line_ends_a_receive(self, ends: Ends, kind: str) -> None:
        bell, _caller, line = ends.pair(kind)
        thread = threading.Thread(target=line.receive, args=(None,))
        thread.start()
        wait_until(line._reading.locked)
        line.close()
        thread.join(20)
        assert not thread.is_alive()
        assert [event.closed for event in events_of(bell, 1)] == [True]

    def test_close_while_connecting(self, ends: Ends) -> None:
        listener = ends.listener()
        line = ends.line(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=line.receive, args=(None,))
        thread.start()
        wait_until(line._reading.locked)
        line.close()
        thread.join(20)
        assert not thread.is_alive()

    def test_one_thread_receives(self, ends: Ends) -> None:
        bell, _caller, line = ends.pair()
        thread = threading.Thread(target=line.receive, args=(None,))
        thread.start()
        wait_until(line._reading.locked)
        with pytest.raises(RuntimeError, match="another thread"):
            line.receive(0)
        assert line.send(Record(1))
        assert [event.record for event in events_of(bell, 1)] == [Record(1)]
        line.close()
        thread.join(20)

    @pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts in /proc")
    def test_nothing_stays_open(self, ends: Ends, kind: str, place: Path) -> None:
        def once() -> None:
            bell, caller, line = ends.pair(kind)
            stranger = ends.raw(bell.address)
            assert works(bell, caller, line)
            line.close()
            events_of(bell, 1)
            refused = ends.line(f"unix:{place / 'absent'}")
            wrong = ends.line(bell.address, OTHER_KEY)
            until_dead(wrong, bell)
            bell.close()
            stranger.close()
            assert refused.dead

        once()
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            once()
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestUnixPath:
    def test_private_and_removed(self, place: Path) -> None:
        path = place / "s"
        bell = Doorbell(KEY, path=str(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert bell.address == f"unix:{path}"
        bell.close()
        assert not path.exists()

    def test_removed_by_somebody(self, place: Path) -> None:
        directory = place / "d"
        directory.mkdir()
        bell = Doorbell(KEY, path=str(directory / "s"))
        shutil.rmtree(directory)
        bell.close()
        assert not directory.exists()

    def test_too_long(self, place: Path) -> None:
        path = place / ("é" * 60)
        with pytest.raises(ValueError, match="a Unix socket's path may have") as caught:
            Doorbell(KEY, path=str(path))
        assert str(len(os.fsencode(str(path)))) in str(caught.value)

    def test_longest(self, ends: Ends, place: Path) -> None:
        path = str(place / "x")
        path += "x" * (doorbell._SUN_PATH - len(os.fsencode(path)))
        bell = Doorbell(KEY, path=path)
        ends._stack.callback(bell.close)
        line = ends.line(bell.address)
        assert works(bell, *meet(bell, line), line)

    def test_occupied(self, place: Path) -> None:
        path = place / "s"
        path.write_text("mine")
        with pytest.raises(OSError, match="in use"):
            Doorbell(KEY, path=str(path))
        assert path.read_text() == "mine"

    def test_somebody_elses_is_not_removed(self, place: Path) -> None:
        path = place / "s"
        bell = Doorbell(KEY, path=str(path))
        path.unlink()
        path.write_text("mine")
        bell.close()
        assert path.read_text() == "mine"


# ---- threads, signals, forks --------------------------------------------------------------------


class TestWake:
    def test_ends_a_poll(self, ends: Ends, kind: str) -> None:
        bell = ends.bell(kind)
        thread = threading.Thread(target=lambda: wait_until(lambda: bell._sleeping) and bell.wake())
        thread.start()
        before = time.monotonic()
        assert bell.poll(50) == []
        assert time.monotonic() - before < 40
        thread.join(20)

    def test_any_timeout_will_do(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        for timeout in (1e12, float("inf"), threading.TIMEOUT_MAX):
            bell.wake()
            assert bell.poll(timeout) == []
            assert caller.ring(Record(1))
            assert line.receive(timeout) == [Record(1)]
        assert bell.poll(-1) == []
        assert line.receive(-1) == []

    def test_before_a_poll(self, ends: Ends) -> None:
        bell = ends.bell()
        bell.wake()
        assert bell.poll(None) == []

    def test_comes_with_what_is_there(self, ends: Ends) -> None:
        bell, _caller, line = ends.pair()
        assert line.send(Record(1))
        bell.wake()
        assert [event.record for event in bell.poll(None)] == [Record(1)]

    def test_is_cheap(self, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
        bell = ends.bell()
        writes: list[int] = []
        write = os.write

        def counting(fd: int, data: bytes) -> int:
            writes.append(fd)
            return write(fd, data)

        monkeypatch.setattr(os, "write", counting)
        for _ in range(100):
            bell.wake()
        assert writes == []  # nobody sleeps
        assert bell.poll(None) == []
        returned = threading.Event()
        thread = threading.Thread(target=lambda: bell.poll(None) == [] and returned.set())
        thread.start()
        wait_until(lambda: bell._sleeping)
        bell.wake()
        assert returned.wait(20)
        thread.join(20)
        assert len(writes) == 1

    def test_none_is_lost(self, ends: Ends) -> None:
        bell = ends.bell()
        count, threads = 2000, 3
        done = [0] * threads
        seen = threading.Semaphore(0)

        def work(number: int) -> None:
            for _ in range(count):
                done[number] += 1
                bell.wake()
                assert seen.acquire(timeout=20)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        answered = 0
        while answered < count * threads:
            before = time.monotonic()
            assert bell.poll(30) == []
            assert time.monotonic() - before < 25, (answered, done)
            for _ in range(sum(done) - answered):
                answered += 1
                seen.release()
        for worker in workers:
            worker.join(20)

    def test_ring_from_many_threads(self, ends: Ends) -> None:
        _bell, caller, line = ends.pair("tcp")
        each = 200

        def ring(number: int) -> None:
            for count in range(each):
                wait_until(lambda: caller.ring(Record(number, count)))  # noqa: B023

        threads = [threading.Thread(target=ring, args=(number,)) for number in range(4)]
        ends._stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)  # so that they meet within ring
        for thread in threads:
            thread.start()
        records = heard(line, 4 * each)
        for thread in threads:
            thread.join(20)
        for number in range(4):
            assert [r.a for r in records if r.kind == number] == list(range(each))

    def test_from_a_signal_handler(self, ends: Ends) -> None:
        """Which may run while the same thread is inside of wake or ring."""
        bell, caller, line = ends.pair("tcp")
        rung = [0]

        def handler(number: int, frame: object) -> None:
            bell.wake()
            rung[0] += 1

        old = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            sent = 0
            while rung[0] < 100:
                bell.wake()
                if caller.ring(Record(1, sent % 1000)):
                    sent += 1
                bell.poll(0)
                line.receive(0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
        wait_until(lambda: line.receive(0.01) or True)
        assert not line.dead

    def test_of_a_peer_that_has_gone_with_sigpipe_deadly(self, run: Callable[..., ScriptResult]) -> None:
        script = """
            import signal, time
            from clusterfutures.doorbell import Doorbell
            from clusterfutures.line import Line
            from clusterfutures.wire import Identity, Record
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            bell = Doorbell(b"k" * 32, host="127.0.0.1")
            line = Line.start(bell.address, b"k" * 32, Identity(1))
            caller = None
            while caller is None or not line.ready:
                for event in bell.poll(0.01):
                    caller = event.line
                line.receive(0)
            line.close()
            end = time.monotonic() + 20
            while caller.ring(Record(1)) and time.monotonic() < end:
                pass
            assert not caller.ring(Record(1))
            bell.close()
        """
        import textwrap

        run(textwrap.dedent(script)).check()


def in_child(work: Callable[[], object]) -> None:
    """Fork, run `work` there, and fail if it did not end well; its own words are on stderr."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    ended: list[int] = []

    def over() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        ended.append(status)
        return found == pid

    try:
        wait_until(over)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert ended[-1] == 0


class TestFork:
    def test_close_in_a_child(self, ends: Ends, kind: str) -> None:
        bell, caller, line = ends.pair(kind)
        stranger = ends.raw(bell.address)

        def child() -> None:
            bell.close()
            line.close()
            caller.close()
            assert bell.closed
            assert line.dead

        in_child(child)
        assert works(bell, caller, line)
        assert not hung_up(stranger)
        late = ends.line(bell.address)
        assert works(bell, *meet(bell, late), late)

    def test_use_in_a_child(self, ends: Ends, kind: str) -> None:
        """Nothing of what the parent will read or has to send is taken or added."""
        bell, caller, line = ends.pair(kind)
        assert line.send(Record(1))
        assert caller.ring(Record(2))

        def child() -> None:
            assert bell.poll(None) == []
            bell.wake()
            assert not caller.ring(Record(3))
            caller.close()
            assert line.receive(None) == []
            assert not line.send(Record(4))

        in_child(child)
        assert [event.record for event in bell.poll(20)] == [Record(1)]
        assert line.receive(20) == [Record(2)]
        assert works(bell, caller, line)

    def test_fork_while_others_hold_the_locks(self, ends: Ends) -> None:
        bell, caller, line = ends.pair()
        locks = (bell._polling, caller._lock, line._reading, line._sending)
        for lock in locks:
            assert lock.acquire(False)
        try:
            in_child(lambda: (bell.close(), line.close(), caller.close(), bell.wake()))
        finally:
            for lock in locks:
                lock.release()
        assert works(bell, caller, line)

    @pytest.mark.parametrize("end", ["bell", "line", "caller"])
    def test_end_in_spite_of_a_childs_copies(self, ends: Ends, end: str) -> None:
        bell, caller, line = ends.pair("tcp")
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent is done
            os._exit(0)
        try:
            {"bell": bell, "line": line, "caller": caller}[end].close()
            if end != "line":
                until_dead(line)
            if end == "bell":
                until_dead(ends.line(bell.address))  # although the child has the listener, too
            if end != "bell":
                assert [event.closed for event in events_of(bell, 1)] == [True]
        finally:
            os.close(writing)
            os.close(reading)
            os.waitpid(pid, 0)


# ---- start-up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["doorbell", "line"])
def test_import_is_light(end: str) -> None:
    load = f"import clusterfutures.{end}"
    script = f"import sys; before = set(sys.modules); {load}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = set(done.stdout.split())
    assert loaded & {f"clusterfutures.{name}" for name in ("doorbell", "line", "wire")} == {
        f"clusterfutures.{end}",
        "clusterfutures.wire",
    }
    heavy = {"socket", "selectors", "ssl", "hashlib", "_hashlib", "hmac", "logging", "dataclasses"}
    assert loaded & heavy == set()
