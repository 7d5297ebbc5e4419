"""The digest of the code that determines results: what changes it and what does not."""

import ast
import shutil
from pathlib import Path

import pytest

from acdc.config.run import RunConfig
from acdc.run.reader import Attempt, RunRecord, read_run
from acdc.run.sources import ROOT, SCIENCE, science_digest, staleness
from tests.support import METHODS, Uninterrupted, tiny_config


@pytest.fixture(scope="module")
def configs() -> dict[str, RunConfig]:
    return {method: tiny_config(method) for method in METHODS}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("acdc", "baselines"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def edit(path: Path) -> None:
    assert path.exists()
    path.write_text(path.read_text() + "\nEDITED = 1\n")


def changed(copy: Path, configs: dict[str, RunConfig]) -> set[str]:
    return {m for m, c in configs.items() if science_digest(c, copy) != science_digest(c)}


def test_each_pattern_names_files() -> None:
    for pattern in SCIENCE:
        assert list(ROOT.glob(pattern)), pattern


def test_comments_and_layout_change_nothing(copy: Path, configs: dict[str, RunConfig]) -> None:
    for path in sorted(copy.glob("**/*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Another description."))
        text = ast.unparse(ast.fix_missing_locations(tree))
        path.write_text("# A comment.\n\n\n" + text.replace("\n\n", "\n\n\n\n") + "\n# An end.\n")
    assert changed(copy, configs) == set()


@pytest.mark.parametrize(
    ("file", "methods"),
    [
        ("baselines/rigl.py", {"rigl"}),
        ("acdc/methods/acdc.py", {"acdc", "acdc_dense"}),
        # woodfisher and one_shot start from a dense run.
        ("baselines/dense.py", {"dense", "woodfisher", "one_shot"}),
        ("baselines/_dialects.py", {"gmp"}),
        ("baselines/_ramps.py", {"dpf", "gmp", "woodfisher"}),
        ("acdc/sparsity/selection.py", set(METHODS)),
        ("acdc/training/loop.py", set(METHODS)),
        ("acdc/seeds.py", set(METHODS)),
        # How a run is carried out and watched.
        ("acdc/cli.py", set()),
        ("acdc/run/lease.py", set()),
        ("acdc/run/reader.py", set()),
    ],
)
def test_an_edit(file: str, methods: set[str], copy: Path, configs: dict[str, RunConfig]) -> None:
    edit(copy / file)
    assert changed(copy, configs) == methods


def test_a_number_that_differs_is_a_change(copy: Path, configs: dict[str, RunConfig]) -> None:
    path = copy / "baselines" / "snip.py"
    tree = ast.parse(path.read_text())
    numbers = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is int]
    numbers[0].value += 1
    path.write_text(ast.unparse(tree))
    assert changed(copy, configs) == {"snip"}


def test_a_run_records_it(uninterrupted: Uninterrupted) -> None:
    config = tiny_config("dense")
    record = read_run(uninterrupted(config)[0])
    assert record.source_digest == science_digest(config)
    assert staleness(record) == ""


@pytest.mark.parametrize(
    ("digests", "expected"),
    [(["a", "a"], "a"), (["b", "a"], "b+a"), (["a", None], None), ([None], None), ([], None)],
)
def test_all_attempts_count(digests: list[str | None], expected: str | None) -> None:
    attempts = tuple(Attempt(science=digest) for digest in digests)
    record = RunRecord(Path("run"), None, None, None, attempts, None, ())
    assert record.source_digest == expected
