"""The theory's figures, its table of statements and its chapter say what its files say."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from pydantic import TypeAdapter

from reports import chapter as chapters
from reports import encoding
from reports.chapter import Block, chapter
from reports.encoding import prose_to_html
from reports.figures.panels import PANELS
from reports.figures.style import close, inline_svg, sequence, to_bytes
from reports.figures.theory import draw
from reports.html import report
from reports.outputs import write_statements
from reports.source import Source, draw_figure
from reports.statements import measured, number, predicted, to_csv, to_json, to_latex
from reports.text import NO_ROW
from reports.theory import Found, find, read_series
from study.model import Experiment, ReportError
from tests.reports import tiny
from tests.reports.tiny import check_layout
from theory.layout import SERIES
from theory.statements import Statement, Stored
from theory.statistics import proportion


def experiment(name: str) -> Experiment:
    return tiny.experiment(
        f"theory_{name}",
        "theory",
        rf"Of ${name[0]}_1$ & 50 %",
        caption=r"See $\sigma^2$ < 1.",
        theory=name,
    )


def statement(name: str, interval: tuple[float, float, float], **more: Any) -> Statement:
    values: dict[str, Any] = {
        "source": "Theorem 9", "claim": r"$x_t \le 1$ & so_on", "measure": "the 100 % of it",
        "relation": "at most", "predicted": 1.0, "trials": 30}  # fmt: skip
    ends = dict(zip(("value", "low", "high"), interval, strict=True))
    return Statement(id=name, **ends, **(values | more))


def never(violations: int, trials: int, **texts: str) -> Statement:
    measured = proportion(violations, trials)
    counts = {"trials": trials, "violations": violations}
    return Statement(
        relation="never", predicted=0.0, tolerance=0.1, **vars(measured), **counts, **texts
    )


HOLDS = statement("holds", (0.5, 0.4, 0.6))
FAILS = statement("fails", (1.5, 1.4, 1.6), diverged=2)
OPEN = statement("open", (1.0, 0.9, 1.1))
SURE = never(
    id="sure", source="Lemma 9", claim="it is so", measure="seen", violations=0, trials=1000
)


@pytest.mark.parametrize("relation", ["equals", "at most"])
@pytest.mark.parametrize(
    "interval",
    [
        (0.5, 0.4, 0.6),
        (np.inf, -np.inf, np.inf),
        (np.inf, np.inf, np.inf),
        (np.nan, np.nan, np.nan),
    ],
)
def test_a_statement_is_read_back(interval: tuple[float, float, float], relation: str) -> None:
    first = statement("first", interval, relation=relation, tolerance=0.5, note="n")
    for each in (first, statement("second", interval), SURE):
        plain = json.loads(json.dumps(each.plain(), allow_nan=False))
        found = TypeAdapter(Stored).validate_python(plain)
        # Compared as text, since nan is not itself.
        assert (found.plain(), found.verdict) == (each.plain(), each.verdict)


FOUND = [
    Found(experiment("t3"), (HOLDS, FAILS)),
    Found(experiment("c1"), (OPEN, SURE)),
    Found(experiment("fail"), problem="it_broke & so"),
]


def test_statements_in_csv_and_json() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(FOUND))))
    assert [(row["experiment"], row["id"], row["verdict"]) for row in rows] == [
        ("theory_t3", "holds", "holds"),
        ("theory_t3", "fails", "does not hold"),
        ("theory_c1", "open", "undecided"),
        ("theory_c1", "sure", "holds"),
    ]
    assert [float(rows[1][key]) for key in ("value", "low", "high")] == [1.5, 1.4, 1.6]
    assert (rows[1]["diverged"], rows[1]["violations"], rows[3]["violations"]) == ("2", "", "0")
    data = json.loads(to_json(FOUND))
    assert [row["verdict"] for row in data["statements"]] == [row["verdict"] for row in rows]
    assert data["missing"] == {"theory_fail": "it_broke & so"}


def test_statements_in_latex() -> None:
    text = to_latex(FOUND)
    assert r"$x_t \le 1$ \& so\_on" in text
    assert r"the 100 \% of it" in text
    assert r"Of $t_1$ \& 50 \%" in text
    assert "Not there: theory\\_fail." in text
    body = text[text.index(r"\endfoot") :]
    assert re.findall(r"\{(holds|does not hold|undecided)\} \\\\", body) == [
        "holds", "does not hold", "undecided", "holds"
    ]  # fmt: skip
    assert text.isascii()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "$0$"), (2.0, "$2$"), (-1.0, "$-1$"), (0.3333333, "$0.333$"), (1234.5, "$1234$"),
        (2e6, r"$2 \times 10^{6}$"), (1.23456e-5, r"$1.23 \times 10^{-5}$"),
        (float("inf"), r"$\infty$"), (float("nan"), NO_ROW)
    ],
)  # fmt: skip
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.427, 0.3874, 0.4657), ("$0.427$", "$[0.387, 0.466]$")),
        ((5.2766e-6, 4.7375e-6, 5.7828e-6), (r"$5.28 \times 10^{-6}$", None)),
        ((2.0, 2.0, 2.0), ("$2$", "")),
        # As many digits as tell the end from the prediction.
        ((0.95, 0.90, 0.9996), ("$0.9500$", "$[0.9000, 0.9996]$")),
        # Ends that are far apart, each with its own.
        ((10.6, 0.0978, 1153.0), ("$10.6$", "$[0.0978, 1153]$")),
        ((float("inf"), -float("inf"), float("inf")), (r"$\infty$", "")),
    ],
)
def test_digits_of_measured_values(
    interval: tuple[float, float, float], expected: tuple[str, str | None]
) -> None:
    value, between = measured(statement("any", interval))
    if expected[1] is None:
        assert value == r"$5.3 \times 10^{-6}$"
        assert between == r"$[4.7, 5.8] \times 10^{-6}$"
    else:
        assert (value, between) == expected


def test_predictions_carry_their_relation() -> None:
    assert predicted(HOLDS) == r"$\leq 1$"
    assert (
        predicted(HOLDS.model_copy(update={"relation": "at least", "predicted": -0.5}))
        == r"$\geq -0.5$"
    )
    assert (
        predicted(HOLDS.model_copy(update={"relation": "equals", "tolerance": 0.05}))
        == "$= 1$ ($0.05$)"
    )
    assert predicted(SURE) == "never ($0.1$)"


def texts(blocks: list[Block]) -> str:
    return "\n".join(block.text for block in blocks)


CORRECT = statement("exponent", (2.0, 1.99, 2.01), relation="equals", predicted=2, tolerance=0.1)
FAIL = [
    CORRECT,
    statement("constant", (0.123456, 0.123456, 0.123456)),
    never(id="stuck", source="F3", claim="c", measure="m", violations=0, trials=777),
    never(id="released", source="F3", claim="c", measure="m", violations=5, trials=777),
]


def test_chapter_quotes_statements() -> None:
    said = texts(chapter([Found(experiment("fail"), tuple(FAIL))]))
    assert (
        "exponent $2.000$ $[1.990, 2.010]$ in the condition number ($2$ predicted; this holds)"
        in said
    )
    assert "is $0.1235$;" in said
    assert "left it in 0 of 777 trials" in said
    assert "failed to leave in 5 of 777" in said
    assert "So the need is real" in said
    assert "3 hold, 1 do not, and 0 are undecided" in said


@pytest.mark.parametrize(
    ("interval", "words"), [((1.5, 1.4, 1.6), "does not hold"), ((2.0, 1.5, 2.5), "is undecided")]
)
def test_words_follow_the_verdict(interval: tuple[float, float, float], words: str) -> None:
    other = CORRECT.model_copy(update=dict(zip(("value", "low", "high"), interval, strict=True)))
    said = texts(chapter([Found(experiment("fail"), (other, *FAIL[1:]))]))
    assert f"this {words})" in said
    assert "this holds" not in said
    assert "So the need is real" not in said


def test_what_is_missing_is_left_out_and_named() -> None:
    blocks = chapter([Found(experiment("fail"), tuple(FAIL)), Found(experiment("c1"), problem="x")])
    headings = [block.text for block in blocks if block.kind == "heading"]
    assert "The bridge to training" not in headings
    assert any(heading.startswith("Which $k$") for heading in headings)
    remarks = [block.text for block in blocks if block.kind == "remark"]
    assert remarks[0] == "Not there: theory_c1."
    assert remarks[1].startswith("Not in this study: ")
    for name in ("t2_rate", "bridge", "t1_gap"):
        assert name in remarks[1]
    assert not re.search(r"\bfail\b|c1", remarks[1])
    assert [block.experiment for block in blocks if block.kind == "figure"] == [experiment("fail")]


def test_absent_statement() -> None:
    blocks = chapter([Found(experiment("fail"), tuple(FAIL[1:]))])
    assert "failed to leave" not in texts(blocks)
    assert blocks[-1].text == "Not measured with these settings: fail.exponent."
    assert any(block.kind == "table" for block in blocks)


def test_chapter_without_results() -> None:
    blocks = chapter([Found(experiment("t3"), problem="gone")])
    assert blocks[0] == Block("heading", "What the paper claims")
    assert {block.kind for block in blocks} == {"heading", "prose", "remark"}


@pytest.fixture(scope="module")
def page(outputs: Path) -> str:
    text = (outputs / "report.html").read_text(encoding="utf-8")
    start = text.index('<section id="page-theory"')
    return text[start : text.index("</section>", start)]


def test_statements_on_the_page(page: str, source: Source) -> None:
    assert "$" not in re.sub("<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert page.count("<math") > 20
    assert "<script" not in page
    for found in find(source.folder, source.study):
        for each in found.statements:
            value, between = measured(each)
            assert str(prose_to_html(value)) in page
            assert str(prose_to_html(between)) in page
            assert str(prose_to_html(each.claim)) in page
        verdicts = [each.verdict for each in found.statements]
        title = page.index("</th></tr>", page.index(f">{prose_to_html(found.experiment.title)}<"))
        body = page[title : page.index("</tbody>", title)]
        assert re.findall(r'<span class="verdict [^>]*>([^<]*)<', body) == verdicts


def test_chapter_of_the_study(page: str, outputs: Path) -> None:
    assert "Not measured with these settings" not in page
    assert 'id="theory_t2_rate"' in page
    assert 'href="#theory_t2_rate">Figure' in page
    assert "theory_lemmas" not in page
    text = (outputs / "tables" / "theory_chapter.tex").read_text(encoding="utf-8")
    assert r"\includegraphics" in text
    assert r"\study/figures/theory_t2_rate.pdf" in text
    assert r"\input{\study/tables/theory.tex}" in text
    assert r"Figure~\ref{fig:theory_t2_rate}" in text


def test_a_study_without_theory_has_no_chapter(source: Source) -> None:
    study = replace(source.study, experiments=(source.study.experiment("own"),))
    without = replace(source, study=study)
    assert "page-theory" not in report(without)
    with pytest.raises(ReportError, match="no experiment of the theory"):
        write_statements(without)


def test_prose_with_mathematics() -> None:
    text = r"a < $b_1 \le \|x\|^2$ & $c$"
    html = prose_to_html(text)
    assert html.startswith("a &lt; <math")
    assert html.count("</math>") == 2
    assert encoding.prose_to_latex(text) == r"a \textless{} $b_1 \le \|x\|^2$ \& $c$"
    assert encoding.prose_to_words(text) == "a < b_1 le |x|^2 & c"
    assert prose_to_html("5 $ only") == "5 $ only"
    assert encoding.prose_to_latex("5 $ only") == r"5 \$ only"
    assert prose_to_html("$x^$ < 1") == "$x^$ &lt; 1"


ROWS = [
    ("gap", "$k=1$", "measured", 0, 1.0, 0.5, 2.0), ("gap", "$k=1$", "measured", 1, 0.1, 0.05, 0.2),
    ("gap", "$k=1$", "measured", 2, 0.0, 0.0, 0.1),
    ("gap", "bound, $k=1$", "bound", 0, 3.0, None, None),
    ("gap", "bound, $k=1$", "bound", 2, 2.0, None, None),
    ("new", "other", "measured", 3, 7.0, None, None),
    ("new", "other", "measured", 1, 5.0, None, None), ("new", "other", "fit", 1, 5.0, None, None),
    ("new", "other", "fit", 3, 7.5, None, None), ("new", "one", "trial", 2, 6.0, None, None),
    ("new", "one", "trial", 3, 8.0, None, None), ("new", "sparse phase", "phase", 1, 2, None, None),
    ("new", "alone", "bound", 1, 9.0, None, None), ("new", "alone", "bound", 3, 9.0, None, None),
    ("map", "2", "cell", 1, 0.25, None, None), ("map", "8", "cell", 1, 0.5, None, None),
    ("map", "2", "cell", 10, 0.75, None, None), ("map", "8", "cell", 10, 1.0, None, None),
    ("map", "curve", "bound", 1, 2.0, None, None), ("map", "curve", "bound", 10, 8.0, None, None)
]  # fmt: skip


def lines(axes: Axes) -> list[list[list[float]]]:
    return [np.asarray(line.get_xydata()).tolist() for line in axes.lines]


def test_every_line_of_every_panel_is_drawn() -> None:
    figure = draw("t2_rate", pd.DataFrame(ROWS, columns=SERIES))
    gap, new, heat = figure.axes[:3]
    # A gap of zero is beyond a logarithmic axis.
    assert lines(gap) == [[[0, 1.0], [1, 0.1]], [[0, 3.0], [2, 2.0]]]
    (bars,) = (each for each in gap.collections if isinstance(each, LineCollection))
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.5, 2.0], [0.1, 0.2]]
    assert gap.lines[0].get_color() == gap.lines[1].get_color()
    assert lines(new) == [
        [[1, 5.0], [3, 7.0]], [[1, 5.0], [3, 7.5]], [[2, 6.0], [3, 8.0]], [[1, 9.0], [3, 9.0]]
    ]  # fmt: skip
    (shade,) = new.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1, 2)
    (mesh,) = (each for each in heat.collections if isinstance(each, QuadMesh))
    assert np.asarray(mesh.get_array()).tolist() == [[0.25, 0.75], [0.5, 1.0]]
    assert [text.get_text() for text in heat.texts] == ["0.25", "0.75", "0.5", "1"]
    assert lines(heat) == [[[1, 2.0], [10, 8.0]]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("$k=1$", "other", "one", "bound", "sparse phase", "alone", "curve")
    ]
    assert [axes.get_title(loc="left") for axes in (gap, new)] == [
        "(a) gap by iteration",
        "(b) new",
    ]
    close(figure)


def test_real_series_are_drawn_whole(source: Source) -> None:
    experiment = source.study.experiment("theory_t2_rate")
    series = read_series(source.folder, experiment)
    figure = draw_figure(source, experiment)
    for axes, (panel, rows) in zip(figure.axes, series.groupby("panel", sort=False), strict=True):
        assert panel in PANELS["t2_rate"]
        expected = {
            tuple(map(tuple, part.loc[part["y"] > 0, ["x", "y"]].sort_values("x").to_numpy()))
            for _, part in rows.groupby(["line", "role"])
        }
        assert {tuple(map(tuple, line)) for line in lines(axes)} == expected
    close(figure)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_nothing_overlaps_or_leaves_the_figure(count: int) -> None:
    rows = [
        (f"panel {panel}", f"quite a long label, number {line}, $k={line}$", "measured", x, 10.0**x)
        for panel in range(count)
        for line in range(8)
        for x in range(5)
    ]
    frame = pd.DataFrame([(*row, None, None) for row in rows], columns=SERIES)
    figure = draw("unheard_of", frame.astype({"low": float, "high": float}))
    assert len(figure.axes) == count
    check_layout(figure)
    close(figure)


def test_text_names_known_experiments() -> None:
    from theory.experiment import EXPERIMENTS

    text = (encoding.TEMPLATES / chapters.SOURCE).read_text(encoding="utf-8")
    named = re.findall(r'(?:statements?|require|verdicts)\("(\w+)', text)
    named += re.findall(r"!figure (\w+)|\[\[(\w+)\]\]", text)[0]
    assert {name for name in named if name} <= set(EXPERIMENTS)
    assert set(PANELS) <= set(EXPERIMENTS)


def test_page_colours_of_a_long_series() -> None:
    looks = sequence(12)
    rows = [("a", f"line {i}", "measured", x, i, None, None) for i in range(12) for x in (1, 2)]
    frame = pd.DataFrame(rows, columns=SERIES).astype({"low": float, "high": float})
    figure = draw("unheard_of", frame)
    text = inline_svg(to_bytes(figure, "svg", "long"), "long", "long")
    close(figure)
    assert len({(look.colour, look.marker) for look in looks}) == 12
    assert not [look.colour for look in looks if f": {look.colour}" in text]
