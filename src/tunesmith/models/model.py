"""A loaded model: the transformers module with the task's head on it, and what is known of it.

transformers' module *owns* parameters and names. With adapters, PEFT injects its layers into that
same module, so `module` stays the thing to call and `peft` is the wrapper that saves and switches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunesmith.models.heads import HeadName, Pooling, head_of
from tunesmith.models.quantised import parameter_count

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunesmith.models.anatomy.anatomy import Anatomy
    from tunesmith.models.quantised import Quantised
    from tunesmith.models.resolve import Resolved
    from tunesmith.models.streamed import Streamed


@dataclass(frozen=True)
class Virtual:
    """Virtual tokens: places before every text that hold no text but what was learnt.

    Attributes:
        tokens: how many.
        cached: whether they are keys and values of each layer, not vectors that are read.
    """

    tokens: int
    cached: bool


@dataclass
class Model:
    """A model in memory.

    Attributes:
        module: the transformers model (or a body with a head of ours, for features).
        tokenizer: its tokenizer, with the chat template that trains and serves.
        anatomy: what is where in it.
        source: the files that it came from, and their fingerprint.
        peft: the PEFT wrapper, once a technique has added adapters.
        new_head: its head was new when it was loaded, and knows nothing yet.
        surgery: what was changed of it before it learns, a sentence for each operation.
        pooling: what of a text is its vector, where the model gives vectors.
        virtual: what the body reads before each text, where a technique has put something there.
        fixed: parameters that the family computes, and so neither learns nor saves (sinusoidal
            positions).
        quantised: how the linear maps of its layers are stored, where they were quantised at load.
        streamed: its layers on disk, where they are read one at a time.
        members: where several tasks learn at once, the model of each: this one, or another head on
            this one's body.
        parameters: how many there were when it was loaded, the task's head among them: those that
            a technique adds (adapters) are not counted.
    """

    module: nn.Module
    tokenizer: Any
    anatomy: Anatomy
    source: Resolved
    peft: Any = None
    pooling: Pooling | None = None
    virtual: Virtual | None = None
    surgery: tuple[str, ...] = ()
    new_head: bool = False
    quantised: Quantised | None = None
    streamed: Streamed | None = None
    members: dict[str, Model] = field(default_factory=dict, repr=False)
    fixed: tuple[str, ...] = field(init=False)
    parameters: int = field(init=False)

    def __post_init__(self) -> None:
        unsaved = getattr(self.module, "_keys_to_ignore_on_save", None) or ()
        self.fixed = tuple(name for name, _ in self.module.named_parameters() if name in unsaved)
        self.parameters = parameter_count(self.module)

    def of(self, member: str) -> Model:
        """Return the model of a member; this one where there are none."""
        return self.members[member] if member else self

    @property
    def modules(self) -> list[nn.Module]:
        """Every module that is called: one for each head."""
        found = {id(model.module): model.module for model in (self, *self.members.values())}
        return list(found.values())

    @property
    def head(self) -> HeadName:
        """Which head it has: a name of `heads.HEADS`."""
        return head_of(self.module)

    @property
    def body(self) -> nn.Module:
        """The part that turns token ids into hidden states, without any head."""
        return self.module.get_submodule(self.anatomy.body)

    def hidden(self, ids_1T: Tensor) -> Tensor:
        """Return the stock body's last hidden states of one text, `hidden_TD`.

        An encoder-decoder reads it as source and as target alike.
        """
        if self.anatomy.encoder is None or self.anatomy.decoder is None:
            hidden_TD: Tensor = self.body(input_ids=ids_1T)[0][0]
            return hidden_TD
        read_1TD = self.module.get_submodule(self.anatomy.encoder)(input_ids=ids_1T)[0]
        decoder = self.module.get_submodule(self.anatomy.decoder)
        written_TD: Tensor = decoder(
            input_ids=ids_1T, encoder_hidden_states=read_1TD, use_cache=False
        )[0][0]
        return written_TD

    @property
    def output_weight_VD(self) -> Tensor:
        """Weight of the layer that turns hidden states into logits over the vocabulary.

        Where PEFT lets single rows learn, they are in their places, as long as they are in use.
        """
        output: Any = self.module.get_submodule(self.anatomy.output or "")
        apart: Any = getattr(output, "token_adapter", None)
        in_use = apart is not None and not apart.disable_adapters
        weight: Tensor = (
            apart.get_merged_weights(apart.active_adapters) if in_use else output.weight
        )
        return weight
