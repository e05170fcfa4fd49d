"""What PBS says of jobs: how its answers are read, and what its states and exit codes mean.

The letters and codes differ from one PBS to the next; each dialect has its own :class:`Meanings`.  TORQUE is
asked for XML, the others for text (``qstat -f``).  The JSON of OpenPBS will not do: of several jobs some
builds print the first one alone, and what looks like a number loses its leading zeros.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple, Optional
from xml.etree import ElementTree as ET

from clusterfutures.schedulers.base import JobStatus
from clusterfutures.schedulers.script import EXIT_CODES
from clusterfutures.schedulers.slurm_status import NUMBER
from clusterfutures.states import JobState

log = logging.getLogger("clusterfutures")

Record = Mapping[str, str]
"""What is said of one job: attributes by their names in small letters, as "resource_list.walltime"."""

TERMINATED = 271
"""The exit code of a job that was told to end: 256 and SIGTERM."""

# ---- answers ------------------------------------------------------------------------------------


def read_text(text: str) -> dict[str, Record]:
    """The jobs that ``qstat -f`` prints, by id."""
    found: dict[str, Record] = {}
    record: dict[str, str] = {}
    for line in text.split("\n"):
        job = re.match(r"Job Id:\s*(\S+)", line)
        attribute = re.match(r"(?: {4}|\t)([\w.]+) = (.*)", line)
        if job:
            found[job[1]] = record = {}
        elif attribute:
            record[attribute[1].lower()] = attribute[2]
    return found


def unfolded(text: str) -> str:
    """The same text without the line ends that OpenPBS puts into long values."""
    return text.replace("\n\t", "")


def read_xml(text: str) -> dict[str, Record]:
    """The jobs that TORQUE's ``qstat -x`` prints, by id; ValueError if it is no XML.

    It prints one document for each id that it was given, one behind the other, and nothing at all for none.
    """
    documents = re.sub(r"<\?xml[^>]*\?>", "", text)
    # Values are those of the user's environment, which may hold what XML may not.
    clean = re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", documents)
    try:
        root = ET.fromstring(f"<all>{clean}</all>")
    except ET.ParseError as error:
        raise ValueError(f"it is no XML: {error}") from error
    return {job.findtext("Job_Id", ""): _attributes(job) for job in root.iter("Job")}


def _attributes(job: ET.Element) -> Record:
    found = {}
    for element in job:
        found[element.tag.lower()] = element.text or ""
        for part in element:
            found[f"{element.tag}.{part.tag}".lower()] = part.text or ""
    return found


def seconds(text: str) -> Optional[int]:
    """Seconds, from "[hours:]minutes:seconds" with any number of hours; None if it is no such.

    >>> seconds("100:00:01"), seconds("Infinite")
    (360001, None)
    """
    found = re.fullmatch(f"(?:({NUMBER}):)?({NUMBER}):({NUMBER})", text)
    if found is None:
        return None
    hours, minutes, rest = (int(number or 0) for number in found.groups())
    return (hours * 60 + minutes) * 60 + rest


# ---- what it means ------------------------------------------------------------------------------


class Ending(NamedTuple):
    """What a negative exit code means: how PBS itself has ended a job."""

    state: JobState
    words: str


class Meanings(NamedTuple):
    """The words of one dialect: states by their letters, endings by the exit code.

    A letter that says that a job is over, but not how, stands for COMPLETED.
    """

    states: Mapping[str, JobState]
    endings: Mapping[int, Ending]


COMMON_ENDINGS = {
    -1: Ending(JobState.FAILED, "the node could not start it"),
    -2: Ending(JobState.FAILED, "the node could not start it"),
    -3: Ending(JobState.FAILED, "the node could not start it"),
    -4: Ending(JobState.NODE_FAILED, "the node was started anew"),
    -5: Ending(JobState.NODE_FAILED, "the node was started anew"),
    -6: Ending(JobState.NODE_FAILED, "the node was started anew"),
}
"""Those that all who descend from the first PBS have in common (JOB_EXEC_* in their sources)."""

CERTAIN = (JobState.TIMEOUT, JobState.OUT_OF_MEMORY)
"""How a job that is ending will have ended for good; with any other exit code it may be queued again."""

_unknown: set[str] = set()


def status(record: Record, meanings: Meanings) -> JobStatus:
    """The state of a job in the terms of this package."""
    letter = record.get("job_state", "")
    if letter not in meanings.states:
        if letter not in _unknown:
            _unknown.add(letter)
            log.warning("PBS speaks of a job state %r, which is not known here", letter)
        return JobStatus(JobState.UNKNOWN, text=letter)
    state = meanings.states[letter]
    if state.ended:
        return _ended(record, letter, meanings.endings)
    if state is JobState.ENDING:
        known = _ended(record, letter, meanings.endings)
        return known._replace(state=state, ends_as=known.state if known.state in CERTAIN else None)
    comment = record.get("comment", "") if state is JobState.PENDING else ""
    return JobStatus(
        state,
        node=node(record),
        text=f"{letter} ({comment})" if comment else letter,
        time_left=_time_left(record) if state in (JobState.RUNNING, JobState.SUSPENDED) else None,
    )


def node(record: Record) -> Optional[str]:
    """The first node, from "n1/0*4+n2/0"."""
    found = re.match(r"[^/:+]+", record.get("exec_host", ""))
    return found[0] if found else None


def _time_left(record: Record) -> Optional[float]:
    """Seconds; what it has used lags behind by up to two minutes, what TORQUE says remains does not."""
    remaining = record.get("walltime.remaining", "")
    if re.fullmatch(f"-?{NUMBER}", remaining):
        return max(float(remaining), 0.0)
    limit = seconds(record.get("resource_list.walltime", ""))
    used = seconds(record.get("resources_used.walltime", "")) or 0
    return None if limit is None else max(float(limit - used), 0.0)


def _ended(record: Record, letter: str, endings: Mapping[int, Ending]) -> JobStatus:
    where = node(record)
    text = record.get("exit_status", "")
    if where is None and text in ("", str(TERMINATED)):  # the latter after a dependency that has failed
        waited = f"; it waited for {record['depend']}" if "depend" in record else ""
        return JobStatus(JobState.CANCELLED, text=f"{letter} (removed before it started{waited})")
    if not re.fullmatch(f"-?{NUMBER}", text):
        return JobStatus(JobState.FAILED, node=where, text=f"{letter} (without an exit status)")
    code = int(text)
    text = f"{letter}, exit status {code}"
    if code in endings:
        state, words = endings[code]
        return JobStatus(state, node=where, text=f"{text}: {words}")
    if code == TERMINATED:
        return JobStatus(JobState.CANCELLED, node=where, text=text)
    signal = _signal(code)
    if signal is not None:
        return JobStatus(JobState.FAILED, signal=signal, node=where, text=text)
    if code:
        text += f": {EXIT_CODES[code]}" if code in EXIT_CODES else ""
        return JobStatus(JobState.FAILED, exit_code=code, node=where, text=text)
    return JobStatus(JobState.COMPLETED, exit_code=0, node=where, text=text)


def _signal(code: int) -> Optional[int]:
    """The signal that has ended it: 256 and more if the node has seen it, 128 and more if a shell has."""
    for base in (256, 128):
        if base < code <= base + 64:
            return code - base
    return None
