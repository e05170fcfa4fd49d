"""A randomised soak: thousands of tasks, while all that can break is broken at random.

::

    python -m tests.soak --minutes 10 --seed 7
    python -m tests.soak --executor slurm --minutes 10 --seed 7

A round is one run: its seed says what its tasks do, and what is done to its processes, its jobs and to Slurm;
when that happens is the machine's affair.  The executor is in a program of its own, the *driver*, which is
killed as well, and started again to go on.  It only notes what its futures say (`Told`).  Tasks note that
they run (`Begun`), and `Mischief` notes whom it strikes (`Struck`).  When the round is over all of that must
agree, see `Accounts`, and nothing may be left, no job and no process.  The first round that fails ends the
soak with an error that names its seed, and leaves its directory.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Optional

import psutil

from clusterfutures import (
    LocalExecutor,
    SchedulerUnavailable,
    SlurmExecutor,
    WorkerLost,
    current_task,
    reattach,
)
from clusterfutures.executor import ClusterExecutor
from clusterfutures.futures import ClusterFuture
from clusterfutures.link import Lease
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.spool import RunDirectory
from tests.local_work import LONG, note, notes
from tests.slurm.cluster import Cluster
from tests.support import MARK, MARK_VALUE, REPOSITORY, check_no_process_left, wait_until

LIMIT = 150.0  # seconds for one result, or for the end; whatever takes longer hangs
WORKERS = 4
HURRY = timedelta(seconds=10)  # a job that is to start later than that is to start sooner
OFTEN = 1000  # retries of a task that is struck again and again


class Round(NamedTuple):
    """What a round is made of: `slurm` or on this machine, `jobs`: one for each task."""

    seed: int
    tasks: int
    slurm: bool = False
    jobs: bool = False
    doorbell: bool = True

    @property
    def wave(self) -> int:
        """How many tasks are under way at a time."""
        return 20 if self.jobs else 100


# ---- what is run -------------------------------------------------------------------------------


class Kind(NamedTuple):
    """Tasks that end alike: what they do (`act` of `step`), how often there are such, and their options."""

    weight: int
    act: str
    options: dict[str, Any] = {"retries": OFTEN}  # noqa: RUF012  (nobody changes it)


KINDS = {
    "usual": Kind(45, "return"),
    "unlucky": Kind(15, "die once"),
    "failing": Kind(10, "raise"),
    "fatal": Kind(4, "die", {"retries": 1}),
    "cancelled": Kind(6, "return"),
    "killed": Kind(2, "wait"),
    "endless": Kind(2, "wait", {"timeout": 0.2}),
    "row": Kind(2, "return"),  # of calls of `abs`, by `map`
}


class Task(NamedTuple):
    """One of a round; `seconds` is how long it takes."""

    number: int
    kind: str
    seconds: float


def tasks_of(this: Round) -> list[Task]:
    """The same for the same seed."""
    randomness = random.Random(this.seed)
    kinds = randomness.choices([*KINDS], [kind.weight for kind in KINDS.values()], k=this.tasks)
    seconds = randomness.choices([0.0, 0.002, 0.02, 0.2], [60, 20, 19, 1], k=this.tasks)
    if this.jobs:  # who is to be struck must be there
        seconds = [20 * each for each in seconds]
    return [Task(number, *each) for number, each in enumerate(zip(kinds, seconds))]


def step(path: str, number: int, act: str, seconds: float) -> int:
    """What each task runs: note who and where it is, do what `act` says, return 7 times the number.

    `act`: "return", "raise" (ValueError), "die" (of SIGKILL), "die once" (at the first attempt), "wait" (for
    ever, nearly).
    """
    task = current_task()
    assert task is not None
    note(path, f"{number}:{task.attempt}:{os.getpid()}:{task.job_id}")
    if act == "raise":
        raise ValueError(number)
    if act == "die" or (act == "die once" and task.attempt == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LONG if act == "wait" else seconds)
    return 7 * number


class Begun(NamedTuple):
    """A line of `step`: this attempt at this task was begun, by this process of this job."""

    number: int
    attempt: int
    pid: int
    job: str

    @classmethod
    def read(cls, line: str) -> Begun:
        number, attempt, pid, job = line.split(":")
        return cls(int(number), int(attempt), int(pid), job)


# ---- the driver --------------------------------------------------------------------------------


class Told(NamedTuple):
    """How a task has ended, says its future: `what` is its result, "cancelled", or the name of its error.

    `pid` and `job` are those of the error, as `signal` is.
    """

    number: int
    what: str
    attempt: int = 0
    pid: Optional[int] = None
    job: Optional[str] = None
    signal: Optional[str] = None


def told(number: int, future: ClusterFuture[Any]) -> Told:
    """What a future says that is done."""
    if future.cancelled():
        return Told(number, "cancelled")
    error = future.exception(0)
    attempt = future.attempt
    if isinstance(error, WorkerLost):
        return Told(number, type(error).__name__, attempt, error.pid, error.job_id, error.signal)
    return Told(number, str(future.result(0)) if error is None else type(error).__name__, attempt)


class Driver:
    """The program that has the executor; another one that begins in the same `place` goes on with the run."""

    def __init__(self, this: Round, place: Path) -> None:
        self._round, self._place = this, place
        self._executor = self._go_on() if (place / "run").exists() else self._begin()
        self._known = {future.name: future for future in self._executor.futures}
        self._told = {each.number for each in read_told(place)}

    def run(self) -> None:
        """Submit wave after wave, and note what comes of it."""
        with self._executor:
            tasks = tasks_of(self._round)
            for first in range(0, len(tasks), self._round.wave):
                self._wave(tasks[first : first + self._round.wave])

    def _begin(self) -> ClusterExecutor:
        this = self._round
        place = self._place / "run"
        if not this.slurm:
            return LocalExecutor(WORKERS, run_dir=place, keep="always", doorbell=this.doorbell)
        return SlurmExecutor(
            WORKERS, run_dir=place, keep="always", doorbell=this.doorbell, job_per_task=this.jobs, time="30m"
        )

    def _go_on(self) -> ClusterExecutor:
        while True:
            try:
                return reattach(self._place / "run")
            except SchedulerUnavailable:  # it must be asked for a job, and is down
                time.sleep(1)

    def _wave(self, tasks: list[Task]) -> None:
        rows = [(task, self._row()) for task in tasks if task.kind == "row" and task.number not in self._told]
        futures = {task: self._future(task) for task in tasks if task.kind != "row"}
        for task, future in futures.items():
            if task.kind == "killed":
                wait_until(lambda: future.kill() or future.done(), LIMIT)  # noqa: B023  (waited for at once)
        for task, row in rows:
            self._note(Told(task.number, str([*row])))
        for task, future in futures.items():
            with suppress(Exception):
                future.exception(LIMIT)
            assert future.done(), f"task {task.number} does not end: {future!r}, {vars(future)}"
            self._note(told(task.number, future))

    def _future(self, task: Task) -> ClusterFuture[int]:
        """The task's own, which it may have since an earlier driver."""
        if str(task.number) in self._known:
            return self._known[str(task.number)]
        kind = KINDS[task.kind]
        view = self._executor.options(name=str(task.number), **kind.options)
        future = view.submit(step, str(self._place / "begun"), task.number, kind.act, task.seconds)
        if task.kind == "cancelled":
            future.cancel()
        return future

    def _row(self) -> Iterator[int]:
        return self._executor.options(retries=OFTEN).map(abs, range(self._round.wave), timeout=LIMIT)

    def _note(self, what: Told) -> None:
        note(str(self._place / "told"), json.dumps(what, separators=(",", ":")).replace(" ", ""))


def drive(this: Round, place: Path) -> None:
    """What the driver's process does: its log goes to standard error, and on SIGUSR1 its stacks do."""
    faulthandler.register(signal.SIGUSR1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # A soak has no time to be polite.
    SlurmScheduler.interval = SlurmScheduler.longest_interval = 1.0
    SlurmScheduler.grace = 10.0
    Driver(this, place).run()


def read_told(place: Path) -> list[Told]:
    """What drivers have noted so far, in that order."""
    return [Told(*json.loads(line)) for line in notes(str(place / "told"))]


# ---- what happens to it ------------------------------------------------------------------------


class Struck:
    """Who was struck so that a task is lost, by process id and by job, and how many tasks that may be."""

    def __init__(self) -> None:
        self.pids: set[int] = set()
        self.jobs: set[str] = set()
        self.victims = 0

    def worker(self, pid: int) -> None:
        """It, and the task that it runs."""
        self.pids.add(pid)
        self.victims += 1

    def all_of(self, jobs: Iterable[str], workers: int = 1) -> None:
        """These jobs, each with so many workers."""
        for job in jobs:
            self.jobs.add(job)
            self.victims += workers

    def hit(self, who: Begun | Told) -> bool:
        """Whether that worker was struck."""
        return who.pid in self.pids or who.job in self.jobs


class Mischief:
    """Strikes the driver and what it has started, one at a time, as long as there is a driver.

    Only workers that have run a task: a pool whose workers do not even start gives up, and is right to do so.
    """

    def __init__(self, this: Round, place: Path) -> None:
        self._round, self._place = this, place
        self._random = random.Random(this.seed)
        self.struck = Struck()
        self.strikes: Counter[str] = Counter()
        self._driver = self._start_driver()
        self._pause = 0.05
        self._kinds: dict[Callable[[], None], float] = {
            self.kill_worker: 6,
            self.kill_supervisor: 1,
            self.stop_worker: 3,
            self.stop_supervisor: 3,
            self.stop_driver: 1,
            self.kill_driver: 1,
            self.shout: 3,
        }

    def run(self) -> None:
        """Until the driver has ended by itself; AssertionError if it failed, or hangs."""
        deadline = time.monotonic() + 4 * LIMIT
        while self._driver.poll() is None:
            time.sleep(self._random.uniform(0.2, 1.8) * self._pause)
            if time.monotonic() > deadline:
                self._driver.send_signal(signal.SIGUSR1)
                time.sleep(1)
                raise AssertionError("the driver does not end; its stacks are at the end of its log")
            self._strike()
        assert self._driver.returncode == 0, f"the driver has failed ({self._driver.returncode})"

    def end(self) -> None:
        """Whatever is left is ended."""
        self._driver.kill()
        self._driver.wait()

    def _strike(self) -> None:
        (strike,) = self._random.choices([*self._kinds], [*self._kinds.values()])
        with suppress(psutil.Error, OSError, IndexError):  # there is nobody to strike, or not any more
            strike()
            self.strikes[strike.__name__] += 1

    def _note(self, *words: object) -> None:
        with (self._place / "strikes").open("a", encoding="utf-8") as file:
            print(datetime.now().isoformat(" "), *words, file=file)

    def _start_driver(self) -> subprocess.Popen[bytes]:
        words = ["--drive", json.dumps(self._round), str(self._place)]
        with (self._place / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.soak", *words],
                stderr=log,
                cwd=self._place,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )

    # Whom

    def _busy(self) -> Begun:
        """One that has run a task lately, and whose process lives; IndexError if there is none."""
        lately = {each.pid: each for each in map(Begun.read, notes(str(self._place / "begun"))[-100:])}
        return self._random.choice([each for pid, each in lately.items() if self._is_ours(pid)])

    def _supervisor(self, one: Begun) -> psutil.Process:
        """Who stands over it; psutil.NoSuchProcess if that is none of ours any more."""
        found = psutil.Process(one.pid).parent()
        if found is None or not self._is_ours(found.pid):
            raise psutil.NoSuchProcess(one.pid)
        return found

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is one of the run's: numbers of processes come again."""
        with suppress(psutil.Error):
            return str(self._place / "run") in " ".join(psutil.Process(pid).cmdline())
        return False

    # What

    def kill_worker(self) -> None:
        one = self._busy()
        self.struck.worker(one.pid)
        self._note("kill worker", one)
        psutil.Process(one.pid).kill()

    def kill_supervisor(self) -> None:
        one = self._busy()
        supervisor = self._supervisor(one)
        self.struck.all_of([one.job])
        for worker in supervisor.children():
            self.struck.worker(worker.pid)
        self._note("kill supervisor", supervisor.pid, one)
        supervisor.kill()

    def stop_worker(self) -> None:
        self._stop(psutil.Process(self._busy().pid))

    def stop_supervisor(self) -> None:
        self._stop(self._supervisor(self._busy()))

    def stop_driver(self) -> None:
        self._stop(psutil.Process(self._driver.pid))

    def _stop(self, process: psutil.Process) -> None:
        self._note("stop", process.pid)
        process.suspend()
        time.sleep(self._random.uniform(0.0, 4.0) * self._pause)
        process.resume()

    def kill_driver(self) -> None:
        """When it has begun: of nothing that was submitted there is nothing to go on with."""
        self._busy()
        self._note("kill driver", self._driver.pid)
        self._driver.kill()
        if self._driver.wait() == -signal.SIGKILL:
            self._driver = self._start_driver()

    def shout(self) -> None:
        """At the doorbell, if there is one."""
        address = Lease.read(RunDirectory(str(self._place / "run"), shared=False)).address
        scheme, _, where = address.partition(":")
        host, _, port = where.partition(",")[0].rpartition(":")
        with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as stranger:
            stranger.connect(where if scheme == "unix" else (host, int(port or 0)))
            stranger.sendall(self._random.randbytes(1000))


class SlurmMischief(Mischief):
    """The same on Slurm, whose jobs, nodes and controller are struck as well."""

    def __init__(self, this: Round, place: Path, cluster: Cluster) -> None:
        super().__init__(this, place)
        self._cluster = cluster
        self._pause = 0.25
        self._kinds.update(
            {
                self.cancel_running: 3,
                self.cancel_queued: 1,
                self.requeue: 2,
                self.suspend: 2,
                self.kill_node: 0.5,
                self.kill_slurmd: 0.5,
                self.stop_controller: 0.5,
                self.kill_controller: 0.5,
                self.restart_controller: 0.5,
            }
        )

    def run(self) -> None:
        super().run()
        self.struck.victims += self._restarts()

    def _restarts(self) -> int:
        """How often Slurm has started jobs anew; also those that no killed slurmd has taken."""
        told = self._cluster.query("scontrol", "--oneliner", "show", "jobs")
        return sum(map(int, re.findall(r" Restarts=(\d+) ", told)))

    def end(self) -> None:
        super().end()
        self._cluster.cancel_all()

    def _strike(self) -> None:
        super()._strike()
        self._hurry()

    def _hurry(self) -> None:
        """Slurm lets what was put back into the queue wait for two minutes: that is too long."""
        for line in self._cluster.query("squeue", "-h", "-r", "-t", "PD", "-o", "%i|%r|%S").splitlines():
            job, reason, start = line.split("|")
            with suppress(ValueError):  # there is no such time
                if reason == "BeginTime" and datetime.fromisoformat(start) > datetime.now() + HURRY:
                    self._note("hurry", job)
                    self._cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def cancel_running(self) -> None:
        self._about_job("scancel", self._busy().job)

    def cancel_queued(self) -> None:
        """While workers are alive: a pool whose workers never start gives up."""
        self._busy()
        self._about_job("scancel", self._random.choice(self._cluster.queue("-t", "PD")))

    def requeue(self) -> None:
        self._about_job("scontrol", "requeue", self._busy().job)

    def _about_job(self, *words: str) -> None:
        self.struck.all_of([words[-1]])
        self._note(*words, self._cluster.run(*words).stderr)

    def suspend(self) -> None:
        job = self._busy().job
        self._note("suspend", job, self._cluster.run("scontrol", "suspend", job).stderr)
        time.sleep(self._random.uniform(0.0, 2.0))
        self._note("resume", job, self._cluster.run("scontrol", "resume", job).stderr)

    def kill_node(self) -> None:
        """With all that runs there; Slurm is told, which would not see that it was away for a second."""
        node = self._random.choice(self._cluster.nodes)
        jobs = self._cluster.queue("-w", node)
        self.struck.all_of(jobs)
        self._cluster.kill_node(node)
        jobs += self._cluster.queue("-w", node)  # what was just being started
        self.struck.all_of(jobs)
        for state in ("DOWN", "RESUME"):
            self._cluster.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=soak")
        self._note("kill node", node, jobs)
        self._cluster.start_node(node)

    def kill_slurmd(self) -> None:
        """And nothing else on the node: jobs go on."""
        node = self._random.choice(self._cluster.nodes)
        self._note("kill slurmd", node)
        self._cluster.kill_node(node, jobs=False)
        self._cluster.start_node(node)

    def stop_controller(self) -> None:
        self._stop(self._controller())

    def kill_controller(self) -> None:
        """It has forgotten what happened last: its latest jobs, and that others have ended."""
        before, ids = self._states(), self._ids()
        self._note("kill slurmctld")
        self._controller().kill()
        latest = max((int(job.partition("_")[0]) for job in self._ids()), default=0)
        with (self._cluster.directory / "slurm.conf").open("a") as file:
            print(f"FirstJobId={latest + 1000}", file=file)  # nodes take no other job of the same id
        self._cluster.start_controller()
        after = self._states()
        lost = ({*before} | self._ids() - ids).difference(self._cluster.queue("-t", "all"))
        lost.update(job for job in after if after[job] != before.get(job))
        self.struck.all_of(lost)
        self._note("lost", *lost, self._cluster.run("scancel", *lost).stderr if lost else "")

    def _states(self) -> dict[str, str]:
        """The states of all jobs that have not ended, by id."""
        lines = self._cluster.query("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def _ids(self) -> set[str]:
        """Of all jobs that the run has submitted so far."""
        return {job for path in self._place.glob("run/jobs/*/ids") for job in notes(str(path))}

    def restart_controller(self) -> None:
        self._note("restart slurmctld")
        self._cluster.stop_controller()
        time.sleep(self._random.uniform(0.0, 4.0))
        self._cluster.start_controller()

    def _controller(self) -> psutil.Process:
        return psutil.Process(int((self._cluster.directory / "slurmctld.pid").read_text()))


# ---- what must have come of it -----------------------------------------------------------------

LOST = ("WorkerLost", "JobCancelled", "NodeFailed")


class Accounts:
    """What tasks, futures and the mischief have noted, put side by side."""

    def __init__(self, this: Round, place: Path, struck: Struck) -> None:
        self._round, self._struck = this, struck
        self.begun: dict[int, dict[int, Begun]] = defaultdict(dict)
        for each in map(Begun.read, notes(str(place / "begun"))):
            assert each.attempt not in self.begun[each.number], f"made twice: {each}"
            self.begun[each.number][each.attempt] = each
        self.told: dict[int, list[Told]] = defaultdict(list)
        for answer in read_told(place):
            self.told[answer.number].append(answer)
        self.unseen = 0  # attempts that were lost before they could say that they begin

    def check(self) -> None:
        """AssertionError for the first thing that is not as it must be."""
        for task in tasks_of(self._round):
            answers = self.told[task.number]
            assert answers, f"nobody has told of {task}"
            assert self._is_right(task, answers), f"{task}: {answers}, {self.begun[task.number]}"
            self._check_attempts(task, answers[-1])
        assert self.unseen <= self._struck.victims, f"{self.unseen} attempts were not seen"

    def _is_right(self, task: Task, answers: list[Told]) -> bool:
        """Whether a task has ended as it must, and all drivers say the same."""
        last, begun = answers[-1], self.begun[task.number]
        if task.kind == "cancelled" and last.what == "cancelled":
            return not begun
        if task.kind == "killed":
            return all(answer.what in ("TaskKilled", "cancelled") for answer in answers)
        if len({answer.what for answer in answers}) > 1 and task.kind != "cancelled":
            return False
        if task.kind == "row":
            return last.what == str([*range(self._round.wave)]).replace(" ", "")
        touched = self._struck.hit(last) or any(map(self._struck.hit, begun.values()))
        if task.kind == "fatal" and not touched:
            twice = len(begun) <= 2 <= last.attempt + 1  # or not even begun, if somebody else was struck
            return last.what == "WorkerLost" and last.signal == "SIGKILL" and twice
        if task.kind == "fatal":
            return last.what in LOST
        if task.kind == "endless":
            return last.what == "TaskTimeout" or (last.what in LOST and self._struck.hit(last))
        result = "ValueError" if task.kind == "failing" else str(7 * task.number)
        ends = [max(begun, default=-1), *self._done_and_put_back(begun)]
        return last.what == result and last.attempt in ends

    def _done_and_put_back(self, begun: dict[int, Begun]) -> list[int]:
        """Attempts whose job may have been put back when it was about to end: it began once more, in vain."""
        return [attempt for attempt, each in begun.items() if each.job in self._struck.jobs]

    def _check_attempts(self, task: Task, last: Told) -> None:
        """Each attempt but the last was struck, or lost by what the task does itself."""
        begun = self.begun[task.number]
        for attempt in range(max([last.attempt, *begun])):
            if attempt not in begun:
                self.unseen += 1
            elif not self._dies(task, attempt):
                assert self._struck.hit(begun[attempt]), f"{task}: {begun[attempt]} was not enough? {last}"

    def _dies(self, task: Task, attempt: int) -> bool:
        return task.kind == "fatal" or (task.kind == "unlucky" and attempt == 0)


def soak(this: Round, place: Path, cluster: Optional[Cluster] = None) -> Counter[str]:
    """One round, in an empty directory, and on a `cluster` if it says Slurm; returns how often what was done.

    Raises AssertionError with the seed if a result is not what it must be, a task was run twice without need,
    or a job or process is left.
    """
    mischief = Mischief(this, place) if cluster is None else SlurmMischief(this, place, cluster)
    try:
        mischief.run()
        Accounts(this, place, mischief.struck).check()
        if cluster is not None:
            cluster.idle()
        check_no_process_left()
    except BaseException as error:
        paths = [path for path in (place / "driver.log", place / "strikes") if path.exists()]
        tails = [path.read_text(errors="replace")[-3000:] for path in paths]
        raise AssertionError("\n".join([f"the soak failed with {this}: {error}", *tails])) from error
    finally:
        mischief.end()
    return mischief.strikes


def main() -> None:
    """The command: rounds with the seeds from the given one on; their last bits say how they are made."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=1000, help="in each round; a fifth where each has a job")
    parser.add_argument("--executor", choices=["local", "slurm"], default="local")
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.drive:
        drive(Round(*json.loads(chosen.drive[0])), Path(chosen.drive[1]))
        return
    os.environ[MARK] = MARK_VALUE
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster()) if chosen.executor == "slurm" else None
        if cluster is not None:
            cluster.activate()
        end, seed = time.monotonic() + 60 * chosen.minutes, chosen.seed
        while time.monotonic() < end:
            jobs = cluster is not None and seed % 4 > 1
            tasks = chosen.tasks // 5 if jobs else chosen.tasks
            this = Round(seed, tasks, cluster is not None, jobs, seed % 2 == 0)
            place = Path(tempfile.mkdtemp(prefix="soak-"))
            began = time.monotonic()
            strikes = soak(this, place, cluster)
            shutil.rmtree(place)
            print(f"{this}: {time.monotonic() - began:.0f} s, {dict(strikes)}", flush=True)
            seed += 1


if __name__ == "__main__":
    main()
