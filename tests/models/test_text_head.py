"""A head of our own on a whole text: what it reads, what it learns, and who reads it again."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tests.acceptance.jobs import CLASSES, NUMBERS, RANKED, RELATED, SEVERAL, lines
from tests.interrupting import stopping_at
from tests.tiny import tiny_model_folder
from torch import nn

from tunesmith import api
from tunesmith.console import Console
from tunesmith.errors import RecipeError
from tunesmith.models.heads import FeatureHead, FeatureModel, pooled
from tunesmith.models.load import load_result
from tunesmith.recipes import parse_recipe
from tunesmith.runs.prepare import prepare
from tunesmith.training.guards import Interrupted

SILENT = Console(quiet=True)
POOLINGS = ("mean", "max", "weighted_mean", "cls", "last")
TEXTS = ["a painted wall is dry", "waves", "the court said so"]
RECORDS = {
    "classification": CLASSES,
    "multi_label": SEVERAL,
    "regression": NUMBERS,
    "reranking": RANKED,
    "embedding": RELATED,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of tiny models, made once."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = tiny_model_folder(tmp_path_factory.mktemp("base"), family)
        return made[family]

    return of


def recipe(folder, tmp_path, task="classification", technique="full", **options):
    (tmp_path / "train.jsonl").write_text(lines(RECORDS[task]))
    return {
        "model": str(folder),
        "task": task,
        "surgery": [{"name": "text_head", **options}],
        "data": {"train": str(tmp_path / "train.jsonl")},
        "technique": technique,
        "training": {
            "max_steps": 4, "batch_size": 4, "learning_rate": 0.01, "precision": "float32",
        },
        "evaluation": {"probe": False, "resamples": 100},
    }  # fmt: skip


@pytest.mark.parametrize("pooling", POOLINGS)
def test_documents_of_a_pack_are_pooled_as_sentence_transformers_pools_them(pooling):
    from sentence_transformers.models import Pooling

    theirs = {"last": "lasttoken", "weighted_mean": "weightedmean"}.get(pooling, pooling)
    lengths = [5, 1, 9]
    hidden_TD = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([0, *lengths]).cumsum(0)
    padded = nn.utils.rnn.pad_sequence(hidden_TD.split(lengths), batch_first=True)
    mask = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    expected = Pooling(8, pooling_mode=theirs)(
        {"token_embeddings": padded, "attention_mask": mask}
    )["sentence_embedding"]
    torch.testing.assert_close(pooled(hidden_TD, ends, pooling), expected)


@pytest.mark.parametrize(
    ("family", "technique"),
    [
        ("bert", "full"),
        ("llama", {"name": "layers", "last": 1}),
        ("distilbert", "lora"),
        ("gpt2", "ia3"),
        pytest.param("gpt2", "full", marks=pytest.mark.slow),
        pytest.param("roberta", "lora", marks=pytest.mark.slow),
        pytest.param("deberta-v2", {"name": "lora", "initial": "pissa"}, marks=pytest.mark.slow),
        pytest.param("llama", "oft", marks=pytest.mark.slow),
    ],
)
def test_it_learns_and_sentence_transformers_gives_its_outputs(bases, tmp_path, family, technique):
    given = recipe(
        bases(family), tmp_path, technique=technique, pooling="max", width=16, initial="random"
    )
    run = api.train(given, runs_dir=tmp_path, name="run", console=SILENT)
    model = load_result(run.path / "model")
    assert isinstance(model.module, FeatureModel)
    assert (model.module.head.pooling, model.module.head.dense.out_features) == ("max", 16)
    trained = prepare(parse_recipe(given), SILENT).model.module.head.state_dict()
    assert any(
        not torch.equal(tensor, trained[name])
        for name, tensor in model.module.head.state_dict().items()
    )
    reader = SentenceTransformer(str(run.path / "model"), device="cpu", local_files_only=True)
    theirs = torch.from_numpy(reader.encode(TEXTS)).softmax(-1)
    names = [model.module.config.id2label[i] for i in range(theirs.shape[1])]
    ours = [[prediction.probabilities[name] for name in names] for prediction in run.predict(TEXTS)]
    torch.testing.assert_close(torch.tensor(ours), theirs.double(), check_dtype=False, atol=1e-4,
                               rtol=1e-4)  # fmt: skip
    assert "A head of our own: pooled by max" in run.report.read_text()


@pytest.mark.parametrize("task", ["multi_label", "regression", "reranking"])
def test_other_tasks_of_whole_texts_take_it(bases, tmp_path, task):
    given = recipe(bases("bert"), tmp_path, task, technique="lora", pooling="mean", width=8)
    run = api.train(given, runs_dir=tmp_path, name="run", console=SILENT)
    model = load_result(run.path / "model")
    assert model.module.head.pooling == "mean"
    assert "pooled by mean, a hidden layer of 8" in run.report.read_text()


@pytest.mark.parametrize("technique", ["full", "lora"])
def test_vectors_are_pooled_otherwise(bases, tmp_path, technique):
    given = recipe(bases("bert"), tmp_path, "embedding", technique, pooling="weighted_mean")
    run = api.train(given, runs_dir=tmp_path, name="run", console=SILENT)
    model = load_result(run.path / "model")
    assert model.pooling == "weighted_mean"
    stated = json.loads((run.path / "model" / "1_Pooling" / "config.json").read_text())
    assert stated["pooling_mode_weightedmean_tokens"]
    reader = SentenceTransformer(str(run.path / "model"), device="cpu", local_files_only=True)
    theirs = torch.from_numpy(reader.encode(TEXTS, normalize_embeddings=True))
    ours = torch.tensor([prediction.vector for prediction in run.predict(TEXTS)])
    ours = nn.functional.normalize(ours, dim=1)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-4, rtol=1e-4)


def test_loss_and_gradients_are_those_of_the_formula(bases, tmp_path):
    given = recipe(bases("bert"), tmp_path, pooling="mean", width=16, initial="random")
    run = prepare(parse_recipe(given), SILENT)
    step = run.plan()[0]
    (batch,) = step.batches
    losses, _ = run.engine.forward_backward(batch, run.objective, step.counts)
    found = {n: p.grad.clone() for n, p in run.engine.optimizer.parameters.items()
             if p.grad is not None}  # fmt: skip
    run.model.module.zero_grad()
    module = run.model.module
    rows = batch.text.ids_T.split(batch.text.lengths)
    vectors = torch.stack([module.body(input_ids=ids[None])[0][0].mean(0) for ids in rows])
    outputs = module.head.linear(torch.relu(module.head.dense(vectors)))
    loss = nn.functional.cross_entropy(outputs, batch.labels)
    loss.backward()
    assert sum(losses.values()) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_dropout_stands_before_each_map_while_it_learns():
    torch.manual_seed(0)
    head = FeatureHead(8, 3, "mean", 16, dropout=0.5, zero=False)
    rows = torch.randn(4, 8)
    assert not torch.equal(head.train().outputs(rows), head.outputs(rows))
    plain = head.linear(torch.relu(head.dense(rows)))
    assert torch.equal(head.eval().outputs(rows), plain)


def test_a_run_goes_on_exactly(bases, tmp_path):
    given = recipe(bases("bert"), tmp_path, technique="lora", pooling="max", width=8, dropout=0.2)
    whole = api.train(given, runs_dir=tmp_path, name="whole", console=SILENT)
    with stopping_at(3), pytest.raises(Interrupted):
        api.train(given, runs_dir=tmp_path, name="cut", console=SILENT)
    cut = api.resume(tmp_path / "cut", console=SILENT)
    one, other = (load_result(run.path / "model").module.state_dict() for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("task", "technique", "options", "reason"),
    [
        ("classification", "repurpose", {}, "brings a head of its own"),
        ("classification", "vera", {}, "sentence-transformers cannot load its adapters"),
        ("classification", {"name": "lora", "dora": True}, {}, "leaves out what `dora` learns"),
        ("embedding", {"name": "lora", "dora": True}, {}, "leaves out what `dora` learns"),
        ("classification", "prompt_tuning", {}, "sentence-transformers cannot load its adapters"),
        ("embedding", "full", {"width": 8}, "vectors themselves"),
    ],
)
def test_what_cannot_go_together_is_refused(bases, tmp_path, task, technique, options, reason):
    given = recipe(bases("bert"), tmp_path, task, technique, **options)
    with pytest.raises(RecipeError, match=reason):
        prepare(parse_recipe(given), SILENT)


def test_heads_that_speak_of_tokens_stay_as_they_are(bases, tmp_path):
    given = recipe(bases("llama"), tmp_path)
    (tmp_path / "train.jsonl").write_text(lines([{"text": f"{i} is {i}"} for i in range(20)]))
    with pytest.raises(RecipeError, match="does not speak of whole texts"):
        prepare(parse_recipe({**given, "task": "language_modeling"}), SILENT)


@pytest.mark.parametrize(
    "operations",
    [
        [{"name": "text_head", "width": 8}, {"name": "text_head", "pooling": "max"}],
        [{"name": "text_head", "pooling": "mean"}, {"name": "text_head", "pooling": "max"}],
        [{"name": "attention", "implementation": name} for name in ("eager", "sdpa")],
    ],
)
def test_a_second_one_in_the_place_of_the_first_is_refused(bases, tmp_path, operations):
    given = recipe(bases("bert"), tmp_path) | {"surgery": operations}
    with pytest.raises(RecipeError, match=f"surgery.{operations[0]['name']}: It is named twice"):
        prepare(parse_recipe(given), SILENT)


def test_the_pooling_of_vectors_is_not_changed_twice(bases, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(
        lines([{"anchor": f"one {i}", "positive": f"uno {i}"} for i in range(12)])
    )
    poolings = [{"name": "text_head", "pooling": pooling} for pooling in ("mean", "max")]
    given = recipe(bases("bert"), tmp_path) | {
        "task": "embedding", "surgery": poolings, "data": {"train": str(tmp_path / "pairs.jsonl")}
    }  # fmt: skip
    with pytest.raises(RecipeError, match="text_head: It is named twice"):
        prepare(parse_recipe(given), SILENT)
