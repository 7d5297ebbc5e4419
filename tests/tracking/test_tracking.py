"""The mirror in MLflow: equal to the journals, sent once, and harmless to everything else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import acdc
from acdc.cli import main
from acdc.config import parse_run
from acdc.errors import ConfigError
from acdc.journal import Journal
from acdc.runs import Options, run
from acdc.snapshots import DamagedRunError, Snapshot, flatten
from acdc.tracking import (
    TrackingError,
    load_mlflow,
    prepare_store,
    scale_of,
    track_command,
    tracking_uri,
)
from tests.support import Silent

PHASES = [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3], ["sparse", 3, 4]]
BASE = {"model": "resnet8_s2", "dataset": "digits", "seed": 1}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "acdc": {
        **BASE,
        "method": "acdc",
        "sparsity": 0.9,
        "epochs": 4,
        "settings": {"schedule": None, "phases": PHASES},
    },
    "dense": {**BASE, "method": "dense", "epochs": 3},
    "diverged": {**BASE, "method": "dense", "epochs": 3, "recipe": {"lr": 1e30}},
}

History = dict[str, list[tuple[int, float, int]]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three real runs: two finished, one diverged."""
    runs = tmp_path_factory.mktemp("trained")
    configs = {name: parse_run(data) for name, data in DESCRIPTIONS.items()}
    for config in configs.values():
        run(config, Options(runs), Silent())
    return {name: runs / config.run_name for name, config in configs.items()}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, which takes seconds to make, for copies."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    load_mlflow()
    prepare_store(path)
    return path


@pytest.fixture
def runs(
    trained: dict[str, Path], empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Copies of the runs at the scale ``tiny``, beside an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "results" / "tiny" / "runs"
    for folder in trained.values():
        shutil.copytree(folder, runs / folder.name)
    shutil.copy(empty_store, runs.parent / "mlflow.db")
    return runs


@pytest.fixture
def one(runs: Path, trained: dict[str, Path]) -> Path:
    """The directory of the AC/DC run, with no other run beside it."""
    for folder in trained.values():
        if folder != trained["acdc"]:
            shutil.rmtree(runs / folder.name)
    return runs / trained["acdc"].name


def track(runs: Path, *options: str) -> None:
    track_command.main([str(runs), *options], standalone_mode=False)


def store_uri(runs: Path) -> str:
    return f"sqlite:///{runs.parent / 'mlflow.db'}"


def mirrored(runs: Path, uri: str | None = None) -> dict[str, Any]:
    """The active runs of the store by the name of their directory, which must be different."""
    from mlflow import MlflowClient

    client = MlflowClient(uri or store_uri(runs))
    experiment = client.get_experiment_by_name("acdc-tiny")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_name = {f"{r.data.tags['slug']}-{r.data.tags['fingerprint']}": r for r in found}
    assert len(by_name) == len(found)
    return by_name


def history(runs: Path, run_id: str) -> History:
    """All values of the epochs' metrics, read with SQL, in the order of step and time."""
    with contextlib.closing(sqlite3.connect(runs.parent / "mlflow.db")) as store:
        rows = store.execute(
            "SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = ? AND is_nan = 0 "
            "ORDER BY step, timestamp",
            (run_id,),
        )
        values: History = defaultdict(list)
        for key, step, value, when in rows:
            if "/" not in key:
                values[key].append((step, value, when))
    return dict(values)


def journal_history(folder: Path) -> History:
    """The same, from the journal; what comes after its last line end does not count."""
    values: History = defaultdict(list)
    text = (folder / "journal.jsonl").read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        if "event" in record:
            continue
        for key, value in record.items():
            if key not in ("epoch", "time") and isinstance(value, int | float):
                values[key].append((record["epoch"], value, round(1000 * record["time"])))
    return dict(values)


def assert_mirrors(runs: Path, folder: Path) -> Any:
    """The store holds of a run what its directory holds, each step once; return the run."""
    mirror = mirrored(runs)[folder.name]
    assert history(runs, mirror.info.run_id) == journal_history(folder)
    finished = (folder / "result.json").exists()
    assert (mirror.info.status == "RUNNING") == (not finished)
    return mirror


def test_a_mirrored_run_holds_what_its_directory_holds(
    runs: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    track(runs)
    assert "3 runs mirrored" in capsys.readouterr().out
    assert not list(Path.cwd().rglob("mlruns"))
    for name, folder in trained.items():
        mirror = assert_mirrors(runs, runs / folder.name)
        config = parse_run(DESCRIPTIONS[name])
        expected = flatten(config.model_dump(mode="json"))
        params = {
            key: text if isinstance(expected[key], str) else json.loads(text)
            for key, text in mirror.data.params.items()
        }
        assert params == expected
        tags = mirror.data.tags
        assert tags["fingerprint"] == config.fingerprint
        assert (tags["slug"], tags["scale"]) == (config.slug, "tiny")
        for key in ("method", "model", "dataset", "sparsity", "seed"):
            assert tags[key] == str(getattr(config, key))
        provenance = json.loads((folder / "provenance.json").read_text())
        assert tags.get("git_revision") == provenance["git"]["revision"]
        assert tags["variant"] == config.settings.variant()
        artifacts = Path(mirror.info.artifact_uri.removeprefix("file://"))
        assert artifacts.is_relative_to(runs.parent / "mlartifacts")
        names = {"config.yaml", "result.json", "journal.jsonl", "provenance.json"}
        assert {path.name for path in artifacts.iterdir()} == names
        for file in names:
            assert (artifacts / file).read_bytes() == (folder / file).read_bytes()


def test_final_metrics_are_the_results(runs: Path, trained: dict[str, Path]) -> None:
    track(runs)
    for name in ("acdc", "dense"):
        folder = trained[name]
        result = json.loads((folder / "result.json").read_text())
        metrics = mirrored(runs)[folder.name].data.metrics
        assert mirrored(runs)[folder.name].info.status == "FINISHED"
        for product, kept in result["products"].items():
            for which, values in kept.items():
                group = f"{product}_{which}"
                for key in ("test_accuracy", "test_loss", "inference_flops"):
                    assert metrics[f"{group}/{key}"] == values[key]
                achieved = values["certificate"]["achieved"]
                assert metrics[f"{group}/certificate.achieved"] == achieved
        assert metrics["flops/training"] == result["flops"]["training"]


def test_a_diverged_run_has_failed(runs: Path, trained: dict[str, Path]) -> None:
    track(runs)
    mirror = mirrored(runs)[trained["diverged"].name]
    assert mirror.info.status == "FAILED"
    assert mirror.data.tags["status"] == "diverged"
    assert "diverged_at" in mirror.data.tags


def test_a_second_time_changes_nothing(runs: Path) -> None:
    track(runs)
    before = (runs.parent / "mlflow.db").read_bytes()
    track(runs)
    assert (runs.parent / "mlflow.db").read_bytes() == before


def test_an_unfinished_run_that_someone_has_ended_runs_again(one: Path) -> None:
    from mlflow import MlflowClient

    (one / "result.json").unlink()
    track(one.parent)
    before = assert_mirrors(one.parent, one)
    MlflowClient(store_uri(one.parent)).set_terminated(before.info.run_id, "KILLED")
    track(one.parent)
    assert assert_mirrors(one.parent, one).info.run_id == before.info.run_id


@pytest.mark.parametrize("torn", [0, 17])
def test_an_unfinished_run_is_continued(one: Path, torn: int) -> None:
    runs, result, journal = one.parent, one / "result.json", one / "journal.jsonl"
    whole, final = journal.read_bytes(), result.read_bytes()
    lines = whole.splitlines(keepends=True)
    result.unlink()
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:torn])
    track(runs)
    first = assert_mirrors(runs, one)
    journal.write_bytes(whole)
    result.write_bytes(final)
    track(runs)
    second = assert_mirrors(runs, one)
    assert second.info.run_id == first.info.run_id
    assert second.info.status == "FINISHED"
    assert "sparse_last/test_accuracy" not in first.data.metrics
    assert "sparse_last/test_accuracy" in second.data.metrics
    assert Path(first.info.artifact_uri.removeprefix("file://"), journal.name).read_bytes() == whole


def test_a_journal_that_was_cut_back_leaves_no_contradiction(one: Path) -> None:
    from mlflow import MlflowClient

    runs, journal = one.parent, Journal(one / "journal.jsonl")
    result = one / "result.json"
    result.unlink()
    track(runs)
    first = assert_mirrors(runs, one)
    MlflowClient(store_uri(runs)).set_tag(first.info.run_id, "mlflow.note.content", "odd at 2")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.cut(len(lines[0]))
    journal.append({"event": "resume", "epoch": 1})
    for line in lines[1:]:
        record = json.loads(line)
        journal.append({**record, "train_s": 9.0} if "event" not in record else record)
    track(runs)
    second = assert_mirrors(runs, one)
    assert {value for _, value, _ in history(runs, second.info.run_id)["train_s"][1:]} == {9.0}
    assert second.data.tags["mlflow.note.content"] == "odd at 2"
    assert second.data.params == first.data.params


def test_whatever_happens_to_a_journal_the_mirror_follows(one: Path) -> None:
    runs, result, journal = (one.parent, one / "result.json", Journal(one / "journal.jsonl"))
    final = result.read_text()
    template = json.loads(journal.path.read_text().splitlines()[-1])
    result.unlink()
    journal.cut(0)
    draw = random.Random(3)
    ends = [0]
    for _ in range(25):
        action = draw.choice(["epochs", "epochs", "event", "cut", "torn", "finish"])
        if result.exists() or action == "cut":
            result.unlink(missing_ok=True)
            del ends[draw.randint(1, len(ends)) :]
            journal.cut(ends[-1])
        journal.cut(ends[-1])
        if action == "epochs":
            for _ in range(draw.randint(1, 3)):
                epoch = len(ends) - 1
                journal.append({**template, "epoch": epoch, "val_loss": draw.random()})
                ends.append(journal.length)
        elif action == "event":
            journal.append({"event": "resume", "epoch": len(ends)})
            ends[-1] = journal.length
        elif action == "torn":
            with journal.path.open("a") as file:
                file.write('{"epoch": 99, "val')
        elif action == "finish":
            result.write_text(final)
        if draw.random() < 0.7:
            track(runs)
            assert_mirrors(runs, one)


@contextlib.contextmanager
def connection_lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lose the connection after the metrics have been sent and before the tags that say so."""
    from mlflow import MlflowClient

    def lost(*_: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_text", lost)
        yield


def test_sending_that_was_interrupted_is_taken_up(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = one.parent
    with connection_lost(monkeypatch), pytest.raises(TrackingError, match="gone"):
        track(runs)
    (mirror,) = mirrored_ids(runs)
    assert history(runs, mirror) == journal_history(one)  # the metrics did arrive
    track(runs)
    after = assert_mirrors(runs, one)
    assert after.info.run_id == mirror
    assert after.data.params


def test_a_journal_cut_back_after_an_interruption_leaves_no_contradiction(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, journal = one.parent, Journal(one / "journal.jsonl")
    (one / "result.json").unlink()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.cut(len(lines[0]))
    track(runs)
    for line in lines[1:]:
        journal.append(json.loads(line))
    with connection_lost(monkeypatch), pytest.raises(TrackingError, match="gone"):
        track(runs)
    journal.cut(len(lines[0]))
    for line in lines[1:]:
        journal.append({**json.loads(line), "train_s": 9.0})
    track(runs)
    assert_mirrors(runs, one)


def mirrored_ids(runs: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(runs.parent / "mlflow.db")) as store:
        return [row[0] for row in store.execute("SELECT run_uuid FROM runs")]


def test_a_run_that_two_hosts_have_created_is_kept_once(runs: Path) -> None:
    from mlflow import MlflowClient

    track(runs)
    client = MlflowClient(store_uri(runs))
    for mirror in mirrored(runs).values():
        own = {key: mirror.data.tags[key] for key in ("fingerprint", "scale", "mirror.claim")}
        client.create_run(mirror.info.experiment_id, tags=own)
    track(runs)
    for name in mirrored(runs):
        assert_mirrors(runs, runs / name)


def test_long_journals_go_in_several_batches(one: Path) -> None:
    journal = Journal(one / "journal.jsonl")
    template = json.loads(journal.path.read_text().splitlines()[-1])
    journal.cut(0)
    for epoch in range(200):
        journal.append({**template, "epoch": epoch})
    track(one.parent)
    assert_mirrors(one.parent, one)


def test_weights_are_sent_on_request(one: Path) -> None:
    track(one.parent)
    artifacts = Path(mirrored(one.parent)[one.name].info.artifact_uri.removeprefix("file://"))
    assert not list(artifacts.rglob("*.safetensors"))
    track(one.parent, "--weights")
    weights = sorted(path.name for path in one.glob("*.safetensors"))
    assert sorted(path.name for path in (artifacts / "weights").iterdir()) == weights
    before = (one.parent.parent / "mlflow.db").read_bytes()
    track(one.parent)
    track(one.parent, "--weights")
    assert (one.parent.parent / "mlflow.db").read_bytes() == before


def test_a_damaged_run_keeps_no_other_from_being_mirrored(
    runs: Path, trained: dict[str, Path]
) -> None:
    damaged = runs / trained["dense"].name
    (damaged / "result.json").write_text("{")
    with pytest.raises(DamagedRunError, match=damaged.name):
        track(runs)
    assert set(mirrored(runs)) == {trained["acdc"].name, trained["diverged"].name}


def test_the_variant_of_an_unfinished_run_is_that_of_the_finished_one(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    settings = {**DESCRIPTIONS["acdc"]["settings"], "distribution": "uniform"}
    config = parse_run({**DESCRIPTIONS["acdc"], "settings": settings})
    folder = tmp_path / config.run_name
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert Snapshot.read(folder, "").tags()["variant"] == config.settings.variant()


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "results" / "smoke" / "runs"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, runs) == f"sqlite:///{tmp_path}/results/smoke/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(None, runs) == "http://127.0.0.1:5000"
    assert tracking_uri("sqlite:///x.db", runs) == "sqlite:///x.db"
    for plain in ("mlruns", "file:///mlruns", "./mlruns"):
        with pytest.raises(ConfigError, match="mlruns"):
            tracking_uri(plain, runs)
    assert scale_of(runs / "a-0") == "smoke"
    assert scale_of(tmp_path / "results" / "runs" / "a-0") == ""


def fails(runs: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run the command as a user does; it must end with exit status 6 and one sentence."""
    with pytest.raises(SystemExit) as end:
        main(lambda standalone_mode: track(runs, *options))
    assert end.value.code == 6
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("scheme", ["http", "postgresql+none"])
def test_a_server_that_is_away_is_one_sentence(
    one: Path, scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal = (one / "journal.jsonl").read_bytes()
    text = fails(one.parent, capsys, "--uri", f"{scheme}://me:secret@127.0.0.1:9/x")
    assert "nothing is lost" in text
    assert "secret" not in text
    assert (one / "journal.jsonl").read_bytes() == journal


def test_a_locked_store_is_one_sentence(
    one: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("acdc.tracking.STORE_WAIT_S", 0.1)
    store = sqlite3.connect(one.parent.parent / "mlflow.db")
    with contextlib.closing(store):
        store.execute("BEGIN EXCLUSIVE")
        assert "locked by another program" in fails(one.parent, capsys)
    track(one.parent)
    assert_mirrors(one.parent, one)


def test_a_deleted_experiment_is_one_sentence(
    one: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    track(one.parent)
    experiment = mirrored(one.parent)[one.name].info.experiment_id
    MlflowClient(store_uri(one.parent)).delete_experiment(experiment)
    capsys.readouterr()
    assert "restore" in fails(one.parent, capsys)


# Two processes that mirror at the same moment. What they do with the network is written down:
# names looked up, connections made.
WATCHED = """
import os, sys
log = open(sys.argv[1], "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        log.write(f"{event} {arguments}\\n")
sys.addaudithook(watch)
from acdc.tracking import load_mlflow, track_command
load_mlflow()
child = os.fork()
track_command.main(sys.argv[2:], standalone_mode=False)
sys.stdout.flush()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def without_settings() -> dict[str, str]:
    """The environment of a user's shell, without what this process has set for MLflow."""
    ours = ("MLFLOW", "_MLFLOW", "PYTEST", "DO_NOT_TRACK", "CI")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def test_two_at_once_into_a_new_store_lose_and_duplicate_nothing(
    runs: Path, without_settings: dict[str, str]
) -> None:
    (runs.parent / "mlflow.db").unlink()
    log = runs.parent / "network.log"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(log), str(runs)],
        env=without_settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = sorted(line.rpartition("mlflow.db: ")[2] for line in done.stdout.splitlines())
    assert counts == ["0 new, 0 updated, 3 unchanged", "3 new, 0 updated, 0 unchanged"]
    assert log.read_text() == ""
    for folder in runs.iterdir():
        assert_mirrors(runs, folder)
    assert not list(runs.parent.glob(".mlflow.db.*"))


def test_nothing_but_the_mirror_imports_mlflow() -> None:
    source = Path(acdc.__file__).parent
    importers = {
        path.name
        for path in [*source.rglob("*.py"), *source.parent.joinpath("baselines").rglob("*.py")]
        if re.search(r"^\s*(import|from) mlflow\b", path.read_text(), flags=re.MULTILINE)
    }
    assert importers == {"mirror.py", "tracking.py"}
    code = "import sys, acdc.tracking; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
