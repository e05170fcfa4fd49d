"""The one thread of an executor: it hears the doorbell, reads what processes wrote, and keeps jobs going.

Everything that it waits for has a bound, and everything that it hears of by bell it also finds by looking.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Optional

from clusterfutures import payload
from clusterfutures.allocation import Allocation, Element, Events
from clusterfutures.dispatch import Dispatcher
from clusterfutures.errors import InitializerFailed, RunInUse, TaskKilled
from clusterfutures.link import (
    GREW,
    LONGEST_POLL,
    LOOK,
    LOST,
    SHORTEST_POLL,
    SUPERVISOR,
    Lease,
    complete,
)
from clusterfutures.logs import CorruptRecord, LogReader, LogWriter
from clusterfutures.obituary import Post
from clusterfutures.records import (
    BROKEN,
    BY_SITE,
    ENDED,
    GAVE_UP,
    NUMBER,
    OUTCOME,
    OWN,
    READY,
    RETIRED,
    RETURNED,
    STARTED,
    Ended,
    Ready,
    Started,
)
from clusterfutures.schedulers.base import JobStatus, Scheduler
from clusterfutures.spool import RunDirectory, WorkerRef
from clusterfutures.wire import Record

if TYPE_CHECKING:
    from clusterfutures.doorbell import Caller, Doorbell
    from clusterfutures.history import Past
    from clusterfutures.logs import Frame

log = logging.getLogger("clusterfutures")

SAFETY_LOOK = 1.0  # seconds between looks at everything, in case a bell was not heard
SAFETY_LISTING = 10.0  # the same for those whose call was not answered before they left
RECALL_LOOK = 0.05  # seconds between looks for tasks that wait behind a long one
ENDING_LOOK = 0.01  # the same while everything ends
CHORE_INTERVAL = 0.01  # seconds for which chores may be left while nothing is pending
LEASE_INTERVAL = 15.0
STOP_AFTER = 10.0  # seconds that workers have to leave when all is done
CANCEL_AFTER = 5.0  # seconds that a supervisor has to obey, before the scheduler is asked
NEWCOMERS = 0.25  # seconds between looks at those who have no line to the bell yet
MUTE_AFTER = 10.0  # seconds that a worker has to find the doorbell before somebody should be told
ACCOUNTING_GRACE = 10.0  # seconds to wait for the scheduler's word on why a worker died
ENDING_GRACE = 60.0  # seconds to wait longer while it says that the job is ending (a site's epilog)
DONE = Ended(0, 0, 0, 0, OWN)  # how a lone worker ends that has written its outcome
SUSPECT = 5.0  # seconds that an unreadable record may be one that is still being written


class Peer:
    """A supervisor or a worker that tells us things."""

    def __init__(self, ref: WorkerRef, outbox: LogReader) -> None:
        self.ref, self.outbox = ref, outbox
        self.caller: Optional[Caller] = None
        self.voice = self  # who rings for it
        self.buried = False
        self.mute_since = 0.0  # when it said by file that it can take tasks, without having called
        self.heard = False
        self.suspect_since = 0.0


class Watch:
    """Runs one executor; made by its first submission, ends when nothing is left to be done."""

    def __init__(
        self,
        run: RunDirectory,
        scheduler: Scheduler,
        bell: Optional[Doorbell],
        dispatcher: Dispatcher,
        jobs: Callable[[Events], Allocation],
        orphan_timeout: float,
        idle_timeout: Optional[float],
    ) -> None:
        self._run, self._scheduler, self.bell = run, scheduler, bell
        self._idle_timeout = idle_timeout
        self._unexplained: dict[WorkerRef, Ended] = {}  # dead workers whose scheduler knows why
        self._hung_up: list[WorkerRef] = []  # supervisors, in this turn
        self._silent: set[WorkerRef] = set()  # supervisors whose line has broken
        self._told_mute = False
        self._curious_until = 0.0  # for so long, the scheduler is asked often
        self._needed_all = 0.0  # when it was last so that no worker too many was there or under way
        self._lease_interval = min(LEASE_INTERVAL, orphan_timeout / 4)
        self._buried: dict[WorkerRef, int] = {}  # the last generation of each slot that is dead
        self._peers: dict[WorkerRef, Peer] = {}
        self._posted: deque[Callable[[], None]] = deque()
        self._nudge = threading.Event()  # stands in for the bell's poll where there is none
        self._pause = self._timeout = SHORTEST_POLL
        self._mute = True  # somebody has no bell: what it writes is found by looking
        self._looked = self._listed = self._chored = 0.0
        self._lease = Lease(0, bell.address if bell is not None else "")
        self._leased = 0.0
        self._deadline = 0.0  # when the next, harder step of ending is due
        self._steps: list[Callable[[], None]] = []
        events = Events(
            self.post, self.ring, self.break_, self._element_came, self._element_gone, self._element_ending,
            self._element_timed,
            self._was_heard,
        )  # fmt: skip
        self.allocation = jobs(events)
        self.dispatcher, self._crew = dispatcher, dispatcher.crew
        self.ended: Callable[[], None] = lambda: None  # called last of all
        self.check_lease: Callable[[], None] = lambda: None  # raises RunInUse if the run is another driver's
        # Waited for instead of the thread: up to Python 3.12 a Ctrl-C inside of Thread.join makes the thread
        # pass for ended (python/cpython#90882).
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._main, name="clusterfutures-watch", daemon=True)
        self.aborting = False

    # -- from any thread ------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look for work."""
        if self.bell is not None:
            self.bell.wake()
        else:
            self._nudge.set()

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` made in this thread."""
        self._posted.append(call)
        self.wake()

    def ring(self, ref: WorkerRef, inbox: LogWriter) -> None:
        """Tell a process that its inbox has grown."""
        peer = self._peers.get(ref)
        if peer is not None and peer.caller is not None:
            peer.caller.ring(Record(GREW, 0, inbox.segment, inbox.end))

    def restore(self, past: Past) -> None:
        """Go on reading where `past` ends, which another driver has left; before the thread starts."""
        for ref in (*past.ended, *(worker.ref for worker in past.workers if worker.dead)):
            first = ref._replace(generation=0)
            self._buried[first] = max(ref.generation, self._buried.get(first, -1))
        for ref, outbox in self._readers(past):
            peer = self._peers[ref] = Peer(ref, outbox)
            peer.heard = (outbox.segment, outbox.offset) > (0, 0)
        for ref, peer in self._peers.items():
            if self.allocation.lone_worker(ref.supervisor) == ref:
                peer.voice = self._peers.get(ref.supervisor, peer)
        if self.bell is not None:
            self._silent.update(ref for ref in self._peers if ref.slot < 0)  # until they call
        try:
            self._lease = Lease(Lease.read(self._run).counter, self._lease.address)
        except (OSError, CorruptRecord):  # there was none, and so nobody who compares
            log.debug("no lease of an earlier driver in %s", self._run.path)

    def _readers(self, past: Past) -> Iterator[tuple[WorkerRef, LogReader]]:
        """Whoever may write; but on a cluster those that wait in the queue are found when they begin."""
        alive = [worker for worker in past.workers if not worker.dead]
        begun = {worker.ref.supervisor for worker in alive if worker.claimed or not worker.lone}
        supervisors = [(one.ref, one.outbox) for job in past.jobs for one in job.supervisors.values()]
        for ref, outbox in (*supervisors, *((worker.ref, worker.outbox) for worker in alive)):
            if ref.supervisor in begun or outbox.segment or outbox.offset or not self._run.shared:
                yield ref, outbox

    def start_lease(self) -> None:
        """Publish where the doorbell is, before any process looks for it."""
        self._lease = Lease(self._lease.counter + 1, self._lease.address)
        self._lease.write(self._run)
        self._leased = time.monotonic()

    # -- the loop -------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._over():
                self._turn()
        except RunInUse as error:  # its jobs are that driver's, too
            log.error("%s", error)
            self.dispatcher.fail_all(error, broken=True)
        except BaseException as error:  # nobody else would ever hear of it
            log.exception("the watching thread failed; its futures fail with it")
            self.dispatcher.fail_all(error, broken=True)
            self.allocation.cancel()
        finally:
            try:
                self._close()
            finally:
                self.over.set()

    def _turn(self) -> None:
        rung = self._wait()
        while self._posted:
            self._posted.popleft()()
        self._hear(rung)
        if self._hung_up:
            self._ask_after_the_silent()
        now = time.monotonic()
        if now - self._looked > self._timeout:
            self._look(now)
        if self._mute or self.dispatcher.stirring or now - self._chored > CHORE_INTERVAL:
            self._do_chores(now)
        else:
            self._timeout = min(self._timeout, CHORE_INTERVAL)  # what was left is done then
        # Last: whoever waits for a result runs from here on, and would contend with the above.
        self.dispatcher.deliver()

    def _do_chores(self, now: float) -> None:
        self._chored = now
        self._kill_doomed()
        self.dispatcher.pump()
        self._crew.dismiss(self.dispatcher.max_workers)  # after scale(), those that came late as well
        self.allocation.withdraw(self.dispatcher.queued.unneeded())
        self.allocation.shrink(self.dispatcher.max_workers)
        wanted = self.dispatcher.wanted()
        self.allocation.want(wanted, self.dispatcher.max_workers)
        self._make_room(wanted)
        if self._idle_timeout is not None:
            self._dismiss_idle(now, wanted, self._idle_timeout)
        self._settle_unexplained(now)
        self.allocation.ask()
        if now - self._leased > self._lease_interval:
            self._renew_lease()
        self._mute = any(self._may_write_unheard(peer) for peer in self._peers.values())
        if self._mute and self.bell is not None and not self._told_mute:
            self._tell_who_is_mute(now)
        self._timeout = min(
            self._look_interval(sum(wanted.values())), self.allocation.patience, self.dispatcher.patience
        )

    def _may_write_unheard(self, peer: Peer) -> bool:
        return peer.voice.caller is None and not self.allocation.is_idle(peer.ref)

    def _tell_who_is_mute(self, now: float) -> None:
        """Say, once, that there is no way to the doorbell for somebody who has had the time to find it."""
        for peer in self._peers.values():
            if peer.mute_since and not peer.voice.caller and now - peer.mute_since > MUTE_AFTER:
                self._told_mute = True
                log.warning(
                    "worker %s does not reach the doorbell at %s: what it does is found by looking, later; "
                    "host= names another address of this machine, doorbell=False skips the attempt",
                    peer.ref,
                    self._lease.address,
                )
                return

    def _wait(self) -> dict[Peer, int]:
        """Sleep until somebody rings or it is time to look.

        Returns who rang, in that order, with the last segment of each one's outbox that is known to be whole.
        """
        timeout = ENDING_LOOK if self._deadline else self._timeout
        rung: dict[Peer, int] = {}
        if self.bell is None:
            self._nudge.wait(timeout)
            self._nudge.clear()
            return rung
        for event in self.bell.poll(timeout):
            peer = self._owner(event.line)
            if peer is None:
                continue
            if event.closed:
                if peer.caller is event.line:
                    peer.caller = None
                    if peer.ref.slot < 0:
                        self._hung_up.append(peer.ref)
                        rung.setdefault(peer, -1)  # for its last words
                        self._rang_for_another(peer, rung)
                continue
            peer.caller, peer.mute_since = event.line, 0.0
            self._silent.discard(peer.ref)
            if event.opened:
                event.line.ring(Record(LOOK))  # what was written before there was a line
            if event.record is not None and event.record.kind == LOST:
                self.dispatcher.outcome_lost(event.record.b, event.record.c)
            upto = -1 if event.record is None else complete((event.record,))
            rung[peer] = max(rung.get(peer, -1), upto)
            if event.record is not None and peer.ref.slot < 0:
                self._rang_for_another(peer, rung)
        return rung

    def _owner(self, line: Caller) -> Optional[Peer]:
        """Who calls; the line of somebody who is buried is closed."""
        peer: Optional[Peer] = line.owner
        if peer is None:
            peer = line.owner = self._peer(_ref(line.identity))
        if peer is None or peer.buried:
            line.close()
            return None
        return peer

    def _rang_for_another(self, peer: Peer, rung: dict[Peer, int]) -> None:
        """A supervisor has rung: perhaps for its lone worker."""
        lone = self.allocation.lone_worker(peer.ref)
        other = self._peer(lone) if lone is not None else None
        if other is not None:
            rung.setdefault(other, -1)

    def _look_interval(self, wanted: int) -> float:
        if not self.dispatcher.unfinished and self._crew.active() >= wanted:
            return SAFETY_LOOK
        if self._mute:
            # With a bell, who has no line is about to have one; looking all the time would not be faster.
            return max(self._pause, NEWCOMERS) if self._bell_reaches else self._pause
        return RECALL_LOOK if self._crew.uneven else SAFETY_LOOK

    @property
    def _bell_reaches(self) -> bool:
        return self.bell is not None and self._run.shared and not self._told_mute

    def _look(self, now: float) -> None:
        """Read everything, rung or not."""
        self._looked = now
        without_bell = self.bell is None or self._told_mute
        if now - self._listed > (SAFETY_LOOK if without_bell else SAFETY_LISTING):
            self._listed = now
            for ref in self.allocation.begun():
                self._peer(ref)
        peers = [peer for peer in self._peers.values() if not self.allocation.is_idle(peer.ref)]
        if not self._hear(dict.fromkeys(peers, -1)):
            self._pause = min(self._pause * 1.5, LONGEST_POLL[self._run.shared])

    def _hear(self, peers: Mapping[Peer, int]) -> bool:
        heard = False
        for peer, upto in peers.items():
            frames = peer.outbox.read(upto)
            if frames:
                heard = True
                self._pause = SHORTEST_POLL
                self._take(peer, frames)
            elif peer.outbox.suspect:
                self._suspect(peer)
        return heard

    def _suspect(self, peer: Peer) -> None:
        now = time.monotonic()
        if not peer.suspect_since:
            peer.suspect_since = now
        elif now - peer.suspect_since > SUSPECT and peer.ref.slot >= 0:
            peer.suspect_since = now
            log.error("worker %s: its outbox has a damaged record; ending the worker", peer.ref)
            self.allocation.kill(peer.ref, 0, 9)

    # -- what was heard -------------------------------------------------------------------------

    def _peer(self, ref: WorkerRef) -> Optional[Peer]:
        """Who `ref` is; None if it was buried before: the dead do not come back, but may still ring."""
        peer = self._peers.get(ref)
        if peer is None and not self._is_buried(ref):
            self.allocation.restarted(ref.supervisor)
            peer = self._peers[ref] = Peer(ref, self._run.outbox_reader(ref))
            if self.allocation.lone_worker(ref.supervisor) == ref:
                peer.voice = self._peers.get(ref.supervisor, peer)
            self._mute = True
        return peer

    def _is_buried(self, ref: WorkerRef) -> bool:
        if ref.slot >= 0 and self._is_buried(ref.supervisor):
            return True
        return ref.generation <= self._buried.get(ref._replace(generation=0), -2)

    def _ask_after_the_silent(self) -> None:
        """Supervisors that hung up although workers of theirs are not known to have ended: what is wrong?"""
        hung_up, self._hung_up = set(self._hung_up), []
        left = {ref.supervisor for ref in self._peers if ref.slot >= 0}
        if hung_up & left:
            self._silent |= hung_up & left
            self._be_curious()

    def _be_curious(self) -> None:
        """Ask the scheduler often for a while: something has ended that only it can explain."""
        self._curious_until = time.monotonic() + ACCOUNTING_GRACE
        self.allocation.urgent = True
        self.allocation.ask(at_once=True)

    def _take(self, peer: Peer, frames: list[Frame]) -> None:
        peer.heard = True
        peer.suspect_since = 0.0
        if peer.ref.slot < 0:
            for kind, body in frames:
                self._supervisor_says(peer.ref, kind, body)
            return
        bodies = [body for kind, body in frames if kind == OUTCOME]
        if len(bodies) == len(frames):  # nearly always
            self.dispatcher.outcomes(peer.ref, bodies)
        else:
            for item in frames:
                self._worker_says(peer.ref, item)
        if bodies and peer.voice is not peer:
            self._worker_ended(peer.ref, DONE)

    def _worker_says(self, ref: WorkerRef, item: Frame) -> None:
        if item.kind == OUTCOME:
            self.dispatcher.outcomes(ref, (item.body,))
        elif item.kind == RETURNED:
            self._crew.returned(ref, NUMBER.unpack(item.body)[0])
        elif item.kind == RETIRED:
            self._crew.returned(ref, NUMBER.unpack(item.body)[0], leaves=True)
            self._retire(ref.supervisor)
        elif item.kind == READY:
            self._ready(ref, Ready.unpack(item.body))
        elif item.kind == BROKEN:
            cause = payload.loads_error(item.body)
            error = InitializerFailed(f"the initializer failed in worker {ref}: {cause!r}")
            error.__cause__ = cause
            self.break_(error)
        else:
            log.warning("worker %s: record of unknown kind %d", ref, item.kind)

    def _supervisor_says(self, ref: WorkerRef, kind: int, body: bytes) -> None:
        if kind == STARTED:
            started = Started.unpack(body)
            self._started(ref._replace(slot=started.slot, generation=started.generation), started.pid)
        elif kind == ENDED:
            ended = Ended.unpack(body)
            self._worker_ended(ref._replace(slot=ended.slot, generation=ended.generation), ended)
        elif kind == GAVE_UP:
            self.allocation.gave_up(ref, body.decode())
        else:
            log.warning("supervisor %s: record of unknown kind %d", ref, kind)

    def _started(self, ref: WorkerRef, pid: int) -> None:
        if self._peer(ref) is not None:
            post = Post(str(ref), pid, None, None)
            self._crew.joined(ref, post, self.allocation.kind_of(ref.job))

    def _ready(self, ref: WorkerRef, ready: Ready) -> None:
        self.allocation.ready(ref.supervisor)
        peer = self._peers.get(ref)
        if peer is not None and peer.voice.caller is None:
            peer.mute_since = time.monotonic()
        job_id = self.allocation.id_of(ref.supervisor, ready.job_id)
        post, kind = Post(str(ref), ready.pid, ready.node, job_id), self.allocation.kind_of(ref.job)
        self.dispatcher.ready(ref, post, kind)
        if self.dispatcher.shuns(ready.node, kind):  # its job was submitted before that was so
            self._retire(ref.supervisor)
        if not self.allocation.serves(ref.supervisor):
            self._crew.dismiss_all(ref.supervisor)

    def _retire(self, supervisor: WorkerRef) -> None:
        """Nothing more for any of the workers of a job: its wall time is nearly over, or its node shunned."""
        self._crew.dismiss_all(supervisor)
        self.allocation.retire(supervisor)

    def _worker_ended(self, ref: WorkerRef, ended: Ended) -> None:
        self._peer(ref)  # a lone one may have come unseen
        self.allocation.worker_ended(ref.supervisor)
        if ended.reason in BY_SITE and ended.task and not self.allocation.closed:
            self._unexplained[ref] = ended  # the scheduler ended it, and will say why
            self._crew.excuse(ref)
            self._be_curious()
        else:
            self._bury(ref, ended, None)

    def _settle_unexplained(self, now: float) -> None:
        """What was not explained within the grace is told as far as it is known."""
        self.allocation.worried = bool(self._silent)
        if self.allocation.urgent and now > self._curious_until:
            late = now > self._curious_until + ENDING_GRACE
            for ref, ended in list(self._unexplained.items()):
                if late or not self.allocation.is_ending(ref.supervisor):
                    self._bury(ref, ended, None)
            self.allocation.urgent = bool(self._unexplained)

    def _bury(self, ref: WorkerRef, ended: Optional[Ended], status: Optional[JobStatus]) -> None:
        """A worker is dead: read what it left, then settle what it did not do."""
        self._unexplained.pop(ref, None)
        self._buried[ref._replace(generation=0)] = ref.generation
        peer = self._peers.pop(ref, None)
        if peer is not None:
            self._part_from(peer)
        task = ended.task - 1 if ended is not None and ended.task else None
        if ended is None and self.allocation.was_busy(ref):
            task = self._crew.task_at(ref)
        self.dispatcher.ended(ref, ended, task, status)

    def _element_came(self, element: Element) -> None:
        """A supervisor was submitted: from now on its outbox is looked for."""
        self._peer(element.ref)

    def _element_ending(self, element: Element, status: JobStatus) -> None:
        """How a job will have ended: that is why those of its workers died that have."""
        known = None if element.cancelled else status
        for ref in [ref for ref in self._unexplained if ref.supervisor == element.ref]:
            self._bury(ref, self._unexplained[ref], known)

    def _element_timed(self, element: Element) -> None:
        self._crew.set_end(element.ref, element.ends)

    def _element_gone(self, element: Element, status: JobStatus) -> None:
        """A supervisor has ended: so have its workers, or they will in a moment."""
        self._silent.discard(element.ref)
        self._peer(element.ref)  # it may have come and gone unseen
        lone = self.allocation.lone_worker(element.ref)
        if lone is not None and self.allocation.was_busy(lone):
            self._peer(lone)
        peer = self._peers.pop(element.ref, None)
        if peer is not None:
            self._part_from(peer)
        left = [ref for ref in self._peers if ref.slot >= 0 and ref.supervisor == element.ref]
        self._buried[element.ref._replace(generation=0)] = element.ref.generation
        self._scheduler.sweep(element.job_id, self._crew.pids(left))
        known = None if element.cancelled else status
        for ref in left:
            self._bury(ref, self._unexplained.get(ref), known)
        self.dispatcher.never_came(element.ref._replace(slot=0, generation=0), known)
        self.dispatcher.forget(element.ref, status)

    def _part_from(self, peer: Peer) -> None:
        """Read the last words of somebody who is dead."""
        frames = peer.outbox.read(final=True)
        if frames:
            self._take(peer, frames)
        peer.outbox.close()
        peer.buried = True
        if peer.caller is not None:
            peer.caller.close()

    def _make_room(self, wanted: dict[int, int]) -> None:
        """Where some kind of tasks lacks workers, let those go that another kind has too many of."""
        if len(wanted) < 2:
            return
        surplus = self.allocation.surplus(wanted)
        room = self.dispatcher.max_workers - sum(map(self.allocation.capacity, wanted))
        short = -sum(min(count, 0) for count in surplus.values()) - room
        for kind, count in surplus.items() if short > 0 else ():
            left = min(count, short) - self.allocation.cancel_waiting(kind, min(count, short))
            for supervisor in self._crew.dismiss_surplus(kind, left):
                self.allocation.retire(supervisor)

    def _dismiss_idle(self, now: float, wanted: dict[int, int], timeout: float) -> None:
        """Let jobs go that were idle for so long; take out of the queue what nobody needs."""
        for supervisor in self._crew.dismiss_idle(timeout):
            self.allocation.retire(supervisor)
        surplus = self.allocation.surplus(wanted)
        if max(surplus.values(), default=0) <= 0 or not self._needed_all:
            self._needed_all = now
        elif now - self._needed_all > timeout:
            for kind, count in surplus.items():
                self.allocation.cancel_waiting(kind, count)

    # -- chores ---------------------------------------------------------------------------------

    def _kill_doomed(self) -> None:
        for ref, number in self.dispatcher.doomed():
            self.allocation.kill(ref, number + 1, 9)

    def _renew_lease(self) -> None:
        try:
            self.check_lease()
            self.start_lease()
        except RunInUse:
            raise
        except OSError as error:
            self._leased = time.monotonic()
            log.warning("could not renew the lease, workers may think that nobody is there: %s", error)

    def break_(self, error: BaseException) -> None:
        """Nothing can be run any more."""
        self.dispatcher.fail_all(error, broken=True)
        self.dispatcher.close(cancel=False)
        self.allocation.stop()

    # -- the end --------------------------------------------------------------------------------

    def _over(self) -> bool:
        dispatcher = self.dispatcher
        if self.aborting or (dispatcher.closing and not dispatcher.unfinished):
            self._end()
        else:
            return False
        return self.allocation.empty and not self._posted

    def _end(self) -> None:
        """Ask the workers to leave, then tell them, then have them removed: each after its time."""
        now = time.monotonic()
        if not self._deadline:
            self._steps = [self._stop, self.allocation.cancel, self._give_up]
            if not self.aborting:
                self._steps.insert(0, self._dismiss)
            self._deadline = now
        self._crew.dismiss(0)  # workers that have come since the last turn, too
        if now >= self._deadline and self._steps:
            step = self._steps.pop(0)
            step()
            self._deadline = now + (STOP_AFTER if step == self._dismiss else CANCEL_AFTER)

    def _dismiss(self) -> None:
        self.allocation.let_go()
        self.allocation.cancel_silent()

    def _stop(self) -> None:
        late = [str(ref) for ref in self._peers if ref.slot >= 0]
        if late and not self.aborting:
            log.warning(
                "ending workers that did not leave within %g s of the last task, perhaps for a thread that a "
                "task has left: %s",
                STOP_AFTER,
                ", ".join(late),
            )
        self.allocation.stop()
        self.allocation.cancel_silent()

    def _was_heard(self, ref: WorkerRef) -> bool:
        peer = self._peers.get(ref)
        return ref in self.allocation.alive or (peer is not None and peer.heard)

    def _give_up(self) -> None:
        left = ", ".join(element.job_id for element in self.allocation.elements.values())
        log.error("jobs %s could not be ended; they may still run", left)
        for element in list(self.allocation.elements.values()):
            del self.allocation.elements[element.ref]
            self._element_gone(element, element.status)
        self.allocation.give_up()

    def _close(self) -> None:
        # Outcomes that were read in a turn that failed, or by the last step of ending, are no less valid.
        self.dispatcher.deliver()
        self.dispatcher.fail_all(TaskKilled("the run was ended before this task was done"), broken=False)
        self.dispatcher.journal.close()
        for peer in self._peers.values():
            peer.outbox.close()
        self._peers.clear()
        self.allocation.close()
        if self.bell is not None:
            self.bell.close()
        self._run.close()
        self.ended()


def _ref(identity: object) -> WorkerRef:
    role, job, index, restart, slot, generation = identity[:6]  # type: ignore[index]
    if role == SUPERVISOR:
        return WorkerRef(job, index, restart)
    return WorkerRef(job, index, restart, slot, generation)
