"""Any label comes out as it is in LaTeX, HTML, figures, MLflow and the terminal."""
# ruff: noqa: RUF001

import html
import itertools
import re
import subprocess
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc.console import table as terminal_table
from acdc.messages import plain
from reports.encoding import escape_html, escape_latex, html_environment, latex_environment
from reports.figures.style import close, words
from reports.outputs import write_all
from reports.source import Source, build_table, draw_figure, open_study
from reports.typeset import to_latex
from study.model import Experiment, Row, write_study
from tests.reports.tiny import words as words_of

HOSTILE = {
    "an option of the line before": "[ours] AC/DC",
    "an option after a space": " [1ex] of it",
    "the star of a line's end": "*AC/DC",
    "bracket and star": "[*] both",
    "two dollars": "cost $x_ and $y^",
    "a formula": "AC/DC ($\\ours$)",
    "one dollar": "5 $ each",
    "commands": "\\input{/etc/passwd} \\end{tabular}",
    "a lone backslash": "\\",
    "specials": "a_b & 5% #1 ~ ^ {x} | ` \"q\" 'q'",
    "unbalanced": "}{ $ \\",
    "comment": "50% % the rest",
    "ligatures": "--seeds --- ,, '' `` << >> ?` !`",
    "accents": "Élan naïve Ångström Łódź ő İ",
    "decomposed": unicodedata.normalize("NFD", "Élan"),
    "letters": "straße æØ œ",
    "greek": "α = 0.5, σ² ≤ µ",
    "signs": "90 % ± 1 − 2 × 3 → ∞ … “q” ‘q’ – —",
    "beyond pdflatex": "稀疏 😀 Привет",
    "control characters": "a\x00b\x1b[31mred\x07\x08",
    "lines": "first\nsecond\r\nthird\ttab\u2028end",
    "invisible": "a\u200b\u202eb\ufeff",
    "markup": "<script>alert(1)</script> & &amp; \"'",
    "a template": "{{ 7 * 7 }} << 7 >> <% raw %> {% raw %}",
    "underscore first": "_mine",
    "long words": "many words " * 25,
    "one long word": "x" * 300,
    "empty": "",
}
TEXTS = st.one_of(
    st.text(max_size=40), st.text(st.sampled_from("[*\\$_^{}%&#~|`'\",-<>éÉ\x1b\n α"), max_size=12)
)


def printed(tex: str) -> str:
    """Return what LaTeX prints of escaped ASCII, by a reader of its own."""
    assert tex.isascii()
    commands = {
        **{f"\\{character}": character for character in "&%$#_{}"},
        **{"\\textbackslash{}": "\\", "\\textasciitilde{}": "~", "\\textasciicircum{}": "^"},
        **{"\\textasciigrave{}": "`", "\\textless{}": "<", "\\textgreater{}": ">"},
        **{"\\textbar{}": "|", "{[}": "[", "{*}": "*", "{}": "", "\\allowbreak{}": ""},
    }
    pattern = "|".join(map(re.escape, sorted(commands, key=len, reverse=True)))
    return re.sub(pattern, lambda match: commands[match[0]], tex)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_latex_prints_ascii_as_it_is(text: str) -> None:
    tex = escape_latex(text)
    assert printed(tex) == text
    assert not re.match(r"\s*[\[*]", tex)
    assert not re.search(r"--|''|,,|``|\?`|!`", tex)


@given(TEXTS)
def test_latex_is_ascii_balanced_and_escaped_once(text: str) -> None:
    tex = escape_latex(text)
    assert tex.isascii()
    assert tex.isprintable()
    bare = re.sub(r"\\[\\{}&%$#_]", "", tex)
    assert bare.count("{") == bare.count("}")
    assert len(re.findall(r"(?<!\\)\$", tex)) % 2 == 0
    assert escape_latex(tex) is tex
    assert latex_environment().from_string("<< text >>").render(text=text) == tex


@given(TEXTS)
def test_html_shows_it_as_it_is(text: str) -> None:
    page = html_environment().from_string("{{ text }}").render(text=text)
    assert page == escape_html(text)
    assert html.unescape(page) == plain(text)
    assert not re.search(r"[<>\"']", page)


@given(TEXTS)
def test_plain_text_has_no_control_characters(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
    assert shown == unicodedata.normalize("NFC", text) or not text.isprintable()
    assert "\x1b" not in terminal_table(["label"], [[text]], [40])
    assert all(line.isprintable() for line in words(text).splitlines())
    assert not words(text).startswith("_")


def hostile(
    experiment: Experiment, texts: Iterator[str] | None = None, times: int = 6
) -> Experiment:
    """Return an experiment with copies of its rows, under the next hostile labels."""
    texts = texts or itertools.cycle(HOSTILE.values())

    def renamed(rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(replace(row, label=next(texts)) for row in rows)

    return replace(
        experiment,
        title=" ".join(HOSTILE.values()),
        caption=" ".join(HOSTILE.values()),
        rows=renamed(experiment.rows * times),
        panels=tuple(
            replace(panel, title=next(texts), rows=renamed(panel.rows))
            for panel in experiment.panels
        ),
    )


def test_a_table_of_hostile_labels_compiles(source: Source, tmp_path: Path) -> None:
    columns = ("top1", "training_ratio")
    experiment = replace(hostile(source.study.experiment("table1")), columns=columns)
    assert {row.label for row in experiment.rows} >= set(HOSTILE.values())
    (tmp_path / "tables").mkdir()
    text = to_latex(build_table(source, experiment))
    (tmp_path / "tables" / "table1.tex").write_text(text, encoding="utf-8")
    script = Path(__file__).parents[2] / ".ci" / "latex"
    done = subprocess.run([script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("first", range(0, len(HOSTILE), 5))
def test_a_figure_shows_labels_as_they_are(first: int, source: Source) -> None:
    experiment = source.study.experiment("figure3")
    (panel,) = experiment.panels
    labels = itertools.cycle([*HOSTILE.values()][first : first + 5])
    rows = tuple(replace(row, label=next(labels)) for row in panel.rows)
    figure = draw_figure(source, replace(experiment, panels=(replace(panel, rows=rows),)))
    figure.canvas.draw()
    shown = words_of(figure)
    assert all(" ".join(words(row.label).split()) in shown for row in rows)
    close(figure)


def test_a_hostile_study_is_written_whole(copy: Path) -> None:
    whole = open_study(copy).study
    theory = [each for each in whole.experiments if each.theory]
    texts = itertools.cycle(HOSTILE.values())
    others = [hostile(each, texts, 2) for each in whole.experiments if not each.theory]
    write_study(replace(whole, experiments=(*theory, *others)), copy / "study.json")
    assert all(path.stat().st_size for path in write_all(open_study(copy)))
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    for label in HOSTILE.values():
        assert escape_html(label) in page
