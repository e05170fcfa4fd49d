"""Names that a shell would make something else of, and a key that nobody may see, on a real Slurm.

`tests/security` has the rest of both.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from clusterfutures import SlurmExecutor
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART
from clusterfutures.schedulers.slurm import SlurmScheduler
from tests.security import examples
from tests.security.test_other_user import shapes, told_by_the_system
from tests.security.test_shell import HOSTILE, VARIABLES, request
from tests.security.test_shell import NAMES as FILES
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


class Given(NamedTuple):
    """What a job is made of; `file` is the name of its directory."""

    file: str
    name: str
    comment: str
    words: list[str]
    values: dict[str, str]


JOBS = st.builds(
    Given,
    file=FILES,
    name=HOSTILE.filter(bool),
    comment=HOSTILE.filter(bool),
    words=st.lists(HOSTILE.filter(lambda word: word not in (INDEX, RESTART, JOB_ID)), max_size=4),
    values=st.dictionaries(VARIABLES, HOSTILE, max_size=3),
)

TELL = 'printf "%s\\0" "$PWD" "$SLURM_JOB_NAME" "$@"; env -0'


@settings(examples(2), phases=[Phase.generate])  # to look for a smaller example would take too long
@given(jobs=st.lists(JOBS, min_size=20, max_size=20, unique_by=lambda job: job.file))
def test_anything(cluster: Cluster, here: Path, jobs: list[Given]) -> None:
    """What a job gets from the real sbatch, and what Slurm tells of it, is what was given."""
    scheduler, above = SlurmScheduler(), Path(tempfile.mkdtemp(dir=here))
    ids = []
    for job in jobs:
        place = above / job.file
        place.mkdir()
        wanted = request(
            str(place),
            name=job.name,
            argv=["bash", "-c", TELL, "bash", *job.words],
            cwd=str(place),
            environment=job.values,
            resources={"comment": job.comment, "mem": 50 << 20},
        )
        ids += scheduler.submit(wanted)
    cluster.idle()
    for job, job_id in zip(jobs, ids):
        place = above / job.file
        found = os.fsdecode((place / "0.log").read_bytes()).split("\0")[:-1]
        assert found[: 2 + len(job.words)] == [str(place), job.name, *job.words]
        variables = dict(pair.partition("=")[::2] for pair in found[2 + len(job.words) :])
        assert {name: variables.get(name) for name in job.values} == job.values
        told = subprocess.run(["squeue", "-h", "-t", "all", "-j", job_id, "-o", "%k"], stdout=subprocess.PIPE)
        assert os.fsdecode(told.stdout) == f"{job.comment}\n"
    assert sorted(os.listdir(above)) == sorted(job.file for job in jobs), "and nothing else has come of it"
    assert not list(here.rglob("owned"))
