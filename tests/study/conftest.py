"""Scales and experiments that tests write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.model import Study
from study.resolve import load
from tests.workflow.conftest import TINY

Resolve = Callable[..., Study]
RIGL = {"label": "RigL", "method": "rigl"}
ACDC = {"label": "AC/DC", "method": "acdc"}


@pytest.fixture
def edited(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes the tiny scale with some keys changed."""

    def write(**changes: object) -> str:
        data = yaml.safe_load(TINY.read_text()) | changes
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


@pytest.fixture
def resolved(tmp_path: Path, edited: Callable[..., str]) -> Resolve:
    """Return a function that resolves a table of one task of 20 epochs on the digits."""

    def resolve(*rows: dict[str, Any], scale: dict[str, Any] | None = None, **keys: Any) -> Study:
        experiment = {
            "id": "mine", "kind": "table", "title": "Mine", "caption": "Mine.",
            "task": "imagenet-resnet50", "sparsities": [0.9], "columns": ["top1"], "rows": rows
        } | keys  # fmt: skip
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        (folder / "mine.yaml").write_text(yaml.safe_dump(experiment))
        file = edited(**{"experiments": ["mine"], "sparsities": None, **(scale or {})})
        return load(file, experiments=folder)

    return resolve


THEORY = {
    "id": "theory_t2_rate", "kind": "theory", "theory": "t2_rate", "title": "Mine",
    "caption": "Mine."}  # fmt: skip


@pytest.fixture
def theory(tmp_path: Path, edited: Callable[..., str]) -> Resolve:
    """Return a function that resolves one experiment of the theory."""

    def resolve(scale: dict[str, Any] | None = None, **keys: Any) -> Study:
        folder = tmp_path / "experiments"
        folder.mkdir(exist_ok=True)
        (folder / "theory_t2_rate.yaml").write_text(yaml.safe_dump(THEORY | keys))
        file = edited(**{"experiments": ["theory_t2_rate"], "theory": {}, **(scale or {})})
        return load(file, experiments=folder)

    return resolve
