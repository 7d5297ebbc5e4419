"""Training with sparse products is training: the same gradients, and the same run when resumed."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc.config.run import RunConfig
from acdc.distributed import Ranks
from acdc.errors import ConfigError
from acdc.kernels import library
from acdc.kernels.layers import SparseLayers
from acdc.run.lifecycle import Options, run
from acdc.run.reader import STEP_TIME
from acdc.step import Step
from acdc.training.loop import Callbacks
from acdc.training.loop import train as train_loop
from acdc.training.state import Engine, TrainState
from tests.kernels.test_products import pruned
from tests.support import (
    METHODS,
    At,
    Silent,
    assert_same_run,
    interrupt,
    tiny_config,
    tiny_text,
)

SPARSE = {"acdc", "dsd", "gmp", "one_shot", "rigl", "set", "snip", "static"} | {
    "top_kast", "woodfisher"
}  # fmt: skip
"""Methods that need no gradient outside their masks in most of their sparse steps."""


def in_double(state: TrainState, name: str) -> None:
    """Give a method of the task images in double precision."""
    method = getattr(state.task, name)

    def doubled(network: Any, inputs: Tensor, targets: Tensor) -> Any:
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        return method(network, inputs, targets)

    setattr(state.task, name, doubled)


def compare_every_step(state: TrainState) -> tuple[list[float], set[str]]:
    """Train, with sparse and dense products at the same weights in every step.

    Returns:
        The differences of the gradients that the method needs, relative to the largest, and what
        masked layers did.
    """
    layers = state.sparse_layers
    assert layers is not None
    # In double precision, where no ReLU is on both sides of zero.
    state.model.double()
    in_double(state, "forward")
    in_double(state, "plain_loss")
    compute = state.arithmetic.gradients
    differences: list[float] = []
    seen: set[str] = set()

    def both(
        forward: Callable[[], Any], optimizer: torch.optim.Optimizer, buffers: Iterable[Tensor]
    ) -> Any:
        given = compute(forward, optimizer, buffers)
        found = {name: w.grad.clone() for name, w in state.model.named_parameters()}
        if state.method.masks:
            seen.update(layers.used.values())
            needed = state.method.needed_gradients()
            active = {name: layer.sparse for name, layer in layers.layers.items()}
            for layer in layers.layers.values():
                layer.sparse = None
            given = compute(forward, optimizer, buffers)
            for name, layer in layers.layers.items():
                layer.sparse = active[name]
            for name, w in state.model.named_parameters():
                exact = w.grad * needed[name] if name in needed else w.grad
                scale = exact.abs().max() + 1e-6
                differences.append(float((found[name] - exact).abs().max() / scale))
                w.grad.copy_(found[name])
        return given

    state.arithmetic.gradients = both  # type: ignore[method-assign, assignment]
    state.begin()
    train_loop(state, Callbacks(), Step(0, 0, state.batches))
    return differences, seen


@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_those_of_dense_products(method: str) -> None:
    config = tiny_config(method)
    state = TrainState(config, Engine(kernels="sparse"), Ranks())
    differences, seen = compare_every_step(state)
    assert all(difference < 1e-11 for difference in differences)
    assert ("sparse" in seen) == (method in SPARSE)


def test_a_language_model_has_the_same_gradients_too() -> None:
    state = TrainState(tiny_text("acdc"), Engine(kernels="sparse"), Ranks())
    differences, seen = compare_every_step(state)
    assert differences
    assert all(difference < 1e-11 for difference in differences)
    assert "sparse" in seen


def train(config: RunConfig, runs: Path, reporter: Silent, kernels: Any) -> Any:
    engine = Engine(kernels=kernels)
    return run(config, Options(runs, engine, checkpoint_interval_s=0), reporter)


@pytest.mark.parametrize("kernels", ["sparse", "auto"])
def test_a_run_resumes_across_a_switch_to_the_same_bits(
    tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two runs that time would choose differently. About half of the layers are faster.
    def times(x: object, dense: object, sparse: Any) -> list[float]:
        return [1.0, 0.5 + len(sparse.name) % 2]

    def next_is_sparse(dense: list[float], sparse: list[float]) -> bool:
        return len(sparse) < 3 or len(dense) >= 3

    monkeypatch.setattr("acdc.kernels.layers._times", times)
    monkeypatch.setattr("acdc.kernels.layers._next_is_sparse", next_is_sparse)
    config = tiny_config("acdc", epochs=4)
    folders = [tmp_path / name for name in ("whole", "broken")]
    whole = train(config, folders[0], Silent(), kernels)
    for step in (4, 7, 11):
        with pytest.raises(KeyboardInterrupt):
            train(config, folders[1], At(interrupt, steps=[step]), kernels)
    resumed = train(config, folders[1], Silent(), kernels)
    assert_same_run(folders[1] / config.run_name, resumed, folders[0] / config.run_name, whole)


def test_a_choice_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[bool] = []

    def times(*_: object) -> list[float]:
        timed.append(True)
        return [1.0, 2.0 if len(timed) == 1 else 0.5]

    monkeypatch.setattr("acdc.kernels.layers._times", times)
    monkeypatch.setattr("acdc.kernels.layers._next_is_sparse", lambda *_: True)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    masks = {f"{name}.weight": pruned(model.get_submodule(name), 0.5) for name in "01"}
    layers = SparseLayers(model, "auto")
    for _ in range(5):
        with layers.active(masks, masks):
            model(torch.randn(16, 8))
    used = {"0.weight": "slower", "1.weight": "sparse"}
    assert (layers.used, len(timed)) == (used, 2)
    resumed = SparseLayers(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), "auto")
    resumed.load_state_dict(layers.state_dict(masks), masks)
    with resumed.active(masks, masks):
        for layer in resumed.layers.values():
            layer(torch.randn(16, 8))
    assert (resumed.used, len(timed)) == (used, 2)


@pytest.mark.parametrize("faster", [False, True])
def test_whole_steps_are_timed_in_turns(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("acdc.kernels.layers._times", lambda *_: [1.0, 0.5])
    monkeypatch.setattr("acdc.kernels.layers.time.perf_counter", lambda: now)
    model = nn.Sequential(nn.Linear(8, 8))
    masks = {"0.weight": pruned(model[0], 0.5)}
    layers = SparseLayers(model, "auto")
    ways = []
    for step in range(20):
        if step == 9:  # resumed within the trial
            state = layers.state_dict(masks)
            model = nn.Sequential(nn.Linear(8, 8))
            layers = SparseLayers(model, "auto")
            layers.load_state_dict(state, masks)
        with layers.active(masks, masks):
            model(torch.randn(16, 8))
            sparse = layers.used["0.weight"] == "sparse"
            # One step in each way is an outlier.
            now += 100.0 if step in (5, 6) else 2.0 if sparse != faster else 1.0
        ways.append(sparse)
    # Three steps until masks hold, one that times the layer, and ten in turns.
    assert ways == [False] * 3 + [True] + [True, False] * 5 + [faster] * 6


def test_the_times_are_of_forward_and_backward_passes() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    masks = {"0.weight": pruned(model[0], 0.001)}
    layers = SparseLayers(model, "auto")
    for _ in range(4):
        with layers.active(masks, masks):
            model(torch.randn(64, 64, 16, 16))
    # A thousandth of the products: the choice does not hang on a measurement's noise.
    assert layers.used == {"0.weight": "sparse"}
    assert model[0].weight.grad is None


def test_auto_waits_until_a_mask_holds() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    layers = SparseLayers(model, "auto")
    x = torch.randn(64, 64, 16, 16)

    def used(masks: dict[str, Tensor]) -> str:
        with layers.active(masks, masks):
            model(x)
        return layers.used["0.weight"]

    masks = {"0.weight": pruned(model[0], 0.001)}
    assert [used(masks) == "sparse" for _ in range(5)] == [False] * 3 + [True] * 2
    masks["0.weight"].logical_or_(masks["0.weight"])  # in place
    assert used(masks) != "sparse"
    assert "sparse" not in {used({"0.weight": masks["0.weight"].clone()}) for _ in range(5)}


def test_a_mask_need_not_have_the_memory_layout_of_its_weight() -> None:
    model: nn.Module = nn.Sequential(nn.Conv2d(4, 6, 3))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masks = {"0.weight": pruned(model[0], 0.5).contiguous()}
    layers = SparseLayers(model, "sparse")
    x = torch.randn(8, 4, 5, 5)
    expected = model(x)
    expected.sum().backward()
    exact = model[0].weight.grad * masks["0.weight"]
    model.zero_grad()
    with layers.active(masks, masks):
        found = model(x).images()
        found.sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model[0].weight.grad, exact)


def test_a_layer_says_why_it_is_dense() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=3),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    layers = SparseLayers(model, "sparse")
    masks = {f"{name}.weight": pruned(model.get_submodule(name), 0.5) for name in "01235"}
    gradients = {name: mask for name, mask in masks.items() if name != "2.weight"}
    x = torch.randn(8, 3, 9, 9)
    expected = model(x)
    with layers.active(masks, gradients):
        torch.testing.assert_close(model(x), expected)
        used = dict(layers.used)
        assert [name for name, what in used.items() if what == "sparse"] == ["3.weight", "5.weight"]
        assert all(used.values())
        torch.testing.assert_close(model(x[:7]), expected[:7])
        assert "sparse" not in layers.used["3.weight"]
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
        assert "sparse" not in set(layers.used.values())
    assert torch.equal(model(x), expected)


def test_without_a_compiler_auto_is_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config("acdc")
    with monkeypatch.context() as patch:
        patch.setattr(library, "_VARIANTS", dict.fromkeys(library._VARIANTS, ()))
        library.library.cache_clear()
        with pytest.raises(ConfigError, match="kernels"):
            TrainState(config, Engine(kernels="sparse"), Ranks())
        found = train(config, tmp_path / "auto", Silent(), "auto")
        assert not (tmp_path / "auto" / config.run_name / STEP_TIME).exists()
    library.library.cache_clear()
    dense = train(config, tmp_path / "dense", Silent(), "dense")
    folders = (tmp_path / name / config.run_name for name in ("auto", "dense"))
    assert_same_run(next(folders), found, next(folders), dense)


def test_sparse_products_are_for_cpus() -> None:
    with pytest.raises(ConfigError, match="kernels"):
        TrainState(tiny_config("acdc"), Engine(kernels="sparse", compile="default"), Ranks())
