"""LocalExecutor where the kernel offers less, as that of macOS does: no epoll, waitid, affinity, /proc, /sys.

A `sitecustomize` takes these away from every process of a run, the driver's included.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import REPOSITORY, ScriptResult, check_no_process_left

pytestmark = pytest.mark.long

# Nothing under /proc or /sys can be found: audit hooks are asked before a file is opened or a folder listed.
SITECUSTOMIZE = """\
import errno, os, select, socket, sys

for module, names in (
    (os, ("waitid", "sched_getaffinity", "sched_setaffinity", "eventfd", "pidfd_open", "pipe2")),
    (select, ("epoll",)),
    (socket, ("SOCK_CLOEXEC", "SOCK_NONBLOCK")),
    (socket._socket, ("SOCK_CLOEXEC", "SOCK_NONBLOCK")),
):
    for name in names:
        vars(module).pop(name, None)

def hide(event, args):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(args[0], (str, bytes)):
        path = os.fsdecode(args[0])
        if path.startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

sys.addaudithook(hide)
"""

HEAD = """\
import os, select, signal, sys, time
from concurrent.futures import wait
from clusterfutures import LocalExecutor, TaskKilled, TaskTimeout, WorkerLost
from tests import local_work as work
from tests.support import wait_until

LIMIT = 40.0

def pool(workers=1, **options):
    return LocalExecutor(workers, doorbell={bell}, keep="never", **options)

def began(log):
    wait_until(lambda: work.notes(log), LIMIT)

"""

SCRIPTS = {
    "work": """
def lacks():
    try:
        open("/proc/self/status")
    except FileNotFoundError:
        return not (hasattr(os, "waitid") or hasattr(select, "epoll") or hasattr(os, "sched_getaffinity"))

with LocalExecutor(doorbell={bell}) as ex:
    assert lacks() and ex.submit(lacks).result(LIMIT)
    assert list(ex.map(abs, range(2000), timeout=LIMIT)) == [*range(2000)]
    assert not wait([ex.submit(abs, n) for n in range(200)], LIMIT).not_done
""",
    "a worker that dies": """
with pool() as ex:
    lost, fine = ex.submit(os.abort), ex.submit(abs, -1)
    error = lost.exception(LIMIT)
    assert type(error) is WorkerLost and error.signal == "SIGABRT", error
    assert fine.result(LIMIT) == 1
""",
    "kill": """
with pool() as ex:
    held, fine = ex.submit(work.note_and_sleep, "log", 0, work.LONG), ex.submit(abs, -1)
    began("log")
    assert held.kill()
    assert type(held.exception(LIMIT)) is TaskKilled
    assert fine.result(LIMIT) == 1
""",
    "timeout": """
with pool() as ex:
    assert type(ex.options(timeout=0.1).submit(time.sleep, work.LONG).exception(LIMIT)) is TaskTimeout
    assert ex.options(timeout=work.LONG).submit(abs, -1).result(LIMIT) == 1
""",
    "abort": """
try:
    with pool(2) as ex:
        held = ex.submit(work.note_and_sleep, "log", 0, work.LONG)
        waits = [ex.submit(time.sleep, work.LONG) for _ in range(4)]
        began("log")
        raise KeyError
except KeyError:
    pass
assert type(held.exception(LIMIT)) is TaskKilled
assert any(future.cancelled() for future in waits)
""",
    "a supervisor that dies": """
with pool() as ex:
    held, fine = ex.submit(work.note_pids_and_sleep, "log"), ex.submit(abs, -1)
    began("log")
    os.kill(int(work.notes("log")[1]), signal.SIGKILL)
    assert isinstance(held.exception(LIMIT), WorkerLost)
    assert fine.result(LIMIT) == 1
""",
}


@pytest.mark.parametrize("bell", [True, False], ids=["bell", "polling"])
@pytest.mark.parametrize("what", SCRIPTS)
def test_with_what_macos_has(run: Callable[..., ScriptResult], tmp_path: Path, what: str, bell: bool) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join([str(site), str(REPOSITORY)])
    result = run((HEAD + SCRIPTS[what]).format(bell=bell), env={"PYTHONPATH": path}).check()
    assert result.stderr == ""
    check_no_process_left()
