"""What several test modules share: golden vectors, a tiny network, and a training loop to drive."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from torch import Tensor, nn

from acdc.config.run import RunConfig, parse_run
from acdc.files import finite
from acdc.methods.contract import Context, SparseMethod
from acdc.methods.registry import method_names
from acdc.models import build_model
from acdc.run.lifecycle import Options, run
from acdc.run.progress import Reporter
from acdc.run.reader import read_lines
from acdc.run.result import Result
from acdc.sparsity.flops import LayerCost
from acdc.sparsity.layers import prunable_layers, prunable_weights
from acdc.step import Step
from acdc.training.optimizers import build_optimizer, clip_gradients
from conformance.vectors import hashval

GOLDEN = Path(__file__).parents[1] / "conformance" / "golden"

METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "acdc": {"schedule": None, "phases": [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3],
                                          ["sparse", 3, 4]]},
    "acdc_dense": {"schedule": None, "phases": [["dense", 0, 1], ["sparse", 1, 2],
                                                ["dense", 2, 3], ["sparse", 3, 4]]},
    "dpf": {"update_interval": 0.15},
    "dsd": {"sparse_begin": 0.5, "sparse_end": 0.75},
    "gmp": {"begin": 0.25, "end": 0.75, "updates": 4},
    "rigl": {"update_interval": 0.15},
    "set": {"update_interval": 0.15},
    "snfs": {"update_interval": 0.15},
    "snip": {"images": 63},  # an odd number, which two ranks share unequally
    "sr_ste": {"pattern": "1:4"},
    "static": {"distribution": "erk"},
    "str": {"s_init": -2.56, "st_decay": 0.0},
    "top_kast": {"backward_sparsity": 0.5, "refresh_interval": 2, "explore_until": 0.75},
    "woodfisher": {"begin": 0.25, "end": 0.75, "updates": 2, "fisher_batches": 4,
                   "fisher_batch_size": 50, "block_size": 200, "lr_factor": 0.2},
}  # fmt: skip
"""Settings with which a method does all that it can do within four epochs of few batches.

Other methods are tested with their defaults."""

METHODS = method_names()

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "lamb": {"optimizer": "lamb", "lr": 0.05, "weight_decay": 0.1, "clip_norm": 0.5},
}
"""Recipes with optimizers other than SGD."""


def tiny_text(method: str, **changes: Any) -> RunConfig:
    """Return a two-epoch run on the smallest text; ``changes`` override its keys."""
    settings = {"acdc": {"schedule": None, "phases": (("dense", 0, 1), ("sparse", 1, 2))}}
    base = {
        "model": "transformer_xl_l2_w64",
        "dataset": "kjv_tiny",
        "method": method,
        "settings": settings.get(method, {}),
        "sparsity": 0.0 if method == "dense" else 0.8,
        "epochs": 2,
        "recipe": {
            "optimizer": "lamb", "lr": 0.02, "weight_decay": 0.0, "lr_schedule": "cosine_by_step",
            "clip_norm": 0.25, "batch_size": 64, "segment": 24, "memory": 32
        },
    }  # fmt: skip
    return parse_run(base | changes)


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def tiny_config(method: str, **changes: Any) -> RunConfig:
    """Return a four-epoch run on the digits; ``changes`` override its keys, ``recipe`` in part."""
    recipe = {"batch_size": 256, "lr": 0.2, "augmentation": "shift"} | changes.pop("recipe", {})
    base = {
        "model": "resnet8_s2", "dataset": "digits", "method": method,
        "settings": METHOD_SETTINGS.get(method, {}), "sparsity": 0.0 if method == "dense" else 0.75,
        "epochs": 4, "recipe": recipe}  # fmt: skip
    return parse_run(base | changes)


def network_of(config: RunConfig) -> nn.Module:
    return build_model(config.model, config.dataset, config.seed)


class TinyNet(nn.Module):
    """A convolution with bias, normalisation and two linear layers: 90 prunable weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.hidden = nn.Linear(8, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))


@dataclass(frozen=True)
class Before:
    """Copies from before a step, when its gradients are there and no hook has been called."""

    step: Step
    weights: dict[str, Tensor]
    stored: dict[str, Tensor]
    masks: dict[str, Tensor]
    momentum: dict[str, Tensor]
    """Zeros before the first step."""
    gradients: dict[str, Tensor]


class Drive:
    """Calls a method's hooks on a tiny network in the order in which the training loop does."""

    def __init__(self, config: RunConfig, batches: int = 5, model: nn.Module | None = None) -> None:
        torch.manual_seed(config.seed)
        self.model = model if model is not None else TinyNet()
        self.config = config
        self.batches = batches
        self.weights = prunable_weights(self.model)
        self.optimizer = build_optimizer(self.model, config.recipe)
        layers = prunable_layers(self.model)
        self.plan = replace(config.plan, layers=layers, batches_per_epoch=batches)
        self.method: SparseMethod[Any] = config.method_class(self.plan)
        self.method.setup(Context(self.weights, self.optimizer, self.gradients))
        self.stepped: list[bool] = []
        self.losses: list[float] = []

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        labels = torch.tensor([(7 * i + iteration) % 4 for i in range(8)])
        return hashval((8, 1, 2, 2), 500 + iteration), labels

    def gradients(
        self, batches: int, size: int, *position: int, training: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the gradients of batches that training does not see; see GradientSource."""
        was_training = self.model.training
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        self.model.train(training)
        for batch in range(batches):
            loss = self.loss(1000 * (1 + sum(position)) + batch)
            found = torch.autograd.grad(loss, list(self.weights.values()))
            yield dict(zip(self.weights, found, strict=True))
        self.model.train(was_training)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def loss(self, iteration: int) -> Tensor:
        """Return the training loss of a batch at the current, effective weights."""
        inputs, labels = self.batch(iteration)
        return nn.functional.cross_entropy(self.model(inputs), labels)

    def effective(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def momentum(self) -> dict[str, Tensor]:
        return {
            name: self.optimizer.state[weight]["momentum_buffer"].detach().clone()
            for name, weight in self.weights.items()
        }

    def walk(self) -> Iterator[Before]:
        """Train all iterations; yield after each what was there before it."""
        for iteration in range(self.config.epochs * self.batches):
            found: list[Before] = []
            self.run(
                before_step=lambda step, found=found: found.append(self._before(step)),
                first=iteration,
                until=iteration + 1,
            )
            yield found[0]

    def _before(self, step: Step) -> Before:
        started = "momentum_buffer" in self.optimizer.state.get(self.weights["out.weight"], {})
        return Before(
            step,
            self.effective(),
            {name: weight.clone() for name, weight in stored_weights(self).items()},
            dict(self.method.masks),
            self.momentum()
            if started
            else {n: torch.zeros_like(w) for n, w in self.weights.items()},
            {name: weight.grad.clone() for name, weight in self.weights.items()},
        )

    def run(
        self,
        after_step: Callable[[Step], None] = lambda step: None,
        *,
        before_step: Callable[[Step], None] = lambda step: None,
        at_epoch: Callable[[Step], None] = lambda step: None,
        first: int = 0,
        until: int | None = None,
    ) -> Self:
        """Train the iterations ``first`` to ``until`` (half-open), by default all.

        The callbacks look on after the hooks (``before_step``: before it).
        """
        last = self.config.epochs * self.batches if until is None else until
        for iteration in range(first, last):
            step = Step(*divmod(iteration, self.batches), self.batches)
            if step.batch == 0:
                self.method.epoch_start(step)
                at_epoch(step)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.method.learning_rate(step, self.config.recipe.lr)
            loss = self.loss(iteration)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            before_step(step)
            stepped = self.method.before_step(step)
            if stepped:
                clip_gradients(self.optimizer, self.config.recipe.clip_norm)
                self.optimizer.step()
            self.method.after_step(step)
            self.stepped.append(stepped)
            self.losses.append(loss.item())
            after_step(step)
        return self


def stored_weights(drive: Drive) -> dict[str, Tensor]:
    """Return the stored weights: the effective ones and what a method has parked."""
    parked, nothing = drive.method.stored.parked, torch.zeros(())
    return {n: w.detach() + parked.get(n, nothing) for n, w in drive.weights.items()}


def nonzeros(tensors: Mapping[str, Tensor]) -> int:
    return sum(int((tensor != 0).sum()) for tensor in tensors.values())


def brute_force_top_k(scores: dict[str, Tensor], k: int) -> dict[str, list[bool]]:
    """Sort (score descending, layer, index) in plain Python and keep the first k, as flat masks."""
    entries = [
        (-value, layer, index)
        for layer, score in enumerate(scores.values())
        for index, value in enumerate(score.double().reshape(-1).tolist())
    ]
    kept = {(layer, index) for _, layer, index in sorted(entries)[:k]}
    return {
        name: [(layer, index) in kept for index in range(score.numel())]
        for layer, (name, score) in enumerate(scores.items())
    }


def costs_of(drive: Drive) -> tuple[LayerCost, ...]:
    return tuple(LayerCost(n, w.numel(), 2 * w.numel()) for n, w in drive.weights.items())


class Silent(Reporter):
    """A Reporter that records its calls and shows nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.epochs: list[int] = []

    def start(self, config: RunConfig, first: Step) -> None:
        self.first = first

    def epoch(self, record: dict[str, Any]) -> None:
        self.epochs.append(record["epoch"])

    def say(self, text: str) -> None:
        self.said.append(text)


class At(Silent):
    """Acts once at each of some steps, by their number in the run, or after some epochs."""

    def __init__(
        self, act: Callable[[], object], *, steps: Iterable[int] = (), epochs: Iterable[int] = ()
    ) -> None:
        super().__init__()
        self.act, self.steps, self.after = act, set(steps), set(epochs)

    def start(self, config: RunConfig, first: Step) -> None:
        super().start(config, first)
        self.iteration = first.iteration

    def step(self) -> None:
        if self.iteration in self.steps:
            self.steps.remove(self.iteration)
            self.act()
        self.iteration += 1

    def epoch(self, record: dict[str, Any]) -> None:
        super().epoch(record)
        if record["epoch"] in self.after:
            self.after.remove(record["epoch"])
            self.act()


def interrupt() -> None:
    raise KeyboardInterrupt


def train_broken(config: RunConfig, runs: Path, reporter: Silent) -> None:
    """Train until the reporter interrupts, with a checkpoint after each step."""
    with pytest.raises(KeyboardInterrupt):
        run(config, Options(runs, checkpoint_interval_s=0), reporter)


def without_timings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result or a journal record less what an interruption may change."""
    return {k: v for k, v in result.items() if k not in ("timings", "time", "train_s")}


def journal(folder: Path) -> list[dict[str, Any]]:
    records = map(without_timings, read_lines(folder / "journal.jsonl").lines)
    return [record for record in records if record.get("event") != "resume"]


def epochs(folder: Path) -> list[int]:
    return [record["epoch"] for record in read_lines(folder / "journal.jsonl").epochs]


def resumptions(folder: Path) -> list[tuple[int, int]]:
    events = read_lines(folder / "journal.jsonl").events
    return [(e["epoch"], e["batch"]) for e in events if e["event"] == "resume"]


def epoch_line(epoch: int, **more: Any) -> dict[str, Any]:
    """Return a journal's record of an epoch, made up."""
    rates = dict.fromkeys(("sparsity", "train_accuracy", "val_accuracy", "learning_rate"), 0.5)
    costs = dict.fromkeys(("forward_flops", "train_flops", "train_flops_published"), 1.0)
    losses = {"train_loss": 1.0, "val_loss": 1.0}
    about = {"phase": "dense", "product": None, "nonzeros": {}, "train_s": 0.0, "time": 0.0}
    return {"epoch": epoch, **rates, **costs, **losses, **about, **more}


def weight_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def train(
    config: RunConfig, runs: Path, reporter: Silent | None = None, wait_s: float = 0.0
) -> dict[str, Any]:
    """Train with a checkpoint after every epoch; return the result as plain data."""
    options = Options(runs, checkpoint_share=math.inf, wait_s=wait_s)
    return plain(run(config, options, reporter or Silent()))


def plain(result: Result) -> dict[str, Any]:
    return dict(json.loads(json.dumps(finite(result.model_dump(by_alias=True)))))


Uninterrupted = Callable[[RunConfig], tuple[Path, dict[str, Any]]]
"""The type of the fixture of that name."""


def assert_same_run(
    folder: Path, result: Result | dict[str, Any], expected: Path, whole: Result | dict[str, Any]
) -> None:
    """Compare everything that two runs wrote, less times."""
    one, other = (r if isinstance(r, dict) else plain(r) for r in (result, whole))
    assert without_timings(one) == without_timings(other)
    assert without_timings(json.loads((folder / "result.json").read_text())) == without_timings(
        json.loads((expected / "result.json").read_text())
    )
    assert journal(folder) == journal(expected)
    assert weight_files(folder) == weight_files(expected)
