"""The formulae: delays between samples, and adjoint sources that are what they say, derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

np = pytest.importorskip("numpy")

from clusterfutures.demo import measure  # noqa: E402 - needs numpy

INTERVAL = 0.02
TIMES = INTERVAL * np.arange(400)
WINDOW = measure.cosine_window(400, 100, 300, 50)


def pulse(arrival: float, width: float = 0.12) -> measure.Floats:
    """A wavelet of some five hertz, at a time in s, that the window does not touch."""
    t = TIMES - arrival
    return np.exp(-((t / width) ** 2)) * np.cos(2 * np.pi * 5 * t + 0.4)


@pytest.mark.parametrize("delay", [0.0, 0.02, -0.02, 0.013, -0.0071, 0.1234, -0.25])
def test_delay_between_samples(delay: float) -> None:
    found, correlation = measure.delay_of(2.5 * pulse(4 + delay), pulse(4), INTERVAL)
    assert found == pytest.approx(delay, abs=1e-3 * INTERVAL)
    assert correlation == pytest.approx(1, abs=1e-3)


def test_of_a_trace_with_itself() -> None:
    assert measure.delay_of(pulse(4), pulse(4), INTERVAL) == pytest.approx((0, 1), abs=1e-9)
    assert measure.traveltime_misfit(0.0) == 0
    assert measure.waveform_misfit(pulse(4), pulse(4), INTERVAL) == 0
    assert not measure.waveform_adjoint(pulse(4), pulse(4), WINDOW).any()
    assert not measure.traveltime_adjoint(0.0, pulse(4), WINDOW, INTERVAL).any()


def test_of_traces_that_do_not_meet() -> None:
    delay, _ = measure.delay_of(np.eye(1, 50, 49)[0], np.eye(1, 50, 0)[0], 1.0)
    assert delay == pytest.approx(49, abs=0.01)


def test_window() -> None:
    window = measure.cosine_window(100, 40, 60, 10)
    assert (window[40:61] == 1).all()
    assert not window[:31].any() and not window[70:].any()
    assert (np.diff(window[30:41]) > 0).all() and window[35] == pytest.approx(0.5)
    assert (measure.cosine_window(10, -5, 20, 3) == 1).all()


def traveltime(trace: measure.Floats) -> float:
    return measure.traveltime_misfit(measure.delay_of(WINDOW * pulse(4.05), WINDOW * trace, INTERVAL)[0])


def waveform(trace: measure.Floats) -> float:
    return measure.waveform_misfit(WINDOW * pulse(4.05), WINDOW * trace, INTERVAL)


def traveltime_source(trace: measure.Floats) -> measure.Floats:
    delay, _ = measure.delay_of(WINDOW * pulse(4.05), WINDOW * trace, INTERVAL)
    return measure.traveltime_adjoint(delay, WINDOW * trace, WINDOW, INTERVAL)


def waveform_source(trace: measure.Floats) -> measure.Floats:
    return measure.waveform_adjoint(WINDOW * pulse(4.05), WINDOW * trace, WINDOW)


@pytest.mark.parametrize(
    ("misfit", "source"),
    [(traveltime, traveltime_source), (waveform, waveform_source)],
    ids=["travel time", "waveform"],
)
@pytest.mark.parametrize("arrival", [3.97, 4.0, 4.03])
def test_an_adjoint_source_is_the_derivative(
    misfit: Callable[[measure.Floats], float],
    source: Callable[[measure.Floats], measure.Floats],
    arrival: float,
) -> None:
    trace, change = pulse(4), pulse(arrival, 0.08)
    step = 1e-3
    slope = (misfit(trace + step * change) - misfit(trace - step * change)) / (2 * step)
    assert slope == pytest.approx(np.sum(source(trace) * change) * INTERVAL, rel=0.01)
