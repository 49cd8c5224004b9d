"""Bad inputs by name: what is wrong, and the words that the one line about it must have.

Here are those that the plan refuses, before any job: files of config/, and what `snakemake --config` is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Edit:
    """A file of config/ in which `old` is replaced by `new`, once; without `old` it is written anew."""

    file: str
    new: str | bytes
    old: str | None = None
    said: tuple[str, ...] = ()

    def apply(self, config: Path) -> None:
        path = config / self.file
        if self.old is None:
            path.write_bytes(self.new if isinstance(self.new, bytes) else self.new.encode())
            return
        text = path.read_text()
        assert self.old in text, f"{self.file} has no {self.old!r}"
        path.write_text(text.replace(self.old, self.new, 1))


VIT, TABLE, TWO = "runs/vit.yaml", "tables/table_1.yaml", "tables/table_2.yaml"
CLAIMS, MEASURED, SCALES = "claims.yaml", "measurements.yaml", "scales.yaml"
BLOCKS = "num_blocks: 3, overlap: 0.05}"
FIRST = "  end_to_end: {}"  # the first variant of the ViT

CONFIGURATION: dict[str, Edit] = {
    # a run's settings
    "unknown key": Edit(VIT, "num_blocks: 3, overlp: 0.1}", BLOCKS, ("overlp", "diffusion_blocks")),
    "wrong type": Edit(VIT, "num_blocks: 3, overlap: wide}", BLOCKS, ("overlap", "'wide'")),
    "true for a number": Edit(VIT, "num_blocks: 3, overlap: true}", BLOCKS, ("overlap", "number", "'true'")),
    "a word that YAML 1.1 takes for true": Edit(VIT, "epochs: on", "epochs: 500", ("training.epochs", "'on'")),
    "a time for a number": Edit(VIT, "epochs: 1:30", "epochs: 500", ("training.epochs", "'1:30'")),
    "below its least": Edit(VIT, "num_blocks: 3, overlap: -0.1}", BLOCKS, ("overlap", "-0.1")),
    "layers do not add up": Edit(
        VIT, "num_blocks: 3, layers_per_block: [2, 4, 8]}", BLOCKS, ("[2, 4, 8]", "14", "network.layers")
    ),
    "impossible embedders": Edit(
        VIT, "num_blocks: 3, embedders: own, target_table: trained}", BLOCKS, ("embedders 'own'", "target_table")
    ),
    "a section that is a number": Edit(VIT, "  network: 3\n#", "  network:", ("network", "found 3")),
    "a patch of no width": Edit(VIT, "patch_size: 0, mlp", "patch_size: 4, mlp", ("patch_size", "found 0")),
    "patches that do not tile": Edit(VIT, "patch_size: 5, mlp", "patch_size: 4, mlp", ("patch_size", "5", "32×32")),
    "heads that do not divide": Edit(VIT, "heads: 5,", "heads: 4,", ("width 128", "heads 5")),
    "a batch above the data": Edit(VIT, "batch_size: 128000", "batch_size: 128", ("batch_size", "128000", "50000")),
    "an infinite budget": Edit(VIT, "epochs: .inf", "epochs: 500", ("training.epochs", "inf", "scale paper")),
    "averages that grow": Edit(
        VIT, "grad_clip: 1.0\n    betas: [0.9, 1.5]", "grad_clip: 1.0", ("betas", "1.5", "below 1")
    ),
    "a rate that rises": Edit(
        VIT, "min_learning_rate: 5.0", "min_learning_rate: 5.0e-5", ("min_learning_rate 5.0", "learning_rate")
    ),
    "two ways to compile": Edit(
        VIT,
        "  task: classification\n  compute: {compile: blocks, checkpoint_activations: true}",
        "  task: classification",
        ("checkpoint_activations", "'blocks' does not"),
    ),
    "no such data set": Edit(VIT, "name: cifar1000", "name: cifar100", ("data.name", "cifar1000", "digits")),
    "data of another kind": Edit(VIT, "name: text8", "name: cifar100", ("data.name", "text8", "no images")),
    "no such task": Edit(VIT, "task: clasification", "task: classification", ("task", "clasification")),
    "a text without its file": Edit(
        "runs/mdm.yaml", "name: characters", "name: text8", ("data.path", "not set", "characters")
    ),
    "a teacher that needs itself": Edit(
        "runs/ar_lm1b.yaml", "ar_lm1b/end_to_end", "teacher/end_to_end", ("its own weights", "ar_lm1b/end_to_end")
    ),
    # a run's file
    "broken YAML": Edit(VIT, "variants:\n  end_to_end: {", "variants:\n  end_to_end: {}", ("not YAML", "line")),
    "a variant twice": Edit(VIT, f"{FIRST}\n{FIRST}", FIRST, ("'end_to_end'", "twice")),
    "an object in YAML": Edit(
        VIT, "  end_to_end: !!python/object/apply:os.mkdir [executed]", FIRST, ("not YAML", "python/object")
    ),
    "not UTF-8": Edit(VIT, b"experiment: vit\ndescription: \xff\n", None, ("not YAML",)),
    "a NUL": Edit(VIT, "experiment: \0", None, ("not YAML",)),
    "no value of its tag": Edit(VIT, "epochs: !!int ''", "epochs: 500", ("not YAML", "'' is no int", "line")),
    "aliases without end": Edit(VIT, "  end_to_end: &a {training: *a}", FIRST, ("not YAML", "aliases", "line")),
    "an empty file": Edit(VIT, "", None, ("dictionary", "None")),
    "a list": Edit(VIT, "- vit\n", None, ("dictionary",)),
    "nested without end": Edit(VIT, "[" * 5000, None, ("not YAML", "deep")),
    "another file's name": Edit(VIT, "experiment: vitt", "experiment: vit", ("experiment", "'vitt'", "'vit'")),
    "a variant's name": Edit(VIT, f"  End: {{}}\n{FIRST}", FIRST, ("variant", "'End'")),
    "a scale that is none": Edit(VIT, "\n  shrt:\n", "\n  short:\n", ("scales.shrt", "smoke, short, paper")),
    "a scale's variant that is none": Edit(
        VIT,
        "diffusion_block: {training: {learning_rate: 4.0e-3}}",
        "diffusion_blocks: {training: {learning_rate: 4.0e-3}}",
        ("scales.smoke.variants.diffusion_block",),
    ),
    # scales
    "no seeds": Edit(SCALES, "seeds: 0", "seeds: 3", ("seeds", "found 0")),
    "a scale's device": Edit(SCALES, "device: gpu", "device: cuda", ("compute.device", "'gpu'", "cuda")),
    # tables
    "a row without a run": Edit(TABLE, "vit/diffusion_block,", "vit/diffusion_blocks,", ("vit/diffusion_block'",)),
    "a row twice": Edit(
        TABLE,
        "row: ViT + DiffusionBlocks, run: vit/end_to_end}\n  - {row: ViT + DiffusionBlocks",
        "row: ViT + DiffusionBlocks",
        ("two rows", "same name"),
    ),
    "a column twice": Edit(TABLE, "metric: accuracy", "metric: sigma_max_accuracy", ("two columns", "same metric")),
    "the paper's value of no column": Edit(
        TABLE, "{accurracy: 60.25}", "{accuracy: 60.25}", ("accurracy", "no column")
    ),
    "a fact of nothing": Edit(
        TABLE, "row: ViT, facts: {read on: 'the {place}'}", "row: ViT", ("facts.read on", "{place}", "{dataset}")
    ),
    "a heading of nothing": Edit(TWO, "{datset}", "{dataset}", ("substitute.label", "{datset}", "{dataset}")),
    "a better that is none": Edit(TABLE, "better: more", "better: higher", ("columns.0.better", "'more'")),
    "a measurement that is none": Edit(
        "tables/table_12.yaml", "time_vitt", "time_vit", ("'time_vitt'", "measurements.yaml")
    ),
    # claims and measurements
    "a claim about no table": Edit(CLAIMS, "table: table_99", "table: table_1", ("no table 'table_99'",)),
    "a claim about no row": Edit(CLAIMS, "right: Vit}", "right: ViT}", ("no row 'Vit'",)),
    "a claim about no metric": Edit(CLAIMS, "metric: acuracy", "metric: accuracy", ("no metric 'acuracy'",)),
    "a claim with two bounds": Edit(
        CLAIMS, "at_least: 20\n    at_most: 30", "at_least: 20", ("one of at_least and at_most",)
    ),
    "a bound that is no number": Edit(CLAIMS, "at_least: .nan", "at_least: 20", ("at_least", "nan")),
    "a claim twice": Edit(
        CLAIMS,
        "claim: vit_db_matches_end_to_end",
        "claim: vit_db_beats_forward_forward",
        ("vit_db_matches_end_to_end", "twice"),
    ),
    "a measurement of no run": Edit(MEASURED, "run: vit/x,", "run: vit/diffusion_blocks,", ("vit/x", ".run")),
    "a measurement of no kind": Edit(MEASURED, "kind: wall_clock", "kind: wall_time", ("kind", "wall_clock")),
    "a measurement at no scale": Edit(MEASURED, "shapes: papier", "shapes: paper", ("shapes", "papier")),
}


def a_text(**data: str) -> dict[str, Any]:
    """A command line that gives masked text a file of the user's, with `data` laid on."""
    return {"override_runs": {"mdm": {"data": {"name": "characters", "path": "file", **data}}}}


COMMAND_LINES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a scale that is none": ({"scale": "huge"}, ("scale", "'huge'", "smoke, short, paper")),
    "a key that is none": ({"sale": "paper"}, ("sale", "known keys", "scale")),
    "a key that is a number": ({1: 2}, ("--config 1",)),
    "no seeds": ({"seeds": 0}, ("seeds", "found 0")),
    "more seeds than files to write": ({"seeds": 20000}, ("seeds", "1000", "20000")),
    "seeds in words": ({"seeds": "two"}, ("seeds", "'two'", "integer")),
    "true seeds": ({"seeds": True}, ("seeds", "'true'", "integer")),
    "half a seed": ({"seeds": 1.5}, ("seeds", "fraction")),
    "W&B in between": ({"wandb": "maybe"}, ("wandb", "'maybe'", "offline|online|off")),
    "to skip what there is not": ({"skip": ["mnist"]}, ("skip", "'mnist'", "digits")),
    "to skip no list": ({"skip": "digits"}, ("skip", "list", "'digits'")),
    "a device that is none": ({"device": "tpu"}, ("--config device", "'tpu'", "cuda")),
    "no steps": ({"max_steps": 0}, ("max_steps", "found 0")),
    "fewer than no samples": ({"max_samples": -1}, ("max_samples", "-1")),
    "an override that is no mapping": ({"override": 5}, ("override", "dictionary", "5")),
    "an override that is not YAML": ({"override": "{training: {epochs: [}}"}, ("override", "not YAML")),
    "an override that is an object": (
        {"override": "!!python/object/apply:os.mkdir [executed]"},
        ("override", "not YAML", "python/object"),
    ),
    "an override of no field": (
        {"override": "{trainig: {epochs: 1}}"},
        ("trainig", "command line"),
    ),
    "an override out of range": (
        {"override": "{training: {epochs: -1}}"},
        ("training.epochs", "-1", "command line"),
    ),
    "an override of the seed": ({"override": {"seed": 3}}, ("override", "'seed'", "keys of their own")),
    "an override of the scale": ({"override_runs": {"vit": {"scale": "paper"}}}, ("override_runs", "'scale'")),
    "an override of no experiment": (
        {"override_runs": {"vitt": {"training": {"epochs": 1}}}},
        ("override_runs", "'vitt'", "vit"),
    ),
    "an override of no variant": (
        {"override_runs": {"vit/diffusion_block": {"training": {"epochs": 1}}}},
        ("override_runs", "'vit'", "'diffusion_block'", "diffusion_blocks"),
    ),
    "a scale that is a list, and parts": ({"scale": ["paper"], "at_scale": {"paper": {}}}, ("scale", "valid string")),
    "a part for no scale": ({"at_scale": {"papr": {}}}, ("at_scale", "'papr'", "paper")),
    "a part of no known key": ({"at_scale": {"paper": {"skipp": []}}}, ("at_scale", "paper: skipp")),
    "a part with a scale of its own": ({"at_scale": {"paper": {"scale": "smoke"}}}, ("at_scale", "paper", "scale")),
    "a part that skips nothing known": ({"at_scale": {"paper": {"skip": ["vit"]}}}, ("skip", "'vit'", "cifar100")),
    "a part for no experiment": (
        {"at_scale": {"paper": {"override_runs": {"vitt": {}}}}},
        ("override_runs", "'vitt'", "vit"),
    ),
    "two crops at once": (
        {"override_runs": {"vit": {"augment": {"resized_crop": True}}}},
        ("augment", "resized_crop", "crop_padding"),
    ),
    "a batch above the data": (
        {"override": {"training": {"batch_size": 10**6}}},
        ("batch_size", "1000000", "command line"),
    ),
    "processes that do not divide": ({"override": {"compute": {"gpus": 3}}}, ("compute.gpus 3", "batch_size 64")),
    "another data set's name": ({"override_runs": {"vit": {"data": {"title": "cifar100"}}}}, ("title", "cifar100")),
    "a title that leads elsewhere": (a_text(title="../../evil"), ("title", "'../../evil'", "'/'")),
    "a title of two lines": (a_text(title='"a\\nb"'), ("title", r"'a\nb'", "printed")),
    "a title without end": (a_text(title="t" * 101), ("title", "ttt…", "at most 100")),
    "a file whose name is no title": (
        a_text(path="f" * 101),
        ("data.title", "fff…", "the file's name; set data.title"),
    ),
    "a text without a name": (a_text(path="''"), ("data.path", "found ''")),
    "a text that is not there": (
        {"override_runs": {"mdm": {"data": {"name": "characters", "path": "no.txt"}}}},
        ("data.path", "no.txt"),
    ),
    "a home that is not there": ({"data_dir": "~nobody-at-all/data"}, ("data_dir", "home", "~nobody-at-all")),
    "a directory without a name": ({"results_dir": ""}, ("results_dir", "no path")),
    "a directory with a line feed": ({"results_dir": "a\nb"}, ("results_dir", "no path")),
    "a directory like an option": ({"results_dir": "./-r"}, ("results_dir", "'-'", "'./-r'")),
    "a directory like a wildcard": ({"results_dir": "{run}"}, ("results_dir", "'{'", "'{run}'")),
    "a directory of too long a name": ({"results_dir": "a" * 300}, ("results_dir", "no path", "too long")),
    "data in a directory like a wildcard": ({"data_dir": "da}ta"}, ("data_dir", "'}'", "'da}ta'")),
    "results in a file": ({"results_dir": "file"}, ("results_dir", "'file'", "directory")),
    "results below a file": ({"results_dir": "file/results"}, ("results_dir", "file/results", "written")),
    "results where nothing can be written": ({"results_dir": "/proc/results"}, ("results_dir", "/proc/results")),
    "data in a file": ({"data_dir": "file"}, ("data_dir", "'file'", "directory")),
}
