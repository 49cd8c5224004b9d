"""What a plan writes before any job starts: each run's spec, each measurement's request, each table's plan."""

from __future__ import annotations

from dblocks.claims import TablePlan
from dblocks.data.files import write_atomically
from dblocks.errors import UserError
from dblocks.measure.request import REQUEST
from dblocks.plan import Plan


def table_plan(plan: Plan, name: str) -> TablePlan:
    """Which records a table is to be built of, why others are missing, and by which definitions."""
    table, line = plan.tables[name], plan.command_line
    runs = table.runs
    missing = {run: f"skipped: {plan.skipped[run]}" for run in runs if run in plan.skipped}
    records = {run: [str(path) for path in plan.records_of_row(run)] for run in runs}
    measurements = {row.measurement: str(plan.measurement(row.measurement)) for row in table.rows if row.measurement}
    claims = [claim for claim in plan.claims if claim.table == name]
    return TablePlan(
        scale=line.scale,
        table=table,
        claims=claims,
        records=records,
        missing=missing,
        measurements=measurements,
    )


def write_plan(plan: Plan) -> None:
    """Write every run's spec.json and measurement's request.json where it is not there yet (its folder's name is
    its content's hash), and every table's plan where it is another than the last one.

    Raises: UserError if the results' directory cannot be written.
    """
    try:
        _write(plan)
    except OSError as error:
        raise UserError(f"--config results_dir: {plan.root} cannot be written ({error.strerror})") from error


def _write(plan: Plan) -> None:
    for name, request in plan.measurements.items():
        path = plan.measurement(name).with_name(REQUEST)
        if not path.exists():
            write_atomically(path, request.model_dump_json(indent=1) + "\n")
    for name in plan.tables:
        path, text = plan.root / "plans" / f"{name}.json", table_plan(plan, name).model_dump_json(indent=1) + "\n"
        if not path.exists() or path.read_bytes() != text.encode():
            write_atomically(path, text)
    for run, specs in plan.runs.items():
        for spec in specs:
            path = plan.folder(run, spec.seed) / "spec.json"
            if not path.exists():
                write_atomically(path, spec.model_dump_json(indent=1) + "\n")
