"""Every format that preparation reads, in small; and bad files of each by name, as `dblocks prepare` is given them."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dblocks.data.registry import Dataset, dataset
from tests.bad_input.commands import Call, both, holds
from tests.data import formats, test_imagenet, test_tiny_imagenet

PROSE = "".join(f"Sentence {i} of a text.\n{'' if i % 3 else chr(10)}" for i in range(400)).encode()
CIFAR, TINY, IMAGENET = formats.tiny_dataset(), test_tiny_imagenet.INFO, test_imagenet.INFO
LM1B = replace(
    dataset("lm1b"),
    records=(300, 100),
    origin=replace(
        dataset("lm1b").origin,
        prepared_bytes=10**6,
        archive=replace(dataset("lm1b").origin.archive, bytes=None, digest=None),
    ),
)


def lm1b_members() -> dict[str, bytes]:
    """Members of LM1B's archive: two files, training and held out."""
    top = "1-billion-word-language-modeling-benchmark-r13output"
    return {
        f"{top}/training-monolingual.tokenized.shuffled/news.en-00001-of-00100": PROSE,
        f"{top}/heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050": PROSE[:2000],
    }


def lm1b_parquet(folder: Path) -> None:
    """The hub's layout of LM1B."""
    folder.mkdir(parents=True)
    for split, count in (("train", 300), ("test", 100)):
        table = pa.table({"text": [f"{split} {i}" for i in range(count)]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def zipped(content: bytes = PROSE, names: tuple[str, ...] = ("text.txt",)) -> bytes:
    """A zip whose members all have the same content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def encrypted() -> bytes:
    """A zip that says of its member that it is encrypted."""
    content = bytearray(zipped())
    content[6] |= 1  # the flags in the member's own header, and in the directory at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


@dataclass(frozen=True)
class Format:
    """A data set's description, and what writes its files below a data directory; a user's own text lies in `own`."""

    info: Dataset
    write: Callable[[Path], object]
    own: str | None = None


def text(name: str, content: bytes, kind: str = "documents") -> Format:
    """A user's own text."""
    return Format(dataset(kind), holds(name, content), name)


FORMATS: dict[str, Format] = {
    "CIFAR's .npy": Format(CIFAR, lambda d: formats.write_npy(d / "tiny", formats.samples())),
    "CIFAR's parquet": Format(CIFAR, lambda d: formats.write_hub(d / "tiny" / "data", formats.samples())),
    "CIFAR's .tar.gz": Format(
        CIFAR, lambda d: formats.write_tar(d / "tiny-python.tar.gz", formats.batches(formats.samples()))
    ),
    "Tiny-ImageNet's .zip": Format(TINY, lambda d: test_tiny_imagenet.write("zip", d)),
    "Tiny-ImageNet's folder": Format(TINY, lambda d: test_tiny_imagenet.write("tiny-imagenet-200", d)),
    "Tiny-ImageNet's parquet": Format(TINY, lambda d: test_tiny_imagenet.write("parquet", d)),
    "ImageNet's folders": Format(IMAGENET, test_imagenet.folders),
    "ImageNet's parquet": Format(IMAGENET, test_imagenet.parquet),
    "LM1B's .tar.gz": Format(LM1B, lambda d: formats.write_tar(d / LM1B.origin.archive.name, lm1b_members())),
    "LM1B's parquet": Format(LM1B, lambda d: lm1b_parquet(d / "lm1b" / "data")),
    "a text": text("text.txt", PROSE, "sentences"),
    "a text as .gz": text("text.txt.gz", gzip.compress(PROSE)),
    "a text as .xz": text("text.txt.xz", lzma.compress(PROSE)),
    "a text as .zip": text("text.zip", zipped(), "characters"),
}


def own(kind: str, file: str, content: bytes, *said: str, title: str = "") -> Call:
    """`dblocks prepare` of a user's own text."""
    titled = ("--title", title) if title else ()
    return Call(("prepare", kind, "--path", file, "--folder", "out", *titled), said, holds(file, content))


def cifar100(*said: str, arrange: Callable[[Path], object]) -> Call:
    """`dblocks prepare` of CIFAR-100 from the data directory `sets`."""
    made = both(lambda folder: (folder / "sets" / "cifar100").mkdir(parents=True), arrange)
    return Call(("prepare", "cifar100", "--data-dir", "sets", "--folder", "out"), said, made)


def arrays(**changed: np.ndarray) -> Callable[[Path], object]:
    """Arranges CIFAR-100's four arrays, far too small ones unless changed."""
    found = {f"{split}_images": np.zeros((2, 32, 32, 3), np.uint8) for split in ("train", "test")}
    found |= {f"{split}_labels": np.zeros(2, np.uint8) for split in ("train", "test")} | changed
    return lambda folder: [np.save(folder / "sets/cifar100" / f"{k}.npy", a) for k, a in found.items()]


HUB = "sets/cifar100/train-00000-of-00001.parquet"
DATA: dict[str, Call] = {
    "a text cut off in .gz": own("documents", "a.txt.gz", gzip.compress(PROSE)[:-9], "a.txt.gz", "to its end"),
    "a text cut off in .xz": own("documents", "a.txt.xz", lzma.compress(PROSE)[:-9], "a.txt.xz", "to its end"),
    "a text that is no .gz": own("documents", "a.txt.gz", PROSE, "a.txt.gz", "Not a gzipped file"),
    "a .zip that is none": own("characters", "a.zip", b"PK", "a.zip", "to its end"),
    "a .zip of two": own("characters", "a.zip", zipped(names=("a", "b")), "a.zip", "2 files", "must be one"),
    "an encrypted .zip": own("characters", "a.zip", encrypted(), "a.zip", "encrypted"),
    "a text in Latin-1": own("sentences", "a.txt", b"plain\nf\xfcr\n", "a.txt, line 2", "not UTF-8"),
    "a text too short": own("characters", "a.txt", b"ab", "a.txt", "2 characters", "too few"),
    "an empty text": own("documents", "a.txt", b"", "a.txt", "0 documents", "none for train"),
    "a text under a real name": own("characters", "a.txt", PROSE, "data.title", "'text8'", title="text8"),
    "a folder without text": Call(
        ("prepare", "documents", "--path", "sets", "--folder", "out"), ("sets", ".txt"), lambda d: (d / "sets").mkdir()
    ),
    "a file for a named data set": Call(
        ("prepare", "digits", "--path", "x", "--folder", "out"), ("data.path", "digits")
    ),
    "images without their labels": cifar100(
        "train_labels.npy",
        "missing",
        arrange=lambda d: np.save(d / "sets/cifar100/train_images.npy", np.zeros((2, 32, 32, 3), np.uint8)),
    ),
    "images too few": cifar100("[2, 3, 32, 32]", "[50000, 3, 32, 32]", arrange=arrays()),
    "images as objects": cifar100(
        "train_images.npy", "plain numbers", arrange=arrays(train_images=np.array([{}, {}], dtype=object))
    ),
    "images without channels": cifar100(
        "train_images.npy", "[N, height, width, channels]", arrange=arrays(train_images=np.zeros((2, 1024), np.uint8))
    ),
    "an archive of another size": cifar100(
        "cifar-100-python.tar.gz", "169,001,437", arrange=holds("sets/cifar-100-python.tar.gz", b"not it")
    ),
    "parquet that is none": cifar100(HUB, "not a whole parquet", arrange=holds(HUB, b"PAR1")),
    "parquet without a column": cifar100(
        HUB,
        "no column `img`",
        "coarse",
        arrange=lambda d: pq.write_table(pa.table({"coarse": [1]}), d / HUB),
    ),
    "parquet of numbers for text": Call(
        ("prepare", "lm1b", "--data-dir", "sets", "--folder", "out"),
        ("train-00000-of-00001.parquet", "`text`"),
        lambda d: [
            (d / "sets/lm1b").mkdir(parents=True),
            pq.write_table(pa.table({"text": [1, 2]}), d / "sets/lm1b/train-00000-of-00001.parquet"),
        ],
    ),
    "parquet with a part missing": cifar100(
        "1 of 2 train files", arrange=holds("sets/cifar100/train-00000-of-00002.parquet", b"PAR1")
    ),
}
