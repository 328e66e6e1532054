"""Each technique marks what it says, in float32, and refuses what it cannot do."""

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from tests.tiny import DECODERS, ENCODERS, tiny_bert, tiny_llama, tiny_model

from tunesmith.errors import DataError, RecipeError
from tunesmith.models.heads import document_rows
from tunesmith.models.logistic import Samples, fit_logistic
from tunesmith.models.seeded import seeded
from tunesmith.registry import TECHNIQUES


def prepared(model, technique, seed=0, **options):
    kind = TECHNIQUES.get(technique)
    method = kind(kind.Options(**options))
    with seeded(seed):
        method.prepare(model)
    return method


def learning(model):
    return {name for name, p in model.module.named_parameters() if p.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.module(input_ids=torch.tensor([[7, 8, 9, 10]])).logits


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_before_the_first_step_nothing_has_changed(technique, family):
    model = tiny_model(family, "classification", ("a", "b"))
    before = logits(model)
    prepared(model, technique)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", *ENCODERS])
def test_everything_that_learns_gets_a_gradient(technique, family):
    model = tiny_model(family, "classification", ("a", "b"))
    prepared(model, technique)
    for name, parameter in model.module.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    ids = torch.tensor([[7, 8, 9, 10]])
    model.module(input_ids=ids, labels=torch.tensor([1])).loss.backward()
    unused = {
        name
        for name, parameter in model.module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    }
    assert unused == set()


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
@pytest.mark.parametrize("family", ENCODERS)
def test_a_classification_head_always_learns(technique, family):
    model = tiny_model(family, "classification", ("a", "b"))
    heads = [model.module.get_submodule(name) for name in model.anatomy.task_modules]
    expected = sum(p.numel() for head in heads for p in head.parameters())
    prepared(model, technique)
    learnt = {
        name: p
        for name, p in model.module.named_parameters()
        if p.requires_grad and any(f"{part}." in name for part in model.anatomy.task_modules)
    }
    assert sum(p.numel() for p in learnt.values()) == expected


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
def test_what_learns_is_float32_on_a_bfloat16_base(technique):
    model = tiny_bert(dtype=torch.bfloat16)
    prepared(model, technique)
    parameters = list(model.module.parameters())
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
    if technique != "full":
        assert {p.dtype for p in parameters if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("technique", ["full", "layers", "lora"])
def test_biases_and_norms_are_not_decayed(technique):
    model = tiny_model("gpt2", "classification", ("a", "b"))
    method = prepared(model, technique)
    decayed, kept = method.parameter_groups(model)
    assert kept.weight_decay == 0.0
    assert all(p.ndim < 2 for p in kept.parameters.values())
    assert all(p.ndim >= 2 for p in decayed.parameters.values())
    assert decayed.parameters.keys() | kept.parameters.keys() == learning(model)


def test_full_learns_everything():
    model = tiny_llama()
    prepared(model, "full")
    assert learning(model) == {name for name, _ in model.module.named_parameters()}


def test_full_without_embeddings_keeps_what_is_tied_to_them():
    model = tiny_model("gpt2")
    prepared(model, "full", embeddings=False)
    assert not model.output_weight_VD.requires_grad
    everything = {name for name, _ in model.module.named_parameters()}
    assert everything - learning(model) == {"transformer.wte.weight"}


def test_layers_learns_the_last_ones_and_the_norm_behind_them():
    model = tiny_llama(num_hidden_layers=3)
    prepared(model, "layers", last=1)
    assert {name.split(".")[2] for name in learning(model) if ".layers." in name} == {"2"}
    assert learning(model) >= {"model.norm.weight"}
    assert not learning(model) & {"model.embed_tokens.weight", "lm_head.weight"}


def test_layers_learns_those_that_are_listed():
    model = tiny_llama(num_hidden_layers=4)
    prepared(model, "layers", layers=[0, 2], final_norm=False)
    assert {name.split(".")[2] for name in learning(model)} == {"0", "2"}


def test_layers_can_learn_the_vocabulary_layer():
    model = tiny_llama()
    prepared(model, "layers", last=1, output=True)
    assert "lm_head.weight" in learning(model)


def test_layers_learns_the_last_two_unless_told_otherwise():
    assert TECHNIQUES.get("layers").Options().last == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 3}, r"last 3 layers .* the model has 2.* Give 1 to 2"),
        ({"layers": [1, 2]}, r"no layer 2: .* numbers from 0 to 1"),
    ],
)
def test_layers_that_the_model_lacks_are_an_error(options, message):
    with pytest.raises(RecipeError, match=message):
        prepared(tiny_llama(), "layers", **options)


def test_a_classifier_has_no_vocabulary_layer_to_learn():
    with pytest.raises(RecipeError, match="no vocabulary layer"):
        prepared(tiny_bert(), "layers", output=True)


def test_last_and_layers_contradict_each_other():
    with pytest.raises(ValidationError, match="not both"):
        TECHNIQUES.get("layers").Options(last=1, layers=[0])


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_lora_adapts_every_linear_map_of_the_layers(family):
    model = tiny_model(family, "classification", ("a", "b"))
    linears = {name for layer in model.anatomy.layers for name in layer.linears}
    prepared(model, "lora", rank=4)
    adapted = {name.split(".lora_A.")[0] for name in learning(model) if ".lora_A." in name}
    assert adapted == linears


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (["q_proj"], {"self_attn.q_proj"}),
        (["mlp.up_proj", "v_proj"], {"mlp.up_proj", "self_attn.v_proj"}),
        (["model.layers.0.self_attn.q_proj"], {"self_attn.q_proj"}),
    ],
)
def test_lora_adapts_those_that_are_named(targets, adapted):
    model = tiny_llama()
    prepared(model, "lora", targets=targets)
    names = {name.split(".lora_")[0] for name in learning(model)}
    assert {name.split(".", 3)[3] for name in names} == adapted
    assert len(names) == (1 if len(targets[0]) > 20 else 2 * len(targets))


def test_lora_names_its_targets_as_readers_expect_them():
    model = tiny_llama()
    prepared(model, "lora")
    assert model.peft.peft_config["default"].target_modules == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_an_unknown_target_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"called 'q_prj'.* Did you mean 'q_proj'\?"):
        prepared(tiny_llama(), "lora", targets=["q_prj"])


def test_lora_starts_from_its_seed_alone():
    def start(seed, drawn):
        torch.randn(drawn)
        model = tiny_llama()
        prepared(model, "lora", seed=seed)
        return dict(model.module.named_parameters())[
            "model.layers.0.self_attn.q_proj.lora_A.default.weight"
        ]

    assert torch.equal(start(1, 0), start(1, 9))
    assert not torch.equal(start(1, 0), start(2, 0))


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"rank": 4}, 2.0),
        ({"rank": 4, "alpha": 4.0}, 1.0),
        ({"rank": 4, "alpha": 4.0, "rank_stabilized": True}, 2.0),
    ],
)
def test_lora_scales_its_adapters(options, factor):
    model = tiny_llama()
    prepared(model, "lora", **options)
    adapted = model.module.get_submodule("model.layers.0.self_attn.q_proj")
    assert adapted.scaling["default"] == factor


def test_lora_applies_dropout_in_training():
    model = tiny_llama()
    prepared(model, "lora", dropout=0.5)
    adapted = model.module.get_submodule("model.layers.0.self_attn.q_proj")
    assert adapted.lora_dropout["default"].p == 0.5


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_without_a_layer_the_head_of_the_task_learns_alone(family):
    model = tiny_model(family, "classification", ("a", "b"))
    prepared(model, "layers", last=0, final_norm=False)
    heads = tuple(f"{name}." for name in model.anatomy.task_modules)
    assert learning(model)
    assert all(name.startswith(heads) for name in learning(model))


def test_without_a_layer_and_a_head_nothing_would_learn():
    with pytest.raises(RecipeError, match="Nothing would learn"):
        prepared(tiny_llama(), "layers", last=0, final_norm=False)


def test_lora_can_learn_biases():
    model = tiny_model("gpt2")
    prepared(model, "lora", bias="all", targets=["c_fc"])
    assert "transformer.h.0.ln_1.bias" in learning(model)


def test_a_switched_off_adapter_gives_the_base_back():
    model = tiny_llama()
    before = logits(model)
    prepared(model, "lora")
    for name, parameter in model.module.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(logits(model), before)
    with model.peft.disable_adapter():
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("technique", "options"),
    [
        ("lora", {"rank": 0}),
        ("lora", {"rank": 5000}),
        ("lora", {"alpha": float("nan")}),
        ("lora", {"dropout": 1.0}),
        ("lora", {"targets": []}),
        ("lora", {"targets": "all_linear"}),
        ("lora", {"ranks": 3}),
        ("layers", {"layers": [-1]}),
        ("layers", {"last": -1}),
        ("full", {"embedding": False}),
        ("repurpose", {"pooling": "max"}),
        ("repurpose", {"strength": 0}),
    ],
)
def test_options_out_of_bounds_are_refused(technique, options):
    with pytest.raises(ValidationError):
        TECHNIQUES.get(technique).Options(**options)


@pytest.mark.parametrize("technique", TECHNIQUES.names())
def test_every_option_says_what_it_is(technique):
    fields = TECHNIQUES.get(technique).Options.model_fields
    assert all(field.description for field in fields.values())


def test_repurpose_refuses_to_write_text():
    assert "writes nothing" in TECHNIQUES.get("repurpose").refuses("causal_lm", "decoder")
    assert TECHNIQUES.get("repurpose").refuses("classification", "encoder") is None
    assert TECHNIQUES.get("repurpose")().head("classification") == "features"


def test_techniques_are_found_and_configured_without_torch():
    code = (
        "import sys; from tunesmith.registry import TECHNIQUES\n"
        "for technique in TECHNIQUES: technique.Options()\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def separable(classes, count=90, noise=0.3):
    """Features around one centre a class, on scales that differ a thousandfold."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, 32, generator=generator)
    features = centres[labels] + noise * torch.randn(count, 32, generator=generator)
    return features * torch.logspace(-2, 1, 32) + 5, labels


@pytest.mark.parametrize("classes", [2, 3])
def test_repurpose_learns_to_tell_classes_apart(classes):
    labels = tuple("abc"[:classes])
    model = tiny_model("bert", "features", labels)
    method = prepared(model, "repurpose")
    assert learning(model) == {"head.linear.weight", "head.linear.bias"}
    features, targets = separable(classes)
    found = method.fit(model, features[:60], targets[:60], (features[60:], targets[60:]))
    predicted = model.module.head.linear(features[60:]).argmax(-1)
    assert (predicted == targets[60:]).float().mean() > 0.95
    assert found["loss"] < 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_the_folded_map_gives_the_probabilities_of_the_fit(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features, labels = separable(classes, noise=2.0)
    samples = Samples.of(features, labels)
    fitted = fit_logistic(samples, classes=classes, strength=0.1)
    scaled = StandardScaler().fit_transform(samples.features_BD)
    expected = LogisticRegression(C=0.1, max_iter=2000, tol=1e-5).fit(scaled, samples.labels_B)
    ours = torch.tensor(samples.features_BD @ fitted.weight_CD.T + fitted.bias_C).softmax(-1)
    torch.testing.assert_close(ours, torch.tensor(expected.predict_proba(scaled)))


def test_a_stronger_penalty_is_chosen_where_the_features_say_nothing():
    noise = torch.randn(90, 32, generator=torch.Generator().manual_seed(1))
    nothing = fit_logistic(Samples.of(noise, torch.arange(90) % 2), classes=2)
    clear = fit_logistic(Samples.of(*separable(2)), classes=2)
    assert nothing.strength < clear.strength


def test_folds_depend_on_the_seed_alone():
    samples = Samples.of(*separable(3, noise=2.0))
    first, again = (fit_logistic(samples, classes=3, seed=4) for _ in range(2))
    assert (first.weight_CD == again.weight_CD).all()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_repurpose_pools_as_it_is_told(pooling):
    model = tiny_model("bert", "features", ("a", "b"))
    prepared(model, "repurpose", pooling=pooling)
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    pooled = document_rows(model, hidden, torch.tensor([0, 4, 6]))
    expected = {"mean": hidden[4:].mean(0), "cls": hidden[4], "last": hidden[5]}[pooling]
    torch.testing.assert_close(pooled[1], expected)


def test_a_class_without_records_is_an_error():
    features, labels = separable(2)
    with pytest.raises(DataError, match="1 of 3 classes have no training record"):
        fit_logistic(Samples.of(features, labels), classes=3)


def test_a_constant_feature_does_no_harm():
    features, labels = separable(2)
    features[:, 0] = 1.0
    fitted = fit_logistic(Samples.of(features, labels), classes=2)
    assert torch.tensor(fitted.weight_CD).isfinite().all()
