"""Misfits between two windowed traces, and their adjoint sources.

Traces are arrays of samples at one interval (s), multiplied by a window that is zero at both ends.  An
adjoint source is the derivative of a misfit by the synthetic trace before the window: for a small change q of
that, the misfit changes by the integral over time of adjoint source times q.  Solvers inject it at the
receiver, reversed in time.

The travel-time misfit (Luo and Schuster 1991, Geophysics 56, 645-653) and its adjoint source are those of
Tromp, Tape and Liu (2005, Geophys. J. Int. 160, 195-216); how a cross-correlation travel time changes with
the trace is in Dahlen, Hung and Nolet (2000, Geophys. J. Int. 141, 157-174).  The waveform misfit is
Tarantola's (1984, Geophysics 49, 1259-1266).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FINER = 16
"""Points that a cross-correlation is computed at, in each interval between samples."""


def cosine_window(samples: int, first: int, last: int, ramp: int) -> Floats:
    """1 from sample `first` to `last`, 0 farther than `ramp` samples from these, cosines between."""
    index = np.arange(samples)
    outside = np.maximum(np.maximum(first - index, index - last), 0)
    return np.asarray(0.5 * (1 + np.cos(np.pi * np.minimum(outside / ramp, 1))))


def delay_of(observed: Floats, synthetic: Floats, interval: float) -> tuple[float, float]:
    """How much later the observed trace is than the synthetic one (s), and their correlation there, -1 to 1.

    That is where their cross-correlation is largest, interpolated to `FINER` points in an interval, and
    between these by a parabola through the largest three.
    """
    size = 2 * len(observed)  # with zeros behind the traces, no end meets a beginning
    spectrum = np.fft.rfft(observed, size) * np.conj(np.fft.rfft(synthetic, size))
    correlation = FINER * np.fft.irfft(spectrum, FINER * size)
    largest = int(np.argmax(correlation))
    before, peak, after = correlation[np.arange(largest - 1, largest + 2) % len(correlation)]
    offset = 0.5 * (before - after) / (before - 2 * peak + after)
    lag = largest if largest < len(correlation) / 2 else largest - len(correlation)
    norm = np.sqrt(np.sum(observed**2) * np.sum(synthetic**2))
    return float((lag + offset) * interval / FINER), float(peak / norm)


def traveltime_misfit(delay: float) -> float:
    """Half the square of a delay (s), in s^2."""
    return 0.5 * delay**2


def traveltime_adjoint(delay: float, synthetic: Floats, window: Floats, interval: float) -> Floats:
    """The adjoint source of the travel-time misfit, for a windowed synthetic trace."""
    slope = derivative(synthetic, interval)
    # The papers divide by the integral of the trace times its second derivative: by parts, minus this one.
    return np.asarray(delay * window * slope / (np.sum(slope**2) * interval))


def derivative(trace: Floats, interval: float) -> Floats:
    """The derivative of a trace that is zero at both ends, exact up to the highest frequency."""
    frequencies = np.fft.rfftfreq(len(trace), interval)
    return np.asarray(np.fft.irfft(2j * np.pi * frequencies * np.fft.rfft(trace), len(trace)))


def waveform_misfit(observed: Floats, synthetic: Floats, interval: float) -> float:
    """Half the integral of the squared difference: the traces' unit, squared, times s."""
    return float(0.5 * np.sum((synthetic - observed) ** 2) * interval)


def waveform_adjoint(observed: Floats, synthetic: Floats, window: Floats) -> Floats:
    """The adjoint source of the waveform misfit."""
    return np.asarray(window * (synthetic - observed))
