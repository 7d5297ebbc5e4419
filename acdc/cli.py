"""The library's commands: train runs, list the methods, verify the data sets."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from acdc.config.yaml_io import assign, parse_yaml
from acdc.console import CONTEXT, EPILOG, Lazy, PathName, Seconds, table
from acdc.errors import ConfigError, DeviceError, RunDirectoryError
from acdc.messages import config_error

if TYPE_CHECKING:
    from acdc.config.run import RunConfig
    from acdc.kernels.layers import Kernels
    from acdc.run.reader import Agreement, StepTime
    from acdc.training.state import Compile

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    cls=Lazy,
    lazy={"data": "acdc.data.command:data_command"},
    context_settings=CONTEXT,
    epilog=EPILOG,
)
@click.version_option(package_name="acdc-suite", prog_name="acdc")
def cli() -> None:
    """Sparse training of neural networks: AC/DC and its baselines."""


FILE = PathName(dir_okay=False, path_type=Path)
FOLDER = PathName(file_okay=False, path_type=Path)
COUNT, SECONDS = click.IntRange(1, 1024), Seconds()
KERNELS = click.Choice(["dense", "auto", "sparse"])
MODES = click.Choice(["off", "default", "reduce-overhead", "max-autotune"])

# Options as rows: name, type, default, help.
DESCRIPTION = (
    ("--model", str, None, "Architecture: resnet8_s2, resnet20, ...  [default: resnet8_s2]"),
    ("--dataset", str, None, "digits, fashion_mnist_10k, fashion_mnist, ...  [default: digits]"),
    ("--method", str, None, "dense, acdc, gmp, rigl, top_kast, ...  [default: acdc]"),
    ("--sparsity", float, None, "Fraction of zero weights, in [0, 1).  [default: 0.9, dense: 0]"),
    ("--epochs", int, None, "Passes over the training images.  [default: 20]"),
    ("--seed", int, None, "Seed of weights, data order and masks.  [default: 1]"),
)
"""Options that override keys of a run's configuration, named after them."""

EXECUTION = (
    ("--runs", FOLDER, "results/runs", "Folder of the run directories."),
    ("--threads", COUNT, None, "CPU threads.  [default: all cores]"),
    ("--device", str, None, "cpu, cuda or cuda:N.  [default: cuda if available]"),
    ("--processes", COUNT, 1, "Data-parallel processes of each run, one GPU each (torchrun)."),
    ("--nodes", COUNT, 1, "Nodes of this SLURM job that share the processes."),
    ("--at-once", COUNT, 1, "Train N runs at a time, in processes that share the device."),
    ("--compile", MODES, "off", "Mode of torch.compile; reduce-overhead uses CUDA graphs."),
    (
        "--kernels",
        KERNELS,
        "dense",
        "CPU: how masked layers multiply; auto times layers and steps.",
    ),
    ("--deterministic", bool, False, "On a GPU: bit-reproducible kernels only."),
    ("--workers", COUNT, 2, "Processes that decode images, for data sets in folders."),
    ("--checkpoint-interval", SECONDS, 600.0, "Longest training time between checkpoints, in s."),
    ("--wait", SECONDS, 0.0, "Seconds to wait for another process that trains the run."),
    ("--allow-failure", bool, False, "Exit 0 if a run diverges or would fail again; record it."),
    ("--receipt", FILE, None, "Write how the runs ended to this file, once all of them have."),
)
"""Options that change results by rounding at most."""


def _options(rows: Sequence[tuple[str, Any, Any, str]]) -> Callable[[F], F]:
    """Return a decorator that adds the options of a table, in its order."""

    def decorate(command: F) -> F:
        for name, kind, default, text in reversed(rows):
            flag = kind is bool
            shown = default is not None and not flag
            option = click.option(
                name, type=kind, is_flag=flag, default=default, show_default=shown, help=text
            )
            command = option(command)
        return command

    return decorate


class _Train(click.Command):
    """Says of an unknown option that is a key of the configuration how that is set."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from acdc.config.recipe import Recipe

            key = error.option_name.lstrip("-").replace("-", "_")
            places = {"precision": key, **{name: f"recipe.{name}" for name in Recipe.model_fields}}
            if key not in places:
                raise
            raise click.UsageError(
                f"No such option: {error.option_name}. Did you mean --set {places[key]}=VALUE?", ctx
            ) from None


@cli.command(cls=_Train, epilog=EPILOG)
@click.argument("files", nargs=-1, type=FILE, metavar="[CONFIG.yaml]...")
@_options(DESCRIPTION)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other key, such as recipe.lr=0.05 or settings.schedule=cifar-20; repeatable.",
)
@click.option("--seeds", metavar="N,N,...", help="Train a run for each of these seeds.")
@_options(EXECUTION)
def train(
    files: tuple[Path, ...],
    assignments: tuple[str, ...],
    seeds: str | None,
    runs: Path,
    processes: int,
    nodes: int,
    **options: Any,
) -> None:
    """Train runs, or resume them.

    Each CONFIG.yaml describes a run; options override its keys. Without a file the options and
    their defaults describe one. The file config.yaml of a run directory is trained there, any other
    in a directory below --runs that is named after the configuration. It holds the journal, the
    weights and, once the run has finished, result.json. A finished run is not trained again. On
    SIGTERM, SIGUSR1 or Ctrl-C a run saves a checkpoint and exits with status 75 (Ctrl-C: 130);
    rerun the same command to resume it.

    \b
    Examples:
      acdc train --method acdc --sparsity 0.9 --dataset digits
      acdc train --method rigl --set settings.distribution=erk --sparsity 0.95
      acdc methods        # the methods, and each method's settings
    """  # noqa: D301
    if options["threads"] is not None:
        # Read by OpenMP when torch is imported, which happens below.
        os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keys = {name: options.pop(name) for name in (row[0].strip("-") for row in DESCRIPTION)}
    targets = [
        target
        for file in files or (None,)
        for target in targets_of(file, describe(file, keys, assignments), seeds, runs)
    ]
    if processes % nodes:
        allowed = "1, or a divisor of --processes"
        raise config_error("--nodes", nodes, f"cannot share {processes} processes", allowed)
    if processes > 1 and "RANK" not in os.environ:
        from acdc.run.launch import exec_torchrun, run_on_nodes

        if nodes == 1:
            exec_torchrun(processes, sys.argv[1:])
        sys.exit(run_on_nodes(nodes, processes, sys.argv[1:]))
    sys.exit(_train(targets, **options))


def targets_of(
    file: Path | None, description: dict[str, Any], seeds: str | None, runs: Path
) -> Iterator[tuple[RunConfig, Path]]:
    """Yield the runs of a description, one a seed, each with the folder of its run directory.

    That is ``runs``, but for a file that is in its own run's directory.

    Raises:
        ConfigError: the description is wrong.
    """
    from acdc.config.run import parse_run

    for seed in [None] if seeds is None else several(seeds):
        try:
            config = parse_run(description | ({} if seed is None else {"seed": seed}))
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") if file else error from None
        own = None if file is None else file.absolute().parent
        yield config, own.parent if own is not None and own.name == config.run_name else runs


def _train(
    targets: Sequence[tuple[RunConfig, Path]],
    *,
    threads: int | None,
    device: str | None,
    at_once: int,
    compile: Compile,
    kernels: Kernels,
    deterministic: bool,
    workers: int,
    checkpoint_interval: float,
    wait: float,
    allow_failure: bool,
    receipt: Path | None,
) -> int:
    """Train runs and return the exit status; see the options of the same names."""
    import torch

    from acdc.distributed import from_environment, local_device
    from acdc.kernels.library import library
    from acdc.run.batch import Job, train_at_once, train_in_turn, write_receipt
    from acdc.run.lifecycle import Options
    from acdc.run.progress import Lines, Reporter, Silent, Terminal
    from acdc.training.state import Engine

    if threads is not None:
        torch.set_num_threads(threads)
    ranks = from_environment()
    where = torch.device(pick_device(local_device(pick_device(device))))
    engine = Engine(where, workers, compile, deterministic, kernels)
    if kernels == "auto" and library() is None and ranks.first:
        click.echo("no C++ compiler at installation: all layers multiply densely", err=True)
    options = Options(
        Path(),
        engine,
        checkpoint_interval_s=checkpoint_interval,
        wait_s=wait,
        allow_failure=allow_failure,
    )
    jobs = [Job(config, replace(options, runs=runs)) for config, runs in targets]
    if at_once > 1 and len(jobs) > 1:
        click.echo(f"{len(jobs)} runs, {at_once} at a time, share {where}", err=True)
        status = train_at_once(jobs, at_once)
    else:
        shown = Terminal if sys.stderr.isatty() else Lines
        reporter: Reporter = shown() if ranks.first else Silent()
        with ranks.joined(where):
            status = train_in_turn(jobs, reporter, ranks)
    if receipt is not None and ranks.first:
        write_receipt(receipt, [job.folder for job in jobs])
    return status


def several(text: str) -> list[int]:
    """Return the seeds of a text such as ``1,2,3``.

    Raises:
        ConfigError: it is no list of different integers.
    """
    parts = [part.strip() for part in text.split(",")]
    found = [int(part) for part in parts if part.isdecimal() and len(part) < 20]
    if len(set(found)) < len(parts):
        raise config_error("--seeds", text, "no list of seeds", "different integers, as in 1,2,3")
    return found


def describe(
    file: Path | None, options: dict[str, Any], assignments: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a run's description: defaults or a file, then options, then assignments."""
    data: Any = {"model": "resnet8_s2", "dataset": "digits", "method": "acdc", "epochs": 20}
    if file is not None:
        try:
            data = parse_yaml(file.read_bytes(), str(file))
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: holds no mapping of keys to values")
    data |= {key: value for key, value in options.items() if value is not None}
    assign(data, assignments)
    return {"sparsity": 0.0 if data.get("method") == "dense" else 0.9, **data}


def pick_device(name: str | None) -> str:
    """Return an available device, by default the first CUDA device, else the CPU.

    Raises:
        ConfigError: the device is not available.
        DeviceError: the job has a GPU that does not work.
    """
    import torch

    if name is None:
        if torch.cuda.is_available():
            return "cuda"
        if torch.version.cuda and os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise DeviceError(
                f"the GPU of this job (CUDA_VISIBLE_DEVICES) does not work on {platform.node()}. "
                "Exclude the node, or train on the CPU with --device cpu"
            )
        return "cpu"
    gpus = range(torch.cuda.device_count())  # of CUDA_VISIBLE_DEVICES
    there = ["cpu", *["cuda"][: len(gpus)], *(f"cuda:{i}" for i in gpus)]
    with contextlib.suppress(RuntimeError):
        if name in there:
            torch.empty(0, device=name)
            return name
    raise config_error("--device", name, "not available", there)


@cli.command("time")
@click.argument("folders", nargs=-1, required=True, type=FOLDER, metavar="RUN...")
@click.option("--threads", type=COUNT, help="CPU threads.  [default: all cores]")
def time_command(folders: tuple[Path, ...], threads: int | None) -> None:
    """Time training steps of finished runs, with sparse products and with dense ones.

    RUN is a run directory. Training measures this at its end; this measures it again, with the
    masks of the run's last checkpoint, and replaces the run's step_time.json.
    """
    import torch

    from acdc.run.step_time import remeasure

    if threads is not None:
        torch.set_num_threads(threads)
    rows = []
    for folder in folders:
        found = remeasure(folder)
        rows.append([folder.name, "no sparse products"] if found is None else _timed(folder, found))
    headings = ["run", "sparse layers", "dense (ms)", "sparse (ms)", "speed-up"]
    click.echo(table(headings, rows, [60, 18, 10, 11, 8]))


def _timed(folder: Path, found: StepTime) -> list[str]:
    layers = f"{found.sparse_layers} of {found.masked_layers}"
    times = f"{1e3 * found.dense_s:.2f}", f"{1e3 * found.sparse_s:.2f}", f"{found.speedup:.2f}"
    return [folder.name, layers, *times]


@cli.command()
@click.argument("pairs", nargs=-1, required=True, type=FOLDER, metavar="SPARSE DENSE...")
@click.option("--out", type=FILE, help="Write the numbers to this file as JSON.")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda if available]")
@click.option("--lenient", is_flag=True, help="Leave out pairs that cannot be compared.")
def agreement(pairs: tuple[Path, ...], out: Path | None, device: str | None, lenient: bool) -> None:
    """Compare what a sparse and a dense model predict for the test images.

    SPARSE and DENSE are directories of finished runs: of the first the sparse model is taken, of
    the second the dense one, both after the last epoch.
    """
    if len(pairs) % 2:
        raise config_error("SPARSE DENSE", len(pairs), "no pairs", "an even number of runs")
    import torch

    from acdc.files import write_json
    from acdc.run.agreement import compare

    where = torch.device(pick_device(device))
    found = []
    for pair in zip(pairs[::2], pairs[1::2], strict=True):
        try:
            found.append(compare(*pair, where))
        except RunDirectoryError as error:
            if not lenient:
                raise
            click.echo(f"left out: {error}", err=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, [each.model_dump(mode="json") for each in found])
    headings = ["sparse", "dense", "same class (%)", "95 % interval", "by class (%)"]
    headings += ["cross entropy", "of sparse"]
    rows = [[each.run, each.companion, *_compared(each)] for each in found]
    click.echo(table(headings, rows, [46, 46, 14, 14, 14, 13, 9]))


def _compared(found: Agreement) -> list[str]:
    """Return the cells of a pair, with Wilson's interval for drawing other test images."""
    from scipy.stats import binomtest

    same = binomtest(round(found.agreement * found.images), found.images)
    interval = same.proportion_ci(method="wilson")
    return [
        f"{100 * found.agreement:.2f}",
        f"{100 * interval.low:.2f} - {100 * interval.high:.2f}",
        f"{100 * min(found.by_class):.1f} - {100 * max(found.by_class):.1f}",
        *(f"{each:.3f}" for each in (found.cross_entropy, found.cross_entropy_of_sparse)),
    ]


@cli.command()
@click.argument("names", nargs=-1)
def methods(names: tuple[str, ...]) -> None:
    """List the methods, or print the settings and deviations of those that are named."""
    from acdc.methods.describe import reference, settings
    from acdc.methods.registry import get_method, method_names

    if not names:
        rows, broken = [], []
        for name in method_names():
            try:
                m = get_method(name)
            except ConfigError as error:
                broken.append(str(error))
                continue
            counts = len(settings(m)), len(m.deviations)
            rows.append([m.name, m.label, reference(m), m.flops_formula, *counts])
        headings = ["name", "label", "source", "training FLOPs, as published", "settings"]
        click.echo(table([*headings, "deviations"], rows, [12, 12, 32, 22, 8, 10]))
        click.echo("\nf: FLOPs of a forward pass. Details: acdc methods NAME...")
        if broken:
            raise ConfigError("; ".join(broken))
    for method in [get_method(name) for name in names]:
        click.echo(f"{method.name}  ({method.label})\n  {method.source}")
        click.echo(f"  Training FLOPs, as published: {method.flops_formula}\n")
        options = [[f"settings.{s.key}", s.default, s.description] for s in settings(method)]
        if options:
            click.echo(table(["setting", "default", "meaning"], options, [30, 14, 56]) + "\n")
        deviations = [[d.original, d.ours, d.why] for d in method.deviations]
        if deviations:
            click.echo(table(["original", "here", "why"], deviations, [33, 33, 34]) + "\n")
