"""Where a result comes from: code, package versions, hardware, job."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from acdc.config.run import RunConfig
from acdc.distributed import Ranks
from acdc.files import write_json
from acdc.run.reader import PROVENANCE
from acdc.run.sources import ROOT, science_digest
from acdc.training.state import Engine

# What results are made by, as paths from the root of the repository; new files count too.
SCIENCE = (":/acdc", ":/baselines", ":/study", ":/theory", ":/workflow")
PACKAGES = ("torch", "torchvision", "numpy", "pydantic", "pytorch-optimizer", "safetensors")


def git_revision(root: Path = ROOT) -> dict[str, Any]:
    """Return the revision of a source tree, and whether what makes results is as it was there.

    None where the tree is no repository of its own, but within another or without any.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    own = git("rev-parse", "--show-toplevel") == str(root) and git("ls-files", "acdc/run")
    revision = git("rev-parse", "HEAD") if own else None
    status = git("status", "--porcelain", "--", *SCIENCE) if revision else None
    return {"revision": revision, "clean": status == "" if status is not None else None}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the processor, its cores and the accelerator in words."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def record(folder: Path, config: RunConfig, engine: Engine, ranks: Ranks, *, resumed: bool) -> None:
    """Record what an attempt at a run is made by; a resumed one adds to those before it.

    A record that is missing or damaged stands for an attempt that nothing is known of.
    """
    now = {
        "git": git_revision(),
        "science": science_digest(config),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hardware": hardware(engine.device),
        "ranks": ranks.count,
        "threads": torch.get_num_threads(),
        "compile": engine.compile,
        "kernels": engine.kernels,
        "deterministic": engine.deterministic,
        "system": f"{platform.system()} {platform.release()}",
        "host": platform.node(),
        "job": os.environ.get("SLURM_JOB_ID"),
    }
    path = folder / PROVENANCE
    if resumed:
        begun: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, RecursionError):
            begun = dict(json.loads(path.read_bytes()))
        before = begun.get("resumed")
        now = {**begun, "resumed": [*(before if isinstance(before, list) else []), now]}
    write_json(path, now)
