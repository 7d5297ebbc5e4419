"""A real SLURM, and studies that are sent to it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from acdc.run.reader import RunRecord, read_run
from study.model import Study
from study.resolve import load
from tests.cluster.slurm import PREFIX, Cluster, missing_programs, wait_until
from workflow.slurm import job_name, read_queue

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
# What makes miniature jobs end soon; all else is as the profile says.
SOON = (
    *("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"),
    # More than the machine has cores for would only be slow, and other threads give other bits.
    *("--set-threads", "train=1", "train_on_nodes=1"),
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster for all tests; a test that breaks it repairs it."""
    missing = missing_programs()
    assert not missing, f"the test cluster needs {', '.join(missing)}"
    assert os.geteuid() == 0, "the test cluster is started by root"
    # Below /tmp itself: the name of a socket cannot be long.
    root = Path(tempfile.mkdtemp(prefix=PREFIX))
    cluster = Cluster(root)
    os.environ["SLURM_CONF"] = str(cluster.configuration)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()
        del os.environ["SLURM_CONF"]
        shutil.rmtree(root)


@dataclasses.dataclass
class Suite:
    """A study that ``snakemake --profile slurm`` makes in a results folder of its own."""

    cluster: Cluster
    results: Path
    scale: str | Path
    experiments: Path | None = None
    more: tuple[str, ...] = ()
    """Further words of --config."""

    @property
    def study(self) -> Study:
        """What it consists of."""
        return load(str(self.scale), None, self.experiments)

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return self.results / self.study.scale.name

    @property
    def output(self) -> Path:
        """What the Snakemakes have said, one after the other."""
        return self.results / "controller.log"

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a controller, as a user does."""
        self.results.mkdir(exist_ok=True)
        chosen = [f"experiments={self.experiments}"] if self.experiments else []
        words = [f"scale={self.scale}", f"results={self.results}", *chosen, *self.more]
        command = [
            *(sys.executable, "-m", "snakemake", *arguments, "--profile", "slurm"),
            *(*SOON, "--config", *words),
        ]
        outside = {"MAKELEVEL", "SNAKEMAKE_PROFILE", "ACDC_DATA", "MLFLOW_TRACKING_URI"}
        with self.output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={key: value for key, value in os.environ.items() if key not in outside},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def make(self, *arguments: str, status: int = 0) -> str:
        """Run a controller to its end and return what it has said."""
        self.results.mkdir(exist_ok=True)
        said = self.output.stat().st_size if self.output.exists() else 0
        assert self.start(*arguments).wait(timeout=900) == status, self.said()
        return self.output.read_text()[said:]

    def said(self) -> str:
        """Return the end of what the controllers have said."""
        return self.output.read_text()[-4000:]

    def run_folder(self, run: str) -> Path:
        """Return a run's folder."""
        return self.folder / "runs" / run

    def epochs(self, run: str) -> int:
        """Return how many epochs a run has behind it."""
        return len(self.record(run).journal.epochs)

    def result(self, run: str) -> dict[str, Any]:
        """Return a run's result."""
        result: dict[str, Any] = json.loads((self.run_folder(run) / "result.json").read_text())
        return result

    def record(self, run: str) -> RunRecord:
        """Return what a run has left in its folder."""
        return read_run(self.run_folder(run))

    def slurm_jobs(self, run: str) -> list[str | None]:
        """Return the SLURM job of each attempt at a run."""
        return [attempt.job for attempt in self.record(run).provenance]

    def attempts(self, run: str) -> list[str]:
        """Return the output of each attempt at the job of a run; its first line names the job."""
        first = self.study.seeds_of(run)[0]
        logs = (self.folder / "logs" / "train" / f"{name}.attempts.log" for name in (run, first))
        return next(path.read_text() for path in logs if path.exists()).split("== ")[1:]

    def jobs(self) -> dict[str, list[str]]:
        """Return the jobs that wait or run, by the first of their runs."""
        lines = self.cluster.run("squeue", "--noheader", "--format=%A|%j|%k")
        return read_queue(lines, job_name(self.folder))

    def accounted(self) -> list[dict[str, str]]:
        """Return what SLURM's accounts have of the jobs of this folder, one a job."""
        fields = ("JobName", "JobIDRaw", "Comment", "Partition", "AllocTRES", "TimelimitRaw")
        fields += ("State", "NNodes")
        wanted = ("sacct", "-aXnP", "--starttime=now-1hour", f"--format={','.join(fields)}")
        lines = self.cluster.run(*wanted).splitlines()
        rows = [dict(zip(fields, line.split("|"), strict=True)) for line in lines]
        return [row for row in rows if row["JobName"].startswith(job_name(self.folder))]

    def running(self) -> dict[str, list[str]]:
        """Return the jobs that run, by run."""
        lines = self.cluster.run("squeue", "-ht", "R", "--format=%A|%j|%k")
        return read_queue(lines, job_name(self.folder))

    def node_of(self, job: str) -> str:
        """Return the node on which a job runs."""
        return self.cluster.run("squeue", "-hj", job, "--format=%N").strip()

    def wait_for_epoch(self, run: str, epoch: int, seconds: float = 240) -> None:
        """Wait until a run has an epoch behind it."""
        wait_until(lambda: self.epochs(run) >= epoch, f"{run}: epoch {epoch}", seconds)


def train_alone(study: Study, run: str, runs: Path) -> None:
    """Train a run without SLURM and Snakemake."""
    config = runs / run / "config.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(study.runs[run].config))
    command = [sys.executable, "-m", "acdc", "train", str(config), "--threads", "1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Study], dict[str, Any]]:
    """Train the runs of a study without SLURM and Snakemake, and return their results by run."""
    runs = tmp_path_factory.mktemp("undisturbed")

    def train(study: Study) -> dict[str, Any]:
        names = study.runs
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: train_alone(study, name, runs), names))
        return {name: json.loads((runs / name / "result.json").read_text()) for name in names}

    return train


def same(result: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two results are of the same weights, bit for bit, and the same numbers."""
    return {**result, "timings": {}} == {**expected, "timings": {}}
