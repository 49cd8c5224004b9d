"""From records and measurements alone to a table's cells; nothing about a single table lives here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dblocks.cells import Cell
from dblocks.config import load_scales, resolve
from dblocks.departures import of_measurement, of_record
from dblocks.errors import UserError
from dblocks.measure.measurement import Measurement
from dblocks.published import beside
from dblocks.record import Record
from dblocks.tables import Row, Table

Found = Mapping[str, Sequence[tuple[str, Record]]]


def table_cells(
    table: Table,
    scale: str,
    records: Found,
    missing: Mapping[str, str],
    measurements: Mapping[str, tuple[str, Measurement]] | None = None,
) -> list[Cell]:
    """The cells of a table.

    Args:
        records: (path, record) of every seed by "<experiment>/<variant>".
        missing: why a run has none, by the same key.
        measurements: (path, measurement) by its name.
    Raises: UserError if a run's records are not seeds of one identity.
    """
    cells = []
    for row in table.rows:
        for run in row.runs:
            check_same_run(row, records.get(run, []))
        for column in table.columns:
            run, read = row.reading(column)
            common = {"table": table.table, "row": row.row, "column": column, "read": read, "scale": scale}
            common["paper_dataset"] = row.paper_dataset or table.paper_dataset
            common["marks"] = {mark: mark in row.marks for mark in table.marks}
            if column.source == "measurement":
                found = (measurements or {}).get(row.measurement or "")
                cells.append(measured_cell(common, row.paper.get(column.metric), found))
            else:
                common["departures"] = departures_of(run, records.get(run, []))
                cells.append(recorded_cell(table, row, common, run, records.get(run, []), missing.get(run)))
    return cells


def recorded_cell(
    table: Table,
    row: Row,
    common: Mapping[str, Any],
    run: str | None,
    found: Sequence[tuple[str, Record]],
    missing: str | None,
) -> Cell:
    """A cell of records: one value a seed."""
    read, metric_key, records = common["read"], common["column"].metric, [record for _, record in found]
    metrics = {record.spec.seed: metric for record in records if (metric := read.of(record)) is not None}
    if len({metric.name for metric in metrics.values()}) > 1:
        raise UserError(f"row '{row.row}': {read.metric} and its substitute in records of one run")
    data = records[0].spec.data.name if records else planned_data(run, common["scale"])
    substituted = any(metric.name != read.metric for metric in metrics.values())
    on_paper_data = data == common["paper_dataset"] and not substituted
    return Cell(
        **common,
        run=run,
        paper=row.paper.get(metric_key) if on_paper_data else None,
        metrics=metrics,
        budget=min((record.budget for record in records), default=None),
        records=tuple(path for path, _ in found) if metrics else (),
        missing=missing or read.skipped_in(records),
        idle=idle_blocks(records),
        references=tuple(m.value for record in records if (m := read.of_references(record)) is not None),
        published=beside(table.sources, row.published, metric_key, None if substituted else data),
    )


def measured_cell(common: Mapping[str, Any], paper: float | None, found: tuple[str, Measurement] | None) -> Cell:
    """A cell of a measurement: one value, without seeds; the paper's stands beside it where the shapes are its own."""
    path, measurement = found or ("", None)
    metric = measurement and common["read"].of(measurement)
    scale = common["scale"] if measurement is None else measurement.request.spec.scale  # that of its shapes
    return Cell(
        **{**common, "scale": scale},
        paper=paper if measurement and scale == "paper" else None,
        metrics={0: metric} if metric else {},
        budget=None,
        records=(path,) if metric else (),
        measurement=measurement if metric else None,
        departures=of_measurement(measurement) if metric else (),
    )


def planned_data(run: str | None, scale: str) -> str | None:
    """The data set that a run without records is configured for at a scale."""
    return resolve(run, scale).data.name if run and scale in load_scales() else None


def departures_of(run: str | None, found: Sequence[tuple[str, Record]]) -> tuple[str, ...]:
    """What of a run's records is not as configured; alike for all seeds."""
    return of_record(found[0][1], run) if run and found else ()


def idle_blocks(records: Iterable[Record]) -> tuple[int, ...]:
    """Blocks, from 1, that were not run once when any of the records' networks predicted."""
    counts = (enumerate(record.evaluations_per_block or (), start=1) for record in records)
    return tuple(sorted({block for record in counts for block, count in record if count == 0}))


def check_same_run(row: Row, found: Sequence[tuple[str, Record]]) -> None:
    """Raises: UserError unless all records are different seeds of one run."""
    if len({record.identity for _, record in found}) > 1:
        raise UserError(f"row '{row.row}': records of different runs: {', '.join(path for path, _ in found)}")
    if len({record.spec.seed for _, record in found}) < len(found):
        raise UserError(f"row '{row.row}': two records of one seed: {', '.join(path for path, _ in found)}")
