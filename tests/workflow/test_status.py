"""The matrix of runs: what it says of real runs at each stage, and how it foretells their end."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from filelock import SoftFileLease

import workflow.state
from acdc.config.run import RunConfig, parse_run
from acdc.data import DATASETS
from acdc.errors import ConfigError, SuiteError
from acdc.run.failures import FAILED, remember
from acdc.run.journal import Journal, read_journal
from acdc.run.lease import LEASE, host_at_work
from acdc.run.lifecycle import Options, run
from acdc.run.results import SPARE
from study.model import Experiment, Row, Run, Scale, Study, Task, write_study
from study.resolve import FOLDER, load
from tests.run.test_stops import PATIENCE_S, spawn, wait_for_epochs
from tests.support import Silent, tiny_config
from tests.workflow.conftest import ROOT, TINY
from workflow.reproduce import Progress
from workflow.state import RunState, States, clock, latest_records, pace_of, read_state
from workflow.status import Overview, cell, entries, show, status

HOUR = 3600.0


def made_of(*configs: RunConfig) -> Study:
    """Return a study of one table, a row per method."""
    rows = []
    for method in dict.fromkeys(config.method for config in configs):
        those = [config for config in configs if config.method == method]
        model, dataset, epochs = those[0].model, those[0].dataset, those[0].epochs
        task = Task(f"task of {dataset}", model, dataset, epochs)
        runs = tuple(config.run_name for config in those)
        rows.append(Row(method.upper(), method, 0.9, epochs, "sparse", runs, (), None, task))
    table = Experiment("mine", "table", "Mine", "", None, None, None, (), tuple(rows), ())
    named = {
        c.run_name: Run(
            c.plain(),
            images=c.epochs * DATASETS[c.dataset].training_images * (c.method != "one_shot"),
        )
        for c in configs
    }
    return Study(Scale("mine", "Mine", ""), (table,), named)


def study_of(results: Path, *configs: RunConfig) -> Path:
    """Write such a study, and return the folder of its runs."""
    write_study(made_of(*configs), results / "mine" / "study.json")
    folder = results / "mine" / "runs"
    folder.mkdir()
    return folder


def shown(results: Path, *arguments: str, scale: str | Path = "mine") -> str:
    done = CliRunner(env={"COLUMNS": "2000"}).invoke(
        status, ["--scale", str(scale), "--results", str(results), *arguments]
    )
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    return done.output


def as_data(results: Path, *arguments: str, scale: str | Path = "mine") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(shown(results, "--json", *arguments, scale=scale))
    return data


def cells(text: str) -> list[tuple[str, str, str, list[str]]]:
    """Return the lines of a matrix as label, method, sparsity and what is in its cells."""
    lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    return [(p[0], p[1], p[2], p[3:]) for p in lines if len(p) > 3 and p[2].endswith(" %")]


def overview_of(results: Path, *configs: RunConfig) -> Overview:
    found = entries(made_of(*configs))
    states = States(results / "mine" / "runs", {entry.run: entry.epochs for entry in found})
    return Overview("Mine", results / "mine", found, states.read())


def write_journal(
    folder: Path, times: Sequence[float | None], ago: float = 0.0, train_s: float = 0.0
) -> None:
    """Write a journal whose epochs ended at some seconds; None is a resumption.

    Args:
        folder: of the run, which is made.
        times: since the first.
        ago: seconds from the last to now.
        train_s: of each epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = max((at for at in times if at is not None), default=0.0)
    epoch = 0
    with (folder / "journal.jsonl").open("w") as file:
        for at in times:
            if at is None:
                record = {"event": "resume", "epoch": epoch, "batch": 0, "time": 0.0}
            else:
                stamp = time.time() - ago - last + at
                record = {"epoch": epoch, "train_s": train_s, "time": stamp}
                epoch += 1
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def at_work() -> Iterator[list[SoftFileLease]]:
    """Release what leases a test has taken."""
    held: list[SoftFileLease] = []
    yield held
    for lease in held:
        lease.release()


def take(folder: Path, held: list[SoftFileLease]) -> None:
    """Take the lease of a run, as its trainer would."""
    folder.mkdir(parents=True, exist_ok=True)
    lease = SoftFileLease(folder / LEASE, lease_duration=60.0, heartbeat_interval=5.0)
    lease.acquire()
    held.append(lease)


def test_a_run_that_is_killed_and_started_again_is_shown_at_each_stage(tmp_path: Path) -> None:
    study = load(str(TINY))
    config = parse_run(next(iter(study.runs.values())).config)
    runs = tmp_path / "tiny" / "runs"
    runs.mkdir(parents=True)
    folder = runs / config.run_name
    progress = Progress(study, tmp_path / "tiny")

    def now() -> dict[str, Any]:
        data = as_data(tmp_path, scale=TINY)
        (found,) = (entry for entry in data["runs"] if entry["run"] == config.run_name)
        others = [entry["text"] for entry in data["runs"] if entry["run"] != config.run_name]
        assert set(others) == {"queued"}
        # The bar of a reproduction reads the same.
        done, ended, working = progress.measure()
        assert done == pytest.approx(data["done"])
        assert (ended, working) == (data["counts"]["done"], data["counts"]["running"])
        assert isinstance(found, dict)
        return found

    def epochs() -> int:
        return sum("event" not in r for r in read_journal(folder / "journal.jsonl"))

    assert now()["text"] == "queued"

    first = spawn(config, runs, "--checkpoint-interval", "0")
    wait_for_epochs(first, folder, 3)
    psutil.Process(first.pid).suspend()
    found = now()
    assert found["status"] == "running"
    assert found["epoch"] == epochs() >= 3
    assert re.fullmatch(rf"{epochs()}/20, \d+ s left", found["text"])
    assert found["host"] == os.uname().nodename
    assert as_data(tmp_path, "--only", "running", scale=TINY)["runs"] == [
        {**found, "left_s": pytest.approx(found["left_s"], abs=PATIENCE_S)}
    ]
    first.kill()
    first.communicate()
    found = now()
    assert found["text"] == f"stopped at {epochs()}/20"
    assert (found["left_s"], found["error"], found["resumed"]) == (None, None, 0)

    before = epochs()
    second = spawn(config, runs)
    wait_for_epochs(second, folder, before + 1)
    psutil.Process(second.pid).suspend()
    found = now()
    assert re.fullmatch(rf"{epochs()}/20, \d+ s left \(resumed 1x\)", found["text"])
    psutil.Process(second.pid).resume()
    _, errors = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, errors
    assert now()["text"] == "done (resumed 1x)"
    # The result says that it is done, and where Snakemake has deleted it, its copy.
    (folder / "result.json").unlink()
    assert now()["text"] == "done (resumed 1x)"
    (folder / SPARE).unlink()
    assert now()["text"] == "stopped at 20/20 (resumed 1x)"


def test_diverged_and_failed_runs_are_told_with_their_reasons(tmp_path: Path) -> None:
    wild = tiny_config("dense", recipe={"lr": 1e30, "lr_schedule": "constant"})
    lost = tiny_config("acdc", dataset="cifar10")
    runs = study_of(tmp_path, wild, lost)
    result = run(wild, Options(runs), Silent())
    logs = tmp_path / "mine" / "logs" / "train"
    environment = {**os.environ, "ACDC_DATA": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}
    for attempt in ("1", "2"):
        command = [sys.executable, "-m", "acdc", "train", "--json", lost.canonical_json()]
        command += ["--runs", str(runs), "--logs", str(logs), "--settle", "--attempt", attempt]
        done = subprocess.run(command, cwd=tmp_path, env=environment)
        assert done.returncode == 0
    data = as_data(tmp_path)
    diverged, failed = data["runs"]
    assert diverged["text"] == f"diverged at {result['diverged_at']}"
    assert (failed["text"], failed["exit_status"]) == ("failed", 3)
    assert "cifar-10-batches-py" in failed["error"]
    assert failed["log"] == str(logs / lost.run_name / "attempt-02.log")
    assert Path(failed["log"]).exists()
    assert data["counts"] == {
        **{"running": 0, "stopped": 0, "queued": 0, "done": 0, "diverged": 1, "failed": 1}
    }
    text = shown(tmp_path)
    assert f"{lost.run_name}: failed\n  {failed['error']}\n  log: {failed['log']}\n" in text
    # The other had not trained at all.
    ours, theirs = (DATASETS[name].training_images for name in ("digits", "cifar10"))
    assert data["done"] == pytest.approx(ours / (ours + theirs))
    assert f"1 diverged, 1 failed; {int(100 * data['done'])} % of the training is done" in text
    only = shown(tmp_path, "--only", "diverged")
    assert wild.sparsity == 0
    assert cells(only) == [("DENSE", "dense", "0 %", [diverged["text"]])]
    assert lost.run_name not in only


def test_a_failed_run_that_is_being_tried_again_is_running(
    tmp_path: Path, at_work: list[SoftFileLease]
) -> None:
    result = {"schema": 2, "status": "failed", "error": "It broke.", "exit_status": 1}
    write_journal(tmp_path, [0.0, 1.0])
    (tmp_path / "result.json").write_text(json.dumps(result))
    failed = read_state(tmp_path, 4)
    assert (failed.status, failed.epoch, failed.error) == ("failed", 2, "It broke.")
    take(tmp_path, at_work)
    again = read_state(tmp_path, 4)
    assert (again.status, again.error) == ("running", None)


def test_an_error_that_need_not_recur_is_news_until_the_run_has_gone_on(tmp_path: Path) -> None:
    write_journal(tmp_path, [0.0, 1.0])
    (tmp_path / FAILED).write_text(
        json.dumps({"error": "Disk full.", "exit_status": 4, "final": False})
    )
    os.utime(tmp_path / "journal.jsonl", (0, 0))
    stopped = read_state(tmp_path, 4)
    assert (stopped.status, stopped.error, stopped.exit_status) == ("stopped", "Disk full.", 4)
    os.utime(tmp_path / "journal.jsonl")
    os.utime(tmp_path / FAILED, (0, 0))
    stopped = read_state(tmp_path, 4)
    assert (stopped.status, stopped.error) == ("stopped", None)
    # One that would only recur stays.
    (tmp_path / FAILED).write_text(
        json.dumps({"error": "No such key.", "exit_status": 2, "final": True})
    )
    os.utime(tmp_path / FAILED, (0, 0))
    failed = read_state(tmp_path, 4)
    assert (failed.status, failed.error) == ("failed", "No such key.")


def test_a_failed_run_counts_as_far_as_it_came(tmp_path: Path) -> None:
    """So that a suite that tries it again tells how much is left."""
    study = load(str(TINY))
    name, config = next((name, parse_run(run.config)) for name, run in study.runs.items())
    folder = tmp_path / "tiny" / "runs" / name
    write_journal(folder, [float(epoch) for epoch in range(config.epochs // 4)])

    def give_up() -> None:
        failure = remember(folder, ValueError("It broke."))
        reason = {"error": failure.error, "exit_status": failure.exit_status}
        result = {"schema": 2, "run": name, "status": "failed", **reason}
        (folder / "result.json").write_text(json.dumps(result))

    part, whole = study.runs[name].images, sum(run.images for run in study.runs.values())
    at_work = Progress(study, tmp_path / "tiny")
    assert at_work.measure() == (pytest.approx(part / 4 / whole), 0, 0)
    give_up()
    # This suite leaves it at that, the next one does not, with its result or without.
    assert at_work.measure() == (pytest.approx(part / whole), 1, 0)
    again = Progress(study, tmp_path / "tiny")
    assert again.measure() == (pytest.approx(part / 4 / whole), 0, 0)
    assert as_data(tmp_path, scale=TINY)["done"] == pytest.approx(part / 4 / whole)
    (folder / "result.json").unlink()
    assert read_state(folder, config.epochs).status == "failed"
    assert at_work.measure() == again.measure() == (pytest.approx(part / 4 / whole), 0, 0)
    give_up()
    assert again.measure() == (pytest.approx(part / whole), 1, 0)


@pytest.mark.parametrize("reader", ["host_at_work", "read_result"])
def test_a_run_that_ends_while_it_is_looked_at_is_not_taken_for_stopped(
    reader: str, tmp_path: Path, at_work: list[SoftFileLease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its result and leaves just before one of the two is read, whichever comes first."""
    read = getattr(workflow.state, reader)
    take(tmp_path, at_work)
    write_journal(tmp_path, [0.0, 1.0])

    def end_and_read(folder: Path) -> Any:
        if at_work:
            (folder / "result.json").write_text('{"schema": 2, "status": "finished"}')
            at_work.pop().release()
        return read(folder)

    monkeypatch.setattr(workflow.state, reader, end_and_read)
    assert read_state(tmp_path, 2).status == "done"


def test_runs_without_training_tell_of_no_speed(
    tmp_path: Path, at_work: list[SoftFileLease]
) -> None:
    trained, pruned = tiny_config("acdc", epochs=4), tiny_config("one_shot")
    runs = study_of(tmp_path, trained, pruned)
    write_journal(runs / trained.run_name, [0.0, HOUR])
    take(runs / trained.run_name, at_work)
    alone = overview_of(tmp_path, trained, pruned).left_s
    write_journal(runs / pruned.run_name, [])
    take(runs / pruned.run_name, at_work)
    # Two of four epochs, at an epoch an hour.
    assert overview_of(tmp_path, trained, pruned).left_s == alone == pytest.approx(2 * HOUR, abs=60)


def test_a_damaged_result_is_a_failure_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"schema": 2, "sta')
    state = read_state(tmp_path, 4)
    assert (state.status, state.exit_status) == ("failed", 4)
    assert state.error is not None
    assert "move it away, and 'acdc train' puts it back from checkpoint/result.json" in state.error


def test_the_latest_attempt_names_its_job(tmp_path: Path, at_work: list[SoftFileLease]) -> None:
    attempts: list[dict[str, Any]] = [{"job": "12", "host": "b"}, {"job": "13", "host": "c"}]
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"job": "11", "host": "a"}))
    state = read_state(tmp_path, 4)
    assert (state.job, state.host, state.resumed) == ("11", "a", 0)
    path.write_text(json.dumps({"job": "11", "host": "a", "resumed": attempts}))
    state = read_state(tmp_path, 4)
    assert (state.job, state.host, state.resumed) == ("13", "c", 2)
    assert cell(state) == "stopped at 0/4 (resumed 2x)"
    take(tmp_path, at_work)
    here = os.uname().nodename
    assert cell(read_state(tmp_path, 4)) == f"0/4 (resumed 2x)\njob 13, {here}"


@pytest.mark.parametrize(
    ("times", "pace_s"),
    [
        ([], None),
        ([None], None),
        # One epoch alone: its training time.
        ([0], 7.0),
        ([0, 10], 10.0),
        ([0, 10, 22, 36], 12.0),
        # A resumption between two epochs, and nothing else known, and something.
        ([0, None, 1000], 7.0),
        ([0, 10, None, 1000, 1020, 1030], 10.0),
        ([0, 10, 20, None, None, 1000, 1030, 1060], 20.0),
        # A pause that left no trace.
        ([0, 10, 20, 9999, 10009], 10.0),
        # An earlier attempt on a slower GPU is forgotten after ten epochs.
        ([*range(0, 5000, 500), None, *range(9000, 9110, 10)], 10.0),
    ],
)
def test_the_pace_is_that_of_the_last_epochs(
    times: list[float | None], pace_s: float | None, tmp_path: Path
) -> None:
    write_journal(tmp_path, times, train_s=7.0)
    assert pace_of(latest_records(tmp_path / "journal.jsonl")) == (
        None if pace_s is None else pytest.approx(pace_s, abs=0.01)
    )


def test_the_time_left_counts_down_within_an_epoch(
    tmp_path: Path, at_work: list[SoftFileLease]
) -> None:
    take(tmp_path, at_work)

    def left_s(ago: float) -> float | None:
        write_journal(tmp_path, [0.0, HOUR, 2 * HOUR], ago=ago)
        return read_state(tmp_path, 5).left_s

    # Three of five epochs of an hour are done.
    assert left_s(0.0) == pytest.approx(2 * HOUR, abs=60)
    assert left_s(HOUR / 2) == pytest.approx(1.5 * HOUR, abs=60)
    # A late epoch is expected at any moment; a clock ahead of ours makes nothing earlier.
    assert left_s(3 * HOUR) == pytest.approx(HOUR, abs=60)
    assert left_s(-HOUR) == pytest.approx(2 * HOUR, abs=60)
    assert cell(read_state(tmp_path, 5)) == "3/5, 2 h 00 min left"
    # What is left after the last epoch is not training.
    assert cell(read_state(tmp_path, 3)) == "3/3"


def test_the_end_of_a_journal_is_that_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for epoch in range(40):
        # From a few bytes to several times what is read at once.
        for update in range(epoch % 7):
            journal.append({"epoch": epoch, "event": "update", "what": "x" * (update * 3000)})
        journal.append({"epoch": epoch, "train_s": 1.0, "nonzeros": "x" * (epoch % 5 * 20_000)})
    whole = list(read_journal(path))
    assert path.stat().st_size > 20 * workflow.state._BLOCK
    for epochs in (1, 3, 11, 100):
        found = latest_records(path, epochs)
        assert found == whole[len(whole) - len(found) :]
        assert sum("event" not in record for record in found) >= min(epochs, 40)
    assert len(latest_records(path, 1)) < len(whole)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    assert latest_records(path, 3)[-1] == whole[-2]


def test_who_is_at_work_is_seen_without_taking_the_lease(
    tmp_path: Path, at_work: list[SoftFileLease]
) -> None:
    assert host_at_work(tmp_path) is None
    take(tmp_path, at_work)
    path = tmp_path / LEASE
    marker = path.read_text()
    here = os.uname().nodename
    assert host_at_work(tmp_path) == here
    assert path.read_text() == marker
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = re.sub(r"pid=\d+", f"pid={ended.pid}", marker)
    path.write_text(gone)
    assert host_at_work(tmp_path) is None
    # What a process of another host is at cannot be seen, only its heartbeat.
    path.write_text(gone.replace(f"host={here}", "host=elsewhere"))
    assert host_at_work(tmp_path) == "elsewhere"
    for age, alive in ((30, True), (-30, True), (61, False), (-3600, False)):
        os.utime(path, (time.time() - age,) * 2)
        assert (host_at_work(tmp_path) is not None) == alive
    path.write_text(marker)
    at_work.pop().release()
    assert host_at_work(tmp_path) is None


def test_the_totals_are_those_counted_by_hand(tmp_path: Path, at_work: list[SoftFileLease]) -> None:
    queued, stopped, running, begun, ended = configs = [
        tiny_config("acdc", epochs=4, seed=seed) for seed in range(5)
    ]
    after = tiny_config("one_shot")
    runs = study_of(tmp_path, *configs, after)
    write_journal(runs / stopped.run_name, [0.0])
    write_journal(runs / running.run_name, [0.0, HOUR, 2 * HOUR])
    write_journal(runs / begun.run_name, [])
    run(ended, Options(runs), Silent())
    take(runs / running.run_name, at_work)
    take(runs / begun.run_name, at_work)
    found = overview_of(tmp_path, *configs, after)
    assert found.counts == {
        **{"running": 2, "stopped": 1, "queued": 2, "done": 1, "diverged": 0, "failed": 0}
    }
    # Epochs 0 + 1 + 3 + 0 + 4 of 20; what one-shot pruning trains is another run's.
    assert found.done == pytest.approx(8 / 20)
    # One runs at an epoch an hour, and the one that has just begun is taken to do so too.
    assert found.left_s == pytest.approx(12 / 2 * HOUR)
    # The last epoch of all takes as long as it takes.
    at_work.pop().release()
    alone = overview_of(tmp_path, running)
    assert alone.left_s == pytest.approx(HOUR, abs=60)
    assert overview_of(tmp_path, queued, stopped).left_s is None


def test_json_says_what_the_table_says(tmp_path: Path, at_work: list[SoftFileLease]) -> None:
    configs = [
        tiny_config(method, sparsity=sparsity, seed=seed)
        for method in ("acdc", "rigl")
        for sparsity in (0.95, 0.9)
        for seed in (1, 2, 3)
    ]
    runs = study_of(tmp_path, *configs)
    for number, config in enumerate(configs[:8]):
        write_journal(runs / config.run_name, [float(n) for n in range(number % 4)])
    run(configs[2], Options(runs), Silent())
    take(runs / configs[6].run_name, at_work)
    expected: dict[tuple[str, str, str], list[str]] = {}
    data = as_data(tmp_path)
    for entry in data["runs"]:
        key = (entry["label"], entry["method"], f"{100 * entry['sparsity']:g} %")
        expected.setdefault(key, []).append(entry["text"])
    text = shown(tmp_path)
    table = [(*key, texts) for key, texts in expected.items()]
    # A second may pass between the two.
    assert re.sub(r"\d+ s left", "", str(cells(text))) == re.sub(r"\d+ s left", "", str(table))
    assert [line[0] for line in table] == ["ACDC", "ACDC", "RIGL", "RIGL"]
    assert [line[2] for line in table] == ["90 %", "95 %", "90 %", "95 %"]
    assert sum(data["counts"].values()) == len(configs) == len(data["runs"])
    counts = [f"{count} {name}" for name, count in data["counts"].items() if count]
    assert ", ".join(counts) in text
    assert f"{math.floor(100 * data['done'])} % of the training is done" in text


SCALES = sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))


@pytest.mark.parametrize("scale", SCALES)
def test_each_run_of_a_study_stands_in_the_matrix_once(scale: str, tmp_path: Path) -> None:
    study = load(scale)
    found = entries(study)
    assert sorted(entry.run for entry in found) == sorted(study.runs)
    for entry in found:
        config = parse_run(study.runs[entry.run].config)
        variant = config.settings.variant()
        assert entry.method.startswith(f"{config.method}-{variant}" if variant else config.method)
        # Without building a network one knows what each run costs.
        assert entry.images == study.runs[entry.run].images
    places = {(entry.task, entry.cell, entry.seed) for entry in found}
    assert len(places) == len(found)
    lines = {(entry.task, entry.cell): (entry.label, entry.method) for entry in found}
    assert len(cells(shown(tmp_path, scale=scale))) == len(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("seeds", [1, 3, 12])
def test_the_matrix_fits_the_terminal(width: int, seeds: int) -> None:
    found = entries(load("smoke", seeds))
    place: dict[str, Any] = {"resumed": 12, "job": "12345678", "host": "gpu-a100-0042"}
    states = itertools.cycle(
        [
            RunState("queued", 200),
            RunState("running", 200, 107, pace_s=400.0, left_s=37_200.0, **place),
            RunState("stopped", 200, 107, **place),
            RunState("done", 200, 200, **place),
            RunState("diverged", 200, 107, **place),
            RunState("failed", 200, 107, error="It would not do, " * 20, **place),
        ]
    )
    overview = Overview("Mine", Path("mine"), found, {entry.run: next(states) for entry in found})
    text = "\n".join(show(overview, width))
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert bare != text
    # A name that is longer stays in one piece, to be copied.
    lines = [line for line in bare.splitlines() if " " in line.strip()]
    assert max(map(len, lines)) <= width
    # The totals say it once more.
    assert bare.count("queued") == overview.counts["queued"] + 1


def test_neither_torch_nor_another_process_is_needed_beside_a_plan(tmp_path: Path) -> None:
    config = tiny_config("acdc")
    runs = study_of(tmp_path, config)
    run(config, Options(runs), Silent())
    code = (
        "import os, subprocess, sys\n"
        "for name in ('torch', 'mlflow', 'pandas', 'snakemake'): sys.modules[name] = None\n"
        "subprocess.Popen = os.fork = None\n"
        "from workflow.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "status", "--scale", "mine", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 done; 100 % of the training is done" in done.stdout


def test_watching_draws_again_until_it_is_interrupted(tmp_path: Path) -> None:
    study_of(tmp_path, tiny_config("acdc"))
    command = [sys.executable, "-u", "-m", "acdc", "status", "--scale", "mine"]
    watcher = subprocess.Popen(
        [*command, "--results", str(tmp_path), "--watch", "0.05", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    for _ in range(3):
        assert json.loads(watcher.stdout.readline())["counts"]["queued"] == 1
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=PATIENCE_S)
    assert (watcher.returncode, errors) == (0, "")


def test_what_is_refused_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def refused(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(status, ["--results", str(tmp_path), *arguments]).exception

    error = refused("--scale", "smokey")
    assert isinstance(error, ConfigError)
    assert str(error).startswith("scale=smokey: ")
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "study.json").write_text("{")
    error = refused()
    assert isinstance(error, SuiteError)
    assert str(error).startswith(f"{tmp_path}/smoke/study.json: ")
    # The study is asked for afresh, and that file not read.
    assert refused("--seeds", "2") is None
    for arguments in (("--only", "lost"), ("--watch", "0"), ("--seeds", "0")):
        done = CliRunner().invoke(status, arguments)
        assert done.exit_code == 2
        assert "Invalid value for" in done.output


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (185, "3 min"),
        (3599, "1 h 00 min"),
        (2 * HOUR + 300, "2 h 05 min"),
        (47 * HOUR, "47 h 00 min"),
        (100 * HOUR, "4 d 04 h"),
    ],
)
def test_durations_are_told_as_precisely_as_they_are_known(seconds: float, words: str) -> None:
    assert clock(seconds) == words
