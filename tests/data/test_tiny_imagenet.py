"""Tiny-ImageNet's preparation on a small generated copy in its exact layout: folder, zip and the hub's files agree."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dblocks.data.files import digest_of
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import ImageDataset, dataset
from dblocks.data.sources import availability, require_source
from dblocks.errors import UserError

# the order of wnids.txt is not the sorted one, and labels are places in the sorted one
WNIDS = ("n02124075", "n01443537", "n04540053", "n02481823")
SORTED = sorted(WNIDS)
TRAIN, VAL = 5, 3  # images a class
REAL: ImageDataset = dataset("tiny_imagenet")
ARCHIVE = replace(REAL.origin.archive, bytes=None, digest=None)
INFO = replace(
    REAL,
    num_classes=len(WNIDS),
    train_size=TRAIN * len(WNIDS),
    test_size=VAL * len(WNIDS),
    origin=replace(REAL.origin, prepared_bytes=2**20, archive=ARCHIVE),
)


def jpeg(seed: int, grey: bool = False, size: int = 64) -> bytes:
    draws = np.random.default_rng(seed)
    pixels = draws.integers(0, 256, (size // 8, size // 8) + (() if grey else (3,)), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(out, "JPEG", quality=90)
    return out.getvalue()


def files() -> dict[str, bytes]:
    """All files below tiny-imagenet-200/, by name; the first image of each class is grey, as some real ones are."""
    found = {
        "wnids.txt": "".join(f"{name}\n" for name in WNIDS).encode(),
        "words.txt": b"".join(f"{name}\tsome words, others\n".encode() for name in (*WNIDS, "n00000001")),
    }
    for number, name in enumerate(WNIDS):
        boxes = ""
        for i in range(TRAIN):
            found[f"train/{name}/images/{name}_{i}.JPEG"] = jpeg(100 * number + i, grey=i == 0)
            boxes += f"{name}_{i}.JPEG\t0\t10\t63\t58\n"
        found[f"train/{name}/{name}_boxes.txt"] = boxes.encode()
    lines = []
    for i in range(VAL * len(WNIDS)):
        found[f"val/images/val_{i}.JPEG"] = jpeg(1000 + i)
        lines.append(f"val_{i}.JPEG\t{WNIDS[i * 7 % len(WNIDS)]}\t0\t32\t44\t62\n")
        found[f"test/images/test_{i}.JPEG"] = jpeg(2000 + i)
    return found | {"val/val_annotations.txt": "".join(lines).encode()}


def write_folder(root: Path, content: dict[str, bytes] | None = None) -> Path:
    for name, data in (content or files()).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, content: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/", "")
        for name, data in (content or files()).items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    return path


def write_hub(folder: Path) -> Path:
    """Files named as on the hub, `valid` included, with a hash after the count."""
    folder.mkdir(parents=True)
    content = files()
    annotated = dict(line.split("\t")[:2] for line in content["val/val_annotations.txt"].decode().splitlines())
    for part, top in (("train", "train/"), ("valid", "val/images/")):
        rows = []
        for name, data in content.items():
            if name.startswith(top) and name.endswith(".JPEG"):
                wnid = name.split("/")[1] if part == "train" else annotated[name.rpartition("/")[2]]
                rows.append({"image": {"bytes": data, "path": None}, "label": SORTED.index(wnid)})
        features = {"image": {"_type": "Image"}, "label": {"names": SORTED, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
        pq.write_table(table, folder / f"{part}-00000-of-00001-1359597a978bc4fa.parquet")
    return folder


def write(kind: str, data_dir: Path) -> str:
    """Writes a source; returns the kind it should be recognised as."""
    if kind == "zip":
        write_zip(data_dir / "tiny-imagenet-200.zip")
        return "archive"
    if kind == "parquet":
        write_hub(data_dir / "tiny_imagenet" / "data")
        return "parquet"
    write_folder(data_dir / kind)
    return "original"


def refused(data_dir: Path, *said: str) -> None:
    """Preparation fails with one line that says so, and leaves nothing behind."""
    with pytest.raises(UserError) as caught:
        prepare(INFO, data_dir, data_dir.parent / "out")
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in said), str(caught.value)
    assert not (data_dir.parent / "out").exists()


@pytest.mark.parametrize(
    "kind", ["tiny_imagenet", "tiny_imagenet/tiny-imagenet-200", "tiny-imagenet-200", "zip", "parquet"]
)
def test_every_source_gives_the_same_arrays(tmp_path, kind):
    recognised = write(kind, tmp_path / "data")
    write_folder(tmp_path / "reference" / "tiny_imagenet")
    assert require_source(INFO, tmp_path / "data").kind == recognised
    one, two = (
        PreparedData(prepare(INFO, tmp_path / place, tmp_path / "out" / place).parent)
        for place in ("data", "reference")
    )
    assert one.checksum() == two.checksum()
    assert one.array("train_images").shape == (20, 3, 64, 64)
    assert one.array("test_images").shape == (12, 3, 64, 64)
    assert len(one.array("validation")) == 2


def test_labels_are_places_in_the_sorted_class_names_and_stay_with_their_images(tmp_path):
    write_folder(tmp_path / "data" / "tiny_imagenet")
    data, content = PreparedData(prepare(INFO, tmp_path / "data", tmp_path / "out").parent), files()

    def decoded(name: str) -> bytes:
        pixels = np.asarray(Image.open(io.BytesIO(content[name])).convert("RGB"))
        return pixels.transpose(2, 0, 1).tobytes()

    expected = {decoded(n): SORTED.index(n.split("/")[1]) for n in content if n.startswith("train/") and "JPEG" in n}
    for line in content["val/val_annotations.txt"].decode().splitlines():
        name, wnid, *_ = line.split("\t")
        expected[decoded(f"val/images/{name}")] = SORTED.index(wnid)
    assert len(expected) == 32
    for split in ("train", "test"):
        for image, label in zip(data.array(f"{split}_images"), data.array(f"{split}_labels"), strict=True):
            assert expected[image.tobytes()] == label


def test_a_grey_image_is_three_equal_channels(tmp_path):
    write_folder(tmp_path / "data" / "tiny_imagenet")
    images = PreparedData(prepare(INFO, tmp_path / "data", tmp_path / "out").parent).array("train_images")
    grey = [(image[0] == image[1]).all() and (image[1] == image[2]).all() for image in images]
    assert sum(grey) == len(WNIDS)


def change(name: str, data: bytes | None) -> dict[str, bytes]:
    content = files()
    assert name in content
    return {k: v for k, v in content.items() if k != name} | ({} if data is None else {name: data})


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("val/val_annotations.txt", None, "no val/val_annotations.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn99999999\t0\t0\t0\t0\n", "line 1"),
        ("val/val_annotations.txt", b"val_0.JPEG\n", "line 1"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn02124075\t0\t0\t0\t0\n", "1 test images, tiny_imagenet has 12"),
        ("val/images/val_3.JPEG", None, "no val/images/val_3.JPEG"),
        ("val/images/val_3.JPEG", jpeg(0)[:200], "val_3.JPEG: not a whole JPEG"),
        ("val/images/val_3.JPEG", jpeg(0, size=32), "val_3.JPEG: RGB of 32×32, must be 64×64"),
        ("train/n04540053/images/n04540053_2.JPEG", None, "19 train images, tiny_imagenet has 20"),
        ("wnids.txt", b"n01443537\nn02124075\nn02481823\nn04540053\nn05\n", "5 classes"),
        ("wnids.txt", b"n01443537\nn02124075\nn02481823\nn02481823\n", "3 classes in 4 lines"),
        ("wnids.txt", b"n01443537\nn02124075\nn02481823\nn05\n", "train/n04540053 is no class of wnids.txt"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, name, data, said, packed):
    if packed:
        write_zip(tmp_path / "data" / "tiny-imagenet-200.zip", change(name, data))
    else:
        write_folder(tmp_path / "data" / "tiny_imagenet", change(name, data))
    refused(tmp_path / "data", said)


def test_classes_of_unequal_size_are_refused(tmp_path):
    content = files()
    content["train/n02124075/images/n02124075_9.JPEG"] = content.pop("train/n04540053/images/n04540053_2.JPEG")
    write_folder(tmp_path / "data" / "tiny_imagenet", content)
    refused(tmp_path / "data", "train has 6 images of class 1; tiny_imagenet has 5 of each")


def test_a_broken_zip_and_one_that_is_not_the_official_one_are_refused(tmp_path):
    path = write_zip(tmp_path / "data" / "tiny-imagenet-200.zip")
    official = replace(ARCHIVE, bytes=path.stat().st_size, digest=digest_of(path, "md5"))
    info = replace(INFO, origin=replace(INFO.origin, archive=official))
    prepare(info, tmp_path / "data", tmp_path / "prepared")
    with pytest.raises(UserError, match="the official file has 248,100,043"):
        prepare(replace(INFO, origin=REAL.origin), tmp_path / "data", tmp_path / "out")
    path.write_bytes(path.read_bytes()[:-300])
    refused(tmp_path / "data", "not a whole zip")


def test_folders_go_before_parquet_and_that_before_the_zip(tmp_path):
    for kind, expected in (("zip", "archive"), ("parquet", "parquet"), ("tiny-imagenet-200", "original")):
        write(kind, tmp_path)
        assert require_source(INFO, tmp_path).kind == expected
    shutil.rmtree(tmp_path / "tiny-imagenet-200")
    assert require_source(INFO, tmp_path).kind == "parquet"


def test_it_can_be_downloaded_and_says_where_it_is_looked_for(tmp_path):
    assert str(availability("tiny_imagenet", tmp_path)) == "downloadable (about 248 MB)"
    with pytest.raises(UserError, match=r"tiny_imagenet/tiny-imagenet-200/wnids\.txt.*tiny-imagenet-200\.zip"):
        require_source(REAL, tmp_path)
