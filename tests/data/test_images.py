"""Image data sets from every source: the same arrays whatever the source, one clear line for every bad input."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import formats
import numpy as np
import pytest

from dblocks.data.archive import unpickle_numpy
from dblocks.data.files import digest_of
from dblocks.data.images import load_images
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.sources import require_source
from dblocks.errors import UserError

INFO = formats.tiny_dataset()


def archive_at(data_dir: Path, members: dict[str, bytes] | None = None) -> Path:
    return formats.write_tar(data_dir / "tiny-python.tar.gz", members or formats.batches(formats.samples()))


def write_source(kind: str, data_dir: Path, arrays: dict[str, np.ndarray]) -> None:
    if kind == "npy":
        formats.write_npy(data_dir / "tiny", arrays)
    elif kind == "npy, int64 labels":
        formats.write_npy(data_dir / "tiny", arrays, "int64")
    elif kind == "hub":
        formats.write_hub(data_dir / "tiny" / "tiny", arrays)
    elif kind == "hub, no metadata, three files":
        formats.write_hub(data_dir / "tiny" / "data", arrays, shards=3, metadata=False)
    elif kind == "archive":
        formats.write_tar(data_dir / "tiny" / "tiny-python.tar.gz", formats.batches(arrays))


def refused(data_dir: Path, *expected: str, info=INFO, **options) -> str:
    """Preparation fails with one line that holds `expected`, and leaves nothing behind. Returns the line."""
    out = data_dir.parent / "out"
    with pytest.raises(UserError) as caught:
        prepare(info, data_dir, out / "tiny", **options)
    line = str(caught.value)
    assert "\n" not in line
    for part in expected:
        assert part in line
    assert not out.exists() or not list(out.iterdir())
    return line


@pytest.mark.parametrize("kind", ["npy, int64 labels", "hub", "hub, no metadata, three files", "archive"])
def test_every_source_gives_the_same_arrays(tmp_path, kind):
    arrays = formats.samples()
    for name in ("npy", kind):
        write_source(name, tmp_path / name, arrays)
        prepare(INFO, tmp_path / name, tmp_path / "prepared" / name)
    first, second = (PreparedData(tmp_path / "prepared" / name) for name in ("npy", kind))
    assert first.checksum() == second.checksum()
    assert first.facts["content"] == second.facts["content"]
    assert second.array("train_images").shape == (formats.TRAIN, 3, 32, 32)
    assert second.array("train_labels").dtype == np.int64
    assert len(second.array("validation")) == formats.TRAIN // 10


def test_order_of_samples_in_the_source_does_not_matter_and_pairs_stay_together(tmp_path):
    arrays, shuffled = formats.samples(), {}
    for split in ("train", "test"):
        order = np.random.default_rng(1).permutation(len(arrays[f"{split}_labels"]))
        for part in ("images", "labels"):
            shuffled[f"{split}_{part}"] = arrays[f"{split}_{part}"][order]
    for name, content in (("a", arrays), ("b", shuffled)):
        formats.write_npy(tmp_path / name / "tiny", content)
        prepare(INFO, tmp_path / name, tmp_path / "out" / name)
    a, b = (PreparedData(tmp_path / "out" / name) for name in "ab")
    assert a.checksum() == b.checksum()
    original = {im.tobytes(): int(y) for im, y in zip(arrays["train_images"], arrays["train_labels"], strict=True)}
    for image, label in zip(a.array("train_images"), a.array("train_labels"), strict=True):
        assert original[image.transpose(1, 2, 0).tobytes()] == label


def test_the_archive_with_the_official_checksum_is_accepted_and_another_refused(tmp_path):
    path = archive_at(tmp_path / "data")
    right = formats.tiny_dataset(md5=digest_of(path, "md5"), archive_bytes=path.stat().st_size)
    prepare(right, tmp_path / "data", tmp_path / "prepared")
    refused(tmp_path / "data", str(path), "md5 is", "0123", info=formats.tiny_dataset(md5="0123"))


def test_wrong_content_is_refused_whatever_the_source(tmp_path):
    for kind in ("npy", "hub", "archive"):
        write_source(kind, tmp_path / kind / "data", formats.samples())
        _, content = load_images(INFO, require_source(INFO, tmp_path / kind / "data"))
        prepare(formats.tiny_dataset(content=content), tmp_path / kind / "data", tmp_path / kind / "prepared")
        refused(tmp_path / kind / "data", "not those of tiny", info=formats.tiny_dataset(content="f" * 64))


def test_npy_goes_before_hub_files_and_these_before_the_archive(tmp_path):
    for kind, expected in (("archive", "archive"), ("hub", "parquet"), ("npy", "npy")):
        write_source(kind, tmp_path, formats.samples())
        assert require_source(INFO, tmp_path).kind == expected


def test_a_data_set_that_is_nowhere_names_the_places_and_the_way_to_get_it(tmp_path):
    data = tmp_path / "data"
    line = refused(data, "there is no directory", "`snakemake data` downloads it")
    for place in (
        "tiny/{train,test}_{images,labels}.npy",
        "tiny/*/train-*-of-*.parquet",
        "tiny/tiny-python.tar.gz",
    ):
        assert f"{data}/{place}" in line
    (data / "tiny").mkdir(parents=True)
    (data / "tiny" / "images.zip").write_text("another layout")
    assert "no directory" not in refused(data, "tiny: not found")
    with pytest.raises(UserError, match="data_dir: not set"):
        prepare(INFO, None, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "change", "expected"),
    [
        ("train_labels", lambda a: a[:-1], "train labels are uint8 [39], tiny has integers [40]"),
        ("train_labels", lambda a: a + np.uint8(1), "train labels run from 1 to 4; must be 0 to 3"),
        ("train_labels", lambda a: np.zeros_like(a), "train has 40 images of class 0; tiny has 10 of each"),
        ("train_labels", lambda a: a.astype(float), "train labels are float64"),
        ("test_images", lambda a: a[:-1], "test images are uint8 [7, 3, 32, 32]"),
        ("test_images", lambda a: a.astype(np.float32), "test images are float32"),
        ("test_images", lambda a: a[:, :16], "test images are uint8 [8, 3, 16, 32]"),
        ("test_images", lambda a: a.reshape(8, -1), "must be [N, height, width, channels]"),
    ],
)
def test_npy_of_wrong_shape_type_or_labels(tmp_path, key, change, expected):
    folder = formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    np.save(folder / f"{key}.npy", change(np.load(folder / f"{key}.npy")))
    refused(tmp_path / "data", expected)


def test_npy_missing_truncated_or_pickled(tmp_path):
    folder = formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    path = folder / "test_labels.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "data", str(path), "not a whole .npy array of plain numbers")
    path.unlink()
    refused(tmp_path / "data", str(path), "missing")
    whole = (folder / "train_images.npy").read_bytes()
    (folder / "train_images.npy").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "data", "train_images.npy", "not a whole .npy")


def test_truncated_archive(tmp_path):
    path = archive_at(tmp_path / "data")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "data", str(path), "not a whole .tar.gz")
    refused(tmp_path / "data", "truncated?", info=formats.tiny_dataset(archive_bytes=len(whole)))


def test_archive_with_a_missing_member_or_wrong_content(tmp_path):
    members = formats.batches(formats.samples())
    archive_at(tmp_path / "data", {k: v for k, v in members.items() if not k.endswith("test")})
    refused(tmp_path / "data", "has no member tiny-python/test")
    for value, expected in (
        ([1], "holds a list"),
        ({"data": 3}, "`data` must be a uint8 array"),
        ({"data": np.zeros((8, 3072), np.uint8)}, "`fine_labels` must be a list of integers"),
    ):
        archive_at(tmp_path / "data", members | {"tiny-python/test": formats.python2_pickle(value)})
        refused(tmp_path / "data", "tiny-python/test", expected)
    archive_at(tmp_path / "data", members | {"tiny-python/test": members["tiny-python/test"][:-200]})
    refused(tmp_path / "data", "tiny-python/test: refused")


class Touch:
    """Unpickled by a trusting reader, it runs a command."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_malicious_pickle_in_the_archives_place_is_not_executed(tmp_path):
    mark = tmp_path / "executed"
    python2 = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    nested = pickle.dumps({"data": [Touch(mark)]}, protocol=2)
    members = formats.batches(formats.samples())
    for attack in (python2, nested, pickle.dumps(Touch(mark), protocol=5)):
        archive_at(tmp_path / "data", members | {"tiny-python/batch_1": attack})
        refused(tmp_path / "data", "tiny-python/batch_1: refused", "system, which is not data")
        assert not mark.exists()
    pickle.loads(python2)
    assert mark.exists(), "the attack is a real one"


def test_arrays_pickled_by_this_numpy_are_read_too():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (unpickle_numpy(pickle.dumps({b"data": array}))[b"data"] == array).all()


def test_hub_files_that_are_incomplete_doubled_broken_or_of_another_kind(tmp_path):
    data, arrays = tmp_path / "data", formats.samples()
    folder = formats.write_hub(data / "tiny" / "tiny", arrays, shards=3)
    middle = folder / "train-00001-of-00003.parquet"
    kept = middle.read_bytes()
    middle.unlink()
    refused(data, "2 of 3 train files")
    middle.write_bytes(kept[:-100])
    refused(data, str(middle), "not a whole parquet file")
    middle.write_bytes(kept)
    other = formats.write_hub(data / "tiny" / "other", arrays)
    refused(data, "more than one set of train files")
    for file in other.iterdir():
        file.unlink()
    (folder / "test-00000-of-00001.parquet").unlink()
    refused(data, "no test-*-of-*.parquet")


def test_hub_files_with_other_columns_numbers_or_images(tmp_path):
    data, arrays = tmp_path / "data", formats.samples()
    formats.write_hub(data / "tiny" / "tiny", arrays, label="label")
    refused(data, "no column `fine_label`; it has img, label, coarse_label")
    fewer = {key: array[:-1] for key, array in arrays.items()}
    formats.write_hub(data / "tiny" / "tiny", fewer)
    refused(data, "39 train images, tiny has 40")
    more = {key: np.concatenate([array, array]) for key, array in arrays.items()}
    formats.write_hub(data / "tiny" / "tiny", more)
    refused(data, "more than the 40 train images")
    small = {key: array[:, :16, :16] if "images" in key else array for key, array in arrays.items()}
    formats.write_hub(data / "tiny" / "tiny", small)
    refused(data, "image 0: RGB of 16×16, must be 32×32")


def test_too_little_disk_is_told_beforehand(tmp_path):
    formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    refused(tmp_path / "data", "of disk", "are free", info=formats.tiny_dataset(prepared_bytes=10**18))


def test_a_write_that_the_system_refuses_leaves_nothing(tmp_path):
    formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    # a limit on file sizes stands for a disk that fills up while the arrays are written
    code = (
        "import resource, formats; from pathlib import Path; from dblocks.data.prepare import prepare\n"
        "from dblocks.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: prepare(formats.tiny_dataset(), Path('data'), Path('out/tiny'))\n"
        "except UserError as error: print(error)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.startswith("out/tiny: preparation failed"), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


def test_preparing_again_replaces_what_an_interrupted_attempt_left(tmp_path):
    formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    out = tmp_path / "out"
    out.mkdir()
    prepare(INFO, tmp_path / "data", out)
    (out / "train_images.npy").write_text("half an array")
    (out / "manifest.json").unlink()
    prepare(INFO, tmp_path / "data", out)
    before = PreparedData(out).checksum()
    (out / "manifest.json").unlink()
    prepare(INFO, tmp_path / "data", out)
    assert PreparedData(out).checksum() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["thesis.json", "measured.npy", ".env"])
def test_what_no_preparation_wrote_is_never_removed(tmp_path, name):
    formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    out = tmp_path / "out"
    prepare(INFO, tmp_path / "data", out)
    (out / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, which was not put there by a preparation"):
        prepare(INFO, tmp_path / "data", out)
    assert (out / name).read_text() == "mine"


def test_a_source_is_never_taken_for_what_was_prepared_of_it(tmp_path):
    source = tmp_path / "data" / "tiny"
    formats.write_npy(source, formats.samples())
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(UserError, match="would be lost"):
        prepare(INFO, tmp_path / "data", source)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_prepared_arrays_that_were_changed_are_refused(tmp_path):
    formats.write_npy(tmp_path / "data" / "tiny", formats.samples())
    prepare(INFO, tmp_path / "data", tmp_path / "out")
    path = tmp_path / "out" / "test_labels.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(UserError, match="truncated or changed"):
        PreparedData(tmp_path / "out").array("test_labels")
    path.write_bytes(whole[:-1] + b"\x07")
    with pytest.raises(UserError, match="sha256 is"):
        PreparedData(tmp_path / "out").array("test_labels")
