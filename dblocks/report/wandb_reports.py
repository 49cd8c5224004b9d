"""W&B reports: one a table and an overview, written as JSON offline, created or brought up to date online.

Online a report is known by its title, so pushing again changes the one that is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr

from dblocks.claims import TablePlan
from dblocks.data.files import one_line, write_atomically
from dblocks.errors import UserError
from dblocks.report.build_tables import judged_cells
from dblocks.report.table_files import markdown
from dblocks.report.wandb_export import PROJECT, tag
from dblocks.tables import Row

OVERVIEW = "overview"


def table_report(plan: TablePlan, entity: str = "") -> wr.Report:
    """The report of one table: its text, the paper's values in it, a run set a row, and panels."""
    table, (cells, verdicts) = plan.table, judged_cells(plan)
    records = [cell for cell in cells if cell.metrics and cell.measurement is None]
    means = {cell.measured for cell in records if cell.wanted.statistic == "mean"}
    measured = [f"{name}_mean" if name in means else name for name in dict.fromkeys(cell.measured for cell in records)]
    blocks = sorted(losses_of(plan))
    panels = [
        *(wr.LinePlot(title=f"training loss, {name}", x="Step", y=[f"loss/{name}"]) for name in blocks),
        *(wr.BarPlot(title=name, metrics=[name]) for name in measured),
        wr.BarPlot(title="peak memory, bytes", metrics=["peak_memory_bytes"]),
        wr.BarPlot(title="training, s", metrics=["train_seconds"]),
    ]
    runsets = [run_set(row, plan) for row in table.rows if any(map(plan.records.get, row.runs))]
    return wr.Report(
        project=PROJECT,
        entity=entity,
        title=title(table.table, plan.scale),
        description=table.title,
        width="fluid",
        blocks=[
            wr.MarkdownBlock(markdown(table, cells, verdicts, plan.scale)),
            *([wr.PanelGrid(runsets=runsets, panels=panels)] if runsets else []),  # of measurements W&B has no run
        ],
    )


def losses_of(plan: TablePlan) -> set[str]:
    """What the logs of a table's runs name losses by: `all`, or the blocks."""
    from dblocks.runlog import read_log

    paths = [Path(path) for paths in plan.records.values() for path in paths]
    return {name for path in paths for line in read_log(path.parent / "log.jsonl")[:50] for name in line["loss"]}


def run_set(row: Row, plan: TablePlan) -> wr.Runset:
    """The runs of a row, by the tags they were exported with; seeds are grouped."""
    wanted = (plan.scale, plan.table.table, tag(row.row))
    filters = " and ".join(f"Tags in [{json.dumps(name)}]" for name in wanted)
    return wr.Runset(name=row.row, filters=filters, groupby=["group"])


def overview_report(plans: Sequence[TablePlan], entity: str = "") -> wr.Report:
    """The claims of all tables with their verdicts, and the tables' titles."""
    lines = ["| Table | Claim | Verdict | Measured |", "|---|---|---|---|"]
    for plan in plans:
        for verdict in judged_cells(plan)[1]:
            name = plan.table.table.replace("_", " ")
            lines.append(f"| {name} | {verdict.claim.statement} | {verdict.text()} | {verdict.detail} |")
    tables = [f"- {title(plan.table.table, plan.scale)}: {plan.table.title}" for plan in plans]
    return wr.Report(
        project=PROJECT,
        entity=entity,
        title=title(OVERVIEW, plans[0].scale),
        description="Claims of DiffusionBlocks (arXiv 2506.14202), judged by one rule",
        width="fluid",
        blocks=[wr.MarkdownBlock("\n".join(lines)), wr.H2("Reports"), wr.MarkdownBlock("\n".join(tables))],
    )


def title(name: str, scale: str) -> str:
    """What a report is called, and found by."""
    return f"DiffusionBlocks, {name.replace('_', ' ')}, scale {scale}"


def as_json(report: wr.Report) -> str:
    """A report as W&B stores it. Nothing is asked of a server."""
    return json.dumps(report._to_model().model_dump(mode="json", by_alias=True, exclude_none=True), indent=1) + "\n"


def reports(plans: Sequence[TablePlan], entity: str = "") -> dict[str, wr.Report]:
    """A report a table and the overview, by name."""
    found = {plan.table.table: table_report(plan, entity) for plan in plans}
    return found | {OVERVIEW: overview_report(plans, entity)}


def write_reports(plans: Sequence[TablePlan], folder: Path) -> list[Path]:
    """Write all reports as <name>.json; returns their paths. Nothing is sent."""
    paths = []
    for name, report in reports(plans).items():
        paths.append(folder / f"{name}.json")
        write_atomically(paths[-1], as_json(report))
    return paths


def push_reports(plans: Sequence[TablePlan], folder: Path) -> list[Path]:
    """Create all reports at W&B, or renew them, and write their addresses as <name>.url; returns these files.

    Raises: UserError in one line where W&B refuses.
    """
    paths = []
    try:
        api: Any = wandb.Api(timeout=30)
        for name, report in reports(plans, api.default_entity).items():
            paths.append(folder / f"{name}.url")
            write_atomically(paths[-1], push(report, api).url + "\n")
    except UserError:
        raise
    except Exception as error:  # W&B raises what its transport raises
        raise UserError(f"W&B did not take the report ({one_line(error)}); log in with `wandb login`") from error
    return paths


def push(report: wr.Report, api: Any) -> wr.Report:
    """Create a report at W&B, or renew the one of its title."""
    try:
        known = [old for old in api.reports(f"{report.entity}/{PROJECT}") if old.display_name == report.title]
    except ValueError:  # there is no such project yet
        known = []
    if known:
        report.id = known[0].id
    return report.save()
