"""The queue: which job runs when, what it depends on, and how it ends."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import Optional

from tests.pbs.dialect import Dialect, Settings
from tests.pbs.jobs import ACTIVE, Dependency, Job, Request, State, Usage
from tests.pbs.mom import Mom, table
from tests.pbs.units import format_time

SAMPLE = 0.5  # seconds between two looks at what jobs use
SETTLE = 0.02  # seconds between two looks at what a job has left running
JAM = 20.0  # seconds that it takes to digest an array that is too large
ABORTED = -4  # the exit status of a job that a node finds among its files when it is started (INITABT)
LINGER = 2.0  # seconds for which a job is exiting whose output cannot be delivered


class Engine:
    """All jobs, by their ids; `up` is False while the server is down: then nothing is started.

    Until the time `jammed_until`, the server is too busy to answer anybody.
    """

    def __init__(self, settings: Settings, dialect: Dialect, mom: Mom) -> None:
        self.jobs: dict[str, Job] = {}
        self.up = True
        self.jammed_until = 0.0
        self._settings = settings
        self._dialect = dialect
        self._manners = dialect.manners
        self._mom = mom
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._waiting: dict[str, Job] = {}
        self._running: dict[int, Job] = {}  # by the id of the session

    # What commands ask for

    def submit(self, request: Request) -> Job:
        """A new job.  Raises `Refused` if its owner has too many."""
        unfinished = [job for job in self.jobs.values() if job.status.state is not State.FINISHED]
        count = sum(not job.is_array for job in unfinished) + len(request.indices or [0])
        if count > self._settings.max_queued:
            raise self._dialect.queue_full(request.owner)
        self._number += 1
        job = Job(self._number, request)
        self.jobs[job.id] = job
        job.elements = [Job(self._number, request, job, index) for index in request.indices or ()]
        for part in job.elements or [job]:
            self.jobs[part.id] = self._waiting[part.id] = part
        for part in [job, *job.elements]:
            self._set_holds(part, ("u" if request.held else "") + ("s" if request.depend else ""))
        self._log(job, "is queued")
        if len(job.elements) > self._manners.jammed_by:
            self.jammed_until = time.time() + JAM
        self._depend()
        self.schedule()
        return job

    def delete(self, job: Job) -> None:
        """End a job, an array or an element of one."""
        self._remove([part for part in job.elements or [job] if part.id in self._waiting], None, deleted=True)
        for part in job.elements or [job]:
            if part.status.state in ACTIVE:
                part.change(deleted=True)
                self._end(part)
        self.schedule()

    def hold(self, job: Job) -> None:
        """Keep what has not started from starting."""
        for part in self._unstarted(job):
            self._set_holds(part, part.status.holds.replace("u", "") + "u")

    def release(self, job: Job) -> None:
        """Undo `hold`."""
        for part in self._unstarted(job):
            self._set_holds(part, part.status.holds.replace("u", ""))
        self.schedule()

    def requeue(self, job: Job) -> None:
        """End a running job, and start it again under the same id."""
        for part in job.elements or [job]:
            if part.status.state is State.RUNNING:
                part.rerun = True
                self._mom.signal(part, signal.SIGKILL)

    def alter(self, job: Job, walltime: Optional[float], throttle: Optional[int]) -> None:
        """Change what can be changed afterwards; None leaves it as it is."""
        for part in [job, *job.elements]:
            part.walltime = part.walltime if walltime is None else walltime
            part.throttle = part.throttle if throttle is None else throttle
        self.schedule()

    def kill(self, job: Job) -> None:
        """Kill a job's processes behind the server's back."""
        for part in job.elements or [job]:
            self._mom.signal(part, signal.SIGKILL)

    def crash(self, job: Job) -> None:
        """The node of a running job is started anew; the server hears of it."""
        job.crashed = True
        self.kill(job)

    def purge(self, job: Job) -> None:
        """Let go of a job, whatever becomes of its processes, which are killed."""
        self.kill(job)
        for part in [job, *job.elements]:
            self._waiting.pop(part.id, None)
            del self.jobs[part.id]

    def expire(self, job: Job) -> None:
        """The wall time of a running job is over."""
        job.walltime = 0.0
        self._check_walltime(job, job.status.session)

    def forget(self) -> None:
        """Let go of jobs that ended long ago, unless another waits for more than them."""
        limit = time.time() - self._settings.keep - self._settings.lag  # from when their end is seen
        needed = {key for job in self._waiting.values() for part in job.request.depend for key in part.ids}
        for job in list(self.jobs.values()):
            kept = job.array if job.array and self._manners.kept_with_array else job
            ended = kept.status.ended
            if ended is not None and ended <= limit and not {job.id, (job.array or job).id} & needed:
                del self.jobs[job.id]

    def resume(self) -> None:
        """The server is up again."""
        self.up = True
        self.schedule()

    # Starting

    def schedule(self) -> None:
        """Start what can be started, and say of the others why they wait."""
        if not self.up:
            return
        room: dict[str, int] = {}  # how many more elements each array may have running
        for job in sorted(self._waiting.values(), key=lambda job: -job.request.priority):
            array = job.array if job.array and job.array.throttle else None
            if array is not None and array.id not in room:
                active = sum(element.status.state in ACTIVE for element in array.elements)
                room[array.id] = array.throttle - active
            throttled = array is not None and room[array.id] <= 0
            self._set_holds(job, self._holds(job, throttled))
            if job.status.state is not State.QUEUED or throttled:
                continue
            if array is not None:
                room[array.id] -= 1
            self._start_if_it_fits(job)

    def _start_if_it_fits(self, job: Job) -> None:
        free = self._free_cpus()
        if job.request.fits and job.request.cpus <= len(free):
            self._start(job, tuple(free[: job.request.cpus]))
        else:
            job.change(comment=self._dialect.waiting(job))

    def _free_cpus(self) -> list[int]:
        taken = {cpu for job in self._running.values() for cpu in job.status.cpus}
        return [cpu for cpu in range(self._settings.slots) if cpu not in taken]

    def _unstarted(self, job: Job) -> list[Job]:
        parts = [part for part in job.elements or [job] if part.id in self._waiting]
        return [job, *parts] if job.is_array and job.status.state in (State.QUEUED, State.HELD) else parts

    def _holds(self, job: Job, throttled: bool) -> str:
        """The holds of a waiting job, with that for its array's throttle where this dialect has one."""
        holds = job.status.holds.replace("l", "")
        return "l" if throttled and self._manners.slot_holds and not holds else holds

    def _set_holds(self, job: Job, holds: str) -> None:
        wait = job.request.after - time.time()
        state = State.HELD if holds else State.WAITING if wait > 0 else State.QUEUED
        if state is State.WAITING and job.status.state is not State.WAITING:
            self._loop.call_later(wait, self.schedule)
        eligible = job.status.eligible
        if eligible is None and state is State.QUEUED:
            eligible = time.time()
        job.change(state=state, holds=holds, eligible=eligible)

    def _start(self, job: Job, cpus: Sequence[int]) -> None:
        del self._waiting[job.id]
        job.usage = None
        job.verdict = ""
        job.change(cpus=tuple(cpus), started=time.time(), runs=job.status.runs + 1)
        session = self._mom.start(job)
        job.change(state=State.RUNNING, session=session, comment=self._dialect.started(job))
        if not self._running:
            self._loop.call_later(SAMPLE, self._sample)
        self._running[session] = job
        self._loop.call_later(job.walltime, self._check_walltime, job, session)
        self._log(job, f"runs in session {session}")
        self._tell_array(job)
        self._loop.call_soon(self._depend)

    # Limits

    def _sample(self) -> None:
        found = table()
        for job in self._running.values():
            job.usage = self._mom.usage(job, found)
            limit = job.request.memory
            if limit and "mem" in self._manners.exceeded and job.usage.memory > limit >> 10:
                self._exceeded(job, "mem", f"mem {job.usage.memory}kb exceeded limit {limit >> 10}kb")
        if self._running:
            self._loop.call_later(SAMPLE, self._sample)

    def _check_walltime(self, job: Job, session: int) -> None:
        if self._running.get(session) is not job or job.status.started is None:
            return
        used = time.time() - job.status.started
        if used < job.walltime:  # it has been given more
            self._loop.call_later(job.walltime - used, self._check_walltime, job, session)
        else:
            self._exceeded(job, "walltime", f"walltime {int(used) + 1} exceeded limit {int(job.walltime)}")

    def _exceeded(self, job: Job, resource: str, complaint: str) -> None:
        if not job.verdict and job.status.state is State.RUNNING:
            job.verdict = resource
            self._mom.complain(job, complaint)
            self._end(job)

    # Ending

    def _end(self, job: Job) -> None:
        """Ask a job to end, and kill it after a while."""
        session = job.status.session
        self._mom.signal(job, signal.SIGTERM)

        def kill() -> None:
            if self._running.get(session) is job and job.status.state is State.RUNNING:
                self._mom.signal(job, signal.SIGKILL)

        self._loop.call_later(self._settings.kill_delay, kill)

    def ended(self, pid: int, outcome: int, used: resource.struct_rusage) -> None:
        """A process has ended: the first one of a job, or what a job has left running."""
        job = self._running.get(pid)
        if job is None:
            return
        job.usage = (job.usage or Usage())._replace(cpu=used.ru_utime + used.ru_stime)
        job.change(state=State.EXITING, exit_status=self._exit_status(job, outcome))
        self._tell_array(job)
        first = signal.SIGTERM if self._manners.gentle else signal.SIGKILL
        self._settle(job, first, time.time() + self._settings.kill_delay)

    def _exit_status(self, job: Job, outcome: int) -> Optional[int]:
        if job.crashed:
            return ABORTED
        if job.verdict:
            return self._manners.exceeded[job.verdict]
        return os.WEXITSTATUS(outcome) if os.WIFEXITED(outcome) else 256 + os.WTERMSIG(outcome)

    def _settle(self, job: Job, number: int, deadline: float) -> None:
        """End what the job has left running, then bring its output to where it is wanted."""
        if self._mom.signal(job, number):
            patient = self._manners.gentle and time.time() < deadline
            self._loop.call_later(SETTLE, self._settle, job, 0 if patient else signal.SIGKILL, deadline)
        elif self._mom.deliver(job):
            self._finish(job)
        else:
            self._log(job, "has undelivered output")
            self._loop.call_later(LINGER, self._finish, job)

    def _finish(self, job: Job) -> None:
        del self._running[job.status.session]
        self._mom.clean(job)
        if job.rerun and not job.status.deleted:
            self._log(job, "is queued again")
            job.change(state=State.QUEUED, cpus=(), session=0, started=None, exit_status=None)
            self._waiting[job.id] = job
        else:
            comment = self._dialect.ended(job, job)
            self._log(job, f"has ended with {job.status.exit_status} {comment}")
            job.change(state=State.FINISHED, ended=time.time(), comment=comment)
        job.rerun = False
        self._tell_array(job)
        self._depend()
        self.schedule()

    def _remove(self, jobs: Sequence[Job], exit_status: Optional[int], deleted: bool = False) -> None:
        """End jobs that have not started."""
        for job in jobs:
            del self._waiting[job.id]
            self._log(job, "is removed")
            job.change(state=State.FINISHED, ended=time.time(), exit_status=exit_status, deleted=deleted)
        for job in {job.number: job for job in jobs}.values():  # one of each array
            self._tell_array(job)
        self._depend()

    def _tell_array(self, job: Job) -> None:
        """Make the status of an array what its elements are; `job` is the one that has changed."""
        array = job.array
        if array is None:
            return
        states = {element.status.state for element in array.elements}
        if job.status.state is State.FINISHED and job.status.exit_status is not None:
            array.change(exit_status=job.status.exit_status)
        if states == {State.FINISHED}:
            comment = self._dialect.ended(array, job)
            array.change(state=State.FINISHED, ended=time.time(), deleted=job.status.deleted, comment=comment)
        elif states & {*ACTIVE, State.FINISHED} and array.status.state is not State.BEGUN:
            array.change(state=State.BEGUN, started=time.time(), comment=self._dialect.started(array))

    # Dependencies

    def _depend(self) -> None:
        """Release the jobs whose conditions have come true, remove those whose cannot any more."""
        for job in [job for job in self._waiting.values() if "s" in job.status.holds]:
            if job.id not in self._waiting:  # removed with another
                continue
            verdicts = [self._verdict(dependency) for dependency in job.request.depend]
            if False in verdicts:
                self._remove([job], self._manners.dependency_status)
            elif None not in verdicts:
                for part in (job, job.array):
                    if part is not None and part.status.state is State.HELD:
                        self._set_holds(part, part.status.holds.replace("s", ""))
                self._loop.call_soon(self.schedule)

    def _verdict(self, dependency: Dependency) -> Optional[bool]:
        """Whether a condition has come true; None as long as that is open."""
        kind = dependency.kind
        parents = [self.jobs.get(key) for key in dependency.ids]
        if None in parents:
            return False
        known = [job for job in parents if job is not None]
        if kind.endswith("array"):
            kind = kind[: -len("array")]
            known = [element for job in known for element in job.elements]
        if kind in ("after", "afterstart"):
            return True if all(job.status.started for job in known) else None
        over = [job for job in known if job.status.state is State.FINISHED]
        if kind != "afterany" and any(self._is_ok(job) is (kind == "afternotok") for job in over):
            return False
        return True if len(over) == len(known) else None

    def _is_ok(self, job: Job) -> bool:
        if job.is_array and not self._manners.arrays_have_status:
            return True
        return job.status.exit_status == 0

    # The rest

    def _log(self, job: Job, text: str) -> None:
        print(format_time(time.time() % 86400), job.id, text, file=sys.stderr, flush=True)
