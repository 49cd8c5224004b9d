"""Tokenizers and packed tokens: nothing of a text is lost, and interrupted work goes on to the same bytes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dblocks.data import tokens as tokens_module
from dblocks.data.detokenize import join_words
from dblocks.data.prepare import prepare
from dblocks.data.prepared import NpyWriter, PreparedData
from dblocks.data.tokens import TOKENIZER, pack_split, tokenize
from dblocks.data.vocabulary import END, Records, Vocabulary, train_vocabulary
from dblocks.errors import UserError
from dblocks.tasks.autoregressive_text import vocabulary_of


@pytest.fixture(scope="module")
def vocabulary(tokens_folder) -> Vocabulary:
    return Vocabulary(tokens_folder / TOKENIZER)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> PreparedData:
    """A user's own sentences."""
    folder = tmp_path_factory.mktemp("own")
    lines = [f"Sentence number {i} is about {'cats' if i % 3 else 'the sea, naïvely'}.\n" for i in range(3000)]
    (folder / "mine.txt").write_text("".join(lines))
    return PreparedData(prepare("sentences", None, folder / "out", path=folder / "mine.txt").parent)


@given(st.text())
def test_any_text_is_read_back_as_it_was(vocabulary, text):
    (found,) = vocabulary.encode([text])
    if END not in text:
        assert vocabulary.end not in found
        assert vocabulary.decode(found) == text


def test_the_end_of_a_record_reads_as_a_line_feed(vocabulary):
    first, second = vocabulary.encode(["One.", "Two."])
    assert vocabulary.decode([*first, vocabulary.end, *second, vocabulary.end]) == "One.\nTwo.\n"


@given(st.text(alphabet="ab é’\n", min_size=1), st.integers(0, 30))
def test_a_prompt_and_what_follows_make_the_whole_text(vocabulary, text, cut):
    (found,) = vocabulary.encode([text])
    prompt, after = vocabulary.split(found[:cut], found[cut:])
    if "\ufffd" not in prompt + after:
        assert prompt + after == text


def test_the_tokenizer_has_its_size_and_is_the_same_every_time(tokens_folder, tmp_path, vocabulary):
    data = PreparedData(tokens_folder.parent / "text")
    again = train_vocabulary(data, 300, tmp_path / TOKENIZER)
    assert vocabulary.size == 300
    assert again.read_bytes() == (tokens_folder / TOKENIZER).read_bytes()


def test_too_little_text_for_so_many_tokens(text, tmp_path):
    with pytest.raises(UserError, match=r"bpe9999: mine has text for \d+ tokens only"):
        train_vocabulary(text, 9999, tmp_path / TOKENIZER)


def test_every_record_is_there_once_and_ended(tokens_folder, vocabulary):
    text, packed = PreparedData(tokens_folder.parent / "text"), PreparedData(tokens_folder)
    for split in ("train", "validation", "test"):
        records, array = Records(text, split), packed.array(split)
        assert array.dtype == np.uint16
        assert (array == vocabulary.end).sum() == len(records)
        first = np.flatnonzero(array == vocabulary.end)[:20]
        assert vocabulary.decode(array[: first[-1]].tolist()).split("\n") == records.texts(range(20))
    assert packed.facts["tokens"]["train"] == len(packed.array("train"))
    assert packed.facts["tokenizer"] == "bpe300"


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_interrupted_packing_goes_on_to_the_same_bytes(text, tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr(tokens_module, "BATCH", 300)
    monkeypatch.setattr(tokens_module, "SAVED_EVERY", 2)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        train_vocabulary(text, 300, folder / TOKENIZER)
    tokenize(text, "bpe300", "f", whole)

    class Stopping(Vocabulary):
        calls = 0

        def encode(self, texts):
            Stopping.calls += 1
            if Stopping.calls > stop_at:
                raise KeyboardInterrupt
            return super().encode(texts)

    with pytest.raises(KeyboardInterrupt):
        pack_split(Records(text, "train"), Stopping(cut / TOKENIZER), cut, "train", False)
    state = cut / "train.progress.json"
    assert state.exists() == (stop_at >= 2)
    if state.exists():
        assert json.loads(state.read_text())["records"] == 300 * (stop_at - stop_at % 2)
    tokenize(text, "bpe300", "f", cut)
    for name in ("train.npy", "validation.npy", "test.npy", "manifest.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(cut.glob("*.progress.json"))


def test_a_writer_goes_on_after_what_is_kept(tmp_path):
    with NpyWriter(tmp_path / "a.npy", "uint16") as writer:
        writer.append(np.arange(10))
    with NpyWriter(tmp_path / "a.npy", "uint16", keep=4) as writer:
        writer.append(np.array([7, 8]))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 7, 8]


def test_a_tokenizer_that_is_none_or_another_is_refused(tokens_folder, tmp_path):
    (tmp_path / TOKENIZER).write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        Vocabulary(tmp_path / TOKENIZER)
    import shutil

    shutil.copytree(tokens_folder, tmp_path / "tokens")
    path = tmp_path / "tokens" / TOKENIZER
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match="changed since the tokens were made"):
        vocabulary_of(PreparedData(tmp_path / "tokens"))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / TOKENIZER))
    with pytest.raises(UserError, match="nothing says where a text ends"):
        Vocabulary(tmp_path / TOKENIZER)


@pytest.mark.parametrize(
    ("spaced", "joined"),
    [
        ("It didn 't matter , he said .", "It didn't matter, he said."),
        ("DON 'T ! They 're O 'Neill ’ s , I 'm told .", "DON'T! They're O'Neill’s, I'm told."),
        ("February 14 , 2010 , hitting .302 , 4-6 , 6-3 .", "February 14, 2010, hitting .302, 4-6, 6-3."),
        ("See http : / / www.example.org and / or ask .", "See http://www.example.org and/or ask."),
        ("He said 'yes' .", "He said 'yes'."),
        ("The company 's shares ( up 3 % ) cost $ 5 .", "The company's shares (up 3%) cost $5."),
        ('He said : " We can not go . "', 'He said: "We cannot go."'),
        ("More than 1,000 at 10 : 30 . . .", "More than 1,000 at 10:30..."),
        ("A few hours ' wear , he said .", "A few hours' wear, he said."),
        ("It is the Joneses ' .", "It is the Joneses'."),
        ("The so-called ' experts ' wear ties .", "The so-called ' experts ' wear ties."),  # a quotation, perhaps
        ("Nothing to do here", "Nothing to do here"),
    ],
)
def test_words_and_punctuation_are_joined(spaced, joined):
    assert join_words(spaced) == joined
