"""What comes between: tasks that are being written while everything else is cancelled, or fails."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from clusterfutures.dispatch import Dispatcher
from clusterfutures.futures import ClusterFuture
from clusterfutures.journal import Policy, Run
from clusterfutures.kinds import Kinds
from clusterfutures.nodes import LOSSES, Nodes
from clusterfutures.records import CALL
from clusterfutures.spool import RunDirectory


class Between(Dispatcher):
    """Has `meanwhile` happen after the next tasks were written, before they are pending."""

    def __init__(self, directory: Path) -> None:
        run, kinds = RunDirectory(str(directory), shared=False), Kinds({}, lambda needs: None)
        super().__init__(run, 2, 0, False, lambda ref, inbox: None, lambda: None, kinds)
        self.meanwhile: Callable[[], None] = lambda: None
        write = self.journal.write

        def write_and_more(fresh: Any) -> list[Run]:
            runs = write(fresh)
            self.meanwhile()
            return runs

        self.journal.write = write_and_more  # type: ignore[method-assign]

    def submit(self) -> ClusterFuture[Any]:
        return self.add(CALL, self.journal.function(len), b"\x80", [], Policy())


@pytest.fixture
def dispatcher(tmp_path: Path) -> Between:
    return Between(tmp_path)


@pytest.mark.parametrize("write", [Dispatcher.pump, Dispatcher.flush])
def test_cancelled_while_they_are_written(dispatcher: Between, write: Callable[[Dispatcher], None]) -> None:
    dispatcher.meanwhile = lambda: dispatcher.close(cancel=True)
    future = dispatcher.submit()
    write(dispatcher)
    assert future.cancelled()
    assert dispatcher.unfinished == 0


@pytest.mark.parametrize("broken", [True, False])
def test_failed_while_they_are_written(dispatcher: Between, broken: bool) -> None:
    error = ValueError("no more")
    dispatcher.meanwhile = lambda: dispatcher.fail_all(error, broken=broken)
    future = dispatcher.submit()
    dispatcher.pump()
    assert isinstance(future.exception(0), ValueError)
    assert dispatcher.unfinished == 0


def test_a_callback_of_such_a_task_may_flush(dispatcher: Between) -> None:
    seen = []

    def look(future: ClusterFuture[Any]) -> None:
        dispatcher.flush()
        seen.append(future.cancelled())

    dispatcher.meanwhile = lambda: dispatcher.close(cancel=True)
    future = dispatcher.submit()
    future.add_done_callback(look)  # type: ignore[arg-type]
    dispatcher.pump()
    assert seen == [True]
    with pytest.raises(CancelledError):
        future.result(0)


def test_cancelled_while_it_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps of the writing thread: it is swept in the next turn, and gets no job."""
    run = RunDirectory(str(tmp_path), shared=False)
    kinds = Kinds({}, lambda needs: None)
    dispatcher = Dispatcher(run, 1, 0, True, lambda ref, inbox: None, lambda: None, kinds)
    write, futures = dispatcher._write_fresh, []

    def submit_behind() -> None:
        write()
        if not futures:
            futures.append(dispatcher.add(CALL, dispatcher.journal.function(len), b"\x80", [], Policy()))
            futures[0].cancel()

    monkeypatch.setattr(dispatcher, "_write_fresh", submit_behind)
    dispatcher.note_cancelled()
    dispatcher.pump()
    dispatcher.pump()
    assert futures[0].cancelled()
    assert not any(dispatcher.wanted().values())
    assert dispatcher.unfinished == 0


def test_a_node_that_is_left_out_is_no_elsewhere() -> None:
    nodes = Nodes()
    for node in ("a", "b"):
        nodes.well(node, 0.0)
    assert [nodes.lost("a", 1.0 + n) for n in range(LOSSES)] == [False] * (LOSSES - 1) + [True]
    assert not any(nodes.lost("b", 9.0 + n) for n in range(2 * LOSSES))
