"""The commands of PBS, called in an environment in which they mean what they say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from clusterfutures.errors import SchedulerUnavailable
from clusterfutures.schedulers import slurm_client
from clusterfutures.schedulers.command import Completed, Run

UNREACHABLE = re.compile(
    # No server (15034) and no permission (15007) stay what they are, however long one waits.
    "cannot connect to server(?!.*errno=150(07|34))"
    "|Cannot connect to|Could not connect to batch server|could not connect to trqauthd"
    "|Unable to (communicate|contact)|Communication failure|Batch protocol error|Problem loading"
    "|Connection (refused|timed out|reset)|No route to host|Time out|timed out|Resource temporarily"
    # The server is there, and has no time.
    "|Server shutting down|too busy|No free connections|connection table full|Please (retry|try again)"
    f"|{slurm_client.UNREACHABLE.pattern}"
)
"""What qsub and its like say when no server answers (pbs_error_db.h of TORQUE, pbs_messages.c of OpenPBS)."""

UNKNOWN_JOB = re.compile("[Uu]nknown (Job|Array) I[dD]|nonexistent job id|Job not found|has finished")
"""What they say of a job that the server does not know, or knows to be over."""

ENDED_JOB = re.compile(f"{UNKNOWN_JOB.pattern}|invalid (for )?state|already in exit state")
"""What qdel says of a job that has ended."""

UNKNOWN_JOB_CODE = 153
"""The exit code with which qstat says the same."""

NOT_OURS = re.compile(
    # Settings of qstat that have it leave out jobs.
    "PBS_QSTAT_.*"
    # What belongs to the job that the driver runs in, if any.
    "|PBS_(JOBID|JOBNAME|ARRAY.*|NODE.*|GPUFILE|MICFILE|TASKNUM|MOMPORT|JOBCOOKIE|ENVIRONMENT|JOBDIR)"
)

OF_THE_MACHINE = re.compile(
    # What each job gets from PBS or Slurm, and each shell and login has for itself.
    "PBS_.*|SLURM.*|SBATCH_.*|TMPDIR|NCPUS|ENVIRONMENT|HOSTNAME|HOST|PWD|OLDPWD|SHLVL|_"
    "|CUDA_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|ZE_AFFINITY_MASK"
    "|SSH_.*|DISPLAY|XAUTHORITY|XDG_(RUNTIME_DIR|SESSION_.*)|TERM|TERMCAP|COLUMNS|LINES"
    # Bash does not let anybody set these.
    "|UID|EUID|PPID|BASH.*|SHELLOPTS"
    # An MPI program was started with these; an mpirun in our jobs would think that it was a part of it.
    "|PMI_.*|PMIX_.*|OMPI_.*"
)
"""What a job does not get from its driver's environment."""


def environment(environ: Mapping[str, str], submitting: bool = False) -> dict[str, str]:
    """`environ` for a command, which Slurm's qsub passes on to a job that it is `submitting`."""
    clean = slurm_client.environment(environ, submitting)
    ours = {name: value for name, value in clean.items() if not NOT_OURS.fullmatch(name)}
    if submitting:
        ours["SBATCH_IGNORE_PBS"] = "1"  # sbatch would obey a "#PBS" anywhere in a script, as in setup lines
    return ours


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a job is to have of its driver's `environ`, where the scheduler passes nothing on."""
    in_a_job = {"OMP_NUM_THREADS"} if "PBS_JOBID" in environ else set()
    return {
        name: value
        for name, value in environ.items()
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)
        and not OF_THE_MACHINE.fullmatch(name)
        and name not in in_a_job
    }


class Client:
    """Calls commands; any thread may."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def call(self, program: str, *words: str) -> Completed:
        """Ask something; raises :class:`SchedulerUnavailable` if there is no answer."""
        try:
            return self._answer([program, *words], environment(os.environ))
        except OSError as error:
            raise SchedulerUnavailable(f"cannot ask PBS: {error}") from error

    def query(self, *words: str) -> Completed:
        """Ask qstat about jobs; those that it does not know are no error.

        Raises :class:`SchedulerUnavailable` if there is no answer.
        """
        done = self.call("qstat", *words)
        if done.code and not _only_unknown(done):
            text = done.stderr.strip() or done.stdout.strip()
            raise SchedulerUnavailable(f"qstat failed ({done.code}): {text}")
        return done

    def submit(self, argv: list[str]) -> Completed:
        """Call qsub.

        Raises :class:`SchedulerUnavailable` if there is no answer, OSError if there is no qsub.
        """
        return self._answer(argv, environment(os.environ, submitting=True))

    def _answer(self, argv: list[str], environ: Mapping[str, str]) -> Completed:
        try:
            done = self.run(argv, environment=environ)
        except TimeoutError as error:
            raise SchedulerUnavailable(f"PBS does not answer: {error}") from error
        said = f"{done.stderr}\n{done.stdout}" if argv[0] == "qsub" else done.stderr
        if done.code and UNREACHABLE.search(said):
            raise SchedulerUnavailable(f"PBS does not answer: {said.strip()}")
        return done


def _only_unknown(done: Completed) -> bool:
    """Whether all that went wrong is that some jobs are not known.

    A site's own remarks are passed over; Debian's qstat says nothing at all.
    """
    complaints = [line for line in done.stderr.splitlines() if "qstat:" in line]
    if not complaints:
        return done.code == UNKNOWN_JOB_CODE
    return all(map(UNKNOWN_JOB.search, complaints))
