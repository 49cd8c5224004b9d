"""Settings of scale paper that are not the paper's are told, and their verdicts are trends."""

from __future__ import annotations

import pytest

from dblocks.claims import TablePlan, load_claims
from dblocks.config import load_experiments, resolve
from dblocks.departures import departures
from dblocks.filled_cells import table_cells
from dblocks.report.build_tables import cells_of, judged_cells, plans_from_records
from dblocks.report.readme import REFERENCE
from dblocks.report.table_files import grid, provenance
from dblocks.tables import load_tables
from tests.workflow.helpers import make_record, record_of, save_records

TABLES = load_tables()
RUNS = [f"{name}/{variant}" for name, experiment in load_experiments().items() for variant in experiment.variants]


@pytest.mark.parametrize("run", RUNS)
def test_what_is_configured_departs_from_nothing(run):
    assert departures(resolve(run, "paper"), run) == ()


@pytest.mark.parametrize(
    ("run", "over", "said"),
    [
        ("vit/end_to_end", {"training": {"batch_size": 64}}, ["training.batch_size 64 (paper: 128)"]),
        ("vit/end_to_end", {"compute": {"precision": "fp32"}}, ["compute.precision fp32 (paper: auto)"]),
        ("vit/end_to_end", {"training": {"warmup_epochs": 0}}, ["training.warmup_epochs / epochs 0.0 (paper: 0.02)"]),
        (
            "vit/contrastive_forward_forward",
            {"method": {"probe_epochs": 5}},
            ["probe_epochs / epochs 0.01 (paper"],
        ),
        ("vit/end_to_end", {"training": {"weight_decay": 0.5}}, ["training.weight_decay 0.5 (paper: 0.01)"]),
        ("vit/end_to_end", {"augment": {"rand_augment": None}}, ["augment.rand_augment.", "(paper: 2)"]),
        ("vit/diffusion_blocks", {"method": {"sampling": {"steps": 9}}}, ["method.sampling.steps 9 (paper: 4)"]),
        ("vit/end_to_end", {"data": {"max_evaluation_samples": 7}}, ["data.max_evaluation_samples 7 (paper: unset)"]),
        ("ar_lm1b/end_to_end", {"task": {"tokenizer": "bpe32000"}}, ["task.tokenizer bpe32000 (paper: llama2"]),
        ("dit_cifar10/end_to_end", {"generation": {"samples": 7}}, ["generation.samples 7 (paper: 50000)"]),
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
    text = provenance(cells, "paper", table)
    assert [verdict.trend for verdict in verdicts] == [changed] * len(claims)
    assert ("is not set as in the paper: training.batch_size 64 (paper: 256)" in text) == changed


def test_all_runs_that_a_row_reads_are_told_of():
    table = TABLES["headline"]
    one = record_of(resolve("vit/end_to_end", "paper", 0, {"training": {"batch_size": 64}}), {"accuracy": 50.0})
    steps = {"method": {"sampling": {"steps": 9}}}
    other = record_of(resolve("vit/diffusion_blocks", "paper", 0, steps), {"accuracy": 50.0})
    cells = table_cells(table, "paper", {"vit/end_to_end": [("a", one)], "vit/diffusion_blocks": [("b", other)]}, {})
    text = provenance(cells, "paper", table)
    assert "training.batch_size 64 (paper: 128), method.sampling.steps 9 (paper: 4)." in text


def test_the_budget_of_a_row_is_the_least_of_all_it_reads(tmp_path):
    table = TABLES["headline"]
    whole, cut = make_record("vit/end_to_end", "paper"), make_record("vit/diffusion_blocks", "paper")
    cut = cut.model_copy(update={"budget": 0.25})
    found = {"vit/end_to_end": [("a", whole)], "vit/diffusion_blocks": [("b", cut)]}
    (line,) = [line for line in grid(table, table_cells(table, "paper", found, {})) if line[0].startswith("ViT")]
    assert line[-1] == "25 %"


def test_the_least_of_several_and_what_was_measured_once_are_told_apart():
    (plan,) = (p for p in plans_from_records(REFERENCE) if (p.table.table, p.scale) == ("headline", "smoke"))
    text = provenance(cells_of(plan), "smoke", plan.table)
    least, _, rest = text.partition("Least of 2 evaluations a seed; features of: ")[2].partition(". ")
    assert "classifier" in least and "language model" not in least
    assert rest.startswith("Measured with: ") and "language model" in rest
