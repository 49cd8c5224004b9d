"""A discrete target as an embedding: what is denoised, the loss on logits, and the way back from them.

Shapes: N labels or tokens, K of them in the table, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dblocks.spec import DiffusionBlocksSpec


class EmbeddingTarget:
    """A denoiser's side of a discrete target (paper, Section 4.1); it has a `table` [K, D] and its `method`."""

    table: nn.Embedding
    method: DiffusionBlocksSpec

    def target(self, labels: Tensor) -> Tensor:
        """Labels [N] → y [N, D], unit norm against collapse."""
        return F.normalize(self.table(labels), dim=-1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy per sample [N], in place of the squared error for a discrete target (paper, Section 4.1)."""
        return F.cross_entropy(logits.float(), labels, reduction="none")

    def bridge(self, logits: Tensor) -> Tensor:
        """Logits [N, K] → the clean embedding they stand for [N, D], by the rule named in the spec."""
        rule = self.method.sampling
        table = self.table.weight if rule.bridge_table == "raw" else F.normalize(self.table.weight, dim=-1)
        return embed_logits(logits, table, rule.bridge, rule.top_k)


def embed_logits(logits: Tensor, table: Tensor, rule: str, top_k: int) -> Tensor:
    """Logits [N, K] and a table [K, D] → embeddings [N, D].

    `soft`: softmax(logits)·table (official ViT code); `hard`: the likeliest row; `topk`: the softmax
    mixture of the `top_k` likeliest.
    """
    if rule == "hard":
        return table[logits.argmax(dim=-1)]
    if rule == "topk":
        kept = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        logits = logits.new_full(logits.shape, float("-inf")).scatter(-1, kept.indices, kept.values)
    return logits.float().softmax(dim=-1) @ table
