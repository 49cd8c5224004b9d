"""Columns with a substitute, several data sets in a table, train and test columns."""

from __future__ import annotations

import pytest

from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.filled_cells import table_cells
from dblocks.record import Metric, Record
from dblocks.report.provenance import provenance
from dblocks.report.table_files import grid
from dblocks.tables import load_tables
from tests.workflow.helpers import record_of

WHOLE = load_tables()["table_2"]
TABLE = WHOLE.model_copy(update={"rows": type(WHOLE.rows)(row for row in WHOLE.rows if row.paper)})
RUNS = [row.run for row in TABLE.rows]


def record(run: str, scale: str = "paper", seed: int = 0, kind: str = "", data: str | None = None) -> Record:
    """A record with FID against train and test."""
    spec = resolve(run, scale, seed, {"data": {"name": data}} if data else None)

    def metric(name: str, split: str, value: float) -> Metric:
        return Metric(
            name=f"{name}{kind}_{split}", value=value, unit="", dataset=spec.data.name, split=split, samples=500,
            values=(value, value + 1), mean=value + 0.5, extractor=f"features{kind}", reference=100,
        )  # fmt: skip

    metrics = [metric("fid", "train", 30.0 + seed), metric("fid", "test", 40.0 + seed), metric("kid", "test", 0.01)]
    return record_of(spec, {"x": 1.0}).model_copy(update={"metrics": metrics})


def cells_of(records: dict[str, Record]):
    found = {run: [(f"{run}.json", made)] for run, made in records.items()}
    return table_cells(TABLE, "paper", found, {})


def cell(cells, run: str, metric: str):
    (row,) = [row.row for row in TABLE.rows if row.run == run]
    return next(c for c in cells if c.row == row and c.column.metric == metric)


def test_each_rows_paper_values_stand_beside_its_own_data_set():
    cells = cells_of({run: record(run) for run in RUNS})
    assert [c.paper for c in cells if c.column.metric == "fid_train"] == [32.84, 30.59, 9.01, 9.00]
    assert [c.paper for c in cells if c.column.metric == "fid_test"] == [39.83, 37.20, 12.09, 10.63]
    assert all(c.comparable for c in cells)
    other = cells_of({RUNS[0]: record(RUNS[0], data="cifar100"), RUNS[2]: record(RUNS[2], data="cifar10")})
    assert {c.paper for c in other if c.metrics} == {None}


@pytest.mark.parametrize("scale", ["paper", "smoke"])
def test_a_run_that_is_not_there_keeps_the_papers_value_where_its_data_would_be_the_papers(scale):
    missing = {RUNS[2]: "skipped: imagenet256"}
    found = {RUNS[0]: [("one.json", record(RUNS[0], scale))]}
    cells = [c for c in table_cells(TABLE, scale, found, missing) if c.column.metric == "fid_test"]
    assert [c.paper for c in cells] == ([39.83, 37.20, 12.09, 10.63] if scale == "paper" else [None] * 4)
    assert not cells[1].metrics and cells[2].text() == "skipped: imagenet256"


def test_train_and_test_are_columns_of_their_own():
    cells = cells_of({RUNS[0]: record(RUNS[0])})
    assert cell(cells, RUNS[0], "fid_train").mean == 30
    assert cell(cells, RUNS[0], "fid_test").mean == 40
    assert cell(cells, RUNS[0], "seconds_per_image").mean is None


def test_a_substitute_never_stands_beside_the_papers_value():
    cells = cells_of({RUNS[0]: record(RUNS[0], kind="_classifier"), RUNS[2]: record(RUNS[2])})
    own = cell(cells, RUNS[0], "fid_test")
    assert (own.mean, own.paper, own.measured) == (40, None, "fid_classifier_test")
    assert own.label == "FID test (cifar10 classifier)"
    assert not own.comparable and own.csv()["metric"] == "fid_classifier_test" and own.csv()["paper"] == ""
    assert cell(cells, RUNS[2], "fid_test").paper == 12.09
    header, first, _, third, _ = grid(TABLE, cells)
    place = header.index("FID test ↓, paper")
    assert header[place + 1] == "FID test (cifar10 classifier) / FID test ↓"
    assert (first[place], third[place]) == ("–", "12.09")


def test_the_caption_says_what_the_features_are_and_which_evaluation_counts():
    text = provenance(cells_of({RUNS[0]: record(RUNS[0], kind="_classifier")}), "smoke")
    assert "Least of 2 evaluations a seed (KID test: their mean); features of: features_classifier." in text
    assert "Measured with" not in text
    smoke = provenance(cells_of({run: record(run, "smoke") for run in RUNS}), "smoke")
    assert "The paper's values are for cifar10 and imagenet256 and do not stand beside these" in smoke
    assert "digits, test split, 500 samples" in smoke and "digits16, train split" in smoke


def test_a_metric_and_its_substitute_do_not_mix_in_one_row():
    records = [("a", record(RUNS[0])), ("b", record(RUNS[0], seed=1, kind="_classifier"))]
    with pytest.raises(UserError, match="substitute"):
        table_cells(TABLE, "paper", {RUNS[0]: records}, {})


@pytest.mark.parametrize(
    ("run", "overrides", "said"),
    [
        ("dit_cifar10/end_to_end", {"network": {"name": "vit"}}, "network.name: 'vit'"),
        ("vit/end_to_end", {"network": {"name": "dit"}}, "network.name: 'dit'"),
        ("dit_cifar10/end_to_end", {"method": {"name": "end_to_end"}}, "method.name: 'end_to_end'"),
        ("vit/diffusion_blocks", {"method": {"noise": {"sigma_data": "data_rms"}}}, "data_rms"),
        ("dit_cifar10/end_to_end", {"generation": {"extractor": "classifier", "classifier": None}}, "classifier"),
        ("dit_cifar10/end_to_end", {"generation": {"extractor": "classifier", "classifier": "vit/no"}}, "vit/no"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(run, overrides, said):
    with pytest.raises(UserError, match=said) as error:
        resolve(run, "paper", 0, overrides)
    assert "\n" not in str(error.value)


def test_generation_on_the_command_line_reaches_images_alone():
    over = {"generation": {"samples": 7}}
    assert resolve("vit/end_to_end", "smoke", 0, over) == resolve("vit/end_to_end", "smoke")
    assert resolve("dit_cifar10/end_to_end", "smoke", 0, over).generation.samples == 7
