"""The sentences under a table: on what its numbers were measured, by what, and what is not as configured."""

from __future__ import annotations

from collections.abc import Sequence

from dblocks.cells import Cell


def provenance(cells: Sequence[Cell], scale: str) -> str:
    """What the numbers of a table are, in sentences: scale, data, split, seeds, why the paper's are absent, what was
    measured on which machine, and what is not as configured."""
    recorded = [cell for cell in cells if cell.measurement is None]
    sentences = (_records(recorded, scale), _same_runs(recorded), _lacking(recorded))
    text = " ".join(filter(None, (*sentences, _measurements(cells), _departures(cells))))
    return text or f"Scale {scale}; nothing measured yet."


def _same_runs(cells: Sequence[Cell]) -> str:
    """Which rows are one run under several names, for their settings are the same at this scale."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in cells:
        if cell.records and cell.run:
            rows.setdefault(cell.records, {})[f"'{cell.row}'"] = cell.run
    same = [" and ".join(named) for named in rows.values() if len(set(named.values())) > 1]
    return " ".join(f"{names} are one and the same run: at this scale their settings are equal." for names in same)


def _lacking(cells: Sequence[Cell]) -> str:
    """Columns that no record has a number for, though there are records and nothing that was skipped."""
    columns: dict[str, list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell.column.label.rstrip(" ↑↓"), []).append(cell)
    lacking = [
        label
        for label, own in columns.items()
        if any(cell.budget for cell in own)
        and not any(cell.metrics or cell.missing for cell in own)
        and not own[0].column.optional
    ]
    return f"No record has: {'; '.join(lacking)}." if lacking else ""


def _departures(cells: Sequence[Cell]) -> str:
    """A sentence for all rows of which the same is to be said: what is not as configured."""
    by_row: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.metrics and cell.departures:
            by_row.setdefault(cell.row, {}).update(dict.fromkeys(cell.departures))
    rows: dict[str, list[str]] = {}
    for row, words in by_row.items():
        rows.setdefault("; ".join(words), []).append(f"'{row}'")
    return " ".join(f"Not as configured, {' and '.join(names)}: {words}." for words, names in rows.items())


def _measurements(cells: Sequence[Cell]) -> str:
    """One sentence on what was measured, where, and at whose shapes."""
    found = [cell.measurement for cell in cells if cell.measurement is not None]
    shapes = "; ".join(
        dict.fromkeys(f"{m.shape} (made-up data, shapes of scale {m.request.spec.scale})" for m in found)
    )
    devices = ", ".join(dict.fromkeys(f"{m.machine.device}, threads {m.machine.threads}" for m in found))
    columns = dict.fromkeys(f"'{cell.column.label}'" for cell in cells if cell.measurement is not None)
    mixed = any(cell.metrics and cell.measurement is None for cell in cells)
    what = f"{', '.join(columns)} measured on" if mixed else "Measured on"
    return f"{what} {shapes}. Machine: {devices}." if found else ""


def _records(cells: Sequence[Cell], scale: str) -> str:
    """One sentence on the records: data, split, seeds, and why the paper's values are absent."""
    metrics = [metric for cell in cells for metric in cell.metrics.values()]
    if not metrics:
        return ""
    seeds = sorted({seed for cell in cells for seed in cell.metrics})
    many = len(seeds) > 1
    text = (
        f"Scale {scale}; {'; '.join(_samples(cells))}; seed{'s' * many} {', '.join(map(str, seeds))}"
        f"{'; mean ± sd over seeds' * many}. Budget: training samples seen (of text, tokens), as a share of the same "
        "row's in the paper."
    )
    several = [metric for metric in metrics if metric.extractor and metric.values]
    if extractors := dict.fromkeys(metric.extractor for metric in several):
        means = dict.fromkeys(cell.wanted.label for cell in cells if cell.metrics and cell.wanted.statistic == "mean")
        but = f" ({' and '.join(means)}: their mean)" if means else ""
        evaluations = max(len(metric.values) for metric in several)
        text += f" Least of {evaluations} evaluations a seed{but}; features of: {'; '.join(extractors)}."
    if extractors := dict.fromkeys(metric.extractor for metric in metrics if metric.extractor and not metric.values):
        text += f" Measured with: {'; '.join(extractors)}."
    references = dict.fromkeys(
        f"{_bare(cell)} {metric.reference:,} of {metric.dataset}"
        for cell in cells
        for metric in cell.metrics.values()
        if metric.reference
    )
    text += f" Compared with: {'; '.join(references)}." if references else ""
    if papers := dict.fromkeys(
        c.paper_dataset for c in cells if any(m.dataset != c.paper_dataset for m in c.metrics.values())
    ):
        text += f" The paper's values are for {' and '.join(papers)} and do not stand beside these."
    return text


def _samples(cells: Sequence[Cell]) -> list[str]:
    """How much of which split was evaluated; where one split is read in several ways, what in which: columns, else
    rows, else cells, whichever tells them apart."""
    read: dict[tuple[str, str], dict[int, list[Cell]]] = {}
    for cell in cells:
        for metric in cell.metrics.values():
            read.setdefault((metric.dataset, metric.split), {}).setdefault(metric.samples, []).append(cell)
    return [
        f"{dataset}, {split} split, {samples:,} samples" + (f" ({', '.join(names)})" if len(sizes) > 1 else "")
        for (dataset, split), sizes in read.items()
        for samples, names in _told_apart(sizes).items()
    ]


def _told_apart(sizes: dict[int, list[Cell]]) -> dict[int, dict[str, None]]:
    """Names of the cells of each size: the shortest that no two sizes share."""
    for name in (_bare, lambda cell: f"'{cell.row}'", lambda cell: f"{_bare(cell)} of '{cell.row}'"):
        named = {samples: dict.fromkeys(map(name, found)) for samples, found in sizes.items()}
        if len(set().union(*named.values())) == sum(map(len, named.values())):
            break
    return named


def _bare(cell: Cell) -> str:
    """A cell's heading without its direction."""
    return cell.label.rstrip(" ↑↓")
