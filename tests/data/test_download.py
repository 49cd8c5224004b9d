"""Downloads with the real clients against servers on this machine: resumed, verified, one line for every failure."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import formats
import pytest

from dblocks.data.download import download, fetch
from dblocks.data.origins import RemoteFile
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.registry import dataset
from dblocks.errors import UserError

CONTENT = bytes(range(256)) * 8192
FILE = RemoteFile("file.bin", "", len(CONTENT), "sha256", hashlib.sha256(CONTENT).hexdigest())


def at(server, file: RemoteFile = FILE) -> RemoteFile:
    return replace(file, url=f"{server.url}/file.bin")


def one_line(caught, *expected: str) -> None:
    assert "\n" not in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


@pytest.fixture
def repository(tmp_path):
    formats.write_hub(tmp_path / "repository" / "tiny", formats.samples(), shards=2)
    return formats.hub_files("someone/tiny", tmp_path / "repository")


def test_a_hub_data_set_is_downloaded_and_then_found(tmp_path, repository, capsys):
    info = formats.tiny_dataset()
    with formats.serve(repository) as hub:
        download(info, tmp_path / "data", endpoint=hub.url)
    assert "tiny: downloading 19" in capsys.readouterr().err, "the size is told"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["tiny"]
    prepare(info, tmp_path / "data", tmp_path / "from_hub")
    formats.write_npy(tmp_path / "npy" / "tiny", formats.samples())
    prepare(info, tmp_path / "npy", tmp_path / "from_npy")
    assert PreparedData(tmp_path / "from_hub").checksum() == PreparedData(tmp_path / "from_npy").checksum()


def test_a_hub_download_that_broke_off_goes_on_with_the_files_it_has(tmp_path, repository):
    info, data = formats.tiny_dataset(), tmp_path / "data"
    (lost,) = (path for path in repository if path.endswith("train-00001-of-00002.parquet"))
    with (
        formats.serve({k: v for k, v in repository.items() if k != lost}) as hub,
        pytest.raises(UserError) as caught,
    ):
        download(info, data, endpoint=hub.url)
    one_line(caught, "tiny")
    assert not (data / "tiny").exists(), "a part is not taken for the whole"
    with formats.serve(repository) as hub:
        download(info, data, endpoint=hub.url)
    assert [path for path, _ in hub.starts if path.endswith(".parquet")].count(lost) == 1
    assert not any("test-00000" in path for path, _ in hub.starts), "what was whole is not fetched again"


def test_an_unknown_hub_id_and_a_hub_that_does_not_answer(tmp_path):
    with formats.serve({}) as hub, pytest.raises(UserError) as caught:
        download(formats.tiny_dataset(), tmp_path / "data", endpoint=hub.url)
    one_line(caught, "tiny: the hub knows no data set 'someone/tiny'")
    with pytest.raises(UserError) as caught:
        download(formats.tiny_dataset(), tmp_path / "data", endpoint="http://127.0.0.1:9")  # nobody listens
    one_line(caught, "download of someone/tiny from the hub failed (", "run it again to go on")
    assert not list(tmp_path.rglob("*"))


def test_offline_is_one_line(tmp_path):
    code = (
        "import formats; from pathlib import Path; from dblocks.data.prepare import prepare\n"
        "from dblocks.errors import UserError\n"
        "try: prepare(formats.tiny_dataset(), Path('data'), Path('out'), download=True)\n"
        "except UserError as error: print(error)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert "download of someone/tiny from the hub failed" in done.stdout
    assert "HF_HUB_OFFLINE" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_for_the_download_is_told_beforehand(tmp_path):
    with pytest.raises(UserError) as caught:
        download(formats.tiny_dataset(prepared_bytes=10**18), tmp_path / "data", endpoint="http://127.0.0.1:9")
    one_line(caught, "of disk", "are free")


def test_what_needs_a_person_is_not_downloaded(tmp_path):
    gated = formats.tiny_dataset()
    gated = replace(gated, origin=replace(gated.origin, gate="manual"))
    with pytest.raises(UserError) as caught:
        prepare(gated, tmp_path / "data", tmp_path / "out", download=True)
    one_line(caught, "cannot be downloaded; get it from generated and put it into")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_is_fetched_on_from_where_it_broke_off(tmp_path, ranges):
    target = tmp_path / "file.bin"
    with formats.serve({"/file.bin": CONTENT}, cut=1_500_000, ranges=ranges) as server:
        with pytest.raises(UserError) as caught:
            fetch(at(server), target)
        one_line(caught, "file.bin")
        assert not target.exists()
        fetch(at(server), target)
        assert [start for _, start in server.starts] == [0, 1_500_000 if ranges else 0]
    assert target.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_a_file_with_the_wrong_checksum_is_refused_and_not_kept(tmp_path):
    with formats.serve({"/file.bin": CONTENT[::-1]}) as server, pytest.raises(UserError) as caught:
        fetch(at(server), tmp_path / "file.bin")
    one_line(caught, "sha256 is", "fetch it again")
    assert not list(tmp_path.iterdir())


def test_an_address_that_is_not_there_or_does_not_answer(tmp_path):
    with formats.serve({}) as server, pytest.raises(UserError) as caught:
        fetch(at(server), tmp_path / "file.bin")
    one_line(caught, "download of http://127.0.0.1", "404")
    with pytest.raises(UserError) as caught:
        fetch(at(server), tmp_path / "file.bin")
    one_line(caught, "refused")


def test_prepare_downloads_an_archive_where_it_may(tmp_path):
    text = b"letters and spaces " * 100
    real = dataset("text8")
    with formats.serve({"/file.bin": text}) as server:
        digest = hashlib.sha256(text).hexdigest()
        archive = RemoteFile("text8.txt", f"{server.url}/file.bin", len(text), "sha256", digest)
        small = replace(real, content=digest, origin=replace(real.origin, archive=archive))
        with pytest.raises(UserError, match="snakemake data"):
            prepare(small, tmp_path / "data", tmp_path / "out")
        prepare(small, tmp_path / "data", tmp_path / "out", download=True)
    assert PreparedData(tmp_path / "out").facts["characters"] == len(text)
