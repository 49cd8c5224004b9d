"""Nothing is unpickled but tensors and plain data, wherever a malicious pickle is put; and nothing else is run."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import dblocks
from dblocks.block_run import block_weights
from dblocks.checkpoint import load_newest, load_verified
from dblocks.cli import main
from dblocks.config import resolve
from dblocks.data.archive import unpickle_numpy
from dblocks.data.files import sha256_of
from dblocks.data.prepared import PreparedData
from dblocks.encode import load_codec
from dblocks.errors import UserError
from dblocks.metrics import fid
from dblocks.metrics.mauve import read_features
from dblocks.shared_training import take_weights
from tests.bad_input.commands import TRIED
from tests.workflow.helpers import record_of, save_records


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def by_torch(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def legacy(value: object) -> bytes:
    """As torch saved before it used zip."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


ATTACKS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda mark: pickle.dumps(Malice(mark)),
    "torch's file": lambda mark: by_torch(Malice(mark)),
    "torch's file, beside weights": lambda mark: by_torch({"network": {"w": torch.ones(2)}, "more": [Malice(mark)]}),
    "torch's old file": lambda mark: legacy({"network": Malice(mark)}),
}


def fitting(folder: Path, stem: str, content: bytes) -> Path:
    """A file whose name promises its content, as a forger would name it."""
    path = folder / f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    return path


@pytest.fixture
def mark(tmp_path):
    """The file that a malicious pickle would make."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real_ones(tmp_path, attack):
    content = ATTACKS[attack](tmp_path / "real")
    if attack == "pickle":
        pickle.loads(content)
    else:
        torch.load(io.BytesIO(content), weights_only=False)
    assert (tmp_path / "real").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_a_checkpoints_place(tmp_path, mark, capsys, attack):
    path = fitting(tmp_path, "step-000000009", ATTACKS[attack](mark))
    with pytest.raises(ValueError, match="nothing of it was run"):
        load_verified(path)
    assert load_newest(tmp_path) is None
    assert path.name in capsys.readouterr().err and path.with_suffix(".broken").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_final_weights_place(tmp_path, mark, capfd, digits_folder, attack):
    (tmp_path / "spec.json").write_text(resolve("vit/end_to_end", "smoke", 0, TRIED).model_dump_json())
    path = fitting(tmp_path, "weights", ATTACKS[attack](mark))
    assert main(["run", str(tmp_path / "spec.json"), "--data", str(digits_folder / "manifest.json"), "--quiet"]) == 2
    error = capfd.readouterr().err
    assert path.name in error and "nothing of it was run" in error and error.count("\n") == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_another_runs_weights_place(tmp_path, mark, attack):
    """Weights that a run reads of others: a block's, an autoencoder's."""
    content = ATTACKS[attack](mark)
    (tmp_path / "1").mkdir()
    name = fitting(tmp_path / "1", "weights", content).name
    (tmp_path / "1" / "block.json").write_text(json.dumps({"block": 1, "weights": name}))
    with pytest.raises(UserError, match="nothing of it was run"):
        block_weights(tmp_path / "1")
    record = record_of(resolve("autoencoder/latents", "smoke"), {"mse": 1.0})
    (saved,) = save_records(tmp_path, [record.model_copy(update={"weights": name})])
    fitting(saved.parent, "weights", content)
    with pytest.raises(UserError, match="nothing of it was run"):
        load_codec(saved, torch.device("cpu"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_the_place_of_weights_that_a_run_takes(tmp_path, mark, attack):
    content = ATTACKS[attack](mark)
    trainer, other = (resolve(run, "smoke") for run in ("vit/diffusion_blocks", "vit/bridge_normalized"))
    name = fitting(tmp_path, "weights", content).name
    (saved,) = save_records(tmp_path, [record_of(trainer, {"accuracy": 1.0}).model_copy(update={"weights": name})])
    fitting(saved.parent, "weights", content)
    with pytest.raises(UserError, match="nothing of it was run"):
        take_weights(other, saved, tmp_path / "own")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_inceptions_place_even_with_its_checksum(tmp_path, mark, monkeypatch, attack):
    path = tmp_path / "pt_inception.pth"
    path.write_bytes(ATTACKS[attack](mark))
    # the published name holds 32 bits of the checksum: a forger can find a file that has them
    monkeypatch.setattr(fid, "INCEPTION_SHA256", sha256_of(path)[:8])
    with pytest.raises(UserError, match="pt_inception"):
        fid.inception(path, torch.device("cpu"))


def test_inceptions_own_weights_are_read_as_torch_fidelity_reads_them(tmp_path, monkeypatch):
    fid.ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patch:  # a network of random weights: the published ones are not at hand
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(torch, "load", lambda *_, **__: None)
        torch.manual_seed(0)
        whole = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "unread").eval()
    path = tmp_path / "random.pth"
    torch.save(whole.state_dict(), path)
    monkeypatch.setattr(fid, "INCEPTION_SHA256", sha256_of(path)[:8])
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    found = fid.inception(path, torch.device("cpu")).features(images)
    assert torch.equal(found, FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))(images)[0])


def objects(mark: Path) -> np.ndarray:
    """An array whose one value is a malicious object."""
    array = np.empty(1, dtype=object)
    array[0] = Malice(mark)
    return array


def test_in_a_prepared_array_with_a_manifest_that_fits(tmp_path, mark, digits_folder):
    folder = Path(shutil.copytree(digits_folder, tmp_path / "data"))
    path, manifest = folder / "train_images.npy", folder / "manifest.json"
    np.save(path, objects(mark), allow_pickle=True)
    content = json.loads(manifest.read_text())
    content["arrays"]["train_images"] |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"train_images\.npy.*plain numbers"):
        PreparedData(folder).array("train_images")


def test_in_features_that_were_kept(tmp_path, mark):
    np.savez(tmp_path / "features.npz", references=objects(mark))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_features(tmp_path / "features.npz")


@pytest.mark.parametrize("protocol", range(6))
def test_in_a_batch_of_cifar_by_every_protocol(mark, protocol):
    for value in (Malice(mark), {"data": [Malice(mark)]}, {Malice: 1}, [np.random.default_rng]):
        with pytest.raises(pickle.UnpicklingError, match="is not data"):
            unpickle_numpy(pickle.dumps(value, protocol))


# --- what the package calls at all

FORBIDDEN = ("extract", "extractall", "unpack_archive", "system", "popen", "unsafe_load", "full_load")


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """(file, call) of every call of a function or method of that name in the package."""
    found = []
    for path in sorted(Path(dblocks.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                found += [(path.name, node)] if called == name else []
    return found


def keywords(call: ast.Call) -> dict[str, str]:
    return {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}


def test_the_package_unpacks_nothing_and_evaluates_nothing():
    assert {name: calls(name) for name in FORBIDDEN if calls(name)} == {}
    built_in = [file for name in ("eval", "exec") for file, call in calls(name) if isinstance(call.func, ast.Name)]
    assert built_in == []


def test_what_the_package_loads_cannot_run_anything():
    loads = [(file, call, ast.unparse(call.func)) for name in ("load", "loads") for file, call in calls(name)]
    kinds = {function for _, _, function in loads}
    assert kinds <= {
        "torch.load", "np.load", "json.loads", "yaml.load", "NumpyUnpickler(io.BytesIO(data), encoding='latin1').load",
    }  # fmt: skip
    for file, call, function in loads:
        if function == "torch.load":
            assert keywords(call)["weights_only"] == "True", file
        if function == "np.load":
            assert keywords(call).get("allow_pickle", "False") == "False", file
        if function == "yaml.load":
            assert ast.unparse(call.args[1]) == "PlainData", file
    for file, call in calls("from_pretrained"):
        assert keywords(call)["use_safetensors"] == "True" and keywords(call)["local_files_only"] == "True", file
        assert keywords(call).get("trust_remote_code", "False") == "False", file
