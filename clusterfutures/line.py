"""The worker's end of the wire: one connection, made while the worker does other things.

The other end is :mod:`~clusterfutures.doorbell`, which a worker never imports: start-up is paid on
every node.  What is said, and how both sides prove themselves, is in :mod:`~clusterfutures.wire`.

An address may have several candidates, since a driver cannot know which of its interfaces a node
reaches.  All are tried at once, and the first one behind which the driver proves itself is kept.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import select
import struct
from time import monotonic

from clusterfutures.wire import (
    CHUNK,
    IDENTITY,
    NOSIGNAL,
    READ,
    STALL,
    WRITE,
    Forged,
    Guest,
    Identity,
    Poller,
    Record,
    Session,
    check_key,
    hang_up,
    numeric,
    prepare,
    session_on,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

__all__ = ["Line"]


class _Attempt:
    """One candidate address on its way to a session."""

    __slots__ = ("asked", "guest", "sock")

    def __init__(self, sock: _socket.socket, guest: Guest) -> None:
        self.sock = sock
        self.guest = guest
        self.asked = False

    def step(self) -> None:
        """Do what can be done without waiting; raises OSError or Forged when there is no hope."""
        if not self.asked:
            self._ask()
        if not self.asked:
            return
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError
        proof = self.guest.feed(data)
        if proof:
            self._send(proof)

    def _ask(self) -> None:
        error = self.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        try:
            self._send(self.guest.hello)
        except OSError as failure:
            if failure.errno not in (errno.EAGAIN, errno.ENOTCONN):  # these two: not connected yet
                raise
        else:
            self.asked = True

    def _send(self, data: bytes) -> None:
        if self.sock.send(data, NOSIGNAL) < len(data):
            raise Forged  # the buffer of a new connection has room for this


class Line:
    """The worker's end: one connection, which is made while the worker does other things.

    Made by :meth:`start` and driven by :meth:`receive`.  `ready` (bool): both sides have proved
    themselves, and records can be sent.  `dead` (bool) is final; start another Line then.  In a
    forked child only close does something, and the parent's line stays as it is; a child that
    lives on should call it, since the driver sees no end of a connection that somebody still holds.
    """

    def __init__(self, address: str, key: bytes, identity: Identity, patience: float) -> None:
        self.address = address
        self.ready = self.dead = False
        self._key = check_key(key)
        try:
            self._identity = IDENTITY.pack(*identity)
        except struct.error as error:
            raise ValueError(f"{identity!r} does not fit the wire: {error}") from error
        self._pid = os.getpid()
        self._deadline = monotonic() + patience
        self._attempts: dict[int, _Attempt] = {}
        self._live: Optional[tuple[_socket.socket, Session]] = None
        self._reading = _thread.allocate_lock()
        self._sending = _thread.allocate_lock()
        self._poller = Poller()

    @classmethod
    def start(cls, address: str, key: bytes, identity: Identity, *, patience: float = 20.0) -> Line:
        """Begin to connect to a Doorbell's `address` and return at once.

        An address that refuses, does not exist or does not answer within `patience` seconds ends
        in a dead line.  Raises ValueError for an address that is none, a short key, or an identity
        that does not fit.
        """
        candidates = _parse(address)
        line = cls(address, key, identity, patience)
        for family, where in candidates:
            line._attempt(family, where)
        line._judge()
        if line.dead:
            line.close()
        return line

    def __repr__(self) -> str:
        state = "dead" if self.dead else "ready" if self.ready else "connecting"
        return f"<Line to {self.address!r}: {state}>"

    def fileno(self) -> int:
        """A descriptor that is readable when receive has something to do; -1 when dead.

        It stays the same for the life of the line where there is epoll.  Elsewhere it is that of a
        socket, and receive must be called now and then until the line is ready.
        """
        if self.dead:
            return -1
        number = self._poller.fileno()
        if number < 0:
            sockets = self._sockets()
            return sockets[0].fileno() if sockets else -1
        return number

    def receive(self, timeout: Optional[float]) -> list[Record]:
        """All records that are here; waits `timeout` seconds for one (None: without end).

        Drives the connection until it is ready.  Returns early with [] when the line has just
        become ready or dead or a record has come in part, and at once with [] when it is dead:
        look at `dead` before calling again.  For one thread at a time; raises RuntimeError for a
        second one, and nothing for the network.
        """
        if not self._is_open():
            return []
        if not self._reading.acquire(False):
            raise RuntimeError("another thread is receiving on this line")
        try:
            if self._live is None:
                self._connect(timeout)
                return []
            return self._listen(*self._live, timeout)
        finally:
            self._reading.release()
            if self.dead:
                self.close()

    def send(self, record: Record) -> bool:
        """Send `record`, from any thread; False if it did not leave.

        Waits only while the buffer is full, and after a second of that the line is dead.  Raises
        ValueError for a record that does not fit the wire.
        """
        if self.dead or os.getpid() != self._pid:
            return False
        # A lock that does not come is held by a frame below this one: a signal handler sends.
        if not self._sending.acquire(True, 2 * STALL):
            return False
        try:
            live = self._live
            return live is not None and self._push(*live, record)
        finally:
            self._sending.release()

    def close(self) -> None:
        """End the connection; from any thread, more than once."""
        self._die()
        if os.getpid() != self._pid:
            self._release()
            return
        for sock in self._sockets():
            hang_up(sock)
        if self._reading.acquire(False):  # else the receive, now woken, calls this as it ends
            try:
                if self._sending.acquire(True, 2 * STALL):
                    self._release()
                    self._sending.release()
            finally:
                self._reading.release()

    def _die(self) -> None:
        self.dead, self.ready = True, False

    def _is_open(self) -> bool:
        return not self.dead and os.getpid() == self._pid

    def _connect(self, timeout: Optional[float]) -> None:
        """Until the line is ready or dead, or the time is over."""
        deadline = None if timeout is None else monotonic() + timeout
        until = self._deadline if deadline is None else min(deadline, self._deadline)
        while self._live is None and self._is_open():
            ready = self._poller.wait(until - monotonic())
            if self._is_open():
                self._advance(ready)
            if deadline is not None and monotonic() >= deadline:
                return

    def _listen(self, sock: _socket.socket, session: Session, timeout: Optional[float]) -> list[Record]:
        """What comes first: records, the end of the line, or that of the time."""
        if not self._poller.wait(timeout) or self.dead:
            return []
        try:
            data = sock.recv(CHUNK)
            if data:
                return session.unpack(data)
        except BlockingIOError:
            return []
        except (OSError, Forged):
            pass  # it ends like a driver that has hung up: nothing depends on it
        self._die()
        return []

    def _push(self, sock: _socket.socket, session: Session, record: Record) -> bool:
        frame = session.pack(record)
        session.sent += 1
        until = 0.0
        while frame:
            try:
                frame = frame[sock.send(frame, NOSIGNAL) :]
            except BlockingIOError:
                until = until or monotonic() + STALL
                if monotonic() < until:
                    _wait_for_room(sock, until - monotonic())
                    continue
                break
            except OSError:
                break
        if frame:
            self._die()
            hang_up(sock)  # which tells a receive that waits
        return not frame

    def _advance(self, ready: list[tuple[int, int]]) -> None:
        for fd, _mask in ready:
            if fd in self._attempts:
                self._step(fd)
        self._judge()

    def _attempt(self, family: int, where: Any) -> None:
        """Begin to connect; what fails at once leaves no trace."""
        try:
            sock = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError:  # no descriptor, or no such family here
            return
        try:
            prepare(sock)
            if sock.connect_ex(where) not in (0, errno.EINPROGRESS):
                sock.close()
                return
            fd = sock.fileno()
            self._poller.add(fd, READ | WRITE)
        except OSError:
            sock.close()
            return
        self._attempts[fd] = _Attempt(sock, Guest(self._key, self._identity, session_on(family)))
        self._step(fd)

    def _step(self, fd: int) -> None:
        attempt = self._attempts[fd]
        try:
            attempt.step()
        except (OSError, Forged):
            self._give_up(fd)
            return
        if attempt.asked:
            self._poller.change(fd, READ)
        if attempt.guest.session is not None:
            del self._attempts[fd]
            for other in list(self._attempts):
                self._give_up(other)
            self._live = (attempt.sock, attempt.guest.session)
            self.ready = not self.dead

    def _give_up(self, fd: int) -> None:
        self._poller.remove(fd)
        self._attempts.pop(fd).sock.close()

    def _judge(self) -> None:
        """Give up when no candidate is left, or no time."""
        late = monotonic() >= self._deadline
        if self._live is None and (late or not self._attempts):
            self._die()

    def _sockets(self) -> list[_socket.socket]:
        live = self._live
        sockets = [attempt.sock for attempt in list(self._attempts.values())]
        return [*sockets, live[0]] if live else sockets

    def _release(self) -> None:
        """Close the descriptors; touch nothing that other processes share through them."""
        for sock in self._sockets():
            sock.close()
        self._attempts.clear()
        self._live = None
        self._poller.close()


def _wait_for_room(sock: _socket.socket, seconds: float) -> None:
    poll = select.poll()
    poll.register(sock.fileno(), WRITE)
    poll.poll(seconds * 1000)


def _parse(address: str) -> list[tuple[int, Any]]:
    """An address as candidates: pairs of an address family and what connect takes; ValueError."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest:
        return [(_socket.AF_UNIX, rest)]
    if scheme != "tcp":
        raise ValueError(f"a doorbell's address is unix:PATH or tcp:HOST:PORT, not {address!r}")
    candidates = []
    for candidate in rest.split(","):
        host, _, port = candidate.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        family = numeric(host)
        if family is None or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(
                f"no numeric host and port in {candidate!r} of the doorbell's address {address!r}"
            )
        candidates.append((family, (host, int(port))))
    return candidates
