"""A run directory at one moment, as the parameters, metrics and tags that a tracking store takes.

Nothing here knows MLflow's client; only two names are MLflow's own, the states and a tag.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from acdc.errors import SuiteError
from acdc.results import RESULT
from acdc.sources import source_digest

JOURNAL = "journal.jsonl"
# The result is read first: once it is there, the journal is complete.
ARTIFACTS = (RESULT, JOURNAL, "provenance.json", "config.yaml")


class DamagedRunError(SuiteError):
    """A file of a run directory cannot be read, or is not what its name says."""


class Metric(NamedTuple):
    """One number of a run; the time in milliseconds since 1970."""

    key: str
    value: float
    time_ms: int
    step: int


def digest(data: bytes) -> str:
    """Return 16 hexadecimal digits that identify the bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with keys such as ``recipe.lr``."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def numbers(value: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries that are numbers; what is nested, text or null is left out."""
    return {k: v for k, v in value.items() if isinstance(v, int | float) and type(v) is not bool}


@dataclass(frozen=True)
class Snapshot:
    """What a run directory held at one moment, so that all that is sent of it agrees."""

    folder: Path
    scale: str
    files: dict[str, bytes]
    config: dict[str, Any]
    result: dict[str, Any] | None
    provenance: dict[str, Any]
    records: list[dict[str, Any]]
    configured_ms: int

    @classmethod
    def read(cls, folder: Path, scale: str) -> Snapshot:
        """Read a run directory, which another process may be training in.

        Raises:
            DamagedRunError: a file cannot be read or is not what its name says.
        """
        files = {}
        try:
            for name in ARTIFACTS:
                with contextlib.suppress(FileNotFoundError):
                    files[name] = (folder / name).read_bytes()
            # A last line without its end is still being written, or was cut short by a kill.
            journal = files.get(JOURNAL, b"")
            files[JOURNAL] = journal = journal[: journal.rfind(b"\n") + 1]
            return cls(
                folder,
                scale,
                files,
                config=dict(yaml.safe_load(files["config.yaml"])),
                result=json.loads(files[RESULT]) if RESULT in files else None,
                provenance=json.loads(files.get("provenance.json", b"{}")),
                records=[json.loads(line) for line in journal.splitlines()],
                configured_ms=round(1000 * (folder / "config.yaml").stat().st_mtime),
            )
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise DamagedRunError(f"{folder}: {' '.join(str(error).split())}") from error

    @property
    def slug(self) -> str:
        """The readable part of the directory's name."""
        return self.folder.name.rpartition("-")[0]

    @property
    def key(self) -> tuple[str, str]:
        """What a mirrored run is found by: the fingerprint, at a scale."""
        return self.folder.name.rpartition("-")[2], self.scale

    @property
    def journal(self) -> bytes:
        """The whole lines of the journal."""
        return self.files[JOURNAL]

    @property
    def state(self) -> str:
        """MLflow's word for how far the run is; a diverged run has failed."""
        if self.result is None:
            return "RUNNING"
        return "FINISHED" if self.result["status"] == "finished" else "FAILED"

    @property
    def times_ms(self) -> tuple[int, int]:
        """When the training started and when the last record was written, in milliseconds."""
        if not self.records:
            return self.configured_ms, self.configured_ms
        first, last = self.records[0], self.records[-1]
        return round(1000 * (first["time"] - first.get("train_s", 0))), round(1000 * last["time"])

    @property
    def claim(self) -> str:
        """What the journal and the result are now."""
        result = digest(self.files[RESULT]) if RESULT in self.files else ""
        return f"{len(self.journal)}:{digest(self.journal)}:{result}"

    def continues(self, claim: str) -> bool:
        """Return whether all that was claimed is still part of this run.

        It is not when the run was resumed from a checkpoint, which cuts its journal back, or was
        trained anew.
        """
        length, journal, result = claim.split(":")
        same = digest(self.journal[: int(length)]) == journal
        return same and result in ("", self.claim.rpartition(":")[2])

    def params(self) -> dict[str, str]:
        """Return the resolved configuration, flat; what is no text is written as JSON."""
        flat = flatten(self.config)
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in flat.items()}

    def metrics(self, start: int) -> Iterator[Metric]:
        """Yield the metrics of the epochs whose records lie beyond a byte of the journal.

        The step is the epoch, the time is the record's.
        """
        for record in self.records[self.journal[:start].count(b"\n") :]:
            if "event" not in record:
                for key, value in numbers(record).items():
                    if key not in ("epoch", "time"):
                        yield Metric(key, value, round(1000 * record["time"]), record["epoch"])

    def final_metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the result, such as ``sparse_last/test_accuracy``."""
        if self.result is None:
            return
        groups = {name: self.result[name] for name in ("flops", "timings")}
        for product, kept in self.result["products"].items():
            groups |= {f"{product}_{which}": kept[which] for which in kept}
        for group, values in groups.items():
            step = values.get("epoch", self.config["epochs"] - 1)
            for key, value in numbers(flatten(values)).items():
                yield Metric(f"{group}/{key}", value, self.times_ms[1], step)

    def tags(self) -> dict[str, str]:
        """Return what runs are searched and grouped by."""
        config, result, git = (self.config, self.result or {}, self.provenance.get("git") or {})
        # Of an unfinished run only the name of its directory tells the variant.
        variant = re.sub(r"_s[^_]*_seed\d+$", "", self.slug).partition(f"_{config['method']}-")[2]
        tags = {key: config[key] for key in ("method", "sparsity", "seed", "model", "dataset")}
        tags |= {
            "variant": result.get("variant", variant),
            "primary": result.get("primary"),
            "status": result.get("status", "running"),
            "diverged_at": result.get("diverged_at"),
            "fingerprint": self.key[0],
            "scale": self.scale,
            "slug": self.slug,
            "git_revision": git.get("revision"),
            "git_clean": git.get("clean"),
            "mlflow.source.git.commit": git.get("revision"),
            "source_digest": source_digest(self.provenance),
        }
        return {key: str(value) for key, value in tags.items() if value is not None}

    def weights(self) -> dict[Path, str]:
        """Return the weights of a finished run, each with what tells whether it has changed."""
        if self.result is None:
            return {}
        found = {path: path.stat() for path in sorted(self.folder.glob("*.safetensors"))}
        return {path: f"{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found.items()}
