"""Interpreter exit: work that was submitted is done, nothing hangs, nothing is left, nothing is noisy.

Each test runs a script as a program of its own, since only that has an end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.checks import needs, script_header
from tests.contract.executors import Case, Trait
from tests.contract.work import Gate
from tests.support import REPOSITORY, ScriptResult, check_no_process_left

Script = Callable[..., ScriptResult]

# Each script is given a directory; its tasks leave marks there, which tell that they ran to their end.
START = """
if __name__ == "__main__":
    marks = work.Gate(sys.argv[1])
"""


@pytest.fixture
def marks(tmp_path: Path) -> Gate:
    directory = tmp_path / "marks"
    directory.mkdir()
    return Gate(directory)


def numbers(count: int) -> list[str]:
    return sorted(str(index) for index in range(count))


def test_without_shutdown(script: Script, marks: Gate) -> None:
    script(
        START
        + """
    executor = make(2)
    futures = [executor.submit(work.mark_slowly, marks, index) for index in range(6)]
""",
        marks.directory,
    ).check()
    assert marks.arrived() == numbers(6)
    check_no_process_left()


def test_without_shutdown_and_without_references(script: Script, marks: Gate) -> None:
    script(
        START
        + """
    for index in range(6):
        make(1).submit(work.mark_slowly, marks, index)
""",
        marks.directory,
    ).check()
    assert marks.arrived() == numbers(6)


def test_within_a_function(script: Script, marks: Gate) -> None:
    script(
        """
def main(marks):
    executor = make(2)
    for index in range(6):
        executor.submit(work.mark_slowly, marks, index)
"""
        + START
        + """
    main(marks)
""",
        marks.directory,
    ).check()
    assert marks.arrived() == numbers(6)


def test_after_shutdown_without_waiting(case: Case, script: Script, marks: Gate) -> None:
    needs(case, Trait.NO_WAIT)
    script(
        START
        + """
    executor = make(2)
    futures = [executor.submit(work.mark_slowly, marks, index) for index in range(6)]
    executor.shutdown(wait=False)
""",
        marks.directory,
    ).check()
    assert marks.arrived() == numbers(6)
    check_no_process_left()


def test_after_shutdown_that_cancels_without_waiting(case: Case, script: Script, marks: Gate) -> None:
    needs(case, Trait.NO_WAIT)
    script(
        START
        + """
    executor = make(1)
    first = executor.submit(work.mark_slowly, marks, 0)
    futures = [executor.submit(work.mark_slowly, marks, index) for index in range(1, 200)]
    wait_until(lambda: first.running() or first.done())
    executor.shutdown(wait=False, cancel_futures=True)
""",
        marks.directory,
    ).check()
    assert "0" in marks.arrived() and len(marks.arrived()) < 100


def test_after_use(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    executor = make(2)
    assert executor.submit(pow, 2, 3).result() == 8
"""
    ).check()
    check_no_process_left()


def test_unused(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    executor = make(2)
"""
    ).check()
    check_no_process_left()


def test_with_an_executor_kept_by_a_module_and_by_a_cycle(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    import types
    holder = types.ModuleType("holder")
    sys.modules["holder"] = holder
    holder.executor = make(1)
    holder.executor.myself = holder.executor
    holder.future = holder.executor.submit(pow, 2, 3)
    assert holder.future.result() == 8
"""
    ).check()


def test_callbacks_run_before_the_end(script: Script) -> None:
    result = script(
        """
if __name__ == "__main__":
    executor = make(1)
    future = executor.submit(work.multiply, 6, 7)
    future.add_done_callback(lambda done: print("called", done.result(), flush=True))
"""
    ).check()
    assert result.stdout == "called 42\n"


@pytest.mark.parametrize("pending", [0, 4])
def test_exit_code_is_kept(script: Script, marks: Gate, pending: int) -> None:
    script(
        START
        + """
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    futures = [executor.submit(work.mark_slowly, marks, i) for i in range(int(sys.argv[2]))]
    sys.exit(3)
""",
        marks.directory,
        str(pending),
    ).check(returncode=3)
    assert marks.arrived() == numbers(pending)


def test_error_of_the_program(script: Script, marks: Gate) -> None:
    result = script(
        START
        + """
    executor = make(2)
    futures = [executor.submit(work.mark_slowly, marks, index) for index in range(4)]
    raise LookupError("the program's own")
""",
        marks.directory,
    )
    assert result.returncode == 1, result.report()
    assert "LookupError: the program's own" in result.stderr
    assert result.stderr.count("Traceback") == 1, result.report()
    assert marks.arrived() == numbers(4)


def test_sys_exit_within_with(case: Case, script: Script, marks: Gate) -> None:
    script(
        START
        + """
    with make(1) as executor:
        futures = [executor.submit(work.mark_slowly, marks, index) for index in range(20)]
        assert futures[0].result() == 0
        sys.exit(4)
""",
        marks.directory,
    ).check(returncode=4)
    assert (len(marks.arrived()) < 20) == case.has(Trait.BODY_ERROR_CANCELS)


def test_submitting_after_it(script: Script) -> None:
    result = script(
        """
import atexit

def run_last():
    for call in (executor.submit, executor.map):
        try:
            call(abs, [-1])
        except RuntimeError as error:
            print(type(error).__name__, error)

if __name__ == "__main__":
    atexit.register(run_last)
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
"""
    ).check()
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all("cannot schedule new futures" in line for line in lines), lines


def test_first_submit_after_it(script: Script) -> None:
    result = script(
        """
import atexit

def run_last():
    try:
        executor.submit(abs, -1)
    except RuntimeError as error:
        print(error)

if __name__ == "__main__":
    atexit.register(run_last)
    executor = make(1)
"""
    ).check()
    assert "cannot schedule new futures" in result.stdout or "shutdown" in result.stdout


def test_construction_after_it(script: Script) -> None:
    # Whatever it does, it must not hang and must not leave a process.
    result = script(
        """
import atexit

def run_last():
    try:
        make(1).submit(abs, -1)
    except RuntimeError as error:
        print("refused")

if __name__ == "__main__":
    atexit.register(run_last)
"""
    )
    assert result.returncode == 0, result.report()
    check_no_process_left()


def test_shutdown_in_an_exit_handler(script: Script, marks: Gate) -> None:
    script(
        START
        + """
    import atexit
    executor = make(1)
    atexit.register(executor.shutdown)
    future = executor.submit(work.mark_slowly, marks, 0)
""",
        marks.directory,
    ).check()
    assert marks.arrived() == ["0"]


def test_in_another_thread(script: Script, marks: Gate) -> None:
    script(
        """
def use(marks):
    executor = make(2)
    futures = [executor.submit(work.mark_slowly, marks, index) for index in range(4)]
    submitted.set()
    assert [future.result() for future in futures] == [0, 1, 2, 3]
"""
        + START
        + """
    submitted = threading.Event()
    threading.Thread(target=use, args=(marks,)).start()
    assert submitted.wait(40)
""",
        marks.directory,
    ).check()
    assert marks.arrived() == numbers(4)


def test_with_a_daemon_thread_that_waits(script: Script, marks: Gate) -> None:
    script(
        START
        + """
    executor = make(1)
    future = executor.submit(work.mark_slowly, marks, 0)
    threading.Thread(target=future.result, daemon=True).start()
""",
        marks.directory,
    ).check()
    assert marks.arrived() == ["0"]


def test_with_a_daemon_thread_that_submits(script: Script) -> None:
    result = script(
        """
def submit_for_ever(executor):
    try:
        while True:
            executor.submit(abs, -1).result()
    except RuntimeError:
        return

if __name__ == "__main__":
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    threading.Thread(target=submit_for_ever, args=(executor,), daemon=True).start()
"""
    )
    assert result.returncode == 0, result.report()
    check_no_process_left()


@pytest.mark.parametrize("when", ["running", "idle"])
def test_with_a_worker_that_died(case: Case, script: Script, when: str) -> None:
    needs(case, Trait.CRASH_THEN_EXIT)
    script(
        """
if __name__ == "__main__":
    executor = make(2)
    pid = executor.submit(work.pid_of).result()
    if sys.argv[1] == "idle":
        os.kill(pid, signal.SIGKILL)
    else:
        executor.submit(work.kill_self)
""",
        when,
    ).check()
    check_no_process_left()


def test_with_an_initializer_that_fails(script: Script) -> None:
    result = script(
        """
if __name__ == "__main__":
    executor = make(2, initializer=work.fail)
    future = executor.submit(abs, -1)
"""
    )
    assert result.returncode == 0, result.report()
    check_no_process_left()


def test_with_failures_nobody_looked_at(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    executor = make(2)
    for _ in range(4):
        executor.submit(work.fail)
    executor.submit(work.identity, threading.Lock())
"""
    )
    check_no_process_left()


def test_program_that_leaves_without_cleaning_up(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown()
    os._exit(5)
"""
    ).check(returncode=5)
    check_no_process_left()


def test_control_c_while_waiting(script: Script, marks: Gate) -> None:
    # SIGINT goes to the whole group, as from a terminal; the tasks are short, so even an executor that
    # waits for them is done soon.
    result = script(
        START
        + """
    with make(2) as executor:
        futures = [executor.submit(work.mark_slowly, marks, index) for index in range(30)]
        for future in futures:
            future.result()
""",
        marks.directory,
        interrupt_when=marks.arrived,
    )
    assert result.returncode != 0, result.report()
    assert "KeyboardInterrupt" in result.stderr
    check_no_process_left()


def test_outputs_of_the_program_are_closed_at_its_end(case: Case, tmp_path: Path) -> None:
    # Who reads a program's output through a pipe sees its end only when no process holds it any more.
    path = tmp_path / "program.py"
    body = """
if __name__ == "__main__":
    executor = make(2)
    print(executor.submit(pow, 2, 3).result())
"""
    path.write_text(script_header(case) + body, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=45,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stdout) == (0, b"8\n")
