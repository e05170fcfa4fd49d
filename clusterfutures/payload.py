r"""Objects to bytes and back: functions, arguments, results and exceptions.

Two forms, told apart by the first byte.  A *plain* payload is a pickle and nothing else, made by the C
pickler: importable functions and ordinary data take this path, which costs about a microsecond.  An
*envelope* adds what a pickle alone cannot carry::

    plain      b"\x80..."   pickle
    envelope   b"\x01"      pickle of (definitions, buffers, pickle)

    definitions   what names of the driver's ``__main__`` stand for (`clusterfutures.mainspace`): the list
                  itself, or the digest, size and access of the stored buffer that has it, or None
    buffers       (digest, size in bytes, read-only) of each large buffer that the pickle leaves out

Large buffers go to a `Store`, which keeps equal contents once, and come from a `Fetch`; this module touches
no file.  Futures among arguments become numbers, and results of theirs when the arguments are loaded.

Driver and workers both import this module, a worker when it starts: cloudpickle and tblib are imported when
a payload needs them (`clusterfutures.picklers`, `clusterfutures.faults`).
"""

from __future__ import annotations

import sys

from clusterfutures import mainspace

try:
    from _pickle import dumps as _dumps
    from _pickle import loads as _loads
except ImportError:  # not CPython; pickle.py costs the import of re and more
    from pickle import dumps as _dumps
    from pickle import loads as _loads

TYPE_CHECKING = False  # typing is not worth its import in a worker
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any, Callable, Optional, Union

    from clusterfutures.capture import Made

    Store = Callable[[memoryview], str]
    """Keeps the content of a buffer, once; its digest."""
    Fetch = Callable[[str, int, bool], Any]
    """The buffer for a digest, its size in bytes and whether it is only to be read."""
    Body = Union[bytes, bytearray, memoryview]
    _Buffer = tuple[str, int, bool]

_ENVELOPE = 1
_PLAIN = 0x80
# In every pickle that refers to a module called __main__, or __mp_main__ as multiprocessing's children do.
_MAIN = b"_main__"
# Buffers from this size on (bytes) leave the pickle and are stored by their content.  Measured: below it, to
# hash one and give it a file costs more (0.2 ms at 64 KiB) than to copy it along with the rest (0.03 ms).
LARGE = 256 * 1024
# Definitions of this size (bytes) and more are stored once and not repeated in every payload.
_INLINE = 256
# Steps of a pickle (opcodes) that are searched for the names in it: an error's text needs but some.
_LOOKED_AT = 1000

_Method = type(mainspace.install.__get__(""))
_modules = sys.modules

install_main = mainspace.install
main_version = mainspace.version


# Driver to worker -----------------------------------------------------------------------------------------


def dumps_function(fn: Callable[..., Any], store: Store) -> bytes:
    """Pickle a function, once for all the calls of it.

    Raises TaskPicklingError, which names the function or the global of ``__main__`` that cannot be pickled.
    """
    views: list[memoryview] = []
    try:
        data = _dumps(fn, 5, buffer_callback=lambda buffer: in_band(views, buffer))
    except Exception:  # whatever it is, what follows meets it again and reports it
        data = None
    if data is not None and type(fn) is _Method and _leads_astray(fn):
        data = None  # pickle goes by the name alone, and does not look where it leads to
    if data is None or _MAIN in data or ("cloudpickle" in _modules and _by_value()):
        return _dumps_more(fn, data, views, store, None, lambda error: _blame_function(fn, error), True)
    return data if not views else _enclosed(None, _stored(views, store), data)


def _leads_astray(method: Any) -> bool:
    """Whether the name of a method stands for something else in its object; some decorators do that."""
    return bool(getattr(method.__self__, method.__name__, None) != method)


def dumps_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    store: Store,
    parents: Optional[list[Future[Any]]] = None,
    fn_name: str = "",
) -> bytes:
    """Pickle the arguments of one call.

    Futures anywhere among them become their places in `parents`, to which new ones are appended; with
    `parents` None they are an error.  Raises TaskPicklingError, which names the argument, and OSError
    if `store` does.
    """
    views: list[memoryview] = []
    try:
        data = _dumps((args, kwargs), 5, buffer_callback=lambda buffer: in_band(views, buffer))
    except Exception:  # as above
        data = None
    if data is None or _MAIN in data or ("cloudpickle" in _modules and _by_value()):
        return _dumps_more(
            (args, kwargs),
            data,
            views,
            store,
            parents,
            lambda error: _blame_call(args, kwargs, fn_name, parents, error),
        )
    return data if not views else _enclosed(None, _stored(views, store), data)


def dumps_item(
    item: Any, store: Store, parents: Optional[list[Future[Any]]] = None, fn_name: str = ""
) -> bytes:
    """Pickle one item of a map over a single iterable; as `dumps_call` otherwise."""
    views: list[memoryview] = []
    try:
        data = _dumps(item, 5, buffer_callback=lambda buffer: in_band(views, buffer))
    except Exception:  # as above
        data = None
    if data is None or _MAIN in data or ("cloudpickle" in _modules and _by_value()):
        return _dumps_more(
            item,
            data,
            views,
            store,
            parents,
            lambda error: _blame_call((item,), {}, fn_name, parents, error),
        )
    return data if not views else _enclosed(None, _stored(views, store), data)


def loads_function(body: Body, fetch: Fetch) -> Callable[..., Any]:
    """The function that `dumps_function` has pickled; raises whatever its unpickling raises."""
    function: Callable[..., Any] = _loads(body) if body[0] == _PLAIN else _open(body, fetch, None)
    return function


def loads_call(
    body: Body, fetch: Fetch, value: Optional[Callable[[int], Any]] = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `dumps_call` has pickled; `value` gives the result of the parent with a number."""
    call: tuple[tuple[Any, ...], dict[str, Any]]
    call = _loads(body) if body[0] == _PLAIN else _open(body, fetch, value)
    return call


def loads_item(body: Body, fetch: Fetch, value: Optional[Callable[[int], Any]] = None) -> Any:
    """What `dumps_item` or `dumps_call` has pickled; raises whatever its unpickling raises, with a note."""
    try:
        return _loads(body) if body[0] == _PLAIN else _open(body, fetch, value)
    except BaseException as error:
        note(error, "(raised while the arguments of the task were unpickled)")
        raise


def apply_definitions(body: Body, fetch: Fetch) -> None:
    """Bring ``__main__`` to what it was when `body` was made, if that has changed since.

    To be called before a function that was loaded earlier is used again, if `main_version()` is not what it
    was after the last use: a payload in between has brought another value of a global.
    """
    if body[0] != _PLAIN:
        _apply(_loads(memoryview(body)[1:])[0], fetch)


# Worker to driver -----------------------------------------------------------------------------------------


def dumps_result(value: Any) -> bytes:
    """Pickle a result, all of it in the bytes; raises the original error if that cannot be done."""
    try:
        data = _dumps(value, 5)
        if _MAIN not in data or mainspace.only_defined_names():
            return data
    except Exception:  # as above
        pass
    from clusterfutures import capture

    return capture.dump_result(value)


def loads_result(body: Body) -> Any:
    """The result that `dumps_result` has pickled; raises whatever its unpickling raises."""
    return _loads(body)


def names_in(body: Body) -> list[str]:
    """The classes and functions that the pickle of a result refers to; of a long one its beginning counts."""
    from itertools import islice
    from pickletools import genops

    found: dict[str, None] = {}
    texts = [""]  # pushed on the pickle's stack; when it refers to a class, the last two are module and name
    memo: list[str] = []
    value: Any
    try:
        for opcode, value, _ in islice(genops(bytes(body)), _LOOKED_AT):
            if opcode.name == "MEMOIZE":
                memo.append(texts[-1])
            elif opcode.name in ("BINGET", "LONG_BINGET"):
                texts.append(memo[value])
            elif opcode.name == "STACK_GLOBAL":
                found[".".join(texts[-2:])] = None
            elif isinstance(value, str):
                texts.append(value)
    except (ValueError, IndexError):  # a damaged one, or not as pickle writes them today
        pass
    return list(found)


def dumps_error(exc: BaseException) -> bytes:
    """Pickle an exception with its traceback, causes and notes, or else what is known of it as text.

    Never raises.
    """
    try:
        from clusterfutures import faults
    except ImportError as missing:  # tblib: a worker's Python may be another than the driver's
        return _dumps_error_as_text(exc, missing)
    return faults.dumps_error(exc)


def _dumps_error_as_text(exc: BaseException, missing: ImportError) -> bytes:
    import traceback

    text = "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    text += f"\n(It cannot travel as itself, for lack of a module in {sys.executable}: {missing})\n"
    return _dumps((type(exc).__qualname__, text, None), 5)


def loads_error(body: Body) -> BaseException:
    """The exception that `dumps_error` has pickled, or a RemoteError with its text; never raises."""
    from clusterfutures import faults

    return faults.loads_error(body)


# Envelopes ------------------------------------------------------------------------------------------------


def _by_value() -> bool:
    """Whether the program has registered modules with cloudpickle that are to travel by value."""
    return bool(_modules["cloudpickle"].list_registry_pickle_by_value())


def _dumps_more(
    obj: Any,
    data: Optional[bytes],
    views: list[memoryview],
    store: Store,
    parents: Optional[list[Future[Any]]],
    blame: Callable[[BaseException], BaseException],
    inline: bool = False,
) -> bytes:
    from clusterfutures import capture

    if "cloudpickle" in _modules and _by_value():
        data = None
    try:
        found = capture.capture(obj, data, views, parents, in_band)
    except Exception as error:  # of the user's classes: any
        told = blame(error)
        raise told from told.__cause__  # the first error of all
    buffers = _stored(found.views, store)
    definitions = _carried(found.definitions, store, inline)
    if parents is not None:
        parents += found.futures
    return _enclosed(definitions, buffers, found.data, found.waits)


def in_band(views: list[memoryview], buffer: Any) -> bool:
    """Whether a buffer stays in the pickle; one that does not is added to `views`."""
    try:
        view: memoryview = buffer.raw()
    except BufferError:  # not contiguous
        return True
    if view.nbytes < LARGE:
        return True
    views.append(view)
    return False


def _enclosed(definitions: Any, buffers: tuple[_Buffer, ...], data: bytes, waits: bool = False) -> bytes:
    if definitions is None and not buffers and not waits:
        return data
    return bytes((_ENVELOPE,)) + _dumps((definitions, buffers, data), 5)


def _stored(views: list[memoryview], store: Store) -> tuple[_Buffer, ...]:
    return tuple([(store(view), view.nbytes, view.readonly) for view in views])


def _carried(definitions: dict[str, Made], store: Store, inline: bool) -> Any:
    """Definitions as they stand in an envelope: a list of them, or where they are stored, or None."""
    if not definitions:
        return None
    entries = []
    for name, made in definitions.items():
        buffers = _stored(made.pickled.views, store)
        entries.append((name, made.digest(buffers), made.pickled.data, buffers))
    if inline:
        return entries
    stored = _dumps(entries, 5)
    return entries if len(stored) < _INLINE else (store(memoryview(stored)), len(stored), True)


def _open(body: Body, fetch: Fetch, value: Optional[Callable[[int], Any]]) -> Any:
    definitions, buffers, data = _loads(memoryview(body)[1:])
    _apply(definitions, fetch)
    with mainspace.Parents(value):
        return _loads(data, buffers=[fetch(*buffer) for buffer in buffers])


def _apply(definitions: Any, fetch: Fetch) -> None:
    if definitions is None:
        return
    key = ""
    if isinstance(definitions, tuple):
        key = definitions[0]
        if mainspace.is_current(key):
            return
        definitions = _loads(fetch(*definitions))
    mainspace.apply(definitions, lambda one: _loads(one[2], buffers=[fetch(*each) for each in one[3]]), key)


# Blame ----------------------------------------------------------------------------------------------------


def _blame_function(fn: Any, error: BaseException) -> BaseException:
    from clusterfutures import capture

    return capture.blame(f"the function {capture.name_of(fn)}", fn, error)


def _blame_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], fn_name: str, parents: Any, error: BaseException
) -> BaseException:
    from clusterfutures import capture

    return capture.blame_call(args, kwargs, fn_name, parents, in_band, error)


def note(error: BaseException, text: str) -> None:
    """Add a note to an error, once, where errors can have notes (from Python 3.11 on)."""
    add = getattr(error, "add_note", None)
    if add is not None and text not in getattr(error, "__notes__", ()):
        add(text)
