"""The models of a finished run, for use elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from acdc.config.run import RunConfig, parse_run
from acdc.errors import RunDirectoryError
from acdc.methods.contract import Product
from acdc.models import build_model
from acdc.run.model_store import verified, weights_name
from acdc.run.result import Evaluation, finished
from acdc.sparsity.certificate import objections
from acdc.sparsity.layers import prunable_weights


@dataclass(frozen=True)
class Trained:
    """A model of a finished run."""

    model: nn.Module
    """In evaluation mode, on the CPU."""
    masks: dict[str, Tensor]
    """Which weights are not zero, by layer, of the layers that the method prunes."""
    evaluation: Evaluation
    """Its scores on the validation and test images, FLOPs and sparsity certificate."""
    config: RunConfig


def load(
    folder: str | Path, product: Product | None = None, which: Literal["last", "best"] = "last"
) -> Trained:
    """Return a model of a finished run.

    Args:
        folder: the run's directory, such as results/smoke/runs/NAME.
        product: "sparse" or "dense"; None: the one that the method is about.
        which: after the last epoch, or after the one with the best validation score.

    Raises:
        RunDirectoryError: the run has not finished, lacks the model, its weights have changed, or
            they do not have the sparsity that was asked for.
    """
    folder = Path(folder)
    result = finished(folder)
    chosen = product or result.primary
    if chosen not in result.products:
        known = ", ".join(result.products)
        raise RunDirectoryError(f"{folder}: product={chosen}: not trained. Allowed: {known}")
    evaluation: Evaluation = getattr(result.products[chosen], which)
    config = parse_run(dict(result.config))
    model = build_model(config.model, config.dataset, config.seed)
    weights = verified(folder, weights_name(chosen, which), result.files)
    model.load_state_dict(load_tensors(weights))
    certificate = evaluation.certificate
    requested = config.sparsity if chosen == "sparse" else 0.0
    problems = objections(
        certificate.model_dump() if certificate else None, requested, result.prunable_weights
    )
    if problems:
        raise RunDirectoryError(f"{folder}: its certificate does not hold: {'; '.join(problems)}")
    exempt = certificate.exempt if certificate else ()
    masks = {
        name: weight.detach() != 0
        for name, weight in prunable_weights(model).items()
        if chosen == "sparse" and name not in exempt
    }
    return Trained(model.eval(), masks, evaluation, config)
