"""The records are what the demo says of them, and so are the synthetics."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from tests.extras import needed

pytestmark = pytest.mark.usefixtures("extra")

EVENTS = ("UH-162431", "UH-162700", "UH-162729")


@pytest.fixture
def records() -> Any:
    """What there is of the first event."""
    from clusterfutures.demo.records import event_records

    return event_records(EVENTS[0])


def test_pairs() -> None:
    from clusterfutures.demo.records import catalog, name_of
    from clusterfutures.pipeline import picked_pairs

    codes = picked_pairs(catalog(), name_of)
    assert [len([code for code in codes if code.event == event]) for event in EVENTS] == [4, 3, 4]


def test_a_pick_is_where_obspy_has_it(records: Any) -> None:
    obspy = needed("obspy")
    assert abs(records.arrivals["BW.UH1"].p - obspy.UTCDateTime("2010-05-27T16:24:33.315")) < 0.001


@pytest.mark.parametrize("event", [EVENTS[0], EVENTS[2]])
def test_the_ground_begins_to_move_at_the_pick(event: str) -> None:
    from clusterfutures.demo.misfit import band_passed
    from clusterfutures.demo.records import event_records

    records = event_records(event)
    for station, arrivals in records.arrivals.items():
        trace = band_passed(records.trace(station))
        before = trace.slice(arrivals.p - 1.1, arrivals.p - 0.1).data.std()
        after = trace.slice(arrivals.p - 0.1, arrivals.p + 0.9).data.std()
        assert after > 4 * before, station


def test_stations_are_where_the_quakeml_says(records: Any) -> None:
    from clusterfutures.pipeline import stations_of

    geodetics = needed("obspy.geodetics")
    found = {}
    for name, station in stations_of(records.inventory).items():
        place = records.origin.latitude, records.origin.longitude, station.latitude, station.longitude
        metres, azimuth, _ = geodetics.gps2dist_azimuth(*place)
        found[name] = (metres, azimuth)
    # Distance and direction by NonLinLoc, on a plane (io/nlloc/tests/data/nlloc_custom.hyp).
    expected = {"UH1": (3890, 349.9), "UH2": (2976, 66.5), "UH3": (1880, 195.7), "UH4": (8359, 259.0)}
    for name, (metres, azimuth) in expected.items():
        assert found[f"BW.{name}"] == (pytest.approx(metres, rel=0.01), pytest.approx(azimuth, abs=0.5))


def test_what_an_installation_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from clusterfutures.demo import records

    monkeypatch.setattr(records, "WAVEFORMS", "signal/tests/data/lost.*")
    with pytest.raises(records.RecordsMissing, match="pip install"):
        records.event_records(EVENTS[0])


def test_response_is_removed(records: Any) -> None:
    """A sine of so many counts is one metre per second, by the sensitivity that the StationXML gives."""
    from clusterfutures.demo.misfit import ground_velocity

    np = needed("numpy")
    trace = records.trace("BW.UH1")
    sensitivity = records.inventory[0][0][0].response.instrument_sensitivity.value
    trace.data = sensitivity * np.sin(2 * np.pi * 5 * trace.times())
    middle = ground_velocity(trace, records.inventory).data[len(trace) // 3 : -len(trace) // 3]
    assert np.abs(middle).max() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("seconds", [0.0, 0.1, -0.06, 0.0137])
def test_a_trace_is_moved_by_any_time(seconds: float) -> None:
    from clusterfutures.demo.synthetics import advanced

    np = needed("numpy")
    times = 0.02 * np.arange(500)
    pulse = lambda at: np.exp(-(((times - at) / 0.2) ** 2))
    assert advanced(pulse(5), seconds, 0.02) == pytest.approx(pulse(5 - seconds), abs=1e-6)


def test_a_known_delay_is_recovered(records: Any, tmp_path: Path) -> None:
    from clusterfutures.demo.misfit import misfit
    from clusterfutures.pipeline import Code

    codes = [Code(EVENTS[0], station) for station in sorted(records.arrivals)]
    found = [misfit(code, records, str(tmp_path / "misfits.h5")) for code in codes]
    for one in found:
        assert one.delay == pytest.approx(one.known, abs=0.0005)
        assert one.correlation > 0.97
    assert found[1].known < 0 and found[3].known > 0.05, "a little to the east, and far to the west"


def test_the_file_is_what_asdf_says(records: Any, tmp_path: Path) -> None:
    from clusterfutures.demo.misfit import misfit
    from clusterfutures.pipeline import Code

    h5py, obspy = needed("h5py"), needed("obspy")
    path = tmp_path / "misfits.h5"
    misfit(Code(EVENTS[0], "BW.UH2"), records, str(path))
    with h5py.File(path, "r") as h5:
        assert dict(h5.attrs) == {"file_format": b"ASDF", "file_format_version": b"1.0.3"}
        assert set(h5) == {"Waveforms", "QuakeML", "AuxiliaryData", "Provenance"}
        read = {
            "QUAKEML": obspy.read_events(io.BytesIO(h5["QuakeML"][:].tobytes())),
            "STATIONXML": obspy.read_inventory(io.BytesIO(h5["Waveforms/BW.UH2/StationXML"][:].tobytes())),
        }
        name = "BW.UH2..SHZ__2010-05-27T16:24:27__2010-05-27T16:24:41__observed"
        trace = h5[f"Waveforms/BW.UH2/{name}"]
        assert obspy.UTCDateTime(ns=int(trace.attrs["starttime"])) == records.trace("BW.UH2").stats.starttime
        assert trace.attrs["sampling_rate"] == 50
        assert trace.attrs["event_id"].decode() == read["QUAKEML"][0].resource_id.id
    assert len(read["QUAKEML"]) == 3
    response = read["STATIONXML"][0][0][0].response
    assert response == records.inventory.select(station="UH2")[0][0][0].response


def test_a_pair_is_written_anew(records: Any, tmp_path: Path) -> None:
    from clusterfutures.demo.misfit import misfit
    from clusterfutures.pipeline import Code

    h5py = needed("h5py")
    for _ in range(2):
        misfit(Code(EVENTS[0], "BW.UH1"), records, str(tmp_path / "misfits.h5"))
    with h5py.File(tmp_path / "misfits.h5", "r") as h5:
        assert list(h5["AuxiliaryData/Misfits"]) == [EVENTS[0]]
        assert list(h5[f"AuxiliaryData/Misfits/{EVENTS[0]}"]) == ["BW.UH1"]
        assert len(h5["Waveforms/BW.UH1"]) == 3, "the StationXML, and two seismograms"
