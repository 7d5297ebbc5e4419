"""Which modules a result depends on, and when it counts as made by other code."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acdc.config.run import RunConfig
from acdc.run.sources import (
    COMMON,
    LOADED,
    PACKAGES,
    ROOT,
    Sources,
    Standing,
    modules_of,
    roots,
    source_digest,
    standing,
)
from tests.support import METHODS, tiny_config

SELECTING = {
    "acdc",
    "acdc_dense",
    "dpf",
    "dsd",
    "gmp",
    "one_shot",
    "rigl",
    "set",
    "snfs",
    "snip",
    "sr_ste",
    "static",
    "top_kast",
    "woodfisher",
}
"""The methods that choose weights by acdc/selection.py, counted by hand (static: through its
random start, which lies in rewiring.py)."""

UNSCIENTIFIC = {
    "acdc.__main__",
    "acdc.run.checkpoints",
    "acdc.cli",
    "acdc.config.yaml_io",
    "acdc.run.failures",
    "acdc.run.journal",
    "acdc.run.lease",
    "acdc.run.forkserver",
    "acdc.run.outcomes",
    "acdc.run.provenance",
    "acdc.run.progress",
    "acdc.run.lifecycle",
    "acdc.run.sources",
    "acdc.run.signals",
}
"""What a run imports and its numbers do not depend on: how it is carried out and watched."""

WATCHER = """
import sys
from workflow.cli import cli
cli(sys.argv[1:], standalone_mode=False)
names = [n for n in sys.modules if n.split(".")[0] in ("acdc", "baselines")]
print("MODULES", *names)
"""


@pytest.fixture(scope="module")
def configs() -> dict[str, RunConfig]:
    return {method: tiny_config(method) for method in METHODS}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages, which can be edited."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def stale_methods(copy: Path, configs: dict[str, RunConfig]) -> set[str]:
    """The methods whose runs depend on what differs between the copy and the original."""
    edited = Sources(copy)
    return {
        method
        for method, config in configs.items()
        if edited.fingerprint(config) != LOADED.fingerprint(config)
    }


def test_a_copy_elsewhere_is_the_same_code(copy: Path, configs: dict[str, RunConfig]) -> None:
    assert stale_methods(copy, configs) == set()


def test_comments_docstrings_and_layout_change_nothing(
    copy: Path, configs: dict[str, RunConfig]
) -> None:
    for path in sorted(copy.glob("**/*.py")):
        # Another docstring for the module, comments, blank lines, and all layout lost.
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Another description."))
        text = ast.unparse(ast.fix_missing_locations(tree))
        path.write_text("# A comment.\n\n\n" + text.replace("\n\n", "\n\n\n\n") + "\n# An end.\n")
    assert stale_methods(copy, configs) == set()


def test_an_edited_method_makes_its_own_runs_stale(
    copy: Path, configs: dict[str, RunConfig]
) -> None:
    edit(copy / "baselines" / "rigl.py", "\nclass ", "\nEDITED = 1\n\n\nclass ")
    assert stale_methods(copy, configs) == {"rigl"}


def test_a_number_that_differs_is_a_change(copy: Path, configs: dict[str, RunConfig]) -> None:
    path = copy / "baselines" / "snip.py"
    tree = ast.parse(path.read_text())
    numbers = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is int]
    numbers[0].value += 1
    path.write_text(ast.unparse(tree))
    assert stale_methods(copy, configs) == {"snip"}


def test_the_run_that_a_run_starts_from_counts(copy: Path, configs: dict[str, RunConfig]) -> None:
    edit(copy / "baselines" / "dense.py", "class ", "EDITED = 1\n\n\nclass ")
    from_dense = {
        method
        for method, config in configs.items()
        if config.parent and config.parent.method == "dense"
    }
    assert "woodfisher" in from_dense
    assert stale_methods(copy, configs) == {"dense", *from_dense}


def test_selection_makes_stale_who_selects(copy: Path, configs: dict[str, RunConfig]) -> None:
    edit(copy / "acdc" / "selection.py", "\ndef ", "\ndef _another() -> None: ...\n\n\ndef ")
    assert stale_methods(copy, configs) == SELECTING


@pytest.mark.parametrize("module", sorted(UNSCIENTIFIC))
def test_how_a_run_is_carried_out_makes_nothing_stale(
    module: str, copy: Path, configs: dict[str, RunConfig]
) -> None:
    path = copy.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(path.read_text() + "\nEDITED = 1\n")
    assert stale_methods(copy, configs) == set()


def test_another_data_set_or_model_is_another_matter(copy: Path) -> None:
    for path in (copy / "acdc" / "data" / "folder.py", copy / "acdc" / "models" / "mobilenet.py"):
        path.write_text(path.read_text() + "\nEDITED = 1\n")
    assert stale_methods(copy, {"dense": tiny_config("dense")}) == set()
    assert stale_methods(copy, {"dense": tiny_config("dense", model="mobilenet_v1")}) == {"dense"}


def test_a_new_import_widens_the_closure(copy: Path, configs: dict[str, RunConfig]) -> None:
    module = copy / "baselines" / "dense.py"
    (copy / "acdc" / "novelty.py").write_text("import acdc.novelty_of_novelty\nX = 1\n")
    (copy / "acdc" / "novelty_of_novelty.py").write_text("from . import lease\n")
    before = set(LOADED.fingerprint(configs["dense"]))
    edit(module, "from acdc.errors", "from acdc import novelty\nfrom acdc.errors")
    assert (
        set(Sources(copy).fingerprint(configs["dense"])) - before
        == {
            "acdc.run.lease",
            "acdc.novelty",
            "acdc.novelty_of_novelty",
        }
        | set(LOADED.closure(["acdc.run.lease"])) - before
    )


def test_imports_for_annotations_and_within_functions_do_not_count(copy: Path) -> None:
    text = (
        "from __future__ import annotations\n"
        "import typing\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from acdc.run.lease import Lease\n"
        "if typing.TYPE_CHECKING:\n    import acdc.run.signals\n"
        "def late() -> None:\n    import acdc.run.journal\n"
        "try:\n    import acdc.seeds\nexcept ImportError:\n    import acdc.sparsity.layers\n"
        "class Body:\n    from acdc.sparsity.masks import Masks\n"
    )
    (copy / "acdc" / "novelty.py").write_text(text)
    found = set(Sources(copy).closure(["acdc.novelty"]))
    assert {
        "acdc",
        "acdc.sparsity.layers",
        "acdc.sparsity.masks",
        "acdc.novelty",
        "acdc.seeds",
    } <= found
    assert not found & {"acdc.run.lease", "acdc.run.signals", "acdc.run.journal"}


@pytest.mark.parametrize("method", ["acdc", "rigl", "woodfisher"])
def test_the_closure_is_what_a_run_imports(method: str, tmp_path: Path) -> None:
    """Against a real process: all that it imported is accounted for, and nothing else."""
    config = tiny_config(method)
    arguments = ["train", "--json", config.canonical_json(), "--runs", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, *arguments, "--threads", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.rpartition("MODULES ")[2].split())
    modules = set(LOADED.fingerprint(config))
    assert modules <= imported
    assert imported - modules <= UNSCIENTIFIC
    provenance = json.loads((tmp_path / config.run_name / "provenance.json").read_text())
    assert provenance["modules"] == LOADED.fingerprint(config)


def test_later_edits_do_not_show(copy: Path, configs: dict[str, RunConfig]) -> None:
    sources = Sources(copy)
    (copy / "acdc" / "training.py").write_text("X = 1\n")
    assert sources.fingerprint(configs["acdc"]) == LOADED.fingerprint(configs["acdc"])


def test_roots_are_modules(configs: dict[str, RunConfig]) -> None:
    for config in configs.values():
        names = roots(config)
        assert set(names) <= set(LOADED.closure(names))
        assert set(COMMON) < set(names)


def recorded(folder: Path, *attempts: dict[str, str] | None) -> None:
    """Write the provenance of a run whose attempts used these modules."""
    first, *later = [{} if modules is None else {"modules": modules} for modules in attempts]
    folder.mkdir()
    text = json.dumps({**first, "resumed": later} if later else first)
    (folder / "provenance.json").write_text(text)


def test_standing(tmp_path: Path) -> None:
    config = tiny_config("dense")
    plain = config.model_dump(mode="json")
    now = LOADED.fingerprint(config)
    folder = tmp_path / config.run_name
    assert standing(folder, plain).unknown == "made before modules were recorded"
    recorded(folder, now)
    assert standing(folder, plain) == Standing()
    assert standing(folder, plain).current


def test_standing_of_a_resumed_run(tmp_path: Path) -> None:
    config = tiny_config("dense")
    now = LOADED.fingerprint(config)
    then = {name: digest for name, digest in now.items() if name != "acdc.seeds"}
    then |= {"baselines.dense": "0" * 12, "acdc.former": "1" * 12}
    folder = tmp_path / config.run_name
    recorded(folder, now, then, now)
    found = standing(folder, config.model_dump(mode="json"))
    assert not found.current
    assert found.changes == (
        ("acdc.former", "gone"),
        ("acdc.seeds", "new"),
        ("baselines.dense", "changed"),
    )
    assert str(found) == "acdc.former (gone), acdc.seeds (new), baselines.dense"


def test_an_attempt_without_modules_leaves_it_open(tmp_path: Path) -> None:
    config = tiny_config("dense")
    folder = tmp_path / config.run_name
    recorded(folder, None, LOADED.fingerprint(config))
    found = standing(folder, config.model_dump(mode="json"))
    assert not found.current
    assert found.unknown == "made before modules were recorded"


def test_a_run_is_no_more_current_than_the_one_it_starts_from(tmp_path: Path) -> None:
    config = tiny_config("woodfisher")
    assert config.parent is not None
    parent = config.parent
    plain = config.model_dump(mode="json")
    folder = tmp_path / config.run_name
    recorded(folder, LOADED.fingerprint(config))
    assert standing(folder, plain).current
    recorded(tmp_path / parent.run_name, LOADED.fingerprint(parent) | {"acdc.seeds": "0" * 12})
    assert standing(folder, plain).changes == (("acdc.seeds", "changed"),)


def test_a_configuration_of_another_time(tmp_path: Path) -> None:
    config = tiny_config("dense")
    plain = config.model_dump(mode="json")
    folder = tmp_path / config.run_name
    recorded(folder, LOADED.fingerprint(config))
    assert "no longer accepted" in str(standing(folder, plain | {"method": "abandoned"}))
    assert "another way" in str(standing(folder, plain | {"seed": 77}))


def test_one_digest_of_all_attempts() -> None:
    one, other = {"acdc.seeds": "0" * 12}, {"acdc.seeds": "1" * 12}
    digest = source_digest({"modules": one})
    assert digest is not None
    assert len(digest) == 12
    assert source_digest({"modules": one, "resumed": [{"modules": one}]}) == digest
    assert source_digest({"modules": other}) != digest
    assert source_digest({"modules": one, "resumed": [{"modules": other}]}) != digest
    assert source_digest({}) is None
    assert source_digest({"modules": one, "resumed": [{}]}) is None
    assert modules_of({"modules": one, "resumed": [{"modules": other}]}) == [one, other]
