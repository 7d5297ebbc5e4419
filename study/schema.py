"""What experiments and scales say, as validated values."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from acdc.config.recipe import Frozen, Precision, Recipe
from acdc.config.yaml_io import parse_yaml
from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.messages import accepted, explain
from acdc.methods.contract import Product, method_names
from study.columns import COLUMNS, Plot
from theory.layout import EXPERIMENTS

Kind = Literal["table", "figure", "theory"]


def _once_each(values: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"names {value} twice; each once is accepted")
    return values


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, strict=True)], ...],
    Field(min_length=1),
    AfterValidator(_once_each),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# The method that goes on from a run's best dense weights, whose model some columns show.
FINE_TUNING = {"acdc": "acdc_dense"}
# Names of files and rules that an experiment cannot have.
RESERVED = (
    *("all", "trained", "data", "train", "train_on_nodes", "pack", "unpack", "plan"),
    *("aggregate", "report", "track", "table", "figure", "theory", "theory_figure", "statements"),
    *("runs", "epochs", "events", "methods_appendix", "theory_chapter"),
)

# What experiments of a kind need, and what else they may have, of the keys that not all have.
_KEYS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table": (("columns", "rows"), ()),
    # The rows are those of the panels that name none.
    "figure": (("panels",), ("rows",)),
    "theory": (("theory",), ("settings",)),
}


def _known(value: str, what: str, names: Iterable[str]) -> str:
    """Return a name that there is.

    Raises:
        ConfigError: there is not; lists those that there are.
    """
    known = list(names)
    if value not in known:
        raise ConfigError(f"{what}: {value!r} is unknown; {accepted(value, known)}")
    return value


class PaperRow(Frozen):
    """Where the paper's own values for a row stand in its tables."""

    method: str
    variant: str = ""
    sparsity: Fraction | None = None
    """Where it is not quite the row's own."""
    table: str | None = None
    """Where it is not the experiment's own."""
    cites: str = ""
    """Whose publication the paper took the row from; empty for results of the paper's authors."""


class Row(Frozen):
    """One line of a table or one series of a plot, at each of the experiment's sparsities."""

    label: str
    """What it is called in the table."""
    method: str | None = None
    """Training method; none where the paper's values are printed alone."""

    settings: dict[str, Any] = {}
    """Settings of the method that differ from its defaults."""
    recipe: dict[str, Any] = {}
    """What differs from the task's recipe."""
    product: Product | None = None
    """Which of the method's models; by default its first."""
    extend: float = Field(default=1, gt=0)
    """Times the task's epochs, a whole number of them; all schedules stretch with it (RigL 2x)."""
    task: str | None = None
    """Instead of the experiment's."""
    sparsities: tuple[Fraction, ...] | None = None
    """Instead of the experiment's; [0] for dense training."""
    seeds: Seeds | None = None
    """Instead of the experiment's, where the paper has one run; no study changes these."""
    settings_from_scale: bool = False
    """Trained only where the scale has settings for it: not every method can be asked for a
    sparsity."""
    paper: PaperRow | None = None
    """The paper's row, where it has one."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, "method", method_names())


class Panel(Frozen):
    """One of the plots of a figure; what it leaves out is the experiment's."""

    plot: Plot
    title: str = ""
    task: str | None = None
    sparsities: tuple[Fraction, ...] | None = None
    rows: tuple[Row, ...] | None = None


class Experiment(Frozen):
    """A table, a figure, or an experiment of the theory: what is done, and how it is shown."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of its file and of the files that come of it."""
    kind: Kind
    """Table, figure, or a check of the theory, which needs no runs."""
    title: str
    """Heading."""
    caption: str
    """What to see."""
    paper: str | None = None
    """Number of the paper's table or figure."""
    awaits: str | None = None
    """What has to exist before all of it can be made."""
    reference: str | None = None
    """Label of the row that a table's other rows are compared with, paired by seed."""
    task: str | None = None
    """Model and data set, by the paper's names; a scale says what stands in for them."""
    sparsities: tuple[Fraction, ...] = ()
    """Fractions of zero weights."""
    seeds: Seeds = (1, 2, 3)
    """Seeds of each row, unless the scale has others."""
    columns: tuple[str, ...] = ()
    """What a table shows beside sparsity and number of runs."""
    rows: tuple[Row, ...] = ()
    """In the order in which they are shown at one sparsity."""
    panels: tuple[Panel, ...] = ()
    """The plots of a figure."""
    theory: str | None = None
    """Which of the theory's experiments."""
    settings: dict[str, Any] = {}
    """Its settings that differ from its defaults; a scale may have others."""

    @field_validator("id")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in RESERVED:
            raise ConfigError(f"id: {value!r} is the name of a rule or a file; others are accepted")
        return value

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in COLUMNS:
                raise ConfigError(f"columns: {name!r} is unknown; {accepted(name, COLUMNS)}")
        return _once_each(value)

    @field_validator("theory")
    @classmethod
    def _known_theory(cls, value: str | None) -> str | None:
        return value if value is None else _known(value, "theory", EXPERIMENTS)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needs, may_have = _KEYS[self.kind]
        what = "theory experiment" if self.kind == "theory" else self.kind
        for key in ("columns", "rows", "panels", "theory", "settings"):
            if key in needs and not getattr(self, key):
                raise ConfigError(f"{key}: a {what} has none; one or more are accepted")
            if key not in (*needs, *may_have) and getattr(self, key):
                raise ConfigError(f"{key}: a {what} has no {key}; none are accepted")
        # The folder of its results is called by the one name, all else by the other.
        if self.kind == "theory" and self.id != f"theory_{self.theory}":
            raise ConfigError(
                f"id: {self.id!r} is not that of theory {self.theory}; theory_{self.theory} is "
                "accepted"
            )
        for name in self.columns:
            if COLUMNS[name].awaits and self.awaits is None:
                raise ConfigError(
                    f"columns: {name} cannot be measured before {COLUMNS[name].awaits} exists; it "
                    "is accepted where the experiment's awaits says so"
                )
        labels = [row.label for row in self.rows]
        if self.reference is not None and self.reference not in labels:
            raise ConfigError(
                f"reference: {self.reference!r} is no row; {accepted(self.reference, labels)}"
            )
        return self


class Task(Frozen):
    """What is trained at a scale in place of one of the paper's tasks."""

    model: str
    dataset: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """The first of these that is there; the last where none is."""
    epochs: int = Field(ge=1)
    recipe: Recipe = Recipe()
    precision: Precision = "fp32"
    gpu: int = Field(1, ge=1)
    """How many GPUs share each run's batches; results change by rounding only."""

    @field_validator("dataset")
    @classmethod
    def _known_datasets(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        for name in (value,) if isinstance(value, str) else value:
            _known(name, "dataset", DATASETS)
        return value

    @functools.cached_property
    def chosen_dataset(self) -> str:
        """The data set that is trained on."""
        options = (self.dataset,) if isinstance(self.dataset, str) else self.dataset
        there = (name for name in options if DATASETS[name].missing() is None)
        return next(there, options[-1])


class Override(Frozen):
    """What a scale changes of the rows that match; where several do, the later ones win.

    Runs that a row starts from have the row's task and recipe, so that the recipe of a method that
    starts from dense training changes that training too, and makes another run of it.
    """

    method: str
    """With its dense fine-tuning."""
    task: str | None = None
    sparsity: Fraction | None = None
    settings: dict[str, Any] = {}
    recipe: dict[str, Any] = {}

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        return _known(value, "method", method_names())

    def matches(self, row: Row, task: str, sparsity: float) -> bool:
        """Return whether it concerns a row of an experiment."""
        return (
            row.method in (self.method, FINE_TUNING.get(self.method))
            and self.task in (None, task)
            and self.sparsity in (None, sparsity)
        )


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
    overrides: tuple[Override, ...] = ()
    """Settings of methods that depend on the scale."""
    sparsities: tuple[Fraction, ...] | None = None
    """Only these, and dense training; by default all."""
    seeds: Seeds | None = None
    """Instead of the experiments' own."""
    experiments: tuple[str, ...] | None = None
    """Which experiments are part of it; all by default."""
    theory: dict[str, dict[str, Any]] = {}
    """Settings of the theory's experiments, by their names; they win over the experiments' own."""

    @field_validator("theory")
    @classmethod
    def _known_theory(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            _known(name, "theory", EXPERIMENTS)
        return value

    @field_validator("tasks")
    @classmethod
    def _gpus_fit(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        found: dict[tuple[str, str], tuple[str, int]] = {}
        for name, task in tasks.items():
            if task.recipe.batch_size % task.gpu:
                raise ConfigError(
                    f"tasks.{name}.gpu: {task.gpu} GPUs cannot share batches of "
                    f"{task.recipe.batch_size} images equally; a divisor of that is accepted"
                )
            other, gpus = found.setdefault((task.model, task.chosen_dataset), (name, task.gpu))
            if gpus != task.gpu:
                raise ConfigError(
                    f"tasks.{name}.gpu: {task.gpu}, and {gpus} for {other}, which trains the same "
                    "network on the same data; the same number is accepted"
                )
        return tasks


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
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
