"""What tables hold: config/tables/*.yaml, typed. Nothing about a single table lives here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from dblocks.config import CONFIG_DIR, has_run
from dblocks.errors import UserError
from dblocks.measure.measurement import Measurement
from dblocks.measure.request import load_measurements
from dblocks.published import Published, Source
from dblocks.reading import read_yaml, yaml_files
from dblocks.record import Metric, Record
from dblocks.spec import Part

# what another way of writing puts before a metric: the references, which nobody wrote, have none
WAY_OF_WRITING = re.compile(r"^(greedy|iterations_\d+)_")


class Substitute(Part):
    """What fills a column where its own metric could not be measured; the paper's value never stands beside it."""

    metric: str
    label: str = Field(description="Its heading; {dataset} becomes the data set's name.")
    orders: bool = Field(True, description="Whether it can tell which of two rows is better, at the sizes it is for.")


class Column(Part):
    metric: str = Field(description="Metric key in the records.")
    label: str
    unit: str
    better: Literal["higher", "lower"] | None = Field(description="None for what is no score, such as an entropy.")
    decimals: int = Field(2, ge=0)
    statistic: Literal["value", "mean"] = Field(
        "value", description="Of a metric that was evaluated several times: the least of them, or their mean."
    )
    substitute: Substitute | None = None
    optional: bool = Field(False, description="Left out of the table where nothing of it was measured or skipped.")
    references: bool = Field(
        False, description="Of generated text: the same of the references stands beside, metric reference_<metric>."
    )
    weights: str | None = Field(None, description="Published weights it takes; where skipped, its cells say so.")
    source: Literal["record", "measurement"] = Field("record", description="Which of a row's files it is read from.")

    def of(self, record: Record | Measurement) -> Metric | None:
        """The column's metric in a record, else its substitute, else nothing."""
        found = record.metric(self.metric) or (self.substitute and record.metric(self.substitute.metric))
        wants_mean = found is not None and self.statistic == "mean" and found.mean is not None
        return found.model_copy(update={"value": found.mean}) if wants_mean else found

    def of_references(self, record: Record) -> Metric | None:
        """What the references have of the metric, where it is to stand beside; theirs is one text a prompt."""
        found = self.of(record) if self.references else None
        name = found and found.name.removesuffix("_single")
        return found and record.metric(f"reference_{WAY_OF_WRITING.sub('', name)}")

    def skipped_in(self, records: Sequence[Record]) -> str | None:
        """Why records have no such metric, where its weights were skipped."""
        return f"skipped: {self.weights}" if any(self.weights in record.skipped for record in records) else None


class Reading(Part):
    """Where one row fills a column by something else than the column's own metric of the row's run."""

    run: str | None = Field(None, description="<experiment>/<variant>; None: the row's.")
    metric: str | None = Field(None, description="Metric key; None: the column's.")
    label: str | None = Field(None, description="What it is called where the row's facts say {metric}.")
    unit: str | None = Field(None, description="Its unit, in the csv.")
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

    `bars`: one a row, its parts stacked; `beside`: a row's parts beside each other; groups share an axis. `curves`: a
    panel a metric, a line a group, over the number.
    """

    kind: Literal["bars", "beside", "curves"] = "bars"
    parts: list[str] = Field(min_length=1, description="Metrics of the columns that are drawn.")
    label: str = Field(description="Of the axis that is common, unit included.")


class Table(Part):
    """config/tables/<table>.yaml."""

    table: str
    title: str
    caption: str
    paper_dataset: str = Field(description="Data set of the paper's values: they stand only beside results on it.")
    evaluation_split: Literal["validation"] | None = Field(
        None, description="The split that all its runs must be read on, where it is for choosing; None: any."
    )
    in_all: bool = Field(True, description="Whether target `all`, the report and W&B's reports have it.")
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
        if len(metrics) < len(self.columns):
            raise ValueError("two columns have the same metric")
        for row in self.rows:
            published = {metric for there in row.published.values() for metric in there.values}
            for origin, values in (("paper", set(row.paper)), ("published", published), ("read", set(row.reads))):
                if unknown := values - metrics:
                    raise ValueError(f"row '{row.row}': {origin} value for {sorted(unknown)}, which is no column")
            if unknown := set(row.marks) - set(self.marks):
                raise ValueError(f"row '{row.row}': marks {sorted(unknown)} are not in the table's {list(self.marks)}")
            if unknown := set(row.published) - set(self.sources):
                raise ValueError(f"row '{row.row}': published {sorted(unknown)} is none of the table's sources")
            for heading, words in row.facts.items():
                _fits(f"row '{row.row}': facts.{heading}", words, dataset="", metric="")
            for there in (column.substitute for column in (*self.columns, *row.reads.values())):
                _fits(f"row '{row.row}': substitute.label", there.label if there else "", dataset="")
            if not row.runs and row.measurement is None:
                raise ValueError(f"row '{row.row}': needs run or measurement")
        if self.figure and (unknown := set(self.figure.parts) - metrics):
            raise ValueError(f"figure.parts: {sorted(unknown)} is no column")
        if len({row.row for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same name")
        return self


def load_tables(config_dir: Path = CONFIG_DIR) -> dict[str, Table]:
    """Every config/tables/*.yaml by its table's name.

    Raises: UserError naming file and field; also where a row names a run or measurement that does not exist.
    """
    tables = {}
    for path in sorted(yaml_files(config_dir / "tables"), key=lambda path: place(path.stem)):
        table = read_yaml(path, Table)
        if table.table != path.stem:
            raise UserError(f"{path}: table: '{table.table}' should be the file's name '{path.stem}'")
        for row in table.rows:
            for run in row.runs:
                if not has_run(run, config_dir):
                    raise UserError(f"{path}: row '{row.row}': run '{run}' is not in config/runs")
            if row.measurement is not None and row.measurement not in load_measurements(config_dir):
                raise UserError(f"{path}: row '{row.row}': '{row.measurement}' is not in config/measurements.yaml")
        tables[table.table] = table
    if not tables:
        raise UserError(f"{config_dir / 'tables'}: no table in it")
    return tables


def _fits(field: str, words: str, **known: str) -> None:
    """Raises: ValueError if `words` has braces around something else than what is `known`."""
    try:
        words.format(**known)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        braces = " and ".join(f"{{{name}}}" for name in known)
        raise ValueError(f"{field}: '{words}' may have {braces} in it and no other braces") from error


def place(name: str) -> tuple[bool, int, str]:
    """Where a table stands among the others: the headline first, the paper's in their order, then what is ours."""
    number = name.removeprefix("table_")
    of_paper = 0 if name == "headline" else int(number) if number.isdigit() else None
    return of_paper is None, of_paper or 0, name
