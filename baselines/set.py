"""SET: drop the smallest weights, grow others at random.

Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta, Nature Communications 2018; as restated for RigL's
comparison (google-research/rigl, rigl/sparse_optimizers_base.py, SparseSETOptimizerBase) or as in
the original (dcmocanu/sparse-evolutionary-artificial-neural-networks,
SET-MLP-Keras-Weights-Mask/set_mlp_keras_cifar10.py).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from acdc.messages import config_error
from acdc.methods.contract import Deviation
from acdc.methods.optimizer import reset_momentum
from acdc.methods.rewiring import (
    COSINE,
    DRAWS,
    INTERVAL,
    LAST_LAYER,
    OUTPUTS,
    TIES,
    Rewiring,
    RewiringSettings,
)
from acdc.sparsity.selection import top_k_mask
from acdc.step import Step


class Settings(RewiringSettings):
    """Those of RigL, and whether the original's rewiring takes their place."""

    dialect: Literal["rigl", "original"] = "rigl"
    """RigL's restatement, or the original: by default Erdos-Renyi with a dense last layer; after
    each epoch drops the drop_fraction of the positive and of the negative weights nearest to zero,
    and sets all momentum to zero."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("dialect") == "original":
            return {"distribution": "er", "dense_layers": ("last",), **data}
        return data

    @model_validator(mode="after")
    def _only_what_counts(self) -> Settings:
        if self.dialect == "original":
            for key in ("update_interval", "anneal", "begin", "end", "drop_noise"):
                if getattr(self, key) != Settings.model_fields[key].default:
                    raise config_error(
                        f"settings.{key}",
                        getattr(self, key),
                        "has no effect in the original SET",
                        "settings.dialect=rigl",
                    )
        return self


class SET(Rewiring[Settings]):
    """After the optimizer's step, moves some connections to random places."""

    name = "set"
    label = "SET"
    source = (
        "Mocanu, Mocanu, Stone, Nguyen, Gibescu, Liotta: Scalable Training of Artificial Neural "
        "Networks with Adaptive Sparse Connectivity Inspired by Network Science. Nature "
        "Communications 2018. Code: google-research/rigl at d39fc7d, and "
        "dcmocanu/sparse-evolutionary-artificial-neural-networks at 62ac974."
    )
    deviations = (
        INTERVAL,
        DRAWS,
        TIES,
        COSINE,
        LAST_LAYER,
        OUTPUTS,
        Deviation(
            original="the original draws each weight of the first mask by itself, with a "
            "probability that follows from epsilon = 20",
            ours="the first masks have exact counts, which follow from the sparsity",
            why="every method of a comparison has the requested sparsity",
        ),
        Deviation(
            original="the original also rewires after the last epoch",
            ours="the last epoch is not followed by a rewiring",
            why="its new weights would never be trained",
        ),
    )

    def epoch_start(self, step: Step) -> None:
        if self.settings.dialect == "original" and step.epoch > 0:
            self.rewire_by_sign(step)

    def after_step(self, step: Step) -> None:
        if self.settings.dialect == "rigl" and self.due():
            self.update(step)
        super().after_step(step)

    def growth(self, name: str, generator: torch.Generator) -> Tensor:
        weight = self.ranked[name]
        return torch.rand(weight.shape, generator=generator).to(weight)

    def rewire_by_sign(self, step: Step) -> None:
        """Rewire every layer as the original does; nothing is kept of weights outside the mask."""
        fraction = self.settings.drop_fraction
        grown = 0
        for index, (name, weight) in enumerate(self.ranked.items()):
            generator = self.plan.generator(step.iteration, index)
            mask = self.masks[name]
            core = core_mask(weight.detach(), fraction)
            scores = self.growth(name, generator).masked_fill_(core, -1)
            new = top_k_mask(scores, int(mask.sum()) - int(core.sum()))
            weight.detach().masked_fill_(~core, 0)
            self.stored.parked[name].zero_()
            self.masks[name] = core.logical_or_(new)
            grown += int(new.sum())
        reset_momentum(self.optimizer)
        self.events.add("update", iteration=step.iteration, drop_fraction=fraction, grown=grown)


def core_mask(weight: Tensor, drop_fraction: float) -> Tensor:
    """Return which weights the original SET keeps: those far enough from zero, sign by sign.

    Of n positive weights the int(drop_fraction n) + 1 smallest go, of n negative ones all but the
    int((1 - drop_fraction) n) smallest, and with each threshold its ties
    (set_mlp_keras_cifar10.py, rewireMask).

    Args:
        weight: zero where it is not active.
        drop_fraction: zeta.
    """
    values = weight.flatten().sort().values
    negative = int((weight < 0).sum())
    not_positive = values.numel() - int((weight > 0).sum())
    highest = int(not_positive + drop_fraction * (values.numel() - not_positive))
    smallest_positive = values[min(values.numel() - 1, highest)]
    largest_negative = values[min(values.numel() - 1, int((1 - drop_fraction) * negative))]
    return (weight > smallest_positive) | (weight < largest_negative)
