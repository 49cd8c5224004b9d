"""Generative perplexity against transformers' own loss, its two averages, the seam, and what goes beside it."""

import math

import pytest
import torch

from dblocks.metrics.diversity import unigram_entropy
from dblocks.metrics.generative_perplexity import generative_perplexity, split_at_prompt
from dblocks.metrics.teachers import Teacher

PROMPTS = ["the cat sat", "a dog"]
GROUPS = [[" on the mat", " on the floor and slept"], [" ran after the cat", ""]]


def loss(model, teacher, prompt: str, continuation: str) -> tuple[float, int]:
    """transformers' mean NLL of the continuation's tokens, the prompt's labelled -100; and their number."""
    prompt_ids, ids = teacher.encode(prompt), teacher.encode(prompt + continuation)
    assert ids[: len(prompt_ids)] == prompt_ids  # a seam at a space cuts no token
    labels = torch.tensor([[-100] * len(prompt_ids) + ids[len(prompt_ids) :]])
    return model(torch.tensor([ids]), labels=labels).loss.item(), len(ids) - len(prompt_ids)


@pytest.fixture(scope="module")
def losses(teacher, gpt2_folder) -> list[tuple[float, int]]:
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    pairs = [(prompt, text) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for text in group if text]
    return [loss(model, teacher, *pair) for pair in pairs]


def test_it_is_exp_of_transformers_token_weighted_loss(teacher, losses):
    found = generative_perplexity(teacher, PROMPTS, GROUPS)
    tokens = sum(count for _, count in losses)
    assert (found.tokens, found.samples) == (tokens, 3)  # the empty one counts nothing
    assert found.value == pytest.approx(math.exp(sum(nll * count for nll, count in losses) / tokens), rel=1e-5)


def test_the_sample_mean_averages_perplexities(teacher, losses):
    found = generative_perplexity(teacher, PROMPTS, GROUPS)
    assert found.sample_mean == pytest.approx(sum(math.exp(nll) for nll, _ in losses) / 3, rel=1e-5)
    assert abs(found.sample_mean / found.value - 1) > 1e-3  # they are not the same thing


def test_the_entropy_is_of_the_continuations_tokens_alone(teacher):
    found = generative_perplexity(teacher, PROMPTS, GROUPS)
    rows = [teacher.encode(text) for group in GROUPS for text in group]
    assert found.entropy == pytest.approx(unigram_entropy(rows))


def test_the_prompt_conditions_but_is_not_scored(teacher):
    one, other = (generative_perplexity(teacher, [prompt], [[" on the mat"]]) for prompt in PROMPTS)
    assert one.tokens == other.tokens and one.value != other.value


def test_a_token_across_the_seam_is_the_continuations(teacher):
    row, start = split_at_prompt(teacher, "the c", "at")
    assert row == teacher.encode("the cat")
    assert row[:start] == teacher.encode("the") and len(row) > start


def test_texts_are_cut_to_the_teachers_length(teacher):
    prompt, longest = "the cat", teacher.max_length
    found = generative_perplexity(teacher, [prompt], [[" the" * 100]])
    assert found.tokens == longest - len(teacher.encode(prompt))
    row, start = split_at_prompt(teacher, prompt, " the" * 100)
    assert row == teacher.encode(prompt + " the" * 100)[:longest] and row[:start] == teacher.encode(prompt)
    assert math.isnan(generative_perplexity(teacher, [" the" * longest], [[" cat"]]).value)


def test_repeating_itself_can_be_cheap_and_shows_in_the_entropy(teacher):
    """Trap 7: a teacher that always expects "the" finds its repetition better than English."""
    the = teacher.encode(" the")[0]

    def forward(ids):
        logits = torch.zeros(*ids.shape, 300)
        logits[..., the] = 8.0
        return logits, logits

    lover = Teacher("loves the", "lover", teacher.encode, forward, 24, torch.device("cpu"))
    dull = generative_perplexity(lover, ["a"], [[" the the the the"]])
    english = generative_perplexity(lover, ["a"], [[" cat sat on the mat"]])
    assert dull.value < english.value and dull.entropy == 0 < english.entropy


def test_without_a_prompt_all_but_the_first_token_is_scored(teacher, gpt2_folder):
    from transformers import GPT2LMHeadModel

    text = "the cat sat on the mat"
    ids, model = teacher.encode(text), GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    expected = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    found = generative_perplexity(teacher, [""], [[text]])
    assert found.value == pytest.approx(math.exp(expected), rel=1e-5) and found.tokens == len(ids) - 1
    assert found.entropy == pytest.approx(unigram_entropy([ids[1:]]))
    lone = generative_perplexity(teacher, [""], [["a"]])  # a token that nothing comes before
    assert len(teacher.encode("a")) == 1 and (lone.tokens, lone.samples) == (0, 0) and math.isnan(lone.value)


def test_of_no_continuation_at_all_there_is_no_perplexity(teacher):
    found = generative_perplexity(teacher, ["the cat"], [[]])
    assert (found.tokens, found.samples) == (0, 0)
    assert all(math.isnan(value) for value in (found.value, found.sample_mean, found.entropy))


def test_a_perplexity_beyond_float64_is_infinite(teacher):
    def forward(ids):
        logits = torch.zeros(*ids.shape, 301)
        logits[..., 300] = 1e4  # a token that no text has
        return logits, logits

    hater = Teacher("hates all", "hater", teacher.encode, forward, 24, torch.device("cpu"))
    found = generative_perplexity(hater, ["a"], [[" cat sat"]])
    assert found.value == found.sample_mean == math.inf and found.samples == 1
