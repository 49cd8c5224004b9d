"""W&B reports and uploads: what is sent is what the tables say, and it is there once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dblocks.claims import TablePlan
from dblocks.data.files import write_atomically
from dblocks.record import read_record
from dblocks.report.build_tables import build_table, judged_cells, plans_from_records
from dblocks.report.readme import REFERENCE
from tests.report.wandb_server import wandb_server
from tests.workflow.helpers import dblocks, one_line


@pytest.fixture(scope="module")
def plans() -> list[TablePlan]:
    return [plan for plan in plans_from_records(REFERENCE) if plan.scale == "smoke"]


def reports_of(folder: Path, *plans: TablePlan, options: tuple[str, ...] = (), **extra: str):
    """`dblocks wandb_reports` of these plans; (process, folder of its files)."""
    paths = []
    for plan in plans:
        paths.append(folder / f"{plan.table.table}.json")
        write_atomically(paths[-1], plan.model_dump_json())
    return dblocks(folder, "wandb_reports", *paths, *options, "--folder", folder / "out", **extra), folder / "out"


def blocks_of(path: Path, kind: str) -> list[dict]:
    return [block for block in json.loads(path.read_text())["spec"]["blocks"] if block["type"] == kind]


def test_a_report_holds_the_table_a_run_set_a_row_and_a_panel_a_metric(tmp_path, plans):
    plan = next(plan for plan in plans if plan.table.table == "table_1")
    process, folder = reports_of(tmp_path, plan)
    assert process.returncode == 0, process.stderr
    path = folder / "table_1.json"
    build_table(plan, tmp_path / "tables")
    (text,) = blocks_of(path, "markdown-block")
    assert text["content"] == (tmp_path / "tables" / "table_1.md").read_text()
    (grid,) = blocks_of(path, "panel-grid")
    sets = grid["metadata"]["runSets"]
    assert [one["name"] for one in sets] == [row.row for row in plan.table.rows if plan.records[row.run]]
    for one in sets:
        assert [part["value"] for part in one["filters"]["filters"]] == [["smoke"], ["table_1"], [one["name"]]]
        assert one["grouping"] == [{"section": "run", "name": "group"}]
    shown = json.dumps(grid["metadata"]["panelBankSectionConfig"]["panels"])
    for cell in judged_cells(plan)[0]:
        assert not cell.metrics or f'"{cell.measured}"' in shown
    assert '"peak_memory_bytes"' in shown


def test_the_overview_has_every_verdict(tmp_path, plans):
    process, folder = reports_of(tmp_path, *plans)
    assert process.returncode == 0, process.stderr
    assert {path.stem for path in folder.iterdir()} == {"overview", *(plan.table.table for plan in plans)}
    text = blocks_of(folder / "overview.json", "markdown-block")[0]["content"]
    for plan in plans:
        for verdict in judged_cells(plan)[1]:
            assert f"| {verdict.claim.statement} | {verdict.text()} | {verdict.detail} |" in text


def test_pushing_again_renews_the_report_that_is_there(tmp_path, plans):
    plan = next(plan for plan in plans if plan.table.table == "table_1")
    renamed = plan.model_copy(update={"table": plan.table.model_copy(update={"caption": "another caption"})})
    with wandb_server() as server:
        for step in (plan, renamed):
            process, folder = reports_of(tmp_path, step, options=("--push",), HOME=str(tmp_path), **server.settings)
            assert process.returncode == 0, process.stderr
        titles = [view["displayName"] for view in server.views.values()]
        assert titles == ["DiffusionBlocks, table 1, scale smoke", "DiffusionBlocks, overview, scale smoke"]
        assert "another caption" in server.views["view0"]["spec"]
    assert (folder / "table_1.url").read_text().startswith("http://127.0.0.1")


@pytest.mark.slow  # W&B tries for half a minute
def test_a_server_that_refuses_is_one_line_and_no_file(tmp_path, plans):
    closed = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0123456789" * 4, "HOME": str(tmp_path)}
    process, folder = reports_of(tmp_path, plans[0], options=("--push",), **closed)
    assert "W&B did not take the report" in process.stderr.splitlines()[-1] and process.returncode == 2
    assert "0123456789" not in process.stderr + process.stdout
    assert not folder.exists()


@pytest.mark.parametrize("made", ["offline", "off"])
def test_a_finished_run_is_uploaded_once_however_it_was_made(tmp_path, tiny_spec, digits_folder, made):
    folder, mark = tmp_path / "run", tmp_path / "marks" / "run.txt"
    folder.mkdir()
    (folder / "spec.json").write_text(tiny_spec("end_to_end", {"training": {"max_steps": 2}}).model_dump_json())
    own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    data = ("--data", digits_folder / "manifest.json", "--quiet", "--wandb", made)
    assert dblocks(folder, "run", "spec.json", *data, **own).returncode == 0
    with wandb_server() as server:
        for _ in range(2):
            process = dblocks(folder, "wandb_sync", "record.json", "--to", mark, **own, **server.settings)
            assert process.returncode == 0, process.stderr
        assert set(server.runs) == {read_record(folder / "record.json").wandb_id}
        uploads = len(server.runs)
    # marked by W&B's own tool, so that not even a server is needed now
    gone = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0123456789" * 4}
    mark.unlink()
    assert dblocks(folder, "wandb_sync", "record.json", "--to", mark, **own, **gone).returncode == 0
    assert mark.exists() and len(server.runs) == uploads


def test_a_record_that_is_not_there_is_one_line(tmp_path):
    assert "no such file" in one_line(dblocks(tmp_path, "wandb_sync", "record.json", "--to", "mark"))
