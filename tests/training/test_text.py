"""Training on text: its memory and what resuming keeps of it, its score, its costs."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from acdc.config.run import parse_run
from acdc.data import TEXTS
from acdc.distributed import Ranks
from acdc.errors import ConfigError
from acdc.models.transformer_xl import TransformerXL
from acdc.run.lifecycle import Options, run
from acdc.run.reader import read_run
from acdc.step import Step
from acdc.training.loop import Callbacks, train
from acdc.training.state import Engine, TrainState
from acdc.training.text import TextTask
from tests.support import (
    At,
    Silent,
    Uninterrupted,
    assert_same_run,
    interrupt,
    journal,
    plain,
    resumptions,
    tiny_config,
    tiny_text,
    train_broken,
)


def begun(**changes: Any) -> TrainState:
    state = TrainState(tiny_text("dense", **changes), Engine(), Ranks())
    state.begin()
    return state


def test_resuming_keeps_the_memory(tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    config = tiny_text("acdc")
    expected, whole = uninterrupted(config)
    batches = config.plan.batches_per_epoch
    assert batches == (31_370 // 64 - 1) // 24 == 20
    train_broken(config, tmp_path, At(interrupt, steps=[batches + 6]))
    result = run(config, Options(tmp_path), Silent())
    assert resumptions(tmp_path / config.run_name) == [(1, 6)]
    assert_same_run(tmp_path / config.run_name, result, expected, whole)
    best = plain(result)["products"]["sparse"]["best"]
    assert best["test_accuracy"] is None
    assert math.exp(best["test_loss"]) < 944 / 2
    losses = [line["val_loss"] for line in journal(expected) if line.get("product") == "sparse"]
    assert best["val_loss"] == min(losses), "the best model is that of the lowest perplexity"
    assert read_run(expected).journal.problem is None, "a text needs no accuracy"


def test_the_memory_holds_the_inputs_of_earlier_segments_of_an_epoch() -> None:
    state = begun()
    task = state.task
    lengths = []

    class Seen(Callbacks):
        def step_end(self, step: Step, totals: Any) -> None:
            assert task.memory is not None
            lengths.append(task.memory.shape)

    train(state, Seen(), Step(0, 0, state.batches), 1)
    assert [shape[2] for shape in lengths[:3]] == [24, 32, 32]
    assert {(shape[0], shape[1], shape[3]) for shape in lengths} == {(2, 64, 64)}
    task.epoch_start()
    assert task.memory is None


def test_the_memory_of_a_checkpoint_is_each_ranks_share() -> None:
    state = begun()
    task = state.task
    task.memory = torch.rand(2, 64, 32, 64)
    saved = task.state_dict()
    task.memory = None
    task.load_state_dict(saved)
    assert torch.equal(saved["memory"], task.memory)
    task.load_state_dict({})


def test_the_score_is_the_mean_over_all_words_of_a_split() -> None:
    state = begun(recipe=tiny_text("dense").recipe.model_dump() | {"evaluation_memory": 5_000})
    score = state.score("test")
    tokens = state.loader.tokens["test"].long()  # type: ignore[attr-defined]
    total, predicted = 0.0, len(tokens) - 1
    bounds = [stream * predicted // 8 for stream in range(9)]
    for start, stop in pairwise(bounds):
        # The memory covers each stream, so that it is as one segment.
        nll, _ = state.model(tokens[None, start:stop], tokens[None, start + 1 : stop + 1])
        total += float(nll.detach().double().sum())
    assert score.accuracy is None
    assert score.loss == pytest.approx(total / predicted, rel=1e-6)
    assert score.loss == pytest.approx(math.log(944), rel=0.05), "an untrained network guesses"


def test_costs_are_those_of_the_network_per_token() -> None:
    state = begun()
    frequencies = [1 / rank for rank in range(1, 945)]
    counted = state.model.flops_per_token(frequencies, 24, 32, 64)  # type: ignore[operator]
    assert {cost.name: cost.flops for cost in state.costs} == pytest.approx(counted, abs=0.5)
    weighted = {cost.name for cost in state.costs if cost.weights}
    assert weighted == set(state.weights)
    products = [cost for cost in state.costs if cost.name.endswith(".attention")]
    assert [cost.weights for cost in products] == [0, 0]
    everything = sum(cost.flops for cost in state.costs)
    assert state.inference_flops(state.nonzeros()) == pytest.approx(everything)
    nothing = state.inference_flops(dict.fromkeys(state.weights, 0))
    assert nothing == pytest.approx(sum(cost.flops for cost in products))


def test_clusters_of_rarer_words_cost_their_share_by_zipfs_law() -> None:
    """Six words in three clusters: 1, 1/2 | 1/3, 1/4 | 1/5, 1/6, of 49/20 in all."""
    model = TransformerXL(
        6, layers=1, width=4, heads=1, head_width=2, inner=3, cutoffs=(2, 4), div_val=2
    )
    spec = replace(TEXTS["kjv_tiny"], vocabulary=6)
    costs = TextTask.costs(spec, tiny_text("dense").recipe, model)
    flops = {cost.name: cost.flops for cost in costs}
    shares = [(1 / 3 + 1 / 4) / (49 / 20), (1 / 5 + 1 / 6) / (49 / 20)]
    assert [flops[f"embedding.tables.{cluster}.weight"] for cluster in range(3)] == [
        2 * (2 * 4),
        round(2 * (2 * 2) * shares[0]),
        round(2 * (2 * 1) * shares[1]),
    ]
    # Each embedding is projected from all clusters, and a hidden state into that of its word.
    assert [flops[f"embedding.projections.{cluster}.weight"] for cluster in range(3)] == [
        2 * (4 * 4),
        round(2 * (2 * 4) * (1 + shares[0])),
        round(2 * (1 * 4) * (1 + shares[1])),
    ]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"segment": 0}, "recipe.segment"),
        ({"segment": 40_000}, "recipe.segment"),
        ({"batch_size": 20_000}, "recipe.batch_size"),
        ({"memory": 500}, "recipe.memory"),
        ({"augmentation": "shift"}, "recipe.augmentation"),
    ],
)
def test_a_text_that_cannot_be_cut_is_refused(changes: dict[str, Any], key: str) -> None:
    recipe = tiny_text("dense").recipe.model_dump()
    with pytest.raises(ConfigError, match=f"^{key}="):
        tiny_text("dense", recipe=recipe | changes)


def test_networks_and_keys_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model=resnet8_s2: .*transformer_xl"):
        tiny_text("dense", model="resnet8_s2")
    with pytest.raises(ConfigError, match=r"^model=transformer_xl_l2_w64: .*resnet20"):
        parse_run(tiny_config("dense").model_dump() | {"model": "transformer_xl_l2_w64"})
    for key in ("segment", "memory", "evaluation_memory"):
        with pytest.raises(ConfigError, match=f"^recipe.{key}=8: "):
            tiny_config("dense", recipe={key: 8})
    with pytest.raises(ConfigError, match=r"^recipe.label_smoothing=0.1: "):
        tiny_text("dense", recipe=tiny_text("dense").recipe.model_dump() | {"label_smoothing": 0.1})


@pytest.mark.parametrize("method", ["gmp", "rigl", "top_kast"])
def test_baselines_train_on_text(method: str, tmp_path: Path) -> None:
    settings = {"begin": 0.1, "end": 0.5} if method == "gmp" else {}
    result = plain(run(tiny_text(method, settings=settings), Options(tmp_path), Silent()))
    last = result["products"]["sparse"]["last"]
    assert last["certificate"]["holds"]
    assert last["certificate"]["pruned"] == pytest.approx(0.8, abs=1e-3)
    assert math.exp(last["test_loss"]) < 944 / 2


def test_embeddings_stay_dense_unless_half_of_them_is_asked_for(tmp_path: Path) -> None:
    settings = tiny_text("acdc").settings.model_dump()
    share = {"embedding_sparsity": 0.5}
    with pytest.raises(ConfigError, match=r"^settings.embedding_sparsity=0.5: "):
        tiny_config("acdc", settings={**tiny_config("acdc").settings.model_dump(), **share})
    for more, zeros in (({}, 0), (share, 944 * 64 // 2)):
        config = tiny_text("acdc", settings={**settings, **more})
        last = plain(run(config, Options(tmp_path), Silent()))["products"]["sparse"]["last"]
        certificate = last["certificate"]
        assert certificate["holds"]
        assert certificate["exempt"] == ["embedding.tables.0.weight"]
        assert certificate["pruned"] == pytest.approx(0.8, abs=1e-4)
        sizes = {layer["name"]: layer["weights"] for layer in certificate["layers"]}
        pruned = 0.8 * (sum(sizes.values()) - 944 * 64) + zeros
        assert certificate["achieved"] == pytest.approx(pruned / sum(sizes.values()), abs=1e-3)
