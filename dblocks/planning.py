"""From a command line to its plan: the whole configuration is resolved and checked, also what is not asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from dblocks.budget import total_steps
from dblocks.claims import load_claims
from dblocks.command_line import CommandLine
from dblocks.config import CONFIG_DIR, known_scales, load_experiments, load_scales, needed_specs, place_of, resolve
from dblocks.data.registry import DATASETS
from dblocks.errors import UserError
from dblocks.identity import data_fingerprint, identity, weights_identity
from dblocks.measure.request import make_request
from dblocks.plan import Plan
from dblocks.reading import first_error
from dblocks.spec import DiffusionBlocksSpec, RunSpec
from dblocks.tables import Table, load_tables
from dblocks.weights import FROM_HUB

DAY_OF_GPU_MINUTES = 24 * 60


def parse_command_line(config: dict) -> CommandLine:
    """`snakemake --config` as a CommandLine.

    Raises: UserError naming the key that is wrong.
    """
    try:
        line = CommandLine.model_validate(config)
    except ValidationError as error:
        unknown = any(detail["type"] == "extra_forbidden" for detail in error.errors())
        known_keys = f"; known keys: {', '.join(CommandLine.model_fields)}" if unknown else ""
        raise UserError(f"--config {first_error(error)}{known_keys}") from error
    known = [*DATASETS, *FROM_HUB]
    for name in line.skip:
        if name not in known:
            raise UserError(f"--config skip: nothing is called '{name}'; there are {', '.join(known)}")
    for scale, part in line.at_scale.items():
        if scale not in load_scales():
            raise UserError(f"--config at_scale: no scale '{scale}'; there are {known_scales()}")
        check_overridden(parse_command_line(part))
    return line


def check_overridden(command_line: CommandLine, config_dir: Path = CONFIG_DIR) -> None:
    """Raises: UserError if `override_runs` names an experiment, or a variant of one, that does not exist."""
    experiments = load_experiments(config_dir)
    for name in command_line.override_runs:
        experiment, slash, variant = name.partition("/")
        if experiment not in experiments:
            known = ", ".join(experiments)
            raise UserError(f"--config override_runs: no experiment '{experiment}'; there are {known}")
        if slash and variant not in experiments[experiment].variants:
            known = ", ".join(experiments[experiment].variants)
            raise UserError(f"--config override_runs: '{experiment}' has no variant '{variant}'; there are {known}")


def cannot_do_without(spec: RunSpec) -> tuple[str, ...]:
    """What a run is left out with, where it is skipped: its data set, its tokenizer. Without a judge it still runs."""
    return spec.data.name, getattr(spec.task, "tokenizer", None) or spec.data.name


def seeds_of(spec: RunSpec, command_line: CommandLine, config_dir: Path = CONFIG_DIR) -> int:
    """Seeds of a run: as given, else the scale's, else one where a seed takes more than a day."""
    if command_line.seeds is not None:
        return command_line.seeds
    days = spec.gpu_count * spec.resources.runtime_minutes > DAY_OF_GPU_MINUTES
    return 1 if days else load_scales(config_dir)[spec.scale].seeds


def make_plan(config: dict, config_dir: Path = CONFIG_DIR) -> Plan:
    """The plan of one command line. The whole configuration is checked, also what is not asked for.

    Raises: UserError in one line for the first thing that is wrong.
    """
    command_line = parse_command_line(config)
    tables = load_tables(config_dir)
    check_runs(config_dir)
    claims = load_claims(tables, config_dir)
    check_overridden(command_line, config_dir)
    runs: dict[str, list[RunSpec]] = {}
    run_of: dict[str, str] = {}
    name_of: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for table in tables.values():
        for row_run in table.runs:
            if row_run in run_of or row_run in skipped:
                continue
            overrides = command_line.overrides(row_run)
            spec = resolve(row_run, command_line.scale, 0, overrides, config_dir)
            lacking = [name for name in cannot_do_without(spec) if name in command_line.skip]
            if lacking:
                skipped[row_run] = lacking[0]
                continue
            check_run(spec, place_of(row_run, command_line.scale, overrides, config_dir))
            key = identity(spec)
            run = name_of.setdefault(key, f"{spec.experiment}-{spec.variant}-{key[:8]}")
            run_of[row_run] = run
            if run not in runs:
                runs[run] = [
                    spec.model_copy(update={"seed": k}) for k in range(seeds_of(spec, command_line, config_dir))
                ]
        check_split(table, {run: runs[run_of[run]][0] for run in table.runs if run in run_of})
    needed: dict[str, dict[str, str]] = {}
    for run, specs in list(runs.items()):
        needed[run] = {}
        overrides = command_line.overrides(f"{specs[0].experiment}/{specs[0].variant}")
        for role, spec in needed_specs(specs[0], overrides, config_dir).items():
            key = identity(spec)
            needed[run][role] = name_of.setdefault(key, f"{spec.experiment}-{spec.variant}-{key[:8]}")
            runs.setdefault(needed[run][role], [spec])
    read = dict.fromkeys(row.measurement for table in tables.values() for row in table.rows if row.measurement)
    measurements = {name: make_request(name, command_line, config_dir) for name in read}
    trained_as = shared_trainings(runs)
    return Plan(command_line, tables, runs, run_of, skipped, config_dir, needed, trained_as, measurements, claims)


def shared_trainings(runs: Mapping[str, list[RunSpec]]) -> dict[str, str]:
    """For each run that differs from an earlier one in how it predicts alone, that one: its weights serve both."""
    first: dict[str, str] = {}
    trained_as = {}
    for run, specs in runs.items():
        spec = specs[0]
        # blocks in parallel have jobs of their own, before the run's
        if isinstance(spec.method, DiffusionBlocksSpec) and not spec.in_parallel:
            trainer = first.setdefault(weights_identity(spec), run)
            if trainer != run:
                trained_as[run] = trainer
    return trained_as


def check_runs(config_dir: Path = CONFIG_DIR) -> None:
    """Resolve every variant of every experiment at every scale."""
    for name, experiment in load_experiments(config_dir).items():
        for variant in experiment.variants:
            for scale in load_scales(config_dir):
                run = f"{name}/{variant}"
                check_run(resolve(run, scale, config_dir=config_dir), place_of(run, scale, None, config_dir))


def check_split(table: Table, specs: Mapping[str, RunSpec]) -> None:
    """Raises: UserError if a table that is for choosing would read test. Specs are by "<experiment>/<variant>"."""
    for run, spec in specs.items():
        wanted, found = table.evaluation_split, spec.data.evaluation_split
        if wanted not in (None, found):
            raise UserError(
                f"table {table.table}: run '{run}' has data.evaluation_split '{found}', and choices are made on "
                f"'{wanted}'; give evaluation_split: {wanted} and train_split: fit with the data set"
            )


def check_run(spec: RunSpec, place: str) -> None:
    """Raises: UserError if a run's data is not there, or has no step to take, since one batch is more than it."""
    try:
        data_fingerprint(spec.data)
        total_steps(spec)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
