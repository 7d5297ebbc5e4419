"""Outputs of two models, compared by hand on the images themselves."""

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from acdc.cli import cli
from acdc.data import DATASETS
from acdc.errors import ConfigError, RunDirectoryError
from acdc.models import build_model
from acdc.run.agreement import compare
from acdc.run.reader import read_agreements
from tests.support import tiny_config, train

SPARSE, DENSE = tiny_config("one_shot", sparsity=0.8), tiny_config("dense")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for config in (SPARSE, DENSE):
        train(config, folder)
    return folder


def probabilities(runs: Path, name: str, product: str) -> list[list[float]]:
    model = build_model(SPARSE.model, "digits", 1).eval()
    model.load_state_dict(load_file(runs / name / f"{product}_last.safetensors"))
    images = DATASETS["digits"].load().test
    pixels = images.pixels.float()
    training = DATASETS["digits"].load().training.pixels.float()
    inputs = (pixels - training.mean()) / training.std()
    with torch.no_grad():
        return model(inputs).double().softmax(dim=1).tolist()


def test_against_sums_by_hand(runs: Path) -> None:
    found = compare(runs / SPARSE.run_name, runs / DENSE.run_name)
    labels = DATASETS["digits"].load().test.labels.tolist()
    sparse = probabilities(runs, SPARSE.run_name, "sparse")
    dense = probabilities(runs, DENSE.run_name, "dense")
    chosen = [(max(range(10), key=p.__getitem__), max(range(10), key=q.__getitem__))
              for p, q in zip(dense, sparse, strict=True)]  # fmt: skip
    same = [a == b for a, b in chosen]
    assert found.images == len(labels)
    assert found.agreement == pytest.approx(sum(same) / len(same))
    right = [(a == y, b == y) for (a, b), y in zip(chosen, labels, strict=True)]
    assert found.both_right == pytest.approx(right.count((True, True)) / len(right))
    assert found.dense_right == pytest.approx(right.count((True, False)) / len(right))
    assert found.sparse_right == pytest.approx(right.count((False, True)) / len(right))
    for c in range(10):
        mine = [each for each, label in zip(same, labels, strict=True) if label == c]
        assert found.by_class[c] == pytest.approx(sum(mine) / len(mine))

    def entropy(p: list[list[float]], q: list[list[float]]) -> float:
        return -sum(
            a * math.log(b) for x, y in zip(p, q, strict=True) for a, b in zip(x, y, strict=True)
        ) / len(p)

    assert found.cross_entropy == pytest.approx(entropy(dense, sparse), rel=1e-4)
    assert found.cross_entropy_of_sparse == pytest.approx(entropy(sparse, dense), rel=1e-4)


def test_the_command_writes_what_reports_read(runs: Path, tmp_path: Path) -> None:
    pair = [str(runs / SPARSE.run_name), str(runs / DENSE.run_name)]
    file = tmp_path / "new" / "pairs.json"
    missing = [str(runs / "nowhere"), pair[1]]
    refused = CliRunner().invoke(cli, ["agreement", *pair, *missing, "--out", str(file)])
    assert isinstance(refused.exception, RunDirectoryError)
    assert not file.exists()
    done = CliRunner().invoke(cli, ["agreement", *pair, *missing, "--lenient", "--out", str(file)])
    assert done.exit_code == 0, done.output
    assert read_agreements(file) == (compare(*map(Path, pair)),)
    file.write_text(json.dumps([{"run": 3}]), encoding="utf-8")
    with pytest.raises(RunDirectoryError):
        read_agreements(file)


def test_models_that_do_not_compare(runs: Path, tmp_path: Path) -> None:
    dense = runs / DENSE.run_name
    with pytest.raises(RunDirectoryError, match="product=sparse: not trained"):
        compare(dense, dense)
    other = tiny_config("dense", dataset="fashion_mnist_1k", epochs=1)
    train(other, tmp_path)
    with pytest.raises(ConfigError):
        compare(runs / SPARSE.run_name, tmp_path / other.run_name)
