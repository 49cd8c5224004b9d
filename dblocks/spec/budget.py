"""The remaining parts of a RunSpec: data, budget, machine, bookkeeping."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dblocks.spec.base import Part


class RandAugmentSpec(Part):
    num_ops: int = Field(2, ge=1, description="Operations applied one after another to each image.")
    magnitude: int = Field(9, ge=0, le=30, description="Strength, a bin of 31.")


class AugmentSpec(Part):
    """Augmentation of training images; drawn for each sample anew."""

    crop_padding: int = Field(0, ge=0, description="Zero padding before a random crop back to size, pixels.")
    resized_crop: bool = Field(
        False, description="Instead: a random part, 8 to 100 % of the area, enlarged; torchvision's RandomResizedCrop."
    )
    flip: float = Field(0.0, ge=0, le=1, description="Probability of a horizontal flip; 0 for digits.")
    rand_augment: RandAugmentSpec | None = Field(None, description="RandAugment, or nothing.")

    @model_validator(mode="after")
    def _one_crop(self):
        if self.resized_crop and self.crop_padding:
            raise ValueError(
                f"crop_padding {self.crop_padding} and resized_crop are two crops; set one of them to 0 or false"
            )
        return self


class DataSpec(Part):
    name: str = Field(description="A data set of dblocks/data/registry.py.")
    path: str | None = Field(
        None, min_length=1, description="The user's own text, for characters, documents and sentences."
    )
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


class TrainingSpec(Part):
    """Optimiser and budget. One epoch is n_train // batch_size steps; block-wise methods take B times the steps,
    so that each layer gets as many updates as in the baseline (paper, Section 4)."""

    epochs: float = Field(gt=0, description="Of the baseline; a block-wise run takes B times its steps.")
    batch_size: int = Field(ge=1, description="Samples a step, over all processes; of text: windows.")
    learning_rate: float = Field(gt=0)
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="adam: weight decay is part of the gradient (L2), as NoProp-CT and -FM have it."
    )
    schedule: Literal["cosine", "constant"] = "cosine"
    min_learning_rate: float = Field(0.0, ge=0, description="Where the cosine ends.")
    warmup_epochs: float = Field(0.0, ge=0, description="Linear warm-up from 0, in epochs.")
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0, description="Decoupled with adamw.")
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

    @model_validator(mode="after")
    def _betas_average(self):
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)} must both be at least 0 and below 1")
        return self


class ComputeSpec(Part):
    """Where and how it is computed; part of the identity since the bits depend on it."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one.")
    threads: int = Field(1, ge=1, description="CPU threads of the job.")
    gpus: int = Field(
        1, ge=1, description="Processes that train together, a GPU each; each takes an equal share of every batch."
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Most samples that go through the network at once. A larger batch, or share of one, goes through "
        "in equal parts, whose gradients are averaged before the update; None: all at once.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 autocast on CUDA, fp32 on CPU.")
    compile: Literal["auto", "on", "blocks", "off"] = Field(
        "auto",
        description="torch.compile. on: the layers, which share one compiled graph; blocks: all of a step's loss, one "
        "graph a block, which takes longer to compile and leaves fewer kernels; auto: on CUDA blocks for a ViT that is "
        "trained end to end or by DiffusionBlocks and on for others, off without CUDA.",
    )
    deterministic: bool = Field(False, description="Bit-identical on CUDA too.")
    checkpoint_activations: bool = Field(
        False, description="Keep only what each layer is given and run it again in backward: less memory, more time."
    )

    @model_validator(mode="after")
    def _runs_again_what_is_compiled(self):
        if self.checkpoint_activations and self.compile == "blocks":
            raise ValueError(
                "checkpoint_activations runs each layer again: compile 'on' goes with it, 'blocks' does not"
            )
        return self


class LoggingSpec(Part):
    """Bookkeeping that changes no number."""

    log_every: int = Field(20, ge=1, description="Steps per line of log.jsonl; losses are fetched this often.")
    checkpoint_minutes: float = Field(10.0, ge=0, description="Least time between two checkpoints.")
    checkpoint_steps: int | None = Field(None, ge=1, description="Checkpoint every so many steps as well.")


class ResourceSpec(Part):
    """What a job of this run asks of the scheduler."""

    runtime_minutes: int = Field(60, ge=1, description="Time limit; on SLURM a job that nears it goes on in the queue.")
    mem_mb: int = Field(4000, ge=1, description="Memory of the host.")
    gpu: int = Field(
        0,
        ge=0,
        description="GPUs, for each of the processes (compute.gpus) that train together; at least one where "
        "compute.device is cuda.",
    )
