"""What a worker needs of `typing`, `collections` and `signal` at its start, without the cost of their import.

`typing` would be half of a worker's start-up, for named tuples alone, and those of `collections` are compiled
one by one; `signal` wraps the C module's numbers in enumerations.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections import deque
    from typing import NamedTuple
else:
    from _operator import itemgetter

    try:
        import _signal as signal
        from _collections import deque
    except ImportError:  # not CPython
        import signal
        from collections import deque

    class _Maker(type):
        """Makes of each name that a class body annotates a field."""

        def __new__(mcs, name, bases, space):
            fields = tuple(space.get("__annotations__", ()))
            space["_field_defaults"] = {field: space[field] for field in fields if field in space}
            for place, field in enumerate(fields):
                space[field] = property(itemgetter(place))
            space["_fields"] = space["__match_args__"] = fields
            space["__slots__"] = ()
            return super().__new__(mcs, name, bases, space)

    class NamedTuple(tuple, metaclass=_Maker):
        """As `typing.NamedTuple`, without what nobody here uses of it."""

        def __new__(cls, *args, **kwargs):  # noqa: D102 - as a tuple is made
            if kwargs or len(args) != len(cls._fields):
                args = cls._complete(args, kwargs)
            return tuple.__new__(cls, args)

        @classmethod
        def _complete(cls, args, kwargs):
            given = {**cls._field_defaults, **dict(zip(cls._fields, args)), **kwargs}
            twice = set(cls._fields[: len(args)]) & kwargs.keys()
            if twice or len(args) > len(cls._fields) or given.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__} has the fields {cls._fields}, not {args} and {kwargs}")
            return [given[field] for field in cls._fields]

        def _replace(self, **changes):
            made = tuple.__new__(type(self), map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"{type(self).__name__} has no fields {list(changes)}")
            return made

        def __repr__(self):
            values = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self))
            return f"{type(self).__name__}({values})"

        def __getnewargs__(self):
            return tuple(self)


__all__ = ["NamedTuple", "deque", "signal"]
