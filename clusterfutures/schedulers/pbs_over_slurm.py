"""Debian's Torque commands in front of Slurm (``slurm-wlm-torque``): perl scripts from Slurm's own sources.

Their qstat knows jobs by their numbers only and tells neither an array's elements apart nor how a job ended.
So each element is a job of its own, and of endings there is what its times and its letter give away.  Their
qsub puts its words into a shell command as they are, so they are quoted for that shell.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional

from clusterfutures.errors import OptionError
from clusterfutures.schedulers import pbs_options as pbs
from clusterfutures.schedulers.base import JobStatus
from clusterfutures.schedulers.pbs_client import Client
from clusterfutures.schedulers.pbs_dialect import Dialect, JobId
from clusterfutures.schedulers.pbs_options import Words
from clusterfutures.schedulers.pbs_status import Record, node, read_text, seconds
from clusterfutures.schedulers.slurm_client import Client as SlurmClient
from clusterfutures.schedulers.slurm_status import SlurmQueue, portions
from clusterfutures.states import JobState

LIVE = {"Q": JobState.PENDING, "R": JobState.RUNNING, "S": JobState.SUSPENDED}

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _quoted(flag: str) -> Words:
    return lambda value: [flag, shlex.quote(str(value))]


def _extra(words: tuple[str, ...]) -> list[str]:
    """Words of the user's: only what stands behind an option's name can be quoted, or qsub would not know it.

    Raises OptionError for a ``-l`` that would have to be quoted: qsub takes it apart first.
    """
    for word in words:
        if word.startswith("-l") and not re.fullmatch(r"[\w.,:=+@/-]+", word):
            raise OptionError(f"extra: Slurm's qsub takes -l without blanks and quotes, not {word!r}")
    behind_its_name = re.compile(r"(--?[\w-]*=?)(.+)", re.DOTALL)
    return [behind_its_name.sub(lambda found: found[1] + shlex.quote(found[2]), w) for w in pbs.extra(words)]


FLAGS: dict[str, Words] = {
    "partition": _quoted("-q"),
    "account": _quoted("-A"),
    "begin": _quoted("-a"),
    "hold": pbs.hold,
    "nice": _quoted("-p"),
    "requeue": pbs.requeue,
    "mail": pbs.mail,
    "mail_user": _quoted("-M"),
    "depends": lambda depends: ["-W", "depend=" + shlex.quote(depends)],
    "stdout": _quoted("-o"),
    "stderr": _quoted("-e"),
    "extra": _extra,
}


class TorqueOverSlurm(Dialect):
    """One job for each element; text."""

    name = "slurm"
    title = "Slurm's qsub"
    arrays = False
    throttles = False
    index = ""
    job_id = "$SLURM_JOB_ID"
    notices = False
    passes_environment = True
    flags = FLAGS
    listed = frozenset(
        {"time", "cores", "mem", "nodes", "tasks", "tasks_per_node", "gpus", "features", "nodelist"}
    )
    otherwise = "SlurmExecutor has it"

    def resource_list(self, resources: Mapping[str, Any]) -> list[str]:
        """What that qsub makes options of sbatch from, each under the name that leads to the right one."""
        items = []
        if "time" in resources:
            items.append(f"walltime={pbs.walltime(resources['time'])}")
        if "mem" in resources:  # it cannot divide
            items.append(f"mem={-(-resources['mem'] // 2**20)}mb")
        if resources.keys() & {"nodes", "nodelist"}:
            items.append("nodes=" + _nodes(resources))
        for name, resource in (("cores", "mppdepth"), ("tasks", "mppwidth"), ("tasks_per_node", "mppnppn")):
            items += [f"{resource}={resources[name]}"] if name in resources else []
        if "gpus" in resources:
            items.append(f"naccelerators={resources['gpus']}")
        if "features" in resources:
            items.append("proc=" + _plain("features", resources["features"]))
        return items

    def own_words(self, name: str, mark: str) -> list[str]:
        """The script is read by the shell that it names."""
        return ["-N", self.quote(name)]

    def quote(self, word: str) -> str:
        """As a word of the shell command."""
        return shlex.quote(word)

    def query(self, client: Client, bases: list[str]) -> dict[str, Record]:
        """``qstat -f``."""
        return read_text(client.query("-f", *bases).stdout)

    def status(self, record: Record) -> JobStatus:
        """What can be told."""
        letter = record.get("job_state", "")
        start, end = moment(record.get("mtime", "")), moment(record.get("ctime", ""))
        limit = seconds(record.get("resource_list.walltime", ""))
        where = node(record)
        if letter in LIVE:
            left = None if letter == "Q" or start is None or limit is None else start + limit - time.time()
            return JobStatus(LIVE[letter], node=where, text=letter, time_left=left and max(left, 0.0))
        if where is None:
            return JobStatus(JobState.CANCELLED, text=f"{letter} (it has not started)")
        if letter == "U":  # "unknown" are the states that came after these scripts: of these two, it is one
            text = "U (out of memory, or past its deadline)"
            return JobStatus(JobState.OUT_OF_MEMORY, node=where, text=text)
        if None not in (start, end, limit) and end - start >= limit:  # type: ignore[operator]
            return JobStatus(JobState.TIMEOUT, node=where, text=f"{letter} (after all of its wall time)")
        return JobStatus(JobState.FAILED, node=where, text=f"{letter} (how it ended is not told)")

    def marked(self, client: Client, marks: Mapping[str, str]) -> dict[str, str]:
        """Slurm's own squeue knows a job's script."""
        found = SlurmQueue(SlurmClient(client.run)).submitted(marks.values())
        return {mark: found[script] for mark, script in marks.items() if script in found}

    def deletions(self, jobs: Iterable[JobId]) -> Iterator[list[str]]:
        """All together."""
        return portions(job.number for job in jobs)


def moment(text: str) -> Optional[float]:
    """A time as perl prints it, "Sat Nov 21 14:23:05 2026", in seconds; None if it is none.

    strptime(3) would take the names of months from the locale.
    """
    found = re.fullmatch(r"\w{3} (\w{3}) +(\d\d?) (\d\d):(\d\d):(\d\d) (\d{4})", text, re.ASCII)
    if found is None or found[1] not in MONTHS:
        return None
    day, hour, minute, second, year = map(int, found.groups()[1:])
    return time.mktime((year, MONTHS.index(found[1]) + 1, day, hour, minute, second, 0, 0, -1))


def _nodes(resources: Mapping[str, Any]) -> str:
    number = resources.get("nodes")
    if isinstance(number, str):
        raise OptionError(f"nodes: Slurm's qsub takes a number of nodes, not {number!r}")
    names = resources["nodelist"].split(",") if "nodelist" in resources else []
    return "+".join([*([str(number)] if number else []), *(_plain("nodelist", name) for name in names)])


def _plain(option: str, text: str) -> str:
    """`text`, if it is one that no shell changes."""
    if not re.fullmatch(r"[\w.&|()*-]+", text):
        raise OptionError(f"{option}: Slurm's qsub takes it without blanks, commas and quotes, not {text!r}")
    return text
