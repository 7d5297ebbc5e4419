"""``make reproduce``: run the workflow, show its progress, and resume it after an interruption."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import click

from acdc.console import RESULTS
from acdc.errors import SuiteError
from acdc.messages import duration
from study.resolve import load
from workflow.status import Overview, Watch
from workflow.suite import HOLDER, SoleSuite

ROOT = Path(__file__).resolve().parent.parent

_POLL_S = 1.0
_LINE_EVERY_S = 15.0
# How long to wait for another suite that is just ending.
_WAIT_S = 5.0
# Time for runs to finish a step and save a checkpoint when the suite is stopped.
_SAVING_S = 20.0
# The time after the training (theory, tables, report), as a fraction of it.
_REST = 0.14


class WorkflowError(SuiteError):
    """The workflow ended with failed jobs."""


@click.command()
@click.argument("scale", default="smoke")
@RESULTS
@click.option("--cores", type=click.IntRange(1), help="Jobs at a time.  [default: all cores]")
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds per row (1..N).")
@click.option("--gpus", type=click.IntRange(1), help="GPUs to use, a job each.  [default: all]")
@click.argument("snakemake_arguments", nargs=-1, type=click.UNPROCESSED)
def reproduce(
    scale: str,
    results: Path,
    cores: int | None,
    seeds: int | None,
    gpus: int | None,
    snakemake_arguments: tuple[str, ...],
) -> None:
    """Make the study of SCALE (smoke, quick, laptop, small), from data to report.

    Resumes after an interruption, and does nothing if everything is up to date. Arguments after --
    are passed to Snakemake.
    """
    study = load(scale, seeds)
    folder = results / study.scale.name
    SoleSuite(folder).enter(_WAIT_S)
    log = folder / "logs" / "suite.log"
    log.parent.mkdir(exist_ok=True)
    click.echo(f"{study.scale.title}: {len(study.runs)} runs; log in {log}")
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--cores", str(cores or os.cpu_count() or 1)),
        *("--config", f"scale={scale}", f"results={results}"),
        *([f"seeds={seeds}"] if seeds else []),
        *([f"gpus={gpus}"] if gpus else []),
        "--nocolor",
        *snakemake_arguments,
    ]
    status = _watch(command, Watch(study, folder), log)
    if status:
        raise WorkflowError(_failures(log, folder))
    if "Nothing to be done" in log.read_text(errors="replace"):
        click.echo("Nothing to do: everything is up to date.")
    for line in _outputs(folder):
        click.echo(line)


def _watch(command: Sequence[str], watch: Watch, log: Path) -> int:
    """Run Snakemake to its end, showing the progress, and return its exit status.

    Snakemake has a session of its own, so that only this process stops it; it ends with this one.
    """
    display = Bar() if sys.stderr.isatty() else Lines()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), HOLDER: str(os.getpid())}
    with log.open("w") as output:
        snakemake = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    started, before, parent = time.monotonic(), watch.look().done, os.getppid()
    # SIGINT, too: a shell that starts a command in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        while snakemake.poll() is None:
            now = watch.look()
            left = _time_left(before, now.done, time.monotonic() - started)
            display.show(now.done, _words(now, _stage(log), left))
            time.sleep(_POLL_S)
            if "MAKELEVEL" in os.environ and os.getppid() != parent:
                raise KeyboardInterrupt  # make was killed
    except KeyboardInterrupt:
        display.close()
        _stop(snakemake)
        click.echo("interrupted; rerun the same command to resume", err=True)
        sys.exit(130)
    display.close()
    if snakemake.returncode < 0:
        _stop(snakemake)  # it was killed; its jobs were not
    return snakemake.returncode


def _stop(snakemake: subprocess.Popen[bytes]) -> None:
    """End Snakemake, which passes the signal on to the runs; they save checkpoints.

    Jobs of a Snakemake that was killed, and what is left after a while, are in its process group.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            if snakemake.poll() is None and number is signal.SIGTERM:
                snakemake.terminate()
            else:
                os.killpg(snakemake.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _SAVING_S
        while _has_members(snakemake.pid) and time.monotonic() < deadline:
            snakemake.poll()
            time.sleep(0.1)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _time_left(before: float, done: float, elapsed_s: float) -> float | None:
    """Return the seconds left at the speed so far; None while it is unknown."""
    gained = done - before
    if gained <= 0 or elapsed_s < 5:
        return None
    return (1 - done + _REST) * elapsed_s / gained


def _stage(log: Path) -> str:
    """Return the name of the rule that was started last."""
    rules = re.findall(r"^(?:local)?rule (\w+):", log.read_text(errors="replace"), re.MULTILINE)
    return rules[-1] if rules else "starting"


def _words(now: Overview, stage: str, left_s: float | None) -> str:
    """Return the progress in words."""
    ended = sum(now.counts[status] for status in ("done", "diverged", "failed"))
    left = f"about {duration(left_s)} left" if left_s is not None else "estimating the time"
    running = now.counts["running"]
    return f"{ended} of {len(now.entries)} runs, {running} running, {stage}; {left}"


class Lines:
    """Shows the progress as a plain line from time to time, for a log."""

    def __init__(self) -> None:
        self.last = -_LINE_EVERY_S

    def show(self, done: float, text: str) -> None:
        if time.monotonic() - self.last >= _LINE_EVERY_S:
            self.last = time.monotonic()
            click.echo(f"{100 * done:3.0f} %  {text}", err=True)

    def close(self) -> None:
        pass


class Bar:
    """Shows the progress as a bar, for a terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=100, bar_format="{percentage:3.0f} % |{bar}| {postfix}")

    def show(self, done: float, text: str) -> None:
        self.bar.n = 100 * done
        self.bar.set_postfix_str(text)

    def close(self) -> None:
        self.bar.close()


def _failures(log: Path, folder: Path) -> str:
    """Return what failed: the last line of each failed job's log, and the errors of failed runs."""
    text = log.read_text(errors="replace")
    lines = []
    for name in dict.fromkeys(re.findall(r"^ +log: (\S+) \(check log", text, flags=re.MULTILINE)):
        content: list[str] = []
        if Path(name).is_file():
            content = [line for line in Path(name).read_text().splitlines() if line.strip()]
        reason = next((line for line in reversed(content) if line.startswith("error:")), None)
        reason = reason or (content[-1] if content else "no output")
        lines.append(f"{Path(name).relative_to(folder / 'logs')}: {reason}")
    # Snakemake's own errors: the study ended with failed runs, or did not start.
    lines += [": ".join(found) for found in re.findall(r"^(\S+) has failed: (.+)$", text, re.M)]
    lines = lines or re.findall(r"^error: (.+)$", text, re.M)
    lines = lines or [line for line in text.splitlines() if line.strip()][-5:]
    shown = "\n  ".join(lines[:5])
    more = f"\n  and {len(lines) - 5} more" if len(lines) > 5 else ""
    remedy = "not everything could be made. Rerun the same command to resume."
    return f"{remedy}\n  {shown}{more}\n  log: {log}"


def _outputs(folder: Path) -> Iterator[str]:
    """Yield the paths of a study's outputs, those that exist."""
    paths = [("report", folder / "report.html")]
    paths += [("tables", folder / "tables"), ("figures", folder / "figures")]
    paths += [("data", folder / "tables" / "runs.csv"), ("runs", folder / "runs")]
    for what, path in paths:
        if path.exists():
            yield f"  {what:7} {path}"
    claims = folder / "tables" / "claims.csv"
    if claims.exists():
        with claims.open(encoding="utf-8", newline="") as file:
            found = Counter(line["verdict"] for line in csv.DictReader(file))
        said = ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())
        yield f"  {'claims':7} {said}, of {found.total()}"
    tracking, store = folder / "tracking.txt", folder / "mlflow.db"
    if tracking.exists():
        yield f"  {'MLflow':7} {tracking.read_text(encoding='utf-8').partition(chr(10))[0]}"
    elif store.exists():
        yield f"  {'MLflow':7} {store}"
