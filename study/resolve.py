"""From experiments and a scale, as written, to the resolved study."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS, IMAGES
from acdc.errors import ConfigError
from acdc.messages import config_error
from study.columns import COLUMNS
from study.files import FOLDER, find_experiments, find_scale
from study.model import Experiment, Panel, PaperRow, ReportError, Row, Run, Scale, Study, Task
from study.paper import paper_values
from study.schema import (
    FINE_TUNING,
    ExperimentSpec,
    Override,
    PanelSpec,
    RowSpec,
    ScaleSpec,
    TaskSpec,
    read,
)
from theory import experiment as theory

LARGEST = 1000
"""Of the numbers that ``--config`` takes: seeds per row, runs per job, GPUs per node."""


def load(scale_name: str, seeds: int | None = None, experiments: str | Path | None = None) -> Study:
    """Return the study of a scale, every run validated.

    Args:
        scale_name: a name, or the path of a file.
        seeds: number of seeds per row (1..N) instead of the scale's; rows with seeds of their own
            keep them.
        experiments: the folder of the experiments, by default the suite's.

    Raises:
        ConfigError: names the file, the key, the value and what is allowed.
    """
    file, scale = find_scale(scale_name)
    if seeds is not None:
        numbers = tuple(range(1, whole_number(seeds, "seeds") + 1))
        scale = scale.model_copy(update={"seeds": numbers})
    files = find_experiments(Path(experiments or FOLDER / "experiments"))
    chosen = scale.experiments if scale.experiments is not None else tuple(files)
    for name, times in Counter(chosen).items():
        if name not in files or times > 1:
            problem = "named twice" if times > 1 else "unknown experiment"
            raise ConfigError(f"{file}: {config_error('experiments', name, problem, files)}")
    resolver = Resolver(scale, file)
    resolved = tuple(resolver.experiment(files[name]) for name in chosen)
    resolver.check(resolved)
    options = {"--scale": scale_name, "--seeds": seeds, "--experiments": experiments}
    return Study(
        # find_scale has seen to it that no other file has this name.
        Scale(
            scale.name,
            scale.title,
            scale.description,
            is_paper=scale.name == "paper",
            bundle=scale.bundle,
        ),
        resolved,
        resolver.runs,
        {key: str(value) for key, value in options.items() if value is not None},
    )


def whole_number(value: Any, key: str) -> int:
    """Return a value that has to be a whole number from 1 to ``LARGEST``.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
        raise config_error(key, value, "out of range", f"a whole number from 1 to {LARGEST}")
    return value


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Name a place in the message of an error that is raised within."""
    try:
        yield
    except (ConfigError, ReportError) as error:
        raise ConfigError(f"{where}: {error}") from None


@dataclass
class Resolver:
    """Resolves experiments at a scale, and gathers their runs."""

    scale: ScaleSpec
    file: Path
    """The scale's."""
    runs: dict[str, Run] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    """Indices of the overrides that some row has matched."""
    sparsities: set[float] = field(default_factory=set)
    """Of all rows, whichever of them the scale leaves out."""

    def check(self, experiments: Iterable[Experiment]) -> None:
        """Refuse a scale that leaves nothing to show, or that overrides nothing.

        Raises:
            ConfigError: names the key.
        """
        if not any(each.all_rows or each.theory for each in experiments):
            key = f"{self.file}: experiments, sparsities"
            allowed = "experiments with rows at these sparsities"
            raise config_error(key, None, "nothing is left to show", allowed)
        for number, sparsity in enumerate(self.scale.sparsities or ()):
            if self.sparsities and sparsity not in self.sparsities:
                key = f"{self.file}: sparsities.{number}"
                raise config_error(key, sparsity, "no row has it", sorted(self.sparsities))
        if self.scale.experiments is None and self.scale.sparsities is None:
            for number, override in enumerate(self.scale.overrides):
                if number not in self.used:
                    of = override.model_dump(include={"method", "task", "sparsity"})
                    key = f"{self.file}: overrides.{number}"
                    raise config_error(key, None, f"no row has {of}", "those of some row")

    def experiment(self, path: Path) -> Experiment:
        """Return one resolved experiment, its runs added to those of the study.

        Raises:
            ConfigError: names the file, the key, the value and what is allowed.
        """
        spec = read(path, ExperimentSpec)
        if spec.id != path.stem:
            raise config_error(f"{path}: id", spec.id, "not the name of the file", path.stem)
        settings: Mapping[str, Any] = {}
        if spec.theory is not None:
            settings = self._settings(spec.theory, spec.settings, path)
        copied = ("id", "kind", "title", "caption", "paper", "awaits", "reference", "columns")
        return Experiment(
            **{key: getattr(spec, key) for key in copied},
            rows=self._rows(spec, None, path) if spec.kind == "table" else (),
            panels=tuple(
                Panel(panel.plot, panel.title, self._rows(spec, panel, path))
                for panel in spec.panels
            ),
            theory=spec.theory,
            settings=settings,
        )

    def _settings(self, name: str, own: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return all settings of an experiment of the theory, overridden by the scale's."""
        with _at(f"{path}: settings"):
            theory.parse(name, own)
        with _at(f"{self.file}: theory.{name}"):
            settings = theory.parse(name, {**own, **self.scale.theory.get(name, {})})
        return settings.model_dump(mode="json")

    def _rows(self, spec: ExperimentSpec, panel: PanelSpec | None, path: Path) -> tuple[Row, ...]:
        """Return the rows of a table or a panel, one per sparsity, in ascending order of it."""
        rows, sparsities, task = spec.rows, spec.sparsities, spec.task
        if panel is not None:
            rows = rows if panel.rows is None else panel.rows
            sparsities = sparsities if panel.sparsities is None else panel.sparsities
            task = task if panel.task is None else panel.task
        if not rows or not (sparsities or all(row.sparsities for row in rows)):
            raise config_error(f"{path}: rows, sparsities", None, "empty", "one or more of each")
        pairs = [(row, s) for row in rows for s in row.sparsities or sparsities]
        self.sparsities |= {sparsity for _, sparsity in pairs}
        if self.scale.sparsities is not None:
            pairs = [(row, s) for row, s in pairs if s == 0 or s in self.scale.sparsities]
        pairs = [(row, s) for row, s in pairs if row.extend <= self.scale.max_extend]
        pairs.sort(key=lambda pair: pair[1])
        found = tuple(self._row(spec, row, s, row.task or task or "", path) for row, s in pairs)
        self._check_distinct(found, path)
        if panel is not None and panel.plot.startswith("relabelled"):
            relabelled = [name for name, images in IMAGES.items() if images.relabelled]
            for row in found:
                if row.task.dataset not in relabelled:
                    key = f"{path}: panels.plot ({self.file}: tasks.{row.task.name}): dataset"
                    raise config_error(key, row.task.dataset, "no label is random", relabelled)
        return found

    def _row(
        self, spec: ExperimentSpec, row: RowSpec, sparsity: float, task_name: str, path: Path
    ) -> Row:
        """Return one row at one sparsity, its runs added to those of the study."""
        paper = _paper_row(spec, row, sparsity, path)
        task = self.scale.tasks.get(task_name)
        if task is None:
            problem = f"not a task of scale {self.scale.name}"
            raise config_error(f"{path}: task", task_name, problem, self.scale.tasks)
        resolved = Task(task_name, task.model, task.chosen_dataset, task.epochs)
        found = [
            number
            for number, override in enumerate(self.scale.overrides)
            if override.matches(row, task_name, sparsity)
        ]
        if row.method is None or (row.settings_from_scale and not found):
            product = row.product or "sparse"
            return Row(row.label, row.method, sparsity, 0, product, (), (), paper, resolved)
        self.used.update(found)
        where = f"{path}: row {row.label!r} ({self.file}: tasks.{task_name})"
        overrides = [self.scale.overrides[number] for number in found]
        description = _description(spec, row, task, overrides)
        description |= {"sparsity": sparsity, "epochs": _epochs(row.extend, task.epochs, where)}
        own = task.seeds or spec.seeds
        own = own[:1] if spec.id in self.scale.single_seed else own
        seeds = row.seeds or self.scale.seeds or own
        configs = self._train(description, seeds, task.gpu, where)
        products = configs[0].method_class.products
        product = row.product or products[0]
        if product not in products:
            problem = f"not a product of method {row.method}"
            raise config_error(f"{where}: product", product, problem, products)
        companions: tuple[str, ...] = ()
        shown = any(COLUMNS[name].source == "fine_tuned" for name in spec.columns)
        shown |= any(panel.plot == "flips" for panel in spec.panels)
        if shown and row.companion == "dense":
            dense = RowSpec(label="Dense", method="dense", seeds=seeds)
            companions = self._row(spec, dense, 0.0, task_name, path).runs
        elif shown and row.method in FINE_TUNING:
            described = {**description, "method": FINE_TUNING[row.method]}
            tuned = self._train(described, seeds, task.gpu, where)
            companions = tuple(config.run_name for config in tuned)
        return Row(
            label=row.label,
            method=row.method,
            sparsity=sparsity,
            epochs=description["epochs"],
            product=product,
            runs=tuple(config.run_name for config in configs),
            fine_tuned=companions,
            paper=paper,
            task=resolved,
        )

    def _train(
        self, description: Mapping[str, Any], seeds: Sequence[int], gpus: int, where: str
    ) -> list[RunConfig]:
        """Return the runs of a row, added to those of the study with the runs they start from."""
        with _at(where):
            first = parse_run({**description, "seed": seeds[0]})
        configs = [first, *(first.with_seed(seed) for seed in seeds[1:])]
        for config in configs:
            self._add(config, gpus)
        return configs

    def _add(self, config: RunConfig, gpus: int) -> None:
        """Add a run to those of the study, after the run that it starts from."""
        start, parent = config.starts_from, config.parent
        if parent is not None:
            self._add(parent, gpus)
        before = 0 if start is None else config.epochs if start.epoch is None else start.epoch
        self.runs[config.run_name] = Run(
            config=config.plain(),
            parent=None if parent is None else parent.run_name,
            gpus=gpus,
            images=(config.epochs - before) * DATASETS[config.dataset].training_samples,
        )

    def _check_distinct(self, rows: Sequence[Row], path: Path) -> None:
        """Refuse rows with the same name, and two names for the same model."""
        named: set[tuple[str, float]] = set()
        shown: dict[tuple[str, str], str] = {}
        for row in rows:
            if (row.label, row.sparsity) in named:
                problem = f"two rows at sparsity {row.sparsity:g}"
                raise config_error(f"{path}: rows.label", row.label, problem, "another label")
            named.add((row.label, row.sparsity))
            for run in row.runs:
                other = shown.setdefault((run, row.product), row.label)
                if other != row.label:
                    problem = f"{other!r} and {row.label!r} are the same run, {run}"
                    allowed = "rows that differ in method, settings, recipe, epochs or product"
                    raise config_error(f"{path}: rows", None, problem, allowed)


def _description(
    spec: ExperimentSpec, row: RowSpec, task: TaskSpec, overrides: Sequence[Override]
) -> dict[str, Any]:
    """Return the configuration of a row's runs without sparsity, epochs and seed."""
    recipe, settings = task.recipe.model_dump(), dict[str, Any]()
    for override in overrides:
        recipe |= override.recipe
        settings |= override.settings
    return {
        "model": task.model,
        "dataset": task.chosen_dataset,
        "precision": task.precision,
        "method": row.method,
        "settings": {**settings, **row.settings},
        "recipe": {**recipe, **spec.recipe, **row.recipe},
    }


def _paper_row(spec: ExperimentSpec, row: RowSpec, sparsity: float, path: Path) -> PaperRow | None:
    """Return the paper's row for a row.

    Raises:
        ConfigError: the paper has no such row.
    """
    if row.paper is None:
        return None
    table = row.paper.table or (spec.paper if spec.kind == "table" else None)
    if table is None:
        problem = f"row {row.label!r} names none, and the experiment is no table of the paper"
        allowed = "the number of a table of the paper"
        raise config_error(f"{path}: rows.paper.table", None, problem, allowed)
    own = row.paper.sparsity
    given = row.paper.model_dump() | {"table": table, "sparsity": sparsity if own is None else own}
    found = PaperRow(**given)
    with _at(f"{path}: row {row.label!r}"):
        paper_values(found)
    return found


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
    raise config_error(
        f"{where}: extend",
        f"{extend:g}",
        f"{product:g} of the task's {epochs} epochs is no whole number",
        " or ".join(f"{n / epochs:.12g} ({n} epoch{'s' * (n > 1)})" for n in near),
    )
