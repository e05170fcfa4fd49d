"""What has come of a pipeline: values and failures by event and station, in numbers and as a table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional, Union

from clusterfutures.pipeline.codes import Code

IN_SUMMARY = 5
"""Failed pairs that a summary names for each kind of error."""


class Failure(NamedTuple):
    """Stands where the value of a pair that failed would be.

    Attributes: `error`, the exception (BaseException); `traceback`, its text (str) as it was where it was
    raised, empty where nothing but the error is known; `log`, the path of the event's log (str).
    """

    error: BaseException
    traceback: str
    log: str


class Outcome(NamedTuple):
    """What has come of one pair.

    Attributes: `code`; `value`, what the function returned, or a Failure; `seconds` that it took and `host`
    where it ran (0.0 and "" where a worker was lost).
    """

    code: Code
    value: Any
    seconds: float
    host: str

    @property
    def failed(self) -> bool:
        """Whether there is a Failure and no value."""
        return isinstance(self.value, Failure)


class Result(dict[str, dict[str, Any]]):
    """``{event: {station: value}}``, with a `Failure` as the value of each pair that failed.

    Attributes: `outcomes`, the Outcome of each Code (dict); `missing`, the codes that there is nothing of yet
    (list).  Pairs are in the order in which the pipeline was given them.
    """

    def __init__(self, outcomes: Iterable[Outcome], missing: Iterable[Code] = ()) -> None:
        super().__init__()
        self.outcomes = {outcome.code: outcome for outcome in outcomes}
        self.missing = list(missing)
        for code, outcome in self.outcomes.items():
            self.setdefault(code.event, {})[code.station] = outcome.value

    @property
    def failures(self) -> dict[Code, Failure]:
        """The pairs that failed."""
        return {code: outcome.value for code, outcome in self.outcomes.items() if outcome.failed}

    def summary(self) -> str:
        """How many pairs there are, what failed of them, and where the logs are, in a few lines.

        >>> from clusterfutures.pipeline.codes import Code
        >>> print(Result([Outcome(Code("1", "XX.A"), 0.5, 2.0, "n1")]).summary())
        1 pair of 1 event: 1 done, 0 failed, 0 missing; 2.0 s of work
        """
        failures = self.failures
        events = {code.event for code in [*self.outcomes, *self.missing]}
        total = len(self.outcomes) + len(self.missing)
        seconds = sum(outcome.seconds for outcome in self.outcomes.values())
        done = len(self.outcomes) - len(failures)
        head = (
            f"{_counted(total, 'pair')} of {_counted(len(events), 'event')}: {done} done, "
            f"{len(failures)} failed, {len(self.missing)} missing; {seconds:.1f} s of work"
        )
        return "\n".join([head, *_by_error(failures)])

    def table(self) -> list[dict[str, Any]]:
        """A row for each pair: ``event``, ``station``, what it returned, ``error``, ``seconds``, ``host``.

        A mapping or a named tuple fills a column for each of its names; any other value that called
        ``value``.  Names that the table itself has get an underscore at their end.  `error` is None, or the
        exception in words.
        """
        return [_row(outcome) for outcome in self.outcomes.values()]

    def write_csv(self, path: Union[str, os.PathLike[str]]) -> None:
        """Write the table to a CSV file (UTF-8); the columns are those that any row has."""
        rows = self.table()
        columns = list(dict.fromkeys(name for row in rows for name in row)) or OWN_COLUMNS
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def dataframe(self) -> Any:
        """The table as a pandas.DataFrame; ImportError without pandas."""
        from importlib import import_module  # pandas is no requirement, and a type checker need not have it

        return import_module("pandas").DataFrame(self.table())


OWN_COLUMNS = ["event", "station", "error", "seconds", "host"]


def _row(outcome: Outcome) -> dict[str, Any]:
    values = {} if outcome.failed else _columns(outcome.value)
    return {
        "event": outcome.code.event,
        "station": outcome.code.station,
        **{f"{name}_" if name in OWN_COLUMNS else name: value for name, value in values.items()},
        "error": _in_words(outcome.value.error) if outcome.failed else None,
        "seconds": outcome.seconds,
        "host": outcome.host,
    }


def _columns(value: Any) -> dict[str, Any]:
    names: Optional[Any] = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return dict(zip(names, value))
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    return {"value": value}


def _by_error(failures: Mapping[Code, Failure]) -> list[str]:
    """A line for each kind of error, the most frequent first."""
    kinds = Counter(type(failure.error).__name__ for failure in failures.values())
    lines = []
    for kind, count in kinds.most_common():
        of_kind = {code: one for code, one in failures.items() if type(one.error).__name__ == kind}
        named = [str(code) for code in of_kind][:IN_SUMMARY]
        more = f" and {count - len(named)} more" if count > len(named) else ""
        first = next(iter(of_kind.values()))
        lines.append(f"{kind} in {', '.join(named)}{more}; see {first.log}")
    return lines


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
