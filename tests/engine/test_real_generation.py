"""Generation of the packaged model equals transformers', token for token, in a ragged batch."""

import pytest
import torch

from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import Sampling
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

QUESTIONS = [
    "What is the capital of France?",
    "Write one sentence about the sea, in which a ship is lost and found again by its own crew.",
    "Count from one to five.",
    "Why is the sky blue? Answer in two sentences, for a child.",
    "Name three colours.",
]


def test_smollm2_answers_as_transformers_generate_does(smollm2_path):
    model = load_model(resolve(str(smollm2_path)), head="causal_lm")
    engine = Engine(model)
    prompts = [
        model.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in QUESTIONS
    ]
    stop = model.tokenizer.eos_token_id
    found = engine.generate(prompts, Sampling(24, (stop,)), together=3)
    assert "continuous" in engine.generation()
    for prompt, made in zip(prompts, found, strict=True):
        text = torch.tensor([prompt])
        whole = model.module.generate(
            text, attention_mask=torch.ones_like(text), max_new_tokens=24, do_sample=False,
            eos_token_id=stop, pad_token_id=0, use_cache=True,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert made.ids == [token for token in whole if token != stop]
