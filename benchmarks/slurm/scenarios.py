"""What is measured on Slurm: one function a scenario, run in a process of its own with one peer.

As in `benchmarks.scenarios`; but each scenario names its peers, since Slurm is used in two ways that do not
compare: a pool of workers, and a job for each task.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
import traceback
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

from benchmarks.peers import Peer
from benchmarks.scenarios import (
    Job,
    Measures,
    Report,
    consume,
    first_result,
    map_all,
    reason_of,
    start_pool,
    submit_all,
)
from benchmarks.slurm import tasks
from benchmarks.slurm.peers import PEERS, Bare
from benchmarks.slurm.slurmctld import Ends, cpu_seconds

#: Seconds between two calls of submit whose time is taken.
PACE = 0.0005


@dataclass(frozen=True)
class Target:
    """What issue 3 asks for.

    Attributes:
        words: the target in its words.
        limit: the largest value that reaches it: of `peer`'s measure, as a multiple of that of `reference`
            where one is given.
        peer: the key of the peer that it is asked of.
        reference: the key of the peer that it compares with.
        measure: the name of the measure; the first one unless given.
    """

    words: str
    limit: float
    peer: str = "slurm"
    reference: str | None = None
    measure: str | None = None


@dataclass(frozen=True)
class Scenario:
    """A row group of the table.

    Attributes:
        title: what is measured, with its unit in `unit`.
        count: tasks (or samples) at full size; `smallest` with ``--quick``.
        run: measures it; takes the peer, not yet open, and the job.
        peers: the keys of those that can do it; ratios are to `reference`.
        targets: what is asked for.
        repeats: how often it is measured.
        counted: whether Slurm's commands are counted, until the measuring process has ended.
        delay: seconds that sbatch is made to sleep first.
        shared: whether a slow peer may be given fewer tasks.
    """

    title: str
    unit: str
    count: int
    smallest: int
    run: Callable[[Peer, Job], Measures]
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    reference: str
    repeats: int = 1
    counted: bool = False
    delay: float = 0.0
    shared: bool = False


def submit_to_pool(peer: Peer, job: Job) -> Measures:
    """Submit all tasks, then ask for each result; the workers are there already."""
    return submit_all(peer, job, tasks.noop)


def one_task_jobs(peer: Peer, job: Job) -> Measures:
    """Run each task as a job, all at the same time as far as the cluster lets them.

    The compared time ends with the last result in the driver, or where there are none with the last job.
    """
    peer.load()
    ends = Ends()
    cpu = sum(os.times()[:4])
    start = time.time()
    peer.open(job.count)
    consume(peer.map(tasks.noop, range(job.count)))
    results = time.time()
    peer.close()
    peer.pool = None
    ends.wait(job.count)
    cpu = sum(os.times()[:4]) - cpu  # with that of commands which have ended
    return {
        "seconds": (ends.last if isinstance(peer, Bare) else results) - start,
        "s to the last job's end": ends.last - start,
        "CPU ms per job": cpu_seconds(ends.jobs, job.count) / job.count * 1e3,
        "driver's CPU ms per job": cpu / job.count * 1e3,
    }


def notice(peer: Peer, job: Job) -> Measures:
    """Let tasks of half a second to two end, each when it likes; how long until the driver knows?"""
    start_pool(peer, job)
    generator = random.Random(3)
    told: dict[Any, float] = {}

    def note(future: Future[float]) -> None:
        told[future] = time.time()

    futures = [peer.submit(tasks.finished, generator.uniform(0.5, 2.0)) for _ in range(job.count)]
    for future in futures:
        future.add_done_callback(note)
    ended = [future.result() for future in futures]
    while len(told) < job.count:  # a callback may come a moment after its result
        time.sleep(0.01)
    delays = [(told[future] - end) * 1e3 for future, end in zip(futures, ended)]
    return {"median": statistics.median(delays), "longest": max(delays)}


def death(peer: Peer, job: Job) -> Measures:
    """Kill every process of a job in which a task runs, one job after the other."""
    peer.load()
    peer.open(job.workers)
    times = []
    for number in range(job.count):
        path = Path(f"victim-{number}").resolve()
        future = peer.submit(tasks.victim, str(path))
        while not path.exists():
            time.sleep(0.01)
        start = time.perf_counter()
        command = ["scancel", "--signal=KILL", "--full", path.read_text(encoding="utf-8")]
        subprocess.run(command, check=True)
        if future.exception() is None:
            raise AssertionError("the task outlived its job")
        times.append(time.perf_counter() - start)
    return {"longest": max(times), "median": statistics.median(times)}


def commands_of_pool(peer: Peer, job: Job) -> Measures:
    """Submit tasks to a pool that is not there yet; `run.py` counts what Slurm is asked."""
    peer.load()
    start = time.perf_counter()
    peer.open(job.workers)
    for future in [peer.submit(tasks.noop, number) for number in range(job.count)]:
        future.result()
    peer.close()
    peer.pool = None
    return {"seconds": time.perf_counter() - start}


def commands_of_jobs(peer: Peer, job: Job) -> Measures:
    """The same for tasks that are jobs."""
    peer.load()
    start = time.perf_counter()
    peer.open(job.count)
    consume(peer.map(tasks.noop, range(job.count)))
    peer.close()
    peer.pool = None
    return {"seconds": time.perf_counter() - start}


def submit_calls(peer: Peer, job: Job) -> Measures:
    """Time each `submit`, from the first one on, over a few seconds: sbatch is called meanwhile."""
    peer.load()
    peer.open(job.workers)
    times = []
    for number in range(job.count):
        start = time.perf_counter()
        peer.submit(tasks.noop, number)
        times.append((time.perf_counter() - start) * 1e6)
        time.sleep(PACE)
    measures = {"median": statistics.median(times), "first": times[0], "longest": max(times)}
    getattr(peer, "abandon", peer.close)()
    peer.pool = None
    return measures


POOLS = ("slurm", "local", "dask", "parsl")

SCENARIOS: dict[str, Scenario] = {
    "pool-submit": Scenario(
        title="no-op tasks, pool, submit",
        unit="µs per task",
        count=5000,
        smallest=500,
        run=submit_to_pool,
        peers=POOLS,
        targets=(
            Target("at most 1.5 x LocalExecutor", 1.5, reference="local"),
            Target("at most 1/10 of dask-jobqueue", 0.1, reference="dask"),
            Target("at most 1/10 of parsl", 0.1, reference="parsl"),
        ),
        reference="local",
        repeats=5,
    ),
    "pool-map": Scenario(
        title="no-op tasks, pool, map",
        unit="µs per task",
        count=5000,
        smallest=500,
        run=map_all,
        peers=POOLS,
        targets=(
            Target("at most 1.5 x LocalExecutor", 1.5, reference="local"),
            Target("at most 1/10 of dask-jobqueue", 0.1, reference="dask"),
            Target("at most 1/10 of parsl", 0.1, reference="parsl"),
        ),
        reference="local",
        repeats=5,
    ),
    "jobs": Scenario(
        title="one-task jobs",
        unit="s for all",
        count=200,
        smallest=8,
        run=one_task_jobs,
        peers=("bare", "slurm-jobs", "submitit", "older"),
        targets=(
            Target("at most 1.15 x bare sbatch --array", 1.15, "slurm-jobs", "bare"),
            Target("ahead of submitit", 1.0, "slurm-jobs", "submitit"),
            Target("ahead of clusterfutures 0.5", 1.0, "slurm-jobs", "older"),
        ),
        reference="bare",
        repeats=7,
    ),
    "notice": Scenario(
        title="end of a task to future.done(), pool",
        unit="ms, median",
        count=40,
        smallest=4,
        run=notice,
        peers=("slurm", "slurm-polling", "dask", "parsl"),
        targets=(
            Target("under 10 ms with the doorbell", 10.0),
            Target("under 1.5 s without", 1500.0, "slurm-polling"),
        ),
        reference="slurm",
        repeats=3,
    ),
    "death": Scenario(
        title="death of a job to the error on its future",
        unit="s, longest",
        count=5,
        smallest=1,
        run=death,
        peers=("slurm", "slurm-jobs", "slurm-polling"),
        targets=(
            Target("under 5 s with the doorbell", 5.0),
            Target("under 5 s with the doorbell, job_per_task", 5.0, "slurm-jobs"),
        ),
        reference="slurm",
        repeats=3,
    ),
    "commands-pool": Scenario(
        title="commands to Slurm, pool",
        unit="calls of sbatch",
        count=10_000,
        smallest=500,
        run=commands_of_pool,
        peers=("slurm", "slurm-polling", "dask", "parsl"),
        targets=(Target("two sbatch at most", 2.0),),
        reference="slurm",
        counted=True,
    ),
    "commands-jobs": Scenario(
        title="commands to Slurm, a job for each task",
        unit="calls of sbatch",
        count=2000,
        smallest=8,
        run=commands_of_jobs,
        peers=("slurm-jobs", "submitit", "older"),
        targets=(Target("2: MaxArraySize is 1001", 2.0, "slurm-jobs"),),
        reference="slurm-jobs",
        counted=True,
        shared=True,
    ),
    "submit-calls": Scenario(
        title="a call of submit, while sbatch takes a second",
        unit="µs, median",
        count=5000,
        smallest=500,
        run=submit_calls,
        peers=("slurm", "slurm-jobs", "parsl", "older"),
        targets=(
            Target("microseconds", 999.0),
            Target("none waits for sbatch", 999_999.0, measure="longest"),
            Target("microseconds, job_per_task", 999.0, "slurm-jobs"),
            Target("none waits for sbatch, job_per_task", 999_999.0, "slurm-jobs", measure="longest"),
        ),
        reference="slurm",
        delay=1.0,
        shared=True,
    ),
    "first-result": Scenario(
        title="first result after construction",
        unit="ms",
        count=1,
        smallest=1,
        run=first_result,
        peers=("slurm", "slurm-jobs", "bare", "dask", "parsl", "submitit", "older"),
        targets=(),
        reference="bare",
        repeats=5,
    ),
}


def measure(peer: Peer, job: Job) -> Report:
    """Run one scenario with one peer in this process."""
    try:
        return Report(job.count, SCENARIOS[job.scenario].run(peer, job))
    # whatever a peer raises is its entry in the table and must not end the run
    except Exception as error:
        traceback.print_exc()
        return Report(job.count, {}, reason_of(error))


def main() -> None:
    """Measure the job given as JSON, leave the report in the file named beside it, end the executor.

    The report is written first: an executor that cannot be ended has still been measured.
    """
    request, answer = sys.argv[1:]
    job = Job(**json.loads(request))
    peer = PEERS[job.peer]()
    report = measure(peer, job)
    Path(answer).write_text(json.dumps(asdict(report)), encoding="utf-8")
    if peer.pool is not None:
        peer.close()
