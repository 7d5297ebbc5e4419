"""The progress of a run: as a bar at a terminal, as lines in a log, or not at all."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.run.result import FinishedResult, Result
from acdc.step import Step


class Reporter:
    """What a run reports as it is trained; by default nothing but messages, on standard error."""

    def start(self, config: RunConfig, first: Step) -> None:
        """Report that training starts at a step."""

    def step(self) -> None:
        """Report the end of a step."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Report the journal's record of an epoch."""

    def say(self, text: str) -> None:
        """Print a message; a closed stream does not end the run."""
        with contextlib.suppress(OSError):
            click.echo(text, err=True)


class Terminal(Reporter):
    """A progress bar, for a person at a terminal."""

    def start(self, config: RunConfig, first: Step) -> None:
        from tqdm import tqdm

        self.done, self.epochs = first.epoch, config.epochs
        self.metric = DATASETS[config.dataset].metric
        self.bar = tqdm(
            total=config.epochs * first.batches_per_epoch,
            initial=first.iteration,
            desc=config.slug,
            unit="step",
            dynamic_ncols=True,
        )

    def step(self) -> None:
        self.bar.update()

    def epoch(self, record: dict[str, Any]) -> None:
        self.done += 1
        self.bar.set_postfix_str(
            f"epoch {record['epoch']}, {record['phase']}, "
            f"validation {self.metric.shown(record.get('val_accuracy'), record['val_loss'], 1)}"
        )
        if self.done == self.epochs:
            self.bar.close()


class Lines(Reporter):
    """Plain lines, one an epoch, for a log."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix

    def start(self, config: RunConfig, first: Step) -> None:
        self.epochs = config.epochs
        self.metric = DATASETS[config.dataset].metric
        self.first = first.iteration / first.batches_per_epoch
        self.started = time.monotonic()
        self.say(f"{config.run_name}: epochs {first.epoch} to {config.epochs}")

    def epoch(self, record: dict[str, Any]) -> None:
        done = record["epoch"] + 1 - self.first
        left = (time.monotonic() - self.started) / done * (self.epochs - record["epoch"] - 1)
        self.say(
            f"epoch {record['epoch']:3d}  {record['phase']:6}  sparsity {record['sparsity']:.4f}"
            f"  loss {record['train_loss']:.4f}"
            f"  validation {self.metric.shown(record.get('val_accuracy'), record['val_loss'])}"
            f"  {record['train_s']:.1f} s, {left:.0f} s left"
        )

    def say(self, text: str) -> None:
        super().say("\n".join(self.prefix + line for line in text.splitlines()))


class Silent(Reporter):
    """Nothing, for all ranks but the first."""

    def say(self, text: str) -> None:
        pass


def print_summary(result: Result, runs: Path) -> None:
    """Print the sparsity, score and FLOPs of a run that has ended, on standard output."""
    click.echo(f"{runs / result.run}: {result.status}")
    if not isinstance(result, FinishedResult):
        return
    flops, metric = result.flops, DATASETS[result.config["dataset"]].metric
    training, published = (
        value / flops.dense_training for value in (flops.training, flops.training_published)
    )
    for name, product in result.products.items():
        last = product.last
        certificate = last.certificate
        assert certificate is not None
        exempt = ", ".join(certificate.exempt)
        scope = f" ({100 * certificate.pruned:.2f} % without {exempt})" if exempt else ""
        click.echo(
            f"  {name:6}  sparsity {100 * certificate.achieved:.2f} %{scope}"
            f"  test {metric.name} {metric.shown(last.test_accuracy, last.test_loss)}"
            f"  (validation {metric.shown(last.val_accuracy, last.val_loss)})"
            f"  inference {last.inference_flops / flops.dense_inference:.3f}"
            f"  training {training:.3f} (as published {published:.3f})"
            "  of dense FLOPs"
        )
        for reason in certificate.failures:
            click.echo(f"  {name:6}  not certified: {reason}")
