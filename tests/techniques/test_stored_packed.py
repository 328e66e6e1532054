"""Checkpoints that torchao, GPTQ or AWQ stored: read, learnt beside, saved, or refused."""

import itertools
import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.interrupting import stopping_at
from tests.techniques.packed_files import write_packed
from tests.techniques.test_adapters import IDS, VARIANTS, batch, learn, logits, prepared
from tests.techniques.test_quantised import SILENT, recipe
from tests.tiny import tiny_model_folder
from torch import nn
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int4Tensor,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
)
from torchao.quantization.granularity import PerGroup
from transformers import AutoModelForCausalLM, TorchAoConfig

from tunesmith import api
from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.learning import learn as let_learn
from tunesmith.models.load import load_model, load_result
from tunesmith.models.packed_maps import expanded_weight, is_packed, unwrapped
from tunesmith.models.quantised import expanded_bytes, packed_bytes
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.soundness import check_finite, check_packed
from tunesmith.objectives.base import TokenLogProbs
from tunesmith.recipes import parse_recipe
from tunesmith.registry import OBJECTIVES
from tunesmith.runs.prepare import prepare
from tunesmith.training.guards import Interrupted

FORMS = {
    "int8": (Int8WeightOnlyConfig, {}),
    "int4": (IntxWeightOnlyConfig, {"weight_dtype": torch.int4, "granularity": PerGroup(16)}),
    "float8": (Float8WeightOnlyConfig, {}),
    "int8, inputs rounded": (Int8DynamicActivationInt8WeightConfig, {}),
}
READERS = [
    *FORMS,
    pytest.param("gptq", marks=pytest.mark.gptqmodel),
    pytest.param("awq", marks=pytest.mark.gptqmodel),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with a tiny Llama whose sizes all packed forms take."""
    return tiny_model_folder(
        tmp_path_factory.mktemp("plain"), "llama", hidden_size=64, intermediate_size=128
    )


@pytest.fixture(scope="module")
def stored(plain, tmp_path_factory):
    """Folders of the checkpoint in each form, made once, and the weights that they stand for."""
    made = {}

    def of(form, dtype=torch.float32):
        if (form, dtype) in made:
            return made[form, dtype]
        folder = tmp_path_factory.mktemp("stored") / "model"
        if form in FORMS:
            kind, options = FORMS[form]
            with quiet():
                module = AutoModelForCausalLM.from_pretrained(
                    plain, dtype=dtype, quantization_config=TorchAoConfig(kind(**options))
                )
                module.save_pretrained(folder)
            for file in plain.glob("*token*"):
                (folder / file.name).write_bytes(file.read_bytes())
            meant = {n: meant_by(w.detach()) for n, w in module.state_dict().items()}
        else:
            meant = write_packed(plain, folder, form)
        made[form, dtype] = folder, meant
        return made[form, dtype]

    return of


def meant_by(weight):
    """The float32 numbers that one of torchao's tensors stands for, by its formula."""
    if not hasattr(weight, "qdata"):
        return weight.float()
    codes, scale, zero = (
        weight.qdata.float(),
        weight.scale.float(),
        getattr(weight, "zero_point", None),
    )
    each = [codes.shape[i] // scale.shape[i] for i in range(2)]
    wide = [
        torch.zeros(1) if held is None
        else held.float().repeat_interleave(each[0], 0).repeat_interleave(each[1], 1)
        for held in (zero, scale)
    ]  # fmt: skip
    return (codes - wide[0]) * wide[1]


def loaded(folder, **options):
    return load_model(resolve(str(folder)), head="causal_lm", **options)


def unpacked(plain, meant):
    """The same model with its weights expanded, as an ordinary one."""
    model = loaded(plain)
    model.module.load_state_dict(meant, strict=False)
    return model


def packed_tensors(module):
    """Copies of what the maps hold, under names that adapters around them leave alone."""
    around = ("base_layer", "quant_linear_module")
    return {
        ".".join(
            [*(word for word in name.split(".") if word not in around), str(place)]
        ): tensor.clone()
        for name, part in module.named_modules()
        if is_packed(part)
        for place, tensor in enumerate(
            inner for held in (*part.parameters(), *part.buffers()) for inner in unwrapped(held)
        )
    }


def same(before, now):
    return before.keys() == now.keys() and all(torch.equal(before[n], now[n]) for n in before)


def gradients(model, method):
    engine = Engine(model, method.parameter_groups(model))
    objective = OBJECTIVES.get("token_likelihood")()
    texts = batch(model)
    engine.forward_backward(texts, objective, objective.counts(texts))
    return {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}, engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", READERS)
def test_logits_are_those_of_the_weights_that_the_codes_stand_for(plain, stored, form, dtype):
    folder, meant = stored(form, dtype)
    model = loaded(folder)
    assert sum(map(is_packed, model.module.modules())) == 14
    expected = logits(unpacked(plain, meant).module)
    torch.testing.assert_close(logits(model.module), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", READERS)
def test_gradients_are_those_beside_the_expanded_weights(plain, stored, form):
    folder, meant = stored(form)
    model, reference = loaded(folder), unpacked(plain, meant)
    methods = [prepared(each, "rslora") for each in (model, reference)]
    of_reference = dict(reference.module.named_parameters())
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1, generator=generator)
            of_reference[name].data.copy_(parameter.data)
    ours, engine = gradients(model, methods[0])
    theirs, _ = gradients(reference, methods[1])
    assert engine.packed
    assert ours.keys() == theirs.keys()
    assert len(ours) == 28
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6)
    assert "14 expanded one by one" in engine.kernels["quantised maps"]
    assert "adapted layers" not in engine.kernels


@pytest.mark.parametrize("form", READERS)
def test_adapters_learn_the_packed_weights_stay_and_readers_give_the_same_logits(
    stored, tmp_path, form
):
    folder, _ = stored(form)
    model = loaded(folder)
    method = prepared(model, "rslora")
    before = packed_tensors(model.module)
    assert before
    learn(model, method)
    assert same(before, packed_tensors(model.module))
    method.save(model, tmp_path / "result")
    ours = logits(model.module)
    again = load_result(tmp_path / "result")
    torch.testing.assert_close(logits(again.module), ours, atol=1e-5, rtol=1e-5)
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5
    with quiet():
        reader = peft.AutoPeftModelForCausalLM.from_pretrained(
            tmp_path / "result", dtype=torch.float32
        )
        theirs = logits(reader)
    # Where its own products round inputs or compute in 16 bits, they differ by that.
    within = 1e-5 if form in ("int8", "int4") else 6e-2 * float(ours.abs().max())
    torch.testing.assert_close(ours, theirs, atol=within, rtol=1e-5)


NOT_BY_PEFT = set(itertools.product(("gptq", "awq"), ("dora", "ia3", "adalora")))
"""Kin of LoRA that PEFT does not put on maps in classes of gptqmodel's."""


@pytest.mark.parametrize("form", ["int8", *READERS[-2:]])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "pissa"])
def test_kin_of_lora_stand_on_it_or_say_why_not(stored, tmp_path, variant, form):
    folder, _ = stored(form)
    model = loaded(folder)
    before = packed_tensors(model.module)
    if (form, variant) in NOT_BY_PEFT:
        with pytest.raises(RecipeError, match="PEFT has no") as refused:
            prepared(model, variant)
        assert refused.value.fix
        return
    method = prepared(model, variant)
    learn(model, method)
    assert same(before, packed_tensors(model.module))
    method.save(model, tmp_path / "result")
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5


@pytest.mark.parametrize("form", ["int8", *READERS[-2:]])
def test_a_run_goes_on_exactly_and_says_how_the_base_is_stored(stored, tmp_path, form):
    folder, _ = stored(form)
    given = recipe(folder, tmp_path, base={})
    whole = api.train(given, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(3), pytest.raises(Interrupted):
        api.train(given, runs_dir=tmp_path, name="cut", console=SILENT)
    cut = api.resume(tmp_path / "cut", console=SILENT)
    saved = [load_file(run.path / "model" / "adapter_model.safetensors") for run in (whole, cut)]
    assert same(*saved)
    assert "14 linear maps are stored quantised" in whole.summary["technique_facts"]["Base"]
    assert "stored quantised in its files" in whole.report.read_text()


@pytest.mark.parametrize(
    ("form", "bytes_each"),
    [("int8", 1.0), *(pytest.param(n, 0.5, marks=pytest.mark.gptqmodel) for n in ("gptq", "awq"))],
)
def test_memory_counts_packed_weights_at_their_bytes(plain, stored, tmp_path, form, bytes_each):
    folder, _ = stored(form)
    model = loaded(folder)
    maps = [part for part in model.module.modules() if is_packed(part)]
    numbers = sum(part.in_features * part.out_features for part in maps)
    assert packed_bytes(model.module) == pytest.approx(numbers * bytes_each, rel=0.35)
    assert model.parameters == loaded(plain).parameters
    sizes = [
        prepare(parse_recipe(recipe(each, tmp_path, base={})), SILENT).memory.weights
        for each in (plain, folder)
    ]
    assert sizes[0] - sizes[1] == pytest.approx(numbers * 4 - packed_bytes(model.module), rel=0.02)
    largest = max(maps, key=lambda part: part.in_features * part.out_features)
    assert (
        expanded_bytes(model.module, torch.float32)
        >= expanded_weight(largest, torch.float32).nbytes
    )


def altered(stored, tmp_path, form="int8", **changes):
    """A copy of a stored checkpoint with another configuration."""
    folder = tmp_path / "altered"
    folder.mkdir()
    for file in stored(form)[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_what_would_change_a_packed_base_is_refused_before_it_is_loaded(
    stored, tmp_path, monkeypatch
):
    folder, _ = stored("int8")
    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.runs.build.load_model", None)
        for technique in ("full", "lisa", {"name": "lora", "initial": "pissa"}):
            given = parse_recipe(recipe(folder, tmp_path, technique=technique, base={}))
            with pytest.raises(RecipeError, match="cannot stand on a quantised base") as refused:
                prepare(given, SILENT)
            assert "lora" in refused.value.fix
    surgery = [{"name": "drop", "layers": [0]}]
    for more in ({"base": {"quantize": "nf4"}}, {"base": {}, "surgery": surgery}):
        with pytest.raises(ModelError, match="are quantised") as again:
            prepare(parse_recipe(recipe(folder, tmp_path, **more)), SILENT)
        assert "Choose the original model" in again.value.fix


def test_a_packed_weight_is_not_unfrozen(stored):
    model = loaded(stored("int8")[0])
    with pytest.raises(RecipeError, match="stored quantised cannot learn"):
        let_learn(model.module)


def test_a_form_that_this_device_cannot_expand_is_refused_by_name(stored):
    model = loaded(stored("int8")[0])
    part = model.module.get_submodule("model.layers.1.mlp.up_proj")
    codes = torch.zeros(128, 32, dtype=torch.uint8)
    scale, zero = torch.ones(4, 128), torch.zeros(4, 128)
    part.weight = nn.Parameter(
        Int4Tensor(codes, scale, zero, [1, 16], torch.Size([128, 64])), requires_grad=False
    )
    with pytest.raises(ModelError, match=r"Int4Tensor of model\.layers\.1.*this device") as refused:
        check_packed(model.source, model.module, model.anatomy)
    assert "base: {quantize: nf4}" in refused.value.fix


def test_embeddings_and_outputs_that_are_packed_are_refused_by_name(stored):
    model = loaded(stored("int8")[0])
    packed = model.module.get_submodule("model.layers.0.mlp.up_proj").weight
    model.module.lm_head.weight = packed
    with pytest.raises(ModelError, match="stores lm_head quantised") as refused:
        check_packed(model.source, model.module, model.anatomy)
    assert "vocabulary layer" in refused.value.fix


def test_scales_that_are_not_numbers_are_found(stored):
    model = loaded(stored("int8")[0])
    weight = model.module.get_submodule("model.layers.1.self_attn.q_proj").weight
    weight.scale[3] = torch.inf
    with pytest.raises(ModelError, match=r"not all finite numbers: model\.layers\.1.*q_proj"):
        check_finite(model.source, model.module)


def test_a_scale_of_inputs_is_part_of_the_expanded_weight(stored):
    part = loaded(stored("int8")[0]).module.get_submodule("model.layers.0.mlp.up_proj")
    plain_OD = expanded_weight(part, torch.float32)
    part.weight.act_pre_scale = torch.linspace(0.5, 2.0, 64)
    given = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    own = nn.functional.linear(given, part.weight)
    torch.testing.assert_close(given @ expanded_weight(part, torch.float32).T, own)
    assert not torch.equal(expanded_weight(part, torch.float32), plain_OD)


@pytest.mark.parametrize("form", READERS)
def test_what_a_document_gives_does_not_depend_on_its_neighbours(stored, form):
    engine = Engine(loaded(stored(form)[0]))
    rows = [list(range(10, 20)), list(range(40, 57))]
    examples = [Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows]
    together = engine.forward(collate(examples), TokenLogProbs).logprobs_N
    alone = [engine.forward(collate([each]), TokenLogProbs).logprobs_N for each in examples]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_reader_that_is_too_old_is_named_with_both_versions(stored, monkeypatch):
    monkeypatch.setattr("tunesmith.models.quantised.version", lambda name: "0.15.1")
    with pytest.raises(ModelError, match=r"torchao 0\.16 or newer; 0\.15\.1 is") as refused:
        loaded(stored("int8")[0])
    assert "tunesmith[torchao]" in refused.value.fix


def test_files_that_their_reader_cannot_read_are_refused_with_its_version(stored, tmp_path):
    folder = altered(stored, tmp_path, hidden_size=32)
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        loaded(folder)
    assert "torchao 0." in refused.value.fix


@pytest.mark.parametrize("form", ["int8", *READERS[-2:]])
def test_it_is_inspected_from_its_configuration_alone(stored, tmp_path, form):
    folder = altered(stored, tmp_path, form)
    (folder / "model.safetensors").unlink()
    command = [sys.executable, "-m", "tunesmith", "inspect", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["description"]["parameters"] == loaded(stored(form)[0]).parameters
    (found,) = [each for each in said["hazards"] if each["code"] == "stored_quantised"]
    assert found["level"] == "note"
    assert "tunesmith[" in found["fix"]
