"""Where a data set's bytes are, and whether it can be had.

Standard library only and quick: the plan and `dblocks doctor` call this without reading any data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dblocks.data.files import expanded, readable
from dblocks.data.registry import Dataset, ImageDataset, dataset
from dblocks.errors import UserError

NPY_FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
CORPUS = Path(__file__).parent / "corpus"
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
TEXT_SUFFIXES = (".txt", ".txt.gz", ".txt.xz")


@dataclass(frozen=True)
class Source:
    """Data found on disk: how it is laid out, and the file or folder that holds it."""

    kind: Literal["embedded", "npy", "parquet", "archive", "text", "folders", "original"]
    path: Path


@dataclass(frozen=True)
class Availability:
    """Whether a data set can be had. `str()` gives one line."""

    state: Literal["embedded", "found", "downloadable", "needs a person"]
    detail: str = ""

    def __str__(self) -> str:
        joint = {
            "found": "found at {}",
            "downloadable": "downloadable ({})",
            "needs a person": "needs a person ({})",
        }
        return joint.get(self.state, self.state).format(self.detail)


def parquet_shards(folder: Path, split: str) -> list[Path]:
    """Files of `split` in the hub's layout, `folder/<config>/` or `folder/data/` or `folder` itself, sorted."""
    return sorted(p for pattern in ("", "*/") for p in folder.glob(f"{pattern}{split}-*-of-*.parquet"))


def find_source(info: Dataset, data_dir: Path | None) -> Source | None:
    """The first of: embedded, .npy files, original folders, parquet files, plain text, official archive; else None."""
    if info.embedded:
        return Source("embedded", CORPUS / packaged if (packaged := getattr(info, "packaged", None)) else Path())
    if data_dir is None:
        return None
    folder, archive = data_dir / info.name, info.origin.archive
    if isinstance(info, ImageDataset) and info.cropped:
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return Source("folders", folder)
        return Source("parquet", folder) if parquet_shards(folder, "train") else None
    if isinstance(info, ImageDataset) and any((folder / file).exists() for file in NPY_FILES):
        return Source("npy", folder)
    for path in original_folders(info, data_dir):
        if (path / "wnids.txt").is_file():
            return Source("original", path)
    if info.origin.hub_id and parquet_shards(folder, "train"):
        return Source("parquet", folder)
    plain = [] if isinstance(info, ImageDataset) or info.plain_file is None else [folder / info.plain_file, folder]
    for path in plain:
        if path.is_file():
            return Source("text", path)
    for path in [folder / archive.name, data_dir / archive.name] if archive else []:
        if path.is_file():
            return Source("archive", path)
    return None


def original_folders(info: Dataset, data_dir: Path) -> list[Path]:
    """Where a data set's original layout of class folders may lie."""
    if not isinstance(info, ImageDataset) or info.original is None:
        return []
    return [data_dir / info.name / info.original, data_dir / info.name, data_dir / info.original]


def places(info: Dataset, data_dir: Path) -> list[str]:
    """The paths that `find_source` looks at, as an error message lists them."""
    folder, archive = data_dir / info.name, info.origin.archive
    found = []
    if isinstance(info, ImageDataset) and info.cropped:
        found.append(f"{folder}/{{train,val}}/<class>/*.JPEG")
    elif isinstance(info, ImageDataset):
        found.append(f"{folder}/{{train,test}}_{{images,labels}}.npy")
        found += [f"{path}/wnids.txt" for path in original_folders(info, data_dir)]
    elif info.plain_file is not None:
        found.append(str(folder / info.plain_file))
    if info.origin.hub_id:
        found.append(f"{folder}/*/train-*-of-*.parquet")
    if archive:
        found += [str(folder / archive.name), str(data_dir / archive.name)]
    return found


def require_source(info: Dataset, data_dir: Path | None) -> Source:
    """As `find_source`, but a data set that is nowhere is an error.

    Raises: UserError naming every path looked at, and the way to get the data.
    """
    source = find_source(info, data_dir)
    if source is not None:
        return source
    if data_dir is None:
        raise UserError(f"data_dir: not set, and {info.name} is to be read from there; give a directory")
    missing = "" if data_dir.is_dir() else f" (there is no directory {data_dir})"
    raise UserError(
        f"{info.name}: not found{missing}; looked for {', '.join(places(info, data_dir))}; {_way_to_get(info)}"
    )


def _way_to_get(info: Dataset) -> str:
    origin = info.origin
    if origin.download_from is None or origin.gate == "manual":
        return f"put it there by hand: {origin.source}"
    return f"`snakemake data` downloads it ({_size(info)})"


def _size(info: Dataset) -> str:
    about = "about " if info.origin.about else ""
    return about + readable(info.origin.download_bytes)


def availability(name: str | Dataset, data_dir: Path | None, path: Path | None = None) -> Availability:
    """Whether data set `name` is embedded, found, downloadable or needs a person, without reading it.

    Args:
        path: the user's file or folder, for the general text data sets.
    """
    info = dataset(name) if isinstance(name, str) else name
    if info.fingerprint is None:
        if path is not None and expanded(path, "data.path").exists():
            return Availability("found", str(path))
        return Availability("needs a person", f"set data.path to a file or folder of text; now {path}")
    source = find_source(info, data_dir)
    if source is not None:
        return Availability("embedded") if info.embedded else Availability("found", str(source.path))
    if info.origin.download_from is not None and info.origin.gate == "none":
        return Availability("downloadable", _size(info))
    where = "data_dir" if data_dir is None else places(info, data_dir)[0]
    return Availability("needs a person", f"get it from {info.origin.source} and put it at {where}")


def text_files(path: Path) -> list[Path]:
    """The file itself, or the .txt, .txt.gz and .txt.xz files below a folder in the order of their relative paths.

    Raises: UserError if there is none.
    """
    path = expanded(path, "data.path")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(TEXT_SUFFIXES))
        if not files:
            raise UserError(f"data.path: {path} has no {', '.join(TEXT_SUFFIXES)} file in it")
        return files
    if not path.is_file():
        raise UserError(f"data.path: {path} is not there; it must be a text file or a folder of .txt files")
    return [path]
