"""Which velocity model explains the travel times?  A misfit for every event/station pair.

For each pair of an event and a station the task makes the "observed" seismogram (a Ricker
wavelet at its travel time in the true model, with noise), the synthetic one for every model of a
grid, and measures the delay between the two by cross-correlation: the travel-time misfit of Luo
and Schuster (1991, Geophysics 56, 645-653).  Over all pairs the delays are smallest for the model
that made the observations, so the program knows its own answer and fails if it does not find it.

The task is an ordinary function and the executor an ordinary executor: ``--executor process``
runs the same program on `concurrent.futures.ProcessPoolExecutor`, ``--executor serial`` in a
plain loop.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Optional, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Floats = npt.NDArray[np.float64]

EVENTS = {f"EV{i:02d}": (7.0 * i % 60.0, 8.0 + 5.0 * i % 23.0) for i in range(1, 13)}
"""Code -> (distance along the profile, depth), both in km."""

STATIONS = {f"XX.S{i:02d}": 5.0 * i for i in range(1, 17)}
"""Code -> distance along the profile in km; all stations are at the surface."""

SURFACE_VELOCITIES = np.linspace(4.6, 5.4, 9)  # km/s
GRADIENTS = np.linspace(0.01, 0.05, 9)  # km/s per km of depth, or 1/s
TRUE_MODEL = (4, 6)  # the indices of 5.0 km/s and 0.04 1/s in the two

INTERVAL = 0.02  # s between samples
SAMPLES = 2048
FREQUENCY = 1.5  # Hz, of the wavelet
NOISE = 0.1  # standard deviation; the wavelet's peak is 1


def travel_time(event: str, station: str, velocity: float, gradient: float) -> float:
    """The direct wave's travel time in s where velocity (km/s) grows linearly with depth.

    Rays are arcs of circles there and the time has a closed form (Slotnick, 1959, "Lessons in
    Seismic Computing").
    """
    x, depth = EVENTS[event]
    squared = (x - STATIONS[station]) ** 2 + depth**2
    below = velocity + gradient * depth
    return float(np.arccosh(1 + gradient**2 * squared / (2 * velocity * below)) / gradient)


def ricker(arrival: float) -> Floats:
    """A seismogram of `SAMPLES` samples with a Ricker wavelet of peak 1 at `arrival` (s)."""
    a = (np.pi * FREQUENCY * (np.arange(SAMPLES) * INTERVAL - arrival)) ** 2
    return np.asarray((1 - 2 * a) * np.exp(-a))


def delay(observed: Floats, synthetic: Floats) -> float:
    """How much later the observed trace is than the synthetic one, in s, by cross-correlation."""
    size = 2 * SAMPLES
    spectrum = np.fft.rfft(observed, size) * np.conj(np.fft.rfft(synthetic, size))
    correlation = np.fft.irfft(spectrum, size)
    peak = int(np.argmax(correlation))
    before, top, after = (correlation[(peak + i) % size] for i in (-1, 0, 1))
    between = 0.5 * (before - after) / (before - 2 * top + after)  # the parabola's summit
    lag = peak - size if peak > SAMPLES else peak
    return float((lag + between) * INTERVAL)


def delays(event: str, station: str) -> Floats:
    """The delay in s of one pair's observation, for every model: velocities x gradients."""
    i, j = TRUE_MODEL
    # Seeded by the names: a pair has the same noise in whatever process and order it is computed.
    noise = np.random.default_rng(zlib.crc32(f"{event} {station}".encode()))
    true_time = travel_time(event, station, SURFACE_VELOCITIES[i], GRADIENTS[j])
    observed = ricker(true_time) + NOISE * noise.standard_normal(SAMPLES)
    grid = [
        delay(observed, ricker(travel_time(event, station, velocity, gradient)))
        for velocity, gradient in itertools.product(SURFACE_VELOCITIES, GRADIENTS)
    ]
    return np.array(grid).reshape(len(SURFACE_VELOCITIES), len(GRADIENTS))


def with_progress(results: Iterable[T], total: int) -> Iterator[T]:
    """Hand `results` on and keep a line on standard error that counts them."""
    start = time.monotonic()
    every = 1 if sys.stderr.isatty() else max(1, total // 4)
    end = "\r" if sys.stderr.isatty() else "\n"
    for done, result in enumerate(results, 1):
        if done % every == 0 or done == total:
            seconds = time.monotonic() - start
            text = f"{done:5d} of {total} pairs, {seconds:5.1f} s, {done / seconds:5.0f} pairs/s"
            print(text, end=end if done < total else "\n", file=sys.stderr, flush=True)
        yield result


def run(executor: Optional[Executor]) -> Floats:
    """The root mean square delay in s over all pairs, for every model: velocities x gradients."""
    events, stations = zip(*itertools.product(EVENTS, STATIONS))
    mapper = map if executor is None else executor.map
    squares = (row**2 for row in with_progress(mapper(delays, events, stations), len(events)))
    return np.asarray(np.sqrt(sum(squares) / len(events)))


def show(misfit: Floats) -> None:
    """Print the misfit of every model."""
    print("rms delay in s     gradient in 1/s")
    print("velocity  " + "".join(f"{gradient:8.3f}" for gradient in GRADIENTS))
    for velocity, row in zip(SURFACE_VELOCITIES, misfit):
        print(f"{velocity:5.2f} km/s" + "".join(f"{value:8.3f}" for value in row))


def make_executor(
    kind: str, max_workers: Optional[int]
) -> AbstractContextManager[Optional[Executor]]:
    """The executor called `kind` on the command line; None for a plain loop."""
    if kind == "serial":
        return nullcontext()
    if kind == "process":
        return ProcessPoolExecutor(max_workers)
    from clusterfutures import LocalExecutor  # only here: the other two do without it

    return LocalExecutor(max_workers)


def main(arguments: Optional[list[str]] = None) -> int:
    """Run the grid search; returns 0 if it found the model that made the observations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--executor", choices=("local", "process", "serial"), default="local")
    parser.add_argument("--max-workers", type=int, help="default: what this process may use")
    options = parser.parse_args(arguments)
    with make_executor(options.executor, options.max_workers) as executor:
        misfit = run(executor)
    show(misfit)
    i, j = divmod(int(np.argmin(misfit)), len(GRADIENTS))
    right = (i, j) == TRUE_MODEL
    best = f"{SURFACE_VELOCITIES[i]:.2f} km/s at the surface, {GRADIENTS[j]:.3f} 1/s"
    print(f"best: {best}: {'the true model' if right else 'NOT the true model'}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
