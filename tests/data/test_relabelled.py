"""Random labels: drawn once for all runs, of some training images only, and measured exactly."""

import itertools
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS, IMAGES
from acdc.data.loader import LoaderPlan
from acdc.data.memory import ImageSet, MemoryLoader, relabel
from acdc.distributed import Ranks
from acdc.training.evaluation import evaluate_relabelled
from acdc.training.images import ImageTask
from tests.support import METHOD_SETTINGS, journal, network_of, train, weight_files

SMALL = ("fashion_mnist_1k_relabelled", "fashion_mnist_2k_relabelled")


def loaded(name: str) -> ImageSet:
    images = DATASETS[name].load()
    return images


def on(name: str, **changes: Any) -> RunConfig:
    recipe = {"batch_size": 250, "lr": 0.1, "augmentation": "shift"} | changes.pop("recipe", {})
    whole = {"model": "resnet8_s4", "dataset": name, "method": "dense", "sparsity": 0.0}
    return parse_run(whole | {"epochs": 2, "recipe": recipe} | changes)


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [record for record in journal(folder) if "event" not in record]


# The draw


@pytest.mark.parametrize("name", SMALL)
def test_only_the_labels_of_so_many_training_images_differ(name: str) -> None:
    changed, plain = loaded(name), loaded(name.removesuffix("_relabelled"))
    relabelled = changed.relabelled
    assert plain.relabelled is None
    numbers = relabelled.numbers
    assert len(numbers) == len(set(numbers.tolist())) == DATASETS[name].relabelled == 100
    assert torch.equal(numbers, numbers.sort().values)
    assert torch.equal(relabelled.true_labels, plain.training.labels[numbers])
    others = torch.ones(len(plain.training), dtype=torch.bool)
    others[numbers] = False
    assert torch.equal(changed.training.labels[others], plain.training.labels[others])
    for images, same in ((changed.validation, plain.validation), (changed.test, plain.test)):
        assert torch.equal(images.pixels, same.pixels)
        assert torch.equal(images.labels, same.labels)
    assert torch.equal(changed.training.pixels, plain.training.pixels)
    assert torch.equal(changed.mean, plain.mean)
    assert torch.equal(changed.std, plain.std)


def test_the_draw_is_the_same_whatever_has_been_drawn_before() -> None:
    first = loaded(SMALL[0]).training.labels
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(loaded(SMALL[0]).training.labels, first)


def test_labels_are_uniform_over_all_classes_and_independent_of_the_true_ones() -> None:
    plain = loaded("fashion_mnist_10k")
    changed = relabel(plain, 4_500, 10)
    given = changed.training.labels[changed.relabelled.numbers].numpy()
    own = changed.relabelled.true_labels.numpy()
    assert stats.chisquare(np.bincount(given, minlength=10)).pvalue > 1e-3
    assert stats.chi2_contingency(np.histogram2d(given, own, bins=10)[0]).pvalue > 1e-3
    kept = int((given == own).sum())
    assert stats.binomtest(kept, 4_500, 0.1).pvalue > 1e-3
    # Which images are chosen is uniform as well.
    assert stats.kstest(changed.relabelled.numbers / 9_000, "uniform").pvalue > 1e-3


def test_the_sets_relabel_as_many_as_the_paper_or_the_same_share() -> None:
    counts = {name: spec.relabelled for name, spec in IMAGES.items() if spec.relabelled}
    assert counts["cifar10_relabelled"] == 1_000
    shares = {name: counts[name] / IMAGES[name].training_images for name in counts}
    assert shares["fashion_mnist_relabelled"] == shares["cifar10_relabelled"]
    for name in counts:
        plain = IMAGES[name.removesuffix("_relabelled")]
        assert IMAGES[name].training_images == plain.training_images


# The measurement


KEYS = {
    f"{name}_{kind}_accuracy" for name in ("relabelled", "changed") for kind in ("given", "true")
}


def by_hand(images: ImageSet, model: torch.nn.Module) -> dict[str, float]:
    model.eval()
    given, own = [], []
    for number, label in zip(
        images.relabelled.numbers.tolist(), images.relabelled.true_labels.tolist(), strict=True
    ):
        with torch.no_grad():
            outputs = model(images.normalise(images.training.pixels[number : number + 1]))
        predicted = int(outputs.argmax())
        given.append((predicted, int(images.training.labels[number])))
        own.append((predicted, label))
    changed = [g != o for g, o in zip(given, own, strict=True)]
    assert 0 < sum(changed) < len(changed)
    return {
        f"{name}_{kind}_accuracy": fmean(
            p == label for p, label in itertools.compress(pairs, chosen)
        )
        for name, chosen in (("relabelled", [True] * len(given)), ("changed", changed))
        for kind, pairs in (("given", given), ("true", own))
    }


def test_every_epoch_is_counted_as_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = loaded(SMALL[0])
    counted = []
    measured = ImageTask.record

    def both(task: ImageTask, model: nn.Module, *counts: int) -> dict[str, float]:
        counted.append(by_hand(images, model))
        model.train()  # which evaluation must not rely on
        return measured(task, model, *counts)

    monkeypatch.setattr(ImageTask, "record", both)
    config = on(SMALL[0], method="acdc", settings=METHOD_SETTINGS["acdc"], sparsity=0.9, epochs=4)
    train(config, tmp_path)
    records = epochs(tmp_path / config.run_name)
    assert [{key: record[key] for key in KEYS} for record in records] == counted
    assert len(counted) == 4
    assert len({record["relabelled_true_accuracy"] for record in records}) > 1


def test_measuring_changes_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on(SMALL[0])
    train(config, tmp_path / "measured")
    monkeypatch.setattr(MemoryLoader, "relabelled", property(lambda _: None, lambda *_: None))
    train(config, tmp_path / "unmeasured")
    measured, unmeasured = (
        tmp_path / name / config.run_name for name in ("measured", "unmeasured")
    )
    assert weight_files(measured) == weight_files(unmeasured)
    assert len(epochs(measured)) == config.epochs
    for record, other in zip(epochs(measured), epochs(unmeasured), strict=True):
        extra = set(record) - set(other)
        assert extra == KEYS
        assert {key: record[key] for key in other} == other


def odd() -> ImageSet:
    """A set with a number of random labels that two ranks share unequally."""
    return relabel(loaded("fashion_mnist_1k"), 101, 10)


def measure(ranks: Ranks) -> dict[str, float]:
    plan = LoaderPlan(seed=1, batch_size=60, augmentation="shift", device=torch.device("cpu"))
    images = odd()
    model = network_of(on(SMALL[0]))
    return evaluate_relabelled(model, images.loader(plan), images.relabelled, ranks)


class Share(Ranks):
    """One of several ranks, whose share is not added to those of the others."""

    def sum(self, tensors: Any) -> None:
        pass


def test_ranks_share_the_images() -> None:
    alone = measure(Ranks())
    shares = [measure(Share(rank, 2)) for rank in range(2)]
    for key, value in alone.items():
        assert 0 < shares[0][key] < value
        assert shares[0][key] + shares[1][key] == pytest.approx(value)
    assert alone == by_hand(odd(), network_of(on(SMALL[0])))
