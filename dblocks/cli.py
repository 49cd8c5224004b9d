"""The command line: `python -m dblocks <verb>`. Each verb imports what it needs and no more."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dblocks.errors import Interrupted, UserError


def run(options: argparse.Namespace) -> None:
    """Train, evaluate and record one run."""
    from dblocks.processes import start_together
    from dblocks.run import execute, read_spec
    from dblocks.slurm import requeue

    start_together(read_spec(options.spec).compute.gpus, sys.argv[1:])
    try:
        needs = dict(options.need)
        print(execute(options.spec, options.data.parent, options.wandb, not options.quiet, needs))
    except Interrupted as stop:
        if stop.progress and os.environ.get("RANK", "0") == "0":
            requeue()
        raise


def block(options: argparse.Namespace) -> None:
    """Train one block of a run whose blocks are trained in parallel."""
    from dblocks.block_run import execute_block
    from dblocks.slurm import requeue

    try:
        print(execute_block(options.spec, options.block, options.data.parent, not options.quiet))
    except Interrupted as stop:
        if stop.progress:
            requeue()
        raise


def prepare(options: argparse.Namespace) -> None:
    """Prepare one data set."""
    from dblocks.data.prepare import prepare

    own = {"path": options.path, "title": options.title}
    print(prepare(options.name, options.data_dir, options.folder, **own, download=options.download))


def encode(options: argparse.Namespace) -> None:
    """Encode a data set with a frozen autoencoder."""
    from dblocks.encode import encode_data

    print(encode_data(options.spec, options.images, options.autoencoder, options.folder))


def tokenizer(options: argparse.Namespace) -> None:
    """Train a tokenizer, or take a published one."""
    from dblocks.encode import make_tokenizer

    print(make_tokenizer(options.spec, options.source, options.output))


def tokenize(options: argparse.Namespace) -> None:
    """Turn a data set's records into packed tokens."""
    from dblocks.encode import tokenize_data

    print(tokenize_data(options.spec, options.text, options.folder))


def weights(options: argparse.Namespace) -> None:
    """Find published weights in the data directory, or download them there."""
    from dblocks.weights import provide

    print(provide(options.name, options.data_dir, options.manifest))


def measure(options: argparse.Namespace) -> None:
    """Take one measurement: memory or wall time."""
    from dblocks.measure.measurement import take

    print(take(options.request))


def table(options: argparse.Namespace) -> None:
    """Build one table from the records its plan names."""
    from dblocks.report.build_tables import build_table, read_plan

    for path in build_table(read_plan(options.plan), options.folder):
        print(path)


def figure(options: argparse.Namespace) -> None:
    """Draw the figure of one table."""
    from dblocks.report.build_tables import build_figure, read_plan

    print(build_figure(read_plan(options.plan), options.folder))


def tables(options: argparse.Namespace) -> None:
    """Build every table that records in a folder allow, without running anything."""
    from dblocks.report.build_tables import tables_from_records

    for path in tables_from_records(options.from_records, options.to or options.from_records):
        print(path)


def report(options: argparse.Namespace) -> None:
    """Write the report of one scale, a single HTML page, from table plans or from whatever records there are."""
    from dblocks.report.build_tables import plans_from_records, read_plan
    from dblocks.report.page import write_page

    if options.from_records:
        plans = [plan for plan in plans_from_records(options.from_records) if plan.scale == options.scale]
    else:
        plans = [read_plan(path) for path in options.plans]
    print(write_page(plans, options.to))


def wandb_reports(options: argparse.Namespace) -> None:
    """Write a W&B report a table and an overview as JSON; with --push send them to W&B."""
    from dblocks.report.build_tables import read_plan
    from dblocks.report.wandb_reports import push_reports, write_reports

    make = push_reports if options.push else write_reports
    for path in make([read_plan(path) for path in options.plans], options.folder):
        print(path)


def wandb_sync(options: argparse.Namespace) -> None:
    """Upload a finished run to W&B, once."""
    from dblocks.report.wandb_sync import sync

    print(sync(options.record, options.to))


def compare(options: argparse.Namespace) -> None:
    """Print two sets of records side by side."""
    from dblocks.report.compare import compare

    print(compare(options.a, options.b))


def show(options: argparse.Namespace) -> None:
    """Print the tables of a scale and where they lie."""
    folder = Path(options.results) / options.scale / "tables"
    found = sorted(folder.glob("*.md"))
    if not found:
        raise UserError(f"{folder}: no tables yet; run `snakemake --cores 2 all` first")
    for path in found:
        print(f"{path.read_text()}\n→ {path}\n")


def schema(options: argparse.Namespace) -> None:
    """Write the JSON schemas of the configuration files."""
    from dblocks.schemas import write_schemas

    for path in write_schemas():
        print(path)


def doctor(options: argparse.Namespace) -> None:
    """Say what is here, what is missing for which table, and what the plan costs."""
    import yaml

    from dblocks.doctor import report
    from dblocks.plan import make_plan

    pairs = (pair.partition("=") for pair in options.config)
    text, complete = report(make_plan({key: yaml.safe_load(value) for key, _, value in pairs}))
    print(text)
    if not complete:
        raise UserError("something is missing, see above")


def readme(options: argparse.Namespace) -> None:
    """Rebuild README.md's tables and tree from committed records and files."""
    from dblocks.report.readme import write_readme

    print(write_readme())


ROLES = ("extractor", "autoencoder", "images", "features", "teacher")  # a teacher's goes on with its name


def role(text: str) -> tuple[str, Path]:
    """ROLE=PATH of the command line."""
    name, _, path = text.partition("=")
    if name.partition(":")[0] not in ROLES or not path:
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(f'{known}=' for known in ROLES)} and a path")
    return name, Path(path)


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="dblocks", description="Tables of DiffusionBlocks, step by step.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(function, *arguments: tuple[str, dict]) -> None:
        sub = verbs.add_parser(function.__name__, help=function.__doc__.rstrip("."), description=function.__doc__)
        sub.set_defaults(function=function)
        for name, settings in arguments:
            sub.add_argument(name, **settings)

    modes = ("off", "offline", "online")
    verb(
        run,
        ("spec", {"type": Path, "help": "spec.json; everything is written beside it"}),
        ("--data", {"type": Path, "required": True, "help": "manifest.json of the prepared data set"}),
        (
            "--wandb",
            {"choices": modes, "default": os.environ.get("DBLOCKS_WANDB", "off"), "help": "default: %(default)s"},
        ),
        ("--quiet", {"action": "store_true", "help": "no progress bar"}),
        (
            "--need",
            {
                "action": "append",
                "default": [],
                "type": role,
                "metavar": "ROLE=PATH",
                "help": "what it is evaluated with: extractor, autoencoder, images; features, teacher:<name>",
            },
        ),
    )
    verb(
        block,
        ("spec", {"type": Path, "help": "spec.json of the run; everything is written to blocks/<block> beside it"}),
        ("block", {"type": int, "help": "1, 2, …; 1 is the noisiest"}),
        ("--data", {"type": Path, "required": True, "help": "manifest.json of the prepared data set"}),
        ("--quiet", {"action": "store_true", "help": "no progress bar"}),
    )
    verb(
        prepare,
        ("name", {"help": "data set"}),
        ("--data-dir", {"type": Path, "default": Path("data"), "help": "where data sets lie (default: %(default)s)"}),
        ("--folder", {"type": Path, "required": True, "help": "where to write arrays and manifest"}),
        ("--path", {"type": Path, "help": "your own text, for characters, documents and sentences"}),
        ("--title", {"help": "the name that text bears in records"}),
        ("--download", {"action": "store_true", "help": "fetch what is not in the data directory"}),
    )
    verb(
        encode,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on the latents"}),
        ("--images", {"type": Path, "required": True, "help": "manifest.json of the prepared images"}),
        ("--autoencoder", {"type": Path, "required": True, "help": "record.json of its run, or its weights' manifest"}),
        ("--folder", {"type": Path, "required": True, "help": "where to write shards and manifest"}),
    )
    verb(
        tokenizer,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on its tokens"}),
        (
            "--source",
            {"type": Path, "required": True, "help": "manifest.json of the text, or of a published tokenizer"},
        ),
        ("--output", {"type": Path, "required": True, "help": "tokenizer.json to write"}),
    )
    verb(
        tokenize,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on the tokens"}),
        ("--text", {"type": Path, "required": True, "help": "manifest.json of the prepared text"}),
        ("--folder", {"type": Path, "required": True, "help": "where tokenizer.json lies and arrays go"}),
    )
    verb(
        weights,
        ("name", {"help": "inception, sd-vae-ft-ema, gpt2-large, gpt2-xl or llama2"}),
        ("--data-dir", {"type": Path, "default": Path("data"), "help": "where they lie (default: %(default)s)"}),
        ("--manifest", {"type": Path, "required": True, "help": "file to write path and checksum to"}),
    )
    request = "results/<scale>/measurements/<name>-<hash8>/request.json; the result is written beside it"
    verb(measure, ("request", {"type": Path, "help": request}))
    verb(
        figure,
        ("plan", {"type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--folder", {"type": Path, "required": True, "help": "where the table's files go"}),
    )
    verb(
        table,
        ("plan", {"type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--folder", {"type": Path, "required": True, "help": "where the table's files go"}),
    )
    verb(
        tables,
        ("--from-records", {"type": Path, "required": True, "help": "folder with record.json files below it"}),
        ("--to", {"type": Path, "help": "where <scale>/tables go (default: the same folder)"}),
    )
    verb(
        report,
        ("plans", {"nargs": "*", "type": Path, "help": "results/<scale>/plans/<table>.json of each table"}),
        ("--from-records", {"type": Path, "help": "instead of plans: a folder with record.json files below it"}),
        ("--scale", {"default": "smoke", "help": "of those records (default: %(default)s)"}),
        ("--to", {"type": Path, "required": True, "help": "the page's file; best in results/<scale>"}),
    )
    verb(
        compare,
        ("a", {"type": Path, "help": "folder with record.json files below it"}),
        ("b", {"type": Path, "help": "another"}),
    )
    verb(
        wandb_reports,
        ("plans", {"nargs": "+", "type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--push", {"action": "store_true", "help": "create or renew them at W&B, and write their addresses"}),
        ("--folder", {"type": Path, "required": True, "help": "where the files go"}),
    )
    verb(
        wandb_sync,
        ("record", {"type": Path, "help": "record.json of a finished run"}),
        ("--to", {"type": Path, "required": True, "help": "file that says it was uploaded"}),
    )
    verb(
        show,
        ("scale", {"nargs": "?", "default": "smoke", "help": "default: %(default)s"}),
        ("--results", {"default": "results", "help": "default: %(default)s"}),
    )
    pairs = {"nargs": "*", "default": [], "metavar": "KEY=VALUE", "help": "--config of Snakemake"}
    verb(doctor, ("--config", pairs))
    verb(schema)
    verb(readme)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's error is one line and an exit status, not a traceback."""
    options = parser().parse_args(arguments)
    try:
        options.function(options)
    except (UserError, Interrupted) as error:
        print(f"dblocks: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    return 0
