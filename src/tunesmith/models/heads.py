"""Heads on packed hidden states: what a document's class is, or that of each token in it.

    hidden_TD ──document_rows──> first | last | mean …: rows_BD ──apply_head──> outputs_BC
    hidden_TD ──the stock head──> outputs_TC

transformers' classifiers pool a padded batch; a pack has its documents end to end, so the rows
are gathered here and the model's own head modules are applied to them. It runs no body. `HEADS` is
the one list of heads, and of what other libraries call them.

Shapes: T tokens of the pack, B documents, D model, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError

if TYPE_CHECKING:
    from tunesmith.models.model import Model

Pooling = Literal["mean", "cls", "last", "max", "weighted_mean"]
"""What of a text is its vector; in `weighted_mean` token i counts i times as much as the first."""

HeadName = Literal[
    "causal_lm",
    "seq2seq_lm",
    "classification",
    "multi_label",
    "regression",
    "masked_lm",
    "tagging",
    "extraction",
    "embedding",
    "features",
]


@dataclass(frozen=True)
class Head:
    """A head as others know it.

    Attributes:
        ending: of the names of transformers' and PEFT's classes, such as `ForCausalLM`.
        peft_task: PEFT's name of the task; None where it has none.
        of_tokens: it speaks of each token rather than of the whole text.
        problem: transformers' name of what is said of a whole text; None for other heads.
    """

    ending: str
    peft_task: str | None
    of_tokens: bool = False
    problem: str | None = None


def _of_text(problem: str) -> Head:
    return Head("ForSequenceClassification", "SEQ_CLS", problem=problem)


HEADS: dict[HeadName, Head] = {
    "causal_lm": Head("ForCausalLM", "CAUSAL_LM"),
    "seq2seq_lm": Head("ForSeq2SeqLM", "SEQ_2_SEQ_LM"),
    "classification": _of_text("single_label_classification"),
    "multi_label": _of_text("multi_label_classification"),
    "regression": _of_text("regression"),
    "masked_lm": Head("ForMaskedLM", None),
    "tagging": Head("ForTokenClassification", "TOKEN_CLS", of_tokens=True),
    "extraction": Head("ForQuestionAnswering", "QUESTION_ANS", of_tokens=True),
    "embedding": Head("", "FEATURE_EXTRACTION"),
    "features": Head("", "FEATURE_EXTRACTION"),
}


def head_of(module: nn.Module) -> HeadName:
    """Return which head a loaded module has."""
    if isinstance(module, FeatureModel):
        return "features"
    if _writes_from_source(module):
        return "seq2seq_lm"
    kind = type(module).__name__
    if kind.endswith("Model") and not kind.endswith("LMHeadModel"):
        return "embedding"  # a bare body
    found = [name for name, head in HEADS.items() if head.ending and kind.endswith(head.ending)]
    problem = getattr(module.config, "problem_type", None)
    of_problem = (name for name in found if HEADS[name].problem == problem)
    return next(of_problem, found[0] if found else "causal_lm")


def _writes_from_source(module: Any) -> bool:
    """Whether this is an encoder-decoder with a layer over the vocabulary, whatever its name."""
    if not getattr(module.config, "is_encoder_decoder", False):
        return False
    return module.get_output_embeddings() is not None


def pooled(hidden_TD: Tensor, cu_seqlens: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector of each document: `features_BD`, float32 (or wider)."""
    hidden_TD = hidden_TD.to(torch.promote_types(hidden_TD.dtype, torch.float32))
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    if pooling == "cls":
        return hidden_TD[starts]
    if pooling == "last":
        return hidden_TD[ends - 1]
    if pooling == "weighted_mean":
        lengths_B = ends - starts
        places_T = torch.arange(len(hidden_TD), device=starts.device) + 1
        places_T = places_T - torch.repeat_interleave(starts, lengths_B)
        weighted_TD = hidden_TD * places_T[:, None]
        sums_BD = torch.segment_reduce(weighted_TD, "sum", lengths=lengths_B, axis=0)
        return sums_BD / (lengths_B * (lengths_B + 1) / 2)[:, None].to(sums_BD.dtype)
    return torch.segment_reduce(hidden_TD, pooling, lengths=ends - starts, axis=0)


class FeatureHead(nn.Module):
    """One vector of each document, and a linear map of it, or a network of one hidden layer.

    Args:
        hidden_size: D.
        outputs: C, the size of what the map gives.
        pooling: what of a document is its vector.
        width: units of the hidden layer, linear · relu(dense · features); 0: no such layer.
        dropout: share of each map's inputs that is set to zero in training.
        zero: whether the last map starts at zero.

    What does not start at zero is as PyTorch draws it from the global generator.
    """

    def __init__(
        self,
        hidden_size: int,
        outputs: int,
        pooling: Pooling,
        width: int = 0,
        *,
        dropout: float = 0.0,
        zero: bool = True,
    ) -> None:
        super().__init__()
        self.pooling: Pooling = pooling
        self.dense = nn.Linear(hidden_size, width) if width else None
        self.linear = nn.Linear(width or hidden_size, outputs)
        self.dropout = nn.Dropout(dropout)
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    @property
    def maps(self) -> list[tuple[nn.Linear, type[nn.Module]]]:
        """The linear maps in their order, and what is done to the outputs of each."""
        last: list[tuple[nn.Linear, type[nn.Module]]] = [(self.linear, nn.Identity)]
        return last if self.dense is None else [(self.dense, nn.ReLU), *last]

    def pool(self, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Return one vector of each document: `features_BD`, float32 (or wider)."""
        return pooled(hidden_TD, cu_seqlens, self.pooling)

    def forward(self, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Return `outputs_BC`."""
        return self.outputs(self.pool(hidden_TD, cu_seqlens))

    def outputs(self, features_BD: Tensor) -> Tensor:
        """Return `outputs_BC` of pooled features."""
        values = features_BD.to(self.linear.weight.dtype)
        for linear, activation in self.maps:
            values = activation()(linear(self.dropout(values)))
        return values


class FeatureModel(nn.Module):
    """A transformers body with a `FeatureHead` on it."""

    def __init__(self, body: nn.Module, head: FeatureHead) -> None:
        super().__init__()
        self.body = body
        self.head = head

    @property
    def config(self) -> Any:
        """The body's configuration."""
        return self.body.config


def pool_documents(model: Model, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Apply the model's own head to packed hidden states.

    Equal to the logits of transformers' `*ForSequenceClassification` on the same documents padded.

    Args:
        hidden_TD: the body's last hidden state of documents laid end to end.
        cu_seqlens: where each of the B documents begins, and the end: B + 1 integers.

    Returns:
        `outputs_BC`, float32 (float64 where the head is).

    Raises:
        ModelError: the model has no head that is known here.
    """
    return apply_head(model, document_rows(model, hidden_TD, cu_seqlens))


def head_pooling(model: Model) -> Pooling:
    """Return what the model's head reads of a document.

    Raises:
        ModelError: the model has no head that is known here.
    """
    if isinstance(model.module, FeatureModel):
        return model.module.head.pooling
    if "score" in model.anatomy.head:
        return "last"
    if "classifier" in model.anatomy.head:
        return "cls"
    raise ModelError(f"This {model.anatomy.family} model has no head that names a class.")


def document_rows(model: Model, hidden_TD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return what the model's head reads of each document, `rows_BD`; see `pool_documents`."""
    if isinstance(model.module, FeatureModel):
        return model.module.head.pool(hidden_TD, cu_seqlens)
    if model.pooling is not None:
        return pooled(hidden_TD, cu_seqlens, model.pooling)
    if head_pooling(model) == "last":
        return hidden_TD[cu_seqlens[1:].long() - 1]
    return hidden_TD[cu_seqlens[:-1].long()]


def apply_head(model: Model, rows_BD: Tensor) -> Tensor:
    """Return what the model's head says of such rows: `outputs_BC`, float32 (or float64)."""
    module: Any = model.module
    if isinstance(module, FeatureModel):
        outputs_BC: Tensor = module.head.outputs(rows_BD)
    elif head_pooling(model) == "last":
        outputs_BC = _apply(module.score, rows_BD)
    else:
        outputs_BC = _classify_first(model, rows_BD)
    return outputs_BC.to(torch.promote_types(outputs_BC.dtype, torch.float32))


def own_outputs(module: Any, **inputs: Any) -> Tensor:
    """Return what a model's own head says of padded inputs: its logits.

    Of a head that points at parts of a text: beginnings and ends, side by side. An encoder-decoder
    is given its input as source and target alike.
    """
    if getattr(module.config, "is_encoder_decoder", False):
        inputs.setdefault("decoder_input_ids", inputs["input_ids"])
    said = module(**inputs)
    if head_of(module) == "extraction":
        return torch.stack((said.start_logits, said.end_logits), -1)
    logits: Tensor = said.logits
    return logits


def token_outputs(model: Model, hidden_TD: Tensor) -> Tensor:
    """Apply the model's own head to the hidden state of every token.

    Returns:
        `outputs_TC`, float32 (float64 where the head is).

    Raises:
        ModelError: the model has no head that is known here.
    """
    module: Any = model.module
    known = [name for name in ("classifier", "score", "qa_outputs") if name in model.anatomy.head]
    if not known:
        raise ModelError(f"This {model.anatomy.family} model has no head that speaks of tokens.")
    dropout = getattr(module, "dropout", None)
    dropped_TD = hidden_TD if dropout is None else dropout(hidden_TD)
    outputs_TC = _apply(module.get_submodule(known[0]), dropped_TD)
    return outputs_TC.to(torch.promote_types(outputs_TC.dtype, torch.float32))


def _classify_first(model: Model, first_BD: Tensor) -> Tensor:
    """Encoders: the first token, through the family's pooler, dropout and classifier."""
    module: Any = model.module
    if not isinstance(getattr(module.classifier, "original_module", module.classifier), nn.Linear):
        # RoBERTa's kind of head has dense, dropout and projection in it and takes B x T x D.
        return _apply(module.classifier, first_BD[:, None])
    if model.anatomy.pooler is not None:
        pooled_BD = _apply(module.get_submodule(model.anatomy.pooler), first_BD[:, None])
    elif "pre_classifier" in model.anatomy.head:
        pooled_BD = torch.relu(_apply(module.pre_classifier, first_BD))
    else:
        pooled_BD = first_BD
    dropout = getattr(module, "dropout", None)
    return _apply(module.classifier, pooled_BD if dropout is None else dropout(pooled_BD))


def _apply(part: nn.Module, hidden: Tensor) -> Tensor:
    """Apply `part` in its own precision: a head learns in float32 on a body in bfloat16."""
    # The last parameter is an adapter's or the learning copy's, where there is one.
    *_, weight = part.parameters()
    outputs: Tensor = part(hidden.to(weight.dtype))
    return outputs
