"""A study: the experiments of the paper at one scale, resolved into runs, tables and figures."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from acdc.config import Frozen, Recipe, RunConfig, explain, parse_run
from acdc.data import DATASETS
from acdc.documents import parse_yaml
from acdc.errors import ConfigError
from acdc.method import Product

FOLDER = Path(__file__).resolve().parent

Kind = Literal["accuracy_table", "flops_accuracy", "schedule_curve", "iht"]


class PaperRow(Frozen):
    """Where the paper's own value for a row stands in its tables."""

    method: str
    variant: str = ""


class Row(Frozen):
    """One line of a table or one series of a figure, at each of the experiment's sparsities."""

    label: str
    """What it is called in the table."""
    method: str
    """Training method."""
    settings: dict[str, Any] = {}
    """Settings of the method that differ from its defaults."""
    product: Product | None = None
    """Which of the method's models; by default its first."""
    extend: float = Field(default=1, gt=0)
    """Times the task's epochs, a whole number of them; all schedules stretch with it (RigL 2x)."""
    sparsities: tuple[float, ...] | None = None
    """Instead of the experiment's; [0] for dense training."""
    paper: PaperRow | None = None
    """The paper's row, where it has one."""


class Experiment(Frozen):
    """A table or a figure of the paper: what is trained, and how it is shown."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the files that come of it."""
    kind: Kind
    """Which module of reports/ makes it."""
    title: str
    """Heading."""
    caption: str
    """What to see."""
    paper_table: str | None = None
    """Number of the paper's table whose values stand beside ours."""
    paper_tables: dict[float, str] = {}
    """The same at single sparsities, where the paper prints them in another table."""
    task: str = ""
    """Model and data set, by the paper's names; a scale says what stands in for them."""
    sparsities: tuple[float, ...] = ()
    """Fractions of zero weights."""
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Seeds of each row."""
    rows: tuple[Row, ...] = ()
    """In the order in which they are shown."""


class Task(Frozen):
    """What is trained at a scale in place of one of the paper's tasks."""

    model: str
    dataset: str
    epochs: int
    recipe: Recipe = Recipe()


class Scale(Frozen):
    """How large a study is: what stands in for each task, and what it leaves out."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the results folder."""
    title: str
    """One line that stands above every table."""
    description: str
    """What is smaller than in the paper."""
    tasks: dict[str, Task]
    """By the paper's task."""
    sparsities: dict[str, tuple[float, ...]] = {}
    """By experiment, instead of its own."""
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Instead of the experiments' own."""
    experiments: tuple[str, ...] | None = None
    """Which experiments are part of it; all by default."""


@dataclass(frozen=True)
class Study:
    """Experiments resolved at a scale."""

    scale: Scale
    experiments: tuple[dict[str, Any], ...]
    runs: dict[str, RunConfig]
    """By run name; a run that several experiments share stands here once."""

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The data sets that the runs need."""
        return sorted({run.dataset for run in self.runs.values()})

    def ids(self, *kinds: Kind) -> list[str]:
        """Return the experiments of some kinds."""
        return [e["id"] for e in self.experiments if e["kind"] in kinds]

    def parent(self, run: str) -> str | None:
        """Return the run that another starts from."""
        start = self.runs[run].starts_from
        return start.config.run_name if start else None

    def plan(self) -> dict[str, Any]:
        """Return all that the reports need to know, as plain data."""
        return {
            "scale": self.scale.model_dump(mode="json", include={"name", "title", "description"}),
            "experiments": list(self.experiments),
            "runs": {name: run.model_dump(mode="json") for name, run in self.runs.items()},
        }

    @property
    def digest(self) -> str:
        """A hash of the plan, by which the workflow knows that it has changed."""
        return hashlib.sha256(json.dumps(self.plan(), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def images(self) -> dict[str, int]:
        """Training images that each run passes over, the measure of its cost."""
        return {
            name: _own_epochs(run) * DATASETS[run.dataset].training_images
            for name, run in self.runs.items()
        }


def read(path: Path, schema: type[Frozen]) -> Any:
    """Return a validated YAML file.

    Raises:
        ConfigError: names the file, the key, the value and what is accepted.
    """
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
        return schema.model_validate(data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, schema)}") from None


def find_scale(name: str) -> Path:
    """Return the file of a scale, by its name or its path.

    Raises:
        ConfigError: no such scale; lists those that there are.
    """
    known = {path.stem: path for path in sorted((FOLDER / "scales").glob("*.yaml"))}
    if name in known:
        return known[name]
    if name.endswith(".yaml") and Path(name).exists():
        return Path(name)
    raise ConfigError(
        f"scale: {name!r} is unknown; {', '.join(known)}, or the path of a YAML file, are accepted"
    )


def load(scale_name: str) -> Study:
    """Return the study of a scale, every run validated.

    Raises:
        ConfigError: names the file, the key, the value and what is accepted.
    """
    scale: Scale = read(find_scale(scale_name), Scale)
    files = {path.stem: path for path in sorted((FOLDER / "experiments").glob("*.yaml"))}
    chosen = scale.experiments if scale.experiments is not None else tuple(files)
    for key, names in (("experiments", chosen), ("sparsities", tuple(scale.sparsities))):
        for name in names:
            if name not in files:
                raise ConfigError(f"{key}: {name!r} is unknown; {', '.join(files)} are accepted")
    for key, values in (("experiments", chosen), ("seeds", scale.seeds or ())):
        if len(set(values)) < len(values):
            raise ConfigError(f"{key}: {list(values)} names one twice; each once is accepted")
    runs: dict[str, RunConfig] = {}
    resolved = []
    for name in chosen:
        resolved.append(_resolve(read(files[name], Experiment), scale, files[name], runs))
    return Study(scale, tuple(resolved), runs)


def _resolve(
    experiment: Experiment, scale: Scale, path: Path, runs: dict[str, RunConfig]
) -> dict[str, Any]:
    """Return one experiment as plain data, and add its runs to those of the study."""
    plain: dict[str, Any] = {
        "id": experiment.id,
        "kind": experiment.kind,
        "title": experiment.title,
        "caption": experiment.caption,
        "paper_table": experiment.paper_table,
        "task": None,
        "rows": [],
    }
    if experiment.kind == "iht":
        return plain
    task = scale.tasks.get(experiment.task)
    if task is None:
        raise ConfigError(
            f"{path}: task: scale {scale.name} has nothing for {experiment.task!r}; "
            f"{', '.join(scale.tasks)} are accepted"
        )
    plain["task"] = {"name": experiment.task, **task.model_dump(include={"model", "dataset"})}
    plain["task"]["epochs"] = task.epochs
    sparsities = scale.sparsities.get(experiment.id, experiment.sparsities)
    if not experiment.rows or not (sparsities or all(row.sparsities for row in experiment.rows)):
        raise ConfigError(
            f"{path}: rows: without rows and sparsities there is nothing to show; one or more of "
            "each are accepted"
        )
    seeds = scale.seeds or experiment.seeds
    rows = [(row, s) for row in experiment.rows if row.sparsities for s in row.sparsities]
    rows += [(row, s) for s in sparsities for row in experiment.rows if not row.sparsities]
    for row, sparsity in rows:
        where = f"{path} at scale {scale.name}, row {row.label!r}"
        epochs = _epochs(row.extend, task.epochs, where)
        configs = []
        for seed in seeds:
            data = {
                **task.model_dump(),
                "epochs": epochs,
                "method": row.method,
                "settings": row.settings,
                "sparsity": sparsity,
                "seed": seed,
            }
            try:
                config = parse_run(data)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            start = config.starts_from
            if start:
                runs[start.config.run_name] = start.config
            runs[config.run_name] = config
            configs.append(config)
        plain["rows"].append(
            {
                "label": row.label,
                "method": row.method,
                "sparsity": sparsity,
                "epochs": epochs,
                "product": _product(row, configs[0], where),
                "runs": [config.run_name for config in configs],
                "paper": {**row.paper.model_dump(), "table": experiment.paper_tables.get(sparsity)}
                if row.paper
                else None,
            }
        )
    return plain


def _product(row: Row, config: RunConfig, where: str) -> Product:
    """Return which of a method's models a row shows.

    Raises:
        ConfigError: the method does not yield it.
    """
    products = config.method_class.products
    if row.product is not None and row.product not in products:
        raise ConfigError(
            f"{where}: product: method {row.method} yields no {row.product} model; "
            f"{', '.join(products)} are accepted"
        )
    return row.product or products[0]


def _epochs(extend: float, epochs: int, where: str) -> int:
    """Return the epochs of a row that trains ``extend`` times as long as its task.

    Raises:
        ConfigError: that is no whole number of epochs; names the nearest that are.
    """
    product = extend * epochs
    # 1.15 * 20 is 23 but for the last bit.
    if math.isclose(product, round(product), rel_tol=1e-9):
        return round(product)
    near = [n for n in (math.floor(product), math.ceil(product)) if n]
    names = " and ".join(f"{n / epochs:.12g} ({n} epoch{'s' * (n > 1)})" for n in near)
    raise ConfigError(
        f"{where}: extend: {extend:g} times the task's {epochs} epochs is {product:g}, and epochs "
        f"are not rounded; {names} {'are' if len(near) > 1 else 'is'} accepted"
    )


def _own_epochs(run: RunConfig) -> int:
    """Return the epochs that a run trains itself, none where its parent's best epoch decides."""
    start = run.starts_from
    if start is None:
        return run.epochs
    return run.epochs - start.epoch if start.epoch is not None else 0
