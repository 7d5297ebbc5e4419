"""A tiny study whose runs are drawn at random instead of trained, and helpers to look at it."""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from acdc.config.run import RunConfig, parse_run
from reports.cells import Line
from reports.cli import cli
from reports.source import Source, build_table
from study.columns import COLUMNS
from study.model import Experiment, Panel, PaperRow, Row, Run, Scale, Study, Task, write_study
from tests.support import epoch_line
from theory.experiment import parse, write

EPOCHS = 4
SEEDS = (1, 2, 3)
LAYERS = {"stem": 1_000, "body": 8_000, "head": 1_000}
PHASES = {
    "schedule": None,
    "phases": [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3], ["sparse", 3, 4]],
}
SPEEDUPS = {"acdc": 2.0, "rigl": 4.0}
"""Of the methods whose steps were measured."""
TASK = Task("tiny", "resnet8_s2", "digits", EPOCHS)
THEORY: dict[str, dict[str, Any]] = {
    "lemmas": {"trials": 2},
    "t2_rate": {"trials": 2, "kappas": [2, 4, 8], "k_ratios": [1, 8], "n": 32, "iterations": 120},
}
"""The experiments of the theory, of which lemmas has no figure."""


def configure(method: str, sparsity: float, seed: int, **more: Any) -> RunConfig:
    settings = PHASES if method.startswith("acdc") else {}
    values = {"model": TASK.model, "dataset": TASK.dataset, "method": method, "settings": settings}
    return parse_run({**values, "sparsity": sparsity, "epochs": EPOCHS, "seed": seed, **more})


def certificate(
    draw: random.Random, requested: float, exempt: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the certificate of a model that has what was requested of it, and a few zeros more."""
    layers = []
    for name, weights in LAYERS.items():
        kept = weights if name in exempt else round((1 - requested) * weights)
        layer = {"weights": weights, "kept": kept, "nonzeros": kept - draw.randrange(9)}
        layers.append({"name": name, **layer, "flops": 2 * layer["nonzeros"]})
    pruned = [layer for layer in layers if layer["name"] not in exempt]
    total = sum(layer["weights"] for layer in layers)
    return {
        "holds": True,
        "failures": [],
        "requested": requested,
        "tolerance": 0.0,
        "pruned": 1 - sum(x["kept"] for x in pruned) / sum(x["weights"] for x in pruned),
        "achieved": 1 - sum(layer["nonzeros"] for layer in layers) / total,
        "dead_filters": draw.randrange(9),
        "exempt": list(exempt),
        "layers": layers,
    }


def evaluation(draw: random.Random, epoch: int, certified: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": epoch,
        **{f"{part}_accuracy": draw.uniform(0.6, 0.9) for part in ("val", "test")},
        **{f"{part}_loss": draw.uniform(0.1, 2) for part in ("val", "test")},
        "inference_flops": draw.uniform(1e3, 2e4),
        "certificate": certified,
    }


def result_of(config: RunConfig, diverged: bool = False) -> dict[str, Any]:
    draw = random.Random(config.run_name)
    method = config.method_class
    exempt = ("stem",) if config.method == "rigl" else ()
    products = {
        product: {
            which: evaluation(
                draw,
                epoch,
                certificate(draw, config.sparsity if product == "sparse" else 0.0, exempt),
            )
            for which, epoch in (("last", EPOCHS - 1), ("best", EPOCHS - 2))
        }
        for product in method.products
    }
    dense = 60_000 * EPOCHS
    share = 1.0 if config.method == "dense" else draw.uniform(0.1, 0.9)
    changes = [
        {"epoch": epoch, "relative": 0.1 / epoch, "of_kept": 0.2 / epoch, "jaccard": 0.5}
        for epoch in (1, 2, 3)
    ]
    return {
        "schema": 2,
        "status": "diverged" if diverged else "finished",
        "run": config.run_name,
        "fingerprint": config.run_name.rpartition("-")[2],
        "config": config.plain(),
        "label": method.label,
        "variant": "",
        "primary": method.products[0],
        "flops": {
            "dense_inference": 20_000,
            "dense_training": dense,
            "training": share * dense,
            "training_published": 0.9 * share * dense if share < 1 else dense,
            "published_formula": f"formula of {config.method}",
        },
        "mask_changes": changes if config.method == "acdc" else [],
        "prunable_weights": sum(LAYERS.values()),
        "timings": {"wall_s": 2.0, "train_s": 1.5, "checkpoint_s": 0.1, "attempts": 1},
        "products": {} if diverged else products,
        **({"diverged_at": 1, "diverged": "loss"} if diverged else {"files": {}}),
    }


def journal_of(config: RunConfig) -> Iterable[dict[str, Any]]:
    """Yield the lines of a run's journal: dense and sparse phases alternate."""
    draw = random.Random(config.run_name)
    for epoch in range(EPOCHS):
        is_sparse = config.method != "dense" and epoch % 2 == 1
        if is_sparse:
            change = {"relative": 0.01, "of_kept": 0.02, "jaccard": 0.9} if epoch > 1 else None
            yield {"epoch": epoch, "event": "prune", "mask_change": change, "time": 0.0}
        yield epoch_line(
            epoch,
            phase="sparse" if is_sparse else "dense",
            sparsity=config.sparsity if is_sparse else 0.0,
            val_accuracy=draw.uniform(0.3, 0.9),
            forward_flops=1e4,
            nonzeros=LAYERS,
        )


def write_run(folder: Path, config: RunConfig, diverged: bool = False) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps(line) for line in journal_of(config)]
    result = result_of(config, diverged) | {"journal_lines": len(lines)}
    change_json(folder / "result.json", lambda data: data.update(result))
    (folder / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if config.method in SPEEDUPS:
        times = {"dense_s": 0.1, "sparse_s": 0.1 / SPEEDUPS[config.method]}
        layers = {"masked_layers": 2, "sparse_layers": 1, "threads": 1, "hardware": {}}
        step = {**times, **layers, "speedup": SPEEDUPS[config.method]}
        (folder / "step_time.json").write_text(json.dumps(step), encoding="utf-8")
    provenance = {
        "git": {"revision": "a" * 40, "clean": True},
        "hardware": {"processor": "Xeon", "cores": 2, "device": "cpu"},
        "packages": {"torch": "2.9"},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")


def change_json(path: Path, change: Any) -> None:
    """Apply a function to the data of a JSON file, which need not exist."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


OWN = (
    *("top1", "dense_top1", "zero_weights", "dense_dead_filters", "dense_inference_ratio"),
    *("inference_ratio", "training_ratio", "time_ratio", "published_ratio"),
)
RATIOS = ("inference_ratio", "training_ratio", "published_ratio")


def experiment(name: str, kind: Any, title: str, **more: Any) -> Experiment:
    values: dict[str, Any] = {
        **dict.fromkeys(("paper", "awaits", "reference")),
        **dict.fromkeys(("columns", "rows", "panels"), ()),
        "caption": "What to see: 50% & more.",
    }
    return Experiment(id=name, kind=kind, title=title, **(values | more))


def row(label: str, method: str | None, sparsity: float, **more: Any) -> Row:
    """Return a row of the study; without runs unless they are given."""
    values: dict[str, Any] = {
        "epochs": EPOCHS,
        "product": "dense" if method == "dense" else "sparse",
        "runs": (),
        "fine_tuned": (),
        "paper": None,
        "task": TASK,
    }
    return Row(label=label, method=method, sparsity=sparsity, **(values | more))


def experiments_of(names: Mapping[str, tuple[str, ...]]) -> list[Experiment]:
    dense = row("Dense", "dense", 0.0, runs=names["dense"], paper=PaperRow("1", "Dense", "", 0.0))
    paper = PaperRow("1", "AC/DC", "global", 0.9)
    acdc = row("AC/DC", "acdc", 0.9, runs=names["acdc"], paper=paper)
    gmp = row("GMP_50% & co", "gmp", 0.9, runs=names["gmp"])
    one_shot = row("One-shot", "one_shot", 0.9, runs=names["one_shot"])
    paper = PaperRow("1", "RigL1x", "uniform", 0.8, cites="Evci et al. 2020")
    rigl = row("RigL", "rigl", 0.8, runs=names["rigl"], paper=paper)
    # Without runs: cited alone, and not trained yet.
    paper = PaperRow("1", "STR", "", 0.9023, cites="Kusupati et al. 2020")
    cited = row("STR", None, 0.9, paper=paper)
    awaited = row("Awaited", "woodfisher", 0.9, paper=PaperRow("1", "WoodFisher", "", 0.9))
    paper = PaperRow("9", "AC/DC", "global*", 0.9)
    tuned = replace(acdc, fine_tuned=names["acdc_dense"], paper=paper)
    language = (
        row("Dense", "dense", 0.0, paper=PaperRow("4", "Dense", "", 0.0)),
        row("AC/DC", "acdc", 0.8, paper=PaperRow("4", "AC/DC", "embeddings 50%", 0.8)),
    )
    companions = (
        replace(dense, paper=PaperRow("6", "Dense", "", 0.0)),
        replace(tuned, paper=PaperRow("6", "AC/DC*", "global, first+last dense", 0.9)),
    )
    rows = (dense, rigl, acdc, gmp, one_shot)
    unprinted = tuple(replace(each, paper=None) for each in rows)
    pairs = ("top1", "dense_top1", "dense_ft_top1", *RATIOS[:2], "latency_batch1")
    awaits = COLUMNS["latency_batch1"].awaits
    perplexities = ("sparse_ppl", "dense_ppl", "dense_ft_ppl", "latency_batch1")
    tables = {
        "table9": ("Pairs", "9", pairs, (replace(dense, paper=None), tuned, gmp), {}),
        "table6": ("Dense models", "6", ("dense_top1", "dense_ft_top1"), companions, {}),
        "table4": ("Language", "4", perplexities, language, {"awaits": awaits}),
        "table1": (
            *("Methods", "1", ("top1", *RATIOS), (*rows, cited, awaited)),
            {"reference": "AC/DC"},
        ),
    }
    return [
        *(
            experiment(
                *(f"theory_{name}", "theory", f"The ${name[0]}_1^\\ast$ & co"),
                theory=name,
                settings=parse(name, settings).model_dump(mode="json"),
            )
            for name, settings in THEORY.items()
        ),
        experiment("own", "table", "No paper", columns=OWN, rows=unprinted),
        experiment("figure3", "figure", "Cost", panels=(Panel("accuracy_by_flops", "", rows),)),
        experiment("figure2a", "figure", "Epochs", panels=(Panel("schedule", "", (dense, acdc)),)),
        *(
            experiment(name, "table", title, paper=paper, columns=columns, rows=shown, **more)
            for name, (title, paper, columns, shown, more) in tables.items()
        ),
    ]


def make_study(folder: Path) -> None:
    configs = {
        "dense": [configure("dense", 0, seed) for seed in SEEDS],
        "acdc": [configure("acdc", 0.9, seed) for seed in SEEDS],
        "gmp": [configure("gmp", 0.9, seed) for seed in SEEDS],
        "one_shot": [configure("one_shot", 0.9, 1)],
        "rigl": [configure("rigl", 0.8, 1)],
        "acdc_dense": [configure("acdc_dense", 0.9, seed) for seed in SEEDS],
    }
    runs = {config.run_name: config for group in configs.values() for config in group}
    for name, config in runs.items():
        # The third run of GMP has diverged.
        write_run(folder / "runs" / name, config, config.method == "gmp" and config.seed == 3)
    for name, settings in THEORY.items():
        write(name, parse(name, settings), folder / "theory" / name)
    names = {key: tuple(config.run_name for config in group) for key, group in configs.items()}
    study = Study(
        Scale("tiny", "Tiny scale <digits>", "For tests."),
        tuple(experiments_of(names)),
        {
            name: Run(config.plain(), config.parent.run_name if config.parent else None)
            for name, config in runs.items()
        },
    )
    write_study(study, folder / "study.json")


def invoke(*arguments: str | Path) -> Any:
    """Run a command of the reports that succeeds."""
    done = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def runs_of(source: Source, method: str, *seeds: int) -> list[str]:
    return [
        row.run
        for row in (rows[0] for rows in source.tables.by_run.values())
        if row.method == method and row.seed in (seeds or SEEDS)
    ]


def line_of_method(source: Source, method: str | None, table: str = "table1") -> Line:
    lines = build_table(source, source.study.experiment(table)).lines
    return next(line for line in lines if line.row.method == method)


def words(figure: Any) -> str:
    texts = [item.get_text() for item in figure.findobj() if hasattr(item, "get_text")]
    return " ".join(" ".join(texts).split())


def check_layout(figure: Any) -> None:
    """Assert that the parts of a figure neither overlap nor leave it."""
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [found.get_window_extent() for found in figure.legends]
    boxes += [text.get_window_extent() for text in figure.texts if text.get_text()]
    for index, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= -1
        assert max(box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1) <= 1
        for other in boxes[index + 1 :]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) <= 1
