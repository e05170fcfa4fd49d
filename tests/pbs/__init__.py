"""Stand-ins for TORQUE and OpenPBS, which Debian does not have, and what is tested on them.

``python -m tests.pbs torque`` starts one by hand.

`shared` is the site of all tests that leave it as it was.  Others start a `Site` of their own, which takes a
fifth of a second.
"""

from __future__ import annotations

import atexit
import sys
import threading

from tests.pbs.site import DIALECTS, Site

__all__ = ["DIALECTS", "Site", "require", "shared", "shared_logs"]

_lock = threading.Lock()
_shared: dict[str, Site] = {}


def require() -> None:
    """Skip the test that is running if this is no Linux, whose ``/proc`` the stand-ins need."""
    if sys.platform != "linux":
        import pytest  # here, since scripts and people start sites without it

        pytest.skip("the stand-ins for PBS run on Linux")


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
