"""The paper's claims (claims.yaml), and a verdict on each at the scale of a study.

A line of a predicate puts a quantity, or the difference of two, into a range. Its 95 % Student
interval over seeds decides: inside of the range the claim is reproduced, outside contradicted, both
after Holm's correction over the claims of a table. Otherwise its mean may have the right direction.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic.dataclasses import dataclass as validated
from scipy.special import stdtr

from reports.aggregate import Tables
from reports.encoding import render_latex
from reports.export import csv_text
from reports.quantities import measure, others
from reports.statistics import CONFIDENCE, NOTHING, Summary, paired_difference, summarise
from study.model import Study

ID = "claims"
Verdict = Literal[
    "reproduced", "in direction", "not distinguishable", "contradicted", "not testable"
]
Predicate = tuple[Mapping[str, Any], ...]


@validated(frozen=True, config={"extra": "forbid"})
class Claim:
    """A claim as written in claims.yaml, which explains the fields."""

    id: str
    experiment: str
    place: str
    claim: str
    paper: str
    predicate: Predicate = ()
    requires: Predicate = ()
    needs: str = ""
    at_chance: Literal["", "a test"] = ""


def read_claims() -> tuple[Claim, ...]:
    """Return the paper's claims."""
    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
    return tuple(Claim(**each) for each in content)


@dataclass(frozen=True)
class Part:
    """One comparison of a claim: a value, or its difference from another, lies in a range."""

    kind: str
    """The word by which claims.yaml introduces it."""
    value: str
    minus: str
    """Empty for the value itself."""
    low: float
    high: float
    wrong: float
    """Contradicted below this, which is less than ``low`` where a lead may be too small."""
    summary: Summary = NOTHING
    problem: str = ""
    """Why the runs do not test it; empty if they do."""
    p_for: float = 1.0
    """Two-sided p-value of the hypothesis that the value is not in the range."""
    p_against: float = 1.0
    """Two-sided p-value of the hypothesis that the value does not contradict the claim."""

    @property
    def text(self) -> str:
        """The value or the difference in words."""
        return f"{self.value} minus {self.minus}" if self.minus else self.value

    @property
    def agrees(self) -> bool:
        """Whether it holds or its mean has the right direction, which an equivalence lacks."""
        mean = math.nan if self.summary.mean is None else self.summary.mean
        has_direction = self.kind != "equal" and self.wrong < mean < self.high
        return has_direction or self.p_for <= 1 - CONFIDENCE


def parts(predicate: Predicate, experiment: str, study: Study) -> Iterator[Part]:
    """Yield the comparisons that a predicate stands for.

    Raises:
        ValueError: it is none of those that claims.yaml lists.
    """
    for line in predicate:
        low, high, wrong = 0.0, math.inf, 0.0
        match line:
            case {"increasing": order}:
                pairs = [(b, a) for a, b in pairwise(order)]
            case {"decreasing": order}:
                pairs = list(pairwise(order))
            case {"greater": a, "than": b}:
                low, high = line.get("by", 0.0), line.get("by_less_than", math.inf)
                pairs = [(a, each) for each in ([b] if isinstance(b, str) else b)]
            case {"no_less": a, "than": b, "within": margin}:
                low = wrong = -margin
                pairs = [(a, each) for each in ([b] if isinstance(b, str) else b)]
            case {"equal": a, "to": b, "within": high}:
                low, wrong, pairs = -high, -high, [(a, b)]
            case {"value": a} | {"each": a}:
                # Both ends belong to the range.
                low = wrong = math.nextafter(line.get("from", -math.inf), -math.inf)
                high, pairs = math.nextafter(line.get("to", math.inf), math.inf), [(a, "")]
            case _:
                raise ValueError(f"claims.yaml: {line} is no predicate")
        for a, b in pairs:
            for other in others(b, a, experiment, study):
                yield Part(next(iter(line)), a, other, low, high, wrong)


def tested(part: Part, claim: Claim, study: Study, tables: Tables) -> Part:
    """Return a comparison with what the runs say of it."""
    values, problem = measure(part.value, claim.experiment, study, tables, bool(claim.at_chance))
    summary = summarise(list(values.values()))
    if part.minus:
        theirs, its = measure(part.minus, claim.experiment, study, tables, bool(claim.at_chance))
        problem, summary = problem or its, paired_difference(values, theirs)
    if problem or not summary.n:
        return replace(part, problem=problem or f"{part.text}: no common seeds")
    p_for, p_against = p_values(part, summary)
    if part.kind == "each":
        outside = any(not part.low < value < part.high for value in values.values())
        p_for, p_against = float(outside), float(not outside)
    return replace(part, summary=summary, p_for=p_for, p_against=p_against)


def p_values(part: Part, summary: Summary) -> tuple[float, float]:
    """Return the p-values for and against a comparison, twice the one-sided ones of Student's t.

    1 for one run. Equal values are exact, as FLOPs may be; scores are not, and get 1 again.
    """
    mean, low, high, wrong = summary.mean or 0.0, part.low, part.high, part.wrong
    if summary.n < 2 or (not summary.std and re.search("top1|ppl", part.value)):
        return 1.0, 1.0
    if not summary.std:
        return float(not low < mean < high), float(wrong < mean < high)
    error = summary.std / math.sqrt(summary.n)

    def at_most(x: float, end: float) -> float:
        return float(stdtr(summary.n - 1, (x - end) / error))

    p_for = 2 * max(at_most(low, mean), at_most(mean, high))
    return min(1.0, p_for), min(1.0, 2 * min(at_most(mean, wrong), at_most(high, mean)))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method."""
    corrected, largest = [1.0] * len(values), 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True)
class Judgement:
    """A claim, and what the runs say of it."""

    claim: Claim
    parts: tuple[Part, ...]
    problem: str
    """Why not all of it can be tested; empty if it can."""
    p_holm: float | None = None
    """The corrected p-value; None if nothing was tested."""

    @property
    def p_for(self) -> float:
        """The p-value of the hypothesis that some part does not hold: the largest."""
        return 1.0 if self.problem else max(part.p_for for part in self.parts)

    @property
    def p_against(self) -> float:
        """The p-value of the hypothesis that no part fails: the smallest, by Bonferroni."""
        return min([1.0, *(len(self.parts) * part.p_against for part in self.parts)])

    @property
    def verdict(self) -> Verdict:
        """What the runs say of the claim."""
        is_decided = self.p_holm is not None and self.p_holm <= 1 - CONFIDENCE
        if is_decided and self.p_against < self.p_for:
            return "contradicted"
        if self.problem:
            return "not testable"
        if is_decided:
            return "reproduced"
        return "in direction" if all(p.agrees for p in self.parts) else "not distinguishable"

    @property
    def deciding(self) -> Part | None:
        """The part on which the verdict rests: the one that fails, or that is least sure."""
        if self.verdict == "not testable":
            return None
        if self.verdict == "contradicted":
            return min(self.parts, key=lambda part: part.p_against)
        return max(self.parts, key=lambda part: (part.p_for, not part.agrees))

    @property
    def measured(self) -> str:
        """Mean and 95 % interval of the part that decides; empty if there is none."""
        if self.deciding is None:
            return ""
        summary = self.deciding.summary
        mean, *ends = (f"{x:.3g}" for x in (summary.mean or 0.0, *(summary.interval or ())))
        return (mean + f" [{', '.join(ends)}]" * bool(ends)).replace("-", "\N{MINUS SIGN}")

    @property
    def words(self) -> str:
        """The verdict, with the number of seeds that do not tell, or why it cannot be tested."""
        if self.deciding is None:
            return f"{self.verdict}: {self.problem}"
        n = self.deciding.summary.n
        is_open = self.verdict == "not distinguishable"
        return self.verdict + f" with {n} seed{'s' * (n > 1)}" * is_open


def judge(claims: Sequence[Claim], study: Study, tables: Tables) -> list[Judgement]:
    """Return what the runs of a study say of claims."""
    found = [_judge(claim, study, tables) for claim in claims]
    for experiment in {claim.experiment for claim in claims}:
        family = {
            i: min(each.p_for, each.p_against)
            for i, each in enumerate(found)
            if each.claim.experiment == experiment
            and any(part.summary.n > (part.kind != "each") for part in each.parts)
        }
        for i, p in zip(family, holm(list(family.values())), strict=True):
            found[i] = replace(found[i], p_holm=p)
    return found


def _judge(claim: Claim, study: Study, tables: Tables) -> Judgement:
    required, found = (
        [tested(part, claim, study, tables) for part in parts(lines, claim.experiment, study)]
        for lines in (claim.requires, claim.predicate)
    )
    absent = [
        part.problem or f"{part.text} is {part.summary.mean:.3g} only"
        for part in required
        if not part.agrees
    ]
    if claim.needs or absent or not found:
        needs = (
            f"needs {claim.needs}" if claim.needs else "no other method is trained at this scale"
        )
        return Judgement(claim, (), next(iter(absent), needs))
    return Judgement(claim, tuple(found), next((p.problem for p in found if p.problem), ""))


def counts(judgements: Sequence[Judgement]) -> dict[Verdict, int]:
    """Return the number of claims of each verdict."""
    found = Counter(each.verdict for each in judgements)
    return {verdict: found[verdict] for verdict in get_args(Verdict)}


def to_csv(judgements: Sequence[Judgement]) -> str:
    """Return the verdicts as CSV, numbers unrounded: those of the part that decides."""
    said = ("id", "experiment", "place", "claim", "paper")
    numbers = ("mean", "ci95_low", "ci95_high", "n")
    lines = []
    for each in judgements:
        part = each.deciding or Part("", "", "", 0, 0, 0)
        values = (part.summary.mean, *(part.summary.interval or (None, None)), part.summary.n)
        line = {key: getattr(each.claim, key) for key in said} | {"verdict": each.verdict}
        line |= {"reason": "" if each.deciding else each.problem, "quantity": part.text}
        line |= dict(zip(numbers, values, strict=True))
        lines.append(line | {"parts": len(each.parts), "p_holm": each.p_holm})
    return csv_text(list(lines[0]), lines)


def to_latex(judgements: Sequence[Judgement]) -> str:
    """Return a table that spans pages; it needs booktabs and longtable."""
    return render_latex("claims.tex.j2", judgements=judgements, counts=counts(judgements))
