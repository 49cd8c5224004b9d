"""Made-up tokens are what a language model's run trains on: read by the task itself, of the right vocabulary."""

from __future__ import annotations

import pytest
import torch

from dblocks.build import build
from dblocks.config import resolve
from dblocks.measure.made_up import made_up_data, vocabulary_size


@pytest.mark.parametrize("run", ["huginn/recurrent_depth", "huginn/diffusion_blocks"])
def test_a_run_trains_on_made_up_tokens(run, tmp_path):
    spec = resolve(run, "smoke", 0, {"compute": {"device": "cpu"}})
    method, task = build(spec, made_up_data(spec, tmp_path / "data"), torch.device("cpu"))
    assert task.vocabulary.size == vocabulary_size("bpe512") == 512
    assert task.batch(0).inputs.shape == (16, 47) and task.batch(0).inputs.max() < 512
    method.training_step(0).loss.backward()


def test_published_tokenizers_have_32000_tokens():
    assert {vocabulary_size(name) for name in ("llama2-tokenizer", "tinyllama-tokenizer")} == {32000}
