"""Checks on a model that was just loaded: all of it there, and all of it numbers.

What transformers would say in a warning, and then go on with random weights, is an error here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ModelError
from tunesmith.models import quantised
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.heads import HEADS, own_outputs, pool_documents, token_outputs
from tunesmith.models.model import Model
from tunesmith.models.resolve import Resolved
from tunesmith.models.streamed import Streamed


def check_unquantised(source: Resolved, config: dict[str, Any]) -> None:
    """Refuse weights that are stored quantised.

    Raises:
        ModelError: they are.
    """
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        raise ModelError(
            f"The weights of {source.name} are quantised ({method}).",
            where=str(source.path),
            fix="Choose the original model, or a .gguf file, which is expanded once.",
        )


def check_readable(source: Resolved, config: dict[str, Any], *, again: bool) -> None:
    """Refuse weights that are stored quantised where nothing here reads them.

    Args:
        again: whether they are to be quantised at load.

    Raises:
        ModelError: by a method that is not known, or whose reader is not installed; or twice.
    """
    method = quantised.stored_as(config)
    if method is None:
        return
    if again or not quantised.is_readable(method):
        check_unquantised(source, config)
    quantised.check_installed(method, str(source.path))


def check_complete(source: Resolved, missing: Collection[str], fresh: Collection[str]) -> None:
    """Every parameter must come from the files, but those of new parts.

    Args:
        missing: parameters that the files do not hold, or hold in another shape.
        fresh: modules that may be new.

    Raises:
        ModelError: a pre-trained weight is missing.
    """
    new = tuple(f"{part}." for part in fresh)
    lost = sorted(key for key in missing if not key.startswith(new))
    if lost:
        raise ModelError(
            f"{len(lost)} weights of {source.name} are missing or of another shape than its "
            f"configuration says, such as {lost[0]}.",
            where=str(source.path),
            fix="Fetch or save the model again.",
        )


def check_no_surplus(source: Resolved, anatomy: Anatomy, unexpected: Iterable[str]) -> None:
    """The files must not hold layers that the configuration does not have.

    Raises:
        ModelError: they do, so weights and configuration do not belong together.
    """
    keys = sorted(unexpected)
    for holder, count in Counter(x.name.rpartition(".")[0] for x in anatomy.layers).items():
        inner = re.escape(holder.removeprefix(f"{anatomy.body}."))
        numbered = re.compile(rf"(?:^|\.){inner}\.(\d+)\.")
        for key in keys:
            layer = numbered.search(key)
            if layer and int(layer.group(1)) >= count:
                raise ModelError(
                    f"The weights of {source.name} hold more layers than its configuration, which "
                    f"says {count}: {key}, for example.",
                    where=str(source.path),
                    fix="Fetch or save the model again.",
                )


def check_finite(source: Resolved, module: nn.Module, layers: Streamed | None = None) -> None:
    """Every weight must be a finite number.

    Args:
        layers: those that lie on disk, and were looked at when they were put there.

    Raises:
        ModelError: one is not.
    """
    for name, parameter in module.named_parameters():
        if quantised.is_wrapped(parameter) or (layers is not None and layers.holds(parameter)):
            continue
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"The weights of {source.name} are not all finite numbers: {name}.",
                where=str(source.path),
                fix="Fetch the model again, or choose another precision or model.",
            )


def check_vocabulary(model: Model) -> None:
    """The model must have an embedding for each token of its tokenizer.

    Raises:
        ModelError: it has fewer.
    """
    if len(model.tokenizer) > model.anatomy.vocab_size:
        raise ModelError(
            f"The tokenizer of {model.source.name} has {len(model.tokenizer)} tokens, the model "
            f"only {model.anatomy.vocab_size}.",
            where=str(model.source.path),
            fix="Tokenizer and weights do not belong together: fetch or save them again.",
        )


def check_head(model: Model) -> None:
    """Our head must give what the family's own class gives, tried on one made-up document.

    Raises:
        ModelError: the head of this family is not known here.
    """
    module: Any = model.module
    padding = module.config.get_text_config().pad_token_id
    special = {*model.tokenizer.all_special_ids, padding}
    plain = (i for i in range(model.anatomy.vocab_size) if i not in special)
    ids_1T = torch.tensor(
        [[next(plain) for _ in range(5)]], device=next(module.parameters()).device
    )
    with torch.no_grad():
        stock = own_outputs(model.module, input_ids=ids_1T).float()
        hidden_TD = model.hidden(ids_1T)
        if HEADS[model.head].of_tokens:
            ours = token_outputs(model, hidden_TD)[None]
        else:
            ours = pool_documents(model, hidden_TD, torch.tensor([0, 5]))
    if not torch.allclose(stock, ours, rtol=2e-2, atol=2e-2):
        raise ModelError(
            f"The {model.head} head of the family {model.anatomy.family} is not known here.",
            fix="Choose another encoder, such as minilm-l6, or a decoder.",
        )
