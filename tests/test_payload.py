"""Functions, arguments, results and exceptions as bytes; `tests.peer` is the other side of the scripts."""

from __future__ import annotations

import _thread
import errno
import functools
import math
import operator
import pickle
import subprocess
import sys
import threading
import traceback
from concurrent.futures import Future
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterfutures import payload
from clusterfutures.errors import RemoteError, TaskPicklingError, WorkerLost
from tests.peer import Blobs

PLAIN = 0x80


def no_store(view: memoryview) -> str:
    raise AssertionError("nothing here is large")


def no_fetch(digest: str, nbytes: int, readonly: bool) -> Any:
    raise AssertionError("nothing here is large")


def through_call(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return payload.loads_call(payload.dumps_call(args, kwargs, no_store), no_fetch)


# -- plain data ----------------------------------------------------------------------------------

atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
data = st.recursive(
    atoms,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.lists(data).map(tuple), st.dictionaries(st.text(), data))
def test_plain_calls_come_back_equal(args: Any, kwargs: Any) -> None:
    assert through_call(*args, **kwargs) == (args, kwargs)


@given(data)
def test_plain_items_and_results_come_back_equal(value: Any) -> None:
    assert payload.loads_item(payload.dumps_item(value, no_store), no_fetch) == value
    assert payload.loads_result(payload.dumps_result(value)) == value


@pytest.mark.parametrize("text", ["__main__", "see __main__.f", "__mp_main__"])
def test_the_name_of_the_main_module_is_also_just_text(text: str) -> None:
    assert through_call(text, {text: [text]}) == ((text, {text: [text]}), {})


@pytest.mark.parametrize(
    "fn", [math.sin, operator.add, len, dict.fromkeys, "a".join, pickle.Unpickler.load, Blobs().fetch]
)
def test_importable_functions_are_plain_pickles(fn: Any) -> None:
    body = payload.dumps_function(fn, no_store)
    assert body[0] == PLAIN
    assert payload.loads_function(body, no_fetch).__name__ == fn.__name__


def test_a_body_may_be_a_view_of_what_was_read() -> None:
    body = payload.dumps_call((1, big()), {}, (blobs := Blobs()).store)
    assert payload.loads_call(memoryview(body), blobs.fetch)[0][0] == 1
    assert payload.loads_item(memoryview(payload.dumps_item(5, no_store)), no_fetch) == 5


def test_a_function_is_loaded_with_the_closure_it_had() -> None:
    count = 0

    def more() -> int:
        nonlocal count
        count += 1
        return count

    body = payload.dumps_function(more, no_store)
    count = 10
    loaded = payload.loads_function(body, no_fetch)
    assert [loaded(), loaded()] == [1, 2] and count == 10


def test_modules_registered_by_value_go_by_value() -> None:
    import cloudpickle

    from tests import peer

    cloudpickle.register_pickle_by_value(peer)
    try:
        body = payload.dumps_function(peer.Blobs.store, no_store)
        call = payload.dumps_call((peer.Blobs(),), {}, no_store)
    finally:
        cloudpickle.unregister_pickle_by_value(peer)
    assert len(body) > 300 and len(call) > 1000  # more than names
    assert payload.loads_function(body, no_fetch) is not peer.Blobs.store


# -- buffers -------------------------------------------------------------------------------------


def big(fill: float = 1.0) -> Any:
    return np.full(payload.LARGE // 8, fill)


def test_large_buffers_are_stored_by_content() -> None:
    blobs = Blobs()
    body = payload.dumps_call((big(), big(), {"a": big(2.0)}), {}, blobs.store)
    assert len(blobs.contents) == 2 and len(body) < 1000
    (one, two, more), _ = payload.loads_call(body, blobs.fetch)
    assert (one == 1).all() and (two == 1).all() and (more["a"] == 2).all()
    one[0] = 7
    assert two[0] == 1


def test_an_array_changed_in_place_is_another_one() -> None:
    blobs = Blobs()
    array = big()
    before = payload.dumps_item(array, blobs.store)
    array[0] = 5
    after = payload.dumps_item(array, blobs.store)
    assert payload.loads_item(before, blobs.fetch)[0] == 1
    assert payload.loads_item(after, blobs.fetch)[0] == 5


def test_small_buffers_stay_in_the_bytes() -> None:
    assert payload.dumps_item(np.arange(10), no_store)[0] == PLAIN


@pytest.mark.parametrize(
    "array", [np.asfortranarray(np.ones((300, 400))), np.ones((600, 600))[::2, ::3]], ids=["F", "strided"]
)
def test_arrays_of_any_layout(array: Any) -> None:
    blobs = Blobs()
    copy = payload.loads_item(payload.dumps_item(array, blobs.store), blobs.fetch)
    assert (copy == array).all() and copy.shape == array.shape


def test_readonly_stays_readonly() -> None:
    blobs = Blobs()
    fixed = big()
    fixed.flags.writeable = False
    (one, two), _ = payload.loads_call(payload.dumps_call((fixed, big()), {}, blobs.store), blobs.fetch)
    assert not one.flags.writeable and two.flags.writeable


def test_a_large_array_in_a_closure_is_stored_too() -> None:
    blobs = Blobs()
    array = big(3.0)
    body = payload.dumps_function(lambda: array.sum(), blobs.store)
    assert len(body) < 5000
    assert payload.loads_function(body, blobs.fetch)() == array.sum()


def test_results_carry_their_buffers() -> None:
    assert (payload.loads_result(payload.dumps_result(big())) == 1).all()


def test_what_the_store_raises_comes_through() -> None:
    def full(view: memoryview) -> str:
        raise OSError(errno.ENOSPC, "No space left")

    with pytest.raises(OSError, match="No space left"):
        payload.dumps_call((big(),), {}, full)


# -- futures among the arguments -----------------------------------------------------------------


def test_futures_become_results_of_parents() -> None:
    one: Future[Any] = Future()
    two: Future[Any] = Future()
    parents = [two]
    args = (one, [two, (one,)], {"k": [one]}, {one})
    body = payload.dumps_call(args, {"x": two}, no_store, parents)
    assert parents == [two, one]
    loaded = payload.loads_call(body, no_fetch, ["second", "first"].__getitem__)
    assert loaded == (("first", ["second", ("first",)], {"k": ["first"]}, {"first"}), {"x": "second"})


def test_items_have_futures_too() -> None:
    future: Future[Any] = Future()
    parents: list[Future[Any]] = []
    body = payload.dumps_item((1, future), no_store, parents)
    assert parents == [future]
    assert payload.loads_item(body, no_fetch, lambda number: number + 5) == (1, 5)


def test_many_futures() -> None:
    futures: list[Future[Any]] = [Future() for _ in range(3000)]
    parents: list[Future[Any]] = []
    body = payload.dumps_call((futures,), {}, no_store, parents)
    assert parents == futures
    assert payload.loads_call(body, no_fetch, lambda number: number)[0][0] == list(range(3000))


def test_a_call_without_futures_is_plain_whatever_the_parents() -> None:
    parents: list[Future[Any]] = []
    assert payload.dumps_call((1,), {}, no_store, parents)[0] == PLAIN
    assert not parents


def test_futures_where_none_may_be() -> None:
    future: Future[Any] = Future()
    with pytest.raises(TaskPicklingError, match=r"argument 1 of f .*future"):
        payload.dumps_call((future,), {}, no_store, None, "f")
    with pytest.raises(TaskPicklingError, match="future"):
        payload.dumps_function(lambda: future, no_store)


def test_parents_stay_as_they_were_when_pickling_fails() -> None:
    parents: list[Future[Any]] = []
    with pytest.raises(TaskPicklingError):
        payload.dumps_call((Future(), threading.Lock()), {}, no_store, parents)
    assert not parents


# -- blame ---------------------------------------------------------------------------------------


class Stubborn:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not me")


def test_errors_name_the_argument() -> None:
    with pytest.raises(TaskPicklingError, match=r"^argument 2 of f \(of type _thread.lock\)") as info:
        payload.dumps_call((1, threading.Lock()), {}, no_store, None, "f")
    assert isinstance(info.value, pickle.PicklingError)
    assert isinstance(info.value.__cause__, TypeError)
    with pytest.raises(TaskPicklingError, match=r"keyword argument 'x' of f .*not me") as info:
        payload.dumps_call((1,), {"x": [Stubborn()]}, no_store, [], "f")
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    with pytest.raises(TaskPicklingError, match=r"argument 1 of f .*generator"):
        payload.dumps_item((i for i in "ab"), no_store, None, "f")


def test_errors_name_the_function() -> None:
    lock = threading.Lock()

    def locked() -> None:
        lock.acquire()

    with pytest.raises(TaskPicklingError, match=r"the function .*locked .*cannot be pickled"):
        payload.dumps_function(locked, no_store)


def test_a_structure_too_deep_is_an_error_and_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TaskPicklingError, match="argument 1 of f"):
        payload.dumps_call((deep,), {}, no_store, None, "f")


def test_a_result_that_cannot_be_pickled_raises_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError, match="not me"):
        payload.dumps_result(Stubborn())
    with pytest.raises(TypeError, match="lock"):
        payload.dumps_result([_thread.allocate_lock()])


# -- exceptions ----------------------------------------------------------------------------------


def through_error(error: BaseException) -> BaseException:
    return payload.loads_error(payload.dumps_error(error))


def caught(fn: Any, *args: Any) -> BaseException:
    try:
        fn(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


class TwoArguments(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one


class NoSuper(Exception):
    def __init__(self, *, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


class Slots(Exception):
    __slots__ = ("__hidden", "code", "unset")

    def __init__(self, code: int) -> None:
        self.code = code
        self.__hidden = code + 1

    def hidden(self) -> int:
        return self.__hidden


class FileError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(errno.ENOENT, "nothing there", path)


class Both(KeyError, AttributeError):
    pass


class OwnReduce(Exception):
    def __init__(self, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return OwnReduce, (self.code,), {"extra": 1}


ERRORS = [
    ValueError("a", 1),
    KeyError("k"),
    OSError(errno.EACCES, "no", "/path"),
    SystemExit(3),
    KeyboardInterrupt(),
    StopIteration(5),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    SyntaxError("bad", ("f.py", 1, 2, "x x")),
    ImportError("m", name="mod", path="/p"),
    TwoArguments(1, 2),
    NoSuper(name="n"),
    Slots(3),
    FileError("/p"),
    Both("k"),
    OwnReduce(4),
    subprocess.CalledProcessError(2, ["ls"], b"out"),
    WorkerLost("gone", signal="SIGKILL", pid=4),
    RemoteError("T", "text"),
    TaskPicklingError("argument 1"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_arrive_as_themselves(error: BaseException) -> None:
    copy = through_error(error)
    assert copy is not error
    assert type(copy) is type(error)
    assert (str(copy), copy.args) == (str(error), error.args)
    expected = {**vars(error), "extra": 1} if isinstance(error, OwnReduce) else vars(error)
    assert vars(copy) == expected
    for name in ("errno", "filename", "code", "value", "object", "lineno", "name", "path"):
        assert getattr(copy, name, None) == getattr(error, name, None)
    if isinstance(error, Slots):
        assert copy.hidden() == 4 and not hasattr(copy, "unset")  # type: ignore[attr-defined]


def fail(depth: int) -> None:
    marker = "locals stay behind"
    if depth:
        fail(depth - 1)
    raise ValueError(len(marker))


def test_the_traceback_shows_the_remote_lines_and_keeps_no_locals() -> None:
    copy = through_error(caught(fail, 2))
    text = printed(copy)
    assert text.count("fail(depth - 1)\n") == 2
    assert "raise ValueError(len(marker))" in text and "^" not in text
    last = list(traceback.walk_tb(copy.__traceback__))[-1]
    assert last[0].f_code.co_name == "fail" and not last[0].f_locals
    assert b"locals stay" not in payload.dumps_error(caught(fail, 1))


def chained() -> None:
    try:
        try:
            fail(0)
        except ValueError:
            raise KeyError("second")  # noqa: B904 - a context is what is wanted
    except KeyError as error:
        raise OSError("third") from error


def test_causes_and_contexts_come_along() -> None:
    copy = through_error(caught(chained))
    assert isinstance(copy.__cause__, KeyError) and copy.__suppress_context__
    assert copy.__context__ is copy.__cause__
    assert isinstance(copy.__cause__.__context__, ValueError)
    assert not copy.__cause__.__suppress_context__
    assert "direct cause" in printed(copy) and "raise ValueError(len(marker))" in printed(copy)


def test_from_none_stays_from_none() -> None:
    error = ValueError("x")
    error.__context__ = KeyError("hidden")
    error.__suppress_context__ = True
    copy = through_error(error)
    assert copy.__suppress_context__ and isinstance(copy.__context__, KeyError)


def test_exceptions_that_refer_to_each_other() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.other, two.__context__ = two, one  # type: ignore[attr-defined]
    one.__cause__ = two
    copy = through_error(one)
    assert copy.__cause__.__context__ is copy  # type: ignore[union-attr]
    assert copy.other is copy.__cause__  # type: ignore[attr-defined]


def test_notes_come_along() -> None:
    error = ValueError("x")
    error.__notes__ = ["see above"]  # type: ignore[attr-defined,unused-ignore]
    assert through_error(error).__notes__ == ["see above"]  # type: ignore[attr-defined,unused-ignore]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are of Python 3.11")
def test_groups_come_along() -> None:
    group_type = __builtins__["ExceptionGroup"]  # type: ignore[index]

    class Special(group_type):  # type: ignore[misc,valid-type]
        def __new__(cls, message: str, errors: Any, code: int) -> Any:
            made = super().__new__(cls, message, errors)
            made.code = code
            return made

        def __init__(self, *args: Any) -> None:
            pass

    locked = TypeError("lock")
    locked.lock = threading.Lock()  # type: ignore[attr-defined]
    inner = group_type("inner", [caught(fail, 0), locked])
    copy = through_error(group_type("outer", [inner, KeyError("k")]))
    assert type(copy) is group_type and copy.message == "outer"
    value, stand_in = copy.exceptions[0].exceptions
    assert type(value) is ValueError and "raise ValueError(len(marker))" in printed(value)
    assert type(stand_in) is RemoteError and stand_in.type_name == "TypeError"
    special = through_error(Special("s", [KeyError("k")], 5))
    assert type(special) is Special and special.code == 5 and len(special.exceptions) == 1


def recurse(n: int) -> int:
    return recurse(n + 1)


def test_a_recursion_error_keeps_its_thousand_frames() -> None:
    error = caught(recurse, 0)
    copy = through_error(error)
    assert type(copy) is RecursionError
    lengths = [len(list(traceback.walk_tb(each.__traceback__))) for each in (copy, error)]
    assert lengths[0] == lengths[1] > 500


def test_one_part_that_cannot_be_pickled_costs_that_part_only() -> None:
    bad = caught(fail, 0)
    bad.lock = threading.Lock()  # type: ignore[attr-defined]
    top = KeyError("top")
    top.__cause__ = bad
    bad.__context__ = IndexError("below")
    copy = through_error(top)
    assert type(copy) is KeyError
    assert isinstance(copy.__cause__, RemoteError) and copy.__cause__.type_name == "ValueError"
    assert "raise ValueError(len(marker))" in copy.__cause__.text
    assert "IndexError: below" in copy.__cause__.text
    assert top.__cause__ is bad


def test_a_chain_too_long_to_be_pickled_is_cut() -> None:
    top = last = ValueError("top")
    for number in range(3000):
        last.__cause__ = KeyError(number)
        last = last.__cause__  # type: ignore[assignment]
    copy = through_error(top)
    assert type(copy) is ValueError and copy.args == ("top",)
    assert type(copy.__cause__) is RemoteError and copy.__cause__.type_name == "KeyError"


class Loses(Exception):
    """Turns into another exception on its way."""

    def __reduce__(self) -> Any:
        return ValueError, ("other",)


class Refuses(Exception):
    def __reduce__(self) -> Any:
        return Refuses._made, (1,)

    @staticmethod
    def _made(code: int) -> Any:
        raise RuntimeError("cannot be made")


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __reduce__(self) -> Any:
        raise RuntimeError("no")


class Odd(Exception):
    exceptions = 5


@pytest.mark.parametrize("kind", [Loses, Refuses, Speechless])
def test_what_cannot_be_an_exception_again_is_text(kind: Any) -> None:
    def fail_with(kind: Any) -> None:
        raise kind("message")

    copy = through_error(caught(fail_with, kind))
    assert type(copy) is RemoteError
    assert copy.type_name == f"tests.test_payload.{kind.__name__}"
    assert "raise kind(" in copy.text and copy.text in str(copy)


def test_attributes_with_the_names_of_groups() -> None:
    assert type(through_error(Odd("x"))) is Odd


def test_bytes_that_are_no_exception_are_an_error_all_the_same() -> None:
    for body in (b"", b"nonsense", pickle.dumps(5), pickle.dumps(("T", "text", pickle.dumps(5)))):
        assert type(payload.loads_error(body)) is RemoteError


def test_an_exception_whose_class_is_missing_here_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    body = payload.dumps_error(TwoArguments(1, 2))
    monkeypatch.delattr(sys.modules[__name__], "TwoArguments")
    copy = payload.loads_error(body)
    assert type(copy) is RemoteError and copy.type_name == "tests.test_payload.TwoArguments"
    assert "1 and 2" in copy.text and "cannot be rebuilt" in copy.text


def test_pickling_errors_leaves_the_registry_of_reducers_alone() -> None:
    import copyreg

    before = dict(copyreg.dispatch_table)
    through_error(caught(chained))
    assert copyreg.dispatch_table == before


def test_local_classes_and_functions_come_back_as_the_same() -> None:
    class Local:
        count = 0

    class LocalError(Exception):
        pass

    (copy,), _ = through_call(Local())
    assert type(copy) is Local
    body = payload.dumps_result(Local())
    Local.count = 5
    assert type(payload.loads_result(body)) is Local
    assert Local.count == 5  # a result does not reset the class
    assert type(through_error(LocalError("x"))) is LocalError


def test_partials_and_caches() -> None:
    fn = payload.loads_function(payload.dumps_function(functools.partial(pow, 2), no_store), no_fetch)
    assert fn(5) == 32


@given(st.binary(min_size=1, max_size=60))
def test_names_in_anything(body: bytes) -> None:
    """They are looked for where unpickling has failed: nothing may go wrong then."""
    assert all(isinstance(name, str) for name in payload.names_in(body))


def test_names_in_a_pickle() -> None:
    assert "decimal.Decimal" in payload.names_in(payload.dumps_result([Decimal(1), {"a": Decimal(2)}]))
