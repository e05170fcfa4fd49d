"""How many tasks travel together.

Handing a bundle to a worker costs a fraction of a millisecond on one machine and many on a network file
system.  A bundle should take long against that, and short against the patience of whoever waits: tasks
that take longer than the target travel alone, and nothing queues behind them.
"""

from __future__ import annotations

SHORTEST = 0.01
"""Seconds of work that a bundle aims at, at least: tasks longer than this travel alone."""
LONGEST = 1.0
"""Seconds of work that a bundle aims at, at most."""
SPREAD = 10
"""Times the measured cost of handing over that a bundle should take: the cost then stays below a tenth."""
LEAST_OVERHEAD = 1e-6
GROWTH = 8
"""How much larger than the largest bundle measured so far the next one may be: trust grows with evidence."""


class Pace:
    """Seconds per task of one function, as measured."""

    __slots__ = ("_largest", "_mean")

    def __init__(self) -> None:
        self._mean = -1.0
        self._largest = 0

    def observe(self, tasks: int, total: float) -> None:
        """`tasks` of a bundle took `total` seconds together."""
        mean = total / tasks
        if self._mean < 0.0:
            self._mean = mean
        else:
            weight = (tasks if tasks < 10 else 10) * 0.05
            self._mean += weight * (mean - self._mean)
        if tasks > self._largest:
            self._largest = tasks

    @property
    def seconds(self) -> float:
        """What the next task is expected to take; 0 if nothing is known.

        A mean, and no attempt at caution: when a task takes far longer, the ones behind it are recalled.
        """
        return self._mean if self._mean > 0.0 else 0.0

    def size(self, target: float) -> int:
        """How many tasks make a bundle of `target` seconds; 1 until something was measured."""
        if self._mean < 0.0:
            return 1
        fitting = int(target / max(self.seconds, 1e-7))
        return max(1, min(fitting, GROWTH * self._largest))


class Overhead:
    """What handing over a bundle costs, as measured: seconds from the assignment until its last outcome was
    seen, less the time that its tasks took.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.001

    def observe(self, seconds: float) -> None:
        """One more measurement; the mean follows slowly, and single stalls count for little."""
        self.seconds += 0.1 * (min(max(seconds, LEAST_OVERHEAD), 10 * self.seconds) - self.seconds)

    @property
    def target(self) -> float:
        """Seconds of work that a bundle should hold."""
        return min(max(SPREAD * self.seconds, SHORTEST), LONGEST)
