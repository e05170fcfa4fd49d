"""A function over events and stations, on executors that share nothing but their interface."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from clusterfutures import (
    LocalExecutor,
    OptionError,
    RemoteError,
    RunDirectoryError,
    SerialExecutor,
    WorkerLost,
)
from clusterfutures.pipeline import (
    Code,
    Failure,
    Outcome,
    PairFailed,
    Pipeline,
    PipelineChanged,
    Result,
    pairs,
)
from tests import pipeline_work as work
from tests.extras import needed
from tests.local_work import LONG, notes
from tests.support import ScriptResult, wait_until

EXECUTORS: dict[str, Callable[[], Executor]] = {
    "serial": SerialExecutor,
    "local": lambda: LocalExecutor(2, keep="never"),
    "processes": lambda: ProcessPoolExecutor(2, get_context("spawn")),
}

CODES = pairs(["EV1", "EV11"], ["XX.S1", "XX.S2", "XX.S3"])

VALUES = {"EV1": {"XX.S1": 1, "XX.S2": 2, "XX.S3": 3}, "EV11": {"XX.S1": 1, "XX.S2": 2, "XX.S3": 3}}

PLACES = [
    ("serial", False),
    ("local", False),
    ("processes", False),
    ("local", True),
    pytest.param(("serial", True), marks=pytest.mark.long),
    pytest.param(("processes", True), marks=pytest.mark.long),
]
"""Executors, and whether an event is a task there."""


@pytest.fixture(scope="module")
def executors() -> Iterator[dict[str, Executor]]:
    """One executor of each kind, for all tests that leave it as it was."""
    made = {kind: make() for kind, make in EXECUTORS.items()}
    yield made
    for executor in made.values():
        executor.shutdown()


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[0]}-{'nested' if place[1] else 'flat'}")
def place(request: pytest.FixtureRequest) -> Any:
    """One of PLACES."""
    return request.param


@pytest.fixture
def ex(place: tuple[str, bool], executors: dict[str, Executor]) -> Executor:
    """The executor of the place."""
    return executors[place[0]]


@pytest.fixture
def nested(place: tuple[str, bool]) -> bool:
    """Whether an event is a task there."""
    return place[1]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The pipeline's directory."""
    return tmp_path / "pipeline"


def run_on(kind: str, pipeline: Pipeline) -> Result:
    """Run it on a new executor."""
    with EXECUTORS[kind]() as executor:
        return pipeline.run(executor)


def run_here(pipeline: Pipeline) -> Result:
    """Run it in this process."""
    return run_on("serial", pipeline)


class TestEverywhere:
    """The same on every executor, flat and nested."""

    def test_values_by_event_and_station(self, ex: Executor, nested: bool, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, iter(CODES), directory, config={"scale": 2}, nested=nested)
        result = pipeline.run(ex)
        assert result == {event: {s: 2 * v for s, v in row.items()} for event, row in VALUES.items()}
        assert list(result.outcomes) == CODES
        assert not result.failures and not result.missing

    def test_a_failure_costs_its_pair_alone(
        self, ex: Executor, nested: bool, directory: Path, log: str
    ) -> None:
        config = {"log": log, "bad": ("XX.S2",)}
        pipeline = Pipeline(work.noted, CODES, directory, config=config, nested=nested, max_stations=2)
        result = pipeline.run(ex)
        failure = result["EV1"]["XX.S2"]
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, ValueError)
        assert str(failure.error) == "no data for EV1|XX.S2"
        assert "in noted" in failure.traceback
        assert failure.log == pipeline.log("EV1")
        assert "no data for EV1|XX.S2" in Path(failure.log).read_text()
        assert list(result.failures) == [Code("EV1", "XX.S2"), Code("EV11", "XX.S2")]
        assert result["EV1"]["XX.S1"] == 1 and result["EV11"]["XX.S3"] == 3

    def test_only_what_is_missing_or_failed_is_computed_again(
        self, ex: Executor, nested: bool, directory: Path, log: str
    ) -> None:
        config = {"log": log, "bad": ("XX.S2",)}
        Pipeline(work.noted, CODES, directory, config=config, nested=nested).run(ex)
        more = [*CODES, Code("EV2", "XX.S1")]
        before = len(notes(log))
        Path(f"{log}.good").touch()
        result = Pipeline(work.noted, more, directory, config=config, nested=nested).run(ex)
        assert sorted(notes(log)[before:]) == ["EV11|XX.S2", "EV1|XX.S2", "EV2|XX.S1"]
        assert result == {**VALUES, "EV2": {"XX.S1": 1}}

    def test_a_set_up_is_made_once_for_an_event(
        self, ex: Executor, nested: bool, directory: Path, log: str
    ) -> None:
        setup = work.SetUp(f"{log}.setup")
        pipeline = Pipeline(
            work.noted_with_setup, CODES, directory, setup=setup, config={"log": log}, nested=nested
        )
        result = pipeline.run(ex)
        assert sorted(notes(f"{log}.setup")) == ["EV1", "EV11"]
        assert result["EV11"] == {station: ["EV11", station] for station in VALUES["EV11"]}
        assert "EV1 tests.pipeline: the set-up of EV1" in Path(pipeline.log("EV1")).read_text()
        assert not list(directory.rglob("setup-*"))

    def test_a_set_up_that_fails(self, ex: Executor, nested: bool, directory: Path, log: str) -> None:
        setup = work.SetUp(f"{log}.setup", ("EV1",))
        pipeline = Pipeline(
            work.noted_with_setup, CODES, directory, setup=setup, config={"log": log}, nested=nested
        )
        result = pipeline.run(ex)
        assert [type(failure.error) for failure in result.failures.values()] == 3 * [KeyError]
        assert "__call__" in result["EV1"]["XX.S1"].traceback
        assert sorted(notes(log)) == ["EV11|XX.S1", "EV11|XX.S2", "EV11|XX.S3"]
        assert "the set-up failed" in Path(pipeline.log("EV1")).read_text()

    def test_the_records_of_a_pair_stay_together(self, ex: Executor, nested: bool, directory: Path) -> None:
        pipeline = Pipeline(
            work.talk,
            CODES,
            directory,
            config={"lines": 20},
            nested=nested,
            max_stations=2,
            log_format="%(levelname)s %(code)s %(message)s",
            separator=" at ",
        )
        pipeline.run(ex)
        lines = Path(pipeline.log("EV1")).read_text().splitlines()
        assert len(lines) == 3 * 21
        for first in range(0, 63, 21):
            code = re.fullmatch(r"INFO (EV1 at XX\.S\d) line 0", lines[first])
            assert code is not None
            assert lines[first : first + 20] == [f"INFO {code[1]} line {n}" for n in range(20)]
            assert lines[first + 20].startswith(f"INFO {code[1]} took ")

    def test_to_stop_at_the_first_failure(
        self, ex: Executor, nested: bool, directory: Path, log: str
    ) -> None:
        config = {"log": log, "bad": ("XX.S2",)}
        pipeline = Pipeline(
            work.noted,
            CODES,
            directory,
            config=config,
            nested=nested,
            on_error="raise",
            max_events=1,
            max_stations=1,
        )
        with pytest.raises(PairFailed, match=r"EV1\|XX.S2 failed: ValueError") as caught:
            pipeline.run(ex)
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.code == Code("EV1", "XX.S2")
        assert caught.value.failure.log == pipeline.log("EV1")
        assert "EV11|XX.S3" not in notes(log)
        assert pipeline.result()["EV1"]["XX.S1"] == 1

    @pytest.mark.parametrize(
        ("way", "error"),
        [
            ("value", TypeError),
            ("error", work.Awkward),
            ("local error", RemoteError),
            ("exit", SystemExit),
        ],
    )
    @pytest.mark.parametrize("kind", EXECUTORS)
    def test_what_is_hard_to_carry(
        self, executors: dict[str, Executor], kind: str, directory: Path, way: str, error: type
    ) -> None:
        pipeline = Pipeline(work.odd, CODES[:2], directory, config={"way": way})
        result = pipeline.run(executors[kind])
        assert [type(failure.error) for failure in result.failures.values()] == [error, error]
        assert [type(failure.error) for failure in pipeline.result().failures.values()] == [error, error]
        assert all("Traceback" in failure.traceback for failure in result.failures.values())


class TestLostWorkers:
    """A pair that ends its process."""

    @pytest.mark.parametrize("nested", [False, True])
    def test_it_alone_fails(self, nested: bool, directory: Path, log: str) -> None:
        config = {"log": log, "bad": "XX.S2"}
        pipeline = Pipeline(work.fall, CODES, directory, config=config, nested=nested, max_stations=2)
        result = run_on("local", pipeline)
        assert list(result.failures) == [Code("EV1", "XX.S2"), Code("EV11", "XX.S2")]
        error = result["EV1"]["XX.S2"].error
        assert isinstance(error, WorkerLost) and error.exit_code == 3
        assert "EV1|XX.S2 clusterfutures.pipeline: lost: WorkerLost" in Path(pipeline.log("EV1")).read_text()
        assert isinstance(pipeline.result()["EV1"]["XX.S2"].error, WorkerLost)

    def test_in_a_set_up(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES, directory, setup=work.fall_at_once)
        result = run_on("local", pipeline)
        assert {type(failure.error) for failure in result.failures.values()} == {WorkerLost}
        assert len(result.failures) == 6
        assert "EV1 clusterfutures.pipeline: lost: WorkerLost" in Path(pipeline.log("EV1")).read_text()

    def test_what_an_event_had_done_is_there(self, directory: Path, log: str) -> None:
        config = {"log": log, "bad": "XX.S2"}
        pipeline = Pipeline(work.fall, CODES, directory, config=config, nested=True, max_stations=1)
        result = run_on("local", pipeline)
        assert result["EV1"]["XX.S1"] == 1
        assert [code.station for code in result.failures] == 2 * ["XX.S2", "XX.S3"]
        Path(f"{log}.good").touch()
        assert run_on("local", pipeline) == VALUES

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_pool_that_breaks(self, nested: bool, directory: Path, log: str) -> None:
        config = {"log": log, "bad": "XX.S2"}
        pipeline = Pipeline(work.fall, CODES, directory, config=config, nested=nested, max_stations=1)
        result = run_on("processes", pipeline)
        assert len(result.outcomes) == 6
        assert isinstance(result["EV1"]["XX.S2"].error, BrokenExecutor)
        Path(f"{log}.good").touch()
        assert run_on("processes", pipeline) == VALUES


class TestChanges:
    """Results of another function or configuration are never taken in silence."""

    def test_a_configuration(self, directory: Path) -> None:
        first = Pipeline(work.misfit, CODES, directory, config={"scale": 1})
        assert run_here(first) == VALUES
        with pytest.raises(PipelineChanged, match=r"config\['scale'\]") as caught:
            run_here(Pipeline(work.misfit, CODES, directory, config={"scale": 2}))
        assert caught.value.changes == ["config['scale']"]
        assert run_here(first) == first.result() == VALUES

    def test_a_function(self, directory: Path, log: str) -> None:
        run_here(Pipeline(work.misfit, CODES, directory))
        with pytest.raises(PipelineChanged, match="the function") as caught:
            run_here(Pipeline(work.noted, CODES, directory, config={"log": log}))
        assert "tests.pipeline_work.misfit" in caught.value.changes

    def test_all_is_computed_anew(self, directory: Path) -> None:
        run_here(Pipeline(work.misfit, CODES, directory))
        other = Pipeline(work.misfit, CODES, directory, config={"scale": 2}, on_change="recompute")
        assert run_here(other)["EV1"] == {"XX.S1": 2, "XX.S2": 4, "XX.S3": 6}
        assert other.result()["EV1"] == {"XX.S1": 2, "XX.S2": 4, "XX.S3": 6}

    def test_what_there_is_stays(self, directory: Path) -> None:
        run_here(Pipeline(work.misfit, CODES[:2], directory))
        other = Pipeline(work.misfit, CODES[:3], directory, config={"scale": 2}, on_change="keep")
        assert run_here(other)["EV1"] == {"XX.S1": 1, "XX.S2": 2, "XX.S3": 6}
        # From now on that is the computation that the directory is of.
        same = Pipeline(work.misfit, CODES[:3], directory, config={"scale": 2})
        assert run_here(same)["EV1"] == {"XX.S1": 1, "XX.S2": 2, "XX.S3": 6}

    def test_a_late_result_of_a_computation_that_counts_no_more(self, directory: Path) -> None:
        run_here(Pipeline(work.misfit, CODES[:1], directory))
        late = next(directory.rglob("*.result")).read_bytes()
        other = Pipeline(work.misfit, CODES[:1], directory, config={"scale": 2}, on_change="recompute")
        run_here(other)
        next(directory.rglob("*.result")).write_bytes(late)
        assert other.result().missing == CODES[:1]


class TestDirectory:
    """What is kept, and where."""

    def test_names_that_are_no_file_names(self, directory: Path) -> None:
        names = [".", "..", "smi:local/1", "a\nb", "x" * 300, "-rf", "ü %2F"]
        codes = pairs(names, [f"{name}1" for name in names])
        pipeline = Pipeline(work.misfit, codes, directory)
        assert len(run_here(pipeline).outcomes) == len(codes)
        assert pipeline.result() == {name: {code.station: 1 for code in codes[:7]} for name in names}
        assert sorted(os.listdir(directory.parent)) == ["pipeline"]
        assert sorted(os.listdir(directory)) == ["events", "logs", "pipeline.json", "running.lock"]

    def test_a_hostile_path(self, hostile_tmp_path: Path) -> None:
        assert run_on("local", Pipeline(work.misfit, CODES, hostile_tmp_path / "p")) == VALUES

    def test_what_there_is_by_now(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES, directory)
        assert pipeline.result() == {}
        assert pipeline.result().missing == CODES
        run_here(Pipeline(work.misfit, CODES[:2], directory))
        assert pipeline.result() == {"EV1": {"XX.S1": 1, "XX.S2": 2}}
        assert pipeline.result().missing == CODES[2:]

    def test_a_file_that_is_not_whole(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES[:3], directory)
        run_here(pipeline)
        files = sorted(directory.rglob("*.result"))
        files[0].write_bytes(files[0].read_bytes()[:-1])
        files[1].write_bytes(b"")
        files[2].rename(files[1])
        assert pipeline.result().missing == CODES[:3]
        assert run_here(pipeline) == {"EV1": VALUES["EV1"]}

    def test_one_that_others_may_write_to(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES, directory)
        run_here(pipeline)
        assert all(path.stat().st_mode & 0o077 == 0 for path in directory.glob("events/*"))
        directory.chmod(0o770)
        with pytest.raises(RunDirectoryError, match="writable for nobody else"):
            run_here(pipeline)
        with pytest.raises(RunDirectoryError, match="writable for nobody else"):
            pipeline.result()

    def test_one_that_is_something_else(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "pipeline.json").write_text(json.dumps([1, 2]))
        with pytest.raises(RunDirectoryError, match="is not a pipeline's"):
            run_here(Pipeline(work.misfit, CODES, directory))

    def test_a_value_whose_class_is_gone(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gone = type("Gone", (), {"__module__": work.__name__, "__qualname__": "Gone"})
        monkeypatch.setattr(work, "Gone", gone, raising=False)
        pipeline = Pipeline(lambda code: gone(), CODES[:1], directory)
        assert isinstance(run_here(pipeline)["EV1"]["XX.S1"], gone)
        monkeypatch.delattr(work, "Gone")
        assert isinstance(pipeline.result()["EV1"]["XX.S1"].error, AttributeError)


class Held(Executor):
    """An executor whose tasks end when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.names: list[str] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Take it down."""
        future: Future[Any] = Future()
        subject = args[0]
        self.names.append(subject if isinstance(subject, str) else " ".join(map(str, subject)))
        self.calls.append((future, partial(fn, *args, **kwargs)))
        return future

    def end_next(self) -> None:
        """End the task that was submitted first of those that are not over."""
        future, call = self.calls.pop(0)
        future.set_running_or_notify_cancel()
        future.set_result(call())


class TestLimits:
    """How much is under way at a time."""

    @staticmethod
    def most(pipeline: Pipeline) -> tuple[list[str], int]:
        """What was submitted, and the most at a time, while tasks end one by one."""
        ex, most, results = Held(), 0, list[Result]()
        thread = threading.Thread(target=lambda: results.append(pipeline.run(ex)))
        thread.start()
        while thread.is_alive():
            most = max(most, len(ex.calls))
            if ex.calls:
                ex.end_next()
            else:
                thread.join(0.01)
        assert len(results[0].outcomes) == len(pipeline.codes)
        return ex.names, most

    def test_pairs_of_an_event(self, directory: Path) -> None:
        names, most = self.most(Pipeline(work.misfit, CODES, directory, max_events=1, max_stations=1))
        assert names == [str(code) for code in CODES]
        assert most == 1

    def test_events(self, directory: Path) -> None:
        names, most = self.most(Pipeline(work.misfit, CODES, directory, max_events=1))
        assert names == [str(code) for code in CODES]
        assert most <= 3

    def test_whole_events(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES, directory, nested=True, max_events=1, max_stations=1)
        names, most = self.most(pipeline)
        assert names == [" ".join(map(str, CODES[:3])), " ".join(map(str, CODES[3:]))]
        assert most == 1

    def test_the_set_up_comes_first(self, directory: Path, log: str) -> None:
        pipeline = Pipeline(
            work.noted_with_setup,
            CODES,
            directory,
            setup=work.SetUp(log),
            config={"log": log},
            max_events=1,
        )
        names, _ = self.most(pipeline)
        codes = [str(code) for code in CODES]
        assert names == ["EV1", *codes[:3], "EV11", *codes[3:]]

    def test_none(self, directory: Path) -> None:
        ex = Held()
        thread = threading.Thread(target=Pipeline(work.misfit, CODES, directory).run, args=(ex,))
        thread.start()
        wait_until(lambda: len(ex.names) == 6)
        for _ in CODES:
            ex.end_next()
        thread.join()


class TestEndings:
    """However a run ends, what was computed is kept."""

    @pytest.mark.parametrize("kind", ["serial", "local"])
    def test_interrupt(
        self, run: Callable[..., ScriptResult], tmp_path: Path, directory: Path, log: str, kind: str
    ) -> None:
        text = (
            "import sys\n"
            "from clusterfutures import LocalExecutor, SerialExecutor\n"
            "from clusterfutures.pipeline import Pipeline, pairs\n"
            "from tests import pipeline_work as work\n"
            "if __name__ == '__main__':\n"
            "    kind, directory, log, gate = sys.argv[1:]\n"
            "    ex = LocalExecutor(2, keep='never') if kind == 'local' else SerialExecutor()\n"
            "    codes = pairs(['EV1'], [f'XX.S{n}0' for n in range(5)] + [f'XX.S{n}1' for n in range(20)])\n"
            "    pipeline = Pipeline(work.hold, codes, directory, config={'log': log, 'gate': gate})\n"
            "    with ex:\n"
            "        print(len(pipeline.run(ex).outcomes))\n"
        )
        arguments = (kind, str(directory), log, str(tmp_path / "gate"))

        def five_are_done_and_the_next_waits() -> bool:
            """Not sooner: a KeyboardInterrupt that comes while Python finalizes a lock is lost in it."""
            return len(list(directory.rglob("*.result"))) == 5 and len(notes(log)) > 5

        done = run(text, *arguments, interrupt_when=five_are_done_and_the_next_waits)
        assert done.returncode != 0
        assert "KeyboardInterrupt" in done.stderr
        before = notes(log)
        assert len(before) < 25
        (tmp_path / "gate").touch()
        assert run(text, *arguments).check().stdout == "25\n"
        assert not [name for name in notes(log)[len(before) :] if name.endswith("0")]

    def test_a_second_run_waits_for_the_first(self, directory: Path, log: str) -> None:
        pipeline = Pipeline(work.noted, CODES, directory, config={"log": log})
        ex = Held()
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(pipeline.run, ex)
            wait_until(lambda: len(ex.calls) == 6)
            second = threads.submit(run_here, pipeline)
            for _ in CODES:
                ex.end_next()
            assert first.result() == second.result() == VALUES
        assert sorted(notes(log)) == sorted(map(str, CODES))

    def test_tasks_that_wait_are_cancelled(self, directory: Path) -> None:
        class Refusing(Held):
            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
                if len(self.calls) == 2:
                    raise RuntimeError("no more")
                return super().submit(fn, *args, **kwargs)

        ex = Refusing()
        with pytest.raises(RuntimeError, match="no more"):
            Pipeline(work.misfit, CODES, directory).run(ex)
        assert [future.cancelled() for future, _ in ex.calls] == [True, True]

    def test_a_task_that_somebody_cancels(self, directory: Path) -> None:
        class Cancelling(SerialExecutor):
            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
                future: Future[Any] = Future()
                future.cancel()
                return future

        result = Pipeline(work.misfit, CODES, directory).run(Cancelling())
        assert {type(failure.error) for failure in result.failures.values()} == {CancelledError}


class TestMain:
    """Functions and classes of the program itself."""

    @pytest.mark.parametrize(
        ("kind", "nested"),
        [
            ("serial", ""),
            ("processes", ""),
            ("local", ""),
            ("local", "nested"),
            pytest.param("serial", "nested", marks=pytest.mark.long),
            pytest.param("processes", "nested", marks=pytest.mark.long),
        ],
    )
    def test_classes_stay_what_they_are(
        self, run: Callable[..., ScriptResult], tmp_path: Path, kind: str, nested: str
    ) -> None:
        text = (
            "import sys\n"
            "from concurrent.futures import ProcessPoolExecutor\n"
            "from typing import NamedTuple\n"
            "from clusterfutures import LocalExecutor, SerialExecutor\n"
            "from clusterfutures.pipeline import Pipeline, pairs\n"
            "class Misfit(NamedTuple):\n"
            "    value: float\n"
            "class NoData(Exception):\n"
            "    pass\n"
            "SCALE = 2\n"
            "def setup(event):\n"
            "    return Misfit(SCALE)\n"
            "def misfit(code, shared):\n"
            "    if code.station == 'XX.S2':\n"
            "        raise NoData(code.station)\n"
            "    return Misfit(shared.value)\n"
            "MAKE = {'serial': SerialExecutor, 'processes': lambda: ProcessPoolExecutor(2),\n"
            "        'local': lambda: LocalExecutor(2, keep='never')}\n"
            "if __name__ == '__main__':\n"
            "    kind, nested, directory = sys.argv[1:]\n"
            "    codes = pairs(['EV1', 'EV2'], ['XX.S1', 'XX.S2'])\n"
            "    options = {'nested': bool(nested), 'max_stations': 2}\n"
            "    pipeline = Pipeline(misfit, codes, directory, setup=setup, **options)\n"
            "    with MAKE[kind]() as ex:\n"
            "        pipeline.run(ex)\n"
            "        result = pipeline.run(ex)\n"
            "    for row in result.values():\n"
            "        assert type(row['XX.S1']) is Misfit, type(row['XX.S1'])\n"
            "        assert type(row['XX.S2'].error) is NoData, repr(row['XX.S2'].error)\n"
            "    print(result['EV1']['XX.S1'])\n"
        )
        done = run(text, kind, nested, str(tmp_path / "pipeline")).check()
        assert done.stdout == "Misfit(value=2)\n"

    def test_closures(self, directory: Path) -> None:
        offset = 10
        pipeline = Pipeline(lambda code: work.misfit(code) + offset, CODES[:1], directory)
        assert run_on("local", pipeline) == {"EV1": {"XX.S1": 11}}


class TestLogs:
    """Level and format are those of logging."""

    def test_level(self, directory: Path) -> None:
        pipeline = Pipeline(work.talk, CODES[:1], directory, config={"lines": 1}, log_level="DEBUG")
        level = logging.getLogger().level
        run_here(pipeline)
        text = Path(pipeline.log("EV1")).read_text()
        assert "DEBUG   EV1|XX.S1 tests.pipeline: detail 0\n" in text
        assert logging.getLogger().level == level

    def test_nothing_to_log(self, directory: Path) -> None:
        pipeline = Pipeline(work.misfit, CODES[:1], directory, log_level=logging.ERROR)
        run_here(pipeline)
        assert not os.path.exists(pipeline.log("EV1"))

    def test_a_thread_that_is_over_silences_no_other(self, directory: Path) -> None:
        inside, over = threading.Event(), threading.Event()
        level = logging.getLogger().level

        def one(code: Code) -> None:
            if code.event == "EV1":
                assert inside.wait(LONG)
                return
            inside.set()
            assert over.wait(LONG)
            work.talk(code, 1)

        pipeline = Pipeline(one, pairs(["EV1", "EV2"], ["XX.S1"]), directory)
        with ThreadPoolExecutor(2) as threads, ThreadPoolExecutor(1) as main:
            result = main.submit(pipeline.run, threads)
            wait_until(lambda: os.path.exists(pipeline.log("EV1")))
            over.set()
            assert not result.result().failures
        assert "line 0" in Path(pipeline.log("EV2")).read_text()
        assert logging.getLogger().level == level

    def test_threads_have_their_own(self, directory: Path) -> None:
        codes = pairs(["EV1", "EV2"], ["XX.S1"])
        barrier = threading.Barrier(2)
        pipeline = Pipeline(lambda code: work.meet_and_talk(code, barrier), codes, directory)
        with ThreadPoolExecutor(2) as threads:
            pipeline.run(threads)
        for name in ("EV1", "EV2"):
            lines = Path(pipeline.log(name)).read_text().splitlines()
            assert [line.split()[3] for line in lines] == 2 * [f"{name}|XX.S1"]
            assert lines[0].endswith(f"of {name}|XX.S1")


class TestOptions:
    """What is wrong is refused before anything runs."""

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"max_events": 0}, "max_events"),
            ({"max_stations": -1}, "max_stations"),
            ({"on_change": "ignore"}, "on_change must be one of 'raise', 'recompute', 'keep'"),
            ({"on_error": "stop"}, "on_error must be one of"),
            ({"log_level": "LOUD"}, "as in logging"),
            ({"log_format": "no field"}, "as in logging"),
            ({"separator": "\\"}, "no backslash"),
        ],
    )
    def test_refused(self, directory: Path, options: dict[str, Any], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            Pipeline(work.misfit, CODES, directory, **options)
        assert not directory.exists()

    def test_their_errors_are_ours(self, directory: Path) -> None:
        with pytest.raises(OptionError):
            Pipeline(work.misfit, CODES, directory, on_error="stop")

    def test_what_is_no_code(self, directory: Path) -> None:
        with pytest.raises(TypeError, match=r"Code\(event, station\), not as 'EV1\|XX.S1'"):
            Pipeline(work.misfit, ["EV1|XX.S1"], directory)  # type: ignore[list-item]

    def test_no_pairs(self, directory: Path) -> None:
        assert run_here(Pipeline(work.misfit, [], directory)) == {}


class FakeBar:
    """What is used of tqdm's bar."""

    made: list[FakeBar]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.count = options["initial"]
        self.postfix = ""
        self.closed = False
        self.made.append(self)

    def update(self, number: int) -> None:
        """So many more."""
        self.count += number

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        """What stands behind the bar."""
        self.postfix = text

    def refresh(self) -> None:
        """Draw it."""

    def close(self) -> None:
        """The end."""
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[FakeBar]:
    """The bars that were made, by a tqdm that is there."""
    FakeBar.made = []
    module = ModuleType("tqdm")
    module.tqdm = FakeBar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tqdm", module)
    return FakeBar.made


class TestProgress:
    """A bar on a terminal, and silence elsewhere."""

    def test_what_it_shows(self, bars: list[FakeBar], directory: Path, log: str) -> None:
        run_here(Pipeline(work.noted, CODES[:2], directory, config={"log": log, "bad": ("XX.S3",)}))
        run_here(
            Pipeline(work.noted, CODES, directory, config={"log": log, "bad": ("XX.S3",)}, progress=True)
        )
        [bar] = bars
        assert (bar.options["total"], bar.options["initial"], bar.count) == (6, 2, 6)
        assert bar.postfix == "2 failed, 0 running"
        assert bar.closed

    def test_quiet_without_a_terminal(
        self, bars: list[FakeBar], directory: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_here(Pipeline(work.misfit, CODES, directory))
        run_here(Pipeline(work.misfit, CODES, directory, progress=False))
        assert bars == []
        assert capfd.readouterr() == ("", "")

    def test_on_a_terminal(
        self, bars: list[FakeBar], directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        run_here(Pipeline(work.misfit, CODES, directory))
        assert [bar.count for bar in bars] == [6]

    def test_what_runs_is_counted_while_nothing_comes_back(
        self, bars: list[FakeBar], directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("clusterfutures.pipeline.run.REFRESH", 0.01)
        ex = Held()
        pipeline = Pipeline(work.misfit, CODES[:2], directory, progress=True)
        thread = threading.Thread(target=pipeline.run, args=(ex,))
        thread.start()
        wait_until(lambda: len(ex.calls) == 2)
        ex.calls[0][0].set_running_or_notify_cancel()
        wait_until(lambda: bars[0].postfix == "0 failed, 1 running", describe=lambda: bars[0].postfix)
        for future, call in ex.calls:
            future.set_result(call())
        thread.join()
        assert bars[0].count == 2

    def test_the_pairs_of_an_event_that_is_a_task(
        self, bars: list[FakeBar], directory: Path, log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("clusterfutures.pipeline.run.REFRESH", 0.01)
        monkeypatch.setattr("clusterfutures.pipeline.progress.INTERVAL", 0.0)
        gate = tmp_path / "gate"
        pipeline = Pipeline(
            work.hold,
            pairs(["EV1", "EV11"], ["XX.S0", "XX.S10", "XX.S3"]),
            directory,
            config={"log": log, "gate": str(gate)},
            nested=True,
            max_stations=1,  # in the thread of the event
            progress=True,
        )
        with ThreadPoolExecutor(2) as ex, ThreadPoolExecutor(1) as driver:
            run = driver.submit(pipeline.run, ex)
            wait_until(lambda: bars and bars[0].count == 4, describe=lambda: bars and bars[0].count)
            assert not run.done()
            gate.touch()
            assert not run.result().failures
        assert [bar.count for bar in bars] == [6]

    def test_without_tqdm(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "tqdm", None)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with caplog.at_level(logging.INFO, "clusterfutures"):
            run_here(Pipeline(work.misfit, CODES, directory))
        assert "pip install clusterfutures[progress]" in caplog.text
        with pytest.raises(ImportError):
            run_here(Pipeline(work.misfit, CODES, directory, progress=True))

    def test_the_real_one(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("tqdm")
        run_here(Pipeline(work.misfit, CODES, directory, progress=True))
        assert re.search(r"6/6 .*0 failed, 0 running", capfd.readouterr().err)


class Both(NamedTuple):
    """A value with names."""

    time: float
    host: str


class TestReport:
    """Numbers and tables."""

    @pytest.fixture
    def result(self) -> Result:
        return Result(
            [
                Outcome(Code("1", "XX.A"), 0.5, 1.0, "n1"),
                Outcome(Code("1", "XX.B"), {"time": 1, "error": 2}, 2.0, "n2"),
                Outcome(Code("2", "XX.A"), Both(3.0, "h"), 0.0, "n1"),
                *(
                    Outcome(Code("3", f"XX.{name}"), Failure(ValueError(name), "text", "3.log"), 0.5, "n1")
                    for name in "ABCDEFG"
                ),
                Outcome(Code("4", "XX.A"), Failure(KeyError("k"), "text", "4.log"), 0.0, ""),
            ],
            [Code("5", "XX.A")],
        )

    def test_summary(self, result: Result) -> None:
        assert result.summary().splitlines() == [
            "12 pairs of 5 events: 3 done, 8 failed, 1 missing; 6.5 s of work",
            "ValueError in 3|XX.A, 3|XX.B, 3|XX.C, 3|XX.D, 3|XX.E and 2 more; see 3.log",
            "KeyError in 4|XX.A; see 4.log",
        ]
        assert Result([]).summary() == "0 pairs of 0 events: 0 done, 0 failed, 0 missing; 0.0 s of work"

    def test_table(self, result: Result) -> None:
        rows = result.table()
        assert rows[0] == {
            "event": "1", "station": "XX.A", "value": 0.5, "error": None, "seconds": 1.0, "host": "n1",
        }  # fmt: skip
        assert (rows[1]["time"], rows[1]["error_"], rows[1]["error"]) == (1, 2, None)
        assert (rows[2]["time"], rows[2]["host_"], rows[2]["host"]) == (3.0, "h", "n1")
        assert rows[3]["error"] == "ValueError: A"

    def test_csv(self, result: Result, tmp_path: Path) -> None:
        result.write_csv(tmp_path / "table.csv")
        lines = (tmp_path / "table.csv").read_text().splitlines()
        assert lines[0] == "event,station,value,error,seconds,host,time,error_,host_"
        assert lines[1] == "1,XX.A,0.5,,1.0,n1,,,"
        assert len(lines) == 12
        Result([]).write_csv(tmp_path / "empty.csv")
        assert (tmp_path / "empty.csv").read_text() == "event,station,error,seconds,host\n"

    @pytest.mark.filterwarnings("default")  # pandas has warnings of its own
    def test_dataframe(self, result: Result) -> None:
        needed("pandas")
        frame = result.dataframe()
        assert len(frame) == 11
        assert list(frame["event"][:3]) == ["1", "1", "2"]

    def test_it_travels(self, result: Result) -> None:
        copy = pickle.loads(pickle.dumps(result))
        assert type(copy) is Result
        assert copy.summary() == result.summary()
        assert copy["1"] == result["1"]

    def test_no_pandas(self, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError):
            result.dataframe()
