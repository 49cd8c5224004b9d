"""The report's drawings say what the numbers say."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dblocks.filled_cells import table_cells
from dblocks.report.page_figures import dot_plot, learning_curves, noise_partition
from dblocks.tables import load_tables
from tests.workflow.helpers import make_record

TABLE = load_tables()["table_1"]


def cells_of(*accuracies: float):
    records = [("", make_record(seed=seed, accuracy=value)) for seed, value in enumerate(accuracies)]
    cells = table_cells(TABLE, "smoke", {"vit/end_to_end": records}, {})
    return [cell for cell in cells if cell.column == TABLE.columns[0]]


def test_shares_of_the_blocks_are_those_of_the_paper_and_of_the_normal_law():
    drawn = noise_partition()
    assert drawn.count(": 33 %") == 3
    assert [int(x) for x in re.findall(r"block \d: (\d+) %", drawn)][3:] == [4, 85, 11]


def test_the_same_drawing_is_the_same_file():
    assert noise_partition() == noise_partition()


def test_rows_without_a_number_are_not_drawn():
    assert dot_plot(TABLE.columns[0], cells_of()) is None
    drawn = dot_plot(TABLE.columns[0], cells_of(90.0, 92.0))
    assert ">ViT<" in drawn and "Forward-Forward" not in drawn


@pytest.mark.parametrize("paper", [None, 60.25])
def test_the_paper_is_drawn_only_where_it_may_stand_beside(paper):
    cells = [replace(cell, paper=paper) if cell.metrics else cell for cell in cells_of(90.0)]
    assert (">paper<" in dot_plot(TABLE.columns[0], cells)) == (paper is not None)


def test_each_block_has_a_curve_and_a_name():
    lines = [{"step": k, "loss": {"1": 2.0 / k, "2": 1.0 / k}} for k in (1, 2, 3)]
    drawn = learning_curves({0: lines, 1: lines})
    assert drawn.count(">block 1<") == drawn.count(">block 2<") == 1
    assert "whole network" in learning_curves({0: [{"step": 1, "loss": {"all": 0.5}}]})
    assert learning_curves({0: []}) is None
