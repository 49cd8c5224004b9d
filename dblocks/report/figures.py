"""A table's picture as SVG: stacked bars, one a row, or curves over the number that rows are named by."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.tables import Cell, Row, Table

COLOURS = (
    "#4477aa",
    "#66ccee",
    "#228833",
    "#ccbb44",
    "#ee6677",
    "#aa3377",
)  # Tol's bright scheme, for the colour-blind


def groups(table: Table) -> dict[str, list[str]]:
    """Names of the rows that share an axis, by the group's name."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        found.setdefault(row.row.rpartition(": ")[0], []).append(row.row)
    return found


def write_figure(path: Path, table: Table, cells: Sequence[Cell]) -> Path:
    """Draw a table's figure; returns `path`.

    Raises: UserError if nothing it shows was measured.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = table.table  # equal numbers, equal file
    from matplotlib import pyplot

    figure = {"bars": bars, "curves": curves}[table.figure.kind](table, cells)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
    return path


def curves(table: Table, cells: Sequence[Cell]) -> Any:
    """Each metric over the number that rows are named by, a line a group, with its deviation over seeds."""
    from matplotlib import pyplot

    parts = table.figure.parts
    found = {(cell.row, cell.column.metric): cell for cell in cells if cell.mean is not None}
    if not found:
        raise UserError(f"{table.table}: nothing measured to draw")
    figure, axes = pyplot.subplots(1, len(parts), squeeze=False, figsize=(3.2 * len(parts), 3.0), layout="constrained")
    for axis, part in zip(axes[0], parts, strict=True):
        for (group, rows), colour in zip(groups(table).items(), COLOURS[::2], strict=False):
            shown = [found[row, part] for row in rows if (row, part) in found]
            numbers = [float(cell.row.rpartition(": ")[2]) for cell in shown]
            spread = [cell.sd or 0.0 for cell in shown]
            axis.errorbar(numbers, [cell.mean for cell in shown], spread, marker="o", color=colour, label=group)
        labels = dict.fromkeys(cell.label for (_, metric), cell in found.items() if metric == part)
        axis.set_xscale("log", base=2)
        axis.set_xticks(*zip(*sorted({(x, f"{x:g}") for x in map(number, table.rows)}), strict=True))
        axis.set_xlabel(table.figure.label)
        axis.set_title(" / ".join(labels), fontsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def number(row: Row) -> float:
    """The number a row is named by."""
    return float(row.row.rpartition(": ")[2])


def bars(table: Table, cells: Sequence[Cell]) -> Any:
    """Stacked bars of the rows that have a value of every part."""
    from matplotlib import pyplot

    parts = table.figure.parts
    values = {(cell.row, cell.column.metric): cell.mean for cell in cells if cell.mean is not None}
    labels = {column.metric: column.label for column in table.columns}
    shown = {
        group: [row for row in rows if all((row, part) in values for part in parts)]
        for group, rows in groups(table).items()
    }
    shown = {group: rows for group, rows in shown.items() if rows}
    if not shown:
        raise UserError(f"{table.table}: nothing measured to draw")
    heights = [len(rows) for rows in shown.values()]
    figure, axes = pyplot.subplots(
        len(shown), 1, squeeze=False, figsize=(8, 0.9 + 0.32 * sum(heights) + 0.55 * len(shown)), height_ratios=heights
    )
    for axis, (group, rows) in zip(axes[:, 0], shown.items(), strict=True):
        left = [0.0] * len(rows)
        for part, colour in zip(parts, COLOURS, strict=False):
            widths = [values[row, part] for row in rows]
            axis.barh([row.rpartition(": ")[2] for row in rows], widths, left=left, color=colour, label=labels[part])
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.invert_yaxis()
        axis.set_title(group, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel(table.figure.label)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside upper right",
        ncols=len(parts),
        fontsize="small",
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_size_inches()[1]))
    return figure
