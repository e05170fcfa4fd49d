"""The rules by which an HDF5 file is an ASDF file (Krischer et al. 2016, Geophys. J. Int. 207, 1003-1011).

That is the Adaptable Seismic Data Format, version 1.0.3, which `pyasdf` reads.  Nothing but h5py is needed to
write it: the seismograms, the StationXML of each station and the QuakeML of the events have their
places, and what else there is belongs into ``AuxiliaryData``.

What a pair puts takes the place of what has its path: its task may have been killed after it had written.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from obspy import Catalog, Inventory, Trace

TIME = "%Y-%m-%dT%H:%M:%S"


def is_begun(h5: h5py.File) -> bool:
    """Whether the file has its catalogue."""
    return "QuakeML" in h5


def begin(h5: h5py.File, catalog: Catalog) -> None:
    """Make an empty file an ASDF file with these events."""
    h5.attrs["file_format"] = np.bytes_("ASDF")
    h5.attrs["file_format_version"] = np.bytes_("1.0.3")
    for name in ("Waveforms", "AuxiliaryData", "Provenance"):
        h5.require_group(name)
    _put(h5, "QuakeML", _written(catalog, "QUAKEML"), {})


def put_station(h5: h5py.File, inventory: Inventory) -> None:
    """Put the StationXML of an Inventory that has one station, if the file does not have that station yet."""
    [network] = inventory
    [station] = network
    path = f"Waveforms/{network.code}.{station.code}/StationXML"
    if path not in h5:
        _put(h5, path, _written(inventory, "STATIONXML"), {})


def put_trace(h5: h5py.File, trace: Trace, tag: str, event_id: str) -> str:
    """Put a seismogram of an event; its path in the file.  `tag` is in lower-case letters."""
    stats = trace.stats
    name = "__".join([trace.id, stats.starttime.strftime(TIME), stats.endtime.strftime(TIME), tag])
    attributes = {
        "starttime": stats.starttime.ns,
        "sampling_rate": stats.sampling_rate,
        "event_id": np.bytes_(event_id),
    }
    return _put(h5, f"Waveforms/{stats.network}.{stats.station}/{name}", trace.data, attributes)


def put_data(h5: h5py.File, path: str, data: npt.ArrayLike, attributes: Mapping[str, object]) -> None:
    """Put an array that is no seismogram, with what there is to say of it; `path` as "Type/what/ever"."""
    _put(h5, f"AuxiliaryData/{path}", data, attributes)


def _put(h5: h5py.File, path: str, data: npt.ArrayLike, attributes: Mapping[str, object]) -> str:
    if path in h5:
        del h5[path]
    h5[path] = data
    h5[path].attrs.update(attributes)
    return path


def _written(what: Any, form: str) -> npt.NDArray[np.int8]:
    """What ObsPy writes of it, in one of its formats, as an array of bytes."""
    file = io.BytesIO()
    what.write(file, format=form)
    return np.frombuffer(file.getvalue(), dtype=np.int8)
