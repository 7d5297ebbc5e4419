"""A run is a function of its configuration alone, and what it says of itself is true."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from acdc import seeds
from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.data.loader import Batch
from acdc.data.memory import MemoryLoader
from acdc.metrics import ACCURACY
from acdc.models import build_model
from acdc.run.model_store import ModelStore
from acdc.training.evaluation import Score
from tests.support import (
    METHODS,
    OPTIMIZERS,
    Silent,
    Uninterrupted,
    journal,
    network_of,
    tiny_config,
    train,
)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = tiny_config("dense", epochs=1)
    first = train(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    reporter = Silent()
    assert train(config, tmp_path, reporter) == first
    assert reporter.epochs == []
    assert reporter.said == [f"{config.run_name} has finished already"]
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_all_methods_start_from_the_same_weights_at_a_seed() -> None:
    def initial(method: str, seed: int) -> dict[str, Tensor]:
        return network_of(tiny_config(method, seed=seed)).state_dict()

    state = torch.random.get_rng_state()
    expected = initial("dense", 3)
    assert torch.equal(torch.random.get_rng_state(), state)
    for method in METHODS:
        torch.manual_seed(random.randrange(2**31))
        ours = initial(method, 3)
        assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    assert not torch.equal(initial("dense", 4)["conv1.weight"], expected["conv1.weight"])


def test_all_methods_see_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    fed = MemoryLoader.training

    def watched(loader: MemoryLoader, epoch: int, first: int = 0) -> Iterator[Batch]:
        for inputs, labels in fed(loader, epoch, first):
            seen.append(inputs.numpy().tobytes() + labels.numpy().tobytes())
            yield inputs, labels

    monkeypatch.setattr(MemoryLoader, "training", watched)
    batches: dict[str, list[bytes]] = {}
    for method in ("dense", "acdc", "gmp", "rigl", "top_kast"):
        seen.clear()
        train(tiny_config(method), tmp_path)
        batches[method] = list(seen)
    assert len(batches["dense"]) == 4 * 5
    assert len(set(batches["dense"])) == 4 * 5  # another order and other shifts in every epoch
    assert all(batches[method] == batches["dense"] for method in batches)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**33),
            st.sampled_from(get_args(seeds.Axis)),
            st.lists(st.integers(0, 2), max_size=3).map(tuple),
        ),
        unique=True,
        max_size=20,
    )
)
def test_every_axis_and_position_of_every_seed_has_draws_of_its_own(places: list[Any]) -> None:
    derived = [seeds.derive(seed, axis, *position) for seed, axis, position in places]
    assert len(set(derived)) == len(places)
    assert all(0 <= value < 2**63 for value in derived)


def test_a_run_whose_very_last_step_diverges_is_no_finished_run(tmp_path: Path) -> None:
    # One batch: the only loss is that of the initial weights, and finite.
    recipe = {"lr": 1e30, "lr_schedule": "constant", "batch_size": 1200}
    result = train(tiny_config("dense", epochs=1, recipe=recipe), tmp_path)
    assert result["status"] == "diverged"
    assert result["products"] == {}


def test_a_run_that_starts_from_a_diverged_one_has_diverged_too(tmp_path: Path) -> None:
    recipe = {"lr": 1e30, "lr_schedule": "constant"}
    result = train(tiny_config("one_shot", recipe=recipe), tmp_path)
    assert result["status"] == "diverged"
    assert result["products"] == {}


IMPORTS = """
import sys
from acdc.cli import cli
heavy = ["torch._dynamo", "pandas", "mlflow", "matplotlib", "sklearn", "snakemake", "scipy"]
for file in sys.argv[2:]:
    try:
        cli(["train", file, "--runs", sys.argv[1]], standalone_mode=False)
    except SystemExit as end:
        print(end.code, sorted({*heavy, "pytorch_optimizer"} & sys.modules.keys()))
"""


def test_a_run_loads_neither_compiler_nor_anything_of_the_report(tmp_path: Path) -> None:
    files = []
    for method, optimizer in (("acdc", "sgd"), ("rigl", "adamw"), ("rigl", "lamb")):
        config = tiny_config(method, recipe=OPTIMIZERS.get(optimizer, {}))
        files.append(tmp_path / f"{optimizer}.yaml")
        files[-1].write_text(yaml.safe_dump(config.plain()))
    command = [sys.executable, "-c", IMPORTS, tmp_path / "runs", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    ends = [line for line in done.stdout.splitlines() if line.endswith("]")]
    assert ends == ["0 []", "0 []", "0 ['pytorch_optimizer']"], done.stderr


def load_model(config: RunConfig, path: Path) -> nn.Module:
    model = build_model(config.model, config.dataset, config.seed)
    model.load_state_dict(load_file(path))
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_a_result_is_true_of_its_weights(method: str, uninterrupted: Uninterrupted) -> None:
    config = tiny_config(method)
    folder, result = uninterrupted(config)
    products = config.method_class.products
    assert sorted(result["products"]) == sorted(products)
    assert result["primary"] == products[0]
    data = DATASETS["digits"].load()
    for product in products:
        for which in ("last", "best"):
            record = result["products"][product][which]
            model = load_model(config, folder / f"{product}_{which}.safetensors")
            for split, images in (("test", data.test), ("val", data.validation)):
                pixels = (images.pixels.float() - data.mean) / data.std
                with torch.no_grad():
                    outputs = model(pixels)
                correct = int((outputs.argmax(dim=1) == images.labels).sum())
                # Another batch size rounds otherwise; no image is that close to a tie.
                assert record[f"{split}_accuracy"] == correct / len(images)
                loss = nn.functional.cross_entropy(outputs, images.labels).item()
                assert record[f"{split}_loss"] == pytest.approx(loss, rel=1e-4)
            state = model.state_dict()
            certificate = record["certificate"]
            zeros = total = 0
            for layer in certificate["layers"]:
                assert layer["weights"] == state[layer["name"]].numel()
                assert layer["nonzeros"] == int((state[layer["name"]] != 0).sum())
                zeros += layer["weights"] - layer["nonzeros"]
                total += layer["weights"]
            assert total == result["prunable_weights"]
            assert certificate["achieved"] == pytest.approx(zeros / total)
            assert certificate["requested"] == (config.sparsity if product == "sparse" else 0)
            assert certificate["holds"], certificate["failures"]
            per_image = sum(layer["flops"] for layer in certificate["layers"])
            assert record["inference_flops"] == pytest.approx(per_image)


@pytest.mark.parametrize("method", METHODS)
def test_the_best_product_has_the_best_accuracy(method: str, uninterrupted: Uninterrupted) -> None:
    folder, result = uninterrupted(tiny_config(method))
    epochs = [record for record in journal(folder) if "val_accuracy" in record]
    for product, record in result["products"].items():
        candidates = [e for e in epochs if e["product"] == product]
        if candidates:
            best = max(candidates, key=lambda e: (e["val_accuracy"], e["epoch"]))
            assert record["best"]["epoch"] == best["epoch"]
            assert record["best"]["val_accuracy"] == best["val_accuracy"]
            assert record["last"]["epoch"] == candidates[-1]["epoch"]
        else:
            assert method == "one_shot"


def test_of_equal_validation_accuracies_the_later_epoch_is_kept_as_the_best(tmp_path: Path) -> None:
    model = network_of(tiny_config("dense"))
    optimizer = torch.optim.SGD(model.parameters())
    shelf = ModelStore(tmp_path / "checkpoint", frozenset(), ACCURACY)
    for epoch, accuracy in enumerate([0.25, 0.5, 0.5, 0.4]):
        with torch.no_grad():
            model.get_parameter("fc.bias").fill_(epoch)
        shelf.keep("dense", epoch, Score(accuracy, 1.0), {}, model, optimizer)
    assert shelf.records["best"]["dense"]["epoch"] == 2
    assert shelf.records["last"]["dense"]["epoch"] == 3
    shelf.write()
    shelf.publish(tmp_path)
    for which, epoch in (("best", 2), ("last", 3)):
        state = load_file(tmp_path / f"dense_{which}.safetensors")
        assert bool((state["fc.bias"] == epoch).all())


def test_training_flops_are_those_of_the_papers_formulas(uninterrupted: Uninterrupted) -> None:
    images = 5 * 256
    _, dense = uninterrupted(tiny_config("dense"))
    total = dense["flops"]["dense_inference"]
    assert dense["flops"]["training"] == 3 * total * images * 4 == dense["flops"]["dense_training"]
    folder, acdc = uninterrupted(tiny_config("acdc"))
    epochs = [record for record in journal(folder) if "val_accuracy" in record]
    assert [epoch["phase"] for epoch in epochs] == ["dense", "sparse", "dense", "sparse"]
    forward = [epoch["forward_flops"] for epoch in epochs]
    assert forward[0] == total
    assert forward[1] < 0.6 * total
    expected = [2 * forward[0] + total, 3 * forward[1], 2 * forward[2] + total, 3 * forward[3]]
    assert acdc["flops"]["training"] == pytest.approx(images * sum(expected))
    assert acdc["flops"]["training_published"] == pytest.approx(images * 3 * sum(forward))
    assert epochs[-1]["train_flops"] == acdc["flops"]["training"]


def test_epochs_have_records_and_mask_changes_events(uninterrupted: Uninterrupted) -> None:
    folder, result = uninterrupted(tiny_config("acdc"))
    records = journal(folder)
    kinds = [record.get("event", "epoch") for record in records]
    assert kinds == ["epoch", "prune", "epoch", "restore", "epoch", "prune", "epoch"]
    assert [record["epoch"] for record in records] == [0, 1, 1, 2, 2, 3, 3]
    for record in records:
        if "event" not in record:
            assert None not in record.values()
            nonzeros = sum(record["nonzeros"].values())
            assert record["sparsity"] == pytest.approx(1 - nonzeros / result["prunable_weights"])


@pytest.mark.parametrize("method", sorted({*METHODS} - {"one_shot"}))
def test_every_method_learns(method: str, uninterrupted: Uninterrupted) -> None:
    _, result = uninterrupted(tiny_config(method))
    # Guessing gives 0.1; a run of 20 steps is far above it, however sparse.
    assert result["products"][result["primary"]]["best"]["test_accuracy"] > 0.3
