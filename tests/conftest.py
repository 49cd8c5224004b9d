"""Shared by all tests: one torch thread, prepared digits, and small runs on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A test that passed passes again; shared machines have no deadlines.
hypothesis.settings.register_profile("dblocks", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("dblocks")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, prepared once a session; read only."""
    from dblocks.data.prepare import prepare

    return prepare("digits", None, tmp_path_factory.mktemp("data") / "digits").parent


@pytest.fixture(scope="session")
def digits(digits_folder: Path):
    """PreparedData of digits."""
    from dblocks.data.prepared import PreparedData

    return PreparedData(digits_folder)


@pytest.fixture(scope="session")
def tiny_spec() -> Callable[..., Any]:
    """tiny_spec(method, {section: {field: value}}): a RunSpec on digits whose steps take milliseconds."""
    from dblocks.config import merge
    from dblocks.spec import RunSpec

    def make(method: str = "diffusion_blocks", over: Mapping[str, Any] | None = None) -> RunSpec:
        fields = {
            "experiment": "vit",
            "variant": method,
            "scale": "smoke",
            "data": {"name": "digits"},
            "augment": {"crop_padding": 1},
            "network": {
                "name": "vit",
                "layers": 3,
                "width": 16,
                "heads": 2,
                "patch_size": 4,
                "mlp_ratio": 2.0,
                "dropout": 0.0,
            },
            "method": {"name": method},
            "training": {"epochs": 1, "batch_size": 16, "learning_rate": 2e-3},
            "compute": {"device": "cpu"},
        }
        return RunSpec.model_validate(merge(fields, over or {}))

    return make


@pytest.fixture(scope="session")
def built(digits) -> Callable[[Any], Any]:
    """built(spec): the method of a spec on digits, weights freshly initialised."""
    import torch

    from dblocks.build import build

    return lambda spec: build(spec, digits, torch.device("cpu"))[0]


@pytest.fixture(scope="session")
def awaken() -> Callable[..., Any]:
    """awaken(network): redraws all weights, since adaLN-zero makes fresh layers do nothing at all."""
    import torch

    def make(network: torch.nn.Module, seed: int = 0, deviation: float = 0.2) -> torch.nn.Module:
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(deviation * torch.randn(parameter.shape, generator=draws))
        return network

    return make
