"""What a scheduler writes to a job's own standard error when it ends the job: PBS names the limit there.

Source: the nodes' daemons of TORQUE and OpenPBS (``job_over_limit`` and its callers in ``mom_main.c``), which
write a line before they send SIGTERM.  A server that forgets finished jobs never says it again.
"""

from __future__ import annotations

import os

from clusterfutures.records import SITE, SITE_MEMORY, SITE_TIME

VARIABLE = "CLUSTERFUTURES_NOTICES"
"""In the environment of a supervisor, the file in which to look."""

SAID = b"=>> PBS: job killed: "
REASONS = {b"walltime": SITE_TIME, b"cput": SITE_TIME, b"mem": SITE_MEMORY, b"vmem": SITE_MEMORY}
"""By the word that follows."""

TAIL = 4096  # bytes in which the last line is looked for


def reason(path: str) -> int:
    """Why the site ends the job, by the last notice in the file at `path`: SITE if it does not say more."""
    if not os.path.isfile(path):  # to open what is no file might block
        return SITE
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - TAIL, 0))
            notices = file.read().split(SAID)[1:]
    except OSError:  # it is gone, or not for us to read
        return SITE
    return REASONS.get(notices[-1].partition(b" ")[0], SITE) if notices else SITE
