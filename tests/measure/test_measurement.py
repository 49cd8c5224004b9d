"""Measurements: what is asked for, what is written, and how tables read it."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from dblocks.claims import TablePlan, judge, load_claims
from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR
from dblocks.errors import UserError
from dblocks.measure.measurement import read_measurement
from dblocks.measure.request import MEASUREMENT, REQUEST, load_measurements, make_request
from dblocks.plan_files import write_plan
from dblocks.planning import make_plan
from dblocks.report.build_tables import build_figure, build_table, judged_cells, tables_from_records
from dblocks.tables import load_tables
from tests.workflow.helpers import dblocks, edit, one_line

NAME = "memory_vit"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The measurement of the ViT's memory, taken by the command line."""
    folder = tmp_path_factory.mktemp("measured") / "smoke" / "measurements" / "memory_vit-0"
    folder.mkdir(parents=True)
    (folder / REQUEST).write_text(make_request(NAME, CommandLine()).model_dump_json())
    process = dblocks(folder, "measure", folder / REQUEST)
    assert process.returncode == 0, process.stderr
    return folder / MEASUREMENT


def plan_of(table: str, measured: Path) -> TablePlan:
    tables = load_tables()
    claims = [claim for claim in load_claims(tables) if claim.table == table]
    return TablePlan(
        scale="smoke", table=tables[table], claims=claims, records={}, missing={}, measurements={NAME: str(measured)}
    )


# what is asked for


def test_memory_is_at_the_papers_shapes_whatever_the_scale_and_the_overrides():
    plain = make_request(NAME, CommandLine())
    tried_out = make_request(NAME, CommandLine(max_steps=2, override={"training": {"batch_size": 3}}))
    assert plain.spec.scale == plain.baseline.scale == "paper"
    assert plain.identity == tried_out.identity
    assert (
        plain.spec.compute.device == "auto"
        and make_request(NAME, CommandLine(scale="paper")).spec.compute.device == "cuda"
    )


def test_time_is_at_the_plans_shapes_and_takes_its_overrides():
    one, other = (make_request("time_vit", CommandLine(override=over)) for over in ({}, {"network": {"width": 16}}))
    assert one.spec.scale == "smoke" and other.spec.network.width == 16
    assert one.identity != other.identity


def test_every_setting_is_part_of_the_identity():
    request = make_request(NAME, CommandLine())
    for change in ({"micro_batch": 3}, {"iterations": 7}, {"kind": "wall_time"}):
        changed = request.model_copy(update={"settings": request.settings.model_copy(update=change)})
        assert changed.identity != request.identity


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "run: vit/diffusion_blocks, baseline: vit/end_to_end, shapes",
            "run: vit/x, baseline: vit/end_to_end, shapes",
            "vit/x",
        ),
        ("baseline: mdm/end_to_end, shapes: paper", "baseline: mdm/end_to_end, shapes: papier", "papier"),
        ("time_vit: {kind: wall_time", "time_vit: {kind: wall_clock", "wall_clock"),
        (
            "wall_time, run: vit/diffusion_blocks",
            "wall_time, run: vit/end_to_end",
            "vit/end_to_end.*not trained in blocks",
        ),
    ],
)
def test_a_wrong_entry_is_named_in_one_line(tmp_path, old, new, message):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    edit(config / "measurements.yaml", old, new)
    with pytest.raises(UserError, match=message) as error:
        load_measurements(config)
    assert "measurements.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_row_of_a_measurement_that_there_is_not_is_refused(tmp_path):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    path = config / "tables" / "table_12.yaml"
    path.write_text(path.read_text().replace("time_vit", "time_vitt"))
    with pytest.raises(UserError, match=r"time_vitt.*measurements\.yaml"):
        load_tables(config)


def test_a_plan_has_each_measurement_once_and_its_own_files(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path)})
    write_plan(plan)
    assert set(plan.measurements) == set(load_measurements())
    for name in plan.measurements:
        request = json.loads(plan.measurement(name).with_name(REQUEST).read_text())
        assert request["name"] == name
    assert plan.measurement(NAME) in plan.records_of("memory") and plan.measurement(NAME) in plan.records_of("headline")
    timed = {request.name for folder, request in plan.requests.items() if plan.is_timed(folder)}
    assert timed == {"time_vit", "time_huginn"}
    assert plan.records_of("table_12") == [plan.measurement("time_vit")]


# what is written and how tables read it


def test_a_measurement_says_what_it_is(measured):
    found = read_measurement(measured)
    assert found.identity == make_request(NAME, CommandLine()).identity
    assert "width 128" in found.shape and "micro-batch 128" in found.shape
    assert found.metric("alone_total").unit == "MiB" and found.metric("nothing") is None


def test_a_broken_measurement_is_named(measured, tmp_path):
    content = json.loads(measured.read_text())
    del content["machine"]
    (tmp_path / MEASUREMENT).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"measurement\.json: machine"):
        read_measurement(tmp_path / MEASUREMENT)
    assert "no such file" in one_line(dblocks(tmp_path, "measure", tmp_path / "none.json"))


def test_table_cells_are_the_measurements_values(measured, tmp_path):
    build_table(plan_of("memory", measured), tmp_path)
    with open(tmp_path / "memory.csv", newline="") as file:
        lines = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    found = read_measurement(measured)
    for way, row in (("whole", "end to end"), ("alone", "one block alone")):
        for metric in ("parameters", "activations", "total", "reduction"):
            line = lines[f"ViT, CIFAR-100: {row}", metric]
            assert float(line["mean"]) == found.metric(f"{way}_{metric}").value
            assert (line["scale"], line["dataset"], line["sd"]) == ("paper", "cifar100", "")
    assert lines["ViT, CIFAR-100: one block alone", "reduction"]["paper"] == "3.0"
    assert lines["MDM, text8: one block alone", "reduction"]["mean"] == ""
    assert lines["MDM, text8: one block alone", "reduction"]["paper"] == ""
    text = (tmp_path / "memory.md").read_text()
    assert "shapes of scale paper" in text and "seeds" not in text and "Budget" not in text


def test_what_is_counted_is_judged_without_seeds(measured):
    _, verdicts = judged_cells(plan_of("memory_gap", measured))
    by_claim = {verdict.claim.claim: verdict for verdict in verdicts}
    vit = by_claim["memory_falls_by_b"]
    assert vit.outcome == "undecided" and "ViT, CIFAR-100: 0.9146;" in vit.detail  # others are not measured here
    dit = by_claim["memory_of_dit_l_falls_by_nearly_b"]
    assert dit.text() == "not judged: not measured"  # here
    own = dit.claim.model_copy(update={"comparisons": vit.claim.comparisons[:1]})
    cells, _ = judged_cells(plan_of("memory_gap", measured))
    outcomes = [judge(own.model_copy(update={"at_least": bound}), cells, False).outcome for bound in (0.91, 0.92)]
    assert outcomes == ["holds", "fails"]


def test_a_figure_has_a_bar_for_every_row_and_part_that_was_measured(measured, tmp_path):
    plan = plan_of("memory", measured)
    text = build_figure(plan, tmp_path).read_text()
    assert "ViT, CIFAR-100" in text and "one block alone" in text and "MDM" not in text
    assert build_figure(plan, tmp_path / "again").read_text() == text
    empty = build_figure(plan.model_copy(update={"measurements": {}}), tmp_path)
    assert ">nothing measured<" in empty.read_text()


def test_tables_are_built_of_measurements_alone(measured, tmp_path):
    made = {path.name for path in tables_from_records(measured.parents[2], tmp_path)}
    assert {"memory.md", "memory.svg", "memory_gap.csv", "headline.md"} <= made
    assert "table_12.md" not in made
