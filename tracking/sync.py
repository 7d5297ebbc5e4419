"""Send what an MLflow experiment lacks of a study: metrics, parameters, tags and artifacts.

A run in MLflow is found by its tags ``scale`` and ``fingerprint``. Further tags say what it holds:

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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tracking.content import (
    STUDY,
    Content,
    DamagedRunError,
    digest,
    run_content,
    study_content,
)
from tracking.store import TrackingError, is_down

Outcome = Literal["new", "updated", "unchanged"]
METRICS_PER_CALL, TAGS_PER_CALL = 900, 100  # MLflow accepts 100 parameters or tags, 1000 in all
TRIES = 4
CLAIM, BYTES, DIGEST = "sync.claim", "sync.bytes", "sha256/"
NOTE = "mlflow.note.content"
"""What a person has written about the run in the interface."""


class Experiment:
    """The results of one folder and scale in an experiment of MLflow."""

    def __init__(
        self, client: MlflowClient, name: str, scale: str, source: str, artifacts: str | None
    ) -> None:
        """Open an experiment, and create it if needed.

        Args:
            client: of the store.
            name: of the experiment.
            scale: of the runs.
            source: the folder of the results.
            artifacts: address of the artifacts of a new experiment; None leaves it to the server.

        Raises:
            TrackingError: the experiment is deleted, or holds the results of another folder.
        """
        self.client, self.scale, self.source = client, scale, source
        if client.get_experiment_by_name(name) is None:
            # Another host may create it at the same moment.
            with contextlib.suppress(MlflowException):
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
        others = {run.data.tags["source"] for run in self.runs.values()} - {source}
        if others:
            raise TrackingError(
                f"--experiment={name}: holds the results of {min(others)}, not of {source}. Choose "
                "another name; if the folder was moved, delete its mlflow.db and mlartifacts"
            )

    def refresh(self, fingerprint: str = "") -> None:
        """Read the runs, or the one of a fingerprint, as MLflow has them now.

        If two hosts have created a run at the same moment, both keep the same one.
        """
        which = f"= '{fingerprint}'" if fingerprint else "LIKE '%'"
        text = f"tags.scale = '{self.scale}' and tags.fingerprint {which}"
        page = self.client.search_runs([self.identity], text)
        found: list[Run] = list(page)
        while page.token:
            page = self.client.search_runs([self.identity], text, page_token=page.token)
            found += page
        if fingerprint:
            self.runs.pop(fingerprint, None)
        else:
            self.runs.clear()
        for run in sorted(found, key=lambda run: str(run.info.run_id)):
            kept = self.runs.setdefault(run.data.tags["fingerprint"], run)
            if kept.info.run_id != run.info.run_id:  # a run may also be on two pages
                with contextlib.suppress(MlflowException):  # the other host deletes it, too
                    self.client.delete_run(run.info.run_id)

    def send(self, content: Content) -> Outcome:
        """Send what MLflow lacks of a run."""
        for attempt in range(1, TRIES):
            try:
                return self._send(content)
            except MlflowException as error:
                if is_down(error):
                    raise
                # Another host may have written or deleted the same at this moment.
                time.sleep(0.2 * attempt)
                self.refresh()
        return self._send(content)

    def _send(self, content: Content) -> Outcome:
        run = self.runs.get(content.fingerprint)
        old = dict(run.data.tags) if run else {}
        note = {key: text for key, text in old.items() if key == NOTE}
        tags = {DIGEST + name: digest(path.read_bytes()) for name, path in content.files.items()}
        if run and self._contradicts(content, old, tags):
            self.client.delete_run(run.info.run_id)
            run, old = None, {}
        outcome: Outcome = "updated" if run else "new"
        claim = content.claim(old.get(CLAIM, ""))
        end = claim.partition(":")[0]
        key = {"fingerprint": content.fingerprint, "scale": self.scale, "source": self.source}
        tags |= content.tags | key | {"status": content.status, CLAIM: claim, BYTES: end}
        if run and tags.items() <= old.items() and run.info.status == content.state:
            return "unchanged"
        if run is None:
            run = self._create(content, key | note | {CLAIM: claim})
        elif old[CLAIM] != claim:
            self.client.set_tag(run.info.run_id, CLAIM, claim)
        self._send_values(run.info.run_id, content, old, int(end))
        for name, path in content.files.items():
            if old.get(DIGEST + name) != tags[DIGEST + name]:
                self.client.log_artifact(run.info.run_id, str(path), name.rpartition("/")[0])
        # Last, since they say what has arrived.
        sent = [RunTag(*tag) for tag in tags.items() if tag not in old.items()]
        for start in range(0, len(sent), TAGS_PER_CALL):
            self.client.log_batch(run.info.run_id, tags=sent[start : start + TAGS_PER_CALL])
        if content.state == "RUNNING":
            self.client.update_run(run.info.run_id, content.state)
        else:
            self.client.set_terminated(run.info.run_id, content.state, content.ended_ms)
        return outcome

    def _contradicts(
        self, content: Content, old: Mapping[str, str], digests: Mapping[str, str]
    ) -> bool:
        """Return whether MLflow holds what is no longer true, and would keep it."""
        # A run's result can be deleted and come back; a table that is gone is not to be shown.
        gone = {key for key in old if key.startswith(DIGEST)} - digests.keys()
        kept = CLAIM in old and content.holds(old[CLAIM])
        return not kept or bool(gone and content.fingerprint == STUDY)

    def _create(self, content: Content, tags: Mapping[str, str]) -> Run:
        """Create a run, unless another host has just done so."""
        self.client.create_run(self.identity, content.began_ms, dict(tags), content.name)
        self.refresh(content.fingerprint)
        return self.runs[content.fingerprint]

    def _send_values(self, run_id: str, content: Content, old: Mapping[str, str], end: int) -> None:
        """Send parameters, and metrics up to an offset of the journal."""
        params = [] if BYTES in old else [Param(*param) for param in content.params.items()]
        values = list(content.metrics(int(old.get(BYTES, 0)), end))
        if old.get("status") != content.status:
            values += content.final
        for start in range(0, len(values) or len(params), METRICS_PER_CALL):
            some = [Metric(*value) for value in values[start : start + METRICS_PER_CALL]]
            self.client.log_batch(run_id, some, params)
            params = []


@dataclass
class Report:
    """What one sync of a study did."""

    runs: Counter[Outcome] = field(default_factory=Counter)
    tables: Outcome = "unchanged"
    """What became of the tables and figures."""
    damaged: list[str] = field(default_factory=list)
    """Why runs could not be read."""

    @property
    def changed(self) -> bool:
        """Whether anything was sent."""
        return {self.tables, *self.runs} != {"unchanged"}

    def __str__(self) -> str:
        counts = ", ".join(f"{self.runs[key]} {key}" for key in get_args(Outcome))
        return f"{self.runs.total()} runs: {counts}; tables and figures {self.tables}"


def sync_study(there: Experiment, study: Path, runs: Sequence[Path]) -> Report:
    """Send runs, and the tables and figures of their study."""
    report = Report()
    for run in runs:
        try:
            content = run_content(run)
        except DamagedRunError as error:
            report.damaged.append(str(error))
        else:
            if content:
                report.runs[there.send(content)] += 1
    tables = study_content(study)
    if tables:
        report.tables = there.send(tables)
    return report
