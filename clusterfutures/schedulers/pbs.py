"""PBS as a scheduler: TORQUE, OpenPBS and PBS Pro, and Debian's Torque commands in front of Slurm.

Everything here is rendering and parsing around one callable that runs commands
(:func:`clusterfutures.schedulers.command.run`).  What is where:

- :mod:`~clusterfutures.schedulers.pbs_dialect` has what all dialects share, and what each must say of itself;
- :mod:`~clusterfutures.schedulers.pbs_torque`, :mod:`~clusterfutures.schedulers.pbs_openpbs` and
  :mod:`~clusterfutures.schedulers.pbs_over_slurm` are the dialects: their options, their questions;
- :mod:`~clusterfutures.schedulers.pbs_status` reads answers, and knows what states and exit codes mean;
- :mod:`~clusterfutures.schedulers.pbs_starts` counts how often a job has begun, which no PBS tells it;
- :mod:`~clusterfutures.schedulers.pbs_client` calls commands;
- here are submissions, what qsub refuses, and the port that the rest of the package sees.

What a job prints is written by its script to the run directory, and nothing of it passes through PBS, which
would deliver it late, leave it on the node, or keep a job whose files it cannot deliver.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import time
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import (
    OptionError,
    SchedulerUnavailable,
    SubmissionError,
    SubmitLimitReached,
)
from clusterfutures.schedulers import command, pbs_starts, slurm
from clusterfutures.schedulers.base import JobRequest, JobStatus, Scheduler
from clusterfutures.schedulers.command import Completed, Run
from clusterfutures.schedulers.pbs_client import ENDED_JOB, Client, inherited
from clusterfutures.schedulers.pbs_dialect import Dialect, JobId
from clusterfutures.schedulers.pbs_openpbs import OpenPbs
from clusterfutures.schedulers.pbs_over_slurm import TorqueOverSlurm
from clusterfutures.schedulers.pbs_torque import Torque
from clusterfutures.schedulers.poller import SharedPoller
from clusterfutures.schedulers.script import Variables, render
from clusterfutures.schedulers.slurm_status import NUMBER
from clusterfutures.states import JobState

log = logging.getLogger("clusterfutures")

DIALECTS: dict[str, type[Dialect]] = {kind.name: kind for kind in (Torque, OpenPbs, TorqueOverSlurm)}

DEFAULT_MAX_ARRAY = 1000
"""Elements of an array where nobody sets a limit: a very large one brings a TORQUE server to its knees."""

NO_PBS = "is this a login node of the cluster, with the commands of PBS on PATH (module load torque, pbs)?"

# ---- which dialect ------------------------------------------------------------------------------


def recognised(done: Completed) -> Optional[Dialect]:
    """The dialect whose ``qstat --version`` has ended so; None if it is none that is known."""
    said = f"{done.stdout}\n{done.stderr}"
    version = re.search(rf"pbs_version = \D*({NUMBER})", said)
    if version:  # 14, 18, 19, 20 or 2020; then 2021, 22.05 ...
        return OpenPbs(throttles=int(version[1]) % 2000 > 20)
    if re.search("^version:", said, re.MULTILINE | re.IGNORECASE):
        return Torque()
    if re.search("^Unknown option: version", said, re.MULTILINE):
        return TorqueOverSlurm()
    return None


# ---- submissions --------------------------------------------------------------------------------


class Submission(NamedTuple):
    """One call of qsub: its words, the script and its path, its mark, and the size of its array (0: none)."""

    argv: list[str]
    script: str
    path: str
    mark: str
    array: int

    def ids(self, answer: str) -> list[str]:
        """The ids of its elements, from "12.server" or "12[].server".  ValueError if it is neither."""
        found = re.fullmatch(r"(\d+)(\[\])?(\.\S+)?", answer)
        if found is None or bool(found[2]) != bool(self.array):
            raise ValueError(answer)
        number, _, server = found.groups()
        if not self.array:
            return [answer]
        return [f"{number}[{index}]{server or ''}" for index in range(self.array)]


def submissions(
    request: JobRequest, dialect: Dialect, arrays: bool, environment: Mapping[str, str]
) -> list[Submission]:
    """What to submit for a request: one array, one job if it is for one element, or without arrays, many.

    `environment` is what jobs get of the driver's.  Raises :class:`OptionError` for what the dialect cannot
    express.
    """
    imposed: dict[str, Optional[str]] = dict.fromkeys(dialect.imposed)
    request = request._replace(environment={**imposed, **environment, **request.environment})
    if request.elements == 1:
        return [_submission(request, dialect, request.script, 0)]
    if arrays:
        dialect.check_array(request.resources)
        return [_submission(request, dialect, request.script, None)]
    paths = [f"{request.script}.{index}" for index in range(request.elements)]
    return [_submission(request, dialect, path, index) for index, path in enumerate(paths)]


def _submission(request: JobRequest, dialect: Dialect, path: str, index: Optional[int]) -> Submission:
    """For the element `index`, or for all of them, as an array, if it is None."""
    element = dialect.index if index is None else str(index)
    variables = Variables(element, pbs_starts.expression(request.log), dialect.job_id)
    mark = f"cf-{re.sub('[^A-Za-z0-9-]', '-', request.tag)}-{request.job}" + f".{index}" * (index is not None)
    own_output = request.resources.keys() & {"stdout", "stderr"}
    argv = ["qsub", *dialect.own_words(request.name, mark), *_output(request.resources, dialect)]
    if index is None:
        throttle = f"%{request.throttle}" if request.throttle and dialect.throttles else ""
        argv += [dialect.array_option, f"0-{request.elements - 1}{throttle}"]
    argv += [*dialect.options(request.resources), dialect.quote(path)]
    script = render(request, variables, None if own_output else request.log, dialect.notices)
    return Submission(argv, script, path, mark, request.elements if index is None else 0)


def _output(resources: Mapping[str, Any], dialect: Dialect) -> list[str]:
    """Where PBS is to deliver what a job prints: nowhere, or all of it to where the user says."""
    if "stdout" in resources and "stderr" in resources:
        return []
    if "stdout" in resources:
        return ["-j", "oe"]
    if "stderr" in resources:
        return ["-j", "eo"]
    return ["-o", dialect.nowhere, "-e", dialect.nowhere]


# ---- refusals -----------------------------------------------------------------------------------

SUBMIT_LIMIT = re.compile(
    # "Maximum number of jobs already in queue", "would exceed complex's per-user limit of jobs in 'Q' state";
    "Maximum number of jobs|would exceed (?!.*on resource).*limit"
    # and arrays that are too large, of which smaller ones may pass.
    "|Array job exceeds|array size too large"
    f"|{slurm.SUBMIT_LIMIT.pattern}"
)
"""Reasons for which a later submission, or a smaller one, may pass."""

HINTS = (
    ("Array job exceeds|array size too large", "the site's arrays are shorter"),
    (SUBMIT_LIMIT.pattern, "the site limits how many jobs may wait and run: let some end first"),
    ("Bad UID", "TORQUE runs no jobs of root, and none of users whom its server does not know"),
    ("Unknown queue|No default queue", "`qstat -Q` lists the queues"),
    ("Access to queue|No access permission|not enabled", "`qstat -Q -f` shows who may use which queue"),
    ("(queue|server) resource limits", "`qstat -Q -f` shows the limits of each queue"),
    ("Unknown resource|in a 'select'", "`pbsnodes -a` shows what nodes have"),
    ("[Dd]epend", "the job in depends= must be one that the server still knows"),
    ("[Aa]rray", "arrays are forbidden here: try arrays=False"),
    ("[Aa]ccount", "the site's staff can tell which accounts you have"),
    ("errno=15007|[Uu]nauthorized", "this machine or user may not submit jobs: are you on a login node?"),
    ("errno=15034|[Nn]o default server", "set PBS_SERVER (OpenPBS) or PBS_DEFAULT (TORQUE)"),
    *slurm.HINTS,
)
"""What to do about it, by what qsub says; the first one that fits."""


def refusal(argv: list[str], done: Completed) -> SubmissionError:
    """The error for a submission that qsub has refused."""
    text = done.stderr.strip() or _said_by_sbatch(done.stdout) or "it does not say why"
    kind = SubmitLimitReached if SUBMIT_LIMIT.search(text) else SubmissionError
    reason = "; ".join(re.sub("^qsub: ", "", line) for line in text.splitlines())
    hints = [hint for words, hint in HINTS if re.search(words, text)]
    hint = hints[0] if hints else f"the command was: {shlex.join(argv)}"
    return kind(f"PBS refused the job: {reason}\n{hint}", argv, done.code, done.stderr)


def _said_by_sbatch(text: str) -> str:
    """Slurm's qsub says on standard output how it has called sbatch, and what that said."""
    return "\n".join(re.findall("sbatch: (?:error: )?(.*)", text)) or text.strip()


# ---- the scheduler ------------------------------------------------------------------------------

_pollers: weakref.WeakValueDictionary[tuple[object, ...], SharedPoller] = weakref.WeakValueDictionary()


def _shared_poller(run: Run, dialect: Dialect) -> SharedPoller:
    """The one for this server that all executors of this process share (a forked child has its own)."""
    # Which server it is, the program knows or is told by one of these.
    servers = tuple(map(os.environ.get, ("PBS_DEFAULT", "PBS_SERVER", "PBS_CONF_FILE", "SLURM_CONF")))
    key = (os.getpid(), run, shutil.which("qstat"), *servers)
    poller = _pollers.get(key)
    if poller is None:
        # Two threads that come here together may get one each, which is a qstat too many and nothing else.
        poller = _pollers[key] = SharedPoller(_Queue(Client(run), dialect).ask)
    return poller


class _Queue:
    """The jobs of one server; for one thread at a time."""

    def __init__(self, client: Client, dialect: Dialect) -> None:
        self._client, self._dialect = client, dialect

    def ask(self, ids: list[str]) -> dict[str, JobStatus]:
        """What is known of these.  Raises :class:`SchedulerUnavailable` if there is no answer."""
        bases = {job.base for job in map(JobId.parse, ids) if job is not None}
        records = self._dialect.ask(self._client, sorted(bases))
        return {job_id: self._dialect.status(records[job_id]) for job_id in ids if job_id in records}


class PbsScheduler(Scheduler):
    """Submits elements as job arrays.

    `run` runs commands; `dialect` is "torque", "openpbs" or "slurm" (Debian's Torque commands in front of
    it), and asked for if it is None; without `arrays`, each element is a job of its own.

    Raises :class:`OptionError` for another dialect.
    """

    name = "pbs"
    interval = 10.0
    closing_interval = 1.0
    longest_interval = 60.0
    grace = 10.0  # a server knows what it has accepted; many forget at once what has ended

    def __init__(
        self, run: Run = command.run, *, dialect: Optional[str] = None, arrays: bool = True
    ) -> None:
        if dialect is not None and dialect not in DIALECTS:
            raise OptionError(f"dialect must be one of {', '.join(map(repr, DIALECTS))}, not {dialect!r}")
        self._client, self._arrays = Client(run), arrays
        self._dialect = DIALECTS[dialect]() if dialect is not None else None
        self._poller: Optional[SharedPoller] = None
        self._starts = pbs_starts.Starts()
        self._unseen: dict[str, float] = {}  # elements that the server may not have made yet: until when
        self._max_array = 0
        self._doubtful: set[str] = set()  # scripts of requests that may have been accepted, or parts of them

    @property
    def dialect(self) -> Dialect:
        """What is spoken here; asked for once.

        Raises :class:`SubmissionError` if there is no PBS, or one that is not known, and
        :class:`SchedulerUnavailable` if there is no answer.
        """
        if self._dialect is None:
            self._dialect = self._find_dialect()
        return self._dialect

    @property
    def max_array(self) -> int:
        """Elements that one request may have; asked for once, and again until there is an answer."""
        if not self._has_arrays:
            return sys.maxsize
        if not self._max_array:
            try:
                self._max_array = _array_limit(self._client.call("qstat", "-B", "-f").stdout)
            except SchedulerUnavailable:
                return DEFAULT_MAX_ARRAY  # the submission will be put off, and says so
        return self._max_array

    def check(self, resources: Mapping[str, Any]) -> None:
        """Raise :class:`OptionError` for what this PBS cannot be asked for.

        Raises :class:`SubmissionError` if there is none here.
        """
        self.dialect.own_words(resources.get("name", "any"), mark="")
        self.dialect.options(resources)
        if self._has_arrays:
            self.dialect.check_array(resources)

    def submit(self, request: JobRequest) -> list[str]:
        """Call qsub, once for all elements unless there are no arrays.

        The ids are "12.server" for one element, else "12[0].server", "12[1].server" ..., as this server
        writes them.  The batch script is written to the request's path and stays there.

        Raises :class:`SubmissionError` if PBS refuses it, :class:`SubmitLimitReached` if it does for now, and
        :class:`OptionError` for what it cannot express; nothing is submitted then.  Raises
        :class:`SchedulerUnavailable` if PBS does not answer: to submit the same request again first looks for
        what the first try has left.
        """
        environment = {} if self.dialect.passes_environment else inherited(os.environ)
        wanted = submissions(request, self.dialect, self._has_arrays, environment)
        ids: list[str] = []
        try:
            there = self._submitted_before(wanted) if request.script in self._doubtful else {}
            for submission in wanted:
                ids += there.get(submission.mark) or self._submit(submission)
        except SubmissionError:
            self._withdraw(ids)
            raise
        except SchedulerUnavailable:
            self._doubtful.add(request.script)
            raise
        self._doubtful.discard(request.script)
        self._starts.note(request.log, ids)
        if len(ids) > len(wanted):
            self._unseen.update(dict.fromkeys(ids, time.monotonic() + self.dialect.late))
        return ids

    def adopt(self, request: JobRequest, ids: Optional[list[str]]) -> list[str]:
        """Ask qstat for jobs with the request's marks, if there are no `ids`."""
        if ids is None:
            wanted = submissions(request, self.dialect, self._has_arrays, {})
            there = self._submitted_before(wanted)
            ids = [job_id for item in wanted for job_id in there.get(item.mark, [""] * max(item.array, 1))]
        self._starts.note(request.log, ids)
        return ids

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Call qdel, and look whether it has done so; raises SchedulerUnavailable if it gets no answer."""
        jobs = {job_id: job for job_id in job_ids if (job := JobId.parse(job_id)) is not None}
        if not jobs:
            return
        self._delete(jobs.values())
        # One for a very large held array and other jobs was seen to delete nothing, and to exit with 0.
        found = _Queue(self._client, self.dialect).ask(list(jobs))
        left = [job_id for job_id, status in found.items() if status.state is JobState.PENDING]
        for base in {jobs[job_id].base for job_id in left}:
            self._delete(jobs[job_id] for job_id in left if jobs[job_id].base == base)

    def _delete(self, jobs: Iterable[JobId]) -> None:
        for words in self.dialect.deletions(jobs):
            done = self._client.call("qdel", *words)
            for line in done.stderr.splitlines():
                if done.code and "qdel:" in line and not ENDED_JOB.search(line):
                    log.warning("%s", line)

    @property
    def throttles(self) -> bool:
        """Whether there are arrays, of which this PBS lets so many elements run at a time."""
        # Asking for the dialect would take time, and this is asked for in the midst of other things.
        dialect = self._dialect
        return dialect is not None and self._arrays and dialect.arrays and dialect.throttles

    def throttle(self, job_id: str, elements: int) -> None:
        """Call qalter; raises SchedulerUnavailable if it gets no answer."""
        job = JobId.parse(job_id)
        if job is None or job.element is None:  # a job by itself has no others to wait for
            return
        done = self._client.call("qalter", *self.dialect.throttling(job.base, elements))
        if done.code:
            log.warning("qalter failed (%d): %s", done.code, done.stderr.strip())

    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        """Ask qstat, together with all executors of this process."""
        ids = [job_id for job_id in job_ids if JobId.parse(job_id) is not None]
        if self._poller is None:
            self._poller = _shared_poller(self._client.run, self.dialect)
        found = self._poller.poll(ids, max_age)
        return self._starts.counted(ids, {**self._to_come(ids, found), **found})

    def script(self, request: JobRequest) -> str:
        """The batch script; of many that differ by their index, the first."""
        return submissions(request, self.dialect, self._has_arrays, {})[0].script

    def explain(self, request: JobRequest) -> str:
        """The command and the script; of many that differ by their index, the first."""
        first, *others = submissions(request, self.dialect, self._has_arrays, {})
        more = f"# ... and {len(others)} more of both, one for each element.\n" if others else ""
        if not self.dialect.passes_environment:
            more += "# It exports this program's environment as well, which is left out here.\n"
        command_line = shlex.join(first.argv)
        return f"# The command:\n{command_line}\n\n# The script, {first.path}:\n{first.script}{more}"

    def test_only(self, request: JobRequest) -> str:
        """What can be told without submitting, since PBS has no way to try: that its queue is there."""
        submissions(request, self.dialect, self._has_arrays, {})
        name = request.resources.get("partition", "")
        argv = ["qstat", "-Q", *([name] if name else [])]
        done = self._client.call(*argv)
        if done.code:
            said = done.stderr.strip() or "it does not say why"
            text = f"partition: PBS tells of no queue {name}: {said}\n`qstat -Q` lists the queues"
            raise SubmissionError(text, argv, done.code, done.stderr)
        return (
            "PBS cannot try a job without running it. This much is certain: qsub has such options, and the "
            f"server answers:\n{done.stdout.strip()}"
        )

    def _to_come(self, ids: list[str], found: Mapping[str, JobStatus]) -> dict[str, JobStatus]:
        """Those elements that are still being made; what was there once and is not is gone."""
        now = time.monotonic()
        self._unseen = {job: end for job, end in self._unseen.items() if job not in found and now < end}
        return {job: JobStatus(JobState.PENDING, text="accepted") for job in ids if job in self._unseen}

    # -- submitting -----------------------------------------------------------------------------

    @property
    def _has_arrays(self) -> bool:
        return self._arrays and self.dialect.arrays

    def _find_dialect(self) -> Dialect:
        argv = ["qstat", "--version"]
        try:
            done = self._client.submit(argv)
        except OSError as error:
            raise SubmissionError(f"cannot start qstat: {error}\n{NO_PBS}", argv) from error
        found = recognised(done)
        if found is None:
            names = ", ".join(f"dialect={name!r}" for name in DIALECTS)
            said = done.stdout.strip() or done.stderr.strip()
            text = f"`qstat --version` does not tell which PBS this is: {said!r}\ngive one of {names}"
            raise SubmissionError(text, argv, done.code, done.stderr)
        log.debug("this PBS is %s", found.title)
        return found

    def _submit(self, submission: Submission) -> list[str]:
        _write(submission)
        try:
            done = self._client.submit(submission.argv)
        except OSError as error:
            raise SubmissionError(f"cannot start qsub: {error}\n{NO_PBS}", submission.argv) from error
        if done.code:
            raise refusal(submission.argv, done)
        answer = done.stdout.strip().rpartition("\n")[2]  # a site's own remarks come first
        try:
            return submission.ids(answer)
        except ValueError as error:
            there = self._submitted_before([submission])  # it may have done its work all the same
            if submission.mark in there:
                return there[submission.mark]
            text = f"qsub printed {done.stdout!r} in place of a job's id"
            raise SubmissionError(text, submission.argv, done.code, done.stderr) from error

    def _submitted_before(self, wanted: list[Submission]) -> dict[str, list[str]]:
        """The ids of those that were accepted although the answer did not come, by their mark."""
        found = self.dialect.marked(self._client, {item.mark: item.path for item in wanted})
        return {item.mark: item.ids(found[item.mark]) for item in wanted if item.mark in found}

    def _withdraw(self, ids: list[str]) -> None:
        """Some elements of a request were accepted, and one was not: all or nothing."""
        try:
            self.cancel(ids)
        except SchedulerUnavailable as error:
            log.warning("jobs %s stay behind: %s", ", ".join(ids), error)


def _write(submission: Submission) -> None:
    try:
        with open(os.open(submission.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as file:
            file.write(os.fsencode(submission.script))
    except OSError as error:
        raise SubmissionError(f"cannot write the job's script: {error}", submission.argv) from error


def _array_limit(text: str) -> int:
    """From ``qstat -B -f``."""
    found = re.findall(rf"^\s*max(?:_job)?_array_size = ({NUMBER})$", text, re.MULTILINE)
    return min(map(int, found), default=DEFAULT_MAX_ARRAY)
