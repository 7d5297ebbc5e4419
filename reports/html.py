"""The whole study as one self-contained page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import chapter, maths, statements, tables, text
from reports.aggregate import FAILURES, MISSING, so_far
from reports.cells import FLOPS, Cells, Table
from reports.findings import findings
from reports.latex import TEMPLATES
from reports.methods import methods
from reports.outputs import Source, TableKind, build_table, draw_figure, kind_of
from reports.statistics import Summary
from reports.theory import Found, find
from study.columns import COLUMNS
from study.model import Experiment, ReportError

if TYPE_CHECKING:
    from acdc.run.sources import Standing


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    experiment: Experiment
    title: str
    table: Table | None = None
    svg: Markup | None = None
    problem: str = ""
    """Why there is no figure."""
    so_far: str = ""
    """How many of its runs are there, where some are missing."""


_LEGENDS = {
    "accuracy_by_flops": "Markers are means over seeds, bars one sample standard deviation; the "
    "dashed line is the dense network.",
    "schedule": "In a dense phase, weights that were restored at zero and never moved still count "
    "as zeros.",
}
"""What a plot needs said below it, beside what it says itself."""
_LINES = "Lines: means over seeds; bands: one sample standard deviation."


def report(source: Source) -> str:
    """Return the page as HTML: no scripts, no requests, a function of the results and the code."""
    found = find(source.study, source.plan)
    theory = chapter.chapter(found) if found else []
    shown = chapter.figures(theory)
    figures = {experiment.id: _section(source, experiment) for experiment in shown}
    sections = [
        _section(source, experiment)
        for experiment in ordered(source.plan.experiments)
        if experiment.kind != "theory"
    ]
    refused = refusals(source.tables.runs)
    standings = standings_of(source)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    compared = [
        (section, findings(section.table, source.tables.runs))
        for section in sections
        if section.table is not None and "top1" in section.table.columns
    ]
    return environment.get_template("report.html.j2").render(
        plan=source.plan,
        so_far=so_far(source.plan.runs, source.tables.runs),
        facts=facts(source.tables.runs, standings),
        tasks=_tasks(source),
        sections=sections,
        missing=_missing([*sections, *figures.values()], found),
        findings=[(section, results) for section, results in compared if results],
        chapter=theory,
        figures=figures,
        statements=[each for each in found if each.statements],
        prose=lambda text: chapter.to_html(text, shown),
        methods=methods(source.plan),
        runs=run_list(source.tables.runs, standings),
        refusals=refused,
        failures=failures(source.tables.runs),
        refused={(refusal["run"], refusal["product"]) for refusal in refused},
        fingerprints=dict(
            zip(source.tables.runs["run"], source.tables.runs["fingerprint"], strict=True)
        ),
        seeds=dict(zip(source.tables.runs["run"], source.tables.runs["seed"], strict=True)),
        columns=COLUMNS,
        legend=_legend,
        hint=_hint,
        typeset=tables,
        table_of_statements=statements,
    )


def ordered(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Return the paper's tables by number, then its figures, then the suite's own experiments."""

    def place(experiment: Experiment) -> tuple[int, int, str]:
        number = re.match(r"\d+", experiment.paper or "")
        if number is None:
            return 2, 0, ""
        return int(experiment.kind != "table"), int(number.group()), experiment.paper or ""

    return sorted(experiments, key=place)


def missing(section: Section) -> tuple[str, ...]:
    """Return what an experiment does not show yet, and what that waits for."""
    if section.table is not None:
        return tuple(filter(None, (*section.table.missing, section.so_far)))
    return tuple(filter(None, (section.experiment.awaits, section.problem, section.so_far)))


def _missing(
    sections: Iterable[Section], found: Iterable[Found]
) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the anchor and title of what is not all there, and what it waits for."""
    listed = [(each.experiment.id, each.title, missing(each)) for each in sections]
    listed += [("page-theory", each.experiment.title, (each.problem,)) for each in found]
    return [(anchor, title, reasons) for anchor, title, reasons in listed if any(reasons)]


def _section(source: Source, experiment: Experiment) -> Section:
    title = text.title(experiment, source.plan.scale)
    count = so_far(experiment.runs, source.tables.runs)
    if isinstance(kind_of(experiment), TableKind):
        return Section(experiment, title, table=build_table(source, experiment), so_far=count)
    if experiment.kind == "figure" and not experiment.runs:
        return Section(experiment, title, problem="no runs at this scale")
    from reports.figures.style import close, inline_svg, to_bytes

    try:
        figure = draw_figure(source, experiment)
    except ReportError as error:
        # None of its runs is averaged; the rest of the page is worth having.
        return Section(experiment, title, problem=str(error), so_far=count)
    description = maths.to_words(f"{title}. {experiment.caption}")
    svg = inline_svg(to_bytes(figure, "svg", experiment.id), experiment.id, description)
    close(figure)
    # Made by matplotlib from numbers and labels, and escaped there.
    return Section(experiment, title, svg=Markup(svg), so_far=count)


def _legend(experiment: Experiment) -> str:
    """Return what is said below a figure about its lines and its tasks."""
    plots = list(dict.fromkeys(panel.plot for panel in experiment.panels))
    parts = [_LINES] if set(plots) - {"accuracy_by_flops"} else []
    parts += [_LEGENDS[plot] for plot in plots if plot in _LEGENDS]
    return " ".join(parts)


def _hint(cells: Cells, column: str) -> str:
    """Return what is said of a cell of ours when it is pointed at: its absolute FLOPs."""
    mean = cells.flops(column).mean if column in FLOPS else None
    if mean is None:
        return ""
    formula = f": {cells.published_formula}" if column == "published_ratio" else ""
    return text.quantity(mean, "FLOPs") + formula


def _tasks(source: Source) -> list[str]:
    tasks = (task for experiment in source.plan.experiments for task in experiment.tasks)
    return list(dict.fromkeys(f"{t.model} on {t.dataset}, {t.epochs} epochs" for t in tasks))


def standings_of(source: Source) -> dict[str, Standing]:
    """Return by run how its result stands to the code that is there now.

    Runs that failed or are missing have no standing, for lack of anything that was made.
    """
    from acdc.run.sources import Standing, standing

    def of(name: str) -> Standing:
        try:
            return standing(source.study / "runs" / name, source.plan.runs[name].config)
        except ValueError:
            return Standing(unknown="a provenance.json, its own or of its parents, is damaged")

    runs = source.tables.runs
    ended = runs["status"].isin(("finished", "diverged"))
    return {name: of(name) for name in runs.loc[ended, "run"].unique()}


def state_of_source(standings: Mapping[str, Standing]) -> str:
    """Return in words how many results were made by the code that is there now."""
    unknown = sum(standing.unknown is not None for standing in standings.values())
    other = sum(not standing.current for standing in standings.values()) - unknown
    if not standings:
        return "no result so far"
    if not (other or unknown):
        return "all results were made by the code that is there now"
    counts = {"other code than there is now": other, "code that cannot be told": unknown}
    said = ", ".join(f"{count} by {what}" for what, count in counts.items() if count)
    return f"of {len(standings)} results, {said}; acdc stale says which modules differ"


def facts(runs: pd.DataFrame, standings: Mapping[str, Standing]) -> dict[str, str]:
    """Return what was run, where and from which source, in words."""
    each = runs.drop_duplicates("run")
    counts = {
        "diverged": int((each["status"] == "diverged").sum()),
        "refused": runs.loc[~runs["certificate_holds"].fillna(True), "run"].nunique(),
        "failed": int((each["status"] == "failed").sum()),
    }
    left_out = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    there = so_far(each["run"], runs) or f"{len(each)}"
    revisions = [
        f"{str(revision)[:12]}{'' if clean else ' with uncommitted changes'}"
        for revision, clean in each[["git_revision", "git_clean"]]
        .dropna()
        .drop_duplicates()
        .itertuples(index=False)
    ]
    processors = [
        f"{row.processor}, {row.cores} cores"
        if row.device == "cpu"
        else f"{row.device} ({row.processor}, {row.cores} cores)"
        for row in each[["processor", "cores", "device"]].dropna().drop_duplicates().itertuples()
    ]
    return {
        "Runs": there + (f", of which {left_out}" if left_out else ""),
        "Seeds": ", ".join(str(seed) for seed in sorted(each["seed"].unique())),
        "Training time": f"{text.duration(each['train_s'].sum())} in total, "
        f"{text.duration(each['wall_s'].sum())} with start-up and evaluation",
        "Hardware": "; ".join(processors) or "not recorded",
        "PyTorch": ", ".join(sorted(each["torch"].dropna().unique())) or "not recorded",
        "Source": "; ".join(revisions) or "not recorded",
        "State of the source": state_of_source(standings),
    }


def run_list(runs: pd.DataFrame, standings: Mapping[str, Standing]) -> list[dict[str, Any]]:
    """Return every run once with the last record of each of its products."""
    listed = []
    for name, group in runs.groupby("run", sort=False):
        first = group.iloc[0]
        last = group[group["which"] == "last"].sort_values("product", ascending=False)
        listed.append(
            {
                **{key: first[key] for key in ("fingerprint", "status", "seed")},
                "source_digest": "" if pd.isna(first["source_digest"]) else first["source_digest"],
                "said": _said(first),
                "mask_changes": [
                    first[key]
                    for key in ("mask_change_of_kept_before", "mask_change_of_kept")
                    if not pd.isna(first[key])
                ],
                "run": name,
                "differs": _differs(standings.get(str(name))),
                "train_s": float(first["train_s"]),
                "products": last.to_dict("records"),
            }
        )
    return listed


def _said(run: pd.Series[Any]) -> str:
    """Return what is said of a run that has no models."""
    if run["status"] == "diverged":
        return f"the training loss was not finite in epoch {run['diverged_at']}"
    if not pd.isna(run["error"]):
        return str(run["error"])
    return "no result so far" if run["status"] == MISSING else ""


def _differs(standing: Standing | None) -> str:
    return "" if standing is None or standing.current else str(standing)


def failures(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the runs that have failed, each with its error."""
    failed = runs[runs["status"] == "failed"]
    return [
        {key: record[key] for key in ("run", "fingerprint", "error")}
        for record in failed.to_dict("records")
    ]


def refusals(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the records whose certificate does not hold, each with all its reasons."""
    refused = runs[~runs["certificate_holds"].fillna(True)]
    return [
        {
            **{key: record[key] for key in ("run", "fingerprint", "product", "which")},
            "reasons": record["certificate_failures"].split(FAILURES),
        }
        for record in refused.to_dict("records")
    ]


def _interval(summary: Summary, digits: int = 2) -> str:
    if summary.interval is None:
        return ""
    low, high = summary.interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "\N{MINUS SIGN}")


def _signed_interval(summary: Summary) -> str:
    if summary.interval is None:
        return text.NO_ROW
    low, high = (text.signed(end) for end in summary.interval)
    return f"[{low}, {high}]"


def _number(value: float | None, form: str = ".3g") -> str:
    return text.NO_ROW if value is None or pd.isna(value) else format(value, form)


FILTERS: dict[str, Callable[..., Any]] = {
    "cell": text.mean_and_std,
    "left_out": text.left_out,
    "maths": maths.to_html,
    "duration": text.duration,
    "interval": _interval,
    "number": _number,
    "percent": text.percent,
    "quantity": text.quantity,
    "signed": text.signed,
    "signed_interval": _signed_interval,
}
