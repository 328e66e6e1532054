"""A model's shape: its modules, whose weights have sizes and formats but no numbers.

    config.json ──skeleton──> modules without data ──shaped──> modules that compute zeros

What is computed with such a weight is zeros of the right shape, so that a forward pass shows what a
real one would keep, and takes the memory of its activations alone. It is for planning: nothing is
learnt from zeros. Where the folder has no tokenizer either, one stands in that cuts texts into
pieces of four characters, about as many as a usual tokenizer makes of English.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from tunesmith.models.anatomy import Anatomy
    from tunesmith.models.quantised import Quantised

_PIECE = 4
_SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<cls>", "<sep>", "<mask>")
_numbers = count(1)


class _Place:
    """Stands for the memory that a weight would lie in."""

    def __init__(self, nbytes: int) -> None:
        self._number, self._nbytes = next(_numbers), nbytes

    def data_ptr(self) -> int:
        return -self._number

    def nbytes(self) -> int:
        return self._nbytes


class Shaped(Tensor):
    """A tensor without numbers; results that take part in real ones are zeros.

    `place` is the memory that it would lie in; views share it.
    """

    place: _Place
    # Results keep the types that they are given below.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(like: Tensor, place: _Place | None = None) -> Shaped:
        """Return one of the shape and format of `like`."""
        data = torch.zeros((), dtype=like.dtype).expand(like.shape)
        made: Shaped = torch.Tensor._make_subclass(Shaped, data)
        made.place = place or _Place(like.numel() * like.itemsize)
        return made

    @property
    def data(self) -> Tensor:
        """The same without a gradient; what is set here brings its place along."""
        found: Tensor = Tensor.data.__get__(self)  # type: ignore[attr-defined]
        if isinstance(found, Shaped):
            found.place = self.untyped_storage()
        return found

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        if isinstance(value, Shaped):
            self.place = value.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made: Tensor = Shaped.of(self)
        copied = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        memo[id(self)] = copied
        return copied

    def untyped_storage(self) -> Any:
        """The memory that it would lie in."""
        if not hasattr(self, "place"):  # as `data` gives it
            self.place = _Place(self.numel() * self.itemsize)
        return self.place

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = [a for a in tree_leaves((args, kwargs)) if _is_tensor(a)]
        only_shapes = all(isinstance(a, Shaped) for a in given)
        if func._schema.is_mutable:
            return args[0]
        metas, options = tree_map(_as_meta, (args, kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # also of what is asked whether it is finite
        found = func(*metas, **options)
        views = any(returned.alias_info is not None for returned in func._schema.returns)
        owner = next(a for a in given if isinstance(a, Shaped))

        def made(value: Any) -> Any:
            if not _is_tensor(value):
                return value
            if not only_shapes:
                return torch.zeros(value.shape, dtype=value.dtype)
            return cls.of(value, getattr(owner, "place", None) if views else None)

        return tree_map(made, found)


class PackedLinear(nn.Linear):
    """A linear map that would be stored quantised, so that no fast form takes it."""


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _as_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not _is_tensor(value):
        return value
    if isinstance(value, Shaped):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    return value.to("meta")


def shaped(
    module: nn.Module, anatomy: Anatomy, dtype: torch.dtype, quantised: Quantised | None
) -> nn.Module:
    """Give a module without data weights without numbers, in place; return it.

    Matrices stay without numbers; vectors and buffers are small, and become real zeros.

    Args:
        dtype: the format of its weights.
        quantised: how the linear maps of the layers would be stored, where not in `dtype`.
    """
    maps = {f"{name}.weight" for layer in anatomy.layers for name in layer.linears}
    wide = dtype if quantised is None else torch.float32
    made: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for owner_name, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            is_map = f"{owner_name}.{name}" in maps
            like = torch.empty(parameter.shape, dtype=dtype if is_map else wide, device="meta")
            if id(parameter) not in made:
                place = _packed(parameter, owner, quantised) if quantised and is_map else None
                data = (
                    Shaped.of(like, place)
                    if parameter.ndim > 1
                    else torch.zeros_like(like, device="cpu")
                )
                made[id(parameter)] = nn.Parameter(data, requires_grad=parameter.requires_grad)
            setattr(owner, name, made[id(parameter)])
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    return module


def _packed(parameter: Tensor, owner: nn.Module, quantised: Quantised) -> _Place:
    """Mark a linear map as one that is stored quantised; return the memory of its weights."""
    if type(owner) is nn.Linear:
        owner.__class__ = PackedLinear
    rows = parameter.shape[1 if isinstance(owner, Conv1D) else 0]
    return _Place(quantised.bytes_of(parameter.numel(), rows))


def stand_in_tokenizer(config: dict[str, Any]) -> Any:
    """Return a tokenizer whose tokens are four characters each, whatever they are."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(_SPECIAL)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{_PIECE}}}"), "isolated")
    names = ("unk", "pad", "bos", "eos", "cls", "sep", "mask")
    tokens = {f"{name}_token": token for name, token in zip(names, _SPECIAL, strict=True)}
    length = config.get("max_position_embeddings") or 2**20
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=length, **tokens)
