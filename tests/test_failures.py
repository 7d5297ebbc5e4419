"""What the surroundings do to a run is one sentence that says what to do, and costs no work."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.checkpoints import Checkpoints
from acdc.config import RunConfig
from acdc.data import DATASETS
from acdc.errors import CheckpointError, DeviceMemoryError, Resumable, RunDirectoryError, SuiteError
from acdc.method import get_method
from acdc.runs import FAILED, Options, run
from tests.support import (
    Silent,
    Uninterrupted,
    assert_same_run,
    tiny_config,
    train,
)
from tests.test_stops import ended, spawn


class After(Silent):
    """Does something after an epoch, before its checkpoint is written."""

    def __init__(self, epoch: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.at = epoch
        self.act = act

    def epoch(self, record: dict[str, Any]) -> None:
        super().epoch(record)
        if record["epoch"] == self.at:
            self.act()


class AtStep(Silent):
    """Does something at every step."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def step(self) -> None:
        self.act()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run's folder, less the journal and links to elsewhere."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if path.name != "journal.jsonl" and not path.name.startswith(".")
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("checkpoint/step-0000000015.pt", [3]),
        ("checkpoint/sparse-000001.safetensors", [2, 3]),
        ("checkpoint/dense-000002.optimizer.pt", [3]),
        ("result.json", []),
    ],
)
def test_a_full_disk_costs_nothing_that_was_saved(
    name: str, left: list[int], tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = tiny_config("acdc")
    folder = tmp_path / config.run_name
    target = folder / name
    before: dict[str, bytes] = {}

    def fill() -> None:
        before.update(contents(folder))
        target.with_name(f".{target.name}.{os.getpid()}.tmp").symlink_to("/dev/full")

    # What is to be written after epochs 1, 2 and 3 meets the full disk.
    epoch = {"s": 2, "c": 1}[name[11]] if name.startswith("checkpoint/s") else 2
    epoch = 3 if name == "result.json" else epoch
    with pytest.raises(RunDirectoryError) as caught:
        train(config, tmp_path, After(epoch, fill))
    text = str(caught.value)
    assert "No space left on device; free some space and start again, which goes on" in text
    assert f"run {config.run_name} cannot be written: {tmp_path}" in text
    assert "\n" not in text
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert FAILED not in after
    reporter = Silent()
    result = train(config, tmp_path, reporter)
    assert reporter.epochs == left
    assert_same_run(folder, result, *uninterrupted(config))
