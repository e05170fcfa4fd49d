"""Batch scripts: what a job does until its supervisor takes its place.

The script is for people, too: it stays beside the run's files, and says in its log what is wrong on the node.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple, Optional

from clusterfutures.errors import OptionError
from clusterfutures.notices import VARIABLE
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest

NO_RUN_DIRECTORY = 117
"""The exit code of a job whose node does not see the run's directory."""
NO_WORKING_DIRECTORY = 118
"""The exit code of a job whose node does not see its working directory."""

EXIT_CODES = {
    NO_RUN_DIRECTORY: "the run directory is not visible on the node; choose another with run_dir=",
    126: "its program cannot be executed on the node; see python=",
    127: "there is no such program on the node; see python=, modules= and setup=",
    NO_WORKING_DIRECTORY: "the working directory is not visible on the node; choose another with cwd=",
}
"""What the exit codes of a script mean that did not get to its program."""


class Variables(NamedTuple):
    """Shell expressions, without quotes, for what differs from element to element."""

    element: str
    restart: str
    job_id: str


def render(
    request: JobRequest, variables: Variables, log: Optional[str], notices: bool = False
) -> str:
    """The script of a job.

    `log` is the file for its output, in which INDEX stands for the element's own; None leaves the output
    to the scheduler.  With `notices`, the supervisor is told where a scheduler writes to the job's standard
    error (:mod:`clusterfutures.notices`).  Raises :class:`OptionError` for a variable that no shell can set.
    """
    parts = [
        "#!/bin/bash",
        f"# Job {request.job} of the run {_comment(request.tag)}, written by clusterfutures.",
        f"cf_index={variables.element}",
        f"cf_restart={variables.restart}",
        f"cf_job={variables.job_id}",
        *_need(os.path.dirname(request.script), "run directory", NO_RUN_DIRECTORY, "[ -d {} ]"),
    ]
    if notices:  # in another descriptor, since this one is about to become that of the log
        parts += ["exec 3>&2", f"export {VARIABLE}=/proc/self/fd/3"]
    if log is not None:
        parts.append(f"exec >>{_pattern(log)} 2>&1 || exit {NO_RUN_DIRECTORY}")
    if request.cwd is not None:
        parts += _need(os.path.abspath(request.cwd), "working directory", NO_WORKING_DIRECTORY, "cd -- {}")
    parts += [_variable(name, value) for name, value in request.environment.items()]
    if request.setup:
        parts += ["set -e", request.setup]
    parts.append(" ".join(["exec", *map(_word, request.argv)]))
    return "\n".join(parts) + "\n"


def quote(text: str) -> str:
    """`text` as a word of a bash script, in one line.

    A carriage return before a line end, as a path may hold it, would have sbatch refuse the whole script.
    """
    if not re.search(r"[\x00-\x1f\x7f]", text):
        return shlex.quote(text)
    return "$'" + re.sub(r"[\x00-\x1f\x7f'\\]", lambda found: f"\\{ord(found[0]):03o}", text) + "'"


def _need(path: str, what: str, code: int, check: str) -> list[str]:
    complaint = quote(f"clusterfutures: this node does not see the {what} {path}")
    return [
        f"if ! {check.format(quote(path))}; then",
        f"    printf '%s (%s)\\n' {complaint} \"$(uname -n)\" >&2",
        f"    exit {code}",
        "fi",
    ]


def _pattern(path: str) -> str:
    before, mark, after = path.rpartition(INDEX)
    return f'{quote(before)}"$cf_index"{quote(after)}' if mark else quote(path)


def _word(word: str) -> str:
    own = {INDEX: '"$cf_index"', RESTART: '"$cf_restart"', JOB_ID: '"$cf_job"'}
    return own[word] if word in own else quote(word)


def _variable(name: str, value: Optional[str]) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise OptionError(f"env: a job cannot set {name!r}: no shell has a variable of such a name")
    return f"unset {name}" if value is None else f"export {name}={quote(value)}"


def _comment(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)
