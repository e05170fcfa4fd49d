"""What all schedulers with commands share: commands run, batch scripts written, questions asked together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterfutures.errors import OptionError, SchedulerUnavailable
from clusterfutures.notices import VARIABLE
from clusterfutures.schedulers import command, poller, script
from clusterfutures.schedulers.base import INDEX, JOB_ID, RESTART, JobRequest, JobStatus
from clusterfutures.schedulers.poller import SharedPoller
from clusterfutures.states import JobState
from tests.support import wait_until

HOSTILE = "a 'b' \"c\" $HOME `id` ; exit 1 \\ \r\n\t\x01\x7f * {index} {index ü世 \udcff %j"
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))"

pytestmark = pytest.mark.usefixtures("no_process_left")


class TestRun:
    def test_how_it_ends(self) -> None:
        code = "import sys; print(sys.stdin.read()); print('e', file=sys.stderr); sys.exit(3)"
        done = command.run([sys.executable, "-c", code], stdin="ü\udcff")
        assert done == (3, "ü\udcff\n", "e\n")

    def test_what_is_no_text_is_kept(self) -> None:
        done = command.run([sys.executable, "-c", "import os; os.write(1, b'\\xff\\xc3\\xbc')"])
        assert done.stdout.encode("utf-8", "surrogateescape") == b"\xff\xc3\xbc"

    def test_its_input_need_not_be_read(self) -> None:
        assert command.run(["true"], stdin="x" * 1_000_000).code == 0

    def test_a_program_that_is_missing(self) -> None:
        with pytest.raises(FileNotFoundError, match="no-such-command"):
            command.run(["no-such-command"])

    def test_the_environment_replaces_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CF_OURS", "1")
        code = "import os; print(os.environ.get('CF_OURS'), os.environ.get('CF_OTHER'))"
        argv = [sys.executable, "-c", code]
        assert command.run(argv).stdout == "1 None\n"
        assert command.run(argv, environment={"CF_OTHER": "2"}).stdout == "None 2\n"

    def test_ctrl_c_in_the_terminal_is_not_for_it(self) -> None:
        code = "import os; print(os.getsid(0) == os.getpid())"
        assert command.run([sys.executable, "-c", code]).stdout == "True\n"

    def test_it_is_given_a_time(self, tmp_path: Path) -> None:
        """What it has started in turn goes, too: commands are wrapped in scripts at many sites."""
        with pytest.raises(TimeoutError, match=r"sh did not end within 0\.5 s"):
            command.run(["sh", "-c", "sleep 600 & sleep 600"], timeout=0.5)

    def test_a_leader_that_is_gone_and_a_child_that_holds_its_output(self) -> None:
        with pytest.raises(TimeoutError):
            command.run(["sh", "-c", "sleep 600 & exit 0"], timeout=0.5)

    def test_an_interrupted_wait_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*args: object) -> object:
            raise KeyboardInterrupt

        monkeypatch.setattr(subprocess.Popen, "communicate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            command.run(["sleep", "600"])


def request(directory: Path, argv: list[str], **changes: object) -> JobRequest:
    base = JobRequest(
        job=3,
        name="name",
        argv=argv,
        elements=1,
        script=str(directory / "job.sh"),
        log=str(directory / f"{INDEX}.log"),
        cwd=None,
        environment={},
        setup="",
        resources={},
        tag="run7",
    )
    return base._replace(**changes)  # type: ignore[arg-type]


VARIABLES = script.Variables("$CF_TEST_INDEX", "${CF_TEST_RESTART:-0}", "12_$CF_TEST_INDEX")


class Ended:
    """A script that was run by bash as the element 4."""

    def __init__(self, directory: Path, text: str, **environment: str) -> None:
        path = directory / "job.sh"
        path.write_bytes(os.fsencode(text))
        path.chmod(0o700)
        environ = {**os.environ, "CF_TEST_INDEX": "4", **environment}
        done = subprocess.run([path], env=environ, capture_output=True, check=False, timeout=30)
        self.code = done.returncode
        self.out, self.err = (os.fsdecode(data) for data in (done.stdout, done.stderr))

    @property
    def told(self) -> tuple[list[str], dict[str, str], str]:
        words, environ, cwd = json.loads(self.out.splitlines()[-1])
        return words, environ, cwd


class TestScript:
    def test_words_arrive_as_given(self, hostile_tmp_path: Path) -> None:
        words = [HOSTILE, "", "-c", "--", "$@", "*", f"x{INDEX}", INDEX, RESTART, JOB_ID]
        text = script.render(
            request(hostile_tmp_path, [sys.executable, "-c", TELL, *words], cwd=str(hostile_tmp_path)),
            VARIABLES,
            None,
        )
        ended = Ended(hostile_tmp_path, text)
        assert (ended.code, ended.err) == (0, "")
        assert ended.told[0] == [*words[:-3], "4", "0", "12_4"]
        assert ended.told[2] == str(hostile_tmp_path)

    def test_where_the_scheduler_writes_to_the_job(self, tmp_path: Path) -> None:
        """To what was standard error before the script made that its log."""
        wanted = request(tmp_path, ["bash", "-c", f"echo by us; echo by the scheduler >>${VARIABLE}"])
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, wanted.log, notices=True))
        assert (ended.code, ended.err) == (0, "by the scheduler\n")
        assert (tmp_path / "4.log").read_text() == "by us\n"

    def test_sbatch_takes_it(self, tmp_path: Path) -> None:
        """It refuses scripts with DOS line ends or NUL in them, wherever these are."""
        hostile = request(
            tmp_path,
            [HOSTILE],
            script=f"/a\r\nb/{HOSTILE}",
            cwd=HOSTILE,
            environment={"A": HOSTILE},
            tag="\r\n",
        )
        text = script.render(hostile, VARIABLES, f"/x\r\n/{INDEX}")
        assert "\r" not in text
        assert "\0" not in text
        assert text.startswith("#!/bin/bash\n")
        assert not [line for line in text.splitlines() if line.startswith("#SBATCH")]

    def test_the_environment(self, tmp_path: Path) -> None:
        changes = {"CF_NEW": HOSTILE, "CF_EMPTY": "", "CF_GONE": None, "CF_NEVER": None}
        wanted = request(tmp_path, [sys.executable, "-c", TELL], environment=changes)
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None), CF_GONE="x", CF_KEPT="y")
        environ = ended.told[1]
        assert (environ["CF_NEW"], environ["CF_EMPTY"], environ["CF_KEPT"]) == (HOSTILE, "", "y")
        assert "CF_GONE" not in environ
        assert "CF_NEVER" not in environ
        assert not [name for name in environ if name.startswith("cf_")], "its own variables are not passed on"

    @pytest.mark.parametrize("name", ["A B", "1A", "A-B", "a\nb", "ü", "f()"])
    def test_a_variable_that_no_shell_can_set(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(OptionError, match="env"):
            script.render(request(tmp_path, ["true"], environment={name: "1"}), VARIABLES, None)

    def test_setup_lines_see_the_environment_and_come_first(self, tmp_path: Path) -> None:
        wanted = request(
            tmp_path,
            [sys.executable, "-c", TELL],
            environment={"CF_A": "1"},
            setup='# a comment\nexport CF_B="$CF_A$#"\ncd /',
        )
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None))
        assert ended.told[1]["CF_B"] == "10", "and no arguments, which `source` would hand on"
        assert ended.told[2] == "/"

    def test_a_failing_setup_line_ends_it(self, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["echo", "not reached"], setup="echo begun\n(exit 5)\necho nor this")
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None))
        assert (ended.code, ended.out) == (5, "begun\n")

    def test_the_supervisor_takes_its_place(self, tmp_path: Path) -> None:
        code = "import os; print(os.getpid())"
        wanted = request(tmp_path, [sys.executable, "-c", code], setup="echo $$")
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None))
        before, after = ended.out.split()
        assert before == after

    def test_a_run_directory_that_the_node_does_not_see(self, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["true"], script=f"/nowhere/{HOSTILE}/job.sh")
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None))
        assert ended.code == script.NO_RUN_DIRECTORY
        assert f"does not see the run directory /nowhere/{HOSTILE} (" in ended.err
        assert script.NO_RUN_DIRECTORY in script.EXIT_CODES

    def test_a_working_directory_that_the_node_does_not_see(self, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["true"], cwd="/nowhere")
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, None))
        assert ended.code == script.NO_WORKING_DIRECTORY
        assert "does not see the working directory /nowhere (" in ended.err
        assert script.NO_WORKING_DIRECTORY in script.EXIT_CODES

    def test_an_interpreter_that_is_missing(self, tmp_path: Path) -> None:
        ended = Ended(tmp_path, script.render(request(tmp_path, ["/nowhere/python3"]), VARIABLES, None))
        assert ended.code == 127
        assert "/nowhere/python3" in ended.err

    def test_a_log_of_its_own(self, hostile_tmp_path: Path) -> None:
        """The index stands where the name has it last: the directory may be called so, too."""
        directory = hostile_tmp_path / INDEX
        directory.mkdir()
        wanted = request(hostile_tmp_path, ["sh", "-c", "echo out; echo err >&2"])
        log = str(directory / f"a-{INDEX}.log")
        for _ in range(2):
            ended = Ended(hostile_tmp_path, script.render(wanted, VARIABLES, log))
            assert (ended.code, ended.out, ended.err) == (0, "", "")
        assert (directory / "a-4.log").read_text() == 2 * "out\nerr\n", "appended: the job may come again"

    def test_a_log_that_cannot_be_opened(self, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["echo", "not reached"])
        ended = Ended(tmp_path, script.render(wanted, VARIABLES, "/nowhere/at/all.log"))
        assert (ended.code, ended.out) == (script.NO_RUN_DIRECTORY, "")
        assert "/nowhere/at/all.log" in ended.err

    def test_a_log_without_an_index(self, tmp_path: Path) -> None:
        wanted = request(tmp_path, ["echo", "out"])
        Ended(tmp_path, script.render(wanted, VARIABLES, str(tmp_path / "log")))
        assert (tmp_path / "log").read_text() == "out\n"


RUNNING = JobStatus(JobState.RUNNING)
ENDED = JobStatus(JobState.COMPLETED, exit_code=0)


class Clock:
    """Stands for the module `time`, and can be wound."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(poller, "time", clock)
    return clock


class Asked:
    """What was asked, and the answers: all that nothing else is said of run."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.answers: dict[str, JobStatus] = {}
        self.unknown: set[str] = set()
        self.error: Exception | None = None

    def __call__(self, ids: list[str]) -> dict[str, JobStatus]:
        self.questions.append(ids)
        if self.error is not None:
            raise self.error
        return {job: self.answers.get(job, RUNNING) for job in ids if job not in self.unknown}


class TestSharedPoller:
    def test_one_question_for_all(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        assert shared.poll(["1"], 9.0) == {"1": RUNNING}
        assert shared.poll(["2", "3"], 9.0) == {"2": RUNNING, "3": RUNNING}
        assert ask.questions == [["1"], ["1", "2", "3"]], "a new job is asked for, with all the others"
        for later in range(1, 9):
            clock.now = 1000.0 + later
            assert shared.poll(["1"], 9.0) == {"1": RUNNING}
            assert set(shared.poll(["2", "3"], 9.0)) == {"2", "3"}
        assert len(ask.questions) == 2
        clock.now = 1009.5
        shared.poll(["1"], 9.0)
        shared.poll(["2", "3"], 9.0)
        assert ask.questions[2:] == [["1", "2", "3"]]

    def test_who_is_in_a_hurry_gets_a_fresh_answer_but_not_a_hundred(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        shared.poll(["1"], 60.0)
        clock.now += poller.LEAST_AGE / 2
        shared.poll(["1"], 0.0)
        assert len(ask.questions) == 1
        clock.now += poller.LEAST_AGE
        shared.poll(["1"], 0.0)
        assert len(ask.questions) == 2

    def test_what_has_ended_is_not_asked_for_again(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        ask.answers["1"] = ENDED
        shared.poll(["1", "2"], 9.0)
        clock.now += 10
        assert shared.poll(["1", "2"], 9.0) == {"1": ENDED, "2": RUNNING}
        assert ask.questions[-1] == ["2"]
        clock.now += 10
        assert shared.poll(["1"], 9.0) == {"1": ENDED}
        assert len(ask.questions) == 2

    def test_what_nobody_knows_is_asked_for_again(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        ask.unknown.add("1")
        assert shared.poll(["1"], 9.0) == {}
        clock.now += 1
        assert shared.poll(["1"], 9.0) == {}
        assert len(ask.questions) == 1
        clock.now += 10
        ask.unknown.clear()
        assert shared.poll(["1"], 9.0) == {"1": RUNNING}

    def test_what_nobody_asks_for_is_forgotten(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        ask.answers["2"] = ENDED
        shared.poll(["1", "2"], 9.0)
        clock.now += poller.FORGET + 1
        shared.poll(["3"], 9.0)
        assert ask.questions[-1] == ["3"]
        assert shared._known.keys() == shared._wanted.keys() == {"3"}

    def test_time_goes_on_since_the_answer(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        ask.answers["1"] = RUNNING._replace(time_left=100.0)
        assert shared.poll(["1"], 200.0)["1"].time_left == 100.0
        clock.now += 30
        assert shared.poll(["1"], 200.0)["1"].time_left == 70.0
        clock.now += 80
        assert shared.poll(["1"], 200.0)["1"].time_left == 0.0

    def test_nothing_is_asked_for_nothing(self) -> None:
        ask = Asked()
        assert SharedPoller(ask).poll([], 0.0) == {}
        assert ask.questions == []

    def test_a_failure_is_everybodys(self, clock: Clock) -> None:
        """A scheduler that is down is not asked more often than one that is up."""
        ask = Asked()
        shared = SharedPoller(ask)
        ask.answers["2"] = ENDED
        shared.poll(["1", "2"], 9.0)
        clock.now += 10
        ask.error = SchedulerUnavailable("down")
        errors = []
        for _ in range(3):
            with pytest.raises(SchedulerUnavailable, match="down") as caught:
                shared.poll(["1"], 9.0)
            errors.append(caught.value)
        assert len(ask.questions) == 2
        assert errors[1] is not errors[2]
        assert shared.poll(["2"], 9.0) == {"2": ENDED}, "what is known stays known"
        clock.now += 10
        ask.error = None
        assert shared.poll(["1"], 9.0) == {"1": RUNNING}

    def test_a_bug_is_not_kept_as_an_answer(self, clock: Clock) -> None:
        ask = Asked()
        shared = SharedPoller(ask)
        ask.error = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            shared.poll(["1"], 9.0)
        ask.error = None
        assert shared.poll(["1"], 9.0) == {"1": RUNNING}

    def test_threads_wait_for_the_question_that_is_under_way(self) -> None:
        asked, answer = threading.Event(), threading.Event()
        questions = []

        def ask(ids: list[str]) -> dict[str, JobStatus]:
            questions.append(ids)
            asked.set()
            assert answer.wait(30)
            return dict.fromkeys(ids, RUNNING)

        shared = SharedPoller(ask)
        found: list[dict[str, JobStatus]] = []
        threads = [start(lambda: found.append(shared.poll(["1"], 60.0)))]
        assert asked.wait(30)
        threads += [start(lambda: found.append(shared.poll(["1"], 60.0))) for _ in range(3)]
        wait_until(lambda: all(thread.is_alive() for thread in threads))
        answer.set()
        for thread in threads:
            thread.join(30)
        assert found == 4 * [{"1": RUNNING}]
        assert questions == [["1"]]


def start(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
