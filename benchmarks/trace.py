"""Counting file system operations in what strace wrote about a driver and its workers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tasks import BEGIN, END, WORKER

WRITES = ("write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendfile")

#: What is traced: everything that names a file or lists a directory, what writes, and the births
#: of processes and threads, without which a call could not be put down to its process.
CALLS = ",".join(["%file", "getdents64", "clone", "clone3", "fork", "vfork", *WRITES])

#: Not on the file system that is shared with other nodes, or on none at all.
ELSEWHERE = re.compile(r'"/(proc|sys|dev)(/|")')

KINDS = {
    "creat": "create",
    "mkdir": "create",
    "mkdirat": "create",
    "link": "create",
    "linkat": "create",
    "symlink": "create",
    "symlinkat": "create",
    "open": "open",
    "openat": "open",
    "openat2": "open",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "rmdir": "unlink",
    "getdents64": "list",
    "stat": "stat",
    "lstat": "stat",
    "newfstatat": "stat",
    "statx": "stat",
    "access": "stat",
    "faccessat": "stat",
    "faccessat2": "stat",
    "readlink": "stat",
    "readlinkat": "stat",
}

LINE = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
UNFINISHED = re.compile(r"^(?P<thread>\d+) (?P<start>.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. \w+ resumed>(?P<end>.*)$")
RESULT = re.compile(r" = (?P<value>\d+)$")


@dataclass(frozen=True)
class Call:
    """One system call: the pid of its process, its name, the rest of the line in the trace."""

    pid: int
    name: str
    rest: str

    @property
    def result(self) -> int | None:
        """What it returned; None if it failed."""
        match = RESULT.search(self.rest)
        return int(match["value"]) if match else None

    @property
    def kind(self) -> str | None:
        """Which file system operation it is; None for /proc, a descriptor or no operation."""
        if ELSEWHERE.search(self.rest) or ', "", ' in self.rest:
            return None
        return "create" if "O_CREAT" in self.rest else KINDS.get(self.name)


def strace_command(program: str, output: Path) -> list[str]:
    """Return the words to put before a command whose operations are to be written to `output`."""
    filters = ["-e", f"trace={CALLS}", "-e", "signal=none"]
    return [program, "-f", "-qq", "--seccomp-bpf", "-s", "0", *filters, "-o", str(output)]


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Yield whole calls: strace splits one that another thread's call interrupts."""
    started: dict[str, str] = {}
    for line in lines:
        text = line.rstrip("\n")
        if match := UNFINISHED.match(text):
            started[match["thread"]] = match["start"]
        elif match := RESUMED.match(text):
            yield f"{match['thread']} {started.pop(match['thread'], '').strip()}{match['end']}"
        else:
            yield text


def calls_in(lines: Iterable[str]) -> list[Call]:
    """Return the calls between the two marks that a scenario left."""
    parents: dict[int, int] = {}
    found: list[tuple[int, str, str]] = []
    begun = False
    for line in joined(lines):
        match = LINE.match(line)
        if match is None:
            continue
        thread, name, rest = int(match["thread"]), match["call"], match["rest"]
        birth = RESULT.search(rest) if "CLONE_THREAD" in rest else None
        if birth:
            parents[int(birth["value"])] = thread
        elif f'"{BEGIN}"' in rest:
            begun = True
        elif f'"{END}"' in rest:
            break
        elif begun:
            found.append((thread, name, rest))
    return [Call(process_of(thread, parents), name, rest) for thread, name, rest in found]


def process_of(thread: int, parents: dict[int, int]) -> int:
    """Return the pid of the process of `thread`; `parents` maps threads to those that made them.

    Asked at the end: a new thread's calls can stand in the trace before the call that made it
    returns.
    """
    while thread in parents:
        thread = parents[thread]
    return thread


def read(trace: Path) -> list[Call]:
    """Return the calls in a file that strace wrote."""
    with trace.open(encoding="utf-8", errors="replace") as lines:
        return calls_in(lines)


def count_metadata(trace: Path, tasks: int) -> dict[str, float]:
    """Return the operations per 1000 tasks, failed ones included: four kinds, then each."""
    kinds = Counter(call.kind for call in read(trace))
    measured = ("create", "open", "rename", "unlink")
    total = sum(kinds[kind] for kind in measured)
    each = {kind: kinds[kind] * 1000 / tasks for kind in (*measured, "stat", "list")}
    return {"per 1000": total * 1000 / tasks, **each}


def count_written(trace: Path, size: int) -> dict[str, float]:
    """Return the bytes written to files, pipes and sockets, in units of `size`."""
    written = sum(call.result or 0 for call in read(trace) if call.name in WRITES)
    return {"written": written / size}


def count_opened(trace: Path) -> dict[str, float]:
    """Return the files opened by the worker that opened most, and by all processes together.

    Counts successful opens; `failed` are that worker's look-ups of names that do not exist.
    """
    calls = read(trace)
    workers = {call.pid for call in calls if f'"{WORKER}"' in call.rest}
    named = [call for call in calls if call.kind and f'"{WORKER}"' not in call.rest]
    good = [call for call in named if call.result is not None]
    opened = Counter(call.pid for call in good if call.kind in ("open", "create"))
    failed = Counter(call.pid for call in named if call.result is None)
    return {
        "opened": max((opened[pid] for pid in workers), default=0),
        "failed look-ups": max((failed[pid] for pid in workers), default=0),
        "all processes": sum(opened.values()),
    }
