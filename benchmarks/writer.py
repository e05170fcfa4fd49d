"""Measure the lock of SerialWriter against a plain filelock, with 1, 10 and 50 contenders; print one table.

    python benchmarks/writer.py                a minute
    python benchmarks/writer.py --quick        a smoke test of a few seconds
    python benchmarks/writer.py --directory /scratch/me      on another file system

Contenders are processes of this machine that append lines to one file, each as often as it gets its turn:
open, write, fsync, close.  What differs is how they take turns:

filelock
    ``with FileLock(path)``, as its documentation shows it: each looks twenty times a second.
Lock
    what is below SerialWriter, with the same writing.
append_line
    the writer's own way, which also sees to a line that is whole or not there, whoever is killed.

Columns: writes a second, all contenders together, and as a multiple of filelock's; the median time from the
end of one's writing to the beginning of another one's (a contender that has the lock twice in a row hands
nothing over); the longest that anyone waited; how much the contender with the fewest turns got of an even
share.  The last two tell whether anybody starves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, Python looks only beside it

from benchmarks.table import number, processor, simple_table  # noqa: E402
from clusterfutures.writing.locks import Lock  # noqa: E402
from clusterfutures.writing.writer import SerialWriter  # noqa: E402

LINE = "x" * 100
COLUMNS = ["contenders", "way", "writes/s", "ratio", "hand-over (ms)", "longest wait (s)", "least share"]


class Turn(NamedTuple):
    """One turn of a contender: when it began to wait, when it had the lock, when it was done (monotonic, s).

    Where it is not seen when the lock was had, `had` is None.
    """

    contender: int
    asked: float
    had: float | None
    done: float


class Result(NamedTuple):
    """What one run showed; seconds.  `hand_over` is None where nothing was handed over, or it is not seen."""

    rate: float
    hand_over: float | None
    longest_wait: float
    least_share: float


def plain(path: str) -> float | None:
    """A line, with a plain filelock."""
    with FileLock(path + ".plain-lock"):
        return write(path)


def ours(path: str) -> float | None:
    """A line, with our lock."""
    with Lock(path + ".lock").hold():
        return write(path)


def write(path: str) -> float:
    """Append a line for good; when that began."""
    began = time.monotonic()
    with open(path, "a", encoding="ascii") as file:
        file.write(LINE + "\n")
        file.flush()
        os.fsync(file.fileno())
    return began


def append_line(path: str) -> float | None:
    """A line, by the writer."""
    SerialWriter(path).append_line(LINE)
    return None


WAYS: dict[str, Callable[[str], float | None]] = {"filelock": plain, "Lock": ours, "append_line": append_line}


def contend(way: str, path: str, contender: int, seconds: float) -> list[Turn]:
    """Take turns for so long, and at least one."""
    turns: list[Turn] = []
    end = time.monotonic() + seconds
    while not turns or turns[-1].done < end:
        asked = time.monotonic()
        had = WAYS[way](path)
        turns.append(Turn(contender, asked, had, time.monotonic()))
    return turns


@contextmanager
def forked(way: str, folder: str, contenders: int, seconds: float) -> Iterator[None]:
    """Contenders that begin together when the block begins, each a process; they have ended at its end."""
    gate, begin = os.pipe()
    pids = []
    for contender in range(contenders):
        pid = os.fork()
        if pid == 0:
            os.close(begin)
            os.read(gate, 1)
            turns = contend(way, os.path.join(folder, "lines"), contender, seconds)
            with open(os.path.join(folder, f"turns.{contender}"), "w", encoding="ascii") as file:
                json.dump(turns, file)
            os._exit(0)
        pids.append(pid)
    os.close(gate)
    os.close(begin)
    yield
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    if any(codes):
        raise RuntimeError(f"contenders ended with {codes}")


def run(way: str, parent: str | None, contenders: int, seconds: float) -> Result:
    """One measurement, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        with forked(way, folder, contenders, seconds):
            pass
        turns = []
        for path in Path(folder).glob("turns.*"):
            turns += [Turn(*turn) for turn in json.loads(path.read_text(encoding="ascii"))]
        lines = (Path(folder) / "lines").read_text(encoding="ascii").splitlines()
    if lines != [LINE] * len(turns):
        raise RuntimeError(f"{len(turns)} lines were written, and {len(lines)} are there")
    return result_of(turns, contenders)


def result_of(turns: list[Turn], contenders: int) -> Result:
    """What all the turns show together."""
    turns = sorted(turns, key=lambda turn: turn.done)
    gaps = [
        later.had - earlier.done
        for earlier, later in zip(turns, turns[1:])
        if later.had is not None and later.contender != earlier.contender
    ]
    counts = [0] * contenders
    for turn in turns:
        counts[turn.contender] += 1
    return Result(
        len(turns) / (turns[-1].done - min(turn.asked for turn in turns)),
        max(statistics.median(gaps), 0.0) if gaps else None,
        max((turn.done if turn.had is None else turn.had) - turn.asked for turn in turns),
        min(counts) * contenders / len(turns),
    )


def table(results: dict[tuple[int, str], Result]) -> str:
    """All of it, as a reStructuredText table."""
    rows = []
    for (contenders, way), result in results.items():
        base = results[contenders, "filelock"]
        rows.append(
            [
                str(contenders),
                way,
                number(result.rate),
                f"{result.rate / base.rate:.2f}",
                "-" if result.hand_over is None else number(1000 * result.hand_over),
                number(result.longest_wait),
                f"{result.least_share:.2f}",
            ]
        )
    return simple_table(COLUMNS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="half a second each")
    parser.add_argument("--seconds", type=float, help="of each measurement (5)")
    parser.add_argument("--directory", help="where the file is (a temporary directory)")
    options = parser.parse_args(arguments)
    seconds = options.seconds or (0.5 if options.quick else 5.0)
    print(f"* {processor()}, {os.cpu_count()} cores, {seconds} s each, load {os.getloadavg()[0]:.1f}\n")
    print(
        table(
            {
                (contenders, way): run(way, options.directory, contenders, seconds)
                for contenders in (1, 10, 50)
                for way in WAYS
            }
        )
    )


if __name__ == "__main__":
    main()
