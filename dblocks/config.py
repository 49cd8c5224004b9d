"""From config/*.yaml to RunSpecs: merge and validate.

A spec is merged from experiment ← variant ← scale (config/scales.yaml, then the experiment's own section)
← command line, in that order; later wins. Everything here is plain data: torch is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from dblocks.data.registry import dataset
from dblocks.data_fits import check_data_fits, check_tiles
from dblocks.errors import UserError
from dblocks.identity import identity
from dblocks.reading import first_error, read_yaml, yaml_files
from dblocks.spec import AutoregressiveTextSpec, Part, RunSpec

CONFIG_DIR = Path(__file__).resolve().parent.parent / "config"
NAMES = ("experiment", "variant", "scale", "seed")  # what a run is called; no layer of fields may set them
PUBLISHED_LATENTS = (4, 8)  # channels and factor of downsampling of Stable Diffusion's autoencoder
MOST_SEEDS = 1000  # the plan writes a file for each run and seed


def _without_names(fields: dict[str, Any]) -> dict[str, Any]:
    if found := [name for name in NAMES if name in fields]:
        raise ValueError(f"'{found[0]}' is no field that a run sets")
    return fields


Fields = Annotated[dict[str, Any], AfterValidator(_without_names)]


class Section(Part):
    """Overrides of one scale: for all variants, then for single ones."""

    base: Fields = Field({}, description="Fields of RunSpec for every variant.")
    variants: dict[str, Fields] = Field({}, description="Fields of RunSpec per variant.")


class Experiment(Part):
    """config/runs/<experiment>.yaml: one network on one data set, and the ways it is trained."""

    experiment: str
    description: str
    extends: str | None = Field(
        None, description="<experiment>/<variant> of another file, whose fields this one's are laid on, scale by scale."
    )
    base: Fields = Field(description="Fields of RunSpec at the paper's scale.")
    variants: dict[str, Fields] = Field(description="Fields of RunSpec that differ, by variant.")
    scales: dict[str, Section] = Field({}, description="What the scales other than `paper` change.")


class Scale(Part):
    """config/scales.yaml: one budget."""

    description: str
    seeds: int = Field(ge=1, le=MOST_SEEDS, description="Seeds of a run unless the command line says otherwise.")
    overrides: Fields = Field({}, description="Fields of RunSpec for every run at this scale.")


class Scales(Part):
    scales: dict[str, Scale]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mappings merged key by key, everything else replaced.

    A mapping with another `name` (another network, another method) replaces the whole mapping.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        same_kind = both and ("name" not in value or value["name"] == old.get("name"))
        result[key] = merge(old, value) if same_kind else value
    return result


@cache
def load_experiments(config_dir: Path = CONFIG_DIR) -> dict[str, Experiment]:
    """Every config/runs/*.yaml by its experiment's name."""
    experiments = {}
    for path in yaml_files(config_dir / "runs"):
        experiment = read_yaml(path, Experiment)
        if experiment.experiment != path.stem:
            raise UserError(f"{path}: experiment: '{experiment.experiment}' should be the file's name '{path.stem}'")
        for scale, section in experiment.scales.items():
            if scale not in load_scales(config_dir):
                raise UserError(f"{path}: scales.{scale}: no such scale; there are {known_scales(config_dir)}")
            for variant in section.variants:
                if variant not in experiment.variants:
                    raise UserError(f"{path}: scales.{scale}.variants.{variant}: no such variant")
        experiments[experiment.experiment] = experiment
    return {name: extended(experiment, experiments, config_dir) for name, experiment in experiments.items()}


def has_run(run: str, config_dir: Path = CONFIG_DIR) -> bool:
    """Whether "<experiment>/<variant>" is in config/runs."""
    experiment, _, variant = run.partition("/")
    known = load_experiments(config_dir).get(experiment)
    return known is not None and variant in known.variants


def extended(experiment: Experiment, experiments: Mapping[str, Experiment], config_dir: Path) -> Experiment:
    """An experiment with the fields it extends under its own.

    Raises: UserError if what it extends is not there, or extends something itself: one step is followed at a glance.
    """
    if experiment.extends is None:
        return experiment
    place = f"{config_dir / 'runs' / experiment.experiment}.yaml: extends"
    name, _, variant = experiment.extends.partition("/")
    if name not in experiments or variant not in experiments[name].variants:
        raise UserError(f"{place}: '{experiment.extends}' is not in config/runs")
    below = experiments[name]
    if below.extends is not None:
        raise UserError(f"{place}: '{experiment.extends}' extends '{below.extends}' itself")
    scales = {}
    for scale in {**below.scales, **experiment.scales}:
        under, over = below.scales.get(scale, Section()), experiment.scales.get(scale, Section())
        base = merge(merge(under.base, under.variants.get(variant, {})), over.base)
        scales[scale] = Section(base=base, variants=over.variants)
    base = merge(merge(below.base, below.variants[variant]), experiment.base)
    return experiment.model_copy(update={"base": base, "scales": scales})


@cache
def load_scales(config_dir: Path = CONFIG_DIR) -> dict[str, Scale]:
    """config/scales.yaml."""
    return read_yaml(config_dir / "scales.yaml", Scales).scales


def known_scales(config_dir: Path = CONFIG_DIR) -> str:
    """The scales' names in one string, for messages."""
    return ", ".join(load_scales(config_dir))


def resolve(
    run: str,
    scale: str,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    config_dir: Path = CONFIG_DIR,
    readers: tuple[str, ...] = (),
) -> RunSpec:
    """The RunSpec of `run` = "<experiment>/<variant>" at `scale`.

    Args:
        readers: the runs that read its weights, the first of them first.
    Raises: UserError naming the file and field that is wrong.
    """
    if scale not in load_scales(config_dir):
        raise UserError(f"scale: no scale '{scale}'; there are {known_scales(config_dir)}")
    experiment_name, _, variant = run.partition("/")
    experiment = load_experiments(config_dir).get(experiment_name)
    if experiment is None:
        raise UserError(f"run '{run}': no {config_dir / 'runs' / (experiment_name + '.yaml')}")
    if variant not in experiment.variants:
        raise UserError(f"run '{run}': no variant '{variant}'; there are {', '.join(experiment.variants)}")
    section = experiment.scales.get(scale, Section())
    fields: dict[str, Any] = {}
    for layer in (
        experiment.base,
        experiment.variants[variant],
        load_scales(config_dir)[scale].overrides,
        section.base,
        section.variants.get(variant, {}),
        overrides or {},
    ):
        fields = merge(fields, layer)
    if fields.get("task") != "image_generation":
        fields.pop("generation", None)  # the command line gives it to every run
    fields |= {"experiment": experiment_name, "variant": variant, "scale": scale, "seed": seed}
    place = place_of(run, scale, overrides, config_dir)
    if run in readers:
        raise UserError(f"{place}: it would read its own weights: {' needs '.join((*readers, run))}")
    try:
        spec = RunSpec.model_validate(fields)
        check_data_fits(spec)
        in_latents = spec.generation is not None and spec.generation.latents is not None
        check_tiles(spec, latent_shape(spec, config_dir) if in_latents else None)
    except ValidationError as error:
        raise UserError(f"{place}: {first_error(error)}") from error
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    identities = {
        role: identity(needed) for role, needed in needed_specs(spec, overrides, config_dir, (*readers, run)).items()
    }
    return spec.with_identities(identities) if identities else spec


def place_of(run: str, scale: str, overrides: Mapping[str, Any] | None, config_dir: Path = CONFIG_DIR) -> str:
    """Where the settings of a run come from, for messages."""
    experiment, _, variant = run.partition("/")
    more = ", overridden by the command line" if overrides else ""
    return f"{config_dir / 'runs' / experiment}.yaml: variant {variant} at scale {scale}{more}"


def needed_specs(
    spec: RunSpec,
    overrides: Mapping[str, Any] | None = None,
    config_dir: Path = CONFIG_DIR,
    readers: tuple[str, ...] = (),
) -> dict[str, RunSpec]:
    """The runs whose weights a run reads, by role, at its scale; seed 0.

    Of the overrides they take data, compute and max_steps: the rest is meant for networks and methods like the run's.
    Of data, a teacher of text takes the number of samples alone: it learns from a text of its own.
    """
    over = {key: value for key, value in (overrides or {}).items() if key in ("data", "compute")}
    if isinstance(spec.task, AutoregressiveTextSpec):
        over["data"] = {k: v for k, v in over.get("data", {}).items() if k == "max_evaluation_samples"}
    if steps := (overrides or {}).get("training", {}).get("max_steps"):
        over["training"] = {"max_steps": steps}
    return {role: resolve(run, spec.scale, 0, over, config_dir, readers) for role, run in spec.needed_runs().items()}


def latent_shape(spec: RunSpec, config_dir: Path = CONFIG_DIR) -> tuple[int, int, int]:
    """[C, H, W] of what a run in latents diffuses, whose autoencoder may not be trained yet."""
    autoencoder = spec.generation.latents.autoencoder
    channels, factor = PUBLISHED_LATENTS
    if "/" in autoencoder:
        network = resolve(autoencoder, spec.scale, config_dir=config_dir).network
        channels, factor = network.latent_channels, 2**network.layers
    _, height, width = dataset(spec.data.name).image_shape
    return channels, height // factor, width // factor
