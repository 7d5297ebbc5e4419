"""``acdc plan``: what a study will cost, table by table, before it is run and while it is."""

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

from acdc.errors import DataError
from acdc.run.results import RESULT, read_result
from study.model import Study, load, rows_of
from workflow.forecast import Storage, forecast
from workflow.speed import PEAKS, UTILISATION, Measured, Speed, work_of


@dataclass(frozen=True)
class Cost:
    """What some runs cost together."""

    runs: int = 0
    training_flops: float = 0.0
    """By the paper's accounting."""
    gpu_hours: float = 0.0
    storage: int = 0
    """Bytes."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.runs + other.runs,
            self.training_flops + other.training_flops,
            self.gpu_hours + other.gpu_hours,
            self.storage + other.storage,
        )


@dataclass(frozen=True)
class Line:
    """One experiment of a plan, or all together."""

    id: str
    title: str
    awaits: str | None
    """What is not there yet that it needs, a sentence."""
    total: Cost
    left: Cost
    """Of the runs without a result."""
    adds: Cost
    """Of the runs that no experiment before it has."""

    @property
    def done(self) -> int:
        """Runs that have ended."""
        return self.total.runs - self.left.runs


@dataclass(frozen=True)
class Plan:
    """What a study costs."""

    lines: tuple[Line, ...]
    total: Line
    runs: dict[str, Cost]
    """Each run's."""
    device: str
    speeds: tuple[str, ...]
    """What the speed of each network was taken from."""
    missing: tuple[str, ...]
    """Data sets that are not there, a sentence each."""


def make_plan(study: Study, results: Path, gpu: str | None = None) -> Plan:
    """Return what a study costs on a GPU, by default on the device that its runs were trained on.

    Args:
        study: at its scale.
        results: the folder of all results.
        gpu: a name of ``PEAKS``.
    """
    measured = Measured.below(results)
    networks = {work_of(run, ""): run for run in study.runs.values()}
    device = measured.usual_device(networks) if gpu is None else measured.device(gpu)
    speed = Speed(measured, device)
    folder = results / study.scale.name / "runs"
    costs = {run: _cost(study, run, speed) for run in study.runs}
    left = {run for run in study.runs if not (folder / run / RESULT).exists()}

    def line(id: str, title: str, awaits: str | None, runs: Iterable[str], new: set[str]) -> Line:
        runs = list(runs)
        return Line(
            id,
            title,
            awaits,
            total=sum((costs[run] for run in runs), Cost()),
            left=sum((costs[run] for run in runs if run in left), Cost()),
            adds=sum((costs[run] for run in runs if run in new), Cost()),
        )

    lines, open_runs = [], set(study.runs)
    for experiment in study.experiments:
        id = experiment["id"]
        runs = study.runs_of(id)
        lines.append(line(id, experiment["title"], _awaits(experiment), runs, open_runs))
        open_runs -= set(runs)
    total = line(study.scale.name, study.scale.title, None, study.runs, set(study.runs))
    speeds = tuple(speed.basis(run) for run in networks.values())
    return Plan(tuple(lines), total, costs, device, speeds, tuple(study.missing_data()))


def _awaits(experiment: dict[str, Any]) -> str | None:
    """Return what an experiment waits for, and how many of its rows cannot be trained before."""
    rows = [row for row in rows_of(experiment) if row["method"]]
    untrained = [row for row in rows if not row["runs"]]
    if experiment["awaits"] and untrained:
        return f"{experiment['awaits']}; {len(untrained)} of {len(rows)} rows have no runs yet"
    return experiment["awaits"]  # type: ignore[no-any-return]


def _cost(study: Study, run: str, speed: Speed) -> Cost:
    config = study.runs[run]
    expected = forecast(config)
    hours = speed.seconds(config, expected) / 3600
    return Cost(1, expected.own_flops, hours, expected.storage.kept)


def closing_lines(study: Study, results: Path, planned: Iterable[str]) -> list[str]:
    """Return what a dry run costs that would train some runs, and the whole study, a line each."""
    plan = make_plan(study, results)
    now = sum((plan.runs[run] for run in planned), Cost())
    total = plan.total
    return [
        f"this would train {now.runs} runs: {spent(now, plan.device)}",
        f"study {total.id}: {total.total.runs} runs in all, {total.done} done, {total.left.runs} "
        f"left: {spent(total.left, plan.device)}",
        f"table by table: {shlex.join(['acdc', 'plan', *study.arguments])}",
    ]


def spent(cost: Cost, device: str) -> str:
    """Return a cost in words."""
    return (
        f"{cost.training_flops:.3g} training FLOPs, {hours(cost.gpu_hours)} on {device}, "
        f"{size(cost.storage)}"
    )


def hours(value: float) -> str:
    """Return hours with three digits that count."""
    return f"{value:,.0f} h" if value >= 100 else f"{value:.3g} h"


def size(count: float) -> str:
    """Return bytes in units of a thousand, such as 1.23 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def show(plan: Plan) -> Iterable[str]:
    """Yield a plan as text, a table and closing lines."""
    lines = (*plan.lines, dataclasses.replace(plan.total, id="total"))
    yield tabulate(
        [
            [
                line.id,
                line.total.runs,
                line.done,
                line.left.runs,
                f"{line.total.training_flops:.3g}",
                hours(line.total.gpu_hours),
                size(line.total.storage),
                line.adds.runs,
                f"{line.adds.training_flops:.3g}",
                hours(line.adds.gpu_hours),
                size(line.adds.storage),
            ]
            for line in lines
        ],
        headers=[
            *("experiment", "runs", "done", "left", "FLOPs", "time", "storage"),
            *("adds: runs", "FLOPs", "time", "storage"),
        ],
        disable_numparse=True,
        colalign=("left", *("right",) * 10),
    )
    yield ""
    yield (
        "FLOPs: training, by the paper's accounting. Time: training on one device, which computes "
        "zeros too,"
    )
    yield "without evaluation. Adds: what no table above it has. Storage: at most, after training."
    yield from plan.speeds
    if any("% of" in text for text in plan.speeds):
        yield (
            f"{100 * UTILISATION:.0f} % is what ResNet50 reaches on an A100 (NVIDIA "
            "DeepLearningExamples); small networks reach less."
        )
    for line in plan.lines:
        if line.awaits:
            yield f"{line.id}: not there yet: {line.awaits}"
    yield from plan.missing
    total = plan.total
    yield (
        f"{total.total.runs} runs, {total.done} done, {total.left.runs} left: "
        f"{spent(total.left, plan.device)}"
    )


def plain(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data."""
    data = dataclasses.asdict(plan)
    del data["runs"]  # thousands, whose sums are there
    for line, values in zip(plan.lines, data["lines"], strict=True):
        values["done"] = line.done
    data["total"]["done"] = plan.total.done
    return data


QUANTITIES = ("training FLOPs", "inference FLOPs", "storage", "time")


def errors(study: Study, results: Path) -> dict[str, dict[str, list[float]]]:
    """Return by how much forecasts miss finished runs, relative, by method and quantity.

    The inference FLOPs are those of each product's last model. Storage counts the best model of a
    product once more only where it is not the last, which a forecast cannot know. The time is
    foretold from the other runs' speed.

    Raises:
        DataError: no run has finished.
    """
    measured = Measured.below(results)
    devices = {run: work for work, rates in measured.rates.items() for run in rates}
    found: dict[str, dict[str, list[float]]] = {}
    for run, config in study.runs.items():
        folder = results / study.scale.name / "runs" / run
        result = read_result(folder)
        if result is None or result["status"] != "finished":
            continue
        expected = forecast(config)
        method = found.setdefault(config.method, {quantity: [] for quantity in QUANTITIES})
        method["training FLOPs"].append(expected.training_flops / result["flops"]["training"] - 1)
        for product, kept in result["products"].items():
            flops = expected.inference_flops[product]
            method["inference FLOPs"].append(flops / kept["last"]["inference_flops"] - 1)
        method["storage"].append(known_models(expected.storage, result).kept / occupied(folder) - 1)
        rate = measured.rate(devices[run], without=run) if run in devices else None
        if rate and expected.images:
            method["time"].append(expected.images / rate / result["timings"]["train_s"] - 1)
    if not found:
        raise DataError(
            f"results folder {results / study.scale.name} holds no finished run of the study; one "
            "or more are needed to check estimates"
        )
    return found


def known_models(storage: Storage, result: dict[str, Any]) -> Storage:
    """Return the storage of a run of which one knows whether its best models are the last."""
    products = result["products"]
    models = {(name, kept["epoch"]) for name, both in products.items() for kept in both.values()}
    return dataclasses.replace(storage, models=len(models))


def occupied(folder: Path) -> int:
    """Return the bytes of the files in a folder, links to one file counted once."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in files}.values())


def show_errors(found: dict[str, dict[str, list[float]]]) -> Iterable[str]:
    """Yield the errors as a table: the median and the worst of each method."""

    def cell(values: list[float]) -> list[str]:
        if not values:
            return ["", ""]
        worst = max(values, key=abs)
        return [f"{100 * value:+.2f} %" for value in (statistics.median(values), worst)]

    yield tabulate(
        [
            [method, len(quantities["training FLOPs"])]
            + [text for quantity in QUANTITIES for text in cell(quantities[quantity])]
            for method, quantities in found.items()
        ],
        headers=["method", "runs", *(h for quantity in QUANTITIES for h in (quantity, "worst"))],
        disable_numparse=True,
        colalign=("left", *("right",) * 9),
    )


@click.command()
@click.option("--scale", default="smoke", show_default=True, help="smoke, quick, small, paper.")
@click.option(
    "--gpu",
    type=click.Choice(sorted(PEAKS)),
    help="Where it is to be trained.  [default: the device of the runs that there are, else a100]",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all results.",
)
@click.option("--seeds", type=click.IntRange(1), help="So many for each row, from 1 on.")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--check", is_flag=True, help="Compare the estimates of finished runs with them.")
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
def plan_command(
    scale: str,
    gpu: str | None,
    results: Path,
    seeds: int | None,
    experiments: str | None,
    check: bool,
    as_json: bool,
) -> None:
    """Say what the study of a scale costs: runs, FLOPs, hours on a GPU, storage.

    Table by table, and what each adds to those before it. Speeds are those measured by finished
    runs, else assumed from the GPU's peak.
    """
    study = load(scale, seeds, experiments)
    if check:
        found = errors(study, results)
        lines = [json.dumps(found)] if as_json else show_errors(found)
    else:
        plan = make_plan(study, results, gpu)
        lines = [json.dumps(plain(plan))] if as_json else show(plan)
    for line in lines:
        click.echo(line)
