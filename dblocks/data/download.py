"""Downloads: size told and disk checked beforehand, resumed where they stopped, in place only when whole."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from dblocks.data.archive import verify
from dblocks.data.files import check_disk, one_line, readable
from dblocks.data.origins import RemoteFile
from dblocks.data.registry import Dataset
from dblocks.errors import UserError

TIMEOUT = 30  # seconds without a byte


def download(info: Dataset, data_dir: Path, endpoint: str | None = None) -> Path:
    """Fetch data set `info` into `data_dir/<name>` as its source lays it out, and return that folder.

    What is there of an interrupted download is used. Progress goes to standard error.

    Args:
        endpoint: address of the hub, where it is not the public one.
    Raises: UserError if it cannot be downloaded: by its terms, offline, no such id, too little disk.
    """
    origin, folder = info.origin, data_dir / info.name
    if origin.download_from is None or origin.gate == "manual":
        raise UserError(f"{info.name}: cannot be downloaded; get it from {origin.source} and put it into {folder}")
    check_disk(folder, origin.download_bytes + origin.prepared_bytes)
    if origin.download_from == "archive":
        folder.mkdir(parents=True, exist_ok=True)
        fetch(origin.archive, folder / origin.archive.name)
    else:
        _from_hub(info, folder, endpoint)
    return folder


def _from_hub(info: Dataset, folder: Path, endpoint: str | None) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    hub_id = info.origin.hub_id
    partial = folder.with_name(f".{folder.name}.download")
    try:
        details = HfApi(endpoint=endpoint).dataset_info(hub_id, files_metadata=True, timeout=TIMEOUT)
        size = sum(f.size or 0 for f in details.siblings or [] if f.rfilename.endswith(".parquet"))
        if not size:
            raise UserError(f"{info.name}: hub data set {hub_id} has no parquet files")
        announce(info.name, f"hub data set {hub_id} at {details.sha}", size, folder)
        check_disk(folder, size + info.origin.prepared_bytes)
        snapshot_download(
            hub_id,
            repo_type="dataset",
            revision=details.sha,
            local_dir=partial,
            allow_patterns=["*.parquet"],
            endpoint=endpoint,
        )
        # An empty folder of the data set's name is replaced; one with something in it is the user's, and refused.
        os.replace(partial, folder)
    except GatedRepoError as error:
        raise UserError(f"{info.name}: accept the terms of hub data set {hub_id}, then `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{info.name}: the hub knows no data set '{hub_id}' (or it is private)") from error
    except UserError:
        raise
    except Exception as error:  # offline, refused, cut off: the client's libraries have an error each
        raise UserError(
            f"{info.name}: download of {hub_id} from the hub failed ({one_line(error)}); run it again to go on, "
            f"or put its files into {folder}"
        ) from error


def fetch(file: RemoteFile, target: Path, about: int | None = None) -> Path:
    """Download `file` to `target`, going on from `.<name>.partial`; its checksum is verified before it is in place.

    Args:
        about: bytes to expect where the file's own are not known.
    Raises: UserError if the address cannot be read to its end, or the content is not the expected one.
    """
    partial = target.with_name(f".{target.name}.partial")
    have = partial.stat().st_size if partial.exists() else 0
    if file.bytes is None or have < file.bytes:
        check_disk(target, (file.bytes or 0) - have)
        announce(target.name, file.url, file.bytes or about, target.parent)
        try:
            _append(file, partial, have)
        except (OSError, ValueError) as error:  # urllib's errors, timeouts and a full disk are OSErrors
            raise UserError(
                f"{target.name}: download of {file.url} failed ({one_line(error)}); run it again to go on, "
                f"or put the file into {target.parent}"
            ) from error
    try:
        verify(partial, file)
    except UserError:
        if file.bytes is None or partial.stat().st_size >= file.bytes:
            partial.unlink()  # whole but wrong: there is nothing to go on from
        raise
    os.replace(partial, target)
    return target


def _append(file: RemoteFile, partial: Path, have: int) -> None:
    from tqdm import tqdm

    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        have = have if answer.status == 206 else 0  # a server without ranges starts over
        with (
            open(partial, "ab" if have else "wb") as out,
            tqdm(total=file.bytes, initial=have, unit="B", unit_scale=True, desc=file.name, file=sys.stderr) as bar,
        ):
            while piece := answer.read(2**20):
                out.write(piece)
                bar.update(len(piece))


def announce(name: str, source: str, size: int | None, folder: Path) -> None:
    """Say what is about to be downloaded, how much (bytes; None: unknown) and where to."""
    much = "a file of unknown size" if size is None else readable(size)
    print(f"{name}: downloading {much} from {source} to {folder}", file=sys.stderr)
