"""RunSpec: the one description of a run, read by the plan, the trainer, the evaluator, W&B and the report.

Every field that can change a run's numbers is part of its identity (see `config.identity`); what cannot
(names, logging) is not. Where the paper is silent, or differs from its own code, both readings are
options by name; config/README.md argues the defaults.
"""

from __future__ import annotations

from math import log
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Part(BaseModel):
    """Base of every part of the configuration: typed, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RandAugmentSpec(Part):
    num_ops: int = Field(2, ge=1, description="Operations applied one after another to each image.")
    magnitude: int = Field(9, ge=0, le=30, description="Strength, a bin of 31.")


class AugmentSpec(Part):
    """Augmentation of training images; drawn for each sample anew."""

    crop_padding: int = Field(0, ge=0, description="Zero padding before a random crop back to size, pixels.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip; 0 for digits.")
    rand_augment: RandAugmentSpec | None = Field(None, description="RandAugment, or nothing.")


class DataSpec(Part):
    name: str = Field(description="A data set of dblocks/data/registry.py.")
    path: str | None = Field(None, description="The user's own text, for characters, documents and sentences.")
    title: str | None = Field(None, description="The name that text bears in records; default: the file's.")
    train_split: Literal["train", "fit"] = Field(
        "train", description="`train` is the whole training set, `fit` leaves out the fixed 10 % for validation."
    )
    evaluation_split: Literal["test", "validation"] = Field(
        "test", description="Where metrics are read. Choices are made on `validation`; test is read once."
    )

    max_evaluation_samples: int | None = Field(
        None, ge=1, description="Evaluate on the first so many samples only, to try things out."
    )

    @property
    def label(self) -> str:
        """The name results are shown under."""
        return self.title or self.name

    @model_validator(mode="after")
    def _validation_was_not_trained_on(self):
        if self.evaluation_split == "validation" and self.train_split != "fit":
            raise ValueError("evaluation_split 'validation' needs train_split 'fit', else it is trained on")
        return self


class ViTSpec(Part):
    """Vision Transformer (Dosovitskiy et al. 2021), sizes of the paper's Table 1 by default."""

    name: Literal["vit"] = "vit"
    layers: int = Field(12, ge=1)
    width: int = Field(128, ge=1)
    heads: int = Field(4, ge=1)
    patch_size: int = Field(4, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


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

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is not a multiple of twice the heads {self.heads}")
        return self


class DiTSpec(Part):
    """Diffusion Transformer (Peebles & Xie 2023), S/2 by default."""

    name: Literal["dit"] = "dit"
    layers: int = Field(12, ge=1)
    width: int = Field(384, ge=4, multiple_of=4, description="A multiple of 4: half of the positions per axis.")
    heads: int = Field(6, ge=1)
    patch_size: int = Field(2, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    label_dropout: float = Field(0.1, ge=0, le=1, description="Share of training labels replaced by the null class.")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class AutoencoderSpec(Part):
    """A small convolutional autoencoder, the stand-in for a published one where that cannot be had."""

    name: Literal["autoencoder"] = "autoencoder"
    layers: int = Field(1, ge=1, description="Stages, each of which halves the image's sides.")
    width: int = Field(32, ge=1, description="Channels of the hidden convolutions.")
    latent_channels: int = Field(4, ge=1)


class NoiseSpec(Part):
    """log σ ~ N(p_mean, p_std²), truncated to [sigma_min, sigma_max]; EDM preconditioning (paper, Section 3)."""

    p_mean: float = -1.2
    p_std: float = Field(1.2, gt=0)
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: Literal["paper", "embedding_rms", "data_rms"] = Field(
        "paper",
        description="0.5 as in the paper; the per-dimension RMS 1/√d of unit-norm embeddings; or the RMS measured on "
        "training images or latents.",
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        low, high = (NormalDist(self.p_mean, self.p_std).cdf(log(x)) for x in (self.sigma_min, self.sigma_max))
        if high - low < 1e-6:
            raise ValueError(f"[sigma_min, sigma_max] holds {high - low:.1g} of the noise: p_mean or p_std is off")
        return self


class SamplingSpec(Part):
    """How a clean target is reached from noise: Euler on the probability-flow ODE."""

    steps: int = Field(4, ge=1, description="Denoiser evaluations, the last one at sigma_min.")
    at_least_num_blocks: bool = Field(True, description="Take max(steps, B) steps, so that no block is left out.")
    grid: Literal["equal_mass", "rho7"] = Field(
        "equal_mass", description="Equal probability mass between noise levels (Appendix H), or EDM's ρ = 7."
    )
    tie_rule: Literal["lower", "official"] = Field(
        "lower", description="A noise level on a boundary goes to the block below it, or to the noisier one."
    )
    start_noise: Literal["paper", "official"] = Field(
        "paper", description="Deviation of the first z: σ_max, or √(1 + σ_max²)."
    )
    bridge: Literal["soft", "hard", "topk"] = Field(
        "soft", description="From logits back to an embedding: softmax mixture, the likeliest, or the k likeliest."
    )
    bridge_table: Literal["normalized", "raw"] = Field(
        "normalized", description="Table the bridge mixes: the normalised one of training, or the raw weights."
    )
    top_k: int = Field(5, ge=1, description="k of bridge `topk`.")


class EndToEndSpec(Part):
    """The baseline: the whole network, one loss, ordinary backpropagation."""

    name: Literal["end_to_end"] = "end_to_end"


class DiffusionBlocksSpec(Part):
    """Block-wise training as denoisers (the paper's method)."""

    name: Literal["diffusion_blocks"] = "diffusion_blocks"
    num_blocks: int = Field(3, ge=1)
    layers_per_block: tuple[int, ...] | None = Field(
        None, description="Layers of block 1, 2, … (block 1 is the noisiest); None cuts evenly."
    )
    partition: Literal["equi_probability", "uniform", "uniform_linear"] = Field(
        "equi_probability",
        description="Equal probability mass; equal intervals in log σ (Appendix E.6.2); or in σ (Section 3.3).",
    )
    overlap: float = Field(0.05, ge=0, description="γ: each training interval is widened by this share.")
    noise: NoiseSpec = NoiseSpec()
    weighting: Literal["paper", "official", "none"] = Field(
        "none", description="w(σ) per sample; mean loss times mean w as the official code does; or no weight."
    )
    block_order: Literal["iid", "rounds"] = Field(
        "iid", description="Block of each step: drawn independently (paper), or each once a round, shuffled."
    )
    embedders: Literal["shared", "own", "frozen"] = Field(
        "shared",
        description="Embedders and heads: one set trained by all blocks; one set a block; or one set of input "
        "embedders left at its initial values, with a head a block.",
    )
    target_table: Literal["trained", "frozen"] = Field(
        "trained", description="The table of target embeddings, always one for all blocks."
    )
    adaln: Literal["dit", "official"] = Field("dit", description="SiLU before (DiT) or after the modulation layer.")
    c_noise_scale: float = Field(1.0, gt=0, description="Factor on c_noise before its sinusoidal embedding.")
    label_token: Literal["paper", "official"] = Field(
        "paper",
        description="`paper`: [CLS], patches and a noisy label token, read at [CLS]; `official`: the noisy label "
        "token takes the place of [CLS] and is read.",
    )
    head_preconditioning: Literal["edm", "none"] = Field(
        "edm", description="Whether c_skip·z + c_out·F wraps the hidden state before the head."
    )
    sampling: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _consistent(self):
        if self.layers_per_block is not None:
            if any(n < 1 for n in self.layers_per_block):
                raise ValueError(f"layers_per_block {list(self.layers_per_block)} has a block without a layer")
            if len(self.layers_per_block) != self.num_blocks:
                raise ValueError(
                    f"layers_per_block {list(self.layers_per_block)} names {len(self.layers_per_block)} blocks, "
                    f"num_blocks is {self.num_blocks}"
                )
        if self.embedders != "shared" and self.target_table != "frozen":
            raise ValueError(
                f"embedders '{self.embedders}' isolates the blocks, so the target table they share must be "
                "frozen: set target_table to 'frozen'"
            )
        return self


class ContrastiveForwardForwardSpec(Part):
    """Contrastive Forward-Forward (Aghagolzadeh & Ezoji 2025): a supervised contrastive loss per layer,
    then a linear probe on the frozen features."""

    name: Literal["contrastive_forward_forward"] = "contrastive_forward_forward"
    temperature: float = Field(0.15, gt=0)
    first_margin: float = Field(0.4, ge=0, description="Margin on positive cosines in the first layer …")
    last_margin: float = Field(0.1, ge=0, description="… falling linearly to this one in the last.")
    probe_epochs: float = Field(50, gt=0, description="Epochs of the linear probe, after the layers' own.")
    probe_learning_rate: float = Field(5e-4, gt=0)


class ForwardForwardSpec(Part):
    """Forward-Forward (Hinton 2022) with a label token: high goodness for the right label, low for a wrong one."""

    name: Literal["forward_forward"] = "forward_forward"
    threshold: float = Field(2.0, gt=0, description="θ: goodness that divides positive from negative.")
    scored_layers: Literal["last", "all_but_first"] = Field(
        "last", description="Layers whose goodness decides the label (official CFF code: last; Hinton: all but first)."
    )


class TrainingSpec(Part):
    """Optimiser and budget. One epoch is n_train // batch_size steps; block-wise methods take B times the steps,
    so that each layer gets as many updates as in the baseline (paper, Section 4)."""

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    min_learning_rate: float = Field(0.0, ge=0, description="Where the cosine ends.")
    warmup_epochs: float = Field(0.0, ge=0, description="Linear warm-up from 0, in epochs.")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0)
    grad_clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; None clips nothing.")
    ema_half_life: float | None = Field(
        None, gt=0, description="Half-life of the weights' moving average in samples seen by them; None: off."
    )
    ema_ramp: float | None = Field(
        None, gt=0, description="The half-life is at most this share of the samples seen so far (EDM: 0.05)."
    )
    max_steps: int | None = Field(None, ge=1, description="Cut the baseline's step count here, to try things out.")

    @model_validator(mode="after")
    def _rates_fall(self):
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}")
        return self


class ComputeSpec(Part):
    """Where and how it is computed; part of the identity since the bits depend on it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(1, ge=1, description="CPU threads of the job.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on CUDA, fp32 on CPU.")
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto: on CUDA only.")
    deterministic: bool = Field(False, description="Bit-identical on CUDA too, at some cost in speed.")


class LoggingSpec(Part):
    """Bookkeeping that changes no number."""

    log_every: int = Field(20, ge=1, description="Steps per line of log.jsonl; losses are fetched this often.")
    checkpoint_minutes: float = Field(10.0, ge=0, description="Least time between two checkpoints.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Checkpoint every so many steps as well.")


class ResourceSpec(Part):
    """What a job of this run asks of the scheduler."""

    runtime_minutes: int = Field(60, ge=1)
    mem_mb: int = Field(4000, ge=1)
    gpu: int = Field(0, ge=0)


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


Network = Annotated[ViTSpec | MaskedLMSpec | DiTSpec | AutoencoderSpec, Field(discriminator="name")]
Method = Annotated[
    EndToEndSpec | DiffusionBlocksSpec | ContrastiveForwardForwardSpec | ForwardForwardSpec,
    Field(discriminator="name"),
]


PARTS_OF_TASK = {
    "classification": {
        "network": ("vit",),
        "method": ("end_to_end", "diffusion_blocks", "contrastive_forward_forward", "forward_forward"),
    },
    "masked_text": {"network": ("masked_lm",), "method": ("end_to_end", "diffusion_blocks")},
    "image_generation": {"network": ("dit",), "method": ("diffusion_blocks",)},
    "image_reconstruction": {"network": ("autoencoder",), "method": ("end_to_end",)},
}
# what a block-wise run on masks reads; the rest is about noise levels σ and a target in embedding space
MASKED_FIELDS = {
    "name",
    "num_blocks",
    "layers_per_block",
    "overlap",
    "block_order",
    "embedders",
    "target_table",
    "adaln",
}


class RunSpec(Part):
    """One run, whole: a network, the method that trains it, the data, the budget."""

    experiment: str = Field(pattern=r"^[a-z0-9_]+$")
    variant: str = Field(pattern=r"^[a-z0-9_]+$")
    scale: str = Field(pattern=r"^[a-z0-9_]+$")
    seed: int = Field(0, ge=0)
    task: Task = ClassificationSpec()
    data: DataSpec
    augment: AugmentSpec = AugmentSpec()
    network: Network
    method: Method
    training: TrainingSpec
    generation: GenerationSpec | None = Field(None, description="Of task image_generation, and of no other.")
    compute: ComputeSpec = ComputeSpec()
    logging: LoggingSpec = LoggingSpec()
    resources: ResourceSpec = ResourceSpec()

    @model_validator(mode="after")
    def _layers_add_up(self):
        layers, method = self.network.layers, self.method
        if isinstance(method, DiffusionBlocksSpec):
            if method.layers_per_block is not None and sum(method.layers_per_block) != layers:
                raise ValueError(
                    f"method.layers_per_block {list(method.layers_per_block)} sums to "
                    f"{sum(method.layers_per_block)}, network.layers is {layers}"
                )
            if method.layers_per_block is None and layers % method.num_blocks:
                raise ValueError(
                    f"network.layers {layers} cannot be cut evenly into {method.num_blocks} blocks: "
                    "give method.layers_per_block"
                )
        return self

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, task):
        """A task may be given by its name alone."""
        return {"name": task} if isinstance(task, str) else task

    @model_validator(mode="after")
    def _parts_fit(self):
        """A task's networks and methods; nothing is set that its methods would not read."""
        fits = PARTS_OF_TASK[self.task.name]
        for section in ("network", "method"):
            name = getattr(self, section).name
            if name not in fits[section]:
                raise ValueError(f"{section}.name: '{name}' is not for task {self.task.name}; {fits[section]} are")
        if isinstance(self.task, MaskedTextSpec) and isinstance(self.method, DiffusionBlocksSpec):
            for field in DiffusionBlocksSpec.model_fields.keys() - MASKED_FIELDS:
                if getattr(self.method, field) != DiffusionBlocksSpec.model_fields[field].default:
                    raise ValueError(f"method.{field}: has no meaning for masks (task masked_text); leave it out")
        if (self.generation is not None) != (self.task.name == "image_generation"):
            raise ValueError(f"generation: task {self.task.name} {'has none' if self.generation else 'needs it'}")
        if isinstance(self.method, DiffusionBlocksSpec):
            wrong = "embedding_rms" if self.task.name == "image_generation" else "data_rms"
            if self.method.noise.sigma_data == wrong:
                raise ValueError(f"method.noise.sigma_data '{wrong}' means nothing to task {self.task.name}")
        return self

    @property
    def num_blocks(self) -> int:
        """B: how many times the baseline's steps this run takes; 1 for methods without blocks."""
        return self.method.num_blocks if isinstance(self.method, DiffusionBlocksSpec) else 1


# Sections of a spec that decide its numbers; names, seed, logging and resources do not belong.
IDENTITY_SECTIONS = ("task", "data", "augment", "network", "method", "training", "generation", "compute")
