"""What the report shows of each run: what it was, what it measured, its curves, samples and resources."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dblocks.record import Record, read_record
from dblocks.report.page_figures import learning_curves
from dblocks.runlog import read_log

PICTURE, TEXT = "samples.png", "samples.txt"
SHOWN_LINES, SHOWN_CHARACTERS = 6, 400


@dataclass(frozen=True)
class RunView:
    """One run, all its seeds.

    Attributes:
        name: its folder's name, which is its anchor too.
        folder: where its seeds' folders lie, seen from the report.
        records: by seed.
        files: by seed, what lies beside the record: links, seen from the report.
        spec: its spec as YAML.
        curves: learning curves as SVG, None without a log.
        picture: a sample grid as a data URI, if there is one.
        text: sampled text, if there is some.
    """

    name: str
    folder: str
    records: dict[int, Record]
    files: dict[int, list[tuple[str, str]]]
    spec: str
    curves: str | None
    picture: str | None
    text: list[str]

    @property
    def any_record(self) -> Record:
        return self.records[min(self.records)]

    def metric_rows(self) -> list[tuple[str, str, list[str]]]:
        """(name, unit, value by seed) of every metric."""
        found: dict[str, str] = {}
        for record in self.records.values():
            found |= {metric.name: metric.unit for metric in record.metrics}
        return [
            (name, unit, [self._value(record, name) for _, record in sorted(self.records.items())])
            for name, unit in found.items()
        ]

    @staticmethod
    def _value(record: Record, name: str) -> str:
        metric = record.metric(name)
        if metric is None:
            return "–"
        # evaluated several times: the least of them, and their mean
        more = f" (mean {metric.mean:.5g})" if len(metric.values or ()) > 1 else ""
        return f"{metric.value:.5g}{more}"


def run_view(paths: Sequence[Path], page_folder: Path) -> RunView:
    """The view of the run whose seeds' records are `paths`, for a page in `page_folder`."""
    paths = sorted(paths)
    found = [(path.parent, read_record(path)) for path in paths]
    records = {record.spec.seed: record for _, record in found}
    folders = {record.spec.seed: folder for folder, record in found}
    first = folders[min(folders)]
    return RunView(
        name=first.parent.name,
        folder=os.path.relpath(first.parent, page_folder),
        records=records,
        files={seed: links(folder, page_folder) for seed, folder in sorted(folders.items())},
        spec=yaml.safe_dump(records[min(records)].spec.model_dump(mode="json", exclude={"seed"}), sort_keys=False),
        curves=learning_curves({seed: read_log(folder / "log.jsonl") for seed, folder in folders.items()}),
        picture=data_uri((first / PICTURE).read_bytes(), "image/png") if (first / PICTURE).exists() else None,
        text=sampled_text(first / TEXT),
    )


def links(folder: Path, page_folder: Path) -> list[tuple[str, str]]:
    """(name, relative address) of a seed's files that a reader may want."""
    names = ["record.json", "spec.json", "log.jsonl", PICTURE, *sorted(p.name for p in folder.glob("*samples.txt"))]
    return [(name, os.path.relpath(folder / name, page_folder)) for name in names if (folder / name).exists()]


def sampled_text(path: Path) -> list[str]:
    """The first few samples of a text model, cut to a readable length."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][:SHOWN_LINES]
    return [line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} …" for line in lines]


def data_uri(content: bytes, kind: str) -> str:
    """A file as an address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
