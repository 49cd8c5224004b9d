"""The data sets by name: what a plan must know before a byte is there, and what preparation enforces.

`fingerprint` is the part a data set has in a run's identity. For a named data set it is fixed, and
preparation refuses anything else; for a general one it comes from the user's file (fingerprints.py).
Standard library only, and nothing is read from disk: every plan imports this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dblocks.data import origins
from dblocks.data.origins import Origin
from dblocks.errors import UserError


@dataclass(frozen=True)
class ArchiveLayout:
    """Members of a CIFAR python archive, and the key of the labels in their dictionaries."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image data set.

    Attributes:
        image_shape: (C, H, W).
        train_size, test_size: number of images.
        fingerprint: names the exact content (see module docstring).
        embedded: comes with the installation, nothing is downloaded.
        balanced: every class has the same number of images, which is enforced.
        content: order-independent checksum of all images and labels (images.py); None: not known, not enforced.
        layout: how to read the official archive.
        image_column, label_column: of the hub's parquet files.
        test_part: what the hub's files call the split that is tested on.
        image_format: of the encoded images; JPEGs may be grey and are read as colour.
        original: top folder of the original layout of class folders (tiny_imagenet.py), in a folder or a zip.
        cropped: images of any size, from class folders or parquet files, are cropped to `image_shape`
            (imagenet.py); there are too many to be held at once.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    train_size: int
    test_size: int
    fingerprint: str
    embedded: bool = False
    balanced: bool = False
    content: str | None = None
    origin: Origin = origins.UNKNOWN
    layout: ArchiveLayout | None = None
    image_column: str = "img"
    label_column: str = "label"
    test_part: str = "test"
    image_format: Literal["PNG", "JPEG"] = "PNG"
    original: str | None = None
    cropped: bool = False

    def fit_size(self) -> int:
        """Training images left when the fixed validation tenth is held out."""
        return self.train_size - self.train_size // 10


@dataclass(frozen=True)
class TextDataset:
    """A text data set.

    Attributes:
        kind: `characters` (a-z and space, cut by position), `documents` (separated by blank lines) or
            `sentences` (one a line).
        fingerprint: as above; None: general, the content is whatever file the user names.
        content: SHA-256 of the text, decompressed; None: not known, not enforced.
        characters: length of the cleaned text, of kind `characters`; None: counted when it is known.
        plain_file: name of the uncompressed text inside the data directory.
        packaged: name of the text in dblocks/data/corpus, for an embedded one.
        records: documents or sentences of (train, test) before the validation part is taken; test is None
            where the source has no test part and one is cut by hash.
        for_teacher: of the embedded novels cut into chapters (novels.py): the part set aside for a teacher.
        spaced: words and punctuation stand apart in the source; they are joined before they become tokens.
    """

    name: str
    kind: Literal["characters", "documents", "sentences"]
    fingerprint: str | None = None
    content: str | None = None
    characters: int | None = None
    plain_file: str | None = None
    packaged: str | None = None
    records: tuple[int, int | None] | None = None
    origin: Origin = origins.OWN_TEXT
    embedded: bool = False
    for_teacher: bool = False
    spaced: bool = False


Dataset = ImageDataset | TextDataset

DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        ImageDataset("digits", (1, 8, 8), 10, 1437, 360, "digits-1", embedded=True, origin=origins.DIGITS),
        ImageDataset("digits16", (1, 16, 16), 10, 1437, 360, "digits16-1", embedded=True, origin=origins.DIGITS16),
        ImageDataset(
            "imagenet256",
            (3, 256, 256),
            1000,
            1_281_167,
            50_000,
            "imagenet256-1",
            origin=origins.IMAGENET256,
            cropped=True,
        ),
        ImageDataset(
            "cifar100",
            (3, 32, 32),
            100,
            50_000,
            10_000,
            "cifar100-1",
            balanced=True,
            content="a10a18d19cf7fa88869ae994249cdc83ce2394eb15d1ff9bef3c45c02ea15d12",
            origin=origins.CIFAR100,
            layout=ArchiveLayout(("cifar-100-python/train",), ("cifar-100-python/test",), "fine_labels"),
            label_column="fine_label",
        ),
        ImageDataset(
            "cifar10",
            (3, 32, 32),
            10,
            50_000,
            10_000,
            "cifar10-1",
            balanced=True,
            origin=origins.CIFAR10,
            layout=ArchiveLayout(
                tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)),
                ("cifar-10-batches-py/test_batch",),
                "labels",
            ),
        ),
        ImageDataset(
            "tiny_imagenet",
            (3, 64, 64),
            200,
            100_000,
            10_000,
            "tiny_imagenet-1",
            balanced=True,
            origin=origins.TINY_IMAGENET,
            image_column="image",
            test_part="valid",
            image_format="JPEG",
            original="tiny-imagenet-200",
        ),
        TextDataset(
            "austen",
            "characters",
            "austen-1",
            content="a66a8f8c9d28a0909a6f78ca8774a1a093ed74286084fb8940c82b453c53b912",
            characters=3_005_646,
            packaged="austen.txt.xz",
            origin=origins.AUSTEN,
            embedded=True,
        ),
        *(
            TextDataset(
                name,
                kind,
                f"{name}-1",
                content="a66a8f8c9d28a0909a6f78ca8774a1a093ed74286084fb8940c82b453c53b912",
                packaged="austen.txt.xz",
                origin=origins.AUSTEN_RECORDS,
                embedded=True,
                for_teacher=name == "austen_teacher",
            )
            for name, kind in (
                ("austen_sentences", "sentences"),
                ("austen_chapters", "documents"),
                ("austen_teacher", "documents"),
            )
        ),
        TextDataset("characters", "characters"),
        TextDataset("documents", "documents"),
        TextDataset("sentences", "sentences"),
        TextDataset(
            "text8",
            "characters",
            "text8-1",
            content="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            characters=100_000_000,
            plain_file="text8",
            origin=origins.TEXT8,
        ),
        TextDataset("lm1b", "sentences", "lm1b-1", records=(30_301_028, 306_688), origin=origins.LM1B, spaced=True),
        TextDataset("openwebtext", "documents", "openwebtext-1", records=(8_013_769, None), origin=origins.OPENWEBTEXT),
    )
}


def character_splits(total: int) -> tuple[int, int, int]:
    """Where train, validation and test of a text of `total` characters end: 90, 95 and 100 % by position."""
    return total * 90 // 100, total * 95 // 100, total


def is_spaced(name: str) -> bool:
    """Whether words and punctuation of a data set stand apart in its source, and are joined before they are tokens."""
    return getattr(DATASETS.get(name), "spaced", False)


def dataset(name: str) -> Dataset:
    """The data set of that name.

    Raises: UserError naming the known ones.
    """
    if name not in DATASETS:
        raise UserError(f"data.name: no data set '{name}'; there are {', '.join(sorted(DATASETS))}")
    return DATASETS[name]
