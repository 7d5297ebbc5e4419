"""Claims against synthetic tables that support or contradict them."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.aggregate import Tables
from reports.claims import Claim, Judgement, Part, holm, judge, p_values, read_claims
from reports.html import report
from reports.source import Source
from reports.statistics import summarise
from study.columns import COLUMNS
from tests.reports.synthetic import SEEDS, bounds, rows_of, solve, study, tables

CLAIMS = {claim.id: claim for claim in read_claims()}


def verdict(claim: Claim, values: Mapping[str, float], **other: Any) -> Judgement:
    (found,) = judge([claim], study(), tables(claim, values, **other))
    return found


def is_measured(claim: Claim) -> bool:
    """Whether the suite measures all that the claim is about."""
    names = {
        name for each in bounds(claim.predicate, claim) for name in re.findall(r"(\w+) of ", each.a)
    }
    return not claim.needs and not any(n in COLUMNS and COLUMNS[n].awaits for n in names)


MEASURED = [name for name in CLAIMS if is_measured(CLAIMS[name])]


@pytest.mark.parametrize("name", MEASURED)
def test_data_that_support_it(name: str) -> None:
    values = solve(CLAIMS[name])
    assert values
    assert verdict(CLAIMS[name], values).verdict == "reproduced"


@pytest.mark.parametrize("name", MEASURED)
def test_data_that_contradict_any_line_of_it(name: str) -> None:
    claim, sides = CLAIMS[name], 0
    for line in bounds(claim.predicate, claim):
        for above in (False, True):
            if values := solve(claim, line, above):
                found = verdict(claim, values)
                assert found.verdict == "contradicted", (line, values)
                sides += 1
    assert sides >= len(list(bounds(claim.predicate, claim)))


@pytest.mark.parametrize("name", MEASURED)
def test_one_seed_at_chance_is_no_test(name: str) -> None:
    claim, values = CLAIMS[name], solve(CLAIMS[name])
    assert values
    found = verdict(claim, values, chance=0.1)
    if claim.at_chance:
        assert found.verdict == "reproduced"
    else:
        assert (found.verdict, found.p_holm) == ("not testable", None)
        assert "at chance (seed 1)" in found.words


@pytest.mark.parametrize("name", sorted(CLAIMS.keys() - set(MEASURED)))
def test_what_is_not_measured_is_said(name: str) -> None:
    claim = CLAIMS[name]
    # The part that is measured agrees: it has the larger value first.
    terms = [term for each in bounds(claim.predicate, claim) for term in (each.a, each.b)]
    known = [term for term in terms if term.startswith("inference_ratio")]
    found = verdict(claim, {term: 0.5 - 0.1 * i for i, term in enumerate(known)})
    assert found.verdict == "not testable"
    assert found.problem.startswith("needs ")


def claim_of(*predicate: Mapping[str, Any], **more: Any) -> Claim:
    """Return a claim about Table 1."""
    return Claim("id", "table01", "place", "claim", "paper", predicate, **more)


ACDC, RIGL = "top1 of AC/DC at 90 %", "top1 of RigL at 90 %"
GREATER = claim_of({"greater": ACDC, "than": RIGL})


@pytest.mark.parametrize(
    ("difference", "seeds", "expected"),
    [
        (+1, (1,), "in direction"),
        (-1, (1,), "not distinguishable with 1 seed"),
        (-1, (2, 3), "contradicted"),
        (+1, (), "not testable: AC/DC at 90 %: no run to average (0 of 4, 4 missing)"),
    ],
)
def test_few_seeds(difference: float, seeds: tuple[int, ...], expected: str) -> None:
    found = verdict(GREATER, {ACDC: 70 + difference, RIGL: 70}, seeds=seeds)
    assert found.words == expected


def test_a_row_that_is_not_trained() -> None:
    untrained = replace(
        study().experiment("table01"),
        rows=tuple(replace(row, runs=()) for row in study().experiment("table01").rows),
    )
    for experiments in ((untrained,), ()):
        (found,) = judge([GREATER], replace(study(), experiments=experiments), Tables(()))
        assert found.words == "not testable: AC/DC at 90 %: not trained at this scale"


def test_every_other_method_means_those_that_are_trained() -> None:
    claim = CLAIMS["T2-acdc-gt-rest-98"]
    values = solve(claim)
    assert values
    table = study().experiment("table02")
    rows = tuple(replace(row, runs=()) if row.label == "STR" else row for row in table.rows)
    smaller = replace(study(), experiments=(replace(table, rows=rows),))
    assert judge([claim], smaller, tables(claim, values))[0].verdict == "reproduced"


@pytest.mark.parametrize(("accuracy", "sparse"), [(15.0, 0.5), (70.0, 0.15)])
def test_fine_tuning_at_chance_or_of_a_run_at_chance_is_no_test(
    accuracy: float, sparse: float
) -> None:
    tuned = "dense_ft_top1 of AC/DC at 80 %"
    claim = claim_of({"value": tuned, "from": 0})
    assert verdict(claim, {tuned: 70.0}).verdict == "reproduced"
    assert verdict(claim, {tuned: accuracy}, chance=sparse).verdict == "not testable"


def test_a_precondition_that_is_absent() -> None:
    dense = "top1 of Dense"
    claim = claim_of(*GREATER.predicate, requires=({"value": dense, "from": 60},))
    values = {ACDC: 72, RIGL: 70, dense: 65}
    assert verdict(claim, values).verdict == "reproduced"
    found = verdict(claim, values | {dense: 55})
    assert (found.verdict, found.p_holm) == ("not testable", None)


@pytest.mark.parametrize("name", ["D-fc-flat", "D-mask-change-decreases", "M-true-first"])
def test_runs_without_a_journal_are_no_test(name: str) -> None:
    claim, values = CLAIMS[name], solve(CLAIMS[name])
    assert values
    found = judge([claim], study(), replace(tables(claim, values), journal=()))[0]
    assert found.verdict == "not testable"
    assert "not defined at seeds 1, 2, 3, 4" in found.problem


def test_a_dense_model_of_before_the_first_pruning_is_no_test() -> None:
    claim, tuned = CLAIMS["T6-ft-recovers-80"], "dense_ft_top1 of AC/DC at 80 %"
    values = {tuned: 70.0, "top1 of Dense": 70.0}
    assert verdict(claim, values).verdict == "reproduced"
    assert verdict(claim, values, unpruned=True).verdict == "not testable"


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0.8, "reproduced"), (0.81, "reproduced"), (0.82, "not testable"), (0.6, "not testable")],
)
def test_a_sparsity_that_is_an_outcome_has_to_be_near_that_of_the_others(
    sparsity: float, expected: str
) -> None:
    claim = CLAIMS["T1-acdc-gt-str"]
    values = solve(claim)
    assert values
    found = tables(claim, values)
    rows = tuple(
        replace(
            row,
            sparsity_is_outcome=row.method == "str",
            sparsity_pruned=sparsity if row.sparsity_requested == 0.8 else row.sparsity_requested,
        )
        for row in found.rows
    )
    (judged,) = judge([claim], study(), replace(found, rows=rows))
    assert judged.verdict == expected


def test_two_modes_are_no_test() -> None:
    found = verdict(GREATER, {ACDC: 70, RIGL: 40}, chance=0.35)
    assert found.problem == "AC/DC at 90 %: two modes, the lower one (seed 1)"


def test_one_false_line_contradicts_what_cannot_be_tested_in_whole() -> None:
    claim = claim_of(
        *GREATER.predicate,
        {"greater": ACDC, "than": "latency_batch1 of MobileNetV1 at 90 % in table13"},
    )
    assert verdict(claim, {ACDC: 72, RIGL: 70}).verdict == "not testable"
    assert verdict(claim, {ACDC: 68, RIGL: 70}).verdict == "contradicted"


@pytest.mark.parametrize(
    ("line", "difference", "spread", "expected"),
    [
        ({"greater": ACDC, "than": RIGL}, 0.5, 0.1, "reproduced"),
        ({"greater": ACDC, "than": RIGL}, 0.5, 2.0, "in direction"),
        ({"greater": ACDC, "than": RIGL}, -0.5, 2.0, "not distinguishable"),
        ({"greater": ACDC, "than": RIGL}, -0.5, 0.1, "contradicted"),
        # A lead that is too small has the paper's direction; one that is too large is not slight.
        ({"greater": ACDC, "than": RIGL, "by": 1}, 0.5, 0.1, "in direction"),
        ({"greater": ACDC, "than": RIGL, "by_less_than": 1}, 0.5, 2.0, "in direction"),
        ({"greater": ACDC, "than": RIGL, "by_less_than": 1}, 1.5, 2.0, "not distinguishable"),
        ({"greater": ACDC, "than": RIGL, "by_less_than": 1}, 1.5, 0.1, "contradicted"),
        ({"no_less": ACDC, "than": RIGL, "within": 1}, -0.5, 0.1, "reproduced"),
        ({"no_less": ACDC, "than": RIGL, "within": 1}, -0.5, 2.0, "in direction"),
        # An equivalence has no direction.
        ({"equal": ACDC, "to": RIGL, "within": 1}, 0.5, 0.1, "reproduced"),
        ({"equal": ACDC, "to": RIGL, "within": 1}, 0.5, 2.0, "not distinguishable"),
        ({"equal": ACDC, "to": RIGL, "within": 1}, 1.5, 0.1, "contradicted"),
        # Every seed counts, however small the spread of the others.
        ({"value": ACDC, "from": 70}, 0.5, 2.0, "in direction"),
        ({"each": ACDC, "from": 70}, 0.5, 2.0, "contradicted"),
        ({"each": ACDC, "from": 70}, 0.5, 0.1, "reproduced"),
    ],
)
def test_verdicts(line: dict[str, Any], difference: float, spread: float, expected: str) -> None:
    found = judge([claim_of(line)], study(), apart(difference, spread))[0]
    assert found.verdict == expected


def apart(difference: float, spread: float) -> Tables:
    """Return runs of AC/DC and RigL whose accuracies differ by the same mean, and so much more."""
    found = tables(GREATER, {ACDC: 70, RIGL: 70})
    more = dict(zip(SEEDS, (-spread, spread, -spread, spread), strict=True))
    rows = [
        replace(
            row, test_accuracy=(70 + (difference + more[row.seed]) * (row.method == "acdc")) / 100
        )
        for row in found.rows
    ]
    return replace(found, rows=tuple(rows))


def test_the_p_value_of_a_failing_part_is_corrected_for_the_number_of_parts() -> None:
    line = {"greater": ACDC, "than": RIGL}
    once, thrice = (
        judge([claim_of(*[line] * parts)], study(), apart(-0.5, 0.3))[0].p_holm for parts in (1, 3)
    )
    assert once
    assert thrice == pytest.approx(3 * once)


def test_two_accuracies_without_spread_prove_nothing() -> None:
    part = Part("greater", ACDC, RIGL, 0.0, math.inf, 0.0)
    assert p_values(part, summarise([0.1, 0.1])) == (1.0, 1.0)
    counted = replace(part, value="training_ratio of AC/DC at 90 %")
    assert p_values(counted, summarise([0.1, 0.1])) == (0.0, 1.0)


DRAWN = [np.random.default_rng(i).normal(i / 4 - 1, 0.5, 2 + i % 4).tolist() for i in range(12)]


@pytest.mark.parametrize("values", DRAWN)
def test_one_sided_ranges_have_the_p_values_of_a_two_sided_t_test(values: list[float]) -> None:
    part = Part("greater", ACDC, RIGL, 0.0, math.inf, 0.0)
    two_sided = stats.ttest_1samp(values, 0.0).pvalue
    p_for, p_against = p_values(part, summarise(values))
    assert min(p_for, p_against) == pytest.approx(two_sided)
    assert (p_for < p_against) == (np.mean(values) > 0)


@pytest.mark.parametrize("values", DRAWN)
def test_an_equivalence_is_two_one_sided_tests(values: list[float]) -> None:
    part = Part("equal", ACDC, RIGL, -0.5, 0.5, -0.5)
    sides = [
        stats.ttest_1samp(values, end, alternative=alternative).pvalue
        for end, alternative in ((-0.5, "greater"), (0.5, "less"))
    ]
    p_for, p_against = p_values(part, summarise(values))
    assert p_for == pytest.approx(min(1.0, 2 * max(sides)))
    assert p_against == pytest.approx(min(1.0, 2 * min(1 - side for side in sides)))
    # The 95 % interval lies within the margin, or outside of it.
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (p_for <= 0.05) == (low >= -0.5 and high <= 0.5)
    assert (p_against <= 0.05) == (high <= -0.5 or low >= 0.5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([0.03], [0.03]),
        # By hand: 0.01 * 3; 0.02 * 2; 0.5 * 1.
        ([0.02, 0.5, 0.01], [0.04, 0.5, 0.03]),
        # 0.02 * 4; 0.024 * 3 = 0.072 is less than the one before; 0.03 * 2; 0.9.
        ([0.03, 0.024, 0.9, 0.02], [0.08, 0.08, 0.9, 0.08]),
        ([0.6, 0.4], [0.8, 0.8]),
    ],
)
def test_holm(values: list[float], expected: list[float]) -> None:
    assert holm(values) == pytest.approx(expected)


def test_claims_of_a_table_are_corrected_for_each_other() -> None:
    def found(others: int) -> Judgement:
        loose = claim_of({"equal": ACDC, "to": RIGL, "within": 1.0})
        # Four differences of mean 0.5 and standard deviation 0.115: t = 8.66, three degrees.
        return judge([GREATER, *[loose] * others], study(), apart(0.5, 0.1))[0]

    alone = 2 * stats.t.sf(8.660254, 3)
    assert found(0).p_holm == pytest.approx(alone, rel=1e-6)
    assert found(3).p_holm == pytest.approx(4 * alone, rel=1e-6)
    assert (found(0).verdict, found(30).verdict) == ("reproduced", "in direction")


@pytest.mark.parametrize(
    "predicate",
    [
        {"more": ACDC, "than": RIGL},
        {"equal": ACDC, "to": RIGL},
        {"value": "accuracy of AC/DC at 90 %"},
        {"value": "top1"},
    ],
)
def test_a_claim_outside_of_the_vocabulary_is_an_error(predicate: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"claims\.yaml"):
        judge([claim_of(predicate)], study(), Tables(()))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_about_rows_of_the_suite(name: str) -> None:
    claim = CLAIMS[name]
    assert claim.experiment in study().ids("table", "figure")
    for each in bounds((*claim.requires, *claim.predicate), claim):
        for term in (*each.a.split(" / "), *filter(None, each.b.split(" / "))):
            assert rows_of(term, claim), term


def test_claims_are_listed_in_csv_and_latex(outputs: Path) -> None:
    with (outputs / "tables" / "claims.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == list(CLAIMS)
    # The tiny study has no claim's rows.
    assert {line["verdict"] for line in lines} == {"not testable"}
    assert all(line["reason"] for line in lines)
    latex = (outputs / "tables" / "claims.tex").read_text(encoding="utf-8")
    assert latex.count(" not testable: ") + latex.count("{not testable: ") == len(CLAIMS)


def test_the_page_opens_with_the_claims_and_links_each_to_its_table(source: Source) -> None:
    own = source.study.experiment("own")
    claim = replace(GREATER, experiment="own")
    part = Part("greater", ACDC, RIGL, 0.0, math.inf, 0.0, summarise([-0.5, -0.7]), "", 1.0, 0.01)
    judged = [
        Judgement(replace(claim, id="one"), (part,), "", 0.01),
        Judgement(replace(claim, id="two"), (), "needs <time>"),
        Judgement(replace(claim, id="three", experiment="absent"), (), "not there"),
    ]
    page = report(replace(source, study=replace(source.study, experiments=(own,))), judged)
    first = page[page.index("<main") :].split("<section")[1]
    assert 'id="page-claims"' in first
    rows = {
        name: first[first.index(f'id="claim-{name}"') :].partition("</tr>")[0]
        for name in ("one", "two")
    }
    assert "claim-three" not in page
    assert all('href="#own"' in row for row in rows.values())
    assert ">contradicted<" in rows["one"]
    assert "\N{MINUS SIGN}0.6 [\N{MINUS SIGN}1.87, 0.671]" in rows["one"]
    assert ">not testable: needs &lt;time&gt;<" in rows["two"]
