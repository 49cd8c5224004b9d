"""Text ↔ tokens: a tokenizer.json, trained here or published, and the token that ends a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dblocks.data.files import one_line, write_atomically
from dblocks.data.prepared import PreparedData
from dblocks.errors import UserError

END = "<|end|>"
ENDS = (END, "</s>", "<|endoftext|>")  # of what is trained here, of Llama's, of GPT-2's
LARGEST = 2**16  # tokens are kept as uint16
TRAINING_BYTES = 2**28  # of text that a tokenizer is trained on, spread over the training split
BATCH = 1000  # records


class Vocabulary:
    """A tokenizer.

    Attributes:
        size: tokens there are.
        end: the token after each record.
    Raises: UserError if the file is no tokenizer, is too large, or has no token for the end of a text.
    """

    def __init__(self, path: Path):
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"{path}: not a tokenizer ({one_line(error)}); remove it to make it again") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.size = self.tokenizer.get_vocab_size()
        ends = [self.tokenizer.token_to_id(token) for token in ENDS]
        self.end = next((token for token in ends if token is not None), None)
        if self.end is None:
            raise UserError(f"{path}: none of {', '.join(ENDS)} is in it: nothing says where a text ends")
        if self.size > LARGEST:
            raise UserError(f"{path}: {self.size:,} tokens; at most {LARGEST:,} fit the packed arrays")

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text, without its end."""
        return [found.ids for found in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens; the end of a record is a line feed."""
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.end:
                parts.append([])
            else:
                parts[-1].append(token)
        return "\n".join(self.tokenizer.decode(part, skip_special_tokens=False) if part else "" for part in parts)

    def split(self, prompt: Sequence[int], continuation: Sequence[int]) -> tuple[str, str]:
        """Texts of a prompt and of what follows it, which joined are the text of both (a space between them belongs to
        the latter). Where a character is cut in two, both sides have a replacement character."""
        before, whole = self.decode(prompt), self.decode([*prompt, *continuation])
        return before, whole[len(before) :] if whole.startswith(before) else self.decode(continuation)


def train_vocabulary(data: PreparedData, size: int, path: Path) -> Path:
    """Train a byte-level BPE of `size` tokens on the training split and write it to `path`.

    Raises: UserError if the text is too little for so many tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_training_text(data), trainer)
    if (found := tokenizer.get_vocab_size()) != size:
        raise UserError(f"task.tokenizer: bpe{size}: {data.name} has text for {found} tokens only; take a smaller one")
    write_atomically(path, tokenizer.to_str())
    return path


def _training_text(data: PreparedData) -> Iterator[list[str]]:
    """Texts of the training split, all of them or evenly spread ones."""
    records = Records(data, "train")
    stride = max(1, -(-records.total_bytes // TRAINING_BYTES))
    for start in range(0, len(records), BATCH * stride):
        yield records.texts(range(start, min(start + BATCH * stride, len(records)), stride))


class Records:
    """The texts of a split of documents or sentences (records.py), as they are to be read."""

    def __init__(self, data: PreparedData, split: str):
        from dblocks.data.detokenize import join_words
        from dblocks.data.registry import is_spaced

        self.bytes, self.offsets = data.array(f"{split}_bytes"), data.array(f"{split}_offsets")
        self.read = join_words if is_spaced(data.name) else str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def total_bytes(self) -> int:
        return len(self.bytes)

    def texts(self, indices: Sequence[int]) -> list[str]:
        """Some records' texts."""
        return [
            self.read(np.asarray(self.bytes[self.offsets[i] : self.offsets[i + 1]]).tobytes().decode()) for i in indices
        ]
