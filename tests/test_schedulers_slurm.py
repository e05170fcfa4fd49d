"""Slurm as a scheduler: what it is asked for in which words, and what its answers mean.

No Slurm is needed: a stand-in answers in its place, with what a real one printed (`tests.captured_slurm`).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import resources
from clusterfutures.errors import OptionError, SchedulerUnavailable, SubmissionError, SubmitLimitReached
from clusterfutures.schedulers import poller, slurm, slurm_client, slurm_status
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.schedulers.command import Completed
from clusterfutures.schedulers.slurm import SlurmScheduler
from clusterfutures.states import JobState
from tests import captured_slurm as captured
from tests.support import REPOSITORY


def completed(stdout: str = "", stderr: str = "", code: int = 0) -> Completed:
    return Completed(code, stdout, stderr)


class FakeSlurm:
    """Answers commands: by program, in order; the last answer again and again, and nothing if there is none.

    An answer is what a command printed, how it ended, or an error to raise.
    """

    def __init__(self, **answers: str | Completed | Exception | list[Any]) -> None:
        self.answers = {name: [*what] if isinstance(what, list) else [what] for name, what in answers.items()}
        self.calls: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.inputs: list[str] = []

    def __call__(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        self.calls.append(list(argv))
        self.inputs.append(stdin)
        self.environments.append(environment or {})
        left = self.answers.get(argv[0], [""])
        answer = left[0] if len(left) == 1 else left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return completed(answer) if isinstance(answer, str) else answer

    def called(self, program: str) -> list[list[str]]:
        return [call for call in self.calls if call[0] == program]


def request(directory: Path, elements: int = 1, **changes: Any) -> JobRequest:
    base = JobRequest(
        job=0,
        name="my job",
        argv=["python3", INDEX, RESTART, JOB_ID],
        elements=elements,
        script=str(directory / "job.sh"),
        log=str(directory / f"{INDEX}.log"),
        cwd=None,
        environment={},
        setup="",
        resources={},
        tag="run7",
    )
    return base._replace(**changes)


def option(argv: Sequence[str], name: str) -> str:
    """The value of the last option of that name, which is the one that counts."""
    found = [word.partition("=")[2] for word in argv if word.startswith(f"--{name}=")]
    assert found, argv
    return found[-1]


# ---- the environment of commands ----------------------------------------------------------------


OURS = {
    "PATH": "/bin",
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_CONF_SERVER": "head",
    "SLURM_JWT": "token",
    "SLURM_SACK_SOCKET": "/run/sack",
    "SBATCH_ACCOUNT": "mine",
    "SBATCH_EXPORT": "NONE",
}
NOT_OURS = {
    "SLURM_CPUS_PER_TASK": "4",
    "SLURM_MEM_PER_NODE": "100",
    "SLURM_TIME_FORMAT": "relative",
    "SLURM_CONFIG_OF_SOMETHING": "1",
    "SLURMD_NODENAME": "n1",
    "SQUEUE_FORMAT": "%i",
    "SQUEUE_USERS": "root",
    "SACCT_FORMAT": "jobid",
    "SCANCEL_INTERACTIVE": "1",
    "SCONTROL_ALL": "1",
    "SBATCH_WAIT": "1",
    "SBATCH_ARRAY_INX": "1-9",
    "SBATCH_ERROR": "err.%j",
    "SBATCH_INPUT": "in",
}


class TestEnvironment:
    @pytest.mark.parametrize("submitting", [False, True])
    def test_what_it_keeps(self, submitting: bool) -> None:
        given = {**OURS, **NOT_OURS, "SLURM_CLUSTERS": "far", "SLURM_BITSTR_LEN": "10"}
        own = {"SLURM_CLUSTERS": "far"} if submitting else {"SLURM_BITSTR_LEN": "0"}
        assert slurm_client.environment(given, submitting) == {**OURS, **own}

    def test_in_a_job(self) -> None:
        """What Slurm and srun have set there for that job is not for the jobs that it submits."""
        from_slurm = dict.fromkeys(["SBATCH_CPU_BIND", "SBATCH_MEM_BIND_TYPE", "CUDA_VISIBLE_DEVICES"], "x")
        from_srun = {"PMI_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.1.0"}
        given = {**OURS, **from_slurm, **from_srun}
        assert slurm_client.environment(given) == {**given, "SLURM_BITSTR_LEN": "0"}
        inside = slurm_client.environment({**given, "SLURM_JOB_ID": "1"}, submitting=True)
        assert inside == OURS

    def test_all_commands_have_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {**OURS, **NOT_OURS, "SLURM_CLUSTERS": "far"}.items():
            monkeypatch.setenv(name, value)
        fake = FakeSlurm(sbatch="12\n", squeue="")
        scheduler = SlurmScheduler(fake)
        scheduler.poll(scheduler.submit(request(tmp_path)))
        scheduler.cancel(["12"])
        assert scheduler.max_array > 0
        assert {call[0] for call in fake.calls} == {"sbatch", "squeue", "sacct", "scancel", "scontrol"}
        for call, environment in zip(fake.calls, fake.environments):
            assert not NOT_OURS.keys() & environment.keys()
            assert environment["SLURM_CONF"] == "/etc/slurm.conf"
            assert ("SLURM_CLUSTERS" in environment) == (call[0] == "sbatch")


# ---- options ------------------------------------------------------------------------------------

WORDS = {
    "partition": ("day,night", ["--partition=day,night"]),
    "account": ("seismo", ["--account=seismo"]),
    "qos": ("long", ["--qos=long"]),
    "reservation": ("course", ["--reservation=course"]),
    "cluster": ("north", ["--clusters=north"]),
    "comment": ("it's \"mine\"\n", ["--comment=it's \"mine\"\n"]),
    "time": (131400, ["--time=1-12:30:00"]),
    "cores": (4, ["--cpus-per-task=4"]),
    "mem": (3 << 29, ["--mem=1536M"]),
    "mem_per_cpu": (1 << 30, ["--mem-per-cpu=1G"]),
    "nodes": ("2-4", ["--nodes=2-4"]),
    "tasks": (16, ["--ntasks=16"]),
    "tasks_per_node": (8, ["--ntasks-per-node=8"]),
    "gpus": ("a100:2,v100:1", ["--gres=gpu:a100:2,gpu:v100:1"]),
    "gres": ("nvme:1", ["--gres=nvme:1"]),
    "licenses": ("matlab:1", ["--licenses=matlab:1"]),
    "features": ("ib&avx512", ["--constraint=ib&avx512"]),
    "nodelist": ("n1,n2", ["--nodelist=n1,n2"]),
    "exclude": ("n[7-9]", ["--exclude=n[7-9]"]),
    "exclusive": ("user", ["--exclusive=user"]),
    "begin": ("now+1hour", ["--begin=now+1hour"]),
    "depends": ("afterok:12", ["--dependency=afterok:12"]),
    "nice": (100, ["--nice=100"]),
    "priority": (500, ["--priority=500"]),
    "signal": ("USR1@120", ["--signal=B:USR1@120"]),
    "hold": (True, ["--hold"]),
    "requeue": (False, ["--no-requeue"]),
    "mail": ("END,FAIL", ["--mail-type=END,FAIL"]),
    "mail_user": ("ada@example.org", ["--mail-user=ada@example.org"]),
    "stdout": ("logs/%j.out", ["--output=logs/%j.out"]),
    "stderr": ("logs/%j.err", ["--error=logs/%j.err"]),
    "extra": (("--switches=1", "-H"), ["--switches=1", "-H"]),
    "name": ("misfit", []),
    "modules": (("gcc/12",), []),
}


class TestOptions:
    @pytest.mark.parametrize("name", resources.OPTIONS)
    def test_each_has_its_words(self, name: str) -> None:
        value, words = WORDS[name]
        assert slurm.resource_words({name: value}) == words

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({}, []),
            ({"exclusive": True}, ["--exclusive"]),
            ({"exclusive": False}, []),
            ({"requeue": True}, ["--requeue"]),
            ({"hold": False}, []),
            ({"gpus": 2}, ["--gres=gpu:2"]),
            # One word: a second --gres would replace the first.
            ({"gpus": 2, "gres": "nvme:1,lustre:2"}, ["--gres=nvme:1,lustre:2,gpu:2"]),
            ({"time": 45}, ["--time=00:00:45"]),
        ],
    )
    def test_more_of_them(self, given: dict[str, Any], words: list[str]) -> None:
        assert slurm.resource_words(given) == words

    def test_the_page_has_the_same_words(self) -> None:
        page = (REPOSITORY / "docs" / "options.rst").read_text(encoding="utf-8")
        rows = re.findall(r"^   \* - ``(\w+)``\n(?:     -.*\n){3}     - (.*)$", page, re.MULTILINE)
        assert [name for name, _ in rows] == list(resources.OPTIONS)
        carried = {"name": "``--job-name``", "modules": "a line of the script", "extra": "itself"}
        for name, cell in rows:
            if name in carried:
                assert cell == carried[name]
            else:
                [word] = WORDS[name][1]
                flag = word.partition("=")[0].replace("--no-", "--")
                assert cell == (f"``{flag}``" if name != "gpus" else "``--gres=gpu:``")

    def test_what_slurm_lacks(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="place"):
            SlurmScheduler(FakeSlurm()).submit(request(tmp_path, resources={"place": "scatter"}))

    def test_the_signal_reaches_the_supervisor(self) -> None:
        """With "B:" it goes to the batch shell, whose process the supervisor has become; else to steps."""
        assert slurm.resource_words({"signal": "USR1"}) == ["--signal=B:USR1"]


# ---- submissions --------------------------------------------------------------------------------


class TestSubmissions:
    def test_one_element_is_a_plain_job(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch="123\n")
        assert SlurmScheduler(fake).submit(request(tmp_path, throttle=3)) == ["123"]
        assert fake.calls == [
            [
                "sbatch",
                "--parsable",
                "--ignore-pbs",
                "--job-name=my job",
                "--open-mode=append",
                f"--output={tmp_path}/0.log",
                "--comment=clusterfutures run7",
                f"{tmp_path}/job.sh",
            ]
        ]

    def test_more_are_an_array(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch="123\n")
        ids = SlurmScheduler(fake).submit(request(tmp_path, 3, cwd="/work dir", throttle=2))
        assert ids == ["123_0", "123_1", "123_2"]
        [argv] = fake.calls
        assert option(argv, "array") == "0-2%2"
        assert option(argv, "output") == f"{tmp_path}/%a.log"
        assert option(argv, "chdir") == "/work dir"
        assert argv[-1] == f"{tmp_path}/job.sh"

    def test_without_arrays(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=["7\n", "9\n", "8\n"])
        ids = SlurmScheduler(fake, arrays=False).submit(request(tmp_path, 3))
        assert ids == ["7", "9", "8"]
        for index, argv in enumerate(fake.calls):
            assert not [word for word in argv if word.startswith("--array")]
            assert option(argv, "output") == f"{tmp_path}/{index}.log"
            text = Path(argv[-1]).read_text()
            assert f"cf_index={index}\n" in text
        assert len({argv[-1] for argv in fake.calls}) == 3

    def test_only_what_was_asked_for(self, tmp_path: Path) -> None:
        wanted = {"mem": 1 << 30, "comment": "mine", "stdout": "o.%j", "extra": ("--nice", "-H")}
        [submission] = slurm.submissions(request(tmp_path, resources=wanted))
        assert submission.argv == [
            "sbatch",
            "--parsable",
            "--ignore-pbs",
            "--job-name=my job",
            "--open-mode=append",
            "--mem=1G",
            "--comment=mine",
            "--output=o.%j",
            "--nice",
            "-H",
            f"{tmp_path}/job.sh",
        ]

    def test_the_script_stays_for_people(self, tmp_path: Path) -> None:
        SlurmScheduler(FakeSlurm(sbatch="1")).submit(request(tmp_path))
        path = tmp_path / "job.sh"
        assert path.stat().st_mode & 0o777 == 0o700
        assert "exec python3 " in path.read_text()

    @pytest.mark.parametrize(
        ("variables", "elements", "told"),
        [
            ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_ID": "16"}, 9, "4 0 12_4"),
            ({"SLURM_JOB_ID": "16", "SLURM_RESTART_COUNT": "2"}, 1, "0 2 16"),
        ],
        ids=["array", "job"],
    )
    def test_what_a_job_knows_of_itself(
        self, tmp_path: Path, variables: dict[str, str], elements: int, told: str
    ) -> None:
        wanted = request(tmp_path, elements, argv=["echo", INDEX, RESTART, JOB_ID])
        SlurmScheduler(FakeSlurm(sbatch="1")).submit(wanted)
        environ = {**slurm_client.environment(os.environ), **variables}
        done = subprocess.run([wanted.script], env=environ, capture_output=True, check=True, timeout=30)
        assert done.stdout.decode() == told + "\n"

    def test_the_cluster_of_an_id_is_kept(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=["5;far\n", "6;far\n"])
        scheduler = SlurmScheduler(fake, cluster="far")
        assert scheduler.submit(request(tmp_path, 2)) == ["5_0;far", "5_1;far"]
        assert scheduler.submit(request(tmp_path, resources={"cluster": "near"})) == ["6;far"]
        assert [option(argv, "clusters") for argv in fake.calls] == ["far", "near"]
        assert all("--clusters=far" not in argv for argv in fake.calls[1:])

    @pytest.mark.parametrize(
        ("path", "array", "job"),
        [
            (f"/run/{INDEX}.log", "/run/%a.log", "/run/3.log"),
            (f"/100%/%j %%/{INDEX}", "/100%%/%%j %%%%/%a", "/100%%/%%j %%%%/3"),
            (f"/{INDEX}/{INDEX}.log", "/{index}/%a.log", "/{index}/3.log"),
            ("/run/log", "/run/log", "/run/log"),
            (f"/back\\slash/{INDEX}.log", None, None),
        ],
    )
    def test_names_of_logs(self, path: str, array: str | None, job: str | None) -> None:
        """A backslash anywhere has sbatch take the name literally, also the place for the index."""
        assert slurm.output_pattern(path, None) == array
        assert slurm.output_pattern(path, 3) == job

    def test_a_log_that_sbatch_cannot_name(self, tmp_path: Path) -> None:
        directory = tmp_path / "back\\slash"
        directory.mkdir()
        wanted = request(directory, 2, argv=["echo", "said"])
        [submission] = slurm.submissions(wanted)
        assert option(submission.argv, "output") == "/dev/null"
        SlurmScheduler(FakeSlurm(sbatch="1")).submit(wanted)
        environ = {**os.environ, "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "1"}
        subprocess.run([submission.path], env=environ, check=True, timeout=30)
        assert (directory / "1.log").read_text() == "said\n"

    def test_a_site_that_greets(self, tmp_path: Path) -> None:
        assert SlurmScheduler(FakeSlurm(sbatch="Welcome!\n\n123\n")).submit(request(tmp_path)) == ["123"]

    @pytest.mark.parametrize("answer", ["", "Submitted batch job 12\n", "12_3\n"])
    def test_an_answer_that_is_no_id(self, tmp_path: Path, answer: str) -> None:
        with pytest.raises(SubmissionError, match="in place of a job's id") as caught:
            SlurmScheduler(FakeSlurm(sbatch=answer)).submit(request(tmp_path))
        assert caught.value.exit_code == 0

    def test_a_script_that_cannot_be_written(self, tmp_path: Path) -> None:
        fake = FakeSlurm()
        with pytest.raises(SubmissionError, match=r"script.*/nowhere/job\.sh"):
            SlurmScheduler(fake).submit(request(Path("/nowhere")))
        assert not fake.calls


class TestRefusals:
    @pytest.mark.parametrize(
        ("stderr", "advice"),
        [
            (captured.REFUSED_PARTITION, "`sinfo --summarize`"),
            (captured.REFUSED_ARRAY, "arrays=False"),
            (captured.REFUSED_FEATURE, "%f"),
            (captured.REFUSED_ACCOUNT, "sacctmgr"),
            (captured.REFUSED_QOS, "sacctmgr"),
            (captured.REFUSED_MEMORY, "%m"),
            (captured.REFUSED_OPTION, "version"),
            (captured.NO_CLUSTER, "SLURM_CONF"),
            (captured.REFUSED_TIME, "--parsable"),
            ("", "--parsable"),
        ],
    )
    def test_what_it_says(self, tmp_path: Path, stderr: str, advice: str) -> None:
        fake = FakeSlurm(sbatch=completed(stderr=stderr, code=9))
        with pytest.raises(SubmissionError) as caught:
            SlurmScheduler(fake).submit(request(tmp_path))
        error = caught.value
        assert type(error) is SubmissionError
        assert (error.command, error.exit_code, error.stderr) == (fake.calls[0], 9, stderr)
        assert "sbatch: error" not in str(error)
        assert advice in str(error).splitlines()[1]
        for line in stderr.splitlines():
            assert line.removeprefix("sbatch: ").removeprefix("error: ") in str(error)

    @pytest.mark.parametrize(
        ("reason", "limited"),
        [
            ("QOSMaxSubmitJobPerUserLimit", True),
            ("QOSGrpSubmitJobsLimit", True),
            ("AssocMaxSubmitJobLimit", True),
            ("AssocGrpSubmitJobsLimit", True),
            ("MaxSubmitJobsPerAccount", True),
            # A job that is too large will never be let in.
            ("QOSMaxCpuPerJobLimit", False),
            ("AssocMaxWallDurationPerJobLimit", False),
            ("QOSMinGRES", False),
            ("MaxMemoryPerAccount", False),
        ],
    )
    def test_limits(self, tmp_path: Path, reason: str, limited: bool) -> None:
        stderr = captured.SUBMIT_LIMIT.replace("QOSMaxSubmitJobPerUserLimit", reason)
        with pytest.raises(SubmissionError, match=reason) as caught:
            SlurmScheduler(FakeSlurm(sbatch=completed(stderr=stderr, code=1))).submit(request(tmp_path))
        assert isinstance(caught.value, SubmitLimitReached) == limited

    def test_a_limit_without_a_name(self, tmp_path: Path) -> None:
        stderr = captured.SUBMIT_LIMIT.partition("\n")[2]
        with pytest.raises(SubmitLimitReached):
            SlurmScheduler(FakeSlurm(sbatch=completed(stderr=stderr, code=1))).submit(request(tmp_path))

    def test_sbatch_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SubmissionError, match=r"sbatch.*\n.*login node.*PATH") as caught:
            SlurmScheduler(FakeSlurm(sbatch=FileNotFoundError("sbatch"))).submit(request(tmp_path))
        assert caught.value.command[0] == "sbatch"
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    def test_one_of_many_is_refused(self, tmp_path: Path) -> None:
        """All or nothing: those that were accepted are taken back."""
        refused = completed(stderr=captured.SUBMIT_LIMIT, code=1)
        fake = FakeSlurm(sbatch=["7\n", "8\n", refused])
        with pytest.raises(SubmitLimitReached):
            SlurmScheduler(fake, arrays=False).submit(request(tmp_path, 4))
        assert [call[2:] for call in fake.called("scancel")] == [["7", "8"]]

    def test_and_they_cannot_be_taken_back(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        refused = completed(stderr=captured.SUBMIT_LIMIT, code=1)
        fake = FakeSlurm(sbatch=["7\n", refused], scancel=completed(stderr=captured.SCANCEL_DOWN, code=8))
        with pytest.raises(SubmitLimitReached):
            SlurmScheduler(fake, arrays=False).submit(request(tmp_path, 4))
        assert "jobs 7 stay behind" in caplog.text


DOWN = completed(stderr=captured.SBATCH_DOWN, code=1)


class TestLostAnswers:
    @pytest.mark.parametrize(
        "lost",
        [
            DOWN,
            TimeoutError("sbatch did not end within 60 s"),
            completed(stderr="sbatch: error: Socket timed out on send/recv operation", code=1),
            completed(stderr="sbatch: error: Slurm temporarily unable to accept job, sleeping", code=1),
        ],
    )
    def test_what_was_accepted_is_found(self, tmp_path: Path, lost: Any) -> None:
        script = f"{tmp_path}/job.sh"
        fake = FakeSlurm(sbatch=lost, squeue=f"11|/other\n12_[1-2]|{script}\n12_0|{script}\n")
        scheduler = SlurmScheduler(fake)
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 3))
        assert scheduler.submit(request(tmp_path, 3)) == ["12_0", "12_1", "12_2"]
        assert len(fake.called("sbatch")) == 1

    def test_what_was_accepted_and_not_told_is_found_at_once(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch="good day\n", squeue=f"12_[0-1]|{tmp_path}/job.sh\n")
        assert SlurmScheduler(fake).submit(request(tmp_path, 2)) == ["12_0", "12_1"]

    def test_nor_told_by_anybody(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch="good day\n", squeue=[DOWN, f"12|{tmp_path}/job.sh\n"])
        scheduler = SlurmScheduler(fake)
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path))
        assert scheduler.submit(request(tmp_path)) == ["12"]
        assert len(fake.called("sbatch")) == 1

    def test_what_was_not_is_submitted_again(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=[DOWN, "13\n"], squeue="12|(null)\n")
        scheduler = SlurmScheduler(fake)
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 2))
        assert scheduler.submit(request(tmp_path, 2)) == ["13_0", "13_1"]
        scheduler.submit(request(tmp_path))
        assert len(fake.called("squeue")) == 1, "only while there is a doubt"

    def test_nobody_knows_yet(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=DOWN, squeue=completed(stderr=captured.SQUEUE_DOWN, code=1))
        scheduler = SlurmScheduler(fake)
        for _ in range(3):
            with pytest.raises(SchedulerUnavailable):
                scheduler.submit(request(tmp_path))
        assert len(fake.called("sbatch")) == 1

    def test_some_of_many(self, tmp_path: Path) -> None:
        script = f"{tmp_path}/job.sh"
        fake = FakeSlurm(
            sbatch=["20\n", "21\n", TimeoutError("slow"), "23\n"],
            squeue=f"22|{script}.2\n20|{script}.0\n21|{script}.1\n",
        )
        scheduler = SlurmScheduler(fake, arrays=False)
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path, 4))
        assert scheduler.submit(request(tmp_path, 4)) == ["20", "21", "22", "23"]
        assert len(fake.called("sbatch")) == 4

    def test_on_another_cluster_and_with_a_line_end_in_the_path(self, hostile_tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=DOWN, squeue=["", f"7_[0-1]|{hostile_tmp_path}/job.sh\n8|/x\n"])
        scheduler = SlurmScheduler(fake, cluster="near,far")
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(hostile_tmp_path, 2))
        assert scheduler.submit(request(hostile_tmp_path, 2)) == ["7_0;far", "7_1;far"]
        assert [option(call, "clusters") for call in fake.called("squeue")] == ["near", "far"]

    def test_a_job_of_a_run_with_a_similar_name(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=[DOWN, "13\n"], squeue=f"12|{tmp_path}/job.sh.1\n11|/x{tmp_path}/job.sh\n")
        scheduler = SlurmScheduler(fake)
        with pytest.raises(SchedulerUnavailable):
            scheduler.submit(request(tmp_path))
        assert scheduler.submit(request(tmp_path)) == ["13"]


# ---- Slurm's words ------------------------------------------------------------------------------

# squeue(1), sacct(1) and the page "Job State Codes", as of 20.11 to 25.11.
# fmt: off
LONG = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "CONFIGURING", "COMPLETING", "DEADLINE", "EXPEDITING",
    "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "POWER_UP_NODE", "PREEMPTED",
    "RECONFIG_FAIL", "REQUEUED", "REQUEUED_CRON", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING",
    "RESV_DEL_HOLD", "REVOKED", "RUNNING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED",
    "SUSPENDED", "TIMEOUT", "UPDATE_DB",
}
COMPACT = {
    "BF", "CA", "CD", "CF", "CG", "DL", "F", "NF", "OOM", "PD", "PR", "R", "RC", "RD", "RF", "RH", "RQ",
    "RS", "RV", "S", "SE", "SI", "SO", "ST", "TO",
}
# fmt: on

ENDED = {
    "BOOT_FAIL": JobState.NODE_FAILED,
    "CANCELLED": JobState.CANCELLED,
    "COMPLETED": JobState.COMPLETED,
    "DEADLINE": JobState.TIMEOUT,
    "FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.NODE_FAILED,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "PREEMPTED": JobState.PREEMPTED,
    "TIMEOUT": JobState.TIMEOUT,
}


class TestWords:
    def test_the_table_is_the_manual(self) -> None:
        assert set(slurm_status.STATES) == LONG | COMPACT

    @pytest.mark.parametrize("word", sorted(LONG))
    def test_what_has_ended(self, word: str) -> None:
        state = slurm_status.state_of(word)
        assert state.ended == (word in ENDED)
        if state.ended:
            assert state is ENDED[word]

    def test_an_unknown_word_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(2):
            assert slurm_status.state_of("DREAMING") is JobState.UNKNOWN
        assert caplog.text.count("DREAMING") == 1

    @pytest.mark.parametrize(
        "reason",
        [
            "DependencyNeverSatisfied",
            "BadConstraints",
            "PartitionTimeLimit",
            "InvalidAccount",
            "InvalidQOS",
            "ReservationDeleted",
            "JobHoldMaxRequeue",
            "launch failed requeued held",
            "launch_failed_requeued_held",
            "QOSMaxCpuPerJobLimit",
            "QOSMaxMemoryPerJob",
            "AssocMaxWallDurationPerJobLimit",
            "AssocMaxCpuMinutesPerJobLimit",
        ],
    )
    def test_reasons_that_never_pass(self, reason: str) -> None:
        told = slurm_status.hopeless(reason)
        assert told.startswith(reason.replace("_", " ") + ": ")

    @pytest.mark.parametrize(
        "reason",
        [
            "None",
            "Resources",
            "Priority",
            "Dependency",
            "BeginTime",
            "JobHeldUser",
            "JobHeldAdmin",
            "JobArrayTaskLimit",
            "ReqNodeNotAvail, UnavailableNodes:n1",
            "PartitionNodeLimit",
            "PartitionDown",
            "QOSMaxJobsPerUserLimit",
            "QOSMaxCpuPerUserLimit",
            "AssocGrpCpuLimit",
            "AssocMaxJobsLimit",
            "Reservation",
            "Licenses",
        ],
    )
    def test_reasons_that_pass(self, reason: str) -> None:
        assert slurm_status.hopeless(reason) == ""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0:00", 0.0),
            ("59:59", 3599.0),
            ("1:00:00", 3600.0),
            ("1-01:59:59", 93599.0),
            ("400-00:00:00", 34560000.0),
            ("INVALID", 0.0),
            ("UNLIMITED", None),
            ("NOT_SET", None),
            ("", None),
        ],
    )
    def test_time_left(self, text: str, seconds: float | None) -> None:
        assert slurm_status.seconds_left(text) == seconds

    @pytest.mark.parametrize(
        ("short", "names"),
        [
            ("12", ["12"]),
            ("12_3", ["12_3"]),
            ("12_[3]", ["12_3"]),
            ("315_[2-5%2]", ["315_2", "315_3", "315_4", "315_5"]),
            ("30_[0,4-6,8-9]", ["30_0", "30_4", "30_5", "30_6", "30_8", "30_9"]),
            ("29_[0-20:10]", ["29_0", "29_10", "29_20"]),
            ("12_[1,3,...]", ["12_1", "12_3"]),  # cut short, where SLURM_BITSTR_LEN has no effect
        ],
    )
    def test_short_forms(self, short: str, names: list[str]) -> None:
        assert list(slurm_status.elements(short)) == names

    def test_portions(self) -> None:
        words = [str(number) for number in range(100_000, 150_000)]
        parts = list(slurm_status.portions(words))
        assert [word for part in parts for word in part] == words
        assert all(len(",".join(part)) <= slurm_status.LINE for part in parts)
        assert len(parts) == 4
        assert list(slurm_status.portions([])) == []


class TestAnswers:
    def test_squeue(self) -> None:
        found = slurm_status.read_queue(captured.QUEUE)
        assert len(found) == 21
        once = JobStatus(JobState.FAILED, node="n1", text="FAILED", restarts=0)
        assert found["111"] == once._replace(exit_code=3)
        assert found["112"] == once._replace(signal=9)
        assert found["110_0"] == once._replace(state=JobState.COMPLETED, exit_code=0, text="COMPLETED")
        assert found["113"].state is JobState.OUT_OF_MEMORY
        assert found["110_2"] == JobStatus(
            JobState.RUNNING, node="n2", text="RUNNING", time_left=43200.0, restarts=0
        )
        assert found["120"].time_left == 93599.0
        assert found["121"].state is JobState.ENDING, "it may still write"
        assert found["110_5"] == JobStatus(
            JobState.PENDING, text="PENDING (JobArrayTaskLimit)", restarts=0
        )
        assert found["115"].hopeless.startswith("DependencyNeverSatisfied: ")
        waiting = {name for name in found if name.startswith("117_")}
        assert waiting == {f"117_{index}" for index in (0, 1, 5, 6, 7, 8, 9)}

    def test_how_often_it_was_restarted(self) -> None:
        text = "7|PENDING|0|1:00|2|n/a|BeginTime\n8|RUNNING|0|1:00||n1|None\n"
        found = slurm_status.read_queue(text)
        assert found["7"].restarts == 2, "also while it waits for its next start"
        assert found["8"].restarts is None

    def test_squeue_with_what_is_no_answer(self) -> None:
        text = "CLUSTER: far\nslurm: a remark\n\n7|RUNNING|0|1:00|0|n1|None\n8|RUNNING\n"
        assert set(slurm_status.read_queue(text)) == {"7"}

    def test_a_reason_may_hold_anything(self) -> None:
        [found] = slurm_status.read_queue("7|PENDING|0|1:00|0|n/a|Nodes a|b, (c) %|\n").values()
        assert found.text == "PENDING (Nodes a|b, (c) %|)"

    def test_sacct(self) -> None:
        found = slurm_status.read_records(captured.RECORDS + captured.MORE_RECORDS)
        assert found.jobs["111"] == JobStatus(
            JobState.FAILED, exit_code=3, node="n1", text="FAILED"
        )
        assert found.jobs["112"] == JobStatus(
            JobState.FAILED, signal=9, node="n1", text="FAILED"
        )
        assert found.jobs["113"] == JobStatus(
            JobState.OUT_OF_MEMORY, node="n2", text="OUT_OF_MEMORY"
        )
        assert found.jobs["110_0"].exit_code == 0
        assert found.jobs["318"].state is JobState.TIMEOUT
        assert found.jobs["318"].exit_code is None, "0:0 is not how it ended"
        assert found.jobs["121"].text == "CANCELLED by 0"
        assert found.jobs["29_20"] == JobStatus(JobState.CANCELLED, text="CANCELLED by 0")
        assert "117_0" not in found.jobs, "waiting parts of an array may be out of date"
        assert found.bases == {*map(str, range(110, 118)), "120", "121", "318", "29"}

    @pytest.mark.parametrize(
        ("printed", "exit_code", "signal"),
        [
            # Until 22.05 squeue prints the status of wait(2), from 23.02 on what all others print.
            ("768", 3, None),
            ("3:0", 3, None),
            ("9", None, 9),
            ("0:9", None, 9),
            ("139", None, 11),  # with a core dump
            ("0:0", None, None),  # FAILED all the same: nobody knows
            ("0", None, None),
            ("4021", None, None),
            ("0:53", None, None),
            ("", None, None),
            ("?", None, None),
        ],
    )
    def test_exit_codes(self, printed: str, exit_code: int | None, signal: int | None) -> None:
        [found] = slurm_status.read_queue(f"7|FAILED|{printed}|1:00|0|n1|None").values()
        assert (found.exit_code, found.signal) == (exit_code, signal)

    @pytest.mark.parametrize("printed", ["4021", "0:53"])
    def test_a_log_that_the_node_could_not_open(self, printed: str) -> None:
        [found] = slurm_status.read_queue(f"7|FAILED|{printed}|1:00|0|n1|JobLaunchFailure").values()
        assert "run directory is not visible on the node" in found.text

    @pytest.mark.parametrize(("code", "words"), [("52", "batch script"), ("54", "prolog"), ("46", "FAILED")])
    def test_errors_of_slurm_are_no_signals(self, code: str, words: str) -> None:
        found = slurm_status.read_records(f"7|FAILED|0:{code}|n1").jobs["7"]
        assert found.signal is None
        assert words in found.text

    def test_what_the_script_says_by_its_exit_code(self) -> None:
        found = slurm_status.read_records("7|FAILED|118:0|n1").jobs["7"]
        assert found.exit_code == 118
        assert "working directory" in found.text

    def test_a_reason_that_says_more_than_the_exit_code(self) -> None:
        [found] = slurm_status.read_queue("7|FAILED|0:0|1:00|0|n1|BurstBufferOperation").values()
        assert found.text == "FAILED (BurstBufferOperation)"

    @pytest.mark.parametrize("text", ["", "\n", "||||", "||||||", "x: y", "1|2|3|4|5|6", "1|2|3|4|5|6|7|8"])
    def test_nonsense(self, text: str) -> None:
        records = slurm_status.read_records(text).jobs
        for found in (slurm_status.read_queue(text), records):
            assert all(status.state is JobState.UNKNOWN for status in found.values())


# ---- asking -------------------------------------------------------------------------------------

UNKNOWN = completed(stderr=captured.UNKNOWN_ID, code=1)
DISABLED = completed(stderr=captured.ACCOUNTS_DISABLED, code=1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question is asked, however soon after another one."""
    monkeypatch.setattr(poller, "LEAST_AGE", -1.0)


@pytest.mark.usefixtures("impatient")
class TestPoll:
    def test_one_squeue(self) -> None:
        """For what waits, runs or has ended lately, however many; and nothing else."""
        fake = FakeSlurm(squeue=captured.QUEUE)
        ids = ["110_0", "110_1", "110_2", "110_4", "111", "113", "115", "120", "121"]
        found = SlurmScheduler(fake).poll(ids)
        assert set(found) == set(ids)
        [argv] = fake.calls
        assert option(argv, "jobs") == "110,111,113,115,120,121"
        assert option(argv, "Format") == slurm_status.QUEUE_FORMAT
        assert "--states=all" in argv
        assert "--noheader" in argv

    def test_the_accounts_know_first_how_a_job_ends(self) -> None:
        """While the epilog runs, squeue says COMPLETING and no more; a short one is not worth a question."""
        fake = FakeSlurm(squeue=captured.QUEUE, sacct=captured.RECORDS)
        slurm = SlurmScheduler(fake)
        [first] = slurm.poll(["121"]).values()
        assert (first.state, first.ends_as) == (JobState.ENDING, None)
        assert not fake.called("sacct")
        [second] = slurm.poll(["121"]).values()
        assert (second.state, second.ends_as) == (JobState.ENDING, JobState.CANCELLED)
        assert (second.text, second.node) == ("CANCELLED by 0", "n1")

    def test_the_accounts_may_be_late(self) -> None:
        fake = FakeSlurm(squeue=captured.QUEUE, sacct="121|RUNNING|0:0|n1\n")
        slurm = SlurmScheduler(fake)
        for _ in range(3):
            [found] = slurm.poll(["121"]).values()
            assert (found.state, found.ends_as, found.text) == (JobState.ENDING, None, "COMPLETING")

    def test_one_sacct_for_what_has_left_the_queue(self) -> None:
        running = "120|RUNNING|0|1:00|0|n1|None\n"
        fake = FakeSlurm(squeue=[running, ""], sacct=captured.RECORDS)
        found = SlurmScheduler(fake).poll(["110_1", "111", "112", "120"])
        assert found["110_1"].exit_code == 1
        assert found["111"].exit_code == 3
        assert found["112"].signal == 9
        assert found["120"].state is JobState.RUNNING
        [argv] = fake.called("sacct")
        assert option(argv, "jobs") == "110,111,112"
        assert option(argv, "format") == slurm_status.RECORD_FORMAT
        assert "--parsable2" in argv

    def test_who_is_somebody_else_for_slurm(self) -> None:
        """In some containers: what is not among this user's jobs is looked for among all."""
        fake = FakeSlurm(squeue=["", captured.QUEUE])
        assert SlurmScheduler(fake).poll(["120"])["120"].state is JobState.RUNNING
        first, second = fake.calls
        assert option(first, "user")
        assert not [word for word in second if word.startswith("--user")]

    def test_a_user_without_a_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class NoUsers:
            def getpwuid(self, uid: int) -> object:
                raise KeyError(uid)

        monkeypatch.setattr(slurm_status, "pwd", NoUsers())
        fake = FakeSlurm(squeue=captured.QUEUE)
        SlurmScheduler(fake).poll(["120"])
        assert not [word for word in fake.calls[0] if word.startswith("--user")]

    def test_an_element_that_was_cancelled_in_the_queue(self) -> None:
        """Slurm keeps no record of it: it is gone from the list of those that wait."""
        fake = FakeSlurm(squeue=captured.QUEUE, sacct=captured.RECORDS)
        found = SlurmScheduler(fake).poll(["117_1", "117_2"])
        assert found["117_1"].text == "PENDING (JobHeldUser)"
        assert found["117_2"] == JobStatus(JobState.CANCELLED, text="CANCELLED (before it started)")

    def test_and_there_are_no_accounts(self) -> None:
        """They are not asked for again."""
        fake = FakeSlurm(squeue=captured.QUEUE, sacct=DISABLED)
        scheduler = SlurmScheduler(fake)
        for _ in range(2):
            assert set(scheduler.poll(["117_1", "117_2"])) == {"117_1"}
        assert len(fake.called("sacct")) == 1

    @pytest.mark.parametrize(
        "lost",
        [
            completed(stderr="sacct: error: Sending PersistInit msg: Connection refused", code=1),
            completed(stderr="sacct: error: Problem talking to the database", code=1),
            TimeoutError("sacct did not end within 60 s"),
            FileNotFoundError("sacct"),
        ],
    )
    def test_accounts_that_are_away(self, lost: Any) -> None:
        """They are asked for again."""
        fake = FakeSlurm(squeue=UNKNOWN, sacct=[lost, captured.RECORDS])
        scheduler = SlurmScheduler(fake)
        assert scheduler.poll(["111"]) == {}
        assert scheduler.poll(["111"])["111"].exit_code == 3

    def test_what_runs_for_the_accounts_alone(self) -> None:
        """They are late, or the controller has lost the job, whose record says so for ever."""
        fake = FakeSlurm(squeue=UNKNOWN, sacct=captured.RECORDS)
        assert SlurmScheduler(fake).poll(["120", "110_5"]) == {}

    def test_what_nobody_knows(self) -> None:
        fake = FakeSlurm(squeue=UNKNOWN)
        assert SlurmScheduler(fake).poll(["999999", "4_1"]) == {}

    def test_what_is_no_id(self) -> None:
        fake = FakeSlurm()
        assert SlurmScheduler(fake).poll(["x", "", "1;rm", "-1", "12_x"]) == {}
        assert {option(call, "clusters") for call in fake.calls} == {"rm"}

    @pytest.mark.parametrize(
        "answer",
        [
            completed(stderr=captured.SQUEUE_DOWN, code=1),
            completed(stderr="squeue: error: something else", code=2),
            TimeoutError("squeue did not end within 60 s"),
            FileNotFoundError("squeue"),
        ],
    )
    def test_no_answer(self, answer: Any) -> None:
        with pytest.raises(SchedulerUnavailable):
            SlurmScheduler(FakeSlurm(squeue=answer)).poll(["12"])

    def test_many_jobs_are_few_commands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As few as the length of a command allows."""
        monkeypatch.setattr(slurm_status, "LINE", 1000)
        names = [str(number) for number in range(1000, 1500)]
        fake = FakeSlurm(squeue="".join(f"{name}|FAILED|3:0|1:00|0|n1|None\n" for name in names))
        assert len(SlurmScheduler(fake).poll(names)) == 500
        asked = [option(call, "jobs") for call in fake.calls]
        assert ",".join(asked) == ",".join(names)
        assert max(map(len, asked)) <= 1000
        assert len(asked) == 3

    def test_a_large_array_is_one_id(self) -> None:
        fake = FakeSlurm(squeue="7_[0-9999%50]|PENDING|0|1:00|0|n/a|Priority\n")
        assert len(SlurmScheduler(fake).poll([f"7_{index}" for index in range(10_000)])) == 10_000
        [argv] = fake.calls
        assert option(argv, "jobs") == "7"

    def test_each_cluster_is_asked_for_its_own(self) -> None:
        fake = FakeSlurm(
            squeue=[
                "12|RUNNING|0|1:00|0|n1|None\n",
                "12_3|PENDING|0|1:00|0|n/a|Priority\n",
            ]
        )
        found = SlurmScheduler(fake).poll(["12", "12_3;far"])
        assert {job: status.state for job, status in found.items()} == {
            "12": JobState.RUNNING,
            "12_3;far": JobState.PENDING,
        }
        assert not [word for word in fake.calls[0] if word.startswith("--clusters")]
        assert option(fake.calls[1], "clusters") == "far"


class TestSharing:
    def test_all_executors_of_a_process_ask_together(self) -> None:
        fake = FakeSlurm(squeue=captured.QUEUE)
        first, second = SlurmScheduler(fake), SlurmScheduler(fake)
        first.poll(["120"], 9.0)
        second.poll(["121"], 9.0)
        assert first.poll(["120"], 9.0)["120"].state is JobState.RUNNING
        assert second.poll(["121", "120"], 9.0).keys() == {"120", "121"}
        assert [option(call, "jobs") for call in fake.calls] == ["120", "120,121"]

    def test_but_not_those_of_another_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fake = FakeSlurm(squeue=captured.QUEUE)
        monkeypatch.setenv("SLURM_CONF", "/one")
        first = SlurmScheduler(fake)
        first.poll(["120"], 9.0)
        monkeypatch.setenv("SLURM_CONF", "/other")
        SlurmScheduler(fake).poll(["120"], 9.0)
        first.poll(["120;far"], 9.0)
        assert len(fake.calls) == 3

    def test_nor_a_forked_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its parent may have been asking when it was forked, and it would wait for that answer for ever."""
        fake = FakeSlurm(squeue=captured.QUEUE)
        parent = slurm._shared_poller(fake, "")
        assert slurm._shared_poller(fake, "") is parent
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert slurm._shared_poller(fake, "") is not parent


# ---- the rest -----------------------------------------------------------------------------------


class TestCancel:
    def test_many_at_once(self) -> None:
        fake = FakeSlurm()
        SlurmScheduler(fake).cancel(["12_0", "12_1", "12_2", "12_7", "13_4", "14", "x", "12_1"])
        assert fake.calls == [["scancel", "--quiet", "12_[0-2,7]", "13_4", "14"]]

    def test_on_several_clusters(self) -> None:
        fake = FakeSlurm()
        SlurmScheduler(fake).cancel(["12_0;far", "12_1", "12_1;far"])
        assert fake.calls == [
            ["scancel", "--clusters=far", "--quiet", "12_[0-1]"],
            ["scancel", "--quiet", "12_1"],
        ]

    def test_nothing(self) -> None:
        fake = FakeSlurm()
        SlurmScheduler(fake).cancel([])
        assert fake.calls == []

    def test_very_many(self) -> None:
        fake = FakeSlurm()
        SlurmScheduler(fake).cancel([str(number) for number in range(100_000, 120_000)])
        assert len(fake.calls) == 2
        assert sum(len(call) - 2 for call in fake.calls) == 20_000

    def test_a_refusal_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        stderr = "scancel: error: Kill job error on job id 12: Access/permission denied"
        SlurmScheduler(FakeSlurm(scancel=completed(stderr=stderr, code=1))).cancel(["12"])
        assert "permission denied" in caplog.text

    @pytest.mark.parametrize(
        "answer", [completed(stderr=captured.SCANCEL_DOWN, code=8), TimeoutError("slow")]
    )
    def test_no_answer(self, answer: Any) -> None:
        with pytest.raises(SchedulerUnavailable):
            SlurmScheduler(FakeSlurm(scancel=answer)).cancel(["12"])


class TestThrottle:
    def test_it_is_the_arrays(self) -> None:
        fake = FakeSlurm()
        scheduler = SlurmScheduler(fake)
        assert scheduler.throttles
        scheduler.throttle("12_3", 4)
        scheduler.throttle("12_3;far", 5)
        scheduler.throttle("12", 6)
        assert fake.calls == [
            ["scontrol", "update", "JobId=12", "ArrayTaskThrottle=4"],
            ["scontrol", "--clusters=far", "update", "JobId=12", "ArrayTaskThrottle=5"],
        ]

    def test_without_arrays(self) -> None:
        assert not SlurmScheduler(FakeSlurm(), arrays=False).throttles

    def test_a_refusal_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        answer = completed(stderr="slurm_update error: Access/permission denied", code=1)
        SlurmScheduler(FakeSlurm(scontrol=answer)).throttle("12_3", 4)
        assert "permission denied" in caplog.text

    def test_that_some_have_finished_is_none(self, caplog: pytest.LogCaptureFixture) -> None:
        answer = completed(stderr="12_0: Job has already finished\n12_1-6: No error", code=1)
        SlurmScheduler(FakeSlurm(scontrol=answer)).throttle("12_3", 4)
        assert not caplog.text


class TestShowing:
    def test_explain(self, tmp_path: Path) -> None:
        """The words can be pasted, the script is what would run; and nothing is done."""
        fake = FakeSlurm()
        wanted = request(tmp_path, 2, setup="module load gcc", resources={"mem": 1 << 30})
        text = SlurmScheduler(fake).explain(wanted)
        [submission] = slurm.submissions(wanted)
        assert submission.script == SlurmScheduler(fake).script(wanted)
        assert submission.script in text
        code = "sbatch() { printf '%s\\n' \"$@\"; }; " + text.splitlines()[1]
        pasted = subprocess.run(["bash", "-c", code], capture_output=True, check=True, timeout=30)
        assert pasted.stdout.decode().splitlines() == submission.argv[1:]
        assert fake.calls == []
        assert list(tmp_path.iterdir()) == []

    def test_explain_without_arrays(self, tmp_path: Path) -> None:
        text = SlurmScheduler(FakeSlurm(), arrays=False).explain(request(tmp_path, 3))
        assert text.count("#!/bin/bash") == 1
        assert "2 more" in text

    def test_asking_slurm(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=completed(stderr=captured.WILL_RUN))
        wanted = request(tmp_path, 3)
        told = SlurmScheduler(fake).test_only(wanted)
        assert told.startswith("Job 32 to start at 2026-11-21T13:30:10")
        [submission] = slurm.submissions(wanted)
        assert fake.calls == [[*submission.argv[:-1], "--test-only"]]
        assert fake.inputs == [submission.script]
        assert list(tmp_path.iterdir()) == []

    def test_and_it_would_be_refused(self, tmp_path: Path) -> None:
        fake = FakeSlurm(sbatch=completed(stderr=captured.REFUSED_TEST, code=1))
        with pytest.raises(SubmissionError, match="Invalid feature"):
            SlurmScheduler(fake).test_only(request(tmp_path))


class TestMaxArray:
    @pytest.mark.parametrize(
        ("config", "limit"),
        [
            (captured.CONFIG, 10001),
            (captured.CONFIG.replace("bf_interval=1", "max_array_tasks=500,bf_interval=1"), 500),
            (captured.CONFIG.replace("10001", "0"), slurm.DEFAULT_MAX_ARRAY),
        ],
    )
    def test_it_is_asked_once(self, config: str, limit: int) -> None:
        fake = FakeSlurm(scontrol=config)
        scheduler = SlurmScheduler(fake)
        assert scheduler.max_array == limit
        assert fake.calls[0] == ["scontrol", "show", "config"]

    def test_once(self) -> None:
        fake = FakeSlurm(scontrol=captured.CONFIG)
        scheduler = SlurmScheduler(fake)
        assert [scheduler.max_array, scheduler.max_array] == [10001, 10001]
        assert len(fake.calls) == 1

    def test_without_arrays_there_is_no_limit(self) -> None:
        fake = FakeSlurm()
        assert SlurmScheduler(fake, arrays=False).max_array == sys.maxsize
        assert fake.calls == []

    def test_no_answer(self) -> None:
        fake = FakeSlurm(scontrol=[completed(stderr=captured.SQUEUE_DOWN, code=1), captured.CONFIG])
        scheduler = SlurmScheduler(fake)
        assert [scheduler.max_array, scheduler.max_array] == [slurm.DEFAULT_MAX_ARRAY, 10001]


@pytest.fixture(autouse=True)
def quiet_words(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Each test meets unknown words for the first time."""
    monkeypatch.setattr(slurm_status, "_unknown", set())
    caplog.set_level(logging.WARNING, logger="clusterfutures")


def test_it_runs_real_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in on PATH: what reaches a program is what was meant."""
    told = tmp_path / "told"
    code = f"with open({str(told)!r}, 'w') as file: print(sys.argv[1:], file=file)"
    stand_in = tmp_path / "sbatch"
    stand_in.write_text(f"#!{sys.executable}\nimport sys\n{code}\nprint(42)\n")
    stand_in.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    name = "a 'b' \"c\" $HOME `id` \n ü世"
    assert SlurmScheduler().submit(request(tmp_path, name=name)) == ["42"]
    [submission] = slurm.submissions(request(tmp_path, name=name))
    assert told.read_text() == f"{submission.argv[1:]}\n"
