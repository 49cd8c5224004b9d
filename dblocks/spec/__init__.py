"""RunSpec: the one description of a run, read by the plan, the trainer, the evaluator, W&B and the report.

Every field that can change a run's numbers is part of its identity (see `identity`); what cannot
(names, logging) is not. Where the paper is silent, or differs from its own code, both readings are
options by name; config/README.md argues the defaults.
"""

from dblocks.spec.base import Part
from dblocks.spec.budget import (
    AugmentSpec,
    ComputeSpec,
    DataSpec,
    LoggingSpec,
    RandAugmentSpec,
    ResourceSpec,
    TrainingSpec,
)
from dblocks.spec.methods import (
    BackpropSpec,
    ContrastiveForwardForwardSpec,
    DiffusionBlocksSpec,
    EndToEndSpec,
    ForwardForwardSpec,
    Method,
    NoiseSpec,
    NoPropCTSpec,
    NoPropDTSpec,
    NoPropFMSpec,
    RecurrentDepthSpec,
    SamplingSpec,
)
from dblocks.spec.networks import (
    AutoencoderSpec,
    DiTSpec,
    HuginnSpec,
    LlamaSpec,
    MaskedLMSpec,
    Network,
    NoPropCNNSpec,
    ViTSpec,
)
from dblocks.spec.run import IDENTITY_SECTIONS, RunSpec
from dblocks.spec.tasks import (
    AutoregressiveTextSpec,
    ClassificationSpec,
    GenerationSpec,
    ImageGenerationSpec,
    ImageReconstructionSpec,
    LatentsSpec,
    MaskedTextSpec,
    Task,
)

__all__ = [
    "IDENTITY_SECTIONS",
    "AugmentSpec",
    "AutoencoderSpec",
    "AutoregressiveTextSpec",
    "BackpropSpec",
    "ClassificationSpec",
    "ComputeSpec",
    "ContrastiveForwardForwardSpec",
    "DataSpec",
    "DiTSpec",
    "DiffusionBlocksSpec",
    "EndToEndSpec",
    "ForwardForwardSpec",
    "GenerationSpec",
    "HuginnSpec",
    "ImageGenerationSpec",
    "ImageReconstructionSpec",
    "LatentsSpec",
    "LlamaSpec",
    "LoggingSpec",
    "MaskedLMSpec",
    "MaskedTextSpec",
    "Method",
    "Network",
    "NoPropCNNSpec",
    "NoPropCTSpec",
    "NoPropDTSpec",
    "NoPropFMSpec",
    "NoiseSpec",
    "Part",
    "RandAugmentSpec",
    "RecurrentDepthSpec",
    "ResourceSpec",
    "RunSpec",
    "SamplingSpec",
    "Task",
    "TrainingSpec",
    "ViTSpec",
]
