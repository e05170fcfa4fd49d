"""A stand-in for a site with TORQUE or OpenPBS: ``with Site("torque") as site: site.run("qstat")``.

One process keeps its queue and runs its jobs, `tests.pbs.server`; its commands are `tests.pbs.client`.  They,
the jobs and one directory with all files are gone after it, however the process that started it ends.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from tests.pbs import client
from tests.pbs.commands import NAMES
from tests.pbs.dialect import Settings
from tests.support import REPOSITORY, wait_until

DIALECTS = ("torque", "openpbs")
UNLIMITED = 1 << 30


class Site:
    """A queue of one kind of PBS, ``torque`` or ``openpbs``, and one node; a context manager.

    The node has `slots` CPUs.  What qstat shows is `lag` seconds old.  Jobs are remembered for `keep` seconds
    after their end, and killed if they have not ended `kill_delay` seconds after they were asked to.  Arrays
    have at most `max_array` elements (None: as the server has it that nobody has configured), users at most
    `max_queued` jobs and elements at a time.  `refuses_root`: as TORQUE does; here not by default, so that
    tests can run as root.  `history` False: jobs are forgotten at their end, and OpenPBS says so to -x.

    `directory` is where its files are, `environ` what its users need in their environment.
    """

    directory: Path
    environ: dict[str, str]

    def __init__(
        self,
        dialect: str,
        slots: int = 4,
        lag: float = 0.0,
        *,
        keep: float = 300.0,
        kill_delay: float = 2.0,
        max_array: Optional[int] = None,
        max_queued: int = UNLIMITED,
        refuses_root: bool = False,
        history: bool = True,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"no dialect of PBS: {dialect!r}")
        usual = {"torque": UNLIMITED, "openpbs": 10000}[dialect]
        self.dialect = dialect
        self._settings = Settings(
            directory="",
            dialect=dialect,
            slots=slots,
            lag=lag,
            keep=keep if history else 0.0,
            kill_delay=kill_delay,
            max_array=usual if max_array is None else max_array,
            max_queued=max_queued,
            refuses_root=refuses_root,
            history=history,
        )
        self._before: Mapping[str, Optional[str]] = {}

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, Exception):
            print(self.logs(), file=sys.stderr)
        self.stop()

    # Its life

    def start(self) -> None:
        """Start the server.  RuntimeError if that fails; its log is on stderr then."""
        # Not in TMPDIR: the path of a Unix socket has 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="cfpbs-", dir="/tmp"))
        commands = self.directory / "bin"
        commands.mkdir()
        for name in NAMES:
            self._write_command(commands / name)
        self.environ = {"PATH": f"{commands}:{os.environ['PATH']}"}
        self._owner = os.getpid()
        settings = json.dumps(self._settings._replace(directory=str(self.directory))._asdict())
        with (self.directory / "log").open("w") as log:
            parent = subprocess.Popen(
                [sys.executable, "-E", "-s", "-m", "tests.pbs.server", str(self._owner), settings],
                cwd=REPOSITORY,
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert parent.stdout is not None
        self._life = parent.stdout
        parent.wait()  # the server itself has left this process's family
        if self._life.readline() != "ready\n":
            print(self.logs(), file=sys.stderr)
            self._life.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            raise RuntimeError("the server has not started")

    def stop(self) -> None:
        """End everything and remove it.  RuntimeError if something stays behind."""
        if os.getpid() != self._owner:  # a fork of the process whose site it is
            return
        self.deactivate()
        try:
            self._control("end")
        except (OSError, EOFError):  # somebody has ended the server
            pass
        with self._life:
            self._life.read()  # until it has left
        if self.directory.exists():
            raise RuntimeError(f"the site has left behind {self.directory}")

    def activate(self) -> None:
        """Make it the PBS of this process and of what it starts, until `deactivate` or `stop`."""
        self._before = {name: os.environ.get(name) for name in self.environ}
        os.environ.update(self.environ)

    def deactivate(self) -> None:
        """Make the environment what it was before `activate`."""
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        self._before = {}

    # What a user does with it

    def run(self, *argv: str, timeout: float = 30.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command with this site as its PBS; `options` are those of `subprocess.run`."""
        options = {"env": {**os.environ, **self.environ}, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        words = [shutil.which(argv[0], path=self.environ["PATH"]) or argv[0], *argv[1:]]
        return subprocess.run(words, timeout=timeout, capture_output=True, text=True, **options)

    def query(self, *argv: str, **options: Any) -> str:
        """What a command prints, without the space around it; AssertionError if it fails."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{shlex.join(argv)}: exit {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The id of a new job that runs a shell `script`; `options` are words for qsub.

        Its output goes nowhere unless an option says otherwise.
        """
        nowhere = ("-o", "/dev/null", "-e", "/dev/null")
        return self.query("qsub", *nowhere, *options, input=f"#!/bin/sh\n{script}\n")

    def states(self, job_id: str) -> list[str]:
        """The state of a job, or of each element of an array, as the server knows it now.

        Letters are those of OpenPBS: a job that has ended is in state F, not in TORQUE's C.
        """
        return self._control("states", job_id)

    def wait_state(self, job_id: str, states: Collection[str], timeout: float = 30.0) -> None:
        """Wait until the job, or each element of the array, is in one of `states`."""

        def there() -> bool:
            return set(self.states(job_id)) <= set(states)

        wait_until(there, timeout, lambda: self.states(job_id), interval=0.02)

    def cancel_all(self) -> None:
        """Delete every job; `idle` waits for their end."""
        self._control("cancel")

    def idle(self, timeout: float = 30.0) -> None:
        """Wait until no job is queued, running or ending."""

        def unfinished() -> list[str]:
            return self._control("unfinished")

        wait_until(lambda: not unfinished(), timeout, unfinished, interval=0.02)

    # What happens to it

    def stop_server(self) -> None:
        """From now on no command reaches the server, and it starts no job; those that run go on."""
        self._control("down")

    def start_server(self) -> None:
        """The server is back."""
        self._control("up")

    def kill_job(self, job_id: str) -> None:
        """Kill all processes of a job (SIGKILL), as the kernel does when a node has no memory left."""
        self._control("kill", job_id)

    def crash_node(self, job_id: str) -> None:
        """The node of this running job is switched off and on again; the server tells of it."""
        self._control("crash", job_id)

    def purge_job(self, job_id: str) -> None:
        """The server forgets a job, as when its node is gone for good; its processes are killed."""
        self._control("purge", job_id)

    def expire_job(self, job_id: str) -> None:
        """A running job's wall time ends now."""
        self._control("expire", job_id)

    @contextmanager
    def held(self, command: str) -> Iterator[None]:
        """Within this, a command does its work, but ends when this has ended."""
        flag = self.directory / f"held.{command}"
        flag.touch()
        try:
            yield
        finally:
            flag.unlink()

    def calls(self, command: str) -> list[list[str]]:
        """The words of each call of a command so far, without its name."""
        path = self.directory / "calls"
        lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
        return [words for name, *words in map(ast.literal_eval, lines) if name == command]

    def logs(self, lines: int = 40) -> str:
        """The last `lines` lines of the server's log."""
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-lines:])

    def _control(self, request: str, job_id: str = "") -> list[str]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.directory}/control")
            with connection.makefile("rwb") as stream:
                stream.write(client.encode((request, job_id)))
                stream.flush()
                answer: list[str] = client.receive(stream)
        return answer

    def _write_command(self, path: Path) -> None:
        words = [sys.executable, "-I", "-S", client.__file__, str(self.directory), self.dialect, path.name]
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)
