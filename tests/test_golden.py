"""Numbers of short runs, written down: they may change only together with a version in dblocks/versions.py.

`python -m tests.test_golden RUN …` writes those of some runs anew, after a version was raised; without a name, those of
runs that have none yet.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

from dblocks.config import load_experiments, resolve
from dblocks.data.prepare import prepare
from dblocks.encode import encode_data, make_tokenizer, tokenize_data
from dblocks.identity import training_key
from dblocks.record import read_record
from dblocks.run import execute
from dblocks.runlog import read_log

GOLDEN = Path(__file__).parent / "golden"
# each component's numbers once: variants of image experiments differ in fields of one method alone
SAME_CODE = (
    "dit_cifar10/uniform_",
    "dit_cifar10/equi_",
    "dit_cifar10/blocks_",
    "dit_imagenet/blocks_",
    "ar_lm1b/blocks_",
)
SAME_CODE += ("vit/isolated_", "dit_cifar10/isolated_")  # a field of the method, and the same steps in several jobs
SAME_CODE += (
    "vit_choices/",
    "vit/bridge_",
    "dit_cifar10/end_to_end_",
    "dit_cifar10/diffusion_blocks_",
)  # fields of one method alone
SAME_CODE += ("noprop/backprop_", "noprop/dt_", "noprop/ct_", "noprop/fm_", "noprop/diffusion_blocks_")
RUNS = [
    f"{name}/{variant}"
    for name, experiment in load_experiments().items()
    for variant in experiment.variants
    if not f"{name}/{variant}".startswith(SAME_CODE)
]
OVERRIDES = {
    "training": {"max_steps": 6},
    "compute": {"device": "cpu"},
    "logging": {"log_every": 1},
    "generation": {"samples": 20, "repeats": 1},
}
# a few steps' losses, and what is measured after them, agree to this across processors; a change moves them by far more
TOLERANCE, OF_NOPROP = 1e-3, 3e-3
POINTS = 3.0  # accuracy goes by whole images
NAMES_ALONE = ("seconds", "mauve", "distinct", "repetition", "ppl", "entropy_teacher")  # what one other token moves


class Workshop:
    """A folder where short runs are made, each once, with the data and the runs they need."""

    def __init__(self, folder: Path):
        self.folder = folder

    def data(self, name: str) -> Path:
        """A prepared data set's folder."""
        folder = self.folder / "data" / name
        return folder if folder.exists() else prepare(name, None, folder).parent

    def record(self, run: str) -> Path:
        """The record of a run of six steps."""
        few = {"task": {"prompts": 8}} if run.startswith(("ar_", "huginn/")) else {}
        spec = resolve(run, "smoke", 0, OVERRIDES | few)
        folder, needs = self.folder / run.replace("/", "-"), {}
        if (folder / "record.json").exists():
            return folder / "record.json"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
        data = self.data(spec.data.name)
        needs = {role: self.record(needed) for role, needed in spec.needed_runs().items()}
        if spec.generation and spec.generation.latents:
            needs["images"] = data / "manifest.json"
            data = self.folder / "data" / training_key(spec)
            encode_data(folder / "spec.json", needs["images"], needs["autoencoder"], data)
        if spec.task.name == "autoregressive_text":
            text, data = data / "manifest.json", self.folder / "data" / training_key(spec)
            if not (data / "manifest.json").exists():
                make_tokenizer(folder / "spec.json", text, data / "tokenizer.json")
                tokenize_data(folder / "spec.json", text, data)
        return execute(folder / "spec.json", data, needs=needs)

    def short_run(self, run: str) -> dict:
        """Losses of six steps, the versions behind them, and the metrics."""
        path = self.record(run)
        record = read_record(path)
        return {
            "versions": record.code_versions,
            "losses": [line["loss"] for line in read_log(path.parent / "log.jsonl")],
            "metrics": {metric.name: metric.value for metric in sorted(record.metrics, key=lambda m: m.name)},
        }


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("run", RUNS)
def test_numbers_change_only_with_a_version(run, workshop):
    golden = json.loads(file_of(run).read_text())
    found = workshop.short_run(run)
    assert found["versions"] == golden["versions"], f"a version was raised: run `python -m tests.test_golden {run}`"
    tolerance = OF_NOPROP if run.startswith("noprop/") else TOLERANCE
    for step, (new, old) in enumerate(zip(found["losses"], golden["losses"], strict=True)):
        assert new == pytest.approx(old, rel=tolerance), f"step {step} changed: raise the version it depends on"
    assert found["metrics"].keys() == golden["metrics"].keys()
    for name, old in golden["metrics"].items():
        if name.startswith("reference_") or not any(word in name for word in NAMES_ALONE):
            near = {"abs": POINTS} if "accuracy" in name else {"rel": tolerance, "abs": 1e-6}
            assert found["metrics"][name] == pytest.approx(old, **near), f"{name}: raise the version it depends on"


def file_of(run: str) -> Path:
    """Where the numbers of a run are written down."""
    return GOLDEN / f"{run.replace('/', '-')}.json"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        workshop = Workshop(Path(name))
        for run in sys.argv[1:] or [run for run in RUNS if not file_of(run).exists()]:
            text = json.dumps(workshop.short_run(run), indent=1)
            file_of(run).write_text(text + "\n")


if __name__ == "__main__":
    main()
