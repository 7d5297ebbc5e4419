"""A table before it is typeset: its lines, its caption and its notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports import text
from reports.aggregate import Tables
from reports.cells import Line, line_of, remarks
from reports.models import explain
from study.columns import COLUMNS
from study.model import Experiment, ReportError, Scale
from study.paper import paper_metrics, paper_setting


@dataclass(frozen=True)
class Table:
    """A table before it is typeset."""

    experiment: Experiment
    scale: Scale
    title: str
    caption: str
    """Plain text: what is shown, at which scale, over how many seeds."""
    lines: tuple[Line, ...]
    shows_own: bool
    """Whether any column is of the rows' own products, whose sparsity is then shown too."""
    paper_columns: tuple[str, ...]
    """The columns of which the paper's tables have any number."""
    notes: tuple[str, ...]
    """What is missing from the means, and why."""
    nearby: tuple[str, ...]
    """A sentence on the rows that are beside one of the paper at another sparsity, if any."""
    citations: tuple[str, ...]
    """Sources of cited values, one sentence per label and publication."""
    missing: tuple[str, ...]
    """What does not exist yet, and what it waits for."""
    progress: str
    """How many of its runs exist, where some are missing."""
    columns: tuple[str, ...]
    """The names of its columns; without the measured time where none is, as on GPUs."""


def table_of(experiment: Experiment, scale: Scale, tables: Tables) -> Table:
    """Return an experiment's table.

    Raises:
        ReportError: the experiment has no rows.
    """
    if not experiment.rows:
        raise ReportError(f"experiment {experiment.id} of kind {experiment.kind} has no rows")
    lines = tuple(line_of(row, experiment.columns, tables) for row in experiment.rows)
    columns = tuple(
        name
        for name in experiment.columns
        if name != "time_ratio" or any(line.cells[name].summary.n for line in lines)
    )
    papers = {row.paper.table for row in experiment.rows if row.paper}
    papers_sorted = sorted(papers, key=lambda table: (not table.isdigit(), len(table), table))
    metrics = paper_metrics(papers_sorted)
    paper_columns = tuple(name for name in columns if metrics.intersection(COLUMNS[name].metrics))
    shows_own = any(COLUMNS[name].source == "row" for name in columns)
    missing = _missing(experiment)
    progress = tables.progress(experiment.runs)
    setting = paper_setting(papers_sorted)
    caption = [
        f"{experiment.caption} {text.scale_note(scale)}",
        *_about_runs(experiment, lines),
        *_about_columns(columns, lines, shows_own),
        *(
            [_about_paper(papers_sorted, setting, scale, lines, paper_columns)]
            if paper_columns
            else []
        ),
        *explain(note for line in lines for note in line.notes),
        *_sentence("Not there yet", missing),
        *([f"{progress}."] if progress else []),
    ]
    return Table(
        experiment=experiment,
        scale=scale,
        title=text.title(experiment, scale),
        caption=" ".join(caption),
        lines=lines,
        shows_own=shows_own,
        paper_columns=paper_columns,
        notes=tuple(remarks(lines, tables, experiment.runs)),
        nearby=tuple(_sentence("The paper's row is at another sparsity", _nearby(lines))),
        citations=tuple(_citations(lines, paper_columns)),
        missing=missing,
        progress=progress,
        columns=columns,
    )


def _sentence(what: str, parts: Sequence[str]) -> list[str]:
    return [f"{what}: {'; '.join(parts)}."] if parts else []


def _about_runs(experiment: Experiment, lines: Iterable[Line]) -> Iterable[str]:
    """Yield what is trained, and what the means are over."""
    if experiment.tasks:
        yield f"{'; '.join(map(text.task, experiment.tasks))}."
    counts = [line.counts.runs for line in lines if line.counts.runs]
    if not counts:
        return
    low, high = min(counts), max(counts)
    seeds = f"{high}" if low == high else f"{low} to {high}"
    yield (
        "Mean ± sample standard deviation over n runs with different seeds "
        f"(n = {seeds}; none is given for n = 1), after the last epoch. Runs that diverged, failed "
        "with an error that would recur, have no result so far, or are refused, since the sparsity "
        "certificate of their model does not hold, are counted, not averaged."
    )


def _about_columns(columns: Sequence[str], lines: Iterable[Line], shows_own: bool) -> Iterable[str]:
    """Yield what the columns mean."""
    shown = set(columns)
    if any(COLUMNS[name].heading.endswith("top-1 (%)") for name in columns):
        yield "Top-1: test accuracy."
    if any(COLUMNS[name].form == "perplexity" for name in columns):
        yield "Perplexity: of the test text, per token; lower is better."
    asked = "Sparsity: asked of the layers that a method does not leave dense"
    if shows_own:
        yield f"{asked}, and pruned there; zero: of all prunable weights, whatever the reason."
        if any(line.own_sparsity for line in lines):
            yield "A dash: the sparsity is an outcome of the method; pruned: mean ± deviation."
    else:
        yield f"{asked}, of the sparse model that belongs to the dense ones shown."
    if shown & {"inference_ratio", "dense_inference_ratio"}:
        yield "Inference FLOPs: of one image or token, as a fraction of the dense network's."
    if shown & {"training_ratio", "published_ratio"}:
        published = ", and as the method's own publication counts it (formulas: Methods)"
        yield (
            "Training FLOPs: of the whole training, as a fraction of dense training for the "
            "task's epochs, by the paper's accounting, common to all"
            + (published if "published_ratio" in shown else "")
            + "."
        )
    if "time_ratio" in shown:
        yield (
            "Measured time: of training, dense = 1, if the epochs whose masks hold use sparse "
            "products (--kernels auto) on a CPU; forward and backward passes timed in turns with "
            f"dense ones, at the end of each run. {text.NO_ROW}: not measured."
        )
    if any(COLUMNS[name].absolute for name in columns) and any(line.is_dense for line in lines):
        yield "FLOPs of the dense row are absolute."


def _about_paper(
    papers: Iterable[str],
    setting: str,
    scale: Scale,
    lines: Iterable[Line],
    paper_columns: Iterable[str],
) -> str:
    """Return what the paper's columns hold and what their marks mean."""
    numbers = " and ".join(f"Table {n}" if n.isdigit() else n for n in papers)
    note = f"Paper: the values of the paper's {numbers}, {setting}"
    if not scale.is_paper:
        note += "; another network and data set, so not comparable with the columns beside them"
    note += f"; unknown: printed there, but not known here; {text.NO_ROW}: no such number there."
    cells = [line.cells[name].paper for line in lines for name in paper_columns]
    marks = {cell.shown.mark for cell in cells if cell.shown}
    if "†" in marks:
        note += (
            " † counted, inferred from the paper's text, or from the compared method's own"
            " publication."
        )
    return note + (" ‡ cited, see below." if "‡" in marks else "")


def _nearby(lines: Iterable[Line]) -> list[str]:
    return [
        f"{line.row.label}, {text.percent(line.row.sparsity)} (at {text.percent(theirs)})"
        for line in lines
        for theirs in (line.paper_sparsity,)
        if theirs is not None and theirs != line.row.sparsity
    ]


def _citations(lines: Iterable[Line], paper_columns: Sequence[str]) -> Iterable[str]:
    found: dict[str, dict[str, dict[str, None]]] = {}
    for line in lines:
        by = f": {line.row.paper.cites}" if line.row.paper and line.row.paper.cites else ""
        for name in paper_columns:
            value = line.cells[name].paper.value
            if value is not None and value.mark == "‡":
                sources = found.setdefault(f"{line.row.label}{by}", {})
                sources.setdefault(value.source, {})[text.percent(line.row.sparsity)] = None
    for who, sources in found.items():
        cited = "; ".join(f"{source} ({', '.join(where)})" for source, where in sources.items())
        yield f"{who}: {cited}."


def _missing(experiment: Experiment) -> tuple[str, ...]:
    waits: dict[str, list[str]] = {}
    for name in experiment.columns:
        if awaits := COLUMNS[name].awaits:
            waits.setdefault(awaits, []).append(COLUMNS[name].heading)
    found = [f"{' and '.join(names)}: {awaits}" for awaits, names in waits.items()]
    if experiment.awaits and experiment.awaits not in waits:
        found.append(experiment.awaits)
    empty = dict.fromkeys(
        f"{row.label} at {text.percent(row.sparsity)}"
        for row in experiment.rows
        if row.method is not None and not row.runs
    )
    if empty and not found:
        found.append(f"no runs at this scale: {', '.join(empty)}")
    return tuple(found)


def requested(line: Line) -> str:
    """Return the sparsity, per cent, that a model was asked for; a dense model of a sparse row.

    A dash for a method whose sparsity is an outcome.
    """
    if line.own_sparsity:
        return text.NO_ROW
    if line.row.product == "dense" and line.row.sparsity:
        return "dense"
    return f"{100 * line.row.sparsity:.6g}"
