"""Import torchvision also beside a torch of another build.

The registry's torchvision wheel is built for CUDA; beside a CPU-only torch it does not find the operators whose
fake kernels it registers when it is imported. Declaring their schemas is enough: nothing here ever calls them.
"""

from __future__ import annotations

import importlib

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list = []  # a library's schemas go when it does


def ensure_torchvision() -> None:
    """Make `import torchvision` work from here on, if it is installed."""
    import torch

    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in OPERATORS:
            library.define(schema)
        _declared.append(library)
        importlib.import_module("torchvision")
