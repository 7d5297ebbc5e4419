"""AC/DC: training that alternates compressed (sparse) and decompressed (dense) phases.

Peste, Iofinova, Vladu and Alistarh, NeurIPS 2021, Algorithm 1 and Section 3.2; order of operations
after the released code (IST-DASLab/ACDC: policies/pruners.py, recyclers.py, manager.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from acdc.frozen import added
from acdc.messages import config_error
from acdc.methods.contract import Context, Densities, Deviation, Product, SparseMethod
from acdc.methods.optimizer import reset_momentum
from acdc.methods.phases import PUBLISHED_SCHEDULES, Phase, PhaseKind, check_phases, rescale
from acdc.methods.plan import Plan
from acdc.methods.settings import ScopedSettings
from acdc.sparsity.apply import apply_masks
from acdc.sparsity.flops import LayerCost, forward_flops
from acdc.sparsity.layers import embeddings
from acdc.sparsity.masks import Masks, count_nonzeros, mask_change
from acdc.sparsity.patterns import Grouping, check_pattern, parse_pattern, pattern_masks
from acdc.sparsity.released import released_masks
from acdc.sparsity.selection import Scope, magnitude_masks
from acdc.step import Step


class Settings(ScopedSettings):
    """When AC/DC prunes and restores, what it ranks, and what happens to the momentum."""

    schedule: str | None = "imagenet-100"
    """A published schedule, its phases scaled to the run's epochs; null with explicit phases."""
    phases: tuple[tuple[PhaseKind, int, int], ...] = ()
    """Explicit phases, each (dense or sparse, first epoch, epoch after the last)."""
    distribution: Scope = "global"
    """Rank the weights of all layers together, or give every layer the same sparsity."""
    pattern: str | None = None
    """N:M, such as 2:4: at most N weights of every M neighbours, instead of a distribution."""
    grouping: Grouping = "input"
    """N:M groups along the input channels only, or running on as in the released code (flat)."""
    reset_momentum: bool = True
    """Reset the momentum, and what else an optimizer averages, when a dense phase begins after a
    sparse one."""
    selection: Literal["exact", "released"] = "exact"
    """Keep the exact number of weights, or one fewer and no ties as the released code does."""

    embedding_sparsity: float = added(0.0, ge=0, lt=1)
    """Fraction of the embeddings that sparse phases prune, ranked apart from the other weights, on
    which alone the sparsity counts. A table that the softmax shares is pruned for both."""

    @model_validator(mode="after")
    def _one_schedule(self) -> Settings:
        if self.schedule is not None and self.schedule not in PUBLISHED_SCHEDULES:
            raise config_error(
                "settings.schedule", self.schedule, "unknown", [*PUBLISHED_SCHEDULES, "null"]
            )
        if (self.schedule is None) == (not self.phases):
            given = "both a schedule and phases" if self.phases else "neither schedule nor phases"
            raise config_error(
                "settings.phases", None, given, "a schedule, or phases with schedule: null"
            )
        if self.pattern is not None:
            parse_pattern(self.pattern)
            if self.distribution != "global" or self.selection != "exact":
                raise config_error(
                    "settings.pattern",
                    self.pattern,
                    "does not combine with a distribution or selection: the pattern is both",
                    "the defaults of settings.distribution and settings.selection",
                )
        elif self.grouping != "input":
            raise config_error(
                "settings.grouping", self.grouping, "there are no groups", "with settings.pattern"
            )
        return self

    def resolve(self, epochs: int) -> tuple[Phase, ...]:
        """Return the phases of a run of ``epochs`` epochs.

        Raises:
            ConfigError: the phases leave gaps, overlap, do not end sparse or would vanish.
        """
        if self.schedule is not None:
            return rescale(PUBLISHED_SCHEDULES[self.schedule].phases(), epochs)
        phases = tuple(Phase(*phase) for phase in self.phases)
        check_phases(phases, epochs)
        return phases


def released_flops(costs: tuple[LayerCost, ...], densities: Densities) -> float:
    """Return what the released code logs for a step: three forward passes, dense phases too."""
    return 3 * forward_flops(costs, densities.forward)


class ACDC(SparseMethod[Settings]):
    """Alternates training of the k largest weights with training of all; yields two models.

    The sparse model is that of the last sparse phase, the dense one that of the last dense phase.
    """

    name = "acdc"
    label = "AC/DC"
    source = (
        "Peste, Iofinova, Vladu, Alistarh: AC/DC: Alternating Compressed/DeCompressed Training of "
        "Deep Neural Networks. NeurIPS 2021. Code: IST-DASLab/ACDC at ac53210."
    )
    deviations = (
        Deviation(
            original="keeps the weights strictly above the k-th largest: k - 1, and no ties",
            ours="keeps exactly k, ties to the lower index (selection: released restores theirs)",
            why="the requested sparsity is then the sparsity of the model, whatever the ties",
        ),
        Deviation(
            original="the momentum reset skips parameters without gradient, so that under "
            "torch 2 and later it does nothing",
            ours="resets every momentum buffer before the first step of a dense phase",
            why="it is what the paper describes and what its runs, under torch 1.7, did",
        ),
    )
    products = ("sparse", "dense")
    resumable = frozenset({"dense"})
    flops_formula = "3 f at each epoch's end, in both phases (policies/manager.py)"

    @classmethod
    def check(cls, plan: Plan[Settings]) -> None:
        super().check(plan)
        settings = plan.settings
        settings.resolve(plan.epochs)
        if settings.pattern is not None:
            exempt = settings.exempt(plan.layers)
            check_pattern(plan.layers, exempt, settings.pattern, settings.grouping, plan.sparsity)
        if settings.embedding_sparsity and not embeddings(plan.layers):
            key, problem = "settings.embedding_sparsity", "the model has no embeddings"
            raise config_error(key, settings.embedding_sparsity, problem, "0")

    def setup(self, context: Context) -> None:
        super().setup(context)
        self.phases = self.settings.resolve(self.plan.epochs)
        self.previous: Masks = {}

    def epoch_start(self, step: Step) -> None:
        for index, phase in enumerate(self.phases):
            if phase.start == step.epoch:
                if phase.kind == "sparse":
                    self._compress()
                elif index > 0 and self.phases[index - 1].kind == "sparse":
                    self._decompress()

    def _compress(self) -> None:
        self.masks = self._select()
        apply_masks(self.weights, self.masks)
        change = mask_change(self.previous, self.masks) if self.previous else None
        self.events.add("prune", nonzeros=count_nonzeros(self.masks), mask_change=change)
        self.previous = self.masks

    def _select(self) -> Masks:
        apart = {name: self.weights[name] for name in embeddings(self.plan.layers)}
        share = self.settings.embedding_sparsity
        return self._select_ranked() | (magnitude_masks(apart, share, "global") if share else {})

    def _select_ranked(self) -> Masks:
        if self.settings.pattern is not None:
            return pattern_masks(self.ranked, *parse_pattern(self.settings.pattern))
        select = released_masks if self.settings.selection == "released" else magnitude_masks
        return select(self.ranked, self.sparsity, self.settings.distribution)

    def _decompress(self) -> None:
        # The pruned weights are zero already; lifting the masks lets them learn from there.
        self.masks = {}
        if self.settings.reset_momentum:
            reset_momentum(self.optimizer)
        self.events.add("restore", momentum_reset=self.settings.reset_momentum)

    def published_flops(self, costs: tuple[LayerCost, ...]) -> float:
        return released_flops(costs, self.densities())

    def product(self, step: Step) -> Product | None:
        return "sparse" if self.masks else "dense"

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"previous": self.previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.previous = dict(state["previous"])
