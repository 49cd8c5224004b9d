"""A table's cell: what was measured, over all seeds, and how it reads; nothing about a single table lives here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from dblocks.measure.measurement import Measurement
from dblocks.record import Metric
from dblocks.tables import Column

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
    "departures",
)


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
        run: "<experiment>/<variant>" it is read from; None: a measurement.
        departures: what of its runs or its measurement is not as configured, at scale `paper` as in the paper.
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
    run: str | None = None
    departures: tuple[str, ...] = ()

    @property
    def wanted(self) -> Column:
        """What the row reads: its own reading of the column, or the column itself."""
        return self.read or self.column

    @property
    def is_exact(self) -> bool:
        """Whether it is counted, so that one value decides: no seed and no clock moves it."""
        return self.measurement is not None and self.measurement.request.settings.kind != "wall_time"

    @property
    def measured(self) -> str:
        """The metric that is shown: the column's own, or its substitute."""
        return next((metric.name for metric in self.metrics.values()), self.wanted.metric)

    @property
    def comparable(self) -> bool:
        """Whether all that was measured is the paper's metric on the paper's data set."""
        return all((m.name, m.dataset) == (self.wanted.metric, self.paper_dataset) for m in self.metrics.values())

    @property
    def read_on(self) -> set[tuple[str | None, ...]]:
        """What was measured, on what and by what: metric, data set, split, where features come from."""
        return {(m.name, m.dataset, m.split, m.extractor) for m in self.metrics.values()}

    @property
    def samples(self) -> list[int]:
        """On how many samples each seed was read; empty for measurements, whose readings are none."""
        return [m.samples for m in self.metrics.values()] if self.measurement is None else []

    @property
    def whole_budget(self) -> bool:
        """Whether the runs behind it had the paper's budget, no less and no more."""
        return self.budget is None or abs(self.budget - 1) < 0.001

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
            "unit": self.wanted.unit,
            "scale": self.scale,
        }
        more = {mark: "yes" if borne else "no" for mark, borne in self.marks.items()}
        more |= {source: "" if value is None else str(value) for source, value in self.published.items()}
        told = "; ".join(self.departures) if self.metrics else ""
        return {**fixed, **text, "record": ";".join(self.records), "departures": told, **more}

    def text(self) -> str:
        """How the cell reads in a table: mean ± sd (n), or why it is empty."""
        if self.mean is None:
            return self.missing or "–"
        decimals = self.wanted.decimals
        if self.measurement is not None:
            spread = self.metrics[0].spread
            return f"{self.mean:,.{decimals}f}" + (
                f" [{spread[0]:,.{decimals}f}, {spread[1]:,.{decimals}f}]" if spread else ""
            )
        spread = "" if self.sd is None else f" ± {self.sd:,.{decimals}f}"
        lost = len(self.metrics) < len(self.records)  # a seed without the number must not go unnoticed
        more = [f"n = {len(self.metrics)}" + (f" of {len(self.records)}" if lost else "")]
        if self.references:
            more.append(f"references {statistics.fmean(self.references):,.{decimals}f}")
        if self.idle:
            more.append(f"block{'s' * (len(self.idle) > 1)} {', '.join(map(str, self.idle))} never ran")
        return f"{self.mean:,.{decimals}f}{spread} ({'; '.join(more)})"


def percentage(budget: float | None) -> str:
    """A budget as a percentage of the paper's with two significant digits."""
    if budget is None:
        return "–"
    share = 100 * budget
    return f"{share:.0f} %" if share >= 10 else f"{share:.{1 - math.floor(math.log10(share))}f} %"
