"""The theory's results, as the study's theory folder holds them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from reports.plan import ReportError

_CURVES = ("oracle", "oracle_label", "sigma", "k_ratio", "seed", "iteration", "gap", "bound_gap")
_SUMMARY = (
    "oracle",
    "oracle_label",
    "sigma",
    "k",
    "k_ratio",
    "kappa",
    "seed",
    "variance_is_bounded",
    "bound_is_vacuous",
    "iterations_to_tolerance",
    "predicted_iterations",
    "worst_ratio",
    "predicted_factor",
    "violations",
    "floor_gap",
    "predicted_floor_gap",
    "holds",
)
_ORACLES = ("full", "gaussian", "minibatch")


def read_curves(study: Path) -> pd.DataFrame:
    """Return the loss gaps by iteration, one row a run and iteration."""
    return _read(study / "theory" / "iht_curves.csv", _CURVES)


def read_summary(study: Path) -> pd.DataFrame:
    """Return each run's comparison with Theorem 2, one row a run."""
    return _read(study / "theory" / "iht_summary.csv", _SUMMARY)


def _read(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    if not path.exists():
        raise ReportError(f"{path} is missing; run 'acdc theory iht --out {path.parent}' first")
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError):
        raise ReportError(f"{path} is damaged; make it again") from None
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise ReportError(f"{path} lacks the columns {', '.join(missing)}; make it again")
    return table


def verdicts(summary: pd.DataFrame) -> pd.DataFrame:
    """Return one row an oracle and k/k*: what was measured, what was predicted, and the verdict.

    Contraction and iterations are the worst of the seeds (none where a seed never got there),
    noise floors their means. The verdict is ``holds``, ``does not hold`` (in any seed), or why
    the theorem says nothing: ``vacuous``, or ``variance not bounded``.
    """
    rows = []
    for (oracle, label, ratio), group in summary.groupby(
        ["oracle", "oracle_label", "k_ratio"], sort=False
    ):
        holds = group["holds"].dropna().astype(bool)
        if len(holds):
            verdict = "holds" if holds.all() else "does not hold"
        elif group["bound_is_vacuous"].any():
            verdict = "vacuous"
        else:
            verdict = "variance not bounded"
        rows.append(
            {
                "oracle": oracle,
                "oracle_label": label,
                "k_ratio": ratio,
                "seeds": len(group),
                "held": int(holds.sum()),
                "worst_ratio": group["worst_ratio"].max(),
                "predicted_factor": group["predicted_factor"].mean(),
                "iterations": group["iterations_to_tolerance"].max(skipna=False),
                "predicted_iterations": group["predicted_iterations"].max(skipna=False),
                "floor_gap": group["floor_gap"].mean(),
                "predicted_floor_gap": group["predicted_floor_gap"].mean(),
                "violations": int(group["violations"].sum()),
                "verdict": verdict,
            }
        )
    table = pd.DataFrame(rows)
    order = {name: place for place, name in enumerate(_ORACLES)}
    return table.sort_values(
        ["oracle", "oracle_label", "k_ratio"],
        key=lambda column: column.map(order) if column.name == "oracle" else column,
        ignore_index=True,
    )
