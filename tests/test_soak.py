"""A short soak, and what it would see; ``python -m tests.soak --minutes 10`` is a long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import soak
from tests.conftest import BELL_AND_POLLING
from tests.local_work import note
from tests.soak import Accounts, Round, Struck, Task, Told

KILLED = Told(0, "WorkerLost", 1, 11, "7", "SIGKILL")


@pytest.mark.parametrize("doorbell", BELL_AND_POLLING)
def test_nothing_is_lost_doubled_or_left(doorbell: bool, tmp_path: Path) -> None:
    soak.soak(Round(7, 40, doorbell=doorbell), tmp_path)


def test_a_failure_names_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: Accounts) -> None:
        raise AssertionError("all is wrong")

    monkeypatch.setattr(Accounts, "check", wrong)
    with pytest.raises(AssertionError, match=r"failed with Round\(seed=9, .*: all is wrong"):
        soak.soak(Round(9, 10), tmp_path)


class TestAccounts:
    """A round of one task, of number 0, whose worker with process id 11 was in job 7."""

    @pytest.fixture(autouse=True)
    def one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = tmp_path
        self.patch = monkeypatch

    def check(self, kind: str, begun: list[str], told: list[Told], struck: Struck) -> None:
        self.patch.setattr(soak, "tasks_of", lambda _: [Task(0, kind, 0.0)])
        for line in begun:
            note(str(self.place / "begun"), line)
        for answer in told:
            note(str(self.place / "told"), json.dumps(answer).replace(" ", ""))
        Accounts(Round(1, 1), self.place, struck).check()

    @pytest.mark.parametrize(
        ("kind", "begun", "told"),
        [
            ("usual", ["0:0:9:7"], [Told(0, "0")]),
            ("unlucky", ["0:0:9:7", "0:1:11:7"], [Told(0, "0", 1), Told(0, "0", 1)]),
            ("failing", ["0:0:9:7"], [Told(0, "ValueError")]),
            ("fatal", ["0:0:9:7", "0:1:11:7"], [KILLED]),
            ("cancelled", [], [Told(0, "cancelled")]),
            ("cancelled", ["0:0:9:7"], [Told(0, "0")]),
            ("killed", ["0:0:9:7"], [Told(0, "TaskKilled", pid=9, job="7")]),
            ("endless", ["0:0:9:7"], [Told(0, "TaskTimeout", pid=9, job="7")]),
        ],
    )
    def test_what_nobody_touched_is_right(self, kind: str, begun: list[str], told: list[Told]) -> None:
        self.check(kind, begun, told, Struck())

    @pytest.mark.parametrize(
        ("kind", "begun", "told", "words"),
        [
            ("usual", ["0:0:9:7"], [], "nobody has told"),
            ("usual", ["0:0:9:7"], [Told(0, "7")], "'7'"),
            ("usual", ["0:0:9:7"], [Told(0, "0"), Told(0, "ValueError")], "ValueError"),
            ("usual", ["0:0:9:7", "0:0:11:8"], [Told(0, "0")], "made twice"),
            ("usual", ["0:0:9:7", "0:1:11:7"], [Told(0, "0")], "attempt=1"),
            ("usual", ["0:0:9:7", "0:1:11:7"], [Told(0, "0", 1)], "not enough"),
            ("usual", ["0:1:11:7"], [Told(0, "0", 1)], "1 attempts were not seen"),
            ("usual", [], [Told(0, "0")], "'0'"),
            ("fatal", ["0:0:9:7", "0:1:11:7"], [KILLED._replace(what="JobCancelled")], "JobCancelled"),
            ("fatal", ["0:0:9:7"], [KILLED._replace(attempt=0)], "attempt=0"),
            ("fatal", ["0:0:9:7", "0:1:11:7", "0:2:12:7"], [KILLED._replace(attempt=2)], "attempt=2"),
            ("cancelled", ["0:0:9:7"], [Told(0, "cancelled")], "cancelled"),
            ("killed", ["0:0:9:7"], [KILLED], "WorkerLost"),
            ("endless", ["0:0:9:7"], [KILLED._replace(attempt=0)], "WorkerLost"),
        ],
    )
    def test_what_is_wrong_is_seen(self, kind: str, begun: list[str], told: list[Told], words: str) -> None:
        with pytest.raises(AssertionError, match=words):
            self.check(kind, begun, told, Struck())

    def test_who_was_struck_may_be_lost(self) -> None:
        struck = Struck()
        struck.worker(11)
        self.check("endless", ["0:0:11:7"], [KILLED._replace(attempt=0)], struck)

    def test_who_was_put_back_may_have_been_done(self) -> None:
        struck = Struck()
        struck.all_of(["7"])
        self.check("usual", ["0:0:9:7", "0:1:11:7"], [Told(0, "0")], struck)

    def test_who_was_struck_is_tried_again(self) -> None:
        struck = Struck()
        struck.all_of(["7"])
        self.check("usual", ["0:0:9:7", "0:2:12:8"], [Told(0, "0", 2)], struck)
