"""The command line: train one run, list the methods, run the theory's experiments."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

from acdc.config.yaml_io import assign, parsed
from acdc.console import CONTEXT, Lazy, table
from acdc.errors import ConfigError, DeviceError, SuiteError


@click.group(cls=Lazy, lazy={"data": "acdc.data.command:data_command"}, context_settings=CONTEXT)
def cli() -> None:
    """Sparse training of neural networks: AC/DC and its baselines."""


@cli.command()
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML description of the run; the options below override it.",
)
@click.option("--model", help="Architecture: resnet8_s2, resnet20, ...  [default: resnet8_s2]")
@click.option(
    "--dataset",
    help="digits, fashion_mnist_10k, fashion_mnist, ...  [default: digits]",
)
@click.option("--method", help="dense, acdc, gmp, rigl, top_kast, ...  [default: acdc]")
@click.option(
    "--sparsity", type=float, help="Fraction of zero weights, in [0, 1).  [default: 0.9, dense: 0]"
)
@click.option("--epochs", type=int, help="Passes over the training images.  [default: 20]")
@click.option("--seed", type=int, help="Seed of weights, data order and masks.  [default: 1]")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other key, such as recipe.lr=0.05 or settings.schedule=cifar-20; repeatable.",
)
@click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Folder of the run directories.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: all cores]")
@click.option("--device", help="cpu, cuda or cuda:N.  [default: cuda where there is one]")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    help="Share each batch among so many processes, one GPU each where there are GPUs.",
)
@click.option(
    "--nodes",
    type=click.IntRange(1),
    default=1,
    help="Nodes of this SLURM job among which the processes are shared out, by torchrun.",
)
@click.option(
    "--seeds",
    metavar="N,N,...",
    help="Train several seeds, each a run and a process of its own.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many of the seeds share the device at a time.",
)
@click.option(
    "--compile",
    type=click.Choice(["off", "default", "reduce-overhead", "max-autotune"]),
    default="off",
    help="torch.compile's mode; reduce-overhead uses CUDA graphs.  [default: off]",
)
@click.option("--deterministic", is_flag=True, help="On a GPU: the same bits every time.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Processes that decode images, for data sets in folders.",
)
@click.option(
    "--checkpoint-interval",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Most seconds of training that a killed run loses.",
)
@click.option(
    "--wait",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds to wait where another process trains this run.  [default: 0]",
)
@click.option(
    "--settle",
    is_flag=True,
    help="A run that has diverged, or failed for good, ends with status 0; its result says so.",
)
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder where each attempt at a run leaves its output.",
)
@click.option("--attempt", type=click.IntRange(1), default=1, hidden=True)
@click.option("--json", "text", hidden=True, help="The whole description as JSON.")
def train(
    file: Path | None,
    assignments: tuple[str, ...],
    runs: Path,
    threads: int | None,
    device: str | None,
    processes: int,
    nodes: int,
    seeds: str | None,
    at_once: int,
    compile: str,
    deterministic: bool,
    workers: int,
    checkpoint_interval: float,
    wait: float,
    settle: bool,
    logs: Path | None,
    attempt: int,
    text: str | None,
    **options: Any,
) -> None:
    """Train one run, or go on with it where it was interrupted.

    A run is fixed by its configuration. Its directory is named after it and holds the journal, the
    weights and, once it has finished, result.json. A finished run is not trained again. On SIGTERM,
    SIGUSR1 or Ctrl-C a run saves a checkpoint and ends with status 75 (Ctrl-C: 130); the same
    command goes on with it. Under torchrun the processes share the run.

    \b
    Examples:
      acdc train --method acdc --sparsity 0.9 --dataset digits
      acdc train --method rigl --set settings.distribution=erk --sparsity 0.95
      acdc methods        # what can be trained, and each method's settings
    """  # noqa: D301
    if threads is not None:
        # Read by OpenMP when torch is imported, which happens below.
        os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from acdc.config.run import parse_run

    config = parse_run(describe(file, text, options, assignments))
    if seeds is not None:
        from acdc.run.launch import launch_seeds

        sys.exit(launch_seeds(several(seeds), at_once, arguments_without("--seeds", "--at-once")))
    if logs is not None and "RANK" not in os.environ:
        from acdc.run.logs import keep_output

        keep_output(logs, config.run_name)
    if processes > 1 and "RANK" not in os.environ:
        from acdc.run.launch import launch_nodes, launch_ranks

        if nodes > 1:
            sys.exit(launch_nodes(nodes, processes, sys.argv[1:]))
        sys.exit(launch_ranks(processes, sys.argv[1:]))

    import torch

    from acdc.distributed import from_environment, local_device
    from acdc.run.lifecycle import Options, run
    from acdc.run.progress import Lines, Reporter, Silent, Terminal
    from acdc.training.loop import Engine

    if threads is not None:
        torch.set_num_threads(threads)
    ranks = from_environment()
    where = torch.device(pick_device(local_device(pick_device(device))))
    how = Options(
        runs,
        Engine(where, workers, compile, deterministic),  # type: ignore[arg-type]
        checkpoint_interval_s=checkpoint_interval,
        wait_s=wait,
        attempt=attempt,
        settle=settle,
    )
    if not ranks.first:
        reporter: Reporter = Silent()
    elif sys.stderr.isatty():
        reporter = Terminal()
    else:
        reporter = Lines()
    with ranks.joined(where):
        try:
            result = run(config, how, reporter, ranks)
        except SuiteError as error:
            if ranks.first:
                raise
            # The first one says it, and whether the run is settled.
            sys.exit(0 if settle else error.exit_status)
    if ranks.first:
        for line in summary(result, runs):
            click.echo(line)
    if result["status"] == "diverged" and not settle:
        sys.exit(6)


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def restore(folder: Path) -> None:
    """Put back the removed result of the run in FOLDER, which has ended; trains nothing."""
    from acdc.errors import RunDirectoryError
    from acdc.run.outcomes import restored

    result = restored(folder)
    if result is None:
        raise RunDirectoryError(
            f"run {folder.name} has not ended, or its models are not those that it left; acdc "
            "train goes on with it"
        )
    click.echo(f"{folder}: {result['status']}")


def several(text: str) -> list[int]:
    """Return seeds from a text such as ``1,2,3``.

    Raises:
        ConfigError: it is not that.
    """
    parts = [part.strip() for part in text.split(",")]
    found = [int(part) for part in parts if part.isdecimal()]
    if len(set(found)) < len(parts):
        raise ConfigError(
            f"--seeds: got {text!r}; different whole numbers such as 1,2,3 are accepted"
        )
    return found


def arguments_without(*names: str) -> list[str]:
    """Return the arguments of this command less some options and their values."""
    kept, rest = [], iter(sys.argv[1:])
    for argument in rest:
        if argument in names:
            next(rest)
        elif argument.partition("=")[0] not in names:
            kept.append(argument)
    return kept


def describe(
    file: Path | None, text: str | None, options: dict[str, Any], assignments: tuple[str, ...]
) -> dict[str, Any]:
    """Return the run's description: defaults or a file, then options, then assignments."""
    data: dict[str, Any] = {}
    if text is not None:
        data = mapping(text, "--json")
    elif file is not None:
        try:
            data = mapping(file.read_bytes(), f"--config: {file}")
        except OSError as error:
            raise ConfigError(f"--config: {file} cannot be read: {error.strerror}") from None
    else:
        data = {"model": "resnet8_s2", "dataset": "digits", "method": "acdc", "epochs": 20}
    data |= {key: value for key, value in options.items() if value is not None}
    assign(data, assignments)
    if "sparsity" not in data:
        data["sparsity"] = 0.0 if data.get("method") == "dense" else 0.9
    return data


def mapping(text: str | bytes, what: str) -> dict[str, Any]:
    """Return a YAML text that holds keys and values.

    Raises:
        ConfigError: it does not; says so of ``what``.
    """
    value = parsed(text, what)
    if not isinstance(value, dict):
        raise ConfigError(f"{what} holds no mapping of keys to values")
    return value


def pick_device(name: str | None) -> str:
    """Return a device that is there, the first CUDA device by default.

    Raises:
        ConfigError: the device is not there.
        DeviceError: this is a job with a GPU, which does not work.
    """
    import torch

    if name is None:
        if torch.cuda.is_available():
            return "cuda"
        if torch.version.cuda and os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise DeviceError(
                f"the GPU that {platform.node()} grants (CUDA_VISIBLE_DEVICES) does not work "
                "there; have the node looked at, or train on the processor with --device cpu"
            )
        return "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"--device: {name!r} is not available; {', '.join(there)} are accepted"
        ) from None
    return name


def summary(result: dict[str, Any], runs: Path) -> list[str]:
    """Return what a person wants to know of a finished run, a few lines."""
    lines = [f"{runs / result['run']}: {result['status']}"]
    if result["status"] == "failed":
        return [f"{lines[0]}: {result['error']}"]
    flops = result["flops"]
    training, published = (
        flops[key] / flops["dense_training"] for key in ("training", "training_published")
    )
    for name, product in result["products"].items():
        last = product["last"]
        certificate = last["certificate"]
        exempt = ", ".join(certificate["exempt"])
        scope = f" ({100 * certificate['pruned']:.2f} % without {exempt})" if exempt else ""
        lines.append(
            f"  {name:6}  sparsity {100 * certificate['achieved']:.2f} %{scope}"
            f"  test accuracy {100 * last['test_accuracy']:.2f} %"
            f"  (validation {100 * last['val_accuracy']:.2f} %)"
            f"  inference {last['inference_flops'] / flops['dense_inference']:.3f}"
            f"  training {training:.3f} (as published {published:.3f})"
            "  of dense FLOPs"
        )
        lines += [f"  {name:6}  not certified: {reason}" for reason in certificate["failures"]]
    return lines


@cli.command()
@click.argument("names", nargs=-1)
def methods(names: tuple[str, ...]) -> None:
    """List the methods, or print the settings and deviations of those that are named."""
    from acdc.methods.contract import get_method, method_names
    from acdc.methods.describe import reference, settings

    if not names:
        found = [get_method(name) for name in method_names()]
        rows = [
            [m.name, m.label, reference(m), m.flops_formula, len(settings(m)), len(m.deviations)]
            for m in found
        ]
        headings = ["name", "label", "source", "training FLOPs, as published", "settings"]
        click.echo(table([*headings, "deviations"], rows, [12, 12, 32, 22, 8, 10]))
        click.echo("\nf: FLOPs of a forward pass. Details: acdc methods NAME...")
    for method in [get_method(name) for name in names]:
        click.echo(f"{method.name}  ({method.label})\n  {method.source}")
        click.echo(f"  Training FLOPs, as published: {method.flops_formula}\n")
        options = [[f"settings.{s.key}", s.default, s.description] for s in settings(method)]
        if options:
            click.echo(table(["setting", "default", "meaning"], options, [28, 14, 58]) + "\n")
        deviations = [[d.original, d.ours, d.why] for d in method.deviations]
        if deviations:
            click.echo(table(["original", "here", "why"], deviations, [33, 33, 34]) + "\n")
