"""What the demo computes with: records of three earthquakes, out of the files that ObsPy's own tests read.

On 27 May 2010 four stations recorded a swarm of small earthquakes at Unterhaching, near Munich.  From ObsPy's
package come

- the records of three of them, in counts, of BW.UH1 to BW.UH4 (``signal/tests/data``);
- the QuakeML of a fourth, 29 minutes later, with its hypocentre, P and S picks at all four stations, and the
  distance and azimuth of each (``io/nlloc/tests/data``);
- the StationXML of BW.RJOB (`obspy.read_inventory`).

What the package does not have is derived from that, here.  The three have the hypocentre of the fourth, and
its travel times: their seismograms are alike at every station.  The origin time of the first follows from the
pick at UH1 in ObsPy's test of `xcorr_pick_correction`, those of the others from their correlation with the
first.  The positions of the stations follow from distance and azimuth.  All instruments are taken for that of
RJOB, so that amplitudes are nominal.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import obspy
from obspy import Catalog, Inventory, Stream, Trace, UTCDateTime
from obspy.core.event import Event, Origin, Pick, ResourceIdentifier, WaveformStreamID
from obspy.core.inventory import Channel, Network, Response, Station

from clusterfutures.errors import ClusterFuturesError

WAVEFORMS = "signal/tests/data/BW.UH?._.?HZ.D.2010.147.cut.slist.gz"
LOCATED = "io/nlloc/tests/data/nlloc_custom.qml"

EVENTS = {
    "UH-162431": ("2010-05-27T16:24:31.797", ("UH1", "UH2", "UH3", "UH4")),
    "UH-162700": ("2010-05-27T16:27:00.617", ("UH1", "UH2", "UH3")),  # UH4 has nothing but noise of it
    "UH-162729": ("2010-05-27T16:27:29.060", ("UH1", "UH2", "UH3", "UH4")),
}
"""Origin time, and the stations that recorded it, by the name of the event."""

ELEVATION = 400.0
"""Of all stations, in m; the location of the fourth event took it for all of them."""

BEFORE, AFTER = 4.0, 10.0
"""Seconds of a record before and after the origin time."""


class RecordsMissing(ClusterFuturesError):
    """ObsPy is installed without the files of its tests."""


class Arrivals(NamedTuple):
    """When P and S arrive, each a UTCDateTime."""

    p: UTCDateTime
    s: UTCDateTime


class EventRecords(NamedTuple):
    """What there is of one event: its Origin, Arrivals by station, the Stream in counts, the Inventory."""

    origin: Origin
    arrivals: dict[str, Arrivals]
    stream: Stream
    inventory: Inventory

    def trace(self, station: str) -> Trace:
        """A copy of the record of the station, called "NET.STA"."""
        network, name = station.split(".")
        return self.stream.select(network=network, station=name)[0].copy()


def event_records(name: str) -> EventRecords:
    """All that is needed to compute the pairs of one event; raises KeyError for an unknown one."""
    [event] = [event for event in catalog() if name_of(event) == name]
    origin = event.origins[0]
    stream = obspy.read(_path(WAVEFORMS)).slice(origin.time - BEFORE, origin.time + AFTER)
    return EventRecords(origin, _arrivals(event), stream, inventory())


def name_of(event: Event) -> str:
    """The short name of an event of the catalogue."""
    return str(event.resource_id.id).rpartition("/")[2]


def id_of(name: str) -> str:
    """The identifier of the event with this short name."""
    return f"smi:local/demo/{name}"


def catalog() -> Catalog:
    """The three events, with the picks of the stations that recorded them."""
    located = _located()
    return Catalog([_alike(located, name, UTCDateTime(time), by) for name, (time, by) in EVENTS.items()])


def inventory() -> Inventory:
    """The four stations, with an instrument each."""
    instrument = obspy.read_inventory().select(network="BW", station="RJOB", channel="EHZ")[0][-1][0]
    ids = [trace.id.split(".") for trace in obspy.read(_path(WAVEFORMS), headonly=True)]
    stations = [_station(name, channel, instrument.response) for _, name, _, channel in ids]
    return Inventory([Network("BW", stations=stations)], source="clusterfutures demo")


# ---- derived --------------------------------------------------------------------------------------


def _alike(located: Event, name: str, time: UTCDateTime, stations: tuple[str, ...]) -> Event:
    """An event with hypocentre and travel times of the located one, at another time."""
    there = located.origins[0]
    picks = [
        Pick(
            time=time + (pick.time - there.time),
            phase_hint=pick.phase_hint,
            waveform_id=WaveformStreamID("BW", pick.waveform_id.station_code),
        )
        for pick in located.picks
        if pick.waveform_id.station_code in stations
    ]
    origin = Origin(time=time, latitude=there.latitude, longitude=there.longitude, depth=there.depth)
    return Event(resource_id=ResourceIdentifier(id_of(name)), origins=[origin], picks=picks)


def _arrivals(event: Event) -> dict[str, Arrivals]:
    times: dict[str, dict[str, UTCDateTime]] = {}
    for pick in event.picks:
        station = f"{pick.waveform_id.network_code}.{pick.waveform_id.station_code}"
        times.setdefault(station, {})[pick.phase_hint] = pick.time
    return {station: Arrivals(phases["P"], phases["S"]) for station, phases in times.items()}


def _station(name: str, channel: str, response: Response) -> Station:
    """A station where the located event says that it is: so many degrees from it, in that direction."""
    located = _located()
    origin = located.origins[0]
    [distance, azimuth] = next(
        (arrival.distance, math.radians(arrival.azimuth))
        for arrival in origin.arrivals
        if _station_of(located, arrival.pick_id) == name
    )
    # Over eight kilometres the Earth is flat.
    latitude = origin.latitude + distance * math.cos(azimuth)
    longitude = origin.longitude + distance * math.sin(azimuth) / math.cos(math.radians(origin.latitude))
    place = {"latitude": latitude, "longitude": longitude, "elevation": ELEVATION}
    own = Channel(channel, location_code="", depth=0.0, response=response, **place)
    return Station(name, channels=[own], **place)


def _station_of(event: Event, pick_id: ResourceIdentifier) -> str:
    [name] = [pick.waveform_id.station_code for pick in event.picks if pick.resource_id == pick_id]
    return str(name)


# ---- files ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _located() -> Event:
    return obspy.read_events(_path(LOCATED))[0]


def _path(pattern: str) -> str:
    """The path in ObsPy's package; raises RecordsMissing where nothing is there."""
    package = Path(obspy.__file__).parent
    if not list(package.glob(pattern)):
        raise RecordsMissing(
            f"{package} lacks {pattern}, which ObsPy's wheel from PyPI has: "
            "pip install --force-reinstall obspy, in a virtual environment"
        )
    return str(package / pattern)
