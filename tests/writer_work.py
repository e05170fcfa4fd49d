"""What the tests of the writer run in processes of their own: crowds of writers, some of them killed.

As a program it forks a crowd, waits for it, and prints how each member ended, as JSON::

    python -m tests.writer_work '{"path": ..., "members": 50, ...}'
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from clusterfutures.writing import leases, locks, shards, tickets, writer
from clusterfutures.writing.locks import Hold
from clusterfutures.writing.shards import ShardedWriter
from clusterfutures.writing.writer import SerialWriter

GATE_LIMIT = 50.0  # seconds; below the time limit of a test


class Crowd(NamedTuple):
    """Writers that are forked, and begin together.

    Attributes: `path`, the file; `way`, how they write: a key of `WAYS`; `members`, how many; `entries`, how
    often each; `records`, how many records at a time; `victims`, the number of a member as text -> the phase
    of its second entry in which it is killed; `options` of the writer.
    """

    path: str
    way: str
    members: int
    entries: int
    records: int
    victims: dict[str, str]
    options: dict[str, Any]


def kill() -> None:
    """End this process as nobody can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(holder: Any, name: str) -> Callable[[], None]:
    """Have the process killed where it would call the function `name` of a module or class."""

    def arm() -> None:
        setattr(holder, name, lambda *args, **kwargs: kill())

    return arm


def after(holder: Any, name: str) -> Callable[[], None]:
    """Have the process killed where that function has been called."""

    def arm() -> None:
        original = getattr(holder, name)

        def and_die(*args: Any, **kwargs: Any) -> None:
            original(*args, **kwargs)
            kill()

        setattr(holder, name, and_die)

    return arm


def within(holder: Any, name: str, argument: int) -> Callable[[], None]:
    """Have it killed when that function has done its work with the first half of an argument."""

    def arm() -> None:
        original = getattr(holder, name)

        def half_and_die(*args: Any) -> None:
            part = args[argument]
            original(*args[:argument], part[: len(part) // 2], *args[argument + 1 :])
            kill()

        setattr(holder, name, half_and_die)

    return arm


def while_waiting() -> None:
    """Have the process killed when it has a place in the queue, which it takes even if nobody waits."""
    tickets.is_empty = lambda queue: False
    before(tickets.Ticket, "position")()


PHASES = {
    "waiting": while_waiting,
    "has the lock": before(Hold, "_write_holder"),
    "has said so": after(Hold, "_write_holder"),
    "opening": before(writer, "_call"),
    "half a record": lambda: None,  # the member does it by itself
    "closing": before(writer, "_flush"),
    "syncing": before(writer, "sync"),
    "replacing": before(os, "replace"),
    "replaced": after(os, "replace"),
    "releasing": before(Hold, "release"),
    "released": after(locks.Hold, "release"),
}
"""Where a writer of whole files can be killed, in the order of what it does."""

APPEND_PHASES = {
    **{name: PHASES[name] for name in ("waiting", "has the lock", "has said so", "syncing", "releasing")},
    "undo noted": after(Hold, "note_undo"),
    "half a line": within(writer, "_write_at_end", 1),
    "written": after(writer, "_write_at_end"),
}
"""Where one that appends can be."""

LEASE_PHASES = {
    "lease taken": after(leases.Lease, "try_acquire"),
    "lease released": after(leases.Lease, "release"),
}

MERGE_PHASES = {
    "folding": before(shards, "_unite"),
    "intent": before(shards, "_write_intent"),
    "intent written": after(shards, "_write_intent"),
    "replaced": after(shards, "replace"),
    "recovering": before(shards, "_recover"),
    "removing": before(shards, "remove"),
}
"""Where a merge can be."""

ALL_PHASES = {**APPEND_PHASES, **PHASES, **LEASE_PHASES}


def write_hdf5(crowd: Crowd, member: int, entry: int, phase: str) -> None:
    """One entry with some datasets: a group for each member."""
    import h5py

    with SerialWriter(crowd.path, open=h5py.File, mode="a", **crowd.options) as file:
        for record in range(crowd.records):
            if phase == "half a record" and record == crowd.records // 2:
                file.flush()
                kill()
            file[f"{member}/{entry}.{record}"] = [member, entry, record]


def write_line(crowd: Crowd, member: int, entry: int, phase: str) -> None:
    """One line; how long it is `records` says, in bytes."""
    text = f"{member} {entry} ".ljust(crowd.records, "x")
    SerialWriter(crowd.path, **crowd.options).append_line(text)


def write_row(crowd: Crowd, member: int, entry: int, phase: str) -> None:
    """One row of a table; how long its text is `records` says."""
    row = {"member": member, "entry": entry, "text": "x" * crowd.records}
    SerialWriter(crowd.path, **crowd.options).append_row(row)


WAYS = {"hdf5": write_hdf5, "line": write_line, "row": write_row}


def run_member(crowd: Crowd, member: int, gate: int) -> None:
    """What one process does, once the pipe `gate` is closed by its parent."""
    os.read(gate, 1)
    phase = crowd.victims.get(str(member), "")
    for entry in range(crowd.entries):
        if phase and entry == 1:
            ALL_PHASES[phase]()
        WAYS[crowd.way](crowd, member, entry, phase if entry == 1 else "")


def run_crowd(crowd: Crowd) -> dict[int, int]:
    """Member -> how it ended, as `os.waitstatus_to_exitcode` tells."""
    import h5py  # noqa: F401 - once, and not in each member

    gate, begin = os.pipe()
    pids = {}
    for member in range(crowd.members):
        pid = os.fork()
        if pid == 0:
            os.close(begin)
            run_forked(crowd, member, gate)
        pids[pid] = member
    os.close(begin)
    ends = {}
    for pid, member in pids.items():
        ends[member] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ends


def run_forked(crowd: Crowd, member: int, gate: int) -> None:
    """Run a member in a forked process, and end that."""
    code = 1
    try:
        run_member(crowd, member, gate)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def shard(path: str, number: int) -> None:
    """A shard with two datasets."""
    import h5py

    with ShardedWriter(path, open=h5py.File, mode="a") as file:
        file[f"shards/{number}"] = number
        file[f"{number}/value"] = [number] * 3


def merge_and_die(path: str, phase: str) -> None:
    """Merge as far as the phase."""
    import h5py

    MERGE_PHASES[phase]()
    ShardedWriter(path, open=h5py.File, mode="a").merge()


def hold(path: str, ready: str, gate: str, node: str = "", **options: Any) -> None:
    """Hold a lock until the file `gate` is there; `ready` is made when it is held."""
    if node:
        locks._boot = lambda: node
    with locks.Lock(path, **options).hold():
        open(ready, "w").close()
        deadline = time.monotonic() + GATE_LIMIT
        while not os.path.exists(gate) and time.monotonic() < deadline:
            time.sleep(0.01)


def main(argument: str) -> None:
    """Run the function that the argument names, by default a crowd."""
    given = json.loads(argument)
    function = globals()[given.pop("function", "crowd")]
    print(json.dumps(function(**given)))


def crowd(**given: Any) -> dict[int, int]:
    """`run_crowd` with plain values."""
    return run_crowd(Crowd(**{"records": 1, "victims": {}, "options": {}, **given}))


def append_in_task(writer: SerialWriter, number: int) -> int:
    """A task with a writer for an argument."""
    writer.append_json({"number": number})
    return number


if __name__ == "__main__":
    main(sys.argv[1])
