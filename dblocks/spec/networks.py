"""The networks' parts of a RunSpec, sizes of the paper by default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dblocks.spec.base import Part


def heads_divide_width(spec: Any) -> Any:
    """Raises: ValueError unless every head has as many channels."""
    if spec.width % spec.heads:
        raise ValueError(f"width {spec.width} is not a multiple of heads {spec.heads}")
    return spec


def head_widths_are_even(spec: Any) -> Any:
    """Raises: ValueError unless a head's channels make pairs, which rotary positions turn."""
    if spec.width % (2 * spec.heads):
        raise ValueError(f"width {spec.width} is not a multiple of twice the heads {spec.heads}")
    return spec


class ViTSpec(Part):
    """Vision Transformer (Dosovitskiy et al. 2021), Table 1's sizes by default but for the MLP's."""

    name: Literal["vit"] = "vit"
    layers: int = Field(12, ge=1)
    width: int = Field(128, ge=1)
    heads: int = Field(4, ge=1)
    patch_size: int = Field(4, ge=1)
    mlp_ratio: float = Field(4.0, gt=0, description="Width inside the MLP over `width`; 24 in Table 1's official code.")
    dropout: float = Field(0.1, ge=0, lt=1)
    mlp_dropout: bool = Field(
        True, description="Whether it is dropped inside the MLP too, as the official code does not."
    )
    initial_deviation: float | None = Field(
        None,
        gt=0,
        description="Deviation of linear layers' first weights, biases 0: 0.02 in the official code; None for "
        "PyTorch's own.",
    )

    _heads = model_validator(mode="after")(heads_divide_width)


class MaskedLMSpec(Part):
    """Transformer over characters with rotary positions and time conditioning, sizes of Table 3 by default."""

    name: Literal["masked_lm"] = "masked_lm"
    layers: int = Field(12, ge=1)
    width: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    rotary_base: float = Field(10000.0, gt=1, description="Base of the rotary positions' wavelengths.")
    time_scale: float = Field(1000.0, gt=0, description="Factor on t before its sinusoidal embedding.")

    _heads = model_validator(mode="after")(head_widths_are_even)


class DiTSpec(Part):
    """Diffusion Transformer (Peebles & Xie 2023), S/2 by default."""

    name: Literal["dit"] = "dit"
    layers: int = Field(12, ge=1)
    width: int = Field(384, ge=4, multiple_of=4, description="A multiple of 4: half of the positions per axis.")
    heads: int = Field(6, ge=1)
    patch_size: int = Field(2, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    label_dropout: float = Field(0.1, ge=0, le=1, description="Share of training labels replaced by the null class.")

    _heads = model_validator(mode="after")(heads_divide_width)


class LlamaSpec(Part):
    """Causal transformer after Llama 2 (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU, no biases; sizes of
    the paper's Table 4 by default."""

    name: Literal["llama"] = "llama"
    layers: int = Field(12, ge=1)
    width: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)
    hidden: int = Field(2048, ge=1, description="Width inside the gated MLP; 8/3 of the width, as in Llama.")
    dropout: float = Field(0.0, ge=0, lt=1)
    rotary_base: float = Field(10000.0, gt=1, description="Base of the rotary positions' wavelengths.")
    attention: Literal["auto", "masked", "flex", "split"] = Field(
        "auto",
        description="How blocks attend over [noisy | clean]: `masked`, SDPA with a boolean mask; `flex`, FlexAttention "
        "with a block mask (CUDA); `split`, SDPA of each half; `auto`: split on a CPU, flex on CUDA.",
    )

    _heads = model_validator(mode="after")(head_widths_are_even)


class HuginnSpec(Part):
    """Recurrent depth (Geiping et al. 2025) at the size of Pythia-70M, sizes of the paper's Table 5 by default."""

    name: Literal["huginn"] = "huginn"
    prelude: int = Field(2, ge=1, description="Layers that read the tokens, once.")
    recurrent: int = Field(4, ge=1, description="Layers that are iterated on the state.")
    coda: int = Field(2, ge=1, description="Layers that read the last state.")
    width: int = Field(512, ge=1)
    heads: int = Field(8, ge=1)
    hidden: int = Field(2048, ge=1, description="Width inside the gated MLP.")
    rotary_base: float = Field(50000.0, gt=1, description="Base of the rotary positions' wavelengths.")
    iterations: int = Field(
        32, ge=1, description="Of the baseline: of inference, and about the mean of training; initial weights suit it."
    )
    depth_curve: tuple[int, ...] = Field(
        (1, 2, 4, 8, 16), description="Other numbers of iterations that text is written with, for the depth curve."
    )

    @property
    def layers(self) -> int:
        """Layers with weights of their own."""
        return self.prelude + self.recurrent + self.coda

    _heads = model_validator(mode="after")(head_widths_are_even)

    @model_validator(mode="after")
    def _consistent(self):
        if any(k < 1 or k == self.iterations for k in self.depth_curve):
            raise ValueError(f"depth_curve {list(self.depth_curve)}: from 1, and without iterations {self.iterations}")
        return self


class AutoencoderSpec(Part):
    """A small convolutional autoencoder, the stand-in for a published one where that cannot be had."""

    name: Literal["autoencoder"] = "autoencoder"
    layers: int = Field(1, ge=1, description="Stages, each of which halves the image's sides.")
    width: int = Field(32, ge=1, description="Channels of the hidden convolutions.")
    latent_channels: int = Field(4, ge=1)


class NoPropCNNSpec(Part):
    """NoProp's CNN (Li, Teh & Pascanu 2025, Figure 6). It has no layers to cut: a block is a complete copy of it.

    Which of its parts a copy has is the method's: a time branch where there is continuous time or noise.
    """

    name: Literal["noprop_cnn"] = "noprop_cnn"
    embedding: Literal["one_hot", "learned", "prototype"] = Field(
        "prototype",
        description="Class embeddings: the identity, learned vectors, or learned images that begin as a typical one.",
    )
    embedding_dim: int = Field(20, ge=1, description="Dimension of embedding `learned`.")
    norm: Literal["batch", "none"] = Field(
        "batch", description="Batch norm and a residual pair in the label branch (NoProp-DT), or neither (NoProp-CT)."
    )
    label_branch: Literal["own", "shared"] = Field(
        "own", description="Weights of the convolutions that read an image-shaped z: its own, or the image's."
    )
    channels: tuple[int, int, int] = (32, 64, 128)
    width: int = Field(256, ge=2, description="Features of each branch; the fusion halves them once.")
    time_features: int = Field(64, ge=2, multiple_of=2, description="Sinusoids of the time branch.")
    dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _shared_branch_reads_images(self):
        if self.label_branch == "shared" and self.embedding != "prototype":
            raise ValueError(f"label_branch 'shared' reads images; embedding '{self.embedding}' is a vector")
        return self


Network = Annotated[
    ViTSpec | MaskedLMSpec | DiTSpec | LlamaSpec | HuginnSpec | AutoencoderSpec | NoPropCNNSpec,
    Field(discriminator="name"),
]
