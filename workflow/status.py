"""``acdc status``: the matrix of a study's runs on the terminal, from its results folder alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from tabulate import tabulate

from study.model import STUDY, Study, read_study
from workflow.state import RunState, States, Status, clock

COLOURS: dict[Status, dict[str, Any]] = {
    "running": {"fg": "cyan", "bold": True},
    "stopped": {"fg": "yellow"},
    "queued": {"dim": True},
    "done": {"fg": "green"},
    "diverged": {"fg": "magenta"},
    "failed": {"fg": "red", "bold": True},
}
_WIDTH = 120
_CELL, _NARROWEST_CELL = 19, 10
_GAP = 2


@dataclass(frozen=True)
class Entry:
    """One run of a study, and where it stands in the matrix."""

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
    cell: str
    """The first run of its configuration: what a line of the matrix shares."""
    epochs: int
    images: int
    """Training images that it passes over, the measure of its cost."""


def entries(study: Study) -> list[Entry]:
    """Return the runs of a study in the order in which they are shown."""
    labels: dict[str, str] = {}
    tasks: dict[tuple[str, str], str] = {}
    named: dict[str, str] = {}
    for row in (row for experiment in study.experiments for row in experiment.all_rows):
        if row.task is None:
            continue
        tasks.setdefault((row.task.model, row.task.dataset), row.task.name)
        tuned = f"{row.label}, fine-tuned"
        for runs, label in ((row.runs, row.label), (row.fine_tuned, tuned)):
            for run in runs:
                labels.setdefault(run, label)
                named.setdefault(run, row.task.name)
    found = []
    for name, about in study.runs.items():
        config = about.config
        model, dataset, seed = config["model"], config["dataset"], config["seed"]
        end = f"_s{100 * config['sparsity']:g}_seed{seed}-{name.rpartition('-')[2]}"
        found.append(
            Entry(
                run=name,
                # What others start from need not be shown itself.
                label=labels.get(name, config["method"]),
                method=name.removeprefix(f"{model}_{dataset}_").removesuffix(end),
                task=named.get(name, tasks[model, dataset]),
                model=model,
                dataset=dataset,
                sparsity=config["sparsity"],
                seed=seed,
                cell=study.seeds_of(name)[0],
                epochs=config["epochs"],
                images=about.images,
            )
        )
    order = {label: place for place, label in enumerate(dict.fromkeys(labels.values()))}
    places = {task: place for place, task in enumerate(dict.fromkeys(named.values()))}
    return sorted(
        found,
        key=lambda e: (places[e.task], order.get(e.label, len(order)), e.sparsity, e.method),
    )


@dataclass(frozen=True)
class Overview:
    """A study at one moment."""

    title: str
    folder: Path
    entries: Sequence[Entry]
    states: Mapping[str, RunState]

    @property
    def counts(self) -> dict[Status, int]:
        """How many runs are in each state."""
        found = Counter(state.status for state in self.states.values())
        return {status: found[status] for status in get_args(Status)}

    @property
    def resumed(self) -> int:
        """How many runs were resumed, once or more."""
        return sum(state.resumed > 0 for state in self.states.values())

    @property
    def done(self) -> float:
        """The fraction of the training that is done, measured in images."""
        total = sum(entry.images for entry in self.entries) or 1
        undone = sum(entry.images * (1 - self.states[entry.run].share) for entry in self.entries)
        return 1 - undone / total

    @property
    def left_s(self) -> float | None:
        """Seconds left at the present pace; none where nothing runs, or no pace is known yet.

        Runs whose pace is not known yet are taken to be as fast as the others together; those that
        pass over no image tell of no speed.
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

    def log(self, run: str) -> Path | None:
        """Return the log of a run's latest attempt, if there is one."""
        logs = (self.folder / "logs" / "train" / run).glob("attempt-*.log")
        # Two digits, or more.
        return max(logs, key=lambda path: (len(path.name), path.name), default=None)


def cell(state: RunState) -> str:
    """Return what a run is at, in few words, and on a second line which job is at work at it."""
    words = _at(state)
    if state.left_s is not None:
        words += f", {clock(state.left_s)} left"
    if state.resumed:
        words += f" (resumed {state.resumed}x)"
    if state.status == "running" and state.job:
        words += f"\njob {state.job}, {state.host}"
    return words


def _at(state: RunState) -> str:
    at = f"{state.epoch}/{state.epochs}"
    words = {
        "running": at,
        "stopped": f"stopped at {at}",
        "diverged": f"diverged at {state.epoch}",
    }
    return words.get(state.status, state.status)


def show(overview: Overview, width: int = _WIDTH, only: Status | None = None) -> Iterator[str]:
    """Yield the matrix as coloured text: a table for each task, failures, totals.

    Args:
        overview: of the study.
        width: of the terminal, in columns.
        only: the one state to show; the totals are those of all runs.
    """
    heading = f"{overview.title}: {len(overview.entries)} runs in {overview.folder}"
    yield textwrap.fill(heading, width, break_on_hyphens=False)
    shown = [e for e in overview.entries if only in (None, overview.states[e.run].status)]
    for task in dict.fromkeys(entry.task for entry in shown):
        members = [entry for entry in shown if entry.task == task]
        heading = f"{task}: {members[0].model} on {members[0].dataset}"
        yield "\n" + textwrap.fill(heading, width, break_on_hyphens=False)
        yield from _matrix(members, overview.states, width)
    yield ""
    yield from _errors(overview, shown, width)
    yield from textwrap.wrap(summary(overview), width)


def _matrix(members: Sequence[Entry], states: Mapping[str, RunState], width: int) -> Iterator[str]:
    """Yield one task's lines, a column a seed, in several tables where they are too many."""
    lines: dict[str, dict[int, Entry]] = {}
    for entry in members:
        lines.setdefault(entry.cell, {})[entry.seed] = entry
    firsts = {key: next(iter(line.values())) for key, line in lines.items()}
    seeds = sorted({entry.seed for entry in members})
    left = width - len("  sparsity")
    label = _column([first.label for first in firsts.values()], width // 5)
    left -= _width(label) + _GAP
    spare = left - min(len(seeds), 3) * (_CELL + _GAP) - _GAP
    method = _column([first.method for first in firsts.values()], max(width // 6, spare))
    left -= _width(method) + _GAP
    fitting = max(1, left // (_NARROWEST_CELL + _GAP))
    for first in range(0, len(seeds), fitting):
        block = seeds[first : first + fitting]
        widest = max(_NARROWEST_CELL, left // len(block) - _GAP)
        rows = [
            [name, how, f"{100 * firsts[key].sparsity:g} %"]
            + [_painted(states[line[s].run], widest) if s in line else "" for s in block]
            for (key, line), name, how in zip(lines.items(), label, method, strict=True)
        ]
        yield tabulate(
            rows,
            ["", "method", "sparsity", *(f"seed {seed}" for seed in block)],
            disable_numparse=True,
            colalign=("left", "left", "right", *("left" for _ in block)),
        )


def _column(texts: Sequence[str], width: int) -> list[str]:
    """Return texts wrapped to a width."""
    return [textwrap.fill(text, max(width, _NARROWEST_CELL)) for text in texts]


def _width(column: Sequence[str]) -> int:
    return max(len(line) for text in column for line in text.split("\n"))


def _painted(state: RunState, width: int) -> str:
    """Return the words for a run, wrapped to a width, in colour."""
    lines = [
        part
        for line in cell(state).split("\n")
        for part in textwrap.wrap(line, width, break_on_hyphens=False)
    ]
    return "\n".join(click.style(line, **COLOURS[state.status]) for line in lines)


def _errors(overview: Overview, shown: Sequence[Entry], width: int) -> Iterator[str]:
    """Yield what has ended runs, the sentences with their logs."""
    found = [entry for entry in shown if overview.states[entry.run].error]
    for entry in found:
        state, log = overview.states[entry.run], overview.log(entry.run)
        lines = [f"{entry.run}: {_at(state)}", f"  {state.error}"]
        for line in [*lines, f"  log: {log}"] if log else lines:
            # What a person may want to copy stays in one piece.
            yield textwrap.fill(
                line,
                width,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    if found:
        yield ""


def summary(overview: Overview) -> str:
    """Return how far a study is, in one sentence."""
    counts = [f"{count} {status}" for status, count in overview.counts.items() if count]
    if overview.resumed:
        counts.append(f"{overview.resumed} of all resumed")
    # Not 100 before the last one has ended.
    text = f"{', '.join(counts)}; {int(100 * overview.done)} % of the training is done"
    if overview.left_s is not None:
        text += f", about {clock(overview.left_s)} left at the present pace"
    return text


def plain(overview: Overview, only: Status | None = None) -> dict[str, Any]:
    """Return what the matrix shows as plain data; see ``show``."""
    runs = []
    for entry in overview.entries:
        state = overview.states[entry.run]
        if only in (None, state.status):
            about = dataclasses.asdict(entry)
            del about["cell"], about["images"]
            log = overview.log(entry.run)
            state_of = {**dataclasses.asdict(state), "log": str(log) if log else None}
            runs.append({**about, **state_of, "text": cell(state)})
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
        seeds: for each row; where given, the study is resolved.
        experiments: their folder; likewise.

    Raises:
        ConfigError: there is no such scale.
        ReportError: study.json is damaged.
    """
    if seeds is None and experiments is None and (results / scale / STUDY).is_file():
        return read_study(results / scale)
    # Imports torch, which takes seconds.
    from study.resolve import load

    return load(scale, seeds, experiments)


@click.command()
@click.option("--scale", default="smoke", show_default=True, help="smoke, quick, small, paper.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder of all results.",
)
@click.option("--seeds", type=click.IntRange(1), help="So many for each row, from 1 on.")
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--only", type=click.Choice(get_args(Status)), help="Only runs in one state.")
@click.option(
    "--watch", type=click.FloatRange(0, min_open=True), help="Again every so many seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
def status(
    scale: str,
    results: Path,
    seeds: int | None,
    experiments: str | None,
    only: Status | None,
    watch: float | None,
    as_json: bool,
) -> None:
    """Show how far each run of a study is, and why those that failed did.

    Reads the folders of the runs and asks nobody else. Without --seeds and --experiments, the study
    is the one that study.json in its folder describes, if the workflow has written it.
    """
    study = find_study(scale, results, seeds, experiments)
    folder = results / study.scale.name
    found = entries(study)
    states = States(folder / "runs", {entry.run: entry.epochs for entry in found})
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            overview = Overview(study.scale.title, folder, found, states.read())
            if as_json:
                text = json.dumps(plain(overview, only))
            else:
                width = shutil.get_terminal_size((_WIDTH, 24)).columns
                text = "\n".join(show(overview, width, only))
            if watch is not None:
                click.clear()
            click.echo(text)
            if watch is None:
                break
            time.sleep(watch)
