"""Encoder-decoders without padding: all sources in one row, all targets in another.

    source ids_S ──encoder──> memory_S ─┐     documents see themselves only,
    target ids_T ───────────────────────┴──decoder──> hidden_TD      and across, their own source

The stacks are the model's own. What keeps documents apart is an attention function of ours,
registered with transformers under the name `tunesmith_pairs`; what the stacks would take from the
columns of a padded batch is handed to them: positions restart with each document (BART and its
kin), and a bias by place is that of one document (T5). Which models this is right for is probed
(`pairs.py`).

Shapes: S tokens of all sources, T tokens of all targets, D model, H heads, L longest document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn
from transformers import AttentionInterface

from tunesmith.data.batch import Stream
from tunesmith.engine.packing import NotPackableError, attending_as
from tunesmith.kernels.attention import document_spans, packed_attention
from tunesmith.kernels.biased import SideBySide, biased_attention, side_by_side
from tunesmith.kernels.spans import Rows, Spans
from tunesmith.models.model import Model

PACKED_PAIRS = "tunesmith_pairs"
Side = Literal["source", "target"]


@dataclass(frozen=True)
class _Pairs:
    """The texts of one batch, and who sees whom, worked out once a batch."""

    source: Stream
    target: Stream
    _side_by_side: dict[tuple[Side, int], SideBySide] = field(default_factory=dict)

    @cached_property
    def within_source(self) -> Spans:
        return document_spans(self.source.cu_seqlens, causal=False)

    @cached_property
    def within_target(self) -> Spans:
        return document_spans(self.target.cu_seqlens, causal=True)

    @cached_property
    def across(self) -> Spans:
        rows = Rows(self.source.cu_seqlens, self.target.cu_seqlens, keys_S=None)
        return document_spans(rows, causal=False)

    def within(self, side: Side) -> Spans:
        return self.within_source if side == "source" else self.within_target

    def side_by_side(self, side: Side, heads: int) -> SideBySide:
        if (side, heads) not in self._side_by_side:
            self._side_by_side[side, heads] = side_by_side(self.within(side), heads)
        return self._side_by_side[side, heads]


@dataclass(frozen=True)
class _Reading:
    """One stack's way through a batch; `placed` are its modules that ask for places."""

    pairs: _Pairs
    side: Side
    stack: nn.Module
    placed: tuple[nn.Module, ...]

    @property
    def stream(self) -> Stream:
        return self.pairs.source if self.side == "source" else self.pairs.target


_reading: ContextVar[_Reading] = ContextVar("reading")


def run_packed(model: Model, source: Stream, target: Stream) -> Tensor:
    """Return the decoder's last hidden state of every token of the targets, `hidden_TD`."""
    pairs = _Pairs(source, target)
    encoder = model.module.get_submodule(model.anatomy.encoder or "")
    decoder = model.module.get_submodule(model.anatomy.decoder or "")
    with _within(_Reading(pairs, "source", encoder, _placed(encoder))):
        memory_1SD = encoder(input_ids=source.ids_T[None])[0]
    with _within(_Reading(pairs, "target", decoder, _placed(decoder))):
        hidden_1TD = decoder(
            input_ids=target.ids_T[None], encoder_hidden_states=memory_1SD, use_cache=False
        )[0]
    hidden_TD: Tensor = hidden_1TD[0]
    return hidden_TD


def pairs_again() -> Callable[[], AbstractContextManager[None]] | None:
    """Return how to enter again, later, what is being read now; None outside of packed pairs."""
    reading = _reading.get(None)
    return None if reading is None else lambda: _within(reading)


@contextmanager
def _within(reading: _Reading) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(attending_as(reading.stack, PACKED_PAIRS, _reading, reading))
        for module in reading.placed:
            hook = _hook_for(module, reading)
            handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def has_bias_by_place(module: nn.Module) -> bool:
    """Whether attention somewhere in it adds a bias of its own by the places of tokens."""
    return any(getattr(part, _BY_PLACE, False) for part in module.modules())


_BY_PLACE = "has_relative_attention_bias"


def _placed(stack: nn.Module) -> tuple[nn.Module, ...]:
    return tuple(part for part in stack.modules() if _counts(part) or hasattr(part, _BY_PLACE))


def _counts(module: nn.Module) -> bool:
    return "PositionalEmbedding" in type(module).__name__


Hook = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]
]


def _hook_for(module: Any, reading: _Reading) -> Hook:
    """Return what hands a module the places in documents that it would take from columns."""
    stream = reading.stream
    if _counts(module):
        return lambda _, args, kwargs: (args, {**kwargs, "position_ids": stream.positions_T})

    def with_bias(
        attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if kwargs.get("position_bias") is not None:
            return args, kwargs
        if attention.has_relative_attention_bias:
            longest = max(stream.lengths)
            documents = reading.pairs.side_by_side(reading.side, attention.n_heads)
            bias = documents.bias(attention.compute_bias(longest, longest))
        else:
            bias = attention.q.weight.new_zeros(1, attention.n_heads, 1, 1)
        return args, {**kwargs, "position_bias": bias}

    return with_bias


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention inside each document or, from target to source, inside each pair."""
    unknown = [name for name in _CHANGES_SCORES if options.get(name) is not None]
    if attention_mask is not None or unknown:
        raise NotPackableError(f"its attention uses {unknown or ['a mask of its own']}")
    pairs, side = _reading.get().pairs, _reading.get().side
    own = side == "source" or bool(getattr(module, "is_causal", False))
    if position_bias is not None and position_bias.shape[-1] > 1:
        if not own:
            raise NotPackableError("its attention to the source has a bias by place")
        documents = pairs.side_by_side(side, query.shape[1])
        out = biased_attention(
            query, key, value, documents, position_bias, scale=scaling, dropout=dropout
        )
    else:  # a bias of one key, or of none, changes no weight
        spans = pairs.within(side) if own else pairs.across
        out = packed_attention(query, key, value, spans, scale=scaling, dropout=dropout)
    return out.transpose(1, 2), None


_CHANGES_SCORES = ("softcap", "s_aux", "head_mask", "sliding_window")
AttentionInterface.register(PACKED_PAIRS, _attend)
