"""Remove the directories of runs that are over: the command ``clusterfutures clean``.

Only what proves to be a run of this user, by its own files, is ever removed, and only under its own name: no
link is followed, and nothing beside or above it is touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from clusterfutures.errors import RunDirectoryError, RunInUse
from clusterfutures.lease import DEAD, FAILED, FINISHED, SILENCE, DriverLease, in_use
from clusterfutures.runs import ELSEWHERE, LIVE, look, runs, usual_places
from clusterfutures.spool import RunDirectory

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be given to ``clusterfutures clean``."""
    parser.add_argument("run", nargs="*", help="run directories; if none: the finished ones of `runs`")
    parser.add_argument("--failed", action="store_true", help="if none are named: those that failed as well")
    parser.add_argument("--dead", action="store_true", help="those whose program was killed as well")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Remove finished runs, or those that are named; 1 if one of these cannot be."""
    states = {FINISHED, *([FAILED] if arguments.failed else []), *([DEAD] if arguments.dead else [])}
    paths = arguments.run or [each.path for each in runs(usual_places()) if each.state in states]
    code = 0
    for path in paths:
        try:
            remove(path, dead=arguments.dead, really=not arguments.dry_run)
            say(_would(path) if arguments.dry_run else f"removed {path}")
        except RunDirectoryError as error:
            say(f"not removed: {error}")
            code = 1
    if not paths:
        say("nothing to remove")
    return code


def _would(path: str) -> str:
    """What is said of a run that could be removed."""
    if look(path).state == ELSEWHERE:
        provided = f"if nothing is heard for {SILENCE:.0f} s of its program on another machine"
        return f"would remove {path}, {provided}"
    return f"would remove {path}"


def remove(path: str, *, dead: bool = False, really: bool = True) -> None:
    """Remove a run's directory; `dead`: also if its program was killed.  Not `really`: only see if it can be.

    Raises RunInUse while a program drives it, and RunDirectoryError for what is no run directory of this
    user, is named by a detour, has something in it that is not the run's, or cannot be removed.
    """
    path = checked(path)
    found = look(path)
    strangers = RunDirectory(path, shared=False).strangers()
    if strangers:
        raise RunDirectoryError(f"{path} has in it what is not the run's: {', '.join(strangers)}", path)
    if found.state == LIVE:
        raise in_use(path)
    if found.state not in (FINISHED, FAILED) and not dead:
        text = f"{path} was not ended by its program, {found.holder}, and its jobs may still run"
        raise RunDirectoryError(f"{text}: reattach() goes on with it, --dead removes it all the same", path)
    lease = DriverLease(path)
    try:
        if really:
            lease.take()  # nobody can go on with it from here on
            shutil.rmtree(path)
    except RunInUse:
        raise
    except OSError as error:
        raise RunDirectoryError(f"cannot remove {path}: {error}", path) from error


def checked(path: str) -> str:
    """The absolute path of a directory that is named without detours.

    Raises RunDirectoryError for one that goes by "..", or is a link, whose end may be another one tomorrow.
    """
    if os.pardir in path.split(os.sep):
        raise RunDirectoryError(f"{path}: name it without {os.pardir!r}", path)
    plain = os.path.normpath(os.path.abspath(path))
    if os.path.islink(plain):
        raise RunDirectoryError(f"{path} is a symbolic link: name the directory itself", path)
    return plain
