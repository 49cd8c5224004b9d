"""Tables of generated text: references beside, blocks that never ran named, columns that nothing fills left out."""

import pytest

from dblocks.filled_cells import table_cells
from dblocks.report.table_files import grid
from dblocks.tables import load_tables
from tests.workflow.helpers import make_record

TABLES = load_tables()


def cells_of(table: str, records: dict, missing: dict | None = None, scale: str = "smoke"):
    found = {run: [(f"{run}.json", record)] for run, record in records.items()}
    return table_cells(TABLES[table], scale, found, missing or {})


def cell(cells, row: str, metric: str):
    return next(cell for cell in cells if (cell.row, cell.column.metric) == (row, metric))


@pytest.mark.parametrize(
    ("evaluations", "said"),
    [
        ([1, 1, 2], "3.500 (n = 1)"),
        ([2, 0, 2], "3.500 (n = 1; block 2 never ran)"),
        ([4, 0, 0], "3.500 (n = 1; blocks 2, 3 never ran)"),
        (None, "3.500 (n = 1)"),
    ],
)
def test_a_cell_names_the_blocks_that_never_ran(evaluations, said):
    record = make_record("ar_lm1b/blocks_3", sigma_max_ce=3.5).model_copy(update={"evaluations_per_block": evaluations})
    found = cell(cells_of("table_11", {"ar_lm1b/blocks_3": record}), "B = 3", "sigma_max_ce")
    assert found.text() == said


def test_the_literal_four_steps_leave_two_of_six_blocks_unsaid_nowhere():
    """Of real settings: six blocks, the paper's four steps and no more."""
    from dblocks.config import resolve
    from dblocks.noise import sigma_grid
    from dblocks.partition import noise_distribution, partition_of

    over = {"method": {"sampling": {"at_least_num_blocks": False}}}
    method = resolve("ar_lm1b/blocks_6", "smoke", 0, over).method
    partition = partition_of(method, 12)
    route = [partition.owner(level) for level in sigma_grid("equal_mass", noise_distribution(method.noise), 4)]
    counts = [route.count(block) for block in range(6)]
    assert counts.count(0) == 2
    record = make_record("ar_lm1b/blocks_6", sigma_max_ce=3.5).model_copy(update={"evaluations_per_block": counts})
    text = cell(cells_of("table_11", {"ar_lm1b/blocks_6": record}), "B = 6", "sigma_max_ce").text()
    idle = ", ".join(str(block) for block, count in enumerate(counts, start=1) if count == 0)
    assert text == f"3.500 (n = 1; blocks {idle} never ran)"


def test_references_stand_beside_the_metric_that_was_measured():
    values = {"ppl_teacher": 40.0, "reference_ppl_teacher": 18.5, "distinct_2_single": 0.9, "reference_distinct_2": 0.8}
    cells = cells_of("table_4", {"ar_lm1b/end_to_end": make_record("ar_lm1b/end_to_end", **values)})
    assert cell(cells, "AR, LM1B", "ppl_gpt2_xl").text() == "40.00 (n = 1; references 18.50)"
    assert cell(cells, "AR, LM1B", "distinct_2_single").text() == "0.90 (n = 1; references 0.80)"
    assert cell(cells, "AR, LM1B", "ce").text() == "–"


def test_the_papers_values_stand_beside_its_own_metric_and_data_alone():
    small = cells_of("table_4", {"ar_lm1b/end_to_end": make_record("ar_lm1b/end_to_end", mauve_teacher=0.7)})
    assert cell(small, "AR, LM1B", "mauve").paper is None
    assert cell(small, "AR, LM1B", "mauve").label == "MAUVE (features of the small teacher)"
    skip = {"data": {"name": "lm1b"}}
    whole = make_record("ar_lm1b/end_to_end", "paper", overrides=skip, mauve=0.7)
    cells = cells_of("table_4", {"ar_lm1b/end_to_end": whole}, scale="paper")
    assert cell(cells, "AR, LM1B", "mauve").paper == 0.50
    other = make_record("ar_owt/end_to_end", "paper", mauve=0.7)
    cells = cells_of("table_4", {"ar_owt/end_to_end": other}, scale="paper")
    assert cell(cells, "AR, OWT", "mauve").paper == 0.85


def test_a_column_that_nothing_fills_is_left_out_unless_it_was_skipped():
    record = make_record("ar_lm1b/end_to_end", mauve_teacher=0.7)
    table = TABLES["table_4"]
    header, *body = grid(table, cells_of("table_4", {"ar_lm1b/end_to_end": record}))
    assert not any("Llama" in name for name in header)
    assert {len(line) for line in body} == {len(header)}
    skipped = record.model_copy(update={"skipped": ("llama2",)})
    header, *body = grid(table, cells_of("table_4", {"ar_lm1b/end_to_end": skipped}))
    (place,) = (i for i, name in enumerate(header) if "Llama" in name and "paper" not in name)
    assert body[0][place] == "skipped: llama2"
    assert {len(line) for line in body} == {len(header)}
