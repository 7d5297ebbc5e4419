"""Rooms: imports point downwards, files form no circle, no name of a room above, no huge room."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the ground up; a room imports from its own and from lower rooms.
ORDER = (
    ("acdc",),  # errors, files, messages, seeds, step, console, distributed
    ("acdc.sparsity", "acdc.kernels"),
    ("acdc.methods",),
    ("acdc.data",),
    ("acdc.models",),
    ("acdc.config",),
    ("acdc.training",),
    ("acdc.run",),
    ("acdc.cli", "acdc.__main__", "baselines", "theory"),
    ("study", "conformance"),
    ("reports",),
    ("tracking",),
    ("workflow",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
# Methods know neither configurations nor runs, so that one can be read by itself.
METHODS_SEE = {"acdc", "acdc.sparsity", "acdc.methods", "baselines"}
# The plug-in point, by which a file in baselines is a method; and the one list of commands.
MAY_NAME = {("acdc.methods.registry", "baselines"), ("workflow.cli", "")}


@cache
def sources() -> dict[str, Path]:
    packages = dict.fromkeys(room.partition(".")[0] for room in RANK)
    paths = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return {name_of(path): path for path in paths}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    if module in RANK:
        return module
    parent = module.rpartition(".")[0]
    return room_of(parent) if parent else ""


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Return the modules that one imports anywhere: for annotations and in functions, too."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in sources() else node.module)
    return {name for name in found if name in sources() and name != module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules each of which imports, by way of others, itself."""

    @cache
    def reached(start: str) -> frozenset[str]:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += graph[name]
        return frozenset(seen)

    groups = {
        tuple(sorted(other for other in reached(name) if name in reached(other)))
        for name in graph
        if name in reached(name)
    }
    return [list(group) for group in sorted(groups)]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_circle_of_files() -> None:
    assert circles({module: imports(module) for module in sources()}) == []


@pytest.mark.parametrize("room", RANK)
def test_imports_point_downwards(room: str) -> None:
    upwards = [
        f"{module} -> {other}"
        for module in sources()
        if room_of(module) == room
        for other in sorted(imports(module))
        if RANK[room_of(other)] > RANK[room]
    ]
    assert not upwards


def test_a_method_sees_no_configuration_and_no_run() -> None:
    seen = {
        f"{module} -> {other}"
        for module in sources()
        if room_of(module) in ("baselines", "acdc.methods")
        for other in imports(module)
        if room_of(other) not in METHODS_SEE
    }
    assert not seen


def texts(module: str) -> Iterator[str]:
    """Yield the texts of a module's code, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.value


def test_no_text_names_a_higher_room() -> None:
    named = [
        f"{module}: {text!r}"
        for module in sources()
        for text in texts(module)
        # A module or a package, perhaps with an attribute, as importlib takes it.
        for target in (text.partition(":")[0],)
        if (target in sources() or target in RANK)
        and target != "acdc"
        and RANK[room_of(target)] > RANK[room_of(module)]
        and (module, target) not in MAY_NAME
        and ("." in target or ":" in text or target == "baselines")
    ]
    assert not named


def test_no_room_holds_more_than_a_quarter() -> None:
    lines: dict[str, int] = {}
    for module, path in sources().items():
        count = len(path.read_text(encoding="utf-8").splitlines())
        lines[room_of(module)] = lines.get(room_of(module), 0) + count
    total = sum(lines.values())
    assert {room: count for room, count in lines.items() if count > total / 4} == {}


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long


def test_every_package_is_installed() -> None:
    """What the command finds in a checkout, it finds where the suite is installed."""
    listed = subprocess.run(
        ["git", "ls-files", "*/__init__.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    top = {Path(path).parts[0] for path in listed} - {"tests", "benchmarks"}
    assert top == {room.partition(".")[0] for room in RANK}
