"""The ViT, baseline and denoiser: patches, tokens, target, heads, bridge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dblocks.config import resolve
from dblocks.metrics.torchvision_import import ensure_torchvision
from dblocks.networks.embedding_target import embed_logits
from dblocks.networks.vit import AdaLNHead, PatchEmbedding, ViT, ViTDenoiser
from dblocks.networks.vit_layerwise import LayerwiseViT
from dblocks.noise import Preconditioning
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, ViTSpec

SHAPE, CLASSES, WIDTH = (3, 8, 12), 7, 16
SIZES = ViTSpec(layers=4, width=WIDTH, heads=2, patch_size=4, mlp_ratio=2.0, dropout=0.1)
OWN = {"embedders": "own", "target_table": "frozen"}
FROZEN = {"embedders": "frozen", "target_table": "frozen"}


def denoiser(**method) -> ViTDenoiser:
    torch.manual_seed(0)
    spec = DiffusionBlocksSpec.model_validate({"num_blocks": 2, **method})
    return ViTDenoiser(SIZES, spec, partition_of(spec, SIZES.layers), SHAPE, CLASSES).eval()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_patches_are_linear_maps_of_pixel_blocks_in_reading_order(awaken):
    embedding, images = awaken(PatchEmbedding(SHAPE, 4, WIDTH)), normal(2, *SHAPE)
    tokens = embedding(images)
    assert tokens.shape == (2, 6, WIDTH)
    weight = embedding.project.weight.flatten(1)
    for i in range(6):
        row, column = divmod(i, 3)
        pixels = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        expected = pixels @ weight.T + embedding.project.bias + embedding.positions[0, i]
        assert torch.allclose(tokens[:, i], expected, atol=1e-5)


def test_patches_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="patch_size 5 does not divide an image of 8×12"):
        PatchEmbedding(SHAPE, 5, WIDTH)


def test_layerwise_tokens_are_the_same_pixel_blocks():
    images = normal(2, *SHAPE)
    raw = LayerwiseViT(SIZES, SHAPE, CLASSES).raw_tokens(images)
    assert raw.shape == (2, 6, 48)
    assert torch.equal(raw[:, 4], images[:, :, 4:8, 4:8].flatten(1))


def test_baseline_is_pytorchs_encoder_with_its_head_on_cls(awaken):
    network, images = awaken(ViT(SIZES, SHAPE, CLASSES)).eval(), normal(3, *SHAPE)
    x = torch.cat([network.cls.expand(3, -1, -1), network.patches(images)], dim=1)
    for layer in network.layers:
        attended = F.multi_head_attention_forward(
            *[layer.norm1(x).transpose(0, 1)] * 3,
            WIDTH,
            SIZES.heads,
            layer.attention.qkv.weight,
            layer.attention.qkv.bias,
            None,
            None,
            False,
            0.0,
            layer.attention.out.weight,
            layer.attention.out.bias,
        )[0].transpose(0, 1)
        x = x + attended
        x = x + layer.mlp.down(F.gelu(layer.mlp.up(layer.norm2(x))))
    assert torch.allclose(network(images), network.head(network.norm(x[:, 0])), atol=1e-4)


def test_baseline_sees_the_order_of_patches_through_positions_only(awaken):
    network, images = awaken(ViT(SIZES, SHAPE, CLASSES)).eval(), normal(2, *SHAPE)
    swapped = torch.cat([images[..., 4:8], images[..., :4], images[..., 8:]], dim=-1)
    assert not torch.allclose(network(images), network(swapped), atol=1e-3)
    nn.init.zeros_(network.patches.positions)
    assert torch.allclose(network(images), network(swapped), atol=1e-4)


def test_targets_are_unit_norm_rows_of_the_table_whatever_the_tables_norm(awaken):
    network = awaken(denoiser(), deviation=3.0)
    labels = torch.arange(CLASSES)
    y = network.target(labels)
    assert y.shape == (CLASSES, *network.target_shape)
    assert torch.allclose(y.norm(dim=-1), torch.ones(CLASSES))
    rows = network.table.weight
    assert torch.allclose(y * rows.norm(dim=-1, keepdim=True), rows, atol=1e-5)


def test_sigma_data_is_one_half_or_the_rms_of_the_targets():
    assert denoiser().precondition == Preconditioning(0.5)
    network = denoiser(noise={"sigma_data": "embedding_rms"})
    rms = network.target(torch.arange(CLASSES)).square().mean().sqrt().item()
    assert network.precondition.sigma_data == pytest.approx(rms, rel=1e-6)
    assert network.precondition.sigma_data == 1 / math.sqrt(WIDTH)


def test_official_label_token_takes_the_place_of_cls():
    embedders, images, z = denoiser(label_token="official").embedders[0], normal(2, *SHAPE), normal(2, WIDTH)
    tokens = embedders.tokens(images, z)
    assert tokens.shape == (2, 1 + 6, WIDTH)
    assert torch.equal(tokens[:, 0], z + embedders.label_position[0])
    assert torch.equal(tokens[:, 1:], embedders.patches(images))


def test_paper_label_token_follows_cls():
    embedders, images, z = denoiser(label_token="paper").embedders[0], normal(2, *SHAPE), normal(2, WIDTH)
    nn.init.normal_(embedders.cls)
    tokens = embedders.tokens(images, z)
    assert tokens.shape == (2, 2 + 6, WIDTH)
    assert torch.equal(tokens[:, 0], embedders.cls[0].expand(2, -1))
    assert torch.equal(tokens[:, 1], z + embedders.label_position[0])
    assert torch.equal(tokens[:, 2:], embedders.patches(images))


@pytest.mark.parametrize("label_token", ["paper", "official"])
@pytest.mark.parametrize("wrap", ["edm", "official", "none"])
@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_fresh_denoiser_is_its_head_on_the_preconditioned_token_it_reads(label_token, wrap, sigma):
    """AdaLN-zero layers are the identity at first, so the whole denoiser has a closed form."""
    network = denoiser(label_token=label_token, head_preconditioning=wrap)
    z, images = normal(5, WIDTH), normal(5, *SHAPE)
    hidden = z / math.sqrt(sigma**2 + 0.25) + network.embedders[0].label_position[0]
    if label_token == "paper":
        nn.init.normal_(network.embedders[0].cls)
        hidden = network.embedders[0].cls[0].expand(5, -1)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (WIDTH,), eps=1e-6)

    def wrapped(x: torch.Tensor) -> torch.Tensor:
        return 0.25 / (sigma**2 + 0.25) * z + sigma * 0.5 / math.sqrt(sigma**2 + 0.25) * x

    hidden = {"edm": norm(wrapped(hidden)), "official": wrapped(norm(hidden)), "none": norm(hidden)}[wrap]
    if wrap == "official":
        assert not any(parameter.any() for parameter in network.heads[0].linear.parameters())
        nn.init.normal_(network.heads[0].linear.weight)
    expected = network.heads[0].linear(hidden)
    logits = network.denoise(0, z, torch.full((5,), sigma), images)
    assert logits.shape == (5, CLASSES)
    assert torch.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("adaln", ["dit", "official"])
def test_head_modulates_its_norm(awaken, adaln):
    method = DiffusionBlocksSpec(adaln=adaln, head_preconditioning="none")
    head, x = awaken(AdaLNHead(SIZES, method, CLASSES)), normal(3, WIDTH)
    condition, none = normal(3, WIDTH if adaln == "dit" else WIDTH // 6, seed=1), torch.full((3, 1), math.nan)
    shift, scale = (v.squeeze(1) for v in head.modulation(condition))
    expected = head.linear(F.layer_norm(x, (WIDTH,), eps=1e-6) * (1 + scale) + shift)
    assert torch.allclose(head(x, none, none, none, condition), expected)


@pytest.mark.parametrize("adaln", ["dit", "official"])
def test_adaln_option_reaches_every_layer_and_the_heads(adaln):
    network = denoiser(adaln=adaln)
    modulations = [layer.modulation for layer in network.layers] + [head.modulation for head in network.heads]
    assert {modulation.silu_after for modulation in modulations} == {adaln == "official"}
    assert {modulation.linear.in_features for modulation in modulations} == {WIDTH if adaln == "dit" else WIDTH // 6}
    assert {layer.norm1.elementwise_affine for layer in network.layers} == {adaln == "official"}


def test_table_1_has_the_layers_of_hugging_faces_vit():
    """The official baseline is that; only [CLS] has no position of its own here, it is learned anyway."""
    ensure_torchvision()
    from transformers import ViTConfig, ViTForImageClassification

    spec = resolve("vit/end_to_end", "paper").network
    sizes = {"hidden_size": spec.width, "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads}
    config = ViTConfig(**sizes, image_size=32, patch_size=spec.patch_size, num_labels=100)
    theirs, ours = ViTForImageClassification(config), ViT(spec, (3, 32, 32), 100)
    count, ours_count = (sum(p.numel() for p in network.parameters()) for network in (theirs, ours))
    assert ours_count == count - spec.width
    assert {layer.mlp.dropout.p for layer in ours.layers} == {0.0}
    assert {layer.dropout.p for layer in ours.layers} == {spec.dropout}
    first = [layer.weight for layer in ours.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(first) == 4 * spec.layers + 2  # queries, keys and values are one
    for weight in first:
        assert float(weight.detach().std()) == pytest.approx(config.initializer_range, rel=0.1)
    assert not any(layer.bias.any() for layer in ours.modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def test_first_weights_leave_alone_what_starts_at_zero():
    method = DiffusionBlocksSpec(num_blocks=2, head_preconditioning="official", target_deviation=0.02)
    torch.manual_seed(0)
    sizes = SIZES.model_copy(update={"initial_deviation": 0.02, "width": 120})
    network = ViTDenoiser(sizes, method, partition_of(method, sizes.layers), SHAPE, CLASSES)
    zero = [network.heads[0].linear, network.heads[0].modulation.linear]
    zero += [layer.modulation.linear for layer in network.layers]
    assert not any(parameter.any() for layer in zero for parameter in layer.parameters())
    assert float(network.layers[0].mlp.up.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(network.table.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    rows = network.target(torch.arange(CLASSES))
    assert torch.allclose(rows.norm(dim=-1), torch.ones(CLASSES))


def test_denoiser_reads_image_noise_level_and_z(awaken):
    network = awaken(denoiser())
    z, sigma, images = normal(2, WIDTH), torch.tensor([0.3, 0.3]), normal(2, *SHAPE)
    logits = network.denoise(0, z, sigma, images)
    assert not torch.allclose(logits, network.denoise(0, z, sigma, -images), atol=1e-3)
    assert not torch.allclose(logits, network.denoise(0, -z, sigma, images), atol=1e-3)
    assert not torch.allclose(logits, network.denoise(0, z, 2 * sigma, images), atol=1e-3)


def test_samples_of_a_batch_do_not_see_each_other(awaken):
    network = awaken(denoiser())
    z, sigma, images = normal(4, WIDTH), torch.tensor([0.01, 0.3, 2.0, 70.0]), normal(4, *SHAPE)
    together = network.denoise(1, z, sigma, images)
    alone = torch.cat([network.denoise(1, z[i : i + 1], sigma[i : i + 1], images[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_noise_level_reaches_the_layers_as_a_quarter_of_its_logarithm(awaken):
    """A condition of which nothing but c_noise is known must give the same logits as σ itself."""
    network = awaken(denoiser(head_preconditioning="none"))
    sigma, images, z = torch.tensor([0.7, 20.0]), normal(2, *SHAPE), normal(2, WIDTH)
    x = network.embedders[0].tokens(images, z / (sigma**2 + 0.25).sqrt()[:, None])
    condition = network.embedders[0].noise(sigma.log() / 4)
    for layer in network.layers[:2]:
        x = layer(x, condition)
    wrap = torch.full((2, 1), math.nan)  # is not read
    expected = network.heads[0](x[:, 0], z, wrap, wrap, condition)
    assert torch.allclose(network.denoise(0, z, sigma, images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "embedders", "heads"), [({}, 1, 1), (OWN, 2, 2), (FROZEN, 1, 2)], ids=["shared", "own", "frozen"]
)
def test_embedders_and_heads_come_once_or_once_a_block(awaken, method, embedders, heads):
    network = awaken(denoiser(**method))
    assert (len(network.embedders), len(network.heads)) == (embedders, heads)
    z, sigma, images = normal(2, WIDTH), torch.ones(2), normal(2, *SHAPE)
    before = [network.denoise(block, z, sigma, images) for block in range(2)]
    nn.init.normal_(network.embedders[-1].label_position)
    nn.init.normal_(network.heads[-1].linear.bias)
    after = [network.denoise(block, z, sigma, images) for block in range(2)]
    shared = not method
    assert torch.equal(before[0], after[0]) == (heads == 2 and embedders == 2)
    assert not torch.equal(before[1], after[1])
    assert shared == (heads == 1)


def test_what_is_frozen_takes_no_gradient():
    network = denoiser(**FROZEN)
    frozen = {name.partition(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"embedders", "table"}
    assert all(p.requires_grad for p in denoiser().parameters())


def test_loss_is_cross_entropy_per_sample():
    logits, labels = normal(4, CLASSES), torch.tensor([0, 6, 3, 3])
    expected = [math.log(row.exp().sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    assert torch.allclose(denoiser().loss(logits, labels), torch.stack(expected), atol=1e-5)


def test_bridge_rules_are_their_definitions():
    logits, table = torch.tensor([[1.0, 3.0, 2.0, -1.0]]), normal(4, 5)
    p = [math.exp(value) for value in (1, 3, 2, -1)]
    soft = sum(w * row for w, row in zip(p, table, strict=True)) / sum(p)
    top2 = (p[1] * table[1] + p[2] * table[2]) / (p[1] + p[2])
    assert torch.allclose(embed_logits(logits, table, "soft", 2), soft, atol=1e-6)
    assert torch.equal(embed_logits(logits, table, "hard", 2), table[1:2])
    assert torch.allclose(embed_logits(logits, table, "topk", 2), top2, atol=1e-6)


def test_top_1_is_hard_and_top_all_is_soft():
    logits, table = normal(6, CLASSES), normal(CLASSES, 5, seed=1)
    assert torch.allclose(embed_logits(logits, table, "topk", 1), embed_logits(logits, table, "hard", 9))
    for k in (CLASSES, CLASSES + 1):
        assert torch.allclose(embed_logits(logits, table, "topk", k), embed_logits(logits, table, "soft", 9))


@pytest.mark.parametrize("rule", ["soft", "hard", "topk"])
def test_bridge_mixes_the_normalised_or_the_raw_table(awaken, rule):
    confident = 100 * torch.eye(CLASSES)
    normalised, raw = (
        awaken(denoiser(sampling={"bridge": rule, "bridge_table": table}), deviation=2.0)
        for table in ("normalized", "raw")
    )
    assert torch.allclose(normalised.bridge(confident), normalised.target(torch.arange(CLASSES)), atol=1e-6)
    assert torch.allclose(raw.bridge(confident), raw.table.weight, atol=1e-5)
    assert not torch.allclose(raw.bridge(confident), normalised.bridge(confident), atol=0.1)


def test_the_scale_of_c_noise_reaches_its_embedding():
    one, thousand = (denoiser(c_noise_scale=scale).embedders[0].noise.rates for scale in (1.0, 1000.0))
    assert torch.allclose(thousand, 1000 * one)
