"""What goes with what in a RunSpec: a task's networks and methods, and the fields that some of them do not read."""

from __future__ import annotations

PARTS_OF_TASK = {
    "classification": {
        "network": ("vit", "noprop_cnn"),
        "method": (
            "end_to_end",
            "diffusion_blocks",
            "contrastive_forward_forward",
            "forward_forward",
            "backprop",
            "noprop_dt",
            "noprop_ct",
            "noprop_fm",
        ),
    },
    "masked_text": {"network": ("masked_lm",), "method": ("end_to_end", "diffusion_blocks")},
    "autoregressive_text": {
        "network": ("llama", "huginn"),
        "method": ("end_to_end", "diffusion_blocks", "recurrent_depth"),
    },
    "image_generation": {"network": ("dit",), "method": ("diffusion_blocks",)},
    "image_reconstruction": {"network": ("autoencoder",), "method": ("end_to_end",)},
}
# whose batches can be taken in shares, by several processes or one after another
SHARED = {
    "task": ("classification", "masked_text", "autoregressive_text", "image_generation"),
    "method": ("end_to_end", "diffusion_blocks", "recurrent_depth"),
}
WITHOUT_LAYERS = ("autoencoder", "noprop_cnn")  # networks that are not made of transformer layers
# a task with several networks: which of its methods train which
METHODS_OF_NETWORK = {
    "vit": ("end_to_end", "diffusion_blocks", "contrastive_forward_forward", "forward_forward"),
    "noprop_cnn": ("backprop", "diffusion_blocks", "noprop_dt", "noprop_ct", "noprop_fm"),
    "llama": ("end_to_end", "diffusion_blocks"),
    "huginn": ("recurrent_depth", "diffusion_blocks"),
}
# what a block-wise run on NoProp's CNN does not read: its blocks are whole copies, and their output is the logits
LAYER_FIELDS = ("layers_per_block", "schedule", "embedders", "adaln", "label_token", "head_preconditioning")
# what a block-wise run on masks may set; the rest is about noise levels σ and a target in embedding space
MASKED_FIELDS = {
    "name",
    "num_blocks",
    "layers_per_block",
    "overlap",
    "block_order",
    "schedule",
    "embedders",
    "target_table",
    "adaln",
}

# what a denoiser without a partition reads (Huginn)
WHOLE_FIELDS = {
    "layers_per_block",  # all of them, if it is given
    "name",
    "num_blocks",
    "overlap",
    "noise",
    "weighting",
    "target_table",
    "adaln",
    "c_noise_scale",
    "head_preconditioning",
    "sigma_per",
    "sampling",
}
