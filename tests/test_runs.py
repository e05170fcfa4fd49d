"""The commands `clusterfutures runs` and `clean`: what they list, and what they never touch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clusterfutures import LocalExecutor, RunDirectoryError, RunInUse, cli
from clusterfutures.clean import remove
from clusterfutures.runs import look
from clusterfutures.writing.leases import read_record, write_record
from tests import local_work as work
from tests.support import REPOSITORY

LIMIT = 30.0  # seconds; whatever takes longer hangs


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The directory of a run that ended well."""
    with LocalExecutor(1, run_dir=tmp_path / "runs" / "finished", keep="always") as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
    return Path(ex.run_dir)


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """The directory of a run with a task that failed."""
    with LocalExecutor(1, run_dir=tmp_path / "runs" / "failed") as ex:
        assert ex.submit(work.fail, "x").exception(LIMIT)
    return Path(ex.run_dir)


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """The directory of a run whose program was killed before it submitted anything."""
    path = tmp_path / "runs" / "dead"
    program = "import os, sys; from clusterfutures import LocalExecutor\n"
    program += "ex = LocalExecutor(1, run_dir=sys.argv[1]); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    return path


def elsewhere(path: Path) -> None:
    """Have the lease of a run say that a process of another machine holds it."""
    record = read_record(str(path / "lease.1"))
    write_record(str(path / "lease.1"), {**record, "state": "held", "kernel": "another", "host": "far"})


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """What the command line returns, and the lines that it prints."""
    code = cli.main(list(words))
    return code, capsys.readouterr().out.splitlines()


class TestRuns:
    """What is listed."""

    def test_states(
        self, tmp_path: Path, finished: Path, failed: Path, dead: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "runs" / "thesis").mkdir(mode=0o700)
        (tmp_path / "runs" / "link").symlink_to(finished)
        with LocalExecutor(1, run_dir=tmp_path / "runs" / "live") as ex:
            ex.submit(abs, -1).result(LIMIT)
            code, lines = command(capsys, "runs", "--json", str(tmp_path / "runs"))
            found = {os.path.basename(each["path"]): each for each in map(json.loads, lines)}
            assert code == 0
            assert {name: each["state"] for name, each in found.items()} == {
                "finished": "finished",
                "failed": "failed",
                "dead": "dead",
                "live": "live",
            }
            assert found["live"]["pid"] == os.getpid()
            assert f"process {os.getpid()} on" in found["live"]["holder"]
            _, lines = command(capsys, "runs", str(tmp_path / "runs"))
            assert sorted(line.split()[0] for line in lines) == ["dead", "failed", "finished", "live"]
            (live,) = [line for line in lines if line.startswith("live")]
            assert ex.run_dir in live
            assert str(os.getpid()) in live
        elsewhere(finished)
        assert look(str(finished)).state == "elsewhere"
        assert command(capsys, "runs", str(finished))[1][0].startswith("elsewhere")

    def test_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert command(capsys, "runs", str(tmp_path)) == (0, [f"no runs in {tmp_path}"])
        assert command(capsys, "runs", "--json", str(tmp_path / "nowhere")) == (0, [])

    def test_usual_places(
        self,
        tmp_path: Path,
        finished: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("tempfile.tempdir", str(finished.parent))
        beside = tmp_path / ".clusterfutures" / "beside"
        shutil.copytree(finished, beside)
        assert command(capsys, "clean", "--dry-run")[1] == [
            f"would remove {path}" for path in (beside, finished)
        ]
        assert [line.split()[2] for line in command(capsys, "runs")[1]] == [str(beside), str(finished)]


class TestClean:
    """What is removed, and what is not, however it is asked."""

    def test_finished_ones(
        self,
        tmp_path: Path,
        finished: Path,
        failed: Path,
        dead: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("tempfile.tempdir", str(finished.parent))
        with LocalExecutor(1, run_dir=tmp_path / "runs" / "live") as ex:
            ex.submit(abs, -1).result(LIMIT)
            live = Path(ex.run_dir)
            assert command(capsys, "clean", "--dry-run") == (0, [f"would remove {finished}"])
            assert finished.exists()
            assert command(capsys, "clean") == (0, [f"removed {finished}"])
            assert [path.exists() for path in (finished, failed, dead, live)] == [False, True, True, True]
            assert command(capsys, "clean") == (0, ["nothing to remove"])
            code, lines = command(capsys, "clean", "--failed", "--dead")
            assert (code, sorted(lines)) == (0, sorted([f"removed {failed}", f"removed {dead}"]))
            assert [path.exists() for path in (failed, dead, live)] == [False, False, True]

    def test_a_live_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with LocalExecutor(1, run_dir=tmp_path / "live") as ex:
            ex.submit(abs, -1).result(LIMIT)
            code, (line,) = command(capsys, "clean", "--dead", ex.run_dir)
            assert code == 1
            assert f"in use by process {os.getpid()} on" in line
            with pytest.raises(RunInUse):
                remove(ex.run_dir, dead=True)
            assert ex.submit(abs, -2).result(LIMIT) == 2

    def test_a_dead_one_may_have_jobs(self, dead: Path) -> None:
        with pytest.raises(RunDirectoryError, match="its jobs may still run"):
            remove(str(dead))
        assert dead.exists()
        remove(str(dead), dead=True)
        assert not dead.exists()

    def test_one_of_another_machine(self, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
        elsewhere(finished)
        code, (line,) = command(capsys, "clean", "--dry-run", "--dead", str(finished))
        assert (code, line.partition(", ")[0]) == (0, f"would remove {finished}")
        assert "if nothing is heard for 90 s" in line
        with pytest.raises(RunDirectoryError, match=r"process [0-9]+ on far"):
            remove(str(finished))
        assert finished.exists()

    def test_by_any_name_of_its_own(
        self,
        tmp_path: Path,
        finished: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """With slashes, from beside it and from within; home directories often lie behind a link."""
        (tmp_path / "home").symlink_to("runs")
        for place, name in [
            ("/", f"{finished}//"),
            ("runs", "finished"),
            ("runs", ".//finished/."),
            ("runs/finished", "."),
            (".", "home/finished"),
        ]:
            copy = shutil.copytree(finished, tmp_path / "copy")
            monkeypatch.chdir(tmp_path / place)
            assert command(capsys, "clean", name) == (0, [f"removed {name}"])
            assert not finished.exists()
            monkeypatch.chdir(tmp_path)
            copy.rename(finished)
        assert sorted(os.listdir(tmp_path)) == ["home", "runs"]

    def test_what_can_be_of_several(
        self, finished: Path, dead: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One that is refused does not save the others, and is told by the exit code."""
        code, lines = command(capsys, "clean", str(dead), str(dead.parent), str(finished))
        assert code == 1
        assert [line.partition(" /")[0] for line in lines] == ["not removed:", "not removed:", "removed"]
        assert os.listdir(dead.parent) == ["dead"]

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("link", "symbolic link"),
            ("link/", "symbolic link"),
            ("finished/..", "without '..'"),
            ("finished/../finished", "without '..'"),
            ("finished/jobs", "no run directory"),
            ("finished/run.json", "no run directory"),
            ("finished/.", ""),
            (".", "no run directory"),
            ("", "no run directory"),
            ("nowhere", "no run directory"),
            ("copy", "does not tell of a run"),
        ],
    )
    def test_what_is_no_run_directory(
        self, finished: Path, name: str, why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        parent = finished.parent
        (parent / "link").symlink_to(finished)
        (parent / "copy").mkdir(mode=0o700)
        (parent / "copy" / "run.json").write_text("{}")
        code, lines = command(capsys, "clean", os.path.join(str(parent), name))
        if why:
            assert (code, finished.exists()) == (1, True)
            assert why in lines[0]
        else:
            assert (code, finished.exists()) == (0, False)
        assert (parent / "copy" / "run.json").exists()
        assert (parent / "link").is_symlink()

    @pytest.mark.parametrize("place", ["~", "/", "/tmp"])
    def test_home_and_root(self, place: str, capsys: pytest.CaptureFixture[str]) -> None:
        code, (line,) = command(capsys, "clean", "--dry-run", os.path.expanduser(place))
        assert (code, line.startswith("not removed")) == (1, True)

    def test_one_in_which_something_else_lies(self, finished: Path) -> None:
        """The results of a thesis, say: whoever wrote them there did not mean them to go."""
        (finished / "results.h5").touch()
        with pytest.raises(RunDirectoryError, match=r"not the run's: results\.h5"):
            remove(str(finished))
        assert (finished / "results.h5").exists()

    def test_links_in_it_are_not_followed(self, tmp_path: Path, finished: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        (finished / "jobs" / "link").symlink_to(tmp_path / "mine")
        remove(str(finished))
        assert (tmp_path / "mine" / "thesis.tex").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
    def test_of_another_user(self, finished: Path) -> None:
        os.chown(finished, 12345, 12345)
        with pytest.raises(RunDirectoryError, match="belongs to user 12345"):
            remove(str(finished))
        assert finished.exists()
