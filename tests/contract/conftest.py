"""Fixtures of the contract suite: which executor, pools, gates, and nothing left behind."""

from __future__ import annotations

import multiprocessing.spawn
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.contract import work
from tests.contract.checks import script_header
from tests.contract.executors import CASES, EVERYDAY, Case
from tests.pbs import DOORS, door, real_name
from tests.support import ScriptResult, check_no_process_left

HERE = Path(__file__).parent
TEST_TIMEOUT = 120
REAL_TEST_TIMEOUT = 300  # on a server that is not ours, what is submitted may take its time to start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test of this suite may hang."""
    seconds = REAL_TEST_TIMEOUT if real_name() else TEST_TIMEOUT
    for item in items:
        if HERE in Path(item.path).parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(seconds))
            # Forking a process that has threads is what ProcessPoolExecutor and some users do.
            item.add_marker(pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"))


@pytest.fixture(scope="session", autouse=True)
def spawn_without_main() -> Iterator[None]:
    """Spare ProcessPoolExecutor's spawned workers the import of pytest as their ``__main__``.

    It costs each of them 0.3 s, and nothing that this process submits belongs to ``__main__``.
    """
    original = multiprocessing.spawn.get_preparation_data

    def without_main(name: str) -> dict[str, Any]:
        return {k: v for k, v in original(name).items() if not k.startswith("init_main_from")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.spawn, "get_preparation_data", without_main)
        yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on the executors that ``--executors`` names."""
    if "case" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--executors")
        everyday = (real,) if (real := real_name()) else EVERYDAY
        names = {"everyday": everyday, "all": tuple(CASES)}.get(wanted) or wanted.split(",")
        metafunc.parametrize("case", names, indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """The executor under test; when a module is done with it, no process of it may be left."""
    found = CASES[request.param]
    with service(found, request):
        yield found
        check_no_process_left()


@contextmanager
def service(case: Case, request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the batch system running that an executor needs, its commands on PATH."""
    if case.service == "slurm":
        request.getfixturevalue("slurm")
    with door(case.service) if case.service in DOORS else nullcontext():
        yield


class SharedPool:
    """The pool that the tests of a module share; a new one only if a test broke the last."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.executor: Executor | None = None

    def get(self) -> Executor:
        if self.executor is not None:
            try:
                self.executor.submit(work.identity, None).result(timeout=30)
            except (BrokenProcessPool, RuntimeError, TimeoutError):
                self.close()
        if self.executor is None:
            self.executor = self.case.make(2)
        return self.executor

    def close(self) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.executor = None


@pytest.fixture(scope="module")
def shared_pool(case: Case) -> Iterator[SharedPool]:
    pool = SharedPool(case)
    yield pool
    pool.close()


@pytest.fixture
def executor(shared_pool: SharedPool) -> Executor:
    """A pool of two workers, shared by the module: a test must leave it working and idle."""
    return shared_pool.get()


@pytest.fixture
def make(case: Case) -> Iterator[Callable[..., Executor]]:
    """``make(max_workers=2, **options)``: a pool of the test's own, shut down when it is over."""
    made: list[Executor] = []

    def make_and_note(*args: Any, **options: Any) -> Executor:
        made.append(case.make(*args, **options))
        return made[-1]

    yield make_and_note
    for executor in made:
        executor.shutdown(wait=True, cancel_futures=True)


@pytest.fixture
def gates(make: object, tmp_path: Path) -> Iterator[Callable[[], work.Gate]]:
    """``gates()``: a new gate; all are opened before the pools are shut down, so that none hangs."""
    made: list[work.Gate] = []

    def new_gate() -> work.Gate:
        directory = tmp_path / f"gate{len(made)}"
        directory.mkdir()
        made.append(work.Gate(directory))
        return made[-1]

    yield new_gate
    for gate in made:
        gate.open()


@pytest.fixture
def gate(gates: Callable[[], work.Gate]) -> work.Gate:
    """A gate of the test's own; see `tests.contract.work.Gate`."""
    return gates()


@pytest.fixture
def script(case: Case, run: Callable[..., ScriptResult]) -> Callable[..., ScriptResult]:
    """``script(text, *arguments)``: run `text` as ``__main__``, with `make` for this executor."""

    def run_with_header(text: str, *arguments: str, **options: Any) -> ScriptResult:
        return run(script_header(case) + text, *arguments, **options)

    return run_with_header
