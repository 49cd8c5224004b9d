"""The embedded novels as sentences and chapters, and a part that no model but the teacher reads."""

import lzma
from dataclasses import replace

import pytest

from dblocks.data.novels import HEADING, for_teacher, novel_records, paragraphs
from dblocks.data.registry import dataset
from dblocks.data.sources import CORPUS
from dblocks.errors import UserError

PATH = CORPUS / "austen.txt.xz"
TEXT = lzma.decompress(PATH.read_bytes())


def words(records) -> list[bytes]:
    return b" ".join(records).split()


def test_four_novels_have_their_chapters():
    headings = [found.strip().lower() for found in HEADING.findall(TEXT)]
    chapters = [found for found in headings if found.startswith(b"chapter")]
    assert len(chapters) == 50 + 61 + 48 + 55  # as printed
    assert len(headings) - len(chapters) == 3


def test_every_chapter_is_read_by_one_side_alone_and_nothing_is_lost():
    ours = list(novel_records(dataset("austen_chapters"), PATH))
    theirs = list(novel_records(dataset("austen_teacher"), PATH))
    assert not set(ours) & set(theirs)
    assert sorted(words(ours + theirs)) == sorted(HEADING.sub(b"", TEXT).split())
    share = len(b"".join(theirs)) / len(b"".join(ours + theirs))
    assert 0.2 < share < 0.45
    assert for_teacher(HEADING.split(TEXT)[1]) in (True, False)


def test_sentences_are_those_of_the_same_chapters():
    sentences = list(novel_records(dataset("austen_sentences"), PATH))
    chapters = list(novel_records(dataset("austen_chapters"), PATH))
    assert words(sentences) == words(chapters)
    assert 40 < sum(map(len, sentences)) / len(sentences) < 200
    assert all(b"\n" not in sentence for sentence in sentences)


def test_titles_end_no_sentence():
    paragraph = b'"Mr. Bennet! Do you hear?" Mrs. Long was here.  It is so.'
    info = replace(dataset("austen_sentences"), for_teacher=for_teacher(paragraph))
    from dblocks.data.novels import SENTENCE_END

    (line,) = paragraphs(paragraph)
    parts = SENTENCE_END.sub(rb"\1\n", line).split(b"\n")
    assert parts == [b'"Mr. Bennet!', b'Do you hear?"', b"Mrs. Long was here.", b"It is so."]
    assert info.kind == "sentences"


def test_another_text_in_its_place_is_refused():
    with pytest.raises(UserError, match="sha256 of the text"):
        list(novel_records(replace(dataset("austen_chapters"), content="0" * 64), PATH))
