"""The registry, availability, and fingerprints at plan time; DATA.md agrees with them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import formats
import pytest

from dblocks.data.files import readable
from dblocks.data.fingerprints import fingerprint
from dblocks.data.origins import WEIGHTS
from dblocks.data.registry import DATASETS, dataset
from dblocks.data.sources import availability
from dblocks.errors import UserError

DATA_MD = (Path(__file__).parents[2] / "DATA.md").read_text()


def test_planning_imports_neither_numpy_nor_torch():
    code = (
        "import sys, dblocks.data.registry, dblocks.data.sources\n"
        "print({'numpy', 'torch', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_an_unknown_data_set_names_the_known_ones():
    with pytest.raises(UserError, match="no data set 'mnist'; there are austen, austen_chapters, austen_sentences"):
        dataset("mnist")


def test_availability_says_in_one_line_what_can_be_had(tmp_path):
    assert str(availability("digits", None)) == "embedded"
    assert str(availability("cifar100", tmp_path)) == "downloadable (about 142 MB)"
    assert str(availability("cifar10", None)) == "downloadable (about 144 MB)"
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.touch()
    assert str(availability("cifar10", tmp_path)) == f"found at {archive}"
    formats.write_npy(tmp_path / "cifar100", formats.samples())
    assert str(availability("cifar100", tmp_path)) == f"found at {tmp_path / 'cifar100'}"
    assert str(availability("documents", tmp_path, archive)) == f"found at {archive}"
    assert "set data.path to a file or folder" in str(availability("documents", tmp_path))
    gated = formats.tiny_dataset(origin=dataset("digits").origin)
    assert availability(gated, tmp_path).state == "needs a person"


def test_the_fingerprint_of_a_file_is_its_title_and_content_and_hashed_once(tmp_path):
    path, cache = tmp_path / "my.book.txt", tmp_path / "cache" / "checksums.json"
    path.write_text("one")
    first = fingerprint("sentences", path, cache=cache)
    assert first.startswith("my-") and len(first) == 3 + 64
    assert fingerprint("sentences", path, "Other", cache=cache) == first.replace("my-", "Other-")
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: "remembered"}))
    assert fingerprint("sentences", path, cache=cache) == "my-remembered"
    path.write_text("other content")
    assert fingerprint("sentences", path, cache=cache) not in (first, "my-remembered")
    cache.write_text("broken")
    path.write_text("one")
    assert fingerprint("sentences", path, cache=cache) == first


def test_the_fingerprint_of_a_folder_changes_with_names_and_content(tmp_path):
    folder, cache = tmp_path / "books", tmp_path / "cache.json"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    seen = {fingerprint("documents", folder, cache=cache)}
    (folder / "deep" / "b.txt").write_text("two")
    seen.add(fingerprint("documents", folder, cache=cache))
    (folder / "deep" / "b.txt").rename(folder / "deep" / "c.txt")
    seen.add(fingerprint("documents", folder, cache=cache))
    assert len(seen) == 3
    (folder / "notes.md").write_text("not text of the data set")
    assert fingerprint("documents", folder, cache=cache) in seen


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "text.txt").write_text("one")
    assert fingerprint("sentences", tmp_path / "text.txt", cache=tmp_path / "file" / "cache.json")


def test_named_data_sets_have_a_fixed_fingerprint_and_take_no_path(tmp_path):
    assert fingerprint("cifar100") == dataset("cifar100").fingerprint
    with pytest.raises(UserError, match="only general data sets take a path"):
        fingerprint("text8", tmp_path)
    with pytest.raises(UserError, match="not set; documents needs a text file"):
        fingerprint("documents")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_data_md_tells_source_and_checksums_of_every_data_set(name):
    info = DATASETS[name]
    assert f"`{name}`" in DATA_MD
    facts = [info.origin.hub_id, getattr(info, "content", None)]
    facts += [info.origin.archive.name, info.origin.archive.digest] if info.origin.archive else []
    facts += [readable(info.origin.download_bytes)] if info.origin.download_bytes else []
    for fact in filter(None, facts):
        assert fact in DATA_MD


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_data_md_tells_source_and_size_of_all_weights(name):
    weights = WEIGHTS[name]
    assert f"`{name}`" in DATA_MD
    assert readable(weights.bytes) in DATA_MD
    assert weights.sha256 is None or weights.sha256.split("…")[0] in DATA_MD


def test_the_real_cifar100_where_a_user_has_it(tmp_path):
    """Set DBLOCKS_DATA_DIR to a directory that holds cifar100 to try the pinned checksum on the real thing."""
    data_dir = os.environ.get("DBLOCKS_DATA_DIR")
    if not data_dir or availability("cifar100", Path(data_dir)).state != "found":
        pytest.skip("no real CIFAR-100: set DBLOCKS_DATA_DIR")
    from dblocks.data.prepare import prepare
    from dblocks.data.prepared import PreparedData

    prepare("cifar100", Path(data_dir), tmp_path / "out")
    assert PreparedData(tmp_path / "out").facts["content"] == dataset("cifar100").content
