"""A real Slurm for the tests, and what is tested on it; ``python -m tests.slurm`` starts one by hand.

`shared` is the cluster of all tests that leave it as it was.  Others start a `Cluster` of their own, which
takes five seconds, or one without accounting.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Optional

from tests.slurm.cluster import Cluster, advice, missing, running

if TYPE_CHECKING:
    import pytest

__all__ = ["Cluster", "missing", "require", "shared", "show_logs"]

_lock = threading.Lock()
_shared: Optional[Cluster] = None


def require() -> None:
    """Skip the test that is running if Slurm is not installed; where the variable CI is set, fail it."""
    if missing():
        import pytest  # here, since scripts and people start clusters without it

        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(advice())


def shared() -> Cluster:
    """The cluster of this test session: started when it is first asked for, ended with the process.

    It is the Slurm that commands and scripts find from then on, by SLURM_CONF.  Without Slurm on the machine,
    the test that asks is skipped or failed, see `require`.
    """
    global _shared
    require()
    with _lock:
        if _shared is None:
            cluster = Cluster()
            cluster.start()
            cluster.activate()
            atexit.register(cluster.stop)
            _shared = cluster
    return _shared


def show_logs(report: pytest.TestReport) -> None:
    """Show below a failed test the ends of the logs of all clusters that run."""
    if report.failed and running:
        report.sections.append(("Slurm's logs", "\n".join(cluster.logs() for cluster in running)))
