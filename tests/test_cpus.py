"""How many CPUs a process may use, told by files and variables that the tests make up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterfutures import cpus

VARIABLES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "PBS_NUM_PPN", "NCPUS")


class Cgroups:
    """A made-up /sys/fs/cgroup, and a /proc/self/cgroup that places a process in it."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "cgroup"
        self.own = directory / "own"
        self.root.mkdir()

    def place(self, *lines: str) -> None:
        self.own.write_text("".join(line + "\n" for line in lines))

    def v2(self, path: str, text: str) -> None:
        self._write(f"{path}/cpu.max", text)

    def v1(self, path: str, quota: int, period: int = 100_000) -> None:
        self._write(f"{path}/cpu.cfs_quota_us", f"{quota}\n")
        self._write(f"{path}/cpu.cfs_period_us", f"{period}\n")

    def _write(self, name: str, text: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def quota(self) -> int | None:
        return cpus._quota(str(self.root), str(self.own))


@pytest.fixture
def groups(tmp_path: Path) -> Cgroups:
    return Cgroups(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("1000 100000\n", 1),
        ("50000 10000\n", 5),
        ("max 100000\n", None),
        ("", None),
        ("nonsense\n", None),
        ("max\n", None),
        ("a b\n", None),
    ],
)
def test_version_2(groups: Cgroups, text: str, expected: int | None) -> None:
    groups.place("0::/user.slice/job")
    groups.v2("user.slice/job", text)
    assert groups.quota == expected


def test_version_2_in_a_container(groups: Cgroups) -> None:
    groups.place("0::/")
    groups.v2("", "300000 100000\n")
    assert groups.quota == 3


@pytest.mark.parametrize("limited", ["a", "a/b", "a/b/c"])
def test_version_2_parents_bind_too(groups: Cgroups, limited: str) -> None:
    """Kernel documentation, cgroup-v2, "Top-down Constraint"."""
    groups.place("0::/a/b/c")
    for path in ("a", "a/b", "a/b/c"):
        groups.v2(path, "max 100000\n")
    groups.v2(limited, "400000 100000\n")
    assert groups.quota == 4


def test_the_least_of_several_levels(groups: Cgroups) -> None:
    groups.place("0::/a/b")
    groups.v2("a", "200000 100000\n")
    groups.v2("a/b", "800000 100000\n")
    assert groups.quota == 2


@pytest.mark.parametrize(("quota", "expected"), [(250_000, 3), (-1, None), (0, None)])
@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_version_1(groups: Cgroups, mount: str, quota: int, expected: int | None) -> None:
    groups.place("12:memory:/job", "4:cpu,cpuacct:/job", "1:name=systemd:/job")
    groups.v1(f"{mount}/job", quota)
    assert groups.quota == expected


def test_version_1_in_a_container_that_sees_the_hosts_path(groups: Cgroups) -> None:
    groups.place("4:cpu,cpuacct:/docker/0123456789ab")
    groups.v1("cpu,cpuacct", 200_000)
    assert groups.quota == 2


def test_both_versions_together(groups: Cgroups) -> None:
    groups.place("4:cpu,cpuacct:/job", "0::/other")
    groups.v1("cpu,cpuacct/job", 300_000)
    groups.v2("other", "200000 100000\n")
    assert groups.quota == 2


def test_cpuset_is_no_quota(groups: Cgroups) -> None:
    groups.place("4:cpuset:/job")
    groups.v1("cpuset/job", 200_000)
    assert groups.quota is None


def test_paths_with_colons(groups: Cgroups) -> None:
    groups.place("0::/a:b/c:d")
    groups.v2("a:b/c:d", "200000 100000\n")
    assert groups.quota == 2


def test_no_cgroups_at_all(groups: Cgroups) -> None:
    assert groups.quota is None
    groups.place("0::/nowhere")
    assert groups.quota is None
    groups.place()
    assert groups.quota is None


# ---- schedulers, and all together ---------------------------------------------------------------


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """64 CPUs, no quota, nothing granted."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpus, "_affinity", lambda: 64)
    monkeypatch.setattr(cpus, "_quota", lambda: None)
    return monkeypatch


def test_all_that_the_process_has(bare: pytest.MonkeyPatch) -> None:
    assert cpus.usable_cpus() == 64


@pytest.mark.parametrize("name", VARIABLES)
def test_what_a_scheduler_granted(bare: pytest.MonkeyPatch, name: str) -> None:
    bare.setenv(name, "6")
    assert cpus.usable_cpus() == 6


def test_a_tasks_share_goes_before_the_nodes(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("SLURM_CPUS_PER_TASK", "4")
    bare.setenv("SLURM_CPUS_ON_NODE", "32")
    assert cpus.usable_cpus() == 4


@pytest.mark.parametrize("value", ["", "0", "-3", "4(x2)", "many", "\u00b2", "1.5"])
def test_grants_that_say_nothing(bare: pytest.MonkeyPatch, value: str) -> None:
    bare.setenv("SLURM_CPUS_PER_TASK", value)
    assert cpus.usable_cpus() == 64
    bare.setenv("PBS_NCPUS", "5")
    assert cpus.usable_cpus() == 5


def test_the_least_counts(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("PBS_NCPUS", "16")
    bare.setattr(cpus, "_quota", lambda: 8)
    assert cpus.usable_cpus() == 8
    bare.setattr(cpus, "_affinity", lambda: 2)
    assert cpus.usable_cpus() == 2
    bare.setattr(cpus, "_quota", lambda: 1)
    assert cpus.usable_cpus() == 1


def test_the_affinity_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cpus._affinity() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cpus._affinity() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus._affinity() == 1


def test_here_and_now() -> None:
    assert 1 <= cpus.usable_cpus() <= (os.cpu_count() or 1)
