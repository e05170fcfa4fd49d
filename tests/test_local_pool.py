"""The workers of LocalExecutor: how many, in which surroundings, what large arrays and bundles do to them."""

from __future__ import annotations

import operator
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Optional

import numpy as np
import psutil
import pytest

import clusterfutures
from clusterfutures import (
    LocalExecutor,
    OptionError,
    RemoteError,
    SubmissionError,
    TaskKilled,
    TaskPicklingError,
    WorkerLost,
    WorkerStartError,
)
from tests import local_work as work
from tests.support import wait_until

LIMIT = 30.0  # seconds; whatever takes longer hangs


def bundled(pool: LocalExecutor, function: Any, *args: Any) -> None:
    """Have `function` measured as a short one, so that its next tasks travel in bundles."""
    for _ in range(4):
        wait([pool.submit(function, *args) for _ in range(100)], LIMIT)


def until(path: Path) -> str:
    """A line for the shell that waits for a file."""
    return f"until [ -e {shlex.quote(str(path))} ]; do sleep 0.02; done"


def buffers(pool: LocalExecutor) -> list[Path]:
    """The stored buffers of a run."""
    return [path for path in Path(pool.run_dir, "buffers").rglob("*") if path.is_file()]


class TestWorkers:
    """`active_workers`, `wait_for_workers` and `scale`."""

    def test_started_as_tasks_need_them(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(3, doorbell=bell) as pool:
            assert pool.active_workers == 0
            first = pool.submit(work.note_and_wait, log, 0, str(gate))
            wait_until(lambda: work.notes(log), LIMIT)
            assert pool.active_workers == 1
            others = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(5)]
            wait_until(lambda: len(work.notes(log)) == 3, LIMIT, lambda: work.notes(log))
            assert pool.active_workers == 3
            gate.touch()
            wait([first, *others], LIMIT)
        assert pool.active_workers == 0

    def test_waiting_for_them(self, bell: bool) -> None:
        with LocalExecutor(3, doorbell=bell) as pool:
            assert pool.wait_for_workers(2, LIMIT)
            assert pool.active_workers == 2
            assert pool.wait_for_workers(0, LIMIT)
            with pytest.raises(ValueError, match="max_workers=3"):
                pool.wait_for_workers(4)

    def test_waiting_for_them_in_vain(self, bell: bool, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell, setup=until(gate)) as pool:
            assert not pool.wait_for_workers(1, 0.05)
            gate.touch()
            assert pool.wait_for_workers(1, LIMIT)

    def test_waiting_for_them_when_there_can_be_none(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell, setup="exit 3") as pool, pytest.raises(BrokenProcessPool):
            pool.wait_for_workers(1, LIMIT)

    def test_waiting_for_them_after_shutdown(self, bell: bool) -> None:
        pool = LocalExecutor(1, doorbell=bell)
        pool.submit(abs, 1).result(LIMIT)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.wait_for_workers(1, LIMIT)

    def test_shutdown_while_somebody_waits_for_them(self, bell: bool, gate: Path) -> None:
        pool = LocalExecutor(1, doorbell=bell, setup=until(gate))
        found: list[Any] = []

        def wait_for_one() -> None:
            try:
                found.append(pool.wait_for_workers(1))
            except RuntimeError as error:
                found.append(error)

        waiter = threading.Thread(target=wait_for_one, daemon=True)
        waiter.start()
        wait_until(lambda: Path(pool.run_dir, "jobs", "0").exists(), LIMIT)
        pool.shutdown(wait=False)
        gate.touch()
        pool.shutdown()
        waiter.join(LIMIT)
        assert not waiter.is_alive()
        assert not (found and found[0] is True)

    def test_scale_up(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(1, doorbell=bell) as pool:
            futures = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(3)]
            wait_until(lambda: len(work.notes(log)) == 1, LIMIT)
            pool.scale(3)
            assert pool._max_workers == 3
            wait_until(lambda: len(work.notes(log)) == 3, LIMIT, lambda: work.notes(log))
            gate.touch()
            wait(futures, LIMIT)

    def test_scale_down_and_up(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(3, doorbell=bell) as pool:
            assert pool.wait_for_workers(3, LIMIT)
            busy = pool.submit(work.note_and_wait, log, "busy", str(gate))
            wait_until(lambda: work.notes(log), LIMIT)
            pool.scale(1)
            wait_until(lambda: pool.active_workers == 1, LIMIT, lambda: pool.active_workers)
            assert busy.running(), "idle ones leave first"
            gate.touch()
            assert busy.result(LIMIT) == "busy"
            pids = set(pool.map(lambda _: os.getpid(), range(50)))
            assert pids == {busy.pid}
            pool.scale(2)
            assert pool.wait_for_workers(2, LIMIT)

    def test_scale_down_does_not_end_tasks(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            futures = [pool.submit(work.note_and_wait, log, n, str(gate)) for n in range(2)]
            wait_until(lambda: len(work.notes(log)) == 2, LIMIT)
            pool.scale(1)
            later = pool.submit(abs, -4)
            gate.touch()
            assert [future.result(LIMIT) for future in futures] == [0, 1]
            assert later.result(LIMIT) == 4

    @pytest.mark.parametrize(
        ("count", "error"),
        [
            (0, ValueError),
            (-1, ValueError),
            (2.5, TypeError),
            ("3", TypeError),
            (None, TypeError),
            (True, TypeError),
        ],
    )
    def test_scale_to_nonsense(self, count: Any, error: type[Exception]) -> None:
        with LocalExecutor(2) as pool:
            with pytest.raises(error, match="must be"):
                pool.scale(count)
            assert pool._max_workers == 2
            assert pool.submit(abs, -1).result(LIMIT) == 1

    @pytest.mark.parametrize(
        ("count", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)]
    )
    def test_waiting_for_nonsense(self, count: Any, error: type[Exception]) -> None:
        with LocalExecutor(2) as pool:
            with pytest.raises(error, match="count must be"):
                pool.wait_for_workers(count, LIMIT)
            assert pool.submit(abs, -1).result(LIMIT) == 1


def other_python(_: Path) -> Optional[str]:
    """An interpreter of another minor version; None if there is none."""
    here = "{}.{}".format(*sys.version_info[:2])
    found = [shutil.which(f"python3.{minor}") for minor in range(9, 16)]
    found += [shutil.which("python3"), "/usr/bin/python3"]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/*/bin/python"))]
    for python in found:
        if python is None or not os.access(python, os.X_OK):
            continue
        ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        asked = subprocess.run(ask, capture_output=True, text=True, check=False)
        version = asked.stdout.strip()
        if asked.returncode == 0 and version != here:
            return python
    return None


def bare_python(directory: Path) -> str:
    """This Python in an environment of its own, with nothing installed."""
    target = directory / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    return str(target / "bin" / "python")


def beginning_with(directory: Path, line: str) -> str:
    """The same; and there Python begins with a line that imports something."""
    python = bare_python(directory)
    (site,) = (directory / "bare").glob("lib/python*/site-packages")
    (site / "begin.pth").write_text(line)  # Debian's Python has a sitecustomize of its own
    return python


def pretending_python(directory: Path) -> str:
    """The same; and there Python says that it is 3.4."""
    return beginning_with(directory, "import sys; sys.version_info = (3, 4, 0, 'final', 0)")


def lacking_python(directory: Path, module: str) -> str:
    """The same; and there a module cannot be imported that the driver has."""
    return beginning_with(directory, f"import sys; sys.modules[{module!r}] = None")


class TestInterpreter:
    """`python` and `setup`."""

    def check_broken(self, pool: LocalExecutor, *words: str) -> BaseException:
        """Tasks fail with an error that has these words, and submitting does so afterwards."""
        error = pool.submit(abs, -1).exception(LIMIT)
        assert isinstance(error, WorkerStartError)
        assert isinstance(error, BrokenProcessPool)
        for word in words:
            assert word in str(error)
        with pytest.raises(WorkerStartError):
            pool.submit(abs, -1)
        return error

    def test_missing(self, bell: bool) -> None:
        with LocalExecutor(1, doorbell=bell, python="/nowhere/python") as pool:
            error = self.check_broken(pool, "/nowhere/python")
            assert isinstance(error, SubmissionError)
            assert error.command[0] == "/nowhere/python"

    def test_missing_after_a_setup(self) -> None:
        with LocalExecutor(1, python="/nowhere/python", setup="true") as pool:
            self.check_broken(pool, "/nowhere/python", "127")

    def test_that_is_something_else(self) -> None:
        with LocalExecutor(1, python="false") as pool:
            self.check_broken(pool, "exit code 1", "nothing was written")

    @pytest.mark.parametrize("find", [other_python, pretending_python])
    def test_of_another_version(
        self, bell: bool, find: Callable[[Path], Optional[str]], tmp_path: Path
    ) -> None:
        python = find(tmp_path)
        if python is None:
            pytest.skip("no other Python on this machine; one that pretends to be has its own test")
        # Its own word for what it is: the command may be a shim that chooses an interpreter.
        tell = "import sys; print(sys.executable + ' %d.%d' % sys.version_info[:2])"
        path, version = subprocess.check_output([python, "-c", tell], text=True).rsplit(None, 1)
        with LocalExecutor(1, doorbell=bell, python=python) as pool:
            self.check_broken(pool, "{}.{}".format(*sys.version_info[:2]), path, version, "python=")

    def test_with_nothing_installed(self, tmp_path: Path) -> None:
        # What is missing there is found here: the driver's sys.path reaches the worker.
        python = bare_python(tmp_path)
        with LocalExecutor(1, python=python) as pool:
            assert pool.submit(lambda: sys.prefix).result(LIMIT) == str(tmp_path / "bare")

    def test_that_lacks_a_module(self, tmp_path: Path, bell: bool) -> None:
        python = lacking_python(tmp_path, "zlib")
        with LocalExecutor(1, doorbell=bell, python=python) as pool:
            self.check_broken(pool, f"({python}) cannot import clusterfutures", "zlib")

    def test_that_has_another_clusterfutures(self, tmp_path: Path) -> None:
        python = bare_python(tmp_path)
        (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
        (site / "clusterfutures").mkdir()
        (site / "clusterfutures" / "__init__.py").write_text("__version__ = '0.1'")
        with LocalExecutor(1, python=python) as pool:
            found = pool.submit(lambda: (sys.prefix, clusterfutures.__file__)).result(LIMIT)
        assert found == (str(tmp_path / "bare"), clusterfutures.__file__)

    def test_that_lacks_tblib(self, tmp_path: Path) -> None:
        """Only errors need it, and their text arrives all the same."""
        python = lacking_python(tmp_path, "tblib")
        with LocalExecutor(1, python=python) as pool:
            error = pool.submit(divmod, 1, 0).exception(LIMIT)
            assert isinstance(error, RemoteError)
            assert error.type_name == "ZeroDivisionError"
            assert "Traceback (most recent call last)" in error.text
            assert f"in {python}: " in error.text
            assert "tblib" in error.text
            assert pool.submit(abs, -1).result(LIMIT) == 1, "the worker lives"

    def test_that_lacks_cloudpickle(self, tmp_path: Path) -> None:
        python = lacking_python(tmp_path, "cloudpickle")
        with LocalExecutor(1, python=python) as pool:
            error = pool.submit(work.make_closure, 1).exception(LIMIT)
            assert isinstance(error, TaskPicklingError)
            assert "cloudpickle" in str(error)
            assert pool.submit(abs, -1).result(LIMIT) == 1, "the worker lives"

    def test_command_with_arguments_and_spaces(self, hostile_tmp_path: Path) -> None:
        script = hostile_tmp_path / "my python"
        script.write_text(f'#!/bin/sh\nVIA="$0 $1" exec {sys.executable} "$@"\n')
        script.chmod(0o700)
        with LocalExecutor(1, python=[str(script), "-B"]) as pool:
            assert pool.submit(os.getenv, "VIA").result(LIMIT) == f"{script} -B"

    def test_setup_lines(self, bell: bool) -> None:
        lines = ["export FROM_SETUP='a \"b\"'", "cd /", "# a remark", "export THEN=$FROM_SETUP"]
        with LocalExecutor(1, doorbell=bell, setup=lines) as pool:
            found = pool.submit(work.where).result(LIMIT)
        assert found["env"]["FROM_SETUP"] == found["env"]["THEN"] == 'a "b"'
        assert found["cwd"] == "/"

    @pytest.mark.parametrize("lines", ["false", ["true", "exit 4"], "no_such_command_here", "if"])
    def test_setup_that_fails(self, lines: Any) -> None:
        with LocalExecutor(1, setup=lines) as pool:
            self.check_broken(pool, "exit code")

    def test_setup_that_fails_says_what_it_wrote(self) -> None:
        with LocalExecutor(1, setup="echo no module today >&2; exit 9") as pool:
            self.check_broken(pool, "exit code 9", "no module today")

    def test_all_waiting_tasks_are_told(self, bell: bool, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell, setup=[until(gate), "exit 9"]) as pool:
            futures = [pool.submit(abs, n) for n in range(50)]
            cancelled = pool.submit(abs, 1)
            cancelled.cancel()
            dependent = pool.submit(work.total, futures[0])
            row = pool.map(abs, range(10))
            gate.touch()
            _done, undone = wait([*futures, cancelled, dependent], LIMIT)
            assert not undone
            assert {type(future.exception(0)) for future in futures} == {WorkerStartError}
            assert dependent.exception(0) is not None
            with pytest.raises(WorkerStartError):
                next(row)


class TestSurroundings:
    """`env`, `cwd` and `sys.path`."""

    def test_variables(self, bell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INHERITED", "yes")
        monkeypatch.setenv("UNWANTED", "yes")
        hostile = {
            "SPACES": "  a b  ", "QUOTES": "it's \"so\"", "SHELL_SYNTAX": "$HOME `id` $(id) ; echo & | > <",
            "LINES": "one\ntwo\n", "EMPTY": "", "TEXT": "\u00fc\u4e16", "BACKSLASH": "\\n\\", "%s {0}": "odd",
        }  # fmt: skip
        with LocalExecutor(1, doorbell=bell, env={"UNWANTED": None, "ABSENT": None, **hostile}) as pool:
            found = pool.submit(work.where).result(LIMIT)["env"]
        assert {name: found.get(name) for name in hostile} == hostile
        assert found["INHERITED"] == "yes"
        assert "UNWANTED" not in found
        assert "ABSENT" not in found
        assert os.environ["UNWANTED"] == "yes"

    def test_arguments_of_the_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        argv = ["survey.py", "--events", "it's 12", "", "\udcff"]
        monkeypatch.setattr(sys, "argv", argv)
        with LocalExecutor(1) as pool:
            assert pool.submit(lambda: sys.argv).result(LIMIT) == argv

    def test_variables_with_a_setup(self) -> None:
        with LocalExecutor(1, env={"A": "x\n'y'"}, setup='export B="$A"') as pool:
            assert pool.submit(os.getenv, "B").result(LIMIT) == "x\n'y'"

    def test_directory(self, bell: bool, hostile_tmp_path: Path) -> None:
        with LocalExecutor(1, doorbell=bell, cwd=hostile_tmp_path) as pool:
            assert pool.submit(os.getcwd).result(LIMIT) == str(hostile_tmp_path)

    def test_directory_is_that_of_the_first_submission(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LocalExecutor(1) as pool:
            monkeypatch.chdir(tmp_path)
            assert pool.submit(os.getcwd).result(LIMIT) == str(tmp_path)

    def test_directory_that_is_missing(self) -> None:
        with LocalExecutor(1, cwd="/nowhere") as pool:
            error = pool.submit(os.getcwd).exception(LIMIT)
        assert isinstance(error, BrokenProcessPool)
        assert "/nowhere" in str(error)

    def test_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        with LocalExecutor(1) as pool:
            path = pool.submit(work.where).result(LIMIT)["path"]
        assert str(tmp_path) in path
        assert [entry for entry in path if entry in sys.path][:3] == [os.path.abspath(p) for p in sys.path][
            :3
        ]


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": -3}, ValueError, "max_workers must be greater than 0"),
    ({"max_workers": "2"}, TypeError, "max_workers must be an integer"),
    ({"max_workers": 2.0}, TypeError, "max_workers must be an integer"),
    ({"max_workers": True}, TypeError, "max_workers must be an integer"),
    ({"initializer": 3}, TypeError, "initializer must be a callable"),
    ({"max_tasks_per_child": "3"}, TypeError, "max_tasks_per_child must be an integer"),
    ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be greater than 0"),
    ({"retires": 2}, OptionError, "unknown option 'retires'; did you mean 'retries'"),
    ({"mem": "8G"}, OptionError, "unknown option 'mem'"),
    ({"keep": True}, OptionError, "keep must be one of 'failed', 'always', 'never'"),
    ({"orphan": "die"}, OptionError, "orphan must be one of"),
    ({"orphan_timeout": "1h"}, OptionError, "orphan_timeout must be a number of seconds"),
    ({"orphan_timeout": 0}, OptionError, "orphan_timeout must be a number of seconds"),
    ({"doorbell": "no"}, OptionError, "doorbell must be True or False"),
    ({"run_dir": 5}, OptionError, "run_dir must be a path"),
    ({"run_dir": b"/tmp/x"}, OptionError, "run_dir must be a path"),
    ({"run_dir": "a\0b"}, OptionError, "run_dir must be a path"),
    ({"run_dir": ""}, OptionError, "run_dir must not be empty"),
    ({"cwd": 5}, OptionError, "cwd must be a path"),
    ({"cwd": ""}, OptionError, "cwd must not be empty"),
    ({"python": ""}, OptionError, "python must be a command"),
    ({"python": []}, OptionError, "python must be a command"),
    ({"python": 5}, OptionError, "python must be a command"),
    ({"python": [5]}, OptionError, "python must be a command"),
    ({"python": "python 'unclosed"}, OptionError, "python must be a command"),
    ({"setup": 5}, OptionError, "setup must be shell lines"),
    ({"setup": [5]}, OptionError, "setup must be shell lines"),
    ({"setup": "a\0b"}, OptionError, "setup must be shell lines"),
    ({"env": "A=b"}, OptionError, "env must map names to values"),
    ({"env": {"A": 1}}, OptionError, "env: the value of A must be text or None"),
    ({"env": {"A=B": "1"}}, OptionError, "env: 'A=B' cannot be the name"),
    ({"env": {"": "1"}}, OptionError, "env: '' cannot be the name"),
    ({"env": {5: "1"}}, OptionError, "env: 5 cannot be the name"),
    ({"env": {"A": "x\0y"}}, OptionError, "env: the value of A must be text"),
]


@pytest.mark.parametrize(
    ("options", "error", "text"), BAD_OPTIONS, ids=[str(options) for options, _, _ in BAD_OPTIONS]
)
def test_bad_options_are_refused_at_once(
    options: dict[str, Any],
    error: type[Exception],
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error) as caught:
        LocalExecutor(**options)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing is made of what is refused"


class TestLargeArrays:
    """Large buffers travel once, and belong to nobody."""

    def test_stored_once(self, bell: bool) -> None:
        array = np.ones(20 << 17)  # 20 MiB
        with LocalExecutor(2, doorbell=bell, keep="always") as pool:
            futures = [pool.submit(np.sum, array) for _ in range(10)]
            sums = pool.map(np.sum, [array.copy() for _ in range(10)], timeout=LIMIT)
            assert {float(future.result(LIMIT)) for future in futures} == {float(array.size)}
            assert {float(each) for each in sums} == {float(array.size)}
            assert [path.stat().st_size for path in buffers(pool)] == [array.nbytes]

    def test_changed_in_place_is_another_one(self, bell: bool) -> None:
        array = np.zeros(100_000)
        with LocalExecutor(2, doorbell=bell) as pool:
            before = pool.submit(np.sum, array)
            array[7] = 3
            after = pool.submit(np.sum, array)
            assert (before.result(LIMIT), after.result(LIMIT)) == (0, 3)
            assert len(buffers(pool)) == 2

    def test_what_a_task_does_to_it_stays_in_the_task(self, bell: bool) -> None:
        array = np.zeros(100_000)
        with LocalExecutor(1, doorbell=bell) as pool:
            found = [pool.submit(work.add_in_place, array, 1.0).result(LIMIT) for _ in range(3)]
        assert [(before, after) for before, after, _ in found] == [(0, 1)] * 3
        assert array[0] == 0

    def test_of_a_map_and_a_closure(self, bell: bool) -> None:
        array = np.zeros(100_000)

        def change(_: int) -> float:
            return float(array[0])

        with LocalExecutor(1, doorbell=bell) as pool:
            assert list(pool.map(change, range(3), timeout=LIMIT)) == [0, 0, 0]
            found = pool.map(work.add_in_place, [array] * 4, [1.0] * 4, timeout=LIMIT)
            assert [before for before, _, _ in found] == [0] * 4

    def test_read_only_stays_read_only(self, bell: bool) -> None:
        array = np.zeros(100_000)
        fixed = array.copy()
        fixed.flags.writeable = False
        with LocalExecutor(1, doorbell=bell) as pool:
            for _ in range(2):
                assert pool.submit(work.try_to_change, fixed).result(LIMIT)[0] is False
                assert pool.submit(work.try_to_change, array).result(LIMIT) == (True, "changed")

    def test_results_are_copies(self, bell: bool) -> None:
        array = np.zeros(100_000)
        with LocalExecutor(1, doorbell=bell, keep="never") as pool:
            result = pool.submit(work.same, array).result(LIMIT)
            result[0] = 5
            assert pool.submit(np.sum, array).result(LIMIT) == 0
            run_dir = pool.run_dir
        assert not os.path.exists(run_dir)
        assert result[0] == 5
        assert result.sum() == 5

    def test_workers_share_the_memory(self) -> None:
        if not os.path.exists("/proc/self/smaps_rollup"):
            pytest.skip("no /proc/self/smaps_rollup here to measure with")
        array = np.ones(60 << 17)  # 60 MiB
        with LocalExecutor(2) as pool:
            used = [pool.submit(work.private_bytes, array).result(LIMIT) for _ in range(4)]
        assert max(used) < array.nbytes / 2

    @pytest.mark.parametrize(
        "make", ["fortran", "strided", "empty", "zero-dimensional", "structured", "bytearray"]
    )
    def test_of_all_shapes(self, make: str) -> None:
        plain = np.arange(40_000.0)
        value: Any = {
            "fortran": np.asfortranarray(plain.reshape(200, 200)),
            "strided": plain[::3],
            "empty": plain[:0],
            "zero-dimensional": np.array(3.0),
            "structured": np.zeros(20_000, dtype=[("a", "f8"), ("b", "i4")]),
            "bytearray": bytearray(200_000),
        }[make]
        with LocalExecutor(1) as pool:
            result = pool.submit(work.same, value).result(LIMIT)
        assert type(result) is type(value)
        assert np.array_equal(result, value)
        if make == "fortran":
            assert result.flags.f_contiguous


class Counted:
    """A callable that counts how often it is pickled; in a worker it is `int.bit_length`."""

    def __init__(self) -> None:
        self.pickled = 0

    def __call__(self, number: int) -> int:
        raise AssertionError("this is the driver")

    def __reduce__(self) -> Any:
        self.pickled += 1
        return operator.methodcaller, ("bit_length",)


class NotesItsLoads:
    """A callable that has the process that unpickles it named in a file; in a worker it is `abs`."""

    def __init__(self, log: str) -> None:
        self.log = log

    def __call__(self, number: int) -> int:
        raise AssertionError("this is the driver")

    def __reduce__(self) -> Any:
        def load(log: str) -> Any:
            work.note(log, os.getpid())
            return abs

        return load, (self.log,)


class TestBundles:
    """Short tasks travel together, and what stands behind a long one goes elsewhere."""

    @pytest.mark.parametrize("items", [1, 3, 2000])
    def test_the_function_of_a_map_is_pickled_once(self, items: int) -> None:
        function = Counted()
        with LocalExecutor(2) as pool:
            found = list(pool.map(function, range(items), timeout=LIMIT))
        assert found == [number.bit_length() for number in range(items)]
        assert function.pickled == 1

    def test_the_function_of_a_map_is_loaded_once_by_each_worker(self, log: str) -> None:
        with LocalExecutor(2) as pool:
            assert list(pool.map(NotesItsLoads(log), range(2000), timeout=LIMIT)) == [*range(2000)]
        loads = work.notes(log)
        assert loads
        assert len(loads) == len({*loads}), "no worker has loaded it twice"

    def test_files_grow_with_bundles(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            assert sum(pool.map(abs, range(5000), timeout=LIMIT)) == sum(range(5000))
            files = [path for path in Path(pool.run_dir).rglob("*") if path.is_file()]
            assert len(files) < 40

    def test_tasks_behind_a_long_one_are_recalled(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            pool.wait_for_workers(2, LIMIT)
            bundled(pool, work.note_and_wait, os.devnull, 0, __file__)
            # All but the first are as short as they were measured; the first waits for all the others.
            untils = [str(gate)] + [__file__] * 60
            futures = [pool.submit(work.note_and_wait, log, n, until) for n, until in enumerate(untils)]
            _done, undone = wait(futures[1:], LIMIT)
            assert not undone
            assert futures[0].running()
            assert sorted(map(int, work.notes(log))) == [*range(61)], "each ran once"
            gate.touch()
            assert futures[0].result(LIMIT) == 0

    def test_tasks_behind_two_long_ones(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(3, doorbell=bell) as pool:
            pool.wait_for_workers(3, LIMIT)
            bundled(pool, work.note_and_wait, os.devnull, 0, __file__)
            untils = [str(gate) if n in (0, 30) else __file__ for n in range(60)]
            futures = [pool.submit(work.note_and_wait, log, n, until) for n, until in enumerate(untils)]
            short = [future for n, future in enumerate(futures) if n not in (0, 30)]
            assert not wait(short, LIMIT).not_done
            gate.touch()
            assert [future.result(LIMIT) for future in futures] == [*range(60)]
            assert sorted(map(int, work.notes(log))) == [*range(60)]

    def test_mixed_functions(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            futures = [pool.submit((abs, float, str)[n % 3], n) for n in range(1500)]
            assert [future.result(LIMIT) for future in futures] == [
                (abs, float, str)[n % 3](n) for n in range(1500)
            ]

    def test_mixed_durations(self, bell: bool, log: str) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            seconds = [0.05 if n % 40 == 0 else 0.0 for n in range(400)]
            futures = [pool.submit(work.note_and_sleep, log, n, each) for n, each in enumerate(seconds)]
            assert [future.result(LIMIT) for future in futures] == [*range(400)]
        assert sorted(map(int, work.notes(log))) == [*range(400)]

    @pytest.mark.parametrize("limit", [1, 50, 400])
    def test_fresh_processes(self, bell: bool, limit: int) -> None:
        tasks = 60 if limit == 1 else 3000
        with LocalExecutor(2, doorbell=bell, max_tasks_per_child=limit) as pool:
            workers = list(pool.map(work.worker_of, range(tasks), timeout=LIMIT))
        assert len(workers) == tasks
        counts = {worker: workers.count(worker) for worker in set(workers)}
        assert max(counts.values()) <= limit

    def test_fresh_processes_with_recalls(self, bell: bool, log: str, gate: Path) -> None:
        with LocalExecutor(2, doorbell=bell, max_tasks_per_child=150) as pool:
            bundled(pool, work.note_and_wait, os.devnull, 0, __file__)
            untils = [str(gate)] + [__file__] * 300
            futures = [pool.submit(work.note_and_wait, log, n, until) for n, until in enumerate(untils)]
            assert not wait(futures[1:], LIMIT).not_done
            gate.touch()
            assert futures[0].result(LIMIT) == 0
        assert sorted(map(int, work.notes(log))) == [*range(301)]

    def test_one_that_kills_its_worker(self, bell: bool) -> None:
        with LocalExecutor(2, doorbell=bell) as pool:
            bundled(pool, work.die_if, 0, -1)
            futures = [pool.submit(work.die_if, n, 1234) for n in range(3000)]
            errors = {n: future.exception(LIMIT) for n, future in enumerate(futures)}
            failed = {n: type(error) for n, error in errors.items() if error is not None}
            assert failed == {1234: WorkerLost}
            assert all(future.result(0) == n for n, future in enumerate(futures) if n != 1234)
            wait_until(lambda: pool.active_workers == 2, LIMIT, lambda: pool.active_workers)

    def test_ending_workers_amid_bundles(self, bell: bool) -> None:
        pool = LocalExecutor(2, doorbell=bell, keep="never")
        bundled(pool, work.same, 0)
        futures = [pool.submit(time.sleep, 0.01) for _ in range(1000)]
        wait_until(lambda: futures[0].done(), LIMIT)
        pool.kill_workers()
        pool.shutdown()
        assert not wait(futures, LIMIT).not_done
        kinds = {type(f.exception(0)) for f in futures if not f.cancelled()}
        assert kinds <= {type(None), TaskKilled}


def test_workers_ignore_the_terminals_interrupt(bell: bool, log: str, gate: Path) -> None:
    with LocalExecutor(1, doorbell=bell) as pool:
        future = pool.submit(work.note_and_wait, log, 3, str(gate))
        wait_until(lambda: work.notes(log) and future.pid, LIMIT)
        assert future.pid is not None
        assert os.getpgid(future.pid) != os.getpgid(0), "Ctrl-C reaches the driver alone"
        supervisor = psutil.Process(future.pid).ppid()
        assert os.getpgid(supervisor) != os.getpgid(0)
        os.kill(supervisor, signal.SIGINT)
        gate.touch()
        assert future.result(LIMIT) == 3
        assert pool.submit(abs, -2).result(LIMIT) == 2


def test_what_a_task_left_in_a_buffer_is_written_when_its_worker_ends(bell: bool, tmp_path: Path) -> None:
    text, binary = tmp_path / "text", tmp_path / "binary"
    with LocalExecutor(1, doorbell=bell) as pool:
        assert pool.submit(work.write_and_leave_open, str(text), str(binary)).result(LIMIT) == 2
        assert (text.read_text(), binary.read_bytes()) == ("", b""), "nobody has flushed it"
    assert (text.read_text(), binary.read_bytes()) == ("said", b"said")
