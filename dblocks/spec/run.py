"""RunSpec: its parts put together, and checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from dblocks.spec.base import Part
from dblocks.spec.budget import AugmentSpec, ComputeSpec, DataSpec, LoggingSpec, ResourceSpec, TrainingSpec
from dblocks.spec.fits import (
    LAYER_FIELDS,
    MASKED_FIELDS,
    METHODS_OF_NETWORK,
    PARTS_OF_TASK,
    SHARED,
    WHOLE_FIELDS,
    WITHOUT_LAYERS,
)
from dblocks.spec.methods import DiffusionBlocksSpec, Method
from dblocks.spec.networks import HuginnSpec, Network, NoPropCNNSpec, ViTSpec
from dblocks.spec.tasks import AutoregressiveTextSpec, ClassificationSpec, GenerationSpec, MaskedTextSpec, Task


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
        method = self.method
        if isinstance(method, DiffusionBlocksSpec) and not isinstance(self.network, NoPropCNNSpec):
            layers = self.network.layers
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
    def _can_be_shared(self):
        """Processes and micro-batches are shares of a batch: equal ones, of a loss that is a mean over samples."""
        gpus, batch, method = self.compute.gpus, self.training.batch_size, self.method
        if batch % gpus:
            raise ValueError(f"compute.gpus {gpus} does not divide training.batch_size {batch}")
        if batch // gpus % self.samples_at_once:
            share = "training.batch_size" if gpus == 1 else f"a process's share of training.batch_size {batch},"
            raise ValueError(f"compute.micro_batch {self.samples_at_once} does not divide {share} {batch // gpus}")
        if gpus == self.micro_batches == 1:
            return self
        field, value = ("gpus", gpus) if gpus > 1 else ("micro_batch", self.samples_at_once)
        fits = self.task.name in SHARED["task"] and method.name in SHARED["method"]
        if not fits or self.network.name in WITHOUT_LAYERS:  # batch norm sees the whole batch
            raise ValueError(
                f"compute.{field} {value}: {self.network.name}, {self.task.name} by {method.name} cannot be trained "
                "on shares of a batch"
            )
        if getattr(method, "weighting", None) == "official":
            raise ValueError(
                f"compute.{field} {value}: weighting 'official' is no mean over samples, it wants the whole batch"
            )
        if gpus > 1 and self.in_parallel:
            raise ValueError(f"compute.gpus {gpus}: with method.schedule 'parallel' each block's job has one")
        return self

    @model_validator(mode="after")
    def _parts_fit(self):
        """A task's networks and methods; nothing is set that its methods would not read."""
        fits = PARTS_OF_TASK[self.task.name]
        for section in ("network", "method"):
            name = getattr(self, section).name
            if name not in fits[section]:
                raise ValueError(f"{section}.name: '{name}' is not for task {self.task.name}; {fits[section]} are")
        if self.compute.checkpoint_activations and self.network.name in WITHOUT_LAYERS:
            raise ValueError(f"compute.checkpoint_activations: network {self.network.name} has no transformer layers")
        methods = METHODS_OF_NETWORK.get(self.network.name, fits["method"])
        if self.method.name not in methods:
            raise ValueError(
                f"method.name: '{self.method.name}' does not train network {self.network.name}; {methods} do"
            )
        if isinstance(self.task, MaskedTextSpec):
            self._leaves_out(DiffusionBlocksSpec.model_fields.keys() - MASKED_FIELDS, "masks (task masked_text)")
        if isinstance(self.network, NoPropCNNSpec):
            self._leaves_out(LAYER_FIELDS, "network noprop_cnn, whose blocks are whole copies")
        if isinstance(self.network, HuginnSpec):
            self._leaves_out(DiffusionBlocksSpec.model_fields.keys() - WHOLE_FIELDS, "network huginn, which is not cut")
        if (self.generation is not None) != (self.task.name == "image_generation"):
            raise ValueError(f"generation: task {self.task.name} {'has none' if self.generation else 'needs it'}")
        if getattr(self.network, "initial_deviation", None) and "forward_forward" in self.method.name:
            raise ValueError(
                f"network.initial_deviation: {self.method.name} has first weights of its own; leave it out"
            )
        if isinstance(self.method, DiffusionBlocksSpec) and not isinstance(self.network, ViTSpec):
            if self.method.head_preconditioning == "official":
                raise ValueError(f"method.head_preconditioning: 'official' is the ViT's, not of {self.network.name}")
            self._leaves_out(("target_deviation",), f"network {self.network.name}; it is the ViT's")
        if isinstance(self.method, DiffusionBlocksSpec):
            wrong = "embedding_rms" if self.task.name == "image_generation" else "data_rms"
            if self.method.noise.sigma_data == wrong:
                raise ValueError(f"method.noise.sigma_data '{wrong}' means nothing to task {self.task.name}")
            if (self.method.sigma_per is not None) != isinstance(self.task, AutoregressiveTextSpec):
                wanted = "needs it: token or sequence" if self.method.sigma_per is None else "has none"
                raise ValueError(f"method.sigma_per: task {self.task.name} {wanted}")
            if isinstance(self.task, AutoregressiveTextSpec) and self.method.label_token != "paper":
                raise ValueError(f"method.label_token: task {self.task.name} has no label; leave it out")
        return self

    @model_validator(mode="after")
    def _is_not_cut(self):
        """Huginn as a denoiser has no partition, and is iterated along the grid as often as the baseline."""
        method = self.method
        if isinstance(self.network, HuginnSpec) and isinstance(method, DiffusionBlocksSpec):
            if (method.num_blocks, method.overlap) != (1, 0):
                raise ValueError("method: Huginn has no partition; give num_blocks: 1 and overlap: 0")
            if method.sampling.steps != self.network.iterations:
                raise ValueError(
                    f"method.sampling.steps: {method.sampling.steps} should be network.iterations, "
                    f"{self.network.iterations}: both are the iterations of inference"
                )
        return self

    def changed(self, fields: Mapping[str, Any]) -> RunSpec:
        """The same run with some fields of its sections changed, checked anew."""
        content = self.model_dump()
        for section, values in fields.items():
            content[section] = {**content[section], **values}
        return RunSpec.model_validate(content)

    def _leaves_out(self, fields: Iterable[str], what: str) -> None:
        """Raises: ValueError if a block-wise run sets a field that nothing would read."""
        if isinstance(self.method, DiffusionBlocksSpec):
            for field in fields:
                if getattr(self.method, field) != DiffusionBlocksSpec.model_fields[field].default:
                    raise ValueError(f"method.{field}: has no meaning for {what}; leave it out")

    @property
    def needs(self) -> GenerationSpec | AutoregressiveTextSpec | None:
        """The section that names other runs and published weights that this run reads."""
        return self.task if isinstance(self.task, AutoregressiveTextSpec) else self.generation

    def needed_runs(self) -> dict[str, str]:
        """The runs, as <experiment>/<variant>, whose weights this one reads, by role."""
        return self.needs.needed_runs() if self.needs else {}

    def needed_weights(self) -> dict[str, str]:
        """The published weights this run reads, by role."""
        return self.needs.needed_weights() if self.needs else {}

    def with_identities(self, identities: dict[str, str]) -> RunSpec:
        """The same run with the identities of the runs it reads, by role, so that its own identity holds them."""
        section = "task" if self.needs is self.task else "generation"
        return self.model_copy(update={section: self.needs.with_identities(identities)})

    @property
    def gpu_count(self) -> int:
        """GPUs that its job asks for."""
        return self.gpus_of_a_process * self.compute.gpus

    @property
    def gpus_of_a_process(self) -> int:
        """GPUs that one process asks for: where it wants CUDA at least one."""
        return max(self.resources.gpu, int(self.compute.device == "cuda"))

    @property
    def samples_at_once(self) -> int:
        """Samples that go through the network at once: a micro-batch, or all that a process takes of a batch."""
        share = self.training.batch_size // self.compute.gpus
        return min(self.compute.micro_batch or share, share)

    @property
    def micro_batches(self) -> int:
        """Parts in which a process takes its share of a batch."""
        return self.training.batch_size // self.compute.gpus // self.samples_at_once

    @property
    def in_parallel(self) -> bool:
        """Whether each block is trained by a job of its own."""
        return isinstance(self.method, DiffusionBlocksSpec) and self.method.schedule == "parallel"

    @property
    def num_blocks(self) -> int:
        """B, the method's `num_blocks`, 1 for methods without: as many times the baseline's steps are taken, for a step
        trains one block."""
        return getattr(self.method, "num_blocks", 1)


# Sections of a spec that decide its numbers; names, seed, logging and resources do not belong.
IDENTITY_SECTIONS = ("task", "data", "augment", "network", "method", "training", "generation", "compute")
