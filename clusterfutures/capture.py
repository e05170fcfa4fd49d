"""What a payload takes along from the driver's `__main__`: the definitions of the names that it refers to.

Definitions are made anew for every payload, for the driver's values may have changed since the last; the ones
of functions and classes, which are costly to pickle and seldom change, are kept as long as a *guard* holds:
all the objects that they are made of are still the same ones.
"""

from __future__ import annotations

import abc
import enum
import io
import operator
import sys
import traceback
import types
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from clusterfutures import mainspace, picklers
from clusterfutures.errors import TaskPicklingError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from clusterfutures.picklers import Pickled

Guard = tuple[Any, ...]
Names = tuple[str, ...]
InBand = Callable[[list[memoryview], Any], bool]
References = tuple[tuple[str, Any], ...]

# Names of a module that belong to the module and not to the program in it.
_NEVER = frozenset({"__builtins__", "__loader__", "__name__", "__spec__", "__annotations__"})
# What a program may ask of its module without naming it: relative imports, and multiprocessing, which runs
# the main file once more in its children.
_ALWAYS = ("__file__", "__package__")

_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(Ellipsis)})
# Modules that write methods for a class, with objects of theirs in the closures.
_GENERATORS = frozenset({"dataclasses", "reprlib"})


class Captured(NamedTuple):
    """All that an envelope is made of; `waits` says whether futures are among the arguments."""

    data: bytes
    views: list[memoryview]
    definitions: dict[str, Made]
    futures: list[Future[Any]]
    waits: bool


def capture(
    obj: Any,
    plain: Optional[bytes],
    views: list[memoryview],
    parents: Optional[list[Future[Any]]],
    in_band: InBand,
) -> Captured:
    """Pickle `obj` with what it needs of ``__main__``.

    `plain` is its plain pickle if there is one, which leaves out `views`; `parents` are the futures that
    the task waits for already, None if it can wait for none; `in_band` says of a buffer whether it stays in
    the pickle, or else adds it to the views.
    """
    taken = Capture(in_band)
    futures = None if parents is None else picklers.Futures(parents)
    if plain is None:
        plain, views = picklers.dump(obj, taken, futures=futures)
    else:
        picklers.ReferenceFinder(taken).dump(obj)
    new = [] if futures is None else futures.new
    waits = futures is not None and futures.used
    user = obj.__qualname__ if isinstance(obj, types.FunctionType) else "the call"
    return Captured(plain, views, taken.definitions(user), new, waits)


def dump_result(value: Any) -> bytes:
    """Pickle the result of a task, with all buffers in the bytes."""
    with io.BytesIO() as file:
        picklers.ResultPickler(file, Capture()).dump(value)
        return file.getvalue()


class Made:
    """The definition of one global, and what it was made from.

    `names` are the globals that it needs in turn; `references` the objects in ``__main__`` that it refers to
    by qualified name; `guard` is None if only its pickle can tell whether it has changed.
    """

    def __init__(self, pickled: Pickled, names: Names, references: References) -> None:
        self.pickled = pickled
        self.names = names
        self.references = references
        self.guard: Optional[Guard] = None
        self._digest = ""

    def digest(self, buffers: Iterable[tuple[str, int, bool]]) -> str:
        """What tells this definition from another one of the same name; its large buffers are stored."""
        if not self._digest:
            content = blake2b(self.pickled.data, digest_size=16)
            for digest, _, _ in buffers:
                content.update(digest.encode())
            self._digest = content.hexdigest()
        return self._digest

    def holds(self, guard: Guard, main: dict[str, Any]) -> bool:
        """Whether it is still right, if `guard` is that of the value now."""
        return (
            self.guard is not None
            and len(self.guard) == len(guard)
            and all(map(operator.is_, self.guard, guard))
            and all(picklers.stands_under(*each, main) for each in self.references)
        )


class Capture:
    """What one payload takes from ``__main__``.

    Attributes: `main`, its dictionary; `in_band`, what `capture` was given.
    """

    def __init__(self, in_band: InBand = lambda views, buffer: True) -> None:
        self.main = mainspace.namespace()
        self.in_band = in_band
        self._users: dict[str, str] = {}  # of each name that is wanted: the first that asked for it
        self._names: dict[str, None] = {}
        self._references: list[tuple[str, Any]] = []

    def want(self, names: Iterable[str]) -> None:
        """Take along those of `names` that ``__main__`` has, and what every function may use."""
        self._names.update(dict.fromkeys((*names, *_ALWAYS)))

    def refer(self, qualname: str, obj: Any) -> None:
        """Take along the global that `qualname` begins with; `obj` is what it stands for as a whole."""
        self._names[qualname.partition(".")[0]] = None
        self._references.append((qualname, obj))

    def take(self, user: str) -> tuple[Names, References]:
        """The names and references since the last call, which `user` has asked for."""
        names, references = tuple(self._names), tuple(self._references)
        self._names.clear()
        self._references.clear()
        self._add(names, user)
        return names, references

    def _add(self, names: Iterable[str], user: str) -> None:
        for name in names:
            there = name in self.main and name not in _NEVER
            if there and (self.main[name] is not None or name not in _ALWAYS):
                self._users.setdefault(name, user)

    def definitions(self, user: str) -> dict[str, Made]:
        """Every name that is wanted, and those that their values need; `user` asked for the first.

        Raises TaskPicklingError, which names the global, if one cannot be pickled.
        """
        self.take(user)
        made: dict[str, Made] = {}
        while len(made) < len(self._users):
            for name in [name for name in self._users if name not in made]:
                made[name] = self._define(name)
        return made

    def _define(self, name: str) -> Made:
        value = self.main[name]
        try:
            guard = guard_of(value)
            known = _known.get(name)
            if guard is not None and known is not None and known.holds(guard, self.main):
                self._add(known.names, name)
                return known
            made = Made(picklers.dump(value, self, root=name), *self.take(name))
        except Exception as error:  # of the value's own methods: any
            raise TaskPicklingError(
                f"the global {name!r} ({kind_of(value)}), which {self._users[name]} uses: {reason(error)}"
            ) from error
        if guard is not None and not made.pickled.views:
            made.guard = guard
            _known[name] = made
        return made


# Definitions of functions and classes, by name; there are as many as the program has globals of its own.
_known: dict[str, Made] = {}


# Guards ---------------------------------------------------------------------------------------------------


def guard_of(value: Any) -> Optional[Guard]:
    """The objects that a definition of `value` is made of; None if they do not tell whether it changes."""
    kind = type(value)
    if kind in _ATOMS or kind is types.ModuleType:
        return (value,)
    if kind is types.FunctionType:
        return _guard_of_function(value)
    if issubclass(kind, type):
        return _guard_of_class(value)
    return None


def _guard_of_function(function: Any, owner: Optional[type] = None) -> Optional[Guard]:
    if function.__globals__.get("__name__") in _GENERATORS:
        return (function,)
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    try:
        cells = tuple([cell.cell_contents for cell in function.__closure__ or ()])
    except ValueError:  # one that is empty
        return None
    held = (*defaults, *cells)
    if function.__dict__ or not all(_is_fixed(each, owner) for each in held):
        return None
    # Which submodules go along depends on what has been imported.
    loaded = _small(len(sys.modules))
    names = (function.__name__, function.__qualname__, function.__module__, function.__doc__)
    return (function, function.__code__, function.__annotations__, loaded, *names, *held)


def _is_fixed(value: Any, owner: Optional[type]) -> bool:
    kind = type(value)
    if kind is tuple:
        return all(_is_fixed(each, owner) for each in value)
    if kind is type:  # one that goes by its name, and is defined apart
        return value is owner or "<" not in value.__qualname__
    return kind in _ATOMS or value is owner or kind.__module__ in _GENERATORS


_counts: dict[int, int] = {}


def _small(count: int) -> int:
    """The same object for the same number."""
    return _counts.setdefault(count, count)


_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.BuiltinMethodType)


def _guard_of_class(cls: Any) -> Optional[Guard]:
    if isinstance(cls, enum.EnumMeta):  # cannot be changed, as far as anybody does
        return (cls,)
    if type(cls) is not type and type(cls) is not abc.ABCMeta:
        return None
    guard: list[Any] = [cls, *cls.__bases__]
    for name, value in cls.__dict__.copy().items():
        if name == "__slotnames__":  # of copyreg's own, and left out
            continue
        inner = _guard_of_attribute(name, value, cls)
        if inner is None:
            return None
        guard += (name, *inner)
    if type(cls) is abc.ABCMeta:
        guard.append(_small(abc.get_cache_token()))  # type: ignore[arg-type]
    return tuple(guard)


def _guard_of_attribute(name: str, value: Any, cls: type) -> Optional[Guard]:
    if isinstance(value, types.FunctionType):
        return _guard_of_function(value, cls)
    if isinstance(value, (staticmethod, classmethod)) and isinstance(value.__func__, types.FunctionType):
        inner = _guard_of_function(value.__func__, cls)
        return None if inner is None else (value, *inner)
    if isinstance(value, property):
        return (value, value.fget, value.fset, value.fdel, value.__doc__)
    fixed = type(value) in _ATOMS or isinstance(value, _DESCRIPTORS) or name == "_abc_impl"
    if fixed or (name.startswith("__") and name.endswith("__")):
        return (value,)
    return None


# Blame ----------------------------------------------------------------------------------------------------


def kind_of(value: Any) -> str:
    """The type of `value` as a message has it, without the module of built-in ones."""
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"of type {module}{kind.__qualname__}"


def reason(error: BaseException) -> str:
    """An error in few words; one of ours says all by its text."""
    if isinstance(error, TaskPicklingError):
        return str(error)
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def name_of(fn: Any) -> str:
    """What to call a function in a message."""
    return str(getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or repr(fn))


def blame(what: str, obj: Any, error: BaseException) -> TaskPicklingError:
    """The error that says that `what`, the object `obj`, cannot be pickled because of `error`."""
    told = TaskPicklingError(f"{what} ({kind_of(obj)}) cannot be pickled: {reason(error)}")
    told.__cause__ = error.__cause__ if isinstance(error, TaskPicklingError) else error
    return told


def blame_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fn_name: str,
    parents: Optional[list[Future[Any]]],
    in_band: InBand,
    error: BaseException,
) -> TaskPicklingError:
    """The error for arguments that cannot be pickled: it names the first that cannot be, alone."""
    of = f" of {fn_name}" if fn_name else ""
    named = [(f"argument {number}{of}", each) for number, each in enumerate(args, 1)]
    named += [(f"keyword argument {name!r}{of}", each) for name, each in kwargs.items()]
    for what, obj in named:
        try:
            capture(obj, None, [], parents, in_band)
        except Exception as cause:  # of the argument's own methods: any
            return blame(what, obj, cause)
    return blame(f"the arguments{of}", args, error)
