"""How a ragged batch goes through a transformers body: packed where that is right, else padded.

    Stream (T tokens, N documents) ──run_body──> hidden_TD

Packed: one row of T tokens, positions restarted, attention kept inside each document by an
attention function of ours, registered with transformers under the name `tunesmith` (its public
interface; nothing is patched). Padded: one row a document, the model's stock attention. Shared:
packed, with the beginnings that documents have in common computed once (`sharing.py`).

Whether a model keeps packed documents apart is *probed* (`probe_layout`), never read from a flag:
some architectures ignore positions, some never call the attention function that they accept.

Shapes: T tokens, N documents, L longest document, D model, H heads, K head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tunesmith.data.batch import Encoded, EncodedStream, Stream, collate
from tunesmith.engine.sharing import shared_beginnings
from tunesmith.errors import ModelError
from tunesmith.kernels.attention import document_spans, packed_attention
from tunesmith.kernels.spans import Rows, Spans
from tunesmith.models.model import Model

T = TypeVar("T")

PACKED = "tunesmith"


class _Boundaries:
    """Where the documents of one batch lie, and who sees whom, worked out once a batch."""

    def __init__(self, row: Tensor | Rows) -> None:
        self._row = row
        self._spans: dict[tuple[bool, int | None], Spans] = {}

    def spans(self, causal: bool, window: int | None) -> Spans:
        """Return the spans for this kind of attention (layers of one model may differ)."""
        key = (causal, window)
        if key not in self._spans:
            self._spans[key] = document_spans(self._row, causal=causal, window=window)
        return self._spans[key]


_boundaries: ContextVar[_Boundaries] = ContextVar("boundaries")


def spans_of_row(*, causal: bool, window: int | None) -> Spans | None:
    """Return who sees whom in the packed row that is being computed; None outside of one."""
    boundaries = _boundaries.get(None)
    return None if boundaries is None else boundaries.spans(causal, window)


@dataclass(frozen=True)
class Layout:
    """What the probe found of a model's body.

    Attributes:
        can_pack: documents laid end to end stay separate.
        can_share: documents that begin alike can have their beginning computed once.
        first_position: the number at which its positions begin (RoBERTa begins after the padding
            index); None where the body takes no positions.
        takes_cache: whether the body takes `use_cache`.
        pads_scores: packed documents are brought side by side for attention (`kernels/biased.py`).
    """

    can_pack: bool
    can_share: bool
    first_position: int | None
    takes_cache: bool
    pads_scores: bool = False

    def arguments(self, positions: Tensor, types: Tensor | None = None) -> dict[str, Any]:
        """Return the keyword arguments of the body for these positions, counted from 0.

        Args:
            types: of the tokens, where they are not all 0.
        """
        arguments: dict[str, Any] = {"use_cache": False} if self.takes_cache else {}
        if types is not None:
            arguments["token_type_ids"] = types
        if self.first_position is not None:
            arguments["position_ids"] = positions + self.first_position
        return arguments


def run_body(
    model: Model, stream: Stream, layout: Layout, *, packed: bool, share: bool = False
) -> Tensor:
    """Return the body's last hidden state of every token, `hidden_TD`.

    Args:
        packed: lay the documents end to end, which `layout` must allow; otherwise pad them.
        share: where they are packed, compute beginnings that they have in common once.
    """
    if packed:
        sharing = shared_beginnings(stream) if share and layout.can_share else None
        if sharing is None:
            cu_seqlens, types_T = stream.cu_seqlens, stream.types_T
            return _row(model, stream.ids_T, stream.positions_T, cu_seqlens, layout, types_T)
        hidden_MD = _row(model, sharing.ids_M, sharing.positions_M, sharing.rows, layout)
        return hidden_MD.index_select(0, sharing.place_T)
    real_NL, ids_NL = pad(stream)
    columns_L = torch.arange(real_NL.shape[1], device=real_NL.device)
    types_NL = None
    if stream.types_T is not None:
        types_NL = ids_NL.new_zeros(real_NL.shape)
        types_NL[real_NL] = stream.types_T
    arguments = layout.arguments(torch.where(real_NL, columns_L, 0), types_NL)
    hidden: Tensor = model.body(input_ids=ids_NL, attention_mask=real_NL.long(), **arguments)[0]
    return hidden[real_NL]


def computed_rows(stream: Stream, layout: Layout, *, packed: bool, share: bool = False) -> int:
    """Return how many rows `run_body` computes: padding counts, a shared beginning counts once."""
    lengths = stream.lengths
    if not packed:
        return len(lengths) * max(lengths)
    sharing = shared_beginnings(stream) if share and layout.can_share else None
    return sum(lengths) if sharing is None else len(sharing.ids_M)


def _row(
    model: Model,
    ids_M: Tensor,
    positions_M: Tensor,
    row: Tensor | Rows,
    layout: Layout,
    types_M: Tensor | None = None,
) -> Tensor:
    with packed_row(model.module, row):
        arguments = layout.arguments(positions_M[None], None if types_M is None else types_M[None])
        hidden_MD: Tensor = model.body(input_ids=ids_M[None], **arguments)[0][0]
        return hidden_MD


def pad(stream: Stream) -> tuple[Tensor, Tensor]:
    """Return (mask of real tokens, ids), both `[N, L]`, padded on the right."""
    lengths_N = torch.diff(stream.cu_seqlens).long()
    real_NL = torch.arange(int(lengths_N.max()), device=lengths_N.device) < lengths_N[:, None]
    ids_NL = stream.ids_T.new_zeros(real_NL.shape)
    ids_NL[real_NL] = stream.ids_T
    return real_NL, ids_NL


@contextmanager
def packed_row(module: nn.Module, row: Tensor | Rows) -> Iterator[None]:
    """Within, the attention of this module keeps inside the documents of one packed row."""
    with _within(module, _Boundaries(row)):
        yield


def row_again(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return how to enter again, later, the packed row that is being computed now, if one is."""
    boundaries = _boundaries.get(None)
    if boundaries is None:
        return nullcontext
    return lambda: _within(module, boundaries)


def _within(module: nn.Module, boundaries: _Boundaries) -> AbstractContextManager[None]:
    return attending_as(module, PACKED, _boundaries, boundaries)


@contextmanager
def attending_as(
    module: nn.Module, implementation: str, variable: ContextVar[T], value: T
) -> Iterator[None]:
    """Within, the attention of this module is a registered one, which reads `variable`."""
    config: Any = module.config
    stock = config._attn_implementation
    token = variable.set(value)
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = stock
        variable.reset(token)


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
    """Attention inside each document, in the form that transformers calls: `[1, H, T, K]` in,
    `[1, T, H, K]` out."""
    unknown = [name for name in _CHANGES_SCORES if options.get(name) is not None]
    if attention_mask is not None or unknown:
        raise NotPackableError(f"its attention uses {unknown or ['a mask of its own']}")
    if is_causal is None:
        is_causal = bool(getattr(module, "is_causal", True))
    out = packed_attention(
        query,
        key,
        value,
        _boundaries.get().spans(is_causal, sliding_window),
        scale=scaling,
        dropout=dropout,
    )
    return out.transpose(1, 2), None


_CHANGES_SCORES = ("softcap", "position_bias", "s_aux", "head_mask")
AttentionInterface.register(PACKED, _attend)


class NotPackableError(Exception):
    """The architecture asks of attention what the packed form does not do."""


def probe_layout(model: Model) -> Layout:
    """Find out how to call a body, by running it on a few tokens of made-up text.

    Documents are run alone (stock attention), then laid end to end. They must come out the same,
    whichever stands first; and again where two that begin alike have their beginning computed once.

    Raises:
        ModelError: the body does not answer the same for a document given alone and padded.
    """
    parameters = inspect.signature(model.body.forward).parameters
    takes_cache = "use_cache" in parameters
    starts = _position_starts(model.body) if "position_ids" in parameters else [None]
    short, long = made_up_ids(model, 5, seed=1), made_up_ids(model, 9, seed=2)
    was_training = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            alone = [_stock(model, ids) for ids in (short, long)]
            for start in starts:
                layout = Layout(False, False, start, takes_cache)
                padded = _documents(model, [short, long], layout, packed=False)
                if not same_hidden(padded, alone):
                    continue
                can_pack = not model.virtual and _packs(model, short, long, alone, layout)
                can_share = can_pack and _shares(model, [long[:6] + short, long], layout)
                return replace(layout, can_pack=can_pack, can_share=can_share)
    finally:
        model.module.train(was_training)
    raise ModelError(
        f"The architecture {model.anatomy.family!r} gives other hidden states when a text is padded"
        " than when it stands alone.",
        where=model.source.name,
        fix="Choose a model of another family: `tunesmith models list`.",
    )


def _packs(
    model: Model, short: list[int], long: list[int], alone: list[Tensor], layout: Layout
) -> bool:
    try:
        forwards = _documents(model, [short, long], layout, packed=True)
        backwards = _documents(model, [long, short], layout, packed=True)
    except (NotPackableError, TypeError):  # code of its own that cannot do without a mask
        return False
    return same_hidden(forwards, alone) and same_hidden(backwards, alone[::-1])


def _shares(model: Model, alike: list[list[int]], layout: Layout) -> bool:
    alone = [_stock(model, ids) for ids in alike]
    try:
        shared = _documents(model, alike, replace(layout, can_share=True), packed=True, share=True)
    except ValueError:  # attention that looks ahead
        return False
    return same_hidden(shared, alone)


def _position_starts(body: nn.Module) -> list[int | None]:
    """Numbers at which positions may begin; RoBERTa's begin after the padding index."""
    starts: list[int | None] = [0]
    for module in body.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(module, nn.Embedding) and padding is not None:
            starts.append(padding + 1)
    return list(dict.fromkeys(starts))


def made_up_ids(model: Model, length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    low = min(10, model.anatomy.vocab_size // 2)
    return torch.randint(low, model.anatomy.vocab_size, (length,), generator=generator).tolist()


def _stock(model: Model, ids: Sequence[int]) -> Tensor:
    hidden: Tensor = model.body(input_ids=torch.tensor([ids], device=_device(model)))[0][0]
    return hidden


def _documents(
    model: Model,
    documents: Sequence[Sequence[int]],
    layout: Layout,
    *,
    packed: bool,
    share: bool = False,
) -> list[Tensor]:
    examples = [Encoded({"text": EncodedStream(tuple(ids))}) for ids in documents]
    stream = collate(examples).text.to(_device(model))
    hidden_TD = run_body(model, stream, layout, packed=packed, share=share)
    return list(torch.split(hidden_TD, stream.lengths))


def _device(model: Model) -> torch.device:
    return next(model.module.parameters()).device


_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}


def same_hidden(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether hidden states agree within what their precision allows."""
    kind = expected[0].device.type
    computed = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    tolerance = _TOLERANCE[computed or expected[0].dtype]  # the rest may be kept wider
    return all(
        (a - b).float().norm() <= tolerance * b.float().norm()
        for a, b in zip(found, expected, strict=True)
    )
