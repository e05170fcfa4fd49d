"""Nothing that a user gives reaches a shell as anything but itself; run through real shells.

What `tests/slurm` and `tests/pbs` submit with hostile names goes the whole way; here it is many names.
"""

from __future__ import annotations

import os
import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterfutures import resources
from clusterfutures.errors import OptionError
from clusterfutures.options import check_executor
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, Scheduler
from clusterfutures.schedulers.command import Completed
from clusterfutures.schedulers.pbs import PbsScheduler
from clusterfutures.schedulers.script import quote
from clusterfutures.schedulers.slurm import SlurmScheduler
from tests.security import examples

BASH = shutil.which("bash") or "bash"

SYNTAX = ("$(touch owned)", "`touch owned`", "; touch owned #", "\n touch owned\n", "'", '"', "\\", "$HOME")
MORE = (
    "-rf",
    "--",
    "*",
    "~",
    "!!",
    "&& touch owned",
    "| tee owned",
    ">owned",
    "%j",
    "%a",
    "{index}",
    "#PBS -N x",
)
ODD = (
    "\r\n",
    "\t",
    "\x01\x1b[0m\x7f",
    "\u00fc\u4e16",
    "\udcff",
    "\u2028",
    "",
    " ",
    "=",
    "$'\\n'",
    "${IFS}",
    "EOF",
)
PIECES = st.sampled_from(SYNTAX + MORE + ODD) | st.text(st.characters(codec="utf-8", exclude_characters="\0"))
HOSTILE = st.lists(PIECES, max_size=5).map("".join).filter(lambda text: len(os.fsencode(text)) < 150)
"""Text that a shell would make something else of; NUL excepted, which no command can be given."""
NAMES = HOSTILE.map(lambda text: text.replace("/", "")).filter(lambda text: text not in ("", ".", ".."))
"""The same for files."""
VARIABLES = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8).map("CF_".__add__)


class Recorder:
    """Takes the place of the commands of a scheduler: what it is called with, and nothing happens."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.calls: list[list[str]] = []

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 60.0,
        environment: Optional[Mapping[str, str]] = None,
    ) -> Completed:
        self.calls.append(list(argv))
        return Completed(0, self.answer, "")


KINDS = ("slurm", "torque", "openpbs", "debian")


def scheduler(kind: str) -> tuple[Scheduler, Recorder]:
    """One for which nothing happens, and what it would have done."""
    if kind == "slurm":
        recorder = Recorder("1\n")
        return SlurmScheduler(recorder), recorder
    recorder = Recorder("1\n" if kind == "debian" else "1.head\n")
    return PbsScheduler(recorder, dialect="slurm" if kind == "debian" else kind), recorder


def request(directory: str, **changes: Any) -> JobRequest:
    log = f"{directory}/{INDEX}.log"
    base = JobRequest(0, "job", ["true"], 1, f"{directory}/job.sh", log, None, {}, "", {}, tag="run")
    return base._replace(**changes)


@contextmanager
def place(name: str) -> Iterator[str]:
    """A directory of this name, which is hostile, and nothing else in the one above it after all."""
    with tempfile.TemporaryDirectory() as above:
        path = os.path.join(above, name)
        os.mkdir(path)
        yield path
        assert os.listdir(above) == [name]


def run(script: str, **variables: str) -> list[str]:
    """What a job printed, or what its script has put into its log: words that end with NUL."""
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "1", "PBS_JOBID": "1.head", **variables}
    done = subprocess.run([BASH, script], cwd="/", env=environment, capture_output=True, timeout=30)
    log = Path(script).with_name("0.log")
    said = done.stdout + (log.read_bytes() if log.exists() else b"")
    assert (done.returncode, done.stderr) == (0, b""), said
    return os.fsdecode(said).split("\0")[:-1]


@pytest.mark.parametrize("kind", KINDS)
@examples(25)
@given(
    name=NAMES,
    words=st.lists(HOSTILE, max_size=4),
    values=st.dictionaries(VARIABLES, HOSTILE, max_size=3),
    unset=VARIABLES,
)
@example(
    name="-rf $(touch owned)\n'\"\\ \udcff",
    words=["", "-n", "x{index}"],
    values={"CF_A": "\r\n"},
    unset="CF_B",
)
def test_what_a_job_gets(kind: str, name: str, words: list[str], values: dict[str, str], unset: str) -> None:
    """Its words, its environment and its directory are what was given; so are lines of set-up beside them."""
    words = [word for word in words if word not in (INDEX, RESTART, JOB_ID)]  # these stand for something else
    environment = {**values, unset: None}
    printing = f'printf "%s\\0" "$PWD" "${{{unset}-gone}}" "$@"; env -0'
    with place(name) as directory:
        argv = ["bash", "-c", printing, "bash", *words]
        setup = "export SET_UP='by $(echo me)'"
        wanted = request(directory, argv=argv, cwd=directory, environment=environment, setup=setup)
        scheduler(kind)[0].submit(wanted)
        found = run(wanted.script, **{unset: "there"})
    told, pairs = found[: 2 + len(words)], found[2 + len(words) :]
    assert told == [directory, "gone", *words]
    variables = dict(pair.partition("=")[::2] for pair in pairs)
    assert variables["SET_UP"] == "by $(echo me)"
    assert {variable: variables.get(variable) for variable in environment} == environment


@examples(100)
@given(HOSTILE)
def test_quoting(text: str) -> None:
    """As one word, in one line: a line end in it would have sbatch read the next line as another one."""
    assert "\n" not in quote(text)
    assert "\r" not in quote(text)
    many = [text, text + "\n", "-" + text, text[::-1]]
    printing = "printf '%s\\0' " + " ".join(map(quote, many))
    done = subprocess.run([BASH, "-c", os.fsencode(printing)], capture_output=True, check=True, timeout=30)
    assert os.fsdecode(done.stdout).split("\0")[:-1] == many


# ---- the words of the submit command --------------------------------------------------------------

FREE = {"name": "--job-name=", "comment": "--comment=", "account": "--account=", "qos": "--qos="}
"""Options of Slurm whose text is the user's, and the words that they become."""


@examples(100)
@given(value=HOSTILE.filter(bool), name=st.sampled_from(sorted(FREE)))
def test_options_of_slurm_are_single_words(value: str, name: str) -> None:
    try:
        checked = resources.check_resources({name: value})
    except OptionError:
        assert name in ("account", "qos")
        assert re.search("[\x01-\x1f\x7f]", value), "what stands in one line is taken"
        return
    with tempfile.TemporaryDirectory() as directory:
        slurm, recorder = scheduler("slurm")
        slurm.submit(request(directory, name=checked.get("name", "job"), resources=checked))
        [argv] = recorder.calls
        assert f"{FREE[name]}{value}" in argv
        assert all(word.startswith("--") for word in argv[1:-1]), "and none of them is taken for another"
        assert argv[-1] == f"{directory}/job.sh"
        assert "owned" not in os.listdir(directory)


def given_to_a_shell(argv: Sequence[str], directory: str) -> list[str]:
    """The words of a command after Debian's qsub, which joins them with blanks for a shell to run."""
    line = os.fsencode("printf '%s\\0' " + " ".join(argv[1:]))
    done = subprocess.run(["sh", "-c", line], cwd=directory, capture_output=True, check=True, timeout=30)
    assert os.listdir(directory) == ["job.sh"]
    return os.fsdecode(done.stdout).split("\0")[:-1]


@examples(100)
@given(name=HOSTILE.filter(bool), account=HOSTILE.filter(bool), word=HOSTILE)
def test_what_debians_qsub_gives_to_a_shell(name: str, account: str, word: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        debian, recorder = scheduler("debian")
        given = {"account": account, "extra": (f"--x={word}",)}
        debian.submit(request(directory, name=name, resources=given))
        found = given_to_a_shell(recorder.calls[0], directory)
        assert found[:2] == ["-N", name]
        assert found[found.index("-A", 2) + 1] == account
        assert found[-2:] == [f"--x={word}", f"{directory}/job.sh"]


@examples(100)
@given(item=HOSTILE.filter(bool))
@example(item="nice=$(touch owned)")
@example(item="walltime=10,mem=1gb")
def test_what_debians_qsub_would_have_to_quote(item: str) -> None:
    """It takes ``-l`` apart before it gives the parts to a shell: only what needs no quotes passes."""
    with tempfile.TemporaryDirectory() as directory:
        debian, recorder = scheduler("debian")
        try:
            debian.submit(request(directory, resources={"extra": (f"-l{item}",)}))
        except OptionError:
            assert not re.fullmatch("[a-z0-9=,]+", item)
            return
        found = given_to_a_shell(recorder.calls[0], directory)
        assert item.lstrip("=") in ["", *found]


# ---- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"run_dir": "a\0b"},
        {"cwd": "a\0b"},
        {"env": {"A": "a\0b"}},
        {"env": {"A\0": "a"}},
        {"env": {"A=B": "a"}},
        {"python": "a\0b"},
        {"setup": "a\0b"},
        {"name": "a\0b"},
        {"comment": "a\0b"},
        {"account": "a\nb"},
        {"partition": "a\nb"},
        {"extra": ["--a\0b"]},
        {"extra": ["rm"]},
        {"modules": ["gcc; rm"]},
        {"stdout": "a\0b"},
    ],
)
def test_what_no_command_can_be_given(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=re.escape(next(iter(options)))):
        check_executor(options, 1, None, cluster=True)


@pytest.mark.parametrize(
    "name", ["A-B", "A.B", "1A", "A B", "A;touch owned", "$(touch owned)", "A\nB", "\u00c4"]
)
def test_variables_that_no_shell_can_set(tmp_path: Path, name: str) -> None:
    """They are refused, since a name cannot be quoted."""
    slurm, recorder = scheduler("slurm")
    with pytest.raises(OptionError, match="no shell has a variable of such a name"):
        slurm.submit(request(str(tmp_path), environment={name: "x"}))
    assert recorder.calls == []
