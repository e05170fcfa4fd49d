"""A worker as the driver sees it: real processes, and a driver's side made of logs written by hand.

:class:`Site` is that driver's side; the tests of the supervisor use it, too.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clusterfutures import bootstrap, payload
from clusterfutures.doorbell import Doorbell
from clusterfutures.errors import OutcomeNotWritten, TaskPicklingError
from clusterfutures.futures import FutureSink
from clusterfutures.journal import Fresh, Journal, Policy
from clusterfutures.link import GREW, Lease
from clusterfutures.logs import Location, LogReader, LogWriter, frame
from clusterfutures.records import (
    ASSIGN,
    BROKEN,
    CALL,
    ENDED,
    GAVE_UP,
    ITEM,
    KILL,
    LEAVE,
    NUMBER,
    OUTCOME,
    OUTCOME_HEAD,
    OWN,
    RAISED,
    READY,
    RECALL,
    RETIRED,
    RETURNED,
    SECONDS,
    STAR,
    STARTED,
    STOP,
    TIME_LEFT,
    WANT,
    Assign,
    Cost,
    Ended,
    Kill,
    Ready,
    Started,
    bind,
)
from clusterfutures.specification import Specification
from clusterfutures.spool import RunDirectory, WorkerRef, publish
from clusterfutures.wire import Record
from clusterfutures.worker import RESERVE, Marker
from tests.support import REPOSITORY, wait_until

SUPERVISOR = WorkerRef(0)
WORKER = WorkerRef(0, 0, 0, 0, 0)

TASKS = '''
import atexit, os, resource, signal, subprocess, sys, threading, time

def double(number):
    return 2 * number

def add(first, second):
    return first + second

def pid():
    return os.getpid()

def fail(kind):
    raise kind("as asked")

def wait_for(path):
    """Say that it runs, wait until it is told to go on."""
    with open(path + ".running", "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(path):
        time.sleep(0.002)
    return path

def catches(path, number):
    """Say when a signal has come."""
    def caught(*_):
        with open(path + ".caught", "a") as file:
            file.write("caught\\n")
    signal.signal(number, caught)
    return wait_for(path)

def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return wait_for(path)

def with_child(path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path + ".child", "w") as file:
        file.write(str(child.pid))
    return wait_for(path)

def die(number):
    os.kill(os.getpid(), number)
    time.sleep(60)

def leave(code):
    os._exit(code)

def lock(_):
    return threading.Lock()

def note(path, word):
    with open(path, "a") as file:
        file.write(word + "\\n")

def ends_later(path, gate):
    """Leave work for the end of the process: a thread that is waited for, and then an exit handler."""
    atexit.register(note, path, "handler")
    atexit.register(fail, LookupError)
    threading.Thread(target=lambda: note(path, "thread at " + wait_for(gate))).start()
    sys.stdout = open(path + ".out", "w")
    print("not flushed")

def say(text):
    print(text)
    print(text.upper(), file=sys.stderr)

def forks(_):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    return "the child's"

def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def limit_files_until(path):
    """There is room for a number, and for nothing else, until it is told to go on."""
    limit_files(10)
    wait_for(path)
    limit_files(resource.RLIM_INFINITY)
    wait_for(path + ".then")

def large(size):
    return b"x" * size

def start(path, bad=()):
    """An initializer that leaves a line each time, and dies at the `bad` ones of them (from 1)."""
    with open(path, "a") as file:
        file.write("started\\n")
    with open(path) as file:
        if len(file.readlines()) in bad:
            os._exit(3)

def context(_):
    import clusterfutures
    found = clusterfutures.current_task()
    return found.task, found.attempt, found.worker
'''


class Site:
    """A run directory with one job, its supervisor process, and everything that a driver does by log."""

    def __init__(self, directory: Path, tasks: ModuleType, shared: bool, bell: bool) -> None:
        self.directory, self.tasks = directory, tasks
        self.run = RunDirectory(str(directory / "run"), shared=shared)
        os.mkdir(self.run.path, 0o700)
        os.makedirs(self.run.job(0), 0o700)
        publish(os.path.join(self.run.path, "key"), bytes(32), sync=False)
        self.bell = Doorbell(bytes(32), host="127.0.0.1") if bell else None
        self.leased = 0
        self.lease()
        self.journal = Journal(self.run)
        self.next = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.wrapper: list[str] = []  # words before the supervisor's command
        self.said: dict[WorkerRef, list[tuple[int, bytes]]] = {}
        self._outboxes: dict[WorkerRef, LogReader] = {}
        self._inboxes: dict[WorkerRef, LogWriter] = {}
        self.specification = Specification(
            run_id="run",
            shared=shared,
            workers=1,
            max_tasks=0,
            initializer=None,
            sys_path=[str(directory), str(REPOSITORY), *sys.path],
            orphan="drain",
            orphan_timeout=600.0,
        )

    def lease(self) -> None:
        self.leased += 1
        Lease(self.leased, self.bell.address if self.bell is not None else "").write(self.run)

    @contextmanager
    def with_driver(self) -> Iterator[None]:
        """A driver renews its lease, until it is gone."""
        gone = threading.Event()

        def renew() -> None:
            while not gone.wait(0.05):
                self.lease()

        driver = threading.Thread(target=renew)
        driver.start()
        try:
            yield
        finally:
            gone.set()
            driver.join()

    def start(self, **changes: Any) -> None:
        """Start the supervisor, as the scheduler would."""
        self.specification._replace(**changes).write(self.run, 0)
        self.journal.publish()
        version = "{}.{}".format(*sys.version_info[:2])
        command = [sys.executable, bootstrap.__file__, version, self.run.path, "0", "0", "0", ""]
        command = [*self.wrapper, *command]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def initializer(self, function: Callable[..., Any], *args: Any) -> tuple[Location, Location]:
        return self.journal.function(function).place, self.journal.call(args, {})

    # -- telling ----------------------------------------------------------------------------------

    def tell(self, ref: WorkerRef, *frames: bytes) -> None:
        if ref not in self._inboxes:
            self.run.make_home(ref)
            self._inboxes[ref] = self.run.inbox_writer(ref)
        self._inboxes[ref].write(b"".join(frames))
        self._inboxes[ref].publish()
        self._ring()

    def _ring(self) -> None:
        if self.bell is not None:
            for event in self.bell.poll(0):
                self._lines = {*getattr(self, "_lines", ()), event.line}
            for line in getattr(self, "_lines", ()):
                line.ring(Record(GREW, 0, 0, 0))

    def write(self, function: Callable[..., Any], *items: Any, style: int = ITEM) -> tuple[Location, int]:
        """Write tasks into the journal; returns their place and the number of the first."""
        if style == CALL:
            bodies = [payload.dumps_call(args, {}, self.run.keep_buffer) for args in items]
        else:
            bodies = [payload.dumps_item(item, self.run.keep_buffer) for item in items]
        return self.write_bodies(function, bodies, style)

    def write_bodies(
        self, function: Callable[..., Any], bodies: list[bytes], style: int
    ) -> tuple[Location, int]:
        first, self.next = self.next, self.next + len(bodies)
        known = self.journal.function(function)
        [run] = self.journal.write([Fresh(first, style, known, bodies, FutureSink(), Policy())])
        self.journal.publish()
        return run.place, first

    def assign(self, function: Callable[..., Any], *items: Any, **options: Any) -> range:
        """Have the worker run `function` on each item; returns the tasks' numbers."""
        style, ref = options.pop("style", ITEM), options.pop("ref", WORKER)
        place, first = self.write(function, *items, style=style)
        self.order(ref, place, first, 0, len(items), **options)
        return range(first, first + len(items))

    def order(
        self, ref: WorkerRef, place: Location, first: int, start: int, count: int, **options: Any
    ) -> None:
        record = Assign(place, first, start, count, **{"attempt": 0, "timeout": 0.0, **options})
        self.tell(ref, frame(ASSIGN, record.pack()))

    def time_left(self, seconds: float, ref: WorkerRef = WORKER) -> None:
        self.tell(ref, frame(TIME_LEFT, SECONDS.pack(seconds)))

    def kill(self, task: int = -1, ref: WorkerRef = WORKER, number: int = signal.SIGKILL) -> None:
        self.tell(SUPERVISOR, frame(KILL, Kill(ref.slot, ref.generation, task + 1, number).pack()))

    def want(self, workers: int) -> None:
        self.tell(SUPERVISOR, frame(WANT, NUMBER.pack(workers)))

    # -- hearing ----------------------------------------------------------------------------------

    def hear(self, ref: WorkerRef, final: bool = False) -> list[tuple[int, bytes]]:
        """Everything that it has ever said."""
        outbox = self._outboxes.setdefault(ref, self.run.outbox_reader(ref))
        said = self.said.setdefault(ref, [])
        said += [tuple(one) for one in outbox.read(final=final)]  # type: ignore[misc]
        return said

    def heard(self, ref: WorkerRef, kind: int, count: int = 1) -> list[bytes]:
        """The first `count` records of a kind; waits for them."""

        def bodies() -> list[bytes]:
            return [body for found, body in self.hear(ref) if found == kind]

        wait_until(lambda: len(bodies()) >= count, describe=self.state)
        return bodies()

    def state(self) -> dict[str, object]:
        log = (self.directory / "log").read_text(errors="replace") if self.process else ""
        return {
            "said": {str(ref): said for ref, said in self.said.items()},
            "log": log[-2000:],
            "stderr": self.printed(WORKER, "stderr")[-2000:],
        }

    def outcomes(self, count: int, ref: WorkerRef = WORKER) -> list[tuple[int, int, Any]]:
        """Number, attempt, and value or error of the first outcomes."""
        return [_outcome(body) for body in self.heard(ref, OUTCOME, count)]

    def cost(self, index: int, ref: WorkerRef = WORKER) -> Cost:
        return Cost(*OUTCOME_HEAD.unpack_from(self.heard(ref, OUTCOME, index + 1)[index])[3:])

    def ready(self, ref: WorkerRef = WORKER) -> Ready:
        return Ready.unpack(self.heard(ref, READY)[0])

    def started(self, count: int) -> list[Started]:
        return [Started.unpack(body) for body in self.heard(SUPERVISOR, STARTED, count)]

    def ended(self, count: int) -> list[Ended]:
        return [Ended.unpack(body) for body in self.heard(SUPERVISOR, ENDED, count)]

    def printed(self, ref: WorkerRef, stream: str) -> str:
        try:
            return Path(self.run.home(ref), stream).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def exit_code(self) -> int:
        process = self.process
        assert process is not None
        wait_until(lambda: process.poll() is not None, describe=self.state)
        return process.returncode

    # -- tasks that wait for a word ---------------------------------------------------------------

    def gate(self, name: str = "gate") -> str:
        return str(self.directory / name)

    def running(self, gate: str) -> int:
        """Wait until the task at `gate` runs; returns its process id."""
        path = Path(gate + ".running")
        return int(str(wait_until(lambda: path.exists() and path.read_text(), describe=self.state)))

    def open(self, gate: str) -> None:
        Path(gate).touch()

    def opened(self) -> str:
        """A gate at which no task waits."""
        self.open(self.gate("open"))
        return self.gate("open")

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.tell(SUPERVISOR, frame(STOP, b""))
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
                raise
        for box in (*self._inboxes.values(), *self._outboxes.values(), self.journal, self.run):
            box.close()  # type: ignore[attr-defined]
        if self.bell is not None:
            self.bell.close()


def _outcome(body: bytes) -> tuple[int, int, Any]:
    number, attempt, status = OUTCOME_HEAD.unpack_from(body)[:3]
    load = payload.loads_error if status == RAISED else payload.loads_result
    return number, attempt, load(body[OUTCOME_HEAD.size :])


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has, too."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module of tasks that the workers can import without importing the tests."""
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "unit_tasks.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        yield importlib.import_module("unit_tasks")


@pytest.fixture
def make_site(tmp_path: Path, tasks: ModuleType, no_process_left: None) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(shared: bool = False, bell: bool = False) -> Site:
        sites.append(Site(tmp_path, tasks, shared, bell))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


# ---- tasks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bell", [False, True], ids=["polling", "bell"])
@pytest.mark.parametrize("shared", [False, True], ids=["one-machine", "shared"])
def test_assignments_are_run_in_order(make_site: Callable[..., Site], shared: bool, bell: bool) -> None:
    site = make_site(shared, bell)
    site.start()
    numbers = [*site.assign(site.tasks.double, 1, 2, 3), *site.assign(site.tasks.fail, KeyError)]
    numbers += site.assign(site.tasks.add, (1, 2), (3, 4), style=STAR, attempt=5)
    numbers += site.assign(site.tasks.add, ("a", "b"), style=CALL)
    found = site.outcomes(7)
    assert [number for number, _, _ in found] == numbers == list(range(7))
    assert [attempt for _, attempt, _ in found] == [0, 0, 0, 0, 5, 5, 0]
    values = [value for _, _, value in found]
    assert values[:3] + values[4:] == [2, 4, 6, 3, 7, "ab"]
    assert repr(values[3]) == "KeyError('as asked')"
    assert [kind for kind, _ in site.hear(WORKER)] == [READY] + [OUTCOME] * 7


def test_it_says_who_it_is(site: Site) -> None:
    site.start()
    ready = site.ready()
    [started] = site.started(1)
    assert ready.pid == started.pid != site.process.pid  # type: ignore[union-attr]
    assert ready.node == os.uname().nodename
    assert ready.job_id == str(site.process.pid)  # type: ignore[union-attr]
    site.assign(site.tasks.pid, (), style=CALL)
    assert site.outcomes(1)[0][2] == started.pid


def test_any_part_of_a_batch(site: Site) -> None:
    site.start()
    place, first = site.write(site.tasks.double, *range(10))
    site.order(WORKER, place, first + 7, 7, 2)
    site.order(WORKER, place, first + 2, 2, 1)
    assert site.outcomes(3) == [(7, 0, 14), (8, 0, 16), (2, 0, 4)]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_a_task_raises_is_its_outcome(site: Site, kind: type[BaseException]) -> None:
    site.start()
    site.assign(site.tasks.fail, kind)
    site.assign(site.tasks.double, 4)
    first, second = site.outcomes(2)
    assert type(first[2]) is kind
    assert first[2].args == ("as asked",)
    assert second[2] == 8, "and the same worker goes on"


def test_results_that_cannot_be_pickled(site: Site) -> None:
    site.start()
    site.assign(site.tasks.lock, 0)
    site.assign(site.tasks.double, 4)
    first, second = site.outcomes(2)
    assert isinstance(first[2], TaskPicklingError)
    assert "lock" in str(first[2])
    assert second[2] == 8


def test_values_of_futures_come_with_the_body(site: Site) -> None:
    from concurrent.futures import Future

    site.start()
    parents: list[Future[Any]] = []
    body = payload.dumps_call((Future(), 5), {}, site.run.keep_buffer, parents)
    assert len(parents) == 1
    bound = bind(body, [payload.dumps_item(37, site.run.keep_buffer)])
    place, first = site.write_bodies(site.tasks.add, [bound], CALL)
    site.order(WORKER, place, first, 0, 1)
    assert site.outcomes(1) == [(0, 0, 42)]


def test_a_task_knows_who_it_is(site: Site) -> None:
    site.start()
    site.assign(site.tasks.double, 0, 0)
    site.assign(site.tasks.context, 0, attempt=3)
    assert site.outcomes(3)[2][2] == (2, 3, str(WORKER))


def test_outcomes_do_not_wait_for_their_bundle(site: Site) -> None:
    site.start()
    gate = site.gate()
    place, first = site.write(site.tasks.wait_for, site.opened(), gate)
    site.order(WORKER, place, first, 0, 2)
    site.running(gate)
    assert site.outcomes(1)[0][:2] == (first, 0), "while the one behind it runs"
    site.open(gate)
    assert site.outcomes(2)[1][2] == gate


def test_what_is_printed_can_be_told_apart(site: Site) -> None:
    site.start()
    site.assign(site.tasks.say, ("first",), style=CALL)
    site.assign(site.tasks.say, ("item",))
    site.assign(site.tasks.say, ("second",), ("third",), style=CALL)
    site.outcomes(4)
    for index, text in ((0, "first\n"), (2, "second\n"), (3, "third\n")):
        cost = site.cost(index)
        for stream, words in (("stdout", text), ("stderr", text.upper())):
            begin, end = getattr(cost, f"{stream}_begin"), getattr(cost, f"{stream}_end")
            assert site.printed(WORKER, stream)[begin:end] == words


def test_costs_are_measured(site: Site) -> None:
    site.start()
    site.assign(site.tasks.large, 60 << 20)
    site.assign(site.tasks.double, 1)
    site.outcomes(2)
    assert site.cost(0).peak_memory > 60 << 20
    assert 0 < site.cost(0).wall < 30
    assert 0 < site.cost(0).cpu < 30
    assert site.cost(1).wall < 1


def test_a_child_that_comes_back_from_a_task_tells_nothing(site: Site) -> None:
    site.start()
    numbers = site.assign(site.tasks.forks, 0)
    site.assign(site.tasks.double, 1)
    assert [number for number, _, _ in site.outcomes(2)] == [numbers[0], numbers[0] + 1]
    assert site.outcomes(2)[0][2] == 1 << 8, "the child's exit code, not its value"


# ---- a full disk, a rotten journal --------------------------------------------------------------


def test_an_outcome_for_which_there_is_no_room(site: Site) -> None:
    site.start()
    site.assign(site.tasks.limit_files, 200_000)
    numbers = site.assign(site.tasks.large, 500_000, 1000)
    site.assign(site.tasks.double, 3)
    _, failed, small, after = site.outcomes(4)
    assert failed[0] == numbers[0]
    assert isinstance(failed[2], OutcomeNotWritten)
    assert (len(small[2]), after[2]) == (1000, 6)
    assert site.started(1)[0].pid == site.ready().pid, "and the worker lives"
    assert not site.ended(0)


@pytest.mark.parametrize(
    ("damage", "busy"),
    [("flip", False), ("missing", True), ("function", False), ("function", True)],
)
def test_an_unreadable_assignment_is_not_lost_silently(site: Site, damage: str, busy: bool) -> None:
    site.start()
    gate = site.gate()
    if busy:
        site.assign(site.tasks.wait_for, gate)
        site.running(gate)
    place, first = site.write(site.tasks.double, 1, 2, 3)
    if damage == "flip":
        with open(os.path.join(site.run.path, f"tasks.{place.segment:06d}"), "r+b") as file:
            file.seek(place.offset + place.length - 1)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([last ^ 1]))
    elif damage == "missing":
        place = Location(77, 0, 100)
    else:
        place = site.journal.function(site.tasks.add).place
    site.order(WORKER, place, first, 0, 3, attempt=2)
    site.assign(site.tasks.double, 4)
    if busy:
        site.open(gate)
    found = site.outcomes(4 + busy)[busy:]
    assert [(number, attempt) for number, attempt, _ in found[:3]] == [(first + i, 2) for i in range(3)]
    assert all(isinstance(error, Exception) for _, _, error in found[:3])
    assert found[3][2] == 8, "what can be read is run"


# ---- handing back, leaving ----------------------------------------------------------------------


def returned(site: Site, count: int) -> list[int]:
    return [NUMBER.unpack(body)[0] for body in site.heard(WORKER, RETURNED, count)]


def test_unstarted_tasks_are_handed_back(site: Site) -> None:
    site.start()
    site.tell(WORKER, frame(RECALL, b""))
    assert returned(site, 1) == [0]
    gate = site.gate()
    site.assign(site.tasks.wait_for, gate, gate, gate)
    site.assign(site.tasks.double, 1, 2)
    site.running(gate)
    site.tell(WORKER, frame(RECALL, b""))
    assert returned(site, 2) == [0, 4], "although a task runs"
    site.tell(WORKER, frame(RECALL, b""))
    assert returned(site, 3) == [0, 4, 0]
    site.open(gate)
    site.assign(site.tasks.double, 50)
    found = site.outcomes(2)
    assert [value for _, _, value in found] == [gate, 100]


def test_what_cannot_be_handed_back_is_when_there_is_room(site: Site) -> None:
    site.start()
    gate, then = site.gate(), site.gate() + ".then"
    site.assign(site.tasks.limit_files_until, gate)
    site.assign(site.tasks.double, 1, 2)
    site.running(gate)
    site.tell(WORKER, frame(RECALL, b""))
    time.sleep(0.5)  # it sees that, and can say nothing
    assert returned(site, 0) == []
    site.open(gate)
    site.running(then)
    assert returned(site, 1) == [2]
    site.open(then)
    site.assign(site.tasks.double, 50)
    assert [value for _, _, value in site.outcomes(2)] == [None, 100]


def test_answers_and_outcomes_account_for_every_task(site: Site) -> None:
    """However a recall falls between the tasks."""
    site.start()
    done = back = given = 0
    for turn in range(1, 30):
        given += len(site.assign(site.tasks.double, *range(40)))
        site.tell(WORKER, frame(RECALL, b""))
        back = sum(returned(site, turn))
        count = given - back
        done = len(site.outcomes(count)) if count else 0
        assert done + back == given
    assert done + back == given


def test_it_finishes_what_it_has_and_leaves(site: Site) -> None:
    site.start()
    gate = site.gate()
    site.assign(site.tasks.wait_for, gate)
    site.assign(site.tasks.double, 1, 2, 3)
    site.running(gate)
    site.want(0)
    site.tell(WORKER, frame(LEAVE, b""))
    site.open(gate)
    assert [value for _, _, value in site.outcomes(4)] == [gate, 2, 4, 6]
    assert site.ended(1) == [Ended(0, 0, 0, 0, OWN)]
    assert site.exit_code() == 0


def test_a_worker_of_so_many_tasks(site: Site) -> None:
    site.start(max_tasks=3)
    site.assign(site.tasks.double, *range(5))
    assert site.ended(1) == [Ended(0, 0, 0, 0, OWN)], "it died of nothing, and in no task"
    assert [number for number, _, _ in site.outcomes(3)] == [0, 1, 2]
    second = WORKER._replace(generation=1)
    assert site.ready(second).pid != site.ready().pid
    site.hear(WORKER, final=True)
    assert len(site.outcomes(3)) == 3, "the others were not begun"


def test_the_marker_tells_whether_a_task_runs(site: Site) -> None:
    site.start()
    site.ready()
    markers = site.run.markers(WORKER)
    assert not Marker.read(markers, 0)
    gate = site.gate()
    site.assign(site.tasks.wait_for, site.opened(), gate)
    site.running(gate)
    assert Marker.read(markers, 0)
    site.open(gate)
    site.outcomes(2)
    wait_until(lambda: not Marker.read(markers, 0), describe=site.state)
    assert not Marker.read(markers, 10**6)
    assert not Marker.read(site.gate("none"), 0)


def test_it_leaves_as_an_interpreter_does(site: Site) -> None:
    site.start(max_tasks=1)
    path, gate = site.gate("notes"), site.gate()
    site.assign(site.tasks.ends_later, (path, gate), style=STAR)
    assert len(site.outcomes(1)) == 1, "told before its process has ended"
    site.running(gate)
    assert not Path(path).exists()
    site.open(gate)
    assert site.ended(1) == [Ended(0, 0, 0, 0, OWN)]
    assert Path(path).read_text() == f"thread at {gate}\nhandler\n"
    assert Path(path + ".out").read_text() == "not flushed\n"


# ---- the end of the wall time -------------------------------------------------------------------


def retired(site: Site, ref: WorkerRef = WORKER) -> int:
    """How many tasks a worker has handed back because it leaves."""
    [body] = site.heard(ref, RETIRED)
    return int(NUMBER.unpack(body)[0])


def test_tasks_that_do_not_fit_any_more_are_handed_back(site: Site) -> None:
    site.start()
    site.assign(site.tasks.double, 1)
    site.time_left(60)
    site.assign(site.tasks.double, 2, 3, expected=1.0)
    site.assign(site.tasks.double, 4, 5, 6, expected=100.0)
    site.assign(site.tasks.double, 7)
    assert retired(site) == 4, "what comes behind them as well"
    assert site.ended(1) == [Ended(0, 0, 0, 0, OWN)]
    assert site.exit_code() == 0, "nobody comes in its place"
    assert [value for _, _, value in site.outcomes(3)] == [2, 4, 6]
    kinds = [kind for kind, _ in site.hear(WORKER, final=True)]
    assert kinds == [READY, OUTCOME, OUTCOME, OUTCOME, RETIRED]
    assert [kind for kind, _ in site.hear(SUPERVISOR, final=True)] == [STARTED, ENDED]


def test_the_first_task_of_a_worker_always_runs(site: Site) -> None:
    """It would not fit into the wall time of any other."""
    site.start()
    site.time_left(1.0)
    site.assign(site.tasks.double, 1, 2, expected=1000.0)
    assert site.outcomes(1) == [(0, 0, 2)]
    assert retired(site) == 1


def test_a_fresh_worker_late_in_the_wall_time_is_no_first_one(site: Site) -> None:
    """One that replaces another knows no more than that there is little time left."""
    site.start(max_tasks=1)
    site.assign(site.tasks.double, 1, expected=1000.0)
    site.outcomes(1)
    second = WORKER._replace(generation=1)
    site.time_left(60, second)
    site.assign(site.tasks.double, 2, expected=1000.0, ref=second)
    assert retired(site, second) == 1
    assert site.exit_code() == 0


@pytest.mark.parametrize("left", [None, 600.0])
def test_a_task_of_which_nothing_is_known_is_run(site: Site, left: float | None) -> None:
    site.start()
    if left is not None:
        site.time_left(left)
    site.assign(site.tasks.double, 1, 2, 3)
    assert len(site.outcomes(3)) == 3
    site.assign(site.tasks.double, 4, expected=1e9 if left is None else 1.0)
    assert site.outcomes(4)[3][2] == 8


def test_some_time_is_left_to_the_end_of_things(site: Site) -> None:
    site.start()
    site.time_left(RESERVE / 2)
    site.assign(site.tasks.double, 1, 2)
    assert site.outcomes(1)[0][2] == 2
    assert retired(site) == 1


@pytest.mark.parametrize("bell", [False, True], ids=["polling", "bell"])
def test_what_is_said_last_of_the_time_counts(make_site: Callable[..., Site], bell: bool) -> None:
    """Said while a task runs, too."""
    site = make_site(bell=bell)
    site.start()
    gates = [site.gate(), site.gate("second")]
    site.time_left(1.0)
    site.assign(site.tasks.wait_for, *gates, site.gate("third"))
    site.running(gates[0])
    site.time_left(1000.0)
    site.tell(WORKER, frame(RECALL, b""))
    assert returned(site, 1) == [2], "by now it has read that"
    site.assign(site.tasks.wait_for, gates[1], expected=10.0)
    site.assign(site.tasks.double, 1, 2, expected=10.0)
    site.open(gates[0])
    site.running(gates[1])
    site.time_left(1.0)
    site.tell(WORKER, frame(RECALL, b""))
    assert returned(site, 2) == [2, 2]
    site.assign(site.tasks.double, 3)
    site.open(gates[1])
    assert retired(site) == 1
    assert [value for _, _, value in site.outcomes(2)] == gates
    assert site.exit_code() == 0


# ---- initializers -------------------------------------------------------------------------------


def test_the_initializer_comes_first(site: Site) -> None:
    path = site.gate("lines")
    site.start(initializer=site.initializer(site.tasks.start, path))
    site.ready()
    assert Path(path).read_text() == "started\n"


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_failing_initializer_breaks_the_pool(site: Site, kind: type[BaseException]) -> None:
    site.start(initializer=site.initializer(site.tasks.fail, kind))
    error = payload.loads_error(site.heard(WORKER, BROKEN)[0])
    assert type(error) is kind
    [ended] = site.ended(1)
    assert (os.WEXITSTATUS(ended.status), ended.task) == (1, 0)
    assert site.exit_code() == 0
    kinds = [kind for kind, _ in site.hear(SUPERVISOR, final=True)]
    assert kinds == [STARTED, ENDED], "no second try, and nothing given up"
    assert READY not in [kind for kind, _ in site.hear(WORKER)]


def test_an_initializer_that_cannot_be_read(site: Site) -> None:
    site.start(initializer=(Location(9, 0, 10), Location(9, 0, 10)))
    assert isinstance(payload.loads_error(site.heard(WORKER, BROKEN)[0]), FileNotFoundError)
    assert site.exit_code() == 0
    assert GAVE_UP not in [kind for kind, _ in site.hear(SUPERVISOR)]


# ---- when others are gone -----------------------------------------------------------------------


def test_an_idle_worker_leaves_when_the_driver_is_gone(site: Site) -> None:
    with site.with_driver():
        site.start(orphan_timeout=1.0)
        site.ready()
    assert site.ended(1) == [Ended(0, 0, 0, 0, OWN)]
    assert site.exit_code() == 0


def test_a_busy_worker_finishes_its_task_when_the_driver_is_gone(site: Site) -> None:
    gate, idle = site.gate(), WORKER._replace(slot=1)
    with site.with_driver():
        site.start(orphan_timeout=1.0)
        site.assign(site.tasks.wait_for, gate)
        site.running(gate)
        site.want(2)
        site.ready(idle)
    assert site.ended(1)[0].slot == 1
    site.open(gate)
    assert site.exit_code() == 0
    assert site.outcomes(1)[0][2] == gate
    assert Ended(0, 0, 0, 0, OWN) in site.ended(2)


def test_a_renewed_lease_keeps_it(site: Site) -> None:
    """For longer than the timeout."""
    with site.with_driver():
        site.start(orphan_timeout=2.0)
        site.ready()
        time.sleep(3.0)
        site.assign(site.tasks.double, 4)
        assert site.outcomes(1)[0][2] == 8
        assert not site.ended(0)


@pytest.mark.parametrize("busy", [False, True])
def test_without_its_supervisor_it_ends(site: Site, busy: bool) -> None:
    site.start()
    pid = site.ready().pid
    gate = site.gate()
    if busy:
        site.assign(site.tasks.wait_for, gate)
        assert site.running(gate) == pid
    assert site.process is not None
    site.process.kill()
    try:
        wait_until(lambda: gone(pid), 20, describe=site.state)
    finally:
        site.open(gate)


def test_without_its_supervisor_from_the_beginning_it_ends(site: Site) -> None:
    os.makedirs(site.run.home(WORKER), 0o700)
    printed = os.path.join(site.run.home(WORKER), "stdout")
    os.mkfifo(printed, 0o600)  # to open it, the worker waits until somebody reads
    site.start()
    (started,) = site.started(1)
    assert site.process is not None
    site.process.kill()
    site.process.wait()
    reader = os.open(printed, os.O_RDONLY)
    try:
        wait_until(lambda: gone(started.pid), 20, describe=site.state)
    finally:
        os.close(reader)
