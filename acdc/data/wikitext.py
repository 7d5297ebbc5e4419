"""WikiText-103 (Merity et al. 2017), read from its three token files.

Tokens are separated by white space, rare words are ``<unk>`` already, and ``<eos>`` ends each line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from acdc.data.loader import Split
from acdc.data.spec import DatasetSpec, Location, absence, not_found, roots
from acdc.data.text import Corpus, build
from acdc.errors import DataError

_FOLDER = "wikitext-103"
# The tokens of each file with <eos>, and the words of the vocabulary, as published.
_FILES: dict[Split, tuple[str, int]] = {
    "training": ("wiki.train.tokens", 103_227_021),
    "validation": ("wiki.valid.tokens", 217_646),
    "test": ("wiki.test.tokens", 245_569),
}
_VOCABULARY = 267_735
_UNPACK = f"unpack {_FOLDER}-v1.zip, the word-level version, again"


def locate(spec: DatasetSpec) -> Location:
    """Return where the token files are: in ``wikitext-103`` below ACDC_DATA or ``data``."""
    folders = [root / _FOLDER for root in roots()]
    for folder in filter(Path.is_dir, folders):
        for name, _ in _FILES.values():
            if absent := absence(folder / name):
                return Location(folder, f"{absent}; {_UNPACK}")
        return Location(folder)
    remedy = f"set ACDC_DATA to the folder in which {_FOLDER}-v1.zip was unpacked"
    return not_found("wikitext103", folders, remedy)


def load(spec: DatasetSpec, folder: Path) -> Corpus:
    """Return the corpus; takes about a minute and 1 GB of memory, then 0.4 GB.

    Raises:
        DataError: a file is truncated or not the known one; says what was counted.
    """
    corpus = build({split: _lines(folder / name) for split, (name, _) in _FILES.items()})
    for split, (name, expected) in _FILES.items():
        _compare(folder / name, "tokens", len(getattr(corpus, split)), expected)
    training = folder / _FILES["training"][0]
    _compare(training, "words in its vocabulary", len(corpus.vocabulary), _VOCABULARY)
    return replace(corpus, verified="tokens counted")


def _lines(path: Path) -> Iterator[list[str]]:
    # A truncated file may end within a character; its count tells.
    with path.open(encoding="utf-8", errors="replace") as lines:
        yield from map(str.split, lines)


def _compare(path: Path, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise DataError(
            f"data file {path} has {found:,} {what}, with <eos> for each line, "
            f"instead of {expected:,}; {_UNPACK}"
        )
