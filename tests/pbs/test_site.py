"""The stand-ins: they answer as real servers have answered, really run jobs, and leave no trace."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional
from xml.etree import ElementTree as ET

import pytest

from tests.pbs import DIALECTS, Site, captured, require, shared
from tests.pbs.captured import alike
from tests.pbs.jobs import Job, Request, State
from tests.pbs.qstat import full_text
from tests.support import REPOSITORY, check_no_process_left, run_command, wait_until

pytestmark = pytest.mark.long

USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(pwd.getpwuid(os.getuid()).pw_gid).gr_name


@pytest.fixture(autouse=True)
def _on_linux() -> None:
    require()


@pytest.fixture(params=DIALECTS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The shared site of each dialect, without jobs afterwards."""
    yield from cleared(request.param)


@pytest.fixture
def torque() -> Iterator[Site]:
    """One on which nothing has run, so that the numbers of jobs are as short as those of the captures."""
    with Site("torque") as site:
        yield site


@pytest.fixture
def openpbs() -> Iterator[Site]:
    """The same."""
    with Site("openpbs") as site:
        yield site


def cleared(dialect: str) -> Iterator[Site]:
    site = shared(dialect)
    yield site
    site.cancel_all()
    site.idle()


def of(dialect: str, torque: Any, openpbs: Any) -> Any:
    """What holds for a dialect."""
    return {"torque": torque, "openpbs": openpbs}[dialect]


def array(site: Site, indices: str) -> tuple[str, str]:
    """The options that make an array."""
    return of(site.dialect, "-t", "-J"), indices


def element(job_id: str, index: int) -> str:
    return job_id.replace("[]", f"[{index}]")


def look(site: Site, job_id: str) -> dict[str, Any]:
    """What qstat shows of a job."""
    if site.dialect == "torque":
        job = ET.fromstring(site.query("qstat", "-t", "-x", job_id)).find("Job")
        assert job is not None
        return {part.tag: {sub.tag: sub.text for sub in part} or part.text for part in job}
    document = json.loads(site.query("qstat", "-x", "-f", "-F", "json", job_id))
    found: dict[str, Any] = document["Jobs"][job_id]
    return found


def exit_status(site: Site, job_id: str) -> Optional[int]:
    """How a job ended, waited for."""
    site.wait_state(job_id, "F")
    status = look(site, job_id).get(of(site.dialect, "exit_status", "Exit_status"))
    return None if status is None else int(status)


def begun(path: Path) -> None:
    """Wait for a file that a job makes."""
    wait_until(path.exists, describe=f"{path.name}")


def alive(*pids: Path) -> list[str]:
    """Those of the processes, whose numbers are in files, that run."""
    found = []
    for path in pids:
        try:
            status = Path("/proc", path.read_text().strip(), "stat").read_text()
        except FileNotFoundError:
            continue
        if status.rpartition(")")[2].split()[0] != "Z":
            found.append(path.name)
    return found


def traces(directory: Path) -> list[str]:
    """What still shows that there was a site in `directory`: files, processes."""
    found = [str(directory)] if directory.exists() else []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            texts += [os.fsencode(os.readlink(entry)) for entry in (process / "fd").iterdir()]
        except OSError:  # it has just ended
            continue
        if process.name != str(os.getpid()) and any(bytes(directory) in text for text in texts):
            found.append(f"{process.name} {texts[0]!r}")
    return found


# ---- as captured --------------------------------------------------------------------------------


class Session:
    """The commands of the captures, as the same user in the same place."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self._directory = directory
        self._environ = {
            "HOME": "/home/user",
            "LOGNAME": "user",
            "MAIL": "/var/mail/user",
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            **site.environ,
        }
        for name, line in {"fail3": "sleep 1; exit 3", "arr": 'exit "$1"', "sleep60": "sleep 60"}.items():
            text = line.replace("$1", of(site.dialect, "$PBS_ARRAYID", "$PBS_ARRAY_INDEX"))
            (directory / f"{name}.sh").write_text(f"#!/bin/bash\n{text}\n")

    def query(self, *argv: str) -> str:
        return self.site.query(*argv, cwd=self._directory, env=self._environ)

    def answer(self, *argv: str) -> str:
        """The same in the form of the captures."""
        names = {
            str(self._directory): "/home/user/w",
            f"{self.site.directory}/home": "/home/user",
            f"{USER:<12}": f"{'user':<12}",
            USER: "user",
            GROUP: "user",
        }
        return alike(self.query(*argv) + "\n", names)


def test_torque_answers_as_captured(torque: Site, tmp_path: Path) -> None:
    session = Session(torque, tmp_path)
    running = session.query("qsub", "-N", "one", "sleep60.sh")
    torque.wait_state(running, "R")
    shown = re.sub("<resources_used>.*</resources_used>", "", session.answer("qstat", "-x", running))
    assert shown == alike(captured.TORQUE_RUNNING, {}).replace("fail3", "sleep60")
    one = session.query("qsub", "-N", "one", "fail3.sh")
    many = session.query("qsub", "-N", "arr", "-t", "0-3", "arr.sh")
    held = session.query("qsub", "-h", "-N", "held", "fail3.sh")
    session.query("qdel", held)
    for job_id in (one, many):
        torque.wait_state(job_id, "F")
    assert session.answer("qstat", "-x", one) == alike(captured.TORQUE_FINISHED, {})
    assert session.answer("qstat", "-x", element(many, 1)) == alike(captured.TORQUE_ELEMENT, {})
    assert session.answer("qstat", "-x", held) == alike(captured.TORQUE_HELD_AND_DELETED, {})
    assert session.answer("qstat", "-t", one, many, held) == alike(captured.TORQUE_TABLE, {})


def test_openpbs_answers_as_captured(openpbs: Site, tmp_path: Path) -> None:
    session = Session(openpbs, tmp_path)
    query = ["qstat", "-x", "-f", "-F", "json"]
    deleted = session.query("qsub", "-N", "one", "sleep60.sh")
    shown = re.sub(r'\t+"resources_used":\t{[^}]*},\n', "", session.answer(*query, deleted))
    assert shown.replace(":\t42", ":\t41") == alike(captured.OPENPBS_RUNNING, {}).replace("fail3", "sleep60")
    one = session.query("qsub", "-N", "one", "fail3.sh")
    many = session.query("qsub", "-N", "arr", "-J", "0-3", "arr.sh")
    session.query("qdel", deleted)
    for job_id in (one, many, deleted):
        openpbs.wait_state(job_id, "F")
    last = look(openpbs, many)["Exit_status"]  # which element ended last is chance
    expected = captured.OPENPBS_ARRAY.replace('"Exit_status":\t1', f'"Exit_status":\t{last}')
    if not last:
        expected = expected.replace("and failed", "and finished").replace(
            '"substate":\t93', '"substate":\t92'
        )
    assert session.answer(*query, one) == alike(captured.OPENPBS_FINISHED, {})
    assert session.answer(*query, many) == alike(expected, {})
    assert session.answer(*query, element(many, 1)) == alike(captured.OPENPBS_ELEMENT, {})
    text = openpbs.run("qstat", "-x", "-f", deleted).stdout
    assert attributes(text).keys() == attributes(captured.OPENPBS_DELETED_TEXT).keys()


def test_text_is_broken_as_captured() -> None:
    assert full_text("Job Id: 80.head", attributes(captured.OPENPBS_DELETED_TEXT)) == (
        captured.OPENPBS_DELETED_TEXT
    )


def attributes(text: str) -> dict[str, str]:
    """The attributes of one job in what ``qstat -f`` prints."""
    lines = text.replace("\n\t", "").splitlines()[1:]
    return dict(line.strip().split(" = ", 1) for line in lines if line)


MALFORMED = {
    ("torque", "queue"): (172, "qsub: submit error (Unknown queue MSG=requested queue not found)"),
    ("torque", "resource"): (189, "qsub: submit error (Unknown resource type  Resource_List.foo)"),
    ("torque", "memory"): (
        168,
        "qsub: submit error (Illegal attribute or resource value for Resource_List.mem)",
    ),
    ("openpbs", "queue"): (170, "qsub: Unknown queue"),
    ("openpbs", "resource"): (187, "qsub: Unknown resource Resource_List.foo"),
    ("openpbs", "memory"): (166, "qsub: Illegal attribute or resource value Resource_List.mem"),
}


@pytest.mark.parametrize(
    ("what", "options"),
    [("queue", ["-q", "nope"]), ("resource", ["-l", "foo=1"]), ("memory", ["-l", "mem=lots"])],
)
def test_what_cannot_be_is_refused(site: Site, what: str, options: list[str]) -> None:
    done = site.run("qsub", *options, input="true")
    assert (done.returncode, done.stderr.strip()) == MALFORMED[site.dialect, what]


def test_queues_and_servers(site: Site) -> None:
    queue = of(site.dialect, "batch", "workq")
    assert site.query("qstat", "-Q", queue).splitlines()[-1].split()[:2] == [queue, "0"]
    done = site.run("qstat", "-Q", "nope")
    assert done.returncode == of(site.dialect, 172, 170)
    assert "Unknown queue" in done.stderr
    limits = [line for line in site.query("qstat", "-B", "-f").splitlines() if "array_size" in line]
    assert limits == of(site.dialect, [], ["    max_array_size = 10000"])


def test_jobs_that_do_not_exist(site: Site) -> None:
    qdel = of(site.dialect, "qdel: nonexistent job id: 99999", "qdel: Unknown Job Id 99999.head")
    qstat = of(site.dialect, "qstat: Unknown Job Id Error 99999.head", "qstat: Unknown Job Id 99999.head")
    for command, complaint in {"qdel": qdel, "qstat": qstat}.items():
        done = site.run(command, "99999")
        assert (done.returncode, done.stdout, done.stderr.strip()) == (153, "", complaint)


# ---- jobs ---------------------------------------------------------------------------------------


def test_a_job_finds_its_place_and_its_variables(site: Site, tmp_path: Path) -> None:
    script = 'pwd > "$PBS_O_WORKDIR/pwd"; cd "$PBS_O_WORKDIR"; env -0 > env; cat $PBS_NODEFILE > nodes'
    cores = of(site.dialect, "nodes=1:ppn=2", "select=1:ncpus=2")
    options = [*array(site, "4-5"), "-N", "its-name", "-l", cores, "-v", "GIVEN=value", "-o", "/dev/null"]
    job_id = site.query("qsub", *options, "-e", "/dev/null", input=script, cwd=tmp_path)
    site.wait_state(job_id, "F")
    found = dict(word.split("=", 1) for word in (tmp_path / "env").read_text().split("\0") if word)
    index = int(found[of(site.dialect, "PBS_ARRAYID", "PBS_ARRAY_INDEX")])
    assert index in (4, 5)
    assert found["PBS_JOBID"] == element(job_id, index)
    assert found["PBS_JOBNAME"] == of(site.dialect, f"its-name-{index}", "its-name")
    assert found["GIVEN"] == "value"
    assert found["HOME"] == (tmp_path / "pwd").read_text().strip() == str(site.directory / "home")
    assert str(site.directory) not in found["PATH"]
    assert (tmp_path / "nodes").read_text() == "localhost\nlocalhost\n"


@pytest.mark.parametrize(
    ("script", "torque", "openpbs"),
    [
        ("exit 3", 3, 3),
        ("kill -9 $$", 128 + 9, 256 + 9),
        ("exec /nowhere/python", 127, 127),
        ("trap 'exit 5' TERM; kill $$; sleep 9", 5, 5),
    ],
)
def test_how_jobs_end(site: Site, script: str, torque: int, openpbs: int) -> None:
    assert exit_status(site, site.submit(script)) == of(site.dialect, torque, openpbs)


def test_a_script_without_its_interpreter(site: Site) -> None:
    job_id = site.query("qsub", "-o", "/dev/null", "-e", "/dev/null", input="#!/nowhere/sh\ntrue\n")
    assert exit_status(site, job_id) == 127


def test_deleted_jobs(site: Site, tmp_path: Path) -> None:
    running, held = site.submit(f"touch '{tmp_path}/on'; sleep 60"), site.submit("true", "-h")
    begun(tmp_path / "on")
    site.query("qdel", running, held)
    assert exit_status(site, running) == 271
    assert exit_status(site, held) is None
    done = site.run("qdel", held)
    assert done.returncode == of(site.dialect, 170, 35)


def test_wall_time(site: Site, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    job_id = site.submit("sleep 60", "-l", "walltime=00:00:01", "-e", str(errors))
    assert exit_status(site, job_id) == of(site.dialect, -11, -29)
    assert re.fullmatch(r"=>> PBS: job killed: walltime \d+ exceeded limit 1\n", errors.read_text())


def test_memory(site: Site, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    script = f"exec {sys.executable} -S -c 'import time; much = bytearray(300 << 20); time.sleep(60)'"
    job_id = site.submit(script, "-l", "mem=100mb", "-e", str(errors))
    assert exit_status(site, job_id) == of(site.dialect, 1, -27)
    complaint = of(site.dialect, "MemoryError", "=>> PBS: job killed: mem")
    assert complaint in errors.read_text()


def test_a_job_that_does_not_want_to_end_is_killed(tmp_path: Path) -> None:
    with Site("openpbs", kill_delay=0.2) as site:
        job_id = site.submit(f"trap '' TERM; touch '{tmp_path}/on'; while :; do sleep 0.1; done")
        begun(tmp_path / "on")
        site.query("qdel", job_id)
        assert exit_status(site, job_id) == 256 + 9


def test_what_a_job_leaves_running(site: Site, tmp_path: Path) -> None:
    daemon = "setsid sh -c 'echo $$ > daemon; exec sleep 61' & until [ -s daemon ]; do sleep 0.05; done"
    job_id = site.submit(f"cd '{tmp_path}'; sleep 60 & echo $! > child; {daemon}")
    assert exit_status(site, job_id) == 0
    # OpenPBS knows processes by their session alone
    assert alive(tmp_path / "child", tmp_path / "daemon") == of(site.dialect, [], ["daemon"])
    for name in alive(tmp_path / "daemon"):
        os.kill(int((tmp_path / name).read_text()), 9)


def test_output_is_there_when_the_job_has_ended(site: Site, tmp_path: Path) -> None:
    job_id = site.query("qsub", "-N", "out", input="#!/bin/sh\necho yes; echo no >&2\n", cwd=tmp_path)
    number = job_id.partition(".")[0]
    site.wait_state(job_id, "F")
    assert (tmp_path / f"out.o{number}").read_text() == "yes\n"
    assert (tmp_path / f"out.e{number}").read_text() == "no\n"


def test_joined_output(site: Site, tmp_path: Path) -> None:
    job_id = site.query("qsub", "-j", "oe", "-o", f"head:{tmp_path}/both", input="echo yes; echo no >&2")
    site.wait_state(job_id, "F")
    assert (tmp_path / "both").read_text() == "yes\nno\n"


def test_output_that_cannot_be_delivered(site: Site, tmp_path: Path) -> None:
    job_id = site.submit("echo lost", "-o", str(tmp_path / "nowhere" / "file"))
    site.wait_state(job_id, "F")
    assert look(site, job_id)["resources_used"]["walltime"] >= "00:00:02"  # it was exiting for so long
    assert (site.directory / "undelivered" / f"{job_id}.OU").read_text() == "lost\n"


def test_directives_and_names_with_anything_in_them(site: Site, hostile_tmp_path: Path) -> None:
    (hostile_tmp_path / "job 'n'.sh").write_text(
        "#!/bin/sh\n#PBS -N named -l walltime=120\n\ntrue\n#PBS -N late\n"
    )
    options = ["-l", "walltime=60", "-e", "/dev/null"]
    job_id = site.query("qsub", *options, "job 'n'.sh", cwd=hostile_tmp_path)
    site.wait_state(job_id, "F")
    found = look(site, job_id)
    assert (found["Job_Name"], found["Resource_List"]["walltime"]) == ("named", "00:01:00")
    assert (hostile_tmp_path / f"named.o{job_id.partition('.')[0]}").exists()


# ---- the queue ----------------------------------------------------------------------------------


def test_jobs_wait_for_room(tmp_path: Path) -> None:
    with Site("openpbs", slots=2) as site:
        first = site.submit(f"until [ -e '{tmp_path}/go' ]; do sleep 0.05; done", "-l", "select=1:ncpus=2")
        second, never = site.submit("true"), site.submit("true", "-l", "select=1:ncpus=3")
        site.wait_state(first, "R")
        assert (site.states(second), site.states(never)) == (["Q"], ["Q"])
        assert look(site, never)["comment"].startswith(
            "Can Never Run: Insufficient amount of resource: ncpus"
        )
        (tmp_path / "go").touch()
        site.wait_state(second, "F")
        assert site.states(never) == ["Q"]


def test_a_throttle(site: Site, tmp_path: Path) -> None:
    script = f"until [ -e '{tmp_path}/go' ]; do sleep 0.05; done"
    job_id = site.submit(script, *array(site, "0-3%2"))
    wait_until(lambda: site.states(job_id).count("R") == 2)
    waiting = [look(site, element(job_id, index))["job_state"] for index in range(4)]
    assert waiting == of(site.dialect, ["R", "R", "H", "H"], ["R", "R", "Q", "Q"])
    site.query("qalter", *of(site.dialect, ("-t", "%3"), ("-W", "max_run_subjobs=3")), job_id)
    wait_until(lambda: site.states(job_id).count("R") == 3)
    (tmp_path / "go").touch()
    site.wait_state(job_id, "F")


def test_holds(site: Site) -> None:
    job_id = site.submit("exit 4", "-h")
    assert look(site, job_id)["job_state"] == "H"
    site.query("qrls", job_id)
    assert exit_status(site, job_id) == 4


def test_one_element_is_deleted(site: Site) -> None:
    job_id = site.submit("sleep 60", "-h", *array(site, "0-4"))
    if site.dialect == "torque":
        site.query("qdel", "-t", "1-2", job_id)
    else:
        site.query("qdel", element(job_id, 1), "".join([job_id.replace("[]", "[2-2]")]))
    assert site.states(job_id) == ["H", "F", "F", "H", "H"]


def test_dependencies(site: Site, tmp_path: Path) -> None:
    parents = [
        site.submit(f"until [ -e '{tmp_path}/go' ]; do sleep 0.05; done; exit {code}") for code in (0, 1)
    ]
    children = {
        (kind, code): site.submit(f"touch '{tmp_path}/{kind}{code}'", "-W", f"depend={kind}:{parents[code]}")
        for kind in ("afterok", "afternotok", "afterany")
        for code in (0, 1)
    }
    assert {state for job_id in children.values() for state in site.states(job_id)} == {"H"}
    (tmp_path / "go").touch()
    for job_id in children.values():
        site.wait_state(job_id, "F")
    ran = {path.name for path in tmp_path.iterdir()} - {"go"}
    assert ran == {"afterok0", "afternotok1", "afterany0", "afterany1"}
    assert exit_status(site, children["afterok", 1]) == of(site.dialect, 271, None)


def test_a_job_that_depends_on_nothing_known(site: Site) -> None:
    done = site.run("qsub", "-W", "depend=afterok:99999", input="true")
    if site.dialect == "torque":
        assert (done.returncode, done.stderr) == (208, "qsub: submit error (Invalid Job Dependency)\n")
    else:  # it is accepted, and removed at once
        assert exit_status(site, done.stdout.strip()) is None


def test_requeued_and_killed_jobs(site: Site, tmp_path: Path) -> None:
    job_id = site.submit(f"touch '{tmp_path}/on'; sleep 60")
    begun(tmp_path / "on")
    (tmp_path / "on").unlink()
    site.query("qrerun", job_id)
    begun(tmp_path / "on")
    assert int(look(site, job_id)[of(site.dialect, "start_count", "run_count")]) == 2
    site.kill_job(job_id)
    assert exit_status(site, job_id) == 256 + 9


# ---- traps --------------------------------------------------------------------------------------


def test_openpbs_prints_the_first_of_several(openpbs: Site) -> None:
    first, second = openpbs.submit("true", "-h"), openpbs.submit("true", "-h")
    found = json.loads(openpbs.query("qstat", "-f", "-F", "json", first, second))
    assert list(found["Jobs"]) == [first]
    assert f"Job Id: {second}" in openpbs.query("qstat", "-f", first, second)


def test_openpbs_takes_for_numbers_what_looks_so(openpbs: Site) -> None:
    job_id = openpbs.submit("true", "-h", "-N", "007", "-A", "1e3")
    text = openpbs.query("qstat", "-f", "-F", "json", job_id)
    assert '"Job_Name":\t7,' in text
    assert '"Account_Name":\t1000,' in text


def test_openpbs_has_a_history(openpbs: Site) -> None:
    job_id = openpbs.submit("true")
    openpbs.wait_state(job_id, "F")
    done = openpbs.run("qstat", "-f", "-F", "json", job_id)
    assert done.returncode == 35
    assert done.stderr == (
        f"qstat: {job_id} Job has finished, use -x or -H to obtain historical job information\n"
    )
    assert job_id not in json.loads(openpbs.query("qstat", "-f", "-F", "json")).get("Jobs", {})


def test_openpbs_may_have_no_history() -> None:
    with Site("openpbs", history=False) as site:
        job_id = site.submit("sleep 60")
        done = site.run("qstat", "-x", "-f", job_id)
        complaint = f"qstat: PBS is not configured to maintain job history {job_id}\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, "", complaint)
        site.query("qdel", job_id)
        wait_until(lambda: site.run("qstat", "-f", job_id).returncode == 153)


def test_elements_of_openpbs_until_their_array_ends(openpbs: Site, tmp_path: Path) -> None:
    script = f'[ $PBS_ARRAY_INDEX = 0 ] && exit 7; until [ -e "{tmp_path}/go" ]; do sleep 0.05; done; exit 0'
    job_id = openpbs.submit(script, "-J", "0-2%1")
    wait_until(lambda: openpbs.states(job_id)[:2] == ["F", "R"])
    found = json.loads(openpbs.query("qstat", "-t", "-f", "-F", "json", job_id))["Jobs"]
    states = [(job["job_state"], job.get("Exit_status")) for job in found.values()]
    # that of the last has not run, and shows the exit status of the array, which is that of the first
    assert states == [("B", 7), ("X", 7), ("R", None), ("Q", 7)]
    counted = found[job_id]["array_state_count"]
    assert counted == "Queued:1 Running:1 Exiting:0 Expired:1"
    (tmp_path / "go").touch()
    assert exit_status(openpbs, job_id) == 0  # whatever became of the first
    assert look(openpbs, element(job_id, 0))["job_state"] == "F"


def test_openpbs_deletes_nothing_with_a_large_held_array(openpbs: Site) -> None:
    large, small = openpbs.submit("true", "-h", "-J", "1-1000"), openpbs.submit("true", "-h")
    openpbs.query("qdel", large, small)
    assert set(openpbs.states(large) + openpbs.states(small)) == {"H"}
    openpbs.query("qdel", large)
    assert set(openpbs.states(large)) == {"F"}


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["-J", "5-5"], 2, "qsub: illegal -J value"),
        (["-N", "two words"], 2, "qsub: illegal -N value"),
        (["-l", "select=1:ncpus=1", "-l", "mem=1gb"], 5, '"-lresource=" cannot be used with "select"'),
        (["-l", "place=scatter"], 7, 'Cannot have "place" without "select"'),
        (["-l", "select=1:colour=blue"], 187, "Unknown resource: colour"),
        (["-W", "colour=blue"], 154, "Undefined attribute"),
        (["-J", "0-10000"], 3, "Array job exceeds server or queue size limit"),
    ],
)
def test_openpbs_refuses(openpbs: Site, options: list[str], code: int, complaint: str) -> None:
    done = openpbs.run("qsub", *options, input="true")
    assert done.returncode == code
    assert complaint in done.stderr


def test_torque_glues_documents_together(torque: Site) -> None:
    first, second = torque.submit("true", "-h"), torque.submit("true", "-h")
    text = torque.query("qstat", "-x", first, second)
    assert text.count("<?xml") == 2
    assert text.count("</Data><") == 0
    with pytest.raises(ET.ParseError):
        ET.fromstring(text)


def test_torque_lists_every_job_for_an_array(torque: Site) -> None:
    other, job_id = torque.submit("true", "-h"), torque.submit("true", "-h", "-t", "1,3-4")
    summary = re.findall("<Job_Id>(.*?)<", torque.query("qstat", "-x", job_id))
    assert set(summary) >= {other, job_id}
    assert re.findall("<Job_Id>(.*?)<", torque.query("qstat", "-t", "-x", job_id)) == [
        element(job_id, index) for index in (1, 3, 4)
    ]


def test_torque_says_nothing_of_no_jobs() -> None:
    with Site("torque", keep=0.0) as site:
        assert site.run("qstat", "-x").stdout == ""
        job_id = site.submit("true")
        wait_until(lambda: site.run("qstat", "-x", job_id).returncode == 153)
        assert site.run("qstat", "-x").stdout == ""


def test_torque_is_jammed_by_a_very_large_array(tmp_path: Path) -> None:
    with Site("torque") as site:
        site.submit("true", "-h", "-t", "1-10000")
        assert site.run("qstat", "-x").stdout
        site.submit("true", "-h", "-t", "1-10001")
        with pytest.raises(subprocess.TimeoutExpired):
            site.run("qstat", "-x", timeout=0.5)


def test_torque_has_dependencies_on_arrays(torque: Site, tmp_path: Path) -> None:
    job_id = torque.submit("exit $PBS_ARRAYID", "-h", "-t", "0-1")
    kinds = ("afterokarray", "afteranyarray", "afterok")
    children = {kind: torque.submit("true", "-W", f"depend={kind}:{job_id}") for kind in kinds}
    torque.query("qrls", job_id)
    found = {kind: exit_status(torque, child) for kind, child in children.items()}
    assert found == {"afterokarray": 271, "afteranyarray": 0, "afterok": 0}  # the array itself has no status
    parents = re.findall("<Job>.*?</Job>", torque.query("qstat", "-x"))
    (parent,) = [text for text in parents if f"<Job_Id>{job_id}<" in text]
    assert "<job_state>C<" in parent
    assert "exit_status" not in parent


@pytest.mark.parametrize(
    ("options", "code", "complaint"),
    [
        (["-t", "3-1"], 235, "Bad Job Array Request"),
        (["-N", "two words"], 2, "qsub: illegal -N value"),
        (["-l", "nodes=1:ppn=99"], 190, "cannot locate feasible nodes"),
        (["-l", "nodes=1:colour"], 190, "cannot locate feasible nodes"),
        (["-l", "select=1:ncpus=1"], 189, "Unknown resource type"),
    ],
)
def test_torque_refuses(torque: Site, options: list[str], code: int, complaint: str) -> None:
    done = torque.run("qsub", *options, input="true")
    assert done.returncode == code
    assert complaint in done.stderr


def test_torque_may_refuse_root() -> None:
    with Site("torque", refuses_root=True) as site:
        done = site.run("qsub", "-h", input="true")
        expected = (1, "qsub can not be run as root\n") if os.getuid() == 0 else (0, "")
        assert (done.returncode, done.stderr) == expected


# ---- sites --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_limits(dialect: str) -> None:
    with Site(dialect, max_array=3, max_queued=4) as site:
        too_large = site.run("qsub", "-h", *array(site, "1-4"), input="true")
        assert (too_large.returncode, "limit" in too_large.stderr) == (of(dialect, 235, 3), True)
        site.submit("true", "-h", *array(site, "1-3"))
        site.submit("true", "-h")
        too_many = site.run("qsub", "-h", input="true")
        assert too_many.returncode == of(dialect, 228, 38)
        assert of(dialect, "jobs already in queue for user", "per-user limit") in too_many.stderr


@pytest.mark.parametrize("dialect", DIALECTS)
def test_states_can_be_late(dialect: str) -> None:
    with Site(dialect, lag=3600.0) as site:
        job_id = site.submit("exit 3")
        site.wait_state(job_id, "F")
        assert look(site, job_id)["job_state"] == "Q"


def test_what_is_shown_late() -> None:
    request = Request("user", "one", b"", "", "/", "workq", {}, {}, {}, submitted=1000.0, walltime=60.0)
    job = Job(1, request)
    job.change(state=State.RUNNING)
    job.change(state=State.FINISHED)
    begun, over = job.status.changed, job.status.changed
    assert [job.seen(when).state for when in (0.0, 1000.0, begun - 1.0)] == [State.QUEUED] * 3
    assert job.seen(over).state is State.FINISHED


def test_a_server_that_is_down(site: Site, tmp_path: Path) -> None:
    running = site.submit(f"touch '{tmp_path}/on'; until [ -e '{tmp_path}/go' ]; do sleep 0.05; done; exit 6")
    queued = site.submit("true", "-h")
    begun(tmp_path / "on")
    site.query("qrls", queued)
    site.stop_server()
    try:
        down = site.run("qstat", "-f", "-F", "json") if site.dialect == "openpbs" else site.run("qstat", "-x")
        refused = site.run("qsub", input="true")
        version = site.run("qstat", "--version")
        (tmp_path / "go").touch()
        site.wait_state(running, "F")
    finally:
        site.start_server()
    assert down.returncode == of(site.dialect, 111, 255)
    assert "cannot connect to server head (errno=111)" in down.stderr
    if site.dialect == "openpbs":
        assert "Jobs" not in json.loads(down.stdout)
    assert (refused.returncode, refused.stdout) == (111, "")
    assert version.returncode == 0
    assert of(site.dialect, "Version: 6.1.3", "pbs_version = 23.06.06") in version.stdout + version.stderr
    assert exit_status(site, running) == 6
    assert exit_status(site, queued) == 0


def test_a_server_that_is_down_starts_nothing(site: Site, tmp_path: Path) -> None:
    site.submit("sleep 60", *array(site, "1-4"))
    waiting = site.submit("true")
    site.stop_server()
    try:
        site.cancel_all()
        wait_until(lambda: site.states(waiting) == ["F"])
    finally:
        site.start_server()
    assert exit_status(site, waiting) is None


def test_calls_are_written_down_and_can_be_held(tmp_path: Path) -> None:
    with Site("torque") as site:
        words = ["-N", "a\nb 'c' \u00fc", "-h"]
        site.run("qsub", *words, input="true")
        assert site.calls("qsub") == [words]
        assert site.calls("qdel") == []
        with site.held("qsub"):
            command = [str(site.directory / "bin" / "qsub"), "-h"]
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            ) as held:
                assert held.stdout is not None
                assert held.stdout.readline() == "1.head\n"
                assert held.poll() is None
                (site.directory / "held.qsub").rename(tmp_path / "held")
            (tmp_path / "held").rename(site.directory / "held.qsub")
        assert held.returncode == 0


def test_two_sites_side_by_side(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    before = os.environ["PATH"]
    with Site(site.dialect) as other:
        other.activate()
        assert os.environ["PATH"] == f"{other.directory}/bin:{before}"
        theirs, ours = other.submit("sleep 600"), site.submit("sleep 600")
        other.wait_state(theirs, "R")
        site.wait_state(ours, "R")
        other.cancel_all()
        other.idle()
    assert os.environ["PATH"] == before
    assert traces(other.directory) == []
    assert site.states(ours) == ["R"]


def test_a_server_is_no_leftover_of_the_tests_but_its_jobs_are(site: Site, tmp_path: Path) -> None:
    site.submit(f"touch '{tmp_path}/on'; sleep 60")
    begun(tmp_path / "on")
    with pytest.raises(AssertionError, match="sleep"):
        check_no_process_left(timeout=0.0)  # kills what it finds
    check_no_process_left()
    assert site.run("qstat").returncode == 0


OWNER = """
import sys, time
from tests.pbs import Site
with Site(sys.argv[1]) as site:
    held = site.directory / "held-open"  # by which a process is recognised that is found in no other way
    job_id = site.submit(f"exec 9> {held}; setsid env -i sleep 600 & touch {site.directory}/on; sleep 601")
    while not (site.directory / "on").exists():
        time.sleep(0.01)
    print(site.directory, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_outlives_an_owner_that_is_killed(dialect: str) -> None:
    command = [sys.executable, "-c", OWNER, dialect]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        wait_until(lambda: sum("sleep" in trace for trace in traces(directory)) == 2)
        owner.kill()
    wait_until(lambda: not traces(directory), describe=lambda: traces(directory), interval=0.1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_can_be_started_by_hand(dialect: str, tmp_path: Path) -> None:
    told = ""

    def ready() -> bool:
        nonlocal told
        told = "".join(path.read_text() for path in tmp_path.glob("*.out"))
        return "Ctrl-C" in told

    command = [sys.executable, "-m", "tests.pbs", dialect]
    result = run_command(command, tmp_path, cwd=REPOSITORY, interrupt_when=ready).check()
    match = re.match(r"export PATH=(.*)/bin:\$PATH\n", result.stdout)
    assert match is not None
    assert traces(Path(match[1])) == []
