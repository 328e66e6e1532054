"""With rows of a frozen prefix put in its place, loss, gradients and readouts are the same."""

from pathlib import Path

import pytest
import torch
from tests.engine.test_equality import assert_same, documents, learn
from tests.engine.test_prefix import FAMILIES, objective_of, prefix_engine
from tests.tiny import ENCODERS

from tunesmith.data.batch import Encoded, EncodedStream, collate
from tunesmith.engine.batching import batches
from tunesmith.engine.engine import Engine
from tunesmith.engine.kept_rows import Kept, digests, open_rows, write_rows
from tunesmith.engine.prefix import layers_of
from tunesmith.models.seeded import seeded
from tunesmith.objectives.base import Features, Hidden, Pooled, TokenLogProbs

JOBS = {
    "text": {"head": "causal_lm"},
    "classes": {"head": "classification"},
    "head alone": {"head": "classification", "last": 0, "final_norm": False},
    "features": {"head": "features", "technique": "repurpose"},
}
CASES = [
    (family, job)
    for family in FAMILIES
    for job in JOBS
    if not (job == "text" and family in ENCODERS)
    if not (job == "classes" and family not in ("llama", *ENCODERS))
]


def keep(engine: Engine, examples: list[Encoded], place: Path) -> None:
    """Write the rows of some examples, in batches of other compositions than those that learn."""
    per = "document" if engine.prefix.whole and engine.model.anatomy.head else "token"

    def blocks():
        for batch in batches(examples, 40, engine.packed):
            counts = batch.text.lengths if per == "token" else [1] * len(batch)
            yield digests(batch.text), counts, engine.frozen_rows(batch, per)

    write_rows(place, {}, blocks())
    rows = open_rows(place)
    assert rows is not None
    engine.kept = Kept(per, [rows])


def count_frozen_layers(engine: Engine) -> list[str]:
    """Note each time that something in a frozen layer is computed."""
    computed: list[str] = []
    for layer in layers_of(engine.model)[: engine.prefix.layers]:
        for part in layer.children():
            part.register_forward_pre_hook(lambda module, given: computed.append(str(module)))
    return computed


def readouts(engine: Engine) -> torch.Tensor:
    kind = objective_of(engine).readout
    found = [engine.forward(batch, kind) for batch in batches(documents(), 60, engine.packed)]
    return torch.cat([r.outputs_BC if kind is Pooled else r.logprobs_N for r in found])


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("family", "job"), CASES)
def test_loss_gradients_and_readouts_are_those_without_kept_rows(family, job, packing, tmp_path):
    engine = prefix_engine(family, packing=packing, **JOBS[job])
    objective, groups = objective_of(engine), [documents()[1:3], documents()[3:], documents()[:1]]
    loss, gradients = learn(engine, objective, groups)
    expected = readouts(engine)
    assert engine.refuses_rows() is None
    keep(engine, documents(), tmp_path / "rows")
    computed = count_frozen_layers(engine)
    found_loss, found = learn(engine, objective, groups)
    torch.testing.assert_close(readouts(engine), expected, rtol=1e-5, atol=1e-6)
    assert not computed
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == gradients.keys()
    assert_same((found_loss, found), (loss, gradients))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_rows_computed_in_the_same_batch_give_the_same_bits(family, tmp_path):
    engine = prefix_engine(family, head="classification")
    (batch,) = batches(documents(), 1000, engine.packed)
    expected = engine.forward(batch, Pooled).outputs_BC
    rows = engine.frozen_rows(batch, "token")
    write_rows(tmp_path / "rows", {}, [(digests(batch.text), batch.text.lengths, rows)])
    engine.kept = Kept("token", [open_rows(tmp_path / "rows")])
    assert torch.equal(engine.forward(batch, Pooled).outputs_BC, expected)


def test_dropout_above_the_prefix_is_the_same_with_rows(tmp_path):
    engine = prefix_engine("bert", dropout=0.3)
    results = []
    for _ in range(2):
        with seeded(5):
            results.append(learn(engine, objective_of(engine), [documents()]))
        keep(engine, documents(), tmp_path / "rows")
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)


def test_a_document_without_rows_is_computed(tmp_path):
    engine = prefix_engine("llama")
    keep(engine, documents()[:3], tmp_path / "rows")
    computed = count_frozen_layers(engine)
    engine.forward(collate(documents()[:3]), TokenLogProbs)
    assert not computed
    batch = collate(documents())
    found = engine.forward(batch, TokenLogProbs).logprobs_N
    assert computed
    engine.kept = None
    torch.testing.assert_close(found, engine.forward(batch, TokenLogProbs).logprobs_N)


def test_rows_of_documents_do_not_stand_for_every_hidden_state(tmp_path):
    engine = prefix_engine("bert", "repurpose", head="features")
    batch = collate(documents())
    expected = engine.forward(batch, Hidden).hidden_TD
    keep(engine, documents(), tmp_path / "rows")
    assert engine.kept.per == "document"
    assert torch.equal(engine.forward(batch, Hidden).hidden_TD, expected)
    assert engine.forward(batch, Features).features_BD.shape == (5, 32)


def test_documents_that_begin_alike_share_the_layers_above_the_rows(tmp_path):
    head = tuple(range(20, 40))
    alike = [
        Encoded({"text": EncodedStream((*head, *range(50, 53 + n)), (1.0,) * (23 + n))}, n % 3)
        for n in range(4)
    ]
    engine = prefix_engine("llama")
    batch = collate(alike)
    expected = engine.forward(batch, TokenLogProbs).logprobs_N
    keep(engine, alike, tmp_path / "rows")
    sizes: list[int] = []
    layers_of(engine.model)[-1].register_forward_pre_hook(
        lambda module, given: sizes.append(given[0].shape[1])
    )
    torch.testing.assert_close(engine.forward(batch, TokenLogProbs).logprobs_N, expected)
    assert sizes == [20 + 6]


def test_a_body_that_drops_below_what_learns_is_not_continued():
    engine = prefix_engine("llama")
    body = engine.model.body
    stock = body.embed_tokens.forward
    body.embed_tokens.forward = lambda ids: torch.nn.functional.dropout(
        stock(ids), 0.5, training=body.training
    )
    assert "dropped at random" in engine.refuses_rows()


def test_a_layer_that_hands_on_more_than_a_hidden_state_is_not_passed_over():
    engine = prefix_engine("llama")
    first, last = layers_of(engine.model)
    handed: list[torch.Tensor] = []
    engine.model.body.register_forward_pre_hook(lambda module, given: handed.clear())
    mlp, stock = first.mlp.forward, last.forward
    first.mlp.forward = lambda hidden: handed.append(hidden) or mlp(hidden)
    last.forward = lambda hidden, **given: stock(hidden + handed.pop(), **given)
    assert "more than one tensor" in engine.refuses_rows()
