"""Tokens are drawn as temperature, top k and nucleus say, by a number that belongs to the draw."""

import pytest
import torch

from tunesmith.engine.sampling import Sampling, choose

PROBS = [0.5, 0.25, 0.125, 0.0625, 0.0625]


def shares(sampling, probs=PROBS, draws=4000):
    """How often each token is drawn."""
    logits_NV = torch.tensor([probs]).log().expand(draws, -1)
    tokens, _ = choose(logits_NV, sampling, [(number, 0) for number in range(draws)])
    return torch.bincount(torch.tensor(tokens), minlength=len(probs)) / draws


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, [p * p / sum(q * q for q in PROBS) for p in PROBS]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.6}, [2 / 3, 1 / 3, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [1.0, 0, 0, 0, 0]),
        ({"top_k": 99}, PROBS),
    ],
)
def test_draws_have_the_shares_that_the_options_ask_for(options, expected):
    found = shares(Sampling(1, **{"temperature": 1.0, **options}))
    torch.testing.assert_close(found, torch.tensor(expected), atol=0.03, rtol=0)
    assert not found[torch.tensor(expected) == 0].any()


def test_a_nucleus_wider_than_the_likeliest_tokens_is_found():
    probs = torch.full((600,), 1 / 600).tolist()
    found = shares(Sampling(1, temperature=1.0, top_p=0.9), probs)
    assert int((found > 0).sum()) > 500


def test_without_temperature_the_likeliest_token_is_taken():
    tokens, logprobs = choose(torch.tensor([PROBS, PROBS[::-1]]).log(), Sampling(1), [(0, 0)] * 2)
    assert tokens == [0, 4]
    assert logprobs == pytest.approx([torch.tensor(0.5).log().item()] * 2)


def test_log_probabilities_are_those_before_the_options():
    sampling = Sampling(1, temperature=0.1, top_k=1)
    tokens, logprobs = choose(torch.tensor([PROBS]).log(), sampling, [(0, 0)])
    assert tokens == [0]
    assert logprobs[0] == pytest.approx(torch.tensor(0.5).log().item())


def test_a_draw_depends_on_seed_text_and_step_alone():
    logits_NV = torch.tensor([PROBS]).log().expand(200, -1)

    def drawn(seed, draws):
        return choose(logits_NV[: len(draws)], Sampling(1, temperature=1.0, seed=seed), draws)[0]

    draws = [(text, step) for text in range(20) for step in range(10)]
    whole = drawn(0, draws)
    assert drawn(0, draws[50:60]) == whole[50:60]
    assert drawn(1, draws) != whole
    assert len(set(whole)) == len(PROBS)
