"""The report: one self-contained HTML page a scale, from table plans and the records they name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from dblocks.cells import Cell, percentage
from dblocks.claims import NOT_JUDGED, TablePlan, Verdict
from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.report.build_tables import judged_cells
from dblocks.report.page_figures import dot_plot, noise_partition, table_figure
from dblocks.report.provenance import provenance
from dblocks.report.run_views import RunView, data_uri, run_view
from dblocks.report.table_files import CellText, grid

TEMPLATES = Path(__file__).parent / "templates"
MARKS = {"holds": "✓", "fails": "✗", "undecided": "?", NOT_JUDGED: "–"}


@dataclass(frozen=True)
class Picture:
    """An image inside the page: its address and what it shows, in words."""

    address: str
    alt: str


@dataclass(frozen=True)
class TableView:
    """One table with its pictures.

    Attributes:
        header, body: the table's text; each cell of the body with the address of its run or measurement, if it has one.
    """

    plan: TablePlan
    header: list[str]
    body: list[list[tuple[str, str | None]]]
    provenance: str
    verdicts: list[Verdict]
    pictures: list[Picture]


def write_page(plans: Sequence[TablePlan], target: Path) -> Path:
    """Write the report of `plans`, all of one scale, to `target`; files beside records are linked relative to it.

    Raises: UserError if there is no plan, or a record is missing or broken.
    """
    if not plans:
        raise UserError(f"{target}: no tables to report")
    judged = {plan.table.table: judged_cells(plan) for plan in plans}
    views = run_views(plans, target.parent)
    tables = [table_view(plan, *judged[plan.table.table], target.parent) for plan in plans]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg_uri"] = svg_uri
    page = environment.get_template("report.html.j2").render(
        scale=plans[0].scale,
        facts=facts(views),
        tables=tables,
        runs=views,
        marks=MARKS,
        partition=noise_partition(),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )
    write_atomically(target, page)
    return target


def run_views(plans: Sequence[TablePlan], folder: Path) -> list[RunView]:
    """Every run that a table reads, once, in the tables' order."""
    seeds: dict[Path, dict[Path, None]] = {}
    for plan in plans:
        for path in (Path(path) for paths in plan.records.values() for path in paths):
            seeds.setdefault(path.parent.parent, {})[path] = None
    return [run_view(list(paths), folder) for paths in seeds.values()]


def table_view(plan: TablePlan, cells: Sequence[Cell], verdicts: list[Verdict], folder: Path) -> TableView:
    """A table as the page in `folder` shows it."""
    header, *rows = grid(plan.table, cells)
    body = []
    for line in rows:
        own = [text.cell if isinstance(text, CellText) and text.cell.metrics else None for text in line]
        body.append([(text, cell and address_of(cell, folder)) for text, cell in zip(line, own, strict=True)])
    pictures = []
    if plan.table.figure:
        pictures.append(
            Picture(svg_uri(table_figure(plan.table, cells)), f"{plan.table.title}, a picture of the table above")
        )
    for column in plan.table.columns:
        of_column = [cell for cell in cells if cell.column == column]
        several = len({cell.label for cell in of_column if cell.metrics}) > 1
        if plan.table.figure or several or column.better is None:
            continue  # drawn already; rows of different metrics, which share no axis; or no score
        if (drawn := dot_plot(column, of_column)) is not None:
            values = "; ".join(f"{cell.row} {cell.text()}" for cell in of_column if cell.metrics)
            pictures.append(Picture(svg_uri(drawn), f"{column.label} by row: {values}"))
    return TableView(plan, header, body, provenance(cells, plan.scale), verdicts, pictures)


def address_of(cell: Cell, folder: Path) -> str:
    """Where a cell's number comes from: its run's place in the page, or its measurement's file, seen from `folder`."""
    path = Path(cell.records[0])
    return f"#{path.parent.parent.name}" if cell.measurement is None else os.path.relpath(path, folder)


def facts(views: Sequence[RunView]) -> dict[str, str]:
    """What was run, in a few words each: seeds, commits, devices, share of the paper's budget, time."""
    records = [record for view in views for record in view.records.values()]
    if not records:
        return {"Measured": "nothing yet"}
    budgets = [record.budget for record in records]
    seconds = sum(record.evaluate_seconds + (0 if record.trained_as else record.train_seconds) for record in records)
    commits = sorted({record.machine.commit or "none: not in a repository" for record in records})
    return {
        "Seeds": ", ".join(map(str, sorted({record.spec.seed for record in records}))),
        "Runs": f"{len(views)}, {len(records)} with their seeds",
        "Budget": f"{percentage(min(budgets))} to {percentage(max(budgets))} of the paper's samples or tokens",
        "Device": "; ".join(sorted({record.machine.device for record in records})),
        "Commit": ", ".join(commit[:12] + ("-dirty" if "dirty" in commit[12:] else "") for commit in commits),
        "Time": f"{seconds / 3600:.2g} hours of training and evaluation, over all runs",
        "Finished": max(record.finished for record in records).strftime("%Y-%m-%d %H:%M UTC"),
    }


def svg_uri(text: str) -> str:
    """SVG text as an address."""
    return data_uri(text.encode(), "image/svg+xml")
