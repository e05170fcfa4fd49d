"""Keeps the daemons of one test cluster, so that none outlives the process that asked for them.

A program of its own, ``python guard.py OWNER DIRECTORY [CGROUP ...]``.  It starts, signals and lists daemons
as lines of JSON on its standard input ask it to, and answers each with one line.  When told to, when its
input is closed, or when process OWNER is gone (killed without a chance to tidy up), it kills every process
below it and removes DIRECTORY and each CGROUP.

It is no child of the owner, whose tests look for leftovers among their children.  Between it and each daemon
stands a *keeper*, which is to the daemon what init is to a machine: what is orphaned there is given to it
(PR_SET_CHILD_SUBREAPER), whatever environment, session or process group that has chosen, and can be killed
with it as when a machine is switched off.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>
PATIENCE = 20.0  # seconds; what the kernel does not let go of until then is left


def descendants(roots: Iterable[int]) -> list[int]:
    """The processes that stem from `roots`, without these, parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # "pid (name) state ppid ...", and a name may hold brackets and spaces
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    parents = list(roots)
    while parents:
        parents = [child for parent in parents for child in children.get(parent, [])]
        found += parents
    return found


def kill(pids: Iterable[int]) -> None:
    """Send SIGKILL to those of `pids` that are still there."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def thaw(cgroups: Iterable[Path]) -> None:
    """Let the processes in `cgroups` run on, those of suspended jobs, since they end only then."""
    for cgroup in cgroups:
        for state in cgroup.glob("**/freezer.state"):
            try:
                state.write_text("THAWED")
            except OSError:  # Slurm has just removed this group
                pass


class Guard:
    """The daemons by name, and what there is to do with them."""

    def __init__(self, owner: int, directory: Path, cgroups: Sequence[Path]) -> None:
        self._owner = owner
        self._directory = directory
        self._cgroups = cgroups
        self._daemons: dict[str, int] = {}
        self._keepers: dict[str, list[int]] = {}  # an earlier one stays as long as something below it

    def serve(self) -> None:
        """Do what the lines on standard input ask for; returns when there is nobody to do it for."""
        child_ended = wakened_by(signal.SIGCHLD)
        owner_gone = os.pidfd_open(self._owner)
        while True:
            ready = select.select([owner_gone, child_ended.fileno(), 0], [], [])[0]
            if child_ended.fileno() in ready:
                child_ended.recv(4096)
            self._reap()
            if owner_gone in ready:
                return
            if 0 in ready:
                request = json.loads(sys.stdin.readline() or '{"do": "end"}')
                if request["do"] == "end":
                    return
                print(json.dumps(self._answer(**request)), flush=True)

    def end(self) -> None:
        """Leave nothing behind: no process below this one, no control group, no file."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._kill_below([os.getpid()], self._cgroups)
        deadline = time.monotonic() + PATIENCE
        while not all(map(remove_cgroup, self._cgroups)) and time.monotonic() < deadline:
            time.sleep(0.01)  # a group is free a moment after the last process in it
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answer(self, do: str, name: str = "", argv: Sequence[str] = (), number: int = 0) -> list[str]:
        """Do it, and return the names of the daemons that are running then."""
        if do == "start":
            keeper, self._daemons[name] = start(argv, Path("log", f"{name}.err"))
            self._keepers.setdefault(name, []).append(keeper)
        elif do == "signal" and name in self._running():
            os.kill(self._daemons[name], number)
        elif do == "destroy":
            self._kill_below(self._keepers[name], [path / f"slurm_{name}" for path in self._cgroups])
        return self._running()

    def _running(self) -> list[str]:
        below = set(descendants([os.getpid()]))
        return [name for name, pid in self._daemons.items() if pid in below]

    def _kill_below(self, roots: Sequence[int], cgroups: Sequence[Path]) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            below = descendants(roots)
            if not below:
                return
            kill(below)
            thaw(cgroups)
            self._reap()
            time.sleep(0.01)

    def _reap(self) -> None:
        """Take leave of children that have ended, adopted ones too, as soon as they have."""
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # there is none
                return
            if not ended:
                return
            for keepers in self._keepers.values():
                if ended in keepers:
                    keepers.remove(ended)


def wakened_by(number: signal.Signals) -> socket.socket:
    """What becomes readable when signal `number` arrives."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.detach())
    signal.signal(number, lambda *_: None)
    return woken


def start(argv: Sequence[str], log: Path) -> tuple[int, int]:
    """Start a command whose output is added to `log`; returns the process ids of its keeper and its own.

    Its own is 0 if it could not be started; the log says why.
    """
    told, tell = os.pipe()
    keeper = os.fork()
    if not keeper:
        try:
            keep(argv, log, tell)
        except OSError as error:
            log.write_text(f"{argv[0]}: {error}\n")
        finally:
            os._exit(0)
    os.close(tell)
    with open(told) as answer:
        return keeper, int(answer.read() or 0)


def keep(argv: Sequence[str], log: Path, tell: int) -> None:
    """Be the keeper of a command: start it, say its process id, and stay until nothing is left of it."""
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    adopt_orphans()
    pid = os.posix_spawnp(
        argv[0],
        list(argv),
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.fspath(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setpgroup=0,
        setsigdef=[signal.SIGPIPE],  # which Python ignores; jobs must not inherit that
    )
    os.write(tell, str(pid).encode())
    os.close(tell)
    while True:
        try:
            os.wait()
        except ChildProcessError:  # there is none left
            return


def adopt_orphans() -> None:
    """Become the parent of what is orphaned below this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def remove_cgroup(path: Path) -> bool:
    """Remove a control group and those below it; False while processes in it are still ending."""
    try:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    except OSError:
        return False
    return True


def main(owner: int, directory: Path, cgroups: Sequence[Path]) -> None:
    """Leave the owner's family, and be a guard."""
    if os.fork():
        os._exit(0)
    os.setsid()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    guard = Guard(owner, directory, cgroups)
    try:
        guard.serve()
    finally:
        guard.end()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
