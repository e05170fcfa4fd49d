"""Runs the processes of jobs, as the daemon on a node does (PBS calls it MOM)."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from tests.pbs.dialect import Dialect
from tests.pbs.jobs import HOST, Job, Usage
from tests.slurm.guard import descendants

NOTHING = "/dev/null"

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One that is running: its session, the job in its environment, seconds of CPU and bytes of memory."""

    pid: int
    session: int
    job: Optional[str]
    cpu: float
    resident: int
    virtual: int


def table() -> list[Process]:
    """Every process of every job: all below this one, which adopts what is orphaned there."""
    return [process for pid in descendants([os.getpid()]) for process in _read(Path("/proc", str(pid)))]


def _read(entry: Path) -> Iterator[Process]:
    try:
        text = (entry / "stat").read_text(errors="replace")
        environ = (entry / "environ").read_bytes()
    except OSError:  # it has just ended
        return
    # "pid (name) state ppid pgrp session ...", and a name may hold brackets and spaces
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return
    yield Process(
        pid=int(entry.name),
        session=int(fields[3]),
        job=_variable(environ, "PBS_JOBID"),
        cpu=(int(fields[11]) + int(fields[12])) / TICKS,
        resident=int(fields[21]) * PAGE,
        virtual=int(fields[20]),
    )


def _variable(environ: bytes, name: str) -> Optional[str]:
    for word in environ.decode(errors="replace").split("\0"):
        if word.startswith(f"{name}="):
            return word[len(name) + 1 :]
    return None


def reap(tell: Callable[[int, int, resource.struct_rusage], None]) -> None:
    """Take leave of processes that have ended, orphans among them; of each, tell how and what it has used."""
    while True:
        try:
            pid, outcome, used = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:  # there is none
            return
        if not pid:
            return
        tell(pid, outcome, used)


class Mom:
    """The jobs' processes and files.

    In `directory`, ``home`` is the home directory of jobs, ``undelivered`` has the output that could not be
    brought to where it was wanted.
    """

    def __init__(self, directory: Path, dialect: Dialect) -> None:
        self._dialect = dialect
        self._files = directory / "mom"
        self.home = directory / "home"
        self._undelivered = directory / "undelivered"
        for path in (self._files, self.home, self._undelivered):
            path.mkdir()

    def start(self, job: Job) -> int:
        """Start a job that has got its CPUs; returns its session's id, that of its first process."""
        script = self._path(job, "SC")
        script.write_bytes(job.request.script)
        script.chmod(0o700)
        line = self._path(job, "IN")
        line.write_text(self._dialect.manners.executes.format(shlex.quote(str(script))) + "\n")
        nodefile = self._path(job, "NODES")
        nodefile.write_text(f"{HOST}\n" * job.request.cpus)
        scratch = self._path(job, "TMP")
        scratch.mkdir(exist_ok=True)
        environ = {
            **job.request.inherited,
            "PATH": "/bin:/usr/bin",
            **job.request.variables,
            **self._dialect.environment(job),
            "HOME": str(self.home),
            "SHELL": job.request.shell,
            "TMPDIR": str(scratch),
            "PBS_NODEFILE": str(nodefile),
        }
        begin = [f"cd {shlex.quote(job.request.start_in or str(self.home))} || exit", "unset OLDPWD"]
        begin += [*self._dialect.limits(job), f"exec {shlex.quote(job.request.shell)} -l"]
        out, error = (self._stream(job, stream) for stream in "oe")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", "\n".join(begin)],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, str(line), os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, out, flags, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, error, flags, 0o600),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],  # which Python ignores; jobs must not inherit that
        )

    def processes(self, job: Job, found: Sequence[Process]) -> list[Process]:
        """Those of `found` that belong to the job: by their session or, if the dialect looks there, by
        PBS_JOBID in their environment."""
        by_environment = self._dialect.manners.by_environment
        return [
            process
            for process in found
            if process.session == job.status.session or (by_environment and process.job == job.id)
        ]

    def signal(self, job: Job, number: int) -> bool:
        """Send a signal (0: none) to each process of the job; False if it has none."""
        found = self.processes(job, table())
        for process in found:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:  # it has just ended
                pass
        return bool(found)

    def usage(self, job: Job, found: Sequence[Process]) -> Usage:
        """What the job's processes use now, or have used at most."""
        own = self.processes(job, found)
        before = job.usage or Usage()
        return Usage(
            cpu=sum(process.cpu for process in own),
            memory=max(before.memory, sum(process.resident for process in own) >> 10),
            virtual=max(before.virtual, sum(process.virtual for process in own) >> 10),
        )

    def complain(self, job: Job, complaint: str) -> None:
        """Write a line to the job's standard error, as is done when it exceeds a limit."""
        path = self._stream(job, "e")
        if path != NOTHING:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"=>> PBS: job killed: {complaint}\n")

    def deliver(self, job: Job) -> bool:
        """Bring the job's output to where it was wanted; False if that fails, and then it is undelivered."""
        delivered = True
        for stream, target in self._deliveries(job).items():
            spooled = self._path(job, stream)
            try:
                shutil.copyfile(spooled, target)
            except OSError:
                delivered = False
                shutil.copyfile(spooled, self._undelivered / spooled.name)
        return delivered

    def clean(self, job: Job) -> None:
        """Remove the files of a job that has ended."""
        for path in self._files.glob(f"{job.number}[[]{job.index}].*" if job.array else f"{job.number}.*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()

    def _path(self, job: Job, suffix: str) -> Path:
        return self._files / f"{job.id}.{suffix}"

    def _stream(self, job: Job, stream: str) -> str:
        """The file that the job itself writes its ``o``utput or ``e``rrors to."""
        joined = {"oe": "o", "eo": "e"}.get(job.request.join, stream)
        if joined in job.request.keep:
            return str(self.home / self._dialect.usual_name(job, joined))
        discards = not self._dialect.manners.spools_nothing
        if discards and self._dialect.output_path(job, joined) == NOTHING:
            return NOTHING
        return str(self._path(job, {"o": "OU", "e": "ER"}[joined]))

    def _deliveries(self, job: Job) -> Mapping[str, str]:
        targets = {}
        for stream, suffix in (("o", "OU"), ("e", "ER")):
            if self._path(job, suffix).exists():
                target = self._dialect.output_path(job, stream)
                is_directory = target.endswith("/") or os.path.isdir(target)
                targets[suffix] = os.path.join(target, f"{job.id}.{suffix}") if is_directory else target
        return targets
