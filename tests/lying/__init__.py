"""The package on a file system that lies: what one machine has written another one sees late.

Mounts of one directory by bindfs (FUSE), each with caches of its own, do to three "machines" what NFS does:
the kernel goes on saying that a name is not there, or how long a file was, for as long as it may remember.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support import MARK

NODES = 2

# For sh, with a folder of turns, one of mounts, the path that they are all seen by, and a command.  The jobs
# are sent to the nodes in turn.
ON_A_NODE = f"""
n=0
until mkdir "$0/$n" 2>/dev/null; do n=$((n + 1)); done
mount --bind "$1/$((n % {NODES}))" "$2" || exit
shift 2
exec "$@"
"""


class Machines(NamedTuple):
    """Who sees the directory: this process by the path `here`, the nodes by the same path in their jobs.

    `folder` has what each of the nodes sees.
    """

    folder: Path
    here: Path

    def node(self, number: int) -> Path:
        """What a node sees, for this process to look at."""
        return self.folder / str(number)

    def on_a_node(self, *command: str) -> list[str]:
        """The command that runs `command` on the next node, where `here` is what that node sees."""
        places = [str(self.folder / "turns"), str(self.folder), str(self.here)]
        return ["unshare", "--mount", "sh", "-c", ON_A_NODE, *places, *command]


@contextmanager
def machines(folder: Path, seconds: float) -> Iterator[Machines]:
    """This machine and the nodes, which remember for so many seconds what they have seen of a directory."""
    real, here = folder / "real", folder / "here"
    views = [here, *(folder / str(number) for number in range(NODES))]
    for path in (real, folder / "turns", *views):
        path.mkdir()
    mounted: list[Path] = []
    try:
        for path in views:
            _mount(real, path, seconds)
            mounted.append(path)
        yield Machines(folder, here)
    finally:
        for path in mounted:
            subprocess.run(["fusermount", "-u", str(path)], check=True)


def _mount(real: Path, path: Path, seconds: float) -> None:
    caches = ",".join(f"{name}_timeout={seconds}" for name in ("attr", "entry", "negative"))
    # It is no process that a test leaves behind.
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    subprocess.run(["bindfs", "-o", caches, str(real), str(path)], check=True, env=environment)
