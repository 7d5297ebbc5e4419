"""Sends what an MLflow store does not have yet of a run.

What has been sent is kept in tags of the mirrored run:

``mirror.claim``   journal bytes, their digest and the result's digest, written before sending
``mirror.bytes``   journal bytes that have arrived, written last
``mirror.files``   what tells the version of each artifact that has arrived, written last

Importing this module imports MLflow, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from acdc.snapshots import Snapshot, digest
from acdc.tracking import TrackingError

METRICS_PER_CALL = 900  # MLflow takes 1000 values in one batch, parameters among them
NOTE = "mlflow.note.content"  # what a person has written about the run in the interface

Outcome = Literal["new", "updated", "unchanged"]


class Mirror:
    """An MLflow store and the mirrored runs in it; each experiment is searched once."""

    def __init__(self, client: MlflowClient, artifacts: str | None, weights: bool) -> None:
        self.client = client
        self.artifacts = artifacts
        self.weights = weights
        self.opened: dict[str, tuple[str, dict[tuple[str, str], Run]]] = {}

    def open(self, name: str) -> tuple[str, dict[tuple[str, str], Run]]:
        """Return an experiment's id, created where there is none, and its runs by their keys.

        Raises:
            TrackingError: someone has deleted the experiment.
        """
        if name not in self.opened:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                try:
                    self.client.create_experiment(name, artifact_location=self.artifacts)
                except MlflowException as error:
                    # Another host may create it at the same moment.
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                found = self.client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != "active":
                raise TrackingError(
                    f"--experiment: {name!r} has been deleted in the tracking store; restore it "
                    "there (mlflow experiments restore) or give another name"
                )
            self.opened[name] = found.experiment_id, self.search(found.experiment_id)
        return self.opened[name]

    def search(self, experiment: str) -> dict[tuple[str, str], Run]:
        """Return the mirrored runs of an experiment by fingerprint and scale."""
        page = self.client.search_runs([experiment], max_results=1000)
        runs = list(page)
        while page.token:
            page = self.client.search_runs([experiment], max_results=1000, page_token=page.token)
            runs += page
        known: dict[tuple[str, str], Run] = {}
        for run in sorted(runs, key=lambda run: str(run.info.run_id)):
            tags = run.data.tags
            if "mirror.claim" not in tags:
                continue
            key = (tags["fingerprint"], tags["scale"])
            if known.setdefault(key, run) is not run:
                # Two hosts have created it at the same moment; both keep the same one.
                self.client.delete_run(run.info.run_id)
        return known

    def send(self, run: Snapshot, experiment: str) -> Outcome:
        """Send what the store does not have of a run, and return whether it was anything."""
        identity, known = self.open(experiment)
        mirrored = known.get(run.key)
        old = dict(mirrored.data.tags) if mirrored else {}
        outcome: Outcome = "updated" if mirrored else "new"
        if mirrored and not run.continues(old["mirror.claim"]):
            # A metric cannot be taken back, and of the lines that were cut off it was sent already.
            self.client.delete_run(mirrored.info.run_id)
            mirrored, old = None, {NOTE: old[NOTE]} if NOTE in old else {}
        arrived: dict[str, str] = json.loads(old.get("mirror.files", "{}"))
        weights = run.weights() if self.weights else {}
        files = {name: digest(data) for name, data in run.files.items()}
        files |= {path.name: version for path, version in weights.items()}
        tags = run.tags() | {
            "mirror.claim": run.claim,
            "mirror.bytes": str(len(run.journal)),
            "mirror.files": json.dumps(arrived | files, sort_keys=True),
        }
        if mirrored and mirrored.info.status == run.state and tags.items() <= old.items():
            return "unchanged"
        if mirrored is None:
            first = old | {key: tags[key] for key in ("fingerprint", "scale", "mirror.claim")}
            mirrored = self.client.create_run(identity, run.times_ms[0], first, run.slug)
            known[run.key] = mirrored
        elif old["mirror.claim"] != run.claim:
            self.client.set_tag(mirrored.info.run_id, "mirror.claim", run.claim)
        run_id = mirrored.info.run_id
        self.send_values(run_id, run, old)
        for name, data in run.files.items():
            if arrived.get(name) != files[name]:
                self.client.log_text(run_id, data.decode(), name)
        for path, version in weights.items():
            if arrived.get(path.name) != version:
                self.client.log_artifact(run_id, str(path), "weights")
        # Last, since they tell what has arrived.
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if run.state != "RUNNING":
            self.client.set_terminated(run_id, run.state, run.times_ms[1])
        elif mirrored.info.status != "RUNNING":
            self.client.update_run(run_id, "RUNNING")
        return outcome

    def send_values(self, run_id: str, run: Snapshot, old: Mapping[str, str]) -> None:
        """Send parameters and metrics; the store itself drops what an interrupted try has sent."""
        metrics = [Metric(*metric) for metric in run.metrics(int(old.get("mirror.bytes", 0)))]
        if old.get("status") != run.tags()["status"]:
            metrics += [Metric(*metric) for metric in run.final_metrics()]
        texts = {} if "mirror.bytes" in old else run.params()
        params = [Param(key, text) for key, text in texts.items()]
        for start in range(0, max(len(metrics), 1), METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics[start : start + METRICS_PER_CALL], params)
            params = []
