"""Encoder-decoders: loss and gradients equal transformers' own with `labels`, tensor by tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from tests.tiny import ENCODER_DECODERS, tiny_model

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.data.plan import add_counts
from tunesmith.engine import packed_pairs
from tunesmith.engine.batching import batches
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.engine.generation_stock import STOCK, StockGenerator
from tunesmith.engine.packing import NotPackableError
from tunesmith.engine.sampling import Sampling
from tunesmith.models.anatomy import study
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup
from tunesmith.techniques.lora import Lora

TOLERANCE = 1e-5
STARTS = {"t5": 0, "bart": 5, "marian": 0}
STOP = 5


def pairs(family: str, count: int = 4) -> list[Encoded]:
    """Ragged pairs: the longer the source, the shorter the target."""
    generator = torch.Generator().manual_seed(7)
    found = []
    for index in range(count):
        source = torch.randint(10, 90, (4 + 3 * index,), generator=generator).tolist()
        target = torch.randint(10, 90, (11 - 2 * index,), generator=generator).tolist()
        ids = (STARTS[family], *target, STOP)
        weights = (0.0, *[1.0] * (len(target) + 1))
        streams = {"source": EncodedStream((*source, STOP)), "target": EncodedStream(ids, weights)}
        found.append(Encoded(streams))
    return found


def engine_for(model, **options) -> Engine:
    parameters = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    return Engine(model, [ParameterGroup(parameters)], **options)


def gradients(model) -> dict[str, torch.Tensor]:
    own = model.module.named_parameters()
    return {name: p.grad.clone() for name, p in own if p.grad is not None}


def learn(engine, groups):
    """Loss and gradients of one step over micro-batches."""
    engine.model.module.zero_grad(set_to_none=True)
    objective, made = TokenLikelihood(), [collate(group) for group in groups]
    counts = add_counts([objective.counts(batch) for batch in made])
    losses = [engine.forward_backward(batch, objective, counts)[0]["nll"] for batch in made]
    return sum(losses), gradients(engine.model)


def reference(model, examples):
    """transformers' loss with padded labels, and the gradients."""
    model.module.zero_grad(set_to_none=True)
    sources = [list(example.streams["source"].ids) for example in examples]
    labels = [list(example.streams["target"].ids[1:]) for example in examples]
    wide, long = max(map(len, sources)), max(map(len, labels))
    loss = model.module(
        input_ids=torch.tensor([ids + [0] * (wide - len(ids)) for ids in sources]),
        attention_mask=torch.tensor([[1] * len(i) + [0] * (wide - len(i)) for i in sources]),
        labels=torch.tensor([ids + [-100] * (long - len(ids)) for ids in labels]),
    ).loss
    loss.backward()
    return float(loss.detach()), gradients(model)


def assert_equal(found, expected) -> None:
    assert found[0] == pytest.approx(expected[0], rel=TOLERANCE)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        difference = (found[1][name] - gradient).norm()
        # A bias of keys changes no score: its gradient is zero but for rounding.
        assert difference <= TOLERANCE * max(float(gradient.norm()), 1e-2), name


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_loss_and_gradients_equal_those_of_transformers_labels(family, packing):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    expected = reference(model, examples)
    engine = engine_for(model, packing=packing)
    assert engine.packed is packing
    assert_equal(learn(engine, [examples]), expected)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_micro_batches_add_up_to_one_batch(family):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    engine = engine_for(model)
    whole = learn(engine, [examples])
    assert_equal(learn(engine, [examples[:1], examples[1:]]), whole)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_checkpointed_layers_give_the_same_gradients(family, packing):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    engine = engine_for(model, packing=packing)
    whole = learn(engine, [examples])
    assert len(engine.checkpoints.layers) == 4
    engine.checkpoints.choose(Checkpointed(4))
    assert_equal(learn(engine, [examples]), whole)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_adapters_in_both_stacks_learn_as_in_transformers(family, packing):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    torch.manual_seed(0)
    Lora(Lora.Options(rank=2)).prepare(model)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    expected = reference(model, examples)
    adapted = {name.split(".lora_")[0] for name in expected[1]}
    assert adapted == {name for layer in model.anatomy.layers for name in layer.linears}
    assert_equal(learn(engine_for(model, packing=packing), [examples]), expected)


def test_log_probabilities_are_those_of_the_whole_model():
    model, examples = tiny_model("bart", "seq2seq_lm"), pairs("bart")
    readout = Engine(model).forward(collate(examples), TokenLogProbs)
    expected = []
    for example in examples:
        source, target = (torch.tensor([s.ids]) for s in example.streams.values())
        logits = model.module(input_ids=source, decoder_input_ids=target).logits[0]
        expected.append(logits.log_softmax(-1)[:-1].gather(1, target[0, 1:, None])[:, 0])
    assert torch.allclose(readout.logprobs_N, torch.cat(expected), atol=1e-5)


def test_evaluation_counts_the_padding_of_both_streams():
    examples = pairs("t5")
    for batch in batches(examples, 60, packed=False):
        rows = sum(len(batch) * max(stream.lengths) for stream in batch.streams.values())
        assert rows <= 60 or len(batch) == 1


def test_what_is_computed_has_no_padding_unless_pairs_are_padded():
    model, batch = tiny_model("t5", "seq2seq_lm"), collate(pairs("t5"))
    tokens = sum(stream.ids_T.numel() for stream in batch.streams.values())
    assert Engine(model).computed_rows(batch) == tokens
    assert Engine(model, packing=False).computed_rows(batch) == 4 * 14 + 4 * 13


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_nothing_is_left_on_the_model_by_a_packed_pass(family):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    engine_for(model)
    stock = reference(model, examples)
    learn(engine_for(model), [examples])
    assert not any(module._forward_pre_hooks for module in model.module.modules())
    assert_equal(reference(model, examples), stock)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_pair_learns_the_same_whatever_stands_beside_it(family):
    model, examples = tiny_model(family, "seq2seq_lm"), pairs(family)
    engine = engine_for(model)
    alone = [engine.forward(collate([example]), TokenLogProbs).logprobs_N for example in examples]
    together = engine.forward(collate(examples[::-1]), TokenLogProbs).logprobs_N
    assert torch.allclose(together, torch.cat(alone[::-1]), atol=1e-5)


def test_stacks_that_count_positions_otherwise_are_padded():
    config = transformers.M2M100Config(
        vocab_size=100, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, pad_token_id=1,
        max_position_embeddings=64, dropout=0.0, encoder_layerdrop=0.0, decoder_layerdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tiny_model("bart", "seq2seq_lm")
    module = transformers.M2M100ForConditionalGeneration(config)
    model = replace(model, module=module, anatomy=study(module))
    assert Engine(model).packed is False


def test_a_stack_that_breaks_on_what_it_would_be_handed_is_padded(monkeypatch):
    model = tiny_model("bart", "seq2seq_lm")
    positions = type(model.module.model.encoder.embed_positions)
    own = positions.forward

    def forward(self, input_ids, *lengths, position_ids=None):
        if position_ids is not None and position_ids.shape != input_ids.shape[1:]:
            raise RuntimeError("the size of tensor a must match the size of tensor b")
        if position_ids is not None and bool((position_ids.diff() < 0).any()):
            raise RuntimeError("positions go up")
        return own(self, input_ids, *lengths, position_ids=position_ids)

    monkeypatch.setattr(positions, "forward", forward)
    assert Engine(model).packed is False


def test_attention_that_caps_its_scores_is_not_packed():
    reading = packed_pairs._Reading(None, "source", torch.nn.Identity(), ())
    token = packed_pairs._reading.set(reading)
    try:
        with pytest.raises(NotPackableError, match="softcap"):
            packed_pairs._attend(torch.nn.Identity(), *[torch.zeros(1)] * 3, None, softcap=30.0)
    finally:
        packed_pairs._reading.reset(token)


def test_dropout_falls_on_packed_pairs_as_often_as_on_padded_ones():
    """Over many draws, the mean loss under dropout is that of padded batches."""
    model, examples = tiny_model("t5", "seq2seq_lm", dropout_rate=0.3), pairs("t5")
    losses = {}
    for packing in (True, False):
        torch.manual_seed(0)
        engine = engine_for(model, packing=packing)
        drawn = torch.tensor([learn(engine, [examples])[0] for _ in range(200)])
        losses[packing] = drawn
    spread = (losses[True].var() / 200 + losses[False].var() / 200).sqrt()
    assert losses[True].std() > 0
    assert abs(losses[True].mean() - losses[False].mean()) < 4 * spread


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_are_continued_as_transformers_does_one_at_a_time(family, beams):
    model = tiny_model(family, "seq2seq_lm")
    engine = Engine(model)
    prompts = [list(example.streams["source"].ids) for example in pairs(family)]
    made = engine.generate(prompts, Sampling(6, (STOP,), beams=beams))
    assert engine.generation() == STOCK
    for prompt, found in zip(prompts, made, strict=True):
        said = model.module.generate(
            torch.tensor([prompt]), max_new_tokens=6, num_beams=beams, do_sample=False
        )[0, 1:].tolist()
        ids = said[: said.index(STOP)] if STOP in said else said
        assert found.ids == ids


def test_decoders_pursue_beams_too():
    model = tiny_model("llama")
    engine = Engine(model)
    prompts = [[10, 11, 12], [20, 21], [30, 31, 32, 33]]
    made = engine.generate(prompts, Sampling(6, (2,), beams=3))
    for prompt, found in zip(prompts, made, strict=True):
        said = model.module.generate(
            torch.tensor([prompt]), max_new_tokens=6, num_beams=3, do_sample=False
        )[0, len(prompt) :].tolist()
        assert found.ids == (said[: said.index(2)] if 2 in said else said)


def test_a_stop_that_is_forced_at_the_very_end_is_none_of_the_models_own():
    model = tiny_model("bart", "seq2seq_lm")
    with torch.no_grad():
        model.module.final_logits_bias[0, STOP] = -1e9
    made = StockGenerator(model).generate([[10, 11, STOP]], Sampling(3, (STOP,)))
    assert len(made[0].ids) == 2
    assert not made[0].stopped


def test_documents_are_laid_out_once_a_batch_for_all_layers(monkeypatch):
    laid, stock = [], packed_pairs.side_by_side
    engine = engine_for(tiny_model("t5", "seq2seq_lm"))
    assert engine.packed
    monkeypatch.setattr(
        packed_pairs, "side_by_side", lambda *given: laid.append(given) or stock(*given)
    )
    learn(engine, [pairs("t5")])
    assert [spans.causal for spans, _ in laid] == [False, True]
