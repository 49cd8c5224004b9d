"""From record files to table files: those a plan asks for, or whatever lies in a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dblocks.claims import TablePlan, Verdict, judge, load_claims
from dblocks.config import CONFIG_DIR, load_scales, read_yaml, resolve
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.record import RECORD, Record, read_record
from dblocks.report.table_files import write_table
from dblocks.tables import Cell, load_tables, table_cells

Found = Sequence[tuple[str, Record]]


def judged_cells(plan: TablePlan) -> tuple[list[Cell], list[Verdict]]:
    """The cells of a table and the verdicts on its claims.

    Raises: UserError naming a record that is missing, broken or of another run.
    """
    records = {run: [(path, read_record(Path(path))) for path in paths] for run, paths in plan.records.items()}
    cells = table_cells(plan.table, plan.scale, records, plan.missing)
    trend = plan.scale != "paper" or not all(cell.comparable for cell in cells)
    return cells, [judge(claim, cells, trend) for claim in plan.claims]


def build_table(plan: TablePlan, folder: Path) -> list[Path]:
    """Write one table's files into `folder` and return their paths; errors as `judged_cells`."""
    return write_table(folder, plan.table, *judged_cells(plan), plan.scale)


def read_plan(path: Path) -> TablePlan:
    """A table's plan.

    Raises: UserError naming the file and field.
    """
    return read_yaml(path, TablePlan)  # JSON is YAML


def tables_from_records(source: Path, target: Path, config_dir: Path = CONFIG_DIR) -> list[Path]:
    """Build every table that any record below `source` belongs to, one folder a scale, scheduling nothing; errors
    and choices as `plans_from_records`."""
    plans = plans_from_records(source, config_dir)
    return [path for plan in plans for path in build_table(plan, target / plan.scale / "tables")]


def plans_from_records(source: Path, config_dir: Path = CONFIG_DIR) -> list[TablePlan]:
    """The plan of every table that any record below `source` belongs to, by scale.

    A row takes the records of the run that today's configuration resolves to; where there are none, those
    of its experiment and variant, if they are of one run.
    Raises: UserError where that is ambiguous, or a record is broken.
    """
    records = [(str(path), read_record(path)) for path in sorted(source.rglob(RECORD))]
    if not records:
        raise UserError(f"{source}: no {RECORD} below it")
    plans, tables = [], load_tables(config_dir)
    claims = load_claims(tables, config_dir)
    for scale in sorted({record.spec.scale for _, record in records}):
        own = [(path, record) for path, record in records if record.spec.scale == scale]
        for table in tables.values():
            found = {row.run: rows_records(row.run, scale, own, config_dir) for row in table.rows}
            if any(found.values()):
                plan = TablePlan(
                    scale=scale,
                    table=table,
                    claims=[claim for claim in claims if claim.table == table.table],
                    records={run: [path for path, _ in there] for run, there in found.items()},
                    missing={run: "no record" for run, there in found.items() if not there},
                )
                plans.append(plan)
    if not plans:
        raise UserError(f"{source}: its records fit no row of config/tables")
    return plans


def rows_records(run: str, scale: str, records: Found, config_dir: Path = CONFIG_DIR) -> list[tuple[str, Record]]:
    """The records that fill a row, by the rule of `tables_from_records`."""
    if scale in load_scales(config_dir):
        wanted = identity(resolve(run, scale, config_dir=config_dir))
        if exact := [(path, record) for path, record in records if record.identity == wanted]:
            return exact
    experiment, _, variant = run.partition("/")
    by_identity = defaultdict(list)
    for path, record in records:
        if (record.spec.experiment, record.spec.variant) == (experiment, variant):
            by_identity[record.identity].append((path, record))
    if len(by_identity) > 1:
        folders = ", ".join(str(Path(found[0][0]).parent.parent) for found in by_identity.values())
        raise UserError(f"run '{run}' at scale {scale}: records of different settings in {folders}; keep one of them")
    return next(iter(by_identity.values()), [])
