"""File systems of their own for tests: small ones, one with a quota, one that goes read-only under its users.

Each is seen by this process and by what it starts, the nodes of `tests.slurm` included, and is gone after it.
Only root can have them.
"""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

SMALL = 4 << 20
"""Bytes that there are on a small disk, or within a quota."""

TOO_LARGE = 2 * SMALL
"""Bytes for which there is no room."""

_IMAGE = 128 << 20  # the least that btrfs takes; what is not used takes no room

_FIRST_SUBVOLUME = "0/256"  # its number, as that of what limits it

_NOT_HERE = ("failed to setup loop device", "unknown filesystem type", "permission denied")
"""What mount says where the kernel, or the container, has no such thing."""


def needs_root() -> None:
    """Skip the test that is running if it may not mount a file system."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")


@contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[Path]:
    """A file system at `path`, which is made for it; the `arguments` are those of ``mount``."""
    needs_root()
    path.mkdir()
    done = _run("mount", *arguments, str(path))
    if done.returncode:
        _stop(any(words in done.stderr for words in _NOT_HERE), f"cannot mount: {done.stderr.strip()}")
    try:
        yield path
    finally:
        gc.collect()  # run directories that are to be removed
        _check(_run("umount", "--lazy", str(path)))


@contextmanager
def tmpfs(path: Path, options: str = f"size={SMALL}") -> Iterator[Path]:
    """A file system in memory at `path`, of `SMALL` bytes or with other `options`."""
    with mounted(path, "-t", "tmpfs", "-o", options, "none") as found:
        yield found


class Limited(NamedTuple):
    """A directory at `path` in which there may be `SMALL` bytes, until one may `raise_limit`."""

    path: Path
    raise_limit: Callable[[], None]


@contextmanager
def quota(path: Path) -> Iterator[Limited]:
    """A directory with a quota, on a file system with room for more.

    It is one of btrfs, which copies on write: once it is used up, to cut a file takes quota, too.
    """
    with _image(path, "mkfs.btrfs", "btrfs-progs") as image, mounted(path, "-o", "loop", image):
        limited = path / "limited"
        _check(_run("btrfs", "quota", "enable", str(path)))
        _check(_run("btrfs", "subvolume", "create", str(limited)))

        def limit(size: int) -> None:
            # Not by the path of what is limited: that fails now and then for want of quota.
            _check(_run("btrfs", "qgroup", "limit", str(size), _FIRST_SUBVOLUME, str(path)))

        limit(SMALL)
        yield Limited(limited, lambda: limit(_IMAGE))


class Failing(NamedTuple):
    """A file system at `path` that can be written until `fail` is called, and never again."""

    path: Path
    fail: Callable[[], None]


@contextmanager
def failing(path: Path) -> Iterator[Failing]:
    """One that does, on a damaged disk, what ext4 is commonly told to: nothing can be written any more.

    It takes no regard of who has files open, as an administrator's ``remount,ro`` would.
    """
    options = ("-o", "loop,errors=remount-ro")
    with _image(path, "mkfs.ext4", "e2fsprogs") as image, mounted(path, *options, image):

        def fail() -> None:
            _check(_run("sync", "--file-system", str(path)))  # what is not on the disk might be lost with it
            _check(_run("mount", "-o", "remount,abort", str(path)))

        yield Failing(path, fail)


@contextmanager
def _image(path: Path, program: str, package: str) -> Iterator[str]:
    """A file beside `path` with an empty file system, made by a program of a Debian `package`."""
    needs_root()
    if shutil.which(program) is None:
        _stop(False, f"needs {program}: apt-get install {package}")
    image = path.with_name(f"{path.name}.image")
    with image.open("wb") as file:
        file.truncate(_IMAGE)
    _check(_run(program, "-q", str(image)))
    yield str(image)
    image.unlink()


@contextmanager
def filled(directory: Path) -> Iterator[None]:
    """No byte is free on the disk of `directory` while the block lasts."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as caught:
        while True:
            file.write(bytes(4096))
    assert caught.value.errno == errno.ENOSPC
    try:
        yield
    finally:
        path.unlink()


def _stop(excused: bool, text: str) -> None:
    """Skip the test; where the variable CI is set, fail it, unless that is `excused`."""
    (pytest.skip if excused or not os.environ.get("CI") else pytest.fail)(text)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.args}: {done.stderr}"
