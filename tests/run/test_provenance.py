"""The revision on record is that of the suite's own repository, or none."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from acdc.run.provenance import git_revision
from acdc.run.sources import ROOT


def git(folder: Path, *arguments: str) -> str:
    about = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *about, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, *files: str) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", "--force", *files)
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "A commit")


def own(suite: Path) -> None:
    commit(suite, ".")


def edited(suite: Path) -> None:
    own(suite)
    (suite / "acdc" / "new.py").touch()


def ignored_by_another(suite: Path) -> None:
    (suite.parent / ".gitignore").write_text(f"{suite.name}/\n")
    commit(suite.parent, ".gitignore")


def vendored(suite: Path) -> None:
    commit(suite.parent, ".")


def installed_beside(suite: Path) -> None:
    """The suite's folder is a repository, of which the suite itself is no part."""
    (suite / "notes").touch()
    commit(suite, "notes")


def unborn(suite: Path) -> None:
    git(suite, "init", "--quiet")


CASES: list[tuple[Callable[[Path], object], bool, bool | None]] = [
    (lambda suite: None, False, None), (own, True, True), (edited, True, False),
    (ignored_by_another, False, None), (vendored, False, None), (installed_beside, False, None),
    (unborn, False, None)]  # fmt: skip


@pytest.mark.parametrize(("place", "known", "clean"), CASES)
def test_the_revision(
    place: Callable[[Path], object], known: bool, clean: bool | None, tmp_path: Path
) -> None:
    suite = tmp_path.resolve() / "suite"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "acdc" / "run", suite / "acdc" / "run", ignore=ignored)
    place(suite)
    revision = git(suite, "rev-parse", "HEAD") if known else None
    assert git_revision(suite) == {"revision": revision, "clean": clean}
