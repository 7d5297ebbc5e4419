"""Experiments and scales as their YAML files have them, validated."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from acdc.config.recipe import Precision, Recipe
from acdc.config.yaml_io import parse_yaml
from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.frozen import Frozen
from acdc.messages import config_error, explain
from acdc.methods.contract import Product
from acdc.methods.registry import method_names
from study.columns import COLUMNS, Plot
from study.model import Kind
from theory.layout import EXPERIMENTS


def _once_each(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"has {value} twice")
    return values


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, strict=True)], ...],
    Field(min_length=1),
    AfterValidator(_once_each),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Sparsities = Annotated[tuple[Fraction, ...], AfterValidator(_once_each)]

# The dense fine-tuning of a method's best dense weights, which some columns show.
FINE_TUNING = {"acdc": "acdc_dense"}
# Names of rules and files, which no experiment can have.
RESERVED = (
    *("all", "trained", "data", "train", "train_on_nodes", "study", "pairs"),
    *("aggregate", "report", "track", "table", "figure", "theory", "theory_figure", "statements"),
    *("runs", "epochs", "events", "claims", "methods_appendix", "theory_chapter"),
)

# The keys that experiments of a kind require, and those that are optional.
_KEYS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table": (("columns", "rows"), ("recipe",)),
    # The experiment's rows are those of panels without rows of their own.
    "figure": (("panels",), ("rows", "recipe")),
    "theory": (("theory",), ("settings",)),
}


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _one_of(names: Callable[[], Iterable[str]]) -> AfterValidator:
    """Return a validator that accepts known names only and suggests the one that was meant."""

    def check(value: str) -> str:
        known = list(names())
        if value not in known:
            raise PydanticCustomError("literal_error", "unknown", {"expected": known})
        return value

    return AfterValidator(check)


Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=60)]
Method = Annotated[str, _one_of(method_names)]
Dataset = Annotated[str, _one_of(lambda: DATASETS)]
Theory = Annotated[str, _one_of(lambda: EXPERIMENTS)]


class PaperRowSpec(Frozen):
    """The row of the paper's tables that has the paper's values for a row."""

    method: str
    variant: str = ""
    sparsity: Fraction | None = None
    """By default the row's own, from which the paper's may differ slightly."""
    table: str | None = None
    """By default the experiment's own."""
    cites: str = ""
    """The publication that the paper took the row from; empty for the paper's own results."""


class RowSpec(Frozen):
    """One line of a table or one series of a plot, at each of the experiment's sparsities."""

    label: str
    """Name of the row in the table."""
    method: Method | None = None
    """Training method; None where the paper's values are printed alone."""
    settings: dict[str, Any] = {}
    """Settings of the method that differ from its defaults."""
    recipe: dict[str, Any] = {}
    """Keys that differ from the experiment's recipe."""
    product: Product | None = None
    """Which of the method's models; by default its first."""
    companion: Literal["fine_tuned", "dense"] = "fine_tuned"
    """The dense model beside it: its own, fine-tuned, or the network trained densely."""
    extend: float = Field(default=1, gt=0)
    """Factor on the task's epochs, which has to give a whole number of them; all schedules stretch
    with it (RigL 2x)."""
    task: str | None = None
    """By default the experiment's."""
    sparsities: Sparsities | None = None
    """By default the experiment's; [0] for dense training."""
    seeds: Seeds | None = None
    """By default the experiment's; neither a scale nor --seeds overrides these."""
    settings_from_scale: bool = False
    """Train the row only where the scale has settings for it: not every method takes a sparsity."""
    paper: PaperRowSpec | None = None
    """The paper's row, if it has one."""


class PanelSpec(Frozen):
    """One plot of a figure; keys that it leaves out are the experiment's."""

    plot: Plot
    title: str = ""
    task: str | None = None
    sparsities: Sparsities | None = None
    rows: tuple[RowSpec, ...] | None = None


class ExperimentSpec(Frozen):
    """A table, a figure, or an experiment of the theory: its runs and how they are shown."""

    id: Name
    """Name of its file and of the files that are made of it."""
    kind: Kind
    """Table, figure, or a check of the theory, which needs no runs."""
    title: str
    """Heading."""
    caption: str
    """What to see."""
    paper: str | None = None
    """Number of the paper's table or figure."""
    awaits: str | None = None
    """The missing part without which not all of it can be made."""
    reference: str | None = None
    """Label of the row with which the other rows of a table are compared, paired by seed."""
    task: str | None = None
    """Model and data set by the paper's names; a scale has substitutes for them."""
    sparsities: Sparsities = ()
    """Fractions of zero weights."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of each row, unless the scale has others."""
    recipe: dict[str, Any] = {}
    """Keys of all rows that differ from the task's recipe and the scale's overrides of it."""
    columns: Annotated[
        tuple[Annotated[str, _one_of(lambda: COLUMNS)], ...], AfterValidator(_once_each)
    ] = ()
    """Columns of a table, beside sparsity and number of runs."""
    rows: tuple[RowSpec, ...] = ()
    """In the order in which they are shown at one sparsity."""
    panels: tuple[PanelSpec, ...] = ()
    """The plots of a figure."""
    theory: Theory | None = None
    """Name of an experiment of the theory."""
    settings: dict[str, Any] = {}
    """Its settings that differ from its defaults; a scale may override them."""

    @field_validator("id")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in RESERVED:
            raise config_error("id", value, "the name of a rule or a file", "any other name")
        return value

    @model_validator(mode="after")
    def _has_the_keys_of_its_kind(self) -> Self:
        required, optional = _KEYS[self.kind]
        for key in ("columns", "rows", "panels", "recipe", "theory", "settings"):
            given, kind = getattr(self, key), f"kind {self.kind}"
            if key in required and not given:
                raise config_error(key, None, f"required in {kind}", "one or more")
            if key not in (*required, *optional) and given:
                raise config_error(key, None, f"not a key of {kind}", (*required, *optional))
        # The folder of its results has the one name, all other files have the other.
        if self.kind == "theory" and self.id != f"theory_{self.theory}":
            raise config_error("id", self.id, "not the name of its theory", f"theory_{self.theory}")
        for name in self.columns:
            if COLUMNS[name].awaits and self.awaits is None:
                raise config_error(
                    "columns",
                    name,
                    f"cannot be measured before {COLUMNS[name].awaits} exists",
                    "in experiments with the key awaits",
                )
        labels = [row.label for row in self.rows]
        if self.reference is not None and self.reference not in labels:
            raise config_error("reference", self.reference, "no row has this label", labels)
        return self


class TaskSpec(Frozen):
    """What a scale trains in place of one of the paper's tasks."""

    model: str
    dataset: Annotated[tuple[Dataset, ...], BeforeValidator(_listed), Field(min_length=1)]
    """Of several names the first that is available; the last if none is."""
    epochs: int = Field(ge=1)
    recipe: Recipe = Recipe()
    precision: Precision = "fp32"
    gpu: int = Field(1, ge=1)
    """GPUs that share each run's batches; results change by rounding only."""
    seeds: Seeds | None = None
    """By default the experiments' own."""

    @functools.cached_property
    def chosen_dataset(self) -> str:
        """The data set that is trained on."""
        available = (name for name in self.dataset if DATASETS[name].missing() is None)
        return next(available, self.dataset[-1])


class Override(Frozen):
    """Changes of a scale to the rows that match; later ones win.

    A run and the run that it starts from have the same task and recipe, so that the recipe of a
    method that starts from dense training changes the recipe of that training, too.
    """

    method: Method
    """Matches its dense fine-tuning, too."""
    task: str | None = None
    sparsity: Fraction | None = None
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}

    def matches(self, row: RowSpec, task: str, sparsity: float) -> bool:
        """Return whether it applies to a row of an experiment."""
        return (
            row.method in (self.method, FINE_TUNING.get(self.method))
            and self.task in (None, task)
            and self.sparsity in (None, sparsity)
        )


class ScaleSpec(Frozen):
    """The size of a study: its substitutes for the paper's tasks, and what it leaves out."""

    name: Name
    """Name of the results folder; a built-in scale's is refused in any other file."""
    title: str
    """One line above every table."""
    description: str
    """How it differs from the paper."""
    tasks: dict[str, TaskSpec]
    """By the paper's task."""
    overrides: tuple[Override, ...] = ()
    """Settings of methods that depend on the scale."""
    sparsities: Sparsities | None = None
    """Only these, and dense training; by default all."""
    max_extend: float = Field(default=math.inf, ge=1)
    """Exclude rows that train for a larger multiple of their task's epochs."""
    seeds: Seeds | None = None
    """By default the experiments' own."""
    single_seed: tuple[str, ...] = ()
    """Experiments that have the first of their seeds alone, unless all are given others."""
    experiments: tuple[str, ...] | None = None
    """The experiments that are part of it; by default all."""
    bundle: int | None = Field(default=None, ge=2)
    """Join configurations of the same task, each with the runs that start from it, until a job has
    this many runs: for runs so short that starting a process costs as much."""
    theory: dict[Theory, dict[str, Any]] = {}
    """Settings of the theory's experiments by their names; they override the experiments' own."""

    @field_validator("tasks")
    @classmethod
    def _gpus_fit(cls, tasks: dict[str, TaskSpec]) -> dict[str, TaskSpec]:
        found: dict[tuple[str, str], tuple[str, int]] = {}
        for name, task in tasks.items():
            key, batch = f"tasks.{name}.gpu", task.recipe.batch_size
            if batch % task.gpu:
                problem = f"cannot share batches of {batch} images equally"
                raise config_error(key, task.gpu, problem, f"divisors of {batch}")
            other, gpus = found.setdefault((task.model, task.chosen_dataset), (name, task.gpu))
            if gpus != task.gpu:
                problem = f"tasks.{other} trains the same network on the same data"
                raise config_error(key, task.gpu, problem, str(gpus))
        return tasks


Schema = TypeVar("Schema", bound=Frozen)


def read(path: Path, schema: type[Schema]) -> Schema:
    """Return a validated YAML file.

    Raises:
        ConfigError: names the file, the key, the value and what is allowed.
    """
    try:
        data = parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, schema)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
