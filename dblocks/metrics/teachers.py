"""Language models that judge text: likelihoods for generative perplexity, hidden states as MAUVE's features.

Shapes: N texts, L tokens, V tokens in the vocabulary, D width. Everything runs in evaluation mode without gradients
and outside autocast; rows are padded on the right, which causal attention never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks.errors import UserError
from dblocks.record import RECORD, read_record
from dblocks.weights import read_manifest

# token ids [N, L] → logits [N, L, V], last hidden states [N, L, D]
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass
class Teacher:
    """A causal language model with its own tokenizer.

    Attributes:
        name: what it is, with a checksum, for records.
        key: what metric names end in, such as gpt2_xl.
        encode: text → token ids, with whatever the model wants at the beginning.
        forward: see `Forward`.
        max_length: tokens it can read at once.
        batch_size: rows read together; changes rounding only.
    """

    name: str
    key: str
    encode: Callable[[str], list[int]]
    forward: Forward
    max_length: int
    device: torch.device
    batch_size: int = 16

    def nll(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Negative log-likelihood of every token given those before it, nats, float32 on the CPU.

        Rows of up to `max_length` ids; a row of L gives L − 1 numbers, the first that of its second token.
        """
        found: list[Tensor] = []
        for batch, ids in self._batches(rows):
            logits, _ = self._run(ids)
            nats = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), ids[:, 1:], reduction="none").cpu()
            found += [part[: max(0, len(row) - 1)] for part, row in zip(nats, batch, strict=True)]
        return found

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Last hidden state at each text's last token, float32 [N, D], as mauve-text takes it; zeros for a text
        without a token. Texts are cut to `max_length` tokens."""
        found: list[Tensor] = []
        for batch, ids in self._batches([self.encode(text)[: self.max_length] for text in texts]):
            _, hidden = self._run(ids)
            lengths = torch.tensor([len(row) for row in batch], device=self.device)
            last = hidden[torch.arange(len(batch), device=self.device), (lengths - 1).clamp(min=0)].float()
            found.append((last * (lengths > 0)[:, None]).cpu())
        return torch.cat(found).numpy()

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[Sequence[int]], Tensor]]:
        """Rows a few at a time, and the same as one array padded with token 0; no array is without a token."""
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            ids = torch.zeros(len(batch), max(1, *map(len, batch)), dtype=torch.int64)
            for place, row in zip(ids, batch, strict=True):
                place[: len(row)] = torch.tensor(row, dtype=torch.int64)
            yield batch, ids.to(self.device)

    @torch.no_grad()
    def _run(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):
            return self.forward(ids)


def trained(record_path: Path, device: torch.device) -> Teacher:
    """The small language model that a run trained, with its own tokenizer; it only shows trends.

    Raises: UserError if it is another kind of run, or its weights are not what the record says.
    """
    from dblocks.checkpoint import load_recorded
    from dblocks.data.tokens import TOKENIZER
    from dblocks.data.vocabulary import Vocabulary
    from dblocks.networks.llama import Llama

    record = read_record(record_path)
    spec, vocabulary = record.spec, Vocabulary(record_path.parent / TOKENIZER)
    if (spec.network.name, spec.method.name) != ("llama", "end_to_end"):
        raise UserError(f"{record_path}: a {spec.network.name} trained by {spec.method.name}; want a next-token llama")
    network = Llama(spec.network, vocabulary.size)
    load_recorded(network, record_path, record.weights)
    network = network.to(device).eval()

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = network.features(ids)
        return network.head(hidden), hidden

    return Teacher(
        name=f"{spec.data.label} language model ({record.weights.removesuffix('.pt')})",
        key="teacher",
        encode=lambda text: vocabulary.encode([text])[0],
        forward=forward,
        max_length=spec.task.length,
        device=device,
    )


def of_need(path: Path, device: torch.device) -> Teacher:
    """The teacher behind a run's record.json, or behind the manifest of published weights."""
    return trained(path, device) if path.name == RECORD else published(path, device)


def published(manifest: Path, device: torch.device) -> Teacher:
    """A published model by its manifest (weights.py): any causal LM that transformers can read from its folder.

    Nothing is fetched and nothing unpickled: weights are safetensors, the tokenizer is its tokenizer.json.
    """
    from tokenizers import Tokenizer

    from dblocks.metrics.torchvision_import import ensure_torchvision

    ensure_torchvision()  # transformers imports it where it is installed
    from transformers import AutoModelForCausalLM

    weights = read_manifest(manifest)
    try:
        tokenizer = Tokenizer.from_file(str(weights.path / "tokenizer.json"))
        model = AutoModelForCausalLM.from_pretrained(
            weights.path,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            # as published on a GPU, where half precision is fast; float32 on a CPU
            dtype="auto" if device.type == "cuda" else torch.float32,
        )
    except Exception as error:  # what is wrong with a folder is told by three libraries, each with its own errors
        raise UserError(f"{weights.path}: no language model can be read from it: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = model.to(device).eval()

    def forward(ids: Tensor) -> tuple[Tensor, Tensor]:
        found = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        return found.logits, found.hidden_states[-1]

    return Teacher(
        name=f"{weights.name} ({weights.sha256[:8]})",
        key=weights.name.replace("-", "_"),
        encode=lambda text: tokenizer.encode(text).ids,
        forward=forward,
        max_length=model.config.max_position_embeddings,
        device=device,
    )
