"""Where programs use executors: forks, threads, other executors, asyncio, notebooks, odd directories."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from tests.contract import work
from tests.contract.checks import Gates, Make, needs, script_header
from tests.contract.executors import Case, Trait
from tests.support import (
    ScriptResult,
    check_no_process_left,
    processes_left,
    run_command,
    run_script,
    wait_until,
)

Script = Callable[..., ScriptResult]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


# --- forks of the user's program --------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize(
    "child",
    [
        "os._exit(0)",
        "sys.exit(0)",
        "executor.shutdown(wait=False); os._exit(0)",
        "del executor, held; import gc; gc.collect(); os._exit(0)",
        "del executor, held; sys.exit(0)",
    ],
)
def test_forked_child_that_ends(case: Case, script: Script, tmp_path: Path, child: str) -> None:
    result = script(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads: it is what is tested

if __name__ == "__main__":
    gate = work.Gate(sys.argv[1])
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    held = executor.submit(gate.hold, "held")
    wait_until(gate.arrived)
    pid = os.fork()
    if pid == 0:
        CHILD
    assert os.waitpid(pid, 0)[1] == 0
    gate.open()
    assert held.result(timeout=40) == "held"
    assert list(executor.map(abs, range(-20, 0), timeout=40)) == list(range(20, 0, -1))
    executor.shutdown()
    print("parent ended well")
""".replace("CHILD", child),
        str(tmp_path),
    )
    assert (result.returncode, result.stdout) == (0, "parent ended well\n"), result.report()
    if case.has(Trait.SURVIVES_FORK):
        result.check()  # the child of a ProcessPoolExecutor complains of children that are not its own
    check_no_process_left()


@needs_fork
def test_forked_child_that_outlives_the_parent(script: Script, gate: work.Gate) -> None:
    # The child holds copies of all descriptors; the parent's end must be seen all the same.
    script(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)

if __name__ == "__main__":
    gate = work.Gate(sys.argv[1])
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    if os.fork() == 0:
        gate.hold("child")
        os._exit(0)
    assert executor.submit(abs, -2).result(timeout=40) == 2
    wait_until(gate.arrived)
""",
        gate.directory,
    ).check()
    wait_until(lambda: len(processes_left()) == 1, describe=processes_left, interval=0.05)
    gate.open()
    check_no_process_left()


@needs_fork
def test_forked_child_that_uses_the_executor(case: Case, script: Script) -> None:
    needs(case, Trait.SURVIVES_FORK)
    result = script(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)

if __name__ == "__main__":
    executor = make(2)
    assert executor.submit(abs, -1).result() == 1
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(abs, -2).result(timeout=30)
        except RuntimeError as error:
            print("refused:", error, flush=True)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert executor.submit(abs, -3).result(timeout=40) == 3
"""
    ).check()
    assert result.stdout.startswith("refused:") and "fork" in result.stdout


@needs_fork
def test_forked_child_with_an_executor_of_its_own(case: Case, script: Script) -> None:
    needs(case, Trait.NEW_AFTER_FORK)
    result = script(
        """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)

if __name__ == "__main__":
    executor = make(1)
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown()
    pid = os.fork()
    if pid == 0:
        with make(1) as own:
            print("child", own.submit(abs, -2).result(timeout=40), flush=True)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with make(1) as again:
        print("parent", again.submit(abs, -3).result(timeout=40))
"""
    ).check()
    assert result.stdout == "child 2\nparent 3\n"
    check_no_process_left()


# --- executors in tasks -----------------------------------------------------------------------------


def test_threads_in_a_task(executor: Executor) -> None:
    assert executor.submit(work.nested_threads, [-1, -2]).result() == [1, 2]


@pytest.mark.parametrize("inner", ["process-spawn", "process-fork"])
def test_process_pool_in_a_task(make: Make, inner: str) -> None:
    executor = make(1)
    assert executor.submit(work.nested_case, inner, [-1, -2]).result(timeout=50) == [1, 2]
    assert executor.submit(abs, -1).result() == 1


def test_same_executor_in_a_task(case: Case, make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(work.nested_case, case.name, [-1, index]) for index in range(3)]
    assert [future.result(timeout=50) for future in futures] == [[1, index] for index in range(3)]


def test_closure_in_an_executor_in_a_task(case: Case, make: Make) -> None:
    needs(case, Trait.ANY_CALLABLE)
    executor = make(1)
    assert executor.submit(work.nested_closure, case.name, [1, 2]).result(timeout=50) == [11, 12]


def test_death_in_an_executor_in_a_task(case: Case, make: Make) -> None:
    error = make(1).submit(work.nested_death, case.name).exception(timeout=50)
    assert isinstance(error, BrokenProcessPool)
    if case.has(Trait.ONE_TASK_LOST):
        assert error.signal == "SIGKILL"  # type: ignore[attr-defined]


def test_functions_of_main_in_an_executor_in_a_task(script: Script) -> None:
    script(
        """
offset = 100

def inner(value):
    return value + offset

def outer(values):
    with make(1) as executor:
        return list(executor.map(inner, values))

if __name__ == "__main__":
    with make(1) as executor:
        assert executor.submit(outer, [1, 2]).result(timeout=40) == [101, 102]
"""
    ).check()


# --- threads ----------------------------------------------------------------------------------------


def test_cancelling_and_submitting_in_several_threads(make: Make) -> None:
    executor, futures = make(2), []

    def submit_and_cancel(base: int) -> None:
        for index in range(60):
            future = executor.submit(work.multiply, base, index)
            futures.append((future, base * index))
            if index % 3 == 0:
                future.cancel()

    threads = [threading.Thread(target=submit_and_cancel, args=(base,)) for base in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(futures) == 240
    assert not wait([future for future, _ in futures], timeout=50).not_done
    for future, expected in futures:
        assert future.cancelled() or future.result() == expected


def test_two_executors_at_once(make: Make) -> None:
    one, two = make(1), make(1)
    first, second = one.map(abs, range(50)), two.map(str, range(50))
    assert list(first) == list(range(50)) and list(second) == [str(index) for index in range(50)]
    assert one.submit(work.pid_of).result() != two.submit(work.pid_of).result()
    one.shutdown()
    assert two.submit(abs, -1).result() == 1


def test_one_executor_after_the_other(case: Case) -> None:
    for index in range(5):
        with case.make(1) as executor:
            assert executor.submit(abs, -index).result() == index


# --- asyncio ----------------------------------------------------------------------------------------


def test_run_in_executor(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, work.multiply, index, 2) for index in range(20)]
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [2 * index for index in range(20)]


def test_wrap_future(executor: Executor, gate: work.Gate) -> None:
    async def main() -> object:
        wrapped = asyncio.wrap_future(executor.submit(gate.hold, "tag"))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(wrapped), 0.05)
        gate.open()
        return await asyncio.wait_for(wrapped, 50)

    assert asyncio.run(main()) == "tag"


def test_exceptions_in_asyncio(executor: Executor) -> None:
    async def main() -> list[BaseException]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, work.fail, str(index)) for index in range(3)]
        return await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[return-value]

    errors = asyncio.run(main())
    assert [type(error) for error in errors] == [ValueError] * 3
    assert [str(error) for error in errors] == ["0", "1", "2"]


def test_cancelling_in_asyncio_cancels_what_is_pending(make: Make, gates: Gates) -> None:
    executor, gate, marks = make(1), gates(), gates()
    held = executor.submit(gate.hold)
    wait_until(gate.arrived)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, marks.mark, index) for index in range(100)]
        calls[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[-1]
        gate.open()
        await asyncio.gather(*calls[:-1])

    asyncio.run(main())
    held.result(timeout=50)
    assert len(marks.arrived()) == 99 and "99" not in marks.arrived()


def test_death_in_asyncio(make: Make) -> None:
    executor = make(1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(executor, work.kill_self), 50)

    with pytest.raises(BrokenProcessPool):
        asyncio.run(main())


# --- __main__ of a notebook -------------------------------------------------------------------------

CELLS = '''\
def double(value):
    return 2 * value

executor = make(2)
print(executor.submit(double, 21).result(timeout=40))
offset = 1
def double(value):
    return 2 * value + offset

print(executor.submit(double, 21).result(timeout=40))
offset = 100
print(list(executor.map(double, range(3), timeout=40)))
class Point:
    def __init__(self, x):
        self.x = x
    def moved(self):
        return Point(self.x + offset)

moved = executor.submit(Point(5).moved).result(timeout=40)
print(moved.x, isinstance(moved, Point))
class PointError(Exception):
    pass

def fail():
    raise PointError("in the cell")

try:
    executor.submit(fail).result(timeout=40)
except PointError as error:
    print("caught", error)

print(executor.submit(lambda: double(0) + 1).result(timeout=40))
executor.shutdown()
'''
ANSWERS = ["42", "43", "[100, 102, 104]", "105 True", "caught in the cell", "101"]


def test_interactive_main(case: Case, tmp_path: Path) -> None:
    needs(case, Trait.ANY_CALLABLE)
    typed = script_header(case) + CELLS
    result = run_command([sys.executable, "-i", "-q"], tmp_path, stdin=typed)
    assert result.returncode == 0, result.report()
    assert result.stdout.splitlines() == ANSWERS, result.report()


def test_main_of_code_executed_piece_by_piece(case: Case, tmp_path: Path) -> None:
    needs(case, Trait.ANY_CALLABLE)
    # As a notebook's kernel does: each cell compiled by itself, under a name that is no file.
    kernel = """
import ast, sys
cells = sys.stdin.read()
for number, statement in enumerate(ast.parse(cells).body):
    cell = ast.Module([statement], [])
    exec(compile(cell, f"<cell {number}>", "exec"), sys.modules["__main__"].__dict__)
"""
    cells = script_header(case) + CELLS
    result = run_command([sys.executable, "-c", kernel], tmp_path, stdin=cells)
    result.check()
    assert result.stdout.splitlines() == ANSWERS, result.report()


def test_functions_of_a_script(script: Script) -> None:
    # Without the guard against being imported only where nobody imports it.
    result = script(
        """
class Point:
    def __init__(self, x):
        self.x = x

class PointError(Exception):
    pass

def move(point, by):
    return Point(point.x + by)

def fail(point):
    raise PointError(point.x)

if __name__ == "__main__":
    with make(1) as executor:
        moved = executor.submit(move, Point(1), 2).result(timeout=40)
        assert type(moved) is Point and moved.x == 3
        error = executor.submit(fail, moved).exception(timeout=40)
        assert type(error) is PointError and error.args == (3,)
        print([point.x for point in executor.map(move, [Point(1), Point(2)], [10, 10])])
"""
    ).check()
    assert result.stdout == "[11, 12]\n"


def test_script_without_a_guard(case: Case, script: Script) -> None:
    needs(case, Trait.ANY_CALLABLE)
    result = script(
        """
def double(value):
    return 2 * value

with make(2) as executor:
    print(list(executor.map(double, range(4), timeout=40)))
"""
    ).check()
    assert result.stdout == "[0, 2, 4, 6]\n"


# --- directories and paths --------------------------------------------------------------------------


def test_module_beside_the_script(script: Script, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def triple(value):\n    return 3 * value\n")
    script(
        """
import beside
if __name__ == "__main__":
    with make(1) as executor:
        assert executor.submit(beside.triple, 4).result(timeout=40) == 12
""",
        cwd=Path("/"),
    ).check()


def test_module_on_a_path_added_at_run_time(script: Script, tmp_path: Path) -> None:
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "found.py").write_text("def triple(value):\n    return 3 * value\n")
    script(
        """
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import found
    with make(1) as executor:
        assert executor.submit(found.triple, 4).result(timeout=40) == 12
""",
        str(tmp_path / "added"),
    ).check()


def test_hostile_directories(case: Case, hostile_tmp_path: Path) -> None:
    needs(case, Trait.LONG_TMPDIR)
    body = """
def where():
    return os.getcwd()

if __name__ == "__main__":
    with make(2) as executor:
        assert executor.submit(where).result(timeout=40) == os.getcwd()
        assert list(executor.map(abs, [-1, -2], timeout=40)) == [1, 2]
"""
    run_script(
        script_header(case) + body,
        hostile_tmp_path,
        env={"TMPDIR": str(hostile_tmp_path), "HOSTILE": str(hostile_tmp_path)},
    ).check()
    assert not list(hostile_tmp_path.parent.rglob("here*"))


def test_environment_of_the_program_reaches_the_workers(script: Script) -> None:
    script(
        """
if __name__ == "__main__":
    os.environ["SET_BY_PROGRAM"] = value = "a b'c\\n\\u00fc"
    with make(1) as executor:
        assert executor.submit(work.environment, "SET_BY_PROGRAM").result(timeout=40) == value
""",
    ).check()


def test_closed_standard_streams(script: Script) -> None:
    # A daemon has none; a worker must not take one of their numbers for something else.
    script(
        """
if __name__ == "__main__":
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    sys.stdin = sys.stdout = sys.stderr = None
    with make(1) as executor:
        result = executor.submit(abs, -1).result(timeout=40)
    os._exit(0 if result == 1 else 9)
"""
    ).check()


def test_tasks_do_not_read_the_programs_input(script: Script) -> None:
    result = script(
        """
def read():
    return sys.stdin.readline()

if __name__ == "__main__":
    with make(1) as executor:
        assert executor.submit(read).result(timeout=40) == ""
    print(sys.stdin.read(), end="")
""",
        stdin="for the program only\n",
    ).check()
    assert result.stdout == "for the program only\n"
