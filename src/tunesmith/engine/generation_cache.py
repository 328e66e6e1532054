"""The keys and values of unfinished texts, and how a stock body runs over them.

    Cache     S slots of L places each, one text a slot; allocated once
    Opening   one call of the body: prompts enter slots, end to end, nothing padded; what begins
              like a text that is here already is handed on, not computed again
    Step      one call of the body: the next token of the texts in slots 0 … N-1

Within `running` the attention layers of the body call, through transformers' public interface, a
function that keeps their keys and values and attends to what is kept. It knows no sampling and no
order of texts.

Shapes: T tokens, N texts, H query heads, J key heads (H = J * G), K head size, S slots, L places of
a slot, P = S * L places.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tunesmith.engine.packing import attending_as
from tunesmith.engine.sharing import common_beginning
from tunesmith.kernels.attention import document_spans, packed_attention
from tunesmith.kernels.spans import Rows, Spans

KEPT = "tunesmith-kept"
_CHANGES_SCORES = ("softcap", "position_bias", "s_aux", "head_mask")


class NotKeepableError(Exception):
    """The architecture asks of attention what the form with kept keys does not do."""


@dataclass(frozen=True)
class KeptLayer:
    """What one attention layer keeps, and how it attends: found when it is first called."""

    keys_PJK: Tensor
    values_PJK: Tensor
    window: int | None
    scale: float


@dataclass
class Cache:
    """All that is kept. Layers stand in the order in which the body calls their attention.

    Attributes:
        slots, length: S and L.
    """

    slots: int
    length: int
    layers: list[KeptLayer] = field(default_factory=list)

    def layer(
        self, number: int, k_TJK: Tensor, v_TJK: Tensor, window: int | None, scale: float
    ) -> KeptLayer:
        """Return the layer of this number; the first call makes it."""
        if number == len(self.layers):
            keys, values = (_zeros(part, self.slots * self.length) for part in (k_TJK, v_TJK))
            self.layers.append(KeptLayer(keys, values, window, scale))
        return self.layers[number]

    def move(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` places of one slot to another."""
        there, here = source * self.length, target * self.length
        for layer in self.layers:
            for kept in (layer.keys_PJK, layer.values_PJK):
                kept[here : here + count] = kept[there : there + count]


class Call(Protocol):
    """One call of the body over some tokens, laid in one row."""

    ids_T: Tensor
    positions_T: Tensor
    last_N: Tensor
    """Where in the row the last token of each text stands."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """Keep the keys and values of the next layer; return its attention, `[1, T, H, K]`."""


class Opening:
    """Prompts that enter the slots behind those that are taken.

    Args:
        held: of each slot that is taken, in order, the ids whose keys are kept.
        prompts: at least one token each.
    """

    def __init__(
        self,
        cache: Cache,
        held: Sequence[Sequence[int]],
        prompts: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._cache, self._device, self._number = cache, device, 0
        self._spans: dict[int | None, Spans] = {}
        known = [(list(ids), _places(cache, slot, 0, len(ids))) for slot, ids in enumerate(held)]
        ids: list[int] = []
        positions: list[int] = []
        own: list[int] = []
        sources: list[int] = []
        targets: list[int] = []
        self._own_sizes: list[int] = []
        self._sizes = [len(prompt) for prompt in prompts]
        self._first_slot = len(held)
        for slot, prompt in enumerate(prompts, start=len(held)):
            shared, taken = _longest_beginning(list(prompt), known)
            here = _places(cache, slot, shared, len(prompt))
            ids += prompt[shared:]
            positions += range(shared, len(prompt))
            own += here
            sources += taken
            targets += _places(cache, slot, 0, shared)
            self._own_sizes.append(len(here))
            known.append((list(prompt), [*taken, *here]))
        self.ids_T, self.positions_T = self._whole(ids), self._whole(positions)
        self._own_T = self._whole(own)
        self._handed = (self._whole(targets), self._whole(sources)) if sources else None
        self.last_N = self._whole(self._own_sizes).cumsum(0) - 1

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """Keep the keys and values of the next layer; return its attention, `[1, T, H, K]`."""
        k_TJK, v_TJK = k[0].transpose(0, 1), v[0].transpose(0, 1)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        layer = self._cache.layer(self._number, k_TJK, v_TJK, window, scale)
        self._number += 1
        for kept, new in ((layer.keys_PJK, k_TJK), (layer.values_PJK, v_TJK)):
            kept.index_copy_(0, self._own_T, new.to(kept.dtype))
            if self._handed is not None:
                targets, sources = self._handed
                kept.index_copy_(0, targets, kept[sources])
        if self._handed is not None:
            q = q.to(layer.keys_PJK.dtype)
            k, v = (kept.transpose(0, 1)[None] for kept in (layer.keys_PJK, layer.values_PJK))
        return packed_attention(q, k, v, self._span(window), scale=scale).transpose(1, 2)

    def _span(self, window: int | None) -> Spans:
        if window not in self._spans:
            row: Tensor | Rows = _ends(self._own_sizes)
            if self._handed is not None:
                slots = enumerate(self._sizes, start=self._first_slot)
                places = [p for slot, size in slots for p in _places(self._cache, slot, 0, size)]
                row = Rows(_ends(self._sizes), _ends(self._own_sizes), self._whole(places))
            self._spans[window] = document_spans(row, causal=True, window=window)
        return self._spans[window]

    def _whole(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)


class Step:
    """One more token of each text in slots 0 … N-1.

    Args:
        ids: the tokens.
        positions: their places in their texts, counted from 0.
    """

    def __init__(
        self, cache: Cache, ids: Sequence[int], positions: Sequence[int], device: torch.device
    ) -> None:
        self.cache, self.positions = cache, positions
        self._number = 0
        self._masks: dict[int | None, Tensor] = {}
        self.ids_T = torch.tensor(ids, device=device)
        self.positions_T = torch.tensor(positions, device=device)
        self.last_N = torch.arange(len(ids), device=device)
        self.places_T = self.last_N * cache.length + self.positions_T

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """Keep the keys and values of the next layer; return its attention, `[1, T, H, K]`."""
        q_NHK, k_NJK, v_NJK = (part[0].transpose(0, 1) for part in (q, k, v))
        layer = self.cache.layers[self._number]
        self._number += 1
        layer.keys_PJK.index_copy_(0, self.places_T, k_NJK.to(layer.keys_PJK.dtype))
        layer.values_PJK.index_copy_(0, self.places_T, v_NJK.to(layer.values_PJK.dtype))
        # Query heads of one key head become the rows of one product: nothing is repeated.
        rows, heads, size = q_NHK.shape
        q_NJGK = q_NHK.reshape(rows, k_NJK.shape[1], -1, size).to(layer.keys_PJK.dtype)
        seen_NJGK = torch.nn.functional.scaled_dot_product_attention(
            q_NJGK,
            self._seen(layer.keys_PJK),
            self._seen(layer.values_PJK),
            attn_mask=self._mask(window),
            scale=layer.scale,
        )
        return seen_NJGK.reshape(1, rows, heads, -1)

    def ranges(self, window: int | None) -> tuple[Tensor, int]:
        """Return the places `[begin, end)` that each token sees, `[N, 2]`, and the most of any."""
        begin_N = self.places_T - self.positions_T
        if window is not None:
            begin_N = torch.maximum(begin_N, self.places_T + 1 - window)
        most = max(self.positions) + 1
        return torch.stack([begin_N, self.places_T + 1], 1), min(most, window or most)

    def _seen(self, kept_PJK: Tensor) -> Tensor:
        """A view of the slots in use, as far as the longest text reaches: `[N, J, L, K]`."""
        slots = kept_PJK.view(self.cache.slots, self.cache.length, *kept_PJK.shape[1:])
        return slots[: len(self.positions), : max(self.positions) + 1].transpose(1, 2)

    def _mask(self, window: int | None) -> Tensor:
        if window not in self._masks:
            columns = torch.arange(max(self.positions) + 1, device=self.positions_T.device)
            last_N1 = self.positions_T[:, None]
            seen_NL = columns <= last_N1
            if window is not None:
                seen_NL &= columns > last_N1 - window
            self._masks[window] = seen_NL[:, None, None]
        return self._masks[window]


def _zeros(like_TJK: Tensor, places: int) -> Tensor:
    """Room for so many places; what no text sees must be finite, since it is weighed with nought.

    On a CPU the pages that no text has reached take no memory: a long text costs its own length.
    """
    shape = (places, *like_TJK.shape[1:])
    if like_TJK.device.type != "cpu":
        return like_TJK.new_zeros(shape)
    untouched = mmap.mmap(-1, math.prod(shape) * like_TJK.element_size())
    return torch.frombuffer(untouched, dtype=like_TJK.dtype).view(shape)


def _places(cache: Cache, slot: int, first: int, last: int) -> list[int]:
    return list(range(slot * cache.length + first, slot * cache.length + last))


def _longest_beginning(
    prompt: list[int], known: Sequence[tuple[list[int], list[int]]]
) -> tuple[int, list[int]]:
    """How much of a prompt is known, and the places of it; its last token is computed anyhow."""
    best, places = 0, list[int]()
    for ids, theirs in known:
        if len(ids) > best and ids[best] == prompt[best]:
            common = min(common_beginning(prompt, ids), len(prompt) - 1)
            if common > best:
                best, places = common, theirs
    return best, places[:best]


def _ends(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)


_call: ContextVar[Call] = ContextVar("call")


def running(module: nn.Module, call: Call) -> AbstractContextManager[None]:
    """Within, the attention of this module keeps its keys and sees all that is kept."""
    return attending_as(module, KEPT, _call, call)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: `[1, H, T, K]` in, `[1, T, H, K]` out."""
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    unknown = [name for name in _CHANGES_SCORES if options.get(name) is not None]
    if attention_mask is not None or unknown or not causal:
        raise NotKeepableError(f"its attention uses {unknown or ['a mask of its own']}")
    return _call.get().attend(query, key, value, scaling, sliding_window), None


AttentionInterface.register(KEPT, _attend)
