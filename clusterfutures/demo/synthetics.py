"""Synthetic seismograms that are wrong in a known way, so that the demo can tell whether it is right.

They are what a solver would have computed in a model that is 4 % too slow to the east and 4 % too fast to the
west: each is the recorded ground motion itself, but

- moved in time by 4 % of the travel time of P, times the sine of the azimuth (`ERROR`);
- scaled by 0.8, 1 or 1.25, one of these for each event, as if its magnitude were wrong (`SCALES`);
- with white noise of 2 % of its largest amplitude (`NOISE`), whose seed is the name of the pair.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt
from obspy import Trace
from obspy.geodetics import gps2dist_azimuth

from clusterfutures.demo.records import EventRecords
from clusterfutures.pipeline import Code

Floats = npt.NDArray[np.float64]

ERROR = 0.04
"""Of the slowness, as a part of it, towards the east."""

SCALES = (0.8, 1.0, 1.25)
"""What amplitudes are multiplied by: one of these for each event."""

NOISE = 0.02
"""The noise's standard deviation, as a part of the largest amplitude."""


def known_delay(code: Code, records: EventRecords) -> float:
    """How much later than its synthetic the record of a pair is, in s: the answer."""
    origin = records.origin
    station = records.inventory.select(station=code.station.split(".")[1])[0][0]
    place = origin.latitude, origin.longitude, station.latitude, station.longitude
    azimuth = math.radians(gps2dist_azimuth(*place)[1])
    return -ERROR * math.sin(azimuth) * float(records.arrivals[code.station].p - origin.time)


def synthetic_of(observed: Trace, code: Code, records: EventRecords) -> Trace:
    """The synthetic seismogram of a pair, from its recorded ground motion."""
    synthetic = observed.copy()
    moved = advanced(observed.data, known_delay(code, records), observed.stats.delta)
    noise = np.random.default_rng(seed_of(str(code))).standard_normal(len(moved))
    scale = SCALES[seed_of(code.event) % len(SCALES)]
    synthetic.data = scale * (moved + NOISE * np.abs(moved).max() * noise)
    return synthetic


def advanced(data: Floats, seconds: float, interval: float) -> Floats:
    """A trace that is zero at both ends, so many `seconds` earlier; these need not be whole intervals (s)."""
    size = 2 * len(data)  # what leaves at one end does not come in at the other
    frequencies = np.fft.rfftfreq(size, interval)
    spectrum = np.fft.rfft(data, size) * np.exp(2j * np.pi * frequencies * seconds)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(data)])


def seed_of(name: str) -> int:
    """A number that is the same for a name in every process."""
    return zlib.crc32(name.encode())
