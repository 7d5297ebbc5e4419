"""Text for LaTeX and HTML: one function that escapes for each, and the templates' environments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from latex2mathml.converter import convert
from markupsafe import Markup

from study.model import ReportError

TEMPLATES = Path(__file__).with_name("templates")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "\N{EN DASH}": r"--",
    "\N{MINUS SIGN}": r"$-$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}
_PATTERN = re.compile("|".join(re.escape(character) for character in _SPECIAL) + r"|[^\x00-\x7f]")
_DELIMITERS = {
    **{"block_start_string": "<%", "block_end_string": "%>"},
    **{"variable_start_string": "<<", "variable_end_string": ">>"},
    **{"comment_start_string": "<#", "comment_end_string": "#>"},
}
_MATHS = re.compile(r"\$([^$]+)\$")


class Tex(str):
    """Text that is LaTeX already."""

    __slots__ = ()


def escape_latex(value: object) -> Tex:
    """Return a value as LaTeX that prints it as it is; what is LaTeX already stays.

    A character of which not every installation has the glyph is named by its code point.
    """
    if isinstance(value, Tex):
        return value
    return Tex(
        _PATTERN.sub(lambda match: _SPECIAL.get(match[0]) or f"U+{ord(match[0]):04X}", str(value))
    )


def prose_to_latex(text: str) -> Tex:
    """Return prose that LaTeX prints as it is, but for its mathematics between dollar signs."""
    return Tex(_typeset(text, escape_latex, lambda formula: f"${formula}$"))


def prose_to_html(text: str) -> Markup:
    """Return prose as HTML, its mathematics between dollar signs as MathML.

    Raises:
        ReportError: a formula cannot be typeset.
    """
    return Markup(_typeset(text, markupsafe.escape, _mathml))


def prose_to_words(text: str) -> str:
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


def html_environment() -> jinja2.Environment:
    """Return the environment of templates for HTML, which escapes all values but Markup."""
    return _environment(prose_to_html, autoescape=True)


def latex_environment() -> jinja2.Environment:
    """Return the environment of templates for LaTeX, with delimiters that LaTeX leaves free.

    All values but Tex are escaped.
    """
    return _environment(prose_to_latex, finalize=escape_latex, **_DELIMITERS)


def prose_environment() -> jinja2.Environment:
    """Return the environment of prose with mathematics: as for LaTeX, and nothing is escaped."""
    return _environment(prose_to_latex, **_DELIMITERS)


def _environment(maths: Callable[[str], str], **options: Any) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        **options,
    )
    environment.filters |= {"tex": Tex, "maths": maths}
    return environment


def render_latex(template: str, **values: Any) -> str:
    """Return a rendered template of LaTeX."""
    return latex_environment().get_template(template).render(**values).rstrip() + "\n"
