"""Another user of this machine: root can become one, in a child process."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - sockets want it, and the other user may not be able to read it
import os
from collections.abc import Callable

import pytest

OTHER = 65534
"""The user and group id of whoever is not us: nobody's."""


def require() -> None:
    """Skip the test that is running if there is no other user to be; in CI root must find one."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if run_as_other(os.geteuid) != str(OTHER):  # a sandbox that maps but one user
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"this root cannot become user {OTHER}")


def run_as_other(work: Callable[[], object]) -> str:
    """Do `work` in a child process that is the other user; what it returned, or the error's name and text.

    A fork, because the other user may not be able to read our modules.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, _told(work).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        told = file.read().decode()
    os.waitpid(pid, 0)
    return told


def _told(work: Callable[[], object]) -> str:
    try:
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        os.chdir("/")
        return str(work())
    except BaseException as error:  # the answer to most of what is tried
        return f"{type(error).__name__}: {error}"
