"""``acdc reference`` copies the summaries of a study that was made by committed states."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from acdc.run.reader import PROVENANCE
from study.model import STUDY, ReportError, write_study
from study.resolve import load
from tests.workflow.conftest import TINY
from workflow.reference import NotReproducible, reference

ABOUT: dict[str, Any] = {
    "git": {"revision": "a" * 40, "clean": True}, "python": "3.12", "packages": {"torch": "2"},
    "hardware": {"processor": "EPYC", "cores": 2, "device": "cpu"}, "host": "one"}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study: provenance, tables, figures and theory, without results."""
    folder, tiny = tmp_path / "results" / "tiny", load(str(TINY))
    write_study(tiny, folder / STUDY)
    theory = [folder / "theory" / name for name in tiny.theory]
    for place in (*(folder / "runs" / run for run in tiny.runs), *theory):
        place.mkdir(parents=True)
        (place / PROVENANCE).write_text(json.dumps(ABOUT))
    for name in ("tables/table06.csv", "tables/epochs.csv", "tables/table06.json", "report.html"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (theory[0] / "series.csv").touch()
    return folder


def call(study: Path, scale: str = "tiny") -> BaseException | None:
    command = [scale, "--results", str(study.parent), "--out", str(study.parents[1] / "reference")]
    return CliRunner().invoke(reference, command).exception


def test_summaries_replace_those_before(study: Path) -> None:
    target = study.parents[1] / "reference" / "tiny"
    (target / "tables").mkdir(parents=True)
    (target / "tables" / "old.csv").touch()
    assert call(study) is None
    copied = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert copied == {"tables/table06.csv", "theory/t2_rate/series.csv", PROVENANCE}
    (about,) = json.loads((target / PROVENANCE).read_text())
    made = {folder.name for kind in ("runs", "theory") for folder in (study / kind).iterdir()}
    assert set(about.pop("made")) == made
    assert about == {key: value for key, value in ABOUT.items() if key != "host"}
    assert isinstance(call(study, "nowhere"), ReportError)


DIRTY = ABOUT | {"git": ABOUT["git"] | {"clean": False}}
OTHER = ABOUT | {"git": ABOUT["git"] | {"revision": "b" * 40}, "packages": {"numpy": "2"}}


def test_runs_of_several_revisions_are_listed_by_revision(study: Path) -> None:
    first, second, *_ = sorted((study / "runs").iterdir())
    (first / PROVENANCE).write_text(json.dumps(OTHER))
    again = OTHER | {"packages": {"numpy": "2", "scipy": "1"}}
    (second / PROVENANCE).write_text(json.dumps(ABOUT | {"resumed": [again]}))
    assert call(study) is None
    listed = json.loads((study.parents[1] / "reference" / "tiny" / PROVENANCE).read_text())
    made = {each["git"]["revision"][0]: set(each["made"]) for each in listed}
    assert len(listed) == 2
    assert made["b"] == {first.name, second.name}
    assert second.name in made["a"]
    assert first.name not in made["a"]


@pytest.mark.parametrize("place", ["runs/*", "theory/*"])
@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        lambda path: path.write_text("{"),
        lambda path: path.write_text(json.dumps(DIRTY)),
    ],
)
def test_all_is_there_and_of_committed_files(
    change: Callable[[Path], object], place: str, study: Path
) -> None:
    path = sorted(study.glob(f"{place}/{PROVENANCE}"))[-1]
    change(path)
    error = call(study)
    assert isinstance(error, NotReproducible)
    assert str(path.parent) in str(error)
    assert not (study.parents[1] / "reference").exists()
