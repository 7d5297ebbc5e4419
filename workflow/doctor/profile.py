"""What a Snakemake profile asks of SLURM for the jobs of a study."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from acdc.config.yaml_io import parse_yaml
from acdc.errors import ConfigError
from study.model import Study, whole_number
from workflow.resources import THEORY_MB, THEORY_MINUTES, TRAIN_MB, TRAIN_MINUTES

SUBMITTED = ("train", "train_on_nodes", "pack", "theory")
"""The rules of the workflow that are no local rules."""
GPU_MODEL = re.compile(r"[a-zA-Z0-9_.]+")
"""The types of GPUs that the executor takes as gpu_model, all of a name."""
_GPUS_PER_NODE = 8  # unless the profile's configuration says, as in workflow/rules/common.smk


@dataclass(frozen=True)
class Request:
    """What jobs of a rule ask for; None: nothing."""

    rule: str
    partitions: tuple[str, ...] = ()
    """Any of them will do; empty: the site's default."""
    minutes: int | None = None
    memory_mb: int | None = None
    """On each node."""
    cores: int = 1
    """On each node."""
    gpus: int = 0
    """On each node."""
    nodes: int = 1
    gpu_type: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    evaluated: tuple[str, ...] = ()
    """Resources that are expressions, which Snakemake evaluates job by job."""

    @property
    def name(self) -> str:
        """Which jobs."""
        count = self.gpus * self.nodes
        return f"{self.rule}, {count} GPU{'s' if count > 1 else ''}" if count else self.rule

    def options(self) -> list[str]:
        """Return the options of srun that ask for the same on one node, for a time of its own."""
        asked = {
            "--mem": self.memory_mb and f"{self.memory_mb}M",
            "--cpus-per-task": self.cores,
            "--gpus": self.gpus and ":".join([*filter(None, [self.gpu_type]), str(self.gpus)]),
            "--account": self.account,
            "--qos": self.qos,
            "--constraint": self.constraint,
        }
        return [f"{option}={value}" for option, value in asked.items() if value]


@dataclass(frozen=True)
class Profile:
    """A profile: a file of command line options of Snakemake."""

    file: Path
    options: Mapping[str, Any]
    configuration: Mapping[str, Any]
    """Of the workflow, as its ``configfile`` and ``config`` say."""

    @property
    def slurm(self) -> bool:
        """Whether jobs go to SLURM."""
        return self.options.get("executor") == "slurm"

    @property
    def latency_wait_s(self) -> float:
        """How long Snakemake waits for a file that a job has written."""
        return float(self.options.get("latency-wait", 5))

    def requests(self, study: Study) -> list[Request]:
        """Return what the jobs of a study ask for, each kind once.

        What a rule says itself stands over the profile's defaults, and what the profile says of
        the rule over both, as in Snakemake.

        Raises:
            ConfigError: a value is not of its kind.
        """
        defaults = self._flat("default-resources")
        threads = self._flat("set-threads")
        found = [
            self._request(
                rule,
                {**_known(defaults), **own, **_known(self.named.get(rule, {}))},
                threads.get(rule, 1),
            )
            for rule, own in self._jobs(study)
        ]
        return [self._one_job(request, study) for request in dict.fromkeys(found)]

    def _one_job(self, request: Request, study: Study) -> Request:
        """Return what the job asks for in which the theory's experiments follow one another."""
        if request.rule != "theory" or request.minutes is None:
            return request
        together = whole_number(
            parse_yaml(str(self._flat("group-components").get("theory", 1))),
            f"{self.file}: group-components: theory",
        )
        times = min(together, len(study.theory))
        return dataclasses.replace(request, minutes=request.minutes * times)

    @functools.cached_property
    def named(self) -> dict[str, dict[str, Any]]:
        """The resources that are set for single rules."""
        return self._nested("set-resources")

    def _jobs(self, study: Study) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield the rules that a study's jobs are of, with the resources that these name."""
        pack, per_node = (
            whole_number(self.configuration.get(key, least), f"{self.file}: config: {key}")
            for key, least in (("pack", 1), ("gpus_per_node", _GPUS_PER_NODE))
        )
        packs = study.packs(pack) if pack > 1 else {}
        packed = {run for runs in packs.values() for run in runs}
        for gpus in sorted({n for run, n in study.gpus.items() if run not in packed}):
            nodes = math.ceil(gpus / per_node)
            rule = "train_on_nodes" if nodes > 1 else "train"
            own = {"mem_mb": TRAIN_MB, "runtime": TRAIN_MINUTES}
            yield rule, {"gpu": gpus, "nodes": nodes, **own}
        if packs:
            most = max(map(len, packs.values()))
            yield "pack", {"gpu": 1, "mem_mb": most * TRAIN_MB, "runtime": most * TRAIN_MINUTES}
        if study.theory:
            yield "theory", {"mem_mb": THEORY_MB, "runtime": THEORY_MINUTES}

    def _request(self, rule: str, resources: Mapping[str, Any], threads: Any) -> Request:
        evaluated: list[str] = []

        def text(name: str) -> str | None:
            return str(resources[name]) if resources.get(name) else None

        def number(name: str) -> int | None:
            from snakemake.exceptions import WorkflowError
            from snakemake.resources import Resource

            value = resources.get(name)
            if value is None:
                return None
            try:
                return int(Resource.parse_human_friendly(name.removesuffix("_mb"), value))
            except (WorkflowError, ValueError):
                evaluated.append(f"{name}: {value}")
                return None

        gpu_type, nodes = text("gpu_model"), number("nodes") or 1
        gpus = math.ceil((number("gpu") or bool(gpu_type)) / nodes)
        try:
            cores = int(threads)
        except ValueError:
            raise ConfigError(
                f"{self.file}: set-threads: {rule}: {threads!r}; a number of cores is accepted"
            ) from None
        # In the executor's order; below zero, SLURM is asked for none.
        if per_task := number("cpus_per_task"):
            cores = max(1, per_task)
        elif gpus and (per_gpu := number("cpus_per_gpu")):
            cores = max(1, gpus * per_gpu)
        memory, per_core = number("mem_mb"), number("mem_mb_per_cpu")
        return Request(
            rule,
            partitions=tuple(filter(None, (text("slurm_partition") or "").split(","))),
            minutes=number("runtime"),
            memory_mb=per_core * cores if per_core else memory,
            cores=cores,
            gpus=gpus,
            nodes=nodes,
            gpu_type=gpu_type,
            account=text("slurm_account"),
            qos=text("qos") or self.options.get("slurm-qos"),
            constraint=text("constraint"),
            gres=text("gres"),
            evaluated=tuple(evaluated),
        )

    def _flat(self, key: str) -> dict[str, Any]:
        """Return a mapping that may be written as a list of ``name=value``."""
        value = self.options.get(key) or {}
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            pairs = [str(item).partition("=") for item in value]
            value = {name: written for name, equals, written in pairs if equals}
        if not isinstance(value, dict):
            raise ConfigError(f"{self.file}: {key}: {value!r}; a mapping is accepted")
        return value

    def _nested(self, key: str) -> dict[str, dict[str, Any]]:
        """Return a mapping of mappings that may be written as a list of ``rule:name=value``."""
        found: dict[str, dict[str, Any]] = {}
        for name, value in self._flat(key).items():
            rule, colon, resource = name.partition(":")
            if not colon and not isinstance(value, dict):
                raise ConfigError(
                    f"{self.file}: {key}: {name}: {value!r}; a mapping of resources is accepted"
                )
            found.setdefault(rule, {}).update({resource: value} if colon else value)
        return found


def _known(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return resources under the names that Snakemake knows them by in the end."""
    return {"mem_mb" if name == "mem" else name: value for name, value in resources.items()}


def read_profile(name: str) -> Profile:
    """Return a profile by its name or its path, found as Snakemake finds it.

    Raises:
        ConfigError: there is none, or it is no YAML mapping.
    """
    from snakemake.cli import get_profile_dir

    place = get_profile_dir(name)
    if place is None:
        raise ConfigError(
            f"--profile: {name!r} is no profile; a folder with a profile.yaml, in the working "
            "directory or in ~/.config/snakemake, is accepted, or none for checks without SLURM"
        )
    folder, file = place
    options = _mapping(file)
    files = options.get("configfile") or []
    configuration: dict[str, Any] = {}
    for each in [files] if isinstance(files, str) else files:
        beside = folder / each
        configuration |= _mapping(beside if beside.exists() else Path(each))
    given = options.get("config") or {}
    if isinstance(given, list):
        given = {key: parse_yaml(value) for key, _, value in (str(i).partition("=") for i in given)}
    return Profile(file, options, configuration | given)


def _mapping(file: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}; a YAML file is accepted") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: holds {type(value).__name__}; a mapping of options is accepted")
    return value
