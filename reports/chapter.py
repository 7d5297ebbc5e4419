"""The chapter on the theory: one text for the page and for LaTeX, with what was measured."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from reports import latex, maths
from reports.statements import ID, measured, number, predicted, remarks
from reports.theory import Found
from study.model import Experiment
from theory.layout import WITHOUT_FIGURE
from theory.statements import Statement, Verdict
from theory.statistics import LEVEL

SOURCE = "theory.txt.j2"
"""The text. Paragraphs are parted by empty lines; ``# `` begins a heading, ``!figure NAME`` and
``!table`` stand for what they say, ``[[NAME]]`` refers to a figure, mathematics is between dollar
signs. Each paragraph is a template of its own, which is left out where a statement that it speaks
of is not there."""

_PARAGRAPHS = re.compile(r"\n\s*\n")
_FIGURE = re.compile(r"!figure (\w+)")
_REFERENCE = re.compile(r"\[\[(\w+)\]\]")
_WORDS: dict[Verdict, str] = {
    "holds": "holds",
    "does not hold": "does not hold",
    "undecided": "is undecided",
}


@dataclass(frozen=True)
class Block:
    """A part of the chapter."""

    kind: Literal["heading", "prose", "figure", "table", "remark"]
    text: str = ""
    experiment: Experiment | None = None
    """Of a figure."""


@dataclass(frozen=True)
class Said:
    """What the text may say of a statement; prose with mathematics."""

    statement: Statement

    @property
    def words(self) -> str:
        """The verdict as a predicate: ``holds``, ``does not hold``, ``is undecided``."""
        return _WORDS[self.statement.verdict]

    @property
    def holds(self) -> bool:
        """Whether the statement holds."""
        return self.statement.verdict == "holds"

    @property
    def fails(self) -> bool:
        """Whether the statement does not hold."""
        return self.statement.verdict == "does not hold"

    @property
    def value(self) -> str:
        """The measured value."""
        return measured(self.statement)[0]

    @property
    def measured(self) -> str:
        """The measured value with its interval."""
        value, interval = measured(self.statement)
        return f"{value} {interval}" if interval else value

    @property
    def predicted(self) -> str:
        """The predicted value."""
        return number(self.statement.predicted)

    @property
    def compared(self) -> str:
        """The predicted value with its relation."""
        return predicted(self.statement)

    @property
    def sentence(self) -> str:
        """The whole of it in one sentence: claim, verdict, measured value and prediction."""
        said = f"That {self.statement.claim} {self.words}"
        return f"{said}: {self.measured}, predicted {self.compared}."

    @property
    def trials(self) -> str:
        """How many the measurement rests on."""
        return f"{self.statement.trials}"

    @property
    def violated(self) -> str:
        """How many trials violated it, of how many."""
        return f"{self.statement.violations or 0} of {self.statement.trials}"


class _AbsentError(Exception):
    """A paragraph speaks of an experiment, or of a statement of one, that is not there."""


@dataclass(frozen=True)
class _Tongue:
    """What a paragraph is rendered with."""

    there: Mapping[str, Found]
    """The experiments by name."""

    def needs(self, name: str) -> str:
        """Print nothing; leave the paragraph out where an experiment is not there."""
        if name not in self.there:
            raise _AbsentError(name)
        return ""

    def listed(self, name: str) -> list[Said]:
        """Return the statements whose ``experiment.id`` matches a pattern."""
        experiment, _, pattern = name.partition(".")
        self.needs(experiment)
        return [
            Said(statement)
            for statement in self.there[experiment].statements
            if fnmatch.fnmatchcase(statement.id, pattern)
        ]

    def told(self, name: str) -> list[Said]:
        """Return the same, at least one."""
        if not (matching := self.listed(name)):
            raise _AbsentError(name)
        return matching

    def tell(self, name: str) -> Said:
        """Return the first of them."""
        return self.told(name)[0]

    def alike(self, *names: str) -> str:
        """Return the verdicts of several statements as one predicate."""
        words = [each.words for name in names for each in self.told(name)]
        if len(set(words)) == 1:
            return f"{words[0]} ({len(words)} of {len(words)})"
        return f"{', '.join(words[:-1])} and {words[-1]}, in this order"

    def count(self, verdict: Verdict) -> int:
        """Return how many statements of all experiments have a verdict."""
        return sum(
            statement.verdict == verdict
            for found in self.there.values()
            for statement in found.statements
        )


def chapter(found: Sequence[Found]) -> list[Block]:
    """Return the chapter; what is left out of it, a remark at its end names.

    Args:
        found: of every experiment of the theory in the plan.

    Raises:
        ReportError: the text is no template, or speaks of what there is not.
    """
    tongue = _Tongue({each.name: each for each in found if not each.problem})
    environment = latex.environment()
    environment.globals |= {
        name: getattr(tongue, name)
        for name in ("needs", "tell", "told", "listed", "alike", "count")
    }
    environment.globals["level"] = f"{100 * LEVEL:.0f} %"
    blocks: list[Block] = []
    absent: list[str] = []
    for paragraph in _PARAGRAPHS.split((latex.TEMPLATES / SOURCE).read_text(encoding="utf-8")):
        try:
            text = " ".join(environment.from_string(paragraph).render().split())
        except _AbsentError as error:
            absent.append(str(error))
            continue
        if block := _block(text, tongue.there):
            blocks.append(block)
    return [*_whole(blocks, tongue.there), *_left_out(found, absent)]


def _block(text: str, there: Mapping[str, Found]) -> Block | None:
    """Return what a paragraph stands for; None for a figure or a table that is not there."""
    if text.startswith("# "):
        return Block("heading", text.removeprefix("# "))
    if text == "!table":
        return Block("table") if any(each.statements for each in there.values()) else None
    if match := _FIGURE.fullmatch(text):
        name = match[1]
        return Block("figure", experiment=there[name].experiment) if name in there else None
    return Block("prose", text)


def _whole(blocks: Sequence[Block], there: Mapping[str, Found]) -> list[Block]:
    """Drop headings of nothing, and put figures that the text does not mention before the last."""
    shown = {block.experiment for block in blocks}
    rest = [
        Block("figure", experiment=each.experiment)
        for each in there.values()
        if each.experiment not in shown and each.name not in WITHOUT_FIGURE
    ]
    following = [*blocks[1:], Block("heading")]
    kept = [
        block
        for block, after in zip(blocks, following, strict=True)
        if (block.kind, after.kind) != ("heading", "heading")
    ]
    last = max((i for i, block in enumerate(kept) if block.kind == "heading"), default=0)
    return [*kept[:last], *rest, *kept[last:]]


def _left_out(found: Sequence[Found], absent: Iterable[str]) -> list[Block]:
    planned = {each.name for each in found}
    absent = dict.fromkeys(absent)
    lists = {
        "Not in this study": [n for n in absent if n.partition(".")[0] not in planned],
        "Not measured with these settings": [n for n in absent if "." in n],
    }
    said = [f"{what}: {', '.join(names)}." for what, names in lists.items() if names]
    return [Block("remark", sentence) for sentence in (*remarks(found), *said)]


def figures(blocks: Iterable[Block]) -> list[Experiment]:
    """Return the experiments whose figures the chapter has, in its order."""
    return [block.experiment for block in blocks if block.experiment]


def to_html(text: str, shown: Sequence[Experiment]) -> Markup:
    """Return prose as HTML, with links to the figures shown."""

    def refer(figure: Experiment) -> str:
        number = shown.index(figure) + 1
        return f'<a href="#{figure.id}">Figure\N{NO-BREAK SPACE}T{number}</a>'

    return Markup(_refer(text, shown, maths.to_html, refer))


def to_latex(blocks: Sequence[Block]) -> str:
    """Return the chapter as a section; its first lines say what the preamble needs."""
    shown = figures(blocks)

    def prose(text: str) -> str:
        return _refer(text, shown, maths.to_latex, lambda each: rf"Figure~\ref{{fig:{each.id}}}")

    parts = [
        {
            "kind": block.kind,
            "text": prose(block.text),
            "id": block.experiment.id if block.experiment else ID,
            "caption": maths.to_latex(f"{block.experiment.title}. {block.experiment.caption}")
            if block.experiment
            else "",
        }
        for block in blocks
    ]
    return latex.render("theory.tex.j2", blocks=parts)


def _refer(
    text: str,
    shown: Iterable[Experiment],
    prose: Callable[[str], str],
    refer: Callable[[Experiment], str],
) -> str:
    known = {experiment.theory: refer(experiment) for experiment in shown}
    # Every second part is the name of a figure, as the pattern has one group.
    parts = _REFERENCE.split(text)
    return "".join(known[part] if i % 2 else prose(part) for i, part in enumerate(parts))
