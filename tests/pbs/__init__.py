"""TORQUE and OpenPBS for the tests: stand-ins, which Debian lacks, and what is tested on them.

``python -m tests.pbs torque`` starts a stand-in by hand.

`shared` is the stand-in of all tests that leave it as it was.  Others start a `Site` of their own, which
takes a fifth of a second.

Tests of TorqueExecutor come through a `door`: to a stand-in, or to Debian's Torque commands in front of the
Slurm of `tests.slurm`.  With ``CLUSTERFUTURES_TEST_PBS`` in the environment they run on a real server
instead, the one whose qsub, qstat and qdel are on PATH: ``torque`` or ``openpbs`` says which one it must be,
``auto`` takes what there is.  Then the contract suite runs on it alone unless ``--executors`` says otherwise,
and so do the tests of endings.  Their directories must be visible on the nodes: ``--basetemp`` chooses where
they are.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import threading
from typing import Optional

from tests import slurm
from tests.pbs.door import VARIABLE, Door
from tests.pbs.site import DIALECTS, Site

__all__ = ["DIALECTS", "DOORS", "Door", "Site", "door", "real_name", "require", "shared", "shared_logs"]

DOORS = (*DIALECTS, "torque-slurm")
"""The names of all doors, as in the contract suite."""

_REAL = {"torque": "torque", "openpbs": "openpbs", "slurm": "torque-slurm"}

_lock = threading.Lock()
_shared: dict[str, Site] = {}


def require() -> None:
    """Skip the test that is running if this is no Linux, whose ``/proc`` the stand-ins need."""
    if sys.platform != "linux":
        import pytest  # here, since scripts and people start sites without it

        pytest.skip("the stand-ins for PBS run on Linux")


@functools.cache
def real_name() -> Optional[str]:
    """The name of the real server's door, None if the tests are not to run on one.

    Ends pytest if ``CLUSTERFUTURES_TEST_PBS`` is not what is there; SubmissionError if nothing is.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return None
    from clusterfutures.schedulers.pbs import PbsScheduler

    found = PbsScheduler().dialect.name
    if wanted not in ("auto", found):
        import pytest

        raise pytest.UsageError(f"{VARIABLE} is {wanted!r}; the PBS on PATH is {found!r} by qstat --version")
    return _REAL[found]


def door(name: str) -> Door:
    """The PBS with this name of `DOORS`; what it needs is started.

    The test that asks is skipped if it is not there, or not the real server that the tests are to run on.
    """
    real = real_name()
    if real is not None:
        if real != name:
            import pytest

            pytest.skip(f"{VARIABLE}: the tests run on the real {real}")
        return Door(name, real=True)
    if name in DIALECTS:
        return Door(name, site=shared(name))
    _require_wrappers()
    slurm.shared()
    return Door(name)


def _require_wrappers() -> None:
    """Skip the test that is running if there is no qsub; where the variable CI is set, fail it."""
    if shutil.which("qsub") is None:
        import pytest

        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop("not installed: qsub, qstat, qdel; try: apt-get install slurm-wlm-torque")


def shared(dialect: str) -> Site:
    """The site of this test session with that dialect: started when it is first asked for.

    It ends with the process.  Its commands are found by who puts its `environ` into the environment.
    """
    require()
    with _lock:
        if dialect not in _shared:
            site = Site(dialect)
            site.start()
            atexit.register(site.stop)
            _shared[dialect] = site
        return _shared[dialect]


def shared_logs() -> str:
    """The ends of the logs of the `shared` sites; empty while nobody has asked for one."""
    return "\n".join(f"--- {dialect}\n{site.logs()}" for dialect, site in _shared.items())
