"""Codes as values, pairs of them, and the files and catalogues that they are read from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterfutures.pipeline.codes import (
    Code,
    Station,
    events_of,
    pairs,
    picked_pairs,
    read_pairs,
    read_stations,
    stations_of,
)
from tests.extras import needed

# Few characters, so that names are full of separators, escapes and pieces of both.
NAMES = st.text("ab|\\-.:", min_size=1, max_size=6) | st.text(min_size=1, max_size=6)
CODES = st.builds(Code, NAMES, NAMES)
SEPARATORS = st.sampled_from(["|", "--", "-|-", ".", ":", "a", " | ", "\n", "ab"])


class TestCode:
    """What is written can be told apart, and read again."""

    @settings(deadline=None)
    @given(CODES, SEPARATORS)
    def test_round_trip(self, code: Code, separator: str) -> None:
        assert Code.parse(code.write(separator), separator) == code

    @settings(deadline=None)
    @given(CODES, CODES, SEPARATORS)
    def test_no_two_are_written_alike(self, one: Code, other: Code, separator: str) -> None:
        assert (one.write(separator) == other.write(separator)) == (one == other)

    @settings(deadline=None)
    @given(st.text("ab|\\-.", max_size=8), SEPARATORS)
    def test_what_can_be_read_is_what_was_written(self, text: str, separator: str) -> None:
        try:
            code = Code.parse(text, separator)
        except ValueError:
            return
        assert code.write(separator) == text

    def test_a_value(self) -> None:
        assert str(Code("1", "XX.A")) == "1|XX.A"
        assert Code("1", "XX.A") == Code("1", "XX.A") != Code("11", "XX.A")
        assert len({Code("1", "XX.A"), Code("1", "XX.A")}) == 1
        assert sorted([Code("2", "XX.A"), Code("1", "XX.B")])[0].event == "1"
        assert Code("a.b", "XX.A").write(".") == r"a\.b.XX.A"

    @pytest.mark.parametrize("text", ["", "|", "a", "a|", "|b", "a\\", "a\\b|c", "-a|b"])
    def test_what_is_no_code(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not an event"):
            Code.parse(text, "|" if "-" not in text else "--")

    @pytest.mark.parametrize("separator", ["", "\\", "|\\"])
    def test_what_is_no_separator(self, separator: str) -> None:
        with pytest.raises(ValueError, match="no backslash"):
            Code("a", "b").write(separator)
        with pytest.raises(ValueError, match="no backslash"):
            Code.parse("a|b", separator)

    def test_what_is_no_name(self) -> None:
        with pytest.raises(TypeError, match="event must be a str, not 1"):
            Code(1, "XX.A")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="station is empty"):
            Code("1", "")


class TestPairs:
    """All, or those that a predicate keeps."""

    def test_all_event_by_event(self) -> None:
        codes = pairs(iter(["1", "2"]), iter(["XX.A", "XX.B"]))
        assert [str(code) for code in codes] == ["1|XX.A", "1|XX.B", "2|XX.A", "2|XX.B"]

    def test_each_once(self) -> None:
        assert pairs(["1", "1"], ["XX.A", "XX.A"]) == [Code("1", "XX.A")]

    def test_those_that_are_kept(self) -> None:
        codes = pairs(["1", "11"], ["XX.A"], lambda code: code.event == "1")
        assert codes == [Code("1", "XX.A")]


class TestReadPairs:
    """A CSV file with the codes in columns."""

    def test_columns_by_their_names(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text('weight,event,station\n1, 1 ,XX.A\n2,"a,b",XX.B\n3,1,XX.A\n', encoding="utf-8-sig")
        assert read_pairs(path) == [Code("1", "XX.A"), Code("a,b", "XX.B")]

    def test_a_column_for_the_network(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text("net,sta,ev\nXX,A,1\n")
        assert read_pairs(path, "ev", "sta", "net") == [Code("1", "XX.A")]

    def test_what_is_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text("event,sta\n1,XX.A\n2\n")
        with pytest.raises(ValueError, match=r"no column 'station', but .*'sta'"):
            read_pairs(path)
        with pytest.raises(ValueError, match="line 3: a code is missing"):
            read_pairs(path, station="sta")
        path.write_text("")
        with pytest.raises(ValueError, match="no column 'event'"):
            read_pairs(path)


class TestReadStations:
    """A STATIONS file of SPECFEM3D."""

    def test_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "STATIONS"
        path.write_text("# comment\nA  XX  48.5 -11.25  500.0  2.5\n\n  B YY 0 0 0 0\n")
        stations = read_stations(path)
        assert list(stations) == ["XX.A", "YY.B"]
        assert stations["XX.A"] == Station("XX.A", 48.5, -11.25, 500.0, 2.5)
        assert pairs(["1"], stations) == [Code("1", "XX.A"), Code("1", "YY.B")]

    @pytest.mark.parametrize("line", ["A XX 1 2 3", "A XX 1 2 3 4 5", "A XX 1 2 3 deep"])
    def test_a_line_that_cannot_be_read(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "STATIONS").write_text(f"B XX 1 2 3 4\n{line}\n")
        with pytest.raises(ValueError, match="line 2: not STATION NETWORK"):
            read_stations(tmp_path / "STATIONS")

    def test_a_station_that_comes_twice(self, tmp_path: Path) -> None:
        (tmp_path / "STATIONS").write_text("B XX 1 2 3 4\nB XX 1 2 3 5\n")
        with pytest.raises(ValueError, match=r"line 2: there is a station XX\.B already"):
            read_stations(tmp_path / "STATIONS")


def pick(network: str | None, station: str) -> Any:
    """A pick as ObsPy has it."""
    return SimpleNamespace(waveform_id=SimpleNamespace(network_code=network, station_code=station))


def event(name: str, *picks: Any) -> Any:
    """An event as ObsPy has it."""
    return SimpleNamespace(resource_id=SimpleNamespace(id=name), picks=list(picks))


class Network(list[Any]):
    """A network as ObsPy has it."""

    def __init__(self, code: str, *stations: tuple[str, float]) -> None:
        super().__init__(
            SimpleNamespace(code=name, latitude=latitude, longitude=2.0, elevation=3.0)
            for name, latitude in stations
        )
        self.code = code


class TestCatalogues:
    """Objects like ObsPy's Catalog and Inventory."""

    def test_events(self) -> None:
        catalog = [event("smi:x/1"), event("smi:x/11")]
        assert events_of(catalog) == {"smi:x/1": catalog[0], "smi:x/11": catalog[1]}
        assert list(events_of(catalog, lambda one: one.resource_id.id[6:])) == ["1", "11"]

    def test_two_of_one_name(self) -> None:
        with pytest.raises(ValueError, match=r"two events .* are called 'same'"):
            events_of([event("1"), event("2")], lambda one: "same")

    def test_pairs_that_were_picked(self) -> None:
        catalog = [event("1", pick("XX", "A"), pick("XX", "A"), pick(None, "B")), event("2")]
        assert picked_pairs(catalog) == [Code("1", "XX.A"), Code("1", ".B")]

    def test_pairs_of_events_by_other_names(self) -> None:
        catalog = [event("smi:x/1", pick("XX", "A")), event("smi:x/2", pick("XX", "B"))]
        codes = picked_pairs(catalog, lambda event: event.resource_id.id[-1])
        assert codes == [Code("1", "XX.A"), Code("2", "XX.B")]

    def test_stations(self) -> None:
        inventory = [Network("XX", ("A", 1.0), ("A", 1.5)), Network("YY", ("A", 5.0))]
        assert stations_of(inventory) == {
            "XX.A": Station("XX.A", 1.5, 2.0, 3.0),
            "YY.A": Station("YY.A", 5.0, 2.0, 3.0),
        }


@pytest.mark.filterwarnings("default")  # ObsPy and what it imports have warnings of their own
class TestObsPy:
    """The examples that come with it."""

    def test_catalog(self) -> None:
        obspy = needed("obspy")
        events = events_of(obspy.read_events())
        assert len(events) == 3
        assert all(str(one.resource_id) == code for code, one in events.items())

    def test_picks(self) -> None:
        obspy_event = needed("obspy.core.event")
        stream = obspy_event.WaveformStreamID(network_code="XX", station_code="A")
        one = obspy_event.Event(resource_id="smi:x/1", picks=[obspy_event.Pick(waveform_id=stream)])
        assert picked_pairs(obspy_event.Catalog([one])) == [Code("smi:x/1", "XX.A")]

    def test_inventory(self) -> None:
        obspy = needed("obspy")
        stations = stations_of(obspy.read_inventory())
        assert stations["GR.FUR"].latitude == pytest.approx(48.162899)
        assert stations["GR.FUR"].elevation == pytest.approx(565.0)
