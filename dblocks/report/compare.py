"""Two sets of records side by side: metrics, mean ± sd over seeds, and what differs in how they were made."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dblocks.errors import UserError
from dblocks.record import RECORD, Record, read_record

Key = tuple[str, str]  # scale, "<experiment>/<variant>"
Runs = Mapping[Key, list[Record]]
HEADER = ("run", "metric", "A", "B", "B − A", "differs in")


def records_below(folder: Path) -> Runs:
    """Records by (scale, "<experiment>/<variant>").

    Raises: UserError if there is none, one is broken, or those of one name are not seeds of one run.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; give a folder with records in or below it")
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for path in sorted(folder.rglob(RECORD)):
        record = read_record(path)
        there = found[record.spec.scale, f"{record.spec.experiment}/{record.spec.variant}"]
        if any(record.identity != other.identity or record.spec.seed == other.spec.seed for other in there):
            raise UserError(
                f"{path}: another record below {folder} has its name and other settings, or its seed; give the folder "
                "of one of the two"
            )
        there.append(record)
    if not found:
        raise UserError(f"{folder}: no {RECORD} below it")
    return found


def compare(a: Path, b: Path) -> str:
    """A table of every run and metric that is in both folders, then what is in one alone; of two folders of one run
    each, whatever their names, these two.

    Raises: UserError if a folder has no record, or they have no run in common.
    """
    left, right = records_below(a), records_below(b)
    pairs = {key: key for key in left if key in right}
    if not pairs and len(left) == len(right) == 1:
        pairs = dict(zip(left, right, strict=True))
    if not pairs:
        raise UserError(f"{a} and {b}: no run in common; two single runs can be compared whatever their names")
    rows = [HEADER, *(row for key, other in pairs.items() for row in rows_of(key, left[key], other, right[other]))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, own, there in ((a, left, pairs.keys()), (b, right, pairs.values())):
        if alone := [titled(key) for key in own if key not in there]:
            lines.append(f"only in {name}: {', '.join(alone)}")
    return "\n".join(lines)


def titled(key: Key) -> str:
    """The name of a run at its scale."""
    scale, run = key
    return f"{run} ({scale})"


def rows_of(key: Key, left: Sequence[Record], other: Key, right: Sequence[Record]) -> list[tuple[str, ...]]:
    """A line a metric that both sides have."""
    name_of_both = titled(key) if key == other else f"{titled(key)} | {titled(other)}"
    rows, different = [], ", ".join(differences(left, right)) or "–"
    for name in dict.fromkeys(metric.name for record in left for metric in record.metrics):
        a, b = (values(records, name) for records in (left, right))
        if a and b:
            change = f"{statistics.fmean(b) - statistics.fmean(a):+.4g}"
            rows.append((name_of_both, name, spread(a), spread(b), change, different))
    return rows


def values(records: Sequence[Record], name: str) -> list[float]:
    """A metric of every record that has it."""
    return [metric.value for record in records if (metric := record.metric(name)) is not None]


def spread(found: Sequence[float]) -> str:
    """mean ± sd (n)."""
    sd = f" ± {statistics.stdev(found):.2g}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.5g}{sd} (n = {len(found)})"


def differences(left: Sequence[Record], right: Sequence[Record]) -> list[str]:
    """What of the making differs between two runs: sections of the spec, code, data, machine, seeds."""

    def made(records: Sequence[Record]) -> dict[str, object]:
        spec = records[0].spec.model_dump(mode="json")
        sections = {name: value for name, value in spec.items() if name not in ("seed", "logging", "resources")}
        return sections | {
            "code versions": records[0].code_versions,
            "prepared data": {record.data_checksum for record in records},
            "device": {record.machine.device for record in records},
            "torch": {record.machine.torch for record in records},
            "seeds": sorted(record.spec.seed for record in records),
        }

    a, b = made(left), made(right)
    return [name for name in a if a[name] != b.get(name)]
