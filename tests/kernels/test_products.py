"""Sparse products equal torch's dense ones with the same zeros, forwards and backwards."""

import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acdc.kernels import functions, library
from acdc.kernels.blocked import Blocked
from acdc.kernels.pattern import Geometry, Pattern
from acdc.models.dropout import Dropout

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def pruned(layer: nn.Module, density: float, seed: int = 0) -> Tensor:
    """Prune a layer's weight at random, one row of it wholly; return the mask."""
    weight = layer.weight
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(weight.shape, generator=generator) < density
    kept[0] = False
    mask = torch.empty_like(weight, dtype=torch.bool).copy_(kept)
    with torch.no_grad():
        weight.mul_(mask)
    return mask


def gradients(layer: nn.Module, x: Tensor, output: Tensor) -> list[Tensor]:
    """Return an output and its gradients for input, weight and bias, and forget them."""
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape, dtype=output.dtype))
    found = [output.detach(), x.grad, *(p.grad for p in layer.parameters())]
    x.grad = None
    layer.zero_grad()
    return found


def compare(found: list[Tensor], exact: list[Tensor], mask: Tensor) -> None:
    exact[2] = exact[2] * mask
    for mine, right in zip(found, exact, strict=True):
        assert mine.shape == right.shape
        error = (mine - right).abs().max() / (1 + right.abs().max())
        assert error < TOLERANCE[right.dtype]


def convolve(conv: nn.Conv2d, x: Tensor, pattern: Pattern, lanes: int) -> Tensor:
    y = functions.convolution(functions.block(x, lanes), conv.weight, conv.bias, pattern, lanes)
    return functions.unblock(y, lanes)


def geometry(conv: nn.Conv2d) -> Geometry:
    return Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [(7, 7), (4, 5), (2, 2), (17, 33), (1, 1)])
@pytest.mark.parametrize("images", [16, 24])
def test_a_convolution_equals_torch(dtype: torch.dtype, size: tuple[int, int], images: int) -> None:
    lanes = 16 if images % 16 == 0 else 8
    channels = [(6, 8, 1), (6, 6, 6), (4, 8, 2)]
    compared = 0
    for kernel, stride, dilation, (inputs, outputs, groups) in itertools.product(
        (1, 3, 5), (1, 2, (3, 1)), (1, 2), channels
    ):
        for padding in {0, kernel // 2 * dilation}:
            if min(size) + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            conv = nn.Conv2d(
                *(inputs, outputs, kernel, stride, padding, dilation, groups), dtype=dtype
            ).to(memory_format=[torch.contiguous_format, torch.channels_last][compared % 2])
            mask = pruned(conv, 0.3)
            x = torch.randn(images, inputs, *size, dtype=dtype, requires_grad=True)
            exact = gradients(conv, x, conv(x))
            pattern = Pattern(mask, geometry(conv))
            compare(gradients(conv, x, convolve(conv, x, pattern, lanes)), exact, mask)
            compared += 1
    assert compared >= 18


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 16, 40, 128, 513])
def test_a_linear_layer_equals_torch(dtype: torch.dtype, rows: int) -> None:
    linear = nn.Linear(20, 31, dtype=dtype)
    mask = pruned(linear, 0.3)
    x = torch.randn(rows, 20, dtype=dtype, requires_grad=True)
    exact = gradients(linear, x, linear(x))
    y = functions.linear(x, linear.weight, linear.bias, Pattern(mask, Geometry()))
    compare(gradients(linear, x, y), exact, mask)


def test_many_channels_are_read_in_groups() -> None:
    conv = nn.Conv2d(96, 40, 3, padding=1, dtype=torch.float64)
    mask = pruned(conv, 0.1)
    pattern = Pattern(mask, geometry(conv))
    assert pattern.forward(1, 16, 16, 16).product.groups > 2
    x = torch.randn(16, 96, 16, 16, dtype=torch.float64, requires_grad=True)
    exact = gradients(conv, x, conv(x))
    compare(gradients(conv, x, convolve(conv, x, pattern, 16)), exact, mask)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_a_layer_may_be_empty_or_full(density: float) -> None:
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
    mask = pruned(conv, density)
    x = torch.randn(8, 3, 9, 9, requires_grad=True)
    exact = gradients(conv, x, conv(x))
    compare(gradients(conv, x, convolve(conv, x, Pattern(mask, geometry(conv)), 8)), exact, mask)


def test_the_derivatives_are_those_of_finite_differences() -> None:
    conv = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, dtype=torch.float64)
    pattern = Pattern(pruned(conv, 0.5), geometry(conv))
    x = torch.randn(8, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = conv.weight.detach(), conv.bias
    indices = pattern.index
    values = weight.flatten()[indices].requires_grad_()

    def function(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        full = torch.zeros(weight.numel(), dtype=values.dtype).index_put((indices,), values)
        y = functions.convolution(functions.block(x, 8), full.view(weight.shape), bias, pattern, 8)
        return functions.unblock(y, 8)

    assert torch.autograd.gradcheck(function, (x, values, bias))


def test_the_gradient_may_have_a_wider_support_than_the_weight() -> None:
    conv = nn.Conv2d(6, 8, 3, padding=1)
    wide = pruned(conv, 0.6)
    narrow = wide & pruned(conv, 0.3, seed=1)
    with torch.no_grad():
        conv.weight.mul_(narrow)
    x = torch.randn(16, 6, 5, 5, requires_grad=True)
    exact = gradients(conv, x, conv(x))
    patterns = [Pattern(mask, geometry(conv)) for mask in (narrow, wide)]
    y = functions.convolution(
        functions.block(x, 16), conv.weight, conv.bias, patterns[0], 16, patterns[1]
    )
    compare(gradients(conv, x, functions.unblock(y, 16)), exact, wide)


def test_the_bits_do_not_depend_on_the_threads() -> None:
    conv = nn.Conv2d(24, 32, 3, padding=1)
    pattern = Pattern(pruned(conv, 0.2), geometry(conv))
    x = torch.randn(32, 24, 7, 7, requires_grad=True)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            found.append(gradients(conv, x, convolve(conv, x, pattern, 16)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        # The bias's gradient is torch's own sum.
        assert all(torch.equal(a, b) for a, b in zip(found[0][:3], other[:3], strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("lanes", library.LANES)
def test_blocks_hold_the_images(layout: torch.memory_format, lanes: int) -> None:
    x = torch.randn(48, 20, 5, 7).contiguous(memory_format=layout)
    blocked = library.block(x, lanes)
    by_hand = x.reshape(48 // lanes, lanes, 20, 5, 7).permute(0, 2, 3, 4, 1)
    assert torch.equal(blocked, by_hand.reshape(blocked.shape))
    assert torch.equal(library.unblock(blocked, lanes), x)


def test_every_variant_that_the_processor_has_agrees() -> None:
    # Each library is loaded once in a process, so that the others get their own.
    program = (
        "import torch; torch.backends.cpu.get_cpu_capability = lambda: {!r};"
        "from tests.kernels import test_products as t;"
        "t.test_a_convolution_equals_torch(torch.float32, (7, 7), 24);"
        "t.test_a_linear_layer_equals_torch(torch.float32, 40);"
        "print(t.library.library()._name)"
    )
    capability = torch.backends.cpu.get_cpu_capability()
    weaker = {"AVX512": ["AVX2", "DEFAULT"], "AVX2": ["DEFAULT"]}.get(capability, [])
    used = [
        subprocess.run(
            [sys.executable, "-c", program.format(each)], check=True, capture_output=True, text=True
        ).stdout
        for each in weaker
    ]
    assert len(set(used)) == len(weaker)


def test_a_network_need_not_know_that_its_images_are_blocked() -> None:
    norm = nn.BatchNorm2d(6)
    x = torch.randn(16, 6, 4, 5)

    def network(x: Tensor) -> Tensor:
        y = norm(torch.relu(x)) + x
        y += nn.functional.relu(y * 2)
        assert y.shape == (16, 6, 4, 5)
        return nn.functional.max_pool2d(y[:, :, ::2], 2).mean(dim=(2, 3)).flatten(1)

    exact = network(x)
    torch.testing.assert_close(network(Blocked(functions.block(x, 16), 16)), exact)


def test_operators_and_lists_of_blocked_images_are_those_of_images() -> None:
    x = torch.randn(8, 3, 4, 4)
    y = Blocked(functions.block(x, 8), 8)
    torch.testing.assert_close(torch.cat([y, x, y], dim=1), torch.cat([x, x, x], dim=1))
    torch.testing.assert_close((1 - y) / 2 * y - -(y**2), (1 - x) / 2 * x + x**2)
    assert torch.equal(y > 0, x > 0)
    assert len(y) == 8


def pass_through(
    norm: nn.BatchNorm2d, x: Tensor, other: Tensor | None, relu: bool, blocked: bool
) -> list[Tensor]:
    """Return output, gradients and running statistics of a normalisation and what follows it."""
    norm.reset_running_stats()
    norm.zero_grad()
    leaves = [t.detach().clone().requires_grad_() for t in (x, other) if t is not None]
    given: list[Any] = leaves
    if blocked:
        given = [Blocked(functions.block(leaf, 8), 8) for leaf in leaves]
    y = norm(given[0])
    y = y + given[1] if other is not None else y
    y = torch.relu(y) if relu else y
    y = y.images() if blocked else y
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape).to(y.dtype))
    found = [y.detach(), *(leaf.grad for leaf in leaves), norm.weight.grad, norm.bias.grad]
    return [*found, norm.running_mean.clone(), norm.running_var.clone()]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_normalisation_and_what_follows_equal_torch(
    relu: bool, added: bool, training: bool
) -> None:
    norm = nn.BatchNorm2d(5, dtype=torch.float64).train(training)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, 5))
        norm.bias.copy_(torch.linspace(-1, 0.5, 5))
    x = torch.randn(24, 5, 17, 9, dtype=torch.float64) + 3
    other = torch.randn_like(x) if added else None
    exact = pass_through(norm, x, other, relu, blocked=False)
    found = pass_through(norm, x, other, relu, blocked=True)
    for mine, right in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-10)


def test_the_sums_of_normalisation_are_accurate() -> None:
    norm = nn.BatchNorm2d(4)
    x = torch.randn(128, 4, 32, 32) + 10
    exact = pass_through(norm.double(), x.double(), None, False, blocked=False)
    found = pass_through(norm.float(), x, None, False, blocked=True)
    for mine, right in zip(found, exact, strict=True):
        assert float((mine - right).abs().max() / right.abs().max()) < 1e-5


def test_a_normalised_batch_may_be_used_twice() -> None:
    norm = nn.BatchNorm2d(3)
    x = torch.randn(8, 3, 4, 4)
    exact = norm(x)
    statistics = norm.running_var.clone()
    norm.reset_running_stats()
    y = norm(Blocked(functions.block(x, 8), 8))
    both = torch.relu(y) + (y + y)
    torch.testing.assert_close(both.images(), exact.relu() + 2 * exact)
    torch.testing.assert_close(norm.running_var, statistics)


def test_a_number_that_is_none_stays_one() -> None:
    x = torch.randn(8, 3, 4, 4)
    x[0, 0, 0, 0] = torch.nan
    y = torch.relu(nn.BatchNorm2d(3)(Blocked(functions.block(x, 8), 8))).images()
    assert y[:, 0].isnan().all()
    assert y[:, 1:].isfinite().all()


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("training", [True, False])
def test_dropout_draws_what_it_draws_for_images(p: float, training: bool) -> None:
    x = torch.randn(16, 6, 4, 5).contiguous(memory_format=torch.channels_last)
    dropout = Dropout(p).train(training)
    torch.manual_seed(0)
    exact = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(Blocked(functions.block(x, 8), 8)).images(), exact)


def test_blocked_images_that_change_in_place_are_read_again() -> None:
    x = torch.randn(8, 3, 4, 4)
    blocked = Blocked(functions.block(x, 8), 8)
    assert torch.equal(blocked.images(), x)
    torch.relu_(blocked)
    assert torch.equal(blocked.images(), x.relu())
