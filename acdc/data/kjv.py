"""The King James Version of the Bible, which comes with the suite (NOTICE beside the file).

A word is a token, as are a punctuation mark and the ending of a genitive; case is kept. A line is a
chapter.

Of every forty chapters the 19th and 20th are held out for validation, the 39th and 40th for
testing: about 5 % each, from thirty places, so that all splits have law, chronicle, poetry,
prophecy and letters. Pairs, so that a memory meets text that continues. No chapter is in two
splits; what the text itself repeats (Kings in Chronicles, the gospels) may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from acdc.data.loader import Split
from acdc.data.memory import CHECKSUMS, read_verified
from acdc.data.spec import DatasetSpec, Location, absence
from acdc.data.text import Corpus, build

_FILE = "chapters.txt.gz"
# sha256 of the uncompressed text.
_SHA256 = "39af68bcc730bbdf60c1f8c67191aa8c030522816f64e17388ab2e311c71bf09"
_RESTORE = "restore it with: git checkout -- acdc/data"

_STRETCH = 40
_HELD_OUT: dict[int, Split] = {18: "validation", 19: "validation", 38: "test", 39: "test"}
_TOKEN = re.compile(r"\u2019s\b|\w+(?:-\w+)*|[^\w\s]")


@dataclass(frozen=True)
class _Part:
    every: int
    """The first of every N stretches of forty chapters is used, in all splits."""
    threshold: int
    """Rarer words are ``<unk>``; WikiText-103's threshold is 3."""


_PARTS = {
    "all": _Part(every=1, threshold=3),
    "small": _Part(every=5, threshold=5),
    "tiny": _Part(every=30, threshold=3),
}


def embedded_folder() -> Path:
    """Return the folder of the text."""
    return Path(str(resources.files("acdc.data"))) / "kjv_text"


def locate(spec: DatasetSpec) -> Location:
    """Return where the text is."""
    absent = absence(embedded_folder() / _FILE)
    return Location(embedded_folder(), f"{absent}; {_RESTORE}" if absent else None)


def load(spec: DatasetSpec, folder: Path) -> Corpus:
    """Return the corpus, or for the source ``small`` a fifth of it with fewer words.

    Raises:
        DataError: the file is damaged.
    """
    part = _PARTS[spec.source]
    lines: dict[Split, list[list[str]]] = {"training": [], "validation": [], "test": []}
    text = read_verified(folder / _FILE, _SHA256, _RESTORE).decode()
    for chapter, line in enumerate(text.splitlines()):
        stretch, place = divmod(chapter, _STRETCH)
        if stretch % part.every == 0:
            lines[_HELD_OUT.get(place, "training")].append(_TOKEN.findall(line))
    return replace(build(lines, part.threshold), verified=CHECKSUMS)
