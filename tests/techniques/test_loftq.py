"""LoftQ: adapters that begin with what quantising took from the base."""

import json

import peft
import pytest
import torch
from peft.utils.loftq_utils import _low_rank_decomposition
from safetensors.torch import load_file
from tests.interrupting import stopping_at
from tests.techniques.test_adapters import IDS, LABELS, learn, logits
from tests.techniques.test_quantised import loaded, recipe, settings, stored
from tests.tiny import DECODERS
from transformers import AutoModelForCausalLM

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import RecipeError
from tunesmith.models.adapters import without_adapter
from tunesmith.models.load import load_model, load_result
from tunesmith.models.loftq import factors, stored_weight
from tunesmith.models.quantised import Quantised
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.recipes import parse_recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.prepare import prepare
from tunesmith.training.guards import Interrupted

KINDS = ("int8", "nf4")
FAMILIES = ("llama", "gpt2", "opt", "bert")
SILENT = Console(quiet=True)


def prepared(model, **options):
    kind = TECHNIQUES.get("lora")
    method = kind(kind.Options(**{"initial": "loftq", **options}))
    with seeded(0):
        method.prepare(model)
    return method


def published(folder, family):
    head = "causal_lm" if family in DECODERS else "classification"
    labels = () if head == "causal_lm" else LABELS
    return load_model(resolve(str(folder)), head=head, labels=labels)


def distance(model, whole):
    return float((logits(model.module) - logits(whole.module)).norm())


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_factors_are_as_near_as_any_of_their_rank_and_equal_pefts(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    b, a = factors(matrix, 5)
    theirs = _low_rank_decomposition(matrix, 5)
    torch.testing.assert_close(b @ a, theirs["L"] @ theirs["R"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b.norm(dim=0), a.norm(dim=1))
    whole_b, whole_a = factors(matrix, 99)
    torch.testing.assert_close(whole_b @ whole_a, matrix, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_nearer_to_the_published_model_than_with_nothing(bases, family, kind):
    whole = published(bases(family), family)
    model = loaded(bases(family), family, kind)
    before = stored(model)
    nothing = distance(model, whole)
    assert not prepared(model, rank=16).begins_as_base
    assert distance(model, whole) < 0.9 * nothing
    with without_adapter(model):
        assert distance(model, whole) == pytest.approx(nothing, rel=1e-5)
    now = {name.replace("base_layer.", ""): tensor for name, tensor in stored(model).items()}
    assert before
    assert all(torch.equal(tensor, now[name]) for name, tensor in before.items())


@pytest.mark.parametrize("options", [{}, {"rank_stabilized": True}, {"dora": True}, {"alpha": 3.0}])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_all_ranks_it_is_the_published_model(bases, family, options):
    whole, model = published(bases(family), family), loaded(bases(family), family, "nf4")
    prepared(model, rank=64, **options)
    torch.testing.assert_close(logits(model.module), logits(whole.module), atol=1e-4, rtol=1e-4)


def test_what_is_stored_is_expanded_as_it_is_multiplied(bases):
    for kind in KINDS:
        model = loaded(bases("llama"), "llama", kind)
        part = model.module.get_submodule("model.layers.0.mlp.up_proj")
        given = torch.eye(part.in_features)
        torch.testing.assert_close(part(given).T, stored_weight(part), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_peft_gives_the_same_logits(bases, tmp_path, kind):
    model = loaded(bases("llama"), "llama", kind)
    method = prepared(model, rank=4)
    begun = logits(model.module)
    learn(model, method)
    method.save(model, tmp_path / "result")
    ours = logits(model.module)
    assert not torch.allclose(ours, begun, atol=1e-4)
    with quiet():
        reader = peft.AutoPeftModelForCausalLM.from_pretrained(
            tmp_path / "result", dtype=torch.float32, quantization_config=settings(kind)
        )
    # In evaluation, bitsandbytes rounds the inputs of 8-bit maps, too.
    within = 1e-5 if kind == "nf4" else 0.1 * float(ours.abs().max())
    torch.testing.assert_close(logits(reader)[:, -len(IDS) :], ours, atol=within, rtol=1e-5)
    again = load_result(tmp_path / "result")
    torch.testing.assert_close(logits(again.module), ours, atol=1e-5, rtol=1e-5)
    assert verify_saved(model, tmp_path / "result", IDS) < 1e-5


def test_a_base_that_is_not_quantised_here_is_refused(bases, tmp_path):
    lora = {"name": "lora", "rank": 2, "initial": "loftq"}
    whole = recipe(bases("llama"), tmp_path, technique=lora, base={})
    with pytest.raises(RecipeError, match="this base is not quantised") as refused:
        prepare(parse_recipe(whole), SILENT)
    assert refused.value.where == "technique.initial"
    assert "base.quantize" in refused.value.fix

    folder = tmp_path / "stored"
    with quiet():
        AutoModelForCausalLM.from_pretrained(
            bases("llama"), dtype=torch.float32, quantization_config=settings("nf4")
        ).save_pretrained(folder)
    for file in bases("llama").glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(RecipeError, match="this base was stored without it"):
        prepare(parse_recipe(recipe(folder, tmp_path, technique=lora, base={})), SILENT)


def test_a_run_goes_on_exactly_and_is_measured_against_the_base_alone(bases, tmp_path):
    lora = {"name": "lora", "rank": 2, "initial": "loftq"}
    given = recipe(bases("llama"), tmp_path, technique=lora)
    plain = api.train(recipe(bases("llama"), tmp_path), runs_dir=tmp_path, console=SILENT)
    whole = api.train(given, runs_dir=tmp_path, name="whole", console=SILENT)
    figures = [
        json.loads((run.path / "evaluation" / "metrics.json").read_text())["metrics"]
        for run in (plain, whole)
    ]
    before = [{name: metric["before"] for name, metric in each.items()} for each in figures]
    assert before[0] == before[1]

    with stopping_at(3), pytest.raises(Interrupted):
        api.train(given, runs_dir=tmp_path, name="cut", console=SILENT)
    cut = api.resume(tmp_path / "cut", console=SILENT)
    saved = [load_file(run.path / "model" / "adapter_model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.real_model
@pytest.mark.slow
def test_smollm2_begins_nearer_to_itself(smollm2_path):
    text = "The court held that the contract was void, since nothing had been given for it."
    said = {}
    for name, quantised, options in (
        ("whole", None, None),
        ("nothing", Quantised("nf4"), None),
        ("loftq", Quantised("nf4"), {"rank": 16}),
    ):
        model = load_model(resolve(str(smollm2_path)), head="causal_lm", quantised=quantised)
        if options:
            prepared(model, **options)
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            said[name] = model.module.eval()(input_ids=ids).logits[0].float().log_softmax(-1)
    apart = {
        name: float((said["whole"].exp() * (said["whole"] - said[name])).sum(-1).mean())
        for name in ("nothing", "loftq")
    }
    assert apart["loftq"] < 0.95 * apart["nothing"], apart
