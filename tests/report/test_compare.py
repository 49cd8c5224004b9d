"""Two sets of records side by side."""

from __future__ import annotations

import pytest

from dblocks.errors import UserError
from dblocks.report.compare import compare
from tests.workflow.helpers import dblocks, make_record, one_line, save_records


def columns(text: str) -> list[list[str]]:
    return [[part.strip() for part in line.split("  ") if part.strip()] for line in text.splitlines()]


def test_means_spreads_and_their_difference(tmp_path):
    save_records(tmp_path / "a", [make_record(seed=k, accuracy=value) for k, value in enumerate((90.0, 92.0))])
    save_records(tmp_path / "b", [make_record(accuracy=94.5)])
    header, line = columns(compare(tmp_path / "a", tmp_path / "b"))
    assert header[:5] == ["run", "metric", "A", "B", "B − A"]
    assert line[:5] == ["vit/end_to_end (smoke)", "accuracy", "91 ± 1.4 (n = 2)", "94.5 (n = 1)", "+3.5"]
    assert line[5] == "seeds"


def test_what_differs_is_named(tmp_path):
    save_records(tmp_path / "a", [make_record()])
    save_records(tmp_path / "b", [make_record(overrides={"training": {"learning_rate": 0.5}})])
    assert columns(compare(tmp_path / "a", tmp_path / "b"))[1][5] == "training"
    assert columns(compare(tmp_path / "a", tmp_path / "a"))[1][5] == "–"


def test_what_is_in_one_alone_is_said(tmp_path):
    other = make_record("vit/diffusion_blocks")
    save_records(tmp_path / "a", [make_record()])
    save_records(tmp_path / "b", [make_record(), other])
    assert compare(tmp_path / "a", tmp_path / "b").splitlines()[-1] == (
        f"only in {tmp_path / 'b'}: vit/diffusion_blocks (smoke)"
    )
    save_records(tmp_path / "c", [other, make_record("vit/forward_forward")])
    with pytest.raises(UserError, match="no run in common"):
        compare(tmp_path / "a", tmp_path / "c")


def test_two_single_runs_are_compared_whatever_their_names(tmp_path):
    save_records(tmp_path / "a", [make_record(accuracy=90.0)])
    save_records(tmp_path / "b", [make_record("vit/diffusion_blocks", accuracy=91.0)])
    lines = columns(compare(tmp_path / "a", tmp_path / "b"))
    assert lines[1][:5] == [
        "vit/end_to_end (smoke) | vit/diffusion_blocks (smoke)",
        "accuracy",
        "90 (n = 1)",
        "91 (n = 1)",
        "+1",
    ]
    assert "method" in lines[1][5] and len(lines) == 2


def test_a_file_in_a_folders_place_is_one_line(tmp_path):
    save_records(tmp_path / "a", [make_record()])
    (path,) = (tmp_path / "a").rglob("record.json")
    assert "give a folder" in one_line(dblocks(tmp_path, "compare", path, path))


def test_an_empty_folder_is_one_line(tmp_path):
    assert "no record.json below it" in one_line(dblocks(tmp_path, "compare", tmp_path, tmp_path))
