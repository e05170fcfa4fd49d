"""What a worker needs of `typing` and `signal` at its start, without what importing them costs.

`typing` would be half of a worker's start-up, for named tuples alone; `signal` wraps the C module's numbers
in enumerations.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NamedTuple
else:
    from collections import namedtuple

    try:
        import _signal as signal
    except ImportError:  # not CPython
        import signal

    class _Maker(type):
        """Makes a subclass of the `collections.namedtuple` that a class body's annotations describe."""

        def __new__(mcs, name, bases, space):
            if not bases:
                return super().__new__(mcs, name, bases, space)
            fields = list(space.get("__annotations__", ()))
            defaults = [space.pop(field) for field in fields if field in space]
            base = namedtuple(name, fields, defaults=defaults, module=space["__module__"])
            space["__slots__"] = ()
            return type(name, (base,), space)

    class NamedTuple(metaclass=_Maker):
        """As `typing.NamedTuple`."""


__all__ = ["NamedTuple", "signal"]
