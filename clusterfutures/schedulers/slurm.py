"""Slurm as a scheduler: a job is a batch script, its elements are those of a job array.

Everything here is rendering and parsing around one callable that runs commands
(:func:`clusterfutures.schedulers.command.run`).  Written for Slurm 20.11 to 25.11, whose commands take the
same words and print the same fields, as far as they are used here.  What is where:

- :mod:`~clusterfutures.schedulers.script` writes batch scripts;
- :mod:`~clusterfutures.schedulers.slurm_client` calls commands;
- :mod:`~clusterfutures.schedulers.slurm_status` asks squeue and sacct, and knows their words;
- :mod:`~clusterfutures.schedulers.poller` asks for all executors of the process together;
- here are the words for sbatch, what it refuses, and the port that the rest of the package sees.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Optional

from clusterfutures.errors import (
    OptionError,
    SchedulerUnavailable,
    SubmissionError,
    SubmitLimitReached,
)
from clusterfutures.resources import format_mem, format_time
from clusterfutures.schedulers import command
from clusterfutures.schedulers.base import INDEX, JobRequest, JobStatus, Scheduler
from clusterfutures.schedulers.command import Completed, Run
from clusterfutures.schedulers.poller import SharedPoller
from clusterfutures.schedulers.script import Variables, render
from clusterfutures.schedulers.slurm_client import Client
from clusterfutures.schedulers.slurm_status import NUMBER, SlurmQueue, portions

log = logging.getLogger("clusterfutures")

DEFAULT_MAX_ARRAY = 1000
"""Elements of an array where the limit cannot be asked for; Slurm's own default is 1001."""

# ---- options ------------------------------------------------------------------------------------


def _option(name: str) -> Callable[[Any], list[str]]:
    return lambda value: [f"--{name}={value}"]


EXCLUSIVE: dict[object, list[str]] = {True: ["--exclusive"], False: []}

FLAGS: dict[str, Callable[[Any], list[str]]] = {
    "partition": _option("partition"),
    "account": _option("account"),
    "qos": _option("qos"),
    "reservation": _option("reservation"),
    "cluster": _option("clusters"),
    "comment": _option("comment"),
    "time": lambda seconds: [f"--time={format_time(seconds)}"],
    "cores": _option("cpus-per-task"),
    "mem": lambda size: [f"--mem={format_mem(size)}"],
    "mem_per_cpu": lambda size: [f"--mem-per-cpu={format_mem(size)}"],
    "nodes": _option("nodes"),
    "tasks": _option("ntasks"),
    "tasks_per_node": _option("ntasks-per-node"),
    "gres": _option("gres"),
    "licenses": _option("licenses"),
    "features": _option("constraint"),
    "nodelist": _option("nodelist"),
    "exclude": _option("exclude"),
    "exclusive": lambda with_whom: EXCLUSIVE.get(with_whom, [f"--exclusive={with_whom}"]),
    "begin": _option("begin"),
    "hold": lambda wanted: ["--hold"] if wanted else [],
    "depends": _option("dependency"),
    "nice": _option("nice"),
    "priority": _option("priority"),
    # "B:", to the batch shell alone: the script has become the supervisor, which tells its workers.
    "signal": lambda signal: [f"--signal=B:{signal}"],
    "requeue": lambda wanted: ["--requeue" if wanted else "--no-requeue"],
    "mail": _option("mail-type"),
    "mail_user": _option("mail-user"),
    "stdout": _option("output"),
    "stderr": _option("error"),
    "extra": list,
}
"""Words for sbatch from the checked value of each option (:mod:`clusterfutures.resources`)."""

CARRIED = frozenset({"name", "modules"})
"""Options that a request carries elsewhere: in its name, in its setup lines."""


def resource_words(resources: Mapping[str, Any]) -> list[str]:
    """The options of sbatch for what was asked for, and nothing else.

    Raises :class:`OptionError` for what Slurm has no option for.
    """
    words = []
    for name, value in _with_gpus(resources).items():
        if name in FLAGS:
            words += FLAGS[name](value)
        elif name not in CARRIED:
            raise OptionError(f"{name}: Slurm has no such option; extra=[...] takes words for sbatch itself")
    return words


def _with_gpus(resources: Mapping[str, Any]) -> dict[str, Any]:
    """The same with GPUs as what they are: generic resources of each node.

    ``--gres=gpu:2`` is the spelling that all versions and all select plugins understand; ``--gpus-per-node``
    needs select/cons_tres.  It is one word with other such resources, since a second one replaces the first.
    """
    found = dict(resources)
    if "gpus" in found:
        gpus = [f"gpu:{kind}" for kind in str(found.pop("gpus")).split(",")]
        others = [found["gres"]] if "gres" in found else []
        found["gres"] = ",".join([*others, *gpus])
    return found


# ---- submissions --------------------------------------------------------------------------------


class Submission(NamedTuple):
    """One call of sbatch: its words, the script and its path, and the size of its array (0: none)."""

    argv: list[str]
    script: str
    path: str
    array: int

    def ids(self, answer: str) -> list[str]:
        """The ids of its elements, from "123" or "123;cluster".  ValueError if it is neither."""
        found = re.fullmatch(r"(\d+)(;\S+)?", answer)
        if found is None:
            raise ValueError(answer)
        base, cluster = found[1], found[2] or ""
        if not self.array:
            return [base + cluster]
        return [f"{base}_{index}{cluster}" for index in range(self.array)]


def submissions(request: JobRequest, arrays: bool = True) -> list[Submission]:
    """What to submit for a request: one array, one job if it is for one element, or without arrays, many.

    Raises :class:`OptionError` for what Slurm cannot be asked for.
    """
    if request.elements == 1:
        return [_submission(request, request.script, 0)]
    if arrays:
        return [_submission(request, request.script, None)]
    # A script for each, and not an argument: from 24.05 on, Slurm does not tell the arguments of a job.
    paths = [f"{request.script}.{index}" for index in range(request.elements)]
    return [_submission(request, path, index) for index, path in enumerate(paths)]


def _submission(request: JobRequest, path: str, index: Optional[int]) -> Submission:
    """For the element `index`, or for all of them, as an array, if it is None."""
    output = output_pattern(request.log, index)
    variables = Variables(
        element="$SLURM_ARRAY_TASK_ID" if index is None else str(index),
        restart="${SLURM_RESTART_COUNT:-0}",
        job_id="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if index is None else "$SLURM_JOB_ID",
    )
    resources = request.resources
    # A line "#PBS ..." among the setup lines, from somebody's older script, would be obeyed otherwise.
    argv = ["sbatch", "--parsable", "--ignore-pbs", f"--job-name={request.name}", "--open-mode=append"]
    if "stdout" not in resources:
        argv.append(f"--output={output or '/dev/null'}")
    if "comment" not in resources:
        argv.append(f"--comment=clusterfutures {request.tag}")
    if request.cwd is not None:
        argv.append(f"--chdir={os.path.abspath(request.cwd)}")
    if index is None:
        argv.append(f"--array=0-{request.elements - 1}" + f"%{request.throttle}" * bool(request.throttle))
    argv += [*resource_words(resources), path]
    log = None if output or "stdout" in resources else request.log
    return Submission(argv, render(request, variables, log), path, request.elements if index is None else 0)


def output_pattern(path: str, index: Optional[int]) -> Optional[str]:
    r"""A log's path as a "filename pattern" of sbatch(1); `index` as of :func:`_submission`.

    None if there is no such pattern: a backslash anywhere makes sbatch take the whole name literally.

    >>> output_pattern("/a 100%/{index}.log", None), output_pattern("/a/{index}.log", 7)
    ('/a 100%%/%a.log', '/a/7.log')
    """
    if "\\" in path:
        return None
    before, mark, after = path.replace("%", "%%").rpartition(INDEX)
    element = "%a" if index is None else str(index)
    return before + (element if mark else "") + after


# ---- refusals -----------------------------------------------------------------------------------

SUBMIT_LIMIT = re.compile(r"\b[A-Za-z]+Submit[A-Za-z]*(Limit|PerAccount)\b")
"""Reasons for which a later submission may pass: QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit, ..."""

NAMED_LIMIT = re.compile(r"\b((Assoc|QOS)(Grp|Max|Min)|Max)[A-Z][A-Za-z]+\b")
POLICY = "Job violates accounting/QOS policy"

HINTS = (
    (SUBMIT_LIMIT.pattern, "the site limits how many jobs may wait and run: let some end first"),
    (POLICY, "`sacctmgr show assoc user=$USER` and `sacctmgr show qos` show the limits"),
    ("nvalid partition|No partition specified", "`sinfo --summarize` lists the partitions"),
    ("Invalid account", "`sacctmgr show assoc user=$USER format=account,partition` lists your accounts"),
    ("Invalid qos", "`sacctmgr show assoc user=$USER format=account,qos` lists what you may use"),
    ("Requested time limit", "`sinfo --format='%P %l'` shows the limit of each partition"),
    ("Invalid feature", "`sinfo --format='%N %f'` shows the features of nodes"),
    ("node configuration is not available", "`sinfo --format='%P %c %m %G'` shows how large nodes are"),
    ("Invalid job array", "arrays are forbidden here or shorter: try arrays=False"),
    ("Invalid generic resource|GRES", "`sinfo --format='%N %G'` shows what nodes have"),
    ("[Dd]ependency", "the job in depends= must be one that Slurm still knows"),
    ("unrecognized option|[Ii]nvalid option", "this version of Slurm does not know the option"),
    ("configuration source|slurm.conf", "this machine is of no cluster: log in to one, or set SLURM_CONF"),
)
"""What to do about it, by what sbatch says; the first one that fits."""


def refusal(argv: list[str], done: Completed) -> SubmissionError:
    """The error for a submission that sbatch has refused."""
    text = done.stderr.strip() or done.stdout.strip() or "it does not say why"
    limited = SUBMIT_LIMIT.search(text) or (POLICY in text and not NAMED_LIMIT.search(text))
    kind = SubmitLimitReached if limited else SubmissionError
    reason = "; ".join(re.sub(r"^sbatch: (error: )?", "", line) for line in text.splitlines())
    hints = [hint for words, hint in HINTS if re.search(words, text)]
    hint = hints[0] if hints else f"the command was: {shlex.join(argv)}"
    return kind(f"Slurm refused the job: {reason}\n{hint}", argv, done.code, done.stderr)


# ---- the scheduler ------------------------------------------------------------------------------

_pollers: weakref.WeakValueDictionary[tuple[object, ...], SharedPoller] = weakref.WeakValueDictionary()


def _shared_poller(run: Run, cluster: str) -> SharedPoller:
    """The one for this cluster that all executors of this process share (a forked child has its own)."""
    key = (os.getpid(), run, os.environ.get("SLURM_CONF"), cluster)
    poller = _pollers.get(key)
    if poller is None:
        # Two threads that come here together may get one each, which is a squeue too many and nothing else.
        poller = _pollers[key] = SharedPoller(SlurmQueue(Client(run, cluster)).ask)
    return poller


class SlurmScheduler(Scheduler):
    """Submits elements as job arrays.

    `run` runs commands; `cluster` is where to submit unless a request says so; without `arrays`, each
    element is a job of its own.
    """

    name = "slurm"
    interval = 10.0
    closing_interval = 1.0
    longest_interval = 60.0
    grace = 60.0

    def __init__(
        self, run: Run = command.run, *, cluster: Optional[str] = None, arrays: bool = True
    ) -> None:
        self._run, self._cluster, self._arrays = run, cluster or "", arrays
        self._here = Client(run, self._cluster)
        self._pollers: dict[str, SharedPoller] = {}
        self._max_array = 0
        self._doubtful: set[str] = set()  # scripts of requests that may have been accepted, or parts of them

    @property
    def max_array(self) -> int:
        """Elements that one request may have; asked for once, and again until there is an answer."""
        if not self._arrays:
            return sys.maxsize
        if not self._max_array:
            try:
                self._max_array = _array_limit(self._here.call("scontrol", "show", "config").stdout)
            except SchedulerUnavailable:
                pass  # so will be the submission, which says so
        return self._max_array or DEFAULT_MAX_ARRAY

    def submit(self, request: JobRequest) -> list[str]:
        """Call sbatch, once for all elements unless there are no arrays.

        The ids are "12" for one element, else "12_0", "12_1" ..., with ";cluster" behind if Slurm names one.
        The batch script is written to the request's path and stays there.

        Raises :class:`SubmissionError` if Slurm refuses it, :class:`SubmitLimitReached` if it does for now,
        and :class:`OptionError` for what Slurm has no option for; nothing is submitted then.  Raises
        :class:`SchedulerUnavailable` if Slurm does not answer: to submit the same request again first looks
        for what the first try has left.
        """
        wanted = self._submissions(request)
        ids: list[str] = []
        try:
            there = self._submitted_before(request, wanted) if request.script in self._doubtful else {}
            for submission in wanted:
                ids += there.get(submission.path) or self._submit(request, submission)
        except SubmissionError:
            self._withdraw(ids)
            raise
        except SchedulerUnavailable:
            self._doubtful.add(request.script)
            raise
        self._doubtful.discard(request.script)
        return ids

    def adopt(self, request: JobRequest, ids: Optional[list[str]]) -> list[str]:
        """Ask squeue for jobs with the request's script, if there are no `ids`."""
        if ids is not None:
            return ids
        wanted = self._submissions(request)
        there = self._submitted_before(request, wanted)
        return [job_id for item in wanted for job_id in there.get(item.path, [""] * max(item.array, 1))]

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Call scancel, once for all of a cluster's; raises SchedulerUnavailable if it gets no answer."""
        for cluster, names in _by_cluster(job_ids).items():
            client = Client(self._run, cluster)
            for words in portions(short_forms(names)):
                done = client.call("scancel", "--quiet", *words)
                if done.code:
                    log.warning("scancel failed (%d): %s", done.code, done.stderr.strip())

    def check(self, resources: Mapping[str, Any]) -> None:
        """Raise OptionError for what Slurm has no option for."""
        resource_words(resources)

    @property
    def throttles(self) -> bool:
        """Whether there are arrays, whose elements Slurm lets in by and by."""
        return self._arrays

    def throttle(self, job_id: str, elements: int) -> None:
        """Call ``scontrol update ArrayTaskThrottle``; raises SchedulerUnavailable if it gets no answer."""
        name, _, cluster = job_id.partition(";")
        array, element, _ = name.partition("_")
        if not element:  # a job by itself has no others to wait for
            return
        words = ("update", f"JobId={array}", f"ArrayTaskThrottle={elements}")
        done = Client(self._run, cluster).call("scontrol", *words)
        if done.code and "Job has already finished" not in done.stderr:  # it says so of some elements
            log.warning("scontrol failed (%d): %s", done.code, done.stderr.strip())

    def poll(self, job_ids: Iterable[str], max_age: float = 0.0) -> dict[str, JobStatus]:
        """Ask squeue, together with all executors of this process, and sacct for what has left the queue."""
        found: dict[str, JobStatus] = {}
        for cluster, names in _by_cluster(job_ids).items():
            if cluster not in self._pollers:
                self._pollers[cluster] = _shared_poller(self._run, cluster)
            known = self._pollers[cluster].poll(names, max_age)
            end = f";{cluster}" if cluster else ""
            found.update({name + end: status for name, status in known.items()})
        return found

    def script(self, request: JobRequest) -> str:
        """The script; of many that differ by their index, the first."""
        return self._submissions(request)[0].script

    def explain(self, request: JobRequest) -> str:
        """The command and the script, as they are; of many that differ by their index, the first."""
        first, *others = self._submissions(request)
        more = f"# ... and {len(others)} more of both, one for each element.\n" if others else ""
        command_line = shlex.join(first.argv)
        return f"# The command:\n{command_line}\n\n# The script, {first.path}:\n{first.script}{more}"

    def test_only(self, request: JobRequest) -> str:
        """What ``sbatch --test-only`` says: when and where the job could start.  Writes no script."""
        submission = self._submissions(request)[0]
        argv = [*submission.argv[:-1], "--test-only"]
        done = self._sbatch(argv, submission.script)
        return re.sub("^sbatch: ", "", done.stderr, flags=re.MULTILINE).strip()

    # -- submitting -----------------------------------------------------------------------------

    def _submissions(self, request: JobRequest) -> list[Submission]:
        if self._cluster:
            request = request._replace(resources={"cluster": self._cluster, **request.resources})
        return submissions(request, self._arrays)

    def _submit(self, request: JobRequest, submission: Submission) -> list[str]:
        _write(submission)
        done = self._sbatch(submission.argv)
        answer = done.stdout.strip().rpartition("\n")[2]  # a site's own remarks come first
        try:
            return submission.ids(answer)
        except ValueError as error:
            there = self._submitted_before(request, [submission])  # it may have done its work all the same
            if submission.path in there:
                return there[submission.path]
            text = f"sbatch printed {done.stdout!r} in place of a job's id"
            raise SubmissionError(text, submission.argv, done.code, done.stderr) from error

    def _sbatch(self, argv: list[str], stdin: str = "") -> Completed:
        try:
            done = self._here.submit(argv, stdin)
        except OSError as error:
            hint = "is this a login node of the cluster, with Slurm's commands on PATH (module load slurm)?"
            raise SubmissionError(f"cannot start sbatch: {error}\n{hint}", argv) from error
        if done.code:
            raise refusal(argv, done)
        return done

    def _submitted_before(self, request: JobRequest, wanted: list[Submission]) -> dict[str, list[str]]:
        """The ids of those that were accepted although the answer did not come, by their script."""
        found = {}
        for cluster in request.resources.get("cluster", self._cluster).split(","):
            bases = SlurmQueue(Client(self._run, cluster)).submitted(item.path for item in wanted)
            for item in wanted:
                if item.path in bases:
                    found[item.path] = item.ids(bases[item.path] + (f";{cluster}" if cluster else ""))
        return found

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


def _by_cluster(job_ids: Iterable[str]) -> dict[str, list[str]]:
    """The ids without their cluster, by cluster; what is no id of ours is left out."""
    found: dict[str, list[str]] = {}
    for job_id in job_ids:
        name, _, cluster = job_id.partition(";")
        if re.fullmatch(r"[0-9]+(_[0-9]+)?", name):
            found.setdefault(cluster, []).append(name)
    return found


def short_forms(names: Iterable[str]) -> list[str]:
    """Ids as scancel takes them together.

    >>> short_forms(["12_0", "12_1", "12_2", "12_7", "13_4", "14"])
    ['12_[0-2,7]', '13_4', '14']
    """
    arrays: dict[str, list[int]] = {}
    for name in names:
        base, _, index = name.partition("_")
        arrays.setdefault(base, []).extend([int(index)] if index else [])
    return [base + _indices(sorted(set(indices))) for base, indices in arrays.items()]


def _indices(indices: list[int]) -> str:
    if len(indices) < 2:
        return "".join(f"_{index}" for index in indices)
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"_[{','.join(parts)}]"


def _array_limit(text: str) -> int:
    """From ``scontrol show config``; 0 if it is not there.  MaxArraySize is above the largest index."""
    size = rf"^MaxArraySize\s*=\s*({NUMBER})"
    tasks = rf"^SchedulerParameters.*\bmax_array_tasks=({NUMBER})"
    found = re.findall(size, text, re.MULTILINE) + re.findall(tasks, text, re.MULTILINE)
    return min(map(int, found), default=0)
