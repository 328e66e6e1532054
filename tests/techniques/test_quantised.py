"""Adapters on a base in 8 or 4 bits learn what PEFT and bitsandbytes by themselves learn."""

import itertools
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.interrupting import stopping_at
from tests.techniques.test_adapters import (
    IDS,
    LABELS,
    VARIANTS,
    batch,
    learn,
    logits,
    prepared,
)
from tests.tiny import DECODERS, tiny_llama, tiny_model_folder
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.fusion import _is_frozen_product
from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.anatomy import study
from tunesmith.models.anatomy.blocks import map_sizes
from tunesmith.models.learning import learn as let_learn
from tunesmith.models.load import load_model, load_result
from tunesmith.models.quantised import Quantised, packed_bytes, stored_tensors
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.soundness import check_finite
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.recipes import parse_recipe
from tunesmith.registry import OBJECTIVES, TECHNIQUES
from tunesmith.runs.plan import in_bfloat16
from tunesmith.runs.prepare import prepare
from tunesmith.training.guards import Interrupted
from tunesmith.training.memory import Memory

KINDS = ("int8", "nf4")
SILENT = Console(quiet=True)
STANDING = [variant for variant in VARIANTS if variant != "pissa"]


def loaded(folder, family, kind, **options):
    head = "causal_lm" if family in DECODERS else "classification"
    labels = () if head == "causal_lm" else LABELS
    source = resolve(str(folder))
    return load_model(source, head=head, labels=labels, quantised=Quantised(kind), **options)


def settings(kind):
    """What a user of PEFT and bitsandbytes writes."""
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip


def stored(model):
    """Every weight that is stored in whole numbers, by its name."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.module.named_parameters()
        if not parameter.is_floating_point()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert"])
def test_the_linear_maps_of_the_layers_are_quantised_and_all_else_is_float32(bases, family, kind):
    model = loaded(bases(family), family, kind, dtype=torch.bfloat16)
    maps = {name for layer in model.anatomy.layers for name in layer.linears}
    assert {name.removesuffix(".weight") for name in stored(model)} == maps
    own = {f"{name}.bias" for name in maps}  # bitsandbytes keeps these as it computes
    others = {n: p for n, p in model.module.named_parameters() if n not in own | set(stored(model))}
    assert {parameter.dtype for parameter in others.values()} == {torch.float32}


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("nf4", 4)])
def test_weights_take_their_bits_and_count_as_many_as_before(bases, kind, bits):
    model = loaded(bases("llama"), "llama", kind)
    plain = load_model(resolve(str(bases("llama"))), head="causal_lm")
    maps = [n for layer in plain.anatomy.layers for n in layer.linears]
    numbers = sum(plain.module.get_submodule(name).weight.numel() for name in maps)
    assert packed_bytes(model.module) == numbers * bits // 8
    assert model.parameters == plain.parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_and_gradients_equal_those_of_peft_and_bitsandbytes(bases, family, kind):
    model = loaded(bases(family), family, kind)
    method = prepared(model, "rslora")
    with quiet():
        plain = AutoModelForCausalLM.from_pretrained(
            bases(family), dtype=torch.float32, quantization_config=settings(kind)
        )
        plain = peft.prepare_model_for_kbit_training(plain, use_gradient_checkpointing=False)
        plain = peft.get_peft_model(plain, model.peft.peft_config["default"]).train()
    theirs = dict(plain.base_model.model.named_parameters())
    torch.manual_seed(1)
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
            theirs[name].data.copy_(parameter.data)

    texts = batch(model)
    engine = Engine(model, method.parameter_groups(model))
    objective = OBJECTIVES.get("token_likelihood")()
    counts = objective.counts(texts)
    found, _ = engine.forward_backward(texts, objective, counts)

    stream = texts.text
    ends = stream.cu_seqlens.tolist()
    losses = []
    for first, end in itertools.pairwise(ends):
        ids_T = stream.ids_T[first:end]
        rows = plain(input_ids=ids_T[None]).logits[0, :-1].float()
        losses.append(nn.functional.cross_entropy(rows, ids_T[1:], reduction="sum"))
    expected = torch.stack(losses).sum() / next(iter(counts.values()))
    expected.backward()

    assert engine.packed
    assert sum(found.values()) == pytest.approx(expected.item(), rel=1e-5)
    learning = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    assert len(learning) > 10
    for name, parameter in learning.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", STANDING)
def test_adapters_learn_the_base_stays_and_peft_gives_the_same_logits(
    bases, tmp_path, variant, kind
):
    model = loaded(bases("llama"), "llama", kind)
    method = prepared(model, variant)
    before = stored(model)
    adapters = {
        n: p.detach().clone() for n, p in model.module.named_parameters() if p.requires_grad
    }
    learn(model, method)
    now = dict(model.module.named_parameters())
    assert before
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())
    assert all(not torch.equal(tensor, now[name]) for name, tensor in adapters.items())

    method.save(model, tmp_path / "result")
    with quiet():
        reader = peft.AutoPeftModelForCausalLM.from_pretrained(
            tmp_path / "result", dtype=torch.float32, quantization_config=settings(kind)
        )
    ours = logits(model.module)
    # In evaluation, bitsandbytes rounds the inputs of 8-bit maps, too.
    within = 1e-5 if kind == "nf4" else 0.1 * float(ours.abs().max())
    theirs = logits(reader)[:, -len(IDS) :]
    torch.testing.assert_close(ours, theirs, atol=within, rtol=1e-5)
    torch.testing.assert_close(
        logits(load_result(tmp_path / "result").module), ours, atol=1e-5, rtol=1e-5
    )
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["opt", "bert"])
def test_other_families_learn_in_bfloat16_and_come_back(bases, tmp_path, family, kind):
    model = loaded(bases(family), family, kind, dtype=torch.bfloat16)
    method = prepared(model, "rslora")
    assert learn(model, method, dtype=torch.bfloat16).packed
    method.save(model, tmp_path / "result")
    again = load_result(tmp_path / "result", dtype=torch.bfloat16)
    assert torch.equal(logits(again.module), logits(model.module))
    assert verify_saved(model, tmp_path / "result", IDS) < 2e-2


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_passes_through_the_base_after_it_was_evaluated(bases, kind):
    model = loaded(bases("llama"), "llama", kind)
    engine = Engine(model, prepared(model, "rslora").parameter_groups(model))
    objective = OBJECTIVES.get("token_likelihood")()
    texts = batch(model)
    gradients = []
    for evaluated in (False, True):
        if evaluated:
            engine.forward(texts, TokenLogProbs)
        engine.forward_backward(texts, objective, objective.counts(texts))
        lowest = next(
            p for n, p in engine.optimizer.parameters.items() if ".0." in n and "lora_B" in n
        )
        gradients.append(lowest.grad.clone())
        for parameter in engine.optimizer.parameters.values():
            parameter.grad = None
    assert gradients[0].any()
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_document_gives_does_not_depend_on_its_neighbours(bases, kind):
    model = loaded(bases("llama"), "llama", kind)
    engine = Engine(model)
    rows = [list(range(10, 20)), list(range(40, 57))]
    examples = [Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows]
    together = engine.forward(collate(examples), TokenLogProbs).logprobs_N
    alone = [engine.forward(collate([each]), TokenLogProbs).logprobs_N for each in examples]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


RECIPE = {
    "task": {"name": "instruct", "max_new_tokens": 3},
    "technique": {"name": "lora", "rank": 2},
    "training": {"max_steps": 4, "batch_size": 4, "learning_rate": 0.01, "precision": "float32"},
    "evaluation": {"generate": 2, "probe": False, "resamples": 100},
}


def recipe(folder, tmp_path, **more):
    rows = [{"prompt": f"Say {i}", "completion": f"It is {i}"} for i in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(tmp_path / "train.jsonl")}
    return {**RECIPE, "model": str(folder), "data": data, "base": {"quantize": "nf4"}, **more}


def test_techniques_that_stand_on_a_quantised_base_do_and_others_say_why_not(bases, tmp_path):
    for member in TECHNIQUES:
        given = recipe(bases("bert"), tmp_path, technique=member.name, task="classification")
        (tmp_path / "train.jsonl").write_text(
            "".join(
                json.dumps({"text": f"{i} x", "label": LABELS[i % 2]}) + "\n" for i in range(20)
            )
        )
        reason = member(member.Options()).changes_base()
        if reason is None:
            model = prepare(parse_recipe(given), SILENT).model
            assert packed_bytes(model.module)
        else:
            with pytest.raises(RecipeError, match="cannot stand on a quantised base"):
                prepare(parse_recipe(given), SILENT)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"initial": "pissa"}, "takes a part out"), ({"bias": "all"}, "lets weights of the base")],
)
def test_lora_that_changes_the_base_is_refused(bases, tmp_path, options, reason):
    given = recipe(bases("llama"), tmp_path, technique={"name": "lora", **options})
    with pytest.raises(RecipeError, match=reason):
        prepare(parse_recipe(given), SILENT)


def test_a_quantised_weight_is_not_unfrozen(bases):
    model = loaded(bases("llama"), "llama", "nf4")
    with pytest.raises(RecipeError, match="stored quantised cannot learn"):
        let_learn(model.module)


def test_a_run_goes_on_exactly_and_is_used_as_it_was_trained(bases, tmp_path):
    given = recipe(bases("llama"), tmp_path)
    whole = api.train(given, runs_dir=tmp_path, name="whole", console=SILENT)

    with stopping_at(3), pytest.raises(Interrupted):
        api.train(given, runs_dir=tmp_path, name="cut", console=SILENT)
    cut = api.resume(tmp_path / "cut", console=SILENT)
    saved = [load_file(run.path / "model" / "adapter_model.safetensors") for run in (whole, cut)]
    assert saved[0].keys() == saved[1].keys()
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])

    engines = [whole.engine(who) for who in ("tuned", "base")]
    assert all(packed_bytes(engine.model.module) for engine in engines)
    assert "stored in 4 bits" in whole.summary["technique_facts"]["Base"]
    assert "stored in 4 bits" in whole.report.read_text()


def test_memory_counts_quantised_weights_at_their_bytes(tmp_path):
    folder = tiny_model_folder(tmp_path, "llama", hidden_size=128, intermediate_size=384)
    sizes = {}
    for quantize in (None, *KINDS):
        given = recipe(folder, tmp_path, base={"quantize": quantize})
        run = prepare(parse_recipe(given), SILENT)
        there = in_bfloat16(Memory(run.engine), run.memory)
        sizes[quantize] = (run.memory.weights, there.weights)
    plain = load_model(resolve(str(folder)), head="causal_lm")
    names = [name for layer in plain.anatomy.layers for name in layer.linears]
    numbers = sum(plain.module.get_submodule(name).weight.numel() for name in names)
    for place, wide in ((0, 4.0), (1, 2.0)):
        for quantize, narrow in (("int8", 1.0), ("nf4", 0.5)):
            saved = sizes[None][place] - sizes[quantize][place]
            assert saved == pytest.approx(numbers * (wide - narrow), rel=0.1)


def test_a_checkpoint_that_is_stored_quantised_is_learnt_on(bases, tmp_path):
    folder = tmp_path / "stored"
    with quiet():
        AutoModelForCausalLM.from_pretrained(
            bases("llama"), dtype=torch.float32, quantization_config=settings("nf4")
        ).save_pretrained(folder)
    for file in bases("llama").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    model = load_model(resolve(str(folder)), head="causal_lm")
    ours = loaded(bases("llama"), "llama", "nf4")
    assert torch.equal(logits(model.module), logits(ours.module))
    method = prepared(model, "rslora")
    learn(model, method)
    method.save(model, tmp_path / "result")
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5

    refused = recipe(folder, tmp_path, technique="full", base={})
    with pytest.raises(RecipeError, match="cannot stand on a quantised base"):
        prepare(parse_recipe(refused), SILENT)
    twice = recipe(folder, tmp_path)
    with pytest.raises(ModelError, match="are quantised"):
        prepare(parse_recipe(twice), SILENT)


def test_packed_tensors_are_counted_by_what_they_hold_and_left_to_their_own_products():
    model = tiny_llama()
    layer = model.module.get_submodule("model.layers.0.mlp.down_proj")
    numbers = layer.weight.detach()
    packed = TwoTensor(numbers, numbers.clone())
    layer.weight = nn.Parameter(packed, requires_grad=False)
    stored = sum(tensor.nbytes for tensor in stored_tensors(layer))
    assert stored == 2 * numbers.nbytes
    check_finite(model.source, model.module)
    prepared(model, "rslora")
    part = model.module.get_submodule("model.layers.0.mlp")
    assert not _is_frozen_product(part.down_proj)
    assert _is_frozen_product(part.up_proj)


def test_maps_that_are_packed_in_classes_of_their_own_are_linear_maps():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_features, self.out_features = 32, 48
            self.register_buffer("qweight", torch.zeros(4, 48, dtype=torch.int32))

    model = tiny_llama()
    model.module.set_submodule("model.layers.0.mlp.up_proj", Packed())
    for name in "qkvo":
        model.module.set_submodule(f"model.layers.0.self_attn.{name}_proj", Packed())
    found = study(model.module).layers[0]
    assert "model.layers.0.mlp.up_proj" in found.linears
    assert found.attentions == ("model.layers.0.self_attn",)
    assert map_sizes(model.module.get_submodule("model.layers.0.mlp.up_proj")) == (32, 48)


def said_to_be_stored(base, folder, **how):
    """Copy a model, whose configuration then says that it is stored so."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = how
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("bits", [5, None])
def test_bits_that_no_reader_knows_are_refused(bases, tmp_path, monkeypatch, bits):
    monkeypatch.setattr("tunesmith.models.quantised.check_installed", lambda method, where: None)
    monkeypatch.setattr("tunesmith.models.quantised.reading_advice", lambda config: "Take another.")
    folder = said_to_be_stored(bases("llama"), tmp_path / "stored", quant_method="gptq", bits=bits)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(resolve(str(folder)), head="causal_lm")


@pytest.mark.parametrize(
    ("method", "extra"), [("gptq", "gptq"), ("awq", "awq"), ("torchao", "torchao")]
)
def test_a_reader_that_is_not_installed_is_named_with_its_extra(
    bases, tmp_path, monkeypatch, method, extra
):
    monkeypatch.setattr("tunesmith.models.quantised.find_spec", lambda name: None)
    folder = said_to_be_stored(bases("llama"), tmp_path / "stored", quant_method=method)
    with pytest.raises(ModelError, match="not installed") as refused:
        load_model(resolve(str(folder)), head="causal_lm")
    assert f"tunesmith[{extra}]" in refused.value.fix
