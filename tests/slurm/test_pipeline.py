"""A pipeline whose events and pairs are Slurm's jobs, on two nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusterfutures import SlurmExecutor
from clusterfutures.errors import WorkerLost
from clusterfutures.pipeline import Code, Pipeline, pairs
from tests import pipeline_work as work
from tests.local_work import notes

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("here")]

CODES = pairs(["EV1", "EV11", "EV2"], ["XX.S1", "XX.S2", "XX.S3", "XX.S4"])


def pool(cores: int = 1) -> SlurmExecutor:
    """An executor of two workers."""
    return SlurmExecutor(2, cores=cores, mem="200M", keep="never")


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_one_that_is_run_again(here: Path, log: str, nested: bool) -> None:
    """Values, failures, logs and set-ups come through; the second run computes what has failed."""
    pipeline = Pipeline(
        work.fall,
        CODES,
        here / "pipeline",
        config={"log": log, "bad": "XX.S2"},
        nested=nested,
        max_stations=2,
    )
    with pool(cores=2 if nested else 1) as ex:
        result = pipeline.run(ex)
    lost = [code for code in CODES if code.station == "XX.S2"]
    assert list(result.failures) == lost
    assert all(isinstance(failure.error, WorkerLost) for failure in result.failures.values())
    before = len(notes(log))
    Path(f"{log}.good").touch()
    with pool(cores=2 if nested else 1) as ex:
        result = pipeline.run(ex)
    assert sorted(notes(log)[before:]) == sorted(map(str, lost))
    assert result == {event: {f"XX.S{n}": n for n in (1, 2, 3, 4)} for event in ("EV1", "EV11", "EV2")}
    for event in result:
        assert "took" in Path(pipeline.log(event)).read_text()


def test_set_ups_and_logs(here: Path, log: str) -> None:
    """The value of a set-up goes from node to node; the records of a pair stay together."""
    setup = work.SetUp(f"{log}.setup", ("EV2",))
    pipeline = Pipeline(
        work.noted_with_setup,
        CODES,
        here / "pipeline",
        setup=setup,
        config={"log": log},
        log_format="%(code)s %(message)s",
    )
    with pool() as ex:
        result = pipeline.run(ex)
    assert sorted(notes(f"{log}.setup")) == ["EV1", "EV11", "EV2"]
    assert list(result.failures) == [code for code in CODES if code.event == "EV2"]
    assert result["EV11"]["XX.S3"] == ["EV11", "XX.S3"]
    lines = Path(pipeline.log("EV1")).read_text().splitlines()
    assert lines[0] == "EV1 the set-up of EV1"
    assert sorted(line.split()[0] for line in lines[1:]) == [
        str(Code("EV1", f"XX.S{n}")) for n in (1, 2, 3, 4)
    ]
