"""Masked language model: characters and masks in, logits of the characters out, conditioned on the mask time.

End to end it is one block of all layers; block-wise the same layers are cut into denoisers, each from tokens to
logits. Layers, conditioning and head are those of DiT (Peebles & Xie 2023), with rotary positions; so is the
text transformer of SEDD and MDLM (kuleshov-group/mdlm, models/dit.py). Shapes: N windows, L characters, D width,
K characters in the alphabet; code K is the mask, which is never predicted: logits have K entries.
"""

from __future__ import annotations

from torch import Tensor, nn

from dblocks.networks.transformer import Modulation, NoiseEmbedding, RotaryPositions, TransformerLayer, modulate
from dblocks.partition import Partition, sets_of
from dblocks.spec import MaskedLMSpec


class MaskedEmbedders(nn.Module):
    """What a block needs besides its layers to read its input: characters and mask, and the time t."""

    def __init__(self, spec: MaskedLMSpec, num_characters: int):
        super().__init__()
        self.characters = nn.Embedding(num_characters + 1, spec.width)
        nn.init.normal_(self.characters.weight, std=0.02)
        self.time = NoiseEmbedding(spec.width, spec.time_scale)


class MaskedHead(nn.Module):
    """Hidden states [N, L, D] under a condition [N, D] → logits [N, L, K]; uniform at initialisation."""

    def __init__(self, width: int, num_characters: int, adaln: str):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = Modulation(width, 2, adaln)
        self.linear = nn.Linear(width, num_characters)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.linear(modulate(self.norm(x), *self.modulation(condition)))


class MaskedLM(nn.Module):
    """Transformer layers cut by `partition` into blocks that predict masked characters.

    Args:
        embedders: `shared`, `own` or `frozen`, as DiffusionBlocksSpec has it.
        adaln: where SiLU stands in the modulation, as there.
    """

    def __init__(
        self,
        spec: MaskedLMSpec,
        partition: Partition,
        num_characters: int,
        embedders: str = "shared",
        adaln: str = "dit",
    ):
        super().__init__()
        self.partition = partition
        copies, heads = sets_of(embedders, partition.num_blocks)
        self.embedders = nn.ModuleList(MaskedEmbedders(spec, num_characters) for _ in range(copies))
        self.embedders.requires_grad_(embedders != "frozen")
        self.heads = nn.ModuleList(MaskedHead(spec.width, num_characters, adaln) for _ in range(heads))
        self.layers = nn.ModuleList(
            TransformerLayer(spec.width, spec.heads, spec.mlp_ratio, spec.dropout, adaln) for _ in range(spec.layers)
        )
        self.rotary = RotaryPositions(spec.width // spec.heads, spec.rotary_base)
        self.dropout = nn.Dropout(spec.dropout)

    def denoise(self, block: int, tokens: Tensor, t: Tensor) -> Tensor:
        """Logits [N, L, K] of block `block` for tokens [N, L], codes 0 … K − 1 or the mask K, at times t [N]."""
        embedders = self.embedders[block % len(self.embedders)]
        condition = embedders.time(t)
        x = self.dropout(embedders.characters(tokens))
        rotation = self.rotary(tokens.shape[1], tokens.device)
        for i in self.partition.layers(block):
            x = self.layers[i](x, condition, rotation)
        return self.heads[block % len(self.heads)](x, condition)
