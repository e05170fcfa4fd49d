"""One writer at a time to a file that tasks on any node share.

Each entry of a `SerialWriter` gets the lock (:mod:`~clusterfutures.writing.locks`), opens the file anew, and
flushes, closes and fsyncs it before the lock is let go: whoever is next sees what was written.
"""

from __future__ import annotations

import builtins
import csv
import inspect
import io
import json
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Optional, Union

from clusterfutures.writing.leases import remove
from clusterfutures.writing.locks import LEASE_TIMEOUT, LOGGER, Hold, Lock

Path = Union[str, "os.PathLike[str]"]
Row = Union[Mapping[str, Any], Sequence[Any]]


class Writer:
    """What all writers share: ``with`` gives what the opener returned, in each thread its own; pickling."""

    def __init__(
        self,
        path: Path,
        opener: Optional[Callable[..., Any]],
        timeout: Optional[float],
        lease: Optional[bool],
        lease_timeout: float,
        keywords: dict[str, Any],
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.timeout = timeout
        self._open = builtins.open if opener is None else opener
        self._keywords = _text_unless_bytes(keywords) if opener is None else keywords
        self._lease = lease
        self._lease_timeout = lease_timeout
        self._entered = threading.local()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_entered"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _entered=threading.local())

    def __enter__(self) -> Any:
        session = self._session()
        handle = session.__enter__()
        self._entered.session = session
        return handle

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> Optional[bool]:
        session = self._entered.session
        del self._entered.session
        return bool(session.__exit__(kind, error, traceback))

    def _session(self) -> AbstractContextManager[Any]:
        """One ``with`` block."""
        raise NotImplementedError

    @contextmanager
    def _locked(self) -> Iterator[tuple[str, Hold]]:
        """The file's real path, while its lock is held."""
        path = os.path.realpath(self.path)
        lock = Lock(path + ".lock", path, self._lease, self._lease_timeout)
        with lock.hold(self.timeout) as hold:
            look_for(path)
            _cut_torn_record(path, hold)
            yield path, hold


class SerialWriter(Writer):
    """Write to one file in turn, from threads, processes and nodes, inside and outside of tasks.

    >>> import tempfile; folder = tempfile.mkdtemp()
    >>> writer = SerialWriter(f"{folder}/notes.txt")
    >>> with writer as file:
    ...     _ = file.write("from one task at a time")

    The ``with`` statement gives what `open` returns.  An object can be used again, by several threads at
    once, and be an argument of a task.  It is not reentrant.

    Parameters
    ----------
    path : str or os.PathLike
        The file.  Beside it comes a directory, ``path.lock``; its parent must exist.
    open : callable, optional
        Called as ``open(path, **keywords)``: `h5py.File`, `sqlite3.connect`, `netCDF4.Dataset`,
        `pyasdf.ASDFDataSet` ...  It must be picklable if the writer is to be.  None: the built-in one, to
        append text in UTF-8.
    timeout : float, optional
        Seconds to wait for the others; None: for ever.
    atomic : bool
        Work on a copy, and put it in the file's place at the end: the file is always whole, whoever reads
        it and whenever a writer is killed.  An exception in the block leaves the file as it was.  Every
        entry costs a copy of the file.
    lease : bool, optional
        Whether nodes exclude each other by a lease and not by locks of the file system; None: as the mount
        options of the directory say.
    lease_timeout : float
        Seconds after which a holder that does not renew its lease has lost it.
    **keywords
        For `open`.

    Entering raises LockTimeout, which tells who holds the lock, and what `open` raises.  Leaving raises
    LeaseLost where this process stood still for so long that another was let in, and OSError where data
    could not be written.
    """

    def __init__(
        self,
        path: Path,
        open: Optional[Callable[..., Any]] = None,  # noqa: A002 - as the io module calls an opener
        timeout: Optional[float] = None,
        *,
        atomic: bool = False,
        lease: Optional[bool] = None,
        lease_timeout: float = LEASE_TIMEOUT,
        **keywords: Any,
    ) -> None:
        super().__init__(path, open, timeout, lease, lease_timeout, keywords)
        self.atomic = atomic

    # -- ready ways -----------------------------------------------------------------------------

    def append_line(self, line: str) -> None:
        """Append a line of text, of any length, in UTF-8; its newline is added.

        A line is there whole or not at all: what a killed writer left of one is cut off by the next.
        ValueError if there is a newline within it.
        """
        self.append_lines([line])

    def append_lines(self, lines: Iterable[str]) -> None:
        """Append several lines, one right after the other; as `append_line`, all of them or none."""
        text = "".join(map(_whole_line, lines))
        if text:
            self._append(lambda path: text)

    def append_json(self, value: Any) -> None:
        """Append `value` as a line of JSON; as `append_line`, and raises what json.dumps raises."""
        self.append_line(json.dumps(value))

    def append_row(self, row: Row, header: Optional[Sequence[str]] = None) -> None:
        """Append a row of CSV; as `append_line`.

        A file that is empty, or not there yet, gets the `header` first, by default the keys of a row that
        is a mapping.  Such a row goes into the columns of the header that the file has; KeyError for a key
        that has no column there.  Columns that it does not have stay empty.
        """
        self._append(lambda path: _csv_text(path, row, header))

    # -- how ------------------------------------------------------------------------------------

    @contextmanager
    def _session(self) -> Iterator[Any]:
        with self._target() as path, opened(self._open, path, self._keywords) as handle:
            yield handle

    @contextmanager
    def _target(self) -> Iterator[str]:
        """The path to be written to while the lock is held: the file, or a copy that takes its place."""
        with self._locked() as (path, hold):
            if self.atomic:
                with _replacing(path, hold) as copy:
                    yield copy
                return
            try:
                yield path
            finally:
                sync(path)
            hold.check()

    def _append(self, make: Callable[[str], str]) -> None:
        if self.atomic:
            with self._target() as path:
                _write_at_end(path, make(path).encode())
            return
        with self._locked() as (path, hold):
            data = make(path).encode()
            length = _length(path)
            hold.check()
            # From here on until the lock is let go, the next holder would cut the file again.
            hold.note_undo(length)
            try:
                _write_at_end(path, data)
                sync(path)
            except BaseException:
                _cut(path, length)
                raise
            hold.check()


# Opening and closing ---------------------------------------------------------------------------------------


@contextmanager
def opened(opener: Callable[..., Any], path: str, keywords: Mapping[str, Any]) -> Iterator[Any]:
    """What `opener` returns; at the end flushed (and committed, if there was no error) and closed."""
    handle = _call(opener, path, keywords)
    if not hasattr(handle, "close") and hasattr(handle, "__enter__"):
        with handle as entered:
            yield entered
        return
    try:
        yield handle
        if not _is_closed(handle):
            _flush(handle)
    finally:
        if not _is_closed(handle):
            handle.close()


def _text_unless_bytes(keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords for Python's own open: to append, and in UTF-8 if it is text."""
    mode = keywords.get("mode", "a")
    return {"mode": mode, **({} if "b" in mode else {"encoding": "utf-8"}), **keywords}


def _call(opener: Callable[..., Any], path: str, keywords: Mapping[str, Any]) -> Any:
    """Call it; HDF5 is kept from locking, where it would refuse a file system without locks.

    It reads the environment when it is loaded, so that an opener that has an argument for it gets that, too.
    """
    if opener not in (builtins.open, sqlite3.connect):
        os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
        if _takes_locking(opener):
            keywords = {"locking": False, **keywords}
    return opener(path, **keywords)


def _takes_locking(opener: Callable[..., Any]) -> bool:
    try:
        return "locking" in inspect.signature(opener).parameters
    except (TypeError, ValueError):  # of C, without a signature
        return False


def _flush(handle: Any) -> None:
    for name in ("commit", "flush", "sync"):  # sqlite3; files and HDF5; netCDF4
        flush = getattr(handle, name, None)
        if callable(flush):
            flush()


def _is_closed(handle: Any) -> bool:
    """Whether the user has closed it: a file of Python's, or an object of h5py or netCDF4."""
    if getattr(handle, "closed", False) is True or getattr(getattr(handle, "id", None), "valid", 1) == 0:
        return True
    is_open = getattr(handle, "isopen", None)
    return callable(is_open) and not is_open()


# Whole files -----------------------------------------------------------------------------------------------


def look_for(path: str) -> None:
    """Have this node look again whether there is a file at `path` if it believes that there is none."""
    if os.path.exists(path):
        return
    # The server's answer to a change of the directory tells an NFS client that others changed it, too.
    with tempfile.NamedTemporaryFile(prefix=".look-", dir=os.path.dirname(path)):
        pass


@contextmanager
def _replacing(path: str, hold: Hold) -> Iterator[str]:
    """A copy of the file at `path`, in the lock's directory, that takes its place if all goes well."""
    for left in os.listdir(hold.folder):
        if left.startswith("copy-"):
            remove(os.path.join(hold.folder, left))
    copy = os.path.join(hold.folder, f"copy-{secrets.token_hex(8)}{os.path.splitext(path)[1]}")
    try:
        copy_if_there(path, copy)
        yield copy
        replace(copy, path, hold)
    finally:
        remove(copy)


def copy_if_there(path: str, copy: str) -> None:
    """Copy a file with its mode and times; no file, no copy."""
    try:
        shutil.copy2(path, copy)
    except FileNotFoundError:
        pass


def replace(copy: str, path: str, hold: Hold) -> None:
    """Put the file `copy` in the place of `path` for good, unless the lease was lost (LeaseLost)."""
    sync(copy)
    hold.check()
    if os.path.exists(copy):
        os.replace(copy, path)
        sync(os.path.dirname(path))


def sync(path: str) -> None:
    """Have the file or directory at `path`, if there is one, written to its disk or server."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Appending -------------------------------------------------------------------------------------------------


def _cut_torn_record(path: str, hold: Hold) -> None:
    """Cut off what a writer that died left of the record that it was appending."""
    undo = hold.previous.undo if hold.previous else None
    if undo is None:
        return
    if _length(path) > undo:
        LOGGER.warning("%s: cutting off what %s left of its record", path, hold.previous)
        _cut(path, undo)
    hold.note_undo(None)


def _cut(path: str, length: int) -> None:
    if _length(path) > length:
        os.truncate(path, length)
        sync(path)


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _write_at_end(path: str, data: bytes) -> None:
    """Write `data` after what the file has, on a line of its own."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        length = os.fstat(fd).st_size
        if length and os.pread(fd, 1, length - 1) != b"\n":
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            written = os.pwrite(fd, rest, length)
            rest, length = rest[written:], length + written
    finally:
        os.close(fd)


def _whole_line(line: str) -> str:
    """The line with its newline; ValueError if there is another one within it."""
    text = line[:-1] if line.endswith("\n") else line
    if "\n" in text:
        raise ValueError("append_line takes one line, and there is a newline within this one")
    return f"{text}\n"


def _csv_text(path: str, row: Row, header: Optional[Sequence[str]]) -> str:
    """The row, after the header if the file needs one."""
    columns = _csv_columns(path)
    rows = []
    if columns is None:
        columns = list(row) if header is None and isinstance(row, Mapping) else list(header or ())
        if columns:
            rows.append(columns)
    if isinstance(row, Mapping):
        unknown = [key for key in row if key not in columns]
        if unknown:
            raise KeyError(f"{path} has the columns {columns}, and none for {unknown}")
        rows.append([row.get(name, "") for name in columns])
    else:
        rows.append(list(row))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _csv_columns(path: str) -> Optional[list[str]]:
    """The first row of the file; None if it has none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), None)
    except FileNotFoundError:
        return None
