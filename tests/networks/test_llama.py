"""Llama: equal to the library's; block-wise: no leak, proven by perturbation, and a prefix that may be kept."""

import pytest
import torch

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.metrics.torchvision_import import ensure_torchvision
from dblocks.networks.llama import CachedPrefix, Llama, LlamaDenoiser, Prefix
from dblocks.noise import Preconditioning
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, LlamaSpec

VOCABULARY, LENGTH = 11, 6


def tiny(**over) -> LlamaSpec:
    return LlamaSpec(**{"layers": 4, "width": 16, "heads": 2, "hidden": 24, **over})


@pytest.fixture
def denoiser(awaken):
    """denoiser(LlamaSpec fields, method fields): its weights drawn anew, so that every path carries something."""

    def make(attention: str = "masked", **method) -> LlamaDenoiser:
        spec = tiny(attention=attention)
        options = {"num_blocks": 2, "sigma_per": "token", **method}
        if options.get("embedders", "shared") != "shared":
            options["target_table"] = "frozen"
        chosen = DiffusionBlocksSpec(**options)
        return awaken(LlamaDenoiser(spec, chosen, partition_of(chosen, spec.layers), VOCABULARY)).eval()

    return make


def inputs(seed: int = 0):
    """Noisy z [2, T, D], σ [2, T] of each token, tokens [2, T]."""
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(2, LENGTH, 16, generator=draws)
    sigma = torch.rand(2, LENGTH, generator=draws) + 0.1
    return z, sigma, torch.randint(VOCABULARY, (2, LENGTH), generator=draws)


def outputs(network, block, z, sigma, tokens):
    """Logits at every noisy position, and hidden states at every clean one."""
    condition = network.condition(block, sigma)
    noisy, clean = network.halves(block, z, sigma, tokens, condition)
    return network.head(block, z, sigma, noisy, condition), clean


def changed(a, b):
    """Positions [T] at which any number differs."""
    return (a != b).flatten(2).any(-1).any(0)


def test_it_is_the_librarys_llama():
    ensure_torchvision()
    transformers = pytest.importorskip("transformers")
    spec = tiny()
    torch.manual_seed(0)
    ours = Llama(spec, VOCABULARY).eval()
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=spec.width,
        intermediate_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        rms_norm_eps=1e-6,
        rope_theta=spec.rotary_base,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    state = {
        "model.embed_tokens.weight": ours.embedding.weight,
        "model.norm.weight": ours.norm.weight,
        "lm_head.weight": ours.head.weight,
    }
    for i, layer in enumerate(ours.layers):
        prefix, (q, k, v) = f"model.layers.{i}", layer.attention.qkv.weight.chunk(3)
        parts = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
        parts |= {"self_attn.o_proj": layer.attention.out.weight, "mlp.gate_proj": layer.mlp.gate.weight}
        parts |= {"mlp.up_proj": layer.mlp.up.weight, "mlp.down_proj": layer.mlp.down.weight}
        parts |= {"input_layernorm": layer.norm1.weight, "post_attention_layernorm": layer.norm2.weight}
        state |= {f"{prefix}.{name}.weight": weight for name, weight in parts.items()}
    theirs.load_state_dict(state, strict=True)
    _, _, tokens = inputs()
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("attention", ["masked", "split"])
@pytest.mark.parametrize("block", [0, 1])
@torch.no_grad()
def test_a_clean_token_reaches_only_later_noisy_outputs(denoiser, attention, block):
    network = denoiser(attention)
    z, sigma, tokens = inputs()
    before, clean_before = outputs(network, block, z, sigma, tokens)
    for i in range(LENGTH):
        other = tokens.clone()
        other[:, i] = (other[:, i] + 1) % VOCABULARY
        after, clean_after = outputs(network, block, z, sigma, other)
        moved = changed(before, after)
        assert not moved[: i + 1].any(), f"clean token {i} leaks into what must predict it"
        assert moved[i + 1 :].all()  # the positive control: it is read where it may be
        assert not changed(clean_before, clean_after)[:i].any()


@pytest.mark.parametrize("attention", ["masked", "split"])
@pytest.mark.parametrize("block", [0, 1])
@torch.no_grad()
def test_a_noisy_token_reaches_its_own_output_alone(denoiser, attention, block):
    network = denoiser(attention)
    z, sigma, tokens = inputs()
    before, clean_before = outputs(network, block, z, sigma, tokens)
    for i in range(LENGTH):
        for touched in ("z", "sigma"):
            other_z, other_sigma = z.clone(), sigma.clone()
            (other_z if touched == "z" else other_sigma)[:, i] += 0.5
            after, clean_after = outputs(network, block, other_z, other_sigma, tokens)
            assert changed(before, after).tolist() == [j == i for j in range(LENGTH)], touched
            assert torch.equal(clean_before, clean_after), "the clean half must not depend on noise"


@torch.no_grad()
def test_both_halves_have_the_same_positions(denoiser):
    """A noisy token that is handed the clean embedding and the clean noise level stands where the clean one does: it
    sees the same tokens at the same distances, so it comes out the same."""
    network = denoiser()
    _, _, tokens = inputs()
    sigma = torch.full(tokens.shape, network.method.noise.sigma_min)
    z = network.embedders_of(0).context(tokens) / network.precondition.c_in(sigma)[..., None]
    noisy, clean = network.halves(0, z, sigma, tokens, network.condition(0, sigma))
    assert torch.allclose(noisy, clean, atol=1e-5)


@pytest.mark.parametrize("embedders", ["shared", "own", "frozen"])
@torch.no_grad()
def test_a_kept_prefix_denoises_as_one_read_anew(denoiser, embedders):
    network = denoiser(embedders=embedders)
    z, sigma, tokens = inputs()
    anew, kept = Prefix(network, tokens[:, :2]), CachedPrefix(network, tokens[:, :2], LENGTH)
    for place in range(2, LENGTH):
        for block in (0, 1):
            arguments = (block, z[:, place], sigma[:, place])
            assert torch.allclose(anew.denoise(*arguments), kept.denoise(*arguments), atol=1e-5)
            # and as the whole window in training, at that place
            whole = outputs(network, block, z, sigma, tokens)[0][:, place]
            assert torch.allclose(whole, kept.denoise(*arguments), atol=1e-5)
        anew.append(tokens[:, place])
        kept.append(tokens[:, place])


@pytest.mark.parametrize("block", [0, 1])
def test_a_step_of_one_block_moves_no_other(denoiser, block):
    network = denoiser(embedders="own")
    z, sigma, tokens = inputs()
    logits = network.denoise(block, z.flatten(0, 1), sigma.flatten(), tokens)
    network.loss(logits, tokens.flatten()).mean().backward()
    touched = {i for i, layer in enumerate(network.layers) if any(p.grad is not None for p in layer.parameters())}
    assert touched == set(network.partition.layers(block))
    for part in (network.embedders, network.heads):
        assert [any(p.grad is not None for p in one.parameters()) for one in part] == [b == block for b in (0, 1)]
    assert network.table.weight.grad is None


@torch.no_grad()
def test_a_token_is_denoised_as_one_sample_with_a_noise_level_of_its_own(denoiser):
    network = denoiser()
    z, sigma, tokens = inputs()
    flat = network.denoise(1, z.flatten(0, 1), sigma.flatten(), tokens)
    assert torch.equal(flat.view(2, LENGTH, -1), outputs(network, 1, z, sigma, tokens)[0])
    assert flat.shape == (2 * LENGTH, VOCABULARY)
    y = network.target(tokens.flatten())
    assert torch.allclose(y.norm(dim=-1), torch.ones(2 * LENGTH))


RMS = {"noise": {"sigma_data": "embedding_rms"}}


def test_sigma_data_is_one_half_or_the_rms_of_the_targets(denoiser):
    assert denoiser().precondition == Preconditioning(0.5)
    network = denoiser(**RMS)
    rms = network.target(torch.arange(VOCABULARY)).square().mean().sqrt().item()
    assert network.precondition.sigma_data == pytest.approx(rms, rel=1e-6) == 0.25


@pytest.mark.parametrize(("method", "variance"), [({}, 1 / 4), (RMS, 1 / 16)], ids=["paper", "embedding_rms"])
@torch.no_grad()
def test_sigma_data_scales_what_a_block_reads_and_what_its_loss_weighs(method, variance):
    """Fresh layers are the identity, so the noisy half comes out as it went in."""
    chosen = DiffusionBlocksSpec(num_blocks=2, sigma_per="token", weighting="paper", **method)
    network = LlamaDenoiser(tiny(attention="masked"), chosen, partition_of(chosen, 4), VOCABULARY)
    z, sigma, tokens = inputs()
    noisy, _ = network.halves(0, z, sigma, tokens, network.condition(0, sigma))
    assert torch.allclose(noisy, z / (sigma**2 + variance).sqrt()[..., None], atol=1e-6)
    flat = (sigma.flatten(), z.flatten(0, 1))
    y = network.target(tokens.flatten()) + flat[0][:, None] * flat[1]
    each = network.loss(network.denoise(0, y, flat[0], tokens), tokens.flatten())
    weight = 1 / flat[0] ** 2 + 1 / variance
    found = DiffusionBlocks(network, chosen).training_loss(0, tokens, tokens.flatten(), *flat)
    assert torch.allclose(found, (weight * each).mean(), rtol=1e-5)


@pytest.mark.parametrize("wrap", ["edm", "none"])
@torch.no_grad()
def test_the_head_reads_hidden_states_in_edms_wrap_or_as_they_are(denoiser, wrap):
    network = denoiser(head_preconditioning=wrap, **RMS)
    z, sigma, _ = inputs()
    hidden, condition, s = inputs(1)[0], network.condition(1, sigma), sigma[..., None]
    wrapped = z / 16 / (s**2 + 1 / 16) + s / 4 / (s**2 + 1 / 16).sqrt() * hidden
    expected = network.heads[0](wrapped if wrap == "edm" else hidden, condition)
    assert torch.allclose(network.head(1, z, sigma, hidden, condition), expected, atol=1e-5)


@pytest.mark.parametrize("embedders", ["shared", "own", "frozen"])
@torch.no_grad()
def test_a_noise_level_conditions_by_sinusoids_of_a_quarter_of_its_logarithm_times_the_scale(denoiser, embedders):
    network, (_, sigma, _) = denoiser(embedders=embedders, c_noise_scale=30.0), inputs()
    rates = 10_000 ** (-torch.arange(128) / 128)
    for block in (0, 1):
        mlp = network.embedders_of(block).noise.mlp
        for levels, found in (
            (sigma, network.condition(block, sigma)),
            (torch.tensor([[network.method.noise.sigma_min]]), network.clean_condition(block)),
        ):
            angles = 30 * levels.log()[..., None] / 4 * rates
            assert torch.allclose(found, mlp(torch.cat([angles.cos(), angles.sin()], dim=-1)), atol=1e-4)


@pytest.mark.parametrize("table", ["trained", "frozen"])
def test_the_table_of_targets_learns_with_the_block_or_is_frozen(denoiser, table):
    network, (z, sigma, tokens) = denoiser(target_table=table), inputs()
    model = DiffusionBlocks(network, network.method)
    model.training_loss(1, tokens, tokens.flatten(), sigma.flatten(), z.flatten(0, 1)).backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None}
    learning = ("embedders.", "heads.", "layers.2.", "layers.3.", *(["table."] if table == "trained" else []))
    assert moved == {name for name, _ in network.named_parameters() if name.startswith(learning)}


def test_rotary_positions_have_the_base_of_the_spec():
    chosen = DiffusionBlocksSpec(num_blocks=2, sigma_per="token")
    spec = tiny(rotary_base=100.0)
    expected = torch.tensor([1.0, 100 ** -(2 / 8), 100 ** -(4 / 8), 100 ** -(6 / 8)])
    for network in (Llama(spec, VOCABULARY), LlamaDenoiser(spec, chosen, partition_of(chosen, 4), VOCABULARY)):
        assert torch.allclose(network.rotary.rates, expected)
