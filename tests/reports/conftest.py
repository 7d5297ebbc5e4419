"""Fixtures of the reports' tests: one tiny study, written once for all processes."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from reports.source import Source, open_study
from tests.reports.tiny import invoke, make_study


@pytest.fixture(scope="session")
def study(shared: Path) -> Path:
    """The folder of a study: 14 runs, of which one diverged, and two experiments of the theory."""
    folder = shared / "tiny"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / ".lock"):
        if not (folder / "study.json").exists():
            make_study(folder)
    return folder


@pytest.fixture(scope="session")
def source(study: Path) -> Source:
    return open_study(study)


@pytest.fixture(scope="session")
def outputs(study: Path) -> Path:
    """The study's folder, after every command has written into it."""
    with FileLock(study / ".lock"):
        if not (study / "report.html").exists():
            for each in open_study(study).study.experiments:
                if each.theory != "lemmas":
                    kind = "table" if each.kind == "table" else "figure"
                    invoke(kind, each.id, "--results", study)
            for command in ("aggregate", "statements", "report"):
                invoke(command, "--results", study)
    return study


@pytest.fixture
def copy(study: Path, tmp_path: Path) -> Path:
    """A copy of the study, without any output."""
    folder = tmp_path / "study"
    folder.mkdir()
    for part in ("runs", "theory"):
        shutil.copytree(study / part, folder / part)
    shutil.copyfile(study / "study.json", folder / "study.json")
    return folder
