"""Merging, resolving and hashing of run specs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from dblocks.budget import baseline_steps, budget_fraction, probe_steps, steps_per_epoch, total_steps
from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, load_experiments, load_scales, merge, resolve
from dblocks.data.registry import DATASETS
from dblocks.errors import UserError
from dblocks.identity import code_versions, identity, run_name
from dblocks.planning import make_plan
from dblocks.spec import RunSpec
from dblocks.versions import COMPONENTS

RUNS = [f"{name}/{variant}" for name, experiment in load_experiments().items() for variant in experiment.variants]
FREE = ("experiment", "variant", "scale", "seed", "logging", "resources")  # decide no number


@pytest.mark.parametrize("scale", load_scales())
@pytest.mark.parametrize("run", RUNS)
def test_every_shipped_run_resolves_and_its_spec_survives_json(run, scale):
    spec = resolve(run, scale)
    assert (f"{spec.experiment}/{spec.variant}", spec.scale) == (run, scale)
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert total_steps(spec) >= 1


# --- merging

mappings = st.recursive(
    st.integers() | st.none() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
trees = st.dictionaries(st.sampled_from("abc"), mappings, max_size=3)


def leaves(tree: dict, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def at(tree: dict, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@given(trees, trees)
def test_later_wins_and_the_rest_stays(base, over):
    result = merge(base, over)
    for path, value in leaves(over):
        # an empty mapping adds nothing to one that is there
        assert isinstance(at(result, path), dict) if value == {} else at(result, path) == value
    for path, value in leaves(base):
        at_or_below = any(said[: len(path)] == path for said, _ in leaves(over))
        above = any(path[: len(said)] == said and new != {} for said, new in leaves(over))
        if not at_or_below and not above:
            assert at(result, path) == value


@given(trees)
def test_merging_nothing_changes_nothing(tree):
    assert merge(tree, {}) == tree == merge({}, tree) == merge(tree, tree)


@given(trees, trees, st.sampled_from(["x", "y", None]))
def test_another_name_replaces_the_whole_mapping(old, new, name):
    over = new if name is None else {**new, "name": name}
    result = merge({"part": {**old, "name": "x"}}, {"part": over})["part"]
    assert result == (over if name == "y" else merge({**old, "name": "x"}, over))


def test_merge_leaves_its_arguments_alone():
    base, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    merge(base, over)
    assert (base, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_another_method_takes_none_of_the_old_ones_fields():
    own = resolve("vit/diffusion_blocks", "smoke", overrides={"method": {"name": "forward_forward"}})
    assert own.method == resolve("vit/forward_forward", "smoke").method


# --- precedence


def tiny_config(folder: Path, layers: dict[str, float]) -> Path:
    """A configuration whose layers set weight_decay as `layers` says."""

    def setting(layer: str) -> dict:
        return {"training": {"weight_decay": layers[layer]}} if layer in layers else {}

    training = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, **setting("base").get("training", {})}
    experiment = {
        "experiment": "toy",
        "description": "",
        "base": {
            "data": {"name": "digits"},
            "network": {"name": "vit"},
            "method": {"name": "end_to_end"},
            "training": training,
        },
        "variants": {"one": setting("variant"), "other": {}},
        "scales": {"smoke": {"base": setting("section"), "variants": {"one": setting("section variant")}}},
    }
    scales = {"scales": {"smoke": {"description": "", "seeds": 1, "overrides": setting("scale")}}}
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / "toy.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "scales.yaml").write_text(yaml.safe_dump(scales))
    return folder


ORDER = ("base", "variant", "scale", "section", "section variant", "command line")


@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_the_later_layer_wins(tmp_path, count):
    layers = {name: float(i) for i, name in enumerate(ORDER[:count], start=1)}
    overrides = {"training": {"weight_decay": layers["command line"]}} if "command line" in layers else None
    spec = resolve("toy/one", "smoke", 0, overrides, tiny_config(tmp_path / "config", layers))
    assert spec.training.weight_decay == count


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("runs/toy.yaml", ("base",)),
        ("runs/toy.yaml", ("variants", "one")),
        ("runs/toy.yaml", ("scales", "smoke", "base")),
        ("runs/toy.yaml", ("scales", "smoke", "variants", "one")),
        ("scales.yaml", ("scales", "smoke", "overrides")),
    ],
)
@pytest.mark.parametrize("name", ["seed", "scale", "variant"])
def test_what_a_run_is_called_is_no_field_of_any_layer(tmp_path, file, place, name):
    path = tiny_config(tmp_path / "config", {}) / file
    content = yaml.safe_load(path.read_text())
    reduce(lambda tree, key: tree[key], place, content)[name] = 7
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=f"{file}: {'.'.join(place)}: '{name}' is no field"):
        resolve("toy/one", "smoke", config_dir=tmp_path / "config")


def test_a_job_that_wants_cuda_asks_for_a_gpu():
    asked = [
        resolve("vit/end_to_end", "smoke", 0, {"compute": {"device": d}}).gpu_count for d in ("cpu", "auto", "cuda")
    ]
    assert asked == [0, 0, 1]
    over = {"compute": {"device": "cuda", "gpus": 2}, "resources": {"gpu": 3}}
    assert resolve("vit/end_to_end", "paper", 0, over).gpu_count == 6


def test_what_one_variant_sets_is_no_matter_of_another(tmp_path):
    config = tiny_config(tmp_path / "config", {"base": 1.0, "variant": 2.0, "section variant": 3.0})
    assert resolve("toy/other", "smoke", config_dir=config).training.weight_decay == 1.0


def test_the_command_lines_own_keys_go_before_its_override():
    given_twice = {"compute": {"device": "cuda"}, "training": {"max_steps": 9, "epochs": 3}}
    line = CommandLine(device="cpu", max_steps=2, override=given_twice)
    assert line.overrides() == {"compute": {"device": "cpu"}, "training": {"max_steps": 2, "epochs": 3}}


# --- identity


def other_value(value: Any, annotation: Any) -> Any:
    """A value of the same type that is not `value`; None where the type allows no other."""
    if get_origin(annotation) is Literal:
        return next((choice for choice in get_args(annotation) if choice != value), None)
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return ("cifar100" if value == "cifar10" else "cifar10") if value in DATASETS else value + "x"
        case tuple() if get_args(annotation)[0] is str:
            return (*value, "x")
        case tuple():
            return (*value[:-1], value[-1] + 1)
        case None if {int, float} & set(get_args(annotation)):
            return 1
        case None if choices := [part for part in get_args(annotation) if get_origin(part) is Literal]:
            return get_args(choices[0])[0]
        case None if str in get_args(annotation):
            return "x"
        case None | dict() if dict in {get_origin(part) for part in get_args(annotation)}:
            return {"role": "another"}
    raise AssertionError(f"do not know another {annotation} than {value!r}")


def variations(part: BaseModel) -> Iterator[tuple[str, BaseModel]]:
    """`part` with one leaf changed, for every leaf, and the leaf's path."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if name in ("generation", "latents", "layers_per_block") and value is None:
            continue  # not of this task, not of this run
        if isinstance(value, BaseModel):
            for path, changed in variations(value):
                yield f"{name}.{path}", part.model_copy(update={name: changed})
        elif (value := other_value(value, field.annotation)) is not None:
            yield name, part.model_copy(update={name: value})


# optional fields that hold more than a number are set, so that each is seen to count
WHOLE = {
    "data": {"title": "a title"},
    "augment": {"rand_augment": {"num_ops": 1}},
    "compute": {"device": "cpu"},
}


def whole(run: str) -> dict:
    """Overrides that leave no field of the run's own kind empty."""
    spec, more = resolve(run, "paper"), {}
    if spec.method.name == "diffusion_blocks" and hasattr(spec.network, "layers"):
        rest = spec.network.layers - spec.num_blocks + 1
        more["method"] = {"layers_per_block": [rest] + [1] * (spec.num_blocks - 1)}
    if spec.generation:
        more["generation"] = {"extractor": "classifier"}
        if spec.generation.latents:
            more["generation"]["latents"] = {"autoencoder": "autoencoder/latents"}
    return merge(WHOLE, more)


@pytest.mark.parametrize("run", RUNS)
def test_identity_counts_every_field_but_the_free_ones(run):
    spec = resolve(run, "paper", 0, whole(run))
    # the path of a user's own text is not set here: its content counts, see below
    spec_without_path = spec.model_copy(update={"data": spec.data.model_copy(update={"path": ""})})
    paths = [path for path, _ in variations(spec_without_path)]
    assert {"training.betas", "seed", "compute.threads", "data.evaluation_split"} <= set(paths)
    for path, changed in variations(spec_without_path):
        if path == "data.path":
            continue
        restored = changed.model_copy(update={"data": changed.data.model_copy(update={"path": None})})
        same = identity(restored) == identity(spec)
        assert same == path.startswith(FREE), f"{path} {'does not count' if same else 'counts'}"


def test_every_method_is_another_identity():
    runs = [resolve(run, "paper") for run in RUNS]
    assert len({identity(spec) for spec in runs}) == len(runs)


def test_threads_count_only_where_bits_depend_on_them():
    def of(device: str, threads: int) -> str:
        return identity(resolve("vit/end_to_end", "smoke", 0, {"compute": {"device": device, "threads": threads}}))

    assert of("cuda", 1) == of("cuda", 8)
    assert of("cpu", 1) != of("cpu", 8)
    assert of("auto", 1) != of("auto", 8)


@pytest.mark.parametrize("run", RUNS)
def test_a_raised_code_version_is_another_identity_for_what_depends_on_it(run, monkeypatch):
    spec = resolve(run, "smoke")
    before, own = identity(spec), code_versions(spec)
    for part in COMPONENTS:
        with monkeypatch.context() as patch:
            patch.setitem(COMPONENTS, part, COMPONENTS[part] + 1)
            assert (identity(spec) != before) == (part in own), part
    assert f"method.{spec.method.name}" in own and f"network.{spec.network.name}" in own and "training" in own


def test_another_content_of_the_data_is_another_identity(monkeypatch):
    spec = resolve("vit/end_to_end", "smoke")
    before = identity(spec)
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], fingerprint="digits-2"))
    assert identity(spec) != before


def test_a_users_text_counts_by_content_not_by_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, text in {"a": "to be", "b": "to be", "c": "or not"}.items():
        (tmp_path / place).mkdir()
        (tmp_path / place / "text.txt").write_text(text)

    def of(place: str) -> str:
        spec = resolve("vit/end_to_end", "smoke")
        data = spec.data.model_copy(update={"name": "documents", "path": str(tmp_path / place / "text.txt")})
        return identity(spec.model_copy(update={"data": data}))

    assert of("a") == of("b") != of("c")


def test_run_name_holds_names_and_hash():
    spec = resolve("vit/end_to_end", "smoke", seed=7)
    assert run_name(spec) == f"vit-end_to_end-{identity(spec)[:8]}"


@pytest.mark.parametrize(
    ("run", "scale", "network", "message"),
    [
        ("vit/end_to_end", "smoke", {"patch_size": 5}, "patch_size: 5 does not divide images of 8×8"),
        ("dit_imagenet/end_to_end", "smoke", {"patch_size": 16}, "patch_size: 16 does not divide latents of 8×8"),
        ("dit_imagenet/end_to_end", "paper", {"patch_size": 3}, "patch_size: 3 does not divide latents of 32×32"),
        ("autoencoder/latents", "smoke", {"layers": 6}, r"layers: 2\^6 = 64 does not divide images of 16×16"),
    ],
)
def test_what_does_not_tile_the_images_or_latents_is_refused(run, scale, network, message):
    with pytest.raises(UserError, match=f"network.{message}"):
        resolve(run, scale, overrides={"network": network})


# --- budget


@pytest.mark.parametrize("run", RUNS)
def test_half_the_epochs_are_half_the_budget(run):
    paper = resolve(run, "paper")
    half = {"training": {"epochs": paper.training.epochs / 2}}
    if hasattr(paper.method, "probe_epochs"):
        half["method"] = {"probe_epochs": paper.method.probe_epochs / 2}
    assert budget_fraction(resolve(run, "paper", overrides=half)) == pytest.approx(0.5)


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4, 6, 12])
def test_blocks_take_b_times_the_steps(num_blocks):
    spec = resolve("vit/diffusion_blocks", "paper", overrides={"method": {"num_blocks": num_blocks}})
    assert total_steps(spec) == num_blocks * total_steps(resolve("vit/end_to_end", "paper"))


def test_copies_of_noprop_dt_take_t_times_the_steps_and_the_other_networks_once():
    once = 150 * (50_000 // 128)
    assert total_steps(resolve("noprop/backprop", "paper")) == once
    assert total_steps(resolve("noprop/dt", "paper")) == 10 * once
    assert total_steps(resolve("noprop/ct", "paper")) == 1000 * (50_000 // 128)
    assert total_steps(resolve("noprop/diffusion_blocks", "paper")) == 3 * 1000 * (50_000 // 128)


def test_noprops_cnn_takes_any_number_of_blocks():
    for blocks in (1, 2, 7):
        over = {"method": {"num_blocks": blocks}}
        assert resolve("noprop/diffusion_blocks", "smoke", overrides=over).num_blocks == blocks


def test_an_epoch_drops_the_incomplete_batch():
    spec = resolve("vit/end_to_end", "paper")
    assert steps_per_epoch(spec) == 50_000 // 128
    assert total_steps(spec) == 500 * (50_000 // 128)
    fit = resolve("vit/end_to_end", "paper", overrides={"data": {"train_split": "fit"}})
    assert steps_per_epoch(fit) == 45_000 // 128


def test_an_epoch_of_text_is_its_disjoint_windows_and_its_budget_counts_characters():
    spec = resolve("mdm/end_to_end", "paper")
    assert steps_per_epoch(spec) == 90_000_000 // 256 // 256
    assert total_steps(spec) == 100 * 1373
    halved = resolve("mdm/end_to_end", "paper", overrides={"task": {"length": 128}, "training": {"batch_size": 512}})
    assert budget_fraction(halved) == pytest.approx(1, abs=1e-3)


def test_steps_on_a_users_own_text_follow_its_length(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own.txt").write_text("Aa! " * 5000)
    data = {"name": "characters", "path": str(tmp_path / "own.txt")}
    spec = resolve("mdm/end_to_end", "smoke", overrides={"data": data})
    assert steps_per_epoch(spec) == 15_000 * 9 // 10 // 64 // spec.training.batch_size


def test_overrides_of_one_experiment_leave_the_others_alone():
    line = CommandLine(override={"training": {"epochs": 3}}, override_runs={"mdm": {"training": {"epochs": "2"}}})
    assert line.overrides("mdm/end_to_end") == {"training": {"epochs": 2}}
    assert line.overrides("vit/end_to_end") == line.overrides() == {"training": {"epochs": 3}}
    another = CommandLine(max_samples=2, override_runs={"mdm": {"data": {"name": "characters", "path": "my.txt"}}})
    data = resolve("mdm/end_to_end", "paper", overrides=another.overrides("mdm/end_to_end")).data
    assert (data.path, data.max_evaluation_samples) == ("my.txt", 2)


def test_an_override_of_one_variant_wins_over_its_experiments():
    per_run = {"vit": {"training": {"epochs": 2}}, "vit/diffusion_blocks": {"method": {"adaln": "official"}}}
    line = CommandLine(override_runs=per_run)
    both = {"training": {"epochs": 2}, "method": {"adaln": "official"}}
    assert line.overrides("vit/diffusion_blocks") == both
    assert line.overrides("vit/end_to_end") == {"training": {"epochs": 2}}
    plan = make_plan({"override_runs": per_run})
    by_run = {name: plan.runs[run][0] for name, run in plan.run_of.items()}
    assert by_run["vit/diffusion_blocks"].method.adaln == "official"
    assert by_run["vit/diffusion_blocks"].training.epochs == by_run["vit/end_to_end"].training.epochs == 2
    narrower = CommandLine(override_runs={"vit/end_to_end": {"training": {"epochs": 5}}, **per_run})
    assert narrower.overrides("vit/end_to_end") == {"training": {"epochs": 5}}


@given(st.integers(1, 10**6))
def test_max_steps_cuts_the_baseline_and_the_probe(max_steps):
    for run in ("vit/diffusion_blocks", "vit/contrastive_forward_forward"):
        whole = resolve(run, "smoke")
        cut = resolve(run, "smoke", overrides={"training": {"max_steps": max_steps}})
        assert baseline_steps(cut) == min(max_steps, baseline_steps(whole))
        assert probe_steps(cut) == min(max_steps, probe_steps(whole))
        assert total_steps(cut) == cut.num_blocks * baseline_steps(cut) + probe_steps(cut)


# --- refusals in one line


@pytest.mark.parametrize(
    ("run", "overrides", "said"),
    [
        ("vit/nothing", {}, ["vit/nothing", "end_to_end"]),
        ("nothing/end_to_end", {}, ["nothing.yaml"]),
        ("vit/end_to_end", {"data": {"name": "mnist1"}}, ["mnist1", "digits"]),
        ("vit/end_to_end", {"data": {"name": "text8"}}, ["data.name", "text8"]),
        ("vit/end_to_end", {"network": {"width": 30}}, ["width 30", "heads 4"]),
        ("vit/end_to_end", {"training": {"learning_rate": float("inf")}}, ["training.learning_rate"]),
        ("vit/diffusion_blocks", {"method": {"noise": {"p_mean": float("nan")}}}, ["p_mean"]),
        ("vit/diffusion_blocks", {"method": {"noise": {"sigma_min": 90.0}}}, ["sigma_min", "90"]),
        ("vit/diffusion_blocks", {"method": {"num_blocks": 5}}, ["layers", "5 blocks"]),
        ("vit/end_to_end", {"data": {"evaluation_split": "validation"}}, ["train_split"]),
        ("vit/end_to_end", {"task": "masked_text"}, ["network.name", "vit", "masked_lm"]),
        (
            "vit/end_to_end",
            {"method": {"name": "noprop_dt"}},
            ["method.name", "noprop_dt", "network vit", "end_to_end"],
        ),
        ("noprop/dt", {"method": {"name": "end_to_end"}}, ["method.name", "end_to_end", "noprop_cnn", "backprop"]),
        ("noprop/dt", {"network": {"name": "dit"}}, ["network.name", "dit", "noprop_cnn"]),
        ("noprop/dt", {"network": {"embedding": "two_hot"}}, ["network", "embedding", "two_hot"]),
        ("noprop/dt", {"method": {"alpha_bar_range": [0.5, 0.1]}}, ["alpha_bar_range", "0.5", "0.1"]),
        ("noprop/dt", {"data": {"name": "austen"}}, ["data.name", "austen", "images"]),
        ("noprop/dt_dim20", {"network": {"label_branch": "shared"}}, ["label_branch", "learned"]),
        ("noprop/ct", {"method": {"gamma_start": 8.0}}, ["gamma_start 8.0", "gamma_end"]),
        ("noprop/diffusion_blocks", {"method": {"layers_per_block": [1, 1, 1]}}, ["layers_per_block", "whole copies"]),
        ("noprop/diffusion_blocks", {"method": {"label_token": "official"}}, ["method.label_token", "noprop_cnn"]),
        ("mdm/end_to_end", {"data": {"name": "digits"}}, ["data.name", "digits", "characters"]),
        ("mdm/end_to_end", {"network": {"width": 66}}, ["width 66", "heads 4"]),
        ("mdm/end_to_end", {"method": {"name": "forward_forward"}}, ["method.name", "forward_forward"]),
        ("mdm/end_to_end", {"task": {"evaluation_times": 4}}, ["task", "evaluation_times", "16"]),
        ("mdm/diffusion_blocks", {"method": {"weighting": "paper"}}, ["method.weighting", "masks"]),
        ("mdm/diffusion_blocks", {"method": {"noise": {"sigma_max": 10.0}}}, ["method.noise", "masks"]),
    ],
)
def test_refused_in_one_line(run, overrides, said):
    with pytest.raises(UserError) as error:
        resolve(run, "smoke", overrides=overrides)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in said)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        total_steps(resolve("vit/end_to_end", "smoke", overrides={"training": {"batch_size": 2000}}))


def test_a_file_named_otherwise_than_its_experiment_is_refused(tmp_path):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    (config / "runs" / "vit.yaml").rename(config / "runs" / "other.yaml")
    with pytest.raises(UserError, match=r"other\.yaml.*'vit'"):
        load_experiments(config)
