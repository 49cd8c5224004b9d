"""The training loop: runs that are stopped, killed or damaged end with the same bits as one that was left alone."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dblocks.checkpoint import checkpoints, load_verified, save_verified
from dblocks.cli import main
from dblocks.errors import Interrupted, TrainingFailed
from dblocks.methods.diffusion_blocks import block_of_step
from dblocks.moving_average import MovingAverage
from dblocks.run import execute
from dblocks.runlog import RunLog, read_log
from dblocks.spec import TrainingSpec
from dblocks.training import Trainer, learning_rate_factor

TOTAL = 24
# everything that has a state or draws numbers: moving average, schedule, dropout, augmentation, blocks
LIVELY = {
    "network": {"dropout": 0.1},
    "training": {"ema_half_life": 100, "warmup_epochs": 0.2, "weight_decay": 0.1},
    "logging": {"log_every": 1, "checkpoint_steps": 5},
}
METHODS = ["diffusion_blocks", "end_to_end", "contrastive_forward_forward", "forward_forward"]


class Crash(Exception):
    """Stands for whatever ends a process in the middle of a step."""


@pytest.fixture(autouse=True)
def sigterm_is_caught() -> Iterator[None]:
    """A SIGTERM that the code under test lets through fails the test and does not end pytest."""

    def fail(*_: object) -> None:
        raise AssertionError("SIGTERM reached the process")

    before = signal.signal(signal.SIGTERM, fail)
    yield
    signal.signal(signal.SIGTERM, before)


def disturb(method: Any, at: int, act: Callable[[], None]) -> Any:
    """`method`, doing `act` as it begins step `at`."""
    draw = method.draw

    def disturbed(step: int):
        if step == at:
            act()
        return draw(step)

    method.draw = disturbed
    return method


def stop(times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise Crash


@pytest.fixture
def trainer(built, tiny_spec):
    def make(folder: Path, name: str = "diffusion_blocks", over: dict | None = None, **disturbance) -> Trainer:
        spec = tiny_spec(name, LIVELY if over is None else over)
        method = disturb(built(spec), **disturbance) if disturbance else built(spec)
        folder.mkdir(exist_ok=True)
        return Trainer(spec, method, TOTAL, folder, torch.device("cpu"))

    return make


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def course(folder: Path) -> list[dict]:
    """The log without wall time."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder / "log.jsonl")]


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_log(folder / "log.jsonl")]


# stopped, crashed, damaged


@pytest.mark.parametrize("name", METHODS)
def test_a_run_stopped_at_random_steps_ends_with_the_same_bits_and_log(trainer, tmp_path, name):
    whole = trainer(tmp_path / "whole", name)
    whole.run()
    for at in sorted(random.Random(name).sample(range(TOTAL), 3)):
        with pytest.raises(Interrupted, match=f"stopped at step {at + 1} of {TOTAL}; state saved"):
            trainer(tmp_path / "cut", name, at=at, act=stop).run()
        assert load_verified(checkpoints(tmp_path / "cut")[0])["step"] == at + 1
    last = trainer(tmp_path / "cut", name)
    last.run()
    assert same_bits(last.final_weights(), whole.final_weights())
    assert course(tmp_path / "cut") == course(tmp_path / "whole")
    assert steps(tmp_path / "cut") == list(range(1, TOTAL + 1))


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_crashed_between_checkpoints_ends_with_the_same_bits_and_log(trainer, tmp_path, name):
    whole = trainer(tmp_path / "whole", name)
    whole.run()
    for at in sorted(random.Random(name).sample(range(TOTAL), 3)):
        with pytest.raises(Crash):
            trainer(tmp_path / "cut", name, at=at, act=crash).run()
        assert steps(tmp_path / "cut") == list(range(1, at + 1)), "lines after the checkpoint are still there"
        with open(tmp_path / "cut" / "log.jsonl", "a") as file:
            file.write('{"step": 99, "lo')
    last = trainer(tmp_path / "cut", name)
    last.run()
    assert same_bits(last.final_weights(), whole.final_weights())
    assert course(tmp_path / "cut") == course(tmp_path / "whole")


def test_log_lines_of_several_steps_are_neither_lost_nor_doubled_by_a_stop(trainer, tmp_path):
    over = {**LIVELY, "logging": {"log_every": 7, "checkpoint_steps": 5}}
    for at in (2, 8, 16):
        with pytest.raises(Interrupted):
            trainer(tmp_path, over=over, at=at, act=stop).run()
    trainer(tmp_path, over=over).run()
    found = steps(tmp_path)
    assert found == sorted(set(found)) and found[-1] == TOTAL
    assert {3, 9, 17} <= set(found)


def test_the_last_step_may_be_the_one_that_is_stopped(trainer, tmp_path):
    with pytest.raises(Interrupted):
        trainer(tmp_path, at=TOTAL - 1, act=stop).run()
    last = trainer(tmp_path)
    last.run()
    assert steps(tmp_path) == list(range(1, TOTAL + 1))


def test_three_sigterms_are_one(trainer, tmp_path):
    with pytest.raises(Interrupted, match="stopped at step 8"):
        trainer(tmp_path, at=7, act=lambda: stop(3)).run()
    assert [load_verified(path)["step"] for path in checkpoints(tmp_path)] == [8, 5]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(trainer, tmp_path, capsys, damage):
    whole = trainer(tmp_path / "whole")
    whole.run()
    with pytest.raises(Crash):
        trainer(tmp_path / "cut", at=17, act=crash).run()
    newest, before = checkpoints(tmp_path / "cut")
    assert (newest.name[:14], before.name[:14]) == ("step-000000015", "step-000000010")
    damage(newest)
    last = trainer(tmp_path / "cut")
    assert last._restore() == 10
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(newest) in lines[0] and "refused" in lines[0]
    last = trainer(tmp_path / "cut")
    last.run()
    assert same_bits(last.final_weights(), whole.final_weights())
    assert course(tmp_path / "cut") == course(tmp_path / "whole")


def test_where_every_checkpoint_is_damaged_training_starts_over(trainer, tmp_path, capsys):
    with pytest.raises(Crash):
        trainer(tmp_path, at=17, act=crash).run()
    for path in checkpoints(tmp_path):
        truncate(path)
    last = trainer(tmp_path)
    assert last._restore() == 0
    assert len(capsys.readouterr().err.splitlines()) == 2
    last.run()
    assert steps(tmp_path) == list(range(1, TOTAL + 1))


def test_sigterm_is_given_back_when_training_is_over(trainer, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    trainer(tmp_path).run()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_two_checkpoints_are_kept_and_no_half_written_file(trainer, tmp_path):
    trainer(tmp_path).run()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name[:14] for name in names] == ["log.jsonl", "step-000000015", "step-000000020"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(IsADirectoryError):
        content = {"network": torch.ones(3)}
        path = save_verified(tmp_path, "weights", content)
        path.unlink()
        path.mkdir()
        save_verified(tmp_path, "weights", content)
    assert [p.is_dir() for p in tmp_path.iterdir()] == [True]


def test_a_log_is_cut_back_to_the_step_it_is_opened_at(tmp_path):
    path, heard = tmp_path / "log.jsonl", []
    log = RunLog(path, 0)
    for step in (1, 2, 3, 4):
        log.write(step=step, loss={"1": step / 2}, learning_rate=0.1, seconds=1.5)
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 5, "loss": {"1"')
    log = RunLog(path, 2, heard.append)
    assert steps(tmp_path) == [1, 2]
    log.write(step=3, loss={"1": 9.0}, learning_rate=0.1, seconds=2)
    log.close()
    assert steps(tmp_path) == [1, 2, 3]
    assert heard == [{"step": 3, "loss": {"1": 9.0}, "learning_rate": 0.1, "seconds": 2}] == read_log(path)[2:]


# a real process, killed


@pytest.fixture(scope="module")
def long_spec(tiny_spec):
    """Seconds of training at a dozen checkpoints a second."""
    logging = {"log_every": 1, "checkpoint_steps": 10}
    training = {"epochs": 1, "ema_half_life": 1000, "weight_decay": 0.1}
    return tiny_spec("diffusion_blocks", {"network": {"dropout": 0.1}, "training": training, "logging": logging})


def folder_of(spec, folder: Path) -> Path:
    folder.mkdir()
    (folder / "spec.json").write_text(spec.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def undisturbed(long_spec, digits_folder, tmp_path_factory) -> Path:
    """The folder of a run that was left alone."""
    folder = folder_of(long_spec, tmp_path_factory.mktemp("runs") / "undisturbed")
    execute(folder / "spec.json", digits_folder)
    return folder


def command(folder: Path, digits_folder: Path) -> list[str]:
    data = str(digits_folder / "manifest.json")
    return [sys.executable, "-m", "dblocks", "run", str(folder / "spec.json"), "--data", data, "--quiet"]


def wait_for(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the log of a running process has got to `step`."""
    for _ in range(20_000):
        assert process.poll() is None, process.communicate()
        if (found := steps(folder)) and found[-1] >= step:
            return
        time.sleep(0.003)
    raise AssertionError(f"never got to step {step}")


def terminate(process: subprocess.Popen) -> None:
    """SIGTERM until it is gone."""
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)


@pytest.fixture(scope="module")
def killed(long_spec, digits_folder, tmp_path_factory) -> dict[str, Any]:
    """A run by the command line: twice SIGKILL at random moments, once SIGTERM again and again, then to its end."""
    folder = folder_of(long_spec, tmp_path_factory.mktemp("runs") / "killed")
    outcome: dict[str, Any] = {"folder": folder, "codes": [], "errors": []}
    last = 0
    for end in (subprocess.Popen.kill, subprocess.Popen.kill, terminate, None):
        process = subprocess.Popen(
            command(folder, digits_folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if end:
            wait_for(process, folder, last := last + random.Random().randint(1, 50))
            end(process)
        outcome["errors"].append(process.communicate(timeout=120)[1])
        outcome["codes"].append(process.returncode)
    return outcome


def test_killed_runs_were_killed_and_then_finished(killed):
    assert killed["codes"][:2] == [-signal.SIGKILL] * 2
    assert killed["codes"][3] == 0
    assert killed["errors"][3] == ""


def test_a_process_that_gets_sigterm_again_and_again_ends_with_status_75(killed):
    assert killed["codes"][2] == 75
    line = killed["errors"][2]
    assert line.startswith("dblocks: stopped at step") and line.count("\n") == 1


def test_a_killed_run_ends_with_the_same_bits_as_one_left_alone(killed, undisturbed):
    one, other = (load_verified(next(f.glob("weights-*.pt")))["network"] for f in (killed["folder"], undisturbed))
    assert same_bits(one, other)


def test_a_killed_runs_weights_have_the_same_name_as_one_left_alone(killed, undisturbed):
    one, other = ([path.name for path in f.glob("weights-*.pt")] for f in (killed["folder"], undisturbed))
    assert one == other


def test_a_killed_run_has_every_step_once_in_its_log(killed, undisturbed):
    found = course(killed["folder"])
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    assert found == course(undisturbed)


def test_a_killed_run_measures_the_same_and_leaves_the_same_files(killed, undisturbed):
    records = [json.loads((f / "record.json").read_text()) for f in (killed["folder"], undisturbed)]
    for key in ("metrics", "identity", "steps", "evaluations_per_block", "data_checksum"):
        assert records[0][key] == records[1][key]
    for folder in (killed["folder"], undisturbed):
        kept = {path.name for path in folder.iterdir() if not path.name.startswith("weights-")}
        assert kept == {"spec.json", "log.jsonl", "result.json", "record.json"}


def test_a_run_that_was_killed_after_its_result_leaves_no_checkpoint_behind(undisturbed, digits_folder):
    (undisturbed / "record.json").unlink()
    checkpoint = save_verified(undisturbed, "step-000000001", {"step": 1})
    execute(undisturbed / "spec.json", digits_folder)
    assert not checkpoint.exists()


def test_a_finished_run_is_not_trained_again(undisturbed, digits_folder):
    log, weights = (undisturbed / "log.jsonl").read_bytes(), list(undisturbed.glob("weights-*.pt"))
    times = [path.stat().st_mtime_ns for path in weights]
    (undisturbed / "record.json").unlink()
    assert execute(undisturbed / "spec.json", digits_folder) == undisturbed / "record.json"
    assert (undisturbed / "log.jsonl").read_bytes() == log
    assert [path.stat().st_mtime_ns for path in undisturbed.glob("weights-*.pt")] == times


# failures that would repeat

WILD = {"training": {"learning_rate": 1e30, "grad_clip": None}, "logging": {"log_every": 10}}


def test_a_loss_that_is_not_finite_fails_naming_its_first_step_block_and_sigma(trainer, tmp_path):
    first = trainer(tmp_path, over=WILD)
    for step in range(TOTAL):
        first.train_step(step)
        if not math.isfinite(value := first.buffer.entries[-1][1].loss.item()):
            break
    block, sigma = block_of_step("iid", 0, step, 3), first.buffer.entries[-1][1].sigma
    expected = f"loss is {value} at step {step + 1}, block {block + 1}, sigma {sigma.min():.4g} to {sigma.max():.4g};"
    assert 0 < step < 9
    with pytest.raises(TrainingFailed) as failure:
        trainer(tmp_path, over=WILD).run()
    assert str(failure.value).startswith(expected)
    assert "\n" not in str(failure.value)
    assert checkpoints(tmp_path) == [] and steps(tmp_path) == []


def test_a_state_is_saved_only_after_the_losses_that_led_to_it_were_found_finite(trainer, tmp_path):
    with pytest.raises(TrainingFailed):
        trainer(tmp_path, over={**WILD, "logging": {"log_every": 100, "checkpoint_steps": 8}}).run()
    assert checkpoints(tmp_path) == []


def test_a_failure_without_blocks_names_its_step(trainer, tmp_path):
    with pytest.raises(TrainingFailed, match=r"loss is (nan|inf) at step \d+; lower training.learning_rate"):
        trainer(tmp_path, "end_to_end", WILD).run()


def test_a_failure_is_remembered_and_ends_the_next_attempt_at_once_with_the_same_line(
    tiny_spec, digits_folder, tmp_path, capsys
):
    folder = folder_of(tiny_spec("diffusion_blocks", WILD), tmp_path / "wild")
    arguments = ["run", str(folder / "spec.json"), "--quiet", "--data"]
    assert main([*arguments, str(digits_folder / "manifest.json")]) == 3
    first = capsys.readouterr().err
    assert first.startswith("dblocks: loss is") and first.count("\n") == 1
    # at once: the data are not even looked for
    assert main([*arguments, str(tmp_path / "nowhere" / "manifest.json")]) == 3
    second = capsys.readouterr().err
    assert second.startswith(first.rstrip("\n")) and second.count("\n") == 1
    assert str(folder / "failed.json") in second
    (folder / "failed.json").unlink()
    assert main([*arguments, str(tmp_path / "nowhere" / "manifest.json")]) == 2, "now they are"


def test_weights_destroyed_by_the_very_last_update_are_a_failure_too(tiny_spec, digits_folder, tmp_path, capsys):
    over = {"training": {**WILD["training"], "max_steps": 1}}
    folder = folder_of(tiny_spec("end_to_end", over), tmp_path / "wild")
    assert main(["run", str(folder / "spec.json"), "--quiet", "--data", str(digits_folder / "manifest.json")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


# learning rate, clipping, moving average


def training_spec(**fields) -> TrainingSpec:
    return TrainingSpec.model_validate({"epochs": 10, "batch_size": 8, "learning_rate": 1e-3, **fields})


@given(st.integers(2, 500), st.floats(0, 1))
def test_cosine_without_warmup_is_pytorchs(total, floor):
    spec = training_spec(min_learning_rate=floor * 1e-3)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total, eta_min=floor * 1e-3)
    for step in range(total):
        assert 1e-3 * learning_rate_factor(spec, step, total) == pytest.approx(schedule.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        schedule.step()


@given(st.integers(10, 1000), st.floats(0, 9), st.sampled_from(["cosine", "constant"]))
def test_warmup_rises_by_equal_steps_for_its_share_of_the_epochs_then_the_rate_never_rises(total, warmup, schedule):
    spec = training_spec(warmup_epochs=warmup, schedule=schedule)
    factors = [learning_rate_factor(spec, step, total) for step in range(total)]
    rising = math.ceil(total * warmup / 10)
    share = 1 / (total * warmup / 10 + 1)
    assert factors[:rising] == pytest.approx([share * (k + 1) for k in range(rising)])
    after = factors[rising:]
    assert all(0 < factor <= 1 for factor in factors)
    assert all(later <= earlier for earlier, later in itertools.pairwise(after))
    assert schedule == "cosine" or set(after) <= {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_warmup_longer_than_the_run_is_the_whole_run(schedule):
    spec = training_spec(warmup_epochs=25, schedule=schedule)
    factors = [learning_rate_factor(spec, step, 40) for step in range(40)]
    assert factors == pytest.approx([(step + 1) / 41 for step in range(40)])


def test_schedule_has_its_published_values():
    """500 epochs, 10 of warm-up, 5e-4 down to 5e-5, at 100 steps an epoch."""
    spec = training_spec(epochs=500, warmup_epochs=10, learning_rate=5e-4, min_learning_rate=5e-5)

    def rate(step: int) -> float:
        return 5e-4 * learning_rate_factor(spec, step, 50_000)

    assert rate(0) == pytest.approx(5e-4 / 1001)
    assert rate(1000) == 5e-4
    assert rate(25_500) == pytest.approx((5e-4 + 5e-5) / 2)
    assert rate(49_999) == pytest.approx(5e-5, rel=1e-3)


@pytest.mark.parametrize("name", ["diffusion_blocks", "contrastive_forward_forward"])
def test_every_group_of_the_optimiser_follows_the_schedule_from_its_own_rate(trainer, tmp_path, name):
    over = {"training": {"warmup_epochs": 0.5, "weight_decay": 0.125, "betas": (0.5, 0.75)}}
    made = trainer(tmp_path, name, over)
    for step in (0, 5, 12, 23):
        made.train_step(step)
        factor = learning_rate_factor(made.spec.training, step, TOTAL)
        rates = [2e-3, 5e-4][: len(made.optimizer.param_groups)]
        assert [group["lr"] for group in made.optimizer.param_groups] == pytest.approx([r * factor for r in rates])
    assert {(group["weight_decay"], group["betas"]) for group in made.optimizer.param_groups} == {(0.125, (0.5, 0.75))}


@pytest.mark.parametrize("clip", [None, 0.05])
def test_gradients_are_clipped_to_their_norm_or_not_at_all(trainer, tmp_path, clip):
    made = trainer(tmp_path, "end_to_end", {"training": {"grad_clip": clip}})
    made.train_step(0)
    norm = torch.stack([p.grad.norm() for p in made.network.parameters()]).norm().item()
    assert norm > 0.2 if clip is None else norm == pytest.approx(clip, rel=1e-3)


def test_moving_average_is_half_way_after_its_half_life():
    network = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(network.weight)
    average = MovingAverage(network, 16, 160)
    torch.nn.init.ones_(network.weight)
    bias = average.shadow["bias"].clone()
    torch.nn.init.zeros_(network.bias)
    for done in range(1, 21):
        average.update({"weight": network.weight})
        assert torch.allclose(average.shadow["weight"], torch.tensor(1 - 0.5 ** (done / 10)))
    assert torch.equal(average.shadow["bias"], bias), "not updated, no move"


def test_moving_averages_half_life_grows_with_what_a_weight_has_seen():
    network = torch.nn.Linear(1, 1)
    average = MovingAverage(network, batch_size=10, half_life=100, ramp=0.5)
    assert [average.decay(n) for n in (1, 4, 20, 1000)] == pytest.approx([0.25, 2**-0.5, 2**-0.1, 2**-0.1])
    for _ in range(3):
        average.update({"weight": network.weight})
    assert average.updates == {"weight": 3, "bias": 0}


@pytest.mark.parametrize("ramp", [None, 0.5])
def test_moving_average_is_its_closed_form_where_a_block_was_updated_and_still_elsewhere(trainer, tmp_path, ramp):
    made = trainer(tmp_path, over={"training": {"ema_half_life": 100, "ema_ramp": ramp}})
    updates = Counter()
    expected = {name: p.detach().double() for name, p in made.network.named_parameters()}
    for step in range(TOTAL):
        before = {name: value.clone() for name, value in made.ema.shadow.items()}
        made.train_step(step)
        block = block_of_step("iid", 0, step, 3)
        for name, parameter in made.network.named_parameters():
            if name.startswith("layers.") and not name.startswith(f"layers.{block}."):
                assert torch.equal(made.ema.shadow[name], before[name])
            else:
                updates[name] += 1
                half_life = min(100, (ramp or math.inf) * 16 * updates[name])
                decay = 0.5 ** (16 / half_life)
                expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
    for name, value in expected.items():
        assert torch.allclose(made.ema.shadow[name].double(), value, atol=1e-6)
        assert torch.equal(made.final_weights()[name], made.ema.shadow[name])


def test_a_run_that_was_stopped_goes_on_with_the_updates_its_moving_average_has_counted(trainer, tmp_path):
    """A half-life that grows with them makes them part of the bits."""
    over = {**LIVELY, "training": {**LIVELY["training"], "ema_half_life": 10_000, "ema_ramp": 0.5}}
    whole = trainer(tmp_path / "whole", over=over)
    whole.run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", over=over, at=13, act=stop).run()
    last = trainer(tmp_path / "cut", over=over)
    last.run()
    assert last.ema.updates == whole.ema.updates
    assert last.ema.updates["embedders.0.patches.project.weight"] == TOTAL
    assert same_bits(last.final_weights(), whole.final_weights())


def dropped(made: Trainer, steps: list[int]) -> dict[int, torch.Tensor]:
    """Which numbers of the first dropout are zero in each of these steps."""
    zeros = {}
    for step in steps:
        handle = made.network.dropout.register_forward_hook(lambda *call, at=step: zeros.update({at: call[2] == 0}))
        made.train_step(step)
        handle.remove()
    return zeros


def test_what_is_dropped_is_a_function_of_seed_and_step_and_differs_in_each(built, tiny_spec, tmp_path):
    found = []
    for seed, order in ((0, [0, 1, 2]), (0, [2, 0, 1]), (1, [0, 1, 2])):
        spec = tiny_spec("end_to_end", {"network": {"dropout": 0.5}, "seed": seed})
        found.append(dropped(Trainer(spec, built(spec), TOTAL, tmp_path, torch.device("cpu")), order))
    one, again, other = found
    assert all(torch.equal(one[step], again[step]) for step in range(3))
    assert 0.4 < one[0].double().mean() < 0.6
    masks = [*one.values(), *other.values()]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(masks, 2))


def test_processes_that_train_together_drop_different_numbers(trainer, tmp_path, monkeypatch):
    """Each has its own share of a batch; the same mask on all would be no independent one."""
    found = []
    for rank in range(3):
        monkeypatch.setattr("dblocks.processes.rank", lambda rank=rank: rank)
        found.append(dropped(trainer(tmp_path, "end_to_end", {"network": {"dropout": 0.5}}), [0])[0])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))


def test_without_a_moving_average_the_final_weights_are_the_networks(trainer, tmp_path):
    made = trainer(tmp_path, over={"training": {"ema_half_life": None}})
    made.run()
    assert same_bits(made.final_weights(), made.network.state_dict())


def test_log_means_are_over_the_steps_of_each_block_since_the_line_before(trainer, tmp_path):
    every = {**LIVELY, "logging": {"log_every": 1}}
    trainer(tmp_path / "one", over=every).run()
    heard = []
    trainer(tmp_path / "eight", over={**LIVELY, "logging": {"log_every": 8}}).run(on_log=heard.append)
    assert read_log(tmp_path / "eight" / "log.jsonl") == heard
    single = [next(iter(line["loss"].items())) for line in course(tmp_path / "one")]
    for line in heard:
        of_line = single[line["step"] - 8 : line["step"]]
        blocks = {block for block, _ in of_line}
        means = {b: math.fsum(v for c, v in of_line if c == b) / sum(c == b for c, _ in of_line) for b in blocks}
        assert line["loss"] == pytest.approx(means)
    assert [line["step"] for line in heard] == [8, 16, 24]


@pytest.mark.parametrize(("optimizer", "moved"), [("adamw", 0.01 * 0.1), ("adam", 0.01)])
def test_weight_decay_is_apart_from_the_gradient_or_part_of_it(trainer, tmp_path, optimizer, moved):
    """Without a gradient of the loss AdamW shrinks a weight w by rate·decay·w; Adam's first step is the rate, since it
    normalises the decay's gradient like any other."""
    training = {"optimizer": optimizer, "weight_decay": 0.1, "learning_rate": 0.01, "schedule": "constant"}
    t = trainer(tmp_path, "end_to_end", {"training": training})
    with torch.no_grad():
        for parameter in t.network.parameters():
            parameter.fill_(1.0)
    t.method.loss = lambda drawn: 0 * sum(p.sum() for p in t.network.parameters())
    t.train_step(0)
    assert all(torch.allclose(1 - p, torch.full_like(p, moved), rtol=1e-3) for p in t.network.parameters())
