"""Whatever may die, dies: workers, their supervisor, the driver; and Ctrl-C."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from clusterfutures import LocalExecutor, TaskKilled, WorkerLost, payload, watch
from clusterfutures.records import OUTCOME, OUTCOME_HEAD
from clusterfutures.spool import RunDirectory, WorkerRef
from tests import local_work as work
from tests import worker_faults
from tests.support import REPOSITORY, ScriptResult, wait_until
from tests.worker_faults import LIMIT, all_gone, gone, seen, supervisor_of


@pytest.fixture(scope="module")
def pool(bell: bool) -> Iterator[LocalExecutor]:
    """Two workers, shared by the module: a test leaves them idle."""
    with LocalExecutor(2, doorbell=bell, keep="never") as executor:
        yield executor


def bundled(pool: LocalExecutor, function: Any, *args: Any) -> None:
    """Have `function` measured as a short one, so that its next tasks travel in bundles."""
    for _ in range(4):
        wait([pool.submit(function, *args) for _ in range(100)], LIMIT)


class TestWorkerLost:
    """What the error says, and what the death of a worker costs."""

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGXCPU])
    def test_by_a_signal(self, pool: LocalExecutor, number: signal.Signals) -> None:
        future = pool.submit(work.die, int(number))
        error = future.exception(LIMIT)
        assert type(error) is WorkerLost
        assert isinstance(error, BrokenProcessPool)
        assert (error.signal, error.exit_code) == (number.name, None)
        assert (error.pid, error.worker, error.node) == (future.pid, future.worker, future.node)
        assert error.job_id == future.job_id is not None
        assert error.stderr_tail == "last words"
        assert error.log_path is not None
        assert Path(error.log_path).read_text().endswith("last words\n")
        for word in (number.name, f"pid {error.pid}", str(error.worker), "last words", error.log_path):
            assert word in str(error)

    @pytest.mark.parametrize("code", [0, 1, 3, 255])
    def test_by_an_exit_code(self, pool: LocalExecutor, code: int) -> None:
        error = pool.submit(os._exit, code).exception(LIMIT)
        assert type(error) is WorkerLost
        assert (error.signal, error.exit_code) == (None, code)
        assert f"code {code}" in str(error)

    def test_only_the_last_lines(self, pool: LocalExecutor) -> None:
        def talk() -> None:
            for number in range(10_000):
                os.write(2, f"line {number}\n".encode())
            os._exit(1)

        error = pool.submit(talk).exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert error.stderr_tail.splitlines()[-1] == "line 9999"
        assert 5 <= len(error.stderr_tail.splitlines()) <= 100

    def test_travels_with_what_it_knows(self, pool: LocalExecutor) -> None:
        error = pool.submit(os._exit, 3).exception(LIMIT)
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is WorkerLost
        assert (vars(copy), str(copy)) == (vars(error), str(error))

    def test_finished_ones_count_and_unstarted_ones_move(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell) as pool:
            bundled(pool, work.note_and_wait, os.devnull, 0, __file__)
            untils = [__file__] * 5 + [str(gate)] + [__file__] * 5
            futures = [pool.submit(work.note_and_wait, log, n, until) for n, until in enumerate(untils)]
            seen(log, 6)
            wait_until(lambda: futures[5].pid, LIMIT)
            pid = futures[5].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert type(futures[5].exception(LIMIT)) is WorkerLost
            assert [f.result(LIMIT) for n, f in enumerate(futures) if n != 5] == [
                0,
                1,
                2,
                3,
                4,
                6,
                7,
                8,
                9,
                10,
            ]
            assert work.notes(log) == [str(n) for n in range(11)], "none ran twice"

    def test_outcome_written_before_a_death_between_tasks(self, bell: bool) -> None:
        # The worker dies of a thread that the task left behind, while it runs nothing.
        def fuse() -> str:
            import threading

            threading.Timer(0.05, os._exit, (7,)).start()
            return "lit"

        with LocalExecutor(1, doorbell=bell) as pool:
            first = pool.submit(fuse)
            assert first.result(LIMIT) == "lit"
            assert first.pid is not None
            all_gone([first.pid])
            assert pool.submit(os.getpid).result(LIMIT) != first.pid
            assert pool._session.dispatcher.failures == 0, "nothing was lost"

    def test_idle_worker(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            assert pool.wait_for_workers(2, LIMIT)
            pids = {pool.submit(os.getpid).result(LIMIT) for _ in range(4)}
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            all_gone([*pids])
            assert pool.submit(os.getpid).result(LIMIT) not in pids
            assert pool.wait_for_workers(2, LIMIT)
        assert pool._session.dispatcher.failures == 0, "nothing was lost"

    def test_many_deaths(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            futures = [pool.submit(os._exit, 1) if n % 5 == 0 else pool.submit(abs, -n) for n in range(60)]
            for n, future in enumerate(futures):
                if n % 5 == 0:
                    assert type(future.exception(LIMIT)) is WorkerLost
                else:
                    assert future.result(LIMIT) == n

    def test_grandchildren_end_with_their_task(self, pool: LocalExecutor, log: str) -> None:
        future = pool.submit(work.with_grandchild, log)
        seen(log, 1)
        wait_until(lambda: future.pid, LIMIT)
        assert future.pid is not None
        os.kill(future.pid, signal.SIGKILL)
        assert type(future.exception(LIMIT)) is WorkerLost
        all_gone([int(work.notes(log)[0])])

    def test_stopped_worker_can_be_killed(self, pool: LocalExecutor, log: str, gate: Path) -> None:
        worker_faults.stopped_worker_killed(pool, log, gate)

    def test_shutdown_right_after_a_death(self, bell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        # Without the last resort, a worker that is not told to leave stays for ever.
        monkeypatch.setattr(watch, "STOP_AFTER", 1000.0)
        for _ in range(3):
            pool = LocalExecutor(2, doorbell=bell, keep="never")
            pool.submit(os._exit, 3).exception(LIMIT)
            pool.shutdown()


class TestLateThread:
    """A worker waits at its end for the threads of its tasks, as every interpreter does; not for ever."""

    def test_is_waited_for(self, bell: bool, tmp_path: Path, gate: Path) -> None:
        log = str(tmp_path / "notes")
        with LocalExecutor(1, doorbell=bell) as pool:
            assert pool.submit(leave_thread, log, str(gate)).result(LIMIT) == "left"
            gate.touch()
        assert work.notes(log) == ["begun", "over"]

    def test_that_takes_too_long_is_ended_with_a_word(
        self,
        bell: bool,
        log: str,
        gate: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(watch, "STOP_AFTER", 0.5)
        with LocalExecutor(1, doorbell=bell) as pool:
            future = pool.submit(leave_thread, log, str(gate))
            assert future.result(LIMIT) == "left"
        assert work.notes(log) == ["begun"]
        (told,) = caplog.messages
        assert "did not leave within 0.5 s" in told
        assert told.endswith(f": {future.worker}")


def leave_thread(log: str, until: str) -> str:
    """Return, and leave a thread behind that takes its time."""
    import threading

    def linger() -> None:
        work.note_and_wait(log, "begun", until)
        work.note(log, "over")

    threading.Thread(target=linger).start()
    return "left"


class TestSupervisorLost:
    """A supervisor that is killed takes its workers along, and another one takes over."""

    def test_while_idle(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            worker_faults.supervisor_killed_while_idle(pool)

    def test_while_tasks_run(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            pid, workers = supervisor_of(pool)
            bundled(pool, work.note_and_wait, os.devnull, 0, __file__)
            untils = [str(gate)] * 2 + [__file__] * 100
            futures = [pool.submit(work.note_and_wait, log, n, until) for n, until in enumerate(untils)]
            seen(log, 2)
            os.kill(pid, signal.SIGKILL)
            all_gone(workers)
            gate.touch()
            assert not wait(futures, LIMIT).not_done
            failed = [n for n, future in enumerate(futures) if future.exception(0) is not None]
            assert all(type(futures[n].exception(0)) is WorkerLost for n in failed)
            assert len(failed) <= 2
            ran = [int(n) for n in work.notes(log)]
            assert sorted(ran) == [*range(102)], "none ran twice"
            assert pool.submit(abs, -3).result(LIMIT) == 3

    def test_retries(self, bell: bool, log: str) -> None:
        with LocalExecutor(2, doorbell=bell, retries=1) as pool:
            pid, workers = supervisor_of(pool)
            futures = [pool.submit(work.attempts_in_time, f"{log}{n}", 1) for n in range(2)]
            seen(f"{log}0", 1)
            seen(f"{log}1", 1)
            os.kill(pid, signal.SIGKILL)
            assert [future.result(LIMIT) for future in futures] == [1, 1]
            all_gone(workers)

    def test_by_sigterm(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell, keep="never") as pool:
            pid, workers = supervisor_of(pool)
            future = pool.submit(work.note_and_wait, log, 0, str(gate))
            seen(log, 1)
            os.kill(pid, signal.SIGTERM)
            all_gone([pid, *workers])
            assert isinstance(future.exception(LIMIT), WorkerLost)
            assert pool.submit(abs, -3).result(LIMIT) == 3

    def test_twice_in_a_row(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            for _ in range(2):
                pid, workers = supervisor_of(pool)
                os.kill(pid, signal.SIGKILL)
                all_gone(workers)
            assert sum(pool.map(abs, range(300), timeout=LIMIT)) == sum(range(300))

    def test_stopped_one_does_not_hinder_the_end(self, bell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        worker_faults.stopped_supervisor_ended(LocalExecutor(2, doorbell=bell, keep="never"), monkeypatch)


DRIVER = """\
import os, sys, time
from clusterfutures import LocalExecutor
from tests import local_work as work
log, until, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
ex = LocalExecutor(2, keep="always", **options)
ex.wait_for_workers(2)
pids = {ex.submit(os.getpid).result() for _ in range(20)}
future = ex.submit(work.note_and_wait, log, "ran", until)
later = [ex.submit(work.note_and_wait, log, "blocked", until + ".never") for _ in range(3)]
while not (future.running() and len(work.notes(log)) == 2):
    time.sleep(0.005)
print(ex.run_dir, future.task, future.worker, flush=True)
try:
    print(future.result(), flush=True)
    print(ex.submit(abs, -1).result(), flush=True)
finally:
    ex.kill_workers()
    ex.shutdown()
"""


class Driver(NamedTuple):
    """A program that uses a LocalExecutor, in a process of its own."""

    process: subprocess.Popen[str]
    run_dir: str
    task: int
    worker: str

    def others(self) -> list[int]:
        """The pids of its supervisor and workers."""
        return [child.pid for child in psutil.Process(self.process.pid).children(recursive=True)]


@pytest.fixture
def drive(tmp_path: Path, bell: bool) -> Iterator[Callable[..., Driver]]:
    """``drive(log, until, **options)``: start a `Driver`; what is left of it is killed after the test."""
    drivers: list[Driver] = []
    (tmp_path / "driver.py").write_text(DRIVER)

    def start(log: str, until: Path, **options: Any) -> Driver:
        process = subprocess.Popen(
            [
                sys.executable,
                str(tmp_path / "driver.py"),
                log,
                str(until),
                repr({"doorbell": bell, **options}),
            ],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        run_dir, task, worker = process.stdout.readline().split()
        drivers.append(Driver(process, run_dir, int(task), worker))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.process.kill()
        driver.process.wait()
        assert driver.process.stdout is not None
        driver.process.stdout.close()


@pytest.mark.long
class TestDriverLost:
    """Workers notice that nobody is there any more."""

    def test_kill(self, drive: Callable[..., Driver], log: str, gate: Path) -> None:
        driver = drive(log, gate, orphan="kill", orphan_timeout=3)
        others = driver.others()
        assert len(others) == 3
        driver.process.kill()
        all_gone(others)
        assert sorted(work.notes(log)) == ["blocked", "ran"], (
            "the gate is shut: they did not end by themselves"
        )

    def test_drain(self, drive: Callable[..., Driver], log: str, gate: Path) -> None:
        driver = drive(log, gate, orphan="drain", orphan_timeout=2)
        others = driver.others()
        driver.process.kill()
        # One that is killed instead tells when the time of this one, which was first, has passed as well.
        clock = drive(f"{log}-clock", gate, orphan="kill", orphan_timeout=2.5)
        ticks = clock.others()
        clock.process.kill()
        all_gone(ticks)
        assert not any(map(gone, others)), "tasks that run are not harmed"
        gate.touch()
        Path(f"{gate}.never").touch()
        all_gone(others)
        assert sorted(work.notes(log)) == ["blocked", "ran"], "nothing new was begun"
        assert outcome(driver) == "ran"

    def test_keep(self, drive: Callable[..., Driver], log: str, gate: Path) -> None:
        driver = drive(log, gate, orphan="keep", orphan_timeout=2)
        others = driver.others()
        gate.touch()
        wait_until(lambda: len(work.notes(log)) >= 2, LIMIT)
        driver.process.send_signal(signal.SIGSTOP)  # so that it cannot begin its own end
        driver.process.kill()
        clock = drive(f"{log}-clock", Path(f"{gate}-clock"), orphan="kill", orphan_timeout=2.5)
        ticks = clock.others()
        clock.process.kill()
        all_gone(ticks)
        try:
            assert not any(map(gone, others))
        finally:
            for pid in others:
                if not gone(pid):
                    os.kill(pid, signal.SIGKILL)
            all_gone(others)

    def test_stopped_for_a_while(self, drive: Callable[..., Driver], log: str, gate: Path) -> None:
        driver = drive(log, gate)
        driver.process.send_signal(signal.SIGSTOP)
        Path(f"{gate}.never").touch()
        gate.touch()
        stopped = time.monotonic()
        wait_until(lambda: time.monotonic() - stopped > 2)
        driver.process.send_signal(signal.SIGCONT)
        assert driver.process.stdout is not None
        assert driver.process.stdout.readline() == "ran\n"
        assert driver.process.stdout.readline() == "1\n"
        assert driver.process.wait(LIMIT) == 0

    def test_alive_for_longer_than_the_timeout(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell, orphan="kill", orphan_timeout=3) as pool:
            future = pool.submit(work.note_and_wait, log, 0, str(gate))
            seen(log, 1)
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 4)
            gate.touch()
            assert future.result(LIMIT) == 0
            assert pool.submit(os.getpid).result(LIMIT) == future.pid


def outcome(driver: Driver) -> Any:
    """What the driver's task has left in its worker's outbox."""
    place, _, process = driver.worker.partition("-")
    ref = WorkerRef(*map(int, place.split(".")), *map(int, process.split(".")))
    reader = RunDirectory(driver.run_dir, shared=False).outbox_reader(ref)
    bodies = [body for kind, body in reader.read(final=True) if kind == OUTCOME]
    reader.close()
    found = [body for body in bodies if OUTCOME_HEAD.unpack_from(body)[0] == driver.task]
    return payload.loads_result(found[0][OUTCOME_HEAD.size :]) if found else None


INTERRUPTED = {
    "in the body": """\
with LocalExecutor(2, doorbell=bell) as ex:
    future = ex.submit(work.note_pids_and_sleep, log)
    future.result()
""",
    "in a map": """\
with LocalExecutor(2, doorbell=bell) as ex:
    list(ex.map(work.note_pids_and_sleep, [log] * 50))
""",
    "without with": """\
ex = LocalExecutor(2, doorbell=bell)
future = ex.submit(work.note_pids_and_sleep, log)
future.result()
""",
    "in shutdown": """\
ex = LocalExecutor(2, doorbell=bell)
future = ex.submit(work.note_pids_and_sleep, log)
ex.shutdown()
""",
    "at exit": """\
ex = LocalExecutor(2, doorbell=bell)
future = ex.submit(work.note_pids_and_sleep, log)
""",
    "task that ignores SIGTERM": """\
with LocalExecutor(2, doorbell=bell) as ex:
    ex.submit(work.note_pids_and_sleep, log, stubborn=True).result()
""",
}


class TestInterrupt:
    """Ctrl-C reaches the driver alone, and ends everything."""

    @pytest.mark.parametrize("where", list(INTERRUPTED))
    def test_once(self, run: Callable[..., ScriptResult], bell: bool, log: str, where: str) -> None:
        result = run(
            f"from clusterfutures import LocalExecutor\nfrom tests import local_work as work\n"
            f"bell, log = {bell}, {log!r}\n{INTERRUPTED[where]}",
            interrupt_when=lambda: work.notes(log),
            timeout=LIMIT,
        )
        if where != "at exit":
            assert result.returncode in (1, 130, -signal.SIGINT), result.report()
            assert result.stderr.count("KeyboardInterrupt") == 1, result.report()
        assert "Exception ignored" not in result.stderr, result.report()
        assert "thread failed" not in result.stderr, result.report()
        all_gone([int(pid) for pid in work.notes(log)])

    @pytest.mark.parametrize("where", ["in the body", "without with", "at exit", "in shutdown"])
    def test_twice(self, tmp_path: Path, bell: bool, log: str, where: str) -> None:
        script = tmp_path / f"{uuid.uuid4().hex}.py"
        script.write_text(
            f"from clusterfutures import LocalExecutor\nfrom tests import local_work as work\n"
            f"bell, log = {bell}, {log!r}\n{INTERRUPTED[where]}"
        )
        with (tmp_path / "err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stderr=err,
                start_new_session=True,
            )
        try:
            wait_until(lambda: work.notes(log), LIMIT)
            process.send_signal(signal.SIGINT)
            first = time.monotonic()
            wait_until(lambda: process.poll() is not None or time.monotonic() - first > 0.2)
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT)
        finally:
            process.kill()
            process.wait()
        all_gone([int(pid) for pid in work.notes(log)])

    def test_exception_in_the_body_ends_what_runs(self, bell: bool, log: str) -> None:
        futures: list[Future[Any]] = []
        with pytest.raises(KeyError), LocalExecutor(1, doorbell=bell, keep="never") as pool:
            futures = [pool.submit(work.note_and_sleep, log, n, work.LONG) for n in range(3)]
            seen(log, 1)
            raise KeyError
        assert type(futures[0].exception(0)) is TaskKilled
        assert [future.cancelled() for future in futures[1:]] == [True, True]
        assert work.notes(log) == ["0"]


class TestLogging:
    """What is printed, and what is not."""

    SCRIPT = """\
from clusterfutures import LocalExecutor
if {configure}:
    import logging
    logging.basicConfig(level=logging.DEBUG)
with LocalExecutor(2, doorbell={bell}, keep="{keep}", retries=1) as ex:
    assert sum(ex.map(abs, range(2000))) == sum(range(2000))
    ex.submit(print, "not here").result()
    ex.options(timeout=30).submit(abs, 1).result()
    ex.scale(1)
    {more}
"""

    def script(self, bell: bool, keep: str = "failed", more: str = "pass", configure: bool = False) -> str:
        return self.SCRIPT.format(bell=bell, keep=keep, more=more, configure=configure)

    @pytest.mark.parametrize("keep", ["failed", "never"])
    def test_silence_when_all_is_well(self, run: Callable[..., ScriptResult], bell: bool, keep: str) -> None:
        result = run(self.script(bell, keep)).check()
        assert (result.stdout, result.stderr) == ("", "")

    def test_one_line_after_a_failure(self, run: Callable[..., ScriptResult], bell: bool) -> None:
        result = run(self.script(bell, more='ex.submit(abs, "x").exception()')).check()
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.report()

    def test_standard_logging_under_its_name(self, run: Callable[..., ScriptResult], bell: bool) -> None:
        result = run(self.script(bell, configure=True)).check()
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if line]
        assert all(":clusterfutures" in line for line in lines), result.report()
        assert not any(line.startswith(("WARNING", "ERROR")) for line in lines), result.report()

    def test_lost_workers_are_logged(self, bell: bool, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "clusterfutures")
        with LocalExecutor(1, doorbell=bell, keep="never", retries=1) as pool:
            pool.submit(os._exit, 3).exception(LIMIT)
        told = [record for record in caplog.records if "exited with code 3" in record.getMessage()]
        assert len(told) == 2, "each attempt"
        assert {record.name for record in told} == {"clusterfutures"}


def test_damaged_outbox_ends_its_worker(
    bell: bool, log: str, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SUSPECT", 0.5)
    with LocalExecutor(1, doorbell=bell, keep="never") as pool:
        future = pool.submit(work.note_and_wait, log, 0, str(gate))
        seen(log, 1)
        assert future.pid is not None
        [path] = Path(pool.run_dir).rglob("0.0/0.0/out.000000")
        os.kill(future.pid, signal.SIGSTOP)
        with path.open("ab") as file:  # what the worker's next record will overwrite, if it lives
            file.write(b"\xff" * 64)
        error = future.exception(LIMIT)
        assert isinstance(error, WorkerLost)
        assert pool.submit(abs, -4).result(LIMIT) == 4


def test_outcomes_heard_in_a_turn_that_fails_are_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    chores = watch.Watch._do_chores

    def failing(self: watch.Watch, now: float) -> None:
        if self.dispatcher._settled:
            raise ArithmeticError("planned")
        chores(self, now)

    monkeypatch.setattr(watch.Watch, "_do_chores", failing)
    with LocalExecutor(1, doorbell=False, keep="never") as pool:
        assert pool.submit(abs, -1).result(LIMIT) == 1
        with pytest.raises(ArithmeticError, match="planned"):
            wait_until(lambda: pool.submit(abs, -2) is None, LIMIT)
