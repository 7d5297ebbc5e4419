"""From experiments and a scale to rows and the runs that they show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import study.plan
from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS
from acdc.errors import ConfigError
from acdc.messages import accepted
from acdc.methods.contract import Product
from study.columns import COLUMNS
from study.paper import paper_values
from study.schema import FINE_TUNING, Experiment, Panel, Row, Scale, read
from theory import experiment as theory

# What no scale has anything for yet; an experiment that needs it says what it awaits.
AWAITED_TASKS = ("wikitext103-transformer_xl",)


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
        if read_from.theory is not None:
            plain["theory"] = read_from.theory
            plain["settings"] = self.settings(read_from.theory, read_from.settings, path)
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

    def settings(self, name: str, own: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Return all settings of an experiment of the theory, the scale's before its own."""
        try:
            theory.parse(name, own)
        except ConfigError as error:
            raise ConfigError(f"{path}: settings: {error}") from None
        try:
            settings = theory.parse(name, _merged(own, self.scale.theory.get(name, {})))
        except ConfigError as error:
            raise ConfigError(f"{self.file}: theory.{name}: {error}") from None
        return settings.model_dump(mode="json")

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
            paper_values(study.plan.PaperRow(**plain))
        except study.plan.ReportError as error:
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
