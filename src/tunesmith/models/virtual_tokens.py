"""Lets a body read virtual tokens before every text: what is learnt in place of a written prompt.

    vectors before the text's embeddings      prompt tuning, p-tuning
    keys and values before those of a layer   prefix tuning

PEFT owns the parameters and the format, but its wrapper runs whole models, while the engine calls
bodies. So the `forward` of this one body instance takes a text and reads the virtual tokens before
it: it shifts positions, widens the mask and gives back the rows of the text alone. A key-value
cache works as without. That the result is PEFT's own is checked on a made-up text, when it is put
in place. Documents must be padded, one a row.

The learning module hangs under the token embedding, so that whoever asks what learns sees that it
lies below all layers; names of the base's own parameters stay.

Shapes: N texts, L longest, P virtual tokens, D model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import RecipeError
from tunesmith.models.heads import HEADS
from tunesmith.models.model import Model, Virtual

ADAPTER = "default"
"""PEFT's name of the one adapter that there is."""

HOLDER = "virtual_tokens"


def read_virtual_tokens(model: Model) -> None:
    """Let the body of `model` read what `model.peft` holds; its context is so much shorter.

    Raises:
        RecipeError: the family cannot read virtual tokens, or not as PEFT would let it.
    """
    config = model.peft.peft_config[ADAPTER]
    ids_1T = _made_up(model)
    expected = _of_peft(model, ids_1T)
    virtual = Virtual(config.num_virtual_tokens, config.peft_type.value == "PREFIX_TUNING")
    reader = _reader(model)
    reader.forward = _reading(model, virtual, reader.forward)
    model.peft.disable_adapter = functools.partial(_switched_off, model)
    model.module.get_submodule(model.anatomy.embeddings).add_module(
        HOLDER, model.peft.prompt_encoder
    )
    model.virtual = virtual
    context = model.anatomy.context_length - virtual.tokens
    if context < 1:
        raise RecipeError(
            f"{virtual.tokens} virtual tokens leave no room in a context of "
            f"{model.anatomy.context_length}.",
            where="technique.length",
            fix="Lower it.",
        )
    model.anatomy = replace(model.anatomy, context_length=context)
    found = _said(model.module, ids_1T)
    if (found - expected).norm() > 1e-2 * expected.norm():
        raise _unreadable(model, "PEFT's own classes would read something else there")


def begin_as(model: Model, ids: Sequence[int]) -> None:
    """Let the vectors begin as the embeddings of these tokens, repeated as often as needed."""
    table: Any = model.module.get_submodule(model.anatomy.embeddings)
    learnt_PD: Tensor = model.peft.prompt_encoder[ADAPTER].embedding.weight
    chosen = [ids[place % len(ids)] for place in range(len(learnt_PD))]
    with torch.no_grad():
        learnt_PD.copy_(table(torch.tensor(chosen, device=learnt_PD.device)))


def _reader(model: Model) -> Any:
    """The innermost module that takes ids and holds the layers; some heads call it directly."""
    name = model.anatomy.layers[0].name.rpartition(".")[0]
    while True:
        name = name.rpartition(".")[0]
        module = model.module.get_submodule(name)
        if "input_ids" in inspect.signature(module.forward).parameters:
            return module


@contextmanager
def _switched_off(model: Model) -> Iterator[None]:
    """What PEFT's wrappers do for adapters in layers, and leave out for classifiers here."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    copies = [m for m in model.module.modules() if isinstance(m, AuxiliaryTrainingWrapper)]
    model.peft._adapters_disabled = True
    for copy in copies:
        copy.enable_adapters(False)
    try:
        yield
    finally:
        model.peft._adapters_disabled = False
        for copy in copies:
            copy.enable_adapters(True)


def _reading(model: Model, virtual: Virtual, stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `forward` that reads the virtual tokens before what it is given."""
    names = list(inspect.signature(stock).parameters)
    attends = model.module.config._attn_implementation  # type: ignore[union-attr]
    of_text = HEADS[model.head].problem is not None
    reads_first = model.anatomy.kind == "encoder" and of_text

    @functools.wraps(stock)
    def forward(*args: Any, **given: Any) -> Any:
        given |= dict(zip(names, args, strict=False))
        if model.peft._adapters_disabled:
            return stock(**given)
        if model.module.config._attn_implementation != attends:  # type: ignore[union-attr]
            raise ValueError("virtual tokens are read before one text a row, not in a packed row")
        ids_NL, past = given.pop("input_ids"), given.get("past_key_values")
        given.pop("inputs_embeds", None)
        if past is not None and past.get_seq_length() > 0:  # they are in the cache
            return stock(input_ids=ids_NL, **_behind(given, virtual.tokens))
        if virtual.cached:
            given["past_key_values"] = _filled(past, model.peft.get_prompt(len(ids_NL)))
            return stock(input_ids=ids_NL, **_behind(given, virtual.tokens))
        text_NLD = model.module.get_submodule(model.anatomy.embeddings)(ids_NL)
        learnt_NPD = model.peft.get_prompt(len(ids_NL)).to(text_NLD.dtype)
        embeds = torch.cat([learnt_NPD, text_NLD], dim=1)
        outputs = stock(inputs_embeds=embeds, **_before(given, virtual.tokens))
        return _text_rows(outputs, virtual.tokens, reads_first)

    return forward


def _behind(given: dict[str, Any], count: int) -> dict[str, Any]:
    """The arguments of a text whose virtual tokens are in the cache."""
    changed = dict(given)
    if given.get("attention_mask") is not None:
        changed["attention_mask"] = _widened(given["attention_mask"], count)
    if given.get("position_ids") is not None:
        changed["position_ids"] = given["position_ids"] + count
    return changed


def _before(given: dict[str, Any], count: int) -> dict[str, Any]:
    """The arguments of a text whose virtual tokens are read with it."""
    changed = _behind(given, count)
    positions = changed.get("position_ids")
    if positions is not None:
        # RoBERTa's positions do not begin at 0; padding before a text repeats the first one.
        first = int(given["position_ids"].min())
        virtual_1P = torch.arange(first, first + count, device=positions.device)[None]
        rows = virtual_1P.expand(len(positions), -1)
        changed["position_ids"] = torch.cat([rows, positions], dim=1)
    if given.get("token_type_ids") is not None:
        kinds = given["token_type_ids"]
        changed["token_type_ids"] = torch.cat([kinds.new_zeros(len(kinds), count), kinds], dim=1)
    return changed


def _widened(mask: Tensor, count: int) -> Tensor:
    if mask.ndim != 2:
        raise ValueError("virtual tokens need a mask with a row for each text")
    return torch.cat([mask.new_ones(len(mask), count), mask], dim=1)


def _filled(past: Any, learnt: Any) -> Any:
    """The learnt keys and values, in the cache that is given where one is."""
    if past is None:
        return learnt
    for number, layer in enumerate(learnt.layers):
        past.update(layer.keys, layer.values, number)
    return past


def _text_rows(outputs: Any, count: int, reads_first: bool) -> Any:
    """Cut the rows of the virtual tokens off the hidden states.

    An encoder's head reads the first row. With PEFT that is the first virtual token's, so that one
    stands for the text's first.
    """
    hidden: Tensor = outputs[0]
    text = hidden[:, count:]
    if reads_first:
        text = torch.cat([hidden[:, :1], text[:, 1:]], dim=1)
    if isinstance(outputs, tuple):
        return (text, *outputs[1:])
    outputs["last_hidden_state"] = text
    return outputs


def _of_peft(model: Model, ids_1T: Tensor) -> Tensor:
    """What PEFT's own class says of the text, without the rows of the virtual tokens."""
    try:
        return _said(model.peft, ids_1T)[..., -ids_1T.shape[1] :, :]
    except Exception as error:  # architectures fail on it in whatever way they do
        raise _unreadable(model, str(error).splitlines()[0] if str(error) else "") from error


@torch.no_grad()
def _said(module: Any, ids_1T: Tensor) -> Tensor:
    """What the head says: `[1, C]` of a whole text, `[1, T, C]` of each token."""
    was_training = module.training
    module.eval()
    try:
        outputs = module(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T))
    finally:
        module.train(was_training)
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float()
    logits: Tensor = outputs.logits
    return logits.float()


def _unreadable(model: Model, reason: str) -> RecipeError:
    return RecipeError(
        f"The family {model.anatomy.family} cannot read such virtual tokens: "
        f"{reason.rstrip(' .')}.",
        where="technique",
        fix="Choose an adapter such as lora.",
    )


def _made_up(model: Model) -> Tensor:
    low = min(10, model.anatomy.vocab_size // 2)
    device = next(model.module.parameters()).device
    return torch.arange(low, min(low + 5, model.anatomy.vocab_size), device=device)[None]
