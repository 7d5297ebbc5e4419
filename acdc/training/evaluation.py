"""What a trained network is worth: its score on a split, and how much of it is dead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from acdc.data.loader import EVALUATION_BATCH, Loader, Relabelled, Split
from acdc.distributed import Ranks


@dataclass(frozen=True)
class Score:
    """What a model is worth over one split."""

    accuracy: float | None
    """The fraction of right predictions; None where they are not counted."""
    loss: float
    """Mean cross entropy, of an image or a token."""

    def record(self, split: str) -> dict[str, float]:
        """Return its fields by the names that journals and results have for a split."""
        accuracy = {} if self.accuracy is None else {f"{split}_accuracy": self.accuracy}
        return {f"{split}_loss": self.loss, **accuracy}

    @property
    def finite(self) -> bool:
        """Whether the loss is a number."""
        return math.isfinite(self.loss)


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, split: Split, ranks: Ranks) -> Score:
    """Return the score of a model over a split, in evaluation mode and single precision.

    The ranks share the images; each is counted once, and the score is the same on all of them.
    """
    model.eval()
    device = next(model.parameters()).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for inputs, labels in loader.evaluation(split):
        outputs = model(inputs)
        loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").double()
        correct += (outputs.argmax(dim=1) == labels).sum()
    ranks.sum([correct, loss])
    images = loader.sizes[split]
    return Score(int(correct) / images, float(loss) / images)


@torch.inference_mode()
def evaluate_relabelled(
    model: nn.Module, loader: Loader, relabelled: Relabelled, ranks: Ranks
) -> dict[str, float]:
    """Return how far a model has memorized the random labels of training images.

    In evaluation mode, without augmentation; the ranks share the images.

    Returns:
        ``relabelled_given_accuracy``, the fraction classified as the label that they were given,
        and ``relabelled_true_accuracy``, that classified as their own. One image in as many as
        there are classes was given its own label by chance; ``changed_given_accuracy`` and
        ``changed_true_accuracy`` are those of the others.
    """
    model.eval()
    device = next(model.parameters()).device
    own, changed = relabelled.true_labels.to(device), relabelled.changed.to(device)
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    mine = ranks.slice(len(relabelled))
    for start in range(mine.start, mine.stop, EVALUATION_BATCH):
        part = slice(start, min(start + EVALUATION_BATCH, mine.stop))
        inputs, labels = loader.samples(relabelled.numbers[part])
        predicted = model(inputs).argmax(dim=1)
        right = predicted == labels, predicted == own[part]
        each = (*right, *(correct & changed[part] for correct in right))
        counts += torch.stack([correct.sum() for correct in each])
    ranks.sum([counts])
    given, true, changed_given, changed_true = counts.tolist()
    others = max(int(changed.sum()), 1)
    return {
        "relabelled_given_accuracy": given / len(relabelled),
        "relabelled_true_accuracy": true / len(relabelled),
        "changed_given_accuracy": changed_given / others,
        "changed_true_accuracy": changed_true / others,
    }


def dead_filters(weights: dict[str, nn.Parameter]) -> int:
    """Return how many output filters or neurons have no weight left."""
    alive = [weight.detach().flatten(1).ne(0).any(dim=1) for weight in weights.values()]
    return int(torch.stack([(~layer).sum() for layer in alive]).sum())
