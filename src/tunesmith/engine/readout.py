"""What an objective reads of a forward pass: from hidden states to a readout.

    hidden_TD ──read──> TokenLogProbs | TokenStates | Pooled | Features | PerToken | Hidden

Logits are computed by us, outside the model class and only where a token is learnt, so that no
architecture opts out of the loss arithmetic. What some families do to their logits beside the
output layer (soft capping, scaling) is taken from the configuration; `probe_output` compares with
the model's own logits at load, and refuses a model with which they differ.

Shapes: T tokens, N learnt tokens, D model, V vocabulary, B documents, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunesmith.data.batch import Stream
from tunesmith.errors import ModelError
from tunesmith.kernels.divergence import OutputRows
from tunesmith.kernels.token_loss import LogitShape, linear_cross_entropy, token_log_probs
from tunesmith.models.heads import apply_head, document_rows, own_outputs, token_outputs
from tunesmith.models.model import Model
from tunesmith.models.vocabulary_head import output_states
from tunesmith.objectives.base import (
    Features,
    Hidden,
    PerToken,
    Pooled,
    TokenLogProbs,
    TokenStates,
)

_BESIDE = "final_logits_bias"
"""BART and its kin keep the bias of the output layer as a buffer of the model."""

PER_DOCUMENT = (Pooled, Features)
"""Readouts for which one row of each document is enough."""


def read(
    model: Model,
    hidden_TD: Tensor,
    stream: Stream,
    readout: type[Any],
    shape: LogitShape,
    *,
    token_weights: Tensor | None = None,
) -> Any:
    """Return the readout of these hidden states.

    Args:
        token_weights: `[N]`, where the objective knows beforehand what each log-probability is
            multiplied by: the gradient is then made in the forward pass.
    """
    if readout is Hidden:
        return Hidden(hidden_TD)
    if readout in PER_DOCUMENT:
        return read_documents(model, document_rows(model, hidden_TD, stream.cu_seqlens), readout)
    if readout is PerToken:
        return PerToken(token_outputs(model, hidden_TD))
    if readout is TokenStates:
        return _token_states(model, hidden_TD, stream, shape)
    if readout is TokenLogProbs:
        return _token_log_probs(model, hidden_TD, stream, shape, token_weights)
    raise TypeError(f"the engine has no readout {readout.__name__}")


def read_documents(model: Model, rows_BD: Tensor, readout: type[Any]) -> Any:
    """Return a readout of `PER_DOCUMENT` from what the head reads of each document."""
    if readout is Features:
        return Features(rows_BD)
    return Pooled(apply_head(model, rows_BD).float())


def _token_log_probs(
    model: Model, hidden_TD: Tensor, stream: Stream, shape: LogitShape, token_weights: Tensor | None
) -> TokenLogProbs:
    rows_N, targets_N = stream.learnt()
    hidden_ND = output_states(model, hidden_TD[rows_N])
    weight_VD, bias_V = model.output_weight_VD, output_bias(model)
    if token_weights is None:
        scores = token_log_probs(hidden_ND, weight_VD, targets_N, bias_V=bias_V, shape=shape)
        return TokenLogProbs(scores.logprobs_N, rows_N, scores.correct_N)
    loss = linear_cross_entropy(
        hidden_ND, weight_VD, targets_N, token_weights, bias_V=bias_V, shape=shape
    )
    return TokenLogProbs(loss.logprobs_N, rows_N, loss.correct_N, loss.total)


def _token_states(
    model: Model, hidden_TD: Tensor, stream: Stream, shape: LogitShape
) -> TokenStates:
    rows_N, _ = stream.learnt()
    layer: Any = model.module.get_submodule(model.anatomy.output or "")
    kind = hidden_TD.device.type
    autocast = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if autocast else layer.weight.dtype
    bias_V = output_bias(model)
    output = OutputRows(
        output_states(model, hidden_TD[rows_N]).to(dtype),
        layer.weight.to(dtype),
        None if bias_V is None else bias_V.to(dtype),
        shape,
    )
    return TokenStates(output, rows_N)


def probe_output(model: Model) -> LogitShape:
    """Find out how this model makes logits, and check it against the model's own.

    Raises:
        ModelError: the model's logits are made in a way that is not known here.
    """
    config: Any = model.module.config
    text = config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0)
    scale /= float(getattr(text, "logits_scaling", None) or 1.0)
    if getattr(text, "scale_decoder_outputs", False):  # T5, where output and embedding are tied
        scale *= float(text.d_model) ** -0.5
    shape = LogitShape(scale, getattr(text, "final_logit_softcapping", None))
    device = model.output_weight_VD.device
    low = min(10, model.anatomy.vocab_size // 2)
    ids = torch.arange(low, min(low + 6, model.anatomy.vocab_size), device=device)[None]
    was_training = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            own = own_outputs(model.module, input_ids=ids)[0]
            ours = logits(model, model.hidden(ids), shape)
    finally:
        model.module.train(was_training)
    if (own - ours).float().norm() > 1e-2 * own.float().norm():
        raise ModelError(
            f"The architecture {model.anatomy.family!r} makes its logits in a way that is not"
            " known here, so its loss would be wrong.",
            where=model.source.name,
            fix="Choose a model of another family: `tunesmith models list`.",
        )
    return shape


def logits(model: Model, hidden_ND: Tensor, shape: LogitShape) -> Tensor:
    """Return logits over the vocabulary, `[N, V]`."""
    layer: Any = model.module.get_submodule(model.anatomy.output or "")
    logits_NV = layer(output_states(model, hidden_ND))
    beside_1V = getattr(model.module, _BESIDE, None)
    return shaped(logits_NV if beside_1V is None else logits_NV + beside_1V, shape)


def output_bias(model: Model) -> Tensor | None:
    """Return the bias of the output layer, which some families keep beside it, `bias_V`."""
    layer: Any = model.module.get_submodule(model.anatomy.output or "")
    bias_V: Tensor | None = getattr(layer, "bias", None)
    if bias_V is None:
        beside_1V = getattr(model.module, _BESIDE, None)
        bias_V = None if beside_1V is None else beside_1V[0]
    return bias_V


def shaped(logits_NV: Tensor, shape: LogitShape) -> Tensor:
    """Do to the output layer's product what the family does to it."""
    if shape.scale != 1.0:
        logits_NV = logits_NV * shape.scale
    if shape.softcap is not None:
        logits_NV = shape.softcap * torch.tanh(logits_NV / shape.softcap)
    return logits_NV
