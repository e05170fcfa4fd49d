"""Logs: files to which one process appends framed records and which others read.

A frame carries its length and checksum, so that a reader can tell a whole record from one that is still
being written, was cut short, or has rotted.  Files grow with what is written, they do not multiply with it:
creating and renaming a file costs a hundred times an append.

A log is a row of segments, ``stem.000000``, ``stem.000001`` ...  On one machine a segment grows in place and
readers see it grow.  Between machines (`shared`) a reader may see a file's size late, so there a segment is
written under the name ``.part``, flushed to the server, renamed and never touched again: a name that
nobody has looked up before is the one thing that no cache can answer wrongly.  The last frame of a
finished segment is ``END``; the reader then goes on with the next one.

What is in them is unpickled, and a pickle is code: a file that somebody else could have written is not read
(`open_own`).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from zlib import crc32

from clusterfutures.light import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "FORMAT",
    "FRAME_HEAD",
    "CorruptRecord",
    "Frame",
    "Location",
    "LogReader",
    "LogWriter",
    "check_own",
    "frame",
    "open_own",
    "parse",
    "pread_all",
    "segment_path",
]

FORMAT = 1
"""Version of frames and of what they hold; a run directory of another one is refused by name."""

SEGMENT_BYTES = 64 << 20
_CHUNK = 16 << 10  # bytes read at first; most often there is one small record
_LARGE_CHUNK = 1 << 20
_HEADER = struct.Struct("<2sBBIQ")  # magic, format, kind, checksum, length of the body
FRAME_HEAD = _HEADER.size
"""Bytes of a frame before its body."""
_MAGIC = b"cF"
_END = 0  # the kind of the frame that ends a segment
_new = tuple.__new__  # half of what calling a named tuple's class costs


class Frame(NamedTuple):
    """One record of a log."""

    kind: int
    body: bytes


class Location(NamedTuple):
    """Where a frame stands in a log: segment number, byte offset, and length of the whole frame."""

    segment: int
    offset: int
    length: int


class CorruptRecord(Exception):
    """A frame that is whole by its length but not by its checksum, or no frame at all."""


def frame(kind: int, body: bytes) -> bytes:
    """`body` framed as a record of `kind` (1-255)."""
    size = len(body)
    # Seeding with kind and length makes one pass cover the header's meaning, too.
    checksum = crc32(body, (kind << 24 ^ size) & 0xFFFFFFFF)
    return _HEADER.pack(_MAGIC, FORMAT, kind, checksum, size) + body


def parse(data: bytes, start: int = 0) -> tuple[list[Frame], int]:
    """The whole frames in `data` from `start` on, and the offset behind the last of them.

    Raises :class:`CorruptRecord` only if nothing precedes the damage: good frames are delivered first.
    """
    frames: list[Frame] = []
    unpack, header, end = _HEADER.unpack_from, _HEADER.size, len(data)
    while start + header <= end:
        magic, version, kind, checksum, size = unpack(data, start)
        stop = start + header + size
        damaged = magic != _MAGIC or version != FORMAT
        if not damaged:
            if stop > end:
                break
            body = data[start + header : stop]
            damaged = crc32(body, (kind << 24 ^ size) & 0xFFFFFFFF) != checksum
        if damaged:
            if frames:
                break
            raise CorruptRecord(f"no valid record at byte {start}")
        frames.append(_new(Frame, (kind, body)))
        start = stop
    return frames, start


def _frame_size(data: bytes) -> int:
    """Length of the frame that begins `data`, 0 if that cannot be told yet."""
    if len(data) < _HEADER.size:
        return 0
    return _HEADER.size + int(_HEADER.unpack_from(data)[4])


def segment_path(directory: str, stem: str, segment: int) -> str:
    """The file of one segment of the log `stem`."""
    # Past a thousand, segments go into folders of a thousand: no directory grows without end.
    if segment < 1000:
        return os.path.join(directory, f"{stem}.{segment:06d}")
    return os.path.join(directory, f"{stem}.d{segment // 1000:03d}", f"{stem}.{segment:06d}")


class LogWriter:
    """The one writer of a log.

    `shared`: readers may be on other machines.  Errors of the file system are raised as they are, and
    leave the log as it was before the call.
    """

    def __init__(self, directory: str, stem: str, *, shared: bool) -> None:
        self._directory, self._stem, self._shared = directory, stem, shared
        self._fd = -1
        self._inherited = False  # what is behind `end` is of an earlier writer
        self.segment = 0
        self.end = 0

    def go_on_after(self, reader: LogReader) -> None:
        """Write behind what `reader` has read, which is everything: the earlier writer is dead.

        What it had not finished writing is overwritten.
        """
        self.segment, self.end, self._inherited = reader.segment, reader.offset, True

    def write(self, data: bytes) -> Location:
        """Append one or more whole frames; returns where the first byte went and how many there are."""
        if self.end >= SEGMENT_BYTES and not self._shared:
            self._finish_segment()
        place = _new(Location, (self.segment, self.end, len(data)))
        self.append(data)
        return place

    def append(self, data: bytes) -> None:
        """:meth:`write` for whoever does not care where: the hot path of the worker."""
        if self._fd < 0:
            self._fd = self._open()
        end = self.end
        done = os.pwrite(self._fd, data, end)
        if done != len(data):
            self._write_rest(data, done)
        self.end = end + len(data)

    def _write_rest(self, data: bytes, done: int) -> None:
        # A short write is how a full disk announces itself.  `end` is not moved, so the next write
        # overwrites the torn record; giving back its blocks lets a smaller one (an error) fit.
        view = memoryview(data)
        try:
            while done < len(data):
                done += os.pwrite(self._fd, view[done:], self.end + done)
        except OSError:
            os.ftruncate(self._fd, self.end)
            raise

    def publish(self) -> None:
        """Make what was written visible on other machines; nothing to do on one machine."""
        if self._shared and self.end:
            self._finish_segment()

    def _finish_segment(self) -> None:
        if self._fd < 0:
            self._fd = self._open()  # the last try failed after it had closed the file
        self._write_rest(frame(_END, b""), 0)
        fd, self._fd = self._fd, -1
        # Closing sends to the server what it has not got yet, and tells of errors: that is what network file
        # systems promise to whoever opens the file later (nfs(5), "close-to-open"), and cheaper than fsync.
        os.close(fd)
        if self._shared:
            path = segment_path(self._directory, self._stem, self.segment)
            os.replace(path + ".part", path)  # if this fails it can be tried again: `end` is where it was
        self.segment += 1
        self.end = 0

    def _open(self) -> int:
        path = segment_path(self._directory, self._stem, self.segment)
        if self.segment >= 1000 and self.segment % 1000 == 0:
            try:
                os.mkdir(os.path.dirname(path), 0o700)
            except FileExistsError:  # from before a close
                pass
        if self._shared:
            path += ".part"
        # Only a file of our own is ever continued, or one that was left to us.
        new = 0 if self.end or self._inherited else os.O_EXCL
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | new, 0o600)
        if self._inherited:
            self._inherited = False
            os.ftruncate(fd, self.end)
        return fd

    def close(self) -> None:
        """Publish and close the descriptor; a later write goes on where this one ended."""
        try:
            self.publish()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptor and nothing else: also in a forked child, where the parent goes on writing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LogReader:
    """Reads one log to its end, again and again.

    `suspect` is True while what follows the last good record cannot be parsed: it may be a write under
    way, so the caller decides when to give up hope.  `known` is a directory that exists, `directory` or one
    above it, where another machine makes those between them.
    """

    def __init__(self, directory: str, stem: str, *, shared: bool, known: str = "") -> None:
        self._directory, self._stem, self._shared = directory, stem, shared
        self._known = known or directory
        self._fd = -1
        self.segment = 0
        self.offset = 0
        self.suspect = False

    def read(self, upto: int = -1, final: bool = False) -> list[Frame]:
        """All whole frames since the last call.

        `upto`: a segment that a doorbell named, hence known to exist.  `final`: the writer is dead, so what
        it had not published yet counts as well.  Raises PermissionError for a file that :func:`open_own`
        refuses.
        """
        frames: list[Frame] = []
        while self._fd >= 0 or self._open(upto, final):
            found = self._read_segment()
            if not found or found[-1].kind != _END:
                return frames + found if frames else found
            frames += found[:-1]
            self._next_segment()
        return frames

    def placed(self) -> Iterator[tuple[Location, Frame]]:
        """Each frame that was not read yet, with its place; the writer is dead, as for `final`.

        Raises :class:`CorruptRecord` behind the last one if it is not the end, but damage.
        """
        while self._fd >= 0 or self._open(-1, True):
            segment, at = self.segment, self.offset
            found = self._read_segment()
            for each in found:
                place = Location(segment, at, FRAME_HEAD + len(each.body))
                at += place.length
                if each.kind != _END:
                    yield place, each
            if not found or found[-1].kind != _END:
                break
            self._next_segment()
        if self.suspect:
            self._check_end()

    def _check_end(self) -> None:
        """Raise :class:`CorruptRecord` unless what follows begins a record, or was never written.

        A node that fails may leave zeros at the end of a file: its size was sent, and its content was not.
        """
        if self._fd >= 0 or self._open(-1, True):
            rest = pread_all(self._fd, os.fstat(self._fd).st_size - self.offset, self.offset)
            parse(rest if rest.strip(b"\0") else b"")
        if self._listed(segment_path(self._directory, self._stem, self.segment + 1)):
            raise CorruptRecord(f"a record of {self._stem} is cut short, and others follow")

    def _open(self, upto: int, final: bool) -> bool:
        path = segment_path(self._directory, self._stem, self.segment)
        if self._shared and self.segment > upto and not self._listed(path):
            # A name is not looked up before it exists: a negative answer would be remembered.
            if not (final and self._listed(path + ".part")):
                return False
            path += ".part"
        try:
            self._fd = open_own(path)
        except FileNotFoundError:
            return False
        return True

    def _listed(self, path: str) -> bool:
        """Whether there is such a name, by listings from the known directory on."""
        directory, name = os.path.split(path)
        if directory != self._known and not self._listed(directory):
            return False
        try:
            found = name in os.listdir(directory)
        except FileNotFoundError:
            return False
        if found and path == self._directory:
            self._known = path
        return found

    def _read_segment(self) -> list[Frame]:
        frames: list[Frame] = []
        # A read that is short for another reason than the file's end gives a piece of a record, and only
        # then is it worth while to ask again.
        read, size = os.pread, _CHUNK
        self.suspect = False
        while True:
            data = read(self._fd, size, self.offset)
            try:
                found, used = parse(data)
            except CorruptRecord:
                self.suspect = True
                break
            frames += found
            self.offset += used
            if found and found[-1].kind == _END:
                break
            if len(data) < size and (used == len(data) or read is pread_all):  # the end of the file
                self.suspect = used < len(data)
                break
            read, size = pread_all, _LARGE_CHUNK
            if not found:
                size = _frame_size(data) or FRAME_HEAD
                # A length is believed as far as the file goes: it may be late, or a bit of it may be wrong.
                if size > os.fstat(self._fd).st_size - self.offset:
                    self.suspect = True
                    break
        if self._shared and not (frames and frames[-1].kind == _END):
            self._close_fd()
        return frames

    def _next_segment(self) -> None:
        self._close_fd()
        self.segment += 1
        self.offset = 0

    def _close_fd(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    close = _close_fd


def open_own(path: str, others: int = 0o022) -> int:
    """A descriptor for reading a file that this user alone can have written.

    `others` are the permissions that nobody else may have.  It is the opened file that is looked at, so what
    its name leads to a moment later does not matter.  Raises PermissionError for what is no plain file,
    belongs to somebody else, gives others those permissions, or has a second name, by which it may have been
    put there by whoever cannot write it; OSError if it cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a symbolic link; refusing it") from error
        raise
    try:
        info = os.fstat(fd)
        check_own(path, info, stat.S_IFREG, others)
        if info.st_nlink > 1:
            raise PermissionError(f"{path} has a second name (a hard link); refusing it")
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_own(path: str, info: os.stat_result, kind: int, others: int) -> None:
    """Raise PermissionError unless `path` is of this kind (S_IFREG, S_IFDIR) and this user's own."""
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_IFMT(info.st_mode) != kind:
        raise PermissionError(f"{path} is a symbolic link or not of the kind expected; refusing it")
    if info.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {info.st_uid}, not to {os.geteuid()}; refusing it")
    if mode & others:
        raise PermissionError(f"{path} is open to others (mode {mode:o}); refusing it")


def pread_all(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes from `offset` on; fewer only where the file ends."""
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    done = len(data)
    while done < length:  # Linux reads at most 2 GiB at a time
        data = os.pread(fd, length - done, offset + done)
        if not data:
            break
        parts.append(data)
        done += len(data)
    return b"".join(parts)
