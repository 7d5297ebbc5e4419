"""Training with sparse products against dense ones: single layers, and whole steps of networks.

    python -m benchmarks.kernels [--threads 1] [--sparsity 0.9] [--json FILE] [--figure FILE]

Contenders take turns in one process: dense in single precision, dense under bf16 autocast, and
sparse in single precision. A time is a forward and a backward pass; ratios are medians over the
rounds. Masks keep the largest initial weights of each layer, all but a network's first. A layer by
itself is measured with the conversion of its images.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from acdc.kernels.layers import SparseLayers
from acdc.kernels.library import keep_memory
from acdc.models import build_model
from acdc.models.transformer_xl import TransformerXL
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.flops import layer_costs
from acdc.sparsity.layers import dense_layers, prunable_layers, prunable_weights
from acdc.sparsity.selection import magnitude_masks
from benchmarks.common import circumstances, json_option, median_ratio, report

Network = tuple[nn.Module, Callable[[nn.Module], Tensor], Mapping[str, float]]
"""A network, its loss on a batch, and the FLOPs of each weight in a dense forward pass."""

# Images, channels in and out, kernel, size of the map, stride.
LAYERS = {
    "WRN-28-10 3x3 320": (32, 320, 320, 3, 16, 1),
    "WRN-28-10 3x3 640": (32, 640, 640, 3, 8, 1),
    "ResNet50 1x1 64-256": (8, 64, 256, 1, 56, 1),
    "ResNet50 1x1 1024-256": (8, 1024, 256, 1, 14, 1),
    "ResNet50 3x3 256": (8, 256, 256, 3, 14, 1),
    "ResNet50 3x3 128 /2": (8, 128, 128, 3, 56, 2),
    "ResNet20 3x3 64": (64, 64, 64, 3, 8, 1),
}


def layer(images: int, inputs: int, outputs: int, kernel: int, size: int, stride: int) -> Network:
    """Return a convolution."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    model: nn.Module = nn.Sequential(conv)
    # torch's annotations of Module.to lack the memory format.
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(images, inputs, size, size).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    return model, lambda model: model(x).sum(), flops_of(model, (inputs, size, size))


def linear(tokens: int, inputs: int, outputs: int) -> Network:
    """Return a linear layer."""
    x = torch.randn(tokens, inputs, requires_grad=True)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    return model, lambda model: model(x).sum(), flops_of(model, (inputs,))


def classifier(
    name: str, dataset: str, images: int, size: int, dropout: float | None = None
) -> Network:
    """Return a network of the suite on random images."""
    model = build_model(name, dataset, 1)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and dropout is not None:
            module.p = dropout
    channels = 1 if dataset.startswith("fashion") else 3
    x = torch.randn(images, channels, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (images,))
    flops = flops_of(model, tuple(x.shape[1:]))
    return model, lambda model: nn.functional.cross_entropy(model(x), labels), flops


def language_model() -> Network:
    """Return two layers of the large Transformer-XL, with 2,048 tokens and as long a memory."""
    model = TransformerXL(
        1000, layers=2, memory=512, dropout=0.0, attention_dropout=0.0, cutoffs=()
    )
    tokens = torch.randint(1000, (4, 512))
    memory = torch.randn(2, 4, 512, 1024)
    flops = model.flops_per_token([1.0] * 1000, 512, 512, 4)
    return model, lambda model: model(tokens, tokens, memory)[0].mean(), flops


def flops_of(model: nn.Module, shape: tuple[int, ...]) -> Mapping[str, float]:
    """Return the FLOPs of each weight of a network of images."""
    return {cost.name: cost.flops for cost in layer_costs(model, shape)}


NETWORKS: dict[str, Callable[[], Network]] = {
    **{name: lambda shape=shape: layer(*shape) for name, shape in LAYERS.items()},  # type: ignore[misc]
    "linear 1024-4096": lambda: linear(2048, 1024, 4096),
    "ResNet20 on 28 x 28": lambda: classifier("resnet20_s4", "fashion_mnist_10k", 64, 28),
    "ResNet50, batch 8": lambda: classifier("resnet50", "imagenet", 8, 224),
    "WRN-28-10, batch 32": lambda: classifier("wrn28_10", "cifar100", 32, 32),
    "WRN-28-10 without dropout": lambda: classifier("wrn28_10", "cifar100", 32, 32, dropout=0.0),
    "Transformer-XL, 2 layers": language_model,
}


WHOLE = [name for name in NETWORKS if name not in LAYERS and not name.startswith("linear")]


def measure(name: str, sparsity: float, rounds: int) -> dict[str, Any]:
    """Return the times of one network or layer at one sparsity."""
    torch.manual_seed(0)
    model, loss, flops = NETWORKS[name]()
    weights = prunable_weights(model)
    layers = prunable_layers(model)
    kept = set(dense_layers(layers, ["first"] if len(layers) > 1 else []))
    masks = magnitude_masks(
        {name: w for name, w in weights.items() if name not in kept}, sparsity, "uniform"
    )
    apply_masks(weights, masks)
    sparse = SparseLayers(model, "sparse")
    contexts: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
        "dense": contextlib.nullcontext,
        "bf16": lambda: torch.autocast("cpu", torch.bfloat16),
        "sparse": lambda: sparse.active(masks, masks),
    }
    times: dict[str, list[float]] = {contender: [] for contender in contexts}
    for _ in range(1 + rounds):
        for contender, context in contexts.items():
            model.zero_grad(set_to_none=True)
            started = time.perf_counter()
            with context():
                value = loss(model)
            value.backward()  # type: ignore[no-untyped-call]
            times[contender].append(time.perf_counter() - started)
    used = {contender: seconds[1:] for contender, seconds in times.items()}
    return {
        "name": name,
        "sparsity": sparsity,
        "by_flops": sum(flops.values())
        / sum(n * (float(masks[w].float().mean()) if w in masks else 1) for w, n in flops.items()),
        **{f"{contender}_ms": 1e3 * statistics.median(used[contender]) for contender in used},
        "over_dense": median_ratio(used["dense"], used["sparse"]),
        "over_bf16": median_ratio(used["bf16"], used["sparse"]),
    }


@click.command()
@click.option("--only", multiple=True, help="Names to measure, by their beginning.")
@click.option("--sparsity", "sparsities", multiple=True, type=float, default=(0.8, 0.9, 0.95, 0.98))
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=None, type=int)
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Draw networks.")
@json_option
def main(
    only: tuple[str, ...],
    sparsities: tuple[float, ...],
    rounds: int,
    threads: int | None,
    figure: Path | None,
    file: Path | None,
) -> None:
    """Compare sparse with dense products."""
    if threads is not None:
        torch.set_num_threads(threads)
    keep_memory()
    around = circumstances(torch.device("cpu"))
    chosen = [name for name in NETWORKS if not only or name.startswith(only)]
    rows = [measure(name, sparsity, rounds) for name in chosen for sparsity in sparsities]
    columns = (
        "name sparsity:.2f dense_ms:.1f bf16_ms:.1f sparse_ms:.1f by_flops:.1f over_dense:.2f "
        "over_bf16:.2f"
    )
    report(rows, columns, file, **around)
    if figure is not None:
        draw([row for row in rows if row["name"] in WHOLE], figure)


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw measured over theoretical speed-ups of whole networks."""
    import matplotlib.pyplot as plt

    from reports.figures.by_flops import speedup_axes
    from reports.figures.style import style

    style()
    drawing, axes = plt.subplots(figsize=(6.6, 3.2))
    for marker, name in zip("osD^v", dict.fromkeys(row["name"] for row in rows), strict=False):
        points = [(row["by_flops"], row["over_dense"]) for row in rows if row["name"] == name]
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, label=name)
    speedup_axes(axes, [(row["by_flops"], row["over_dense"]) for row in rows])
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.savefig(file)


if __name__ == "__main__":
    main()
