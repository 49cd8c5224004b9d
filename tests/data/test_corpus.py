"""The embedded text: what is committed is what is documented, and it is prepared like any other."""

import hashlib
import lzma
from dataclasses import replace

import pytest

from dblocks.data.characters import decode
from dblocks.data.fingerprints import characters_in
from dblocks.data.prepare import prepare
from dblocks.data.registry import DATASETS, dataset
from dblocks.data.sources import CORPUS, availability, find_source
from dblocks.errors import UserError

PACKAGED = [info for info in DATASETS.values() if getattr(info, "packaged", None)]


@pytest.mark.parametrize("info", PACKAGED, ids=lambda info: info.name)
def test_source_licence_and_checksums_stand_beside_the_text(info):
    readme = (CORPUS / "README.md").read_text()
    packed = (CORPUS / info.packaged).read_bytes()
    text = lzma.decompress(packed)
    assert hashlib.sha256(text).hexdigest() == info.content
    for fact in (info.packaged, info.content, hashlib.sha256(packed).hexdigest(), f"{len(text):,}", "public domain"):
        assert fact in readme
    assert len(text) >= 1_000_000
    if info.kind == "characters":
        assert f"{info.characters:,}" in readme


def test_it_is_there_without_a_data_directory():
    assert str(availability("austen", None)) == "embedded"
    assert find_source(dataset("austen"), None).path.is_file()


def test_it_is_cleaned_and_cut_as_text8_is(austen):
    parts = [austen.array(split) for split in ("train", "validation", "test")]
    total = dataset("austen").characters
    assert [len(part) for part in parts] == [
        total * 90 // 100,
        total * 95 // 100 - total * 90 // 100,
        total - total * 95 // 100,
    ]
    assert decode(parts[0][:40]) == "sense and sensibility by jane austen one"
    assert decode(parts[2][-6:]) == "finis "


def test_another_text_in_its_place_is_refused(tmp_path):
    changed = replace(dataset("austen"), content="0" * 64)
    with pytest.raises(UserError, match="sha256 of the text"):
        prepare(changed, None, tmp_path / "out")


def test_characters_of_a_users_text_are_counted_as_they_are_prepared_and_once(tmp_path):
    cache = tmp_path / "cache.json"
    (tmp_path / "raw.txt").write_text("It is 5 o'clock!\n")
    assert characters_in(tmp_path / "raw.txt", cache) == len("it is five o clock ")
    (tmp_path / "clean.txt").write_text("a  b")
    assert characters_in(tmp_path / "clean.txt", cache) == 4
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "a.txt").write_text("one!")
    assert characters_in(folder, cache) == 4
    (folder / "b.txt").write_text("two")
    assert characters_in(folder, cache) == len("one two")
    cache.write_text(cache.read_text().replace('"7"', '"70"'))
    assert characters_in(folder, cache) == 70
