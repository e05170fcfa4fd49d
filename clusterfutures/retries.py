"""When a task is run again, and with what: the policy behind ``retries=``.

Pure decisions: what was lost comes in, whether and how to go on comes out; :mod:`~clusterfutures.dispatch`
acts on it.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Optional, Union

from clusterfutures.errors import (
    NodeFailed,
    OptionError,
    OutOfMemory,
    Preempted,
    TaskKilled,
    TaskTimeout,
    TimeLimitReached,
    WorkerLost,
)
from clusterfutures.resources import check_resources, excluding

FREE_RERUNS = 10  # times that a task may lose its worker to what the site did, at no charge

LIMITS: tuple[tuple[type[WorkerLost], tuple[str, ...]], ...] = (
    (OutOfMemory, ("mem", "mem_per_cpu")),
    (TimeLimitReached, ("time",)),
    (TaskTimeout, ("timeout",)),
)
"""What ends a task that asked for too little, and the options that would have been more."""

GROWING = tuple(name for _, names in LIMITS for name in names)

Kinds = Union[type[BaseException], tuple[type[BaseException], ...]]


class Retries:
    """How often a task is run again, after what, when, and with how much.

    `times` (int) is how many further attempts a task may have.  One whose worker was lost is tried again,
    whether the worker died by itself, ran out of memory or of wall time, or the job was cancelled by
    somebody; one that was killed by this program is not.  What the site did is free of charge, up to
    10 times: preemption always, a failed node for tasks that may be retried at all.

    - `on`: an exception class, or a tuple of such, of the function's own that are worth another attempt,
      as ``on=ConnectionError``;
    - `delay` (seconds): how long to wait before the first retry; each further one waits `backoff` times as
      long as the one before, and at most `max_delay` seconds;
    - `grow`: by which factor to ask for more of what the task had too little of, as
      ``grow={"mem": 2, "time": 1.5}``; for ``mem``, ``mem_per_cpu``, ``time`` and the task's own ``timeout``;
    - `ceiling`: how much at most, as ``ceiling={"mem": "256G", "time": "24h"}``; a task that had so much and
      was ended by that limit all the same is not tried again;
    - `exclude`: whether further attempts stay away from the node that lost the task.

    >>> from clusterfutures import LocalExecutor, Retries
    >>> with LocalExecutor(1) as ex:
    ...     ex.options(retries=Retries(3, on=OSError, delay=0.1)).submit(abs, -1).result()
    1

    Raises OptionError for what cannot be meant.
    """

    def __init__(
        self,
        times: int = 0,
        *,
        on: Kinds = (),
        delay: float = 0.0,
        backoff: float = 2.0,
        max_delay: float = 3600.0,
        grow: Optional[Mapping[str, float]] = None,
        ceiling: Optional[Mapping[str, Any]] = None,
        exclude: bool = False,
    ) -> None:
        self.times = _times(times)
        self.on = _kinds(on)
        self.delay = _number("delay", delay, least=0.0)
        self.backoff = _number("backoff", backoff, least=1.0)
        self.max_delay = _number("max_delay", max_delay, least=0.0)
        self.grow = _factors(grow or {})
        self.ceiling = _ceilings(ceiling or {}, self.grow)
        if not isinstance(exclude, bool):
            raise OptionError(f"exclude must be True or False, not {exclude!r}")
        self.exclude = exclude

    def __repr__(self) -> str:
        usual = vars(Retries())
        given = [f"{name}={value!r}" for name, value in vars(self).items() if value != usual[name]]
        return f"Retries({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retries) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def check(self, asked: Mapping[str, Any]) -> None:
        """Raise OptionError where something is to grow that was not `asked` for."""
        for name in self.grow:
            if not asked.get(name):
                raise OptionError(
                    f"retries grow {name}, but from what? give {name}= as well"
                    + ("" if name == "timeout" else "; it describes jobs on a cluster")
                )

    def on_one_machine(self) -> Retries:
        """The same where no job is asked for: nothing of a job grows, and there is no other node."""
        policy = copy.copy(self)
        policy.grow = {name: factor for name, factor in self.grow.items() if name == "timeout"}
        policy.exclude = False
        return policy

    def free(self, error: BaseException, before: int) -> bool:
        """Whether another attempt after `error` costs no retry; so many were free `before`."""
        if before >= FREE_RERUNS:
            return False
        return isinstance(error, Preempted) or (isinstance(error, NodeFailed) and self.times > 0)

    def allow(self, error: BaseException, charged: int, asked: Mapping[str, Any]) -> bool:
        """Whether another attempt after `error` makes sense, at the cost of one retry.

        `charged` is how many retries there were, `asked` what the last attempt had asked for.
        """
        if charged >= self.times or (isinstance(error, TaskKilled) and not isinstance(error, TaskTimeout)):
            return False
        if not isinstance(error, (WorkerLost, *self.on)):
            return False
        wanting = self._wanting(error, asked)
        return not wanting or any(self._more(name, asked[name]) > asked[name] for name in wanting)

    def pause(self, charged: int) -> float:
        """Seconds to wait before the `charged`th retry; the first is 1."""
        try:
            return min(self.delay * self.backoff ** (charged - 1), self.max_delay)
        except OverflowError:
            return self.max_delay

    def changes(self, error: BaseException, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the next attempt asks for instead."""
        found: dict[str, Any] = {name: self._more(name, asked[name]) for name in self._wanting(error, asked)}
        node = getattr(error, "node", None)
        if self.exclude and isinstance(error, WorkerLost) and node:
            found.update(excluding(asked, node))
        return found

    def _wanting(self, error: BaseException, asked: Mapping[str, Any]) -> list[str]:
        """What may grow of that which the task had too little of."""
        names = next((names for kind, names in LIMITS if isinstance(error, kind)), ())
        return [name for name in names if name in self.grow and asked.get(name)]

    def _more(self, name: str, amount: float) -> float:
        most: float = self.ceiling.get(name, math.inf)
        grown = max(min(amount * self.grow[name], most), amount)
        return grown if name == "timeout" else math.ceil(grown)


def _times(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 0:
        raise OptionError(f"retries must be a number of further attempts, or Retries(...), not {value!r}")
    return operator.index(value)  # numpy's integers, too


def _kinds(on: Any) -> tuple[type[BaseException], ...]:
    kinds = on if isinstance(on, Iterable) else (on,)
    kinds = tuple(kinds)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise OptionError(f"on must be exception classes, not {on!r}")
    return kinds


def _number(name: str, value: Any, least: float) -> float:
    number = float(value) if not isinstance(value, bool) and isinstance(value, Real) else math.nan
    if not least <= number < math.inf:
        raise OptionError(f"{name} must be a number of {least:g} or more, not {value!r}")
    return number


def _factors(grow: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(grow, Mapping):
        raise OptionError(f'grow must be factors by name, as {{"mem": 2}}, not {grow!r}')
    for name in grow:
        if name not in GROWING:
            raise OptionError.unknown(str(name), GROWING)
    return {name: _number(f"grow[{name!r}]", factor, least=1.0) for name, factor in grow.items()}


def _ceilings(ceiling: Mapping[str, Any], grow: Mapping[str, float]) -> dict[str, Any]:
    if not isinstance(ceiling, Mapping):
        raise OptionError(f'ceiling must be amounts by name, as {{"mem": "256G"}}, not {ceiling!r}')
    for name in ceiling:
        if name not in grow:
            raise OptionError(f"ceiling names {name}, which does not grow")
    found = check_resources({name: value for name, value in ceiling.items() if name != "timeout"})
    if "timeout" in ceiling:
        found["timeout"] = _number("ceiling['timeout']", ceiling["timeout"], least=0.0)
    return found


NO_RETRIES = Retries()


def check_retries(value: Any) -> Retries:
    """What the option `retries` was given, as a policy; None is none."""
    if value is None:
        return NO_RETRIES
    return value if isinstance(value, Retries) else Retries(value)
