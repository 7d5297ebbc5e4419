"""Real studies at a tiny scale, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent / "tiny.yaml"


@dataclass(frozen=True)
class Workplace:
    """A working directory with its own results and its own Snakemake records."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "results" / "tiny"

    def command(self, scale: str | Path = TINY, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "workflow", "reproduce", str(scale), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        outside = {"MAKELEVEL", "SNAKEMAKE_PROFILE", "ACDC_DATA"}
        return {key: value for key, value in os.environ.items() if key not in outside} | {
            "PYTHONPATH": str(ROOT)
        }

    def reproduce(
        self, scale: str | Path = TINY, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(scale, *arguments),
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def start(self, scale: str | Path = TINY) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(scale),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        return subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A tiny study that was made without interruption; tests must not change it."""
    workplace = Workplace(tmp_path_factory.mktemp("finished"))
    done = workplace.reproduce()
    assert done.returncode == 0, done.stderr + done.stdout
    return workplace
