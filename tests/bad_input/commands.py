"""Bad calls of `python -m dblocks`, bad files they are handed, and bad settings around them, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dblocks.claims import TablePlan
from dblocks.config import resolve
from dblocks.tables import load_tables
from tests.workflow.helpers import make_record, save_records

TRIED = {"training": {"max_steps": 1}, "data": {"max_evaluation_samples": 4}}
RUN = ("run", "spec.json", "--data", "data/manifest.json", "--quiet")


@dataclass(frozen=True)
class Call:
    """A command in a folder that `arrange` has made ready, and the words that its one line must have."""

    arguments: tuple[str, ...]
    said: tuple[str, ...]
    arrange: Callable[[Path], object] = lambda folder: None
    environment: dict[str, str] = field(default_factory=dict)


def holds(name: str, content: str | bytes = b"\xff\xfe\x00") -> Callable[[Path], object]:
    """Arranges a file; by default one of bytes that are no text."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def spec(run: str = "vit/end_to_end", **over: object) -> Callable[[Path], object]:
    """Arranges spec.json of a run; `over` are sections."""
    return lambda folder: (folder / "spec.json").write_text(resolve(run, "smoke", 0, TRIED | over).model_dump_json())


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """Arranges one after the other."""
    return lambda folder: [step(folder) for step in steps]


def weights(content: bytes) -> Callable[[Path], object]:
    """Arranges weights of a name that fits their content, so that only reading them shows what they are."""
    return holds(f"weights-{hashlib.sha256(content).hexdigest()[:16]}.pt", content)


def saved(folder: Path, state: dict) -> None:
    """Writes a state as a run's final weights."""
    from dblocks.checkpoint import save_verified

    save_verified(folder, "weights", state)


def a_changed_record(change: Callable[[dict], object]) -> Callable[[Path], object]:
    """Arranges a record in which something is changed."""

    def arrange(folder: Path) -> None:
        (path,) = save_records(folder, [make_record()])
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return arrange


def a_plan(table: str) -> Callable[[Path], object]:
    """Arranges a table's plan."""
    plan = TablePlan(scale="smoke", table=load_tables()[table], claims=[], records={}, missing={}, measurements={})
    return holds("plan.json", plan.model_dump_json())


TABLES = ("tables", "--from-records", ".")
CALLS: dict[str, Call] = {
    # run
    "no spec": Call(("run", "no/spec.json", "--data", "data/manifest.json"), ("no/spec.json", "no such file")),
    "a folder as spec": Call(("run", "data", "--data", "data/manifest.json"), ("data", "directory")),
    "a spec that is no text": Call(RUN, ("spec.json", "JSON"), holds("spec.json")),
    "a spec cut off": Call(RUN, ("spec.json", "JSON", "EOF"), holds("spec.json", '{"experiment": "vit",')),
    "a spec that is a list": Call(RUN, ("spec.json", "object"), holds("spec.json", "[]")),
    "a spec without data": Call(RUN, ("spec.json", "variant", "required"), holds("spec.json", '{"experiment": "vit"}')),
    "no data": Call(("run", "spec.json", "--data", "no/manifest.json"), ("no/manifest.json", "not there"), spec()),
    "another data set": Call(RUN, ("digits-1", "austen-1"), spec("mdm/end_to_end")),
    "a result cut off": Call(RUN, ("result.json", "JSON"), both(spec(), holds("result.json", "{"))),
    "weights that are none": Call(RUN, ("weights-", "tensors", "remove it"), both(spec(), weights(b"text"))),
    "weights of another network": Call(
        RUN, ("weights-", "another network", "remove it"), both(spec(), lambda folder: saved(folder, {"network": {}}))
    ),
    # block, encode, tokenizer, tokenize, weights, measure
    "a block of a run in one job": Call(
        ("block", "spec.json", "1", "--data", "data/manifest.json"), ("schedule", "parallel"), spec()
    ),
    "a block beyond the last": Call(
        ("block", "spec.json", "9", "--data", "data/manifest.json"),
        ("block 9", "1 to 3"),
        spec("vit/isolated_parallel"),
    ),
    "latents of a run in pixels": Call(
        ("encode", "spec.json", "--images", "data/manifest.json", "--autoencoder", "record.json", "--folder", "out"),
        ("generation.latents", "not set"),
        spec(),
    ),
    "a tokenizer of images": Call(
        ("tokenizer", "spec.json", "--source", "data/manifest.json", "--output", "out"), ("no tokenizer",), spec()
    ),
    "tokens of images": Call(
        ("tokenize", "spec.json", "--text", "data/manifest.json", "--folder", "out"), ("no tokenizer",), spec()
    ),
    "weights of no name": Call(("weights", "resnet", "--manifest", "out"), ("'resnet'", "inception")),
    "weights below a file": Call(
        ("weights", "inception", "--manifest", "out", "--data-dir", "file"), ("file/inception",), holds("file")
    ),
    "no request": Call(("measure", "no.json"), ("no.json", "no such file")),
    "a request that is no text": Call(("measure", "request.json"), ("request.json", "JSON"), holds("request.json")),
    # tables and reports
    "no plan": Call(("table", "no.json", "--folder", "out"), ("no.json", "no such file")),
    "a plan that is no text": Call(
        ("table", "plan.json", "--folder", "out"), ("plan.json", "JSON"), holds("plan.json")
    ),
    "a plan that is a list": Call(("figure", "plan.json", "--folder", "out"), ("plan.json",), holds("plan.json", "[]")),
    "a figure of a table without one": Call(
        ("figure", "plan.json", "--folder", "out"), ("plan.json", "table.figure", "'table_1' has no"), a_plan("table_1")
    ),
    "no records": Call(("tables", "--from-records", "nowhere"), ("nowhere", "record.json")),
    "a record without its budget": Call(
        TABLES, ("record.json", "budget"), a_changed_record(lambda content: content.pop("budget"))
    ),
    "a record with a word for a number": Call(
        TABLES,
        ("record.json", "metrics.0.value", "many"),
        a_changed_record(lambda content: content["metrics"][0].update(value="many")),
    ),
    "a record of another format's field": Call(
        TABLES, ("record.json", "accuracy"), a_changed_record(lambda content: content.update(accuracy=99.0))
    ),
    "a report of nothing": Call(("report", "--to", "out.html"), ("out.html", "no tables")),
    "a comparison with nothing": Call(("compare", "nowhere", "data"), ("nowhere", "record.json")),
    "a W&B report of no plan": Call(("wandb_reports", "no.json", "--folder", "out"), ("no.json", "no such file")),
    "an upload of no record": Call(("wandb_sync", "no/record.json", "--to", "out"), ("no/record.json", "no such")),
    "tables of a scale never run": Call(("show", "huge"), ("results/huge/tables", "snakemake")),
    # doctor
    "a pair without a value": Call(("doctor", "--config", "sale"), ("sale", "known keys")),
    "a pair that is not YAML": Call(("doctor", "--config", "skip=["), ("--config", "not YAML")),
    # prepare
    "data of no name": Call(("prepare", "mnist1", "--folder", "out"), ("mnist1", "digits")),
    "data in place of a file": Call(("prepare", "digits", "--folder", "file"), ("file", "directory"), holds("file")),
    "data where there is other work": Call(
        ("prepare", "digits", "--folder", "work"),
        ("work", "thesis.txt", "would be lost"),
        lambda folder: [(folder / "work").mkdir(), (folder / "work" / "thesis.txt").write_text("years of it")],
    ),
    "data from a home that is not there": Call(
        ("prepare", "cifar100", "--folder", "out", "--data-dir", "~nobody-at-all"), ("data_dir", "home")
    ),
}

# what is around a command: variables that it, or the library below it, reads
ENVIRONMENT: dict[str, Call] = {
    "DBLOCKS_WANDB": Call(RUN, ("DBLOCKS_WANDB", "'sometimes'", "offline"), spec(), {"DBLOCKS_WANDB": "sometimes"}),
    "WORLD_SIZE in words": Call(RUN, ("WORLD_SIZE", "'two'"), spec(), {"WORLD_SIZE": "two"}),
    "WORLD_SIZE of nothing": Call(RUN, ("WORLD_SIZE", "''"), spec(), {"WORLD_SIZE": ""}),
    "WORLD_SIZE of another run": Call(RUN, ("compute.gpus", "1", "2", "WORLD_SIZE"), spec(), {"WORLD_SIZE": "2"}),
    "WORLD_SIZE alone": Call(
        RUN, ("RANK", "not set", "torchrun"), spec(compute={"gpus": 2, "device": "cpu"}), {"WORLD_SIZE": "2"}
    ),
    "CUBLAS_WORKSPACE_CONFIG": Call(
        RUN,
        ("CUBLAS_WORKSPACE_CONFIG", "':0:0'", ":4096:8"),
        spec(compute={"deterministic": True, "device": "cpu"}),
        {"CUBLAS_WORKSPACE_CONFIG": ":0:0"},
    ),
    "no GPU": Call(RUN, ("compute.device", "CUDA", "device=cpu"), spec(compute={"device": "cuda"})),
}
