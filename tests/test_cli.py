"""The command line: what it finds, what it loads, and how it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from clusterfutures import __version__, cli
from clusterfutures.errors import OptionError
from tests.support import run_command

Run = Callable[[argparse.Namespace, Callable[[str], None]], int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Makes a function the command "try"."""

    def make(run: Run) -> None:
        module = ModuleType("tests.a_command")
        module.add_arguments = lambda parser: parser.add_argument("--word")  # type: ignore[attr-defined]
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "try", cli.Command(module.__name__, "try something", "all"))

    return make


def test_a_command_is_run(command: Callable[[Run], None], capsys: pytest.CaptureFixture[str]) -> None:
    def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
        say(f"the word is {arguments.word}")
        return 7

    command(run)
    assert cli.main(["try", "--word", "go"]) == 7
    assert capsys.readouterr() == ("the word is go\n", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OptionError("a bad word"), 1, "a bad word"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("no", name="pendulum"),
            1,
            "it needs pendulum, which is not installed: pip install 'clusterfutures[all]'",
        ),
    ],
    ids=["refused", "interrupted", "extra missing"],
)
def test_an_error_is_a_line(
    command: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
        raise error

    command(run)
    assert cli.main(["try"]) == code
    assert capsys.readouterr() == ("", f"clusterfutures try: {text}\n")


@pytest.mark.parametrize("name", ["clusterfutures.lost", None])
def test_a_module_of_our_own_that_is_missing_is_a_bug(
    command: Callable[[Run], None], name: str | None
) -> None:
    def run(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
        raise ModuleNotFoundError("no", name=name)

    command(run)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["try"])


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, command in cli.COMMANDS.items():
        assert f"{name} {command.help}" in text


@pytest.mark.parametrize("argv", [[], ["dmeo"], ["demo", "--evnts"]])
def test_what_cannot_be_read(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == cli.MISUSED
    assert "usage: clusterfutures" in capsys.readouterr().err


def test_as_a_module(tmp_path: Path) -> None:
    done = run_command([sys.executable, "-m", "clusterfutures", "--version"], tmp_path).check()
    assert done.stdout == f"clusterfutures {__version__}\n"


WITHOUT = """\
import sys
sys.modules["obspy"] = None
from clusterfutures.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_demo_without_its_extra(tmp_path: Path) -> None:
    program = [sys.executable, "-c", WITHOUT, "demo"]
    helped = run_command([*program, "--help"], tmp_path).check()
    assert "--resume" in helped.stdout
    done = run_command(program, tmp_path).check(1)
    assert done.stderr == (
        "clusterfutures demo: it needs obspy, which is not installed: pip install 'clusterfutures[demo]'\n"
    )
