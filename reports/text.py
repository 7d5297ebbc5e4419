"""Numbers as text, the same in LaTeX, HTML and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from reports.statistics import Summary
from study.columns import Form
from study.model import Experiment, Scale, Task
from study.paper import PaperValue

UNKNOWN = "unknown"
NO_ROW = "\N{EN DASH}"
DEGENERATE = "\N{SECTION SIGN}"
"""Marks means that say nothing of the method (``reports.models``)."""
NOT_YET = "not there yet"
LEFT_OUT: tuple[Literal["diverged", "refused", "failed", "missing"], ...] = (
    *("diverged", "refused", "failed", "missing"),
)
"""The status of runs that are not averaged, as Summary counts them."""
DIGITS: dict[Form, int] = {"percent": 2, "perplexity": 2, "ratio": 3, "number": 1, "nats": 3}
"""Digits after the decimal point of our numbers."""
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def quantity(value: float, unit: str) -> str:
    """Return a positive number with three digits and an SI prefix, such as ``8.18 GFLOPs``."""
    scaled, prefix = engineering(value)
    return f"{scaled} {prefix}{unit}"


def engineering(value: float) -> tuple[str, str]:
    """Return a number's three leading digits and its SI prefix."""
    index = 0
    while index + 1 < len(_PREFIXES) and float(f"{abs(value):.3g}") >= 1000:
        value /= 1000
        index += 1
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}", _PREFIXES[index]


def mean_and_std(summary: Summary, digits: int = 2) -> str:
    """Return ``mean ± std``, the mean alone for one run, or the number of runs by status."""
    if summary.mean is None:
        return left_out(summary)
    if summary.std is None:
        return f"{summary.mean:.{digits}f}"
    return f"{summary.mean:.{digits}f} ± {summary.std:.{digits}f}"


def left_out(summary: Summary) -> str:
    """Return how many runs are averaged, such as ``2 of 3, 1 diverged``; empty if all are."""
    if summary.is_whole:
        return ""
    counts = {name: getattr(summary, name) for name in LEFT_OUT}
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join([f"{summary.n} of {summary.runs}", *parts])


def paper_text(value: PaperValue | None, prefix: str = "") -> str:
    """Return the paper's number in its own digits, ``unknown``, or a dash where it has none.

    An SI prefix stands between the number and its mark.
    """
    if value is None or value.is_dash:
        return NO_ROW
    if not value.digits:
        return UNKNOWN
    spread = f" ± {value.std_digits}" if value.std_digits else ""
    unit = f" {prefix}" if prefix else ""
    return f"{value.digits}{spread}{unit}{value.mark}"


def title(experiment: Experiment, scale: Scale) -> str:
    """Return an experiment's heading: the paper's number, the scale, model and data set."""
    number = f"{experiment.kind.capitalize()} {experiment.paper}" if experiment.paper else ""
    if not number.endswith(tuple("0123456789")):
        heading = f"{experiment.title} (at {scale.name} scale)"
    else:
        heading = f"{number} at {scale.name} scale: {experiment.title}"
    stand_ins = dict.fromkeys(f"{task.model} on {task.dataset}" for task in experiment.tasks)
    return heading if scale.is_paper or not stand_ins else f"{heading}; {', '.join(stand_ins)}"


def scale_note(scale: Scale) -> str:
    """Return the scale in a few words, with a warning unless it is the paper's."""
    title = scale.title.rstrip(".")
    return f"{title}." if scale.is_paper else f"{title} (not the paper's scale)."


def task(task: Task) -> str:
    """Return model, data set and epochs of a task."""
    return f"{task.model} on {task.dataset}, {task.epochs} epochs"


def seeds(numbers: Sequence[int]) -> str:
    """Return seeds in words, such as ``seeds 1, 3``."""
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, a true minus; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def percent(fraction: float) -> str:
    """Return a fraction as per cent without trailing zeros, such as ``90 %``."""
    return f"{100 * fraction:.6g} %"
