"""What a trained network is worth: its score on a split, and how much of it is dead."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from acdc.data.images import Images, ImageSet

_BATCH = 1000


@dataclass(frozen=True)
class Score:
    """Accuracy as a fraction, loss as mean cross entropy, over one split."""

    accuracy: float
    loss: float


@torch.inference_mode()
def evaluate(model: nn.Module, data: ImageSet, images: Images) -> Score:
    """Return the score of a model over a split, in evaluation mode and single precision."""
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=images.labels.device)
    for start in range(0, len(images), _BATCH):
        labels = images.labels[start : start + _BATCH]
        outputs = model(data.normalise(images.pixels[start : start + _BATCH]))
        loss += nn.functional.cross_entropy(outputs, labels, reduction="sum").double()
        correct += (outputs.argmax(dim=1) == labels).sum()
    return Score(int(correct) / len(images), float(loss) / len(images))


def dead_filters(weights: dict[str, nn.Parameter]) -> int:
    """Return how many output filters or neurons have no weight left."""
    alive = [weight.detach().flatten(1).ne(0).any(dim=1) for weight in weights.values()]
    return int(torch.stack([(~layer).sum() for layer in alive]).sum())
