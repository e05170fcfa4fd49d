"""The one `__main__` of a process, to which unpickled functions are bound.

A function of the driver's ``__main__`` travels without its globals.  Here it is bound to the dictionary of
this process's ``__main__``, so that all of them share one, as they did where they were written; what such a
function refers to by name comes as *definitions*, one pickle for each name.  A definition is carried out
only if it differs from the one last carried out for its name: what an initializer or an earlier task has
put there stays until the driver's own value changes.

This is the loading side; `clusterfutures.picklers` writes what is read here.  Every worker imports it, hence
no import but those that the interpreter has made already.
"""

from __future__ import annotations

import sys
from _thread import RLock, _local

TYPE_CHECKING = False  # typing is not worth its import here
if TYPE_CHECKING:
    from types import CellType, FunctionType, ModuleType
    from typing import Any, Callable, NamedTuple

    class Definition(NamedTuple):
        """What one name of the driver's ``__main__`` stood for when a payload was made."""

        name: str
        digest: str
        data: bytes
        buffers: tuple[tuple[str, int, bool], ...]

else:
    CellType = type((lambda cell: lambda: cell)(None).__closure__[0])
    FunctionType = type(lambda: None)
    ModuleType = type(sys)

MAIN_NAMES = ("__main__", "__mp_main__")

_lock = RLock()
# Of each name: the digest of the definition last carried out, here and in no other process.
_applied: dict[str, str] = {}
_changes = 0  # how many definitions have been carried out
# The names and digests of definitions that came together, by the digest of all.
_groups: dict[str, list[tuple[str, str]]] = {}
# While definitions are being carried out: those still to do, and the objects made but not filled yet.
_pending: dict[str, Callable[[], None]] = {}
_unfinished: dict[str, Any] = {}
_parents = _local()


def install() -> None:
    """Give this process an empty ``__main__``, in place of the program that it was started with.

    Under multiprocessing's second name too, under which the main module of one of its children pickles.
    """
    import builtins

    module = ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    for name in MAIN_NAMES:
        sys.modules[name] = module
    _applied.clear()
    _groups.clear()


def namespace() -> dict[str, Any]:
    """The dictionary that the functions of ``__main__`` have for globals in this process."""
    main = sys.modules["__main__"].__dict__
    return main if main.get("__name__") == "__main__" else _of_multiprocessing(main)


def _of_multiprocessing(main: dict[str, Any]) -> dict[str, Any]:
    # In a child that multiprocessing has spawned, the module is a copy of the dictionary that they have.
    for value in list(main.values()):
        if type(value) is FunctionType and value.__module__ == main.get("__name__"):
            return value.__globals__
    return main


def only_defined_names() -> bool:
    """Whether every class and function in this ``__main__`` is a copy of one in the driver's.

    If so, the driver finds all of them by their names.
    """
    kinds = (type, FunctionType)
    own = namespace().keys() - _applied.keys()
    return not any(isinstance(namespace()[name], kinds) for name in own)


def is_defined(name: str) -> bool:
    """Whether the driver's definition of `name` has been carried out in this process."""
    return name in _applied


def version() -> int:
    """A number that grows whenever a definition is carried out."""
    return _changes


def is_current(key: str) -> bool:
    """Whether the definitions that came with `key` are the last ones carried out of all their names."""
    digests = _groups.get(key)
    return digests is not None and all(_applied.get(name) == digest for name, digest in digests)


def apply(definitions: list[Definition], load: Callable[[Definition], Any], key: str = "") -> None:
    """Carry out those definitions that differ from the last ones of their names.

    `load` makes the object of a definition; `key` is for `is_current` to know them by.  Whatever `load`
    raises comes through; what was not reached by then is still to be done when it comes again.
    """
    changed = [one for one in definitions if _applied.get(one[0]) != one[1]]
    with _lock:
        for one in changed:
            _pending[one[0]] = _task(one, load)
        try:
            for one in changed:
                _carry_out(one[0])
        finally:
            for one in changed:
                _pending.pop(one[0], None)
                _unfinished.pop(one[0], None)
    if key:
        if len(_groups) >= 1024:
            _groups.clear()
        _groups[key] = [(one[0], one[1]) for one in definitions]


def _task(definition: Definition, load: Callable[[Definition], Any]) -> Callable[[], None]:
    def carry_out() -> None:
        global _changes
        name, digest = definition[0], definition[1]
        namespace()[name] = load(definition)
        _applied[name] = digest
        _changes += 1

    return carry_out


def _carry_out(name: str) -> None:
    task = _pending.pop(name, None)
    if task is not None:
        task()
        _unfinished.pop(name, None)


class Parents:
    """``with Parents(value):`` the futures of a pickle are loaded as what `value` gives for their numbers."""

    def __init__(self, value: Callable[[int], Any] | None) -> None:
        self._value = value

    def __enter__(self) -> None:
        self._outer = getattr(_parents, "value", None)
        _parents.value = self._value

    def __exit__(self, *error: object) -> None:
        _parents.value = self._outer


# What pickles call while they are being loaded ------------------------------------------------------------


def attribute(qualname: str) -> Any:
    """The object that `qualname` (``"f"``, ``"Class.method"``) stands for in ``__main__``."""
    root, *rest = qualname.split(".")
    with _lock:
        _carry_out(root)
        try:
            found = _unfinished[root] if root in _unfinished else namespace()[root]
        except KeyError:
            raise AttributeError(f"__main__ has no {root!r} in this process") from None
    for name in rest:
        found = getattr(found, name)
    return found


def parent(number: int) -> Any:
    """The result of the future with this number among those that a task waits for."""
    return _parents.value(number)


def begin(name: str, make: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Make a class or function that is still to be filled, known by `name` from now on.

    What fills it may refer to what refers to it.
    """
    made = _unfinished[name] = make(*args)
    return made


def make_function(code: bytes, closure: tuple[CellType, ...]) -> FunctionType:
    """A function of this process's ``__main__`` from marshalled code; `fill_function` does the rest."""
    from marshal import loads

    return FunctionType(loads(code), namespace(), None, None, closure or None)


def fill_function(function: Any, state: tuple[Any, ...]) -> None:
    """Give a function its attributes, and its cells what they hold: pairs of a cell and its content."""
    attributes, slots, cells, _ = state
    for cell, content in cells:
        cell.cell_contents = content
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)


def make_cell() -> CellType:
    """An empty cell."""
    return CellType()


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """A function with a `functools.lru_cache` of its own, empty."""
    from functools import lru_cache

    return lru_cache(maxsize, typed)(function)


def import_module(name: str) -> ModuleType:
    """The module called `name`, itself and not its topmost package."""
    __import__(name)
    return sys.modules[name]
