"""Huginn: which iterations have a gradient, what sees what, and that keeping keys and values changes nothing."""

from __future__ import annotations

import math

import pytest
import torch

from dblocks.diffusion_blocks import DiffusionBlocks
from dblocks.networks.huginn import Huginn, HuginnReader
from dblocks.networks.huginn_denoiser import CachedContext, Context, HuginnDenoiser, level_of
from dblocks.noise import Preconditioning
from dblocks.partition import partition_of
from dblocks.spec import DiffusionBlocksSpec, HuginnSpec, SamplingSpec

VOCABULARY = 11
SPEC = HuginnSpec(prelude=1, recurrent=2, coda=1, width=16, heads=2, hidden=24, iterations=12, depth_curve=(1,))
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def method(**fields) -> DiffusionBlocksSpec:
    fields = {"num_blocks": 1, "overlap": 0.0, "sigma_per": "sequence", "sampling": SamplingSpec(steps=6), **fields}
    return DiffusionBlocksSpec(**fields)


@pytest.fixture
def network() -> Huginn:
    torch.manual_seed(0)
    return Huginn(SPEC, VOCABULARY)


@pytest.fixture
def denoiser_of(awaken):
    def make(**fields) -> HuginnDenoiser:
        spec = method(**fields)
        return awaken(HuginnDenoiser(SPEC, spec, partition_of(spec, SPEC.layers), VOCABULARY)).eval()

    return make


@pytest.fixture
def denoiser(denoiser_of) -> HuginnDenoiser:
    return denoiser_of()


def state_of(network: Huginn, shape=TOKENS.shape, seed: int = 0) -> torch.Tensor:
    return network.start(shape, torch.Generator().manual_seed(seed))


def loss(network: Huginn, state: torch.Tensor, iterations: int, backpropagated: int | None) -> torch.Tensor:
    logits = network(TOKENS[:, :-1], state, iterations, backpropagated)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def gradients(network: Huginn) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_gradients_through_the_last_eight_of_twenty_are_those_after_a_detached_state(network):
    state = state_of(network, TOKENS[:, :-1].shape)
    loss(network, state, 20, 8).backward()
    truncated = gradients(network)
    network.zero_grad(set_to_none=True)

    rotation = network.rotary(TOKENS.shape[1] - 1, torch.device("cpu"))
    e = network.read(TOKENS[:, :-1], rotation)
    for _ in range(12):
        state = network.iterate(state, e, rotation).detach()
    for _ in range(8):
        state = network.iterate(state, e, rotation)
    logits = network.head(network.finish(state, rotation))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    expected = gradients(network)
    assert truncated.keys() == expected.keys() == dict(network.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(truncated[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    # and they are not those through all twenty
    network.zero_grad(set_to_none=True)
    loss(network, state_of(network, TOKENS[:, :-1].shape), 20, None).backward()
    assert not torch.allclose(gradients(network)["adapter.weight"], expected["adapter.weight"], rtol=1e-3)


@pytest.mark.parametrize("iterations", [1, 5, 8, 9, 20])
def test_the_first_state_has_a_gradient_up_to_eight_iterations_and_none_beyond(network, iterations):
    state = state_of(network, TOKENS[:, :-1].shape).requires_grad_()
    loss(network, state, iterations, 8).backward()
    assert (state.grad is not None and bool((state.grad != 0).any())) == (iterations <= 8)
    # the prelude is read anew in every iteration, so it learns in both cases
    for layer in network.prelude:
        assert all((p.grad != 0).any() for p in layer.parameters())


def test_a_position_depends_on_no_token_after_it(network):
    state = state_of(network)
    logits, changed = network(TOKENS, state, 3), TOKENS.clone()
    changed[:, 3] = 7
    found = network(changed, state, 3)
    assert torch.equal(found[:, :3], logits[:, :3]) and not torch.allclose(found[:, 3:], logits[:, 3:])


def test_the_first_state_is_cut_at_three_deviations_of_root_two_fifths(network):
    state = state_of(network, (50, 200))
    assert state.abs().max() <= 3 * math.sqrt(2 / 5)
    # a normal cut at three deviations has 0.9733 of its variance
    assert state.var().item() == pytest.approx(0.9733 * 2 / 5, rel=0.01)


def test_initial_weights_have_their_variances():
    torch.manual_seed(0)
    spec = HuginnSpec(prelude=2, recurrent=4, coda=2, width=128, heads=4, hidden=512, iterations=32)
    found = Huginn(spec, 100)
    wide, small = 0.9733 * 2 / (5 * 128), 0.9733 / (5 * 128 * 132)
    for layer in found.layers:
        for linear in (layer.attention.qkv, layer.mlp.gate, layer.mlp.up):
            assert linear.weight.var().item() == pytest.approx(wide, rel=0.05)
        for linear in (layer.attention.out, layer.mlp.down):
            assert linear.weight.var().item() == pytest.approx(small, rel=0.05)
    assert found.embedding.weight.var().item() == pytest.approx(wide, rel=0.05)


def test_the_papers_size_is_that_of_pythia_70m():
    with torch.device("meta"):
        network = Huginn(HuginnSpec(), 32000)
    matrices = sum(p.numel() for layer in network.layers for p in layer.parameters() if p.ndim == 2)
    assert matrices == 8 * (4 * 512**2 + 3 * 512 * 2048)
    assert network.adapter.weight.numel() == 2 * 512**2 and network.embedding.weight.numel() == 32000 * 512


def test_norms_after_a_branch_stand_on_the_sum(network):
    """The layer's output is normed whatever came in, so a larger input is no larger output."""
    layer, x = network.core[0], torch.randn(1, 5, 16)
    rotation = network.rotary(5, torch.device("cpu"))
    attend = torch.nn.functional.scaled_dot_product_attention
    for scale in (1.0, 100.0):
        found = layer(scale * x, None, rotation, attend)
        torch.testing.assert_close(found.square().mean(dim=-1), torch.ones(1, 5), rtol=1e-3, atol=0)


def test_only_queries_and_keys_have_a_bias(network):
    attention = network.core[0].attention
    assert attention.qkv.bias is None and attention.out.bias is None
    rotation = network.rotary(5, torch.device("cpu"))
    before = network(TOKENS, state_of(network), 2)
    with torch.no_grad():
        attention.qk_bias[:] = torch.randn(attention.qk_bias.shape)
    assert attention.qk_bias.shape == (2, 2, 1, 8) and rotation[0].shape == (5, 4)
    assert not torch.allclose(network(TOKENS, state_of(network), 2), before)


@pytest.mark.parametrize("iterations", [1, 4])
def test_reading_piece_by_piece_gives_the_same_logits(network, iterations):
    states = state_of(network)
    whole = network(TOKENS, states, iterations)
    reader = HuginnReader(network, states, iterations)
    torch.testing.assert_close(reader.read(TOKENS[:, :3]), whole[:, 2])
    torch.testing.assert_close(reader.read(TOKENS[:, 3:4]), whole[:, 3])
    torch.testing.assert_close(reader.read(TOKENS[:, 4:]), whole[:, 4])


# --- as a denoiser


def test_what_must_be_predicted_is_seen_with_noise_alone(denoiser):
    """A position's logits depend on the tokens up to its own and on noisy embeddings up to its own target's."""
    z = torch.randn(2, 5, 16)
    sigma = torch.full((10,), 0.4)

    def logits(tokens, z):
        return Context(denoiser, tokens).denoise(z.flatten(0, 1), sigma).view(2, 5, -1)

    plain, tokens, noisy = logits(TOKENS, z), TOKENS.clone(), z.clone()
    tokens[:, 3], noisy[:, 3] = 7, 0.0
    for found in (logits(tokens, z), logits(TOKENS, noisy)):
        assert torch.equal(found[:, :3], plain[:, :3])
        assert not torch.allclose(found[:, 3], plain[:, 3]) and not torch.allclose(found[:, 4], plain[:, 4])


def test_keeping_keys_and_values_gives_the_same_samples(denoiser):
    model = DiffusionBlocks(denoiser, denoiser.method)
    noise = 1.0 * torch.randn(2, 5, 16)
    whole = model.sample(Context(denoiser, TOKENS), noise.flatten(0, 1)).view(2, 5, -1)
    cached = CachedContext(denoiser, 5, len(model.grid))
    for start, stop in ((0, 3), (3, 4), (4, 5)):
        context = cached.read(TOKENS[:, start:stop])
        found = model.sample(context, noise[:, start:stop].flatten(0, 1)).view(2, stop - start, -1)
        torch.testing.assert_close(found, whole[:, start:stop], rtol=1e-4, atol=1e-5)


def test_one_level_a_sequence_is_the_same_level_for_each_of_its_tokens(awaken):
    z, sigma = torch.randn(10, 16), torch.tensor([0.3] * 5 + [2.0] * 5)
    found = []
    for per in ("sequence", "token"):
        spec = method(sigma_per=per)
        network = awaken(HuginnDenoiser(SPEC, spec, partition_of(spec, SPEC.layers), VOCABULARY))
        found.append(Context(network, TOKENS).denoise(z, sigma))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_the_noise_level_conditions_all_but_the_prelude(denoiser):
    assert all(layer.modulation is None for layer in denoiser.prelude)
    assert all(layer.modulation is not None for layer in (*denoiser.core, *denoiser.coda))
    z = torch.randn(10, 16)
    low, high = (Context(denoiser, TOKENS).denoise(z, torch.full((10,), s)) for s in (0.1, 10.0))
    assert not torch.allclose(low, high)


def test_what_is_hardly_noisy_is_told_with_the_confidence_of_a_norm(denoiser):
    """At σ_min hidden states are z but for c_out ≈ σ: of unit length, unless the head's norm stands behind the wrap."""
    tokens, targets = TOKENS[:, :-1], TOKENS[:, 1:].flatten()
    with torch.no_grad():
        y = denoiser.target(targets)
        logits = denoiser.denoise(0, y, torch.full((len(y),), 1e-4), Context(denoiser, tokens))
        length = y * math.sqrt(SPEC.width) * denoiser.norm.weight
    expected = length @ denoiser.embedding.weight.T
    assert torch.allclose(logits, expected, atol=1e-2 * expected.abs().max().item())


def test_target_head_and_embedding_are_one_table(denoiser):
    assert denoiser.table is denoiser.embedding
    assert sum(p.shape == denoiser.embedding.weight.shape for p in denoiser.parameters()) == 1
    y = denoiser.target(TOKENS.flatten())
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(10))


def levels(seed: int = 0) -> torch.Tensor:
    """A noise level [10] of its own for each of two times five tokens."""
    return torch.rand(10, generator=torch.Generator().manual_seed(seed)) * 2 + 0.1


def test_sigma_data_is_one_half_or_the_rms_of_the_targets(denoiser_of):
    assert denoiser_of().precondition == Preconditioning(0.5)
    network = denoiser_of(noise={"sigma_data": "embedding_rms"})
    rms = network.target(torch.arange(VOCABULARY)).square().mean().sqrt().item()
    assert network.precondition.sigma_data == pytest.approx(rms, rel=1e-6) == 0.25


@pytest.mark.parametrize("wrap", ["edm", "none"])
@pytest.mark.parametrize(("sigma_data", "variance"), [("paper", 1 / 4), ("embedding_rms", 1 / 16)])
@torch.no_grad()
def test_a_pass_is_edms_denoiser_written_out(denoiser_of, wrap, sigma_data, variance):
    noise = {"sigma_data": sigma_data}
    network = denoiser_of(noise=noise, c_noise_scale=30.0, head_preconditioning=wrap, sigma_per="token")
    z, s, context = normal(2, 5, 16), levels().view(2, 5, 1), Context(network, TOKENS)
    angles = 30 * s.log() / 4 * 10_000 ** (-torch.arange(128) / 128)
    condition = network.noise.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
    scaled = z / (s**2 + variance).sqrt()
    state = network.iterate(scaled, context.e, context.rotation, condition)
    hidden = network.finish(state, context.rotation, condition)
    if wrap == "edm":
        hidden = variance / (s**2 + variance) * z + s * (variance / (s**2 + variance)).sqrt() * hidden
    expected = network.norm(hidden) @ network.embedding.weight.T
    found = context.denoise(z.flatten(0, 1), levels()).view(2, 5, -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_levels_condition_token_by_token_or_are_the_first_ones_of_their_sequences(denoiser_of):
    sigma = levels().view(2, 5)
    assert torch.equal(level_of(denoiser_of(sigma_per="token"), sigma), sigma)
    assert torch.equal(level_of(denoiser_of(sigma_per="sequence"), sigma), sigma[:, :1])


@torch.no_grad()
def test_a_level_of_its_own_reaches_a_token_and_those_that_read_it(denoiser_of):
    network, z = denoiser_of(sigma_per="token"), normal(10, 16)
    sigma, other = levels(), levels().view(2, 5).clone()
    other[:, 3] = 4.0
    one, two = (Context(network, TOKENS).denoise(z, s.flatten()).view(2, 5, -1) for s in (sigma, other))
    assert torch.equal(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3], two[:, 3]) and not torch.allclose(one[:, 4], two[:, 4])


@torch.no_grad()
def test_what_is_kept_is_conditioned_by_each_tokens_own_level_too(denoiser_of):
    network, z, sigma = denoiser_of(sigma_per="token"), normal(2, 5, 16), levels().view(2, 5)
    whole = Context(network, TOKENS).denoise(z.flatten(0, 1), sigma.flatten()).view(2, 5, -1)
    cached = CachedContext(network, 5, 1)
    for start, stop in ((0, 3), (3, 5)):
        part = cached.read(TOKENS[:, start:stop])
        found = part.denoise(z[:, start:stop].flatten(0, 1), sigma[:, start:stop].flatten())
        torch.testing.assert_close(found.view(2, stop - start, -1), whole[:, start:stop], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", ["trained", "frozen"])
def test_the_table_learns_with_everything_else_or_is_frozen(denoiser_of, table):
    network = denoiser_of(target_table=table)
    model = DiffusionBlocks(network, network.method)
    model.training_loss(0, Context(network, TOKENS), TOKENS.flatten(), levels(), normal(10, 16)).backward()
    still = {name for name, p in network.named_parameters() if p.grad is None}
    assert still == (set() if table == "trained" else {"embedding.weight"})


def test_rotary_positions_have_the_base_of_the_spec():
    network = Huginn(SPEC.model_copy(update={"rotary_base": 100.0}), VOCABULARY)
    expected = torch.tensor([1.0, 100 ** -(2 / 8), 100 ** -(4 / 8), 100 ** -(6 / 8)])
    assert torch.allclose(network.rotary.rates, expected)
