"""Claims as inequalities between cells, judged by one rule, whatever came out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from dblocks.cells import Cell, percentage
from dblocks.config import CONFIG_DIR
from dblocks.errors import UserError
from dblocks.reading import read_yaml
from dblocks.spec import Part
from dblocks.tables import Table

LEAST_SEEDS = 3
NOT_JUDGED = "not judged"
SAME_SAMPLES = 1.01  # a few texts without a token have no perplexity


class Comparison(Part):
    left: str = Field(description="Row whose value is compared …")
    right: str | None = Field(None, description="… with this row's; None: with nothing, it is bounded itself.")

    @property
    def rows(self) -> list[str]:
        """The rows that are compared."""
        return [self.left] if self.right is None else [self.left, self.right]


class Claim(Part):
    """left − right ≥ at_least (or ≤ at_most) for every comparison, over seeds."""

    claim: str
    table: str
    statement: str
    metric: str
    comparisons: list[Comparison] = Field(min_length=1)
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self):
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"claim '{self.claim}': give one of at_least and at_most")
        return self


class Claims(Part):
    claims: list[Claim]


class TablePlan(Part):
    """results/<scale>/plans/<table>.json: all that one table is built of, its definition included."""

    scale: str
    table: Table
    claims: list[Claim]
    records: dict[str, list[str]] = Field(description="Paths of the records by row's run.")
    missing: dict[str, str] = Field(description="Why a row has none, by its run.")
    measurements: dict[str, str] = Field({}, description="Paths of the measurements that rows read, by name.")


@dataclass(frozen=True)
class Verdict:
    """What became of a claim: `holds`, `fails`, `undecided` or `not judged`, with the interval behind it.

    Attributes:
        trend: whether it only hints at the paper's claim, for its scale, budget, data set or metric is another.
        detail: mean difference and interval of each comparison, in words.
        why: why it is not judged, if it is not.
    """

    claim: Claim
    outcome: str
    n: int
    trend: bool
    detail: str
    why: str = ""

    def text(self) -> str:
        """How the verdict reads in a report."""
        if self.outcome == NOT_JUDGED:
            return f"{NOT_JUDGED}: {self.why}"
        n = f"n = {self.n}" if self.n else "not all of it is measured"
        outcome = f"undecided ({n})" if self.outcome == "undecided" else self.outcome
        return f"{'trend: ' if self.trend else ''}{outcome}"


def load_claims(tables: Mapping[str, Table], config_dir: Path = CONFIG_DIR) -> list[Claim]:
    """config/claims.yaml.

    Raises: UserError naming a claim whose table, row or metric does not exist.
    """
    path = config_dir / "claims.yaml"
    claims = read_yaml(path, Claims).claims
    names = [claim.claim for claim in claims]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: claim '{twice[0]}': stands twice")
    for claim in claims:
        if claim.table not in tables:
            raise UserError(f"{path}: claim '{claim.claim}': no table '{claim.table}'")
        rows = {row.row for row in tables[claim.table].rows}
        for comparison in claim.comparisons:
            for row in comparison.rows:
                if row not in rows:
                    raise UserError(f"{path}: claim '{claim.claim}': no row '{row}' in {claim.table}")
        if claim.metric not in {column.metric for column in tables[claim.table].columns}:
            raise UserError(f"{path}: claim '{claim.claim}': no metric '{claim.metric}' in {claim.table}")
    return claims


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; the whole line below two values."""
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def judge_interval(interval: tuple[float, float], claim: Claim, n: int) -> str:
    """holds, fails or undecided, for one comparison."""
    low, high = interval
    if n < LEAST_SEEDS:
        return "undecided"
    if claim.at_least is not None:
        return "holds" if low >= claim.at_least else "fails" if high < claim.at_least else "undecided"
    return "holds" if high <= claim.at_most else "fails" if low > claim.at_most else "undecided"


def judge(claim: Claim, cells: Sequence[Cell], trend: bool) -> Verdict:
    """The verdict on a claim: it holds if all comparisons hold, fails if one fails; or why it is not judged."""
    by_row = {cell.row: cell for cell in cells if cell.column.metric == claim.metric}
    outcomes, details, counts = [], [], []
    for comparison in claim.comparisons:
        left, right = by_row[comparison.left], comparison.right and by_row[comparison.right]
        seeds = sorted(set(left.metrics) & set(right.metrics if right else left.metrics))
        differences = [left.metrics[k].value - (right.metrics[k].value if right else 0) for k in seeds]
        if seeds and left.is_exact and (right is None or right.is_exact):
            interval, enough = (differences[0], differences[0]), LEAST_SEEDS
        else:
            interval, enough = mean_interval(differences), len(seeds)
        outcomes.append(judge_interval(interval, claim, enough))
        counts.append(len(seeds))
        details.append(describe(comparison, differences, interval, left) + unequal_budgets(left, right))
    outcome = "fails" if "fails" in outcomes else "undecided" if "undecided" in outcomes else "holds"
    why = not_to_be_judged(claim, by_row) if any(counts) else "not measured"
    return Verdict(claim, NOT_JUDGED if why else outcome, min(counts), trend, "; ".join(details), why)


def not_to_be_judged(claim: Claim, by_row: Mapping[str, Cell]) -> str:
    """Why the cells that a claim compares decide nothing about it, whatever they hold; empty where they do."""
    for comparison in claim.comparisons:
        cells = [by_row[row] for row in comparison.rows]
        substitutes = [cell.wanted.substitute for cell in cells if cell.measured != cell.wanted.metric]
        # which of two is better a substitute may tell, by how much in the metric's unit it cannot
        if substitutes and (claim.at_least or claim.at_most):
            return "its bound is in another metric"
        if not all(substitute.orders for substitute in substitutes):
            return "measured by what cannot tell which is better"
        if len({read for cell in cells for read in cell.read_on}) > 1:
            return "its rows were measured in different ways"
        counts = [count for cell in cells for count in cell.samples]
        # FID falls with their number, and no seed tells what fewer test images leave to chance
        if counts and max(counts) > SAME_SAMPLES * min(counts):
            return f"its rows were read on {max(counts):,} and {min(counts):,} samples"
    return ""


def unequal_budgets(left: Cell, right: Cell | None) -> str:
    """A word of warning where one side was trained for another share of the paper's budget."""
    if right is None or None in (left.budget, right.budget) or math.isclose(left.budget, right.budget, rel_tol=0.01):
        return ""
    return f" ({percentage(left.budget)} and {percentage(right.budget)} of their budgets in the paper)"


def describe(comparison: Comparison, differences: Sequence[float], interval: tuple[float, float], left: Cell) -> str:
    """One comparison in words, to one decimal more than the cell of its left row has."""
    subject = f"({comparison.left}) − ({comparison.right})" if comparison.right else comparison.left
    if not differences:
        return f"{subject}: not measured"
    equals = " =" if comparison.right else ":"
    decimals, unit = left.wanted.decimals + 1, left.wanted.unit
    unit = {"": "", "%": " points" if comparison.right else " %"}.get(unit, f" {unit}")
    bounds = f", 95 % interval [{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]" if len(differences) > 1 else ""
    return f"{subject}{equals} {statistics.fmean(differences):.{decimals}f}{unit}{bounds}"
