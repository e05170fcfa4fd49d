"""The functions that the jobs run; what importing this module costs, every job pays."""

import os
import time


def noop(_item: object = None) -> None:
    """Do nothing: what remains is the executor's own cost."""


def finished(seconds: float) -> float:
    """Take that long, and return when this ended, as `time.time` tells it."""
    time.sleep(seconds)
    return time.time()


def victim(path: str) -> None:
    """Write the id of this job to the file `path`, then stay until somebody ends the job."""
    with open(path + ".new", "w") as file:
        file.write(os.environ["SLURM_JOB_ID"])
    os.replace(path + ".new", path)
    time.sleep(600)
