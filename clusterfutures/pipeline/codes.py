"""Which event and which station: codes as values, pairs of them, and where they are read from.

ObsPy is not imported: whatever looks like its Catalog or Inventory will do.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Union

Path = Union[str, "os.PathLike[str]"]

ESCAPE = "\\"


@dataclass(frozen=True, order=True)
class Code:
    r"""An event and a station, each by its code; ``str()`` writes it as ``event|NET.STA``.

    Attributes: `event` and `station` (str), neither empty.  TypeError for what is not a str: 1 and "1" would
    be written alike.

    >>> str(Code("EV01", "XX.S01"))
    'EV01|XX.S01'
    >>> Code.parse("EV01|XX.S01") == Code("EV01", "XX.S01")
    True
    >>> print(Code("a|b", "XX.S01"))
    a\|b|XX.S01
    """

    event: str
    station: str

    def __post_init__(self) -> None:
        for what, name in (("event", self.event), ("station", self.station)):
            if not isinstance(name, str):
                raise TypeError(f"the code of the {what} must be a str, not {name!r}")
            if not name:
                raise ValueError(f"the code of the {what} is empty")

    def __str__(self) -> str:
        return self.write()

    def write(self, separator: str = "|") -> str:
        """The event, the separator and the station; what the separator begins with is escaped in the event.

        No two codes are written alike with one separator.  Raises ValueError for an empty separator, and
        for one with a backslash.
        """
        event = self.event.replace(ESCAPE, 2 * ESCAPE)
        first = check_separator(separator)[0]
        return event.replace(first, ESCAPE + first) + separator + self.station

    @classmethod
    def parse(cls, text: str, separator: str = "|") -> Code:
        """The code that `write` has written with this separator; ValueError for any other text."""
        check_separator(separator)
        event: list[str] = []
        characters = iter(enumerate(text))
        for index, character in characters:
            if character == separator[0]:
                rest = text[index:]
                if rest.startswith(separator) and event and len(rest) > len(separator):
                    return cls("".join(event), rest[len(separator) :])
                break
            if character == ESCAPE:
                _, character = next(characters, (index, ""))
                if character not in (ESCAPE, separator[0]):
                    break
            event.append(character)
        raise ValueError(f"{text!r} is not an event, {separator!r} and a station")


def check_separator(separator: str) -> str:
    """The separator itself; ValueError for one that cannot be told from what it separates."""
    if not separator or ESCAPE in separator:
        raise ValueError(f"a separator is not empty and has no backslash; {separator!r} will not do")
    return separator


class Station(NamedTuple):
    """Where a station is.

    Attributes: `code` (str, ``NET.STA``); `latitude` and `longitude` in degrees; `elevation` and `burial`
    in metres, the burial None where it is not told.
    """

    code: str
    latitude: float
    longitude: float
    elevation: float
    burial: Optional[float] = None


# Pairs -----------------------------------------------------------------------------------------------------


def pairs(
    events: Iterable[str], stations: Iterable[str], keep: Optional[Callable[[Code], object]] = None
) -> list[Code]:
    """Every event with every station, event by event, or those of them for which `keep` says so.

    What the readers below return will do for either.

    >>> [str(code) for code in pairs(["1", "11"], ["XX.A", "XX.B"], lambda code: code.event == "1")]
    ['1|XX.A', '1|XX.B']
    """
    names = list(stations)
    codes = (Code(event, station) for event in events for station in names)
    return list(dict.fromkeys(code for code in codes if keep is None or keep(code)))


def picked_pairs(catalog: Iterable[Any], name: Optional[Callable[[Any], str]] = None) -> list[Code]:
    """The pairs that an ObsPy Catalog lists: an event with each station that it has picks of.

    The events are called as in `events_of`, where `name` comes from.
    """
    return list(
        dict.fromkeys(
            Code(event, f"{pick.waveform_id.network_code or ''}.{pick.waveform_id.station_code}")
            for event, found in events_of(catalog, name).items()
            for pick in found.picks
        )
    )


def read_pairs(
    path: Path, event: str = "event", station: str = "station", network: Optional[str] = None
) -> list[Code]:
    """The pairs that a CSV file lists, each once.

    Its first row names the columns.  `event` and `station` are the names of those with the codes; with
    `network`, the name of a third one, stations are called ``NET.STA``.  Raises ValueError, which names the
    line, where a column or a code is missing.
    """
    wanted = [event, station] if network is None else [event, network, station]
    codes = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for name in wanted:
            if name not in (reader.fieldnames or ()):
                raise ValueError(f"{os.fspath(path)} has no column {name!r}, but {reader.fieldnames}")
        for row in reader:
            cells = [(row[name] or "").strip() for name in wanted]
            if not all(cells):
                raise ValueError(f"{os.fspath(path)}, line {reader.line_num}: a code is missing")
            codes.append(Code(cells[0], ".".join(cells[1:])))
    return list(dict.fromkeys(codes))


# Events and stations ---------------------------------------------------------------------------------------


def events_of(catalog: Iterable[Any], name: Optional[Callable[[Any], str]] = None) -> dict[str, Any]:
    """The events of an ObsPy Catalog by their codes.

    `name` makes the code of an event; by default it is its whole resource identifier.  Raises ValueError for
    two events of one name.
    """
    events: dict[str, Any] = {}
    for event in catalog:
        code = str(event.resource_id.id) if name is None else name(event)
        if code in events:
            raise ValueError(f"two events of the catalogue are called {code!r}")
        events[code] = event
    return events


def stations_of(inventory: Iterable[Any]) -> dict[str, Station]:
    """The stations of an ObsPy Inventory by their codes; of several epochs, the last in the inventory."""
    found = (
        Station(f"{network.code}.{station.code}", *map(float, _position(station)))
        for network in inventory
        for station in network
    )
    return {station.code: station for station in found}


def _position(station: Any) -> tuple[Any, Any, Any]:
    return station.latitude, station.longitude, station.elevation


def read_stations(path: Path) -> dict[str, Station]:
    """The stations of a STATIONS file by their codes.

    A line has a station's code, its network, latitude, longitude, elevation and burial, separated by blanks:
    the format of SPECFEM3D (its manual, "STATIONS").  Empty lines and those that begin with ``#`` are passed
    over.  Raises ValueError, which names the line, for one that cannot be read, and for a second one of a
    station.
    """
    stations: dict[str, Station] = {}
    for number, words in _lines_of(path):
        try:
            name, network, *numbers = words
            latitude, longitude, elevation, burial = map(float, numbers)
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(path)}, line {number}: not STATION NETWORK LATITUDE LONGITUDE ELEVATION BURIAL"
            ) from error
        code = f"{network}.{name}"
        if code in stations:
            raise ValueError(f"{os.fspath(path)}, line {number}: there is a station {code} already")
        stations[code] = Station(code, latitude, longitude, elevation, burial)
    return stations


def _lines_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has some, and its number."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line.split()
