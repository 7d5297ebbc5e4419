"""Results of the theory that are damaged or of another study are named; the rest still works."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.html import report
from reports.source import Source, open_study
from reports.theory import find, read_results, read_series
from study.model import Experiment, ReportError
from tests.reports.tiny import invoke

NAME = "t2_rate"


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(study / "theory", folder / "theory")
    plan = json.loads((study / "study.json").read_text(encoding="utf-8"))
    plan["experiments"] = [each for each in plan["experiments"] if each["kind"] == "theory"]
    (folder / "study.json").write_text(json.dumps(plan | {"runs": {}}), encoding="utf-8")
    return open_study(folder)


@pytest.fixture
def experiment(whole: Source) -> Experiment:
    return whole.study.experiment(f"theory_{NAME}")


@pytest.fixture
def folder(whole: Source, tmp_path: Path) -> Path:
    shutil.copytree(whole.folder, tmp_path / "study")
    return tmp_path / "study"


def change(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Change values of the file, or of its first statement, whose claim never happens."""

    def edit(data: dict[str, Any]) -> None:
        for key, value in values.items():
            (data if key in data else data["statements"][0])[key] = value

    return edit


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: (data if key in data else data["statements"][0]).pop(key)


KEYS = ("experiment", "settings", "series", "statements")
STATEMENT = (
    *("id", "source", "claim", "measure", "relation", "predicted", "tolerance", "value", "low"),
    *("high", "trials", "violations", "diverged", "note", "level", "verdict", "criterion"),
)
CHANGED: dict[str, Callable[[dict[str, Any]], None]] = {
    **{f"without {key}": drop(key) for key in (*KEYS, *STATEMENT)},
    **{f"{key} is null": change(**{key: None}) for key in (*KEYS, *STATEMENT)},
    **{f"{key} is true": change(**{key: True}) for key in ("value", "low", "trials", "predicted")},
    **{f"{key} is text": change(**{key: "1"}) for key in ("value", "high", "trials", "level")},
    **{f"{key} is a list": change(**{key: [1]}) for key in (*KEYS, "id", "claim", "value")},
    **{f"{key} is -1": change(**{key: -1}) for key in ("trials", "violations", "diverged", "high")},
    "half a trial": change(trials=2.5),
    "a frequency of 1.7": change(value=1.7, high=1.8),
    "more violations than trials": change(violations=10**6),
    "ends the wrong way round": change(low=0.9, high=0.1),
    "unknown relation": change(relation="less"),
    "unknown key of a statement": change(statements=[{"id": "a", "extra": 1}]),
    "another verdict": change(verdict="does not hold"),
    "no verdict at all": change(verdict="proven"),
    "diverged trials without their verdict": change(diverged=2, verdict="holds"),
    "another criterion": change(criterion="it holds"),
    "another level": change(level=0.95),
    "another experiment": change(experiment="t1_rate"),
    "another setting": lambda data: data["settings"].update(trials=3),
    "a setting that there is not": lambda data: data["settings"].update(more=3),
    "another row": lambda data: data["series"].update(rows=data["series"]["rows"] - 1),
    "unknown key": lambda data: data.update(more=1),
}
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:300],
    "last line cut": lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
    "last byte cut": lambda content: content[:-2] + b"\n",
    "one digit changed": lambda content: content.replace(b"1", b"2", 1),
    "a line more": lambda content: content + content.splitlines(keepends=True)[-1],
    "not UTF-8": lambda content: b"\xff\xfe" + content,
    "zeros": lambda content: bytes(len(content)),
    "other text": lambda content: b"[]",
}
WHOLE: dict[str, bytes] = {
    "null": b"null", "a number": b"1", "statements are a number": b'{"statements": 1}',
    "statements of numbers": b'{"statements": [1]}', "deep nesting": b"[" * 100_000,
    "a huge number": b'{"statements": ' + b"9" * 10_000 + b"}"}  # fmt: skip


def refused(folder: Path, experiment: Experiment, name: str) -> None:
    """Check that the file is named, and that the other experiment is still there."""
    with pytest.raises(ReportError) as error:
        read_series(folder, experiment)
    message = str(error.value)
    assert str(folder / "theory" / NAME / name) in message
    assert len(message) < 600
    assert "\n" not in message
    study = open_study(folder).study
    found = {each.name: each for each in find(folder, study)}
    assert found["lemmas"].statements
    assert bool(found[NAME].problem) == (name == "statements.json")


@pytest.mark.parametrize("case", CHANGED)
def test_changed_statements(case: str, folder: Path, experiment: Experiment) -> None:
    path = folder / "theory" / NAME / "statements.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["statements"][0]["relation"] == "never"
    CHANGED[case](data)
    path.write_text(json.dumps(data), encoding="utf-8")
    refused(folder, experiment, "series.csv" if case == "another row" else "statements.json")


@pytest.mark.parametrize("name", ["series.csv", "statements.json"])
@pytest.mark.parametrize("case", [*CONTENTS, *WHOLE, "missing", "a folder"])
def test_damaged_files(case: str, name: str, folder: Path, experiment: Experiment) -> None:
    path = folder / "theory" / NAME / name
    content = path.read_bytes()
    path.unlink()
    if case == "a folder":
        path.mkdir()
    elif case != "missing":
        path.write_bytes(WHOLE[case] if case in WHOLE else CONTENTS[case](content))
    if name == "statements.json" and case == "one digit changed":
        return  # The first digit is of a claim's text, which may change.
    refused(folder, experiment, name)


def test_what_is_whole_is_read(whole: Source, experiment: Experiment) -> None:
    path = whole.folder / "theory" / NAME / "statements.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["statements"]
    found = read_results(whole.folder, experiment)
    assert [each.plain() for each in found.statements] == stored
    assert len(read_series(whole.folder, experiment)) == found.series.rows > 0


@pytest.mark.parametrize("name", ["series.csv", "statements.json"])
def test_the_report_works_without_a_damaged_file(name: str, folder: Path) -> None:
    path = folder / "theory" / NAME / name
    path.write_bytes(path.read_bytes()[:300])
    for command in ("statements", "report"):
        invoke(command, "--results", folder)
    invoke("figure", f"theory_{NAME}", "--results", folder)
    assert (folder / "figures" / f"theory_{NAME}.svg").stat().st_size
    tex = (folder / "tables" / "theory.tex").read_text(encoding="utf-8")
    assert ("Not there: theory\\_t2\\_rate." in tex) == (name == "statements.json")
    text = report(open_study(folder))
    assert f"{NAME}/{name} is damaged" in text
    assert "Not there: " in text
