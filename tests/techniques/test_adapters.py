"""Adapters of PEFT: each trains only what is its own, and its readers give the same logits."""

import peft
import pytest
import torch
from pydantic import ValidationError
from tests.tiny import (
    DECODERS,
    ENCODERS,
    LAYERS,
    tiny_bert,
    tiny_llama,
    tiny_model,
)

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import Sampling
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.errors import RecipeError
from tunesmith.models.adapters import without_adapter
from tunesmith.models.load import load_model, load_result
from tunesmith.models.resolve import resolve
from tunesmith.models.seeded import seeded
from tunesmith.registry import OBJECTIVES, TECHNIQUES
from tunesmith.techniques.lora import Lora

LABELS = ("no", "yes")
IDS = [7, 8, 9, 30, 31]
VARIANTS = {
    "rslora": ("lora", {"rank": 4, "rank_stabilized": True}),
    "dora": ("lora", {"rank": 4, "dora": True}),
    "pissa": ("lora", {"rank": 4, "initial": "pissa"}),
    "lora+": ("lora", {"rank": 4, "b_rate": 16.0}),
    "vera": ("vera", {"rank": 8}),
    "ia3": ("ia3", {}),
    "oft": ("oft", {"block_size": 8}),
    "boft": ("boft", {"block_size": 4}),
    "adalora": ("adalora", {"rank": 2, "start_rank": 4}),
    "prompt_tuning": ("prompt_tuning", {"length": 3}),
    "p_tuning": ("p_tuning", {"length": 3, "hidden": 16}),
    "prefix_tuning": ("prefix_tuning", {"length": 3}),
}
VIRTUAL = ("prompt_tuning", "p_tuning", "prefix_tuning")


def loaded(folder, family):
    head = "classification" if family in ENCODERS else "causal_lm"
    labels = () if head == "causal_lm" else LABELS
    return load_model(resolve(str(folder)), head=head, labels=labels)


def prepared(model, variant, **more):
    name, options = VARIANTS[variant]
    kind = TECHNIQUES.get(name)
    method = kind(kind.Options(**{**options, **more}))
    with seeded(0):
        method.prepare(model)
    return method


def batch(model):
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(10, 90, (n,), generator=generator).tolist() for n in (5, 9, 7)]
    if model.anatomy.head:
        return collate([Encoded({"text": EncodedStream(tuple(r))}, label=i % 2)
                        for i, r in enumerate(rows)])  # fmt: skip
    return collate([Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows])


def learn(model, method, steps=2, **options):
    """Take steps; return the engine."""
    engine = Engine(model, method.parameter_groups(model), AdamWOptions(), **options)
    objective = OBJECTIVES.get("classes" if model.anatomy.head else "token_likelihood")()
    texts = batch(model)
    for _ in range(steps):
        engine.forward_backward(texts, objective, objective.counts(texts))
        engine.optimizer_step(0.01)
    return engine


def logits(module):
    with torch.no_grad():
        return module.eval()(input_ids=torch.tensor([IDS])).logits


def values(model):
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


REFUSED = {
    ("oft", "gpt2"): "PEFT has no OFT adapter for this gpt2 model",
    ("boft", "gpt2"): "PEFT has no BOFT adapter for this gpt2 model",
    ("prefix_tuning", "distilbert"): "distilbert cannot read such virtual tokens",
    ("prefix_tuning", "deberta-v2"): "deberta-v2 cannot read such virtual tokens",
}
SAMPLE = ("llama", "gpt2", "opt", "bert")
"""Families that differ most in how they are built; the others take a minute."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family in SAMPLE else pytest.mark.slow)
     for family in (*DECODERS, *ENCODERS)],
)  # fmt: skip
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_only_its_own_and_readers_give_the_same_logits(bases, tmp_path, variant, family):
    folder = bases(family)
    model = loaded(folder, family)
    base = values(model)
    if (variant, family) in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[variant, family]):
            prepared(model, variant)
        return
    method = prepared(model, variant)
    before = values(model)
    learning = {name for name, p in model.module.named_parameters() if p.requires_grad}
    learn(model, method)
    after = values(model)
    assert {name for name in after if not torch.equal(before[name], after[name])} == learning
    if variant != "pissa":
        frozen = {name.replace("base_layer.", "").replace("original_module.", ""): tensor
                  for name, tensor in after.items() if name not in learning}  # fmt: skip
        assert all(torch.equal(base[name], frozen[name]) for name in base if name in frozen)

    method.save(model, tmp_path / "result")
    ending = "SequenceClassification" if model.anatomy.head else "CausalLM"
    options = {"num_labels": 2} if model.anatomy.head else {}
    reader = getattr(peft, f"AutoPeftModelFor{ending}").from_pretrained(
        tmp_path / "result", **options
    )
    ours, theirs = logits(model.module), logits(reader)
    theirs = theirs if model.anatomy.head else theirs[:, -len(IDS) :]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    again = load_result(tmp_path / "result")
    torch.testing.assert_close(logits(again.module), ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in VIRTUAL])
def test_before_the_first_step_the_model_answers_as_the_base(variant):
    model = tiny_llama()
    expected = logits(model.module)
    assert prepared(model, variant).begins_as_base
    torch.testing.assert_close(logits(model.module), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "pissa"])
def test_switched_off_it_gives_the_base_back(variant):
    model = tiny_llama()
    expected = logits(model.module)
    learn(model, prepared(model, variant), fuse=False)
    assert not torch.equal(logits(model.module), expected)
    with without_adapter(model):
        assert torch.equal(logits(model.module), expected)


@pytest.mark.parametrize(
    ("variant", "fast"),
    [("rslora", True), ("pissa", True), ("lora+", True), ("dora", False), ("vera", False),
     ("ia3", False), ("oft", False)],
)  # fmt: skip
def test_fast_forms_are_taken_where_the_arithmetic_is_that_of_lora(variant, fast):
    model = tiny_llama()
    method = prepared(model, variant)
    kernels = Engine(model, method.parameter_groups(model)).kernels
    parts = ("attention", "feed-forward", "adapted layers")
    assert any(part in kernels for part in parts) == fast


@pytest.mark.parametrize("variant", ["rslora", "pissa", "dora"])
def test_fast_forms_learn_what_the_stock_forms_learn(variant):
    found = []
    for fuse in (True, False):
        model = tiny_llama()
        learn(model, prepared(model, variant), fuse=fuse)
        found.append(logits(model.module))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_lora_plus_lets_the_second_factor_learn_faster():
    model = tiny_llama()
    groups = prepared(model, "lora+").parameter_groups(model)
    rates = {n: g.learning_rate_scale for g in groups for n in g.parameters}
    assert {rate for name, rate in rates.items() if ".lora_B." in name} == {16.0}
    assert {rate for name, rate in rates.items() if ".lora_A." in name} == {1.0}


def test_pissa_begins_with_the_principal_part_of_the_weight():
    model = tiny_llama()
    whole = model.module.model.layers[0].self_attn.q_proj.weight.detach().clone()
    prepared(model, "pissa")
    layer = model.module.model.layers[0].self_attn.q_proj
    taken = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight) * 2.0
    left, right, rest = (torch.linalg.svdvals(m) for m in (whole, taken, layer.base_layer.weight))
    torch.testing.assert_close(right[:4], left[:4], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(rest[:8], left[4:12], rtol=1e-2, atol=1e-3)


def test_pissa_is_saved_as_an_ordinary_adapter_of_twice_the_rank(bases, tmp_path):
    model = loaded(bases("llama"), "llama")
    method = prepared(model, "pissa", rank_stabilized=True)
    learn(model, method)
    ours, rank = logits(model.module), model.peft.peft_config["default"].r
    method.save(model, tmp_path / "result")
    config = peft.PeftConfig.from_pretrained(tmp_path / "result")
    assert (config.r, config.init_lora_weights) == (2 * rank, True)
    assert model.peft.peft_config["default"].r == rank
    assert torch.equal(logits(model.module), ours)
    reader = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(logits(reader), ours, atol=1e-5, rtol=1e-5)


def test_a_principal_part_larger_than_the_weight_is_refused():
    with pytest.raises(RecipeError, match=r"of 16 rows or columns .* rank 40.*Lower it"):
        prepared(tiny_llama(), "pissa", rank=40)


def test_dora_and_pissa_contradict_each_other():
    with pytest.raises(ValidationError, match="choose one"):
        TECHNIQUES.get("lora").Options(dora=True, initial="pissa")


@pytest.mark.parametrize("variant", ["vera", "ia3", "oft"])
def test_adapters_stand_where_they_are_told(variant):
    model = tiny_llama()
    prepared(model, variant, targets=["v_proj"])
    learning = {n for n, p in model.module.named_parameters() if p.requires_grad}
    assert learning
    assert all(".v_proj." in name for name in learning)


@pytest.mark.parametrize("variant", ["vera", "ia3", "oft"])
def test_an_unknown_target_is_answered_with_the_nearest(variant):
    with pytest.raises(RecipeError, match=r"called 'q_prj'.* Did you mean 'q_proj'\?"):
        prepared(tiny_llama(), variant, targets=["q_prj"])


def test_ia3_rescales_keys_values_and_the_inner_feed_forward():
    model = tiny_llama()
    prepared(model, "ia3")
    learning = {n.split(".ia3_l")[0] for n, p in model.module.named_parameters() if p.requires_grad}
    ends = ("self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj")
    assert learning == {f"model.layers.{i}.{end}" for i in (0, 1) for end in ends}
    inner = model.module.model.layers[0].mlp.down_proj.ia3_l["default"]
    assert inner.shape == (1, 48)


@pytest.mark.parametrize("variant", VIRTUAL)
def test_virtual_tokens_are_read_padded_and_take_room_of_the_context(variant):
    model = tiny_llama()
    context = model.anatomy.context_length
    method = prepared(model, variant)
    assert not method.begins_as_base
    assert model.anatomy.context_length == context - 3
    assert not Engine(model, method.parameter_groups(model)).packed


@pytest.mark.parametrize("variant", VIRTUAL)
def test_a_context_filled_by_virtual_tokens_is_refused(variant):
    with pytest.raises(RecipeError, match=r"128 virtual tokens leave no room"):
        prepared(tiny_llama(), variant, length=128)


@pytest.mark.parametrize("variant", VIRTUAL)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_generation_reads_the_virtual_tokens_as_peft_does(bases, tmp_path, variant, family):
    model = loaded(bases(family), family)
    method = prepared(model, variant)
    engine = learn(model, method)
    method.save(model, tmp_path / "result")
    reader = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result").eval()
    prompts = [IDS, [40, 41, 42]]
    found = engine.generate(prompts, Sampling(max_new_tokens=6))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        made = reader.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False,
            eos_token_id=None,
        )  # fmt: skip
        assert answer.ids == made[0, -6:].tolist()


def test_vectors_can_begin_as_a_text():
    model = tiny_llama()
    prepared(model, "prompt_tuning", text="ab")
    table = model.module.model.embed_tokens
    ids = model.tokenizer("aba", add_special_tokens=False).input_ids
    learnt = table.virtual_tokens["default"].embedding.weight
    assert torch.equal(learnt, table.weight[ids])


def test_a_prefix_can_be_made_by_a_network_of_which_only_the_product_is_saved(bases, tmp_path):
    model = loaded(bases("llama"), "llama")
    method = prepared(model, "prefix_tuning", hidden=8)
    learning = {n for n, p in model.module.named_parameters() if p.requires_grad}
    assert any("transform" in name for name in learning)
    learn(model, method)
    method.save(model, tmp_path / "result")
    reader = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(logits(reader), logits(model.module), atol=1e-5, rtol=1e-5)


def test_an_encoder_reads_virtual_tokens_with_other_positions_and_segments():
    model = tiny_model("roberta", "classification", LABELS)
    prepared(model, "prompt_tuning")
    engine = Engine(model)
    assert engine.layout.first_position == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_learns_is_float32_on_a_bfloat16_base(variant):
    model = tiny_bert(dtype=torch.bfloat16)
    if variant == "prefix_tuning":
        model = tiny_llama(dtype=torch.bfloat16)
    prepared(model, variant)
    parameters = list(model.module.parameters())
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in parameters if not p.requires_grad} == {torch.bfloat16}


def test_experts_get_adapters_where_they_are_named(bases, tmp_path):
    folder = bases("mixtral")
    model = loaded(folder, "mixtral")
    base = values(model)
    method = Lora(Lora.Options(rank=2, targets=["q_proj", "experts.gate_up_proj"]))
    with seeded(0):
        method.prepare(model)
    learn(model, method)
    after = values(model)
    learnt = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert len([name for name in learnt if "experts" in name]) == 2 * LAYERS
    assert len([name for name in learnt if "q_proj" in name]) == 2 * LAYERS
    assert all(bool(after[name].any()) for name in learnt)
    kept = {name.replace(".base_layer", ""): value for name, value in after.items()}
    assert all(torch.equal(kept[name], value) for name, value in base.items())

    method.save(model, tmp_path / "result")
    expected = logits(model.module)
    read = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    assert torch.allclose(logits(read), expected, atol=1e-6)
    assert (logits(loaded(folder, "mixtral").module) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"dora": True}, {"initial": "pissa"}])
def test_what_is_not_done_beside_experts_is_refused(bases, options):
    model = loaded(bases("mixtral"), "mixtral")
    method = Lora(Lora.Options(rank=2, targets=["experts.gate_up_proj"], **options))
    with pytest.raises(RecipeError, match=rf"technique.{next(iter(options))}: PEFT does not do"):
        method.prepare(model)


def test_a_target_that_is_neither_map_nor_expert_is_refused(bases):
    model = loaded(bases("mixtral"), "mixtral")
    with pytest.raises(RecipeError, match=r"no linear map called 'experts\.up'"):
        Lora(Lora.Options(targets=["q_proj", "experts.up"])).prepare(model)
