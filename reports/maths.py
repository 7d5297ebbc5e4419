"""Prose that holds LaTeX mathematics between dollar signs, typeset for the page and for LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable

from latex2mathml.converter import convert
from markupsafe import Markup, escape

from reports import latex
from study.model import ReportError

_MATHS = re.compile(r"\$([^$]+)\$")


def to_html(text: str) -> Markup:
    """Return prose as HTML, its mathematics as MathML.

    Raises:
        ReportError: a formula cannot be typeset.
    """
    return Markup(_typeset(text, lambda prose: str(escape(prose)), _mathml))


def to_latex(text: str) -> str:
    """Return prose that LaTeX prints as it is, but for its mathematics, which LaTeX typesets."""
    return _typeset(text, latex.escape, lambda formula: f"${formula}$")


def to_words(text: str) -> str:
    """Return prose for where nothing is typeset: formulas without what only LaTeX reads."""
    return _typeset(text, str, lambda formula: re.sub(r"[\\{}]", "", formula))


def _typeset(text: str, prose: Callable[[str], str], formula: Callable[[str], str]) -> str:
    # Every second part is a formula, as the pattern has one group; a lone dollar sign is prose.
    parts = _MATHS.split(text)
    return "".join(formula(part) if i % 2 else prose(part) for i, part in enumerate(parts))


def _mathml(formula: str) -> str:
    try:
        return str(convert(formula))
    except Exception as error:  # each kind of mistake is a class of its own, without a common one
        raise ReportError(
            f"the formula ${formula}$ cannot be typeset ({type(error).__name__})"
        ) from None
