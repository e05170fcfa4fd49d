"""How many CPUs this process may use, which on a shared machine is not how many there are."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Optional

_GRANTED = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "PBS_NCPUS", "PBS_NUM_PPN", "NCPUS")


def usable_cpus() -> int:
    """CPUs for this process: the least of its affinity, its cgroup's quota, and what Slurm or PBS granted."""
    limits = [_affinity(), _quota(), _granted()]
    return max(1, min(limit for limit in limits if limit is not None))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _granted() -> Optional[int]:
    for name in _GRANTED:
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return None


def _quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> Optional[int]:
    """The cgroup's CPU quota, rounded up; None for none.  Formats: kernel docs, cgroup-v1 and cgroup-v2."""
    try:
        with open(own) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    quotas = []
    for _, controllers, path in lines:
        for level in _upwards(path):
            if not controllers:
                quotas.append(_read_v2(f"{root}{level}/cpu.max"))
            elif "cpu" in controllers.split(","):
                quotas.append(_read_v1(f"{root}/{controllers}{level}"))
                quotas.append(_read_v1(f"{root}/cpu{level}"))
    known = [quota for quota in quotas if quota is not None]
    return -int(-min(known) // 1) if known else None  # rounded up


def _upwards(path: str) -> Iterator[str]:
    """A cgroup's path and those of its parents, whose quotas bind as well; in a container only they exist."""
    path = path.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield ""


def _read_v2(path: str) -> Optional[float]:
    try:
        with open(path) as file:
            quota, period = file.read().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: str) -> Optional[float]:
    try:
        with open(f"{folder}/cpu.cfs_quota_us") as file:
            quota = int(file.read())
        with open(f"{folder}/cpu.cfs_period_us") as file:
            return quota / int(file.read()) if quota > 0 else None
    except (OSError, ValueError):
        return None
