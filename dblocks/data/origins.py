"""Where data and weights come from, on what terms, and how large they are: plain data, for plans and DATA.md.

Sizes are in bytes. Checksums that could not be established are None rather than guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RemoteFile:
    """A file with known content: its name, address, size in bytes and checksum (None: not enforced)."""

    name: str
    url: str
    bytes: int | None
    algorithm: Literal["md5", "sha256"]
    digest: str | None


@dataclass(frozen=True)
class Origin:
    """Where a data set comes from, on what terms, and how much room it takes.

    Attributes:
        download_bytes, prepared_bytes: sizes to plan with; `about` says that they are not exact.
        gate: "manual" where a person must agree to terms or fetch it.
        hub_id: its id on the Hugging Face hub, whose parquet layout is read.
        archive: the official archive, read as it is.
        download_from: which of the two is downloaded; None: neither.
    """

    source: str
    licence: str
    download_bytes: int = 0
    prepared_bytes: int = 0
    about: bool = False
    gate: Literal["none", "manual"] = "none"
    hub_id: str | None = None
    archive: RemoteFile | None = None
    download_from: Literal["hub", "archive"] | None = None


UNKNOWN = Origin("unknown", "unknown")
OWN_TEXT = Origin("a file or folder of yours (data.path)", "yours to know")
DIGITS = Origin(
    "scikit-learn's copy of the UCI set 'Optical Recognition of Handwritten Digits' (Alpaydin & Kaynak)",
    "CC BY 4.0 (UCI Machine Learning Repository)",
    prepared_bytes=130_000,
    about=True,
)
DIGITS16 = Origin(
    "the same digits, enlarged to 16×16 by linear interpolation",
    DIGITS.licence,
    prepared_bytes=500_000,
    about=True,
)
IMAGENET256 = Origin(
    "ILSVRC 2012, https://www.image-net.org (or hub ILSVRC/imagenet-1k), centre-cropped to 256×256 like ADM's code",
    "ImageNet's terms of access, for research; a person must accept them",
    download_bytes=155_000_000_000,
    prepared_bytes=262_000_000_000,
    about=True,
    gate="manual",
    hub_id="ILSVRC/imagenet-1k",
)
AUSTEN = Origin(
    "Sense and Sensibility (1811), Pride and Prejudice (1813), Mansfield Park (1814) and Emma (1815) by Jane Austen, "
    "from CRAN's package janeaustenr 1.0.0 (Silge), which has them from Project Gutenberg",
    "public domain; the package MIT",
    prepared_bytes=3_006_000,
    about=True,
)
AUSTEN_RECORDS = Origin(
    "the same novels, cut into chapters or sentences; a third of the chapters, about, is kept apart for a teacher",
    AUSTEN.licence,
    prepared_bytes=3_200_000,
    about=True,
)
CIFAR100 = Origin(
    "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    "no explicit licence; distributed for research, cite the report",
    download_bytes=142_000_000,
    prepared_bytes=184_840_000,
    about=True,
    hub_id="uoft-cs/cifar100",
    archive=RemoteFile(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        169_001_437,
        "md5",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    download_from="hub",
)
CIFAR10 = Origin(
    "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    "no explicit licence; distributed for research, cite the report",
    download_bytes=143_646_105,
    prepared_bytes=184_840_000,
    about=True,
    hub_id="uoft-cs/cifar10",
    archive=RemoteFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        170_498_071,
        "md5",
        "c58f30108f718f92721af3b95e74349a",
    ),
    download_from="hub",
)
TINY_IMAGENET = Origin(
    "Le & Yang 2015 (Stanford's CS231n), http://cs231n.stanford.edu/tiny-imagenet-200.zip, from ImageNet; tested on "
    "its validation images, since the test labels were never published",
    "ImageNet's terms of access, for research; nothing of its own is stated",
    download_bytes=248_100_043,
    prepared_bytes=1_353_000_000,
    about=True,
    hub_id="zh-plus/tiny-imagenet",
    archive=RemoteFile(
        "tiny-imagenet-200.zip",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        248_100_043,
        "md5",
        "90528d7ca1a48142e341f4ef8d21d0de",
    ),
    download_from="archive",
)
TEXT8 = Origin(
    "Mahoney 2011, http://mattmahoney.net/dc/textdata.html, from the English Wikipedia of March 2006",
    "text of Wikipedia: GFDL (CC BY-SA 3.0 since 2009)",
    download_bytes=31_344_016,
    prepared_bytes=100_000_400,
    archive=RemoteFile(
        "text8.zip",
        "http://mattmahoney.net/dc/text8.zip",
        31_344_016,
        "sha256",
        "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    ),
    download_from="archive",
)
LM1B = Origin(
    "Chelba et al. 2013, http://www.statmt.org/lm-benchmark/, from WMT 2011 news crawls",
    "no explicit licence; the crawled news keep their owners' rights",
    download_bytes=1_792_209_805,
    prepared_bytes=4_500_000_000,
    about=True,
    hub_id="dvruette/lm1b",
    archive=RemoteFile(
        "1-billion-word-language-modeling-benchmark-r13output.tar.gz",
        "http://www.statmt.org/lm-benchmark/1-billion-word-language-modeling-benchmark-r13output.tar.gz",
        1_792_209_805,
        "sha256",
        "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
    ),
    download_from="archive",
)
OPENWEBTEXT = Origin(
    "Gokaslan & Cohen 2019, https://skylion007.github.io/OpenWebTextCorpus/",
    "packaging CC0; the web pages keep their owners' rights",
    download_bytes=24_000_000_000,
    prepared_bytes=40_000_000_000,
    about=True,
    hub_id="Skylion007/openwebtext",
    download_from="hub",
)


@dataclass(frozen=True)
class Weights:
    """Published weights that an evaluation or a network needs.

    Attributes:
        bytes: size of what is fetched, about.
        sha256: of the weight file, or its first digits with `…`; None: not known here.
    """

    name: str
    source: str
    licence: str
    bytes: int
    gate: Literal["none", "manual"]
    sha256: str | None


_LLAMA = "Llama 2 Community License; accept it on the hub, then wait for approval"
WEIGHTS = {
    w.name: w
    for w in (
        Weights(
            "inception",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "Apache 2.0 (TensorFlow models)",
            91_000_000,
            "none",
            "6726825d… (in the file's name)",
        ),
        Weights(
            "gpt2-large",
            "hub: openai-community/gpt2-large, model.safetensors",
            "MIT",
            3_250_000_000,
            "none",
            "5f47f3e12f91cd33b662ce7e433b6150ad5512b5884a2cee961b50e9c3bbebce",
        ),
        Weights(
            "gpt2-xl",
            "hub: openai-community/gpt2-xl, model.safetensors",
            "MIT",
            6_430_000_000,
            "none",
            None,
        ),
        Weights(
            "llama2",
            "hub: meta-llama/Llama-2-7b-hf, *.safetensors",
            _LLAMA,
            13_480_000_000,
            "manual",
            None,
        ),
        Weights(
            "llama2-tokenizer",
            "hub: meta-llama/Llama-2-7b-hf, tokenizer.json",
            _LLAMA,
            1_840_000,
            "manual",
            None,
        ),
        Weights(
            "tinyllama-tokenizer",
            "hub: TinyLlama/TinyLlama-1.1B-Chat-v1.0, tokenizer.json",
            "Apache 2.0",
            1_850_000,
            "none",
            None,
        ),
        Weights(
            "sd-vae-ft-ema",
            "hub: stabilityai/sd-vae-ft-ema, diffusion_pytorch_model.safetensors",
            "MIT",
            335_000_000,
            "none",
            None,
        ),
    )
}
