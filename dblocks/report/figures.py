"""A table's picture: stacked bars, one a row, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.tables import Cell, Table

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
    """Draw a table's figure of the rows that have a value of every part; returns `path`.

    Raises: UserError if no row has.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = table.table  # equal numbers, equal file
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
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    write_atomically(path, buffer.getvalue())
    return path
