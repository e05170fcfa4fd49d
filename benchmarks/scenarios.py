"""What is measured: one function a scenario, run in a process of its own with one peer.

A scenario returns its measures by name; the first is the one that the table compares. `run.py`
starts this module through `child.py`, which keeps the peers from disturbing each other, and reads
the JSON it leaves.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import statistics
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from benchmarks import tasks, trace
from benchmarks.peers import PEERS, Peer, Unsupported, warm_up
from benchmarks.tasks import BEGIN, END, mark

#: Set to a value of its own in each measurement process: whatever it started is found by it.
MARK = "CLUSTERFUTURES_BENCHMARK"

Measures = dict[str, float]


@dataclass(frozen=True)
class Job:
    """One measurement: which scenario, which peer, how large; `quick` if only to be tried."""

    scenario: str
    peer: str
    count: int
    workers: int
    quick: bool


@dataclass(frozen=True)
class Report:
    """What a measurement of `count` tasks gave: measures, or why there are none."""

    count: int
    measures: Measures
    reason: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Scenario:
    """A row group of the table.

    Attributes:
        title: what is measured, with its unit in `unit`.
        count: tasks (or samples) at full size; `smallest` with ``--quick``.
        run: measures it; takes the peer, not yet open, and the job.
        target: what issue 2 asks for, in words.
        limit: the largest value that reaches the target: a ratio to `reference`'s value, or where
            there is no reference the value itself.
        reference: the key of the peer that the target compares with.
        repeats: measurements per requested repetition; zero for one in all.
        counted: where given, the scenario runs under strace, and this makes the measures of what
            strace wrote.
        shared: whether a slow peer may be given fewer tasks.
    """

    title: str
    unit: str
    count: int
    smallest: int
    run: Callable[[Peer, Job], Measures]
    target: str
    limit: float
    reference: str | None = None
    repeats: int = 1
    counted: Callable[[Path, Job], Measures] | None = None
    shared: bool = True


def submit_all(peer: Peer, job: Job, function: Callable[[int], Any]) -> Measures:
    """Submit all tasks, then ask for each result."""
    start_pool(peer, job)
    start = time.perf_counter()
    futures = [peer.submit(function, number) for number in range(job.count)]
    submitted = time.perf_counter()
    for future in futures:
        future.result()
    end = time.perf_counter()
    return {
        "per task": (end - start) / job.count * 1e6,
        "in submit": (submitted - start) / job.count * 1e6,
    }


def submit_importable(peer: Peer, job: Job) -> Measures:
    """Submit a function that pickle can name."""
    return submit_all(peer, job, tasks.noop)


def submit_lambda(peer: Peer, job: Job) -> Measures:
    """Submit a function that only cloudpickle and its like can send."""
    return submit_all(peer, job, lambda _number: None)


def map_all(peer: Peer, job: Job) -> Measures:
    """Map without any hint of a chunk size."""
    start_pool(peer, job)
    start = time.perf_counter()
    consume(peer.map(tasks.noop, range(job.count)))
    return {"per item": (time.perf_counter() - start) / job.count * 1e6}


def round_trip(peer: Peer, job: Job) -> Measures:
    """Ask for one result after the other."""
    start_pool(peer, job)
    times = []
    for number in range(job.count):
        start = time.perf_counter()
        peer.submit(tasks.noop, number).result()
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    return {"median": statistics.median(times), "95th percentile": times[int(len(times) * 0.95)]}


def first_result(peer: Peer, job: Job) -> Measures:
    """Construct an executor and wait for one result, in a process that did neither before."""
    peer.load()
    start = time.perf_counter()
    peer.open(job.workers)
    constructed = time.perf_counter()
    run_one(peer)
    end = time.perf_counter()
    return {"first result": (end - start) * 1e3, "constructor": (constructed - start) * 1e3}


def map_buffered(peer: Peer, job: Job) -> Measures:
    """Map over more items than memory should hold, and watch the driver's memory."""
    start_pool(peer, job)
    buffersize = min(10_000, max(job.count // 20, 1))
    before = peak = resident_memory()
    start = time.perf_counter()
    for number, _ in enumerate(peer.buffered_map(tasks.noop, range(job.count), buffersize)):
        if number % 2000 == 0:
            peak = max(peak, resident_memory())
    end = time.perf_counter()
    return {
        "growth": (max(peak, resident_memory()) - before) / 1e6,
        "µs per item": (end - start) / job.count * 1e6,
    }


def map_same_rate(peer: Peer, job: Job) -> Measures:
    """Map with buffersize and without, in turn."""
    start_pool(peer, job)
    buffersize = min(10_000, max(job.count // 20, 1))
    plain, buffered = [], []
    for _ in range(3):
        plain.append(seconds_of(lambda: peer.map(tasks.noop, range(job.count))))
        buffered.append(seconds_of(lambda: peer.buffered_map(tasks.noop, range(job.count), buffersize)))
    with_it, without = (statistics.median(each) / job.count * 1e6 for each in (buffered, plain))
    return {"over": with_it / without, "µs per item": with_it, "without": without}


def seconds_of(mapping: Callable[[], Iterable[object]]) -> float:
    """Start a map and take all of its results; return how long that took."""
    start = time.perf_counter()
    for _ in mapping():
        pass
    return time.perf_counter() - start


def large_argument(peer: Peer, job: Job) -> Measures:
    """Send the same array again and again; watch the workers' own memory."""
    import numpy as np

    array = np.random.default_rng(1).integers(0, 255, array_bytes(job), dtype=np.uint8)
    expected = int(array[::4096].sum())
    start_pool(peer, job)
    mark(BEGIN)
    start = time.perf_counter()
    try:
        futures = [peer.submit(tasks.touch, array) for _ in range(job.count)]
        outcomes = [future.result() for future in futures]
    except Unsupported:
        outcomes = list(peer.map(tasks.touch, [array] * job.count))
    end = time.perf_counter()
    mark(END)
    if any(total != expected for total, _ in outcomes):
        raise AssertionError("a worker saw another array")
    return {
        "own memory": max(memory for _, memory in outcomes) / 1e6,
        "ms per task": (end - start) / job.count * 1e3,
    }


def array_bytes(job: Job) -> int:
    """Return the size of the large argument."""
    return 20_000_000 if job.quick else 200_000_000


def mixed_durations(count: int) -> list[float]:
    """Return the mix in seconds: half of the work in long tasks, half in tasks a hundredth as
    long.

    `count` is the work in tenths of long tasks, so that a short run has the same shape: 400 are
    40 s of work in tasks of 1 s and 10 ms, 40 are 4 s in tasks of 100 ms and 1 ms.
    """
    long = 1.0 if count >= 400 else 0.1
    number = max(count // 20, 1)
    durations = [long] * number + [long / 100] * (100 * number)
    random.Random(2).shuffle(durations)
    return durations


def greedy_schedule(durations: Iterable[float], workers: int) -> float:
    """Return the seconds needed when each task goes to the first free worker, at no cost."""
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def mixed_submit(peer: Peer, job: Job) -> Measures:
    """Submit short and long tasks in one shuffled list."""
    durations = mixed_durations(job.count)
    start_pool(peer, job)
    start = time.perf_counter()
    futures = [peer.submit(tasks.pause, duration) for duration in durations]
    for future in futures:
        future.result()
    elapsed = time.perf_counter() - start
    return {"over greedy": elapsed / greedy_schedule(durations, job.workers), "seconds": elapsed}


def mixed_map(peer: Peer, job: Job) -> Measures:
    """Map over the same shuffled list."""
    durations = mixed_durations(job.count)
    start_pool(peer, job)
    start = time.perf_counter()
    consume(peer.map(tasks.pause, durations))
    elapsed = time.perf_counter() - start
    return {"over greedy": elapsed / greedy_schedule(durations, job.workers), "seconds": elapsed}


def metadata_submit(peer: Peer, job: Job) -> Measures:
    """Submit small tasks between two marks in the system call trace; `run.py` counts."""
    start_pool(peer, job)
    mark(BEGIN)
    futures = [peer.submit(tasks.noop, number) for number in range(job.count)]
    for future in futures:
        future.result()
    mark(END)
    return {}


def metadata_map(peer: Peer, job: Job) -> Measures:
    """The same for map."""
    start_pool(peer, job)
    mark(BEGIN)
    consume(peer.map(tasks.noop, range(job.count)))
    mark(END)
    return {}


def start_up_files(peer: Peer, job: Job) -> Measures:
    """Start the workers under the trace; `run.py` counts the files that each of them opened."""
    peer.load()
    mark(BEGIN)
    peer.open(job.workers)
    warm_up(peer, job.workers)
    mark(END)
    return {}


def start_pool(peer: Peer, job: Job) -> None:
    """Open the executor and see that its workers run, so that start-up is not measured again."""
    peer.load()
    peer.open(job.workers)
    warm_up(peer, job.workers)


def run_one(peer: Peer) -> None:
    """Run one task by submit, or by map where a peer has only that."""
    try:
        peer.submit(tasks.noop).result()
    except Unsupported:
        consume(peer.map(tasks.noop, [None]))


def consume(results: Iterable[Any]) -> None:
    """Take every result, keeping none."""
    for _ in results:
        pass


def resident_memory() -> int:
    """Return this process's resident memory in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def processes_of(value: str) -> Iterator[int]:
    """Yield the pids of the processes that carry our mark with this value (Linux)."""
    wanted = f"{MARK}={value}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it has ended meanwhile, or is another user's
        if wanted in environment.split(b"\0"):
            yield int(entry.name)


SCENARIOS: dict[str, Scenario] = {
    "submit": Scenario(
        title="submit, importable function",
        unit="µs per task",
        count=20_000,
        smallest=400,
        run=submit_importable,
        target="at most 1/3 of ProcessPoolExecutor",
        limit=1 / 3,
        reference="fork",
    ),
    "submit-lambda": Scenario(
        title="submit, lambda",
        unit="µs per task",
        count=20_000,
        smallest=400,
        run=submit_lambda,
        target="measured beside it",
        limit=float("inf"),
        reference="loky",
    ),
    "map": Scenario(
        title="map, no chunksize",
        unit="µs per item",
        count=200_000,
        smallest=2000,
        run=map_all,
        target="at most 1/20 of ProcessPoolExecutor; joblib is the mark",
        limit=1 / 20,
        reference="fork",
    ),
    "round-trip": Scenario(
        title="submit().result(), one after the other",
        unit="µs, median",
        count=3000,
        smallest=50,
        run=round_trip,
        target="not above ProcessPoolExecutor; pebble is the mark",
        limit=1.0,
        reference="fork",
    ),
    "first-result": Scenario(
        title="first result after construction",
        unit="ms",
        count=1,
        smallest=1,
        run=first_result,
        target="not above ProcessPoolExecutor with spawn",
        limit=1.0,
        reference="spawn",
        repeats=3,
        shared=False,
    ),
    "map-buffered": Scenario(
        title="map, buffersize=10000, 1 000 000 items",
        unit="MB more in the driver",
        count=1_000_000,
        smallest=4000,
        run=map_buffered,
        target="tens of MB",
        limit=50.0,
        repeats=0,
    ),
    "map-same-rate": Scenario(
        title="map, buffersize=10000",
        unit="time over map without it",
        count=200_000,
        smallest=2000,
        run=map_same_rate,
        target="the same rate",
        limit=1.15,
        repeats=0,
    ),
    "large-argument": Scenario(
        title="the same 200 MB array to 50 tasks: a worker's memory",
        unit="MB of its own",
        count=50,
        smallest=4,
        run=large_argument,
        target="far below 200 MB",
        limit=100.0,
        repeats=0,
    ),
    "large-argument-bytes": Scenario(
        title="the same 200 MB array to 50 tasks: bytes written",
        unit="times the array",
        count=50,
        smallest=4,
        run=large_argument,
        counted=lambda lines, job: trace.count_written(lines, array_bytes(job)),
        target="once",
        limit=1.1,
        repeats=0,
    ),
    "mix-submit": Scenario(
        title="tasks of 10 ms and 1 s, submit",
        unit="time over greedy schedule",
        count=400,
        smallest=40,
        run=mixed_submit,
        target="within 5 %",
        limit=1.05,
        repeats=0,
        shared=False,
    ),
    "mix-map": Scenario(
        title="tasks of 10 ms and 1 s, map",
        unit="time over greedy schedule",
        count=400,
        smallest=40,
        run=mixed_map,
        target="within 5 %",
        limit=1.05,
        repeats=0,
        shared=False,
    ),
    "metadata-submit": Scenario(
        title="create, rename, unlink, open: submit",
        unit="operations per 1000 tasks",
        count=5000,
        smallest=200,
        run=metadata_submit,
        counted=lambda lines, job: trace.count_metadata(lines, job.count),
        target="tens",
        limit=99.0,
        repeats=0,
    ),
    "metadata-map": Scenario(
        title="create, rename, unlink, open: map",
        unit="operations per 1000 items",
        count=5000,
        smallest=200,
        run=metadata_map,
        counted=lambda lines, job: trace.count_metadata(lines, job.count),
        target="tens",
        limit=99.0,
        repeats=0,
    ),
    "start-up-files": Scenario(
        title="files that a worker opens at its start",
        unit="files",
        count=1,
        smallest=1,
        run=start_up_files,
        counted=lambda lines, _job: trace.count_opened(lines),
        target="counted",
        limit=float("inf"),
        repeats=0,
        shared=False,
    ),
}


def reason_of(error: BaseException) -> str:
    """Return one line that says why there is no number."""
    text = str(error).strip().splitlines()
    if isinstance(error, Unsupported):
        return str(error)
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def measure(peer: Peer, job: Job) -> Report:
    """Run one scenario with one peer in this process."""
    try:
        return Report(job.count, SCENARIOS[job.scenario].run(peer, job))
    # whatever a peer raises is its entry in the table and must not end the run
    except Exception as error:
        traceback.print_exc()
        return Report(job.count, {}, reason_of(error))


def main() -> None:
    """Measure the job given as JSON, leave the report in the file named beside it, end the pool.

    The report is written first: a pool that cannot be ended has still been measured.
    """
    request, answer = sys.argv[1:]
    job = Job(**json.loads(request))
    peer = PEERS[job.peer]()
    report = measure(peer, job)
    Path(answer).write_text(json.dumps(asdict(report)), encoding="utf-8")
    if peer.pool is not None:
        peer.close()
