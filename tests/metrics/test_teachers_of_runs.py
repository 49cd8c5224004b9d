"""Runs and the models that judge them: a small teacher trained by a run, and one that is skipped and given later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dblocks.errors import UserError
from dblocks.identity import training_fingerprint
from dblocks.metrics.mauve import read_features
from dblocks.metrics.teachers import of_need, trained
from dblocks.record import Record, read_record
from dblocks.run import execute
from tests.tasks.test_autoregressive_text import AR, DB, spec_of

CPU = torch.device("cpu")
SHORT = {"training": {"max_steps": 2}}
JUDGED = {"task": {"features": "gpt2-large", "teachers": ["gpt2-large", "gpt2-xl"]}}


@pytest.fixture
def run(tokens_folder, tmp_path):
    """run(spec, needs): the record of a run in its own folder, made or brought up to date."""

    def make(spec, needs: dict[str, Path] | None = None) -> tuple[Path, Record]:
        spec = spec.model_copy(update={"variant": spec.method.name})
        folder, data = tmp_path / spec.variant, tmp_path / "tokens"
        folder.mkdir(exist_ok=True)
        if not data.exists():  # the tests' tokens, as if they were those that the spec names
            shutil.copytree(tokens_folder, data)
            manifest = json.loads((data / "manifest.json").read_text()) | {"fingerprint": training_fingerprint(spec)}
            (data / "manifest.json").write_text(json.dumps(manifest))
        (folder / "spec.json").write_text(spec.model_dump_json())
        path = execute(folder / "spec.json", data, needs=needs)
        return path, read_record(path)

    return make


def test_a_run_is_a_teacher_with_its_own_tokenizer_and_likelihoods(run):
    path, record = run(spec_of(AR, SHORT, {"task": {"prompts": 0}}))
    teacher = of_need(path, CPU)
    assert teacher.key == "teacher" and record.weights.removesuffix(".pt") in teacher.name
    assert teacher.max_length == 12

    from dblocks.data.vocabulary import Vocabulary
    from dblocks.networks.llama import Llama

    vocabulary = Vocabulary(path.parent / "tokenizer.json")
    network = Llama(record.spec.network, vocabulary.size).eval()
    network.load_state_dict(torch.load(path.parent / record.weights, weights_only=True)["network"])
    text = "It is a truth"
    row = teacher.encode(text)
    assert vocabulary.decode(row) == text
    with torch.no_grad():
        logits = network(torch.tensor([row]))[0]
    expected = F.cross_entropy(logits[:-1], torch.tensor(row[1:]), reduction="none")
    torch.testing.assert_close(teacher.nll([row])[0], expected)


def test_another_kind_of_run_is_no_teacher(run):
    path, _ = run(spec_of(DB, SHORT, {"task": {"prompts": 0}}))
    with pytest.raises(UserError, match="llama trained by diffusion_blocks"):
        trained(path, CPU)


def test_a_teacher_that_is_given_later_adds_its_metrics_and_changes_no_other(run, gpt2_manifest):
    spec = spec_of(AR, SHORT, JUDGED)
    needs = {"features": gpt2_manifest, "teacher:gpt2-large": gpt2_manifest}
    path, first = run(spec, needs)
    assert first.skipped == ("gpt2-xl",)
    before = {metric.name: metric for metric in first.metrics}
    assert "mauve" in before and "ppl_gpt2_large" in before and "ppl_gpt2_xl" not in before
    assert len(read_features(path.parent / "mauve-features.npz")["continuations"]) == 10
    log = (path.parent / "log.jsonl").read_bytes()
    assert run(spec, needs)[1].finished == first.finished  # nothing new is given, nothing is done

    # the same model under another name
    xl = gpt2_manifest.parent / "gpt2-xl.json"
    xl.write_text(json.dumps(json.loads(gpt2_manifest.read_text()) | {"name": "gpt2-xl"}))
    _, second = run(spec, needs | {"teacher:gpt2-xl": xl})
    after = {metric.name: metric for metric in second.metrics}
    assert second.skipped == () and second.identity == first.identity and second.weights == first.weights
    assert {name: after[name] for name in before} == before
    assert after["ppl_gpt2_xl"].value == before["ppl_gpt2_large"].value
    assert (path.parent / "log.jsonl").read_bytes() == log  # nothing was trained


def test_a_teacher_that_was_trained_with_dropout_judges_without(run):
    path, record = run(spec_of(AR, SHORT, {"task": {"prompts": 0}, "network": {"dropout": 0.5}}))
    assert record.spec.network.dropout == 0.5
    teacher = trained(path, CPU)
    rows = [teacher.encode("It is a truth")]
    assert torch.equal(teacher.nll(rows)[0], teacher.nll(rows)[0])
    assert (teacher.features(["It is a truth"]) == teacher.features(["It is a truth"])).all()
