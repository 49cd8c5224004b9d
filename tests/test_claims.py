"""Claims: the interval is Student's, the verdict follows it, and the shipped ones are about cells that exist."""

from __future__ import annotations

import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from dblocks.cells import Cell
from dblocks.claims import Claim, Comparison, judge, load_claims, mean_interval
from dblocks.config import CONFIG_DIR
from dblocks.errors import UserError
from dblocks.measure.measurement import Measurement, read_measurement
from dblocks.record import Metric
from dblocks.report.build_tables import is_trend
from dblocks.report.readme import REFERENCE
from dblocks.tables import Column, Substitute, load_tables
from tests.workflow.helpers import build_of, edit, make_record

TABLES = load_tables()
CLAIMS = load_claims(TABLES)
COLUMN = Column(metric="accuracy", label="Accuracy", unit="%", better="higher")

# rounded, so that differences are either equal or clearly apart
values = st.floats(-100, 100).map(lambda x: round(x, 3))
samples = st.lists(values, min_size=3, max_size=8)


def cell(row: str, accuracies: dict[int, float]) -> Cell:
    def metric(value: float) -> Metric:
        return Metric(name="accuracy", value=value, unit="%", dataset="digits", split="test", samples=360)

    seeds = {seed: metric(value) for seed, value in accuracies.items()}
    return Cell("table", row, COLUMN, None, seeds, "smoke", None, ())


def claim(comparisons: list[tuple[str, str]], **bound: float) -> Claim:
    pairs = [Comparison(left=left, right=right) for left, right in comparisons]
    return Claim(claim="c", table="table", statement="s", metric="accuracy", comparisons=pairs, **bound)


def verdict(differences: list[float], **bound: float) -> str:
    """The outcome of left − right with these differences, seed by seed."""
    left, right = dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)
    return judge(claim([("left", "right")], **bound), [cell("left", left), cell("right", right)], False).outcome


@given(samples)
def test_the_interval_is_students(differences):
    assume(statistics.stdev(differences) > 0)
    n = len(differences)
    expected = stats.t.interval(0.95, n - 1, loc=statistics.fmean(differences), scale=stats.sem(differences))
    assert mean_interval(differences) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(samples, values)
def test_a_bound_outside_the_interval_is_what_the_t_test_rejects(differences, bound):
    assume(statistics.stdev(differences) > 0.01)
    p = stats.ttest_1samp(differences, bound).pvalue
    assume(abs(p - 0.05) > 1e-6)
    low, high = mean_interval(differences)
    assert (low <= bound <= high) == (p > 0.05)


@pytest.mark.parametrize("differences", [[], [5.0]])
def test_below_two_seeds_the_interval_is_the_whole_line(differences):
    assert mean_interval(differences) == (-math.inf, math.inf)


@given(samples, values)
def test_holds_or_fails_only_where_the_interval_lies_on_one_side(differences, bound):
    low, high = mean_interval(differences)
    assert verdict(differences, at_least=bound) == (
        "holds" if low >= bound else "fails" if high < bound else "undecided"
    )


@given(samples, values)
def test_at_most_is_at_least_with_the_sides_exchanged(differences, bound):
    assert verdict(differences, at_most=bound) == verdict([-d for d in differences], at_least=-bound) or (
        # on the bound itself both directions hold
        bound in mean_interval(differences)
    )


@given(samples, values, st.floats(0, 50))
def test_a_stricter_bound_is_never_easier(differences, bound, more):
    order = {"holds": 2, "undecided": 1, "fails": 0}
    assert order[verdict(differences, at_least=bound + more)] <= order[verdict(differences, at_least=bound)]


@given(st.lists(values, max_size=2), values)
def test_below_three_seeds_nothing_is_decided(differences, bound):
    outcome = "undecided" if differences else "not judged"
    assert verdict(differences, at_least=bound) == verdict(differences, at_most=bound) == outcome


def measured(name: str) -> Measurement:
    """A committed measurement."""
    (path,) = (REFERENCE / "smoke" / "measurements").glob(f"{name}-*/measurement.json")
    return read_measurement(path)


@pytest.mark.parametrize("counted", ["left", "right"])
def test_what_was_counted_does_not_decide_about_a_single_seed(counted):
    """A counted value is exact; the other side has one seed, and noise."""
    made = measured("memory_vit")
    cells = [cell("left", {0: 9.0}), cell("right", {0: 1.0})]
    cells = [replace(c, measurement=made) if c.row == counted else c for c in cells]
    assert [c.is_exact for c in cells] == [c.row == counted for c in cells]
    result = judge(claim([("left", "right")], at_least=1), cells, False)
    assert result.outcome == "undecided"
    alone = judge(claim([("left", None)], at_least=1), cells, False)
    assert alone.outcome == ("holds" if counted == "left" else "undecided")


def test_a_time_is_no_count():
    times, memory = measured("time_vit"), measured("memory_vit")
    assert not replace(cell("row", {0: 1.0}), measurement=times).is_exact
    assert replace(cell("row", {0: 1.0}), measurement=memory).is_exact


def test_the_n_of_a_verdict_is_the_least_of_its_comparisons():
    cells = [cell("a", {0: 1.0, 1: 2.0}), cell("b", {0: 0.0, 1: 1.0, 2: 2.0}), cell("c", {0: 5.0, 1: 6.0, 2: 7.0})]
    result = judge(claim([("c", "b"), ("a", "b")], at_least=1), cells, False)
    assert result.text() == "undecided (n = 2)"


def test_only_seeds_that_both_rows_have_are_paired():
    left, right = cell("left", {0: 1.0, 1: 2.0, 2: 3.0, 7: 1000.0}), cell("right", {0: 0.0, 1: 1.0, 2: 2.0, 9: -1000.0})
    result = judge(claim([("left", "right")], at_least=0.5), [left, right], False)
    assert (result.outcome, result.n) == ("holds", 3)
    assert "= 1.00" in result.detail


def test_all_comparisons_must_hold_and_one_that_fails_decides():
    level = {0: 0.0, 1: 0.01, 2: -0.01}
    cells = [cell(row, {k: v + shift for k, v in level.items()}) for row, shift in (("low", 0), ("mid", 5), ("top", 9))]
    cells.append(cell("few", {0: 100.0}))

    def of(*pairs: tuple[str, str]) -> str:
        return judge(claim(list(pairs), at_least=1), cells, False).outcome

    assert of(("top", "mid"), ("mid", "low")) == "holds"
    assert of(("top", "mid"), ("low", "mid")) == "fails"
    assert of(("top", "mid"), ("few", "mid")) == "undecided"
    assert of(("low", "mid"), ("few", "mid")) == "fails"


def test_a_row_that_was_not_measured_leaves_a_claim_undecided():
    result = judge(claim([("left", "right")], at_least=1), [cell("left", {}), cell("right", {0: 1.0})], False)
    assert (result.text(), result.detail) == ("not judged: not measured", "(left) − (right): not measured")


def test_a_comparison_that_is_missing_hides_none_that_fails():
    cells = [cell("low", {0: 0.0, 1: 0.1, 2: 0.2}), cell("top", {0: 9.0, 1: 9.1, 2: 9.2}), cell("none", {})]

    def text(*pairs: tuple[str, str]) -> str:
        return judge(claim(list(pairs), at_least=1), cells, False).text()

    assert text(("top", "none"), ("low", "top")) == "fails"
    assert text(("top", "none"), ("top", "low")) == "undecided (not all of it is measured)"
    assert text(("top", "none"), ("low", "none")) == "not judged: not measured"


@pytest.mark.parametrize(("unit", "said"), [("%", "1.000 points"), ("nats", "1.000 nats"), ("", "1.000")])
def test_a_difference_has_its_unit_and_its_sides_are_told_apart(unit, said):
    column = COLUMN.model_copy(update={"unit": unit})
    rows = ("a − b + c", "d")
    cells = [replace(cell(row, dict.fromkeys(range(3), float(2 - i))), column=column) for i, row in enumerate(rows)]
    detail = judge(claim([rows], at_least=0), cells, False).detail
    assert detail == f"(a − b + c) − (d) = {said}, 95 % interval [1.000, 1.000]"


def test_a_substitute_tells_which_is_better_and_no_more():
    easier = Substitute(metric="easier", label="Easier accuracy")
    column = COLUMN.model_copy(update={"substitute": easier})

    def of(name: str, row: str, shift: float) -> Cell:
        made = cell(row, {k: shift + 0.01 * k for k in range(3)})
        metrics = {k: m.model_copy(update={"name": name}) for k, m in made.metrics.items()}
        return replace(made, column=column, metrics=metrics)

    def text(left: str, right: str, bound: float) -> str:
        pair = [of(left, "left", 9.0), of(right, "right", 1.0)]
        return judge(claim([("left", "right")], at_least=bound), pair, True).text()

    assert text("easier", "easier", 0) == "trend: holds"
    assert text("easier", "easier", 1) == "not judged: its bound is in another metric"
    for names in (("accuracy", "easier"), ("easier", "accuracy")):
        assert text(*names, 0) == "not judged: its rows were measured in different ways"
    assert text("accuracy", "accuracy", 1) == "trend: holds"
    column = COLUMN.model_copy(update={"substitute": easier.model_copy(update={"orders": False})})
    assert text("easier", "easier", 0) == "not judged: measured by what cannot tell which is better"
    assert text("accuracy", "accuracy", 0) == "trend: holds"


@pytest.mark.parametrize("part", ["dataset", "split", "extractor"])
def test_rows_that_were_measured_in_different_ways_are_not_judged(part):
    left, right = cell("left", {0: 9.0, 1: 9.1, 2: 9.2}), cell("right", {0: 1.0, 1: 1.1, 2: 1.2})
    changed = {k: m.model_copy(update={part: "another"}) for k, m in right.metrics.items()}
    one = {**right.metrics, 2: changed[2]}
    for metrics in (changed, one):
        result = judge(claim([("left", "right")], at_least=0), [left, replace(right, metrics=metrics)], False)
        assert result.text() == "not judged: its rows were measured in different ways"
    both = [replace(left, metrics={k: m.model_copy(update={part: "another"}) for k, m in left.metrics.items()})]
    assert (
        judge(claim([("left", "right")], at_least=0), [*both, replace(right, metrics=changed)], False).text() == "holds"
    )


@pytest.mark.parametrize(
    ("counts", "text"), [(1000, "not judged: its rows were read on 1,000 and 100 samples"), (101, "holds")]
)
def test_rows_that_were_read_on_other_numbers_of_samples_are_not_judged(counts, text):
    left, right = cell("left", {0: 9.0, 1: 9.1, 2: 9.2}), cell("right", {0: 1.0, 1: 1.1, 2: 1.2})
    left = replace(left, metrics={k: m.model_copy(update={"samples": 100}) for k, m in left.metrics.items()})
    metrics = {k: m.model_copy(update={"samples": counts if k == 1 else 100}) for k, m in right.metrics.items()}
    assert judge(claim([("left", "right")], at_least=0), [left, replace(right, metrics=metrics)], False).text() == text


def test_unequal_budgets_stand_beside_the_difference():
    left, right = cell("left", {0: 9.0, 1: 9.1, 2: 9.2}), cell("right", {0: 1.0, 1: 1.1, 2: 1.2})

    def detail(one: float | None, other: float | None) -> str:
        pair = [replace(left, budget=one), replace(right, budget=other)]
        return judge(claim([("left", "right")], at_least=0), pair, True).detail

    assert "(1.4 % and 4.0 % of their budgets in the paper)" in detail(0.014, 0.04)
    assert "budgets" not in detail(0.04, 0.04) + detail(None, 0.04) + detail(0.0400001, 0.04)


@pytest.mark.parametrize(("budget", "whole"), [(None, True), (1.0, True), (0.9995, True), (0.5, False), (10.0, False)])
def test_more_than_the_papers_budget_is_not_the_papers(budget, whole):
    assert replace(cell("row", {0: 1.0}), budget=budget).whole_budget == whole


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_claim_has_exactly_one_bound(bounds):
    with pytest.raises(ValueError, match="at_least and at_most"):
        claim([("left", "right")], **bounds)


# --- the shipped claims


# those without a right side are of what is counted: tests/measure/test_measurement.py
OF_SEEDS = [claim for claim in CLAIMS if all(comparison.right for comparison in claim.comparisons)]


@pytest.mark.parametrize("shipped", OF_SEEDS, ids=lambda c: c.claim)
def test_moving_the_tolerance_of_a_shipped_claim_flips_its_verdict(shipped):
    side = "at_least" if shipped.at_least is not None else "at_most"
    bound, sign = getattr(shipped, side), 1 if side == "at_least" else -1
    rows: dict[str, float] = {}
    for comparison in shipped.comparisons:
        if comparison.left in rows and comparison.right not in rows:
            rows[comparison.right] = rows[comparison.left] - (bound + sign)
        else:
            rows.setdefault(comparison.right, 0.0)
            rows[comparison.left] = rows[comparison.right] + bound + sign
    noise = {0: 0.0, 1: 0.1, 2: -0.1}
    cells = [
        cell(row, {k: mean + i * jitter for k, jitter in noise.items()}) for i, (row, mean) in enumerate(rows.items())
    ]
    own = shipped.model_copy(update={"metric": cells[0].column.metric})

    def outcome(shift: float) -> str:
        return judge(own.model_copy(update={side: bound + sign * shift}), cells, False).outcome

    assert [outcome(shift) for shift in (0.0, 1.0, 2.0)] == ["holds", "undecided", "fails"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("left: ViT + Forward-Forward", "left: ViT + Backward-Backward", "no row 'ViT + Backward-Backward'"),
        ("right: ViT + Forward-Forward", "right: Vit", "no row 'Vit'"),
        ("at_least: 20", "at_lest: 20", "at_lest"),
        ("at_most: -40", "", "at_least and at_most"),
        ("claim: vit_db_beats_forward_forward", "claim: vit_db_matches_end_to_end", "stands twice"),
        ("table: table_11", "table: table_13", "no table 'table_13'"),
        ("distribution.\n    metric: fid_test", "distribution.\n    metric: fid", "no metric 'fid' in table_7"),
    ],
)
def test_a_claim_about_nothing_is_refused(tmp_path, old, new, said):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    edit(config / "claims.yaml", old, new)
    with pytest.raises(UserError, match=r"claims\.yaml") as error:
        load_claims(load_tables(config), config)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("scale", "label"), [("paper", "holds"), ("smoke", "trend: holds"), ("short", "trend: holds")])
def test_a_verdict_elsewhere_than_at_the_papers_scale_is_a_trend(tmp_path, scale, label):
    records = [
        make_record(run, scale, seed, accuracy=60.0 + shift + 0.1 * seed)
        for run, shift in (("vit/end_to_end", 0), ("vit/diffusion_blocks", 1))
        for seed in range(3)
    ]
    text = (build_of(tmp_path, records, scale) / "table_1.md").read_text()
    assert f"| ViT trained by DiffusionBlocks is within 1.5 points of end-to-end training. | {label} |" in text
    assert "not measured" in text


def test_a_budget_cut_short_makes_a_verdict_a_trend(tmp_path):
    cut = {"training": {"epochs": 21}}
    records = [
        make_record(run, "paper", seed, cut, accuracy=60.0 + seed)
        for run in ("vit/end_to_end", "vit/diffusion_blocks")
        for seed in range(3)
    ]
    assert "| trend: holds |" in (build_of(tmp_path, records, "paper") / "table_1.md").read_text()


def test_another_data_set_makes_a_verdict_a_trend_also_at_the_papers_scale(tmp_path):
    data = {"data": {"name": "cifar10"}}
    records = [
        make_record(run, "paper", seed, data, accuracy=60.0 + seed)
        for run in ("vit/end_to_end", "vit/diffusion_blocks")
        for seed in range(3)
    ]
    assert "| trend: holds |" in (build_of(tmp_path, records, "paper") / "table_1.md").read_text()


def papers(row: str, **changes: object) -> Cell:
    """A cell whose every circumstance is the paper's, but for the changes."""
    circumstances = {"scale": "paper", "paper_dataset": "digits", "budget": 1.0, "departures": ()}
    return replace(cell(row, {0: 60.0, 1: 61.0}), **(circumstances | changes))


OTHERWISE = [
    {"scale": "short"},
    {"paper_dataset": "cifar100"},
    {"read": COLUMN.model_copy(update={"metric": "top_5_accuracy"})},
    {"budget": 0.998},
    {"departures": ("training.batch_size 64 (paper: 128)",)},
]


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("change", OTHERWISE, ids=lambda change: next(iter(change)))
def test_any_one_thing_that_is_not_the_papers_on_either_side_makes_a_trend(change, side):
    cells = [papers(row, **(change if side in (row, "both") else {})) for row in ("left", "right")]
    assert is_trend(claim([("left", "right")], at_least=0), cells)


def test_where_all_is_the_papers_there_is_no_trend_whatever_stands_beside():
    cells = [papers("left"), papers("right"), *(papers("beside", **change) for change in OTHERWISE)]
    other = COLUMN.model_copy(update={"metric": "sigma_max_accuracy"})
    cells += [papers("left", column=other, **change) for change in OTHERWISE if "read" not in change]
    assert not is_trend(claim([("left", "right")], at_least=0), cells)
    assert not is_trend(claim([("left", None)], at_least=0), cells)
    assert is_trend(claim([("left", "right"), ("right", "beside")], at_least=0), cells)


def test_what_is_measured_without_training_has_its_budget_whole():
    cells = [papers("left", budget=None), papers("right", budget=0.9999)]
    assert not is_trend(claim([("left", "right")], at_least=0), cells)


def test_a_single_seed_on_another_data_set_makes_a_trend():
    one, other = papers("left"), papers("right")
    metrics = dict(other.metrics)
    metrics[1] = metrics[1].model_copy(update={"dataset": "cifar100"})
    assert is_trend(claim([("left", "right")], at_least=0), [one, replace(other, metrics=metrics)])


def test_the_budget_alone_makes_a_trend_of_records_too(tmp_path):
    # the schedule's shape is kept, so that no setting departs
    cut = {"training": {"epochs": 250, "warmup_epochs": 5}}
    records = [
        make_record(run, "paper", seed, cut, accuracy=60.0 + seed)
        for run in ("vit/end_to_end", "vit/diffusion_blocks")
        for seed in range(3)
    ]
    text = (build_of(tmp_path, records, "paper") / "table_1.md").read_text()
    assert "| trend: holds |" in text and "is not set as in the paper" not in text and "50 %" in text
