"""Rewiring moves connections as the original does, for every way of growing and every optimizer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from acdc.methods.plan import Plan
from acdc.methods.rewiring import RewiringSettings, SparseStartSettings, optimizer_slots, rewire
from acdc.step import Step
from tests.support import Drive, costs_of, nonzeros, tiny_config


def brute_force(
    weight: list[float], mask: list[bool], growth: list[float], noise: list[float], dropped: int
) -> tuple[list[bool], list[bool]]:
    """Sort in plain Python, by score and then by index; return the mask and the new weights."""
    size = len(weight)
    score = [abs(w) * m + n for w, m, n in zip(weight, mask, noise, strict=True)]
    order = sorted(range(size), key=lambda i: (-score[i], i))
    kept = set(order[: sum(mask) - dropped])
    rest = sorted((i for i in range(size) if i not in kept), key=lambda i: (-growth[i], i))
    grown = set(rest[:dropped])
    return [i in kept | grown for i in range(size)], [
        i in grown and not mask[i] for i in range(size)
    ]


@given(st.data(), st.integers(1, 24), st.floats(0, 1, exclude_max=True), st.booleans())
def test_an_update_is_that_of_a_python_sort(
    data: Any, size: int, drop_fraction: float, noisy: bool
) -> None:
    # Few distinct values, exact in single precision, so that ties are the rule.
    few = st.sampled_from([0.0, 1.0, -1.0, 0.5, -2.0])

    def draw(values: st.SearchStrategy[Any]) -> list[Any]:
        return list(data.draw(st.lists(values, min_size=size, max_size=size)))

    stored, old, slots = draw(few), draw(st.booleans()), [draw(few), draw(few)]
    growth = [abs(value) for value in draw(few)]
    noise = draw(few) if noisy else [0.0] * size
    mask, weight = torch.tensor(old), torch.tensor(stored)
    states = [torch.tensor(slot) for slot in slots]
    updated, new = rewire(
        weight,
        mask,
        torch.tensor(growth),
        states,
        drop_fraction,
        torch.tensor(noise) if noisy else None,
    )
    dropped = int(np.float32(sum(old)) * np.float32(drop_fraction))
    expected, expected_new = brute_force(stored, old, growth, noise, dropped)
    assert updated.tolist() == expected
    assert new.tolist() == expected_new
    assert sum(expected) == sum(old)
    for before, after in ((stored, weight), *zip(slots, states, strict=True)):
        wanted = [0.0 if n else b for b, n in zip(before, expected_new, strict=True)]
        assert after.tolist() == wanted
    assert mask.tolist() == old


def test_inactive_ties_keep_their_value() -> None:
    weight = torch.tensor([0.7, 0.0, 0.0, 3.0])
    momentum = torch.tensor([0.1, 0.2, 0.3, 0.4])
    mask = torch.tensor([False, True, True, True])
    # Two of three are kept: the 3 and, of the zeros, the one at the lowest index, which is not
    # active. Then the largest score of the others grows: that of index 1, active before.
    updated, new = rewire(weight, mask, torch.tensor([9.0, 1.0, 0.5, 9.0]), [momentum], 0.34)
    assert updated.tolist() == [True, True, False, True]
    assert not bool(new.any())
    assert torch.equal(weight, torch.tensor([0.7, 0.0, 0.0, 3.0]))
    assert torch.equal(momentum, torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_masks_keep_the_memory_layout_of_their_weights() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = weight > 0
    growth = torch.arange(48.0).reshape(4, 3, 2, 2)
    expected, _ = rewire(weight.clone(), mask, growth, [], 0.5)
    last = {"memory_format": torch.channels_last}
    updated, _ = rewire(weight.to(**last), mask.to(**last), growth, [], 0.5)
    assert torch.equal(updated, expected)
    assert updated.is_contiguous(**last)


@pytest.mark.parametrize(
    ("optimizer", "count"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.Adam(p, lr=0.1), 2),
        (lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True), 3),
    ],
)
def test_optimizer_slots(optimizer: Any, count: int) -> None:
    layer = nn.Linear(3, 2)
    this = optimizer(layer.parameters())
    assert optimizer_slots(this, layer.weight) == []
    layer(torch.ones(1, 3)).sum().backward()
    this.step()
    slots = optimizer_slots(this, layer.weight)
    assert [slot.shape for slot in slots] == [(2, 3)] * count
    stored = [v for v in this.state[layer.weight].values() if isinstance(v, Tensor)]
    assert all(any(slot is value for value in stored) for slot in slots)


def test_default_dense_layers() -> None:
    assert SparseStartSettings().dense_layers == ("first",)
    assert SparseStartSettings(distribution="erk").dense_layers == ()
    assert SparseStartSettings(distribution="er").dense_layers == ()
    assert SparseStartSettings(distribution="erk", dense_layers=("last",)).dense_layers == ("last",)
    for settings in (RewiringSettings(), RewiringSettings(distribution="er")):
        assert RewiringSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("settings", "variant"),
    [
        ({}, ""),
        ({"distribution": "erk"}, "erk"),
        ({"dense_layers": ()}, "all"),
        ({"dense_layers": ("first", "last")}, "first-last"),
        ({"distribution": "er", "dense_layers": ("first",)}, "er-first"),
    ],
)
def test_names_of_runs_tell_distributions_apart(settings: Mapping[str, Any], variant: str) -> None:
    assert SparseStartSettings(**settings).variant() == variant


REWIRING = pytest.mark.parametrize("method", ["rigl", "set", "snfs"])


def drive_of(method: str, **settings: Any) -> Drive:
    drive = Drive(tiny_config(method, settings={"update_interval": 3 / 20, "end": 0.7} | settings))
    return drive


@REWIRING
@pytest.mark.parametrize(
    ("settings", "zeros"),
    [
        ({}, {"conv.weight": 0, "hidden.weight": 36, "out.weight": 18}),
        ({"dense_layers": ()}, {"conv.weight": 13, "hidden.weight": 36, "out.weight": 18}),
        # By hand. Raw densities 9/18, 14/48, 10/24; 67 zeros and 23 weights left of 90; sums of
        # dimensions 9 (1 + 2 + 3 + 3), 14 and 10, so that epsilon is 23/33 and a layer keeps
        # 23/33 of its sum: 6.27, 9.76 and 6.97.
        ({"distribution": "erk"}, {"conv.weight": 11, "hidden.weight": 38, "out.weight": 17}),
        # Without the kernel the convolution's raw density is 3/2, its share 27 of 27 + 14 + 10, so
        # that layers keep 23/51 of 27, 14 and 10: 12.18, 6.31 and 4.51.
        ({"distribution": "er"}, {"conv.weight": 5, "hidden.weight": 41, "out.weight": 19}),
    ],
)
def test_masks_keep_their_distribution(
    method: str, settings: dict[str, Any], zeros: dict[str, int]
) -> None:
    drive = drive_of(method, **settings)
    changed = 0
    for before in drive.walk():
        for masks in (before.masks, drive.method.masks):
            pruned = {name: int((~mask).sum()) for name, mask in masks.items()}
            assert {name: pruned.get(name, 0) for name in zeros} == zeros
        changed += any(
            not torch.equal(mask, before.masks[name]) for name, mask in drive.method.masks.items()
        )
    assert changed > 0


@REWIRING
def test_new_weights_start_at_zero(method: str) -> None:
    # Updates in quick succession and many weights moved, so that dropped ones are grown again.
    drive = drive_of(method, update_interval=1 / 20, drop_fraction=0.6, end=1.0)
    this = drive.method
    seen = {"new": 0, "had_weight": 0, "had_momentum": 0}
    rewiring_of = this.update

    def state() -> dict[str, dict[str, Tensor]]:
        momentum = drive.momentum() if any(drive.stepped) else {}
        return {"weight": drive.effective(), "momentum": momentum}

    def update(step: Step) -> None:
        old, masks = state(), dict(this.masks)
        rewiring_of(step)
        for name, mask in this.masks.items():
            # Where active weights are zero, inactive ones tie with them and may be kept as is.
            if bool((old["weight"][name][masks[name]] == 0).any()):
                continue
            new = mask & ~masks[name]
            seen["new"] += int(new.sum())
            for key, now in state().items():
                if name in old[key]:
                    assert bool((now[name][new] == 0).all())
                    assert torch.equal(now[name][~new], old[key][name][~new])
                    seen[f"had_{key}"] += int((old[key][name][new] != 0).sum())

    this.update = update  # type: ignore[method-assign]
    drive.run()
    assert all(seen.values()), seen


@REWIRING
def test_the_drop_fraction_can_stay_constant(method: str) -> None:
    drive = drive_of(method, anneal="constant", drop_fraction=0.25)
    drive.run()
    events = drive.method.events.drain()
    assert len(events) >= 4
    assert {event["drop_fraction"] for event in events} == {0.25}


@pytest.mark.parametrize("method", ["rigl", "set", "snfs", "static"])
def test_equal_seeds_draw_equal_masks_and_others_do_not(method: str) -> None:
    def last(seed: int) -> Tensor:
        drive = Drive(tiny_config(method, seed=seed))
        return drive.run().method.masks["hidden.weight"]

    assert torch.equal(last(1), last(1))
    assert not torch.equal(last(1), last(2))


@pytest.mark.parametrize(
    ("method", "settings"), [("set", {"dense_layers": ()}), ("static", {"distribution": "er"})]
)
def test_training_flops_are_three_sparse_passes(method: str, settings: dict[str, Any]) -> None:
    drive = Drive(tiny_config(method, settings=settings)).run()
    costs = costs_of(drive)
    assert drive.method.published_flops(costs) == pytest.approx(6 * nonzeros(drive.method.masks))


@given(st.data())
def test_an_interval_of_whole_steps_comes_out_as_a_fraction_of_training(data: Any) -> None:
    batches = data.draw(st.integers(1, 10_000))
    epochs = data.draw(st.integers(1, 1_000))
    steps = data.draw(st.integers(1, epochs * batches))
    plan = Plan({}, 0.9, RewiringSettings(), epochs, batches, seed=1)
    assert plan.steps(steps / plan.iterations) == steps
    # Twice the training at half the fraction.
    assert replace(plan, epochs=2 * epochs).steps(steps / plan.iterations / 2) == steps


@pytest.mark.parametrize(
    ("iterations", "steps"), [(32_000, 100), (500_400, 1564), (1550, 5), (320, 1), (20, 1), (1, 1)]
)
def test_the_default_interval_is_a_320th_of_training(iterations: int, steps: int) -> None:
    settings = RewiringSettings()
    plan = Plan({}, 0.9, settings, 1, iterations, seed=1)
    assert plan.steps(settings.update_interval) == steps


@REWIRING
@pytest.mark.parametrize(("fraction", "steps"), [(1e-9, 5), (0.2, 5), (0.25, 5), (0.3, 6)])
def test_updates_are_at_least_five_steps_apart(
    method: str, fraction: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    drive = drive_of(method, update_interval=fraction, end=1.0).run()
    batches = [event["iteration"] for event in drive.method.events.drain()]
    # An update of RigL takes the place of a step.
    assert set(np.diff(batches)) == {steps + (method == "rigl")}
