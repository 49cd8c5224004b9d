"""A published model as teacher: likelihoods and features against transformers and mauve-text themselves."""

import json

import numpy as np
import pytest
import torch

from dblocks.errors import UserError
from dblocks.metrics.teachers import published
from tests.metrics.conftest import TEXTS


@pytest.fixture(scope="module")
def model(gpt2_folder):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()


def test_nll_is_transformers_own_whatever_it_is_batched_with(teacher, model):
    rows = [teacher.encode(text) for text in TEXTS]
    assert len({len(row) for row in rows}) > 1
    for nll, row in zip(teacher.nll(rows), rows, strict=True):
        ids = torch.tensor([row])
        assert len(nll) == len(row) - 1
        assert nll.mean().item() == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


def test_rows_without_a_token_to_predict_have_no_nll(teacher):
    row = teacher.encode(TEXTS[0])
    found = teacher.nll([[], row, row[:1]])
    assert [len(nll) for nll in found] == [0, len(row) - 1, 0]
    assert torch.equal(found[1], teacher.nll([row])[0])


def test_features_are_those_of_mauve_text(teacher, model):
    from mauve.utils import featurize_tokens_from_model

    ids = [torch.tensor(teacher.encode(text)) for text in TEXTS]
    found = teacher.features(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, featurize_tokens_from_model(model, ids, 2).numpy(), rtol=1e-4, atol=1e-5)


def test_features_of_nothing_are_zeros_and_of_long_texts_those_of_their_beginning(teacher):
    long = " the" * 100
    beginning = " the" * teacher.max_length
    assert len(teacher.encode(beginning)) == teacher.max_length
    found = teacher.features(["", long, beginning])
    assert (found[0] == 0).all() and (found[1] == found[2]).all() and (found[1] != 0).any()


def test_the_name_holds_the_checksum(teacher, gpt2_manifest):
    digest = json.loads(gpt2_manifest.read_text())["sha256"]
    assert teacher.name == f"gpt2-large ({digest[:8]})" and teacher.key == "gpt2_large"


def test_a_pickle_is_no_substitute_for_safetensors(gpt2_folder, tmp_path, model):
    folder = tmp_path / "gpt2-large"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((gpt2_folder / name).read_bytes())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    from dblocks.weights import checksum

    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"name": "gpt2-large", "path": str(folder), "sha256": checksum(folder)}))
    with pytest.raises(UserError, match="no language model can be read"):
        published(manifest, torch.device("cpu"))


def test_a_teacher_judges_in_full_precision_also_where_a_run_is_evaluated_in_bf16(teacher):
    rows = [teacher.encode(text) for text in TEXTS]
    nll, features = teacher.nll(rows), teacher.features(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(teacher.nll(rows), nll, strict=True))
        assert np.array_equal(teacher.features(TEXTS), features)
