"""Which nodes lose one task after the other, while all goes well elsewhere."""

from __future__ import annotations

LOSSES = 3  # tasks in a row, with which a node is given up
WINDOW = 600.0  # seconds within which that counts as a row


class Nodes:
    """What becomes of tasks on each node, in times of one monotonic clock (seconds)."""

    def __init__(self) -> None:
        self._well: dict[str, float] = {}  # when a task last ended there
        self._losses: dict[str, list[float]] = {}  # when tasks were lost there, since then
        self.left_out: set[str] = set()

    def well(self, node: str, now: float) -> None:
        """A task has ended on `node`, whatever came of it."""
        self._well[node] = now
        if node in self._losses:
            del self._losses[node]

    def lost(self, node: str, now: float) -> bool:
        """A task was lost on `node`; whether that is to be left out from here on.

        Where tasks are lost everywhere it is not the node's fault; and one must stay.
        """
        losses = [time for time in self._losses.get(node, []) if time > now - WINDOW]
        self._losses[node] = [*losses, now]
        others = self._well.keys() - self.left_out - {node}
        elsewhere = any(self._well[other] > now - WINDOW for other in others)
        if len(losses) + 1 < LOSSES or not elsewhere or node in self.left_out:
            return False
        self.left_out.add(node)
        return True
