"""The methods' parts of a RunSpec: how a network is trained, and how it predicts."""

from __future__ import annotations

from math import log
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dblocks.spec.base import Part


class NoiseSpec(Part):
    """log σ ~ N(p_mean, p_std²), truncated to [sigma_min, sigma_max]; EDM preconditioning (paper, Section 3)."""

    p_mean: float = Field(-1.2, description="Mean of ln σ in training.")
    p_std: float = Field(1.2, gt=0, description="Deviation of ln σ in training.")
    sigma_min: float = Field(0.002, gt=0, description="Least noise level; training and sampling are cut there.")
    sigma_max: float = Field(80.0, gt=0, description="Greatest noise level, where sampling starts.")
    sigma_data: Literal["paper", "embedding_rms", "data_rms"] = Field(
        "paper",
        description="0.5 as in the paper; the per-dimension RMS 1/√d of unit-norm embeddings; or the RMS measured on "
        "training images or latents.",
    )

    @model_validator(mode="after")
    def _ordered(self):
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        low, high = (NormalDist(self.p_mean, self.p_std).cdf(log(x)) for x in (self.sigma_min, self.sigma_max))
        if high - low < 1e-6:
            raise ValueError(f"[sigma_min, sigma_max] holds {high - low:.1g} of the noise: p_mean or p_std is off")
        return self


class SamplingSpec(Part):
    """How a clean target is reached from noise: Euler on the probability-flow ODE."""

    steps: int = Field(4, ge=1, description="Denoiser evaluations, the last one at sigma_min.")
    at_least_num_blocks: bool = Field(True, description="Take max(steps, B) steps, so that no block is left out.")
    grid: Literal["equal_mass", "rho7"] = Field(
        "equal_mass", description="Equal probability mass between noise levels (Appendix H), or EDM's ρ = 7."
    )
    tie_rule: Literal["lower", "official"] = Field(
        "lower", description="A noise level on a boundary goes to the block below it, or to the noisier one."
    )
    start_noise: Literal["paper", "official"] = Field(
        "paper", description="Deviation of the first z: σ_max, or √(1 + σ_max²)."
    )
    bridge: Literal["soft", "hard", "topk"] = Field(
        "soft", description="From logits back to an embedding: softmax mixture, the likeliest, or the k likeliest."
    )
    bridge_table: Literal["normalized", "raw"] = Field(
        "normalized", description="Table the bridge mixes: the normalised one of training, or the raw weights."
    )
    top_k: int = Field(5, ge=1, description="k of bridge `topk`.")


class EndToEndSpec(Part):
    """The baseline: the whole network, one loss, ordinary backpropagation."""

    name: Literal["end_to_end"] = "end_to_end"


class DiffusionBlocksSpec(Part):
    """Block-wise training as denoisers (the paper's method)."""

    name: Literal["diffusion_blocks"] = "diffusion_blocks"
    num_blocks: int = Field(3, ge=1, description="B; the run takes B times the baseline's steps.")
    layers_per_block: tuple[int, ...] | None = Field(
        None, description="Layers of block 1, 2, … (block 1 is the noisiest); None cuts evenly."
    )
    partition: Literal["equi_probability", "uniform", "uniform_linear"] = Field(
        "equi_probability",
        description="Equal probability mass; equal intervals in log σ (Appendix E.6.2); or in σ (Section 3.3).",
    )
    overlap: float = Field(0.05, ge=0, description="γ: each training interval is widened by this share.")
    noise: NoiseSpec = NoiseSpec()
    weighting: Literal["paper", "official", "none"] = Field(
        "none", description="w(σ) per sample; mean loss times mean w as the official code does; or no weight."
    )
    block_order: Literal["iid", "rounds", "turns"] = Field(
        "iid", description="Block of each step: drawn independently (paper), or each once a round, shuffled or in turn."
    )
    schedule: Literal["sampled", "parallel"] = Field(
        "sampled", description="One job that trains the block of each step, or a job a block and no communication."
    )
    embedders: Literal["shared", "own", "frozen"] = Field(
        "shared",
        description="Embedders and heads: one set trained by all blocks; one set a block; or one set of input "
        "embedders left at its initial values, with a head a block.",
    )
    target_table: Literal["trained", "frozen"] = Field(
        "trained", description="The table of target embeddings, always one for all blocks."
    )
    target_deviation: float = Field(
        1.0,
        gt=0,
        description="Deviation of that table's first entries: PyTorch's own, or 0.02 as in the official code.",
    )
    adaln: Literal["dit", "official"] = Field(
        "dit",
        description="DiT's; or the official code's: SiLU behind the modulation layer too, affine norms before it, "
        "and, in the ViT, a condition of a sixth of the width.",
    )
    c_noise_scale: float = Field(1.0, gt=0, description="Factor on c_noise before its sinusoidal embedding.")
    label_token: Literal["paper", "official"] = Field(
        "paper",
        description="`paper`: [CLS], patches and a noisy label token, read at [CLS]; `official`: the noisy label "
        "token takes the place of [CLS] and is read.",
    )
    head_preconditioning: Literal["edm", "official", "none"] = Field(
        "edm",
        description="`edm`: c_skip·z + c_out·F wraps the hidden state, before the head's norm; `official` (ViT alone): "
        "behind it, and the head is zero at first; `none`: no wrap.",
    )
    sigma_per: Literal["token", "sequence"] | None = Field(
        None,
        description="Of autoregressive text, and of no other task: a noise level for each token, or each sequence.",
    )
    sampling: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _consistent(self):
        if self.layers_per_block is not None:
            if any(n < 1 for n in self.layers_per_block):
                raise ValueError(f"layers_per_block {list(self.layers_per_block)} has a block without a layer")
            if len(self.layers_per_block) != self.num_blocks:
                raise ValueError(
                    f"layers_per_block {list(self.layers_per_block)} names {len(self.layers_per_block)} blocks, "
                    f"num_blocks is {self.num_blocks}"
                )
        if self.embedders != "shared" and self.target_table != "frozen":
            raise ValueError(
                f"embedders '{self.embedders}' isolates the blocks, so the target table they share must be "
                "frozen: set target_table to 'frozen'"
            )
        if self.schedule == "parallel" and (self.embedders, self.block_order) != ("own", "turns"):
            raise ValueError(
                f"schedule 'parallel' trains blocks that share nothing, each in its turn: embedders '{self.embedders}' "
                f"and block_order '{self.block_order}' must be 'own' and 'turns'"
            )
        return self


class ContrastiveForwardForwardSpec(Part):
    """Contrastive Forward-Forward (Aghagolzadeh & Ezoji 2025): a supervised contrastive loss per layer,
    then a linear probe on the frozen features."""

    name: Literal["contrastive_forward_forward"] = "contrastive_forward_forward"
    temperature: float = Field(0.15, gt=0, description="Of the contrastive loss: cosines are divided by it.")
    first_margin: float = Field(0.4, ge=0, description="Margin on positive cosines in the first layer …")
    last_margin: float = Field(0.1, ge=0, description="… falling linearly to this one in the last.")
    probe_epochs: float = Field(50, gt=0, description="Epochs of the linear probe, after the layers' own.")
    probe_learning_rate: float = Field(5e-4, gt=0, description="Of the linear probe.")


class ForwardForwardSpec(Part):
    """Forward-Forward (Hinton 2022) with a label token: high goodness for the right label, low for a wrong one."""

    name: Literal["forward_forward"] = "forward_forward"
    threshold: float = Field(2.0, gt=0, description="θ: goodness that divides positive from negative.")
    scored_layers: Literal["last", "all_but_first"] = Field(
        "last", description="Layers whose goodness decides the label (official CFF code: last; Hinton: all but first)."
    )


class RecurrentDepthSpec(Part):
    """Stochastic depth with truncated backpropagation (Geiping et al. 2025), the baseline of Table 5: r iterations a
    step, r − 1 ~ Poisson(e^τ), τ ~ N(ln r̄ − s²/2, s²); r̄ is network.iterations."""

    name: Literal["recurrent_depth"] = "recurrent_depth"
    log_deviation: float = Field(0.5, ge=0, description="s, deviation of τ.")
    backpropagated: int = Field(8, ge=1, description="Iterations, the last, that gradients go through.")


class BackpropSpec(Part):
    """NoProp's baseline: its copies in a row, trained end to end through the path that z takes."""

    name: Literal["backprop"] = "backprop"
    copies: int = Field(10, ge=1, description="T: copies of the network, one a step of the path.")
    initial_gate: float = Field(0.5, gt=-1, lt=1, description="First value of each α_t = tanh(w_t).")


class NoPropDTSpec(Part):
    """NoProp-DT: discrete time, one copy of the network a step, trained alone (Li, Teh & Pascanu 2025)."""

    name: Literal["noprop_dt"] = "noprop_dt"
    num_blocks: int = Field(10, ge=1, description="T: steps of the diffusion, each a block.")
    eta: float = Field(0.1, gt=0, description="η: weight of the squared error.")
    alpha_bar_range: tuple[float, float] = Field(
        (1e-3, 0.999), description="Clip of the cosine schedule's ᾱ, so that every SNR is finite."
    )
    block_order: Literal["sweep", "iid", "rounds"] = Field(
        "sweep", description="Blocks in turn, each over the whole data (Algorithm 1), or drawn as DiffusionBlocks' are."
    )

    @model_validator(mode="after")
    def _range_is_open(self):
        low, high = self.alpha_bar_range
        if not 0 < low < high < 1:
            raise ValueError(f"alpha_bar_range [{low}, {high}] must rise inside (0, 1)")
        return self


class NoPropCTSpec(Part):
    """NoProp-CT: continuous time, one network, a learned noise schedule."""

    name: Literal["noprop_ct"] = "noprop_ct"
    eta: float = Field(1.0, gt=0, description="η: weight of the squared error.")
    gamma_start: float = Field(-7.0, description="γ_0 at first: −ln SNR at t = 1, the clean end …")
    gamma_end: float = Field(7.0, description="… and γ_1, at t = 0, the noisy end. Both are trained.")
    time_scale: float = Field(1.0, gt=0, description="Factor on t before its sinusoids.")
    steps: int = Field(1000, ge=1, description="Steps of the diffusion when predicting.")

    @model_validator(mode="after")
    def _gamma_falls(self):
        if self.gamma_start >= self.gamma_end:
            raise ValueError(f"gamma_start {self.gamma_start} is not below gamma_end {self.gamma_end}")
        return self


class NoPropFMSpec(Part):
    """NoProp-FM: flow matching, one network; the nearest class embedding decides."""

    name: Literal["noprop_fm"] = "noprop_fm"
    sigma: float = Field(0.0, ge=0, description="Deviation of z_t around the line from noise to embedding.")
    anchor: Literal["linear", "distance"] = Field(
        "linear", description="What reads the extrapolated end in the cross-entropy of learned embeddings."
    )
    time_scale: float = Field(1.0, gt=0, description="Factor on t before its sinusoids.")
    steps: int = Field(1000, ge=1, description="Euler steps when predicting.")


Method = Annotated[
    EndToEndSpec
    | DiffusionBlocksSpec
    | RecurrentDepthSpec
    | ContrastiveForwardForwardSpec
    | ForwardForwardSpec
    | BackpropSpec
    | NoPropDTSpec
    | NoPropCTSpec
    | NoPropFMSpec,
    Field(discriminator="name"),
]
