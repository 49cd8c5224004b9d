"""Code versions, part of every run's identity: raise one when its numbers change for the same spec.

A changed version is a new run folder, so nothing trained by old code is mistaken for new. The golden
test (tests/test_golden.py) fails when numbers change without it.
"""

from dblocks.errors import UserError

COMPONENTS = {
    "training": 1,
    "data.prepare": 1,
    "data.augment": 1,
    "network.vit": 1,
    "network.adaln_official": 2,
    "network.masked_lm": 1,
    "method.end_to_end": 1,
    "method.diffusion_blocks": 1,
    "method.forward_forward": 1,
    "method.contrastive_forward_forward": 2,
    "task.classification": 1,
    "task.masked_text": 1,
    "network.dit": 1,
    "network.autoencoder": 1,
    "task.image_generation": 1,
    "task.image_reconstruction": 1,
    "data.latents": 1,
    "metric.fid": 1,
    "network.llama": 1,
    "network.llama_denoiser": 2,
    "network.huginn": 2,
    "method.recurrent_depth": 1,
    "metric.text": 1,
    "task.autoregressive_text": 1,
    "data.tokens": 1,
    "data.detokenize": 3,
    "measure.memory": 1,
    "measure.compute": 1,
    "measure.inference": 1,
    "measure.wall_time": 2,
    "network.noprop_cnn": 1,
    "method.backprop": 1,
    "method.noprop_dt": 1,
    "method.noprop_ct": 1,
    "method.noprop_fm": 1,
}


def versions_of(task: str, network: str, method: str) -> dict[str, int]:
    """The versions a run with these parts depends on."""
    parts = ("training", "data.prepare", "data.augment", f"network.{network}", f"method.{method}", f"task.{task}")
    further = {
        "image_generation": ("metric.fid", "data.latents"),
        "autoregressive_text": ("data.tokens", "metric.text"),
    }
    wanted = parts + further.get(task, ())
    if missing := [part for part in wanted if part not in COMPONENTS]:
        raise UserError(f"dblocks/versions.py: COMPONENTS has no '{missing[0]}'; add it, as 1")
    return {part: COMPONENTS[part] for part in wanted}
