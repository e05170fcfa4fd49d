"""The daemons of one cluster, as the process sees them that starts and ends them; see `tests.slurm.guard`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.slurm import guard
from tests.support import wait_until


class Daemons:
    """Programs that run in `directory` with `environ` and nothing else in their environment.

    When `end` is called, or this process ends in any way, they and all that they started are killed, and
    `directory` and `cgroups` removed.
    """

    def __init__(self, directory: Path, environ: Mapping[str, str], cgroups: Sequence[Path]) -> None:
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        (directory / "log").mkdir()
        words = [str(os.getpid()), str(directory), *map(str, cgroups)]
        with (directory / "log" / "guard.err").open("w") as log:
            parent = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *words],
                cwd=directory,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert parent.stdin is not None
        assert parent.stdout is not None
        self._requests, self._answers = parent.stdin, parent.stdout
        parent.wait()  # the guard itself has left this process's family

    def start(self, name: str, *argv: str) -> None:
        """Start a program that is meant to run until `stop`."""
        self._ask(do="start", name=name, argv=argv)
        self._wanted.add(name)

    def stop(self, name: str, number: signal.Signals) -> None:
        """Send a program the signal that ends it, and wait for that."""
        self._wanted.discard(name)
        self._ask(do="signal", name=name, number=number)
        wait_until(lambda: name not in self._running(), describe=f"the end of {name}")

    def wait(self, predicate: Callable[[], object], timeout: float = 30.0) -> None:
        """Wait for `predicate`; RuntimeError as soon as a program has ended by itself."""

        def holds() -> object:
            ended = self._wanted.difference(self._running())
            if ended:
                raise RuntimeError(f"ended by itself: {', '.join(sorted(ended))}")
            return predicate()

        wait_until(holds, timeout, interval=0.05)

    def destroy(self, name: str) -> None:
        """Kill a program and everything that stems from it, as when its machine is switched off."""
        self._wanted.discard(name)
        self._ask(do="destroy", name=name)

    def end(self) -> None:
        """End all of it, and remove the directory and the control groups."""
        with suppress(BrokenPipeError), self._requests:  # somebody has ended the guard, and so the rest
            print(json.dumps({"do": "end"}), file=self._requests)
        with self._answers:
            self._answers.read()  # until it has left

    def _running(self) -> list[str]:
        return self._ask(do="list")

    def _ask(self, **request: object) -> list[str]:
        with self._lock:
            try:
                print(json.dumps(request), file=self._requests, flush=True)
                answer: list[str] = json.loads(self._answers.readline())
            except (BrokenPipeError, json.JSONDecodeError) as error:
                raise RuntimeError("the guard has ended, and with it all that it kept") from error
        return answer
