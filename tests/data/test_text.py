"""Text: the embedded corpus, WikiText-103's files, vocabularies, streams and their segments."""

import gzip
import itertools
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acdc.data import kjv, wikitext
from acdc.data.text import (
    EOS,
    UNK,
    Corpus,
    build,
    check_segments,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from acdc.distributed import Ranks
from acdc.errors import ConfigError, DataError

APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
SPLITS = ("training", "validation", "test")


def decoded(corpus: Corpus) -> dict[str, list[str]]:
    return {
        name: [corpus.vocabulary[number] for number in getattr(corpus, name).tolist()]
        for name in SPLITS
    }


def assert_is_corpus_of(corpus: Corpus, words: dict[str, list[str]], threshold: int) -> None:
    """Compare with words that include ``<eos>``, by the definition of the vocabulary."""
    counts = Counter(words["training"])
    known = {word for word, count in counts.items() if count >= threshold} | {UNK}
    expected = {
        name: [word if word in known else UNK for word in split] for name, split in words.items()
    }
    assert decoded(corpus) == expected
    assert set(corpus.vocabulary) == known
    counts = Counter(expected["training"])
    assert corpus.frequencies.tolist() == [counts[word] for word in corpus.vocabulary]
    order = [(-counts[word], word) for word in corpus.vocabulary]
    assert order == sorted(order)
    assert {getattr(corpus, name).dtype for name in SPLITS} == {torch.int32}


line = st.lists(st.sampled_from(["a", "b", "c", "d", "e", UNK]), max_size=8)


@given(*[st.lists(line, max_size=6)] * 3, st.integers(1, 4))
def test_vocabulary_is_the_training_splits(
    training: list[list[str]], validation: list[list[str]], test: list[list[str]], threshold: int
) -> None:
    lines = dict(zip(SPLITS, (training, validation, test), strict=True))
    words = {name: [w for text in split for w in (*text, EOS)] for name, split in lines.items()}
    assert_is_corpus_of(build(lines, threshold), words, threshold)


# The embedded text


def chapters() -> list[str]:
    path = kjv.embedded_folder() / "chapters.txt.gz"
    return gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]


def test_the_embedded_text_is_whole() -> None:
    texts = chapters()
    assert len(texts) == 1189
    assert sum(len(text.split()) for text in texts) == 789_859
    assert texts[0].startswith("In the beginning God created the heaven and the earth. And the")
    assert texts[-1].endswith("The grace of our Lord Jesus Christ be with you all. Amen.")
    assert not set("".join(texts)) & set("[]0123456789\t\r")


def tokens_of(text: str) -> list[str]:
    """Tokenise without a regular expression."""
    text = text.replace("- ", " - ")  # once, by an error of the source
    for mark in (*",.;:?!()\N{EM DASH}", APOSTROPHE):
        text = text.replace(mark, f" {mark} ")
    return text.replace(f" {APOSTROPHE} s ", f" {APOSTROPHE}s ").split()


@pytest.mark.parametrize(
    ("source", "every", "threshold", "sizes"),
    [
        ("all", 1, 3, (826_659, 46_883, 43_077, 6_992)),
        ("small", 5, 5, (175_914, 11_439, 9_059, 2_195)),
        ("tiny", 30, 3, (31_370, 1_895, 1_447, 944)),
    ],
)
def test_kjv(source: str, every: int, threshold: int, sizes: tuple[int, ...]) -> None:
    spec: Any = SimpleNamespace(source=source)
    corpus = kjv.load(spec, kjv.embedded_folder())
    words: dict[str, list[str]] = {name: [] for name in SPLITS}
    for number, text in enumerate(chapters()):
        place = {18: "validation", 19: "validation", 38: "test", 39: "test"}
        if number // 40 % every == 0:
            words[place.get(number % 40, "training")] += [*tokens_of(text), EOS]
    assert_is_corpus_of(corpus, words, threshold)
    assert (*(len(getattr(corpus, name)) for name in SPLITS), len(corpus.vocabulary)) == sizes
    assert set(corpus.vocabulary[:3]) == {",", "the", "and"}
    assert {"LORD", "Lord", "lord", f"{APOSTROPHE}s", "Beer-sheba", EOS} <= set(corpus.vocabulary)


def test_a_damaged_embedded_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec: Any = SimpleNamespace(source="small")
    text = "\n".join(chapters())  # its last line does not end
    monkeypatch.setattr(kjv, "embedded_folder", lambda: tmp_path)
    assert kjv.locate(spec).missing
    path = tmp_path / "chapters.txt.gz"
    path.write_bytes(gzip.compress(text.encode(), 1))
    assert kjv.locate(spec).missing is None
    with pytest.raises(DataError, match=str(path)):
        kjv.load(spec, tmp_path)


# WikiText-103's files

TEXTS = {
    "wiki.train.tokens": " \n = Lé Title = \n \n the @-@ the <unk> , Title the\n",
    "wiki.valid.tokens": " the , \n",
    "wiki.test.tokens": "\n\n<unk> the\n",
}
WIKITEXT: Any = SimpleNamespace(source="")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of small files that stand in for the known ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACDC_DATA", str(tmp_path / "sets"))
    counts = dict(zip(SPLITS, zip(TEXTS, (15, 3, 5), strict=True), strict=True))
    monkeypatch.setattr(wikitext, "_FILES", counts)
    monkeypatch.setattr(wikitext, "_VOCABULARY", 8)
    path = tmp_path / "sets" / "wikitext-103"
    path.mkdir(parents=True)
    for name, text in TEXTS.items():
        (path / name).write_text(text, encoding="utf-8")
    return path


def test_wikitext_is_read(folder: Path) -> None:
    place = wikitext.locate(WIKITEXT)
    assert (place.folder, place.missing) == (folder, None)
    words = {
        "training": f"{EOS} = Lé Title = {EOS} {EOS} the @-@ the <unk> , Title the {EOS}".split(),
        "validation": f"the , {EOS}".split(),
        "test": f"{EOS} {EOS} <unk> the {EOS}".split(),
    }
    assert_is_corpus_of(wikitext.load(WIKITEXT, folder), words, threshold=1)


@pytest.mark.parametrize("name", TEXTS)
def test_a_truncated_file_is_named_with_both_counts(name: str, folder: Path) -> None:
    content, whole = (folder / name).read_bytes(), dict(wikitext._FILES.values())[name]
    # After each word and line, and within a character.
    ends = [place for place, byte in enumerate(content.rstrip()) if byte in b" \n\xc3"]
    for end in {0, *ends, *(place + 1 for place in ends)}:
        (folder / name).write_bytes(content[:end])
        with pytest.raises(DataError) as caught:
            wikitext.load(WIKITEXT, folder)
        message = str(caught.value)
        assert str(folder / name) in message
        assert "\n" not in message
        lines = content[:end].decode(errors="replace").split("\n")
        found = sum(len(line.split()) + 1 for line in lines) - (lines[-1] == "")
        assert [int(number) for number in re.findall(r" (\d+)\b(?!-)", message)] == [found, whole]


def test_another_vocabulary_is_refused(folder: Path) -> None:
    path = folder / "wiki.train.tokens"
    path.write_text(TEXTS[path.name].replace("@-@", "the"), encoding="utf-8")
    with pytest.raises(DataError, match=str(path)):
        wikitext.load(WIKITEXT, folder)


def test_missing_wikitext(folder: Path) -> None:
    path = folder / "wiki.test.tokens"
    path.unlink()
    place = wikitext.locate(WIKITEXT)
    assert place.folder == folder
    assert str(path) in str(place.missing)
    folder.rename(folder.parent / "another")
    place = wikitext.locate(WIKITEXT)
    assert place.folder is None
    assert "ACDC_DATA" in str(place.missing)
    assert str(folder) in str(place.missing)


# Streams and segments

Batches = list[tuple[Tensor, Tensor]]


def shared(cut: Any, text: Tensor, batch_size: int, segment: int, count: int, *more: int) -> Any:
    return [list(cut(text, batch_size, segment, Ranks(r, count), *more)) for r in range(count)]


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 3), st.integers(1, 7))
def test_training_takes_segments_in_order(
    tokens: int, share: int, count: int, segment: int
) -> None:
    text, batch_size = torch.arange(tokens, dtype=torch.int32), share * count
    length = tokens // batch_size
    steps = steps_per_epoch(tokens, batch_size, segment)
    ranks = shared(training_batches, text, batch_size, segment, count)
    assert [len(batches) for batches in ranks] == [max(steps, 0)] * count
    assert steps == (length - 1) // segment
    if steps < 1:
        return
    # A rank's segments in a row, then the ranks' streams one below the other.
    streams = torch.cat([torch.cat([inputs for inputs, _ in batches], 1) for batches in ranks])
    targets = torch.cat([torch.cat([after for _, after in batches], 1) for batches in ranks])
    starts = length * torch.arange(batch_size)[:, None]
    assert torch.equal(streams, starts + torch.arange(steps * segment))
    assert torch.equal(targets, streams + 1)  # in a text that counts
    assert {part.shape for batch in ranks for pair in batch for part in pair} == {(share, segment)}
    for first in range(steps + 1):
        entered = shared(training_batches, text, batch_size, segment, count, first)
        for batches, whole in zip(entered, ranks, strict=True):
            for pair, same in zip(batches, whole[first:], strict=True):
                assert all(map(torch.equal, pair, same))


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 7))
def test_evaluation_predicts_each_token_but_the_first_once(
    tokens: int, batch_size: int, count: int, segment: int
) -> None:
    text = torch.arange(tokens, dtype=torch.int32)
    ranks: list[Batches] = shared(evaluation_batches, text, batch_size, segment, count)
    pairs = list(itertools.chain(*ranks))
    assert sorted(n for _, targets in pairs for n in targets.flatten().tolist()) == list(
        range(1, tokens)
    )
    assert all(torch.equal(inputs + 1, targets) for inputs, targets in pairs)
    for batches in ranks:
        for (before, _), (inputs, _) in itertools.pairwise(batches):
            assert len(inputs) <= len(before)
            assert torch.equal(before[: len(inputs), -1] + 1, inputs[:, 0])
        # Full segments, then the rest of all streams, then the last token of some.
        widths = [inputs.shape[1] for inputs, _ in batches]
        assert all(width <= segment for width in widths)
        assert sum(width < segment for width in widths) <= 2
        assert sum(len(inputs) < len(batches[0][0]) for inputs, _ in batches) <= 1
    assert {part.dtype for pair in pairs for part in pair} <= {torch.int64}


@pytest.mark.parametrize(
    ("tokens", "batch_size", "segment", "memory", "key"),
    [
        (100, 10, 0, 0, "segment"), (100, 1, 100, 0, "segment"), (100, 0, 5, 0, "batch_size"),
        (100, 11, 9, 0, "batch_size"), (100, 10, 9, 11, "memory"), (100, 10, 9, -1, "memory"),
        (100, 10, 9, 10, ""), (100, 1, 99, 100, "")
    ],
)  # fmt: skip
def test_cuts_that_leave_nothing_are_refused(
    tokens: int, batch_size: int, segment: int, memory: int, key: str
) -> None:
    if key:
        with pytest.raises(ConfigError, match=f"^recipe.{key}="):
            check_segments(tokens, batch_size, segment, memory)
    else:
        check_segments(tokens, batch_size, segment, memory)
        assert steps_per_epoch(tokens, batch_size, segment) >= 1
