"""Which source code a result depends on, and whether that has changed since."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from acdc.errors import ConfigError

if TYPE_CHECKING:
    from acdc.config.run import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("acdc", "baselines")

COMMON = (
    "acdc.training.loop",
    "acdc.run.records",
    "acdc.training.evaluation",
    "acdc.sparsity.certificate",
    "acdc.sparsity.flops",
)
"""The modules from which every run's dependencies are followed, beside its own."""

Kind = Literal["changed", "new", "gone"]

_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")


class Sources:
    """The modules of the suite as they are when this is made; later edits do not show."""

    def __init__(self, root: Path = ROOT) -> None:
        self._texts = {
            _module_name(path.relative_to(root)): path.read_bytes()
            for package in PACKAGES
            for path in root.glob(f"{package}/**/*.py")
        }
        self._known: dict[str, _Module] = {}

    def fingerprint(self, config: RunConfig) -> dict[str, str]:
        """Return twelve hexadecimal digits of each module that a run depends on.

        They tell the code of a module, not its comments, docstrings and layout. Versions of Python
        that write the same code in different ways, which is rare, give different digits.
        """
        return {name: self._module(name).digest for name in self.closure(roots(config))}

    @property
    def names(self) -> tuple[str, ...]:
        """The modules that there are."""
        return tuple(sorted(self._texts))

    def parse(self) -> None:
        """Read all modules now, so that processes forked from this one need not."""
        for name in self._texts:
            self._module(name)

    def closure(self, names: Iterable[str]) -> list[str]:
        """Return modules and all that importing them imports, in alphabetical order.

        Imports within functions, and those for annotations only, are not followed.
        """
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in self._texts and name not in found:
                found.add(name)
                # Importing a module runs the packages that it lies in first.
                waiting += [name.rpartition(".")[0], *self._module(name).imports]
        return sorted(found)

    def _module(self, name: str) -> _Module:
        if name not in self._known:
            tree = ast.parse(self._texts[name])
            imports = tuple(_imports(tree, name.rpartition(".")[0]))
            _drop_texts(tree)
            digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
            self._known[name] = _Module(digest, imports)
        return self._known[name]


@dataclass(frozen=True)
class _Module:
    digest: str
    imports: tuple[str, ...]


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _drop_texts(node: ast.AST) -> None:
    """Remove the statements that are nothing but a text."""
    for name in _BLOCKS:
        block = getattr(node, name, None)
        if block:
            block[:] = [statement for statement in block if not _is_text(statement)]
            for statement in block:
                _drop_texts(statement)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Yield what running a module imports: modules, and names in them that may be modules."""
    for statement in (s for block in _BLOCKS for s in getattr(node, block, ())):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            relative = "." * statement.level + (statement.module or "")
            source = importlib.util.resolve_name(relative, package)
            yield source
            yield from (f"{source}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and _only_for_annotations(statement.test):
            continue
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(statement, package)


def _only_for_annotations(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def lineage(config: RunConfig) -> Iterator[RunConfig]:
    """Yield a run, the run that it starts from, and so on."""
    yield config
    if config.parent is not None:
        yield from lineage(config.parent)


def roots(config: RunConfig) -> list[str]:
    """Return the modules from which a run's dependencies are followed.

    Those common to all runs, and those of the methods, models and data sets of its lineage.
    """
    from acdc.data import DATASETS
    from acdc.models import module_of

    found = list(COMMON)
    for run in lineage(config):
        found += [run.method_class.__module__, module_of(run.model), DATASETS[run.dataset].module]
    return found


LOADED = Sources()
"""The modules as this process has imported them, but for the moments in between: a run that is
forked hours later records the code that it runs, not what was edited meanwhile."""


@dataclass(frozen=True)
class Standing:
    """Whether a result was made by the code that is there now."""

    changes: tuple[tuple[str, Kind], ...] = ()
    """The modules that differ, in alphabetical order."""
    unknown: str | None = None
    """Why that cannot be told."""

    @property
    def current(self) -> bool:
        """Whether training again would be by the same code."""
        return not self.changes and self.unknown is None

    def __str__(self) -> str:
        """Return what differs, in words."""
        if self.unknown:
            return self.unknown
        return ", ".join(
            name if kind == "changed" else f"{name} ({kind})" for name, kind in self.changes
        )


UNRECORDED = "made before modules were recorded"


def standing(folder: Path, description: Mapping[str, Any], sources: Sources = LOADED) -> Standing:
    """Return how a result stands to the code that is there now.

    A run that starts from another is no more current than that one.

    Args:
        folder: of the run.
        description: its configuration as plain data.
        sources: the code that is there now.
    """
    from acdc.config.run import parse_run

    try:
        config = parse_run(dict(description))
    except ConfigError:
        return Standing(unknown="of a configuration that is no longer accepted")
    if config.run_name != folder.name:
        return Standing(unknown="of a configuration that is resolved in another way now")
    changes: dict[str, Kind] = {}
    for run in lineage(config):
        path = folder.parent / run.run_name / "provenance.json"
        if run is not config and not path.exists():
            continue  # its result has been removed
        attempts = modules_of(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
        if not attempts:
            return Standing(unknown=UNRECORDED)
        now = sources.fingerprint(run)
        for then in attempts:
            changes |= _differences(then, now)
    return Standing(tuple(sorted(changes.items())))


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, Kind]:
    def kind(name: str) -> Kind:
        return "changed" if name in then and name in now else "new" if name in now else "gone"

    return {name: kind(name) for name in {*then, *now} if then.get(name) != now.get(name)}


def modules_of(provenance: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the modules that each attempt at a run used, or nothing if not all recorded them."""
    found = [attempt.get("modules") for attempt in (provenance, *provenance.get("resumed", ()))]
    return found if all(found) else []


def source_digest(provenance: Mapping[str, Any]) -> str | None:
    """Return twelve digits of all the code that made a result, or none where it is not recorded."""
    states = {json.dumps(modules, sort_keys=True) for modules in modules_of(provenance)}
    return hashlib.sha256("\n".join(sorted(states)).encode()).hexdigest()[:12] if states else None
