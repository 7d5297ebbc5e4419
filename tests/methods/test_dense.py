"""Dense training is ordinary SGD: the hooks change nothing."""

import torch

from acdc.step import Step
from tests.support import Drive, nonzeros, tiny_config


def test_dense_training_is_sgd_to_the_bit() -> None:
    drive = Drive(tiny_config("dense")).run()
    plain = Drive(tiny_config("dense"))
    recipe = plain.config.recipe
    velocity = [torch.zeros_like(parameter) for parameter in plain.model.parameters()]
    for iteration in range(20):
        plain.model.zero_grad()
        plain.loss(iteration).backward()
        for parameter, v in zip(plain.model.parameters(), velocity, strict=True):
            with torch.no_grad():
                v.mul_(recipe.momentum).add_(
                    parameter.grad.add(parameter, alpha=recipe.weight_decay)
                )
                parameter.add_(v, alpha=-recipe.lr)
    for ours, theirs in zip(drive.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert nonzeros(drive.weights) == 90


def test_it_yields_a_dense_model_of_full_density() -> None:
    method = Drive(tiny_config("dense")).method
    assert method.product(Step(0, 0, 5)) == "dense" == method.products[0]
    densities = method.densities()
    assert set(densities.forward.values()) == set(densities.gradient.values()) == {1.0}
