"""Weights that are skipped: cells say so, and a run is measured again when they are given later."""

from __future__ import annotations

from dblocks.checkpoint import save_verified
from dblocks.config import resolve
from dblocks.record import write_record
from dblocks.run import RESULT, finished
from dblocks.tables import Column, Row, Table, table_cells
from tests.workflow.helpers import record_of


def table(**column) -> Table:
    """One row, one column that takes llama2."""
    columns = [Column(metric="ppl_llama2", label="PPL", unit="", better="lower", weights="llama2", **column)]
    row = Row(row="ViT", run="vit/end_to_end", paper={"ppl_llama2": 14.58})
    return Table(table="t", title="t", caption="c", paper_dataset="digits", columns=columns, rows=[row])


def cell(records, **column):
    return table_cells(table(**column), "smoke", {"vit/end_to_end": [("r", r) for r in records]}, {})[0]


def record(skipped: tuple[str, ...] = (), **values: float):
    return record_of(resolve("vit/end_to_end", "smoke"), values).model_copy(update={"skipped": skipped})


def test_a_cell_says_that_its_weights_were_skipped():
    assert cell([record(("llama2",), accuracy=1.0)]).text() == "skipped: llama2"
    assert cell([record(("gpt2-xl",), accuracy=1.0)]).text() == "–"
    assert cell([]).text() == "–"


def test_a_cell_that_was_measured_shows_its_number_or_its_substitutes():
    assert cell([record((), ppl_llama2=14.0)]).text() == "14.00 (n = 1)"
    substitute = {"substitute": {"metric": "ppl_teacher", "label": "PPL (teacher on {dataset})"}}
    found = cell([record(("llama2",), ppl_teacher=9.0)], **substitute)
    assert (found.text(), found.label, found.paper) == ("9.00 (n = 1)", "PPL (teacher on digits)", None)


def test_a_finished_run_is_done_until_what_it_was_measured_without_is_given(tmp_path):
    saved = save_verified(tmp_path, "weights", {"network": {}})
    write_record(tmp_path / RESULT, record(("llama2",), accuracy=1.0).model_copy(update={"weights": saved.name}))
    assert finished(tmp_path, set()) and finished(tmp_path, {"gpt2-xl"})
    assert not finished(tmp_path, {"gpt2-xl", "llama2"})
