"""How far a sparse model and a dense one predict the same (Table 14)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from acdc.data import DATASETS
from acdc.data.loader import LoaderPlan
from acdc.errors import ConfigError
from acdc.run.load import Trained, load
from acdc.run.reader import Agreement

_CPU = torch.device("cpu")


def compare(sparse: Path, dense: Path, device: torch.device = _CPU) -> Agreement:
    """Compare a run's sparse model with the dense model of a run, after their last epochs.

    Args:
        sparse: folder of the run with the sparse model.
        dense: folder of the run with the dense one, on the same images.
        device: on which they are evaluated.

    Raises:
        RunDirectoryError: a model cannot be loaded (``load``).
        ConfigError: the runs are of different data sets, or of one without classes.
    """
    models = load(sparse, "sparse"), load(dense, "dense")
    datasets = {model.config.dataset for model in models}
    if len(datasets) > 1 or DATASETS[models[0].config.dataset].kind != "images":
        raise ConfigError(f"dataset={', '.join(sorted(datasets))}: not one set of images")
    (q, labels), (p, _) = (_outputs(model, device) for model in models)
    classes = p.argmax(dim=1), q.argmax(dim=1)
    same = classes[0] == classes[1]
    dense_right, sparse_right = (each == labels for each in classes)
    return Agreement(
        run=models[0].config.run_name,
        companion=models[1].config.run_name,
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
def _outputs(trained: Trained, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a model's log-probabilities of all test images, in double precision, and labels."""
    config = trained.config
    model = trained.model.to(device)
    recipe = config.recipe
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
