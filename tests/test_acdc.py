"""AC/DC replays the released code's own training trace, and its phases are what they say."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc.acdc import ACDC
from acdc.config import RunConfig, parse_run
from acdc.errors import ConfigError
from acdc.masks import global_magnitude_masks
from acdc.schedules import Phase, Step
from tests.support import Drive, TinyNet, golden, hashval, nonzeros, tiny_config

TRACE = golden("acdc_training_trace")
PHASES: list[Any] = [["dense", 0, 2], ["sparse", 2, 3], ["dense", 3, 4], ["sparse", 4, 5]]


class TraceNet(nn.Module):
    """The network of the trace: two linear layers with biases, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 4)
        with torch.no_grad():
            for salt, parameter in enumerate(self.parameters(), start=301):
                parameter.copy_(hashval(parameter.shape, salt))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class TraceDrive(Drive):
    """The batches of the trace."""

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([(7 * i + iteration) % 4 for i in range(5)])
        return hashval((5, 6), 400 + iteration).double(), labels


def trace_config(**settings: Any) -> RunConfig:
    setup = TRACE["setup"]
    switches = sorted([*setup["prune_epochs"], *setup["restore_epochs"]])
    bounds = [0, *switches, setup["epochs"]]
    phases = [
        ("sparse" if start in setup["prune_epochs"] else "dense", start, end)
        for start, end in itertools.pairwise(bounds)
    ]
    return parse_run(
        {
            "model": "resnet8_s2",  # only named: the trace's own network is driven
            "dataset": "digits",
            "method": "acdc",
            "sparsity": setup["sparsity"],
            "epochs": setup["epochs"],
            "settings": {"schedule": None, "phases": phases, "selection": "released"} | settings,
            "recipe": {
                "lr": 0.1,
                "momentum": 0.875,
                "weight_decay": 3.0517578e-5,
                "lr_schedule": "constant",
            },
        }
    )


def test_the_released_codes_training_trace_is_replayed_step_by_step() -> None:
    expected = TRACE["trace"]["reset_effective"]
    drive = TraceDrive(trace_config(), TRACE["setup"]["steps_per_epoch"], TraceNet())
    seen: list[int] = []

    def compare(step: Step) -> None:
        row = expected[step.iteration]
        seen.append(step.iteration)
        model, state = drive.model, drive.optimizer.state
        assert isinstance(model, TraceNet)
        masks = drive.method.masks
        for name, layer in (("a", model.a), ("b", model.b)):
            got = {
                f"{name}_w": layer.weight,
                f"{name}_bias": layer.bias,
                f"{name}_mom": state[layer.weight]["momentum_buffer"],
                f"{name}_mask": masks.get(f"{name}.weight", torch.ones(layer.weight.shape)),
            }
            for key, tensor in got.items():
                values = tensor.detach().double().reshape(-1)
                assert values.tolist() == pytest.approx(row[key], rel=0, abs=1e-12), (step, key)
        assert drive.method.phase(step) == row["phase"]

    drive.run(compare)
    assert drive.losses == pytest.approx([row["loss"] for row in expected], rel=0, abs=1e-12)
    assert seen == list(range(14))


def test_without_the_momentum_reset_the_trace_is_another_one() -> None:
    expected = TRACE["trace"]["reset_effective"]
    config = trace_config(reset_momentum=False)
    drive = TraceDrive(config, TRACE["setup"]["steps_per_epoch"], TraceNet()).run()
    errors = [abs(a - row["loss"]) for a, row in zip(drive.losses, expected, strict=True)]
    # The same until the first dense phase after a sparse one has made its first step.
    assert max(errors[:7]) < 1e-12
    assert max(errors[7:]) > 1e-4


def alternating(**changes: Any) -> RunConfig:
    settings = {"schedule": None, "phases": PHASES} | changes.pop("settings", {})
    return tiny_config("acdc", epochs=5, sparsity=0.8, settings=settings, **changes)


def phase_kind(epoch: int) -> str:
    return next(str(kind) for kind, start, end in PHASES if start <= epoch < end)


def test_pruned_weights_are_exactly_zero_after_every_sparse_step_and_masks_hold_still() -> None:
    drive = Drive(alternating())
    masks_of_epoch: dict[int, dict[str, Tensor]] = {}

    def look(step: Step) -> None:
        if phase_kind(step.epoch) == "sparse":
            masks = masks_of_epoch.setdefault(step.epoch, drive.method.masks)
            assert sum(int(mask.sum()) for mask in masks.values()) == 90 - 72
            assert nonzeros(drive.weights) == 90 - 72
            for name, weight in drive.weights.items():
                assert torch.equal(drive.method.masks[name], masks[name])
                assert bool((weight[~masks[name]] == 0).all())
                assert drive.method.product(step) == "sparse"

    drive.run(look)
    assert sorted(masks_of_epoch) == [2, 4]


def test_masks_are_the_global_largest_of_the_dense_weights_at_each_pruning() -> None:
    drive = Drive(alternating())
    last_dense: dict[str, Tensor] = {}
    compared: list[int] = []

    def before_pruning(step: Step) -> None:
        if phase_kind(step.epoch) == "dense":
            last_dense.update(drive.effective())

    def at_epoch(step: Step) -> None:
        if phase_kind(step.epoch) == "sparse":
            expected = global_magnitude_masks(last_dense, 0.8)
            for name, mask in drive.method.masks.items():
                assert torch.equal(mask, expected[name])
                # Pruning only zeroes: what is kept has its value.
                assert torch.equal(drive.weights[name].detach(), last_dense[name] * mask)
            compared.append(step.epoch)

    drive.run(before_pruning, at_epoch=at_epoch)
    assert compared == [2, 4]


def test_dense_phases_train_every_weight_and_restored_weights_start_at_zero() -> None:
    drive = Drive(alternating())
    start: dict[str, Tensor] = {}
    checked: list[int] = []

    def at_epoch(step: Step) -> None:
        if phase_kind(step.epoch) == "dense":
            assert drive.method.masks == {}
            start.update(drive.effective())
            if step.epoch == 3:
                assert nonzeros(drive.weights) == 90 - 72

    def look(step: Step) -> None:
        if phase_kind(step.epoch) == "dense" and step.batch == drive.batches - 1:
            for name, weight in drive.weights.items():
                assert bool((weight != start[name]).all()), name
            assert nonzeros(drive.weights) == 90
            assert drive.method.product(step) == "dense"
            checked.append(step.epoch)

    drive.run(look, at_epoch=at_epoch)
    assert checked == [0, 1, 3]


@pytest.mark.parametrize("reset", [True, False])
def test_momentum_is_zeroed_when_a_dense_phase_begins_and_only_with_the_option(
    reset: bool,
) -> None:
    drive = Drive(alternating(settings={"reset_momentum": reset}))
    zero_at: dict[int, bool] = {}

    def at_epoch(step: Step) -> None:
        buffers = [state["momentum_buffer"] for state in drive.optimizer.state.values()]
        if buffers:
            assert len(buffers) == len(list(drive.model.parameters()))  # not only prunable ones
            zero_at[step.epoch] = all(bool((buffer == 0).all()) for buffer in buffers)

    drive.run(at_epoch=at_epoch)
    assert zero_at == {1: False, 2: False, 3: reset, 4: False}


def test_the_first_dense_phase_and_a_sparse_phase_keep_the_momentum() -> None:
    drive = Drive(alternating())
    before: dict[str, Tensor] = {}

    def look(step: Step) -> None:
        before.clear()
        before.update(drive.momentum())

    def at_epoch(step: Step) -> None:
        if step.epoch in (1, 2, 4):
            for name, buffer in drive.momentum().items():
                assert torch.equal(buffer, before[name])

    drive.run(look, at_epoch=at_epoch)


def test_momentum_of_pruned_weights_only_decays_in_a_sparse_phase() -> None:
    drive = Drive(alternating())
    last: dict[str, Tensor] = {}

    def look(step: Step) -> None:
        now = drive.momentum()
        if phase_kind(step.epoch) == "sparse":
            for name, mask in drive.method.masks.items():
                decayed = last[name] * drive.config.recipe.momentum
                torch.testing.assert_close(now[name][~mask], decayed[~mask])
        last.update(now)

    drive.run(look)


def test_uniform_distribution_gives_every_layer_the_same_sparsity() -> None:
    drive = Drive(alternating(settings={"distribution": "uniform"})).run()
    kept = {name: int((weight != 0).sum()) for name, weight in drive.weights.items()}
    assert kept == {"conv.weight": 18 - 14, "hidden.weight": 48 - 38, "out.weight": 24 - 19}


def test_layers_kept_dense_are_left_out_of_the_ranking_and_of_the_count() -> None:
    drive = Drive(alternating(settings={"dense_layers": ["conv.weight"]})).run()
    assert int((drive.weights["conv.weight"] != 0).sum()) == 18
    ranked = {name: w for name, w in drive.weights.items() if name != "conv.weight"}
    assert nonzeros(ranked) == 72 - 57
    densities = drive.method.densities()
    assert densities.forward["conv.weight"] == densities.gradient["conv.weight"] == 1.0


def test_a_layer_that_the_model_does_not_have_is_refused_by_name() -> None:
    config = alternating(settings={"dense_layers": ["conv9.weight"]})
    with pytest.raises(ConfigError, match=r"conv9\.weight.*conv\.weight, hidden\.weight"):
        Drive(config)


def test_densities_count_a_dense_gradient_in_dense_phases_only() -> None:
    drive = Drive(alternating())

    def look(step: Step) -> None:
        densities = drive.method.densities()
        for name, weight in drive.weights.items():
            actual = int((weight != 0).sum()) / weight.numel()
            assert densities.forward[name] == actual
            dense = phase_kind(step.epoch) == "dense"
            assert densities.gradient[name] == (1.0 if dense else actual)

    drive.run(look)


def test_events_tell_of_every_pruning_and_restoring_with_the_change_of_the_mask() -> None:
    drive = Drive(alternating())
    drive.run()
    events = drive.method.events.drain()
    assert [event["event"] for event in events] == ["prune", "restore", "prune"]
    assert events[0]["mask_change"] is None
    assert 0 <= events[2]["mask_change"]["jaccard"] <= 1
    assert sum(events[2]["nonzeros"].values()) == 18


def test_published_schedules_are_scaled_to_the_epochs_of_the_run() -> None:
    config = tiny_config("acdc", epochs=20, settings={})
    drive = Drive(config, model=TinyNet())
    assert isinstance(drive.method, ACDC)
    assert drive.method.phases[:3] == (
        Phase("dense", 0, 2),
        Phase("sparse", 2, 3),
        Phase("dense", 3, 4),
    )
    assert drive.method.phases[-1] == Phase("sparse", 17, 20)
