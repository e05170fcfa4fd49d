"""Control groups for one test cluster, so that its memory limits are real.

Slurm calls its groups after the node, ``<mount point>/memory/slurm_n1``, and two clusters on one machine both
have a node n1.  So each cluster has groups of its own below the machine's, and for a mount point a directory
of links to them.

Only version 1 is used, as root.
"""

from __future__ import annotations

import os
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "freezer", "cpuset", "cpuacct")


def available() -> bool:
    """Whether this process may limit others."""
    return os.geteuid() == 0 and all(_writable(MOUNTED / controller) for controller in CONTROLLERS)


def _writable(mounted: Path) -> bool:
    return (mounted / "cgroup.procs").exists() and os.access(mounted, os.W_OK)


def paths(name: str) -> list[Path]:
    """Where the groups of the cluster `name` are, one for each controller."""
    return [MOUNTED / controller / name for controller in CONTROLLERS]


def create(name: str, mount_point: Path) -> None:
    """Make the groups of the cluster `name`, and links to them in the new directory `mount_point`."""
    mount_point.mkdir()
    for path in paths(name):
        path.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new cpuset is empty
            if (path / setting).exists():
                (path / setting).write_text((path.parent / setting).read_text())
        (mount_point / path.parent.name).symlink_to(path)
