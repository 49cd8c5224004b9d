"""Weights that are skipped: cells say so, and a run is measured again when they are given later."""

from __future__ import annotations

import pytest

from dblocks.checkpoint import save_verified
from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.filled_cells import table_cells
from dblocks.planning import make_plan
from dblocks.record import write_record
from dblocks.run import RESULT, finished
from dblocks.tables import Column, Row, Table
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


PAPER = {"scale": "paper", "data_dir": "nowhere"}


def test_a_skipped_teacher_is_no_need_of_a_run_that_stays_the_same():
    whole = make_plan({**PAPER, "skip": ["imagenet256"]})
    without = make_plan({**PAPER, "skip": ["imagenet256", "llama2", "gpt2-large"]})
    run = whole.run_of["ar_lm1b/end_to_end"]
    assert without.run_of["ar_lm1b/end_to_end"] == run
    assert set(whole.needs_of(run)) - set(without.needs_of(run)) == {"teacher:llama2", "features"}
    # other weights than language models cannot be left out: their runs could not be measured at all
    with pytest.raises(UserError, match="nothing is called 'inception'"):
        make_plan({**PAPER, "skip": ["imagenet256", "inception"]})


def test_a_gated_teacher_that_is_not_there_stops_the_plan_with_the_line_to_add(tmp_path):
    plan = make_plan({**PAPER, "results_dir": str(tmp_path)})
    with pytest.raises(UserError, match=r"Llama 2 Community License.*nowhere/llama2.*--config skip=\[llama2\]"):
        plan.check_weights("llama2")
    plan.check_weights("gpt2-xl")  # can be downloaded
    plan.weights("llama2").parent.mkdir(parents=True)
    plan.weights("llama2").write_text("{}")
    plan.check_weights("llama2")  # was found before
