"""The depth curve's table and figure: each row reads its own iterations' metrics, the figure draws them."""

from __future__ import annotations

from dblocks.config import resolve
from dblocks.filled_cells import table_cells
from dblocks.report.page_figures import table_figure
from dblocks.tables import load_tables
from tests.workflow.helpers import record_of

TABLE = load_tables()["depth"]
ITERATIONS = (1, 2, 4, 8, 16, 32)


def records(**more: float):
    """Records of both runs; PPL under the small teacher is 100 + iterations."""
    values = {f"iterations_{k}_ppl_teacher": 100.0 + k for k in ITERATIONS[:-1]} | {"ppl_teacher": 132.0} | more
    runs = ("huginn/recurrent_depth", "huginn/diffusion_blocks")
    return {run: [("path", record_of(resolve(run, "smoke"), values))] for run in runs}


def test_each_row_reads_its_own_iterations_and_their_substitutes():
    cells = table_cells(TABLE, "smoke", records(), {})
    found = {cell.row: cell for cell in cells if cell.column.metric == "ppl_gpt2_xl"}
    for name in ("Huginn", "Huginn + DiffusionBlocks"):
        for k in ITERATIONS:
            assert found[f"{name}: {k}"].mean == 100 + k
            assert found[f"{name}: {k}"].label == "PPL (small teacher)"
    assert all(cell.mean is None for cell in cells if cell.column.metric == "mauve")


def test_rows_are_the_curve_that_is_configured():
    network = resolve("huginn/recurrent_depth", "paper").network
    assert (*network.depth_curve, network.iterations) == ITERATIONS
    assert [row.row for row in TABLE.rows[:6]] == [f"Huginn: {k}" for k in ITERATIONS]


def test_the_figure_has_a_panel_a_metric_and_a_line_a_network():
    cells = table_cells(TABLE, "smoke", records(ce=4.0), {})
    text = table_figure(TABLE, cells)
    assert text.count('<g id="axes_') == len(TABLE.figure.parts)
    assert "Huginn + DiffusionBlocks" in text and text == table_figure(TABLE, cells)
    assert ">nothing measured<" in table_figure(TABLE, table_cells(TABLE, "smoke", {}, {}))
