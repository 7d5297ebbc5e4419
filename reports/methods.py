"""The methods of a study: their sources, settings and differences from the originals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.latex import escape, render
from study.model import Study

if TYPE_CHECKING:
    from acdc.methods.contract import Deviation
    from acdc.methods.describe import Setting


@dataclass(frozen=True)
class Method:
    """One method in the appendix."""

    name: str
    label: str
    source: str
    formula: str
    """The training FLOPs of a step as its own publication counts them."""
    settings: tuple[Setting, ...]
    deviations: tuple[Deviation, ...]


def methods(study: Study) -> list[Method]:
    """Return the methods that the study's runs are trained with, in its order."""
    # Imports torch, which takes seconds; nothing else of the reports needs it.
    from acdc.methods.describe import settings
    from acdc.methods.registry import get_method

    names = dict.fromkeys(str(run.config["method"]) for run in study.runs.values())
    return [
        Method(m.name, m.label, m.source, m.flops_formula, settings(m), m.deviations)
        for m in map(get_method, names)
    ]


def to_latex(found: list[Method]) -> str:
    """Return a section to include in an appendix; it needs booktabs only."""
    return render(
        "methods.tex.j2",
        methods=[
            {
                "title": escape(method.label),
                "name": escape(method.name),
                "source": escape(method.source),
                "formula": escape(method.formula),
                "settings": [
                    [escape(setting.key), escape(setting.default), escape(setting.description)]
                    for setting in method.settings
                ],
                "deviations": [
                    [escape(deviation.original), escape(deviation.ours), escape(deviation.why)]
                    for deviation in method.deviations
                ],
            }
            for method in found
        ],
    )
