"""``acdc merge``, on results that are made up, and a study whose runs come from two folders."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from acdc.frozen import fingerprint
from acdc.run.lease import Lease
from acdc.run.result import DivergedResult, FailedResult, FinishedResult
from study.model import Scale, Study, write_study
from study.resolve import load
from tests.support import epoch_line
from tests.workflow.conftest import TINY, Workplace
from tests.workflow.ended import end
from workflow import merge as merging
from workflow.cli import cli

CONFIG = {"epochs": 2}
NAME = f"run-{fingerprint(CONFIG)}"
WEIGHTS = "sparse_last.safetensors"


def write_run(study: Path, content: bytes = b"weights", wall_s: float = 1.0, **more: Any) -> Path:
    """Write a run that finished, as it leaves its folder; return the folder."""
    folder = study / "runs" / NAME
    files = {WEIGHTS: hashlib.sha256(content).hexdigest()}
    end(folder, FinishedResult, CONFIG, wall_s, **{"files": files, "journal_lines": 2} | more)
    lines = [json.dumps(epoch_line(epoch)) + "\n" for epoch in (0, 1)]
    (folder / "journal.jsonl").write_text("".join(lines))
    (folder / "config.yaml").write_text("epochs: 2\n")
    (folder / "provenance.json").write_text(json.dumps({"git": {"revision": "abc"}}))
    (folder / WEIGHTS).write_bytes(content)
    return folder


def write_partial(study: Path) -> None:
    folder = write_run(study)
    (folder / "result.json").unlink()
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "0.ckpt").write_bytes(b"state")


def damaged(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda study: (write_run(study) / name).write_bytes(content)


def without(name: str) -> Callable[[Path], object]:
    return lambda study: (write_run(study) / name).unlink()


def ended(kind: Any, **more: Any) -> Callable[[Path], object]:
    return lambda study: end(study / "runs" / NAME, kind, CONFIG, **more)


def write_config(study: Path) -> None:
    (study / "runs" / NAME).mkdir(parents=True)
    (study / "runs" / NAME / "config.yaml").write_text("epochs: 2\n")


def content(study: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(study)): path.read_bytes()
        for path in sorted(study.rglob("*"))
        if path.is_file() and path.name != ".lease"
    }


def merge(target: Path, *sources: Path) -> tuple[int, str]:
    """Merge studies into another; return the exit status and what was said."""
    done = CliRunner().invoke(cli, ["merge", *map(str, sources), "--into", str(target)])
    return getattr(done.exception, "exit_status", done.exit_code), f"{done.output}{done.exception}"


FAILED = ended(FailedResult, error="It broke.", exit_status=1)
DIVERGED = ended(DivergedResult, diverged_at=1, diverged="loss", journal_lines=0)


@pytest.mark.parametrize(
    ("source", "target", "status", "copied"),
    [
        (write_run, None, 0, True),
        (write_run, write_config, 0, True),
        (write_run, write_partial, 0, True),
        (write_run, FAILED, 0, True),
        (write_run, damaged("result.json", b"{"), 0, True),
        (write_run, damaged(WEIGHTS, b"other"), 0, True),
        (write_run, damaged("journal.jsonl", b""), 0, True),
        (write_run, without(WEIGHTS), 0, True),
        (without(WEIGHTS), None, 0, True),
        (DIVERGED, write_partial, 0, True),
        # Nothing to do.
        (write_run, lambda study: write_run(study, wall_s=2.0, label="name"), 0, False),
        (without(WEIGHTS), write_run, 0, False),
        (without(WEIGHTS), damaged("journal.jsonl", b""), 0, False),
        (write_partial, None, 0, False),
        (write_partial, write_run, 0, False),
        (FAILED, None, 0, False),
        (FAILED, write_run, 0, False),
        # Conflicts.
        (write_run, lambda study: write_run(study, b"other"), 1, False),
        (write_run, lambda study: write_run(study, prunable_weights=2), 1, False),
        (write_run, DIVERGED, 1, False),
        # Damaged sources.
        (damaged("result.json", b"{"), None, 1, False),
        (damaged(WEIGHTS, b"other"), write_partial, 1, False),
        (damaged("journal.jsonl", b"{}\n"), None, 1, False),
        (damaged("provenance.json", b"{"), None, 1, False),
        (without("journal.jsonl"), None, 1, False),
    ],
)
def test_what_becomes_of_a_run(
    source: Callable[[Path], object],
    target: Callable[[Path], object] | None,
    status: int,
    copied: bool,
    tmp_path: Path,
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    source(one)
    if target:
        target(other)
    theirs, before = content(one), content(other)
    for _ in range(2):
        found, said = merge(other, one)
        assert found == status, said
        assert content(other) == (theirs if copied else before)
        assert content(one) == theirs
    assert (NAME in said) == (status != 0)


def test_a_conflict_names_the_values_and_who_made_them(tmp_path: Path) -> None:
    write_run(tmp_path / "one", prunable_weights=3)
    other = write_run(tmp_path / "other", prunable_weights=7)
    (other / "provenance.json").write_text(
        json.dumps({"git": {"revision": "def"}, "hardware": {"processor": "Z80"}})
    )
    _, said = merge(tmp_path / "other", tmp_path / "one")
    assert all(text in said for text in ("prunable_weights: 7, not 3", "abc", "def", "Z80"))


def test_only_what_makes_up_a_run_is_copied(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one")
    expected = content(tmp_path / "one")
    for name in (".lease", "failed.json", "note.txt", ".result.json.1.tmp"):
        (folder / name).write_text("{}")
    (folder / "checkpoint").mkdir()
    assert merge(tmp_path / "other", tmp_path / "one")[0] == 0
    assert content(tmp_path / "other") == expected


def test_a_run_in_training_is_not_replaced(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_run(one)
    write_partial(other)
    before = content(other)
    with Lease(other / "runs" / NAME).held(wait_s=0):
        assert merge(other, one)[0] == 75
        assert content(other) == before
    assert merge(other, one)[0] == 0
    assert content(other) == content(one)


class Killed(BaseException):
    """Stands for a kill: what would tidy up does not run."""


@pytest.mark.parametrize("call", range(8))
def test_a_merge_that_is_killed_leaves_no_half_run(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_run(one)
    write_partial(other)
    partial, whole = content(other / "runs"), content(one / "runs")
    calls = 0

    @contextlib.contextmanager
    def killed_at(owner: Any, name: str) -> Iterator[None]:
        function = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > call:
                raise Killed
            return function(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, counted)
            yield

    with (
        killed_at(shutil, "copyfile"),
        killed_at(Path, "rename"),
        killed_at(merging, "flush"),
        pytest.raises(Killed),
    ):
        merging.merge_run(one / "runs" / NAME, other)
    assert content(other / "runs") in (partial, whole, {})
    assert merge(other, one)[0] == 0
    assert content(other) == content(one)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    assert merge(other, one)[0] == 2
    write_run(one)
    for folder in (one, other):
        scale = Scale(folder.name, "", "")
        write_study(Study(scale, (), {}), folder / "study.json")
    assert merge(other, one)[0] == 2
    assert not (other / "runs").exists()


@pytest.mark.slow
def test_a_merged_study_trains_what_is_missing(finished: Workplace, workplace: Workplace) -> None:
    runs = sorted(load(str(TINY)).runs)
    parts = [workplace.folder / "one", workplace.folder / "other"]
    for number, run in enumerate(runs[1:]):
        shutil.copytree(finished.study / "runs" / run, parts[number % 2] / "runs" / run)
    assert merge(workplace.study, *parts)[0] == 0
    merged = content(workplace.study / "runs")
    done = workplace.reproduce()
    assert done.returncode == 0, done.stderr
    after = content(workplace.study / "runs")
    assert merged.items() <= after.items()
    assert {Path(path).parts[0] for path in after.keys() - merged.keys()} == {runs[0]}
    made, expected = (place.study / "tables/table06.csv" for place in (workplace, finished))
    assert made.read_text() == expected.read_text()
    assert workplace.plan() == {}
