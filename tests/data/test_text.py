"""Characters, documents and sentences of any file, and the named text data sets."""

import gzip
import hashlib
import itertools
import lzma
import re
import zipfile
from dataclasses import replace

import formats
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dblocks.data.characters import ALPHABET, DIGITS, decode, encode, encode_as_is
from dblocks.data.fingerprints import fingerprint
from dblocks.data.prepare import prepare
from dblocks.data.prepared import PreparedData
from dblocks.data.records import split_of
from dblocks.data.registry import dataset
from dblocks.errors import UserError

PROSE = "The 2 Foxes — jumped 10 times;\nover\tthe lazy dog's  back.\n\n" * 20


def reference(text: bytes) -> str:
    """The last step of the script that made text8, as regular expressions."""
    clean = text.decode("latin1")
    clean = re.sub("[A-Z]", lambda m: m[0].lower(), clean)
    for digit, word in enumerate(DIGITS):
        clean = clean.replace(str(digit), f" {word} ")
    return re.sub("[^a-z]+", " ", clean)


def cleaned(*pieces: bytes) -> str:
    return "".join(decode(codes) for codes in encode(pieces))


@given(st.lists(st.one_of(st.binary(max_size=30), st.text("aZ09 \n", max_size=30).map(str.encode)), max_size=5))
def test_cleaning_follows_the_script_however_the_text_is_cut_into_pieces(pieces):
    clean = cleaned(*pieces)
    assert clean == reference(b"".join(pieces))
    assert set(clean) <= set(ALPHABET)
    assert "  " not in clean


@given(st.text(max_size=100))
def test_cleaning_twice_is_cleaning_once(text):
    once = cleaned(text.encode())
    assert cleaned(once.encode()) == once
    assert "".join(decode(codes) for codes in encode_as_is([once.encode()])) == once


def prepared(name, path, tmp_path, **options) -> PreparedData:
    prepare(name, None, tmp_path / "out", path=path, **options)
    return PreparedData(tmp_path / "out")


def refused(name, tmp_path, *expected: str, **options) -> None:
    out = tmp_path / "refused"
    with pytest.raises(UserError) as caught:
        prepare(name, options.pop("data_dir", None), out / "prepared", **options)
    assert "\n" not in str(caught.value)
    for part in expected:
        assert part in str(caught.value)
    assert not out.exists() or not list(out.iterdir())


def test_characters_are_cut_by_position_and_carry_name_and_checksum(tmp_path):
    (tmp_path / "foxes.txt").write_text(PROSE)
    data = prepared("characters", tmp_path / "foxes.txt", tmp_path)
    parts = [data.array(split) for split in ("train", "validation", "test")]
    text = cleaned(PROSE.encode())
    assert decode(np.concatenate(parts)) == text
    ends = np.cumsum([len(part) for part in parts])
    assert list(ends) == [len(text) * 90 // 100, len(text) * 95 // 100, len(text)]
    assert data.name == "foxes"
    assert data.fingerprint == "foxes-" + hashlib.sha256(PROSE.encode()).hexdigest()
    assert not data.facts["already_clean"]


def test_a_text_of_letters_and_spaces_is_kept_character_for_character(tmp_path):
    text = " two  spaces stay" * 10
    (tmp_path / "clean").write_text(text)
    data = prepared("characters", tmp_path / "clean", tmp_path, title="wiki8")
    assert decode(np.concatenate([data.array(s) for s in ("train", "validation", "test")])) == text
    assert data.name == "wiki8"


@pytest.mark.parametrize("ending", ["txt", "txt.gz", "txt.xz", "zip"])
def test_compressed_files_read_as_plain_ones(tmp_path, ending):
    path = tmp_path / f"foxes.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("foxes", PROSE)
    else:
        compress = {"txt": bytes, "txt.gz": gzip.compress, "txt.xz": lzma.compress}[ending]
        path.write_bytes(compress(PROSE.encode()))
    data = prepared("characters", path, tmp_path)
    assert data.facts["text_sha256"] == hashlib.sha256(PROSE.encode()).hexdigest()


def records_of(data: PreparedData) -> dict[str, list[str]]:
    found = {}
    for split in ("train", "validation", "test"):
        text, ends = data.array(f"{split}_bytes").tobytes(), data.array(f"{split}_offsets")
        found[split] = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
    return found


def everything(found: dict[str, list[str]]) -> list[str]:
    return [*found["train"], *found["validation"], *found["test"]]


def test_sentences_go_to_splits_by_content_not_by_place(tmp_path):
    sentences = [f"Sentence № {i} ." for i in range(500)]
    (tmp_path / "a.txt").write_text("\n\n".join(sentences) + "\r\n")
    (tmp_path / "b.txt").write_text("\n".join(reversed(sentences)))
    found = [
        records_of(prepared("sentences", tmp_path / file, tmp_path / file[0], title="t")) for file in ("a.txt", "b.txt")
    ]
    assert everything(found[0]) != everything(found[1])
    for split in ("train", "validation", "test"):
        assert sorted(found[0][split]) == sorted(found[1][split])
    assert sorted(everything(found[0])) == sorted(sentences)
    assert 20 < len(found[0]["validation"]) < 90
    assert 20 < len(found[0]["test"]) < 90


def test_documents_keep_their_lines_and_a_folder_is_read_in_order(tmp_path):
    documents = [f"Title {i}\n  indented line\nÜber {i}" for i in range(60)]
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "1.txt").write_text("\ufeff" + "\n\n".join(documents[:30]))
    (folder / "2.txt").write_text("\n \n\n".join(documents[30:]) + "\n")
    (folder / "notes.md").write_text("not read")
    found = records_of(prepared("documents", folder, tmp_path))
    assert sorted(everything(found)) == sorted(documents)
    assert found["train"] == [d for d in documents if split_of(d.encode()) == "train"]


def test_text_that_cannot_be_used_is_refused(tmp_path):
    refused("characters", tmp_path, "data.path: not set")
    refused("sentences", tmp_path, "nowhere.txt is not there", path=tmp_path / "nowhere.txt")
    refused("text8", tmp_path, "data.path: text8 is read from data_dir", path=tmp_path)
    (tmp_path / "empty").mkdir()
    refused("documents", tmp_path, "has no .txt", path=tmp_path / "empty")
    files = {
        "short.txt": (b"ab", "characters", "2 characters are too few"),
        "one.txt": (b"one sentence", "sentences", "1 sentences, none for"),
        "nothing.txt": (b"", "documents", "0 documents, none for train"),
        "latin.txt": ("plain\nfür".encode("latin1"), "sentences", "latin.txt, line 2: not UTF-8"),
        "cut.txt.xz": (
            lzma.compress(PROSE.encode())[:-20],
            "characters",
            "cut.txt.xz: cannot be read to its end",
        ),
        "cut.txt.gz": (
            gzip.compress(PROSE.encode())[:-20],
            "documents",
            "cut.txt.gz: cannot be read to its end",
        ),
        "no.zip": (b"PK", "characters", "no.zip: cannot be read to its end"),
    }
    for file, (content, name, expected) in files.items():
        (tmp_path / file).write_bytes(content)
        refused(name, tmp_path, expected, path=tmp_path / file)


def test_only_the_real_text8_bears_its_name(tmp_path):
    (tmp_path / "data" / "text8").mkdir(parents=True)
    path = tmp_path / "data" / "text8" / "text8"
    path.write_text("another text " * 100)
    refused("text8", tmp_path, "sha256 of the text is", "6e890197040d37d8", data_dir=tmp_path / "data")
    refused("characters", tmp_path, "data.title: 'text8' is a real data set's name", path=path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    prepare(replace(dataset("text8"), content=content), tmp_path / "data", tmp_path / "out")
    assert PreparedData(tmp_path / "out").facts["characters"] == 1300
    with zipfile.ZipFile(tmp_path / "data" / "text8.zip", "w") as archive:
        archive.write(path, "text8")
    path.unlink()
    refused("text8", tmp_path, "text8.zip", "truncated?", data_dir=tmp_path / "data")


def lm1b_archive(path) -> list[str]:
    name, members = "1-billion-word-language-modeling-benchmark-r13output", {}
    for kind, file, count in (
        ("training", "news.en-{:05}-of-00100", 200),
        ("heldout", "news.en.heldout-{:05}-of-00050", 50),
    ):
        for i in (1, 2):
            text = "".join(f"{kind} sentence {i} {j} .\n" for j in range(count))
            members[f"{name}/{kind}-monolingual.tokenized.shuffled/{file.format(i)}"] = text.encode()
    members[f"{name}/README"] = b"not data\n"
    formats.write_tar(path, members)
    return [line for text in members.values() for line in text.decode().splitlines() if line != "not data"]


def test_lm1b_is_read_from_the_official_archives_layout(tmp_path):
    real = dataset("lm1b")
    path = tmp_path / "data" / "lm1b" / real.origin.archive.name
    lines = lm1b_archive(path)
    refused("lm1b", tmp_path, "truncated?", data_dir=tmp_path / "data")
    origin = replace(real.origin, prepared_bytes=10**6, archive=replace(real.origin.archive, bytes=None, digest=None))
    prepare(replace(real, origin=origin), tmp_path / "data", tmp_path / "out")
    found = records_of(PreparedData(tmp_path / "out"))
    assert sorted(found["test"]) == sorted(line for line in lines if line.startswith("heldout"))
    assert len(found["train"]) + len(found["validation"]) == 400


def test_lm1b_is_read_from_the_hubs_layout(tmp_path):
    folder = tmp_path / "data" / "lm1b" / "data"
    folder.mkdir(parents=True)
    for split, count in (("train", 100), ("test", 9)):
        texts = [f"{split} {i}" for i in range(count)]
        pq.write_table(pa.table({"text": texts}), folder / f"{split}-00000-of-00001.parquet")
    small = replace(dataset("lm1b"), origin=replace(dataset("lm1b").origin, prepared_bytes=10**6))
    expected = "9 test + 100 train sentences, lm1b has 306,688 test + 30,301,028 train"
    refused(small, tmp_path, expected, data_dir=tmp_path / "data")
    prepare(replace(small, records=(100, 9)), tmp_path / "data", tmp_path / "out")
    found = records_of(PreparedData(tmp_path / "out"))
    assert found["test"] == [f"test {i}" for i in range(9)]
    assert len(found["train"]) + len(found["validation"]) == 100


def test_openwebtext_is_read_from_the_hubs_layout(tmp_path):
    documents = [f"Document {i}\n\nwith a blank line of its own" for i in range(90)]
    folder = tmp_path / "data" / "openwebtext" / "data"
    folder.mkdir(parents=True)
    for i in range(3):
        pq.write_table(pa.table({"text": documents[i * 30 : i * 30 + 30]}), folder / f"train-{i:05}-of-00003.parquet")
    real = dataset("openwebtext")
    small = replace(real, origin=replace(real.origin, prepared_bytes=10**6))
    refused(small, tmp_path, "90 documents, openwebtext has 8,013,769", data_dir=tmp_path / "data")
    prepare(replace(small, records=(90, None)), tmp_path / "data", tmp_path / "out")
    assert sorted(everything(records_of(PreparedData(tmp_path / "out")))) == sorted(documents)


def test_the_prepared_identity_is_the_plans(tmp_path):
    (tmp_path / "books").mkdir()
    for i in range(3):
        (tmp_path / "books" / f"{i}.txt").write_text(f"{i} " + PROSE)
    planned = fingerprint("characters", tmp_path / "books", "Books", cache=tmp_path / "cache.json")
    assert prepared("characters", tmp_path / "books", tmp_path, title="Books").fingerprint == planned
