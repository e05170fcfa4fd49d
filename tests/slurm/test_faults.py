"""Cells of docs/faults.rst: commands of Slurm that mislead, and a controller that has lost its state."""

from __future__ import annotations

import os
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterfutures import SlurmExecutor, SubmissionError, WorkerLost
from clusterfutures.schedulers import command
from clusterfutures.schedulers.slurm import SlurmScheduler
from tests import local_work as work
from tests.endings import JOBS, POOL, begun, goes_on, making
from tests.slurm import Cluster
from tests.support import wait_until

pytestmark = pytest.mark.long

LIMIT = 45.0  # seconds; whatever takes longer hangs
Make = Callable[..., SlurmExecutor]


@pytest.fixture
def make(here: Path, gate: Path) -> Iterator[Make]:
    """Makes executors that are shut down after the test, see `tests.endings.making`."""
    with making(SlurmExecutor, here, mem="100M", time="10m") as found:
        yield found
        gate.touch()


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm is asked every second, however quiet it is."""
    for name in ("interval", "longest_interval"):
        monkeypatch.setattr(SlurmScheduler, name, 1.0)


class Liar:
    """Commands before Slurm's own, which do what `say` tells: "rubbish", "fail", "hang", or the "truth".

    One that is to "mumble" does its work, and does not tell.  At the end of the ``with`` block all tell the
    truth: the ends of executors need it.
    """

    SCRIPT = """\
#!/bin/sh
way=$(cat {way})
echo "$way" >>{log}
case $way in
    rubbish) echo '\\001|99|?? slurm_load_jobs'; exit 0 ;;
    fail) echo 'error: Unspecified error' >&2; exit 1 ;;
    hang) exec sleep 1000 ;;
    mumble) {real} "$@" >/dev/null; echo rubbish; exit 0 ;;
esac
exec {real} "$@"
"""

    def __init__(self, folder: Path, *programs: str) -> None:
        self._folder = folder
        for program in programs:
            self.say(program, "truth")
            names = {"way": self._way(program), "log": self._log(program), "real": shutil.which(program)}
            quoted = {name: shlex.quote(str(path)) for name, path in names.items()}
            (folder / program).write_text(self.SCRIPT.format(**quoted))
            (folder / program).chmod(0o755)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._folder.glob("*.way"):
            self.say(path.stem, "truth")

    def say(self, program: str, way: str) -> None:
        """From now on, this is what `program` does."""
        new = self._folder / "new"
        new.write_text(way)
        new.replace(self._way(program))

    def told(self, program: str, way: str) -> int:
        """How often `program` has done so."""
        return work.notes(str(self._log(program))).count(way)

    def _way(self, program: str) -> Path:
        return self._folder / f"{program}.way"

    def _log(self, program: str) -> Path:
        return self._folder / f"{program}.log"


@pytest.fixture
def liar(here: Path, monkeypatch: pytest.MonkeyPatch) -> Liar:
    """First on PATH; and nobody waits for it for longer than two seconds."""
    (here / "bin").mkdir()
    found = Liar(here / "bin", "squeue", "sacct", "sbatch")
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    defaults = {"stdin": "", "timeout": 2.0, "environment": None}  # of timeout, a minute
    monkeypatch.setattr(command.run, "__kwdefaults__", defaults)
    return found


def test_commands_that_lie(make: Make, here: Path, gate: Path, liar: Liar) -> None:
    """Rubbish, failures and silence change nothing: what runs is awaited, and results come without Slurm."""
    executors, futures = [make(mode, 1) for mode in (POOL, JOBS)], []
    for number, executor in enumerate(executors):
        log = str(here / f"notes{number}")
        futures.append(executor.submit(work.note_and_wait, log, number, str(gate)))
        begun(log)
    with liar:
        for way in ("rubbish", "fail", "hang"):
            for program in ("squeue", "sacct"):
                liar.say(program, way)
            wait_until(lambda: liar.told("squeue", way) >= 2, LIMIT, f"{way} twice")  # noqa: B023
            assert not any(future.done() for future in futures)
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == [0, 1]
    for number, executor in enumerate(executors):
        goes_on(executor)
        assert work.notes(str(here / f"notes{number}")) == [str(number)], "once"


def test_a_submission_that_comes_to_nothing(make: Make, here: Path, liar: Liar) -> None:
    """One that hangs is tried again, and the task runs once; one that prints rubbish is told of."""
    executors = [make(mode, 1) for mode in (POOL, JOBS)]
    logs = [str(here / f"notes{number}") for number in range(len(executors))]
    with liar:
        liar.say("sbatch", "hang")
        futures = [executor.submit(work.note_and_sleep, log, 7, 0) for executor, log in zip(executors, logs)]
        wait_until(lambda: liar.told("sbatch", "hang") >= len(executors), LIMIT, "both submitted")
    assert [future.result(LIMIT) for future in futures] == [7, 7]
    assert [work.notes(log) for log in logs] == [["7"], ["7"]]
    with liar:
        liar.say("sbatch", "rubbish")
        with pytest.raises(SubmissionError, match="in place of a job's id"):
            make(POOL, 1).submit(abs, -1).result(LIMIT)


def test_a_submission_of_which_nobody_tells(make: Make, here: Path, liar: Liar) -> None:
    """sbatch does its work and talks rubbish while all else is silent: the job is found, and runs once."""
    executors = [make(mode, 1) for mode in (POOL, JOBS)]
    logs = [str(here / f"notes{number}") for number in range(len(executors))]
    with liar:
        liar.say("sbatch", "mumble")
        for program in ("squeue", "sacct"):
            liar.say(program, "hang")
        futures = [executor.submit(work.note_and_sleep, log, 7, 0) for executor, log in zip(executors, logs)]
        wait_until(lambda: liar.told("sbatch", "mumble") == len(executors), LIMIT, "both submitted")
        wait_until(lambda: liar.told("squeue", "hang") >= len(executors), LIMIT, "both looked for")
    assert [future.result(LIMIT) for future in futures] == [7, 7]
    assert [work.notes(log) for log in logs] == [["7"], ["7"]]
    for executor in executors:
        goes_on(executor)


@pytest.fixture
def forgetful() -> Iterator[Cluster]:
    """A Slurm of its own that keeps no accounts; the shared one has to know its jobs for ever."""
    with Cluster(accounting=False) as found:
        found.activate()
        yield found


def test_a_controller_that_is_away_at_the_end(
    cluster: Cluster, make: Make, gate: Path, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The results come without it; the end waits until it tells that the jobs have ended, too."""
    executors = [make(mode, 1) for mode in (POOL, JOBS)]
    futures = [ex.submit(work.note_and_wait, log, n, str(gate)) for n, ex in enumerate(executors)]
    begun(log, 2)
    ends = [threading.Thread(target=executor.shutdown) for executor in executors]
    cluster.stop_controller()
    try:
        for end in ends:
            end.start()
        gate.touch()
        assert [future.result(LIMIT) for future in futures] == [0, 1]
    finally:
        cluster.start_controller()
    for end in ends:
        end.join(LIMIT)
        assert not end.is_alive()
    assert "could not be ended" not in caplog.text


def test_a_controller_that_has_lost_its_state(
    forgetful: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends what it does not know: such tasks are lost and said to be, and the executors go on."""
    monkeypatch.setattr(SlurmScheduler, "grace", 5.0)
    with making(SlurmExecutor, tmp_path, mem="100M", time="10m") as make:
        executors = [make(mode, 1) for mode in (POOL, JOBS)]
        futures = []
        for number, executor in enumerate(executors):
            log = str(tmp_path / f"notes{number}")
            futures.append(executor.submit(work.note_and_sleep, log, number, work.LONG))
            begun(log)
        forgetful.stop_controller()
        forgetful.start_controller("-c")
        for future in futures:
            assert isinstance(future.exception(LIMIT), WorkerLost)
        for executor in executors:
            goes_on(executor)
