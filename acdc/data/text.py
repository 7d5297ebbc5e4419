"""Text: a corpus of words as numbers, and the batches of segments that a memory joins.

Perplexity is exp(total nll / tokens predicted), over all ranks; ``<eos>`` and ``<unk>`` count as
words. It compares models of one vocabulary only.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from acdc.data.loader import Batch, Dataset, Loader, LoaderPlan, Split
from acdc.distributed import Ranks
from acdc.messages import config_error

EOS, UNK = "<eos>", "<unk>"
"""The end of a line, and any word that is not in the vocabulary."""
Lines = Iterable[list[str]]
"""The words of each line, without ``<eos>``."""


EVALUATION_STREAMS = 8
"""Streams into which a split is cut in evaluation; each starts without a memory."""


@dataclass(frozen=True)
class Corpus(Dataset[Tensor]):
    """The three splits of a text, (N,) each, as int32 indices into its vocabulary."""

    vocabulary: tuple[str, ...]
    """By descending frequency, then alphabetically: adaptive softmax needs that order."""
    frequencies: Tensor
    """How often each word occurs in the training split, (V,) as int64."""

    def loader(self, plan: LoaderPlan) -> TextLoader:
        return TextLoader(self, plan)


class TextLoader(Loader):
    """Loads segments from tokens that lie in the device's memory."""

    def __init__(self, corpus: Corpus, plan: LoaderPlan) -> None:
        super().__init__(corpus, plan)
        self.tokens: dict[Split, Tensor] = {
            "training": corpus.training.to(plan.device),
            "validation": corpus.validation.to(plan.device),
            "test": corpus.test.to(plan.device),
        }
        self.frequencies = corpus.frequencies
        self.examples = (self.sizes["training"] - 1) // plan.segment
        self.batches = steps_per_epoch(self.sizes["training"], plan.batch_size, plan.segment)
        self.batch_samples = plan.batch_size * plan.segment

    def training(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        plan = self.plan
        return training_batches(
            self.tokens["training"], plan.batch_size, plan.segment, plan.ranks, first
        )

    def evaluation(self, split: Split) -> Iterator[Batch]:
        plan = self.plan
        return evaluation_batches(self.tokens[split], EVALUATION_STREAMS, plan.segment, plan.ranks)

    def samples(self, chosen: Tensor) -> Batch:
        places = torch.arange(self.plan.segment + 1) + self.plan.segment * chosen[:, None]
        found = self.tokens["training"][places.to(self.plan.device)].long()
        return found[:, :-1], found[:, 1:]


def build(lines: Mapping[Split, Lines], threshold: int = 1) -> Corpus:
    """Return a corpus whose vocabulary comes from the training split alone.

    Reads each split once. Holds 4 bytes a token, for a moment twice that of the training split.

    Args:
        lines: of each split.
        threshold: words that occur less often in the training split are ``<unk>``.
    """
    found: defaultdict[str, int] = defaultdict()
    found.default_factory = found.__len__  # a new word gets the next number
    provisional = _numbered(lines["training"], found.__getitem__)
    counts = dict(zip(found, np.bincount(provisional).tolist(), strict=True))
    frequencies = {word: n for word, n in counts.items() if n >= threshold and word != UNK}
    frequencies[UNK] = len(provisional) - sum(frequencies.values())
    vocabulary = sorted(frequencies, key=lambda word: (-frequencies[word], word))
    numbers = {word: number for number, word in enumerate(vocabulary)}
    unknown = numbers[UNK]

    def number(word: str) -> int:
        return numbers.get(word, unknown)

    final = np.array([number(word) for word in found], np.int32)
    return Corpus(
        training=torch.from_numpy(final[provisional]),
        validation=torch.from_numpy(_numbered(lines["validation"], number)),
        test=torch.from_numpy(_numbered(lines["test"], number)),
        vocabulary=tuple(vocabulary),
        frequencies=torch.tensor([frequencies[word] for word in vocabulary]),
    )


def _numbered(lines: Lines, number: Callable[[str], int]) -> np.ndarray:
    """Return the numbers of all words and of the end of each line, (N,) as int32."""
    numbers = array("i")
    for line in lines:
        numbers.extend(map(number, line))
        numbers.append(number(EOS))
    return np.frombuffer(numbers, np.int32) if numbers else np.empty(0, np.int32)


def steps_per_epoch(tokens: int, batch_size: int, segment: int) -> int:
    """Return how many segments, each with its targets, the streams of a training split hold."""
    return (tokens // batch_size - 1) // segment


def check_segments(tokens: int, batch_size: int, segment: int, memory: int = 0) -> None:
    """Refuse a cut of the training split that leaves nothing to train on.

    Args:
        tokens: of the training split.
        batch_size: number of streams over all ranks.
        segment: tokens of each stream per step.
        memory: tokens that the model remembers of the segments before.

    Raises:
        ConfigError: a segment without tokens, or streams that are shorter than a segment and its
            last target, or than the memory.
    """
    if not 1 <= segment < tokens:
        problem = f"not a part of the {tokens:,} training tokens"
        raise config_error("recipe.segment", segment, problem, f"1 to {tokens - 1}")
    most = tokens // (segment + 1)
    if not 1 <= batch_size <= most:
        problem = f"{tokens:,} training tokens have no segment of {segment} for each stream"
        raise config_error("recipe.batch_size", batch_size, problem, f"1 to {most}")
    length = tokens // batch_size
    if not 0 <= memory <= length:
        problem = f"not a part of a stream of {length:,} training tokens"
        raise config_error("recipe.memory", memory, problem, f"0 to {length}")


def training_batches(
    tokens: Tensor, batch_size: int, segment: int, ranks: Ranks, first: int = 0
) -> Iterator[Batch]:
    """Yield this rank's streams of each batch of an epoch, from batch ``first``.

    The text is cut into ``batch_size`` streams of equal length, without the last tokens, too few
    for one more each. Each batch has the next segment of every stream, so that a memory carries
    over from one to the next; it starts empty in each epoch. The last segment, too short, is left
    out. All epochs are the same.

    Args:
        tokens: the training split, (N,), on the device.
        batch_size: number of streams over all ranks.
        segment: tokens of each stream per batch, T.
        ranks: they share the streams: B of them each.
        first: the batch to start with.

    Yields:
        Tokens (B, T) and the tokens that follow each of them, (B, T), as int64.
    """
    length = len(tokens) // batch_size
    streams = tokens[: batch_size * length].view(batch_size, length)[ranks.slice(batch_size)]
    for step in range(first, steps_per_epoch(len(tokens), batch_size, segment)):
        yield _segment(streams, step * segment, (step + 1) * segment)


def evaluation_batches(
    tokens: Tensor, batch_size: int, segment: int, ranks: Ranks
) -> Iterator[Batch]:
    """Yield this rank's streams of a split; over all ranks, each token but the first is predicted.

    A stream continues where the one before it ends: the last target of one is the first token of
    the next. So the tokens predicted, N - 1, are the same for any number of streams and ranks, and
    each is predicted once. Streams differ in length by at most one token: the last batch may have
    the first rows of the one before only, and the model then needs only their memory.

    Args:
        tokens: the split, (N,), on the device.
        batch_size: number of streams over all ranks, at most; a rank without any yields nothing.
        segment: tokens of each stream per batch, T; fewer in the last.
        ranks: they share the streams: B of them each.

    Yields:
        Tokens (B, T) and the tokens that follow each of them, (B, T), as int64.
    """
    predicted = len(tokens) - 1
    count = max(min(batch_size, predicted), 1)
    bounds = [stream * predicted // count for stream in range(count + 1)]
    texts = [tokens[start : stop + 1] for start, stop in pairwise(bounds)]
    streams = sorted(texts[ranks.slice(count)], key=len, reverse=True)
    if not streams:
        return
    length = len(streams[-1]) - 1
    together = torch.stack([stream[: length + 1] for stream in streams])
    for start in range(0, length, segment):
        yield _segment(together, start, min(start + segment, length))
    if rest := [stream[length:] for stream in streams if len(stream) > length + 1]:
        yield _segment(torch.stack(rest), 0, 1)


def _segment(streams: Tensor, start: int, stop: int) -> Batch:
    return streams[:, start:stop].long(), streams[:, start + 1 : stop + 1].long()
