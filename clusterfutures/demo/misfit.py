"""The main job: how well do synthetic seismograms fit the recorded ones, at every station, for every event?

One task of the pipeline is one pair.  It prepares both seismograms, measures the delay between them and two
misfits in a window around P and S, and writes all of it to the one ASDF file of the run.  To compute with
your own data, replace what comes from `records` and `synthetics`; everything else stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
from obspy import Inventory, Trace

from clusterfutures import SerialWriter, current_task
from clusterfutures.demo import asdf, measure
from clusterfutures.demo.measure import Floats
from clusterfutures.demo.records import EventRecords, catalog, event_records, id_of
from clusterfutures.demo.synthetics import known_delay, synthetic_of
from clusterfutures.pipeline import Code, Pipeline

LOGGER = logging.getLogger("clusterfutures.demo")

FILE = "misfits.h5"

BAND = (2.0, 15.0)  # Hz
WINDOW = (0.5, 2.0)  # s before P, and after S
RAMP = 0.3  # s on either side of the window, in which it fades to zero


class Measurement(NamedTuple):
    """What is measured of a pair.

    Attributes: `delay` of the record behind its synthetic (s), and the `known` one (s); `correlation` of the
    two there; `traveltime` (s^2) and `waveform` (m^2/s) misfits; when the task `began` (s since 1970), what
    it `took` (s) without the writing, and the `worker` that it ran in.
    """

    delay: float
    known: float
    correlation: float
    traveltime: float
    waveform: float
    began: float
    took: float
    worker: str


def misfit(code: Code, records: EventRecords, file: str) -> Measurement:
    """One pair: measure it, and write it to the ASDF file that all tasks share."""
    began = time.time()
    recorded = ground_velocity(records.trace(code.station), records.inventory)
    observed = band_passed(recorded)
    synthetic = band_passed(synthetic_of(recorded, code, records))
    interval = observed.stats.delta

    window = window_of(observed, code.station, records)
    d, s = window * observed.data, window * synthetic.data
    delay, correlation = measure.delay_of(d, s, interval)
    LOGGER.info("the record comes %.1f ms after the synthetic; correlation %.3f", 1e3 * delay, correlation)

    arrays = {
        "window": window,
        "adjoint_traveltime": measure.traveltime_adjoint(delay, s, window, interval),
        "adjoint_waveform": measure.waveform_adjoint(d, s, window),
    }
    found = Measurement(
        delay=delay,
        known=known_delay(code, records),
        correlation=correlation,
        traveltime=measure.traveltime_misfit(delay),
        waveform=measure.waveform_misfit(d, s, interval),
        began=began,
        took=time.time() - began,
        worker=worker_name(),
    )
    about = {**found._asdict(), **times_of(observed, code.station, records)}
    station = records.inventory.select(station=observed.stats.station)
    with SerialWriter(file, open=h5py.File, mode="a", atomic=True) as h5:
        write(h5, code, station, {"observed": observed, "synthetic": synthetic}, arrays, about)
    return found


def write(
    h5: h5py.File,
    code: Code,
    station: Inventory,
    traces: Mapping[str, Trace],
    arrays: Mapping[str, Floats],
    about: Mapping[str, object],
) -> None:
    """Put a pair into the file; the caller sees to it that one task does so at a time.

    Each array is told what there is to say of the pair (`about`), and where its seismograms are.
    """
    if not asdf.is_begun(h5):
        asdf.begin(h5, catalog())
    asdf.put_station(h5, station)
    paths = {tag: asdf.put_trace(h5, trace, tag, id_of(code.event)) for tag, trace in traces.items()}
    for name, array in arrays.items():
        asdf.put_data(h5, f"{path_of(code)}/{name}", array, {**about, **paths})


def path_of(code: Code) -> str:
    """Where the file has the window and the adjoint sources of a pair, below ``AuxiliaryData``."""
    return f"Misfits/{code.event}/{code.station}"


def ground_velocity(trace: Trace, inventory: Inventory) -> Trace:
    """The velocity of the ground in m/s, from a record in counts."""
    trace = trace.copy()
    trace.detrend("linear")
    trace.taper(0.05)
    trace.remove_response(inventory, output="VEL", pre_filt=(0.5, 1.0, 20.0, 24.0))
    return trace


def band_passed(trace: Trace) -> Trace:
    """The trace in `BAND`, with its phase as it was."""
    trace = trace.copy()
    trace.detrend("linear")
    trace.taper(0.05)
    trace.filter("bandpass", freqmin=BAND[0], freqmax=BAND[1], corners=4, zerophase=True)
    return trace


def window_of(trace: Trace, station: str, records: EventRecords) -> Floats:
    """The window around P and S, as an array to multiply the trace by."""
    arrivals = records.arrivals[station]
    start, rate = trace.stats.starttime, trace.stats.sampling_rate
    first = round((arrivals.p - WINDOW[0] - start) * rate)
    last = round((arrivals.s + WINDOW[1] - start) * rate)
    return measure.cosine_window(len(trace), first, last, round(RAMP * rate))


def times_of(trace: Trace, station: str, records: EventRecords) -> dict[str, float]:
    """When the trace starts, and P and S arrive, in s after the origin time; the interval of samples (s)."""
    origin, arrivals = records.origin.time, records.arrivals[station]
    return {
        "start": trace.stats.starttime - origin,
        "p": arrivals.p - origin,
        "s": arrivals.s - origin,
        "interval": trace.stats.delta,
    }


def worker_name() -> str:
    """What the timing of the run calls the process that a task runs in."""
    task = current_task()
    return "this process" if task is None else f"job {task.job_id}, worker {task.worker}"


def pipeline_in(output: Path, codes: Iterable[Code]) -> Pipeline:
    """The computation; ``run(executor)`` computes what is not there yet."""
    return Pipeline(
        misfit,
        codes,
        output / "pipeline",
        setup=event_records,
        config={"file": str(output.resolve() / FILE)},
    )
