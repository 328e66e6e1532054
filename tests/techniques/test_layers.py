"""Which layers and parameters learn: by number, by name, by kind, or found by what they score."""

import json

import pytest
import torch
from pydantic import ValidationError
from tests.acceptance.jobs import ANSWERS, lines, recipe
from tests.tiny import DECODERS, ENCODERS, tiny_bert, tiny_llama, tiny_model, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.errors import RecipeError
from tunesmith.models.layer_scores import GradientStatistics, spectrum
from tunesmith.models.seeded import seeded
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.study import study_records


def technique(name="layers", **options):
    kind = TECHNIQUES.get(name)
    return kind(kind.Options(**options))


def prepared(model, **options):
    method = technique(**options)
    with seeded(0):
        method.prepare(model)
    return method


def of_family(family):
    if family in DECODERS:
        return tiny_model(family)
    return tiny_model(family, "classification", ("a", "b"))


def learning(model):
    return {name for name, p in model.module.named_parameters() if p.requires_grad}


def texts(count=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(10, 90, (7,), generator=generator).tolist() for _ in range(count)]
    return [Encoded({"text": EncodedStream(tuple(r), (1.0,) * len(r))}) for r in rows]


def studied(model, examples, **options):
    method = technique(**options)
    study_records(method, model, TokenLikelihood(), examples, dtype=torch.float32, seed=0)
    return method


# By kind


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "opt"])
def test_bitfit_learns_every_bias_of_the_layers_and_the_head(family):
    model = tiny_model(family, "classification", ("a", "b"))
    prepared(model, only="biases", final_norm=False)
    layers = tuple(f"{layer.name}." for layer in model.anatomy.layers)
    heads = tuple(f"{name}." for name in model.anatomy.task_modules)
    names = {name for name, _ in model.module.named_parameters()}
    biases = {name for name in names if name.startswith(layers) and name.endswith("bias")}
    assert learning(model) == biases | {name for name in names if name.startswith(heads)}


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_norms_alone_can_learn_in_every_family(family):
    model = of_family(family)
    prepared(model, only="norms")
    norms = tuple(f"{norm}." for norm in model.anatomy.norms)
    heads = tuple(f"{name}." for name in model.anatomy.task_modules)
    assert learning(model)
    assert all(name.startswith((*norms, *heads)) for name in learning(model))


def test_biases_and_norms_are_both():
    both, biases, norms = (tiny_bert() for _ in range(3))
    prepared(both, only="biases_and_norms")
    prepared(biases, only="biases")
    prepared(norms, only="norms")
    assert learning(both) == learning(biases) | learning(norms)


def test_biases_of_the_last_layer_alone_can_learn():
    model = tiny_bert()
    prepared(model, only="biases", last=1)
    assert not any(".layer.0." in name for name in learning(model))


def test_a_model_without_biases_says_so():
    with pytest.raises(RecipeError, match=r"no biases that could learn.*norms"):
        prepared(tiny_llama(), only="biases")


# By name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["layers.0"], "model.layers.0."),
        (["*norm*"], "norm"),
        (["q_proj"], "q_proj"),
        (["model.layers.1.mlp.up_proj.weight"], "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_parameters_are_named_by_patterns(names, expected):
    model = tiny_llama()
    prepared(model, names=names)
    everything = {name for name, _ in model.module.named_parameters()}
    assert learning(model) == {name for name in everything if expected in name}


def test_a_pattern_that_names_nothing_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"called 'q_prj'.* Did you mean 'q_proj'\?"):
        prepared(tiny_llama(), names=["q_prj"])


@pytest.mark.parametrize("pair", [{"last": 1, "find": "fisher"}, {"names": ["a"], "layers": [0]}])
def test_two_ways_to_choose_contradict_each_other(pair):
    with pytest.raises(ValidationError, match="not both"):
        TECHNIQUES.get("layers").Options(**pair)


# Found


def test_signal_to_noise_and_fisher_are_what_single_gradients_say():
    model, examples = tiny_llama(), texts(8)
    method = studied(model, examples, find="gradient", count=1, records=8)
    halves = []
    model = tiny_llama()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    for half in (order[:4], order[4:]):
        for parameter in model.module.parameters():
            parameter.grad = None
        total = 0.0
        for place in half:
            ids = torch.tensor([examples[place].streams["text"].ids])
            scores = model.module(input_ids=ids).logits[0, :-1].log_softmax(-1)
            total = total - scores.gather(-1, ids[0, 1:, None]).sum()
        (total / (4 * 6)).backward()
        halves.append(
            [
                torch.cat([p.grad.flatten() for p in layer.parameters()])
                for layer in model.module.model.layers
            ]
        )
    expected = []
    for one, other in zip(*halves, strict=True):
        signal = ((one + other) / 2).square().sum()
        expected.append(float(signal / ((one.square() + other.square()).sum() / 2 - signal)))
    assert method.state()["scores"] == pytest.approx(expected, rel=1e-3)
    fisher = studied(tiny_llama(), examples, find="fisher", count=1, records=8)
    expected = [
        float((one.square() + other.square()).sum() / 2 / len(one))
        for one, other in zip(*halves, strict=True)
    ]
    assert fisher.state()["scores"] == pytest.approx(expected, rel=1e-3)


def test_the_layer_whose_gradients_agree_is_found():
    model = tiny_llama(num_hidden_layers=3)
    statistics = GradientStatistics(model.module, model.anatomy)
    generator = torch.Generator().manual_seed(0)
    with statistics.learning():
        for _ in range(6):
            for number, layer in enumerate(model.module.model.layers):
                for parameter in layer.parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.grad = noise + (2.0 if number == 1 else 0.0)
            statistics.observe()
    method = technique(find="gradient", count=1)
    method.study(statistics)
    method.prepare(model)
    assert {n.split(".")[2] for n in learning(model) if ".layers." in n} == {"1"}


def test_a_layer_of_few_directions_scores_higher_by_spectrum_than_one_of_noise():
    model = tiny_llama(num_hidden_layers=2)
    generator = torch.Generator().manual_seed(0)
    for part in model.module.model.layers[1].modules():
        if isinstance(part, torch.nn.Linear):
            left = torch.randn(part.weight.shape[0], 2, generator=generator)
            right = torch.randn(2, part.weight.shape[1], generator=generator)
            part.weight.data = part.weight.data * 0.1 + left @ right
    noise, signal = spectrum(model.module, model.anatomy)
    assert signal > 2 * noise
    method = prepared(model, find="spectrum", count=1)
    assert method.state()["chosen"] == [1]
    assert {n.split(".")[2] for n in learning(model) if ".layers." in n} == {"1"}


@pytest.mark.parametrize("find", ["gradient", "fisher"])
def test_looking_at_records_moves_and_marks_nothing(find):
    model = tiny_llama()
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    studied(model, texts(), find=find, count=1)
    assert learning(model) == set()
    assert all(p.grad is None for p in model.module.parameters())
    assert all(torch.equal(p, before[name]) for name, p in model.module.named_parameters())
    assert not model.module.training


def test_too_few_records_are_refused():
    with pytest.raises(RecipeError, match=r"8 training records are needed.* there are 3"):
        studied(tiny_llama(), texts(3), find="gradient")


def test_more_layers_than_there_are_cannot_be_found():
    with pytest.raises(RecipeError, match=r"3 layers are to be found, but the model has 2"):
        prepared(tiny_llama(), find="spectrum", count=3)


def test_a_choice_that_is_known_is_not_made_again():
    method = technique(find="gradient", count=1)
    method.load_state({"by": "gradient", "scores": [0.5, 0.1], "chosen": [0]})
    assert method.records_to_study == 0
    model = tiny_llama()
    method.prepare(model)
    assert {n.split(".")[2] for n in learning(model) if ".layers." in n} == {"0"}


def test_record_and_report_say_what_was_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    (tmp_path / "train.jsonl").write_text(lines(ANSWERS))
    model = tiny_model_folder(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        recipe(model=model, technique="{name: layers, find: gradient, count: 1, records: 16}")
    )
    run = api.train(tmp_path / "recipe.yaml", console=Console(quiet=True))
    found = json.loads((run.path / "record.json").read_text())["technique"]
    assert len(found["scores"]) == 2
    assert len(found["chosen"]) == 1
    page = (run.path / "report.html").read_text()
    assert f"{found['chosen'][0]} of 2, found by the signal-to-noise ratio" in page
    assert f"0: {found['scores'][0]:.3g}, 1: {found['scores'][1]:.3g}" in page


# Rates by depth


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "opt"])
def test_lower_layers_learn_more_slowly(family):
    model = of_family(family)
    method = technique("full", layer_decay=0.5)
    method.prepare(model)
    rates = {
        name: group.learning_rate_scale
        for group in method.parameter_groups(model)
        for name in group.parameters
    }
    assert rates.keys() == learning(model)
    top, bottom = model.anatomy.layers[1].name, model.anatomy.layers[0].name
    assert {rate for name, rate in rates.items() if name.startswith(f"{top}.")} == {0.5}
    assert {rate for name, rate in rates.items() if name.startswith(f"{bottom}.")} == {0.25}
    assert {r for n, r in rates.items() if n.startswith(f"{model.anatomy.embeddings}.")} == {0.125}
    behind = (*model.anatomy.task_modules, *model.anatomy.final_norms)
    assert {r for n, r in rates.items() if n.startswith(tuple(f"{b}." for b in behind))} <= {1.0}
    decays = {
        name: group.weight_decay
        for group in method.parameter_groups(model)
        for name in group.parameters
    }
    vectors = {name for name, p in model.module.named_parameters() if p.ndim < 2}
    assert {name for name, decay in decays.items() if decay == 0.0} == vectors
