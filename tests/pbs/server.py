"""The server of a stand-in: one process that keeps the queue and runs the jobs.

``python -m tests.pbs.server OWNER SETTINGS`` leaves the family of the process that starts it, whose tests
look for leftovers among their children.  When told to, or when process OWNER is gone (killed without a chance
to tidy up), it kills every job and removes its directory.

It listens on two sockets there: ``server`` for the commands of users, which is not there while it plays dead,
and ``control`` for the site itself.
"""

from __future__ import annotations

import asyncio
import json
import marshal
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Optional

from tests.pbs.client import LENGTH, encode
from tests.pbs.commands import Commands
from tests.pbs.dialect import Call, Dialect, Settings
from tests.pbs.engine import Engine
from tests.pbs.jobs import State
from tests.pbs.mom import Mom, reap
from tests.pbs.openpbs import OpenPbs
from tests.pbs.openpbs_qstat import OpenPbsQstat
from tests.pbs.qstat import Qstat
from tests.pbs.torque import Torque
from tests.pbs.torque_qstat import TorqueQstat
from tests.slurm.guard import adopt_orphans, descendants, kill

DIALECTS: dict[str, tuple[type[Dialect], type[Qstat]]] = {
    "torque": (Torque, TorqueQstat),
    "openpbs": (OpenPbs, OpenPbsQstat),
}

PATIENCE = 20.0  # seconds; what the kernel does not let go of until then is left


class Server:
    """The two sockets, and what is asked for on them."""

    def __init__(self, settings: Settings) -> None:
        self._directory = Path(settings.directory)
        dialect_class, qstat = DIALECTS[settings.dialect]
        dialect = dialect_class(settings)
        self._engine = Engine(settings, dialect, Mom(self._directory, dialect))
        self._events = {
            "kill": self._engine.kill,
            "crash": self._engine.crash,
            "purge": self._engine.purge,
            "expire": self._engine.expire,
        }
        self._commands = Commands(self._engine, dialect, qstat)
        self._users: Optional[asyncio.AbstractServer] = None
        self._over = asyncio.Event()

    async def run(self, owner: int) -> None:
        """Serve until told to end, or until process `owner` is gone."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, reap, self._engine.ended)
        loop.add_signal_handler(signal.SIGTERM, self._over.set)
        loop.add_reader(os.pidfd_open(owner), self._over.set)
        await asyncio.start_unix_server(self._control, self._directory / "control")
        await self._up()
        print("ready", flush=True)
        await self._over.wait()

    async def _up(self) -> None:
        self._users = await asyncio.start_unix_server(self._command, self._directory / "server")
        self._engine.resume()

    def _down(self) -> None:
        if self._users is not None:
            self._users.close()
            (self._directory / "server").unlink(missing_ok=True)  # newer Pythons have done that
        self._engine.up = False

    async def _command(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = Call(*await _receive(reader))
            script = b""
            if self._commands.wants_script(call):
                writer.write(encode(None))
                script = await _receive(reader)
            await asyncio.sleep(self._engine.jammed_until - time.time())
            writer.write(encode(tuple(self._commands.answer(call, script))))
        finally:
            writer.close()

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request, job_id = await _receive(reader)
            if request == "up":
                await self._up()
                writer.write(encode([]))
            else:
                writer.write(encode(self._do(request, job_id)))
        finally:
            writer.close()

    def _do(self, request: str, job_id: str) -> list[str]:
        jobs = self._engine.jobs
        unfinished = [job for job in jobs.values() if job.status.state is not State.FINISHED]
        if request == "down":
            self._down()
        elif request in self._events:
            self._events[request](jobs[job_id])
        elif request == "cancel":
            for job in unfinished:
                self._engine.delete(job)
        elif request == "end":
            self._over.set()
        elif request == "states":
            return [part.status.state.value for part in jobs[job_id].elements or [jobs[job_id]]]
        return [job.id for job in unfinished]


async def _receive(reader: asyncio.StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(LENGTH), "big")
    return marshal.loads(await reader.readexactly(size))


def end(directory: Path) -> None:
    """Leave nothing behind: no process below this one, no file."""
    deadline = time.monotonic() + PATIENCE
    while descendants([os.getpid()]) and time.monotonic() < deadline:
        kill(descendants([os.getpid()]))
        time.sleep(0.01)
        reap(lambda pid, outcome, used: None)
    shutil.rmtree(directory, ignore_errors=True)


def main(owner: int, settings: Settings) -> None:
    """Leave the owner's family, and be a server."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir(settings.directory)
    adopt_orphans()

    async def serve() -> None:
        await Server(settings).run(owner)

    try:
        asyncio.run(serve())
    finally:
        end(Path(settings.directory))


if __name__ == "__main__":
    main(int(sys.argv[1]), Settings(**json.loads(sys.argv[2])))
