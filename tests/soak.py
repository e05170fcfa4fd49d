"""A randomised soak: thousands of tasks, while workers and supervisors are killed and stopped at random.

::

    python -m tests.soak --minutes 10 --seed 7

A round is one LocalExecutor.  Its seed says what its tasks do, and what happens to its processes; when that
happens is the machine's affair.  Every result is compared with what it must be, no attempt of a task may be
made twice, and when a round is over no process of it may be left.  The first round that fails ends the soak
with an error that names its seed.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import psutil

from clusterfutures import LocalExecutor, TaskKilled, TaskTimeout, WorkerLost
from clusterfutures.futures import ClusterFuture
from clusterfutures.spool import RunDirectory
from tests import local_work as work
from tests.fault_work import step
from tests.support import MARK, MARK_VALUE, check_no_process_left, wait_until

LIMIT = 60.0  # seconds for one result; whatever takes longer hangs
WORKERS = 4
WAVE = 100  # tasks that are under way at a time
OFTEN = 1000  # retries of a task that the soak itself may strike again and again


class Expected(NamedTuple):
    """A submitted task, and the check of how it ended: it gets the future, which is done."""

    number: int
    future: ClusterFuture[Any]
    check: Callable[[ClusterFuture[Any]], bool]


def gives(value: object) -> Callable[[ClusterFuture[Any]], bool]:
    return lambda future: bool(future.result(0) == value)


def raises(*kinds: type[BaseException]) -> Callable[[ClusterFuture[Any]], bool]:
    return lambda future: isinstance(future.exception(0), kinds)


def killed(future: ClusterFuture[Any]) -> bool:
    """It was killed while it ran, or before it began."""
    return future.cancelled() or isinstance(future.exception(0), TaskKilled)


def answered(future: ClusterFuture[Any]) -> bool:
    """Its outcome is one of the function itself: it was not killed, nor did it lose its worker for good."""
    return not future.cancelled() and not isinstance(future.exception(0), WorkerLost)


class Tasks:
    """Submits tasks of all kinds, and knows how each must end."""

    def __init__(self, executor: LocalExecutor, log: str, randomness: random.Random) -> None:
        self._often = executor.options(retries=OFTEN)
        self._twice = executor.options(retries=1)
        self._brief = executor.options(timeout=0.2)
        self._log, self._random = log, randomness
        self._doomed: list[ClusterFuture[Any]] = []
        self._number = 0
        self.expected: list[Expected] = []
        self.cancelled: set[int] = set()

    def submit(self, count: int) -> None:
        """Submit so many, and wait for them."""
        kinds = {
            self._usual: 60,
            self._failing: 10,
            self._fatal: 4,
            self._cancelled: 6,
            self._killed: 2,
            self._endless: 2,
            self._row: 2,
        }
        first = len(self.expected)
        while len(self.expected) < first + count:
            (make,) = self._random.choices([*kinds], [*kinds.values()])
            make()
        for future in self._doomed:
            wait_until(lambda: future.kill() or future.done(), LIMIT)  # noqa: B023  (waited for at once)
        self._doomed.clear()
        for each in self.expected[first:]:
            with suppress(BaseException):
                each.future.exception(LIMIT)
            assert each.future.done(), f"task {each.number} does not end"
            assert each.check(each.future), f"task {each.number}: {each.future!r}"

    def _add(
        self, view: Any, act: str, check: Callable[[ClusterFuture[Any]], bool], seconds: float = 0.0
    ) -> ClusterFuture[Any]:
        self._number += 1
        future: ClusterFuture[Any] = view.submit(step, self._log, self._number, act, seconds)
        self.expected.append(Expected(self._number, future, check))
        return future

    def _usual(self) -> None:
        seconds = self._random.choice([0.0, 0.0, 0.0, 0.002, 0.02])
        act = self._random.choice(["return", "return", "return", "die once"])
        self._add(self._often, act, gives(7 * (self._number + 1)), seconds)

    def _failing(self) -> None:
        self._add(self._often, "raise", raises(ValueError))

    def _fatal(self) -> None:
        self._add(self._twice, "die", raises(WorkerLost))

    def _cancelled(self) -> None:
        number = self._number + 1
        future = self._add(self._often, "return", lambda done: done.cancelled() or gives(7 * number)(done))
        if future.cancel():
            self.cancelled.add(number)

    def _killed(self) -> None:
        if not self._doomed:
            self._doomed.append(self._add(self._often, "wait", killed))

    def _endless(self) -> None:
        """Its worker may be struck before its time is over."""
        self._add(self._brief, "wait", raises(TaskTimeout, WorkerLost))

    def _row(self) -> None:
        numbers = range(200)
        assert list(self._often.map(abs, numbers, timeout=LIMIT)) == [*numbers]


class Mischief(threading.Thread):
    """Strikes the processes below this one, one at a time, until it is told to end.

    Only those that have run a task: a pool whose workers do not even start gives up, and is right to do so.
    """

    def __init__(self, log: str, randomness: random.Random, bell: str) -> None:
        super().__init__(daemon=True)
        self._log, self._random, self._bell = log, randomness, bell
        self._over = threading.Event()
        self.strikes: Counter[str] = Counter()

    def run(self) -> None:
        kinds = {
            self._kill_worker: 6,
            self._kill_supervisor: 1,
            self._stop_worker: 3,
            self._stop_supervisor: 3,
            self._shout: 3,
        }
        while not self._over.wait(self._random.uniform(0.01, 0.1)):
            (strike,) = self._random.choices([*kinds], [*kinds.values()])
            with suppress(psutil.Error, OSError, IndexError):
                strike()
                self.strikes[strike.__name__] += 1

    def end(self) -> None:
        """No strike any more, and nobody stopped."""
        self._over.set()
        self.join()

    def _worker(self) -> psutil.Process:
        """One that has run a task; IndexError if there is none."""
        seen = {int(line.rpartition(":")[2]) for line in work.notes(self._log)[-100:]}
        children = psutil.Process().children(recursive=True)
        return self._random.choice([child for child in children if child.pid in seen])

    def _kill_worker(self) -> None:
        self._worker().kill()

    def _kill_supervisor(self) -> None:
        self._worker().parent().kill()

    def _stop_worker(self) -> None:
        self._pause(self._worker())

    def _stop_supervisor(self) -> None:
        self._pause(self._worker().parent())

    def _pause(self, process: psutil.Process) -> None:
        process.suspend()
        self._over.wait(self._random.uniform(0.0, 0.2))
        process.resume()

    def _shout(self) -> None:
        """At the doorbell, if there is one."""
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(self._bell)
            stranger.sendall(self._random.randbytes(1000))


def soak(seed: int, tasks: int, doorbell: bool) -> Counter[str]:
    """One round; returns how often what was done to its processes.

    Raises AssertionError with the seed if a result is not what it must be, a task was run twice without need,
    or a process is left.
    """
    randomness = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "notes")
        place = os.path.join(folder, "run")
        executor = LocalExecutor(WORKERS, doorbell=doorbell, keep="never", run_dir=place)
        bell = RunDirectory(executor.run_dir, shared=False).bell
        mischief = Mischief(log, random.Random(seed), bell)
        mischief.start()
        try:
            with executor:
                made = Tasks(executor, log, randomness)
                while len(made.expected) < tasks:
                    made.submit(WAVE)
            mischief.end()
            check_notes(work.notes(log), made)
            check_no_process_left()
        except BaseException as error:
            raise AssertionError(f"the soak failed with seed {seed}, {doorbell=}: {error}") from error
        finally:
            mischief.end()
    return mischief.strikes


def check_notes(notes: list[str], made: Tasks) -> None:
    """Whose outcome is the function's own has run, what was cancelled has not, and no attempt twice."""
    begun = Counter(line.rpartition(":")[0] for line in notes)
    assert not [each for each, count in begun.items() if count > 1], "an attempt was made twice"
    ran = {int(each.partition(":")[0]) for each in begun}
    assert not ran & made.cancelled, "what was cancelled ran"
    must = {each.number for each in made.expected if answered(each.future)}
    assert must <= ran, f"these never ran: {sorted(must - ran)}"


def main() -> None:
    """The command: rounds with the seeds from the given one on, with the doorbell and without by turns."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=2000, help="in each round")
    chosen = parser.parse_args()
    os.environ[MARK] = MARK_VALUE
    end = time.monotonic() + 60 * chosen.minutes
    seed = chosen.seed
    while time.monotonic() < end:
        strikes = soak(seed, chosen.tasks, doorbell=seed % 2 == 0)
        print(f"seed {seed}: {chosen.tasks} tasks, {dict(strikes)}", flush=True)
        seed += 1


if __name__ == "__main__":
    main()
