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
def austen(tmp_path_factory: pytest.TempPathFactory):
    """PreparedData of the embedded text, prepared once a session; read only."""
    from dblocks.data.prepare import prepare
    from dblocks.data.prepared import PreparedData

    return PreparedData(prepare("austen", None, tmp_path_factory.mktemp("data") / "austen").parent)


@pytest.fixture(scope="session")
def text_spec() -> Callable[..., Any]:
    """text_spec(method, {section: {field: value}}): a RunSpec on the embedded text whose steps take milliseconds."""
    from dblocks.config import merge
    from dblocks.spec import RunSpec

    def make(method: str = "diffusion_blocks", over: Mapping[str, Any] | None = None) -> RunSpec:
        fields = {
            "experiment": "mdm",
            "variant": method,
            "scale": "smoke",
            "task": {"name": "masked_text", "length": 16, "samples": 2, "sampling_steps": 8},
            "data": {"name": "austen", "max_evaluation_samples": 20},
            "network": {"name": "masked_lm", "layers": 3, "width": 16, "heads": 2, "mlp_ratio": 2.0, "dropout": 0.0},
            "method": {"name": method},
            "training": {"epochs": 1, "batch_size": 8, "learning_rate": 2e-3},
            "compute": {"device": "cpu"},
        }
        return RunSpec.model_validate(merge(fields, over or {}))

    return make


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
                "dropout": 0,
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


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded sentences as tokens of a BPE of 300, made once a session; read only."""
    from dblocks.data.prepare import prepare
    from dblocks.data.prepared import PreparedData
    from dblocks.data.tokens import TOKENIZER, tokenize
    from dblocks.data.vocabulary import train_vocabulary

    folder = tmp_path_factory.mktemp("tokens")
    data = PreparedData(prepare("austen_sentences", None, folder / "text").parent)
    train_vocabulary(data, 300, folder / "tokens" / TOKENIZER)
    return tokenize(data, "bpe300", "tokens-of-tests", folder / "tokens").parent
