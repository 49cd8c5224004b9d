"""Settings of scale paper that are not the paper's are told, and their verdicts are trends."""

from __future__ import annotations

import pytest

from dblocks.claims import TablePlan, load_claims
from dblocks.command_line import CommandLine
from dblocks.config import resolve
from dblocks.departures import departures, of_measurement
from dblocks.filled_cells import table_cells
from dblocks.measure.measurement import Measurement
from dblocks.measure.request import make_request
from dblocks.record import Metric
from dblocks.report.build_tables import cells_of, judged_cells, plans_from_records
from dblocks.report.provenance import provenance
from dblocks.report.readme import REFERENCE
from dblocks.report.table_files import grid
from dblocks.tables import load_tables
from dblocks.versions import COMPONENTS
from tests.workflow.helpers import make_record, record_of, save_records

TABLES = load_tables()


@pytest.mark.parametrize(
    ("run", "over", "said"),
    [
        ("vit/end_to_end", {"training": {"batch_size": 64}}, ["training.batch_size 64 (configured: 128)"]),
        ("vit/end_to_end", {"compute": {"precision": "fp32"}}, ["compute.precision fp32 (configured: auto)"]),
        (
            "vit/end_to_end",
            {"training": {"warmup_epochs": 0}},
            ["training.warmup_epochs / epochs 0.0 (configured: 0.02)"],
        ),
        (
            "vit/contrastive_forward_forward",
            {"method": {"probe_epochs": 5}},
            ["probe_epochs / epochs 0.01 (configured"],
        ),
        ("vit/end_to_end", {"training": {"weight_decay": 0.5}}, ["training.weight_decay 0.5 (configured: 0.01)"]),
        ("vit/end_to_end", {"augment": {"rand_augment": None}}, ["augment.rand_augment.", "(configured: 2)"]),
        ("vit/diffusion_blocks", {"method": {"sampling": {"steps": 9}}}, ["method.sampling.steps 9 (configured: 4)"]),
        (
            "vit/end_to_end",
            {"data": {"max_evaluation_samples": 7}},
            ["data.max_evaluation_samples 7 (configured: unset)"],
        ),
        ("ar_lm1b/end_to_end", {"task": {"tokenizer": "bpe32000"}}, ["task.tokenizer bpe32000 (configured: llama2"]),
        ("dit_cifar10/end_to_end", {"generation": {"samples": 7}}, ["generation.samples 7 (configured: 50000)"]),
    ],
)
def test_another_setting_is_named_with_both_values(run, over, said):
    found = "; ".join(departures(resolve(run, "paper", 0, over), run))
    assert all(words in found for words in said)


@pytest.mark.parametrize(
    "over",
    [{"training": {"epochs": 50, "warmup_epochs": 1}}, {"training": {"max_steps": 2}}, {"compute": {"gpus": 4}}],
)
def test_how_long_and_where_is_told_elsewhere(over):
    assert departures(resolve("vit/end_to_end", "paper", 0, over), "vit/end_to_end") == ()


@pytest.mark.parametrize("scale", ["smoke", "short"])
def test_other_scales_depart_from_their_own_configuration(scale):
    over = {"training": {"weight_decay": 0.5}}
    assert departures(resolve("vit/end_to_end", scale), "vit/end_to_end") == ()
    said = ("training.weight_decay 0.5 (configured: 0.01)",)
    assert departures(resolve("vit/end_to_end", scale, 0, over), "vit/end_to_end") == said


def test_a_row_that_no_claim_compares_makes_none_a_trend(tmp_path):
    table, over = TABLES["table_1"], {"training": {"batch_size": 64}}
    records = {}
    for row in table.rows:
        departs = over if "extra row" in row.row else {}
        made = [record_of(resolve(row.run, "paper", k, departs), {"accuracy": 50.0}) for k in range(3)]
        records[row.run] = [str(path) for path in save_records(tmp_path / row.run.replace("/", "-"), made)]
    claims = [claim for claim in load_claims(TABLES) if claim.table == table.table]
    plan = TablePlan(scale="paper", table=table, claims=claims, records=records, missing={}, measurements={})
    assert [verdict.trend for verdict in judged_cells(plan)[1]] == [False] * len(claims) != []


@pytest.mark.parametrize("changed", [False, True])
def test_a_verdict_on_other_settings_is_a_trend_and_the_table_names_them(tmp_path, changed):
    table = TABLES["table_9"]
    over = {"training": {"batch_size": 64}} if changed else {}
    runs = {
        row.run: [record_of(resolve(row.run, "paper", k, over), {"accuracy": 50.0}) for k in range(3)]
        for row in table.rows
    }
    records = {}
    for run, made in runs.items():
        paths = save_records(tmp_path / run.replace("/", "-"), made)
        records[run] = [str(path) for path in paths]
    claims = [claim for claim in load_claims(TABLES) if claim.table == table.table]
    plan = TablePlan(scale="paper", table=table, claims=claims, records=records, missing={}, measurements={})
    cells, verdicts = judged_cells(plan)
    text = provenance(cells, "paper")
    assert [verdict.trend for verdict in verdicts] == [changed] * len(claims)
    rows = " and ".join(f"'{row.row}'" for row in table.rows)
    assert (f"Not as configured, {rows}: training.batch_size 64 (configured: 256)." in text) == changed


def test_all_runs_that_a_row_reads_are_told_of():
    table = TABLES["headline"]
    one = record_of(resolve("vit/end_to_end", "paper", 0, {"training": {"batch_size": 64}}), {"accuracy": 50.0})
    steps = {"method": {"sampling": {"steps": 9}}}
    other = record_of(resolve("vit/diffusion_blocks", "paper", 0, steps), {"accuracy": 50.0})
    cells = table_cells(table, "paper", {"vit/end_to_end": [("a", one)], "vit/diffusion_blocks": [("b", other)]}, {})
    text = provenance(cells, "paper")
    assert "training.batch_size 64 (configured: 128); method.sampling.steps 9 (configured: 4)." in text


def test_what_earlier_code_made_is_told_and_is_a_trend(tmp_path):
    table, run = TABLES["table_9"], "vit_tiny/diffusion_blocks"
    records = {row.run: [make_record(row.run, "paper", k, accuracy=50.0) for k in range(3)] for row in table.rows}
    older = [r.model_copy(update={"code_versions": {**r.code_versions, "network.vit": 0}}) for r in records[run]]
    lacking = [
        r.model_copy(update={"code_versions": {k: v for k, v in r.code_versions.items() if k != "network.vit"}})
        for r in records[run]
    ]

    def of(found) -> tuple[str, list[bool]]:
        paths = {name: save_records(tmp_path / name.replace("/", "-"), made) for name, made in found.items()}
        plan = TablePlan(
            scale="paper",
            table=table,
            claims=[claim for claim in load_claims(TABLES) if claim.table == table.table],
            records={name: [str(path) for path in there] for name, there in paths.items()},
            missing={},
        )
        cells, verdicts = judged_cells(plan)
        return provenance(cells, "paper"), [verdict.trend for verdict in verdicts]

    now = COMPONENTS["network.vit"]
    said = f"Not as configured, 'ViT + DiffusionBlocks': network.vit of version 0 (now: {now})."
    assert said not in of(records)[0] and of(records)[1] == [False, False]
    assert said in of(records | {run: older})[0] and of(records | {run: older})[1] == [True, True]
    said = said.replace("of version 0", "of version none")
    assert said in of(records | {run: lacking})[0] and of(records | {run: lacking})[1] == [True, True]


def a_time(**fields) -> Measurement:
    """A measurement of table 12 at scale paper, its network's fields changed."""
    request = make_request("time_vit", CommandLine(scale="paper", override={"network": fields}))
    metrics = [
        Metric(name=f"{part}_seconds", value=1.0, unit="s", dataset="cifar100", split="made up", samples=128)
        for part in ("whole", "block", "blocks")
    ]
    machine = make_record().machine
    own = {"request": request, "identity": request.identity, "shape": "s", "metrics": metrics, "machine": machine}
    return Measurement(**own, finished=make_record().finished)


def test_a_measurement_at_other_shapes_is_told():
    table = TABLES["table_12"]

    def told(measurement: Measurement) -> str:
        cells = table_cells(table, "paper", {}, {}, {"time_vit": ("m", measurement)})
        assert all(cell.paper is not None for cell in cells if cell.column.metric == "seconds")
        return provenance(cells, "paper").partition(" Not as configured, ")[2]

    rows = "'ViT' and 'One block' and 'Three blocks'"
    assert told(a_time()) == ""
    assert told(a_time(width=64)) == f"{rows}: network.width 64 (configured: 128)."
    older = a_time().model_copy(update={"identity": "0" * 64})
    assert told(older) == f"{rows}: made by an earlier version of the code."


def test_in_what_is_computed_counts_only_where_it_is_timed():
    made = a_time()
    for run in ("spec", "baseline"):
        spec = getattr(made.request, run)
        fp32 = spec.model_copy(update={"compute": spec.compute.model_copy(update={"precision": "fp32"})})
        made = made.model_copy(update={"request": made.request.model_copy(update={run: fp32})})
    made = made.model_copy(update={"identity": made.request.identity})
    assert of_measurement(made) == ("compute.precision fp32 (configured: auto)",)
    counted = made.request.model_copy(update={"settings": made.request.settings.model_copy(update={"kind": "memory"})})
    assert of_measurement(made.model_copy(update={"request": counted, "identity": counted.identity})) == ()


def test_the_budget_of_a_row_is_the_least_of_all_it_reads(tmp_path):
    table = TABLES["headline"]
    whole, cut = make_record("vit/end_to_end", "paper"), make_record("vit/diffusion_blocks", "paper")
    cut = cut.model_copy(update={"budget": 0.25})
    found = {"vit/end_to_end": [("a", whole)], "vit/diffusion_blocks": [("b", cut)]}
    (line,) = [line for line in grid(table, table_cells(table, "paper", found, {})) if line[0].startswith("ViT")]
    assert line[-1] == "25 %"


def test_the_least_of_several_and_what_was_measured_once_are_told_apart():
    (plan,) = (p for p in plans_from_records(REFERENCE) if (p.table.table, p.scale) == ("headline", "smoke"))
    text = provenance(cells_of(plan), "smoke")
    least, _, rest = text.partition("Least of 2 evaluations a seed; features of: ")[2].partition(". ")
    assert "classifier" in least and "language model" not in least
    assert rest.startswith("Measured with: ") and "language model" in rest


def test_rows_that_are_one_run_at_a_scale_are_named():
    (plan,) = (p for p in plans_from_records(REFERENCE) if (p.table.table, p.scale) == ("table_1", "smoke"))
    assert "one and the same run" not in provenance(cells_of(plan), "smoke")
    records = {**plan.records, "vit/forward_forward": plan.records["vit/end_to_end"]}
    text = provenance(cells_of(plan.model_copy(update={"records": records})), "smoke")
    assert "'ViT' and 'ViT + plain Forward-Forward (extra row)' are one and the same run" in text


def test_a_metric_that_no_record_has_is_named():
    (plan,) = (p for p in plans_from_records(REFERENCE) if (p.table.table, p.scale) == ("table_1", "smoke"))
    assert "No record has" not in provenance(cells_of(plan), "smoke")
    columns = [*plan.table.columns, plan.table.columns[0].model_copy(update={"metric": "acuracy", "label": "Typo ↑"})]
    table = plan.table.model_copy(update={"columns": columns})
    text = provenance(cells_of(plan.model_copy(update={"table": table})), "smoke")
    assert "No record has: Typo." in text
    optional = [*plan.table.columns, columns[-1].model_copy(update={"optional": True})]
    table = plan.table.model_copy(update={"columns": optional})
    assert "No record has" not in provenance(cells_of(plan.model_copy(update={"table": table})), "smoke")
