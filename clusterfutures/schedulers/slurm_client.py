"""Slurm's commands, called in an environment in which they mean what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from clusterfutures.errors import SchedulerUnavailable
from clusterfutures.schedulers.command import Completed, Run

KEPT = re.compile("SLURM_(CONF|CONF_SERVER|JWT|SACK_.*)")
"""What says where the cluster is and who we are.

Every other SLURM_* belongs to the job that the driver runs in, if any, and would shape the jobs that it
submits (SLURM_CPUS_PER_TASK, SLURM_MEM_PER_NODE, SLURM_HINT ...), or it changes what commands print and where
they ask (SLURM_TIME_FORMAT, SLURM_BITSTR_LEN, SLURM_CLUSTERS).
"""

GONE = re.compile(
    "SLURM_.*|SLURMD_.*"
    # Settings of the commands that we read: other columns, filters, a question before each cancellation.
    "|(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_.*"
    # These would be added to what we ask of sbatch: wait for the job, make it an array, part its output.
    "|SBATCH_(WAIT|ARRAY_INX|ERROR|INPUT)"
)

FROM_A_JOB = re.compile(
    # Slurm sets these in each job for what that job got; the user's own SBATCH_* are other ones.
    "SBATCH_(MEM|CPU)_BIND.*|CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|ZE_AFFINITY_MASK"
    # srun sets these for an MPI program; an mpirun in our jobs would think that it was one of its processes.
    "|PMI_.*|PMIX_.*"
)
"""What is not passed on when the driver itself runs in a job."""

UNREACHABLE = re.compile(
    # Slurm's own words (slurm_errno.c); the same from 20.11 on.
    "Unable to contact slurm controller|Slurm backup controller in standby mode|Socket timed out"
    "|Communication connection failure|Message (send|receive) failure|Zero Bytes were transmitted"
    # Its queue is full, or it is starting: sbatch has tried again for two minutes when it says so.
    "|Unable to create job record, try again|Slurm job queue full|Slurm temporarily unable to accept job"
    # The operating system's.
    "|Connection (refused|timed out|reset)|No route to host|Resource temporarily unavailable"
)


def environment(environ: Mapping[str, str], submitting: bool = False) -> dict[str, str]:
    """`environ` for a command of Slurm, which `submitting` passes it on to a job.

    The cluster that the user chose with SLURM_CLUSTERS is where sbatch submits; all later questions name
    the cluster themselves.
    """
    inside = "SLURM_JOB_ID" in environ
    clean = {
        name: value
        for name, value in environ.items()
        if KEPT.fullmatch(name)
        or not (GONE.fullmatch(name) or (inside and FROM_A_JOB.fullmatch(name)))
    }
    if not submitting:
        clean["SLURM_BITSTR_LEN"] = "0"  # the whole of "12_[1,3,5 ...]", however long
    elif "SLURM_CLUSTERS" in environ:
        clean["SLURM_CLUSTERS"] = environ["SLURM_CLUSTERS"]
    return clean


class Client:
    """Calls commands for one cluster: `cluster` is its name, empty for that of this machine."""

    def __init__(self, run: Run, cluster: str = "") -> None:
        self._run, self._cluster = run, cluster

    def call(self, program: str, *words: str) -> Completed:
        """Ask something; raises :class:`SchedulerUnavailable` if there is no answer."""
        where = [f"--clusters={self._cluster}"] if self._cluster else []
        try:
            return self._answer([program, *where, *words], environment(os.environ))
        except OSError as error:
            raise SchedulerUnavailable(f"cannot ask Slurm: {error}") from error

    def submit(self, argv: list[str], stdin: str = "") -> Completed:
        """Call sbatch, whose words name the cluster by themselves.

        Raises :class:`SchedulerUnavailable` if there is no answer, OSError if there is no sbatch.
        """
        return self._answer(argv, environment(os.environ, submitting=True), stdin)

    def _answer(self, argv: list[str], environ: Mapping[str, str], stdin: str = "") -> Completed:
        try:
            done = self._run(argv, stdin=stdin, environment=environ)
        except TimeoutError as error:
            raise SchedulerUnavailable(f"Slurm does not answer: {error}") from error
        if done.code and UNREACHABLE.search(done.stderr):
            raise SchedulerUnavailable(f"Slurm does not answer: {done.stderr.strip()}")
        return done
