"""What a sparse method's step costs over a dense one, measured side by side in one process.

    python -m benchmarks.step_cost [--model resnet50] [--batch 32] [--rounds 5] [--json FILE]

Every method has its own copy of the network. A round takes one step of each in turn, so that what
else the machine does falls on all alike. Forward and backward pass and the optimizer's step are the
same code for all of them; beside whole steps, the method's own hooks are therefore timed apart, and
their share of a dense step is the figure to trust on a noisy machine. Updates of masks are spread
over the published interval.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from acdc.config.run import parse_run
from acdc.methods.contract import Context, SparseMethod
from acdc.methods.rewiring import Rewiring
from acdc.models import MODELS
from acdc.sparsity.layers import prunable_layers, prunable_weights
from acdc.step import Step
from acdc.training.optimizers import build_optimizer
from benchmarks.common import circumstances, json_option, median_ratio, report, waiting_clock

EPOCHS, BATCHES = 100, 5004  # ImageNet at batch 256


@dataclass
class Subject:
    """A method on its own network, and two steps of it: an ordinary one and one that updates masks.

    Intervals are set so short that both can be had at once, and the costs spread over the published
    one.
    """

    label: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    update: int | None = None
    """An iteration that updates masks; the one after it does not."""
    interval: int = 1
    """Steps from one update to the next, as published."""
    times: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))

    def build(self, model: str, device: torch.device) -> None:
        """Make network, optimizer and method."""
        config = parse_run(
            {
                "model": model,
                "dataset": "fashion_mnist",  # only named: the images are random
                "method": self.method,
                "settings": self.settings,
                "sparsity": 0.0 if self.method == "dense" else 0.9,
                "epochs": EPOCHS,
            }
        )
        torch.manual_seed(1)
        self.model = MODELS[model](3, 1000).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.model, config.recipe)
        plan = replace(config.plan, layers=prunable_layers(self.model), batches_per_epoch=BATCHES)
        self.this: SparseMethod[Any] = config.method_class(plan)
        self.this.setup(Context(prunable_weights(self.model), self.optimizer, no_gradients))

    def round(self, inputs: Tensor, labels: Tensor) -> None:
        """Take both steps and note what they cost."""
        if self.update is not None:
            self.step("update", self.update, inputs, labels)
        self.step("ordinary", (self.update or 0) + 1, inputs, labels)

    def step(self, kind: str, iteration: int, inputs: Tensor, labels: Tensor) -> None:
        """Take one step; note the seconds of the whole and of the method's hooks."""
        step = Step(*divmod(iteration, BATCHES), BATCHES)
        clock = waiting_clock(inputs.device)
        self.optimizer.zero_grad(set_to_none=True)
        start = clock()
        if step.batch == 0:
            self.this.epoch_start(step)
        begun = clock()
        nn.functional.cross_entropy(self.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        ready = clock()
        stepped = self.this.before_step(step)
        before = clock()
        if stepped:
            self.optimizer.step()
        done = clock()
        self.this.after_step(step)
        end = clock()
        self.times[f"{kind} step"].append(end - start)
        self.times[f"{kind} hooks"].append((begun - start) + (before - ready) + (end - done))

    def best(self, what: str) -> float:
        """Return the shortest time of a kind, 0 where there is none."""
        return min(self.times[what], default=0.0)

    def share(self, dense_step: float) -> float:
        """Return the hooks' time by step, updates spread over their interval, of a dense step."""
        ordinary = self.best("ordinary hooks")
        more = max(self.best("update hooks") - ordinary, 0.0) if self.update is not None else 0.0
        return (ordinary + more / self.interval) / dense_step


# Update intervals: AC/DC prunes once in ten epochs; GMP every 2,000 steps (Gale et al. 2019); RigL
# and SET every 100; Top-KAST's sets may be refreshed every 100 steps as well as every one.
SUBJECTS = (
    Subject("Dense", "dense"),
    Subject("AC/DC", "acdc", update=10 * BATCHES, interval=10 * BATCHES),
    Subject("GMP", "gmp", update=3 * EPOCHS * BATCHES // 4 - 1, interval=2000),
    Subject("RigL", "rigl", {"update_interval": 1 / (EPOCHS * BATCHES)}, update=0, interval=100),
    Subject(
        "SET",
        "set",
        {"update_interval": 2 / (EPOCHS * BATCHES), "end": 1.0},
        update=1,
        interval=100,
    ),
    Subject("Top-KAST", "top_kast", {"refresh_interval": 2}, update=1, interval=100),
    Subject("Top-KAST, every step", "top_kast", {"refresh_interval": 2}, update=1, interval=1),
)


def no_gradients(*_arguments: object, **_options: object) -> Iterator[dict[str, Tensor]]:
    """Refuse: no method that is timed here asks for gradients outside of training."""
    raise RuntimeError("a method asks for gradients outside of training; it cannot be timed here")


@click.command()
@click.option("--model", default="resnet50", show_default=True)
@click.option("--batch", default=32, show_default=True, help="Images a step.")
@click.option("--size", default=224, show_default=True, help="Height and width of the images.")
@click.option("--rounds", default=4, show_default=True, help="After one that warms up.")
@click.option("--device", default="cpu", show_default=True)
@json_option
def main(model: str, batch: int, size: int, rounds: int, device: str, file: Path | None) -> None:
    """Measure what sparse methods add to a step of dense training."""
    where = torch.device(device)
    around = circumstances(where)
    inputs = torch.randn(batch, 3, size, size, device=where)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=where) % 1000
    Rewiring.least_interval = 1
    for subject in SUBJECTS:
        subject.build(model, where)
    for number in range(rounds + 1):
        for subject in SUBJECTS:
            subject.round(inputs, labels)
            if number == 0:
                subject.times.clear()
    dense = SUBJECTS[0]
    step = dense.best("ordinary step")
    rows = [
        {
            "method": subject.label,
            "interval": subject.interval,
            "hooks_ms": 1e3 * subject.best("ordinary hooks"),
            "update_ms": 1e3 * subject.best("update hooks"),
            "share": subject.share(step),
            "whole_step_ratio": median_ratio(
                subject.times["ordinary step"], dense.times["ordinary step"]
            ),
        }
        for subject in SUBJECTS
    ]
    columns = "method hooks_ms:.1f update_ms:.1f interval:d share:.2% whole_step_ratio:.3f"
    setting = {"model": model, "batch": batch, "size": size, "rounds": rounds}
    report(rows, columns, file, **setting, **around, dense_step_ms=1e3 * step)


if __name__ == "__main__":
    main()
