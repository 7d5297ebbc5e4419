"""Dropout draws the same for an image, whatever the number of processes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from acdc.distributed import Ranks
from acdc.models import MODELS
from acdc.models.dropout import Dropout, WholeBatch

LAYERS = [
    Dropout(0.3), nn.Dropout(0.5, inplace=True), nn.Dropout1d(0.4), nn.Dropout2d(0.4),
    nn.AlphaDropout(0.4), nn.FeatureAlphaDropout(0.4)]  # fmt: skip


def passed(model: nn.Module, batch: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return the outputs of a rank's share, and the gradient of their squares by the inputs."""
    model = copy.deepcopy(model)
    WholeBatch(model, ranks, len(batch))
    torch.manual_seed(5)
    inputs = batch[ranks.slice(len(batch))].detach().requires_grad_()
    outputs = model(inputs * 1)  # so that a layer may work in place
    (gradient,) = torch.autograd.grad(outputs.square().sum(), inputs)
    return outputs.detach(), gradient


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_shares_are_parts_of_the_draw(layer: nn.Module, dtype: torch.dtype, count: int) -> None:
    shape = (7, 4, 6) if isinstance(layer, nn.Dropout1d) else (7, 4, 6, 5)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    if batch.dim() == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    whole = passed(layer, batch, Ranks())
    shares = [passed(layer, batch, Ranks(rank, count)) for rank in range(count)]
    for all_of_it, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), all_of_it)
    assert not torch.equal(whole[0], layer.eval()(batch.clone()))
    evaluated = passed(layer, batch, Ranks(0, count))[0]
    assert torch.equal(evaluated, layer(batch[Ranks(0, count).slice(7)].clone()))
    layer.train()


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_draws_are_as_likely_as_they_should_be(p: float) -> None:
    torch.manual_seed(4)
    x = torch.full((101, 7, 31, 13), 2.0).contiguous(memory_format=torch.channels_last)
    y = Dropout(p)(x)
    kept = y != 0
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * deviation
    # Neighbours are independent, in whichever way the four draws of a number are laid out.
    flat = kept.permute(0, 2, 3, 1).flatten().double()
    for apart in range(1, 9):
        both = float((flat[apart:] * flat[:-apart]).mean())
        assert abs(both - (1 - p) ** 2) < 10 * deviation
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 / (1 - p)), rtol=1e-4, atol=0)


def test_dropout_at_its_ends() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    torch.manual_seed(0)
    first = Dropout(0.5)(x)
    assert not torch.equal(Dropout(0.5)(x), first)
    torch.manual_seed(0)
    assert torch.equal(Dropout(0.5)(x), first)


def test_wide_resnet_with_dropout() -> None:
    model = MODELS["wrn10_2_w8_s4"](1, 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # what else depends on the whole batch
    batch = torch.randn((6, 1, 28, 28), generator=torch.Generator().manual_seed(1))
    whole, _ = passed(model, batch, Ranks())
    shares = [passed(model, batch, Ranks(rank, 2))[0] for rank in range(2)]
    torch.testing.assert_close(torch.cat(shares), whole, rtol=1e-5, atol=1e-6)
    torch.manual_seed(6)
    assert float((model(batch) - whole).abs().max().detach()) > 0.01  # another draw
