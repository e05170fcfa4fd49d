"""One run's life in the driver: its directory, its doorbell, its watching thread, and how all of it ends.

An executor has one session; the thread and the futures do not hold the executor, so that one that is
forgotten without `shutdown` finishes its work and goes.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Optional, Union

from clusterfutures.allocation import Allocation, Events, Recipe
from clusterfutures.dispatch import Dispatcher
from clusterfutures.doorbell import Doorbell
from clusterfutures.errors import RunDirectoryError, RunInUse
from clusterfutures.futures import ClusterFuture, Futures
from clusterfutures.history import Past, Tasks, read_tasks
from clusterfutures.kinds import Kinds
from clusterfutures.lease import FAILED, FINISHED, DriverLease
from clusterfutures.logs import FORMAT, Location, frame
from clusterfutures.options import whole_number
from clusterfutures.records import STOP
from clusterfutures.schedulers.base import JobRequest, Scheduler
from clusterfutures.spool import CANCEL, RunDirectory, WorkerRef, make_folder, publish
from clusterfutures.taskjobs import Offer, TaskJobs
from clusterfutures.watch import Watch

log = logging.getLogger("clusterfutures")

SOCKET_PATH = 90  # bytes; the shortest limit among systems is 104
PATIENCE_AT_EXIT = 1.0  # seconds of silence before the exit says what it waits for


class Settings(NamedTuple):
    """What an executor was asked for, beside how its jobs are made."""

    max_workers: int
    max_tasks: int
    run_dir: Optional[str]
    run_parent: str
    keep: str
    doorbell: bool
    host: Optional[str]
    idle_timeout: Optional[float]
    job_per_task: bool
    max_queued: float
    shared: bool


class Hold:
    """As long as somebody holds one, the run's directory stays; `remove` says whether it goes then."""

    def __init__(self, path: str) -> None:
        self._fate = {"remove": False}
        weakref.finalize(self, _remove, path, os.getpid(), self._fate)

    def release(self, remove: bool) -> None:
        """The run has ended."""
        self._fate["remove"] = remove


def _remove(path: str, pid: int, fate: dict[str, bool]) -> None:
    if fate["remove"] and os.getpid() == pid:  # never in a fork of the process that made it
        shutil.rmtree(path, ignore_errors=True)


class Place(NamedTuple):
    """Where a program was when it first submitted something: its jobs go on from there."""

    cwd: str
    sys_path: list[str]
    argv: tuple[str, ...]


class Taken:
    """A run whose lease was taken from an earlier driver, as the option `run_dir` of an executor for it."""

    def __init__(self, lease: DriverLease, past: Past) -> None:
        self.lease, self.past = lease, past

    def __fspath__(self) -> str:
        return self.past.run.path


class Session:
    """Everything behind one executor.

    `origin` is how that was made, as plain data, for another process that is to make one like it; `taken` is
    a run to go on with.
    """

    def __init__(
        self,
        settings: Settings,
        scheduler: Scheduler,
        resources: Mapping[str, Any],
        make_recipe: Callable[[str, Mapping[str, Any]], Recipe],
        initializer: Optional[tuple[Callable[..., Any], tuple[Any, ...]]],
        origin: Mapping[str, Any],
        taken: Optional[Taken] = None,
    ) -> None:
        self.settings = settings
        self.scheduler, self._make_recipe, self._initializer = scheduler, make_recipe, initializer
        self._lock = threading.Lock()
        self.kinds = Kinds(resources, scheduler.check)
        self.kinds.changed = self._kind_changed
        self._recipes: list[Recipe] = []  # one for each kind, made once there is something to do
        self._places: Optional[tuple[Location, Location]] = None  # of the initializer and its arguments
        self._watch: Optional[Watch] = None
        self._bell_folder = ""
        self.foreign = False  # this is a fork of the process that made it
        self._origin, self._taken = origin, taken
        self._place: Optional[Place] = None
        self.futures = Futures(())  # of the run that it goes on with
        if taken is None:
            self.run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"
            self.run_dir = make_run_directory(settings, self.run_id)
            self._lease = DriverLease(self.run_dir)
            self._lease.take()
        else:
            self.run_id, self.run_dir = taken.past.tasks.about["run_id"], taken.past.run.path
            self._lease = taken.lease
        self.run = RunDirectory(self.run_dir, shared=settings.shared)
        self.dispatcher = Dispatcher(
            self.run,
            settings.max_workers,
            settings.max_tasks,
            settings.job_per_task,
            self._ring,
            self._wake,
            self.kinds,
        )
        self._hold: Optional[Hold] = Hold(self.run_dir)
        self.dispatcher.hold = self._hold
        _sessions.add(self)

    # -- start ----------------------------------------------------------------------------------

    def start(self) -> Dispatcher:
        """The dispatcher, with somebody watching."""
        if self._watch is None:
            with self._lock:
                if self._watch is None:
                    self._start()
        return self.dispatcher

    def _start(self) -> None:
        if self.foreign:
            raise RuntimeError(
                "this executor was made in another process, of which this one is a fork; make one here"
            )
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if getattr(_multiprocessing_child(), "_inheriting", False):
            raise RuntimeError(
                "this program is being imported by a child of multiprocessing, which would start it all over "
                "again; put what starts the executor under: if __name__ == '__main__':"
            )
        self.dispatcher.check_open()
        if self._taken is None:
            self._begin()
        else:
            self._go_on(self._taken.past.tasks)
        self._recipes = [self._recipe(self.kinds.needs(kind)) for kind in range(len(self.kinds))]
        past = None if self._taken is None else self._settled(self._taken.past)
        bell = self._make_bell() if self.settings.doorbell else None
        self.dispatcher.deaf = bell is None
        watch = Watch(
            self.run,
            self.scheduler,
            bell,
            self.dispatcher,
            self._jobs,
            self._recipes[0].specification.orphan_timeout,
            None if self.settings.job_per_task else self.settings.idle_timeout,
        )
        watch.ended, watch.check_lease = self._ended, self._check_lease
        try:
            if past is not None:
                watch.restore(past)
                watch.allocation.restore(past)
                self.futures = Futures(self.dispatcher.restore(past))
            watch.start_lease()
            watch.thread.start()
        except BaseException:
            if bell is not None:
                bell.close()
            self._remove_bell_folder()
            raise
        self._watch, self._taken = watch, None  # what was read of the past is with others now

    def rerun(self, chosen: Iterable[Union[int, ClusterFuture[Any]]]) -> list[ClusterFuture[Any]]:
        """See `ClusterExecutor.rerun`."""
        numbers = [self._number(each) for each in chosen]
        if not numbers:
            return []
        dispatcher = self.start()
        dispatcher.check_open()
        dispatcher.flush()
        return dispatcher.rerun(numbers, read_tasks(self.run))

    def _number(self, which: Union[int, ClusterFuture[Any]]) -> int:
        if not isinstance(which, ClusterFuture):
            return whole_number("the number of a task", which, least=0)
        if which._dispatcher is not self.dispatcher or which.task is None:
            raise ValueError(f"{which!r} is no task of this run")
        return which.task

    def _begin(self) -> None:
        """Write what another driver would need to go on."""
        journal = self.dispatcher.journal
        if self._initializer is not None:
            function, args = self._initializer
            self._places = (journal.function(function).place, journal.call(args, {}))
        recipe = self._make_recipe(self.run_id, self.kinds.needs(0))
        argv = tuple(sys.argv)
        self._place = Place(os.path.abspath(recipe.cwd or ""), recipe.specification.sys_path, argv)
        about = {"run_id": self.run_id, "place": tuple(self._place), "initializer": self._places}
        try:
            journal.begin({**self._origin, **about})
        except OSError:
            raise
        except Exception as error:  # whatever it is that an option cannot be pickled for
            log.warning("no other process will be able to go on with this run: %s", error)
        for kind in range(len(self.kinds)):
            journal.kind(kind, self.kinds.needs(kind))
        if self._initializer is not None:
            journal.publish()

    def _go_on(self, tasks: Tasks) -> None:
        """Read what that was."""
        self._places, self._place = tasks.about["initializer"], Place(*tasks.about["place"])
        self.kinds.restore(tasks.kinds)

    def _settled(self, past: Past) -> Past:
        """The past without doubts whether jobs were submitted; what was not is never to begin."""
        self.dispatcher.journal.go_on_after(past.log, len(past.tasks.policies) - 1)
        doubtful = past.doubtful
        for job in doubtful:
            if job.specification is not None:
                recipe = self._recipes[job.specification.kind]
                request = recipe.request(self.run, job.number, job.specification.elements)
                ids = self.scheduler.adopt(request, None)
                self.run.note_ids(job.number, ids)
                missing = [element for element, job_id in enumerate(ids) if not job_id]
                self._call_off(job.number, missing, lone=bool(job.specification.tasks))
        return Past(past.run) if doubtful else past

    def _call_off(self, job: int, elements: Iterable[int], lone: bool) -> None:
        """The scheduler does not know these; should one be on its way still, it is to do nothing."""
        for element in elements:
            supervisor = WorkerRef(job, element)
            if lone:
                self.run.claim(supervisor, CANCEL)
            elif not self.run.workers(supervisor):
                self.run.make_home(supervisor)
                inbox = self.run.inbox_writer(supervisor)
                inbox.write(frame(STOP, b""))
                inbox.close()

    def _check_lease(self) -> None:
        """Give a sign of life.  Raises RunInUse if the run is another driver's by now."""
        if self._lease.lost():
            text = f"another process has taken over {self.run_dir}, since this one was silent"
            raise RunInUse(text, self.run_dir)
        self._lease.beat()

    def _recipe(self, resources: Mapping[str, Any]) -> Recipe:
        recipe = self._make_recipe(self.run_id, resources)
        specification = recipe.specification._replace(initializer=self._places)
        if self._place is not None:
            cwd, sys_path, argv = self._place
            recipe = recipe._replace(cwd=cwd)
            specification = specification._replace(sys_path=sys_path, argv=argv)
        return recipe._replace(specification=specification)

    def _jobs(self, events: Events) -> Allocation:
        if not self.settings.job_per_task:
            return Allocation(self.run, self.scheduler, self._recipes, events)
        queued = self.dispatcher.queued
        offer = Offer(queued.take, queued.put_back, queued.submitted, queued.requeued)
        return TaskJobs(
            self.run, self.scheduler, self._recipes, events, offer, self.settings.max_queued
        )

    def _kind_changed(self, kind: int, needs: Mapping[str, Any]) -> None:
        if self._recipes:  # else they are made once there is something to do
            self._recipes[kind : kind + 1] = [self._recipe(needs)]
            self._note_kind(kind, needs)

    def _note_kind(self, kind: int, needs: Mapping[str, Any]) -> None:
        try:
            self.dispatcher.journal.kind(kind, needs)
        except OSError as error:
            log.warning("could not write what tasks of kind %d need: %s", kind, error)

    def request(self, kind: int) -> JobRequest:
        """The first job for tasks of a kind, were it submitted now for as many workers as there may be."""
        recipe = self._make_recipe(self.run_id, self.kinds.needs(kind))
        return recipe.request(self.run, 0, recipe.elements(self.dispatcher.max_workers))

    def _make_bell(self) -> Optional[Doorbell]:
        key = self.run.key()
        path = self.run.bell
        try:
            if self.settings.shared:
                return Doorbell(key, host=self.settings.host or "")
            if len(os.fsencode(path)) > SOCKET_PATH:
                short = "/tmp" if os.path.isdir("/tmp") else None
                self._bell_folder = tempfile.mkdtemp(prefix="cf-", dir=short)
                path = os.path.join(self._bell_folder, "bell")
            elif self._taken is not None and os.path.lexists(path):
                os.unlink(path)  # of the earlier driver, which is dead
            return Doorbell(key, path=path)
        except (OSError, ValueError) as error:
            log.warning("no doorbell (%s); everything works, but is found by looking, later", error)
            return None

    def _ring(self, *args: Any) -> None:
        if self._watch is not None:
            self._watch.ring(*args)

    def _wake(self) -> None:
        if self._watch is not None:
            self._watch.wake()

    # -- end ------------------------------------------------------------------------------------

    def scale(self, count: int) -> None:
        """Change the number of workers that there may be."""
        surplus = count < self.dispatcher.max_workers
        self.dispatcher.max_workers = count
        watch = self._watch
        if watch is not None and surplus:
            watch.post(lambda: watch.allocation.shrink(count))
        self._wake()

    def close(self, wait: bool, cancel: bool) -> None:
        """Take nothing more; see `Executor.shutdown`."""
        if self.foreign:
            return
        self.dispatcher.close(cancel)
        with self._lock:
            if self._watch is None:
                self._ended()
                return
        if wait and threading.current_thread() is not self._watch.thread:
            self._watch.over.wait()

    @property
    def aborting(self) -> bool:
        """Whether :meth:`abort` has been called while there was something to end."""
        return self._watch is not None and self._watch.aborting

    def abort(self) -> None:
        """End what runs, cancel what does not; returns at once."""
        if self.foreign:
            return
        self.dispatcher.failures += 1  # a run that was ended is no run that ended well
        if self._watch is not None:
            self._watch.aborting = True
        self.close(wait=False, cancel=True)

    def join(self, timeout: Optional[float] = None) -> bool:
        """Wait for the end; True if it has come."""
        if self._watch is None or self.foreign:
            return True
        return self._watch.over.wait(timeout)

    def signal_workers(self, number: int) -> None:
        """Send a signal to every worker."""
        watch = self._watch
        if watch is not None:
            for member in self.dispatcher.crew.members():
                watch.post(lambda ref=member.ref: watch.allocation.kill(ref, 0, number))  # type: ignore[misc]

    def _ended(self) -> None:
        """The last thing that the watching thread does."""
        keep, failed = self.settings.keep, bool(self.dispatcher.failures)
        remove = keep == "never" or (keep == "failed" and not failed)
        how = FAILED if failed else FINISHED
        if self._taken is not None:  # it could not go on with that run, which is left as it was found
            how, remove = self._lease.before, False
        remove &= self._release(how)
        if self._hold is not None:
            self._hold.release(remove)
            self._hold = self.dispatcher.hold = None
        self._remove_bell_folder()
        if failed and not remove:
            log.warning("not all tasks of the run ended well; its logs are in %s", self.run_dir)

    def _release(self, how: str) -> bool:
        """Give the lease back; whether it was ours still."""
        try:
            ours = not self._lease.lost()
            self._lease.release(how)
        except OSError as error:
            log.debug("could not give back the lease on %s: %s", self.run_dir, error)
            return True
        return ours

    def _remove_bell_folder(self) -> None:
        if self._bell_folder:
            shutil.rmtree(self._bell_folder, ignore_errors=True)

    def forked(self) -> None:
        """In a fork of the process that made it: none of this is ours."""
        self.foreign = True
        self._lock = threading.Lock()  # the old one may be held by a thread that does not exist here
        self.kinds.abandon()
        self.dispatcher.abandon()
        watch, self._watch = self._watch, None
        if watch is not None and watch.bell is not None:
            watch.bell.close()


def make_run_directory(settings: Settings, run_id: str) -> str:
    """Make the directory of a run, for this user alone; returns its absolute path.

    Raises RunDirectoryError if it cannot be made, or is somebody else's, or another run's.
    """
    path = settings.run_dir
    claimed = ""
    try:
        if path is None:
            make_folder(settings.run_parent)
            path = tempfile.mkdtemp(prefix=f"clusterfutures-{run_id}-", dir=settings.run_parent)
        else:
            path = os.path.abspath(path)
            _claim(path)
        claimed = path
        _furnish(path, run_id, settings.shared)
    except RunDirectoryError:
        raise
    except OSError as error:
        if claimed:  # what is half made would be refused the next time
            shutil.rmtree(claimed, ignore_errors=True)
        where = path or settings.run_parent
        raise RunDirectoryError(f"cannot make a run directory in {where}: {error}", where) from error
    return path


def _furnish(path: str, run_id: str, shared: bool) -> None:
    run = RunDirectory(path, shared=shared)
    make_folder(run.jobs)
    publish(run.secret, os.urandom(32), sync=shared)
    about = {
        "format": FORMAT,
        "run_id": run_id,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "user": _user(),
        "shared": shared,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "program": sys.argv[0] if sys.argv else "",
    }
    publish(run.about, json.dumps(about, indent=1).encode(), sync=shared)


def _claim(path: str) -> None:
    """Make `path`, or take it over if it is an empty directory of this user."""
    if not os.path.lexists(path):
        make_folder(path)
        return
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode):  # a link to one might lead elsewhere tomorrow
        raise RunDirectoryError(f"{path} is not a directory", path)
    if info.st_uid != os.geteuid():
        raise RunDirectoryError(f"{path} belongs to user {info.st_uid}: choose another run_dir", path)
    if os.path.exists(RunDirectory(path, shared=False).about):
        raise RunDirectoryError(f"{path} belongs to another run: choose another run_dir, or remove it", path)
    _check_empty(path)
    os.chmod(path, 0o700)
    _check_empty(path)  # until now others may have been able to put something there


def _check_empty(path: str) -> None:
    if os.listdir(path):
        raise RunDirectoryError(f"{path} is not empty and not a run directory: choose another run_dir", path)


def _multiprocessing_child() -> object:
    module = sys.modules.get("multiprocessing.process")
    return module.current_process() if module is not None else None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


# -- the interpreter's end, and forks -------------------------------------------------------------

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_exiting = False


def _at_exit() -> None:
    """Wait for submitted work, as ProcessPoolExecutor does, and say so.

    Ctrl-C, here or before, ends the work; and the next one the wait for that end.
    """
    global _exiting
    _exiting = True
    sessions = list(_sessions)
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    if not interrupted or hasattr(sys, "ps1"):
        for session in sessions:
            session.close(wait=False, cancel=False)
        try:
            _wait_for(sessions)
        except KeyboardInterrupt:
            pass
        else:
            return
    waited = [session for session in sessions if not session.aborting]  # the others, Ctrl-C has ended twice
    for session in waited:
        session.abort()
    _wait_for(waited)


def _wait_for(sessions: list[Session]) -> None:
    said = False
    for session in sessions:
        while not session.join(PATIENCE_AT_EXIT):
            if not said and session.dispatcher.unfinished:
                said = True
                log.warning(
                    "waiting for %d tasks in %s before the interpreter exits; Ctrl-C ends them",
                    session.dispatcher.unfinished,
                    session.run_dir,
                )


def _forked() -> None:
    for session in list(_sessions):
        session.forked()
    _sessions.clear()


# Before the threads that a user left are waited for, as concurrent.futures itself does it: they may be
# waiting for our futures.  The function is private, and has been there since Python 3.9.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
os.register_at_fork(after_in_child=_forked)
