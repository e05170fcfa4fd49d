"""The supervisor: real processes against a driver's side made of logs (see `tests.test_worker.Site`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from clusterfutures import bootstrap
from clusterfutures.doorbell import Event
from clusterfutures.link import GREW
from clusterfutures.link import SUPERVISOR as ROLE_OF_SUPERVISOR
from clusterfutures.logs import frame
from clusterfutures.records import (
    ASKED,
    BROKEN,
    ENDED,
    GAVE_UP,
    ORPHANED,
    OUTCOME,
    OWN,
    READY,
    SITE,
    STAR,
    STARTED,
    STOP,
    TIMED_OUT,
    Assign,
    Ended,
)
from clusterfutures.spool import CANCEL, WorkerRef
from clusterfutures.supervisor import Child, Supervisor
from clusterfutures.worker import RUNS, Marker
from tests.support import wait_until
from tests.test_worker import SUPERVISOR, WORKER, Site, gone, make_site, site, tasks

__all__ = ["make_site", "site", "tasks"]


def slot(number: int, generation: int = 0) -> WorkerRef:
    return WORKER._replace(slot=number, generation=generation)


# ---- keeping workers ----------------------------------------------------------------------------


def test_it_starts_as_many_as_are_wanted(site: Site) -> None:
    site.start(workers=2)
    pids = {site.ready(slot(number)).pid for number in (0, 1)}
    assert pids == {one.pid for one in site.started(2)}
    site.want(4)
    pids |= {site.ready(slot(number)).pid for number in (2, 3)}
    assert len(pids) == 4
    assert [(one.slot, one.generation) for one in site.started(4)] == [(n, 0) for n in range(4)]


def test_fewer_wanted_ends_nobody(site: Site) -> None:
    site.start(workers=2)
    site.ready(slot(1))
    site.want(1)
    for number in (0, 1):
        site.assign(site.tasks.double, number, ref=slot(number))
        assert site.outcomes(1, slot(number))[0][2] == 2 * number
    site.kill(ref=slot(1))
    assert site.ended(1)[0].slot == 1
    site.assign(site.tasks.double, 5)
    assert site.outcomes(2)[1][2] == 10
    assert len(site.started(2)) == 2, "and nobody comes in its place"


def test_nobody_wanted_and_nobody_left_is_the_end(site: Site) -> None:
    site.start()
    site.ready()
    site.want(0)
    site.kill(number=signal.SIGTERM)
    assert site.exit_code() == 0
    assert [kind for kind, _ in site.hear(SUPERVISOR, final=True)] == [STARTED, ENDED]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_reported_with_its_task_and_the_worker_replaced(site: Site, number: int) -> None:
    site.start()
    site.assign(site.tasks.double, 1)
    [culprit, _] = site.assign(site.tasks.die, number, number)
    [ended] = site.ended(1)
    assert os.WTERMSIG(ended.status) == number
    assert (ended.task, ended.reason, ended.generation) == (culprit + 1, OWN, 0)
    assert len(site.outcomes(1)) == 1
    second = slot(0, 1)
    site.assign(site.tasks.double, 21, ref=second)
    assert site.outcomes(1, second)[0][2] == 42


def test_an_exit_is_reported_with_its_code(site: Site) -> None:
    site.start()
    [culprit] = site.assign(site.tasks.leave, 7)
    [ended] = site.ended(1)
    assert os.WIFEXITED(ended.status)
    assert os.WEXITSTATUS(ended.status) == 7
    assert ended.task == culprit + 1


def test_a_death_is_its_own(site: Site) -> None:
    site.start(workers=3)
    gate = site.gate()
    site.assign(site.tasks.wait_for, gate, ref=slot(1))
    pid = site.running(gate)
    site.assign(site.tasks.die, signal.SIGKILL, ref=slot(0))
    site.assign(site.tasks.die, signal.SIGSEGV, ref=slot(2))
    assert {one.slot for one in site.ended(2)} == {0, 2}
    assert not gone(pid)
    site.open(gate)
    assert site.outcomes(1, slot(1))[0][2] == gate
    assert site.ready(slot(0, 1)).pid != site.ready(slot(2, 1)).pid


def test_many_deaths_are_many_generations(site: Site) -> None:
    site.start()
    for generation in range(8):
        ref = slot(0, generation)
        [culprit] = site.assign(site.tasks.die, signal.SIGKILL, ref=ref)
        ended = site.ended(generation + 1)[-1]
        assert (ended.generation, ended.task) == (generation, culprit + 1)
    assert GAVE_UP not in [kind for kind, _ in site.hear(SUPERVISOR)], "each was ready before"


def test_what_a_task_started_does_not_outlive_it(site: Site) -> None:
    site.start()
    gate = site.gate()
    site.assign(site.tasks.with_child, gate)
    pid = site.running(gate)
    child = int(Path(gate + ".child").read_text())
    os.kill(pid, signal.SIGKILL)
    site.ended(1)
    wait_until(lambda: gone(child), describe=site.state)


def test_workers_that_retire_are_not_replaced(site: Site) -> None:
    site.start(workers=3)
    for number in range(2):
        ref = slot(number)
        site.assign(site.tasks.double, number, ref=ref)
        site.time_left(1.0, ref)
        site.assign(site.tasks.double, number, ref=ref)
    assert sorted(one.slot for one in site.ended(2)) == [0, 1]
    site.assign(site.tasks.double, 21, ref=slot(2))
    assert site.outcomes(1, slot(2))[0][2] == 42
    site.kill(ref=slot(2))
    site.ready(slot(0, 1))
    assert len(site.started(4)) == 4, "only the one that was killed"
    assert GAVE_UP not in [kind for kind, _ in site.hear(SUPERVISOR)]


def test_retiring_after_nobody_is_wanted_is_the_end(site: Site) -> None:
    site.start(workers=3)
    gates = [site.gate(name) for name in ("a", "b")]
    for number, gate in enumerate(gates):
        site.assign(site.tasks.wait_for, gate, ref=slot(number))
        site.running(gate)
        site.time_left(1.0, slot(number))
        site.assign(site.tasks.double, 1, ref=slot(number))
    site.want(0)
    site.kill(ref=slot(2))
    site.ended(1)  # so it has read by now that nobody is wanted
    for gate in gates:
        site.open(gate)
    assert site.exit_code() == 0
    assert len(site.started(3)) == 3


# ---- sharing a machine --------------------------------------------------------------------------


def test_workers_of_one_job_share_its_cpus(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    ours = sorted(os.sched_getaffinity(0))
    site.start(workers=2, slots=2, cores=3)
    cpus: list[set[int]] = []
    for number in (0, 1):
        ref = slot(number)
        site.assign(os.sched_getaffinity, 0, ref=ref)
        site.assign(os.getenv, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", ref=ref)
        found = [value for _, _, value in site.outcomes(4, ref)]
        cpus.append(found[0])
        assert found[1:] == ["3", "7", ("4,5", "6,7")[number]]
    if len(ours) > 1:
        assert not cpus[0] & cpus[1]
        assert len(cpus[0]) == len(cpus[1]) == len(ours) // 2
        assert cpus[0] | cpus[1] <= set(ours)
    else:
        assert cpus == [set(ours)] * 2
    site.kill(ref=slot(1))
    again = slot(1, 1)
    site.assign(os.sched_getaffinity, 0, ref=again)
    assert site.outcomes(1, again)[0][2] == cpus[1], "who comes in its place has its place"


def test_workers_of_a_machine_of_ones_own_share_nothing(site: Site) -> None:
    site.start(workers=2)
    for number in (0, 1):
        site.assign(os.sched_getaffinity, 0, ref=slot(number))
        assert site.outcomes(1, slot(number))[0][2] == os.sched_getaffinity(0)


# ---- a job for one task -------------------------------------------------------------------------


def start_lone(
    site: Site, function: Callable[..., object], item: object, timeout: float = 0.0, **changes: object
) -> int:
    """Start a job that has its one task with it; returns the task's number."""
    place, first = site.write(function, item)
    site.start(tasks=Assign(place, first, 0, 1, 0, timeout).pack(), **changes)
    return first


def said(site: Site, ref: WorkerRef) -> list[int]:
    """What kinds of records it has left."""
    return [kind for kind, _ in site.hear(ref, final=True)]


def test_the_outcome_of_a_lone_task_says_all(make_site: Callable[..., Site]) -> None:
    site = make_site(shared=True, bell=True)
    events: list[Event] = []
    number = start_lone(site, site.tasks.double, 21)
    wait_until(lambda: any(event.closed for event in heard_by(site, events)), describe=site.state)
    assert {event.line.identity[0] for event in events} == {ROLE_OF_SUPERVISOR}, "nobody else calls"
    assert GREW in [event.record.kind for event in events if event.record is not None]
    assert site.exit_code() == 0
    assert said(site, SUPERVISOR) == []
    assert said(site, WORKER) == [READY, OUTCOME]
    assert site.outcomes(1) == [(number, 0, 42)]
    assert not os.path.exists(site.run.markers(SUPERVISOR))
    assert len(list(Path(site.run.home(WORKER)).glob("out.*"))) == 1, "both in one file"


def heard_by(site: Site, events: list[Event]) -> list[Event]:
    """What the doorbell has heard: `events`, with what is new."""
    assert site.bell is not None
    events += site.bell.poll(0)
    return events


@pytest.mark.parametrize("bell", [False, True], ids=["polling", "no-answer"])
def test_without_a_bell_a_lone_worker_is_named_by_file(make_site: Callable[..., Site], bell: bool) -> None:
    """As it has to be looked for; nobody answers a doorbell that is never polled."""
    site = make_site(shared=True, bell=bell)
    number = start_lone(site, site.tasks.double, 21)
    assert site.exit_code() == 0
    assert said(site, SUPERVISOR) == [STARTED]
    assert site.outcomes(1) == [(number, 0, 42)]


@pytest.mark.parametrize(
    ("task", "item", "exit_code"), [("die", signal.SIGSEGV, 128 + 11), ("leave", 7, 7), ("leave", 0, 1)]
)
def test_a_lone_task_that_is_lost_fails_its_job(
    site: Site, task: str, item: int, exit_code: int
) -> None:
    number = start_lone(site, getattr(site.tasks, task), item)
    assert site.exit_code() == exit_code
    [ended] = site.ended(1)
    assert (ended.task, ended.reason) == (number + 1, OWN)
    assert said(site, WORKER) == [READY]


def test_a_lone_task_that_takes_long_is_known_and_killed(site: Site) -> None:
    gate = site.gate()
    number = start_lone(site, site.tasks.wait_for, gate)
    pid = site.running(gate)
    assert site.ready().pid == pid
    site.kill(number)
    assert site.exit_code() == 128 + signal.SIGKILL
    assert site.ended(1) == [Ended(0, 0, signal.SIGKILL, number + 1, ASKED)]


def test_a_lone_task_that_takes_too_long(site: Site) -> None:
    number = start_lone(site, site.tasks.wait_for, site.gate(), timeout=0.2)
    assert site.exit_code() == 128 + signal.SIGKILL
    assert site.ended(1) == [Ended(0, 0, signal.SIGKILL, number + 1, TIMED_OUT)]


def test_a_lone_task_that_the_site_ends(site: Site) -> None:
    gate = site.gate()
    number = start_lone(site, site.tasks.wait_for, gate)
    site.running(gate)
    send(site, signal.SIGTERM)
    assert site.exit_code() == 128 + signal.SIGTERM
    assert site.ended(1) == [Ended(0, 0, signal.SIGTERM, number + 1, SITE)]


def test_a_lone_task_whose_supervisor_was_killed_before_is_not_begun(site: Site) -> None:
    os.makedirs(site.run.home(WORKER), 0o700)
    printed = site.run.stdout(WORKER)
    os.mkfifo(printed, 0o600)  # to open it, the worker waits until somebody reads
    start_lone(site, site.tasks.wait_for, site.opened())
    assert site.process is not None
    supervisor = psutil.Process(site.process.pid)
    wait_until(supervisor.children)
    [worker] = supervisor.children()
    site.process.kill()
    site.process.wait()
    reader = os.open(printed, os.O_RDONLY)
    try:
        wait_until(lambda: gone(worker.pid), 20, describe=site.state)
    finally:
        os.close(reader)
    assert site.run.claimed(WORKER) == ""
    assert said(site, WORKER) == []


def test_a_lone_task_that_was_cancelled_is_not_begun(site: Site) -> None:
    assert site.run.claim(WORKER, CANCEL)
    start_lone(site, site.tasks.wait_for, site.gate())
    assert site.exit_code() == 0
    assert said(site, WORKER) == said(site, SUPERVISOR) == []


def test_the_initializer_of_a_lone_task_fails(site: Site) -> None:
    start_lone(site, site.tasks.double, 1, initializer=site.initializer(site.tasks.fail, ValueError))
    assert site.exit_code() == 1
    assert said(site, WORKER) == [BROKEN]
    assert [one.task for one in site.ended(1)] == [0]


# ---- killing ------------------------------------------------------------------------------------


def test_the_running_task_is_killed(site: Site) -> None:
    site.start(workers=2)
    gate, other = site.gate(), site.gate("other")
    site.assign(site.tasks.wait_for, other, ref=slot(1))
    [culprit, _] = site.assign(site.tasks.wait_for, gate, other)
    site.running(gate)
    neighbour = site.running(other)
    site.kill(culprit)
    assert site.ended(1) == [Ended(0, 0, signal.SIGKILL, culprit + 1, ASKED)]
    assert not gone(neighbour)
    site.open(other)
    assert site.outcomes(1, slot(1))[0][2] == other


def test_another_task_than_the_running_one_is_not_killed(site: Site) -> None:
    site.start()
    gate = site.gate()
    [done] = site.assign(site.tasks.double, 1)
    [running, queued] = site.assign(site.tasks.wait_for, gate, gate)
    pid = site.running(gate)
    for task in (done, queued, running + 1000):
        site.kill(task)
    site.kill(running, ref=slot(0, 1))
    site.kill(running, ref=slot(3))
    site.want(2)
    site.ready(slot(1))  # by now all of that has been read
    assert not gone(pid)
    site.open(gate)
    assert [number for number, _, _ in site.outcomes(3)] == [done, running, queued]
    assert not site.ended(0)


def test_a_whole_worker_is_killed(site: Site) -> None:
    site.start()
    site.ready()
    site.kill(number=signal.SIGTERM)
    assert site.ended(1) == [Ended(0, 0, signal.SIGTERM, 0, ASKED)]
    site.ready(slot(0, 1))


def test_a_kill_hits_no_task_but_the_one_that_was_meant(site: Site) -> None:
    """A worker in a rush, on another processor: it must have come to rest before it is looked at."""
    site.run.make_home(SUPERVISOR)
    keeper = Supervisor(site.run, SUPERVISOR, site.specification)
    marker = Marker(keeper._memory, 0)
    found = []
    for _ in range(60):
        marker.set(1, 0.0, RUNS)
        pid = os.fork()
        if pid == 0:
            while True:
                for task in (1, 2, 3):
                    marker.set(task, 0.0, RUNS)
        child = Child(WORKER, pid)
        while child.reason != ASKED:
            before = marker.get()
            wait_until(lambda before=before: marker.get() != before, interval=0)  # type: ignore[misc]
            keeper._end_task(child, 2, ASKED)
        os.waitpid(pid, 0)
        found.append(marker.get()[0])
    keeper.close()
    assert found == [2] * 60


# ---- deadlines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bell", [False, True], ids=["polling", "bell"])
def test_a_task_that_takes_too_long(make_site: Callable[..., Site], bell: bool) -> None:
    site = make_site(bell=bell)
    site.start()
    gate = site.gate()
    numbers = site.assign(site.tasks.wait_for, site.opened(), site.opened(), gate, timeout=1.5)
    [ended] = site.ended(1)
    assert (ended.task, ended.reason) == (numbers[2] + 1, TIMED_OUT)
    assert os.WTERMSIG(ended.status) == signal.SIGKILL
    assert len(site.outcomes(2)) == 2
    site.ready(slot(0, 1))


def test_deadlines_are_each_tasks_own(site: Site) -> None:
    site.start(workers=2)
    gate, slow = site.gate(), site.gate("slow")
    site.assign(site.tasks.wait_for, gate, timeout=500.0)
    [culprit] = site.assign(site.tasks.wait_for, slow, ref=slot(1), timeout=0.2)
    site.running(gate)
    assert site.ended(1)[0].task == culprit + 1
    site.open(gate)
    assert site.outcomes(1)[0][2] == gate
    site.assign(time.sleep, *[0.5] * 5, timeout=2.4)
    assert len(site.outcomes(6)) == 6, "each of them has that long, not all together"
    assert len(site.ended(1)) == 1


@pytest.mark.long
def test_no_deadline_passes_while_the_job_is_suspended(site: Site) -> None:
    """The supervisor is the first to go on, and ends another task: so it has looked, and let this one be."""
    site.start(workers=2)
    site.ready()
    site.ready(slot(1))
    gate, never = site.gate(), site.gate("never")
    assert site.process is not None
    site.process.send_signal(signal.SIGSTOP)
    try:
        site.assign(site.tasks.wait_for, gate, timeout=6.0)
        [other] = site.assign(site.tasks.wait_for, never, ref=slot(1))
        pids = [site.running(gate), site.running(never)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(6.0)
        site.kill(other, slot(1))
    finally:
        site.process.send_signal(signal.SIGCONT)
    [ended] = site.ended(1)
    assert (ended.slot, ended.task) == (1, other + 1)
    site.open(gate)
    os.kill(pids[0], signal.SIGCONT)
    assert site.outcomes(1)[0][2] == gate


# ---- giving up ----------------------------------------------------------------------------------


def test_three_failed_starts_in_a_row(site: Site) -> None:
    path = site.gate("lines")
    site.start(initializer=site.initializer(site.tasks.start, path, range(1, 1000)))
    assert b"3 workers" in site.heard(SUPERVISOR, GAVE_UP)[0]
    assert site.exit_code() == 0
    assert len(Path(path).read_text().splitlines()) == 3
    assert [os.WEXITSTATUS(one.status) for one in site.ended(3)] == [3, 3, 3]
    assert [one.task for one in site.ended(3)] == [0, 0, 0]


def test_two_failed_starts_are_forgiven_each_time(site: Site) -> None:
    path = site.gate("lines")
    site.start(initializer=site.initializer(site.tasks.start, path, [1, 2, 4, 5]))
    site.ready(slot(0, 2))
    site.kill(ref=slot(0, 2))
    last = slot(0, 5)
    site.assign(site.tasks.double, 4, ref=last)
    assert site.outcomes(1, last)[0][2] == 8
    assert [one.generation for one in site.ended(5)] == [0, 1, 2, 3, 4]
    assert GAVE_UP not in [kind for kind, _ in site.hear(SUPERVISOR)]


# ---- the end of everything ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["STOP", pytest.param("SIGTERM", marks=pytest.mark.long)])
def test_everything_ends(site: Site, how: str) -> None:
    site.start(workers=3)
    gates = [site.gate(name) for name in ("a", "b")]
    site.assign(site.tasks.stubborn, gates[0])
    site.assign(site.tasks.with_child, gates[1], ref=slot(1))
    site.ready(slot(2))
    pids = [site.running(gate) for gate in gates]
    child = int(Path(gates[1] + ".child").read_text())
    assert site.process is not None
    if how == "STOP":
        site.tell(SUPERVISOR, frame(STOP, b""))
    else:
        site.process.send_signal(signal.SIGTERM)
    assert site.exit_code() == 0
    ended = {one.slot: one for one in site.ended(3)}
    assert [ended[n].reason for n in range(3)] == [ASKED if how == "STOP" else SITE] * 3
    assert [os.WTERMSIG(ended[n].status) for n in range(3)] == [
        signal.SIGKILL,
        signal.SIGTERM,
        signal.SIGTERM,
    ]
    assert ended[2].task == 0
    for pid in (*pids, child):
        wait_until(lambda pid=pid: gone(pid), describe=site.state)  # type: ignore[misc]
    assert len(site.started(3)) == 3, "and nobody was replaced"


def test_an_interrupt_is_the_drivers_business(site: Site) -> None:
    site.start()
    site.ready()
    assert site.process is not None
    site.process.send_signal(signal.SIGINT)
    site.assign(site.tasks.double, 4)
    assert site.outcomes(1)[0][2] == 8


def test_orphans_that_are_to_be_killed(site: Site) -> None:
    gate = site.gate()
    with site.with_driver():
        site.start(orphan="kill", orphan_timeout=1.0)
        [culprit] = site.assign(site.tasks.wait_for, gate)
        site.running(gate)
    assert site.exit_code() == 0
    assert (site.ended(1)[0].task, site.ended(1)[0].reason) == (culprit + 1, ORPHANED)


# ---- signals of the scheduler -------------------------------------------------------------------


def send(site: Site, number: int) -> None:
    """What a scheduler does: to the job's first process, and to no other."""
    assert site.process is not None
    site.process.send_signal(number)


def test_an_end_that_the_site_wants_names_the_task(site: Site) -> None:
    site.start(workers=2)
    gate = site.gate()
    [_, culprit] = site.assign(site.tasks.wait_for, site.opened(), gate)
    site.running(gate)
    site.ready(slot(1))
    send(site, signal.SIGTERM)
    assert site.exit_code() == 0
    ended = {one.slot: one for one in site.ended(2)}
    assert ended[0] == Ended(0, 0, signal.SIGTERM, culprit + 1, SITE)
    assert ended[1] == Ended(1, 0, signal.SIGTERM, 0, SITE)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_reaches_who_listens_and_harms_nobody(site: Site, number: int) -> None:
    site.start(workers=3)
    gates = [site.gate(name) for name in ("a", "b")]
    site.assign(site.tasks.catches, (gates[0], number), style=STAR)
    site.assign(site.tasks.wait_for, gates[1], ref=slot(1))
    for gate in gates:
        site.running(gate)
    site.ready(slot(2))
    send(site, number)
    caught = Path(gates[0] + ".caught")
    wait_until(caught.exists, describe=site.state)
    for gate in gates:
        site.open(gate)
    site.assign(site.tasks.double, 4, ref=slot(2))
    assert [site.outcomes(1, slot(n))[0][2] for n in range(3)] == [*gates, 8]
    assert caught.read_text() == "caught\n"
    assert not site.ended(0)


@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGHUP])
def test_other_signals_do_what_they_do_elsewhere(site: Site, number: int) -> None:
    site.start(workers=2)
    gates = [site.gate(name) for name in ("a", "b")]
    site.assign(site.tasks.catches, (gates[0], number), style=STAR)
    [culprit] = site.assign(site.tasks.wait_for, gates[1], ref=slot(1))
    for gate in gates:
        site.running(gate)
    send(site, number)
    assert site.ended(1) == [Ended(1, 0, number, culprit + 1, OWN)]
    wait_until(Path(gates[0] + ".caught").exists, describe=site.state)
    site.open(gates[0])
    assert site.outcomes(1)[0][2] == gates[0]
    site.ready(slot(1, 1))


# ---- starting -----------------------------------------------------------------------------------


def start_by_hand(site: Site, version: str | None = None, job: str = "0") -> tuple[int, str]:
    version = version or "{}.{}".format(*sys.version_info[:2])
    command = [sys.executable, bootstrap.__file__, version, site.run.path, job, "0", "0", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=site.directory)
    return done.returncode, done.stderr


LENT = """
import sys
sys.path.insert(0, sys.argv[1])
import bootstrap
loaded = "functools" in sys.modules
bootstrap.import_pickle()
assert "_pickle" in sys.modules
assert ("functools" in sys.modules) is loaded
import functools, pickle
assert functools.lru_cache and functools.partial
assert pickle.loads(pickle.dumps(functools.partial(int, "12")))() == 12
assert pickle.loads(pickle.dumps("ab".join))("12") == "1ab2"
"""


def test_what_is_lent_to_pickle_is_taken_back() -> None:
    words = [sys.executable, "-c", LENT, os.path.dirname(bootstrap.__file__)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_another_python_says_both_versions(site: Site) -> None:
    code, text = start_by_hand(site, "2.6")
    assert code == 1
    assert "2.6" in text
    assert "{}.{}".format(*sys.version_info[:2]) in text
    assert sys.executable in text
    assert "Traceback" not in text


def test_a_directory_that_others_can_write_is_refused(site: Site) -> None:
    site.specification.write(site.run, 0)
    os.chmod(site.run.path, 0o777)
    code, text = start_by_hand(site)
    os.chmod(site.run.path, 0o700)
    assert code != 0
    assert "PermissionError" in text
    assert "777" in text


def test_no_specification_is_an_error(site: Site) -> None:
    code, text = start_by_hand(site, job="5")
    assert code != 0
    assert "spec" in text


def test_a_damaged_specification_is_an_error(site: Site) -> None:
    site.specification.write(site.run, 0)
    path = Path(site.run.specification(0))
    path.write_bytes(path.read_bytes()[:-1])
    code, text = start_by_hand(site)
    assert code != 0
    assert "CorruptRecord" in text


def test_the_drivers_path_is_the_workers(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "b 'ad\n name"
    folder.mkdir()
    (folder / "only_here.py").write_text("def answer(_):\n    return 42\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import only_here  # type: ignore[import-not-found]

        site.start(sys_path=[str(folder), *site.specification.sys_path])
        site.assign(only_here.answer, 0)
        assert site.outcomes(1)[0][2] == 42
        del sys.modules["only_here"]
