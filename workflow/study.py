"""A study: the experiments of the paper at one scale, resolved into runs, tables and figures."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

import reports.plan
from acdc.config import Frozen, Precision, Recipe, RunConfig, accepted, explain, parse_run
from acdc.data import DATASETS
from acdc.documents import parse_yaml
from acdc.errors import ConfigError
from acdc.method import Product, method_names
from reports.columns import COLUMNS, Plot
from reports.paper import paper_values

FOLDER = Path(__file__).resolve().parent

Kind = Literal["table", "figure", "iht"]


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
# What no scale has anything for yet; an experiment that needs it says what it awaits.
AWAITED_TASKS = ("wikitext103-transformer_xl",)
# Names of files and rules that an experiment cannot have.
RESERVED = (
    *("all", "trained", "data", "train", "plan", "aggregate", "report", "track", "iht", "table"),
    *("figure", "theory_figure", "runs", "epochs", "events", "methods_appendix"),
)


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
    """A table or a figure: what is trained, and how it is shown."""

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of its file and of the files that come of it."""
    kind: Kind
    """Table, figure, or iterative hard thresholding, which trains no network."""
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

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needs = {"table": ("columns", "rows"), "figure": ("panels",), "iht": ()}[self.kind]
        for key in ("columns", "rows", "panels"):
            # The rows of a figure are those of its panels that name none.
            if key in needs and not getattr(self, key):
                raise ConfigError(f"{key}: a {self.kind} has none; one or more are accepted")
            if key not in (*needs, "rows") and getattr(self, key):
                raise ConfigError(f"{key}: a {self.kind} has no {key}; none are accepted")
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


@dataclass(frozen=True)
class Study:
    """Experiments resolved at a scale."""

    scale: Scale
    file: Path
    """The scale's."""
    experiments: tuple[dict[str, Any], ...]
    runs: dict[str, RunConfig]
    """By run name; a run that several experiments share stands here once."""

    @functools.cached_property
    def datasets(self) -> list[str]:
        """The data sets that the runs need."""
        return sorted({run.dataset for run in self.runs.values()})

    def missing_data(self, needed: Collection[str] | None = None) -> list[str]:
        """Return a sentence for each data set that is not there, naming file and key.

        Args:
            needed: those of interest, by default all.
        """
        found = []
        for name in self.datasets if needed is None else sorted(needed):
            missing = DATASETS[name].missing()
            if missing:
                users = [
                    key for key, task in self.scale.tasks.items() if task.chosen_dataset == name
                ]
                found.append(f"{self.file}: tasks.{users[0]}.dataset: {missing}")
        return found

    def ids(self, *kinds: Kind) -> list[str]:
        """Return the experiments of some kinds."""
        return [e["id"] for e in self.experiments if e["kind"] in kinds]

    def parent(self, run: str) -> str | None:
        """Return the run that another starts from."""
        return self._parents[run]

    @functools.cached_property
    def _parents(self) -> dict[str, str | None]:
        starts = {name: run.starts_from for name, run in self.runs.items()}
        return {name: start.config.run_name if start else None for name, start in starts.items()}

    def with_parents(self, runs: Sequence[str]) -> tuple[str, ...]:
        """Return runs, each after those that it starts from, and each once."""
        found: dict[str, None] = {}

        def add(run: str) -> None:
            parent = self.parent(run)
            if parent is not None:
                add(parent)
            found[run] = None

        for run in runs:
            add(run)
        return tuple(found)

    def shown(self, experiment: str) -> tuple[str, ...]:
        """Return the runs whose results an experiment shows."""
        return self._shown[experiment]

    @functools.cached_property
    def _shown(self) -> dict[str, tuple[str, ...]]:
        return {
            experiment["id"]: tuple(
                dict.fromkeys(
                    run for row in rows_of(experiment) for run in (*row["runs"], *row["fine_tuned"])
                )
            )
            for experiment in self.experiments
        }

    def runs_of(self, experiment: str) -> tuple[str, ...]:
        """Return the runs that an experiment needs, those that others start from included."""
        return self.with_parents(self.shown(experiment))

    def select(self, **choice: Any) -> tuple[str, ...]:
        """Return the runs that a person asks for, those that they start from included.

        Args:
            choice: experiment, row (a label), method, sparsity, model or dataset; runs fulfil all.

        Raises:
            ConfigError: a key or a value is unknown; lists those that there are.
        """
        found = tuple(self.runs)
        rows = [
            (experiment["id"], row)
            for experiment in self.experiments
            for row in rows_of(experiment)
        ]
        if "experiment" in choice:
            rows = [(name, row) for name, row in rows if name == str(choice["experiment"])]
        labels = {row["label"] for _, row in rows}
        known = {
            "experiment": {experiment["id"] for experiment in self.experiments},
            "row": labels,
            **{
                key: {getattr(self.runs[run], key) for run in found}
                for key in ("method", "sparsity", "model", "dataset")
            },
        }
        for key, value in choice.items():
            values = known.get(key)
            if values is None:
                raise ConfigError(f"{key}: unknown; {accepted(key, known)}")
            if not isinstance(value, str | float | int) or value not in values:
                names = accepted(str(value), [str(v) for v in values])
                raise ConfigError(f"{key}: {value!r} is not in the study; {names}")
        if "row" in choice:
            rows = [(name, row) for name, row in rows if row["label"] == choice["row"]]
        if {"experiment", "row"} & choice.keys():
            found = tuple(
                dict.fromkeys(run for _, row in rows for run in (*row["runs"], *row["fine_tuned"]))
            )
        for key in ("method", "sparsity", "model", "dataset"):
            if key in choice:
                found = tuple(r for r in found if getattr(self.runs[r], key) == choice[key])
        if choice and not found:
            asked = ", ".join(f"{key}={value}" for key, value in choice.items())
            raise ConfigError(f"no run of the study fulfils all of {asked}; others are accepted")
        return self.with_parents(found)

    def plan(self) -> dict[str, Any]:
        """Return all that the reports need to know, as plain data."""
        return {
            "scale": self.scale.model_dump(mode="json", include={"name", "title", "description"}),
            "experiments": list(self.experiments),
            "runs": {name: run.plain() for name, run in self.runs.items()},
        }

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the plan, by which the workflow knows that it has changed."""
        # A run's name holds the fingerprint of its configuration.
        content = {**self.plan(), "runs": list(self.runs)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def images(self) -> dict[str, int]:
        """Training images that each run passes over, the measure of its cost."""
        return {
            name: _own_epochs(run) * DATASETS[run.dataset].training_images
            for name, run in self.runs.items()
        }


def rows_of(experiment: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a resolved experiment, of its table or of its panels."""
    yield from experiment["rows"]
    for panel in experiment["panels"]:
        yield from panel["rows"]


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


def find_scale(name: str) -> Path:
    """Return the file of a scale, by its name or its path.

    Raises:
        ConfigError: no such scale; lists those that there are.
    """
    known = {path.stem: path for path in _listed(FOLDER / "scales")}
    if name in known:
        return known[name]
    if name.endswith(".yaml") and Path(name).exists():
        return Path(name)
    raise ConfigError(
        f"scale: {name!r} is unknown; {', '.join(known)}, or the path of a YAML file, are accepted"
    )


def _listed(folder: Path) -> list[Path]:
    """Return the YAML files of a folder by name, as messages name them: from here if they can."""
    here = Path.cwd()
    near = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return sorted(near.glob("*.yaml"))


def load(scale_name: str, seeds: int | None = None, experiments: str | Path | None = None) -> Study:
    """Return the study of a scale, every run validated.

    Args:
        scale_name: a name, or the path of a file.
        seeds: so many for each row, from 1 on, instead of the scale's; rows with seeds of their own
            keep them.
        experiments: the folder of the experiments, by default the suite's.

    Raises:
        ConfigError: names the file, the key, the value and what is accepted.
    """
    file = find_scale(scale_name)
    scale: Scale = read(file, Scale)
    if seeds is not None:
        if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
            raise ConfigError(f"seeds: got {seeds!r}; 1 or more is accepted")
        scale = scale.model_copy(update={"seeds": tuple(range(1, seeds + 1))})
    found = _listed(Path(experiments or FOLDER / "experiments"))
    if not found:
        raise ConfigError(
            f"experiments: {experiments} holds no YAML file; a folder that does is accepted"
        )
    files = {path.stem: path for path in sorted(found, key=_display_order)}
    chosen = scale.experiments if scale.experiments is not None else tuple(files)
    for name in chosen:
        if name not in files:
            raise ConfigError(f"{file}: experiments: {name!r} is unknown; {accepted(name, files)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"{file}: experiments: {list(chosen)} names one twice; each once is accepted"
        )
    resolver = Resolver(scale, file)
    resolved = tuple(resolver.experiment(files[name]) for name in chosen)
    resolver.check()
    return Study(scale, file, resolved, resolver.runs)


def _display_order(path: Path) -> tuple[int, str]:
    """Return the place of an experiment: tables, figures, then what the paper does not have."""
    kinds = ("table", "figure")
    return next((i for i, kind in enumerate(kinds) if path.stem.startswith(kind)), 2), path.stem


@dataclass
class Resolver:
    """Turns experiments into plain data at a scale, and gathers their runs."""

    scale: Scale
    file: Path
    runs: dict[str, RunConfig] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    """The overrides that some row has matched, by their number."""
    empty: bool = True
    """Whether no experiment has shown anything so far."""

    def check(self) -> None:
        """Refuse a scale that leaves nothing to show, or that changes what is not there.

        Raises:
            ConfigError: names the key.
        """
        if self.empty:
            raise ConfigError(
                f"{self.file}: experiments, sparsities: nothing is left to show; experiments with "
                "rows at these sparsities are accepted"
            )
        if self.scale.experiments is None and self.scale.sparsities is None:
            for number, override in enumerate(self.scale.overrides):
                if number not in self.used:
                    raise ConfigError(
                        f"{self.file}: overrides.{number}: no row is of method {override.method}, "
                        f"task {override.task} and sparsity {override.sparsity}; those of "
                        "some row are accepted"
                    )

    def experiment(self, path: Path) -> dict[str, Any]:
        """Return one experiment as plain data, its runs added to those of the study.

        Raises:
            ConfigError: names the file, the key, the value and what is accepted.
        """
        read_from: Experiment = read(path, Experiment)
        if read_from.id != path.stem:
            raise ConfigError(
                f"{path}: id: {read_from.id!r} is not the name of the file; {path.stem} is accepted"
            )
        keys = {"id", "kind", "title", "caption", "paper", "awaits", "reference", "columns"}
        plain = {**read_from.model_dump(mode="json", include=keys), "rows": [], "panels": []}
        if read_from.kind == "iht":
            self.empty = False
        if read_from.kind == "table":
            plain["rows"] = self.lines(read_from, None, path)
        elif read_from.kind == "figure":
            plain["panels"] = [
                {
                    "plot": panel.plot,
                    "title": panel.title,
                    "rows": self.lines(read_from, panel, path),
                }
                for panel in read_from.panels
            ]
        return plain

    def lines(
        self, experiment: Experiment, panel: Panel | None, path: Path
    ) -> list[dict[str, Any]]:
        """Return the rows of a table or a panel, one a sparsity, in ascending order of it."""
        rows, sparsities, task = experiment.rows, experiment.sparsities, experiment.task
        if panel is not None:
            rows = rows if panel.rows is None else panel.rows
            sparsities = sparsities if panel.sparsities is None else panel.sparsities
            task = task if panel.task is None else panel.task
        if not rows or not (sparsities or all(row.sparsities for row in rows)):
            raise ConfigError(
                f"{path}: rows: without rows and sparsities there is nothing to show; one or more "
                "of each are accepted"
            )
        pairs = [(row, s) for row in rows for s in row.sparsities or sparsities]
        if self.scale.sparsities is not None:
            pairs = [(row, s) for row, s in pairs if s == 0 or s in self.scale.sparsities]
        pairs.sort(key=lambda pair: pair[1])
        found = [
            self.line(experiment, row, sparsity, row.task or task, path) for row, sparsity in pairs
        ]
        self._check_distinct(found, path)
        if panel is not None and panel.plot.startswith("relabelled"):
            self._check_relabelled(found, path)
        if found:
            self.empty = False
        return found

    def line(
        self, experiment: Experiment, row: Row, sparsity: float, task_name: str | None, path: Path
    ) -> dict[str, Any]:
        """Return one row at one sparsity, its runs added to those of the study."""
        plain: dict[str, Any] = {
            "label": row.label,
            "method": row.method,
            "sparsity": sparsity,
            "epochs": 0,
            "product": row.product or "sparse",
            "runs": [],
            "fine_tuned": [],
            "paper": self._paper(experiment, row, sparsity, path),
            "task": None,
        }
        task = self.scale.tasks.get(task_name or "")
        if task is None:
            # What cannot be trained at any scale yet is announced, and nothing else may be missing.
            if experiment.awaits is None or task_name not in AWAITED_TASKS:
                raise ConfigError(
                    f"{path}: task: scale {self.scale.name} has nothing for {task_name!r}; "
                    f"{accepted(str(task_name), self.scale.tasks)}"
                )
            return plain
        plain["task"] = {
            "name": task_name,
            "model": task.model,
            "dataset": task.chosen_dataset,
            "epochs": task.epochs,
        }
        if row.method is None:
            return plain
        numbers = [
            number
            for number, override in enumerate(self.scale.overrides)
            if override.matches(row, str(task_name), sparsity)
        ]
        self.used.update(numbers)
        matching = [self.scale.overrides[number] for number in numbers]
        if row.settings_from_scale and not matching:
            return plain
        where = f"{path}: row {row.label!r} ({self.file}: tasks.{task_name})"
        plain["epochs"] = _epochs(row.extend, task.epochs, where)
        description = {
            "model": task.model,
            "dataset": task.chosen_dataset,
            "precision": task.precision,
            "method": row.method,
            "settings": _merged(*(o.settings for o in matching), row.settings),
            "recipe": _merged(task.recipe.model_dump(), *(o.recipe for o in matching), row.recipe),
            "sparsity": sparsity,
            "epochs": plain["epochs"],
        }
        seeds = row.seeds or self.scale.seeds or experiment.seeds
        configs = self._configs(description, seeds, where)
        plain["runs"] = [config.run_name for config in configs]
        plain["product"] = _product(row, configs[0], where)
        sources = {COLUMNS[name].source for name in experiment.columns}
        if "fine_tuned" in sources and row.method in FINE_TUNING:
            description |= {"method": FINE_TUNING[row.method]}
            tuned = self._configs(description, seeds, where)
            plain["fine_tuned"] = [config.run_name for config in tuned]
        return plain

    def _configs(
        self, description: dict[str, Any], seeds: Sequence[int], where: str
    ) -> list[RunConfig]:
        """Return the runs of a row, added to those of the study with what they start from."""
        try:
            first = parse_run({**description, "seed": seeds[0]})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        configs = [first, *(first.with_seed(seed) for seed in seeds[1:])]
        for config in configs:
            start = config.starts_from
            if start:
                self.runs[start.config.run_name] = start.config
            self.runs[config.run_name] = config
        return configs

    def _paper(
        self, experiment: Experiment, row: Row, sparsity: float, path: Path
    ) -> dict[str, Any] | None:
        if row.paper is None:
            return None
        table = row.paper.table or (experiment.paper if experiment.kind == "table" else None)
        if table is None:
            raise ConfigError(
                f"{path}: rows.paper.table: row {row.label!r} names none, and the experiment is no "
                "table of the paper; the number of one is accepted"
            )
        plain = {
            **row.paper.model_dump(include={"method", "variant", "cites"}),
            "table": table,
            "sparsity": sparsity if row.paper.sparsity is None else row.paper.sparsity,
        }
        try:
            paper_values(reports.plan.PaperRow(**plain))
        except reports.plan.ReportError as error:
            raise ConfigError(f"{path}: rows.{error} (row {row.label!r})") from None
        return plain

    def _check_relabelled(self, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Refuse to plot what became of random labels where there are none."""
        for row in rows:
            dataset = row["task"]["dataset"]
            if not DATASETS[dataset].relabelled:
                relabelled = [name for name, spec in DATASETS.items() if spec.relabelled]
                raise ConfigError(
                    f"{path}: panels.plot: {self.file} has {dataset} for {row['task']['name']}, "
                    f"of which no label is random; {', '.join(relabelled)} are accepted"
                )

    def _check_distinct(self, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """Refuse rows that cannot be told apart, or that show one model under two names."""
        named: set[tuple[Any, ...]] = set()
        shown: dict[tuple[Any, ...], str] = {}
        for row in rows:
            name = (row["label"], row["sparsity"])
            if name in named:
                raise ConfigError(
                    f"{path}: rows.label: {row['label']!r} stands for two rows at sparsity "
                    f"{row['sparsity']:g}; another label is accepted"
                )
            named.add(name)
            for run in row["runs"]:
                other = shown.setdefault((run, row["product"]), row["label"])
                if other != row["label"]:
                    raise ConfigError(
                        f"{path}: rows: {other!r} and {row['label']!r} are the same run at scale "
                        f"{self.scale.name} ({self.runs[run].slug}); rows that differ in method, "
                        "settings, recipe, epochs or product are accepted"
                    )


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return mappings as one, later keys winning."""
    return {key: value for part in parts for key, value in part.items()}


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
