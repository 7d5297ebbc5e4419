"""The model card of a finished run: what its models are, in Markdown."""

from __future__ import annotations

import yaml
from tabulate import tabulate

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.metrics import Metric
from acdc.run.model_store import weights_name
from acdc.run.result import Certificate, Evaluation, FinishedResult

CARD = "card.md"


def card(config: RunConfig, result: FinishedResult) -> str:
    """Return the card of a run's models: data, method, scores, FLOPs, and sparsity by layer."""
    spec, method = DATASETS[config.dataset], config.method_class
    models = {
        weights_name(product, which): evaluation
        for product, pair in result.products.items()
        for which, evaluation in (("last", pair.last), ("best", pair.best))
    }
    scores = [
        _scores(file, evaluation, spec.metric, result.flops.dense_inference)
        for file, evaluation in models.items()
    ]
    main = result.products[result.primary].last.certificate
    training = result.flops.training / result.flops.dense_training
    recipe = yaml.safe_dump(config.plain()["recipe"], sort_keys=False).strip()
    text = f"""\
# {config.model}, {method.label}, {100 * config.sparsity:.4g} % sparse

- **Network**: {config.model}, {result.prunable_weights:,} prunable weights
- **Data**: {spec.title}
- **Method**: {method.label} ({method.source})
- **Training**: {config.epochs} epochs, seed {config.seed}, {training:.3f} of dense training's FLOPs
- **Scores**: of this one training (n = 1). The study's tables have the deviation over seeds.
- **Licence**: of the code, MIT. The data have a licence of their own.

Load a model with `acdc.run.load.load(folder)`. The files hold the network's parameters and buffers
by name, for `load_state_dict`.

## Models

{_table(scores, ["file", "epoch", "validation", "test", "zeros (%)", "inference FLOPs"])}

Inference FLOPs are those of one sample, relative to the dense network's. *Best* is by validation
score, within the product.
"""
    if main is not None:
        text += f"\n## Layers of {weights_name(result.primary, 'last')}\n\n{_layers(main)}\n"
    return f"{text}\n## Recipe\n\n```yaml\n{recipe}\n```\n"


def _scores(file: str, found: Evaluation, metric: Metric, dense: int) -> list[str]:
    certificate = found.certificate
    return [
        *(f"`{file}`", str(found.epoch + 1)),
        metric.shown(found.val_accuracy, found.val_loss),
        metric.shown(found.test_accuracy, found.test_loss),
        "" if certificate is None else f"{100 * certificate.achieved:.2f}",
        f"{found.inference_flops / dense:.3f}",
    ]


def _layers(certificate: Certificate) -> str:
    rows = [
        [f"`{layer.name}`", layer.weights, layer.nonzeros, f"{100 - 100 * density:.2f}"]
        for layer in certificate.layers
        for density in [layer.nonzeros / layer.weights]
    ]
    return _table(rows, ["layer", "weights", "non-zeros", "zeros (%)"])


def _table(rows: list[list[str]] | list[list[object]], headings: list[str]) -> str:
    right = ["left", *["right"] * (len(headings) - 1)]
    return str(tabulate(rows, headings, tablefmt="pipe", disable_numparse=True, colalign=right))
