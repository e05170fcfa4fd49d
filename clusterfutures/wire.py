"""The wire between driver and workers: small authenticated records, and how each end proves itself.

What travels between driver and workers travels through files; a record here only says "look now".
Losing one, or the whole connection, costs time and never a result, so both ends
(:mod:`~clusterfutures.doorbell`, :mod:`~clusterfutures.line`) give up quietly and early rather than
block or raise: a ring into a full buffer is dropped, an address that does not answer ends in a dead
line.

Both sides know a key (from the run directory, mode 0700) and prove it to each other before
anything counts::

    Line -> Doorbell    hello = magic, nonce
    Doorbell -> Line    nonce, HMAC(key, "driver" | hello | nonce)
    Line -> Doorbell    identity, HMAC(key, "worker" | hello | nonce | identity)
    then, both ways
      over TCP          record, HMAC(session key of this direction, sequence number | record)[:16]
      on a Unix socket  record

The HMAC is that of RFC 2104 over SHA-256, truncated as its section 5 allows.  Sequence numbers are
counted, not sent, and the session keys depend on both nonces: a record that is replayed,
reordered, reflected or carried over from another connection does not verify, and the connection is
closed.  What passes through a Unix socket no network carries: its kernel hands it from the one
process that has proved itself to the other, and only who may enter the directory that the socket
is in, which is the user alone, could have got between the two.  There records need no seal.  The
magic says which of the two is spoken, and the proofs cover it: a handshake cannot be passed on from
one kind of socket to the other.

What both ends do with their sockets is here as well.  A worker imports this module as it starts.
Therefore the C modules behind ``socket``, ``hashlib`` and ``hmac`` are used directly: importing
those three takes several times as long as all of this.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import sys
from _operator import _compare_digest as same_bytes
from _operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
    from typing import Any, Optional
else:
    try:
        from _sha2 import sha256  # CPython 3.12 and newer
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

__all__ = [
    "CHUNK",
    "IDENTITY",
    "NOSIGNAL",
    "READ",
    "STALL",
    "WRITE",
    "Forged",
    "Guest",
    "Host",
    "Identity",
    "Mac",
    "Poller",
    "Record",
    "Sealed",
    "Session",
    "check_key",
    "hang_up",
    "numeric",
    "prepare",
    "session_on",
]

_MAGIC = 8
_NONCE = 32
_TAG = 16
_HELLO = _MAGIC + _NONCE
_CHALLENGE = _NONCE + 32
IDENTITY = struct.Struct("<BQIIIII")
# These run for each record, and finding a method again each time is a tenth of what that costs.
_new = tuple.__new__
_RECORD = struct.Struct("<BIQQ")
_pack_record = _RECORD.pack
_unpack_record = _RECORD.unpack
_pack_number = struct.Struct("<Q").pack
_PROOF = IDENTITY.size + 32
_SHORTEST_KEY = 16

CHUNK = 1 << 16
READ = select.POLLIN
WRITE = select.POLLOUT
# A peer that has gone must be an error, also where the user's program has restored SIGPIPE's
# default.
NOSIGNAL = getattr(_socket, "MSG_NOSIGNAL", 0)
STALL = 1.0  # seconds that one end waits for room in a full buffer, or for a lock
_LONGEST_WAIT = 1e6  # seconds; a 32-bit number of milliseconds has room for twice that

# Seconds, the second name being macOS's for the first, and a count.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
# Keepalive probes are not sent while data is unacknowledged; without this a dead node that was
# rung takes a quarter of an hour to be noticed.  Milliseconds.
_USER_TIMEOUT = 60_000


class Forged(Exception):
    """Bytes that the other side of this handshake or session cannot have sent."""


# ---- what is said -------------------------------------------------------------------------------


class _Fields(tuple[int, ...]):
    """A named tuple of integers; ``collections`` is as long an import as this module."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        for place, name in enumerate(cls._fields):
            setattr(cls, name, property(itemgetter(place)))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in zip(self._fields, self))
        return f"{type(self).__name__}({values})"

    def __getnewargs__(self) -> tuple[int, ...]:
        return tuple(self)


class Record(_Fields):
    """One ring of the bell: four unsigned integers whose meaning is the caller's.

    `kind` has 8 bits, `a` 32, `b` and `c` 64; one that does not fit makes the send raise
    ValueError.
    """

    __slots__ = ()
    _fields = ("kind", "a", "b", "c")
    kind: int
    a: int
    b: int
    c: int

    def __new__(cls, kind: int, a: int = 0, b: int = 0, c: int = 0) -> Record:
        """A number that means nothing in this kind is 0."""
        return _new(cls, (kind, a, b, c))


class Identity(_Fields):
    """Who is calling, as it says itself and as the key vouches for.

    Unsigned integers: `role` of 8 bits, `job` of 64, `index`, `incarnation`, `slot`, `generation`
    and `pid` of 32 each; one that does not fit makes :meth:`clusterfutures.line.Line.start` raise ValueError.
    """

    __slots__ = ()
    _fields = ("role", "job", "index", "incarnation", "slot", "generation", "pid")
    role: int
    job: int
    index: int  # type: ignore[assignment]  # hides tuple.index, as namedtuple would
    incarnation: int
    slot: int
    generation: int
    pid: int

    def __new__(
        cls,
        role: int,
        job: int = 0,
        index: int = 0,
        incarnation: int = 0,
        slot: int = 0,
        generation: int = 0,
        pid: int = 0,
    ) -> Identity:
        """A number that this role does not have is 0."""
        return _new(cls, (role, job, index, incarnation, slot, generation, pid))


# ---- proofs: bytes in, bytes out, no socket -----------------------------------------------------


def check_key(key: bytes) -> Mac:
    """What makes proofs with `key`; ValueError for one that is too short to be a secret."""
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"a doorbell's key needs {_SHORTEST_KEY} bytes or more, not {len(key)}")
    return Mac(key)


_INNER, _OUTER = (int.from_bytes(byte * 64, "big") for byte in (b"\x36", b"\x5c"))


class Mac:
    """HMAC-SHA256 under one key, with the key's two blocks hashed once.

    Holding the hashed blocks and not the key, it has nothing that a repr or a traceback could
    show.
    """

    __slots__ = ("_copy_inner", "_copy_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > 64:
            key = sha256(key).digest()
        block = int.from_bytes(key.ljust(64, b"\0"), "big")  # byte by byte, each connection would take 0.1 ms
        self._copy_inner = sha256((block ^ _INNER).to_bytes(64, "big")).copy
        self._copy_outer = sha256((block ^ _OUTER).to_bytes(64, "big")).copy

    def __call__(self, message: bytes) -> bytes:
        """The 32 bytes that prove `message`."""
        inner = self._copy_inner()
        inner.update(message)
        outer = self._copy_outer()
        outer.update(inner.digest())
        return outer.digest()


class Session:
    """What both sides agree on for one connection: records as bytes, and back as they arrive.

    As it stands it is that of a Unix socket, where records go as they are.
    """

    __slots__ = ("_rest", "sent")
    magic = b"cf-bell\x02"
    """What a hello begins with that asks for such a session."""
    size = _RECORD.size
    """Bytes of one record."""

    def __init__(self, ours: bytes, theirs: bytes) -> None:
        """`ours` and `theirs` are the keys of the two directions, for records that are sealed."""
        self._rest = b""
        self.sent = 0

    def pack(self, record: Record) -> bytes:
        """The bytes of `record` as number `sent`; count that up once one of them has left."""
        try:
            return _pack_record(*record)
        except struct.error as error:
            raise ValueError(f"{record!r} does not fit the wire: {error}") from error

    def unpack(self, data: bytes) -> list[Record]:
        """The records completed by `data`; raises Forged, and must then not be used again."""
        if self._rest or len(data) != self.size:
            return self._unpack_all(data)
        return [_new(Record, _unpack_record(data))]  # nearly always

    def _unpack_all(self, data: bytes) -> list[Record]:
        data = self._rest + data
        whole = len(data) - len(data) % self.size
        self._rest = data[whole:]
        return [self._open(data[at : at + self.size]) for at in range(0, whole, self.size)]

    def _open(self, packed: bytes) -> Record:
        """The one record that `packed` is."""
        return _new(Record, _unpack_record(packed))


class Sealed(Session):
    """A session whose records prove that the other side sent them, and sent them in this order."""

    __slots__ = ("_heard", "_ours", "_theirs")
    magic = b"cf-bell\x01"
    size = _RECORD.size + _TAG

    def __init__(self, ours: bytes, theirs: bytes) -> None:
        super().__init__(ours, theirs)
        self._ours = Mac(ours)
        self._theirs = Mac(theirs)
        self._heard = 0

    def pack(self, record: Record) -> bytes:
        """The sealed bytes of `record` as number `sent`."""
        plain = super().pack(record)
        return plain + self._ours(_pack_number(self.sent) + plain)[:_TAG]

    def unpack(self, data: bytes) -> list[Record]:
        """The records completed by `data`, each of which is proved."""
        return self._unpack_all(data)

    def _open(self, packed: bytes) -> Record:
        """The one record that `packed` is; raises Forged for any other but the next one sent."""
        plain, tag = packed[:-_TAG], packed[-_TAG:]
        if not same_bytes(self._theirs(_pack_number(self._heard) + plain)[:_TAG], tag):
            raise Forged
        self._heard += 1
        return super()._open(plain)


def session_on(family: int) -> type[Session]:
    """What kind of session a socket of this address family is for."""
    return Session if family == _socket.AF_UNIX else Sealed


class Host:
    """The driver's part of a handshake; at its end `session` and `identity` are set."""

    __slots__ = ("_data", "_key", "_kind", "_said", "identity", "session")

    def __init__(self, key: Mac, kind: type[Session] = Sealed) -> None:
        self._key = key
        self._kind = kind
        self._data = b""
        self._said = b""
        self.identity: Optional[Identity] = None
        self.session: Optional[Session] = None

    def feed(self, data: bytes) -> bytes:
        """What to answer to `data`, often nothing; raises Forged."""
        self._data += data
        if not self._said:
            return self._challenge()
        if len(self._data) >= _PROOF:
            self._admit()
        return b""

    def rest(self) -> bytes:
        """What came behind the handshake, for the session."""
        rest, self._data = self._data, b""
        return rest

    def _challenge(self) -> bytes:
        if not self._kind.magic.startswith(self._data[:_MAGIC]) or len(self._data) > _HELLO:
            raise Forged
        if len(self._data) < _HELLO:
            return b""
        nonce = os.urandom(_NONCE)
        self._said = self._data + nonce
        self._data = b""
        return nonce + self._key(b"driver" + self._said)

    def _admit(self) -> None:
        packed, tag = self._data[: IDENTITY.size], self._data[IDENTITY.size : _PROOF]
        said = self._said + packed
        if not same_bytes(self._key(b"worker" + said), tag):
            raise Forged
        self._data = self._data[_PROOF:]
        self.identity = Identity(*IDENTITY.unpack(packed))
        self.session = self._kind(self._key(b"to worker" + said), self._key(b"to driver" + said))


class Guest:
    """The worker's part of a handshake; `session` is set once the driver has proved itself."""

    __slots__ = ("_data", "_identity", "_key", "_kind", "hello", "session")

    def __init__(self, key: Mac, identity: bytes, kind: type[Session] = Sealed) -> None:
        self._key = key
        self._kind = kind
        self._identity = identity
        self._data = b""
        self.hello = kind.magic + os.urandom(_NONCE)
        self.session: Optional[Session] = None

    def feed(self, data: bytes) -> bytes:
        """What to answer to `data`; raises Forged."""
        self._data += data
        if len(self._data) < _CHALLENGE:
            return b""
        nonce, tag = self._data[:_NONCE], self._data[_NONCE:_CHALLENGE]
        said = self.hello + nonce
        # The driver speaks no record before it has seen the proof, so more than its challenge is
        # not its own.
        if len(self._data) > _CHALLENGE or not same_bytes(self._key(b"driver" + said), tag):
            raise Forged
        said += self._identity
        self.session = self._kind(self._key(b"to driver" + said), self._key(b"to worker" + said))
        return self._identity + self._key(b"worker" + said)


# ---- sockets, for both ends ---------------------------------------------------------------------


def numeric(host: str) -> Optional[int]:
    """The address family of a numeric host; None for anything else.

    An address has no names in it: to look one up can take many seconds, and in the background a
    thread, which a supervisor that forks must not have.
    """
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):  # ValueError: not even text for C
            continue
        return family
    return None


def prepare(sock: _socket.socket) -> None:
    """Non-blocking, undelayed, and soon told when the other machine is gone."""
    sock.setblocking(False)
    if sys.platform == "darwin":
        sock.setsockopt(_socket.SOL_SOCKET, 0x1022, 1)  # SO_NOSIGPIPE, see NOSIGNAL
    if sock.family == _socket.AF_UNIX:
        return
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(_socket, name):
            sock.setsockopt(_socket.IPPROTO_TCP, getattr(_socket, name), value)
    if hasattr(_socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def hang_up(sock: _socket.socket) -> None:
    """End the connection without closing the descriptor, which another thread may be about to use.

    It also ends it where a forked child still holds a copy of the descriptor.
    """
    try:
        sock.shutdown(_socket.SHUT_RDWR)
    except OSError:  # it had ended already, or was never connected
        pass


class Poller:
    """epoll where there is one (a thousand lines), else poll; the same masks, seconds for both."""

    __slots__ = ("_poll", "_scale", "add", "change", "remove")

    def __init__(self) -> None:
        self._poll: Any
        try:
            self._poll, self._scale = select.epoll(), 1
        except (AttributeError, OSError):  # not on this system; no descriptor left for it
            self._poll, self._scale = select.poll(), 1000
        self.add = self._poll.register
        self.change = self._poll.modify
        self.remove = self._poll.unregister

    def wait(self, seconds: Optional[float]) -> list[tuple[int, int]]:
        """Pairs of descriptor and mask; sleeps `seconds` for one (None: without end)."""
        if seconds is None:
            timeout = None
        elif seconds < 0.0:
            timeout = 0.0  # a deadline that has just passed; negative would mean "for ever"
        else:
            timeout = (seconds if seconds < _LONGEST_WAIT else _LONGEST_WAIT) * self._scale
        found: list[tuple[int, int]] = self._poll.poll(timeout)
        return found

    def fileno(self) -> int:
        """A descriptor that is readable when something is ready; -1 where there is only poll."""
        return int(self._poll.fileno()) if self._scale == 1 else -1

    def close(self) -> None:
        """Give back its descriptor, where it has one."""
        if self._scale == 1:
            self._poll.close()
