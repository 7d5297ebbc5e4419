"""A run directory at one moment, as the parameters, metrics and tags that a tracking store takes.

Nothing here knows MLflow's client; only two names are MLflow's own, the states and a tag.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from acdc.errors import SuiteError
from acdc.run.failures import remembered
from acdc.run.results import RESULT, SCHEMA
from acdc.run.sources import source_digest
from acdc.sparsity.certificate import objections

JOURNAL = "journal.jsonl"
FAILED = "failed"  # a result of this status is none yet: the run is tried again
CONFIGURED = ("method", "sparsity", "model", "dataset")
"""Keys of the configuration that are tags of a run and of its cell."""
RUN_NAME = re.compile(r".+-[0-9a-f]{12}")
TEXT_LENGTH = 1000  # of a tag; MLflow takes 8000 characters
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


def key_of(run: Path, scale: str) -> str:
    """Return what the mirrored run of a directory is found by: its fingerprint at a scale."""
    return f"{scale}/run/{run.name.rpartition('-')[2]}"


def newest_checkpoint(folder: Path) -> float:
    """Return when the newest checkpoint was written; infinity where a run has none to resume from.

    In seconds since 1970. A line of the journal that is older is never cut off.
    """
    times = []
    for path in (folder / "checkpoint").glob("step-*.pt"):
        with contextlib.suppress(FileNotFoundError):  # superseded just now
            times.append(path.stat().st_mtime)
    return max(times, default=math.inf)


def run_folders(folder: Path) -> set[Path]:
    """Return the run directories in a folder or below it, or the folder itself if it is one."""
    found = {path.parent.resolve() for path in folder.rglob("config.yaml")}
    return {path for path in found if RUN_NAME.fullmatch(path.name)}


def study_of(folder: Path) -> Path:
    """Return the study that a folder is, lies in, or holds the runs of."""
    if (folder / "runs").is_dir():
        return folder
    return next((path.parent for path in (folder, *folder.parents) if path.name == "runs"), folder)


def source_of(run: Path) -> Path:
    """Return the folder whose runs belong together: the study, else the one that holds the run."""
    study = study_of(run)
    return run.parent if study == run else study


def read_end(folder: Path, text: bytes | None) -> dict[str, Any] | None:
    """Return the result of a run, or what stands for it where it has failed for good.

    Args:
        folder: of the run.
        text: the result as it was read, if there is one.

    Raises:
        ValueError: it is of another version of the suite.
    """
    if text is not None:
        result: dict[str, Any] = json.loads(text)
        if result["schema"] != SCHEMA:
            raise ValueError(f"{RESULT} has schema {result['schema']}, {SCHEMA} is accepted")
        return result
    failure = remembered(folder)
    if failure is None or not failure.final:
        return None
    ended = {"error": failure.error, "exit_status": failure.exit_status}
    return {"status": FAILED, "products": {}, **ended}


@dataclass(frozen=True)
class Snapshot:
    """What a run directory held at one moment, so that all that is sent of it agrees.

    Lines of the journal that are newer than the checkpoint which the run would be resumed from are
    not among it: resuming writes them anew, and a tracking store takes nothing back.
    """

    folder: Path
    scale: str
    files: dict[str, bytes]
    whole: bytes
    """The journal's lines, also those that may be written anew."""
    written: list[dict[str, Any]]
    """The records of these lines."""
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
            kept_until = newest_checkpoint(folder)
            for name in ARTIFACTS:
                with contextlib.suppress(FileNotFoundError):
                    files[name] = (folder / name).read_bytes()
            result = read_end(folder, files.get(RESULT))
            journal = files.get(JOURNAL, b"")
            # A last line without its end is still being written, or was cut short by a kill.
            lines = journal[: journal.rfind(b"\n") + 1].splitlines(keepends=True)
            written = records = [json.loads(line) for line in lines]
            if result is None or result["status"] == FAILED:
                records = list(itertools.takewhile(lambda r: r["time"] <= kept_until, records))
            files[JOURNAL] = b"".join(lines[: len(records)])
            run = cls(
                folder,
                scale,
                files,
                b"".join(lines),
                written,
                config=dict(yaml.safe_load(files["config.yaml"])),
                result=result,
                provenance=json.loads(files.get("provenance.json", b"{}")),
                records=records,
                configured_ms=round(1000 * (folder / "config.yaml").stat().st_mtime),
            )
            run.try_all()
        except (
            *(OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError),
            yaml.YAMLError,
        ) as error:
            text = " ".join(str(error).split())
            raise DamagedRunError(f"{folder}: {type(error).__name__}: {text}") from error
        return run

    def try_all(self) -> None:
        """Compute what is sent of the run; what is damaged raises an error of some kind."""
        _ = (self.cell, self.times_ms, self.params(), self.tags())
        _ = (list(self.metrics(0)), list(self.final_metrics()))
        for data in self.files.values():
            data.decode()

    @property
    def slug(self) -> str:
        """The readable part of the directory's name."""
        return self.folder.name.rpartition("-")[0]

    @property
    def key(self) -> str:
        """What the mirrored run is found by."""
        return key_of(self.folder, self.scale)

    @property
    def cell(self) -> str:
        """What the cell is found by: the run's configuration but for its seed."""
        shared = {key: value for key, value in self.config.items() if key != "seed"}
        return f"{self.scale}/cell/{digest(json.dumps(shared, sort_keys=True).encode())}"

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
    def final(self) -> str:
        """What the result is now; nothing as long as it may become another one."""
        if self.result is None or self.result["status"] == FAILED:
            return ""
        return digest(self.files[RESULT])

    def claim(self, before: str = "") -> str:
        """Return what the journal and the result are now.

        Args:
            before: the claim of what was sent already; a result that has been removed since may
                come back as it was.
        """
        final = self.final or before.rpartition(":")[2]
        return f"{len(self.journal)}:{digest(self.journal)}:{final}"

    def continues(self, claim: str) -> bool:
        """Return whether all that was claimed is still part of this run.

        It is not when the run was begun anew, or resumed from an earlier checkpoint than its last.
        """
        length, journal, final = claim.split(":")
        same = digest(self.whole[: int(length)]) == journal
        return same and (not final or self.final in ("", final))

    def reaching(self, claim: str) -> Snapshot:
        """Return the run with all lines that were claimed of it, though fewer seem safe here.

        By another host's clock, or with a checkpoint that is listed late, fewer do.
        """
        length = int(claim.partition(":")[0])
        if length <= len(self.journal):
            return self
        sent = self.whole[:length]
        records = self.written[: sent.count(b"\n")]
        return replace(self, files=self.files | {JOURNAL: sent}, records=records)

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
        # One that has failed has neither.
        groups = {name: self.result.get(name, {}) for name in ("flops", "timings")}
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
        attempts = [self.provenance, *self.provenance.get("resumed", [])]
        jobs = dict.fromkeys(str(attempt["job"]) for attempt in attempts if attempt.get("job"))
        tags = {key: config[key] for key in CONFIGURED}
        tags |= {
            "kind": "run",
            "seed": config["seed"],
            "variant": result.get("variant", variant),
            "primary": result.get("primary"),
            "status": result.get("status", "running"),
            "diverged_at": result.get("diverged_at"),
            "error": result.get("error"),
            "exit_status": result.get("exit_status"),
            "attempts": len(attempts),
            "slurm_job_id": ", ".join(jobs) or None,
            "fingerprint": self.folder.name.rpartition("-")[2],
            "scale": self.scale,
            "source": source_of(self.folder),
            "slug": self.slug,
            "git_revision": git.get("revision"),
            "git_clean": git.get("clean"),
            "mlflow.source.git.commit": git.get("revision"),
            "source_digest": source_digest(self.provenance),
            **self.refusals(),
        }
        return {key: str(value)[:TEXT_LENGTH] for key, value in tags.items() if value is not None}

    def refusals(self) -> dict[str, str]:
        """Return why products are not to be averaged, as tags such as ``refused.sparse``."""
        found = {}
        for product, kept in (self.result or {"products": {}})["products"].items():
            requested = self.config["sparsity"] if product == "sparse" else 0.0
            weights = (self.result or {})["prunable_weights"]
            reasons = dict.fromkeys(
                reason
                for record in kept.values()
                for reason in objections(record.get("certificate"), requested, weights)
            )
            if reasons:
                found[f"refused.{product}"] = "; ".join(reasons)
        return found

    def weights(self) -> dict[Path, str]:
        """Return the weights of a finished run, each with what tells whether it has changed."""
        if self.result is None:
            return {}
        found = {path: path.stat() for path in sorted(self.folder.glob("*.safetensors"))}
        return {path: f"{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found.items()}
