"""No class is too big, no inheritance too long, and no import goes in a circle.

`python -m tests.unit.test_shape` lists the biggest classes and what breaks a rule; with
`--checkout PATH` it does so for another checkout.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from tests.unit.test_layers import imports

#: The most that a class may have, what it inherits from our own classes included.
METHODS, ATTRIBUTES = 34, 20
#: Of our own classes, from an abstract one down to the one that is used.
CHAIN = 2
#: Of carrot.backends: parts that import each other in a row.
FLOORS = 5

ROOT = Path(__file__).parents[2]

Graph = Mapping[str, set[str]]


# -- reading the code


class Module(NamedTuple):
    """A module's file, and whether it is a package."""

    path: Path
    is_package: bool

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())


def modules_of(root: Path) -> dict[str, Module]:
    """The modules of the carrot in that checkout, by their names."""
    found = {}
    for path in sorted((root / "carrot").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found[".".join(parts[:-1] if is_package else parts)] = Module(path, is_package)
    return found


class _Unguard(ast.NodeTransformer):
    """Takes out ``if TYPE_CHECKING:``, and leaves what stands in it."""

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        return node.body if "TYPE_CHECKING" in ast.unparse(node.test) else node


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """What each module imports of the others, at any time, and for type checkers only too."""
    graph = {}
    for name, module in modules.items():
        tree = _Unguard().visit(module.tree)
        targets = {target for _, target in imports(tree, name, module.is_package)}
        graph[name] = (targets & modules.keys()) - {name}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """The sets of modules that import each other in a circle, each in alphabetical order."""
    reach = {name: _reachable(graph, name) for name in graph}
    rings = {
        frozenset(other for other in reach[name] if name in reach[other])
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(ring) for ring in rings)


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    left = list(graph[start])
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left.extend(graph[name])
    return seen


def parts_of(graph: Graph, package: str) -> dict[str, set[str]]:
    """The same graph between the direct members of *package*, itself one of them."""

    def part(name: str) -> str | None:
        if name == package:
            return package
        if not name.startswith(package + "."):
            return None
        return ".".join(name.split(".")[: package.count(".") + 2])

    parts: dict[str, set[str]] = {}
    for name, targets in graph.items():
        if (mine := part(name)) is not None:
            others = {other for target in targets if (other := part(target)) not in (None, mine)}
            parts.setdefault(mine, set()).update(others)  # type: ignore[arg-type]
    return parts


def longest_path(graph: Graph) -> list[str]:
    """The longest chain of imports, the highest part first; a circle counts as one part."""
    members: dict[str, tuple[str, ...]] = {name: (name,) for name in graph}
    for ring in circles(graph):
        members.update(dict.fromkeys(ring, tuple(ring)))

    @functools.cache
    def below(group: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        targets = {members[target] for name in group for target in graph[name]} - {group}
        ways = [below(target) for target in sorted(targets)]
        return (group, *max(ways, key=len, default=()))

    longest = max((below(group) for group in sorted(set(members.values()))), key=len)
    return [" + ".join(group) for group in longest]


# -- classes


def our_classes(modules: Mapping[str, Module]) -> list[type]:
    """Every class that a module of carrot defines; those in functions are none of them."""
    found: dict[type, None] = {}
    for name, module in modules.items():
        imported = import_module(name)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and (cls := _defined(imported, node.name)):
                found[cls] = None
    return list(found)


def _defined(module: ModuleType, name: str) -> type | None:
    cls = vars(module).get(name)
    return cls if isinstance(cls, type) and cls.__module__ == module.__name__ else None


def own_bases(cls: type) -> list[type]:
    """*cls* and those that it inherits from, as far as they are carrot's."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] == "carrot"]


def is_value(cls: type) -> bool:
    """Whether it is a NamedTuple, a dataclass or an enum: data with names."""
    return dataclasses.is_dataclass(cls) or hasattr(cls, "_fields") or hasattr(cls, "__members__")


def chain_of(cls: type) -> list[str]:
    """The longest line of our own classes from *cls* upwards; values don't count."""
    if cls not in own_bases(cls) or is_value(cls):
        return []
    return [cls.__name__, *max((chain_of(base) for base in cls.__bases__), key=len, default=[])]


def methods_of(cls: type) -> set[str]:
    """The names of its methods and properties; two names of one function are one."""
    named: dict[object, str] = {}
    for base in reversed(own_bases(cls)):
        for name, member in vars(base).items():
            code = _code(member)
            if code is not None and code.co_filename == inspect.getsourcefile(base):
                named.setdefault(code, name)
    return set(named.values())


def _code(member: Any) -> Any:
    """The code of a method or a property; None: it is neither."""
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, functools.cached_property):
        member = member.func
    elif isinstance(member, (classmethod, staticmethod)):
        member = member.__func__
    return getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None


def attributes_of(cls: type) -> set[str]:
    """What its objects and itself hold; options, which the constructor takes, are no state."""
    names: set[str] = set()
    for base in own_bases(cls):
        names |= _attributes_written(base)
    return names - methods_of(cls) - _options_of(cls)


def _options_of(cls: type) -> set[str]:
    """The class attributes that have the name of a keyword of the constructor; a tuple's fields."""
    # Of all our bases: one with **options passes them on.
    inits = [vars(base)["__init__"] for base in own_bases(cls) if "__init__" in vars(base)]
    keywords = {name for init in inits for name in inspect.signature(init).parameters}
    declared = {name for base in own_bases(cls) for name in _declared(base)}
    return (keywords & declared) | set(getattr(cls, "_fields", ()))


def _declared(cls: type) -> set[str]:
    """The names that the body of *cls* annotates or assigns."""
    return set(vars(cls).get("__annotations__", ())) | {
        target.id
        for node in _definition(cls).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


# What every class may have, and no state of an object.
_SPECIAL = {"__slots__", "__hash__", "__match_args__"}


def _attributes_written(cls: type) -> set[str]:
    """What the code of *cls* itself assigns: in its body, and to ``self`` in its methods."""
    names = {name for name in _declared(cls) if _code(vars(cls).get(name)) is None} - _SPECIAL
    for node in ast.walk(_definition(cls)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    return names


@functools.cache
def _definition(cls: type) -> ast.ClassDef:
    source = inspect.getsourcefile(cls)
    assert source is not None
    wanted = cls.__qualname__.rpartition(".")[2]
    for node in ast.walk(ast.parse(Path(source).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            return node
    raise AssertionError(f"no class {wanted} in {source}")


# -- the rules


class Size(NamedTuple):
    """How big a class is."""

    cls: type
    methods: int
    attributes: int

    def __str__(self) -> str:
        name = f"{self.cls.__module__}.{self.cls.__qualname__}"
        return f"{name:<58} {self.methods:>3} methods {self.attributes:>3} attributes"


def sizes(classes: Iterable[type]) -> list[Size]:
    """All of them, the biggest first."""
    found = [Size(cls, len(methods_of(cls)), len(attributes_of(cls))) for cls in classes]
    # As far as each is beyond, or on its way to, one of the two limits.
    return sorted(
        found, key=lambda size: -max(size.methods / METHODS, size.attributes / ATTRIBUTES)
    )


def too_big(classes: Iterable[type]) -> Iterator[str]:
    """A line for each class that has too much."""
    for size in sizes(classes):
        if size.methods > METHODS or size.attributes > ATTRIBUTES:
            yield str(size)


def too_long(classes: Iterable[type]) -> Iterator[str]:
    """A line for each chain of inheritance that is too long; errors may be a tree."""
    for cls in classes:
        chain = chain_of(cls)
        if len(chain) > CHAIN and not issubclass(cls, BaseException):
            yield f"{cls.__module__}: {' -> '.join(chain)}"


def too_high(graph: Graph) -> Iterator[str]:
    """The floors of carrot.backends, when there are too many."""
    floors = longest_path(parts_of(graph, "carrot.backends"))
    if len(floors) > FLOORS:
        yield f"{len(floors)} floors: {' -> '.join(floors)}"


def in_circles(graph: Graph) -> Iterator[str]:
    """A line for each circle of imports, with those that make it."""
    for ring in circles(graph):
        edges = [
            f"{name.removeprefix('carrot.')} -> {target.removeprefix('carrot.')}"
            for name in ring
            for target in sorted(graph[name] & set(ring))
        ]
        yield f"{len(ring)} modules: {', '.join(edges)}"


# -- the tests

MODULES = modules_of(ROOT)


@pytest.fixture(scope="module")
def classes() -> list[type]:
    return our_classes(MODULES)


def listed(offenders: Iterable[str]) -> None:
    """Fail with them, and say how many."""
    lines = list(offenders)
    if lines:
        pytest.fail("\n".join([f"{len(lines)}:", *lines]), pytrace=False)


def test_no_class_has_too_many_methods_or_attributes(classes: list[type]) -> None:
    listed(too_big(classes))


def test_no_chain_of_inheritance_is_longer_than_two(classes: list[type]) -> None:
    listed(too_long(classes))


def test_backends_have_at_most_five_floors() -> None:
    listed(too_high(import_graph(MODULES)))


def test_no_import_goes_in_a_circle_also_when_it_is_for_types_only() -> None:
    listed(in_circles(import_graph(MODULES)))


# -- what counts, shown by classes that pass for carrot's


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Makes a module of that source, which passes for one of carrot's."""

    def make(source: str) -> dict[str, Any]:
        path = tmp_path / "shaped.py"
        path.write_text(source)
        module = ModuleType("carrot.shaped")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "carrot.shaped", module)
        exec(compile(source, str(path), "exec"), vars(module))
        return vars(module)

    return make


COUNTED = """
from dataclasses import dataclass
from functools import cached_property

class Base:
    size: int = 3
    limit: int = 0

    def __init__(self, size=None):
        self.size = size
        self._state = self._other = None

    def method(self): pass
    def overridden(self): pass

class Derived(Base):
    kind = "derived"

    def overridden(self): self.late = 1
    @property
    def seen(self): return 1
    @cached_property
    def made(self): return 1
    @classmethod
    def build(cls): return cls()
    @staticmethod
    def help(): pass
    alias = help

@dataclass
class Value:
    x: int
    y: int
    def total(self): return self.x + self.y
"""


def test_methods_count_once_inherited_ones_too(define: Callable[[str], dict[str, Any]]) -> None:
    names = define(COUNTED)

    assert methods_of(names["Base"]) == {"__init__", "method", "overridden"}
    assert len(methods_of(names["Derived"])) == 7
    assert methods_of(names["Value"]) == {"total"}


def test_attributes_count_but_for_options(define: Callable[[str], dict[str, Any]]) -> None:
    names = define(COUNTED)

    assert attributes_of(names["Base"]) == {"limit", "_state", "_other"}
    assert attributes_of(names["Derived"]) == {"limit", "_state", "_other", "kind", "late"}


def test_a_chain_counts_our_own_classes_and_no_values(
    define: Callable[[str], dict[str, Any]],
) -> None:
    names = define(COUNTED + "class Third(Derived): pass\nclass Sub(Value): pass\n")

    assert chain_of(names["Third"]) == ["Third", "Derived", "Base"]
    assert chain_of(names["Sub"]) == []
    assert list(too_long(names[n] for n in ("Base", "Derived", "Value"))) == []
    assert len(list(too_long([names["Third"]]))) == 1


def test_circles_and_floors_are_found() -> None:
    graph = {
        "p": {"p.a"},
        "p.a": {"p.b.x"},
        "p.b.x": {"p.b.y", "p.c"},
        "p.b.y": {"p.b.x"},
        "p.c": set(),
        "q": {"p"},
    }

    assert circles(graph) == [["p.b.x", "p.b.y"]]
    assert longest_path(parts_of(graph, "p")) == ["p", "p.a", "p.b", "p.c"]


def test_an_import_for_type_checkers_counts(tmp_path: Path) -> None:
    package = tmp_path / "carrot"
    package.mkdir()
    (package / "__init__.py").write_text("")
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from carrot import %s\n"
    (package / "message.py").write_text(guarded % "deadline")
    (package / "deadline.py").write_text("import carrot.message\n")

    graph = import_graph(modules_of(tmp_path))

    assert circles(graph) == [["carrot.deadline", "carrot.message"]]


# -- the listing


def main() -> None:
    """Print the ten biggest classes of a checkout, and what breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.unit.test_shape")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="of carrot; default this one")
    root = parser.parse_args().checkout.resolve()
    sys.path.insert(0, str(root))
    modules = modules_of(root)
    classes, graph = our_classes(modules), import_graph(modules)
    source = inspect.getsourcefile(classes[0]) or ""
    if not source.startswith(str(root)):
        sys.exit(f"that is not of {root}, but {source}: start it elsewhere")
    print(f"the ten biggest of {len(classes)} classes in {root}:")
    for size in sizes(classes)[:10]:
        print(f"  {size}")
    for title, offenders in (
        (f"more than {METHODS} methods or {ATTRIBUTES} attributes", too_big(classes)),
        (f"inheritance longer than {CHAIN}", too_long(classes)),
        (f"more than {FLOORS} floors in carrot.backends", too_high(graph)),
        ("imports in a circle", in_circles(graph)),
    ):
        lines = list(offenders)
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")


if __name__ == "__main__":
    main()
