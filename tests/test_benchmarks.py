"""The benchmark runs, shows what it measured in a table, and says what it could not measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run, tasks, trace
from benchmarks.peers import PEERS, ProcessPool
from benchmarks.scenarios import Job, greedy_schedule, mixed_durations, processes_of

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parent.parent
OURS, FORK = "LocalExecutor", "ProcessPoolExecutor, fork"
NAMES = "submit,submit-lambda,map,round-trip,map-buffered,mix-map"

TRACE = f"""\
10 openat(AT_FDCWD, "/tmp/before", O_RDONLY) = 3
10 newfstatat(AT_FDCWD, "{tasks.BEGIN}", 0x7ffd, 0) = -1 ENOENT (No such file or directory)
10 clone3({{flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD}}, 88 <unfinished ...>
11 openat(AT_FDCWD, "/tmp/a", O_RDONLY|O_CLOEXEC <unfinished ...>
10 <... clone3 resumed>)                   = 11
11 <... openat resumed>)                   = 3
11 newfstatat(3, "", {{st_mode=S_IFREG|0644}}, AT_EMPTY_PATH) = 0
11 newfstatat(AT_FDCWD, "{tasks.WORKER}", 0x7ffd, 0) = -1 ENOENT (No such file or directory)
12 openat(AT_FDCWD, "/tmp/b", O_WRONLY|O_CREAT|O_EXCL, 0600) = 4
11 clone3({{flags=CLONE_VM|CLONE_THREAD}} => {{parent_tid=[12]}}, 88) = 12
12 write(4, ""..., 300)                    = 300
12 sendto(5, ""..., 700, 0, NULL, 0)       = 700
12 rename("/tmp/b", "/tmp/c")              = 0
11 openat(AT_FDCWD, "/proc/self/stat", O_RDONLY) = 3
11 openat(AT_FDCWD, "/tmp/none", O_RDONLY) = -1 ENOENT (No such file or directory)
11 unlink("/tmp/c")                        = 0
10 openat(AT_FDCWD, "/tmp/d", O_RDONLY)    = 3
10 newfstatat(AT_FDCWD, "{tasks.END}", 0x7ffd, 0) = -1 ENOENT (No such file or directory)
10 openat(AT_FDCWD, "/tmp/after", O_RDONLY) = 3
"""


def read_table(text: str, columns: list[str]) -> list[dict[str, str]]:
    """Return the rows, by column name, of the simple table that has these columns."""
    lines = text.splitlines()
    header = next(at for at, line in enumerate(lines) if line.split() == " ".join(columns).split())
    rule = lines[header - 1]
    assert set(rule) == {"=", " "}
    assert lines[header + 1] == rule
    end = lines.index(rule, header + 2)
    starts = [0] + [at + 2 for at in range(len(rule)) if rule[at : at + 2] == "  "]
    bounds = list(zip(starts, [*starts[1:], None]))
    cells = [[line[a:b].strip() for a, b in bounds] for line in lines[header + 2 : end]]
    return [dict(zip(columns, row)) for row in cells]


def numbers(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Return the rows of the table of all numbers by scenario title and executor."""
    columns = ["what", "executor", "median", "spread", "ratio", "runs", "remarks"]
    rows = read_table(text, columns)
    return {(row["what"].rpartition(":")[0], row["executor"]): row for row in rows}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a quick run printed; the file that it was told to write says the same."""
    written = tmp_path_factory.mktemp("benchmarks") / "docs" / "page.rst"
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--quick", "--only", NAMES]
    command += ["--peers", "local,fork", "--timeout", "20", "--write", str(written)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    assert written.read_text(encoding="utf-8") == done.stdout
    return done.stdout


def test_every_executor_has_a_row_in_every_scenario(page: str) -> None:
    rows = numbers(page)
    assert len(rows) == 12
    assert {executor for _, executor in rows} == {OURS, FORK}


def test_our_executor_has_a_number_in_every_scenario(page: str) -> None:
    rows = [row for (_, executor), row in numbers(page).items() if executor == OURS]
    assert [row["remarks"] for row in rows if row["median"] == "-"] == []
    assert all(float(row["median"]) >= 0 for row in rows)


def test_ratios_are_to_the_executor_that_the_target_names(page: str) -> None:
    rows = numbers(page)
    assert rows["map, no chunksize", FORK]["ratio"] == "1.00"
    ours, theirs = (float(rows["map, no chunksize", name]["median"]) for name in (OURS, FORK))
    shown = float(rows["map, no chunksize", OURS]["ratio"])
    assert shown == pytest.approx(ours / theirs, abs=0.02)


def test_what_a_peer_cannot_do_stands_in_its_row(page: str) -> None:
    rows = numbers(page)
    assert "local object" in rows["submit, lambda", FORK]["remarks"]
    assert rows["map, buffersize=10000, 1 000 000 items", FORK]["remarks"] == "no buffersize"


def test_targets_are_shown_beside_what_was_measured(page: str) -> None:
    rows = read_table(page, ["what", "target", "measured", "reached"])
    assert len(rows) == 6
    by_title = {row["what"]: row for row in rows}
    assert by_title["map, no chunksize"]["measured"].endswith("x " + FORK)
    assert {row["reached"] for row in rows} <= {
        "yes",
        "no",
        "no limit set",
        "nothing to compare with",
    }


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = type("Missing", (ProcessPool,), {"package": "clusterfutures-no-such-package"})
    monkeypatch.setitem(PEERS, "missing", missing)
    assert run.measure(Job("map", "missing", 10, 2, True), 20).reason == "not installed"


def test_a_measurement_that_takes_too_long_is_ended_with_all_its_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marks: list[str] = []
    end_processes = run.end_processes

    def noting_the_mark(mark: str, grace: float) -> int:
        marks.append(mark)
        return end_processes(mark, grace)

    monkeypatch.setattr(run, "end_processes", noting_the_mark)
    report = run.measure(Job("mix-submit", "fork", 40_000, 2, False), 2)
    assert report.reason == "no result in 2 s"
    assert [list(processes_of(mark)) for mark in marks] == [[]]


def test_greedy_schedule_gives_each_task_to_the_first_free_worker() -> None:
    assert greedy_schedule([3.0, 1.0, 1.0, 1.0, 2.0], 2) == 5.0
    assert greedy_schedule([1.0] * 10, 4) == 3.0


def test_the_mix_is_the_same_every_time_and_half_of_it_is_long() -> None:
    durations = mixed_durations(400)
    assert durations == mixed_durations(400)
    assert sum(durations) == pytest.approx(40)
    assert sum(duration for duration in durations if duration == 1.0) == pytest.approx(20)


def test_operations_are_counted_between_the_marks(tmp_path: Path) -> None:
    lines = tmp_path / "trace"
    lines.write_text(TRACE, encoding="utf-8")
    counted = trace.count_metadata(lines, tasks=500)
    assert counted["per 1000"] == 2 * 6
    assert {kind: counted[kind] / 2 for kind in ("create", "open", "rename", "unlink")} == {
        "create": 1,
        "open": 3,
        "rename": 1,
        "unlink": 1,
    }


def test_a_thread_s_calls_are_its_process_s(tmp_path: Path) -> None:
    lines = tmp_path / "trace"
    lines.write_text(TRACE, encoding="utf-8")
    assert trace.count_opened(lines) == {"opened": 2, "failed look-ups": 1, "all processes": 3}


def test_bytes_are_counted_whatever_they_are_written_to(tmp_path: Path) -> None:
    lines = tmp_path / "trace"
    lines.write_text(TRACE, encoding="utf-8")
    assert trace.count_written(lines, 500) == {"written": 2.0}
