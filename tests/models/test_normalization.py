"""Batch normalisation of large channels-last batches is as exact as that of contiguous ones."""

import pytest
import torch
from torch import Tensor, nn

from acdc.models import MODELS, build_model, normalization
from acdc.models.normalization import BatchNorm2d, accurate

CHANNELS_LAST = torch.channels_last


def pass_through(
    norm: nn.BatchNorm2d, batch: Tensor, gradient: Tensor, layout: torch.memory_format
) -> list[Tensor]:
    norm = norm.to(batch.dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, len(norm.weight)))
        norm.bias.copy_(torch.linspace(-1, 1, len(norm.weight)))
    batch = batch.detach().contiguous(memory_format=layout).requires_grad_()
    output = norm(batch)
    output.backward(gradient.contiguous(memory_format=layout))
    gradients = [batch.grad, norm.weight.grad, norm.bias.grad]
    return [output.detach(), *gradients, norm.running_mean, norm.running_var]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [
        float((mine - right).abs().max() / right.abs().max())
        for mine, right in zip(found, exact, strict=True)
    ]


@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (128, 8, 28, 28), (96, 4, 15, 15)])
@pytest.mark.parametrize("mean", [1.0, 10.0])
def test_it_is_as_exact_as_contiguous(
    shape: tuple[int, ...], mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalization, "LARGE", 0)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(shape, generator=generator) * 2 + mean
    gradient = torch.randn(shape, generator=generator) + 0.3
    channels = shape[1]
    plain = nn.BatchNorm2d
    exact = pass_through(plain(channels), batch.double(), gradient.double(), CHANNELS_LAST)
    contiguous = pass_through(plain(channels), batch, gradient, torch.contiguous_format)
    found = pass_through(BatchNorm2d(channels), batch, gradient, CHANNELS_LAST)
    for mine, theirs in zip(errors(found, exact), errors(contiguous, exact), strict=True):
        assert mine < max(1e-6, 10 * theirs)
    if shape == (128, 16, 32, 32):
        native = pass_through(plain(channels), batch, gradient, CHANNELS_LAST)
        assert errors(native, exact)[0] > 20 * errors(found, exact)[0], "torch needs no help"


def test_gradients_in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "LARGE", 0)
    for shape in ((4, 3, 4, 4), (5, 2, 3, 3), (2, 1, 1, 1)):
        norm = BatchNorm2d(shape[1]).double()
        batch = torch.randn(shape, dtype=torch.double).contiguous(memory_format=CHANNELS_LAST)
        inputs = (batch.requires_grad_(), norm.weight, norm.bias)

        def call(x: Tensor, weight: Tensor, bias: Tensor, norm: nn.Module = norm) -> Tensor:
            parameters = {"weight": weight, "bias": bias}
            return torch.func.functional_call(norm, parameters, (x,))

        assert torch.autograd.gradcheck(call, inputs)


def test_evaluation_small_batches_and_other_layouts_are_those_of_torch() -> None:
    torch.manual_seed(0)
    large, small = torch.randn(64, 2, 16, 16), torch.randn(4, 2, 8, 8)
    for batch, layout, training in (
        (large, CHANNELS_LAST, False),
        (large, torch.contiguous_format, True),
        (small, CHANNELS_LAST, True),
    ):
        mine, theirs = (kind(2).train(training) for kind in (BatchNorm2d, nn.BatchNorm2d))
        batch = batch.contiguous(memory_format=layout)
        assert torch.equal(mine(batch), theirs(batch))
        for name, buffer in theirs.state_dict().items():
            assert torch.equal(mine.state_dict()[name], buffer)


@pytest.mark.parametrize(
    "model", [n for n in MODELS if MODELS[n].kind == "images" and n not in ("wrn28_10", "resnet50")]
)
def test_networks_have_it_everywhere(model: str) -> None:
    network = build_model(model, "cifar10", seed=0)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert {type(norm) for norm in norms} == {BatchNorm2d}


def test_unusual_normalisation_stays_as_it_is() -> None:
    for unusual in (
        nn.BatchNorm2d(2, affine=False),
        nn.BatchNorm2d(2, momentum=None),
        nn.BatchNorm2d(2, track_running_stats=False),
    ):
        assert type(accurate(unusual)) is nn.BatchNorm2d
