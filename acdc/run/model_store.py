"""The models that a run keeps, and the digests of their files."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from acdc.errors import RunDirectoryError
from acdc.files import write_bytes
from acdc.methods.contract import Product
from acdc.metrics import Metric
from acdc.training.evaluation import Score


def weights_name(product: str, which: str) -> str:
    """Return the file name of a product's weights, such as ``sparse_best.safetensors``."""
    return f"{product}_{which}.safetensors"


def optimizer_name(product: str) -> str:
    """Return the file name of the optimizer that goes with a product's best weights."""
    return f"{product}_best.optimizer.pt"


class ModelStore:
    """Keeps the last and the best model of each product.

    A checkpoint refers to models that were kept before it, so these must not change when later ones
    replace them. Every model has a file of its own, named by its epoch. It is written just before a
    checkpoint, and removed when neither of the last two checkpoints refers to it. Between
    checkpoints models are in memory only. They get their final names at the end.

    Records are plain data, part of the run's checkpoints: by ``last`` and ``best`` and product, the
    epoch, its validation score and what the masks kept.
    """

    def __init__(self, folder: Path, resumable: frozenset[Product], metric: Metric) -> None:
        self.folder = folder
        self.metric = metric
        self.resumable = resumable
        """Products whose optimizer is kept with the best weights."""
        self.records: dict[str, dict[str, dict[str, Any]]] = {"last": {}, "best": {}}
        self.digests: dict[str, str] = {}
        """The sha256 of each file that the records refer to, once it is written."""
        self._unwritten: dict[str, bytes] = {}
        self._referred: list[set[str]] = []
        """The files that the last two checkpoints refer to."""

    def keep(
        self,
        product: Product,
        epoch: int,
        score: Score,
        kept: Mapping[str, int],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Take the model after an epoch as its product's last and, if validated better, its best.

        ``kept`` are the numbers of weights that the masks keep, layer by layer.
        """
        record = {"epoch": epoch, **asdict(score), "kept": dict(kept)}
        best = self.records["best"].get(product)
        self.records["last"][product] = record
        value = self.metric.of(score.accuracy, score.loss)
        # Of equal scores the later epoch wins: it has trained longer.
        if best is None or self.metric.better(
            value, self.metric.of(best["accuracy"], best["loss"])
        ):
            self.records["best"][product] = record
        needed = self._files()
        self._unwritten = {n: content for n, content in self._unwritten.items() if n in needed}
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        self._unwritten[_weights_file(product, epoch)] = save(tensors)
        if _optimizer_file(product, epoch) in needed:
            buffer = io.BytesIO()
            torch.save(optimizer.state_dict(), buffer)
            self._unwritten[_optimizer_file(product, epoch)] = buffer.getvalue()

    def problem(self, digests: Mapping[str, str]) -> str | None:
        """Return what is wrong with the files that a checkpoint refers to, if anything is."""
        for name, digest in digests.items():
            if _digest(self.folder / name) != digest:
                return f"refers to {name}, which is missing or damaged"
        return None

    def restore(self, records: Mapping[str, Any], digests: Mapping[str, str]) -> None:
        """Take the records of a checkpoint and the digests of their files."""
        self.records = {which: dict(products) for which, products in records.items()}
        self.digests = dict(digests)
        self._unwritten = {}
        self._referred = [self._files()]

    def write(self) -> None:
        """Write what the records refer to, before a checkpoint with these records."""
        self.folder.mkdir(exist_ok=True)
        for name, content in self._unwritten.items():
            write_bytes(self.folder / name, content)
            self.digests[name] = hashlib.sha256(content).hexdigest()
        self._unwritten = {}
        needed = self._files()
        self.digests = {name: digest for name, digest in self.digests.items() if name in needed}
        self._referred = [*self._referred[-1:], needed]

    def sweep(self, keep: int = 2) -> None:
        """Remove files that none of the last ``keep`` checkpoints refers to."""
        if len(self._referred) >= keep:
            needed = set.union(*self._referred[-keep:])
            for path in _model_files(self.folder):
                if path.name not in needed:
                    path.unlink()

    def publish(self, folder: Path) -> None:
        """Give the models their final names in the run's own folder.

        Raises:
            RunDirectoryError: a model that was written before is gone or damaged.
        """
        for which, products in self.records.items():
            for product, record in products.items():
                epoch = record["epoch"]
                self._link(_weights_file(product, epoch), folder / weights_name(product, which))
                if which == "best" and product in self.resumable:
                    self._link(_optimizer_file(product, epoch), folder / optimizer_name(product))

    def _link(self, name: str, target: Path) -> None:
        source = self.folder / name
        if _digest(source) != self.digests[name]:
            raise RunDirectoryError(
                f"{source} is missing or damaged; rerun the command to resume from the checkpoint "
                "before the last"
            )
        temporary = target.with_name(f".{target.name}.tmp")
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # file systems without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
        # Where both are links to one file already, nothing has been moved.
        temporary.unlink(missing_ok=True)

    def _files(self) -> set[str]:
        """Return the names of the files that the records refer to."""
        names = set()
        for which, products in self.records.items():
            for product, record in products.items():
                names.add(_weights_file(product, record["epoch"]))
                if which == "best" and product in self.resumable:
                    names.add(_optimizer_file(product, record["epoch"]))
        return names


def _weights_file(product: str, epoch: int) -> str:
    return f"{product}-{epoch:06d}.safetensors"


def _optimizer_file(product: str, epoch: int) -> str:
    return f"{product}-{epoch:06d}.optimizer.pt"


def _model_files(folder: Path) -> list[Path]:
    """Return the files of weights and of optimizer state in a folder."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.optimizer.pt")])


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of weights and of optimizer state in a run's folder."""
    return {path.name: _digest(path) for path in _model_files(folder)}


def _digest(path: Path) -> str:
    """Return the sha256 of a file, or nothing where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def verified(folder: Path, name: str, files: Mapping[str, str]) -> bytes:
    """Return a file of a finished run, whose result holds the sha256 of its files.

    Raises:
        RunDirectoryError: it is missing, or has changed since.
    """
    path = folder / name
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != files.get(name):
        raise RunDirectoryError(
            f"{path} is missing or damaged; remove {folder} to train that run again"
        )
    return content
