"""Out of memory: the kernel counts what it kills, and says so in files that differ from one to the next."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterfutures.memory import OutOfMemoryKills
from clusterfutures.records import MEMORY, OWN, Ended
from tests.support import run_command
from tests.test_worker import WORKER, Site, make_site, site, tasks

__all__ = ["make_site", "site", "tasks"]

V2 = "low 0\nhigh 4\nmax 9\noom {0}\noom_kill {0}\noom_group_kill 7\n"
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {0}\n"


class Cgroups:
    """A tree of cgroups made of plain files."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "cgroup"
        self.own = directory / "own"

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def kills(self, *lines: str) -> OutOfMemoryKills:
        """As seen by a process that is in these."""
        self.own.write_text("".join(line + "\n" for line in lines))
        return OutOfMemoryKills(str(self.root), str(self.own))


@pytest.fixture
def cgroups(tmp_path: Path) -> Cgroups:
    return Cgroups(tmp_path)


HIERARCHIES = [
    pytest.param(["0::/job/step"], "job/step/memory.events", V2, id="v2"),
    pytest.param(["0::/a:b"], "a:b/memory.events", V2, id="v2-colon"),
    pytest.param(["0::/"], "memory.events", V2, id="v2-container"),
    pytest.param(
        ["9:name=systemd:/x", "4:memory:/job/step", "0::/"], "memory/job/step/memory.oom_control", V1, id="v1"
    ),
    pytest.param(["3:hugetlb,memory:/job"], "memory/job/memory.oom_control", V1, id="v1-together"),
]


@pytest.mark.parametrize(("lines", "path", "text"), HIERARCHIES)
def test_counts_that_rise_are_noticed(cgroups: Cgroups, lines: list[str], path: str, text: str) -> None:
    cgroups.write(path, text.format(3))
    kills = cgroups.kills(*lines)
    assert not kills.struck(), "what was before is somebody else's"
    cgroups.write(path, text.format(4))
    assert kills.struck()
    assert not kills.struck(), "once"
    cgroups.write(path, text.format(5))
    assert kills.struck()


def test_each_kill_counts_once(cgroups: Cgroups) -> None:
    """Two workers may be killed before the first one is found dead."""
    cgroups.write("job/memory.events", V2.format(0))
    kills = cgroups.kills("0::/job")
    cgroups.write("job/memory.events", V2.format(2))
    assert [kills.struck() for _ in range(3)] == [True, True, False]


def test_being_near_the_limit_is_no_kill(cgroups: Cgroups) -> None:
    cgroups.write("job/memory.events", "max 1\noom 1\noom_kill 0\n")
    kills = cgroups.kills("0::/job")
    cgroups.write("job/memory.events", "max 99\noom 99\noom_kill 0\noom_group_kill 1\n")
    assert not kills.struck()


@pytest.mark.parametrize(
    "text",
    ["", "oom_kill_disable 0\nunder_oom 0\n", "oom_kill many\n", "oom_kill\n"],
    ids=["empty", "old-kernel", "no-number", "no-value"],
)
def test_where_nothing_is_counted_nothing_is_noticed(cgroups: Cgroups, text: str) -> None:
    cgroups.write("job/memory.events", text)
    kills = cgroups.kills("0::/job")
    assert not kills.struck()
    assert not kills.struck()


def test_where_nothing_can_be_read_nothing_is_noticed(cgroups: Cgroups) -> None:
    missing = OutOfMemoryKills(str(cgroups.root), str(cgroups.own))
    assert not missing.struck(), "not Linux"
    for lines in ([], ["0::/job"], ["4:memory:/job"], ["3:cpu:/job"]):
        assert not cgroups.kills(*lines).struck()


def test_of_several_the_one_that_can_be_read_counts(cgroups: Cgroups) -> None:
    cgroups.write("memory/job/memory.oom_control", "oom_kill_disable 0\n")
    cgroups.write("job/memory.events", V2.format(1))
    kills = cgroups.kills("4:memory:/job", "0::/job")
    cgroups.write("job/memory.events", V2.format(2))
    assert kills.struck()


def test_a_count_that_goes_away_is_no_kill(cgroups: Cgroups) -> None:
    cgroups.write("job/memory.events", V2.format(1))
    kills = cgroups.kills("0::/job")
    (cgroups.root / "job/memory.events").unlink()
    assert not kills.struck()


# ---- the kernel itself --------------------------------------------------------------------------

LIMIT = 96 << 20

HOG = """
import os, sys
from clusterfutures.memory import OutOfMemoryKills

kills = OutOfMemoryKills()
assert not kills.struck()
for size in map(int, sys.argv[1:]):
    pid = os.fork()
    if pid == 0:
        held = bytearray(size)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    print(os.WIFSIGNALED(status) and os.WTERMSIG(status), kills.struck())
"""


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A memory cgroup of LIMIT bytes, into which a process can be written; needs root."""
    root = Path("/sys/fs/cgroup")
    v1 = (root / "memory").is_dir()
    path = root / ("memory" if v1 else "") / f"cf-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            (path / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(LIMIT))
        except OSError as error:
            pytest.skip(f"the memory of a cgroup cannot be limited here: {error}")
        for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            if (path / swap).exists():
                (path / swap).write_text(str(LIMIT) if v1 else "0")
        yield path
    finally:
        remove(path)


def remove(path: Path) -> None:
    """A cgroup is busy for a moment after its last process."""
    deadline = time.monotonic() + 20
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def inside(cgroup: Path) -> list[str]:
    """Words that start a command in a cgroup."""
    return ["/bin/sh", "-c", f'echo $$ >"{cgroup}/cgroup.procs" && exec "$@"', "sh"]


def test_the_kernels_kill_is_noticed(small_cgroup: Path, tmp_path: Path) -> None:
    script = tmp_path / "hog.py"
    script.write_text(HOG)
    sizes = [str(size) for size in (1000, 3 * LIMIT, 1000, 3 * LIMIT)]
    result = run_command([*inside(small_cgroup), sys.executable, str(script), *sizes], tmp_path).check()
    assert result.stdout.splitlines() == ["False False", "9 True", "False False", "9 True"]


def test_a_worker_out_of_memory_is_told_from_one_that_is_killed(small_cgroup: Path, site: Site) -> None:
    site.wrapper = inside(small_cgroup)
    site.start()
    [culprit] = site.assign(site.tasks.large, 3 * LIMIT)
    assert site.ended(1) == [Ended(0, 0, 9, culprit + 1, MEMORY)]
    second = WORKER._replace(generation=1)
    [culprit] = site.assign(site.tasks.die, 9, ref=second)
    assert site.ended(2)[1] == Ended(0, 1, 9, culprit + 1, OWN)
