"""The report's drawings, each as SVG text: the paper against ours, learning curves, the noise partition."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dblocks.cells import Cell
from dblocks.noise import NoiseDistribution
from dblocks.partition import Partition, noise_distribution, partition_of
from dblocks.spec import DiffusionBlocksSpec
from dblocks.tables import Column, Table

# Okabe & Ito's colours, told apart with any kind of sight, and beside them always another mark, dash or hatch
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
HATCHES = ("//", "..", "xx", "\\\\", "oo", "--")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dblocks",  # the same drawing is the same file
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def as_svg(figure: Figure) -> str:
    """The figure's SVG, without a date."""
    if figure.get_layout_engine() is not None:
        # the solver's last digits differ from process to process: rounded, the same drawing is the same file
        figure.draw_without_rendering()
        for axes in figure.axes:
            axes.set_position([round(float(part), 4) for part in axes.get_position().bounds])
        figure.set_layout_engine("none")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    return text.getvalue()


def drawing(width: float = 6.4, height: float = 3.2) -> tuple[Figure, Axes]:
    """An empty figure in the report's style, inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.add_subplot()


def dot_plot(column: Column, cells: Sequence[Cell]) -> str | None:
    """Our mean ± sd of every row, each seed a small dot, and the paper's value where it may stand beside; None if
    nothing was measured."""
    shown = [cell for cell in cells if cell.metrics]
    if not shown:
        return None
    figure, axes = drawing(height=0.6 + 0.36 * len(shown))
    with matplotlib.rc_context(STYLE):
        for y, cell in enumerate(shown):
            spread = cell.sd or 0.0
            axes.plot(cell.values, [y] * len(cell.values), "|", color="#555555", markersize=9)
            axes.errorbar(
                cell.mean, y, xerr=spread, fmt="o", color=COLOURS[0], capsize=3, label="ours" if y == 0 else None
            )
        papers = [(cell.paper, y) for y, cell in enumerate(shown) if cell.paper is not None]
        if papers:
            axes.plot(*zip(*papers, strict=True), "D", color=COLOURS[1], fillstyle="none", label="paper")
        axes.set_yticks(range(len(shown)), [cell.row for cell in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        arrow = {"higher": " (higher is better)", "lower": " (lower is better)", None: ""}[column.better]
        axes.set_xlabel(f"{shown[0].label}{f', {column.unit}' if column.unit else ''}{arrow}")
        axes.grid(axis="x", alpha=0.3)
        if papers:
            figure.legend(loc="upper right", bbox_to_anchor=(1.0, 1.12), frameon=False, ncols=2)
        return as_svg(figure)


def groups(table: Table, rows: Sequence[str]) -> dict[str, list[str]]:
    """The rows that share an axis, by the group's name."""
    found: dict[str, list[str]] = {}
    for row in (row.row for row in table.rows if row.row in rows):
        found.setdefault(row.rpartition(": ")[0], []).append(row)
    return found


def table_figure(table: Table, cells: Sequence[Cell]) -> str:
    """A table's own figure, of the kind its configuration names; where nothing was measured it says so."""
    return {"bars": bars, "beside": bars, "curves": curves}[table.figure.kind](table, cells)


def nothing_measured() -> str:
    """The figure of a table all of whose rows were skipped."""
    figure, axes = drawing(height=1.2)
    with matplotlib.rc_context(STYLE):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing measured", ha="center", va="center")
        return as_svg(figure)


def curves(table: Table, cells: Sequence[Cell]) -> str:
    """A panel a metric, over the number that rows are named by, "<group>: <number>"; a line a group, with its deviation
    over seeds.
    """
    found = {(cell.row, cell.column.metric): cell for cell in cells if cell.mean is not None}
    if not found:
        return nothing_measured()
    lines, parts = groups(table, [row.row for row in table.rows]), table.figure.parts
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(parts), 2.9), layout="constrained")
        drawn = figure.subplots(1, len(parts), squeeze=False)[0]
        for axes, part in zip(drawn, parts, strict=True):
            shown = {group: [found[row, part] for row in rows if (row, part) in found] for group, rows in lines.items()}
            for i, (group, own) in enumerate(shown.items()):
                numbers = [float(cell.row.rpartition(": ")[2]) for cell in own]
                style = {"color": COLOURS[i % 6], "marker": MARKS[i % 6], "linestyle": DASHES[i % 6], "capsize": 3}
                axes.errorbar(numbers, [c.mean for c in own], [c.sd or 0.0 for c in own], label=group, **style)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(table.figure.label)
            axes.set_title(" / ".join(dict.fromkeys(cell.label for own in shown.values() for cell in own)), fontsize=9)
        handles, labels = drawn[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        return as_svg(figure)


def bars(table: Table, cells: Sequence[Cell]) -> str:
    """A table's own figure: the parts of a row as one stacked bar or as bars beside each other, of the rows that have a
    value of every part; rows named "<group>: <bar>" share an axis by group.
    """
    parts, beside = table.figure.parts, table.figure.kind == "beside"
    thick = 0.8 / len(parts) if beside else 0.8
    values = {(cell.row, cell.column.metric): cell.mean for cell in cells if cell.mean is not None}
    shown = groups(table, [row.row for row in table.rows if all((row.row, part) in values for part in parts)])
    if not shown:
        return nothing_measured()
    heights = [len(rows) for rows in shown.values()]
    with matplotlib.rc_context({**STYLE, "hatch.linewidth": 0.5}):
        figure = Figure(figsize=(7.2, 0.6 + 0.32 * sum(heights) + 0.6 * len(shown)), layout="constrained")
        drawn = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (group, rows) in zip(drawn, shown.items(), strict=True):
            left, places = np.zeros(len(rows)), np.arange(len(rows))
            for i, part in enumerate(parts):
                widths = np.array([values[row, part] for row in rows])
                style = {"color": COLOURS[i % 6], "hatch": HATCHES[i % 6], "edgecolor": "white", "linewidth": 0}
                shift = (i - (len(parts) - 1) / 2) * thick if beside else 0.0
                axes.barh(places + shift, widths, thick, left, **style)
                left += 0 if beside else widths
            axes.set_yticks(places, [row.rpartition(": ")[2] for row in rows])
            axes.invert_yaxis()
            axes.set_title(group, loc="left", fontsize=10)
        drawn[-1].set_xlabel(table.figure.label)
        labels = {column.metric: column.label for column in table.columns}
        figure.legend(drawn[0].containers, [labels[part] for part in parts], loc="outside upper right", ncols=3)
        return as_svg(figure)


def learning_curves(logs: Mapping[int, Sequence[Mapping[str, Any]]]) -> str | None:
    """Training loss against steps, one line a block and seed; None without a log.

    Args:
        logs: lines of log.jsonl by seed.
    """
    blocks = sorted({block for lines in logs.values() for line in lines for block in line["loss"]})
    if not blocks:
        return None
    figure, axes = drawing()
    with matplotlib.rc_context(STYLE):
        for i, block in enumerate(blocks):
            style = {"color": COLOURS[i % 6], "linestyle": DASHES[i % 6], "linewidth": 1.2}
            for seed, lines in sorted(logs.items()):
                points = [(line["step"], line["loss"][block]) for line in lines if block in line["loss"]]
                label = (f"block {block}" if block != "all" else "whole network") if seed == min(logs) else None
                axes.plot(*zip(*points, strict=True), label=label, **style) if points else None
        values = [value for lines in logs.values() for line in lines for value in line["loss"].values()]
        if min(values) > 0:
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="training loss")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        return as_svg(figure)


def noise_partition() -> str:
    """The paper's Figure 4: the density of log σ, cut into blocks of equal mass and into equal intervals."""
    method = DiffusionBlocksSpec()
    kinds = {"equi_probability": "equal probability", "uniform": "equal intervals of log σ"}
    noise = noise_distribution(method.noise)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8))
        for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), kinds.items(), strict=True):
            fields = {"partition": kind, "layers_per_block": None}
            partition = partition_of(method.model_copy(update=fields), method.num_blocks)
            _density(axes, noise, partition)
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("σ")
            axes.legend(frameon=False, fontsize=8, loc="upper right")
        figure.axes[0].set_ylabel("density of log σ")
        return as_svg(figure)


def _density(axes: Axes, noise: NoiseDistribution, partition: Partition) -> None:
    """The blocks' shares under the density of log σ."""
    for block in range(partition.num_blocks):
        low, high = partition.interval(block)
        log_sigma = np.linspace(np.log(low), np.log(high), 100)
        density = np.exp(-0.5 * ((log_sigma - noise.p_mean) / noise.p_std) ** 2) / (noise.p_std * np.sqrt(2 * np.pi))
        share = noise.mass_below(high) - noise.mass_below(low)
        axes.fill_between(
            np.exp(log_sigma),
            density,
            facecolor=COLOURS[block % 6],
            alpha=0.45,
            hatch=HATCHES[block % 6],
            edgecolor="white",
            label=f"block {block + 1}: {100 * share:.0f} %",
        )
    axes.set_xscale("log")
