"""What Slurm says of jobs: its words for states and reasons, and whom to ask for them.

squeue tells all there is of a job until some minutes after its end (MinJobAge), which is as much and as long
as ``scontrol show job`` would; from then on sacct tells how it ended, if the site keeps accounts.  Read are
delimited formats only, as all versions from 20.11 on print them: ``--json`` differs between versions, and
columns cut words short.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import NamedTuple, Optional

from clusterfutures.errors import SchedulerUnavailable
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.schedulers.script import EXIT_CODES, NO_RUN_DIRECTORY
from clusterfutures.schedulers.slurm_client import Client
from clusterfutures.states import JobState

log = logging.getLogger("clusterfutures")

NUMBER = "[0-9]{1,9}"
"""A number in an answer; what has more digits is damaged, and may be too large to count to, or to convert."""

LARGEST_ARRAY = 4_000_001
"""Elements that an array can have, wherever its site has set MaxArraySize; see slurm.conf(5)."""

LINE = 100_000
"""Characters of job ids in one command; Linux takes 128 KiB in one word."""

# ---- Slurm's words ------------------------------------------------------------------------------

_STATES = (
    # The states of squeue(1), sacct(1) and Slurm's page "Job State Codes", with their compact forms.
    ("PENDING", "PD", JobState.PENDING),
    ("RUNNING", "R", JobState.RUNNING),
    ("SUSPENDED", "S", JobState.SUSPENDED),
    ("COMPLETED", "CD", JobState.COMPLETED),
    ("CANCELLED", "CA", JobState.CANCELLED),
    ("FAILED", "F", JobState.FAILED),
    ("TIMEOUT", "TO", JobState.TIMEOUT),
    ("DEADLINE", "DL", JobState.TIMEOUT),
    ("OUT_OF_MEMORY", "OOM", JobState.OUT_OF_MEMORY),
    ("NODE_FAIL", "NF", JobState.NODE_FAILED),
    ("BOOT_FAIL", "BF", JobState.NODE_FAILED),
    ("PREEMPTED", "PR", JobState.PREEMPTED),
    # Flags, which hide the state proper.  While its nodes are being started, nothing of a job runs;
    ("CONFIGURING", "CF", JobState.PENDING),
    ("POWER_UP_NODE", "", JobState.PENDING),
    # while its processes may still be alive, or an epilog takes its time, it has not ended;
    ("COMPLETING", "CG", JobState.ENDING),
    ("STAGE_OUT", "SO", JobState.ENDING),
    ("SIGNALING", "SI", JobState.RUNNING),
    ("RESIZING", "RS", JobState.RUNNING),
    ("STOPPED", "ST", JobState.SUSPENDED),
    # and what is queued again, or held after that, has not ended either.
    ("EXPEDITING", "", JobState.PENDING),  # from 25.05 on
    ("REQUEUED", "RQ", JobState.PENDING),
    ("REQUEUED_CRON", "RC", JobState.PENDING),  # in 20.11 only
    ("REQUEUE_FED", "RF", JobState.PENDING),
    ("REQUEUE_HOLD", "RH", JobState.PENDING),
    ("SPECIAL_EXIT", "SE", JobState.PENDING),
    ("RESV_DEL_HOLD", "RD", JobState.PENDING),
    # These do not tell whether it has: a sibling in the federation runs, a start has failed.
    ("REVOKED", "RV", JobState.UNKNOWN),
    ("LAUNCH_FAILED", "", JobState.UNKNOWN),
    ("RECONFIG_FAIL", "", JobState.UNKNOWN),
    ("UPDATE_DB", "", JobState.UNKNOWN),
)

STATES = {word: state for *words, state in _STATES for word in words if word}

HOPELESS = {
    # What Slurm says of pending jobs that no waiting will start; see squeue(1), "JOB REASON CODES".
    "DependencyNeverSatisfied": "a job that it depends on has failed",
    "BadConstraints": "no node can ever satisfy what it asks for; Slurm holds it",
    "PartitionTimeLimit": "its time limit is above that of the partition (see sinfo -o '%P %l')",
    "InvalidAccount": "its account is not valid any more",
    "InvalidQOS": "its QOS is not valid any more",
    "ReservationDeleted": "the reservation that it waits for was deleted; Slurm holds it",
    # The reasons of jobs that Slurm has queued again, but holds until somebody releases them.
    "launch failed requeued held": "its node could not start it (a prolog that fails?); Slurm holds it",
    "JobHoldMaxRequeue": "it was queued again too often; Slurm holds it",
}

FIRST_ERROR = 32
"""The first number that stands for an error of Slurm and for no signal that ends programs."""

TOO_LARGE = re.compile("(Assoc|QOS)Max[A-Za-z]+PerJob(Limit)?")
"""Limits on a single job.  Those per user, group or account pass when other jobs end."""

LAUNCH_ERRORS = {
    52: "the node could not execute the batch script",
    53: "the node could not open the job's log: " + EXIT_CODES[NO_RUN_DIRECTORY],
    54: "the node's prolog failed",
}
"""What ends a job before it begins.

Taken for the status of a process, Slurm's errors from 4000 on (slurm_errno.h) look like a signal above 31:
4021, ESLURMD_IO_ERROR, is shown as 0:53.
"""

_unknown: set[str] = set()


def state_of(word: str) -> JobState:
    """The state that Slurm calls so, in its long or compact form; logs what it does not know, once."""
    state = STATES.get(word)
    if state is None:
        if word not in _unknown:
            _unknown.add(word)
            log.warning("Slurm speaks of a job state %r, which is not known here", word)
        return JobState.UNKNOWN
    return state


def hopeless(reason: str) -> str:
    """Why a pending job for this reason can never start; empty if it may."""
    words = reason.replace("_", " ")  # as scontrol writes them
    if words in HOPELESS:
        return f"{words}: {HOPELESS[words]}"
    if TOO_LARGE.fullmatch(reason):
        return f"{reason}: it asks for more than one job may have here"
    return ""


def seconds_left(text: str) -> Optional[float]:
    """Seconds, from the time left as squeue prints it; None for UNLIMITED and NOT_SET.

    >>> seconds_left("1-02:03:04"), seconds_left("59:59"), seconds_left("UNLIMITED")
    (93784.0, 3599.0, None)
    """
    if text == "INVALID":  # below zero: it should have ended
        return 0.0
    found = re.fullmatch(f"(?:(?:({NUMBER})-)?({NUMBER}):)?({NUMBER}):({NUMBER})", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def elements(name: str) -> Iterator[str]:
    """The ids that Slurm's short form stands for.

    >>> list(elements("12_[1-3,7%2]")), list(elements("12_[0-4:2]")), list(elements("12"))
    (['12_1', '12_2', '12_3', '12_7'], ['12_0', '12_2', '12_4'], ['12'])
    """
    base, bracket, indices = name.partition("_[")
    if not bracket:
        yield name
        return
    parts = re.findall(f"({NUMBER})(?:-({NUMBER}))?(?::({NUMBER}))?", indices.partition("%")[0])
    ranges = (range(int(first), int(last or first) + 1, int(step or 1) or 1) for first, last, step in parts)
    for index in islice(chain.from_iterable(ranges), LARGEST_ARRAY):
        yield f"{base}_{index}"


# ---- the answers of each command ----------------------------------------------------------------

QUEUE_FORMAT = "JobArrayID:0|,State:0|,exit_code:0|,TimeLeft:0|,RestartCnt:0|,BatchHost:0|,Reason:0"
"""For ``squeue --Format``: fields of any width, with a bar behind each but the last, which is free text."""

RECORD_FORMAT = "JobID,State,ExitCode,NodeList"
"""For ``sacct --format``."""


def read_queue(text: str) -> dict[str, JobStatus]:
    """What squeue prints in QUEUE_FORMAT, by id."""
    found = {}
    for line in text.split("\n"):
        fields = line.split("|", 6)
        if len(fields) != 7:  # "CLUSTER: name", or a site's own remarks
            continue
        name, word, exit_code, left, restarts, node, reason = fields
        status = _status(word, exit_code, node, reason, left, restarts)
        found.update(dict.fromkeys(elements(name), status))
    return found


class Records(NamedTuple):
    """What the accounts say: of each job by its id, and which jobs and arrays they know at all."""

    jobs: dict[str, JobStatus]
    bases: set[str]


def read_records(text: str) -> Records:
    """What sacct prints in RECORD_FORMAT."""
    jobs: dict[str, JobStatus] = {}
    bases = set()
    for line in text.split("\n"):
        fields = line.split("|")
        if len(fields) != 4:
            continue
        name, word, exit_code, node = fields
        status = _status(word, exit_code, node)
        bases.add(_base(name))
        # A short form is the part of an array that has not started; while it waits it may be out of date.
        if "[" not in name or status.state.ended:
            jobs.update(dict.fromkeys(elements(name), status))
    return Records(jobs, bases)


def _status(
    word: str, exit_code: str, node: str, reason: str = "", left: str = "", restarts: str = ""
) -> JobStatus:
    state = state_of(word.partition(" ")[0])  # "CANCELLED by 1000"
    code, signal = _how(exit_code) if state is JobState.FAILED else (None, None)
    if code or signal:  # Slurm's reason says no more: NonZeroExitCode, or JobLaunchFailure after any signal
        reason = LAUNCH_ERRORS.get(signal or 0) or EXIT_CODES.get(code or 0, "")
    return JobStatus(
        state,
        exit_code=0 if state is JobState.COMPLETED else code,
        signal=signal if signal is not None and signal < FIRST_ERROR else None,
        node=None if node in ("", "n/a", "(null)", "None assigned") else node,
        text=word if reason in ("", "None") else f"{word} ({reason})",
        # What waits has its whole time before it, and what has ended still has some.
        time_left=seconds_left(left) if state in (JobState.RUNNING, JobState.SUSPENDED) else None,
        hopeless=hopeless(reason) if state is JobState.PENDING else "",
        restarts=int(restarts) if re.fullmatch(NUMBER, restarts) else None,
    )


def _how(text: str) -> tuple[Optional[int], Optional[int]]:
    """Exit code or signal, from "code:signal"; before 23.02 squeue prints the status of wait(2) instead."""
    found = re.fullmatch(f"({NUMBER})(?::({NUMBER}))?", text)
    if found is None:
        return None, None
    code, signal = int(found[1]), int(found[2] or 0)
    if found[2] is None:
        code, signal = code >> 8 & 0xFF, code & 0x7F
    return (None, signal) if signal else (code or None, None)


# ---- asking -------------------------------------------------------------------------------------


class SlurmQueue:
    """The jobs of one cluster, as its commands tell of them; for one thread at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._accounts = True  # until sacct says that there are none
        self._ending: set[str] = set()  # by the last answer

    def ask(self, names: list[str]) -> dict[str, JobStatus]:
        """What is known of jobs of this cluster, by one squeue and, where that does not tell, one sacct.

        It does not tell of jobs that have left the queue, nor how those will have ended that are ending; for
        these the accounts are asked only if that takes longer than from one answer to the next.
        `names` are ids without the cluster.  Raises :class:`SchedulerUnavailable` if squeue gets no answer.
        """
        queue = self._queue(names, *_mine())
        missing = [name for name in names if name not in queue]
        if missing:
            # They may be somebody else's for Slurm: in some containers we are not who we seem to be.
            queue.update(self._queue(missing))
        found = {name: queue[name] for name in names if name in queue}
        ending = {name for name, status in found.items() if status.state is JobState.ENDING}
        gone = [name for name in names if name not in found]
        lingering = ending & self._ending
        self._ending = ending
        if gone or lingering:
            records = self._records([*gone, *lingering])
            found.update(_past(gone, records))
            found.update(_outlook({name: found[name] for name in lingering}, records))
        return found

    def submitted(self, scripts: Iterable[str]) -> dict[str, str]:
        """The ids of jobs (of the whole array, if it is one) with these scripts, which must be unique."""
        text = self._squeue("--Format=JobArrayID:0|,Command:0", *_mine())
        found = {}
        for script in scripts:
            # A line end in the path is printed as it is; arguments, where they are printed, we give none.
            job = re.search(rf"^(\d+)(?:_\S+)?\|{re.escape(script)}$", text, re.MULTILINE)
            if job is not None:
                found[script] = job[1]
        return found

    def _queue(self, names: Iterable[str], *words: str) -> dict[str, JobStatus]:
        found: dict[str, JobStatus] = {}
        for bases in portions(_bases(names)):
            text = self._squeue(f"--Format={QUEUE_FORMAT}", "--jobs=" + ",".join(bases), *words)
            found.update(read_queue(text))
        return found

    def _squeue(self, *words: str) -> str:
        done = self._client.call("squeue", "--noheader", "--states=all", *words)
        # A lone id that it does not know is an error; one of several is not.
        if done.code and "Invalid job id" not in done.stderr:
            raise SchedulerUnavailable(f"squeue failed ({done.code}): {done.stderr.strip()}")
        return done.stdout

    def _records(self, names: Iterable[str]) -> Records:
        lines = [self._accounted(bases) for bases in portions(_bases(names)) if self._accounts]
        return read_records("\n".join(lines))

    def _accounted(self, bases: list[str]) -> str:
        words = ["--noheader", "--parsable2", "--allocations", f"--format={RECORD_FORMAT}"]
        try:
            done = self._client.call("sacct", *words, "--jobs=" + ",".join(bases))
        except SchedulerUnavailable as error:
            log.debug("no accounts at present: %s", error)
            return ""
        if done.code and "disabled" in done.stderr:
            self._accounts = False  # "Slurm accounting storage is disabled"
        return "" if done.code else done.stdout


def _past(names: list[str], records: Records) -> dict[str, JobStatus]:
    """How these ended, which are not in the queue, as far as the accounts know."""
    found = {}
    for name in names:
        if name not in records.jobs:
            # An element that has begun has a record of its own.
            if "_" in name and _base(name) in records.bases:
                found[name] = JobStatus(JobState.CANCELLED, text="CANCELLED (before it started)")
        elif records.jobs[name].state.ended:  # else they are late, or have lost it: nothing is known
            found[name] = records.jobs[name]
    return found


def _outlook(ending: Mapping[str, JobStatus], records: Records) -> dict[str, JobStatus]:
    """How these will have ended: the accounts know it before squeue tells."""
    ends = {name: records.jobs[name] for name in ending if name in records.jobs}
    return {
        name: ending[name]._replace(ends_as=end.state, text=end.text)
        for name, end in ends.items()
        if end.state.ended
    }


def _mine() -> list[str]:
    """Has slurmctld send this user's jobs, and not everybody's for squeue to choose from."""
    try:
        return [f"--user={pwd.getpwuid(os.geteuid()).pw_name}"]
    except KeyError:  # a container without a user database; squeue would find no jobs of a nobody
        return []


def _base(name: str) -> str:
    return name.partition("_")[0]


def _bases(names: Iterable[str]) -> list[str]:
    return sorted(set(map(_base, names)))


def portions(words: Iterable[str]) -> Iterator[list[str]]:
    """The words in order, in as few lists as are short enough for a command."""
    portion: list[str] = []
    length = 0
    for word in words:
        if portion and length + len(word) > LINE:
            yield portion
            portion, length = [], 0
        portion.append(word)
        length += len(word) + 1
    if portion:
        yield portion
