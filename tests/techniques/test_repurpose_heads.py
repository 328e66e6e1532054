"""The heads of `repurpose`: equal to their formulas and to scikit-learn, of any layer, reloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from tests.acceptance.jobs import CLASSES, lines
from tests.interrupting import state, train_and_kill
from tests.tiny import LAYERS, tiny_model, tiny_model_folder

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import RecipeError
from tunesmith.models.heads import FeatureHead
from tunesmith.models.logistic import Samples
from tunesmith.models.ridge import fit_ridge, fit_ridge_numbers
from tunesmith.models.seeded import seeded
from tunesmith.recipes.load import parse_recipe
from tunesmith.registry import TECHNIQUES
from tunesmith.runs.prepare import prepare

SILENT = Console(quiet=True)
HEADS = ("logistic", "ridge", "linear", "mlp")


def separable(classes: int, count: int = 90, noise: float = 0.3) -> tuple[Any, Any]:
    """Features around one centre a class, on scales that differ a thousandfold."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, 32, generator=generator)
    features = centres[labels] + noise * torch.randn(count, 32, generator=generator)
    return features * torch.logspace(-2, 1, 32) + 5, labels


def prepared(model: Any, **options: Any) -> Any:
    kind = TECHNIQUES.get("repurpose")
    method = kind(kind.Options(**options))
    with seeded(0):
        method.prepare(model)
    return method


# Ridge


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [0.01, 10.0])
def test_ridge_is_scikit_learns_but_for_one_scale(classes, strength):
    samples = Samples.of(*separable(classes, noise=2.0))
    fitted = fit_ridge(samples, classes=classes, strength=strength)
    scaled = StandardScaler().fit_transform(samples.features_BD)
    targets = 2.0 * np.eye(classes)[samples.labels_B] - 1.0
    expected = Ridge(alpha=1 / strength).fit(scaled, targets)
    ours = samples.features_BD @ fitted.weight_CD.T + fitted.bias_C
    theirs = expected.predict(scaled)
    scale = (ours * theirs).sum() / (theirs**2).sum()
    np.testing.assert_allclose(ours, scale * theirs, rtol=1e-6, atol=1e-8)
    assert scale > 0
    named = RidgeClassifier(alpha=1 / strength).fit(scaled, samples.labels_B).predict(scaled)
    assert (ours.argmax(-1) == named).all()


def test_the_scale_of_ridge_makes_held_out_records_likeliest():
    features, labels = separable(3, noise=2.0)
    train, held_out = (Samples.of(features[at], labels[at]) for at in (slice(60), slice(60, 90)))
    fitted = fit_ridge(train, classes=3, held_out=held_out, strength=1.0)

    def loss(factor: float) -> float:
        logits = factor * (held_out.features_BD @ fitted.weight_CD.T + fitted.bias_C)
        return float(
            torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(held_out.labels_B))
        )

    assert loss(1.0) < min(loss(0.9), loss(1.1))


def test_ridge_is_held_back_where_the_features_say_nothing():
    noise = torch.randn(90, 32, generator=torch.Generator().manual_seed(1))
    nothing = fit_ridge(Samples.of(noise, torch.arange(90) % 2), classes=2)
    clear = fit_ridge(Samples.of(*separable(2)), classes=2)
    assert nothing.strength < clear.strength
    assert nothing.loss < np.log(2) + 0.01


def test_ridge_fits_numbers_as_scikit_learn_does():
    features, labels = separable(3, noise=2.0)
    numbers = labels.double() * 2 + features[:, 3].double()
    samples = Samples.of(features, numbers)
    fitted = fit_ridge_numbers(samples, strength=0.1)
    scaled = StandardScaler().fit_transform(samples.features_BD)
    expected = Ridge(alpha=10.0).fit(scaled, samples.labels_B)
    ours = (samples.features_BD @ fitted.weight_CD.T + fitted.bias_C)[:, 0]
    np.testing.assert_allclose(ours, expected.predict(scaled), rtol=1e-8)
    assert fitted.loss == pytest.approx(((ours - samples.labels_B) ** 2).mean())
    noise = torch.randn(90, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert (
        fit_ridge_numbers(samples).strength
        > fit_ridge_numbers(Samples.of(features, noise)).strength
    )


# A network of one hidden layer


def test_an_mlp_is_its_formula_and_scikit_learns():
    features, labels = separable(3)
    scaled = StandardScaler().fit_transform(features.numpy())
    fitted = MLPClassifier(hidden_layer_sizes=(7,), max_iter=300, tol=1e-2, random_state=0).fit(
        scaled, labels
    )
    head = FeatureHead(32, 3, "mean", width=7)
    with torch.no_grad():
        for (linear, _), weight, bias in zip(
            head.maps, fitted.coefs_, fitted.intercepts_, strict=True
        ):
            linear.weight.copy_(torch.tensor(weight.T))
            linear.bias.copy_(torch.tensor(bias))
        outputs = head.outputs(torch.tensor(scaled))
        first, last = (linear for linear, _ in head.maps)
        hidden = torch.tensor(scaled).float() @ first.weight.T + first.bias
        by_hand = hidden.clamp(min=0) @ last.weight.T + last.bias
    torch.testing.assert_close(outputs, by_hand)
    expected = torch.tensor(fitted.predict_proba(scaled)).float()
    torch.testing.assert_close(outputs.softmax(-1), expected)


@pytest.mark.parametrize(("head", "names"), [("linear", {"linear"}), ("mlp", {"dense", "linear"})])
def test_of_a_head_that_learns_by_steps_nothing_else_learns(head, names):
    model = tiny_model("bert", "features", ("a", "b"))
    method = prepared(model, head=head, **({"width": 5} if head == "mlp" else {}))
    assert method.solver is None
    learning = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert learning == {f"head.{name}.{kind}" for name in names for kind in ("weight", "bias")}
    if head == "mlp":
        assert model.module.head.dense.out_features == 5


# The layer


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "gpt2", "gemma3"])
def test_features_are_those_of_the_layer(family):
    model = tiny_model(family, "features", ("a", "b"))
    ids = torch.tensor([[7, 8, 9, 10]])
    with torch.no_grad():
        states = model.body(input_ids=ids, output_hidden_states=True).hidden_states
        prepared(model, layer=0)
        found = model.body(input_ids=ids)[0]
    norm = getattr(model.body, "norm", None) or getattr(model.body, "ln_f", None)
    expected = states[1] if norm is None else norm(states[1])
    torch.testing.assert_close(found, expected)
    assert len(model.anatomy.layers) == 1
    assert model.body.config.num_hidden_layers == 1


def test_the_last_layer_is_the_model_as_it_is_and_another_is_refused():
    for layer in (-1, LAYERS - 1):
        model = tiny_model("bert", "features", ("a", "b"))
        prepared(model, layer=layer)
        assert len(model.anatomy.layers) == LAYERS
    with pytest.raises(RecipeError, match=f"no layer {LAYERS}"):
        prepared(tiny_model("bert", "features", ("a", "b")), layer=LAYERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "mlp", "strength": 1.0}, "mlp learns by steps"),
        ({"head": "ridge", "width": 8}, "ridge has no hidden units"),
        ({"head": "forest"}, "head"),
    ],
)
def test_options_of_other_heads_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        TECHNIQUES.get("repurpose").Options(**options)


# Whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for family in ("bert", "llama"):
        tiny_model_folder(folder, family)
    (folder / "classes.jsonl").write_text(lines(CLASSES))
    return folder


def recipe(folder: Path, family: str, **options: Any) -> dict[str, Any]:
    return {
        "model": str(folder / f"tiny-{family}-0"),
        "task": "classification",
        "data": {"train": str(folder / "classes.jsonl")},
        "technique": {"name": "repurpose", **options},
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 0.02, "precision": "float32"},
        "evaluation": {"probe": False, "resamples": 100},
    }


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tunesmith.runs.train.write_report", lambda path: None)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_of_a_lower_layer_answers_alike_to_every_reader(head, family, folder):
    width = {"width": 6} if head == "mlp" else {}
    run = api.train(recipe(folder, family, head=head, layer=0, **width), console=SILENT)
    texts = ["The apple was fine 0", "The river was poor 1", "Cloud"]
    reader = SentenceTransformer(str(run.path / "model"), device="cpu")
    theirs = torch.tensor(reader.encode(texts)).softmax(-1)
    ours = [list(answer.probabilities.values()) for answer in run.predict(texts)]
    torch.testing.assert_close(theirs, torch.tensor(ours), rtol=1e-4, atol=1e-5)
    maps = sorted(path.name for path in (run.path / "model").glob("*_Dense"))
    assert maps == ["2_Dense", "3_Dense"][: 1 + (head == "mlp")]
    assert json.loads((run.path / "model" / "config.json").read_text())["num_hidden_layers"] == 1
    again = api.evaluate(run, console=SILENT)
    for name, row in run.metrics["metrics"].items():
        for when in ("before", "after"):
            assert again.metrics["metrics"][name][when] == pytest.approx(row[when], rel=1e-4), name


@pytest.mark.parametrize(
    ("task", "head"),
    [("regression", "ridge"), ("regression", "mlp"), ("multi_label", "linear")],
)
def test_numbers_and_several_classes_are_learnt_too(task, head, folder, tmp_path):
    rows = [
        {"text": row["text"], "score": float(row["label"] == "good")}
        if task == "regression"
        else {"text": row["text"], "labels": [row["label"], "any"][: 1 + i % 2]}
        for i, row in enumerate(CLASSES)
    ]
    (tmp_path / "rows.jsonl").write_text(lines(rows))
    made = recipe(folder, "bert", head=head) | {"task": task}
    made["data"] = {"train": str(tmp_path / "rows.jsonl")}
    run = api.train(made, console=SILENT)
    answer = run.predict(["The apple was fine 0"])[0]
    reader = SentenceTransformer(str(run.path / "model"), device="cpu")
    theirs = torch.tensor(reader.encode(["The apple was fine 0"]))[0]
    if task == "regression":
        assert answer.score == pytest.approx(float(theirs[0]), rel=1e-4, abs=1e-5)
    else:
        ours = torch.tensor(list(answer.probabilities.values()))
        torch.testing.assert_close(theirs.sigmoid(), ours, rtol=1e-4, atol=1e-5)
    again = api.evaluate(run, console=SILENT)
    for name, row in run.metrics["metrics"].items():
        found = again.metrics["metrics"][name]["after"]
        assert found == pytest.approx(row["after"], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("task", "head", "said"),
    [
        ("multi_label", "ridge", "names one class a text; choose linear or mlp"),
        ("regression", "logistic", "choose ridge, linear or mlp"),
    ],
)
def test_a_head_that_does_not_suit_the_task_is_refused_with_those_that_do(task, head, said, folder):
    made = recipe(folder, "bert", head=head) | {"task": task}
    rows = [{"text": row["text"], "score": 1.0 * i, "labels": [row["label"]]}
            for i, row in enumerate(CLASSES)]  # fmt: skip
    wanted = "score" if task == "regression" else "labels"
    file = folder / f"{task}.jsonl"
    file.write_text(lines([{"text": row["text"], wanted: row[wanted]} for row in rows]))
    made["data"] = {"train": str(file)}
    with pytest.raises(RecipeError, match=said):
        prepare(parse_recipe(made), SILENT)


@pytest.mark.parametrize(
    ("needed", "solved"), [("classification", True), ("regression", True), ("multi_label", False)]
)
def test_without_a_name_the_head_is_one_that_suits_the_task(needed, solved):
    kind = TECHNIQUES.get("repurpose")
    method = kind(kind.Options(), needed)
    assert method.unsuited(needed) is None
    assert (method.solver is method) == solved


def test_a_strength_goes_with_no_head_that_learns_by_steps():
    kind = TECHNIQUES.get("repurpose")
    assert "learns by steps" in kind(kind.Options(strength=1.0)).unsuited("multi_label")
    assert kind(kind.Options(strength=1.0)).unsuited("regression") is None


def test_the_features_are_computed_once_for_all_heads(folder, monkeypatch):
    computed = []
    from tunesmith.engine.engine import Engine

    stock = Engine.frozen_rows
    monkeypatch.setattr(
        Engine, "frozen_rows", lambda *given: computed.append(len(given[1])) or stock(*given)
    )
    api.train(recipe(folder, "bert", head="mlp"), console=SILENT)
    assert sum(computed) >= len(CLASSES)
    computed.clear()
    for head in ("linear", "ridge", "logistic"):
        api.train(recipe(folder, "bert", head=head), console=SILENT)
    assert sum(computed) == 0


def test_a_head_that_learns_by_steps_gets_better_and_is_gone_on_with(folder):
    made = recipe(folder, "bert", head="mlp", width=6)
    made["training"]["checkpoint_every"] = 1
    whole = api.train(made, console=SILENT)
    losses = [json.loads(line)["loss"] for line in (whole.path / "events.jsonl").open()]
    assert losses[-1] < losses[0]
    train_and_kill(made, at=5)
    assert state(api.resume("killed", console=SILENT).path) == state(whole.path)
    base = load_file(folder / "tiny-bert-0" / "model.safetensors")
    saved = load_file(whole.path / "model" / "model.safetensors")
    kept = {name.removeprefix("bert."): tensor for name, tensor in base.items()}
    assert all(torch.equal(tensor, kept[name]) for name, tensor in saved.items() if name in kept)
