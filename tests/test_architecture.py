"""The shape of the package: who may import whom, and what is loaded when.

Arrows point down. A module may import what stands in a layer below its own, and its neighbours as
long as no circle comes of it. The checks read the source, so that an import inside a function,
which runs late or never in a test, counts like any other. One that is for the type checker alone
does not count: it names a thing and calls nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clusterfutures"

LAYERS = (
    {"__main__", "cli", "demo"},
    {"clean", "pipeline", "runs"},
    {"executor", "local", "registry", "resume", "serial", "session", "slurm", "torque"},
    {"allocation", "attempts", "clerk", "crew", "dispatch", "doorbell"}
    | {"futures", "history", "journal", "kinds", "lease", "nodes", "obituary", "pace", "queued", "roster"}
    | {"submissions", "taskjobs", "waiting", "watch"},
    {"bootstrap", "checkpoint", "context", "functions", "schedulers", "supervisor", "worker", "writing"},
    {"line", "link", "logs", "memory", "notices", "records", "share", "specification", "spool", "wire"}
    | {"capture", "faults", "mainspace", "payload", "picklers"}
    | {"_version", "cpus", "errors", "light", "options", "processes", "profiles", "resources"}
    | {"retries", "states"},
)
"""From the top down. A package such as `schedulers` is one name."""

DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}

STRANGERS = (({"bootstrap", "context", "supervisor", "worker"}, {"schedulers"}),)
"""Neighbours that must not know each other: rendering and parsing runs where the driver is."""

HEAVY = {"cloudpickle", "multiprocessing", "tblib"}
"""What `import clusterfutures` leaves alone, and each name loads when it is used."""

WORKER_START = HEAVY | {"asyncio", "concurrent.futures", "filelock", "logging", "numpy"}
"""What a worker may not load before a task asks for it: every node pays for it."""


BROAD = {"BaseException", "Exception"}


def source_files(package: Path) -> dict[Path, str]:
    """Every source file and the name that `LAYERS` knows it by; "__init__" for the face."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        files[path] = inside.stem if len(inside.parts) == 1 else inside.parts[0]
    return files


def is_part(name: str, package: Path) -> bool:
    """Whether `name` is a module of `package`, or something that its ``__init__`` offers."""
    return (package / name).is_dir() or (package / f"{name}.py").exists()


def running_code(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below `tree`, without what stands under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from running_code(node)


def imported(path: Path, package: Path) -> Iterator[tuple[str, int]]:
    """The parts of `package` that a file imports anywhere in it, with the line; "" is its root."""
    home = (package.name, *path.relative_to(package).parent.parts)
    for node in running_code(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = home[: len(home) - node.level + 1] if node.level else ()
            start += tuple(node.module.split(".")) if node.module else ()
            # `from package import x` names the module x, or something that the package offers.
            targets = [(*start, alias.name) for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == package.name:
                part = target[1] if len(target) > 1 and is_part(target[1], package) else ""
                yield part, node.lineno


def complaint(name: str, target: str) -> str:
    """What is wrong with `name` importing `target`; empty if nothing is."""
    if target == "":
        return "imports from the package's face, which stands above it" if DEPTH[name] else ""
    if DEPTH.get(target, len(LAYERS)) < DEPTH[name]:
        return f"imports {target}, which stands above it"
    if any({name, target} & these and {name, target} & those for these, those in STRANGERS):
        return f"imports {target}, which is no business of its"
    return ""


def violations(package: Path) -> list[str]:
    """Every import that points up or sideways where it may not, as ``file:line: why``."""
    found = []
    arrows: dict[str, set[str]] = {}
    for path, name in source_files(package).items():
        if name == "__init__":
            continue  # the package's face: it offers names of every layer, lazily
        if name not in DEPTH:
            found.append(f"{path.name}: {name} stands in no layer; give it a place in LAYERS")
            continue
        for target, line in imported(path, package):
            wrong = complaint(name, target)
            if wrong:
                found.append(f"{path.relative_to(package)}:{line}: {name} {wrong}")
            elif target not in {"", name}:
                arrows.setdefault(name, set()).add(target)
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append("a circle: " + " -> ".join(error.args[1]))
    return found


def unexplained(path: Path) -> list[str]:
    """Every handler that swallows whatever comes and has no comment at its head that says why.

    One that ends with ``raise`` swallows nothing.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.ExceptHandler) and not isinstance(node.body[-1], ast.Raise):
            kinds = ast.walk(node.type) if node.type else [ast.Name("BaseException")]
            broad = any(isinstance(kind, ast.Name) and kind.id in BROAD for kind in kinds)
            head = lines[node.lineno - 1 : node.body[0].lineno]
            if broad and not any("#" in line for line in head):
                found.append(f"{path.name}:{node.lineno}: {head[0].strip()}")
    return found


def newly_loaded(statement: str) -> set[str]:
    """The modules that `statement` adds to those of a fresh interpreter."""
    script = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1])\n"
        f"{statement}\n"
        "print(*(set(sys.modules) - before), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_imports_point_down() -> None:
    assert violations(PACKAGE) == []


def test_an_error_is_swallowed_for_a_stated_reason() -> None:
    assert [text for path in source_files(PACKAGE) for text in unexplained(path)] == []


def test_import_of_the_package_is_light() -> None:
    loaded = newly_loaded("import clusterfutures")
    assert "clusterfutures" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("module", ["worker", "supervisor"])
def test_start_on_a_node_is_light(module: str) -> None:
    loaded = newly_loaded(f"import clusterfutures.{module}")
    assert f"clusterfutures.{module}" in loaded
    assert loaded & WORKER_START == set()


def test_every_public_name_is_there_and_listed() -> None:
    listed = newly_loaded(
        "import clusterfutures\n"
        "missing = [n for n in clusterfutures.__all__ if not hasattr(clusterfutures, n)]\n"
        "assert not missing, missing\n"
        "unlisted = set(clusterfutures.__all__) - set(dir(clusterfutures))\n"
        "assert not unlisted, unlisted"
    )
    assert listed


class TestTheCheckItself:
    """A check that finds nothing proves nothing until it has found what is there."""

    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        package = tmp_path / "clusterfutures"
        (package / "schedulers").mkdir(parents=True)
        for name in ("__init__", "dispatch", "errors", "executor", "spool", "watch", "worker"):
            (package / f"{name}.py").touch()
        (package / "schedulers" / "__init__.py").touch()
        (package / "schedulers" / "slurm.py").touch()
        return package

    @pytest.mark.parametrize(
        ("file", "source"),
        [
            ("executor.py", "from . import watch, errors"),
            ("executor.py", "import clusterfutures.spool as s, os"),
            ("watch.py", "def f():\n    from .schedulers.slurm import poll"),
            ("schedulers/slurm.py", "from ..errors import OptionError"),
            ("schedulers/slurm.py", "from . import base\nfrom .. import spool"),
            ("spool.py", "from .errors import RunDirectoryError"),
            ("spool.py", "if TYPE_CHECKING:\n    from .executor import LocalExecutor"),
            ("__init__.py", "from .executor import LocalExecutor"),
        ],
    )
    def test_allowed(self, package: Path, file: str, source: str) -> None:
        (package / file).write_text(source)
        assert violations(package) == []

    @pytest.mark.parametrize(
        ("file", "source", "complaint"),
        [
            ("spool.py", "from . import worker", "spool.py:1: spool imports worker"),
            ("spool.py", "def f():\n    import clusterfutures.watch", "spool.py:2: spool imports"),
            ("watch.py", "if 0:\n  from .executor import E", "watch.py:2: watch imports executor"),
            ("schedulers/slurm.py", "from ..watch import w", "slurm.py:1: schedulers"),
            ("schedulers/slurm.py", "from .. import watch", "slurm.py:1: schedulers"),
            ("worker.py", "from .schedulers import slurm", "no business"),
            ("worker.py", "from clusterfutures import OutOfMemory", "the package's face"),
            ("worker.py", "import clusterfutures", "the package's face"),
            ("novelty.py", "", "stands in no layer"),
        ],
    )
    def test_refused(self, package: Path, file: str, source: str, complaint: str) -> None:
        (package / file).write_text(source)
        assert [text for text in violations(package) if complaint in text], violations(package)

    def test_circle(self, package: Path) -> None:
        (package / "watch.py").write_text("from . import dispatch")
        (package / "dispatch.py").write_text("def f():\n    from .watch import Watch")
        assert ["a circle" in text for text in violations(package)] == [True]

    @pytest.mark.parametrize(
        ("clause", "count"),
        [
            ("except Exception as error:\n    print(error)", 1),
            ("except (OSError, BaseException):\n    pass", 1),
            ("except:\n    pass", 1),
            ("except Exception:  # a task may raise anything\n    pass", 0),
            ("except Exception:\n    # a task may raise anything\n    pass", 0),
            ("except BaseException:\n    print()\n    raise", 0),
            ("except (OSError, ExceptionGroup):\n    pass", 0),
        ],
    )
    def test_broad_except(self, package: Path, clause: str, count: int) -> None:
        (package / "spool.py").write_text(f"try:\n    pass\n{clause}\n")
        assert len(unexplained(package / "spool.py")) == count
