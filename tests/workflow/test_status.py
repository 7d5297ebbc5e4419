"""The matrix of runs: the state that each stage of a run is shown as, and the estimates."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import SoftFileLease

import workflow.state
from acdc.errors import ConfigError
from acdc.messages import duration
from acdc.run.failures import FAILED
from acdc.run.lease import LEASE, host_at_work
from acdc.run.reader import CONFIG, JOURNAL, PROVENANCE, read_lines
from acdc.run.result import RESULT, DivergedResult, FailedResult, FinishedResult
from study.jobs import possible_jobs
from study.model import STUDY, Run, Scale, Study, write_study
from study.resolve import load
from tests.reports import tiny
from tests.run.test_stops import PATIENCE_S
from tests.support import epoch_line
from tests.workflow.conftest import ROOT
from tests.workflow.ended import NOTHING, end
from workflow.state import RunState, pace_of, read_state
from workflow.status import Overview, Watch, cell, entries, show, status, summary

HOUR = 3600.0
EPOCHS = 4
IMAGES = 1000


def name_of(method: str, sparsity: float = 0.9, seed: int = 1) -> str:
    return f"net_digits_{method}_s{100 * sparsity:g}_seed{seed}-{NOTHING}"


def study_of(folder: Path, *runs: tuple[str, float, int]) -> Study:
    """Write a study of one table, a row for each method and sparsity; one_shot trains nothing."""
    rows = tuple(
        tiny.row(
            method.upper(),
            method,
            sparsity,
            runs=tuple(name_of(*run) for run in runs if run[:2] == (method, sparsity)),
        )
        for method, sparsity in dict.fromkeys(run[:2] for run in runs)
    )
    table = tiny.experiment("table", "table", "T", rows=rows)
    described = {
        name_of(method, sparsity, seed): Run(
            {
                **{"model": "net", "dataset": "digits", "method": method, "epochs": EPOCHS},
                **{"sparsity": sparsity, "seed": seed},
            },
            images=0 if method == "one_shot" else EPOCHS * IMAGES,
        )
        for method, sparsity, seed in runs
    }
    study = Study(Scale("mine", "Mine", ""), (table,), described)
    write_study(study, folder / "mine" / STUDY)
    return study


def overview_of(folder: Path, study: Study) -> Overview:
    return Watch(study, folder / "mine").look()


def shown(results: Path, *arguments: str, scale: str | Path = "mine") -> str:
    command = ["--scale", str(scale), "--results", str(results), *arguments]
    done = CliRunner().invoke(status, command)
    assert done.exit_code == 0, done.output
    return done.output


def as_data(results: Path, *arguments: str, scale: str | Path = "mine") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(shown(results, "--json", *arguments, scale=scale))
    return data


def write_journal(
    folder: Path, times: Sequence[float | None], ago: float = 0.0, train_s: float = 0.0
) -> None:
    """Write a journal.

    Args:
        folder: of the run, which is made.
        times: when each epoch ended, in seconds since the first; None is a resumption.
        ago: seconds from the last to now.
        train_s: of each epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last = max((at for at in times if at is not None), default=0.0)
    epoch, lines = 0, []
    for at in times:
        if at is None:
            lines.append({"event": "resume", "epoch": epoch, "batch": 0, "time": 0.0})
        else:
            stamp = time.time() - ago - last + at
            lines.append(epoch_line(epoch, train_s=train_s, time=stamp))
            epoch += 1
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def take() -> Iterator[Callable[[Path], SoftFileLease]]:
    """Take leases of runs, as their trainers would, until the test has ended."""
    held: list[SoftFileLease] = []

    def of(folder: Path) -> SoftFileLease:
        folder.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(folder / LEASE, lease_duration=60.0, heartbeat_interval=5.0)
        lease.acquire()
        held.append(lease)
        return lease

    yield of
    for lease in held:
        lease.release()


Take = Callable[[Path], SoftFileLease]


# The state of a run


def test_a_run_that_has_only_its_configuration_is_queued(tmp_path: Path) -> None:
    assert read_state(tmp_path / "nothing", 4) == RunState("queued", 4)
    folder = tmp_path / f"run-{NOTHING}"
    folder.mkdir()
    (folder / CONFIG).write_text("{}")
    assert read_state(folder, 4) == RunState("queued", 4)
    (folder / "checkpoint").mkdir()
    assert read_state(folder, 4) == RunState("stopped", 4)


def test_results(tmp_path: Path) -> None:
    a, b, c, d = (tmp_path / f"{name}-{NOTHING}" for name in "abcd")
    end(a, FinishedResult)
    assert read_state(a, 4) == RunState("done", 4, 4, settled=True)
    end(b, DivergedResult, diverged_at=3, diverged="the loss")
    assert read_state(b, 4) == RunState("diverged", 4, 3, settled=True)
    end(c, FailedResult, error="It broke.", exit_status=3)
    write_journal(c, [0.0])
    state = read_state(c, 4)
    assert state == RunState("failed", 4, 1, error="It broke.", exit_status=3, settled=True)
    assert [read_state(folder, 4).left for folder in (a, b, c, d)] == [0, 0, 0, 1]


def test_a_failed_run_that_is_trained_again_is_running(tmp_path: Path, take: Take) -> None:
    folder = tmp_path / f"run-{NOTHING}"
    end(folder, FailedResult, error="It broke.", exit_status=1)
    take(folder)
    again = read_state(folder, 4)
    assert (again.status, again.error) == ("running", None)


@pytest.mark.parametrize(
    ("final", "resumed", "status", "error"),
    [
        (False, False, "stopped", "Disk full."),
        (False, True, "stopped", None),
        (True, True, "failed", "Disk full."),
    ],
)
def test_an_error_is_shown_until_the_run_was_resumed(
    tmp_path: Path, final: bool, resumed: bool, status: str, error: str | None
) -> None:
    write_journal(tmp_path, [0.0, 1.0])
    failure = {"error": "Disk full.", "exit_status": 4, "final": final}
    (tmp_path / FAILED).write_text(json.dumps(failure))
    os.utime(tmp_path / (FAILED if resumed else JOURNAL), (0, 0))
    state = read_state(tmp_path, 4)
    assert (state.status, state.error, state.epoch) == (status, error, 2)


@pytest.mark.parametrize("reader", ["host_at_work", "read_run"])
def test_a_run_that_ends_while_it_is_read_is_not_taken_for_stopped(
    reader: str, tmp_path: Path, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes its result and leaves just before one of the two is read."""
    read = getattr(workflow.state, reader)
    run = tmp_path / f"run-{NOTHING}"
    run.mkdir()
    lease = take(run)
    write_journal(run, [0.0, 1.0])

    def end_and_read(folder: Path) -> Any:
        end(folder, FinishedResult)
        lease.release()
        return read(folder)

    monkeypatch.setattr(workflow.state, reader, end_and_read)
    assert read_state(run, 2).status == "done"


@pytest.mark.parametrize("name", [RESULT, JOURNAL, PROVENANCE, FAILED])
@pytest.mark.parametrize("content", ['{"schema": 2, "sta', "[1]"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    study = study_of(tmp_path, ("acdc", 0.9, 1), ("acdc", 0.9, 2))
    damaged, good = (tmp_path / "mine" / "runs" / run for run in study.runs)
    end(good, FinishedResult)
    damaged.mkdir()
    # The last line of a journal may be cut short.
    (damaged / name).write_text(f"{content}\n{content}\n" if name == JOURNAL else content)
    if name != JOURNAL:
        write_journal(damaged, [0.0])
    first, second = as_data(tmp_path)["runs"]
    assert first["status"] == ("failed" if name == RESULT else "stopped")
    assert str(damaged / name) in first["error"]
    assert first["epoch"] == (name != JOURNAL)
    assert second["text"] == "done"


def test_the_last_attempt_names_its_job(tmp_path: Path, take: Take) -> None:
    attempts = [{"job": "12", "host": "b"}, {"job": "13", "host": "c"}]
    about: dict[str, Any] = {"job": "11", "host": "a"}
    (tmp_path / PROVENANCE).write_text(json.dumps(about))
    state = read_state(tmp_path, 4)
    assert (state.job, state.host, state.resumed) == ("11", "a", 0)
    (tmp_path / PROVENANCE).write_text(json.dumps({**about, "resumed": attempts}))
    state = read_state(tmp_path, 4)
    assert (state.job, state.host, state.resumed) == ("13", "c", 2)
    assert cell(state) == "stopped at 0/4 (resumed 2x)"
    take(tmp_path)
    assert cell(read_state(tmp_path, 4)).splitlines()[1] == f"job 13, {os.uname().nodename}"


def test_the_lease_is_read_without_taking_it(tmp_path: Path, take: Take) -> None:
    assert host_at_work(tmp_path) is None
    lease = take(tmp_path)
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
    # Of a process on another host only the heartbeat can be seen.
    path.write_text(gone.replace(f"host={here}", "host=elsewhere"))
    assert host_at_work(tmp_path) == "elsewhere"
    for age, alive in ((30, True), (-30, True), (61, False), (-3600, False)):
        os.utime(path, (time.time() - age,) * 2)
        assert (host_at_work(tmp_path) is not None) == alive
    path.write_text(marker)
    lease.release()
    assert host_at_work(tmp_path) is None


# Estimates


@pytest.mark.parametrize(
    ("times", "pace_s"),
    [
        ([], None),
        ([None], None),
        # One epoch alone: its training time.
        ([0], 7.0),
        ([0, 10], 10.0),
        ([0, 10, 22, 36], 12.0),
        # A resumption between two epochs.
        ([0, None, 1000], 7.0),
        ([0, 10, None, 1000, 1020, 1030], 10.0),
        ([0, 10, 20, None, None, 1000, 1030, 1060], 20.0),
        # A pause that left no trace.
        ([0, 10, 20, 9999, 10009], 10.0),
        # An earlier attempt on a slower GPU is forgotten after ten epochs.
        ([*range(0, 5000, 500), None, *range(9000, 9110, 10)], 10.0),
    ],
)
def test_the_pace_of_the_last_epochs(
    times: list[float | None], pace_s: float | None, tmp_path: Path
) -> None:
    write_journal(tmp_path, times, train_s=7.0)
    found = pace_of(read_lines(tmp_path / JOURNAL).lines)
    assert found == (None if pace_s is None else pytest.approx(pace_s, abs=0.01))


def test_the_time_left_counts_down_within_an_epoch(tmp_path: Path, take: Take) -> None:
    take(tmp_path)

    def left_s(ago: float) -> float | None:
        write_journal(tmp_path, [0.0, HOUR, 2 * HOUR], ago=ago)
        return read_state(tmp_path, 5).left_s

    # Three of five epochs of an hour are done.
    assert left_s(0.0) == pytest.approx(2 * HOUR, abs=60)
    assert left_s(HOUR / 2) == pytest.approx(1.5 * HOUR, abs=60)
    # A late epoch may end at any moment; a clock ahead of ours makes nothing earlier.
    assert left_s(3 * HOUR) == pytest.approx(HOUR, abs=60)
    assert left_s(-HOUR) == pytest.approx(2 * HOUR, abs=60)
    assert cell(read_state(tmp_path, 5)) == "3/5, 2 h 00 min left"
    # What is left after the last epoch is not training.
    assert cell(read_state(tmp_path, 3)) == "3/3"


def test_totals(tmp_path: Path, take: Take) -> None:
    study = study_of(tmp_path, *(("acdc", 0.9, seed) for seed in range(1, 6)), ("one_shot", 0.9, 1))
    runs = [tmp_path / "mine" / "runs" / name for name in study.runs]
    _, stopped, running, begun, ended, pruned = runs
    write_journal(stopped, [0.0])
    write_journal(running, [0.0, HOUR, 2 * HOUR])
    end(ended, FinishedResult)
    for run in (running, begun, pruned):
        take(run)
    found = overview_of(tmp_path, study)
    assert found.counts == {
        **{"running": 3, "stopped": 1, "queued": 1, "done": 1, "diverged": 0, "failed": 0}
    }
    # Epochs 0 + 1 + 3 + 0 + 4 of 20; one-shot pruning trains on no image.
    assert found.done == pytest.approx(8 / 20)
    assert "40 %" in summary(found)
    # One runs at an epoch an hour, the one that has just begun is taken to do so, too.
    assert found.left_s == pytest.approx(12 / 2 * HOUR)


def test_what_trains_on_no_image_has_no_speed(tmp_path: Path, take: Take) -> None:
    study = study_of(tmp_path, ("acdc", 0.9, 1), ("one_shot", 0.9, 1))
    trained, pruned = (tmp_path / "mine" / "runs" / name for name in study.runs)
    assert overview_of(tmp_path, study).left_s is None
    take(pruned)
    assert overview_of(tmp_path, study).left_s is None
    write_journal(trained, [0.0, HOUR, 2 * HOUR])
    take(trained)
    # The last epoch takes as long as the others.
    assert overview_of(tmp_path, study).left_s == pytest.approx(HOUR, abs=60)


def test_durations() -> None:
    seconds = (59.4, 59.6, 3599, 2 * HOUR + 300, 47 * HOUR, 100 * HOUR)
    words = ["59 s", "1 min", "1 h 00 min", "2 h 05 min", "47 h 00 min", "4 d 04 h"]
    assert [duration(value) for value in seconds] == words


# The matrix


def test_the_table_and_the_data_agree(tmp_path: Path) -> None:
    chosen = [(m, s, seed) for m in ("acdc", "rigl") for s in (0.95, 0.9) for seed in (1, 2, 3)]
    study = study_of(tmp_path, *chosen)
    runs = [tmp_path / "mine" / "runs" / name for name in study.runs]
    for number, run in enumerate(runs[:8]):
        write_journal(run, [float(n) for n in range(number % 4)])
    end(runs[2], FinishedResult)
    end(runs[5], FailedResult, error="It broke.", exit_status=1)
    logs = tmp_path / "mine" / "logs" / "train"
    logs.mkdir(parents=True)
    # A job has the name of its first seed: runs 3 and 4 have one, 5 another, 0 another line.
    for number in (0, 3, 4):
        (logs / f"{runs[number].name}.log").touch()
    data, text = as_data(tmp_path), shown(tmp_path)
    expected: dict[tuple[str, ...], list[str]] = {}
    for entry in data["runs"]:
        key = (entry["label"], entry["method"], f"{100 * entry['sparsity']:g} %")
        expected.setdefault(key, []).append(entry["text"])
    lines = [re.split(r" {2,}", line.strip()) for line in text.splitlines()]
    assert [line for line in lines if len(line) == 6 and "%" in line[2]] == [
        [*key, *cells] for key, cells in expected.items()
    ]
    assert [key[0] + key[2] for key in expected] == ["ACDC90 %", "ACDC95 %", "RIGL90 %", "RIGL95 %"]
    assert sum(data["counts"].values()) == len(data["runs"]) == len(chosen)
    for part in (runs[5].name, "It broke.", str(logs / f"{runs[4].name}.log")):
        assert part in text
    (only,) = as_data(tmp_path, "--only", "done")["runs"]
    assert only["run"] == runs[2].name
    assert runs[5].name not in shown(tmp_path, "--only", "done")


def test_each_run_of_a_study_is_in_the_matrix_once() -> None:
    study = load("smoke")
    found = entries(study)
    assert sorted(entry.run for entry in found) == sorted(study.runs)
    assert len({(entry.task, entry.line, entry.seed) for entry in found}) == len(found)
    states = {entry.run: RunState("queued", entry.epochs) for entry in found}
    text = "\n".join(show(Overview("Mine", Path("mine"), found, states, possible_jobs(study))))
    assert text.count("queued") == len(found) + 1  # with the summary


def test_a_run_has_the_log_of_its_bundle(tmp_path: Path) -> None:
    study = study_of(tmp_path, ("acdc", 0.9, 1), ("acdc", 0.9, 2), ("rigl", 0.9, 1))
    study = dataclasses.replace(study, scale=dataclasses.replace(study.scale, bundle=3))
    first, second, third = study.runs
    overview, log = overview_of(tmp_path, study), tmp_path / "mine" / "logs" / "train"
    log.mkdir(parents=True)
    assert overview.log(third) is None
    (log / f"{first}.log").touch()
    assert {overview.log(run) for run in study.runs} == {log / f"{first}.log"}
    (log / f"{second}.log").touch()  # as with one run per job
    assert overview.log(second) == log / f"{second}.log"


def test_watching_needs_no_torch_and_ends_with_an_interrupt(tmp_path: Path) -> None:
    study = study_of(tmp_path, ("acdc", 0.9, 1))
    code = (
        "import sys\n"
        "for name in ('torch', 'mlflow', 'pandas', 'snakemake'): sys.modules[name] = None\n"
        "from workflow.cli import main; main()"
    )
    command = [sys.executable, "-u", "-c", code, "status", "--scale", "mine", "--json"]
    watcher = subprocess.Popen(
        [*command, "--results", str(tmp_path), "--watch", "0.05"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert json.loads(watcher.stdout.readline())["counts"]["queued"] == 1
    end(tmp_path / "mine" / "runs" / next(iter(study.runs)), FinishedResult)
    assert any(json.loads(line)["counts"]["done"] for line in islice(watcher.stdout, 400))
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=PATIENCE_S)
    assert (watcher.returncode, errors) == (0, "")


def test_refusals(tmp_path: Path) -> None:
    def refused(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(status, ["--results", str(tmp_path), *arguments]).exception

    error = refused("--scale", "smokey")
    assert isinstance(error, ConfigError)
    assert "scale" in str(error)
    seconds = (("--watch", text) for text in ("0", "-1", "nan", "inf", "-inf", "1e300", "soon", ""))
    for arguments in (("--only", "lost"), ("--seeds", "0"), *seconds):
        assert CliRunner().invoke(status, arguments).exit_code == 2, arguments


def test_a_study_of_another_checkout(tmp_path: Path) -> None:
    """Its model, data set and method are none of this one's, and its parents are in no row."""
    study = study_of(tmp_path, ("acdc", 0.9, 1))
    run = next(iter(study.runs))
    config = {**study.runs[run].config, "dataset": "theirs", "model": "theirs", "method": "theirs"}
    runs = {**study.runs, "their_parent-0": Run(config)}
    write_study(dataclasses.replace(study, runs=runs), tmp_path / "mine" / STUDY)
    assert {entry["run"] for entry in as_data(tmp_path)["runs"]} == {run, "their_parent-0"}
    assert "theirs" in shown(tmp_path)
