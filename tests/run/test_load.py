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
from acdc.run.card import CARD
from acdc.run.load import load
from acdc.run.result import finished
from tests.support import tiny_config, tiny_text, train

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


@pytest.mark.parametrize("config", [CONFIG, tiny_text("gmp")], ids=["images", "text"])
def test_a_card_has_the_numbers_of_the_result(config: RunConfig, tmp_path: Path) -> None:
    train(config, tmp_path)
    folder = tmp_path / config.run_name
    result = finished(folder)
    lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    rows = {
        cells[0].strip("`"): cells[1:]
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
        if cells and cells[0].startswith("`")
    }
    metric = DATASETS[config.dataset].metric
    models = {
        f"{product}_{which}.safetensors": getattr(pair, which)
        for product, pair in result.products.items()
        for which in ("last", "best")
    }
    for file, found in models.items():
        assert (folder / file).exists()
        assert rows[file][2] == metric.shown(found.test_accuracy, found.test_loss)
    certificate = result.products["sparse"].last.certificate
    assert certificate is not None
    kept = {layer.name: str(layer.nonzeros) for layer in certificate.layers}
    assert {name: cells[1] for name, cells in rows.items() if name not in models} == kept


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
