"""Names that a shell would make something else of, and a key that nobody may see, on a real Slurm.

`tests/security` has the rest of both.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusterfutures import SlurmExecutor
from tests.security.test_other_user import shapes, told_by_the_system
from tests.slurm import Cluster

pytestmark = pytest.mark.long

LIMIT = 90.0

NAMES = [
    "-rf --help",
    "$(touch owned)`touch owned`",
    'it\'s "quoted" & ; | > owned \\',
    "\u00fc \u4e16\n#SBATCH --hold\n%j %a {index}",
]


def test_names_and_the_key(cluster: Cluster, here: Path) -> None:
    directory = here / NAMES[0] / NAMES[2]
    directory.mkdir(parents=True)
    given = {"cwd": directory, "name": NAMES[3], "env": {"CF_GIVEN": NAMES[3]}}
    with SlurmExecutor(4, run_dir=here / NAMES[1], **given) as ex:
        first = ex.submit(os.getpid)
        told = told_by_the_system()  # sbatch may be there, and then the worker
        pid = first.result(LIMIT)
        told.update(told_by_the_system())
        assert f"/proc/{pid}/environ" in told, "the nodes of this Slurm are on this machine"
        job = str(first.job_id).partition("_")[0]
        for words in (["show", "job", "--details", job], ["write", "batch_script", job, "-"]):
            told[" ".join(words)] = cluster.query("scontrol", *words).encode()
        told["sacct"] = cluster.query("sacct", "--parsable2", "--format=ALL", f"--jobs={job}").encode()
        assert b"bootstrap.py" in told[f"write batch_script {job} -"]
        key = Path(ex.run_dir, "key").read_bytes()
        assert [name for name, text in told.items() if any(form in text for form in shapes(key))] == []

        assert ex.submit(os.getcwd).result(LIMIT) == str(directory)
        assert ex.submit(os.getenv, "CF_GIVEN").result(LIMIT) == NAMES[3]
        assert ex.submit(os.getenv, "SLURM_JOB_NAME").result(LIMIT) == NAMES[3]
        remarked = [ex.options(comment=name).submit(abs, -1) for name in NAMES]
        assert [future.result(LIMIT) for future in remarked] == [1] * len(NAMES)
    assert list(directory.iterdir()) == []
    assert not list(here.rglob("owned"))
