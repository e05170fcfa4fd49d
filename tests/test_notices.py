"""What PBS writes to a job's own standard error: read where the script says, told with a task's end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from clusterfutures import notices
from clusterfutures.records import SITE, SITE_MEMORY, SITE_TIME, Ended
from tests.test_worker import Site, make_site, site, tasks

__all__ = ["make_site", "site", "tasks"]

KILLED = "=>> PBS: job killed: "
NOTICES = [
    pytest.param(KILLED + "walltime 15 exceeded limit 10\n", SITE_TIME, id="walltime"),
    pytest.param(KILLED + "cput 15 exceeded limit 10\n", SITE_TIME, id="cput"),
    pytest.param(KILLED + "mem 204800kb exceeded limit 102400kb\n", SITE_MEMORY, id="mem"),
    pytest.param(KILLED + "vmem 204800kb exceeded limit 102400kb\n", SITE_MEMORY, id="vmem"),
    pytest.param(KILLED + "ncpus 2.1 exceeded limit 1.1 (burst)\n", SITE, id="another-limit"),
    pytest.param(f"loaded\n{KILLED}mem 2kb exceeded limit 1kb\nbye\n", SITE_MEMORY, id="amid"),
    pytest.param("x" * 9000 + "\n" + KILLED + "mem 2kb exceeded limit 1kb\n", SITE_MEMORY, id="after-much"),
    pytest.param("walltime 15 exceeded limit 10\n", SITE, id="something-else"),
    pytest.param("", SITE, id="nothing"),
]


@pytest.mark.parametrize(("text", "reason"), NOTICES)
def test_the_limit_is_named(tmp_path: Path, text: str, reason: int) -> None:
    path = tmp_path / "errors"
    path.write_text(text)
    assert notices.reason(str(path)) == reason


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("", "/dev/null", str(tmp_path), str(tmp_path / "none"), str(tmp_path / "pipe")):
        assert notices.reason(path) == SITE


def test_a_supervisor_tells_it(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "errors"
    monkeypatch.setenv(notices.VARIABLE, str(path))
    site.start()
    gate = site.gate()
    [number] = site.assign(site.tasks.wait_for, gate)
    site.running(gate)
    path.write_text(KILLED + "walltime 15 exceeded limit 10\n")
    assert site.process is not None
    site.process.send_signal(signal.SIGTERM)
    assert site.exit_code() == 0
    assert site.ended(1) == [Ended(0, 0, signal.SIGTERM, number + 1, SITE_TIME)]
