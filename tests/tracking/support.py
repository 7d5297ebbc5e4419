"""Write runs as training does, and read with SQL what a store holds of them."""

import json
import math
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy
import yaml
from sqlalchemy.pool import NullPool

from acdc.config.run import RunConfig, parse_run
from acdc.files import write_json
from acdc.run.journal import Journal
from tracking.command import sync_command

PHASES = [["dense", 0, 1], ["sparse", 1, 2], ["dense", 2, 3], ["sparse", 3, 4]]
BASE = {"model": "resnet8_s2", "dataset": "digits", "seed": 1}
DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "acdc": {
        **BASE, "method": "acdc", "sparsity": 0.9, "epochs": 4,
        "settings": {"schedule": None, "phases": PHASES}
    },
    "dense": {**BASE, "method": "dense", "epochs": 3},
}  # fmt: skip
DESCRIPTIONS["diverged"] = {**DESCRIPTIONS["acdc"], "sparsity": 0.5, "recipe": {"lr": 1e30}}

History = dict[str, list[tuple[int, float, int]]]
"""By metric: epoch, value, time in milliseconds."""


def sync(folder: Path, *options: str) -> None:
    sync_command.main([str(folder), *options], standalone_mode=False)


def syncing(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workflow", "sync", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def store_uri(runs: Path) -> str:
    return f"sqlite:///{runs.parent / 'mlflow.db'}"


def query(uri: str, text: str, **values: Any) -> list[Any]:
    engine = sqlalchemy.create_engine(uri, poolclass=NullPool)
    with engine.connect() as store:
        return list(store.execute(sqlalchemy.text(text), values))


def stored(uri: str, kind: str = "run", experiment: str = "acdc-tiny") -> list[tuple[str, str]]:
    """Names and ids of the runs in MLflow that are not deleted."""
    rows = query(
        uri,
        "SELECT r.name, r.run_uuid FROM runs r JOIN experiments e ON "
        "e.experiment_id = r.experiment_id JOIN tags t ON t.run_uuid = r.run_uuid WHERE "
        "e.name = :experiment AND r.lifecycle_stage = 'active' AND t.key = 'fingerprint' AND "
        "(t.value = 'study') = :study",
        experiment=experiment,
        study=kind == "study",
    )
    return [(str(name), str(run_id)) for name, run_id in rows]


def only(uri: str, kind: str = "run", experiment: str = "acdc-tiny") -> str:
    ((_, run_id),) = stored(uri, kind, experiment)
    return run_id


def tags(uri: str, run_id: str) -> dict[str, str]:
    rows = query(uri, "SELECT key, value FROM tags WHERE run_uuid = :r", r=run_id)
    return {str(key): value for key, value in rows}


def status(uri: str, run_id: str) -> str:
    ((found,),) = query(uri, "SELECT status FROM runs WHERE run_uuid = :r", r=run_id)
    return str(found)


def finished(uri: str, experiment: str = "acdc-tiny") -> int:
    return [status(uri, run_id) for _, run_id in stored(uri, "run", experiment)].count("FINISHED")


def latest(uri: str, run_id: str) -> dict[str, float]:
    rows = query(uri, "SELECT key, value FROM latest_metrics WHERE run_uuid = :r", r=run_id)
    return {str(key): value for key, value in rows}


def artifacts(uri: str, run_id: str) -> dict[str, bytes]:
    """The contents of a run's artifacts, in a store that is a file."""
    text = "SELECT artifact_uri FROM runs WHERE run_uuid = :r"
    ((found,),) = query(uri, text, r=run_id)
    folder = Path(unquote(found.removeprefix("file://")))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def histories(uri: str) -> dict[str, History]:
    """All values of the epochs' metrics, by run id, in the order of step and time."""
    found: dict[str, History] = defaultdict(lambda: defaultdict(list))
    text = "SELECT run_uuid, key, step, value, timestamp FROM metrics ORDER BY step, timestamp"
    for run_id, key, step, value, when in query(uri, text):
        if "/" not in key:
            found[run_id][key].append((step, value, when))
    return {run_id: dict(history) for run_id, history in found.items()}


def journal_history(folder: Path) -> History:
    """The same from the journal, without what a resumed run will write again."""
    values: History = defaultdict(list)
    checkpoints = [path.stat().st_mtime for path in folder.glob("checkpoint/step-*.pt")]
    kept = math.inf if (folder / "result.json").exists() else max(checkpoints, default=math.inf)
    text = (folder / "journal.jsonl").read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        if record["time"] > kept:
            break
        for key, value in record.items():
            number = isinstance(value, int | float) and "event" not in record
            if number and key not in ("epoch", "time"):
                values[key].append((record["epoch"], value, round(1000 * record["time"])))
    return dict(values)


def checkpoint(folder: Path) -> None:
    time.sleep(0.02)  # more than the clock of the file system lags behind
    (path,) = folder.glob("checkpoint/step-*.pt")
    os.utime(path)


def slug_of(folder: Path) -> str:
    return folder.name.rpartition("-")[0]


def assert_synced(*folders: Path, uri: str = "", experiment: str = "acdc-tiny") -> dict[str, str]:
    """The store holds these runs once, each with the values of its journal; return their ids."""
    uri = uri or store_uri(folders[0].parent)
    rows, found = stored(uri, "run", experiment), histories(uri)
    assert sorted(name for name, _ in rows) == sorted(map(slug_of, folders))
    ids = dict(rows)
    for folder in folders:
        run_id = ids[slug_of(folder)]
        assert found.get(run_id, {}) == journal_history(folder)
        ended = (folder / "result.json").exists()
        assert (status(uri, run_id) == "RUNNING") == (not ended)
    return ids


def write_run(template: Path, runs: Path, config: RunConfig, pause_s: float = 0.0) -> Path:
    """Write what a finished run leaves, as training does, with numbers of its own."""
    draw = random.Random(config.seed)
    folder = runs / config.run_name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    shutil.copy(template / "provenance.json", folder)
    journal = Journal(folder / "journal.jsonl")
    for line in (template / "journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "event" not in record:
            record |= {"val_loss": draw.random(), "train_loss": draw.random()}
        journal.append(record)
        time.sleep(pause_s * draw.random())
    result = json.loads((template / "result.json").read_text())
    identity = {"run": config.run_name, "fingerprint": config.fingerprint}
    data = config.model_dump(mode="json")
    write_json(folder / "result.json", result | identity | {"config": data})
    return folder


def writers(template: Path, runs: Path, count: int, pause_s: float) -> list[Path]:
    """Let as many processes write runs at once; wait for them, and return the runs."""
    fork = multiprocessing.get_context("fork")
    first = parse_run(yaml.safe_load((template / "config.yaml").read_text()))
    configs = [first.with_seed(seed) for seed in range(101, 101 + count)]
    processes = [
        fork.Process(target=write_run, args=(template, runs, config, pause_s)) for config in configs
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [runs / config.run_name for config in configs]
