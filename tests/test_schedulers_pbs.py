"""PBS as a scheduler: what it is asked for in which words, and what its answers mean.

No PBS is needed: a stand-in answers in its place, with what real ones printed (`tests.captured_pbs`).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import resources
from clusterfutures.errors import OptionError, SchedulerUnavailable, SubmissionError, SubmitLimitReached
from clusterfutures.schedulers import pbs, pbs_client, pbs_status, poller, slurm_status
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.schedulers.command import Completed
from clusterfutures.schedulers.pbs import PbsScheduler
from clusterfutures.schedulers.pbs_dialect import Dialect, JobId
from clusterfutures.schedulers.pbs_openpbs import OpenPbs
from clusterfutures.schedulers.pbs_over_slurm import TorqueOverSlurm, moment
from clusterfutures.schedulers.pbs_torque import Torque
from clusterfutures.states import JobState
from tests import captured_pbs as captured

GIB = 1 << 30
LOCAL_NULL = "localhost:/dev/null"


def completed(stdout: str = "", stderr: str = "", code: int = 0) -> Completed:
    return Completed(code, stdout, stderr)


def failed(code: int, stderr: str) -> Completed:
    return Completed(code, "", stderr)


class FakePbs:
    """Answers commands: by program, in order; the last answer again and again, and nothing if there is none.

    An answer is what a command printed, how it ended, or an error to raise.
    """

    def __init__(self, **answers: str | Completed | Exception | list[Any]) -> None:
        self.answers = {name: [*what] if isinstance(what, list) else [what] for name, what in answers.items()}
        self.calls: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        self.calls.append(list(argv))
        self.environments.append(environment or {})
        left = self.answers.get(argv[0], [""])
        answer = left[0] if len(left) == 1 else left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return completed(answer) if isinstance(answer, str) else answer

    def called(self, program: str) -> list[list[str]]:
        return [call[1:] for call in self.calls if call[0] == program]


def request(directory: Path, elements: int = 1, **changes: Any) -> JobRequest:
    base = JobRequest(
        job=0,
        name="my-job",
        argv=["python3", INDEX, RESTART, JOB_ID],
        elements=elements,
        script=str(directory / "job.sh"),
        log=str(directory / f"{INDEX}.log"),
        cwd=None,
        environment={},
        setup="",
        resources={},
        tag="run_7",
    )
    return base._replace(**changes)


def after(words: Sequence[str], option: str) -> str:
    """The word behind an option."""
    assert words.count(option) == 1, words
    return words[list(words).index(option) + 1]


TORQUE, OPENPBS, DEBIAN = Torque(), OpenPbs(), TorqueOverSlurm()


def name_of(dialect: Dialect) -> str:
    return dialect.name


@pytest.fixture(autouse=True)
def quiet_words(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each test meets unknown words for the first time."""
    monkeypatch.setattr(pbs_status, "_unknown", set())
    caplog.set_level(logging.WARNING, logger="clusterfutures")


# ---- which dialect ------------------------------------------------------------------------------


class TestDialect:
    @pytest.mark.parametrize(
        ("answer", "name", "throttles"),
        [
            (completed("pbs_version = 23.06.06\n"), "openpbs", True),
            (completed("pbs_version = 2021.1.3.20220217134230\n"), "openpbs", True),
            # "%2" came with 2021.
            (completed("pbs_version = 2020.1.1\n"), "openpbs", False),
            (completed("pbs_version = 20.0.1\n"), "openpbs", False),
            (completed("pbs_version = PBSPro_12.2.404\n"), "openpbs", False),
            (completed(stderr="Version: 6.1.3\nCommit: 4867ecd\n"), "torque", True),
            (completed(stderr="version: 2.5.13\n"), "torque", True),
            (completed(stderr=captured.DEBIAN_VERSION[1], code=captured.DEBIAN_VERSION[0]), "slurm", False),
            (completed("Welcome\npbs_version = 22.05.11\n"), "openpbs", True),
        ],
    )
    def test_it_is_asked_for(self, answer: Completed, name: str, throttles: bool) -> None:
        fake = FakePbs(qstat=answer)
        scheduler = PbsScheduler(fake)
        assert scheduler.dialect.name == name
        assert scheduler.throttles == throttles
        assert scheduler.dialect is scheduler.dialect
        assert fake.calls == [["qstat", "--version"]]

    @pytest.mark.parametrize("name", pbs.DIALECTS)
    def test_or_given(self, name: str) -> None:
        fake = FakePbs()
        assert PbsScheduler(fake, dialect=name).dialect.name == name
        assert fake.calls == []

    def test_a_wrong_one(self) -> None:
        with pytest.raises(OptionError, match="'torque', 'openpbs', 'slurm', not 'pbs'"):
            PbsScheduler(dialect="pbs")

    def test_another_qstat(self) -> None:
        """That of Grid Engine, for one."""
        with pytest.raises(SubmissionError, match=r"SGE 8(.|\n)*dialect='torque'"):
            PbsScheduler(FakePbs(qstat="SGE 8.1.9\n")).check({})

    def test_none(self) -> None:
        with pytest.raises(SubmissionError, match=r"qstat.*\n.*login node") as caught:
            PbsScheduler(FakePbs(qstat=FileNotFoundError("qstat"))).check({})
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    def test_looking_does_not_ask(self) -> None:
        """Whether it throttles is looked at in the midst of other work, where no command may run."""
        fake = FakePbs()
        assert not PbsScheduler(fake).throttles
        assert fake.calls == []


class TestIds:
    @pytest.mark.parametrize(
        ("text", "parts", "base"),
        [
            ("12.srv", ("12", None, ".srv"), "12.srv"),
            ("12[3].srv.site.org", ("12", 3, ".srv.site.org"), "12[].srv.site.org"),
            ("12[0]", ("12", 0, ""), "12[]"),
            ("123", ("123", None, ""), "123"),
        ],
    )
    def test_parts(self, text: str, parts: tuple[object, ...], base: str) -> None:
        job = JobId.parse(text)
        assert job == parts
        assert job is not None
        assert job.base == base

    @pytest.mark.parametrize("text", ["", "x", "12[].srv", "12_3", "-1", "12;rm", "12 .srv", "12[3", "[3]"])
    def test_what_is_none(self, text: str) -> None:
        assert JobId.parse(text) is None


# ---- the environment ----------------------------------------------------------------------------


class TestEnvironment:
    def test_of_commands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Settings of the user that would leave out jobs, and what belongs to a job that we are in."""
        kept = {"PBS_DEFAULT": "srv", "PBS_SERVER": "srv", "PBS_CONF_FILE": "/etc/pbs.conf", "HOME": "/h"}
        dropped = dict.fromkeys(["PBS_QSTAT_NO_COMPLETE", "PBS_QSTAT_EXECONLY", "PBS_JOBID"], "1")
        for name, value in {**kept, **dropped}.items():
            monkeypatch.setenv(name, value)
        fake = FakePbs(qsub="12.srv\n", qstat="", qdel="", qalter="")
        scheduler = PbsScheduler(fake, dialect="torque")
        scheduler.poll(scheduler.submit(request(tmp_path)))
        scheduler.cancel(["12.srv"])
        scheduler.throttle("12[0].srv", 3)
        assert {call[0] for call in fake.calls} == {"qsub", "qstat", "qdel", "qalter"}
        for environment in fake.environments:
            assert kept.items() <= environment.items()
            assert not dropped.keys() & environment.keys()

    def test_of_commands_before_slurm(self) -> None:
        given = {"SLURM_CONF": "/s", "SLURM_CPUS_PER_TASK": "4", "SQUEUE_FORMAT": "%i"}
        clean = pbs_client.environment(given, submitting=True)
        assert clean == {"SLURM_CONF": "/s", "SBATCH_IGNORE_PBS": "1"}

    def test_of_jobs(self) -> None:
        ours = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "OMP_NUM_THREADS": "2", "WEIRD": "a'b,\"c\"\n"}
        others = dict.fromkeys(
            [
                *("PBS_O_HOST", "PBS_DEFAULT", "SLURM_CONF", "TMPDIR", "HOSTNAME", "PWD", "SHLVL", "_"),
                *("CUDA_VISIBLE_DEVICES", "SSH_AUTH_SOCK", "DISPLAY", "BASH_FUNC_module%%", "BASHOPTS"),
                *("1st", "with space", "UID", "XDG_RUNTIME_DIR", "NCPUS", "PMI_RANK"),
            ],
            "x",
        )
        assert pbs_client.inherited({**ours, **others}) == ours

    def test_of_jobs_of_a_job(self) -> None:
        """What PBS has set in it was for that job."""
        given = {"PBS_JOBID": "7", "OMP_NUM_THREADS": "8", "PATH": "/bin"}
        assert pbs_client.inherited(given) == {"PATH": "/bin"}


# ---- options ------------------------------------------------------------------------------------

NONE = None, None, None


def alike(*words: str) -> tuple[list[str], list[str], list[str]]:
    return list(words), list(words), list(words)


def listed(*items: str | None) -> list[list[str] | None]:
    return [None if item is None else ["-l", item] for item in items]


# By option: a value, then the words of TORQUE, OpenPBS and Debian's qsub, None for those that lack it.
WORDS: dict[str, tuple[Any, Sequence[list[str] | None]]] = {
    "name": ("misfit", alike()),
    "modules": (("gcc/12",), alike()),
    "partition": ("day", alike("-q", "day")),
    "account": ("the group", (["-A", "the group"], ["-A", "the group"], ["-A", "'the group'"])),
    "qos": ("long", listed("qos=long", None, None)),
    "reservation": ("course", listed("advres=course", None, None)),
    "cluster": ("north", NONE),
    "comment": ("mine", NONE),
    "time": (131405, alike("-l", "walltime=36:30:05")),
    "cores": (4, listed("nodes=1:ppn=4", "select=1:ncpus=4", "mppdepth=4")),
    "mem": (3 * GIB // 2, listed("mem=1536mb", "select=1:mem=1536mb", "mem=1536mb")),
    "mem_per_cpu": (GIB, listed("pmem=1gb", "select=1:mem=1gb", None)),
    "nodes": (2, listed("nodes=2", "select=2,place=scatter", "nodes=2")),
    "tasks": (16, listed("nodes=16:ppn=1", "select=16:ncpus=1:mpiprocs=1", "mppwidth=16")),
    "tasks_per_node": (8, listed("nodes=1:ppn=8", "select=1:ncpus=8:mpiprocs=8", "mppnppn=8")),
    "gpus": (2, listed("nodes=1:gpus=2", "select=1:ngpus=2", "naccelerators=2")),
    "gres": ("nvme:1,tape", listed("gres=nvme:1+tape", "select=1:nvme=1:tape=1", None)),
    "licenses": ("matlab:1", NONE),
    "features": ("ib&avx", listed("nodes=1:ib:avx", "select=1:ib=True:avx=True", "proc=ib&avx")),
    "nodelist": ("n1,n2", listed("nodes=n1+n2", "select=1:host=n1+1:host=n2", "nodes=n1+n2")),
    "exclude": ("n3", NONE),
    "exclusive": (True, listed("naccesspolicy=singlejob", "select=1,place=excl", None)),
    "begin": (
        "2026-11-21T13:30:10",
        (["-a", "202611211330.10"], ["-a", "202611211330.10"], ["-a", "2026-11-21T13:30:10"]),
    ),
    "hold": (True, alike("-h")),
    "depends": ("afterok:12.srv", alike("-W", "depend=afterok:12.srv")),
    "nice": (100, (["-p", "-100"], ["-p", "-100"], ["-p", "100"])),
    "priority": (500, (["-p", "500"], ["-p", "500"], None)),
    "signal": ("USR1@120", NONE),
    "requeue": (True, alike("-r", "y")),
    "mail": ("END,FAIL", alike("-m", "ae")),
    "mail_user": ("ada@example.org", alike("-M", "ada@example.org")),
    "stdout": ("my logs/o", (["-o", "my logs/o"], ["-o", "my logs/o"], ["-o", "'my logs/o'"])),
    "stderr": ("logs/e", alike("-e", "logs/e")),
    "extra": (("-Wumask=027", "-lfoo=1"), alike("-Wumask=027", "-l", "foo=1")),
}

EXPRESSED = [
    pytest.param(dialect, name, words, id=f"{dialect.name}-{name}")
    for name, (_, of_each) in WORDS.items()
    for dialect, words in zip((TORQUE, OPENPBS, DEBIAN), of_each)
]


class TestOptions:
    def test_each_is_here(self) -> None:
        assert WORDS.keys() == resources.OPTIONS.keys()

    @pytest.mark.parametrize(("dialect", "name", "words"), EXPRESSED)
    def test_each_has_its_words_or_is_refused_by_name(
        self, dialect: Dialect, name: str, words: list[str] | None
    ) -> None:
        wanted = {name: WORDS[name][0]}
        if words is None:
            with pytest.raises(OptionError, match=f"^{name}: {dialect.title} has no such option; "):
                dialect.options(wanted)
        else:
            assert dialect.options(wanted) == words

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS, DEBIAN], ids=name_of)
    def test_nothing_that_was_not_asked_for(self, dialect: Dialect) -> None:
        assert dialect.options({}) == []

    @pytest.mark.parametrize(
        ("dialect", "given", "item"),
        [
            (TORQUE, {"cores": 4, "mem": GIB, "gpus": 1}, "nodes=1:ppn=4:gpus=1,mem=1gb"),
            (OPENPBS, {"cores": 4, "mem": GIB, "gpus": 1}, "select=1:ncpus=4:mem=1gb:ngpus=1"),
            # TORQUE's is the memory of the whole job, OpenPBS' that of each chunk.
            (TORQUE, {"nodes": 2, "mem": GIB}, "nodes=2,mem=2gb"),
            (OPENPBS, {"nodes": 2, "mem": GIB}, "select=2:mem=1gb,place=scatter"),
            (TORQUE, {"nodes": 2, "tasks": 8, "cores": 2}, "nodes=2:ppn=8"),
            (OPENPBS, {"nodes": 2, "tasks": 8, "cores": 2}, "select=2:ncpus=8:mpiprocs=4,place=scatter"),
            (OPENPBS, {"tasks": 8, "tasks_per_node": 4, "cores": 2}, "select=2:ncpus=8:mpiprocs=4"),
            (OPENPBS, {"cores": 4, "mem_per_cpu": GIB}, "select=1:ncpus=4:mem=4gb"),
            (TORQUE, {"nodes": 3, "nodelist": "n1,n2", "cores": 2}, "nodes=n1:ppn=2+n2:ppn=2+1:ppn=2"),
            (
                OPENPBS,
                {"nodes": 3, "nodelist": "n1,n2", "cores": 2, "exclusive": True},
                "select=1:host=n1:ncpus=2+1:host=n2:ncpus=2+1:ncpus=2,place=scatter:excl",
            ),
            (TORQUE, {"exclusive": "user"}, "naccesspolicy=singleuser"),
            (DEBIAN, {"gpus": "a100:2"}, "naccelerators=a100:2"),
            (DEBIAN, {"mem": 1}, "mem=1mb"),
            (DEBIAN, {"nodes": 4, "nodelist": "n1,n2"}, "nodes=4+n1+n2"),
            # Slurm's qsub takes the last -l only.
            (DEBIAN, {"time": 60, "extra": ("-l=file=1gb",)}, "walltime=00:01:00,file=1gb"),
            (TORQUE, {"time": 60, "extra": ("-lvmem=2gb",)}, "walltime=00:01:00,vmem=2gb"),
        ],
    )
    def test_together(self, dialect: Dialect, given: dict[str, Any], item: str) -> None:
        assert dialect.options(given) == ["-l", item]

    @pytest.mark.parametrize(
        ("dialect", "given"),
        [
            (TORQUE, {"exclusive": False}),
            (OPENPBS, {"exclusive": False}),
        ],
    )
    def test_what_is_the_default(self, dialect: Dialect, given: dict[str, Any]) -> None:
        assert [word for word in dialect.options(given) if "place" in word or "policy" in word] == []

    @pytest.mark.parametrize(
        ("dialect", "given", "complaint"),
        [
            (TORQUE, {"partition": "day,night"}, "partition: .*one queue"),
            (OPENPBS, {"nodes": "2-4"}, "nodes: .*'2-4'"),
            (DEBIAN, {"nodes": "2-4"}, "nodes: .*'2-4'"),
            (TORQUE, {"nodes": 2, "tasks": 5}, "tasks: 5 cannot be shared out evenly"),
            (TORQUE, {"tasks": 5, "tasks_per_node": 2}, "tasks: 5 cannot"),
            (OPENPBS, {"tasks": 4, "mem": GIB}, "mem: .*nodes="),
            (TORQUE, {"gpus": "a100:2"}, "gpus: .*features="),
            (OPENPBS, {"gpus": "a100:2"}, "gpus: .*gres="),
            (OPENPBS, {"gres": "gpu:a100:2"}, "gres: .*name:number"),
            (TORQUE, {"features": "ib|avx"}, "features: .*'&'"),
            (DEBIAN, {"features": "ib' ; rm"}, "features: .*quotes"),
            (DEBIAN, {"features": "ib,avx"}, "features: .*commas"),
            (DEBIAN, {"nodelist": "n1;rm"}, "nodelist: "),
            (DEBIAN, {"nodelist": "n[1,3]"}, "nodelist: "),
            (TORQUE, {"reservation": "one,other"}, "advres=one,other: .*comma"),
            (TORQUE, {"nodelist": "n[1-3]"}, "nodelist: .*single nodes"),
            (TORQUE, {"nodelist": "n1,n2,n3", "nodes": 2}, "nodelist: it names 3 nodes, and nodes=2"),
            (TORQUE, {"exclusive": "mcs"}, "exclusive: .*'user'"),
            (OPENPBS, {"exclusive": "user"}, "exclusive: .*True or False"),
            (OPENPBS, {"begin": "now+1hour"}, "begin: .*hhmm"),
            (TORQUE, {"priority": 1024}, "priority: .*-1024 to 1023"),
            (TORQUE, {"nice": 2000}, "nice: .*1024"),
            (OPENPBS, {"mail": "END,TIME_LIMIT"}, "mail: .*TIME_LIMIT"),
            (TORQUE, {"depends": "singleton"}, "depends: .*'singleton'"),
            (OPENPBS, {"depends": "aftercorr:12.srv"}, "depends: .*afterany"),
        ],
    )
    def test_what_cannot_be(self, dialect: Dialect, given: dict[str, Any], complaint: str) -> None:
        with pytest.raises(OptionError, match=f"^{complaint}"):
            dialect.options(given)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("afterok:12[].srv:13.srv", "afterokarray:12[].srv,afterok:13.srv"),
            ("afterany:12[].srv,after:13[].srv", "afteranyarray:12[].srv,afterstartarray:13[].srv"),
            ("afternotok:12[3].srv", "afternotok:12[3].srv"),
            ("before:12[].srv", "before:12[].srv"),
        ],
    )
    def test_waiting_for_an_array_of_torque(self, given: str, words: str) -> None:
        assert TORQUE.options({"depends": given}) == ["-W", f"depend={words}"]

    @pytest.mark.parametrize("kind", ["afterok", "afternotok"])
    def test_waiting_for_an_array_of_openpbs(self, kind: str) -> None:
        """Its exit code is that of its last element."""
        with pytest.raises(OptionError, match=r"last element.*afterany:12\[\]\.srv"):
            OPENPBS.options({"depends": f"{kind}:12[].srv"})
        assert OPENPBS.options({"depends": "afterany:12[].srv"}) == ["-W", "depend=afterany:12[].srv"]

    def test_a_datetime(self) -> None:
        checked = resources.check_resources({"begin": datetime(2026, 1, 2, 3, 4, 5)})
        assert TORQUE.options(checked) == ["-a", "202601020304.05"]

    @pytest.mark.parametrize(
        ("dialect", "name"),
        [
            ("torque", "two words"),
            ("torque", "line\nend"),
            ("torque", "x" * 201),
            ("torque", "ümlaut"),
            ("openpbs", "a/b"),
            ("openpbs", "two words"),
            ("openpbs", "x" * 231),
        ],
    )
    def test_names_that_cannot_be(self, dialect: str, name: str, tmp_path: Path) -> None:
        scheduler = PbsScheduler(FakePbs(), dialect=dialect)
        with pytest.raises(OptionError, match=r"^name: "):
            scheduler.check({"name": name})
        with pytest.raises(OptionError, match=r"^name: "):
            scheduler.submit(request(tmp_path, name=name))

    def test_an_array_that_may_not_run_anew(self, tmp_path: Path) -> None:
        """OpenPBS: "qsub: cannot submit non-rerunable Array Job"."""
        given = {"requeue": False}
        with pytest.raises(OptionError, match=r"^requeue: .*arrays=False"):
            PbsScheduler(dialect="openpbs").check(given)
        PbsScheduler(dialect="openpbs", arrays=False).check(given)
        PbsScheduler(dialect="torque").check(given)
        fake = FakePbs(qsub="1.srv\n")
        PbsScheduler(fake, dialect="openpbs").submit(request(tmp_path, resources=given))
        assert after(fake.calls[0], "-r") == "n"


# ---- submissions --------------------------------------------------------------------------------


class TestSubmissions:
    @pytest.mark.parametrize(
        ("dialect", "words", "nowhere"),
        [
            ("torque", ["-N", "my-job", "-S", "/bin/bash", "-C", "cf-run-7-0.0"], "/dev/null"),
            ("openpbs", ["-N", "my-job", "-S", "/bin/bash", "-C", "cf-run-7-0.0", "-f"], LOCAL_NULL),
            ("slurm", ["-N", "my-job"], "/dev/null"),
        ],
    )
    def test_one_element_is_a_plain_job(
        self, tmp_path: Path, dialect: str, words: list[str], nowhere: str
    ) -> None:
        fake = FakePbs(qsub="123.srv\n")
        assert PbsScheduler(fake, dialect=dialect).submit(request(tmp_path, throttle=3)) == ["123.srv"]
        assert fake.calls == [["qsub", *words, "-o", nowhere, "-e", nowhere, f"{tmp_path}/job.sh"]]

    @pytest.mark.parametrize(("dialect", "option"), [("torque", "-t"), ("openpbs", "-J")])
    def test_more_are_an_array(self, tmp_path: Path, dialect: str, option: str) -> None:
        fake = FakePbs(qsub="123[].srv\n")
        wanted = request(tmp_path, 3, throttle=2, resources={"time": 60})
        ids = PbsScheduler(fake, dialect=dialect).submit(wanted)
        assert ids == ["123[0].srv", "123[1].srv", "123[2].srv"]
        [argv] = fake.calls
        assert after(argv, option) == "0-2%2"
        assert argv[-1] == f"{tmp_path}/job.sh"

    def test_a_server_that_does_not_name_itself(self, tmp_path: Path) -> None:
        """TORQUE with display_job_server_suffix=false."""
        fake = FakePbs(qsub="123[]\n")
        assert PbsScheduler(fake, dialect="torque").submit(request(tmp_path, 2)) == ["123[0]", "123[1]"]

    def test_without_a_throttle(self, tmp_path: Path) -> None:
        fake = FakePbs(qstat="pbs_version = 19.1.3\n", qsub="1[].srv\n")
        PbsScheduler(fake).submit(request(tmp_path, 3, throttle=2))
        assert after(fake.calls[-1], "-J") == "0-2"

    @pytest.mark.parametrize(("dialect", "arrays"), [("torque", False), ("openpbs", False), ("slurm", True)])
    def test_without_arrays(self, tmp_path: Path, dialect: str, arrays: bool) -> None:
        """Debian's qstat cannot tell elements apart."""
        fake = FakePbs(qsub=["7.srv\n", "9.srv\n", "8.srv\n"])
        scheduler = PbsScheduler(fake, dialect=dialect, arrays=arrays)
        assert scheduler.submit(request(tmp_path, 3)) == ["7.srv", "9.srv", "8.srv"]
        assert not scheduler.throttles
        for index, argv in enumerate(fake.calls):
            assert not {"-t", "-J"} & set(argv)
            assert f"cf_index={index}\n" in Path(argv[-1]).read_text()
        assert len({argv[-1] for argv in fake.calls}) == 3

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"stdout": "o"}, ["-j", "oe", "-o", "o"]),
            ({"stderr": "e"}, ["-j", "eo", "-e", "e"]),
            ({"stdout": "o", "stderr": "e"}, ["-o", "o", "-e", "e"]),
        ],
    )
    def test_output_of_ones_own(self, tmp_path: Path, given: dict[str, str], words: list[str]) -> None:
        fake = FakePbs(qsub="1.srv\n")
        wanted = request(tmp_path, resources=given)
        PbsScheduler(fake, dialect="torque").submit(wanted)
        assert fake.calls[0][7:-1] == words
        assert "exec >>" not in Path(wanted.script).read_text()

    def test_what_debians_qsub_puts_into_a_shell(self, hostile_tmp_path: Path) -> None:
        """It joins its words with blanks and has a shell run that."""
        fake = FakePbs(qsub="1\n")
        name = "it's `id` $HOME\n"
        wanted = request(hostile_tmp_path, name=name, resources={"account": "a b", "partition": "c;d"})
        PbsScheduler(fake, dialect="slurm").submit(wanted)
        [argv] = fake.calls
        shell = "for word in " + " ".join(argv[1:]) + "; do printf '%s\\0' \"$word\"; done"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, check=True, timeout=30)
        words = os.fsdecode(done.stdout).split("\0")[:-1]
        assert [after(words, option) for option in ("-N", "-A", "-q")] == [name, "a b", "c;d"]
        assert words[-1] == f"{wanted.script}"

    def test_a_site_that_greets(self, tmp_path: Path) -> None:
        fake = FakePbs(qsub="Welcome!\n\n123.srv\n")
        assert PbsScheduler(fake, dialect="torque").submit(request(tmp_path)) == ["123.srv"]

    @pytest.mark.parametrize("answer", ["", "submitted\n", "12[3].srv\n", "12[].srv\n"])
    def test_an_answer_that_is_no_id(self, tmp_path: Path, answer: str) -> None:
        with pytest.raises(SubmissionError, match="in place of a job's id") as caught:
            PbsScheduler(FakePbs(qsub=answer), dialect="torque").submit(request(tmp_path))
        assert caught.value.exit_code == 0

    def test_a_script_that_cannot_be_written(self) -> None:
        fake = FakePbs()
        with pytest.raises(SubmissionError, match=r"script.*/nowhere/job\.sh"):
            PbsScheduler(fake, dialect="torque").submit(request(Path("/nowhere")))
        assert not fake.calls


def run_script(path: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script as a PBS does: elsewhere, with a shell by its name, and little in the environment."""
    bash = shutil.which("bash")
    assert bash
    environ = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([bash, path], cwd="/", env=environ, capture_output=True, timeout=30)


class TestScripts:
    def test_it_stays_for_people(self, tmp_path: Path) -> None:
        PbsScheduler(FakePbs(qsub="1.srv"), dialect="torque").submit(request(tmp_path))
        path = tmp_path / "job.sh"
        assert path.stat().st_mode & 0o777 == 0o700
        assert "exec python3 " in path.read_text()

    @pytest.mark.parametrize(
        ("dialect", "elements", "variables", "told"),
        [
            ("torque", 9, {"PBS_ARRAYID": "4", "PBS_JOBID": "12[4].srv"}, "4 0 12[4].srv"),
            ("openpbs", 9, {"PBS_ARRAY_INDEX": "4", "PBS_JOBID": "12[4].srv"}, "4 0 12[4].srv"),
            ("openpbs", 1, {"PBS_JOBID": "12.srv"}, "0 0 12.srv"),
            ("slurm", 1, {"SLURM_JOB_ID": "12"}, "0 0 12"),
        ],
    )
    def test_what_a_job_knows_of_itself(
        self, tmp_path: Path, dialect: str, elements: int, variables: dict[str, str], told: str
    ) -> None:
        wanted = request(tmp_path, elements, argv=["echo", INDEX, RESTART, JOB_ID])
        answer = "1.srv" if elements == 1 else "1[].srv"
        PbsScheduler(FakePbs(qsub=answer), dialect=dialect).submit(wanted)
        assert run_script(wanted.script, **variables).returncode == 0
        index = told.split()[0]
        assert (tmp_path / f"{index}.log").read_text() == told + "\n"

    def test_each_start_has_its_number(self, hostile_tmp_path: Path) -> None:
        """PBS tells a job nothing of that; elements do not get into each other's way."""
        wanted = request(hostile_tmp_path, 2, argv=["echo", INDEX, RESTART])
        PbsScheduler(FakePbs(qsub="1[].srv"), dialect="torque").submit(wanted)
        for index in (0, 0, 1, 0):
            run_script(wanted.script, PBS_ARRAYID=str(index))
        assert (hostile_tmp_path / "0.log").read_text() == "0 0\n0 1\n0 2\n"
        assert (hostile_tmp_path / "1.log").read_text() == "1 0\n"

    def test_where_and_with_what_it_runs(
        self, hostile_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The working directory, the output and the environment are the script's own business."""
        value = "a'b \"c\", $HOME `id`\n\\ ü"
        monkeypatch.setenv("OF_THE_DRIVER", value)
        monkeypatch.setenv("PBS_JOBID", "of the driver")
        work = hostile_tmp_path / "work"
        work.mkdir()
        names = ("OF_THE_DRIVER", "OWN", "PBS_JOBID")
        code = f"import os; print(repr([os.getcwd(), *map(os.environ.get, {names})]))"
        wanted = request(
            hostile_tmp_path,
            argv=[sys.executable, "-c", code],
            cwd=str(work),
            environment={"OWN": value},
        )
        fake = FakePbs(qsub="1.srv")
        PbsScheduler(fake, dialect="torque").submit(wanted)
        done = run_script(wanted.script, PBS_JOBID="1.srv")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        told = (hostile_tmp_path / "0.log").read_text()
        assert told == f"{[str(work), value, value, '1.srv']!r}\n"
        assert not [word for word in fake.calls[0] if word in ("-v", "-V")]

    def test_threads_that_openpbs_makes_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It sets OMP_NUM_THREADS in each job, for all of its CPUs; ours share them out."""
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        wanted = request(tmp_path, argv=["sh", "-c", "echo ${OMP_NUM_THREADS-none}"])
        scheduler = PbsScheduler(FakePbs(qsub="1.srv"), dialect="openpbs")
        scheduler.submit(wanted)
        run_script(wanted.script, OMP_NUM_THREADS="16")
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        scheduler.submit(wanted)
        run_script(wanted.script, OMP_NUM_THREADS="16")
        scheduler.submit(wanted._replace(environment={"OMP_NUM_THREADS": "5"}))
        run_script(wanted.script, OMP_NUM_THREADS="16")
        assert (tmp_path / "0.log").read_text() == "none\n3\n5\n"

    def test_slurm_passes_the_environment_on_by_itself(self, tmp_path: Path) -> None:
        wanted = request(tmp_path)
        PbsScheduler(FakePbs(qsub="1"), dialect="slurm").submit(wanted)
        assert "export " not in Path(wanted.script).read_text()


# ---- refusals -----------------------------------------------------------------------------------


class TestRefusals:
    @pytest.mark.parametrize(
        ("dialect", "done", "advice"),
        [
            ("openpbs", failed(*captured.OPENPBS_BAD_QUEUE), "`qstat -Q`"),
            ("torque", failed(*captured.TORQUE_BAD_QUEUE), "`qstat -Q`"),
            ("openpbs", failed(*captured.OPENPBS_BAD_RESOURCE), "`pbsnodes -a`"),
            ("torque", failed(*captured.TORQUE_BAD_RESOURCE), "`pbsnodes -a`"),
            ("openpbs", failed(*captured.OPENPBS_BAD_MEMORY), "qsub -N my-job"),
            ("torque", failed(*captured.TORQUE_BAD_MEMORY), "qsub -N my-job"),
            (
                "torque",
                failed(171, "qsub: submit error (Bad UID for job execution MSG=root user not allowed)\n"),
                "no jobs of root",
            ),
            ("openpbs", failed(1, "qsub: Job violates queue and/or server resource limits"), "`qstat -Q -f`"),
            ("torque", failed(242, "qsub: submit error (Queue does not allow job arrays)\n"), "arrays=False"),
            ("openpbs", failed(198, "qsub: Invalid Job Dependency\n"), "depends="),
            ("openpbs", failed(159, "qsub: cannot connect to server srv (errno=15007)\n"), "login node"),
            ("openpbs", failed(186, "qsub: cannot connect to server  (errno=15034)\n"), "PBS_SERVER"),
            ("slurm", completed(captured.DEBIAN_BAD_QUEUE, code=1), "`sinfo --summarize`"),
            ("torque", failed(1, ""), "qsub -N my-job"),
        ],
    )
    def test_what_it_says(self, tmp_path: Path, dialect: str, done: Completed, advice: str) -> None:
        fake = FakePbs(qsub=done)
        with pytest.raises(SubmissionError) as caught:
            PbsScheduler(fake, dialect=dialect).submit(request(tmp_path))
        error = caught.value
        assert type(error) is SubmissionError
        assert (error.command, error.exit_code, error.stderr) == (fake.calls[0], done.code, done.stderr)
        said, hint = str(error).splitlines()
        assert said.startswith("PBS refused the job: ")
        assert done.stderr.strip().removeprefix("qsub: ") in said
        assert advice in hint

    def test_only_what_sbatch_says(self, tmp_path: Path) -> None:
        """Debian's qsub says on standard output, as an error, how it has called it."""
        fake = FakePbs(qsub=completed(captured.DEBIAN_BAD_QUEUE, code=1))
        with pytest.raises(SubmissionError) as caught:
            PbsScheduler(fake, dialect="slurm").submit(request(tmp_path))
        assert str(caught.value).splitlines()[0] == (
            "PBS refused the job: invalid partition specified: nope; "
            "Batch job submission failed: Invalid partition name specified"
        )

    @pytest.mark.parametrize(
        ("text", "limited"),
        [
            ("qsub: would exceed complex's per-user limit", True),
            ("qsub: would exceed queue workq's per-group limit of jobs in 'Q' state", True),
            ("qsub: Maximum number of jobs for user ada already in queue workq", True),
            ("qsub: submit error (Maximum number of jobs already in queue for user MSG=total ...)", True),
            ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
            # A smaller one may pass.
            ("qsub: Array job exceeds server or queue size limit", True),
            ("qsub: submit error (Bad Job Array Request MSG=Requested array size too large ...)", True),
            # A job that is too large will never be let in.
            ("qsub: would exceed limit on resource ncpus in queue workq", False),
            ("qsub: would exceed user ada's limit on resource ncpus in complex", False),
            ("qsub: submit error (Job exceeds queue resource limits MSG=cannot locate ...)", False),
        ],
    )
    def test_limits(self, tmp_path: Path, text: str, limited: bool) -> None:
        with pytest.raises(SubmissionError) as caught:
            PbsScheduler(FakePbs(qsub=failed(1, text)), dialect="torque").submit(request(tmp_path))
        assert isinstance(caught.value, SubmitLimitReached) == limited

    def test_qsub_is_missing(self, tmp_path: Path) -> None:
        fake = FakePbs(qsub=FileNotFoundError("qsub"))
        with pytest.raises(SubmissionError, match=r"qsub.*\n.*login node.*PATH") as caught:
            PbsScheduler(fake, dialect="torque").submit(request(tmp_path))
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    def test_one_of_many_is_refused(self, tmp_path: Path) -> None:
        """All or nothing: those that were accepted are taken back."""
        refused = failed(1, "qsub: would exceed complex's per-user limit")
        fake = FakePbs(qsub=["7.srv\n", "8.srv\n", refused])
        with pytest.raises(SubmitLimitReached):
            PbsScheduler(fake, dialect="openpbs", arrays=False).submit(request(tmp_path, 4))
        assert fake.called("qdel") == [["7.srv", "8.srv"]]

    def test_and_they_cannot_be_taken_back(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        fake = FakePbs(qsub=["7.srv\n", failed(1, "qsub: Unknown queue")], qdel=TimeoutError("slow"))
        with pytest.raises(SubmissionError):
            PbsScheduler(fake, dialect="openpbs", arrays=False).submit(request(tmp_path, 4))
        assert "jobs 7.srv stay behind" in caplog.text


DOWN = failed(255, "Connection refused\nqsub: cannot connect to server srv (errno=111)\n")

LOST = [
    DOWN,
    failed(
        111,
        "Unable to communicate with srv(10.0.0.1)\nCannot connect to specified server host 'srv'.\n"
        "qsub: cannot connect to server srv (errno=111) Connection refused\n",
    ),
    failed(90, "qsub: submit error (Request not allowed: Server shutting down)\n"),
    failed(1, "qsub: submit error (Pbs Server is currently too busy to service this request. Please ...)"),
    failed(137, "qsub: cannot connect to server srv (errno=15137) could not connect to trqauthd\n"),
    completed("sbatch: error: Batch job submission failed: Unable to contact slurm controller", code=1),
    TimeoutError("qsub did not end within 60 s"),
]


class TestLostAnswers:
    @pytest.mark.parametrize("lost", LOST)
    def test_what_was_accepted_is_found(self, tmp_path: Path, lost: Any) -> None:
        """By its mark among the words of its qsub, which the server keeps."""
        listed = captured.OPENPBS_LIVE.replace("79.head", "12[].head").replace(
            "Submit_arguments = -N long -l", "Submit_arguments = -N long -C cf-run-7-0 -l"
        )
        fake = FakePbs(qsub=lost, qstat=listed)
        scheduler = PbsScheduler(fake, dialect="openpbs")
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 3))
        assert scheduler.submit(request(tmp_path, 3)) == ["12[0].head", "12[1].head", "12[2].head"]
        assert len(fake.called("qsub")) == 1
        assert fake.called("qstat") == [["-f"]]

    def test_what_was_accepted_and_not_told_is_found_at_once(self, tmp_path: Path) -> None:
        listed = captured.OPENPBS_LIVE.replace("79.head", "12[].head").replace(
            "Submit_arguments = -N long -l", "Submit_arguments = -N long -C cf-run-7-0 -l"
        )
        fake = FakePbs(qsub="good day\n", qstat=listed)
        scheduler = PbsScheduler(fake, dialect="openpbs")
        assert scheduler.submit(request(tmp_path, 2)) == ["12[0].head", "12[1].head"]

    def test_in_torque(self, tmp_path: Path) -> None:
        listed = captured.TORQUE_LIVE.replace("57.head", "12[].head").replace(
            "-N one fail3.sh", "-N one -C cf-run-7-0 -t 0-1 /run/job.sh"
        )
        fake = FakePbs(qsub=DOWN, qstat=listed)
        scheduler = PbsScheduler(fake, dialect="torque")
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 2))
        assert scheduler.submit(request(tmp_path, 2)) == ["12[0].head", "12[1].head"]
        assert fake.called("qstat") == [["-x"]]

    def test_before_slurm(self, tmp_path: Path) -> None:
        """Where squeue knows the scripts of jobs."""
        queue = f"11|{tmp_path}/job.sh.0\n12|{tmp_path}/job.sh.1\n"
        fake = FakePbs(qsub=["11\n", TimeoutError("slow"), "13\n"], squeue=queue)
        scheduler = PbsScheduler(fake, dialect="slurm")
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 3))
        assert scheduler.submit(request(tmp_path, 3)) == ["11", "12", "13"]
        assert len(fake.called("qsub")) == 3

    def test_what_was_not_is_submitted_again(self, tmp_path: Path) -> None:
        fake = FakePbs(qsub=[DOWN, "13[].head\n", "14.head"], qstat=captured.OPENPBS_LIVE)
        scheduler = PbsScheduler(fake, dialect="openpbs")
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 2))
        assert scheduler.submit(request(tmp_path, 2)) == ["13[0].head", "13[1].head"]
        scheduler.submit(request(tmp_path))
        assert len(fake.called("qstat")) == 1, "only while there is a doubt"

    def test_nobody_knows_yet(self, tmp_path: Path) -> None:
        fake = FakePbs(qsub=DOWN, qstat=failed(255, "qstat: cannot connect to server srv (errno=111)\n"))
        scheduler = PbsScheduler(fake, dialect="openpbs")
        for _ in range(3):
            with pytest.raises(SchedulerUnavailable):
                scheduler.submit(request(tmp_path))
        assert len(fake.called("qsub")) == 1


# ---- what is said of jobs -----------------------------------------------------------------------

# qstat(1) of each: Debian's has its letters in its source.
LETTERS = {"torque": "CEHQRTWS", "openpbs": "EFHMQRSTUWX", "slurm": "CQRSU"}
ENDED = {"torque": "C", "openpbs": "FX", "slurm": "CU"}


def told(dialect: Dialect, **record: str) -> JobStatus:
    """What a dialect makes of a job that has run, or runs, with this said of it."""
    return dialect.status({"exec_host": "n1/0", **record})


class TestStates:
    @pytest.mark.parametrize(
        ("dialect", "letter"), [(name, letter) for name, letters in LETTERS.items() for letter in letters]
    )
    def test_what_has_ended(self, dialect: str, letter: str) -> None:
        found = told(pbs.DIALECTS[dialect](), job_state=letter, exit_status="0")
        assert found.state.ended == (letter in ENDED[dialect])
        assert (found.state is JobState.UNKNOWN) == (dialect == "openpbs" and letter == "M")

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    def test_an_unknown_letter_is_logged_once(
        self, dialect: Dialect, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(2):
            assert told(dialect, job_state="Z").state is JobState.UNKNOWN
        assert caplog.text.count("'Z'") == 1

    @pytest.mark.parametrize(
        ("text", "node"),
        [
            ("n1/0", "n1"),
            ("node07.site.org/0*4+node08.site.org/0*4", "node07.site.org"),
            ("n1/0-3,8", "n1"),
            ("n1:15002/0", "n1"),
            ("", None),
        ],
    )
    def test_nodes(self, text: str, node: str | None) -> None:
        assert TORQUE.status({"job_state": "R", "exec_host": text}).node == node

    @pytest.mark.parametrize(
        ("record", "left"),
        [
            ({"resource_list.walltime": "01:00:00", "resources_used.walltime": "00:10:01"}, 2999.0),
            ({"resource_list.walltime": "100:00:00"}, 360000.0),
            ({"resource_list.walltime": "00:01:00", "resources_used.walltime": "00:01:09"}, 0.0),
            ({"resources_used.walltime": "00:01:09"}, None),
            # TORQUE says it itself, and better.
            ({"resource_list.walltime": "01:00:00", "walltime.remaining": "3599"}, 3599.0),
            ({"resource_list.walltime": "01:00:00", "walltime.remaining": "-5"}, 0.0),
        ],
    )
    def test_time_left(self, record: dict[str, str], left: float | None) -> None:
        assert told(TORQUE, job_state="R", **record).time_left == left
        assert told(TORQUE, job_state="Q", **record).time_left is None

    @pytest.mark.parametrize(
        ("dialect", "code", "state"),
        [
            (TORQUE, -11, JobState.TIMEOUT),
            (TORQUE, -12, JobState.TIMEOUT),
            (TORQUE, -10, JobState.OUT_OF_MEMORY),
            (OPENPBS, -29, JobState.TIMEOUT),
            (OPENPBS, -28, JobState.TIMEOUT),
            (OPENPBS, -27, JobState.OUT_OF_MEMORY),
            (OPENPBS, -26, JobState.OUT_OF_MEMORY),
            (OPENPBS, -24, JobState.FAILED),
            (TORQUE, -4, JobState.NODE_FAILED),
            (OPENPBS, -6, JobState.NODE_FAILED),
            (TORQUE, -1, JobState.FAILED),
            (OPENPBS, -11, JobState.FAILED),  # TORQUE's wall time is something else here
            (TORQUE, 271, JobState.CANCELLED),
            (OPENPBS, 271, JobState.CANCELLED),
        ],
    )
    def test_endings_by_pbs(self, dialect: Dialect, code: int, state: JobState) -> None:
        found = told(dialect, job_state=ENDED[dialect.name][0], exit_status=str(code))
        assert found.state is state
        assert found.signal is None
        assert f"exit status {code}" in found.text
        assert found.node == "n1"

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    @pytest.mark.parametrize(
        ("code", "exit_code", "signal"),
        [
            (1, 1, None),
            (118, 118, None),
            (127, 127, None),
            (128, 128, None),
            (255, 255, None),
            (137, None, 9),  # what a shell says of what it has run
            (265, None, 9),  # what the node has seen itself
            (267, None, 11),
        ],
    )
    def test_endings_of_their_own(
        self, dialect: Dialect, code: int, exit_code: int | None, signal: int | None
    ) -> None:
        found = told(dialect, job_state=ENDED[dialect.name][0], exit_status=str(code))
        assert (found.state, found.exit_code, found.signal) == (JobState.FAILED, exit_code, signal)

    @pytest.mark.parametrize(
        ("code", "words"), [(117, "run directory"), (118, "working directory"), (127, "no such program")]
    )
    def test_what_the_script_says_by_its_exit_code(self, code: int, words: str) -> None:
        assert words in told(TORQUE, job_state="C", exit_status=str(code)).text

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    def test_removed_before_it_started(self, dialect: Dialect) -> None:
        found = dialect.status({"job_state": ENDED[dialect.name][0]})
        assert found.state is JobState.CANCELLED
        assert "before it started" in found.text

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    @pytest.mark.parametrize("status", [{}, {"exit_status": "271"}], ids=["", "271"])
    def test_removed_since_another_job_failed(self, dialect: Dialect, status: dict[str, str]) -> None:
        record = {"job_state": ENDED[dialect.name][0], "depend": "afterok:11.head@head", **status}
        found = dialect.status(record)
        assert (found.state, found.exit_code) == (JobState.CANCELLED, None)
        assert "it waited for afterok:11.head@head" in found.text

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    @pytest.mark.parametrize("code", ["", "0", "1", "271", "137", "-4"])
    def test_what_is_ending_may_go_back_to_the_queue(self, dialect: Dialect, code: str) -> None:
        """Which looks the same, until it is there."""
        found = told(dialect, job_state="E", exit_status=code)
        assert (found.state, found.ends_as) == (JobState.ENDING, None)

    @pytest.mark.parametrize(
        ("dialect", "code", "state"),
        [
            (TORQUE, "-11", JobState.TIMEOUT),
            (TORQUE, "-10", JobState.OUT_OF_MEMORY),
            (OPENPBS, "-29", JobState.TIMEOUT),
            (OPENPBS, "-27", JobState.OUT_OF_MEMORY),
        ],
    )
    def test_what_is_ending_at_a_limit_does_not(self, dialect: Dialect, code: str, state: JobState) -> None:
        found = told(dialect, job_state="E", exit_status=code)
        assert (found.state, found.ends_as) == (JobState.ENDING, state)
        assert found.text.startswith("E, exit status")

    @pytest.mark.parametrize("dialect", [TORQUE, OPENPBS], ids=name_of)
    def test_purged_while_it_ran(self, dialect: Dialect) -> None:
        """qdel -p, or -Wforce, does not wait for the node to tell."""
        found = told(dialect, job_state=ENDED[dialect.name][0])
        assert (found.state, found.exit_code) == (JobState.FAILED, None)

    @pytest.mark.parametrize(
        ("comment", "code", "state"),
        [
            ("Job run at ... and exceeded resource walltime", "271", JobState.TIMEOUT),
            ("Job run at ... and exceeded resource mem", "137", JobState.OUT_OF_MEMORY),
            ("Job run at ... and exceeded resource walltime", "-29", JobState.TIMEOUT),
            ("Job run at ... and exceeded resource ncpus (sum)", "-25", JobState.FAILED),
            # A supervisor that is told to end exits with a code of its own.
            ("Job run at ... and terminated by ada@login", "0", JobState.CANCELLED),
            ("Job run at ... and finished", "0", JobState.COMPLETED),
            ("Job run at ... and failed", "3", JobState.FAILED),
        ],
    )
    def test_what_openpbs_says_in_words(self, comment: str, code: str, state: JobState) -> None:
        found = told(OPENPBS, job_state="F", exit_status=code, comment=comment)
        assert found.state is state
        assert found.node == "n1"

    @pytest.mark.parametrize(
        ("comment", "state"),
        [
            ("Subjob finished", JobState.CANCELLED),  # it was deleted before it began
            ("Subjob failed", JobState.FAILED),
            ("Subjob terminated", JobState.CANCELLED),
            ("", JobState.CANCELLED),
        ],
    )
    def test_an_element_that_is_shown_with_the_exit_status_of_its_array(
        self, comment: str, state: JobState
    ) -> None:
        found = OPENPBS.status({"job_state": "X", "exit_status": "3", "comment": comment})
        assert (found.state, found.exit_code) == (state, None)

    def test_what_torque_holds_for_good(self) -> None:
        """What it removes when a dependency fails, it does not remove when that is submitted again."""
        torque, waits = Torque(), {"job_state": "H", "depend": "afterok:12.srv"}
        assert torque.status(waits).hopeless == ""
        removed = torque.status({"job_state": "C", "depend": "afterok:12.srv", "exit_status": "271"})
        assert (removed.state, removed.hopeless) == (JobState.CANCELLED, "")
        assert torque.status(waits).hopeless.startswith("it waits for afterok:12.srv, which has failed")
        assert torque.status({"job_state": "H", "depend": "afterok:13.srv"}).hopeless == ""
        torque.status({"job_state": "C", "exit_status": "271"})
        assert torque.status({"job_state": "H"}).hopeless == ""

    def test_one_that_is_deleted_while_it_runs(self) -> None:
        """The server says so at once, and that it has ended when its node has noticed."""
        found = told(OPENPBS, job_state="R", comment="Job run at ... and terminated by ada@login")
        assert (found.state, found.ends_as) == (JobState.RUNNING, JobState.CANCELLED)
        assert found.text == "R, terminated by ada@login"

    def test_why_it_waits(self) -> None:
        comment = "Not Running: Insufficient amount of resource: ncpus"
        assert OPENPBS.status({"job_state": "Q", "comment": comment}).text == f"Q ({comment})"
        assert told(OPENPBS, job_state="R", comment="Job run at ...").text == "R"

    def test_what_openpbs_holds_for_good(self) -> None:
        comment = "job held, too many failed attempts to run"
        assert OPENPBS.status({"job_state": "H", "comment": comment}).hopeless.startswith(comment)
        # This may change with the nodes.
        waits = OPENPBS.status({"job_state": "Q", "comment": "Can Never Run: Insufficient amount of ncpus"})
        assert waits.hopeless == ""


class TestAnswers:
    def test_text_of_openpbs(self) -> None:
        found = pbs_status.read_text(pbs_status.unfolded(captured.OPENPBS_TWO))
        assert set(found) == {"77.head", "80.head"}
        assert found["80.head"]["comment"].endswith("(localhost:ncpus=1) and terminated by user@localhost")
        assert found["77.head"]["variable_list"].endswith("Linux,PBS_O_QUEUE=workq,PBS_O_HOST=localhost")
        assert OPENPBS.status(found["77.head"]) == JobStatus(
            JobState.FAILED, exit_code=3, node="localhost", text="F, exit status 3"
        )
        assert OPENPBS.status(found["80.head"]).state is JobState.CANCELLED

    def test_what_looks_like_a_number(self) -> None:
        """In JSON, the name 007 comes as 7, and 1e5 as 100000."""
        text = captured.OPENPBS_TWO.replace("Job_Name = one", "Job_Name = 007")
        assert pbs_status.read_text(text)["77.head"]["job_name"] == "007"

    def test_live_jobs_of_openpbs(self) -> None:
        found = pbs_status.read_text(pbs_status.unfolded(captured.OPENPBS_LIVE))
        assert OPENPBS.status(found["79.head"]) == JobStatus(
            JobState.RUNNING, node="localhost", text="R", time_left=3.0
        )
        assert OPENPBS.status(found["83.head"]) == JobStatus(JobState.PENDING, text="H")

    def test_an_array_of_openpbs(self) -> None:
        """The array's own status is that of whichever element was the last to end."""
        found = pbs_status.read_text(pbs_status.unfolded(captured.OPENPBS_ARRAY))
        assert found["78[].head"]["exit_status"] == "1"
        assert OPENPBS.status(found["78[0].head"]).state is JobState.COMPLETED
        assert OPENPBS.status(found["78[3].head"]).exit_code == 3

    def test_endings_in_openpbs(self) -> None:
        found = pbs_status.read_text(
            pbs_status.unfolded(captured.OPENPBS_WALLTIME + captured.OPENPBS_REMOVED)
        )
        assert OPENPBS.status(found["79.head"]).state is JobState.TIMEOUT
        assert OPENPBS.status(found["83.head"]) == JobStatus(
            JobState.CANCELLED, text="F (removed before it started)"
        )

    def test_two_documents_of_torque(self) -> None:
        found = pbs_status.read_xml(captured.TORQUE_TWO)
        assert {job: TORQUE.status(record).state for job, record in found.items()} == {
            "57.head": JobState.FAILED,
            "60.head": JobState.CANCELLED,
        }
        assert TORQUE.status(found["57.head"]).exit_code == 3

    def test_live_jobs_of_torque(self) -> None:
        found = pbs_status.read_xml(captured.TORQUE_LIVE)
        assert TORQUE.status(found["57.head"]) == JobStatus(
            JobState.RUNNING, node="localhost", text="R", time_left=3599.0
        )
        assert TORQUE.status(found["58[1].head"]).exit_code == 1
        assert TORQUE.status(found["64.head"]) == JobStatus(JobState.PENDING, text="H")

    def test_endings_in_torque(self) -> None:
        found = pbs_status.read_xml(captured.TORQUE_ENDED)
        assert {job: TORQUE.status(record).state for job, record in found.items()} == {
            "58[0].head": JobState.COMPLETED,
            "58[3].head": JobState.FAILED,
            "59.head": JobState.TIMEOUT,
            "64.head": JobState.CANCELLED,
        }

    def test_values_that_xml_may_not_have(self) -> None:
        """PBS_O_WORKDIR, for one, is whatever the user's directories are called."""
        odd = "/home/\x1b[1m\udcff &amp; &lt;\u4e16"
        found = pbs_status.read_xml(captured.TORQUE_TWO.replace("/home/user/tw", odd))
        assert found["57.head"]["init_work_dir"] == "/home/?[1m? & <\u4e16"

    @pytest.mark.parametrize("text", ["", "\n", '<?xml version="1.0"?>\n<Data></Data>\n'])
    def test_no_job_of_torque(self, text: str) -> None:
        assert pbs_status.read_xml(text) == {}

    def test_what_is_no_xml(self) -> None:
        with pytest.raises(SchedulerUnavailable, match="cannot be read"):
            PbsScheduler(FakePbs(qstat="<Data><Job>"), dialect="torque").poll(["1.srv"])

    @pytest.mark.parametrize("text", ["", "\n", "Job Id:", "    job_state = R\n", "Job id  Name\n", "x = y"])
    def test_nonsense(self, text: str) -> None:
        assert pbs_status.read_text(text) == {}


class TestDebian:
    NOW = moment("Sat Nov 21 15:06:00 2026")

    @pytest.fixture
    def found(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, JobStatus]:
        monkeypatch.setattr(time, "time", lambda: self.NOW)
        records = pbs_status.read_text(captured.DEBIAN_JOBS)
        return {job: DEBIAN.status(record) for job, record in records.items()}

    def test_what_can_be_told(self, found: dict[str, JobStatus]) -> None:
        assert {job: status.state for job, status in found.items()} == {
            "413": JobState.OUT_OF_MEMORY,
            "414": JobState.FAILED,
            "415": JobState.CANCELLED,
            "419": JobState.TIMEOUT,
            "420": JobState.RUNNING,
            "421": JobState.PENDING,
        }

    def test_nothing_is_made_up(self, found: dict[str, JobStatus]) -> None:
        """No exit code is ever shown: C is neither success nor failure."""
        assert all(status.exit_code is None and status.signal is None for status in found.values())
        assert found["414"].text == "C (how it ended is not told)"

    def test_time_left(self, found: dict[str, JobStatus]) -> None:
        """It began at 15:05:13 and has an hour."""
        assert found["420"] == JobStatus(JobState.RUNNING, node="n1", text="R", time_left=3553.0)
        assert found["421"].time_left is None

    def test_without_a_limit(self) -> None:
        unlimited = captured.DEBIAN_JOBS.replace("01:00:00", "Infinite").replace("00:01:00", "Infinite")
        found = pbs_status.read_text(unlimited)
        assert DEBIAN.status(found["420"]).time_left is None
        assert DEBIAN.status(found["419"]).state is JobState.FAILED

    @pytest.mark.parametrize("text", ["", "Infinite", "Sat Xyz 21 15:06:00 2026", "2026-11-21"])
    def test_what_is_no_time(self, text: str) -> None:
        assert moment(text) is None


# ---- asking -------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is asked, however soon after another one."""
    monkeypatch.setattr(poller, "LEAST_AGE", -1.0)


UNREACHABLE = [
    failed(255, "Connection refused\nqstat: cannot connect to server srv (errno=111)\n"),
    failed(111, "qstat: cannot connect to server srv (errno=111) Connection refused\n"),
    # Nothing at all, which as JSON would be an answer without jobs.
    failed(255, ""),
    failed(1, "qstat: something else\n"),
    # One job is not known, and another question failed.
    failed(153, "qstat: Unknown Job Id 1.srv\nqstat: End of File\n"),
    failed(255, "Problem loading jobs.\n"),
    failed(1, "perl: error: s_p_parse_file: cannot stat file /slurm.conf\n"),
    TimeoutError("qstat did not end within 60 s"),
    FileNotFoundError("qstat"),
]


@pytest.mark.usefixtures("impatient")
class TestPoll:
    def test_one_qstat_of_openpbs(self) -> None:
        """For all jobs and all elements, what has ended included."""
        fake = FakePbs(qstat=captured.OPENPBS_LIVE + captured.OPENPBS_ARRAY)
        ids = ["79.head", "78[0].head", "78[3].head", "83.head", "78[7].head"]
        found = PbsScheduler(fake, dialect="openpbs").poll(ids)
        assert set(found) == set(ids) - {"78[7].head"}
        assert fake.calls == [["qstat", "-x", "-f", "-t", "78[].head", "79.head", "83.head"]]

    def test_one_qstat_of_torque(self) -> None:
        """Without -t, it would tell of all jobs of the server in place of an array's elements."""
        fake = FakePbs(qstat=captured.TORQUE_LIVE)
        ids = ["57.head", "58[1].head", "58[9].head"]
        assert set(PbsScheduler(fake, dialect="torque").poll(ids)) == {"57.head", "58[1].head"}
        assert fake.calls == [["qstat", "-t", "-x", "57.head", "58[].head"]]

    def test_one_qstat_of_debian(self) -> None:
        fake = FakePbs(qstat=captured.DEBIAN_JOBS)
        assert len(PbsScheduler(fake, dialect="slurm").poll(["420", "421"])) == 2
        assert fake.calls == [["qstat", "-f", "420", "421"]]

    def test_a_value_in_two_lines(self) -> None:
        """The comment, which alone tells that somebody has deleted this job."""
        fake = FakePbs(qstat=captured.OPENPBS_TWO.replace("Exit_status = 271", "Exit_status = 0"))
        assert "termina\n\tted" in captured.OPENPBS_TWO
        found = PbsScheduler(fake, dialect="openpbs").poll(["80.head"])
        assert found["80.head"].state is JobState.CANCELLED

    def test_a_server_without_history(self) -> None:
        """It says so and exits with 0; what has ended it has forgotten."""
        without = completed(stderr="qstat: PBS is not configured to maintain job history 79.head\n")
        fake = FakePbs(qstat=[without, captured.OPENPBS_LIVE])
        scheduler = PbsScheduler(fake, dialect="openpbs")
        for _ in range(2):
            assert set(scheduler.poll(["79.head", "77.head"])) == {"79.head"}
        assert [words[0] for words in fake.called("qstat")] == ["-x", "-f", "-f"]

    def test_an_element_of_which_nothing_else_is_remembered(self) -> None:
        """Without history, one that has run is shown as one that never did."""
        without = completed(stderr="qstat: PBS is not configured to maintain job history 7[].srv\n")
        element = "Job Id: 7[0].srv\n    job_state = X\n    comment = Subjob finished\n"
        scheduler = PbsScheduler(FakePbs(qstat=[without, element]), dialect="openpbs")
        assert scheduler.poll(["7[0].srv"])["7[0].srv"].state is JobState.COMPLETED

    @pytest.mark.parametrize(
        ("dialect", "answer"),
        [
            ("openpbs", failed(*captured.OPENPBS_UNKNOWN)),
            ("openpbs", failed(35, "qstat: 77.head Job has finished, use -x or -H to obtain ...\n")),
            ("torque", failed(*captured.TORQUE_UNKNOWN)),
            ("torque", failed(234, "qstat: Unknown Array ID MSG=unable to find array 58[].head\n")),
            ("slurm", failed(153, "")),
            ("torque", failed(153, "Maintenance on Monday!\nqstat: Unknown Job Id Error 99999.head\n")),
        ],
    )
    def test_what_nobody_knows(self, dialect: str, answer: Completed) -> None:
        """It has left the server: no news, and no error."""
        assert PbsScheduler(FakePbs(qstat=answer), dialect=dialect).poll(["99999.head"]) == {}

    def test_some_are_known(self) -> None:
        code, stderr = captured.TORQUE_UNKNOWN
        fake = FakePbs(qstat=Completed(code, captured.TORQUE_TWO, stderr))
        assert set(PbsScheduler(fake, dialect="torque").poll(["57.head", "99999.head"])) == {"57.head"}

    @pytest.mark.parametrize("answer", UNREACHABLE)
    @pytest.mark.parametrize("dialect", pbs.DIALECTS)
    def test_no_answer(self, dialect: str, answer: Any) -> None:
        with pytest.raises(SchedulerUnavailable):
            PbsScheduler(FakePbs(qstat=answer), dialect=dialect).poll(["12.srv"])

    def test_what_is_no_id(self) -> None:
        fake = FakePbs()
        assert PbsScheduler(fake, dialect="torque").poll(["x", "", "12_3", "-1", "1.srv;rm x"]) == {}
        assert fake.calls == []

    def test_many_jobs_are_few_commands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As few as the length of a command allows."""
        monkeypatch.setattr(slurm_status, "LINE", 1000)
        ids = [f"{number}.srv" for number in range(1000, 1500)]
        fake = FakePbs(qstat="".join(f"Job Id: {job}\n    job_state = R\n" for job in ids))
        assert len(PbsScheduler(fake, dialect="openpbs").poll(ids)) == 500
        asked = [words[3:] for words in fake.called("qstat")]
        assert [job for words in asked for job in words] == ids
        assert len(asked) == 5

    def test_a_large_array_is_one_id(self) -> None:
        fake = FakePbs()
        PbsScheduler(fake, dialect="torque").poll([f"7[{index}].srv" for index in range(10_000)])
        assert fake.calls == [["qstat", "-t", "-x", "7[].srv"]]


@pytest.mark.usefixtures("impatient")
class TestElementsToCome:
    """TORQUE makes the elements of an array by and by, after it has accepted it."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [1000.0]

        def tick() -> float:
            now[0] += 0.001
            return now[0]

        monkeypatch.setattr(time, "monotonic", tick)
        return now

    def poll(self, scheduler: PbsScheduler, ids: list[str]) -> list[str | None]:
        found = scheduler.poll(ids)
        return [found[job].text if job in found else None for job in ids]

    def test_they_wait(self, tmp_path: Path, clock: list[float]) -> None:
        one = "<Job><Job_Id>5[0].srv</Job_Id><job_state>R</job_state></Job>"
        fake = FakePbs(qsub="5[].srv", qstat=["", f"<Data>{one}</Data>", ""])
        scheduler = PbsScheduler(fake, dialect="torque")
        ids = scheduler.submit(request(tmp_path, 2))
        assert self.poll(scheduler, ids) == ["accepted", "accepted"]
        assert self.poll(scheduler, ids) == ["R", "accepted"]
        assert self.poll(scheduler, ids) == [None, "accepted"], "what was there has gone"
        clock[0] += 59.0
        assert self.poll(scheduler, ids) == [None, "accepted"]
        clock[0] += 2.0
        assert self.poll(scheduler, ids) == [None, None]

    @pytest.mark.parametrize(
        ("dialect", "elements", "answer"), [("torque", 1, "5.srv"), ("openpbs", 2, "5[].srv")]
    )
    @pytest.mark.usefixtures("clock")
    def test_nothing_else_does(self, tmp_path: Path, dialect: str, elements: int, answer: str) -> None:
        scheduler = PbsScheduler(FakePbs(qsub=answer), dialect=dialect)
        ids = scheduler.submit(request(tmp_path, elements))
        assert self.poll(scheduler, ids) == [None] * elements


class TestSharing:
    def test_all_executors_of_a_process_ask_together(self) -> None:
        fake = FakePbs(qstat=captured.OPENPBS_LIVE)
        first, second = (PbsScheduler(fake, dialect="openpbs") for _ in range(2))
        first.poll(["79.head"], 9.0)
        second.poll(["83.head"], 9.0)
        assert first.poll(["79.head"], 9.0)["79.head"].state is JobState.RUNNING
        assert second.poll(["79.head", "83.head"], 9.0).keys() == {"79.head", "83.head"}
        assert [words[3:] for words in fake.called("qstat")] == [["79.head"], ["79.head", "83.head"]]

    def test_but_not_those_of_another_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which is told by a variable, or known to another qstat."""
        fake = FakePbs(qstat=captured.OPENPBS_LIVE)
        schedulers = [PbsScheduler(fake, dialect="openpbs") for _ in range(3)]
        schedulers[0].poll(["79.head"], 9.0)
        monkeypatch.setenv("PBS_SERVER", "other")
        schedulers[1].poll(["79.head"], 9.0)
        (tmp_path / "qstat").touch(0o700)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        schedulers[2].poll(["79.head"], 9.0)
        assert len(fake.calls) == 3

    def test_nor_a_forked_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its parent may have been asking when it was forked, and it would wait for that answer for ever."""
        fake = FakePbs()
        parent = pbs._shared_poller(fake, TORQUE)
        assert pbs._shared_poller(fake, TORQUE) is parent
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert pbs._shared_poller(fake, TORQUE) is not parent


# ---- starts -------------------------------------------------------------------------------------


def waits(job: str) -> str:
    return f"Job Id: {job}\n    job_state = Q\n"


def runs(job: str) -> str:
    return f"Job Id: {job}\n    job_state = R\n    exec_host = n1/0\n"


@pytest.mark.usefixtures("impatient")
class TestStarts:
    def scheduler(self, tmp_path: Path, qstat: list[str]) -> tuple[PbsScheduler, JobRequest]:
        scheduler = PbsScheduler(FakePbs(qsub="7[].srv", qstat=qstat), dialect="openpbs")
        wanted = request(tmp_path, 2, argv=["true"])
        scheduler.submit(wanted)
        return scheduler, wanted

    def restarts(self, scheduler: PbsScheduler) -> list[int | None]:
        found = scheduler.poll(["7[0].srv", "7[1].srv"])
        return [found[job].restarts for job in sorted(found)]

    def test_they_are_those_that_the_script_has_counted(self, tmp_path: Path) -> None:
        both = runs("7[0].srv") + runs("7[1].srv")
        scheduler, wanted = self.scheduler(tmp_path, [waits("7[0].srv") + waits("7[1].srv"), both])
        assert self.restarts(scheduler) == [0, 0]
        # It runs, as the server says, but its script has yet to begin.
        assert self.restarts(scheduler) == [0, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert self.restarts(scheduler) == [0, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert self.restarts(scheduler) == [1, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="1")
        assert self.restarts(scheduler) == [1, 0]

    def test_what_waits_after_it_has_begun(self, tmp_path: Path) -> None:
        """An answer from before the beginning looks like one from after a return to the queue."""
        scheduler, wanted = self.scheduler(tmp_path, [waits("7[0].srv") + waits("7[1].srv")])
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert self.restarts(scheduler) == [None, 0]

    def test_one_that_ended_before_anybody_asked(self, tmp_path: Path) -> None:
        """The driver is told of a start, and of its end afterwards."""
        ended = "Job Id: 7[{}].srv\n    job_state = F\n    exec_host = n1/0\n    Exit_status = 0\n"
        both = ended.format(0) + ended.format(1)
        scheduler, wanted = self.scheduler(tmp_path, [runs("7[0].srv") + runs("7[1].srv"), both])
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        run_script(wanted.script, PBS_ARRAY_INDEX="1")
        assert self.restarts(scheduler) == [0, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        states = [
            [status.state for status in scheduler.poll(["7[0].srv", "7[1].srv"]).values()] for _ in range(2)
        ]
        assert states == [[JobState.RUNNING, JobState.COMPLETED], [JobState.COMPLETED] * 2]

    def test_one_that_a_forgetful_server_never_told_of(self, tmp_path: Path) -> None:
        """It was put back, began and ended; the driver is told of its start all the same, then of nothing."""
        first, second = "7[0].srv", "7[1].srv"
        scheduler, wanted = self.scheduler(tmp_path, [runs(first) + runs(second), runs(second)])
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert self.restarts(scheduler) == [0, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        found = [scheduler.poll([first, second]) for _ in range(2)]
        assert found[0][first] == JobStatus(JobState.RUNNING, text="begun anew", restarts=1)
        assert first not in found[1]

    def test_attempts_that_never_reached_the_script(self, tmp_path: Path) -> None:
        """A prologue that fails: run_count grows, but no supervisor has ever begun."""
        counted = runs("7[0].srv") + "    run_count = 3\n" + waits("7[1].srv")
        scheduler, wanted = self.scheduler(tmp_path, [counted])
        assert self.restarts(scheduler) == [0, 0]
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert self.restarts(scheduler) == [0, 0]

    def test_jobs_of_others_and_of_the_past(self, tmp_path: Path) -> None:
        listed = runs("7[0].srv") + runs("8.srv") + captured.OPENPBS_TWO
        scheduler, wanted = self.scheduler(tmp_path, [listed])
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        found = scheduler.poll(["7[0].srv", "8.srv", "77.head"])
        assert [found[job].restarts for job in ("7[0].srv", "8.srv", "77.head")] == [0, None, None]

    def test_a_run_that_was_removed(self, tmp_path: Path) -> None:
        scheduler, wanted = self.scheduler(tmp_path, [runs("7[0].srv") + runs("7[1].srv")])
        run_script(wanted.script, PBS_ARRAY_INDEX="0")
        shutil.rmtree(tmp_path)
        assert self.restarts(scheduler) == [0, 0]

    def test_a_directory_that_the_node_does_not_see(self, tmp_path: Path) -> None:
        _, wanted = self.scheduler(tmp_path, [""])
        text = Path(wanted.script).read_text().replace(str(tmp_path), "/nowhere")
        Path(wanted.script).write_text(text)
        done = run_script(wanted.script, PBS_ARRAY_INDEX="0")
        assert done.returncode == 117
        assert b"/nowhere" in done.stderr


# ---- the rest -----------------------------------------------------------------------------------

MANY = ["12[7].srv", "12[1].srv", "12[0].srv", "12[2].srv", "13[4].srv", "14.srv", "x", "12[1].srv", "15.srv"]


class TestCancel:
    @pytest.mark.parametrize(
        ("dialect", "ids", "calls"),
        [
            ("openpbs", MANY, [["12[0-2].srv", "12[7].srv", "13[4].srv", "14.srv", "15.srv"]]),
            ("torque", MANY, [["-t", "0-2,7", "12[].srv"], ["-t", "4", "13[].srv"], ["14.srv", "15.srv"]]),
            ("slurm", ["12", "13"], [["12", "13"]]),
            ("torque", [], []),
            ("torque", ["x"], []),
        ],
    )
    def test_many_at_once(self, dialect: str, ids: list[str], calls: list[list[str]]) -> None:
        fake = FakePbs()
        PbsScheduler(fake, dialect=dialect).cancel(ids)
        assert fake.called("qdel") == calls

    def test_it_is_looked_after(self) -> None:
        """One qdel for a very large held array and others has deleted nothing, and exited with 0."""
        left = waits("12[0].srv") + waits("12[1].srv") + runs("14.srv") + waits("15.srv")
        fake = FakePbs(qstat=left)
        PbsScheduler(fake, dialect="openpbs").cancel(["12[0].srv", "12[1].srv", "14.srv", "15.srv"])
        first, *second = fake.called("qdel")
        assert first == ["12[0-1].srv", "14.srv", "15.srv"]
        assert sorted(second) == [["12[0-1].srv"], ["15.srv"]]
        assert len(fake.called("qstat")) == 1

    def test_a_refusal_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        fake = FakePbs(qdel=failed(159, "Monday: maintenance\nqdel: Unauthorized Request  15.srv\n"))
        PbsScheduler(fake, dialect="openpbs").cancel(["15.srv"])
        assert [record.getMessage() for record in caplog.records] == ["qdel: Unauthorized Request  15.srv"]

    @pytest.mark.parametrize(
        "answer",
        [
            captured.OPENPBS_QDEL_UNKNOWN,
            captured.TORQUE_QDEL_UNKNOWN,
            (35, "qdel: Job has finished 77.head\n"),
            (170, "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 57.head\n"),
            (1, ""),
        ],
    )
    def test_what_has_ended_is_no_error(
        self, answer: tuple[int, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        PbsScheduler(FakePbs(qdel=failed(*answer)), dialect="openpbs").cancel(["99999.head"])
        assert caplog.text == ""

    @pytest.mark.parametrize(
        "answer",
        [failed(255, "qdel: cannot connect to server srv (errno=111)"), TimeoutError("slow"), OSError("no")],
    )
    def test_no_answer(self, answer: Any) -> None:
        with pytest.raises(SchedulerUnavailable):
            PbsScheduler(FakePbs(qdel=answer), dialect="torque").cancel(["12.srv"])


class TestThrottle:
    @pytest.mark.parametrize(
        ("dialect", "words"),
        [
            ("torque", ["-t", "%4", "12[].srv"]),
            ("openpbs", ["-W", "max_run_subjobs=4", "12[].srv"]),
        ],
    )
    def test_it_is_the_arrays(self, dialect: str, words: list[str]) -> None:
        fake = FakePbs()
        scheduler = PbsScheduler(fake, dialect=dialect)
        assert scheduler.throttles
        scheduler.throttle("12[3].srv", 4)
        scheduler.throttle("12.srv", 6)
        assert fake.calls == [["qalter", *words]]

    def test_without_arrays(self) -> None:
        assert not PbsScheduler(dialect="torque", arrays=False).throttles
        assert not PbsScheduler(dialect="slurm").throttles

    def test_a_refusal_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        answer = failed(168, "qalter: Request invalid for state of job")
        PbsScheduler(FakePbs(qalter=answer), dialect="openpbs").throttle("12[3].srv", 4)
        assert "invalid for state" in caplog.text


class TestShowing:
    @pytest.mark.parametrize("dialect", pbs.DIALECTS)
    def test_explain(self, dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The words can be pasted; nothing is done, and nobody's secrets are shown."""
        monkeypatch.setenv("MY_TOKEN", "secret")
        fake = FakePbs()
        wanted = request(tmp_path, 2, setup="module load gcc", resources={"mem": GIB}, environment={"A": "1"})
        scheduler = PbsScheduler(fake, dialect=dialect)
        text = scheduler.explain(wanted)
        assert text.count("#!/bin/bash") == 1
        assert scheduler.script(wanted) in text
        assert "module load gcc\n" in text
        assert "export A=1\n" in text
        assert "secret" not in text
        assert ("exports this program's environment" in text) == (dialect != "slurm")
        assert ("1 more" in text) == (dialect == "slurm")
        code = "qsub() { printf '%s\\n' \"$@\"; }; " + text.splitlines()[1]
        pasted = subprocess.run(["bash", "-c", code], capture_output=True, check=True, timeout=30)
        assert "mem=1" in after(pasted.stdout.decode().splitlines(), "-l")
        assert fake.calls == []
        assert list(tmp_path.iterdir()) == []

    def test_asking_pbs(self, tmp_path: Path) -> None:
        """It cannot try a job, and says so; whether there is such a queue it can tell."""
        fake = FakePbs(qstat="Queue ...\nbatch ...\n")
        wanted = request(tmp_path, resources={"partition": "batch", "time": 60})
        told = PbsScheduler(fake, dialect="torque").test_only(wanted)
        assert told.startswith("PBS cannot try a job")
        assert told.endswith("batch ...")
        assert fake.calls == [["qstat", "-Q", "batch"]]
        assert list(tmp_path.iterdir()) == []

    def test_and_it_would_be_refused(self, tmp_path: Path) -> None:
        scheduler = PbsScheduler(FakePbs(qstat=failed(170, "qstat: Unknown queue nope")), dialect="openpbs")
        with pytest.raises(SubmissionError, match=r"no queue nope: .*Unknown queue nope\n.*qstat -Q"):
            scheduler.test_only(request(tmp_path, resources={"partition": "nope"}))
        with pytest.raises(OptionError, match=r"^qos"):
            scheduler.test_only(request(tmp_path, resources={"qos": "long"}))

    def test_no_answer(self, tmp_path: Path) -> None:
        fake = FakePbs(qstat=failed(255, "qstat: cannot connect to server srv (errno=111)"))
        with pytest.raises(SchedulerUnavailable):
            PbsScheduler(fake, dialect="openpbs").test_only(request(tmp_path))


class TestMaxArray:
    @pytest.mark.parametrize(
        ("server", "limit"),
        [
            ("Server: head\n    server_state = Active\n    max_array_size = 10000\n", 10000),  # OpenPBS
            ("Server: head\n    max_job_array_size = 500\n", 500),  # TORQUE
            # No limit: a very large one would jam the server.
            ("Server: head\n    keep_completed = 300\n", pbs.DEFAULT_MAX_ARRAY),
        ],
    )
    def test_it_is_asked_once(self, server: str, limit: int) -> None:
        fake = FakePbs(qstat=server)
        scheduler = PbsScheduler(fake, dialect="torque")
        assert [scheduler.max_array, scheduler.max_array] == [limit, limit]
        assert fake.calls == [["qstat", "-B", "-f"]]

    @pytest.mark.parametrize(("dialect", "arrays"), [("torque", False), ("slurm", True)])
    def test_without_arrays_there_is_no_limit(self, dialect: str, arrays: bool) -> None:
        fake = FakePbs()
        assert PbsScheduler(fake, dialect=dialect, arrays=arrays).max_array == sys.maxsize
        assert fake.calls == []

    def test_no_answer(self) -> None:
        fake = FakePbs(qstat=[TimeoutError("slow"), "    max_array_size = 10000\n"])
        scheduler = PbsScheduler(fake, dialect="openpbs")
        assert [scheduler.max_array, scheduler.max_array] == [pbs.DEFAULT_MAX_ARRAY, 10000]


def test_it_runs_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in on PATH: what reaches a program is what was meant."""
    told = tmp_path / "told"
    code = f"with open({str(told)!r}, 'w') as file: print(sys.argv[1:], file=file)"
    stand_in = tmp_path / "qsub"
    stand_in.write_text(f"#!{sys.executable}\nimport sys\n{code}\nprint('42.srv')\n")
    stand_in.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    account = "a 'b' \"c\" $HOME `id` ü世"
    wanted = request(tmp_path, resources={"account": account})
    assert PbsScheduler(dialect="openpbs").submit(wanted) == ["42.srv"]
    [submission] = pbs.submissions(wanted, OPENPBS, True, {})
    assert told.read_text() == f"{submission.argv[1:]}\n"
