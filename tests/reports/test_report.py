"""The page is whole, self-contained, and every number on it can be traced to its runs."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import markupsafe
import pytest
from click.testing import CliRunner

from acdc.console import main
from acdc.methods.describe import settings
from acdc.methods.registry import get_method, method_names
from reports.cli import cli
from reports.encoding import escape_latex as escape
from reports.encoding import render_latex
from reports.html import methods, report
from reports.source import Source, build_table
from study.model import Panel, ReportError, Run, Scale, Study

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects ids, links and sources, and checks that elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "srcset", "data") and value:
                self.references.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(outputs: Path) -> str:
    return (outputs / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    parser = Page()
    parser.feed(text)
    return parser


def test_html_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_fetched(text: str, page: Page) -> None:
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_link_leads_somewhere(page: Page) -> None:
    assert {reference[1:] for reference in page.references} <= set(page.ids)


def test_every_cell_is_shown(text: str, source: Source) -> None:
    for name in ("table1", "own", "table9", "table6", "table4"):
        table = build_table(source, source.study.experiment(name))
        start = text.index(f'<section id="{name}"')
        section = text[start : text.index("</section>", start)]
        for line in table.lines:
            for column, cell in line.cells.items():
                assert f">{cell.text}<" in section
                assert column not in table.paper_columns or f">{cell.paper.text}<" in section
    assert "2 of 3, 1 diverged" in text


def test_every_line_is_as_wide_as_its_table(text: str) -> None:
    """Also where the sparsity of the sparse models is left out."""
    for name, leading in (("table1", 5), ("table6", 3)):
        start = text.index(f'<section id="{name}"')
        section = text[start : text.index("</section>", start)]
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", section[: section.index("</table>")], re.DOTALL)
        widths = {
            sum(int(n or 1) for n in re.findall(r'<t[hd](?:[^>]*?colspan="(\d+)")?[^>]*>', row))
            for row in rows
        }
        assert len(widths) == 1
        asked = rows[1].index(">asked<")
        assert rows[1][asked : rows[1].index(">ours<")].count("<th") == leading - 2
        assert (">pruned<" in rows[1]) == (leading == 5)


def test_experiments_are_in_the_order_of_the_study(text: str, source: Source) -> None:
    order = [*source.study.ids("table", "figure"), "page-theory"]
    places = [text.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)
    contents = text[text.index("<nav") : text.index("</nav>")]
    assert [f'href="#{name}"' in contents for name in order] == [True] * len(order)
    assert ">Table 9: Pairs</a>" in contents


def test_missing_parts_are_listed(text: str) -> None:
    start = text.index('<section id="page-missing"')
    listed = text[start : text.index("</section>", start)]
    for said in (
        "timing inference in a sparse engine",
        "no runs at this scale: Awaited at 90 %",
    ):
        assert said in listed
    assert listed.count("<li>") == 3


def test_empty_figure_on_the_page(source: Source) -> None:
    figure = source.study.experiment("figure2a")
    empty = replace(figure, panels=(*figure.panels, Panel("schedule", "Empty", ())))
    study = replace(source.study, experiments=(source.study.experiment("table1"), empty))
    page = report(replace(source, study=study))
    assert "Not there: experiment figure2a: schedule " in page
    assert '<section id="table1"' in page


def test_scale_is_in_the_title_and_escaped(text: str) -> None:
    assert "<h1>Tiny scale &lt;digits&gt;</h1>" in text
    assert "Not the paper's scale" in text or "Not the paper&#39;s scale" in text


def test_methods_are_listed(text: str, outputs: Path) -> None:
    latex = (outputs / "tables" / "methods_appendix.tex").read_text(encoding="utf-8")
    for name in ("acdc", "rigl"):
        method = get_method(name)
        said = [method.source, method.flops_formula]
        said += [item for d in method.deviations for item in (d.original, d.ours, d.why)]
        for setting in settings(method):
            said += [setting.key, setting.default, setting.description]
        for words in said:
            assert str(markupsafe.escape(words)) in text
            assert escape(words) in latex
    assert "Top-KAST" not in latex


def test_appendix_is_plain_latex() -> None:
    runs = {name: Run({"method": name}) for name in method_names()}
    study = Study(Scale("all", "All", ""), (), runs)
    latex = render_latex("methods.tex.j2", methods=methods(study))
    assert latex.isascii()
    bare = re.sub(r"\\[{}]", "", latex)
    assert bare.count("{") == bare.count("}")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}")
    assert latex.count(r"\subsection*{") == len(method_names())


def test_run_list_shows_certificates_and_masks(text: str, source: Source) -> None:
    runs = source.tables.runs
    for name, fingerprint in zip(runs["run"], runs["fingerprint"], strict=True):
        start = text.index(f'id="run-{fingerprint}"')
        body = text[start : text.index("</tbody>", start)]
        result = json.loads((source.folder / "runs" / name / "result.json").read_text())
        assert body.count(">holds<") == len(result["products"])
        changes = [f"{100 * change['of_kept']:.1f}" for change in result["mask_changes"][-2:]]
        if changes:
            assert f">{' → '.join(changes)}<" in body
    assert runs["mask_change_of_kept"].notna().any()


def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["reports", "aggregate", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as exit:
        main(cli)
    assert exit.value.code == ReportError.exit_status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "nothing"], "figure3"),
        (["table", "figure3"], "not a table"),
        (["figure", "table1"], "not a figure"),
    ],
)
def test_a_wrong_name_is_refused(outputs: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(ReportError, match=said):
        CliRunner().invoke(cli, [*arguments, "--results", str(outputs)], catch_exceptions=False)


def test_no_torch(outputs: Path) -> None:
    code = (
        "import sys; from reports.cli import cli; "
        f"cli(['table', 'table1', '--results', {str(outputs)!r}], standalone_mode=False); "
        f"cli(['figure', 'figure2a', '--results', {str(outputs)!r}], standalone_mode=False); "
        f"cli(['statements', '--results', {str(outputs)!r}], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
