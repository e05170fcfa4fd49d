"""Whatever is done to a conversation on its way, all that gets through is a prefix of what was said."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfutures import wire
from clusterfutures.wire import Forged, Guest, Host, Identity, Record, Sealed, Session
from tests.security import examples

KEY = bytes(range(32))
ME = Identity(role=1, job=2, index=3, incarnation=4, slot=5, generation=6, pid=7)
RECORDS = [Record(1, 2, 3, 4), Record(0), Record(255, 2**32 - 1, 2**64 - 1, 2**64 - 1)]
DRIVERS_NONCE, WORKERS_NONCE = b"d" * 32, b"w" * 32


def with_nonce(monkeypatch: pytest.MonkeyPatch, nonce: bytes) -> None:
    """Let the next who needs a nonce draw this one: else nothing that was recorded could be said again."""
    monkeypatch.setattr(wire, "os", SimpleNamespace(urandom=lambda size: nonce))


class Said(NamedTuple):
    """A conversation as it was on the wire: all that the worker said, and all that the driver said."""

    kind: type[Session]
    worker: bytes
    driver: bytes


@pytest.fixture(params=[Sealed, Session], ids=["network", "unix"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Said:
    """A handshake, and the same records both ways; both draw the same nonces in what follows."""
    kind = request.param
    with_nonce(monkeypatch, WORKERS_NONCE)
    guest = Guest(wire.check_key(KEY), wire.IDENTITY.pack(*ME), kind)
    with_nonce(monkeypatch, DRIVERS_NONCE)
    host = Host(wire.check_key(KEY), kind)
    challenge = host.feed(guest.hello)
    proof = guest.feed(challenge)
    host.feed(proof)
    assert host.session is not None
    assert guest.session is not None
    records: dict[Session, bytes] = {guest.session: b"", host.session: b""}
    for session in records:
        for record in RECORDS:
            records[session] += session.pack(record)
            session.sent += 1
    return Said(kind, guest.hello + proof + records[guest.session], challenge + records[host.session])


class Heard(NamedTuple):
    """What one end has made of it, and the most that it kept in memory meanwhile."""

    identity: Optional[Identity]
    records: list[Record]
    kept: int


def driver_hears(kind: type[Session], chunks: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> Heard:
    """What the driver's end makes of these pieces, until it hangs up."""
    with_nonce(monkeypatch, DRIVERS_NONCE)
    host = Host(wire.check_key(KEY), kind)
    records: list[Record] = []
    kept = 0
    for chunk in chunks:
        try:
            entering = host.session is None
            if entering:
                host.feed(chunk)
            if host.session is not None:
                records += host.session.unpack(host.rest() if entering else chunk)
        except Forged:
            break
        finally:
            rest = host.session._rest if host.session is not None else b""
            kept = max(kept, len(host._data) + len(rest))
    return Heard(host.identity, records, kept)


def worker_hears(kind: type[Session], chunks: Sequence[bytes], monkeypatch: pytest.MonkeyPatch) -> Heard:
    """The same for the worker's."""
    with_nonce(monkeypatch, WORKERS_NONCE)
    guest = Guest(wire.check_key(KEY), wire.IDENTITY.pack(*ME), kind)
    records: list[Record] = []
    kept = 0
    for chunk in chunks:
        try:
            if guest.session is None:
                guest.feed(chunk)
            else:
                records += guest.session.unpack(chunk)
        except Forged:
            break
        finally:
            rest = guest.session._rest if guest.session is not None else b""
            kept = max(kept, len(guest._data) + len(rest))
    return Heard(ME if guest.session is not None else None, records, kept)


def is_prefix(records: list[Record]) -> bool:
    return records == RECORDS[: len(records)]


def in_messages(said: Said) -> tuple[list[bytes], list[bytes]]:
    """What either end reads at a time if it reads at once what comes."""
    proof = wire._HELLO + wire._PROOF
    return (
        [said.worker[: wire._HELLO], said.worker[wire._HELLO : proof], said.worker[proof:]],
        [said.driver[: wire._CHALLENGE], said.driver[wire._CHALLENGE :]],
    )


def test_what_was_said_can_be_heard(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken away or changed below was there."""
    from_worker, from_driver = in_messages(said)
    assert driver_hears(said.kind, from_worker, monkeypatch)[:2] == (ME, RECORDS)
    assert worker_hears(said.kind, from_driver, monkeypatch)[:2] == (ME, RECORDS)


def test_cut_at_any_byte(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    size = said.kind.size
    for cut in range(len(said.worker)):
        chunks = [said.worker[: min(cut, wire._HELLO)], said.worker[wire._HELLO : cut]]
        heard = driver_hears(said.kind, chunks, monkeypatch)
        behind = cut - wire._HELLO - wire._PROOF
        assert heard.identity == (ME if behind >= 0 else None)
        assert heard.records == RECORDS[: max(behind, 0) // size]
    for cut in range(len(said.driver)):
        chunks = [said.driver[: min(cut, wire._CHALLENGE)], said.driver[wire._CHALLENGE : cut]]
        heard = worker_hears(said.kind, chunks, monkeypatch)
        behind = cut - wire._CHALLENGE
        assert heard.identity == (ME if behind >= 0 else None)
        assert heard.records == RECORDS[: max(behind, 0) // size]


def test_any_bit_flipped(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network.  What has entered the directory of a Unix socket is the user himself."""
    for messages, hears in zip(in_messages(said), (driver_hears, worker_hears)):
        for place, message in enumerate(messages):
            proves = place < len(messages) - 1
            if not proves and said.kind is Session:
                continue
            for bit in range(8 * len(message)):
                data = bytearray(message)
                data[bit // 8] ^= 1 << bit % 8
                chunks = [*messages[:place], bytes(data), *messages[place + 1 :]]
                heard = hears(said.kind, chunks, monkeypatch)
                assert heard.identity == (None if proves else ME)
                assert heard.records == [], "one piece is taken as a whole or not at all"


@pytest.mark.parametrize(("spoken", "wanted"), [(Session, Sealed), (Sealed, Session)])
def test_a_handshake_is_not_passed_on_to_another_kind_of_socket(
    spoken: type[Session], wanted: type[Session]
) -> None:
    """Or somebody between the two could have one end leave the seals away."""
    guest = Guest(wire.check_key(KEY), wire.IDENTITY.pack(*ME), spoken)
    host = Host(wire.check_key(KEY), wanted)
    with pytest.raises(Forged):
        host.feed(guest.hello)
    # And if its magic is changed on the way, the driver's proof is one of something else.
    host = Host(wire.check_key(KEY), wanted)
    challenge = host.feed(wanted.magic + guest.hello[wire._MAGIC :])
    with pytest.raises(Forged):
        guest.feed(challenge)


# ---- everything at once ---------------------------------------------------------------------------

Change = tuple[str, float, Union[int, bytes]]
"""What is done, where (as a part of the whole), and with how many bytes or with which."""

CHANGES: st.SearchStrategy[list[Change]] = st.lists(
    st.tuples(st.sampled_from(["drop", "repeat", "swap"]), st.floats(0, 1), st.integers(1, 150))
    | st.tuples(st.just("add"), st.floats(0, 1), st.binary(max_size=80))
    | st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
    min_size=1,
    max_size=4,
)
CUTS = st.lists(st.floats(0, 1), max_size=6)


def changed(data: bytes, changes: list[Change]) -> bytes:
    for what, where, how in changes:
        at = int(where * len(data))
        if isinstance(how, bytes):
            data = data[:at] + how + data[at:]
        elif what == "drop":
            data = data[:at] + data[at + how :]
        elif what == "repeat":
            data = data[:at] + 2 * data[at : at + how] + data[at + how :]
        elif what == "swap":
            data = data[:at] + data[at + how : at + 2 * how] + data[at : at + how] + data[at + 2 * how :]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << how]) + data[at + 1 :]
    return data


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
    return [data[begin:end] for begin, end in zip(places, places[1:])]


@pytest.mark.parametrize("said", [Sealed], indirect=True, ids=["network"])
@examples(250)
@given(changes=CHANGES, cuts=CUTS)
def test_anything_done_to_it(said: Said, changes: list[Change], cuts: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        heard = driver_hears(said.kind, pieces(changed(said.worker, changes), cuts), patch)
        assert heard.identity in (None, ME)
        assert is_prefix(heard.records)
        heard = worker_hears(said.kind, pieces(changed(said.driver, changes), cuts), patch)
        assert is_prefix(heard.records)


@examples(100)
@given(st.lists(st.binary(max_size=100) | st.integers(0, wire.CHUNK), max_size=8), st.booleans())
def test_no_flood_is_kept(flood: list[Union[bytes, int]], greeting: bool) -> None:
    """The most that one end keeps is one read, and less than one message from before it.

    A number stands for so many zeros.
    """
    chunks = list(map(bytes, flood))
    most = wire.CHUNK + wire._PROOF
    hello = [Sealed.magic + bytes(32)] if greeting else []
    with pytest.MonkeyPatch.context() as patch:
        assert driver_hears(Sealed, [*hello, *chunks], patch).kept <= most
        assert worker_hears(Sealed, chunks, patch).kept <= most
