"""The whole study as one self-contained page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from reports import text
from reports.aggregate import FAILURES
from reports.cells import Table
from reports.findings import findings
from reports.latex import TEMPLATES
from reports.methods import methods
from reports.outputs import Source, TableKind, build_table, draw_figure, kind_of
from reports.plan import Experiment
from reports.statistics import Summary
from reports.tables import (
    caption,
    paper_inference,
    paper_note,
    paper_top1,
    paper_training,
    requested,
)
from reports.theory import read_summary, verdicts


@dataclass(frozen=True)
class Section:
    """One experiment on the page."""

    experiment: Experiment
    table: Table | None = None
    svg: Markup | None = None
    theory: pd.DataFrame | None = None


def report(source: Source) -> str:
    """Return the page as HTML: no scripts, no requests, the same text for the same results."""
    sections = [_section(source, experiment) for experiment in source.plan.experiments]
    tables = [section.table for section in sections if section.table is not None]
    refused = refusals(source.tables.runs)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template("report.html.j2").render(
        plan=source.plan,
        facts=facts(source.tables.runs),
        tasks=_tasks(source),
        sections=sections,
        findings=[(table, findings(table, source.tables.runs)) for table in tables],
        methods=methods(source.plan),
        runs=run_list(source.tables.runs),
        refusals=refused,
        refused={(refusal["run"], refusal["product"]) for refusal in refused},
        fingerprints=dict(
            zip(source.tables.runs["run"], source.tables.runs["fingerprint"], strict=True)
        ),
        seeds=dict(zip(source.tables.runs["run"], source.tables.runs["seed"], strict=True)),
        paper_top1=paper_top1,
        paper_inference=paper_inference,
        paper_training=paper_training,
        paper_note=paper_note,
        table_caption=caption,
        requested=requested,
    )


def _section(source: Source, experiment: Experiment) -> Section:
    if isinstance(kind_of(experiment), TableKind):
        return Section(experiment, table=build_table(source, experiment))
    from reports.figures.style import close, inline_svg, to_bytes

    figure = draw_figure(source, experiment)
    description = f"{experiment.title}. {experiment.caption}"
    svg = inline_svg(to_bytes(figure, "svg", experiment.id), experiment.id, description)
    close(figure)
    theory = verdicts(read_summary(source.study)) if experiment.kind == "iht" else None
    # Made by matplotlib from numbers and labels, and escaped there.
    return Section(experiment, svg=Markup(svg), theory=theory)


def _tasks(source: Source) -> list[str]:
    tasks = (experiment.task for experiment in source.plan.experiments if experiment.task)
    return list(dict.fromkeys(f"{t.model} on {t.dataset}, {t.epochs} epochs" for t in tasks))


def facts(runs: pd.DataFrame) -> dict[str, str]:
    """Return what was run, where and from which source, in words."""
    each = runs.drop_duplicates("run")
    counts = {
        "diverged": int((each["status"] == "diverged").sum()),
        "refused": runs.loc[~runs["certificate_holds"].fillna(True), "run"].nunique(),
    }
    left_out = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
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
    digests = each["source_digest"].dropna().nunique()
    return {
        "Runs": f"{len(each)}" + (f", of which {left_out}" if left_out else ""),
        "Seeds": ", ".join(str(seed) for seed in sorted(each["seed"].unique())),
        "Training time": f"{text.duration(each['train_s'].sum())} in total, "
        f"{text.duration(each['wall_s'].sum())} with start-up and evaluation",
        "Hardware": "; ".join(processors) or "not recorded",
        "PyTorch": ", ".join(sorted(each["torch"].dropna().unique())) or "not recorded",
        "Source": "; ".join(revisions) or "not recorded",
        "State of the source": "one state of the training code for all runs"
        if digests == 1
        else f"{digests} different states of the training code; the list of runs tells them apart",
    }


def run_list(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return every run once with the last record of each of its products."""
    listed = []
    for name, group in runs.groupby("run", sort=False):
        first = group.iloc[0]
        last = group[group["which"] == "last"].sort_values("product", ascending=False)
        listed.append(
            {
                **{key: first[key] for key in ("fingerprint", "status", "seed", "source_digest")},
                "mask_changes": [
                    first[key]
                    for key in ("mask_change_of_kept_before", "mask_change_of_kept")
                    if not pd.isna(first[key])
                ],
                "run": name,
                "train_s": float(first["train_s"]),
                "diverged_at": None if pd.isna(first["diverged_at"]) else first["diverged_at"],
                "products": last.to_dict("records"),
            }
        )
    return listed


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


def _power(value: float | None) -> str | Markup:
    """Return a number with two digits, as a power of ten where it is small."""
    if value is None or pd.isna(value):
        return text.NO_ROW
    mantissa, exponent = f"{value:.1e}".split("e")
    if -2 <= int(exponent) <= 2:
        return f"{value:.2g}"
    power = str(int(exponent)).replace("-", "\N{MINUS SIGN}")
    return Markup("{} \N{MULTIPLICATION SIGN} 10<sup>{}</sup>").format(mantissa, power)


FILTERS: dict[str, Callable[..., Any]] = {
    "cell": text.mean_and_std,
    "left_out": text.left_out,
    "duration": text.duration,
    "interval": _interval,
    "number": _number,
    "percent": text.percent,
    "power": _power,
    "quantity": text.quantity,
    "signed": text.signed,
    "signed_interval": _signed_interval,
}
