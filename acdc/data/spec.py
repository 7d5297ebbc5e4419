"""What is known of a data set before it is loaded, and where its files are."""

from __future__ import annotations

import abc
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from acdc.data.augmentation import Augmentation
from acdc.errors import DataError
from acdc.metrics import ACCURACY, PERPLEXITY, Metric

if TYPE_CHECKING:
    from acdc.data.loader import Dataset


@dataclass(frozen=True)
class Location:
    """Where the files of a data set are, judged by their names alone."""

    folder: Path | None = None
    """The folder of the files, or of some of them; None: there are none."""
    missing: str | None = None
    """What is missing, where it was looked for and how to get it; None: nothing is."""


def roots() -> list[Path]:
    """Return the folders that may hold data sets: ``ACDC_DATA``, if set, and ``data``."""
    named = os.environ.get("ACDC_DATA")
    return [*([Path(named)] if named else []), Path("data")]


def not_found(name: str, folders: list[Path], remedy: str) -> Location:
    """Return the location of a data set that is in none of ``folders``."""
    searched = ", ".join(map(str, folders))
    return Location(missing=f"dataset={name}: not found in {searched}; {remedy}")


def absence(path: Path) -> str:
    """Return how a file is not there, empty if it is."""
    if path.is_file():
        return ""
    return f"data file {path} is " + ("a folder, not a file" if path.is_dir() else "missing")


def _unreadable(error: OSError) -> str:
    return f"data file {error.filename} cannot be read ({error.strerror}); check its permissions"


@dataclass(frozen=True)
class ClassFolders:
    """How images in files are read and normalised: one folder per class, see ``data/folder.py``."""

    resize: int
    """Length of the shorter side in pixels before evaluation takes the centre."""
    mean: tuple[float, float, float]
    """Of the training images by channel, of values in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation, likewise."""
    test_images: int | None = None
    """Expected number of files in ``val``; None: any."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(abc.ABC):
    """What is known of a data set before it is loaded."""

    kind: ClassVar[str]
    """The kind of task: it decides what a batch, a loss and a metric are."""
    samples: ClassVar[str]
    """What steps and FLOPs are counted for."""
    metric: ClassVar[Metric]
    """How a model is judged."""
    unused: ClassVar[tuple[str, ...]]
    """Keys of the recipe that have no effect."""

    title: str
    module: str
    """The module that reads the data set. Its ``locate(spec)`` returns a ``Location`` without
    opening a file, its ``load(spec, folder)`` the ``Dataset`` in the folder located."""
    source: str = ""
    """Which files the module reads, where it reads several data sets."""

    @property
    @abc.abstractmethod
    def training_samples(self) -> int:
        """The number of ``samples`` of the training split."""

    @abc.abstractmethod
    def steps(self, batch_size: int, segment: int, memory: int) -> int:
        """Return the steps of an epoch.

        Args:
            batch_size: images, or streams of text.
            segment: tokens of each stream per step.
            memory: tokens that the network remembers.

        Raises:
            ConfigError: there would be none.
        """

    @property
    @abc.abstractmethod
    def answers(self) -> int:
        """Between how many answers a model chooses: classes, or the words of the vocabulary."""

    @property
    @abc.abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """What a network is sized for."""

    @property
    @abc.abstractmethod
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentations that suit the data."""

    def locate(self) -> Location:
        """Look for the files by name, without opening them."""
        try:
            location: Location = self._module().locate(self)
        except OSError as error:
            return Location(missing=_unreadable(error))
        return location

    def missing(self) -> str | None:
        """Return what is missing and how to get it, or None if all files are there."""
        return self.locate().missing

    def load(self) -> Dataset[Any]:
        """Return the data set, verified.

        Raises:
            DataError: files are missing or damaged; says how to get them.
        """
        place = self.locate()
        if place.missing:
            raise DataError(place.missing)
        try:
            dataset: Dataset[Any] = self._module().load(self, place.folder)
        except OSError as error:
            raise DataError(_unreadable(error)) from None
        for split, images in dataset.sizes.items():
            if not images:
                raise DataError(f"data set {self.title} has no {split} {self.kind}; it needs more")
        return dataset

    def _module(self) -> Any:
        # Imported on use: describing a data set must not import torch, torchvision or Pillow.
        return importlib.import_module(self.module)


@dataclass(frozen=True, kw_only=True)
class ImageSpec(DatasetSpec):
    """Images and their classes."""

    kind = samples = "images"
    metric = ACCURACY
    unused = ("segment", "memory", "evaluation_memory")

    channels: int
    image_size: int
    """Height and width in pixels."""
    classes: int
    training_images: int
    """Without those held out for validation."""
    upright: bool = False
    """A mirrored image is no longer of its class."""
    folders: ClassFolders | None = None
    """How images in files are read; None: all images are held in memory."""
    relabelled: int = 0
    """Number of training images whose labels are drawn at random (Section 4 of the paper)."""

    @property
    def training_samples(self) -> int:
        return self.training_images

    def steps(self, batch_size: int, segment: int, memory: int) -> int:
        from acdc.messages import config_error

        if batch_size > self.training_images:
            problem = f"more than the training images of {self.title}"
            allowed = f"1 to {self.training_images}"
            raise config_error("recipe.batch_size", batch_size, problem, allowed)
        return self.training_images // batch_size

    @property
    def answers(self) -> int:
        return self.classes

    @property
    def sizes(self) -> tuple[int, int]:
        """Channels and classes."""
        return self.channels, self.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.channels, self.image_size, self.image_size

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        if self.folders is not None:
            return ("none",) if self.upright else ("none", "crop_flip")
        return ("none", "shift") if self.upright else ("none", "flip", "shift", "shift_flip")

    def load(self) -> Dataset[Any]:
        dataset = super().load()
        if self.relabelled:
            from acdc.data.memory import ImageSet, relabel

            assert isinstance(dataset, ImageSet)
            dataset = relabel(dataset, self.relabelled, self.classes)
        return dataset


@dataclass(frozen=True, kw_only=True)
class TextSpec(DatasetSpec):
    """Text, whose words are predicted from those before them."""

    kind = "text"
    samples = "tokens"
    metric = PERPLEXITY
    unused = ("label_smoothing",)
    vocabulary: int
    """Number of words."""
    training_tokens: int

    @property
    def training_samples(self) -> int:
        return self.training_tokens

    @property
    def augmentations(self) -> tuple[Augmentation, ...]:
        return ("none",)

    def steps(self, batch_size: int, segment: int, memory: int) -> int:
        from acdc.data.text import check_segments, steps_per_epoch

        check_segments(self.training_tokens, batch_size, segment, memory)
        return steps_per_epoch(self.training_tokens, batch_size, segment)

    @property
    def answers(self) -> int:
        return self.vocabulary

    @property
    def sizes(self) -> tuple[int]:
        """The number of words."""
        return (self.vocabulary,)
