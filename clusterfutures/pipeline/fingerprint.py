"""Whether a function and its configuration are those of an earlier run.

Each part is told apart by its name, so that a change can be said in the user's words.  A function is known by
its source, without comments and layout, its defaults and what it has from enclosing functions; so are the
functions, classes and plain constants of its own module that it uses, and what these use in turn.  What it
imports from other modules is not looked at.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pickle import PicklingError
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Optional

PLAIN = (type(None), bool, int, float, complex, str, bytes)

DIGEST = 32
"""Characters of a digest: 128 bits are enough against accidents."""


def parts_of(
    function: Callable[..., Any], setup: Optional[Callable[..., Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    """The digest of each part of a computation, by what a user calls it."""
    parts = {"the function": digest_of(function)}
    if setup is not None:
        parts["the set-up"] = digest_of(setup)
    for user in (function, setup):
        parts.update(_used_parts(user))
    parts.update({f"config[{name!r}]": digest_of(value) for name, value in config.items()})
    return parts


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The names of all parts that are not the same; an empty list for equal ones."""
    names = dict.fromkeys([*before, *after])
    return [name for name in names if before.get(name) != after.get(name)]


def digest_of(value: Any) -> str:
    """The digest of a value's content, equal in another process for what is equal.

    Of what has no content to look at, as a lock, it tells the type alone.
    """
    return _digest(_pieces(value, ()))


def _digest(pieces: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        data = piece.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)  # with lengths, no two lists of pieces look alike
    return digest.hexdigest()[:DIGEST]


# Content ---------------------------------------------------------------------------------------------------


def _pieces(value: Any, above: tuple[int, ...]) -> Iterator[str]:
    """A value as texts; `above` are the ids of what it is in, for one that contains itself."""
    if isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in above:
        yield f"what is {len(above) - above.index(id(value))} above"
        return
    inside = (*above, id(value))
    yield f"begin {type(value).__qualname__}"
    if isinstance(value, (set, frozenset)):
        yield from sorted(_digest(_pieces(item, inside)) for item in value)
    elif isinstance(value, Mapping):
        yield from sorted(_digest(_pieces(item, inside)) for item in value.items())
    else:
        for item in _items(value):
            yield from _pieces(item, inside)
    yield "end"


def _items(value: Any) -> Iterator[Any]:
    """What a value consists of."""
    if isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        yield from (source_of(value), value.__defaults__, value.__kwdefaults__, _enclosed(value))
    elif isinstance(value, (type, BuiltinFunctionType, ModuleType)):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    elif hasattr(value, "dtype") and hasattr(value, "tobytes"):  # of NumPy
        yield from (str(value.dtype), tuple(getattr(value, "shape", ())), value.tobytes())
    elif dataclasses.is_dataclass(value):
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))
    else:
        yield from _reduced(value)


def _reduced(value: Any) -> Iterator[Any]:
    """What pickle would keep of it, and for what is called the source of its class."""
    if callable(value):
        yield source_of(type(value))
    try:
        reduced = value.__reduce_ex__(4)
    except (TypeError, PicklingError):  # a lock, a file ...: nothing that could be told from another one
        return
    if isinstance(reduced, str):
        yield reduced
        return
    make, *parts = reduced
    yield make.__qualname__
    for part in parts:
        yield list(part) if isinstance(part, Iterator) else part


def _enclosed(function: FunctionType) -> list[Any]:
    """The values that it has from the functions around it."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # nothing in it yet
            values.append("an empty cell")
    return values


def source_of(thing: Any) -> str:
    """The source of a function or class without comments and layout; of a function without one, its code."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        return "".join(_code_text(code)) if code is not None else str(thing.__qualname__)
    try:
        return ast.unparse(ast.parse(source))
    except SyntaxError:  # a lambda's lines may be a piece of a longer statement
        return source


def _code_text(code: CodeType) -> Iterator[str]:
    yield f"{code.co_code!r} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_text(constant)
        else:
            yield repr(constant)


# What a function uses --------------------------------------------------------------------------------------


def _used_parts(function: Any) -> dict[str, str]:
    """The digests of what a function uses of its module, and of what that uses."""
    parts: dict[str, str] = {}
    waiting = [_plain_function(function)]
    while waiting:
        user = waiting.pop()
        for name in _global_names(user):
            value, part = user.__globals__[name], f"{user.__module__}.{name}"
            if part in parts or not _is_own(value, user.__module__):
                continue
            parts[part] = digest_of(source_of(value) if isinstance(value, type) else value)
            waiting.append(value)
    return parts


def _is_own(value: Any, module: str) -> bool:
    """Whether it is a plain constant, or a function or class of the module."""
    if isinstance(value, (FunctionType, type)):
        return value.__module__ == module
    return _is_constant(value)


def _is_constant(value: Any) -> bool:
    """Whether nothing can change it: a number, a text and the like, or a tuple or frozen set of such."""
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_constant, value))
    return isinstance(value, PLAIN)


def _plain_function(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)


def _global_names(function: Any) -> list[str]:
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    return sorted(name for name in set(_names_in(code)) if name in function.__globals__)


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
