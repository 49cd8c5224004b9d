"""No archive is unpacked: whatever its members are called, and whatever kind they are, nothing is written elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dblocks.data.download import download
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError
from dblocks.weights import missing_files
from tests.bad_input import data_files
from tests.bad_input.data_files import CIFAR, FORMATS, IMAGENET, LM1B, PROSE, TINY
from tests.data import formats, test_tiny_imagenet

TARS = {
    "CIFAR's": ("CIFAR's .tar.gz", "tiny-python.tar.gz", lambda: formats.batches(formats.samples())),
    "LM1B's": ("LM1B's .tar.gz", LM1B.origin.archive.name, data_files.lm1b_members),
}


@pytest.fixture
def place(tmp_path):
    """A folder with a data directory in it, a secret beside that, and a check that nothing else has come."""
    (tmp_path / "secret").write_text("a secret of whoever reads this")
    (tmp_path / "inner" / "data").mkdir(parents=True)
    yield tmp_path / "inner" / "data"
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "inner"}
    assert {path.name for path in (tmp_path / "inner").iterdir()} <= {"data", "out"}
    assert (tmp_path / "secret").read_text() == "a secret of whoever reads this"


def link(kind: bytes) -> Callable[[str, Path], tarfile.TarInfo]:
    """A tar's member that points to the secret, or is no file at all."""

    def make(name: str, data: Path) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, str(data.parents[1] / "secret")
        return member

    return make


KINDS = {
    "symbolic link": link(tarfile.SYMTYPE),
    "hard link": link(tarfile.LNKTYPE),
    "character device": link(tarfile.CHRTYPE),
    "block device": link(tarfile.BLKTYPE),
    "pipe": link(tarfile.FIFOTYPE),
}


def write_tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)


@pytest.mark.parametrize("whose", TARS)
def test_members_that_are_not_asked_for_do_nothing(place, whose):
    name, file, members = TARS[whose]
    FORMATS[name].write(place)
    plain = PreparedData(prepare(FORMATS[name].info, place, place.parent / "out").parent).checksum()
    outside = {f"{up}escaped{number}": b"x" for number, up in enumerate(("../", "../../", f"{place.parents[1]}/"))}
    links = {f"{kind}": make(kind, place) for kind, make in KINDS.items()}
    # a link to outside, and a file that would be written through it
    through = {"door": KINDS["symbolic link"]("door", place), "door/escaped": b"x"}
    write_tar(place / file, outside | links | through | members())
    again = PreparedData(prepare(FORMATS[name].info, place, place.parent / "out").parent).checksum()
    assert again == plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whose", TARS)
def test_a_member_that_is_asked_for_and_no_file_is_not_followed(place, whose, kind):
    name, file, members = TARS[whose]
    found = members()
    first = next(iter(found))
    write_tar(place / file, found | {first: KINDS[kind](first, place)})
    with pytest.raises(UserError):
        prepare(FORMATS[name].info, place, place.parent / "out")


def as_link(archive: zipfile.ZipFile, name: str, target: str) -> None:
    """A symbolic link, as zip has them."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, target)


def test_a_zip_with_members_outside_and_links(place):
    path = test_tiny_imagenet.write_zip(place / "tiny-imagenet-200.zip")
    plain = PreparedData(prepare(TINY, place, place.parent / "out").parent).checksum()
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../escaped", "tiny-imagenet-200/../../escaped", f"{place.parents[1]}/escaped"):
            archive.writestr(name, b"x")
        as_link(archive, "tiny-imagenet-200/door", str(place.parents[1]))
        archive.writestr("tiny-imagenet-200/door/escaped", b"x")
    assert PreparedData(prepare(TINY, place, place.parent / "out").parent).checksum() == plain


def test_an_image_that_is_a_link_in_a_zip_is_no_image(place):
    path = test_tiny_imagenet.write_zip(place / "tiny-imagenet-200.zip")
    first = next(name for name in test_tiny_imagenet.files() if name.startswith("train/") and name.endswith("0.JPEG"))
    content = {name: data for name, data in test_tiny_imagenet.files().items() if name != first}
    test_tiny_imagenet.write_zip(path, content)
    with zipfile.ZipFile(path, "a") as archive:
        as_link(archive, f"tiny-imagenet-200/{first}", str(place.parents[1] / "secret"))
    with pytest.raises(UserError, match="not a whole JPEG"):
        prepare(TINY, place, place.parent / "out")


@pytest.mark.parametrize("packed", [True, False])
def test_an_annotation_that_names_a_file_elsewhere_is_refused(place, packed):
    files = test_tiny_imagenet.files()
    lines = files["val/val_annotations.txt"].replace(b"val_0.JPEG", b"../../../../secret", 1)
    content = files | {"val/val_annotations.txt": lines}
    if packed:
        test_tiny_imagenet.write_zip(place / "tiny-imagenet-200.zip", content)
    else:
        test_tiny_imagenet.write_folder(place / "tiny-imagenet-200", content)
    with pytest.raises(UserError, match="secret"):
        prepare(TINY, place, place.parent / "out")


@pytest.mark.parametrize("name", ["../escaped.txt", "/escaped.txt", "a/../../../escaped.txt"])
def test_a_text_is_read_whatever_its_archive_calls_it(place, name):
    (place / "text.zip").write_bytes(data_files.zipped(names=(name,)))
    with open(place / "text.txt.gz", "wb") as raw, gzip.GzipFile(name, "wb", fileobj=raw) as file:
        file.write(PROSE)
    sums = set()
    for file in ("text.zip", "text.txt.gz"):
        prepare("characters", None, place.parent / "out", path=place / file)
        sums.add(PreparedData(place.parent / "out").checksum())
    assert len(sums) == 1 and not Path("/escaped.txt").exists()


@pytest.mark.parametrize("info", [CIFAR, TINY, IMAGENET], ids=lambda info: info.name)
def test_an_image_that_parquet_has_by_path_alone_is_not_looked_for(place, info):
    from PIL import Image

    picture = place / "mine.png"
    Image.new("RGB", info.image_shape[1:]).save(picture)
    column = "image" if info is IMAGENET else info.image_column
    table = pa.table({column: [{"bytes": None, "path": str(picture)}], info.label_column: [0]})
    (place / info.name).mkdir()
    for part in ("train", "validation" if info is IMAGENET else info.test_part):
        pq.write_table(table, place / info.name / f"{part}-00000-of-00001.parquet")
    with pytest.raises(UserError, match="bytes"):
        prepare(info, place, place.parent / "out")


def test_a_hub_that_names_files_outside_writes_none(place):
    formats.write_hub(place / "repository", formats.samples())
    files = formats.hub_files("someone/tiny", place / "repository")
    for path, content in list(files.items()):
        files[path.replace("train-", "../../../escaped-")] = content.replace(b"train-", b"../../../escaped-")
    with formats.serve(files) as hub, pytest.raises(UserError, match=r"Invalid filename.*escaped"):
        download(CIFAR, place / "sets", hub.url)
    assert not list(place.parents[1].rglob("escaped*"))


def test_shards_of_weights_lie_beside_their_index(tmp_path):
    folder = tmp_path / "gpt2-large"
    folder.mkdir()
    for outside in ("../secret.safetensors", "/etc/passwd", "inner/a.safetensors"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": outside}}))
        with pytest.raises(UserError, match=r"index\.json: '.*' is no file beside it"):
            missing_files(folder)


def test_data_that_is_a_device_is_not_read_for_ever(place):
    """A named pipe in a text's place would be waited for."""
    os.mkfifo(place / "text.txt")
    with pytest.raises(UserError, match="not there"):
        prepare("characters", None, place.parent / "out", path=place / "text.txt")


def test_one_format_of_each_archive_is_tried_here():
    packed = {name for name in FORMATS if name.endswith((".tar.gz", ".zip", ".gz"))}
    assert packed == {name for name, _, _ in TARS.values()} | {
        "Tiny-ImageNet's .zip",
        "a text as .zip",
        "a text as .gz",
    }
