"""The command line: ``clusterfutures COMMAND``, or ``python -m clusterfutures COMMAND``.

This is the only module that prints.  A command is a module, loaded when it is called for, with::

    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int: ...

`run` does the work, gives each line for standard output to `say`, and returns the exit code.  What it raises
as a ClusterFuturesError is shown as one line, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Optional

from clusterfutures._version import __version__
from clusterfutures.errors import ClusterFuturesError

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: the command did not succeed; it was called wrongly (argparse's code); Ctrl-C (the shells')."""


class Command(NamedTuple):
    """A subcommand: the module that has it, what it does, and the extra that brings what it needs."""

    module: str
    help: str
    extra: Optional[str] = None


COMMANDS = {
    "runs": Command("clusterfutures.runs", "the runs that there are, and what became of them"),
    "clean": Command("clusterfutures.clean", "remove the directories of runs that are over"),
    "demo": Command("clusterfutures.demo.command", "misfits of seismograms by event and station", "demo"),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command that `argv` (the program's own arguments, if None) names; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser(argv).parse_args(argv)
    name = arguments.command
    try:
        code: int = import_module(COMMANDS[name].module).run(arguments, _say)
        return code
    except ModuleNotFoundError as error:
        if not _is_of_extra(COMMANDS[name], error):
            raise
        remedy = f"pip install 'clusterfutures[{COMMANDS[name].extra}]'"
        return _complain(name, f"it needs {error.name}, which is not installed: {remedy}")
    except ClusterFuturesError as error:
        return _complain(name, str(error))
    except KeyboardInterrupt:
        _complain(name, "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has gone, as `head` does; the interpreter's own last flush shall not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """What reads the command line; only a command that is on it is loaded for its options."""
    parser = argparse.ArgumentParser(
        prog="clusterfutures", description="concurrent.futures on a batch cluster, and on this machine."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help, description=_sentence(command.help))
        if name in argv:
            import_module(command.module).add_arguments(own)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _is_of_extra(command: Command, error: ModuleNotFoundError) -> bool:
    """Whether what is missing is what the command's extra installs, and not a module of our own."""
    return command.extra is not None and not (error.name or "clusterfutures").startswith("clusterfutures")


def _say(line: str) -> None:
    print(line, flush=True)


def _complain(name: str, text: str) -> int:
    print(f"clusterfutures {name}: {text}", file=sys.stderr)
    return FAILED
