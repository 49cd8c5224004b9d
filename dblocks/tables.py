"""Tables from records and measurements: config/tables/*.yaml says what a table holds, they say what was measured.

Nothing about a single table lives here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dblocks.config import CONFIG_DIR, load_experiments, read_yaml
from dblocks.errors import UserError
from dblocks.measure.measurement import Measurement
from dblocks.measure.request import load_measurements
from dblocks.published import Published, Source, beside
from dblocks.record import Metric, Record
from dblocks.spec import Part

# one line per row and metric
CSV_COLUMNS = (
    "table",
    "row",
    "metric",
    "paper",
    "mean",
    "sd",
    "n",
    "unit",
    "dataset",
    "split",
    "scale",
    "budget",
    "record",
)


class Substitute(Part):
    """What fills a column where its own metric could not be measured; the paper's value never stands beside it."""

    metric: str
    label: str = Field(description="Its heading; {dataset} becomes the data set's name.")


class Column(Part):
    metric: str = Field(description="Metric key in the records.")
    label: str
    unit: str
    better: Literal["higher", "lower"] | None = Field(description="None for what is no score, such as an entropy.")
    decimals: int = Field(2, ge=0)
    substitute: Substitute | None = None
    optional: bool = Field(False, description="Left out of the table where nothing of it was measured or skipped.")
    references: bool = Field(
        False, description="Of generated text: the same of the references stands beside, metric reference_<metric>."
    )
    weights: str | None = Field(None, description="Published weights it takes; where skipped, its cells say so.")
    source: Literal["record", "measurement"] = Field("record", description="Which of a row's files it is read from.")

    def of(self, record: Record | Measurement) -> Metric | None:
        """The column's metric in a record, else its substitute, else nothing."""
        return record.metric(self.metric) or (self.substitute and record.metric(self.substitute.metric))

    def of_references(self, record: Record) -> Metric | None:
        """What the references have of the metric, where it is to stand beside; theirs is one text a prompt."""
        found = self.of(record) if self.references else None
        return found and record.metric(f"reference_{found.name.removesuffix('_single')}")

    def skipped_in(self, records: Sequence[Record]) -> str | None:
        """Why records have no such metric, where its weights were skipped."""
        return f"skipped: {self.weights}" if any(self.weights in record.skipped for record in records) else None


class Reading(Part):
    """Where one row fills a column by something else than the column's own metric of the row's run."""

    run: str | None = Field(None, description="<experiment>/<variant>; None: the row's.")
    metric: str | None = Field(None, description="Metric key; None: the column's.")
    label: str | None = Field(None, description="What it is called where the row's facts say {metric}.")
    decimals: int | None = Field(None, ge=0)
    substitute: Substitute | None = None


class Row(Part):
    row: str = Field(description="Name as in the paper.")
    run: str | None = Field(None, description="<experiment>/<variant> that fills it; None: only measurements do.")
    measurement: str | None = Field(None, description="Name in config/measurements.yaml that its measurements are of.")
    prefix: str = Field("", description="Put before the metric of every column, and before its substitute's.")
    reads: dict[str, Reading] = Field({}, description="What it reads differently, by column's metric.")
    facts: dict[str, str] = Field(
        {}, description="Words by heading, shown first; {dataset}, {metric}: what the row's first value was taken on."
    )
    paper: dict[str, float] = Field({}, description="The paper's values by metric.")
    paper_dataset: str | None = Field(None, description="Data set of its paper values; default: the table's.")
    note: str | None = None
    marks: list[str] = Field([], description="The table's marks that this row bears.")
    published: dict[str, Published] = Field({}, description="Its values in other publications, by source's key.")

    @property
    def runs(self) -> list[str]:
        """The runs it reads, as <experiment>/<variant>."""
        return list(dict.fromkeys(run for run in (self.run, *(r.run for r in self.reads.values())) if run))

    def reading(self, column: Column) -> tuple[str | None, Column]:
        """The run (None for a measurement), and the column with the metric that this row reads."""
        own: dict[str, Any] = {"metric": self.prefix + column.metric}
        if column.substitute is not None:
            metric = self.prefix + column.substitute.metric
            own["substitute"] = column.substitute.model_copy(update={"metric": metric})
        reading = self.reads.get(column.metric, Reading())
        own |= {name: value for name, value in reading if name != "run" and value is not None}
        run = None if column.source == "measurement" else reading.run or self.run
        return run, column.model_copy(update=own)


class Figure(Part):
    """A table's picture. Rows are named "<group>: <bar or number>".

    `bars`: stacked ones, one a row, groups share an axis. `curves`: a panel a metric, a line a group, over the number.
    """

    kind: Literal["bars", "curves"] = "bars"
    parts: list[str] = Field(min_length=1, description="Metrics of the columns that are stacked, or drawn one by one.")
    label: str = Field(description="Of the axis that is common, unit included.")


class Table(Part):
    """config/tables/<table>.yaml."""

    table: str
    title: str
    caption: str
    paper_dataset: str = Field(description="Data set of the paper's values: they stand only beside results on it.")
    columns: list[Column]
    rows: list[Row]
    figure: Figure | None = None
    marks: dict[str, str] = Field({}, description="What a row may be, yes or no: heading by key.")
    sources: dict[str, Source] = Field({}, description="Publications besides the paper, by key.")

    @property
    def runs(self) -> list[str]:
        """The runs its rows read, each once."""
        return list(dict.fromkeys(run for row in self.rows for run in row.runs))

    @property
    def facts(self) -> list[str]:
        """Headings of the rows' facts."""
        return list(dict.fromkeys(heading for row in self.rows for heading in row.facts))

    @model_validator(mode="after")
    def _names_fit(self):
        metrics = {column.metric for column in self.columns}
        for row in self.rows:
            published = {metric for there in row.published.values() for metric in there.values}
            for origin, values in (("paper", set(row.paper)), ("published", published), ("read", set(row.reads))):
                if unknown := values - metrics:
                    raise ValueError(f"row '{row.row}': {origin} value for {sorted(unknown)}, which is no column")
            if unknown := set(row.marks) - set(self.marks):
                raise ValueError(f"row '{row.row}': marks {sorted(unknown)} are not in the table's {list(self.marks)}")
            if unknown := set(row.published) - set(self.sources):
                raise ValueError(f"row '{row.row}': published {sorted(unknown)} is none of the table's sources")
            if unknown := set(row.reads) - metrics:
                raise ValueError(f"row '{row.row}': reads {sorted(unknown)}, which is no column")
            if not row.runs and row.measurement is None:
                raise ValueError(f"row '{row.row}': needs run or measurement")
        if self.figure and (unknown := set(self.figure.parts) - metrics):
            raise ValueError(f"figure.parts: {sorted(unknown)} is no column")
        if len({row.row for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same name")
        return self


@dataclass(frozen=True)
class Cell:
    """One row under one metric: all seeds of one run.

    Attributes:
        read: the column with the metric that the row reads.
        paper: the paper's value, None where it has none, was taken on another data set or with another metric.
        paper_dataset: the data set of the row's paper values.
        metrics: the metric by seed; empty where missing.
        missing: why, where there is nothing.
        measurement: where a measurement is read, what was measured.
        idle: blocks, from 1, that no prediction ran: what was trained there is not in the number.
        references: the same of the references of generated text, one a seed, where the column shows it.
        published: other publications' values by source, under the same rule as the paper's.
        marks: what the row is, by the table's marks.
    """

    table: str
    row: str
    column: Column
    paper: float | None
    metrics: Mapping[int, Metric]
    scale: str
    budget: float | None
    records: tuple[str, ...]
    missing: str | None = None
    paper_dataset: str = ""
    read: Column | None = None
    measurement: Measurement | None = None
    idle: tuple[int, ...] = ()
    references: tuple[float, ...] = ()
    published: Mapping[str, float | None] = field(default_factory=dict)
    marks: Mapping[str, bool] = field(default_factory=dict)

    @property
    def wanted(self) -> Column:
        """What the row reads: its own reading of the column, or the column itself."""
        return self.read or self.column

    @property
    def is_exact(self) -> bool:
        """Whether it is counted, so that one value decides: no seed and no clock moves it."""
        return self.measurement is not None and all(metric.spread is None for metric in self.metrics.values())

    @property
    def measured(self) -> str:
        """The metric that is shown: the column's own, or its substitute."""
        return next((metric.name for metric in self.metrics.values()), self.wanted.metric)

    @property
    def comparable(self) -> bool:
        """Whether all that was measured is the paper's metric on the paper's data set."""
        return all((m.name, m.dataset) == (self.wanted.metric, self.paper_dataset) for m in self.metrics.values())

    @property
    def label(self) -> str:
        """The heading that fits what was measured."""
        if self.measured == self.wanted.metric:
            return self.wanted.label
        return self.wanted.substitute.label.format(dataset=next(iter(self.metrics.values())).dataset)

    @property
    def values(self) -> list[float]:
        return [metric.value for _, metric in sorted(self.metrics.items())]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.metrics else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n − 1); None below two seeds."""
        return statistics.stdev(self.values) if len(self.metrics) > 1 else None

    @property
    def key(self) -> str:
        """What the csv calls the metric: as it is measured, after the column's own name where rows differ in it."""
        if self.wanted.metric == self.column.metric:
            return self.measured
        return self.column.metric if self.column.source == "measurement" else f"{self.column.metric}:{self.measured}"

    def csv(self) -> dict[str, str]:
        """One line of the long csv; what is not known is empty."""
        first = next(iter(self.metrics.values()), None)
        known = {
            "paper": self.paper,
            "mean": self.mean,
            "sd": self.sd,
            "n": len(self.metrics),
            "dataset": first and first.dataset,
            "split": first and first.split,
            "budget": self.budget,
        }
        text = {key: "" if value is None else str(value) for key, value in known.items()}
        fixed = {
            "table": self.table,
            "row": self.row,
            "metric": self.key,
            "unit": self.column.unit,
            "scale": self.scale,
        }
        more = {mark: "yes" if borne else "no" for mark, borne in self.marks.items()}
        more |= {source: "" if value is None else str(value) for source, value in self.published.items()}
        return {**fixed, **text, "record": ";".join(self.records), **more}

    def text(self) -> str:
        """How the cell reads in a table: mean ± sd (n), or why it is empty."""
        if self.mean is None:
            return self.missing or "–"
        decimals = self.wanted.decimals
        if self.measurement is not None:
            spread = self.metrics[0].spread
            return f"{self.mean:.{decimals}f}" + (
                f" [{spread[0]:.{decimals}f}, {spread[1]:.{decimals}f}]" if spread else ""
            )
        spread = "" if self.sd is None else f" ± {self.sd:.{decimals}f}"
        more = [f"n = {len(self.metrics)}"]
        if self.references:
            more.append(f"references {statistics.fmean(self.references):.{decimals}f}")
        if self.idle:
            more.append(f"block{'s' * (len(self.idle) > 1)} {', '.join(map(str, self.idle))} never ran")
        return f"{self.mean:.{decimals}f}{spread} ({'; '.join(more)})"


def load_tables(config_dir: Path = CONFIG_DIR) -> dict[str, Table]:
    """Every config/tables/*.yaml by its table's name.

    Raises: UserError naming file and field; also where a row names a run or measurement that does not exist.
    """
    tables = {}
    for path in sorted((config_dir / "tables").glob("*.yaml"), key=_natural):
        table = read_yaml(path, Table)
        if table.table != path.stem:
            raise UserError(f"{path}: table: '{table.table}' should be the file's name '{path.stem}'")
        for row in table.rows:
            for run in row.runs:
                experiment, _, variant = run.partition("/")
                known = load_experiments(config_dir).get(experiment)
                if known is None or variant not in known.variants:
                    raise UserError(f"{path}: row '{row.row}': run '{run}' is not in config/runs")
            if row.measurement is not None and row.measurement not in load_measurements(config_dir):
                raise UserError(f"{path}: row '{row.row}': '{row.measurement}' is not in config/measurements.yaml")
        tables[table.table] = table
    return tables


def _natural(path: Path) -> tuple[str, int]:
    stem, _, number = path.stem.rpartition("_")
    return (stem, int(number)) if number.isdigit() else (path.stem, 0)


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
                cells.append(recorded_cell(table, row, common, records.get(run, []), missing.get(run)))
    return cells


def recorded_cell(
    table: Table, row: Row, common: Mapping[str, Any], found: Sequence[tuple[str, Record]], missing: str | None
) -> Cell:
    """A cell of records: one value a seed."""
    read, metric_key, records = common["read"], common["column"].metric, [record for _, record in found]
    metrics = {record.spec.seed: metric for record in records if (metric := read.of(record)) is not None}
    if len({metric.name for metric in metrics.values()}) > 1:
        raise UserError(f"row '{row.row}': {read.metric} and its substitute in records of one run")
    data = records[0].spec.data.name if records else None
    substituted = any(metric.name != read.metric for metric in metrics.values())
    on_paper_data = data == common["paper_dataset"] and not substituted
    return Cell(
        **common,
        paper=row.paper.get(metric_key) if on_paper_data else None,
        metrics=metrics,
        budget=records[0].budget if records else None,
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
    )


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


def percentage(budget: float | None) -> str:
    """A budget as a percentage of the paper's with two significant digits."""
    if budget is None:
        return "–"
    share = 100 * budget
    return f"{share:.0f} %" if share >= 10 else f"{share:.{1 - math.floor(math.log10(share))}f} %"
