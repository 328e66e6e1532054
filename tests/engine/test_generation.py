"""Generation equals transformers' own, for ragged prompts, and can be drawn again by its seed."""

import pytest
import torch
from tests.tiny import tiny_model

from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import Sampling

PROMPTS = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27], [31, 32, 33, 34, 35]]


def reference(model, prompt, steps):
    """Greedy decoding without a cache: the whole text again for each token."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2", "opt", "gpt_neox"])
def test_greedy_equals_decoding_without_cache_for_ragged_prompts(family):
    model = tiny_model(family, head="causal_lm")
    found = Engine(model).generate(PROMPTS, Sampling(max_new_tokens=8))
    assert [g.ids for g in found] == [reference(model, prompt, 8) for prompt in PROMPTS]


def test_greedy_equals_transformers_generate():
    model = tiny_model("llama", head="causal_lm")
    for prompt in PROMPTS:
        own = model.module.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert Engine(model).generate([prompt], Sampling(max_new_tokens=6))[0].ids == own


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it():
    model = tiny_model("llama", head="causal_lm")
    free = Engine(model).generate(PROMPTS, Sampling(max_new_tokens=8))
    stop = free[1].ids[3]
    place = free[1].ids.index(stop)
    stopped = Engine(model).generate(PROMPTS, Sampling(max_new_tokens=8, stop_ids=(stop,)))[1]
    assert stopped.stopped
    assert stopped.ids == free[1].ids[:place]
    assert len(stopped.logprobs) == place + 1


def test_log_probabilities_are_those_of_the_model():
    model = tiny_model("llama", head="causal_lm")
    made = Engine(model).generate([PROMPTS[0]], Sampling(max_new_tokens=5))[0]
    ids = PROMPTS[0] + made.ids
    with torch.no_grad():
        scores = model.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(scores[2 + i, token]) for i, token in enumerate(made.ids)]
    assert made.logprobs == pytest.approx(expected, abs=1e-4)


def test_sampling_is_drawn_again_by_its_seed_and_differs_by_another():
    engine = Engine(tiny_model("llama", head="causal_lm"))
    draws = [
        [
            g.ids
            for g in engine.generate(PROMPTS, Sampling(12, temperature=5.0, top_p=0.9, seed=seed))
        ]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]


def test_a_tiny_nucleus_is_greedy():
    engine = Engine(tiny_model("llama", head="causal_lm"))
    greedy = engine.generate(PROMPTS, Sampling(6))
    nucleus = engine.generate(PROMPTS, Sampling(6, temperature=1.0, top_p=1e-6))
    assert [g.ids for g in nucleus] == [g.ids for g in greedy]


def test_streaming_gives_the_same_ids():
    engine = Engine(tiny_model("llama", head="causal_lm"))
    whole = engine.generate([PROMPTS[1]], Sampling(7))[0].ids
    assert list(engine.stream(PROMPTS[1], Sampling(7))) == whole
    assert torch.is_grad_enabled()
