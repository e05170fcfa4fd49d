"""A program that is killed, and another one that goes on with its run: on this machine."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import CancelledError
from pathlib import Path

import psutil
import pytest

from clusterfutures import (
    DependencyFailed,
    LocalExecutor,
    RunDirectoryError,
    RunInUse,
    SchedulerUnavailable,
    TaskKilled,
    WorkerLost,
    lease,
    reattach,
)
from clusterfutures.clean import remove
from clusterfutures.executor import ClusterExecutor
from clusterfutures.lease import DriverLease, Holder, this_process
from clusterfutures.logs import LogReader, frame, segment_path
from clusterfutures.processes import started
from clusterfutures.records import CANCELLED, TASKS
from clusterfutures.runs import look
from clusterfutures.schedulers.local import LocalScheduler
from clusterfutures.spool import RunDirectory
from clusterfutures.writing.leases import read_record, write_record
from tests import local_work as work
from tests.drivers import killed
from tests.one_file_scheduler import ShellExecutor
from tests.support import REPOSITORY, wait_until

LIMIT = 40.0  # seconds; whatever takes longer hangs


def notes(place: Path) -> list[str]:
    """What the tasks have noted, sorted."""
    return sorted(work.notes(str(place / "notes")))


def end_all(supervisor: int) -> None:
    """Kill a supervisor and its workers, and see them gone."""
    processes = [psutil.Process(supervisor)]
    processes += processes[0].children()
    for process in processes:
        process.kill()
    wait_until(lambda: not any(started(process.pid) for process in processes), LIMIT)


class TestWhatIsGivenBack:
    """Every future of the run, whatever had become of its task."""

    def test_running_finished_and_not_begun(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """Those that run are waited for and not run twice; what is done is read, by whomever it was."""
        run = killed(
            LocalExecutor,
            tmp_path,
            """
done = [ex.submit(pow, 2, n) for n in range(4)]
wait(done)
running = [ex.options(name=f"slow {n}").submit(work.note_and_wait, log, n, gate) for n in range(2)]
begun(2)
rest = [ex.submit(work.note_and_wait, log, n, gate) for n in range(2, 4)]
row = ex.map(twice, range(3))
child = ex.submit(sum, [running[0], rest[1]])
ex.flush()
""",
            doorbell=bell,
        )
        with reattach(run) as ex:
            assert isinstance(ex, LocalExecutor)
            assert ex._max_workers == 2
            states = [future.state for future in ex.futures]
            assert states[:4] == ["FINISHED"] * 4
            assert states[4:6] == ["RUNNING"] * 2
            assert [future.task for future in ex.futures] == [*range(12)]
            assert ex.futures["slow 1"] is ex.futures[5]
            with pytest.raises(KeyError, match="no task was named 'slow'"):
                ex.futures["slow"]
            assert ex.futures.names == ex.futures._ipython_key_completions_() == ["slow 0", "slow 1"]
            later = ex.submit(work.same, "later")
            gate.touch()
            assert [future.result(LIMIT) for future in ex.futures] == [1, 2, 4, 8, 0, 1, 2, 3, 0, 2, 4, 3]
            assert later.result(LIMIT) == "later"
            assert list(ex.map(abs, [-1, -2], timeout=LIMIT)) == [1, 2]
        assert notes(tmp_path) == ["0", "1", "2", "3"], "each ran once"

    def test_errors_prints_and_costs(self, tmp_path: Path) -> None:
        run = killed(
            LocalExecutor,
            tmp_path,
            """
futures = [ex.submit(work.fail, "no data"), ex.submit(print, "seen"), ex.submit(os._exit, 3)]
cancelled = ex.submit(sum, [Future()])
assert cancelled.cancel()
wait([*futures, cancelled])
ex.flush()
""",
        )
        with reattach(run) as ex:
            failed, printed, lost, cancelled = ex.futures
            with pytest.raises(ValueError, match="no data"):
                failed.result(LIMIT)
            assert (printed.result(LIMIT), printed.stdout(), printed.exit_code) == (None, "seen\n", 0)
            assert printed.wall_time is not None
            error = lost.exception(LIMIT)
            assert isinstance(error, WorkerLost)
            assert (error.exit_code, lost.exit_code) == (3, 3)
            assert cancelled.cancelled()
            with pytest.raises(CancelledError):
                cancelled.result(LIMIT)

    def test_twice(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """A second program is killed, too; what the first one knew the third one knows."""
        run = killed(
            LocalExecutor,
            tmp_path,
            """
first = [ex.submit(work.note_and_wait, log, n, gate) for n in range(3)]
begun(2)
""",
            doorbell=bell,
        )
        script = tmp_path / "second.py"
        script.write_text(
            "import os, sys\n"
            "from clusterfutures import reattach\n"
            "from tests import local_work as work\n"
            "ex = reattach(sys.argv[1])\n"
            "assert len(ex.futures) == 3\n"
            "later = ex.options(name='later', retries=1).submit(work.same, 7)\n"
            "ex.flush()\n"
            "os.kill(os.getpid(), 9)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, str(script), str(run)], env=environment, timeout=LIMIT, check=False
        )
        assert done.returncode == -signal.SIGKILL
        with reattach(run) as ex:
            gate.touch()
            assert [future.result(LIMIT) for future in ex.futures] == [0, 1, 2, 7]
            assert ex.futures["later"].result() == 7
        assert notes(tmp_path) == ["0", "1", "2"]

    def test_a_task_that_was_lost_is_tried_again(self, tmp_path: Path, gate: Path) -> None:
        """Its worker and all of its supervisor died with nobody there to see it."""
        run = killed(
            LocalExecutor,
            tmp_path,
            """
ex.options(retries=1).submit(work.note_and_wait, log, 0, gate)
ex.submit(work.note_and_wait, log, 1, gate)
begun(2)
""",
        )
        end_all(int((run / "jobs" / "0" / "ids").read_text()))
        gate.touch()
        with reattach(run) as ex:
            assert ex.futures[0].result(LIMIT) == 0
            assert ex.futures[0].attempt == 1
            assert isinstance(ex.futures[1].exception(LIMIT), WorkerLost)
            assert not isinstance(ex.futures[1].exception(LIMIT), TaskKilled)
        assert notes(tmp_path) == ["0", "0", "1"]

    def test_attempts_that_were_made_count(self, tmp_path: Path, gate: Path) -> None:
        """The first was over when its driver was killed, the second ran; there are three, and no more."""
        killed(
            LocalExecutor,
            tmp_path,
            """
def dies():
    attempt = current_task().attempt
    work.note_and_wait(log, attempt, gate) if attempt == 1 else work.note(log, attempt)
    os.kill(os.getpid(), signal.SIGKILL)

ex.options(retries=2).submit(dies)
begun(2)
""",
        )
        gate.touch()
        with reattach(tmp_path / "run") as ex:
            error = ex.futures[0].exception(LIMIT)
            assert isinstance(error, WorkerLost)
            assert [line.partition(":")[0] for line in error.earlier] == ["attempt 0", "attempt 1"]
        assert notes(tmp_path) == ["0", "1", "2"]

    def test_a_limit_that_has_grown_stays_so(self, tmp_path: Path, gate: Path) -> None:
        """The third attempt has the time of the second, which was lost, and not that of the first."""
        run = killed(
            LocalExecutor,
            tmp_path,
            """
def slow():
    attempt = current_task().attempt
    if attempt == 1:
        work.note_and_wait(log, attempt, gate)
    time.sleep(1.0 if attempt == 2 else 300)
    return attempt

ex.options(timeout=0.3, retries=Retries(2, grow={"timeout": 1000})).submit(slow)
begun(1)
""",
        )
        end_all(int((run / "jobs" / "0" / "ids").read_text()))
        with reattach(run) as ex:
            assert ex.futures[0].result(LIMIT) == 2

    def test_who_rested_before_another_attempt_does_so_still(self, tmp_path: Path) -> None:
        run = killed(
            LocalExecutor,
            tmp_path,
            """
def fails():
    work.note(log, "begun")
    raise ConnectionError

ex.options(retries=Retries(1, on=OSError, delay=3600)).submit(fails)
wait_until(lambda: ex._session.dispatcher._roster.at_rest, 60)
""",
        )
        ex = reattach(run)
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert ex._session.dispatcher.patience > 3000
        ex.shutdown(cancel_futures=True)
        assert ex.futures[0].cancelled()
        assert notes(tmp_path) == ["begun"]

    def test_after_the_workers_have_left(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        """Orphans have finished what they ran, and gone: the rest is for new ones."""
        gate.touch()
        run = killed(
            LocalExecutor,
            tmp_path,
            """
for n in range(2):
    ex.submit(work.note_and_wait, log, n, gate)
begun(2)
rest = ex.map(twice, range(100))
ex.flush()
""",
            doorbell=bell,
            orphan_timeout=0.5,
        )
        supervisor = int((run / "jobs" / "0" / "ids").read_text())
        wait_until(lambda: not started(supervisor), LIMIT)
        with reattach(run) as ex:
            assert [future.result(LIMIT) for future in ex.futures] == [0, 1, *range(0, 200, 2)]
        assert notes(tmp_path) == ["0", "1"]

    def test_functions_options_and_initializer(self, tmp_path: Path) -> None:
        """All of it is in the run directory: neither the script nor its working directory is needed."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "beside.py").write_text("def name():\n    return 'beside'\n")
        killed(
            LocalExecutor,
            tmp_path,
            """
os.chdir(place + "/elsewhere")
sys.path.insert(0, os.getcwd())
import beside
scale = 3
ex = LocalExecutor(1, run_dir=place + "/second", keep="always", env={"COLOUR": "red"},
                   initializer=work.note, initargs=(log, "hello"))
foreign = Future()
ex.submit(sum, [foreign])
ex.submit(lambda n: n * scale, 14)
ex.submit(os.getcwd), ex.submit(os.getenv, "COLOUR"), ex.submit(beside.name)
begun(1)
ex.flush()
""",
        )
        end_all(int((tmp_path / "second" / "jobs" / "0" / "ids").read_text()))
        with reattach(tmp_path / "second") as ex:
            assert [future.result(LIMIT) for future in ex.futures[1:]] == [
                42,
                str(elsewhere),
                "red",
                "beside",
            ]
            assert isinstance(ex.futures[0].exception(LIMIT), DependencyFailed)
        assert set(notes(tmp_path)) == {"hello"}

    def test_after_ctrl_c(self, tmp_path: Path, gate: Path) -> None:
        """What was cancelled with the whole executor is run; what was ended has its error."""
        log = str(tmp_path / "notes")
        with pytest.raises(KeyError), LocalExecutor(1, run_dir=tmp_path / "run") as ex:
            ex.submit(abs, -1).result(LIMIT)
            ex.submit(work.note_and_wait, log, 0, str(gate))
            waiting = [ex.submit(work.note_and_wait, log, n, str(gate)) for n in range(1, 4)]
            wait_until(lambda: work.notes(log), LIMIT)
            raise KeyError
        assert all(future.cancelled() for future in waiting)
        gate.touch()
        with reattach(tmp_path / "run") as ex:
            assert ex.futures[0].result(LIMIT) == 1
            assert isinstance(ex.futures[1].exception(LIMIT), TaskKilled)
            assert [future.result(LIMIT) for future in ex.futures[2:]] == [1, 2, 3]

    def test_with_other_workers(self, tmp_path: Path) -> None:
        """A run that ended well can be gone on with as well; it keeps its options."""
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1)
        with reattach(tmp_path / "run", max_workers=3) as again:
            assert again._max_workers == 3
            assert again.futures[0].result(LIMIT) == 1
        del again
        gc.collect()
        assert (tmp_path / "run").exists()

    def test_zeros_that_a_failed_node_has_left(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
        with open(segment_path(ex.run_dir, "tasks", 0), "ab") as file:
            file.write(bytes(4096))
        for number in (1, 2):
            with reattach(tmp_path / "run") as again:
                assert len(again.futures) == number
                assert again.submit(abs, -2).result(LIMIT) == 2

    def test_what_was_not_written_is_told(self, tmp_path: Path) -> None:
        """The number of a task whose record is missing has a future, with an error that says so."""
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
            ex.flush()
        reader = LogReader(ex.run_dir, "tasks", shared=False)
        reader.read()
        with open(segment_path(ex.run_dir, "tasks", 0), "ab") as file:
            file.write(frame(CANCELLED, (5).to_bytes(8, "little")))
            file.write(frame(TASKS, b"cut short")[:-4])
        with reattach(tmp_path / "run") as second:
            assert isinstance(second.futures[3].exception(LIMIT), RunDirectoryError)
            assert second.futures[5].cancelled()
            assert second.submit(abs, -2).result(LIMIT) == 2
        with reattach(tmp_path / "run") as third:
            assert third.futures[6].result(LIMIT) == 2, "what was cut short was overwritten"


@pytest.mark.long
class TestOfJobs:
    """With a scheduler whose jobs are not children of the program; files as they are on a cluster."""

    @pytest.mark.parametrize("jobs", [True, False], ids=["jobs", "pool"])
    def test_running_finished_and_not_begun(self, bell: bool, tmp_path: Path, gate: Path, jobs: bool) -> None:
        run = killed(
            ShellExecutor,
            tmp_path,
            """
wait([ex.submit(pow, 2, 3)])
running = [ex.submit(work.note_and_wait, log, n, gate) for n in range(2)]
begun(2)
rest = [ex.submit(work.note_and_wait, log, n, gate) for n in range(2, 4)]
child = ex.submit(sum, [running[0], rest[1]])
ex.flush()
""",
            doorbell=bell,
            job_per_task=jobs,
        )
        with reattach(run) as ex:
            assert isinstance(ex, ShellExecutor)
            assert [future.state for future in ex.futures[:3]] == ["FINISHED", "RUNNING", "RUNNING"]
            assert all(future.job_id for future in ex.futures[1:3])
            gate.touch()
            assert [future.result(LIMIT) for future in ex.futures] == [8, 0, 1, 2, 3, 3]
            assert ex.submit(abs, -1).result(LIMIT) == 1
        assert notes(tmp_path) == ["0", "1", "2", "3"]

    def test_a_job_of_which_nobody_noted_the_id(self, tmp_path: Path, gate: Path) -> None:
        """This scheduler cannot look for it: what has begun is taken for over, and its outcome counts."""
        gate.touch()
        with ShellExecutor(2, run_dir=tmp_path / "run", keep="always", job_per_task=True) as ex:
            futures = [ex.submit(work.note_and_wait, str(tmp_path / "notes"), n, str(gate)) for n in range(2)]
            assert [future.result(LIMIT) for future in futures] == [0, 1]
        run = RunDirectory(ex.run_dir, shared=True)
        for job in range(run.submitted_jobs()):
            os.unlink(tmp_path / "run" / "jobs" / str(job) / "ids")
        with reattach(tmp_path / "run") as again:
            assert [future.result(LIMIT) for future in again.futures] == [0, 1]
            assert not any(any(run.ids(job) or ()) for job in range(run.submitted_jobs()))
        assert notes(tmp_path) == ["0", "1"]


class TestLease:
    """Two drivers on one run: never."""

    def test_of_a_living_program(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run") as ex:
            ex.submit(abs, -1).result(LIMIT)
            with pytest.raises(RunInUse, match=f"process {os.getpid()} on {socket.gethostname()}") as caught:
                reattach(tmp_path / "run")
            assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
            assert caught.value.since is not None
            assert caught.value.path == ex.run_dir
            assert ex.submit(abs, -2).result(LIMIT) == 2

    def test_of_another_process_of_the_same_number(self, tmp_path: Path) -> None:
        lease = self.left_by(tmp_path, this_process()._replace(started="1"))
        lease.take()

    def test_of_another_machine_is_watched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By one's own clock, which is wound forward here while nothing is heard."""
        mine = self.left_by(tmp_path, Holder("far", "another kernel", 4711, "1"))
        now = [0.0]
        monkeypatch.setattr("clusterfutures.writing.leases.time.monotonic", lambda: now[0])
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            now[0] += seconds

        monkeypatch.setattr("clusterfutures.lease.time.sleep", sleep)
        mine.take()
        assert sum(slept) == pytest.approx(lease.SILENCE, abs=2)

    def test_of_another_machine_that_gives_a_sign(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        far = Holder("far", "another kernel", 4711, "1")
        mine = self.left_by(tmp_path, far)

        def sleep(_: float) -> None:
            path = str(tmp_path / "lease.1")
            write_record(path, {**read_record(path), "beat": 7})

        monkeypatch.setattr("clusterfutures.lease.time.sleep", sleep)
        with pytest.raises(RunInUse, match="process 4711 on far") as caught:
            mine.take()
        assert (caught.value.host, caught.value.pid) == ("far", 4711)

    @staticmethod
    def left_by(place: Path, holder: Holder) -> DriverLease:
        """A lease whose file says that `holder` has it."""
        record = {"state": "held", "since": "2026-11-21T20:00:00+0000", "timeout": 90.0, **holder._asdict()}
        write_record(str(place / "lease.1"), record, os.O_CREAT)
        return DriverLease(str(place))

    def test_that_was_lost(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, gate: Path) -> None:
        """Who stood still for too long finds that out, ends without a word to the jobs, and says so."""
        log = str(tmp_path / "notes")
        ex = LocalExecutor(1, run_dir=tmp_path / "run", orphan_timeout=0.4)
        future = ex.submit(work.note_and_wait, log, 0, str(gate))
        wait_until(lambda: work.notes(log), LIMIT)
        write_record(str(tmp_path / "run" / "lease.2"), {"state": "held"}, os.O_CREAT)
        assert isinstance(future.exception(LIMIT), RunInUse)
        ex.shutdown()
        assert "has taken over" in caplog.text
        assert (tmp_path / "run" / "run.json").exists()
        gate.touch()
        for process in ex._session.scheduler._processes.values():  # type: ignore[attr-defined]
            process.wait(LIMIT)


class TestRefused:
    """What is no run directory, or not one of ours."""

    def check(self, path: object, *words: str) -> None:
        with pytest.raises(RunDirectoryError) as caught:
            reattach(path)  # type: ignore[arg-type]
        for word in words:
            assert word in str(caught.value)

    def test_no_run(self, tmp_path: Path) -> None:
        self.check(tmp_path / "nowhere", "no run directory", "nowhere", "keep='always'")
        tmp_path.chmod(0o700)
        self.check(tmp_path, f"no run directory: there is no {tmp_path / 'run.json'}")
        (tmp_path / "run.json").write_text("{}")
        self.check(tmp_path, "does not tell of a run")

    def test_of_another_version(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
        path = tmp_path / "run" / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
        self.check(ex.run_dir, "another version", "format is 0")

    @pytest.mark.parametrize(
        ("name", "value", "word"),
        [("python", "2.7.18", "Python 2.7.18"), ("host", "far", "run of one machine, far")],
    )
    def test_of_elsewhere(self, tmp_path: Path, name: str, value: str, word: str) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
        path = tmp_path / "run" / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        self.check(ex.run_dir, word)

    def test_by_a_scheduler_that_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has to tell whether a job was submitted; the run stays as it was, and can be tried again."""
        run = killed(
            LocalExecutor, tmp_path, 'ex.submit(abs, -1).result(30)\nos.unlink(place + "/run/jobs/0/ids")'
        )

        def unavailable(*_: object) -> None:
            raise SchedulerUnavailable("no answer")

        with monkeypatch.context() as patch:
            patch.setattr(LocalScheduler, "adopt", unavailable)
            with pytest.raises(SchedulerUnavailable):
                reattach(run)
            gc.collect()
        assert look(str(run)).state == "dead", "its jobs may run, and nobody has ended it"
        with reattach(run) as ex:
            assert ex.futures[0].result(LIMIT) == 1
            assert ex.submit(abs, -2).result(LIMIT) == 2
            assert (run / "jobs" / "0" / "ids").read_text().split() != []

    def test_open_to_others(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
        (tmp_path / "run").chmod(0o755)
        self.check(ex.run_dir, "open to others")

    def test_nothing_submitted(self, tmp_path: Path) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always"):
            pass
        self.check(tmp_path / "run", "nothing was submitted")

    def test_of_classes_that_are_not_here(self, tmp_path: Path) -> None:
        (tmp_path / "stations.py").write_text("class Silent(Exception):\n    pass\n")
        run = killed(
            LocalExecutor,
            tmp_path,
            """
sys.path.insert(0, place)
from clusterfutures import Retries
from stations import Silent
ex.options(retries=Retries(1, on=Silent)).submit(abs, -1).result(30)
""",
        )
        for _ in range(2):
            self.check(run, "cannot be unpickled here", "No module named 'stations'")
            with pytest.raises(RunDirectoryError, match="its jobs may still run"):
                remove(str(run))
        sys.path.insert(0, str(tmp_path))
        try:
            with reattach(run) as ex:
                assert ex.futures[0].result(LIMIT) == 1
        finally:
            sys.path.remove(str(tmp_path))
            sys.modules.pop("stations", None)

    def test_a_damaged_outcome(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """It is no outcome: the task is run again, with all that follow in that file."""
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            assert [ex.submit(abs, -n).result(LIMIT) for n in range(3)] == [0, 1, 2]
        (outbox,) = Path(ex.run_dir).glob("jobs/0/0.0/0.0/out.*")
        data = bytearray(outbox.read_bytes())
        data[-1] ^= 1
        outbox.write_bytes(data)
        with reattach(tmp_path / "run") as again:
            assert [future.result(LIMIT) for future in again.futures] == [0, 1, 2]
        assert "damaged record" in caplog.text

    def test_damaged(self, tmp_path: Path) -> None:
        """What follows damage is not thrown away in silence."""
        with LocalExecutor(1, run_dir=tmp_path / "run", keep="always") as ex:
            ex.submit(abs, -1).result(LIMIT)
        path = Path(segment_path(ex.run_dir, "tasks", 0))
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
        self.check(ex.run_dir, "no valid record")
        assert path.read_bytes() == data


def test_others_have_no_futures_to_give_back() -> None:
    with LocalExecutor(1) as ex:
        ex.submit(abs, -1).result(LIMIT)
        assert len(ex.futures) == 0
        assert isinstance(ex, ClusterExecutor)


class TestRerun:
    """A chosen set of tasks, once more."""

    def test_of_a_run_that_goes_on(self, bell: bool, tmp_path: Path) -> None:
        log = str(tmp_path / "notes")
        with LocalExecutor(2, doorbell=bell) as ex:
            lone = ex.submit(work.note_and_sleep, log, "lone", 0.0)
            assert lone.result(LIMIT) == "lone"
            rest = [ex.submit(work.note_and_sleep, log, n, 0.0) for n in range(5)]
            row = list(ex.map(abs, [-7, -8], timeout=LIMIT))
            bound = ex.submit(sum, [rest[3], rest[4]])
            assert bound.result(LIMIT) == 7
            again = ex.rerun([rest[4], lone, 7, bound, rest[4]])
            assert [future.result(LIMIT) for future in again] == [4, "lone", 8, 7, 4]
            assert again[0] is again[4]
            assert not {future.task for future in again} & {*range(9)}
            assert row == [7, 8]
        assert sorted(work.notes(log)) == ["0", "1", "2", "3", "4", "4", "lone", "lone"]

    def test_of_none(self, tmp_path: Path) -> None:
        """An empty set is an empty set, and no request to run everything."""
        log = str(tmp_path / "notes")
        with LocalExecutor(1) as ex:
            assert ex.rerun([]) == []
            ex.submit(work.note_and_sleep, log, 0, 0.0).result(LIMIT)
            assert ex.rerun([]) == ex.rerun(iter(())) == []
        assert work.notes(log) == ["0"]

    def test_of_what_failed_elsewhere(self, tmp_path: Path, gate: Path) -> None:
        """In another process, with those that had waited for it."""
        killed(
            LocalExecutor,
            tmp_path,
            """
bad = ex.options(name="bad").submit(work.note_and_wait, log, 0, gate)
begun(1)
bad.kill()
child = ex.options(name="child").submit(sum, [ex.submit(abs, -2), bad])
wait([bad, child])
assert bad.exception() and child.exception()
""",
        )
        gate.touch()
        with reattach(tmp_path / "run") as ex:
            failed = [future for future in ex.futures if future.exception(LIMIT)]
            assert failed == [ex.futures["bad"], ex.futures["child"]]
            with pytest.raises(ValueError, match="waits for task 1: rerun that as well"):
                ex.rerun([ex.futures["child"]])
            chosen = [*failed, ex.futures[1]]
            assert [future.result(LIMIT) for future in ex.rerun(chosen)] == [0, 2, 2]

    def test_of_no_task(self) -> None:
        with LocalExecutor(1) as ex, LocalExecutor(1) as other:
            ex.submit(abs, -1).result(LIMIT)
            foreign = other.submit(abs, -1)
            with pytest.raises(ValueError, match="no task of this run"):
                ex.rerun([foreign])
            with pytest.raises(ValueError, match="there is no task 7"):
                ex.rerun([0, 7])
            with pytest.raises(TypeError):
                ex.rerun(["0"])  # type: ignore[list-item]
        with pytest.raises(RuntimeError, match="after shutdown"):
            ex.rerun([0])
