"""Which runs the tables need, each once: rows that resolve to the same spec share a run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dblocks.claims import Claim
from dblocks.command_line import CommandLine
from dblocks.data.sources import availability
from dblocks.errors import UserError
from dblocks.identity import data_key, training_key
from dblocks.measure.request import MEASUREMENT, Request
from dblocks.needs import TRAINED
from dblocks.record import BLOCK, RECORD
from dblocks.spec import AutoregressiveTextSpec, DataSpec, RunSpec
from dblocks.tables import Table
from dblocks.weights import FROM_HUB, LANGUAGE_MODELS, check_gate


@dataclass(frozen=True)
class Plan:
    """Everything the Snakefile needs to know.

    Attributes:
        command_line: as given.
        tables: the table configs, by name.
        runs: specs of every seed, by run folder name ("<experiment>-<variant>-<hash8>").
        run_of: run folder name by "<experiment>/<variant>", for the rows that are not skipped.
        skipped: the data set or tokenizer whose absence skips a row, by "<experiment>/<variant>".
        config_dir: the configuration it was made of.
        needed: for each run, the run folder names of those whose weights it reads, by role.
        trained_as: the run whose weights a run has, for those that differ from it in how they predict alone.
        measurements: the measurements that tables read, by their names in config/measurements.yaml.
        claims: the claims on all tables.
    """

    command_line: CommandLine
    tables: dict[str, Table]
    runs: dict[str, list[RunSpec]]
    run_of: dict[str, str]
    skipped: dict[str, str]
    config_dir: Path
    needed: dict[str, dict[str, str]]
    trained_as: dict[str, str]
    measurements: dict[str, Request]
    claims: list[Claim]

    @property
    def in_all(self) -> list[str]:
        """The tables of target `all`, of the report and of W&B's; the others are made when they are asked for."""
        return [name for name, table in self.tables.items() if table.in_all]

    @property
    def root(self) -> Path:
        """results/<scale>."""
        return Path(self.command_line.results_dir) / self.command_line.scale

    def folder(self, run: str, seed: int) -> Path:
        return self.root / "runs" / run / f"seed{seed}"

    def is_recorded(self, run: str, seed: int) -> bool:
        """Whether a run has its record."""
        return (self.folder(run, seed) / RECORD).exists()

    def finished_runs(self) -> list[tuple[str, int]]:
        """(run, seed) of every run that has its record."""
        return [
            (run, spec.seed) for run, specs in self.runs.items() for spec in specs if self.is_recorded(run, spec.seed)
        ]

    def check_gpu(self) -> None:
        """For jobs on this very machine. Raises: UserError if some of them want CUDA and there is no GPU."""
        wanting = [
            run
            for run, specs in self.runs.items()
            if specs[0].compute.device == "cuda" and not all(self.is_recorded(run, spec.seed) for spec in specs)
        ]
        if wanting and not (shutil.which("nvidia-smi") or Path("/dev/nvidiactl").exists()):
            raise UserError(
                f"compute.device: 'cuda' is wanted (by {wanting[0]}) and this machine has none; use a profile that "
                "submits jobs, give `--config device=cpu`, or scale=smoke"
            )

    def spec(self, run: str, seed: int) -> RunSpec:
        return next(spec for spec in self.runs[run] if spec.seed == seed)

    def blocks_of(self, run: str, seed: int) -> list[Path]:
        """The block.json files of a run whose blocks are trained in parallel; none of another."""
        spec = self.runs[run][0]
        blocks = range(1, spec.num_blocks + 1) if spec.in_parallel else ()
        return [self.folder(run, seed) / "blocks" / str(block) / BLOCK for block in blocks]

    def records_of_row(self, run: str) -> list[Path]:
        """The record.json files of "<experiment>/<variant>", one a seed; none if it is skipped."""
        if run not in self.run_of:
            return []
        return [self.folder(self.run_of[run], spec.seed) / RECORD for spec in self.runs[self.run_of[run]]]

    def records_of(self, table: str) -> list[Path]:
        """The record.json and measurement.json files a table reads, each once."""
        rows = self.tables[table].rows
        records = [path for row in rows for run in row.runs for path in self.records_of_row(run)]
        measurements = [self.measurement(row.measurement) for row in rows if row.measurement]
        return list(dict.fromkeys(records + measurements))

    @cached_property
    def requests(self) -> dict[str, Request]:
        """The measurements by their folder's name."""
        return {request.folder: request for request in self.measurements.values()}

    def request(self, folder: str) -> Request:
        return self.requests[folder]

    def measurement(self, name: str) -> Path:
        """The measurement.json of an entry of config/measurements.yaml."""
        return self.root / "measurements" / self.measurements[name].folder / MEASUREMENT

    def is_timed(self, folder: str) -> bool:
        """Whether a measurement is of time, which other jobs on the machine would falsify."""
        return self.request(folder).kind == "wall_time"

    def measuring_gpus(self, folder: str) -> int:
        """GPUs a measurement's job asks for."""
        request = self.request(folder)
        return request.spec.gpus_of_a_process if request.on_device and request.spec.compute.device == "cuda" else 0

    def manifest_of(self, run: str) -> Path:
        """The manifest of the arrays a run trains on: its prepared data, or their latents."""
        return self.manifest(training_key(self.runs[run][0]))

    def trainer_of(self, run: str, seed: int) -> str | None:
        """The run whose weights a run takes instead of training its own; None: it trains."""
        trainer = self.trained_as.get(run)
        return trainer if trainer and seed < len(self.runs[trainer]) else None

    def needs_of(self, run: str, seed: int = 0) -> dict[str, Path]:
        """What a run reads besides its training data, by role: records, weights' manifests, images in pixels."""
        spec = self.runs[run][0]
        needs = {role: self.folder(self.needed[run][role], 0) / RECORD for role in spec.needed_runs()}
        # a run is the same without a teacher that is skipped: its record says so, and it is measured when given later
        skipped = set(self.command_line.skip) & set(LANGUAGE_MODELS)
        needs |= {role: self.weights(name) for role, name in spec.needed_weights().items() if name not in skipped}
        if spec.generation is not None and spec.generation.latents is not None:
            needs["images"] = self.manifest(data_key(spec.data))
        if trainer := self.trainer_of(run, seed):
            needs[TRAINED] = self.folder(trainer, seed) / RECORD
        return needs

    def needs_arguments(self, run: str, seed: int) -> list[str]:
        """`--need` arguments of `dblocks run`."""
        return [part for role, path in self.needs_of(run, seed).items() for part in ("--need", f"{role}={path}")]

    def weights(self, name: str) -> Path:
        """The manifest of published weights."""
        return Path(self.command_line.results_dir) / "weights" / f"{name}.json"

    def published_weights(self, runs: Iterable[str] | None = None) -> list[Path]:
        """The manifests of all published weights and tokenizers that the plan, or some of its runs, need."""
        runs = list(self.runs if runs is None else runs)
        needed = {path for run in runs for path in self.needs_of(run).values()}
        keys = {training_key(self.runs[run][0]) for run in runs} & self.tokenized().keys()
        needed |= {self.tokenizer_source(key) for key in keys}
        return sorted(path for path in needed if path.parent == self.weights("any").parent)

    def check_weights(self, name: str) -> None:
        """Raises: UserError if only a person can bring published weights that are wanted, with the ways to go on."""
        if name in FROM_HUB and not self.weights(name).exists():
            check_gate(name, Path(self.command_line.data_dir))

    def encoded(self) -> dict[str, str]:
        """For each folder of latents, one of the runs that train on them."""
        return self._derived(tokens=False)

    def tokenized(self) -> dict[str, str]:
        """For each folder of tokens, one of the runs that train on them."""
        return self._derived(tokens=True)

    def _derived(self, tokens: bool) -> dict[str, str]:
        runs = {training_key(specs[0]): run for run, specs in self.runs.items()}
        return {
            key: run
            for key, run in runs.items()
            if key != data_key(self.runs[run][0].data)
            and isinstance(self.runs[run][0].task, AutoregressiveTextSpec) == tokens
        }

    def tokenizer_source(self, key: str) -> Path:
        """What the tokenizer of a folder of tokens is made from: a published one's manifest, or the prepared text."""
        spec = self.runs[self.tokenized()[key]][0]
        trained = spec.task.tokenizer.startswith("bpe")
        return self.manifest(data_key(spec.data)) if trained else self.weights(spec.task.tokenizer)

    def manifest(self, key: str) -> Path:
        """The manifest of a prepared data set; it is shared by all scales."""
        return Path(self.command_line.results_dir) / "data" / key / "manifest.json"

    def datasets(self) -> dict[str, DataSpec]:
        """The data sets the runs read, by their prepared folder's name."""
        return {data_key(specs[0].data): specs[0].data for specs in self.runs.values()}

    def prepare_arguments(self, key: str) -> list[str]:
        """Arguments of `dblocks prepare` for a data set."""
        data = self.datasets()[key]
        options = {"--data-dir": self.command_line.data_dir, "--path": data.path, "--title": data.title}
        return [data.name, *(f"{name}={value}" for name, value in options.items() if value)]

    def check_data(self, key: str) -> None:
        """Raises: UserError if only a person can bring a data set that is wanted, with the ways to go on."""
        data = self.datasets()[key]
        found = availability(data.name, Path(self.command_line.data_dir), data.path and Path(data.path))
        if found.state == "needs a person" and not self.manifest(key).exists():
            raise UserError(f"data set {key} {found}; or leave out what needs it: --config skip=[{data.name}]")

    def first_line(self) -> str:
        """What every plan says first: scale, seeds, data directory."""
        seeds = sorted({len(self.runs[run]) for run in self.run_of.values()}) or [0]
        skip = f", skip: {', '.join(self.command_line.skip)}" if self.command_line.skip else ""
        return (
            f"dblocks: scale {self.command_line.scale}, seeds {'/'.join(map(str, seeds))} a run, "
            f"data directory {self.command_line.data_dir}{skip}"
        )

    def export_environment(self, repository: str) -> None:
        """Let jobs find this Python and this package, also where neither is activated or installed; and tell
        them the W&B mode, which is no parameter of theirs: how metrics are shown must not repeat a run."""
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [repository, os.environ.get("PYTHONPATH")]))
        os.environ["DBLOCKS_WANDB"] = self.command_line.wandb
