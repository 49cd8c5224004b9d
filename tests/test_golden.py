"""Numbers of short runs, written down: they may change only together with a version in dblocks/versions.py.

`python -m tests.test_golden` writes them anew after a version was raised.
"""

import json
import tempfile
from pathlib import Path

import pytest

from dblocks.config import load_experiments, resolve
from dblocks.data.prepare import prepare
from dblocks.record import read_record
from dblocks.run import execute
from dblocks.runlog import read_log

GOLDEN = Path(__file__).parent / "golden"
RUNS = [f"{name}/{variant}" for name, experiment in load_experiments().items() for variant in experiment.variants]
# a few steps' losses agree to this across processors; a real change moves them by far more
TOLERANCE = 1e-3


def prepared(run: str, folder: Path) -> Path:
    """The data of a run at scale smoke, prepared below `folder` unless it is there."""
    name = resolve(run, "smoke").data.name
    return folder / name if (folder / name).exists() else prepare(name, None, folder / name).parent


def short_run(run: str, folder: Path, data: Path) -> dict:
    """Losses of six steps, the versions behind them, and the names of the metrics."""
    overrides = {"training": {"max_steps": 6}, "compute": {"device": "cpu"}, "logging": {"log_every": 1}}
    overrides["data"] = {"max_evaluation_samples": 50}
    spec = resolve(run, "smoke", 0, overrides)
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    record = read_record(execute(folder / "spec.json", data))
    losses = [line["loss"] for line in read_log(folder / "log.jsonl")]
    return {
        "versions": record.code_versions,
        "losses": losses,
        "metrics": sorted(metric.name for metric in record.metrics),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Where the runs' data is prepared, once for all of them."""
    return tmp_path_factory.mktemp("golden-data")


@pytest.mark.parametrize("run", RUNS)
def test_numbers_change_only_with_a_version(run, data, tmp_path):
    golden = json.loads((GOLDEN / f"{run.replace('/', '-')}.json").read_text())
    found = short_run(run, tmp_path / "run", prepared(run, data))
    assert found["versions"] == golden["versions"], "a version was raised: run `python -m tests.test_golden`"
    assert found["metrics"] == golden["metrics"]
    for step, (new, old) in enumerate(zip(found["losses"], golden["losses"], strict=True)):
        assert new == pytest.approx(old, rel=TOLERANCE), f"step {step} changed: raise the version it depends on"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for run in RUNS:
            key = run.replace("/", "-")
            text = json.dumps(short_run(run, Path(name) / key, prepared(run, Path(name) / "data")), indent=1)
            (GOLDEN / f"{key}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
