"""The driver's end of the wire: it listens, and serves any number of lines from one thread.

::

    driver                                            worker, supervisor
    Doorbell ---- Caller  <== records, both ways ==>  Line
       |    `---- Caller                              Line
       `- wake(): from any thread, ends the poll()

What is said, and how both sides prove themselves, is in :mod:`~clusterfutures.wire`; the other end is
in :mod:`~clusterfutures.line`.  Whoever connects is a stranger until it has proved itself: strangers
have little time, their number is limited, and no crowd of them delays a line.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import struct
import sys
from time import monotonic

from clusterfutures.light import NamedTuple
from clusterfutures.wire import (
    CHUNK,
    NOSIGNAL,
    READ,
    STALL,
    WRITE,
    Forged,
    Host,
    Identity,
    Mac,
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

__all__ = ["Caller", "Doorbell", "Event"]

_SUN_PATH = 107 if sys.platform.startswith("linux") else 103
_BACKLOG = 4096  # a whole allocation may call at once; the kernel reduces it to its own limit
_ACCEPT_AT_ONCE = 16
_ACCEPT_PAUSE = 0.2
_STRANGERS = 64
_STRANGER_GRACE = 0.5
_HANDSHAKE_TIME = 5.0

_NOBODY = Identity(0)
_new = tuple.__new__  # half of what calling a named tuple's class costs


class Event(NamedTuple):
    """What :meth:`Doorbell.poll` saw on one line: exactly one of opened, a record, closed.

    Every line that is seen is opened once, then rings, and is closed once, whoever closed it.
    """

    line: Caller
    record: Optional[Record] = None
    opened: bool = False
    closed: bool = False

    def __repr__(self) -> str:
        what = "opened" if self.opened else "closed" if self.closed else repr(self.record)
        return f"<Event {what} of {self.line!r}>"


class Caller:
    """A connection as the driver sees it.

    `identity` (Identity) is for reading; `owner` is for whoever polls, to note whose line this is.
    """

    # fmt: off
    __slots__ = ("_bell", "_fd", "_host", "_lock", "_session", "_since", "_sock", "_unsent",
                 "identity", "owner")
    # fmt: on

    def __init__(self, bell: Doorbell, sock: _socket.socket, key: Mac) -> None:
        self._bell = bell
        self._sock = sock
        self._fd = sock.fileno()
        self._host: Optional[Host] = Host(key, session_on(sock.family))
        self._session: Optional[Session] = None
        self._unsent = b""
        self._lock = _thread.allocate_lock()
        self._since = monotonic()
        self.identity: Identity = _NOBODY
        self.owner: Any = None

    def __repr__(self) -> str:
        return f"<Caller {self.identity!r}>"

    def ring(self, record: Record) -> bool:
        """Send `record` from any thread; never waits for the other side.

        False if it did not leave: the line is closed, its send buffer is full, or this is a forked
        child.  Raises ValueError for a record that does not fit the wire.
        """
        # A lock that does not come is held by a frame below this one: a signal handler rings.
        if os.getpid() != self._bell._pid or not self._lock.acquire(True, STALL):
            return False
        try:
            return self._session is not None and self._send(self._session, record)
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the connection, from any thread; the next poll reports it as closed."""
        if self._bell._is_here() and self._lock.acquire(True, STALL):
            try:
                self._session = None
                hang_up(self._sock)
            finally:
                self._lock.release()

    def _send(self, session: Session, record: Record) -> bool:
        frame = session.pack(record)
        if self._unsent and not self._flush():
            return False
        try:
            count = self._sock.send(frame, NOSIGNAL)
        except OSError:  # full; or gone, and then the poll is told so as well
            return False
        session.sent += 1
        if count < len(frame):
            self._unsent = frame[count:]
            self._bell._watch(self._fd, READ | WRITE)
        return True

    def _flush(self) -> bool:
        """Send the rest of a record that left in part; True if nothing of it is left here."""
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent, NOSIGNAL) :]
        except OSError:  # still full; or gone, and then the poll is told so as well
            return False
        if not self._unsent:
            self._bell._watch(self._fd, READ)
        return not self._unsent

    def _writable(self) -> None:
        """The poll's part of sending: there is room again."""
        if self._lock.acquire(False):  # else somebody is sending, and the poll will come back
            try:
                self._flush()
            finally:
                self._lock.release()

    def _greet(self, data: bytes) -> list[Record]:
        """Go on with the handshake; the records that follow it in `data`.  Raises Forged, OSError."""
        host = self._host
        if host is None:  # closed by this side, with bytes still on their way
            raise Forged
        answer = host.feed(data)
        if answer and self._sock.send(answer, NOSIGNAL) < len(answer):
            raise Forged  # the buffer of a new connection has room for this
        if host.session is None or host.identity is None:
            return []
        self.identity, self._session, self._host = host.identity, host.session, None
        return host.session.unpack(host.rest())

    def _end(self) -> None:
        """Hang up and close; by the thread that polls."""
        held = self._lock.acquire(True, STALL)  # bounded, for the same reason as in ring
        hang_up(self._sock)
        self._release()
        if held:
            self._lock.release()

    def _release(self) -> None:
        self._session = self._host = None
        self._sock.close()


class Doorbell:
    """The driver's end: listens, and serves any number of lines from one thread that polls.

    `key`: 16 bytes or more.  `path`: where to put a Unix socket (made with mode 0600, removed by
    close); without one, a TCP listener on `host` ("" is every interface) and `port` (0 is any free
    one).  Raises ValueError for a key or path that cannot do, OSError if the address cannot be
    listened on.

    `address` (str) is what :meth:`clusterfutures.line.Line.start` takes; `turned_away` counts the
    connections that were closed at once because this process had no descriptor left.

    In a forked child everything but close does nothing, and close leaves the parent's lines alone.
    """

    def __init__(
        self, key: bytes, *, path: Optional[str] = None, host: Optional[str] = None, port: int = 0
    ) -> None:
        self._key = check_key(key)
        self._pid = os.getpid()
        self._lines: dict[int, Caller] = {}
        # Those of _lines that have not proved themselves, oldest first.
        self._strangers: dict[int, Caller] = {}
        self._resume = 0.0  # when to listen again; 0 while listening
        self._awake = self._sleeping = self.closed = False
        self._wake_lock = _thread.RLock()  # reentrant, for a signal handler that wakes
        self._wake_in = self._wake_out = -1
        self._polling = _thread.allocate_lock()
        self._spare: Optional[int] = None
        self.turned_away = 0
        self._poller = Poller()
        if path is None:
            self._listener, self.address = _listen_tcp(host or "", port)
        else:
            self._listener, self.address = _listen_unix(path)
        self._path, self._inode = path, _inode(path)
        self._listener_fd = self._listener.fileno()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._lines) - len(self._strangers)} lines"
        return f"<Doorbell {self.address!r}: {state}>"

    def poll(self, timeout: Optional[float]) -> list[Event]:
        """What happened on the lines; waits `timeout` seconds for something (None: without end).

        Returns at once after a wake(), and always once closed.  For one thread at a time.
        """
        events: list[Event] = []
        if not self._is_open():
            return events
        with self._polling:
            deadline = None if timeout is None else monotonic() + timeout
            while not self.closed:
                self._serve(self._wait(timeout), events)
                if self._awake:
                    self._awake = False
                    break
                if events:
                    break
                if deadline is not None:
                    timeout = deadline - monotonic()
                    if timeout <= 0.0:
                        break
        if self.closed:
            self.close()  # whose caller left the descriptors to this thread
        return events

    def wake(self) -> None:
        """Make the present poll, or else the next one, return at once; from any thread.

        Costs a flag while an earlier wake has not been seen, and a write only while a poll sleeps.
        """
        if self._awake or not self._is_here():
            return
        with self._wake_lock:
            self._awake = True  # first: who is about to sleep looks at it after setting _sleeping
            if self._sleeping and self._wake_in >= 0:
                try:
                    os.write(self._wake_in, b"\0")
                except BlockingIOError:  # full of earlier wakes, which do as well
                    pass

    def close(self) -> None:
        """End all lines, stop listening, remove the Unix socket; from any thread, more than once.

        In a forked child: close its copies of the descriptors, with no effect on the parent's.
        """
        self.closed = True
        if not self._is_here():
            self._release()
            return
        path, self._path = self._path, None
        if path is not None and _inode(path) == self._inode:
            try:
                os.unlink(path)
            except OSError:  # a name that nobody answers, to be removed with its directory
                pass
        self.wake()
        if self._polling.acquire(False):  # else the poll, now woken, calls this as it ends
            try:
                self._leave()
            finally:
                self._polling.release()

    def _open(self) -> None:
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._poller.add(self._wake_out, READ)
        self._poller.add(self._listener_fd, READ)

    def _is_here(self) -> bool:
        """Whether this is the process that made it, and not a fork of that."""
        return os.getpid() == self._pid

    def _is_open(self) -> bool:
        return not self.closed and os.getpid() == self._pid

    def _wait(self, timeout: Optional[float]) -> list[tuple[int, int]]:
        """Sleep until something is ready, for the caller's time or until a chore's, or until a wake."""
        if self._strangers or self._resume:
            timeout = self._until_chore(timeout)
        # A wake that comes before the next line has set _awake, one that comes after it writes:
        # none is lost.
        self._sleeping = True
        try:
            return self._poller.wait(0.0 if self._awake else timeout)
        finally:
            self._sleeping = False

    def _until_chore(self, timeout: Optional[float]) -> float:
        now = monotonic()
        times = [] if timeout is None else [timeout]
        if self._strangers:
            times.append(self._oldest()._since + _HANDSHAKE_TIME - now)
        if self._resume:
            times.append(self._resume - now)
        return min(times)

    def _serve(self, ready: list[tuple[int, int]], events: list[Event]) -> None:
        accept = False
        for fd, mask in ready:
            caller = self._lines.get(fd)
            if caller is not None:
                if mask & WRITE:
                    caller._writable()
                if mask & ~WRITE:
                    self._read(caller, events)
            elif fd == self._listener_fd:
                accept = True
            elif fd == self._wake_out:
                self._drain()
        # After the lines: none of them waits for it, and no number in `ready` can be a new
        # connection's.
        if accept:
            self._accept(events)
        if self._strangers or self._resume:
            self._do_chores(events)

    def _drain(self) -> None:
        try:
            os.read(self._wake_out, CHUNK)
        except BlockingIOError:  # readiness is a hint
            pass

    def _read(self, caller: Caller, events: list[Event]) -> None:
        records = None
        try:
            data = caller._sock.recv(CHUNK)
            if data:
                session = caller._session
                records = caller._greet(data) if session is None else session.unpack(data)
        except BlockingIOError:
            return
        except (OSError, Forged):
            pass  # it ends like one that has hung up: nothing depends on it
        if records is None:
            self._drop(caller, events)
            return
        if caller._fd in self._strangers and caller.identity is not _NOBODY:
            del self._strangers[caller._fd]
            events.append(Event(caller, opened=True))
            self._come_forward()
        for record in records:
            events.append(_new(Event, (caller, record, False, False)))

    def _drop(self, caller: Caller, events: list[Event]) -> None:
        self._poller.remove(caller._fd)
        del self._lines[caller._fd]
        if self._strangers.pop(caller._fd, None) is None:
            events.append(Event(caller, closed=True))
        caller._end()
        self._come_forward()

    def _accept(self, events: list[Event]) -> None:
        """Let some of those who wait in; some only, lest a crowd delay the lines."""
        for _ in range(_ACCEPT_AT_ONCE):
            crowded = len(self._strangers) >= _STRANGERS
            if crowded and self._be_patient():
                return
            try:
                fd, _where = self._listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                full = error.errno in (errno.EMFILE, errno.ENFILE)
                if not (full and self._turn_away()):
                    # The listener stays ready, and without a pause this would spin.
                    self._pause(_ACCEPT_PAUSE)
                    return
            else:
                if crowded:
                    self._drop(self._oldest(), events)
                self._admit(fd, events)

    def _admit(self, fd: int, events: list[Event]) -> None:
        sock = _socket.socket(self._listener.family, _socket.SOCK_STREAM, 0, fd)
        try:
            prepare(sock)
            self._poller.add(fd, READ)
        except OSError:  # it has gone (macOS refuses options then), or no more can be watched
            sock.close()
            return
        caller = Caller(self, sock, self._key)
        self._lines[fd] = self._strangers[fd] = caller
        self._read(caller, events)  # its hello is mostly here already

    def _oldest(self) -> Caller:
        return next(iter(self._strangers.values()))

    def _be_patient(self) -> bool:
        """Whether even the oldest stranger is so young that this may be an honest crowd."""
        young = self._oldest()._since + _STRANGER_GRACE - monotonic()
        if young > 0:
            self._pause(young)
        return young > 0

    def _turn_away(self) -> bool:
        """Out of descriptors: accept with the spare one and close, so that the caller knows."""
        if self._spare is None:
            return False
        os.close(self._spare)
        try:
            fd, _where = self._listener._accept()  # type: ignore[attr-defined]
            os.close(fd)
            self.turned_away += 1
            return True
        except OSError:  # another thread took the descriptor
            return False
        finally:
            self._spare = _open_spare()

    def _pause(self, seconds: float) -> None:
        self._poller.remove(self._listener_fd)
        self._resume = monotonic() + seconds

    def _come_forward(self) -> None:
        """End a pause at once: there is one stranger or one descriptor fewer."""
        if self._resume:
            self._resume = monotonic()

    def _do_chores(self, events: list[Event]) -> None:
        now = monotonic()
        while self._strangers and self._oldest()._since + _HANDSHAKE_TIME <= now:
            self._drop(self._oldest(), events)
        if self._spare is None:  # as soon as one is to be had, not first when it is missed again
            self._spare = _open_spare()
        if self._resume and self._resume <= now:
            self._resume = 0.0
            self._poller.add(self._listener_fd, READ)

    def _watch(self, fd: int, mask: int) -> None:
        """Change what the poll waits for, from any thread; poll(2) sees it in its next call."""
        try:
            self._poller.change(fd, mask)
        except (OSError, ValueError):  # the line has just been dropped, the doorbell just closed
            return
        self.wake()

    def _leave(self) -> None:
        hang_up(self._listener)
        for caller in self._lines.values():
            caller._end()
        with self._wake_lock:
            self._release()

    def _release(self) -> None:
        """Close the descriptors; touch nothing that other processes share through them."""
        for caller in list(self._lines.values()):
            caller._release()
        self._lines.clear()
        self._strangers.clear()
        self._listener.close()
        self._poller.close()
        mine = (self._wake_in, self._wake_out, -1 if self._spare is None else self._spare)
        self._wake_in = self._wake_out = -1
        self._spare = None
        for fd in mine:
            if fd >= 0:
                os.close(fd)


def _open_spare() -> Optional[int]:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:  # still none to be had; tried again when the pause ends
        return None


def _inode(path: Optional[str]) -> tuple[int, int]:
    """What is at `path`, so that nobody else's socket is removed; (0, 0) if nothing is."""
    try:
        status = os.lstat(path or "")
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _listen_unix(path: str) -> tuple[_socket.socket, str]:
    length = len(os.fsencode(path))
    if not 0 < length <= _SUN_PATH:
        raise ValueError(f"a Unix socket's path may have {_SUN_PATH} bytes, this one has {length}: {path!r}")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(path)
        os.chmod(path, 0o600)  # in time: nobody can connect before listen
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, "unix:" + path


def _listen_tcp(host: str, port: int) -> tuple[_socket.socket, str]:
    """Listen, and tell every way here."""
    family, where = numeric(host) or _socket.AF_INET, (host, port)
    if host and numeric(host) is None:
        found = _socket.getaddrinfo(host, port, _socket.AF_UNSPEC, _socket.SOCK_STREAM)
        family, where = found[0][0], (str(found[0][4][0]), port)
    listener = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
        bound, port = listener.getsockname()[:2]
    except BaseException:
        listener.close()
        raise
    hosts = _own_addresses() if bound in ("0.0.0.0", "::") else [bound]
    return listener, "tcp:" + ",".join(
        f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in hosts
    )


def _own_addresses() -> list[str]:
    """The IPv4 addresses of this machine's interfaces, the loopback only if there is no other."""
    import fcntl  # here because only a driver that listens on TCP needs it

    request = 0xC0206921 if sys.platform == "darwin" else 0x8915  # SIOCGIFADDR
    found: list[str] = []
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        for _, name in _socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), request, struct.pack("256s", os.fsencode(name)))
            except OSError:  # an interface without an IPv4 address
                continue
            found.append(_socket.inet_ntoa(answer[20:24]))
    finally:
        probe.close()
    return [host for host in found if not host.startswith("127.")] or ["127.0.0.1"]
