"""``acdc status``: the matrix of a study's runs on the terminal, from its results folder alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from tabulate import tabulate

from acdc.console import RESULTS, Seconds
from acdc.messages import duration
from acdc.run.result import RESULT
from study.jobs import possible_jobs
from study.model import STUDY, ReportError, Study, read_study
from workflow.state import RunState, Status, read_state, written

COLOURS: dict[Status, dict[str, Any]] = {
    "running": {"fg": "cyan", "bold": True},
    "stopped": {"fg": "yellow"},
    "queued": {"dim": True},
    "done": {"fg": "green"},
    "diverged": {"fg": "magenta"},
    "failed": {"fg": "red", "bold": True},
}


@dataclass(frozen=True)
class Entry:
    """One run of a study and its place in the matrix."""

    run: str
    label: str
    """Of the first row of a table or figure that shows it."""
    method: str
    """With its variant, as in the run's name."""
    task: str
    model: str
    dataset: str
    sparsity: float
    seed: int
    line: str
    """The first of the runs that differ in the seed only, which share a line of the matrix."""
    epochs: int
    images: int
    """Training images that it passes over, the measure of its cost."""


def entries(study: Study) -> list[Entry]:
    """Return the runs of a study in the order in which they are shown: by task, row, sparsity."""
    rows: dict[str, tuple[str, str]] = {}
    tasks: dict[tuple[str, str], str] = {}
    for row in (row for experiment in study.experiments for row in experiment.all_rows):
        tasks.setdefault((row.task.model, row.task.dataset), row.task.name)
        for name in row.runs:
            rows.setdefault(name, (row.task.name, row.label))
        for name in row.fine_tuned:
            rows.setdefault(name, (row.task.name, f"{row.label}, fine-tuned"))
    found = []
    for name, run in study.runs.items():
        config = run.config
        model, dataset, seed = config["model"], config["dataset"], config["seed"]
        end = f"_s{100 * config['sparsity']:g}_seed{seed}-{name.rpartition('-')[2]}"
        # The parent of a run need not be in any row.
        task, label = rows.get(name) or (tasks.get((model, dataset), ""), config["method"])
        found.append(
            Entry(
                run=name,
                label=label,
                method=name.removeprefix(f"{model}_{dataset}_").removesuffix(end),
                task=task,
                model=model,
                dataset=dataset,
                sparsity=config["sparsity"],
                seed=seed,
                line=study.seeds_of(name)[0],
                epochs=config["epochs"],
                images=run.images,
            )
        )
    labels = list(dict.fromkeys(label for _, label in rows.values()))
    places = {label: place for place, label in enumerate(labels)}
    order = list(dict.fromkeys([*(task for task, _ in rows.values()), *tasks.values(), ""]))
    return sorted(
        found,
        key=lambda e: (order.index(e.task), places.get(e.label, len(places)), e.sparsity, e.method),
    )


@dataclass(frozen=True)
class Overview:
    """A study at one moment."""

    title: str
    folder: Path
    entries: Sequence[Entry]
    states: Mapping[str, RunState]
    jobs: Mapping[str, Sequence[str]]
    """The jobs that may have trained each run, those of fewer runs first."""

    @property
    def counts(self) -> dict[Status, int]:
        """The number of runs in each state."""
        found = Counter(state.status for state in self.states.values())
        return {status: found[status] for status in get_args(Status)}

    @property
    def resumed(self) -> int:
        """The number of runs that were resumed."""
        return sum(state.resumed > 0 for state in self.states.values())

    @property
    def done(self) -> float:
        """The fraction of the training that is done, measured in images."""
        total = sum(entry.images for entry in self.entries) or 1
        undone = sum(entry.images * (1 - self.states[entry.run].share) for entry in self.entries)
        return 1 - undone / total

    @property
    def left_s(self) -> float | None:
        """Seconds left at the present pace; None if nothing runs or no pace is known yet.

        Runs whose pace is not known yet are taken to be as fast as the others on average. Runs that
        train on no image count for no speed.
        """
        running = [
            entry
            for entry in self.entries
            if self.states[entry.run].status == "running" and entry.images
        ]
        paces = [(entry, self.states[entry.run].pace_s) for entry in running]
        known = [entry.images / entry.epochs / pace for entry, pace in paces if pace]
        speed = sum(known) * len(running) / len(known) if known else 0.0
        if speed == 0:
            return None
        left = sum(entry.images * self.states[entry.run].left for entry in self.entries)
        longest = max(state.left_s or 0.0 for state in self.states.values())
        return max(left / speed, longest)

    def shown(self, only: Status | None) -> list[Entry]:
        """Return the entries in one state, or all."""
        return [e for e in self.entries if only in (None, self.states[e.run].status)]

    def log(self, run: str) -> Path | None:
        """Return the log of the job that trained a run, if there is one."""
        paths = (self.folder / "logs" / "train" / f"{job}.log" for job in self.jobs[run])
        return next((path for path in paths if path.exists()), None)


class Watch:
    """Looks at a study again and again; the result of a run that has ended is read once."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.title, self.folder = study.scale.title, folder
        self.entries, self.jobs = entries(study), possible_jobs(study)
        self._ended: dict[str, tuple[int, RunState]] = {}

    def look(self) -> Overview:
        """Return the study as it is now."""
        states = {entry.run: self._read(entry) for entry in self.entries}
        return Overview(self.title, self.folder, self.entries, states, self.jobs)

    def _read(self, entry: Entry) -> RunState:
        folder = self.folder / "runs" / entry.run
        result = written(folder / RESULT)
        before, known = self._ended.get(entry.run, (0, None))
        if known is not None and before == result:
            return known
        state = read_state(folder, entry.epochs)
        if result and state.status in ("done", "diverged"):
            self._ended[entry.run] = result, state
        return state


def cell(state: RunState) -> str:
    """Return the state of a run in a few words, and on a second line the job that trains it."""
    at = f"{state.epoch}/{state.epochs}"
    words = {
        "running": at,
        "stopped": f"stopped at {at}",
        "diverged": f"diverged at {state.epoch}",
    }.get(state.status, state.status)
    if state.left_s is not None:
        words += f", {duration(state.left_s)} left"
    if state.resumed:
        words += f" (resumed {state.resumed}x)"
    if state.status == "running" and state.job:
        words += f"\njob {state.job}, {state.host}"
    return words


def show(overview: Overview, only: Status | None = None) -> Iterator[str]:
    """Yield the matrix as coloured text: a table for each task, errors, totals.

    Args:
        overview: of the study.
        only: the one state to show; the totals are those of all runs.
    """
    yield f"{overview.title}: {len(overview.entries)} runs in {overview.folder}"
    shown = overview.shown(only)
    for task in dict.fromkeys(entry.task for entry in shown):
        members = [entry for entry in shown if entry.task == task]
        yield f"\n{task}: {members[0].model} on {members[0].dataset}"
        yield _matrix(members, overview.states)
    yield ""
    for entry in shown:
        state, log = overview.states[entry.run], overview.log(entry.run)
        if state.error:
            yield f"{entry.run}: {state.status}\n  {state.error}"
            yield f"  log: {log}\n" if log else ""
    yield summary(overview)


def _matrix(members: Sequence[Entry], states: Mapping[str, RunState]) -> str:
    """Return the table of one task, a column per seed."""
    lines: dict[str, dict[int, Entry]] = {}
    for entry in members:
        lines.setdefault(entry.line, {})[entry.seed] = entry
    seeds = sorted({entry.seed for entry in members})
    rows = []
    for line in lines.values():
        first = next(iter(line.values()))
        cells = [_coloured(states[line[seed].run]) if seed in line else "" for seed in seeds]
        rows.append([first.label, first.method, f"{100 * first.sparsity:g} %", *cells])
    headings = ["", "method", "sparsity", *(f"seed {seed}" for seed in seeds)]
    alignment = ("left", "left", "right", *("left" for _ in seeds))
    return str(tabulate(rows, headings, disable_numparse=True, colalign=alignment))


def _coloured(state: RunState) -> str:
    words = cell(state).split("\n")
    return "\n".join(click.style(line, **COLOURS[state.status]) for line in words)


def summary(overview: Overview) -> str:
    """Return the progress of a study in one sentence."""
    counts = [f"{count} {status}" for status, count in overview.counts.items() if count]
    if overview.resumed:
        counts.append(f"{overview.resumed} of all resumed")
    # Rounded down: 100 once the last run has ended.
    text = f"{', '.join(counts)}; {int(100 * overview.done)} % of the training is done"
    if overview.left_s is not None:
        text += f", about {duration(overview.left_s)} left at the present pace"
    return text


def plain(overview: Overview, only: Status | None = None) -> dict[str, Any]:
    """Return what ``show`` shows as plain data."""
    runs = []
    for entry in overview.shown(only):
        state, log = overview.states[entry.run], overview.log(entry.run)
        about = {**dataclasses.asdict(entry), **dataclasses.asdict(state)}
        runs.append({**about, "log": str(log) if log else None, "text": cell(state)})
    return {
        "title": overview.title,
        "folder": str(overview.folder),
        "runs": runs,
        "counts": overview.counts,
        "resumed": overview.resumed,
        "done": overview.done,
        "left_s": overview.left_s,
    }


def find_study(scale: str, results: Path, seeds: int | None, experiments: str | None) -> Study:
    """Return the study that the workflow has written, else resolve it.

    Args:
        scale: a name, or the path of a file.
        results: the folder of all results.
        seeds: number of seeds per row; if given, the study is resolved.
        experiments: their folder; likewise.

    Raises:
        ConfigError: no such scale.
    """
    if seeds is None and experiments is None and (results / scale / STUDY).is_file():
        try:
            return read_study(results / scale)
        except ReportError as error:
            click.echo(f"warning: {error}", err=True)
    # Imports torch, which takes seconds.
    from study.resolve import load

    return load(scale, seeds, experiments)


@click.command()
@click.option(
    "--scale", default="smoke", show_default=True, help="smoke, quick, laptop, small, paper."
)
@RESULTS
@click.option("--seeds", type=click.IntRange(1), help="Number of seeds per row (1..N).")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--only", type=click.Choice(get_args(Status)), help="Show runs in one state only.")
@click.option("--watch", type=Seconds(positive=True), help="Refresh every N seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(
    scale: str,
    results: Path,
    seeds: int | None,
    experiments: str | None,
    only: Status | None,
    watch: float | None,
    as_json: bool,
) -> None:
    """Show the progress of each run of a study, and why runs failed.

    Reads the folders of the runs and nothing else. Without --seeds and --experiments, the study is
    the one that study.json in its folder describes, if the workflow has written it.
    """
    study = find_study(scale, results, seeds, experiments)
    look = Watch(study, results / study.scale.name).look
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            overview = look()
            text = json.dumps(plain(overview, only)) if as_json else "\n".join(show(overview, only))
            if watch is not None:
                click.clear()
            click.echo(text)
            if watch is None:
                break
            time.sleep(watch)
