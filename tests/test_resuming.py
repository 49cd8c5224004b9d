"""What a run goes on from: its own checkpoints and weights, and no others that lie in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dblocks.block_run import execute_block
from dblocks.checkpoint import checkpoints, load_recorded, load_verified, save_verified
from dblocks.errors import UserError
from dblocks.run import execute
from dblocks.runlog import read_log
from dblocks.training import Trainer

TOTAL = 12
OVER = {"training": {"ema_half_life": 100, "max_steps": TOTAL}, "logging": {"log_every": 1, "checkpoint_steps": 5}}


@pytest.fixture
def trainer(built, tiny_spec):
    def make(
        folder: Path, name: str = "end_to_end", total: int = TOTAL, block: int | None = None, **sections: Any
    ) -> Trainer:
        spec = tiny_spec(name, {**OVER, **sections})
        folder.mkdir(exist_ok=True)
        return Trainer(spec, built(spec), total, folder, torch.device("cpu"), block)

    return make


def refusal(made: Trainer) -> str:
    """The line with which `made` does not begin; nothing in its folder has changed."""
    before = {path: path.read_bytes() for path in made.folder.iterdir()}
    with pytest.raises(UserError) as error:
        made.run()
    assert before == {path: path.read_bytes() for path in made.folder.iterdir()}
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"training": {**OVER["training"], "learning_rate": 3e-3}}, "run: weights: '"),
        ({"name": "diffusion_blocks"}, "run: weights: '"),
        ({"seed": 1}, "run: seed: 0, here 1: "),
        ({"block": 0}, "run: block: None, here 0: "),
    ],
)
def test_another_trainings_checkpoint_is_refused_by_name(trainer, tmp_path, other, field):
    trainer(tmp_path).run()
    newest = checkpoints(tmp_path)[0]
    assert f"{newest}: {field}" in refusal(trainer(tmp_path, **other))


def test_how_a_run_is_logged_or_predicts_does_not_make_it_another(trainer, tmp_path):
    trainer(tmp_path, "diffusion_blocks").run()
    again = trainer(
        tmp_path,
        "diffusion_blocks",
        method={"sampling": {"steps": 7}},
        logging={"log_every": 3, "checkpoint_steps": 4},
    )
    assert again._restore() == 10


def rewrite(path: Path, **fields: Any) -> Path:
    """A checkpoint with other content, under a name that fits it; `None` leaves a field out."""
    state = {name: value for name, value in {**load_verified(path), **fields}.items() if value is not None}
    path.unlink()
    return save_verified(path.parent, path.name.rpartition("-")[0], state)


@pytest.mark.parametrize("run", [None, "mine", {}])
def test_a_checkpoint_that_does_not_say_whose_it_is_is_refused_by_name(trainer, tmp_path, run):
    trainer(tmp_path).run()
    newest = rewrite(checkpoints(tmp_path)[0], run=run)
    assert f"{newest}: run: " in refusal(trainer(tmp_path))


def test_a_checkpoint_that_went_further_than_the_run_is_refused_by_name(trainer, tmp_path):
    trainer(tmp_path).run()
    line = refusal(trainer(tmp_path, total=9))
    assert f"{checkpoints(tmp_path)[0]}: step: 10, and the run has 9; remove it" in line


def test_a_checkpoint_with_weights_of_another_network_is_refused_by_name(trainer, tmp_path):
    trainer(tmp_path).run()
    newest = rewrite(checkpoints(tmp_path)[0], network={"w": torch.ones(2)})
    line = refusal(trainer(tmp_path))
    assert f"{newest}: weights of another network (" in line and "remove the step-*.pt" in line


def test_seconds_of_training_are_those_of_all_attempts(trainer, tmp_path):
    trainer(tmp_path).run()
    rewrite(checkpoints(tmp_path)[0], seconds=5e5)
    again = trainer(tmp_path)
    again.run()
    assert 5e5 < again.seconds < 6e5
    logged = {line["step"]: line["seconds"] for line in read_log(tmp_path / "log.jsonl")}
    assert all((logged[step] >= 5e5) == (step > 10) for step in range(1, TOTAL + 1))


def test_seconds_of_training_are_kept_in_every_checkpoint(trainer, tmp_path):
    made = trainer(tmp_path)
    made.run()
    late, early = (load_verified(path)["seconds"] for path in checkpoints(tmp_path))
    assert 0 < early < late <= made.seconds


def changed(state: dict[str, Any], *keys: Any, to: Any) -> dict[str, Any]:
    """A copy of nested mappings with one value changed."""
    key, *rest = keys
    return {**state, key: changed(state[key], *rest, to=to) if rest else to}


WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "step missing": lambda s: {"step": None},
    "step text": lambda s: {"step": "10"},
    "step another than the name's": lambda s: {"step": 9},
    "seconds missing": lambda s: {"seconds": None},
    "seconds text": lambda s: {"seconds": "1.5"},
    "seconds nan": lambda s: {"seconds": float("nan")},
    "network missing": lambda s: {"network": None},
    "optimizer missing": lambda s: {"optimizer": None},
    "optimizer list": lambda s: {"optimizer": []},
    "optimizer empty": lambda s: {"optimizer": {}},
    "optimizer without groups": lambda s: {"optimizer": changed(s["optimizer"], "param_groups", to=[])},
    "optimizer of text": lambda s: {"optimizer": changed(s["optimizer"], "state", to="state")},
    "optimizer of another": lambda s: {"optimizer": changed(s["optimizer"], "state", 999, to={})},
    "optimizer without a moment": lambda s: {"optimizer": changed(s["optimizer"], "state", 0, to={})},
    "optimizer of other shapes": lambda s: {
        "optimizer": changed(s["optimizer"], "state", 0, "exp_avg", to=torch.zeros(7))
    },
    "ema missing": lambda s: {"ema": None},
    "ema empty": lambda s: {"ema": {}},
    "ema number": lambda s: {"ema": dict.fromkeys(s["ema"], 1.0)},
    "ema of other shapes": lambda s: {"ema": dict.fromkeys(s["ema"], torch.zeros(7))},
    "ema_updates missing": lambda s: {"ema_updates": None},
    "ema_updates text": lambda s: {"ema_updates": dict.fromkeys(s["ema"], "1")},
}


@pytest.fixture(scope="module")
def whole(built, tiny_spec, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights of a run that was left alone."""
    spec = tiny_spec("end_to_end", OVER)
    made = Trainer(spec, built(spec), TOTAL, tmp_path_factory.mktemp("whole"), torch.device("cpu"))
    made.run()
    return {name: tensor.clone() for name, tensor in made.final_weights().items()}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_checkpoint_with_wrong_content_is_named_and_the_one_before_used(trainer, tmp_path, capsys, whole, wrong):
    trainer(tmp_path).run()
    newest, _ = checkpoints(tmp_path)
    newest = rewrite(newest, **WRONG[wrong](load_verified(newest)))
    again = trainer(tmp_path)
    again.run()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"refused checkpoint: {newest}: {wrong.split()[0]}: missing, or not what" in line
    assert newest.with_suffix(".broken").exists()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.final_weights().items())


def test_where_no_checkpoint_is_right_training_starts_over_with_fresh_weights(trainer, tmp_path, whole):
    trainer(tmp_path).run()
    for path in checkpoints(tmp_path):
        rewrite(path, optimizer=[])
    again = trainer(tmp_path)
    again.run()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.final_weights().items())


def test_of_two_final_weights_none_is_taken(tiny_spec, digits_folder, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(tiny_spec("end_to_end", {**OVER, "data": {"max_evaluation_samples": 4}}).model_dump_json())
    execute(path, digits_folder)
    (own,) = tmp_path.glob("weights-*.pt")
    other = save_verified(tmp_path, "weights", {"network": {}})
    for name in ("record.json", "result.json"):
        (tmp_path / name).unlink()
    with pytest.raises(
        UserError, match=r"holds weights-\w+\.pt and weights-\w+\.pt.*; remove those that are not its own$"
    ):
        execute(path, digits_folder)
    other.unlink()
    assert json.loads(execute(path, digits_folder).read_text())["weights"] == own.name


def test_of_two_final_weights_of_a_block_none_is_taken(tiny_spec, digits_folder, tmp_path):
    method = {"num_blocks": 3, "embedders": "own", "target_table": "frozen", "block_order": "turns"}
    spec = tiny_spec("diffusion_blocks", {**OVER, "method": {**method, "schedule": "parallel"}})
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    execute_block(tmp_path / "spec.json", 1, digits_folder)
    save_verified(tmp_path / "blocks" / "1", "weights", {"network": {}})
    with pytest.raises(UserError, match="blocks/1: holds weights-"):
        execute_block(tmp_path / "spec.json", 1, digits_folder)


@pytest.mark.parametrize("state", [{}, {"network": {}}, {"network": {"weight": torch.ones(3), "bias": torch.ones(1)}}])
def test_a_records_weights_that_are_of_no_such_network_are_one_line(state, tmp_path):
    weights = save_verified(tmp_path, "weights", state)
    with pytest.raises(UserError, match=r"record\.json: its weights cannot be read: .*weights of another") as error:
        load_recorded(torch.nn.Linear(2, 1), tmp_path / "record.json", weights.name)
    assert "\n" not in str(error.value)


def test_a_records_weights_that_are_not_there_or_damaged_are_one_line(tmp_path):
    weights = save_verified(tmp_path, "weights", {"network": torch.nn.Linear(2, 1).state_dict()})
    network = torch.nn.Linear(2, 1)
    load_recorded(network, tmp_path / "record.json", weights.name)
    assert network.weight.equal(load_verified(weights)["network"]["weight"])
    weights.write_bytes(weights.read_bytes()[:-1])
    for name in (weights.name, "weights-0123456789abcdef.pt"):
        with pytest.raises(UserError, match=r"record\.json: its weights cannot be read: ") as error:
            load_recorded(network, tmp_path / "record.json", name)
        assert "\n" not in str(error.value)
