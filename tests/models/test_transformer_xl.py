"""Transformer-XL computes what the published implementations do; its memory is a longer segment."""

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acdc.distributed import Ranks
from acdc.models.dropout import WholeBatch
from acdc.models.transformer_xl import TransformerXL, relative_shift
from acdc.sparsity.layers import dense_layers, embeddings, prunable_layers
from conformance.vectors import hashval

WORDS, CUTOFFS = 40, (10, 16, 30)
TOKENS = ((hashval((2, 18), 99, torch.float64) + 0.5) * WORDS).long()
"""Of two texts; all clusters occur among them."""
TARGETS = TOKENS.roll(-1, 1)
SMALL: dict[str, Any] = {
    "layers": 3, "width": 64, "heads": 4, "head_width": 8, "inner": 48, "memory": 7,
    "cutoffs": CUTOFFS,
}  # fmt: skip


def small(**changes: Any) -> TransformerXL:
    """Return a network in double precision, with weights from a formula, for evaluation."""
    model = TransformerXL(WORDS, **SMALL | changes).double().eval()
    with torch.no_grad():
        for salt, (name, parameter) in enumerate(model.named_parameters(), start=1):
            values = 0.4 * hashval(parameter.shape, salt, torch.float64)
            is_scale = name.endswith(("norm1.weight", "norm2.weight"))
            parameter.copy_(1 + values if is_scale else values)
    return model


def read(
    model: TransformerXL, lengths: Sequence[int], memory: Tensor | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return the likelihoods of the texts, read in segments of these lengths, and the memory."""
    parts = []
    for tokens, targets in zip(TOKENS.split(lengths, 1), TARGETS.split(lengths, 1), strict=True):
        nll, memory = model(tokens, targets, memory, **options)
        parts.append(nll)
    return torch.cat(parts, dim=1), memory


# What TransfoXLLMHeadModel of transformers 4.30.2 gives (untie_r=False, torch 2.13, float32) for
# the last of three segments, with the weights of `small` and a first memory of zeros. The authors'
# code agrees as well, from an empty memory.
PUBLISHED: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    "memory": (
        {},
        [[6.086828, 5.419819, 4.840185, 6.145938, 2.457565],
         [5.882225, 5.353996, 2.196749, 5.447451, 3.550169]],
    ),
    "plain softmax": (
        {"cutoffs": (), "div_val": 1},
        [[8.314289, 7.430630, 8.484391, 6.090561, 5.409835],
         [6.068062, 6.572794, 1.451233, 4.315361, 6.765470]],
    ),
    "no projections": (
        {"div_val": 1},
        [[10.526161, 1.162808, 7.946448, 13.670667, 5.190441],
         [11.905823, 5.047915, 1.169299, 7.583453, 1.278172]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_likelihoods_of_the_published_implementations(case: str) -> None:
    shape, expected = PUBLISHED[case]
    nll, _ = read(small(**shape), [6, 6, 6], torch.zeros(3, 2, 7, 64).double())
    torch.testing.assert_close(nll[:, 12:17], torch.tensor(expected).double(), rtol=0, atol=3e-6)


def weights(words: int, **shape: Any) -> int:
    width, inner, cutoffs = shape["width"], shape["inner"], shape["cutoffs"]
    attention = shape["heads"] * shape["head_width"]
    layer = 5 * width * attention + 2 * width * inner + inner + width + 4 * width
    sizes = [width // shape["div_val"] ** cluster for cluster in range(len(cutoffs) + 1)]
    clusters = zip(pairwise([0, *cutoffs, words]), sizes, strict=True)
    tables = sum((end - first) * size for (first, end), size in clusters)
    projections = width * (sum(sizes) + width) if shape["div_val"] > 1 else 0
    softmax = words + len(cutoffs) * (width + 1)
    return int(shape["layers"] * layer + tables + projections + softmax + 2 * attention)


DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(TransformerXL).parameters.items()
    if parameter.kind == inspect.Parameter.KEYWORD_ONLY
}


@pytest.mark.parametrize("changes", [{}, {"cutoffs": ()}, {"div_val": 1}, {"div_val": 2}], ids=str)
def test_number_of_weights(changes: dict[str, Any]) -> None:
    count = sum(parameter.numel() for parameter in small(**changes).parameters())
    assert count == weights(WORDS, **DEFAULTS | SMALL | changes)


def test_the_large_network_has_285_million_weights() -> None:
    assert weights(267_735, **DEFAULTS) == 285_167_482
    # The authors' cutoffs; their code has this number.
    assert weights(267_735, **DEFAULTS | {"cutoffs": (20_000, 40_000, 200_000)}) == 285_170_506


def test_prunable_layers_are_all_but_biases() -> None:
    model = small(layers=1)
    layer = [f"layers.0.{name}.weight" for name in ("q", "kv", "r", "o", "inner", "outer")]
    projections = [f"embedding.projections.{cluster}.weight" for cluster in range(4)]
    tables = [f"embedding.tables.{cluster}.weight" for cluster in range(4)]
    found = prunable_layers(model)
    assert list(found) == [*tables, *projections, *layer, "softmax.projection.weight"]
    assert embeddings(found) == tuple(tables)
    assert dense_layers(found, ["first", "last"]) == (*tables, projections[0], list(found)[-1])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 4), (5, 5), (3, 8)])
def test_relative_shift(heads: int, queries: int, keys: int) -> None:
    scores = torch.arange(2.0 * heads * queries * keys).view(2, heads, queries, keys)
    shifted = relative_shift(scores)
    for query in range(queries):
        own = keys - queries + query
        for key in range(own + 1):
            column = keys - 1 - (own - key)
            assert torch.equal(shifted[:, :, query, key], scores[:, :, query, column])


@pytest.mark.parametrize("lengths", [[9, 9], [1] * 18, [2, 11, 5]], ids=str)
def test_segments_with_memory_are_one_longer_segment(lengths: list[int]) -> None:
    model = small()
    whole, memory = read(model, [18], memory_length=18)
    split, last = read(model, lengths, memory_length=18)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, memory, rtol=0, atol=1e-12)


def test_segments_without_memory_are_texts_of_their_own() -> None:
    model = small()
    forgetful, _ = read(model, [9, 9], memory_length=0)
    alone, _ = model(TOKENS[:, 9:], TARGETS[:, 9:])
    torch.testing.assert_close(forgetful[:, 9:], alone, rtol=0, atol=1e-12)
    assert float((forgetful - read(model, [9, 9])[0])[:, 9:].detach().abs().min()) > 1e-6


@pytest.mark.parametrize("length", [0, 3, 7, 100])
def test_memory_is_the_last_inputs_of_each_layer(length: int) -> None:
    model = small()
    _, memory = read(model, [6, 6, 6], memory_length=length)
    assert memory.shape == (3, 2, min(length, 18), 64)
    assert not memory.requires_grad
    embedded = model.embedding(TOKENS)[:, max(0, 18 - length) :]
    torch.testing.assert_close(memory[0], embedded.detach(), rtol=0, atol=0)


def test_no_token_sees_a_later_one() -> None:
    model = small()
    before, memory = model(TOKENS, TARGETS)
    changed = TOKENS.clone()
    changed[:, 11] = (changed[:, 11] + 1) % WORDS
    after, other = model(changed, TARGETS)
    assert torch.equal(after[:, :11], before[:, :11])
    assert bool((after[:, 11:] != before[:, 11:]).all())
    # But the next segment sees it.
    assert bool((model(TOKENS, TARGETS, memory)[0] != model(TOKENS, TARGETS, other)[0]).any())


@pytest.mark.parametrize("div_val", [1, 2, 4])
@pytest.mark.parametrize("cutoffs", [(), (39,), CUTOFFS], ids=str)
def test_adaptive_softmax_is_a_distribution(cutoffs: tuple[int, ...], div_val: int) -> None:
    model = small(cutoffs=cutoffs, div_val=div_val)
    softmax, embedding = model.softmax, model.embedding
    hidden = hashval((5, 64), 7, torch.float64)
    words = torch.arange(WORDS).repeat_interleave(5)
    nll = softmax(hidden.repeat(WORDS, 1), words, embedding).view(WORDS, 5)
    torch.testing.assert_close((-nll).exp().sum(0), torch.ones(5).double(), rtol=0, atol=1e-12)
    if not cutoffs:
        table = embedding.tables[0].get_parameter("weight")
        logits = softmax.projection(hidden) @ table.T + softmax.biases[0]
        torch.testing.assert_close(nll, -logits.log_softmax(1).T, rtol=0, atol=1e-12)
        return
    # torch's has no biases in the tails.
    for bias in list(softmax.biases)[1:]:
        nn.init.zeros_(bias)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(64, WORDS, list(cutoffs), div_val, True).double()
    identity = torch.eye(64).double()
    with torch.no_grad():
        head = torch.cat([embedding.tables[0].get_parameter("weight"), softmax.cluster_weight])
        theirs.head.weight.copy_(head @ softmax.projection(identity).T)
        theirs.head.bias.copy_(torch.cat([softmax.biases[0], softmax.cluster_bias]))
        for index, tail in enumerate(theirs.tail, start=1):
            tail[0].weight.copy_(embedding.narrow(identity, index).T)
            tail[1].weight.copy_(embedding.tables[index].get_parameter("weight"))
    ours = softmax(hidden.repeat(WORDS, 1), words, embedding).view(WORDS, 5)
    torch.testing.assert_close(ours, -theirs.log_prob(hidden).T, rtol=0, atol=1e-12)


def test_gradients_reach_every_weight() -> None:
    model = small()
    _, memory = model(TOKENS, TARGETS)
    model(TOKENS, TARGETS, memory)[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()), name
    # Zeros, not none, where a segment has no word of a cluster.
    model.zero_grad(set_to_none=True)
    model(TOKENS % 10, TARGETS % 10, memory)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_weights() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = TransformerXL(
            900, layers=2, width=256, inner=512, cutoffs=(500, 700), init_std=0.02
        )
    for name, weight in model.named_parameters():
        parameter = weight.detach()
        if parameter.dim() == 1 and not name.endswith(("norm1.weight", "norm2.weight")):
            assert not parameter.any(), name
        elif parameter.numel() > 5000:
            spread = 0.01 if "projection" in name else 0.02
            assert float(parameter.std()) == pytest.approx(spread, rel=0.05), name
        elif name.endswith("norm1.weight"):
            assert float(parameter.mean()) == pytest.approx(1, abs=0.01)
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.2)
    assert float(model.content_bias.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_dropout_is_drawn_for_the_whole_batch() -> None:
    def train(ranks: Ranks) -> Tensor:
        model = small(dropout=0.3, attention_dropout=0.3).train()
        WholeBatch(model, ranks, 2)
        torch.manual_seed(3)
        mine = ranks.slice(2)
        nll: Tensor = model(TOKENS[mine], TARGETS[mine])[0].detach()
        return nll

    with torch.random.fork_rng():
        whole = train(Ranks())
        parts = [train(Ranks(rank, 2)) for rank in range(2)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert float((whole - small()(TOKENS, TARGETS)[0]).abs().max().detach()) > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_likelihoods_are_in_single_precision_under_autocast(dtype: torch.dtype) -> None:
    model = small()
    exact, _ = read(model, [9, 9])
    with torch.autocast("cpu", dtype):
        rough, memory = read(model.float(), [9, 9])
    assert (rough.dtype, memory.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=0.1)
    assert bool((rough != rough.to(dtype).float()).any())


@pytest.mark.parametrize("shape", [{}, {"cutoffs": ()}, {"div_val": 1}], ids=str)
def test_flops_are_those_that_torch_counts(shape: dict[str, Any]) -> None:
    model = small(**shape)
    memory = torch.zeros(3, 2, 7, 64).double()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(TOKENS, TARGETS, memory)
    frequencies = TARGETS.flatten().bincount(minlength=WORDS).tolist()
    flops = model.flops_per_token(frequencies, segment=18, memory=7, batch=2)
    assert 36 * sum(flops.values()) == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert flops["layers.2.kv.weight"] == 2 * 64 * 64 * 25 / 18
    assert set(prunable_layers(model)) < set(flops)


@pytest.mark.parametrize("cutoffs", [(0, 5), (5, 5), (7, 5), (5, 40), (1, 2, 3, 4)], ids=str)
def test_refuses_cutoffs_that_leave_a_cluster_empty(cutoffs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cutoffs|width"):
        TransformerXL(40, width=64, layers=1, cutoffs=cutoffs)
