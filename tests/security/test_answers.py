"""Whatever a scheduler prints is an answer or none: it ends no thread, and is not counted for ever."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clusterfutures import notices
from clusterfutures.errors import SchedulerUnavailable, SubmissionError
from clusterfutures.records import SITE
from clusterfutures.schedulers import pbs_status, slurm_status
from clusterfutures.schedulers.base import INDEX, JobRequest, JobStatus, Scheduler
from clusterfutures.schedulers.command import Completed, run
from clusterfutures.schedulers.pbs import DIALECTS, PbsScheduler
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.states import JobState
from tests import captured_pbs, captured_slurm
from tests.security import examples

# ---- what is printed ------------------------------------------------------------------------------

NUMBERS = ("0", "00", "-", "--5", "9" * 12, "1" * 5000, "\u00b2", "\u0663", "1e9", "nan", "0x1", "-1:00")
MARKS = ("|", ":", ".", ",", "[", "]", "%", "_[", "[0-3:0]", "0-99999999999", "[]", "()", "\0", "\n", "\r\n")
TAGS = ("<", ">", "&", "&x;", "<?xml version='1.0'?>", "</Data>", "<Job>", "<![CDATA[", "<!DOCTYPE x []>")
WORDS = ("None", "n/a", "INVALID", "UNLIMITED", "COMPLETED", "Infinite", "Job Id: ", "\u212a", "\udcff", " ")
TOKENS = st.sampled_from(NUMBERS + MARKS + TAGS + WORDS)
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), TOKENS | st.text(max_size=5) | st.just("")),
    min_size=1,
    max_size=4,
)
Changes = list[tuple[float, int, str]]


def changed(text: str, changes: Changes) -> str:
    """`text` with so many characters at some places (parts of the whole) replaced."""
    for where, count, new in changes:
        at = int(where * len(text))
        text = text[:at] + new + text[at + count :]
    return text


ENDINGS = st.sampled_from(
    [(0, ""), (0, "\udcff"), (1, ""), (153, "qstat: Unknown Job Id 1.head\n"), (255, "\0"), (1, "nonsense")]
)


class Terminal:
    """Prints the same whatever it is asked, and ends in the same way."""

    def __init__(self, text: str, code: int = 0, stderr: str = "") -> None:
        self.answer = Completed(code, text, stderr)

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 60.0,
        environment: Optional[Mapping[str, str]] = None,
    ) -> Completed:
        return self.answer


def scheduler(dialect: str, terminal: Terminal) -> Scheduler:
    """One that knows its answers from there: Slurm, or the PBS of this dialect."""
    return PbsScheduler(terminal, dialect=dialect) if dialect else SlurmScheduler(terminal)


class Said(NamedTuple):
    """What a scheduler (as of `scheduler`) has printed of some jobs, and the ids of these."""

    dialect: str
    text: str
    ids: list[str]


SAID = {
    "squeue": Said("", captured_slurm.QUEUE, ["110_0", "110_5", "117_9", "120", "999"]),
    "sacct": Said("", captured_slurm.RECORDS, ["110_0", "110_4", "117_3", "121", "999"]),
    "torque": Said("torque", captured_pbs.TORQUE_TWO, ["57.head", "60.head", "999.head"]),
    "torque-live": Said("torque", captured_pbs.TORQUE_LIVE, ["57.head", "58[1].head", "64.head"]),
    "torque-ended": Said("torque", captured_pbs.TORQUE_ENDED, ["58[0].head", "58[3].head", "59.head"]),
    "openpbs": Said("openpbs", captured_pbs.OPENPBS_TWO, ["77.head", "80.head", "999.head"]),
    "openpbs-live": Said("openpbs", captured_pbs.OPENPBS_LIVE, ["79.head", "83.head"]),
    "openpbs-array": Said("openpbs", captured_pbs.OPENPBS_ARRAY, ["78[0].head", "78[3].head"]),
    "debian": Said(
        "slurm", captured_pbs.DEBIAN_JOBS, re.findall(r"Job Id:\s(\d+)", captured_pbs.DEBIAN_JOBS)
    ),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a whole array of Slurm's largest is made quickly enough, but not a thousand times."""
    monkeypatch.setattr(slurm_status, "LARGEST_ARRAY", 5000)


def check(status: JobStatus) -> None:
    """That a status says what one can say; else whoever reads it would be the one to fail."""
    assert isinstance(status.state, JobState)
    assert status.time_left is None or 0.0 <= status.time_left < math.inf
    assert status.restarts is None or 0 <= status.restarts < 10**9
    for number in (status.exit_code, status.signal):
        assert number is None or isinstance(number, int)
    assert isinstance(status.text, str)
    assert isinstance(status.hopeless, str)


@pytest.mark.parametrize("name", SAID)
@examples(60)
@given(changes=CHANGES, ending=ENDINGS)
@example(changes=[(0.0, 10**9, "12_[0-3:0]|RUNNING|0|1:00|0|n1|None")], ending=(0, ""))
@example(changes=[(0.0, 10**9, "12_[0-99999999999]|RUNNING|0|1:00|\u00b2|n1|None")], ending=(0, ""))
@example(changes=[(0.0, 10**9, f"120|RUNNING|0|{'9' * 400}:00|{'1' * 5000}|n1|None")], ending=(0, ""))
def test_of_jobs(name: str, changes: Changes, ending: tuple[int, str]) -> None:
    dialect, text, ids = SAID[name]
    try:
        found = scheduler(dialect, Terminal(changed(text, changes), *ending)).poll(ids)
    except SchedulerUnavailable:
        return
    assert found.keys() <= set(ids)
    for status in found.values():
        check(status)


@pytest.mark.parametrize("name", SAID)
def test_cut_anywhere(name: str) -> None:
    """As by a full disk, or a command that was killed."""
    dialect, text, ids = SAID[name]
    assert len(scheduler(dialect, Terminal(text)).poll(ids)) > 1, "it tells of these jobs"
    for cut in range(0, len(text), 1 + len(text) // 200):
        try:
            found = scheduler(dialect, Terminal(text[:cut])).poll(ids)
        except SchedulerUnavailable:
            continue
        for status in found.values():
            check(status)


NAMES = ("exit_status", "walltime.remaining", "resource_list.walltime", "resources_used.walltime", "mtime")
TIMES = ("Sat Nov 21 14:23:05 99999999999", "Sat Nov 99 99:99:99 0000", "1" * 5000 + ":00", "-271")


@examples(200)
@given(
    letter=st.sampled_from("QHWTRESUXFCM") | st.text(max_size=2),
    values=st.lists(TOKENS | st.sampled_from(TIMES) | st.text(max_size=8), min_size=6, max_size=6),
)
@example(letter="R", values=["", "--5", "", "", "", "n1"])
@example(letter="R", values=["", "", "1:00", "", "Sat Nov 21 14:23:05 99999999999", "n1"])
@example(letter="C", values=["1" * 5000, "", "", "", "", "n1/0"])
def test_of_single_attributes(letter: str, values: list[str]) -> None:
    record = dict(zip((*NAMES, "exec_host"), values))
    for dialect in DIALECTS.values():
        check(dialect().status({"job_state": letter, "ctime": values[4], **record}))


@examples(150)
@given(st.text(max_size=200) | st.lists(TOKENS, max_size=30).map("".join))
@example("<Data>" * 10_000 + "</Data>" * 10_000)
@example('<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Job><Job_Id>&b;</Job_Id></Job>')
def test_no_answer_at_all(text: str) -> None:
    """Documents with entities of their own, which could become very large, are none."""
    slurm_status.read_queue(text)
    slurm_status.read_records(text)
    pbs_status.read_text(pbs_status.unfolded(text))
    try:
        found = pbs_status.read_xml(text)
    except ValueError:
        return
    assert "aaaa" not in str(found)


# ---- answers to submissions, and to questions about the site --------------------------------------


def request(directory: Path) -> JobRequest:
    log = str(directory / f"{INDEX}.log")
    return JobRequest(0, "job", ["true"], 3, str(directory / "job.sh"), log, None, {}, "", {}, tag="run")


ANSWERS = {"": "123;far\n", "torque": "12[].head\n", "openpbs": "12[].head\n", "slurm": "123\n"}


@pytest.mark.parametrize("dialect", ANSWERS)
@examples(40)
@given(changes=CHANGES, ending=ENDINGS)
def test_of_submissions(tmp_path: Path, dialect: str, changes: Changes, ending: tuple[int, str]) -> None:
    asked = scheduler(dialect, Terminal(changed(ANSWERS[dialect], changes), *ending))
    try:
        ids = asked.submit(request(tmp_path))
        found = asked.poll(ids)
    except (SubmissionError, SchedulerUnavailable):
        return
    assert len(ids) == 3
    assert found.keys() <= set(ids)


SITES = {
    "": captured_slurm.CONFIG,
    "torque": "Server: head\n    max_job_array_size = 500\n",
    "openpbs": "Server: head\n    max_array_size = 10000\n    pbs_version = 23.06.06\n",
}


@pytest.mark.parametrize("dialect", SITES)
@examples(40)
@given(changes=CHANGES)
def test_of_the_site(dialect: str, changes: Changes) -> None:
    terminal = Terminal(changed(SITES[dialect], changes))
    assert scheduler(dialect, terminal).max_array >= 0
    try:
        found = PbsScheduler(terminal).dialect
    except SubmissionError:
        return
    assert found.name in DIALECTS


# ---- bytes that are no text -----------------------------------------------------------------------


@examples(30)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind(tmp_path: Path, data: bytes) -> None:
    """By way of a real process, as a command whose language is another one prints them."""
    path = tmp_path / "printed"
    path.write_bytes(data)
    done = run(["cat", str(path)])
    assert os.fsencode(done.stdout) == data
    slurm_status.read_queue(done.stdout)
    pbs_status.read_text(done.stdout)


@examples(150)
@given(
    st.lists(st.sampled_from([notices.SAID, b"walltime ", b"mem", b"\n", b"=>> "]) | st.binary(max_size=20))
)
def test_notices_in_a_jobs_output(tmp_path: Path, pieces: list[bytes]) -> None:
    """Which the job itself may have written, too."""
    path = tmp_path / "said"
    path.write_bytes(b"".join(pieces))
    assert notices.reason(str(path)) in {SITE, *notices.REASONS.values()}
