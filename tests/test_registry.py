"""Executors by name, and which one a machine calls for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clusterfutures import (
    Detected,
    LocalExecutor,
    OptionError,
    PBSExecutor,
    Retries,
    SerialExecutor,
    SlurmExecutor,
    TorqueExecutor,
    View,
    detect,
    get_executor,
    register,
    registry,
)
from tests import captured_pbs

Programs = Callable[..., dict[str, str]]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name stays registered, none is in the environment, and run directories are made elsewhere."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """``programs(sbatch=text)``: an environment with these programs, the texts being those of `sh`."""

    def make(**texts: str) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return {"PATH": str(folder)}

    return make


def saying(text: str, code: int = 0, to: int = 1) -> str:
    """A program for `sh` that writes a text, and ends with an exit code."""
    return f"echo '{text}' >&{to}; exit {code}"


def offer(folder: Path, *lines: str) -> Path:
    """A folder with an installed package that has these entry points, and a module for them to name."""
    about = folder / f"{folder.name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {folder.name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("\n".join(["[clusterfutures.executors]", *lines, ""]))
    (folder / f"{folder.name}_module.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "class Offered(ThreadPoolExecutor):\n"
        f"    home = {folder.name!r}\n"
    )
    return folder


class TestNames:
    """Each names an executor."""

    @pytest.mark.parametrize(
        ("name", "kind", "options"),
        [
            ("slurm", SlurmExecutor, {"mem": "1G"}),
            ("torque", TorqueExecutor, {"dialect": "torque", "mem": "1G"}),
            ("pbs", PBSExecutor, {"dialect": "openpbs", "mem": "1G"}),
            ("local", LocalExecutor, {"max_workers": 1}),
            ("serial", SerialExecutor, {}),
        ],
    )
    def test_of_this_package(self, name: str, kind: type, options: dict[str, Any]) -> None:
        with get_executor(name, **options) as executor:
            assert isinstance(executor, kind)

    def test_options_are_the_executors_own(self) -> None:
        with get_executor("slurm", max_workers=7) as executor:
            assert executor._max_workers == 7  # type: ignore[attr-defined]
        with pytest.raises(OptionError, match="did you mean 'time'"):
            get_executor("slurm", tiem="2h")

    def test_the_nearest_is_proposed(self) -> None:
        with pytest.raises(OptionError) as caught:
            get_executor("slrum")
        assert str(caught.value) == (
            "unknown executor 'slrum'; did you mean 'slurm'? There are: local, pbs, serial, slurm, torque"
        )

    def test_all_are_told_where_none_is_near(self) -> None:
        with pytest.raises(OptionError, match=r"^unknown executor 'xyz'\. There are: local, pbs, "):
            get_executor("xyz")


class TestRegister:
    """A program may add names."""

    def test_a_class(self) -> None:
        register("threads", ThreadPoolExecutor)
        with get_executor("threads", max_workers=3) as executor:
            assert isinstance(executor, ThreadPoolExecutor)
            assert executor._max_workers == 3
        assert "threads" in registry.names()

    def test_it_is_found_by_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        register("threads", ThreadPoolExecutor)
        monkeypatch.setenv(registry.VARIABLE, "threads")
        with get_executor() as executor:
            assert isinstance(executor, ThreadPoolExecutor)

    def test_it_goes_before_all_others(self) -> None:
        register("slurm", SerialExecutor)
        with get_executor("slurm") as executor:
            assert isinstance(executor, SerialExecutor)

    def test_the_last_one_counts(self) -> None:
        register("mine", ThreadPoolExecutor)
        register("mine", SerialExecutor)
        with get_executor("mine") as executor:
            assert isinstance(executor, SerialExecutor)

    def test_what_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(TypeError, match="must be callable"):
            register("mine", "ThreadPoolExecutor")  # type: ignore[arg-type]
        assert "mine" not in registry.names()


class TestEntryPoints:
    """Packages may add names."""

    def test_what_is_offered_is_loaded_when_it_is_wanted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = offer(tmp_path / "one", "threads = one_module:Offered", "broken = one_missing:Offered")
        monkeypatch.syspath_prepend(folder)
        assert registry.names() == ["broken", "local", "pbs", "serial", "slurm", "threads", "torque"]
        with get_executor("threads", max_workers=3) as executor:
            assert executor.home == "one"  # type: ignore[attr-defined]
        with pytest.raises(ModuleNotFoundError, match="one_missing"):
            get_executor("broken")

    def test_of_several_the_first_on_the_path_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(offer(tmp_path / "second", "threads = second_module:Offered"))
        monkeypatch.syspath_prepend(offer(tmp_path / "first", "threads = first_module:Offered"))
        with get_executor("threads") as executor:
            assert executor.home == "first"  # type: ignore[attr-defined]

    def test_the_names_of_this_package_stay_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(offer(tmp_path / "greedy", "serial = greedy_module:Offered"))
        with get_executor("serial") as executor:
            assert isinstance(executor, SerialExecutor)

    def test_a_registered_one_goes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(offer(tmp_path / "other", "threads = other_module:Offered"))
        register("threads", SerialExecutor)
        with get_executor("threads") as executor:
            assert isinstance(executor, SerialExecutor)


class TestOnOneMachine:
    """What only a cluster has is checked, and passed over."""

    @pytest.mark.parametrize("name", ["local", "serial"])
    def test_one_line_says_what_is_not_used(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "clusterfutures")
        wanted: dict[str, Any] = {"mem": "8G", "walltime": "2h", "queue": "day", "job_per_task": True}
        with get_executor(name, max_workers=1, **wanted) as executor:
            assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert caplog.messages == [
            f"the {name} executor has no jobs, and no use for mem, walltime, queue, job_per_task"
        ]

    @pytest.mark.parametrize("name", ["local", "serial"])
    def test_nothing_is_said_where_all_is_used(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "clusterfutures")
        with get_executor(name, max_workers=1, retries=2, env={"A": "1"}):
            assert caplog.messages == []

    @pytest.mark.parametrize("name", ["local", "serial"])
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"mem": 8}, "8 what"),
            ({"tiem": "2h"}, "did you mean 'time'"),
            ({"mem": "8G", "mem_per_cpu": "1G"}, "exclude each other"),
            ({"job_per_task": True, "workers_per_job": 2}, "exclude each other"),
            ({"retries": -1}, "retries"),
        ],
    )
    def test_what_a_cluster_would_refuse_is_refused(
        self, name: str, options: dict[str, Any], complaint: str
    ) -> None:
        with pytest.raises(OptionError, match=complaint):
            get_executor(name, **options)

    @pytest.mark.parametrize("name", ["local", "serial"])
    def test_of_some_tasks(self, name: str) -> None:
        executor: Any = get_executor(name, max_workers=1)
        with executor:
            large = executor.options(mem="32G", retries=1)
            larger = large.options(mem="64G", timeout=60)
            assert [one.submit(abs, -1).result() for one in (executor, large, larger)] == [1, 1, 1]
            with pytest.raises(OptionError, match="did you mean 'time'"):
                larger.options(tiem="2h")

    def test_settings_of_tasks_stay(self) -> None:
        executor: Any = get_executor("local", retries=1)
        with executor:
            assert executor.options(mem="32G")._policy.retries == Retries(1)
            view = executor.options(mem="32G", retries=2).options(mem="64G")
            assert view._policy.retries == Retries(2)

    @pytest.mark.parametrize("name", ["local", "serial"])
    def test_nothing_of_a_job_grows_where_there_is_none(self, name: str) -> None:
        retries = Retries(1, grow={"mem": 2, "timeout": 2}, exclude=True)
        with get_executor(name, max_workers=1, mem="8G", timeout=60, retries=retries) as executor:
            assert executor.submit(abs, -1).result() == 1
            larger: Any = executor
            assert larger.options(mem="16G", retries=retries).submit(abs, -1).result() == 1

    def test_the_class_itself_is_strict(self) -> None:
        with pytest.raises(OptionError, match="unknown option 'mem': it describes jobs on a cluster"):
            LocalExecutor(mem="8G")

    def test_of_some_tasks_and_no_option_of_theirs(self) -> None:
        executor: Any = get_executor("local", max_workers=1)
        with executor, pytest.raises(OptionError, match="keep is an option of the executor"):
            executor.options(mem="8G", keep="never")

    def test_a_view_is_the_executor(self) -> None:
        executor: Any = get_executor("local", max_workers=3)
        with executor.options(mem="8G") as view:
            assert isinstance(view, View)
            assert (view._max_workers, view.run_dir) == (3, executor.run_dir)

    def test_others_get_all_options(self) -> None:
        given: dict[str, Any] = {}

        def make(**options: Any) -> SerialExecutor:
            given.update(options)
            return SerialExecutor()

        register("mine", make)
        get_executor("mine", mem="8G", anything=1)
        assert given == {"mem": "8G", "anything": 1}


class TestDetect:
    """What is on PATH, unless the variable decides; and why."""

    def test_nothing(self, programs: Programs) -> None:
        found = detect(programs())
        assert found == Detected("local", "neither sbatch nor qsub is on PATH", None, "")
        assert str(found) == "local: neither sbatch nor qsub is on PATH"

    def test_slurm_before_pbs(self, programs: Programs) -> None:
        environ = programs(sbatch=saying("slurm-wlm 22.05.8"), qsub="exit 1", qstat="exit 1")
        path = f"{environ['PATH']}/sbatch"
        assert detect(environ) == Detected("slurm", "sbatch is on PATH", path, "slurm-wlm 22.05.8")
        assert str(detect(environ)) == f"slurm: sbatch is on PATH ({path}, slurm-wlm 22.05.8)"

    def test_a_slurm_that_does_not_work(self, programs: Programs) -> None:
        text = saying("sbatch: error: no servers\nsbatch: fatal: Could not establish a source", 1, to=2)
        found = detect(programs(sbatch=text))
        assert (found.name, found.version) == ("slurm", "")
        reason = "sbatch is on PATH, but it does not work: sbatch: fatal: Could not establish a source"
        assert found.reason == reason

    def test_a_slurm_that_does_not_work_and_says_nothing(self, programs: Programs) -> None:
        assert detect(programs(sbatch="exit 3")).reason.endswith("nothing was said (exit code 3)")

    def test_a_command_that_cannot_be_started(self, programs: Programs) -> None:
        environ = programs(sbatch="")
        Path(environ["PATH"], "sbatch").write_text("#!/no/such/interpreter\n")
        found = detect(environ)
        assert found.name == "slurm"
        assert "it does not work: " in found.reason and "No such file" in found.reason

    @pytest.mark.parametrize(
        ("qstat", "title", "version"),
        [
            (saying("pbs_version = 23.06.06"), "OpenPBS", "pbs_version = 23.06.06"),
            (saying("Version: 6.1.3\nCommit: 4c3ce33", to=2), "TORQUE", "Version: 6.1.3"),
        ],
    )
    def test_kinds_of_pbs(self, programs: Programs, qstat: str, title: str, version: str) -> None:
        environ = programs(qsub="exit 1", qstat=qstat)
        reason = f"qsub is on PATH, and sbatch is not; it is {title}"
        assert detect(environ) == Detected("torque", reason, f"{environ['PATH']}/qsub", version)

    def test_qsub_in_front_of_slurm(self, programs: Programs) -> None:
        code, text = captured_pbs.DEBIAN_VERSION
        found = detect(programs(qsub="exit 1", qstat=saying(text, code, to=2)))
        assert found.reason == "qsub is on PATH, and sbatch is not; it stands in front of Slurm"
        assert found.name == "torque" and found.version == ""

    def test_another_qsub(self, programs: Programs) -> None:
        """As Grid Engine's."""
        found = detect(programs(qsub="exit 1", qstat=saying("Unknown option --version", 1)))
        assert found.name == "torque"
        assert found.reason.endswith("which PBS it is, `qstat --version` does not tell")

    def test_qsub_without_qstat(self, programs: Programs) -> None:
        environ = programs(qsub="exit 1")
        reason = "qsub is on PATH, and sbatch is not"
        assert detect(environ) == Detected("torque", reason, f"{environ['PATH']}/qsub")

    def test_the_variable_decides(self, programs: Programs) -> None:
        environ = {**programs(sbatch=saying("slurm 25.05")), registry.VARIABLE: "serial"}
        assert str(detect(environ)) == "serial: CLUSTERFUTURES_EXECUTOR says so"

    def test_the_variable_names_what_is_there(self, programs: Programs) -> None:
        environ = programs(sbatch="exit 1", qsub="exit 1", qstat=saying("pbs_version = 20.0.1"))
        found = detect({**environ, registry.VARIABLE: "pbs"})
        assert found.reason == "CLUSTERFUTURES_EXECUTOR says so; it is OpenPBS"
        assert (found.name, found.command) == ("pbs", f"{environ['PATH']}/qsub")

    def test_the_variable_names_what_is_not_there(self, programs: Programs) -> None:
        found = detect({**programs(), registry.VARIABLE: "slurm"})
        assert found == Detected("slurm", "CLUSTERFUTURES_EXECUTOR says so, but its commands are not on PATH")

    def test_the_variable_is_wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        complaint = "unknown executor 'slrum' in CLUSTERFUTURES_EXECUTOR; did you mean 'slurm'"
        with pytest.raises(OptionError, match=complaint):
            detect({registry.VARIABLE: "slrum"})
        monkeypatch.setenv(registry.VARIABLE, "slrum")
        with pytest.raises(OptionError, match=complaint):
            get_executor()

    def test_an_empty_variable_is_none(self, programs: Programs) -> None:
        assert detect({**programs(), registry.VARIABLE: ""}).name == "local"


class TestChoice:
    """What `get_executor` takes without a name is what `detect` tells."""

    def test_of_what_is_there(self, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", programs(sbatch="exit 1")["PATH"])
        with get_executor(max_workers=1) as executor:
            assert isinstance(executor, SlurmExecutor)
        assert detect().name == "slurm"

    def test_of_nothing(
        self, programs: Programs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("PATH", programs()["PATH"])
        caplog.set_level(logging.INFO, "clusterfutures")
        with get_executor(max_workers=1) as executor:
            assert isinstance(executor, LocalExecutor)
        assert caplog.messages == ["the executor is local: neither sbatch nor qsub is on PATH"]

    def test_the_variable_goes_before_what_is_there(
        self, programs: Programs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", programs(sbatch="exit 1")["PATH"])
        monkeypatch.setenv(registry.VARIABLE, "serial")
        with get_executor() as executor:
            assert isinstance(executor, SerialExecutor)

    def test_a_name_goes_before_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(registry.VARIABLE, "serial")
        with get_executor("local", max_workers=1) as executor:
            assert isinstance(executor, LocalExecutor)
