"""The small process that stands over the workers of one allocation.

It forks the workers, so that a new one costs milliseconds and the place in the queue is kept; reports at once
how one ended and what it was running; ends a task that is asked to end or takes too long; and ends
everything when it is told to or is told that the allocation ends.  It never runs a user's code.

Where a job has but one task, its only worker is *lone*: the supervisor rings for it, and says nothing itself
as long as the outcome says it all.

It has a single thread: that is what makes forking from it safe.
"""

from __future__ import annotations

import atexit
import gc
import io
import mmap
import os
import select
import sys
import time

from clusterfutures import context, notices, payload
from clusterfutures.light import signal
from clusterfutures.link import Link
from clusterfutures.memory import OutOfMemoryKills
from clusterfutures.records import (
    ASKED,
    ENDED,
    GAVE_UP,
    KILL,
    MEMORY,
    NUMBER,
    ORPHANED,
    OWN,
    STARTED,
    STOP,
    TIMED_OUT,
    WANT,
    Ended,
    Kill,
    Started,
)
from clusterfutures.specification import SLOTS, Specification
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.worker import ALARM, FAILED, RETIRES, RUNS, Marker, Worker

FAILED_STARTS = 3  # in a row, before it gives up
TERM_GRACE = {True: 10.0, False: 1.0}
"""Seconds between SIGTERM and SIGKILL: if the site wants it to end (its own KillWait is longer), or we do."""
IDLE_LOOK = 1.0  # seconds; with a bell this is only for safety
CALL_GRACE = 0.5  # seconds that a driver may take to answer a call before a lone worker is told of by file
STANDSTILL = 2.0  # seconds between two looks, which are never so far apart: this process was stopped then
SIGNAL_GRACE = 0.25  # seconds that a scheduler takes, at most, to send one signal to all processes of a job
_WAKERS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, ALARM)
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""Signals by which a scheduler announces what it is going to do: for tasks to handle, harmless to others."""
_PASSED_ON = (*_WARNINGS, signal.SIGHUP, signal.SIGXCPU)


class Child:
    """A worker that lives."""

    def __init__(self, ref: WorkerRef, pid: int) -> None:
        self.ref = ref
        self.pid = pid
        self.reason = OWN
        self.task = 0  # which it was at when last looked at
        self.excused = 0.0  # seconds by which the deadline of that has moved


class Supervisor:
    """Keeps `want` workers alive in its slots."""

    def __init__(self, run: RunDirectory, ref: WorkerRef, spec: Specification) -> None:
        self._run, self._ref, self._spec = run, ref, spec
        self._pid = os.getpid()
        self._lone = bool(spec.tasks)
        self._link = Link(run, ref, spec.orphan_timeout)
        self._memory = mmap.mmap(-1, (1 if self._lone else SLOTS) * Marker.STRUCT.size)
        self._markers = self._mark()
        self._children: dict[int, Child] = {}  # by slot
        self._generations: dict[int, int] = {}
        self._want = spec.workers
        self._failed_starts = 0
        self._looked = time.monotonic()  # at the deadlines
        self._untold: Started | None = None  # a lone worker, until the driver has to look for it by files
        self._ring_by = 0.0  # when the driver has to be told to look, by bell or else by file; 0: it need not
        self.exit_code = 0  # as a shell has it: how a lone worker was lost
        self._memory_kills = OutOfMemoryKills()
        self._stopping = 0.0  # when SIGKILL follows SIGTERM, once it stops
        self._why = OWN  # it stops
        self._notices = os.environ.pop(notices.VARIABLE, "")  # where the site may say why; not for tasks
        self._signals = os.pipe()
        for fd in self._signals:
            os.set_blocking(fd, False)

    def _mark(self) -> int:
        """The workers' markers in a file: they outlive even a supervisor that is killed with its workers.

        What a lone worker was at, its claim tells as well: -1.
        """
        if self._lone:
            return -1
        fd = os.open(self._run.markers(self._ref), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(fd, bytes(self._spec.workers), 0)  # to write over these takes no room
        return fd

    def run(self) -> Worker | None:
        """Stand over the workers until told to stop.  Returns in each forked worker, too, with its work."""
        signal.set_wakeup_fd(self._signals[1], warn_on_full_buffer=False)
        for number in (*_WAKERS, *_PASSED_ON):
            signal.signal(number, _note)
        while True:
            self._reap()
            for kind, body in self._link.wait(0):
                self._obey(kind, body)
            worker = self._refill()
            if worker is not None:
                return worker
            self._enforce_deadlines()
            self._announce()
            if self._finished():
                return None
            self._sleep()

    # -- workers --------------------------------------------------------------------------------

    def _refill(self) -> Worker | None:
        """Fork what is missing; returns the worker in the child, None in the supervisor."""
        slot = 0
        while len(self._children) < self._want and not self._stopping:
            while slot in self._children:
                slot += 1
            generation = self._generations.get(slot, -1) + 1
            ref = self._ref._replace(slot=slot, generation=generation)
            home = self._run.make_home(ref)
            marker = Marker(self._memory, slot, self._markers)
            marker.set(0, 0.0, 0)
            marker.note(False)
            pid = os.fork()
            if pid == 0:
                return self._become(ref, home, marker)
            self._generations[slot] = generation
            self._children[slot] = Child(ref, pid)
            started = Started(slot, generation, pid)
            if self._lone:
                self._want = 0  # who has died in its task is not to begin it again
                self._untold = started
            else:
                self._link.tell(STARTED, started.pack())
        return None

    def _become(self, ref: WorkerRef, home: str, marker: Marker) -> Worker:
        """In the child: leave everything of the supervisor behind."""
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number in (*_WAKERS, *_PASSED_ON):
            if number not in _WARNINGS:  # until the worker has its own handler, they do nothing
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in self._signals:
            os.close(fd)
        self._link.abandon()
        _redirect(home)
        if self._spec.slots:
            from clusterfutures import share

            share.take(ref.slot, self._spec.slots, self._spec.cores, os.environ)
        worker = Worker(self._run, ref, self._spec, marker, self._pid)
        for number in _WARNINGS:
            signal.signal(number, worker.note_warning)
        return worker

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for slot, child in list(self._children.items()):
                if child.pid == pid:
                    self._bury(slot, child, status)

    def _bury(self, slot: int, child: Child, status: int) -> None:
        task, _, state = Marker(self._memory, slot).get()
        del self._children[slot]
        if child.reason == OWN and os.WIFSIGNALED(status):
            child.reason = self._reason_of(os.WTERMSIG(status))
        if status:
            _signal_group(child.pid, signal.SIGKILL, alone=False)  # what the task started goes with it
        if state == RUNS:
            self._failed_starts = 0
        elif state != RETIRES and child.reason == OWN and not self._stopping:
            self._failed_starts += 1
        if state == RETIRES:
            self._want = max(self._want - 1, 0)
        if status or task or not self._lone:  # else the outcome has said it
            self._link.tell(ENDED, Ended(slot, child.ref.generation, status, task, child.reason).pack())
            if self._lone:
                self._untold, self._ring_by = None, time.monotonic() + CALL_GRACE
                self.exit_code = _as_shell(status)
        if state == FAILED or self._failed_starts >= FAILED_STARTS:
            self._want = 0
            if state != FAILED:
                text = f"{self._failed_starts} workers in a row ended before they were ready"
                self._link.tell(GAVE_UP, text.encode())

    def _reason_of(self, number: int) -> int:
        """Who has sent a worker the signal that it died of, if it was not us."""
        if number == signal.SIGKILL and self._memory_kills.struck():
            return MEMORY
        if number == signal.SIGTERM and self._told_to_end():
            return self._why
        return OWN

    def _told_to_end(self) -> bool:
        """Whether our own SIGTERM has come, or comes now: a scheduler may signal the workers first."""
        deadline = time.monotonic() + SIGNAL_GRACE
        while not self._stopping and time.monotonic() < deadline:
            self._hear(deadline - time.monotonic())
        return bool(self._stopping)

    def _enforce_deadlines(self) -> None:
        last, self._looked = self._looked, time.monotonic()
        stopped = self._looked - last
        for child in self._children.values():
            task, deadline = self._at(child)
            if stopped > STANDSTILL:  # as the whole job is that its site suspends: no task is to pay for that
                child.excused += stopped
            elif task and deadline and self._looked >= deadline and child.reason == OWN:
                self._end_task(child, task, TIMED_OUT)

    def _at(self, child: Child) -> tuple[int, float]:
        """The task + 1 that a worker is at, 0 for none, and when it has had its time; 0.0 if never."""
        task, deadline, _ = Marker(self._memory, child.ref.slot).get()
        if task != child.task:
            child.task, child.excused = task, 0.0
        return task, deadline + child.excused if deadline else 0.0

    def _end_task(self, child: Child, task: int, reason: int) -> None:
        """Kill a worker if it runs this very task: stopped first, so that it cannot move on meanwhile."""
        os.kill(child.pid, signal.SIGSTOP)
        if not _stopped(child.pid):
            # Dead, which will be found, or without a processor for so long.  The next look tries again, if
            # there is one: the task may be over by then, and nobody would wake up who was stopped meanwhile.
            os.kill(child.pid, signal.SIGCONT)
            return
        current, deadline = self._at(child)
        if current == task and (reason != TIMED_OUT or deadline <= time.monotonic()):
            child.reason = reason
            _signal_group(child.pid, signal.SIGKILL)
        else:
            os.kill(child.pid, signal.SIGCONT)

    # -- telling --------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Ring for a lone worker that asks for it; if there is no bell, say by file that it is there."""
        if not self._ring_by:
            return
        if self._link.heard:
            self._link.ring()
        elif self._link.fileno() >= 0 and time.monotonic() < self._ring_by:
            return
        elif self._untold is not None:
            self._link.tell(STARTED, self._untold.pack())
            self._untold = None
        self._ring_by = 0.0

    # -- commands -------------------------------------------------------------------------------

    def _obey(self, kind: int, body: bytes) -> None:
        if kind == WANT:
            (self._want,) = NUMBER.unpack(body)
        elif kind == KILL:
            self._kill(Kill.unpack(body))
        elif kind == STOP:
            self._stop(ASKED)

    def _kill(self, order: Kill) -> None:
        child = self._children.get(order.slot)
        if child is None or child.ref.generation != order.generation:
            return
        if order.task:
            self._end_task(child, order.task, ASKED)
        else:
            child.reason = ASKED
            _signal_group(child.pid, order.signal)

    def _stop(self, reason: int) -> None:
        if not self._stopping:
            self._why = reason
            self._stopping = time.monotonic() + TERM_GRACE[reason not in (ASKED, ORPHANED)]
            for child in self._children.values():
                child.reason = reason
                _signal_group(child.pid, signal.SIGTERM)

    def _finished(self) -> bool:
        if self._stopping and time.monotonic() >= self._stopping:
            for child in self._children.values():
                _signal_group(child.pid, signal.SIGKILL)
        if not self._stopping and self._link.orphaned():
            self._want = 0
            for child in self._children.values():
                _signal_group(child.pid, signal.SIGCONT)  # one that is stopped could never leave
            if self._spec.orphan == "kill":
                self._stop(ORPHANED)
        told = not self._ring_by
        return told and not self._children and (self._want == 0 or bool(self._stopping))

    # -- waiting --------------------------------------------------------------------------------

    def _sleep(self) -> None:
        deadlines = [self._at(child)[1] for child in self._children.values()]
        until = min((d for d in deadlines if d), default=0.0)
        timeout = self._link.pause(IDLE_LOOK)
        if self._lone:
            timeout = max(timeout, CALL_GRACE)  # orders are rare, and its worker wakes it
        if self._ring_by:
            timeout = min(timeout, max(self._ring_by - time.monotonic(), 0.0))
        if until:
            timeout = min(timeout, max(until - time.monotonic(), 0.0))
        if self._stopping:
            timeout = min(timeout, 0.1)
        waiting = [self._signals[0]]
        if self._link.fileno() >= 0:
            waiting.append(self._link.fileno())
        select.select(waiting, [], [], timeout)
        self._hear(0.0)

    def _hear(self, timeout: float) -> None:
        """Heed the signals that have come, or the first that comes within `timeout` seconds."""
        if not select.select([self._signals[0]], [], [], max(timeout, 0.0))[0]:
            return
        for number in os.read(self._signals[0], 4096):
            if number == signal.SIGTERM:
                self._stop(notices.reason(self._notices))
            elif number == ALARM and self._lone:
                self._ring_by = time.monotonic() + CALL_GRACE
            elif number in _PASSED_ON:
                for child in self._children.values():
                    os.kill(child.pid, number)  # not yet reaped, so it is still this child

    def close(self) -> None:
        """Tell the driver everything, and close."""
        self._link.ring()
        self._link.close()


def _as_shell(status: int) -> int:
    """The exit code that says how a process was lost, from what waitpid gives: never 0."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status) or 1


def _note(number: int, stack: object) -> None:
    """The wake-up pipe carries the number; Python wants a handler beside it."""


def _stopped(pid: int) -> bool:
    """Whether a child that was sent SIGSTOP has stopped; it is given a moment, and no more."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        time.sleep(0.002)
        return True
    for _ in range(20):
        # WNOWAIT: should it have died, it is for `_reap` to bury.
        info = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if info is not None:
            return info.si_code == os.CLD_STOPPED
        time.sleep(0.001)
    return False


def _redirect(home: str) -> None:
    """Standard streams of a worker: nothing to read, one file each to write."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for target, name in ((1, "stdout"), (2, "stderr")):
        path = os.path.join(home, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fd, target)
        os.close(fd)
    # Line by line, so that what a task printed is there when it is killed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _signal_group(pid: int, number: int, alone: bool = True) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        if not alone:
            return  # the process is buried, and its number may be another's by now
        try:
            os.kill(pid, number)  # it has not made its group yet
        except ProcessLookupError:
            pass  # it is gone, which is what was wanted


def main(run_dir: str, job: int, index: int, restart: int, job_id: str) -> int:
    """Run the supervisor of one element of a job, and in the forked workers their work."""
    ref = WorkerRef(job, index, restart)
    probe = RunDirectory(run_dir, shared=False)
    probe.check()
    spec = Specification.read(probe, job)._replace(job_id=job_id)
    run = RunDirectory(run_dir, shared=spec.shared)
    run.make_home(ref)
    sys.path[:] = spec.sys_path + [entry for entry in sys.path if entry not in spec.sys_path]
    supervisor = Supervisor(run, ref, spec)
    gc.freeze()  # what is here by now stays, and no worker need look at it again
    gc.enable()
    worker = supervisor.run()
    if worker is None:
        supervisor.close()
        return supervisor.exit_code
    sys.argv[:] = spec.argv  # the program's, as in the workers of any process pool
    payload.install_main()
    context.install(worker)
    if spec.authkey:
        from multiprocessing.process import current_process

        current_process().authkey = spec.authkey
    return worker.run()


def leave(code: int) -> None:
    """End this process as the interpreter would, and do not take the interpreter apart.

    That takes as long as all of a short task, and after large packages much longer; workers of
    `concurrent.futures` that were forked leave in the same way.
    """
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for the task's own threads
        atexit._run_exitfuncs()  # which prints what handlers raise; Python 3.9 raises it as well
    finally:
        try:
            _flush_files()
        finally:
            os._exit(code)


def _flush_files() -> None:
    """Write out what tasks have left in the buffers of files that they did not close, and of the streams."""
    for thing in gc.get_objects():
        if issubclass(type(thing), io.IOBase):
            try:
                thing.flush()
            except (OSError, ValueError):  # there is no room, or it is closed
                pass
    for stream in (sys.stdout, sys.stderr):  # which are older than what `gc` was told to look at
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a task may have closed or replaced them
            pass
