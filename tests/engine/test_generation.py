"""Generation equals transformers' own, whichever texts go together, and is drawn by a seed."""

import pytest
import torch
from tests.tiny import DECODERS, tiny_model

from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import PADDED, Sampling
from tunesmith.techniques.lora import Lora

BEGINNING = [41, 42, 43, 44, 45, 46, 47, 48, 49]
PROMPTS = [
    [11, 12, 13],
    [*BEGINNING, 21, 22, 23, 24, 25, 26, 27],
    [31, 32, 33, 34, 35],
    [*BEGINNING, 51],
    [*BEGINNING, 21, 22, 61, 62],
    [*BEGINNING, 51],
]
PADS = {"falcon"}


def stock(model, prompt, steps):
    """What transformers generates of one prompt, alone."""
    return model.module.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=steps,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        use_cache=True,
    )[0, len(prompt) :].tolist()


def ids(engine, sampling, prompts=PROMPTS, **options):
    return [made.ids for made in engine.generate(prompts, sampling, **options)]


@pytest.mark.parametrize("family", DECODERS)
def test_greedy_equals_transformers_generate_for_ragged_prompts(family):
    engine = Engine(tiny_model(family))
    assert ids(engine, Sampling(12)) == [stock(engine.model, prompt, 12) for prompt in PROMPTS]
    assert (engine.generation() == PADDED) == (family in PADS)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_the_padded_form_equals_transformers_generate(family):
    engine = Engine(tiny_model(family), packing=False)
    assert ids(engine, Sampling(7)) == [stock(engine.model, prompt, 7) for prompt in PROMPTS]
    assert engine.generation() == PADDED


@pytest.mark.parametrize("packing", [True, False])
def test_texts_that_end_make_room_and_none_gets_other_tokens(packing):
    engine = Engine(tiny_model("llama"), packing=packing)
    free = ids(engine, Sampling(9))
    stops = (free[0][0], free[1][5], free[3][2])
    sampling = Sampling(9, stop_ids=stops)
    alone = [engine.generate([prompt], sampling)[0] for prompt in PROMPTS]
    assert len({len(made.ids) for made in alone}) > 2
    for together in (1, 2, 3, 16):
        found = engine.generate(PROMPTS, sampling, together=together)
        assert [made.ids for made in found] == [made.ids for made in alone]
        assert [made.stopped for made in found] == [made.stopped for made in alone]


def test_a_beginning_that_a_text_in_the_batch_has_is_not_computed_again():
    model = tiny_model("llama")
    engine = Engine(model)
    engine.generation()
    read = []
    embedding = model.module.get_submodule(model.anatomy.embeddings)
    embedding.register_forward_hook(lambda module, given, made: read.append(given[0].numel()))
    engine.generate(PROMPTS, Sampling(1))
    whole = sum(map(len, PROMPTS))
    assert sum(read) == whole - len(BEGINNING) - 11 - len(BEGINNING)  # 11: two more in common
    read.clear()
    engine.generate([PROMPTS[1], PROMPTS[4]], Sampling(3), together=1)
    assert read == [16, 1, 1, 13, 1, 1]


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it():
    engine = Engine(tiny_model("llama"))
    free = engine.generate(PROMPTS, Sampling(max_new_tokens=8))
    stop = free[1].ids[3]
    place = free[1].ids.index(stop)
    stopped = engine.generate(PROMPTS, Sampling(max_new_tokens=8, stop_ids=(stop,)))[1]
    assert stopped.stopped
    assert stopped.ids == free[1].ids[:place]
    assert len(stopped.logprobs) == place + 1


@pytest.mark.parametrize("temperature", [0.0, 2.0])
@pytest.mark.parametrize("packing", [True, False])
def test_log_probabilities_are_those_of_the_model(temperature, packing):
    engine = Engine(tiny_model("llama"), packing=packing)
    for prompt, made in zip(
        PROMPTS, engine.generate(PROMPTS, Sampling(5, temperature=temperature)), strict=True
    ):
        text = torch.tensor([prompt + made.ids])
        with torch.no_grad():
            scores = engine.model.module(input_ids=text).logits[0].log_softmax(-1)
        expected = [float(scores[len(prompt) - 1 + i, t]) for i, t in enumerate(made.ids)]
        assert made.logprobs == pytest.approx(expected, abs=1e-4)


def test_sampling_is_drawn_again_by_its_seed_and_differs_by_another():
    engine = Engine(tiny_model("llama"))
    one, again, other = (
        ids(engine, Sampling(12, temperature=5.0, top_p=0.9, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize("packing", [True, False])
def test_what_a_text_draws_does_not_depend_on_those_beside_it(packing):
    engine = Engine(tiny_model("llama"), packing=packing)
    sampling = Sampling(12, temperature=3.0, top_p=0.95, top_k=50, seed=4)
    together = ids(engine, sampling)
    assert ids(engine, sampling, together=1) == together
    assert ids(engine, sampling, together=4) == together
    assert ids(engine, sampling, PROMPTS[:2]) == together[:2]


def test_equal_prompts_draw_different_answers():
    engine = Engine(tiny_model("llama"))
    drawn = ids(engine, Sampling(12, temperature=3.0), [PROMPTS[0]] * 4)
    assert len({tuple(row) for row in drawn}) == 4


def test_adapters_are_applied_and_can_be_switched_off():
    model = tiny_model("llama")
    plain = ids(Engine(model), Sampling(8))
    technique = Lora(Lora.Options(rank=4))
    technique.prepare(model)
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    engine = Engine(model, technique.parameter_groups(model))
    tuned = ids(engine, Sampling(8))
    assert tuned == [stock(model, prompt, 8) for prompt in PROMPTS]
    assert tuned != plain
    assert [made.ids for made in engine.generate(PROMPTS, Sampling(8), adapter="off")] == plain


def test_each_text_that_ends_is_told():
    told = []
    Engine(tiny_model("llama")).generate(
        PROMPTS, Sampling(4), together=2, ended=lambda: told.append(1)
    )
    assert len(told) == len(PROMPTS)


def test_nothing_to_say_is_said_at_once():
    engine = Engine(tiny_model("llama"))
    assert engine.generate([], Sampling(4)) == []
    assert ids(engine, Sampling(0)) == [[]] * len(PROMPTS)


def test_streaming_gives_the_same_ids():
    engine = Engine(tiny_model("llama"))
    whole = engine.generate([PROMPTS[1]], Sampling(7))[0].ids
    assert list(engine.stream(PROMPTS[1], Sampling(7))) == whole
    assert list(engine.stream(PROMPTS[1], Sampling(7, stop_ids=(whole[-1],)))) == whole[:-1]
    assert torch.is_grad_enabled()


def test_generation_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    engine = Engine(model)
    implementation = model.module.config._attn_implementation
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    engine.generate(PROMPTS, Sampling(3))
    assert model.module.config._attn_implementation == implementation
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name])
