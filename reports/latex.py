"""LaTeX through jinja2, with delimiters that LaTeX leaves free."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

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


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is, in one pass so that nothing is escaped twice.

    A character of which not every installation has the glyph is named by its code point.
    """
    return _PATTERN.sub(lambda match: _SPECIAL.get(match[0]) or f"U+{ord(match[0]):04X}", text)


def environment() -> jinja2.Environment:
    """Return the environment of templates for LaTeX.

    Blocks are ``<% %>``, values ``<< >>``, comments ``<# #>``. A missing value is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # The values are escaped for LaTeX by their makers, who know which of them are commands.
        autoescape=False,
    )


def render(template: str, **values: Any) -> str:
    """Return a rendered template."""
    return environment().get_template(template).render(**values).rstrip() + "\n"
