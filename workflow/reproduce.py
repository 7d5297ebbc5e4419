"""``make reproduce``: run the workflow, show how far it is, and go on where it was interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psutil
from filelock import FileLock, Timeout

from acdc.errors import RunDirectoryError, SuiteError
from acdc.files import write_json
from acdc.run.failures import failures
from study.model import Study
from study.resolve import load
from workflow.state import RunState, States, clock

ROOT = Path(__file__).resolve().parent.parent

_POLL_S = 1.0
_LINE_EVERY_S = 15.0
# How long to wait for a suite that is just being stopped before saying that the folder is in use.
_LOCK_WAIT_S = 5.0
# What a run is given to finish its step and save a checkpoint, when a suite is stopped.
_SAVING_S = 20.0
# What follows the training (theory, tables, report), as a fraction of it, for the time left.
_REST = 0.14


class WorkflowError(SuiteError):
    """The workflow ended with failed jobs."""


@click.command()
@click.argument("scale", default="smoke")
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all results.",
)
@click.option("--cores", type=click.IntRange(1), help="Runs side by side.  [default: all cores]")
@click.argument("snakemake_arguments", nargs=-1, type=click.UNPROCESSED)
def reproduce(
    scale: str, results: Path, cores: int | None, snakemake_arguments: tuple[str, ...]
) -> None:
    """Make the study of SCALE (smoke, quick, small), from data to report.

    Goes on where it was interrupted, and does nothing where everything is made. Arguments after --
    are passed to Snakemake.
    """
    study = load(scale)
    folder = results / study.scale.name
    with sole_user(results):
        logs = folder / "logs"
        writable(logs)
        cleared_of_killed_suites(results)
        click.echo(f"{study.scale.title}: {len(study.runs)} runs; log in {logs / 'suite.log'}")
        command = [
            *(sys.executable, "-m", "acdc.run.forkserver"),
            *(sys.executable, "-m", "snakemake"),
            *("--snakefile", str(ROOT / "Snakefile")),
            *("--cores", str(cores or os.cpu_count() or 1)),
            *("--config", f"scale={scale}", f"results={results}"),
            # Reruns follow inputs and configurations, never the dates or text of source code.
            *("--rerun-triggers", "mtime", "params", "input"),
            *("--rerun-incomplete", "--keep-going", "--nocolor"),
            # The default solves an integer program over all waiting jobs whenever one has ended.
            *("--scheduler", "greedy"),
            *snakemake_arguments,
        ]
        status, nothing = _watched(command, study, folder, logs / "suite.log", results)
    if status:
        raise WorkflowError(_failures(logs / "suite.log", folder))
    if nothing:
        click.echo("Nothing to do: everything is made already.")
    for line in _made(study, folder):
        click.echo(line)


def writable(folder: Path) -> None:
    """Make a folder and a file in it.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"results folder {folder} cannot be written: {error.strerror}; "
            "give another with RESULTS=FOLDER (make) or --results FOLDER"
        ) from None


@contextmanager
def sole_user(results: Path) -> Iterator[None]:
    """Hold the results folder for one suite.

    Raises:
        RunDirectoryError: another suite is at work in it, or it cannot be written.
    """
    writable(results)
    lock = FileLock(results / ".lock")
    try:
        lock.acquire(timeout=_LOCK_WAIT_S, poll_interval=0.2)
    except Timeout:
        owner = _owner(results)
        raise RunDirectoryError(
            f"results folder {results} is in use by another suite "
            f"(process {owner.get('suite', 'unknown')}); wait for it to end, "
            "or give another folder with RESULTS=FOLDER (make) or --results FOLDER"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _owner(results: Path) -> dict[str, Any]:
    try:
        owner: dict[str, Any] = json.loads((results / ".owner.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return owner


def cleared_of_killed_suites(results: Path) -> None:
    """End the processes that a killed suite left behind, and free its Snakemake lock.

    Called while holding the results folder: whoever wrote the owner's file is no longer alive, but
    its Snakemake may be. Nothing is lost, since runs resume from their checkpoints.
    """
    owner = _owner(results)
    if not owner:
        return
    end_session(owner["snakemake"], owner["started"])
    for path in (Path(".snakemake") / "locks").glob("*.lock"):
        # Only this suite's own locks: they list files below its results folder, and others.
        try:
            files = path.read_text().splitlines()
        except OSError:
            continue
        if any(file.startswith(f"{results}/") for file in files):
            path.unlink(missing_ok=True)
    (results / ".owner.json").unlink(missing_ok=True)


def end_session(leader: int, started: float) -> None:
    """End what is alive of the session that a Snakemake led, also when it is dead itself.

    Runs are given the time to save a checkpoint.

    Args:
        leader: the process id of that Snakemake, and so the id of its session.
        started: when it started; whatever is older has got the id by chance.
    """
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.create_time() > started - 2:
                process.terminate()
                process.send_signal(signal.SIGCONT)
                members.append(process)
        except (psutil.Error, OSError):
            continue
    _, left = psutil.wait_procs(members, timeout=_SAVING_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)


class Progress:
    """How much of a study is done, measured in training images passed over.

    What had failed when this was made is tried again, and has not ended.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        self.images = {name: run.images for name, run in study.runs.items()}
        self.total = sum(self.images.values()) or 1
        epochs = {name: run.config["epochs"] for name, run in study.runs.items()}
        self.states = States(folder / "runs", epochs)
        self.failed_before = {name: self._failures(name) for name in study.runs}

    def measure(self) -> tuple[float, int, int]:
        """Return the fraction of training that needs doing no more, the runs ended and at work."""
        states = self.states.read()
        ended = {name for name, state in states.items() if self._has_ended(name, state)}
        done = sum(
            images * (1.0 if name in ended else states[name].share)
            for name, images in self.images.items()
        )
        at_work = sum(state.status == "running" for state in states.values())
        return done / self.total, len(ended), at_work

    def _has_ended(self, name: str, state: RunState) -> bool:
        if state.status == "failed" and self._failures(name) == self.failed_before[name]:
            return False
        return state.settled

    def _failures(self, name: str) -> int:
        return failures(self.states.runs / name)


def _watched(
    command: list[str], study: Study, folder: Path, log: Path, results: Path
) -> tuple[int, bool]:
    """Run Snakemake to its end, showing progress; return its status and whether it had work."""
    progress = Progress(study, folder)
    display = Bar() if sys.stderr.isatty() else Lines()
    before, _, _ = progress.measure()
    started = time.monotonic()
    # Snakemake gets a session of its own: it is stopped here, whoever is interrupted.
    with log.open("w") as output:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        snakemake = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    started_at = psutil.Process(snakemake.pid).create_time()
    write_json(
        results / ".owner.json",
        {"suite": os.getpid(), "snakemake": snakemake.pid, "started": started_at},
    )
    parent = os.getppid()
    # SIGINT too: a shell that starts a command in the background has it ignored.
    old = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while snakemake.poll() is None:
            done, finished, at_work = progress.measure()
            left = _time_left(before, done, time.monotonic() - started)
            display.show(done, finished, len(study.runs), at_work, left, _stage(log))
            time.sleep(_POLL_S)
            if "MAKELEVEL" in os.environ and os.getppid() != parent:
                raise KeyboardInterrupt  # make was killed: stop as it did
    except KeyboardInterrupt:
        display.close()
        cleared_of_killed_suites(results)
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    display.close()
    if snakemake.returncode < 0 or snakemake.returncode > 128:
        cleared_of_killed_suites(results)  # Snakemake itself was killed, and left its lock
    (results / ".owner.json").unlink(missing_ok=True)
    nothing = "Nothing to be done" in log.read_text(errors="replace")
    return snakemake.returncode, nothing


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _time_left(before: float, done: float, elapsed_s: float) -> float | None:
    """Return the seconds left at the speed so far, or none while nothing is known."""
    gained = done - before
    if gained <= 0 or elapsed_s < 5:
        return None
    return (1 - done + _REST) * elapsed_s / gained


def _stage(log: Path) -> str:
    """Return the name of the rule that was started last."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    rules = re.findall(r"^(?:local)?rule (\w+):", text, flags=re.MULTILINE)
    return rules[-1] if rules else "starting"


class Lines:
    """A plain line every so often, for a log."""

    def __init__(self) -> None:
        self.last = -_LINE_EVERY_S

    def show(
        self, done: float, finished: int, runs: int, at_work: int, left: float | None, stage: str
    ) -> None:
        if time.monotonic() - self.last < _LINE_EVERY_S:
            return
        self.last = time.monotonic()
        text = f"{finished} of {runs} runs done, {at_work} at work, {stage}"
        remaining = f", about {clock(left)} left" if left is not None else ""
        click.echo(f"{100 * done:3.0f} %  {text}{remaining}", err=True)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar, for a person at a terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=100, bar_format="{percentage:3.0f} % |{bar}| {postfix}")

    def show(
        self, done: float, finished: int, runs: int, at_work: int, left: float | None, stage: str
    ) -> None:
        self.bar.n = 100 * done
        remaining = f"about {clock(left)} left" if left is not None else "estimating the time"
        self.bar.set_postfix_str(
            f"{finished} of {runs} runs, {at_work} at work, {stage}; {remaining}"
        )

    def close(self) -> None:
        self.bar.close()


def _failures(log: Path, folder: Path) -> str:
    """Return what went wrong: the last line of each failed job's log, and why runs failed."""
    text = log.read_text(errors="replace")
    lines = []
    for name in dict.fromkeys(re.findall(r"^ +log: (\S+) \(check log", text, flags=re.MULTILINE)):
        try:
            content = [line for line in Path(name).read_text().splitlines() if line.strip()]
        except OSError:
            content = []
        reason = next((x for x in reversed(content) if x.startswith("error:")), None)
        reason = reason or (content[-1] if content else "ended without a word")
        lines.append(f"{Path(name).relative_to(folder / 'logs')}: {reason}")
    # Said at the end of a study, which goes on without them.
    lines += [": ".join(found) for found in re.findall(r"^(\S+) has failed: (.+)$", text, re.M)]
    if not lines:
        tail = [line for line in text.splitlines() if line.strip()][-5:]
        lines = tail or ["Snakemake ended without a word"]
    shown = "\n  ".join(lines[:5])
    more = f"\n  and {len(lines) - 5} more" if len(lines) > 5 else ""
    return (
        f"not everything could be made; what was computed is kept, and the same command goes on.\n"
        f"  {shown}{more}\n  all of it: {log}"
    )


def _made(study: Study, folder: Path) -> Iterator[str]:
    """Yield the paths of what a study makes, those that are there."""
    paths = [("report", folder / "report.html")]
    paths += [("tables", folder / "tables"), ("figures", folder / "figures")]
    paths += [("data", folder / "tables" / "runs.csv"), ("runs", folder / "runs")]
    for what, path in paths:
        if path.exists():
            yield f"  {what:7} {path}"
    told, store = folder / "tracking.txt", folder / "mlflow.db"
    if told.exists():
        yield f"  {'MLflow':7} {told.read_text(encoding='utf-8').partition(chr(10))[0]}"
    elif store.exists():
        yield f"  {'MLflow':7} {store}"
