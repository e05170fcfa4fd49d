"""One door to every PBS that the tests run on: stand-ins, Debian's commands over Slurm, real servers.

Whatever is done through it is done by commands that users have, so that the same tests run on all of them.
What only a stand-in can do, such as losing a node, its `Site` does.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Collection
from typing import Optional

from clusterfutures.schedulers.pbs import PbsScheduler
from tests.pbs.site import Site
from tests.support import wait_until

VARIABLE = "CLUSTERFUTURES_TEST_PBS"
"""The environment variable that says on which real server the tests are to run."""

LIMIT = 300.0 if os.environ.get(VARIABLE) else 180.0
"""Seconds; whatever takes longer hangs."""

OVER = ("C", "F", "X", "U")
"""States of what has ended; U is how Debian's qstat shows a job without memory."""

NOTHING_FOUND = 153
"""The exit code of Debian's qstat if there is no job at all."""

LONG_ENOUGH = 2 * PbsScheduler.longest_interval
"""Seconds for which a server must remember jobs to be sure to be asked how they have ended."""


class Door:
    """A PBS, and what may be assumed of it; a context manager, within which its commands are on PATH.

    `name` is its name in the contract suite: "torque", "openpbs", or "torque-slurm" for Debian's commands.
    `site` is the stand-in behind it, None for what is real; `real` is true of servers that we have not
    started.  `tells` is whether it is sure to say how a job has ended, and has not forgotten it when asked.
    """

    def __init__(self, name: str, *, site: Optional[Site] = None, real: bool = False) -> None:
        self.name, self.site, self.real = name, site, real

    def __enter__(self) -> Door:
        if self.site is not None:
            self.site.activate()
        self.tells = self.site is not None or self._remembers()
        return self

    def __exit__(self, *_: object) -> None:
        if self.site is not None:
            self.site.deactivate()

    # What a user does with it

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command as any user would."""
        return subprocess.run(argv, timeout=60, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def query(self, *argv: str) -> str:
        """What a command prints, without the space around it; AssertionError if it fails."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{argv}: exit {done.returncode}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def delete(self, *job_ids: str) -> None:
        """Have jobs, or elements of arrays, end."""
        for job_id in job_ids:
            self.query("qdel", job_id)

    def unfinished(self) -> set[str]:
        """The ids of this user's jobs that have not ended; arrays as a whole, except for TORQUE's.

        To TORQUE, an array may be complete while elements of it are held.
        """
        user = pwd.getpwuid(os.geteuid()).pw_name
        done = self.run("qstat", "-f", *(["-t"] if self.name == "torque" else []))
        assert done.returncode in (0, NOTHING_FOUND), f"qstat -f: exit {done.returncode}: {done.stderr}"
        return {
            block.split(None, 1)[0]
            for block in re.split(r"^Job Id:\s*", done.stdout, flags=re.MULTILINE)[1:]
            if _attribute(block, "Job_Owner").partition("@")[0] == user
            and _attribute(block, "job_state") not in OVER
        }

    def idle(self, others: Collection[str] = ()) -> None:
        """Wait until no job is queued, running or ending, except for `others`; what is left is deleted."""

        def left() -> set[str]:
            return self.unfinished().difference(others)

        try:
            wait_until(lambda: not left(), LIMIT, left, interval=0.2)
        except AssertionError:
            self.delete(*left())
            raise

    def _remembers(self) -> bool:
        if self.name == "torque-slurm":  # its qstat never says
            return False
        said = self.run("qstat", "-B", "-f").stdout + self.run("qstat", "-Q", "-f").stdout
        kept = [float(seconds) for seconds in re.findall(r"keep_completed = (\d+)", said)]
        return "job_history_enable = True" in said or min(kept, default=0.0) >= LONG_ENOUGH


def _attribute(block: str, name: str) -> str:
    """One value of a job, from what ``qstat -f`` prints."""
    found = re.search(rf"^\s+{name} = (.*)$", block, re.MULTILINE)
    return found[1] if found else ""
