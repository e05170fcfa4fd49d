"""Processes of this machine that are not our children: whether one lives, and whether it is the one meant."""

from __future__ import annotations

import os
import socket
import subprocess


def kernel() -> str:
    """What processes have in common that can see each other: one boot of one machine, one container."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def started(pid: int) -> str:
    """When a process has started, in the system's own terms: together with the number it is unique.

    Empty if there is no such process; a zombie is none.
    """
    if not os.path.isdir("/proc/self"):
        state, _, when = _ps(pid, "stat=,lstart=").strip().partition(" ")
        return "" if state.startswith("Z") else when.strip()
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # proc(5): the 22nd field, in ticks since the boot


def arguments(pid: int) -> bytes:
    """The command line of a process as one text; empty if there is none that could be read."""
    if not os.path.isdir("/proc/self"):
        return os.fsencode(_ps(pid, "command="))
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def everybody() -> list[int]:
    """The numbers of all processes that can be seen."""
    if os.path.isdir("/proc/self"):
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    done = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def _ps(pid: int, fields: str) -> str:
    command = ["ps", "-o", fields, "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
