"""One holder at a time, anywhere on the cluster: the lock below the writer.

A lock is a directory, beside what it guards::

    NAME.lock/
      mode           how nodes exclude each other, "kernel" or "lease": a link that the first one makes
      kernel         locked by filelock, with flock(2)
      holder         who holds the lock: nobody, or one who may have died; never removed, as another node
                     could be late to see that it is there again
      queue/         who waits, in order                      (tickets.py)
      lease.N        the N-th holder, only where it is needed (leases.py)

*kernel*: the lock of the kernel goes with its process, however that ends.  It suffices where the file
system carries it to other nodes.  *lease*: where it does not, whoever holds the kernel's lock of its node has
to get a lease, too.  All nodes have to do the same, hence `mode`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple, Optional

import filelock

from clusterfutures.errors import ClusterFuturesError, OptionError
from clusterfutures.writing import tickets
from clusterfutures.writing.leases import Lease, read_record, write_record

LOGGER = logging.getLogger("clusterfutures.writing")

KERNEL, LEASE = "kernel", "lease"

LEASE_TIMEOUT = 60.0
"""Seconds after which a silent holder has lost its lease."""

FIRST_WORD = 10.0
"""Seconds of waiting after which it is told for whom; again after twice as long."""

WARNING_AFTER = 60.0
"""Seconds from which on that is a warning."""

BRIEFLY, LONGEST = 0.0005, 0.5
"""Seconds between two tries: a tenth of what was waited for the present holder, within these bounds.  Those
who are not the next look less often, as it takes longer until it is their turn."""

IMPATIENCE = 5.0
"""Seconds after which also one who is not the first in the queue tries the lock: the first may be dead."""

JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")


class Holder(NamedTuple):
    """Who holds a lock: host, process id, job (None outside of one), since when (seconds since 1970, UTC).

    `undo`: the length in bytes that the guarded file had before the record that is being appended, or None.
    """

    host: str
    pid: int
    job: Optional[str]
    since: float
    undo: Optional[int] = None

    @classmethod
    def this_process(cls) -> Holder:
        """This process, from now on."""
        job = next((os.environ[name] for name in JOB_VARIABLES if name in os.environ), None)
        return cls(socket.gethostname(), os.getpid(), job, time.time())

    @classmethod
    def read(cls, path: str) -> Optional[Holder]:
        """Who is named in a file; None if nobody is, or nothing can be read."""
        record = read_record(path)
        return cls(**record) if set(record) == set(cls._fields) else None

    def __str__(self) -> str:
        job = f" (job {self.job})" if self.job else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}{job} since {since}"


class LockTimeout(ClusterFuturesError, filelock.Timeout):
    """A lock was not to be had in time; also a `filelock.Timeout` and a `TimeoutError`.

    Attributes: `lock_file`, the lock's path (str); `held_by`, who held it at last (Holder or None).
    """

    def __init__(self, message: str, lock_file: str = "", held_by: Optional[Holder] = None) -> None:
        filelock.Timeout.__init__(self, lock_file)
        self.args = (message,)
        self.held_by = held_by

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> Any:
        return type(self), (self.args[0], self.lock_file, self.held_by)


class LeaseLost(ClusterFuturesError):
    """This process stood still for so long that its lease was given to another one.

    What was written in place meanwhile may have met the other's writing; a copy was not put in place.
    """


class Lock:
    """A lock at `path`, a directory that is made when it is first used; not reentrant; picklable.

    Parameters
    ----------
    path : str
        The lock's directory; its parent must exist.
    guarded : str, optional
        The file that it guards.  With a lease, the next holder waits until it sees that file as the last
        one left it.
    lease : bool, optional
        Whether nodes exclude each other by a lease.  None: as the first user of the lock did, who looks at
        how the directory is mounted.
    lease_timeout : float
        Seconds after which a holder that does not renew its lease has lost it.
    """

    def __init__(
        self,
        path: str,
        guarded: Optional[str] = None,
        lease: Optional[bool] = None,
        lease_timeout: float = LEASE_TIMEOUT,
    ) -> None:
        self.path = path
        self.guarded = guarded
        self.lease = lease
        self.lease_timeout = lease_timeout

    @contextmanager
    def hold(self, timeout: Optional[float] = None) -> Iterator[Hold]:
        """Hold the lock in the ``with`` block; waits for at most `timeout` seconds, None: for ever.

        Raises LockTimeout; RuntimeError if this thread holds it; OptionError if other nodes are excluded
        in another way than was asked for; OSError if the directory cannot be used.
        """
        hold = Hold(self)
        with _marked_as_held(self.path):
            try:
                hold.acquire(timeout)
                yield hold
            finally:
                hold.release()


_held: set[tuple[int, int, str]] = set()
"""Process, thread and lock: what would wait for itself is told instead."""


@contextmanager
def _marked_as_held(path: str) -> Iterator[None]:
    mark = (os.getpid(), threading.get_ident(), path)
    if mark in _held:
        raise RuntimeError(f"this thread holds {path}, and would wait for itself")
    _held.add(mark)
    try:
        yield
    finally:
        _held.discard(mark)


_inherited: list[Hold] = []
"""Locks of the parent of a forked child: filelock lets go of one that is forgotten, and they share it."""


class Hold:
    """One holding of a lock, and the way there.

    Attributes: `folder`, the lock's directory (str); `previous`, the last holder if it died while it held the
    lock (Holder or None).
    """

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self.folder = lock.path
        try:
            os.mkdir(lock.path)
        except FileExistsError:
            pass
        self._holder_path = os.path.join(lock.path, "holder")
        self._queue = os.path.join(lock.path, "queue")
        kernel = os.path.join(lock.path, "kernel")
        self._kernel = filelock.FileLock(kernel, thread_local=False) if has_flock(kernel) else None
        self._lease = self._wanted_lease()
        self._has_it = False
        self._me = Holder.this_process()
        self.previous: Optional[Holder] = None

    # -- getting it -----------------------------------------------------------------------------

    def acquire(self, timeout: Optional[float]) -> None:
        """See `Lock.hold`."""
        if not (tickets.is_empty(self._queue) and self._try()):
            ticket = tickets.Ticket(self._queue)
            try:
                self._wait(ticket, timeout)
            finally:
                ticket.leave()
        self.previous = Holder.read(self._holder_path)
        self._me = Holder.this_process()._replace(undo=self.previous.undo if self.previous else None)
        self._write_holder()
        if self._lease is not None and self._lock.guarded is not None:
            see_as_sealed(self._lock.guarded, self._lease.seal)

    def _wait(self, ticket: tickets.Ticket, timeout: Optional[float]) -> None:
        began = changed = tried = time.monotonic()
        position, word = -1, FIRST_WORD
        while True:
            now = time.monotonic()
            before, position = position, ticket.position()
            if position != before:
                changed = now
            if position == 0 or now >= tried + IMPATIENCE:
                tried = now
                if self._try():
                    return
            waited = now - began
            if timeout is not None and waited >= timeout:
                raise self._timeout(waited, position)
            if waited >= word:
                word *= 2
                level = logging.WARNING if waited >= WARNING_AFTER else logging.INFO
                LOGGER.log(level, "%s", self._situation(f"waiting for {waited:.0f} s", position))
            pause = min(max((now - changed) / 10, BRIEFLY) * (2 * position or 1), LONGEST)
            time.sleep(pause if timeout is None else min(pause, max(began + timeout - now, 0.0)))

    def _try(self) -> bool:
        if self._kernel is not None:
            try:
                self._kernel.acquire(blocking=False)
            except filelock.Timeout:
                return False
        try:
            self._has_it = self._lease is None or self._lease.try_acquire()
        finally:
            if not self._has_it:
                self._release_kernel()
        return self._has_it

    def _situation(self, waited: str, position: int) -> str:
        holder = Holder.read(self._holder_path)
        whom = f"held by {holder}" if holder else "nobody says that they hold it"
        before = f", {position} more wait before this one" if position else ""
        return f"{self._lock.path}: {waited}; {whom}{before}"

    def _timeout(self, waited: float, position: int) -> LockTimeout:
        message = self._situation(f"gave up after {waited:.1f} s", position)
        return LockTimeout(message, self._lock.path, Holder.read(self._holder_path))

    def _wanted_lease(self) -> Optional[Lease]:
        local = "" if self._kernel else "it has no flock"
        local = local or only_local(self._lock.path)
        if self._lock.lease is False and self._kernel is None:
            raise OptionError(f"{self._lock.path} needs a lease: its file system has no flock")
        wanted = KERNEL if self._lock.lease is False or not (self._lock.lease or local) else LEASE
        mode = _agree(os.path.join(self._lock.path, "mode"), wanted)
        if mode != wanted and (self._lock.lease is not None or wanted == LEASE):
            reason = f" ({local})" if local else ""
            raise OptionError(
                f"{self._lock.path} was made for {mode!r}, and here {wanted!r} is wanted{reason}; "
                "say lease=True everywhere, and remove that directory while nobody writes"
            )
        if mode == KERNEL:
            return None
        node = f"{_boot()} {os.stat(self._lock.path).st_dev}" if self._kernel else ""
        return Lease(self._lock.path, self._lock.lease_timeout, node)

    # -- having it ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise LeaseLost if another process was given the lease meanwhile."""
        if self._lease is not None and self._lease.lost():
            raise LeaseLost(f"{self._lock.path}: another process was given the lease")

    def note_undo(self, length: Optional[int]) -> None:
        """Should this holder die, have the next one cut the guarded file to `length` bytes; None: not."""
        self._me = self._me._replace(undo=length)
        self._write_holder()

    def release(self) -> None:
        """Let it go, if this process has it: a child that was forked meanwhile has not."""
        if not self._has_it:
            return
        if os.getpid() != self._me.pid:
            _inherited.append(self)
            return
        self._has_it = False
        with ExitStack() as stack:
            stack.callback(self._release_kernel)
            if self._lease is not None:
                stack.callback(self._release_lease, self._lease)
            if self._lease is None or not self._lease.lost():
                write_record(self._holder_path, {})

    def _release_lease(self, lease: Lease) -> None:
        lease.release(seal_of(self._lock.guarded) if self._lock.guarded else "")

    def _release_kernel(self) -> None:
        if self._kernel is not None:
            self._kernel.release()

    def _write_holder(self) -> None:
        write_record(self._holder_path, self._me._asdict(), os.O_CREAT)


# What the file system can do -------------------------------------------------------------------------------


NO_FLOCK = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@cache
def has_flock(path: str) -> bool:
    """Whether the file system of the file at `path`, which is made, knows flock at all."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_FLOCK:
            return False
        if error.errno not in {errno.EAGAIN, errno.EACCES}:  # those: somebody has it
            raise
    finally:
        os.close(fd)
    return True


def _agree(path: str, wanted: str) -> str:
    """What all nodes do: what the first one wanted.  A link is made with its content in one step."""
    deadline = time.monotonic() + SEE_TIMEOUT
    while True:
        try:
            return os.readlink(path)
        except FileNotFoundError:
            pass
        try:
            os.symlink(wanted, path)
            return wanted
        except FileExistsError:  # another node's, and this one has just seen that it is not there
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _boot() -> str:
    """What distinguishes this kernel from all others; a host's name may be that of several."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return socket.getfqdn()


FUSE_WITH_LOCKS = {"fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.fuse-overlayfs"}
"""The kernel tells a FUSE file system of locks only if it asks for it; the last of these is of one node."""


@cache
def only_local(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """Why locks of this node's kernel on `path` mean nothing to other nodes; empty if nothing says so.

    `mounts`: the table of mounts, in the form of proc(5).  This is what the mount options tell; whether
    locks work is known once two nodes have tried: :func:`clusterfutures.check_locks`.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            table = file.read()
    except OSError:  # not Linux
        return ""
    kind, options = _mount_of(os.path.realpath(path), table)
    if kind in {"nfs", "nfs4"} and options & {"local_lock=all", "local_lock=flock", "nolock"}:
        return "NFS, mounted with local locks"
    if kind == "lustre" and "flock" not in options:
        return "Lustre, mounted without flock"
    if kind == "beegfs" and not _beegfs_locks(options):
        return "BeeGFS without tuneUseGlobalFileLocks"
    if kind in {"cifs", "smb3"} and "nobrl" in options:
        return "SMB, mounted with nobrl"
    if (kind == "fuse" or kind.startswith("fuse.")) and kind not in FUSE_WITH_LOCKS:
        return f"{kind}, which may keep locks to itself"
    return ""


def _mount_of(path: str, table: str) -> tuple[str, set[str]]:
    """The file system type and all options of the mount that `path` is on."""
    best, kind, options = "", "", set[str]()
    for line in table.splitlines():
        fields, _, more = line.partition(" - ")
        words, more_words = fields.split(" "), more.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of several on one point, the last one is on top
            best, kind = point, more_words[0]
            options = {*words[5].split(","), *more_words[2].split(",")}
    return kind, options


def _beegfs_locks(options: set[str]) -> bool:
    named = [word[8:] for word in options if word.startswith("cfgFile=")]
    try:
        with open(named[0] if named else "/etc/beegfs/beegfs-client.conf", encoding="utf-8") as file:
            settings = file.read()
    except OSError:
        return False
    return re.search(r"(?m)^\s*tuneUseGlobalFileLocks\s*=\s*(true|1|yes|on)\b", settings) is not None


# Seeing what another node wrote ----------------------------------------------------------------------------


SEE_TIMEOUT = 60.0
"""Seconds for which a node may see a file as it was; acregmax in nfs(5)."""


def seal_of(path: str) -> str:
    """What tells whether a file is seen as it is: its length and when it was changed."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "absent"
    return f"{status.st_size} {status.st_mtime_ns}"


def see_as_sealed(path: str, seal: Optional[str]) -> None:
    """Wait until this node sees the file at `path` as its last writer did; None: nobody told how.

    Gives up after `SEE_TIMEOUT` and says so: somebody has changed the file without the lock.
    """
    deadline = time.monotonic() + SEE_TIMEOUT
    while seal and seal_of(path) != seal:
        if time.monotonic() > deadline:
            LOGGER.warning("%s is not as its last writer left it; it was changed without its lock", path)
            return
        time.sleep(0.1)
