"""A static network keeps its random masks, and nothing outside them ever moves."""

import pytest
import torch

from tests.support import Drive, tiny_config


@pytest.mark.parametrize(
    ("settings", "zeros"),
    [
        ({}, [0, 36, 18]),
        ({"dense_layers": ()}, [13, 36, 18]),
        ({"dense_layers": ("first", "last")}, [0, 36, 0]),
        # As counted in test_rewiring.
        ({"distribution": "erk"}, [11, 38, 17]),
        ({"distribution": "er"}, [5, 41, 19]),
    ],
)
def test_masks_never_change(settings: dict[str, object], zeros: list[int]) -> None:
    drive = Drive(tiny_config("static", settings=settings))
    masks, first = dict(drive.method.masks), drive.effective()
    for _ in drive.walk():
        assert [
            weight.numel() - kept
            for weight, kept in zip(
                drive.weights.values(), drive.method.kept().values(), strict=True
            )
        ] == zeros
        for name, mask in masks.items():
            assert torch.equal(drive.method.masks[name], mask)
            assert bool((drive.momentum()[name][~mask] == 0).all())
    assert all(
        bool((drive.weights[name][mask] != first[name][mask]).all()) for name, mask in masks.items()
    )


def test_at_sparsity_zero_it_is_dense_training() -> None:
    static = Drive(tiny_config("static", sparsity=0.0)).run()
    dense = Drive(tiny_config("dense")).run()
    assert static.losses == dense.losses
    for name, weight in static.effective().items():
        assert torch.equal(weight, dense.effective()[name])
