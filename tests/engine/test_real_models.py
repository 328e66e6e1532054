"""The packaged models: loss and gradients of one batch equal transformers' own, in float32.

Thirty layers deep, float32 itself is not exact to 1e-5: transformers' own float32 gradients lie up
to 2.4e-5 from its float64 ones. So the measure is float64: ours may be no further from it than
transformers' float32, or 1e-5 where that is larger. Tiny models hold 1e-5 (`test_equality.py`).
"""

import pytest
import torch
from tests.engine.test_equality import gradients, learn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tunesmith.data.batch import Encoded, EncodedStream
from tunesmith.engine.engine import Engine
from tunesmith.models.load import load_model
from tunesmith.models.resolve import resolve
from tunesmith.objectives.classes import Classes
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

TEXTS = [
    "Tunesmith fine-tunes a language model.",
    "The difference is measured on records that it did not learn from, and an interval says how"
    " sure one may be.",
    "No.",
]


def examples(tokenizer) -> list[Encoded]:
    found = []
    for label, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        weights = tuple(float(place >= 2) for place in range(len(ids)))
        found.append(Encoded({"text": EncodedStream(tuple(ids), weights)}, label=label % 2))
    return found


def padded(tokenizer, rows):
    longest = max(len(row.streams["text"].ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, row in enumerate(rows):
        stream = row.streams["text"]
        size = len(stream.ids)
        ids[place, :size] = torch.tensor(stream.ids)
        mask[place, :size] = 1
        labels[place, 2:size] = torch.tensor(stream.ids[2:])
    return ids, mask, labels


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("accumulate", [False, True])
def test_smollm2_equals_automodelforcausallm(smollm2_path, packing, accumulate):
    model = load_model(resolve(str(smollm2_path)), head="causal_lm")
    rows = examples(model.tokenizer)
    engine = Engine(
        model,
        [ParameterGroup({n: p.requires_grad_() for n, p in model.module.named_parameters()})],
        packing=packing,
    )
    found = learn(engine, TokenLikelihood(), [rows[:1], rows[1:]] if accumulate else [rows])
    assert_as_exact(found, lambda dtype: _stock_tokens(smollm2_path, model, rows, dtype))


def _stock_tokens(path, model, rows, dtype):
    stock = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    ids, mask, labels = padded(model.tokenizer, rows)
    loss = stock(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return float(loss.detach()), _named(stock)


def assert_as_exact(found, stock):
    """Ours is no further from float64 than transformers' float32 is."""
    (loss, ours), (_, theirs), (truth_loss, truth) = (
        found,
        stock(torch.float32),
        stock(torch.float64),
    )
    assert loss == pytest.approx(truth_loss, rel=1e-5)

    def errors(grads):
        return {n: float((grads[n].double() - g).norm() / g.norm()) for n, g in truth.items()}

    bound = max(1e-5, 1.5 * max(errors(theirs).values()))
    worst = max(errors(ours).items(), key=lambda pair: pair[1])
    assert worst[1] <= bound, (worst, bound)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("which", ["minilm_path", "smollm2_path"])
def test_the_classifier_equals_automodelforsequenceclassification(which, packing, request):
    path = request.getfixturevalue(which)
    model = load_model(resolve(str(path)), head="classification", labels=("a", "b"))
    for module in model.module.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = examples(model.tokenizer)
    engine = Engine(
        model,
        [ParameterGroup({n: p.requires_grad_() for n, p in model.module.named_parameters()})],
        packing=packing,
    )
    found = learn(engine, Classes(), [rows])
    assert_as_exact(found, lambda dtype: _stock_classes(path, model, rows, dtype))


def _stock_classes(path, model, rows, dtype):
    stock = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2, dtype=dtype)
    stock.load_state_dict(model.module.state_dict())
    stock.config.pad_token_id = 0
    stock.eval()
    ids, mask, _ = padded(model.tokenizer, rows)
    labels = torch.tensor([row.label for row in rows])
    loss = stock(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return float(loss.detach()), _named(stock)


def _named(module) -> dict[str, torch.Tensor]:
    class Holder:
        pass

    holder = Holder()
    holder.module = module
    return gradients(holder)
