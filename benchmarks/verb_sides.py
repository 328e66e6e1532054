"""Both sides of `verbs.py`: a step in Tunesmith's verbs, and the same one as it is usually written.

    side(kind, name) ──> step(groups, seed) ──> loss

The usual way is transformers and PEFT, padded batches and PyTorch's operations; `single` takes one
group at a time and adds gradients up. Both compute in float32, with LoRA of rank 16 on SmolLM2 or
all weights of an encoder-decoder, and update by AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from benchmarks.verb_work import ON_PAIRS, Text, configuration, flat
from torch import Tensor
from torch.nn.functional import logsigmoid

import tunesmith
from tunesmith.console import Console
from tunesmith.data.batch import Batch, Encoded, EncodedStream, collate
from tunesmith.engine.engine import Engine
from tunesmith.engine.optimizer import AdamWOptions
from tunesmith.models.anatomy import study
from tunesmith.models.model import Model
from tunesmith.models.resolve import Resolved, resolve
from tunesmith.objectives.base import Objective, Term, TokenLogProbs
from tunesmith.objectives.token_likelihood import TokenLikelihood
from tunesmith.techniques.base import ParameterGroup

RATE, BETA, RANK = 1e-4, 0.1, 16
SMALL = "smollm2-135m-instruct"
SIDES = ("tunesmith", "padded", "single")
Step = Callable[[list[list[Text]]], float]


def side(kind: str, name: str) -> Step:
    """Return how this side makes one step of this kind of work."""
    torch.manual_seed(0)
    if name == "tunesmith":
        return _ours_of_pairs(kind) if kind in ON_PAIRS else _ours(kind)
    return _usual(kind, single=name == "single")


class _Preference(Objective):
    """-log sigmoid(beta * (how much more the better answer gained than the worse one)), summed."""

    name = "benchmark_preference"
    readout = TokenLogProbs

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"preference": len(batch) / 2}

    def loss(self, readout: TokenLogProbs, batch: Batch) -> dict[str, Term]:
        before = self._engine.forward(batch, TokenLogProbs, adapter="off")
        gained_B = _by_document(readout, batch) - _by_document(before, batch)
        margin = BETA * (gained_B[::2] - gained_B[1::2])
        return {"preference": Term(-logsigmoid(margin).sum(), len(batch) / 2)}


class _PolicyGradient(Objective):
    """Minus advantage times log-probability, summed: the weights are known before the pass."""

    name = "benchmark_policy_gradient"
    readout = TokenLogProbs

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"gain": float((_weights(batch) != 0).sum())}

    def token_weights(self, batch: Batch) -> Tensor:
        weights_T = _weights(batch)
        return weights_T[weights_T != 0]

    def loss(self, readout: TokenLogProbs, batch: Batch) -> dict[str, Term]:
        assert readout.total is not None
        return {"gain": Term(readout.total, self.counts(batch)["gain"])}


def _weights(batch: Batch) -> Tensor:
    assert batch.text.weights_T is not None
    return batch.text.weights_T


def _by_document(readout: TokenLogProbs, batch: Batch) -> Tensor:
    place_N = torch.searchsorted(batch.text.cu_seqlens, readout.rows_N, right=True) - 1
    return readout.logprobs_N.new_zeros(len(batch)).index_add(0, place_N, readout.logprobs_N)


def _ours(kind: str) -> Step:
    engine, _ = tunesmith.load(SMALL, technique={"name": "lora", "rank": RANK})
    objective = _Preference(engine) if kind == "preferences" else _PolicyGradient()
    return lambda groups: _learn(engine, objective, collate([_encoded(t) for t in flat(groups)]))


def _encoded(text: Text) -> Encoded:
    weights = (*[0.0] * len(text.prompt), *[text.advantage] * len(text.answer))
    return Encoded({"text": EncodedStream((*text.prompt, *text.answer), weights)})


def _ours_of_pairs(kind: str) -> Step:
    module = _random(kind)
    model = Model(module, None, study(module), Resolved(kind, None, "folder", "0" * 64))  # type: ignore[arg-type]
    learns = {name: p for name, p in module.named_parameters() if p.requires_grad}
    engine = Engine(model, [ParameterGroup(learns)], AdamWOptions())
    assert engine.packed

    def step(groups: list[list[Text]]) -> float:
        return _learn(engine, TokenLikelihood(), collate([_pair(text) for text in flat(groups)]))

    return step


def _pair(text: Text) -> Encoded:
    target = EncodedStream((0, *text.answer), (0.0, *[1.0] * len(text.answer)))
    return Encoded({"source": EncodedStream(text.prompt), "target": target})


def _learn(engine: Engine, objective: Objective, batch: Batch) -> float:
    terms, _ = engine.forward_backward(batch, objective, objective.counts(batch))
    engine.optimizer_step(RATE)
    return sum(terms.values())


def _random(kind: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_config(configuration(kind)).float()


def _usual(kind: str, *, single: bool) -> Step:
    model = _random(kind) if kind in ON_PAIRS else _adapted()
    model.train()
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=RATE)
    loss_of = {"preferences": _preference, "rollouts": _policy_gradient}.get(kind, _likelihood)

    def step(groups: list[list[Text]]) -> float:
        count = _count(kind, groups)
        parts = [[group] for group in groups] if single else [groups]
        whole = 0.0
        for part in parts:
            loss = loss_of(model, flat(part)) / count
            loss.backward()
            whole += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(learns, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return whole

    return step


def _count(kind: str, groups: list[list[Text]]) -> float:
    texts = flat(groups)
    return len(groups) if kind == "preferences" else sum(len(text.answer) for text in texts)


def _adapted() -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = resolve(SMALL, console=Console(quiet=True)).path
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    return get_peft_model(model, settings)


def _padded(rows: Sequence[tuple[int, ...]], fill: int = 0) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def _answers(model: Any, texts: list[Text]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the next tokens, [B, L - 1], and which of them are an answer's."""
    ids_BL = _padded([(*text.prompt, *text.answer) for text in texts])
    read_BL = _padded([(1,) * text.tokens for text in texts])
    mine_BL = _padded([(0,) * len(text.prompt) + (1,) * len(text.answer) for text in texts])
    logits_BLV = model(input_ids=ids_BL, attention_mask=read_BL).logits[:, :-1]
    chosen_BL = logits_BLV.gather(2, ids_BL[:, 1:, None])[..., 0] - logits_BLV.logsumexp(-1)
    return chosen_BL, mine_BL[:, 1:].bool()


def _preference(model: Any, texts: list[Text]) -> Tensor:
    with torch.no_grad(), model.disable_adapter():
        before_BL, _ = _answers(model, texts)
    found_BL, mine_BL = _answers(model, texts)
    gained_B = ((found_BL - before_BL) * mine_BL).sum(-1)
    return -logsigmoid(BETA * (gained_B[::2] - gained_B[1::2])).sum()


def _policy_gradient(model: Any, texts: list[Text]) -> Tensor:
    found_BL, mine_BL = _answers(model, texts)
    advantage_B1 = torch.tensor([[text.advantage] for text in texts])
    return -(found_BL * mine_BL * advantage_B1).sum()


def _likelihood(model: Any, texts: list[Text]) -> Tensor:
    labels_BL = _padded([text.answer for text in texts], fill=-100)
    loss = model(
        input_ids=_padded([text.prompt for text in texts]),
        attention_mask=_padded([(1,) * len(text.prompt) for text in texts]),
        labels=labels_BL,
    ).loss
    scaled: Tensor = loss * (labels_BL != -100).sum()
    return scaled
