"""Any damage to any file that a preparation reads: it is whole, or one line names the file and nothing is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.vocabulary import Vocabulary
from dblocks.errors import UserError
from tests.bad_input.data_files import FORMATS

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(name): a data directory with the files of a format, written once; read only."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("written")
            FORMATS[name].write(made[name])
        return made[name]

    return make


def prepared(name: str, data_dir: Path, folder: Path) -> Path:
    """The manifest of a format's prepared files."""
    own = FORMATS[name].own
    return prepare(FORMATS[name].info, data_dir, folder, path=own and data_dir / own)


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read(written, tmp_path, name):
    assert PreparedData(prepared(name, written(name), tmp_path / "out").parent).checksum()


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15)
@given(data=st.data())
def test_damaged_bytes(written, tmp_path_factory, name, data):
    place = tmp_path_factory.mktemp("damaged")
    shutil.copytree(written(name), place / "data")
    path = data.draw(st.sampled_from(sorted(path for path in (place / "data").rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    # where formats say what they are: at either end more often than in between
    at = data.draw(st.integers(0, len(content)) | st.integers(0, min(64, len(content))))
    at = len(content) - at if data.draw(st.booleans()) else at
    if data.draw(st.booleans()):
        del content[at:]
    else:
        new = data.draw(st.binary(min_size=1, max_size=8))
        content[at : at + len(new)] = new
    path.write_bytes(content)
    try:
        PreparedData(prepared(name, place / "data", place / "out").parent)
    except UserError as error:
        assert "\n" not in str(error) and str(place) in str(error)
        assert {found.name for found in place.iterdir()} == {"data"}
    shutil.rmtree(place)


@given(st.data())
def test_a_damaged_manifest(digits_folder, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("manifest")
    content = json.loads((digits_folder / "manifest.json").read_text())
    places = [(), ("name",), ("fingerprint",), ("arrays",), ("arrays", "train_images")]
    places += [("arrays", "train_images", field) for field in ("sha256", "bytes", "shape")]
    *path, last = data.draw(st.sampled_from(places)) or (None,)
    part = content
    for key in path:
        part = part[key]
    if last is None:
        content = data.draw(ANY)
    else:
        part[last] = data.draw(ANY)
    (folder / "manifest.json").write_text(json.dumps(content))
    (folder / "train_images.npy").symlink_to(digits_folder / "train_images.npy")
    try:
        PreparedData(folder).array("train_images")
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)


@settings(max_examples=30)
@given(st.data())
def test_a_damaged_tokenizer(tokens_folder, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    whole = (tokens_folder / "tokenizer.json").read_bytes()
    start = data.draw(st.integers(0, len(whole)) | st.integers(0, 400))
    path.write_bytes(whole[:start] + data.draw(st.binary(max_size=8)) + whole[start + data.draw(st.integers(0, 40)) :])
    try:
        Vocabulary(path).encode(["some text"])
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
