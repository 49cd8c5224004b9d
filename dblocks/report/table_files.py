"""A table's files: long csv, markdown for people, LaTeX for papers."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dblocks.cells import CSV_COLUMNS, Cell, percentage
from dblocks.claims import Verdict
from dblocks.data.files import write_atomically
from dblocks.published import Published, row_settings, settings_lines
from dblocks.report.provenance import provenance
from dblocks.tables import Column, Row, Table


def write_table(
    folder: Path, table: Table, cells: Sequence[Cell], verdicts: Sequence[Verdict], scale: str
) -> list[Path]:
    """Write <table>.csv, .md and .tex into `folder`, each whole or not at all. Returns their paths."""
    texts = {
        "csv": long_csv(cells, table),
        "md": markdown(table, cells, verdicts, scale),
        "tex": latex(table, cells, scale),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.table}.{suffix}")
        write_atomically(paths[-1], text)
    return paths


def long_csv(cells: Sequence[Cell], table: Table) -> str:
    """One line per row and metric, then the table's marks and other publications' values; empty means missing."""
    buffer = io.StringIO()
    settings = {
        row: {f"{key}_settings": text for key, text in own.items()}
        for row, own in row_settings(table.sources, published_of(table)).items()
    }
    columns = (*CSV_COLUMNS, *table.marks, *(name for key in table.sources for name in (key, f"{key}_settings")))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**cell.csv(), **settings[cell.row]} for cell in cells)
    return buffer.getvalue()


class CellText(str):
    """A measured cell's text in a grid, which knows its cell."""

    def __new__(cls, cell: Cell) -> CellText:
        text = super().__new__(cls, cell.text())
        text.cell = cell
        return text


def grid(table: Table, cells: Sequence[Cell]) -> list[list[str]]:
    """Header and rows of text: marks, a column where the paper or another source has the metric, ours, the budget."""
    with_paper = {metric for row in table.rows for metric in row.paper}
    with_source = {(key, m) for row in table.rows for key, there in row.published.items() for m in there.values}
    filled = {cell.column.metric for cell in cells if cell.metrics or cell.missing}
    shown = [column for column in table.columns if not column.optional or column.metric in filled]
    header = ["Row", *table.facts, *table.marks.values()]
    for column in shown:
        header += [f"{_heading(column, column.label)}, paper"] if column.metric in with_paper else []
        for key, source in table.sources.items():
            header += (
                [f"{_heading(column, column.label)}, {source.label}"] if (key, column.metric) in with_source else []
            )
        of_column = [cell for cell in cells if cell.column == column and cell.wanted.label == column.label]
        labels = dict.fromkeys(cell.label for cell in of_column if cell.metrics)
        header += [_heading(column, " / ".join(labels) or column.label)]
    of_row = defaultdict(list)
    for cell in cells:
        of_row[cell.row] += [cell] if cell.column in shown else []
    headings, body = table.facts, []
    for row in table.rows:
        own = of_row[row.row]
        line = [row.row, *_facts(headings, row, own)]
        line += ["yes" if mark in row.marks else "no" for mark in table.marks]
        for cell in own:
            if cell.column.metric in with_paper:
                line.append(_number_text(cell.paper, cell))
            for key, value in cell.published.items():
                line += [_number_text(value, cell)] if (key, cell.column.metric) in with_source else []
            line.append(CellText(cell))
        budgets = [cell.budget for cell in own if cell.budget is not None]
        body.append([*line, percentage(min(budgets, default=None))])
    if all(cell.column.source == "measurement" for cell in cells):
        return [header, *(line[:-1] for line in body)]
    return [[*header, "Budget"], *body]


def _facts(headings: Sequence[str], row: Row, cells: Sequence[Cell]) -> list[str]:
    """A row's words, with the data set and metric of its first value."""
    own = [cell for cell in cells if cell.column.source == "record"] or cells
    first = next((cell for cell in own if cell.metrics), own[0])
    dataset = next((metric.dataset for metric in first.metrics.values()), first.paper_dataset)
    return [row.facts.get(heading, "–").format(dataset=dataset, metric=first.label) for heading in headings]


def _heading(column: Column, label: str) -> str:
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[column.better]
    return f"{label} ({column.unit}){arrow}" if column.unit else f"{label}{arrow}"


def _number_text(value: float | None, cell: Cell) -> str:
    return "–" if value is None else f"{value:,.{cell.wanted.decimals}f}"


def markdown(table: Table, cells: Sequence[Cell], verdicts: Sequence[Verdict], scale: str) -> str:
    """The table, its provenance, notes and verdicts."""
    lines = [f"# {_number(table)}: {table.title}", "", table.caption, "", *_pipe_table(grid(table, cells)), ""]
    lines += [provenance(cells, scale), ""]
    lines += [f"- **{row.row}**: {row.note}" for row in table.rows if row.note]
    lines += [f"- {line}." for line in source_lines(table)]
    if verdicts:
        lines += ["", "| Claim | Verdict | Measured |", "|---|---|---|"]
        lines += [f"| {v.claim.statement} | {v.text()} | {v.detail} |" for v in verdicts]
    return "\n".join(lines) + "\n"


def published_of(table: Table) -> dict[str, dict[str, Published]]:
    """Other publications' values by row and source."""
    return {row.row: row.published for row in table.rows}


def source_lines(table: Table) -> list[str]:
    """One line a source: how its values were measured."""
    return settings_lines(table.sources, published_of(table))


def _number(table: Table) -> str:
    return table.table.replace("_", " ").capitalize()


def _pipe_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown table, columns padded so that it reads well in a terminal too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


TEX = {
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "−": "$-$",
    "σ": r"$\sigma$",
    "⁸": r"$^8$",
}


def escape_tex(text: str) -> str:
    """Text as LaTeX."""
    return "".join(TEX.get(char, char) for char in text)


def latex(table: Table, cells: Sequence[Cell], scale: str) -> str:
    """A table environment that wants the booktabs package."""
    rows = [[escape_tex(text) for text in row] for row in grid(table, cells)]
    sources = [f"{line}." for line in source_lines(table)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_tex(' '.join([table.caption, provenance(cells, scale), *sources]))}}}",
        rf"\label{{tab:{table.table.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
        r"\toprule",
        " & ".join(rows[0]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows[1:]),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
