"""How far a sparse model and a dense one predict the same (Table 14)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS
from acdc.data.loader import LoaderPlan
from acdc.errors import ConfigError, RunDirectoryError
from acdc.methods.contract import Product
from acdc.models import build_model
from acdc.run.model_store import verified, weights_name
from acdc.run.reader import Agreement
from acdc.run.result import FinishedResult, finished


def compare(sparse: Path, dense: Path) -> Agreement:
    """Compare a run's sparse model with the dense model of a run, after their last epochs.

    Args:
        sparse: folder of the run with the sparse model.
        dense: folder of the run with the dense one, on the same images.

    Raises:
        RunDirectoryError: a run has not finished, lacks the model, or its file is damaged.
        ConfigError: the runs are of different data sets, or of one without classes.
    """
    runs = finished(sparse), finished(dense)
    configs = [parse_run(dict(run.config)) for run in runs]
    datasets = {config.dataset for config in configs}
    if len(datasets) > 1 or DATASETS[configs[0].dataset].kind != "images":
        raise ConfigError(f"dataset={', '.join(sorted(datasets))}: not one set of images")
    p, labels = _outputs(dense, runs[1], configs[1], "dense")
    q, _ = _outputs(sparse, runs[0], configs[0], "sparse")
    classes = p.argmax(dim=1), q.argmax(dim=1)
    same = classes[0] == classes[1]
    dense_right, sparse_right = (each == labels for each in classes)
    return Agreement(
        run=runs[0].run,
        companion=runs[1].run,
        images=len(labels),
        agreement=_mean(same),
        cross_entropy=_mean(-(p.exp() * q).sum(dim=1)),
        cross_entropy_of_sparse=_mean(-(q.exp() * p).sum(dim=1)),
        both_right=_mean(dense_right & sparse_right),
        sparse_right=_mean(sparse_right & ~dense_right),
        dense_right=_mean(dense_right & ~sparse_right),
        by_class=tuple(_mean(same[labels == label]) for label in torch.unique(labels)),
    )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


@torch.inference_mode()
def _outputs(
    folder: Path, result: FinishedResult, config: RunConfig, product: Product
) -> tuple[Tensor, Tensor]:
    """Return a model's log-probabilities of all test images, in double precision, and labels."""
    if product not in result.products:
        known = ", ".join(result.products)
        raise RunDirectoryError(f"{folder}: no {product} model, only {known}")
    model = build_model(config.model, config.dataset, config.seed)
    model.load_state_dict(load(verified(folder, weights_name(product, "last"), result.files)))
    model.eval()
    recipe, device = config.recipe, torch.device("cpu")
    plan = LoaderPlan(config.seed, recipe.batch_size, recipe.augmentation, device)
    loader = DATASETS[config.dataset].load().loader(plan)
    try:
        batches = [
            (model(inputs).double().log_softmax(dim=1), labels)
            for inputs, labels in loader.evaluation("test")
        ]
    finally:
        loader.close()
    outputs, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    return outputs, labels
