"""A data set's records as tokens: each split one uint16 array, every record followed by the token that ends it.

Interrupted work goes on where the last batch of records was written down.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dblocks.data.files import check_disk, sha256_of, write_atomically
from dblocks.data.prepared import NpyWriter, PreparedData, write_manifest
from dblocks.data.records import SPLITS
from dblocks.data.vocabulary import BATCH, Records, Vocabulary

TOKENIZER = "tokenizer.json"
SAVED_EVERY = 50  # batches


def tokenize(data: PreparedData, tokenizer: str, fingerprint: str, folder: Path, progress: bool = False) -> Path:
    """Write {train,validation,test}.npy beside `folder`/tokenizer.json and return their manifest's path.

    Args:
        tokenizer: its name, for the manifest.
        fingerprint: names the arrays' exact content.
    """
    vocabulary = Vocabulary(folder / TOKENIZER)
    check_disk(folder, sum(data.entries[f"{split}_bytes"]["bytes"] for split in SPLITS))  # two bytes a token at most
    for split in SPLITS:
        pack_split(Records(data, split), vocabulary, folder, split, progress)
    facts = {
        "tokenizer": tokenizer,
        "tokenizer_sha256": sha256_of(folder / TOKENIZER),
        "tokens": {split: len(np.load(folder / f"{split}.npy", mmap_mode="r")) for split in SPLITS},
    }
    path = write_manifest(folder, data.name, fingerprint, f"{tokenizer} of {data.folder.name}", facts)
    for split in SPLITS:
        _state_path(folder, split).unlink(missing_ok=True)
    return path


def pack_split(records: Records, vocabulary: Vocabulary, folder: Path, split: str, progress: bool) -> None:
    """Write one split, from where an earlier attempt stopped."""
    from tqdm import tqdm

    state = _read_state(folder, split)
    with (
        NpyWriter(folder / f"{split}.npy", "uint16", keep=state["tokens"]) as writer,
        tqdm(
            total=len(records),
            initial=state["records"],
            desc=split,
            unit="record",
            disable=not progress,
            mininterval=10,
        ) as bar,
    ):
        starts = range(state["records"], len(records), BATCH)
        for number, start in enumerate(starts, start=1):
            end = min(start + BATCH, len(records))
            rows = vocabulary.encode(records.texts(range(start, end)))
            writer.append(np.array([token for row in rows for token in (*row, vocabulary.end)], np.uint16))
            bar.update(end - start)
            if number % SAVED_EVERY == 0 or end == len(records):
                writer.flush()
                state = {"records": end, "tokens": writer.count}
                write_atomically(_state_path(folder, split), json.dumps(state))


def _state_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.progress.json"


def _read_state(folder: Path, split: str) -> dict[str, int]:
    """How far an earlier attempt came; the very beginning where that is not known."""
    try:
        state = json.loads(_state_path(folder, split).read_text(encoding="utf-8"))
        whole = (folder / f"{split}.npy").stat().st_size >= 2 * state["tokens"]
        return state if whole else {"records": 0, "tokens": 0}
    except (OSError, ValueError, KeyError, TypeError):
        return {"records": 0, "tokens": 0}
