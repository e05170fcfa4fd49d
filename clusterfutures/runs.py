"""Which runs there are, and what became of them: the command ``clusterfutures runs``.

A run is a directory with a ``run.json`` that says so.  Looked through are the directories that are named, and
what is directly below them; if none are, ``.clusterfutures`` here, and the directory of temporary files.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from clusterfutures.errors import RunDirectoryError
from clusterfutures.lease import DEAD, FAILED, FINISHED, HELD, Standing, is_alive, standing
from clusterfutures.resume import read_about

if TYPE_CHECKING:
    import argparse

LIVE, ELSEWHERE = "live", "elsewhere"
"""States beside FINISHED, FAILED and DEAD: its program lives; it is, or was, on another machine."""


class Run(NamedTuple):
    """One run: where it is, and its `state`: "finished", "failed", "live", "dead" or "elsewhere".

    `program`, `host`, `pid` and `created` are those of the program that made it; `holder` is the process that
    drives it, or did last, and `since` from when on.
    """

    path: str
    state: str
    run_id: str
    program: str
    host: str
    pid: int
    created: str
    holder: str
    since: str


def look(path: str) -> Run:
    """The run in a directory.  Raises RunDirectoryError for what is no run of this user."""
    about = read_about(path)
    try:
        found = standing(path)
    except OSError as error:
        raise RunDirectoryError(f"cannot tell who has {path}: {error}", path) from error
    text = [str(about.get(name, "")) for name in ("run_id", "program", "host", "created")]
    run_id, program, host, created = text
    holder = str(found.holder or "")
    pid = int(about.get("pid", 0))
    return Run(path, _state(found), run_id, program, host, pid, created, holder, found.since)


def _state(found: Standing) -> str:
    if found.holder is None:
        return DEAD  # it was ended before it could say who it is
    if found.state != HELD:
        return found.state if found.state in (FAILED, DEAD) else FINISHED
    alive = is_alive(found.holder)
    return ELSEWHERE if alive is None else LIVE if alive else DEAD


def runs(places: Iterable[str]) -> Iterator[Run]:
    """All runs that are one of these directories, or directly below one of them, the oldest first."""
    found: dict[str, Run] = {}
    for place in places:
        for path in _candidates(os.path.abspath(place)):
            run = _look(path)
            if run is not None:
                found[path] = run
    return iter(sorted(found.values(), key=lambda run: (run.created, run.path)))


def _candidates(place: str) -> list[str]:
    try:
        with os.scandir(place) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it is not there, or somebody else's
        below = []
    return [place, *below]


def _look(path: str) -> Optional[Run]:
    try:
        return look(path)
    except RunDirectoryError:
        return None


def usual_places() -> list[str]:
    """Where runs are unless `run_dir` says otherwise."""
    return [os.path.join(os.getcwd(), ".clusterfutures"), tempfile.gettempdir()]


# -- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be given to ``clusterfutures runs``."""
    parser.add_argument("place", nargs="*", help="directories of runs, or with runs in them")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for other programs")


def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """List them."""
    lines = 0
    for each in runs(arguments.place or usual_places()):
        say(json.dumps(each._asdict()) if arguments.json else line(each))
        lines += 1
    if not lines and not arguments.json:
        say("no runs in " + " and ".join(arguments.place or usual_places()))
    return 0


def line(run: Run) -> str:
    """A run as people read it."""
    what: dict[str, Any] = {
        LIVE: f"driven by {run.holder} since {run.since}",
        ELSEWHERE: f"was last driven by {run.holder}, which cannot be seen from here",
        DEAD: "its program is gone; reattach() goes on with it",
        FAILED: "some task failed, or it was ended",
        FINISHED: "",
    }
    tail = f"  {what[run.state]}" if what[run.state] else ""
    return f"{run.state:9} {run.created}  {run.path}  {os.path.basename(run.program)}{tail}"
