"""The one entry: strings and teachers in, named values out."""

import pytest

from dblocks.metrics.continuations import FEATURES, Generated, measure
from dblocks.metrics.generative_perplexity import generative_perplexity
from dblocks.metrics.mauve import mauve, read_features

PROMPTS = ["the cat", "a dog", "the mat", "the floor"]
REFERENCES = [" sat on the mat", " ran after the cat", " was on the floor", " and the dog slept"]
CONTINUATIONS = [[" sat on a dog", " the the the the the"], *[[" ran on the mat", " slept"]] * 3]


@pytest.fixture(scope="module")
def generated() -> Generated:
    return Generated(PROMPTS, CONTINUATIONS, REFERENCES)


@pytest.fixture(scope="module")
def values(generated, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    found = measure(generated, lambda: teacher, {"gpt2-large": lambda: teacher}, folder, 0)
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
    for name, ending in (("mauve", "_with_prompt"), ("mauve_continuation", "")):
        scores = mauve(kept[f"references{ending}"], kept[f"continuations{ending}"], 0).scores
        assert [found[f"{name}{which}"].value for which in ("", "_scale_0.2", "_scale_5")] == list(scores.values())
    assert (found["mauve"].samples, found["mauve"].reference) == (8, 4)
    assert found["mauve_buckets"].value == 2


def test_features_of_another_model_give_mauve_another_name(generated, teacher, tmp_path):
    from dataclasses import replace

    found = measure(generated, lambda: replace(teacher, key="teacher"), {}, tmp_path, 0)
    names = {value.name for value in found if value.name.startswith("mauve")}
    assert "mauve_teacher" in names and "mauve_scale_0.2_teacher" in names and "mauve" not in names


def test_a_prefix_is_before_every_name_and_leaves_out_the_references(generated, teacher, values, tmp_path):
    found = measure(generated, lambda: teacher, {"t": lambda: teacher}, tmp_path, 0, prefix="iterations_8_")
    plain = {f"iterations_8_{name}": v.value for name, v in values[0].items() if not name.startswith("reference_")}
    assert {value.name: value.value for value in found} == plain
    assert [path.name for path in tmp_path.iterdir()] == [f"iterations_8_{FEATURES}"]


def test_without_a_model_there_is_diversity_and_nothing_else(generated, tmp_path):
    found = measure(generated, None, {}, tmp_path, 0)
    assert {value.name.split("_")[0] for value in found} == {"distinct", "repetition", "reference"}
    assert not (tmp_path / FEATURES).exists()


def test_as_many_prompts_as_groups_as_references():
    with pytest.raises(ValueError, match="2 prompts, 1 groups"):
        Generated(["a", "b"], [["c"]], ["d", "e"])
