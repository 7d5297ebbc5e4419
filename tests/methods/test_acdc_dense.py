"""Fine-tuning continues from AC/DC's best dense model as if its dense phase had not ended."""

from typing import Any

from acdc.config.run import RunConfig
from tests.support import Uninterrupted, journal, tiny_config


def phased(method: str, *phases: tuple[str, int, int]) -> RunConfig:
    settings: dict[str, Any] = {"schedule": None, "phases": [list(phase) for phase in phases]}
    return tiny_config(method, settings=settings, epochs=6)


BEGIN = (("dense", 0, 1), ("sparse", 1, 2))
SHORT = (*BEGIN, ("dense", 2, 4), ("sparse", 4, 6))
LONG = (*BEGIN, ("dense", 2, 5), ("sparse", 5, 6))


def epochs(folder: Any) -> dict[int, dict[str, Any]]:
    return {record["epoch"]: record for record in journal(folder) if "val_loss" in record}


def test_fine_tuning_continues_the_dense_phase(uninterrupted: Uninterrupted) -> None:
    parent_folder, parent = uninterrupted(phased("acdc", *SHORT))
    assert parent["products"]["dense"]["best"]["epoch"] == 3, "the case needs the last to be best"
    folder, result = uninterrupted(phased("acdc_dense", *SHORT))
    longer, _ = uninterrupted(phased("acdc", *LONG))
    mine, expected = epochs(folder), epochs(longer)
    assert sorted(mine) == [4, 5]
    # The same weights, momentum, learning rate and batches, so the same numbers to the last bit.
    for key in ("learning_rate", "train_loss", "val_loss", "val_accuracy", "nonzeros"):
        assert mine[4][key] == expected[4][key], key
    assert mine[5]["learning_rate"] == epochs(parent_folder)[5]["learning_rate"]
    assert sorted(result["products"]) == ["dense"]
    assert result["primary"] == "dense"


def test_cost_includes_the_parent(uninterrupted: Uninterrupted) -> None:
    _, parent = uninterrupted(phased("acdc", *SHORT))
    folder, result = uninterrupted(phased("acdc_dense", *SHORT))
    dense = result["flops"]["dense_training"] / 6
    forward = [record["forward_flops"] for record in epochs(folder).values()]
    images = 5 * 256
    total = result["flops"]["dense_inference"]
    added = sum(images * (2 * f + total) for f in forward)
    assert result["flops"]["training"] == parent["flops"]["training"] + added
    assert added <= 2 * dense


def test_it_starts_from_the_best_dense_model(uninterrupted: Uninterrupted) -> None:
    # One dense epoch after a sparse one restarts from zeros, so that the first epochs are better.
    config = phased("acdc", ("dense", 0, 3), ("sparse", 3, 4), ("dense", 4, 5), ("sparse", 5, 6))
    _, parent = uninterrupted(config)
    folder, _ = uninterrupted(config.model_copy(update={"method": "acdc_dense"}))
    best = parent["products"]["dense"]["best"]["epoch"]
    assert min(epochs(folder)) == best + 1
