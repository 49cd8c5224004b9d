"""What each verb of the command line does. Each imports what it needs and no more."""

from __future__ import annotations

import argparse
import os
import sys
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
    """Take one measurement: memory, wall time, or operations of training or inference."""
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

    plan = read_plan(options.plan)
    if plan.table.figure is None:
        raise UserError(
            f"{options.plan}: table.figure: null: '{plan.table.table}' has no figure; `table` makes its files"
        )
    print(build_figure(plan, options.folder))


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
    from dblocks.tables import place

    folder = Path(options.results) / options.scale / "tables"
    found = sorted(folder.glob("*.md"), key=lambda path: place(path.stem))
    if not found:
        raise UserError(f"{folder}: no tables yet; run `snakemake --cores 2 all` first")
    for path in found:
        print(f"{path.read_text(encoding='utf-8')}\n→ {path}\n")


def schema(options: argparse.Namespace) -> None:
    """Write the JSON schemas of the configuration files."""
    from dblocks.schemas import write_schemas

    for path in write_schemas():
        print(path)


def doctor(options: argparse.Namespace) -> None:
    """Say what is here, what is missing for which table, and what the plan costs."""
    from dblocks.doctor import report
    from dblocks.planning import make_plan
    from dblocks.reading import parse_yaml

    try:
        config = {key: parse_yaml(value) for key, _, value in (pair.partition("=") for pair in options.config)}
    except ValueError as error:
        raise UserError(f"--config: {error}") from error
    text, complete = report(make_plan(config))
    print(text)
    if not complete:
        raise UserError("something is missing, see above")


def readme(options: argparse.Namespace) -> None:
    """Rebuild what the documents have of committed records and files: tables, figures, costs, the tree."""
    from dblocks.report.readme import write_readmes

    print(*write_readmes(), sep="\n")
