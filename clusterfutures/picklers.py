"""What the C pickler alone cannot do: functions of `__main__`, closures, futures among the arguments.

Imported only when a payload needs it, for cloudpickle takes longer to import than a worker takes to start.

What stands in the driver's ``__main__`` under a name is pickled as that name, and the name's value goes
along as a definition of its own (`clusterfutures.mainspace` says what becomes of it); so is every name that
a definition refers to.  A function of ``__main__`` that stands under no name (a lambda, a nested one, what a
decorator has replaced) goes by value, without its globals.  For all else cloudpickle decides.
"""

from __future__ import annotations

import collections
import dis
import functools
import io
import marshal
import pickle
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

import cloudpickle
from cloudpickle import cloudpickle as _internals

from clusterfutures import mainspace
from clusterfutures.mainspace import MAIN_NAMES

if TYPE_CHECKING:
    from concurrent.futures import Future

    from clusterfutures.capture import Capture

_CachedFunction: Any = type(functools.lru_cache(None)(lambda: None))
_GLOBAL_OPERATIONS = frozenset(
    ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
)
_FUNCTION_SLOTS = {"__globals__", "__closure__", "_cloudpickle_submodules", "__name__"}


class Pickled(NamedTuple):
    """A pickle, and the buffers that it leaves out in the order in which it asks for them."""

    data: bytes
    views: list[memoryview]


def dump(obj: Any, capture: Capture, root: str = "", futures: Optional[Futures] = None) -> Pickled:
    """Pickle `obj`; what it takes from ``__main__`` is added to `capture`.

    `root` is the global that is being defined; `futures` takes the futures, which are an error without it.
    """
    views: list[memoryview] = []
    with io.BytesIO() as file:
        MainPickler(file, capture, root, futures, views).dump(obj)
        return Pickled(file.getvalue(), views)


class Futures:
    """The futures among the arguments, numbered by the order in which they turn up."""

    def __init__(self, parents: list[Future[Any]]) -> None:
        self._numbers = {id(future): number for number, future in enumerate(parents)}
        self._known = len(parents)
        self.new: list[Future[Any]] = []
        self.used = False

    def number(self, future: Future[Any]) -> int:
        """The place of `future` among the parents."""
        self.used = True
        number = self._numbers.setdefault(id(future), self._known + len(self.new))
        if number == self._known + len(self.new):
            self.new.append(future)
        return number


class _Cell:
    """Stands for a cell of a closure until the functions that share it are there to fill it."""

    def __reduce__(self) -> Any:
        return mainspace.make_cell, ()


class MainPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A cloudpickle pickler that knows one `__main__`."""

    def __init__(
        self,
        file: io.BytesIO,
        capture: Capture,
        root: str = "",
        futures: Optional[Futures] = None,
        views: Optional[list[memoryview]] = None,
    ) -> None:
        # Without views, as in a result, all buffers stay in the pickle.
        keep = None if views is None else functools.partial(capture.in_band, views)
        super().__init__(file, protocol=5, buffer_callback=keep)
        self._capture = capture
        self._main = capture.main
        self._root = root
        self._futures = futures
        self._cells: dict[int, tuple[_Cell, Any]] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Called for every object that is not one of the plain built-in containers and values."""
        kind = type(obj)
        if kind is types.FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.ModuleType:
            return self._reduce_module(obj)
        if kind is _CachedFunction:
            return self._reduce_cached(obj)
        return self._reduce_instance(obj)

    def _reduce_function(self, function: Any) -> Any:
        if function.__globals__ is not self._main:
            return super().reducer_override(function)
        named = self._by_name(function)
        if named is not None:
            return named
        return self._reduce_main_function(function)

    def _by_name(self, obj: Any) -> Any:
        """How to reduce what stands in ``__main__`` under its own name; None for anything else."""
        qualname = getattr(obj, "__qualname__", "")
        if not stands_under(qualname, obj, self._main):
            return None
        root = qualname.partition(".")[0]
        if root == self._root or not self._may_name(root):
            return None
        self._capture.refer(qualname, obj)
        return mainspace.attribute, (qualname,)

    def _may_name(self, root: str) -> bool:
        """Whether the other side knows the global called `root`."""
        return True

    def _reduce_main_function(self, function: Any) -> Any:
        state, slots = _internals._function_getstate(function)
        if not slots.keys() >= _FUNCTION_SLOTS:
            raise RuntimeError(f"cloudpickle {cloudpickle.__version__} is not one that is known here")
        del slots["__globals__"]
        self._capture.want(global_names(function.__code__))
        shells, filled = self._closure(slots.pop("__closure__"))
        # To load the submodules that it uses is to import them; nothing else is done with them.
        full = (state, slots, filled, slots.pop("_cloudpickle_submodules"))
        make, args = mainspace.make_function, (marshalled(function.__code__), shells)
        return *self._begun(function, make, args), full, None, None, mainspace.fill_function

    def _begun(self, obj: Any, make: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The first two of a reduction; the object that a definition is about is made known at once."""
        if self._root and self._main.get(self._root) is obj:
            return mainspace.begin, (self._root, make, args)
        return make, args

    def _closure(self, closure: Any) -> tuple[tuple[_Cell, ...], list[tuple[_Cell, Any]]]:
        shells = []
        filled = []
        for cell in closure or ():
            # The cell is kept with its shell, so that its id is not another's meanwhile.
            shell, _ = self._cells.setdefault(id(cell), (_Cell(), cell))
            shells.append(shell)
            try:
                filled.append((shell, cell.cell_contents))
            except ValueError:  # empty, as of a name that is bound later
                continue
        return tuple(shells), filled

    def _reduce_class(self, cls: Any) -> Any:
        of_main = getattr(cls, "__module__", None) in MAIN_NAMES
        named = self._by_name(cls) if of_main else None
        if named is not None:
            return named
        reduced = super().reducer_override(cls)
        if reduced is NotImplemented and of_main:  # __mp_main__, to cloudpickle a module like others
            reduced = _internals._dynamic_class_reduce(cls)
        if reduced is NotImplemented or reduced[-1] is not _internals._class_setstate:
            return reduced
        make, args, state, *rest = _with_slots(*reduced)
        state[0].pop("__slotnames__", None)  # what copyreg writes down when an instance is pickled
        return (*self._begun(cls, make, args), state, *rest)

    def _reduce_module(self, module: types.ModuleType) -> Any:
        if _internals._should_pickle_by_reference(module):
            return mainspace.import_module, (module.__name__,)
        return super().reducer_override(module)

    def _reduce_cached(self, cached: Any) -> Any:
        if getattr(cached, "__module__", None) not in MAIN_NAMES:
            return NotImplemented
        named = self._by_name(cached)
        if named is not None:
            return named
        how = cached.cache_parameters()
        args = (cached.__wrapped__, how["maxsize"], how["typed"])
        return mainspace.make_cached, args

    def _reduce_instance(self, obj: Any) -> Any:
        # No future can be there unless its module is.
        module = sys.modules.get("concurrent.futures._base")
        if module is not None and isinstance(obj, module.Future):
            return self._reduce_future(obj)
        name = self._sentinel_name(obj)
        if name is not None:
            self._capture.refer(name, obj)
            return mainspace.attribute, (name,)
        return super().reducer_override(obj)

    def _sentinel_name(self, obj: Any) -> Optional[str]:
        """The global that `obj` is, if it can only be told from others by its identity.

        ``MISSING = object()`` as a global and as a default value is one object on the other side too.
        """
        if getattr(obj, "__dict__", None) or not _is_without_state(type(obj)):
            return None
        for name, value in self._main.copy().items():
            if value is obj:
                return name if name != self._root and self._may_name(name) else None
        return None

    def _reduce_future(self, future: Future[Any]) -> Any:
        if self._futures is None:
            raise TypeError("a future can be an argument of a task, and nothing else of it")
        return mainspace.parent, (self._futures.number(future),)


def _is_without_state(kind: type) -> bool:
    """Whether instances of `kind` have at most what is in their ``__dict__``."""
    kinds = kind.__mro__[:-1]  # without object
    return all(each.__module__ in MAIN_NAMES and not vars(each).get("__slots__") for each in kinds)


class ResultPickler(MainPickler):
    """Pickles for the driver: what came from its ``__main__`` is referred to, the rest goes by value."""

    def _may_name(self, root: str) -> bool:
        return mainspace.is_defined(root)

    def _reduce_class(self, cls: Any) -> Any:
        reduced = super()._reduce_class(cls)
        if reduced is NotImplemented or reduced[-1] is not _internals._class_setstate:
            return reduced
        make, args, state, *_ = reduced
        return make_class, (make, args), state, None, None, fill_class


# Classes made by `make_class` and not filled yet, by their ids.
_new_classes: dict[int, type] = {}


def make_class(make: Callable[..., type], args: tuple[Any, ...]) -> type:
    """The class of this process that a result refers to, or a new one.

    Unlike cloudpickle's own maker and filler, the two here leave a class that this process has as it is:
    a result that comes back must not reset the attributes of the driver's class to those of the worker's.
    """
    known: Optional[type] = _internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
    if known is None:
        known = make(*args)
        _new_classes[id(known)] = known
    return known


def fill_class(cls: type, state: Any) -> None:
    """Give a class of `make_class` its attributes if it is a new one."""
    if _new_classes.pop(id(cls), None) is not None:
        _internals._class_setstate(cls, state)


class ReferenceFinder(pickle.Pickler):
    """Pickles to nowhere, as the plain pickler does, and notes what it refers to in ``__main__``."""

    def __init__(self, capture: Capture) -> None:
        super().__init__(_Nowhere(), 5, buffer_callback=lambda buffer: False)
        self._capture = capture

    def reducer_override(self, obj: Any) -> Any:
        """Reduces nothing."""
        kind = type(obj)
        named = kind is types.FunctionType or kind is _CachedFunction or issubclass(kind, type)
        if named and getattr(obj, "__module__", None) in MAIN_NAMES:
            self._capture.refer(obj.__qualname__, obj)
        return NotImplemented


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


def _with_slots(make: Any, args: tuple[Any, ...], state: Any, *rest: Any) -> tuple[Any, ...]:
    """The reduction of a class whose copy has the slots of the original.

    cloudpickle gives it a dictionary instead, and what that has cannot be put into the original's slots.
    """
    if make is _internals._make_skeleton_class and state[0].get("__slots__"):
        kind, name, bases, namespace, *tracking = args
        args = (kind, name, bases, {**namespace, "__slots__": state[0].pop("__slots__")}, *tracking)
    return make, args, state, *rest


def _reduce_cached_property(prop: Any) -> Any:
    # Up to Python 3.11 it has a lock.
    return functools.cached_property, (prop.func,), {"attrname": prop.attrname}


def _reduce_weak_dictionary(weak: Any) -> Any:
    return type(weak), (dict(weak),)


MainPickler.dispatch_table = collections.ChainMap(
    {
        functools.cached_property: _reduce_cached_property,
        # That of the keys is in every function of functools.singledispatch.
        weakref.WeakKeyDictionary: _reduce_weak_dictionary,
        weakref.WeakValueDictionary: _reduce_weak_dictionary,
    },
    cloudpickle.Pickler.dispatch_table,
)


def stands_under(qualname: str, obj: Any, main: dict[str, Any]) -> bool:
    """Whether `obj` is what `qualname` stands for in `main`."""
    root, *rest = qualname.split(".")
    found = main.get(root)
    for name in rest:
        found = getattr(found, name, None)
    return found is obj


_marshalled: dict[int, tuple[types.CodeType, bytes]] = {}


def marshalled(code: types.CodeType) -> bytes:
    """The bytes of a code object, the same each time."""
    # Kept by identity: equal code of two notebook cells differs in its file name.  And kept at all because
    # marshal writes an object that is shared at the moment otherwise than one that is not.
    known = _marshalled.get(id(code))
    if known is None:
        if len(_marshalled) >= 4096:
            _marshalled.clear()
        known = _marshalled[id(code)] = (code, marshal.dumps(code))
    return known[1]


_global_names: dict[int, tuple[types.CodeType, tuple[str, ...]]] = {}


def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that `code` and all within it may refer to."""
    known = _global_names.get(id(code))
    if known is None:
        if len(_global_names) >= 4096:
            _global_names.clear()
        known = _global_names[id(code)] = (code, tuple(dict.fromkeys(_find_global_names(code))))
    return known[1]


def _find_global_names(code: types.CodeType) -> list[str]:
    # The bodies of classes look their names up late, by other instructions (cloudpickle leaves them out).
    found = [each.argval for each in dis.get_instructions(code) if each.opname in _GLOBAL_OPERATIONS]
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found += _find_global_names(inner)
    return found
