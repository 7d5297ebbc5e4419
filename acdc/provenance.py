"""Where a result comes from: revision, package versions, hardware, job."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "pydantic", "safetensors")


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def git_revision() -> dict[str, Any]:
    """Return the revision of the source and whether tracked files differ from it."""
    revision = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if revision else None
    return {"revision": revision, "clean": status == "" if status is not None else None}


@functools.cache
def _digest_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def source_digest() -> str:
    """Return one digest of the suite's own modules that are loaded in this process.

    Results whose science has changed since can be told by it; moving or touching files does not
    change it.
    """
    digest = hashlib.sha256()
    for name in sorted(sys.modules):
        if name.split(".")[0] in ("acdc", "baselines") and not name.startswith("acdc.cli"):
            path = getattr(sys.modules[name], "__file__", None)
            if path:
                digest.update(f"{name} {_digest_of(path)}\n".encode())
    return digest.hexdigest()[:12]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the processor, its cores and the accelerator in words."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Return all that is recorded of the circumstances of a run."""
    return {
        "git": git_revision(),
        "source_digest": source_digest(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hardware": hardware(device),
        "system": f"{platform.system()} {platform.release()}",
        "job": os.environ.get("SLURM_JOB_ID"),
    }
