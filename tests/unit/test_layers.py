"""Imports point down the picture of the architecture and never up, and none hides unexplained."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# The lowest first. A name stands for the module and for the modules inside it; those of one entry
# may import each other. A module may import what is in a lower line.
LAYERS = (
    ("carrot.exceptions", "carrot.forks", "carrot.function_options", "carrot.signal_safe"),
    ("carrot.utils", "carrot.logs", "carrot.checks", "carrot.deadline", "carrot.remedies"),
    ("carrot.exits", "carrot.retry", "carrot.routing", "carrot.serialization"),
    ("carrot.message", "carrot.recovery", "carrot.settings"),
    ("carrot.broker",),
    # Five floors of backends: what a driver fills in, what is written once, and the drivers.
    ("carrot.backends.transport",),
    ("carrot.backends.base",),
    ("carrot.backends.seam", "carrot.backends.sockets"),
    (
        "carrot.backends.amqp",
        "carrot.backends.memory",
        "carrot.backends.pyamqplib",
        "carrot.backends.pystomp",
    ),
    ("carrot.server",),
    ("carrot.backends.queue", "carrot.backends.zeromq"),
    ("carrot.backends",),
    ("carrot.connection",),
    ("carrot.messaging",),
    ("carrot",),
)


class Import(NamedTuple):
    """One imported module, and where."""

    line: int
    module: str


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "carrot").rglob("*.py"))}
DRIVERS = (
    "carrot.backends.amqp",
    "carrot.backends.memory",
    "carrot.backends.pyamqplib",
    "carrot.backends.pystomp",
    "carrot.backends.queue",
    "carrot.backends.zeromq",
)
ASK_DATETIME = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")


def place(module: str) -> tuple[int, str]:
    """The layer of a module, and the entry that names it: the longest that fits."""
    fitting = [
        (len(entry), level, entry)
        for level, entries in enumerate(LAYERS)
        for entry in entries
        if module == entry or (entry not in ("carrot", "carrot.backends") and in_(module, entry))
    ]
    assert fitting, f"{module} has no place in LAYERS: give it one"
    _, level, entry = max(fitting)
    return level, entry


def in_(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """What *module* imports, for type checkers only too: a circle of types is one, too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inside = f"{source}.{alias.name}"
                yield Import(node.lineno, inside if inside in MODULES else source)
        else:
            yield from imports(node, module, is_package)


def imports_that_point_up(source: str, module: str, is_package: bool = False) -> list[str]:
    """A complaint for each import of a module that is not below *module*."""
    level, entry = place(module)
    wrong = []
    for line, target in imports(ast.parse(source), module, is_package):
        if not in_(target, "carrot"):
            continue
        target_level, target_entry = place(target)
        if target_level >= level and target_entry != entry:
            wrong.append(f"{module}:{line} imports {target}, which is not below it")
    return wrong


def unexplained_imports(source: str, module: str) -> list[str]:
    """A complaint for each import inside a function without a comment there or above."""
    lines = source.splitlines()
    wrong = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        explained_at = 0
        for node in ast.walk(function):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            above, own = lines[node.lineno - 2].strip(), lines[node.lineno - 1]
            # One comment may stand above several imports in a row.
            if above.startswith("#") or "  # " in own or explained_at == node.lineno - 1:
                explained_at = node.end_lineno or node.lineno
            else:
                wrong.append(f"{module}:{node.lineno} imports inside a function: say why")
    return wrong


def clocks(source: str, module: str) -> list[str]:
    """A complaint for each import of ``time``, and each question what time ``datetime`` has."""
    tree = ast.parse(source)
    wrong = [
        f"{module}:{line} imports time" for line, it in imports(tree, "", False) if it == "time"
    ]
    asked = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return wrong + [f"{module} asks {name}" for name in asked if name in ASK_DATETIME]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    path = MODULES[module]

    wrong = imports_that_point_up(path.read_text(), module, path.name == "__init__.py")

    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_an_import_inside_a_function_says_why(module: str) -> None:
    wrong = unexplained_imports(MODULES[module].read_text(), module)

    assert not wrong


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"carrot.deadline"}))
def test_the_clock_is_read_in_one_file(module: str) -> None:
    assert not clocks(MODULES[module].read_text(), module)


@pytest.mark.parametrize(
    "source",
    ["import time", "from time import monotonic", "def f():\n    return datetime.now(UTC)"],
)
def test_whoever_reads_a_clock_is_found(source: str) -> None:
    assert clocks(source, "m")


def test_the_table_of_backends_imports_no_driver() -> None:
    source = MODULES["carrot.backends"].read_text()

    found = {target for _, target in imports(ast.parse(source), "carrot.backends", True)}

    assert not [target for target in found if any(in_(target, driver) for driver in DRIVERS)]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("carrot.exceptions", "from carrot.message import Message"),
        ("carrot.exceptions", "from carrot.retry import Backoff"),
        ("carrot.exceptions", "if TYPE_CHECKING:\n    from carrot.message import Message"),
        ("carrot.settings", "import carrot.connection"),
        ("carrot.settings", "from . import connection"),
        ("carrot.message", "from carrot import Publisher"),
        ("carrot.broker.virtual_host", "from carrot.backends import get_backend_cls"),
        ("carrot.broker.virtual_host", "from ..backends.pyamqplib import Backend"),
        (
            "carrot.backends.sockets.shared_reader",
            "from carrot.backends.amqp.channel import Channel",
        ),
        ("carrot.backends.sockets.socket", "from carrot.backends import get_backend_cls"),
        ("carrot.connection", "def f():\n    from carrot.messaging import Publisher"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, source: str) -> None:
    assert imports_that_point_up(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("carrot.connection", "from carrot.retry import Backoff"),
        ("carrot.messaging.consumer", "from carrot.messaging.options import Configurable"),
        ("carrot.broker.virtual_host", "from . import queue"),
        ("carrot.message", "from carrot import serialization"),
        ("carrot.exceptions", "import json"),
    ],
)
def test_an_import_that_points_down_or_aside_in_a_package_is_fine(module: str, source: str) -> None:
    assert not imports_that_point_up(source, module)


def test_a_hidden_import_is_found_unless_a_comment_explains_it() -> None:
    hidden = "def f():\n    import json\n"
    explained = "def f():\n    # Slow to import.\n    import json\n    import csv\n"
    on_the_line = "def f():\n    import json  # slow to import\n"

    assert unexplained_imports(hidden, "m")
    assert not unexplained_imports(explained, "m")
    assert not unexplained_imports(on_the_line, "m")
