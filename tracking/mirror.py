"""Sends what an MLflow store does not have yet of runs, cells and studies.

A study is an experiment. Its runs lie below their cells, which lie side by side, and beside them
one run with the tables and figures. Each is found by its tag ``mirror.key``. What has been sent of
a run is kept in further tags:

``mirror.claim``   journal bytes, their digest and the result's digest, written before sending
``mirror.bytes``   journal bytes that have arrived, written last
``mirror.files``   what tells the version of each artifact that has arrived, written last

MLflow takes a value as often as it is sent, but for one that is the same in key, step, time and
value; and it takes none back. So values carry the times of the journal, and what contradicts values
that were sent makes the mirrored run anew.

Importing this module imports MLflow, which takes seconds.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tracking.cells import Cell, Child
from tracking.snapshots import CONFIGURED, Snapshot, digest
from tracking.store import TrackingError, is_away
from tracking.study import MANIFEST, STUDY, Exhibits

METRICS_PER_CALL = 900  # MLflow takes 1000 values in one batch, parameters among them
TRIES = 4
KEY = "mirror.key"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # what a person has written about the run in the interface
PASSING = ("error", "exit_status", "diverged_at", "refused.")
"""Tags, or their beginnings, of an end that a run may leave behind when it is tried again."""

Outcome = Literal["new", "updated", "unchanged"]
T = TypeVar("T")


class Delivery(NamedTuple):
    """What the store held of a run once it had been sent."""

    outcome: Outcome
    key: str
    cell: str
    """The key of the cell."""
    run_id: str
    state: str
    tags: Mapping[str, str]


class Experiment:
    """One experiment of a store, and the mirrored runs in it by their keys."""

    def __init__(self, client: MlflowClient, name: str, artifacts: str | None) -> None:
        self.client = client
        self.name = name
        self.identity = self._identity(artifacts)
        self.runs: dict[str, Run] = {}
        self.sources: dict[str, set[str]] = {}
        """By scale, the results folders that runs have been mirrored from."""
        self.changed = False
        """Whether anything has been sent since the runs were read."""
        self.refresh()
        self._check_artifacts(artifacts)

    def _identity(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(self.name)
        if found is None:
            try:
                self.client.create_experiment(self.name, artifact_location=artifacts)
            except MlflowException as error:
                # Another host may create it at the same moment.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(self.name)
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"--experiment: {self.name!r} has been deleted in the tracking store; restore it "
                "there (mlflow experiments restore) or give another name"
            )
        self.location = str(found.artifact_location)
        return str(found.experiment_id)

    def _check_artifacts(self, beside: str | None) -> None:
        """Look whether the artifacts of a store that is a file lie beside it.

        Raises:
            TrackingError: they do not.
        """
        if beside is None or urlsplit(self.location).scheme not in ("", "file"):
            return
        place, store = (
            Path(url2pathname(urlsplit(text).path)).resolve() for text in (self.location, beside)
        )
        sent = any("mirror.files" in run.data.tags for run in self.runs.values())
        if not place.is_relative_to(store.parent):
            wrong = "not beside the store, which has been moved or copied"
        elif sent and not place.is_dir():
            wrong = "no longer there"
        else:
            return
        raise TrackingError(
            f"tracking store in {store.parent}: the artifacts of {self.name!r} belong into "
            f"{place}, which is {wrong}; put it back, or remove the store, "
            "and the next sync makes it again"
        )

    def check_source(self, scale: str, source: str) -> None:
        """Look whether the runs of a scale come from one results folder.

        Raises:
            TrackingError: some come from another one.
        """
        others = self.sources.get(scale, set()) - {source}
        if others:
            raise TrackingError(
                f"--experiment: {self.name!r} holds the results of {min(others)}, which are not "
                f"those of {source}; give another name"
            )

    def refresh(self, key: str = "") -> None:
        """Read the mirrored runs, or that of one key, as they are now.

        Where two hosts have created a run at the same moment, both keep the same one.
        """
        which = f"tags.`{KEY}` = '{key}'" if key else ""
        page = self.client.search_runs([self.identity], which, max_results=1000)
        found = list(page)
        while page.token:
            page = self.client.search_runs(
                [self.identity], which, max_results=1000, page_token=page.token
            )
            found += page
        if key:
            self.runs.pop(key, None)
        else:
            self.runs, self.sources, self.changed = {}, {}, False
        for run in sorted(found, key=lambda run: str(run.info.run_id)):
            tags = run.data.tags
            if KEY not in tags:
                continue
            kept = self.runs.setdefault(tags[KEY], run)
            # The same run may stand on two pages.
            if kept.info.run_id != run.info.run_id:
                self.client.delete_run(run.info.run_id)
            if "source" in tags:
                self.sources.setdefault(tags.get("scale", ""), set()).add(tags["source"])

    def create(self, key: str, name: str, begun_ms: int | None, tags: Mapping[str, str]) -> Run:
        """Create the mirrored run of a key, unless another host has just done so."""
        self.client.create_run(self.identity, begun_ms, {**tags, KEY: key}, name)
        self.refresh(key)
        return self.runs[key]

    def drop(self, key: str) -> dict[str, str]:
        """Delete the mirrored run of a key; return the tags of its successor.

        A metric cannot be taken back, nor an artifact.
        """
        run = self.runs.pop(key)
        self.client.delete_run(run.info.run_id)
        tags = run.data.tags
        return {NOTE: tags[NOTE]} if NOTE in tags else {}

    def set_state(self, run: Run, state: str, ended_ms: int) -> None:
        """Tell how far a run is."""
        if state == "RUNNING":
            if run.info.status != state:
                self.client.update_run(run.info.run_id, state)
        elif (run.info.status, run.info.end_time) != (state, ended_ms):
            self.client.set_terminated(run.info.run_id, state, ended_ms)


class Mirror:
    """An MLflow store and its experiments, each of which is searched once."""

    def __init__(self, client: MlflowClient, artifacts: str | None, weights: bool) -> None:
        self.client = client
        self.artifacts = artifacts
        self.weights = weights
        self.experiments: dict[str, Experiment] = {}

    def experiment(self, name: str) -> Experiment:
        """Return an experiment, created where there is none.

        Raises:
            TrackingError: someone has deleted it.
        """
        if name not in self.experiments:
            self.experiments[name] = Experiment(self.client, name, self.artifacts)
        return self.experiments[name]

    def send(self, run: Snapshot, name: str) -> Delivery:
        """Send what an experiment does not have of a run, and return what it then holds."""
        return self._undisturbed(name, lambda there: self._send(run, there))

    def holds(self, sent: Delivery, name: str) -> bool:
        """Return whether a run is in an experiment as it was sent, below its cell."""
        there = self.experiment(name)
        run, cell = there.runs.get(sent.key), there.runs.get(sent.cell)
        return (
            run is not None
            and cell is not None
            and (run.info.run_id, run.info.status) == (sent.run_id, sent.state)
            and sent.tags.items() <= run.data.tags.items()
            and sent.tags[PARENT] == cell.info.run_id
        )

    def send_cells(self, name: str) -> None:
        """Send what has changed of the means over the seeds of an experiment."""
        self._undisturbed(name, self._send_cells)

    def send_exhibits(self, exhibits: Exhibits, name: str) -> int:
        """Send the tables and figures that have changed, and return how many."""
        return self._undisturbed(name, lambda there: self._send_exhibits(exhibits, there))

    def _undisturbed(self, name: str, act: Callable[[Experiment], T]) -> T:
        """Do what may be done again, until another host does not change the same at that moment."""
        for attempt in range(1, TRIES + 1):
            there = self.experiment(name)
            try:
                return act(there)
            except MlflowException as error:
                if attempt == TRIES or is_away(error):
                    raise
                time.sleep(0.2 * attempt)
                there.refresh()
        raise AssertionError

    def _send(self, run: Snapshot, there: Experiment) -> Delivery:
        there.check_source(run.scale, run.tags()["source"])
        mirrored = there.runs.get(run.key)
        old = dict(mirrored.data.tags) if mirrored else {}
        outcome: Outcome = "updated" if mirrored else "new"
        if mirrored and not run.continues(old["mirror.claim"]):
            mirrored, old = None, there.drop(run.key)
        elif mirrored:
            run = run.reaching(old["mirror.claim"])
        arrived: dict[str, str] = json.loads(old.get("mirror.files", "{}"))
        weights = run.weights() if self.weights else {}
        files = {name: digest(data) for name, data in run.files.items()}
        files |= {path.name: version for path, version in weights.items()}
        cell = self._cell(run, there)
        tags = run.tags() | {
            PARENT: cell.info.run_id,
            "cell": run.cell.rpartition("/")[2],
            "mirror.claim": run.claim(old.get("mirror.claim", "")),
            "mirror.bytes": str(len(run.journal)),
            "mirror.files": json.dumps(arrived | files, sort_keys=True),
        }
        gone = [key for key in old if key.startswith(PASSING) and key not in tags]
        same = mirrored is not None and tags.items() <= old.items() and not gone
        if mirrored is not None and same and mirrored.info.status == run.state:
            run_id = mirrored.info.run_id
            return Delivery("unchanged", run.key, run.cell, run_id, run.state, tags)
        there.changed = True
        if mirrored is None:
            known = ("kind", "scale", "source", "cell", PARENT, "mirror.claim")
            first = {key: tags[key] for key in known}
            mirrored = there.create(run.key, run.slug, run.times_ms[0], old | first)
        elif old["mirror.claim"] != tags["mirror.claim"]:
            self.client.set_tag(mirrored.info.run_id, "mirror.claim", tags["mirror.claim"])
        run_id = mirrored.info.run_id
        self._send_values(run_id, run, old)
        for name, data in run.files.items():
            if arrived.get(name) != files[name]:
                self.client.log_text(run_id, data.decode(), name)
        for path, version in weights.items():
            if arrived.get(path.name) != version:
                self.client.log_artifact(run_id, str(path), "weights")
        for key in gone:
            self.client.delete_tag(run_id, key)
        # Last, since they tell what has arrived.
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        there.set_state(mirrored, run.state, run.times_ms[1])
        return Delivery(outcome, run.key, run.cell, run_id, run.state, tags)

    def _cell(self, run: Snapshot, there: Experiment) -> Run:
        """Return the mirrored cell that a run belongs to."""
        cell = there.runs.get(run.cell)
        if cell is None:
            tags = {key: str(run.config[key]) for key in CONFIGURED}
            tags |= {"kind": "cell", "scale": run.scale}
            cell = there.create(run.cell, run.slug.rpartition("_seed")[0], run.times_ms[0], tags)
        if not cell.data.params:
            params = [Param(key, text) for key, text in run.params().items() if key != "seed"]
            self.client.log_batch(cell.info.run_id, params=params)
        return cell

    def _send_values(self, run_id: str, run: Snapshot, old: Mapping[str, str]) -> None:
        """Send parameters and metrics; the store itself drops what an interrupted try has sent."""
        metrics = [Metric(*metric) for metric in run.metrics(int(old.get("mirror.bytes", 0)))]
        if old.get("status") != run.tags()["status"]:
            metrics += [Metric(*metric) for metric in run.final_metrics()]
        texts = {} if "mirror.bytes" in old else run.params()
        params = [Param(key, text) for key, text in texts.items()]
        for start in range(0, max(len(metrics), 1), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics[start : start + METRICS_PER_CALL], params)
            params = []

    def _send_cells(self, there: Experiment) -> None:
        if there.changed:
            there.refresh()
        children: dict[str, list[Run]] = {}
        for run in there.runs.values():
            if PARENT in run.data.tags:
                children.setdefault(run.data.tags[PARENT], []).append(run)
        cells = [(k, run) for k, run in there.runs.items() if run.data.tags.get("kind") == "cell"]
        for key, run in cells:
            mine = children.get(run.info.run_id, [])
            self._send_cell(there, key, run, Cell.of(map(child_of, mine)), mine)

    def _send_cell(
        self, there: Experiment, key: str, run: Run, cell: Cell, children: Iterable[Run]
    ) -> None:
        old, tags = run.data.metrics, run.data.tags
        if not cell.metrics.keys() >= old.keys():
            name, begun_ms = run.info.run_name, run.info.start_time
            kept = {k: tags[k] for k in ("kind", "scale", *CONFIGURED) if k in tags}
            new = there.create(key, name, begun_ms, kept | there.drop(key))
            params = [Param(k, text) for k, text in run.data.params.items()]
            self.client.log_batch(new.info.run_id, params=params)
            for child in children:
                self.client.set_tag(child.info.run_id, PARENT, new.info.run_id)
            run, old, tags = new, {}, new.data.tags
        changed = {k: value for k, value in cell.metrics.items() if old.get(k) != value}
        if changed or tags.get("status") != cell.status:
            # The greatest step is what MLflow shows as a metric's value.
            step = int(tags.get("mirror.revision", -1)) + 1
            now = round(1000 * time.time())
            self.client.log_batch(
                run.info.run_id,
                [Metric(k, value, now, step) for k, value in changed.items()],
                tags=[RunTag("mirror.revision", str(step)), RunTag("status", cell.status)],
            )
        there.set_state(run, cell.state, cell.ended_ms)

    def _send_exhibits(self, exhibits: Exhibits, there: Experiment) -> int:
        there.check_source(exhibits.scale, str(exhibits.study))
        run = there.runs.get(exhibits.key)
        manifest = json.dumps(exhibits.digests, sort_keys=True, indent=1)
        version = digest(manifest.encode())
        if run and run.data.tags.get("mirror.files") == version:
            return 0
        arrived: dict[str, str] = {}
        if run and any(
            file.path == MANIFEST for file in self.client.list_artifacts(run.info.run_id)
        ):
            with tempfile.TemporaryDirectory() as folder:
                copy = self.client.download_artifacts(run.info.run_id, MANIFEST, folder)
                arrived = json.loads(Path(copy).read_bytes())
        note: dict[str, str] = {}
        if run and not arrived.keys() <= exhibits.digests.keys():
            note, run, arrived = there.drop(exhibits.key), None, {}
        if run is None:
            tags = {"kind": "study", "scale": exhibits.scale, "status": "running"}
            tags["source"] = str(exhibits.study)
            run = there.create(exhibits.key, STUDY, None, tags | note)
        changed = [n for n, found in exhibits.digests.items() if arrived.get(n) != found]
        for name in changed:
            folder = str(Path(name).parent).removeprefix(".")
            self.client.log_artifact(run.info.run_id, str(exhibits.study / name), folder or None)
        self.client.log_text(run.info.run_id, manifest, MANIFEST)
        tags = {"mirror.files": version, "status": "finished", "source": str(exhibits.study)}
        self.client.log_batch(run.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
        there.set_state(run, "FINISHED", round(1000 * time.time()))
        there.refresh(exhibits.key)
        return len(changed)


def child_of(run: Run) -> Child:
    """Return what a cell wants to know of a mirrored run."""
    return Child(run.data.tags, run.data.metrics, run.info.end_time or 0)
