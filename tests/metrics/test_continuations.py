"""The one entry: strings and teachers in, named values out."""

import math

import pytest
import torch

from dblocks.metrics.continuations import FEATURES, Generated, measure
from dblocks.metrics.generative_perplexity import generative_perplexity
from dblocks.metrics.mauve import mauve, read_features
from dblocks.metrics.teachers import Teacher

PROMPTS = ["the cat", "a dog", "the mat", "the floor"]
REFERENCES = [" sat on the mat", " ran after the cat", " was on the floor", " and the dog slept"]
SCALES = (2.0, 0.2, 5.0)
CONTINUATIONS = [[" sat on a dog", " the the the the the"], *[[" ran on the mat", " slept"]] * 3]


@pytest.fixture(scope="module")
def generated() -> Generated:
    return Generated(PROMPTS, CONTINUATIONS, REFERENCES)


@pytest.fixture(scope="module")
def values(generated, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = measure(generated, lambda: teacher, {"gpt2-large": lambda: teacher}, folder, 0, SCALES)
    return {value.name: value for value in found}, folder


def test_every_perplexity_travels_with_diversity_of_model_and_references(values):
    found, _ = values
    for prefix in ("", "reference_"):
        names = [f"{prefix}distinct_{n}" for n in (1, 2, 3, 4)]
        names += [f"{prefix}repetition_4", f"{prefix}ppl_gpt2_large", f"{prefix}ppl_sample_mean_gpt2_large"]
        assert set(names) | {f"{prefix}entropy_gpt2_large"} <= set(found)
    assert all(value.finite for value in found.values())
    assert found["ppl_gpt2_large"].samples == 8 and found["reference_ppl_gpt2_large"].samples == 4


def test_perplexity_of_the_references_is_of_the_references(values, teacher):
    expected = generative_perplexity(teacher, PROMPTS, [[text] for text in REFERENCES])
    assert values[0]["reference_ppl_gpt2_large"].value == expected.value
    assert values[0]["reference_entropy_gpt2_large"].value == expected.entropy


def test_mauve_has_the_prompt_and_the_continuation_alone_stands_beside(values, teacher):
    found, folder = values
    kept = read_features(folder / FEATURES)
    assert {name: len(array) for name, array in kept.items()} == {
        "references": 4,
        "continuations": 8,
        "references_with_prompt": 4,
        "continuations_with_prompt": 8,
    }
    alone = teacher.features(["the cat the the the the the"])[0]
    # read in another batch, whose padding adds up in another order on some processors
    assert kept["continuations_with_prompt"][1] == pytest.approx(alone, rel=1e-4, abs=1e-5)
    whole = teacher.features([prompt + text for prompt, text in zip(PROMPTS, REFERENCES, strict=True)])
    assert kept["references_with_prompt"] == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert kept["references"] == pytest.approx(teacher.features(REFERENCES), rel=1e-4, abs=1e-5)
    for name, ending in (("mauve", "_with_prompt"), ("mauve_continuation", "")):
        scores = mauve(kept[f"references{ending}"], kept[f"continuations{ending}"], 0, SCALES).scores
        assert [found[f"{name}{which}"].value for which in ("", "_scale_0.2", "_scale_5")] == list(scores.values())
    assert (found["mauve"].samples, found["mauve"].reference) == (8, 4)
    assert found["mauve_buckets"].value == 2


def test_features_of_another_model_give_mauve_another_name(generated, teacher, tmp_path):
    from dataclasses import replace

    found = measure(generated, lambda: replace(teacher, key="teacher"), {}, tmp_path, 0, SCALES)
    names = {value.name for value in found if value.name.startswith("mauve")}
    assert "mauve_teacher" in names and "mauve_scale_0.2_teacher" in names and "mauve" not in names


def test_a_prefix_is_before_every_name_and_leaves_out_the_references(generated, teacher, values, tmp_path):
    found = measure(generated, lambda: teacher, {"t": lambda: teacher}, tmp_path, 0, SCALES, prefix="iterations_8_")
    plain = {f"iterations_8_{name}": v.value for name, v in values[0].items() if not name.startswith("reference_")}
    assert {value.name: value.value for value in found} == plain
    assert [path.name for path in tmp_path.iterdir()] == [f"iterations_8_{FEATURES}"]


def test_without_a_model_there_is_diversity_and_nothing_else(generated, tmp_path):
    found = measure(generated, None, {}, tmp_path, 0, SCALES)
    assert {value.name.split("_")[0] for value in found} == {"distinct", "repetition", "reference"}
    assert not (tmp_path / FEATURES).exists()


def test_as_many_prompts_as_groups_as_references():
    with pytest.raises(ValueError, match="2 prompts, 1 groups"):
        Generated(["a", "b"], [["c"]], ["d", "e"])


def test_diversity_is_of_what_was_written_without_prompts_or_of_the_references(tmp_path):
    """By hand. A prompt's continuations are pooled for distinct_n and each alone for distinct_n_single."""
    continuations = [[" x y x", " x z"], [" w w w w w", " u"]]
    texts = Generated(["a b", "w"], continuations, [" r r r r r r", " s t"])
    found = {value.name: value for value in measure(texts, None, {}, tmp_path, 0, SCALES)}
    expected = {
        "distinct_1": (3 / 5 + 2 / 6) / 2,
        "distinct_2": (3 / 5 + 1 / 6) / 2,
        "distinct_1_single": (2 / 3 + 2 / 2 + 1 / 5 + 1 / 1) / 4,
        "distinct_2_single": (2 / 3 + 1 / 2 + 1 / 5 + 0 / 1) / 4,
        "reference_distinct_1": (1 / 6 + 2 / 2) / 2,
        "reference_distinct_2": (1 / 6 + 1 / 2) / 2,
        "repetition_4": 1 - 1 / 2,  # of the only text with four words: two 4-grams, both w w w w
        "reference_repetition_4": 1 - 1 / 3,
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    of_references = {name: value.samples for name, value in found.items() if name.startswith("reference_")}
    assert set(of_references.values()) == {2}
    assert {value.samples for name, value in found.items() if name not in of_references} == {4}


def test_mauves_clusters_are_drawn_by_the_seed_that_is_given_however_large(tmp_path):
    def forward(ids):
        hidden = torch.sin(ids.cumsum(dim=1)[..., None] * torch.arange(1.0, 7.0))
        return hidden, hidden

    teacher = Teacher("waves", "waves", lambda text: list(text.encode()), forward, 24, torch.device("cpu"))
    prompts = [f"{i} and {i * i}" for i in range(60)]
    texts = Generated(prompts, [[f" is {i % 7}"] for i in range(60)], [f" was {i % 11}" for i in range(60)])

    def score(seed: int) -> float:
        found = measure(texts, lambda: teacher, {}, tmp_path, seed, scales=[2.0])
        return next(value.value for value in found if value.name == "mauve_waves")

    kept = (score(3), read_features(tmp_path / FEATURES))[1]
    sides = kept["references_with_prompt"], kept["continuations_with_prompt"]
    for seed in (0, 3):
        assert score(seed) == mauve(*sides, seed, [2.0]).scores[2.0]
    assert score(0) != score(3)
    assert 0 < score(2**62 + 1) <= 1  # seeds of runs are of 63 bits


def test_where_nothing_was_written_there_is_no_perplexity_and_no_sample_counts(teacher, tmp_path):
    nothing = Generated(["the cat"], [[""]], [" sat on the mat"])
    found = {value.name: value for value in measure(nothing, None, {"t": lambda: teacher}, tmp_path, 0, SCALES)}
    assert math.isnan(found["ppl_gpt2_large"].value) and not found["ppl_gpt2_large"].finite
    assert found["ppl_gpt2_large"].samples == 1  # of none there is no record
    assert found["reference_ppl_gpt2_large"].finite and found["reference_ppl_gpt2_large"].samples == 1
