"""A finished run's models, loaded elsewhere, are those that were evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.data.loader import LoaderPlan
from acdc.errors import RunDirectoryError
from acdc.run.load import load
from tests.support import tiny_config, train

CONFIG = tiny_config("acdc", sparsity=0.8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train(CONFIG, folder)
    return folder / CONFIG.run_name


def accuracy(model: torch.nn.Module, config: RunConfig) -> float:
    plan = LoaderPlan(1, 100, config.recipe.augmentation, torch.device("cpu"))
    right = total = 0
    with torch.no_grad():
        for images, labels in DATASETS[config.dataset].load().loader(plan).evaluation("test"):
            right += int((model(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return right / total


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("product", [None, "sparse", "dense"])
def test_it_is_the_model_that_was_evaluated(trained: Path, product: str, which: str) -> None:
    found = load(trained, product, which)  # type: ignore[arg-type]
    result = json.loads((trained / "result.json").read_text(encoding="utf-8"))
    expected = result["products"][product or "sparse"][which]
    assert found.config == CONFIG
    assert found.evaluation.test_accuracy == expected["test_accuracy"]
    assert accuracy(found.model, found.config) == expected["test_accuracy"]
    weights = dict(found.model.named_parameters())
    layers = [] if product == "dense" else expected["certificate"]["layers"]
    assert {n: int(m.sum()) for n, m in found.masks.items()} == {
        layer["name"]: layer["nonzeros"] for layer in layers
    }
    assert all(bool((weights[name][~mask] == 0).all()) for name, mask in found.masks.items())


def test_what_cannot_be_trusted_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / CONFIG.run_name
    with pytest.raises(RunDirectoryError):
        load(folder)
    shutil.copytree(trained, folder)
    with pytest.raises(RunDirectoryError):
        load(folder, "companion")  # type: ignore[arg-type]
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    layers = result["products"]["sparse"]["last"]["certificate"]["layers"]
    layers[0]["nonzeros"] += 1
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(RunDirectoryError):
        load(folder)
    assert load(folder, "dense").masks == {}
    weights = folder / "dense_last.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(RunDirectoryError):
        load(folder, "dense")
