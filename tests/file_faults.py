"""What files do to a run, the same for every executor: local, and on Slurm in `tests.slurm.test_files`.

Where there is a `make`, ``make(**options)`` makes an executor that is shut down after the test.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clusterfutures import OutcomeNotWritten, reattach
from clusterfutures.executor import ClusterExecutor
from tests import local_work as work
from tests.drivers import killed
from tests.endings import begun, goes_on
from tests.filesystems import TOO_LARGE, Failing, Limited
from tests.pbs.door import LIMIT

Make = Callable[..., ClusterExecutor]


def not_written(error: object, number: int) -> None:
    """The outcome of a task could not be written, for the reason with this errno."""
    assert type(error) is OutcomeNotWritten, repr(error)
    assert error.errno == number
    assert os.strerror(number) in str(error)


def used_up_quota(make: Make, limited: Limited) -> None:
    """A task uses it up: that one fails, and a further one that does not fit, until more is allowed."""
    executor = make(run_dir=limited.path / "run")
    not_written(executor.submit(bytes, TOO_LARGE).exception(LIMIT), errno.EDQUOT)
    error = executor.submit(len, bytes(TOO_LARGE)).exception(LIMIT)
    assert isinstance(error, OSError) and error.errno == errno.EDQUOT, repr(error)
    limited.raise_limit()
    assert executor.submit(bytes, TOO_LARGE).result(LIMIT) == bytes(TOO_LARGE)
    executor.shutdown()


def limit_on_file_size(make: Make) -> None:
    """The workers may not write files of that size."""
    executor = make(setup="ulimit -f 100")
    not_written(executor.submit(bytes, 300_000).exception(LIMIT), errno.EFBIG)
    goes_on(executor)


def read_only(make: Make, disk: Failing, log: str, gate: Path) -> object:
    """From some moment on nothing can be written: what is submitted says so; and it ends.

    Returns the error of the task that ran.
    """
    executor = make(run_dir=disk.path / "run")
    running = executor.submit(work.note_and_wait, log, "runs", str(gate))
    begun(log)
    disk.fail()
    for error in (executor.submit(abs, -n).exception(LIMIT) for n in range(3)):
        assert isinstance(error, OSError) and error.errno == errno.EROFS, repr(error)
    gate.touch()
    error = running.exception(LIMIT)
    executor.shutdown()
    assert work.notes(log) == ["runs"], "it is not run again"
    return error


FOUR = """
ex.scale(1)
wait([ex.options(retries=3).submit(pow, 2, n) for n in range(4)])
"""


def damaged_outcomes(
    kind: type[ClusterExecutor], folder: Path, ended: Callable[[], object], copies: int, **options: Any
) -> None:
    """Cut or with a flipped bit, at any place: what is whole counts, the rest is run again.

    `ended` waits until nothing of the program is left that has died.
    """
    run = killed(kind, folder, FOUR, **options)
    ended()
    outboxes = sorted(run.glob("jobs/*/*.*/*.*/out.*"))
    randomness = random.Random(7)
    for number in range(copies):
        copy = folder / f"copy{number}"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("bell"))
        copy.chmod(0o700)
        outbox = copy / randomness.choice(outboxes).relative_to(run)
        damage(outbox, randomness.randrange(outbox.stat().st_size), cut=number % 2 == 0)
        with reattach(copy) as executor:
            assert [future.result(LIMIT) for future in executor.futures] == [1, 2, 4, 8]


def damage(path: Path, place: int, cut: bool) -> None:
    """Cut a file at `place`, or flip a bit there."""
    if cut:
        os.truncate(path, place)
        return
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


ONE_AND_ANOTHER = """
assert ex.submit(abs, -1).result(60) == 1
ex.submit(abs, -2)
ex.flush()
"""


def stale_files(
    kind: type[ClusterExecutor], folder: Path, ended: Callable[[], object], **options: Any
) -> None:
    """Whatever an interrupted write has left behind is passed over, in the run and when it goes on."""
    run = killed(kind, folder, ONE_AND_ANOTHER, **options)
    ended()
    files = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith("lease.")]
    for path in files:  # leases are written in place
        for name in (f"{path}.1.abcdef12.part", f"{path}.part"):
            Path(name).write_bytes(b"half of it")
    with reattach(run) as executor:
        assert [future.result(LIMIT) for future in executor.futures] == [1, 2]
        assert executor.submit(abs, -3).result(LIMIT) == 3
