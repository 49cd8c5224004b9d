"""Autoregressive text: windows of tokens to learn from, cross-entropy, and continuations of prompts.

Shapes: N windows, T tokens; tokens int64.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dblocks import seeds
from dblocks.data.files import save_atomically, sha256_of, write_atomically
from dblocks.data.prepared import PreparedData
from dblocks.data.tokens import TOKENIZER
from dblocks.data.vocabulary import Vocabulary
from dblocks.errors import UserError
from dblocks.metrics.continuations import Generated
from dblocks.needs import Needs
from dblocks.record import Metric
from dblocks.spec import RunSpec
from dblocks.tasks.classification import Batch
from dblocks.tasks.prefetch import Prefetcher
from dblocks.tasks.windows import WindowOrder, spread_starts
from dblocks.text_generation import TextPredictor

SAMPLES, SHOWN = "samples.txt", 16
EVALUATION_TOKENS = 2**14  # read together when cross-entropy is measured


class AutoregressiveText:
    """The tokens of a run, and what is measured of the network that learns from them."""

    def __init__(self, spec: RunSpec, data: PreparedData, device: torch.device, needs: Needs):
        self.spec, self.device, self.needs, self.length = spec, device, needs, spec.task.length
        self.vocabulary = vocabulary_of(data)
        self.tokenizer_path = data.folder / TOKENIZER
        # validation is a part of its own, so `train` and `fit` are the same tokens
        self.tokens, self.evaluation_tokens = data.array("train"), data.array(spec.data.evaluation_split)
        wanted = {"training": self.length * spec.training.batch_size, "evaluation": self.length}
        for part, array in (("training", self.tokens), ("evaluation", self.evaluation_tokens)):
            if len(array) < wanted[part]:
                raise UserError(
                    f"task.length: {self.length}: {data.folder} has {len(array):,} {part} tokens, which make no "
                    f"{'batch' if part == 'training' else 'window'}; make length or batch_size smaller"
                )
        self.order = WindowOrder(
            spec.seed, len(self.tokens), self.length, spec.training.batch_size, torch.device("cpu")
        )
        self.batches = Prefetcher(self._windows, device)

    def windows(self, step: int) -> Tensor:
        """The windows [N, T] of `step`."""
        return self.batches.batch(step)[0]

    def batch(self, step: int) -> Batch:
        """The same for next-token training: each token, and the one after it, [N, T − 1]."""
        windows = self.windows(step)
        return Batch(windows[:, :-1], windows[:, 1:])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits [N, T, K], a scalar."""
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def _windows(self, step: int) -> tuple[Tensor]:
        return (self._cut(self.tokens, self.order.indices(step).numpy(), self.length),)

    def _cut(self, tokens: np.ndarray, starts: np.ndarray, length: int) -> Tensor:
        windows = np.stack([tokens[start : start + length] for start in starts]).astype(np.int64)
        return torch.from_numpy(windows)

    def evaluation_windows(self) -> Tensor:
        """The windows [N, T] that cross-entropy is measured on."""
        count = self._at_most(self.spec.task.cross_entropy_windows)
        return self._evenly(self.length, count)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Prompts [N, P] and how the text goes on [N, C]: the same for every arm, whatever its seed."""
        task = self.spec.task
        windows = self._evenly(task.prompt_tokens + task.continuation_tokens, self._at_most(task.prompts))
        return windows[:, : task.prompt_tokens], windows[:, task.prompt_tokens :]

    def _at_most(self, count: int) -> int:
        return min(count, self.spec.data.max_evaluation_samples or count)

    def _evenly(self, length: int, count: int) -> Tensor:
        starts = spread_starts(len(self.evaluation_tokens), length, count)
        return self._cut(self.evaluation_tokens, starts, length).to(self.device)

    @torch.no_grad()
    def evaluate(self, predictors: dict[str, TextPredictor]) -> list[Metric]:
        """Cross-entropy of each predictor, and all that is measured of what it writes; keys prefixed by its name."""
        metrics = []
        # in full precision: bf16 logits tie, and of tied tokens the first would always be written
        with torch.autocast(self.device.type, enabled=False):
            for prefix, predictor in predictors.items():
                metrics += self._cross_entropy(prefix, predictor)
                if self.spec.task.prompts:
                    metrics += self._judge(prefix, predictor)
        return metrics

    def _judge(self, prefix: str, predictor: TextPredictor) -> list[Metric]:
        """MAUVE, perplexity and diversity of what a predictor writes; a number that there is not is left out."""
        from dblocks.metrics.continuations import measure
        from dblocks.metrics.teachers import of_need

        task, paths = self.spec.task, self.needs.paths
        found = measure(
            self.generated(predictor, prefix),
            partial(of_need, paths["features"], self.device) if "features" in paths else None,
            {role: partial(of_need, path, self.device) for role, path in paths.items() if role.startswith("teacher:")},
            self.needs.folder,
            self.spec.seed,
            task.mauve_scales,
            prefix,
        )
        about = ("unit", "samples", "extractor", "reference")
        return [
            Metric.measured(
                self.spec.data, value.name, value.value, **{field: getattr(value, field) for field in about}
            )
            for value in found
            if value.finite
        ]

    def _cross_entropy(self, prefix: str, predictor: TextPredictor) -> list[Metric]:
        """Nats a token, over all tokens of the windows but each one's first; standard error over windows. As `ce`, and
        under the name that says how it was measured."""
        windows, means = self.evaluation_windows(), []
        for start in range(0, len(windows), size := max(1, EVALUATION_TOKENS // self.length)):
            draws = seeds.generator(self.device, self.spec.seed, "evaluate", start)
            means.append(predictor.nll(windows[start : start + size], draws).double().mean(dim=1).cpu())
        nats = torch.cat(means)
        error = (nats.std() / len(nats) ** 0.5).item() if len(nats) > 1 else None
        about = {"unit": "nats/token", "samples": len(nats), "standard_error": error}
        names = dict.fromkeys(("ce", predictor.nll_name))
        return [Metric.measured(self.spec.data, prefix + name, nats.mean().item(), **about) for name in names]

    def generated(self, predictor: TextPredictor, prefix: str = "") -> Generated:
        """Prompts, continuations and references as texts; what was generated already is read."""
        (weights,) = self.needs.folder.glob("weights-*.pt")
        path = self.needs.folder / f"{prefix}continuations-{weights.stem.rpartition('-')[2]}.npy"
        if not path.exists():
            tokens = self.continuations(predictor).to(torch.int32).cpu().numpy()
            save_atomically(path, lambda file: np.save(file, tokens))
            self.needs.on_progress()
        prompts, references = (part.tolist() for part in self.prompts())
        split = self.vocabulary.split
        groups = zip(prompts, np.load(path).tolist(), strict=True)
        return Generated(
            [self.vocabulary.decode(prompt) for prompt in prompts],
            [[split(prompt, tokens)[1] for tokens in group] for prompt, group in groups],
            [split(prompt, tokens)[1] for prompt, tokens in zip(prompts, references, strict=True)],
        )

    @torch.no_grad()
    def continuations(self, predictor: TextPredictor) -> Tensor:
        """Continuations [N, k, C] of every prompt, each from random numbers of its own place."""
        task, (prompts, _) = self.spec.task, self.prompts()
        rows = prompts.repeat_interleave(task.continuations, dim=0)
        found = []
        for start in range(0, len(rows), task.batch_size):
            draws = seeds.generator(self.device, self.spec.seed, "continue", start)
            found.append(predictor.go_on(rows[start : start + task.batch_size], task.continuation_tokens, draws))
        return torch.cat(found).view(len(prompts), task.continuations, -1)

    def write_samples(self, predictors: dict[str, TextPredictor], folder: Path) -> None:
        """The tokenizer beside the weights, so that the run's folder is all a reader of them needs; and what was
        written, all of it as JSON lines and the first of it for people."""
        write_atomically(folder / TOKENIZER, self.tokenizer_path.read_bytes())
        if not self.spec.task.prompts:
            return
        for prefix, predictor in predictors.items():
            generated = self.generated(predictor, prefix)
            rows = list(zip(generated.prompts, generated.continuations, generated.references, strict=True))
            keys = ("prompt", "continuations", "reference")
            lines = [json.dumps(dict(zip(keys, row, strict=True)), ensure_ascii=False) + "\n" for row in rows]
            write_atomically(folder / f"{prefix}continuations.jsonl", "".join(lines))
            write_atomically(folder / f"{prefix}{SAMPLES}", "".join(map(readable_sample, rows[:SHOWN])))


def readable_sample(row: tuple[str, list[str], str]) -> str:
    """A prompt, its first continuations and its reference, a line each."""
    prompt, continuations, reference = (" ".join(part.split()) if isinstance(part, str) else part for part in row)
    written = [f"  model:     {' '.join(text.split())}\n" for text in continuations[:2]]
    return f"{prompt}\n{''.join(written)}  reference: {reference}\n\n"


def vocabulary_of(data: PreparedData) -> Vocabulary:
    """The tokenizer that a folder of tokens was made with.

    Raises: UserError if it is not the one its manifest names.
    """
    path = data.folder / TOKENIZER
    if not path.exists() or sha256_of(path) != data.facts.get("tokenizer_sha256"):
        raise UserError(
            f"{path}: missing or changed since the tokens were made; remove {data.folder} to make them again"
        )
    return Vocabulary(path)
