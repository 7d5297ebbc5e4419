"""The study as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from acdc.data import DATASETS
from acdc.messages import duration
from acdc.run.reader import read_run
from acdc.run.sources import staleness
from reports import chapter, encoding, statements, text
from reports.aggregate import RunRow, Tables
from reports.claims import Judgement, counts
from reports.findings import findings
from reports.source import Source, build_table, draw_figure
from reports.statistics import Summary
from reports.tables import Table, requested
from reports.theory import Found, find
from study.columns import COLUMNS, SCORES
from study.model import Experiment, ReportError, Study

if TYPE_CHECKING:
    from acdc.methods.contract import SparseMethod
    from acdc.methods.describe import Setting


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    experiment: Experiment
    title: str
    progress: str
    """How many of its runs exist, where some are missing."""
    table: Table | None = None
    svg: Markup | None = None
    problem: str = ""
    """Why there is no figure."""

    @property
    def heading(self) -> str:
        """Its title, with mathematics in those of the theory."""
        return encoding.prose_to_html(self.title) if self.experiment.theory else self.title

    @property
    def missing(self) -> list[str]:
        """What the experiment does not show yet, and why."""
        reasons = self.table.missing if self.table else (self.experiment.awaits, self.problem)
        return [reason for reason in (*reasons, self.progress) if reason]


_LEGENDS = {
    "accuracy_by_flops": "Markers are means over seeds, dots the seeds, bars one sample standard "
    "deviation; the dashed line is the dense network.",
    "step_speedup": "Each point is a run; on the dashed line, time falls as FLOPs do.",
    "flips": "Bars: means over seeds.",
    "schedule": "In a dense phase, weights that were restored at zero and never moved still count "
    "as zeros.",
}
"""Remarks below a plot."""
_LINES = "Lines: means over seeds; bands: one sample standard deviation."


def report(source: Source, judgements: Sequence[Judgement] = ()) -> str:
    """Return the page as HTML: no scripts, no requests, a function of the results and the code.

    Args:
        source: what it shows.
        judgements: on the paper's claims, with which it opens.
    """
    study, rows = source.study, source.tables.rows
    found = find(source.folder, study)
    theory = chapter.chapter(found) if found else []
    shown = chapter.figures(theory)
    figures = {experiment.id: _section(source, experiment) for experiment in shown}
    sections = [
        _section(source, experiment)
        for experiment in study.experiments
        if experiment.kind != "theory"
    ]
    compared = [
        (section, findings(section.table))
        for section in sections
        if section.table is not None and SCORES & set(section.table.columns)
    ]
    stale = _stale(source.folder, source.tables)
    environment = encoding.html_environment()
    environment.filters |= _FILTERS
    return environment.get_template("report.html.j2").render(
        scale=study.scale,
        progress=source.tables.progress(study.runs),
        tasks=dict.fromkeys(text.task(t) for e in study.experiments for t in e.tasks),
        facts=facts(source.tables, stale),
        claims=_claims(judgements, sections),
        counts=counts(judgements),
        sections=sections,
        missing=_missing([*sections, *figures.values()], found),
        findings=[(section, results) for section, results in compared if results],
        chapter=theory,
        figures=figures,
        statements=[each for each in found if each.statements],
        prose=lambda text: chapter.to_html(text, shown),
        methods=methods(study),
        runs=source.tables.by_run,
        stale=stale,
        remark=_remark,
        refusals=[row for row in rows if row.certificate_holds is False],
        failures=[row for row in rows if row.status == "failed"],
        refused={(row.run, row.product) for row in rows if row.certificate_holds is False},
        columns=COLUMNS,
        legend=_legend,
        requested=requested,
        table_of_statements=statements,
    )


def _claims(
    judgements: Iterable[Judgement], sections: Iterable[Section]
) -> list[tuple[Section, list[Judgement]]]:
    """Return the judgements on the claims about each experiment of the study, in its order."""
    found = [
        (section, [each for each in judgements if each.claim.experiment == section.experiment.id])
        for section in sections
    ]
    return [(section, about) for section, about in found if about]


def methods(study: Study) -> list[tuple[type[SparseMethod[Any]], tuple[Setting, ...]]]:
    """Return the methods of the study's runs with their settings, in its order."""
    # Imports torch, which takes seconds; nothing else of the reports needs it.
    from acdc.methods.describe import settings
    from acdc.methods.registry import get_method

    names = dict.fromkeys(str(run.config["method"]) for run in study.runs.values())
    return [(method, settings(method)) for method in map(get_method, names)]


def _missing(
    sections: Iterable[Section], found: Iterable[Found]
) -> list[tuple[str, str, list[str]]]:
    """Return the anchor and title of what is not complete, and the reasons."""
    listed = [(each.experiment.id, each.heading, each.missing) for each in sections]
    listed += [
        ("page-theory", encoding.prose_to_html(f.experiment.title), [f.problem])
        for f in found
        if f.problem
    ]
    return [(anchor, title, reasons) for anchor, title, reasons in listed if reasons]


def _section(source: Source, experiment: Experiment) -> Section:
    title = text.title(experiment, source.study.scale)
    progress = source.tables.progress(experiment.runs)
    if experiment.kind == "table":
        return Section(experiment, title, progress, table=build_table(source, experiment))
    if experiment.kind == "figure" and not experiment.runs:
        return Section(experiment, title, progress, problem="no runs at this scale")
    from reports.figures.style import close, inline_svg, to_bytes

    try:
        figure = draw_figure(source, experiment)
    except ReportError as error:
        return Section(experiment, title, progress, problem=str(error))
    description = f"{title}. {experiment.caption}"
    if experiment.theory:
        description = encoding.prose_to_words(description)
    svg = inline_svg(to_bytes(figure, "svg", experiment.id), experiment.id, description)
    close(figure)
    # Made by matplotlib from numbers and labels, and escaped there.
    return Section(experiment, title, progress, svg=Markup(svg))


def _legend(experiment: Experiment) -> str:
    """Return the remarks below a figure on its lines."""
    plots = list(dict.fromkeys(panel.plot for panel in experiment.panels))
    parts = [_LINES] if set(plots) - {"accuracy_by_flops", "step_speedup", "flips"} else []
    return " ".join(parts + [_LEGENDS[plot] for plot in plots if plot in _LEGENDS])


def _stale(folder: Path, tables: Tables) -> dict[str, str]:
    """Return why the present code might not reproduce a run that has ended; empty: it made it."""
    ended = dict.fromkeys(row.run for row in tables.rows if row.status in ("finished", "diverged"))
    return {name: staleness(read_run(folder / "runs" / name)) for name in ended}


def _state_of_source(stale: Mapping[str, str]) -> str:
    """Return in words how many results were made by the current code."""
    count = sum(map(bool, stale.values()))
    if not stale:
        return "no result so far"
    if not count:
        return "all results were made by the current code"
    return f"of {len(stale)} results, {count} by other or unknown code; acdc stale lists them"


def facts(tables: Tables, stale: Mapping[str, str]) -> dict[str, str]:
    """Return what was run, where and from which source, in words."""
    each = [rows[0] for rows in tables.by_run.values()]
    refused = {row.run for row in tables.rows if row.certificate_holds is False}
    counts = Counter(row.status for row in each)
    parts = {"diverged": counts["diverged"], "refused": len(refused), "failed": counts["failed"]}
    left_out = " and ".join(f"{count} {what}" for what, count in parts.items() if count)
    there = tables.progress(tables.by_run) or f"{len(each)}"

    def total(field: str) -> str:
        return duration(sum(getattr(row, field) or 0.0 for row in each))

    def listed(words: Callable[[RunRow], str | None], separator: str = "; ") -> str:
        found = dict.fromkeys(filter(None, map(words, each)))
        return separator.join(found) or "not recorded"

    return {
        "Runs": there + (f", of which {left_out}" if left_out else ""),
        "Seeds": ", ".join(str(seed) for seed in sorted({row.seed for row in each})),
        "Training time": f"{total('train_s')} in total, "
        f"{total('wall_s')} with start-up and evaluation",
        "Hardware": listed(_hardware),
        "PyTorch": listed(lambda row: row.torch, ", "),
        "Source": listed(_revision),
        "State of the source": _state_of_source(stale),
    }


def _hardware(row: RunRow) -> str | None:
    if row.device is None:
        return None
    machine = f"{row.processor}, {row.cores} cores"
    return machine if row.device == "cpu" else f"{row.device} ({machine})"


def _revision(row: RunRow) -> str | None:
    if row.git_revision is None:
        return None
    return row.git_revision[:12] + ("" if row.git_clean else " with uncommitted changes")


def _remark(run: RunRow) -> str:
    """Return why a run has no models."""
    if run.status == "diverged":
        return f"the training loss was not finite in epoch {run.diverged_at}"
    return run.error or ("no result so far" if run.status == "missing" else "")


def _interval(summary: Summary, number: Callable[[float], str] = "{:.2f}".format) -> str:
    if summary.interval is None:
        return text.NO_ROW
    low, high = map(number, summary.interval)
    return f"[{low}, {high}]".replace("-", "\N{MINUS SIGN}")


def _number(value: float | None, form: str = ".3g") -> str:
    return text.NO_ROW if value is None else format(value, form)


def _score(row: RunRow, split: str) -> str:
    """Return the metric of a model on a split, with its unit."""
    found = vars(row)
    return DATASETS[row.dataset].metric.shown(found[f"{split}_accuracy"], found[f"{split}_loss"])


_FILTERS: dict[str, Callable[..., Any]] = {
    "cell": lambda summary: text.NO_ROW if summary.mean is None else text.mean_and_std(summary),
    "left_out": text.left_out,
    "interval": _interval,
    "number": _number,
    "percent": text.percent,
    "score": _score,
    "signed": text.signed,
    "signed_interval": lambda summary: _interval(summary, text.signed),
}
