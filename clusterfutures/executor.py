"""The Executor contract, for every scheduler.

How a call travels::

    caller's thread            watching thread         node: supervisor          node: worker
    ---------------            ---------------         ----------------          ------------
    submit(fn, *args)
      pickle         --fresh-->  journal (file)
                                 choose a worker
                                 its inbox (file)  ----------- bell ------------>  read inbox
                                                       forks, restarts,            read journal
                                                       kills, reports              run fn(*args)
                                 read outbox  <----------- bell -----------------  outbox (file)
    future.result()  <--value--  unpickle

- The *caller's thread* pickles function and arguments (:mod:`~clusterfutures.payload`): what runs is what
  they were then.  If a worker is idle and nothing else is under way, it also takes the next steps itself.
- The *watching thread* (:mod:`~clusterfutures.watch`), one an executor, writes what was submitted to the
  journal, deals tasks out in bundles (:mod:`~clusterfutures.dispatch`, :mod:`~clusterfutures.roster`), reads
  outcomes and resolves futures.  It has jobs started and ended (:mod:`~clusterfutures.allocation`).
- A *supervisor*, one an allocation, forks the workers and tells how they end.
- A *worker* runs one task at a time, and writes each outcome before it starts the next task.

Files carry everything (:mod:`~clusterfutures.logs`, named by :mod:`~clusterfutures.spool`); the doorbell
(:mod:`~clusterfutures.doorbell`, and :mod:`~clusterfutures.line` at the other end) tells when to look.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from itertools import islice
from typing import Any, Literal, Optional, TypeVar, Union

from clusterfutures import payload
from clusterfutures.allocation import FAILED_STARTS, GATHER, Recipe
from clusterfutures.dispatch import Dispatcher
from clusterfutures.errors import OptionError
from clusterfutures.futures import ClusterFuture, Futures, Row, Settled
from clusterfutures.journal import Function, Policy
from clusterfutures.options import (
    ExecutorOptions,
    check_executor,
    check_initargs,
    job_options,
    patience,
    task_name,
    task_options,
    whole_number,
)
from clusterfutures.records import CALL, ITEM, STAR
from clusterfutures.resources import changed
from clusterfutures.schedulers.base import Scheduler
from clusterfutures.session import Session, Settings, Taken
from clusterfutures.specification import SLOTS, Specification

T = TypeVar("T")

POLITE = 16
"""Workers, if nobody says how many: enough to be worth a cluster, too few to annoy its other users."""

PORTION = 512
"""Items of a map that are handed to the watching thread together."""


class Submitter(Executor):
    """What can be submitted to: an executor, or a view of one with other options for its tasks."""

    _session: Session
    _policy: Policy

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> ClusterFuture[T]:
        """Schedule ``fn(*args, **kwargs)``; returns its future at once.

        Function and arguments are pickled before this returns.  If they cannot be, or cannot be
        written, the future carries that error.  Futures among the arguments, also inside lists, tuples
        and dictionaries, are waited for and replaced by their results.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     parts = [ex.submit(pow, 10, n) for n in range(3)]
        ...     ex.submit(sum, parts).result()
        111

        Raises RuntimeError after `shutdown`, and BrokenProcessPool when no worker can be had.
        """
        try:
            dispatcher = self._session.start()
        except OSError as error:  # the run directory cannot be written
            return _failed(self._session.dispatcher, error)
        parents: list[Future[Any]] = []
        try:
            function = dispatcher.journal.function(fn)
            dispatcher.journal.policy(self._policy)
            body = payload.dumps_call(args, kwargs, dispatcher.journal.keep, parents, _name(fn))
        except Exception as error:  # user's __reduce__ may raise anything; it is this call's error
            dispatcher.check_open()
            return _failed(dispatcher, error)
        return dispatcher.add(CALL, function, body, parents, self._policy)

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: Optional[float] = None,
        chunksize: int = 1,
        buffersize: Optional[int] = None,
    ) -> Iterator[T]:
        """The results of ``fn(a, b, ...)`` for each row of the zipped `iterables`, in order.

        Items are pickled before this returns; with `buffersize` only so many, and further ones as results
        are taken, in portions of up to a sixteenth of it.  Tasks travel in bundles whose size follows from
        how long they take, so `chunksize` is checked and otherwise ignored.  `timeout` is in seconds from
        this call; the iterator raises TimeoutError when it has passed.  An item's exception is raised in its
        place, when the results of all items before it have been given; it ends the iterator.  That, as
        closing it, cancels what has not started.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     list(ex.map(divmod, [7, 8, 9], [2, 3, 4]))
        [(3, 1), (2, 2), (2, 1)]
        """
        style = ITEM if len(iterables) == 1 else STAR
        items: Iterable[Any] = iterables[0] if len(iterables) == 1 else zip(*iterables)
        return self._map(fn, style, items, timeout, chunksize, buffersize)

    def starmap(
        self,
        fn: Callable[..., T],
        /,
        iterable: Iterable[Iterable[Any]],
        *,
        timeout: Optional[float] = None,
        chunksize: int = 1,
        buffersize: Optional[int] = None,
    ) -> Iterator[T]:
        """The results of ``fn(*args)`` for each `args` of `iterable`, in order; else as :meth:`map`.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     list(ex.starmap(pow, [(2, 5), (3, 2)]))
        [32, 9]
        """
        return self._map(fn, STAR, map(tuple, iterable), timeout, chunksize, buffersize)

    def _map(
        self,
        fn: Callable[..., T],
        style: int,
        items: Iterable[Any],
        timeout: Optional[float],
        chunksize: int,
        buffersize: Optional[int],
    ) -> Iterator[T]:
        whole_number("chunksize", chunksize, least=1)
        if buffersize is not None:
            buffersize = whole_number("buffersize", buffersize, least=1)
        wait = patience("timeout", timeout)
        deadline = None if wait is None else time.monotonic() + wait
        dispatcher = self._session.start()
        row = Row(dispatcher.note_cancelled)
        try:
            function = dispatcher.journal.function(fn)
        except Exception as error:  # as in submit: it is raised where the first result is asked for
            dispatcher.check_open()
            row.failed(error)
            return row.results(deadline, None)
        feeder = _Feeder(dispatcher, row, function, style, iter(items), self._policy, _name(fn))
        feeder.feed(buffersize)
        return row.results(deadline, feeder.refill(buffersize) if buffersize is not None else None)

    def options(self, **options: Any) -> View:
        """The same executor with other options for some tasks.

        - ``retries`` (int, or `Retries`): how often a task is run again whose worker was lost or timed out;
        - ``timeout`` (seconds): ends the task, and with it its worker, when it takes longer;
        - on a cluster, whatever describes a job, as ``mem="32G"``: such tasks have workers of their own,
          which count for `max_workers` as all others do;
        - ``name`` (str): what the tasks are called, for ``executor.futures`` of `reattach`.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     ex.options(retries=2, timeout=60).submit(pow, 2, 5).result()
        32

        Raises OptionError for one that is unknown or cannot be read.
        """
        needs = job_options(options, cluster=self._session.settings.shared)
        policy = self._policy._replace(**task_options(options))
        if "name" in options:
            policy = policy._replace(name=task_name(options["name"]))
        if needs:
            policy = policy._replace(kind=self._session.kinds.find(needs, policy.kind))
        session = self._session
        _check_retries(policy, session.kinds.needs(policy.kind), session.scheduler, session.settings.shared)
        return View(self, policy)

    @property
    def script(self) -> str:
        """The batch script of that job; where a scheduler has none, what `explain` says.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     ex.script == ex.explain()
        True
        """
        return self._session.scheduler.script(self._session.request(self._policy.kind))

    def explain(self) -> str:
        """The job for all `max_workers` as it would be submitted: script, command and options.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     print(ex.explain())
        env -C ...python... .../bootstrap.py ...
        """
        return self._session.scheduler.explain(self._session.request(self._policy.kind))

    def dry_run(self) -> str:
        """Ask the scheduler whether it would take that job, and when it could start; submits nothing.

        Raises SubmissionError, with the scheduler's own words, for one that it refuses.
        """
        return self._session.scheduler.test_only(self._session.request(self._policy.kind))

    # -- the run --------------------------------------------------------------------------------

    @property
    def _max_workers(self) -> int:
        """How many workers there may be: private in the standard library, and read by many."""
        return self._session.dispatcher.max_workers

    @property
    def run_dir(self) -> str:
        """The run's directory, an absolute path.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     sorted(os.listdir(ex.run_dir))
        ['jobs', 'key', 'lease.1', 'run.json']
        """
        return self._session.run_dir

    @property
    def futures(self) -> Futures:
        """The futures of the tasks that the run had when `reattach` took it over, in order and by name.

        Empty in any other run: there each future is its caller's.
        """
        return self._session.futures

    def rerun(self, chosen: Iterable[Union[int, ClusterFuture[Any]]]) -> list[ClusterFuture[Any]]:
        """Run a chosen set of tasks once more; returns a new future for each, in that order.

        They are given as futures of this run, or by their numbers, which are their places in
        ``executor.futures`` of `reattach`, and run with the arguments that they had.  None are run if none
        are chosen; one that is chosen twice runs once.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     futures = [ex.submit(divmod, 7, n) for n in range(3)]
        ...     again = ex.rerun(future for future in futures if future.exception())
        ...     again[0].exception(), ex.rerun([])
        (ZeroDivisionError('integer division or modulo by zero'), [])

        Raises ValueError for what is no task of this run, and for one that never began if what it waited for
        is not among the chosen; TypeError for what is neither; RuntimeError after `shutdown`.
        """
        return self._session.rerun(chosen)

    @property
    def active_workers(self) -> int:
        """How many workers can take tasks now."""
        return self._session.dispatcher.crew.active()

    def wait_for_workers(self, count: int, timeout: Optional[float] = None) -> bool:
        """Have `count` workers started, and wait until they can take tasks.

        Returns False if they cannot after `timeout` seconds.  Raises ValueError for more than
        `max_workers`, RuntimeError after `shutdown`, and BrokenProcessPool when no worker can be had.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2) as ex:
        ...     ex.wait_for_workers(2), ex.active_workers
        (True, 2)
        """
        count, timeout = whole_number("count", count, least=0), patience("timeout", timeout)
        if count > self._max_workers:
            raise ValueError(f"{count} workers are more than max_workers={self._max_workers}; see scale()")
        dispatcher = self._session.start()
        dispatcher.demand(count)
        return dispatcher.wait_for_workers(count, timeout)

    def scale(self, count: int) -> None:
        """Set `max_workers` to `count`; surplus workers finish what they have and leave, idle ones first.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     ex.scale(3)
        ...     ex.wait_for_workers(3)
        True
        """
        self._session.scale(whole_number("count", count, least=1))

    def flush(self) -> None:
        """Return when everything submitted so far is in the run directory.

        It is there within a tenth of a second in any case, unless the machine is too busy for that.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1) as ex:
        ...     futures = [ex.submit(abs, n) for n in range(100)]
        ...     ex.flush()
        ...     os.path.getsize(os.path.join(ex.run_dir, "tasks.000000")) > 0
        True
        """
        self._session.dispatcher.flush()

    # -- the end --------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; see `concurrent.futures.Executor.shutdown`.

        With `wait`, returns when all tasks are done, all workers have left and all jobs have ended.
        With `cancel_futures`, tasks that have not started are cancelled.

        >>> from clusterfutures import LocalExecutor
        >>> ex = LocalExecutor(1)
        >>> futures = [ex.submit(time.sleep, 0.2) for _ in range(100)]
        >>> ex.shutdown(cancel_futures=True)
        >>> futures[-1].cancelled()
        True
        """
        self._session.close(wait, cancel_futures)

    def __exit__(self, kind: object, value: object, trace: object) -> Literal[False]:
        """Wait for the tasks; but after an exception in the ``with`` body end them, running ones as well."""
        if kind is not None:
            self._session.abort()
        self.shutdown(wait=True)
        return False

    def terminate_workers(self) -> None:
        """End all workers with SIGTERM, and shut down; pending tasks are cancelled, running ones fail.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(1, keep="never") as ex:
        ...     future = ex.submit(lambda: print("begun") or time.sleep(3600))
        ...     while not future.stdout():
        ...         time.sleep(0.01)
        ...     ex.terminate_workers()
        ...     print(future.exception())
        task 0 was ended, on worker ...: ...
        """
        self._end_workers(15)

    def kill_workers(self) -> None:
        """End all workers with SIGKILL, and shut down; pending tasks are cancelled, running ones fail.

        >>> from clusterfutures import LocalExecutor
        >>> with LocalExecutor(2, keep="never") as ex:
        ...     future = ex.submit(lambda: print("begun") or time.sleep(3600))
        ...     while not future.stdout():
        ...         time.sleep(0.01)
        ...     ex.kill_workers()
        ...     future.exception().signal
        'SIGKILL'
        """
        self._end_workers(9)

    def _end_workers(self, number: int) -> None:
        self._session.close(wait=False, cancel=True)
        self._session.signal_workers(number)


class View(Submitter):
    """An executor with other options for its tasks, as :meth:`LocalExecutor.options` returns it.

    All else it shares with its executor: workers, run directory, and the end.
    """

    def __init__(self, of: Submitter, policy: Policy) -> None:
        self._of = of  # kept, since an executor that nobody holds any more shuts down
        self._session = of._session
        self._policy = policy


class ClusterExecutor(Submitter):
    """The base of all executors: `concurrent.futures.Executor`, and what a scheduler adds to it.

    A subclass says which scheduler (:meth:`_make_scheduler`), and what is usual with it.
    """

    _shared = True
    _orphan_timeout = 600.0

    def __init__(
        self,
        max_workers: Optional[int] = None,
        mp_context: object = None,
        initializer: Optional[Callable[..., object]] = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: Optional[int] = None,
        **options: Any,
    ) -> None:
        options["max_tasks_per_child"] = max_tasks_per_child
        made_with = _plain(options)
        scheduler = self._make_scheduler(options)
        workers = self._usual_workers() if max_workers is None else max_workers
        settings = check_executor(options, workers, initializer, cluster=self._shared)
        arguments = check_initargs(initargs)
        taken = options.get("run_dir")
        taken = taken if isinstance(taken, Taken) else None
        scheduler.check(settings.resources)
        self._policy = Policy(**task_options(options))
        _check_retries(self._policy, settings.resources, scheduler, self._shared)
        self._session = Session(
            Settings(
                max_workers=settings.max_workers,
                max_tasks=settings.max_tasks_per_child or 0,
                run_dir=settings.run_dir,
                run_parent=self._run_parent(),
                keep=settings.keep,
                doorbell=settings.doorbell,
                host=settings.host,
                idle_timeout=settings.idle_timeout,
                job_per_task=settings.job_per_task,
                max_queued=settings.max_queued,
                shared=self._shared,
            ),
            scheduler,
            settings.resources,
            _recipe_maker(settings, self._shared, self._orphan_timeout),
            None if initializer is None else (initializer, arguments),
            {"executor": type(self), "options": made_with, "max_workers": settings.max_workers},
            taken,
        )
        finalizer = weakref.finalize(self, _forget, self._session)
        # The session has its own way at the interpreter's end.
        finalizer.atexit = False  # type: ignore[misc,unused-ignore]  # typeshed of mypy 1.19 and older

    def _make_scheduler(self, options: dict[str, Any]) -> Scheduler:
        """The scheduler for these `options`; takes out of them what only it understands."""
        raise NotImplementedError

    def _usual_workers(self) -> int:
        """How many workers there may be if nobody says."""
        return POLITE

    def _run_parent(self) -> str:
        return os.path.join(os.getcwd(), ".clusterfutures")


class _Feeder:
    """Submits the items of one map."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        row: Row,
        function: Function,
        style: int,
        items: Iterator[Any],
        policy: Policy,
        name: str,
    ) -> None:
        self._dispatcher, self._row, self._function = dispatcher, row, function
        self._style, self._items, self._policy, self._name = style, items, policy, name

    def feed(self, limit: Optional[int], portion: int = 1) -> None:
        """Submit up to `limit` items, all if it is None; the first `portion` are handed over together.

        The first items start at once, then; and ever more of those that follow go together.
        """
        items = self._items if limit is None else islice(self._items, limit)
        bodies: list[bytes] = []
        parents: list[Future[Any]] = []
        dumps, keep, name = payload.dumps_item, self._dispatcher.journal.keep, self._name
        try:
            for item in items:
                try:
                    body = dumps(item, keep, parents, name)
                except Exception as error:  # as in submit: it is raised in this item's place
                    self._hand_over(bodies)
                    bodies = []
                    self._row.failed(error)
                    continue
                if parents:
                    self._hand_over(bodies)
                    self._dispatcher.add_waiting_item(
                        self._row, self._style, self._function, body, parents, self._policy
                    )
                    bodies, parents = [], []
                    continue
                bodies.append(body)
                if len(bodies) >= portion:
                    self._hand_over(bodies)
                    bodies = []
                    portion = min(2 * portion, PORTION)
        except BaseException:
            self._row.cancelled = True  # what was submitted has no iterator to come out of
            self._dispatcher.note_cancelled()
            raise
        self._hand_over(bodies)

    def _hand_over(self, bodies: list[bytes]) -> None:
        if bodies:
            self._dispatcher.add_items(self._row, self._style, self._function, bodies, self._policy)

    def refill(self, buffersize: int) -> Callable[[], None]:
        """To be called after each result: keeps up to `buffersize` items under way."""
        portion = max(1, min(buffersize // 16, PORTION))
        taken = 0

        def one_taken() -> None:
            nonlocal taken
            taken += 1
            if taken >= portion:
                self.feed(taken, PORTION)  # it is the rest that keeps the workers busy
                taken = 0

        return one_taken


def _check_retries(policy: Policy, needs: Mapping[str, Any], scheduler: Scheduler, shared: bool) -> None:
    """Raise OptionError for retries that are to ask for what such tasks cannot have."""
    policy.retries.check({**needs, "timeout": policy.timeout})
    if policy.retries.exclude and not shared:
        raise OptionError("exclude=True is for retries on a cluster: there is one node only here")
    if policy.retries.exclude:
        scheduler.check(changed(needs, {"exclude": "node"}))


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def _authkey() -> bytes:
    """What proxies of a `multiprocessing.Manager` need to connect; empty if there can be none."""
    if "multiprocessing.managers" not in sys.modules:
        return b""
    from multiprocessing.process import current_process

    return bytes(current_process().authkey)


def _failed(dispatcher: Dispatcher, error: BaseException) -> ClusterFuture[Any]:
    """A future that has its error already."""
    future: ClusterFuture[Any] = ClusterFuture(dispatcher)
    future.set_running_or_notify_cancel()
    Settled(future, error=error).deliver()
    return future


def _forget(session: Session) -> None:
    """The executor is gone: what was submitted is finished."""
    session.close(wait=False, cancel=False)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as another process can be given them, who has a run directory already."""
    plain = {name: value for name, value in options.items() if name != "run_dir"}
    if isinstance(plain.get("env"), Mapping):
        plain["env"] = dict(plain["env"])  # os.environ cannot be pickled
    return plain


def _for_job(resources: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """What a job of so many workers needs, if this is what one of them needs."""
    of_job = dict(resources)
    for name in ("cores", "mem", "gpus"):
        each = resources.get(name)
        if isinstance(each, int):
            of_job[name] = each * workers
        elif each is not None:  # "a100:2"
            kind, _, count = each.rpartition(":")
            of_job[name] = f"{kind}:{int(count) * workers}"
    return of_job


def _recipe_maker(
    settings: ExecutorOptions, shared: bool, orphan_timeout: float
) -> Callable[[str, Mapping[str, Any]], Recipe]:
    """How jobs are made; called at the first submission, when the working directory and path are final."""

    def make(run_id: str, resources: Mapping[str, Any]) -> Recipe:
        here = os.path.dirname(os.path.abspath(__file__))
        version = "{}.{}".format(*sys.version_info[:2])
        flags = subprocess._args_from_interpreter_flags() if settings.python is None else []  # type: ignore[attr-defined]
        python = settings.python or [sys.executable]
        patience = settings.orphan_timeout or orphan_timeout
        specification = Specification(
            run_id=run_id,
            shared=shared,
            workers=1,
            max_tasks=settings.max_tasks_per_child or 0,
            initializer=None,
            sys_path=[os.path.abspath(entry) for entry in sys.path],
            orphan=settings.orphan,
            orphan_timeout=float("inf") if settings.orphan == "keep" else patience,
            authkey=_authkey(),
            slots=settings.workers_per_job if shared else 0,
            cores=resources.get("cores", 0),
        )
        modules = [f"module load {shlex.quote(name)}" for name in resources.get("modules", ())]
        return Recipe(
            name=resources.get("name", "clusterfutures"),
            argv=[*python, *flags, os.path.join(here, "bootstrap.py"), version],
            cwd=settings.cwd or os.getcwd(),
            environment=dict(settings.env),
            setup="\n".join([*modules, *settings.setup]),
            resources=_for_job(resources, settings.workers_per_job),
            specification=specification,
            per_job=settings.workers_per_job if shared else SLOTS,
            failed_starts=FAILED_STARTS if shared else 1,
            gather=GATHER if shared else 0.0,
        )

    return make
