"""A run as its files tell it: for a driver that goes on with what another one has left.

The journal has the tasks.  The inbox of a worker says what it was given, its outbox what it made of that: to
replay the two gives what a driver knew of it.  Nothing is written here, and nobody is asked whether he lives:
whom the files do not prove dead may be alive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

from clusterfutures import payload
from clusterfutures.errors import RunDirectoryError
from clusterfutures.futures import Sink
from clusterfutures.journal import Fresh, Function, Policy, Run
from clusterfutures.logs import CorruptRecord, Frame, Location, LogReader
from clusterfutures.pace import Pace
from clusterfutures.records import (
    AGAIN,
    ASSIGN,
    ASSIGN_SIZE,
    BY_SITE,
    CANCELLED,
    ENDED,
    GIVEN,
    GONE,
    KIND,
    LEAVE,
    NUMBER,
    OUTCOME,
    OUTCOME_HEAD,
    POLICY,
    READY,
    RECALL,
    RETIRED,
    RETURNED,
    RUN,
    STARTED,
    TASKS,
    WAITING,
    WANT,
    Again,
    Assign,
    Batch,
    Ended,
    Gone,
    Ready,
    Started,
    Task,
    Waiting,
)
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.specification import Specification
from clusterfutures.spool import CANCEL, START, RunDirectory, WorkerRef
from clusterfutures.worker import Marker

log = logging.getLogger("clusterfutures")


class Written(NamedTuple):
    """Consecutive tasks of one function in one record: of the journal, at `place`, or of an inbox.

    `start` is the index of the first in its batch.  A lone call has its arguments in `body`.
    """

    first: int
    tasks: int
    style: int
    function: Location
    policy: int
    place: Location
    start: int
    body: Optional[bytes] = None


class Tasks:
    """What the journal says."""

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}
        self.kinds: dict[int, dict[str, Any]] = {}
        self.policies = [Policy()]
        self.written: dict[int, Written] = {}
        self.waiting: dict[int, Waiting] = {}
        self.cancelled: set[int] = set()
        self.again: dict[int, list[Again]] = {}
        self.gone: dict[WorkerRef, JobStatus] = {}

    def give(self, body: bytes) -> None:
        """A lone call, which is in an inbox and in no journal."""
        number, _, _, _, style, function, arguments = Task.unpack(body)
        place, policy = Location(0, 0, 0), Task.policy_in(body)
        self.written[number] = Written(number, 1, style, function, policy, place, 0, arguments)

    def name(self, number: int) -> str:
        """The user's own name for a task, '' if it has none."""
        record = self.written.get(number) or self.waiting.get(number)
        return self.policies[record.policy].name if record is not None else ""

    def tries(self, number: int) -> int:
        """The number of the attempt that a task is to be tried again as, -1 if it never was to be."""
        return self.again[number][-1].attempt if number in self.again else -1

    def read(self, log: LogReader) -> None:
        """All that is in the journal.  Raises CorruptRecord, or OSError, for what cannot be read."""
        for place, found in log.placed():
            self.take(found, place)
        log.close()

    def take(self, found: Frame, place: Location) -> None:
        """One more record, which stands at `place`."""
        kind, body = found
        if kind == TASKS:
            for part in _parts(Batch.unpack(body), place):
                self.written.update(dict.fromkeys(range(part.first, part.first + part.tasks), part))
        elif kind == WAITING:
            waiting = Waiting.unpack(body)
            self.waiting[waiting.number] = waiting
        elif kind == CANCELLED:
            self.cancelled.update(number for (number,) in NUMBER.iter_unpack(body))
        elif kind == AGAIN:
            again = Again.unpack(body)
            self.again.setdefault(again.number, []).append(again)
        elif kind == RUN:
            self.about = _unpickled(body)
        elif kind == KIND:
            number, needs = _unpickled(body)
            self.kinds[number] = needs
        elif kind == POLICY:
            self.policies.append(Policy(*_unpickled(body)))
        elif kind == GONE:
            gone = Gone.unpack(body)
            self.gone[WorkerRef(*gone[:3])] = JobStatus(*_unpickled(gone.status))


def _unpickled(body: bytes) -> Any:
    """What another driver has noted; CorruptRecord if it cannot be understood here."""
    try:
        return payload.loads_result(body)
    except Exception as error:  # it may name classes of the user's, whose import may raise anything
        text = f"what its executor was made with cannot be unpickled here: {type(error).__name__}: {error}"
        raise CorruptRecord(text) from error


def read_tasks(run: RunDirectory) -> Tasks:
    """The tasks of a run that goes on.  Raises RunDirectoryError for what cannot be read."""
    tasks = Tasks()
    try:
        tasks.read(run.tasks_reader())
        for job in range(run.submitted_jobs()):
            for supervisor in run.begun(job):
                for worker in run.workers(supervisor):
                    inbox = run.inbox_reader(worker)
                    for _, (kind, body) in inbox.placed():
                        if kind == GIVEN:
                            tasks.give(body)
                    inbox.close()
    except (CorruptRecord, OSError) as error:
        raise RunDirectoryError(f"cannot read the tasks in {run.path}: {error}", run.path) from error
    return tasks


def _parts(batch: Batch, place: Location) -> Iterator[Written]:
    """A batch as rows of tasks of one function."""
    start, functions = 0, batch.functions
    for at in range(1, len(functions) + 1):
        if at == len(functions) or functions[at] != functions[start]:
            function = batch.places[functions[start]]
            first = batch.first + start
            yield Written(first, at - start, batch.style, function, batch.policy, place, start)
            start = at


# -- workers --------------------------------------------------------------------------------------


class Account:
    """What a worker was given, and what it made of that.

    Attributes: `left`, the attempt by number of each task that it has not done, in its order; `outcomes`, the
    bodies of those records; `ready`, what it said when it was, None before; `leaving`, whether it takes
    nothing more; `recalled`, whether it was asked for what it has not begun, and has not answered.
    """

    def __init__(self, orders: Sequence[Frame], said: Iterable[Frame]) -> None:
        self.left: dict[int, int] = {}
        self.outcomes: list[bytes] = []
        self.ready: Optional[Ready] = None
        self.leaving = any(kind == LEAVE for kind, _ in orders)
        # A driver assigns nothing between a recall and its answer: so what is left at the answer is known.
        portions = _portions(orders)
        self.left.update(portions.pop(0))
        for kind, body in said:
            if kind == OUTCOME:
                self.left.pop(OUTCOME_HEAD.unpack_from(body)[0], None)
                self.outcomes.append(body)
            elif kind == READY:
                self.ready = Ready.unpack(body)
            elif kind in (RETURNED, RETIRED):
                self._hand_back(NUMBER.unpack(body)[0])
                self.leaving |= kind == RETIRED
                if portions and kind == RETURNED:
                    self.left.update(portions.pop(0))
        self.recalled = bool(portions)
        for portion in portions:
            self.left.update(portion)

    def _hand_back(self, count: int) -> None:
        for _ in range(min(count, len(self.left))):
            self.left.popitem()


def _portions(orders: Iterable[Frame]) -> list[dict[int, int]]:
    """The attempts by number of the tasks in an inbox, parted where it asks for them back."""
    portions: list[dict[int, int]] = [{}]
    for kind, body in orders:
        if kind == ASSIGN:
            assign = Assign.unpack(body)
            numbers = range(assign.first, assign.first + assign.tasks)
            portions[-1].update(dict.fromkeys(numbers, assign.attempt))
        elif kind == GIVEN:
            task = Task.unpack(body)
            portions[-1][task.number] = task.attempt
        elif kind == RECALL:
            portions.append({})
    return portions


class WorkerPast(NamedTuple):
    """A worker: its `inbox` and its `outbox` were read to their ends.

    `ended` is how its supervisor saw it end, None if nobody did; `status` how its job did, in the scheduler's
    words, unless it had ended by itself before.  It is `dead` if either is known, or if the files prove it
    otherwise.  `pid` and `job_id` are None if they are not known; `lone` says whether it is made for one
    task, which it has `claimed` or not.
    """

    ref: WorkerRef
    account: Account
    inbox: LogReader
    outbox: LogReader
    pid: Optional[int]
    ended: Optional[Ended]
    status: Optional[JobStatus]
    job_id: Optional[str]
    dead: bool
    kind: int
    lone: bool = False
    claimed: bool = False


class SupervisorPast(NamedTuple):
    """A supervisor that is not known to have ended; `want` is how many workers it was to have last."""

    ref: WorkerRef
    inbox: LogReader
    outbox: LogReader
    want: int


class JobPast(NamedTuple):
    """A job: `ids` are those of its elements, '' for one that was not submitted; None if that is not known.

    `specification` is None if it was never written.  `tasks` are its own, one for each element, where it has
    such; `supervisors` are those of its elements, by index, that may live.
    """

    number: int
    specification: Optional[Specification]
    ids: Optional[list[str]]
    tasks: list[Assign]
    supervisors: dict[int, SupervisorPast]


class _Stand(NamedTuple):
    """What is known of a supervisor before its own files are read; `gone` is one that has ended for certain.

    Nothing may be looked up of one that has not `begun`: another node may make it later, and a network file
    system would go on saying that it is not there.
    """

    ref: WorkerRef
    specification: Specification
    own: Optional[Assign]
    begun: bool
    gone: bool
    status: Optional[JobStatus]
    job_id: Optional[str]


class Past:
    """All of it.

    Attributes: `tasks`, `workers`, `jobs`; the supervisors that have `ended`; `log`, the journal's reader,
    which has read it to its end.

    Raises RunDirectoryError for what cannot be read.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.tasks = Tasks()
        self.workers: list[WorkerPast] = []
        self.ended: list[WorkerRef] = []
        self.jobs: list[JobPast] = []
        self.log = run.tasks_reader()
        try:
            self.tasks.read(self.log)
            for job in range(run.submitted_jobs()):
                self.jobs.append(self._job(job))
        except (CorruptRecord, OSError) as error:
            raise RunDirectoryError(f"cannot go on with {run.path}: {error}", run.path) from error

    def _job(self, job: int) -> JobPast:
        try:
            specification = Specification.read(self.run, job)
        except (FileNotFoundError, CorruptRecord):
            return JobPast(job, None, [], [], {})
        packed, ids = specification.tasks, self.run.ids(job)
        tasks = [Assign.unpack(packed[at:]) for at in range(0, len(packed), ASSIGN_SIZE)]
        latest = dict.fromkeys(range(specification.elements if ids is None else len(ids)), 0)
        begun = set(self.run.begun(job))
        for ref in begun:
            latest[ref.element] = max(latest.get(ref.element, 0), ref.restart)
        supervisors: dict[int, SupervisorPast] = {}
        for ref in sorted({*begun, *(WorkerRef(job, *each) for each in latest.items())}):
            own, status = tasks[ref.element] if tasks else None, self.tasks.gone.get(ref)
            unknown = ids is not None and not any(ids[ref.element : ref.element + 1])
            gone = status is not None or unknown or ref.restart < latest[ref.element]
            job_id = None if unknown or ids is None else ids[ref.element]
            found = self._supervisor(_Stand(ref, specification, own, ref in begun, gone, status, job_id))
            if found is not None:
                supervisors[ref.element] = found
            else:
                self.ended.append(ref)
        return JobPast(job, specification, ids, tasks, supervisors)

    def _supervisor(self, stand: _Stand) -> Optional[SupervisorPast]:
        """A supervisor; None if it has ended.  Takes note of its workers."""
        inbox, outbox = self.run.inbox_reader(stand.ref), self.run.outbox_reader(stand.ref)
        want, ends = stand.specification.workers, _Ends()
        if stand.begun:
            for _, (kind, body) in inbox.placed():
                if kind == WANT:
                    (want,) = NUMBER.unpack(body)
            for found in _said(outbox):
                ends.take(found)
            inbox.close()
        over = stand.gone
        if stand.own is not None:
            self.workers.append(self._lone(stand, stand.own, ends))
            over = self.workers[-1].dead
        elif stand.begun:
            self.workers += [self._worker(stand, ends, ref, []) for ref in self.run.workers(stand.ref)]
        return None if over else SupervisorPast(stand.ref, inbox, outbox, want)

    def _lone(self, stand: _Stand, own: Assign, ends: _Ends) -> WorkerPast:
        """The worker of a job for one task, which may not have begun."""
        ref = stand.ref._replace(slot=0, generation=0)
        order = Frame(ASSIGN, own._replace(attempt=own.attempt + ref.restart).pack())
        claim = self.run.claimed(ref) if stand.begun and self.run.has_claim(ref) else ""
        begun = stand.begun and ref in self.run.workers(stand.ref)
        past = self._worker(stand, ends, ref, [order], begun)
        over = claim == CANCEL or not past.account.left
        return past._replace(dead=past.dead or over, lone=True, claimed=claim == START)

    def _worker(
        self, stand: _Stand, ends: _Ends, ref: WorkerRef, orders: list[Frame], begun: bool = True
    ) -> WorkerPast:
        inbox, outbox = self.run.inbox_reader(ref), self.run.outbox_reader(ref)
        if begun:
            orders += [found for _, found in inbox.placed()]
            inbox.close()
        for kind, body in orders:
            if kind == GIVEN:
                self.tasks.give(body)
        ended = ends.ended.get(ref[3:])
        by_itself = ended is not None and ended.reason not in BY_SITE
        return WorkerPast(
            ref,
            Account(orders, _said(outbox) if begun else ()),
            inbox,
            outbox,
            pid=ends.pids.get(ref[3:]),
            ended=ended,
            status=None if by_itself else stand.status,
            job_id=stand.job_id,
            dead=stand.gone or ended is not None,
            kind=stand.specification.kind,
        )

    @property
    def doubtful(self) -> list[JobPast]:
        """The jobs of which it is not known whether they were submitted."""
        return [job for job in self.jobs if job.ids is None]


def _said(outbox: LogReader) -> Iterator[Frame]:
    """What is in an outbox; behind a damaged record is nothing, as for every driver."""
    try:
        for _, found in outbox.placed():
            yield found
    except CorruptRecord as error:
        log.warning("an outbox has a damaged record; what it says from there on is not known: %s", error)
    outbox.close()


class _Ends:
    """What a supervisor has said of its workers, by slot and generation."""

    def __init__(self) -> None:
        self.pids: dict[tuple[int, ...], int] = {}
        self.ended: dict[tuple[int, ...], Ended] = {}

    def take(self, found: Frame) -> None:
        if found.kind == STARTED:
            started = Started.unpack(found.body)
            self.pids[started.slot, started.generation] = started.pid
        elif found.kind == ENDED:
            ended = Ended.unpack(found.body)
            self.ended[ended.slot, ended.generation] = ended


# -- what has become of each task -----------------------------------------------------------------


class Outcome(NamedTuple):
    """An outcome: the body of its record, and the worker that wrote it."""

    attempt: int
    worker: WorkerRef
    body: bytes


class Fates(NamedTuple):
    """What has become of the `tasks` that there are, by number.

    `kept` are those that a worker has which may live: by worker, each with the number of the attempt, as for
    `lost` (with a worker that was at it), `pending` ones, and those `resting` before another attempt.
    """

    tasks: int
    results: dict[int, Outcome]
    cancelled: list[int]
    kept: dict[WorkerRef, list[tuple[int, int]]]
    lost: list[tuple[int, int, WorkerPast]]
    pending: list[tuple[int, int]]
    resting: list[tuple[int, int]]
    waiting: list[Waiting]
    missing: list[int]


class _Holder(NamedTuple):
    """Who was given a task last, for which attempt; `at` it is what a dead worker was."""

    attempt: int
    alive: bool
    at: bool
    worker: int


def fates(past: Past) -> Fates:
    """Judge what the files tell."""
    tasks, results, held = past.tasks, _results(past), _holders(past)
    count = max((*tasks.written, *tasks.waiting, *tasks.cancelled), default=-1) + 1
    found = Fates(count, results, [], {}, [], [], [], [], [])
    for number in range(count):
        holder, result = held.get(number), results.get(number)
        if result is not None and max(_latest(holder), tasks.tries(number)) > result.attempt:
            del results[number]  # it was worth another attempt, which is under way
            result = None
        if result is None and number in tasks.cancelled:
            found.cancelled.append(number)
        elif result is None:
            _judge(found, past, number, holder)
    for index, worker in enumerate(past.workers):
        if not worker.dead:
            found.kept[worker.ref] = [
                (number, attempt)
                for number, attempt in worker.account.left.items()
                if held[number].worker == index and attempt >= tasks.tries(number)  # else it was given up
            ]
    return found


def _latest(holder: Optional[_Holder]) -> int:
    return holder.attempt if holder is not None else -1


def _judge(found: Fates, past: Past, number: int, holder: Optional[_Holder]) -> None:
    """What is to become of a task that has no outcome."""
    if number in past.tasks.written and past.tasks.tries(number) > _latest(holder):
        found.resting.append((number, past.tasks.tries(number)))
    elif holder is not None:
        if holder.at:
            found.lost.append((number, holder.attempt, past.workers[holder.worker]))
        elif not holder.alive:
            found.pending.append((number, holder.attempt))
    elif number in past.tasks.written:
        found.pending.append((number, 0))
    elif number in past.tasks.waiting:
        found.waiting.append(past.tasks.waiting[number])
    else:
        found.missing.append(number)


def _results(past: Past) -> dict[int, Outcome]:
    """The outcome of each task that has one: that of its latest attempt, should there be several."""
    found: dict[int, Outcome] = {}
    for worker in past.workers:
        for body in worker.account.outcomes:
            number, attempt = OUTCOME_HEAD.unpack_from(body)[:2]
            if number not in found or attempt > found[number].attempt:
                found[number] = Outcome(attempt, worker.ref, body)
    return found


def _holders(past: Past) -> dict[int, _Holder]:
    """Who has each task that was given to somebody, and not handed back.

    Where files name several, all but one are dead: a task goes to another worker only if the one before is.
    """
    found: dict[int, _Holder] = {}
    for index, worker in enumerate(past.workers):
        at = _task_at(past.run, worker) if worker.dead else None
        for number, attempt in worker.account.left.items():
            holder = _Holder(attempt, not worker.dead, number == at, index)
            found[number] = max(holder, found.get(number, holder))
    return found


def _task_at(run: RunDirectory, worker: WorkerPast) -> Optional[int]:
    """The task that a dead worker was at, if it was at one."""
    if worker.ended is not None:
        return worker.ended.task - 1 if worker.ended.task else None
    busy = worker.claimed if worker.lone else Marker.read(run.markers(worker.ref), worker.ref.slot)
    return next(iter(worker.account.left), None) if busy else None


# -- the same as a dispatcher has it --------------------------------------------------------------


class Call(NamedTuple):
    """A task as it was submitted; `parents` are the numbers of those that it waits for, -1 for others."""

    style: int
    function: Function
    body: bytes
    parents: list[int]
    policy: Policy


class Runs:
    """Tasks of the past as runs; `sink` gets their outcomes."""

    def __init__(self, tasks: Tasks, sink: Sink) -> None:
        self._tasks, self._sink = tasks, sink
        self._functions: dict[Location, Function] = {}

    def function(self, place: Location) -> Function:
        """The function that stands there, with one pace for all that call it."""
        if place not in self._functions:
            self._functions[place] = Function(place, Pace())
        return self._functions[place]

    def of(self, chosen: Iterable[tuple[int, int]]) -> list[Run]:
        """These tasks, each with the number of its attempt, in as few runs as can be."""
        runs: list[Run] = []
        last: Optional[Written] = None
        for number, attempt in chosen:
            written = self._tasks.written[number]
            run = runs[-1] if runs else None
            # Who was tried before goes by itself.
            alike = written is last and self._tasks.again.keys().isdisjoint((number, number - 1))
            if run and alike and run.attempt == attempt and number == run.first + run.count:
                run.count += 1
            else:
                runs.append(self._run(written, number, attempt))
            last = written
        return runs

    def _run(self, written: Written, number: int, attempt: int) -> Run:
        call = None
        if written.body is not None:
            call = ((written.style, written.function, written.body), written.policy)
        pace, policy = self.function(written.function).pace, self._tasks.policies[written.policy]
        start = written.start + number - written.first
        run = Run(written.place, start, number, 1, self._sink, policy, pace, attempt, call)
        again = self._tasks.again.get(number, [])
        if again:
            run.policy, run.free = self._tasks.policies[again[-1].policy], again[-1].free
            run.earlier = tuple(each.why for each in again)
        run.free += max(attempt - max(self._tasks.tries(number), 0), 0)  # put back by the scheduler since
        return run

    def call(self, number: int, run: RunDirectory) -> Call:
        """What a task is, read from the files.  Raises ValueError if there is no such task."""
        written, waiting = self._tasks.written.get(number), self._tasks.waiting.get(number)
        if written is not None:
            body = written.body if written.body is not None else _body(run, written, number)
            policy = self._tasks.policies[written.policy]
            return Call(written.style, self.function(written.function), body, [], policy)
        if waiting is not None:
            policy = self._tasks.policies[waiting.policy]
            parents = [parent - 1 for parent in waiting.parents]
            return Call(waiting.style, self.function(waiting.function), waiting.body, parents, policy)
        raise ValueError(f"there is no task {number} in {run.path}")

    def fresh(self, waiting: Waiting) -> Fresh:
        """A task that waits for others."""
        function, policy = self.function(waiting.function), self._tasks.policies[waiting.policy]
        return Fresh(waiting.number, waiting.style, function, [waiting.body], self._sink, policy)


def _body(run: RunDirectory, written: Written, number: int) -> bytes:
    """The arguments of a task of the journal."""
    bodies = Batch.unpack(run.read_task(written.place).body).bodies
    at = written.start + number - written.first
    return bodies[at : at + 1][0]
