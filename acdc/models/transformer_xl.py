"""Transformer-XL (Dai et al. 2019), as the large WikiText-103 model of AC/DC's experiments has it.

That is NVIDIA's (DeepLearningExamples, wt103_large.yaml), which follows the authors' PyTorch code:
normalisation after each residual sum, biases of the attention shared by all layers, and adaptive
embeddings that share their tables, and all projections but the first, with the softmax. Different
is that queries have a layer of their own, so that none is computed for the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acdc.models.adaptive_softmax import AdaptiveEmbedding, AdaptiveSoftmax, at_least_single
from acdc.models.dropout import Dropout


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by position into scores by key (Dai et al. 2019, Appendix B).

    Args:
        scores: (B, H, T, K), contiguous; column c is for a key K - 1 - c tokens before the query.

    Returns:
        The same shape; column j is for key j of K, of which the last T are the queries' tokens.
        What is right of a query's own token has no meaning.
    """
    batch, heads, queries, keys = scores.shape
    padded = F.pad(scores, (1, 0)).view(batch, heads, keys + 1, queries)
    return padded[:, :, 1:].view(scores.shape)


class Layer(nn.Module):
    """Attention over the memory and the segment, then two linear layers, each with a residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        inner: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.shape = (heads, head_width)
        self.q = nn.Linear(width, heads * head_width, bias=False)
        self.kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.r = nn.Linear(width, heads * head_width, bias=False)
        self.o = nn.Linear(heads * head_width, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.attention_dropout = Dropout(attention_dropout)

    def forward(
        self, hidden: Tensor, memory: Tensor, positions: Tensor, biases: Tensor, hides: Tensor
    ) -> Tensor:
        """Return the next hidden states.

        Args:
            hidden: (B, T, width).
            memory: this layer's earlier inputs, (B, M, width).
            positions: sinusoids of the distances M + T - 1 to 0, (M + T, width).
            biases: of queries for content and for position, (2, H, head width).
            hides: which keys a query must not see, (T, M + T).
        """
        queries = self.q(hidden).unflatten(-1, self.shape)
        both = self.kv(torch.cat([memory, hidden], dim=1)).unflatten(-1, (2, *self.shape))
        keys, values = both.permute(2, 0, 3, 1, 4)  # each (B, H, M + T, head width)
        distances = self.r(positions).unflatten(-1, self.shape).permute(1, 2, 0)
        # Scaled before the products, which are larger, and in fp16 might overflow.
        of_content, of_position = (
            ((queries + bias) * self.shape[1] ** -0.5).transpose(1, 2) for bias in biases
        )
        scores = of_content @ keys.transpose(2, 3) + relative_shift(of_position @ distances)
        scores.masked_fill_(hides, -torch.inf)
        weights = self.attention_dropout(
            scores.softmax(dim=-1, dtype=at_least_single(scores.dtype))
        )
        attended = (weights @ values).transpose(1, 2).flatten(2)
        hidden = self.norm1(hidden + self.dropout(self.o(attended)))
        inner = self.dropout(torch.relu(self.inner(hidden)))
        output: Tensor = self.norm2(hidden + self.dropout(self.outer(inner)))
        return output


class TransformerXL(nn.Module):
    """A language model over words, with a memory of each layer's inputs for earlier segments.

    The defaults are those of the large WikiText-103 model.

    Args:
        vocabulary: number of words, which are numbered by falling frequency.
        layers: of attention and feed-forward networks.
        width: of the hidden states.
        heads: of the attention.
        head_width: of each of them.
        inner: width within the feed-forward networks.
        memory: how many tokens' inputs are kept.
        dropout: of embeddings, positions and the outputs of all layers.
        attention_dropout: of the weights of the attention.
        cutoffs: the first word of each cluster of rarer words; NVIDIA's are three below the
            authors', so that a GPU's matrix products have a multiple of eight outputs.
        div_val: how many times narrower each cluster's embeddings are than those of the one before;
            with 1, there are no projections.
        init_std: of the initial weights; the authors' is 0.02, also for the smaller models.

    Raises:
        ValueError: the cutoffs do not increase within the vocabulary, or leave no width.
    """

    frequencies: Tensor

    def __init__(
        self,
        vocabulary: int,
        *,
        layers: int = 18,
        width: int = 1024,
        heads: int = 16,
        head_width: int = 64,
        inner: int = 4096,
        memory: int = 384,
        dropout: float = 0.2,
        attention_dropout: float = 0.2,
        cutoffs: Sequence[int] = (19_997, 39_997, 199_997),
        div_val: int = 4,
        init_std: float = 0.005,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.embedding = AdaptiveEmbedding(vocabulary, width, cutoffs, div_val)
        self.dropout = Dropout(dropout)
        self.content_bias = nn.Parameter(torch.empty(heads, head_width))
        self.position_bias = nn.Parameter(torch.empty(heads, head_width))
        self.layers = nn.ModuleList(
            Layer(width, heads, head_width, inner, dropout, attention_dropout)
            for _ in range(layers)
        )
        self.softmax = AdaptiveSoftmax(self.embedding, width)
        frequencies = 10_000.0 ** -(torch.arange(0, width, 2) / width)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self._initialise(init_std)

    def _initialise(self, std: float) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.01 if "projection" in name else std)
            elif name.endswith(("norm1.weight", "norm2.weight")):
                nn.init.normal_(parameter, 1.0, std)
            else:
                nn.init.zeros_(parameter)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        memory: Tensor | None = None,
        *,
        memory_length: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the negative log-likelihoods (natural, single precision) and the next memory.

        Args:
            tokens: (B, T).
            targets: the word after each token, (B, T).
            memory: what the segment before returned, (layers, B, M, width); None is empty.
            memory_length: how many tokens' inputs are kept, if other than in training.

        Returns:
            (B, T) and (layers, B, at most the memory's length, width), detached.
        """
        kept = self.memory if memory_length is None else memory_length
        hidden: Tensor = self.dropout(self.embedding(tokens))
        if memory is None:
            batch, _, width = hidden.shape
            memory = hidden.new_empty(len(self.layers), batch, 0, width)
        segment, earlier = tokens.shape[1], memory.shape[2]
        hides = hidden.new_ones(segment, earlier + segment, dtype=torch.bool).triu(earlier + 1)
        positions = self._positions(earlier + segment)
        biases = torch.stack([self.content_bias, self.position_bias])
        inputs = []
        for layer, remembered in zip(self.layers, memory, strict=True):
            inputs.append(hidden.detach()[:, max(0, segment - kept) :])
            hidden = layer(hidden, remembered, positions, biases, hides)
        old = memory[:, :, earlier - min(earlier, max(0, kept - segment)) :]
        memory = torch.cat([old.detach(), torch.stack(inputs)], dim=2)
        flat = self.dropout(hidden).flatten(0, 1)
        nll: Tensor = self.softmax(flat, targets.flatten(), self.embedding)
        return nll.view(targets.shape), memory

    def _positions(self, length: int) -> Tensor:
        """Return sinusoids (length, width) of the distances from length - 1 to 0."""
        distances = torch.arange(length - 1, -1, -1, device=self.frequencies.device)
        angles = torch.outer(distances, self.frequencies)
        sinusoids = torch.cat([angles.sin(), angles.cos()], dim=1)
        # Not a dropout layer: these are shared by the batch, of which a process may have a part.
        return F.dropout(sinusoids, self.dropout.p, self.training)

    def flops_per_token(
        self, frequencies: Sequence[float], segment: int, memory: int, batch: int
    ) -> dict[str, float]:
        """Return the FLOPs of a dense forward pass per token: two per multiply-add.

        Counted is what is computed: keys and values of the memory as well, positions once for a
        batch, scores of keys that are hidden, each cluster's softmax as often as its words occur,
        and all clusters' projections of each embedding. Not counted are biases, normalisation, the
        functions within softmax and the sums of embeddings.

        Args:
            frequencies: how often each word occurs, in any unit.
            segment: its length.
            memory: how many tokens' inputs are in it.
            batch: number of segments.

        Returns:
            By the name of the weight; attention's products as ``layers.N.attention``.
        """
        context = memory + segment
        bounds = pairwise(self.embedding.bounds)
        shares = [sum(frequencies[first:end]) / sum(frequencies) for first, end in bounds]
        uses = {}
        for cluster, share in enumerate(shares):
            tail = share if cluster else 0.0
            uses[f"embedding.projections.{cluster}.weight"] = 1 + tail
            uses[f"embedding.tables.{cluster}.weight"] = share if cluster else 1.0
        for layer in range(len(self.layers)):
            uses[f"layers.{layer}.kv.weight"] = context / segment
            uses[f"layers.{layer}.r.weight"] = context / (segment * batch)
        flops = {
            name: 2 * parameter.numel() * uses.get(name, 1.0)
            for name, parameter in self.named_parameters()
            if parameter.dim() == 2 and not name.endswith("bias")
        }
        products = 3 * context * self.content_bias.numel()
        return flops | {
            f"layers.{layer}.attention": 2.0 * products for layer in range(len(self.layers))
        }
