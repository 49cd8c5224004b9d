"""A planted W&B key and hub token stand in nothing that the pipeline leaves or says, whether it succeeds or fails."""

from __future__ import annotations

import base64
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dblocks.planning import make_plan
from dblocks.report.build_tables import plans_from_records
from tests.report.wandb_server import wandb_server
from tests.workflow.helpers import call, copy_repository, dblocks, make_record, save_records

KEY, TOKEN = "0123456789abcdef0123456789abcdef" + "deadbeef", "hf_" + "PlantedTokenOfNobody" + "0123456789"
PLANTED = {"WANDB_API_KEY": KEY, "HF_TOKEN": TOKEN}
# as they are, and as HTTP's basic authentication writes the key
SECRETS = [KEY.encode(), TOKEN.encode(), base64.b64encode(f"api:{KEY}".encode()).rstrip(b"=")]
SMALL = ("--config", "max_steps=2", "max_samples=4", "wandb=offline")


def holding(folder: Path) -> set[str]:
    """The files below `folder`, hidden ones included, in which a secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path.relative_to(folder).as_posix() for path in files if any(s in path.read_bytes() for s in SECRETS)}


def said(process: subprocess.CompletedProcess) -> str:
    """All that a process printed, in which no secret stands."""
    text = process.stdout + process.stderr
    assert not any(secret in text.encode() for secret in SECRETS), text
    return text


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A fresh clone beside a home directory; nothing of either may hold a secret in the end."""
    place = tmp_path_factory.mktemp("secrets")
    (place / "home").mkdir()
    yield copy_repository(place / "repository")
    assert holding(place) == set()


def snakemake(repository: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Real Snakemake with both secrets in its environment, telling as much as it can of its jobs."""
    more = ("--cores", "1", "--show-failed-logs", "--printshellcmds", "--verbose")
    home = str(repository.parent / "home")
    return call("snakemake", repository, *arguments, *more, timeout=240, HOME=home, **PLANTED)


def target(*settings: tuple[str, object]) -> str:
    """The record of the ViT's first run."""
    plan = make_plan({"max_steps": 2, "max_samples": 4, **dict(settings)})
    return str(plan.records_of_row("vit/end_to_end")[0])


def test_the_search_finds_what_it_looks_for(tmp_path):
    for number, secret in enumerate(SECRETS):
        (tmp_path / f".hidden{number}").write_bytes(b"\0 Bearer " + secret + b"\n")
    (tmp_path / "other").write_text("api_key: none")
    assert holding(tmp_path) == {".hidden0", ".hidden1", ".hidden2"}


def test_a_run_that_succeeds(repository):
    process = snakemake(repository, target(), *SMALL)
    assert process.returncode == 0, said(process)
    said(process)
    folder = repository / Path(target()).parent
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb")), "it was exported"
    for verb in (("tables", "--from-records", "results"), ("report", "--from-records", "results", "--to", "page.html")):
        assert dblocks(repository, *verb, **PLANTED).returncode == 0
    (repository / "plan.json").write_text(plans_from_records(repository / "results")[0].model_dump_json())
    assert not dblocks(repository, "wandb_reports", "plan.json", "--folder", "reports", **PLANTED).returncode
    assert "a key is there" in said(dblocks(repository, "doctor", "--config", "max_steps=2", **PLANTED))
    assert (repository / "page.html").exists()
    assert holding(repository.parent) == set()


def test_a_run_that_fails(repository):
    learning_rate = {"training": {"learning_rate": 1e30, "grad_clip": None}}
    wrong = target(("override_runs", {"vit": learning_rate}))
    override = "override_runs={vit: {training: {learning_rate: 1.0e+30, grad_clip: null}}}"
    process = snakemake(repository, wrong, *SMALL, override)
    assert process.returncode != 0 and "loss is" in said(process)
    assert (repository / Path(wrong).parent / "failed.json").exists()
    assert holding(repository.parent) == set()


def test_a_run_that_wandb_takes_or_refuses(repository):
    taken, other = save_records(repository / "more", [make_record(seed=seed) for seed in (0, 1)])
    home = {**PLANTED, "HOME": str(repository.parent / "home"), "WANDB_INIT_TIMEOUT": "5"}
    with wandb_server() as server:
        address = {"WANDB_BASE_URL": server.settings["WANDB_BASE_URL"]}
        pushed = dblocks(repository, "wandb_sync", taken, "--to", "taken", **home, **address)
        assert pushed.returncode == 0 and set(server.runs) == {"id"}, said(pushed)
        said(pushed)
        cut_off = {**home, **address, "WANDB_API_KEY": KEY[:-1]}
        refused = dblocks(repository, "wandb_sync", other, "--to", "refused", **cut_off)
    assert refused.returncode == 2 and KEY[:-1] not in said(refused), refused.stderr
    assert holding(repository.parent) == set()


class Refusal(http.server.BaseHTTPRequestHandler):
    """Answers every request with the server's status, and keeps what it was told of who asks."""

    def do_GET(self) -> None:
        self.server.told.append(self.headers.get("Authorization", ""))
        self.send_response(self.server.status)
        for name, value in self.server.more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def refusing(status: int, **more: str) -> Iterator[http.server.ThreadingHTTPServer]:
    """A hub that refuses everybody."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    server.status, server.told, server.more = status, [], {k.replace("_", "-"): v for k, v in more.items()}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "more"),
    [(401, {}), (401, {"X_Error_Code": "RepoNotFound"}), (403, {"X_Error_Code": "GatedRepo"}), (500, {})],
    ids=lambda value: str(value),
)
def test_a_hub_that_refuses(repository, status, more):
    home = str(repository.parent / "home")
    verb = ("prepare", "cifar10", "--download", "--data-dir", "nothing", "--folder", "out")
    with refusing(status, **more) as hub:
        hub_at = f"http://127.0.0.1:{hub.server_port}"
        process = dblocks(repository, *verb, HF_ENDPOINT=hub_at, HOME=home, **PLANTED)
    assert process.returncode == 2 and "cifar10" in said(process)
    assert f"Bearer {TOKEN}" in hub.told, "the token was used"
    assert holding(repository.parent) == set()
