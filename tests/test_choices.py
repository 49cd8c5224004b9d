"""The choices table: one change at a time, read on validation; and experiments that extend another."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dblocks.claims import mean_interval
from dblocks.config import CONFIG_DIR, load_experiments, load_scales, resolve
from dblocks.doctor import cost
from dblocks.errors import UserError
from dblocks.identity import IDENTITY_SECTIONS
from dblocks.plan_files import table_plan
from dblocks.planning import make_plan
from dblocks.record import Record, read_record
from dblocks.report.build_tables import plans_from_records
from dblocks.report.readme import REFERENCE, REPOSITORY
from dblocks.spec import RunSpec
from dblocks.tables import Row, load_tables
from tests.workflow.helpers import edit

TABLE = load_tables()["choices"]
# rows that change more than one field at once, and what
SEVERAL = {
    "vit_choices/target_deviation_unit_rows": {"target_deviation": 0.02, "sampling.bridge_table": "normalized"},
    "vit_choices/target_deviation_unit_rows_hard": {
        "target_deviation": 0.02,
        "sampling.bridge_table": "normalized",
        "sampling.bridge": "hard",
    },
    "vit_choices/all_official": {
        "weighting": "official",
        "label_token": "official",
        "target_deviation": 0.02,
        "adaln": "official",
        "head_preconditioning": "official",
        "sampling.steps": 3,
        "sampling.tie_rule": "official",
        "sampling.start_noise": "official",
    },
}
DEFAULT, *OTHERS = (row for row in TABLE.rows if row.run not in SEVERAL)
SCALES = list(load_scales())
UNIT_ROWS = "unit rows, "


def fields(spec: RunSpec) -> dict[str, object]:
    """All that decides a run's numbers, flat: value by dotted name below its section."""
    flat: dict[str, object] = {}

    def walk(part: dict, name: str) -> None:
        for key, value in part.items():
            walk(value, f"{name}{key}.") if isinstance(value, dict) else flat.__setitem__(name + key, value)

    walk(spec.model_dump(mode="json", include=set(IDENTITY_SECTIONS)), "")
    return flat


def difference(one: RunSpec, other: RunSpec) -> dict[str, object]:
    """The fields of `other` that are not as in `one`."""
    old, new = fields(one), fields(other)
    assert old.keys() == new.keys()
    return {name: value for name, value in new.items() if value != old[name]}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("run", "row"),
    [("vit/diffusion_blocks", DEFAULT.run), ("vit/bridge_normalized", "vit_choices/bridge_table_normalized")],
)
def test_table_1s_own_runs_are_rows_but_for_the_split(run, row, scale):
    own, choices = resolve(run, scale), resolve(row, scale)
    assert difference(own, choices) == {"data.train_split": "fit", "data.evaluation_split": "validation"}
    assert choices.resources == own.resources


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.run)
def test_each_row_differs_in_the_one_field_that_its_name_says(row, scale):
    found = difference(resolve(DEFAULT.run, scale), resolve(row.run, scale))
    if row.row.startswith("embedders"):  # refused without a frozen table, which is a row of its own
        assert found.pop("method.target_table") == "frozen"
    if row.row.startswith(UNIT_ROWS):
        assert found.pop("method.sampling.bridge_table") == "normalized"
    ((field, value),) = found.items()
    named, _, said = row.row.removeprefix(UNIT_ROWS).partition(": ")
    assert field == f"method.{named}"
    assert said == f"{value:g}" if isinstance(value, float) else said == str(value)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("run", SEVERAL)
def test_rows_of_several_fields_differ_in_those(run, scale):
    found = difference(resolve(DEFAULT.run, scale), resolve(run, scale))
    assert found == {f"method.{field}": value for field, value in SEVERAL[run].items()}


@pytest.mark.parametrize("scale", SCALES)
def test_table_1s_official_row_is_the_one_of_choices(scale):
    found = difference(resolve("vit/diffusion_blocks_official", scale), resolve("vit_choices/all_official", scale))
    rate = {"training.learning_rate": 4e-3} if scale == "smoke" else {}  # choices have the first row's
    assert found == {"data.train_split": "fit", "data.evaluation_split": "validation", **rate}


def test_the_defaults_are_all_told_and_told_right():
    default = fields(resolve(DEFAULT.run, "smoke"))
    told = DEFAULT.note.replace("sampling bridge", "bridge").replace("4 steps", "steps 4").rstrip(".")
    words = dict(part.strip().split(" ") for part in told.replace(";", ",").split(","))
    for row in OTHERS:
        name = row.row.removeprefix(UNIT_ROWS).partition(": ")[0]
        short = name.removeprefix("sampling.")
        value = default[f"method.{name}"]
        assert words[short] == (f"{value:g}" if isinstance(value, float) else str(value))


@pytest.mark.parametrize("scale", SCALES)
def test_no_row_reads_test_or_trains_on_what_it_reads(scale):
    plan = make_plan({"scale": scale, "skip": ["imagenet256"]})
    specs = [spec for run in TABLE.runs for spec in plan.runs[plan.run_of[run]]]
    assert {(spec.data.train_split, spec.data.evaluation_split) for spec in specs} == {("fit", "validation")}
    assert {spec.data.name for spec in specs} == {"digits" if scale == "smoke" else "cifar100"}


def test_a_plan_whose_choices_would_read_test_is_refused():
    """Another data set replaces the whole of `data`, splits too."""
    data = {"name": "digits16"}
    with pytest.raises(UserError, match=r"table choices: run 'vit_choices/default' has data.evaluation_split 'test'"):
        make_plan({"override_runs": {"vit_choices": {"data": data}}})
    splits = {"train_split": "fit", "evaluation_split": "validation"}
    make_plan({"override_runs": {"vit_choices": {"data": data | splits}, "vit": {"data": splits}}})


def test_every_row_is_a_run_of_its_own_and_every_variant_a_row():
    plan = make_plan({})
    assert len({plan.run_of[run] for run in TABLE.runs}) == len(TABLE.rows)
    assert {run.partition("/")[2] for run in TABLE.runs} == set(load_experiments()["vit_choices"].variants)


def test_it_is_left_out_of_all_and_shares_no_run_with_it(tmp_path):
    plan = make_plan({"results_dir": str(tmp_path), "seeds": 5})
    assert set(plan.tables) - set(plan.in_all) == {"choices"}
    assert not {run for table in plan.in_all for run in plan.tables[table].runs} & set(TABLE.runs)
    assert cost(plan, "choices")["runs"] == f"{5 * len(TABLE.rows)}, {5 * len(TABLE.rows)} to do"
    assert table_plan(plan, "choices").claims == []


# --- what was measured, and what config/README.md says of it


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[int, Record]]:
    """The committed records of every row's run, by seed."""
    (plan,) = (p for p in plans_from_records(REFERENCE) if (p.table.table, p.scale) == ("choices", "smoke"))
    records = {run: [read_record(Path(path)) for path in paths] for run, paths in plan.records.items()}
    return {run: {record.spec.seed: record for record in found} for run, found in records.items()}


def intervals(measured: dict[str, dict[int, Record]], row: Row) -> dict[str, tuple[float, float]]:
    """95 % interval of how much better a row is than what it is compared with, over paired seeds, by metric."""
    base = DEFAULT.run
    if row.row.startswith("embedders"):
        base = "vit_choices/target_table_frozen"
    elif row.row.startswith(UNIT_ROWS):
        base = "vit_choices/bridge_table_normalized"
    found = {}
    for column in TABLE.columns:
        sign = 1 if column.better == "higher" else -1
        pairs = [
            (measured[row.run][k].metric(column.metric), measured[base][k].metric(column.metric)) for k in range(5)
        ]
        found[column.metric] = mean_interval([sign * (own.value - other.value) for own, other in pairs])
    return found


def test_rows_that_only_predict_differently_have_the_weights_of_the_first(measured):
    same = {row.run for row in OTHERS if row.row.startswith(("sampling.", UNIT_ROWS))}
    for row in OTHERS:
        alike = [measured[row.run][k].weights == measured[DEFAULT.run][k].weights for k in range(5)]
        assert alike == [row.run in same] * 5


def test_the_readme_says_which_defaults_are_not_the_best_measured(measured):
    table = (REPOSITORY / "config" / "README.md").read_text().partition("by name\n")[2].partition("A sampler draws")[0]
    said = dict(re.findall(r"^\| `([\w.]+)`.*?\|.*?\|.*?\| (.*) \|$", table, re.MULTILINE))
    rows = [row for row in OTHERS if not row.row.startswith(("target_table", UNIT_ROWS))]
    found = {field: [intervals(measured, r) for r in rows if r.row.startswith(f"{field}: ")] for field in said}
    found = {field: there for field, there in found.items() if there}
    assert sum(map(len, found.values())) == len(rows)
    ahead = {field for field, there in found.items() if any(one["accuracy"][0] > 0 for one in there)}
    assert ahead == {field for field, words in said.items() if "**Not the best measured**" in words}
    unit = [row for row in OTHERS if row.row.startswith(UNIT_ROWS)]
    ahead = [row.row.removeprefix(UNIT_ROWS) for row in unit if intervals(measured, row)["accuracy"][0] > 0]
    told = {field for field, words in said.items() if re.search("With unit rows .*ahead", words)}
    assert {name.partition(": ")[0] for name in ahead} == told
    silent = {f for f, there in found.items() if all(lo <= 0 <= hi for one in there for lo, hi in one.values())}
    assert {field for field, words in said.items() if "no clear difference" in words} == silent - {
        "sampling.start_noise"
    }


# --- an experiment that extends another's variant


@pytest.fixture
def config(tmp_path) -> Path:
    """A copy of the shipped configuration to edit."""
    return Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))


@pytest.mark.parametrize("scale", SCALES)
def test_a_setting_of_what_is_extended_reaches_it_at_every_scale(config, scale):
    vit = config / "runs" / "vit.yaml"
    edit(vit, "    grad_clip: 1.0\n", "    grad_clip: 2.0\n")
    edit(
        vit,
        "      diffusion_blocks: {training: {learning_rate: 4.0e-3}}",
        "      diffusion_blocks: {training: {learning_rate: 7.0e-3}}",
    )
    edit(vit, "      training: {epochs: 20, warmup_epochs: 1}", "      training: {epochs: 21, warmup_epochs: 1}")
    for run in (DEFAULT.run, OTHERS[0].run):
        own = resolve("vit/diffusion_blocks", scale, config_dir=config).training
        assert resolve(run, scale, config_dir=config).training == own
        assert own.grad_clip == 2.0
        if scale != "paper":
            assert (own.learning_rate if scale == "smoke" else own.epochs) == {"smoke": 7e-3, "short": 21}[scale]


@pytest.mark.parametrize("other", ["vit/nothing", "nothing/diffusion_blocks", "vit", "vit_choices/default"])
def test_what_cannot_be_extended_is_named(config, other):
    edit(config / "runs" / "vit_choices.yaml", "extends: vit/diffusion_blocks", f"extends: {other}")
    with pytest.raises(UserError, match=f"vit_choices.yaml: extends: '{other}'") as error:
        make_plan({}, config)
    assert "\n" not in str(error.value)
