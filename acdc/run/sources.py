"""The digest of the code that determines results, and whether the present code made a result."""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from acdc.config.run import RunConfig, parse_run
from acdc.errors import ConfigError
from acdc.methods.registry import OWN
from acdc.run.reader import RunRecord

ROOT = Path(__file__).resolve().parents[2]
SCIENCE = (
    *(f"acdc/{room}/*.py" for room in ("config", "data", "models", "sparsity", "training")),
    *(f"acdc/{name}.py" for name in ("distributed", "seeds", "step", "run/records")),
    "acdc/methods/*.py",
)
"""The files that all results depend on, except for the methods' own files."""
_IMPORTED = re.compile(r"^from (baselines\.\w+|acdc\.methods\.\w+) import", re.MULTILINE)


def science_digest(config: RunConfig, root: Path = ROOT) -> str:
    """Return twelve hexadecimal digits of the code that determines a run's results.

    That is the code of the library's science and of the methods of the run and of those that it
    starts from, in the source tree at ``root``. Comments, docstrings and layout do not count.
    """
    return _digest(root, frozenset(run.method_class.__module__ for run in _lineage(config)))


@functools.cache
def _digest(root: Path, methods: frozenset[str]) -> str:
    files = {path for pattern in SCIENCE for path in root.glob(pattern)}
    files -= {root / "acdc" / "methods" / f"{name}.py" for name in OWN}
    files |= _with_imports(root, methods)
    lines = (f"{path.relative_to(root)} {_code_digest(path)}" for path in sorted(files))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _with_imports(root: Path, modules: Iterable[str]) -> set[Path]:
    """Return the files of methods' modules, and of those that they import from each other."""
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        path = root / (waiting.pop().replace(".", "/") + ".py")
        # A method may be installed elsewhere, where git does not follow it either.
        if path not in found and path.is_file():
            found.add(path)
            waiting += _IMPORTED.findall(path.read_text(encoding="utf-8"))
    return found


class _WithoutTexts(ast.NodeTransformer):
    """Removes the statements that are nothing but a string."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if text else node


@functools.cache
def _code_digest(path: Path) -> str:
    tree = _WithoutTexts().visit(ast.parse(path.read_bytes()))
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _lineage(config: RunConfig) -> Iterator[RunConfig]:
    """Yield a run, the run that it starts from, and so on."""
    run: RunConfig | None = config
    while run is not None:
        yield run
        run = run.parent


def staleness(record: RunRecord, root: Path = ROOT) -> str:
    """Return why the present code might not reproduce the result of a run, "" if it made it."""
    if record.result is None:
        return "damaged"
    try:
        config = parse_run(record.result.config)
    except ConfigError:
        return "its configuration is no longer valid"
    if config.run_name != record.folder.name:
        return "its configuration is resolved differently now"
    if record.source_digest is None:
        return "no digest of its code"
    if record.source_digest != science_digest(config, root):
        return f"made by other code ({config.method})"
    return ""
