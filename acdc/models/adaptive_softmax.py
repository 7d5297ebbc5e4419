"""Adaptive embeddings and softmax (Baevski and Auli 2019, Grave et al. 2017) that share weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return a type that is not narrower than single precision."""
    return torch.promote_types(dtype, torch.float32)


class AdaptiveEmbedding(nn.Module):
    """Embeddings that get narrower from one cluster of words to the next, rarer one.

    Attributes:
        bounds: the first word of each cluster, and the size of the vocabulary.
        tables: an embedding per cluster, each ``div_val`` times narrower than the one before.
        projections: to the width of the network; identities if all tables have it.
    """

    def __init__(self, vocabulary: int, width: int, cutoffs: Sequence[int], div_val: int) -> None:
        super().__init__()
        self.bounds = [0, *cutoffs, vocabulary]
        if any(end <= first for first, end in pairwise(self.bounds)):
            raise ValueError(f"cutoffs {tuple(cutoffs)} do not increase from 1 to {vocabulary - 1}")
        if width < div_val ** len(cutoffs):
            raise ValueError(f"width {width} is less than {div_val} ** {len(cutoffs)}")
        self.scale = math.sqrt(width)
        self.tables = nn.ModuleList()
        self.projections = nn.ModuleList()
        for cluster, (first, end) in enumerate(pairwise(self.bounds)):
            size = width // div_val**cluster
            self.tables.append(nn.Embedding(end - first, size))
            projection = nn.Linear(size, width, bias=False) if div_val > 1 else nn.Identity()
            self.projections.append(projection)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors (..., width) of words (...), times the root of the width.

        Every cluster sees every token, as zeros where it is another's: selecting them would wait
        for the device.
        """
        total = torch.zeros((*tokens.shape, 1), device=tokens.device)  # single precision, or double
        layers = zip(pairwise(self.bounds), self.tables, self.projections, strict=True)
        for (first, end), table, projection in layers:
            outside = (tokens < first) | (tokens >= end)
            vectors = table((tokens - first) % (end - first))
            total = total + projection(vectors.masked_fill(outside[..., None], 0.0))
        return self.scale * total

    def narrow(self, hidden: Tensor, cluster: int) -> Tensor:
        """Return hidden states (N, width) in the space of a cluster's table, by its projection."""
        projection = self.projections[cluster]
        return hidden @ projection.weight if isinstance(projection, nn.Linear) else hidden


class AdaptiveSoftmax(nn.Module):
    """Softmax over the first cluster's words and the other clusters, and one within each of these.

    Its tables are the embedding's, and so are the projections of all clusters but the first.
    """

    cutoffs: Tensor

    def __init__(self, embedding: AdaptiveEmbedding, width: int) -> None:
        super().__init__()
        bounds = embedding.bounds
        self.register_buffer("cutoffs", torch.tensor(bounds[1:-1]), persistent=False)
        projected = isinstance(embedding.projections[0], nn.Linear)
        self.projection = nn.Linear(width, width, bias=False) if projected else nn.Identity()
        self.biases = nn.ParameterList(torch.zeros(end - first) for first, end in pairwise(bounds))
        self.tails = len(bounds) - 2
        if self.tails:
            self.cluster_weight = nn.Parameter(torch.empty(self.tails, width))
            self.cluster_bias = nn.Parameter(torch.zeros(self.tails))

    def forward(self, hidden: Tensor, targets: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """Return the negative log-likelihoods (N,) of words (N,) after hidden states (N, width)."""
        hidden_in_head = self.projection(hidden)
        table = embedding.tables[0].get_parameter("weight")
        if not self.tails:
            return self._nll(hidden_in_head, table, self.biases[0], targets)
        cluster = (targets[:, None] >= self.cutoffs).sum(1)
        nll = self._nll(
            hidden_in_head,
            torch.cat([table, self.cluster_weight]),
            torch.cat([self.biases[0], self.cluster_bias]),
            torch.where(cluster > 0, embedding.bounds[1] + cluster - 1, targets),
        )
        order = cluster.argsort(stable=True)
        # The one place that waits for the device: how many tokens each cluster has.
        sizes = torch.bincount(cluster, minlength=self.tails + 1).tolist()
        head, *members = torch.split(order, sizes)
        within = [torch.zeros_like(head, dtype=nll.dtype)]
        # A cluster without tokens is computed, too: its weights get gradients of zeros.
        for index, of_cluster in enumerate(members, start=1):
            rows = embedding.narrow(hidden[of_cluster], index)
            table = embedding.tables[index].get_parameter("weight")
            words = targets[of_cluster] - embedding.bounds[index]
            within.append(self._nll(rows, table, self.biases[index], words))
        return nll + torch.zeros_like(nll).scatter(0, order, torch.cat(within))

    def _nll(self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(hidden, weight, bias)
        return F.cross_entropy(logits.to(at_least_single(logits.dtype)), targets, reduction="none")
