"""A tiny study of real runs, trained once for all tests of the reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock

from acdc.config.run import RunConfig, parse_run
from acdc.run.lifecycle import Options, run
from acdc.step import Step
from reports.aggregate import aggregate, write_tables
from reports.cli import cli
from reports.outputs import Source
from study.model import read_study
from theory.experiment import parse, write

EPOCHS = 4
SEEDS = (1, 2, 3)
PHASES = {
    "schedule": None,
    "phases": [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3], ["sparse", 3, 4]],
}
THEORY: dict[str, dict[str, Any]] = {
    "lemmas": {"trials": 4},
    "t2_rate": {"trials": 2, "kappas": [2, 4, 8], "k_ratios": [1, 8], "n": 32, "iterations": 120},
}
"""The experiments of the theory, of which lemmas has no figure."""
TASK = {"name": "tiny", "model": "resnet8_s2", "dataset": "digits", "epochs": EPOCHS}


class Silent:
    """A reporter that says nothing."""

    def start(self, config: RunConfig, first: Step) -> None: ...
    def step(self) -> None: ...
    def epoch(self, record: dict[str, Any]) -> None: ...
    def say(self, text: str) -> None: ...


def describe(method: str, sparsity: float, seed: int, **more: Any) -> RunConfig:
    """Return a run of four epochs on digits."""
    return parse_run(
        {
            "model": "resnet8_s2",
            "dataset": "digits",
            "method": method,
            "settings": PHASES if method.startswith("acdc") else {},
            "sparsity": sparsity,
            "epochs": EPOCHS,
            "seed": seed,
            **more,
        }
    )


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A study's folder with runs, one of which diverged, theory, plan and tidy tables.

    Processes that share the tests share the folder too.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "tiny"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "tables" / "runs.parquet").exists():
            make_study(folder)
    return folder


OWN = [
    *("top1", "dense_top1", "zero_weights", "dead_filters", "dense_inference_ratio"),
    *("inference_ratio", "training_ratio", "published_ratio"),
]


def paper_row(
    table: str, method: str, variant: str, sparsity: float, cites: str = ""
) -> dict[str, Any]:
    """Return a row of the paper as the plan has it."""
    return {
        "table": table,
        "method": method,
        "variant": variant,
        "sparsity": sparsity,
        "cites": cites,
    }


def experiment(name: str, kind: str, title: str, **more: Any) -> dict[str, Any]:
    """Return an experiment as the plan has it."""
    return {
        "id": name,
        "kind": kind,
        "title": title,
        "caption": "What to see: 50% & more.",
        "paper": None,
        "awaits": None,
        "reference": None,
        "columns": [],
        "rows": [],
        "panels": [],
        **more,
    }


def panel(plot: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a panel as the plan has it."""
    return {"plot": plot, "title": "", "rows": rows}


def unprinted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the paper's."""
    return [row | {"paper": None} for row in rows]


def make_study(folder: Path) -> None:
    """Train the runs, run the theory, write the plan and the tidy tables."""
    runs: dict[str, RunConfig] = {}

    def train(*configs: RunConfig) -> list[str]:
        for config in configs:
            run(config, Options(folder / "runs"), Silent())
            runs[config.run_name] = config
        return [config.run_name for config in configs]

    def row(
        label: str, method: str | None, sparsity: float, names: list[str], **more: Any
    ) -> dict[str, Any]:
        return {
            "label": label,
            "method": method,
            "sparsity": sparsity,
            "epochs": EPOCHS,
            "product": "dense" if method == "dense" else "sparse",
            "runs": names,
            "fine_tuned": [],
            "paper": None,
            "task": TASK if names else None,
            **more,
        }

    dense = row(
        "Dense",
        "dense",
        0.0,
        train(*(describe("dense", 0, s) for s in SEEDS)),
        paper=paper_row("1", "Dense", "", 0.0),
    )
    acdc = row(
        "AC/DC",
        "acdc",
        0.9,
        train(*(describe("acdc", 0.9, s) for s in SEEDS)),
        paper=paper_row("1", "AC/DC", "global", 0.9),
    )
    gmp = row(
        "GMP_50% & co",
        "gmp",
        0.9,
        train(
            *(describe("gmp", 0.9, s) for s in SEEDS[:2]),
            # At this learning rate the loss is soon NaN: a run that really diverges.
            describe("gmp", 0.9, 3, recipe={"lr": 1e30}),
        ),
    )
    one_shot = row("One-shot", "one_shot", 0.9, train(describe("one_shot", 0.9, 1)))
    rigl = row(
        "RigL",
        "rigl",
        0.8,
        train(describe("rigl", 0.8, 1)),
        paper=paper_row("1", "RigL1x", "uniform", 0.8, cites="Evci et al. 2020"),
    )
    # Trained by nobody: cited alone, and still to be trained.
    cited = row(
        "STR",
        None,
        0.9,
        [],
        paper=paper_row("1", "STR", "", 0.9023, cites="Kusupati et al. 2020"),
    )
    awaited = row("Awaited", "woodfisher", 0.9, [], paper=paper_row("1", "WoodFisher", "", 0.9))
    tuned = acdc | {
        "fine_tuned": train(*(describe("acdc_dense", 0.9, s) for s in SEEDS)),
        "paper": paper_row("9", "AC/DC", "global*", 0.9),
    }
    language = [
        row("Dense", "dense", 0.0, [], paper=paper_row("4", "Dense", "", 0.0)),
        row("AC/DC", "acdc", 0.8, [], paper=paper_row("4", "AC/DC", "embeddings 50%", 0.8)),
    ]
    for name, settings in THEORY.items():
        write(name, parse(name, settings), folder / "theory" / name)
    rows = [dense, rigl, acdc, gmp, one_shot]
    ratios = ["inference_ratio", "training_ratio", "published_ratio"]
    companions = [
        dense | {"paper": paper_row("6", "Dense", "", 0.0)},
        tuned | {"paper": paper_row("6", "AC/DC*", "global, first+last dense", 0.9)},
    ]
    experiments = [
        *(
            experiment(f"theory_{name}", "theory", f"The ${name[0]}_1^\\ast$ & co", theory=name)
            for name in THEORY
        ),
        experiment("own", "table", "No paper", rows=unprinted(rows), columns=OWN),
        experiment("figure3", "figure", "Cost", panels=[panel("accuracy_by_flops", rows)]),
        experiment("figure2a", "figure", "Epochs", panels=[panel("schedule", [dense, acdc])]),
        experiment(
            "table9",
            "table",
            "Pairs",
            paper="9",
            rows=[dense | {"paper": None}, tuned, gmp],
            columns=["top1", "dense_top1", "dense_ft_top1", *ratios[:2], "agreement"],
        ),
        experiment(
            "table6",
            "table",
            "Dense models",
            paper="6",
            rows=companions,
            columns=["dense_top1", "dense_ft_top1"],
        ),
        experiment(
            "table4",
            "table",
            "Language",
            paper="4",
            awaits="Transformer-XL and WikiText-103",
            rows=language,
            columns=["sparse_ppl", "dense_ppl", "dense_ft_ppl"],
        ),
        experiment(
            "table1",
            "table",
            "Methods",
            paper="1",
            reference="AC/DC",
            rows=[*rows, cited, awaited],
            columns=["top1", *ratios],
        ),
    ]
    plan = {
        "scale": {"name": "tiny", "title": "Tiny scale <digits>", "description": "For tests."},
        "experiments": experiments,
        "runs": {name: {"config": config.plain()} for name, config in runs.items()},
    }
    (folder / "study.json").write_text(json.dumps(plan), encoding="utf-8")
    write_tables(folder, aggregate(folder, read_study(folder)))


@pytest.fixture(scope="session")
def source(study: Path) -> Source:
    """The study as the tables and figures see it."""
    plan = read_study(study)
    return Source(study, plan, aggregate(study, plan))


@pytest.fixture(scope="session")
def outputs(study: Path) -> Path:
    """The study's folder after every command has run."""
    commands = [
        ["aggregate"],
        ["table", "table1"],
        ["table", "own"],
        ["table", "table4"],
        ["table", "table6"],
        ["table", "table9"],
        ["figure", "figure3"],
        ["figure", "figure2a"],
        ["figure", "theory_t2_rate"],
        ["statements"],
        ["report"],
    ]
    with FileLock(study / ".lock"):
        if (study / "report.html").exists():
            return study
        for command in commands:
            result = CliRunner().invoke(
                cli, [*command, "--results", str(study)], catch_exceptions=False
            )
            assert result.exit_code == 0, result.output
    return study
