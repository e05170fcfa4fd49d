"""``clusterfutures demo``: run the pipeline, print what was found, draw the figures, check the answer."""

from __future__ import annotations

import argparse
import ast
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from clusterfutures.errors import OptionError

if TYPE_CHECKING:  # needs what the extra installs, and `--help` does not
    from clusterfutures.pipeline import Code, Pipeline, Result

TOLERANCE = 0.001
"""Seconds that a delay may be off: a twentieth of the interval between samples at 50 Hz."""

Say = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--executor", default="local", metavar="NAME", help="local (the default), slurm, torque, serial ..."
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the executor, as max_workers=8 or partition=day; can be given several times",
    )
    parser.add_argument("--events", metavar="N|NAMES", help="the first N, or names with commas between; all")
    parser.add_argument("--stations", metavar="N|NAMES", help="the same for stations")
    parser.add_argument(
        "--output", default="demo-output", type=Path, metavar="DIR", help="where results go; %(default)s"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what DIR has, and compute the rest")


def run(arguments: argparse.Namespace, say: Say) -> int:
    """Run the demo; 0 if every pair was computed and every known delay found again."""
    from clusterfutures.demo import misfit, page  # need the extra

    options = options_of(arguments.option)
    pipeline = misfit.pipeline_in(arguments.output, codes_of(arguments.events, arguments.stations))
    if Path(pipeline.directory).exists() and not arguments.resume:
        raise OptionError(
            f"{arguments.output} has the results of an earlier run: go on with them by --resume, "
            "or begin another one by --output DIR"
        )
    before = {code for code, outcome in pipeline.result().outcomes.items() if not outcome.failed}
    file = arguments.output / misfit.FILE
    if before and not file.exists():
        raise OptionError(
            f"{file} is gone, and what is kept of {len(before)} pairs would be no use without it: "
            f"remove {pipeline.directory} as well, or begin another run by --output DIR"
        )
    say(f"pairs: {len(pipeline.codes)}, of which {len(before)} are kept from an earlier run")
    result = computed(pipeline, arguments.executor, options, say)
    for line in [*table(result), result.summary()]:
        say(line)
    say(f"results:  {file}")
    say(f"figures:  {page.write(result, before, arguments.output)}")
    right, line = verdict(result)
    say(line)
    return 0 if right else 1


def computed(pipeline: Pipeline, executor: str, options: Mapping[str, Any], say: Say) -> Result:
    """Compute what is missing; OptionError where the directory's results are of another computation."""
    from clusterfutures import get_executor
    from clusterfutures.pipeline import PipelineChanged

    try:
        with get_executor(executor, **options) as ex:
            return pipeline.run(ex)
    except PipelineChanged as error:
        changes = ", ".join(error.changes)
        message = f"{pipeline.directory} has results of another version ({changes}): name another --output"
        raise OptionError(message) from error
    except KeyboardInterrupt:
        say("what was computed is kept; --resume goes on with it")
        raise


# ---- what is asked for ----------------------------------------------------------------------------


def options_of(words: Iterable[str]) -> dict[str, Any]:
    """The executor's options of ``name=value`` words; a value is a literal of Python's, or else text."""
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (sign and name.isidentifier()):
            raise OptionError(f"--option takes NAME=VALUE, not {word!r}")
        try:
            options[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[name] = value
    return options


def codes_of(events: Optional[str], stations: Optional[str]) -> list[Code]:
    """The pairs that were recorded, of the events and stations that are asked for."""
    from clusterfutures.demo.records import catalog, name_of
    from clusterfutures.pipeline import picked_pairs

    codes = picked_pairs(catalog(), name_of)
    wanted_events = chosen("--events", events, sorted({code.event for code in codes}))
    wanted_stations = chosen("--stations", stations, sorted({code.station for code in codes}))
    wanted = [code for code in codes if code.event in wanted_events and code.station in wanted_stations]
    if not wanted:
        raise OptionError("no pair of these events and stations was recorded")
    return sorted(wanted)


def chosen(option: str, wanted: Optional[str], there: Sequence[str]) -> list[str]:
    """Those of `there` that `wanted` tells: None for all, a number for so many, or names."""
    if wanted is None:
        return list(there)
    if wanted.isdecimal() and int(wanted) > 0:
        return list(there)[: int(wanted)]
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise OptionError(f"{option}: there is no {name!r}{hint} There are: {', '.join(there)}")
    return [name for name in there if name in names]


# ---- what is said ---------------------------------------------------------------------------------

COLUMNS = (
    f"{'event':<10} {'station':<7} {'delay':>9} {'known':>9} {'correlation':>11} "
    f"{'travel time':>12} {'waveform':>12} {'took':>7}"
)


def table(result: Result) -> Iterator[str]:
    """The lines of a table with a row for each pair."""
    yield COLUMNS
    for code, outcome in result.outcomes.items():
        pair = f"{code.event:<10} {code.station:<7}"
        if outcome.failed:
            error = outcome.value.error
            yield f"{pair} {type(error).__name__}: {error}".partition("\n")[0]
            continue
        found = outcome.value
        yield (
            f"{pair} {1e3 * found.delay:6.1f} ms {1e3 * found.known:6.1f} ms {found.correlation:11.3f} "
            f"{found.traveltime:8.1e} s2 {found.waveform:7.1e} m2/s {found.took:5.2f} s"
        )


def verdict(result: Result) -> tuple[bool, str]:
    """Whether all pairs were computed and all known delays were found, and that in a sentence."""
    errors = {
        code: abs(outcome.value.delay - outcome.value.known)
        for code, outcome in result.outcomes.items()
        if not outcome.failed
    }
    wrong = [str(code) for code, error in errors.items() if not error <= TOLERANCE]
    if wrong:
        return False, f"WRONG: more than {1e3 * TOLERANCE:.0f} ms from the known delay: {', '.join(wrong)}"
    if result.failures or not errors:
        return False, f"FAILED: {len(result.failures)}; --resume computes what has failed, and no more"
    worst = max(errors.values())
    return True, (
        f"right: all {len(errors)} known delays were recovered, the worst to {1e3 * worst:.1f} ms "
        f"({1e3 * TOLERANCE:.0f} ms is allowed)"
    )
