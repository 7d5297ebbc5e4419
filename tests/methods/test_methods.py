"""What every method has to keep to, with every option that it has."""

import copy
import types
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from torch import Tensor

from acdc.config.run import RunConfig
from acdc.methods.registry import get_method
from acdc.sparsity.flops import dense_flops, forward_flops
from acdc.step import Step
from tests.support import (
    METHOD_SETTINGS,
    METHODS,
    OPTIMIZERS,
    Drive,
    costs_of,
    stored_weights,
    tiny_config,
)

EPOCHS, BATCHES = 4, 5

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "acdc": [
        {},
        {"phases": [], "schedule": "imagenet-100-figure1", "epochs": 20},
        {"distribution": "uniform"},
        {"selection": "released"},
        {"selection": "released", "distribution": "uniform"},
        {"dense_layers": ["first", "last"]},
        {"reset_momentum": False},
        {"pattern": "1:4", "dense_layers": ["first"]},
        {"pattern": "1:4", "grouping": "flat", "dense_layers": ["first"]},
    ],
    "dpf": [{}, {"begin": 0.25, "end": 0.75, "distribution": "uniform", "dense_layers": ["last"]}],
    "dsd": [{}, {"dense_layers": ["first"], "final_lr_factor": 1.0}],
    "gmp": [
        {},
        {"distribution": "global", "initial_sparsity": 0.5, "dense_layers": ["first"]},
        {"dialect": "contrib", "nbins": 64, "threshold_decay": 0.5},
        {"dialect": "ist", "epochs": 8},
        {"dialect": "ist", "distribution": "uniform", "epochs": 8},
    ],
    "one_shot": [{"dense_layers": ["first"]}],
    "rigl": [
        {},
        {"distribution": "erk", "drop_noise": 0.0, "drop_fraction": 0.6},
        {"distribution": "er", "anneal": "constant", "begin": 0.25, "end": 1.0},
        {"dense_layers": [], "update_interval": 0.01},
    ],
    "set": [
        {},
        {"distribution": "erk", "drop_noise": 0.0, "drop_fraction": 0.6},
        {"distribution": "er", "anneal": "constant", "begin": 0.25, "end": 1.0},
        {"dialect": "original", "update_interval": 100 / 32_000, "dense_layers": ["last"]},
    ],
    "snfs": [
        {"gradient_momentum": 0.5},
        {"distribution": "erk", "drop_noise": 0.0, "drop_fraction": 0.6},
        {"distribution": "er", "anneal": "constant", "begin": 0.25, "end": 1.0},
        {"dense_layers": ["last"]},
    ],
    "snip": [{}, {"dense_layers": ["first", "last"]}],
    "sr_ste": [{"strength": 0.01}, {"grouping": "flat", "dense_layers": ["first", "last"]}],
    "static": [{}, {"distribution": "er", "dense_layers": ["last"]}, {"distribution": "uniform"}],
    "str": [{}, {"dense_layers": ["first"]}],
    "top_kast": [
        {},
        {"distribution": "global", "exploration": "l1", "dense_layers": []},
        {"exploration": "none", "refresh_interval": 3, "exploration_strength": 1e-3},
    ],
    "woodfisher": [
        {},
        {"grid": "released", "selection": "released", "dense_layers": ["first"], "damp": 1e-3},
        {"initial_sparsity": 0.0, "block_size": 7},
    ],
}
"""Settings on top of ``METHOD_SETTINGS``; together they try every option of a method.

A method that is missing is tested once."""

CASES = [
    pytest.param(method, changes, id=f"{method}-{number}")
    for method in METHODS
    for number, changes in enumerate(VARIANTS.get(method, [{}]))
] + [
    pytest.param(method, {"recipe": recipe}, id=f"{method}-{name}")
    for method in ("acdc", "gmp", "rigl", "static", "top_kast")
    for name, recipe in OPTIMIZERS.items()
]


def configured(method: str, changes: dict[str, Any]) -> RunConfig:
    settings = METHOD_SETTINGS.get(method, {}) | changes
    epochs = settings.pop("epochs", EPOCHS)
    sparsity = settings.pop("sparsity", 0.0 if method == "dense" else 0.75)
    recipe = settings.pop("recipe", {})
    return tiny_config(method, settings=settings, epochs=epochs, sparsity=sparsity, recipe=recipe)


def everything(drive: Drive) -> dict[str, Any]:
    return copy.deepcopy(
        {
            "model": drive.model.state_dict(),
            "optimizer": drive.optimizer.state_dict(),
            "method": drive.method.state_dict(),
        }
    )


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    """Compare nested states bit for bit."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    else:
        assert a == b, where


def test_every_option_is_tried() -> None:
    for method, variants in VARIANTS.items():
        tried: dict[str, list[Any]] = {}
        for changes in variants:
            for key, value in (METHOD_SETTINGS.get(method, {}) | changes).items():
                tried.setdefault(key, []).append(value)
        schema = get_method(method).Settings
        for key, field in schema.model_fields.items():
            if key == "embedding_sparsity":  # in tests/training/test_text.py
                continue
            assert key in tried, f"{method}: no test sets settings.{key}"
            values = [*tried[key], field.default]
            for option in literals(field.annotation):
                assert option in values, f"{method}: no test sets settings.{key} to {option}"


def literals(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a type lists, true and false for a boolean."""
    if annotation is bool:
        return (True, False)
    if annotation is type(None):
        return (None,)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(value for part in get_args(annotation) for value in literals(part))
    return ()


# A run as long as a published schedule is left out: what it does is done by the shorter ones too.
SHORT = [case for case in CASES if case.values[1].get("epochs", EPOCHS) <= 2 * EPOCHS]


@pytest.mark.parametrize(("method", "changes"), SHORT)
def test_resuming_at_any_step_changes_no_bit(method: str, changes: dict[str, Any]) -> None:
    config = configured(method, changes)
    states = []
    whole = Drive(config, BATCHES)
    whole.run(lambda step: states.append(everything(whole)))
    # Every step with a method's first settings, every seventh with its others.
    stride = 1 if changes == VARIANTS.get(method, [{}])[0] else 7
    for step in range(0, len(states) - 1, stride):
        resumed = Drive(config, BATCHES)
        resumed.method.events.drain()
        resumed.model.load_state_dict(states[step]["model"])
        resumed.optimizer.load_state_dict(states[step]["optimizer"])
        resumed.method.load_state_dict(copy.deepcopy(states[step]["method"]))
        # To the end of the epoch after the next, so that every hook has its turn.
        until = min(len(states), (step // BATCHES + 2) * BATCHES)
        resumed.run(first=step + 1, until=until)
        assert_same(everything(resumed), states[until - 1], f"after step {step}")


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_weights_densities_and_costs_follow_masks(method: str, changes: dict[str, Any]) -> None:
    drive = Drive(configured(method, changes), BATCHES)
    layers, costs = drive.plan.layers, costs_of(drive)
    first = dict(drive.method.masks)

    def look(step: Step) -> None:
        masks, stored = drive.method.masks, stored_weights(drive)
        kept, densities = drive.method.kept(), drive.method.densities()
        gradient = drive.method.gradient_masks()
        assert kept.keys() == layers.keys()
        for name, weight in drive.weights.items():
            count = int((weight != 0).sum())
            assert count <= kept[name]
            assert densities.forward[name] == count / weight.numel()
            if name in masks:
                assert masks[name].dtype == torch.bool
                assert kept[name] == int(masks[name].sum())
                assert bool((weight[~masks[name]] == 0).all())
                assert method == "str" or torch.equal(weight, stored[name] * masks[name])
                assert method not in ("snip", "static") or torch.equal(masks[name], first[name])
            if name in drive.method.exempt:
                assert kept[name] == layers[name].size
            if name not in gradient:
                assert densities.gradient[name] == 1
            elif torch.equal(gradient[name], masks[name]):
                assert densities.gradient[name] == densities.forward[name]
            else:
                expected = int(gradient[name].sum()) / weight.numel()
                assert densities.gradient[name] == pytest.approx(expected)

    look(Step(0, 0, BATCHES))
    drive.run(look)
    # No formula charges less than three passes over the non-zeros, or more than a dense step.
    kept = sum(2 * count for count in drive.method.kept().values())
    nonzero = forward_flops(costs, drive.method.densities().forward)
    published = drive.method.published_flops(costs)
    assert min(3 * nonzero, 3 * kept) <= published * (1 + 1e-9)
    assert published <= 3 * dense_flops(costs) * (1 + 1e-9)


MASKED = ("acdc", "dsd", "gmp", "rigl", "set", "snfs", "snip", "static", "woodfisher")


@pytest.mark.parametrize("method", MASKED)
def test_pruned_weights_only_decay(method: str) -> None:
    """They get no gradient, so that momentum and, where it is stored, weight follow by hand."""
    drive = Drive(configured(method, {}), BATCHES)
    recipe = drive.config.recipe
    moving = 0
    for before in drive.walk():
        rate = drive.optimizer.param_groups[0]["lr"]
        for name, mask in before.masks.items() if drive.stepped[-1] else ():
            # Not those that have just grown.
            out = ~mask & ~drive.method.masks.get(name, mask)
            velocity = recipe.momentum * before.momentum[name]
            velocity += recipe.weight_decay * before.stored[name]
            torch.testing.assert_close(drive.momentum()[name][out], velocity[out])
            if name in drive.method.stored.parked:
                moved = before.stored[name] - rate * velocity
                torch.testing.assert_close(stored_weights(drive)[name][out], moved[out])
            moving += int((velocity[out] != 0).sum())
    assert moving > 0 or method in ("snip", "static")


RAMP, DENSE, SPARSE = ("ramp", None), ("dense", None), ("sparse", "sparse")


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("gmp", {"begin": 0.2, "end": 0.8, "updates": 6}, [RAMP, RAMP, RAMP, SPARSE]),
        ("dpf", {"update_interval": 0.2}, [RAMP, SPARSE, SPARSE, SPARSE]),
        ("dsd", {}, [DENSE, DENSE, SPARSE, ("dense", "dense")]),
        ("dsd", {"epochs": 6, "sparse_begin": 0.34, "sparse_end": 0.8},
         [DENSE, DENSE, SPARSE, SPARSE, SPARSE, ("dense", "dense")]),
        ("woodfisher", {}, [DENSE, RAMP, RAMP, SPARSE]),
    ],
)  # fmt: skip
def test_phases_and_products_by_epoch(
    method: str, settings: dict[str, Any], expected: list[tuple[str, str | None]]
) -> None:
    drive = Drive(configured(method, settings), BATCHES)
    ends = (before.step for before in drive.walk() if before.step.batch == BATCHES - 1)
    assert [(drive.method.phase(step), drive.method.product(step)) for step in ends] == expected


@pytest.mark.parametrize(
    ("method", "settings", "kept"),
    [
        ("acdc", {"dense_layers": ["first"]}, {"conv.weight": 18, "others": 36}),
        ("acdc", {"distribution": "uniform"},
         {"conv.weight": 9, "hidden.weight": 24, "out.weight": 12}),
        ("gmp", {"dense_layers": ["first", "last"], "distribution": "global"},
         {"conv.weight": 18, "hidden.weight": 24, "out.weight": 24}),
        ("dpf", {"dense_layers": ["first"], "distribution": "uniform", "begin": 0.25, "end": 0.75},
         {"conv.weight": 18, "hidden.weight": 24, "out.weight": 12}),
        ("dsd", {"dense_layers": ["first"]},
         {"conv.weight": 18, "hidden.weight": 24, "out.weight": 12}),
        ("woodfisher", {"dense_layers": ["last"], "fisher_batch_size": 8, "block_size": 10},
         {"out.weight": 24, "others": 33}),
    ],
)  # fmt: skip
def test_the_sparsity_counts_over_layers_that_are_not_dense(
    method: str, settings: dict[str, Any], kept: dict[str, int]
) -> None:
    drive = Drive(configured(method, settings | {"sparsity": 0.5}), BATCHES)
    # DSD is sparse in its third epoch alone.
    drive.run(until=3 * BATCHES if method == "dsd" else None)
    counts = {name: int((weight != 0).sum()) for name, weight in drive.weights.items()}
    named = {name: counts.pop(name) for name in kept if name != "others"}
    assert named | {"others": sum(counts.values())} == {"others": 0} | kept
