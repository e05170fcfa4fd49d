"""Programs whose functions and classes are of their own `__main__`, with one worker: `tests.peer`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import ScriptResult

Run = Callable[..., ScriptResult]

HEAD = """
from tests.peer import Blobs, Peer
from clusterfutures import payload
from clusterfutures.errors import RemoteError, TaskPicklingError

def raised(kind, fn, *args):
    try:
        fn(*args)
    except kind as error:
        return error
    raise AssertionError("nothing was raised")
"""


def script(run: Run, text: str, *arguments: str, **options: object) -> str:
    return run(HEAD + text, *arguments, **options).check().stdout


def test_an_initializers_global_is_seen_by_the_tasks(run: Run) -> None:
    script(
        run,
        """
model = None
def initialize(value):
    global model, extra
    model = [value]
    extra = 1
def use():
    return model, extra
def change():
    model.append(2)
with Peer() as peer:
    peer(initialize, 5)
    assert peer(use) == ([5], 1)
    peer(change)
    assert peer(lambda: model) == [5, 2]
    assert peer(use) == ([5, 2], 1)
    model = "the driver's own"      # a new value here goes there
    assert peer(use) == ("the driver's own", 1)
    assert not hasattr(__import__("__main__"), "extra")
""",
    )


def test_values_of_globals_are_those_of_the_moment_of_pickling(run: Run) -> None:
    script(
        run,
        """
x = 1
def get():
    return x
blobs = Blobs()
one = payload.dumps_function(get, blobs.store)
x = [2]
two = payload.dumps_function(get, blobs.store)
x.append(3)                          # in place: a new value all the same
three = payload.dumps_function(get, blobs.store)
call = payload.dumps_call((), {}, blobs.store)
with Peer() as peer:
    peer.blobs = blobs
    answers = [peer.send(each, call) for each in (one, two, three, one, two)]
assert answers == [1, [2], [2, 3], 1, [2]], answers
""",
    )


def test_functions_that_refer_to_each_other(run: Run) -> None:
    script(
        run,
        """
import functools
def even(n):
    return True if n == 0 else odd(n - 1)
def odd(n):
    return False if n == 0 else even(n - 1)
fact = lambda n: 1 if n < 2 else n * fact(n - 1)
def twice(fn):
    @functools.wraps(fn)
    def wrapper(*args):
        wrapper.calls += 1
        return 2 * fn(*args)
    wrapper.calls = 0
    return wrapper
@twice
def five():
    return 5
@functools.lru_cache(maxsize=7)
def fib(n):
    '''Numbers.'''
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def outer(n):
    def inner(m):
        return m if m == 0 else n + inner(m - 1)
    return inner
def later():
    return helper()
def with_default(fn=even, *, other=odd):
    return fn(4), other(4), fn is even
def helper():
    return "helper"
def cached():
    return fib(30), fib.cache_info().maxsize, fib.__doc__, fib.cache_info().hits > 10
with Peer() as peer:
    assert peer(even, 10) is True
    assert peer(odd, 10) is False
    assert peer(fact, 6) == 720
    assert peer(five) == 10 and peer(lambda: (five(), five.calls)) == (10, 2)
    assert peer(fib, 30) == 832040
    assert peer(cached) == (832040, 7, "Numbers.", True)
    assert peer(outer(3), 4) == 12
    assert peer(later) == "helper"
    assert peer(with_default) == (True, False, True)
    assert peer(lambda fns: [fn(4) for fn in fns["all"]], {"all": [even, fact, outer(1)]}) == [True, 24, 4]
    assert peer(functools.partial(outer, 2))(3) == 6
    assert peer(lambda: even is even and fact.__globals__ is even.__globals__ is globals())
""",
    )


def test_closures_that_share_a_variable(run: Run) -> None:
    script(
        run,
        """
def counter():
    count = 0
    def up():
        nonlocal count
        count += 1
    def get():
        return count
    return up, get
def use(up, get):
    up(); up()
    return get()
with Peer() as peer:
    assert peer(use, *counter()) == 2
""",
    )


def test_sentinels_stay_the_one_object_they_are(run: Run) -> None:
    script(
        run,
        """
class Missing:
    pass
class Numbers(list):
    pass
class Slotted(Missing):
    __slots__ = ("number",)
MISSING = object()
OTHER = Missing()
NUMBERS = Numbers([1])
SLOTTED = Slotted()
SLOTTED.number = 1
def ask(value=MISSING, other=OTHER):
    return value is MISSING, other is OTHER
def spoil():
    NUMBERS.append(2)
    SLOTTED.number = 2
with Peer() as peer:
    assert peer(ask) == (True, True)
    assert peer(ask, 1, 2) == (False, False)
    peer(spoil)
    arrived = peer(lambda fn, *args: [list(args[0]), args[1].number], lambda: 0, NUMBERS, SLOTTED)
    assert arrived == [[1], 1], arrived     # arguments are copies of the driver's
""",
    )


def test_imported_modules_and_what_only_an_inner_class_reads(run: Run) -> None:
    script(
        run,
        """
import os.path
import numpy as np
import xml.etree.ElementTree
from math import floor
BASE = 3
class Base:
    pass
def use():
    class Inner(Base):
        value = BASE
        __import__("os")
    return np.arange(Inner.value).sum(), os.path.join("a", "b"), floor(2.5)
def submodule():
    return xml.etree.ElementTree.Element("tag").tag
with Peer() as peer:
    assert peer(use) == (3, os.path.join("a", "b"), 2)
    assert peer(submodule) == "tag"
""",
    )


def test_where_the_script_is_and_what_it_is_called(run: Run) -> None:
    script(
        run,
        """
import logging
def where():
    return __file__, __name__, logging.getLogger(__name__).name
with Peer() as peer:
    assert peer(where) == (__file__, "__main__", "__main__")
""",
    )


CLASSES = """
import abc, functools, collections, dataclasses, enum, typing
class Colour(enum.Enum):
    RED = 1
    GREEN = 2
    def other(self):
        return Colour.GREEN
class Shape(abc.ABC):
    sides = 0
    @abc.abstractmethod
    def area(self): ...
    @staticmethod
    def unit():
        return Square(1)
    @classmethod
    def make(cls, *args):
        return cls(*args)
    @property
    def double(self):
        return 2 * self.area()
class Square(Shape):
    __slots__ = ("side",)
    sides = 4
    class Corner:
        pass
    def __init__(self, side):
        super().__init__()
        self.side = side
    def area(self):
        return scale * self.side ** 2
    def __eq__(self, other):
        return isinstance(other, Square) and other.side == self.side
    __hash__ = None
scale = 1
@dataclasses.dataclass
class Point:
    x: int
    y: typing.List[int] = dataclasses.field(default_factory=list)
Pair = collections.namedtuple("Pair", "a b")
class Typed(typing.NamedTuple):
    a: int
class Slots:
    __slots__ = ("one", "__two")
    def __init__(self):
        self.one = 1
        self.__two = 2
    def sum(self):
        return self.one + self.__two
    @functools.cached_property
    def never(self): ...
class Failure(Exception):
    def __init__(self, code, why):
        super().__init__(f"{why} {code}")
        self.code = code
"""


def test_instances_go_there_and_back_as_what_they_are(run: Run) -> None:
    script(
        run,
        CLASSES
        + """
def check(square, point, colour, pair, typed, corner, slots):
    assert type(slots) is Slots and slots.sum() == 3 and not hasattr(slots, "__dict__")
    assert isinstance(square, Square) and isinstance(square, Shape) and square.double == 8
    assert type(point) is Point and type(pair) is Pair and type(typed) is Typed
    assert colour is Colour.RED and type(corner) is Square.Corner
    assert Shape.unit() == Square.make(1)
    these = [square, point, colour, pair, typed, corner, slots]
    return [*these, Square, Shape.unit, colour.other(), square.area]
def fail():
    raise Failure(3, "because")
values = (Square(2), Point(1), Colour.RED, Pair(1, 2), Typed(1), Square.Corner(), Slots())
with Peer() as peer:
    for _ in range(2):
        back = peer(check, *values)
        assert [type(each) for each in back[:7]] == [type(each) for each in values]
        assert back[0] == values[0] and back[1] == values[1] and back[2] is Colour.RED
        assert back[6].sum() == 3
        assert back[7] is Square and back[8]() == Square(1) and back[9] is Colour.GREEN
        assert back[10]() == 4
    error = raised(Failure, peer, fail)
    assert error.code == 3 and str(error) == "because 3"
    assert peer(Square(3).area) == 9
    assert peer(Square.area, Square(3)) == 9
    assert peer(Square.make, 4) == Square(4)
    assert isinstance(peer(Point, 3), Point)
    Square.sides = 5                 # what a result brings back does not undo it
    back = peer(lambda s: (s, type(s).sides), Square(1))
    assert back[1] == 5 and Square.sides == 5
    scale = 10
    assert peer(Square(1).area) == 10
    assert peer(lambda: Square(1).area()) == 10
""",
    )


def test_what_the_standard_library_decorates(run: Run) -> None:
    script(
        run,
        """
import asyncio, contextlib, functools
@functools.singledispatch
def kind(x):
    return "other"
@kind.register(int)
def _(x):
    return "int"
@contextlib.contextmanager
def five():
    yield 5
async def three():
    return 3
class Squares:
    def __init__(self, n):
        self.n = n
    @functools.cached_property
    def first(self):
        return self.n ** 2
    @functools.lru_cache(None)
    def power(self, n):
        return self.n ** n
def unwrapped(fn):
    def wrapper(*args):
        return fn(*args) + 1
    return wrapper
class Plain:
    @unwrapped
    def method(self):
        return 1
def use(squares):
    with five() as value:
        return kind(value), kind("x"), value, asyncio.run(three()), squares.first, squares.power(3)
with Peer() as peer:
    assert peer(use, Squares(2)) == ("int", "other", 5, 3, 4, 8)
    assert peer(kind, 3) == "int"
    assert peer(Squares(2).power, 4) == 16
    assert peer(Plain().method) == 2
""",
    )


def test_classes_that_only_a_worker_knows(run: Run) -> None:
    script(
        run,
        """
def make():
    global Made
    class Made:
        value = 5
        def get(self):
            return self.value
    return Made()
def local():
    class Local(Exception):
        pass
    raise Local("here")
with Peer() as peer:
    made = peer(make)
    assert made.get() == 5 and type(made).__name__ == "Made"
    error = raised(Exception, peer, local)
    assert type(error).__name__ == "Local" and str(error) == "here", error
""",
    )


def test_classes_that_refer_to_each_other_before_they_are_filled(run: Run) -> None:
    script(
        run,
        """
class Node:
    registry = {}
class Leaf(Node):
    parent = Node
Node.child = Leaf
Node.registry["leaf"] = Leaf
def tied(fn):
    fn.partner = other
    other.partner = fn
    return fn
def other():
    return other.partner is first
@tied
def first():
    return first.partner is other and other()
def use():
    return Node.child is Leaf is Node.registry["leaf"] and Leaf.parent is Node and issubclass(Leaf, Node)
with Peer() as peer:
    assert peer(use)
    assert peer(lambda: Leaf.parent.child is Leaf)
    assert type(peer(Leaf)) is Leaf
    assert peer(first)
""",
    )


NOTEBOOK = """
import __main__
del __main__.__dict__["__file__"]
def cell(text, number=[0]):
    import linecache
    number[0] += 1
    name = f"<cell {number[0]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), __main__.__dict__)
"""


def test_a_notebook_that_redefines_its_functions(run: Run) -> None:
    script(
        run,
        NOTEBOOK
        + '''
cell("""
state = []
class Thing:
    version = 1
def helper():
    return 1
def task(thing=None):
    state.append(1)
    return helper(), Thing.version, len(state), isinstance(thing, Thing)
""")
with Peer() as peer:
    assert peer(task, Thing()) == (1, 1, 1, True)
    old = Thing()
    cell("def helper():\\n    return 2")
    assert peer(task, old) == (2, 1, 2, True)
    cell("class Thing:\\n    version = 2\\n    def fail(self):\\n        raise ValueError(self.version)")
    assert peer(task, Thing()) == (2, 2, 3, True)
    assert peer(task, old) == (2, 2, 4, False)
    assert type(peer(lambda thing: thing, old)) is type(old) is not Thing
    error = raised(ValueError, peer, Thing().fail)
    import traceback
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "raise ValueError(self.version)" in text, text
''',
    )


def test_the_same_program_gives_the_same_bytes(run: Run) -> None:
    script(
        run,
        CLASSES
        + """
import functools
SETS = {"a", "b", "c", ("d", 1)}, frozenset("xyz")
TABLE = {"f": lambda x: x, "squares": [Square, Square(2)], None: SETS}
def outer():
    def inner():
        return SETS, TABLE
    return inner, Square, Colour, Point
captured = [1]
closure = (lambda box: lambda: box)(captured)
def junk():                          # other references to the constants and names of the code
    return [list(outer.__code__.co_consts), [*map(repr, outer.__code__.co_names)]]
blobs = Blobs()
for fn in (outer, outer()[0], closure, functools.partial(outer), Square(1).area):
    one = payload.dumps_function(fn, blobs.store)
    kept = junk()
    assert payload.dumps_function(fn, blobs.store) == one, fn
    from clusterfutures import capture
    capture._known.clear()           # and so without those that are kept
    assert payload.dumps_function(fn, blobs.store) == one, fn
before = payload.dumps_function(closure, blobs.store)
captured.append(2)
assert payload.dumps_function(closure, blobs.store) != before
""",
    )


def test_changes_of_functions_and_classes_are_noticed(run: Run) -> None:
    script(
        run,
        CLASSES
        + """
def limit(n=1, *, step=1):
    return n + step
def use():
    return limit(), Square.sides, Point(1).x, getattr(Point, "new", None), LIST
LIST = [1]
with Peer() as peer:
    assert peer(use) == (2, 4, 1, None, [1])
    limit.__defaults__ = (5,)
    assert peer(use)[0] == 6
    limit.__kwdefaults__["step"] = 2
    assert peer(use)[0] == 7
    limit.__code__ = (lambda n, *, step: -n).__code__
    assert peer(use)[0] == -5
    Square.sides = 6
    assert peer(use)[1] == 6
    Point.new = "new"
    assert peer(use)[3] == "new"
    Point.__init__ = lambda self, x: setattr(self, "x", 2 * x)
    assert peer(use)[2] == 2
    Square.area = lambda self: -1    # a method that its own name does not lead to
    assert peer(Square(5).area) == -1
    LIST.append(2)
    assert peer(use)[4] == [1, 2]
    use.attribute = 3
    assert peer(lambda: use.attribute) == 3
    len = lambda _: "shadowed"
    def size():
        return len("abc")
    assert peer(size) == "shadowed"
    del len
    assert payload.dumps_function(size, peer.blobs.store)
""",
    )


def test_a_global_that_cannot_be_pickled_is_named(run: Run) -> None:
    script(
        run,
        """
import threading
lock = threading.Lock()
class Holder:
    def use(self):
        return lock
def helper():
    return lock
def task(holder=None):
    return helper()
error = raised(TaskPicklingError, payload.dumps_function, task, None)
for word in ("'lock'", "helper", "the function task", "_thread.lock"):
    assert word in str(error), error
assert isinstance(error.__cause__, TypeError)
error = raised(TaskPicklingError, payload.dumps_call, (1, Holder()), {}, None, None, "f")
for word in ("'lock'", "Holder", "argument 2 of f"):
    assert word in str(error), error
""",
    )


def test_a_large_global_is_stored_once_and_sent_never_again(run: Run) -> None:
    script(
        run,
        """
import numpy as np
table = np.zeros(1_000_000)
class Item:
    def __init__(self, n):
        self.n = n
    def get(self):
        return table[self.n], self.n
blobs = Blobs()
bodies = [payload.dumps_item(Item(n), blobs.store) for n in range(100)]
assert sum(map(len, bodies)) < 30_000, sum(map(len, bodies))
assert len(blobs.contents) == 2, len(blobs.contents)      # the table, and what defines both
payload.install_main()
items = [payload.loads_item(body, blobs.fetch) for body in bodies]
assert [item.get() for item in items] == [(0, n) for n in range(100)]
assert blobs.asked == 2, blobs.asked
""",
    )


def test_a_function_that_is_kept_can_have_its_globals_back(run: Run) -> None:
    script(
        run,
        """
x = 1
def get():
    return x
blobs = Blobs()
one = payload.dumps_function(get, blobs.store)
x = 2
two = payload.dumps_function(get, blobs.store)
payload.install_main()
first = payload.loads_function(one, blobs.fetch)
version = payload.main_version()
assert first() == 1
second = payload.loads_function(two, blobs.fetch)
assert second() == 2 and payload.main_version() > version
payload.apply_definitions(one, blobs.fetch)
assert first() == 1
version = payload.main_version()
payload.apply_definitions(one, blobs.fetch)
assert payload.main_version() == version
""",
    )


def test_a_worker_is_a_driver_in_its_turn(run: Run) -> None:
    script(
        run,
        CLASSES
        + """
level = 0
def initialize():
    global level
    level += 1
def leaf(square):
    assert isinstance(square, Square)
    return Square(square.side + level)
def fail():
    raise Failure(level, "level")
def task(square):
    from tests.peer import Peer
    initialize()
    with Peer() as peer:
        bigger = peer(leaf, square)
        assert type(bigger) is Square
        assert peer(lambda: level) == level == 1
        assert raised(Failure, peer, fail).code == 1
        if bigger.side == 4:
            peer(fail)
        return bigger
with Peer() as peer:
    bigger = peer(task, Square(2))
    assert bigger == Square(3) and type(bigger) is Square
    assert level == 0
with Peer() as peer:
    assert raised(Failure, peer, task, Square(3)).code == 1
""",
    )


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_pool_inside_a_task(run: Run, method: str) -> None:
    script(
        run,
        f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
class Thing:
    pass
def double(thing):
    assert isinstance(thing, Thing)
    return thing, 2
def task():
    context = multiprocessing.get_context("{method}")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        thing, two = pool.submit(double, Thing()).result(timeout=30)
        assert isinstance(thing, Thing)
        return two
if __name__ == "__main__":
    with Peer() as peer:
        assert peer(task) == 2
""",
    )


def test_from_a_child_of_multiprocessing(run: Run) -> None:
    script(
        run,
        """
import multiprocessing
class Thing:
    def get(self):
        return CONSTANT
CONSTANT = 5
def task(thing):
    assert isinstance(thing, Thing)
    return thing
def child(queue):
    with Peer() as peer:
        queue.put((type(peer(task, Thing())) is Thing, peer(Thing().get), peer(lambda: CONSTANT)))
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=30) == (True, 5, 5)
    process.join(30)
""",
    )


def test_what_the_driver_cannot_rebuild_is_text(run: Run) -> None:
    script(
        run,
        """
class Gone(Exception):
    pass
def fail():
    raise Gone("with a message")
with Peer() as peer:
    fn = payload.dumps_function(fail, peer.blobs.store)
    del Gone
    error = raised(RemoteError, peer.send, fn, payload.dumps_call((), {}, None))
    assert error.type_name == "__main__.Gone", error.type_name
    assert "with a message" in error.text and 'raise Gone("with' in error.text
""",
    )


WORKER = """
import sys
package = type(sys)("clusterfutures")            # without what its __init__ imports
package.__path__ = [sys.argv[1]]
sys.modules["clusterfutures"] = package
import _pickle
before = set(sys.modules)
from clusterfutures import payload
payload.install_main()
new = set(sys.modules) - before
assert new <= {"clusterfutures.payload", "clusterfutures.mainspace", "__future__", "__mp_main__"}, new
body, call = map(bytes.fromhex, sys.argv[2:])
print(payload.loads_function(body, None)(*payload.loads_call(call, None)[0]))
"""


def test_a_worker_imports_cloudpickle_for_classes_only(run: Run) -> None:
    output = script(
        run,
        f"""
import math, os, subprocess, sys
import clusterfutures
SCALE = 2
def helper(x):
    return math.sin(x) * SCALE
def loaded(x):
    import sys
    helper(x)
    costly = ("cloudpickle", "tblib", "inspect", "traceback", "dataclasses", "typing", "re", "pickle")
    return [name for name in costly if name in sys.modules]
number = 3
first = lambda x: loaded(x) + [number]
body = payload.dumps_function(first, None).hex()
call = payload.dumps_call((1,), {{}}, None).hex()
package = os.path.dirname(clusterfutures.__file__)
command = [sys.executable, "-S", "-c", {WORKER!r}, package, body, call]
sys.stdout.write(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=30).stdout.decode())
""",
    )
    assert output == "[3]\n"


@pytest.mark.parametrize("flag", ["-O", "-B"])
def test_workers_with_flags_of_their_own(run: Run, flag: str) -> None:
    script(
        run,
        f"""
def task(x: int) -> "int":
    '''Doc.'''
    assert x
    return task.__annotations__, task.__doc__, task.__module__, task.__qualname__
with Peer("{flag}") as peer:
    assert peer(task, 1) == (task.__annotations__, "Doc.", "__main__", "task")
""",
    )
