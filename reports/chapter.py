"""The chapter on the theory: one text for the page and for LaTeX, with the measured values."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from reports import encoding
from reports.encoding import Tex
from reports.statements import ID, measured, number, predicted, remarks
from reports.theory import Found
from study.model import Experiment
from theory.layout import WITHOUT_FIGURE
from theory.statements import Statement
from theory.statistics import LEVEL

SOURCE = "theory.txt.j2"
"""The text: paragraphs, separated by empty lines, with mathematics between dollar signs. ``# ``
begins a heading; ``!figure NAME`` and ``!table`` are placeholders; ``[[NAME]]`` refers to a figure.
Each paragraph is a template of its own, left out if a statement that it quotes does not exist."""

_PARAGRAPHS = re.compile(r"\n\s*\n")
_FIGURE = re.compile(r"!figure (\w+)")
_REFERENCE = re.compile(r"\[\[(\w+)\]\]")


@dataclass(frozen=True)
class Block:
    """A part of the chapter."""

    kind: Literal["heading", "prose", "figure", "table", "remark"]
    text: str = ""
    experiment: Experiment | None = None
    """The experiment of a figure."""


class _AbsentError(Exception):
    """A paragraph quotes an experiment or a statement that does not exist."""


def _functions(there: Mapping[str, Found]) -> dict[str, Callable[..., Any]]:
    """Return the functions that paragraphs may call.

    A statement is named ``experiment.id``, where the id may be a pattern.
    """

    def require(name: str) -> str:
        """Print nothing; leave the paragraph out where an experiment does not exist."""
        if name not in there:
            raise _AbsentError(name)
        return ""

    def statements(name: str) -> list[Statement]:
        """Return the statements of that name."""
        experiment, _, pattern = name.partition(".")
        require(experiment)
        found = there[experiment].statements
        return [each for each in found if fnmatch.fnmatchcase(each.id, pattern)]

    def statement(name: str) -> Statement:
        """Return the first statement of that name."""
        if not (found := statements(name)):
            raise _AbsentError(name)
        return found[0]

    def verdicts(*names: str) -> str:
        """Return the verdicts of several statements as one predicate."""
        found = [each for name in names if statement(name) for each in statements(name)]
        words = [_verdict(each) for each in found]
        if len(set(words)) == 1:
            return f"{words[0]} ({len(words)} of {len(words)})"
        return f"{', '.join(words[:-1])} and {words[-1]}, in this order"

    def count(verdict: str) -> int:
        """Return the number of statements with a verdict."""
        return sum(s.verdict == verdict for found in there.values() for s in found.statements)

    functions = (require, statements, statement, verdicts, count)
    return {function.__name__: function for function in functions}


def _verdict(statement: Statement) -> str:
    """Return the verdict as a predicate: ``holds``, ``does not hold``, ``is undecided``."""
    return "is undecided" if statement.verdict == "undecided" else statement.verdict


def _measured(statement: Statement) -> str:
    """Return the measured value with its interval."""
    return " ".join(filter(None, measured(statement)))


def _sentence(statement: Statement) -> str:
    """Return claim, verdict, measured value and prediction."""
    values = f"{_measured(statement)}, predicted {predicted(statement)}"
    return f"That {statement.claim} {_verdict(statement)}: {values}."


_FILTERS: dict[str, Callable[[Statement], str]] = {
    "verdict": _verdict,
    "measured": _measured,
    "sentence": _sentence,
    "value": lambda statement: measured(statement)[0],
    "predicted": lambda statement: number(statement.predicted),
    "violated": lambda statement: f"{statement.violations or 0} of {statement.trials}",
}
"""How paragraphs print a statement: prose with mathematics."""


def chapter(found: Sequence[Found]) -> list[Block]:
    """Return the chapter; remarks at its end list what is left out.

    Args:
        found: of every experiment of the theory in the study.
    """
    there = {each.name: each for each in found if not each.problem}
    environment = encoding.prose_environment()
    environment.globals |= _functions(there) | {"level": f"{100 * LEVEL:.0f} %"}
    environment.filters |= _FILTERS
    blocks: list[Block] = []
    absent: dict[str, None] = {}
    for paragraph in _PARAGRAPHS.split((encoding.TEMPLATES / SOURCE).read_text(encoding="utf-8")):
        try:
            text = " ".join(environment.from_string(paragraph).render().split())
        except _AbsentError as error:
            absent[str(error)] = None
            continue
        if block := _block(text, there):
            blocks.append(block)
    planned = {each.name for each in found}
    lists = {
        "Not in this study": [n for n in absent if n.partition(".")[0] not in planned],
        "Not measured with these settings": [n for n in absent if "." in n],
    }
    left_out = [f"{what}: {', '.join(names)}." for what, names in lists.items() if names]
    return [
        *_complete(blocks, there),
        *(Block("remark", sentence) for sentence in (*remarks(found), *left_out)),
    ]


def _block(text: str, there: Mapping[str, Found]) -> Block | None:
    """Return a paragraph as a block; None for a figure or a table that does not exist."""
    if text.startswith("# "):
        return Block("heading", text.removeprefix("# "))
    if text == "!table":
        return Block("table") if any(each.statements for each in there.values()) else None
    if match := _FIGURE.fullmatch(text):
        name = match[1]
        return Block("figure", experiment=there[name].experiment) if name in there else None
    return Block("prose", text)


def _complete(blocks: Sequence[Block], there: Mapping[str, Found]) -> list[Block]:
    """Drop empty sections, and insert figures that the text lacks before the last section."""
    following = [*blocks[1:], Block("heading")]
    kept = [
        block
        for block, after in zip(blocks, following, strict=True)
        if (block.kind, after.kind) != ("heading", "heading")
    ]
    rest = [
        Block("figure", experiment=each.experiment)
        for each in there.values()
        if each.experiment not in figures(blocks) and each.name not in WITHOUT_FIGURE
    ]
    last = max((i for i, block in enumerate(kept) if block.kind == "heading"), default=0)
    return [*kept[:last], *rest, *kept[last:]]


def figures(blocks: Iterable[Block]) -> list[Experiment]:
    """Return the experiments whose figures the chapter has, in its order."""
    return [block.experiment for block in blocks if block.experiment]


def to_html(text: str, shown: Sequence[Experiment]) -> Markup:
    """Return prose as HTML, with links to the figures shown."""
    links = {
        figure.theory: f'<a href="#{figure.id}">Figure\N{NO-BREAK SPACE}T{number}</a>'
        for number, figure in enumerate(shown, 1)
    }
    return Markup(_refer(text, links, encoding.prose_to_html))


def to_latex(blocks: Sequence[Block]) -> str:
    """Return the chapter as a section; its first lines list the packages that it needs."""
    references = {each.theory: rf"Figure~\ref{{fig:{each.id}}}" for each in figures(blocks)}
    return encoding.render_latex(
        "theory.tex.j2",
        blocks=blocks,
        table=ID,
        prose=lambda text: Tex(_refer(text, references, encoding.prose_to_latex)),
    )


def _refer(text: str, references: Mapping[str | None, str], prose: Callable[[str], str]) -> str:
    """Return prose with each ``[[NAME]]`` replaced by a reference."""
    # Every second part is the name of a figure, as the pattern has one group.
    parts = _REFERENCE.split(text)
    return "".join(references[part] if i % 2 else prose(part) for i, part in enumerate(parts))
