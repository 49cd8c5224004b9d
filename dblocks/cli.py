"""The command line: `python -m dblocks <verb>`, all verbs and their options."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dblocks import verbs
from dblocks.errors import Interrupted, UserError, of_system

MODES = ("off", "offline", "online")
ROLES = ("extractor", "autoencoder", "images", "features", "trained", "teacher")  # a teacher's goes on with its name


def role(text: str) -> tuple[str, Path]:
    """ROLE=PATH of the command line."""
    name, _, path = text.partition("=")
    if name.partition(":")[0] not in ROLES or not path:
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(f'{known}=' for known in ROLES)} and a path")
    return name, Path(path)


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(prog="dblocks", description="Tables of DiffusionBlocks, step by step.")
    parsers = top.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(function, *arguments: tuple[str, dict]) -> None:
        sub = parsers.add_parser(function.__name__, help=function.__doc__.rstrip("."), description=function.__doc__)
        sub.set_defaults(function=function)
        for name, settings in arguments:
            sub.add_argument(name, **settings)

    verb(
        verbs.run,
        ("spec", {"type": Path, "help": "spec.json; everything is written beside it"}),
        ("--data", {"type": Path, "required": True, "help": "manifest.json of the prepared data set"}),
        (
            "--wandb",
            {"choices": MODES, "default": os.environ.get("DBLOCKS_WANDB", "off"), "help": "default: %(default)s"},
        ),
        ("--quiet", {"action": "store_true", "help": "no progress bar"}),
        (
            "--need",
            {
                "action": "append",
                "default": [],
                "type": role,
                "metavar": "ROLE=PATH",
                "help": "what it is evaluated with: extractor, autoencoder, images; features, teacher:<name>; and "
                "trained: record of the run whose weights it takes, since only method.sampling differs",
            },
        ),
    )
    verb(
        verbs.block,
        ("spec", {"type": Path, "help": "spec.json of the run; everything is written to blocks/<block> beside it"}),
        ("block", {"type": int, "help": "1, 2, …; 1 is the noisiest"}),
        ("--data", {"type": Path, "required": True, "help": "manifest.json of the prepared data set"}),
        ("--quiet", {"action": "store_true", "help": "no progress bar"}),
    )
    verb(
        verbs.prepare,
        ("name", {"help": "data set"}),
        ("--data-dir", {"type": Path, "default": Path("data"), "help": "where data sets lie (default: %(default)s)"}),
        ("--folder", {"type": Path, "required": True, "help": "where to write arrays and manifest"}),
        ("--path", {"type": Path, "help": "your own text, for characters, documents and sentences"}),
        ("--title", {"help": "the name that text bears in records"}),
        ("--download", {"action": "store_true", "help": "fetch what is not in the data directory"}),
    )
    verb(
        verbs.encode,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on the latents"}),
        ("--images", {"type": Path, "required": True, "help": "manifest.json of the prepared images"}),
        ("--autoencoder", {"type": Path, "required": True, "help": "record.json of its run, or its weights' manifest"}),
        ("--folder", {"type": Path, "required": True, "help": "where to write shards and manifest"}),
    )
    verb(
        verbs.tokenizer,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on its tokens"}),
        (
            "--source",
            {"type": Path, "required": True, "help": "manifest.json of the text, or of a published tokenizer"},
        ),
        ("--output", {"type": Path, "required": True, "help": "tokenizer.json to write"}),
    )
    verb(
        verbs.tokenize,
        ("spec", {"type": Path, "help": "spec.json of a run that is to train on the tokens"}),
        ("--text", {"type": Path, "required": True, "help": "manifest.json of the prepared text"}),
        ("--folder", {"type": Path, "required": True, "help": "where tokenizer.json lies and arrays go"}),
    )
    verb(
        verbs.weights,
        (
            "name",
            {"help": "inception, sd-vae-ft-ema, gpt2-large, gpt2-xl, llama2, llama2-tokenizer or tinyllama-tokenizer"},
        ),
        ("--data-dir", {"type": Path, "default": Path("data"), "help": "where they lie (default: %(default)s)"}),
        ("--manifest", {"type": Path, "required": True, "help": "file to write path and checksum to"}),
    )
    request = "results/<scale>/measurements/<name>-<hash8>/request.json; the result is written beside it"
    verb(verbs.measure, ("request", {"type": Path, "help": request}))
    verb(
        verbs.figure,
        ("plan", {"type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--folder", {"type": Path, "required": True, "help": "where the table's files go"}),
    )
    verb(
        verbs.table,
        ("plan", {"type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--folder", {"type": Path, "required": True, "help": "where the table's files go"}),
    )
    verb(
        verbs.tables,
        ("--from-records", {"type": Path, "required": True, "help": "folder with record.json files below it"}),
        ("--to", {"type": Path, "help": "where <scale>/tables go (default: the same folder)"}),
    )
    verb(
        verbs.report,
        ("plans", {"nargs": "*", "type": Path, "help": "results/<scale>/plans/<table>.json of each table"}),
        ("--from-records", {"type": Path, "help": "instead of plans: a folder with record.json files below it"}),
        ("--scale", {"default": "smoke", "help": "of those records (default: %(default)s)"}),
        ("--to", {"type": Path, "required": True, "help": "the page's file; best in results/<scale>"}),
    )
    verb(
        verbs.compare,
        ("a", {"type": Path, "help": "folder with record.json files below it"}),
        ("b", {"type": Path, "help": "another"}),
    )
    verb(
        verbs.wandb_reports,
        ("plans", {"nargs": "+", "type": Path, "help": "results/<scale>/plans/<table>.json"}),
        ("--push", {"action": "store_true", "help": "create or renew them at W&B, and write their addresses"}),
        ("--folder", {"type": Path, "required": True, "help": "where the files go"}),
    )
    verb(
        verbs.wandb_sync,
        ("record", {"type": Path, "help": "record.json of a finished run"}),
        ("--to", {"type": Path, "required": True, "help": "file that says it was uploaded"}),
    )
    verb(
        verbs.show,
        ("scale", {"nargs": "?", "default": "smoke", "help": "default: %(default)s"}),
        ("--results", {"default": "results", "help": "default: %(default)s"}),
    )
    pairs = {"nargs": "*", "default": [], "metavar": "KEY=VALUE", "help": "--config of Snakemake"}
    verb(verbs.doctor, ("--config", pairs))
    verb(verbs.schema)
    verb(verbs.readme)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's error is one line and an exit status, not a traceback.

    So is what the system says of a file, wherever it is read or written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no "→" shows "?"
    options = parser().parse_args(arguments)
    try:
        if (mode := getattr(options, "wandb", "off")) not in MODES:  # argparse does not look at its own defaults
            raise UserError(f"DBLOCKS_WANDB: '{mode}' is none of {', '.join(MODES)}")
        options.function(options)
    except (UserError, Interrupted) as error:
        print(f"dblocks: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f"dblocks: {of_system(error)}", file=sys.stderr)
        return UserError.exit_code
    return 0
