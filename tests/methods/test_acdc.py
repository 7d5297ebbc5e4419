"""AC/DC's phases, masks, momentum and costs are what the paper says they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from acdc.config.run import RunConfig
from acdc.methods.phases import Phase
from acdc.sparsity.selection import magnitude_masks
from acdc.step import Step
from tests.support import Drive, TinyNet, nonzeros, tiny_config

PHASES: list[Any] = [["dense", 0, 2], ["sparse", 2, 3], ["dense", 3, 4], ["sparse", 4, 5]]


def alternating(**changes: Any) -> RunConfig:
    settings = {"schedule": None, "phases": PHASES} | changes.pop("settings", {})
    return tiny_config("acdc", epochs=5, sparsity=0.8, settings=settings, **changes)


def phase_kind(epoch: int) -> str:
    return next(str(kind) for kind, start, end in PHASES if start <= epoch < end)


def test_sparse_phases_keep_masks_and_zeros() -> None:
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


def test_masks_are_the_global_largest() -> None:
    drive = Drive(alternating())
    last_dense: dict[str, Tensor] = {}
    compared: list[int] = []

    def before_pruning(step: Step) -> None:
        if phase_kind(step.epoch) == "dense":
            last_dense.update(drive.effective())

    def at_epoch(step: Step) -> None:
        if phase_kind(step.epoch) == "sparse":
            expected = magnitude_masks(last_dense, 0.8, "global")
            for name, mask in drive.method.masks.items():
                assert torch.equal(mask, expected[name])
                # Pruning only zeroes: what is kept has its value.
                assert torch.equal(drive.weights[name].detach(), last_dense[name] * mask)
            compared.append(step.epoch)

    drive.run(before_pruning, at_epoch=at_epoch)
    assert compared == [2, 4]


def test_restored_weights_start_at_zero() -> None:
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
def test_momentum_reset(reset: bool) -> None:
    drive = Drive(alternating(settings={"reset_momentum": reset}))
    zero_at: dict[int, bool] = {}

    def at_epoch(step: Step) -> None:
        buffers = [state["momentum_buffer"] for state in drive.optimizer.state.values()]
        if buffers:
            assert len(buffers) == len(list(drive.model.parameters()))  # not only prunable ones
            zero_at[step.epoch] = all(bool((buffer == 0).all()) for buffer in buffers)

    drive.run(at_epoch=at_epoch)
    assert zero_at == {1: False, 2: False, 3: reset, 4: False}


def test_other_phases_keep_the_momentum() -> None:
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


def test_momentum_of_pruned_weights_decays() -> None:
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


def test_uniform_distribution() -> None:
    drive = Drive(alternating(settings={"distribution": "uniform"})).run()
    kept = {name: int((weight != 0).sum()) for name, weight in drive.weights.items()}
    assert kept == {"conv.weight": 18 - 14, "hidden.weight": 48 - 38, "out.weight": 24 - 19}


def test_dense_layers_are_not_counted() -> None:
    drive = Drive(alternating(settings={"dense_layers": ["first"]})).run()
    assert drive.method.exempt == ("conv.weight",)
    assert int((drive.weights["conv.weight"] != 0).sum()) == 18
    ranked = {name: w for name, w in drive.weights.items() if name != "conv.weight"}
    assert nonzeros(ranked) == 72 - 57
    densities = drive.method.densities()
    assert densities.forward["conv.weight"] == densities.gradient["conv.weight"] == 1.0


def test_densities_by_phase() -> None:
    drive = Drive(alternating())

    def look(step: Step) -> None:
        densities = drive.method.densities()
        for name, weight in drive.weights.items():
            actual = int((weight != 0).sum()) / weight.numel()
            assert densities.forward[name] == actual
            dense = phase_kind(step.epoch) == "dense"
            assert densities.gradient[name] == (1.0 if dense else actual)

    drive.run(look)


def test_events() -> None:
    drive = Drive(alternating())
    drive.run()
    events = drive.method.events.drain()
    assert [event["event"] for event in events] == ["prune", "restore", "prune"]
    assert events[0]["mask_change"] is None
    assert 0 <= events[2]["mask_change"]["jaccard"] <= 1
    assert sum(events[2]["nonzeros"].values()) == 18


def test_schedules_are_scaled() -> None:
    config = tiny_config("acdc", epochs=20, settings={})
    drive = Drive(config, model=TinyNet())
    assert drive.method.phases[:3] == (
        Phase("dense", 0, 2),
        Phase("sparse", 2, 3),
        Phase("dense", 3, 4),
    )
    assert drive.method.phases[-1] == Phase("sparse", 17, 20)
