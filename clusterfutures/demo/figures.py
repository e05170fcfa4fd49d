"""The figures of a run, as PNG files, drawn from what is in its ASDF file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from clusterfutures.demo.misfit import Measurement, path_of
from clusterfutures.demo.records import catalog, inventory, name_of
from clusterfutures.pipeline import Code, events_of, stations_of

DPI = 120
OBSERVED, SYNTHETIC, WINDOW = "#1a1a1a", "#d1495b", "#f7eed7"
KILOMETRES = 111.195  # in a degree

Found = Mapping[Code, Measurement]


class Picture(NamedTuple):
    """A figure: the name of its file, and what it shows (str)."""

    file: str
    caption: str


def draw(found: Found, computed: Sequence[Code], file: Path, folder: Path) -> list[Picture]:
    """Draw all figures into the folder.

    `found` has all measurements, `computed` the pairs of this run, and `file` is the ASDF file.
    """
    pictures = [rays(found, folder), matrix(found, folder)]
    if computed:
        pictures.append(timing({code: found[code] for code in computed}, folder))
    with h5py.File(file, "r") as h5:
        pictures += [fit(code, h5, folder) for code in found]
    return pictures


def fit(code: Code, h5: h5py.File, folder: Path) -> Picture:
    """Both seismograms of a pair with the window, and below them the adjoint sources."""
    group = h5[f"AuxiliaryData/{path_of(code)}"]
    window, about = group["window"][:], group["window"].attrs
    times = about["start"] + about["interval"] * np.arange(len(window))
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    above.fill_between(times, window, color=WINDOW, lw=0, transform=above.get_xaxis_transform())
    above.plot(times, 1e6 * h5[about["observed"]][:], color=OBSERVED, lw=1.2, label="recorded")
    above.plot(times, 1e6 * h5[about["synthetic"]][:], color=SYNTHETIC, lw=1.0, label="synthetic")
    for phase in "ps":
        above.axvline(about[phase], color="0.5", ls=":", lw=1)
        above.annotate(
            phase.upper(), (about[phase], 1), (3, -3), xycoords=above.get_xaxis_transform(),
            textcoords="offset points", va="top", color="0.4",
        )  # fmt: skip
    above.margins(y=0.2)  # room for the names
    above.set_ylabel("velocity in µm/s")
    above.legend(loc="upper right", frameon=False)
    for name, label in (("adjoint_traveltime", "travel time"), ("adjoint_waveform", "waveform")):
        source = group[name][:]
        below.plot(times, source / (np.abs(source).max() or 1.0), lw=1, label=label)
    below.set_ylabel("adjoint source,\nscaled to 1")
    below.set_xlabel("seconds after the origin time")
    below.legend(loc="upper right", frameon=False)
    inside = times[window > 0]
    below.set_xlim(inside[0] - 0.7, inside[-1] + 0.7)
    delay, known = 1e3 * about["delay"], 1e3 * about["known"]
    title = f"{code.event}, {code.station}: delay {delay:.1f} ms (known: {known:.1f} ms)"
    above.set_title(f"{title}, correlation {about['correlation']:.3f}", fontsize=10)
    caption = f"{code.event} at {code.station}; the window is shaded."
    return _saved(figure, folder, f"fit_{code.event}_{code.station}.png", caption)


def matrix(found: Found, folder: Path) -> Picture:
    """The two measurements of each pair, by event and station."""
    events = sorted({code.event for code in found})
    stations = sorted({code.station for code in found})
    figure = Figure(figsize=(9, 1.6 + 0.5 * len(events)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    delays = _table(found, events, stations, lambda one: 1e3 * one.delay)
    waveforms = _table(found, events, stations, lambda one: one.waveform)
    limit = _limit(found)
    _cells(left, delays, "RdBu_r", Normalize(-limit, limit), "{:.1f}", "delay in ms")
    low, high = np.nanmin(waveforms), np.nanmax(waveforms)
    scale = LogNorm(low, max(high, 1.01 * low))
    _cells(right, waveforms, "viridis", scale, "{:.1e}", "waveform misfit in m²/s")
    for axes in (left, right):
        axes.set_xticks(range(len(stations)), stations)
        axes.set_yticks(range(len(events)), events)
    caption = "By event and station; grey where nothing was recorded. Waveform misfits are nominal."
    return _saved(figure, folder, "misfits.png", caption)


def rays(found: Found, folder: Path) -> Picture:
    """A map for each event with the rays to its stations in the colours of their delays."""
    events, stations = events_of(catalog(), name_of), stations_of(inventory())
    shown = sorted({code.event for code in found})
    figure = Figure(figsize=(3.2 * len(shown) + 1.2, 2.9), layout="constrained")
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    colours = ScalarMappable(Normalize(-_limit(found), _limit(found)), colormaps["RdBu_r"])
    for name, axes in zip(shown, panels):
        origin = events[name].origins[0]
        for code, one in found.items():
            if code.event == name:
                place = stations[code.station]
                ray = [origin.longitude, place.longitude], [origin.latitude, place.latitude]
                axes.plot(*ray, color="0.6", lw=4, zorder=1)  # an edge, as short delays are nearly white
                axes.plot(*ray, color=colours.to_rgba(1e3 * one.delay), lw=3, zorder=1)
        for place in stations.values():
            where = place.longitude, place.latitude
            axes.plot(*where, "v", color="0.2", ms=9, zorder=2)
            away = 9 if place.latitude > origin.latitude else -16
            axes.annotate(place.code, where, (0, away), textcoords="offset points", ha="center", fontsize=9)
        axes.plot(origin.longitude, origin.latitude, "*", color="gold", mec="black", ms=15, zorder=3)
        axes.set_title(f"{name}, {origin.depth / 1000:.1f} km deep", fontsize=10)
        _as_map(axes, origin.latitude)
    panels[0].set_ylabel("latitude")
    _scale(panels[0], origin.latitude)
    figure.colorbar(colours, ax=panels, label="delay in ms", shrink=0.8)
    caption = "Rays from the epicentre to the stations; red where the record comes later than the synthetic."
    return _saved(figure, folder, "rays.png", caption)


def timing(found: Found, folder: Path) -> Picture:
    """When each task ran, by worker."""
    start = min(one.began for one in found.values())
    length = max(one.began + one.took for one in found.values()) - start
    workers = sorted({one.worker for one in found.values()})
    figure = Figure(figsize=(9, 1.4 + 0.45 * len(workers)), layout="constrained")
    axes = figure.subplots()
    events = sorted({code.event for code in found})
    for code, one in found.items():
        row, left = workers.index(one.worker), one.began - start
        axes.barh(row, one.took, left=left, color=_colour(events.index(code.event)), ec="white", height=0.7)
        if one.took > 0.05 * length:  # there is room for a word
            name = code.station.rpartition(".")[2]
            axes.text(left + one.took / 2, row, name, ha="center", va="center", fontsize=8)
    for index, event in enumerate(events):
        axes.barh(0, 0, color=_colour(index), label=event)
    axes.set_yticks(range(len(workers)), workers, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the first began, by the clocks of the nodes")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    caption = "When each pair was computed, and where; the first one in a process waits for its imports."
    return _saved(figure, folder, "timing.png", caption)


# ---- parts ----------------------------------------------------------------------------------------


def _colour(index: int) -> Any:
    """One of ten colours that are easily told apart."""
    return colormaps["tab10"](index % 10)


def _limit(found: Found) -> float:
    """The end of a scale for all delays, in ms."""
    return max(1e3 * abs(one.delay) for one in found.values()) or 1.0


def _table(found: Found, events: Sequence[str], stations: Sequence[str], value: Any) -> Any:
    """An array, events x stations, of a value of each measurement; NaN where there is none."""
    cells = np.full((len(events), len(stations)), math.nan)
    for code, one in found.items():
        cells[events.index(code.event), stations.index(code.station)] = value(one)
    return cells


def _cells(axes: Any, table: Any, colours: str, scale: Normalize, form: str, title: str) -> None:
    axes.set_facecolor("0.85")
    image = axes.imshow(table, cmap=colours, norm=scale, aspect="auto")
    axes.set_title(title, fontsize=10)
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            red, green, blue, _ = image.cmap(scale(value))
            dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
            colour = "white" if dark else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", color=colour, fontsize=9)


def _as_map(axes: Any, latitude: float) -> None:
    """Degrees that are as long as they are on the ground, and some room at the margins."""
    axes.set_aspect(1 / math.cos(math.radians(latitude)))
    axes.margins(0.2, 0.35)
    axes.set_xlabel("longitude")
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(nbins=4)


def _scale(axes: Any, latitude: float) -> None:
    """A bar of two kilometres in the upper left corner."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    x, y = left + 0.05 * (right - left), high - 0.15 * (high - low)
    end = x + 2 / (KILOMETRES * math.cos(math.radians(latitude)))
    axes.plot([x, end], [y, y], color="black", lw=2, solid_capstyle="butt")
    axes.annotate("2 km", ((x + end) / 2, y), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlim=(left, right), ylim=(low, high))


def _saved(figure: Figure, folder: Path, name: str, caption: str) -> Picture:
    figure.savefig(folder / name, dpi=DPI)
    return Picture(name, caption)
