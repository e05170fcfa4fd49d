"""One HTML page with the table and the figures of a run."""

from __future__ import annotations

import platform
import re
from collections.abc import Collection, Iterable
from html import escape
from pathlib import Path
from typing import Optional
from urllib.parse import quote

import obspy

from clusterfutures._version import __version__
from clusterfutures.demo import records, synthetics
from clusterfutures.demo.figures import Found, Picture, draw
from clusterfutures.demo.misfit import FILE, Measurement
from clusterfutures.pipeline import Code, Result

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 0.9rem }
th, td { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
img { max-width: 100%; height: auto }
figure { margin: 2rem 0 } figcaption { color: #555; font-size: 0.9rem }
.failed { color: #b00020 }
"""

HEADINGS = (
    "event", "station", "delay, ms", "known, ms", "correlation", "travel-time misfit, s²",
    "waveform misfit, m²/s", "took, s", "worker",
)  # fmt: skip


def write(result: Result, before: Collection[Code], output: Path) -> Path:
    """Draw the figures of a run into the directory, and write the page that shows them; its path.

    `before` are the pairs that were kept from an earlier run.
    """
    found: Found = {code: one.value for code, one in result.outcomes.items() if not one.failed}
    computed = [code for code in found if code not in before]
    pictures = draw(found, computed, output / FILE, output) if found else []
    page = output / "index.html"
    page.write_text(_page(result, pictures), encoding="utf-8")
    return page


def _page(result: Result, pictures: Iterable[Picture]) -> str:
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>clusterfutures demo</title><style>{STYLE}</style></head><body>",
        "<h1>Misfits by event and station</h1>",
        *(f"<p>{escape(line)}</p>" for line in result.summary().splitlines()),
        _table(result),
        f'<p>What the figures show is in <a href="{FILE}">{FILE}</a>, an ASDF file, which is HDF5.</p>',
        *map(_figure, pictures),
        "<h2>What is real, and what is not</h2>",
        *_paragraphs(records.__doc__),
        *_paragraphs(synthetics.__doc__),
        f"<p>{escape(_versions())}</p></body></html>\n",
    ]
    return "\n".join(parts)


def _table(result: Result) -> str:
    rows = ["".join(f"<th>{escape(name)}</th>" for name in HEADINGS)]
    for code, outcome in result.outcomes.items():
        pair = f"<td>{escape(code.event)}</td><td>{escape(code.station)}</td>"
        if outcome.failed:
            error = f"{type(outcome.value.error).__name__}: {outcome.value.error}"
            rows.append(f'{pair}<td class="failed" colspan="{len(HEADINGS) - 2}">{escape(error)}</td>')
        else:
            rows.append(pair + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(outcome.value)))
    return "<table>" + "".join(f"<tr>{row}</tr>\n" for row in rows) + "</table>"


def _cells(one: Measurement) -> list[str]:
    return [
        f"{1e3 * one.delay:.1f}",
        f"{1e3 * one.known:.1f}",
        f"{one.correlation:.3f}",
        f"{one.traveltime:.1e}",
        f"{one.waveform:.1e}",
        f"{one.took:.2f}",
        one.worker,
    ]


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    image = f'<img src="{quote(picture.file)}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _versions() -> str:
    return f"clusterfutures {__version__}, ObsPy {obspy.__version__}, Python {platform.python_version()}"


def _paragraphs(text: Optional[str]) -> list[str]:
    """The paragraphs and lists of a docstring."""
    blocks = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text or "")).strip().split("\n\n")
    return [_list(block) if block.startswith("- ") else f"<p>{block}</p>" for block in blocks]


def _list(block: str) -> str:
    items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
