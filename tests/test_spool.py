"""The run directory and its logs: what is written arrives once, whole and in order, and nothing else does.

Damage is made the way disks, quotas and network file systems make it: frames cut anywhere, bits that flip,
writes that are short, renames that fail, names that are not there yet.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfutures import logs, spool
from clusterfutures.logs import CorruptRecord, Frame, Location, LogReader, LogWriter, frame, parse
from clusterfutures.spool import RunDirectory, WorkerRef, publish, read_private
from tests.support import REPOSITORY

MODES = pytest.mark.parametrize("shared", [False, True], ids=["one-machine", "shared"])


def log(directory: Path, shared: bool = False) -> tuple[LogWriter, LogReader]:
    return (
        LogWriter(str(directory), "log", shared=shared),
        LogReader(str(directory), "log", shared=shared),
    )


def kinds(frames: list[Frame]) -> list[int]:
    return [one.kind for one in frames]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SEGMENT_BYTES", 256)


# ---- frames -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=300))), st.binary(max_size=20))
def test_frames_come_back_from_any_start(records: list[tuple[int, bytes]], before: bytes) -> None:
    data = before + b"".join(frame(kind, body) for kind, body in records)
    frames, end = parse(data, len(before))
    assert [tuple(one) for one in frames] == records
    assert end == len(data)


def test_a_row_of_frames_cut_at_any_byte_gives_the_whole_ones() -> None:
    parts = [frame(1, b""), frame(2, b"abc"), frame(3, bytes(40))]
    ends = [0, *itertools.accumulate(map(len, parts))]
    data = b"".join(parts)
    for cut in range(len(data) + 1):
        frames, end = parse(data[:cut])
        whole = sum(stop <= cut for stop in ends) - 1
        assert kinds(frames) == [1, 2, 3][:whole], cut
        assert end == ends[whole], cut


@pytest.mark.parametrize("body", [b"", b"\0", b"some body"], ids=["empty", "zero", "text"])
def test_no_flipped_bit_is_taken_for_a_record(body: bytes) -> None:
    good = frame(7, body)
    for follower in (b"", frame(9, b"next"), bytes(100)):
        for bit in range(8 * len(good)):
            data = bytearray(good + follower)
            data[bit // 8] ^= 1 << bit % 8
            try:
                frames, end = parse(bytes(data))
            except CorruptRecord:
                continue
            # The length has grown: the rest of the record may still be on its way.
            assert (frames, end) == ([], 0), bit


def test_what_precedes_damage_is_delivered_first() -> None:
    good, bad = frame(1, b"good"), bytearray(frame(2, b"bad"))
    bad[-1] ^= 1
    frames, end = parse(good + bytes(bad))
    assert (kinds(frames), end) == ([1], len(good))
    with pytest.raises(CorruptRecord, match=f"byte {end}"):
        parse(good + bytes(bad), end)


def test_a_record_of_another_format_is_corrupt() -> None:
    data = bytearray(frame(1, b"x"))
    data[2] = logs.FORMAT + 1
    with pytest.raises(CorruptRecord):
        parse(bytes(data))


# ---- writers and readers ------------------------------------------------------------------------


@MODES
def test_several_readers_see_everything_once(tmp_path: Path, shared: bool) -> None:
    writer, first = log(tmp_path, shared)
    second = log(tmp_path, shared)[1]
    assert first.read() == []
    places = []
    for number in range(1, 6):
        places.append(writer.write(frame(number, bytes(number))))
        writer.publish()
        assert kinds(first.read()) == [number]
    assert kinds(second.read()) == [1, 2, 3, 4, 5]
    assert first.read() == second.read() == []
    assert [place.length for place in places] == [len(frame(1, bytes(n))) for n in range(1, 6)]
    writer.close()
    first.close()
    second.close()


def test_places_say_where_frames_stand(tmp_path: Path, small_segments: None) -> None:
    writer, _ = log(tmp_path)
    data = [frame(number % 255 + 1, bytes(number)) for number in range(100)]
    places = [writer.write(one) for one in data]
    writer.close()
    assert len({place.segment for place in places}) > 3
    for place, expected in zip(places, data):
        with open(tmp_path / f"log.{place.segment:06d}", "rb") as file:
            file.seek(place.offset)
            assert file.read(place.length) == expected


@MODES
@pytest.mark.parametrize("size", [logs._CHUNK - 20, logs._CHUNK, 3 * logs._LARGE_CHUNK + 1])
def test_records_larger_than_a_read(tmp_path: Path, shared: bool, size: int) -> None:
    writer, reader = log(tmp_path, shared)
    body = os.urandom(size)
    writer.write(frame(1, b"before") + frame(2, body) + frame(3, b"after"))
    writer.publish()
    frames = reader.read()
    assert kinds(frames) == [1, 2, 3]
    assert frames[1].body == body
    writer.close()


def test_many_records_in_one_read(tmp_path: Path) -> None:
    writer, reader = log(tmp_path)
    count = 100_000
    writer.write(b"".join(frame(1, struct.pack("<I", number)) for number in range(count)))
    frames = reader.read()
    assert [struct.unpack("<I", one.body)[0] for one in frames] == list(range(count))
    writer.close()


def test_a_growing_record_is_not_there_until_it_is_whole(tmp_path: Path) -> None:
    _, reader = log(tmp_path)
    data = frame(1, b"first") + frame(2, b"second" * 10) + frame(3, b"")
    path = tmp_path / "log.000000"
    seen: list[int] = []
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        seen += kinds(reader.read())
        assert seen == kinds(parse(data[:cut])[0])
    assert seen == [1, 2, 3]
    assert not reader.suspect
    reader.close()


def test_suspect_until_the_rest_arrives(tmp_path: Path) -> None:
    _, reader = log(tmp_path)
    data = frame(1, b"body")
    (tmp_path / "log.000000").write_bytes(data[:-1])
    assert reader.read() == []
    assert reader.suspect
    (tmp_path / "log.000000").write_bytes(data)
    assert kinds(reader.read()) == [1]
    assert not reader.suspect
    reader.close()


def test_suspect_is_known_at_once(tmp_path: Path) -> None:
    _, reader = log(tmp_path)
    bad = bytearray(frame(2, b"bad"))
    bad[-1] ^= 1
    (tmp_path / "log.000000").write_bytes(frame(1, b"good") + bad)
    assert kinds(reader.read()) == [1]
    assert reader.suspect
    reader.close()


@pytest.mark.parametrize("bit", [0, 2, 13, 14, 20, 30, 31, 40, 47, 62, 63])
def test_a_flipped_length_is_not_believed(tmp_path: Path, bit: int) -> None:
    data = bytearray(frame(1, b"x" * 100) + frame(2, b"y" * (2 * logs._CHUNK)))
    data[8 + bit // 8] ^= 1 << bit % 8
    (tmp_path / "log.000000").write_bytes(data)
    _, reader = log(tmp_path)
    assert reader.read() == []
    assert reader.suspect
    reader.close()


@MODES
def test_short_reads_are_continued(tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One read gives 2 GiB at most on Linux, and network file systems give less when they like."""
    writer, reader = log(tmp_path, shared)
    body = os.urandom(3 * logs._CHUNK)
    writer.write(frame(1, body) + frame(2, b"next"))
    writer.publish()
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 5000), offset))
    seen = [one for _ in range(3 * len(body) // 5000) for one in reader.read()]
    assert kinds(seen) == [1, 2]
    assert seen[0].body == body
    writer.close()
    reader.close()


# ---- segments -----------------------------------------------------------------------------------


def test_segments_rotate_and_readers_follow(tmp_path: Path, small_segments: None) -> None:
    writer, reader = log(tmp_path)
    expected, seen = [], []
    for number in range(200):
        expected.append(Frame(number % 255 + 1, bytes(number % 60)))
        writer.write(frame(*expected[-1]))
        if number % 7 == 0:
            seen += reader.read()
    seen += reader.read()
    assert seen == expected
    assert len(os.listdir(tmp_path)) > 10
    writer.close()
    reader.close()


def test_what_is_not_published_is_not_seen(tmp_path: Path) -> None:
    writer, reader = log(tmp_path, shared=True)
    writer.write(frame(1, b""))
    writer.write(frame(2, b""))
    assert reader.read() == []
    assert reader.read(upto=0) == []
    assert os.listdir(tmp_path) == ["log.000000.part"]
    writer.publish()
    assert kinds(reader.read()) == [1, 2]
    assert os.listdir(tmp_path) == ["log.000000"]
    writer.publish()
    writer.publish()
    assert os.listdir(tmp_path) == ["log.000000"], "publishing nothing makes no file"


def test_a_name_is_never_looked_up_before_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system remembers that a name was not there."""
    writer, reader = log(tmp_path, shared=True)
    real = os.open
    failed: list[str] = []

    def watched(path: str, *args: int, **options: int) -> int:
        try:
            return real(path, *args, **options)
        except FileNotFoundError:
            failed.append(path)
            raise

    monkeypatch.setattr(os, "open", watched)
    for number in range(1, 4):
        assert reader.read() == []
        writer.write(frame(number, b""))
        assert reader.read() == []
        writer.publish()
        assert kinds(reader.read()) == [number]
    assert failed == []


@MODES
def test_the_rest_of_a_dead_writer(tmp_path: Path, shared: bool) -> None:
    writer, reader = log(tmp_path, shared)
    writer.write(frame(1, b""))
    writer.publish()
    writer.write(frame(2, b""))
    writer.write(frame(3, b""))
    torn = frame(4, b"never finished")[:-3]
    writer.write(torn)
    writer.abandon()
    assert kinds(reader.read(final=True)) == [1, 2, 3]
    assert reader.read(final=True) == []
    reader.close()


def test_a_writer_that_died_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = log(tmp_path, shared=True)
    writer.write(frame(1, b""))

    def killed(*paths: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.publish()
    assert reader.read() == []
    assert kinds(reader.read(final=True)) == [1]
    assert reader.read(final=True) == []


def test_segments_past_a_thousand_go_into_folders(tmp_path: Path) -> None:
    writer, reader = log(tmp_path, shared=True)
    writer.segment = reader.segment = 998
    for number in range(1, 6):
        writer.write(frame(number, b""))
        writer.publish()
    assert kinds(reader.read()) == [1, 2, 3, 4, 5]
    assert sorted(os.listdir(tmp_path)) == ["log.000998", "log.000999", "log.d001"]
    assert sorted(os.listdir(tmp_path / "log.d001")) == [f"log.00{n}" for n in (1000, 1001, 1002)]
    writer.segment = reader.segment = 1999
    for number in range(1, 4):
        writer.write(frame(number, b""))
        writer.publish()
    assert kinds(reader.read()) == [1, 2, 3]
    assert len(os.listdir(tmp_path / "log.d002")) == 2


def test_new_segments_do_not_overwrite_files(tmp_path: Path) -> None:
    (tmp_path / "log.000000").write_bytes(b"somebody else's")
    writer, _ = log(tmp_path)
    with pytest.raises(FileExistsError):
        writer.write(frame(1, b""))
    assert (tmp_path / "log.000000").read_bytes() == b"somebody else's"


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        writer, _ = log(tmp_path)
        writer.write(frame(1, b""))
        publish(str(tmp_path / "whole"), b"", sync=False)
    finally:
        os.umask(before)
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in os.listdir(tmp_path)} == {0o600}
    writer.close()


@MODES
def test_writes_after_close_are_read(tmp_path: Path, shared: bool) -> None:
    writer, reader = log(tmp_path, shared)
    writer.write(frame(1, b""))
    writer.close()
    writer.close()
    writer.write(frame(2, b""))
    writer.close()
    assert kinds(reader.read()) == [1, 2]
    reader.close()


# ---- a file system that fails -------------------------------------------------------------------


class Disk:
    """Stands in for `os.pwrite`: takes `room` more bytes, then says that there is no space."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 30
        self._write = os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        count = min(self.room, len(data))
        if data and not count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= count
        return self._write(fd, data[:count], offset)


@MODES
def test_a_full_disk_at_any_byte_leaves_the_log_as_it_was(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    writer, reader = log(tmp_path, shared)
    large = frame(9, bytes(50))
    expected = []
    for room in range(len(large)):
        disk.room = room
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            writer.write(large)
        disk.room = 1 << 30
        expected.append(room % 8 + 1)
        writer.write(frame(expected[-1], b"small"))
    writer.publish()
    assert kinds(reader.read()) == expected
    writer.close()
    reader.close()


def test_a_torn_record_gives_back_its_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    writer, _ = log(tmp_path)
    writer.write(frame(1, b""))
    size = os.path.getsize(tmp_path / "log.000000")
    disk.room = 3000
    with pytest.raises(OSError, match="space"):
        writer.write(frame(2, bytes(5000)))
    assert os.path.getsize(tmp_path / "log.000000") == size


def test_closing_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    writer, reader = log(tmp_path)
    writer.write(frame(1, b""))
    disk.room = 0
    writer.close()
    assert kinds(reader.read()) == [1]
    reader.close()


@MODES
def test_a_full_disk_when_a_segment_ends_loses_and_doubles_nothing(
    tmp_path: Path, shared: bool, small_segments: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    writer, reader = log(tmp_path, shared)
    written: list[int] = []
    for number in range(1, 60):
        for room in (len(frame(number, bytes(30))), 3, 1 << 30):
            disk.room = room
            try:
                writer.write(frame(number, bytes(30)))
            except OSError:
                continue
            written.append(number)
            break
        if number % 10 == 0:
            disk.room = 5
            if shared:
                with pytest.raises(OSError, match="space"):
                    writer.publish()
            disk.room = 1 << 30
            writer.publish()
    assert written == list(range(1, 60))
    disk.room = 1 << 30
    writer.close()
    assert kinds(reader.read()) == written
    reader.close()


@pytest.mark.parametrize("call", ["close", "replace"])
def test_a_failed_publish_can_be_repeated(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, reader = log(tmp_path, shared=True)
    writer.write(frame(1, b""))

    close = os.close

    def broken(*args: Any) -> None:
        if call == "close":
            close(*args)  # it is closed all the same: close(2)
        raise OSError(errno.EIO, "broken server")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        for _ in range(2):
            with pytest.raises(OSError, match="broken server"):
                writer.publish()
    assert reader.read() == []
    writer.write(frame(2, b""))
    writer.publish()
    assert kinds(reader.read()) == [1, 2]
    writer.close()


def test_a_real_limit_on_file_sizes(tmp_path: Path) -> None:
    script = """
import os, resource, sys
from clusterfutures.logs import LogReader, LogWriter, frame
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
writer = LogWriter(sys.argv[1], "log", shared=False)
writer.write(frame(1, bytes(500)))
for _ in range(3):
    try:
        writer.write(frame(2, bytes(600)))
    except OSError as error:
        print(error.errno)
writer.write(frame(3, b"fits"))
print([one.kind for one in LogReader(sys.argv[1], "log", shared=False).read()])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split("\n") == [*[str(errno.EFBIG)] * 3, "[1, 3]", ""], done.stderr


# ---- any order of writes and reads --------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.integers(0, 700), min_size=1, max_size=4)),
        st.tuples(st.just("publish"), st.just(None)),
        st.tuples(st.just("read"), st.booleans()),
    ),
    max_size=40,
)


@MODES
@settings(max_examples=60, deadline=None)
@given(steps=STEPS, tail=st.integers(0, 40))
def test_any_interleaving(shared: bool, steps: list[tuple[str, object]], tail: int) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "SEGMENT_BYTES", 1000)
        patch.setattr(logs, "_CHUNK", 64)
        patch.setattr(logs, "_LARGE_CHUNK", 128)
        writer, reader = log(Path(name), shared)
        written: list[Frame] = []
        published, seen = 0, []
        for step, what in steps:
            if step == "write":
                assert isinstance(what, list)
                new = [Frame(1 + (len(written) + i) % 255, os.urandom(size)) for i, size in enumerate(what)]
                writer.write(b"".join(frame(*one) for one in new))
                written += new
            elif step == "publish":
                writer.publish()
                published = len(written)
            else:
                seen += reader.read(upto=writer.segment - 1 if what else -1)
                assert seen == written[: published if shared else len(written)]
        writer.write(frame(1, bytes(40))[: tail + 1])  # torn by death, as 40 bytes are never all of it
        writer.abandon()
        seen += reader.read(final=True)
        assert seen == written
        reader.close()


# ---- the run directory --------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["one-machine", "shared"])
def directory(request: pytest.FixtureRequest, hostile_tmp_path: Path) -> Iterator[RunDirectory]:
    hostile_tmp_path.chmod(0o700)
    run = RunDirectory(str(hostile_tmp_path), shared=request.param)
    yield run
    run.close()


def test_inboxes_and_outboxes_below_any_path(directory: RunDirectory) -> None:
    for ref in (WorkerRef(0), WorkerRef(3, 12_345, 2), WorkerRef(0, 0, 0, 0, 0), WorkerRef(1, 2, 3, 4, 5)):
        home = directory.make_home(ref)
        assert directory.make_home(ref) == home
        assert os.stat(home).st_mode & 0o777 == 0o700
        inbox, outbox = directory.inbox_writer(ref), directory.outbox_writer(ref)
        inbox.write(frame(1, b"in"))
        outbox.write(frame(2, b"out"))
        inbox.close()
        outbox.close()
        assert directory.inbox_reader(ref).read() == [(1, b"in")]
        assert directory.outbox_reader(ref).read() == [(2, b"out")]
        if ref.slot >= 0:
            assert directory.markers(ref) == directory.markers(ref.supervisor)


def test_every_worker_has_a_home_of_its_own(directory: RunDirectory) -> None:
    numbers = (0, 1, 11, 999, 1000, 1001)
    refs = [WorkerRef(*key) for key in itertools.product((0, 1, 11), numbers, (0, 1, 11))]
    refs += [WorkerRef(1, 1, 1, *key) for key in itertools.product(numbers, (0, 1, 11))]
    assert len({directory.home(ref) for ref in refs}) == len(refs)
    assert len({str(ref) for ref in refs}) == len(refs)
    assert {directory.home(r.supervisor) for r in refs[-4:]} == {directory.home(WorkerRef(1, 1, 1))}


def test_tasks_are_read_where_they_stand(directory: RunDirectory, small_segments: None) -> None:
    journal = directory.tasks()
    places = []
    for number in range(30):
        places.append(journal.write(frame(number + 1, bytes(50 * number))))
        journal.publish()
    for number in (29, 0, 15, 15):
        assert directory.read_task(places[number]) == (number + 1, bytes(50 * number))
    journal.close()


def test_a_task_that_is_not_whole(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "GRACE", {False: 0.0, True: 0.0})
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        directory.read_task(Location(0, 0, 10))
    journal = directory.tasks()
    place = journal.write(frame(1, b"body"))
    journal.close()
    for wrong in (
        place._replace(length=place.length - 1),
        place._replace(length=5),
        place._replace(offset=1),
        place._replace(offset=10_000),
    ):
        with pytest.raises(CorruptRecord):
            directory.read_task(wrong)
    assert directory.read_task(place).body == b"body"


def test_a_task_that_comes_late_is_waited_for(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may show another machine's file seconds later."""
    journal = directory.tasks()
    data = frame(1, b"body")
    steps = iter(
        [
            lambda: journal.write(data[:5]),
            lambda: None,
            lambda: journal.write(data[5:]),
            journal.publish,
        ]
    )
    monkeypatch.setattr(spool.time, "sleep", lambda seconds: next(steps)())
    assert directory.read_task(Location(0, 0, len(data))) == (1, b"body")
    journal.close()


def test_readers_of_tasks_close_what_they_open(directory: RunDirectory) -> None:
    journal = directory.tasks()
    place = journal.write(frame(1, b"body"))
    journal.close()
    before = len(os.listdir("/dev/fd"))
    directory.read_task(place)
    directory.close()
    assert len(os.listdir("/dev/fd")) == before
    assert directory.read_task(place).body == b"body", "and open it again"


# ---- buffers ------------------------------------------------------------------------------------


def other(directory: RunDirectory) -> RunDirectory:
    """The same directory in another process."""
    return RunDirectory(directory.path, shared=directory.shared)


def test_equal_buffers_are_stored_once(directory: RunDirectory) -> None:
    content = os.urandom(100_000)
    digest = directory.keep_buffer(memoryview(content))
    assert digest == hashlib.sha256(content).hexdigest()
    inode = os.stat(directory.buffer(digest)).st_ino
    assert directory.keep_buffer(memoryview(bytearray(content))) == digest
    assert os.stat(directory.buffer(digest)).st_ino == inode
    assert os.listdir(os.path.dirname(directory.buffer(digest))) == [digest]
    assert bytes(other(directory).fetch_buffer(digest, len(content), True)) == content


def test_a_fetched_buffer_is_the_readers_own(directory: RunDirectory) -> None:
    digest = directory.keep_buffer(memoryview(b"a" * 10_000))
    reader = other(directory)
    mine = reader.fetch_buffer(digest, 10_000, False)
    memoryview(mine)[0:1] = b"b"
    assert bytes(reader.fetch_buffer(digest, 10_000, False)[:2]) == b"aa"
    assert Path(directory.buffer(digest)).read_bytes() == b"a" * 10_000


@pytest.mark.parametrize("maps", [True, False])
def test_readonly_buffers_stay_so(
    directory: RunDirectory, maps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not maps:
        refuse_to_map(monkeypatch)
    digest = directory.keep_buffer(memoryview(b"abc" * 5000))
    reader = other(directory)
    assert memoryview(reader.fetch_buffer(digest, 15_000, True)).readonly
    assert not memoryview(reader.fetch_buffer(digest, 15_000, False)).readonly


def refuse_to_map(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)


def test_buffers_where_nothing_can_be_mapped(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(300_000)
    digest = directory.keep_buffer(memoryview(content))
    refuse_to_map(monkeypatch)
    for readonly in (True, False):
        assert bytes(other(directory).fetch_buffer(digest, len(content), readonly)) == content


def test_an_empty_buffer(directory: RunDirectory) -> None:
    digest = directory.keep_buffer(memoryview(b""))
    assert bytes(other(directory).fetch_buffer(digest, 0, False)) == b""


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "gone"])
def test_a_damaged_buffer_is_refused(directory: RunDirectory, damage: str, readonly: bool) -> None:
    content = bytearray(os.urandom(20_000))
    digest = directory.keep_buffer(memoryview(content))
    path = Path(directory.buffer(digest))
    if damage == "flip":
        content[12_345] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "grow":
        path.write_bytes(content + b"x")
    else:
        path.unlink()
    with pytest.raises((CorruptRecord, FileNotFoundError), match=digest):
        other(directory).fetch_buffer(digest, len(content), readonly)


def test_a_damaged_buffer_is_refused_every_time(directory: RunDirectory) -> None:
    digest = directory.keep_buffer(memoryview(b"a" * 9000))
    Path(directory.buffer(digest)).write_bytes(b"b" * 9000)
    reader = other(directory)
    for _ in range(3):
        with pytest.raises(CorruptRecord):
            reader.fetch_buffer(digest, 9000, True)


# ---- whole files, private files -----------------------------------------------------------------


def test_publish_replaces_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    publish(str(path), b"old", sync=False)
    with path.open("rb") as reader:
        publish(str(path), memoryview(b"new and longer"), sync=True)
        assert reader.read() == b"old", "whoever had it open has it whole"
    assert path.read_bytes() == b"new and longer"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failed_publish_leaves_nothing(
    tmp_path: Path, call: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    publish(str(path), b"old", sync=False)
    before = len(os.listdir("/dev/fd"))

    def fail(*args: object) -> None:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(os, call, fail)
        publish(str(path), b"new", sync=True)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"
    assert len(os.listdir("/dev/fd")) == before


def test_publish_continues_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    content = os.urandom(100)
    publish(str(tmp_path / "file"), content, sync=False)
    assert (tmp_path / "file").read_bytes() == content


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        publish(str(tmp_path / "file"), "text", sync=False)
    assert os.listdir(tmp_path) == []


def test_a_private_file_is_read(tmp_path: Path) -> None:
    publish(str(tmp_path / "key"), b"secret", sync=False)
    assert read_private(str(tmp_path / "key")) == b"secret"
    assert RunDirectory(str(tmp_path), shared=False).key() == b"secret"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(PermissionError, match=f"{mode:o}"):
        read_private(str(tmp_path / "key"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(PermissionError, match=f"{mode:o}"):
        RunDirectory(str(tmp_path), shared=False).key()


def test_links_and_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"secret")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "key").symlink_to("real")
    with pytest.raises(OSError, match="key"):
        read_private(str(tmp_path / "key"))
    (tmp_path / "folder").mkdir(0o700)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(PermissionError, match="folder"):
        read_private(str(tmp_path / "folder"))
    assert len(os.listdir("/dev/fd")) == before


def test_files_of_other_users_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(str(tmp_path / "key"), b"secret", sync=False)
    tmp_path.chmod(0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for check in (
        lambda: read_private(str(tmp_path / "key")),
        RunDirectory(str(tmp_path), shared=False).check,
    ):
        with pytest.raises(PermissionError, match=f"user {me}, not to {me + 1}"):
            check()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777, 0o750, 0o705])
def test_a_run_directory_that_is_not_private_is_refused(tmp_path: Path, mode: int) -> None:
    """Design, invariant 9: run directories are 0700, and one that is not is refused."""
    run = RunDirectory(str(tmp_path), shared=False)
    tmp_path.chmod(0o700)
    run.check()
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError, match=f"{mode:o}"):
        run.check()
    tmp_path.chmod(0o700)


def test_a_link_to_a_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(PermissionError, match="link"):
        RunDirectory(str(tmp_path / "link"), shared=False).check()
