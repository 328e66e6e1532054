"""How a batch goes through an encoder-decoder: the source is read, the target is written.

    source ──encoder──> memory ─┐
    target ─────────────────────┴──decoder──> hidden_TD of the target's tokens

Packed where that is right (`packed_pairs.py`), else padded on the right, one row a pair. The
target's first token is the one that the decoder starts with, and targets are shifted as in any
other stream. The stacks are called apart, as the stock model calls them. Whether a model keeps
pairs apart is probed, as it is for single texts.

Shapes: N pairs, S longest source, L longest target, T tokens of all targets, D model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tunesmith.data.batch import Encoded, EncodedStream, Stream, collate
from tunesmith.engine.packed_pairs import has_bias_by_place, run_packed
from tunesmith.engine.packing import Layout, NotPackableError, made_up_ids, pad, same_hidden
from tunesmith.errors import ModelError
from tunesmith.models.model import Model

Pair = tuple[list[int], list[int]]
_REFUSALS = (NotPackableError, TypeError, ValueError, AssertionError, IndexError, RuntimeError)


def run_pair(model: Model, source: Stream, target: Stream, *, packed: bool) -> Tensor:
    """Return the decoder's last hidden state of every token of the targets, `hidden_TD`.

    Args:
        packed: lay the texts end to end, which the probe must have allowed; otherwise pad them.
    """
    if packed:
        return run_packed(model, source, target)
    read_NS, source_NS = pad(source)
    written_NL, target_NL = pad(target)
    encoder = model.module.get_submodule(model.anatomy.encoder or "")
    decoder = model.module.get_submodule(model.anatomy.decoder or "")
    memory_NSD = encoder(input_ids=source_NS, attention_mask=read_NS.long())[0]
    hidden_NLD: Tensor = decoder(
        input_ids=target_NL,
        attention_mask=written_NL.long(),
        encoder_hidden_states=memory_NSD,
        encoder_attention_mask=read_NS.long(),
        use_cache=False,
    )[0]
    return hidden_NLD[written_NL]


def pair_rows(source: Stream, target: Stream, *, packed: bool) -> int:
    """Return how many rows the two stacks compute together, padding included."""
    if packed:
        return sum(sum(stream.lengths) for stream in (source, target))
    return sum(len(stream.lengths) * max(stream.lengths) for stream in (source, target))


def probe_pairs(model: Model) -> Layout:
    """Find out whether pairs can be padded and packed: each must come out as it does alone.

    Raises:
        ModelError: they come out otherwise when they are padded.
    """
    short, long = made_up_ids(model, 5, seed=1), made_up_ids(model, 9, seed=2)
    pairs = [(short, long), (long, short)]
    was_training = model.module.training
    model.module.eval()
    try:
        with torch.no_grad():
            try:
                alone = [_run(model, [pair], packed=False) for pair in pairs]
                together = _run(model, pairs, packed=False)
            except TypeError as error:
                raise _other_kind(model, "cannot be called stack by stack") from error
            can_pack = not model.virtual and _packs(model, pairs, alone)
    finally:
        model.module.train(was_training)
    if not same_hidden([together], [torch.cat(alone)]):
        raise _other_kind(
            model, "gives other hidden states when texts are padded than when they stand alone"
        )
    return Layout(
        can_pack=can_pack,
        can_share=False,
        first_position=None,
        takes_cache=True,
        pads_scores=can_pack and has_bias_by_place(model.module),
    )


def _other_kind(model: Model, what: str) -> ModelError:
    return ModelError(
        f"The architecture {model.anatomy.family!r} {what}.",
        where=model.source.name,
        fix="Choose a model of another family: `tunesmith models list`.",
    )


def _packs(model: Model, pairs: list[Pair], alone: list[Tensor]) -> bool:
    try:
        forwards = _run(model, pairs, packed=True)
        backwards = _run(model, pairs[::-1], packed=True)
    except _REFUSALS:  # stacks that do not take what they would be handed
        return False
    return same_hidden([forwards, backwards], [torch.cat(alone), torch.cat(alone[::-1])])


def _run(model: Model, pairs: list[Pair], *, packed: bool) -> Tensor:
    examples = [
        Encoded({"source": EncodedStream(tuple(source)), "target": EncodedStream(tuple(target))})
        for source, target in pairs
    ]
    batch = collate(examples).to(next(model.module.parameters()).device)
    return run_pair(model, batch.streams["source"], batch.streams["target"], packed=packed)
