"""Writers of small data sets in the exact formats of the official sources, and servers that stand for their hosts."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dblocks.data.origins import Origin, RemoteFile
from dblocks.data.registry import ArchiveLayout, ImageDataset

CLASSES, TRAIN, TEST = 4, 40, 8
LAYOUT = ArchiveLayout(("tiny-python/batch_1", "tiny-python/batch_2"), ("tiny-python/test",), "fine_labels")


def tiny_dataset(**changes: object) -> ImageDataset:
    """CIFAR's description at another size; `archive_bytes`, `archive_md5` and `prepared_bytes` reach its origin."""
    archive = RemoteFile(
        "tiny-python.tar.gz",
        "http://nowhere.invalid/",
        changes.pop("archive_bytes", None),
        "md5",
        changes.pop("md5", None),
    )
    origin = Origin(
        "generated",
        "none",
        prepared_bytes=changes.pop("prepared_bytes", 200_000),
        hub_id="someone/tiny",
        archive=archive,
        download_from="hub",
    )
    info = ImageDataset(
        "tiny",
        (3, 32, 32),
        CLASSES,
        TRAIN,
        TEST,
        "tiny-1",
        balanced=True,
        origin=origin,
        layout=LAYOUT,
        label_column="fine_label",
    )
    return replace(info, **changes)


def samples(seed: int = 0) -> dict[str, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels [N] of both splits."""
    draws, arrays = np.random.default_rng(seed), {}
    for split, size in (("train", TRAIN), ("test", TEST)):
        arrays[f"{split}_images"] = draws.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = draws.permutation(np.arange(size) % CLASSES)
    return arrays


def write_npy(folder: Path, arrays: dict[str, np.ndarray], label_type: str = "uint8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array.astype(label_type) if "labels" in key else array)
    return folder


def python2_pickle(value: object) -> bytes:
    """Protocol 2 as Python 2 wrote it: byte strings for text, numpy arrays by `numpy.core.multiarray`."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: object) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(k) + _pickled(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(v) for v in value) + b"e"
    if isinstance(value, np.ndarray):
        shape = b"".join(_pickled(n) for n in value.shape) + b"\x86"
        new = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        return new + b"(K\x01" + shape + dtype + b"\x89" + _pickled(value.tobytes()) + b"tb"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    data = value.encode() if isinstance(value, str) else value
    return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data


def batches(arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    """The members of an official python archive: planes of red, green, blue in rows of `data`."""
    half = TRAIN // 2
    members = {}
    for name, split, rows in (
        ("batch_1", "train", slice(half)),
        ("batch_2", "train", slice(half, None)),
        ("test", "test", slice(None)),
    ):
        images = arrays[f"{split}_images"][rows]
        labels = [int(label) for label in arrays[f"{split}_labels"][rows]]
        content = {
            "filenames": [f"a_s_{i:06}.png" for i in range(len(images))],
            "batch_label": f"{split} batch",
            "fine_labels": labels,
            "coarse_labels": [0] * len(labels),
            "data": images.transpose(0, 3, 1, 2).reshape(len(images), -1),
        }
        members[f"tiny-python/{name}"] = python2_pickle(content)
    return members


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def write_hub(
    folder: Path,
    arrays: dict[str, np.ndarray],
    shards: int = 1,
    metadata: bool = True,
    label: str = "fine_label",
) -> Path:
    """<folder>/train-00000-of-00001.parquet and test, with or without the hub's schema metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        images = [{"bytes": png(image), "path": None} for image in arrays[f"{split}_images"]]
        labels = arrays[f"{split}_labels"].astype("int64")
        table = pa.table({"img": images, label: labels, "coarse_label": labels * 0})
        if metadata:
            features = {"img": {"_type": "Image"}, label: {"names": list("abcd"), "_type": "ClassLabel"}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        count = shards if split == "train" else 1
        for i in range(count):
            start, end = (len(table) * j // count for j in (i, i + 1))
            pq.write_table(table[start:end], folder / f"{split}-{i:05}-of-{count:05}.parquet")
    return folder


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


class _Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path with ranges; `cut` breaks the connection after so many bytes, once."""

    def __init__(self, files: dict[str, bytes], ranges: bool = True, cut: int | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.ranges, self.cut, self.starts = files, ranges, cut, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        data = self.server.files.get(path)
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if path.startswith("/api/"):
            self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if body:
            self.server.starts.append((path, start))
            if self.server.cut is not None and not path.startswith("/api/"):
                end, self.server.cut, self.close_connection = start + self.server.cut, None, True
                self.wfile.write(data[start:end])
            else:
                self.wfile.write(data[start:])


@contextlib.contextmanager
def serve(files: dict[str, bytes], **options: object) -> Iterator[_Server]:
    server = _Server(files, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def hub_files(hub_id: str, folder: Path) -> dict[str, bytes]:
    """What the hub answers for a data set whose repository holds `folder`'s files: information, tree and files."""
    sha = "0" * 40
    content = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}
    tree = [
        {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for name, data in content.items()
    ]
    siblings = [{"rfilename": name, "size": len(data)} for name, data in content.items()]
    info = json.dumps({"id": hub_id, "sha": sha, "siblings": siblings, "private": False, "disabled": False}).encode()
    files = {f"/api/datasets/{hub_id}{end}": info for end in ("", "/revision/main", f"/revision/{sha}")}
    files |= {f"/api/datasets/{hub_id}/tree/{sha}": json.dumps(tree).encode()}
    return files | {f"/datasets/{hub_id}/resolve/{sha}/{name}": data for name, data in content.items()}
