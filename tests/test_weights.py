"""Published language models: found, checked, refused, and what a person is told to bring."""

import json

import pytest

from dblocks import weights
from dblocks.data.files import sha256_of
from dblocks.data.origins import WEIGHTS
from dblocks.errors import UserError
from dblocks.weights import LANGUAGE_MODELS, check_gate, checksum, missing_files, provide, read_manifest


def lay_out(folder, shards=("model.safetensors",)):
    """A folder with the files of a language model, of nonsense."""
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", *shards):
        (folder / name).write_text(name)
    if len(shards) > 1:
        index = {"weight_map": {f"layer{i}": shard for i, shard in enumerate(shards)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_model_in_the_data_directory_is_taken_and_named_by_its_content(tmp_path):
    folder = lay_out(tmp_path / "data" / "llama2", ("model-1.safetensors", "model-2.safetensors"))
    found = read_manifest(provide("llama2", tmp_path / "data", tmp_path / "llama2.json"))
    assert (found.name, found.path, found.sha256) == ("llama2", folder, checksum(folder))


@pytest.mark.parametrize("changed", ["model-2.safetensors", "tokenizer.json"])
def test_a_shard_or_tokenizer_that_changes_is_another_model(tmp_path, changed):
    folder = lay_out(tmp_path / "llama2", ("model-1.safetensors", "model-2.safetensors"))
    manifest = provide("llama2", tmp_path, tmp_path / "llama2.json")
    (folder / changed).write_text("changed")
    with pytest.raises(UserError, match="sha256"):
        read_manifest(manifest)


def test_missing_files_are_named(tmp_path):
    folder = lay_out(tmp_path / "llama2", ("model-1.safetensors", "model-2.safetensors"))
    assert missing_files(folder) == []
    (folder / "model-2.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    assert missing_files(folder) == ["tokenizer.json", "model-2.safetensors"]
    assert missing_files(tmp_path / "nowhere") == ["config.json", "tokenizer.json", "model.safetensors"]


def test_a_gated_model_that_is_not_there_says_how_to_bring_it_or_leave_it_out(tmp_path):
    for act in (lambda: check_gate("llama2", tmp_path), lambda: provide("llama2", tmp_path, tmp_path / "m.json")):
        with pytest.raises(UserError) as error:
            act()
        line = str(error.value)
        assert "\n" not in line and "--config skip=[llama2]" in line and str(tmp_path / "llama2") in line
    assert not (tmp_path / "m.json").exists()


def test_an_open_model_has_no_gate(tmp_path):
    check_gate("gpt2-xl", tmp_path)


def test_other_weights_than_the_published_ones_are_refused(tmp_path):
    lay_out(tmp_path / "gpt2-large")
    with pytest.raises(UserError, match=f"published one {WEIGHTS['gpt2-large'].sha256[:16]}"):
        provide("gpt2-large", tmp_path, tmp_path / "m.json")


def test_only_safetensors_are_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot(repository, local_dir, allow_patterns):
        asked.update(repository=repository, patterns=allow_patterns)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(weights, "check_disk", lambda *_: None)
    with pytest.raises(UserError, match=r"no network.*skip=\[gpt2-xl\]"):
        provide("gpt2-xl", tmp_path, tmp_path / "m.json")
    assert asked["repository"] == "openai-community/gpt2-xl"
    assert not any(pattern.endswith((".bin", ".pt", ".ot", "*")) for pattern in asked["patterns"])


def test_a_tokenizer_is_a_file_and_has_the_models_gate(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json.*skip=\[.*tinyllama-tokenizer"):
        check_gate("llama2-tokenizer", tmp_path)
    (tmp_path / "llama2-tokenizer").mkdir()
    file = tmp_path / "llama2-tokenizer" / "tokenizer.json"
    file.write_text("{}")
    found = read_manifest(provide("llama2-tokenizer", tmp_path, tmp_path / "m.json"))
    assert (found.path, found.sha256) == (file, sha256_of(file))


def test_every_language_model_has_its_origin():
    assert set(LANGUAGE_MODELS) <= set(WEIGHTS)
