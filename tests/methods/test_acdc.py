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
    for before in drive.walk():
        if phase_kind(before.step.epoch) == "sparse":
            masks = masks_of_epoch.setdefault(before.step.epoch, drive.method.masks)
            assert sum(int(mask.sum()) for mask in masks.values()) == 90 - 72
            assert nonzeros(drive.weights) == 90 - 72
            assert drive.method.product(before.step) == "sparse"
            for name, mask in masks.items():
                assert torch.equal(drive.method.masks[name], mask)
    assert sorted(masks_of_epoch) == [2, 4]


def test_masks_are_the_global_largest() -> None:
    drive = Drive(alternating())
    last: dict[str, Tensor] = {}
    compared: list[int] = []
    for before in drive.walk():
        if before.step.batch == 0 and phase_kind(before.step.epoch) == "sparse":
            for name, mask in magnitude_masks(last, 0.8, "global").items():
                assert torch.equal(before.masks[name], mask)
                # Pruning only zeroes: what is kept has its value.
                assert torch.equal(before.weights[name], last[name] * mask)
            compared.append(before.step.epoch)
        last.update(drive.effective())
    assert compared == [2, 4]


def test_restored_weights_start_at_zero() -> None:
    drive = Drive(alternating())
    start: dict[str, Tensor] = {}
    checked: list[int] = []
    for before in drive.walk():
        step = before.step
        if phase_kind(step.epoch) == "dense" and step.batch == 0:
            assert drive.method.masks == {}
            start.update(before.weights)
            assert step.epoch != 3 or nonzeros(before.weights) == 90 - 72
        if phase_kind(step.epoch) == "dense" and step.batch == drive.batches - 1:
            for name, weight in drive.weights.items():
                assert bool((weight != start[name]).all()), name
            assert nonzeros(drive.weights) == 90
            assert drive.method.product(step) == "dense"
            checked.append(step.epoch)
    assert checked == [0, 1, 3]


@pytest.mark.parametrize("reset", [True, False])
def test_a_dense_phase_resets_the_momentum_and_no_other_does(reset: bool) -> None:
    drive = Drive(alternating(settings={"reset_momentum": reset}))
    last: list[Tensor] = []
    zero_at: dict[int, bool] = {}

    def buffers() -> list[Tensor]:
        return [state["momentum_buffer"].clone() for state in drive.optimizer.state.values()]

    def at_epoch(step: Step) -> None:
        if last:
            assert len(last) == len(list(drive.model.parameters()))  # not only prunable ones
            zero_at[step.epoch] = not any(bool(buffer.any()) for buffer in buffers())
            kept = all(map(torch.equal, buffers(), last))
            assert kept != zero_at[step.epoch]

    def look(step: Step) -> None:
        last[:] = buffers()

    drive.run(look, at_epoch=at_epoch)
    assert zero_at == {1: False, 2: False, 3: reset, 4: False}


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
