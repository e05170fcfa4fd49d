"""Commands of a scheduler: run to their end, or for no longer than they may take."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional, Protocol

log = logging.getLogger("clusterfutures")

TIMEOUT = 60.0
"""Seconds that a command may take: under load schedulers are slow, and commands try again for a while."""


class Completed(NamedTuple):
    """How a command ended, and what it wrote: text in UTF-8, other bytes as surrogates."""

    code: int
    stdout: str
    stderr: str


class Run(Protocol):
    """What runs commands: :func:`run`, or its stand-in in a test."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = TIMEOUT,
        environment: Optional[Mapping[str, str]] = None,
    ) -> Completed:
        """See :func:`run`."""
        raise NotImplementedError


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = TIMEOUT,
    environment: Optional[Mapping[str, str]] = None,
) -> Completed:
    """Run the program `argv` with `stdin` as its input and return how it ended.

    `timeout` is in seconds; `environment` replaces the inherited one.  The command has a session of its own,
    so that Ctrl-C in the terminal of the driver does not end it halfway.

    Raises FileNotFoundError if there is no such program, TimeoutError after `timeout` (what was started is
    killed then, whatever it has started in turn), and other OSErrors if the program cannot be started.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        list(argv), stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(_bytes(stdin), timeout)
        except BaseException as error:
            _kill_group(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutError(f"{argv[0]} did not end within {timeout:g} s") from error
            raise
    log.debug("%s ended with %d", argv, process.returncode)
    return Completed(process.returncode, _text(out), _text(err))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:  # waited for already: its id may be somebody else's by now
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass  # it has just ended by itself


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
