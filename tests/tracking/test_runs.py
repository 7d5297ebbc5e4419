"""A mirrored run is equal to its journal, whatever happens to that, and each value is sent once."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from acdc.config.run import parse_run
from acdc.run.journal import Journal
from acdc.run.lifecycle import Options, run
from tests.support import Silent, tiny_config
from tests.tracking.support import (
    DESCRIPTIONS,
    active,
    assert_mirrors,
    checkpoint,
    histories,
    journal_history,
    query,
    shown,
    slug_of,
    store_uri,
    sync,
    tags,
)
from tracking.snapshots import DamagedRunError, Snapshot, flatten
from tracking.store import TrackingError


def status(runs: Path, run_id: str) -> str:
    ((found,),) = query(store_uri(runs), "SELECT status FROM runs WHERE run_uuid = :r", r=run_id)
    return str(found)


def artifacts(runs: Path, run_id: str) -> Path:
    """The folder of a run's artifacts in a store that is a file."""
    text = "SELECT artifact_uri FROM runs WHERE run_uuid = :r"
    ((found,),) = query(store_uri(runs), text, r=run_id)
    return Path(found.removeprefix("file://"))


def test_a_mirrored_run_holds_what_its_directory_holds(
    runs: Path, trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sync(runs)
    assert "3 runs: 3 new, 0 updated" in capsys.readouterr().out
    assert not list(Path.cwd().rglob("mlruns"))
    ids = assert_mirrors(runs, *(runs / folder.name for folder in trained.values()))
    for name, folder in trained.items():
        run_id = ids[slug_of(folder)]
        config = parse_run(DESCRIPTIONS[name])
        expected = flatten(config.model_dump(mode="json"))
        text = "SELECT key, value FROM params WHERE run_uuid = :r"
        params = {
            key: text if isinstance(expected[key], str) else json.loads(text)
            for key, text in query(store_uri(runs), text, r=run_id)
        }
        assert params == expected
        found = tags(store_uri(runs), run_id)
        assert found["fingerprint"] == config.fingerprint
        assert (found["slug"], found["scale"]) == (config.slug, "tiny")
        for key in ("method", "model", "dataset", "sparsity", "seed"):
            assert found[key] == str(getattr(config, key))
        provenance = json.loads((folder / "provenance.json").read_text())
        assert found.get("git_revision") == provenance["git"]["revision"]
        assert found["variant"] == config.settings.variant()
        assert found["attempts"] == "1"
        there = artifacts(runs, run_id)
        assert there.is_relative_to(runs.parent / "mlartifacts")
        names = {"config.yaml", "result.json", "journal.jsonl", "provenance.json"}
        assert {path.name for path in there.iterdir()} == names
        for file in names:
            assert (there / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("depth", ["study", "runs", "run"])
def test_a_study_its_runs_or_a_run_can_be_named(one: Path, depth: str) -> None:
    sync({"study": one.parent.parent, "runs": one.parent, "run": one}[depth])
    assert_mirrors(one.parent, one)


def test_final_metrics_are_the_results(runs: Path, trained: dict[str, Path]) -> None:
    sync(runs)
    for name in ("acdc", "dense"):
        folder = trained[name]
        result = json.loads((folder / "result.json").read_text())
        run_id = active(store_uri(runs), "run")[slug_of(folder)]
        assert status(runs, run_id) == "FINISHED"
        metrics = shown(store_uri(runs), run_id)
        for product, kept in result["products"].items():
            for which, values in kept.items():
                group = f"{product}_{which}"
                for key in ("test_accuracy", "test_loss", "inference_flops"):
                    assert metrics[f"{group}/{key}"] == values[key]
                achieved = values["certificate"]["achieved"]
                assert metrics[f"{group}/certificate.achieved"] == achieved
        assert metrics["flops/training"] == result["flops"]["training"]


def test_a_diverged_run_has_failed(runs: Path, trained: dict[str, Path]) -> None:
    sync(runs)
    run_id = active(store_uri(runs), "run")[slug_of(trained["diverged"])]
    assert status(runs, run_id) == "FAILED"
    found = tags(store_uri(runs), run_id)
    assert found["status"] == "diverged"
    assert "diverged_at" in found


def test_a_run_that_failed_is_continued_when_it_is_tried_again(one: Path) -> None:
    runs, result = one.parent, one / "result.json"
    whole = json.loads(result.read_text())
    identity = ("schema", "run", "fingerprint", "config", "label", "variant", "primary")
    failed = {key: whole[key] for key in identity}
    failed |= {"status": "failed", "products": {}, "error": "no memory", "exit_status": 7}
    result.write_text(json.dumps(failed))
    sync(runs)
    (first,) = active(store_uri(runs), "run").values()
    assert status(runs, first) == "FAILED"
    found = tags(store_uri(runs), first)
    assert (found["status"], found["error"], found["exit_status"]) == ("failed", "no memory", "7")
    assert not [key for key in shown(store_uri(runs), first) if "/" in key]
    result.unlink()
    sync(runs)
    assert status(runs, first) == "RUNNING"
    result.write_text(json.dumps(whole))
    sync(runs)
    assert assert_mirrors(runs, one) == {slug_of(one): first}
    found = tags(store_uri(runs), first)
    assert found["status"] == "finished"
    assert not {"error", "exit_status"} & set(found)


def test_a_run_that_has_failed_for_good_has_failed(one: Path) -> None:
    runs, result = one.parent, one / "result.json"
    whole = result.read_bytes()
    result.unlink()
    failure = {"error": "no memory", "exit_status": 7, "final": False}
    (one / "failed.json").write_text(json.dumps(failure))
    sync(runs)
    (first,) = active(store_uri(runs), "run").values()
    assert status(runs, first) == "RUNNING"
    (one / "failed.json").write_text(json.dumps(failure | {"final": True}))
    sync(runs)
    assert status(runs, first) == "FAILED"
    found = tags(store_uri(runs), first)
    assert (found["status"], found["error"], found["exit_status"]) == ("failed", "no memory", "7")
    (cell,) = active(store_uri(runs), "cell").values()
    assert shown(store_uri(runs), cell)["seeds/failed"] == 1
    (one / "failed.json").unlink()
    result.write_bytes(whole)
    sync(runs)
    assert assert_mirrors(runs, one) == {slug_of(one): first}


def test_every_job_of_a_run_can_be_searched_for(one: Path) -> None:
    path = one / "provenance.json"
    first = json.loads(path.read_text()) | {"job": "12"}
    again = [{**first, "job": job} for job in ("12", "15", None)]
    path.write_text(json.dumps({**first, "resumed": again}))
    sync(one)
    (run_id,) = active(store_uri(one.parent), "run").values()
    found = tags(store_uri(one.parent), run_id)
    assert (found["slurm_job_id"], found["attempts"]) == ("12, 15", "4")


def test_a_second_time_changes_nothing(runs: Path) -> None:
    sync(runs)
    before = (runs.parent / "mlflow.db").read_bytes()
    sync(runs)
    assert (runs.parent / "mlflow.db").read_bytes() == before


def test_an_unfinished_run_that_someone_has_ended_runs_again(one: Path) -> None:
    from mlflow import MlflowClient

    (one / "result.json").unlink()
    sync(one.parent)
    before = assert_mirrors(one.parent, one)
    MlflowClient(store_uri(one.parent)).set_terminated(*before.values(), "KILLED")
    sync(one.parent)
    assert assert_mirrors(one.parent, one) == before


@pytest.mark.parametrize("torn", [0, 17])
def test_an_unfinished_run_is_continued(one: Path, torn: int) -> None:
    runs, result, journal = one.parent, one / "result.json", one / "journal.jsonl"
    whole, final = journal.read_bytes(), result.read_bytes()
    lines = whole.splitlines(keepends=True)
    result.unlink()
    journal.write_bytes(b"".join(lines[:3]) + lines[3][:torn])
    sync(runs)
    first = assert_mirrors(runs, one)
    (run_id,) = first.values()
    assert "sparse_last/test_accuracy" not in shown(store_uri(runs), run_id)
    journal.write_bytes(whole)
    result.write_bytes(final)
    sync(runs)
    assert assert_mirrors(runs, one) == first
    assert status(runs, run_id) == "FINISHED"
    assert "sparse_last/test_accuracy" in shown(store_uri(runs), run_id)
    assert (artifacts(runs, run_id) / journal.name).read_bytes() == whole


class Dying(Silent):
    """Kills its process when an epoch has been written down and its checkpoint has not."""

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_that_is_resumed_continues_its_mirrored_run(
    runs: Path, empty_store: Path
) -> None:
    shutil.rmtree(runs)
    config = tiny_config("acdc")
    options = Options(runs, checkpoint_share=1e9)
    killed = multiprocessing.get_context("fork").Process(
        target=run, args=(config, options, Dying())
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    folder = runs / config.run_name
    written = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert max(record["epoch"] for record in written if "event" not in record) == 2
    sync(runs)
    first = assert_mirrors(runs, folder)
    (run_id,) = first.values()
    assert {step for step, _, _ in histories(store_uri(runs))[run_id]["val_loss"]} == {0, 1}
    run(config, options, Silent())
    sync(runs)
    assert assert_mirrors(runs, folder) == first
    assert [step for step, _, _ in histories(store_uri(runs))[run_id]["val_loss"]] == [0, 1, 2, 3]


def test_a_result_that_was_removed_and_comes_back_changes_nothing(one: Path) -> None:
    runs, result = one.parent, one / "result.json"
    final = result.read_bytes()
    sync(runs)
    first = assert_mirrors(runs, one)
    result.unlink()
    sync(runs)
    assert assert_mirrors(runs, one) == first
    result.write_bytes(final)
    sync(runs)
    assert assert_mirrors(runs, one) == first
    text = "SELECT COUNT(*) FROM metrics WHERE key LIKE '%/test_accuracy' AND run_uuid = :r"
    (run_id,) = first.values()
    products = json.loads(final)["products"].values()
    assert query(store_uri(runs), text, r=run_id) == [(sum(map(len, products)),)]


def test_a_shorter_view_of_the_journal_drops_nothing(one: Path) -> None:
    runs, uri = one.parent, store_uri(one.parent)
    (one / "result.json").unlink()
    checkpoint(one)
    sync(runs)
    first = assert_mirrors(runs, one)
    (run_id,) = first.values()
    before, sent = tags(uri, run_id), histories(uri)
    second = json.loads((one / "journal.jsonl").read_text().splitlines()[1])["time"]
    (path,) = one.glob("checkpoint/step-*.pt")
    os.utime(path, (second, second))  # as a clock that is behind would say
    sync(runs)
    assert active(uri, "run") == first
    assert (tags(uri, run_id), histories(uri)) == (before, sent)
    checkpoint(one)
    sync(runs)
    assert assert_mirrors(runs, one) == first


def test_a_run_begun_anew_leaves_no_contradiction(one: Path) -> None:
    from mlflow import MlflowClient

    runs, journal = one.parent, Journal(one / "journal.jsonl")
    (one / "result.json").unlink()
    sync(runs)
    (first,) = assert_mirrors(runs, one).values()
    MlflowClient(store_uri(runs)).set_tag(first, "mlflow.note.content", "odd at 2")
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.cut(len(lines[0]))
    journal.append({"event": "resume", "epoch": 1})
    for line in lines[1:]:
        record = json.loads(line)
        journal.append({**record, "train_s": 9.0} if "event" not in record else record)
    checkpoint(one)
    sync(runs)
    (second,) = assert_mirrors(runs, one).values()
    values = histories(store_uri(runs))[second]["train_s"]
    assert {value for _, value, _ in values[1:]} == {9.0}
    assert tags(store_uri(runs), second)["mlflow.note.content"] == "odd at 2"


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
        if result.exists():
            # As it is resumed, lines that were sent stay.
            result.unlink()
            checkpoint(one)
        elif action == "cut":
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
        if draw.random() < 0.5:
            checkpoint(one)
        if draw.random() < 0.7:
            sync(runs)
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
        sync(runs)
    (first,) = active(store_uri(runs), "run").values()
    assert histories(store_uri(runs))[first] == journal_history(one)  # the metrics did arrive
    sync(runs)
    assert assert_mirrors(runs, one) == {slug_of(one): first}


def test_a_journal_cut_back_after_an_interruption_leaves_no_contradiction(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, journal = one.parent, Journal(one / "journal.jsonl")
    (one / "result.json").unlink()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.cut(len(lines[0]))
    sync(runs)
    for line in lines[1:]:
        journal.append(json.loads(line))
    checkpoint(one)
    with connection_lost(monkeypatch), pytest.raises(TrackingError, match="gone"):
        sync(runs)
    journal.cut(len(lines[0]))
    for line in lines[1:]:
        journal.append({**json.loads(line), "train_s": 9.0})
    checkpoint(one)
    sync(runs)
    assert_mirrors(runs, one)


def test_what_two_hosts_have_created_is_kept_once(runs: Path) -> None:
    from mlflow import MlflowClient

    sync(runs)
    client, uri = MlflowClient(store_uri(runs)), store_uri(runs)
    kept = ("kind", "scale", "mirror.key", "mirror.claim", "mlflow.parentRunId")
    for kind in ("run", "cell"):
        for name, run_id in active(uri, kind).items():
            mirror = client.get_run(run_id)
            own = {key: mirror.data.tags[key] for key in kept if key in mirror.data.tags}
            client.create_run(mirror.info.experiment_id, tags=own, run_name=name)
    sync(runs)
    assert_mirrors(runs, *runs.iterdir())
    cells = set(active(uri, "cell").values())
    parents = {tags(uri, r)["mlflow.parentRunId"] for r in active(uri, "run").values()}
    assert parents == cells


def test_a_run_that_stands_on_two_pages_is_kept(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.store.entities import PagedList

    sync(one.parent)
    first = assert_mirrors(one.parent, one)
    search = MlflowClient.search_runs

    def shifted(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        pages = [search(self, *arguments, **options) for _ in range(2)]
        return PagedList([run for page in pages for run in page], pages[-1].token)

    monkeypatch.setattr(MlflowClient, "search_runs", shifted)
    sync(one.parent)
    assert assert_mirrors(one.parent, one) == first


def test_long_journals_go_in_several_batches(one: Path) -> None:
    journal = Journal(one / "journal.jsonl")
    template = json.loads(journal.path.read_text().splitlines()[-1])
    journal.cut(0)
    for epoch in range(200):
        journal.append({**template, "epoch": epoch})
    sync(one.parent)
    assert_mirrors(one.parent, one)


def test_weights_are_sent_on_request(one: Path) -> None:
    sync(one.parent)
    (run_id,) = active(store_uri(one.parent), "run").values()
    there = artifacts(one.parent, run_id)
    assert not list(there.rglob("*.safetensors"))
    sync(one.parent, "--weights")
    weights = sorted(path.name for path in one.glob("*.safetensors"))
    assert sorted(path.name for path in (there / "weights").iterdir()) == weights
    before = (one.parent.parent / "mlflow.db").read_bytes()
    sync(one.parent)
    sync(one.parent, "--weights")
    assert (one.parent.parent / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", "{"),
        ("result.json", '{"schema": 1, "status": "finished", "products": {}}'),
        ("result.json", '{"schema": 2, "status": "finished", "products": []}'),
        ("result.json", "[]"),
        ("config.yaml", "method: dense"),
        ("journal.jsonl", '{"epoch": 0}\n'),
        ("provenance.json", "[]"),
    ],
)
def test_a_damaged_run_keeps_no_other_from_being_mirrored(
    file: str,
    text: str,
    runs: Path,
    trained: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = runs / trained["dense"].name
    (damaged / file).write_text(text)
    with pytest.raises(DamagedRunError, match=damaged.name):
        sync(runs)
    assert "2 runs: 2 new" in capsys.readouterr().out
    sync(runs, "--lenient")
    assert "not mirrored: 1 runs cannot be read" in capsys.readouterr().out
    others = {slug_of(trained["acdc"]), slug_of(trained["diverged"])}
    assert set(active(store_uri(runs), "run")) == others


def test_the_variant_of_an_unfinished_run_is_that_of_the_finished_one(
    trained: dict[str, Path], tmp_path: Path
) -> None:
    settings = {**DESCRIPTIONS["acdc"]["settings"], "distribution": "uniform"}
    config = parse_run({**DESCRIPTIONS["acdc"], "settings": settings})
    folder = tmp_path / config.run_name
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert Snapshot.read(folder, "").tags()["variant"] == config.settings.variant()
