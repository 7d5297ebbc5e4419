"""A run in MLflow equals its folder, whatever happens to that, and each value is sent once."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acdc.config.run import parse_run
from acdc.errors import RunDirectoryError
from acdc.run.journal import Journal
from acdc.run.lifecycle import Options, run
from tests.support import Silent, tiny_config
from tests.tracking.support import (
    DESCRIPTIONS,
    artifacts,
    assert_synced,
    checkpoint,
    histories,
    journal_history,
    latest,
    only,
    query,
    slug_of,
    status,
    store_uri,
    sync,
    tags,
)
from tracking.content import flatten
from tracking.store import TrackingError


def test_runs(runs: Path, trained: dict[str, Path]) -> None:
    """Parameters, tags, artifacts and metrics; a second time nothing is sent."""
    sync(runs)
    uri, store = store_uri(runs), runs.parent / "mlflow.db"
    assert not list(Path.cwd().rglob("mlruns"))
    ids = assert_synced(*(runs / folder.name for folder in trained.values()))
    for name, folder in trained.items():
        config, run_id = parse_run(DESCRIPTIONS[name]), ids[slug_of(folder)]
        expected = flatten(config.model_dump(mode="json"))
        rows = query(uri, "SELECT key, value FROM params WHERE run_uuid = :r", r=run_id)
        found = {k: v if isinstance(expected[k], str) else json.loads(v) for k, v in rows}
        assert found == expected
        shown = tags(uri, run_id)
        provenance = json.loads((folder / "provenance.json").read_text())
        assert shown["fingerprint"] == config.fingerprint
        assert (shown["attempts"], shown["certificate_failures"]) == ("1", "")
        assert shown["git_revision"] == provenance["git"]["revision"]
        assert shown["cell"] == config.slug.removesuffix("_seed1")
        files = ("config.yaml", "result.json", "journal.jsonl", "provenance.json")
        assert artifacts(uri, run_id) == {file: (folder / file).read_bytes() for file in files}
        result, metrics = json.loads((folder / "result.json").read_text()), latest(uri, run_id)
        assert metrics["flops/training"] == result["flops"]["training"]
        for product, kept in result["products"].items():
            for which, values in kept.items():
                group = f"{product}_{which}"
                for key in ("test_accuracy", "test_loss", "inference_flops"):
                    assert metrics[f"{group}/{key}"] == values[key]
                achieved = values["certificate"]["achieved"]
                assert metrics[f"{group}/certificate.achieved"] == achieved
    diverged = ids[slug_of(trained["diverged"])]
    assert status(uri, diverged) == "FAILED"
    assert tags(uri, diverged)["status"] == "diverged"
    assert tags(uri, diverged)["error"]
    before = store.read_bytes()
    sync(runs)
    assert store.read_bytes() == before


def test_certificate_that_does_not_hold(one: Path) -> None:
    result = json.loads((one / "result.json").read_text())
    certificate = result["products"]["sparse"]["last"]["certificate"]
    certificate |= {"holds": False, "failures": ["too dense"]}
    (one / "result.json").write_text(json.dumps(result))
    sync(one)
    uri = store_uri(one.parent)
    assert tags(uri, only(uri))["certificate_failures"] == "sparse: too dense"


@pytest.mark.parametrize("where", ["result.json", "failed.json"])
def test_failed_then_finished(one: Path, where: str) -> None:
    uri, result = store_uri(one.parent), one / "result.json"
    whole = json.loads(result.read_text())
    result.unlink()
    error = {"error": "no memory", "exit_status": 7}
    identity = ("schema", "run", "fingerprint", "config", "label", "variant", "primary")
    failed = {key: whole[key] for key in identity} | error | {"status": "failed", "products": {}}
    final = error | {"final": True}
    (one / where).write_text(json.dumps(failed if where == "result.json" else final))
    sync(one)
    first = only(uri)
    assert status(uri, first) == "FAILED"
    assert (tags(uri, first)["status"], tags(uri, first)["error"]) == ("failed", "no memory")
    assert not [key for key in latest(uri, first) if "/" in key]
    (one / where).unlink()
    sync(one)
    assert status(uri, first) == "RUNNING"
    result.write_text(json.dumps(whole))
    sync(one)
    assert assert_synced(one) == {slug_of(one): first}
    assert (tags(uri, first)["status"], tags(uri, first)["error"]) == ("finished", "")
    assert "sparse_last/test_accuracy" in latest(uri, first)


def test_jobs(one: Path) -> None:
    path = one / "provenance.json"
    first = json.loads(path.read_text()) | {"job": "12"}
    again = [{**first, "job": job} for job in ("12", "15", None)]
    path.write_text(json.dumps({**first, "resumed": again}))
    sync(one)
    uri = store_uri(one.parent)
    found = tags(uri, only(uri))
    assert (found["slurm_job_id"], found["attempts"]) == ("12, 15", "4")


def test_not_begun(one: Path) -> None:
    for path in one.iterdir():
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    sync(one)
    assert_synced(uri=store_uri(one.parent))


class Dying(Silent):
    """Kills its process when an epoch is in the journal and its checkpoint is not written yet."""

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_resumed(runs: Path) -> None:
    shutil.rmtree(runs)
    config = tiny_config("acdc")
    options = Options(runs, checkpoint_share=1e9)
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=run, args=(config, options, Dying()))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    sync(runs)
    first, uri = assert_synced(runs / config.run_name), store_uri(runs)
    assert {step for step, _, _ in histories(uri)[only(uri)]["val_loss"]} == {0, 1}
    run(config, options, Silent())
    sync(runs)
    assert assert_synced(runs / config.run_name) == first
    assert [step for step, _, _ in histories(uri)[only(uri)]["val_loss"]] == [0, 1, 2, 3]


def test_clock_that_is_behind(one: Path) -> None:
    """Lines that were sent stay, though the checkpoint now seems to be older."""
    uri = store_uri(one.parent)
    (one / "result.json").unlink()
    checkpoint(one)
    sync(one)
    first, sent = assert_synced(one), histories(uri)
    second = json.loads((one / "journal.jsonl").read_text().splitlines()[1])["time"]
    (path,) = one.glob("checkpoint/step-*.pt")
    os.utime(path, (second, second))
    sync(one)
    assert histories(uri) == sent
    checkpoint(one)
    sync(one)
    assert assert_synced(one) == first


def test_any_journal(one: Path) -> None:
    """MLflow follows a journal that grows, is cut back, torn and finished at random.

    Values that are no longer true disappear; the notes of people stay.
    """
    from mlflow import MlflowClient

    sync(one)
    uri = store_uri(one.parent)
    MlflowClient(uri).set_tag(only(uri), "mlflow.note.content", "odd at 2")
    result, journal = one / "result.json", Journal(one / "journal.jsonl")
    # A run that diverges ends after any epoch.
    ended = {"status": "diverged", "diverged_at": 1, "diverged": "loss", "journal_lines": None}
    final = json.dumps(json.loads(result.read_text()) | ended)
    template = json.loads(journal.path.read_text().splitlines()[-1])
    result.unlink()
    journal.cut(0)
    draw = random.Random(3)
    ends = [0]
    for _ in range(20):
        action = draw.choice(["epochs", "epochs", "event", "cut", "torn", "finish"])
        if result.exists():
            result.unlink()
            checkpoint(one)  # as it is resumed, lines that were sent stay
        elif action == "cut":
            del ends[draw.randint(1, len(ends)) :]
        journal.cut(ends[-1])
        if action == "epochs":
            for _ in range(draw.randint(1, 3)):
                epoch = len(ends) - 1
                journal.append({**template, "epoch": epoch, "val_loss": draw.random()})
                ends.append(journal.length)
        elif action == "event":
            journal.append({"event": "resume", "epoch": len(ends) - 1})
            ends[-1] = journal.length
        elif action == "torn":
            with journal.path.open("a") as file:
                file.write('{"epoch": 99, "val')
        elif action == "finish":
            result.write_text(final)
        if draw.random() < 0.5:
            checkpoint(one)
        if draw.random() < 0.7 and journal.length:
            sync(one)
            assert_synced(one)
    assert tags(uri, only(uri))["mlflow.note.content"] == "odd at 2"


@contextlib.contextmanager
def connection_lost(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lose the connection after the metrics are sent and before the tags that say so."""
    from mlflow import MlflowClient

    def lost(*_: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lost)
        yield


def test_interrupted(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = store_uri(one.parent)
    with connection_lost(monkeypatch), pytest.raises(TrackingError):
        sync(one)
    first = only(uri)
    assert histories(uri)[first] == journal_history(one)  # the metrics did arrive
    sync(one)
    assert assert_synced(one) == {slug_of(one): first}


def test_interrupted_and_cut_back(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(one / "journal.jsonl")
    (one / "result.json").unlink()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.cut(len(lines[0]))
    sync(one)
    for line in lines[1:]:
        journal.append(json.loads(line))
    checkpoint(one)
    with connection_lost(monkeypatch), pytest.raises(TrackingError):
        sync(one)
    journal.cut(len(lines[0]))
    for line in lines[1:]:
        journal.append({**json.loads(line), "train_s": 9.0})
    checkpoint(one)
    sync(one)
    assert_synced(one)


def test_created_by_two_hosts(runs: Path) -> None:
    from mlflow import MlflowClient

    sync(runs)
    uri = store_uri(runs)
    client = MlflowClient(uri)
    for name, run_id in assert_synced(*runs.iterdir()).items():
        known = client.get_run(run_id)
        kept = ("fingerprint", "source", "sync.claim")
        own = {key: known.data.tags[key] for key in kept}
        client.create_run(known.info.experiment_id, tags=own, run_name=name)
    sync(runs)
    assert_synced(*runs.iterdir())


def test_run_on_two_pages(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.store.entities import PagedList

    sync(one)
    first, search = assert_synced(one), MlflowClient.search_runs

    def shifted(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        pages = [search(self, *arguments, **options) for _ in range(2)]
        return PagedList([run for page in pages for run in page], pages[-1].token)

    monkeypatch.setattr(MlflowClient, "search_runs", shifted)
    sync(one)
    assert assert_synced(one) == first


def test_long_journal(one: Path) -> None:
    journal = Journal(one / "journal.jsonl")
    template = json.loads(journal.path.read_text().splitlines()[-1])
    journal.cut(0)
    for epoch in range(200):
        journal.append({**template, "epoch": epoch})
    (one / "result.json").unlink()
    checkpoint(one)
    sync(one)
    assert_synced(one)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", b'{"schema": 2, "status": "finished"}'),
        ("config.yaml", b"{model: resnet8_s2}"),
        ("journal.jsonl", b'{"epoch": \n{}\n'),
        ("provenance.json", b"[]"),
        ("failed.json", b"null"),
    ],
)
def test_damaged(
    file: str,
    content: bytes,
    runs: Path,
    trained: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The damaged file is named in one line; the other runs are sent."""
    damaged = runs / trained["dense"].name
    if file == "config.yaml":
        (damaged / "result.json").unlink()
    (damaged / file).write_bytes(content)
    with pytest.raises(RunDirectoryError, match=re.escape(str(damaged / file))) as error:
        sync(runs)
    assert "\n" not in str(error.value)
    sync(runs, "--lenient")
    assert str(damaged / file) in capsys.readouterr().out
    assert_synced(*(folder for folder in runs.iterdir() if folder != damaged))


def test_any_text(one: Path) -> None:
    """Texts come out as they went in, but for control characters, of which they show the code."""
    (one / "result.json").unlink()
    uri = store_uri(one.parent)
    texts = ("50 % of É and \U0001f40d", "$x_1^2$ \\ [1] & <b>", 'it\'s "1";--')
    escaped = {"a\0b": "aU+0000b", "a\x1b[31mb": "aU+001B[31mb", "a\tb\nc": "a b c"}
    for error, stored_as in (escaped | dict(zip(texts, texts, strict=True))).items():
        failure = {"error": error, "exit_status": 7, "final": True}
        (one / "failed.json").write_text(json.dumps(failure))
        sync(one)
        assert tags(uri, only(uri))["error"] == stored_as
