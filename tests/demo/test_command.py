"""``clusterfutures demo`` as its user sees it: what it prints, draws, refuses and computes again."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clusterfutures.errors import OptionError
from tests.demo.conftest import Ran
from tests.extras import needed
from tests.support import REPOSITORY, run_command

FIGURES = {"misfits.png", "rays.png", "timing.png"}


def shown(ran: Ran) -> set[str]:
    """The images of the page."""
    return set(re.findall(r'<img src="([^"]+)"', ran.page))


def test_two_events_on_this_machine(demo: Callable[..., Ran]) -> None:
    ran = demo("--events", "2", "--option", "max_workers=2", executor="local")
    assert ran.code == 0, ran
    assert ran.err == "", "there is no terminal, and so no progress bar"
    lines = ran.out.splitlines()
    assert lines[0] == "pairs: 7, of which 0 are kept from an earlier run"
    assert sum(line.startswith("UH-16") for line in lines) == 7
    assert "7 pairs of 2 events: 7 done, 0 failed, 0 missing" in ran.out
    assert lines[-1].startswith("right: all 7 known delays were recovered")
    images = shown(ran)
    assert len(images) == 7 + len(FIGURES) and images > FIGURES
    for name in images:
        assert (ran.output / name).read_bytes().startswith(b"\x89PNG")
    h5py = needed("h5py")
    with h5py.File(ran.output / "misfits.h5", "r") as h5:
        pair = h5["AuxiliaryData/Misfits/UH-162431/BW.UH4"]
        about = pair["adjoint_traveltime"].attrs
        assert about["delay"] == pytest.approx(about["known"], abs=0.001)
        lengths = {len(h5[about[tag]]) for tag in ("observed", "synthetic")}
        assert lengths == {len(array) for array in pair.values()}

    again = demo("--events", "2", "--resume")
    assert again.code == 0, again
    assert again.out.startswith("pairs: 7, of which 7 are kept from an earlier run\n")
    assert again.out.splitlines()[1:-3] == lines[1:-3], "nothing was computed again, and all is shown"
    assert shown(again) == images - {"timing.png"}

    refused = demo("--events", "2")
    assert refused.code == 1
    assert "has the results of an earlier run: go on with them by --resume" in refused.err
    (ran.output / "misfits.h5").unlink()
    bereft = demo("--events", "2", "--resume")
    assert bereft.code == 1
    assert "misfits.h5 is gone" in bereft.err


def test_a_pair_that_fails(demo: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterfutures.demo import misfit

    def torn(code: Any, *arguments: Any) -> Any:
        if code.station == "BW.UH2":
            raise ValueError(f"no <synthetic> for {code}\nand more")
        return whole(code, *arguments)

    whole = misfit.known_delay
    with monkeypatch.context() as patch:
        patch.setattr(misfit, "known_delay", torn)
        ran = demo("--events", "UH-162431")
    assert ran.code == 1
    message = "no <synthetic> for UH-162431|BW.UH2"
    assert f"UH-162431  BW.UH2  ValueError: {message}\n" in ran.out
    assert ran.out.endswith("FAILED: 1; --resume computes what has failed, and no more\n")
    assert "no &lt;synthetic&gt; for" in ran.page
    log = next((ran.output / "pipeline" / "logs").iterdir())
    assert message in log.read_text()
    length = len(log.read_text())

    again = demo("--events", "UH-162431", "--resume")
    assert again.code == 0, again
    assert again.out.startswith("pairs: 4, of which 3 are kept from an earlier run\n")
    assert set(re.findall(r"BW\.UH\d", log.read_text()[length:])) == {"BW.UH2"}


def test_a_wrong_answer_is_noticed(demo: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterfutures.demo import misfit

    known = misfit.known_delay
    monkeypatch.setattr(misfit, "known_delay", lambda *arguments: known(*arguments) + 0.003)
    ran = demo("--events", "1", "--stations", "BW.UH1")
    assert ran.code == 1
    assert ran.out.endswith("WRONG: more than 1 ms from the known delay: UH-162431|BW.UH1\n")


def test_a_delay_that_is_no_number_is_wrong(extra: None) -> None:
    from clusterfutures.demo.command import verdict
    from clusterfutures.demo.misfit import Measurement
    from clusterfutures.pipeline import Code, Outcome, Result

    found = Measurement(float("nan"), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "")
    right, line = verdict(Result([Outcome(Code("1", "XX.A"), found, 0.0, "")]))
    assert not right and line.startswith("WRONG")


def test_nothing_to_compute(demo: Callable[..., Ran]) -> None:
    ran = demo("--events", "UH-162700", "--stations", "BW.UH4")  # which has not recorded it
    assert ran.code == 1
    assert "no pair" in ran.err


def test_interrupted(demo: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterfutures.pipeline import Pipeline

    def run(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "run", run)
    ran = demo()
    assert ran.code == 130
    assert ran.out.endswith("what was computed is kept; --resume goes on with it\n")
    assert ran.err == "clusterfutures demo: interrupted\n"


def test_results_of_another_version(demo: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterfutures.demo import misfit

    words = "--events", "1", "--stations", "BW.UH1"
    assert demo(*words).code == 0
    monkeypatch.setattr(misfit, "BAND", (1.0, 8.0))
    ran = demo(*words, "--resume")
    assert ran.code == 1
    assert "has results of another version" in ran.err and "name another --output" in ran.err


class TestWhatIsAskedFor:
    """Options of executors, and choices of events and stations."""

    def test_options(self) -> None:
        from clusterfutures.demo.command import options_of

        words = ["max_workers=4", "partition=day", "time=2h", "job_per_task=True", "comment=a=b"]
        assert options_of(words) == {
            "max_workers": 4,
            "partition": "day",
            "time": "2h",
            "job_per_task": True,
            "comment": "a=b",
        }

    @pytest.mark.parametrize("word", ["partition", "=day", "two words=1"])
    def test_what_is_no_option(self, word: str) -> None:
        from clusterfutures.demo.command import options_of

        with pytest.raises(OptionError, match="NAME=VALUE"):
            options_of([word])

    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            (None, ["a1", "b2", "c3"]),
            ("2", ["a1", "b2"]),
            ("9", ["a1", "b2", "c3"]),
            ("c3, a1", ["a1", "c3"]),
        ],
    )
    def test_choices(self, wanted: str | None, found: list[str]) -> None:
        from clusterfutures.demo.command import chosen

        assert chosen("--events", wanted, ["a1", "b2", "c3"]) == found

    @pytest.mark.parametrize("wanted", ["0", "a2", "a1,,c3", ""])
    def test_what_there_is_not(self, wanted: str) -> None:
        from clusterfutures.demo.command import chosen

        with pytest.raises(OptionError, match=r"--events: there is no .* There are: a1, b2, c3"):
            chosen("--events", wanted, ["a1", "b2", "c3"])

    def test_an_executor_that_there_is_not(self, demo: Callable[..., Ran]) -> None:
        ran = demo(executor="slrum")
        assert ran.code == 1 and "did you mean 'slurm'?" in ran.err
        assert not ran.output.exists()


def test_from_the_examples(extra: None, tmp_path: Path) -> None:
    done = run_command([sys.executable, str(REPOSITORY / "examples" / "misfit"), "--help"], tmp_path).check()
    assert "--resume" in done.stdout
