"""Sixteen-bit arithmetic, compiled networks and other ways to carry out a run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from acdc.config.run import RunConfig
from acdc.distributed import Ranks
from acdc.errors import ConfigError, Diverged
from acdc.run.lifecycle import Options, run
from acdc.step import Step
from acdc.training.loop import Callbacks, Totals, begin_epoch, train, train_step
from acdc.training.precision import Arithmetic
from acdc.training.state import Compile, Engine, TrainState
from tests.support import (
    METHODS,
    OPTIMIZERS,
    At,
    Silent,
    Uninterrupted,
    assert_same_run,
    interrupt,
    resumptions,
    tiny_config,
    train_broken,
)

CPU = torch.device("cpu")

POISONED = """
from acdc.distributed import Ranks
from acdc.step import Step
from acdc.training.loop import Callbacks, train
from acdc.training.state import Engine, TrainState
from tests.support import tiny_config
state = TrainState(
    tiny_config("dense", model="resnet8_s4", precision="PRECISION"), Engine(), Ranks()
)
state.begin()
train(state, Callbacks(), Step(0, 0, state.batches), end=1)
for weight in state.weights.values():
    if weight.dim() == 4:
        assert weight.grad.isfinite().all()
        print(weight.grad.abs().amax(dim=(0, 1)).gt(0).int().tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc poisons freed memory")
def test_taps_that_see_only_padding_get_no_gradient_in_16_bits() -> None:
    # On maps of 1 x 1, where oneDNN leaves some of their gradients to what the memory holds.
    found = [
        subprocess.run(
            [sys.executable, "-c", POISONED.replace("PRECISION", precision)],
            env={**os.environ, "MALLOC_PERTURB_": "128"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for precision in ("fp32", "bf16")
    ]
    assert found[0] == found[1]
    assert "[[0, 0, 0], [0, 1, 0], [0, 0, 0]]" in found[0]


def begun(config: RunConfig, compile: Compile = "off") -> TrainState:
    state = TrainState(config, Engine(compile=compile), Ranks())
    state.begin()
    return state


def train_epochs(state: TrainState, after: Callable[[Step], None], epochs: int = 1) -> None:
    class Watch(Callbacks):
        def step_end(self, step: Step, totals: Totals) -> None:
            after(step)

    train(state, Watch(), Step(0, 0, state.batches), end=epochs)


def small(method: str, precision: str = "fp16", **changes: Any) -> RunConfig:
    """Return a run, for fp16, which a CPU emulates, on a network with few pixels."""
    model = {"model": "resnet8_s4"} if precision == "fp16" else {}
    return tiny_config(method, precision=precision, **model, **changes)


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *(("acdc", "fp16"), ("gmp", "bf16"), ("rigl", "fp16"), ("str", "bf16")),
        *(("str", "fp16"), ("top_kast", "fp16")),
    ],
)
def test_weights_stay_in_single_precision_and_masked(method: str, precision: str) -> None:
    state = begun(small(method, precision))
    train_epochs(state, lambda step: None, epochs=2)
    for parameter in state.model.parameters():
        assert parameter.dtype is torch.float32
        assert bool(parameter.isfinite().all())
        for value in state.optimizer.state[parameter].values():
            assert value is None or value.dtype is torch.float32
    for name, mask in state.method.masks.items():
        assert bool((state.weights[name][~mask] == 0).all())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_resume_exactly_and_are_near_thirty_two(
    precision: str, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    config = small("dense", precision)
    expected, whole = uninterrupted(config)
    train_broken(config, tmp_path, At(interrupt, steps=[8]))
    result = run(config, Options(tmp_path), Silent())
    assert resumptions(tmp_path / config.run_name) == [(1, 3)]
    assert_same_run(tmp_path / config.run_name, result, expected, whole)
    _, single = uninterrupted(config.model_copy(update={"precision": "fp32"}))
    one, other = (r["products"]["dense"]["last"] for r in (single, whole))
    assert one["test_loss"] != other["test_loss"]
    # Of 360 images: a standard deviation of a proportion around 0.9 is 0.016.
    assert abs(one["test_accuracy"] - other["test_accuracy"]) < 0.1


def net_and_batch() -> tuple[nn.Linear, Tensor, torch.optim.SGD]:
    torch.manual_seed(0)
    net = nn.Linear(6, 3)
    return net, torch.randn(5, 6), torch.optim.SGD(net.parameters(), lr=0.1)


def test_a_batch_that_overflows_is_computed_again_at_smaller_scales_until_it_does_not() -> None:
    net, inputs, optimizer = net_and_batch()
    factor = 1e3  # half precision ends at 65,504
    arithmetic = Arithmetic("fp16", CPU)
    calls = []

    def compute() -> tuple[Tensor, Tensor]:
        calls.append(arithmetic.scale)
        outputs = inputs @ net.weight.T
        return outputs, outputs.float().sum() * factor

    arithmetic.gradients(compute, optimizer)
    assert calls == [2.0**16 / 2**i for i in range(len(calls))]
    assert calls[-1] * factor < 65_504 < calls[4] * factor
    expected = inputs.sum(dim=0).expand(3, 6) * factor
    assert torch.allclose(net.weight.grad, expected, rtol=1e-2)


def test_a_batch_that_is_computed_again_counts_once_in_the_running_statistics() -> None:
    state = begun(small("dense"))
    state.arithmetic.scale = 2.0**30
    counted = state.model.get_buffer("bn1.num_batches_tracked")
    seen: list[int] = []
    train_epochs(state, lambda step: seen.append(int(counted)))
    assert seen == [1, 2, 3, 4, 5]
    assert state.arithmetic.scale < 2.0**30


def test_gradients_that_overflow_at_any_scale_end_as_diverged() -> None:
    net, inputs, optimizer = net_and_batch()

    def compute() -> tuple[Tensor, Tensor]:
        outputs = inputs @ net.weight.T
        return outputs, outputs.sum() * torch.inf

    with pytest.raises(FloatingPointError, match="overflow at any scale"):
        Arithmetic("fp16", CPU).gradients(compute, optimizer)
    state = begun(small("dense", recipe={"batch_size": 8}))
    with torch.no_grad():
        state.model.get_parameter("fc.weight").fill_(torch.nan)
    with pytest.raises(Diverged, match="overflow at any scale in epoch 0"):
        train_epochs(state, lambda step: None)


def test_the_scale_doubles_after_two_thousand_steps_without_overflow() -> None:
    net, inputs, optimizer = net_and_batch()
    arithmetic = Arithmetic("fp16", CPU)

    def compute() -> tuple[Tensor, Tensor]:
        outputs = net(inputs)
        return outputs, outputs.float().square().mean()

    scales = []
    for _ in range(2001):
        arithmetic.gradients(compute, optimizer)
        scales.append(arithmetic.scale)
    assert scales[:1999] == [2.0**16] * 1999
    assert scales[1999:] == [2.0**17] * 2


def test_arithmetic_that_a_device_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^precision=tf32:"):
        Arithmetic("tf32", CPU)


@pytest.mark.slow
def test_a_compiled_network_computes_the_same_within_rounding() -> None:
    config = tiny_config("static")
    losses = []
    for state in (begun(config, "off"), begun(config, "default")):
        begin_epoch(state, 0)
        inputs, labels = next(iter(state.loader.training(0)))
        steps = [train_step(state, Step(0, i, 5), inputs, labels, draw=1) for i in range(3)]
        losses.append([each.loss.item() for each in steps])
    # Rounding moves activations across the kink of a ReLU, so that later steps differ by more.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0][0] > losses[0][2]


class Reads(TorchDispatchMode):
    """Counts the operations that bring a number from the device to the host, which wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
        self.count += func.name() in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("method", "optimizer"), [*((method, "sgd") for method in METHODS), ("acdc", "lamb")]
)
def test_an_ordinary_step_reads_nothing_back_from_the_device(method: str, optimizer: str) -> None:
    # With nothing due in the steps that are watched.
    late: dict[str, Any] = {
        "rigl": {"update_interval": 1},
        "set": {"update_interval": 1},
        "snfs": {"update_interval": 1},
        "dpf": {"update_interval": 1},
        "top_kast": {"backward_sparsity": 0.5, "refresh_interval": 1000},
    }
    changes = {"settings": late[method]} if method in late else {}
    state = begun(tiny_config(method, recipe=OPTIMIZERS.get(optimizer, {}), **changes))
    reads = Reads()
    seen: list[int] = []

    def after(step: Step) -> None:
        seen.append(reads.count)

    with reads:
        train_epochs(state, after)
    # The first step of an epoch may draw, and the last may end something.
    assert seen[-2] == seen[0], json.dumps(seen)


def test_the_watch_notices_a_read() -> None:
    with Reads() as reads:
        torch.ones(3).sum().item()
        torch.ones(3).nonzero()
    assert reads.count == 2
