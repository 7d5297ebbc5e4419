"""A run's folder is read as typed values, without torch, whatever state its files are in."""

import json
import math
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acdc.config.run import parse_run
from acdc.errors import RunDirectoryError
from acdc.files import write_json
from acdc.frozen import fingerprint
from acdc.run.failures import Failure
from acdc.run.reader import read_run
from acdc.run.result import DivergedResult, FailedResult, FinishedResult, read_result, write_result
from tests.support import Uninterrupted, tiny_config
from tests.workflow.ended import end

FILES = ("result.json", "config.yaml", "provenance.json", "journal.jsonl")


@pytest.fixture(scope="module")
def finished(uninterrupted: Uninterrupted) -> Path:
    return uninterrupted(tiny_config("acdc"))[0]


def on_disk(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def test_finished(finished: Path) -> None:
    run, data = read_run(finished), on_disk(finished)
    assert isinstance(run.result, FinishedResult)
    assert run.problems == ()
    assert run.failure is None
    assert run.config == yaml.safe_load((finished / "config.yaml").read_text()) == data["config"]
    assert parse_run(data["config"]) == tiny_config("acdc")
    sparse = run.result.products["sparse"].best
    assert sparse.test_accuracy == data["products"]["sparse"]["best"]["test_accuracy"]
    assert sparse.certificate is not None
    assert sparse.certificate.holds
    assert [record["epoch"] for record in run.journal.epochs] == [0, 1, 2, 3]
    assert [record["event"] for record in run.journal.events] == ["prune", "restore", "prune"]
    (attempt,) = run.provenance
    assert attempt.packages["torch"] == metadata.version("torch")
    assert run.source_digest == attempt.science


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (FailedResult, {"error": "no", "exit_status": 1}),
        (DivergedResult, {"diverged_at": 3, "diverged": "the loss is nan"}),
        (FinishedResult, {"journal_lines": 7}),
    ],
)
def test_round_trip(kind: type[Any], more: dict[str, Any], tmp_path: Path) -> None:
    config = {"settings": {"pattern": None}, "milestones": [0.5]}
    if kind is not FailedResult:
        change = {"epoch": 1, "relative": 0.5, "of_kept": math.nan, "jaccard": 0.5}
        more = more | {"mask_changes": (change,)}
    folder = tmp_path / f"x-{fingerprint(config)}"
    end(folder, kind, config, **more)
    first = (folder / "result.json").read_bytes()
    again = read_result(folder)
    assert type(again) is kind
    assert again.config == config
    write_result(folder, again)
    assert (folder / "result.json").read_bytes() == first
    assert json.loads(first)["schema"] == 2


def test_nothing_there(tmp_path: Path) -> None:
    run = read_run(tmp_path / "none")
    assert (run.config, run.result, run.failure, run.provenance) == (None, None, None, ())
    assert run.problems == ()
    assert run.journal.lines == ()
    assert run.source_digest is None


FAILURE = Failure(error="no such mask", exit_status=1, final=True)


def test_failure(tmp_path: Path) -> None:
    write_json(tmp_path / "failed.json", FAILURE.model_dump())
    assert read_run(tmp_path).failure == FAILURE


Edit = Callable[[Any], Any]


def put(*place: Any) -> Edit:
    """Return an edit that puts its last argument at a place in nested data."""
    *keys, last, value = place

    def edit(data: Any) -> Any:
        target = data
        for key in keys:
            target = target[key]
        target[last] = value
        return data

    return edit


def without(key: str) -> Edit:
    return lambda data: {k: v for k, v in data.items() if k != key}


BEST = ("products", "sparse", "best")
CONTENTS = (b"", b"[1]", b"{", b"null", b"7", b'"text"', b"\xff\xfe", b"[" * 20_000, b"{}\n{}")
RESULTS: dict[str, Edit] = {
    **{f"no {key}": without(key) for key in ("status", "run", "config", "flops", "timings")},
    **{f"accuracy {v}": put(*BEST, "test_accuracy", v) for v in (1.7, -0.1, None, "0.9", True, [])},
    **{f"loss {v}": put(*BEST, "test_loss", v) for v in (None, -1.0, "1.0", math.inf, math.nan)},
    **{f"epoch {v}": put(*BEST, "epoch", v) for v in (-1, 1.5, "1", None, True)},
    **{f"flops {v}": put("flops", "training", v) for v in (-1.0, None, "1", math.inf)},
    **{f"seconds {v}": put("timings", "wall_s", v) for v in (-1.0, None, math.nan)},
    **{f"files {v}": put("files", v) for v in ({"a": "0"}, {"a": None}, [], None)},
    **{f"products {v}": put("products", v) for v in (None, [], {"sparse": {}}, {"sparse": None})},
    **{f"weights {v}": put("prunable_weights", v) for v in (-1, 1.5, None)},
    **{f"status {v}": put("status", v) for v in ("done", 7, None, "diverged")},
    **{f"schema {v}": put("schema", v) for v in (1, 3, "2", None, [2])},
    "sparsity of another run": put("config", "sparsity", 0.5),
    "seed of another run": put("config", "seed", 2),
    "no configuration": put("config", {}),
    "fingerprint of another run": put("fingerprint", "0" * 12),
    "name of another run": put("run", "another-" + "0" * 12),
    "another run altogether": lambda data: data
    | {"config": {}, "fingerprint": fingerprint({}), "run": f"x-{fingerprint({})}"},
}  # fmt: skip
PROVENANCES: dict[str, Edit] = {
    **{f"ranks {v}": put("ranks", v) for v in (-1, "2", None, True)},
    **{f"resumed {v}": put("resumed", v) for v in (7, "x", [7], [[]])},
    "git": put("git", "abc"),
    "cores": put("hardware", "cores", -1),
    "packages": put("packages", ["torch"]),
}
FAILURES: dict[str, Edit] = {
    **{f"no {key}": without(key) for key in ("error", "exit_status", "final")},
    **{f"final {v}": put("final", v) for v in ("yes", 1, None)},
}
CONFIGS: dict[str, Edit] = {
    "sparsity of another run": put("sparsity", 0.5),
    "empty": lambda data: {},
    "no recipe": without("recipe"),
}
DAMAGES = [
    *((f"{name}.json", data) for name in ("result", "provenance", "failed") for data in CONTENTS),
    *(("config.yaml", data) for data in (b"", b"[1]", b"{", b"7", b"\xff\xfe", b"[" * 20_000)),
    *(("result.json", edit) for edit in RESULTS.values()),
    *(("provenance.json", edit) for edit in PROVENANCES.values()),
    *(("failed.json", edit) for edit in FAILURES.values()),
    *(("config.yaml", edit) for edit in CONFIGS.values()),
]  # fmt: skip


def damage(folder: Path, name: str, how: bytes | Edit) -> None:
    if name == "config.yaml":
        (folder / "result.json").unlink()  # which has the configuration, too
    path = folder / name
    if isinstance(how, bytes):
        path.write_bytes(how)
    elif name == "journal.jsonl":
        path.write_bytes(b"\n".join([*how(path.read_bytes().splitlines()), b""]))
    elif name == "config.yaml":
        path.write_text(yaml.safe_dump(how(yaml.safe_load(path.read_bytes()))))
    else:
        path.write_text(json.dumps(how(json.loads(path.read_bytes()))))


@pytest.mark.parametrize(("name", "how"), DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_file_is_named_and_the_rest_is_read(
    name: str, how: bytes | Edit, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    write_json(folder / "failed.json", FAILURE.model_dump())
    damage(folder, name, how)
    run = read_run(folder)
    (problem,) = run.problems
    assert problem.startswith(f"{folder / name}"), problem
    assert "\n" not in problem
    assert len(problem) < 600
    assert (run.result is None) == (name in ("result.json", "config.yaml"))
    assert (run.config is None) == (name == "config.yaml")
    assert (run.failure is None) == (name == "failed.json")
    assert (run.provenance == ()) == (name == "provenance.json")
    assert len(run.journal.epochs) == 4
    if name == "result.json":
        with pytest.raises(RunDirectoryError):
            read_result(folder)


@pytest.mark.parametrize("name", ["result.json", "provenance.json", "failed.json", "journal.jsonl"])
def test_a_folder_in_the_place_of_a_file(name: str, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    run = read_run(folder)
    problems = [*run.problems, *filter(None, [run.journal.problem])]
    assert any(problem.startswith(str(folder / name)) for problem in problems)


def line(change: dict[str, Any]) -> Callable[[list[bytes]], list[bytes]]:
    def edit(lines: list[bytes]) -> list[bytes]:
        at = next(n for n, text in enumerate(lines) if json.loads(text).get("val_loss") and n)
        return [*lines[:at], json.dumps(json.loads(lines[at]) | change).encode(), *lines[at + 1 :]]

    return edit


JOURNALS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    **{f"{text[:9]!r} in the middle": lambda lines, text=text: [*lines[:3], text, *lines[4:]]
       for text in (b"", b"{", b"[1]", b"7", b"null", b"\x00" * 9, b"\xff", b"[" * 20_000)},
    **{f"{key} {value}": line({key: value}) for key, value in (
        ("epoch", None), ("epoch", "1"), ("epoch", -1), ("epoch", True), ("time", None),
        ("val_accuracy", 1.7), ("val_accuracy", None), ("val_loss", -1.0), ("train_loss", "nan"),
        ("sparsity", 2.0), ("nonzeros", {"a": -1}), ("nonzeros", None), ("train_s", -1.0),
        ("phase", 7), ("event", 7))},
    **{f"no {key}": lambda lines, key=key: [
           json.dumps(without(key)(json.loads(text))).encode() for text in lines]
       for key in ("train_accuracy", "val_accuracy", "val_loss")},
    "a line lost": lambda lines: [*lines[:3], *lines[4:]],
    "an epoch lost": lambda lines: [t for t in lines if json.loads(t).get("val_loss") is None
                                    or json.loads(t)["epoch"] != 2],
    "an epoch twice": lambda lines: [*lines, lines[-1]],
    "the end lost": lambda lines: lines[:-1],
    "half lost": lambda lines: lines[: len(lines) // 2],
    "the beginning lost": lambda lines: lines[1:],
    "all lost": lambda lines: [],
    "two exchanged": lambda lines: [*lines[:-2], lines[-1], lines[-2]],
    "half a line": lambda lines: [*lines[:3], lines[3][:20], *lines[4:]],
    "half a last line": lambda lines: [*lines[:-1], lines[-1][:20]],
}  # fmt: skip


@pytest.mark.parametrize("how", JOURNALS.values(), ids=JOURNALS.keys())
def test_a_journal_that_is_not_whole_is_named(
    how: Callable[[list[bytes]], list[bytes]], finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    path = folder / "journal.jsonl"
    damage(folder, path.name, how)
    run = read_run(folder)
    assert run.problems == ()
    assert run.journal.problem is not None
    assert run.journal.problem.startswith(str(path))
    assert len(run.journal.problem) < 600


def test_a_journal_that_is_being_written_has_no_problem(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / finished.name)
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert read_run(folder).journal.problem is not None, "the result says how long it is"
    (folder / "result.json").unlink()
    run = read_run(folder)
    assert len(run.journal.epochs) == 3
    assert run.journal.problem is None


@given(st.binary(max_size=60), st.integers(0), st.sampled_from(FILES))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_damage_raises(finished: Path, tmp_path: Path, noise: bytes, at: int, name: str) -> None:
    folder = tmp_path / finished.name
    folder.mkdir(exist_ok=True)
    for file in FILES:
        content = (finished / file).read_bytes()
        if file == name:
            at %= len(content)
            content = content[:at] + noise + content[at + len(noise) :]
        (folder / file).write_bytes(content)
    run = read_run(folder)
    assert run.journal.lines is not None


def test_an_unreadable_certificate_is_none(finished: Path, tmp_path: Path) -> None:
    folder, data = shutil.copytree(finished, tmp_path / finished.name), on_disk(finished)
    data["products"]["sparse"]["last"]["certificate"]["layers"] = "lost"
    write_json(folder / "result.json", data)
    result = read_run(folder).result
    assert result.products["sparse"].last.certificate is None
    assert result.products["sparse"].best.certificate is not None
