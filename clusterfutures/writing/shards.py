"""A file that is written in pieces and put together: no task waits for another one, and none copies it.

Beside the target is a directory of shards::

    NAME.shards/
      part-ID.EXT      is being written, or was left by a task that died
      shard-ID.EXT     finished
      copy-ID.EXT      the target with the shards in it, which is to take its place
      merging          which copy that is, and which shards are in it
"""

from __future__ import annotations

import io
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

from clusterfutures.writing.leases import remove
from clusterfutures.writing.locks import LEASE_TIMEOUT, Hold
from clusterfutures.writing.writer import Path, Writer, copy_if_there, opened, replace, sync

Fold = Callable[[Any, str], None]


class Merged(NamedTuple):
    """What `ShardedWriter.merge` did.

    Attributes: `folded`, how many shards went into the target; `unfinished`, the paths of those that are
    being written, or were left by a task that died.
    """

    folded: int
    unfinished: list[str]


def fold_shard(target: Any, path: str) -> None:
    """Put the shard at `path` into `target`: an open `h5py.File`, or a file of text or bytes to append to.

    HDF5: groups are united, anything else replaces what has its name.  Text: the shard's lines come after
    those of the target; where both are CSV and begin with the same line, the header, it comes once.
    TypeError for any other target.
    """
    if hasattr(target, "visititems"):
        with type(target)(path, "r", locking=False) as shard:
            _unite(shard, target)
    elif isinstance(target, io.IOBase):
        _append_lines(target, path)
    else:
        raise TypeError(f"say fold=: shards of {type(target).__name__} are neither HDF5 nor text")


class ShardedWriter(Writer):
    r"""Write shards of a file, one for each ``with`` block and all at the same time, and `merge` them.

    >>> import tempfile; folder = tempfile.mkdtemp()
    >>> writer = ShardedWriter(f"{folder}/notes.txt")
    >>> for n in range(3):
    ...     with writer as file:
    ...         _ = file.write(f"shard {n}\n")
    >>> writer.merge().folded
    3

    A shard counts once its block has ended without an exception.  Shards come into the target in the order
    of their beginnings, by their nodes' clocks.

    Parameters are those of SerialWriter without `atomic`, where `timeout` is for the merge, and

    fold : callable, optional
        Called as ``fold(target, path)`` to put the shard at `path` into `target`, which is what `open`
        returned for a copy of the target.  It must be picklable if the writer is to be.  The default knows
        HDF5 and text.
    """

    def __init__(
        self,
        path: Path,
        open: Optional[Callable[..., Any]] = None,  # noqa: A002 - as in SerialWriter
        timeout: Optional[float] = None,
        *,
        fold: Fold = fold_shard,
        lease: Optional[bool] = None,
        lease_timeout: float = LEASE_TIMEOUT,
        **keywords: Any,
    ) -> None:
        super().__init__(path, open, timeout, lease, lease_timeout, keywords)
        self._fold = fold

    def merge(self) -> Merged:
        """Put all finished shards into the target, under its lock, and remove them.

        It works on a copy of the target that takes its place at the end, so there must be room for a second
        one.  A merge that was ended in the middle did nothing or all; run it again.

        Raises LockTimeout, what `open` and `fold` raise, and OSError where data cannot be written.
        """
        folder = _folder(self.path)
        if not _is_listed(folder):
            return Merged(0, [])
        with self._locked() as (path, hold):
            _recover(folder)
            names = sorted(os.listdir(folder))
            shards = [name for name in names if name.startswith("shard-")]
            if shards:
                self._merge(path, folder, shards, hold)
            return Merged(len(shards), [os.path.join(folder, name) for name in names if _is_part(name)])

    def _merge(self, path: str, folder: str, shards: list[str], hold: Hold) -> None:
        name = f"copy-{secrets.token_hex(8)}{_extension(path)}"
        copy = os.path.join(folder, name)
        try:
            copy_if_there(path, copy)
            with opened(self._open, copy, self._keywords) as target:
                for shard in shards:
                    self._fold(target, os.path.join(folder, shard))
            sync(copy)
            hold.check()
        except BaseException:
            remove(copy)
            raise
        # From the record on, a copy that is not there is one that has taken the target's place.
        _write_intent(folder, {"copy": name, "shards": shards})
        replace(copy, path, hold)
        _recover(folder)

    @contextmanager
    def _session(self) -> Iterator[Any]:
        folder = _folder(self.path)
        os.makedirs(folder, exist_ok=True)
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}{_extension(self.path)}"
        part = os.path.join(folder, f"part-{name}")
        try:
            with opened(self._open, part, self._keywords) as handle:
                yield handle
        except BaseException:
            remove(part)
            raise
        sync(part)
        os.replace(part, os.path.join(folder, f"shard-{name}"))
        sync(folder)


def _folder(path: str) -> str:
    return os.path.realpath(path) + ".shards"


def _is_listed(path: str) -> bool:
    """Whether it is there, without looking it up: an NFS would remember of the name that it was not."""
    folder, name = os.path.split(path)
    try:
        return name in os.listdir(folder)
    except FileNotFoundError:
        return False


def _extension(path: str) -> str:
    return os.path.splitext(path)[1]


def _is_part(name: str) -> bool:
    return name.startswith("part-")


def _write_intent(folder: str, intent: dict[str, Any]) -> None:
    path = os.path.join(folder, "merging")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(intent, file)
    sync(path + ".new")
    os.replace(path + ".new", path)
    sync(folder)


def _recover(folder: str) -> None:
    """End a merge: remove its shards if they are in the target, and else its copy; never the shards first."""
    names = os.listdir(folder)
    intent = os.path.join(folder, "merging")
    if "merging" in names:
        with open(intent, encoding="utf-8") as file:
            record = json.load(file)
        if record["copy"] not in names:
            for shard in record["shards"]:
                remove(os.path.join(folder, shard))
            sync(folder)
        remove(intent)
        sync(folder)
    for name in names:
        if name.startswith("copy-"):
            remove(os.path.join(folder, name))


# Folding ---------------------------------------------------------------------------------------------------


def _unite(source: Any, target: Any) -> None:
    """Put the attributes and members of one HDF5 group into another one."""
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name in source:
        if name in target and _is_group(source[name]) and _is_group(target[name]):
            _unite(source[name], target[name])
            continue
        if name in target:
            del target[name]
        source.copy(name, target, name=name)


def _is_group(member: Any) -> bool:
    return hasattr(member, "visititems")


def _append_lines(target: Any, path: str) -> None:
    encoding = getattr(target, "encoding", None)  # None: bytes
    end = b"\n" if encoding is None else "\n"
    newline = None if encoding is None else ""
    with open(path, "rb" if encoding is None else "r", encoding=encoding, newline=newline) as shard:
        first = shard.readline()
        target.flush()
        with open(target.name, shard.mode, encoding=encoding, newline=newline) as before:
            if first and not (path.endswith(".csv") and first == before.readline()):
                target.write(first)
        last = first
        while block := shard.read(1 << 20):
            target.write(block)
            last = block
        if last and not last.endswith(end):
            target.write(end)
