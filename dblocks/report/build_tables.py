"""From record files to table files: those a plan asks for, or whatever lies in a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from dblocks.cells import Cell
from dblocks.claims import Claim, TablePlan, Verdict, judge, load_claims
from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, load_scales, resolve
from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.filled_cells import table_cells
from dblocks.identity import identity
from dblocks.measure.measurement import Measurement, read_measurement
from dblocks.measure.request import MEASUREMENT, make_request
from dblocks.reading import read_json
from dblocks.record import RECORD, Record, read_record
from dblocks.report.table_files import write_table
from dblocks.tables import load_tables

Found = Sequence[tuple[str, Record]]


def judged_cells(plan: TablePlan) -> tuple[list[Cell], list[Verdict]]:
    """The cells of a table and the verdicts on its claims.

    Raises: UserError naming a record that is missing, broken or of another run.
    """
    cells = cells_of(plan)
    return cells, [judge(claim, cells, is_trend(claim, cells)) for claim in plan.claims]


def is_trend(claim: Claim, cells: Sequence[Cell]) -> bool:
    """Whether a cell that a claim compares is not of the paper's scale, data set, metric, budget and settings."""
    rows = {row for comparison in claim.comparisons for row in comparison.rows}
    compared = [cell for cell in cells if cell.row in rows and cell.column.metric == claim.metric]
    return not all(
        cell.scale == "paper" and cell.comparable and cell.whole_budget and not cell.departures for cell in compared
    )


def build_table(plan: TablePlan, folder: Path) -> list[Path]:
    """Write one table's files into `folder` and return their paths; errors as `judged_cells`."""
    return write_table(folder, plan.table, *judged_cells(plan), plan.scale)


def build_figure(plan: TablePlan, folder: Path) -> Path:
    """Draw one table's figure into `folder` and return its path."""
    from dblocks.report.page_figures import table_figure

    path = folder / f"{plan.table.table}.svg"
    write_atomically(path, table_figure(plan.table, cells_of(plan)))
    return path


def cells_of(plan: TablePlan) -> list[Cell]:
    """A table's cells, from the files its plan names."""
    records = {run: [(path, read_record(Path(path))) for path in paths] for run, paths in plan.records.items()}
    measurements = {name: (path, read_measurement(Path(path))) for name, path in plan.measurements.items()}
    return table_cells(plan.table, plan.scale, records, plan.missing, measurements)


def read_plan(path: Path) -> TablePlan:
    """A table's plan.

    Raises: UserError naming the file and field.
    """
    return read_json(path, TablePlan)


def tables_from_records(source: Path, target: Path, config_dir: Path = CONFIG_DIR) -> list[Path]:
    """Build every table that any record below `source` belongs to, one folder a scale, scheduling nothing; errors
    and choices as `plans_from_records`."""
    written = []
    for plan in plans_from_records(source, config_dir):
        written += build_table(plan, target / plan.scale / "tables")
        if plan.table.figure:
            written.append(build_figure(plan, target / plan.scale / "tables"))
    return written


def plans_from_records(source: Path, config_dir: Path = CONFIG_DIR) -> list[TablePlan]:
    """The plan of every table that any record below `source` belongs to, by scale.

    A row takes the records of the run that today's configuration resolves to; where there are none, those
    of its experiment and variant, if they are of one run.
    Raises: UserError where that is ambiguous, or a record is broken.
    """
    records = [(str(path), read_record(path)) for path in sorted(source.rglob(RECORD))]
    measured = [(str(path), read_measurement(path)) for path in sorted(source.rglob(MEASUREMENT))]
    if not records and not measured:
        raise UserError(f"{source}: no {RECORD} below it")
    plans, tables = [], load_tables(config_dir)
    claims = load_claims(tables, config_dir)
    scales = {record.spec.scale for _, record in records} | {m.request.scale for _, m in measured}
    for scale in sorted(scales):
        own = defaultdict(list)
        for path, record in records:
            if record.spec.scale == scale:
                own[record.identity].append((path, record))
        for table in tables.values():
            found = {run: rows_records(run, scale, own, config_dir) for run in table.runs}
            names = dict.fromkeys(row.measurement for row in table.rows if row.measurement)
            taken = {name: path for name in names if (path := rows_measurement(name, scale, measured, config_dir))}
            if any(found.values()) or taken:
                plan = TablePlan(
                    scale=scale,
                    table=table,
                    claims=[claim for claim in claims if claim.table == table.table],
                    records={run: [path for path, _ in there] for run, there in found.items()},
                    missing={run: "no record" for run, there in found.items() if not there},
                    measurements=taken,
                )
                plans.append(plan)
    if not plans:
        raise UserError(f"{source}: its records fit no row of config/tables")
    return plans


def rows_records(run: str, scale: str, records: Mapping[str, Found], config_dir: Path = CONFIG_DIR) -> Found:
    """The records that fill a row, of a scale's by identity, by the rule of `plans_from_records`."""
    if scale in load_scales(config_dir):
        wanted = identity(resolve(run, scale, config_dir=config_dir))
        if wanted in records:
            return records[wanted]
    named = [
        own
        for found in records.values()
        if (own := [(path, made) for path, made in found if f"{made.spec.experiment}/{made.spec.variant}" == run])
    ]
    if len(named) > 1:
        folders = ", ".join(str(Path(found[0][0]).parent.parent) for found in named)
        raise UserError(f"run '{run}' at scale {scale}: records of different settings in {folders}; keep one of them")
    return named[0] if named else []


def rows_measurement(
    name: str, scale: str, measured: Sequence[tuple[str, Measurement]], config_dir: Path = CONFIG_DIR
) -> str | None:
    """The path of a measurement by the rule of `plans_from_records`: today's settings, else its name if alone."""
    named = [(path, m) for path, m in measured if (m.request.name, m.request.scale) == (name, scale)]
    if scale in load_scales(config_dir):
        wanted = make_request(name, CommandLine(scale=scale), config_dir).identity
        if exact := [path for path, measurement in named if measurement.identity == wanted]:
            return exact[0]
    if len({measurement.identity for _, measurement in named}) > 1:
        files = ", ".join(path for path, _ in named)
        raise UserError(f"measurement '{name}' at scale {scale}: of different settings in {files}; keep one of them")
    return named[0][0] if named else None
