"""What a run reads besides its spec and its training data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TRAINED = "trained"  # the role of the run whose weights are taken


@dataclass
class Needs:
    """What a run reads besides its training data, by role: records of other runs, weights, and image arrays.

    Attributes:
        paths: `extractor` and `autoencoder`: a record.json or a published weights' manifest; `images`: manifest of
            the images whose latents are the training data; `features` and `teacher:<name>`: language models that
            judge text, as the first two; `trained`: the record of the run that has this one's weights, since it
            differs in how it predicts alone.
        folder: the run's own, for samples and their picture; None where nothing is evaluated.
        on_progress: called whenever some samples more are on disk, so that starting again is worth it.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    on_progress: Callable[[], None] = lambda: None
