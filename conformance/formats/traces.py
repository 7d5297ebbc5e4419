"""Whole training runs of IST-DASLab/ACDC and google-research/rigl, step by step.

The methods run through their own hooks, in the order of the suite's loop.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from acdc.config.recipe import Recipe
from acdc.methods.acdc import ACDC
from acdc.methods.contract import Context, SparseMethod
from acdc.methods.plan import Plan
from acdc.sparsity.layers import prunable_layers, prunable_weights
from acdc.step import Step
from acdc.training.optimizers import build_optimizer
from baselines.rigl import RigL
from conformance.vectors import Case, compare, hashval


class _Run:
    """A network, its optimizer and the method that prunes it."""

    def __init__(
        self,
        kind: type[SparseMethod[Any]],
        model: nn.Module,
        recipe: Mapping[str, Any],
        sparsity: float,
        settings: Mapping[str, Any],
        epochs: int,
        batches: int,
    ) -> None:
        layers, checked = prunable_layers(model), kind.Settings.model_validate(settings)
        plan = Plan(layers, sparsity, checked, epochs, batches, seed=1)
        kind.check(plan)
        self.weights = prunable_weights(model)
        self.optimizer = build_optimizer(model, Recipe(lr_schedule="constant", **recipe))
        self.method = kind(plan)
        self.method.setup(Context(self.weights, self.optimizer, _no_gradients))

    def step(self, step: Step, loss: Callable[[], Tensor]) -> Tensor:
        """Take one step of training and return its loss."""
        if step.batch == 0:
            self.method.epoch_start(step)
        self.optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        if self.method.before_step(step):
            self.optimizer.step()
        self.method.after_step(step)
        return value


def _no_gradients(*_arguments: object, **_options: object) -> Iterator[dict[str, Tensor]]:
    raise ValueError("no gradients outside of training are part of a trace")


def acdc(data: Any) -> Iterator[Case]:
    """Replay AC/DC's training in double precision: 1e-12.

    Under torch 2 the released code's momentum reset does nothing, so that its trace as shipped is
    ours with the option off.
    """
    batches = data["setup"]["steps_per_epoch"]
    for variant, steps in data["trace"].items():
        ours = list(_acdc_records(data["setup"], reset=variant == "reset_effective"))
        iterations = [expected["it"] for expected in steps]
        yield compare(f"{variant}: steps", iterations, range(len(ours)))
        for number, expected in zip(iterations, steps, strict=True):
            for key, value in ours[number].items():
                if key in expected:
                    name = f"{variant}, step {number}: {key}"
                    yield compare(name, value, expected[key], 1e-12)
    for variant, counts in data.get("kept_per_phase", {}).items():
        ours = list(_acdc_records(data["setup"], reset=variant == "reset_effective"))
        last = [record for number, record in enumerate(ours, 1) if number % batches == 0]
        kept = [int(record["a_mask"].sum() + record["b_mask"].sum()) for record in last]
        yield compare(f"{variant}: weights kept by epoch", list(enumerate(kept)), counts)


def _acdc_records(setup: Mapping[str, Any], reset: bool) -> Iterator[dict[str, Any]]:
    """Train, and yield what the original wrote down after each step."""
    sizes = re.findall(r"Linear\((\d+),(\d+)\)", setup["net"])
    linear = [nn.Linear(int(inputs), int(outputs)).double() for inputs, outputs in sizes]
    model = nn.Sequential(linear[0], nn.ReLU(), linear[1])
    first = int(re.findall(r"salts (\d+)", setup["net"])[0])
    with torch.no_grad():
        for salt, parameter in enumerate(model.parameters(), first):
            parameter.copy_(hashval(parameter.shape, salt))
    phases, batches = _phases(setup), setup["steps_per_epoch"]
    by_layer = "per layer" in setup.get("global_threshold", "")
    settings = {
        "schedule": None,
        "phases": phases,
        "selection": "released",
        "distribution": "uniform" if by_layer else "global",
        "reset_momentum": reset,
    }
    optimizer, sparsity = _sgd(setup["optimizer"]), setup["sparsity"]
    run = _Run(ACDC, model, optimizer, sparsity, settings, phases[-1][2], batches)
    size, salt = map(int, re.findall(r"x=hashval\(\((\d+),\d+\),(\d+)\+it\)", setup["batch"])[0])
    factor, classes = map(int, re.findall(r"\((\d+)\*i\+it\)%(\d+)", setup["batch"])[0])
    for number in range(setup["epochs"] * batches):
        inputs = hashval((size, linear[0].in_features), salt + number).double()
        labels = torch.tensor([(factor * i + number) % classes for i in range(size)])
        loss = run.step(
            Step(number // batches, number % batches, batches),
            lambda: nn.functional.cross_entropy(model(inputs), labels),  # noqa: B023
        )
        record: dict[str, Any] = {"loss": loss}
        for key, name in (("a", "0.weight"), ("b", "2.weight")):
            weight = run.weights[name]
            record |= {
                f"{key}_w": weight,
                f"{key}_bias": model.get_parameter(name.replace("weight", "bias")),
                f"{key}_mom": run.optimizer.state[weight]["momentum_buffer"],
                f"{key}_mask": run.method.masks.get(name, torch.ones_like(weight)),
            }
        yield {key: value.detach().clone() for key, value in record.items()}


def _sgd(text: str) -> dict[str, Any]:
    number = r"([\d.]+(?:e-?\d+)?)"
    lr, momentum, decay = re.findall(rf"lr {number} momentum {number} wd {number}", text)[0]
    return {
        "lr": float(lr),
        "momentum": float(momentum),
        "weight_decay": float(decay),
        "nesterov": bool(re.search("(?<!no )nesterov", text)),
    }


def _phases(setup: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    bounds = sorted({0, *setup["prune_epochs"], *setup["restore_epochs"], setup["epochs"]})
    phases = [
        ("sparse" if start in setup["prune_epochs"] else "dense", start, end)
        for start, end in itertools.pairwise(bounds)
    ]
    # A run of the suite has to end sparse; the trace ends before this phase begins.
    end = setup["epochs"]
    return phases if phases[-1][0] == "sparse" else [*phases, ("sparse", end, end + 1)]


class _RigL(RigL):
    least_interval = 1


def rigl(data: Any) -> Iterator[Case]:
    """Replay RigL's training in single precision: 1e-6, masks and numbers of steps exact.

    The original's drop fractions are used, since its cosine can be one unit of single precision
    below the rounded one, and with it the number of weights dropped (a deviation of RigL's).
    """
    for name, case in data["cases"].items():
        yield from _rigl(name, case)


def _rigl(name: str, case: Mapping[str, Any]) -> Iterator[Case]:
    inputs, outputs = case["shape"]
    model = nn.Linear(inputs, outputs, bias=False)
    mask = torch.tensor(case["mask0"]).reshape(inputs, outputs).T.bool()
    iterations = max(case["end"], len(case["trace"]))
    settings = {
        "dense_layers": (),
        "begin": case["begin"] / iterations,
        "end": case["end"] / iterations,
        "update_interval": case["frequency"] / iterations,
        "drop_fraction": case["drop_fraction"],
        "anneal": case["anneal"],
        "drop_noise": 0,
    }
    recipe = {key: case[key] for key in ("lr", "momentum", "nesterov")}
    recipe["weight_decay"] = case["l2"]
    run = _Run(_RigL, model, recipe, 1 - mask.float().mean().item(), settings, 1, iterations)
    method = run.method
    assert isinstance(method, _RigL)
    method.stored.restore(run.weights)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(case["w0"]).reshape(inputs, outputs).T)
    method.masks = {"weight": mask}
    method.stored.park(run.weights, method.masks)
    numbers = [expected["iteration"] for expected in case["trace"]]
    yield compare(f"{name}: iterations", range(len(numbers)), numbers)
    salts = [int(re.findall(r",(\d+)\+iteration\)", case[key])[0]) for key in ("x", "t")]
    for number, expected in enumerate(case["trace"]):
        where, fraction = f"{name}, iteration {expected['iteration']}", method.drop_fraction
        yield compare(f"{where}: steps before", method.steps_taken, expected["global_step_before"])
        ours = fraction() if method.due() else 0.0
        theirs = expected["drop_fraction_before"]
        yield compare(f"{where}: drop fraction", ours, theirs, 1e-7)
        before = method.masks["weight"].clone()
        method.drop_fraction = lambda: theirs  # type: ignore[method-assign]  # noqa: B023
        x, t = (
            hashval((case["batch"], size), salt + expected["iteration"])
            for size, salt in zip((inputs, outputs), salts, strict=True)
        )
        step = Step(0, number, iterations)
        run.step(step, lambda: 0.5 * ((model(x) - t) ** 2).sum(1).mean())  # noqa: B023
        method.drop_fraction = fraction  # type: ignore[method-assign]
        after = method.masks["weight"]
        stored = model.weight.detach() + method.stored.parked["weight"]
        slots = run.optimizer.state[model.weight]
        momentum = slots.get("momentum_buffer", torch.zeros_like(stored))
        yield compare(f"{where}: steps after", method.steps_taken, expected["global_step_after"])
        changed = not torch.equal(before, after)
        yield compare(f"{where}: mask changed", changed, expected["mask_changed"])
        yield compare(f"{where}: mask", after.T, expected["mask"])
        yield compare(f"{where}: weights", stored.T, expected["weights"], 1e-6)
        yield compare(f"{where}: momentum", momentum.T, expected["momentum"], 1e-6)
