"""The process that runs tasks.

It takes assignments from its inbox, runs their tasks one after the other, and writes each outcome to its
outbox before it starts the next.  Which task it is in stands in a memory map that it shares with
its supervisor, so that after any death exactly that one task is known.

While a task runs, a second thread, the attendant, looks after the inbox: it hands unstarted tasks back
when the driver asks, and rings for what was not announced yet.

A worker whose job has but one task is told nothing while it lives, and has no bell: its supervisor, which has
one, rings for it.  That it is ready it says together with the outcome, unless the task takes a moment.
"""

from __future__ import annotations

import _thread
import os
import resource
import sys
import time
from itertools import repeat
from struct import Struct
from time import perf_counter

from clusterfutures import payload
from clusterfutures.functions import Functions
from clusterfutures.light import deque, signal
from clusterfutures.link import Link
from clusterfutures.logs import CorruptRecord, Location, frame
from clusterfutures.records import (
    ASSIGN,
    ASSIGN_SIZE,
    BOUND,
    BROKEN,
    CALL,
    GIVEN,
    ITEM,
    LEAVE,
    NUMBER,
    OUTCOME,
    OUTCOME_HEAD,
    RAISED,
    READY,
    RECALL,
    RETIRED,
    RETURNED,
    RETURNED_VALUE,
    SECONDS,
    TASKS,
    TIME_LEFT,
    UNREADABLE,
    Assign,
    Batch,
    Ready,
    Task,
    unbind,
)
from clusterfutures.spool import START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from mmap import mmap
    from types import TracebackType
    from typing import Any

    from clusterfutures.logs import Frame
    from clusterfutures.specification import Specification
    from clusterfutures.spool import RunDirectory, WorkerRef

TICK = 0.05  # seconds; how soon the attendant notices
RING_INTERVAL = 0.004  # seconds; outcomes that follow each other faster are announced together
MEASURED = 0.001  # seconds; CPU and memory are read only after tasks that took longer

RESERVE = 5.0  # seconds of wall time that are left to the end of things

STARTING, RUNS, FAILED, RETIRES = 0, 1, 2, 3
"""What a worker is at, for its supervisor."""

ALARM = signal.SIGURG  # it is harmless where nobody expects it, and no scheduler warns with it
"""Worker to supervisor: look at the deadlines again; from one without a bell: ring for me."""


class Marker:
    """This worker's place in the memory that its supervisor reads: current task + 1, its deadline, state.

    Three aligned words of eight bytes, each stored at once, so that no reader sees half of one.  The deadline
    is in nanoseconds of the machine's monotonic clock, which both processes share.

    Whether it is at any task is written to the file `fd` as well, unless that is -1: it outlives both.  That
    file is not mapped: where there is no room a store would be SIGBUS, and a network file system promises to
    send what was written when a process that dies closes a file, but nothing of what was stored.
    """

    STRUCT = Struct("<QQQ")

    def __init__(self, memory: mmap, slot: int, fd: int = -1) -> None:
        self._words = memoryview(memory).cast("Q")
        self._at = slot * 3
        self._fd = fd

    @staticmethod
    def read(path: str, slot: int) -> bool:
        """From outside: whether the worker in `slot` is at a task; False also if that cannot be read."""
        try:
            with open(path, "rb") as file:
                file.seek(slot)
                return file.read(1) == b"\1"
        except OSError:
            return False

    def set(self, task: int, deadline: float, state: int) -> None:
        """Record what this worker is at."""
        words, at = self._words, self._at
        words[at + 1] = int(deadline * 1e9)
        words[at + 2] = state
        words[at] = task

    def note(self, busy: bool) -> None:
        """Write whether it is at tasks: once for all those that it does in a row."""
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, bytes((busy,)), self._at // 3)
            except OSError:  # no room even for what is written over: it stays as it was
                pass

    def get(self) -> tuple[int, float, int]:
        """What the worker recorded last."""
        task, deadline, state = self._words[self._at : self._at + 3]
        return task, deadline * 1e-9, state


class Worker:
    """The state of one worker process.

    `supervisor` is the pid of the one that has forked it, which may be dead before it can ask for its parent.
    """

    def __init__(
        self, run: RunDirectory, ref: WorkerRef, spec: Specification, marker: Marker, supervisor: int
    ) -> None:
        self.run_directory, self.ref, self.specification, self._marker = run, ref, spec, marker
        self._lone = bool(spec.tasks)
        self._link = Link(run, ref, spec.orphan_timeout, call=not self._lone)
        self._queue: deque[Task] = deque()
        self._functions = Functions(run)
        self._fetch = run.fetch_buffer
        self._batch: tuple[Location | None, Batch | None] = (None, None)
        self._writing = _thread.allocate_lock()  # the outbox: main thread and attendant
        self._reading = _thread.allocate_lock()  # the inbox: whoever holds it may take from it
        self._leaving = False
        self._unrung = self._recalled = False
        self._rung = 0.0
        self._done = 0
        self._rests_as = RUNS  # its state between tasks
        self.ends = 0.0  # when the wall time does, on the monotonic clock; 0 if nobody said
        self.pid, self._parent = os.getpid(), supervisor
        self.job_id = spec.job_id or str(self._parent)
        self._peaks = Peak()
        self._cpu, self._peak = _usage()
        self._printed = _printed()  # bytes on stdout and stderr when last looked at
        self._measured = True  # CPU and memory were read since the last bundle
        self._unseen = False  # something may have been printed since
        self.current: Task | None = None
        self.forked = False  # this is a child of the worker, which a task made
        self.warned = False  # the scheduler has announced the end of the job
        self.busy = False

    # -- life -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until told to leave; returns the exit code."""
        self.check_parent()  # what a supervisor began that was killed meanwhile is begun anew by another
        if self._lone and not self.run_directory.claim(self.ref, START):
            return 0  # cancelled, before it could start
        if not self._initialize():
            return 1
        if self._lone:
            own = self.specification.tasks[self.ref.element * ASSIGN_SIZE :]
            assign = Assign.unpack(own)
            # A job that the scheduler starts anew makes a further attempt.
            assign = assign._replace(attempt=assign.attempt + self.ref.restart)
            self._queue.extend(self._assigned(assign))
            self._leaving = True
        attendant = Attendant(self)
        os.register_at_fork(after_in_child=self._note_fork)
        while True:
            self._take()
            if not self._queue:
                break
            attendant.begin()
            self._run_queue()
            attendant.end()
            if self.specification.max_tasks and self._done >= self.specification.max_tasks:
                break
        with self._writing:
            self._link.ring()
            self._link.close()
        return 0  # what it had not started is found unstarted when its end is reported

    def _note_fork(self) -> None:
        self.forked = True

    def note_warning(self, number: int, stack: object) -> None:
        """The handler of the signals that announce the end of the job."""
        self.warned = True

    def _initialize(self) -> bool:
        self._marker.set(0, 0.0, STARTING)
        try:
            if self.specification.initializer is not None:
                function, call = self.specification.initializer
                body = self.run_directory.read_task(call).body
                args, kwargs = payload.loads_call(body, self.run_directory.fetch_buffer)
                self._functions.get(function)(*args, **kwargs)
        except BaseException as error:  # whatever it raises, SystemExit included, breaks the pool
            self._marker.set(0, 0.0, FAILED)
            self._tell(BROKEN, payload.dumps_error(error))
            self._link.close()
            return False
        self._marker.set(0, 0.0, RUNS)
        self._write(READY, Ready(self.pid, self.job_id, _node()).pack())
        if not self._lone:
            self._ring()
        return True

    def _take(self) -> None:
        """Wait until there is something to run, or reason to leave."""
        with self._reading:
            if not self._link.heard:  # with a bell, what is there has been rung for
                self._handle(self._link.look())
            while not (self._queue or self._leaving):
                if self._unrung:
                    self._ring()
                frames = self._link.wait(1.0)
                if frames:
                    self._handle(frames)
                    continue
                self.check_parent()
                self._leaving = self._link.orphaned()

    def _handle(self, frames: list[Frame]) -> None:
        for kind, body in frames:
            if kind == GIVEN:
                self._queue.append(Task.unpack(body))
            elif kind == ASSIGN:
                self._queue.extend(self._assigned(Assign.unpack(body)))
            elif kind == RECALL:
                self._recalled = True
            elif kind == LEAVE:
                self._leaving = True
            elif kind == TIME_LEFT:
                self.ends = time.monotonic() + SECONDS.unpack(body)[0]
        if self._recalled:
            self._hand_back(RETURNED)
            self._recalled = False  # it is answered; to ring for that may have to be tried again
            self._ring()

    def _assigned(self, assign: Assign) -> Iterable[Task]:
        try:
            batch = self._batch_at(assign.place)
        except (OSError, CorruptRecord) as error:
            # Each of its tasks ends with this: lost in silence they would be waited for without end.
            numbers = range(assign.first, assign.first + assign.tasks)
            text = f"cannot read the task from the run directory: {error}".encode()
            return [Task(n, assign.attempt, 0.0, 0.0, UNREADABLE, assign.place, text) for n in numbers]
        return _tasks(assign, batch)

    def _batch_at(self, place: Location) -> Batch:
        last, batch = self._batch
        if last != place or batch is None:
            found = self.run_directory.read_task(place)
            if found.kind != TASKS:
                raise CorruptRecord(f"the record at {place} holds no tasks")
            batch = Batch.unpack(found.body)
            self._batch = (place, batch)
        return batch

    def _hand_back(self, kind: int, more: int = 0) -> None:
        """Give up what has not been started, and so many tasks `more`.

        Raises OSError if that cannot be told; then nothing is given up.
        """
        taken: list[Task] = []
        while True:
            try:
                taken.append(self._queue.pop())  # atomic: the main thread takes from the other end
            except IndexError:
                break
        try:
            self._write(kind, NUMBER.pack(len(taken) + more))
        except OSError:
            self._queue.extend(reversed(taken))
            raise

    def _too_late_for(self, task: Task) -> bool:
        """Whether the wall time will probably be over before `task` is; if so, hand it back and retire.

        The first task of a worker that began with its job is always run: no other one has more time.
        """
        first = not self._done and not self.ref.generation
        if first or time.monotonic() + task.expected + RESERVE < self.ends:
            return False
        self._leaving, self._rests_as = True, RETIRES
        self._hand_back(RETIRED, 1)
        self._ring()
        return True

    # -- tasks ----------------------------------------------------------------------------------

    def _run_queue(self) -> None:
        """Run everything that is queued."""
        queue, limit = self._queue, self.specification.max_tasks
        self._marker.note(True)
        while queue and not (limit and self._done >= limit):
            try:
                task = queue.popleft()
            except IndexError:
                break  # the attendant has just handed it back
            if self.ends and self._too_late_for(task):
                break
            self._run_task(task)
            self._done += 1
        self._ring()
        self.current = None
        self._marker.set(0, 0.0, self._rests_as)
        self._marker.note(False)
        if self._measured:  # for the next bundle, now that nobody waits
            self._measured = False
            self._peaks.forget()
            self._cpu, self._peak = _usage()

    def _run_task(self, task: Task) -> None:
        """The hot path of the worker: what it costs, each of a million tasks pays."""
        number, attempt, timeout, _expected, style, _function, _body = task
        deadline = time.monotonic() + timeout if timeout else 0.0
        self.current = task
        self._marker.set(number + 1, deadline, RUNS)
        if deadline:
            self._alarm()  # the supervisor sleeps until the earliest deadline it knows
        if style == CALL and self._unseen:
            self._printed = _printed()
        before = self._printed
        began = perf_counter()
        status, body = self._outcome(task)
        ended = perf_counter()
        if self.forked:
            os._exit(1)  # a child that the task forked came back from it: its outcome is not ours to tell
        wall = ended - began
        if wall < MEASURED:
            cpu = wall  # reading the clock of the CPU would cost as much as such a task
            self._cpu += wall
        else:
            self._measured = True
            cpu = -self._cpu
            self._cpu, self._peak = _usage()
            cpu = max(self._cpu + cpu, 0.0)
        # Items of a map have no future to ask for their output: whose it is need not be known.
        self._unseen = style != CALL
        if not self._unseen:
            self._printed = _printed()
        head = OUTCOME_HEAD.pack(number, attempt, status, wall, cpu, self._peak, *before, *self._printed)
        try:
            with self._writing:
                self._link.outbox.append(frame(OUTCOME, head + body))
        except OSError as error:
            self._write_failed(task, error)
        self._unrung = True
        if ended - self._rung > RING_INTERVAL:
            self._ring()

    def _outcome(self, task: Task) -> tuple[int, bytes]:
        try:
            value = self._call(task)
        except BaseException as error:  # a task may raise anything; it is the task's outcome
            return RAISED, payload.dumps_error(_without_our_frames(error))
        try:
            return RETURNED_VALUE, payload.dumps_result(value)
        except BaseException as error:  # a result's own __reduce__ may raise anything, too
            return RAISED, payload.dumps_error(_unpicklable(value, error))

    def _call(self, task: Task) -> Any:
        _number, _attempt, _timeout, _expected, style, place, body = task
        if style == UNREADABLE:
            raise _unreadable(body.decode())
        function = self._functions.get(place)
        given = self._bound(body) if body[0] == BOUND else payload.loads_item(body, self._fetch)
        if style == ITEM:
            return function(given)
        if style == CALL:
            args, kwargs = given
            return function(*args, **kwargs)
        return function(*given)

    def _bound(self, body: bytes) -> Any:
        """What a task is called with that has waited for the results of others."""
        body, values = unbind(body)
        return payload.loads_item(body, self._fetch, lambda i: payload.loads_item(values[i], self._fetch))

    # -- telling --------------------------------------------------------------------------------

    def _write_failed(self, task: Task, error: OSError) -> None:
        """Tell that the outcome is lost: in a small record, for which there may be room, else by bell."""
        small = payload.dumps_error(_outcome_error(error))
        printed = _printed()
        head = OUTCOME_HEAD.pack(
            task.number, task.attempt, RAISED, 0.0, 0.0, self._peak, *printed, *printed
        )
        while True:
            try:
                with self._writing:
                    self._link.outbox.write(frame(OUTCOME, head + small))
                return
            except OSError as again:
                if self._link.report_lost(task.number, task.attempt, again.errno or 0):
                    return
            if self._link.orphaned():
                raise error  # to end in this very task: it would seem not to have begun, and be run again
            time.sleep(0.5)  # nobody to tell and nowhere to write: room may be made meanwhile

    def _tell(self, kind: int, body: bytes) -> None:
        self._write(kind, body)
        self._ring()

    def _write(self, kind: int, body: bytes) -> None:
        with self._writing:
            self._link.outbox.write(frame(kind, body))
        self._unrung = True

    def _ring(self) -> None:
        if not self._unrung:
            return
        self._unrung = False
        self._rung = perf_counter()
        with self._writing:
            self._link.ring()
        if self._lone:
            self._alarm()

    def _alarm(self) -> None:
        if os.getppid() == self._parent:
            os.kill(self._parent, ALARM)

    def check_parent(self) -> None:
        """Die with the supervisor: without it nobody would ever hear how this worker ends."""
        if os.getppid() != self._parent:
            os.killpg(0, signal.SIGKILL)

    def attend(self) -> None:
        """What the attendant does while a task takes its time."""
        for step in (self._ring, self._look):
            try:
                step()
            except OSError:  # no room for what is to be told: that is tried again at the next tick
                self._unrung = True

    def _look(self) -> None:
        if self._reading.acquire(False):
            try:
                self._handle(self._link.look())
            finally:
                self._reading.release()


class Attendant:
    """A thread that calls `worker.attend` while one task runs for longer than a tick.

    Raw `_thread`: the worker starts without importing `threading`, and no exit waits for it.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._parked = True
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        _thread.start_new_thread(self._run, ())

    def begin(self) -> None:
        """Tasks are about to run."""
        self._worker.busy = True
        if self._parked:
            self._parked = False
            try:
                self._gate.release()
            except RuntimeError:
                pass  # it was about to park, and finds the gate open

    def end(self) -> None:
        """Nothing runs; the main thread itself listens."""
        self._worker.busy = False

    def _run(self) -> None:
        self._gate.acquire()
        idle = 0
        seen: Task | None = None
        while True:
            time.sleep(TICK)
            self._worker.check_parent()
            current = self._worker.current
            if current is not None and current is seen:
                self._worker.attend()
            seen = current
            idle = 0 if self._worker.busy else idle + 1
            if idle > 20:  # a second of rest: stop ticking until there is work again
                idle = 0
                self._park()

    def _park(self) -> None:
        self._parked = True
        if self._worker.busy and self._parked:
            self._parked = False  # work came between the look and the flag: do not wait for more
            return
        self._gate.acquire()


def _tasks(assign: Assign, batch: Batch) -> Iterable[Task]:
    """What `assign` asks for, of the batch that it names."""
    start, count = assign.start, assign.tasks
    fields = zip(
        range(assign.first, assign.first + count),
        repeat(assign.attempt),
        repeat(assign.timeout),
        repeat(assign.expected),
        repeat(batch.style),
        [batch.places[index] for index in batch.functions[start : start + count]],
        batch.bodies[start : start + count],
    )
    return map(tuple.__new__, repeat(Task), fields)  # a tenth of what calling Task each time costs


def _usage() -> tuple[float, int]:
    """CPU seconds of this process and the children it has waited for, and its peak memory in bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    unit = 1 if sys.platform == "darwin" else 1024
    return cpu, max(own.ru_maxrss, children.ru_maxrss) * unit


class Peak:
    """Begins to measure peak memory afresh, where the kernel can (Linux: proc(5), clear_refs)."""

    def __init__(self) -> None:
        try:
            self._fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # elsewhere the peak is that of the process so far

    def forget(self) -> None:
        """From now on."""
        if self._fd >= 0:
            try:
                os.write(self._fd, b"5")
            except OSError:
                self._fd = -1  # a kernel without it


def _node() -> str:
    """This node, by the name under which its scheduler knows it."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _printed() -> tuple[int, int]:
    """How much has been written to standard output and standard error, in bytes."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        return os.lseek(1, 0, os.SEEK_CUR), os.lseek(2, 0, os.SEEK_CUR)
    except (OSError, ValueError, AttributeError):
        return 0, 0  # the task closed or replaced its streams: its output is not ours to find


def _without_our_frames(error: BaseException) -> BaseException:
    """The traceback begins where the user's code does."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)


def _unpicklable(value: Any, error: BaseException) -> BaseException:
    from clusterfutures.errors import TaskPicklingError

    kind = type(value).__qualname__
    wrapped = TaskPicklingError(f"the result, of type {kind}, cannot be pickled: {error}")
    wrapped.__cause__ = error
    return wrapped


def _unreadable(text: str) -> BaseException:
    from clusterfutures.errors import RunDirectoryError

    return RunDirectoryError(text)


def _outcome_error(error: OSError) -> BaseException:
    from clusterfutures.errors import OutcomeNotWritten

    text = f"the task ran, but its outcome could not be written: {error.strerror}"
    return OutcomeNotWritten(error.errno, text)


