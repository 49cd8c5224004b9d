"""Operations of a denoising step: against a closed form, and as a share of the whole network's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, resolve
from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.errors import UserError
from dblocks.measure.inference import denoising_step, measure
from dblocks.measure.measurement import read_measurement, take
from dblocks.measure.request import REQUEST, load_measurements, make_request
from dblocks.networks.dit import DiTDenoiser
from dblocks.partition import partition_of
from dblocks.planning import make_plan
from tests.workflow.helpers import edit

STEPS = [name for name, entry in load_measurements().items() if entry.kind == "inference"]


def closed_form(layers: int, width: int, tokens: int, patch_dimension: int, sinusoid: int = 256) -> int:
    """Forward operations of one image through `layers` DiT layers, embedders and head: 2 for each weight and token (for
    what a condition goes through: each weight), and attention's two products, 4·T²·D a layer."""
    layer = tokens * 2 * 12 * width**2 + 2 * 6 * width**2 + 4 * tokens**2 * width
    embedders = tokens * 2 * patch_dimension * width + 2 * (sinusoid * width + width**2)
    head = 2 * 2 * width**2 + tokens * 2 * patch_dimension * width
    return layers * layer + embedders + head


@pytest.mark.parametrize(("run", "layers"), [("end_to_end", 12), ("equi_4_4_4", 4), ("blocks_6", 2)])
def test_a_step_in_pixels_is_its_closed_form(run, layers):
    found = denoising_step(resolve(f"dit_cifar10/{run}", "paper"))
    assert found == pytest.approx(closed_form(layers, 384, 256, 3 * 4), rel=1e-3)


def test_a_step_in_latents_is_its_closed_form():
    found = denoising_step(resolve("dit_imagenet/blocks_4", "paper"))
    assert found == pytest.approx(closed_form(6, 1024, 256, 4 * 4), rel=1e-3)


def test_steps_count_as_often_as_the_sampler_takes_each_block():
    """Of 5 equal-mass steps and 3 blocks of 6, 4 and 2 layers."""
    spec = resolve("dit_cifar10/equi_6_4_2", "paper", overrides={"method": {"sampling": {"steps": 5}}})
    partition = partition_of(spec.method, 12)
    with torch.device("meta"):
        network = DiTDenoiser(spec.network, spec.method, partition, (3, 32, 32), 10)
    times = DiffusionBlocks(network, spec.method).evaluations_per_block()
    assert len(set(times)) > 1
    expected = sum(n * closed_form(layers, 384, 256, 12) for n, layers in zip(times, (6, 4, 2), strict=True)) / 5
    assert denoising_step(spec) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", STEPS)
def test_a_block_takes_nearly_b_times_less(name):
    request = make_request(name, CommandLine())
    _, metrics = measure(request, torch.device("cpu"))
    values, blocks = {metric.name: metric.value for metric in metrics}, int(name.rpartition("_")[2])
    assert request.spec.num_blocks == blocks and request.spec.method.overlap == 0
    assert 0.99 * blocks < values["step_reduction"] < blocks
    assert values["whole_step_reduction"] == 1
    assert values["step_reduction"] == pytest.approx(values["whole_operations"] / values["operations"])


def test_what_is_counted_asks_for_no_gpu_where_its_runs_do(tmp_path):
    plan = make_plan({"scale": "paper", "results_dir": str(tmp_path)})
    gpus = {request.name: plan.measuring_gpus(folder) for folder, request in plan.requests.items()}
    assert {name for name, count in gpus.items() if count == 0} == {*STEPS, "compute_huginn"}
    request = plan.measurements[STEPS[0]]
    assert request.spec.compute.device == "cuda"
    (tmp_path / REQUEST).write_text(request.model_dump_json())
    assert read_measurement(take(tmp_path / REQUEST)).machine.device.startswith("CPU")


def test_another_network_is_refused_in_one_line(tmp_path):
    config = Path(shutil.copytree(CONFIG_DIR, tmp_path / "config"))
    edit(config / "measurements.yaml", "run: dit_imagenet/blocks_2", "run: vit/diffusion_blocks")
    with pytest.raises(
        UserError, match=r"measurements\.yaml: inference_imagenet_2\.run: 'vit/diffusion_blocks' is no DiT"
    ):
        load_measurements(config)
