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


class ImageGenerationSpec(Part):
    """Images from labels and noise; FID and KID. What it is evaluated by is the section `generation`."""

    name: Literal["image_generation"] = "image_generation"


class ImageReconstructionSpec(Part):
    """Images through an autoencoder and back; squared error."""

    name: Literal["image_reconstruction"] = "image_reconstruction"


Task = Annotated[
    ClassificationSpec | MaskedTextSpec | ImageGenerationSpec | ImageReconstructionSpec, Field(discriminator="name")
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
    classifier: str | None = Field(None, description="The <experiment>/<variant> that trains the classifier.")
    classifier_identity: str | None = Field(None, description="Identity of that run; filled in when resolved.")
    kid_subsets: int = Field(100, ge=1)
    kid_subset_size: int = Field(1000, ge=2, description="Cut to the smaller of the two sets.")
    latents: LatentsSpec | None = Field(None, description="Diffuse latents instead of pixels.")

    @model_validator(mode="after")
    def _classifier_is_named(self):
        if self.extractor == "classifier" and self.classifier is None:
            raise ValueError("extractor 'classifier' needs classifier: the <experiment>/<variant> that trains it")
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
