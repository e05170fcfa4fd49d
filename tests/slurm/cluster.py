"""A private, real Slurm on this machine: ``with Cluster() as cluster: cluster.run("squeue")``.

One directory holds all its files, `tests.slurm.guard` all its processes; both are gone after it, however the
process that started it ends.  `tests.slurm.configuration` says how it is set up.

As root, on a machine with version 1 control groups, it enforces memory limits; an ordinary user gets the same
without that.  Only the user who starts it can use it.
"""

from __future__ import annotations

import os
import pwd
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Optional

from tests.slurm import cgroups, configuration
from tests.slurm.configuration import Ports, Site
from tests.slurm.daemons import Daemons
from tests.support import wait_until

# What must be there, and the Debian package that brings it.
PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}

# Daemons are where an ordinary user's PATH does not look.
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# States of a node that takes jobs, or would if it were not full.
AT_WORK = ("idle", "mixed", "allocated", "completing")

running: list[Cluster] = []
"""Those that this process has started and not stopped."""


def missing() -> list[str]:
    """The commands that a cluster needs and that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=SEARCH) is None]


def advice() -> str:
    """What is missing, and how to install it on Debian and Ubuntu."""
    packages = sorted({PROGRAMS[program] for program in missing()})
    return f"not installed: {', '.join(missing())}; try: apt-get install {' '.join(packages)}"


class Cluster:
    """A controller, nodes ``n1``, ``n2``, ... and accounting; a context manager.

    `accounting` False: no slurmdbd, hence no ``sacct`` and no limits.  `nodes` is their number, `cpus` and
    `memory` (MiB) what each has, whatever the machine has.  `extra` are settings of slurm.conf, added or
    replaced: ``Cluster(MaxArraySize=11)``.

    `directory` is where its files are, `environ` what a client of it needs in its environment, `nodes` the
    names of its nodes, `limits_memory` whether a job that uses too much is killed.
    """

    directory: Path
    environ: dict[str, str]

    def __init__(
        self, accounting: bool = True, nodes: int = 2, cpus: int = 4, memory: int = 8000, **extra: object
    ) -> None:
        self.accounting = accounting
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.limits_memory = cgroups.available()
        self._user = pwd.getpwuid(os.geteuid()).pw_name
        self._cpus = cpus
        self._memory = memory
        self._extra = extra
        self._before: Mapping[str, Optional[str]] = {}

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, Exception):
            print(self.logs(), file=sys.stderr)
        self.stop()

    # Its life

    def start(self) -> None:
        """Start everything and wait until all nodes take jobs.  What goes wrong leaves the logs on stderr."""
        # Not in TMPDIR: the path of a Unix socket has 107 bytes at most.
        self.directory = Path(tempfile.mkdtemp(prefix="cfslurm-", dir="/tmp"))
        self.environ = {"SLURM_CONF": f"{self.directory}/slurm.conf"}
        self._groups = cgroups.paths(self.directory.name) if self.limits_memory else []
        self._owner = os.getpid()
        running.append(self)
        daemon_environ = {**self.environ, "PATH": SEARCH, "MYSQL_UNIX_PORT": f"{self.directory}/db.sock"}
        self._daemons = Daemons(self.directory, daemon_environ, self._groups)
        try:
            self._write_files()
            self._start_daemons()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def stop(self) -> None:
        """End everything and remove it.  RuntimeError if something stays behind."""
        if os.getpid() != self._owner:  # a fork of the process whose cluster it is
            return
        self.deactivate()
        running.remove(self)
        self._daemons.end()
        left = [str(path) for path in [self.directory, *self._groups] if path.exists()]
        if left:
            raise RuntimeError(f"the cluster has left behind {', '.join(left)}")

    def activate(self) -> None:
        """Make it the Slurm of this process and of what it starts, until `deactivate` or `stop`."""
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
        """Run a command with this cluster as its Slurm; `options` are those of `subprocess.run`."""
        options = {"stdin": subprocess.DEVNULL, "env": {**os.environ, **self.environ}, **options}
        return subprocess.run(argv, timeout=timeout, capture_output=True, text=True, **options)

    def query(self, *argv: str) -> str:
        """What a command prints, without the space around it; AssertionError if it fails."""
        done = self.run(*argv)
        assert done.returncode == 0, f"{shlex.join(argv)}: exit {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """The id of a new job that runs a shell `script`; `options` are words for sbatch.

        Its output goes nowhere unless an option says otherwise.
        """
        return self.query("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")

    def states(self, job_id: str) -> list[str]:
        """The state of a job, or of each element of a job array, such as ``["RUNNING"]``."""
        return self.run("squeue", "-h", "-r", "-t", "all", "-j", job_id, "-o", "%T").stdout.split()

    def wait_state(self, job_id: str, states: Collection[str], timeout: float = 30.0) -> None:
        """Wait until the job, or each element of the job array, is in one of `states`."""

        def there() -> bool:
            seen = self.states(job_id)
            return bool(seen) and set(seen) <= set(states)

        wait_until(there, timeout, describe=lambda: self.states(job_id), interval=0.1)

    def queue(self, *options: str) -> list[str]:
        """The ids of all jobs and elements of job arrays that have not ended, or of what `options` select."""
        return self.query("squeue", "-h", "-r", "-o", "%i", *options).split()

    def cancel_all(self) -> None:
        """Cancel every job; `idle` waits for their end."""
        self.query("scancel", "-u", self._user)

    def idle(self, timeout: float = 30.0) -> None:
        """Wait until no job is queued, running or ending."""

        def queue() -> str:
            return self.query("squeue", "-h", "-o", "%i %T %R")

        wait_until(lambda: not queue(), timeout, describe=queue, interval=0.1)

    def expire(self, job_id: str) -> None:
        """Let a running job's wall time end now.  Slurm looks for such jobs twice a minute.

        In the second in which a job has started, Slurm takes that for an invalid time.
        """

        def refusal() -> str:
            return self.run("scontrol", "update", f"JobId={job_id}", "EndTime=now").stderr

        wait_until(lambda: not refusal(), describe=refusal, interval=0.3)

    def requeue(self, job_id: str) -> None:
        """Put a running job back into the queue, to start again in seconds; Slurm itself waits two minutes.

        A little it has to: what starts in the very second of its requeue is killed, its credential revoked.
        """
        self.query("scontrol", "requeue", job_id)
        self.wait_state(job_id, ["PENDING"])
        self.query("scontrol", "update", f"JobId={job_id}", "StartTime=now+2")

    # What happens to it

    def node_state(self, node: str) -> str:
        """Such as ``idle``, ``mixed``, ``down``, with a ``*`` while the node does not answer."""
        return self.run("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T").stdout.strip()

    def wait_node(self, node: str, states: Collection[str], timeout: float = 45.0) -> None:
        """Wait until the node is in one of `states`."""
        wait_until(lambda: self.node_state(node) in states, timeout, lambda: self.node_state(node), 0.1)

    def kill_node(self, node: str, jobs: bool = True) -> None:
        """Kill a node's slurmd and its jobs, as when a machine is switched off.

        With `jobs` False they run on, as on a machine that is cut off.  Slurm takes some 20 s to notice, and
        12 s with ``Cluster(SlurmdTimeout=3, MessageTimeout=3)``.
        """
        if jobs:
            self._daemons.destroy(node)
        else:
            self._daemons.stop(node, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd and wait until the node takes jobs."""
        self._daemons.start(node, "slurmd", "-D", "-N", node)
        self._daemons.wait(lambda: self.node_state(node) in AT_WORK)

    def stop_controller(self) -> None:
        """End slurmctld in good order: it saves its state."""
        self._daemons.stop("slurmctld", signal.SIGTERM)

    def start_controller(self, *options: str) -> None:
        """Start slurmctld and wait until it answers; with the option ``-c`` it knows of no earlier job."""
        self._daemons.start("slurmctld", "slurmctld", "-D", *options)
        self._daemons.wait(lambda: self.run("sinfo").returncode == 0)

    def stop_accounting(self) -> None:
        """End slurmdbd; its database runs on."""
        self._daemons.stop("slurmdbd", signal.SIGTERM)

    def start_accounting(self) -> None:
        """Start slurmdbd and wait until it answers."""
        self._daemons.start("slurmdbd", "slurmdbd", "-D")
        self._daemons.wait(lambda: self.run("sacctmgr", "show", "cluster").returncode == 0)

    def logs(self, lines: int = 20) -> str:
        """The last `lines` lines that each daemon has written."""
        tails = []
        for path in sorted(self.directory.glob("log/*")):
            if path.suffix == ".err" and path.with_suffix(".log").exists():
                continue  # what has opened its log repeats it there
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {path.name}", *tail]))
        return "\n".join(tails)

    # How it starts

    def _write_files(self) -> None:
        for name in ("state", "spool", *(f"spool/{node}" for node in self.nodes)):
            (self.directory / name).mkdir()
        for number in range(configuration.GPUS):
            (self.directory / f"gpu{number}").symlink_to(os.devnull)  # Slurm wants devices
        if self.limits_memory:
            cgroups.create(self.directory.name, self.directory / "cgroup")
        private = {"munge.key": os.urandom(128)}
        for name, text in configuration.files(self._site(), self._extra).items():
            private[name] = text.encode()
        for name, content in private.items():
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_bytes(content)

    def _site(self) -> Site:
        slurmctld, slurmdbd, *nodes = free_ports(2 + len(self.nodes))
        return Site(
            directory=self.directory,
            user=self._user,
            ports=Ports(slurmctld, slurmdbd, nodes),
            cpus=self._cpus,
            memory=self._memory,
            accounting=self.accounting,
            cgroups=self.limits_memory,
        )

    def _start_daemons(self) -> None:
        if self.accounting:
            self._daemons.start("mariadbd", "sh", "-c", self._database())
        self._daemons.start("munged", "munged", *self._munged_options())
        self._daemons.wait((self.directory / "munge.sock").exists)
        if self.accounting:
            self._daemons.wait((self.directory / "db.sock").exists)
            self.start_accounting()
            for command in configuration.accounts(self._user):
                self._daemons.wait(partial(self._account, *command.split()))
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)

    def _account(self, *words: str) -> bool:
        """Tell the accounts; a slurmdbd that is busy with its new database may fail, and be told again."""
        done = self.run("sacctmgr", "-i", *words)
        text = done.stdout + done.stderr
        return done.returncode == 0 or "already exists" in text or "Nothing new added" in text

    def _munged_options(self) -> list[str]:
        files = {
            "key-file": "munge.key",
            "socket": "munge.sock",
            "pid-file": "munged.pid",
            "seed-file": "munged.seed",
            "log-file": "log/munged.log",
        }
        paths = [f"--{option}={self.directory}/{name}" for option, name in files.items()]
        return ["--foreground", "--force", "--num-threads=2", *paths]  # it wants directories open to all

    def _database(self) -> str:
        """The shell command that makes a database and serves it to its owner, on a socket alone."""
        both = ["--no-defaults", f"--user={self._user}", f"--datadir={self.directory}/db"]
        login = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={self._user}"]
        # Databases side by side: in one directory they take each other's temporary tables away, and they may
        # use up what the kernel has for asynchronous input and output.
        both += [f"--tmpdir={self.directory}/db.tmp", "--innodb-use-native-aio=0"]
        # No care for the data: nobody wants them after a crash.
        both += ["--innodb-flush-method=nosync"]
        create = ["mariadb-install-db", *both, *login, "--skip-name-resolve", "--skip-test-db"]
        files = [f"--socket={self.directory}/db.sock", f"--pid-file={self.directory}/db.pid"]
        serve = ["mariadbd", *both, *files, "--skip-networking"]
        return f"mkdir {self.directory}/db.tmp && {shlex.join(create)} >&2 && exec {shlex.join(serve)}"


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses, and that the kernel does not give to outgoing connections (32768 and up)."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(10000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody does
                continue
        found.add(port)
    return list(found)
