"""Text for LaTeX and HTML: one function that escapes for each, and the templates' environments."""
# ruff: noqa: RUF001  # characters that look like others are what this is about

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
from latex2mathml.converter import convert
from markupsafe import Markup

from acdc.messages import plain

TEMPLATES = Path(__file__).with_name("templates")


def _pairs(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_COMMANDS = _pairs(r"""
    & \&  % \%  $ \$  # \#  _ \_  { \{  } \}
    \ \textbackslash{}  ~ \textasciitilde{}  ^ \textasciicircum{}  ` \textasciigrave{}
    < \textless{}  > \textgreater{}  | \textbar{}  † \textdagger{}  ‡ \textdaggerdbl{}
    – --  — ---  ‘ \textquoteleft{}  ’ '  “ \textquotedblleft{}  ” \textquotedblright{}  … \dots{}
    • \textbullet{}  ° \textdegree{}  § \S{}  € \texteuro{}  © \textcopyright{}  ß \ss{}  ı \i{}
    ¹ \textsuperscript{1}  ² \textsuperscript{2}  ³ \textsuperscript{3}
    æ \ae{}  Æ \AE{}  œ \oe{}  Œ \OE{}  ø \o{}  Ø \O{}  ł \l{}  Ł \L{}
""")
_SYMBOLS = _pairs(r"""
    ± \pm  × \times  ÷ \div  · \cdot  − -  → \to  ← \gets  ≤ \leq  ≥ \geq  ≠ \neq  ≈ \approx
    ∞ \infty  µ \mu
    α \alpha  β \beta  γ \gamma  δ \delta  ε \varepsilon  ζ \zeta  η \eta  θ \theta  ι \iota
    κ \kappa  λ \lambda  μ \mu  ν \nu  ξ \xi  π \pi  ρ \rho  σ \sigma  τ \tau  υ \upsilon
    φ \varphi  χ \chi  ψ \psi  ω \omega  Γ \Gamma  Δ \Delta  Θ \Theta  Λ \Lambda  Ξ \Xi  Π \Pi
    Σ \Sigma  Φ \Phi  Ψ \Psi  Ω \Omega
""")
"""Characters that LaTeX has in mathematics only."""
_ACCENTS = dict(
    zip(
        "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327",
        "`'^~=u.\"rHvc",
        strict=True,
    )
)
"""Combining accents, by what stands after the backslash."""
_SPECIAL = re.compile(r"""([-',])(?=\1)|[\\&%$#_{}~^<>|`]|[^\x00-\x7f]""")
_DELIMITERS = {
    **{"block_start_string": "<%", "block_end_string": "%>"},
    **{"variable_start_string": "<<", "variable_end_string": ">>"},
    **{"comment_start_string": "<#", "comment_end_string": "#>"},
}
_WORD = 40
"""Letters after which a longer word may be broken."""
_BREAK = "\u200b"
_COMMANDS[_BREAK] = r"\allowbreak{}"
_MATHS = re.compile(r"\$([^$]+)\$")


class Tex(str):
    """Text that is LaTeX already."""

    __slots__ = ()


def escape_latex(value: object) -> Tex:
    """Return a value as LaTeX that prints it as it is; what is LaTeX already stays."""
    if isinstance(value, Tex):
        return value
    text = re.sub(rf"(\S{{{_WORD}}})(?=\S)", rf"\1{_BREAK}", latex_letters(str(value)))
    tex = _SPECIAL.sub(
        # Two hyphens, quotes or commas would be one other character.
        lambda match: f"{match[0]}{{}}" if match[1] else str(_command(match[0])),
        text,
    )
    # At the beginning of a line of a table these would be read as an option of what ends the last.
    return Tex(re.sub(r"^(\s*)([*\[])", r"\1{\2}", tex))


def latex_letters(text: str) -> str:
    """Return text in which characters that not every LaTeX has are named by their code points."""
    return "".join(c if c.isascii() or _command(c) else f"U+{ord(c):04X}" for c in plain(text))


def _command(character: str) -> str | None:
    """Return the LaTeX of a character that does not stand for itself; None if there is none."""
    if character in _SYMBOLS:
        return f"${_SYMBOLS[character]}$"
    base, *accents = list(unicodedata.normalize("NFD", character))
    if base.isascii() and accents and _ACCENTS.keys() >= set(accents):
        letter = f"\\{base}" if base in "ij" else base
        for accent in accents:
            letter = f"\\{_ACCENTS[accent]}{{{letter}}}"
        return letter
    return _COMMANDS.get(character)


def prose_to_latex(text: str) -> Tex:
    """Return prose that LaTeX prints as it is, but for its mathematics between dollar signs."""
    return Tex(_typeset(text, escape_latex, lambda formula: f"${formula}$"))


def prose_to_html(text: str) -> Markup:
    """Return prose as HTML, its mathematics between dollar signs as MathML.

    A formula that is not LaTeX is shown as it is written.
    """
    return Markup(_typeset(text, escape_html, _mathml))


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
    except Exception:  # each kind of mistake is a class of its own, without a common one
        return escape_html(f"${formula}$")


def escape_html(value: object) -> Markup:
    """Return a value as HTML that shows it as it is; what is HTML already stays."""
    return markupsafe.escape(value if isinstance(value, Markup) else plain(str(value)))


def html_environment() -> jinja2.Environment:
    """Return the environment of templates for HTML, which escapes all values but Markup."""
    return _environment(prose_to_html, autoescape=True, finalize=escape_html)


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
