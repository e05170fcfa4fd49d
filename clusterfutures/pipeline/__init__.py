"""A function over events and stations, on any `concurrent.futures` executor.

>>> import tempfile
>>> from clusterfutures import SerialExecutor
>>> def misfit(code):
...     return len(code.station) / len(code.event)
>>> pipeline = Pipeline(misfit, pairs(["EV1", "EV22"], ["XX.S1"]), tempfile.mkdtemp())
>>> with SerialExecutor() as ex:
...     pipeline.run(ex)
{'EV1': {'XX.S1': 1.6666666666666667}, 'EV22': {'XX.S1': 1.25}}

What has come of a pair is in the pipeline's directory as soon as it is there.  Run again, also after an
interrupt, only what is missing or failed is computed.
"""

from __future__ import annotations

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
from clusterfutures.pipeline.kept import PipelineChanged
from clusterfutures.pipeline.report import Failure, Outcome, Result
from clusterfutures.pipeline.run import PairFailed, Pipeline

__all__ = [
    "Code",
    "Failure",
    "Outcome",
    "PairFailed",
    "Pipeline",
    "PipelineChanged",
    "Result",
    "Station",
    "events_of",
    "pairs",
    "picked_pairs",
    "read_pairs",
    "read_stations",
    "stations_of",
]
