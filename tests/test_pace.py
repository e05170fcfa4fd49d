"""Bundle sizes: start at one, grow with evidence, never beyond what the target allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfutures.pace import GROWTH, LONGEST, SHORTEST, SPREAD, Overhead, Pace

MEASUREMENTS = st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1e6)), max_size=30)


def test_the_first_bundle_is_one_task() -> None:
    pace = Pace()
    assert pace.seconds == 0
    for target in (0.0, SHORTEST, LONGEST, 1e9):
        assert pace.size(target) == 1


@given(MEASUREMENTS, st.floats(0, 10))
def test_bundles_fit_the_target_and_the_evidence(
    measurements: list[tuple[int, float]], target: float
) -> None:
    pace = Pace()
    for tasks, total in measurements:
        pace.observe(tasks, total)
        size = pace.size(target)
        assert 1 <= size <= GROWTH * max(tasks for tasks, _ in measurements)
        assert size == 1 or size * pace.seconds <= target * (1 + 1e-9)


@given(MEASUREMENTS.filter(len))
def test_the_mean_stays_within_what_was_measured(measurements: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tasks, total in measurements:
        pace.observe(tasks, total)
    means = [total / tasks for tasks, total in measurements]
    assert min(means) * (1 - 1e-9) <= pace.seconds <= max(means) * (1 + 1e-9)


def test_short_tasks_soon_fill_the_target() -> None:
    pace = Pace()
    sizes = []
    for _ in range(10):
        sizes.append(pace.size(SHORTEST))
        pace.observe(sizes[-1], sizes[-1] * 1e-5)
    assert sizes[:4] == [1, GROWTH, GROWTH**2, GROWTH**3]
    assert sizes[-1] == pytest.approx(SHORTEST / 1e-5, rel=0.01)


def test_tasks_that_take_no_time_at_all() -> None:
    pace = Pace()
    for _ in range(50):
        pace.observe(pace.size(LONGEST), 0.0)
    assert 1 <= pace.size(LONGEST) <= LONGEST / 1e-7 + 1


def test_long_tasks_travel_alone() -> None:
    pace = Pace()
    for _ in range(5):
        pace.observe(1000, 1000 * SHORTEST)
    assert pace.size(SHORTEST) == 1
    assert pace.size(100 * SHORTEST) == pytest.approx(100, abs=1)


def test_tasks_that_become_longer_are_noticed() -> None:
    pace = Pace()
    pace.observe(1000, 0.001)
    for _ in range(20):
        pace.observe(1, 10 * LONGEST)
    assert pace.size(LONGEST) == 1


@given(st.lists(st.floats(-1e9, 1e9), max_size=200))
def test_the_target_stays_in_bounds(measured: list[float]) -> None:
    overhead = Overhead()
    for seconds in measured:
        overhead.observe(seconds)
        assert SHORTEST <= overhead.target <= LONGEST


def test_the_target_follows_the_cost_of_handing_over() -> None:
    overhead = Overhead()
    for _ in range(200):
        overhead.observe(0.02)
    assert overhead.target == pytest.approx(SPREAD * 0.02, rel=0.01)
    overhead.observe(1e6)
    assert overhead.target < 2 * SPREAD * 0.02, "one stall counts for little"
    for _ in range(200):
        overhead.observe(1e-5)
    assert overhead.target == SHORTEST


def test_a_cost_of_nothing_is_forgotten_again() -> None:
    overhead = Overhead()
    for _ in range(20_000):
        overhead.observe(0.0)
    for _ in range(100):
        overhead.observe(0.05)
    assert overhead.target == pytest.approx(SPREAD * 0.05, rel=0.1)
