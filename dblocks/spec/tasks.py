"""The tasks' parts of a RunSpec: what a network is trained for, and what it is evaluated by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dblocks.spec.base import Part


class ClassificationSpec(Part):
    """Labels from inputs; accuracy."""

    name: Literal["classification"] = "classification"


class MaskedTextSpec(Part):
    """Masked diffusion on characters (MD4, Shi et al. 2024); bits per character."""

    name: Literal["masked_text"] = "masked_text"
    length: int = Field(256, ge=2, description="Characters of a window, in training and evaluation.")
    schedule: Literal["linear", "cosine"] = Field("linear", description="Masking schedule α(t).")
    evaluation_times: int = Field(16, ge=16, description="Times t per evaluated window, stratified over [0, 1].")
    samples: int = Field(16, ge=1, description="Texts sampled at the end, written beside the record.")
    sampling_steps: int = Field(256, ge=1, description="Steps of the ancestral sampler.")
    sampling_grid: Literal["cosine", "equal_mass"] = Field(
        "cosine", description="Times of the sampler: cos(π/2·i/steps) (MD4's), or equal steps in α."
    )


class AutoregressiveTextSpec(Part):
    """Tokens from those before them; cross-entropy, and MAUVE, generative perplexity and diversity of continuations."""

    name: Literal["autoregressive_text"] = "autoregressive_text"
    length: int = Field(256, ge=2, description="Tokens of a window, in training and evaluation.")
    tokenizer: str = Field(
        "llama2-tokenizer",
        pattern=r"^(bpe[1-9]\d*|[a-z0-9]+-tokenizer)$",
        description="A published one by name, or bpe<size>, trained on the training split.",
    )
    epoch_tokens: int = Field(
        ge=1, description="Tokens that count as one epoch: a plan is made before there are any tokens to count."
    )
    cross_entropy_windows: int = Field(1000, ge=1, description="Windows of the evaluation split, evenly spread.")
    prompts: int = Field(1000, ge=0, description="Texts of the evaluation split to go on from; 0: none is generated.")
    continuations: int = Field(5, ge=1, description="Continuations of each prompt.")
    prompt_tokens: int = Field(50, ge=1, description="Length of a prompt, tokens.")
    continuation_tokens: int = Field(50, ge=1, description="Of continuations and of references alike.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus of next-token sampling; block-wise runs are greedy.")
    cache: bool = Field(True, description="Keep keys and values of what was read; off, the same tokens take longer.")
    batch_size: int = Field(250, ge=1, description="Continuations generated together.")
    mauve_scales: tuple[float, ...] = Field((2.0, 0.2, 5.0), description="MAUVE's scaling factors, primary first.")
    features: str | None = Field(
        None, description="Model behind MAUVE: published by name, or the <experiment>/<variant> that trains one."
    )
    teachers: tuple[str, ...] = Field((), description="Models behind generative perplexities, likewise.")
    needed_identities: dict[str, str] | None = Field(None, description="Of those runs, by role; filled in.")

    @model_validator(mode="after")
    def _consistent(self):
        size = int(self.tokenizer[3:]) if self.tokenizer.startswith("bpe") else None
        if size is not None and not 257 <= size <= 2**16:
            raise ValueError(f"tokenizer '{self.tokenizer}': size must be 257 (bytes and the end) to {2**16}")
        if self.prompts and self.prompt_tokens + self.continuation_tokens > self.length:
            raise ValueError(
                f"prompt_tokens {self.prompt_tokens} + continuation_tokens {self.continuation_tokens} are more than "
                f"length {self.length}"
            )
        if not self.prompts and (self.features or self.teachers):
            raise ValueError("features and teachers judge what is generated: give prompts, or leave them out")
        if not self.mauve_scales or min(self.mauve_scales) <= 0:
            raise ValueError(f"mauve_scales {list(self.mauve_scales)}: at least one, all above 0")
        return self

    def _models(self) -> dict[str, str]:
        features = {"features": self.features} if self.features else {}
        return features | {f"teacher:{name}": name for name in self.teachers}

    def needed_runs(self) -> dict[str, str]:
        """The runs whose weights this one reads, by role: `features`, `teacher:<name>`."""
        return {role: name for role, name in self._models().items() if "/" in name}

    def needed_weights(self) -> dict[str, str]:
        """The published weights this run reads, by role."""
        return {role: name for role, name in self._models().items() if "/" not in name}

    def with_identities(self, identities: dict[str, str]) -> AutoregressiveTextSpec:
        """The same with the identities of the runs it reads, by role."""
        return self.model_copy(update={"needed_identities": identities})


class ImageGenerationSpec(Part):
    """Images from labels and noise; FID and KID. What it is evaluated by is the section `generation`."""

    name: Literal["image_generation"] = "image_generation"


class ImageReconstructionSpec(Part):
    """Images through an autoencoder and back; squared error."""

    name: Literal["image_reconstruction"] = "image_reconstruction"


Task = Annotated[
    ClassificationSpec | MaskedTextSpec | AutoregressiveTextSpec | ImageGenerationSpec | ImageReconstructionSpec,
    Field(discriminator="name"),
]


class LatentsSpec(Part):
    """Diffusion in the latent space of a frozen autoencoder; images are encoded once, samples are decoded."""

    autoencoder: str = Field(
        "sd-vae-ft-ema", description="Published weights by name, or the <experiment>/<variant> that trains one."
    )
    autoencoder_identity: str | None = Field(None, description="Identity of that run; filled in when resolved.")
    scale: Literal["sd", "sd_half", "unit", "half"] = Field(
        "sd",
        description="Factor on latents: 0.18215 (Stable Diffusion's, deviation about 1), half of it, or whatever gives "
        "the training latents deviation 1 or 0.5.",
    )


class GenerationSpec(Part):
    """What an image generator is evaluated by. Belongs to task image_generation alone."""

    samples: int = Field(50_000, ge=2, description="Images drawn for one evaluation, labels uniformly at random.")
    repeats: int = Field(3, ge=1, description="Evaluations, each of its own samples; the least FID counts (EDM).")
    batch_size: int = Field(500, ge=1, description="Images drawn together, one file a batch.")
    guidance: float = Field(2.0, ge=0, description="Classifier-free guidance scale on D at every σ; 1 is none.")
    extractor: Literal["inception", "classifier"] = Field(
        "inception", description="Features of FID: Inception 2015, or a classifier trained on the same data."
    )
    test_resize: Literal["clean", "tensorflow"] = Field(
        "clean",
        description="How images come to Inception's 299 pixels, against the evaluation split: clean-fid's or train's.",
    )
    classifier: str | None = Field(None, description="The <experiment>/<variant> that trains the classifier.")
    classifier_identity: str | None = Field(None, description="Identity of that run; filled in when resolved.")
    kid_subsets: int = Field(100, ge=1)
    kid_subset_size: int = Field(1000, ge=2, description="Cut to the smaller of the two sets.")
    latents: LatentsSpec | None = Field(None, description="Diffuse latents instead of pixels.")

    @model_validator(mode="after")
    def _classifier_is_named(self):
        if self.extractor == "classifier" and self.classifier is None:
            raise ValueError("extractor 'classifier' needs classifier: the <experiment>/<variant> that trains it")
        if self.extractor == "classifier" and self.test_resize != "clean":
            raise ValueError(
                "test_resize is Inception's, extractor 'classifier' reads images as they are: leave it out"
            )
        return self

    def needed_runs(self) -> dict[str, str]:
        """The runs whose weights this one reads, by role: `extractor`, `autoencoder`."""
        runs = {"extractor": self.classifier} if self.extractor == "classifier" else {}
        if self.latents is not None and "/" in self.latents.autoencoder:
            runs["autoencoder"] = self.latents.autoencoder
        return runs

    def needed_weights(self) -> dict[str, str]:
        """The published weights this run reads, by role."""
        weights = {"extractor": "inception"} if self.extractor == "inception" else {}
        if self.latents is not None and "/" not in self.latents.autoencoder:
            weights["autoencoder"] = self.latents.autoencoder
        return weights

    def with_identities(self, identities: dict[str, str]) -> GenerationSpec:
        """The same with the identities of the runs it reads, by role."""
        update: dict[str, Any] = {"classifier_identity": identities.get("extractor")}
        if "autoencoder" in identities:
            latents = {"autoencoder_identity": identities["autoencoder"]}
            update["latents"] = self.latents.model_copy(update=latents)
        return self.model_copy(update=update)
