"""An accuracy table as LaTeX, CSV and JSON, all from the same cells."""

from __future__ import annotations

import csv
import io
from typing import Any

from reports import text
from reports.cells import Cells, Table
from reports.latex import escape, render
from reports.plan import Scale
from reports.statistics import Summary

_PAPER_METRICS = ("top1", "inference_flops_ratio", "train_flops_ratio")


def caption(table: Table) -> str:
    """Return the caption as plain text: what is shown, at which scale, over how many seeds."""
    task = table.experiment.needed_task()
    low, high = table.seeds
    seeds = f"{high}" if low == high else f"{low} to {high}"
    parts = [
        table.experiment.caption,
        f"{scale_note(table.scale)} {task.model} on {task.dataset}, {task.epochs} epochs.",
        "Top-1: test accuracy in per cent after the last epoch, mean ± sample standard deviation "
        f"over n runs with different seeds (n = {seeds}; none is given for n = 1). Runs that "
        "diverged, and runs that are refused since the sparsity certificate of their model does "
        "not hold, are counted, not averaged.",
        "Sparsity: asked of the layers that a method does not leave dense, and pruned there; zero: "
        "of all prunable weights, whatever the reason.",
        "FLOPs: of one inference and of the whole training, as a fraction of the dense network's "
        f"and of its {task.epochs} epochs; the dense row is absolute. Training: by the paper's "
        "accounting, common to all, and as the method's own publication counts it (formulas: "
        "Methods).",
    ]
    if table.paper_setting:
        parts.append(paper_note(table))
    return " ".join(parts)


def scale_note(scale: Scale) -> str:
    """Return the scale in a few words, with a warning unless it is the paper's."""
    title = scale.title.rstrip(".")
    return f"{title}." if scale.is_paper else f"{title} (not the paper's scale)."


def paper_note(table: Table) -> str:
    """Return what the paper's columns hold and what their marks mean."""
    others = {r.row.paper.table for r in table.rows if r.row.paper and r.row.paper.table}
    numbers = " and ".join(sorted({str(table.experiment.paper_table), *others}))
    note = f"Paper: the values of the paper's Table {numbers}"
    note += f", {table.paper_setting}"
    if not table.scale.is_paper:
        note += "; another network and data set, so not comparable with the columns beside them"
    note += f"; unknown: printed there, but not known here; {text.NO_ROW}: no such number there."
    if any(
        value is not None and value.is_marked
        for cells in table.rows
        for value in (cells.paper_value(metric) for metric in _PAPER_METRICS)
    ):
        note += (
            " † counted, inferred from the paper's text, or from the compared method's own"
            " publication."
        )
    return note


def to_csv(table: Table) -> str:
    """Return the cells in full precision, one line a row."""
    buffer = io.StringIO()
    lines = [_flat(cells) for cells in table.rows]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _flat(cells: Cells) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "label": cells.row.label,
        "method": cells.row.method,
        "product": cells.row.product,
        "sparsity_requested_pct": 100 * cells.row.sparsity,
        "n": cells.top1.n,
        "diverged": cells.top1.diverged,
        "refused": cells.top1.refused,
        "notes": " ".join(cells.notes),
        "exempt": " ".join(cells.exempt),
    }
    for name, summary in _summaries(cells).items():
        low, high = summary.interval or (None, None)
        flat |= {f"{name}_mean": summary.mean, f"{name}_std": summary.std}
        flat |= {f"{name}_ci95_low": low, f"{name}_ci95_high": high}
    for metric in _PAPER_METRICS:
        value = cells.paper_value(metric)
        flat[f"paper_{metric}"] = (
            value.value if value and value.value is not None else text.paper_text(value)
        )
        flat[f"paper_{metric}_confidence"] = value.confidence if value else ""
    flat["published_formula"] = cells.published_formula
    flat["runs"] = " ".join(cells.row.runs)
    return flat


def _summaries(cells: Cells) -> dict[str, Summary]:
    nothing = Summary(None, None, 0)
    return {
        "sparsity_achieved_pct": cells.sparsity,
        "sparsity_pruned_layers_pct": cells.pruned,
        "top1_pct": cells.top1,
        "top1_best_pct": cells.top1_best,
        "dense_top1_pct": cells.dense_top1 or nothing,
        "inference_flops": cells.inference_flops,
        "inference_ratio": cells.inference_ratio,
        "training_flops": cells.training_flops,
        "training_ratio": cells.training_ratio,
        "training_flops_published": cells.published_flops,
        "training_ratio_published": cells.published_ratio,
    }


def to_json(table: Table) -> dict[str, Any]:
    """Return the table as plain data: caption, scale, and each row's cells with their runs."""
    return {
        "id": table.experiment.id,
        "title": table.experiment.title,
        "caption": caption(table),
        "scale": table.scale.name,
        "paper_setting": table.paper_setting,
        "rows": [
            {
                "label": cells.row.label,
                "method": cells.row.method,
                "product": cells.row.product,
                "sparsity": cells.row.sparsity,
                "epochs": cells.row.epochs,
                "runs": list(cells.row.runs),
                "exempt": list(cells.exempt),
                "refused": [
                    {"run": refusal.run, "seed": refusal.seed, "reasons": list(refusal.reasons)}
                    for refusal in (*cells.refusals, *cells.dense_refusals)
                ],
                "notes": list(cells.notes),
                "published_formula": cells.published_formula,
                **{name: _plain(summary) for name, summary in _summaries(cells).items()},
                "paper": {
                    metric: value and {**vars(value)}
                    for metric in _PAPER_METRICS
                    for value in (cells.paper_value(metric),)
                },
            }
            for cells in table.rows
        ],
    }


def _plain(summary: Summary) -> dict[str, Any]:
    return {**vars(summary), "ci95": summary.interval}


def to_latex(table: Table) -> str:
    """Return a complete table environment for booktabs and siunitx (3 or later)."""
    task = table.experiment.needed_task()
    return render(
        "table.tex.j2",
        table=table,
        caption=escape(caption(table)),
        setting=escape(f"{task.model}, {task.dataset}"),
        top1_format=_number_format([cells.top1 for cells in table.rows]),
        dense_format=_number_format([c.dense_top1 for c in table.rows if c.dense_top1]),
        lines=[_latex_line(cells) for cells in table.rows],
        notes=[escape(note) for note in table.notes],
    )


def _latex_line(cells: Cells) -> dict[str, Any]:
    return {
        "sparsity": cells.row.sparsity,
        "label": escape(cells.row.label),
        "requested": requested(cells),
        "pruned": _latex_percent(cells.pruned),
        "achieved": _latex_percent(cells.sparsity),
        "n": f"{cells.top1.n}" + ("$^\\ast$" if cells.notes else ""),
        "top1": _latex_accuracy(cells.top1),
        "dense_top1": _latex_accuracy(cells.dense_top1),
        "inference": _latex_flops(cells, cells.inference_ratio, cells.inference_flops),
        "training": _latex_flops(cells, cells.training_ratio, cells.training_flops),
        "published": _latex_flops(cells, cells.published_ratio, cells.published_flops),
        "paper": [
            escape(paper_top1(cells)),
            escape(paper_inference(cells)),
            escape(paper_training(cells)),
        ],
    }


_NONE = "{--}"


def requested(cells: Cells) -> str:
    """Return the sparsity, per cent, that a model was asked for; a dense model of a sparse row."""
    if cells.row.product == "dense" and cells.row.sparsity:
        return "dense"
    return f"{100 * cells.row.sparsity:.6g}"


def _latex_percent(summary: Summary) -> str:
    return _NONE if summary.mean is None else f"{summary.mean:.2f}"


def _latex_accuracy(summary: Summary | None) -> str:
    """Return two cells, the mean and its spread.

    siunitx leaves out an uncertainty of 0.00, which is a result here, hence a cell of its own.
    """
    if summary is None:
        return f"{_NONE} &"
    if summary.mean is None:
        return f"\\multicolumn{{2}}{{c}}{{{text.left_out(summary)}}}"
    spread = "" if summary.std is None else f"$\\pm$ \\num{{{summary.std:.2f}}}"
    return f"{summary.mean:.2f} & {spread}"


def _latex_flops(cells: Cells, ratio: Summary, flops: Summary) -> str:
    if ratio.mean is None or flops.mean is None:
        return _NONE
    if cells.is_dense:
        return f"{{{escape(' '.join(text.engineering(flops.mean)))}}}"
    return f"{ratio.mean:.3f}"


def _number_format(summaries: list[Summary]) -> str:
    """Return the siunitx table-format that leaves room for the widest mean."""
    means = [summary.mean for summary in summaries if summary.mean is not None]
    return f"{max((len(f'{mean:.2f}') - 3 for mean in means), default=2)}.2"


def paper_top1(cells: Cells) -> str:
    """Return the paper's accuracy as text."""
    return text.paper_text(cells.paper_value("top1"))


def paper_inference(cells: Cells) -> str:
    """Return the paper's inference FLOPs: a fraction of dense, for the dense row absolute."""
    return _paper_flops(cells, "inference_flops_ratio", "inference_gflops", 1e9)


def paper_training(cells: Cells) -> str:
    """Return the paper's training FLOPs: a fraction of dense, for the dense row absolute."""
    return _paper_flops(cells, "train_flops_ratio", "train_eflops", 1e18)


def _paper_flops(cells: Cells, ratio: str, absolute: str, unit: float) -> str:
    value = cells.paper_value(absolute) if cells.is_dense else None
    if value is not None and value.value is not None:
        return " ".join(text.engineering(value.value * unit)) + ("†" if value.is_marked else "")
    return text.paper_text(cells.paper_value(ratio))
