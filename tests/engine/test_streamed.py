"""A base that lies on disk and is read a layer at a time: the same bits in a part of the memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from tests.techniques.test_adapters import IDS, LABELS, VARIANTS, batch, logits, prepared
from tests.tiny import DECODERS, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.engine.checkpointing import Checkpointed
from tunesmith.engine.engine import Engine
from tunesmith.engine.generation import Sampling
from tunesmith.errors import ModelError, RecipeError
from tunesmith.models.learning import freeze
from tunesmith.models.load import load_model, load_result
from tunesmith.models.quiet import quiet
from tunesmith.models.resolve import resolve
from tunesmith.models.saving import verify_saved
from tunesmith.models.seeded import seeded
from tunesmith.recipes import parse_recipe
from tunesmith.registry import OBJECTIVES, TECHNIQUES
from tunesmith.runs.prepare import prepare
from tunesmith.training.memory import Memory

SILENT = Console(quiet=True)
STANDING = [variant for variant in VARIANTS if variant != "pissa"]


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of tiny models of four layers, made once."""
    made = {}

    def of(family):
        if family not in made:
            depth = {} if family == "distilbert" else {"num_hidden_layers": 4}
            made[family] = tiny_model_folder(
                tmp_path_factory.mktemp("base"), family, dropout=0.1, **depth
            )
        return made[family]

    return of


def learnt(folder, family, variant, *, streamed, dtype=torch.float32, again=0):
    """Take three steps; return the model, the losses and all that learns, with its moments."""
    head = "causal_lm" if family in DECODERS else "classification"
    labels = () if head == "causal_lm" else LABELS
    model = load_model(
        resolve(str(folder)), head=head, labels=labels, dtype=dtype, streamed=streamed
    )
    method = prepared(model, variant, **({"dropout": 0.1} if variant == "rslora" else {}))
    if streamed:
        model.streamed.check_unchanged()
    engine = Engine(model, method.parameter_groups(model), dtype=dtype)
    engine.checkpoints.choose(Checkpointed(again))
    objective = OBJECTIVES.get("classes" if model.anatomy.head else "token_likelihood")()
    texts, losses = batch(model), []
    with seeded(5):
        for _ in range(3):
            found, _ = engine.forward_backward(texts, objective, objective.counts(texts))
            losses.append(found)
            engine.optimizer_step(0.01)
    return engine, method, losses


def assert_same(found, expected):
    (ours, _, our_losses), (theirs, _, their_losses) = found, expected
    assert our_losses == their_losses
    assert ours.kernels == theirs.kernels
    state, other = ours.state_dict(), theirs.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize(
    ("family", "dtype", "again"),
    [
        ("llama", torch.float32, 0),
        ("llama", torch.float32, 4),
        ("llama", torch.bfloat16, 0),
        ("gpt2", torch.float32, 0),
        ("qwen2", torch.bfloat16, 2),
        ("bert", torch.float32, 0),
    ],
)
def test_losses_and_weights_equal_those_of_the_resident_run_bit_for_bit(
    bases, family, dtype, again
):
    runs = [
        learnt(bases(family), family, "rslora", streamed=streamed, dtype=dtype, again=again)
        for streamed in (True, False)
    ]
    assert_same(*runs)


@pytest.mark.parametrize("variant", [v for v in STANDING if v != "rslora"])
def test_kin_of_lora_learn_the_same_bits(bases, variant):
    runs = [
        learnt(bases("llama"), "llama", variant, streamed=streamed) for streamed in (True, False)
    ]
    assert_same(*runs)


def test_answers_are_the_same(bases):
    sampling = Sampling(max_new_tokens=6, stop_ids=())
    told = []
    for streamed in (True, False):
        model = load_model(resolve(str(bases("llama"))), head="causal_lm", streamed=streamed)
        told.append([g.ids for g in Engine(model).generate([IDS, IDS[:3]], sampling)])
    assert told[0] == told[1]


def test_what_was_learnt_is_read_by_peft_and_by_ourselves(bases, tmp_path):
    engine, method, _ = learnt(bases("llama"), "llama", "rslora", streamed=True)
    method.save(engine.model, tmp_path / "result")
    ours = logits(engine.model.module)
    again = load_result(tmp_path / "result")
    assert again.streamed is not None
    torch.testing.assert_close(logits(again.module), ours, atol=1e-5, rtol=1e-5)
    assert verify_saved(engine.model, tmp_path / "result", IDS) < 1e-6
    with quiet():
        reader = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "result")
    torch.testing.assert_close(logits(reader), ours, atol=1e-5, rtol=1e-5)


def test_memory_counts_two_layers_and_what_is_outside_of_them(bases):
    model = load_model(resolve(str(bases("llama"))), head="causal_lm", streamed=True)
    method = prepared(model, "rslora")
    layers = model.streamed.layer_bytes
    assert model.streamed.window_bytes == layers[0] + layers[1]
    outside = sum(p.nbytes for p in model.module.parameters() if not model.streamed.holds(p))
    memory = Memory(Engine(model, method.parameter_groups(model)))
    assert outside < memory._weights - model.streamed.window_bytes < outside + 10_000


RECIPE = {
    "task": {"name": "instruct", "max_new_tokens": 3},
    "technique": {"name": "lora", "rank": 2},
    "training": {"max_steps": 3, "batch_size": 4, "learning_rate": 0.01, "precision": "float32"},
    "evaluation": {"generate": 2, "probe": False, "resamples": 100},
}


def recipe(folder, tmp_path, **more):
    rows = [{"prompt": f"Say {i}", "completion": f"It is {i}"} for i in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"train": str(tmp_path / "train.jsonl")}
    return {**RECIPE, "model": str(folder), "data": data, "base": {"stream": True}, **more}


def test_a_whole_run_ends_in_the_same_bits(bases, tmp_path):
    given = recipe(bases("llama"), tmp_path)
    streamed = api.train(given, runs_dir=tmp_path, name="streamed", console=SILENT)
    resident = api.train(given | {"base": {}}, runs_dir=tmp_path, name="resident", console=SILENT)
    saved = [
        load_file(run.path / "model" / "adapter_model.safetensors") for run in (streamed, resident)
    ]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[1])
    assert streamed.metrics["metrics"] == resident.metrics["metrics"]
    assert "on disk" in streamed.summary["technique_facts"]["Base"]
    assert streamed.engine("base").model.streamed is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"technique": "full"}, "cannot stand on a base that lies on disk"),
        ({"technique": "layers"}, "cannot stand on a base that lies on disk"),
        ({"technique": {"name": "lora", "initial": "pissa"}}, "takes a part out"),
        ({"base": {"stream": True, "quantize": "nf4"}}, "choose one of the two"),
    ],
)
def test_what_would_change_the_base_is_refused(bases, tmp_path, changes, reason):
    with pytest.raises(RecipeError, match=reason):
        prepare(parse_recipe(recipe(bases("llama"), tmp_path, **changes)), SILENT)


def test_a_weight_that_would_learn_is_noticed(bases):
    model = load_model(resolve(str(bases("llama"))), head="causal_lm", streamed=True)
    freeze(model.module)
    next(model.module.get_submodule("model.layers.2").parameters()).requires_grad_(True)
    with pytest.raises(RecipeError, match=r"Weights of model\.layers\.2 would change"):
        model.streamed.check_unchanged()


def test_every_technique_that_stands_on_it_leaves_it_as_it_is(bases, tmp_path):
    for member in TECHNIQUES:
        if member(member.Options()).changes_base() is None:
            given = recipe(bases("llama"), tmp_path, technique=member.name)
            prepare(parse_recipe(given), SILENT).model.streamed.check_unchanged()


def test_a_weight_that_is_no_number_is_found_when_it_is_put_on_disk(tmp_path):
    folder = tiny_model_folder(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    from safetensors.torch import save_file

    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not all finite"):
        load_model(resolve(str(folder)), head="causal_lm", streamed=True)


MEASURED = """
import sys
import torch
from tests.engine.test_streamed import peak, learnt
from tunesmith.models.resolve import resolve

torch.set_num_threads(1)
began = peak(reset=True)
engine, _, _ = learnt(sys.argv[1], "llama", "lora+", streamed=True, again=24)
weights = sum(p.nbytes for p in engine.model.module.parameters())
print(peak() - began, weights)
"""


def peak(reset=False):
    """The most memory that this process has held (since it was last reset), in bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.slow
def test_the_peak_is_far_below_the_weights(tmp_path):
    folder = tiny_model_folder(
        tmp_path, "llama", hidden_size=512, intermediate_size=1536, num_hidden_layers=24,
        num_attention_heads=8,
    )  # fmt: skip
    said = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    taken, weights = map(int, said.stdout.split())
    assert weights > 250e6
    assert taken < weights / 2
