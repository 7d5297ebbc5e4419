"""Send what an MLflow experiment lacks of a study: metrics, parameters, tags and artifacts.

A run in MLflow is found by its tag ``fingerprint``. Further tags say what it holds:

``sync.claim``    what is being sent of journal and result (``Content.claim``), written before it
``sync.bytes``    bytes of the journal whose metrics have arrived, written after them
``sha256/FILE``   digest of an artifact that has arrived, written after it

After an interruption the same is sent again: MLflow keeps one copy of values that agree in key,
step, time and value, and the times are those of the journal. MLflow takes no value back: if a run's
folder no longer holds what was claimed, the run in MLflow is deleted and created again.

Importing this module imports MLflow, which takes seconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from acdc.messages import plain
from tracking.content import STUDY, Content, digest
from tracking.store import TrackingError, is_down

METRICS_PER_CALL, TAGS_PER_CALL = 900, 100  # MLflow accepts 100 parameters or tags, 1000 in all
TRIES = 4
CLAIM, BYTES, DIGEST = "sync.claim", "sync.bytes", "sha256/"
NOTE = "mlflow.note.content"
"""What a person has written about the run in the interface."""


class Experiment:
    """An experiment of MLflow, which holds the results of one study."""

    def __init__(self, client: MlflowClient, name: str, study: Path, artifacts: str | None) -> None:
        """Open an experiment, and create it if needed.

        Args:
            client: of the store.
            name: of the experiment.
            study: the folder of the results.
            artifacts: address of the artifacts of a new experiment; None leaves it to the server.

        Raises:
            TrackingError: the experiment is deleted, or holds the results of another folder.
        """
        self.client, self.source = client, plain(str(study))
        if client.get_experiment_by_name(name) is None:
            with contextlib.suppress(MlflowException):  # another host creates it at this moment
                client.create_experiment(name, artifact_location=artifacts)
        found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise TrackingError(
                f"--experiment={name}: deleted in the tracking store. Restore it there "
                "(mlflow experiments restore) or choose another name"
            )
        self.identity = str(found.experiment_id)
        self.runs: dict[str, Run] = {}
        """By fingerprint."""
        self.refresh()
        others = {run.data.tags["source"] for run in self.runs.values()} - {self.source}
        if others:
            raise TrackingError(
                f"--experiment={name}: holds the results of {min(others)}, not of {self.source}. "
                "Choose another name; if the folder was moved, delete its mlflow.db and mlartifacts"
            )

    def refresh(self, fingerprint: str = "%") -> None:
        """Read the runs, or the one of a fingerprint, as MLflow has them now.

        If two hosts have created a run at the same moment, both keep the same one.
        """
        found: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self.client.search_runs(
                [self.identity], f"tags.fingerprint LIKE '{fingerprint}'", page_token=token or None
            )
            found += page
            token = page.token or None
        for run in found:
            self.runs.pop(run.data.tags["fingerprint"], None)
        for run in sorted(found, key=lambda run: str(run.info.run_id)):
            kept = self.runs.setdefault(run.data.tags["fingerprint"], run)
            if kept.info.run_id != run.info.run_id:  # a run may also be on two pages
                with contextlib.suppress(MlflowException):  # the other host deletes it, too
                    self.client.delete_run(run.info.run_id)

    def send(self, content: Content) -> Literal["new", "updated", "unchanged"]:
        """Send what MLflow lacks of a run or of a study's tables and figures."""
        for attempt in range(1, TRIES):
            try:
                return self._send(content)
            except MlflowException as error:
                if is_down(error):
                    raise
                # Another host may have written or deleted the same at this moment.
                time.sleep(0.2 * attempt)
                self.runs.clear()
                self.refresh()
        return self._send(content)

    def _send(self, content: Content) -> Literal["new", "updated", "unchanged"]:
        run = self.runs.get(content.fingerprint)
        old = dict(run.data.tags) if run else {}
        note = {key: text for key, text in old.items() if key == NOTE}
        tags = {DIGEST + name: digest(path.read_bytes()) for name, path in content.files.items()}
        # A run's result can be deleted and come back; a table that is gone is not to be shown.
        gone = content.fingerprint == STUDY and {k for k in old if k.startswith(DIGEST)} - {*tags}
        if run and (gone or CLAIM not in old or not content.holds(old[CLAIM])):
            self.client.delete_run(run.info.run_id)
            run, old = None, {}
        outcome: Literal["new", "updated"] = "updated" if run else "new"
        claim = content.claim(old.get(CLAIM, ""))
        end = claim.partition(":")[0]
        key = {"fingerprint": content.fingerprint, "source": self.source}
        tags |= content.tags | key | {"status": content.status, CLAIM: claim, BYTES: end}
        state = {"running": "RUNNING", "finished": "FINISHED"}.get(content.status, "FAILED")
        if run and tags.items() <= old.items() and run.info.status == state:
            return "unchanged"
        if run is None:
            run = self._create(content, key | note | {CLAIM: claim})
        run_id = run.info.run_id
        self.client.set_tag(run_id, CLAIM, claim)
        self._send_values(run_id, content, old, int(end))
        for name, path in content.files.items():
            if old.get(DIGEST + name) != tags[DIGEST + name]:
                self.client.log_artifact(run_id, str(path), name.rpartition("/")[0])
        # Last, since they say what has arrived.
        sent = [RunTag(*tag) for tag in tags.items() if tag not in old.items()]
        for start in range(0, len(sent), TAGS_PER_CALL):
            self.client.log_batch(run_id, tags=sent[start : start + TAGS_PER_CALL])
        if state == "RUNNING":
            self.client.update_run(run_id, state)
        else:
            self.client.set_terminated(run_id, state, content.ended_ms)
        return outcome

    def _create(self, content: Content, tags: Mapping[str, str]) -> Run:
        """Create a run, unless another host has just done so."""
        self.client.create_run(self.identity, content.began_ms, dict(tags), content.name)
        self.refresh(content.fingerprint)
        return self.runs[content.fingerprint]

    def _send_values(self, run_id: str, content: Content, old: Mapping[str, str], end: int) -> None:
        """Send parameters, and metrics up to an offset of the journal."""
        params = [] if BYTES in old else [Param(*param) for param in content.params.items()]
        begin = int(old.get(BYTES, 0))
        values = [value for line_end, value in content.epochs if begin < line_end <= end]
        if old.get("status") != content.status:
            values += content.final
        for start in range(0, len(values) or len(params), METRICS_PER_CALL):
            some = [Metric(*value) for value in values[start : start + METRICS_PER_CALL]]
            self.client.log_batch(run_id, some, params)
            params = []
