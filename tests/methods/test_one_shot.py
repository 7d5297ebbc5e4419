"""One-shot pruning keeps the largest weights of the dense run and trains nothing."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from acdc.run.lifecycle import Options, run
from acdc.sparsity.selection import magnitude_masks
from tests.support import Silent, plain, tiny_config


def test_it_prunes_the_last_dense_model_for_free(tmp_path: Path, silent: Silent) -> None:
    config = tiny_config("one_shot", epochs=1)
    result = plain(run(config, Options(tmp_path), silent))
    parent = config.parent
    assert parent == tiny_config("dense", epochs=1)
    dense = load_file(tmp_path / parent.run_name / "dense_last.safetensors")
    ours = load_file(tmp_path / config.run_name / "sparse_last.safetensors")
    layers = result["products"]["sparse"]["last"]["certificate"]["layers"]
    prunable = {layer["name"]: dense[layer["name"]] for layer in layers}
    masks = magnitude_masks(prunable, 0.75, "global")
    for name, tensor in dense.items():
        assert torch.equal(ours[name], tensor * masks[name] if name in masks else tensor)
    total = sum(weight.numel() for weight in prunable.values())
    kept = sum(int((ours[name] != 0).sum()) for name in prunable)
    assert kept == total - math.floor(0.75 * total)
    assert result["flops"]["training"] == result["flops"]["dense_training"]
    # The dense run was trained once, and is not trained for another sparsity.
    silent.epochs.clear()
    run(tiny_config("one_shot", epochs=1, sparsity=0.5), Options(tmp_path), silent)
    assert silent.epochs == []
