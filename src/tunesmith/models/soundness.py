"""Checks on a model that was just loaded: all of it there, and all of it numbers.

What transformers would say in a warning, and then go on with random weights, is an error here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import ModelError, first_line
from tunesmith.models import quantised
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.heads import HEADS, own_outputs, pool_documents, token_outputs
from tunesmith.models.model import Model
from tunesmith.models.packed_maps import (
    expanded_weight,
    form_of,
    is_packed,
    is_wrapped,
    unwrapped,
)
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
            fix="Choose the original model (`base: {quantize: nf4}` stores it in 4 bits), or a "
            ".gguf file, which is expanded once.",
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
    if again or quantised.extra_of(method) is None:
        check_unquantised(source, config)
    quantised.check_installed(method, str(source.path))


def check_packed(source: Resolved, module: nn.Module, anatomy: Anatomy) -> None:
    """Weights that are stored packed must be those of the layers' maps, and of a form known here.

    Raises:
        ModelError: another weight is, or the form cannot be expanded on this device.
    """
    within = {name for layer in anatomy.layers for name in layer.linears}
    maps = {name: part for name, part in module.named_modules() if is_packed(part)}
    others = [n.rpartition(".")[0] for n, p in module.named_parameters() if is_wrapped(p)]
    outside = next((name for name in (*maps, *others) if name not in within), None)
    instead = "Choose the original model with `base: {quantize: nf4}`, or a checkpoint "
    if outside is not None:
        raise ModelError(
            f"{source.name} stores {outside} quantised, too; here only the linear maps of the"
            " layers may be.",
            where=str(source.path),
            fix=f"{instead}that keeps embeddings and the vocabulary layer as they are.",
        )
    for name, part in {_stored(part): (n, part) for n, part in maps.items()}.values():
        try:
            expanded_weight(part, torch.float32)
        except Exception as error:  # what torchao cannot do, it says in errors of many kinds
            raise ModelError(
                f"The weights of {source.name} are stored in a form ({form_of(part)} of {name})"
                f" that cannot be computed with on this device: {first_line(error)}",
                where=str(source.path),
                fix=f"{instead}in 8 bits.",
            ) from error


def _stored(part: nn.Module) -> tuple[str, int]:
    """The form of a packed map, and its bits where the form has several."""
    return form_of(part), int(getattr(part, "bits", 0))


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
        if layers is not None and layers.holds(parameter):
            continue
        if not all(map(_is_finite, unwrapped(parameter))):
            raise _not_finite(source, name)
    for name, part in module.named_modules():
        if is_packed(part) and not all(_is_finite(scale) for scale in part.buffers()):
            raise _not_finite(source, name)


def _is_finite(tensor: Tensor) -> bool:
    eight_bits = tensor.is_floating_point() and tensor.itemsize == 1  # PyTorch asks these nothing
    return bool(torch.isfinite(tensor.float() if eight_bits else tensor).all())


def _not_finite(source: Resolved, name: str) -> ModelError:
    return ModelError(
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
