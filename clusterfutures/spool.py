"""The run directory: every file name in it, and how its whole files are written and read.

Everything that two processes tell each other lies here, most of it in *logs*
(:mod:`~clusterfutures.logs`).  A file that nobody may see a part of is written under a temporary name and
renamed when it is whole.

::

    run.json                 what run this is: format, id, owner, Python
    key                      the doorbell's secret
    driver                   the driver's lease: a counter, where its doorbell is
    tasks.NNNNNN             the journal: functions, tasks, what waits for what      (driver)
    buffers/ab/<sha256>      large array buffers, once each                           (driver)
    checkpoints/K/T/A        what attempt A at task T (K: its thousands) has saved    (worker)
    lease.N                  who drives the run: the N-th that does
    jobs/J/                  one job: its specification, its batch script             (driver)
    jobs/J/ids               the scheduler's ids of its elements, once it was accepted  (driver)
    jobs/J/I.log             what element I says before its supervisor can               (job)
    jobs/J/I.log.R/          element I began for the R+1st time, where the scheduler does not say    (job)
    jobs/J/I.R/in.NNNNNN     commands to the supervisor of element I, restart R       (driver)
    jobs/J/I.R/claim         the task of a job of its own has been started, or cancelled
    jobs/J/I.R/out.NNNNNN    its events: workers started and ended                (supervisor)
    jobs/J/I.R/S.G/in.*      assignments to the worker in slot S, generation G; lone calls, whole   (driver)
    jobs/J/I.R/S.G/out.*     its outcomes                                             (worker)
    jobs/J/I.R/S.G/stdout, stderr     what its tasks print                            (worker)
"""

from __future__ import annotations

import mmap
import os
import stat
import time

from clusterfutures.light import NamedTuple
from clusterfutures.logs import (
    CorruptRecord,
    Frame,
    Location,
    LogReader,
    LogWriter,
    check_own,
    open_own,
    parse,
    pread_all,
    segment_path,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Optional

START, CANCEL = "start", "cancel"
"""What a task can be claimed for."""

GRACE = {False: 0.5, True: 60.0}
"""Seconds for which a file that must be there may be missing: not shared, and shared (acdirmax in nfs(5))."""


class WorkerRef(NamedTuple):
    """Which worker: job number, element of its array, restart of that, slot in it, generation in the slot.

    Slot and generation of -1 mean the supervisor itself.
    """

    job: int
    element: int = 0
    restart: int = 0
    slot: int = -1
    generation: int = -1

    def __str__(self) -> str:
        text = f"{self.job}.{self.element}.{self.restart}"
        return text if self.slot < 0 else f"{text}-{self.slot}.{self.generation}"

    @property
    def supervisor(self) -> WorkerRef:
        """The supervisor that this worker belongs to."""
        return self._replace(slot=-1, generation=-1)


class RunDirectory:
    """All paths of one run; nobody else formats a file name.

    `shared`: processes on other machines use this directory.
    """

    def __init__(self, path: str, *, shared: bool) -> None:
        self.path = path
        self.shared = shared
        self._readers: dict[int, int] = {}
        self._buffers: set[str] = set()  # digests stored (driver) or verified (worker) by this process

    def __repr__(self) -> str:
        return f"RunDirectory({self.path!r})"

    # -- names ----------------------------------------------------------------------------------

    @property
    def about(self) -> str:
        """What run this is (JSON)."""
        return os.path.join(self.path, "run.json")

    @property
    def driver(self) -> str:
        """The driver's lease."""
        return os.path.join(self.path, "driver")

    @property
    def secret(self) -> str:
        """The file of the doorbell's key."""
        return os.path.join(self.path, "key")

    @property
    def bell(self) -> str:
        """The doorbell's Unix socket, where a path of that length can be one."""
        return os.path.join(self.path, "bell")

    @property
    def jobs(self) -> str:
        """The folder of all jobs."""
        return os.path.join(self.path, "jobs")

    def job(self, job: int) -> str:
        """The directory of one job."""
        return os.path.join(self.jobs, str(job))

    def element_log(self, job: int, element: int | str) -> str:
        """What an element says before its supervisor can, as why its interpreter does not start."""
        return os.path.join(self.job(job), f"{element}.log")

    def script(self, job: int) -> str:
        """The batch script of a job, where its scheduler has such."""
        return os.path.join(self.job(job), "script.sh")

    def specification(self, job: int) -> str:
        """What the supervisors of a job have to know."""
        return os.path.join(self.job(job), "spec")

    def strangers(self) -> list[str]:
        """The names of what lies directly in the run's directory and is not the run's; sorted."""
        own = {"run.json", "key", "driver", "bell", "buffers", "checkpoints", "jobs"}
        numbered, temporary = {"tasks", "lease"}, {"run", "key", "driver", "tasks"}
        found = []
        for name in sorted(os.listdir(self.path)):
            stem, _, rest = name.partition(".")
            known = name in own or (stem in numbered and rest.lstrip("d").isdecimal())
            if not known and not (stem in temporary and name.endswith(".part")):
                found.append(name)
        return found

    def note_ids(self, job: int, ids: Sequence[str]) -> None:
        """Write the scheduler's ids of a job's elements, '' for one that it has not.  Raises OSError.

        There are none at all if it was refused.
        """
        path = os.path.join(self.job(job), "ids")
        publish(path, "".join(f"{each}\n" for each in ids).encode(), sync=self.shared)

    def ids(self, job: int) -> Optional[list[str]]:
        """The scheduler's ids of a job's elements; None if it is not known what became of it."""
        try:
            return read_own(os.path.join(self.job(job), "ids")).decode().splitlines()
        except FileNotFoundError:
            return None

    def submitted_jobs(self) -> int:
        """How many jobs have a number."""
        return max((int(name) + 1 for name in os.listdir(self.jobs) if name.isdecimal()), default=0)

    def home(self, ref: WorkerRef) -> str:
        """The directory of one supervisor or worker."""
        folder = self.job(ref.job)
        if ref.element >= 1000:
            folder = os.path.join(folder, f"d{ref.element // 1000:03d}")
        folder = os.path.join(folder, f"{ref.element}.{ref.restart}")
        return folder if ref.slot < 0 else os.path.join(folder, f"{ref.slot}.{ref.generation}")

    def begun(self, job: int) -> list[WorkerRef]:
        """The supervisors of a job that have a directory: whoever has begun is among them.

        Raises OSError if the job's own cannot be listed.
        """
        found = []
        for name in os.listdir(self.job(job)):
            element, _, restart = name.partition(".")
            if element.isdecimal() and restart.isdecimal():
                found.append(WorkerRef(job, int(element), int(restart)))
        return found

    def workers(self, supervisor: WorkerRef) -> list[WorkerRef]:
        """The workers of a supervisor that have a directory, in order."""
        found = []
        try:
            names = os.listdir(self.home(supervisor))
        except FileNotFoundError:  # it has not begun
            names = []
        for name in names:
            slot, _, generation = name.partition(".")
            if slot.isdecimal() and generation.isdecimal():
                found.append(supervisor._replace(slot=int(slot), generation=int(generation)))
        return sorted(found)

    def markers(self, ref: WorkerRef) -> str:
        """The map in which a supervisor's workers record what they are at."""
        return os.path.join(self.home(ref.supervisor), "markers")

    def claim(self, ref: WorkerRef, purpose: str) -> bool:
        """Settle what becomes of the task of a job of its own, START or CANCEL: True for whoever asks first.

        What was cancelled stays so if the scheduler starts the job anew.  Raises OSError if that cannot be
        settled.
        """
        for restart in range(ref.restart):
            if self.claimed(ref._replace(restart=restart)) == CANCEL:
                return False
        try:
            # A link: made together with what it says, and by one only of those who try.
            os.symlink(purpose, os.path.join(self.make_home(ref.supervisor), "claim"))
        except FileExistsError:
            return False
        return True

    def has_claim(self, ref: WorkerRef) -> bool:
        """Whether somebody has claimed it, by a listing: an NFS remembers of a name that it was not there."""
        return "claim" in os.listdir(self.home(ref.supervisor))

    def claimed(self, ref: WorkerRef) -> str:
        """What the task of a job of its own was claimed for; '' if nobody has."""
        try:
            return os.readlink(os.path.join(self.home(ref.supervisor), "claim"))
        except FileNotFoundError:
            return ""

    def checkpoints(self, task: int) -> str:
        """The folder of what the attempts at a task have saved."""
        return os.path.join(self.path, "checkpoints", str(task // 1000), str(task))

    def stdout(self, ref: WorkerRef) -> str:
        """What a worker's tasks printed."""
        return os.path.join(self.home(ref), "stdout")

    def stderr(self, ref: WorkerRef) -> str:
        """What a worker's tasks wrote to standard error."""
        return os.path.join(self.home(ref), "stderr")

    def make_job(self, job: int) -> None:
        """Make the directory of a job."""
        make_folder(self.job(job), self.path)

    def make_home(self, ref: WorkerRef) -> str:
        """Make and return :meth:`home`; either side may be the first to need it."""
        home = self.home(ref)
        make_folder(home, self.path)
        return home

    # -- logs -----------------------------------------------------------------------------------

    def tasks(self) -> LogWriter:
        """The journal, for its writer."""
        return LogWriter(self.path, "tasks", shared=self.shared)

    def tasks_reader(self) -> LogReader:
        """The same, for another driver."""
        return LogReader(self.path, "tasks", shared=self.shared)

    def inbox_writer(self, ref: WorkerRef) -> LogWriter:
        """What the driver tells `ref`."""
        return LogWriter(self.home(ref), "in", shared=self.shared)

    def inbox_reader(self, ref: WorkerRef) -> LogReader:
        """The same, for `ref`."""
        return LogReader(self.home(ref), "in", shared=self.shared)

    def outbox_writer(self, ref: WorkerRef) -> LogWriter:
        """What `ref` tells the driver."""
        return LogWriter(self.home(ref), "out", shared=self.shared)

    def outbox_reader(self, ref: WorkerRef) -> LogReader:
        """The same, for the driver."""
        return LogReader(self.home(ref), "out", shared=self.shared, known=self.job(ref.job))

    def read_task(self, place: Location) -> Frame:
        """The journal's record at `place`, which is known to have been written: if late, it is waited for.

        Raises what :meth:`_read_task` raises when it is not there after the grace.
        """
        deadline = time.monotonic() + GRACE[self.shared]
        while True:
            try:
                return self._read_task(place)
            except (OSError, CorruptRecord):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _read_task(self, place: Location) -> Frame:
        """The same, at once.

        Raises OSError if the segment cannot be opened, PermissionError if it may be another's,
        :class:`CorruptRecord` if the record is not whole.
        """
        fd = self._readers.get(place.segment)
        if fd is None:
            path = segment_path(self.path, "tasks", place.segment)
            fd = open_own(path)
            if not self.shared:
                self._readers[place.segment] = fd
        try:
            data = pread_all(fd, place.length, place.offset)
        finally:
            if self.shared:
                os.close(fd)
        frames, _ = parse(data)
        if not frames:
            raise CorruptRecord(f"the record at {place} is cut short")
        return frames[0]

    # -- buffers --------------------------------------------------------------------------------

    def buffer(self, digest: str) -> str:
        """The file of one large buffer, named by its SHA-256."""
        return os.path.join(self.path, "buffers", digest[:2], digest)

    def keep_buffer(self, content: memoryview) -> str:
        """Store `content` once; returns its digest.  Raises OSError, e.g. when the disk is full."""
        from hashlib import sha256

        digest = sha256(content).hexdigest()
        if digest not in self._buffers:
            path = self.buffer(digest)
            make_folder(os.path.dirname(path), self.path)
            publish(path, content, sync=self.shared)
            self._buffers.add(digest)
        return digest

    def fetch_buffer(self, digest: str, nbytes: int, readonly: bool) -> Any:
        """The stored buffer, mapped copy-on-write where the file system can map, else read.

        Raises :class:`CorruptRecord` if the file has another length or content, PermissionError if it may be
        another's, who could still change it.
        """
        with open(open_own(self.buffer(digest)), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != nbytes:
                raise CorruptRecord(f"buffer {digest} has {size} bytes instead of {nbytes}")
            access = mmap.ACCESS_READ if readonly else mmap.ACCESS_COPY
            content: Any
            try:
                content = mmap.mmap(file.fileno(), nbytes, access=access)
            except (OSError, ValueError):
                content = bytearray(nbytes)
                file.readinto(content)
                if readonly:
                    content = memoryview(content).toreadonly()
        if digest not in self._buffers:  # once a process: hashing costs more than mapping
            from hashlib import sha256

            if sha256(content).hexdigest() != digest:
                raise CorruptRecord(f"buffer {digest} does not have the content that its name tells")
            self._buffers.add(digest)
        return content

    # -- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close cached descriptors."""
        while self._readers:
            os.close(self._readers.popitem()[1])

    def key(self) -> bytes:
        """The doorbell's secret; refused unless it is a file that only this user can touch."""
        return read_private(self.secret)

    def check(self) -> None:
        """Raise PermissionError unless the directory is this user's alone: a pickle is code."""
        check_own(self.path, os.lstat(self.path), stat.S_IFDIR, 0o077)


def make_folder(path: str, top: str = "") -> None:
    """Make a folder for this user alone, and its parents below `top`; nothing happens if it is there.

    Raises FileNotFoundError if there is no `top`: a run directory that was removed is not made again.
    """
    parent = os.path.dirname(path)
    if parent != top and not os.path.isdir(parent):
        make_folder(parent, top)  # os.makedirs would give parents whatever mode the umask leaves
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def publish(path: str, content: Any, *, sync: bool) -> None:
    """Write a whole file so that nobody ever sees a part of it: unique temporary name, then replace."""
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(content).cast("B")
            while view:
                view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_own(path: str, others: int = 0o022) -> bytes:
    """The content of a file that only this user can have written; raises what `open_own` does."""
    with open(open_own(path, others), "rb") as file:
        return file.read()


def read_private(path: str) -> bytes:
    """The content of a file that nobody else can even read; PermissionError if somebody can."""
    return read_own(path, 0o077)


__all__ = [
    "CANCEL",
    "GRACE",
    "START",
    "RunDirectory",
    "WorkerRef",
    "make_folder",
    "publish",
    "read_own",
    "read_private",
]
