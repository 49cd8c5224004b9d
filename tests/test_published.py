"""Row marks and other publications' values: in csv, markdown and LaTeX alike, and never beside another data set."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydantic import ValidationError

from dblocks.claims import TablePlan
from dblocks.record import Record
from dblocks.report.build_tables import build_table
from dblocks.tables import Table, load_tables
from tests.workflow.helpers import make_record, save_records

TABLE = load_tables()["table_6"]


def build(folder: Path, scale: str, records: list[Record]) -> dict[str, str]:
    """The texts of table_6's files by suffix, built of `records`."""
    found: dict[str, list[str]] = {}
    for path, record in zip(save_records(folder, records), records, strict=True):
        found.setdefault(f"{record.spec.experiment}/{record.spec.variant}", []).append(str(path))
    plan = TablePlan(scale=scale, table=TABLE, claims=[], records=found, missing={})
    return {path.suffix: path.read_text() for path in build_table(plan, folder / "tables")}


def lines_of(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """Lines of a csv by row and metric."""
    return {(line["row"], line["metric"]): line for line in csv.DictReader(text.splitlines())}


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> dict[str, str]:
    records = [make_record(row.run, "paper", accuracy=40.0) for row in TABLE.rows]
    return build(tmp_path_factory.mktemp("paper"), "paper", records)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> dict[str, str]:
    return build(tmp_path_factory.mktemp("smoke"), "smoke", [make_record(row.run, accuracy=40.0) for row in TABLE.rows])


def test_published_values_are_noprops_and_its_prototypes_are_what_the_paper_quotes():
    for row in TABLE.rows:
        if row.published:
            assert row.published["noprop_prototype"].values["accuracy"] == row.paper["accuracy"]
            assert set(row.published) == set(TABLE.sources)
    assert [row.row for row in TABLE.rows if row.published] == ["Backprop", "NoProp-DT", "NoProp-CT", "NoProp-FM"]


def cells_of(text: str, suffix: str) -> dict[str, list[str]]:
    """The cells of each line of a markdown or LaTeX table, by the first of them."""
    separator = {".md": "|", ".tex": "&"}[suffix]
    lines = [[cell.strip() for cell in line.strip("| ").split(separator)] for line in text.splitlines()]
    return {cells[0]: cells for cells in lines}


@pytest.mark.parametrize("suffix", [".md", ".tex"])
@pytest.mark.parametrize(
    ("row", "marks"),
    [
        ("Row", ["Continuous", "Block-wise"]),
        ("Backprop", ["no", "no"]),
        ("NoProp-DT", ["no", "yes"]),
        ("NoProp-CT", ["yes", "no"]),
        ("NoProp-FM", ["yes", "no"]),
        ("DiffusionBlocks", ["yes", "yes"]),
    ],
)
def test_marks_stand_in_every_row(smoke, paper, suffix, row, marks):
    for files in (smoke, paper):
        assert cells_of(files[suffix], suffix)[row][1:3] == marks


def test_the_csv_has_marks_values_and_settings(paper):
    line = lines_of(paper[".csv"])["NoProp-CT", "accuracy"]
    assert (line["continuous"], line["block_wise"]) == ("yes", "no")
    assert [line[key] for key in TABLE.sources] == ["33.66", "33.99", "21.31"]
    assert (
        "rate and weight decay 1e-3" in line["noprop_dim20_settings"] and "Adam, 1,000" in line["noprop_dim20_settings"]
    )
    ours = lines_of(paper[".csv"])["DiffusionBlocks", "accuracy"]
    assert (ours["paper"], ours["noprop_prototype"], ours["noprop_prototype_settings"]) == ("46.88", "", "")


def test_values_stand_beside_ours_on_their_own_data_set_only(smoke, paper):
    for suffix in (".md", ".tex"):
        assert all(value in paper[suffix] for value in ("33.66", "33.99", "21.31", "6.38", "46.88"))
        assert not any(value in smoke[suffix] for value in ("33.66", "33.99", "21.31", "6.38", "46.88"))
        for text in (paper[suffix], smoke[suffix]):
            assert "NoProp prototype" in text and "mean over 3 seeds" in text
    assert {line[key] for line in lines_of(smoke[".csv"]).values() for key in TABLE.sources} == {""}


def test_settings_that_sources_share_are_said_once(smoke):
    (line,) = [line for line in smoke[".md"].splitlines() if "mean over 3 seeds" in line]
    assert line.startswith("- NoProp one-hot, NoProp dim 20, NoProp prototype, on cifar100: Li, Teh & Pascanu 2025")
    assert line.count("NoProp-CT: Adam, 1,000 epochs") == 1


def test_parameters_are_a_column(smoke):
    line = lines_of(smoke[".csv"])["DiffusionBlocks", "parameters"]
    assert (line["mean"], line["unit"], line["paper"]) == ("1.0", "", "")


def test_every_line_of_markdown_and_latex_has_the_headers_cells(smoke, paper):
    for files in (smoke, paper):
        rows = [line for line in files[".md"].splitlines() if line.startswith("|")][: len(TABLE.rows) + 2]
        assert {row.count("|") for row in rows} == {rows[0].count("|")}
        body = [line for line in files[".tex"].splitlines() if line.endswith(r" \\")]
        assert {line.count("&") for line in body} == {body[0].count("&")}
        assert f"{{l{'r' * body[0].count('&')}}}" in files[".tex"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"marks": ["sideways"]}, "sideways"),
        ({"published": {"elsewhere": {"values": {"accuracy": 1.0}}}}, "elsewhere"),
        ({"published": {"noprop_dim20": {"values": {"fid": 1.0}}}}, "published value for .'fid'"),
    ],
)
def test_marks_and_sources_that_the_table_does_not_have_are_refused(row, said):
    fields = TABLE.model_dump()
    fields["rows"][0] |= row
    with pytest.raises(ValidationError, match=said):
        Table.model_validate(fields)


def test_tables_without_marks_and_sources_have_no_trace_of_them(tmp_path):
    other = load_tables()["table_1"]
    records = [make_record("vit/end_to_end")]
    found = {"vit/end_to_end": [str(path) for path in save_records(tmp_path, records)]}
    plan = TablePlan(scale="smoke", table=other, claims=[], records=found, missing={})
    text = next(path for path in build_table(plan, tmp_path / "tables") if path.suffix == ".csv").read_text()
    assert text.splitlines()[0].endswith(",budget,record,departures")
