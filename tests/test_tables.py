"""Tables: what the files say is what the records say, and nothing is made up."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dblocks.cells import percentage
from dblocks.claims import load_claims
from dblocks.command_line import CommandLine
from dblocks.config import resolve
from dblocks.errors import UserError
from dblocks.filled_cells import table_cells
from dblocks.measure.measurement import Measurement, read_measurement
from dblocks.measure.request import make_request
from dblocks.record import RECORD, Record, read_record
from dblocks.report.build_tables import plans_from_records, rows_measurement
from dblocks.report.readme import REFERENCE, REPOSITORY
from dblocks.report.table_files import escape_tex
from dblocks.tables import Substitute, Table, load_tables
from tests.workflow.helpers import build_of, call, files_below, make_record, one_line, record_of, save_records

COLUMNS = "table,row,metric,paper,mean,sd,n,unit,dataset,split,scale,budget,record,departures"
TABLE = load_tables()["table_1"]
ROW_OF = {row.run: row.row for row in TABLE.rows}


def build(folder: Path, records: list[Record], scale: str = "smoke", missing: dict[str, str] | None = None) -> Path:
    """table_1 from `records`; returns the folder of its files."""
    return build_of(folder, records, scale, missing)


def lines(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Lines of table_1.csv by row and metric."""
    with open(folder / "table_1.csv", newline="") as file:
        return {(line["row"], line["metric"]): line for line in csv.DictReader(file)}


def test_tables_come_in_the_papers_order_after_the_headline():
    assert list(load_tables())[:13] == ["headline", *(f"table_{k}" for k in range(1, 13))]
    assert list(load_tables())[13:] == sorted(set(load_tables()) - {"headline", *(f"table_{k}" for k in range(1, 13))})


def test_the_csv_is_long_and_has_a_line_for_every_row_and_metric(tmp_path):
    folder = build(tmp_path, [make_record()])
    header, *body = (folder / "table_1.csv").read_text().splitlines()
    assert header == COLUMNS
    assert len(body) == len(TABLE.rows) * len(TABLE.columns)
    assert list(lines(folder)) == [(row.row, column.metric) for row in TABLE.rows for column in TABLE.columns]
    assert {(line["table"], line["scale"]) for line in lines(folder).values()} == {("table_1", "smoke")}


def test_committed_csvs_pivot_in_pandas_and_say_what_their_records_say():
    compared = 0
    for path in REFERENCE.glob("*/tables/*.csv"):
        table = pandas.read_csv(path)
        wide = table.pivot(index="row", columns="metric", values="mean")  # refuses a row that has a metric twice
        assert set(wide.index) == {row.row for row in load_tables()[path.stem].rows}
        for line in table.dropna(subset=["mean", "split"]).itertuples():
            records = [read_record(REPOSITORY / name) for name in line.record.split(";") if name.endswith(RECORD)]
            found = [m for record in records for m in record.metrics if (m.name, m.split) == (line.metric, line.split)]
            if found:
                # KID is unbiased, so of its evaluations the mean is read and not the least
                values = pandas.Series([m.mean if m.name.startswith("kid") else m.value for m in found])
                assert len(values) == line.n
                assert (line.mean, line.sd) == pytest.approx((values.mean(), values.std()), rel=1e-12, nan_ok=True)
                compared += 1
    assert compared > 300


def test_where_rows_read_different_parts_of_a_split_the_caption_says_which(tmp_path):
    def said(**samples: int) -> str:
        both = {"accuracy": 90.0, "sigma_max_accuracy": 90.0}
        records = [make_record(accuracy=90.0), make_record("vit/diffusion_blocks", **both)]
        for record in records:
            sized = [
                m.model_copy(update={"samples": samples[f"{record.spec.variant}_{m.name}"]}) for m in record.metrics
            ]
            record.metrics[:] = sized
        text = (build(tmp_path, records) / "table_1.md").read_text()
        return re.search(r"Scale smoke; (.*?); seed 0", text)[1]

    every = {"end_to_end_accuracy": 360, "diffusion_blocks_accuracy": 360, "diffusion_blocks_sigma_max_accuracy": 360}
    assert said(**every) == "digits, test split, 360 samples"
    one, other = "digits, test split, 360 samples ", "digits, test split, 9 samples "
    columns = every | {"diffusion_blocks_sigma_max_accuracy": 9}
    assert said(**columns) == f"{one}(Accuracy); {other}(Accuracy at σ_max)"
    rows = columns | {"diffusion_blocks_accuracy": 9}
    assert said(**rows) == f"{one}('ViT'); {other}('ViT + DiffusionBlocks')"
    cells = every | {"diffusion_blocks_accuracy": 9}
    block_wise = "of 'ViT + DiffusionBlocks'"
    assert said(**cells) == f"{one}(Accuracy of 'ViT', Accuracy at σ_max {block_wise}); {other}(Accuracy {block_wise})"


def test_values_are_those_of_the_records(tmp_path):
    values = [91.11111111111111, 93.33333333333333, 96.66666666666667]
    records = [make_record(seed=k, accuracy=value) for k, value in enumerate(values)]
    line = lines(build(tmp_path, records))["ViT", "accuracy"]
    assert (line["n"], line["unit"], line["dataset"], line["split"]) == ("3", "%", "digits", "test")
    assert float(line["mean"]) == statistics.fmean(values)
    assert float(line["sd"]) == statistics.stdev(values)
    assert float(line["budget"]) == records[0].budget
    assert [Path(path).exists() for path in line["record"].split(";")] == [True] * 3


def test_one_seed_has_no_deviation(tmp_path):
    line = lines(build(tmp_path, [make_record(accuracy=93.25)]))["ViT", "accuracy"]
    assert (line["mean"], line["sd"], line["n"]) == ("93.25", "", "1")


def test_a_measured_zero_is_not_a_missing_value(tmp_path):
    line = lines(build(tmp_path, [make_record(accuracy=0.0)]))["ViT", "accuracy"]
    assert float(line["mean"]) == 0


@pytest.mark.parametrize("key", [("ViT", "sigma_max_accuracy"), ("ViT + DiffusionBlocks", "accuracy")])
def test_what_is_missing_is_empty_and_never_zero(tmp_path, key):
    line = lines(build(tmp_path, [make_record()]))[key]
    assert {line[name] for name in ("mean", "sd", "dataset", "split", "record")} == {""}
    assert line["n"] == "0"


def test_the_papers_value_stands_only_beside_its_own_data_set(tmp_path):
    substitute = build(tmp_path / "smoke", [make_record()])
    own = build(tmp_path / "paper", [make_record(scale="paper", accuracy=60.0)], "paper")
    assert {line["paper"] for line in lines(substitute).values()} == {""}
    assert lines(own)["ViT", "accuracy"]["paper"] == "60.25"
    assert lines(own)["ViT", "sigma_max_accuracy"]["paper"] == ""
    assert "60.25" in (own / "table_1.md").read_text()
    assert "60.25" not in (substitute / "table_1.md").read_text()
    assert "60.25" not in (substitute / "table_1.tex").read_text()


def test_the_cells_say_scale_seeds_n_and_budget(tmp_path):
    records = [make_record(seed=k, accuracy=90.0 + k) for k in (0, 1)]
    text = (build(tmp_path, records) / "table_1.md").read_text()
    assert "90.50 ± 0.71 (n = 2)" in text
    assert "Scale smoke" in text and "seeds 0, 1" in text and "360 samples" in text
    assert percentage(records[0].budget) in text


def test_every_line_of_the_markdown_table_has_the_headers_cells(tmp_path):
    text = (build(tmp_path, [make_record()]) / "table_1.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")][: len(TABLE.rows) + 2]
    assert {row.count("|") for row in rows} == {rows[0].count("|")}
    assert [row.split("|")[1].strip() for row in rows[2:]] == [row.row for row in TABLE.rows]
    assert all(row.note in text for row in TABLE.rows if row.note)


@pytest.mark.parametrize(
    ("budget", "text"), [(1.0, "100 %"), (0.123, "12 %"), (0.0123, "1.2 %"), (5.1e-6, "0.00051 %"), (None, "–")]
)
def test_a_budget_reads_as_a_percentage(budget, text):
    assert percentage(budget) == text


def test_a_reason_stands_in_the_cells_that_are_missing(tmp_path):
    folder = build(tmp_path, [make_record()], missing={"vit/forward_forward": "skipped: cifar100"})
    row = next(line for line in (folder / "table_1.md").read_text().splitlines() if "plain Forward-Forward" in line)
    assert row.count("skipped: cifar100") == len(TABLE.columns)
    assert lines(folder)[ROW_OF["vit/forward_forward"], "accuracy"]["mean"] == ""


# --- LaTeX

COMMANDS = [r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"$\pm$", r"$\uparrow$"]
COMMANDS += [r"$\downarrow$", r"$\sigma$", "$-$", "--"]


@given(st.text(st.sampled_from("\\{}$&#_%~^ab 1±σ↑↓−–"), max_size=12))
def test_no_special_character_reaches_latex_as_it_is(text):
    rest = escape_tex(text)
    for command in COMMANDS:
        rest = rest.replace(command, "")
    rest = re.sub(r"\\[{}$&#_%~^]", "", rest)
    assert not set(rest) & set("\\{}$&#_%~^±σ↑↓−–")


def test_the_latex_table_is_whole(tmp_path):
    text = (build(tmp_path, [make_record()]) / "table_1.tex").read_text()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    columns = re.search(r"\\begin{tabular}{(\w+)}", text)[1]
    assert len(body) == len(TABLE.rows)
    assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(columns)}
    assert all(line.endswith(r" \\") for line in body)
    assert not re.search(r"(?<!\\)%", text)


# --- records that do not belong together


def test_records_of_different_runs_in_one_row_are_refused(tmp_path):
    other = make_record(seed=1, overrides={"training": {"max_steps": 3}})
    with pytest.raises(UserError, match=r"'ViT'.*different runs"):
        build(tmp_path, [make_record(), other])


def test_two_records_of_one_seed_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'ViT'.*one seed"):
        build(tmp_path, [make_record(), make_record(accuracy=1.0)])


# --- from records


def from_records(source: Path, *arguments: object, cwd: Path):
    return call("dblocks", cwd, "tables", "--from-records", source, *arguments)


def test_tables_from_records_builds_what_is_there_and_schedules_nothing(tmp_path):
    smoke = [make_record(seed=k) for k in (0, 1)]
    save_records(tmp_path / "records", [*smoke, make_record("vit/diffusion_blocks", "paper", accuracy=59.0)])
    before = files_below(tmp_path)
    process = from_records(tmp_path / "records", "--to", tmp_path / "out", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run_at = {"smoke": "vit/end_to_end", "paper": "vit/diffusion_blocks"}
    tables = [(scale, name) for scale, run in run_at.items() for name, t in load_tables().items() if run in t.runs]
    made = {f"out/{scale}/tables/{name}.{suffix}" for scale, name in tables for suffix in ("csv", "md", "tex")}
    assert {("smoke", "table_1"), ("paper", "table_1"), ("paper", "isolation")} <= set(tables)
    assert files_below(tmp_path) - before == made
    assert not list(tmp_path.rglob(".snakemake"))
    assert set(process.stdout.split()) == {str(tmp_path / path) for path in made}
    assert float(lines(tmp_path / "out" / "smoke" / "tables")["ViT", "accuracy"]["mean"]) == 90.5
    paper = lines(tmp_path / "out" / "paper" / "tables")
    assert float(paper["ViT + DiffusionBlocks", "accuracy"]["mean"]) == 59
    assert paper["ViT", "accuracy"]["mean"] == ""


def test_tables_from_records_prefers_todays_settings(tmp_path):
    old = make_record(overrides={"training": {"max_steps": 3}}, accuracy=1.0)
    save_records(tmp_path, [old, make_record(accuracy=90.0)])
    assert from_records(tmp_path, cwd=tmp_path).returncode == 0
    assert float(lines(tmp_path / "smoke" / "tables")["ViT", "accuracy"]["mean"]) == 90


def test_tables_from_records_takes_other_settings_where_they_are_alone(tmp_path):
    save_records(tmp_path, [make_record(overrides={"training": {"max_steps": 3}}, accuracy=1.0)])
    assert from_records(tmp_path, cwd=tmp_path).returncode == 0
    assert float(lines(tmp_path / "smoke" / "tables")["ViT", "accuracy"]["mean"]) == 1


def test_tables_from_records_refuses_to_choose(tmp_path):
    records = [make_record(overrides={"training": {"max_steps": n}}) for n in (3, 4)]
    paths = save_records(tmp_path, records)
    message = one_line(from_records(tmp_path, cwd=tmp_path))
    assert all(path.parent.parent.name in message for path in paths)
    assert "vit/end_to_end" in message
    assert files_below(tmp_path) == {str(path.relative_to(tmp_path)) for path in paths}


def test_tables_from_records_needs_records(tmp_path):
    assert "record.json" in one_line(from_records(tmp_path, cwd=tmp_path))


def test_rows_that_share_a_spec_share_its_records(tmp_path):
    # a record made under another experiment's name counts, since its identity is the row's
    spec = resolve("vit/end_to_end", "smoke").model_copy(update={"variant": "another_name"})
    save_records(tmp_path, [record_of_renamed(spec)])
    assert from_records(tmp_path, cwd=tmp_path).returncode == 0
    assert float(lines(tmp_path / "smoke" / "tables")["ViT", "accuracy"]["mean"]) == 77


def record_of_renamed(spec) -> Record:
    """A record of a spec whose variant the configuration does not have."""
    record = record_of(resolve("vit/end_to_end", "smoke"), {"accuracy": 77.0})
    return record.model_copy(update={"spec": spec})


def test_a_seed_without_the_number_does_not_go_unnoticed(tmp_path):
    records = [make_record(seed=0, accuracy=90.0), make_record(seed=1, accuracy=92.0), make_record(seed=2, ce=1.0)]
    assert "91.00 ± 1.41 (n = 2 of 3)" in (build(tmp_path, records) / "table_1.md").read_text()


# --- what stands beside what


def with_substitute() -> Table:
    """Table 6, which has other publications' values, with a column that a substitute may fill."""
    table = load_tables()["table_6"]
    substitute = Substitute(metric="accuracy_validation", label="Accuracy (validation)")
    columns = [
        column.model_copy(update={"substitute": substitute}) if column.metric == "accuracy" else column
        for column in table.columns
    ]
    return table.model_copy(update={"columns": columns})


@pytest.mark.parametrize(
    ("scale", "metric", "stand"),
    [("paper", "accuracy", True), ("paper", "accuracy_validation", False), ("smoke", "accuracy", False)],
)
def test_the_papers_and_others_values_stand_beside_the_same_metric_on_the_same_data_alone(scale, metric, stand):
    records = {"noprop/ct": [("ct.json", make_record("noprop/ct", scale, **{metric: 20.0}))]}
    cells = table_cells(with_substitute(), scale, records, {})
    (found,) = (cell for cell in cells if (cell.row, cell.column.metric) == ("NoProp-CT", "accuracy"))
    assert found.mean == 20.0 and found.comparable == stand
    assert found.paper == (21.31 if stand else None)
    values = {"noprop_onehot": 33.66, "noprop_dim20": 33.99, "noprop_prototype": 21.31}
    assert list(found.published.values()) == (list(values.values()) if stand else [None] * 3)


def cell_of(cells, row: str, metric: str = "accuracy"):
    return next(cell for cell in cells if (cell.row, cell.column.metric) == (row, metric))


def test_the_budget_of_a_cell_is_that_of_the_seed_that_was_cut_shortest():
    records = [make_record(seed=k).model_copy(update={"budget": budget}) for k, budget in enumerate((1.0, 0.25, 0.5))]
    found = {"vit/end_to_end": [(f"{k}.json", record) for k, record in enumerate(records)]}
    cell = cell_of(table_cells(TABLE, "smoke", found, {}), "ViT")
    assert cell.budget == 0.25 and not cell.whole_budget


def test_why_a_run_is_missing_comes_before_weights_that_it_would_have_taken():
    table = load_tables()["table_4"]
    record = make_record("ar_lm1b/end_to_end", ce=4.0).model_copy(update={"skipped": ("llama2",)})
    found, missing = {"ar_lm1b/end_to_end": [("a.json", record)]}, {"ar_lm1b/end_to_end": "failed: too little text"}
    for why, expected in (({}, "skipped: llama2"), (missing, "failed: too little text")):
        cell = cell_of(table_cells(table, "smoke", found, why), "AR, LM1B", "ppl_llama2")
        assert cell.text() == expected and cell.records == ()


def measured(name: str) -> Measurement:
    """A committed measurement."""
    (path,) = (REFERENCE / "smoke" / "measurements").glob(f"{name}-*/measurement.json")
    return read_measurement(path)


@pytest.mark.parametrize(("shapes", "paper"), [("paper", 3.0), ("smoke", None)])
def test_the_papers_value_stands_beside_a_measurement_at_the_papers_shapes_alone(shapes, paper):
    """Whatever the scale of the plan, and nowhere where nothing was measured."""
    made = measured("memory_vit")
    assert made.request.spec.scale == "paper"
    spec = made.request.spec.model_copy(update={"scale": shapes})
    made = made.model_copy(update={"request": made.request.model_copy(update={"spec": spec})})
    table = load_tables()["headline"]
    for scale in ("smoke", "paper"):
        cells = table_cells(table, scale, {}, {}, {"memory_vit": ("m.json", made)})
        cell = cell_of(cells, "ViT, 12 layers, B = 3", "reduction")
        assert (cell.paper, cell.scale, cell.records) == (paper, shapes, ("m.json",))
        assert cell.mean == made.metric("alone_reduction").value
        none = cell_of(table_cells(table, scale, {}, {}), "ViT, 12 layers, B = 3", "reduction")
        assert (none.paper, none.scale, none.mean, none.records) == (None, scale, None, ())


def test_each_column_tells_the_departures_of_the_run_that_it_reads():
    table = load_tables()["headline"]
    spec = resolve("vit/diffusion_blocks", "paper", 0, {"training": {"weight_decay": 0.5}})
    records = {
        "vit/end_to_end": [("a", make_record("vit/end_to_end", "paper"))],
        "vit/diffusion_blocks": [("b", record_of(spec, {"accuracy": 50.0}))],
    }
    cells = table_cells(table, "paper", records, {})
    row = "ViT, 12 layers, B = 3"
    assert cell_of(cells, row, "baseline").departures == ()
    assert cell_of(cells, row, "blocks").departures == ("training.weight_decay 0.5 (configured: 0.01)",)
    assert cell_of(cells, "MDM, 12 layers, B = 3", "blocks").departures == ()  # of no record nothing departs


def test_of_a_scale_that_is_configured_no_more_the_papers_values_stand_beside_nothing():
    cells = table_cells(TABLE, "gone", {}, {})
    assert {cell.paper for cell in cells} == {None} and all(cell.text() == "–" for cell in cells)


@pytest.mark.parametrize(("statistic", "shown"), [("value", 30.0), ("mean", 31.5)])
def test_of_several_evaluations_the_least_or_their_mean_is_shown_as_the_column_says(statistic, shown):
    column = TABLE.columns[0].model_copy(update={"statistic": statistic})
    table = TABLE.model_copy(update={"columns": [column]})
    record = make_record(accuracy=30.0)
    several = record.metrics[0].model_copy(update={"values": (30.0, 33.0), "mean": 31.5})
    for metric, expected in ((several, shown), (record.metrics[0], 30.0)):  # of one there is no other mean
        found = {"vit/end_to_end": [("a.json", record.model_copy(update={"metrics": [metric]}))]}
        assert cell_of(table_cells(table, "smoke", found, {}), "ViT").mean == expected


def test_of_several_measurements_that_at_todays_settings_counts_and_others_only_where_they_are_one():
    request = make_request("memory_vit", CommandLine(scale="smoke"))
    own = measured("memory_vit").model_copy(update={"request": request, "identity": request.identity})
    one, other = (own.model_copy(update={"identity": digit * 64}) for digit in "01")

    def taken(*found: Measurement) -> str | None:
        return rows_measurement("memory_vit", "smoke", [(f"{i}.json", each) for i, each in enumerate(found)])

    assert taken(one, other, own) == "2.json" and taken(one) == taken(one, one) == "0.json" and taken() is None
    with pytest.raises(UserError, match=r"'memory_vit' at scale smoke: of different settings in 0\.json, 1\.json"):
        taken(one, other)
    assert rows_measurement("memory_vit", "short", [("0.json", own)]) is None
    assert rows_measurement("memory_dit_cifar10", "smoke", [("0.json", own)]) is None


def test_tables_from_records_judge_their_own_claims(tmp_path):
    save_records(tmp_path, [make_record()])
    claims = load_claims(load_tables())
    for plan in plans_from_records(tmp_path):
        assert plan.claims == [claim for claim in claims if claim.table == plan.table.table]
        assert plan.claims or plan.table.table != "table_1"
