"""Exceptions to bytes and back, with tracebacks, causes, contexts, notes and groups.

An exception travels as itself if a copy of it can be made where it was raised; what else it carries then
does too, each part that cannot being replaced by a `RemoteError`.  Beside it goes the text of its traceback,
for a driver that cannot rebuild it.  Frames keep file, function and line, and none of their variables.

The reducers are those of the picklers here and not of `copyreg`: how the user's own code pickles an
exception stays as it was.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import traceback
import types
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import tblib
from tblib import pickling_support

from clusterfutures import mainspace

if TYPE_CHECKING:
    from clusterfutures.errors import RemoteError
    from clusterfutures.payload import Body

StandIns = dict[int, "RemoteError"]
Frames = list[tuple[int, str, str, dict[str, Any]]]

_HEAP_TYPE = 1 << 9  # of type.__flags__: a class that was made at run time


class Copy(NamedTuple):
    """The pickle of an exception, and what became of it when it was loaded again."""

    data: bytes
    exc: BaseException


def dumps_error(exc: BaseException) -> bytes:
    """See `clusterfutures.payload.dumps_error`."""
    copy = _copied(exc, {}) or _copied_in_part(exc)
    # The copy's text is the cheaper one: from Python 3.11 on, columns make a traceback slow to print.
    text = text_of(exc if copy is None else copy.exc)
    return pickle.dumps((type_name(exc), text, copy and copy.data), 5)


def _copied_in_part(exc: BaseException) -> Optional[Copy]:
    """A copy with stand-ins for those of its causes, contexts and members that cannot be copied."""
    parts = {id(each): each for each in _chain(exc)[1:]}
    blanks = dict.fromkeys((*parts, id(exc)), remote_error("", ""))
    bad: StandIns = {}
    for key, part in parts.items():
        alone = {**blanks}  # stand-ins for all the others
        del alone[key]
        if _copied(part, alone) is None:
            bad[key] = _stand_in(part)
    if bad:
        return _copied(exc, bad)
    # Each can be copied, and all together cannot: a chain of thousands.
    nearest = (exc.__cause__, exc.__context__)
    return _copied(exc, {id(each): _stand_in(each) for each in nearest if each is not None})


def _stand_in(exc: BaseException) -> RemoteError:
    return remote_error(type_name(exc), text_of(exc))


def remote_error(name: str, text: str) -> RemoteError:
    """What stands for an exception of which only this is known."""
    # Its module has the errors of process pools for bases, whose import takes longer than all else here.
    from clusterfutures.errors import RemoteError

    return RemoteError(name, text)


def loads_error(body: Body) -> BaseException:
    """See `clusterfutures.payload.loads_error`."""
    name, text, exc = "exception", "its bytes cannot be read", None
    try:
        name, text, data = pickle.loads(body)
        if data is not None:
            exc = pickle.loads(data)
    except Exception as error:  # a class that is not there, or whose unpickling raises: any
        text += f"\n(It cannot be rebuilt here: {type_name(error)}: {error})"
    return exc if isinstance(exc, BaseException) else remote_error(name, text)


def type_name(value: Any) -> str:
    """The qualified name of the type of `value`, without the module of built-in ones."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_of(exc: BaseException) -> str:
    """The traceback of an exception as it would be printed."""
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))
    except Exception as error:  # of the user's own methods: any
        return f"{type_name(exc)} (its traceback cannot be printed: {type_name(error)})\n"


def _chain(exc: BaseException) -> list[BaseException]:
    """An exception and all that it refers to, each once."""
    found: dict[int, BaseException] = {}
    queue: list[Any] = [exc]
    while queue:
        each = queue.pop()
        if isinstance(each, BaseException) and id(each) not in found:
            found[id(each)] = each
            members = getattr(each, "exceptions", ())
            queue += [each.__cause__, each.__context__]
            queue += members if isinstance(members, (list, tuple)) else ()
    return list(found.values())


# Pickling -------------------------------------------------------------------------------------------------


def _copied(exc: BaseException, stand_ins: StandIns) -> Optional[Copy]:
    """A copy of an exception; None if there can be none of the same type."""
    for dump in (_dump_plain, _dump_by_value):
        try:
            data = dump(exc, stand_ins)
            copy = None if data is None else pickle.loads(data)
        except Exception:  # of the user's classes: any; text is what remains
            continue
        if data is not None and copy is not None and type(copy) is type(exc):
            return Copy(data, copy)
    return None


def _dump_plain(exc: BaseException, stand_ins: StandIns) -> Optional[bytes]:
    with io.BytesIO() as file:
        pickler = PlainErrorPickler(file, stand_ins)
        pickler.dump(exc)
        return file.getvalue() if not pickler.names_main or mainspace.only_defined_names() else None


def _dump_by_value(exc: BaseException, stand_ins: StandIns) -> bytes:
    from clusterfutures.capture import Capture
    from clusterfutures.picklers import ResultPickler

    class ErrorPickler(ResultPickler):
        def reducer_override(self, obj: Any) -> Any:
            reduced = reduce_error(obj, stand_ins)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    with io.BytesIO() as file:
        ErrorPickler(file, Capture()).dump(exc)
        return file.getvalue()


class PlainErrorPickler(pickle.Pickler):
    """For exceptions whose classes the driver finds by name: it needs no cloudpickle.

    Attributes: `names_main`, whether something of ``__main__`` is referred to.
    """

    def __init__(self, file: io.BytesIO, stand_ins: StandIns) -> None:
        super().__init__(file, 5)
        self._stand_ins = stand_ins
        self.names_main = False

    def reducer_override(self, obj: Any) -> Any:
        """Called for every object that is not one of the plain built-in containers and values."""
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__ in mainspace.MAIN_NAMES:
            self.names_main = True
        return reduce_error(obj, self._stand_ins)


def reduce_error(obj: Any, stand_ins: StandIns) -> Any:
    """How to pickle an exception or a traceback; NotImplemented for anything else."""
    if isinstance(obj, BaseException):
        other = stand_ins.get(id(obj))
        if other is not None:
            return remote_error, (other.type_name, other.text)
        return _reduce_exception(obj)
    if isinstance(obj, types.TracebackType):
        return make_traceback, (_frames(obj),)
    return NotImplemented


def _reduce_exception(exc: BaseException) -> Any:
    make, args, *rest = _own_reduction(exc)
    if make is type(exc) and not isinstance(type(exc).__reduce__, types.FunctionType):
        make, args = make_exception, (make, args)
    state, items, pairs, setter = (*rest, None, None, None, None)[:4]
    links: dict[str, Any] = {
        "__cause__": exc.__cause__,
        "__context__": exc.__context__,
        "__suppress_context__": exc.__suppress_context__,  # after the cause, which sets it
        "__traceback__": exc.__traceback__,
    }
    if hasattr(exc, "__notes__"):
        links["__notes__"] = exc.__notes__
    return make, args, (state, setter, _slots(exc), links), items, pairs, fill_exception


def _own_reduction(exc: BaseException) -> Any:
    registered = copyreg.dispatch_table.get(type(exc))
    # tblib's, if the user has installed it, does what is done here.
    if registered is not None and registered is not pickling_support.pickle_exception:
        reduced = registered(exc)
    else:
        reduced = exc.__reduce_ex__(5)
    if isinstance(reduced, str):
        raise TypeError(f"{type_name(exc)} reduces to a name")
    return reduced


def _slots(exc: BaseException) -> dict[str, Any]:
    """What an exception has in ``__slots__``, which the built-in ``__reduce__`` leaves out."""
    found = {}
    for kind in type(exc).__mro__:
        for name, member in vars(kind).items() if "__slots__" in vars(kind) else ():
            if isinstance(member, types.MemberDescriptorType):
                try:
                    found[name] = member.__get__(exc)
                except AttributeError:  # not set
                    continue
    return found


def _frames(tb: Optional[types.TracebackType]) -> Frames:
    # A list and not a chain, which would be pickled recursively: that of a RecursionError is a thousand long.
    frames = []
    while tb is not None:
        code = tb.tb_frame.f_code
        names = {name: tb.tb_frame.f_globals.get(name) for name in ("__file__", "__name__")}
        frames.append((tb.tb_lineno, code.co_filename, code.co_name, names))
        tb = tb.tb_next
    return frames


# What pickles call while they are being loaded ------------------------------------------------------------


def make_traceback(frames: Frames) -> Optional[types.TracebackType]:
    """A traceback that prints as the one with these frames."""
    following = None
    for line, file, name, names in reversed(frames):
        code = types.SimpleNamespace(co_filename=file, co_name=name)
        frame = types.SimpleNamespace(f_globals=names, f_locals={}, f_code=code, f_lineno=line)
        following = types.SimpleNamespace(tb_frame=frame, tb_lineno=line, tb_next=following)
    return _without_columns(tblib.Traceback(following).as_traceback())


def _without_columns(tb: Optional[types.TracebackType]) -> Optional[types.TracebackType]:
    # From Python 3.11 on the columns of tblib's own code would be underlined in the user's line.
    links = []
    while tb is not None:
        links.append(tb)
        tb = tb.tb_next
    for link in reversed(links):
        tb = types.TracebackType(tb, link.tb_frame, -1, link.tb_lineno)
    return tb


def make_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception of `kind` with `args`, made by the built-in class that it descends from.

    The class's own ``__init__`` is not called: it would need the arguments that it was called with, and
    all that is known is what it handed on.
    """
    base: Any = kind
    while base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    exc: BaseException = base.__new__(kind, *args)
    base.__init__(exc, *args)
    return exc


def fill_exception(exc: BaseException, state: tuple[Any, ...]) -> None:
    """Give an exception its attributes, its traceback and the exceptions it refers to."""
    own, setter, slots, links = state
    if setter is not None:
        setter(exc, own)
    elif own is not None:
        exc.__setstate__(own)
    for name, value in {**slots, **links}.items():
        setattr(exc, name, value)
