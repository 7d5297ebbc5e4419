"""Real studies at a tiny scale, each in a folder of its own."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).parent / "tiny.yaml"


@dataclass(frozen=True)
class Workplace:
    """A working directory with its own results and its own Snakemake records."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "results" / "tiny"

    @property
    def environment(self) -> dict[str, str]:
        outside = {"MAKELEVEL", "SNAKEMAKE_PROFILE", "ACDC_DATA"}
        return {key: value for key, value in os.environ.items() if key not in outside} | {
            "PYTHONPATH": str(ROOT)
        }

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def reproduce(
        self, scale: str | Path = TINY, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("workflow", "reproduce", str(scale), **environment)

    def start(self, scale: str | Path = TINY) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "workflow", "reproduce", str(scale)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--snakefile", str(ROOT / "Snakefile"), *arguments)

    def plan(self, *targets: str, **config: object) -> dict[str, int]:
        settings = [f"{key}={value}" for key, value in {"scale": TINY, **config}.items()]
        done = self.snakemake("-n", "--config", *settings, "--", *targets)
        assert done.returncode == 0, done.stderr
        _, _, table = (done.stdout + done.stderr).partition("Job stats:")
        found = re.findall(r"^(\w+) +(\d+)$", table.partition("\n\n")[0], re.MULTILINE)
        return {rule: int(count) for rule, count in found if rule != "total"}


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def finished(shared: Path) -> Workplace:
    """A tiny study that was made without interruption; tests must not change it."""
    folder = shared / "finished"
    folder.mkdir(exist_ok=True)
    workplace = Workplace(folder)
    with FileLock(folder / ".lock"):
        if not (folder / "done").exists():
            done = workplace.reproduce()
            assert done.returncode == 0, done.stderr + done.stdout
            (folder / "done").touch()
    return workplace
